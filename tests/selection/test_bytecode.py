"""What code takes from outside and changes there is read off its instructions, alike on every Python."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from types import FunctionType
from typing import Any

import pytest

from higgsnb.selection.identity.bytecode import Imported, uses_of
from higgsnb.selection.identity.content import code as content_of


def function(code: str) -> FunctionType:
    """The function ``f`` that code defines."""
    space: dict[str, Any] = {}
    exec(textwrap.dedent(code), space)  # noqa: S102
    return space["f"]  # type: ignore[no-any-return]


def used(code: str) -> set[str]:
    return {f"{one.kind} {one}" for one in uses_of(function(code).__code__).used}


def changed(code: str) -> set[str]:
    return {f"{one.kind} {one}" for one in uses_of(function(code).__code__).changed}


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("return x > CUT", {"global CUT"}),
        ("return config.cuts.pt + x.pt", {"global config.cuts.pt"}),
        ("return np.random.normal(x, y.z)", {"global np.random.normal", "global y.z"}),
        ("return [g(y) for y in x if y > CUT]", {"global g", "global CUT"}),
        ("return {k: (lambda q: q * K)(v) for k, v in x}", {"global K"}),
        ("return (a if x else b)[0]", {"global a", "global b"}),
        ("return f'{a.b:{w}}'", {"global a.b", "global w"}),
        ("with a.b() as c: return c.d", {"global a.b"}),
        ("try: return a\n    except b.E as e: return e", {"global a", "global b.E"}),
        ("class C(B):\n        c = K\n        d = c\n    return C", {"global B", "name K"}),
        ("import numpy as np\n    return np.sqrt(x)", {"import numpy", "import numpy.sqrt"}),
        ("import a.b\n    return a.b.c(x)", {"import a", "import a.b.c"}),
        ("import a.b as c\n    return c.d", {"import a", "import a.b", "import a.b.d"}),
        ("from a.b import c as d\n    return d.e", {"import a.b", "import a.b.c", "import a.b.c.e"}),
        ("import numpy\n    return lambda: numpy.random.normal()", {"import numpy", "import numpy.random.normal"}),
        ("module = np.random\n    return module.normal()", {"global np.random", "global np.random.normal"}),
        ("a = b\n    a = x\n    return a.c", {"global b"}),
        ("return x[a.b:c, ...] @ d", {"global a.b", "global c", "global d"}),
        ("match x:\n        case P(y=1): return q", {"global P", "global q"}),
        ("while a.b: x = c(x)\n    else: return d", {"global a.b", "global c", "global d"}),
        ("return g(*a.b, **c.d, e=f2)", {"global g", "global a.b", "global c.d", "global f2"}),
    ],
)
def test_what_is_used_from_outside(body: str, expected: set[str]) -> None:
    assert used(f"def f(x):\n    {body}\n") == expected


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("global n; n = 1", {"global n"}),
        ("global n; n += 1", {"global n"}),
        ("global n; del n", {"global n"}),
        ("global n\n    for n in x: pass", {"global n"}),
        ("a[0] = x", {"global a"}),
        ("a[g(x)] += h(a[1])", {"global a"}),
        ("a[1:2] = x", {"global a"}),
        ("del a[0]", {"global a"}),
        ("a.b = x", {"global a.b"}),
        ("a.b.c += 1", {"global a.b.c"}),
        ("del a.b", {"global a.b"}),
        ("b = a\n    b[0] = 1", {"global a"}),
        ("def g(): a[0] = 1\n    g()", {"global a"}),
        ("(lambda: a.__setitem__(0, 1))()", set()),
        ("b = [0]\n    b[0] = 1\n    b.c = 2", set()),
        ("x[0] = a\n    x.y = a", set()),
        ("b = a[0]\n    b[1] = 2", set()),
        ("b = a.copy()\n    b[1] = 2", set()),
        ("b = x or a\n    b[1] = 2", set()),
        ("n = 0\n    def g():\n        nonlocal n\n        n = 1\n    g()", set()),
        ("a = {}\n    def g(): a[1] = 2\n    g()", set()),
        ("class C:\n        n = 1\n        n += 1", set()),
    ],
)
def test_what_is_changed_outside(body: str, expected: set[str]) -> None:
    assert changed(f"def f(x):\n    {body}\n") == expected


def test_variables_of_enclosing_functions_count_if_they_outlive_the_call() -> None:
    code = """
    def make():
        n, m, cache = 0, 0, {}
        def f(x):
            nonlocal n
            n = 1
            cache[x] = n
            def g():
                nonlocal n
                n, k = 2, m
                def h():
                    nonlocal k
                    k = 3
        return f
    f = make()
    """
    assert changed(code) == {"free n", "free cache"}
    assert used(code) == {"free n", "free cache", "free m"}


def test_imports_are_listed_with_their_level() -> None:
    code = "def f(x):\n    import a.b\n    from c import d, e\n    def g(): import h\n"
    assert uses_of(function(code).__code__).imports == (Imported("a.b", 0), Imported("c", 0), Imported("h", 0))


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("a.b()", {"a.b"}), ("a()", {"a"}), ("a(1)", set()), ("a.b(c())", {"c"}), ("a(b=1)", set()), ("a(*x)", set()),
        ("import a\n    a.b.c()", {"a.b.c"}), ("g = a.b\n    g()", {"a.b"}), ("a()()", {"a"}),
    ],
)  # fmt: skip
def test_calls_without_arguments_are_known(body: str, expected: set[str]) -> None:
    assert {str(one) for one in uses_of(function(f"def f(x):\n    {body}\n").__code__).called_bare} == expected


def content(code: str) -> bytes:
    return content_of(function(code).__code__)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("x + 1", "x - 1"), ("x + 1", "x + 1.0"), ("x.a", "x.b"), ("g(x)", "g(x, x)"), ("x and y", "x or y"),
        ("x < y", "x <= y"), ("g(a=x)", "g(b=x)"), ("x in {1, 2}", "x in {1, 3}"), ("x if y else z", "z if y else x"),
        ("lambda: x", "lambda: y"), ("[a for a in x]", "[a for a in x if a]"), ("0.0", "-0.0"), ("x[1:]", "x[:1]"),
        ("f'{x}'", "f'{x!r}'"), ("g(x)", "g(*x)"), ("True", "1"), ("(1, 2)", "(1, 2.0)"),
    ],
)  # fmt: skip
def test_other_code_has_other_content(one: str, other: str) -> None:
    assert content(f"def f(x):\n    return {one}\n") != content(f"def f(x):\n    return {other}\n")
    assert content(f"def f(x):\n    return {one}\n") == content(f"\n\ndef f(x):\n    return {one}  # again\n")


def test_range_of_a_try_is_part_of_the_content() -> None:
    codes = [
        "def f(x):\n    a()\n    try:\n        b()\n    except E:\n        pass\n",
        "def f(x):\n    try:\n        a()\n        b()\n    except E:\n        pass\n",
        "def f(x):\n    try:\n        a()\n    except E:\n        pass\n    b()\n",
    ]
    assert len(set(map(content, codes))) == 3


def test_content_does_not_depend_on_features_of_the_future() -> None:
    """In a notebook they are those of all cells before."""
    codes = []
    for head in ("", "from __future__ import annotations\n"):
        space: dict[str, Any] = {}
        exec(compile(f"{head}def f(x):\n    return x + 1\n", "", "exec", dont_inherit=True), space)  # noqa: S102
        codes.append(space["f"].__code__)
    assert codes[0].co_flags != codes[1].co_flags
    assert content_of(codes[0]) == content_of(codes[1])


def test_content_does_not_depend_on_where_a_module_was_imported() -> None:
    """Python calls a function of a module differently if the import stands in the same file or cell."""
    body = "def f(x):\n    return math.sqrt(math.fabs(x)) + sum(math.exp(y) for y in [math.pi])\n"
    together: Callable[..., Any] = function("import math\n" + body)
    assert content("import math\n" + body) == content(body)
    assert together(4.0) > 2
