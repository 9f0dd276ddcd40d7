"""Counting experiments: p-values, significances, and the number of events in a mass window."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from scipy.special import betainc, gammainc, ndtr, ndtri

from higgsnb.errors import OptionError
from higgsnb.statistics.inputs import (
    SIGNAL,
    axis_of,
    backgrounds_of,
    check_not_negative,
    check_testable,
    regions_of,
    what_is_missing,
)

if TYPE_CHECKING:
    from higgsnb.results import Result, Yield


def significance(p_value: float) -> float:
    """Return a one-sided p-value in standard deviations: 0.1587 is 1 σ, 2.87e-7 is 5 σ; negative above 0.5."""
    if not 0.0 <= p_value <= 1.0:
        raise OptionError(f"p-value {p_value}; expected a probability from 0 to 1", "Divide a percentage by 100.")
    return -float(ndtri(p_value))


def p_value_of(sigmas: float) -> float:
    """Return the one-sided p-value of a significance in standard deviations, the inverse of `significance`."""
    return float(ndtr(-sigmas))


def poisson_p_value(observed: int, background: float, background_error: float = 0.0) -> float:
    """Return the probability of at least the observed number of events if there is only background.

    ``background_error`` is the standard deviation of the expected number of background events. 0: it is known.
    Otherwise it is taken as measured in a control region of n = b²/σ² events, τ = b/σ² times as large as the signal
    region, and the p-value is the exact binomial one of that pair of counts (Cousins, Linnemann, Tucker, eq. 14).

    Raise OptionError if there is no background, or a number is negative or not finite.
    """
    check_not_negative(observed=observed, background=background, background_error=background_error)
    if background <= 0.0:
        raise OptionError("no background is expected", "Give a background above 0: without one there is no p-value.")
    if observed == 0:
        return 1.0
    if background_error <= 1e-9 * background:
        return float(gammainc(observed, background))
    tau = background / background_error**2
    return float(betainc(observed, tau * background + 1.0, 1.0 / (1.0 + tau)))


def asimov_significance(signal: float, background: float, background_error: float = 0.0) -> float:
    """Return the median significance expected if there is a signal, in standard deviations.

    √(2((s + b) ln(1 + s/b) − s)) for a known background (Cowan et al., eq. 97), otherwise with its uncertainty as in
    `poisson_p_value` (G. Cowan, "Discovery sensitivity for a counting experiment with background uncertainty", 2012,
    eq. 20). Raise OptionError if there is no background, or a number is negative or not finite.
    """
    check_not_negative(signal=signal, background=background, background_error=background_error)
    if background <= 0.0:
        hint = "Give a background above 0: without one there is no significance."
        raise OptionError("no background is expected", hint)
    s, b, variance = signal, background, background_error**2
    if background_error <= 1e-6 * background:
        return math.sqrt(max(0.0, 2.0 * ((s + b) * math.log1p(s / b) - s)))
    first = (s + b) * math.log((s + b) * (b + variance) / (b * b + (s + b) * variance))
    second = b * b / variance * math.log1p(variance * s / (b * (b + variance)))
    return math.sqrt(max(0.0, 2.0 * (first - second)))


@dataclass(frozen=True, repr=False)
class WindowTest:
    """The number of events in a window (in ``unit``) compared with background alone.

    ``observed`` are the events in the data, ``background`` and ``signal`` those expected from the simulation.
    ``p_value`` and ``significance`` take the background as known; ``p_value_uncertain``, ``significance_uncertain``
    and ``expected_significance``, the median if the signal is there (Asimov), include ``background_error``, its
    standard deviation. ``note`` states what is missing from the result; empty if nothing is.
    """

    window: str
    observed: int
    background: float
    background_error: float
    signal: float
    p_value: float
    significance: float
    p_value_uncertain: float
    significance_uncertain: float
    expected_significance: float
    note: str = ""
    unit: str = "GeV"

    def __repr__(self) -> str:
        """Return the result in words."""
        lines = [
            f"{f'Window {self.window} {self.unit}'.strip()}: {self.observed} events observed",
            f"  background  {self.background:.2f} ± {self.background_error:.2f} events, signal {self.signal:.2f}",
            f"  p-value     {self.p_value:.3g} = {self.significance:.2f} σ, background known",
            f"              {self.p_value_uncertain:.3g} = {self.significance_uncertain:.2f} σ, with its uncertainty",
            f"  expected    {self.expected_significance:.2f} σ if the signal is there",
        ]
        return "\n".join(lines + ([f"  {self.note}"] if self.note else []))


def counting_test(
    result: Result,
    window: str | tuple[float, float] = "118-130",
    *,
    variable: str = "",
    region: str | Sequence[str] = (),
    signal: str = SIGNAL,
    background_uncertainty: float = 0.0,
) -> WindowTest:
    """Compare the number of events in a window with the background, all channels or some regions together.

    The window is one of ``result.windows``; or two edges of bins of the histogram ``variable`` (default: the first),
    such as ``(85, 97)``, of any analysis. For ``region`` see `model`. All simulated processes but the signal are
    background. ``background_uncertainty`` is its relative uncertainty, added in quadrature to that from the finite
    simulation. If the result is partial, the note states it.

    Raises
    ------
    KeyError
        If there is no such window, histogram, region or process; names the known ones.
    OptionError
        If there are no data, no background is expected, a simulated sample has not been read at all, the window does
        not end at edges of bins, or an event is in two of the regions.
    """
    check_testable(result, signal)
    check_not_negative(background_uncertainty=background_uncertainty)
    name, unit, counted = _window(result, window, variable)
    regions = regions_of(result, region)
    channels = [result.regions[index] for index in regions]
    backgrounds = [counted[process][channel] for process in backgrounds_of(result, signal) for channel in channels]
    observed = sum(counted["data"][channel].events for channel in channels)
    expected_signal = sum(counted[signal][channel].expected for channel in channels)
    background = sum(one.expected for one in backgrounds)
    variance = sum(one.stat_error**2 for one in backgrounds)
    error = math.hypot(math.sqrt(variance), background_uncertainty * background)
    if background <= 0.0:
        problem = f"no background is expected in {name} {unit}".rstrip()
        raise OptionError(problem, "Choose a wider window, or simulate more events.")
    known, uncertain = poisson_p_value(observed, background), poisson_p_value(observed, background, error)
    return WindowTest(
        window=name,
        observed=observed,
        background=background,
        background_error=error,
        signal=expected_signal,
        p_value=known,
        significance=significance(known),
        p_value_uncertain=uncertain,
        significance_uncertain=significance(uncertain),
        expected_significance=asimov_significance(max(0.0, expected_signal), background, error),
        note=what_is_missing(result, regions if region else ()),
        unit=unit,
    )


def _window(
    result: Result, window: str | tuple[float, float], variable: str
) -> tuple[str, str, dict[str, dict[str, Yield]]]:
    """Return the name of a window, its unit, and the yields in it."""
    if not isinstance(window, str):
        low, high = window
        axis = axis_of(result, variable)
        return f"{low:g}-{high:g}", axis.unit, result.spectrum(axis.name).between(low, high).yields(result.regions)
    if not result.windows or variable:
        what = f"analysis {result.selection.name!r} has no window {window!r} of {axis_of(result, variable).name}"
        raise OptionError(what, "Give its lower and upper end, which are edges of bins: window=(85, 97).")
    if window not in result.windows:
        raise KeyError(f"no window {window!r}; known: {', '.join(result.windows)}")
    return window, "GeV", result.windows[window]
