"""The display of one event in a sketch of CMS."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from matplotlib.patches import Circle, Rectangle

from higgsnb.datasets import constants
from higgsnb.plots.leptons import Events, leptons_of
from higgsnb.plots.style import ShownFigure, plain, styled
from higgsnb.selection import rules

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Floats = npt.NDArray[np.float64]

TRACK_COLOURS = {"muon": "#0072B2", "electron": "#D55E00"}
# A sketch of CMS in metres: outer radius of tracker, electromagnetic calorimeter, coil, muon chambers; half lengths.
TRACKER, CALORIMETER, COIL, OUTSIDE = 1.2, 1.6, 3.0, 7.0
COIL_HALF_LENGTH, OUTSIDE_HALF_LENGTH, CALORIMETER_HALF_LENGTH = 6.5, 10.5, 3.2


def plot_event(events: Events, event: int) -> Figure:
    """Draw the leptons of one event in a sketch of CMS: transverse view on the left, side view on the right.

    Tracks bend in the magnetic field according to charge and transverse momentum. Electrons end in the calorimeter,
    muons leave the detector. The sketch has the dimensions of CMS but none of its details.
    """
    leptons = events.leptons
    with styled():
        figure = ShownFigure(figsize=(9.6, 4.3))
        front, side = figure.subplots(1, 2, gridspec_kw={"width_ratios": (1, 1.45), "wspace": 0.03})
        figure.subplots_adjust(left=0.01, right=0.99, bottom=0.02, top=0.9)
        _draw_detector(front, side)
        for number, lepton in enumerate(leptons_of(leptons, event), 1):
            column = rules.columns_of(leptons, lepton.flavour)
            pt, eta, phi = (float(values[lepton.index]) for values in (column.pt, column.eta, column.phi))
            x, y, z = track(pt, eta, phi, lepton.charge, leaves=lepton.flavour == "muon")
            colour = TRACK_COLOURS[lepton.flavour]
            front.plot(x, y, color=colour, linewidth=1.8)
            up = 1.0 if math.sin(phi) >= 0 else -1.0
            side.plot(z, up * np.hypot(x, y), color=colour, linewidth=1.8)
            label = f"{number} {lepton.name} {pt:.0f} GeV"
            for axes, right, top in ((front, x[-1], y[-1]), (side, z[-1], up * math.hypot(x[-1], y[-1]))):
                text = axes.text(right, top, label, fontsize=10.5, color=colour, ha="center")
                text.set_verticalalignment("bottom" if top >= 0 else "top")
                text.set_bbox({"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 0.8})
        run, section, event_number = (int(c[event]) for c in (leptons.run, leptons.luminosity_block, leptons.event))
        title = f"{events.heading}: run {run}, luminosity section {section}, event {event_number}"
        figure.suptitle(plain(title), fontsize=11.5, x=0.01, ha="left")
    return figure


def _draw_detector(front: Axes, side: Axes) -> None:
    layers = ((OUTSIDE, OUTSIDE_HALF_LENGTH, "#E9EEF3"), (COIL, COIL_HALF_LENGTH, "#CBD5DF"))
    inner = ((CALORIMETER, CALORIMETER_HALF_LENGTH, "#F3DDB3"), (TRACKER, 2.7, "white"))
    for radius, half, colour in (*layers, *inner):
        front.add_patch(Circle((0, 0), radius, facecolor=colour, edgecolor="0.6", linewidth=0.6))
        box = Rectangle((-half, -radius), 2 * half, 2 * radius, facecolor=colour, edgecolor="0.6", linewidth=0.6)
        side.add_patch(box)
    from_the_side = "view from the side; labels give the transverse momentum"
    for axes, half, text in ((front, OUTSIDE, "view along the beam"), (side, OUTSIDE_HALF_LENGTH, from_the_side)):
        axes.set(xlim=(-1.12 * half, 1.12 * half), ylim=(-1.28 * OUTSIDE, 1.17 * OUTSIDE), aspect="equal")
        axes.axis("off")
        axes.text(0, -1.26 * OUTSIDE, text, ha="center", fontsize=10, color="0.35")
    beam = 1.1 * OUTSIDE_HALF_LENGTH
    side.plot([-beam, beam], [0, 0], color="0.5", linewidth=0.6, linestyle=":")
    for radius, text in ((0.6, "tracker"), (2.3, "magnet"), (5.0, "muon chambers")):
        side.text(-9.9 if radius > COIL else -2.5, -radius, text, fontsize=9, color="0.45", va="center")


def track(pt: float, eta: float, phi: float, charge: int, *, leaves: bool) -> tuple[Floats, Floats, Floats]:
    """Return the points of a lepton's path in metres, from the collision to the point where it leaves or stops.

    ``pt`` in GeV, ``phi`` in radians, ``charge`` ±1; ``leaves``: whether it leaves the detector (muon) or ends in the
    calorimeter (electron). Small straight steps; the field is 3.8 T inside the coil and −1.8 T in the iron yoke. In a
    field along +z a positive charge turns clockwise, seen from +z.
    """
    radius, half = (OUTSIDE, OUTSIDE_HALF_LENGTH) if leaves else (CALORIMETER, CALORIMETER_HALF_LENGTH)
    step, points, direction = 0.05, [(0.0, 0.0, 0.0)], phi
    while math.hypot(*points[-1][:2]) < radius and abs(points[-1][2]) < half and len(points) < 1000:
        x, y, z = points[-1]
        inside = math.hypot(x, y) < COIL and abs(z) < COIL_HALF_LENGTH
        field = constants.FIELD_TESLA if inside else constants.RETURN_FIELD_TESLA
        direction -= charge * constants.CURVATURE * field * step / pt
        points.append((x + step * math.cos(direction), y + step * math.sin(direction), z + step * math.sinh(eta)))
    x, y, z = np.array(points).T
    return x, y, z
