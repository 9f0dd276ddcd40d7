"""The histograms of an analysis: axes, and the place of every bin in one flat array of counts.

All histograms of a region lie in one array of `Binning.size` numbers, so that adding two partial results is one
addition. Bins are half-open, [low, high).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from higgsnb.errors import OptionError
from higgsnb.text import is_one_line, shown

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Places = npt.NDArray[np.int32]

MOST_BINS = 100_000
"""Most bins of an axis: every partial result has them all, for each region and variation."""
MOST_PER_EVENT = 100
"""Most values of one event on an axis."""


@dataclass(frozen=True)
class Axis:
    """One histogram: ``bins`` equal bins from ``start`` to ``stop``; or those between a list of edges in their place.

    Up to ``per_event`` values of each event are filled of the quantity ``variable`` (default: the one that is called
    like the axis); ``label`` and ``unit`` are those of the quantity. ``boundaries`` are the edges of unequal bins.
    """

    name: str
    bins: int
    start: float = math.nan
    stop: float = math.nan
    label: str = ""
    unit: str = ""
    variable: str = ""
    per_event: int = 1
    boundaries: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        """Check the numbers and texts."""
        given: Any = self.bins
        if isinstance(given, Sequence | np.ndarray) and not isinstance(given, str) and len(given) > 1:
            boundaries = tuple(float(edge) for edge in given)
            self._set(boundaries=boundaries, bins=len(boundaries) - 1, start=min(boundaries), stop=max(boundaries))
        self._set(variable=self.variable or self.name, label=self.label or self.name)
        for key in ("name", "label", "unit", "variable"):
            text = getattr(self, key)
            if not isinstance(text, str) or not is_one_line(text) or not (text or key == "unit"):
                raise OptionError(f"axis {shown(self.name)}: {key} = {shown(text)}", "Give a string of one line.")
        for key, most in (("bins", MOST_BINS), ("per_event", MOST_PER_EVENT)):
            number = getattr(self, key)
            if not isinstance(number, int) or isinstance(number, bool) or not 1 <= number <= most:
                raise OptionError(
                    f"axis {self.name!r}: {key} = {shown(number)}", f"Give a whole number, 1 to {most:,}."
                )
        if not np.isfinite(self.edges).all() or not (np.diff(self.edges) > 0).all():
            hint = "Give a name, a number of bins, the lower and the upper end; or a name and ascending edges."
            raise OptionError(f"axis {self.name!r}: its bin edges are not finite and ascending", hint)

    def _set(self, **values: Any) -> None:
        for key, value in values.items():
            object.__setattr__(self, key, value)

    @cached_property
    def edges(self) -> Floats:
        """Bin edges, (bins + 1,) float64."""
        if self.boundaries:
            return np.array(self.boundaries)
        return np.linspace(self.start, self.stop, self.bins + 1)

    @property
    def title(self) -> str:
        """The label with its unit."""
        return f"{self.label} [{self.unit}]" if self.unit else self.label


class Window(NamedTuple):
    """A range of a variable, half-open, in which events are counted exactly."""

    name: str
    variable: str
    low: float
    high: float


@dataclass(frozen=True)
class Binning:
    """All histograms of an analysis, each once per region; ``category`` is what regions are called in files.

    The flat array of a region has the bins of all axes with underflow and overflow, then the number of events, then the
    windows.
    """

    axes: tuple[Axis, ...]
    regions: tuple[str, ...]
    windows: tuple[Window, ...] = ()
    category: str = "region"

    @cached_property
    def starts(self) -> Integers:
        """Where each axis starts in the flat array, and where the last one ends, (n_axes + 1,)."""
        return np.concatenate(([0], np.cumsum([axis.bins + 2 for axis in self.axes]))).astype(np.int64)

    @property
    def size(self) -> int:
        """Length of the flat array."""
        return int(self.starts[-1]) + 1 + len(self.windows)

    @property
    def variables(self) -> dict[str, int]:
        """The quantities that are filled, with the most values of one event."""
        found = dict.fromkeys([axis.variable for axis in self.axes] + [one.variable for one in self.windows], 1)
        for axis in self.axes:
            found[axis.variable] = max(found[axis.variable], axis.per_event)
        return found

    def axis(self, name: str) -> Axis:
        """Return the axis of that name; KeyError names the known ones."""
        for axis in self.axes:
            if axis.name == name:
                return axis
        raise KeyError(f"no histogram {name!r}; known: {', '.join(axis.name for axis in self.axes)}")

    @cached_property
    def n_fills(self) -> int:
        """How many places an event has: one for each value on each axis, one that counts it, one for each window."""
        return sum(axis.per_event for axis in self.axes) + 1 + len(self.windows)

    @cached_property
    def derived(self) -> int:
        """Which place of an event only counts it; −1 if that is not the sum over the first axis, wherever it has one.

        Adding it up event by event would take as long as an axis.
        """
        return self.n_fills - 1 - len(self.windows) if self.axes and self.axes[0].per_event == 1 else -1

    def places(self, values: Mapping[str, npt.NDArray[Any]], n: int) -> Places:
        """Return where n events are filled, (n, n_fills) int32; negative where they are not.

        ``values`` are the quantities, (n,), or (n, k) with up to ``per_event`` values of each event.
        """
        from higgsnb.selection.filling import NOWHERE, find_places

        places = np.full((n, self.n_fills), NOWHERE, np.int32)
        column = 0
        for axis, start in zip(self.axes, self.starts.tolist(), strict=False):
            found = values[axis.variable].astype(np.float64, copy=False)
            found = np.ascontiguousarray(found if found.ndim == 2 else found[:, np.newaxis])
            find_places(found[:, : axis.per_event], axis.edges, not axis.boundaries, start, column, places)
            column += axis.per_event
        places[:, column] = self.starts[-1]
        for number, window in enumerate(self.windows, 1):
            found = values[window.variable]
            inside = (window.low <= found) & (found < window.high)
            places[inside, column + number] = self.starts[-1] + number
        return places

    def fill(self, region: npt.NDArray[np.int8], places: Places, rows: Integers | None = None) -> Integers:
        """Count events, (n_regions, size) int64: those at ``rows`` of ``places`` (default: all), each in a region."""
        from higgsnb.selection.filling import count_places

        counts = np.zeros((len(self.regions), self.size), np.int64)
        count_places(region, np.arange(len(region)) if rows is None else rows, places, self.derived, counts)
        if self.derived >= 0:
            counts[:, self.starts[-1]] += counts[:, : self.starts[1]].sum(axis=1)
        return counts

    def counts_of(self, counts: npt.NDArray[Any], name: str) -> npt.NDArray[Any]:
        """Return one histogram, (…, bins + 2), out of flat arrays (…, size); the first bin is the underflow."""
        index = self.axes.index(self.axis(name))
        return counts[..., self.starts[index] : self.starts[index + 1]]

    def total(self, counts: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return the number of events, (…,), out of flat arrays (…, size)."""
        return counts[..., self.starts[-1]]

    def in_window(self, counts: npt.NDArray[Any], name: str) -> npt.NDArray[Any]:
        """Return the number of events in a window, (…,), out of flat arrays (…, size)."""
        return counts[..., int(self.starts[-1]) + 1 + [window.name for window in self.windows].index(name)]


_M4L = ("four-lepton mass", "GeV", "mass_4l")
FOUR_LEPTON_AXES = (
    Axis("mass_4l", 37, 70.0, 181.0, *_M4L),
    Axis("mass_4l_wide", 310, 70.0, 1000.0, *_M4L),
    Axis("mass_4l_df103", 36, 70.0, 180.0, *_M4L),
    Axis("mass_z1", 40, 40.0, 120.0, "mass of Z1", "GeV"),
    Axis("mass_z2", 54, 12.0, 120.0, "mass of Z2", "GeV"),
    Axis("lepton_pt", 60, 0.0, 300.0, "lepton transverse momentum", "GeV", per_event=4),
    Axis("lepton_eta", 50, -2.5, 2.5, "lepton pseudorapidity", per_event=4),
)
"""Histograms of a four-lepton selection. ``mass_4l``: binning of record 5500; ``mass_4l_df103``: of ROOT's df103."""

FOUR_LEPTON_WINDOWS = tuple(
    Window(name, "mass_4l", low, high)
    for name, low, high in (
        ("70-181", 70.0, 181.0),
        ("80-100", 80.0, 100.0),
        ("100-118", 100.0, 118.0),
        ("118-130", 118.0, 130.0),
        ("121.5-130.5", 121.5, 130.5),
        ("130-160", 130.0, 160.0),
        (">180", 180.0, math.inf),
    )
)
"""Windows of the four-lepton mass in GeV."""
