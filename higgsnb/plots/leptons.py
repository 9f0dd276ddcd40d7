"""Tables and pictures for teaching: one event, pairs of leptons, the cutflow, one cut at a time.

What the notebooks show between the events and the final plot. The numbers come from the modules of the analysis; this
module only lays them out, so that a notebook cell stays two lines long.
"""

from __future__ import annotations

import html
import math
import textwrap
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from higgsnb import datasets, engine, results
from higgsnb.constants import CURVATURE, FIELD_TESLA, MASS_Z, RETURN_FIELD_TESLA
from higgsnb.errors import OptionError
from higgsnb.events import inspect, read_leptons
from higgsnb.plots.mass_spectrum import COLOURS, LABELS, SYMBOLS, ShownFigure, coverage_text, garwood, styled
from higgsnb.results import Sample, stack_order
from higgsnb.selection import (
    CHANNELS,
    CUT_NAMES,
    LARGEST,
    SENTINEL,
    Flavour,
    Leptons,
    Selection,
    missing_quantities,
    rules,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from higgsnb.datasets import Campaign
    from higgsnb.results import Outcome, Part, Result
    from higgsnb.statistics import FitResult

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
Cell = str | int | float
Rows = list[tuple[Cell, ...]]

FLAVOURS = ("muon", "electron")
NAMES = {("muon", 1): "μ⁺", ("muon", -1): "μ⁻", ("electron", 1): "e⁺", ("electron", -1): "e⁻"}
TRACK_COLOURS = {"muon": "#0072B2", "electron": "#D55E00"}
DATA, PREDICTED = "data", "all predicted"

# A sketch of CMS in metres: outer radius of tracker, electromagnetic calorimeter, coil, muon chambers; half lengths.
TRACKER, CALORIMETER, COIL, OUTSIDE = 1.2, 1.6, 3.0, 7.0
COIL_HALF_LENGTH, OUTSIDE_HALF_LENGTH, CALORIMETER_HALF_LENGTH = 6.5, 10.5, 3.2


# --- Tables --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Table:
    """A small table for a notebook; ``table["column"]`` gives the values of a column.

    ``note`` is printed below it: what is missing from the numbers.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""

    def __getitem__(self, column: str) -> list[Cell]:
        """Return the values of a column; KeyError names the known columns."""
        if column not in self.columns:
            raise KeyError(f"no column {column!r}; the columns are {', '.join(self.columns)}")
        return [row[self.columns.index(column)] for row in self.rows]

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        lines = [self.columns, *(tuple(map(_shown, row)) for row in self.rows)]
        widths = [max(len(line[i]) for line in lines) for i in range(len(self.columns))]
        shown = ["  ".join(text.rjust(width) for text, width in zip(line, widths, strict=True)) for line in lines]
        return "\n".join([*shown, self.note] if self.note else shown)

    def _repr_html_(self) -> str:
        """Return the table for a notebook, with numbers aligned to the right."""

        def cell(tag: str, value: Cell, like: Cell) -> str:
            side = "left" if isinstance(like, str) else "right"
            return f'<{tag} style="text-align:{side}">{html.escape(_shown(value))}</{tag}>'

        first = self.rows[0] if self.rows else (0,) * len(self.columns)
        head = "".join(cell("th", name, like) for name, like in zip(self.columns, first, strict=True))
        body = "".join(f"<tr>{''.join(cell('td', value, value) for value in row)}</tr>" for row in self.rows)
        note = f"<p><strong>{html.escape(self.note)}</strong></p>" if self.note else ""
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{note}"


def _shown(value: Cell) -> str:
    """Return a value as printed in a table: two decimals, thousands separated."""
    if isinstance(value, str):
        return value
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4f}" if 0 < abs(value) < 0.1 else f"{value:,.2f}"


# --- One event -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Events:
    """The leptons of some events, and their origin."""

    leptons: Leptons
    dataset: str
    simulated: bool

    @property
    def heading(self) -> str:
        """Title of a picture of these events."""
        return f"{self.dataset} {'— simulated collisions' if self.simulated else '(CMS Open Data)'}"

    @property
    def n_events(self) -> int:
        """Number of events."""
        return self.leptons.n_events


def events(campaign: Campaign, dataset: str, *, most: int = 100_000) -> Events:
    """Read the leptons of the first events of a dataset.

    Parameters
    ----------
    campaign, dataset
        A campaign and the name of one of its datasets; its first file is read.
    most
        Maximum number of events.

    Raises
    ------
    CampaignError
        If there is no such dataset; names the nearest.
    FileNotFoundError, UnreadableError, SchemaError
        See `events.inspect`.
    """
    wanted = campaign.dataset(dataset)
    file = wanted.files[0]
    entries = {file.url: file.events or inspect(file, campaign.schema).entries}
    alone = replace(campaign, datasets=(replace(wanted, files=(file,)),))
    chunk = datasets.plan_chunks(alone, entries, most)[0]
    return Events(read_leptons(chunk), wanted.name, campaign.simulated or not wanted.is_data)


def event_table(events: Events, event: int, selection: Selection | None = None) -> Table:
    """Return the leptons of one event as a table; with a selection, also which of them are good.

    ``pt`` in GeV, ``phi`` in radians, ``dxy`` and ``dz`` in cm; ``sip`` is the impact parameter divided by its
    uncertainty. A dash stands for a quantity that the file does not have.
    """
    columns = ("#", "lepton", "pt", "eta", "phi", "isolation", "dxy", "dz", "sip", *(("good",) if selection else ()))
    rows: Rows = []
    leptons = events.leptons
    for flavour in FLAVOURS:
        places = _range(leptons, flavour, event)
        flags = [None] * len(places) if selection is None else good_leptons(leptons, flavour, selection, places)
        for i, flag in zip(places, flags, strict=True):
            rows.append(
                (
                    len(rows) + 1,
                    *_lepton_row(leptons, flavour, i),
                    *(() if flag is None else ("yes" if flag else "no",)),
                )
            )
    return Table(columns, tuple(rows))


def lepton_counts(events: Events) -> Table:
    """Return how many events have 0, 1, 2, … muons, and how many have so many electrons."""
    numbers = [np.bincount(np.diff(getattr(events.leptons, f"{flavour}_offsets"))) for flavour in FLAVOURS]
    muons, electrons = (np.pad(n, (0, max(map(len, numbers)) - len(n))).tolist() for n in numbers)
    return Table(
        ("leptons", "events with so many muons", "with so many electrons"),
        tuple(zip(range(len(muons)), muons, electrons, strict=True)),
    )


def invariant_mass(events: Events, event: int) -> float:
    """Return the invariant mass of all leptons of an event in GeV."""
    places = [(flavour, i) for flavour in FLAVOURS for i in _range(events.leptons, flavour, event)]
    total = sum((_four_vector(events.leptons, *place).vector for place in places), np.zeros(4))
    return float(_mass(total))


def _range(leptons: Leptons, flavour: str, event: int) -> range:
    """Return the indices of an event's leptons of one flavour in their columns."""
    offsets = getattr(leptons, f"{flavour}_offsets")
    if not 0 <= event < leptons.n_events:
        raise IndexError(f"no event {event}; there are {leptons.n_events}, numbered from 0")
    return range(int(offsets[event]), int(offsets[event + 1]))


def _lepton_row(leptons: Leptons, flavour: str, i: int) -> tuple[Cell, ...]:
    """Return the row of one lepton; a dash where the file does not have a quantity, or has no value for it."""
    column = rules.columns_of(leptons, flavour)
    absent = {name.removeprefix(f"{flavour}_") for name in missing_quantities(leptons)}
    names = ("pt", "eta", "phi", "isolation", "dxy", "dz")
    shown = [math.nan if name in absent else float(getattr(column, name)[i]) for name in names]
    shown.append(math.nan if absent & {"dxy", "dz", "dxy_error", "dz_error"} else float(sip(column)[i]))
    return (
        NAMES[flavour, int(column.charge[i])],
        *(round(value, 4) if rules.usable(value) else "–" for value in shown),
    )


def sip(column: Flavour) -> Floats:
    """Return √(dxy² + dz²) / √(σ_dxy² + σ_dz²) of each lepton, (n,); NaN where one of them is missing."""
    parts = [np.asarray(values, np.float64) for values in (column.dxy, column.dz, column.dxy_error, column.dz_error)]
    dxy, dz, dxy_error, dz_error = (np.where(values == SENTINEL, np.nan, values) for values in parts)
    return np.asarray(np.hypot(dxy, dz) / np.hypot(dxy_error, dz_error))


def good_leptons(leptons: Leptons, flavour: str, selection: Selection, which: range | None = None) -> Flags:
    """Return which leptons are good according to a selection, (n,) bool; ``which`` limits it to some of them.

    The rule is the compiled one of the analysis, `rules.is_good`.
    """
    column, cuts = rules.columns_of(leptons, flavour), rules.cuts_of(selection)
    limits = [getattr(selection, f"{flavour}_{name}") for name in ("pt_min", "eta_max", "isolation_max")]
    is_good: Callable[..., bool] = rules.is_good
    places = range(len(column.pt)) if which is None else which
    return np.array([is_good(column, i, *limits, cuts) for i in places], bool)


def zz_pairings(events: Events, event: int) -> Table:
    """Return every way to pair the leptons of an event into two Z bosons, the one with the best Z first.

    A pair has one flavour and opposite charges, and the two pairs share no lepton. Leptons are numbered as in
    `event_table`; masses in GeV; ``away`` is the distance of the better mass from that of the Z boson.
    """
    leptons = events.leptons
    fours = [_four_vector(leptons, flavour, i) for flavour in FLAVOURS for i in _range(leptons, flavour, event)]
    pairs = [(i, j) for j in range(len(fours)) for i in range(j) if fours[i].partner(fours[j])]
    rows: Rows = []
    for first in pairs:
        for second in pairs:
            masses = _pair_mass(fours, first), _pair_mass(fours, second)
            if set(first).isdisjoint(second) and abs(masses[0] - MASS_Z) < abs(masses[1] - MASS_Z):
                names = [" + ".join(f"{fours[i].name} ({i + 1})" for i in pair) for pair in (first, second)]
                rows.append(
                    (names[0], round(masses[0], 2), names[1], round(masses[1], 2), round(abs(masses[0] - MASS_Z), 2))
                )
    rows.sort(key=lambda row: float(row[-1]))
    return Table(("pair 1", "mass 1", "pair 2", "mass 2", "away"), tuple(rows))


class _FourVector(NamedTuple):
    """A lepton as energy and momentum in GeV."""

    name: str
    flavour: str
    charge: int
    vector: Floats

    def partner(self, other: _FourVector) -> bool:
        """Whether the two can come from one Z boson."""
        return self.flavour == other.flavour and self.charge + other.charge == 0


def _four_vector(leptons: Leptons, flavour: str, i: int) -> _FourVector:
    column = rules.columns_of(leptons, flavour)
    charge = int(column.charge[i])
    return _FourVector(NAMES[flavour, charge], flavour, charge, _vectors(column, np.array([i]))[:, 0])


def _vectors(column: Flavour, which: npt.NDArray[np.int64]) -> Floats:
    """Return energy and momentum of some leptons, (4, n) float64 in GeV."""
    pt, eta, phi, mass = (np.asarray(values, np.float64)[which] for values in column[:4])
    momentum = np.stack([pt * np.cos(phi), pt * np.sin(phi), pt * np.sinh(eta)])
    return np.concatenate([np.sqrt((momentum**2).sum(axis=0, keepdims=True) + mass**2), momentum])


def _mass(vectors: Floats) -> Floats:
    """Return √(E² − p²) of (4, n) vectors."""
    return np.asarray(np.sqrt(np.maximum(vectors[0] ** 2 - (vectors[1:] ** 2).sum(axis=0), 0.0)))


def _pair_mass(fours: list[_FourVector], pair: tuple[int, int]) -> float:
    return float(_mass(fours[pair[0]].vector + fours[pair[1]].vector))


def plot_event(events: Events, event: int) -> Figure:
    """Draw the leptons of one event in a sketch of CMS: transverse view on the left, side view on the right.

    Tracks are helices in the magnetic field, so that charge and momentum can be seen. Electrons end in the calorimeter,
    muons leave the detector. The sketch has the sizes of CMS but none of its details.
    """
    leptons = events.leptons
    with styled():
        figure = ShownFigure(figsize=(9.6, 4.3))
        front, side = figure.subplots(1, 2, gridspec_kw={"width_ratios": (1, 1.45), "wspace": 0.03})
        figure.subplots_adjust(left=0.01, right=0.99, bottom=0.02, top=0.9)
        _draw_detector(front, side)
        number = 0
        for flavour in FLAVOURS:
            for i in _range(leptons, flavour, event):
                number += 1
                _draw_lepton(front, side, rules.columns_of(leptons, flavour), flavour, i, number)
        run, section, place = (int(c[event]) for c in (leptons.run, leptons.luminosity_block, leptons.event))
        title = f"{events.heading}: run {run}, luminosity section {section}, event {place}"
        figure.suptitle(title, fontsize=11.5, x=0.01, ha="left")
    return figure


def _draw_detector(front: Axes, side: Axes) -> None:
    from matplotlib.patches import Circle, Rectangle

    layers = ((OUTSIDE, OUTSIDE_HALF_LENGTH, "#E9EEF3"), (COIL, COIL_HALF_LENGTH, "#CBD5DF"))
    inner = ((CALORIMETER, CALORIMETER_HALF_LENGTH, "#F3DDB3"), (TRACKER, 2.7, "white"))
    for radius, half, colour in (*layers, *inner):
        front.add_patch(Circle((0, 0), radius, facecolor=colour, edgecolor="0.6", linewidth=0.6))
        side.add_patch(
            Rectangle((-half, -radius), 2 * half, 2 * radius, facecolor=colour, edgecolor="0.6", linewidth=0.6)
        )
    for axes, half in ((front, OUTSIDE), (side, OUTSIDE_HALF_LENGTH)):
        axes.set(xlim=(-1.12 * half, 1.12 * half), ylim=(-1.17 * OUTSIDE, 1.17 * OUTSIDE), aspect="equal")
        axes.axis("off")
    side.plot(
        [-1.1 * OUTSIDE_HALF_LENGTH, 1.1 * OUTSIDE_HALF_LENGTH], [0, 0], color="0.5", linewidth=0.6, linestyle=":"
    )
    front.text(0, -1.16 * OUTSIDE, "along the beam", ha="center", fontsize=10, color="0.35")
    side.text(0, -1.16 * OUTSIDE, "from the side", ha="center", fontsize=10, color="0.35")
    for radius, text in ((0.6, "tracker"), (2.3, "magnet"), (5.0, "muon chambers")):
        side.text(-9.9 if radius > COIL else -2.5, -radius, text, fontsize=9, color="0.45", va="center")


def _draw_lepton(front: Axes, side: Axes, column: Flavour, flavour: str, i: int, number: int) -> None:
    """Draw one track in both views, with its name and momentum at the end."""
    pt, eta, charge = float(column.pt[i]), float(column.eta[i]), int(column.charge[i])
    x, y, z = track(pt, eta, float(column.phi[i]), charge, leaves=flavour == "muon")
    colour = TRACK_COLOURS[flavour]
    front.plot(x, y, color=colour, linewidth=1.8)
    up = 1.0 if math.sin(float(column.phi[i])) >= 0 else -1.0
    side.plot(z, up * np.hypot(x, y), color=colour, linewidth=1.8)
    label = f"{number} {NAMES[flavour, charge]} {pt:.0f} GeV"
    for axes, end in ((front, (x[-1], y[-1])), (side, (z[-1], up * math.hypot(x[-1], y[-1])))):
        text = axes.text(
            end[0], end[1], label, fontsize=10.5, color=colour, ha="center", va="bottom" if end[1] >= 0 else "top"
        )
        text.set_bbox({"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 0.8})


def track(pt: float, eta: float, phi: float, charge: int, *, leaves: bool) -> tuple[Floats, Floats, Floats]:
    """Return the points of a lepton's path in metres, from the collision to where it leaves or stops.

    Parameters
    ----------
    pt, eta, phi, charge
        Transverse momentum in GeV, pseudorapidity, azimuth in radians, ±1.
    leaves
        Whether it leaves the detector (muon) or ends in the calorimeter (electron).

    Notes
    -----
    Small straight steps; the field is 3.8 T inside the coil and −1.8 T in the iron yoke. In a field along +z a positive
    charge turns clockwise, seen from +z.
    """
    radius, half = (OUTSIDE, OUTSIDE_HALF_LENGTH) if leaves else (CALORIMETER, CALORIMETER_HALF_LENGTH)
    step, points, direction = 0.05, [(0.0, 0.0, 0.0)], phi
    while math.hypot(*points[-1][:2]) < radius and abs(points[-1][2]) < half and len(points) < 1000:
        x, y, z = points[-1]
        inside = math.hypot(x, y) < COIL and abs(z) < COIL_HALF_LENGTH
        direction -= charge * CURVATURE * (FIELD_TESLA if inside else RETURN_FIELD_TESLA) * step / pt
        points.append((x + step * math.cos(direction), y + step * math.sin(direction), z + step * math.sinh(eta)))
    x, y, z = np.array(points).T
    return x, y, z


# --- Pairs ---------------------------------------------------------------------------------------------------


def pair_masses(
    events: Events, flavour: str = "muon", *, same_charge: bool = False, selection: Selection | None = None
) -> Floats:
    """Return the mass of every pair of leptons of one flavour and opposite (or the same) charge.

    Parameters
    ----------
    events, flavour
        The events, and ``"muon"`` or ``"electron"``.
    same_charge
        Pairs of the same charge instead, which cannot come from a Z boson.
    selection
        Use only leptons that are good according to this selection; None: all.

    Returns
    -------
    (n_pairs,) float64
        In GeV.
    """
    if flavour not in FLAVOURS:
        raise OptionError(f"flavour = {flavour!r}; expected one of {', '.join(FLAVOURS)}")
    leptons = events.leptons
    column, offsets = rules.columns_of(leptons, flavour), getattr(leptons, f"{flavour}_offsets")
    first, second = _pairs(offsets)
    wanted = (column.charge[first] == column.charge[second]) == same_charge
    if selection is not None:
        good = good_leptons(leptons, flavour, selection)
        wanted &= good[first] & good[second]
    first, second = first[wanted], second[wanted]
    return _mass(_vectors(column, first) + _vectors(column, second))


def _pairs(offsets: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the indices of both leptons of every pair within an event, given the offsets of the events."""
    starts, counts = offsets[:-1], np.diff(offsets)
    found = [
        (starts[counts > j] + i, starts[counts > j] + j) for j in range(1, int(counts.max(initial=0))) for i in range(j)
    ]
    nothing = (np.empty(0, np.int64), np.empty(0, np.int64))
    first, second = zip(*(found or [nothing]), strict=True)
    return np.concatenate(first), np.concatenate(second)


def plot_masses(
    events: Events,
    masses: Mapping[str, Floats],
    *,
    low: float,
    high: float,
    bins: int = 60,
    label: str = "mass of the pair [GeV]",
    mark: float | None = None,
) -> Figure:
    """Draw a histogram of each set of masses by its name; ``mark`` draws a dashed line at a mass in GeV."""
    with styled():
        figure = ShownFigure(figsize=(7.0, 3.8))
        axes = _axes(figure, label, f"pairs / {(high - low) / bins:.3g} GeV", events.heading)
        for colour, (name, values) in zip(("#0072B2", "#D55E00", "#009E73", "0.4"), masses.items(), strict=False):
            counts, edges = np.histogram(values, bins, (low, high))
            axes.stairs(counts, edges, label=name, color=colour, linewidth=1.5)
        if mark is not None:
            axes.axvline(mark, color="0.3", linestyle="--", linewidth=0.9, label=f"{mark:g} GeV")
        axes.set(xlim=(low, high), ylim=(0, None))
        axes.legend(fontsize=9, loc="upper right", borderaxespad=1.3)
    return figure


def _axes(figure: Figure, label: str, vertical: str, heading: str, note: str = "") -> Axes:
    """Return axes that fill the figure, with a heading and a note above them."""
    top = 0.87 if note else 0.92
    axes = figure.subplots(gridspec_kw={"left": 0.1, "right": 0.975, "bottom": 0.14, "top": top})
    axes.set_xlabel(label, fontsize=10)
    axes.set_ylabel(vertical, fontsize=10)
    axes.tick_params(labelsize=9)
    axes.text(0.0, 1.02, heading, fontsize=10, fontweight="bold", transform=axes.transAxes)
    axes.text(1.0, 1.02, textwrap.fill(note, 56), ha="right", va="bottom", fontsize=8, transform=axes.transAxes)
    return axes


# --- Results -------------------------------------------------------------------------------------------------


def yields(result: Result, window: str = "118-130") -> Table:
    """Return expected and observed events in a window of the four-lepton mass, per process and channel."""
    if window not in result.windows:
        raise KeyError(f"no window {window!r}; known: {', '.join(result.windows)}")
    numbers = {p: [per[channel].expected for channel in CHANNELS] for p, per in result.windows[window].items()}
    rows: Rows = [(p, *(round(n, 2) for n in (*found, sum(found)))) for p, found in numbers.items() if p != DATA]
    if rows:
        total = [math.fsum(found[i] for p, found in numbers.items() if p != DATA) for i in range(len(CHANNELS))]
        rows.append((PREDICTED, *(round(n, 2) for n in (*total, sum(total)))))
    if DATA in numbers:
        rows.append((DATA, *(round(n) for n in (*numbers[DATA], sum(numbers[DATA])))))
    return Table(("process", *CHANNELS, "all"), tuple(rows), coverage_text(result))


def windows(result: Result, *names: str) -> Table:
    """Return expected and observed events in some windows of the four-lepton mass; all windows if none is named."""
    found = {name: yields(result, name) for name in names or tuple(result.windows)}
    shown = [p for p in (PREDICTED, DATA) if any(p in table["process"] for table in found.values())]
    rows = [(name, *(table["all"][table["process"].index(p)] for p in shown)) for name, table in found.items()]
    return Table(("window [GeV]", *(p.removeprefix("all ") for p in shown)), tuple(rows), coverage_text(result))


def summary(result: Result) -> Table:
    """Return what identifies a result: code, campaign, selection, and how many of the events are in it."""
    code, (done, total) = result.provenance["code"], result.coverage.events
    commit = str(code["git_commit"] or "not from a git checkout")[:12]
    rows = (
        ("package", f"{code['package']} {code['version']}"),
        ("commit", f"{commit}{' with changes' if code['git_dirty'] else ''}"),
        ("campaign", f"{result.campaign.name}{' (simulated)' if result.simulated else ''}"),
        ("selection", f"{result.selection.name} {result.selection.digest[:8]}"),
        ("events", f"{done:,} of {total:,}"),
        ("complete", "yes" if result.complete else "no"),
    )
    return Table(("what", "which"), rows)


def cutflow(result: Result, channel: str = "4mu") -> Table:
    """Return how many events of each process pass each cut: expected for simulation, counted for data.

    KeyError names the known channels.
    """
    if channel not in CHANNELS:
        raise KeyError(f"no channel {channel!r}; known: {', '.join(CHANNELS)}")
    none = [(name, 0) for name in CUT_NAMES]
    flows = {
        dataset.name: np.array(
            [[n for _, n in result.cutflow.get(dataset.name, {}).get(one, none)] for one in CHANNELS], np.int64
        )
        for dataset in result.campaign.datasets
    }
    left = result.normalised(range(len(CUT_NAMES) + 1), flows).by_process()
    index = CHANNELS.index(channel)
    rows = [
        (name, *(round(events[index, i].item(), 2) for events in left.values())) for i, name in enumerate(CUT_NAMES)
    ]
    return Table(("cut", *left), tuple(rows), coverage_text(result))


def candidates_in(result: Result, low: float, high: float) -> Table:
    """Return the selected events of the data with low ≤ four-lepton mass < high (GeV), in order of mass."""
    datasets, rows = result.campaign.datasets, result.candidates
    is_data = np.array([dataset.is_data for dataset in datasets], bool)[rows.dataset]
    found = rows.rows(is_data & (low <= rows.mass_4l) & (rows.mass_4l < high))
    found = found.rows(np.argsort(found.mass_4l))
    listed = zip(
        [datasets[i].name for i in found.dataset],
        found.entry.tolist(),
        [CHANNELS[i] for i in found.channel],
        *([round(one, 2) for one in mass.tolist()] for mass in (found.mass_4l, found.mass_z1, found.mass_z2)),
        strict=True,
    )
    columns = ("dataset", "entry", "channel", "mass_4l", "mass_z1", "mass_z2")
    return Table(columns, tuple(listed), coverage_text(result))


def plot_scan(fit: FitResult) -> Figure:
    """Draw the likelihood profile of a fit; the dashed line is one standard deviation."""
    with styled():
        figure = ShownFigure(figsize=(7.0, 3.4))
        axes = _axes(figure, "signal strength (1 = as predicted)", "−2 ln L above its minimum", fit.model.note)
        axes.plot(fit.scan_strength, fit.scan_twice_nll, color="#0072B2", linewidth=1.8)
        axes.axhline(1.0, color="0.3", linestyle="--", linewidth=0.9)
        for strength in (fit.signal_strength - fit.error_low, fit.signal_strength + fit.error_high):
            axes.axvline(strength, color="0.6", linestyle=":", linewidth=0.9)
        axes.set(xlim=(fit.scan_strength[0], fit.scan_strength[-1]), ylim=(0, None))
    return figure


# --- One cut at a time ---------------------------------------------------------------------------------------


class Quantity(NamedTuple):
    """What one or two cuts are compared with: axis label and range, and the values that switch these cuts off.

    ``compared`` is the cut that stands for it in `results.cut_quantity`.
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
"""What `n_minus_one` takes."""


@dataclass(frozen=True)
class NMinusOne:
    """One quantity of all events that pass every cut but the one on it.

    ``heading`` names the campaign, ``note`` says what is missing. ``values``, ``weights`` and ``passes`` are by
    process, each (n,): the quantity, the weight of the event, and whether it passes the cut. ``kept`` is the open
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
    """Apply every cut but one, and return the quantity that this cut is compared with.

    Parameters
    ----------
    campaign, selection
        What to analyse, and the cuts.
    quantity
        One of `QUANTITIES`: the cuts on it are left out.

    Raises
    ------
    KeyError
        If there is no such quantity; names the known ones.
    """
    if quantity not in QUANTITIES:
        raise KeyError(f"no quantity {quantity!r}; known: {', '.join(QUANTITIES)}")
    chosen = QUANTITIES[quantity]
    *_, result = engine.run(campaign, selection.replace(**chosen.left_out))
    sample = Sample.load(result)
    found = sample.select(result.selection)
    pieces: dict[str, list[tuple[Floats, Floats, Flags]]] = {dataset.process: [] for dataset in campaign.datasets}
    for part in sample.parts:
        worst, channel = results.cut_quantity(part, found, chosen.compared)
        weights = found.weights[part.dataset][channel]
        process = campaign.datasets[part.dataset].process
        pieces[process].append((worst, weights, _passes(part, found, selection, chosen.left_out)))
    values, weights_of, passes = (
        {process: np.concatenate([one[i] for one in of] or [np.empty(0)]) for process, of in pieces.items()}
        for i in range(3)
    )
    heading = f"{campaign.name} — simulated collisions" if campaign.simulated else campaign.title
    limits = {cut: getattr(selection, cut) for cut in chosen.left_out}
    # The looser limit, if those of muons and electrons differ.
    low = min((limit for cut, limit in limits.items() if cut.endswith("_min")), default=-math.inf)
    high = max(limit for cut, limit in limits.items() if cut.endswith("_max"))
    return NMinusOne(quantity, heading, coverage_text(result), (low, high), values, weights_of, passes)


def _passes(part: Part, found: Outcome, selection: Selection, cuts: Iterable[str]) -> Flags:
    """Return which candidates pass these cuts of a selection; a cut on a flavour that is absent is passed."""
    passes = np.ones(len(found.picked[part.dataset]), bool)
    for cut in cuts:
        values, _ = results.cut_quantity(part, found, cut)
        limit = getattr(selection, cut)
        passes &= ~(values <= limit if cut.endswith("_min") else values >= limit)
    return passes


def plot_n_minus_one(found: NMinusOne, *, bins: int = 40) -> Figure:
    """Draw the result of `n_minus_one`: stacked prediction, data as points, what the cut removes in grey.

    The first and last bin include the underflow and overflow.
    """
    title, (low, high), *_ = QUANTITIES[found.quantity]
    with styled():
        figure = ShownFigure(figsize=(7.0, 3.8))
        axes = _axes(figure, title, "events (all other cuts applied)", found.heading, found.note)
        bottom = np.zeros(bins)
        for process in sorted(stack_order(found.values), key=lambda process: process == DATA):
            inside = np.clip(found.values[process], low, np.nextafter(high, low))
            counts, edges = np.histogram(inside, bins, (low, high), weights=found.weights[process])
            if process == DATA:
                centres = (edges[1:] + edges[:-1])[counts > 0] / 2
                counts = counts[counts > 0]
                bars = np.abs(np.stack(garwood(counts)) - counts)
                axes.errorbar(centres, counts, bars, fmt="o", color="black", markersize=3.5, label="data")
                continue
            patch = axes.stairs(bottom + counts, edges, baseline=bottom, fill=True, label=LABELS.get(process, process))
            patch.set(facecolor=COLOURS.get(process, "0.6"), edgecolor="none")
            bottom = bottom + counts
        for begin, end in ((low, found.kept[0]), (found.kept[1], high)):
            if begin < end:  # what the cut removes
                axes.axvspan(begin, end, facecolor="0.5", alpha=0.25, edgecolor="none", zorder=3)
        for edge in found.kept:
            if low < edge < high:
                axes.axvline(edge, color="0.3", linestyle="--", linewidth=1.0, zorder=4)
        axes.set(xlim=(low, high), yscale="log", ylim=(0.02, None))
        axes.legend(fontsize=9, loc="upper right", borderaxespad=1.3)
    return figure
