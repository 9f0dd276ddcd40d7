"""Read campaigns from TOML: the shipped ones by name, others by path.

The shipped ones lie in ``campaigns/``, in the form that users write. Any mistake in such a file is a `CampaignError`
that names the file, the table and the key, what was expected and what was found.
"""

from __future__ import annotations

import os
import re
from importlib import resources
from pathlib import Path
from typing import Any

from higgsnb.datasets.campaign import TREE, Campaign, Dataset, File
from higgsnb.datasets.chunks import check_listing, check_totals
from higgsnb.datasets.files.addresses import Address
from higgsnb.datasets.toml_table import MISSING, TomlTable, absolute
from higgsnb.errors import CampaignError, SelectionError, did_you_mean
from higgsnb.redaction import redact
from higgsnb.selection import parse as parse_expression
from higgsnb.storage import expanded
from higgsnb.text import is_one_line, read_toml, shown

DEFAULT_SELECTION = {"outreach": "open2012", "nanoaod": "open2012", "csv": "aod2012", "atlas": "atlas4l"}
MOST_EVENTS = 10**10
"""Most events of a file: it is planned chunk by chunk before it is opened."""
CHANNELS = ("4mu", "4e", "2e2mu")
LARGEST_SUM = 1e24
"""Largest sum of generator weights; samples of Sherpa reach 1e16."""
COLUMN_NAME = r"[A-Za-z_][A-Za-z0-9_.]{0,199}"
CAMPAIGN_NAME = r"[A-Za-z0-9_+-][A-Za-z0-9_.+-]{0,99}"  # it names a folder, too


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
    if is_file and path.suffix in (".root", ".csv"):
        hint = (
            f"Write one: [campaign] with name, schema, energy_tev, luminosity_fb, luminosity_uncertainty, and "
            f'[[dataset]] with name, process = "data", file = [{{ url = "{path.name}" }}].'
        )
        raise CampaignError(f"{path}: is a file of events, not a campaign file (TOML)", hint)
    if is_file:
        return _parse(path, label=str(path), folder=path.resolve().parent)
    if Address.of(text).scheme:
        hint = "Download the TOML file first and give its path."
        raise CampaignError(f"{redact(text)}: a campaign cannot be read from an address", hint)
    if path.suffix == ".toml" or len(path.parts) > 1 or path.exists():
        folder = " (it is a folder)" if path.is_dir() else ""
        raise CampaignError(f"no campaign file at {path}{folder}", f"Give {choices}.")
    raise CampaignError(
        f"unknown campaign '{text}'; shipped: {', '.join(names())}",
        f"{did_you_mean(text, names())} Other data: describe the files in a TOML file and give its path.",
    )


def _parse(path: Path, *, label: str, folder: Path) -> Campaign:
    top = TomlTable(read_toml(path, label, CampaignError), label, "top level")
    head, bodies = top.table("campaign"), top.tables("dataset")
    top.finish()
    if not bodies:
        raise CampaignError(f"{label}: no dataset", "Add at least one [[dataset]] with name, process and file.")
    shared = {"weight": _weight(head), "trigger_efficiency": _trigger_efficiency(head), "schema": head.text("schema")}
    campaign = _campaign(head, label, folder, datasets=tuple(_dataset(body, folder, shared) for body in bodies))
    _check_datasets(campaign, label)
    check_listing(campaign, label)
    check_totals(campaign, {}, label=label)
    return campaign


def _campaign(table: TomlTable, label: str, folder: Path, *, datasets: tuple[Dataset, ...]) -> Campaign:
    name, schema = table.text("name"), table.text("schema")
    if schema not in DEFAULT_SELECTION:
        hint = did_you_mean(schema, DEFAULT_SELECTION)
        raise table.error("schema", f"one of {', '.join(DEFAULT_SELECTION)}", schema, hint)
    if not re.fullmatch(CAMPAIGN_NAME, name):
        expected = "letters, digits and _ . + - only, at most 100 and no dot first, as a folder is called so"
        raise table.error("name", expected, name)
    selection = table.text("selection", DEFAULT_SELECTION[schema])
    golden_json, luminosity_table = (_document(table, key, folder) for key in ("golden_json", "luminosity_table"))
    sums_luminosity = "luminosity_fb" not in table.values and luminosity_table is not None
    campaign = Campaign(
        name=name,
        title=table.text("title", name),
        schema=schema,
        luminosity_fb=0.0 if sums_luminosity else table.number("luminosity_fb", above=0),
        luminosity_uncertainty=table.number("luminosity_uncertainty", least=0, below=1),
        energy_tev=table.number("energy_tev", above=0),
        selection=absolute(selection, folder) if selection.endswith((".toml", ".toml.gz")) else selection,
        datasets=datasets,
        golden_json=None if golden_json is None else golden_json.url,
        luminosity_table=None if luminosity_table is None else luminosity_table.url,
        primary_dataset_precedence=table.texts(table.renamed("stream_precedence", "primary_dataset_precedence")),
        simulated=table.flag("simulated"),
        normalisation=table.optional(table.text, "normalisation"),
        experiment=table.optional(table.text, "experiment"),
        tree=table.text("tree", TREE),
        columns=_columns(table, schema),
        documents=tuple(file for file in (golden_json, luminosity_table) if file and file != File(file.url)),
        sums_luminosity=sums_luminosity,
        source=label,
    )
    table.finish()
    return campaign


def _document(table: TomlTable, key: str, folder: Path) -> File | None:
    """Return golden JSON or luminosity table: an address, or a table that states more, as of a file."""
    if not isinstance(table.values.get(key), dict):
        location = table.optional(table.location, key, folder)
        return None if location is None else File(location)
    return _listed(table.table(key), folder)


def _columns(table: TomlTable, schema: str) -> dict[str, str | tuple[str, ...]]:
    """Return the headers of a CSV file by the name of the quantity: one, or that of each object."""
    if "columns" not in table.values:
        return {}
    if schema != "csv":
        raise table.error("columns", f"no such key: schema '{schema}' finds branches by name", table.values["columns"])
    found: dict[str, str | tuple[str, ...]] = {}
    headers = table.table("columns")
    for name, given in headers.values.items():
        if not re.fullmatch(COLUMN_NAME, name):
            raise headers.error(name, "as name of a quantity letters, digits and _", given)
        found[name] = headers.texts(name) if isinstance(given, list) else headers.text(name)
        if not found[name]:
            raise headers.error(name, "the header of a column, or a list of them", given)
    return found


def _dataset(table: TomlTable, folder: Path, shared: dict[str, Any]) -> Dataset:
    """Return a dataset; ``shared`` is what the campaign says of all of its simulation."""
    name = table.text("name")
    table.label += f" '{name}'"
    process = _process(table)
    is_data, friends = process == "data", _locations(table, "friends", folder)
    dataset = Dataset(
        name=name,
        process=process,
        primary_dataset=table.optional(table.text, table.renamed("stream", "primary_dataset")),
        cross_section_pb=table.optional(table.number, "cross_section_pb", above=0),
        scale=table.number("scale", 1.0, above=0),
        files=tuple(_file(body, folder, friends) for body in table.tables("file")),
        record=table.optional(table.integer, "record"),
        doi=table.optional(table.text, "doi"),
        title=table.optional(table.text, "title"),
        luminosity_fb=table.optional(table.number, "luminosity_fb", above=0),
        energy_tev=table.optional(table.number, "energy_tev", above=0),
        stated_events=table.optional(table.integer, "events"),
        stated_files=table.optional(table.integer, "n_files", least=1),
        stated_bytes=table.optional(table.integer, "bytes", least=1),
        index=tuple(_listed(body, folder) for body in table.tables("index")),
        friends=friends,
        runs=_runs(table) if "runs" in table.values else None,
        weight=_weight(table) or (None if is_data else shared["weight"]),
        sum_of_weights=_sum_of_weights(table) if "sum_of_weights" in table.values else None,
        trigger_efficiency=_trigger_efficiency(table) or ({} if is_data else shared["trigger_efficiency"]),
    )
    _check(table, dataset)
    if not is_data:
        _check_weights(table, dataset, shared["schema"])
    table.finish()
    return dataset


def _process(table: TomlTable) -> str:
    process = table.text("process")
    plain = process.strip().casefold()
    if plain == "prediction":  # a name that the results use themselves
        raise table.error("process", "another name: 'prediction' is the sum of all simulated processes", process)
    if plain == "data" and process != "data":
        raise table.error("process", 'exactly "data" for collision data, another name for simulation', process)
    return process


def _check(table: TomlTable, dataset: Dataset) -> None:
    """Raise `CampaignError` for keys that are missing, or do not go together."""
    if not dataset.files and not dataset.index:
        raise table.error("file", "at least one file, as [[dataset.file]] or file = [{ url = … }]", MISSING)
    if dataset.files and dataset.index:
        expected = "no such key beside `file`: list those files in a dataset of their own"
        raise table.error("index", expected, table.values["index"])
    for key in ("cross_section_pb", "scale", "weight", "sum_of_weights", "trigger_efficiency"):
        if dataset.is_data and getattr(dataset, key) not in (None, 1.0, {}):
            expected = 'no such key: data has weight 1 (for simulation give another process than "data")'
            raise table.error(key, expected, getattr(dataset, key))
    if not dataset.is_data and dataset.runs is not None:
        raise table.error("runs", "no such key: only data have runs", list(dataset.runs))
    if not dataset.is_data and dataset.cross_section_pb is None:
        why = f"as process '{dataset.process}' is simulation (collision data: process = \"data\")"
        raise table.error("cross_section_pb", f"the cross section in pb, {why}", MISSING)


def _weight(table: TomlTable) -> str | None:
    """Return the weight of a simulated event as it is written normally."""
    text = table.optional(table.text, "weight")
    if text is None:
        return None
    try:
        return parse_expression(text, kind="number").text
    except SelectionError as error:
        raise table.error("weight", f"a number for each event; {error.message}", text, error.hint) from None


def _check_weights(table: TomlTable, dataset: Dataset, schema: str) -> None:
    """Raise `CampaignError` for weights that a schema does not have, or without which its files mean nothing."""
    for key in ("weight", "sum_of_weights"):
        given = getattr(dataset, key)
        if schema == "csv" and given is not None:
            raise table.error(key, "no such key: events of a table have no weights", given)
        if schema == "atlas" and given is None:
            what = {
                "weight": "the weight of an event, such as 'mcWeight * scaleFactor_PILEUP'",
                "sum_of_weights": "that of all generated events, as a number or the column that holds it",
            }
            raise table.error(key, f"{what[key]}: simulation of ATLAS is weighted and skimmed", MISSING)


def _trigger_efficiency(table: TomlTable) -> dict[str, dict[str, float]]:
    """Return the efficiency of a trigger by channel and primary dataset."""
    if "trigger_efficiency" not in table.values:
        return {}
    channels = table.table("trigger_efficiency")
    found: dict[str, dict[str, float]] = {}
    for channel in channels.values:
        if channel not in CHANNELS:
            raise channels.error(channel, f"no such channel: they are {', '.join(CHANNELS)}", channels.values[channel])
        one = channels.table(channel)
        found[channel] = {primary: one.number(primary, above=0) for primary in one.values}
        for primary, efficiency in found[channel].items():
            if efficiency > 1:
                raise one.error(primary, "an efficiency of at most 1", efficiency)
    return found


def _runs(table: TomlTable) -> tuple[int, int]:
    """Return the first and the last run of an era."""
    given = table.get("runs")
    whole = isinstance(given, list) and len(given) == 2 and all(type(run) is int for run in given)
    if not whole or not 0 < given[0] <= given[1] < 2**31:
        raise table.error("runs", "the first and the last run, as [278820, 280385]", given)
    return given[0], given[1]


def _sum_of_weights(table: TomlTable, key: str = "sum_of_weights") -> float | str:
    """Return a number, or the name of the column that holds it."""
    given = table.get(key)
    if not isinstance(given, str):
        return table.number(key, above=0, largest=LARGEST_SUM)
    if not re.fullmatch(COLUMN_NAME, given):
        raise table.error(key, "a number above 0 or the name of a column", given)
    return given


def _locations(table: TomlTable, key: str, folder: Path) -> tuple[str, ...]:
    return tuple(table.location(key, folder, text) for text in table.texts(key))


def _listed(table: TomlTable, folder: Path) -> File:
    """Return an index or document; of one on a server size and checksum have to be stated, to notice another."""
    file = File(
        url=table.location("url", folder),
        alternatives=_locations(table, "alternatives", folder),
        bytes=table.optional(table.integer, "bytes", least=1),
        adler32=table.optional(table.checksum, "adler32"),
    )
    if Address.of(file.url).is_remote and file.is_unmarked:
        missing = "bytes" if file.bytes is None else "adler32"
        raise table.error(missing, f"the {missing} of a list on a server, as its record says", MISSING)
    table.finish()
    return file


def _file(table: TomlTable, folder: Path, friends: tuple[str, ...]) -> File:
    """Return a file; ``friends`` are the templates of its dataset."""
    file = File(
        url=table.location("url", folder),
        alternatives=_locations(table, "alternatives", folder),
        friends=_locations(table, "friends", folder),
        events=table.optional(table.integer, "events", most=MOST_EVENTS),
        bytes=table.optional(table.integer, "bytes", least=1),
        adler32=table.optional(table.checksum, "adler32"),
    )
    table.finish()
    return file.with_friends(friends)


def _check_datasets(campaign: Campaign, label: str) -> None:
    """Raise `CampaignError` for a name that is listed twice, or a primary dataset that the campaign does not have."""
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
    known = {dataset.primary_dataset for dataset in campaign.datasets if dataset.is_data} | set(order)
    for dataset in campaign.datasets:
        for primary in (name for channel in dataset.trigger_efficiency.values() for name in channel):
            if primary not in known:
                what = f"{label}: dataset '{dataset.name}': trigger_efficiency: no data of primary dataset '{primary}'"
                raise CampaignError(what, did_you_mean(primary, [name for name in known if name]))
