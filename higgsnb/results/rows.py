"""The events that an analysis of one's own selected, in few bytes: a ledger keeps a row for each of millions.

Rows of one lumi section that follow each other are a segment, which can be read without the others. Its rows hold whole
numbers of as many bytes as each needs, seven bits to a byte: the differences of entry and event number to the row
before, the regions that the event is in, and its place on each axis. Quantities that are kept follow all segments as
float64, column by column.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from higgsnb.results.duplicates import mixed
from higgsnb.selection import rule

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

HEAD = struct.Struct("<qq")
"""The numbers of events and of segments."""
SEGMENT = np.dtype([("run", "<i8"), ("section", "<i8"), ("n", "<i4"), ("bytes", "<i4"), ("distinct", "?")])
"""A segment: its lumi section, how many events and bytes it has, and whether no event number occurs twice in it."""
LONGEST = 10
"""Most bytes of a number."""


class Chosen(NamedTuple):
    """Selected events of a chunk, in the order of the file.

    ``entry``, ``run``, ``section`` and ``event``, int64, are the columns of all events that were read, ``chosen``
    (n,) int64 those that were selected. ``regions`` (n_regions, n) bool are the ones that each is in; ``places`` (n,
    n_values) int32 where it is filled, negative where it is not; ``kept`` (n_kept, n) float64.
    """

    chosen: Integers
    entry: Integers
    run: Integers
    section: Integers
    event: Integers
    regions: npt.NDArray[np.bool_]
    places: npt.NDArray[np.int32]
    kept: Floats


class PackedRows(NamedTuple):
    """Rows of one chunk in bytes, and where it is in the catalogue."""

    dataset: int
    file: int
    start: int
    content: bytes

    @property
    def segments(self) -> npt.NDArray[np.void]:
        """The segments, as `SEGMENT`."""
        return np.frombuffer(self.content, SEGMENT, HEAD.unpack_from(self.content)[1], HEAD.size)


def pack_rows(dataset: int, file: int, start: int, chosen: Chosen) -> PackedRows | None:
    """Pack the events that are in any region; None if there are none."""
    which = np.flatnonzero(chosen.regions.any(axis=0))
    if not len(which):
        return None
    index = chosen.chosen.take(which)
    run, section = chosen.run.take(index), chosen.section.take(index)
    firsts = np.concatenate(([0], 1 + np.flatnonzero((run[1:] != run[:-1]) | (section[1:] != section[:-1]))))
    segments = np.zeros(len(firsts), SEGMENT)
    segments["run"], segments["section"] = run[firsts], section[firsts]
    del run, section  # what follows needs the most memory of all that is done with a chunk
    segments["n"] = np.diff(firsts, append=len(index))
    buffer = np.empty(LONGEST * len(firsts) + _row_bytes(chosen) * len(index), np.uint8)
    slots = np.empty(2 << int(segments["n"].max()).bit_length(), np.int64)
    counts, sizes, distinct = (
        segments["n"].astype(np.int64),
        np.empty(len(firsts), np.int64),
        np.empty(len(firsts), bool),
    )
    write_segments(
        counts, index, which, chosen.entry, chosen.event, chosen.regions, chosen.places, slots, buffer, sizes, distinct
    )
    segments["bytes"], segments["distinct"] = sizes, distinct
    parts = [HEAD.pack(len(index), len(firsts)), segments.tobytes(), buffer[: sizes.sum()].tobytes()]
    return PackedRows(dataset, file, start, b"".join([*parts, chosen.kept[:, which].astype("<f8").tobytes()]))


def unpack_rows(
    packed: PackedRows, n_regions: int, n_values: int, n_kept: int, which: Integers | None = None
) -> dict[str, npt.NDArray[Any]]:
    """Return columns with a row for each region of an event, in the order of the catalogue; see `Chosen`.

    ``which`` are the segments to read, ascending (default: all).
    """
    n_events, n_segments = HEAD.unpack_from(packed.content)
    segments = packed.segments
    which = np.arange(n_segments) if which is None else which
    numbers = np.frombuffer(packed.content, np.uint8, int(segments["bytes"].sum()), HEAD.size + segments.nbytes)
    counts, starts = segments["n"].astype(np.int64), np.cumsum(segments["bytes"]) - segments["bytes"]
    n = int(counts[which].sum())
    entry, event, bits, places = (
        np.empty(n, np.int64),
        np.empty(n, np.int64),
        np.empty((n, n_regions), bool),
        np.empty((n, n_values), np.int32),
    )
    read_segments(numbers, starts[which].astype(np.int64), counts[which], entry, event, bits, places)
    rows, region = np.nonzero(bits)
    firsts = np.cumsum(counts) - counts
    events = np.repeat(firsts[which] - (np.cumsum(counts[which]) - counts[which]), counts[which]) + np.arange(n)
    kept = np.frombuffer(packed.content, "<f8", offset=HEAD.size + segments.nbytes + len(numbers)).reshape(
        n_kept, n_events
    )
    section = np.repeat(which, counts[which])[rows]
    return {
        "dataset": np.full(len(rows), packed.dataset, np.int16),
        "file": np.full(len(rows), packed.file, np.int32),
        "entry": entry[rows],
        "run": segments["run"][section].astype(np.int64),
        "luminosity_block": segments["section"][section].astype(np.int64),
        "event": event[rows].view(np.uint64),
        "region": region.astype(np.int8),
        "places": places[rows],
        "kept": kept[:, events[rows]].astype(np.float64),
    }


def doubtful(blocks: Sequence[PackedRows]) -> list[tuple[PackedRows, Integers]]:
    """Return the segments that may hold an event more than once, or one of another segment, by block.

    These are the ones whose event numbers are not distinct, and those of lumi sections that occur more than once.
    """
    if not blocks:
        return []
    segments = [block.segments for block in blocks]
    run, section = (np.concatenate([some[name] for some in segments]) for name in ("run", "section"))
    order = np.lexsort((section, run))
    same = (run[order][1:] == run[order][:-1]) & (section[order][1:] == section[order][:-1])
    marks = ~np.concatenate([some["distinct"] for some in segments])
    marks[order[1:][same]] = marks[order[:-1][same]] = True
    bounds = np.cumsum([0, *map(len, segments)]).tolist()
    found = [np.flatnonzero(marks[first:stop]) for first, stop in pairwise(bounds)]
    return [(block, which) for block, which in zip(blocks, found, strict=True) if len(which)]


def _row_bytes(chosen: Chosen) -> int:
    """Return the most bytes of a row that is not the first of its segment."""

    def most(number: Any) -> int:
        return int((int(number).bit_length() + 7) // 7)  # with a sign, seven bits to a byte

    of_regions, of_place = (len(chosen.regions) + 6) // 7, most(chosen.places.max(initial=1))
    return most(np.ptp(chosen.entry)) + LONGEST + of_regions + of_place * int(chosen.places.shape[1])


@rule
def write_number(value: Any, buffer: Any, at: Any) -> Any:
    """Write a number of either sign, those near zero into the fewest bytes; return where the next one goes."""
    rest = (np.uint64(value) << np.uint64(1)) ^ np.uint64(value >> np.int64(63))
    while rest >= np.uint64(128):
        buffer[at] = np.uint8(rest & np.uint64(127)) | np.uint8(128)
        rest >>= np.uint64(7)
        at += np.uint64(1)
    buffer[at] = np.uint8(rest)
    return at + np.uint64(1)


@rule
def read_number(buffer: Any, at: Any) -> Any:
    """Return a number, and where the next one begins."""
    value, shift, byte = np.uint64(0), np.uint64(0), np.uint8(128)
    while byte >= np.uint8(128):
        byte = buffer[at]
        value |= np.uint64(byte & np.uint8(127)) << shift
        shift += np.uint64(7)
        at += 1
    return np.int64(value >> np.uint64(1)) ^ -np.int64(value & np.uint64(1)), at


@rule
def write_segments(
    counts: Any,
    index: Any,
    which: Any,
    entry: Any,
    event: Any,
    regions: Any,
    places: Any,
    slots: Any,
    buffer: Any,
    sizes: Any,
    distinct: Any,
) -> Any:
    """Write the rows of segments with ``counts`` events; fill how many bytes each takes, and whether it is distinct.

    Indices are without a sign: numba takes others from the end if they are negative, which takes a third of the time.
    """
    at: Any = np.uint64(0)
    first: Any = 0
    for segment in range(len(counts)):
        begin, stop, rises = at, first + counts[segment], True
        last_entry: Any = np.int64(0)
        last_event: Any = np.int64(0)
        for row in range(first, stop):
            i, j = np.uint64(index[row]), np.uint64(which[row])
            at = write_number(entry[i] - last_entry, buffer, at)
            at = write_number(event[i] - last_event, buffer, at)
            rises &= (row == first) | (event[i] > last_event)
            last_entry, last_event = entry[i], event[i]
            for low in range(0, len(regions), 7):
                bits = np.uint8(0)
                for region in range(low, min(low + 7, len(regions))):
                    bits |= np.uint8(regions[np.uint64(region), j]) << np.uint8(region - low)
                buffer[at] = bits
                at += np.uint64(1)
            for k in range(places.shape[1]):
                at = write_number(np.int64(places[j, np.uint64(k)]), buffer, at)
        distinct[segment] = rises or are_distinct(event, index, first, stop, slots)
        sizes[segment] = at - begin
        first = stop


@rule
def are_distinct(event: Any, index: Any, first: Any, stop: Any, slots: Any) -> Any:
    """Whether no event number occurs twice; ``slots`` are a power of two and at least twice as many."""
    size = 2
    while size < 2 * (stop - first):
        size *= 2
    slots[:size] = 0
    for row in range(first, stop):
        key = mixed(np.int64(0), np.int64(0), event[index[row]], np.int64(0))
        at = key & (size - 1)
        while slots[at] != 0 and slots[at] != key:
            at = (at + 1) & (size - 1)
        if slots[at] == key:
            return False
        slots[at] = key
    return True


@rule
def read_segments(buffer: Any, starts: Any, counts: Any, entry: Any, event: Any, regions: Any, places: Any) -> Any:
    """Read segments that begin at ``starts`` and have ``counts`` events."""
    row = 0
    for segment in range(len(starts)):
        at, last_entry, last_event = starts[segment], np.int64(0), np.int64(0)
        for _ in range(counts[segment]):
            change, at = read_number(buffer, at)
            last_entry += change
            change, at = read_number(buffer, at)
            last_event += change
            entry[row], event[row] = last_entry, last_event
            for region in range(regions.shape[1]):
                regions[row, region] = buffer[at + region // 7] >> (region % 7) & 1
            at += (regions.shape[1] + 6) // 7
            for k in range(places.shape[1]):
                place, at = read_number(buffer, at)
                places[row, k] = place
            row += 1
