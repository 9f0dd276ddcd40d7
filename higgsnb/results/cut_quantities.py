"""The quantity that a cut is compared with, for every selected candidate: what "N − 1" distributions are made of."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from higgsnb.results.reselect import DatasetEvents, Reselection
from higgsnb.selection import ELECTRON, MUON, TWO_EACH, Preselected

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
    channel = rows["channel"]
    columns = {
        "z1_mass_min": "mass_z1", "z1_mass_max": "mass_z1", "z2_mass_min": "mass_z2", "z2_mass_max": "mass_z2",
        "delta_r_min": "delta_r", "dilepton_mass_min": "dilepton", "mass_4l_min": "mass_4l",
    }  # fmt: skip
    if cut in columns:
        return rows[columns[cut]], channel
    if cut in ("lepton_pt_leading", "lepton_pt_subleading"):
        # In 2e2mu ``df103`` requires both cuts on the muons, or both on the electrons: the larger pT counts of those
        # for which the other cut holds.
        chosen = found.selection
        pairs = (rows["leading"], rows["subleading"]), (rows["leading_too"], rows["subleading_too"])
        if cut == "lepton_pt_leading":
            values = [np.where(second > chosen.lepton_pt_subleading, first, -np.inf) for first, second in pairs]
        else:
            values = [np.where(first > chosen.lepton_pt_leading, second, -np.inf) for first, second in pairs]
        larger = np.maximum(*values)
        return np.where(np.isfinite(larger), larger, np.nan), channel
    if found.selection.algorithm == "df103":  # the worst of all leptons of the channel's flavours; NaN for pT in 2e2mu
        measured, muon = _measured(part, cut), part.preselected.leptons["flavour"] == MUON
        starts, events = part.preselected.offsets[:-1], selected[:, 0]
        by_flavour = [np.maximum.reduceat(np.where(m, measured, -np.inf), starts)[events] for m in (muon, ~muon)]
        worst = np.choose(channel, [*by_flavour, np.maximum(*by_flavour)])
        worst = np.where((channel == TWO_EACH) & ("_pt_" in cut), -np.inf, worst)
    else:
        worst = _measured(part, cut, legs_of(part, found)).max(axis=1)
    worst = np.where(np.isneginf(worst), np.nan, worst)  # no lepton that the cut applies to
    return (-worst if "_pt_" in cut else worst), channel


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
