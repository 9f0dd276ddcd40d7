"""The chunks of a run that are not finished: each is waiting, in flight, done or failed, and counted exactly once.

A chunk is its index in the plan. Nothing here knows of processes or networks: a reply that comes twice or too late, a
worker that dies, a cut connection are one method call each.

A chunk is blamed for the death of a worker only if nothing else was in flight. The chunks of a lost batch are sent
again one by one; one that is lost again waits until the end and is then sent alone. Lost alone `MAX_FAILURES` times, it
has failed.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Collection, Iterable
from typing import NamedTuple

from higgsnb.errors import NondeterminismError

MAX_FAILURES = 3
"""A chunk that was lost so many times while nothing else was in flight has failed."""


class Batch(NamedTuple):
    """Chunks that are sent together; ``alone``: while nothing else is in flight, so that the chunk may be blamed."""

    chunks: tuple[int, ...]
    alone: bool


class WorkQueue:
    """The state of every chunk of one run: ``chunks``, in the order in which to send them.

    ``suspects`` are those of them that may have killed an earlier run: they are sent last, each alone.
    """

    def __init__(self, chunks: Iterable[int], suspects: Collection[int] = ()) -> None:
        plan = list(chunks)
        self._waiting = deque(chunk for chunk in plan if chunk not in suspects)
        self._singly: deque[int] = deque()
        self._last = deque(chunk for chunk in plan if chunk in suspects)
        self._open = set(plan)
        self._in_flight: Counter[int] = Counter()
        self._alone: int | None = None
        self._failures: Counter[int] = Counter()
        self.done: dict[int, bytes] = {}
        self.failed: set[int] = set()

    @property
    def remaining(self) -> int:
        """Number of chunks that are neither done nor failed."""
        return len(self._open)

    def next_batch(self, most: int) -> Batch | None:
        """Return the next chunks to send, at most ``most``; None if none may be sent now."""
        self._drop_settled()
        if self._alone is not None:
            return None
        if self._singly:
            chunks = [self._singly.popleft()]
        elif self._waiting:
            chunks = []
            while self._waiting and len(chunks) < most:
                chunks.append(self._waiting.popleft())
                self._drop_settled()
        elif self._last and not self._in_flight:
            chunks = [self._last.popleft()]
            self._alone = chunks[0]
        else:
            return None
        self._in_flight.update(chunks)
        return Batch(tuple(chunks), alone=self._alone is not None)

    def _drop_settled(self) -> None:
        """Drop chunks from the front of each queue that a late reply has settled."""
        for queue in (self._singly, self._waiting, self._last):
            while queue and (queue[0] not in self._open or queue[0] in self._in_flight):
                queue.popleft()

    def complete(self, chunk: int, content: bytes) -> bool:
        """Record a result; return whether it is to be counted: not if the chunk is done already, or has failed.

        ``content`` identifies the result, such as its sha256. Raises NondeterminismError if the chunk is done already,
        with other content.
        """
        if self.done.get(chunk, content) != content:
            raise NondeterminismError(f"chunk {chunk} gave two different results")
        if chunk not in self._open:
            return False
        self._settle(chunk)
        self.done[chunk] = content
        return True

    def fail(self, chunk: int) -> bool:
        """Record that a chunk cannot be done; return whether that is new (not if it is done or failed already)."""
        if chunk not in self._open:
            return False
        self._settle(chunk)
        self.failed.add(chunk)
        return True

    def _settle(self, chunk: int) -> None:
        self._open.discard(chunk)
        del self._in_flight[chunk]
        if chunk == self._alone:
            self._alone = None

    def requeue(self, batch: Batch) -> None:
        """Record that a batch came to nothing through no fault of its own; its chunks are sent next."""
        for chunk in reversed(batch.chunks):
            if self._no_longer_in_flight(chunk):
                (self._last if batch.alone else self._waiting).appendleft(chunk)

    def worker_lost(self, batch: Batch, failures: int = 1) -> list[int]:
        """Record so many deaths of the worker of a batch; return the chunks that have failed because of it."""
        failed = []
        for chunk in batch.chunks:
            if not self._no_longer_in_flight(chunk):
                continue
            self._failures[chunk] += failures if batch.alone else 0
            if self._failures[chunk] >= MAX_FAILURES:
                self.fail(chunk)
                failed.append(chunk)
            else:
                (self._singly if len(batch.chunks) > 1 else self._last).append(chunk)
        return failed

    def _no_longer_in_flight(self, chunk: int) -> bool:
        """Record that a chunk of a batch is no longer in flight; return whether it has to be sent again."""
        if chunk not in self._open:
            return False
        if chunk == self._alone:
            self._alone = None
        self._in_flight[chunk] -= 1
        if self._in_flight[chunk] > 0:  # sent a second time, and that one is still out
            return False
        del self._in_flight[chunk]
        return True
