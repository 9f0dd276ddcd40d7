"""Poisson intervals and deviations against published tables and numerical integration."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hist.intervals import poisson_interval
from scipy import integrate, stats

from higgsnb import statistics


@pytest.mark.parametrize(
    ("count", "low", "high"),
    [
        (0, 0.0, 1.841),
        (1, 0.173, 3.300),
        (2, 0.708, 4.638),
        (3, 1.367, 5.918),
        (5, 2.840, 8.382),
        (10, 6.891, 14.267),
    ],
)
def test_garwood_interval_agrees_with_the_published_table(count: int, low: float, high: float) -> None:
    # PDG, statistics review; Cousins, Hymes and Tucker, NIM A 612 (2010) 388: central 68.27 % intervals.
    assert statistics.garwood(count) == pytest.approx((low, high), abs=1.5e-3)


def test_garwood_interval_is_that_of_hist_to_the_last_bit() -> None:
    counts = np.arange(1001)
    np.testing.assert_array_equal(statistics.garwood(counts), poisson_interval(counts, coverage=0.6827))


def test_garwood_limits_leave_the_same_probability_on_either_side() -> None:
    counts = np.arange(1, 200)
    low, high = statistics.garwood(counts, level=0.95)
    np.testing.assert_allclose(stats.poisson.sf(counts - 1, low), 0.025)
    np.testing.assert_allclose(stats.poisson.cdf(counts, high), 0.025)


def test_deviation_of_an_exact_expectation_is_the_poisson_probability() -> None:
    assert statistics.deviation([0], [3.0], [0.0])[0] == pytest.approx(stats.norm.ppf(math.exp(-3)))
    assert statistics.deviation([7], [2.0], [0.0])[0] == pytest.approx(stats.norm.isf(stats.poisson.sf(6, 2.0)))
    assert statistics.deviation([7], [2.0], [1e-7])[0] == pytest.approx(
        stats.norm.isf(stats.poisson.sf(6, 2.0)), rel=1e-5
    )


@pytest.mark.parametrize(("count", "mean", "error"), [(12, 5.0, 1.5), (1, 6.0, 2.0), (3, 0.4, 0.3)])
def test_deviation_averages_over_the_uncertain_expectation(count: int, mean: float, error: float) -> None:
    prior = stats.gamma(a=(mean / error) ** 2, scale=error**2 / mean)
    tail = stats.poisson.sf if count > mean else stats.poisson.cdf
    edge = count - 1 if count > mean else count
    probability, _ = integrate.quad(lambda m: tail(edge, m) * prior.pdf(m), 0, mean + 40 * error, limit=200)
    expected = math.copysign(stats.norm.isf(probability), count - mean)
    assert statistics.deviation([count], [mean], [error**2])[0] == pytest.approx(expected, rel=1e-6)


def test_deviation_is_zero_at_the_expectation_and_unknown_without_one() -> None:
    assert statistics.deviation([5, 0], [5.0, 0.05], [0.0, 0.0]) == pytest.approx([0.0, 0.0])
    assert np.isnan(statistics.deviation([2], [0.0], [0.0])).all()
    assert np.isfinite(statistics.deviation([10_000], [0.1], [0.0])).all()
