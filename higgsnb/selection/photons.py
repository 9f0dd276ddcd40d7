"""Photons that muons have radiated, as CMS recovers them in H → ZZ → 4ℓ.

The choice of photons is that of CMS HIG-16-041: pT > 2 GeV, |η| < 2.4, relative isolation < 1.8, ΔR/ET² < 0.012 GeV⁻²
and ΔR < 0.5 from the muon, of each muon the one with the smallest ΔR/ET². NanoAOD has found the muon nearest to each
photon, of those above 20 GeV in version 9; unlike there, it is not asked here whether that muon passes the selection.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from higgsnb.selection.leptons import Leptons, exists

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

COLLECTION = "FsrPhoton"
_QUANTITIES = ("pt", "eta", "phi", "dROverEt2", "relIso03", "muonIdx")
BRANCHES = tuple(f"{COLLECTION}_{name}" for name in _QUANTITIES)
"""What is read of photons."""

PT_MIN = 2.0
"""GeV."""
ETA_MAX = 2.4
ISOLATION_MAX = 1.8
DISTANCE_OVER_ET2_MAX = 0.012
"""Largest ΔR/ET², in GeV⁻²."""
DISTANCE_MAX = 0.5
"""Largest ΔR from the muon."""
CONE = (0.01, 0.3)
"""ΔR of photons that are taken out of the isolation of a muon."""


def recovered(leptons: Leptons, offsets: Integers, columns: Mapping[str, npt.NDArray[Any]]) -> Leptons:
    """Return leptons with the photon of each muon (``muon_photon_…``), and isolations without these photons.

    ``columns`` are the `BRANCHES` of the photons, (n_photons,), ``offsets`` (n_events + 1,) those of each event. The
    photon of any muon is taken out of the isolation of every muon of the event around it. Isolations stay float32.
    """
    pt, eta, phi, distance_over_et2, isolation = (columns[name].astype(np.float64) for name in BRANCHES[:-1])
    number, event = columns[BRANCHES[-1]].astype(np.int64), np.repeat(np.arange(leptons.n_events), np.diff(offsets))
    starts, stops = leptons.muon_offsets[event], leptons.muon_offsets[event + 1]
    muon = starts + number
    known = (number >= 0) & (muon < stops)
    for values in (pt, eta, phi, distance_over_et2, isolation):
        known &= exists(values)
    known &= (pt > PT_MIN) & (np.abs(eta) < ETA_MAX) & (isolation < ISOLATION_MAX)
    some = np.flatnonzero(known & (distance_over_et2 < DISTANCE_OVER_ET2_MAX))
    chosen = some[_distance(leptons, muon[some], eta[some], phi[some]) < DISTANCE_MAX]
    # Of equal ones the harder: the order in which they are stored plays no part.
    order = chosen[np.lexsort((-pt[chosen], distance_over_et2[chosen], muon[chosen]))]
    best = order[np.diff(muon[order], prepend=-1) != 0]
    found = {f"muon_photon_{name}": np.zeros(len(leptons.muon_pt), np.float32) for name in ("pt", "eta", "phi")}
    for name, column in found.items():
        column[muon[best]] = columns[f"{COLLECTION}_{name.rpartition('_')[2]}"][best]
    corrected = _without(leptons, starts[best], stops[best], pt[best], eta[best], phi[best])
    return leptons._replace(**found, muon_isolation=corrected)  # type: ignore[arg-type]


def _without(
    leptons: Leptons, starts: Integers, stops: Integers, pt: Floats, eta: Floats, phi: Floats
) -> npt.NDArray[np.float32] | None:
    """Return the isolations of the muons without the photons in their cones, at least 0.

    The muons [start, stop) are those of the event of each photon.
    """
    if leptons.muon_isolation is None:
        return None
    counts = stops - starts
    photon = np.repeat(np.arange(len(counts)), counts)
    muon = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts) + starts[photon]
    distance = _distance(leptons, muon, eta[photon], phi[photon])
    inside = (distance > CONE[0]) & (distance < CONE[1])
    radiated = np.bincount(muon[inside], pt[photon[inside]], len(leptons.muon_pt))
    touched = np.flatnonzero((radiated > 0) & exists(leptons.muon_isolation) & (leptons.muon_pt > 0))
    corrected = leptons.muon_isolation.copy()
    left = leptons.muon_isolation[touched] - radiated[touched] / leptons.muon_pt[touched].astype(np.float64)
    corrected[touched] = np.maximum(left, 0.0)
    return corrected


def _distance(leptons: Leptons, muon: Integers, eta: Floats, phi: Floats) -> Floats:
    """Return the angular distances of some muons from photons; NaN where a muon has no angle."""
    angles = (column[muon].astype(np.float64) for column in (leptons.muon_eta, leptons.muon_phi))
    own_eta, own_phi = (np.where(exists(values), values, np.nan) for values in angles)
    turn = own_phi - phi
    return np.hypot(own_eta - eta, turn - 2.0 * np.pi * np.rint(turn / (2.0 * np.pi)))
