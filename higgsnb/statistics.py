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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise, product
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq
from scipy.special import betainc, chdtrc, gammainc, ndtr, ndtri, xlogy

from higgsnb import histograms
from higgsnb.coverage import CHANNEL_STREAMS, STREAM_ORDER
from higgsnb.selection import CHANNELS

if TYPE_CHECKING:
    from higgsnb.result import Result

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

SIGNAL = "higgs"
LEAST_SIMULATED = 10
"""Bins of a fit are joined until each holds this many simulated background events."""
TOYS = 1000
_TINY = 1e-12  # what a prediction is at least, in events: the logarithm of zero is nobody's likelihood
_SCALE_LIMITS = (0.0, 20.0)  # of a free normalisation, in units of the prediction
_SCALES = (0.02, 0.1, 0.3, 0.7, 1.0, 1.5, 3.0, 6.0, 12.0)  # where the search for it looks first
_ZOOMS = 9  # each makes the steps 5.5 times finer
_SEARCHES = 3


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
    channels = [CHANNELS[channel] for channel in _read_channels(result)]
    yields = {role: [counts[name][channel] for name in roles[role] for channel in channels] for role in roles}
    observed = sum(one.events for one in yields["data"])
    expected = {role: sum(one.expected for one in yields[role]) for role in ("signal", "background")}
    variance = sum(one.stat_error**2 for one in yields["background"])
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
    if result.missing_simulation:
        raise ValueError(
            f"the prediction lacks {', '.join(result.missing_simulation)}, of which nothing has been read\n"
            "Let the run go on, or leave these datasets out of the campaign."
        )
    if not _read_channels(result):
        failed = f"; {len(result.failed)} files failed, see result.failed" if result.failed else ""
        raise ValueError(f"no data have been read yet, only simulation{failed}\nLet the run go on.")


def _read_channels(result: Result) -> list[int]:
    """Return the channels of which any luminosity has been processed: no others can be compared with a prediction."""
    return [channel for channel, name in enumerate(CHANNELS) if result.luminosity.shares[name] > 0.0]


def _unread(result: Result) -> str:
    """Name the channels without luminosity, and the streams of data that would give it; empty if there are none."""
    channels = sorted(set(range(len(CHANNELS))) - set(_read_channels(result)))
    streams = [
        stream
        for stream in STREAM_ORDER
        if any(stream in CHANNEL_STREAMS[one] and one in result.selection.channels(stream) for one in channels)
    ]
    names = ", ".join(CHANNELS[channel] for channel in channels)
    return f"without {names}: no luminosity of {' or '.join(streams)} processed" if channels else ""


def _note(result: Result) -> str:
    """Return what a result lacks, in a few words."""
    return "; ".join(filter(None, (_coverage_note(result), _unread(result))))


def _coverage_note(result: Result) -> str:
    """Return how much of the campaign a result is, and of what kind."""
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

    def expectation(self, strength: float | Floats, scales: Floats) -> tuple[Floats, Floats]:
        """Return expected events and their variance, each (n,), at a signal strength and the free scales.

        Also for m of both at once: strength (m, 1), scales (free, m, 1), the result (m, n).
        """
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

    def lowest_strength(self, scales: Floats) -> Floats:
        """Return the signal strength, negative, below which the prediction of some bin would be negative.

        One for scales (free,), m for scales (free, m, 1).
        """
        background, has_signal = self.expectation(0.0, scales)[0], self.signal > 0
        return np.asarray((1e-6 - 1.0) * (background[..., has_signal] / self.signal[has_signal]).min(axis=-1))

    @property
    def highest_strength(self) -> float:
        """The signal strength at which there would be a hundred times as much signal as there are events at all."""
        events = self.observed.sum() + sum(values.sum() for values in self.backgrounds.values())
        return float(100.0 * (events + 1.0) / self.signal.sum())


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
    free: Sequence[str] = (),
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
    ValueError, TypeError
        If there are no data, no background or no signal in the range, low and high are no edges, or free is no tuple.
    """
    _check_usable(result, signal)
    roles = _roles(result, signal)
    if isinstance(free, str):
        raise TypeError(f"free = {free!r}; expected a tuple of processes: ({free!r},)")
    for process in free:
        if process not in roles["background"]:
            raise KeyError(f"no background process {process!r} to leave free; known: {', '.join(roles['background'])}")
    if len(set(free)) < len(free):
        raise ValueError(f"free = {', '.join(free)}; expected each process once")
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
    """Return for every process counts, expected events and their variance, each (3, last − first).

    Channels of which no luminosity has been processed hold nothing.
    """
    templates: dict[str, _Template] = {}
    read = np.isin(np.arange(len(CHANNELS)), _read_channels(result))[:, None]
    for dataset in result.campaign.datasets:
        counts = histograms.counts_of(result.counts[dataset.name], variable)[:, 1:-1][:, first:last] * read
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
                f"no background is expected in channel {CHANNELS[channel]} in this range\n"
                "Widen it, or let the run go on: too few simulated events have been read."
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
    """Maximise the likelihood over the free scales and, unless it is given, the strength.

    With a finite simulation there may be several maxima, also at the edge of what is possible: a search that starts at
    one point may end at the wrong one. So all that is possible is first looked at in coarse steps.
    """
    if not model.signal.sum() > 0.0:
        raise ValueError("no signal is expected in any bin; its strength cannot be fitted")
    points = _grid(model, strength)
    return _search(model, points, strength) if model.free else _zoom(model, points[0])


def _grid(model: Model, strength: float | None) -> Floats:
    """Return coarse steps over all that is possible, (1 + free, m); strengths rise if no scale is free."""
    n = len(model.free)
    steps = (*_SCALES[:: max(1, n)], _SCALE_LIMITS[1])
    scales = np.array(list(product(steps, repeat=n))).T
    lowest = np.atleast_1d(model.lowest_strength(scales[..., None]))
    if strength is not None:
        possible = scales[:, lowest <= strength] if n else scales
        return np.concatenate([np.full((1, possible.shape[1]), strength), possible])
    coarse = slice(None, None, 2 if n else 1)
    below = lowest[:, None] * np.linspace(1.0, 0.0, 11)[coarse]
    above = np.tile(model.highest_strength * np.geomspace(1e-5, 1.0, 35)[coarse], (len(lowest), 1))
    strengths = np.concatenate([below, above], axis=1)
    return np.concatenate([strengths.reshape(1, -1), scales.repeat(strengths.shape[1], axis=1)])


def _deviances(model: Model, points: Floats) -> Floats:
    """Return the deviance at each of some strengths and scales, (1 + free, m)."""
    mean, variance = model.expectation(points[0][:, None], points[1:][..., None])
    return np.asarray(_deviance(model.observed, mean, variance).sum(axis=-1))


def _zoom(model: Model, strengths: Floats) -> _Best:
    """Return the best of some strengths, looked for between its neighbours in finer and finer steps."""
    deviances = _deviances(model, strengths[None])
    for _ in range(_ZOOMS if len(strengths) > 1 else 0):
        best = int(np.argmin(deviances))
        strengths = np.linspace(strengths[max(best - 1, 0)], strengths[min(best + 1, len(strengths) - 1)], 12)
        deviances = _deviances(model, strengths[None])
    best = int(np.argmin(deviances))
    return _Best(float(strengths[best]), np.empty(0), float(deviances[best]))


def _search(model: Model, points: Floats, strength: float | None) -> _Best:
    """Minimise the deviance from the best points on, each with other scales.

    One search does, but near the lowest strength, where the prediction of a bin vanishes: there it may get stuck.
    """
    deviances = _deviances(model, points)
    order = np.argsort(deviances, kind="stable")
    _, first = np.unique(points[1:, order], axis=1, return_index=True)
    starts = order[np.sort(first)[:_SEARCHES]]
    best = _Best(float(points[0, starts[0]]), points[1:, starts[0]], float(deviances[starts[0]]))
    for start in starts:
        found = _descend(model, points[:, start], strength)
        best = min(best, found, key=lambda one: one.deviance)
        if strength is not None or best.strength > 0.5 * model.lowest_strength(best.scales):
            break
    return best


def _descend(model: Model, start: Floats, strength: float | None) -> _Best:
    """Minimise the deviance from one point on, where the prediction of no bin is negative."""
    from iminuit import Minuit

    unit = float((model.signal**2 / model.expectation(1.0, start[1:])[0]).sum() ** -0.5)  # about a standard deviation

    def possible(values: Floats) -> float:
        return max(float(values[0]), float(model.lowest_strength(values[1:])))

    def deviance(values: Floats) -> float:
        inside = possible(values)
        return float(model.deviance(inside, values[1:]) + ((inside - values[0]) / unit) ** 2)

    minuit = Minuit(deviance, start, name=("strength", *model.free))
    minuit.errordef = Minuit.LEAST_SQUARES  # the deviance rises by 1, as a chi-squared does
    minuit.errors = [unit, *(max(0.1 * scale, 0.01) for scale in start[1:])]
    minuit.limits = [(None, model.highest_strength), *(_SCALE_LIMITS for _ in model.free)]
    minuit.fixed[0] = strength is not None
    minuit.tol = 0.01
    minuit.migrad()
    values = np.array(minuit.values)
    best = possible(values) if strength is None else strength
    return _Best(best, values[1:], model.deviance(best, values[1:]))


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
        any more below the best value, `error_low` reaches to there. `error_high` is infinite where the deviance never
        rises so far: with one or two simulated signal events a strength of any size is possible.
    q0
        −2 ln(L(0) / L(best)), 0 where the best strength is negative: what `Toys.p_value` compares.
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
    q0: float
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
        for process, scale in self.scales.items():
            most = ", the most that is looked at" if scale > 0.999 * _SCALE_LIMITS[1] else ""
            lines.append(f"  {process:13} × {scale:.2f} fitted{most}")
        if math.isinf(self.error_high):
            lines.append("  no upper limit: the prediction rests on too few simulated signal events")
        return "\n".join(lines + ([f"  {self.model.note}"] if self.model.note else []))


def fit_signal_strength(
    result: Result | Model,
    variable: str = "mass_4l",
    *,
    low: float | None = None,
    high: float | None = None,
    signal: str = SIGNAL,
    free: Sequence[str] = (),
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
        See `model`; not with a `Model`, which has its own.
    scan_points
        How many points the profile has.

    Raises
    ------
    KeyError, ValueError
        As `model` does.
    TypeError
        If such options come with a `Model`.
    """
    if scan_points < 2:
        raise ValueError(f"scan_points = {scan_points}; expected at least 2")
    options = {"low": low, "high": high, "signal": signal, "free": free, "use_simulation_error": use_simulation_error}
    usual = {"variable": "mass_4l", **(model.__kwdefaults__ or {})}
    chosen = {name: value for name, value in {"variable": variable, **options}.items() if value != usual[name]}
    fitted = _model_of(result, chosen)
    q0, best = _statistics(fitted)
    lowest = float(fitted.lowest_strength(np.full(len(fitted.free), _SCALE_LIMITS[1])))

    def rise(strength: float) -> float:
        return _fit(fitted, strength).deviance - best.deviance

    below, above = _crossings(rise, best.strength, lowest, fitted.highest_strength)
    up = above - best.strength if math.isfinite(above) else max(1.0, best.strength - below)
    scan = np.linspace(
        max(best.strength - 2.5 * (best.strength - below), lowest), best.strength + 2.5 * up, scan_points
    )
    freedom = len(fitted.observed) - 1 - len(fitted.free)
    return StrengthFit(
        signal_strength=best.strength,
        error_low=best.strength - below,
        error_high=above - best.strength,
        q0=q0,
        significance=math.sqrt(q0),
        p_value=tail_probability(math.sqrt(q0)),
        expected_significance=math.sqrt(_statistics(_asimov(fitted))[0]),
        scales=dict(zip(fitted.free, map(float, best.scales), strict=True)),
        scan_strength=scan,
        scan_deviance=np.array([rise(strength) for strength in scan]),
        deviance=best.deviance,
        degrees_of_freedom=freedom,
        goodness_of_fit=float(chdtrc(freedom, max(0.0, best.deviance))) if freedom > 0 else math.nan,
        model=fitted,
    )


def _model_of(result: Result | Model, options: Mapping[str, Any]) -> Model:
    """Return the model of a result made with some options, or a model that is one already and takes none."""
    if not isinstance(result, Model):
        return model(result, **options)
    if options:
        raise TypeError(f"a Model has its options already, got {', '.join(options)}; give them to `statistics.model`")
    return result


def _asimov(model: Model) -> Model:
    """Return the model with data exactly as expected at strength 1."""
    return model.with_observed(model.expectation(1.0, np.ones(len(model.free)))[0])


def _crossings(rise: Callable[[float], float], best: float, lowest: float, highest: float) -> tuple[float, float]:
    """Return the strengths below and above the best one where the deviance has risen by 1.

    Below it is the lowest strength if the deviance does not rise so far, above it is infinity.
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
        """Return the share of toys at least as extreme as a q₀ (`StrengthFit.q0`), and its standard deviation.

        (k + 1) / (n + 1) for k of n toys, never exactly 0: the observed experiment counts as one of them.
        """
        return _share_from(self.statistics, statistic)

    def goodness_of_fit(self, deviance: float) -> tuple[float, float]:
        """Return the share of toys whose best fit is at least as bad as a deviance, and its standard deviation."""
        return _share_from(self.deviances, deviance)


def _share_from(values: Floats, least: float) -> tuple[float, float]:
    """Return the share of values from one on, and its standard deviation; what differs by rounding only is equal."""
    return _share(int(np.count_nonzero(values >= least - 1e-6 * max(1.0, abs(least)))), len(values))


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
        Those of `model`; none with a `Model`.

    Raises
    ------
    KeyError, ValueError
        As `model` does, and if n is less than 1 or the strength negative.
    TypeError
        If there is no such option, or options come with a `Model`, which has its own.
    """
    if n < 1:
        raise ValueError(f"n = {n}; expected at least one toy")
    _check_not_negative(strength=strength)
    strength = float(strength)  # its text is part of the key of the random numbers
    made = _model_of(result, options)
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
        local = float(self.local_p_values[self.best])
        return self.global_p_value / local if local > 0.0 else math.inf

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
