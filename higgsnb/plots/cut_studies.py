"""One cut at a time: what a cut removes when all others are applied ("N − 1")."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from higgsnb import engine, results
from higgsnb.plots.labels import coverage_text, heading
from higgsnb.plots.style import COLOURS, SYMBOLS, ShownFigure, colour, label, one_panel, styled
from higgsnb.plots.tables import DATA, Rows, Table
from higgsnb.results import PreselectedEvents, stack_order
from higgsnb.selection import LARGEST, Selection, four_lepton_selection
from higgsnb.statistics import garwood

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from higgsnb.datasets import Campaign

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]


class Quantity(NamedTuple):
    """A quantity that one or two cuts limit: its axis label and range, and the values that switch these cuts off.

    ``compared`` is the cut to pass to `results.cut_quantity`.
    """

    title: str
    axis: tuple[float, float]
    compared: str
    left_out: Mapping[str, float]


QUANTITIES = {
    "sip": Quantity("largest SIP of the four leptons", (0.0, 20.0), "sip_max", {"sip_max": LARGEST}),
    "isolation": Quantity(
        "largest isolation of the four leptons",
        (0.0, 1.6),
        "isolation_max",
        {"muon_isolation_max": LARGEST, "electron_isolation_max": LARGEST},
    ),
    "mass_z1": Quantity(SYMBOLS["mass_z1"], (0.0, 130.0), "z1_mass_min", {"z1_mass_min": 0.0, "z1_mass_max": LARGEST}),
    "mass_z2": Quantity(SYMBOLS["mass_z2"], (0.0, 130.0), "z2_mass_min", {"z2_mass_min": 0.0, "z2_mass_max": LARGEST}),
}
"""The quantities that `n_minus_one` accepts."""


@dataclass(frozen=True)
class NMinusOne:
    """A quantity, in the events that pass every cut but the ones on it ("N − 1").

    ``heading`` is that of the figure, ``note`` states what is missing. ``values``, ``weights`` and ``passes`` are, for
    each process, (n,): the quantity, the weight of the event, and whether it passes the cut. ``kept`` is the open
    interval outside which the cut keeps nothing.
    """

    quantity: str
    heading: str
    note: str
    kept: tuple[float, float]
    values: Mapping[str, Floats]
    weights: Mapping[str, Floats]
    passes: Mapping[str, Flags]

    @property
    def table(self) -> Table:
        """Events of each process that pass and fail the cut."""
        rows: Rows = []
        for process, weights in self.weights.items():
            kept, removed = (float(weights[self.passes[process] == which].sum()) for which in (True, False))
            shown = (round(n) if process == DATA else round(n, 2) for n in (kept, removed))
            rows.append((process, *shown, round(100 * removed / (kept + removed or 1.0), 1)))
        return Table(("process", "kept", "removed", "% removed"), tuple(rows), self.note)


def n_minus_one(campaign: Campaign, selection: Selection, quantity: str) -> NMinusOne:
    """Apply every cut but those on ``"sip"``, ``"isolation"``, ``"mass_z1"`` or ``"mass_z2"``; return this quantity.

    Raise KeyError if there is no such quantity; names the known ones.
    """
    if quantity not in QUANTITIES:
        raise KeyError(f"no quantity {quantity!r}; known: {', '.join(QUANTITIES)}")
    chosen = QUANTITIES[quantity]
    four_lepton_selection(selection, "Leave the cut out of the function, and give the quantity an axis of its own.")
    limits = {cut: getattr(selection, cut) for cut in chosen.left_out}
    *_, result = engine.run(campaign, selection.replace(**chosen.left_out))
    sample = PreselectedEvents.load(result)
    found = sample.select(result.cuts)
    pieces: dict[str, list[tuple[Floats, Floats, Flags]]] = {dataset.process: [] for dataset in campaign.datasets}
    for part in sample.parts:
        worst, channel = results.cut_quantity(part, found, chosen.compared)
        weights = found.weights[part.dataset][channel]
        passes = np.ones(len(worst), bool)
        for cut, limit in limits.items():  # a candidate without leptons of a flavour passes the cuts on it
            values, _ = results.cut_quantity(part, found, cut)
            passes &= ~(values <= limit if cut.endswith("_min") else values >= limit)
        pieces[campaign.datasets[part.dataset].process].append((worst, weights, passes))
    by_process = [
        {process: np.concatenate([one[i] for one in of] or [np.empty(0)]) for process, of in pieces.items()}
        for i in range(3)
    ]
    # The looser limit, if those of muons and electrons differ.
    low = min((limit for cut, limit in limits.items() if cut.endswith("_min")), default=-math.inf)
    high = max(limit for cut, limit in limits.items() if cut.endswith("_max"))
    return NMinusOne(quantity, heading(result), coverage_text(result), (low, high), *by_process)


def plot_n_minus_one(found: NMinusOne, *, bins: int = 40) -> Figure:
    """Draw the result of `n_minus_one`: stacked prediction, data as points, what the cut removes in grey.

    The last bin includes the overflow.
    """
    title, (low, high), *_ = QUANTITIES[found.quantity]
    with styled():
        figure = ShownFigure(figsize=(7.0, 3.8))
        horizontal = f"{title} (last bin includes the overflow)"
        vertical = "events / bin, N − 1 (all other cuts applied)"
        axes = one_panel(figure, horizontal, vertical, found.heading, found.note)
        entries = _draw_counts(axes, found, bins)
        for begin, end in ((low, found.kept[0]), (found.kept[1], high)):
            if begin < end:  # what the cut removes
                axes.axvspan(begin, end, facecolor="0.5", alpha=0.25, edgecolor="none", zorder=3)
        for edge in found.kept:
            if low < edge < high:
                axes.axvline(edge, color="0.3", linestyle="--", linewidth=1.0, zorder=4)
        axes.set(xlim=(low, high), yscale="log", ylim=(0.02, None))
        white: dict[str, Any] = {"frameon": True, "facecolor": "white", "edgecolor": "none", "framealpha": 1.0}
        axes.legend(handles=entries[::-1], fontsize=9, loc="upper right", borderaxespad=1.3, **white)
        removed = ", ".join(f"{process} {share:g} %" for process, _, _, share in found.table.rows)
        limits = " and ".join(f"{edge:g}" for edge in found.kept if low < edge < high)
        note = f" {found.note}." if found.note else ""
        what = found.quantity.replace("_", " ")
        figure.alt = f"{found.heading}: {what}, all other cuts applied. The cut at {limits} removes {removed}.{note}"
    return figure


def _draw_counts(axes: Axes, found: NMinusOne, bins: int) -> list[Any]:
    """Draw the stacked prediction and the data; return what the legend lists, from the bottom of the stack."""
    bottom, drawn = np.zeros(bins), list[Any]()
    low, high = QUANTITIES[found.quantity].axis
    processes = stack_order(found.values)
    others = [process for process in processes if process not in (*COLOURS, DATA)]
    for process in sorted(processes, key=lambda process: process == DATA):
        inside = np.clip(found.values[process], low, np.nextafter(high, low))
        counts, edges = np.histogram(inside, bins, (low, high), weights=found.weights[process])
        if process == DATA:
            centres = (edges[1:] + edges[:-1])[counts > 0] / 2
            counts = counts[counts > 0]
            bars = np.abs(np.stack(garwood(counts)) - counts)
            drawn.append(axes.errorbar(centres, counts, bars, fmt="o", color="black", markersize=3.5, label="data"))
            continue
        patch = axes.stairs(bottom + counts, edges, baseline=bottom, fill=True, label=label(process))
        patch.set(facecolor=colour(process, others), edgecolor="none")
        drawn.append(patch)
        bottom = bottom + counts
    return drawn
