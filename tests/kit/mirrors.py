"""Mirrors of the CERN Open Data portal with small files: those of shipped campaigns, in their form and their places.

A `Mirror` is a folder for ``HIGGSNB_MIRROR`` with a campaign file that differs from the shipped one in sizes, checksums
and totals only, and in simulation that `cms2016` does not list; beside it the events, whose fate is known::

    mirror = cms2016(tmp_path, seed=1)
    monkeypatch.setenv("HIGGSNB_MIRROR", str(mirror.folder))
    campaign = datasets.load(mirror.campaign)
    expected = mirror.expected(known_events.RUN2)
"""

from __future__ import annotations

import random
import re
import uuid
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import Literal

import atlas_files
import nanoaod
from known_events import KnownEvent, atlas_events, cms_events, simulated_events
from portal import HTTPS, XROOTD, adler32, entry, file_index, golden_json, luminosity_table

from higgsnb import datasets
from higgsnb.datasets import Campaign, Dataset

EventId = tuple[int, int, int]


@dataclass(frozen=True)
class Mirror:
    """A folder with what the portal has below ``/``, the campaign that fits it, and what is in the files.

    ``data`` are the events of data, each once; ``copies`` in how many files each is. ``simulated`` are the events of
    each simulated dataset. ``luminosity_fb`` is that of the certified lumi sections of the campaign's eras.
    """

    folder: Path
    campaign: Path
    data: tuple[KnownEvent, ...]
    simulated: dict[str, tuple[KnownEvent, ...]]
    copies: dict[EventId, int] = field(default_factory=dict)
    luminosity_fb: float = 0.0

    def expected(self, requirements: frozenset[str]) -> dict[EventId, KnownEvent]:
        """The events of data that a selection with these requirements keeps."""
        return {event.id: event for event in self.data if event.passes(requirements)}

    def expected_simulation(self, requirements: frozenset[str], dataset: str) -> list[KnownEvent]:
        """The events of a simulated dataset that it keeps."""
        return [event for event in self.simulated[dataset] if event.passes(requirements)]


def _put(folder: Path, address: str, content: bytes) -> bytes:
    """Write what the portal has at an address, by https or xrootd."""
    place = folder / "eos/opendata" / address.removeprefix(HTTPS).removeprefix(XROOTD)
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(content)
    return content


def _shipped(name: str) -> str:
    return (resources.files("higgsnb.datasets") / "campaigns" / f"{name}.toml").read_text(encoding="utf-8")


def _restated(text: str, url: str, content: bytes) -> str:
    """The text of a campaign with size and checksum of the file at an address."""
    stated = rf'(url = "{re.escape(url)}"\n(?:alternatives = .*\n)?)bytes = [\d_]+\nadler32 = "\w+"'
    changed, number = re.subn(stated, rf'\g<1>bytes = {len(content)}\nadler32 = "{adler32(content)}"', text)
    assert number == 1, url
    return changed


def _with_totals(text: str, name: str, **totals: int) -> str:
    """The text with other totals of a dataset, as far as it states them."""
    start = text.index(f'[[dataset]]\nname = "{name}"\n')
    following = text.find("\n[[dataset]]\n", start + 1)
    stop = len(text) if following < 0 else following
    body = text[start:stop]
    for key, value in totals.items():
        body = re.sub(rf"^{key} = [\d_]+$", f"{key} = {value}", body, count=1, flags=re.MULTILINE)
    return text[:start] + body + text[stop:]


def _shared_out(draw: random.Random, events: Sequence[KnownEvent], number: int) -> list[list[KnownEvent]]:
    """Events in a number of files, in order of run and lumi section within each; no file is empty if that can be."""
    files: list[list[KnownEvent]] = [[] for _ in range(number)]
    for place, event in enumerate(draw.sample(list(events), len(events))):
        files[place if place < number else draw.randrange(number)].append(event)
    return [sorted(some, key=lambda event: event.id) for some in files]


# --- CMS

MC_FOLDER = "cms/mc/RunIISummer20UL16NanoAODv9"
MC = {
    "GluGluHToZZTo4L_M125": (
        "higgs",
        37728,
        0.013335,
        "GluGluHToZZTo4L_M125_TuneCP5_13TeV_powheg2_JHUGenV7011_pythia8",
    ),
    "ZZTo4L": ("zz", 75589, 1.256, "ZZTo4L_TuneCP5_13TeV_powheg_pythia8"),
}
"""Simulation that the fixture adds: process, record, cross section in pb, name on the portal."""


def cms2016(
    folder: Path, seed: int, *, events: int = 300, simulated: int = 120, skimmed: float = 1.0,
    only_first: bool = False, planted: int = 0,
) -> Mirror:  # fmt: skip
    """A mirror for `cms2016`: five primary datasets in two eras, 28 indexes, golden JSON, luminosity table, simulation.

    Many events are in several primary datasets, some in all five; with ``only_first`` each is in the first of those
    only, but for so many ``planted`` ones, which every selection keeps: they are in the first two. ``skimmed`` is the
    number of generated events over that in the files of simulation, as their `Runs` trees say.
    """
    draw, text = random.Random(seed), _shipped("cms2016")
    campaign = datasets.load("cms2016")
    certified, recorded = _lumi_sections(draw, campaign)
    golden, table = golden_json(certified), luminosity_table(recorded)
    for location, content in ((campaign.golden_json, golden), (campaign.luminosity_table, table)):
        text = _restated(text, str(location), _put(folder, str(location), content))
    eras = {era: {run: spans for run, spans in certified.items() if _within(era, run)} for era in campaign.runs}
    data: list[KnownEvent] = []
    for number, era in enumerate(campaign.runs):
        drawn = cms_events(seed + number, events // 2, certified=eras[era])
        data += [replace(event, number=2 * event.number + number) for event in drawn]
    if only_first:
        twice = [event.id for event in data if event.fails is None and len(event.primary_datasets) > 1][:planted]
        data = [replace(event, primary_datasets=event.primary_datasets[: 1 + (event.id in twice)]) for event in data]
    for dataset in campaign.datasets:
        assert dataset.runs is not None
        mine = [e for e in data if _within(dataset.runs, e.run) and dataset.primary_dataset in e.primary_datasets]
        text = _fill(draw, folder, text, dataset, mine)
    of_samples = {name: tuple(simulated_events(seed + 10 + n, simulated)) for n, name in enumerate(MC)}
    text += "".join(_simulation(folder, name, some, skimmed) for name, some in of_samples.items())
    path = folder / "cms2016.toml"
    path.write_text(text, encoding="utf-8")
    good = {
        (run, section)
        for run, spans in certified.items()
        for first, last in spans
        for section in range(first, last + 1)
    }
    luminosity = sum(value for key, value in recorded.items() if key in good and any(_within(e, key[0]) for e in eras))
    copies = {event.id: len(event.primary_datasets) for event in data}
    return Mirror(folder, path, tuple(data), of_samples, copies, luminosity)


def _within(era: tuple[int, int], run: int) -> bool:
    return era[0] <= run <= era[1]


def _lumi_sections(
    draw: random.Random, campaign: Campaign
) -> tuple[dict[int, list[tuple[int, int]]], dict[tuple[int, int], float]]:
    """Certified sections and a table of runs in both eras, and of one before them, which counts for nothing."""
    certified, recorded = {}, {}
    for first, last in [(275000, 275900), *campaign.runs]:
        for run in sorted(draw.sample(range(first, last + 1), 3)):
            certified[run] = [(1, 20), (31, 40)]
            recorded |= {(run, section): round(draw.uniform(1e-4, 3e-4), 12) for section in range(1, 46)}
    return certified, recorded


def _fill(draw: random.Random, folder: Path, text: str, dataset: Dataset, events: Sequence[KnownEvent]) -> str:
    """Write the files of a primary dataset and the indexes that list them; return the text with their numbers."""
    totals = {"events": len(events), "n_files": 0, "bytes": 0}
    for index, mine in zip(dataset.index, _shared_out(draw, events, len(dataset.index)), strict=True):
        base, name = index.url.replace(HTTPS, XROOTD).rsplit("/file-indexes/", 1)
        entries = []
        for some in _shared_out(draw, mine, min(2, max(1, len(mine)))):
            uri = f"{base}/{name.split('_')[-3]}/{uuid.UUID(int=draw.getrandbits(128))}.root".replace(" ", "")
            content = _put(folder, uri, _nanoaod(folder, some))
            entries.append(entry(uri, len(content), adler32(content)))
        text = _restated(text, index.url, _put(folder, index.url, file_index(entries)))
        totals["n_files"] += len(entries)
        totals["bytes"] += sum(one["size"] for one in entries)
    return _with_totals(text, dataset.name, **totals)


def _nanoaod(folder: Path, events: Sequence[KnownEvent]) -> bytes:
    """A file of data; it lacks the paths that none of its events has fired, as menus change."""
    fired = {path for event in events for path in event.fired}
    path = nanoaod.write(folder / "made.root", events, paths=sorted(fired or nanoaod.ALL_PATHS[:1]))
    content = path.read_bytes()
    path.unlink()
    return content


def _simulation(folder: Path, name: str, events: Sequence[KnownEvent], generated: float) -> str:
    """Write a simulated dataset, and return the text that describes it."""
    process, record, cross_section, long_name = MC[name]
    base = f"{XROOTD}{MC_FOLDER}/{long_name}/NANOAODSIM/106X_mcRun2_asymptotic_v17-v2"
    path = nanoaod.write(folder / "made.root", events, simulated=True, generated=generated)
    uri = f"{base}/100000/{uuid.UUID(int=record)}.root"
    content = _put(folder, uri, path.read_bytes())
    path.unlink()
    index = f"{base}/file-indexes/CMS_mc_{long_name}_100000_file_index.json"
    listed = _put(folder, index, file_index([entry(uri, len(content), adler32(content))]))
    return f"""
[[dataset]]
name = "{name}"
process = "{process}"
cross_section_pb = {cross_section}
record = {record}
events = {len(events)}
n_files = 1
bytes = {len(content)}
[[dataset.index]]
url = "{index.replace(XROOTD, HTTPS)}"
alternatives = ["{index}"]
bytes = {len(listed)}
adler32 = "{adler32(listed)}"
"""


# --- ATLAS

RUNS = {"A": (297730, 298771), "B": (300345, 300908), "C": (301912, 302391), "D": (302737, 303560)}
"""Some runs by period, for events of data."""


def atlas(
    folder: Path, name: Literal["atlas2020", "atlas2025"], seed: int, *, events: int = 60, vectors: bool = False
) -> Mirror:
    """A mirror for one of the campaigns of ATLAS, with so many events in each file.

    Cross section and sum of weights stand in the files; the latter is that of four times as many generated events. With
    ``vectors`` leptons are in ``std::vector``, as in the public files; else in branches that ``lep_n`` counts.
    """
    release: atlas_files.Release = "2020" if name == "atlas2020" else "2025"
    campaign, text, data = datasets.load(name), _shipped(name), []
    of_samples: dict[str, tuple[KnownEvent, ...]] = {}
    for number, dataset in enumerate(campaign.datasets):
        total = defaultdict[str, int](int)
        for place, file in enumerate(dataset.files):
            runs: Iterable[int] = (
                RUNS["ABCD"[place % 4 if release == "2025" else number % 4]] if dataset.is_data else ()
            )
            some = atlas_events(1000 * seed + 100 * number + place, events, runs=runs)
            some = [replace(event, number=event.number + 1_000_000 * (number + place)) for event in some]
            constants = {} if dataset.is_data else _constants(dataset, some)
            made = folder / "made.root"
            made.parent.mkdir(parents=True, exist_ok=True)
            atlas_files.write(made, some, release, simulated=not dataset.is_data, vectors=vectors, **constants)
            content = _put(folder, file.url, made.read_bytes())
            made.unlink()
            text = _restated(text, file.url, content)
            total["events"], total["bytes"] = total["events"] + len(some), total["bytes"] + len(content)
            if dataset.is_data:
                data += some
            else:
                of_samples[dataset.name] = tuple(some)
                if release == "2020":
                    text = _with_sum(text, dataset.name, constants["sum_of_weights"])
        text = _with_totals(text, dataset.name, **total)
    path = folder / f"{name}.toml"
    path.write_text(text, encoding="utf-8")
    return Mirror(
        folder, path, tuple(data), of_samples, dict.fromkeys((event.id for event in data), 1), campaign.luminosity_fb
    )


def _constants(dataset: Dataset, events: Sequence[KnownEvent]) -> dict[str, float]:
    """What the files of a simulated dataset say of it."""
    generated = 4 * sum(event.weight for event in events)
    if isinstance(dataset.sum_of_weights, str):
        return {"cross_section_pb": 0.8, "k_factor": 1.25, "filter_efficiency": 0.5, "sum_of_weights": generated}
    return {"cross_section_pb": dataset.cross_section_pb or 0.0, "sum_of_weights": generated}


def _with_sum(text: str, name: str, total: float) -> str:
    start = text.index(f'[[dataset]]\nname = "{name}"\n')
    changed = re.sub(
        r"^sum_of_weights = [\d_.]+$", f"sum_of_weights = {total!r}", text[start:], count=1, flags=re.MULTILINE
    )
    return text[:start] + changed
