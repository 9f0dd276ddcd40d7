"""What a function is: every change of it changes its digest, and nothing else does."""

from __future__ import annotations

import copy
import itertools
import subprocess
import sys
import time
from collections import OrderedDict, defaultdict, deque
from pathlib import Path
from typing import Any

import awkward as ak
import hist
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from user_code import ANALYSIS, HELPER, ROOT, cases, function_of, in_other_process, write

from higgsnb.errors import SelectionError
from higgsnb.selection import captured_digest, check_unchanged, identify

CHANGES = {
    "cut in the source": ("value > 1 and", "value > 2 and"),
    "operator": ("x > threshold", "x >= threshold"),
    "value of a closure": ("made(5)", "made(6)"),
    "global": ("CUT = 20.0", "CUT = 21.0"),
    "type of a global": ("CUT = 20.0", "CUT = 20"),
    "default": ("threshold=3", "threshold=4"),
    "default of a keyword": ("scale=1.5", "scale=1.6"),
    "function in the module": ("return x + 1\n", "return x + 2\n"),
    "function of another module": ("return shifted(x) - 1", "return shifted(x) - 2"),
    "function behind that": ("return x + OFFSET", "return x - OFFSET"),
    "global of another module": ("OFFSET = 7", "OFFSET = 8"),
    "attribute of another module": ('"pt": 10', '"pt": 11'),
    "decorator": ("factor * function", "factor + function"),
    "closure of a decorator": ("factor = 2", "factor = 3"),
    "element of an array": ("[1.0, 2.0, 3.0]", "[1.0, 2.0, 3.5]"),
    "type of an array": ("3.0])", "3.0], dtype=np.float32)"),
    "shape of an array": ("3.0])", "3.0]).reshape(1, 3)"),
    "compiled function behind another": ("x * 3.0", "x * 4.0"),
    "option of a compiled function": ("@numba.njit\ndef compiled", "@numba.njit(fastmath=True)\ndef compiled"),
    "argument of a partial": ("factor=4", "factor=5"),
    "attribute of a class": ("low = 60", "low = 61"),
    "method of a class": ("self.low < mass", "self.low <= mass"),
    "state of an object": ("Window(120)", "Window(121)"),
    "field of a dataclass": ("eta: float = 2.4", "eta: float = 2.5"),
    "list in a dataclass": ('["IsoMu24"]', '["IsoMu27"]'),
    "member of a set": ('"photon"', '"tau"'),
    "number deep in a dict": ("[0.05]", "[0.06]"),
    "member of an enum": ("TIGHT = 2", "TIGHT = 3"),
    "regular expression": ("HLT_.*Mu", "HLT_.*Ele"),
    "path": ("payload.json", "other.json"),
    "member of a frozenset": ('"tautau"', '"mutau"'),
    "name of a function": (
        "passes(x):\n        return x > limit\n\n    return passes",
        "good(x):\n        return x > limit\n\n    return good",
    ),
    "attribute of a function": ('"medium"', '"wp80"'),
    "constant set in the code": ("{3.0, 21.0, 40.0}", "{3.0, 21.0, 41.0}"),
    "base of a class": ("class Window:", "class Window(Quality.__mro__[-1], metaclass=type('M', (type,), {})):"),
}
NO_CHANGES = {
    "blank lines": ("CUT = 20.0", "\n\n\nCUT = 20.0"),
    "comment": ("CUT = 20.0", "CUT = 20.0  # GeV\n# of the muon"),
    "another order of functions": ("CUT = 20.0\n", "def unused():\n    return open('x')\n\n\nCUT = 20.0\n"),
    "order of a set": ('"muon", "electron", "photon", "jet"', '"jet", "photon", "electron", "muon"'),
    "layout of an array": ("[1.0, 2.0, 3.0])", "[[1.0, 9.0], [2.0, 9.0], [3.0, 9.0]])[:, 0]"),
    "annotation": ("def weight(x):", "def weight(x: 'float') -> 'float':"),
    "what the function does not use": ("def unused", "def unused"),
    "another function of the helper": (
        "def scaled",
        "def unused():\n    global OFFSET\n    OFFSET = 8\n\n\ndef scaled",
    ),
}


@pytest.fixture(scope="module")
def digest(tmp_path_factory: pytest.TempPathFactory) -> str:
    return identify(function_of(write(tmp_path_factory.mktemp("first")))).digest


def changed(change: tuple[str, str], folder: Path) -> Path:
    """The analysis with a change in it or in its helper."""
    assert (change[0] in ANALYSIS) + (change[0] in HELPER) == 1 or change[0] == change[1]
    return write(folder, ANALYSIS.replace(*change), HELPER.replace(*change))


@pytest.mark.parametrize("name", CHANGES)
def test_change_changes_the_digest(name: str, digest: str, tmp_path: Path) -> None:
    function = function_of(changed(CHANGES[name], tmp_path))
    assert identify(function).digest != digest


@pytest.mark.parametrize("name", NO_CHANGES)
def test_what_changes_no_result_changes_no_digest(name: str, digest: str, tmp_path: Path) -> None:
    assert identify(function_of(changed(NO_CHANGES[name], tmp_path))).digest == digest


def test_digests_of_all_changes_differ(tmp_path: Path) -> None:
    names = itertools.islice(CHANGES, 12)
    digests = {identify(function_of(changed(CHANGES[name], tmp_path / name))).digest for name in names}
    assert len(digests) == 12


def test_reloaded_function_has_the_same_digest(digest: str, tmp_path: Path) -> None:
    path = write(tmp_path)
    first, second = function_of(path), function_of(path)
    assert first is not second
    assert identify(first).digest == identify(second).digest == digest


IDENTIFY = """
from higgsnb.selection import identify, load_from_file
print(identify(load_from_file({place!r}, object)).digest)
"""


@pytest.mark.parametrize("hash_seed", ["0", "1", "2", "random"])
def test_other_process_and_folder_have_the_same_digest(hash_seed: str, digest: str, tmp_path: Path) -> None:
    path = write(tmp_path / "elsewhere" / hash_seed)
    code = IDENTIFY.format(place=f"{path.name}:zmumu")
    assert in_other_process(code, hash_seed=hash_seed, cwd=path.parent) == digest


def test_script_has_the_same_digest(digest: str, tmp_path: Path) -> None:
    ending = (
        "if __name__ == '__main__':\n    from higgsnb.selection import identify\n\n    print(identify(zmumu).digest)\n"
    )
    path = write(tmp_path, f"{ANALYSIS}\n\n{ending}")
    command = [sys.executable, path]
    environment = {"PYTHONPATH": str(ROOT), "PATH": "", "HOME": str(tmp_path), "HIGGSNB_CACHE": str(tmp_path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == digest


NOTEBOOK = """
from IPython.core.interactiveshell import InteractiveShell
from user_code import ANALYSIS
from higgsnb.selection import identify
shell = InteractiveShell.instance()
head, _, rest = ANALYSIS.partition("CUT = ")
digests, texts = [], []
for cell in (head, "CUT = " + rest, "x = 1", "CUT = " + rest, "CUT = 21.0", "CUT = 20.0"):
    assert shell.run_cell(cell).success
    if "zmumu" in shell.user_ns:
        found = identify(shell.user_ns["zmumu"])
        digests.append(found.digest)
        texts.append("def zmumu" in found.source)
print(*digests, all(texts))
"""


def test_cell_of_a_notebook_has_the_same_digest(digest: str, tmp_path: Path) -> None:
    write(tmp_path)
    found = (
        in_other_process(NOTEBOOK, folders=(ROOT / "tests" / "kit", tmp_path), cwd=tmp_path).splitlines()[-1].split()
    )
    assert [one == digest for one in found[:-1]] == [True, True, True, False, True]
    assert found[-1] == "True"  # each has its source


def test_digest_is_that_of_now(tmp_path: Path) -> None:
    """A global that changes gives another digest; changed back, the old one."""
    function = function_of(write(tmp_path))
    home, first = function.__globals__, identify(function).digest
    for name, change, back in (
        ("TABLE", lambda: home["TABLE"].__setitem__(0, 9.0), lambda: home["TABLE"].__setitem__(0, 1.0)),
        ("dict", lambda: home["WORKING_POINTS"]["tight"].append(1), home["WORKING_POINTS"]["tight"].pop),
        ("set", lambda: home["NAMES"].add("tau"), lambda: home["NAMES"].remove("tau")),
        ("global", lambda: home.__setitem__("CUT", 3.0), lambda: home.__setitem__("CUT", 20.0)),
        ("module", lambda: setattr(home["helper"], "OFFSET", 1), lambda: setattr(home["helper"], "OFFSET", 7)),
        ("class", lambda: setattr(home["Window"], "low", 1), lambda: setattr(home["Window"], "low", 60)),
        ("object", lambda: setattr(home["WINDOW"], "high", 1), lambda: setattr(home["WINDOW"], "high", 120)),
    ):
        change()
        assert identify(function).digest != first, name
        back()
        assert identify(function).digest == first, name


def test_replaced_helper_gives_another_digest(tmp_path: Path) -> None:
    function = function_of(write(tmp_path))
    first = identify(function).digest
    function.__globals__["helper"].corrected = function.__globals__["helper"].shifted
    assert identify(function).digest != first


def test_calls_change_no_digest(digest: str, tmp_path: Path) -> None:
    """Compiling, caching and adapting the bytecode leave it as it is."""
    function = function_of(write(tmp_path))
    for _ in range(100):
        function(21.0)
    assert identify(function).digest == digest


def test_copy_of_an_object_changes_no_digest(tmp_path: Path) -> None:
    """Copying and pickling write into the class."""
    function = function_of(write(tmp_path, "class A: pass\ndef f(x): return A\n"), "f")
    before = identify(function).digest
    copy.copy(function(0)())
    assert "__slotnames__" in vars(function(0))
    assert identify(function).digest == before


def test_source_libraries_and_modules_are_told(tmp_path: Path) -> None:
    found = identify(function_of(write(tmp_path)))
    for text in (
        "def zmumu(",
        "def corrected(",
        "def shifted(",
        "class Window:",
        "@doubled\ndef weight(",
        "def passes(",
    ):
        assert found.source.count(text) == 1, text
    assert found.source.startswith("# analysis.zmumu\n")
    assert str(tmp_path) not in found.source
    assert {"numpy", "numba"} <= set(found.libraries)
    assert found.libraries["numpy"] == np.__version__
    assert found.modules == ("analysis", "helper")


def test_digest_is_that_of_what_runs_not_of_the_file(digest: str, tmp_path: Path) -> None:
    """A file that was edited after it was imported: the old code runs, so it is the old digest."""
    path = write(tmp_path)
    function = function_of(path)
    changed(CHANGES["cut in the source"], tmp_path)
    found = identify(function)
    assert found.digest == digest
    assert "# zmumu: the file has changed since it was imported" in found.source
    assert "value > 2" not in found.source
    assert identify(function_of(path)).digest != digest


# --- Values -----------------------------------------------------------------------------------------


def holding(value: Any) -> Any:
    return lambda: value


def digest_of(value: Any) -> str:
    return identify(holding(value)).digest


PLAIN = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5) | st.binary()
SETS = st.frozensets(st.integers() | st.text(max_size=3), max_size=4)


def containers(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    dicts = st.dictionaries(st.text(max_size=3), inner, max_size=4)
    return st.lists(inner, max_size=4) | st.tuples(inner, inner) | dicts


VALUES = st.recursive(PLAIN | SETS, containers, max_leaves=12)


@settings(max_examples=60)
@given(VALUES)
def test_copy_of_a_value_has_its_digest(value: Any) -> None:
    assert digest_of(copy.deepcopy(value)) == digest_of(value)


def typed(value: Any) -> Any:
    """A value in which 1, 1.0 and True differ, as do 0.0 and -0.0."""
    if isinstance(value, dict):
        return ("dict", *((typed(key), typed(one)) for key, one in value.items()))
    if isinstance(value, (list, tuple)):
        return (type(value).__name__, *map(typed, value))
    return ("set", *sorted(map(repr, value))) if isinstance(value, frozenset) else repr(value)


@settings(max_examples=100)
@given(VALUES, VALUES)
def test_digests_are_equal_if_and_only_if_the_values_are(one: Any, other: Any) -> None:
    assert (digest_of(one) == digest_of(other)) == (typed(one) == typed(other))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1, 1.0), (1, True), (0.0, -0.0), ("1", b"1"), ((1, 2), [1, 2]), ({1, 2}, frozenset({1, 2})),
        ("ab", ("a", "b")), ([[1], 2], [1, [2]]), ({"a": 1}, [("a", 1)]), (10**4000, 10**4000 + 1),
        (np.float32(1), np.float64(1)), (np.array([1]), [1]), (np.sqrt, np.cbrt), (int, float), (max, min),
        (np.zeros(3), np.zeros(3, np.float32)), (np.zeros((2, 3)), np.zeros((3, 2))),
        (np.array(["a"], object), np.array(["b"], object)), (np.array(["a"]), np.array(["b"])),
        (np.zeros(2, [("a", "f4"), ("b", "f4")]), np.zeros(2, [("a", "f4"), ("c", "f4")])),
        (np.array(["2012-01-01"], "M8[D]"), np.array(["2012-01-02"], "M8[D]")),
        (np.ma.array([1, 2], mask=[0, 1]), np.ma.array([1, 2], mask=[1, 0])),
        (ak.Array([[1, 2], []]), ak.Array([[1], [2]])), (ak.Array([1]), ak.Array([1.0])),
        (ak.Array([{"x": 1}]), ak.Array([{"y": 1}])),
        (deque([1]), deque([2])), (deque([1]), deque([1], 5)), (OrderedDict(a=1), OrderedDict(a=2)),
        (defaultdict(list, a=1), defaultdict(list, a=2)), (defaultdict(list), defaultdict(dict)),
        (hist.axis.Regular(10, 0, 1), hist.axis.Regular(10, 0, 2)),
        (hist.axis.Regular(10, 0, 1), hist.axis.Regular(11, 0, 1)),
        (hist.axis.Variable([0, 1, 2]), hist.axis.Variable([0, 1, 3])),
    ],
)  # fmt: skip
def test_different_values_have_different_digests(one: Any, other: Any) -> None:
    assert digest_of(one) != digest_of(other)
    assert digest_of(copy.deepcopy(one)) == digest_of(one)


def test_memory_of_an_array_plays_no_part() -> None:
    array = np.arange(12.0).reshape(3, 4)
    for same in (
        np.asfortranarray(array),
        np.hstack([array, array])[:, :4],
        array[::-1][::-1],
        array.astype(">f8").astype("f8"),
    ):
        assert digest_of(same) == digest_of(array)
    assert digest_of(array.T) != digest_of(array)


def test_object_in_itself_is_no_endless_walk() -> None:
    one: list[Any] = [1]
    one.append(one)
    other: list[Any] = [1]
    other.append(other)
    assert digest_of(one) == digest_of(other)
    again: Any = [2]
    again.append(again)
    assert digest_of(again) != digest_of(one)
    deep: Any = [1]
    for _ in range(60):
        deep = [deep, deep]
    assert digest_of(deep) == digest_of(copy.deepcopy(deep))


def test_hash_of_a_large_array_is_as_fast_as_sha256() -> None:
    array = np.zeros(4_000_000)
    before = time.process_time()
    digest_of(array)
    assert time.process_time() - before < 1


# --- Variables that a call changes ------------------------------------------------------------------

CHANGING = dict(
    cases("""
### TABLE
import numpy as np
TABLE = np.zeros(3)
def put(table): table[0] += 1
def f(x): put(TABLE)
### SEEN
SEEN = []
def put(seen): seen.append(1)
def f(x): put(SEEN)
### CACHE
CACHE = {"a": {"b": [1]}}
def put(cache): cache["a"]["b"].append(2)
def f(x): put(CACHE)
### seen (default in f)
def f(x, seen=[]): seen.append(x)
### Counter.n
class Counter: n = 0
def put(counter): counter.n += 1
def f(x): put(Counter)
### counter
class Counter: n = 0
counter = Counter()
def put(counter): counter.n += 1
def f(x): put(counter)
### total (in make.<locals>.f)
def put(total): total.add(1)
def make():
    total = set()
    def f(x): put(total)
    return f
f = make()
### helper.cuts
import helper
def put(cuts): cuts["pt"] += 1
def f(x): put(helper.cuts)
""")
)


@pytest.mark.parametrize("name", CHANGING)
def test_variable_that_a_call_changes_is_named(name: str, tmp_path: Path) -> None:
    function = function_of(write(tmp_path, CHANGING[name] + "\n"), "f")
    identify(function)
    before = captured_digest(function)
    check_unchanged(function, before)
    function(1)
    with pytest.raises(SelectionError) as caught:
        check_unchanged(function, before)
    assert f"has changed {name} while it ran" in caught.value.message
    assert "Copy it" in caught.value.hint


UNCHANGING = dict(
    cases("""
### lru_cache
import functools
@functools.lru_cache
def g(x): return x
def f(x): return g(x)
### cached_property
import functools
class Window:
    @functools.cached_property
    def edges(self): return [60, 120]
window = Window()
def f(x): return window.edges
### awkward
import awkward as ak
ARRAY = ak.Array([[1, 2], [3]])
def f(x): return str(ARRAY), ARRAY.attrs, ARRAY.behavior, ak.num(ARRAY)
### vectorize
import numpy as np
V = np.vectorize(lambda x: x + 1.0, otypes=[float])
def f(x): return V([x])
### numba
import numba
@numba.vectorize
def g(x): return x + 1.0
@numba.njit
def h(x): return g(x)
def f(x): return h(x), g(x)
### interpolation
from scipy.interpolate import CubicSpline
SPLINE = CubicSpline([0, 1, 2], [0, 1, 4])
def f(x): return SPLINE(0.5)
### distribution
from scipy import stats
GAUSS = stats.norm(0, 1)
def f(x): return GAUSS.cdf(x), stats.norm.pdf(x)
### histogram axis
import hist
AXIS = hist.axis.Regular(3, 0, 1)
def f(x): return AXIS.index(0.5), AXIS.edges
### generic class
import typing
T = typing.TypeVar("T")
class A(typing.Generic[T]): pass
def f(x): return A[int]()
### singledispatch
import functools
@functools.singledispatch
def g(x): return 0
@g.register(float)
def _(x): return 1
def f(x): return g(x)
### abstract class
import abc
class A(abc.ABC): pass
class B(A): pass
def f(x): return isinstance(B(), A), issubclass(int, A)
""")
) | {"whole analysis": ANALYSIS.replace("def zmumu", "def f")}


@pytest.mark.parametrize("name", UNCHANGING)
def test_what_a_library_keeps_for_itself_is_no_change(name: str, tmp_path: Path) -> None:
    function = function_of(write(tmp_path, UNCHANGING[name] + "\n"), "f")
    digest, before = identify(function).digest, captured_digest(function)
    function(21.0)
    check_unchanged(function, before)
    assert identify(function).digest == digest


def test_variables_are_compared_in_little_time(tmp_path: Path) -> None:
    function = function_of(write(tmp_path))
    seconds = []
    for _ in range(20):
        before = time.process_time()
        captured_digest(function)
        seconds.append(time.process_time() - before)
    assert min(seconds) < 0.02  # a chunk takes 0.1 s or more


def test_analysis_of_these_tests_gives_what_is_worked_out_by_hand(tmp_path: Path) -> None:
    values = function_of(write(tmp_path))(21.0)
    assert values[:7] == (5.0, 44.0, 64.0, False, True, 84.0, True)
    assert values[7:13] == (31.5, 10, 27.0, 2.4, 2, "payload.json")
    assert values[13:] == ((True, True, True, 2), (True, True, "medium"))
