"""The numbers that the cut explorer shows: spectra, yields, cutflow, distributions and single events.

All functions return plain data that can be sent as JSON; the views are in `explorer`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from higgsnb import datasets, plots, results, statistics
from higgsnb.results import AXES, DatasetEvents, PreselectedEvents, Reselection, Table
from higgsnb.selection import CHANNELS, CUT_NAMES, MUON, NUMBERS, Cut, Selection, load, names
from higgsnb.widgets.sliders import CONTROLS, control, without

if TYPE_CHECKING:
    from higgsnb.datasets import Campaign
    from higgsnb.results import Spectrum

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

WINDOW = (118.0, 130.0)
"""Window of the four-lepton mass in GeV whose yields are shown separately."""
BINS = 30
"""Number of bins of the distribution in which a cut is drawn."""
MOST_CANDIDATES = 100
"""At most this many candidates are listed."""
STEPS_DRAWN = 3
"""Of the points of a track, each third is sent to the browser: 15 cm of the detector."""
PLACE = ("dataset", "held", "channel")
"""Identifies a candidate independently of the selection: the arguments of `event`."""


def spectrum(found: Reselection, name: str) -> dict[str, Any]:
    """Return one spectrum, channels summed: expected events of each process, and the data with their errors.

    ``data`` is None for a campaign without data; ``low`` and ``high`` are central 68.27 % Poisson limits (Garwood).
    """
    axis = next(axis for axis in AXES if axis.name == name)
    return {"name": name, "label": axis.title, "unit": axis.unit, **_shown(found.spectrum(name))}


def _shown(by_channel: Spectrum) -> dict[str, Any]:
    """Return a spectrum, channels summed, as plain data."""
    combined = by_channel.combined()
    processes = {process: heights.tolist() for process, heights in combined.stack.items()}
    shown = {"edges": combined.edges.tolist(), "processes": processes, "data": None}
    if combined.data is None:
        return shown
    low, high = statistics.garwood(combined.data)
    return shown | {"data": combined.data.tolist(), "low": low.tolist(), "high": high.tolist()}


def yields(found: Reselection) -> list[dict[str, Any]]:
    """Return one row per process, data last: events by channel, in total, and in the window around the Higgs boson."""
    totals = {index: array.sum(axis=1, keepdims=True) for index, array in found.histogram("mass_z1").items()}
    inside = found.spectrum("mass_4l").between(*WINDOW).yields(CHANNELS)
    rows = []
    for process, per_channel in found.normalised([0.0, np.inf], totals).yields(CHANNELS).items():
        channels = {channel: one.expected for channel, one in per_channel.items()}
        window = sum(one.expected for one in inside[process].values())
        rows.append({"process": process, "channels": channels, "all": sum(channels.values()), "window": window})
    return rows


def expected_significance(rows: list[dict[str, Any]], *, lacking: Sequence[str] = ()) -> float | None:
    """Return the expected significance in the window; None without a prediction or if it lacks datasets."""
    if lacking:
        return None
    background = sum(row["window"] for row in rows if row["process"] not in (statistics.SIGNAL, "data"))
    expected = sum(row["window"] for row in rows if row["process"] == statistics.SIGNAL)
    return statistics.asimov_significance(expected, background) if background > 0 and expected > 0 else None


def summary(rows: list[dict[str, Any]], expected: float | None, *, lacking: Sequence[str] = ()) -> str:
    """Return the yields in two sentences for screen readers, and a third one if the prediction lacks datasets."""
    texts = []
    for column in ("all", "window"):
        found = [f"{row[column]:.0f} events found" for row in rows if row["process"] == "data"]
        predicted = sum(row[column] for row in rows if row["process"] != "data")
        higgs = sum(row[column] for row in rows if row["process"] == statistics.SIGNAL)
        if len(rows) > len(found):
            found.append(f"{predicted:.1f} expected, {higgs:.1f} of them Higgs bosons")
        texts.append(", ".join(found))
    significance = "" if expected is None else f", expected significance {expected:.1f} σ"
    lack = f" The prediction lacks {', '.join(lacking)}." if lacking else ""
    return f"{texts[0]}. From {WINDOW[0]:g} to {WINDOW[1]:g} GeV: {texts[1]}{significance}.{lack}"


def cutflow(found: Reselection) -> list[dict[str, Any]]:
    """Return one row per cut: the events of each process that pass it and all cuts before it, channels summed.

    The first row counts each event once, the next ones once in each channel for which it has enough leptons.
    """
    flows = {index: array.astype(np.float64) for index, array in found.cutflow.items()}
    for array in flows.values():
        array[:, Cut.ALL] /= max(1, int(np.count_nonzero(array[:, Cut.ALL])))
    left = found.normalised(range(len(Cut) + 1), flows).combined().by_process()
    return [
        {"cut": CUT_NAMES[cut], "events": {process: float(events[cut]) for process, events in left.items()}}
        for cut in Cut
    ]


def n_minus_one(sample: PreselectedEvents, selection: Selection, cut: str) -> dict[str, Any]:
    """Return the distribution of the quantity that a cut applies to, after all other cuts."""
    one = control(cut)
    found = sample.select(without(selection, cut, sample.loosest), slot="aside")
    edges = np.linspace(*one.axis, BINS + 1)
    counts = {}
    for part in sample.parts:
        values, channels = results.cut_quantity(part, found, cut)
        bins = np.searchsorted(edges, values, side="right") + channels * (BINS + 2)
        counts[part.dataset] = np.bincount(bins, minlength=len(CHANNELS) * (BINS + 2)).reshape(-1, BINS + 2)[:, 1:-1]
    return {
        "cut": cut,
        "label": f"{one.quantity} [{one.unit}]" if one.unit else one.quantity,
        "unit": one.unit,
        **_shown(found.normalised(edges, counts)),
        "keeps": "above" if one.is_lower_limit else "below",
        "yields": {row["process"]: row["all"] for row in yields(found)},
    }


def candidates(found: Reselection, name: str, number: int) -> dict[str, Any]:
    """Return the candidates in one bin of a spectrum, data first, at most `MOST_CANDIDATES`; ``place`` as `PLACE`."""
    index = [axis.name for axis in AXES].index(name)
    first = sum(axis.bins + 2 for axis in AXES[:index])
    datasets = found.events.campaign.datasets
    parts = sorted(found.events.parts, key=lambda part: not datasets[part.dataset].is_data)
    listed: list[dict[str, Any]] = []
    total = 0
    for part in parts:
        rows = found.pairings[part.dataset].rows[found.selected[part.dataset][:, 1]]
        inside = np.flatnonzero(rows["bins"][:, index] == first + 1 + number)
        total += len(inside)
        listed += [_listed(part, found, int(n)) for n in inside[: MOST_CANDIDATES - len(listed)]]
    return {"bin": number, "total": total, "rows": listed}


def _listed(part: DatasetEvents, found: Reselection, n: int) -> dict[str, Any]:
    """Return the entry of the n-th selected candidate in the list."""
    event, row = found.selected[part.dataset][n]
    dataset = found.events.campaign.datasets[part.dataset]
    pairing = found.pairings[part.dataset].rows[row]
    return {
        "place": [part.dataset, int(event), int(pairing["channel"])],
        "process": dataset.process,
        "name": f"{part.run[event]}:{part.luminosity_block[event]}:{part.event[event]}",
        "channel": CHANNELS[pairing["channel"]],
        **{mass: round(float(pairing[mass]), 2) for mass in ("mass_4l", "mass_z1", "mass_z2")},
    }


def event(found: Reselection, dataset: int, held: int, channel: int) -> dict[str, Any] | None:
    """Return one candidate with its four leptons for the event display; None if the selection rejects it.

    ``dataset``, ``held`` and ``channel`` are the indices of the dataset, of the event in memory, and of the channel.
    """
    for part in found.events.parts:
        picked = found.selected[part.dataset]
        mine = (picked[:, 0] == held) & (found.pairings[part.dataset].rows["channel"][picked[:, 1]] == channel)
        if part.dataset == dataset and mine.any():
            n = int(np.argmax(mine))
            legs = part.preselected.leptons[results.legs_of(part, found)[n]]
            rows = zip(legs["pt"], legs["eta"], legs["phi"], legs["charge"], legs["flavour"], strict=True)
            leptons = [_lepton(i, *map(float, row)) for i, row in enumerate(rows)]
            return _listed(part, found, n) | {"leptons": leptons}
    return None


def event_of(table: Table, row: int, processes: list[str]) -> dict[str, Any]:
    """Return one row of ``result.candidates`` in the form of `event`; ``processes`` are those of the datasets.

    Raise IndexError if there is no such row.
    """
    n = len(table.run)
    if not 0 <= row < n:
        raise IndexError(f"row = {row}; this result has {n} candidates, numbered from 0")
    columns = (table.pt, table.eta, table.phi, table.charge, np.abs(table.pdg_id))
    leptons = zip(*(column[row] for column in columns), strict=True)
    return {
        "place": [int(table.dataset[row]), row],
        "process": processes[table.dataset[row]],
        "name": f"{table.run[row]}:{table.luminosity_block[row]}:{table.event[row]}",
        "channel": CHANNELS[table.channel[row]],
        **{mass: round(float(getattr(table, mass)[row]), 2) for mass in ("mass_4l", "mass_z1", "mass_z2")},
        "leptons": [_lepton(i, *map(float, lepton)) for i, lepton in enumerate(leptons)],
    }


def _lepton(index: int, pt: float, eta: float, phi: float, charge: float, flavour: float) -> dict[str, Any]:
    """Return one lepton of a candidate, with points of its track in metres; the first two leptons are those of Z1."""
    x, y, z = plots.track(pt, eta, phi, int(charge), leaves=flavour == MUON)
    points = np.round(np.stack([x, y, z], axis=1), 3)
    return {
        "pt": round(pt, 3), "eta": round(eta, 4), "phi": round(phi, 4), "charge": int(charge),
        "flavour": "muon" if flavour == MUON else "electron", "pair": 1 if index < 2 else 2,
        "track": [*points[:-1:STEPS_DRAWN].tolist(), points[-1].tolist()],
    }  # fmt: skip


def changes(base: Selection, selection: Selection) -> dict[str, float]:
    """Return the cuts in which a selection differs from the one it started from."""
    values = {one.cut: getattr(selection, one.cut) for one in CONTROLS}
    return {cut: value for cut, value in values.items() if value != getattr(base, cut)}


def campaign_code(campaign: Campaign) -> str:
    """Return the line of Python that loads a campaign by name or from its file, or a comment if it has neither."""
    if campaign.name in datasets.names() and datasets.load(campaign.name).digest == campaign.digest:
        return f"campaign = hn.datasets.load({campaign.name!r})"
    if campaign.source:
        return f"campaign = hn.datasets.load({campaign.source!r})"
    return f"# campaign = {campaign.name!r} exists in memory only"


@cache
def _shipped() -> tuple[Selection, ...]:
    return tuple(map(load, names()))


def snippet(loading: str, selection: Selection) -> str:
    """Return Python code that repeats the analysis with a selection, made from the closest shipped one.

    ``loading`` is from `campaign_code`.
    """
    same = [one for one in _shipped() if one.algorithm == selection.algorithm]
    base = min(same, key=lambda one: one.name != selection.name)
    values = {name: getattr(selection, name) for name in ("name", *NUMBERS)}
    changed = ", ".join(f"{name}={value!r}" for name, value in values.items() if value != getattr(base, name))
    return (
        "import higgsnb as hn\n\n"
        f"{loading}\n"
        f"selection = hn.selection.load({base.name!r}){f'.replace({changed})' if changed else ''}\n"
        "*_, result = hn.engine.run(campaign, selection)\n"
        "hn.plots.mass_4l(result)\n"
    )
