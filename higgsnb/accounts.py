"""The books of a run: every unit of work is waiting, under way, done or failed, exactly one of these at any time.

A unit is a number, its place in the plan. Whatever happens to the work (a reply that comes twice or too late, a worker
that dies, a connection that is cut) becomes one call here; nothing here knows of processes or networks.

A unit is blamed for the death of a worker only if nothing else was under way. The units of a batch that is lost go out
again one by one; one that is lost then has to wait until the end, when it goes out alone. Lost so `MOST_STRIKES` times,
it has failed.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Collection, Iterable
from typing import NamedTuple

from higgsnb.errors import NondeterminismError

MOST_STRIKES = 3
"""Lost so many times alone, a unit counts as poison."""


def nondeterminism(dataset: int, file: int, start: int, stop: int) -> NondeterminismError:
    """Return the error for a part of a file, by its place in the catalogue."""
    return NondeterminismError(
        f"entries {start} to {stop} of file {file} of dataset {dataset} gave two different results; "
        "the machine or the code is not deterministic"
    )


class Batch(NamedTuple):
    """Units that go out together; ``alone``: while nothing else is under way, so that the unit may be blamed."""

    units: tuple[int, ...]
    alone: bool


class Census(NamedTuple):
    """How many units are waiting, under way, done, failed: their sum is the plan."""

    waiting: int
    under_way: int
    done: int
    failed: int


class Accounts:
    """The books of one run.

    Parameters
    ----------
    units
        The plan, in the order in which the units are to go out.
    suspects
        Those of them that may have killed an earlier run: they go out last, alone.
    """

    def __init__(self, units: Iterable[int], suspects: Collection[int] = ()) -> None:
        plan = list(units)
        self._waiting = deque(unit for unit in plan if unit not in suspects)
        self._singly: deque[int] = deque()
        self._last = deque(unit for unit in plan if unit in suspects)
        self._open = set(plan)
        self._under_way: Counter[int] = Counter()
        self._alone: int | None = None
        self._strikes: Counter[int] = Counter()
        self.done: dict[int, bytes] = {}
        self.failed: set[int] = set()

    def census(self) -> Census:
        """Count the units in each state."""
        under_way = len(self._under_way)
        return Census(len(self._open) - under_way, under_way, len(self.done), len(self.failed))

    @property
    def left(self) -> int:
        """How many units are neither done nor failed."""
        return len(self._open)

    def take(self, most: int) -> Batch | None:
        """Return the next units to go out, at most so many; None if there are none that may go out now."""
        self._skip()
        if self._alone is not None:
            return None
        if self._singly:
            units = [self._singly.popleft()]
        elif self._waiting:
            units = self._next(most)
        elif self._last and not self._under_way:
            units = [self._last.popleft()]
            self._alone = units[0]
        else:
            return None
        self._under_way.update(units)
        return Batch(tuple(units), alone=self._alone is not None)

    def _next(self, most: int) -> list[int]:
        """Take units from the front of the plan."""
        units: list[int] = []
        while self._waiting and len(units) < most:
            units.append(self._waiting.popleft())
            self._skip()
        return units

    def _skip(self) -> None:
        """Forget units in the queues that a late reply has settled."""
        for queue in (self._singly, self._waiting, self._last):
            while queue and (queue[0] not in self._open or queue[0] in self._under_way):
                queue.popleft()

    def land(self, unit: int, content: bytes) -> bool:
        """Note a result, by what identifies its content; return whether it is to be counted.

        Raises
        ------
        NondeterminismError
            If the unit is done already, with other content.
        """
        if unit in self.done:
            if self.done[unit] != content:
                raise NondeterminismError(f"unit {unit} gave two different results")
            return False
        if unit not in self._open:  # failed for good
            return False
        self._settle(unit)
        self.done[unit] = content
        return True

    def fail(self, unit: int) -> bool:
        """Note that a unit cannot be done; return whether that is new (not if it is done or failed already)."""
        if unit not in self._open:
            return False
        self._settle(unit)
        self.failed.add(unit)
        return True

    def _settle(self, unit: int) -> None:
        """Take a unit off the open ones."""
        self._open.discard(unit)
        del self._under_way[unit]
        if unit == self._alone:
            self._alone = None

    def give_back(self, batch: Batch) -> None:
        """Note that a batch did not come back through no fault of its own; its units go out again first."""
        for unit in reversed(batch.units):
            if self._back(unit):
                (self._last if batch.alone else self._waiting).appendleft(unit)

    def lose(self, batch: Batch, strikes: int = 1) -> list[int]:
        """Note that the worker of a batch died; return the units that have failed for that.

        ``strikes`` says how many deaths this report stands for.
        """
        struck_out = []
        for unit in batch.units:
            if not self._back(unit):
                continue
            self._strikes[unit] += strikes if batch.alone else 0
            if self._strikes[unit] >= MOST_STRIKES:
                self.fail(unit)
                struck_out.append(unit)
            else:
                (self._singly if len(batch.units) > 1 else self._last).append(unit)
        return struck_out

    def _back(self, unit: int) -> bool:
        """Note that a unit is not under way in this batch any more; return whether it has to go out again."""
        if unit not in self._open:
            return False
        if unit == self._alone:
            self._alone = None
        self._under_way[unit] -= 1
        if self._under_way[unit] > 0:  # it is under way a second time
            return False
        del self._under_way[unit]
        return True
