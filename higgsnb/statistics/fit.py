"""The fit of the signal strength with a binned likelihood.

Not included: the mass of the particle is not fitted (the templates do not move); luminosity,
cross sections, lepton scale and efficiencies are taken as known, unless the normalisation of a process is
unconstrained; the reducible background is taken from simulation. Included: the Poisson fluctuations of the data and,
optionally, the finite number of simulated events.

Reference: Cowan, Cranmer, Gross, Vitells, Eur. Phys. J. C 71 (2011) 1554 (likelihood ratio, Asimov).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq
from scipy.special import chdtrc

from higgsnb.errors import OptionError
from higgsnb.statistics.binned_model import Model, model_of
from higgsnb.statistics.counting import p_value_of
from higgsnb.statistics.maximum import NORM_FACTOR_LIMITS, maximise, q0_and_best

if TYPE_CHECKING:
    from higgsnb.results import Result

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, repr=False, eq=False)
class FitResult:
    """The fitted signal strength, in units of the prediction.

    ``error_low`` and ``error_high``, both positive, are how far below and above the best value −2 ln L rises by 1. If
    the prediction becomes negative before that, ``error_low`` ends there. ``error_high`` is infinite if −2 ln L never
    rises that far: with one or two simulated signal events a strength of any size is possible.

    ``q0`` is −2 ln(L(0) / L(best)), 0 where the best strength is negative: what `Toys.p_value` compares.
    ``significance`` and ``p_value`` are those of the observed data against background alone: √q₀, asymptotic (Cowan et
    al.); ``expected_significance`` is the same for data exactly as predicted with strength 1 (Asimov).

    ``norm_factors`` holds the best normalisation of each unconstrained background; ``scan_strength`` and
    ``scan_twice_nll`` (n,) the profile: −2 ln L above its minimum, with the norm factors fitted again at each strength.
    ``twice_nll`` is −2 ln L of the best fit, see `Model.twice_nll`, ``degrees_of_freedom`` the bins minus the fitted
    parameters, and ``goodness_of_fit`` the p-value of both as a chi-squared: rough where bins hold few events, see
    `toys`.
    """

    signal_strength: float
    error_low: float
    error_high: float
    q0: float
    significance: float
    p_value: float
    expected_significance: float
    norm_factors: Mapping[str, float]
    scan_strength: Floats
    scan_twice_nll: Floats
    twice_nll: float
    degrees_of_freedom: int
    goodness_of_fit: float
    model: Model

    def __repr__(self) -> str:
        """Return the result in words."""
        errors = f"+{self.error_high:.2f} −{self.error_low:.2f}"
        fit = f"−2 ln L {self.twice_nll:.1f} for {self.degrees_of_freedom} degrees of freedom"
        lines = [
            f"Signal strength {self.signal_strength:.2f} {errors} (1 is the prediction; statistical errors)",
            f"  observed      {self.significance:.2f} σ (p = {self.p_value:.2g})",
            f"  expected      {self.expected_significance:.2f} σ if the signal is there",
            f"  fit           {fit}, p = {self.goodness_of_fit:.2g}",
        ]
        for process, factor in self.norm_factors.items():
            at_limit = ", the upper limit" if factor > 0.999 * NORM_FACTOR_LIMITS[1] else ""
            lines.append(f"  {process:13} × {factor:.2f} fitted{at_limit}")
        if math.isinf(self.error_high):
            lines.append("  no upper limit: the prediction rests on too few simulated signal events")
        return "\n".join(lines + ([f"  {self.model.note}"] if self.model.note else []))


def fit_signal_strength(
    result: Result | Model,
    variable: str | None = None,
    *,
    region: str | Sequence[str] | None = None,
    low: float | None = None,
    high: float | None = None,
    signal: str | None = None,
    unconstrained: Sequence[str] | None = None,
    use_simulation_error: bool | None = None,
    scan_points: int = 41,
) -> FitResult:
    """Fit the signal strength with a binned likelihood, in all three channels or in some regions at once.

    Each bin is a Poisson count with expectation strength × signal + Σ background. The finite simulation is one Gaussian
    nuisance parameter per bin. The options are those of `model`, also their defaults; a `Model` has its own, and takes
    only ``scan_points``, the number of points of the profile. Raise KeyError, OptionError and TypeError as `model`
    does, and if options come with a `Model`.
    """
    if scan_points < 2:
        raise OptionError(f"scan_points = {scan_points}; expected at least 2", "The default, 41, gives a smooth curve.")
    fitted = model_of(
        result,
        variable=variable,
        region=region,
        low=low,
        high=high,
        signal=signal,
        unconstrained=unconstrained,
        use_simulation_error=use_simulation_error,
    )
    q0, best = q0_and_best(fitted)
    lowest = float(fitted.lowest_strength(np.full(len(fitted.unconstrained), NORM_FACTOR_LIMITS[1])))

    def rise(strength: float) -> float:
        return maximise(fitted, strength).twice_nll - best.twice_nll

    below, above = _crossings(rise, best.strength, lowest, fitted.highest_strength)
    up = above - best.strength if math.isfinite(above) else max(1.0, best.strength - below)
    start = max(best.strength - 2.5 * (best.strength - below), lowest)
    scan = np.linspace(start, best.strength + 2.5 * up, scan_points)
    asimov = fitted.with_observed(fitted.expectation(1.0, np.ones(len(fitted.unconstrained)))[0])
    freedom = len(fitted.observed) - 1 - len(fitted.unconstrained)
    return FitResult(
        signal_strength=best.strength,
        error_low=best.strength - below,
        error_high=above - best.strength,
        q0=q0,
        significance=math.sqrt(q0),
        p_value=p_value_of(math.sqrt(q0)),
        expected_significance=math.sqrt(q0_and_best(asimov)[0]),
        norm_factors=dict(zip(fitted.unconstrained, map(float, best.norm_factors), strict=True)),
        scan_strength=scan,
        scan_twice_nll=np.array([rise(strength) for strength in scan]),
        twice_nll=best.twice_nll,
        degrees_of_freedom=freedom,
        goodness_of_fit=float(chdtrc(freedom, max(0.0, best.twice_nll))) if freedom > 0 else math.nan,
        model=fitted,
    )


def _crossings(rise: Callable[[float], float], best: float, lowest: float, highest: float) -> tuple[float, float]:
    """Return the strengths below and above the best where −2 ln L has risen by 1, else the lowest one and infinity."""
    crossing = partial(brentq, lambda strength: rise(strength) - 1.0, best, xtol=1e-4)
    step = max(0.1, 0.1 * abs(best))
    above = best + step
    while rise(above) < 1.0 and above < highest:
        above += 2.0 * (above - best)
    below = max(best - step, lowest)
    while rise(below) < 1.0 and below > lowest:
        below = max(below - 2.0 * (best - below), lowest)
    low = crossing(below) if rise(below) >= 1.0 else lowest
    return low, crossing(above) if rise(above) >= 1.0 else math.inf
