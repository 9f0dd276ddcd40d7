"""The quantity that a cut is compared with, for every selected candidate: what "N − 1" distributions are made of."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from higgsnb.results.reselect import DatasetEvents, Reselection
from higgsnb.selection import ELECTRON, MUON, TWO_EACH, Preselected, Selection

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


def cut_quantity(part: DatasetEvents, found: Reselection, cut: str) -> tuple[Floats, Integers]:
    """Return for each selected candidate the quantity that a cut is compared with, and the channel.

    A candidate whose quantity is on the wrong side of the cut fails. Its event may still be kept: ``open2012`` and
    ``aod2012`` may find another candidate in it that passes, ``df103`` cannot. NaN where the cut does not apply: a cut
    on muons in the channel 4e. "isolation_max" stands for the cuts on both flavours.
    """
    selected = found.selected[part.dataset]
    rows = found.pairings[part.dataset].rows[selected[:, 1]]
    columns = {
        "z1_mass_min": "mass_z1", "z1_mass_max": "mass_z1", "z2_mass_min": "mass_z2", "z2_mass_max": "mass_z2",
        "delta_r_min": "delta_r", "dilepton_mass_min": "dilepton", "mass_4l_min": "mass_4l",
    }  # fmt: skip
    if cut in ("lepton_pt_leading", "lepton_pt_subleading"):
        return _hardest(rows, found.selection, cut), rows["channel"]
    if cut in columns:
        return rows[columns[cut]], rows["channel"]
    if found.selection.algorithm == "df103":
        return _whole_event_quantity(part, selected[:, 0], rows["channel"], cut), rows["channel"]
    return _found_worst(_measured(part, cut, legs_of(part, found)).max(axis=1), cut), rows["channel"]


def _hardest(rows: npt.NDArray[Any], selection: Selection, cut: str) -> Floats:
    """Return the pT of the leading or the subleading lepton.

    In 2e2mu ``df103`` requires both cuts on the muons, or both on the electrons: the larger pT counts of those for
    which the other cut holds.
    """
    leading = cut == "lepton_pt_leading"
    pairs = [(rows["leading"], rows["subleading"]), (rows["leading_too"], rows["subleading_too"])]
    if leading:
        values = [np.where(second > selection.lepton_pt_subleading, first, -np.inf) for first, second in pairs]
    else:
        values = [np.where(first > selection.lepton_pt_leading, second, -np.inf) for first, second in pairs]
    larger = np.maximum(*values)
    return np.where(np.isfinite(larger), larger, np.nan)


def legs_of(part: DatasetEvents, found: Reselection) -> Integers:
    """Return the indices of the four leptons of each selected candidate, (n, 4) int64."""
    selected = found.selected[part.dataset]
    rows = found.pairings[part.dataset].rows[selected[:, 1]]
    places = np.stack([rows[name] for name in "abcd"], axis=1)
    return part.preselected.offsets[selected[:, 0]][:, np.newaxis] + places.astype(np.int64)


def _measured(part: DatasetEvents, cut: str, places: Any = slice(None)) -> Floats:
    """Return the quantity that a cut is compared with for some leptons, −∞ for leptons of the other flavour.

    pT is returned with the opposite sign, so that larger is always worse.
    """
    preselected, leptons = part.preselected, part.preselected.leptons
    flavour, _, name = cut.rpartition("_")[0].rpartition("_")
    column = getattr(preselected, name) if name in Preselected._fields else leptons[name]
    values: Floats = np.abs(column[places].astype(np.float64)) * (-1 if name == "pt" else 1)
    if not flavour:
        return values
    return np.where(leptons["flavour"][places] == (MUON if flavour == "muon" else ELECTRON), values, -np.inf)


def _whole_event_quantity(part: DatasetEvents, events: Integers, channel: Integers, cut: str) -> Floats:
    """Return the value of the worst of all leptons of the channel's flavours (``df103``); in 2e2mu NaN for pT."""
    values, muon = _measured(part, cut), part.preselected.leptons["flavour"] == MUON
    starts = part.preselected.offsets[:-1]
    by_flavour = [np.maximum.reduceat(np.where(mine, values, -np.inf), starts)[events] for mine in (muon, ~muon)]
    worst = np.choose(channel, [*by_flavour, np.maximum(*by_flavour)])
    return _found_worst(np.where((channel == TWO_EACH) & ("_pt_" in cut), -np.inf, worst), cut)


def _found_worst(worst: Floats, cut: str) -> Floats:
    """Return a value of `_measured` with its original sign, NaN where there is no lepton that the cut applies to."""
    found = np.where(np.isneginf(worst), np.nan, worst)
    return -found if "_pt_" in cut else found
