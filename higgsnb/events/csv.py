"""Read the CSV files of four-lepton candidates: one row per candidate, as in record 5200."""

from __future__ import annotations

import csv
from collections.abc import Container
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from higgsnb.datasets import Version
from higgsnb.errors import SchemaError, UnreadableError, did_you_mean
from higgsnb.events.schema import MASSES, FileInfo, diagnose, offsets_of
from higgsnb.selection import ELECTRON, MUON, Leptons

CSV_COLUMNS = ("Run", "Event", *(f"{name}{i}" for i in range(1, 5) for name in ("PID", "pt", "eta", "phi", "Q")))


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
    diagnose(location, "CSV")
    with Path(location).open(newline="", encoding="utf-8-sig", errors="replace") as file:
        reader = csv.DictReader(file)
        try:
            header = reader.fieldnames or []
            missing = [name for name in CSV_COLUMNS if name not in header]
            if missing:
                raise SchemaError(
                    f"{location}: the CSV lacks the columns {', '.join(missing[:6])}",
                    " ".join(f"For {name}: {did_you_mean(name, header)}" for name in missing[:3]),
                )
            rows = [
                [_number(f"{location}, line {reader.line_num}", name, row[name] or "") for name in CSV_COLUMNS]
                for row in reader
            ]
        except csv.Error as error:
            raise UnreadableError(
                f"{location}, line {reader.reader.line_num}: not a row of numbers: {error}", "Fetch the file again."
            ) from error
    return _Rows(
        np.array([row[0] for row in rows], np.int64),
        np.array([row[1] for row in rows], np.uint64),
        np.array([row[2:] for row in rows], np.float64).reshape(len(rows), 4, 5),
    )


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
        value = float(text)
    except ValueError:
        what = "not a row of numbers: "
    else:
        if allowed is None:
            return value
        number: int | None
        try:
            number = int(text)
        except ValueError:  # 12.0 or 1e5; beyond 2**53 a float no longer tells neighbours apart
            number = int(value) if value.is_integer() and abs(value) <= 2**53 else None
        if number is not None and number in allowed:
            return number % 2**32 if column == "Event" and number < 0 else number
    raise UnreadableError(
        f"{line}: {what}{name} is {text[:40]!r}, expected {expected}", "Correct the line, or fetch the file again."
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
    pt, eta, phi = (leptons[:, :, i][mine].astype(np.float32) for i in (1, 2, 3))
    mass = np.full(len(pt), MASSES[pdg_id], np.float32)
    charge = leptons[:, :, 4][mine].astype(np.int32)
    return (offsets_of(mine.sum(axis=1)), pt, eta, phi, mass, charge, None, None, None, None, None)
