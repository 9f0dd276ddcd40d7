"""The maximum of the likelihood against a search over the whole range."""

from __future__ import annotations

import numpy as np
import pytest
from binned_models import lowest, random_model
from scipy import optimize

from higgsnb import statistics


@pytest.mark.parametrize("number", range(120))
def test_fit_finds_the_smallest_twice_nll_of_all_strengths(number: int) -> None:
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
def test_fit_with_an_unconstrained_background_finds_the_smallest_twice_nll_of_all(number: int) -> None:
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
