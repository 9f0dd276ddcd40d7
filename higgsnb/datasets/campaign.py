"""A campaign: the datasets that are analysed together, their files, and the chunks that files are read in."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

from higgsnb.datasets.files.addresses import redact
from higgsnb.errors import CampaignError, did_you_mean


@dataclass(frozen=True, repr=False)
class File:
    """One file: its address, alternatives, and what is known before it is opened.

    ``bytes`` is the size, ``adler32`` eight hexadecimal digits, ``events`` the number of entries; None if not known.
    """

    url: str
    alternatives: tuple[str, ...] = ()
    events: int | None = None
    bytes: int | None = None
    adler32: str | None = None

    def __repr__(self) -> str:
        known = "".join(
            f", {key}={getattr(self, key)!r}"
            for key in ("alternatives", "events", "bytes", "adler32")
            if getattr(self, key)
        )
        return redact(f"File({self.url!r}{known})")


@dataclass(frozen=True)
class Dataset:
    """Files of one process; luminosity (1/fb) and energy (TeV) only where they are not the campaign's.

    ``stated_events`` is the total that the dataset's record states (key ``events``), checked against its files.
    """

    name: str
    process: str
    primary_dataset: str | None = None
    cross_section_pb: float | None = None
    scale: float = 1.0
    files: tuple[File, ...] = ()
    record: int | None = None
    doi: str | None = None
    title: str | None = None
    luminosity_fb: float | None = None
    energy_tev: float | None = None
    stated_events: int | None = None

    @property
    def is_data(self) -> bool:
        """True for collision data, False for simulation."""
        return self.process == "data"

    @property
    def events(self) -> int | None:
        """Number of events of all files; None unless the dataset or every file states it."""
        return _total(file.events for file in self.files) if self.stated_events is None else self.stated_events

    @property
    def bytes(self) -> int | None:
        """Size of all files in bytes; None unless every file states it."""
        return _total(file.bytes for file in self.files)


@dataclass(frozen=True)
class Campaign:
    """Datasets that are analysed together, with luminosity (1/fb), its relative uncertainty, and energy (TeV)."""

    name: str
    title: str
    schema: str
    luminosity_fb: float
    luminosity_uncertainty: float
    energy_tev: float
    selection: str
    datasets: tuple[Dataset, ...]
    golden_json: str | None = None
    luminosity_table: str | None = None
    primary_dataset_precedence: tuple[str, ...] = ()
    simulated: bool = False
    normalisation: str | None = None
    source: str = field(default="", compare=False)

    @property
    def has_sections(self) -> bool:
        """Whether lumi sections of data are recorded: the campaign has a golden JSON or a luminosity table."""
        return self.golden_json is not None or self.luminosity_table is not None

    @property
    def files(self) -> tuple[File, ...]:
        """Every file, in the order of the catalogue."""
        return tuple(file for dataset in self.datasets for file in dataset.files)

    @property
    def events(self) -> int | None:
        """Number of events of all datasets; None unless every dataset or file states it."""
        return _total(dataset.events for dataset in self.datasets)

    @property
    def bytes(self) -> int | None:
        """Size of all files in bytes; None unless every file states it."""
        return _total(file.bytes for file in self.files)

    @property
    def energies_tev(self) -> tuple[float, ...]:
        """The collision energies of the datasets, ascending and without repetition: ``(7.0, 8.0)``."""
        return tuple(sorted({dataset.energy_tev or self.energy_tev for dataset in self.datasets}))

    @property
    def digest(self) -> str:
        """sha256 (hex) of everything that can change a result: not titles, nor where a file with a checksum lies."""
        content = {
            "name": self.name,
            "schema": self.schema,
            "luminosity_fb": self.luminosity_fb,
            "luminosity_uncertainty": self.luminosity_uncertainty,
            "energy_tev": self.energy_tev,
            "simulated": self.simulated,
            "normalisation": self.normalisation,
            "stream_precedence": self.primary_dataset_precedence,  # as it was called: digests stay comparable
            "golden_json": _content(self.golden_json),
            "luminosity_table": _content(self.luminosity_table),
            "datasets": [_identity(dataset) for dataset in self.datasets],
        }
        text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()

    def dataset(self, name: str) -> Dataset:
        """Return the dataset called ``name``; raises `CampaignError`, with the nearest name, if there is none."""
        for dataset in self.datasets:
            if dataset.name == name:
                return dataset
        known = [dataset.name for dataset in self.datasets]
        raise CampaignError(f"campaign '{self.name}' has no dataset '{name}'", did_you_mean(name, known))

    def _repr_html_(self) -> str:
        """Return a table of the datasets for notebooks."""
        totals = "all", "", len(self.files), self.events, self.bytes, self.luminosity_fb
        rows = [
            (d.name, d.process, len(d.files), d.events, d.bytes, d.luminosity_fb or self.luminosity_fb)
            for d in self.datasets
        ]
        body = "".join(_html_row(*row) for row in [*rows, totals])
        head = "".join(f"<th>{name}</th>" for name in ("dataset", "process", "files", "events", "size", "luminosity"))
        energies = ", ".join(f"{energy:g}" for energy in self.energies_tev)
        simulated = ", simulated collisions" if self.simulated else ""
        return (
            f"<table><caption>{escape(self.title)} ({escape(self.name)}, {energies} TeV{simulated})</caption>"
            f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
        )


@dataclass(frozen=True)
class Chunk:
    """Entries ``start`` to ``stop`` (exclusive) of one file: the unit of analysis, small and picklable."""

    dataset: str
    dataset_index: int
    file_index: int
    file: File
    schema: str
    primary_dataset: str | None
    is_data: bool
    start: int
    stop: int
    golden_json: str | None
    entries: int | None = None
    """Entries of the whole file when the run was planned; None = not checked."""
    sections: bool = False
    """Whether the lumi sections of its events are recorded."""
    fingerprint: str | None = None
    """`events.fingerprint` of the file when the run was planned; None = not checked."""
    mask: str | None = None
    """`LumiMask.digest` of the golden JSON when the run was planned; None = not checked."""


def _total(numbers: Iterable[int | None]) -> int | None:
    total = 0
    for number in numbers:
        if number is None:
            return None
        total += number
    return total


def _identity(dataset: Dataset) -> dict[str, Any]:
    """Return what of a dataset can change a result; a file is identified by size and checksum, or else by address."""
    keys = ("name", "process", "cross_section_pb", "scale", "luminosity_fb", "energy_tev")
    return {
        **{key: getattr(dataset, key) for key in keys},
        "stream": dataset.primary_dataset,  # as it was called: digests stay comparable
        **({} if dataset.stated_events is None else {"events": dataset.stated_events}),
        "files": [
            [file.url if file.bytes is None or file.adler32 is None else None, file.events, file.bytes, file.adler32]
            for file in dataset.files
        ],
    }


def _content(location: str | None) -> str | None:
    """Identify a local file by its sha256, as it may change under the same name, and a remote one by its address."""
    if location is None or not Path(location).is_file():
        return location
    return hashlib.sha256(Path(location).read_bytes()).hexdigest()


def _html_row(name: str, process: str, files: int, events: int | None, size: int | None, luminosity: float) -> str:
    """Return one row of a campaign's table; a dash stands for what the campaign does not state."""
    cells = (
        escape(name),
        escape(process),
        f"{files:,}",
        "–" if events is None else f"{events:,}",
        "–" if size is None else f"{size / 1e6:,.1f} MB",
        f"{luminosity:g} /fb",
    )
    return f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"


def short_name(url: str) -> str:
    """Return the last part of an address or path, without secrets."""
    return redact(url).rstrip("/").rsplit("/", 1)[-1] or redact(url)
