"""Pseudo-experiments ("toys") and their random numbers.

Every random number comes from a counter-based generator (Philox) whose key is made from the campaign, the selection and
the purpose: the same call gives the same toys on any machine, and toy number 7 is the same whether 10 or 10,000 are
made.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from higgsnb.errors import OptionError
from higgsnb.statistics.binned_model import Model, model_of
from higgsnb.statistics.inputs import check_not_negative
from higgsnb.statistics.maximum import maximise, q0_and_best

if TYPE_CHECKING:
    from higgsnb.results import Result

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, repr=False, eq=False)
class Toys:
    """The test statistic in pseudo-experiments ("toys"), generated with the signal strength ``true_strength``.

    Of each toy, (n,): ``statistics`` is q₀, ``strengths`` the fitted strength, ``twice_nll`` −2 ln L of the best fit.
    """

    true_strength: float
    statistics: Floats
    strengths: Floats
    twice_nll: Floats

    def __repr__(self) -> str:
        """Return one line: the number of toys and what was fitted to them."""
        return (
            f"{len(self.statistics)} toys with signal strength {self.true_strength:g}: "
            f"fitted {self.strengths.mean():z.2f} ± {self.strengths.std():.2f}, median {self.median_significance:.2f} σ"
        )

    @property
    def median_significance(self) -> float:
        """Median of √q₀."""
        return float(np.sqrt(np.median(self.statistics)))

    def p_value(self, statistic: float) -> tuple[float, float]:
        """Return the share of toys at least as extreme as a q₀ (`FitResult.q0`), and its standard deviation.

        (k + 1) / (n + 1) for k of n toys, never exactly 0: the observed experiment counts as one of them.
        """
        return _share_from(self.statistics, statistic)

    def goodness_of_fit(self, twice_nll: float) -> tuple[float, float]:
        """Return the share of toys whose best fit has at least this −2 ln L, and its standard deviation."""
        return _share_from(self.twice_nll, twice_nll)


def toys(result: Result | Model, n: int = 1000, *, strength: float = 0.0, **options: Any) -> Toys:
    """Return pseudo-experiments: the counts of every bin are drawn and fitted, and the test statistic is kept.

    If the finite simulation is a source of uncertainty, the prediction of each bin is drawn as well. Unconstrained
    normalisations stay at the values fitted to the data with this strength (0: background alone). The other options are
    those of `model`; a `Model` has its own. Raise KeyError, OptionError and TypeError as `model` does, if n is less
    than 1 or the strength negative, and if options come with a `Model`.
    """
    if n < 1:
        raise OptionError(f"n = {n}; expected at least one toy", "A p-value of 0.001 needs a few thousand toys.")
    check_not_negative(strength=strength)
    strength = float(strength)  # its repr is part of the seed
    made = model_of(result, **options)
    mean, variance = made.expectation(strength, maximise(made, strength).norm_factors)
    collected = np.empty((n, 3))
    for number in range(n):
        draws = generator(f"toys {strength!r} {made.key}", number)
        true = np.maximum(draws.normal(mean, np.sqrt(variance)), 0.0) if variance.any() else mean
        statistic, best = q0_and_best(made.with_observed(draws.poisson(true).astype(np.float64)))
        collected[number] = statistic, best.strength, best.twice_nll
    return Toys(strength, *np.ascontiguousarray(collected.T))


def _share_from(values: Floats, least: float) -> tuple[float, float]:
    """Return the share of values ≥ `least` up to rounding, and its standard deviation."""
    return share_and_error(int(np.count_nonzero(values >= least - 1e-6 * max(1.0, abs(least)))), len(values))


def share_and_error(passed: int, number: int) -> tuple[float, float]:
    """Return (k + 1) / (n + 1) and its binomial standard deviation."""
    share = (passed + 1) / (number + 1)
    return share, math.sqrt(share * (1.0 - share) / (number + 1))


def generator(purpose: str, number: int = 0) -> np.random.Generator:
    """Return the random-number generator of a purpose and a number; counter-based, without global state.

    The sha256 of the purpose is the key of numpy's Philox; the number is the upper half of the counter: each has 2¹²⁸
    random numbers of its own.
    """
    key = np.frombuffer(hashlib.sha256(purpose.encode()).digest()[:16], "<u8")
    return np.random.Generator(np.random.Philox(key=key, counter=[0, 0, number, 0]))
