"""Files that could not be analysed, and a summary of them in a few lines."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from higgsnb.datasets import Address
from higgsnb.redaction import redact

NAMED = 10
"""Most files named for each kind of failure."""
KINDS_SHOWN = 10
"""Most kinds of failure described; those of most files come first."""
NUMBER = re.compile(r"\b(?:[0-9a-f]{8,}|\d[\d,.]*\d|\d)\b")
"""A number or checksum in a message, which differs from file to file."""


@dataclass(frozen=True)
class Failure:
    """A file that could not be (wholly) analysed, and why; secrets that it is given are not kept."""

    dataset: str
    file: str
    error: str
    message: str
    hint: str

    def __post_init__(self) -> None:
        for name in ("file", "message", "hint"):
            shown = str(Address.of(self.file)) if name == "file" else redact(getattr(self, name))
            object.__setattr__(self, name, shown)

    def as_dict(self) -> dict[str, str]:
        """Return the failure as it stands in ``result.json``, where the hint is called remedy."""
        file = Address.of(self.file).public_name
        return {
            "dataset": self.dataset, "file": file, "error": self.error, "message": self.message, "remedy": self.hint,
        }  # fmt: skip

    @property
    def _reason(self) -> str:
        """The message without the name of the file: in its place, and in that of its paths, ``…``."""
        text, address = self.message, Address.of(self.file)
        for name in (self.file, address.public_name, address.name):
            text = text.replace(name, "\0") if name else text
        return re.sub(r"[^\s(]*\0[^\s;:,)]*", "…", text).removeprefix("…: ")

    @classmethod
    def described(cls, failures: Iterable[Failure], *, rest: str = "") -> Iterator[list[str]]:
        """Yield up to three lines for each kind of failure: what and how many, which files, what to do.

        Failures are of one kind if error and reason are the same, apart from the name of the file and from numbers.
        ``rest`` says where all of them are listed.
        """
        kinds: dict[tuple[str, str], list[Failure]] = {}
        for failure in failures:
            kinds.setdefault((failure.error, NUMBER.sub("0", failure._reason)), []).append(failure)
        by_size = sorted(kinds.values(), key=len, reverse=True)
        for some in by_size[:KINDS_SHOWN]:
            first, datasets = some[0], {failure.dataset for failure in some}
            if len(some) == 1:
                yield [f"{first.dataset}: {first.error}: {first.message}", *first.hint.splitlines()[:2]]
                continue
            where = f" of {first.dataset}" if len(datasets) == 1 else ""
            files = named([Address.of(failure.file).name for failure in some], rest=rest)
            yield [f"{len(some):,} files{where}: {first.error}: {first._reason}", files, *first.hint.splitlines()[:1]]
        if others := by_size[KINDS_SHOWN:]:
            yield [f"{sum(map(len, others)):,} more files failed for {len(others):,} other reasons{rest}"]


def named(found: Sequence[str], *, rest: str = "") -> str:
    """Return the first names of many, and how many more there are."""
    more = f" and {len(found) - NAMED:,} more{rest}" if len(found) > NAMED else ""
    return ", ".join(found[:NAMED]) + more


def told(found: Mapping[str, Sequence[str]]) -> str:
    """Return what is said of some names, given by what it is: ``a, b: this, that; c: other``."""
    together: dict[tuple[str, ...], list[str]] = {}
    for what, names in found.items():
        together.setdefault(tuple(names), []).append(what)
    return "; ".join(f"{named(names)}: {', '.join(some)}" for names, some in together.items())
