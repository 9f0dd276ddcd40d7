"""The binned model: observed counts, and expected events with their variance, of each bin and process.

The finite number of simulated events follows Barlow, Beeston, Comput. Phys. Commun. 77 (1993) 219, in the form of
Conway, arXiv:1103.0354.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from scipy.special import xlogy

from higgsnb.errors import OptionError
from higgsnb.statistics.inputs import SIGNAL, axis_of, backgrounds_of, check_testable, regions_of, what_is_missing

if TYPE_CHECKING:
    from higgsnb.results import Result, Spectrum

Floats = npt.NDArray[np.float64]

LEAST_SIMULATED = 10
"""Bins of a fit are merged until each holds this many simulated background events."""

TINY = 1e-12  # floor of a prediction, in events, that avoids log(0)


@dataclass(frozen=True, repr=False, eq=False)
class Model:
    """Observed counts and expected events in bins: strength × signal + Σ norm factor × background.

    ``observed`` are the counts of the data, ``signal`` and ``signal_variance`` the events expected at strength 1 and
    their variance from the finite simulation, all (n,); ``backgrounds`` and ``background_variances`` the same for every
    background process. The normalisation of those in ``unconstrained`` is fitted. ``use_simulation_error`` is whether
    the finite number of simulated events is a source of uncertainty. ``bins`` gives the channel of each bin and its
    edges in GeV, ``key`` the seed of the random numbers (campaign, selection, variable), ``note`` what is missing from
    the result.
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

        Vectorised for m points: strength (m, 1) and norm_factors (unconstrained, m, 1) give (m, n).
        """
        mean, variance = strength * self.signal, strength**2 * self.signal_variance
        factors = dict(zip(self.unconstrained, norm_factors, strict=True))
        for process, events in self.backgrounds.items():
            factor = factors.get(process, 1.0)
            mean = mean + factor * events
            variance = variance + factor**2 * self.background_variances[process]
        return np.maximum(mean, TINY), variance if self.use_simulation_error else np.zeros_like(variance)

    def twice_nll(self, strength: float | Floats, norm_factors: Floats) -> Floats:
        """Return −2 ln of the likelihood ratio to a model that fits every bin exactly (the deviance).

        A scalar, or (m,) for m points given as in `expectation`. Where the prediction has a variance, its true value is
        a nuisance parameter with a Gaussian constraint, eliminated in closed form (Conway, eq. 8).
        """
        observed, (mean, variance) = self.observed, self.expectation(strength, norm_factors)
        relative = variance / mean**2
        shift = 1.0 - mean * relative
        factor = np.where(relative > 0, 0.5 * (shift + np.sqrt(shift**2 + 4.0 * observed * relative)), 1.0)
        factor = np.maximum(factor, TINY)  # a bin without data and with a wide constraint
        best = factor * mean
        penalty = np.divide((factor - 1.0) ** 2, relative, out=np.zeros_like(mean), where=relative > 0)
        of_bins = 2.0 * (best - observed + xlogy(observed, observed) - xlogy(observed, best)) + penalty
        total: Floats = of_bins.sum(axis=-1)
        return total

    def with_observed(self, observed: Floats) -> Model:
        """Return the same model with other data, such as those of a toy."""
        return replace(self, observed=np.asarray(observed, np.float64))

    def lowest_strength(self, norm_factors: Floats) -> Floats:
        """Return the signal strength, negative, below which the prediction of some bin would be negative.

        A scalar for norm_factors (unconstrained,); (m,) for norm_factors (unconstrained, m, 1).
        """
        background, has_signal = self.expectation(0.0, norm_factors)[0], self.signal > 0
        return np.asarray((1e-6 - 1.0) * (background[..., has_signal] / self.signal[has_signal]).min(axis=-1))

    @property
    def highest_strength(self) -> float:
        """The signal strength at which the signal is a hundred times all observed and background events."""
        events = self.observed.sum() + sum(values.sum() for values in self.backgrounds.values())
        return float(100.0 * (events + 1.0) / self.signal.sum())


def model(
    result: Result,
    variable: str = "",
    *,
    region: str | Sequence[str] = (),
    low: float | None = None,
    high: float | None = None,
    signal: str = SIGNAL,
    unconstrained: Sequence[str] = (),
    use_simulation_error: bool = True,
) -> Model:
    """Return the binned model of a result: the bins of one histogram, each channel separately.

    Neighbouring bins of a channel are merged, from the left, until each holds `LEAST_SIMULATED` simulated background
    events, independently of the data. The strength of ``signal`` is fitted, and the normalisation of the background
    processes in ``unconstrained``; see `Model`.

    Parameters
    ----------
    result, variable
        A result, and the name of one of its histograms (default: the first), with one entry of each event; if the
        result is partial, the note states it.
    region
        The channels or regions whose bins are fitted together. Default: all channels of a four-lepton selection, or the
        only region. Several regions must have no event in common.
    low, high
        Range of the variable; both must be bin edges. Default: the whole axis.

    Raises
    ------
    KeyError
        If there is no such histogram, region or process; names the known ones.
    OptionError, TypeError
        If there are no data, no background or no signal in the range, low or high is not a bin edge, an event is in two
        of the regions or several times in the histogram, or unconstrained is a str.
    """
    check_testable(result, signal)
    backgrounds = backgrounds_of(result, signal)
    if isinstance(unconstrained, str):
        raise TypeError(f"unconstrained = {unconstrained!r}; expected a tuple of processes: ({unconstrained!r},)")
    for process in unconstrained:
        if process not in backgrounds:
            raise KeyError(f"no background process {process!r}; known: {', '.join(backgrounds)}")
    if len(set(unconstrained)) < len(unconstrained):
        raise OptionError(f"unconstrained = {', '.join(unconstrained)}", "Give each process once.")
    variable, regions = axis_of(result, variable).name, regions_of(result, region)
    whole = result.spectrum(variable)
    bins, spectrum = whole.bins_between(low, high), whole.between(low, high)
    groups = _groups(spectrum, backgrounds, regions, result.regions)

    def merged(values: npt.NDArray[Any] | None) -> Floats:
        return np.array([np.asarray(values)[channel, start:stop].sum() for channel, start, stop in groups], np.float64)

    if not merged(spectrum.stack[signal]).sum() > 0.0:
        problem = f"no {signal} events are expected in this range of {variable}"
        raise OptionError(problem, "Widen the range, or loosen the cuts.")
    return Model(
        observed=merged(spectrum.data),
        signal=merged(spectrum.stack[signal]),
        signal_variance=merged(spectrum.variances[signal]),
        backgrounds={process: merged(spectrum.stack[process]) for process in backgrounds},
        background_variances={process: merged(spectrum.variances[process]) for process in backgrounds},
        unconstrained=tuple(unconstrained),
        use_simulation_error=use_simulation_error,
        bins=tuple(
            (result.regions[channel], spectrum.edges[start], spectrum.edges[stop]) for channel, start, stop in groups
        ),
        key=" ".join(
            [result.campaign.digest, result.selection.digest, f"{variable} {bins.start} {bins.stop}"]
            + [result.regions[index] for index in regions if region]
        ),
        note=what_is_missing(result, regions if region else ()),
    )


def model_of(result: Result | Model, **options: Any) -> Model:
    """Return the model of a result with the options that are not None, or a given model, which takes none."""
    given = {name: value for name, value in options.items() if value is not None}
    if not isinstance(result, Model):
        return model(result, **given)
    if given:
        raise TypeError(f"a Model has its options already, got {', '.join(given)}; give them to `statistics.model`")
    return result


def _groups(
    spectrum: Spectrum, backgrounds: list[str], channels: list[int], names: Sequence[str]
) -> list[tuple[int, int, int]]:
    """Return the merged bins as (channel, first bin, one after the last)."""
    simulated = sum((spectrum.simulated[process] for process in backgrounds), np.zeros((), np.int64))
    background = sum((spectrum.stack[process] for process in backgrounds), np.zeros(()))
    counted = np.asarray(spectrum.data) + sum(spectrum.simulated.values())
    end = len(spectrum.edges) - 1
    groups: list[tuple[int, int, int]] = []
    for channel in channels:
        starts, held, expected = [0], 0, 0.0
        for index, number in enumerate(simulated[channel]):
            held, expected = held + number, expected + background[channel, index]
            if held >= LEAST_SIMULATED and expected > 0.0:  # with weights of both signs it may not be
                starts.append(index + 1)
                held, expected = 0, 0.0
        if len(starts) > 1:
            starts[-1] = end  # the bins left over at the end go into the last one
            groups.extend((channel, start, stop) for start, stop in pairwise(starts))
        elif counted[channel].any():
            groups.append((channel, 0, end))
    if not groups:
        raise OptionError("no event of any process is in this range", "Widen the range, or loosen the cuts.")
    for channel, start, stop in groups:
        if not background[channel, start:stop].sum() > 0.0:
            raise OptionError(
                f"no background is expected in channel {names[channel]} in this range",
                "Widen the range, or wait until more simulated events have been read.",
            )
    return groups
