"""What selections can ask for beyond the cuts of the compiled code, as operations on whole arrays.

Identification, ``sip3d`` and radiated photons act on the leptons before they are paired; the smart cut and another
choice of the candidate on the pairings of good leptons. All of it costs nothing where it is not asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from higgsnb.selection.branches import used_by
from higgsnb.selection.leptons import MUON, TWO_EACH, Integers, Leptons, exists, momentum

if TYPE_CHECKING:
    from higgsnb.selection.cuts import Selection
    from higgsnb.selection.pairings import Preselected

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

SMART_CUT_MASS = 12.0
"""GeV; below it two leptons are taken to come from a resonance, not from a Z boson (CMS HIG-16-041)."""
_VECTOR = ("energy", "px", "py", "pz")


# --- Leptons


def passing(leptons: Leptons, flavour: str, sip_max: float) -> Flags:
    """Return which leptons of a flavour pass identification and the cut on ``sip3d``: all, where there is none.

    Those are False that are in no event.
    """
    found, mine = np.zeros(len(getattr(leptons, f"{flavour}_pt")), np.bool_), _own(leptons, flavour)
    sip3d, identified = getattr(leptons, f"{flavour}_sip3d"), getattr(leptons, f"{flavour}_id")
    found[mine] = True
    if sip3d is not None:
        found[mine] &= exists(sip3d[mine]) & (np.abs(sip3d[mine].astype(np.float64)) < sip_max)
    if identified is not None:
        found[mine] &= identified[mine] > 0
    return found


def identified(leptons: Leptons, flavour: str, selection: Selection) -> Flags:
    """Return which leptons of a flavour pass identification and the cut on ``sip3d`` of a selection, (n_leptons,).

    Raises `SchemaError` as `branches.used_by` does.
    """
    return passing(used_by(leptons, selection), flavour, selection.sip_max)


def _own(leptons: Leptons, flavour: str) -> slice:
    """Return where the leptons of the events are in their columns, which may be those of a larger chunk."""
    first, last = getattr(leptons, f"{flavour}_offsets")[[0, -1]].tolist()
    return slice(first, last)


def count_options(leptons: Leptons) -> list[Integers]:
    """Return the number of muons and electrons without a value of ``sip3d``, and of what identification needs.

    Each is (2, 1) int64, in events with enough leptons for a channel; there is none for a quantity that is not used.
    """
    n_mu, n_e = np.diff(leptons.muon_offsets), np.diff(leptons.electron_offsets)
    enough = (n_mu >= 4) | (n_e >= 4) | ((n_mu >= 2) & (n_e >= 2))
    found = []
    for name in ("sip3d", "id"):
        numbers, is_used = np.zeros((2, 1), np.int64), False
        for index, (flavour, n) in enumerate((("muon", n_mu), ("electron", n_e))):
            if (column := getattr(leptons, f"{flavour}_{name}")) is not None:
                is_used = True
                numbers[index] = np.count_nonzero(np.repeat(enough, n) & _is_invalid(column[_own(leptons, flavour)]))
        found += [numbers] if is_used else []
    return found


def _is_invalid(column: npt.NDArray[Any]) -> Flags:
    return column < 0 if column.dtype == np.int8 else ~exists(column)


def with_options(found: Preselected, leptons: Leptons) -> Preselected:
    """Return preselected leptons with ``sip3d`` as their significance, and with the photons that they have radiated."""
    index, is_muon = found.leptons["place"], found.leptons["flavour"] == MUON
    for flavour, mine in (("muon", is_muon), ("electron", ~is_muon)):
        sip3d = getattr(leptons, f"{flavour}_sip3d")
        if sip3d is not None:
            found.sip[mine] = np.abs(sip3d[index[mine]].astype(np.float64))
    if leptons.muon_photon_pt is None:
        return found
    bare, mine = found.leptons.copy(), index[is_muon]
    pt, eta, phi = (getattr(leptons, f"muon_photon_{name}")[mine] for name in ("pt", "eta", "phi"))
    photon = momentum(pt, eta, phi, 0.0)
    for name, values in zip(_VECTOR, photon.T, strict=True):
        found.leptons[name][is_muon] += values
    return found._replace(bare=bare)


# --- Candidates: (n, 2), event and row of the pairings


def _legs(found: Preselected, candidates: npt.NDArray[np.int32], rows: npt.NDArray[Any]) -> Integers:
    """Return the indices of the four leptons of each candidate, (n, 4)."""
    event, row = candidates.T
    return np.asarray(found.offsets[event, np.newaxis] + np.stack([rows[name][row] for name in "abcd"], axis=1))


def _mass(one: npt.NDArray[Any], other: npt.NDArray[Any]) -> Floats:
    """Return the invariant masses of pairs of leptons, as `rules.pair_mass`."""
    energy, px, py, pz = (one[name] + other[name] for name in _VECTOR)
    return np.asarray(np.sqrt(np.maximum(energy**2 - px**2 - py**2 - pz**2, 0.0)))


def leave_out_photons(found: Preselected, candidates: npt.NDArray[np.int32], rows: npt.NDArray[Any]) -> None:
    """Replace the smallest mass of an opposite-sign pair by the one without radiated photons, which CMS leaves out."""
    legs = _legs(found, candidates, rows)
    radiating = (found.bare["energy"] != found.leptons["energy"])[legs].any(axis=1)
    leptons = found.bare[legs[radiating]]
    lightest = np.full(len(leptons), np.inf)
    for i, j in combinations(range(4), 2):
        one, other = leptons[:, i], leptons[:, j]
        lightest = np.minimum(lightest, np.where(one["charge"] + other["charge"] == 0, _mass(one, other), np.inf))
    rows["dilepton"][candidates[radiating, 1]] = lightest


def cuts_on_candidates(selection: Selection) -> Iterator[Callable[..., Flags]]:
    """Yield what candidates have to pass beside the cuts of the compiled code, in the order of the cutflow.

    Each is a function of the events, the candidates and the pairings that returns which candidates pass.
    """
    if selection.lepton_pt_third > 0:
        yield partial(pass_third_pt, pt_min=selection.lepton_pt_third)
    if selection.smart_cut:
        yield partial(pass_smart_cut, z_mass=selection.z_mass)


def pass_third_pt(
    found: Preselected, candidates: npt.NDArray[np.int32], rows: npt.NDArray[Any], pt_min: float
) -> Flags:
    """Return which candidates have three leptons above a pT, in GeV, (n,)."""
    hard = found.leptons["pt"][_legs(found, candidates, rows)] > pt_min
    return np.asarray(np.count_nonzero(hard, axis=1) >= 3)


def pass_smart_cut(
    found: Preselected, candidates: npt.NDArray[np.int32], rows: npt.NDArray[Any], z_mass: float
) -> Flags:
    """Return which candidates pass the smart cut, (n,).

    A candidate of four leptons of one flavour falls if their other pairing has a mass nearer to that of the Z boson
    than its Z1 has, while its other mass is below `SMART_CUT_MASS`.
    """
    row = candidates[:, 1]
    a, b, c, d = found.leptons[_legs(found, candidates, rows)].T
    is_ac = a["charge"] + c["charge"] == 0
    masses = np.where(is_ac, _mass(a, c), _mass(a, d)), np.where(is_ac, _mass(b, d), _mass(b, c))
    away = [np.abs(mass - z_mass) for mass in masses]
    other = np.where(away[0] <= away[1], masses[1], masses[0])
    is_nearer = np.minimum(*away) < np.abs(rows["mass_z1"][row] - z_mass)
    return np.asarray((rows["channel"][row] == TWO_EACH) | ~(is_nearer & (other < SMART_CUT_MASS)))


def arguments_of_pairing(
    found: Preselected, candidates: npt.NDArray[np.int32], rows: npt.NDArray[Any]
) -> tuple[Floats, ...]:
    """Return what `Selection.pairing` is called with, (n,) each: three masses, and the pT sums of Z1 and Z2."""
    row = candidates[:, 1]
    pt = found.leptons["pt"][_legs(found, candidates, rows)]
    masses = tuple(np.ascontiguousarray(rows[name][row]) for name in ("mass_z1", "mass_z2", "mass_4l"))
    return (*masses, pt[:, 0] + pt[:, 1], pt[:, 2] + pt[:, 3])
