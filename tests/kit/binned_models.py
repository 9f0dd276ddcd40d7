"""Binned models, and results without files: what was counted is made up."""

from __future__ import annotations

import dataclasses

import numpy as np
from filling import BINNING, Variables, fill
from outreach import campaign, dataset
from scipy import stats

from higgsnb import selection
from higgsnb.datasets import Campaign
from higgsnb.events.schema import FileInfo
from higgsnb.results import Result, Tally
from higgsnb.results.result import Failure
from higgsnb.statistics import Model

EDGES = BINNING.axis("mass_4l").edges
N_SIMULATED = 1000


def one_bin(observed: float, signal: float, background: float, error: float = 0.0) -> Model:
    return many_bins([observed], [signal], [background], [error])


def many_bins(
    observed: list[float], signal: list[float], background: list[float], error: list[float], **options: object
) -> Model:
    n, s, b = (np.array(values, float) for values in (observed, signal, background))
    variance = {"zz": np.array(error, float) ** 2}
    return Model(n, s, np.zeros_like(s), {"zz": b}, variance, use_simulation_error=any(error), **options)  # type: ignore[arg-type]


def peak(mean_signal: float = 12.0, mean_background: float = 3.0, bins: int = 12) -> Model:
    """A peak on a flat background, with data as expected."""
    signal = mean_signal * np.diff(stats.norm.cdf(np.arange(bins + 1), bins / 2, 1.2))
    return many_bins(list(signal + mean_background), list(signal), [mean_background] * bins, [0.0] * bins, key="peak")


def lowest(made: Model, *scales: float) -> float:
    """The strength at which the first prediction vanishes."""
    background = sum(
        values * dict(zip(made.unconstrained, scales, strict=True)).get(name, 1.0)
        for name, values in made.backgrounds.items()
    )
    return -float(min(b / s for b, s in zip(np.asarray(background), made.signal, strict=True) if s > 0))


def random_model(number: int, **options: object) -> Model:
    """A few bins with little simulation, and data drawn from it; with two backgrounds, the first of another size."""
    draws = np.random.default_rng(number)
    n = int(draws.integers(2, 7))
    signal, zz, zx = draws.gamma(0.7, 3, n) + 1e-3, draws.gamma(0.8, 4, n) + 0.05, draws.gamma(1, 1, n) + 0.05
    simulated = np.maximum(1, draws.integers(1, 200) * signal / signal.sum())
    scale = float(draws.choice([0.0, 0.3, 1.0, 3.0])) if options.get("unconstrained") else 1.0
    mean = draws.choice([0, 1, 3]) * signal + scale * zz + zx
    variances = {"zz": zz**2 / draws.integers(10, 100, n), "zx": zx**2 / draws.integers(10, 100, n)}
    observed = draws.poisson(mean).astype(float)
    error = bool(number % 3)
    return Model(
        observed, signal, signal**2 / simulated, {"zz": zz, "zx": zx}, variances, use_simulation_error=error, **options
    )  # type: ignore[arg-type]


def counts(channel: int, masses: list[float]) -> np.ndarray:
    """What is counted of candidates with these masses."""
    n = len(masses)
    mass, lepton = np.array(masses, float), np.full((n, 4), 30.0, np.float32)
    return fill(Variables(np.full(n, channel, np.int8), mass, mass, mass, lepton, lepton))


def result_of(
    one: Campaign, masses: dict[str, list[float]], *, channel: int = 0, missing: tuple[str, ...] = ()
) -> Result:
    """A result with candidates of these masses, all in one channel."""
    index = {d.name: i for i, d in enumerate(one.datasets) if d.name not in missing}
    return Result(
        one,
        selection.load("open2012"),
        Tally(
            ranges={(i, 0): ((0, N_SIMULATED),) for i in index.values()},
            counts={i: counts(channel, masses.get(name, [])) for name, i in index.items()},
        ),
        {(i, 0): FileInfo(N_SIMULATED, "TTree", 1, None) for i in range(len(one.datasets))},
    )


def two_primary_datasets(tmp_path, *, missing: tuple[str, ...], failed: bool = False) -> Result:
    """Flat masses in all channels of simulation; in data those of the primary datasets that have been read."""
    one = campaign(
        dataset("mu", "data", tmp_path / "mu.root", primary_dataset="DoubleMu"),
        dataset("e", "data", tmp_path / "e.root", primary_dataset="DoubleElectron"),
        dataset("higgs", "higgs", tmp_path / "higgs.root", cross_section_pb=0.001),
        dataset("zz", "zz", tmp_path / "zz.root", cross_section_pb=0.004),
    )
    flat, hump = list(np.linspace(70.5, 180.5, 1110)), list(np.linspace(121, 129, 300))
    masses = {"mu": [125.0] * 3, "e": [125.0] * 3, "higgs": hump, "zz": flat}
    part = result_of(one, masses, channel=0, missing=missing)
    more = result_of(one, masses, channel=1, missing=missing)
    filled = {i: part.tally.counts[i] + more.tally.counts[i] for i in part.tally.counts}
    failures = {(0, 0): Failure("mu", "mu.root", "OSError", "gone", "Fetch it again.")} if failed else {}
    return dataclasses.replace(part, tally=dataclasses.replace(part.tally, counts=filled), failures=failures)
