"""The maximum of the likelihood of a binned model, and the test statistic q₀."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
import numpy.typing as npt

from higgsnb.errors import OptionError
from higgsnb.statistics.binned_model import Model

Floats = npt.NDArray[np.float64]

NORM_FACTOR_LIMITS = (0.0, 20.0)  # of an unconstrained normalisation, in units of the prediction
_NORM_FACTORS = (0.02, 0.1, 0.3, 0.7, 1.0, 1.5, 3.0, 6.0, 12.0)  # of the coarse grid
_ZOOMS = 9  # each makes the steps 5.5 times finer
_SEARCHES = 3  # at most, from different norm factors


@dataclass(frozen=True)
class Best:
    """The maximum of the likelihood."""

    strength: float
    norm_factors: Floats
    twice_nll: float


def q0_and_best(model: Model) -> tuple[float, Best]:
    """Return q₀ = −2 ln(L(0) / L(best)), 0 for a negative best strength (Cowan et al., eq. 12), and the best fit."""
    best, none = maximise(model), maximise(model, 0.0)
    return (max(0.0, none.twice_nll - best.twice_nll) if best.strength > 0.0 else 0.0), best


def maximise(model: Model, strength: float | None = None) -> Best:
    """Maximise the likelihood over the norm factors and, unless it is given, the strength.

    With a finite simulation there may be several maxima, also at the edge of the allowed range, and a search from one
    starting point may end at the wrong one. Therefore it starts with a coarse grid over the whole range.
    """
    if not model.signal.sum() > 0.0:
        problem = "no signal is expected in any bin; its strength cannot be fitted"
        raise OptionError(problem, "Widen the range, or loosen the cuts.")
    points = _grid(model, strength)
    twice_nll = model.twice_nll(points[0][:, None], points[1:][..., None])
    if not model.unconstrained:  # the best strength, refined between its neighbours in finer and finer steps
        strengths, none = points[0], np.empty(0)
        for _ in range(_ZOOMS if len(strengths) > 1 else 0):
            nearest = int(np.argmin(twice_nll))
            strengths = np.linspace(strengths[max(nearest - 1, 0)], strengths[min(nearest + 1, len(strengths) - 1)], 12)
            twice_nll = model.twice_nll(strengths[:, None], none)
        nearest = int(np.argmin(twice_nll))
        return Best(float(strengths[nearest]), none, float(twice_nll[nearest]))
    order = np.argsort(twice_nll, kind="stable")
    _, first = np.unique(points[1:, order], axis=1, return_index=True)
    starts = order[np.sort(first)[:_SEARCHES]]
    best = Best(float(points[0, starts[0]]), points[1:, starts[0]], float(twice_nll[starts[0]]))
    for start in starts:
        best = min(best, _descend(model, points[:, start], strength), key=lambda one: one.twice_nll)
        # Near the lowest strength the prediction of a bin vanishes, and a search may get stuck.
        if strength is not None or best.strength > 0.5 * model.lowest_strength(best.norm_factors):
            break
    return best


def _grid(model: Model, strength: float | None) -> Floats:
    """Return a coarse grid over the allowed range, (1 + unconstrained, m); without norm factors strengths rise."""
    n = len(model.unconstrained)
    steps = (*_NORM_FACTORS[:: max(1, n)], NORM_FACTOR_LIMITS[1])
    norm_factors = np.array(list(product(steps, repeat=n))).T
    lowest = np.atleast_1d(model.lowest_strength(norm_factors[..., None]))
    if strength is not None:
        possible = norm_factors[:, lowest <= strength] if n else norm_factors
        return np.concatenate([np.full((1, possible.shape[1]), strength), possible])
    coarse = slice(None, None, 2 if n else 1)
    below = lowest[:, None] * np.linspace(1.0, 0.0, 11)[coarse]
    above = np.tile(model.highest_strength * np.geomspace(1e-5, 1.0, 35)[coarse], (len(lowest), 1))
    strengths = np.concatenate([below, above], axis=1)
    return np.concatenate([strengths.reshape(1, -1), norm_factors.repeat(strengths.shape[1], axis=1)])


def _descend(model: Model, start: Floats, strength: float | None) -> Best:
    """Minimise −2 ln L from one starting point, with no bin's prediction negative."""
    from iminuit import Minuit

    unit = float((model.signal**2 / model.expectation(1.0, start[1:])[0]).sum() ** -0.5)  # about a standard deviation

    def possible(values: Floats) -> float:
        return max(float(values[0]), float(model.lowest_strength(values[1:])))

    def twice_nll(values: Floats) -> float:
        inside = possible(values)
        return float(model.twice_nll(inside, values[1:]) + ((inside - values[0]) / unit) ** 2)

    minuit = Minuit(twice_nll, start, name=("strength", *model.unconstrained))
    minuit.errordef = Minuit.LEAST_SQUARES  # one standard deviation is where −2 ln L rises by 1
    minuit.errors = [unit, *(max(0.1 * factor, 0.01) for factor in start[1:])]
    minuit.limits = [(None, model.highest_strength), *(NORM_FACTOR_LIMITS for _ in model.unconstrained)]
    minuit.fixed[0] = strength is not None
    minuit.tol = 0.01
    minuit.migrad()
    values = np.array(minuit.values)
    best = possible(values) if strength is None else strength
    return Best(best, values[1:], float(model.twice_nll(best, values[1:])))
