"""The work queue: whatever happens to the work, every chunk is counted once or listed as failed."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings
from schedules import Schedules

from higgsnb.engine.queue import Batch, WorkQueue
from higgsnb.errors import NondeterminismError

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
