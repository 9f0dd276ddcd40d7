"""The datasets of the simulated campaign: blocks of simulated events, and of pseudo-data behind emulated triggers."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from higgsnb.datasets.toy.collisions import (
    Particles,
    higgs_collisions,
    merge,
    pick,
    rejected_collisions,
    spoil_surplus,
    with_soft,
    zx_collisions,
    zz_collisions,
)
from higgsnb.datasets.toy.detector import Block, detect, turn_on
from higgsnb.datasets.toy.physics import BLOCK, Array

LUMINOSITY_FB = 11.58


@dataclass(frozen=True)
class ToyDataset:
    """One file of the campaign.

    ``cross_section_pb`` is after the generator filter and before ``scale``; ``events`` is the number simulated in the
    default campaign (data: None, because the trigger decides; the manifest has the number kept).
    """

    name: str
    process: str
    primary_dataset: str | None
    cross_section_pb: float | None
    scale: float
    events: int | None

    @property
    def expected(self) -> float:
        """Expected number of generated events at the campaign's luminosity."""
        return 1000.0 * LUMINOSITY_FB * self.scale * (self.cross_section_pb or 0.0)


DATASETS: tuple[ToyDataset, ...] = (
    ToyDataset("SMHiggsToZZTo4L", "higgs", None, 0.0065, 1.0, 30_000),
    ToyDataset("ZZTo4mu", "zz", None, 0.0152, 1.386, 12_000),
    ToyDataset("ZZTo4e", "zz", None, 0.0152, 1.386, 16_000),
    ToyDataset("ZZTo2e2mu", "zz", None, 0.0311, 1.386, 12_000),
    ToyDataset("ReducibleZX", "zx", None, 0.07, 1.0, 10_000),
    ToyDataset("Run2012_DoubleMu", "data", "DoubleMu", None, 1.0, None),
    ToyDataset("Run2012_DoubleElectron", "data", "DoubleElectron", None, 1.0, None),
)
REJECTED = 50_000  # two- and three-lepton collisions around the four-lepton pseudo-data
# (run, first, last): certified ranges of lumi sections of 2012B and C, from the public golden JSON of 2012.
RUNS: tuple[tuple[int, int, int], ...] = (
    (194050, 816, 1435), (194151, 240, 617), (194429, 413, 742), (194480, 959, 1402), (194533, 46, 379),
    (194704, 44, 545), (194711, 9, 619), (194712, 61, 418), (194912, 98, 444), (195378, 737, 1120),
    (195398, 1309, 1712), (195552, 1303, 1789), (195656, 1, 362), (195658, 40, 362), (195930, 179, 526),
    (195950, 833, 1587), (196438, 701, 1269), (196452, 114, 490), (196453, 147, 669), (198212, 1, 574),
    (198487, 997, 1434), (199021, 565, 1223), (199336, 234, 614), (199409, 604, 1014), (199435, 699, 1034),
    (199436, 257, 675), (199572, 1, 317), (199608, 464, 800), (199699, 412, 756), (199703, 97, 482),
    (199834, 505, 942), (199877, 175, 605), (200042, 112, 536), (200229, 293, 624), (200473, 740, 1324),
    (200991, 255, 632), (200992, 1, 405), (201173, 197, 586), (201202, 1, 437), (201278, 1306, 1793),
    (201613, 228, 646), (202016, 179, 743), (202045, 75, 528), (202178, 967, 1444), (202237, 540, 936),
    (202272, 937, 1295), (202504, 766, 1172), (202973, 853, 1408),
)  # fmt: skip
EVENTS_PER_SECTION = 2_000_000  # collisions numbered in one lumi section of 23 s: about 90 kHz


def generator(seed: int, dataset: str, block: int, purpose: str) -> np.random.Generator:
    """Make counter-based random numbers for one purpose, whatever the order of calls or the thread."""
    key = (seed, zlib.crc32(dataset.encode()), block, zlib.crc32(purpose.encode()))
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))


def _collisions(rng: np.random.Generator, dataset: ToyDataset, n: int) -> Particles:
    """``n`` collisions of a Monte Carlo dataset's process."""
    if dataset.process == "higgs":
        particles = higgs_collisions(rng, n)
    elif dataset.process == "zx":
        particles = zx_collisions(rng, n)
    else:
        particles = zz_collisions(rng, n, dataset.name)
    return with_soft(rng, particles)


def simulation_blocks(dataset: ToyDataset, n: int, seed: int) -> Iterator[Block]:
    """Yield the Monte Carlo dataset's ``n`` events, at most `BLOCK` at a time."""
    for block, start in enumerate(range(0, n, BLOCK)):
        size = min(BLOCK, n - start)
        particles = _collisions(generator(seed, dataset.name, block, "physics"), dataset, size)
        columns = detect(generator(seed, dataset.name, block, "detector"), particles)
        index = np.arange(start, start + size)
        columns["run"] = np.ones(size, np.int32)
        columns["luminosityBlock"] = (index // 1000 + 1).astype(np.uint32)
        columns["event"] = (index + 1).astype(np.uint64)
        yield columns


def data_blocks(rejected: int, seed: int) -> Iterator[tuple[Block, dict[str, Array]]]:
    """Yield the pseudo-data in order of time: blocks, and per primary dataset which events fired its trigger."""
    signal = _four_lepton_data(seed)
    total = rejected + signal.n_events
    rng = generator(seed, "data", 0, "times")
    times = np.sort(rng.choice(total, signal.n_events, replace=False, shuffle=False))
    for block, start in enumerate(range(0, total, BLOCK)):
        stop = min(start + BLOCK, total)
        first, last = np.searchsorted(times, (start, stop))
        here = times[first:last] - start
        others = np.setdiff1d(np.arange(stop - start), here, assume_unique=True)
        chosen = pick(signal, (signal.event >= first) & (signal.event < last))
        missing = signal.missing[:, first:last]
        chosen = chosen._replace(event=chosen.event - first, n_events=last - first, missing=missing)
        physics = generator(seed, "data", block, "physics")
        rest = spoil_surplus(with_soft(physics, rejected_collisions(physics, len(others))))
        particles = merge(stop - start, [(here, chosen), (others, rest)])
        columns = detect(generator(seed, "data", block, "detector"), particles)
        numbers = _numbers(generator(seed, "data", block, "times"), start, stop, total)
        fired = _triggers(generator(seed, "data", block, "trigger"), columns)
        yield numbers | columns, fired


def _four_lepton_data(seed: int) -> Particles:
    """Every four-lepton collision of the pseudo-data, Poisson numbers of each process, in random order."""
    rng = generator(seed, "data", 0, "four-lepton")
    simulated = [dataset for dataset in DATASETS if dataset.process != "data"]
    parts = [_collisions(rng, dataset, int(rng.poisson(dataset.expected))) for dataset in simulated]
    order = rng.permutation(sum(part.n_events for part in parts))
    starts = np.cumsum([0, *(part.n_events for part in parts)])
    placed = [(order[low : low + part.n_events], part) for low, part in zip(starts, parts, strict=False)]
    return merge(len(order), placed)


def _numbers(rng: np.random.Generator, start: int, stop: int, total: int) -> Block:
    """Give collisions, spread evenly over the luminosity, run, lumi section and event in order of time."""
    lengths = np.array([last - first + 1 for _, first, last in RUNS])
    ends = np.cumsum(lengths)
    ticks = int(ends[-1]) * EVENTS_PER_SECTION
    width = ticks / total
    tick = ((np.arange(start, stop) + 0.9 * rng.random(stop - start)) * width).astype(np.int64)
    section, inside = np.divmod(tick, EVENTS_PER_SECTION)
    which = np.searchsorted(ends, section, side="right")
    offset = section - (ends - lengths)[which]
    return {
        "run": np.array([run for run, _, _ in RUNS], np.int32)[which],
        "luminosityBlock": (np.array([first for _, first, _ in RUNS])[which] + offset).astype(np.uint32),
        "event": (offset * EVENTS_PER_SECTION + inside + 1).astype(np.uint64),
    }


def _triggers(rng: np.random.Generator, columns: Block) -> dict[str, Array]:
    """Draw which collisions fired the trigger of each primary dataset."""
    return {name: rng.random(len(chance)) < chance for name, chance in trigger_chances(columns).items()}


def trigger_chances(columns: Block) -> dict[str, Array]:
    """Return for each primary dataset how likely collisions are to fire its emulated dilepton trigger, (n_events,).

    Two muons above about 17 and 8 GeV, two electrons above about 17 and 12. ``columns`` are those of a `Block`.
    """
    chances = {}
    for primary_dataset, name, thresholds, width, plateau in (
        ("DoubleMu", "Muon", (17.0, 8.0), 0.6, 0.99),
        ("DoubleElectron", "Electron", (17.0, 12.0), 0.8, 0.99),
    ):
        counts, pt = columns[f"n{name}"], columns[f"{name}_pt"]
        starts = np.cumsum(counts) - counts
        chance = np.full(len(counts), plateau)
        for rank, threshold in enumerate(thresholds):
            there = counts > rank
            chance[~there] = 0.0
            chance[there] *= turn_on(pt[starts[there] + rank], threshold, width)
        chances[primary_dataset] = chance
    return chances


def select_events(block: Block, keep: Array) -> Block:
    """Keep the events of a block under a mask, flat lepton columns included."""
    muons, electrons = np.repeat(keep, block["nMuon"]), np.repeat(keep, block["nElectron"])
    masks = {"Muon": muons, "Electron": electrons}
    return {name: values[masks.get(name.split("_")[0], keep)] for name, values in block.items()}
