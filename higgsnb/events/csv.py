"""Read the CSV files of four-lepton candidates: one row per candidate, as in record 5200."""

from __future__ import annotations

import csv
import re
from array import array
from collections.abc import Container
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from higgsnb.datasets import Version
from higgsnb.errors import SchemaError, UnreadableError, did_you_mean
from higgsnb.events.schema import MASSES, FileInfo, offsets_of
from higgsnb.selection import ELECTRON, MUON, Leptons
from higgsnb.text import read_text, shown, to_float, to_int

CSV_COLUMNS = ("Run", "Event", *(f"{name}{i}" for i in range(1, 5) for name in ("PID", "pt", "eta", "phi", "Q")))
FETCH = "Correct the line, or fetch the file again."


class _Rows(NamedTuple):
    """The rows of a CSV: run (n,) int64, event (n,) uint64, leptons (n, 4, [PID, pt, eta, phi, Q]) float64."""

    run: npt.NDArray[np.int64]
    event: npt.NDArray[np.uint64]
    leptons: npt.NDArray[np.float64]


def inspect_csv(location: str) -> FileInfo:
    """Check a CSV file and count its rows."""
    return FileInfo(len(_rows(location, Version.of_file(location)).run), "CSV", Path(location).stat().st_size, None)


@lru_cache(maxsize=16)
def _rows(location: str, _version: Version) -> _Rows:
    """Read a whole CSV file; it is read again after it changed."""
    text = read_text(Path(location), location, "CSV file", undecodable="replace")
    if not text.strip():
        raise UnreadableError(f"{location}: is empty ({Path(location).stat().st_size} bytes)", "Fetch the file again.")
    lines = text.split("\n")
    head = next(number for number, line in enumerate(lines) if line.strip())
    fields, columns, separator = _header(lines[head], location)
    run, event, leptons = [], [], array("d")
    reader = csv.reader(lines[head + 1 :], delimiter=separator, skipinitialspace=True, strict=True)
    before = 0
    try:
        for row in reader:
            line, before = f"{location}, line {head + 1 + reader.line_num}", before + 1
            if reader.line_num != before:
                raise UnreadableError(f"{line}: not a row of numbers: a quoted cell of several lines", FETCH)
            if not any(cell.strip() for cell in row):
                continue
            cells = row + [""] * (fields - len(row))
            run_number, event_number, *numbers = (
                _number(line, name, cells[at]) for name, at in zip(CSV_COLUMNS, columns, strict=True)
            )
            if len(row) < fields or any(cell.strip() for cell in row[fields:]):
                raise UnreadableError(f"{line}: not a row of numbers: {len(row)} cells, {fields} in the header", FETCH)
            run.append(run_number)
            event.append(event_number)
            leptons.extend(numbers)
    except csv.Error as error:
        line = f"{location}, line {head + 1 + reader.line_num}"
        raise UnreadableError(f"{line}: not a row of numbers: {error}", FETCH) from error
    return _Rows(
        np.array(run, np.int64), np.array(event, np.uint64), np.array(leptons, np.float64).reshape(len(run), 4, 5)
    )


def _header(line: str, location: str) -> tuple[int, list[int], str]:
    """Return the number of columns, the indices of `CSV_COLUMNS`, and the separator: comma, semicolon or tab."""
    names, separator = max(
        (
            ([name.strip() for name in next(csv.reader([line], delimiter=separator, skipinitialspace=True))], separator)
            for separator in ",;\t"
        ),
        key=lambda found: len(set(found[0]) & set(CSV_COLUMNS)),
    )
    while names and not names[-1]:
        names.pop()
    missing = [name for name in CSV_COLUMNS if name not in names]
    if missing:
        raise SchemaError(
            f"{location}: the CSV lacks the columns {', '.join(missing[:6])}",
            " ".join(f"For {name}: {did_you_mean(name, names)}" for name in missing[:3])
            + " Columns are separated by commas, semicolons or tabs.",
        )
    twice = [name for name in CSV_COLUMNS if names.count(name) > 1]
    if twice:
        raise SchemaError(f"{location}: the CSV has more than one column {', '.join(twice)}", "Remove one of them.")
    number = next((name for name in names if re.fullmatch(r"[-+]?[0-9]+(\.[0-9]*)?", name)), None)
    if number is not None:
        what = f"the CSV has a number among the names of its columns: {shown(number, 40)}"
        raise SchemaError(f"{location}: {what}", "Is the end of the first line missing? The header has its own line.")
    return len(names), [names.index(name) for name in CSV_COLUMNS], separator


_WHOLE_NUMBERS: dict[str, tuple[str, Container[int]]] = {
    "Run": ("a whole number from 0 to 2147483647", range(2**31)),
    "Event": ("a whole number from -2147483648 to 9223372036854775807", range(-(2**31), 2**63)),
    "PID": ("11, -11, 13 or -13", (11, -11, 13, -13)),
    "Q": ("1 or -1", (1, -1)),
}
"""Allowed values of the columns that hold no measured quantity: in words, and as numbers."""


def _number(line: str, name: str, text: str) -> float:
    """Return the number in one cell of a line, an `int` in the columns of `_WHOLE_NUMBERS`."""
    column = name.rstrip("1234")
    expected, allowed = _WHOLE_NUMBERS.get(column, ("a number", None))
    what = ""
    try:
        value = to_float(text)
    except ValueError:
        what = "not a row of numbers: "
    else:
        if allowed is None:
            return value
        number: int | None
        try:
            number = to_int(text)
        except ValueError:  # 12.0 or 1e5; beyond 2**53 a float no longer tells neighbours apart
            number = int(value) if value.is_integer() and abs(value) <= 2**53 else None
        if number is not None and number in allowed:
            return number % 2**32 if column == "Event" and number < 0 else number
    raise UnreadableError(
        f"{line}: {what}{name} is {shown(text, 42)}, expected {expected}",
        "Write decimals with a point." if re.fullmatch(r"-?\d+,\d+", text) else FETCH,
    )


def read_csv(location: str, start: int, stop: int) -> Leptons:
    """Read the rows [start, stop) of a CSV file; negative Event numbers are wrapped 32-bit integers."""
    rows, part = _rows(location, Version.of_file(location)), slice(start, stop)
    run, leptons = rows.run[part], rows.leptons[part]
    muons, electrons = _csv_flavour(leptons, MUON), _csv_flavour(leptons, ELECTRON)
    return Leptons._make((run, np.zeros(len(run), np.int64), rows.event[part], *muons, *electrons))


def _csv_flavour(leptons: npt.NDArray[np.float64], pdg_id: int) -> tuple[npt.NDArray[Any] | None, ...]:
    """Return the columns of one flavour from (n_rows, 4, [PID, pt, eta, phi, Q])."""
    mine = np.abs(leptons[:, :, 0]) == pdg_id
    with np.errstate(over="ignore"):  # infinite: counted with the invalid values
        pt, eta, phi = (leptons[:, :, i][mine].astype(np.float32) for i in (1, 2, 3))
    mass = np.full(len(pt), MASSES[pdg_id], np.float32)
    charge = leptons[:, :, 4][mine].astype(np.int32)
    return (offsets_of(mine.sum(axis=1)), pt, eta, phi, mass, charge, None, None, None, None, None)
