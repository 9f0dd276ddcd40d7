"""What cannot be identified, or would not give the same result each time, is refused by name with a remedy."""

from __future__ import annotations

from pathlib import Path

import awkward as ak
import pytest
from user_code import cases, function_of, write

from higgsnb.errors import SelectionError
from higgsnb.selection import identify, pack

REFUSED = cases('''
### f changes n | copy n first
n = 0
def f(x):
    global n
    n += 1
    return n
### f changes n | Return a new value
n = 0
def f(x):
    global n
    del n
### make.<locals>.f changes n | Return a new value
def make():
    n = 0
    def f(x):
        nonlocal n
        n += 1
        return n
    return f
f = make()
### make.<locals>.f changes n |
def make():
    n = 0
    def f(x):
        def count():
            nonlocal n
            n += 1
        count()
    return f
f = make()
### count.<locals>.wrapper changes calls |
def count(function):
    calls = 0
    def wrapper(*arguments):
        nonlocal calls
        calls += 1
        return function(*arguments)
    return wrapper
@count
def f(x): return x
### f changes SEEN |
SEEN = []
def f(x): SEEN.append(x)
### f changes COUNTS |
COUNTS = {}
def f(x): COUNTS[x] = COUNTS.get(x, 0) + 1
### f changes TOTAL |
import numpy as np
TOTAL = np.zeros(3)
def f(x): TOTAL[1:] += x
### f changes TOTAL |
TOTAL = [0]
def f(x):
    total = TOTAL
    total[0] = x
### f changes f.calls |
def f(x): f.calls += 1
f.calls = 0
### f changes helper.cuts | copy helper.cuts first
import helper
def f(x): helper.cuts["pt"] = x
### f changes helper.OFFSET |
import helper
def f(x): helper.OFFSET = x
### f changes helper.cuts |
import helper
def f(x): helper.cuts.update(pt=x)
### memo.<locals>.wrapper changes cache |
def memo(function):
    cache = {}
    def wrapper(x):
        if x not in cache: cache[x] = function(x)
        return cache[x]
    return wrapper
@memo
def f(x): return x
### f changes HISTOGRAM |
import hist
HISTOGRAM = hist.Hist.new.Reg(10, 0, 1).Double()
def f(x): HISTOGRAM.fill(x)
### g changes n |
n = 0
def g(x):
    global n
    n = x
def f(x): return [g(y) for y in range(x)]
### RNG is a random number generator | default_rng([run, luminosityBlock, event])
import numpy as np
RNG = np.random.default_rng(1)
def f(x): return RNG.normal()
### rng (in make.<locals>.f) is a random number generator |
import random
def make(rng):
    def f(x): return rng.random()
    return f
f = make(random.Random(1))
### numpy.random.normal is a function of the random numbers of the whole process | default_rng([run
import numpy as np
def f(x): return np.random.normal(x, 1)
### numpy.random.normal is a function of the random numbers |
def f(x):
    import numpy
    return numpy.random.normal(x, 1)
### numpy.random.uniform is a function of the random numbers |
import numpy as np
module = np.random
def f(x): return module.uniform()
### random.gauss is a function of the random numbers | default_rng([run
import random
def f(x): return random.gauss(x, 1)
### shuffle is a function of the random numbers |
from random import shuffle
def f(x): shuffle(x)
### default_rng, which takes random numbers without a seed | default_rng([run
import numpy as np
def f(x): return np.random.default_rng().normal()
### default_rng, which takes random numbers without a seed |
from numpy.random import default_rng
def f(x): return default_rng().normal()
### normal is a function of the random numbers |
import numba
import numpy as np
@numba.njit
def g(x): return np.random.normal()
def f(x): return g(x)
### uuid4, which takes random numbers |
import uuid
def f(x): return uuid.uuid4()
### FILE is an open file | keep its content in a variable
FILE = open(__file__, encoding="utf-8")
FILE.close()
def f(x): return FILE.read()
### LOCK is a lock, whose state cannot be told | make it in the function
import threading
LOCK = threading.Lock()
def f(x):
    with LOCK: return x
### SOCKET is a network connection |
import socket
SOCKET = socket.socket()
SOCKET.close()
def f(x): return SOCKET
### VALUES is a generator, which is used up | Use a list
VALUES = (i for i in range(3))
next(VALUES)
def f(x): return next(VALUES)
### VALUES is a list_iterator, which is used up | Use a list
VALUES = iter([1, 2])
def f(x): return next(VALUES)
### VALUES is a map, which is used up |
VALUES = map(str, [1, 2])
def f(x): return list(VALUES)
### REFERENCE is a ReferenceType, whose state cannot be told |
import weakref
class A: pass
a = A()
REFERENCE = weakref.ref(a)
def f(x): return REFERENCE()
### LOCAL is a _local, whose state cannot be told |
import threading
LOCAL = threading.local()
def f(x): return LOCAL
### POOL._shutdown_lock is a lock |
from concurrent.futures import ThreadPoolExecutor
POOL = ThreadPoolExecutor(1)
def f(x): return POOL
### has no source that could be shown | not by exec or eval
space = {}
exec("def f(x): return x", space)
f = space["f"]
### has no source that could be shown | not by exec or eval
f = eval("lambda x: x")
### it is async | Write a plain function
async def f(x): return x
### it is a generator | Write a plain function
def f(x): yield x
### globals, which looks up names by text | Write the name itself
def f(x): return globals()["cut"]
### eval, which looks up names by text |
def f(x): return eval("x + 1")
### exec, which looks up names by text |
def f(x): exec("x = 1")
### import_module, which imports a module by text |
import importlib
def f(x): return importlib.import_module("math").sqrt(x)
### __import__, which imports a module by text |
def f(x): return __import__("math").sqrt(x)
### open, which reads or writes a file | keep its content in a variable
def f(x): return open("scale.txt").read()
### load, which reads a file |
import numpy as np
def f(x): return np.load("scale.npy")
### read_text, which reads a file |
import pathlib
def f(x): return pathlib.Path("scale.txt").read_text()
### rvs, which takes random numbers | default_rng([run
from scipy import stats
def f(x): return stats.norm.rvs(size=3)
### rvs, which takes random numbers |
from scipy.stats import norm
def f(x): return norm.rvs(size=3)
### environ, which depends on the environment | workers have another environment
import os
def f(x): return os.environ["CUT"]
### environ, which depends on the environment |
from os import environ
def f(x): return environ["CUT"]
### imports your module helper only when it runs | Put `import helper` at the top
def f(x):
    import helper
    return helper.OFFSET
### imports your module helper only when it runs |
def f(x):
    from helper import OFFSET
    return OFFSET
### imports no_such_module, which cannot be found | Install it
def f(x):
    import no_such_module
### uses cutt, which is not defined | Did you mean cut?
cut = 20
def f(x): return x > cutt
### module helper has no OFF_SET | Did you mean OFFSET?
import helper
def f(x): return x + helper.OFF_SET
### numpy.mine was replaced by mine | under a name of its own
import numpy as np
def mine(x): return x
np.mine = mine
def f(x): return np.mine(x)
### WINDOW is a Window of numba, which cannot be sent | compiled by numba
import numba
from numba.experimental import jitclass
@jitclass([("low", numba.float64)])
class Window:
    def __init__(self, low): self.low = low
WINDOW = Window(60.0)
def f(x): return WINDOW.low
### LIST is a List of numba, which cannot be sent |
from numba.typed import List
LIST = List([1, 2])
def f(x): return LIST[0]
### g is a CFunc of numba, which cannot be sent |
import numba
@numba.cfunc("float64(float64)")
def g(x): return x
def f(x): return g.ctypes(x)
### U is a ufunc of which there is only a name |
import numpy as np
U = np.frompyfunc(lambda x: x, 1, 1)
def f(x): return U(x)
### KEYS is a dict_keys, whose state cannot be told |
KEYS = {"a": 1}.keys()
def f(x): return x in KEYS
### nested too deeply | a flat list
DEEP = ()
for _ in range(5000): DEEP = (DEEP,)
def f(x): return DEEP
### module lazy is Lazy, a class of its own | plain module
import sys, types
class Lazy(types.ModuleType): pass
lazy = Lazy("lazy")
lazy.value = 3
def f(x): return lazy.value
### Window.width changes n |
n = 0
class Window:
    def width(self):
        global n
        n += 1
        return n
window = Window()
def f(x): return window.width()
### Window.__call__ changes n |
n = 0
class Window:
    def __call__(self, x):
        global n
        n += 1
f = Window()
### Window.__init__ uses open, which reads |
class Window:
    def __init__(self, path): self.text = open(path).read()
def f(x): return Window(x).text
''')  # fmt: skip


@pytest.mark.parametrize(("expected", "code"), REFUSED)
def test_what_cannot_be_identified_is_refused_by_name(
    expected: str, code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("numpy.mine", None, raising=False)  # restored if a case sets it
    function = function_of(write(tmp_path, code), "f")
    with pytest.raises(SelectionError) as caught:
        identify(function)
    message, _, remedy = expected.partition(" |")
    assert message in caught.value.message
    assert remedy.strip() in caught.value.hint
    assert caught.value.message.startswith("cannot identify ")
    assert "\n" not in caught.value.message
    with pytest.raises(SelectionError):
        pack(function)


ACCEPTED = dict(cases('''
### seeded generator
import numpy as np
def f(x): return float(np.random.default_rng([1, 2, x]).normal())
### variables of the call
def f(x):
    seen, counts, n = [], {}, 0
    def add(value):
        nonlocal n
        n += 1
        seen.append(value)
        counts[value] = n
    add(x)
    return seen, counts, n
### own globals as local names
append = [].append
def f(x):
    append = list(range(x)).append
    append(1)
### import of a library
def f(x):
    import os.path
    from math import sqrt
    import numpy as np
    return sqrt(x), np.sqrt(x), os.path.basename("a/b")
### method that reads a file, never called
class Cuts:
    def __init__(self, path):
        with open(path) as file: self.text = file.read()
    def save(self): open("out", "w").write(self.text)
    @classmethod
    def from_environment(cls):
        import os
        return cls(os.environ["CUTS"])
cuts = Cuts(__file__)
def f(x): return len(cuts.text)
### attribute by text
def f(x): return getattr(x, "real"), hasattr(x, "pt"), vars(), locals()
### name that only a class body has
CUT = 3
def f(x):
    class Local:
        cut = CUT
        twice = cut * 2
    return Local.twice
### logger
import logging
LOG = logging.getLogger("analysis")
def f(x): LOG.debug("%s", x)
### module of which a part could not be sent
import helper
helper.lock = __import__("threading").Lock()
def f(x): return helper.OFFSET
### module from which a name is taken by text
import helper
def f(x): return getattr(helper, "OFFSET")
### async and generator inside
async def g(x): return x
def h(x): yield x
def f(x):
    g(x).close()
    return list(h(x)), sum(y for y in range(x))
### names that are defined later
def f(x): return g(x) if x else h(x)
def g(x): return h(x - 1)
def h(x): return f(x - 1) if x > 0 else 0
### attrs
import attrs
@attrs.define
class Cuts:
    pt: float = 20.0
    names: list = attrs.field(factory=list)
cuts = Cuts()
def f(x): return cuts.pt
'''))  # fmt: skip


@pytest.mark.parametrize("name", ACCEPTED)
def test_what_harms_nobody_is_accepted(name: str, tmp_path: Path) -> None:
    if "import attrs" in ACCEPTED[name]:
        pytest.importorskip("attrs")
    function = function_of(write(tmp_path, ACCEPTED[name]), "f")
    assert len(identify(function).digest) == 64


def test_behavior_that_workers_lack_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Muon(ak.Record):
        pass

    monkeypatch.setitem(ak.behavior, "Muon", Muon)
    with pytest.raises(SelectionError, match=r"awkward.behavior\['Muon'\] is yours") as caught:
        identify(lambda events: events)
    assert "behavior={…}" in caught.value.hint


def test_class_is_known_by_its_content_although_no_function_shows_it(tmp_path: Path) -> None:
    """Names taken by text from the user's module: all of that counts."""
    code = "import helper\ndef f(x): return getattr(helper, x)\n"
    first = identify(function_of(write(tmp_path / "a", code, "A = 1\nB = 2\n"), "f"))
    second = identify(function_of(write(tmp_path / "b", code, "A = 1\nB = 3\n"), "f"))
    assert first.digest != second.digest
