"""The books of a run: whatever happens to the work, every unit is counted once or listed."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import HealthCheck, assume, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from higgsnb.accounts import MOST_STRIKES, Accounts, Batch
from higgsnb.errors import NondeterminismError

UNITS = 23


class Schedules(RuleBasedStateMachine):
    """Replies in any order, twice, late, or never; workers that die; connections that are cut.

    The model knows only what was counted: a multiset of units, and which units kill their worker.
    """

    batches = Bundle("batches")  # those that a worker has, as far as the client knows
    strays = Bundle("strays")  # those that the client has given up, but whose reply may still come

    def __init__(self) -> None:
        super().__init__()
        self.books = Accounts(range(UNITS), suspects={2, 5})
        self.counted: Counter[int] = Counter()
        self.deaths_alone: Counter[int] = Counter()

    def reply(self, batch: Batch) -> None:
        for unit in batch.units:
            if self.books.land(unit, bytes([unit])):
                self.counted[unit] += 1

    @rule(target=batches, most=st.integers(1, 7))
    def send(self, most: int) -> Batch:
        batch = self.books.take(most)
        assume(batch is not None)
        assert batch is not None
        assert len(batch.units) <= (1 if batch.alone else most)
        return batch

    @rule(batch=consumes(batches))
    def answer(self, batch: Batch) -> None:
        self.reply(batch)

    @rule(batch=batches)
    def answer_and_once_more(self, batch: Batch) -> None:
        self.reply(batch)

    @rule(target=strays, batch=consumes(batches))
    def cut(self, batch: Batch) -> Batch:
        self.books.give_back(batch)
        return batch

    @rule(target=strays, batch=consumes(batches), strikes=st.integers(1, 2))
    def die(self, batch: Batch, strikes: int) -> Batch:
        for unit in batch.units:
            self.deaths_alone[unit] += strikes if batch.alone else 0
        for unit in self.books.lose(batch, strikes):
            assert self.deaths_alone[unit] >= MOST_STRIKES
        return batch

    @rule(batch=strays)
    def answer_late(self, batch: Batch) -> None:
        self.reply(batch)

    @rule(batch=batches, place=st.integers(0, 6))
    def fail(self, batch: Batch, place: int) -> None:
        unit = batch.units[place % len(batch.units)]
        open_before = unit not in self.counted and unit not in self.books.failed
        assert self.books.fail(unit) == open_before

    @invariant()
    def plan_is_kept(self) -> None:
        census = self.books.census()
        assert sum(census) == UNITS
        assert min(census) >= 0
        assert self.books.left == census.waiting + census.under_way

    @invariant()
    def each_is_counted_once(self) -> None:
        assert set(self.counted) == set(self.books.done)
        assert all(count == 1 for count in self.counted.values())
        assert not self.books.failed & set(self.counted)

    def teardown(self) -> None:
        """From wherever it is, answering everything ends the run, with every unit counted or listed."""
        while (batch := self.books.take(4)) is not None:
            self.reply(batch)
        for unit in range(UNITS):  # what is still out comes home
            if unit not in self.books.done and unit not in self.books.failed:
                self.reply(Batch((unit,), alone=False))
        assert self.books.left == 0
        assert set(self.counted) | self.books.failed == set(range(UNITS))


TestSchedules = Schedules.TestCase
TestSchedules.settings = settings(
    max_examples=150, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)


def test_order_of_the_plan_is_kept() -> None:
    books = Accounts([4, 1, 3, 2])
    assert [books.take(3), books.take(3), books.take(3)] == [Batch((4, 1, 3), False), Batch((2,), False), None]


def test_suspects_go_last_and_while_nothing_else_is_under_way() -> None:
    books = Accounts(range(4), suspects={1, 2})
    first, then = books.take(9), books.take(9)
    assert (first, then) == (Batch((0, 3), False), None)
    for unit in (0, 3):
        books.land(unit, b"")
    assert (books.take(9), books.take(9)) == (Batch((1,), True), None)
    books.land(1, b"")
    assert books.take(9) == Batch((2,), True)


def test_neighbour_that_dies_with_the_poison_is_not_blamed() -> None:
    books, poison, struck = Accounts(range(5)), 3, []
    under_way: list[Batch] = []
    while books.left:  # two go out at a time and share a worker: if one dies, both do
        while len(under_way) < 2 and (batch := books.take(1)) is not None:
            under_way.append(batch)
        died = any(poison in batch.units for batch in under_way)
        for batch in under_way:
            struck += books.lose(batch) if died else []
            for unit in () if died else batch.units:
                books.land(unit, b"")
        under_way.clear()
    assert struck == [poison]
    assert set(books.done) == {0, 1, 2, 4}


def test_lost_batch_is_split_and_only_the_poison_is_blamed() -> None:
    books, poison = Accounts(range(6)), 4
    struck: list[int] = []
    while (batch := books.take(3)) is not None:
        if poison in batch.units:
            struck += books.lose(batch)
        else:
            for unit in batch.units:
                books.land(unit, b"")
    assert struck == [poison]
    assert set(books.done) == {0, 1, 2, 3, 5}


def test_same_unit_with_another_content_is_an_alarm() -> None:
    books = Accounts(range(2))
    books.take(2)
    assert books.land(0, b"a")
    assert not books.land(0, b"a")
    with pytest.raises(NondeterminismError, match="unit 0"):
        books.land(0, b"b")


def test_batch_given_back_goes_out_next_in_its_order() -> None:
    books = Accounts(range(6))
    first = books.take(2)
    assert first is not None
    books.take(2)
    books.give_back(first)
    assert books.take(4) == Batch((0, 1, 4, 5), False)
