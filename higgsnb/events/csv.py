"""Read CSV files with one row per event: four-lepton candidates as in record 5200, or what a campaign names.

``[campaign.columns]`` gives the header of each column (``run = "Run"``), or a list of them for the objects of an event
(``Muon_pt = ["pt1", "pt2"]``), of which those are there whose cells are not empty. A column has the type that it has in
NanoAOD. Without a header for it, run and lumi section are 0, the event is numbered as its row, a lepton has its mass
from the PDG.
"""

from __future__ import annotations

import csv
import math
import re
from array import array
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from higgsnb.datasets import Version
from higgsnb.errors import SchemaError, UnreadableError, did_you_mean
from higgsnb.events.columns import (
    IDENTIFIERS,
    TRIGGER,
    Array,
    Columns,
    EventColumns,
    Integers,
    find_missing,
    keep,
    offsets_of,
    only,
    type_in_nanoaod,
    with_missing,
)
from higgsnb.events.schema import BRANCHES, MASSES, FileInfo
from higgsnb.selection import ELECTRON, MUON, Leptons
from higgsnb.text import read_text, shown, to_float, to_int

_MOMENTUM = ("pt", "eta", "phi", "mass", "charge")
_FLAVOURS = {"Muon": "muon", "Electron": "electron"}
_PDG = {"muon": MUON, "electron": ELECTRON}
CSV_COLUMNS = ("Run", "Event", *(f"{name}{i}" for i in range(1, 5) for name in ("PID", "pt", "eta", "phi", "Q")))
FETCH = "Correct the line, or fetch the file again."
Headers = Mapping[str, str | tuple[str, ...]]
"""`Campaign.columns`: the header, or those of the objects of an event, by column."""


class _Rows(NamedTuple):
    """The rows of a CSV: run (n,) int64, event (n,) uint64, leptons (n, 4, [PID, pt, eta, phi, Q]) float64."""

    run: npt.NDArray[np.int64]
    event: npt.NDArray[np.uint64]
    leptons: npt.NDArray[np.float64]


def inspect_csv(location: str, headers: Headers, columns: Columns | None) -> FileInfo:
    """Check that a CSV file has some columns (None: those of `Leptons`), and count its rows."""
    wanted = Columns(tuple(lepton_columns(headers).values())) if columns is None else columns
    n_rows = read_columns(location, headers, wanted, 0, None).n_events
    return FileInfo(n_rows, "CSV", Path(location).stat().st_size, None)


def lepton_columns(headers: Headers) -> dict[str, str]:
    """Return the column behind each field of `Leptons` that a campaign names; raise `SchemaError` if that is none."""
    given = {field: name for field, name in BRANCHES.items() if name in headers}
    if not headers:  # candidates
        given = {field: name for field, name in BRANCHES.items() if field.partition("_")[2] in _MOMENTUM}
    flavours = [flavour for flavour in ("muon", "electron") if f"{flavour}_pt" in given]
    lacking = [f"{flavour}_{name}" for flavour in flavours for name in ("eta", "phi", "charge")]
    lacking = [field for field in lacking if field not in given]
    if lacking or not flavours:
        wrong = [BRANCHES[field] for field in lacking or ("muon_pt", "electron_pt")]
        raise SchemaError(
            f"[campaign.columns] gives no header for {', '.join(wrong)}",
            'Leptons need pt, eta, phi and charge: Muon_charge = ["Q1", "Q2"], for example.',
        )
    made = ("run", "luminosity_block", "event", *(f"{flavour}_mass" for flavour in flavours))
    return {field: BRANCHES[field] for field in made} | given


def read_columns(location: str, headers: Headers, columns: Columns, start: int, stop: int | None) -> EventColumns:
    """Read columns of the preselected rows among ``start`` to ``stop``; raise `SchemaError` if there are no such ones.

    Without ``headers`` they are those of the leptons of four-lepton candidates.
    """
    version = Version.of_file(location)
    table = _named(location, version, tuple(sorted(headers.items()))) if headers else _candidates(location, version)
    known = {*table.flat, *table.jagged}
    asked = dict.fromkeys((*columns.names, *columns.tested))
    missing, wrong = find_missing([name for name in asked if name not in known], columns, known)
    if wrong:
        raise SchemaError(
            f"{location}: no column {', '.join(wrong)}",
            f"{did_you_mean(wrong[0], sorted(known))} Give its header in [campaign.columns].",
        )
    n_rows = len(table.entries)
    rows = keep(table, np.arange(start, n_rows if stop is None else min(stop, n_rows)))
    passing = columns.passing(rows.flat | missing.flat(len(rows.entries)), len(rows.entries))
    found = with_missing(
        only(rows if passing.all() else keep(rows, passing), columns.names), (*IDENTIFIERS, *columns.names), missing
    )
    return found._replace(n_events=len(rows.entries))


def _candidates(location: str, version: Version) -> EventColumns:
    """Return the columns of four-lepton candidates."""
    leptons = read_csv(location, 0, len(_rows(location, version).run))
    jagged = {
        f"{collection}_{name}": getattr(leptons, f"{flavour}_{name}")
        for collection, flavour in _FLAVOURS.items()
        for name in _MOMENTUM
    }
    offsets = {collection: getattr(leptons, f"{flavour}_offsets") for collection, flavour in _FLAVOURS.items()}
    return _all_rows((leptons.run, leptons.luminosity_block, leptons.event), {}, jagged, offsets)


def _all_rows(
    identifiers: Iterable[Array], flat: dict[str, Array], jagged: dict[str, Array], offsets: dict[str, Integers]
) -> EventColumns:
    identified = dict(zip(IDENTIFIERS, identifiers, strict=True))
    counts = {f"n{name}": np.diff(starts) for name, starts in offsets.items()}
    n_rows = len(identified["run"])
    return EventColumns(
        np.arange(n_rows), n_rows, identified | flat | counts, jagged, offsets, frozenset(), "csv", "none"
    )


class _Table(NamedTuple):
    """The cells of a table: ``values`` (n_rows, n_headers) float64, which are ``empty``, whole numbers, lines."""

    headers: list[str]
    values: npt.NDArray[np.float64]
    empty: npt.NDArray[np.bool_]
    whole: dict[str, list[int]]
    lines: list[str]

    def columns(self, headers: Sequence[str]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
        """Return values and empty cells of some headers: (n_rows, n)."""
        places = [self.headers.index(header) for header in headers]
        return self.values[:, places], self.empty[:, places]


@lru_cache(maxsize=16)
def _named(location: str, _version: Version, headers: tuple[tuple[str, str | tuple[str, ...]], ...]) -> EventColumns:
    """Return all rows of a table whose columns a campaign names; cached, it is read again after it changed."""
    given = {name: (header,) if isinstance(header, str) else tuple(header) for name, header in headers}
    lists = {name: name.partition("_")[0] for name, header in headers if not isinstance(header, str)}
    table = _read_table(location, given, {header for name in lists for header in given[name]})
    flat, jagged, offsets = dict[str, Array](), dict[str, Array](), dict[str, Integers]()
    there: dict[str, npt.NDArray[np.bool_]] = {}
    for name, listed in given.items():
        values, empty = table.columns(listed)
        if name in lists:
            present = there.setdefault(lists[name], ~empty)
            _check_objects(location, name, present, ~empty, table.lines)
            with np.errstate(over="ignore"):  # infinite: counted with the invalid values
                jagged[name] = values[present].astype(type_in_nanoaod(name))
        elif name not in IDENTIFIERS:
            flat[name] = values[:, 0] != 0 if name.startswith(TRIGGER) else values[:, 0]
    for collection, present in there.items():
        offsets[collection] = offsets_of(present.sum(axis=1))
        flavour = _FLAVOURS.get(collection, "")
        if flavour and f"{collection}_mass" not in jagged:
            jagged[f"{collection}_mass"] = np.full(offsets[collection][-1], MASSES[_PDG[flavour]], np.float32)
    n_rows = len(table.lines)
    identifiers = (table.whole.get(name, range(n_rows) if name == "event" else [0] * n_rows) for name in IDENTIFIERS)
    return _all_rows(map(np.array, identifiers), flat, jagged, offsets)


def _check_objects(
    location: str, name: str, present: npt.NDArray[np.bool_], mine: npt.NDArray[np.bool_], lines: Sequence[str]
) -> None:
    """Raise an error if a column does not have as many objects as the others of its collection."""
    if present.shape != mine.shape:
        what = f"{location}: [campaign.columns] gives {mine.shape[1]} headers for {name}, {present.shape[1]} for others"
        raise SchemaError(what, "Give one header for each object to all columns of a collection.")
    if not np.array_equal(present, mine):
        row, number = (int(place[0]) for place in np.nonzero(present != mine))
        what = "is empty" if present[row, number] else "is not empty"
        raise UnreadableError(f"{lines[row]}: cell {number + 1} of {name} {what}, unlike those of other columns", FETCH)


def _read_table(location: str, given: Mapping[str, Sequence[str]], optional: Container[str]) -> _Table:
    """Read the columns of a table; cells below ``optional`` headers may be empty."""
    headers = list(dict.fromkeys(header for listed in given.values() for header in listed))
    kinds = {
        header: _KINDS.get(name, _KINDS.get(name.rpartition("_")[2], ""))
        for name, listed in given.items()
        for header in listed
    }
    whole: dict[str, list[int]] = {name: [] for name in IDENTIFIERS if name in given}
    numbers, empty, lines = array("d"), array("b"), list[str]()
    for line, row in _records(location, headers):
        cells = dict(zip(headers, row, strict=True))
        lines.append(line)
        for header, text in cells.items():
            empty.append(header in optional and not text.strip())
            numbers.append(math.nan if empty[-1] else _number(line, header, text, kinds[header]))
        for name, found in whole.items():
            found.append(int(_number(line, given[name][0], cells[given[name][0]], kinds[given[name][0]])))
    shape = len(lines), len(headers)
    return _Table(headers, np.array(numbers).reshape(shape), np.array(empty, np.bool_).reshape(shape), whole, lines)


@lru_cache(maxsize=16)
def _rows(location: str, _version: Version) -> _Rows:
    """Read a whole CSV file of candidates; it is read again after it changed."""
    run, event, leptons = [], [], array("d")
    for line, cells in _records(location, CSV_COLUMNS):
        run_number, event_number, *numbers = (
            _number(line, name, cell, name.rstrip("1234")) for name, cell in zip(CSV_COLUMNS, cells, strict=True)
        )
        run.append(run_number)
        event.append(event_number)
        leptons.extend(numbers)
    return _Rows(
        np.array(run, np.int64), np.array(event, np.uint64), np.array(leptons, np.float64).reshape(len(run), 4, 5)
    )


def _records(location: str, names: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """Yield where each row of a CSV file is, for messages, and its cells below some headers."""
    text = read_text(Path(location), location, "CSV file", undecodable="replace")
    if not text.strip():
        raise UnreadableError(f"{location}: is empty ({Path(location).stat().st_size} bytes)", "Fetch the file again.")
    lines = text.split("\n")
    head = next(number for number, line in enumerate(lines) if line.strip())
    fields, columns, separator = _header(lines[head], location, names)
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
            yield line, [cells[at] for at in columns]
            if len(row) < fields or any(cell.strip() for cell in row[fields:]):
                raise UnreadableError(f"{line}: not a row of numbers: {len(row)} cells, {fields} in the header", FETCH)
    except csv.Error as error:
        line = f"{location}, line {head + 1 + reader.line_num}"
        raise UnreadableError(f"{line}: not a row of numbers: {error}", FETCH) from error


def _header(line: str, location: str, wanted: Sequence[str]) -> tuple[int, list[int], str]:
    """Return the number of columns, the indices of those ``wanted``, and the separator: comma, semicolon or tab."""
    names, separator = max(
        (
            ([name.strip() for name in next(csv.reader([line], delimiter=separator, skipinitialspace=True))], separator)
            for separator in ",;\t"
        ),
        key=lambda found: len(set(found[0]) & set(wanted)),
    )
    while names and not names[-1]:
        names.pop()
    missing = [name for name in wanted if name not in names]
    if missing:
        raise SchemaError(
            f"{location}: the CSV lacks the columns {', '.join(missing[:6])}",
            " ".join(f"For {name}: {did_you_mean(name, names)}" for name in missing[:3])
            + " Columns are separated by commas, semicolons or tabs.",
        )
    twice = [name for name in wanted if names.count(name) > 1]
    if twice:
        raise SchemaError(f"{location}: the CSV has more than one column {', '.join(twice)}", "Remove one of them.")
    number = next((name for name in names if re.fullmatch(r"[-+]?[0-9]+(\.[0-9]*)?", name)), None)
    if number is not None:
        what = f"the CSV has a number among the names of its columns: {shown(number, 40)}"
        raise SchemaError(f"{location}: {what}", "Is the end of the first line missing? The header has its own line.")
    return len(names), [names.index(name) for name in wanted], separator


_WHOLE_NUMBERS: dict[str, tuple[str, Container[int]]] = {
    "Run": ("a whole number from 0 to 2147483647", range(2**31)),
    "Event": ("a whole number from -2147483648 to 9223372036854775807", range(-(2**31), 2**63)),
    "PID": ("11, -11, 13 or -13", (11, -11, 13, -13)),
    "Q": ("1 or -1", (1, -1)),
}
"""Allowed values of the columns that hold no measured quantity: in words, and as numbers."""
_KINDS = {"run": "Run", "luminosityBlock": "Run", "event": "Event", "charge": "Q"}
"""What the columns of a campaign, or their quantities, have in common with those of candidates."""


def _number(line: str, name: str, text: str, kind: str) -> float:
    """Return the number in one cell of a line, an `int` if it is of a kind in `_WHOLE_NUMBERS`."""
    expected, allowed = _WHOLE_NUMBERS.get(kind, ("a number", None))
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
            return number % 2**32 if kind == "Event" and number < 0 else number
    raise UnreadableError(
        f"{line}: {what}{name} is {shown(text, 42)}, expected {expected}",
        "Write decimals with a point." if re.fullmatch(r"-?\d+,\d+", text) else FETCH,
    )


def read_csv(location: str, start: int, stop: int) -> Leptons:
    """Read the rows [start, stop) of a CSV file; negative Event numbers are wrapped 32-bit integers."""
    rows, part = _rows(location, Version.of_file(location)), slice(start, stop)
    run, leptons = rows.run[part], rows.leptons[part]
    muons, electrons = _csv_flavour(leptons, MUON), _csv_flavour(leptons, ELECTRON)
    columns = (run, np.zeros(len(run), np.int64), rows.event[part], *muons, *electrons)
    return Leptons(*columns)  # type: ignore[arg-type]


def _csv_flavour(leptons: npt.NDArray[np.float64], pdg_id: int) -> tuple[npt.NDArray[Any] | None, ...]:
    """Return the columns of one flavour from (n_rows, 4, [PID, pt, eta, phi, Q])."""
    mine = np.abs(leptons[:, :, 0]) == pdg_id
    with np.errstate(over="ignore"):  # infinite: counted with the invalid values
        pt, eta, phi = (leptons[:, :, i][mine].astype(np.float32) for i in (1, 2, 3))
    mass = np.full(len(pt), MASSES[pdg_id], np.float32)
    charge = leptons[:, :, 4][mine].astype(np.int32)
    return (offsets_of(mine.sum(axis=1)), pt, eta, phi, mass, charge, None, None, None, None, None)
