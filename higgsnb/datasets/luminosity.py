"""Golden JSON and luminosity table: certified lumi sections, and the luminosity of each.

A lumi section is one number, ``run << 32 | section`` (int64), so that sets of them are sorted arrays.
"""

from __future__ import annotations

import csv
import hashlib
import json
import math
import os
import re
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from higgsnb.datasets.campaign import Campaign
from higgsnb.datasets.files.addresses import Address
from higgsnb.datasets.files.sources import fetch
from higgsnb.datasets.files.versions import Version
from higgsnb.errors import HiggsnbError, LumiDataError, LumiMaskError
from higgsnb.redaction import redact
from higgsnb.text import DOCUMENT_BYTES, read_text, shown, to_float, to_int

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Value = TypeVar("Value")
LARGEST_SECTION = 1e6  # 1/fb; the LHC gives 5e-4
ROUNDING = 1e-3  # relative, of the numbers in a table
SECTION_SECONDS = 2**18 / 11245.5  # 2^18 turns of the LHC, at its frequency of revolution in Hz
LARGEST = 2**31 - 1  # run and section numbers, so that the packed number stays positive
ROWS_AT_ONCE = 20_000  # of a table, split into cells: 10 MB
GOLDEN_JSON = 'A golden JSON is {"run": [[first, last], …], …}; take one from the CMS Open Data portal.'
BRILCALC = "Make the table with brilcalc lumi --byls --output-style csv."
# powers of ten that turn 1/unit into 1/fb
UNITS = {"b": -15, "mb": -12, "ub": -9, "nb": -6, "pb": -3, "fb": 0, "ab": 3}


def pack(run: npt.ArrayLike, section: npt.ArrayLike) -> Ints:
    """Pack run and section numbers (same shape) into one int64 each."""
    return (np.asarray(run).astype(np.int64) << 32) | np.asarray(section).astype(np.int64)


class Segments(NamedTuple):
    """Consecutive events of one lumi section: ``starts`` (n,) the first event of each group, ``keys`` (n,) its section.

    Thousands of consecutive events share a section, so that all work is done on these few numbers.
    """

    starts: Ints
    keys: Ints
    n_events: int

    @classmethod
    def of(cls, run: npt.NDArray[Any], section: npt.NDArray[Any]) -> Segments:
        """Find the groups from run and section number of each event, (n_events,)."""
        if not len(run):
            return cls(np.empty(0, np.int64), np.empty(0, np.int64), 0)
        starts = np.flatnonzero(np.r_[True, (run[1:] != run[:-1]) | (section[1:] != section[:-1])])
        return cls(starts, pack(run[starts], section[starts]), len(run))

    @property
    def lengths(self) -> Ints:
        """Number of events of each group, (n,)."""
        found: Ints = np.diff(np.append(self.starts, self.n_events))
        return found

    @property
    def scattered(self) -> bool:
        """Whether a section is left and entered again."""
        return len(np.unique(self.keys)) < len(self.keys)

    def at(self, events: Ints) -> Ints:
        """Return in which group some events are, by index."""
        found: Ints = np.searchsorted(self.starts, events, side="right") - 1
        return found


class LumiList:
    """A set of lumi sections, in ranges: ``starts[i] <= key <= stops[i]``, int64 (n,), ascending and never touching.

    A range may be as long as a run has section numbers: what is computed takes the memory of the ranges.
    """

    @classmethod
    def of_runs(cls, runs: Iterable[tuple[int, int]]) -> LumiList:
        """Make the set of all sections of some runs, given as ranges (first, last)."""
        bounds = np.array(list(runs), np.int64).reshape(-1, 2)
        return cls.of_ranges(bounds[:, 0] << 32, (bounds[:, 1] << 32) + 0xFFFFFFFF)

    def __init__(self, keys: Ints) -> None:
        """Make the set of some packed sections, int64 (n,), sorted and unique."""
        self.starts, self.stops = (keys, keys) if len(keys) < 2 else _joined(keys, keys)

    @classmethod
    def of_ranges(cls, starts: Ints, stops: Ints) -> LumiList:
        """Make the set of all sections in some ranges, int64 (n,), in any order; they may overlap."""
        order, found = np.argsort(starts, kind="stable"), cls(np.empty(0, np.int64))
        found.starts, found.stops = _joined(starts[order], np.maximum.accumulate(stops[order]))
        return found

    @property
    def keys(self) -> Ints:
        """The sections one by one, sorted, int64 (len,)."""
        lengths = self.stops - self.starts + 1
        before = np.cumsum(lengths) - lengths
        return np.repeat(self.starts - before, lengths) + np.arange(lengths.sum(), dtype=np.int64)

    def __len__(self) -> int:
        return int((self.stops - self.starts + 1).sum())

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, LumiList):
            return False
        return np.array_equal(self.starts, other.starts) and np.array_equal(self.stops, other.stops)

    def __hash__(self) -> int:
        return hash((self.starts.tobytes(), self.stops.tobytes()))

    def __and__(self, other: LumiList) -> LumiList:
        """Return the sections in both."""
        return self._overlap(other.starts, other.stops)

    def __sub__(self, other: LumiList) -> LumiList:
        """Return the sections in this set and not in the other."""
        largest = np.iinfo(np.int64)
        return self._overlap(np.r_[largest.min, other.stops + 1], np.r_[other.starts - 1, largest.max])

    def _overlap(self, starts: Ints, stops: Ints) -> LumiList:
        """Return the sections that are also in some ranges, ascending and disjoint."""
        first = np.searchsorted(stops, self.starts, side="left")
        number = np.maximum(np.searchsorted(starts, self.stops, side="right") - first, 0)  # of ranges that overlap each
        mine = np.repeat(np.arange(len(number)), number)
        theirs = np.arange(number.sum()) - np.repeat(np.cumsum(number) - number - first, number)
        return LumiList.of_ranges(
            np.maximum(self.starts[mine], starts[theirs]), np.minimum(self.stops[mine], stops[theirs])
        )

    def holds(self, keys: Ints) -> npt.NDArray[np.bool_]:
        """Return which packed sections (see `pack`) are in the set; bool of the same shape."""
        if not len(self.starts):
            return np.zeros(keys.shape, dtype=np.bool_)
        at = np.searchsorted(self.starts, keys, side="right") - 1
        return (at >= 0) & (keys <= self.stops[at])

    def ranges(self) -> dict[str, list[list[int]]]:
        """Return the set in the form of a golden JSON: ``{run: [[first, last], …]}``."""
        found: dict[str, list[list[int]]] = {}
        for first, last in zip(self.starts.tolist(), self.stops.tolist(), strict=True):
            found.setdefault(str(first >> 32), []).append([first & 0xFFFFFFFF, last & 0xFFFFFFFF])
        return found


def _joined(starts: Ints, stops: Ints) -> tuple[Ints, Ints]:
    """Join ranges that touch or overlap; both are ascending."""
    first = np.ones(len(starts), np.bool_)
    first[1:] = starts[1:] > stops[:-1] + 1
    return starts[first], stops[np.roll(first, -1)]


@dataclass(frozen=True, eq=False)
class LumiMask:
    """The certified lumi sections."""

    sections: LumiList

    @classmethod
    def load(cls, location: str | os.PathLike[str]) -> LumiMask:
        """Read a golden JSON from a path or an address.

        Raises
        ------
        LumiMaskError
            If the file is not text, or the text not ``{"run": [[first, last], …], …}``; names the run.
        MissingFileError, TransferError, ChecksumError
            If no source gave it.
        """
        return cls._read(fetch(os.fspath(location)), redact(os.fspath(location)))

    @classmethod
    def _read(cls, path: Path, label: str) -> LumiMask:
        text = read_text(path, label, "golden JSON", LumiMaskError, largest=DOCUMENT_BYTES)
        try:
            return cls.of(json.loads(text, object_pairs_hook=_once))
        except LumiMaskError as error:
            raise LumiMaskError(f"{label}: {error.message}", error.hint) from None
        except json.JSONDecodeError as error:
            raise LumiMaskError(f"{label}: not JSON: {error}", GOLDEN_JSON) from None
        except RecursionError:
            raise LumiMaskError(f"{label}: brackets are nested too deeply", GOLDEN_JSON) from None
        except ValueError:
            raise LumiMaskError(f"{label}: a number has thousands of digits", GOLDEN_JSON) from None

    @classmethod
    def of(cls, ranges: Mapping[str, Any]) -> LumiMask:
        """Make a mask from the content of a golden JSON; overlapping ranges are joined."""
        if not isinstance(ranges, Mapping):
            raise LumiMaskError(f'expected {{"run": [[first, last], …]}}, got a {type(ranges).__name__}', GOLDEN_JSON)
        bounds = array("q")  # start, stop, start, …
        for run, spans in ranges.items():
            if not re.fullmatch(r"[0-9]{1,10}", run) or not 0 < int(run) <= LARGEST:
                raise LumiMaskError(f"expected a run number as key, got {shown(run, 40)}", GOLDEN_JSON)
            if not isinstance(spans, list):
                got = shown(spans, 40)
                raise LumiMaskError(f"run {run}: expected a list of [first, last], got {got}", GOLDEN_JSON)
            for span in spans:
                whole = isinstance(span, list) and len(span) == 2 and all(type(number) is int for number in span)
                if not whole or not 0 <= span[0] <= span[1] <= LARGEST:
                    expected = f"run {run}: expected [first, last] with 0 <= first <= last"
                    raise LumiMaskError(f"{expected}, got {shown(span, 40)}", GOLDEN_JSON)
                bounds.extend((int(run) << 32 | span[0], int(run) << 32 | span[1]))
        return cls(LumiList.of_ranges(*np.array(bounds, dtype=np.int64).reshape(-1, 2).T))

    def holds(self, keys: Ints) -> npt.NDArray[np.bool_]:
        """Return which packed sections (see `pack`) are certified; bool of the same shape."""
        return self.sections.holds(keys)

    @property
    def digest(self) -> str:
        """sha256 (hex) of the certified sections, whatever the form of the file."""
        starts, stops = (bounds.astype("<i8").tobytes() for bounds in (self.sections.starts, self.sections.stops))
        return hashlib.sha256(starts + stops).hexdigest()


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the pairs of a JSON object as a dict; LumiMaskError if a run is listed twice (JSON keeps the last)."""
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise LumiMaskError(f"run {shown(key)[1:-1]} is listed twice", "Join its ranges into one list.")
        found[key] = value
    return found


@dataclass(frozen=True, eq=False)
class LumiData:
    """Luminosity by section in 1/fb: ``delivered`` and ``recorded``, float64 (n,), in their order."""

    sections: LumiList
    delivered: npt.NDArray[np.float64]
    recorded: npt.NDArray[np.float64]


def read_table(location: str | os.PathLike[str]) -> LumiData:
    """Read what ``brilcalc lumi --byls --output-style csv`` wrote, from a path or an address.

    Columns are found by name, separated by commas, semicolons or tabs; units are those of the header: ``(/ub)``,
    ``(/pb)``, …; a rate, ``(hz/ub)``, is multiplied by the length of a section. Tables may be joined: each header holds
    for the lines up to the next. The form of lumiCalc2, whose header does not begin with ``#``, is read as well.

    Raises
    ------
    LumiDataError
        If a column, a unit or a number is missing or wrong (names the line), or a section is listed twice.
    MissingFileError, TransferError, ChecksumError
        If no source gave it.
    """
    return _read_table(fetch(os.fspath(location)), redact(os.fspath(location)))


def _read_table(path: Path, label: str) -> LumiData:
    text = read_text(path, label, "luminosity table", LumiDataError, undecodable="replace")
    found = _plain_rows(text)
    if found is None:  # of an unusual form, or with a mistake in it
        keys, luminosity, headers = array("q"), array("d"), array("q")
        for header, key, delivered, recorded in _rows(text, label):
            headers.append(header)
            keys.append(key)
            luminosity.extend((delivered, recorded))
        found = np.array(headers), np.array(keys, dtype=np.int64), np.array(luminosity).reshape(-1, 2)
    blocks, packed, values = found
    for header in np.unique(blocks):
        of_all = values[blocks == header].sum(axis=0)
        if of_all[1] > (1 + ROUNDING) * of_all[0]:
            what = f"more luminosity recorded ({of_all[1]:.4g} /fb) than delivered ({of_all[0]:.4g} /fb)"
            raise LumiDataError(
                f"{label}: {what} below the header in line {header}", f"Are columns exchanged? {BRILCALC}"
            )
    order = np.argsort(packed, kind="stable")
    packed = packed[order]
    twice = np.flatnonzero(np.diff(packed) == 0)
    if len(twice):
        run, section = divmod(int(packed[twice[0]]), 2**32)
        raise LumiDataError(f"{label}: run {run}, section {section} is there twice", "Give each section one line.")
    return LumiData(LumiList(packed), values[order, 0], values[order, 1])


def _plain_rows(text: str) -> tuple[Ints, Ints, Floats] | None:
    """Return what `_rows` yields, as columns: line of the header (n,), packed section (n,), luminosities (n, 2).

    Three times faster, for a table as brilcalc writes it: one header, then rows, comments anywhere. None for any other,
    and for one with a mistake in it.
    """
    lines = text.split("\n")
    body = [line for line in lines if line[:1].isdigit()]
    others = [(number, line) for number, line in enumerate(lines, 1) if line and not line[0].isdigit()]
    try:
        headers = [(number, one) for number, line in others if (one := _header(line.rstrip(" \t,;"))) is not None]
        (number, columns), *more = headers
        if more or not text.isascii() or any(line[0] != "#" for _, line in others) or lines.index(body[0]) < number:
            return None
        parts = [columns.read_all(body[start : start + ROWS_AT_ONCE]) for start in range(0, len(body), ROWS_AT_ONCE)]
    except (LumiDataError, ValueError, IndexError):
        return None
    packed, values = (np.concatenate(column) for column in zip(*parts, strict=True))
    return np.full(len(packed), number), packed, values


def _rows(text: str, label: str) -> Iterator[tuple[int, int, float, float]]:
    """Yield for each row the line of its header, the packed section, and the luminosity delivered and recorded."""
    columns, header = None, 0
    for number, line in enumerate(text.split("\n"), 1):
        content = line.strip('\ufeff \t,;"')  # a blank row of a spreadsheet still has its separators
        try:
            if not content[:1].isdigit() and (found := _header(line.rstrip(" \t,;"))):  # a row begins with its run
                columns, header = found, number
            elif content and content[0] != "#":
                if columns is None:
                    break
                yield header, *columns.read(line)
        except LumiDataError as error:
            raise LumiDataError(f"{label}: line {number}: {error.message}", error.hint) from None
        except (ValueError, csv.Error):
            raise LumiDataError(f"{label}: line {number} cannot be read: {shown(line)}", BRILCALC) from None
    if columns is None:
        raise LumiDataError(f"{label}: no header '#run:fill,ls,…,delivered(/pb),recorded(/pb)…'", BRILCALC)


class _Columns(NamedTuple):
    """Where the columns of a table are, and the factors that turn delivered and recorded into 1/fb."""

    run: int
    ls: int
    delivered: int
    recorded: int
    factors: tuple[float, ...]
    separator: str
    width: int

    def read(self, line: str) -> tuple[int, float, float]:
        """Return the packed section of a row, and the luminosity delivered and recorded; ValueError if it is none."""
        cells = line.split(self.separator)
        if '"' in line:
            cells = next(csv.reader([line], delimiter=self.separator, skipinitialspace=True))
        if len(cells) < self.width or any(cell.strip() for cell in cells[self.width :]):
            raise ValueError(f"{len(cells)} cells, {self.width} in the header")
        integer, real = (int, float) if line.isascii() and "_" not in line else (to_int, to_float)
        run = integer(cells[self.run].partition(":")[0])
        first, _, second = cells[self.ls].partition(":")  # "section:cms section", the latter 0 if not recorded
        section = integer(second or "0") or integer(first)
        if not (0 < run <= LARGEST and 0 <= section <= LARGEST):
            raise LumiDataError(f"run {run}, section {section} are out of range", BRILCALC)
        delivered = real(cells[self.delivered]) * self.factors[0]
        recorded = real(cells[self.recorded]) * self.factors[1]
        if not (0 <= delivered <= LARGEST_SECTION and 0 <= recorded <= LARGEST_SECTION):
            what = f"luminosity must not be negative, or above {LARGEST_SECTION:g} /fb in one section"
            raise LumiDataError(f"{what}: {shown(line)}", BRILCALC)
        return run << 32 | section, delivered, recorded

    def read_all(self, lines: list[str]) -> tuple[Ints, Floats]:
        """Return what `read` does of rows, as arrays (n,) and (n, 2); ValueError if one is not plain, or wrong."""
        cells = [line.split(self.separator) for line in lines]
        if any(len(row) != self.width for row in cells) or any('"' in line or "_" in line for line in lines):
            raise ValueError
        run = np.array([int(row[self.run].partition(":")[0]) for row in cells])
        pairs = [row[self.ls].partition(":") for row in cells]
        section = np.array([int(second or "0") or int(first) for first, _, second in pairs])
        both = (self.delivered, self.recorded)
        values = np.array([[float(row[place]) for row in cells] for place in both]).T * self.factors
        good = (run > 0) & (run <= LARGEST) & (section >= 0) & (section <= LARGEST)
        if not (good & ((values >= 0) & (values <= LARGEST_SECTION)).all(axis=1)).all():
            raise ValueError
        return pack(run, section), values


def _header(line: str) -> _Columns | None:
    """Return the columns of a table if a line is its header, that of brilcalc or of lumiCalc2."""
    if line.lstrip().startswith(("|", "+--")):
        raise LumiDataError("a table for the screen, with | between its columns", BRILCALC)
    if "run" not in line[:200].lower():
        return None
    separator = max(",;\t", key=line.count)
    names = [re.sub(r"[\s\"#\ufeff]", "", name).lower() for name in line.split(separator)]
    kinds = [re.split("[:(]", name)[0] for name in names]
    wanted = ("run", "ls", "delivered", "recorded")
    if "run" not in kinds or len(set(kinds) & set(wanted)) == 1:
        return None
    for name in wanted:
        if kinds.count(name) != 1:
            number = "no column" if name not in kinds else "more than one column"
            raise LumiDataError(f"{number} '{name}' among {shown(', '.join(names), 200)}", BRILCALC)
    factors = []
    for name in (names[kinds.index("delivered")], names[kinds.index("recorded")]):  # such as "recorded(1e3/pb)"
        unit = re.fullmatch(r"[a-z]+\((\d+(?:\.\d+)?(?:e[+-]?\d+)?)?(hz)?/([munpfa]?b)\)", name)
        factor = float(unit[1] or 1) * (SECTION_SECONDS if unit[2] else 1.0) * 10.0 ** UNITS[unit[3]] if unit else 0.0
        if not 0 < factor < math.inf:
            raise LumiDataError(f"no unit in {shown(name)}; expected one as (/pb), (/ub) or (hz/ub)", BRILCALC)
        factors.append(factor)
    run, section, delivered, recorded = map(kinds.index, wanted)
    return _Columns(run, section, delivered, recorded, tuple(factors), separator, len(names))


def kept_mask(golden_json: str, digest: str | None = None) -> LumiMask:
    """Return what `LumiMask.load` does, read once per process unless the file is changed.

    Of a file on a server it is the content that `check_inputs` found, or that of the digest.

    Raises
    ------
    LumiMaskError
        If it is not the one of that digest; and as `LumiMask.load` does.
    """
    mask: LumiMask = _kept(LumiMask._read, golden_json)
    if digest is not None and mask.digest != digest and Address.of(golden_json).is_remote:
        _copies.pop(golden_json, None)  # of an earlier run
        mask = _kept(LumiMask._read, golden_json)
    if digest is not None and mask.digest != digest:
        raise LumiMaskError(
            f"{redact(golden_json)}: is not the golden JSON that it was when the run began",
            "It has changed, or workers see another one than this process; run again.",
        )
    return mask


def kept_table(luminosity_table: str) -> LumiData:
    """Return what `read_table` does, read once per process unless the file is changed; see `kept_mask`."""
    table: LumiData = _kept(_read_table, luminosity_table)
    return table


_copies: dict[str, Path] = {}  # of files on servers, as they were at the last `check_inputs`


def _kept(read: Callable[[Path, str], Any], location: str) -> Any:
    """Return what is read of a file, which may be written again under its name."""
    path = _copies.get(location)
    if path is None or not path.exists():
        path = fetch(location)
        if Address.of(location).is_remote:
            _copies[location] = path
    return _read_once(read, path, redact(location), Version.of_file(path))


@lru_cache(maxsize=8)
def _read_once(read: Callable[[Path, str], Any], path: Path, label: str, _version: Version) -> Any:
    return read(path, label)


def check_inputs(campaign: Campaign) -> Campaign:
    """Load golden JSON and luminosity table once, so that a bad one is reported before any event is read.

    Servers are asked whether they have replaced them, if size and checksum are not stated.

    Returns
    -------
    Campaign
        As it is; or, if it takes its luminosity from the table, with the sum over those sections of it that the golden
        JSON certifies and that are in the runs of the campaign's eras.

    Raises
    ------
    LumiMaskError, LumiDataError, MissingFileError, TransferError, ChecksumError
        As `LumiMask.load` and `read_table` do; the message begins with the campaign's key, ``golden_json = …:``. Also
        if the golden JSON certifies nothing, or nothing that is in the table, or if data are CSV, which have no lumi
        sections.
    """
    if campaign.schema == "csv" and any(dataset.is_data for dataset in campaign.datasets):
        for key, kind in (("golden_json", LumiMaskError), ("luminosity_table", LumiDataError)):
            if (location := getattr(campaign, key)) is not None:
                what = f"{key} = {redact(location)}: CSV files have no lumi sections"
                raise kind(what, f"Remove {key} from the campaign; apply it where the CSV files are made.")
    mask = _check(campaign, "golden_json", kept_mask)
    table = _check(campaign, "luminosity_table", kept_table)
    if mask is not None and not len(mask.sections):
        label = redact(str(campaign.golden_json))
        raise LumiMaskError(f"golden_json = {label}: certifies no lumi section", GOLDEN_JSON)
    if table is None:
        return campaign
    label, sections = redact(str(campaign.luminosity_table)), table.sections
    for what, some in (
        ("that the golden JSON certifies", None if mask is None else mask.sections),
        ("in the runs of the campaign", LumiList.of_runs(campaign.runs) if campaign.runs else None),
    ):
        sections = sections if some is None else sections & some
        if not len(sections):
            message = f"luminosity_table = {label}: has no lumi section {what}"
            raise LumiDataError(message, "Name the table and the golden JSON of the year of these data.")
    if not campaign.sums_luminosity:
        return campaign
    total = math.fsum(table.recorded[sections.holds(table.sections.keys)].tolist())
    if not total:
        raise LumiDataError(f"luminosity_table = {label}: no luminosity was recorded in these sections", BRILCALC)
    return replace(campaign, luminosity_fb=total)


def _check(campaign: Campaign, key: str, read: Callable[[str], Value]) -> Value | None:
    """Return what is read of an input that a campaign names; its errors begin with the campaign's key."""
    location = getattr(campaign, key)
    if location is None:
        return None
    label, stated = redact(location), campaign.document(location)
    _copies.pop(location, None)
    try:
        if not stated.is_unmarked:
            path = fetch(location, alternatives=stated.alternatives, size=stated.bytes, adler32=stated.adler32)
            if Address.of(location).is_remote:
                _copies[location] = path
        return read(location)
    except HiggsnbError as error:
        message = error.message.removeprefix(f"{label}: ")
        raise type(error)(f"{key} = {label}: {message}", error.hint) from None
