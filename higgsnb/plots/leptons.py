"""The leptons of single events: tables, pairs and masses."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from higgsnb import datasets
from higgsnb.constants import MASS_Z
from higgsnb.errors import OptionError
from higgsnb.events import inspect, read_leptons
from higgsnb.plots.style import ShownFigure, one_panel, styled
from higgsnb.plots.tables import Cell, Rows, Table
from higgsnb.selection import SENTINEL, Flavour, Leptons, Selection, missing_quantities, rules

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from higgsnb.datasets import Campaign

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

FLAVOURS = ("muon", "electron")
NAMES = {("muon", 1): "μ⁺", ("muon", -1): "μ⁻", ("electron", 1): "e⁺", ("electron", -1): "e⁻"}


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


def lepton_counts(events: Events) -> Table:
    """Return how many events have 0, 1, 2, … muons, and how many have so many electrons."""
    numbers = [np.bincount(np.diff(getattr(events.leptons, f"{flavour}_offsets"))) for flavour in FLAVOURS]
    muons, electrons = (np.pad(n, (0, max(map(len, numbers)) - len(n))).tolist() for n in numbers)
    return Table(
        ("leptons", "events with so many muons", "with so many electrons"),
        tuple(zip(range(len(muons)), muons, electrons, strict=True)),
    )


def good_leptons(leptons: Leptons, flavour: str, selection: Selection, which: range | None = None) -> Flags:
    """Return which leptons are good according to a selection, (n,) bool; ``which`` limits it to some of them.

    The rule is the compiled one of the analysis, `rules.is_good`.
    """
    column, cuts = rules.columns_of(leptons, flavour), rules.cuts_of(selection)
    limits = [getattr(selection, f"{flavour}_{name}") for name in ("pt_min", "eta_max", "isolation_max")]
    is_good: Callable[..., bool] = rules.is_good
    places = range(len(column.pt)) if which is None else which
    return np.array([is_good(column, i, *limits, cuts) for i in places], bool)


def invariant_mass(events: Events, event: int) -> float:
    """Return the invariant mass of all leptons of an event in GeV."""
    places = [(flavour, i) for flavour in FLAVOURS for i in _range(events.leptons, flavour, event)]
    total = sum((_four_vector(events.leptons, *place).vector for place in places), np.zeros(4))
    return float(_mass(total))


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


def _pair_mass(fours: list[_FourVector], pair: tuple[int, int]) -> float:
    return float(_mass(fours[pair[0]].vector + fours[pair[1]].vector))


def _range(leptons: Leptons, flavour: str, event: int) -> range:
    """Return the indices of an event's leptons of one flavour in their columns."""
    offsets = getattr(leptons, f"{flavour}_offsets")
    if not 0 <= event < leptons.n_events:
        raise IndexError(f"no event {event}; there are {leptons.n_events}, numbered from 0")
    return range(int(offsets[event]), int(offsets[event + 1]))


def _vectors(column: Flavour, which: npt.NDArray[np.int64]) -> Floats:
    """Return energy and momentum of some leptons, (4, n) float64 in GeV."""
    pt, eta, phi, mass = (np.asarray(values, np.float64)[which] for values in column[:4])
    momentum = np.stack([pt * np.cos(phi), pt * np.sin(phi), pt * np.sinh(eta)])
    return np.concatenate([np.sqrt((momentum**2).sum(axis=0, keepdims=True) + mass**2), momentum])


def _mass(vectors: Floats) -> Floats:
    """Return √(E² − p²) of (4, n) vectors."""
    return np.asarray(np.sqrt(np.maximum(vectors[0] ** 2 - (vectors[1:] ** 2).sum(axis=0), 0.0)))


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
        axes = one_panel(figure, label, f"pairs / {(high - low) / bins:.3g} GeV", events.heading)
        for colour, (name, values) in zip(("#0072B2", "#D55E00", "#009E73", "0.4"), masses.items(), strict=False):
            counts, edges = np.histogram(values, bins, (low, high))
            axes.stairs(counts, edges, label=name, color=colour, linewidth=1.5)
        if mark is not None:
            axes.axvline(mark, color="0.3", linestyle="--", linewidth=0.9, label=f"{mark:g} GeV")
        axes.set(xlim=(low, high), ylim=(0, None))
        axes.legend(fontsize=9, loc="upper right", borderaxespad=1.3)
    return figure
