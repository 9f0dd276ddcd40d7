"""Is it a signal, and how much of it: counts in a window, a binned likelihood, toys, and a scan for a peak anywhere.

What these numbers leave out: the mass of the particle is not fitted (templates stand where the simulation has them);
luminosity, cross sections, lepton scale and efficiencies are taken as known, unless the normalisation of a process is
left free; the reducible background is what the simulation says. What they hold: the Poisson fluctuations of the data
and, where asked, the finite number of simulated events.

Every random number comes from a counter (Philox) whose key is made from the campaign, the selection and the purpose:
the same call gives the same toys anywhere, and toy number 7 is the same one whether 10 or 10,000 are made.

References: Cowan, Cranmer, Gross, Vitells, Eur. Phys. J. C 71 (2011) 1554 (likelihood ratio, Asimov); Cousins,
Linnemann, Tucker, Nucl. Instrum. Meth. A 595 (2008) 480 (uncertain background); Barlow, Beeston, Comput. Phys. Commun.
77 (1993) 219, in the form of Conway, arXiv:1103.0354 (finite simulation).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq
from scipy.special import betainc, chdtrc, gammainc, ndtr, ndtri, xlogy

from higgsnb import histograms
from higgsnb.selection import CHANNELS

if TYPE_CHECKING:
    from iminuit import Minuit

    from higgsnb.analysis import Result

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

SIGNAL = "higgs"
LEAST_SIMULATED = 10
"""Bins of a fit are joined until each holds this many simulated background events."""
TOYS = 1000
_TINY = 1e-12  # what a prediction is at least, in events: the logarithm of zero is nobody's likelihood
_SCALE_LIMITS = (0.0, 20.0)  # of a free normalisation, in units of the prediction


# --- Probabilities ---------------------------------------------------------------------------------------------


def significance(p_value: float) -> float:
    """Return how many standard deviations a one-sided p-value is: 0.1587 is 1 σ, 2.87e-7 is 5 σ; negative above 0.5."""
    if not 0.0 <= p_value <= 1.0:
        raise ValueError(f"p-value {p_value}; expected a probability from 0 to 1")
    return -float(ndtri(p_value))


def tail_probability(sigmas: float) -> float:
    """Return the one-sided p-value of so many standard deviations, the inverse of `significance`."""
    return float(ndtr(-sigmas))


def poisson_p_value(observed: int, background: float, background_error: float = 0.0) -> float:
    """Return the probability of so many events or more if there is only background.

    Parameters
    ----------
    observed
        Number of events.
    background
        Expected number of background events, above 0.
    background_error
        Its standard deviation. 0: the background is known. Else the background is taken as measured in a control region
        of n = b²/σ² events, τ = b/σ² times as large as the signal region, and the p-value is the exact binomial one of
        that pair of counts (Cousins, Linnemann, Tucker, eq. 14).

    Raises
    ------
    ValueError
        If there is no background, or a number is negative or not finite.
    """
    _check_not_negative(observed=observed, background=background, background_error=background_error)
    if background <= 0.0:
        raise ValueError("no background is expected; without one every event is a signal and no p-value exists")
    if observed == 0:
        return 1.0
    if background_error <= 1e-9 * background:
        return float(gammainc(observed, background))
    tau = background / background_error**2
    return float(betainc(observed, tau * background + 1.0, 1.0 / (1.0 + tau)))


def asimov_significance(signal: float, background: float, background_error: float = 0.0) -> float:
    """Return the median significance expected if there is a signal, in standard deviations.

    √(2((s + b) ln(1 + s/b) − s)) for a known background (Cowan et al., eq. 97), else with its uncertainty as in
    `poisson_p_value` (G. Cowan, "Discovery sensitivity for a counting experiment with background uncertainty", 2012,
    eq. 20).

    Raises
    ------
    ValueError
        If there is no background, or a number is negative or not finite.
    """
    _check_not_negative(signal=signal, background=background, background_error=background_error)
    if background <= 0.0:
        raise ValueError("no background is expected; no significance exists without one")
    s, b, variance = signal, background, background_error**2
    if background_error <= 1e-6 * background:
        return math.sqrt(max(0.0, 2.0 * ((s + b) * math.log1p(s / b) - s)))
    first = (s + b) * math.log((s + b) * (b + variance) / (b * b + (s + b) * variance))
    second = b * b / variance * math.log1p(variance * s / (b * (b + variance)))
    return math.sqrt(max(0.0, 2.0 * (first - second)))


def _check_not_negative(**numbers: float) -> None:
    for name, number in numbers.items():
        if not (math.isfinite(number) and number >= 0.0):
            raise ValueError(f"{name} = {number}; expected a finite number that is not negative")


# --- One window ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, repr=False)
class WindowTest:
    """How surprising the number of events in a mass window is if there is only background.

    Attributes
    ----------
    window
        Name of the window, in GeV.
    observed
        Events in the data.
    background, signal
        Events expected, from the simulation.
    background_error
        Standard deviation of `background`.
    p_value, significance
        With the background taken as known.
    p_value_uncertain, significance_uncertain
        With the uncertainty of the background.
    expected_significance
        Median if the signal is there (Asimov), with the uncertainty of the background.
    note
        What the result lacks, empty if it is complete.
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

    def __repr__(self) -> str:
        """Say in words what was found."""
        lines = [
            f"Window {self.window} GeV: {self.observed} events observed",
            f"  background  {self.background:.2f} ± {self.background_error:.2f} events, signal {self.signal:.2f}",
            f"  p-value     {self.p_value:.3g} = {self.significance:.2f} σ, background known",
            f"              {self.p_value_uncertain:.3g} = {self.significance_uncertain:.2f} σ, with its uncertainty",
            f"  expected    {self.expected_significance:.2f} σ if the signal is there",
        ]
        return "\n".join(lines + ([f"  {self.note}"] if self.note else []))


def window_significance(
    result: Result, window: str = "118-130", *, signal: str = SIGNAL, background_uncertainty: float = 0.0
) -> WindowTest:
    """Compare the number of events in a mass window with the background, all channels together.

    Parameters
    ----------
    result
        A result; a partial one is allowed, and the answer says so.
    window
        Name of a window, see `histograms.WINDOWS`.
    signal
        The process that is looked for; all other simulated processes are background.
    background_uncertainty
        Relative uncertainty of the background that is added (in quadrature) to that of the simulation's finite size.

    Raises
    ------
    KeyError
        If there is no such window or process; names the known ones.
    ValueError
        If there are no data, no background is expected, or a simulated sample has not been read at all.
    """
    _check_usable(result, signal)
    if window not in result.windows:
        raise KeyError(f"no window {window!r}; known: {', '.join(result.windows)}")
    _check_not_negative(background_uncertainty=background_uncertainty)
    counts = result.windows[window]
    roles = _roles(result, signal)
    observed = sum(one.events for name in roles["data"] for one in counts[name].values())
    expected = {
        role: sum(one.expected for name in roles[role] for one in counts[name].values())
        for role in ("signal", "background")
    }
    variance = sum(one.stat_error**2 for name in roles["background"] for one in counts[name].values())
    background = expected["background"]
    error = math.hypot(math.sqrt(variance), background_uncertainty * background)
    if background <= 0.0:
        raise ValueError(f"no background is expected in {window} GeV; choose a wider window or simulate more")
    known, uncertain = poisson_p_value(observed, background), poisson_p_value(observed, background, error)
    return WindowTest(
        window=window,
        observed=observed,
        background=background,
        background_error=error,
        signal=expected["signal"],
        p_value=known,
        significance=significance(known),
        p_value_uncertain=uncertain,
        significance_uncertain=significance(uncertain),
        expected_significance=asimov_significance(expected["signal"], background, error),
        note=_note(result),
    )


def _roles(result: Result, signal: str) -> dict[str, list[str]]:
    """Return the processes that are data, signal and background."""
    roles: dict[str, list[str]] = {"data": [], "signal": [], "background": []}
    for dataset in result.campaign.datasets:
        role = "data" if dataset.is_data else "signal" if dataset.process == signal else "background"
        if dataset.process not in roles[role]:
            roles[role].append(dataset.process)
    return roles


def _check_usable(result: Result, signal: str) -> None:
    """Complain about a result that nothing can be tested with."""
    roles = _roles(result, signal)
    name = result.campaign.name
    if not roles["data"]:
        raise ValueError(f"campaign {name!r} has no data to test; use one with data, or `asimov_significance`")
    if not roles["background"]:
        raise ValueError(f"campaign {name!r} has no simulated background to compare with; add a dataset for it")
    if not roles["signal"]:
        known = ", ".join(roles["background"])
        raise KeyError(f"no simulated process {signal!r} in campaign {name!r}; it has {known}: pass signal=...")
    if not result.coverage.events[0]:
        raise ValueError("nothing has been read yet; let the run go on")
    if result.unpredicted:
        raise ValueError(
            f"the prediction lacks {', '.join(result.unpredicted)}, of which nothing has been read\n"
            "Let the run go on, or leave these datasets out of the campaign."
        )


def _note(result: Result) -> str:
    """Return what a result lacks, in a few words."""
    kind = "simulated collisions" if result.simulated else ""
    if result.complete:
        return kind
    done, total = result.coverage.events
    failed = f", {len(result.failed)} files failed" if result.failed else ""
    share = f"PARTIAL result: {done:,} of {total:,} events{failed}"
    return f"{share}; {kind}" if kind else share


# --- The binned model ------------------------------------------------------------------------------------------


@dataclass(frozen=True, repr=False, eq=False)
class Model:
    """Observed counts and expected events in bins: strength × signal + Σ scale × background.

    Attributes
    ----------
    observed
        (n,) counts of the data.
    signal, signal_variance
        (n,) events expected at strength 1, and their variance from the finite simulation.
    backgrounds, background_variances
        The same for every background process.
    free
        Background processes whose normalisation is fitted.
    use_simulation_error
        Whether the finite number of simulated events is a source of uncertainty.
    bins
        For each bin the channel and its edges in GeV.
    key
        What random numbers are made from: campaign, selection, variable.
    note
        What the result lacks.
    """

    observed: Floats
    signal: Floats
    signal_variance: Floats
    backgrounds: Mapping[str, Floats]
    background_variances: Mapping[str, Floats]
    free: tuple[str, ...] = ()
    use_simulation_error: bool = True
    bins: tuple[tuple[str, float, float], ...] = ()
    key: str = ""
    note: str = ""

    def __repr__(self) -> str:
        """Say in one line what is compared."""
        background = sum(float(values.sum()) for values in self.backgrounds.values())
        return (
            f"Model of {len(self.observed)} bins: {self.observed.sum():g} events observed, "
            f"{self.signal.sum():.2f} signal and {background:.2f} background expected"
        )

    def expectation(self, strength: float, scales: Floats) -> tuple[Floats, Floats]:
        """Return expected events and their variance, each (n,), at a signal strength and the free scales."""
        mean, variance = strength * self.signal, strength**2 * self.signal_variance
        factors = dict(zip(self.free, scales, strict=True))
        for process, events in self.backgrounds.items():
            factor = factors.get(process, 1.0)
            mean = mean + factor * events
            variance = variance + factor**2 * self.background_variances[process]
        return np.maximum(mean, _TINY), variance if self.use_simulation_error else np.zeros_like(variance)

    def deviance(self, strength: float, scales: Floats) -> float:
        """Return −2 ln of the likelihood over that of a model that fits every bin exactly."""
        mean, variance = self.expectation(strength, scales)
        return float(_deviance(self.observed, mean, variance).sum())

    def with_observed(self, observed: Floats) -> Model:
        """Return the same model with other data, as for a toy."""
        return replace(self, observed=np.asarray(observed, np.float64))

    @property
    def lowest_strength(self) -> float:
        """The signal strength, negative, below which the prediction of some bin would be negative."""
        background = sum(self.backgrounds.values(), np.zeros_like(self.signal))
        has_signal = self.signal > 0
        return -float(np.min(background[has_signal] / self.signal[has_signal], initial=1e3)) * (1.0 - 1e-6)


def _deviance(observed: Floats, mean: Floats, variance: Floats) -> Floats:
    """Return the deviance of each bin.

    Where the prediction has a variance, its true value is a nuisance parameter with a Gaussian constraint, eliminated
    in closed form (Conway, eq. 8).
    """
    relative = variance / mean**2
    shift = 1.0 - mean * relative
    factor = np.where(relative > 0, 0.5 * (shift + np.sqrt(shift**2 + 4.0 * observed * relative)), 1.0)
    factor = np.maximum(factor, _TINY)  # a bin without data and with a wide constraint
    best = factor * mean
    penalty = np.divide((factor - 1.0) ** 2, relative, out=np.zeros_like(mean), where=relative > 0)
    return np.asarray(2.0 * (best - observed + xlogy(observed, observed) - xlogy(observed, best)) + penalty)


def model(
    result: Result,
    variable: str = "mass_4l",
    *,
    low: float | None = None,
    high: float | None = None,
    signal: str = SIGNAL,
    free: tuple[str, ...] = (),
    use_simulation_error: bool = True,
) -> Model:
    """Make the binned model of a result: the bins of one histogram, each channel by itself.

    Neighbouring bins of a channel are joined, from the left, until each holds `LEAST_SIMULATED` simulated background
    events: the data play no part in that.

    Parameters
    ----------
    result
        A result; a partial one is allowed, and the answer says so.
    variable
        Name of a histogram.
    low, high
        Range of the variable; both have to be edges of bins. Default: the whole axis.
    signal
        The process whose strength is fitted.
    free
        Background processes whose normalisation is fitted, too.
    use_simulation_error
        Whether the finite number of simulated events is a source of uncertainty.

    Raises
    ------
    KeyError
        If there is no such histogram or process; names the known ones.
    ValueError
        If there are no data, no background or no signal in the range, or low and high are no edges.
    """
    _check_usable(result, signal)
    roles = _roles(result, signal)
    for process in free:
        if process not in roles["background"]:
            raise KeyError(f"no background process {process!r} to leave free; known: {', '.join(roles['background'])}")
    edges = histograms.axis(variable).edges
    first, last = _bin_range(edges, low, high)
    counts = _template_counts(result, variable, first, last)
    groups = _groups(counts, roles["background"], edges[first : last + 1])
    joined = {name: _join(columns, groups) for name, columns in counts.items()}
    if not joined[signal][1].sum() > 0.0:
        raise ValueError(f"no {signal} events are expected in this range of {variable}; widen it or loosen the cuts")
    data = sum((joined[name][1] for name in roles["data"]), np.zeros(len(groups)))
    return Model(
        observed=data,
        signal=joined[signal][1],
        signal_variance=joined[signal][2],
        backgrounds={name: joined[name][1] for name in roles["background"]},
        background_variances={name: joined[name][2] for name in roles["background"]},
        free=tuple(free),
        use_simulation_error=use_simulation_error,
        bins=tuple((CHANNELS[channel], edges[first + start], edges[first + stop]) for channel, start, stop in groups),
        key=f"{result.campaign.digest} {result.selection.digest} {variable} {first} {last}",
        note=_note(result),
    )


def _bin_range(edges: Floats, low: float | None, high: float | None) -> tuple[int, int]:
    """Return the first bin and the one after the last."""
    found = []
    for name, limit in (("low", edges[0] if low is None else low), ("high", edges[-1] if high is None else high)):
        nearest = int(np.argmin(np.abs(edges - limit)))
        if abs(edges[nearest] - limit) > 1e-9:
            raise ValueError(f"{name} = {limit:g} is no edge of a bin; the nearest one is {edges[nearest]:g}")
        found.append(nearest)
    if found[0] >= found[1]:
        raise ValueError(f"low = {low} is not below high = {high}")
    return found[0], found[1]


_Template = tuple[Integers, Floats, Floats]  # counts, expected events, variance; (channels, bins) or (bins,)


def _template_counts(result: Result, variable: str, first: int, last: int) -> dict[str, _Template]:
    """Return for every process counts, expected events and their variance, each (3, last − first)."""
    templates: dict[str, _Template] = {}
    for dataset in result.campaign.datasets:
        counts = histograms.counts_of(result.counts[dataset.name], variable)[:, 1:-1][:, first:last]
        weights = np.array([[result.weights[dataset.name][channel]] for channel in CHANNELS])
        one = (counts, counts * weights, counts * weights**2)
        before = templates.get(dataset.process, (0, 0.0, 0.0))
        templates[dataset.process] = (before[0] + one[0], before[1] + one[1], before[2] + one[2])
    return templates


def _groups(counts: Mapping[str, _Template], backgrounds: list[str], edges: Floats) -> list[tuple[int, int, int]]:
    """Return the joined bins as (channel, first bin, one after the last)."""
    simulated = sum((counts[name][0] for name in backgrounds), np.zeros((len(CHANNELS), len(edges) - 1), np.int64))
    groups: list[tuple[int, int, int]] = []
    for channel in range(len(CHANNELS)):
        starts, held = [0], 0
        for index, number in enumerate(simulated[channel]):
            held += number
            if held >= LEAST_SIMULATED:
                starts.append(index + 1)
                held = 0
        if len(starts) > 1:
            starts[-1] = len(edges) - 1  # what is left at the end goes to the last bin
            groups.extend((channel, start, stop) for start, stop in pairwise(starts))
        elif simulated[channel].sum() or any(template[0][channel].sum() for template in counts.values()):
            groups.append((channel, 0, len(edges) - 1))
    _check_background(counts, backgrounds, groups)
    return groups


def _check_background(
    counts: Mapping[str, _Template], backgrounds: list[str], groups: list[tuple[int, int, int]]
) -> None:
    """Complain about a bin without any background."""
    for channel, start, stop in groups:
        if not sum(counts[name][1][channel, start:stop].sum() for name in backgrounds) > 0.0:
            raise ValueError(
                f"no background is expected in channel {CHANNELS[channel]} in this range; widen it, or simulate more"
            )
    if not groups:
        raise ValueError("no event of any process is in this range; widen it or loosen the cuts")


def _join(template: _Template, groups: list[tuple[int, int, int]]) -> _Template:
    """Return a template in the joined bins, each (len(groups),)."""
    counts, expected, variance = (
        np.array([column[channel, start:stop].sum() for channel, start, stop in groups]) for column in template
    )
    return counts, expected.astype(np.float64), variance.astype(np.float64)


# --- The fit ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Best:
    """Where the likelihood is largest, and how large: strength, free scales, deviance."""

    strength: float
    scales: Floats
    deviance: float


def _fit(model: Model, strength: float | None = None) -> _Best:
    """Maximise the likelihood over the free scales and, unless it is given, the strength."""
    start = np.ones(1 + len(model.free))
    start[0] = 1.0 if strength is None else strength
    if strength is not None and not model.free:
        return _Best(strength, start[1:], model.deviance(strength, start[1:]))
    minuit = _minuit(model, start)
    minuit.fixed[0] = strength is not None
    minuit.migrad()
    if not minuit.valid:
        minuit.simplex().migrad()
    values = np.array(minuit.values)
    return _Best(float(values[0]), values[1:], float(minuit.fval or 0.0))


def _minuit(model: Model, start: Floats) -> Minuit:
    from iminuit import Minuit

    def deviance(values: Floats) -> float:
        return model.deviance(values[0], values[1:])

    minuit = Minuit(deviance, start, name=("strength", *model.free))
    minuit.errordef = Minuit.LEAST_SQUARES  # the deviance rises by 1, as a chi-squared does
    minuit.limits = [(model.lowest_strength, None), *(_SCALE_LIMITS for _ in model.free)]
    minuit.tol = 0.01
    return minuit


def _statistics(model: Model) -> tuple[float, _Best]:
    """Return q₀ = −2 ln(L(0) / L(best)), which is 0 where the best strength is negative (Cowan et al., eq. 12)."""
    best, none = _fit(model), _fit(model, 0.0)
    return (max(0.0, none.deviance - best.deviance) if best.strength > 0.0 else 0.0), best


@dataclass(frozen=True, repr=False, eq=False)
class StrengthFit:
    """How much signal there is, in units of the prediction.

    Attributes
    ----------
    signal_strength, error_low, error_high
        Best value, and how far below and above it the deviance rises by 1 (both positive). Where no prediction exists
        any more below the best value, `error_low` reaches to there.
    significance, p_value
        Of the observed data against background alone: √q₀, asymptotic (Cowan et al.).
    expected_significance
        The same for data exactly as predicted with strength 1 (Asimov).
    scales
        Best normalisation of each free background.
    scan_strength, scan_deviance
        (n,) The profile: −2 ln L less its smallest value, with the free scales fitted anew at each strength.
    goodness_of_fit
        p-value of the best fit's deviance as a chi-squared: rough where bins hold few events, see `toys`.
    degrees_of_freedom
        Bins less fitted parameters.
    model
        What was fitted.
    """

    signal_strength: float
    error_low: float
    error_high: float
    significance: float
    p_value: float
    expected_significance: float
    scales: Mapping[str, float]
    scan_strength: Floats
    scan_deviance: Floats
    deviance: float
    degrees_of_freedom: int
    goodness_of_fit: float
    model: Model

    def __repr__(self) -> str:
        """Say in words what was found."""
        errors = f"+{self.error_high:.2f} −{self.error_low:.2f}"
        fit = f"deviance {self.deviance:.1f} for {self.degrees_of_freedom} degrees of freedom"
        lines = [
            f"Signal strength {self.signal_strength:.2f} {errors} (1 is the prediction; statistical errors)",
            f"  observed      {self.significance:.2f} σ (p = {self.p_value:.2g})",
            f"  expected      {self.expected_significance:.2f} σ if the signal is there",
            f"  fit           {fit}, p = {self.goodness_of_fit:.2g}",
        ]
        lines += [f"  {process:13} × {scale:.2f} fitted" for process, scale in self.scales.items()]
        return "\n".join(lines + ([f"  {self.model.note}"] if self.model.note else []))


def fit_signal_strength(
    result: Result | Model,
    variable: str = "mass_4l",
    *,
    low: float | None = None,
    high: float | None = None,
    signal: str = SIGNAL,
    free: tuple[str, ...] = (),
    use_simulation_error: bool = True,
    scan_points: int = 41,
) -> StrengthFit:
    """Fit how much signal there is, with a binned likelihood in all three channels at once.

    Each bin is a Poisson count; its expectation is strength × signal + Σ background. Left out: the mass (templates do
    not move), luminosity, cross sections, lepton scale, efficiencies. The finite simulation is one Gaussian nuisance
    parameter per bin.

    Parameters
    ----------
    result
        A result, complete or not, or a `Model` made from one.
    variable, low, high, signal, free, use_simulation_error
        See `model`; with a `Model` they are ignored.
    scan_points
        How many points the profile has.

    Raises
    ------
    KeyError, ValueError
        As `model` does.
    """
    if scan_points < 2:
        raise ValueError(f"scan_points = {scan_points}; expected at least 2")
    options = {"low": low, "high": high, "signal": signal, "free": free, "use_simulation_error": use_simulation_error}
    fitted = result if isinstance(result, Model) else model(result, variable, **options)  # type: ignore[arg-type]
    q0, best = _statistics(fitted)

    def rise(strength: float) -> float:
        return _fit(fitted, strength).deviance - best.deviance

    below, above = _crossings(rise, best.strength, fitted.lowest_strength)
    scan = np.linspace(
        max(best.strength - 2.5 * (best.strength - below), fitted.lowest_strength),
        best.strength + 2.5 * (above - best.strength),
        scan_points,
    )
    freedom = len(fitted.observed) - 1 - len(fitted.free)
    return StrengthFit(
        signal_strength=best.strength,
        error_low=best.strength - below,
        error_high=above - best.strength,
        significance=math.sqrt(q0),
        p_value=tail_probability(math.sqrt(q0)),
        expected_significance=math.sqrt(_statistics(_asimov(fitted))[0]),
        scales=dict(zip(fitted.free, map(float, best.scales), strict=True)),
        scan_strength=scan,
        scan_deviance=np.array([rise(strength) for strength in scan]),
        deviance=best.deviance,
        degrees_of_freedom=freedom,
        goodness_of_fit=float(chdtrc(freedom, best.deviance)) if freedom > 0 else math.nan,
        model=fitted,
    )


def _asimov(model: Model) -> Model:
    """Return the model with data exactly as expected at strength 1."""
    return model.with_observed(model.expectation(1.0, np.ones(len(model.free)))[0])


def _crossings(rise: Callable[[float], float], best: float, lowest: float) -> tuple[float, float]:
    """Return the strengths below and above the best one where the deviance has risen by 1."""
    step = max(0.1, 0.1 * abs(best))
    above = best + step
    while rise(above) < 1.0:
        above += 2.0 * (above - best)
    below = max(best - step, lowest)
    while rise(below) < 1.0 and below > lowest:
        below = max(below - 2.0 * (best - below), lowest)
    high = float(brentq(lambda strength: rise(strength) - 1.0, best, above, xtol=1e-4))
    if below <= lowest and rise(lowest) < 1.0:
        return lowest, high
    return float(brentq(lambda strength: rise(strength) - 1.0, below, best, xtol=1e-4)), high


# --- Toys ------------------------------------------------------------------------------------------------------


def generator(purpose: str, number: int = 0) -> np.random.Generator:
    """Return the random numbers that belong to a purpose, and there to a number: counter-based, never global.

    Parameters
    ----------
    purpose
        Any text; its sha256 is the key of numpy's Philox.
    number
        Each has 2¹²⁸ numbers of its own, as the upper half of the counter.
    """
    digest = hashlib.sha256(purpose.encode()).digest()
    key = np.frombuffer(digest[:16], "<u8")
    return np.random.Generator(np.random.Philox(key=key, counter=[0, 0, number, 0]))


@dataclass(frozen=True, repr=False, eq=False)
class Toys:
    """The test statistic in imagined repetitions of the experiment.

    Attributes
    ----------
    true_strength
        The signal strength that the toys were made with.
    statistics
        (n,) q₀ of each toy.
    strengths
        (n,) the fitted strength of each toy.
    deviances
        (n,) the deviance of each toy's best fit.
    """

    true_strength: float
    statistics: Floats
    strengths: Floats
    deviances: Floats

    def __repr__(self) -> str:
        """Say in one line what was made."""
        return (
            f"{len(self.statistics)} toys with signal strength {self.true_strength:g}: "
            f"fitted {self.strengths.mean():.2f} ± {self.strengths.std():.2f}, median {self.median_significance:.2f} σ"
        )

    @property
    def median_significance(self) -> float:
        """Median of √q₀."""
        return float(np.sqrt(np.median(self.statistics)))

    def p_value(self, statistic: float) -> tuple[float, float]:
        """Return the share of toys at least as extreme as a q₀, and its standard deviation; never exactly 0.

        (k + 1) / (n + 1) for k of n toys: the observed experiment counts as one of them.
        """
        return _share(int(np.count_nonzero(self.statistics >= statistic)), len(self.statistics))

    def goodness_of_fit(self, deviance: float) -> tuple[float, float]:
        """Return the share of toys whose best fit is at least as bad as a deviance, and its standard deviation."""
        return _share(int(np.count_nonzero(self.deviances >= deviance)), len(self.deviances))


def _share(passed: int, number: int) -> tuple[float, float]:
    """Return (k + 1) / (n + 1) and its binomial standard deviation."""
    share = (passed + 1) / (number + 1)
    return share, math.sqrt(share * (1.0 - share) / (number + 1))


def toys(result: Result | Model, n: int = TOYS, *, strength: float = 0.0, **options: Any) -> Toys:
    """Repeat the experiment in imagination: draw the counts of every bin, fit, collect the test statistic.

    Where the finite simulation counts as a source of uncertainty, the prediction of each bin is drawn, too. Free
    normalisations are kept at the values fitted to the data with this strength.

    Parameters
    ----------
    result
        A result, or a `Model` made from one.
    n
        How many toys.
    strength
        The signal strength that they are made with: 0 for background alone.
    **options
        Those of `model`.

    Raises
    ------
    KeyError, ValueError
        As `model` does, and if n is less than 1 or the strength negative.
    """
    if n < 1:
        raise ValueError(f"n = {n}; expected at least one toy")
    _check_not_negative(strength=strength)
    made = result if isinstance(result, Model) else model(result, **options)
    mean, variance = made.expectation(strength, _fit(made, strength).scales)
    collected = np.empty((n, 3))
    for number in range(n):
        draws = generator(f"toys {strength!r} {made.key}", number)
        true = np.maximum(draws.normal(mean, np.sqrt(variance)), 0.0) if variance.any() else mean
        statistic, best = _statistics(made.with_observed(draws.poisson(true).astype(np.float64)))
        collected[number] = statistic, best.strength, best.deviance
    return Toys(strength, *np.ascontiguousarray(collected.T))


# --- Looking everywhere ----------------------------------------------------------------------------------------


@dataclass(frozen=True, repr=False, eq=False)
class WindowScan:
    """The most surprising of many windows, and how often chance alone does as well somewhere.

    Attributes
    ----------
    low, high
        (n,) edges of the windows in GeV.
    observed, background
        (n,) events in each.
    local_p_values
        (n,) probability of so many or more in this window, background known.
    best
        Index of the window with the smallest one.
    global_p_value, global_p_value_error
        Probability that any window is at least as surprising as the best one, from toys of background alone, and its
        standard deviation.
    n_toys
        How many.
    note
        What the result lacks.
    """

    low: Floats
    high: Floats
    observed: Integers
    background: Floats
    local_p_values: Floats
    best: int
    global_p_value: float
    global_p_value_error: float
    n_toys: int
    note: str = ""

    @property
    def local_significance(self) -> float:
        """Of the best window, in standard deviations."""
        return significance(float(self.local_p_values[self.best]))

    @property
    def global_significance(self) -> float:
        """The same after the correction for having looked at all windows."""
        return significance(self.global_p_value)

    @property
    def trials_factor(self) -> float:
        """How many times likelier chance is anywhere than there."""
        return self.global_p_value / float(self.local_p_values[self.best])

    def __repr__(self) -> str:
        """Say in words what was found."""
        i = self.best
        bound = "<" if self.global_p_value * (self.n_toys + 1) < 1.5 else "="
        everywhere = f"p {bound} {self.global_p_value:.2g} ± {self.global_p_value_error:.1g}"
        lines = [
            f"Largest excess of {len(self.low)} windows: {self.low[i]:g} to {self.high[i]:g} GeV",
            f"  observed  {self.observed[i]} events where {self.background[i]:.2f} are expected",
            f"  local     p = {self.local_p_values[i]:.2g}, {self.local_significance:.2f} σ",
            f"  global    {everywhere}, {self.global_significance:.2f} σ ({self.n_toys:,} toys)",
        ]
        return "\n".join(lines + ([f"  {self.note}"] if self.note else []))


def scan_windows(
    result: Result,
    *,
    low: float = 100.0,
    high: float = 181.0,
    width: float = 9.0,
    variable: str = "mass_4l",
    signal: str = SIGNAL,
    n_toys: int = 10_000,
) -> WindowScan:
    """Look for an excess anywhere: a window is moved over the spectrum, bin by bin, all channels together.

    The background is taken as known. What is left out: windows of other widths, and the uncertainty of the background.

    Parameters
    ----------
    result
        A result; a partial one is allowed, and the answer says so.
    low, high
        Where to look; edges of bins, in GeV.
    width
        Width of the window in GeV, a multiple of the bins' width.
    variable
        Name of a histogram.
    signal
        The process that does not count as background.
    n_toys
        How many imagined spectra of background alone.

    Raises
    ------
    KeyError, ValueError
        As `model` does, and if the width fits no bins or a window expects no background.
    """
    _check_usable(result, signal)
    if n_toys < 1:
        raise ValueError(f"n_toys = {n_toys}; expected at least one toy")
    edges = histograms.axis(variable).edges
    first, last = _bin_range(edges, low, high)
    span = round(width / (edges[1] - edges[0]))
    if not 1 <= span <= last - first or abs(span * (edges[1] - edges[0]) - width) > 1e-9:
        raise ValueError(
            f"width = {width:g}; expected a multiple of the bin width {edges[1] - edges[0]:g}, at most {high - low:g}"
        )
    templates, roles = _template_counts(result, variable, first, last), _roles(result, signal)
    observed = sum(templates[name][0].sum(axis=0) for name in roles["data"])
    mean = sum(templates[name][1].sum(axis=0) for name in roles["background"])
    background = _sliding(np.asarray(mean, np.float64), span)
    if not (background > 1e-9).all():
        empty = edges[first + int(np.argmin(background))]
        raise ValueError(f"no background is expected in the {width:g} GeV above {empty:g}; widen the window")
    counts = _sliding(np.asarray(observed, np.int64), span)
    local = _p_values(counts, background)
    draws = generator(f"scan {result.campaign.digest} {result.selection.digest} {variable} {first} {last}")
    smallest = _p_values(_sliding(draws.poisson(mean, (n_toys, last - first)), span), background).min(axis=-1)
    best = int(np.argmin(local))
    share, error = _share(int(np.count_nonzero(smallest <= local[best] * (1.0 + 1e-12))), n_toys)
    return WindowScan(
        low=edges[first : last - span + 1],
        high=edges[first + span : last + 1],
        observed=counts,
        background=background,
        local_p_values=local,
        best=best,
        global_p_value=share,
        global_p_value_error=error,
        n_toys=n_toys,
        note=_note(result),
    )


def _sliding(values: npt.NDArray[Any], span: int) -> npt.NDArray[Any]:
    """Return the sums of every `span` neighbours along the last axis."""
    sums = np.cumsum(values, axis=-1)
    first = np.zeros((*values.shape[:-1], 1), sums.dtype)
    return np.asarray(sums[..., span - 1 :] - np.concatenate((first, sums[..., :-span]), axis=-1))


def _p_values(counts: npt.NDArray[Any], background: Floats) -> Floats:
    """Return the probability of so many events or more in each window."""
    return np.where(counts > 0, gammainc(np.maximum(counts, 1), background), 1.0)
