"""The leptons of single events: tables, pairs and masses."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import permutations
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from higgsnb.datasets import constants
from higgsnb.errors import OptionError
from higgsnb.events import first_chunk, read_leptons
from higgsnb.plots.labels import origin
from higgsnb.plots.style import ShownFigure, one_panel, styled
from higgsnb.plots.tables import Cell, Rows, Table
from higgsnb.selection import (
    SENTINEL,
    Flavour,
    Leptons,
    Selection,
    four_lepton_selection,
    identified,
    missing_quantities,
    rules,
    used_by,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from higgsnb.datasets import Campaign

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

FLAVOURS = ("muon", "electron")
NAMES = {("muon", 1): "μ⁺", ("muon", -1): "μ⁻", ("electron", 1): "e⁺", ("electron", -1): "e⁻"}


@dataclass(frozen=True)
class Events:
    """The leptons of some events, their dataset, whether the collisions are simulated, and whose open data they are."""

    leptons: Leptons
    dataset: str
    simulated: bool
    origin: str = ""

    @property
    def heading(self) -> str:
        """Heading of a figure of these events."""
        if self.simulated:
            return f"{self.dataset} — simulated collisions"
        return f"{self.dataset} ({self.origin})" if self.origin else self.dataset

    @property
    def n_events(self) -> int:
        """Number of events."""
        return self.leptons.n_events


def events(campaign: Campaign, dataset: str, *, most: int = 100_000) -> Events:
    """Read the leptons of the first events, at most ``most``, in the first file of a dataset.

    The name is that of a dataset, or of a primary dataset, of which the first dataset is taken.

    Raises
    ------
    CampaignError
        If there is no such dataset; names the nearest.
    MissingFileError, UnreadableError, SchemaError
        As `events.inspect` does.
    """
    chunk = first_chunk(campaign, dataset, most)
    simulated = campaign.simulated or not chunk.is_data
    return Events(read_leptons(chunk), chunk.dataset, simulated, origin(campaign))


@dataclass(frozen=True)
class Lepton:
    """One lepton: its index in the columns of its flavour, charge, symbol, energy and momentum (4,) in GeV."""

    flavour: str
    index: int
    charge: int
    name: str
    vector: Floats


def leptons_of(leptons: Leptons, event: int) -> list[Lepton]:
    """Return the leptons of one event, muons first; raise IndexError if there is no such event."""
    if not 0 <= event < leptons.n_events:
        raise IndexError(f"no event {event}; there are {leptons.n_events}, numbered from 0")
    found = []
    for flavour in FLAVOURS:
        column, offsets = rules.columns_of(leptons, flavour), getattr(leptons, f"{flavour}_offsets")
        for index in range(int(offsets[event]), int(offsets[event + 1])):
            vector = _vectors(column, np.array([index]))[:, 0]
            charge = int(column.charge[index])
            found.append(Lepton(flavour, index, charge, NAMES[flavour, charge], vector))
    return found


def event_table(events: Events, event: int, selection: Selection | None = None) -> Table:
    """Return the leptons of one event as a table; with a selection, also which of them are good.

    ``pt`` in GeV, ``phi`` in radians, ``dxy`` and ``dz`` in cm; ``sip`` is the impact parameter divided by its
    uncertainty. A dash marks a quantity that the file does not have, or has no value for.
    """
    leptons, absent = events.leptons, missing_quantities(events.leptons)
    names = ("pt", "eta", "phi", "isolation", "dxy", "dz")
    rows: Rows = []
    for number, lepton in enumerate(leptons_of(leptons, event), 1):
        flavour, index = lepton.flavour, lepton.index
        column = rules.columns_of(leptons, flavour)
        values = [math.nan if f"{flavour}_{name}" in absent else float(getattr(column, name)[index]) for name in names]
        has_sip = not any(f"{flavour}_{name}" in absent for name in ("dxy", "dz", "dxy_error", "dz_error"))
        values.append(float(sip(column)[index]) if has_sip else math.nan)
        row: tuple[Cell, ...] = (number, lepton.name, *(round(v, 4) if rules.usable(v) else "–" for v in values))
        if selection is not None:
            row += ("yes" if good_leptons(leptons, flavour, selection, range(index, index + 1))[0] else "no",)
        rows.append(row)
    return Table(("#", "lepton", *names, "sip", *(("good",) if selection else ())), tuple(rows))


def sip(column: Flavour) -> Floats:
    """Return √(dxy² + dz²) / √(σ_dxy² + σ_dz²) of each lepton, (n,); NaN where one of them is missing."""
    parts = [np.asarray(values, np.float64) for values in (column.dxy, column.dz, column.dxy_error, column.dz_error)]
    dxy, dz, dxy_error, dz_error = (np.where(values == SENTINEL, np.nan, values) for values in parts)
    return np.asarray(np.hypot(dxy, dz) / np.hypot(dxy_error, dz_error))


def lepton_counts(events: Events) -> Table:
    """Return how many events have 0, 1, 2, … muons, and how many have that many electrons."""
    numbers = [np.bincount(np.diff(getattr(events.leptons, f"{flavour}_offsets"))) for flavour in FLAVOURS]
    muons, electrons = (np.pad(n, (0, max(map(len, numbers)) - len(n))).tolist() for n in numbers)
    columns = ("leptons", "events with so many muons", "with so many electrons")
    return Table(columns, tuple(zip(range(len(muons)), muons, electrons, strict=True)))


def good_leptons(leptons: Leptons, flavour: str, selection: Selection, which: range | None = None) -> Flags:
    """Return which leptons are good according to a selection, (n,) bool; ``which`` limits it to some of them.

    The rule is the compiled one of the analysis, `rules.is_good`, after identification where there is one. Raises
    `SchemaError` if the leptons lack a column that the selection needs.
    """
    leptons = used_by(leptons, four_lepton_selection(selection))
    passing = identified(leptons, flavour, selection)
    column, cuts = rules.columns_of(leptons, flavour), rules.cuts_of(selection)
    limits = [getattr(selection, f"{flavour}_{name}") for name in ("pt_min", "eta_max", "isolation_max")]
    is_good: Callable[..., bool] = rules.is_good
    indices = range(len(column.pt)) if which is None else which
    return np.array([passing[i] and is_good(column, i, *limits, cuts) for i in indices], bool)


def invariant_mass(events: Events, event: int) -> float:
    """Return the invariant mass of all leptons of an event in GeV."""
    return float(_mass(sum((lepton.vector for lepton in leptons_of(events.leptons, event)), np.zeros(4))))


def zz_pairings(events: Events, event: int) -> Table:
    """Return every way to pair the leptons of an event into two Z bosons, the one with the best Z first.

    A pair has one flavour and opposite charges, and the two pairs share no lepton. Leptons are numbered as in
    `event_table`; masses in GeV; ``away`` is the distance of the better mass from that of the Z boson.
    """
    found = leptons_of(events.leptons, event)
    masses = {
        (i, j): float(_mass(one.vector + other.vector))
        for j, other in enumerate(found)
        for i, one in enumerate(found[:j])
        if one.flavour == other.flavour and one.charge + other.charge == 0
    }
    names = {pair: " + ".join(f"{found[i].name} ({i + 1})" for i in pair) for pair in masses}
    away = {pair: abs(mass - constants.MASS_Z) for pair, mass in masses.items()}
    rows: Rows = [
        (names[best], round(masses[best], 2), names[other], round(masses[other], 2), round(away[best], 2))
        for best, other in permutations(masses, 2)
        if set(best).isdisjoint(other) and away[best] < away[other]
    ]
    rows.sort(key=lambda row: float(row[-1]))
    return Table(("pair 1", "mass 1", "pair 2", "mass 2", "away"), tuple(rows))


def _vectors(column: Flavour, which: npt.NDArray[np.int64]) -> Floats:
    """Return energy and momentum of some leptons, (4, n) in GeV."""
    pt, eta, phi, mass = (np.asarray(values, np.float64)[which] for values in column[:4])
    momentum = np.stack([pt * np.cos(phi), pt * np.sin(phi), pt * np.sinh(eta)])
    return np.concatenate([np.sqrt((momentum**2).sum(axis=0, keepdims=True) + mass**2), momentum])


def _mass(vectors: Floats) -> Floats:
    """Return √(E² − p²) of (4, n) vectors."""
    return np.asarray(np.sqrt(np.maximum(vectors[0] ** 2 - (vectors[1:] ** 2).sum(axis=0), 0.0)))


def pair_masses(
    events: Events, flavour: str = "muon", *, same_charge: bool = False, selection: Selection | None = None
) -> Floats:
    """Return the mass in GeV of every pair of leptons of one flavour and opposite charge, (n_pairs,).

    ``flavour`` is ``"muon"`` or ``"electron"``. ``same_charge`` gives pairs of the same charge instead, which cannot
    come from a Z boson; a selection limits them to leptons that pass its cuts.
    """
    if flavour not in FLAVOURS:
        problem = f"flavour = {flavour!r}; expected one of {', '.join(FLAVOURS)}"
        raise OptionError(problem, "Draw each flavour by itself.")
    leptons = events.leptons
    column, offsets = rules.columns_of(leptons, flavour), getattr(leptons, f"{flavour}_offsets")
    starts, counts = offsets[:-1], np.diff(offsets)
    places = [(i, j) for j in range(1, int(counts.max(initial=0))) for i in range(j)]
    found = [starts[counts > j] + np.array([[i], [j]]) for i, j in places]
    first, second = np.hstack([np.empty((2, 0), np.int64), *found])  # both leptons of every pair within an event
    wanted = (column.charge[first] == column.charge[second]) == same_charge
    if selection is not None:
        good = good_leptons(leptons, flavour, selection)
        wanted &= good[first] & good[second]
    first, second = first[wanted], second[wanted]
    return _mass(_vectors(column, first) + _vectors(column, second))


def plot_masses(
    events: Events,
    masses: Mapping[str, Floats],
    *,
    low: float,
    high: float,
    bins: int = 60,
    label: str = "invariant mass of the pair [GeV]",
    mark: float | None = None,
    log: bool = False,
) -> Figure:
    """Draw a histogram of each named set of masses, in GeV; ``mark`` is the mass of a dashed line.

    ``log`` makes the scale logarithmic, so that a set a hundred times smaller than another can be seen.
    """
    with styled():
        figure = ShownFigure(figsize=(7.0, 3.8))
        axes = one_panel(figure, label, f"pairs / {(high - low) / bins:.3g} GeV", events.heading)
        parts = [f"{events.heading}: {label}, {low:g} to {high:g}{', logarithmic scale' if log else ''}"]
        for colour, (name, values) in zip(("#0072B2", "#D55E00", "#009E73", "0.4"), masses.items(), strict=False):
            counts, edges = np.histogram(values, bins, (low, high))
            axes.stairs(counts, edges, label=name, color=colour, linewidth=1.5)
            top = int(np.argmax(counts))
            highest = f"at most {counts[top]:,} in a bin, from {edges[top]:g} to {edges[top + 1]:g} GeV"
            parts.append(f"{name}: {counts.sum():,} pairs, {highest}")
        if mark is not None:
            axes.axvline(mark, color="0.3", linestyle="--", linewidth=0.9, label=f"{mark:g} GeV")
        if log:
            axes.set_yscale("log")
        axes.set(xlim=(low, high), ylim=(0.5 if log else 0, None))
        axes.legend(fontsize=9, loc="upper right", borderaxespad=1.3)
        figure.alt = ". ".join(parts) + "."
    return figure
