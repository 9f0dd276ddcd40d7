"""Histogram axes, exact filling, saving and loading.

Every histogram of a dataset is a slice of one int64 array ``counts`` of shape (3 channels, `SIZE`), so that adding two
partial results is one integer addition. `to_hist` turns such arrays into `hist.Hist` objects. Bins are
half-open, [low, high).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from higgsnb.selection import CHANNELS

if TYPE_CHECKING:
    import hist

Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Axis:
    """One histogram: the variable, its label and unit, and equal bins from ``start`` to ``stop``.

    A variable of the candidate is filled once, ``lepton_…`` once for each of its four leptons.
    """

    name: str
    variable: str
    label: str
    unit: str
    bins: int
    start: float
    stop: float

    @property
    def edges(self) -> npt.NDArray[np.float64]:
        """Bin edges, (bins + 1,) float64."""
        return np.linspace(self.start, self.stop, self.bins + 1)

    @property
    def title(self) -> str:
        """The label with its unit."""
        return f"{self.label} [{self.unit}]" if self.unit else self.label


AXES = (
    Axis("mass_4l", "mass_4l", "four-lepton mass", "GeV", 37, 70.0, 181.0),
    Axis("mass_4l_wide", "mass_4l", "four-lepton mass", "GeV", 310, 70.0, 1000.0),
    Axis("mass_4l_df103", "mass_4l", "four-lepton mass", "GeV", 36, 70.0, 180.0),
    Axis("mass_z1", "mass_z1", "mass of Z1", "GeV", 40, 40.0, 120.0),
    Axis("mass_z2", "mass_z2", "mass of Z2", "GeV", 54, 12.0, 120.0),
    Axis("lepton_pt", "lepton_pt", "lepton transverse momentum", "GeV", 60, 0.0, 300.0),
    Axis("lepton_eta", "lepton_eta", "lepton pseudorapidity", "", 50, -2.5, 2.5),
)
"""Every histogram of a result. Binning of ``mass_4l``: record 5500; of ``mass_4l_df103``: ROOT tutorial df103."""

WINDOWS = (
    ("70-181", 70.0, 181.0),
    ("80-100", 80.0, 100.0),
    ("100-118", 100.0, 118.0),
    ("118-130", 118.0, 130.0),
    ("121.5-130.5", 121.5, 130.5),
    ("130-160", 130.0, 160.0),
    (">180", 180.0, float("inf")),
)
"""Windows of the four-lepton mass in GeV, half-open, in which events are counted exactly."""

_STARTS = np.concatenate(([0], np.cumsum([axis.bins + 2 for axis in AXES])))
_TOTAL = int(_STARTS[-1])
SIZE = _TOTAL + 1 + len(WINDOWS)
"""Length of ``counts``: all histograms with underflow and overflow, the number of candidates, the windows."""


class Variables(NamedTuple):
    """What is filled for n candidates: ``channel`` and masses (n,), leptons (n, 4); GeV."""

    channel: npt.NDArray[np.int8]
    mass_4l: npt.NDArray[np.float64]
    mass_z1: npt.NDArray[np.float64]
    mass_z2: npt.NDArray[np.float64]
    lepton_pt: npt.NDArray[np.float32]
    lepton_eta: npt.NDArray[np.float32]


def axis(name: str) -> Axis:
    """Return the axis of that name; KeyError names the known ones."""
    for candidate in AXES:
        if candidate.name == name:
            return candidate
    raise KeyError(f"no histogram {name!r}; known: {', '.join(a.name for a in AXES)}")


def fill(variables: Variables) -> Integers:
    """Count candidates in every bin of every histogram, (3, SIZE) int64; a value that is not finite is in no bin."""
    counts = np.zeros((len(CHANNELS), SIZE), np.int64)
    for index, one in enumerate(AXES):
        values, width = getattr(variables, one.variable), one.bins + 2
        channel = np.broadcast_to(variables.channel.reshape(-1, *(1,) * (values.ndim - 1)), values.shape)
        finite = np.isfinite(values)
        bins = np.searchsorted(one.edges, values[finite].astype(np.float64), side="right")  # 0 is the underflow
        filled = np.bincount(channel[finite] * np.int64(width) + bins, minlength=len(CHANNELS) * width)
        counts[:, _STARTS[index] : _STARTS[index + 1]] = filled.reshape(len(CHANNELS), width)
    counts[:, _TOTAL] = np.bincount(variables.channel, minlength=len(CHANNELS))
    for index, (_, low, high) in enumerate(WINDOWS):
        inside = (low <= variables.mass_4l) & (variables.mass_4l < high)
        counts[:, _TOTAL + 1 + index] = np.bincount(variables.channel[inside], minlength=len(CHANNELS))
    return counts


def counts_of(counts: Integers, name: str) -> Integers:
    """Return one histogram's counts (3, bins + 2) out of ``counts``; under- and overflow are the first and last bin."""
    index = AXES.index(axis(name))
    return counts[:, _STARTS[index] : _STARTS[index + 1]]


def total(counts: Integers) -> Integers:
    """Return the number of candidates per channel, (3,) int64."""
    return counts[:, _TOTAL]


def in_window(counts: Integers, window: str) -> Integers:
    """Return the number of candidates per channel, (3,) int64, in a window of the four-lepton mass."""
    return counts[:, _TOTAL + 1 + [name for name, _, _ in WINDOWS].index(window)]


def to_hist(counts: Mapping[str, Integers]) -> dict[str, hist.Hist[Any]]:
    """Return `hist.Hist` objects with the axes dataset, channel and variable, from the counts of each dataset."""
    import hist

    found = {}
    for one in AXES:
        found[one.name] = hist.Hist(
            hist.axis.StrCategory(list(counts), name="dataset", label="dataset", growth=not counts),
            hist.axis.StrCategory(CHANNELS, name="channel", label="channel"),
            hist.axis.Regular(one.bins, one.start, one.stop, name=one.variable, label=one.title),
            storage=hist.storage.Int64(),
            name=one.name,
            label=one.title,
        )
        for index, array in enumerate(counts.values()):
            found[one.name].view(flow=True)[index, : len(CHANNELS), :] = counts_of(array, one.name)
    return found


def save(histograms: Mapping[str, hist.Hist[Any]], path: Path, metadata: Mapping[str, Any]) -> None:
    """Write histograms as UHI JSON, ``{"histograms": {name: …}, **metadata}``: the same bytes for the same counts."""
    from uhi.io.json import default

    document = {"histograms": {name: one._to_uhi_() for name, one in histograms.items()}, **metadata}
    path.write_text(json.dumps(document, default=default, sort_keys=True, indent=None) + "\n", encoding="utf-8")
