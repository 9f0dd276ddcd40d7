"""What the terminal shows of files that failed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import zip_longest
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from higgsnb.results import Failure

FAILURES_SHOWN = 10
"""Number of files named on the terminal for each kind of error."""


def failure_lines(failures: Iterable[Failure]) -> Iterator[str]:
    """Describe failures in at most three lines each, the first ten of each kind of error; equal hints only once."""
    kinds: dict[str, list[Failure]] = {}
    for failure in failures:
        kinds.setdefault(failure.error, []).append(failure)
    for error, some in kinds.items():
        shown = some[:FAILURES_SHOWN]
        for failure, following in zip_longest(shown, shown[1:]):
            yield f"higgsnb: {failure.dataset}: {error}: {failure.message}"
            if following is None or following.hint != failure.hint:
                yield from (f"    {line}" for line in failure.hint.splitlines()[:2])
        if len(some) > len(shown):
            yield f"higgsnb: {error}: {len(some)} files, of which the first {len(shown)} are named above"
