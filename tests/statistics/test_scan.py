"""The scan for the largest excess against exact probabilities."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from higgsnb import statistics
from higgsnb.results import Result


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
