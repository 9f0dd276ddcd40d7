"""Statistics against closed forms, published numbers, scipy's distributions, and repeated imaginary experiments."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
from outreach import campaign, dataset
from scipy import optimize, stats

from higgsnb import selection, statistics
from higgsnb.datasets import Campaign
from higgsnb.events.schema import FileInfo
from higgsnb.results import Result, Tally, histograms
from higgsnb.results.result import Failure
from higgsnb.statistics import Model
from higgsnb.statistics import fit as fit_

EDGES = histograms.axis("mass_4l").edges
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


def counts(channel: int, masses: list[float]) -> np.ndarray:
    """What is counted of candidates with these masses."""
    n = len(masses)
    mass, lepton = np.array(masses, float), np.full((n, 4), 30.0, np.float32)
    return histograms.fill(histograms.Variables(np.full(n, channel, np.int8), mass, mass, mass, lepton, lepton))


@pytest.fixture
def mixed() -> Campaign:
    """Data, signal and background without any file: the tests make up what was counted. Same names, same toys."""
    return campaign(
        dataset("data", "data", Path("data.root")),
        dataset("higgs", "higgs", Path("higgs.root"), cross_section_pb=0.001),
        dataset("zz", "zz", Path("zz.root"), cross_section_pb=0.004),
    )


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


@pytest.fixture
def excess(mixed: Campaign) -> Result:
    """9 events between 118 and 130 GeV over 4.0 expected, of them 0.01 × 300 signal; flat background elsewhere."""
    flat = list(np.linspace(70.5, 180.5, 1110))
    return result_of(mixed, {"data": [119.0] * 4 + [125.0] * 5 + [150.0] * 7, "higgs": [124.5] * 300, "zz": flat})


# --- Probabilities -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("background", [0.01, 0.7, 3.0, 25.5, 400.0])
@pytest.mark.parametrize("observed", [0, 1, 5, 30, 480])
def test_p_value_is_the_tail_of_scipys_poisson_distribution(observed: int, background: float) -> None:
    expected = stats.poisson.sf(observed - 1, background)
    assert statistics.poisson_p_value(observed, background) == pytest.approx(expected, rel=1e-9)


# The examples of Cousins, Linnemann and Tucker, table 1: events on and off source, ratio of the regions, Z_Bi.
@pytest.mark.parametrize(
    ("on", "off", "tau", "published"),
    [(4, 5, 5.0, 1.66), (6, 18.78, 14.44, 2.63), (9, 17.83, 4.69, 1.82), (17, 40.11, 10.56, 4.46), (50, 55, 2.0, 2.93),
     (67, 15, 0.5, 2.89), (200, 10, 0.1, 2.20)],
)  # fmt: skip
def test_uncertain_background_gives_the_published_significances(
    on: int, off: float, tau: float, published: float
) -> None:
    p_value = statistics.poisson_p_value(on, off / tau, math.sqrt(off) / tau)
    assert statistics.significance(p_value) == pytest.approx(published, abs=0.0051)


def test_uncertain_background_is_the_binomial_tail_of_two_counts() -> None:
    expected = stats.binom.sf(13 - 1, 13 + 20, 1.0 / (1.0 + 4.0))
    assert statistics.poisson_p_value(13, 20 / 4.0, math.sqrt(20) / 4.0) == pytest.approx(expected, rel=1e-9)


def test_a_vanishing_uncertainty_changes_nothing_and_a_growing_one_lowers_the_significance() -> None:
    known = statistics.poisson_p_value(12, 5.0)
    assert statistics.poisson_p_value(12, 5.0, 5e-5) == pytest.approx(known, rel=1e-4)
    p_values = [statistics.poisson_p_value(12, 5.0, error) for error in (0.0, 0.3, 1.0, 3.0)]
    assert p_values == sorted(p_values)


@pytest.mark.parametrize(("sigmas", "p_value"), [(0.0, 0.5), (1.0, 0.158655), (3.0, 1.3499e-3), (5.0, 2.8665e-7)])
def test_significance_is_one_sided(sigmas: float, p_value: float) -> None:
    assert statistics.p_value_of(sigmas) == pytest.approx(p_value, rel=1e-4)
    assert statistics.significance(p_value) == pytest.approx(sigmas, abs=1e-4)


def test_asimov_significance_is_the_formula_of_cowan_et_al_and_tends_to_s_over_root_b() -> None:
    s, b = 10.0, 4.0
    assert statistics.asimov_significance(s, b) == pytest.approx(math.sqrt(2 * ((s + b) * math.log(1 + s / b) - s)))
    assert statistics.asimov_significance(1.0, 1e4) == pytest.approx(1.0 / math.sqrt(1e4), rel=1e-4)


@pytest.mark.parametrize("error", [0.3, 1.0, 2.5])
def test_asimov_significance_with_uncertainty_is_the_profile_likelihood_of_two_counts(error: float) -> None:
    s, b = 6.0, 5.0
    tau = b / error**2
    n, m = s + b, tau * b

    def deviance(background: float) -> float:
        return 2 * (background - n * math.log(background) + tau * background - m * math.log(tau * background))

    none = optimize.minimize_scalar(deviance, bounds=(1e-3, 50), method="bounded", options={"xatol": 1e-9}).fun
    best = 2 * (n - n * math.log(n) + m - m * math.log(m))
    assert statistics.asimov_significance(s, b, error) == pytest.approx(math.sqrt(none - best), rel=1e-6)


def test_asimov_significance_is_the_median_of_repeated_experiments() -> None:
    s, b = 40.0, 100.0
    draws = fit_.generator("median").poisson(s + b, 4000)
    median = np.median([statistics.significance(statistics.poisson_p_value(n, b)) for n in draws])
    assert statistics.asimov_significance(s, b) == pytest.approx(median, abs=0.1)


@pytest.mark.parametrize("wrong", [-1.0, math.nan, math.inf])
def test_impossible_numbers_are_refused(wrong: float) -> None:
    with pytest.raises(ValueError, match=r"background = .*; expected a finite number"):
        statistics.poisson_p_value(3, wrong)
    with pytest.raises(ValueError, match=r"signal = .*; expected a finite number"):
        statistics.asimov_significance(wrong, 2.0)
    with pytest.raises(ValueError, match="expected a probability"):
        statistics.significance(wrong)


def test_without_background_there_is_no_p_value() -> None:
    with pytest.raises(ValueError, match="no background is expected"):
        statistics.poisson_p_value(3, 0.0)
    with pytest.raises(ValueError, match="no background is expected"):
        statistics.asimov_significance(3.0, 0.0)


# --- A window of a result ------------------------------------------------------------------------------------------


def test_window_counts_what_a_hand_would(excess: Result) -> None:
    found = statistics.counting_test(excess)
    # weights: 10 /fb · 4 fb / 1000 = 0.04 a background event, of which 10 a GeV; 0.01 a signal event
    assert (found.observed, found.signal) == (9, pytest.approx(3.0))
    assert found.background == pytest.approx(0.04 * 121, abs=0.05)
    assert found.background_error == pytest.approx(0.04 * math.sqrt(121), rel=0.01)
    assert found.p_value == pytest.approx(stats.poisson.sf(8, found.background))
    assert found.significance == pytest.approx(stats.norm.isf(found.p_value))
    assert found.p_value_uncertain > found.p_value
    assert repr(found).startswith("Window 118-130 GeV: 9 events observed\n  background  4.8")


def test_added_uncertainty_is_relative_and_in_quadrature(excess: Result) -> None:
    plain = statistics.counting_test(excess)
    added = statistics.counting_test(excess, background_uncertainty=0.3)
    assert added.background_error == pytest.approx(math.hypot(plain.background_error, 0.3 * plain.background))
    assert added.p_value == plain.p_value
    assert added.significance_uncertain < plain.significance_uncertain


def test_partial_result_is_tested_and_says_so(excess: Result) -> None:
    part = dataclasses.replace(excess, files={**excess.files, (0, 0): FileInfo(4 * N_SIMULATED, "TTree", 1, None)})
    found = statistics.counting_test(part)
    assert found.background == pytest.approx(statistics.counting_test(excess).background / 4)
    assert "PARTIAL result: 3,000 of 6,000 events" in repr(found)
    assert "PARTIAL" in repr(statistics.fit_signal_strength(part))
    assert "PARTIAL" in repr(statistics.scan_windows(part, n_toys=10))
    assert "PARTIAL" not in repr(statistics.counting_test(excess))


@pytest.mark.parametrize("test", [statistics.counting_test, statistics.fit_signal_strength, statistics.scan_windows])
def test_what_cannot_be_tested_is_refused_by_name(test, mixed: Campaign) -> None:
    data, higgs, zz = mixed.datasets
    with pytest.raises(ValueError, match="campaign 'test' has no data to test"):
        test(result_of(campaign(higgs, zz), {}))
    with pytest.raises(ValueError, match="campaign 'test' has no simulated background"):
        test(result_of(campaign(data, higgs), {}))
    with pytest.raises(KeyError, match="no simulated process 'higgs' in campaign 'test'; it has zz"):
        test(result_of(campaign(data, zz), {}))
    with pytest.raises(ValueError, match="the prediction lacks zz, of which nothing has been read"):
        test(result_of(mixed, {}, missing=("zz",)))
    with pytest.raises(ValueError, match="nothing has been read yet"):
        test(Result(mixed, selection.load("open2012")))
    with pytest.raises(ValueError, match=r"no (background|event|higgs)"):
        test(result_of(mixed, {"data": [125.0]}))


def test_unknown_window_process_histogram_and_edge_name_the_known_ones(excess: Result) -> None:
    with pytest.raises(KeyError, match=r"no window '120-130'; known: 70-181, 80-100"):
        statistics.counting_test(excess, "120-130")
    with pytest.raises(KeyError, match="no background process 'higgs'; known: zz"):
        statistics.model(excess, unconstrained=("higgs",))
    with pytest.raises(KeyError, match="no histogram 'mass'; known: mass_4l"):
        statistics.model(excess, "mass")
    with pytest.raises(ValueError, match=r"low = 101 is not a bin edge\nThe nearest one is 100"):
        statistics.model(excess, low=101.0)
    with pytest.raises(ValueError, match=r"low = 130.0 is not below high = 100.0"):
        statistics.model(excess, low=130.0, high=100.0)
    with pytest.raises(ValueError, match="scan_points = 1"):
        statistics.fit_signal_strength(excess, scan_points=1)


def test_expected_significance_of_a_window_has_the_uncertainty_of_all_backgrounds(tmp_path) -> None:
    two = campaign(
        dataset("data", "data", tmp_path / "data.root"),
        dataset("higgs", "higgs", tmp_path / "higgs.root", cross_section_pb=0.001),
        dataset("zx", "zx", tmp_path / "zx.root", cross_section_pb=0.03),
        dataset("zz", "zz", tmp_path / "zz.root", cross_section_pb=0.004),
        dataset("zz_too", "zz", tmp_path / "more.root", cross_section_pb=0.02),
    )
    inside = {"data": [125.0] * 9, "higgs": [124.5] * 300, "zx": [120.0] * 4, "zz": [121.0] * 50, "zz_too": [122.0] * 7}
    result = result_of(two, inside)
    found = statistics.counting_test(result)
    # weights: 10 /fb · σ / 1000 events
    assert found.background == pytest.approx(0.3 * 4 + 0.04 * 50 + 0.2 * 7)
    assert found.background_error == pytest.approx(math.sqrt(0.3**2 * 4 + 0.04**2 * 50 + 0.2**2 * 7))
    expected = statistics.asimov_significance(3.0, found.background, found.background_error)
    assert found.expected_significance == pytest.approx(expected)
    assert expected < statistics.asimov_significance(3.0, found.background)
    made = statistics.model(result)
    assert made.backgrounds["zz"].sum() == pytest.approx(0.04 * 50 + 0.2 * 7)
    assert made.background_variances["zz"].sum() == pytest.approx(0.04**2 * 50 + 0.2**2 * 7)


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


def test_channel_without_luminosity_is_left_out_and_its_primary_dataset_named(tmp_path) -> None:
    part = two_primary_datasets(tmp_path, missing=("mu",), failed=True)
    assert part.luminosity.shares == {"4mu": 0.0, "4e": 1.0, "2e2mu": 1.0}
    fit, window = statistics.fit_signal_strength(part), statistics.counting_test(part)
    assert {channel for channel, _, _ in fit.model.bins} == {"4e"}
    assert fit.model.observed.sum() == 3  # the muons in events of the other primary dataset have no prediction
    assert (window.observed, window.signal) == (3, pytest.approx(3.0))
    scan = statistics.scan_windows(part, n_toys=10)
    assert scan.observed.max() == 3
    for found in (fit, window, scan):
        assert "without 4mu: no luminosity of DoubleMu processed" in repr(found)
    assert "without" not in repr(statistics.fit_signal_strength(two_primary_datasets(tmp_path, missing=())))


def test_simulation_without_any_data_is_refused_with_the_cause(tmp_path) -> None:
    none = two_primary_datasets(tmp_path, missing=("mu", "e"), failed=True)
    for test in (statistics.counting_test, statistics.fit_signal_strength, statistics.scan_windows):
        with pytest.raises(ValueError, match=r"no data have been read yet, only simulation; 1 files failed"):
            test(none)


# --- The fit -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "s", "b"), [(9.0, 4.0, 3.0), (140.0, 25.0, 100.0), (1.0, 0.5, 0.02)])
def test_one_bin_has_the_closed_form_of_the_likelihood_ratio(n: float, s: float, b: float) -> None:
    fit = statistics.fit_signal_strength(one_bin(n, s, b))
    assert fit.signal_strength == pytest.approx((n - b) / s, rel=1e-3)
    assert fit.significance == pytest.approx(math.sqrt(2 * (n * math.log(n / b) - (n - b))), rel=1e-5)
    assert fit.expected_significance == pytest.approx(statistics.asimov_significance(s, b), rel=1e-5)
    for strength in (fit.signal_strength - fit.error_low, fit.signal_strength + fit.error_high):
        mean = strength * s + b
        assert 2 * (mean - n - n * math.log(mean / n)) == pytest.approx(1.0, abs=1e-3)


def test_deficit_is_no_evidence_and_the_strength_negative() -> None:
    fit = statistics.fit_signal_strength(one_bin(60.0, 10.0, 100.0))
    assert fit.signal_strength == pytest.approx(-4.0, abs=1e-3)
    assert (fit.significance, fit.p_value) == (0.0, 0.5)


def test_error_reaches_the_lowest_possible_strength_at_most() -> None:
    fit = statistics.fit_signal_strength(one_bin(0.0, 5.0, 0.2))
    assert fit.signal_strength - fit.error_low == pytest.approx(-0.2 / 5.0, abs=1e-4)
    assert fit.error_high == pytest.approx(
        0.5 / 5.0, rel=0.01
    )  # the deviance of zero events is 2 (mean): it rises by 1


def test_several_bins_solve_the_likelihood_equation() -> None:
    signal, background = np.array([0.5, 4.0, 2.0, 0.1]), np.array([3.0, 2.0, 5.0, 1.0])
    observed = np.array([2.0, 9.0, 6.0, 2.0])
    fit = statistics.fit_signal_strength(many_bins(list(observed), list(signal), list(background), [0.0] * 4))
    root = optimize.brentq(lambda mu: (observed * signal / (mu * signal + background) - signal).sum(), -0.4, 20)
    assert fit.signal_strength == pytest.approx(root, abs=2e-3)


def test_finite_simulation_equals_one_explicit_nuisance_parameter_per_bin() -> None:
    observed, signal, background, error = [7.0, 3.0, 0.0], [4.0, 1.0, 0.2], [2.5, 4.0, 0.6], [0.8, 1.0, 0.3]

    def deviance(parameters: np.ndarray, strength: float | None) -> float:
        mu = parameters[-1] if strength is None else strength
        mean = mu * np.array(signal) + background
        best = np.maximum(parameters[:3], 1e-9) * mean
        constraint = (parameters[:3] - 1) ** 2 * mean**2 / np.array(error) ** 2
        return float((2 * (best - np.array(observed) * np.log(best)) + constraint).sum())

    options = {"method": "Nelder-Mead", "options": {"xatol": 1e-8, "fatol": 1e-10, "maxiter": 20_000, "maxfev": 20_000}}
    best = optimize.minimize(deviance, [1, 1, 0.8, 1], (None,), **options)
    none = optimize.minimize(deviance, [1, 1, 0.8], (0.0,), **options)
    fit = statistics.fit_signal_strength(many_bins(observed, signal, background, error))
    assert fit.signal_strength == pytest.approx(best.x[-1], abs=5e-3)
    assert fit.significance == pytest.approx(math.sqrt(none.fun - best.fun), rel=1e-4)
    plain = statistics.fit_signal_strength(many_bins(observed, signal, background, [0.0] * 3))
    assert fit.significance < plain.significance
    assert fit.error_high > plain.error_high


def test_unconstrained_background_is_measured_beside_the_peak() -> None:
    beside = many_bins([120.0, 30.0], [0.0, 10.0], [100.0, 15.0], [0.0, 0.0], unconstrained=("zz",))
    fit = statistics.fit_signal_strength(beside)
    assert fit.norm_factors["zz"] == pytest.approx(1.2, rel=1e-3)
    assert fit.signal_strength == pytest.approx((30.0 - 1.2 * 15.0) / 10.0, abs=3e-3)
    fixed = statistics.fit_signal_strength(dataclasses.replace(beside, unconstrained=()))
    assert fit.significance < fixed.significance
    assert "zz            × 1.20 fitted" in repr(fit)


def test_variance_of_the_simulation_grows_as_the_square_of_strength_and_scale() -> None:
    made = Model(
        np.array([9.0, 1.0]), np.array([4.0, 1.0]), np.array([1.5, 0.3]), {"zz": np.array([2.0, 3.0])},
        {"zz": np.array([0.7, 0.9])}, unconstrained=("zz",),
    )  # fmt: skip
    mean, sigma = 2.0 * made.signal + 3.0 * made.backgrounds["zz"], []
    for signal_variance, background_variance in ((1.5, 0.7), (0.3, 0.9)):
        sigma.append(math.hypot(2.0 * math.sqrt(signal_variance), 3.0 * math.sqrt(background_variance)))
    total = 0.0
    for n, m, width in zip(made.observed, mean, sigma, strict=True):
        # the true number is a nuisance parameter of its own, with a normal constraint
        bounds = {"bounds": (1e-9, 100.0), "method": "bounded", "options": {"xatol": 1e-10}}

        def deviance(x: float, n: float = n, m: float = m, width: float = width) -> float:
            return 2 * (x - n - n * math.log(x / n)) + ((x - m) / width) ** 2

        total += optimize.minimize_scalar(deviance, **bounds).fun
    assert made.twice_nll(2.0, np.array([3.0])) == pytest.approx(total, rel=1e-9)


@pytest.mark.parametrize("number", range(120))
def test_fit_finds_the_smallest_deviance_of_all_strengths(number: int) -> None:
    made = random_model(number)
    best = statistics.fit_signal_strength(made, scan_points=21)
    edge, none = lowest(made) * (1 - 1e-6), np.empty(0)
    strengths = np.concatenate([np.linspace(edge, 0, 1000), np.geomspace(1e-4, 3e3, 3000)])
    deviances = [made.twice_nll(strength, none) for strength in strengths]
    least = int(np.argmin(deviances))
    assert best.twice_nll <= deviances[least] + 1e-9
    fine = optimize.minimize_scalar(
        lambda strength: made.twice_nll(strength, none),
        bounds=(strengths[max(least - 1, 0)], strengths[min(least + 1, len(strengths) - 1)]), method="bounded",
    )  # fmt: skip
    assert best.twice_nll == pytest.approx(min(fine.fun, deviances[least]), abs=1e-4)
    assert best.q0 == pytest.approx(max(0.0, deviances[1000 - 1] - best.twice_nll) if best.signal_strength > 0 else 0.0)
    assert best.scan_twice_nll.min() > -1e-6


@pytest.mark.parametrize("number", [*range(60), 217, 859])  # in the last two a single search gets stuck
def test_fit_with_an_unconstrained_background_finds_the_smallest_deviance_of_all(number: int) -> None:
    made = random_model(number, unconstrained=("zz",))
    best = statistics.fit_signal_strength(made, scan_points=3)

    def deviance(values: np.ndarray) -> float:
        possible = 0 <= values[1] <= 20 and lowest(made, values[1]) <= values[0]
        return made.twice_nll(values[0], values[1:]) if possible else 1e9

    tries = [
        optimize.minimize(deviance, [strength * -lowest(made, scale) if strength < 0 else strength, scale],
                          method="Nelder-Mead", options={"xatol": 1e-5, "fatol": 1e-6})
        for strength in (-0.9, -0.4, 0.0, 1.0, 4.0) for scale in (0.05, 0.3, 1.0, 3.0)
    ]  # fmt: skip
    assert best.twice_nll <= min(one.fun for one in tries) + 2e-3
    assert best.twice_nll == pytest.approx(made.twice_nll(best.signal_strength, np.array([best.norm_factors["zz"]])))
    assert best.signal_strength >= lowest(made, best.norm_factors["zz"])


def test_unconstrained_background_far_from_its_prediction_is_found_and_counts_as_fitted() -> None:
    beside = many_bins([500.0, 90.0], [0.0, 10.0], [100.0, 15.0], [0.0, 0.0], unconstrained=("zz",))
    fit = statistics.fit_signal_strength(beside)
    assert fit.norm_factors["zz"] == pytest.approx(5.0, rel=1e-3)
    assert fit.signal_strength == pytest.approx((90.0 - 5.0 * 15.0) / 10.0, abs=3e-3)
    assert fit.degrees_of_freedom == 2 - 2
    assert "× 5.00 fitted\n" in repr(fit) + "\n"
    huge = statistics.fit_signal_strength(beside.with_observed(np.array([3000.0, 450.0])))
    assert "× 20.00 fitted, the upper limit" in repr(huge)
    little = beside.with_observed(np.array([10.0, 31.5]))
    assert statistics.fit_signal_strength(little).norm_factors["zz"] == pytest.approx(0.1, rel=1e-3)
    wide = many_bins([9.0] * 5, [0.0, 1.0, 4.0, 1.0, 0.0], [8.0] * 5, [0.0] * 5, unconstrained=("zz",))
    found = statistics.fit_signal_strength(wide)
    assert found.degrees_of_freedom == 5 - 2
    assert found.goodness_of_fit == pytest.approx(stats.chi2.sf(found.twice_nll, 3))


@pytest.mark.parametrize("simulated", [1, 2, 3])
@pytest.mark.parametrize("observed", [0.0, 3.0])
def test_signal_of_a_few_simulated_events_has_no_runaway_strength(simulated: int, observed: float) -> None:
    signal = np.array([3.0, 0.0])
    made = Model(
        np.array([observed, 2.0]), signal, signal**2 / simulated, {"zz": np.array([2.0, 2.0])},
        {"zz": np.array([0.1, 0.1])},
    )  # fmt: skip
    fit = statistics.fit_signal_strength(made)
    assert lowest(made) <= fit.signal_strength < 1.0
    if simulated == 1 and observed:
        # one event may be any number: the deviance tends to 1 from below and never has risen by so much
        assert fit.error_high == math.inf
        assert "no upper limit" in repr(fit)
    else:
        assert 0.1 < fit.error_high < 50
        assert "no upper limit" not in repr(fit)
    assert np.isfinite(fit.scan_strength).all()
    assert np.isfinite(fit.scan_twice_nll).all()


def test_without_signal_there_is_no_strength() -> None:
    with pytest.raises(ValueError, match="no signal is expected in any bin"):
        statistics.fit_signal_strength(one_bin(3.0, 0.0, 2.0))


def test_process_is_unconstrained_once_and_a_model_takes_no_options(excess: Result) -> None:
    with pytest.raises(ValueError, match="unconstrained = zz, zz\\nGive each process once"):
        statistics.model(excess, unconstrained=("zz", "zz"))
    made = statistics.model(excess)
    with pytest.raises(TypeError, match="a Model has its options already, got fre"):
        statistics.toys(made, 3, fre=("zz",))
    with pytest.raises(TypeError, match="a Model has its options already, got unconstrained"):
        statistics.fit_signal_strength(made, unconstrained=("zz",))
    with pytest.raises(TypeError, match="fre"):
        statistics.toys(excess, 3, fre=("zz",))
    with pytest.raises(TypeError, match=r"unconstrained = 'zz'; expected a tuple of processes"):
        statistics.model(excess, unconstrained="zz")


def test_profile_is_zero_at_the_best_strength_and_one_at_the_errors() -> None:
    fit = statistics.fit_signal_strength(peak(), scan_points=201)
    at = np.interp([fit.signal_strength, fit.signal_strength + fit.error_high], fit.scan_strength, fit.scan_twice_nll)
    assert at == pytest.approx([0.0, 1.0], abs=0.01)
    assert fit.scan_twice_nll.min() > -1e-6


def test_goodness_of_fit_is_the_chi_squared_tail_and_notices_a_wrong_shape() -> None:
    good = statistics.fit_signal_strength(peak(120.0, 80.0))
    assert good.twice_nll == pytest.approx(0.0, abs=1e-3)
    assert good.goodness_of_fit == pytest.approx(1.0)
    tilted = peak(120.0, 80.0)
    tilted = tilted.with_observed(tilted.observed * np.linspace(0.6, 1.4, 12))
    bad = statistics.fit_signal_strength(tilted)
    assert bad.goodness_of_fit == pytest.approx(stats.chi2.sf(bad.twice_nll, 11))
    assert bad.goodness_of_fit < 1e-6


def test_model_joins_bins_without_losing_events_and_without_looking_at_the_data(excess: Result) -> None:
    made = statistics.model(excess)
    assert made.observed.sum() == 16
    assert made.signal.sum() == pytest.approx(3.0)
    assert made.backgrounds["zz"].sum() == pytest.approx(0.04 * 1110)
    assert made.background_variances["zz"].sum() == pytest.approx(0.04**2 * 1110)
    assert (made.backgrounds["zz"] / 0.04 > fit_.LEAST_SIMULATED - 0.5).all()
    assert [low for _, low, _ in made.bins[1:]] == [high for _, _, high in made.bins[:-1]]
    thinned = result_of(excess.campaign, {"higgs": [124.5] * 300, "zz": list(np.linspace(70.5, 180.5, 1110))})
    assert statistics.model(thinned).bins == made.bins
    assert len(made.bins) == 37
    flat = list(np.linspace(70.5, 180.5, 115))
    sparse = result_of(excess.campaign, {"data": flat, "higgs": [124.5] * 300, "zz": flat})
    joined = statistics.model(sparse)
    assert 5 < len(joined.bins) < 12
    assert (joined.bins[0][1], joined.bins[-1][2]) == (70.0, 181.0)
    assert joined.observed.sum() == 115
    assert joined.backgrounds["zz"].sum() == pytest.approx(0.04 * 115)


def test_fit_of_a_result_finds_the_strength_that_was_put_in(mixed: Campaign) -> None:
    flat, hump = list(np.linspace(70.5, 180.5, 1110)), list(np.linspace(121, 129, 500))
    data = flat[::25] + hump[::50]  # the background as predicted, twice the signal
    fit = statistics.fit_signal_strength(result_of(mixed, {"data": data, "higgs": hump, "zz": flat}))
    assert fit.signal_strength == pytest.approx(2.0, abs=0.25)
    assert fit.significance > 2.5
    assert repr(fit).startswith(f"Signal strength {fit.signal_strength:.2f} +")


# --- Toys ----------------------------------------------------------------------------------------------------------


def test_random_numbers_belong_to_purpose_and_number_and_to_nothing_else() -> None:
    numbers = [fit_.generator("a", i).integers(2**62, size=2000) for i in range(3)]
    again = fit_.generator("a", 1).integers(2**62, size=2000)
    assert np.array_equal(numbers[1], again)
    assert len(np.unique(np.concatenate([*numbers, fit_.generator("b", 1).integers(2**62, size=2000)]))) == 8000


def test_toys_are_the_same_however_many_are_made() -> None:
    many, few = statistics.toys(peak(), 40), statistics.toys(peak(), 15)
    assert np.array_equal(many.statistics[:15], few.statistics)
    assert np.array_equal(many.strengths[:15], few.strengths)
    other = statistics.toys(dataclasses.replace(peak(), key="another campaign"), 15)
    assert not np.array_equal(other.strengths, few.strengths)


def test_test_statistic_follows_wilks_and_chernoff() -> None:
    found = statistics.toys(peak(60.0, 50.0), 1500).statistics
    # half of the toys have a negative strength: q0 = 0; of the others q0 follows chi-squared with one degree
    assert np.mean(found < 1e-9) == pytest.approx(0.5, abs=0.05)
    for sigmas in (1.0, 1.64):
        expected = statistics.p_value_of(sigmas)
        spread = math.sqrt(expected * (1 - expected) / 1500)
        assert np.mean(found >= sigmas**2) == pytest.approx(expected, abs=4 * spread)


def test_errors_cover_the_truth_as_often_as_they_should_and_pulls_are_normal() -> None:
    mean, n = peak(40.0, 20.0), 400
    truth = 1.0
    pulls = []
    for number in range(n):
        draws = fit_.generator("coverage", number).poisson(mean.expectation(truth, np.empty(0))[0])
        fit = statistics.fit_signal_strength(mean.with_observed(draws), scan_points=2)
        error = fit.error_low if fit.signal_strength > truth else fit.error_high
        pulls.append((fit.signal_strength - truth) / error)
    assert np.mean(np.abs(pulls) < 1) == pytest.approx(0.683, abs=0.09)  # 4 standard deviations of 400 toys
    assert np.mean(pulls) == pytest.approx(0.0, abs=0.2)
    assert np.std(pulls) == pytest.approx(1.0, abs=0.15)


def test_p_value_of_toys_agrees_with_the_exact_one_of_one_bin() -> None:
    observed, background = 12, 5.0
    made = dataclasses.replace(one_bin(observed, 4.0, background), key="one bin")
    fit = statistics.fit_signal_strength(made)
    imagined = statistics.toys(made, 3000)
    share, error = imagined.p_value(fit.q0)
    assert share == pytest.approx(stats.poisson.sf(observed - 1, background), abs=4 * error)
    assert imagined.p_value(fit.significance**2) == (share, error)
    assert imagined.p_value(fit.significance**2 * (1 + 1e-9)) == (share, error)


def test_goodness_of_fit_of_toys_is_the_share_at_least_as_bad_with_ties() -> None:
    made = statistics.Toys(0.0, np.array([0.0, 4.0, 9.0]), np.zeros(3), np.array([1.0, 2.0, 5.0]))
    assert made.goodness_of_fit(2.0 + 1e-9)[0] == pytest.approx((2 + 1) / (3 + 1))
    assert made.goodness_of_fit(2.1)[0] == pytest.approx((1 + 1) / (3 + 1))
    assert made.p_value(4.0 + 1e-9)[0] == pytest.approx((2 + 1) / (3 + 1))
    assert made.median_significance == pytest.approx(2.0)
    assert "median 2.00 σ" in repr(made)


def test_toys_belong_to_the_value_of_the_strength_not_to_its_type() -> None:
    sets = [statistics.toys(peak(), 5, strength=one).strengths for one in (1, 1.0, np.float64(1), np.float32(1))]
    assert all(np.array_equal(one, sets[0]) for one in sets)
    # other strength, other numbers: with a signal this small the same ones would give the same counts
    tiny = many_bins([3.0] * 12, [1e-9] * 12, [3.0] * 12, [0.0] * 12, key="tiny")
    assert not np.array_equal(statistics.toys(tiny, 5).twice_nll, statistics.toys(tiny, 5, strength=1.0).twice_nll)


def test_random_numbers_of_two_campaigns_and_two_selections_differ(excess: Result) -> None:
    renamed = dataclasses.replace(excess, campaign=dataclasses.replace(excess.campaign, luminosity_uncertainty=0.03))
    tighter = dataclasses.replace(excess, selection=excess.selection.replace(sip_max=3.9))
    sets = [statistics.toys(one, 5).twice_nll for one in (excess, renamed, tighter)]
    p_values = [
        [statistics.scan_windows(one, high=high, n_toys=2000).global_p_value for high in range(151, 182, 6)]
        for one in (excess, renamed, tighter)
    ]  # one p-value of 2000 toys is equal to another by chance once in 50 times, six are not
    for first, second in ((0, 1), (0, 2), (1, 2)):
        assert not np.array_equal(sets[first], sets[second])
        assert p_values[first] != p_values[second]


def test_p_value_of_toys_is_never_zero() -> None:
    assert statistics.toys(peak(), 9).p_value(1e6)[0] == pytest.approx(0.1)


def test_uncertain_prediction_widens_the_toys() -> None:
    exact = dataclasses.replace(one_bin(20.0, 5.0, 20.0), key="k")
    vague = dataclasses.replace(one_bin(20.0, 5.0, 20.0, 8.0), key="k")
    assert statistics.toys(vague, 300).strengths.std() > 1.5 * statistics.toys(exact, 300).strengths.std()


def test_spread_of_toys_is_that_of_the_counts_and_of_the_prediction_together() -> None:
    vague = dataclasses.replace(one_bin(20.0, 5.0, 20.0, 3.0), key="spread")
    found = statistics.toys(vague, 2000).strengths
    assert found.std() == pytest.approx(math.sqrt(20.0 + 3.0**2) / 5.0, rel=0.07)  # 4 standard deviations of a width


def test_norm_factors_of_toys_are_those_of_the_data() -> None:
    doubled = many_bins([800.0, 60.0], [0.0, 10.0], [400.0, 30.0], [0.0, 0.0], unconstrained=("zz",), key="doubled")
    as_fitted = dataclasses.replace(doubled, backgrounds={"zz": np.array([800.0, 60.0])}, unconstrained=())
    found = statistics.toys(doubled, 400).strengths.std()
    # the spread of twice the background; were it drawn as predicted, 1 / √2 of it
    assert found == pytest.approx(statistics.toys(as_fitted, 400).strengths.std(), rel=0.15)


def test_impossible_numbers_of_toys_are_refused(excess: Result) -> None:
    with pytest.raises(ValueError, match="n = 0; expected at least one toy"):
        statistics.toys(peak(), 0)
    with pytest.raises(ValueError, match=r"strength = -1\.0"):
        statistics.toys(peak(), 5, strength=-1.0)
    with pytest.raises(ValueError, match="n_toys = 0"):
        statistics.scan_windows(excess, n_toys=0)


# --- Looking everywhere --------------------------------------------------------------------------------------------


def test_a_single_window_has_no_trials_factor(excess: Result) -> None:
    scan = statistics.scan_windows(excess, low=118.0, high=130.0, width=12.0, n_toys=4000)
    assert scan.observed.tolist() == [9]
    assert scan.local_p_values[0] == pytest.approx(stats.poisson.sf(8, scan.background[0]))
    assert scan.global_p_value == pytest.approx(scan.local_p_values[0], abs=4 * scan.global_p_value_error)


def test_two_separate_windows_have_the_trials_factor_of_two_independent_counts(excess: Result) -> None:
    scan = statistics.scan_windows(excess, low=124.0, high=130.0, width=3.0, n_toys=20_000)
    assert scan.best == 0
    least = scan.local_p_values[0]
    anywhere = 1.0
    for background in scan.background:
        tails = stats.poisson.sf(np.arange(-1, 60), background)  # P(at least 0, 1, 2, …)
        anywhere *= 1.0 - tails[tails <= least * (1 + 1e-9)].max()
    assert scan.global_p_value == pytest.approx(1.0 - anywhere, abs=4 * scan.global_p_value_error)
    assert scan.global_p_value > 1.5 * least


def test_scan_finds_the_excess_and_corrects_for_having_looked_everywhere(excess: Result) -> None:
    scan = statistics.scan_windows(excess, n_toys=2000)
    assert scan.low[scan.best] <= 119.0
    assert scan.high[scan.best] >= 125.0
    assert scan.global_p_value > scan.local_p_values[scan.best]
    assert scan.global_significance < scan.local_significance
    again = statistics.scan_windows(excess, n_toys=2000)
    assert again.global_p_value == scan.global_p_value
    assert repr(scan).startswith("Largest excess of 25 windows: 11")


def test_p_value_too_small_for_a_number_is_infinitely_significant() -> None:
    one = np.array([1.0])
    scan = statistics.WindowScan(one, one + 1, np.array([60]), one * 1e-8, np.array([0.0]), 0, 1e-4, 1e-4, 10_000)
    assert scan.local_significance == math.inf


def test_window_that_fits_no_bins_is_refused(excess: Result) -> None:
    with pytest.raises(ValueError, match="width = 4 is not possible\\nGive a multiple of the bin width 3, at most 81"):
        statistics.scan_windows(excess, width=4.0)
    with pytest.raises(ValueError, match="width = 90"):
        statistics.scan_windows(excess, width=90.0)
