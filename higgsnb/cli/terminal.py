"""What a terminal shows: colour where it has it, text without control characters, tables that fit."""

from __future__ import annotations

import json
import os
import shutil
import textwrap
from collections.abc import Sequence
from typing import Any
from unicodedata import combining, normalize

import click

from higgsnb.text import plain

WIDTH = 80
"""Most columns of a table or a paragraph, however wide the terminal is."""
SHORTEST_NAME = 12
"""Fewest characters that are left of a name in a table."""
SPELLED = {"±": "+-", "√": "sqrt", "→": "->", "μ": "u", "−": "-", "–": "-", "—": "-", "≤": "<=", "≥": ">="}
"""How letters are written on a terminal that cannot print them."""


def spelled(error: UnicodeError) -> tuple[str, int]:
    """Return ASCII for letters that cannot be encoded, and where to go on: a handler for `codecs.register_error`."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    missing = normalize("NFKD", error.object[error.start : error.end])  # without accents, indices and ligatures
    letters = [
        SPELLED.get(letter) or (letter if letter.isascii() else "?") for letter in missing if not combining(letter)
    ]
    return "".join(letters), error.end


def wants_colour() -> bool | None:
    """Whether to print in colour; None: on a stream that is a terminal. See no-color.org and force-color.org."""
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR", "0") not in ("", "0"):
        return True
    return False if os.environ.get("TERM") == "dumb" else None


def show(line: str, *, err: bool = False, **style: Any) -> None:
    """Print a line, made `plain`, in a style of `click.style`."""
    text = plain(line)
    click.echo(click.style(text, **style) if style else text, err=err)


def show_json(content: object) -> None:
    """Print one JSON document on stdout, in ASCII."""
    click.echo(json.dumps(content, indent=1, allow_nan=False))


def columns() -> int:
    """Return how many columns there are to print in."""
    return min(shutil.get_terminal_size((WIDTH, 24)).columns, WIDTH)


def paragraph(prefix: str, text: str) -> list[str]:
    """Break a text into lines that fit, the first after ``prefix`` and the others below it; words stay whole."""
    indent = " " * len(prefix)
    wrapped = textwrap.wrap(
        text, columns(), initial_indent=prefix, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )
    return wrapped or [prefix.rstrip()]


def fits(rows: Sequence[Sequence[str]], *, margin: int = 0) -> bool:
    """Whether a table of these cells fits beside a margin, once the names in the first column are shortened."""
    return _width([[_shortened(row[0], SHORTEST_NAME), *row[1:]] for row in rows]) + margin <= columns()


def table(rows: Sequence[Sequence[str]], *, texts: int = 1, margin: int = 0) -> list[str]:
    """Lay out the rows of a table, the first ``texts`` columns to the left and the numbers after them to the right.

    If it is too wide beside a margin, the text columns after the first are left out, then the names in the first are
    shortened.
    """
    room = columns() - margin
    while texts > 1 and _width(rows) > room:
        texts -= 1
        rows = [[*row[:texts], *row[texts + 1 :]] for row in rows]
    longest = max(len(row[0]) for row in rows)
    limit = max(SHORTEST_NAME, longest - max(0, _width(rows) - room))
    rows = [[_shortened(row[0], limit), *row[1:]] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if index < texts else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _width(rows: Sequence[Sequence[str]]) -> int:
    """Return the width of a table with two blanks between its columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return sum(widths) + 2 * (len(widths) - 1)


def _shortened(name: str, limit: int) -> str:
    """Return a name with its middle left out if it is longer than ``limit``."""
    kept = limit - 1
    return name if len(name) <= limit else f"{name[: kept - kept // 2]}…{name[len(name) - kept // 2 :]}"
