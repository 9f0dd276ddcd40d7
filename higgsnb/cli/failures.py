"""What the terminal shows of files that failed: a few lines for each kind, however many files there are."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from higgsnb.cli.terminal import show

if TYPE_CHECKING:
    from higgsnb.results import Failure

NAMED = 10
"""Most files named for each kind of failure."""
KINDS_SHOWN = 10
"""Most kinds of failure described; those of most files come first."""
NUMBER = re.compile(r"\b(?:[0-9a-f]{8,}|\d[\d,.]*\d|\d)\b")
"""A number or checksum in a message, which differs from file to file."""


def show_failures(failures: Iterable[Failure], *, rest: str = "") -> None:
    """Describe failures on stderr, in up to three lines for each kind: what and how many, which files, what to do.

    Failures are of one kind if error and reason are the same, apart from the name of the file and from numbers.
    ``rest`` says where all of them are listed.
    """
    from higgsnb.datasets import Address

    kinds: dict[tuple[str, str], list[Failure]] = {}
    for failure in failures:
        kinds.setdefault((failure.error, NUMBER.sub("0", _reason(failure))), []).append(failure)
    by_size = sorted(kinds.values(), key=len, reverse=True)
    for some in by_size[:KINDS_SHOWN]:
        first, datasets = some[0], {failure.dataset for failure in some}
        if len(some) == 1:
            show(f"higgsnb: {first.dataset}: {first.error}: {first.message}", err=True, fg="red")
        else:
            where = f" of {first.dataset}" if len(datasets) == 1 else ""
            show(f"higgsnb: {len(some):,} files{where}: {first.error}: {_reason(first)}", err=True, fg="red")
            show(f"    {names([Address.of(failure.file).name for failure in some], rest=rest)}", err=True)
        for line in first.hint.splitlines()[: 2 if len(some) == 1 else 1]:
            show(f"    {line}", err=True)
    if others := by_size[KINDS_SHOWN:]:
        number = sum(map(len, others))
        show(f"higgsnb: {number:,} more files failed for {len(others):,} other reasons{rest}", err=True, fg="red")


def names(found: Sequence[str], *, rest: str) -> str:
    """Return the first names of many, and how many more there are."""
    more = f" and {len(found) - NAMED:,} more{rest}" if len(found) > NAMED else ""
    return ", ".join(found[:NAMED]) + more


def _reason(failure: Failure) -> str:
    """Return the message of a failure without the name of the file: in its place, and in that of its paths, ``…``."""
    from higgsnb.datasets import Address

    text, address = failure.message, Address.of(failure.file)
    for name in (failure.file, address.public_name, address.name):
        text = text.replace(name, "\0") if name else text
    return re.sub(r"[^\s(]*\0[^\s;:,)]*", "…", text).removeprefix("…: ")
