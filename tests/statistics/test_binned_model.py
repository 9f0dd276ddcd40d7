"""The binned model of a result, and its options."""

from __future__ import annotations

import math

import numpy as np
import pytest
from binned_models import result_of
from scipy import optimize

from higgsnb import statistics
from higgsnb.results import Result
from higgsnb.statistics import Model, binned_model


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


def test_model_joins_bins_without_losing_events_and_without_looking_at_the_data(excess: Result) -> None:
    made = statistics.model(excess)
    assert made.observed.sum() == 16
    assert made.signal.sum() == pytest.approx(3.0)
    assert made.backgrounds["zz"].sum() == pytest.approx(0.04 * 1110)
    assert made.background_variances["zz"].sum() == pytest.approx(0.04**2 * 1110)
    assert (made.backgrounds["zz"] / 0.04 > binned_model.LEAST_SIMULATED - 0.5).all()
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
