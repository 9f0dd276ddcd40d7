"""p-values and significances against closed forms, published numbers, and scipy's distributions."""

from __future__ import annotations

import math

import numpy as np
import pytest
from binned_models import result_of
from outreach import campaign, dataset
from scipy import optimize, stats

from higgsnb import statistics
from higgsnb.results import Result
from higgsnb.statistics import pseudo_experiments


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
    draws = pseudo_experiments.generator("median").poisson(s + b, 4000)
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


def test_counting_test_agrees_with_a_calculation_by_hand(excess: Result) -> None:
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
