"""A model of the work queue: replies in any order, deaths and cuts."""

from __future__ import annotations

from collections import Counter

from hypothesis import assume
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from higgsnb.engine.queue import MAX_FAILURES, Batch, WorkQueue

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
        assert self.queue.remaining + len(self.queue.done) + len(self.queue.failed) == CHUNKS
        assert self.queue._in_flight.keys() <= self.queue._open

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
