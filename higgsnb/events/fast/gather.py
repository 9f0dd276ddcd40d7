"""Compiled parts of the fast readers: where the objects of events are, and lists that count themselves."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from higgsnb.selection import rule

Integers = npt.NDArray[np.int64]

FEW = 50_000
"""Objects up to which NumPy lists them as quickly as compiled code does, which first has to be loaded."""
MANY = 0.25
"""Share of all objects from which on going through all of them is quicker than listing those that are wanted."""
MARK = np.dtype(np.uint8)
"""The type of marks."""
SWAPPED = 4
"""Bytes of the numbers that `copy_marked` copies."""
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


def elements_of(firsts: Integers, events: Integers, *, marked: bool = False) -> tuple[npt.NDArray[Any], Integers]:
    """Return the indices of the objects of ``events``, and where those of each start among them.

    ``firsts`` (n + 1,) says where the objects of all events start. If ``marked``, and if they are many, marks of the
    objects are returned instead of their indices, (n_objects,) uint8.
    """
    counts = firsts[events + 1] - firsts[events]
    offsets = np.empty(len(events) + 1, dtype=np.int64)
    add_up(counts, offsets)
    if marked and offsets[-1] > max(FEW, MANY * firsts[-1]):
        marks = np.zeros(firsts[-1], MARK)
        _mark(firsts, events, marks)
        return marks, offsets
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


@rule
def _mark(firsts: Integers, events: Integers, marks: npt.NDArray[np.uint8]) -> None:
    for i in range(len(events)):
        for at in range(firsts[events[i]], firsts[events[i] + 1]):
            marks[at] = 1


@rule
def copy_marked(content: Any, marks: Any, values: Any, at: Any) -> Any:
    """Copy big-endian numbers of four bytes that are marked to ``values`` from ``at`` on; return where they end.

    One place more is written to: without a branch, all numbers take as long, but none of them long.
    """
    for i in range(len(content)):
        x = content[i]
        outer = (x << np.uint32(24)) | (x >> np.uint32(24))
        inner = ((x >> np.uint32(8)) & np.uint32(0xFF00)) | ((x << np.uint32(8)) & np.uint32(0xFF0000))
        values[at] = outer | inner
        at += marks[i]
    return at


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
