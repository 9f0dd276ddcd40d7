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
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from higgsnb import files
from higgsnb.errors import LumiDataError, LumiMaskError

__all__ = [
    "Account",
    "Catalogue",
    "FileProgress",
    "LumiSections",
    "LumiTable",
    "Mask",
    "LumiMaskError",
    "Progress",
    "SectionSum",
    "Segments",
    "Span",
    "LumiDataError",
    "account",
    "catalogue",
    "check_inputs",
    "join_spans",
    "kept_mask",
    "of_primary_dataset",
    "packed",
    "read_table",
    "unfinished",
    "union",
]

Ints = npt.NDArray[np.int64]
Name = TypeVar("Name")
SECTION_SECONDS = 2**18 / 11245.5  # 2^18 turns of the LHC, at its frequency of revolution in Hz
PACKED = np.dtype("<i8")  # sections in a file
LARGEST = 2**31 - 1  # run and section numbers, so that the packed number stays positive
# powers of ten that turn 1/unit into 1/fb
UNITS = {"b": -15, "mb": -12, "ub": -9, "nb": -6, "pb": -3, "fb": 0, "ab": 3}


def pack(run: npt.ArrayLike, section: npt.ArrayLike) -> Ints:
    """Pack run and section numbers (same shape) into one int64 each."""
    return (np.asarray(run).astype(np.int64) << 32) | np.asarray(section).astype(np.int64)


class Segments(NamedTuple):
    """Neighbouring events of one lumi section: ``starts`` (n,) is the first event of each, ``keys`` (n,) its section.

    A file has thousands of events in a row that share a section, so that all work is done on these few numbers.
    """

    starts: Ints
    keys: Ints
    n_events: int

    @classmethod
    def of(cls, run: npt.NDArray[Any], section: npt.NDArray[Any]) -> Segments:
        """Find them from run and section number of each event, (n_events,)."""
        if not len(run):
            return cls(np.empty(0, np.int64), np.empty(0, np.int64), 0)
        starts = np.flatnonzero(np.r_[True, (run[1:] != run[:-1]) | (section[1:] != section[:-1])])
        return cls(starts, pack(run[starts], section[starts]), len(run))

    @property
    def lengths(self) -> Ints:
        """Number of events of each, (n,)."""
        found: Ints = np.diff(np.append(self.starts, self.n_events))
        return found

    @property
    def scattered(self) -> bool:
        """Whether the events go back to a section that they had left."""
        return len(np.unique(self.keys)) < len(self.keys)

    def at(self, events: Ints) -> Ints:
        """Return in which of them some events are, by index."""
        found: Ints = np.searchsorted(self.starts, events, side="right") - 1
        return found


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
        LumiDataError
            If the table lacks a section; ``sections & table.sections`` is what it can answer for.
        """
        lost = self - table.sections
        if len(lost):
            run, section = divmod(int(lost.keys[0]), 2**32)
            raise LumiDataError(
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
        LumiMaskError
            If the text is not ``{"run": [[first, last], …], …}``; names the run.
        FileNotFoundError, higgsnb.files.TransferError
            If it cannot be had.
        """
        path = files.fetch(os.fspath(location))
        try:
            content = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_once)
        except ValueError as error:
            reason = error if isinstance(error, LumiMaskError) else f"not JSON: {error}"
            raise LumiMaskError(f"{files.redact(os.fspath(location))}: {reason}") from None
        try:
            return cls.of(content)
        except LumiMaskError as error:
            raise LumiMaskError(f"{files.redact(os.fspath(location))}: {error}") from None

    @classmethod
    def of(cls, ranges: Mapping[str, Any]) -> Mask:
        """Make a mask from the content of a golden JSON; overlapping ranges are joined."""
        if not isinstance(ranges, Mapping):
            raise LumiMaskError(f'expected {{"run": [[first, last], …]}}, got a {type(ranges).__name__}')
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
        return self.holds(pack(run, lumi))

    def holds(self, keys: Ints) -> npt.NDArray[np.bool_]:
        """Say which packed sections (see `pack`) are certified; bool of the same shape."""
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
            raise LumiMaskError(f"run {key} is listed twice; join its ranges")
        found[key] = value
    return found


def _intervals(run: str, spans: Any) -> Iterator[tuple[int, int]]:
    if not re.fullmatch(r"\d{1,10}", run) or not 0 < int(run) <= LARGEST:
        raise LumiMaskError(f"expected a run number as key, got '{run[:40]}'")
    if not isinstance(spans, list):
        raise LumiMaskError(f"run {run}: expected a list of [first, last], got {str(spans)[:40]}")
    for span in spans:
        if not _is_span(span):
            raise LumiMaskError(f"run {run}: expected [first, last] with 0 <= first <= last, got {str(span)[:40]}")
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
    LumiDataError
        If a column, a unit or a number is missing or wrong (names the line), or a section is there twice.
    FileNotFoundError, higgsnb.files.TransferError
        If it cannot be had.
    """
    label = files.redact(os.fspath(location))
    path: Path = files.fetch(os.fspath(location))
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        raise LumiDataError(f"{label}: not a text file; expected brilcalc's CSV") from None
    columns = _header(lines, label)
    rows = [_row(text, number, columns, label) for number, text in enumerate(lines, 1) if text and text[0] != "#"]
    keys = np.array([row[0] for row in rows], dtype=np.int64)
    order = np.argsort(keys, kind="stable")
    twice = np.flatnonzero(np.diff(keys[order]) == 0)
    if len(twice):
        run, section = divmod(int(keys[order][twice[0]]), 2**32)
        raise LumiDataError(f"{label}: run {run}, section {section} is there twice; give each section one line")
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
            raise LumiDataError(
                f"{label}: no column '{lacking[0]}' among {', '.join(names)}\nmake the table with brilcalc lumi --byls"
            )
        delivered, recorded = found["delivered"], found["recorded"]
        factors = (_to_fb(names[delivered], label), _to_fb(names[recorded], label))
        return _Columns(found["run"], found["ls"], delivered, recorded, factors)
    raise LumiDataError(f"{label}: no header '#run:fill,ls,…,delivered(/pb),recorded(/pb)…'; expected brilcalc's CSV")


def _to_fb(column: str, label: str) -> float:
    """Find the factor that turns a column into 1/fb from the unit in its name, as ``recorded(1e3/pb)``."""
    match = re.fullmatch(r"\w+\((\d+(?:\.\d+)?(?:e[+-]?\d+)?)?(hz)?/([munpfa]?b)\)", column)
    if match is None:
        raise LumiDataError(f"{label}: no unit in '{column}'; expected one as (/pb), (/ub) or (hz/ub)")
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
        raise LumiDataError(f"{label}: line {number} cannot be read: {text[:80]}") from None
    if not (0 < run <= LARGEST and 0 <= section <= LARGEST):
        raise LumiDataError(f"{label}: line {number}: run {run}, section {section} are out of range")
    if not (0 <= delivered < math.inf and 0 <= recorded < math.inf):
        raise LumiDataError(f"{label}: line {number}: luminosity must not be negative: {text[:80]}")
    return run << 32 | section, delivered * columns.factors[0], recorded * columns.factors[1]


# --- processed and lost


class Span(NamedTuple):
    """Entries ``start`` to ``stop`` of a file have been counted; the sections of the first and the last of them."""

    start: int
    stop: int
    first: int
    last: int


def join_spans(spans: Iterable[Span]) -> tuple[Span, ...]:
    """Join those of one file that touch; in any order and grouping the same."""
    joined: list[Span] = []
    for span in sorted(spans):
        if joined and joined[-1].stop == span.start:
            joined[-1] = Span(joined[-1].start, span.stop, joined[-1].first, span.last)
        else:
            joined.append(span)
    return tuple(joined)


class SectionSum:
    """The running sum of what chunks tell of their sections.

    These are the fields ``sections``, ``spans`` and ``scattered`` of a tally. Keys are datasets, or (dataset, file), by
    their place in the catalogue.
    """

    def __init__(self) -> None:
        self._sections: dict[int, list[Ints]] = {}
        self._spans: dict[tuple[int, int], list[Span]] = {}
        self._scattered: dict[tuple[int, int], list[Ints]] = {}

    def add(
        self,
        sections: Mapping[int, Ints],
        spans: Mapping[tuple[int, int], Iterable[Span]],
        scattered: Mapping[tuple[int, int], Ints],
    ) -> None:
        """Add what other chunks tell."""
        for dataset, keys in sections.items():
            self._sections.setdefault(dataset, []).append(keys)
        for file, some in spans.items():
            self._spans.setdefault(file, []).extend(some)
        for file, keys in scattered.items():
            self._scattered.setdefault(file, []).append(keys)

    def add_packed(self, file: tuple[int, int], entries: tuple[int, int], sections: bytes, edges: bytes) -> None:
        """Add what `packed` returned for one chunk, ``entries`` of a file."""
        if not edges:
            return
        first, last, scattered = np.frombuffer(edges, PACKED).tolist()
        keys = np.frombuffer(sections, PACKED).astype(np.int64)
        seen = {file[0]: keys} if len(keys) else {}
        self.add(seen, {file: (Span(*entries, first, last),)}, {file: keys} if scattered else {})

    def fields(self) -> dict[str, Any]:
        """Return the sum so far; the same in whatever order it was added up."""
        self._sections = {dataset: [_unique(some)] for dataset, some in sorted(self._sections.items())}
        self._scattered = {file: [_unique(some)] for file, some in sorted(self._scattered.items())}
        self._spans = {file: list(join_spans(some)) for file, some in sorted(self._spans.items())}
        return {
            "sections": {dataset: some[0] for dataset, some in self._sections.items()},
            "spans": {file: tuple(some) for file, some in self._spans.items()},
            "scattered": {file: some[0] for file, some in self._scattered.items()},
        }


def packed(
    sections: Mapping[int, Ints],
    spans: Mapping[tuple[int, int], Sequence[Span]],
    scattered: Mapping[tuple[int, int], Ints],
) -> dict[str, bytes]:
    """Return ``sections`` and ``edges`` of one chunk as bytes; both empty where none are noted."""
    ends = [(span.first, span.last, len(scattered)) for (span,) in spans.values()]
    return {
        "sections": b"".join(keys.astype(PACKED).tobytes() for keys in sections.values()),
        "edges": np.array(ends, PACKED).tobytes(),
    }


def _unique(some: list[Ints]) -> Ints:
    """Return the union of sets of sections, sorted."""
    return some[0] if len(some) == 1 else np.unique(np.concatenate(some))


class FileProgress(NamedTuple):
    """How far a file is.

    ``entries`` of the file, None = not known; ``spans`` counted; ``failed`` the ranges of entries that could not be
    counted but whose sections are known; ``scattered`` the sections of counted events that are not neighbours.
    """

    entries: int | None
    spans: Sequence[Span] = ()
    failed: Sequence[tuple[int, int]] = ()
    scattered: Ints | None = None

    @property
    def known(self) -> bool:
        """Whether the sections of every entry are known."""
        at = 0
        for start, stop in sorted([*((span.start, span.stop) for span in self.spans), *self.failed]):
            if start > at:
                return False
            at = max(at, stop)
        return self.entries is not None and at >= self.entries

    @property
    def inner_edges(self) -> list[int]:
        """Sections of counted entries that have an entry beside them of which nothing is known."""
        starts, stops = {start for start, _ in self.failed}, {stop for _, stop in self.failed}
        firsts = [span.first for span in self.spans if span.start > 0 and span.start not in stops]
        return firsts + [span.last for span in self.spans if span.stop != self.entries and span.stop not in starts]

    @property
    def heads(self) -> list[int]:
        """The section with which the file begins, if its first entry has been counted."""
        return [span.first for span in self.spans if span.start == 0]

    @property
    def tails(self) -> list[int]:
        """The section with which the file ends, if its last entry has been counted."""
        return [span.last for span in self.spans if span.stop == self.entries]

    @property
    def head_known(self) -> bool:
        """Whether the section of the first entry is known."""
        return any(start == 0 for start, *_ in (*self.spans, *self.failed))

    @property
    def tail_known(self) -> bool:
        """Whether the section of the last entry is known."""
        return any(stop == self.entries for _, stop, *_ in (*self.spans, *self.failed))


def unfinished(files: Iterable[FileProgress], failed: Iterable[Ints]) -> LumiSections:
    """Find the sections of one dataset of which events are missing, or may be.

    Of a range that failed the sections are known (``failed``), if they could be read at least. Of a range that is
    pending, or too damaged, they are not: but events of a section are neighbours in a file, so that only the sections
    beside the range can have a part in it, or those beside it in the next file of the catalogue, if it reaches to the
    end of its file. Where a file shows that they are not neighbours, all of its sections can. Where files of the
    dataset are seen to share sections, those at the ends of all its files can.

    What cannot be known: that a section has a part in an unread file, if the other part is in a file that is no
    neighbour in the catalogue and no two files have been seen to share a section.

    Returns
    -------
    LumiSections
        Certified or not.
    """
    files, missing = [file for file in files if file.entries != 0], list(failed)
    for file in files:
        if not file.known:
            missing.append(np.array(file.inner_edges, np.int64))
            missing += [] if file.scattered is None else [file.scattered]
    missing.append(np.array(_outer_edges(files), np.int64))
    return LumiSections(np.unique(np.concatenate(missing)))


def _outer_edges(files: Sequence[FileProgress]) -> list[int]:
    """Return the sections at the ends of files that may have a part in another file, of which nothing is known."""
    found = []
    for one, following in pairwise(files):
        found += [] if following.head_known else one.tails
        found += [] if one.tail_known else following.heads
    ends = [{*file.heads, *file.tails} for file in files]
    shared = any(number > 1 for number in Counter(key for some in ends for key in some).values())
    return [*found, *set().union(*ends)] if shared and not all(file.known for file in files) else found


class Progress(NamedTuple):
    """The sections of a dataset: ``seen`` in events, of which some events are ``missing`` (or may be)."""

    seen: LumiSections
    missing: LumiSections


class Account(NamedTuple):
    """Sections that are wholly processed, and those that are not; disjoint."""

    processed: LumiSections
    lost: LumiSections


def account(everything: LumiSections, datasets: Mapping[Name, Progress], *, complete: bool) -> dict[Name, Account]:
    """Divide the sections of a primary dataset into processed and lost ones, for each of its datasets.

    Parameters
    ----------
    everything
        The sections of mask and table.
    datasets
        How far each dataset of the primary dataset is (its eras).
    complete
        Whether every event of the primary dataset has been counted.

    Returns
    -------
    dict
        An `Account` by dataset.
        Both together are ``everything`` but for the sections that only another of these datasets has shown; over all of
        them they are ``everything``. A section without any event is in no file: it counts as
        processed if the primary dataset is complete, until then as lost.
    """
    found = {}
    for name, one in datasets.items():
        others = union(other.seen for key, other in datasets.items() if key != name)
        mine = everything - (others - one.seen)
        processed = mine if complete else (one.seen - one.missing) & mine
        found[name] = Account(processed, mine - processed)
    return found


def union(parts: Iterable[LumiSections]) -> LumiSections:
    """Return the sections in any of some sets."""
    keys = [part.keys for part in parts]
    return LumiSections(np.unique(np.concatenate(keys)) if keys else np.empty(0, np.int64))


def of_primary_dataset(accounts: Iterable[Account]) -> LumiSections:
    """Return the sections of a primary dataset that no dataset of it lost a part of."""
    accounts = list(accounts)
    return union(one.processed for one in accounts) - union(one.lost for one in accounts)


@dataclass(frozen=True)
class Catalogue:
    """The sections that a campaign speaks of: those in mask and table, or in whichever exists.

    ``recorded`` is the luminosity of each in 1/fb, float64 in the order of ``sections``; None without a table.
    """

    sections: LumiSections
    recorded: npt.NDArray[np.float64] | None

    @cached_property
    def total(self) -> float:
        """The recorded luminosity of all, in 1/fb; 0 without a table."""
        return self.integrated(self.sections)

    def integrated(self, some: LumiSections) -> float:
        """Sum the recorded luminosity of those of its sections that are in ``some``, in 1/fb."""
        if self.recorded is None:
            return 0.0
        inside = np.isin(self.sections.keys, some.keys, assume_unique=True)
        return math.fsum(self.recorded[inside].tolist())  # exact, so that it is the same on every machine


def catalogue(golden_json: str | None, luminosity_table: str | None) -> Catalogue | None:
    """Return the sections of a campaign that names a golden JSON, a table or both; None if it names neither.

    Raises
    ------
    LumiMaskError, LumiDataError, FileNotFoundError, higgsnb.files.TransferError
        As `Mask.load` and `read_table` do.
    """
    if golden_json is None and luminosity_table is None:
        return None
    return _catalogue(golden_json, _stamp(golden_json), luminosity_table, _stamp(luminosity_table))


@lru_cache(maxsize=4)
def _catalogue(golden_json: str | None, _golden: object, luminosity_table: str | None, _table: object) -> Catalogue:
    certified = None if golden_json is None else kept_mask(golden_json).sections
    if luminosity_table is None:
        return Catalogue(certified or LumiSections(np.empty(0, np.int64)), None)
    table = read_table(luminosity_table)
    sections = table.sections if certified is None else table.sections & certified
    return Catalogue(sections, table.recorded[np.isin(table.sections.keys, sections.keys, assume_unique=True)])


def kept_mask(golden_json: str, digest: str | None = None) -> Mask:
    """Return what `Mask.load` does, read once per process unless the file is changed.

    Raises
    ------
    LumiMaskError
        If it is not the one of that digest; and as `Mask.load` does.
    """
    mask = _kept_mask(golden_json, _stamp(golden_json))
    if digest is not None and mask.digest != digest:
        raise LumiMaskError(
            f"{files.redact(golden_json)}: is not the golden JSON that it was when the run began\n"
            "It has changed, or workers see another one than this process; run again."
        )
    return mask


@lru_cache(maxsize=4)
def _kept_mask(golden_json: str, _changed: object) -> Mask:
    return Mask.load(golden_json)


def _stamp(location: str | None) -> tuple[int, int] | None:
    """Return size and time of change of a local file, which may be written again under its name."""
    try:
        found = None if location is None else Path(location).stat()
    except OSError:
        return None  # an address, or a file that its reader will complain about
    return found and (found.st_size, found.st_mtime_ns)


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
    LumiMaskError, LumiDataError, FileNotFoundError, higgsnb.files.TransferError, higgsnb.files.ChecksumError
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
        except (LumiMaskError, LumiDataError, OSError) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            raise type(error)(f"{key} = {label}: {reason.removeprefix(f'{label}: ')}") from None
