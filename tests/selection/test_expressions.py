"""Expressions of columns mean what Python means by them, and nothing else gets through."""

from __future__ import annotations

import ast
import pickle
import time
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from higgsnb.errors import SelectionError
from higgsnb.selection import Expression, parse

# Small whole numbers and halves: what Python and NumPy compute of them is exact, so that both compare alike.
COLUMNS: dict[str, Any] = {
    "n": np.array([0, 1, 2, 3, 4, 7], np.uint32),
    "charge": np.array([1, -1, 0, 1, -1, 2], np.int8),
    "pt": np.array([0.5, 20.0, 41.5, -3.0, 0.0, 2.0], np.float32),
    "mass": np.array([1.0, -2.5, 91.5, 0.0, 125.0, 4.0]),
    "fired": np.array([True, False, True, True, False, False]),
    "Flag_good": np.array([True, True, False, True, False, True]),
}
CONDITIONS, NUMBERS = ("fired", "Flag_good"), ("n", "charge", "pt", "mass")


class InPython(ast.NodeTransformer):
    """Python's own reading of an expression, in which ``~`` means ``not`` and every number is made by ``number``."""

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.UnaryOp:
        operation = ast.Not() if isinstance(node.op, ast.Invert) else node.op
        return ast.UnaryOp(operation, self.visit(node.operand))

    def visit_Constant(self, node: ast.Constant) -> ast.expr:
        name = ast.Name("number", ast.Load())
        return node if isinstance(node.value, bool) else ast.Call(name, [ast.Constant(str(node.value))], [])


def in_python(text: str, event: int, number: Any) -> Any:
    """What Python makes of an expression for one event; None if it is an error there."""
    values = {name: number(COLUMNS[name][event].item()) for name in NUMBERS}
    values |= {name: bool(COLUMNS[name][event]) for name in CONDITIONS}
    tree = ast.fix_missing_locations(InPython().visit(ast.parse(f"({text})", mode="eval")))
    try:
        return eval(compile(tree, "", "eval"), {"number": number}, values)  # noqa: S307
    except ZeroDivisionError:
        return None


def blanks() -> st.SearchStrategy[str]:
    return st.sampled_from(["", " ", "  ", "\n", "\t "])


@st.composite
def numbers(draw: st.DrawFn, depth: int = 3) -> str:
    form = draw(
        st.sampled_from(["name", "literal", *["sum", "product", "sign", "parentheses", "call", "square"] * (depth > 0)])
    )
    if form == "name":
        return draw(st.sampled_from(NUMBERS))
    if form == "literal":
        return draw(st.sampled_from(["0", "1", "2", "3.5", ".5", "2.", "1e1", "40"]))
    inner = numbers(depth - 1)
    if form in ("sum", "product"):
        signs = draw(st.sampled_from([["+", "-"], ["*", "/"]]))
        parts = draw(st.lists(inner, min_size=2, max_size=4))
        return parts[0] + "".join(
            f"{draw(blanks())}{draw(st.sampled_from(signs))}{draw(blanks())}{p}" for p in parts[1:]
        )
    if form == "call":
        name = draw(st.sampled_from(["abs", "min", "max"]))
        parts = draw(st.lists(inner, min_size=1 if name == "abs" else 2, max_size=1 if name == "abs" else 3))
        return f"{name}({', '.join(parts)})"
    text = draw(inner)
    return {"sign": f"-{text}", "parentheses": f"({text})", "square": f"{text}**2"}[form]


@st.composite
def conditions(draw: st.DrawFn, depth: int = 3) -> str:
    form = draw(
        st.sampled_from(["name", "literal", "chain", *["words", "signs", "not", "~", "parentheses"] * (depth > 0)])
    )
    if form == "name":
        return draw(st.sampled_from(CONDITIONS))
    if form == "literal":
        return draw(st.sampled_from(["True", "False"]))
    if form == "chain":
        parts = draw(st.lists(numbers(1), min_size=2, max_size=3))
        signs = st.sampled_from(["<", "<=", ">", ">=", "==", "!="])
        return parts[0] + "".join(f"{draw(blanks())}{draw(signs)} {part}" for part in parts[1:])
    inner = conditions(depth - 1)
    if form in ("words", "signs"):
        words = draw(
            st.sampled_from([[" and "], [" or "], [" and ", " or "]] if form == "words" else [["&"], ["|"], ["&", "|"]])
        )
        parts = draw(st.lists(inner, min_size=2, max_size=4))
        return parts[0] + "".join(draw(st.sampled_from(words)) + part for part in parts[1:])
    text = draw(inner)
    return {"not": f"not {text}", "~": f"~{text}", "parentheses": f"({text})"}[form]


def agrees(text: str, number: Any) -> bool:
    """Whether an expression is accepted and each event's value is that of Python."""
    try:
        expression = parse(text)
        found = expression(COLUMNS)
    except SelectionError:  # a condition where a number is needed, or the other way round
        return False
    for event, value in enumerate(found.tolist()):
        expected = in_python(text, event, number)
        same = value == expected if isinstance(value, bool) else expected is None or np.isclose(value, float(expected))
        assert expected is None or same, (text, str(expression), event, value, expected)
    assert parse(str(expression)) == expression
    np.testing.assert_array_equal(parse(str(expression))(COLUMNS), found)
    return True


@settings(max_examples=200, deadline=None)
@given(numbers())
def test_numbers_are_those_of_python(text: str) -> None:
    agrees(text, Fraction)


@settings(max_examples=200, deadline=None)
@given(conditions())
def test_conditions_are_those_of_python(text: str) -> None:
    agrees(text, float)


def test_comparison_with_python_is_not_empty() -> None:
    """Neither strategy is refused as a whole, nor does Python fail everywhere."""
    assert agrees("-n**2 + 3 * (pt - .5) / 2 < mass <= 91.5 and not fired or Flag_good", float)
    assert agrees("~fired & (n > 2) | Flag_good", float)
    assert agrees("min(n, 3, pt) - max(charge, -1) * abs(mass) / 7", Fraction)
    assert in_python("~fired & (n > 2) | Flag_good", 0, float) is True
    assert in_python("3 * n**2 / 7", 2, Fraction) == Fraction(12, 7)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("nMuon>=2 and(HLT_a|HLT_b)", "nMuon >= 2 and (HLT_a or HLT_b)"),
        ("Muon.pt   > 20", "Muon_pt > 20"),
        ("~HLT_a", "not HLT_a"),
        ("((nMuon) >= (2))", "nMuon >= 2"),
        ("\nnMuon >= 2\n  and MET_pt > 20\n", "nMuon >= 2 and MET_pt > 20"),
        ("a and (b and c)", "(a and b) and c"),
        ("1e3 < x", "1000. < x"),
    ],
)
def test_same_meaning_written_otherwise_is_equal(one: str, other: str) -> None:
    assert parse(one) == parse(other)
    assert hash(parse(one)) == hash(parse(other))
    assert str(parse(one)) == parse(other).text


@pytest.mark.parametrize(
    ("one", "other"), [("a - (b - c)", "a - b - c"), ("a / (b * c)", "a / b * c"), ("(-a)**2", "-a**2"),
                       ("(a**b)**c", "a**b**c"), ("(not a) == b", "not a == b"), ("a or b and c", "(a or b) and c")],
)  # fmt: skip
def test_parentheses_that_matter_are_kept(one: str, other: str) -> None:
    assert parse(one) != parse(other)
    assert parse(parse(one).text) == parse(one)


def test_names_are_in_order_of_first_use() -> None:
    assert parse("b > 1 and (a < b or Muon.pt > c)").names == ("b", "a", "Muon_pt", "c")
    assert parse("1 < 2").names == ()


def test_kind_of_an_expression() -> None:
    assert parse("nMuon >= 2").is_condition
    assert not parse("nMuon >= 2").is_number
    assert parse("mcWeight * scaleFactor_PILEUP").is_number
    assert not parse("mcWeight * scaleFactor_PILEUP").is_condition
    column = parse("HLT_IsoMu24")
    assert column.is_condition
    assert column.is_number
    assert not parse("HLT_IsoMu24", kind="condition").is_number
    with pytest.raises(SelectionError, match="the whole expression needs a condition"):
        parse("nMuon + 1", kind="condition")
    with pytest.raises(SelectionError, match="the whole expression needs a number"):
        parse("nMuon > 1", kind="number")


# --- Numbers as files have them ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", ["event == 18446744073709551615", "event > 18446744073709551614", "9223372036854775809 <= event"]
)
def test_event_numbers_are_compared_exactly(text: str) -> None:
    events = np.array([2**64 - 1, 2**64 - 2, 2**63], np.uint64)
    expected = {"==": [True, False, False], ">": [True, False, False], "<=": [True, True, False]}
    assert parse(text)({"event": events}).tolist() == expected[text.split()[1]]


def test_signed_and_unsigned_integers_are_compared_exactly() -> None:
    columns = {"event": np.array([2**63, 2**53 + 1], np.uint64), "other": np.array([-(2**63), 2**53], np.int64)}
    assert parse("event > other")(columns).tolist() == [True, True]
    assert parse("event == other")(columns).tolist() == [False, False]
    assert parse("event != -1")(columns).tolist() == [True, True]


def test_numbers_too_large_for_a_column_are_no_error() -> None:
    assert parse("n < 300 and n != 256")({"n": np.array([0, 255], np.uint8)}).tolist() == [True, True]


def test_counters_are_subtracted_without_wrapping_round() -> None:
    columns = {"nMuon": np.array([1], np.uint32), "nElectron": np.array([3], np.uint32)}
    assert parse("nMuon - nElectron")(columns).tolist() == [-2.0]
    assert parse("-nMuon < 0")(columns).tolist() == [True]


def test_float32_column_is_compared_with_the_number_as_written() -> None:
    """20.1 as float32 is 20.1000004: above 20.1, as the kernels see it."""
    assert parse("pt > 20.1")({"pt": np.array([20.1], np.float32)}).tolist() == [True]
    assert parse("pt == 0.1")({"pt": np.array([0.1], np.float32)}).tolist() == [False]


def test_division_by_zero_and_roots_of_negative_numbers_are_no_warning() -> None:
    columns = {"x": np.array([0.0, 1.0, -1.0])}
    assert parse("1 / x")(columns).tolist() == [np.inf, 1.0, -1.0]
    assert np.isnan(parse("sqrt(x)")(columns)).tolist() == [False, False, True]
    assert parse("0 / x == 0 / x")(columns).tolist() == [False, True, True]
    assert parse("max(x, x / x) > 0")(columns).tolist() == [False, True, True]


def test_flags_of_any_type_compare_with_zero_and_one() -> None:
    for values in (np.array([True, False]), np.array([1, 0], np.uint8), np.array([1, 0], np.int32)):
        assert parse("flag == 1")({"flag": values}).tolist() == [True, False]
        assert parse("flag != 0")({"flag": values}).tolist() == [True, False]


def test_constant_has_the_length_of_the_columns() -> None:
    assert parse("True")(COLUMNS).tolist() == [True] * 6
    assert parse("2 * 3")(COLUMNS).tolist() == [6.0] * 6
    assert parse("fired or True")(COLUMNS).tolist() == [True] * 6


def test_result_is_no_view_that_changes_a_column() -> None:
    flags = np.array([True, True, False])
    columns = {"a": flags, "b": flags.copy(), "c": ~flags}
    parse("a and b and c")(columns)
    assert flags.tolist() == [True, True, False]


# --- What is refused --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "position", "remedy"),
    [
        ("nMuon >= 2 and MET_pt + 1", 16, "Compare it with a number"),
        ("nMuon >= 2 & HLT_a", 10, "parentheses"),
        ("MET_pt > 20 and MET_pt", 17, "Compare it with a number"),
        ("nMuon >= 2 && HLT_a", 12, "Write `and`."),
        ("nMuon >= 2 || HLT_a", 12, "Write `or`."),
        ("!HLT_a", 1, "Write `not`."),
        ("nMuon = 2", 7, "write `==`"),
        ("(HLT_a or HLT_b) + 1", 1, "Remove the comparison."),
        ("(a > 1) == 1", 12, "alone"),
        ("-(a > 1)", 2, "Remove the comparison."),
        ("__import__('os')", 12, "no text"),
        ("().__class__", 3, "Use numbers"),
        ("x.__class__()", 1, "Known"),
        ("lambda: 0", 7, "Use numbers"),
        ("f'{x}'", 2, "no text"),
        ("9**9**9", 1, "Write the number itself."),
        ("x > 1 / 0", 5, "Write the number itself."),
        ("a if b else c", 3, "operator"),
        ("(x := 3)", 4, "Use numbers"),
        ("in > 3", 1, "Use numbers"),
        ("None", 1, "Use numbers"),
        ("\N{CYRILLIC CAPITAL LETTER EM}ET_pt > 3", 1, "Use numbers"),
        ("MET_pt \N{FULLWIDTH GREATER-THAN SIGN} 3", 8, "Use numbers"),
        ("MET_pt > \N{ARABIC-INDIC DIGIT THREE}", 10, "Use numbers"),
        ("x[0] > 1", 2, "no indexing"),
        ("x > 1 # cut", 7, "comment"),
        ("x ^ 2", 3, "`**`"),
        ("x // 2", 3, "`/`"),
        ("x % 2", 3, "Use numbers"),
        ("0x10 > x", 1, "Use numbers"),
        ("1_000 > x", 1, "Use numbers"),
        ("1j", 1, "Use numbers"),
        ("2and x", 1, "Use numbers"),
        ("18446744073709551616 > x", 1, "below 2**64"),
        ("1" * 5000, 1, "below 2**64"),
        ("1e999 > x", 1, "1.8e308"),
        ("a b", 3, "operator"),
        ("(a", 3, "Add `)`"),
        ("a)", 2, "operator"),
        ("abs", 1, "Use numbers"),
        ("abs(a, b)", 1, "one number"),
        ("()", 2, "Complete"),
        ("min(a)", 1, "two numbers"),
        ("sqr(a)", 1, "Did you mean sqrt?"),
        ("a < not b", 5, "Complete"),
        ("a <> b", 4, "Complete"),
        ("a == b and", 11, "Complete"),
        ("", 1, "Complete"),
        ("x > 1\0", 6, "Use numbers"),
        ("x; y", 2, "Use numbers"),
        ("*a", 1, "Complete"),
    ],
)  # fmt: skip
def test_what_is_no_expression_is_refused_with_place_and_remedy(text: str, position: int, remedy: str) -> None:
    with pytest.raises(SelectionError) as caught:
        parse(text)
    assert f"character {position}:" in caught.value.message
    assert remedy in caught.value.hint
    assert "\n" not in caught.value.message
    assert len(caught.value.message) < 400


@pytest.mark.parametrize(
    "text",
    ["(" * 10_000_000, "-" * 50_000 + "x", "not " * 10_000 + "x", "(" * 200 + "x" + ")" * 200, "2**" * 20_000 + "2",
     "abs(" * 5_000, "x+" * 32_000, "a" * 10_000_000, "~" * 60_000],
)  # fmt: skip
def test_huge_input_is_refused_at_once(text: str) -> None:
    before = time.process_time()
    with pytest.raises(SelectionError):
        parse(text)
    assert time.process_time() - before < 2


@pytest.mark.parametrize("text", [None, 2, b"x > 1", ["x > 1"]])
def test_what_is_no_text_is_refused(text: Any) -> None:
    with pytest.raises(SelectionError, match="an expression is a string"):
        parse(text)


def test_long_sums_and_lists_of_triggers_are_evaluated() -> None:
    names = [f"HLT_path{number}" for number in range(1500)]
    columns = {name: np.zeros(3, bool) for name in names}
    columns[names[-1]] = np.array([False, True, False])
    assert parse(" or ".join(names))(columns).tolist() == [False, True, False]
    assert parse("+".join(["x"] * 20_000))({"x": np.ones(1)}).tolist() == [20_000.0]


def test_unknown_column_is_named_with_the_nearest() -> None:
    with pytest.raises(SelectionError, match="character 12: no column 'MET_pT'") as caught:
        parse("nMuon > 1 &MET_pT".replace("&", "<"), allowed=["nMuon", "MET_pt"])
    assert caught.value.hint == "Did you mean MET_pt?"
    with pytest.raises(SelectionError, match="character 9: MET_pT: no such column"):
        parse("nMuon < MET_pT")({"nMuon": np.ones(2), "MET_pt": np.ones(2)})


def test_column_that_does_not_fit_its_use_is_refused() -> None:
    columns = {"nMuon": np.arange(3), "MET_pt": np.ones(3), "HLT_a": np.ones(3, bool), "name": np.array(["a"] * 3)}
    with pytest.raises(SelectionError, match="character 16: MET_pt: is a number where a condition is needed") as caught:
        parse("nMuon >= 2 and MET_pt")(columns)
    assert "MET_pt > 0" in caught.value.hint
    with pytest.raises(SelectionError, match="character 5: HLT_a: is a condition where a number is needed"):
        parse("2 * HLT_a")(columns)
    with pytest.raises(SelectionError, match="is a number where a condition"):
        parse("nMuon", kind="condition")(columns)
    with pytest.raises(SelectionError, match="which are no numbers"):
        parse("name == 1")(columns)
    with pytest.raises(SelectionError, match="different lengths: nMuon 3, x 2"):
        parse("nMuon > x")({**columns, "x": np.ones(2)})


# --- As a value -------------------------------------------------------------------------------------


def test_expression_travels() -> None:
    for text, kind in (("nMuon >= 2 and (a or b)", None), ("HLT_a", "condition"), ("w", "number"), ("w", None)):
        expression = parse(text, kind=kind)  # type: ignore[arg-type]
        copy = pickle.loads(pickle.dumps(expression))  # noqa: S301
        assert (copy, copy.names, copy.kind, repr(copy)) == (expression, expression.names, expression.kind, text)
    with pytest.raises(AttributeError):
        parse("a").text = "b"  # type: ignore[misc]


def test_conditions_are_joined() -> None:
    columns = {"a": np.array([True, True, False]), "b": np.array([True, False, False]), "n": np.array([1, 2, 3])}
    both = Expression.all_of([parse("a or b"), "n < 2"])
    assert str(both) == "(a or b) and n < 2"
    assert both(columns).tolist() == [True, False, False]
    assert str(Expression.any_of(["a and b", parse("n > 2")])) == "a and b or n > 2"
    assert Expression.any_of(["a and b", "n > 2"])(columns).tolist() == [True, False, True]
    assert Expression.all_of([])(columns).all()
    assert not Expression.any_of([])(columns).any()
    with pytest.raises(SelectionError, match="needs a condition"):
        Expression.all_of(["n + 1"])


def test_evaluation_costs_no_more_than_its_numpy_operations() -> None:
    generator = np.random.default_rng(1)
    n = 250_000
    number, met = generator.integers(0, 5, n).astype(np.uint32), generator.random(n, np.float32) * 50
    one, two = generator.random((2, n)) > 0.5
    columns = {"nMuon": number, "MET_pt": met, "HLT_a": one, "HLT_b": two}
    expression = parse("nMuon >= 2 and MET_pt > 20.1 and (HLT_a or HLT_b)")

    def with_numpy() -> Any:
        return np.logical_and(np.logical_and(number >= 2, met > np.float64(20.1)), np.logical_or(one, two))

    def seconds(work: Any) -> float:
        before = time.process_time()
        for _ in range(10):
            work()
        return time.process_time() - before

    assert (expression(columns) == with_numpy()).all()
    ratios = [seconds(lambda: expression(columns)) / seconds(with_numpy) for _ in range(15)]
    assert min(ratios) < 1.2
