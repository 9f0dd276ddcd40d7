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
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from higgsnb.datasets.campaign import Campaign
from higgsnb.datasets.files.addresses import Address
from higgsnb.datasets.files.sources import fetch
from higgsnb.datasets.files.versions import Version
from higgsnb.errors import HiggsnbError, LumiDataError, LumiMaskError, UnreadableError
from higgsnb.redaction import redact

Ints = npt.NDArray[np.int64]
SECTION_SECONDS = 2**18 / 11245.5  # 2^18 turns of the LHC, at its frequency of revolution in Hz
LARGEST = 2**31 - 1  # run and section numbers, so that the packed number stays positive
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


@dataclass(frozen=True, eq=False)
class LumiList:
    """A set of lumi sections: ``keys`` is sorted and unique, int64 (n,)."""

    keys: Ints

    def __len__(self) -> int:
        return len(self.keys)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LumiList) and np.array_equal(self.keys, other.keys)

    def __hash__(self) -> int:
        return hash(self.keys.tobytes())

    def __and__(self, other: LumiList) -> LumiList:
        """Return the sections in both."""
        return LumiList(np.intersect1d(self.keys, other.keys, assume_unique=True))

    def __sub__(self, other: LumiList) -> LumiList:
        """Return the sections in this set and not in the other."""
        return LumiList(np.setdiff1d(self.keys, other.keys, assume_unique=True))

    def ranges(self) -> dict[str, list[list[int]]]:
        """Return the set in the form of a golden JSON: ``{run: [[first, last], …]}``."""
        if not len(self):
            return {}
        breaks = np.flatnonzero(np.diff(self.keys) != 1) + 1
        firsts, lasts = self.keys[np.r_[0, breaks]], self.keys[np.r_[breaks - 1, len(self) - 1]]
        found: dict[str, list[list[int]]] = {}
        for first, last in zip(firsts.tolist(), lasts.tolist(), strict=True):
            found.setdefault(str(first >> 32), []).append([first & 0xFFFFFFFF, last & 0xFFFFFFFF])
        return found


@dataclass(frozen=True, eq=False)
class LumiMask:
    """Certified lumi sections: ``starts[i] <= key <= stops[i]``, int64 (n,), ascending and disjoint."""

    starts: Ints
    stops: Ints

    @classmethod
    def load(cls, location: str | os.PathLike[str]) -> LumiMask:
        """Read a golden JSON from a path or an address.

        Raises
        ------
        LumiMaskError
            If the text is not ``{"run": [[first, last], …], …}``; names the run.
        MissingFileError, TransferError, ChecksumError
            If no source gave it.
        """
        label, path = redact(os.fspath(location)), fetch(os.fspath(location))
        try:
            return cls.of(json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_once))
        except LumiMaskError as error:
            raise LumiMaskError(f"{label}: {error.message}", error.hint) from None
        except ValueError as error:
            raise LumiMaskError(f"{label}: not JSON: {error}", GOLDEN_JSON) from None

    @classmethod
    def of(cls, ranges: Mapping[str, Any]) -> LumiMask:
        """Make a mask from the content of a golden JSON; overlapping ranges are joined."""
        if not isinstance(ranges, Mapping):
            raise LumiMaskError(f'expected {{"run": [[first, last], …]}}, got a {type(ranges).__name__}', GOLDEN_JSON)
        pairs = []
        for run, spans in ranges.items():
            if not re.fullmatch(r"\d{1,10}", run) or not 0 < int(run) <= LARGEST:
                raise LumiMaskError(f"expected a run number as key, got '{run[:40]}'", GOLDEN_JSON)
            if not isinstance(spans, list):
                raise LumiMaskError(f"run {run}: expected a list of [first, last], got {str(spans)[:40]}", GOLDEN_JSON)
            for span in spans:
                whole = isinstance(span, list) and len(span) == 2 and all(type(number) is int for number in span)
                if not whole or not 0 <= span[0] <= span[1] <= LARGEST:
                    expected = f"run {run}: expected [first, last] with 0 <= first <= last"
                    raise LumiMaskError(f"{expected}, got {str(span)[:40]}", GOLDEN_JSON)
                pairs.append((int(run) << 32 | span[0], int(run) << 32 | span[1]))
        joined: list[list[int]] = []
        for start, stop in sorted(pairs):
            if joined and start <= joined[-1][1] + 1:
                joined[-1][1] = max(joined[-1][1], stop)
            else:
                joined.append([start, stop])
        bounds = np.array(joined, dtype=np.int64).reshape(-1, 2)
        return cls(bounds[:, 0].copy(), bounds[:, 1].copy())

    def holds(self, keys: Ints) -> npt.NDArray[np.bool_]:
        """Return which packed sections (see `pack`) are certified; bool of the same shape."""
        if not len(self.starts):
            return np.zeros(keys.shape, dtype=np.bool_)
        at = np.searchsorted(self.starts, keys, side="right") - 1
        return (at >= 0) & (keys <= self.stops[at])

    @property
    def sections(self) -> LumiList:
        """The certified sections one by one."""
        lengths = self.stops - self.starts + 1
        before = np.cumsum(lengths) - lengths
        return LumiList(np.repeat(self.starts - before, lengths) + np.arange(lengths.sum(), dtype=np.int64))

    @property
    def digest(self) -> str:
        """sha256 (hex) of the certified sections, whatever the form of the file."""
        return hashlib.sha256(self.starts.astype("<i8").tobytes() + self.stops.astype("<i8").tobytes()).hexdigest()


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the pairs of a JSON object as a dict; LumiMaskError if a run is listed twice (JSON keeps the last)."""
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise LumiMaskError(f"run {key} is listed twice", "Join its ranges into one list.")
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

    The units are those of the header: ``(/ub)``, ``(/pb)``, …; a rate, ``(hz/ub)``, is multiplied by the
    length of a section.

    Raises
    ------
    LumiDataError
        If a column, a unit or a number is missing or wrong (names the line), or a section is listed twice.
    MissingFileError, TransferError, ChecksumError
        If no source gave it.
    """
    label = redact(os.fspath(location))
    path: Path = fetch(os.fspath(location))
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        raise LumiDataError(f"{label}: not a text file", BRILCALC) from None
    at, factors = _header(lines, label)
    packed, luminosity = [], []
    for number, text in enumerate(lines, 1):
        if not text or text[0] == "#":
            continue
        try:
            cells = next(csv.reader([text]))
            run = int(cells[at["run"]].partition(":")[0])
            first, _, second = cells[at["ls"]].partition(":")  # "section:cms section", the latter 0 if not recorded
            section = int(second or 0) or int(first)
            delivered, recorded = float(cells[at["delivered"]]), float(cells[at["recorded"]])
        except (ValueError, IndexError, csv.Error):
            raise LumiDataError(f"{label}: line {number} cannot be read: {text[:80]}", BRILCALC) from None
        if not (0 < run <= LARGEST and 0 <= section <= LARGEST):
            raise LumiDataError(f"{label}: line {number}: run {run}, section {section} are out of range", BRILCALC)
        if not (0 <= delivered < math.inf and 0 <= recorded < math.inf):
            raise LumiDataError(f"{label}: line {number}: luminosity must not be negative: {text[:80]}", BRILCALC)
        packed.append(run << 32 | section)
        luminosity.append((delivered * factors[0], recorded * factors[1]))
    keys = np.array(packed, dtype=np.int64)
    order = np.argsort(keys, kind="stable")
    twice = np.flatnonzero(np.diff(keys[order]) == 0)
    if len(twice):
        run, section = divmod(int(keys[order][twice[0]]), 2**32)
        raise LumiDataError(f"{label}: run {run}, section {section} is there twice", "Give each section one line.")
    values = np.array(luminosity, dtype=np.float64).reshape(-1, 2)[order]
    return LumiData(LumiList(keys[order]), values[:, 0].copy(), values[:, 1].copy())


def _header(lines: list[str], label: str) -> tuple[dict[str, int], list[float]]:
    """Find the columns of a table, and the factors that turn delivered and recorded into 1/fb."""
    for line in lines:
        names = [name.strip().lower() for name in line.lstrip("#").split(",")]
        if not line.startswith("#") or not names[0].startswith("run"):
            continue
        found = {name.partition("(")[0].partition(":")[0]: at for at, name in enumerate(names)}
        lacking = [name for name in ("ls", "delivered", "recorded") if name not in found]
        if lacking:
            raise LumiDataError(f"{label}: no column '{lacking[0]}' among {', '.join(names)}", BRILCALC)
        factors = []
        for column in (names[found["delivered"]], names[found["recorded"]]):  # such as "recorded(1e3/pb)"
            unit = re.fullmatch(r"\w+\((\d+(?:\.\d+)?(?:e[+-]?\d+)?)?(hz)?/([munpfa]?b)\)", column)
            if unit is None:
                expected = f"no unit in '{column}'; expected one as (/pb), (/ub) or (hz/ub)"
                raise LumiDataError(f"{label}: {expected}", BRILCALC)
            factor = float(unit[1] or 1) * (SECTION_SECONDS if unit[2] else 1.0)
            factors.append(factor * 10.0 ** UNITS[unit[3]])
        return found, factors
    raise LumiDataError(f"{label}: no header '#run:fill,ls,…,delivered(/pb),recorded(/pb)…'", BRILCALC)


def kept_mask(golden_json: str, digest: str | None = None) -> LumiMask:
    """Return what `LumiMask.load` does, read once per process unless the file is changed.

    Raises
    ------
    LumiMaskError
        If it is not the one of that digest; and as `LumiMask.load` does.
    """
    mask: LumiMask = _kept(LumiMask.load, golden_json, _stamp(golden_json))
    if digest is not None and mask.digest != digest:
        raise LumiMaskError(
            f"{redact(golden_json)}: is not the golden JSON that it was when the run began",
            "It has changed, or workers see another one than this process; run again.",
        )
    return mask


def kept_table(luminosity_table: str) -> LumiData:
    """Return what `read_table` does, read once per process unless the file is changed."""
    table: LumiData = _kept(read_table, luminosity_table, _stamp(luminosity_table))
    return table


@lru_cache(maxsize=8)
def _kept(read: Callable[[str], Any], location: str, _changed: object) -> Any:
    return read(location)


def _stamp(location: str) -> Version | None:
    """Return the version of a local file, which may be written again under its name."""
    address = Address.of(location)
    try:
        return Version.of_file(address.local_path) if address.is_local else None
    except OSError:
        return None  # its reader reports that it is absent


def check_inputs(campaign: Campaign) -> None:
    """Load golden JSON and luminosity table once, so that a bad one is reported before any event is read.

    Raises
    ------
    LumiMaskError, LumiDataError, MissingFileError, TransferError, ChecksumError
        As `LumiMask.load` and `read_table` do; the message begins with the campaign's key, ``golden_json = …:``.
    """
    for key, location, read in (
        ("golden_json", campaign.golden_json, LumiMask.load),
        ("luminosity_table", campaign.luminosity_table, read_table),
    ):
        if location is None:
            continue
        label = redact(location)
        try:
            read(location)
        except HiggsnbError as error:
            message = error.message.removeprefix(f"{label}: ")
            raise type(error)(f"{key} = {label}: {message}", error.hint) from None
        except OSError as error:
            raise UnreadableError(
                f"{key} = {label}: cannot be read: {error.strerror or error}", "Check the permissions of the file."
            ) from None
