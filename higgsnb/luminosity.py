"""Lumi sections: certified ones (golden JSON), processed and lost ones, and the luminosity they add up to.

A lumi section is one number, ``run << 32 | section`` (int64), so that sets of them are sorted arrays.
"""

from __future__ import annotations

import csv
import hashlib
import json
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from higgsnb import files

__all__ = ["LumiSections", "LumiTable", "Mask", "MaskError", "TableError", "check_inputs", "read_table"]

Ints = npt.NDArray[np.int64]
SECTION_SECONDS = 2**18 / 11245.5  # 2^18 turns of the LHC, at its frequency of revolution in Hz
LARGEST = 2**31 - 1  # run and section numbers, so that the packed number stays positive
# powers of ten that turn 1/unit into 1/fb
UNITS = {"b": -15, "mb": -12, "ub": -9, "nb": -6, "pb": -3, "fb": 0, "ab": 3}


class MaskError(ValueError):
    """A file that is not a golden JSON."""


class TableError(ValueError):
    """A file that is not a brilcalc table by lumi section, or a table that lacks sections."""


def pack(run: npt.ArrayLike, section: npt.ArrayLike) -> Ints:
    """Pack run and section numbers (same shape) into one int64 each."""
    return (np.asarray(run).astype(np.int64) << 32) | np.asarray(section).astype(np.int64)


@dataclass(frozen=True, eq=False)
class LumiSections:
    """A set of lumi sections: ``keys`` is sorted and unique, int64 (n,)."""

    keys: Ints

    @classmethod
    def of(cls, run: npt.ArrayLike, section: npt.ArrayLike) -> LumiSections:
        """Collect the sections of events or rows; any order, any repetition."""
        return cls(np.unique(pack(run, section)))

    def __len__(self) -> int:
        return len(self.keys)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LumiSections) and np.array_equal(self.keys, other.keys)

    def __hash__(self) -> int:
        return hash(self.keys.tobytes())

    def union(self, other: LumiSections) -> LumiSections:
        """Sections in either."""
        return LumiSections(np.union1d(self.keys, other.keys))

    def intersection(self, other: LumiSections) -> LumiSections:
        """Sections in both."""
        return LumiSections(np.intersect1d(self.keys, other.keys, assume_unique=True))

    def difference(self, other: LumiSections) -> LumiSections:
        """Sections in this set and not in the other."""
        return LumiSections(np.setdiff1d(self.keys, other.keys, assume_unique=True))

    __or__, __and__, __sub__ = union, intersection, difference

    @property
    def runs(self) -> Ints:
        """The runs, ascending."""
        return np.unique(self.keys >> 32)

    def ranges(self) -> dict[str, list[list[int]]]:
        """Write the set in the form of a golden JSON: ``{run: [[first, last], …]}``."""
        if not len(self):
            return {}
        breaks = np.flatnonzero(np.diff(self.keys) != 1) + 1
        firsts, lasts = self.keys[np.r_[0, breaks]], self.keys[np.r_[breaks - 1, len(self) - 1]]
        found: dict[str, list[list[int]]] = {}
        for first, last in zip(firsts.tolist(), lasts.tolist(), strict=True):
            found.setdefault(str(first >> 32), []).append([first & 0xFFFFFFFF, last & 0xFFFFFFFF])
        return found

    def integrated(self, table: LumiTable) -> float:
        """Sum the recorded luminosity, in 1/fb.

        Raises
        ------
        TableError
            If the table lacks a section; ``sections & table.sections`` is what it can answer for.
        """
        lost = self - table.sections
        if len(lost):
            run, section = divmod(int(lost.keys[0]), 2**32)
            raise TableError(
                f"the table lacks {len(lost)} of {len(self)} sections (run {run}, section {section} …)\n"
                "give a table that covers them, or intersect with table.sections first"
            )
        return math.fsum(table.recorded[np.searchsorted(table.sections.keys, self.keys)])


@dataclass(frozen=True, eq=False)
class Mask:
    """Certified lumi sections: ``starts[i] <= key <= stops[i]``, int64 (n,), ascending and disjoint."""

    starts: Ints
    stops: Ints

    @classmethod
    def load(cls, location: str | os.PathLike[str]) -> Mask:
        """Read a golden JSON from a path or an address.

        Raises
        ------
        MaskError
            If the text is not ``{"run": [[first, last], …], …}``; names the run.
        FileNotFoundError, higgsnb.files.TransferError
            If it cannot be had.
        """
        path = files.fetch(os.fspath(location))
        try:
            content = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_once)
        except ValueError as error:
            reason = error if isinstance(error, MaskError) else f"not JSON: {error}"
            raise MaskError(f"{files.redact(os.fspath(location))}: {reason}") from None
        try:
            return cls.of(content)
        except MaskError as error:
            raise MaskError(f"{files.redact(os.fspath(location))}: {error}") from None

    @classmethod
    def of(cls, ranges: Mapping[str, Any]) -> Mask:
        """Make a mask from the content of a golden JSON; overlapping ranges are joined."""
        if not isinstance(ranges, Mapping):
            raise MaskError(f'expected {{"run": [[first, last], …]}}, got a {type(ranges).__name__}')
        pairs = sorted(pair for run, spans in ranges.items() for pair in _intervals(run, spans))
        joined: list[list[int]] = []
        for start, stop in pairs:
            if joined and start <= joined[-1][1] + 1:
                joined[-1][1] = max(joined[-1][1], stop)
            else:
                joined.append([start, stop])
        bounds = np.array(joined, dtype=np.int64).reshape(-1, 2)
        return cls(bounds[:, 0].copy(), bounds[:, 1].copy())

    def contains(self, run: npt.ArrayLike, lumi: npt.ArrayLike) -> npt.NDArray[np.bool_]:
        """Say which events (run and section numbers, integers of the same shape) are certified; bool."""
        keys = pack(run, lumi)
        if not len(self.starts):
            return np.zeros(keys.shape, dtype=np.bool_)
        at = np.searchsorted(self.starts, keys, side="right") - 1
        return (at >= 0) & (keys <= self.stops[at])

    @property
    def n_runs(self) -> int:
        """Number of runs with at least one certified section."""
        return len(np.unique(self.starts >> 32))

    @property
    def n_sections(self) -> int:
        """Number of certified lumi sections."""
        return int((self.stops - self.starts + 1).sum())

    @property
    def sections(self) -> LumiSections:
        """The certified sections one by one."""
        lengths = self.stops - self.starts + 1
        before = np.cumsum(lengths) - lengths
        return LumiSections(np.repeat(self.starts - before, lengths) + np.arange(lengths.sum(), dtype=np.int64))

    @property
    def digest(self) -> str:
        """sha256 (hex) of the certified sections, whatever the form of the file."""
        return hashlib.sha256(self.starts.astype("<i8").tobytes() + self.stops.astype("<i8").tobytes()).hexdigest()


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse a run that is listed twice: JSON would silently keep the last."""
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise MaskError(f"run {key} is listed twice; join its ranges")
        found[key] = value
    return found


def _intervals(run: str, spans: Any) -> Iterator[tuple[int, int]]:
    if not re.fullmatch(r"\d{1,10}", run) or not 0 < int(run) <= LARGEST:
        raise MaskError(f"expected a run number as key, got '{run[:40]}'")
    if not isinstance(spans, list):
        raise MaskError(f"run {run}: expected a list of [first, last], got {str(spans)[:40]}")
    for span in spans:
        if not _is_span(span):
            raise MaskError(f"run {run}: expected [first, last] with 0 <= first <= last, got {str(span)[:40]}")
        yield int(run) << 32 | span[0], int(run) << 32 | span[1]


def _is_span(span: Any) -> bool:
    whole = isinstance(span, list) and len(span) == 2 and all(type(number) is int for number in span)
    return whole and 0 <= span[0] <= span[1] <= LARGEST


@dataclass(frozen=True, eq=False)
class LumiTable:
    """Luminosity by section in 1/fb: ``delivered`` and ``recorded``, float64 (n,), in their order."""

    sections: LumiSections
    delivered: npt.NDArray[np.float64]
    recorded: npt.NDArray[np.float64]


def read_table(location: str | os.PathLike[str]) -> LumiTable:
    """Read what ``brilcalc lumi --byls --output-style csv`` wrote, from a path or an address.

    The units are those of the header: ``(/ub)``, ``(/pb)``, …; a rate, ``(hz/ub)``, is multiplied by the
    length of a section.

    Raises
    ------
    TableError
        If a column, a unit or a number is missing or wrong (names the line), or a section is there twice.
    FileNotFoundError, higgsnb.files.TransferError
        If it cannot be had.
    """
    label = files.redact(os.fspath(location))
    path: Path = files.fetch(os.fspath(location))
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        raise TableError(f"{label}: not a text file; expected brilcalc's CSV") from None
    columns = _header(lines, label)
    rows = [_row(text, number, columns, label) for number, text in enumerate(lines, 1) if text and text[0] != "#"]
    keys = np.array([row[0] for row in rows], dtype=np.int64)
    order = np.argsort(keys, kind="stable")
    twice = np.flatnonzero(np.diff(keys[order]) == 0)
    if len(twice):
        run, section = divmod(int(keys[order][twice[0]]), 2**32)
        raise TableError(f"{label}: run {run}, section {section} is there twice; give each section one line")
    values = np.array([row[1:] for row in rows], dtype=np.float64).reshape(-1, 2)[order]
    return LumiTable(LumiSections(keys[order]), values[:, 0].copy(), values[:, 1].copy())


@dataclass(frozen=True)
class _Columns:
    run: int
    section: int
    delivered: int
    recorded: int
    factors: tuple[float, float]


def _header(lines: Iterable[str], label: str) -> _Columns:
    for line in lines:
        names = [name.strip().lower() for name in line.lstrip("#").split(",")]
        if not line.startswith("#") or not names[0].startswith("run"):
            continue
        found = {name.partition("(")[0].partition(":")[0]: at for at, name in enumerate(names)}
        lacking = [name for name in ("ls", "delivered", "recorded") if name not in found]
        if lacking:
            raise TableError(
                f"{label}: no column '{lacking[0]}' among {', '.join(names)}\nmake the table with brilcalc lumi --byls"
            )
        delivered, recorded = found["delivered"], found["recorded"]
        factors = (_to_fb(names[delivered], label), _to_fb(names[recorded], label))
        return _Columns(found["run"], found["ls"], delivered, recorded, factors)
    raise TableError(f"{label}: no header '#run:fill,ls,…,delivered(/pb),recorded(/pb)…'; expected brilcalc's CSV")


def _to_fb(column: str, label: str) -> float:
    """Find the factor that turns a column into 1/fb from the unit in its name, as ``recorded(1e3/pb)``."""
    match = re.fullmatch(r"\w+\((\d+(?:\.\d+)?(?:e[+-]?\d+)?)?(hz)?/([munpfa]?b)\)", column)
    if match is None:
        raise TableError(f"{label}: no unit in '{column}'; expected one as (/pb), (/ub) or (hz/ub)")
    factor = float(match[1] or 1) * (SECTION_SECONDS if match[2] else 1.0)
    return factor * 10.0 ** UNITS[match[3]]


def _row(text: str, number: int, columns: _Columns, label: str) -> tuple[int, float, float]:
    """Read one line. ``ls`` is ``section:cms section``, of which the second is 0 where CMS did not record."""
    try:
        cells = next(csv.reader([text]))
        run = int(cells[columns.run].partition(":")[0])
        first, _, second = cells[columns.section].partition(":")
        section = int(second or 0) or int(first)
        delivered, recorded = float(cells[columns.delivered]), float(cells[columns.recorded])
    except (ValueError, IndexError, csv.Error):
        raise TableError(f"{label}: line {number} cannot be read: {text[:80]}") from None
    if not (0 < run <= LARGEST and 0 <= section <= LARGEST):
        raise TableError(f"{label}: line {number}: run {run}, section {section} are out of range")
    if not (0 <= delivered < math.inf and 0 <= recorded < math.inf):
        raise TableError(f"{label}: line {number}: luminosity must not be negative: {text[:80]}")
    return run << 32 | section, delivered * columns.factors[0], recorded * columns.factors[1]


class Inputs(Protocol):
    """What `check_inputs` looks at of a campaign: paths or addresses, None where there is none."""

    @property
    def golden_json(self) -> str | None:
        """The certified lumi sections."""

    @property
    def luminosity_table(self) -> str | None:
        """The luminosity by lumi section."""


def check_inputs(campaign: Inputs) -> None:
    """Load golden JSON and luminosity table once, so that a bad one is reported before any event is read.

    Raises
    ------
    MaskError, TableError, FileNotFoundError, higgsnb.files.TransferError, higgsnb.files.ChecksumError
        As `Mask.load` and `read_table` do; the message begins with the campaign's key, ``golden_json = …:``.
    """
    for key, location, read in (
        ("golden_json", campaign.golden_json, Mask.load),
        ("luminosity_table", campaign.luminosity_table, read_table),
    ):
        if location is None:
            continue
        label = files.redact(location)
        try:
            read(location)
        except (MaskError, TableError, OSError) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            raise type(error)(f"{key} = {label}: {reason.removeprefix(f'{label}: ')}") from None
