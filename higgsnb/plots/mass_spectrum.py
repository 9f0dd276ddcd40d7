"""The figure of a result: data and prediction over the four-lepton mass, with deviations and coverage."""

from __future__ import annotations

import textwrap
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from higgsnb.errors import OptionError
from higgsnb.plots.labels import coverage_text, heading, luminosity_label, per_bin_label
from higgsnb.plots.style import COLOURS, SYMBOLS, ShownFigure, colour, label, literal, styled
from higgsnb.results import stack_order
from higgsnb.selection import NOMINAL
from higgsnb.statistics import deviation, garwood
from higgsnb.storage import atomic_write

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.transforms import Bbox

    from higgsnb.results import Result, Spectrum

WARNING_COLOUR = "#8A1C00"
SIDE_MARGIN = 1.1  # between the frame and the text inside it, in font sizes; longer than the ticks


def mass_4l(
    result: Result, *, histogram: str = "mass_4l", without: str | None = None, ax: Axes | None = None
) -> Figure:
    """Draw data and prediction of the four-lepton mass, or of another histogram of a selection; see `plot_spectrum`."""
    return plot_spectrum(result, histogram, without=without, ax=ax)


def plot_spectrum(
    result: Result,
    histogram: str = "",
    region: str = "",
    *,
    variation: str = NOMINAL,
    without: str | None = None,
    ax: Axes | None = None,
) -> Figure:
    """Draw data and prediction of one of a result's histograms, by default the first, in one region.

    The region is by default that of `Result.region_spectrum`: all channels of a selection, or the first region.

    Data are points with central 68.27 % Poisson intervals (none in empty bins). The prediction is stacked, with the
    statistical uncertainty of the simulation hatched. Events outside the axis are not drawn. The lower panel shows the
    deviation of the data from the prediction in standard deviations, see `statistics.deviation`.

    ``variation`` is that of the prediction, such as ``"pileup_up"``. ``without`` is a process that the prediction, if
    there is one, leaves out, such as ``"higgs"``: an excess of the data over the others can then be seen. If the result
    is incomplete, the figure states it. ``ax`` are axes to draw on, without a lower panel; None: a new figure, which
    pyplot does not manage.

    Raises
    ------
    KeyError
        If there is no such histogram, region, variation or simulated process; names the known ones.
    """
    spectrum = _without(result.region_spectrum(histogram, region, variation), without)
    with styled():
        figure, panel, lower = _panels(ax, spectrum)
        width = panel.get_window_extent().width / panel.figure.dpi
        size = float(np.clip(1.85 * width, 5.0, 11.5))  # of the font, in points
        stack = _draw_prediction(panel, spectrum)
        points = _draw_data(panel, spectrum, size, simulated=result.simulated)
        panel.set_xlim(spectrum.edges[0], spectrum.edges[-1])
        axis = result.layout.binning.axis(histogram or result.layout.binning.axes[0].name)
        variable = SYMBOLS.get(axis.variable, axis.title)
        for axes in filter(None, (panel, lower)):
            axes.tick_params(labelsize=0.92 * size, pad=4, labelfontfamily=mpl.rcParams["font.family"])
            axes.tick_params(which="major", length=0.6 * size)
            axes.tick_params(which="minor", length=0.3 * size)
        font = {"fontfamily": mpl.rcParams["font.family"], "fontsize": 1.1 * size}
        panel.set_ylabel(per_bin_label(axis, variable), **font)
        (lower or panel).set_xlabel(variable, **font)
        above: dict[str, Any] = {"va": "bottom", "transform": panel.transAxes}
        panel.text(0.0, 1.012, heading(result), fontsize=1.15 * size, fontweight="bold", ha="left", **above)
        panel.text(1.0, 1.012, luminosity_label(result), fontsize=1.05 * size, ha="right", **above)
        lines = [literal(result.campaign.title), literal(f"selection {result.selection.name}")]
        is_one_of_some = result.layout.binning.category != "channel" and len(result.regions) > 1
        shown = [region or result.regions[0]] if is_one_of_some else []
        lines += map(literal, shown)
        lines += [] if variation == NOMINAL else [literal(f"prediction: {variation}")]
        lines += [] if without is None or not stack else [f"prediction without {label(without)}"]
        _draw_inside(panel, result, spectrum, [*points, *reversed(stack)], lines, size)
        if not 1e-4 < panel.get_ylim()[1] < 1e6:
            panel.yaxis.set_major_formatter("{x:g}")  # else a factor stands above the axis, on the heading
        if isinstance(figure, ShownFigure):
            figure.alt = _alt(result, spectrum, ", ".join([axis.title, *shown]), without)
        if lower is not None:
            panel.figure.align_ylabels([panel, lower])
            _draw_deviations(lower, spectrum, font)
    return figure


def save(figure: Figure, folder: str | Path, name: str = "mass_4l") -> list[Path]:
    """Write ``NAME.png`` and ``NAME.svg`` into an existing folder; the same figure gives the same bytes.

    Return the two files, PNG first. Existing files are replaced once the new ones are complete. Raise FileNotFoundError
    if the folder does not exist.
    """
    metadata: dict[str, dict[str, str | None]] = {"png": {"Software": None}, "svg": {"Date": None}}
    written = [Path(folder) / f"{name}.{kind}" for kind in metadata]
    for path, (kind, texts) in zip(written, metadata.items(), strict=True):
        with atomic_write(path) as temporary, styled():
            figure.savefig(temporary, format=kind, dpi=150, metadata=texts)
    return written


def _without(spectrum: Spectrum, process: str | None) -> Spectrum:
    """Return a spectrum whose prediction, with its variance, leaves a process out; KeyError if there is none such."""
    if process is None or not spectrum.stack:
        return spectrum
    if process not in spectrum.stack:
        raise KeyError(f"no simulated process {process!r}; known: {', '.join(spectrum.stack)}")
    stack, variances = ({p: v for p, v in one.items() if p != process} for one in (spectrum.stack, spectrum.variances))
    return replace(spectrum, stack=stack, variances=variances)


def _alt(result: Result, spectrum: Spectrum, variable: str, without: str | None) -> str:
    """Return the figure in words: the events of each process, the highest bin, and where the data deviate most."""
    edges, stack = spectrum.edges, spectrum.stack
    parts = [f"{heading(result)}, {luminosity_label(result)}: {variable}, {edges[0]:g} to {edges[-1]:g}"]
    parts += filter(None, [coverage_text(result)])
    if stack:
        each = ", ".join(f"{label(p)} {stack[p].sum():.3g}" for p in reversed(stack_order(stack)))
        left_out = "" if without is None else f", without {label(without)}"
        parts.append(f"prediction {spectrum.total.sum():.1f} events ({each}){left_out}")
    if spectrum.data is not None:
        data, top = spectrum.data, int(np.argmax(spectrum.data))
        name = "simulated data" if result.simulated else "data"
        parts.append(
            f"{name} {data.sum()} events, at most {data[top]} in a bin, from {edges[top]:g} to {edges[top + 1]:g}"
        )
        if stack:
            sigmas = np.nan_to_num(deviation(data, spectrum.total, spectrum.variance))
            far = int(np.argmax(np.abs(sigmas)))
            parts.append(
                f"largest deviation {sigmas[far]:+.1f} σ, from {edges[far]:g} to {edges[far + 1]:g}, "
                f"{data[far]} found and {spectrum.total[far]:.1f} predicted".replace("-", "−")
            )
    return ". ".join([parts[0], *(part[:1].upper() + part[1:] for part in parts[1:])]) + "."


def _panels(ax: Axes | None, spectrum: Spectrum) -> tuple[Figure, Axes, Axes | None]:
    """Return the figure, the main panel, and the lower panel if there are data and a prediction."""
    if ax is not None:
        figure = ax.get_figure(root=True)
        if figure is None:
            raise OptionError("these axes belong to no figure", "Make them with figure.subplots().")
        return figure, ax, None
    figure = ShownFigure(figsize=(7.0, 6.2))
    margins = {"left": 0.105, "right": 0.975, "bottom": 0.1, "top": 0.94}
    if spectrum.data is None or not spectrum.stack:
        return figure, figure.subplots(gridspec_kw=margins), None
    heights = {"height_ratios": (3.6, 1), "hspace": 0.07}
    panel, lower = figure.subplots(2, 1, sharex=True, gridspec_kw={**heights, **margins})
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
        entries.append((patch, f"{label(process)}  ({n:{'.1f' if n >= 1 else '.2g'}})"))
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
    # As lists: of one bin, matplotlib 3.8 takes an array for a number, which NumPy warns of.
    errors = (counts - low).tolist(), (high - counts).tolist()
    points = panel.errorbar(centres, counts, yerr=errors, fmt="o", color="black", zorder=5)
    points[0].set_markersize(0.37 * size)
    points[2][0].set_linewidth(0.1 * size)
    return [(points, f"{'Simulated data' if simulated else 'Data'}  ({spectrum.data.sum()})")]


def _draw_deviations(lower: Axes, spectrum: Spectrum, font: dict[str, Any]) -> None:
    """Draw the deviation of the data from the prediction in standard deviations, with a band of ± 1."""
    lower.set_ylabel("Deviation [σ]", loc="center", **font)
    sigmas = np.nan_to_num(deviation(np.asarray(spectrum.data), spectrum.total, spectrum.variance))
    limit = max(3.4, 1.15 * np.abs(sigmas).max(initial=0.0))
    lower.axhspan(-1, 1, facecolor="0.92", edgecolor="none")
    lower.stairs(sigmas, spectrum.edges, fill=True, facecolor="0.35")
    lower.axhline(0, color="black", linewidth=0.8)
    lower.set_ylim(-limit, limit)
    lower.yaxis.set_major_locator(MaxNLocator(nbins=4, integer=True, symmetric=True))


def _draw_inside(
    panel: Axes, result: Result, spectrum: Spectrum, entries: list[tuple[Any, str]], lines: list[str], size: float
) -> None:
    """Write inside the frame, from the top: coverage if partial, then some lines and the legend."""
    artists: list[Artist] = []
    top, right, left = 1.0, 1.0, _fraction(panel, SIDE_MARGIN * size)[0]
    if warning := literal(coverage_text(result)):
        artists.append(_draw_strip(panel, warning, size))
        top = _box(panel, artists[0]).y0
    top -= _fraction(panel, 0.7 * size)[1]
    if entries:
        handles, labels = zip(*entries, strict=True)
        tight: dict[str, Any] = {"borderaxespad": 0.0, "borderpad": 0.0, "labelspacing": 0.35, "fontsize": 0.92 * size}
        artists.append(panel.legend(handles, labels, loc="upper right", bbox_to_anchor=(1.0 - left, top), **tight))
        right = _box(panel, artists[-1]).x0
    note = panel.text(left, top, "", fontsize=0.92 * size, va="top", linespacing=1.35, transform=panel.transAxes)
    for columns in range(60, 10, -2):
        note.set_text("\n".join(textwrap.fill(line, columns) for line in lines))
        if _box(panel, note).x1 < right:
            break
    artists.append(note)
    # Raise the upper end of the axis until nothing drawn overlaps them.
    upper = spectrum.total + np.sqrt(spectrum.variance)
    if spectrum.data is not None:
        upper = np.maximum(upper, np.where(spectrum.data > 0, garwood(spectrum.data)[1], 0.0))
    position = (spectrum.edges - spectrum.edges[0]) / (spectrum.edges[-1] - spectrum.edges[0])
    limit = 1.08 * upper.max(initial=0.0)
    for box in (_box(panel, artist) for artist in artists):
        below = upper[(position[1:] > box.x0) & (position[:-1] < box.x1)]
        limit = max(limit, below.max(initial=0.0) / max(box.y0 - 0.04, 0.2))
    panel.set_ylim(0, limit or 1.0)
    if not spectrum.total.any() and (spectrum.data is None or not spectrum.data.any()):
        text = "no events" if result.complete else "no events yet"
        panel.text(0.5, 0.3, text, fontsize=1.6 * size, ha="center", color="0.4", transform=panel.transAxes)
        panel.set_yticks([])


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


def _box(panel: Axes, artist: Artist) -> Bbox:
    """Return the bounding box of an artist in axes coordinates."""
    return artist.get_window_extent().transformed(panel.transAxes.inverted())


def _fraction(panel: Axes, points: float) -> tuple[float, float]:
    """Return a length in points as fractions of the panel's width and height."""
    extent, pixels = panel.get_window_extent(), points / 72 * panel.figure.dpi
    return pixels / extent.width, pixels / extent.height
