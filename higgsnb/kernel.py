"""The compiled kernel: one pass over the events of a chunk, small rules that can be read on their own.

`select` is what others call. The rules are compiled by numba; they take the columns of one flavour (`Flavour`), the
numbers of a selection (`Cuts`) and the good leptons of one event (an array of `EVENT`). Per event the kernel notes the
furthest cut passed in each channel, from which the cutflow follows, and writes the candidates.
"""

from __future__ import annotations

import math
from collections import namedtuple
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from higgsnb import compiled
from higgsnb.compiled import rule
from higgsnb.selection import (
    ALGORITHMS,
    CHANNELS,
    DF103,
    ELECTRON,
    FOUR_ELECTRONS,
    FOUR_MUONS,
    MUON,
    NUMBERS,
    OPEN2012,
    QUANTITIES,
    SENTINEL,
    TWO_EACH,
    Candidates,
    Cut,
    Flavour,
    Integers,
    Leptons,
    Selection,
    load,
)

Cuts = namedtuple("Cuts", ("algorithm", *NUMBERS))  # type: ignore[misc]  # noqa: PYI024 - the fields of a Selection
"""The numbers of a `Selection` as the kernel takes them, the algorithm by its index."""


EVENT = np.dtype(
    [(name, np.float64) for name in ("pt", "eta", "phi", "px", "py", "pz", "energy")]
    + [(name, np.int64) for name in ("charge", "flavour", "place")]
)
"""A good lepton of one event, in float64; ``place`` is where in its column.

An event is one array of these, muons before electrons: a tuple of arrays would cost the counting of references to each
of them at every call.
"""


class Quadruple(NamedTuple):
    """Four leptons of an event paired into two Z candidates, Z1 (a, b) and Z2 (c, d)."""

    a: int
    b: int
    c: int
    d: int
    mass_z1: float
    mass_z2: float


@rule
def usable(value):
    """Whether a stored quantity exists: finite and not the sentinel."""
    return math.isfinite(value) and value != SENTINEL


@rule
def count_unusable(leptons, first, last, counts):
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


@rule
def has_momentum(leptons, i):
    """Whether the four-momentum and the charge of a lepton exist."""
    pt, eta, phi, mass, charge = leptons.pt[i], leptons.eta[i], leptons.phi[i], leptons.mass[i], leptons.charge[i]
    return usable(pt) and usable(eta) and usable(phi) and usable(mass) and abs(charge) == 1


@rule
def is_isolated(leptons, i, isolation_max):
    """Whether little other energy surrounds the lepton."""
    isolation = leptons.isolation[i]
    return usable(isolation) and isolation < isolation_max


@rule
def is_prompt(leptons, i, cuts):
    """Whether the lepton comes from the primary vertex: impact parameters and their significance (SIP)."""
    dxy, dz = np.float64(leptons.dxy[i]), np.float64(leptons.dz[i])
    dxy_error, dz_error = np.float64(leptons.dxy_error[i]), np.float64(leptons.dz_error[i])
    if not (usable(dxy) and usable(dz) and usable(dxy_error) and usable(dz_error)):
        return False
    if dxy_error < 0.0 or dz_error < 0.0:
        return False
    sip = math.sqrt(dxy**2 + dz**2) / math.sqrt(dxy_error**2 + dz_error**2)
    return abs(dxy) < cuts.dxy_max and abs(dz) < cuts.dz_max and sip < cuts.sip_max


@rule
def is_good(leptons, i, pt_min, eta_max, isolation_max, cuts):
    """Whether a lepton passes all object cuts."""
    momentum, isolated, prompt = (
        has_momentum(leptons, i),
        is_isolated(leptons, i, isolation_max),
        is_prompt(leptons, i, cuts),
    )
    pt, eta = leptons.pt[i], np.float64(leptons.eta[i])
    return momentum and isolated and prompt and pt > pt_min and abs(eta) < eta_max


@rule
def add_good(event, n, leptons, first, last, flavour, pt_min, eta_max, isolation_max, cuts):
    """Append the good ones of the leptons [first, last) to the event; return how many it holds then."""
    for i in range(first, last):
        if is_good(leptons, i, pt_min, eta_max, isolation_max, cuts):
            event[n].flavour = flavour
            event[n].place = i
            event[n].charge = leptons.charge[i]
            set_momentum(event, n, leptons, i)
            n += 1
    return n


@rule
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


@rule
def invariant_mass(energy, px, py, pz):
    """Return √(E² − p²), 0 where rounding makes it negative."""
    return math.sqrt(max(energy**2 - px**2 - py**2 - pz**2, 0.0))


@rule
def pair_mass(event, i, j):
    """Invariant mass of two leptons in GeV."""
    return invariant_mass(
        event[i].energy + event[j].energy,
        event[i].px + event[j].px,
        event[i].py + event[j].py,
        event[i].pz + event[j].pz,
    )


@rule
def four_lepton_mass(event, four):
    """Invariant mass of all four leptons in GeV."""
    energy = px = py = pz = 0.0
    for i in (four.a, four.b, four.c, four.d):
        energy += event[i].energy
        px += event[i].px
        py += event[i].py
        pz += event[i].pz
    return invariant_mass(energy, px, py, pz)


@rule
def wrap(angle):
    """Bring an angle into [−π, π]."""
    return angle - 2.0 * math.pi * np.rint(angle / (2.0 * math.pi))


@rule
def delta_r(event, i, j):
    """Angular distance √(Δη² + Δφ²), with Δφ taken around the circle."""
    return math.sqrt((event[i].eta - event[j].eta) ** 2 + wrap(event[i].phi - event[j].phi) ** 2)


@rule
def total_charge(event, first, last):
    """Sum of the charges of the leptons [first, last)."""
    total = 0
    for i in range(first, last):
        total += event[i].charge
    return total


@rule
def quadruple(event, i, j, k, m, mass_ij, mass_km, z_mass):
    """Make two pairs a quadruple.

    Z1 is the pair nearer to the Z mass (a tie: the first), the harder lepton of a pair comes first.
    """
    if abs(mass_km - z_mass) < abs(mass_ij - z_mass):
        i, j, k, m, mass_ij, mass_km = k, m, i, j, mass_km, mass_ij
    if event[j].pt > event[i].pt:
        i, j = j, i
    if event[m].pt > event[k].pt:
        k, m = m, k
    return Quadruple(i, j, k, m, mass_ij, mass_km)


@rule
def opposite(event, i, j):
    """Whether two leptons have the same flavour and opposite charges."""
    same_flavour, charge = event[i].flavour == event[j].flavour, event[i].charge + event[j].charge
    return same_flavour and charge == 0


@rule
def two_are_hard(event, leptons, cuts):
    """Whether one of these leptons is above the leading pT cut and another above the subleading one."""
    leading = subleading = 0
    for i in leptons:
        leading += event[i].pt > cuts.lepton_pt_leading
        subleading += event[i].pt > cuts.lepton_pt_subleading
    return leading >= 1 and subleading >= 2


@rule
def all_apart(event, four, cuts):
    """Whether all six pairs of the four leptons are further apart than ``delta_r_min``."""
    if cuts.delta_r_min <= 0.0:
        return True
    leptons = (four.a, four.b, four.c, four.d)
    for i in range(3):
        for j in range(i + 1, 4):
            if not delta_r(event, leptons[i], leptons[j]) > cuts.delta_r_min:
                return False
    return True


@rule
def pairs_apart(event, four, cuts):
    """Whether the leptons within each Z are further apart than ``delta_r_min``."""
    first, second = delta_r(event, four.a, four.b), delta_r(event, four.c, four.d)
    return cuts.delta_r_min <= 0.0 or (first > cuts.delta_r_min and second > cuts.delta_r_min)


@rule
def no_light_pair(event, four, cuts):
    """Whether every opposite-sign pair of the four, of whatever flavour, is heavier than ``dilepton_mass_min``."""
    if cuts.dilepton_mass_min <= 0.0:
        return True
    leptons = (four.a, four.b, four.c, four.d)
    for i in range(3):
        for j in range(i + 1, 4):
            opposite_sign = event[leptons[i]].charge + event[leptons[j]].charge == 0
            if opposite_sign and not pair_mass(event, leptons[i], leptons[j]) > cuts.dilepton_mass_min:
                return False
    return True


@rule
def furthest_cut(event, four, hard, apart, cuts):  # noqa: PLR0911 - one line a cut
    """Return the last cut, in order, that a quadruple passes.

    ``hard`` and ``apart`` are the algorithm's own pT and ΔR rules.
    """
    if not cuts.z1_mass_min < four.mass_z1 < cuts.z1_mass_max:
        return Cut.CHARGE
    if not cuts.z2_mass_min < four.mass_z2 < cuts.z2_mass_max:
        return Cut.Z1_MASS
    if not hard:
        return Cut.Z2_MASS
    if not apart:
        return Cut.LEPTON_PT
    if not no_light_pair(event, four, cuts):
        return Cut.DELTA_R
    if cuts.mass_4l_min > 0.0 and not four_lepton_mass(event, four) > cuts.mass_4l_min:
        return Cut.DILEPTON_MASS
    return Cut.MASS_4L


@rule
def channel_of(event, four):
    """Return the channel of a quadruple."""
    if event[four.a].flavour != event[four.c].flavour:
        return TWO_EACH
    return FOUR_MUONS if event[four.a].flavour == MUON else FOUR_ELECTRONS


@rule
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
        return Quadruple(-1, -1, -1, -1, 0.0, 0.0)
    third, fourth = other_two(first, second)
    i, j, k, m = pick[first], pick[second], pick[third], pick[fourth]
    return quadruple(event, i, j, k, m, pair_mass(event, i, j), pair_mass(event, k, m), z_mass)


@rule
def other_two(first, second):
    """Return the two of 0, 1, 2, 3 that are neither ``first`` nor ``second``, in order."""
    third = 0
    while third in (first, second):
        third += 1
    fourth = third + 1
    while fourth in (first, second):
        fourth += 1
    return third, fourth


@rule
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


@rule
def is_better(event, four, best, cuts):
    """Whether a quadruple is preferred: Z1 nearer to the Z mass, and of equal ones the larger pT sum of Z2."""
    distance, best_distance = abs(four.mass_z1 - cuts.z_mass), abs(best.mass_z1 - cuts.z_mass)
    harder = event[four.c].pt + event[four.d].pt > event[best.c].pt + event[best.d].pt
    return distance < best_distance or (distance == best_distance and harder)


@rule
def choose_open2012(event, n_leptons, cuts, furthest):
    """Try all pairs of disjoint Z candidates; return the best quadruple that passes every cut (a = −1: none)."""
    best = Quadruple(-1, -1, -1, -1, -math.inf, -math.inf)
    for i in range(n_leptons - 3):
        for j in range(i + 1, n_leptons):
            if not opposite(event, i, j):
                continue
            for k in range(i + 1, n_leptons - 1):
                for m in range(k + 1, n_leptons):
                    if j in (k, m) or not opposite(event, k, m):
                        continue
                    masses = pair_mass(event, i, j), pair_mass(event, k, m)
                    four = quadruple(event, i, j, k, m, masses[0], masses[1], cuts.z_mass)
                    hard = two_are_hard(event, (i, j, k, m), cuts)
                    passed = furthest_cut(event, four, hard, all_apart(event, four, cuts), cuts)
                    channel = channel_of(event, four)
                    if passed > furthest[channel]:  # noqa: PLR1730 - numba has no max() of int8 and Cut
                        furthest[channel] = passed
                    if passed == Cut.MASS_4L and (best.a < 0 or is_better(event, four, best, cuts)):
                        best = four
    return best


@rule
def choose_aod2012(event, n_muons, n_leptons, channel, cuts, pick, furthest):
    """Take the hardest good leptons of the channel; return their best pairing (a = −1: rejected)."""
    none = Quadruple(-1, -1, -1, -1, 0.0, 0.0)
    if channel == TWO_EACH:
        pick_hardest(event, 0, n_muons, pick, 0, 2)
        pick_hardest(event, n_muons, n_leptons, pick, 2, 2)
        if not (opposite(event, pick[0], pick[1]) and opposite(event, pick[2], pick[3])):
            return none
        masses = pair_mass(event, pick[0], pick[1]), pair_mass(event, pick[2], pick[3])
        four = quadruple(event, pick[0], pick[1], pick[2], pick[3], masses[0], masses[1], cuts.z_mass)
    else:
        first, last = (0, n_muons) if channel == FOUR_MUONS else (n_muons, n_leptons)
        pick_hardest(event, first, last, pick, 0, 4)
        if event[pick[0]].charge + event[pick[1]].charge + event[pick[2]].charge + event[pick[3]].charge != 0:
            return none
        four = best_pairing(event, pick, cuts.z_mass, False)
    hard = event[four.a].pt > cuts.lepton_pt_leading and event[four.b].pt > cuts.lepton_pt_subleading
    furthest[channel] = furthest_cut(event, four, hard, all_apart(event, four, cuts), cuts)
    return four if furthest[channel] == Cut.MASS_4L else none


@rule
def choose_df103(event, n_muons, n_leptons, channel, cuts, pick, furthest):
    """Pair the leptons as stored, all of which are good; return the quadruple (a = −1: rejected)."""
    none = Quadruple(-1, -1, -1, -1, 0.0, 0.0)
    if total_charge(event, 0, n_muons) != 0 or total_charge(event, n_muons, n_leptons) != 0:
        return none
    if channel == TWO_EACH:
        e = n_muons
        four = quadruple(event, 0, 1, e, e + 1, pair_mass(event, 0, 1), pair_mass(event, e, e + 1), cuts.z_mass)
        hard = two_are_hard(event, range(n_muons), cuts) or two_are_hard(event, range(n_muons, n_leptons), cuts)
    else:
        for i in range(4):
            pick[i] = i
        four = best_pairing(event, pick, cuts.z_mass, cuts.integer_pairing)
        hard = True
        if four.a < 0:
            furthest[channel] = Cut.CHARGE
            return none
    furthest[channel] = furthest_cut(event, four, hard, pairs_apart(event, four, cuts), cuts)
    return four if furthest[channel] == Cut.MASS_4L else none


@rule
def has_enough(n_muons, n_electrons, channel, exactly):
    """Whether there are enough leptons for a channel; ``exactly`` four of them in 4mu and 4e."""
    if channel == TWO_EACH:
        return n_muons >= 2 and n_electrons >= 2
    n = n_muons if channel == FOUR_MUONS else n_electrons
    return n == 4 if exactly else n >= 4


@rule
def is_hopeless(n_muons, n_electrons):
    """Whether an event has too few leptons for every channel."""
    return n_muons < 4 and n_electrons < 4 and (n_muons < 2 or n_electrons < 2)


@rule
def survey(muon_offsets, electron_offsets):
    """Return how many events have enough leptons for a channel, and the most leptons in one of them."""
    possible, most = 0, 0
    for e in range(len(muon_offsets) - 1):
        n_muons, n_electrons = muon_offsets[e + 1] - muon_offsets[e], electron_offsets[e + 1] - electron_offsets[e]
        if not is_hopeless(n_muons, n_electrons):
            possible += 1
            most = max(most, n_muons + n_electrons)
    return possible, most


@rule
def write_row(rows, n, e, channel, event, four):
    """Write one selected candidate into row n."""
    rows.event_index[n], rows.channel[n] = e, channel
    rows.mass_4l[n], rows.mass_z1[n], rows.mass_z2[n] = four_lepton_mass(event, four), four.mass_z1, four.mass_z2
    for place, i in enumerate((four.a, four.b, four.c, four.d)):
        rows.lepton[n, place], rows.flavour[n, place] = event[i].place, event[i].flavour


@rule
def select_open2012(e, bounds, muons, electrons, cuts, event, furthest, rows, n):
    """Apply ``open2012`` to one event; return the number of rows written so far."""
    n_mu = add_good(
        event, 0, muons, bounds[0], bounds[1], MUON, cuts.muon_pt_min, cuts.muon_eta_max, cuts.muon_isolation_max, cuts
    )
    n_all = add_good(
        event, n_mu, electrons, bounds[2], bounds[3], ELECTRON, cuts.electron_pt_min, cuts.electron_eta_max,
        cuts.electron_isolation_max, cuts,
    )  # fmt: skip
    for channel in range(3):
        if furthest[channel] == Cut.LEPTONS and has_enough(n_mu, n_all - n_mu, channel, False):
            furthest[channel] = Cut.GOOD_LEPTONS
    four = choose_open2012(event, n_all, cuts, furthest)
    if four.a < 0:
        return n
    channel = channel_of(event, four)
    furthest[channel] = Cut.BEST_CANDIDATE
    write_row(rows, n, e, channel, event, four)
    return n + 1


@rule
def select_channel(e, bounds, channel, muons, electrons, cuts, event, pick, furthest, rows, n):
    """Apply ``aod2012`` or ``df103`` to one event in one channel; return the number of rows written so far."""
    whole_event = cuts.algorithm == DF103
    no_floor = whole_event and channel == TWO_EACH
    muon_pt, electron_pt = (-math.inf, -math.inf) if no_floor else (cuts.muon_pt_min, cuts.electron_pt_min)
    n_mu = n_all = 0
    if channel != FOUR_ELECTRONS:
        n_mu = n_all = add_good(
            event, 0, muons, bounds[0], bounds[1], MUON, muon_pt, cuts.muon_eta_max, cuts.muon_isolation_max, cuts
        )
        if whole_event and n_mu < bounds[1] - bounds[0]:
            return n
    if channel != FOUR_MUONS:
        n_all = add_good(
            event, n_mu, electrons, bounds[2], bounds[3], ELECTRON, electron_pt, cuts.electron_eta_max,
            cuts.electron_isolation_max, cuts,
        )  # fmt: skip
        if whole_event and n_all - n_mu < bounds[3] - bounds[2]:
            return n
    if not has_enough(n_mu, n_all - n_mu, channel, whole_event):
        return n
    furthest[channel] = Cut.GOOD_LEPTONS
    if whole_event:
        four = choose_df103(event, n_mu, n_all, channel, cuts, pick, furthest)
    else:
        four = choose_aod2012(event, n_mu, n_all, channel, cuts, pick, furthest)
    if four.a < 0:
        return n
    furthest[channel] = Cut.BEST_CANDIDATE
    write_row(rows, n, e, channel, event, four)
    return n + 1


@rule
def select_events(muon_offsets, muons, electron_offsets, electrons, cuts, wanted, event, stage, rows, unusable):
    """Walk over the events once.

    Fill ``stage`` with the furthest cut passed and ``rows`` with the candidates; return their number.
    """
    n, pick = 0, np.empty(4, np.int64)
    for e in range(len(muon_offsets) - 1):
        bounds = (muon_offsets[e], muon_offsets[e + 1], electron_offsets[e], electron_offsets[e + 1])
        n_muons, n_electrons = bounds[1] - bounds[0], bounds[3] - bounds[2]
        if is_hopeless(n_muons, n_electrons):
            continue
        count_unusable(muons, bounds[0], bounds[1], unusable[0])
        count_unusable(electrons, bounds[2], bounds[3], unusable[1])
        furthest = stage[e]
        for channel in range(3):
            if wanted[channel] and has_enough(n_muons, n_electrons, channel, cuts.algorithm == DF103):
                furthest[channel] = Cut.LEPTONS
        if cuts.algorithm == OPEN2012:
            n = select_open2012(e, bounds, muons, electrons, cuts, event, furthest, rows, n)
        else:
            for channel in range(3):
                if furthest[channel] == Cut.LEPTONS:
                    n = select_channel(e, bounds, channel, muons, electrons, cuts, event, pick, furthest, rows, n)
    return n


# --- Around the kernel


class Rows(NamedTuple):
    """Room for the candidates that the kernel writes."""

    event_index: Integers
    channel: npt.NDArray[np.int8]
    lepton: Integers
    flavour: npt.NDArray[np.int8]
    mass_4l: npt.NDArray[np.float64]
    mass_z1: npt.NDArray[np.float64]
    mass_z2: npt.NDArray[np.float64]


def cuts_of(selection: Selection) -> Cuts:
    """Return the numbers of a selection as the kernel takes them."""
    return Cuts._make((ALGORITHMS.index(selection.algorithm), *(getattr(selection, name) for name in NUMBERS)))


def columns_of(leptons: Leptons, name: str) -> Flavour:
    """Return one flavour's columns; a quantity that the schema does not have becomes one that passes every cut on it.

    Without one of dxy, dz and their errors there is no significance: the errors are then taken to be very large.
    """
    columns = {quantity: getattr(leptons, f"{name}_{quantity}") for quantity in QUANTITIES}
    n, neutral = len(columns["pt"]), {"dxy_error": 1e30, "dz_error": 1e30}
    if any(columns[quantity] is None for quantity in ("dxy", "dxy_error", "dz", "dz_error")):
        columns |= dict.fromkeys(neutral)
    return Flavour._make(
        np.full(n, neutral.get(quantity, 0.0), np.float32) if column is None else column
        for quantity, column in columns.items()
    )


def _event(n_leptons: int) -> npt.NDArray[Any]:
    """Return room for an event of so many leptons."""
    return np.empty(n_leptons, EVENT)


def _rows(n: int) -> Rows:
    """Return room for so many candidates."""
    return Rows(
        np.empty(n, np.int64), np.empty(n, np.int8), np.empty((n, 4), np.int64), np.empty((n, 4), np.int8),
        np.empty(n), np.empty(n), np.empty(n),
    )  # fmt: skip


def count_passed(stage: npt.NDArray[np.int8]) -> Integers:
    """Turn the furthest cut passed, (n_events, 3) with −1 for channels left out, into a cutflow (3, len(Cut)) int64."""
    counts = np.zeros((len(CHANNELS), len(Cut)), np.int64)
    for channel in range(len(CHANNELS)):
        furthest = np.bincount(stage[:, channel].astype(np.int64) + 1, minlength=len(Cut) + 1)[1:]
        counts[channel] = furthest[::-1].cumsum()[::-1]
    counts[:, Cut.UNIQUE] = counts[:, Cut.BEST_CANDIDATE]
    return counts


def is_compiled() -> bool:
    """Whether the compiled kernel lies on disk from an earlier run; if not, the first use takes about ten seconds."""
    return compiled.FOLDER is not None and any(compiled.FOLDER.glob("kernel.select_events-*.nbi"))


def warm_up() -> None:
    """Load the compiled kernel (compile it, once on a machine), so that the first chunk takes no longer than others."""
    columns: dict[str, Any] = {}
    for name in Leptons._fields:
        special = {"run": np.int64, "luminosity_block": np.int64, "event": np.uint64}.get(name)
        kind = special or (np.int64 if "offsets" in name else np.int32 if "charge" in name else np.float32)
        columns[name] = np.zeros(1 if "offsets" in name else 0, kind)
    select(Leptons(**columns), load("open2012"))


def select(leptons: Leptons, selection: Selection, primary_dataset: str | None = None) -> Candidates:
    """Apply a selection to a chunk of events.

    Parameters
    ----------
    leptons
        The events, see `Leptons`.
    selection
        What to keep.
    primary_dataset
        Primary dataset that the events come from (``"DoubleMu"``, …), or None; decides the channels in ``aod2012`` and
        ``df103``.

    Returns
    -------
    Candidates
        The selected candidates in the order of the events, with the cutflow.
    """
    muons, electrons = columns_of(leptons, "muon"), columns_of(leptons, "electron")
    possible, most = survey(leptons.muon_offsets, leptons.electron_offsets)
    rows = _rows(possible if selection.one_per_event else possible * len(CHANNELS))
    wanted = np.isin(np.arange(len(CHANNELS)), selection.channels(primary_dataset))
    stage = np.where(wanted, 0, -1).astype(np.int8) * np.ones((leptons.n_events, 1), np.int8)
    unusable = np.zeros((2, len(QUANTITIES)), np.int64)
    n = select_events(
        leptons.muon_offsets, muons, leptons.electron_offsets, electrons,
        cuts_of(selection), wanted, _event(most), stage, rows, unusable,
    )  # fmt: skip
    return Candidates._make((*(column[:n] for column in rows), count_passed(stage), unusable))
