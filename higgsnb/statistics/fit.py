"""Is it a signal, and how much of it: counts in a window, a binned likelihood, toys, and a scan for a peak anywhere.

Not included: the mass of the particle is not fitted (the templates stay where the simulation has them); luminosity,
cross sections, lepton scale and efficiencies are taken as known, unless the normalisation of a process is
unconstrained; the reducible background is taken from simulation. Included: the Poisson fluctuations of the data and,
optionally, the finite number of simulated events.

Every random number comes from a counter-based generator (Philox) whose key is made from the campaign, the selection and
the purpose: the same call gives the same toys anywhere, and toy number 7 is the same whether 10 or 10,000 are made.

References: Cowan, Cranmer, Gross, Vitells, Eur. Phys. J. C 71 (2011) 1554 (likelihood ratio, Asimov); Cousins,
Linnemann, Tucker, Nucl. Instrum. Meth. A 595 (2008) 480 (uncertain background); Barlow, Beeston, Comput. Phys. Commun.
77 (1993) 219, in the form of Conway, arXiv:1103.0354 (finite simulation).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise, product
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq
from scipy.special import betainc, chdtrc, gammainc, ndtr, ndtri, xlogy

from higgsnb.errors import OptionError
from higgsnb.results import CHANNEL_PRIMARY_DATASETS, PRIMARY_DATASET_ORDER
from higgsnb.selection import CHANNELS

if TYPE_CHECKING:
    from higgsnb.results import Result, Spectrum

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

SIGNAL = "higgs"
LEAST_SIMULATED = 10
"""Bins of a fit are joined until each holds this many simulated background events."""
TOYS = 1000
_TINY = 1e-12  # floor of a prediction, in events, that avoids log(0)
_NORM_FACTOR_LIMITS = (0.0, 20.0)  # of an unconstrained normalisation, in units of the prediction
_NORM_FACTORS = (0.02, 0.1, 0.3, 0.7, 1.0, 1.5, 3.0, 6.0, 12.0)  # start of the search for it
_ZOOMS = 9  # each makes the steps 5.5 times finer
_SEARCHES = 3


# --- Probabilities ---------------------------------------------------------------------------------------------


def significance(p_value: float) -> float:
    """Return how many standard deviations a one-sided p-value is: 0.1587 is 1 σ, 2.87e-7 is 5 σ; negative above 0.5."""
    if not 0.0 <= p_value <= 1.0:
        raise OptionError(f"p-value {p_value}; expected a probability from 0 to 1")
    return -float(ndtri(p_value))


def p_value_of(sigmas: float) -> float:
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
        raise OptionError("no background is expected", "Without any background there is no p-value.")
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
        raise OptionError("no background is expected", "Without any background there is no significance.")
    s, b, variance = signal, background, background_error**2
    if background_error <= 1e-6 * background:
        return math.sqrt(max(0.0, 2.0 * ((s + b) * math.log1p(s / b) - s)))
    first = (s + b) * math.log((s + b) * (b + variance) / (b * b + (s + b) * variance))
    second = b * b / variance * math.log1p(variance * s / (b * (b + variance)))
    return math.sqrt(max(0.0, 2.0 * (first - second)))


def _check_not_negative(**numbers: float) -> None:
    for name, number in numbers.items():
        if not (math.isfinite(number) and number >= 0.0):
            raise OptionError(f"{name} = {number}; expected a finite number that is not negative")


# --- One window ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, repr=False)
class WindowTest:
    """The number of events in a mass window compared with background alone.

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
        What is missing from the result; empty if it is complete.
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
        """Return the result in words."""
        lines = [
            f"Window {self.window} GeV: {self.observed} events observed",
            f"  background  {self.background:.2f} ± {self.background_error:.2f} events, signal {self.signal:.2f}",
            f"  p-value     {self.p_value:.3g} = {self.significance:.2f} σ, background known",
            f"              {self.p_value_uncertain:.3g} = {self.significance_uncertain:.2f} σ, with its uncertainty",
            f"  expected    {self.expected_significance:.2f} σ if the signal is there",
        ]
        return "\n".join(lines + ([f"  {self.note}"] if self.note else []))


def counting_test(
    result: Result, window: str = "118-130", *, signal: str = SIGNAL, background_uncertainty: float = 0.0
) -> WindowTest:
    """Compare the number of events in a mass window with the background, all channels together.

    Parameters
    ----------
    result
        A result; may be partial, which the note then says.
    window
        Name of a window, see `histograms.WINDOWS`.
    signal
        The process to look for; all other simulated processes are background.
    background_uncertainty
        Relative uncertainty of the background, added in quadrature to that from the finite simulation.

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
    counted = result.windows[window]
    channels = [CHANNELS[channel] for channel in _read_channels(result)]
    backgrounds = [counted[process][channel] for process in _backgrounds(result, signal) for channel in channels]
    observed = sum(counted["data"][channel].events for channel in channels)
    expected_signal = sum(counted[signal][channel].expected for channel in channels)
    background = sum(one.expected for one in backgrounds)
    variance = sum(one.stat_error**2 for one in backgrounds)
    error = math.hypot(math.sqrt(variance), background_uncertainty * background)
    if background <= 0.0:
        raise OptionError(
            f"no background is expected in {window} GeV", "Choose a wider window, or simulate more events."
        )
    known, uncertain = poisson_p_value(observed, background), poisson_p_value(observed, background, error)
    return WindowTest(
        window=window,
        observed=observed,
        background=background,
        background_error=error,
        signal=expected_signal,
        p_value=known,
        significance=significance(known),
        p_value_uncertain=uncertain,
        significance_uncertain=significance(uncertain),
        expected_significance=asimov_significance(expected_signal, background, error),
        note=_note(result),
    )


def _backgrounds(result: Result, signal: str) -> list[str]:
    """Return the simulated processes other than the signal, in the order of the campaign."""
    processes = dict.fromkeys(dataset.process for dataset in result.campaign.datasets if not dataset.is_data)
    return [process for process in processes if process != signal]


def _check_usable(result: Result, signal: str) -> None:
    """Raise a ValueError or KeyError if nothing can be tested with a result."""
    backgrounds, campaign = _backgrounds(result, signal), result.campaign
    if not any(dataset.is_data for dataset in campaign.datasets):
        raise OptionError(
            f"campaign {campaign.name!r} has no data to test", "Use a campaign with data, or `asimov_significance`."
        )
    if not backgrounds:
        raise OptionError(
            f"campaign {campaign.name!r} has no simulated background to compare with", "Add a dataset for it."
        )
    if not any(dataset.process == signal and not dataset.is_data for dataset in campaign.datasets):
        known = ", ".join(backgrounds)
        raise KeyError(
            f"no simulated process {signal!r} in campaign {campaign.name!r}; it has {known}: pass signal=..."
        )
    if not result.coverage.events[0]:
        raise OptionError("nothing has been read yet", "Wait until the run has read some events.")
    if result.missing_simulation:
        raise OptionError(
            f"the prediction lacks {', '.join(result.missing_simulation)}, of which nothing has been read",
            "Wait until the run has read some of them, or leave these datasets out of the campaign.",
        )
    if not _read_channels(result):
        failed = f"; {len(result.failed)} files failed, see result.failed" if result.failed else ""
        raise OptionError(
            f"no data have been read yet, only simulation{failed}", "Wait until the run has read some data."
        )


def _read_channels(result: Result) -> list[int]:
    """Return the channels with processed luminosity; no others can be compared with a prediction."""
    return [channel for channel, name in enumerate(CHANNELS) if result.luminosity.shares[name] > 0.0]


def _note(result: Result) -> str:
    """Return what is missing from a result, in a few words: events, real data, channels without luminosity."""
    notes = []
    if not result.complete:
        done, total = result.coverage.events
        failed = f", {len(result.failed)} files failed" if result.failed else ""
        notes.append(f"PARTIAL result: {done:,} of {total:,} events{failed}")
    if result.simulated:
        notes.append("simulated collisions")
    unread = sorted(set(range(len(CHANNELS))) - set(_read_channels(result)))
    if unread:
        missing = [
            name
            for name in PRIMARY_DATASET_ORDER
            if any(name in CHANNEL_PRIMARY_DATASETS[one] and one in result.selection.channels(name) for one in unread)
        ]
        names = ", ".join(CHANNELS[channel] for channel in unread)
        notes.append(f"without {names}: no luminosity of {' or '.join(missing)} processed")
    return "; ".join(notes)


# --- The binned model ------------------------------------------------------------------------------------------


@dataclass(frozen=True, repr=False, eq=False)
class Model:
    """Observed counts and expected events in bins: strength × signal + Σ norm factor × background.

    Attributes
    ----------
    observed
        (n,) counts of the data.
    signal, signal_variance
        (n,) events expected at strength 1, and their variance from the finite simulation.
    backgrounds, background_variances
        The same for every background process.
    unconstrained
        Background processes whose normalisation is fitted.
    use_simulation_error
        Whether the finite number of simulated events is a source of uncertainty.
    bins
        For each bin the channel and its edges in GeV.
    key
        Seed of the random numbers: campaign, selection, variable.
    note
        What is missing from the result.
    """

    observed: Floats
    signal: Floats
    signal_variance: Floats
    backgrounds: Mapping[str, Floats]
    background_variances: Mapping[str, Floats]
    unconstrained: tuple[str, ...] = ()
    use_simulation_error: bool = True
    bins: tuple[tuple[str, float, float], ...] = ()
    key: str = ""
    note: str = ""

    def __repr__(self) -> str:
        """Return one line: bins, events observed and expected."""
        background = sum(float(values.sum()) for values in self.backgrounds.values())
        return (
            f"Model of {len(self.observed)} bins: {self.observed.sum():g} events observed, "
            f"{self.signal.sum():.2f} signal and {background:.2f} background expected"
        )

    def expectation(self, strength: float | Floats, norm_factors: Floats) -> tuple[Floats, Floats]:
        """Return expected events and their variance, each (n,), at a signal strength and norm factors.

        Also for m of both at once: strength (m, 1), norm_factors (unconstrained, m, 1), the result (m, n).
        """
        mean, variance = strength * self.signal, strength**2 * self.signal_variance
        factors = dict(zip(self.unconstrained, norm_factors, strict=True))
        for process, events in self.backgrounds.items():
            factor = factors.get(process, 1.0)
            mean = mean + factor * events
            variance = variance + factor**2 * self.background_variances[process]
        return np.maximum(mean, _TINY), variance if self.use_simulation_error else np.zeros_like(variance)

    def twice_nll(self, strength: float, norm_factors: Floats) -> float:
        """Return −2 ln of the likelihood ratio to a model that fits every bin exactly (the deviance)."""
        mean, variance = self.expectation(strength, norm_factors)
        return float(_twice_nll(self.observed, mean, variance).sum())

    def with_observed(self, observed: Floats) -> Model:
        """Return the same model with other data, for instance those of a toy."""
        return replace(self, observed=np.asarray(observed, np.float64))

    def lowest_strength(self, norm_factors: Floats) -> Floats:
        """Return the signal strength, negative, below which the prediction of some bin would be negative.

        One for norm_factors (unconstrained,), m for norm_factors (unconstrained, m, 1).
        """
        background, has_signal = self.expectation(0.0, norm_factors)[0], self.signal > 0
        return np.asarray((1e-6 - 1.0) * (background[..., has_signal] / self.signal[has_signal]).min(axis=-1))

    @property
    def highest_strength(self) -> float:
        """The signal strength at which the signal is a hundred times all observed and background events."""
        events = self.observed.sum() + sum(values.sum() for values in self.backgrounds.values())
        return float(100.0 * (events + 1.0) / self.signal.sum())


def _twice_nll(observed: Floats, mean: Floats, variance: Floats) -> Floats:
    """Return −2 ln of the likelihood ratio of each bin, see `Model.twice_nll`.

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
    unconstrained: Sequence[str] = (),
    use_simulation_error: bool = True,
) -> Model:
    """Make the binned model of a result: the bins of one histogram, each channel by itself.

    Neighbouring bins of a channel are joined, from the left, until each holds `LEAST_SIMULATED` simulated background
    events, whatever the data.

    Parameters
    ----------
    result
        A result; may be partial, which the note then says.
    variable
        Name of a histogram.
    low, high
        Range of the variable; both have to be bin edges. Default: the whole axis.
    signal
        The process whose strength is fitted.
    unconstrained
        Background processes whose normalisation is fitted, too.
    use_simulation_error
        Whether the finite number of simulated events is a source of uncertainty.

    Raises
    ------
    KeyError
        If there is no such histogram or process; names the known ones.
    ValueError, TypeError
        If there are no data, no background or no signal in the range, low or high is not a bin edge, or unconstrained
        is a str.
    """
    _check_usable(result, signal)
    backgrounds = _backgrounds(result, signal)
    if isinstance(unconstrained, str):
        raise TypeError(f"unconstrained = {unconstrained!r}; expected a tuple of processes: ({unconstrained!r},)")
    for process in unconstrained:
        if process not in backgrounds:
            raise KeyError(f"no background process {process!r}; known: {', '.join(backgrounds)}")
    if len(set(unconstrained)) < len(unconstrained):
        raise OptionError(f"unconstrained = {', '.join(unconstrained)}", "Give each process once.")
    whole = result.spectrum(variable)
    bins, spectrum = whole.bins_between(low, high), whole.between(low, high)
    groups = _groups(spectrum, backgrounds, _read_channels(result))

    def joined(values: npt.NDArray[Any] | None) -> Floats:
        return np.array([np.asarray(values)[channel, start:stop].sum() for channel, start, stop in groups], np.float64)

    if not joined(spectrum.stack[signal]).sum() > 0.0:
        raise OptionError(
            f"no {signal} events are expected in this range of {variable}", "Widen the range, or loosen the cuts."
        )
    return Model(
        observed=joined(spectrum.data),
        signal=joined(spectrum.stack[signal]),
        signal_variance=joined(spectrum.variances[signal]),
        backgrounds={process: joined(spectrum.stack[process]) for process in backgrounds},
        background_variances={process: joined(spectrum.variances[process]) for process in backgrounds},
        unconstrained=tuple(unconstrained),
        use_simulation_error=use_simulation_error,
        bins=tuple((CHANNELS[channel], spectrum.edges[start], spectrum.edges[stop]) for channel, start, stop in groups),
        key=f"{result.campaign.digest} {result.selection.digest} {variable} {bins.start} {bins.stop}",
        note=_note(result),
    )


def _groups(spectrum: Spectrum, backgrounds: list[str], channels: list[int]) -> list[tuple[int, int, int]]:
    """Return the joined bins as (channel, first bin, one after the last)."""
    simulated = sum((spectrum.simulated[process] for process in backgrounds), np.zeros((), np.int64))
    counted = np.asarray(spectrum.data) + sum(spectrum.simulated.values())
    end = len(spectrum.edges) - 1
    groups: list[tuple[int, int, int]] = []
    for channel in channels:
        starts, held = [0], 0
        for index, number in enumerate(simulated[channel]):
            held += number
            if held >= LEAST_SIMULATED:
                starts.append(index + 1)
                held = 0
        if len(starts) > 1:
            starts[-1] = end  # the bins left over at the end are joined to the last one
            groups.extend((channel, start, stop) for start, stop in pairwise(starts))
        elif counted[channel].any():
            groups.append((channel, 0, end))
    if not groups:
        raise OptionError("no event of any process is in this range", "Widen the range, or loosen the cuts.")
    background = sum((spectrum.stack[process] for process in backgrounds), np.zeros(()))
    for channel, start, stop in groups:
        if not background[channel, start:stop].sum() > 0.0:
            raise OptionError(
                f"no background is expected in channel {CHANNELS[channel]} in this range",
                "Widen the range, or wait until more simulated events have been read.",
            )
    return groups


# --- The fit ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Best:
    """The maximum of the likelihood."""

    strength: float
    norm_factors: Floats
    twice_nll: float


def _fit(model: Model, strength: float | None = None) -> _Best:
    """Maximise the likelihood over the norm factors and, unless it is given, the strength.

    With a finite simulation there may be several maxima, also at the edge of the allowed range, and a search from one
    starting point may end at the wrong one. A coarse grid over the whole range therefore comes first.
    """
    if not model.signal.sum() > 0.0:
        raise ValueError("no signal is expected in any bin; its strength cannot be fitted")
    points = _grid(model, strength)
    return _search(model, points, strength) if model.unconstrained else _zoom(model, points[0])


def _grid(model: Model, strength: float | None) -> Floats:
    """Return a coarse grid over the allowed range, (1 + unconstrained, m); without norm factors strengths rise."""
    n = len(model.unconstrained)
    steps = (*_NORM_FACTORS[:: max(1, n)], _NORM_FACTOR_LIMITS[1])
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


def _twice_nlls(model: Model, points: Floats) -> Floats:
    """Return −2 ln L at each of some strengths and norm factors, (1 + unconstrained, m)."""
    mean, variance = model.expectation(points[0][:, None], points[1:][..., None])
    return np.asarray(_twice_nll(model.observed, mean, variance).sum(axis=-1))


def _zoom(model: Model, strengths: Floats) -> _Best:
    """Return the best of some strengths, refined between its neighbours in finer and finer steps."""
    twice_nll = _twice_nlls(model, strengths[None])
    for _ in range(_ZOOMS if len(strengths) > 1 else 0):
        best = int(np.argmin(twice_nll))
        strengths = np.linspace(strengths[max(best - 1, 0)], strengths[min(best + 1, len(strengths) - 1)], 12)
        twice_nll = _twice_nlls(model, strengths[None])
    best = int(np.argmin(twice_nll))
    return _Best(float(strengths[best]), np.empty(0), float(twice_nll[best]))


def _search(model: Model, points: Floats, strength: float | None) -> _Best:
    """Minimise −2 ln L, starting from the best points with different norm factors.

    One search is enough, except near the lowest strength, where the prediction of a bin vanishes and it may get stuck.
    """
    twice_nll = _twice_nlls(model, points)
    order = np.argsort(twice_nll, kind="stable")
    _, first = np.unique(points[1:, order], axis=1, return_index=True)
    starts = order[np.sort(first)[:_SEARCHES]]
    best = _Best(float(points[0, starts[0]]), points[1:, starts[0]], float(twice_nll[starts[0]]))
    for start in starts:
        found = _descend(model, points[:, start], strength)
        best = min(best, found, key=lambda one: one.twice_nll)
        if strength is not None or best.strength > 0.5 * model.lowest_strength(best.norm_factors):
            break
    return best


def _descend(model: Model, start: Floats, strength: float | None) -> _Best:
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
    minuit.limits = [(None, model.highest_strength), *(_NORM_FACTOR_LIMITS for _ in model.unconstrained)]
    minuit.fixed[0] = strength is not None
    minuit.tol = 0.01
    minuit.migrad()
    values = np.array(minuit.values)
    best = possible(values) if strength is None else strength
    return _Best(best, values[1:], model.twice_nll(best, values[1:]))


def _statistics(model: Model) -> tuple[float, _Best]:
    """Return q₀ = −2 ln(L(0) / L(best)), which is 0 where the best strength is negative (Cowan et al., eq. 12)."""
    best, none = _fit(model), _fit(model, 0.0)
    return (max(0.0, none.twice_nll - best.twice_nll) if best.strength > 0.0 else 0.0), best


@dataclass(frozen=True, repr=False, eq=False)
class FitResult:
    """The fitted signal strength, in units of the prediction.

    Attributes
    ----------
    signal_strength, error_low, error_high
        Best value, and how far below and above it −2 ln L rises by 1 (both positive). If the prediction becomes
        negative before that, `error_low` ends there. `error_high` is infinite if −2 ln L never rises so far: with one
        or two simulated signal events a strength of any size is possible.
    q0
        −2 ln(L(0) / L(best)), 0 where the best strength is negative: what `Toys.p_value` compares.
    significance, p_value
        Of the observed data against background alone: √q₀, asymptotic (Cowan et al.).
    expected_significance
        The same for data exactly as predicted with strength 1 (Asimov).
    norm_factors
        Best normalisation of each unconstrained background.
    scan_strength, scan_twice_nll
        (n,) The profile: −2 ln L less its smallest value, with the norm factors fitted anew at each strength.
    twice_nll
        −2 ln L of the best fit, see `Model.twice_nll`.
    goodness_of_fit
        p-value of `twice_nll` as a chi-squared: rough where bins hold few events, see `toys`.
    degrees_of_freedom
        Bins less fitted parameters.
    model
        What was fitted.
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
            at_limit = ", the upper limit" if factor > 0.999 * _NORM_FACTOR_LIMITS[1] else ""
            lines.append(f"  {process:13} × {factor:.2f} fitted{at_limit}")
        if math.isinf(self.error_high):
            lines.append("  no upper limit: the prediction rests on too few simulated signal events")
        return "\n".join(lines + ([f"  {self.model.note}"] if self.model.note else []))


def fit_signal_strength(
    result: Result | Model,
    variable: str | None = None,
    *,
    low: float | None = None,
    high: float | None = None,
    signal: str | None = None,
    unconstrained: Sequence[str] | None = None,
    use_simulation_error: bool | None = None,
    scan_points: int = 41,
) -> FitResult:
    """Fit the signal strength with a binned likelihood in all three channels at once.

    Each bin is a Poisson count with expectation strength × signal + Σ background. Not fitted: the mass (templates do
    not move), luminosity, cross sections, lepton scale, efficiencies. The finite simulation is one Gaussian nuisance
    parameter per bin.

    Parameters
    ----------
    result
        A result, complete or not, or a `Model` made from one.
    variable, low, high, signal, unconstrained, use_simulation_error
        See `model`, also for the defaults; not with a `Model`, which has its own.
    scan_points
        Number of points of the profile.

    Raises
    ------
    KeyError, ValueError
        As `model` does.
    TypeError
        If such options come with a `Model`.
    """
    if scan_points < 2:
        raise OptionError(f"scan_points = {scan_points}; expected at least 2")
    fitted = _model_of(
        result,
        variable=variable,
        low=low,
        high=high,
        signal=signal,
        unconstrained=unconstrained,
        use_simulation_error=use_simulation_error,
    )
    q0, best = _statistics(fitted)
    lowest = float(fitted.lowest_strength(np.full(len(fitted.unconstrained), _NORM_FACTOR_LIMITS[1])))

    def rise(strength: float) -> float:
        return _fit(fitted, strength).twice_nll - best.twice_nll

    below, above = _crossings(rise, best.strength, lowest, fitted.highest_strength)
    up = above - best.strength if math.isfinite(above) else max(1.0, best.strength - below)
    scan = np.linspace(
        max(best.strength - 2.5 * (best.strength - below), lowest), best.strength + 2.5 * up, scan_points
    )
    asimov = fitted.with_observed(fitted.expectation(1.0, np.ones(len(fitted.unconstrained)))[0])
    freedom = len(fitted.observed) - 1 - len(fitted.unconstrained)
    return FitResult(
        signal_strength=best.strength,
        error_low=best.strength - below,
        error_high=above - best.strength,
        q0=q0,
        significance=math.sqrt(q0),
        p_value=p_value_of(math.sqrt(q0)),
        expected_significance=math.sqrt(_statistics(asimov)[0]),
        norm_factors=dict(zip(fitted.unconstrained, map(float, best.norm_factors), strict=True)),
        scan_strength=scan,
        scan_twice_nll=np.array([rise(strength) for strength in scan]),
        twice_nll=best.twice_nll,
        degrees_of_freedom=freedom,
        goodness_of_fit=float(chdtrc(freedom, max(0.0, best.twice_nll))) if freedom > 0 else math.nan,
        model=fitted,
    )


def _model_of(result: Result | Model, **options: Any) -> Model:
    """Return the model of a result with the options that are not None, or a given model, which takes none."""
    given = {name: value for name, value in options.items() if value is not None}
    if not isinstance(result, Model):
        return model(result, **given)
    if given:
        raise TypeError(f"a Model has its options already, got {', '.join(given)}; give them to `statistics.model`")
    return result


def _crossings(rise: Callable[[float], float], best: float, lowest: float, highest: float) -> tuple[float, float]:
    """Return the strengths below and above the best one where −2 ln L has risen by 1.

    If it does not rise so far: the lowest strength below, infinity above.
    """

    def crossing(inside: float, outside: float) -> float:
        return float(brentq(lambda strength: rise(strength) - 1.0, inside, outside, xtol=1e-4))

    step = max(0.1, 0.1 * abs(best))
    above = best + step
    while rise(above) < 1.0 and above < highest:
        above += 2.0 * (above - best)
    below = max(best - step, lowest)
    while rise(below) < 1.0 and below > lowest:
        below = max(below - 2.0 * (best - below), lowest)
    return (
        crossing(best, below) if rise(below) >= 1.0 else lowest,
        crossing(best, above) if rise(above) >= 1.0 else math.inf,
    )


# --- Toys ------------------------------------------------------------------------------------------------------


def generator(purpose: str, number: int = 0) -> np.random.Generator:
    """Return the generator of a purpose and a number; counter-based, without global state.

    Parameters
    ----------
    purpose
        Any text; its sha256 is the key of numpy's Philox.
    number
        The upper half of the counter: each has 2¹²⁸ random numbers of its own.
    """
    digest = hashlib.sha256(purpose.encode()).digest()
    key = np.frombuffer(digest[:16], "<u8")
    return np.random.Generator(np.random.Philox(key=key, counter=[0, 0, number, 0]))


@dataclass(frozen=True, repr=False, eq=False)
class Toys:
    """The test statistic in pseudo-experiments ("toys").

    Attributes
    ----------
    true_strength
        The signal strength the toys were generated with.
    statistics
        (n,) q₀ of each toy.
    strengths
        (n,) the fitted strength of each toy.
    twice_nll
        (n,) −2 ln L of each toy's best fit.
    """

    true_strength: float
    statistics: Floats
    strengths: Floats
    twice_nll: Floats

    def __repr__(self) -> str:
        """Return one line: the number of toys and what was fitted to them."""
        return (
            f"{len(self.statistics)} toys with signal strength {self.true_strength:g}: "
            f"fitted {self.strengths.mean():.2f} ± {self.strengths.std():.2f}, median {self.median_significance:.2f} σ"
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


def _share_from(values: Floats, least: float) -> tuple[float, float]:
    """Return the share of values ≥ `least` up to rounding, and its standard deviation."""
    return _share(int(np.count_nonzero(values >= least - 1e-6 * max(1.0, abs(least)))), len(values))


def _share(passed: int, number: int) -> tuple[float, float]:
    """Return (k + 1) / (n + 1) and its binomial standard deviation."""
    share = (passed + 1) / (number + 1)
    return share, math.sqrt(share * (1.0 - share) / (number + 1))


def toys(result: Result | Model, n: int = TOYS, *, strength: float = 0.0, **options: Any) -> Toys:
    """Make pseudo-experiments: draw the counts of every bin, fit, and collect the test statistic.

    If the finite simulation counts as a source of uncertainty, the prediction of each bin is drawn, too. Unconstrained
    normalisations are kept at the values fitted to the data with this strength.

    Parameters
    ----------
    result
        A result, or a `Model` made from one.
    n
        Number of toys.
    strength
        The signal strength to generate them with: 0 for background alone.
    **options
        Those of `model`; none with a `Model`.

    Raises
    ------
    KeyError, ValueError
        As `model` does, and if n is less than 1 or the strength negative.
    TypeError
        If there is no such option, or options come with a `Model`, which has its own.
    """
    if n < 1:
        raise OptionError(f"n = {n}; expected at least one toy")
    _check_not_negative(strength=strength)
    strength = float(strength)  # its text is part of the seed
    made = _model_of(result, **options)
    mean, variance = made.expectation(strength, _fit(made, strength).norm_factors)
    collected = np.empty((n, 3))
    for number in range(n):
        draws = generator(f"toys {strength!r} {made.key}", number)
        true = np.maximum(draws.normal(mean, np.sqrt(variance)), 0.0) if variance.any() else mean
        statistic, best = _statistics(made.with_observed(draws.poisson(true).astype(np.float64)))
        collected[number] = statistic, best.strength, best.twice_nll
    return Toys(strength, *np.ascontiguousarray(collected.T))


# --- Looking everywhere ----------------------------------------------------------------------------------------


@dataclass(frozen=True, repr=False, eq=False)
class WindowScan:
    """The largest excess in any of many windows, and how often background alone gives one as large.

    Attributes
    ----------
    low, high
        (n,) edges of the windows in GeV.
    observed, background
        (n,) events in each.
    local_p_values
        (n,) probability of so many events or more in this window, background known.
    best
        Index of the window with the smallest one.
    global_p_value, global_p_value_error
        Probability that the smallest local p-value of background alone is at most that of the best window, from toys,
        and its standard deviation.
    n_toys
        Number of toys.
    note
        What is missing from the result.
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
        """The same, corrected for having looked at all windows (look-elsewhere effect)."""
        return significance(self.global_p_value)

    def __repr__(self) -> str:
        """Return the result in words."""
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
    """Slide a window over the spectrum, bin by bin, all channels together, and find the largest excess.

    The background is taken as known. Not included: windows of other widths, and the uncertainty of the background.

    Parameters
    ----------
    result
        A result; may be partial, which the note then says.
    low, high
        Range of the scan; bin edges, in GeV.
    width
        Width of the window in GeV, a multiple of the bins' width.
    variable
        Name of a histogram.
    signal
        The process that is not counted as background.
    n_toys
        Number of toy spectra of background alone.

    Raises
    ------
    KeyError, ValueError
        As `model` does, and if the width is not a multiple of the bin width or a window expects no background.
    """
    _check_usable(result, signal)
    if n_toys < 1:
        raise OptionError(f"n_toys = {n_toys}; expected at least one toy")
    whole = result.spectrum(variable)
    bins, spectrum = whole.bins_between(low, high), whole.between(low, high)
    edges, n_bins = spectrum.edges, bins.stop - bins.start
    span = round(width / (edges[1] - edges[0]))
    if not 1 <= span <= n_bins or abs(span * (edges[1] - edges[0]) - width) > 1e-9:
        raise OptionError(
            f"width = {width:g} is not possible",
            f"Give a multiple of the bin width {edges[1] - edges[0]:g}, at most {high - low:g}.",
        )
    read = _read_channels(result)
    observed = np.asarray(spectrum.data)[read].sum(axis=0)
    mean = sum(spectrum.stack[process][read].sum(axis=0) for process in _backgrounds(result, signal))
    background = _sliding(np.asarray(mean, np.float64), span)
    if not (background > 1e-9).all():
        empty = edges[int(np.argmin(background))]
        raise OptionError(f"no background is expected in the {width:g} GeV above {empty:g}", "Widen the window.")
    counts = _sliding(np.asarray(observed, np.int64), span)
    local = _p_values(counts, background)
    draws = generator(f"scan {result.campaign.digest} {result.selection.digest} {variable} {bins.start} {bins.stop}")
    smallest = _p_values(_sliding(draws.poisson(mean, (n_toys, n_bins)), span), background).min(axis=-1)
    best = int(np.argmin(local))
    share, error = _share(int(np.count_nonzero(smallest <= local[best] * (1.0 + 1e-12))), n_toys)
    return WindowScan(
        low=edges[: n_bins - span + 1],
        high=edges[span:],
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
