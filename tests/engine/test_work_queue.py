"""The work queue: whatever happens to the work, every chunk is counted once or listed as failed."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import HealthCheck, assume, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from higgsnb.engine.queue import MAX_FAILURES, Batch, WorkQueue
from higgsnb.errors import NondeterminismError

CHUNKS = 23


class Schedules(RuleBasedStateMachine):
    """Replies in any order, twice, late, or never; workers that die; connections that are cut.

    The model knows only what was counted: a multiset of chunks, and which chunks kill their worker.
    """

    batches = Bundle("batches")  # in flight, as far as the client knows
    strays = Bundle("strays")  # given up by the client, but their reply may still come

    def __init__(self) -> None:
        super().__init__()
        self.queue = WorkQueue(range(CHUNKS), suspects={2, 5})
        self.counted: Counter[int] = Counter()
        self.deaths_alone: Counter[int] = Counter()

    def reply(self, batch: Batch) -> None:
        for chunk in batch.chunks:
            if self.queue.complete(chunk, bytes([chunk])):
                self.counted[chunk] += 1

    @rule(target=batches, most=st.integers(1, 7))
    def send(self, most: int) -> Batch:
        batch = self.queue.next_batch(most)
        assume(batch is not None)
        assert batch is not None
        assert len(batch.chunks) <= (1 if batch.alone else most)
        return batch

    @rule(batch=consumes(batches))
    def answer(self, batch: Batch) -> None:
        self.reply(batch)

    @rule(batch=batches)
    def answer_and_once_more(self, batch: Batch) -> None:
        self.reply(batch)

    @rule(target=strays, batch=consumes(batches))
    def cut(self, batch: Batch) -> Batch:
        self.queue.requeue(batch)
        return batch

    @rule(target=strays, batch=consumes(batches), failures=st.integers(1, 2))
    def die(self, batch: Batch, failures: int) -> Batch:
        for chunk in batch.chunks:
            self.deaths_alone[chunk] += failures if batch.alone else 0
        for chunk in self.queue.worker_lost(batch, failures):
            assert self.deaths_alone[chunk] >= MAX_FAILURES
        return batch

    @rule(batch=strays)
    def answer_late(self, batch: Batch) -> None:
        self.reply(batch)

    @rule(batch=batches, place=st.integers(0, 6))
    def fail(self, batch: Batch, place: int) -> None:
        chunk = batch.chunks[place % len(batch.chunks)]
        open_before = chunk not in self.counted and chunk not in self.queue.failed
        assert self.queue.fail(chunk) == open_before

    @invariant()
    def plan_is_kept(self) -> None:
        counts = self.queue.counts()
        assert sum(counts) == CHUNKS
        assert min(counts) >= 0
        assert self.queue.remaining == counts.waiting + counts.in_flight

    @invariant()
    def each_is_counted_once(self) -> None:
        assert set(self.counted) == set(self.queue.done)
        assert all(count == 1 for count in self.counted.values())
        assert not self.queue.failed & set(self.counted)

    def teardown(self) -> None:
        """From any state, answering everything ends the run, with every chunk counted or failed."""
        while (batch := self.queue.next_batch(4)) is not None:
            self.reply(batch)
        for chunk in range(CHUNKS):  # what is still in flight is answered
            if chunk not in self.queue.done and chunk not in self.queue.failed:
                self.reply(Batch((chunk,), alone=False))
        assert self.queue.remaining == 0
        assert set(self.counted) | self.queue.failed == set(range(CHUNKS))


TestSchedules = Schedules.TestCase
TestSchedules.settings = settings(
    max_examples=150, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)


def test_order_of_the_plan_is_kept() -> None:
    queue = WorkQueue([4, 1, 3, 2])
    batches = [queue.next_batch(3) for _ in range(3)]
    assert batches == [Batch((4, 1, 3), False), Batch((2,), False), None]


def test_suspects_are_sent_last_while_nothing_else_is_in_flight() -> None:
    queue = WorkQueue(range(4), suspects={1, 2})
    first, then = queue.next_batch(9), queue.next_batch(9)
    assert (first, then) == (Batch((0, 3), False), None)
    for chunk in (0, 3):
        queue.complete(chunk, b"")
    assert (queue.next_batch(9), queue.next_batch(9)) == (Batch((1,), True), None)
    queue.complete(1, b"")
    assert queue.next_batch(9) == Batch((2,), True)


def test_neighbour_that_dies_with_the_poison_is_not_blamed() -> None:
    queue, poison, failed = WorkQueue(range(5)), 3, []
    in_flight: list[Batch] = []
    while queue.remaining:  # two go out at a time and share a worker: if one dies, both do
        while len(in_flight) < 2 and (batch := queue.next_batch(1)) is not None:
            in_flight.append(batch)
        died = any(poison in batch.chunks for batch in in_flight)
        for batch in in_flight:
            failed += queue.worker_lost(batch) if died else []
            for chunk in () if died else batch.chunks:
                queue.complete(chunk, b"")
        in_flight.clear()
    assert failed == [poison]
    assert set(queue.done) == {0, 1, 2, 4}


def test_lost_batch_is_split_and_only_the_poison_is_blamed() -> None:
    queue, poison = WorkQueue(range(6)), 4
    failed: list[int] = []
    while (batch := queue.next_batch(3)) is not None:
        if poison in batch.chunks:
            failed += queue.worker_lost(batch)
        else:
            for chunk in batch.chunks:
                queue.complete(chunk, b"")
    assert failed == [poison]
    assert set(queue.done) == {0, 1, 2, 3, 5}


def test_same_chunk_with_another_content_is_an_alarm() -> None:
    queue = WorkQueue(range(2))
    queue.next_batch(2)
    assert queue.complete(0, b"a")
    assert not queue.complete(0, b"a")
    with pytest.raises(NondeterminismError, match="chunk 0"):
        queue.complete(0, b"b")


def test_requeued_batch_is_sent_next_in_its_order() -> None:
    queue = WorkQueue(range(6))
    first = queue.next_batch(2)
    assert first is not None
    queue.next_batch(2)
    queue.requeue(first)
    assert queue.next_batch(4) == Batch((0, 1, 4, 5), False)
