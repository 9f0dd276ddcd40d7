"""A scan: the largest excess in any window of a spectrum, and its global p-value (look-elsewhere effect)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from scipy.special import gammainc

from higgsnb.errors import OptionError
from higgsnb.statistics.counting import significance
from higgsnb.statistics.inputs import SIGNAL, axis_of, backgrounds_of, check_testable, regions_of, what_is_missing
from higgsnb.statistics.pseudo_experiments import generator, share_and_error

if TYPE_CHECKING:
    from higgsnb.results import Result

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


@dataclass(frozen=True, repr=False, eq=False)
class WindowScan:
    """The largest excess in any of many windows, and how often background alone gives one at least as large.

    ``low`` and ``high`` are the edges of the windows in ``unit``, ``observed`` and ``background`` the events in each,
    ``local_p_values`` the probability of at least that many events in this window, background known, all (n,); ``best``
    is the index of the smallest one. ``global_p_value`` and ``global_p_value_error`` are the probability that the
    smallest local p-value of background alone is at most that of the best window, from toys, and its standard
    deviation. ``note`` states what is missing from the result.
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
    unit: str = "GeV"

    @property
    def local_significance(self) -> float:
        """Of the best window, in standard deviations."""
        return significance(float(self.local_p_values[self.best]))

    @property
    def global_significance(self) -> float:
        """The same, corrected for the number of windows (look-elsewhere effect)."""
        return significance(self.global_p_value)

    def __repr__(self) -> str:
        """Return the result in words."""
        i = self.best
        bound = "<" if self.global_p_value * (self.n_toys + 1) < 1.5 else "="
        everywhere = f"p {bound} {self.global_p_value:.2g} ± {self.global_p_value_error:.1g}"
        lines = [
            f"Largest excess of {len(self.low)} windows: {self.low[i]:g} to {self.high[i]:g} {self.unit}".rstrip(),
            f"  observed  {self.observed[i]} events where {self.background[i]:.2f} are expected",
            f"  local     p = {self.local_p_values[i]:.2g}, {self.local_significance:.2f} σ",
            f"  global    {everywhere}, {self.global_significance:.2f} σ ({self.n_toys:,} toys)",
        ]
        return "\n".join(lines + ([f"  {self.note}"] if self.note else []))


def scan_windows(
    result: Result,
    *,
    low: float | None = None,
    high: float | None = None,
    width: float | None = None,
    variable: str = "",
    region: str | Sequence[str] = (),
    signal: str = SIGNAL,
    n_toys: int = 10_000,
) -> WindowScan:
    """Slide a window over the spectrum, bin by bin, all channels or some regions together; find the largest excess.

    All processes but the signal are background, which is taken as known. Not included: windows of other widths, and the
    uncertainty of the background. ``low`` and ``high`` are bin edges, by default 100 and 181 GeV of ``mass_4l`` and the
    ends of any other axis; ``width`` is a multiple of the bin width, by default three bins. For ``variable`` and
    ``region`` see `model`; ``n_toys`` spectra of background alone give the global p-value. Raise KeyError and
    OptionError as `model` does, and if the width is not a multiple of the bin width or a window expects no background.
    """
    check_testable(result, signal)
    axis, regions = axis_of(result, variable), regions_of(result, region)
    variable, start = axis.name, axis.edges[0]
    if not np.allclose(np.diff(axis.edges), axis.edges[1] - start):
        raise OptionError(f"histogram {variable!r} has bins of different widths", "Scan one with equal bins.")
    is_mass_4l = variable == "mass_4l" and bool(result.windows)
    low = (100.0 if is_mass_4l else float(start)) if low is None else low
    high = (181.0 if is_mass_4l else float(axis.edges[-1])) if high is None else high
    width = 3.0 * float(axis.edges[1] - start) if width is None else width
    if n_toys < 1:
        raise OptionError(f"n_toys = {n_toys}; expected at least one toy", "The default is 10,000.")
    whole = result.spectrum(variable)
    bins, spectrum = whole.bins_between(low, high), whole.between(low, high)
    edges, n_bins = spectrum.edges, bins.stop - bins.start
    span = round(width / (edges[1] - edges[0]))
    if not 1 <= span <= n_bins or abs(span * (edges[1] - edges[0]) - width) > 1e-9:
        hint = f"Give a multiple of the bin width {edges[1] - edges[0]:g}, at most {high - low:g}."
        raise OptionError(f"width = {width:g} is not possible", hint)
    observed = np.asarray(spectrum.data)[regions].sum(axis=0)
    mean = sum(spectrum.stack[process][regions].sum(axis=0) for process in backgrounds_of(result, signal))
    mean = np.maximum(np.asarray(mean, np.float64), 0.0)  # with weights of both signs a bin may be below
    background = _sliding(mean, span)
    if not (background > 1e-9).all():
        empty = edges[int(np.argmin(background))]
        what = f"no background is expected in the {f'{width:g} {axis.unit}'.strip()} above {empty:g}"
        raise OptionError(what, "Widen the window.")
    counts = _sliding(np.asarray(observed, np.int64), span)
    local = _p_values(counts, background)
    purpose = f"scan {result.campaign.digest} {result.selection.digest} {variable} {bins.start} {bins.stop}"
    draws = generator(" ".join([purpose, *(result.regions[index] for index in regions if region)]))
    smallest = _p_values(_sliding(draws.poisson(mean, (n_toys, n_bins)), span), background).min(axis=-1)
    best = int(np.argmin(local))
    share, error = share_and_error(int(np.count_nonzero(smallest <= local[best] * (1.0 + 1e-12))), n_toys)
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
        note=what_is_missing(result, regions if region else ()),
        unit=axis.unit,
    )


def _sliding(values: npt.NDArray[Any], span: int) -> npt.NDArray[Any]:
    """Return the sums of `span` neighbouring bins along the last axis, for every position of the window."""
    sums = np.cumsum(values, axis=-1)
    first = np.zeros((*values.shape[:-1], 1), sums.dtype)
    return np.asarray(sums[..., span - 1 :] - np.concatenate((first, sums[..., :-span]), axis=-1))


def _p_values(counts: npt.NDArray[Any], background: Floats) -> Floats:
    """Return the probability of at least that many events in each window."""
    return np.where(counts > 0, gammainc(np.maximum(counts, 1), background), 1.0)
