"""Compiled parts of the fast readers: where the objects of events are, and lists that count themselves."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from higgsnb.selection import rule

Integers = npt.NDArray[np.int64]

FEW = 50_000
"""Events or objects up to which NumPy is as quick as compiled code, which first has to be loaded."""
MANY = 0.25
"""Share of all events from which on going through all objects is quicker than listing those that are wanted."""
MARK = np.dtype(np.uint8)
"""The type of marks."""
AT_ONCE = 4
"""Objects of an event that are marked without asking how many there are."""
LIST_HEADER = 10
"""Bytes before the values of a `std::vector` in a basket: a byte count, a version, and the number of values."""


@rule
def add_up(counts: npt.NDArray[Any], offsets: Integers) -> bool:
    """Fill ``offsets`` (n + 1,) with zero and the running sum of ``counts`` (n,), eight times faster than `numpy`.

    Return whether the sum never decreases, as it does with a negative count or one that is too large.
    """
    total, rises = np.int64(0), True
    offsets[0] = total
    for i in range(len(counts)):
        total += np.int64(counts[i])
        rises &= total >= offsets[i]
        offsets[i + 1] = total
    return rises


def chosen(passing: npt.NDArray[np.bool_]) -> npt.NDArray[Any] | slice:
    """Return which events pass: a range if all do, marks (n,) uint8 if many do, else their indices."""
    n, n_events = np.count_nonzero(passing), len(passing)
    if n == n_events:
        return slice(0, n_events)
    return passing.view(MARK) if n > max(FEW, MANY * n_events) else np.flatnonzero(passing)


def indices_of(events: npt.NDArray[np.uint8], start: int) -> Integers:
    """Return the indices of marked events, of which the first is ``start``: (n_marked,) int64."""
    indices = np.empty(np.count_nonzero(events) + 1, np.int64)
    _list_marked(events, start, indices)
    return indices[:-1]


@rule
def _list_marked(events: Any, start: Any, indices: Any) -> None:
    at = 0
    for i in range(len(events)):
        indices[at] = start + i
        at += events[i]


def elements_of(firsts: Integers, events: Integers) -> tuple[Integers, Integers]:
    """Return the indices of the objects of ``events``, and where those of each start among them.

    ``firsts`` (n + 1,) says where the objects of all events start.
    """
    counts = firsts[events + 1] - firsts[events]
    offsets = np.empty(len(events) + 1, dtype=np.int64)
    add_up(counts, offsets)
    if offsets[-1] <= FEW:
        return np.arange(offsets[-1]) + np.repeat(firsts[events] - offsets[:-1], counts), offsets
    elements = np.empty(offsets[-1], dtype=np.int64)
    _fill(firsts, events, offsets, elements)
    return elements, offsets


@rule
def _fill(firsts: Integers, events: Integers, offsets: Integers, elements: Integers) -> None:
    for i in range(len(events)):
        ahead = firsts[events[i]] - offsets[i]
        for at in range(offsets[i], offsets[i + 1]):
            elements[at] = at + ahead


def marks_of(firsts: Integers, events: npt.NDArray[np.uint8], ahead: int) -> tuple[npt.NDArray[np.uint8], Integers]:
    """Return marks of the objects of marked ``events``, (n_objects,) uint8, and where those of each start among them.

    ``firsts`` says where the objects of all events start; ``ahead`` of them come before ``events``.
    """
    stop = ahead + len(events)
    objects = np.empty(firsts[-1] + AT_ONCE, MARK)
    objects[: firsts[ahead]] = 0
    offsets = np.empty(np.count_nonzero(events) + 2, np.int64)
    mark_objects(firsts[ahead : stop + 1], events, objects, offsets)
    objects[firsts[stop] :] = 0
    return objects[:-AT_ONCE], offsets[:-1]


@rule
def mark_objects(firsts: Any, events: Any, objects: Any, offsets: Any) -> Any:
    """Mark the objects of marked events, and write where those of each start: both without a branch.

    Past the last ones `AT_ONCE` more objects are written to, and one more offset. Return how many events are marked.
    """
    n = 0
    offsets[0] = 0
    for i in range(len(events)):
        first, stop, mark = firsts[i], firsts[i + 1], events[i]
        for more in range(AT_ONCE):
            objects[first + more] = mark
        for at in range(first + AT_ONCE, stop):
            objects[at] = mark
        offsets[n + 1] = offsets[n] + stop - first
        n += mark
    return n


@rule
def copy_marked(content: Any, marks: Any, values: Any, at: Any) -> Any:
    """Copy big-endian numbers of four bytes that are marked to ``values`` from ``at`` on; return where they end.

    One place more is written to: without a branch, all numbers take as long, but none of them long.
    """
    for i in range(len(marks)):
        values[at] = swapped(content[i])
        at += marks[i]
    return at


@rule
def copy_marked_pairs(content: Any, marks: Any, values: Any, at: Any) -> Any:
    """Do the same with numbers of eight bytes; ``content`` and ``values`` are pairs of four."""
    for i in range(len(marks)):
        values[2 * at], values[2 * at + 1] = swapped(content[2 * i + 1]), swapped(content[2 * i])
        at += marks[i]
    return at


@rule
def swapped(x: Any) -> Any:
    """Return four bytes in the opposite order."""
    outer = (x << np.uint32(24)) | (x >> np.uint32(24))
    return outer | ((x >> np.uint32(8)) & np.uint32(0xFF00)) | ((x << np.uint32(8)) & np.uint32(0xFF0000))


COPIES = {4: copy_marked, 8: copy_marked_pairs}
"""What copies marked numbers, by their bytes."""


@rule
def split_lists(content: npt.NDArray[np.uint8], width: int, counts: Integers, values: npt.NDArray[np.uint8]) -> int:
    """Take the headers off the lists of a basket: fill ``counts`` (n_entries,) and the bytes of the ``values``.

    Values have ``width`` bytes each, and all of them as many as the content without the headers. Return how many bytes
    they take; -1 if the lists do not end where the content does, or contradict their byte counts.
    """
    at = total = 0
    for i in range(len(counts)):
        if at + LIST_HEADER > len(content):
            return -1
        size = n_values = 0
        for byte in range(4):
            size = size << 8 | int(content[at + byte])
            n_values = n_values << 8 | int(content[at + 6 + byte])
        counts[i] = n_values
        n_bytes = n_values * width
        if size & 0x3FFFFFFF != n_bytes + 6 or total + n_bytes > len(values):
            return -1
        at += LIST_HEADER
        for byte in range(n_bytes):
            values[total + byte] = content[at + byte]
        at += n_bytes
        total += n_bytes
    return total if at == len(content) else -1
