"""The fit of the signal strength against closed forms and explicit nuisance parameters."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from binned_models import lowest, many_bins, one_bin, peak, result_of
from scipy import optimize, stats

from higgsnb import statistics
from higgsnb.datasets import Campaign
from higgsnb.statistics import Model


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


def test_fit_of_a_result_finds_the_strength_that_was_put_in(mixed: Campaign) -> None:
    flat, hump = list(np.linspace(70.5, 180.5, 1110)), list(np.linspace(121, 129, 500))
    data = flat[::25] + hump[::50]  # the background as predicted, twice the signal
    fit = statistics.fit_signal_strength(result_of(mixed, {"data": data, "higgs": hump, "zz": flat}))
    assert fit.signal_strength == pytest.approx(2.0, abs=0.25)
    assert fit.significance > 2.5
    assert repr(fit).startswith(f"Signal strength {fit.signal_strength:.2f} +")
