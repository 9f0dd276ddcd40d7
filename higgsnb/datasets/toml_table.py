"""One TOML table of a campaign file: each value checked as it is read, each mistake named with its file and key."""

from __future__ import annotations

import difflib
import math
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from higgsnb.datasets.files.addresses import Address
from higgsnb.errors import CampaignError, did_you_mean
from higgsnb.redaction import logger, redact
from higgsnb.storage import expanded
from higgsnb.text import is_one_line, shown

SMALLEST, LARGEST = 1e-30, 1e15
"""Limits of all numbers, whatever their unit: products and squares of them are finite and not zero."""
SCHEMES = ("file", "http", "https", "root", "toy")
log = logger(__name__)
MISSING = object()

Value = TypeVar("Value")


@dataclass
class TomlTable:
    """One TOML table: returns checked values by key, and raises `CampaignError` for one that is wrong or missing.

    ``file`` and ``label`` begin the messages; `finish` raises for keys that were not read.
    """

    values: dict[str, Any]
    file: str
    label: str
    known: list[str] = field(default_factory=list)

    def error(self, key: str, expected: str, got: object, hint: str = "") -> CampaignError:
        """Return the error for a value that is wrong, or for a missing key if ``got`` is `MISSING`."""
        kinds = {str: "string", bool: "true/false", int: "whole number", float: "number", dict: "table"}
        value = shown(redact(got) if isinstance(got, str) else got)
        found = f"{value} ({kinds.get(type(got), type(got).__name__)})"
        unread = sorted(set(self.values) - set(self.known))
        misspelt = difflib.get_close_matches(key, unread, n=1, cutoff=0.7) if got is MISSING else []
        if got is MISSING:
            message, remedy = f"{key} is missing (expected {expected})", f"Add `{key} = …` to this file."
        else:
            message, remedy = f"{key}: expected {expected}; got {found}", f"Correct `{key}` in this file."
        if misspelt:
            remedy = f"Is '{misspelt[0]}' meant to be '{key}'?"
        return CampaignError(f"{self.file}: {self.label}: {message}", remedy if misspelt else hint or remedy)

    def get(self, key: str, default: object = MISSING) -> Any:
        """Return the value of a key, whatever it is."""
        self.known.append(key)
        return self.values.get(key, default)

    def renamed(self, old: str, new: str) -> str:
        """Return the key that the table uses; the old one is accepted for one release, with a note."""
        if old not in self.values:
            return new
        if new in self.values:
            both = f"both '{new}' and '{old}', its old name"
            raise CampaignError(f"{self.file}: {self.label}: {both}", f"Remove '{old}'.")
        log.warning("%s: %s: the key '%s' is now called '%s'; please rename it.", self.file, self.label, old, new)
        self.known.append(new)
        return old

    def finish(self) -> None:
        """Raise `CampaignError` for the first key that was not read."""
        unknown = sorted(set(self.values) - set(self.known))
        if unknown:
            hint = did_you_mean(unknown[0], sorted(self.known))
            raise CampaignError(f"{self.file}: {self.label}: unknown key {shown(unknown[0])}", hint)

    def text(self, key: str, default: str | None = None) -> str:
        """Return a string of one line, not empty."""
        value = self.get(key, MISSING if default is None else default)
        if not isinstance(value, str) or not value.strip():
            raise self.error(key, "a string", value)
        if not is_one_line(value):  # it is printed, drawn or opened
            raise self.error(key, "a string of one line without control characters", value)
        return value

    def optional(self, read: Callable[..., Value], key: str, *arguments: Any, **limits: float) -> Value | None:
        """Return what a method of this table reads, None if the key is missing."""
        return read(key, *arguments, **limits) if key in self.values else self.get(key, None)

    def texts(self, key: str) -> tuple[str, ...]:
        """Return a list of such strings without repetitions, empty if the key is missing."""
        value = self.get(key, [])
        if not isinstance(value, list) or not all(isinstance(item, str) and item.strip() for item in value):
            raise self.error(key, "a list of strings", value)
        if not all(map(is_one_line, value)):
            raise self.error(key, "a list of strings of one line without control characters", value)
        if len(set(value)) < len(value):
            raise self.error(key, "a list without repetitions", value)
        return tuple(value)

    def flag(self, key: str) -> bool:
        """Return true or false, false if the key is missing."""
        value = self.get(key, False)
        if not isinstance(value, bool):
            raise self.error(key, "true or false", value)
        return value

    def number(
        self,
        key: str,
        default: float | None = None,
        *,
        above: float = -math.inf,
        least: float = -math.inf,
        below: float = math.inf,
        largest: float = LARGEST,
    ) -> float:
        """Return a finite number within limits."""
        value = self.get(key, MISSING if default is None else default)
        good = isinstance(value, int | float) and not isinstance(value, bool)  # nan fails each comparison
        if not good or not (value > above and value >= least and value < below):
            limits = {"above": above, "of at least": least, "below": below}
            stated = " and ".join(f"{word} {limit:g}" for word, limit in limits.items() if math.isfinite(limit))
            raise self.error(key, f"a number {stated}", value)
        if value and not SMALLEST <= value <= largest:
            raise self.error(key, f"a number from {SMALLEST:g} to {largest:g}", value)
        return float(value)

    def integer(self, key: str, *, least: int = 0, most: int = 2**63 - 1) -> int:
        """Return a whole number within limits."""
        value = self.get(key)
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise self.error(key, f"a whole number of at least {least}", value)
        if value > most:
            raise self.error(key, f"a whole number of at most {most:,}", value)
        return value

    def checksum(self, key: str) -> str:
        """Return an adler32 in lower case."""
        value = self.get(key)
        if not isinstance(value, str) or not re.fullmatch(r"[0-9a-fA-F]{8}", value):
            raise self.error(key, 'a string of eight hexadecimal digits, as "1dafc1d7"', value)
        return value.lower()

    def location(self, key: str, folder: Path, text: str | None = None) -> str:
        """Return an address, or a path relative to the folder; ``text`` is the value if the key holds a list."""
        text = self.text(key) if text is None else text
        address = Address.of(text)
        if not address.scheme:
            user, found = text.split("/")[0], absolute(text, folder)
            if user[:1] == "~" and expanded(user) == Path(user) and not os.path.lexists(found):
                who = f"no user '{user[1:]}'" if user[1:] else "no home folder"
                raise self.error(key, f"a path; there is {who}, and no such file", text)
            return found
        if address.scheme not in SCHEMES or not address.valid:
            hint = f"The path of a file with a colon in its name is written as './{redact(text)}'." * ("//" not in text)
            if address.scheme in SCHEMES and "//" in text:
                hint = f"Correct `{key}`: a host has 1 to 63 characters between its dots, and a path has no %00."
            raise self.error(key, f"a path or an address with {', '.join(f'{name}:' for name in SCHEMES)}", text, hint)
        return text

    def table(self, key: str) -> TomlTable:
        """Return a table."""
        value = self.get(key)
        if not isinstance(value, dict):
            raise self.error(key, f"a table [{key}]", value)
        outer = f"{self.label.strip('[]')}." if self.label.startswith("[") else ""
        return TomlTable(value, self.file, f"[{outer}{key}]")

    def tables(self, key: str) -> list[TomlTable]:
        """Return a list of tables, empty if the key is missing."""
        value = self.get(key, [])
        if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
            raise self.error(key, f"tables [[{key}]] or a list of {{ … }}", value)
        label = f"{self.label} {key}" if key in ("file", "index") else f"[[{key}]]"
        return [TomlTable(item, self.file, f"{label} number {number}") for number, item in enumerate(value, 1)]


def absolute(text: str, folder: Path) -> str:
    """Return a path, with ``~`` replaced, relative to a folder."""
    return os.path.normpath(folder / expanded(text))
