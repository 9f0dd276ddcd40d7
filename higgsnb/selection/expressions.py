"""Expressions of columns, such as ``nMuon >= 2 and (HLT_IsoMu24 or HLT_IsoTkMu24)``, without `eval`.

The syntax is a small part of Python's: numbers, names of columns, ``+ - * / **``, comparisons (also chains such as
``60 < mass < 120``), ``and or not``, parentheses, ``abs min max sqrt``, ``True False``. ``& | ~`` are ``and or not``
with Python's precedence, and a dot in a name is an underscore: ``Muon.pt`` is ``Muon_pt``.

An expression is a *condition* (true or false) or a *number*, and the two are never mixed. What is computed is computed
in float64 as IEEE 754 has it: a division by zero gives infinity or NaN. Comparisons of integers are exact.
"""

from __future__ import annotations

import keyword
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, NamedTuple, NoReturn

import numpy as np
import numpy.typing as npt

from higgsnb.errors import SelectionError, did_you_mean
from higgsnb.text import shown

LONGEST, DEEPEST = 65_536, 32
"""Most characters of an expression, and most parentheses (or signs) inside each other."""

Kind = Literal["condition", "number", "column"]
"""What an expression is: of a lone column only its values can tell."""

_Evaluate = Callable[[Sequence[npt.NDArray[Any]]], Any]

_TOKEN = re.compile(
    r"(?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)(?![\w.])|(?P<name>[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)"
    r"|(?P<operator>\*\*(?!\*)|[<>=!]=|//|&&|[|][|]|[-+*/<>()&|~,])",
    re.ASCII,
)
_BLANK = re.compile(r"[ \t\r\n]*")
_OR, _AND, _NOT, _COMPARISON, _SUM, _PRODUCT, _SIGN, _POWER, _ATOM = range(9)  # how tightly an operator binds
_COMPARISONS = {
    "<": np.less, "<=": np.less_equal, ">": np.greater, ">=": np.greater_equal, "==": np.equal, "!=": np.not_equal,
}  # fmt: skip
_ARITHMETIC = {"+": np.add, "-": np.subtract, "*": np.multiply, "/": np.divide}
_FUNCTIONS = {"abs": np.absolute, "sqrt": np.sqrt, "min": np.minimum, "max": np.maximum}
_HINTS = {
    "&&": "Write `and`.", "||": "Write `or`.", "!": "Write `not`.", "=": "To compare, write `==`.",
    "^": "A power is written `**`.", "//": "Division is written `/`.", "[": "There is no indexing: name the column.",
    '"': "There is no text in an expression.", "'": "There is no text in an expression.", "#": "Remove the comment.",
}  # fmt: skip
_KINDS = {"condition": "Compare it with a number: {0} > 0 or {0} != 0.", "number": "Use it without comparing it: {0}."}


class _Token(NamedTuple):
    """A piece of the text: ``kind`` is that of the pattern, or "end"."""

    kind: str
    text: str
    start: int


class _Term(NamedTuple):
    """A part of an expression: normalised ``text``, and ``evaluate`` (or the ``value`` of a constant)."""

    text: str
    level: int
    kind: Kind
    start: int
    evaluate: _Evaluate
    value: float | None = None

    def inside(self, level: int) -> str:
        """Return the text as an operand of an operator that binds as tightly as ``level``."""
        return self.text if self.level >= level else f"({self.text})"


@dataclass(frozen=True, repr=False)
class Expression:
    """An expression that was checked by `parse`; called with columns it is evaluated for each of their elements.

    Two expressions are equal if their normalised ``text`` is. ``names`` are the columns in the order of first use.
    """

    text: str
    names: tuple[str, ...] = field(compare=False)
    kind: Kind = field(compare=False)
    _kinds: tuple[Kind, ...] = field(compare=False)
    _evaluate: _Evaluate = field(compare=False)

    @property
    def is_condition(self) -> bool:
        """Whether it is true or false for an event; a lone column can be that as well as a number."""
        return self.kind != "number"

    @property
    def is_number(self) -> bool:
        """Whether it is a number for an event; a lone column can be that as well as a condition."""
        return self.kind != "condition"

    def __call__(self, columns: Mapping[str, npt.NDArray[Any]]) -> npt.NDArray[Any]:
        """Return the value for each element of the columns, (n,): bool of a condition, float64 of a number.

        Raises
        ------
        SelectionError
            If a column is missing, has another length than the others, or numbers where conditions are needed.
        """
        values = [self._column(columns, name, kind) for name, kind in zip(self.names, self._kinds, strict=True)]
        if any(value.shape != values[0].shape for value in values):
            lengths = ", ".join(f"{name} {len(value)}" for name, value in zip(self.names, values, strict=True))
            hint = "Use either columns with one value per event or columns of one collection."
            raise SelectionError(f"expression {shown(self.text)}: columns of different lengths: {lengths}", hint)
        with np.errstate(all="ignore"):
            found = np.asarray(self._evaluate(values))
        if not values:
            found = np.full(next((np.shape(column) for column in columns.values()), ()), found)
        is_condition = self.kind == "condition" or (self.kind == "column" and found.dtype.kind == "b")
        return found if is_condition else found.astype(np.float64, copy=False)

    def _column(self, columns: Mapping[str, npt.NDArray[Any]], name: str, kind: Kind) -> npt.NDArray[Any]:
        """Return a column if it fits its use."""
        if name not in columns:
            self._refuse(name, "no such column", did_you_mean(name, columns))
        values = np.asarray(columns[name])
        if values.dtype.kind not in "biuf":
            self._refuse(name, f"a column of {values.dtype} values, which are no numbers", "Use another column.")
        if kind != "column" and (values.dtype.kind == "b") != (kind == "condition"):
            wrong = "number" if kind == "condition" else "condition"
            self._refuse(name, f"is a {wrong} where a {kind} is needed", _KINDS[kind].format(name))
        return values

    def _refuse(self, name: str, what: str, hint: str) -> NoReturn:
        found = re.search(rf"(?<![\w.]){name}(?!\w)", self.text)
        start = found.start() if found else 0
        raise SelectionError(f"expression {_excerpt(self.text, start)}, character {start + 1}: {name}: {what}", hint)

    def __repr__(self) -> str:
        return self.text

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(parse, kind=None if self.kind == "column" else self.kind), (self.text,)

    @classmethod
    def all_of(cls, conditions: Iterable[Expression | str]) -> Expression:
        """Return the condition that all of some conditions are true; ``True`` if there are none."""
        return _joined("and", "True", conditions)

    @classmethod
    def any_of(cls, conditions: Iterable[Expression | str]) -> Expression:
        """Return the condition that one or more of some conditions are true; ``False`` if there are none."""
        return _joined("or", "False", conditions)


def parse(
    text: str, *, allowed: Collection[str] | None = None, kind: Literal["condition", "number"] | None = None
) -> Expression:
    """Check an expression.

    Parameters
    ----------
    text
        See the module for the syntax. Line breaks count as blanks.
    allowed
        Names of the columns that there are; without it, every name is taken for one.
    kind
        What it has to be: a preselection is a condition, a weight a number.

    Raises
    ------
    SelectionError
        If it is not an expression, or not of this kind; the message gives the position, the hint a remedy.
    """
    if not isinstance(text, str):
        raise SelectionError(f"an expression is a string, not {shown(text)}", "Put it in quotes.")
    if len(text) > LONGEST:
        hint = f"The longest has {LONGEST:,}. Compute it in the function of the analysis."
        raise SelectionError(f"an expression of {len(text):,} characters", hint)
    return _Parser(text, allowed).expression(kind)


def _joined(word: str, neutral: str, conditions: Iterable[Expression | str]) -> Expression:
    parts = [parse(str(part), kind="condition").text for part in conditions]
    return parse(f" {word} ".join(f"({part})" for part in parts) if parts else neutral, kind="condition")


def _excerpt(text: str, start: int) -> str:
    """Return the repr of an expression for a message, of a long one what is around a position."""
    if len(text) <= 80:
        return shown(text, 100)
    begin, end = max(start - 40, 0), start + 40
    return shown("…" * (begin > 0) + text[begin:end] + "…" * (end < len(text)), 100)


class _Parser:
    """Turns a text into terms; each method reads what binds as tightly as its name says, or more."""

    def __init__(self, text: str, allowed: Collection[str] | None) -> None:
        self.text, self.allowed, self.depth = text, allowed, 0
        self.columns: dict[str, Kind] = {}
        self.tokens = self._tokens()
        self.index = 0

    def fail(self, start: int, what: str, hint: str) -> NoReturn:
        raise SelectionError(f"expression {_excerpt(self.text, start)}, character {start + 1}: {what}", hint)

    def _tokens(self) -> list[_Token]:
        """Split the text."""
        tokens, end = [], 0
        while (end := self._after_blanks(end)) < len(self.text):
            found = _TOKEN.match(self.text, end)
            if found is None or found.group() in _HINTS:
                wrong = found.group() if found else self.text[end]
                hint = _HINTS.get(wrong, "Use numbers, names of columns, + - * / **, comparisons, and, or, not, ( ).")
                what = "a number of this form" if wrong.isdigit() and wrong.isascii() else shown(wrong)
                self.fail(end, f"{what} has no meaning in an expression", hint)
            tokens.append(_Token(str(found.lastgroup), found.group(), end))
            end = found.end()
        return [*tokens, _Token("end", "", len(self.text))]

    def _after_blanks(self, start: int) -> int:
        found = _BLANK.match(self.text, start)
        return found.end() if found else start

    @property
    def next(self) -> _Token:
        return self.tokens[self.index]

    def take(self, *texts: str) -> _Token | None:
        """Return the next token and go on, if it is one of these."""
        token = self.next
        if token.kind == "number" or token.text not in texts:
            return None
        self.index += 1
        return token

    def expression(self, kind: Literal["condition", "number"] | None) -> Expression:
        term = self.either()
        if self.next.kind != "end":
            hint = "Put an operator (and, or, +, <, …) in between, or remove it."
            self.fail(self.next.start, f"{shown(self.next.text)} is not expected here", hint)
        if kind is not None:
            term = self.needed(term, kind, "the whole expression")
        found = kind or term.kind
        return Expression(term.text, tuple(self.columns), found, tuple(self.columns.values()), term.evaluate)

    def needed(self, term: _Term, kind: Kind, user: str) -> _Term:
        """Return an operand if it is of a kind."""
        if term.kind == "column":
            before = self.columns[term.text]
            if before not in ("column", kind):
                what = f"{term.text} is used as a {kind}, elsewhere as a {before}"
                self.fail(term.start, what, _KINDS["condition"].format(term.text))
            self.columns[term.text] = kind
        elif term.kind != kind:
            what = f"{shown(term.text, 40)} is a {term.kind}, but {user} needs a {kind}"
            hint = _KINDS[kind].format(term.inside(_SUM)) if kind == "condition" else "Remove the comparison."
            if user in ("==", "!="):
                hint = "The other side is a condition: write it alone, or with `not`."
            elif user in ("&", "|"):
                hint = f"Put each comparison in parentheses: {user} binds more tightly than < or ==."
            self.fail(term.start, what, hint)
        return term

    def either(self) -> _Term:
        return self._connected(_OR, ("or",), self.both, np.logical_or)

    def both(self) -> _Term:
        return self._connected(_AND, ("and",), self.negation, np.logical_and)

    def _connected(
        self, level: int, words: tuple[str, ...], operand: Callable[[], _Term], ufunc: np.ufunc
    ) -> _Term:  # fmt: skip
        """Read conditions that are joined by one word or sign."""
        terms = [term for _, term in self._operands(words, operand, "condition")]
        if len(terms) == 1:
            return terms[0]
        text = (" or " if level == _OR else " and ").join(term.inside(level) for term in terms)
        evaluates = [term.evaluate for term in terms]

        def evaluate(columns: Sequence[npt.NDArray[Any]]) -> Any:
            found = ufunc(evaluates[0](columns), evaluates[1](columns))
            for other in evaluates[2:]:
                found = ufunc(found, other(columns))
            return found

        return self._term(text, level, "condition", terms, evaluate)

    def _operands(self, words: tuple[str, ...], operand: Callable[[], _Term], kind: Kind) -> list[tuple[str, _Term]]:
        """Read operands with some words or signs between them, each with the one before it."""
        read = [("", operand())]
        while found := self.take(*words):
            if len(read) == 1:
                self.needed(read[0][1], kind, found.text)
            read.append((found.text, self.needed(operand(), kind, found.text)))
        return read

    def _term(self, text: str, level: int, kind: Kind, parts: Sequence[_Term], evaluate: _Evaluate) -> _Term:
        """Return a term made of others; a constant if they are constants."""
        start = parts[0].start
        if any(part.value is None for part in parts):
            return _Term(text, level, kind, start, evaluate)
        with np.errstate(all="ignore"):
            value = evaluate(()).item()
        if kind == "number" and not np.isfinite(value):
            self.fail(start, f"{shown(text, 40)} is not a finite number", "Write the number itself.")
        return self._constant(value, text, level, start)

    def _constant(self, value: float, text: str, level: int, start: int) -> _Term:
        """Return a constant; one that is whole and below 2⁶⁴ is an integer, so that integers are compared with it."""
        if not isinstance(value, int) and value.is_integer() and abs(value) < 2**64:
            value = int(value)
        converted = np.bool_(value) if isinstance(value, bool) else np.float64(value)
        kind: Kind = "condition" if isinstance(value, bool) else "number"
        return _Term(text, level, kind, start, lambda _: converted, value)

    def negation(self) -> _Term:
        if (found := self.take("not")) is None:
            return self.comparison()
        return self._negated(found, self.deeper(self.negation), _NOT)

    def _negated(self, token: _Token, operand: _Term, level: int) -> _Term:
        operand = self.needed(operand, "condition", token.text)
        inner = operand.evaluate
        text = f"not {operand.inside(level)}"
        term = self._term(text, _NOT, "condition", [operand], lambda columns: np.logical_not(inner(columns)))
        return term._replace(start=token.start)

    def deeper(self, read: Callable[[], _Term]) -> _Term:
        """Read something inside something else."""
        self.depth += 1
        if self.depth > DEEPEST:
            self.fail(self.next.start, f"more than {DEEPEST} levels inside each other", "Remove parentheses.")
        term = read()
        self.depth -= 1
        return term

    def comparison(self) -> _Term:
        terms, signs = [self._connected(_OR, ("|",), self._ampersands, np.logical_or)], []
        while found := self.take(*_COMPARISONS):
            signs.append(found.text)
            terms.append(self._connected(_OR, ("|",), self._ampersands, np.logical_or))
        if not signs:
            return terms[0]
        for sign, left, right in zip(signs, terms, terms[1:], strict=False):
            self._check_compared(sign, left, right)
        text = terms[0].inside(_SUM) + "".join(
            f" {sign} {term.inside(_SUM)}" for sign, term in zip(signs, terms[1:], strict=True)
        )
        return self._term(text, _COMPARISON, "condition", terms, _compare([_COMPARISONS[s] for s in signs], terms))

    def _ampersands(self) -> _Term:
        return self._connected(_AND, ("&",), self.sum, np.logical_and)

    def _check_compared(self, sign: str, left: _Term, right: _Term) -> None:
        """Fail if one is a condition and the other a number; columns of flags may be compared with 0 and 1."""
        is_equality = sign in ("==", "!=")
        for term, other in ((left, right), (right, left)):
            if not is_equality:
                self.needed(term, "number", sign)
            elif other.kind == "condition":
                self.needed(term, "condition", sign)

    def sum(self) -> _Term:
        return self._computed(_SUM, ("+", "-"), self.product)

    def product(self) -> _Term:
        return self._computed(_PRODUCT, ("*", "/"), self.sign)

    def _computed(self, level: int, signs: tuple[str, str], operand: Callable[[], _Term]) -> _Term:
        """Read numbers that are joined by + and -, or by * and /."""
        (_, first), *others = self._operands(signs, operand, "number")
        if not others:
            return first
        text = first.inside(level) + "".join(f" {sign} {term.inside(level + 1)}" for sign, term in others)
        terms = [first, *(term for _, term in others)]
        steps = [(_ARITHMETIC[sign], term.evaluate) for sign, term in others]

        def evaluate(columns: Sequence[npt.NDArray[Any]]) -> Any:
            found = first.evaluate(columns)
            for ufunc, other in steps:
                found = ufunc(found, other(columns), dtype=np.float64)
            return found

        return self._term(text, level, "number", terms, evaluate)

    def sign(self) -> _Term:
        if (found := self.take("-", "+", "~")) is None:
            return self.power()
        operand = self.deeper(self.sign)
        if found.text == "~":
            return self._negated(found, operand, _NOT)
        operand = self.needed(operand, "number", found.text)
        if found.text == "+":
            return operand if operand.kind == "number" else self._apply("+", [operand], np.positive)
        if operand.value is not None:
            return self._constant(-operand.value, f"-{operand.inside(_SIGN)}", _SIGN, found.start)
        return self._apply("-", [operand], np.negative)._replace(start=found.start)

    def _apply(self, name: str, terms: list[_Term], ufunc: np.ufunc) -> _Term:
        """Return a sign or a function with its arguments."""
        is_sign = name in ("+", "-")
        text = f"{name}{terms[0].inside(_SIGN)}" if is_sign else f"{name}({', '.join(term.text for term in terms)})"
        first, others = terms[0].evaluate, [term.evaluate for term in terms[1:]]

        def evaluate(columns: Sequence[npt.NDArray[Any]]) -> Any:
            found = first(columns)
            if not others:
                return ufunc(found, dtype=np.float64)
            for other in others:
                found = ufunc(found, other(columns), dtype=np.float64)
            return found

        return self._term(text, _SIGN if is_sign else _ATOM, "number", terms, evaluate)

    def power(self) -> _Term:
        base = self.atom()
        if self.take("**") is None:
            return base
        exponent = self.deeper(self.sign)
        terms = [self.needed(term, "number", "**") for term in (base, exponent)]
        text = f"{base.inside(_ATOM)}**{exponent.inside(_SIGN)}"
        of, to = base.evaluate, exponent.evaluate

        def evaluate(columns: Sequence[npt.NDArray[Any]]) -> Any:
            return np.power(of(columns), to(columns), dtype=np.float64)

        def square(columns: Sequence[npt.NDArray[Any]]) -> Any:
            return np.square(of(columns), dtype=np.float64)  # np.power is much slower, and takes no notice of the 2

        return self._term(text, _POWER, "number", terms, square if exponent.value == 2 else evaluate)

    def atom(self) -> _Term:
        token = self.next
        if self.take("("):
            term = self.deeper(self.either)
            self.close()
            return term._replace(start=token.start)
        self.index += 1
        if token.kind == "number":
            return self._number(token)
        if token.text in ("True", "False"):
            return self._constant(token.text == "True", token.text, _ATOM, token.start)
        if token.kind != "name" or token.text in ("and", "or", "not"):
            what = "ends" if token.kind == "end" else f"has {shown(token.text)}"
            self.fail(token.start, f"the expression {what} where a number or a column is expected", "Complete it.")
        return self._call(token) if self.take("(") else self._column(token)

    def close(self) -> None:
        if self.take(")") is None:
            self.fail(self.next.start, "a parenthesis is not closed here", "Add `)`, or an operator before this.")

    def _number(self, token: _Token) -> _Term:
        digits = token.text
        value: float = np.inf
        if len(digits) <= 400:
            value = int(digits) if digits.isdigit() else float(digits)
        if value >= (2**64 if isinstance(value, int) else np.inf):
            self.fail(token.start, "a number that is too large", "Integers are below 2**64, others below 1.8e308.")
        return self._constant(value, repr(value), _ATOM, token.start)

    def _call(self, token: _Token) -> _Term:
        """Read the arguments of a function."""
        if token.text not in _FUNCTIONS:
            self.fail(token.start, f"no function {shown(token.text)}", did_you_mean(token.text, _FUNCTIONS))
        terms = [] if self.next.text == ")" else [self.deeper(self.either)]
        while terms and self.take(","):
            terms.append(self.deeper(self.either))
        self.close()
        is_single = token.text in ("abs", "sqrt")
        if len(terms) < 2 - is_single or (is_single and len(terms) > 1):
            needs = "one number" if is_single else "two numbers or more"
            self.fail(token.start, f"{token.text} of {len(terms)} numbers", f"It takes {needs}, with commas between.")
        terms = [self.needed(term, "number", token.text) for term in terms]
        return self._apply(token.text, terms, _FUNCTIONS[token.text])._replace(start=token.start)

    def _column(self, token: _Token) -> _Term:
        name = token.text.replace(".", "_")
        if keyword.iskeyword(token.text) or token.text in _FUNCTIONS:
            known = "a function: write its argument in parentheses" if token.text in _FUNCTIONS else "a word of Python"
            hint = "Use numbers, names of columns, + - * / **, comparisons, and, or, not, ( )."
            self.fail(token.start, f"{token.text} is {known}, not a column", hint)
        if self.allowed is not None and name not in self.allowed:
            self.fail(token.start, f"no column {shown(name)}", did_you_mean(name, self.allowed))
        self.columns.setdefault(name, "column")
        index = list(self.columns).index(name)
        return _Term(name, _ATOM, "column", token.start, lambda columns: columns[index])


def _compare(ufuncs: list[np.ufunc], terms: list[_Term]) -> _Evaluate:
    """Return the function that compares each value with the next and tells where all comparisons are true."""

    def evaluate(columns: Sequence[npt.NDArray[Any]]) -> Any:
        values = [term.evaluate(columns) for term in terms]
        found = None
        for number, ufunc in enumerate(ufuncs):
            left, right = values[number], values[number + 1]
            of, to = terms[number].value, terms[number + 1].value
            # With an integer constant of Python, NumPy compares integers of any size exactly.
            if of is not None and (to is not None or right.dtype.kind in "iu"):
                left = of
            if to is not None and (of is not None or left.dtype.kind in "iu"):
                right = to
            here = ufunc(left, right)
            found = here if found is None else np.logical_and(found, here)
        return found

    return evaluate
