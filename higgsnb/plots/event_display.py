"""The display of one event in a sketch of CMS."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
from matplotlib.patches import Circle, Rectangle

from higgsnb.datasets import constants
from higgsnb.plots.leptons import NAMES, Events, leptons_of
from higgsnb.plots.style import ShownFigure, literal, styled
from higgsnb.selection import rules

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Floats = npt.NDArray[np.float64]

TRACK_COLOURS = {"muon": "#0072B2", "electron": "#D55E00"}
TRACK_STYLES: dict[str, Any] = {"muon": "-", "electron": (0, (1.0, 1.3))}


class Layer(NamedTuple):
    """A part of the detector as a cylinder around the beam: outer radius and half its length in metres, its colour."""

    name: str
    radius: float
    half_length: float
    colour: str


DETECTOR = (
    Layer("muon chambers", 7.0, 10.5, "#E9EEF3"),
    Layer("magnet", 3.0, 6.5, "#CBD5DF"),
    Layer("calorimeter", 1.6, 3.2, "#F3DDB3"),
    Layer("tracker", 1.2, 2.7, "white"),
)
"""A sketch of CMS, from the outside to the inside; it has the dimensions of CMS but none of its details."""
OUTSIDE, COIL, CALORIMETER, _ = DETECTOR


def plot_event(events: Events, event: int) -> Figure:
    """Draw the leptons of one event in a sketch of CMS: end view on the left, side view on the right.

    Tracks bend in the magnetic field according to charge and transverse momentum. Electrons (dotted) end in the
    calorimeter, muons leave the detector.
    """
    leptons, found = events.leptons, list[tuple[str, float, float, float, int]]()
    for lepton in leptons_of(leptons, event):
        column = rules.columns_of(leptons, lepton.flavour)
        pt, eta, phi = (float(values[lepton.index]) for values in (column.pt, column.eta, column.phi))
        found.append((lepton.flavour, pt, eta, phi, lepton.charge))
    run, section, number = (int(c[event]) for c in (leptons.run, leptons.luminosity_block, leptons.event))
    return plot_tracks(f"{events.heading}: run {run}, luminosity section {section}, event {number}", found)


def plot_tracks(title: str, leptons: Iterable[tuple[str, float, float, float, int]]) -> Figure:
    """Draw leptons as `plot_event` does: flavour ("muon" or "electron"), pt in GeV, eta, phi in radians, and charge."""
    with styled():
        figure, parts = ShownFigure(figsize=(9.6, 4.3)), []
        end, side = figure.subplots(1, 2, gridspec_kw={"width_ratios": (1, 1.45), "wspace": 0.03})
        figure.subplots_adjust(left=0.01, right=0.99, bottom=0.02, top=0.9)
        _draw_detector(end, side)
        for number, (flavour, pt, eta, phi, charge) in enumerate(leptons, 1):
            x, y, z = track(pt, eta, phi, charge, leaves=flavour == "muon")
            line = {"color": TRACK_COLOURS[flavour], "linewidth": 1.8, "linestyle": TRACK_STYLES[flavour]}
            end.plot(x, y, **line)
            up = 1.0 if math.sin(phi) >= 0 else -1.0
            side.plot(z, up * np.hypot(x, y), **line)
            name = f"{number} {NAMES[flavour, charge]}"
            parts.append(f"{name} with pT {pt:.1f} GeV, η {eta:.2f}, φ {phi:.2f}".replace("-", "−"))
            for axes, right, top in ((end, x[-1], y[-1]), (side, z[-1], up * math.hypot(x[-1], y[-1]))):
                text = axes.text(right, top, f"{name} {pt:.0f} GeV", fontsize=10.5, color=line["color"], ha="center")
                text.set_verticalalignment("bottom" if top >= 0 else "top")
                text.set_bbox({"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 0.8})
        figure.suptitle(literal(title), fontsize=11.5, x=0.01, ha="left")
        figure.alt = f"{title}. End view and side view of the detector with {len(parts)} leptons: {'; '.join(parts)}."
    return figure


def _draw_detector(end: Axes, side: Axes) -> None:
    for _, radius, half, colour in DETECTOR:
        edge: dict[str, Any] = {"facecolor": colour, "edgecolor": "0.6", "linewidth": 0.6}
        end.add_patch(Circle((0, 0), radius, **edge))
        side.add_patch(Rectangle((-half, -radius), 2 * half, 2 * radius, **edge))
    views = (
        (end, OUTSIDE.radius, "end view, along the beam"),
        (side, OUTSIDE.half_length, "side view; labels give the transverse momentum"),
    )
    for axes, half, text in views:
        axes.set(xlim=(-1.12 * half, 1.12 * half), aspect="equal")
        axes.set_ylim(-1.28 * OUTSIDE.radius, 1.17 * OUTSIDE.radius)
        axes.axis("off")
        axes.text(0, -1.26 * OUTSIDE.radius, text, ha="center", fontsize=10, color="0.35")
    beam = 1.1 * OUTSIDE.half_length
    side.plot([-beam, beam], [0, 0], color="0.5", linewidth=0.6, linestyle=":")
    for radius, text in ((0.6, "tracker"), (2.3, "magnet"), (5.0, "muon chambers")):
        side.text(-9.9 if radius > COIL.radius else -2.5, -radius, text, fontsize=9, color="0.45", va="center")


def track(pt: float, eta: float, phi: float, charge: int, *, leaves: bool) -> tuple[Floats, Floats, Floats]:
    """Return the points of a lepton's path in metres, from the collision to the point where it leaves or stops.

    ``pt`` in GeV, ``phi`` in radians, ``charge`` ±1; ``leaves``: whether it leaves the detector (muon) or ends in the
    calorimeter (electron). Small straight steps; the field is 3.8 T inside the coil and −1.8 T in the iron yoke. In a
    field along +z a positive charge turns clockwise, seen from +z.
    """
    _, radius, half, _ = OUTSIDE if leaves else CALORIMETER
    step, points, direction = 0.05, [(0.0, 0.0, 0.0)], phi
    while math.hypot(*points[-1][:2]) < radius and abs(points[-1][2]) < half and len(points) < 1000:
        x, y, z = points[-1]
        inside = math.hypot(x, y) < COIL.radius and abs(z) < COIL.half_length
        field = constants.FIELD_TESLA if inside else constants.RETURN_FIELD_TESLA
        direction -= charge * constants.CURVATURE * field * step / pt
        points.append((x + step * math.cos(direction), y + step * math.sin(direction), z + step * math.sinh(eta)))
    x, y, z = np.array(points).T
    return x, y, z
