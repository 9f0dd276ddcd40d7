"""Pseudo-experiments: reproducible, and distributed as they should be."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from binned_models import many_bins, one_bin, peak
from scipy import stats

from higgsnb import statistics
from higgsnb.results import Result
from higgsnb.statistics.pseudo_experiments import generator


def test_random_numbers_belong_to_purpose_and_number_and_to_nothing_else() -> None:
    numbers = [generator("a", i).integers(2**62, size=2000) for i in range(3)]
    again = generator("a", 1).integers(2**62, size=2000)
    assert np.array_equal(numbers[1], again)
    assert len(np.unique(np.concatenate([*numbers, generator("b", 1).integers(2**62, size=2000)]))) == 8000


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
        draws = generator("coverage", number).poisson(mean.expectation(truth, np.empty(0))[0])
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
    pseudo = statistics.toys(made, 3000)
    share, error = pseudo.p_value(fit.q0)
    assert share == pytest.approx(stats.poisson.sf(observed - 1, background), abs=4 * error)
    assert pseudo.p_value(fit.significance**2) == (share, error)
    assert pseudo.p_value(fit.significance**2 * (1 + 1e-9)) == (share, error)


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
