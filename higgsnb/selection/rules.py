"""The rules of a selection, each compiled and short enough to be read on its own.

They take the columns of one flavour (`Flavour`), the numbers of a selection (`Cuts`), or the leptons of one event (an
array of `EVENT`). Momenta and masses in GeV, computed in float64.
"""

from __future__ import annotations

import math
from collections import namedtuple
from typing import NamedTuple

import numpy as np

from higgsnb.selection.compiled import inner_rule, rule
from higgsnb.selection.cuts import ALGORITHMS, NUMBERS, Cut, Selection
from higgsnb.selection.leptons import FOUR_ELECTRONS, FOUR_MUONS, MUON, QUANTITIES, SENTINEL, TWO_EACH, Flavour, Leptons

Cuts = namedtuple("Cuts", ("algorithm", *NUMBERS))  # type: ignore[misc]  # noqa: PYI024 - the fields of a Selection
"""The numbers of a `Selection` as compiled functions take them, the algorithm by its index."""

EVENT = np.dtype(
    [(name, np.float64) for name in ("pt", "eta", "phi", "px", "py", "pz", "energy")]
    + [(name, np.int64) for name in ("charge", "flavour", "place")]
)
"""One lepton of an event; ``place`` is its index in the columns of its flavour.

An event is one array of these, muons before electrons: with a tuple of arrays, numba would count the references to each
of them at every call.
"""


class ZZCandidate(NamedTuple):
    """Four leptons of an event paired into two Z candidates, Z1 (a, b) and Z2 (c, d); no candidate if a is −1."""

    a: int
    b: int
    c: int
    d: int
    mass_z1: float
    mass_z2: float


def cuts_of(selection: Selection) -> Cuts:
    """Return the numbers of a selection as compiled functions take them."""
    return Cuts._make((ALGORITHMS.index(selection.algorithm), *(getattr(selection, name) for name in NUMBERS)))


def columns_of(leptons: Leptons, name: str) -> Flavour:
    """Return one flavour's columns; a quantity that the schema does not have becomes one that passes every cut on it.

    All columns have one type and layout, as compiled functions would else be compiled for each.
    Without one of dxy, dz and their errors there is no significance: the errors are then taken to be very large.
    """
    columns = {quantity: getattr(leptons, f"{name}_{quantity}") for quantity in QUANTITIES}
    n, neutral = len(columns["pt"]), {"dxy_error": 1e30, "dz_error": 1e30}
    if any(columns[quantity] is None for quantity in ("dxy", "dxy_error", "dz", "dz_error")):
        columns |= dict.fromkeys(neutral)
    return Flavour._make(
        np.full(n, neutral.get(quantity, 0.0), np.float32)
        if column is None
        else np.require(column, np.int32 if quantity == "charge" else np.float32, ["C", "W"])
        for quantity, column in columns.items()
    )


# --- One lepton


@rule
def usable(value):
    """Whether a stored quantity exists: finite and not the sentinel."""
    return math.isfinite(value) and value != SENTINEL


@inner_rule
def count_invalid(leptons, first, last, counts):
    """Count, per quantity, the leptons whose value is a sentinel or not finite."""
    for i in range(first, last):
        counts[0] += not usable(leptons.pt[i])
        counts[1] += not usable(leptons.eta[i])
        counts[2] += not usable(leptons.phi[i])
        counts[3] += not usable(leptons.mass[i])
        counts[4] += abs(leptons.charge[i]) != 1
        counts[5] += not usable(leptons.dxy[i])
        counts[6] += not usable(leptons.dxy_error[i])
        counts[7] += not usable(leptons.dz[i])
        counts[8] += not usable(leptons.dz_error[i])
        counts[9] += not usable(leptons.isolation[i])


@inner_rule
def has_momentum(leptons, i):
    """Whether the four-momentum and the charge of a lepton exist."""
    pt, eta, phi, mass, charge = leptons.pt[i], leptons.eta[i], leptons.phi[i], leptons.mass[i], leptons.charge[i]
    return usable(pt) and usable(eta) and usable(phi) and usable(mass) and abs(charge) == 1


@inner_rule
def sip(leptons, i):
    """Return √(dxy² + dz²) / √(σ_dxy² + σ_dz²) of a lepton; infinite where one of them does not exist."""
    dxy, dz = np.float64(leptons.dxy[i]), np.float64(leptons.dz[i])
    dxy_error, dz_error = np.float64(leptons.dxy_error[i]), np.float64(leptons.dz_error[i])
    exist = usable(dxy) and usable(dz) and usable(dxy_error) and usable(dz_error)
    if not exist or dxy_error < 0.0 or dz_error < 0.0:
        return math.inf
    ratio = math.sqrt(dxy**2 + dz**2) / math.sqrt(dxy_error**2 + dz_error**2)
    return ratio if not math.isnan(ratio) else math.inf


@inner_rule
def is_well_measured(leptons, i, eta_max, isolation_max, cuts):
    """Whether a lepton passes all cuts on leptons except that on pT."""
    momentum, significance = has_momentum(leptons, i), sip(leptons, i)
    isolation, eta = leptons.isolation[i], np.float64(leptons.eta[i])
    dxy, dz = abs(np.float64(leptons.dxy[i])), abs(np.float64(leptons.dz[i]))
    isolated = usable(isolation) and isolation < isolation_max
    prompt = dxy < cuts.dxy_max and dz < cuts.dz_max and significance < cuts.sip_max
    return momentum and isolated and abs(eta) < eta_max and prompt


@rule
def is_good(leptons, i, pt_min, eta_max, isolation_max, cuts):
    """Whether a lepton passes all cuts on leptons."""
    pt, well_measured = leptons.pt[i], is_well_measured(leptons, i, eta_max, isolation_max, cuts)
    return well_measured and pt > pt_min


@inner_rule
def set_momentum(event, n, leptons, i):
    """Write the four-momentum of lepton i into place n, in float64."""
    pt, eta, phi, mass = (
        np.float64(leptons.pt[i]),
        np.float64(leptons.eta[i]),
        np.float64(leptons.phi[i]),
        np.float64(leptons.mass[i]),
    )
    event[n].pt, event[n].eta, event[n].phi = pt, eta, phi
    event[n].px, event[n].py, event[n].pz = pt * math.cos(phi), pt * math.sin(phi), pt * math.sinh(eta)
    event[n].energy = math.sqrt(pt**2 + event[n].pz ** 2 + mass**2)


# --- Several leptons of an event


@inner_rule
def invariant_mass(energy, px, py, pz):
    """Return √(E² − p²), 0 where rounding makes it negative."""
    return math.sqrt(max(energy**2 - px**2 - py**2 - pz**2, 0.0))


@inner_rule
def pair_mass(event, i, j):
    """Invariant mass of two leptons in GeV."""
    return invariant_mass(
        event[i].energy + event[j].energy,
        event[i].px + event[j].px,
        event[i].py + event[j].py,
        event[i].pz + event[j].pz,
    )


@inner_rule
def four_lepton_mass(event, four):
    """Invariant mass of all four leptons in GeV."""
    energy = px = py = pz = 0.0
    for i in (four.a, four.b, four.c, four.d):
        energy += event[i].energy
        px += event[i].px
        py += event[i].py
        pz += event[i].pz
    return invariant_mass(energy, px, py, pz)


@inner_rule
def wrap(angle):
    """Bring an angle into [−π, π]."""
    return angle - 2.0 * math.pi * np.rint(angle / (2.0 * math.pi))


@inner_rule
def delta_r(event, i, j):
    """Angular distance √(Δη² + Δφ²), with Δφ taken around the circle."""
    return math.sqrt((event[i].eta - event[j].eta) ** 2 + wrap(event[i].phi - event[j].phi) ** 2)


@inner_rule
def total_charge(event):
    """Sum of the charges of some leptons."""
    total = 0
    for lepton in event:
        total += lepton.charge
    return total


@inner_rule
def opposite(event, i, j):
    """Whether two leptons have the same flavour and opposite charges."""
    same_flavour, charge = event[i].flavour == event[j].flavour, event[i].charge + event[j].charge
    return same_flavour and charge == 0


@inner_rule
def has_enough(n_muons, n_electrons, channel, exactly):
    """Whether there are enough leptons for a channel; ``exactly`` four of them in 4mu and 4e."""
    if channel == TWO_EACH:
        return n_muons >= 2 and n_electrons >= 2
    n = n_muons if channel == FOUR_MUONS else n_electrons
    return n == 4 if exactly else n >= 4


@inner_rule
def too_few_leptons(n_muons, n_electrons):
    """Whether an event has too few leptons for every channel."""
    return n_muons < 4 and n_electrons < 4 and (n_muons < 2 or n_electrons < 2)


@inner_rule
def pick_hardest(event, first, last, pick, place, count):
    """Write the ``count`` leptons of highest pT among [first, last) into ``pick`` from ``place`` on.

    Equal pT: as stored.
    """
    for n in range(place, place + count):
        best = -1
        for i in range(first, last):
            taken = False
            for earlier in range(place, n):
                taken = taken or pick[earlier] == i
            if not taken and (best < 0 or event[i].pt > event[best].pt):
                best = i
        pick[n] = best


# --- Z candidates


@inner_rule
def zz_candidate(event, i, j, k, m, mass_ij, mass_km, z_mass):
    """Make a ZZ candidate of two pairs.

    Z1 is the pair nearer to the Z mass (a tie: the first), the harder lepton of a pair comes first.
    """
    if abs(mass_km - z_mass) < abs(mass_ij - z_mass):
        i, j, k, m, mass_ij, mass_km = k, m, i, j, mass_km, mass_ij
    if event[j].pt > event[i].pt:
        i, j = j, i
    if event[m].pt > event[k].pt:
        k, m = m, k
    return ZZCandidate(i, j, k, m, mass_ij, mass_km)


@inner_rule
def channel_of(event, four):
    """Return the channel of a ZZ candidate."""
    if event[four.a].flavour != event[four.c].flavour:
        return TWO_EACH
    return FOUR_MUONS if event[four.a].flavour == MUON else FOUR_ELECTRONS


@inner_rule
def best_pairing(event, pick, z_mass, integer_pairing):
    """Pair four leptons of two charges each: the opposite-sign pair nearest to the Z mass, and the other two.

    With ``integer_pairing`` the best mass so far is kept as an integer that starts at −1, as in ROOT's tutorial; if
    every pair is further from the Z mass than −1 is, there is no pairing (a = −1).
    """
    best_mass, first, second = (-1.0, -1, -1) if integer_pairing else (math.inf, -1, -1)
    for i in range(3):
        for j in range(i + 1, 4):
            if opposite(event, pick[i], pick[j]):
                mass = pair_mass(event, pick[i], pick[j])
                if abs(mass - z_mass) < abs(best_mass - z_mass):
                    best_mass, first, second = float(int(mass)) if integer_pairing else mass, i, j
    if first < 0:
        return ZZCandidate(-1, -1, -1, -1, 0.0, 0.0)
    third = 0
    while third in (first, second):
        third += 1
    fourth = 6 - first - second - third
    i, j, k, m = pick[first], pick[second], pick[third], pick[fourth]
    return zz_candidate(event, i, j, k, m, pair_mass(event, i, j), pair_mass(event, k, m), z_mass)


@inner_rule
def last_passed_cut(row, cuts):  # noqa: PLR0911 - one line a cut
    """Return the last cut, in order, that a pairing (`pairings.PAIRING`) passes."""
    if not cuts.z1_mass_min < row.mass_z1 < cuts.z1_mass_max:
        return Cut.CHARGE
    if not cuts.z2_mass_min < row.mass_z2 < cuts.z2_mass_max:
        return Cut.Z1_MASS
    hard = (row.leading > cuts.lepton_pt_leading) & (row.subleading > cuts.lepton_pt_subleading)
    hard_too = (row.leading_too > cuts.lepton_pt_leading) & (row.subleading_too > cuts.lepton_pt_subleading)
    if not (hard | hard_too):
        return Cut.Z2_MASS
    if cuts.delta_r_min > 0.0 and not row.delta_r > cuts.delta_r_min:
        return Cut.LEPTON_PT
    if cuts.dilepton_mass_min > 0.0 and not row.dilepton > cuts.dilepton_mass_min:
        return Cut.DELTA_R
    if cuts.mass_4l_min > 0.0 and not row.mass_4l > cuts.mass_4l_min:
        return Cut.DILEPTON_MASS
    return Cut.MASS_4L
