"""Analyses drawn from seeds, small files for them, and an oracle: the same numbers in plain Python and fractions.

What is drawn is data, `Drawn`; one function for each form makes an analysis of it, `oracle` counts it event by event.
The functions use only operations that are exact in IEEE arithmetic, so that both agree to the last bit.
"""

from __future__ import annotations

import hashlib
import math
import tempfile
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import awkward as ak
import numpy as np
import uproot
from outreach import campaign, dataset

import higgsnb as hn
from higgsnb import results
from higgsnb.datasets import Campaign, Chunk
from higgsnb.results import Result

REGIONS = ("low", "high", "charged")
COLUMNS = ("MET_pt", "HLT_Mu", "Muon_pt", "Muon_eta", "Muon_charge")
DATA = ("DoubleMu", "DoubleElectron")


class Drawn(NamedTuple):
    """An analysis as data: everything that its function captures."""

    form: str
    pt: float
    eta: float
    least: int
    low: float
    high: float
    weights: tuple[tuple[str, float, float, float], ...]
    """Sources of uncertainty: name, slope of the nominal factor with the missing pT, factors up and down."""
    trigger: float
    """Slope of a factor without uncertainty; 0: there is none."""
    shift: float
    chosen: str
    """How the events are given back: "mask", "index", "shuffled", "records"."""


def draw(seed: int) -> tuple[Drawn, dict[str, Any]]:
    """What the function of an analysis captures, and the options of the analysis."""
    rng = np.random.default_rng([14, seed])
    form = ("awkward", "flat")[seed % 2]
    names = [name for name in ("pileup", "scale", "efficiency") if rng.random() < 0.6]
    sources = tuple((name, float(rng.choice([0, 1, 3])) / 64, 1.25, 0.75) for name in names)
    chosen = str(rng.choice(["mask", "index", "shuffled", "records" if form == "awkward" else "mask"]))
    shift, trigger = float(rng.choice([0.0, 0.125])), float(rng.choice([0.0, 2.0**-8]))
    drawn = Drawn(
        form, float(rng.uniform(3, 12)), float(rng.uniform(1.5, 2.4)), int(rng.integers(1, 3)),
        float(rng.uniform(20, 40)), float(rng.uniform(25, 60)), sources, trigger, shift, chosen,
    )  # fmt: skip
    axes = [hn.Axis("ht", int(rng.integers(5, 60)), 0, float(rng.uniform(60, 200)), unit="GeV")]
    if rng.random() < 0.7:
        axes.append(hn.Axis("pt", [0, 5, 10, 20, 50, 100], per_event=int(rng.integers(drawn.least, 4))))
    variations: list[Any] = [*names, *[hn.Shift("momentum", {"Muon_pt": (1 + shift, 1 - shift)})] * bool(shift)]
    return drawn, {
        "columns": COLUMNS, "axes": axes, "form": form, "variations": variations,
        "regions": {"low": ["muons", "sum"], "high": [], "charged": ["charge"]},
        "preselection": str(rng.choice(["", "nMuon >= 1", "nMuon >= 1 and MET_pt > 4", "HLT_Mu or nMuon > 2"])),
        "keep": [name for name in ("ht", "n") if rng.random() < 0.5],
        "primary_datasets": {"high": ["DoubleMu"]} if rng.random() < 0.4 else {},
    }  # fmt: skip


def analysis(seed: int) -> hn.Analysis:
    """The analysis of a seed."""
    drawn, options = draw(seed)
    make = awkward_function if drawn.form == "awkward" else flat_function
    return hn.Analysis(f"drawn {seed}", make(drawn), **options)


def finished(drawn: Drawn, n: int, index: Any, events: Any, found: dict[str, Any]) -> hn.Selected:
    """What a function returns of all it has worked out: arrays of the events at ``index``, of ``n``."""
    order = np.arange(len(index))
    if drawn.chosen == "shuffled":
        order = np.argsort(-found["ht"], kind="stable")
    elif drawn.chosen == "mask":
        events = np.isin(np.arange(n), index)
    if drawn.chosen in ("index", "shuffled"):
        events = index[order]
    met, ht = found["met"][order], found["ht"][order]
    low, high = ht < drawn.low, ht > drawn.high
    weights: dict[str, Any] = {"trigger": 0.5 + met * drawn.trigger} if drawn.trigger else {}
    for name, slope, up, down in drawn.weights:
        nominal = 1 + met * slope
        weights[name] = (nominal, nominal * up, nominal * down)
    pt = found["pt"][order]
    return hn.Selected(
        events, ht=ht, pt=pt, n=found["n"][order], weights=weights,
        regions={"low": [found["n"][order] > 1, low], "high": high, "charged": found["charge"][order] != 0},
    )  # fmt: skip


def awkward_function(drawn: Drawn) -> Callable[[Any], hn.Selected]:
    """The function of an analysis on records."""

    def function(events: Any) -> hn.Selected:
        muons = events.Muon[(events.Muon.pt > drawn.pt) & (abs(events.Muon.eta) < drawn.eta)]
        enough = ak.to_numpy(ak.num(muons) >= drawn.least)
        left, muons = events[enough], muons[enough]
        pt = ak.values_astype(muons.pt, np.float64)
        first = ak.fill_none(ak.pad_none(pt, 3, clip=True), 0.0)
        found = {
            "met": np.asarray(left.MET_pt, np.float64),
            "ht": np.asarray(first[:, 0] + first[:, 1] + first[:, 2]),
            "n": np.asarray(ak.num(muons)),
            "charge": np.asarray(ak.sum(muons.charge, axis=1)),
            "pt": pt[:, : drawn.least],
        }
        return finished(drawn, len(events), np.flatnonzero(enough), left, found)

    return function


def flat_function(drawn: Drawn) -> Callable[[Any], hn.Selected]:
    """The function of an analysis on flat columns."""

    def function(columns: Any) -> hn.Selected:
        offsets, n = columns.offsets["Muon"], len(columns.entry)
        event = np.repeat(np.arange(n), np.diff(offsets))
        good = (columns["Muon_pt"] > drawn.pt) & (abs(columns["Muon_eta"]) < drawn.eta)
        counts = np.bincount(event[good], minlength=n)
        index = np.flatnonzero(counts >= drawn.least)
        firsts = (np.cumsum(counts) - counts)[index]
        values = np.append(columns["Muon_pt"][good].astype(np.float64), [0.0] * 3)
        pt = np.stack([np.where(counts[index] > k, values[firsts + k], np.nan) for k in range(3)], axis=1)
        sums = np.nan_to_num(pt)
        charge = np.bincount(event[good], columns["Muon_charge"][good], minlength=n)[index]
        found = {
            "met": columns["MET_pt"][index].astype(np.float64), "ht": sums[:, 0] + sums[:, 1] + sums[:, 2],
            "n": counts[index], "charge": charge, "pt": pt[:, : drawn.least],
        }  # fmt: skip
        return finished(drawn, n, index, None, found)

    return function


# --- Files


def write_files(folder: Path, *, events: int = 240, seed: int = 3) -> Campaign:
    """A campaign of five small files: data of two primary datasets that share events, and signed simulation."""
    rng = np.random.default_rng(seed)
    everything = [_columns(rng, events, first=0), *(_columns(rng, events, first=10_000 * k) for k in range(1, 4))]
    shared = {name: column[events // 3 :] for name, column in everything[0].items()}
    more = _columns(rng, events // 2, first=900)
    second = {name: ak.concatenate([shared[name], more[name]]) for name in shared}
    weights = [rng.choice([-1, 1, 1], events) * rng.lognormal(k, 1.5, events) for k in (9, -3, 0)]
    runs = {"genEventCount": np.array([2 * events, events]), "genEventSumw": np.array([3e5, 5e5])}
    write(folder / "mu.root", everything[0], basket=71)
    write(folder / "e.root", second, basket=100)
    for number, (columns, drawn) in enumerate(zip(everything[1:], weights, strict=True)):
        stated = runs if number == 0 else None
        weighted = columns | {"genWeight": ak.Array(drawn.astype(np.float32))}
        write(folder / f"mc{number}.root", weighted, basket=64 + number, runs=stated)
    return campaign_in(folder)


def campaign_in(folder: Path) -> Campaign:
    """The campaign of these files."""
    return campaign(
        dataset("mu", "data", folder / "mu.root", primary_dataset="DoubleMu"),
        dataset("e", "data", folder / "e.root", primary_dataset="DoubleElectron"),
        dataset("zz", "zz", folder / "mc0.root", folder / "mc1.root", cross_section_pb=0.3),
        dataset("higgs", "higgs", folder / "mc2.root", cross_section_pb=0.01),
        schema="nanoaod",
    )


def digest(result: Result, folder: Path) -> str:
    """One sha256 of the histograms, of the rows, and of everything in ``result.json`` but how the run went."""
    results.write(result, folder, run={})
    names = ("histograms.json", "candidates.parquet", "result.json")
    return hashlib.sha256(b"".join((folder / name).read_bytes() for name in names)).hexdigest()


def _columns(rng: np.random.Generator, n: int, *, first: int) -> dict[str, Any]:
    counts = rng.choice(5, n, p=[0.15, 0.2, 0.3, 0.25, 0.1])
    total = int(counts.sum())
    flat = {
        "pt": (rng.exponential(15, total) + 3).astype(np.float32),
        "eta": rng.uniform(-2.6, 2.6, total).astype(np.float32),
        "charge": rng.choice([-1, 1], total).astype(np.int32),
    }
    return {
        "run": ak.Array(np.full(n, 194_000, np.uint32)),
        "luminosityBlock": ak.Array(((first + np.arange(n)) // 40).astype(np.uint32)),
        "event": ak.Array((first + np.arange(n) + 2**40).astype(np.uint64)),
        "MET_pt": ak.Array(rng.exponential(12, n).astype(np.float32)),
        "HLT_Mu": ak.Array(rng.random(n) < 0.6),
        "Muon": ak.zip({name: ak.unflatten(values, counts) for name, values in flat.items()}),
    }


def write(path: Path, columns: dict[str, Any], *, basket: int = 10**9, runs: dict[str, Any] | None = None) -> Path:
    """Write a TTree ``Events`` in clusters of ``basket`` events, and maybe ``Runs``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with uproot.recreate(path, compression=uproot.ZLIB(1)) as file:
        tree = file.mktree("Events", {name: ak.type(values).content for name, values in columns.items()})
        for start in range(0, len(columns["run"]), basket):
            tree.extend({name: values[start : start + basket] for name, values in columns.items()})
        if runs is not None:
            file["Runs"] = {name: np.asarray(values) for name, values in runs.items()}
    return path


def warm_up() -> None:
    """Import and compile what a run of such an analysis needs, without a thread."""
    with tempfile.TemporaryDirectory() as folder:
        made = write_files(Path(folder), events=60)
        for index, part in enumerate(made.datasets):
            chunk = Chunk(
                part.name, index, 0, part.files[0], "nanoaod", part.primary_dataset, part.is_data, 0, 20, None
            )
            for seed in (0, 1):
                tally = results.analyse(chunk, analysis(seed).pinned())
        results.document(Result(made, analysis(1), tally))


# --- The oracle

Bins = dict[tuple[str, str, str, int], Any]
"""By dataset, copy, region and place in the flat array of `Binning`."""


class Counts(NamedTuple):
    """What an analysis counts: events, Σw and Σw² as fractions."""

    events: Bins
    weights: Bins
    squares: Bins


def oracle(made: Campaign, seed: int) -> Counts:
    """Count the analysis of a seed in plain Python, from the files as uproot reads them."""
    drawn, options = draw(seed)
    one = analysis(seed)
    counts, seen = Counts({}, {}, {}), set()
    for data in (True, False):
        for part in sorted((d for d in made.datasets if d.is_data == data), key=lambda d: d.name != "mu"):
            for file in part.files:
                for event in _events(Path(file.url)):
                    _count(drawn, options, one, part, event, counts, seen)
    return counts


def _events(path: Path) -> list[dict[str, Any]]:
    """The events of a file, with the generator weight as a fraction, and the unit to which weights are rounded."""
    with uproot.open(path) as file:
        found = file["Events"].arrays().to_list()
    sizes = [abs(event["genWeight"]) for event in found if event.get("genWeight")][:1000]
    unit = Fraction(2) ** (math.floor(math.log2(float(np.median(sizes)))) - 24) if sizes else Fraction(1)
    return [{**event, "unit": unit} for event in found]


def _count(
    drawn: Drawn, options: dict[str, Any], one: hn.Analysis, part: Any, event: Any, counts: Counts, seen: Any
) -> None:
    met, n = event["MET_pt"], event["nMuon"]
    passed = {
        "": True, "nMuon >= 1": n >= 1, "nMuon >= 1 and MET_pt > 4": n >= 1 and met > 4,
        "HLT_Mu or nMuon > 2": event["HLT_Mu"] or n > 2,
    }[options["preselection"]]  # fmt: skip
    ways = [(0, 1.0)]
    if drawn.shift and not part.is_data:
        ways += [
            (one.copies.index(f"momentum_{way}"), 1 + sign * drawn.shift) for way, sign in (("up", 1), ("down", -1))
        ]
    for copy, scale in ways if passed else ():
        pt = [float(np.float32(value) * np.float32(scale)) for value in event["Muon_pt"]]
        good = [
            i for i in range(n) if pt[i] > np.float32(drawn.pt) and abs(event["Muon_eta"][i]) < np.float32(drawn.eta)
        ]
        if len(good) < drawn.least:
            continue
        first = [pt[i] for i in good[:3]] + [0.0] * 3
        values = {"ht": [first[0] + first[1] + first[2]], "pt": [pt[i] for i in good[: drawn.least]]}
        charge = sum(event["Muon_charge"][i] for i in good)
        inside = {
            "low": len(good) > 1 and values["ht"][0] < drawn.low, "high": values["ht"][0] > drawn.high,
            "charged": charge != 0,
        }  # fmt: skip
        for region in (name for name in REGIONS if inside[name]):
            identity = event["run"], event["luminosityBlock"], event["event"], region
            taken = options["primary_datasets"].get(region, DATA)
            if part.is_data and (part.primary_dataset not in taken or identity in seen):
                continue
            seen |= {identity} if part.is_data else set()
            places = _places(one, values)
            for place in places if not copy else ():
                key = part.name, "nominal", region, place
                counts.events[key] = counts.events.get(key, 0) + 1
            for name, weight in _weights(drawn, one, event, met, copy).items() if not part.is_data else ():
                for place in places:
                    key = part.name, name, region, place
                    counts.weights[key] = counts.weights.get(key, Fraction(0)) + weight
                    counts.squares[key] = counts.squares.get(key, Fraction(0)) + weight**2


def _places(one: hn.Analysis, values: dict[str, list[float]]) -> list[int]:
    """Where an event is filled, in the flat array of all axes."""
    found, start = [], 0
    for axis in one.binning.axes:
        found += [
            start + sum(value >= edge for edge in axis.edges.tolist()) for value in values[axis.name][: axis.per_event]
        ]
        start += axis.bins + 2
    return [*found, start]


def _weights(drawn: Drawn, one: hn.Analysis, event: Any, met: float, copy: int) -> dict[str, Fraction]:
    """The weights of an event in each copy that is filled with its momenta as they are in ``copy``."""
    base = Fraction(event["genWeight"]) * (Fraction(0.5 + met * drawn.trigger) if drawn.trigger else 1)
    nominal = {name: Fraction(1 + met * slope) for name, slope, *_ in drawn.weights}
    factors = {"nominal": math.prod(nominal.values(), start=base)}
    if copy:
        factors = {one.copies[copy]: factors["nominal"]}
    else:
        for name, slope, *pair in drawn.weights:
            rest = math.prod((value for other, value in nominal.items() if other != name), start=base)
            for way, factor in zip(("up", "down"), pair, strict=True):
                factors[f"{name}_{way}"] = rest * Fraction((1 + met * slope) * factor)
    return {name: round(value / event["unit"]) * event["unit"] for name, value in factors.items()}


def counted(result: Result) -> Counts:
    """What a result counted, in the form of the oracle: zeros are left out, fractions are those of the exact sums."""
    found = Counts({}, {}, {})
    for name, array in result.counts.items():
        for region, place in np.argwhere(array):
            found.events[name, "nominal", result.regions[region], int(place)] = int(array[region, place])
    for (index, exponent), everything in result.tally.weighted.items():
        array = everything[..., : result.layout.binning.size]  # behind it is the cutflow
        name, unit = result.campaign.datasets[index].name, Fraction(2) ** (exponent - 24)
        for copy, region, place in np.argwhere((array != 0).any(axis=1)):
            key = name, result.layout.copies[copy], result.regions[region], int(place)
            weight, *digits = (int(value) for value in array[copy, :, region, place])
            square = sum(digit << 20 * k for k, digit in enumerate(digits))
            found.weights[key] = found.weights.get(key, Fraction(0)) + weight * unit
            found.squares[key] = found.squares.get(key, Fraction(0)) + square * unit**2
    return found
