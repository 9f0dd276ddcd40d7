"""Rows in few bytes come back as they were, whatever the numbers in them; events that may occur twice are found."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from higgsnb.results.rows import Chosen, PackedRows, doubtful, pack_rows, unpack_rows

Row = tuple[int, int, int, int, int, int, float]
ROWS = st.lists(
    st.tuples(
        st.integers(0, 2**40), st.sampled_from([1, 2, 2**32 - 1]), st.sampled_from([0, 7, 2**31]),
        st.integers(0, 2**64 - 1), st.integers(0, 2**9 - 1), st.integers(-1, 30_000), st.floats(allow_nan=True),
    ),
    min_size=1, max_size=40,
)  # fmt: skip
N_REGIONS = 9


def chosen(rows: list[Row]) -> Chosen:
    entry, run, section, event, bits, place, mass = zip(*rows, strict=True)
    return Chosen(
        np.arange(len(rows)),
        *(np.array(column, np.int64) for column in (entry, run, section)),
        np.array(event, np.uint64).view(np.int64),
        np.array([[bit >> region & 1 for bit in bits] for region in range(N_REGIONS)], bool),
        np.stack([np.array(place, np.int32), np.full(len(rows), -1, np.int32)], axis=1),
        np.array([mass]),
    )


def expected(rows: list[Row]) -> list[tuple[Any, ...]]:
    """A row for each region of an event, as plain Python makes it."""
    return [
        (3, 70_000, *row[:4], region, (row[5], -1), np.float64(row[6]).tobytes())
        for row in rows
        for region in range(N_REGIONS)
        if row[4] >> region & 1
    ]


def unpacked(packed: PackedRows | None, which: Any = None) -> list[tuple[Any, ...]]:
    if packed is None:
        return []
    found = unpack_rows(packed, N_REGIONS, 2, 1, which)
    names = ("dataset", "file", "entry", "run", "luminosity_block", "event", "region")
    columns = [found[name].tolist() for name in names]
    places = [tuple(place) for place in found["places"].tolist()]
    return list(zip(*columns, places, (value.tobytes() for value in found["kept"][0]), strict=True))


@given(ROWS)
def test_rows_come_back_as_they_were(rows: list[Row]) -> None:
    assert unpacked(pack_rows(3, 70_000, 0, chosen(rows))) == expected(rows)


@given(ROWS, st.data())
def test_segments_can_be_read_alone(rows: list[Row], data: st.DataObject) -> None:
    packed = pack_rows(3, 70_000, 0, chosen(rows))
    if packed is None:
        return
    selected = [row for row in rows if row[4]]
    changes = [a[1:3] != b[1:3] for a, b in pairwise(selected)]
    segment = np.concatenate(([0], np.cumsum(changes))).astype(int).tolist()
    which = data.draw(st.sets(st.sampled_from(segment)).map(sorted))
    mine = [row for row, number in zip(selected, segment, strict=True) if number in which]
    assert unpacked(packed, np.array(which, np.int64)) == expected(mine)


@given(st.lists(ROWS, min_size=1, max_size=3))
def test_all_events_that_occur_twice_are_doubtful(chunks: list[list[Row]]) -> None:
    packed = [pack_rows(3, 70_000, start, chosen(rows)) for start, rows in enumerate(chunks)]
    blocks = [block for block in packed if block is not None]
    identities = [row[1:4] for rows in chunks for row in rows if row[4]]
    twice = {one for one in identities if identities.count(one) > 1}
    found = {row[3:6] for block, which in doubtful(blocks) for row in unpacked(block, which)}
    assert twice <= found


def test_events_of_sections_that_occur_once_are_not_looked_at() -> None:
    rows = [(i, 1, i // 10, 1000 - i % 10, 1, 0, 0.0) for i in range(1000)]  # event numbers descend
    packed = [pack_rows(0, 0, start, chosen(some)) for start, some in ((0, rows[:505]), (505, rows[505:]))]
    blocks = [block for block in packed if block is not None]
    assert [(block.start, which.tolist()) for block, which in doubtful(blocks)] == [(0, [50]), (505, [0])]


@pytest.mark.parametrize("bits", [0, 1])
def test_row_of_a_rising_event_takes_six_bytes(bits: int) -> None:
    rows = [(10**9 + i, 1, i // 500, 2**40 + 37 * i, bits, 30, 0.0) for i in range(10_000)]
    packed = pack_rows(0, 0, 0, chosen(rows)._replace(kept=np.empty((0, len(rows)))))
    assert packed is None if not bits else len(packed.content) < 8 * len(rows)
