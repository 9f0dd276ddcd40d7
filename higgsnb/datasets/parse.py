"""Read campaigns from TOML: the shipped ones by name, others by path.

The shipped ones lie in ``campaigns/``, in the form that users write. Any mistake in such a file is a `CampaignError`
that names the file, the table and the key, what was expected and what was found.
"""

from __future__ import annotations

import difflib
import math
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

from higgsnb.datasets.campaign import Campaign, Dataset, File, short_name
from higgsnb.datasets.chunks import check_totals
from higgsnb.datasets.files.addresses import Address
from higgsnb.errors import CampaignError, did_you_mean
from higgsnb.redaction import logger, redact
from higgsnb.storage import expanded
from higgsnb.text import is_one_line, read_toml, shown

DEFAULT_SELECTION = {"outreach": "open2012", "nanoaod": "open2012", "csv": "aod2012"}
PLANNED = {"cms2016"}
"""Campaigns that are announced but not shipped yet."""
SMALLEST, LARGEST = 1e-30, 1e15
"""Limits of all numbers, whatever their unit: products and squares of them are finite and not zero."""
MOST_EVENTS = 10**10
"""Most events of a file: it is planned chunk by chunk before it is opened."""
CAMPAIGN_NAME = r"[A-Za-z0-9_+-][A-Za-z0-9_.+-]{0,99}"  # it names a folder, too
SCHEMES = ("file", "http", "https", "root", "toy")
log = logger(__name__)
_MISSING = object()

Value = TypeVar("Value")


def names() -> tuple[str, ...]:
    """Return the names of the shipped campaigns, ``toy`` first."""
    folder = resources.files("higgsnb.datasets") / "campaigns"
    found = (entry.name[:-5] for entry in folder.iterdir() if entry.name.endswith(".toml"))
    return tuple(sorted(found, key=lambda name: (name != "toy", name)))


def load(name_or_path: str | os.PathLike[str] | Campaign) -> Campaign:
    """Read a shipped campaign by name (see `names`), or a campaign TOML file by path.

    A `str` without a folder and without ``.toml`` is a name. A campaign is returned as it is, so that the cell of a
    notebook that loads one can be run again.

    Raises
    ------
    CampaignError
        If there is no such campaign or file, or if anything in the file is wrong.
    """
    if isinstance(name_or_path, Campaign):
        return name_or_path
    text = os.fspath(name_or_path)
    if isinstance(name_or_path, str) and text in names():
        with resources.as_file(resources.files("higgsnb.datasets") / "campaigns" / f"{text}.toml") as shipped:
            return _parse(shipped, label=f"{text}.toml", folder=Path.cwd())
    choices = f"one of {', '.join(names())}, or the path of a TOML file"
    if not text.strip():
        raise CampaignError("the name of the campaign is empty", f"Give {choices}.")
    if not is_one_line(text):
        raise CampaignError(f"{shown(text)}: not the name or path of a campaign", f"Give {choices}.")
    path = expanded(text)
    try:
        is_file = path.is_file()
    except OSError as error:  # such as a name that is too long, or a folder that may not be entered
        raise CampaignError(f"{shown(text)}: cannot be read: {error.strerror}", f"Give {choices}.") from None
    if is_file:
        return _parse(path, label=str(path), folder=path.resolve().parent)
    if Address.of(text).scheme:
        hint = "Download the TOML file first and give its path."
        raise CampaignError(f"{redact(text)}: a campaign cannot be read from an address", hint)
    if path.suffix == ".toml" or len(path.parts) > 1 or path.exists():
        folder = " (it is a folder)" if path.is_dir() else ""
        raise CampaignError(f"no campaign file at {path}{folder}", f"Give {choices}.")
    if text in PLANNED:
        raise CampaignError(f"the campaign '{text}' is not shipped yet", f"Give {choices}.")
    raise CampaignError(
        f"unknown campaign '{text}'; shipped: {', '.join(names())}",
        f"{did_you_mean(text, names())} Other data: describe the files in a TOML file and give its path.",
    )


def _parse(path: Path, *, label: str, folder: Path) -> Campaign:
    top = _TomlTable(read_toml(path, label, CampaignError), label, "top level")
    head, bodies = top.table("campaign"), top.tables("dataset")
    top.finish()
    if not bodies:
        raise CampaignError(f"{label}: no dataset", "Add at least one [[dataset]] with name, process and file.")
    campaign = _campaign(head, label, folder, datasets=tuple(_dataset(body, folder) for body in bodies))
    _check_datasets(campaign, label)
    check_totals(campaign, {}, label=label)
    return campaign


def _campaign(table: _TomlTable, label: str, folder: Path, *, datasets: tuple[Dataset, ...]) -> Campaign:
    name, schema = table.text("name"), table.text("schema")
    if schema not in DEFAULT_SELECTION:
        hint = did_you_mean(schema, DEFAULT_SELECTION)
        raise table.error("schema", f"one of {', '.join(DEFAULT_SELECTION)}", schema, hint)
    if not re.fullmatch(CAMPAIGN_NAME, name):
        expected = "letters, digits and _ . + - only, at most 100 and no dot first, as a folder is called so"
        raise table.error("name", expected, name)
    selection = table.text("selection", DEFAULT_SELECTION[schema])
    campaign = Campaign(
        name=name,
        title=table.text("title", name),
        schema=schema,
        luminosity_fb=table.number("luminosity_fb", above=0),
        luminosity_uncertainty=table.number("luminosity_uncertainty", least=0, below=1),
        energy_tev=table.number("energy_tev", above=0),
        selection=_absolute(selection, folder) if selection.endswith((".toml", ".toml.gz")) else selection,
        datasets=datasets,
        golden_json=table.optional(table.location, "golden_json", folder),
        luminosity_table=table.optional(table.location, "luminosity_table", folder),
        primary_dataset_precedence=table.texts(table.renamed("stream_precedence", "primary_dataset_precedence")),
        simulated=table.flag("simulated"),
        normalisation=table.optional(table.text, "normalisation"),
        source=label,
    )
    table.finish()
    return campaign


def _dataset(table: _TomlTable, folder: Path) -> Dataset:
    name = table.text("name")
    table.label += f" '{name}'"
    process = table.text("process")
    plain = process.strip().casefold()
    if plain == "prediction":  # a name that the results use themselves
        raise table.error("process", "another name: 'prediction' is the sum of all simulated processes", process)
    if plain == "data" and process != "data":
        raise table.error("process", 'exactly "data" for collision data, another name for simulation', process)
    dataset = Dataset(
        name=name,
        process=process,
        primary_dataset=table.optional(table.text, table.renamed("stream", "primary_dataset")),
        cross_section_pb=table.optional(table.number, "cross_section_pb", above=0),
        scale=table.number("scale", 1.0, above=0),
        files=tuple(_file(body, folder) for body in table.tables("file")),
        record=table.optional(table.integer, "record"),
        doi=table.optional(table.text, "doi"),
        title=table.optional(table.text, "title"),
        luminosity_fb=table.optional(table.number, "luminosity_fb", above=0),
        energy_tev=table.optional(table.number, "energy_tev", above=0),
        stated_events=table.optional(table.integer, "events"),
    )
    if not dataset.files:
        raise table.error("file", "at least one file, as [[dataset.file]] or file = [{ url = … }]", _MISSING)
    if dataset.is_data and (dataset.cross_section_pb is not None or dataset.scale != 1.0):
        key = "scale" if dataset.cross_section_pb is None else "cross_section_pb"
        expected = 'no such key: data has weight 1 (for simulation give another process than "data")'
        raise table.error(key, expected, getattr(dataset, key))
    if not dataset.is_data and dataset.cross_section_pb is None:
        why = f"as process '{process}' is simulation (collision data: process = \"data\")"
        raise table.error("cross_section_pb", f"the cross section in pb, {why}", _MISSING)
    table.finish()
    return dataset


def _file(table: _TomlTable, folder: Path) -> File:
    file = File(
        url=table.location("url", folder),
        alternatives=tuple(table.location("alternatives", folder, text) for text in table.texts("alternatives")),
        events=table.optional(table.integer, "events", most=MOST_EVENTS),
        bytes=table.optional(table.integer, "bytes", least=1),
        adler32=table.optional(table.checksum, "adler32"),
    )
    table.finish()
    return file


@dataclass
class _TomlTable:
    """One TOML table: returns checked values by key; `finish` raises for keys that were not read."""

    values: dict[str, Any]
    file: str
    label: str
    known: list[str] = field(default_factory=list)

    def error(self, key: str, expected: str, got: object, hint: str = "") -> CampaignError:
        kinds = {str: "string", bool: "true/false", int: "whole number", float: "number", dict: "table"}
        value = shown(redact(got) if isinstance(got, str) else got)
        found = f"{value} ({kinds.get(type(got), type(got).__name__)})"
        unread = sorted(set(self.values) - set(self.known))
        misspelt = difflib.get_close_matches(key, unread, n=1, cutoff=0.7) if got is _MISSING else []
        if got is _MISSING:
            message, remedy = f"{key} is missing (expected {expected})", f"Add `{key} = …` to this file."
        else:
            message, remedy = f"{key}: expected {expected}; got {found}", f"Correct `{key}` in this file."
        if misspelt:
            remedy = f"Is '{misspelt[0]}' meant to be '{key}'?"
        return CampaignError(f"{self.file}: {self.label}: {message}", remedy if misspelt else hint or remedy)

    def get(self, key: str, default: object = _MISSING) -> Any:
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
        unknown = sorted(set(self.values) - set(self.known))
        if unknown:
            hint = did_you_mean(unknown[0], sorted(self.known))
            raise CampaignError(f"{self.file}: {self.label}: unknown key {shown(unknown[0])}", hint)

    def text(self, key: str, default: str | None = None) -> str:
        value = self.get(key, _MISSING if default is None else default)
        if not isinstance(value, str) or not value.strip():
            raise self.error(key, "a string", value)
        if not is_one_line(value):  # it is printed, drawn or opened
            raise self.error(key, "a string of one line without control characters", value)
        return value

    def optional(self, read: Callable[..., Value], key: str, *arguments: Any, **limits: float) -> Value | None:
        """Return what a method of this table reads, None if the key is missing."""
        return read(key, *arguments, **limits) if key in self.values else self.get(key, None)

    def texts(self, key: str) -> tuple[str, ...]:
        value = self.get(key, [])
        if not isinstance(value, list) or not all(isinstance(item, str) and item.strip() for item in value):
            raise self.error(key, "a list of strings", value)
        if not all(map(is_one_line, value)):
            raise self.error(key, "a list of strings of one line without control characters", value)
        if len(set(value)) < len(value):
            raise self.error(key, "a list without repetitions", value)
        return tuple(value)

    def flag(self, key: str) -> bool:
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
    ) -> float:
        value = self.get(key, _MISSING if default is None else default)
        good = isinstance(value, int | float) and not isinstance(value, bool)  # nan fails each comparison
        if not good or not (value > above and value >= least and value < below):
            limits = {"above": above, "of at least": least, "below": below}
            stated = " and ".join(f"{word} {limit:g}" for word, limit in limits.items() if math.isfinite(limit))
            raise self.error(key, f"a number {stated}", value)
        if value and not SMALLEST <= value <= LARGEST:
            raise self.error(key, f"a number from {SMALLEST:g} to {LARGEST:g}", value)
        return float(value)

    def integer(self, key: str, *, least: int = 0, most: int = 2**63 - 1) -> int:
        value = self.get(key)
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise self.error(key, f"a whole number of at least {least}", value)
        if value > most:
            raise self.error(key, f"a whole number of at most {most:,}", value)
        return value

    def checksum(self, key: str) -> str:
        value = self.get(key)
        if not isinstance(value, str) or not re.fullmatch(r"[0-9a-fA-F]{8}", value):
            raise self.error(key, 'a string of eight hexadecimal digits, as "1dafc1d7"', value)
        return value.lower()

    def location(self, key: str, folder: Path, text: str | None = None) -> str:
        """Return an address, or a path relative to the folder; ``text`` is the value if the key holds a list."""
        text = self.text(key) if text is None else text
        address = Address.of(text)
        if not address.scheme:
            user, found = text.split("/")[0], _absolute(text, folder)
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

    def table(self, key: str) -> _TomlTable:
        value = self.get(key)
        if not isinstance(value, dict):
            raise self.error(key, f"a table [{key}]", value)
        return _TomlTable(value, self.file, f"[{key}]")

    def tables(self, key: str) -> list[_TomlTable]:
        value = self.get(key, [])
        if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
            raise self.error(key, f"tables [[{key}]] or a list of {{ … }}", value)
        label = f"{self.label} {key}" if key == "file" else f"[[{key}]]"
        return [_TomlTable(item, self.file, f"{label} number {number}") for number, item in enumerate(value, 1)]


def _check_datasets(campaign: Campaign, label: str) -> None:
    """Raise `CampaignError` for a name or file that is listed twice, or a primary dataset not in the precedence.

    Files are the same if they share an address, or size and checksum.
    """
    names: set[str] = set()
    order = campaign.primary_dataset_precedence
    for dataset in campaign.datasets:
        if dataset.name in names:
            hint = "Give each its own name, or list all files under one."
            raise CampaignError(f"{label}: two datasets are called '{dataset.name}'", hint)
        names.add(dataset.name)
        if order and dataset.is_data and dataset.primary_dataset is not None and dataset.primary_dataset not in order:
            raise CampaignError(
                f"{label}: dataset '{dataset.name}': primary dataset '{dataset.primary_dataset}' is not in "
                f"primary_dataset_precedence ({', '.join(order)})",
                did_you_mean(dataset.primary_dataset, order),
            )
    seen: dict[object, str] = {}
    for name, file in ((dataset.name, file) for dataset in campaign.datasets for file in dataset.files):
        marks: set[object] = {Address.of(url).canonical for url in (file.url, *file.alternatives)}
        if file.bytes and file.adler32:
            marks.add((file.bytes, file.adler32))
        for mark in marks & seen.keys():
            here = f"{short_name(file.url)} in dataset '{name}'"
            raise CampaignError(f"{label}: the same file is listed twice: {here} and {seen[mark]}", "Remove one.")
        seen |= dict.fromkeys(marks, f"{short_name(file.url)} in '{name}'")


def _absolute(text: str, folder: Path) -> str:
    return os.path.normpath(folder / expanded(text))
