"""Figures made from a Result: the mass spectrum with its data, prediction and coverage.

Every figure is made without pyplot and leaves the global settings unchanged, so that it can be made in a thread while a
notebook draws something else. A figure states whether the data are simulated and, if a run is incomplete, which part of
the events it shows.
"""

from __future__ import annotations

import io
import textwrap
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import mplhep
import numpy as np
import numpy.typing as npt
from matplotlib import style
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from scipy.special import betainc, gammainc, gammaincinv, ndtri

from higgsnb import results
from higgsnb.errors import OptionError
from higgsnb.results import stack_order
from higgsnb.storage import atomic_write

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.text import Text
    from matplotlib.transforms import Bbox

    from higgsnb.results import Result, Spectrum

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

# Okabe and Ito's palette, which people with any colour blindness can tell apart.
COLOURS = {"zx": "#009E73", "zz": "#56B4E9", "higgs": "#D55E00"}
OTHER_COLOURS = ("#F0E442", "#CC79A7", "#E69F00", "#0072B2")
LABELS = {"higgs": "H → ZZ* → 4ℓ", "zz": "ZZ*, Zγ* → 4ℓ", "zx": "Z + X"}
SYMBOLS = {"mass_4l": r"$m_{4\ell}$ [GeV]", "mass_z1": r"$m_{Z1}$ [GeV]", "mass_z2": r"$m_{Z2}$ [GeV]"}
WARNING_COLOUR = "#8A1C00"
SIZE_INCHES = (7.0, 6.2)
DPI = 150
SIDE_MARGIN = 1.1  # between the frame and the text inside it, in font sizes; longer than the ticks

# matplotlib's settings are global: only one thread at a time can style a figure.
_STYLE_LOCK = threading.RLock()


class ShownFigure(Figure):
    """A Figure that a notebook shows although pyplot does not manage it."""

    def _repr_png_(self) -> tuple[bytes, dict[str, int]]:
        """Return a PNG with twice the resolution it is shown at, for high-density screens."""
        data = io.BytesIO()
        with styled():
            self.savefig(data, format="png", dpi=2 * 80, metadata={"Software": None})
        width, height = (round(80 * inches) for inches in self.get_size_inches())
        return data.getvalue(), {"width": width, "height": height}


def mass_4l(result: Result, *, histogram: str = "mass_4l", ax: Axes | None = None) -> Figure:
    """Draw data and prediction over one of a result's histograms, by default the four-lepton mass.

    Data are points with central 68.27 % Poisson intervals (none in empty bins). The prediction is stacked, with the
    statistical uncertainty of the simulation hatched. The lower panel shows the deviation of the data from the
    prediction in standard deviations, see `deviation`.

    Parameters
    ----------
    result
        A result; if it is incomplete, the figure says so.
    histogram
        The name of a histogram in ``result.histograms``.
    ax
        Axes to draw on, without a lower panel; default: a new figure.

    Returns
    -------
    matplotlib.figure.Figure
        The figure of `ax`, or a new one that pyplot does not manage.

    Raises
    ------
    KeyError
        If there is no such histogram; names the known ones.
    """
    spectrum = result.spectrum(histogram).combined()
    with styled():
        figure, panel, lower = _panels(ax, spectrum)
        width = panel.get_window_extent().width / panel.figure.dpi
        size = float(np.clip(1.85 * width, 5.0, 11.5))  # of the font, in points
        stack = _draw_prediction(panel, spectrum)
        points = _draw_data(panel, spectrum, size, simulated=result.simulated)
        panel.set_xlim(spectrum.edges[0], spectrum.edges[-1])
        axis = results.axis(histogram)
        variable = SYMBOLS.get(axis.variable, axis.title)
        _label_axes(panel, lower, variable, per_bin_label(spectrum.edges, histogram, variable), size)
        above: dict[str, Any] = {"va": "bottom", "transform": panel.transAxes}
        panel.text(0.0, 1.012, heading(result), fontsize=1.15 * size, fontweight="bold", ha="left", **above)
        panel.text(1.0, 1.012, luminosity_label(result), fontsize=1.05 * size, ha="right", **above)
        _draw_inside(panel, result, spectrum, [*points, *reversed(stack)], size)
        if lower is not None:
            _draw_deviation(lower, spectrum)
    return figure


def save(figure: Figure, folder: str | Path) -> list[Path]:
    """Write ``mass_4l.png`` and ``mass_4l.svg`` into an existing folder; the same figure gives the same bytes.

    Existing files are replaced once the new ones are complete.

    Returns
    -------
    list of Path
        The two files, PNG first.

    Raises
    ------
    FileNotFoundError
        If the folder does not exist.
    """
    metadata: dict[str, dict[str, str | None]] = {"png": {"Software": None}, "svg": {"Date": None}}
    written = [Path(folder) / f"mass_4l.{kind}" for kind in metadata]
    for path, (kind, texts) in zip(written, metadata.items(), strict=True):
        with atomic_write(path) as temporary, styled():
            figure.savefig(temporary, format=kind, dpi=DPI, metadata=texts)
    return written


def garwood(counts: npt.ArrayLike, level: float = 0.6827) -> tuple[Floats, Floats]:
    """Return the exact central confidence interval of a Poisson mean.

    Parameters
    ----------
    counts
        Observed counts, any shape, not negative.
    level
        Confidence level; 0.6827 is one standard deviation.

    Returns
    -------
    tuple of arrays
        Lower and upper limits in the shape of `counts`; the lower limit of 0 counts is 0.

    Notes
    -----
    F. Garwood, Biometrika 28 (1936) 437. The same numbers as ``hist.intervals.poisson_interval``, which takes 0.7 s of
    CPU time to import (``scipy.stats``).
    """
    observed = np.asarray(counts, dtype=np.float64)
    tail = (1.0 - level) / 2.0
    low = np.where(observed > 0, gammaincinv(np.maximum(observed, 1.0), tail), 0.0)
    return low, np.asarray(gammaincinv(observed + 1.0, 1.0 - tail))


def deviation(counts: npt.ArrayLike, expected: npt.ArrayLike, variance: npt.ArrayLike) -> Floats:
    """Return the deviation of counts from their expectation, in standard deviations with a sign.

    The Poisson probability of a deviation at least as large, including the uncertainty of the expectation, expressed as
    standard deviations of a normal distribution. Unlike a ratio or a pull it is valid for few events and empty bins.

    Parameters
    ----------
    counts, expected, variance
        Observed counts, expected events, and the variance of the expectation; arrays of one shape.

    Returns
    -------
    array
        Positive for an excess, negative for a deficit, 0 where the probability is above one half, NaN where nothing is
        expected.

    Notes
    -----
    G. Choudalakis and D. Casadei, Eur. Phys. J. Plus 127 (2012) 25, arXiv:1111.2062, equations 8 to 14.
    """
    n, mean, spread = (np.asarray(x, dtype=np.float64) for x in (counts, expected, variance))
    known = mean > 0
    mean = np.where(known, mean, 1.0)
    excess = n > mean
    # Excess: P(n or more). Deficit: P(n or fewer) = 1 − P(n + 1 or more).
    threshold = np.where(excess, n, n + 1.0)
    # The probability of at least so many, the mean being gamma-distributed unless its variance is negligible.
    certain = spread <= 1e-9 * mean**2
    spread = np.where(certain, 1.0, spread)
    smeared = betainc(threshold, mean**2 / spread, spread / (mean + spread))
    at_least = np.where(certain, gammainc(threshold, mean), smeared)
    probability = np.where(excess, at_least, 1.0 - at_least)
    size = np.where(probability < 0.5, -ndtri(np.clip(probability, 1e-300, 0.5)), 0.0)
    return np.where(known, np.where(excess, size, -size), np.nan)


def colour(process: str, others: list[str]) -> str:
    """Return the colour of a process; ``others`` are the processes without a fixed colour."""
    return COLOURS.get(process) or OTHER_COLOURS[others.index(process) % len(OTHER_COLOURS)]


@contextmanager
def styled() -> Iterator[None]:
    """Apply the package's style, and restore the user's on exit."""
    settings = {
        # Named font families and a complete set of math fonts: texts that are drawn later keep them.
        "font.family": ["TeX Gyre Heros", "DejaVu Sans"],
        "mathtext.fontset": "stixsans",
        "mathtext.default": "it",
        "axes.linewidth": 1.0,
        "axes.unicode_minus": True,
        "figure.facecolor": "white",
        "hatch.linewidth": 0.6,
        "savefig.bbox": None,
        "svg.fonttype": "none",
        "svg.hashsalt": "higgsnb",
    }
    with _STYLE_LOCK, style.context([mplhep.style.CMS, settings], after_reset=True):
        yield


def _panels(ax: Axes | None, spectrum: Spectrum) -> tuple[Figure, Axes, Axes | None]:
    """Return the figure, the main panel, and the lower panel if there are data and a prediction."""
    if ax is not None:
        figure = ax.get_figure(root=True)
        if figure is None:
            raise OptionError("these axes belong to no figure", "Make them with figure.subplots().")
        return figure, ax, None
    figure = ShownFigure(figsize=SIZE_INCHES)
    margins = {"left": 0.105, "right": 0.975, "bottom": 0.1, "top": 0.94}
    if spectrum.data is None or not spectrum.stack:
        return figure, figure.subplots(gridspec_kw=margins), None
    panel, lower = figure.subplots(
        2, 1, sharex=True, gridspec_kw={"height_ratios": (3.6, 1), "hspace": 0.07, **margins}
    )
    return figure, panel, lower


def _draw_prediction(panel: Axes, spectrum: Spectrum) -> list[tuple[Any, str]]:
    """Draw the stack and its uncertainty; return the legend entries from the bottom to the top."""
    processes = stack_order(spectrum.stack)
    others = [process for process in processes if process not in COLOURS]
    entries: list[tuple[Any, str]] = []
    bottom = np.zeros(len(spectrum.edges) - 1)
    for process in processes:
        heights = spectrum.stack[process]
        patch = panel.stairs(bottom + heights, spectrum.edges, baseline=bottom, fill=True, label=process)
        patch.set(facecolor=colour(process, others), edgecolor="none")
        n = heights.sum()
        entries.append((patch, f"{LABELS.get(process, process)}  ({n:{'.1f' if n >= 1 else '.2g'}})"))
        bottom = bottom + heights
    if not entries:
        return []
    total, error = spectrum.total, np.sqrt(spectrum.variance)
    panel.stairs(total, spectrum.edges, color="0.15", linewidth=0.8)
    band = panel.stairs(total + error, spectrum.edges, baseline=total - error, fill=True, hatch="//////")
    band.set(facecolor="none", edgecolor="0.25", linewidth=0)
    return [(band, "Simulation stat. unc."), *entries]


def _draw_data(panel: Axes, spectrum: Spectrum, size: float, *, simulated: bool) -> list[tuple[Any, str]]:
    """Draw the data points of the bins that are not empty; return the legend entry."""
    if spectrum.data is None:
        return []
    filled = spectrum.data > 0
    counts = spectrum.data[filled]
    low, high = garwood(counts)
    centres = (spectrum.edges[1:] + spectrum.edges[:-1])[filled] / 2
    errors = (counts - low, high - counts)
    points = panel.errorbar(centres, counts, yerr=errors, fmt="o", color="black", zorder=5)
    points[0].set_markersize(0.37 * size)
    points[2][0].set_linewidth(0.1 * size)
    return [(points, f"{'Simulated data' if simulated else 'Data'}  ({spectrum.data.sum()})")]


def _label_axes(panel: Axes, lower: Axes | None, variable: str, per_bin: str, size: float) -> None:
    for axes in (panel, lower):
        if axes is not None:
            axes.tick_params(labelsize=0.92 * size, pad=4, labelfontfamily=mpl.rcParams["font.family"])
            axes.tick_params(which="major", length=0.6 * size)
            axes.tick_params(which="minor", length=0.3 * size)
    font = {"fontfamily": mpl.rcParams["font.family"], "fontsize": 1.1 * size}
    panel.set_ylabel(per_bin, **font)
    (lower or panel).set_xlabel(variable, **font)
    if lower is not None:
        lower.set_ylabel("Deviation [σ]", loc="center", **font)
        panel.figure.align_ylabels([panel, lower])


def per_bin_label(edges: Floats, name: str, label: str) -> str:
    """Return the label of the vertical axis: events, or leptons (four in an event), per bin of so many GeV."""
    unit = " GeV" if label.endswith("[GeV]") else ""
    return f"{'Leptons' if name.startswith('lepton_') else 'Events'} / {edges[1] - edges[0]:.3g}{unit}"


def heading(result: Result) -> str:
    """Return the heading of a figure: real or simulated collisions."""
    if result.simulated:
        return f"higgsnb {result.campaign.name} — simulated collisions"
    has_data = any(dataset.is_data for dataset in result.campaign.datasets)
    return "CMS Open Data" if has_data else "CMS Open Data — simulated collisions only"


def luminosity_label(result: Result) -> str:
    """Return processed luminosity and energy, to be written above the frame."""
    processed, _ = result.coverage.luminosity_fb
    energies = " and ".join(f"{energy:g}" for energy in result.campaign.energies_tev)
    return f"{processed:.3g} fb⁻¹ ({energies} TeV)"


def _draw_notes(panel: Axes, result: Result, size: float, top: float, right: float) -> Text:
    """Write campaign and selection into the upper left corner, below `top` and left of `right`."""
    left = _fraction(panel, SIDE_MARGIN * size)[0]
    note = panel.text(left, top, "", fontsize=0.92 * size, va="top", transform=panel.transAxes)
    note.set_linespacing(1.35)
    lines = [result.campaign.title, f"selection {result.selection.name}"]
    for columns in range(60, 10, -2):
        note.set_text("\n".join(textwrap.fill(line, columns) for line in lines))
        if _box(panel, note).x1 < right:
            break
    return note


def _draw_inside(panel: Axes, result: Result, spectrum: Spectrum, entries: list[tuple[Any, str]], size: float) -> None:
    """Write inside the frame, from its top: coverage if partial, then legend and selection."""
    artists: list[Artist] = []
    top = 1.0
    if warning := coverage_text(result):
        artists.append(_draw_strip(panel, warning, size))
        top = _box(panel, artists[0]).y0
    top -= _fraction(panel, 0.7 * size)[1]
    right = 1.0
    if entries:
        handles, labels = zip(*entries, strict=True)
        corner = (1.0 - _fraction(panel, SIDE_MARGIN * size)[0], top)
        none: dict[str, Any] = {"borderaxespad": 0.0, "borderpad": 0.0}
        legend = panel.legend(
            handles, labels, loc="upper right", bbox_to_anchor=corner, fontsize=0.92 * size, labelspacing=0.35, **none
        )
        artists.append(legend)
        right = _box(panel, artists[-1]).x0
    artists.append(_draw_notes(panel, result, size, top, right))
    _make_room(panel, spectrum, [_box(panel, artist) for artist in artists])
    if not spectrum.total.any() and (spectrum.data is None or not spectrum.data.any()):
        text = "no events" if result.complete else "no events yet"
        panel.text(0.5, 0.3, text, fontsize=1.6 * size, ha="center", color="0.4", transform=panel.transAxes)
        panel.set_yticks([])


def coverage_text(result: Result) -> str:
    """Return in one line what is missing from a result, ``PARTIAL: 37 % of events, …``; empty if nothing is."""
    missing = []
    if not result.complete:
        done, total = result.coverage.events
        files = "{} of {} files".format(*result.coverage.files)  # while the number of events is not known
        missing.append(f"PARTIAL: {percent(done, total)} of events" if done < total else f"PARTIAL: {files}")
        missing.append("{:.3g} of {:.3g} fb⁻¹".format(*result.coverage.luminosity_fb))
    if result.failed:
        missing.append(f"{len(result.failed)} file{'s' if len(result.failed) > 1 else ''} failed")
    if names := result.missing_simulation:
        missing.append(f"prediction without {' and '.join(names) if len(names) < 3 else f'{len(names)} samples'}")
    return ", ".join(missing)


def percent(done: float, total: float) -> str:
    """Return the share of unfinished work: never 100 %, and 0 % only if nothing is done."""
    share = 100.0 * done / total
    if share > 99.9:
        return "> 99.9 %"
    return "< 0.1 %" if 0 < share < 0.1 else f"{share:.3g} %"


def _draw_strip(panel: Axes, text: str, size: float) -> Rectangle:
    """Write a warning on a strip across the top of the frame, in two lines if necessary."""
    margin = _fraction(panel, 0.4 * size)[1]
    warning = panel.text(0.5, 1.0 - margin, text, fontsize=size, fontweight="bold", color=WARNING_COLOUR)
    warning.set(ha="center", va="top", transform=panel.transAxes, zorder=6)
    if _box(panel, warning).width > 0.96:
        warning.set_text(textwrap.fill(text, int(0.6 * len(text))))
    warning.set_fontsize(size * min(1.0, 0.96 / _box(panel, warning).width))
    bottom = _box(panel, warning).y0 - margin
    strip = Rectangle((0, bottom), 1, 1 - bottom, facecolor="#FBE3D6", edgecolor="none")
    strip.set(transform=panel.transAxes, zorder=4)
    panel.add_patch(strip)
    return strip


def _make_room(panel: Axes, spectrum: Spectrum, boxes: list[Bbox]) -> None:
    """Raise the upper end of the axis until nothing drawn overlaps the boxes, given in axes coordinates."""
    upper = spectrum.total + np.sqrt(spectrum.variance)
    if spectrum.data is not None:
        upper = np.maximum(upper, np.where(spectrum.data > 0, garwood(spectrum.data)[1], 0.0))
    position = (spectrum.edges - spectrum.edges[0]) / (spectrum.edges[-1] - spectrum.edges[0])
    limit = 1.08 * upper.max(initial=0.0)
    for box in boxes:
        below = upper[(position[1:] > box.x0) & (position[:-1] < box.x1)]
        limit = max(limit, below.max(initial=0.0) / max(box.y0 - 0.04, 0.2))
    panel.set_ylim(0, limit or 1.0)


def _draw_deviation(lower: Axes, spectrum: Spectrum) -> None:
    data = 0 if spectrum.data is None else spectrum.data
    sigmas = np.nan_to_num(deviation(data, spectrum.total, spectrum.variance))
    limit = max(3.4, 1.15 * np.abs(sigmas).max(initial=0.0))
    lower.axhspan(-1, 1, facecolor="0.92", edgecolor="none")
    lower.stairs(sigmas, spectrum.edges, fill=True, facecolor="0.35")
    lower.axhline(0, color="black", linewidth=0.8)
    lower.set_ylim(-limit, limit)
    lower.yaxis.set_major_locator(MaxNLocator(nbins=4, integer=True, symmetric=True))


def _box(panel: Axes, artist: Artist) -> Bbox:
    """Return the bounding box of an artist in axes coordinates."""
    return artist.get_window_extent().transformed(panel.transAxes.inverted())


def _fraction(panel: Axes, points: float) -> tuple[float, float]:
    """Return a length in points as fractions of the panel's width and height."""
    figure, extent = panel.get_figure(root=True), panel.get_window_extent()
    pixels = points / 72 * float(mpl.rcParams["figure.dpi"] if figure is None else figure.dpi)
    return pixels / extent.width, pixels / extent.height
