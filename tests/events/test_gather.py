"""What the fast readers copy of marked events, against plain NumPy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from higgsnb.events.fast import gather
from higgsnb.events.fast.gather import AT_ONCE, COPIES, MARK, chosen, elements_of, indices_of, marks_of

lists = st.lists(st.tuples(st.integers(0, 3 * AT_ONCE), st.booleans()), min_size=1, max_size=40)


@given(events=lists, before=st.lists(st.integers(0, 9), max_size=4), after=st.lists(st.integers(0, 9), max_size=4))
def test_objects_of_marked_events_are_marked_whatever_lies_around(
    events: list[tuple[int, bool]], before: list[int], after: list[int]
) -> None:
    counts, marked = zip(*events, strict=True)
    firsts = np.concatenate(([0], np.cumsum([*before, *counts, *after]))).astype(np.int64)
    found, offsets = marks_of(firsts, np.array(marked).view(MARK), len(before))
    passing = [*([False] * len(before)), *marked, *([False] * len(after))]
    assert found.tolist() == np.repeat(np.array(passing, MARK), [*before, *counts, *after]).tolist()
    indices, starts = elements_of(firsts, np.flatnonzero(passing))
    assert (offsets.tolist(), np.flatnonzero(found).tolist()) == (starts.tolist(), indices.tolist())


@pytest.mark.parametrize("kind", [">f4", ">i4", ">u4", ">f8", ">i8", ">u8"])
def test_marked_numbers_arrive_in_the_order_of_the_machine(kind: str) -> None:
    random = np.random.default_rng(14)
    content = np.frombuffer(random.bytes(1000 * int(kind[2])), kind)
    marks = random.integers(0, 2, 1000).astype(MARK)
    values = np.zeros(marks.sum() + 4, np.dtype(kind).newbyteorder("="))
    at = COPIES[content.itemsize](content.view(np.uint32), marks, values.view(np.uint32), 3)
    assert at == marks.sum() + 3
    assert values[3:at].tobytes() == content[marks == 1].astype(values.dtype).tobytes()
    assert not values[:3].any()


@pytest.mark.parametrize(("share", "kind"), [(1.0, slice), (0.5, MARK), (0.26, MARK), (0.2, np.int64), (0.0, np.int64)])
def test_events_are_marked_if_many_pass(monkeypatch: pytest.MonkeyPatch, share: float, kind: object) -> None:
    monkeypatch.setattr(gather, "FEW", 0)
    passing = np.arange(1000) < 1000 * share
    found = chosen(passing)
    assert kind is slice if isinstance(found, slice) else found.dtype == kind
    assert np.array_equal(
        np.arange(1000)[found if isinstance(found, slice) or found.dtype != MARK else found == 1],
        np.flatnonzero(passing),
    )


@given(marks=st.lists(st.booleans(), max_size=40), start=st.integers(0, 2**40))
def test_indices_of_marked_events_are_those_of_numpy(marks: list[bool], start: int) -> None:
    events = np.array(marks, np.bool_)
    assert indices_of(events.view(MARK), start).tolist() == (np.flatnonzero(events) + start).tolist()
