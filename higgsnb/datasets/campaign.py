"""A campaign: the datasets that are analysed together, their files, and the chunks that files are read in."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from html import escape
from pathlib import Path
from typing import Any

from higgsnb.datasets.files.addresses import Address
from higgsnb.datasets.files.versions import Version
from higgsnb.errors import CampaignError, did_you_mean
from higgsnb.redaction import redact, redacted_repr

TREE = "Events"
"""Name of the tree of events where a campaign gives no other."""
_PLAIN: tuple[object, ...] = (None, {}, (), TREE)
"""Values that a campaign need not state."""


@dataclass(frozen=True, repr=False)
class File:
    """One file: its address, alternatives, and what is known before it is opened.

    ``bytes`` is the size, ``adler32`` eight hexadecimal digits, ``events`` the number of entries; None if not known.
    ``friends`` are the addresses of files with further branches of the same entries, in a tree of the same name.
    """

    url: str
    alternatives: tuple[str, ...] = ()
    events: int | None = None
    bytes: int | None = None
    adler32: str | None = None
    friends: tuple[str, ...] = ()

    def __repr__(self) -> str:
        known = {key: getattr(self, key) for key in ("events", "bytes", "adler32")}
        others = {"alternatives": self.alternatives, "friends": self.friends}
        shown = {key: tuple(str(Address.of(url)) for url in urls) for key, urls in others.items()} | known
        more = "".join(f", {key}={value!r}" for key, value in shown.items() if value)
        return f"File({str(Address.of(self.url))!r}{more})"

    @property
    def is_unmarked(self) -> bool:
        """Whether size or checksum is not stated, so that only its address identifies it."""
        return self.bytes is None or self.adler32 is None

    def with_friends(self, templates: tuple[str, ...]) -> File:
        """Return the file with friends, if it has none; ``{stem}`` in an address is its name without ``.root``."""
        if not templates or self.friends:
            return self
        stem = Address.of(self.url).name.removesuffix(".root")
        return replace(self, friends=tuple(template.replace("{stem}", stem) for template in templates))


@dataclass(frozen=True, repr=False)
class Dataset:
    """Files of one process; luminosity (1/fb) and energy (TeV) only where they are not the campaign's.

    ``stated_events``, ``stated_files`` and ``stated_bytes`` are the totals that the dataset's record states (keys
    ``events``, ``n_files``, ``bytes``), checked against its files. These are listed in ``index``, files on a server, if
    there are too many for a catalogue: `indexes.expand` fills them in, with ``friends`` as templates.
    ``weight`` is the weight of a simulated event as an expression over its columns; ``sum_of_weights`` that of all
    generated events, as a number or as the column that holds it. None: those of the file, as NanoAOD has them.
    ``runs`` are the first and last run of the era of data. ``trigger_efficiency`` says for a channel of simulation
    which part of its selected events the trigger of one primary dataset keeps: for where its data come from that only.
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
    stated_files: int | None = None
    stated_bytes: int | None = None
    index: tuple[File, ...] = ()
    friends: tuple[str, ...] = ()
    runs: tuple[int, int] | None = None
    weight: str | None = None
    sum_of_weights: float | str | None = None
    trigger_efficiency: Mapping[str, Mapping[str, float]] = field(default_factory=dict, hash=False)

    __repr__ = redacted_repr

    def __post_init__(self) -> None:
        _redact_texts(self, "title", "doi")

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
        """Size of all files in bytes; None unless every file states it, or their record while they are not listed."""
        return _total(file.bytes for file in self.files) if self.is_expanded else self.stated_bytes

    @property
    def is_expanded(self) -> bool:
        """Whether its files are listed; if not, `indexes.expand` does so."""
        return bool(self.files) or not self.index

    @property
    def n_files(self) -> int:
        """Number of files; while they are not listed, as stated, or else at least one in each index."""
        return len(self.files) if self.is_expanded else self.stated_files or len(self.index)


@dataclass(frozen=True, repr=False)
class Campaign:
    """Datasets that are analysed together, with luminosity (1/fb), its relative uncertainty, and energy (TeV).

    ``experiment`` is the one whose open data these are, for figures. ``tree`` is the name of the tree of events.
    ``columns`` gives, for CSV, the header of each quantity of ours, or those of its objects, first to last.
    ``documents`` are golden JSON and luminosity table, where more than their address is stated. If ``sums_luminosity``,
    the luminosity is that in the table, 0 until `luminosity.check_inputs` has added it up.
    """

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
    experiment: str | None = None
    tree: str = TREE
    columns: Mapping[str, str | tuple[str, ...]] = field(default_factory=dict, hash=False)
    documents: tuple[File, ...] = ()
    sums_luminosity: bool = False
    source: str = field(default="", compare=False)

    __repr__ = redacted_repr

    def __post_init__(self) -> None:
        _redact_texts(self, "title", "normalisation", "experiment", "source")

    @property
    def has_sections(self) -> bool:
        """Whether lumi sections of data are recorded: the campaign has a golden JSON or a luminosity table."""
        return self.golden_json is not None or self.luminosity_table is not None

    def document(self, location: str) -> File:
        """Return what is stated of the golden JSON or luminosity table at an address."""
        return next((file for file in self.documents if file.url == location), File(location))

    @property
    def runs(self) -> tuple[tuple[int, int], ...]:
        """The runs of the eras of data, as ranges (first, last); empty unless every dataset of data states them."""
        found = {dataset.runs for dataset in self.datasets if dataset.is_data}
        return () if None in found else tuple(sorted(one for one in found if one is not None))

    @property
    def files(self) -> tuple[File, ...]:
        """Every file, in the order of the catalogue."""
        return tuple(file for dataset in self.datasets for file in dataset.files)

    @property
    def n_files(self) -> int:
        """Number of files of all datasets."""
        return sum(dataset.n_files for dataset in self.datasets)

    @property
    def events(self) -> int | None:
        """Number of events of all datasets; None unless every dataset or file states it."""
        return _total(dataset.events for dataset in self.datasets)

    @property
    def bytes(self) -> int | None:
        """Size of all files in bytes; None unless every dataset or file states it."""
        return _total(dataset.bytes for dataset in self.datasets)

    @property
    def energies_tev(self) -> tuple[float, ...]:
        """The collision energies of the datasets, ascending and without repetition: ``(7.0, 8.0)``."""
        return tuple(sorted({dataset.energy_tev or self.energy_tev for dataset in self.datasets}))

    @property
    def digest(self) -> str:
        """sha256 (hex) of everything that can change a result: not titles, nor where a file with a checksum lies.

        Files that an index lists are identified by the index, so that expanding it leaves the digest as it is.
        """
        keys = ("name", "schema", "luminosity_fb", "luminosity_uncertainty", "energy_tev", "simulated", "normalisation")
        content: dict[str, Any] = {key: getattr(self, key) for key in keys}
        if self.sums_luminosity:  # the table is identified
            content["luminosity_fb"] = None
        content["stream_precedence"] = self.primary_dataset_precedence  # as it was called: digests stay comparable
        for key in ("golden_json", "luminosity_table"):
            location = getattr(self, key)
            content[key] = None if location is None else _content_of(self.document(location))
        content |= {
            key: value for key, value in (("tree", self.tree), ("columns", self.columns)) if value not in _PLAIN
        }
        content["datasets"] = [_identity_of(dataset) for dataset in self.datasets]
        text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()

    def reading(self, dataset: Dataset) -> dict[str, Any]:
        """Return how files of a dataset are read beside the schema, by field of `Chunk`: what is not the default."""
        fields: dict[str, Any] = {"tree": self.tree, "columns": self.columns}
        fields |= {"weight": dataset.weight, "sum_of_weights": dataset.sum_of_weights}
        return {key: value for key, value in fields.items() if value not in _PLAIN}

    def dataset(self, name: str) -> Dataset:
        """Return the dataset called ``name``; raises `CampaignError`, with the nearest name, if there is none."""
        for dataset in self.datasets:
            if dataset.name == name:
                return dataset
        known = [dataset.name for dataset in self.datasets]
        raise CampaignError(f"campaign '{self.name}' has no dataset '{name}'", did_you_mean(name, known))

    def _repr_html_(self) -> str:
        """Return a table of the datasets for notebooks; a dash stands for what the campaign does not state."""
        rows = [
            (d.name, d.process, d.n_files, d.events, d.bytes, d.luminosity_fb or self.luminosity_fb or None)
            for d in self.datasets
        ]
        rows.append(("all", "", self.n_files, self.events, self.bytes, self.luminosity_fb or None))
        body = ""
        for name, process, files, events, size, luminosity in rows:
            stated = ("–" if events is None else f"{events:,}", "–" if size is None else f"{size / 1e6:,.1f} MB")
            shown = "–" if luminosity is None else f"{luminosity:g} /fb"
            cells = (escape(name), escape(process), f"{files:,}", *stated, shown)
            body += f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"
        head = "".join(f"<th>{name}</th>" for name in ("dataset", "process", "files", "events", "size", "luminosity"))
        energies = ", ".join(f"{energy:g}" for energy in self.energies_tev)
        simulated = ", simulated collisions" if self.simulated else ""
        return redact(
            f"<table><caption>{escape(self.title)} ({escape(self.name)}, {energies} TeV{simulated})</caption>"
            f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
        )


@dataclass(frozen=True, repr=False)
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
    version: Version | None = None
    """The version of the file when the run was planned; None = not checked, as its checksum is stated."""
    mask: str | None = None
    """`LumiMask.digest` of the golden JSON when the run was planned; None = not checked."""
    process: str = ""
    """The process of its dataset."""
    weighted: bool = True
    """Whether the file may have generator weights, or a tree ``Runs``."""
    tree: str = TREE
    """Name of the tree of events."""
    columns: Mapping[str, str | tuple[str, ...]] = field(default_factory=dict, hash=False)
    """Headers of a CSV file, see `Campaign`."""
    weight: str | None = None
    """Weight of a simulated event, see `Dataset`."""
    sum_of_weights: float | str | None = None
    """Sum of the weights of all generated events, see `Dataset`."""
    friend_versions: tuple[Version, ...] = ()
    """The versions of the friends of the file when the run was planned, in their order; none = not checked."""

    __repr__ = redacted_repr


def _content_of(file: File) -> str | list[Any]:
    """Return what identifies a golden JSON, table or index: size and checksum, or else the content if it is here.

    A local file may change under its name; of one elsewhere only the address is known.
    """
    if not file.is_unmarked:
        return [file.bytes, file.adler32]
    path = Path(file.url)
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else file.url


def _identity(file: File) -> list[Any]:
    """Return what identifies a file: size and checksum, or else its address; and the addresses of its friends."""
    known = [file.url if file.is_unmarked else None, file.events, file.bytes, file.adler32]
    return [*known, *([list(file.friends)] if file.friends else ())]


def _identity_of(dataset: Dataset) -> dict[str, Any]:
    """Return everything of a dataset that can change a result."""
    own = ("name", "process", "cross_section_pb", "scale", "luminosity_fb", "energy_tev")
    found: dict[str, Any] = {key: getattr(dataset, key) for key in own}
    found["stream"] = dataset.primary_dataset  # as it was called
    given = {key: getattr(dataset, key) for key in ("runs", "weight", "sum_of_weights", "trigger_efficiency")}
    given |= {"events": dataset.stated_events, "friends": dataset.friends if dataset.index else None}
    given["index"] = [_content_of(index) for index in dataset.index] or None
    found |= {key: value for key, value in given.items() if value not in _PLAIN}
    found["files"] = [] if dataset.index else [_identity(file) for file in dataset.files]
    return found


def _total(numbers: Iterable[int | None]) -> int | None:
    found = tuple(numbers)
    known = [number for number in found if number is not None]
    return sum(known) if len(known) == len(found) else None


def _redact_texts(item: Dataset | Campaign, *names: str) -> None:
    """Take the secrets out of texts that are shown as they are, in figures, files and notebooks."""
    for name in names:
        if getattr(item, name) is not None:
            object.__setattr__(item, name, redact(getattr(item, name)))


def short_name(url: str) -> str:
    """Return the last part of an address or path, without secrets."""
    shown = str(Address.of(url))
    return shown.rstrip("/").rsplit("/", 1)[-1] or shown
