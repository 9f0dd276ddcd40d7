"""A function arrives as it was identified, whatever the other process has, and nothing of it stays connected."""

from __future__ import annotations

import sys
import threading
import traceback
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pytest
from distributions import BUILT_HERE, install
from user_code import HELPER, cases, function_of, in_other_process, write

from higgsnb.errors import SelectionError
from higgsnb.selection import captured_digest, check_unchanged, identify, pack, unpack
from higgsnb.selection.identity import unpack_once

CALL = """
import sys
from pathlib import Path
from higgsnb.selection import captured_digest, check_unchanged, unpack
function = unpack(Path({file!r}).read_bytes())
before = captured_digest(function)
print(function(21.0))
check_unchanged(function, before)
print(function(21.0), "analysis" in sys.modules, {check})
"""


def sent(function: Any, folder: Path) -> str:
    """The path of a file with the packed function."""
    path = folder / "function"
    path.write_bytes(pack(function))
    return str(path)


def test_function_arrives_where_nothing_of_it_is_known(tmp_path: Path) -> None:
    function = function_of(write(tmp_path / "client"))
    code = CALL.format(file=sent(function, tmp_path), check="'helper' in sys.modules")
    first, second = in_other_process(code, cwd=tmp_path).splitlines()
    assert first == repr(function(21.0))
    assert second == f"{first} False False"


def test_other_version_of_a_module_there_is_not_used(tmp_path: Path) -> None:
    function = function_of(write(tmp_path / "client"))
    write(tmp_path / "worker", "def zmumu(x): return 'other'", HELPER.replace("return x + OFFSET", "return 0"))
    check = "__import__('helper').corrected(21.0), __import__('helper').shifted(1)"
    code = CALL.format(file=sent(function, tmp_path), check=check)
    first, second = in_other_process(code, folders=(tmp_path / "worker",)).splitlines()
    assert first == repr(function(21.0))
    assert second == f"{first} False -1 0"


def test_what_changes_here_afterwards_does_not_reach_it(tmp_path: Path) -> None:
    function = function_of(write(tmp_path))
    expected, arrived = function(21.0), unpack(pack(function))
    assert arrived(21.0) == expected
    home = function.__globals__
    home["CUT"], home["helper"].OFFSET, home["Window"].low, home["WINDOW"].high = 1e9, 0, 500, 0
    home["TABLE"][:] = 0
    home["helper"].cuts["pt"] = 0
    home["helper"].corrected = None
    assert arrived(21.0) == expected


def test_old_bytes_do_not_change_a_class_here(tmp_path: Path) -> None:
    """cloudpickle alone would give back this very class, and set its attributes to their old values."""
    function = function_of(write(tmp_path))
    old = pack(function)
    window = function.__globals__["Window"]
    window.low = 90
    arrived = unpack(old)
    assert window.low == 90
    assert arrived.__globals__["WINDOW"].low == 60
    assert type(arrived.__globals__["WINDOW"]) is not window
    assert type(unpack(old).__globals__["WINDOW"]) is not type(arrived.__globals__["WINDOW"])


def test_compiled_function_is_compiled_anew_with_the_values_that_were_sent(tmp_path: Path) -> None:
    """A compiled function keeps the globals of its first call; numba alone would give back this very function."""
    code = "import numba\nCUT = 1.0\n@numba.njit\ndef g(x): return x + CUT\ndef f(x): return g(x)\n"
    function = function_of(write(tmp_path, code), "f")
    assert function(1.0) == 2.0
    function.__globals__["CUT"] = 5.0
    assert function(1.0) == 2.0
    arrived = unpack(pack(function))
    assert arrived(1.0) == 6.0
    assert arrived.__globals__["g"] is not function.__globals__["g"]


def test_function_is_compiled_once_in_a_process_unless_it_changes(tmp_path: Path) -> None:
    code = "import numba\nTABLE = [1.0]\n@numba.njit\ndef g(x): return x + 1\ndef f(x): return g(x) + TABLE[0]\n"
    data = pack(function_of(write(tmp_path, code), "f"))
    first = unpack_once(data)
    assert first(1.0) == 3.0
    again = unpack_once(bytes(bytearray(data)))
    assert again is first
    assert again.__globals__["g"].signatures
    first.__globals__["TABLE"][0] = 100.0
    anew = unpack_once(data)
    assert (first(1.0), anew(1.0)) == (102.0, 3.0)
    assert unpack_once(data) is anew


def test_only_the_last_functions_are_kept(tmp_path: Path) -> None:
    sent = [pack(function_of(write(tmp_path, f"def f(x): return x + {i}\n"), "f")) for i in range(10)]
    made = [unpack_once(data) for data in sent]
    assert [one(0) for one in made] == list(range(10))
    assert [unpack_once(data) is one for data, one in zip(sent[:1:-1], made[:1:-1], strict=True)] == [True] * 8
    assert unpack_once(sent[0]) is not made[0]


def test_error_there_names_file_and_line(tmp_path: Path) -> None:
    function = function_of(write(tmp_path, "def g(x):\n    return 1 / x\n\n\ndef f(x):\n    return g(x - x)\n"), "f")
    arrived = unpack(pack(function))
    with pytest.raises(ZeroDivisionError) as caught:
        arrived(1)
    frames = traceback.extract_tb(caught.value.__traceback__)[-2:]
    found = [(Path(one.filename).name, one.lineno, one.name) for one in frames]
    assert found == [("analysis.py", 6, "f"), ("analysis.py", 2, "g")]


def test_only_what_is_used_of_a_module_is_sent(tmp_path: Path) -> None:
    helper = (
        HELPER + "\nimport numpy as np\nimport threading\n\nlarge = np.zeros(10_000_000)\nlock = threading.Lock()\n"
    )
    assert len(pack(function_of(write(tmp_path, helper=helper)))) < 100_000


def test_object_with_functions_in_it_is_sent(tmp_path: Path) -> None:
    function = function_of(write(tmp_path))
    table = {"functions": [function, function.__globals__["passes"]], "cut": 3}
    arrived = unpack(pack(table))
    assert arrived["functions"][0](21.0) == function(21.0)
    assert identify(table).digest != identify({**table, "cut": 4}).digest


def test_functions_that_use_each_other_in_a_long_chain_are_sent(tmp_path: Path) -> None:
    lines = [f"def f{number}(x): return f{number + 1}(x) + K" for number in range(600)]
    code = "\n".join(["K = 2", *lines, "def f600(x): return f0(x - 1) if x > 0 else x", ""])
    function = function_of(write(tmp_path, code), "f0")
    arrived, limit = unpack(pack(function)), sys.getrecursionlimit()
    sys.setrecursionlimit(5000)
    try:
        assert arrived(1) == function(1) == 2400
    finally:
        sys.setrecursionlimit(limit)


TRAVELLING = dict(cases('''
### slots
class A:
    __slots__ = ("a", "b")
    def __init__(self): self.a, self.b = 1, [2]
a = A()
def f(x): return a.a + a.b[0], hasattr(a, "__dict__")
### dataclass with slots
import dataclasses
@dataclasses.dataclass(slots=True, frozen=True)
class A:
    a: int = 1
    b: list = dataclasses.field(default_factory=list)
a = A()
def f(x): return a, [field.name for field in dataclasses.fields(a)], dataclasses.replace(a, a=2)
### named tuples
import collections, typing
class P(typing.NamedTuple):
    a: int
    b: int = 2
Q = collections.namedtuple("Q", "x y")
q = Q(1, 2)
def f(x): return P(x).b + q.x, P._fields
### enums
import enum
K = 3
class Kind(enum.Enum):
    A = 1
    B = [1]
    def label(self): return self.name + str(K)
class Bits(enum.Flag):
    X = 1
    Y = 2
class Number(enum.IntEnum):
    P = 5
MAP = {Kind.A: 3, Bits.X | Bits.Y: 4}
def f(x): return MAP[Kind.A], MAP[Bits.X | Bits.Y], Number.P + 1, Kind.B.label(), Kind(1) is Kind.A
### super and class cells
class B:
    def g(self, x): return x + 1
class A(B):
    def g(self, x): return super().g(x) * 2
a = A()
def f(x): return a.g(x), isinstance(a, B)
### metaclass and descriptor
class M(type):
    def __new__(meta, name, bases, space):
        cls = super().__new__(meta, name, bases, space)
        cls.tag = name
        return cls
class D:
    def __set_name__(self, owner, name): self.name = name
    def __get__(self, instance, owner=None): return self.name
class A(metaclass=M):
    d = D()
a = A()
def f(x): return a.tag, a.d
### protocol, abstract class, generic class
import abc, typing
T = typing.TypeVar("T")
class Reader(typing.Protocol):
    def read(self): ...
class Base(abc.ABC):
    @abc.abstractmethod
    def read(self): ...
class A(Base, typing.Generic[T]):
    def read(self) -> T: return 1
a = A()
def f(x): return a.read(), isinstance(a, Base)
### static, class and cached members
import functools
class A:
    k = 2
    @staticmethod
    def s(x): return x
    @classmethod
    def c(cls, x): return cls.k * x
    @property
    def p(self): return self.k
    @functools.cached_property
    def q(self): return self.k + 1
    @functools.singledispatchmethod
    def m(self, x): return "any"
    @m.register
    def _(self, x: float): return "float"
    @functools.lru_cache
    def l(self, x): return x
a = A()
def f(x): return a.s(x), a.c(x), a.p, a.q, a.q, a.m(x), a.m("x"), a.l(x), functools.partial(a.c, 3)()
### bound method
class A:
    def __init__(self): self.k = 2
    def g(self, x): return self.k * x
f = A().g
### partial
import functools
def g(a, b, *, c): return a, b, c
f = functools.partial(g, 1, c=[2])
### decorators
import contextlib, functools
K = 3
@contextlib.contextmanager
def context(k): yield k * K
def outer(k):
    def decorate(function):
        @functools.wraps(function)
        def wrapper(*arguments):
            with context(k) as value: return function(*arguments), value
        return wrapper
    return decorate
@outer(2)
def f(x): return x
### body of a class
CUT = 3
def f(x):
    class A: c = CUT
    return A.c
### name in a module with __getattr__
import helper
def f(x): return helper.anything
### modules that import each other
import helper
K = 4
def f(x): return helper.back(x)
### annotations that could not be sent
import threading
LOCK = threading.Lock()
class A:
    a: LOCK = 1
def f(x: LOCK): return A.a
### own exception
class OwnError(ValueError): pass
def f(x):
    try: raise OwnError("a")
    except ValueError as error: return str(error)
### compiled with signatures
import numba, numpy as np
K = 2.0
@numba.njit("float64(float64)")
def g(x): return x * K
@numba.vectorize(["float64(float64)"])
def v(x): return g(x) + 1
@numba.guvectorize(["void(float64[:], float64[:])"], "(n)->()")
def s(x, out): out[0] = x.sum()
@numba.njit
def even(n): return True if n == 0 else odd(n - 1)
@numba.njit
def odd(n): return False if n == 0 else even(n - 1)
def f(x): return g(x), v(x), float(s(np.ones(3))), v(np.ones(2)).tolist()
### compiled with names of a module and of an enclosing function
import numba
import helper
def make(k):
    @numba.njit
    def g(x): return x * k + helper.OFFSET
    return g
g = make(3.0)
def f(x): return g(x)
### object that takes any attribute for a key
class Config(dict):
    __getattr__ = dict.__getitem__
config = Config(pt=20, inner=Config(eta=2.4))
def f(x): return config.pt + config.inner.eta
### subclasses of built-in types
class Text(str): unit = "GeV"
class Numbers(list): pass
text, numbers = Text("pt"), Numbers([1, 2])
numbers.label = "two"
def f(x): return text + text.unit, numbers, numbers.label, type(numbers).__name__
### values of all kinds
import array, collections, datetime, decimal, fractions, pathlib, re, types, uuid, zoneinfo
A = [
    datetime.date(2012, 7, 4), decimal.Decimal("1.2"), fractions.Fraction(1, 3), pathlib.Path("a/b"), uuid.UUID(int=3),
    zoneinfo.ZoneInfo("UTC"), collections.OrderedDict(a=1), collections.defaultdict(list, {1: [2]}), bytearray(b"a"),
    collections.Counter("aab"), collections.deque([1, 2], 5), types.SimpleNamespace(a=1), re.compile("a+", re.I),
    types.MappingProxyType({"a": 1}), array.array("d", [1.0]), range(3), slice(1, 2), 1 + 2j, b"x", Ellipsis, int,
    list[int], int | None, -0.0,
]
def f(x): return A
### arrays
import awkward as ak, hist, numpy as np
A = [
    np.arange(3.0), np.zeros((2, 0)), np.array(3), np.array([1, "a"], object), np.ma.array([1, 2], mask=[0, 1]),
    np.float32(3), ak.Array([[1, 2], []]), hist.axis.Regular(3, 0, 1), hist.Hist.new.Reg(3, 0, 1).Int64(),
    np.vectorize(abs), np.dtype("f4"),
]
def f(x): return [str(a)[:40] for a in A[:-2]]
### what contains itself
L = [1]
L.append(L)
S = set()
def f(x): return len(L), L[1] is L, f in S
S.add(f)
''')) | {
    "self in closure": "def make():\n    def f(x): return f(x - 1) if x > 0 else 5\n    return f\nf = make()\n",
    "lambdas": "FS = [lambda x, i=i: x * i for i in range(3)]\nf = lambda x: [g(x) for g in FS]\n",
}  # fmt: skip
HELPERS = {
    "name in a module with __getattr__": "def __getattr__(name):\n    return name\n",
    "modules that import each other": "import analysis\ndef back(x): return x + analysis.K\n",
}


@pytest.mark.parametrize("name", TRAVELLING)
def test_what_arrives_does_the_same(name: str, tmp_path: Path) -> None:
    function = function_of(write(tmp_path, TRAVELLING[name], HELPERS.get(name, HELPER)), "f")
    digest, arrived = identify(function).digest, unpack(pack(function))
    before = captured_digest(arrived)
    assert repr(arrived(4.0)) == repr(function(4.0))
    check_unchanged(arrived, before)
    assert identify(function).digest == digest


LISTING = """
class Base:
    known = []
    def __init_subclass__(cls): Base.known.append(cls)
class A(Base): pass
def f(x): return A()
"""
RAISING = """
def make(): raise ValueError("no such thing")
class A:
    def __reduce__(self): return make, ()
a = A()
def f(x): return a
"""


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (LISTING, "Base.known would not arrive as it is"),  # the class lists itself once more when it arrives
        (RAISING, "no such thing"),
    ],
)
def test_what_would_not_arrive_as_it_is_is_refused(code: str, reason: str, tmp_path: Path) -> None:
    with pytest.raises(SelectionError, match=f"cannot send f to workers: {reason}"):
        pack(function_of(write(tmp_path, code), "f"))


def test_registry_of_cloudpickle_is_as_before(tmp_path: Path) -> None:
    function = function_of(write(tmp_path))
    module = sys.modules["user_code"]
    cloudpickle.register_pickle_by_value(module)
    try:
        before = cloudpickle.list_registry_pickle_by_value()
        pack(function)
        with pytest.raises(SelectionError, match="no such thing"):
            pack(function_of(write(tmp_path / "raising", RAISING), "f"))
        assert cloudpickle.list_registry_pickle_by_value() == before == {"user_code"}
    finally:
        cloudpickle.unregister_pickle_by_value(module)


def test_threads_pack_at_the_same_time(tmp_path: Path) -> None:
    helpers = [HELPER.replace("OFFSET = 7", f"OFFSET = {number}") for number in range(6)]
    functions = [function_of(write(tmp_path / str(n), helper=helper)) for n, helper in enumerate(helpers)]
    expected, found = [function(21.0) for function in functions], {}

    def work(number: int) -> None:
        for _ in range(3):
            found[number] = unpack(pack(functions[number]))(21.0)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[number] for number in range(6)] == expected
    assert cloudpickle.list_registry_pickle_by_value() == set()


# --- Libraries --------------------------------------------------------------------------------------


USER = "from toylib import scale\n\n\ndef f(x):\n    return scale(x)\n"
PACK = """
from pathlib import Path
from higgsnb.selection import identify, load_from_file, pack
function = load_from_file({place!r}, object)
Path({out!r}).write_bytes(pack(function))
found = identify(function)
print(found.digest, found.libraries["toylib"], found.modules)
"""
UNPACK = """
from pathlib import Path
from higgsnb.errors import VersionError
from higgsnb.selection import unpack
try:
    print(unpack(Path({out!r}).read_bytes())(2))
except VersionError as error:
    print(error.message)
"""


def test_other_version_of_a_library_is_refused_and_its_code_not_sent(tmp_path: Path) -> None:
    path, out = write(tmp_path, USER), str(tmp_path / "out")
    here = install(tmp_path / "here", "def scale(x): return 2 * x")
    same = install(tmp_path / "same", "def scale(x): return 3 * x")
    other = install(tmp_path / "other", "def scale(x): return 2 * x", "1.1")
    in_other_process(PACK.format(place=f"{path}:f", out=out), folders=(here,))
    assert in_other_process(UNPACK.format(out=out), folders=(same,)) == "6"
    expected = "f was written with toylib 1.0, but toylib {} installed here"
    assert in_other_process(UNPACK.format(out=out), folders=(other,)) == expected.format("1.1 is")
    assert in_other_process(UNPACK.format(out=out)) == expected.format("is not")


def test_library_counts_by_its_version_and_what_has_none_by_its_files(tmp_path: Path) -> None:
    path, out = write(tmp_path, USER), str(tmp_path / "out")
    found = {}
    for name, code, version, files in (
        ("released", "def scale(x): return 2 * x", "1.0", {}),
        ("same version", "def scale(x): return 3 * x", "1.0", {}),
        ("next version", "def scale(x): return 2 * x", "1.1", {}),
        ("built here", "def scale(x): return 2 * x", "1.0", BUILT_HERE),
        ("built here again", "def scale(x): return 3 * x", "1.0", BUILT_HERE),
    ):
        site = install(tmp_path / name, code, version, **files)
        found[name] = in_other_process(PACK.format(place=f"{path}:f", out=out), folders=(site,), hash_seed="0").split()
    assert found["released"] == found["same version"]
    assert found["released"][1:] == ["1.0", "('analysis',)"]
    digests = [line[0] for name, line in found.items() if name != "same version"]
    assert len(set(digests)) == 4


def test_lone_file_among_libraries_counts_by_its_content(tmp_path: Path) -> None:
    path, out = write(tmp_path, USER), str(tmp_path / "out")
    site = tmp_path / "site-packages"
    site.mkdir()
    lines = []
    for code in ("def scale(x): return 2 * x", "def scale(x): return 33 * x"):
        (site / "toylib.py").write_text(code, encoding="utf-8")
        lines.append(in_other_process(PACK.format(place=f"{path}:f", out=out), folders=(site,)).split())
        assert lines[-1][1].startswith("sha256:")
    assert lines[0][0] != lines[1][0]


def test_editable_install_is_the_users(tmp_path: Path) -> None:
    """Its files lie outside site-packages: they are sent, and count by their content."""
    path, out = write(tmp_path, USER, helper=None), str(tmp_path / "out")
    sources = tmp_path / "sources"
    sources.mkdir()
    (sources / "toylib.py").write_text("def scale(x): return 5 * x", encoding="utf-8")
    code = PACK.format(place=f"{path}:f", out=out).replace('found.libraries["toylib"]', "found.libraries")
    assert in_other_process(code, folders=(sources,)).endswith("{} ('analysis', 'toylib')")
    assert in_other_process(UNPACK.format(out=out)) == "10"


CHANGED = """
from pathlib import Path
import toylib
from higgsnb.selection import captured_digest, check_unchanged, unpack
function = unpack(Path({out!r}).read_bytes())
before = captured_digest(function)
print(function(1), toylib.scale(1))
try:
    check_unchanged(function, before)
except ValueError as error:
    print(error.message)
"""


def test_change_is_noticed_where_a_library_has_the_name_of_the_users_module(tmp_path: Path) -> None:
    path, out = write(tmp_path, USER), str(tmp_path / "out")
    code = "TABLE = [1]\ndef put(t): t.append(1)\ndef scale(x):\n    put(TABLE)\n    return len(TABLE)\n"
    (tmp_path / "toylib.py").write_text(code, encoding="utf-8")
    installed = install(tmp_path / "worker", "TABLE = [5]\ndef scale(x): return 'installed'")
    in_other_process(PACK.format(place=f"{path}:f", out=out).replace('found.libraries["toylib"]', "found.libraries"))
    found = in_other_process(CHANGED.format(out=out), folders=(installed,)).splitlines()
    assert found == ["2 installed", "f has changed toylib.TABLE while it ran"]


def test_arrays_are_sent_as_they_are() -> None:
    array = np.arange(6.0).reshape(2, 3)[:, ::2]
    arrived = unpack(pack(lambda: array))()
    np.testing.assert_array_equal(arrived, array)
    assert arrived.flags.writeable
    assert arrived is not array
