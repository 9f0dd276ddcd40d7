"""What the terminal shows of files that failed: a few lines for each kind, however many files there are."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from higgsnb.cli.terminal import show

if TYPE_CHECKING:
    from higgsnb.results import Failure


def show_failures(failures: Iterable[Failure], *, rest: str = "") -> None:
    """Describe failures on stderr; ``rest`` says where all of them are listed."""
    from higgsnb.results import Failure

    for first, *others in Failure.described(failures, rest=rest):
        show(f"higgsnb: {first}", err=True, fg="red")
        for line in others:
            show(f"    {line}", err=True)
