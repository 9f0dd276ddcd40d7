"""Events of data that occur more than once: in two primary datasets, or in overlapping files."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from higgsnb.selection import rule

Integers = npt.NDArray[np.int64]


def in_order(table: Any) -> Any:
    """Return the rows of a table in the order of the catalogue."""
    return table.rows(np.lexsort((table.region, table.entry, table.file, table.dataset)))


def find_duplicates(table: Any, precedence: Integers, *, one_per_event: bool) -> npt.NDArray[np.bool_]:
    """Return which rows, in the order of the catalogue, are events of data that occur before: (n_rows,) bool.

    Of equal events the one whose dataset has the lowest rank in ``precedence`` (n_datasets,) is the first, then the one
    that comes first in the table. Datasets of rank −1 (simulation) are never compared. With ``one_per_event`` an event
    is the same whatever its region; else (run, luminosityBlock, event, region) is compared.
    """
    rank, duplicate = precedence[table.dataset], np.zeros(len(table.run), bool)
    data = np.flatnonzero((rank >= 0) & repeated(table, one_per_event=one_per_event))
    if not len(data):
        return duplicate
    region = np.zeros(len(data), np.int8) if one_per_event else table.region[data]
    keys = (region, table.event[data], table.luminosity_block[data], table.run[data])
    order = np.lexsort((data, rank[data], *keys))
    again = np.zeros(len(order), bool)
    again[1:] = np.logical_and.reduce([key[order][1:] == key[order][:-1] for key in keys])
    duplicate[data[order]] = again
    return duplicate


def repeated(table: Any, *, one_per_event: bool) -> npt.NDArray[np.bool_]:
    """Return which rows of a table may occur more than once, all that do among them: (n_rows,) bool."""
    n = len(table.run)
    identity = [
        np.require(column.astype(np.int64, copy=False), requirements=["C", "W"])
        for column in (table.run, table.luminosity_block, table.event.astype(np.int64))
    ]
    region = np.zeros(n, np.int64) if one_per_event else table.region.astype(np.int64)
    marks = np.zeros(n, np.bool_)
    mark_repeated(*identity, region, np.zeros(1 << max(4, int(1.17 * n).bit_length()), np.int64), marks)
    return marks


@rule
def mark_repeated(run, section, event, region, places, marks):
    """Mark all rows whose key, a hash of these columns, has been seen before, and those that they repeat.

    ``places`` is the hash table, a power of two of zeros that is larger than the number of rows: keys are stored there,
    the index of their first row in ``marks`` is found by going through the rows once more.
    """
    mask, again = len(places) - 1, False
    for i in range(len(run)):
        key = mixed(run[i], section[i], event[i], region[i])
        at = key & mask
        while places[at] != 0 and places[at] != key:
            at = (at + 1) & mask
        if places[at] == key:
            marks[i] = again = True
        places[at] = key
    if not again:
        return
    places[:] = 0
    for i in range(len(run)):
        if marks[i]:
            key = mixed(run[i], section[i], event[i], region[i])
            at = key & mask
            while places[at] != 0 and places[at] != key:
                at = (at + 1) & mask
            places[at] = key
    for i in range(len(run)):
        key = mixed(run[i], section[i], event[i], region[i])
        at = key & mask
        while places[at] != 0 and places[at] != key:
            at = (at + 1) & mask
        marks[i] = places[at] == key


@rule
def mixed(run, section, event, region):
    """Return a hash of an event's identity and region, int64, never 0."""
    key = event * 0x9E3779B97F4A7C1
    for part in (run, section, region):
        key = (key ^ (key >> 29)) * 0x3F58476D1CE4E5B + part
    key ^= key >> 32
    return key | np.int64(1)
