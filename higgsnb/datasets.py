"""The catalogue: campaigns read from TOML, and their split into chunks of work.

A campaign is one TOML file (`load`). The shipped ones lie in ``catalogue/``, in the form that users write.
Whatever is wrong in such a file is a `CampaignError`, which names the file, the table and the key, what was
expected and what was found.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import math
import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit

from higgsnb import files
from higgsnb.errors import CampaignError

__all__ = [
    "Campaign",
    "CampaignError",
    "Chunk",
    "Dataset",
    "File",
    "check_entries",
    "check_totals",
    "chunks",
    "load",
    "names",
    "same_files",
]

DEFAULT_SELECTION = {"outreach": "open2012", "nanoaod": "open2012", "csv": "aod2012"}
PLANNED = {"cms2016"}  # campaigns that are announced but not in the catalogue
CAMPAIGN_NAME = r"[A-Za-z0-9_+-][A-Za-z0-9_.+-]{0,99}"  # a folder has this name
SCHEMES = ("file", "http", "https", "root", "toy")
_MISSING = object()


@dataclass(frozen=True, repr=False)
class File:
    """One file: where it is, and what is known about it beforehand.

    ``bytes`` is the size, ``adler32`` eight hexadecimal digits, ``events`` the entries; None = not known.
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
        return files.redact(f"File({self.url!r}{known})")


@dataclass(frozen=True)
class Dataset:
    """Files of one process; luminosity (1/fb) and energy (TeV) only where they are not the campaign's.

    ``stated_events`` is the total that the dataset's record states (key ``events``), checked against its files.
    """

    name: str
    process: str
    stream: str | None = None
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
    """What is analysed together: datasets, luminosity (1/fb) with relative uncertainty, energy (TeV)."""

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
    stream_precedence: tuple[str, ...] = ()
    simulated: bool = False
    normalisation: str | None = None
    source: str = field(default="", compare=False)

    @property
    def has_sections(self) -> bool:
        """Whether the lumi sections of data are noted: a golden JSON or a luminosity table is named."""
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
        """sha256 (hex) over all that can change the answer: not titles, not the place of a known file."""
        text = json.dumps(_identity(self), sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()

    def dataset(self, name: str) -> Dataset:
        """Return the dataset of that name; `CampaignError` names the nearest one if there is none."""
        for dataset in self.datasets:
            if dataset.name == name:
                return dataset
        known = [dataset.name for dataset in self.datasets]
        raise CampaignError(f"campaign '{self.name}' has no dataset '{name}'{_nearest(name, known)}")


@dataclass(frozen=True)
class Chunk:
    """Entries ``start`` to ``stop`` (exclusive) of one file: the unit of analysis, small and picklable.

    ``sections`` says whether the lumi sections of its events are noted.
    """

    dataset: str
    dataset_index: int
    file_index: int
    file: File
    schema: str
    stream: str | None
    is_data: bool
    start: int
    stop: int
    golden_json: str | None
    entries: int | None = None
    """How many entries the file has in all, as the plan assumes; None = not checked."""
    sections: bool = False
    """Whether its lumi sections are to be collected."""
    fingerprint: str | None = None
    """What `events.fingerprint` said of the file when the run began; None = not checked."""
    mask: str | None = None
    """The `luminosity.LumiMask.digest` of the golden JSON when the run began; None = not checked."""


def names() -> tuple[str, ...]:
    """Names of the shipped campaigns, ``toy`` first."""
    folder = resources.files("higgsnb") / "catalogue"
    found = sorted(entry.name[:-5] for entry in folder.iterdir() if entry.name.endswith(".toml"))
    return tuple(sorted(found, key=lambda name: name != "toy"))


def load(name_or_path: str | os.PathLike[str]) -> Campaign:
    """Read a shipped campaign by name, or a campaign TOML file by path.

    Parameters
    ----------
    name_or_path
        One of `names`, or the path of a TOML file. A `str` without a folder and without ``.toml`` is a name.

    Raises
    ------
    CampaignError
        If there is no such campaign or file, or if anything in the file is wrong.
    """
    text = os.fspath(name_or_path)
    if isinstance(name_or_path, str) and text in names():
        shipped = resources.files("higgsnb") / "catalogue" / f"{text}.toml"
        return _parse(shipped.read_text(encoding="utf-8"), label=f"{text}.toml", folder=Path.cwd())
    if not text.strip():
        raise CampaignError(f"the name of a campaign is empty;\ngive one of: {', '.join(names())}, or a TOML file")
    path = Path(text).expanduser()
    if path.is_file():
        return _parse(_read(path), label=str(path), folder=path.resolve().parent)
    if _scheme(text) is not None:
        raise CampaignError(
            f"{files.redact(text)}: a campaign is not read from an address;\n"
            "download the TOML file first and give its path"
        )
    if path.suffix == ".toml" or len(path.parts) > 1 or path.exists():
        raise CampaignError(
            f"no campaign file at {path}{' (it is a folder)' if path.is_dir() else ''};\n"
            f"give the path of a TOML file, or one of: {', '.join(names())}"
        )
    unknown = f"no campaign is called '{text}'{_nearest(text, names())}"
    raise CampaignError(
        (f"the campaign '{text}' is not shipped yet" if text in PLANNED else unknown)
        + f"\nshipped: {', '.join(names())}; other data: describe the files in a TOML file and give its path"
    )


def chunks(campaign: Campaign, entries: Mapping[str, int], chunk_events: int, fraction: float = 1.0) -> list[Chunk]:
    """Split a campaign into chunks, ordered so that all datasets progress in step.

    The order follows each chunk's relative position in its dataset, then the catalogue: at any moment about
    the same share of every dataset has been processed. Chunks start at multiples of ``chunk_events`` whatever
    the fraction, so that a larger fraction repeats the smaller one's chunks.

    Parameters
    ----------
    entries
        Number of entries in each file, by its ``url``. For a file that is not there, its ``events``.
    chunk_events
        Events in a chunk at most; a chunk never spans two files.
    fraction
        The first ``round(fraction * entries)`` entries of each file are taken; 0 < fraction <= 1.

    Returns
    -------
    list of Chunk
        A file without entries has one empty chunk, so that it is opened and reported like the others.

    Raises
    ------
    ValueError
        If a number is out of range, or the number of entries of a file is not known.
    """
    if chunk_events < 1:
        raise ValueError(f"chunk_events must be at least 1, got {chunk_events}")
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction must be above 0 and at most 1, got {fraction}")
    placed: list[tuple[float, int, int, int, Chunk]] = []
    for index, dataset in enumerate(campaign.datasets):
        counts = [_entries(file, entries) for file in dataset.files]
        total, before = max(1, sum(counts)), 0
        for number, (file, count) in enumerate(zip(dataset.files, counts, strict=True)):
            for start, stop in _ranges(count, chunk_events, fraction):
                chunk = Chunk(
                    dataset.name,
                    index,
                    number,
                    file,
                    campaign.schema,
                    dataset.stream,
                    dataset.is_data,
                    start,
                    stop,
                    campaign.golden_json if dataset.is_data else None,  # it says when data are good, not simulation
                    count,
                    dataset.is_data and campaign.has_sections,
                )
                placed.append(((before + start) / total, index, number, start, chunk))
            before += count
    placed.sort(key=lambda item: item[:4])
    return [item[4] for item in placed]


def _ranges(count: int, chunk_events: int, fraction: float) -> list[tuple[int, int]]:
    wanted = round(fraction * count)
    if count == 0:
        return [(0, 0)]
    return [(start, min(start + chunk_events, wanted)) for start in range(0, wanted, chunk_events)]


def _entries(file: File, entries: Mapping[str, int]) -> int:
    count = entries.get(file.url, file.events)
    if count is None:
        raise ValueError(f"the number of entries of {_short(file.url)} is not known: open it first, or state 'events'")
    if count < 0:
        raise ValueError(f"{_short(file.url)} cannot have {count} entries")
    return count


class Opened(Protocol):
    """What a file says of itself once it is open, as `events.FileInfo`."""

    @property
    def entries(self) -> int:
        """Number of entries."""

    @property
    def bytes(self) -> int | None:
        """Its size, None if not known."""

    @property
    def uuid(self) -> str | None:
        """ROOT's UUID, drawn when the file was made and the same in each copy; None if it is not a ROOT file."""


def check_totals(campaign: Campaign, entries: Mapping[tuple[int, int], int]) -> None:
    """Hold the files that could be opened against what the campaign states of whole datasets.

    Raises
    ------
    CampaignError
        If `check_entries` finds anything; the first of its problems.
    """
    for problem in check_entries(campaign, entries):
        raise CampaignError(f"campaign '{campaign.name}': {problem}")


def check_entries(campaign: Campaign, entries: Mapping[tuple[int, int], int]) -> list[str]:
    """Compare the entries of files with what the catalogue says of each, and of each dataset.

    Parameters
    ----------
    entries
        Number of entries of the files that could be opened, by (dataset, file) in the order of the catalogue. For a
        file that is not there, its ``events``; if neither is known, the dataset may only have too many.

    Returns
    -------
    list of str
        One problem each, without the campaign: names the files and both numbers.
    """
    problems = []
    for index, dataset in enumerate(campaign.datasets):
        counts = [entries.get((index, number), file.events) for number, file in enumerate(dataset.files)]
        for file, count in zip(dataset.files, counts, strict=True):
            if file.events is not None and count != file.events:
                problems.append(
                    f"{_short(file.url)} in dataset '{dataset.name}' holds {count:,} events, the campaign says "
                    f"{file.events:,}\ncorrect `events` of this file, or fetch it again"
                )
        problems += _compare_total(dataset, counts)
    return problems


def _compare_total(dataset: Dataset, counts: list[int | None]) -> list[str]:
    """Compare the total that a dataset states with the events of its files, None where not known."""
    stated, found = dataset.stated_events, sum(count for count in counts if count is not None)
    if stated is None or found == stated or (found < stated and None in counts):
        return []
    files_ = [
        f"{_short(file.url)} ({'?' if count is None else format(count, ',')})"
        for file, count in zip(dataset.files, counts, strict=True)
    ]
    listed = ", ".join(files_[:8]) + (f" and {len(files_) - 8} more" if len(files_) > 8 else "")
    return [
        f"dataset '{dataset.name}' should have {stated:,} events, its files have {found:,}: {listed}\n"
        + _likely(dataset, counts, found - stated)
    ]


def _likely(dataset: Dataset, counts: list[int | None], surplus: int) -> str:
    """Say what would make a dataset's files agree with its total."""
    if surplus < 0:
        return f"a file with {-surplus:,} events may be missing from the list, or `events` is wrong"
    fitting = [_short(file.url) for file, count in zip(dataset.files, counts, strict=True) if count == surplus]
    if fitting:
        return f"it would agree without {' or '.join(fitting)}: a file too many? else `events` is wrong"
    return f"{surplus:,} too many: a file may belong to another dataset, or `events` is wrong"


def same_files(campaign: Campaign, opened: Mapping[tuple[int, int], Opened]) -> dict[tuple[int, int], tuple[str, str]]:
    """Find files that are listed under two addresses: of the same UUID, number of entries and size.

    Returns
    -------
    dict of (int, int) to (str, str)
        For each that is there again, by its place in the catalogue, a message that names both addresses, and a hint.
    """
    problems: dict[tuple[int, int], tuple[str, str]] = {}
    seen: dict[tuple[object, ...], str] = {}
    for (index, number), info in sorted(opened.items(), key=lambda item: item[0]):
        if info.uuid is None:
            continue
        dataset = campaign.datasets[index]
        place = f"{files.redact(dataset.files[number].url)} in dataset '{dataset.name}'"
        first = seen.setdefault((info.uuid, info.entries, info.bytes), place)
        if first != place:
            problems[index, number] = (
                f"{place} is the same file as {first} (UUID {info.uuid}, {info.entries:,} events)",
                "Remove one, or give the other as one of its `alternatives`.",
            )
    return problems


def _total(numbers: Iterable[int | None]) -> int | None:
    total = 0
    for number in numbers:
        if number is None:
            return None
        total += number
    return total


# --- identity


def _identity(campaign: Campaign) -> dict[str, Any]:
    return {
        "name": campaign.name,
        "schema": campaign.schema,
        "luminosity_fb": campaign.luminosity_fb,
        "luminosity_uncertainty": campaign.luminosity_uncertainty,
        "energy_tev": campaign.energy_tev,
        "simulated": campaign.simulated,
        "normalisation": campaign.normalisation,
        "stream_precedence": campaign.stream_precedence,
        "golden_json": _content(campaign.golden_json),
        "luminosity_table": _content(campaign.luminosity_table),
        "datasets": [_dataset_identity(dataset) for dataset in campaign.datasets],
    }


def _dataset_identity(dataset: Dataset) -> dict[str, Any]:
    keys = ("name", "process", "stream", "cross_section_pb", "scale", "luminosity_fb", "energy_tev")
    return {
        **{key: getattr(dataset, key) for key in keys},
        **({} if dataset.stated_events is None else {"events": dataset.stated_events}),
        "files": [_file_identity(file) for file in dataset.files],
    }


def _file_identity(file: File) -> list[Any]:
    """Size and checksum make a file the same wherever it lies; any other one is known by its place only."""
    place = None if file.bytes is not None and file.adler32 is not None else file.url
    return [place, file.events, file.bytes, file.adler32]


def _content(location: str | None) -> str | None:
    """Identify a local file by its content, which may change under the same name; a remote one by address."""
    if location is None or not Path(location).is_file():
        return location
    return hashlib.sha256(Path(location).read_bytes()).hexdigest()


# --- reading TOML


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise CampaignError(f"{path}: not UTF-8 text (byte {error.start}); a campaign is a TOML file") from None
    except OSError as error:
        raise CampaignError(f"{path}: cannot be read: {error.strerror}") from None


def _parse(text: str, *, label: str, folder: Path) -> Campaign:
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise CampaignError(f"{label}: not valid TOML: {error}") from None
    top = _Table(document, label, "top level")
    head, bodies = top.table("campaign"), top.tables("dataset")
    top.finish()
    if not bodies:
        raise CampaignError(f"{label}: no dataset; add at least one [[dataset]] with name, process and file")
    campaign = _campaign(head, label, folder, datasets=tuple(_dataset(body, folder) for body in bodies))
    _check_names(campaign, label)
    _check_streams(campaign, label)
    _check_duplicates(campaign, label)
    _check_totals(campaign, label)
    return campaign


def _campaign(table: _Table, label: str, folder: Path, *, datasets: tuple[Dataset, ...]) -> Campaign:
    name, schema = _campaign_name(table), table.choice("schema", DEFAULT_SELECTION)
    golden, luminosity_table = table.optional_text("golden_json"), table.optional_text("luminosity_table")
    campaign = Campaign(
        name=name,
        title=table.text("title", name),
        schema=schema,
        luminosity_fb=table.number("luminosity_fb", above=0),
        luminosity_uncertainty=table.number("luminosity_uncertainty", least=0, below=1),
        energy_tev=table.number("energy_tev", above=0),
        selection=_selection(table.text("selection", DEFAULT_SELECTION[schema]), folder),
        datasets=datasets,
        golden_json=None if golden is None else table.location("golden_json", golden, folder),
        luminosity_table=None
        if luminosity_table is None
        else table.location("luminosity_table", luminosity_table, folder),
        stream_precedence=table.texts("stream_precedence"),
        simulated=table.flag("simulated"),
        normalisation=table.optional_text("normalisation"),
        source=label,
    )
    table.finish()
    return campaign


def _campaign_name(table: _Table) -> str:
    name = table.text("name")
    if not re.fullmatch(CAMPAIGN_NAME, name):
        expected = "letters, digits and _ . + - only, at most 100 and no dot first, as a folder is called so"
        raise table.error("name", expected, name)
    return name


def _process(table: _Table) -> str:
    """Refuse what the results use as a key of their own, and what only its reader would take for data."""
    process = table.text("process")
    plain = process.strip().casefold()
    if plain == "prediction":
        raise table.error("process", "another name: 'prediction' is the sum of all simulated processes", process)
    if plain == "data" and process != "data":
        raise table.error("process", 'exactly "data" for collision data, another name for simulation', process)
    return process


def _selection(text: str, folder: Path) -> str:
    """Tell a name from a TOML file, which lies beside the campaign."""
    return str(_absolute(text, folder)) if text.endswith(".toml") else text


def _dataset(table: _Table, folder: Path) -> Dataset:
    name = table.text("name")
    table.label += f" '{name}'"
    process = _process(table)
    dataset = Dataset(
        name=name,
        process=process,
        stream=table.optional_text("stream"),
        cross_section_pb=table.optional_number("cross_section_pb", above=0),
        scale=table.number("scale", 1.0, above=0),
        files=tuple(_file(body, folder) for body in table.tables("file")),
        record=table.optional_integer("record"),
        doi=table.optional_text("doi"),
        title=table.optional_text("title"),
        luminosity_fb=table.optional_number("luminosity_fb", above=0),
        energy_tev=table.optional_number("energy_tev", above=0),
        stated_events=table.optional_integer("events"),
    )
    if not dataset.files:
        raise table.error("file", "at least one file, as [[dataset.file]] or file = [{ url = … }]", _MISSING)
    _check_weight(dataset, table)
    table.finish()
    return dataset


def _check_weight(dataset: Dataset, table: _Table) -> None:
    if dataset.is_data and (dataset.cross_section_pb is not None or dataset.scale != 1.0):
        key = "scale" if dataset.cross_section_pb is None else "cross_section_pb"
        raise table.error(
            key,
            'no such key: data has weight 1 (for simulation give another process than "data")',
            dataset.scale if dataset.cross_section_pb is None else dataset.cross_section_pb,
        )
    if not dataset.is_data and dataset.cross_section_pb is None:
        raise table.error(
            "cross_section_pb",
            f"the cross section in pb, as process '{dataset.process}' is simulation "
            '(collision data: process = "data")',
            _MISSING,
        )


def _file(table: _Table, folder: Path) -> File:
    url = table.location("url", table.text("url"), folder)
    file = File(
        url=url,
        alternatives=tuple(table.location("alternatives", text, folder) for text in table.texts("alternatives")),
        events=table.optional_integer("events"),
        bytes=table.optional_integer("bytes", least=1),
        adler32=table.checksum("adler32"),
    )
    table.finish()
    return file


class _Table:
    """One TOML table: hands out checked values by key and, at `finish`, refuses the keys nobody asked for."""

    def __init__(self, values: dict[str, Any], file: str, label: str) -> None:
        self.values, self.file, self.label = values, file, label
        self.known: list[str] = []

    def error(self, key: str, expected: str, got: object) -> CampaignError:
        found = "nothing: the key is missing" if got is _MISSING else f"{_shown(got)} ({_kind(got)})"
        near = difflib.get_close_matches(key, sorted(set(self.values) - set(self.known)), n=1, cutoff=0.7)
        hint = f"\nis '{near[0]}' meant to be '{key}'?" if got is _MISSING and near else ""
        return CampaignError(f"{self.file}: {self.label}: {key}: expected {expected}; got {found}{hint}")

    def get(self, key: str, default: object = _MISSING) -> Any:
        self.known.append(key)
        return self.values.get(key, default)

    def finish(self) -> None:
        unknown = sorted(set(self.values) - set(self.known))
        if unknown:
            raise CampaignError(
                f"{self.file}: {self.label}: unknown key '{unknown[0]}'"
                f"{_nearest(unknown[0], self.known)}\nknown keys: {', '.join(sorted(self.known))}"
            )

    def text(self, key: str, default: str | None = None) -> str:
        value = self.get(key, _MISSING if default is None else default)
        if not isinstance(value, str) or not value.strip():
            raise self.error(key, "a text in quotes", value)
        return value

    def optional_text(self, key: str) -> str | None:
        return self.text(key) if key in self.values else self.get(key, None)

    def texts(self, key: str) -> tuple[str, ...]:
        value = self.get(key, [])
        if not isinstance(value, list) or not all(isinstance(item, str) and item.strip() for item in value):
            raise self.error(key, "a list of texts in quotes", value)
        if len(set(value)) < len(value):
            raise self.error(key, "a list without repetitions", value)
        return tuple(value)

    def choice(self, key: str, allowed: Iterable[str]) -> str:
        value = self.text(key)
        if value not in allowed:
            raise self.error(key, f"one of {', '.join(allowed)}{_nearest(value, allowed)}", value)
        return value

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
            raise self.error(key, f"a number{_bounds(above, least, below)}", value)
        return float(value)

    def optional_number(self, key: str, *, above: float) -> float | None:
        return self.number(key, above=above) if key in self.values else self.get(key, None)

    def optional_integer(self, key: str, *, least: int = 0) -> int | None:
        value = self.get(key, None)
        if value is None:
            return None
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise self.error(key, f"a whole number of at least {least}", value)
        return value

    def checksum(self, key: str) -> str | None:
        value = self.get(key, None)
        if value is None:
            return None
        if not isinstance(value, str) or not re.fullmatch(r"[0-9a-fA-F]{8}", value):
            raise self.error(key, 'eight hexadecimal digits in quotes, as "1dafc1d7"', value)
        return value.lower()

    def location(self, key: str, text: str, folder: Path) -> str:
        scheme = _scheme(text)
        if scheme is None:
            return str(_absolute(text, folder))
        if scheme not in SCHEMES or not _is_address(text):
            raise self.error(key, f"a path or an address with {', '.join(f'{name}:' for name in SCHEMES)}", text)
        return text

    def table(self, key: str) -> _Table:
        value = self.get(key)
        if not isinstance(value, dict):
            raise self.error(key, f"a table [{key}]", value)
        return _Table(value, self.file, f"[{key}]")

    def tables(self, key: str) -> list[_Table]:
        value = self.get(key, [])
        if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
            raise self.error(key, f"tables [[{key}]] or a list of {{ … }}", value)
        place = f"{self.label} {key}" if key == "file" else f"[[{key}]]"
        return [_Table(item, self.file, f"{place} number {number}") for number, item in enumerate(value, 1)]


def _bounds(above: float, least: float, below: float) -> str:
    parts = [
        f"above {above:g}" if above > -math.inf else "",
        f"of at least {least:g}" if least > -math.inf else "",
        f"below {below:g}" if below < math.inf else "",
    ]
    words = " and ".join(part for part in parts if part)
    return f" {words}" if words else ""


def _shown(value: object) -> str:
    text = repr(files.redact(value) if isinstance(value, str) else value)
    return text if len(text) <= 80 else text[:77] + "..."


def _kind(value: object) -> str:
    kinds = {
        str: "text",
        bool: "true/false",
        int: "whole number",
        float: "number",
        dict: "table",
        list: "list",
    }
    return kinds.get(type(value), type(value).__name__)


def _nearest(wrong: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(wrong, sorted(known), n=1, cutoff=0.5)
    return f"; nearest: '{near[0]}'" if near else ""


def _short(url: str) -> str:
    return files.redact(url).rstrip("/").rsplit("/", 1)[-1] or files.redact(url)


# --- whole-campaign checks


def _check_names(campaign: Campaign, label: str) -> None:
    seen: set[str] = set()
    for dataset in campaign.datasets:
        if dataset.name in seen:
            raise CampaignError(
                f"{label}: two datasets are called '{dataset.name}'; give each its own name, "
                "or list all files under one"
            )
        seen.add(dataset.name)


def _check_streams(campaign: Campaign, label: str) -> None:
    order = campaign.stream_precedence
    for dataset in campaign.datasets:
        if order and dataset.is_data and dataset.stream is not None and dataset.stream not in order:
            raise CampaignError(
                f"{label}: dataset '{dataset.name}': stream '{dataset.stream}' is not in "
                f"stream_precedence{_nearest(dataset.stream, order)}\nlisted: {', '.join(order)}"
            )


def _check_duplicates(campaign: Campaign, label: str) -> None:
    """Refuse the same file twice: it counts twice. Two addresses are one file by path or by checksum."""
    seen: dict[object, str] = {}
    for dataset in campaign.datasets:
        for file in dataset.files:
            for mark in _marks(file):
                if mark in seen:
                    raise CampaignError(
                        f"{label}: the same file is listed twice: {_short(file.url)} in dataset "
                        f"'{dataset.name}' and {seen[mark]}; remove one"
                    )
            seen |= {mark: f"{_short(file.url)} in '{dataset.name}'" for mark in _marks(file)}


def _check_totals(campaign: Campaign, label: str) -> None:
    """Compare the number of events that a dataset states with those of its files, as far as these are stated."""
    problems = check_entries(campaign, {})
    if problems:
        raise CampaignError(f"{label}: {problems[0]}")


def _marks(file: File) -> set[object]:
    marks: set[object] = {_canonical(place) for place in (file.url, *file.alternatives)}
    return marks | ({(file.bytes, file.adler32)} if file.bytes and file.adler32 else set())


def _canonical(location: str) -> str:
    scheme = _scheme(location)
    if scheme == "toy":
        return location
    if scheme in (None, "file"):
        return os.path.realpath(unquote(urlsplit(location).path) if scheme else location)
    parts = urlsplit(location)
    path = re.sub(r"/+", "/", unquote(parts.path))
    # CERN's storage serves one tree, /eos/…, from several hosts and protocols
    return path if path.startswith("/eos/") else f"{parts.netloc.rsplit('@', 1)[-1].lower()}{path}?{parts.query}"


def _scheme(location: str) -> str | None:
    """Return the scheme of an address, None for a path (a single letter is a drive, not a scheme)."""
    match = re.match(r"([A-Za-z][A-Za-z0-9+.-]+):", location)
    return match[1].lower() if match else None


def _is_address(location: str) -> bool:
    try:
        parts = urlsplit(location)
        return parts.scheme not in {"http", "https", "root"} or (bool(parts.hostname) and parts.port != 0)
    except ValueError:
        return False


def _absolute(text: str, folder: Path) -> Path:
    return Path(os.path.normpath(folder / Path(text).expanduser()))
