"""The same answer as `kernel.select`, many times over the same events: what a cut cannot change is computed once.

`hold` keeps of the events in memory the leptons that some setting of the cuts accepts, with their momenta. `Pairings`
are the ways in which the leptons of an event form two Z candidates, with every quantity that a cut is compared with.
For ``open2012`` they do not depend on the cuts at all: the cuts only choose among them. ``aod2012`` and ``df103`` pair
the good leptons of an event in one way, so that a cut on leptons pairs them anew and any other cut does not.
`choose` applies a selection and counts. The rules of pairing are those of `kernel`, called from here.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from higgsnb.compiled import rule
from higgsnb.kernel import (
    EVENT,
    Quadruple,
    best_pairing,
    channel_of,
    delta_r,
    four_lepton_mass,
    has_enough,
    has_momentum,
    is_hopeless,
    opposite,
    pair_mass,
    pick_hardest,
    quadruple,
    set_momentum,
    total_charge,
    usable,
)
from higgsnb.selection import (
    DF103,
    ELECTRON,
    FOUR_ELECTRONS,
    FOUR_MUONS,
    MUON,
    TWO_EACH,
    Cut,
    Flavour,
    Integers,
)

Floats = npt.NDArray[np.float64]
LEPTON_CUTS = (
    "muon_pt_min", "muon_eta_max", "muon_isolation_max", "electron_pt_min", "electron_eta_max",
    "electron_isolation_max", "dxy_max", "dz_max", "sip_max",
)  # fmt: skip
"""The cuts on single leptons: they decide which leptons are good."""
WELL_MEASURED, HARD = 1, 2  # bits of a lepton's grade: passes all cuts but that on pT; passes that on pT


class Held(NamedTuple):
    """Events kept in memory, those with enough leptons that pass the loosest cuts.

    ``offsets`` (n_events + 1,) int64: where the leptons of an event start, muons first, ``muons`` (n_events,) of them.
    ``stored_muons``, ``stored_electrons`` (n_events,): how many of each the event holds in its file. ``leptons``
    (n_leptons,) `kernel.EVENT`; ``isolation``, ``dxy``, ``dz`` float32 and ``sip`` float64, absolute values.
    """

    offsets: Integers
    muons: npt.NDArray[np.int16]
    stored_muons: npt.NDArray[np.int16]
    stored_electrons: npt.NDArray[np.int16]
    leptons: npt.NDArray[Any]
    isolation: npt.NDArray[np.float32]
    dxy: npt.NDArray[np.float32]
    dz: npt.NDArray[np.float32]
    sip: Floats


PAIRING = np.dtype(
    [(name, np.float64) for name in ("mass_z1", "mass_z2", "mass_4l", "leading", "subleading")]
    + [(name, np.float64) for name in ("leading_too", "subleading_too", "delta_r", "dilepton")]
    + [(name, np.int16) for name in ("a", "b", "c", "d")]
    + [("bins", np.int16, (4,)), ("channel", np.int64)]
)
"""One way to pair four leptons of an event, with all that later cuts are compared with.

``a`` … ``d``: places in the event, Z1 harder … Z2 softer. ``leading``, ``subleading``: the pT that the pT cuts are
compared with; for ``df103`` in 2e2mu there is a second such pair, of which either may pass. ``delta_r``, ``dilepton``:
the smallest distance and opposite-sign mass that are looked at. ``bins``: where the masses are in the histograms.
"""


class Pairings(NamedTuple):
    """The pairings of all events: those of event e are ``rows[starts[e]:stops[e]]``, the preferred ones first."""

    starts: Integers
    stops: Integers
    rows: npt.NDArray[Any]


# --- Which leptons can be good at all ------------------------------------------------------------------------------


@rule
def significance_of(leptons, i):
    """Impact parameter over its error, √(dxy² + dz²) / √(σ² + σ²); infinite where one of them does not exist."""
    dxy, dz = np.float64(leptons.dxy[i]), np.float64(leptons.dz[i])
    dxy_error, dz_error = np.float64(leptons.dxy_error[i]), np.float64(leptons.dz_error[i])
    exist = usable(dxy) and usable(dz) and usable(dxy_error) and usable(dz_error)
    if not exist or dxy_error < 0.0 or dz_error < 0.0:
        return math.inf
    sip = math.sqrt(dxy**2 + dz**2) / math.sqrt(dxy_error**2 + dz_error**2)
    return sip if not math.isnan(sip) else math.inf


@rule
def can_be_good(leptons, i, eta_max, isolation_max, loosest):
    """Whether a lepton passes the loosest cuts; there is none on pT."""
    momentum, sip = has_momentum(leptons, i), significance_of(leptons, i)
    isolation, eta = leptons.isolation[i], np.float64(leptons.eta[i])
    dxy, dz = abs(np.float64(leptons.dxy[i])), abs(np.float64(leptons.dz[i]))
    isolated = usable(isolation) and isolation < isolation_max
    return (
        momentum
        and isolated
        and abs(eta) < eta_max
        and dxy < loosest.dxy_max
        and dz < loosest.dz_max
        and (sip < loosest.sip_max)
    )


@rule
def count_possible(leptons, first, last, eta_max, isolation_max, loosest):
    """Return how many of the leptons [first, last) can be good."""
    n = 0
    for i in range(first, last):
        n += can_be_good(leptons, i, eta_max, isolation_max, loosest)
    return n


@rule
def survey_events(muon_offsets, muons, electron_offsets, electrons, loosest, kept, possible):
    """Note which events are kept and how many leptons they keep; count those with enough stored ones.

    ``possible`` (2, 3) int64: per channel, events with at least, and (for ``df103``) with exactly as many as needed.
    """
    for e in range(len(muon_offsets) - 1):
        n_mu, n_e = muon_offsets[e + 1] - muon_offsets[e], electron_offsets[e + 1] - electron_offsets[e]
        if is_hopeless(n_mu, n_e):
            continue
        for channel in range(3):
            possible[0, channel] += has_enough(n_mu, n_e, channel, False)
            possible[1, channel] += has_enough(n_mu, n_e, channel, True)
        n_mu = count_possible(
            muons, muon_offsets[e], muon_offsets[e + 1], loosest.muon_eta_max, loosest.muon_isolation_max, loosest
        )
        n_e = count_possible(
            electrons, electron_offsets[e], electron_offsets[e + 1], loosest.electron_eta_max,
            loosest.electron_isolation_max, loosest,
        )  # fmt: skip
        if not is_hopeless(n_mu, n_e):
            kept[e, 0], kept[e, 1] = n_mu, n_e


@rule
def keep_leptons(held, n, leptons, first, last, flavour, eta_max, isolation_max, loosest):
    """Write those of the leptons [first, last) that can be good from place n on; return the place after them."""
    for i in range(first, last):
        if can_be_good(leptons, i, eta_max, isolation_max, loosest):
            held.leptons[n].flavour = flavour
            held.leptons[n].place = i
            held.leptons[n].charge = leptons.charge[i]
            set_momentum(held.leptons, n, leptons, i)
            held.isolation[n] = leptons.isolation[i]
            held.dxy[n], held.dz[n] = abs(leptons.dxy[i]), abs(leptons.dz[i])
            held.sip[n] = significance_of(leptons, i)
            n += 1
    return n


@rule
def keep_events(which, muon_offsets, muons, electron_offsets, electrons, loosest, held):
    """Write the leptons of the kept events."""
    for number in range(len(which)):
        e, n = which[number], held.offsets[number]
        held.stored_muons[number] = muon_offsets[e + 1] - muon_offsets[e]
        held.stored_electrons[number] = electron_offsets[e + 1] - electron_offsets[e]
        n = keep_leptons(
            held, n, muons, muon_offsets[e], muon_offsets[e + 1], MUON, loosest.muon_eta_max,
            loosest.muon_isolation_max, loosest,
        )  # fmt: skip
        keep_leptons(
            held, n, electrons, electron_offsets[e], electron_offsets[e + 1], ELECTRON, loosest.electron_eta_max,
            loosest.electron_isolation_max, loosest,
        )  # fmt: skip


def hold(
    muon_offsets: Integers, muons: Flavour, electron_offsets: Integers, electrons: Flavour, loosest: Any
) -> tuple[Held, Integers, Integers]:
    """Keep what some setting of the cuts may accept.

    Parameters
    ----------
    muon_offsets, muons, electron_offsets, electrons
        A chunk of events as the kernel takes it.
    loosest
        The numbers (`kernel.Cuts`) of a selection whose cuts on leptons are the loosest ever asked for; its cuts on pT
        are not looked at.

    Returns
    -------
    tuple
        `Held`; the index of each kept event; (2, 3) int64 events of all with enough stored leptons, per channel: at
        least, and exactly as many.
    """
    kept, possible = np.zeros((len(muon_offsets) - 1, 2), np.int16), np.zeros((2, 3), np.int64)
    survey_events(muon_offsets, muons, electron_offsets, electrons, loosest, kept, possible)
    which = np.flatnonzero(kept.any(axis=1))
    counts = kept[which].sum(axis=1, dtype=np.int64)
    n = int(counts.sum())
    held = Held(
        np.concatenate(([0], np.cumsum(counts))), np.ascontiguousarray(kept[which, 0]),
        np.empty(len(which), np.int16), np.empty(len(which), np.int16), np.empty(n, EVENT),
        np.empty(n, np.float32), np.empty(n, np.float32), np.empty(n, np.float32), np.empty(n),
    )  # fmt: skip
    keep_events(which, muon_offsets, muons, electron_offsets, electrons, loosest, held)
    return held, which, possible


def join(parts: list[Held]) -> Held:
    """Put the events of several chunks behind each other."""
    before = np.cumsum([0, *(part.offsets[-1] for part in parts)])
    offsets = [part.offsets[:-1] + start for part, start in zip(parts, before[:-1], strict=True)]
    columns = [np.concatenate(columns) for columns in zip(*(part[1:] for part in parts), strict=True)]
    return Held(np.concatenate([*offsets, before[-1:]]), *columns)


# --- Which leptons are good ----------------------------------------------------------------------------------------


@rule
def grade_leptons(leptons, isolations, dxys, dzs, sips, cuts, first, last, grades):
    """Grade the leptons [first, last) with `WELL_MEASURED` and `HARD`."""
    for i in range(first, last):
        muon, pt, eta, sip = leptons[i].flavour == MUON, leptons[i].pt, abs(leptons[i].eta), sips[i]
        isolation, dxy, dz = np.float64(isolations[i]), np.float64(dxys[i]), np.float64(dzs[i])
        pt_min = cuts.muon_pt_min if muon else cuts.electron_pt_min
        eta_max = cuts.muon_eta_max if muon else cuts.electron_eta_max
        isolation_max = cuts.muon_isolation_max if muon else cuts.electron_isolation_max
        prompt = (dxy < cuts.dxy_max) & (dz < cuts.dz_max) & (sip < cuts.sip_max)
        measured = prompt & (eta < eta_max) & (isolation < isolation_max)
        grades[i] = WELL_MEASURED * measured + HARD * (pt > pt_min)


@rule
def good_leptons(event, n, leptons, first, last, grades, wanted):
    """Append those of the leptons [first, last) that have the wanted grade; return how many the event holds then."""
    for i in range(first, last):
        if (grades[i] & wanted) == wanted:
            event[n] = leptons[i]
            event[n].place = i
            n += 1
    return n


# --- Ways to pair them ---------------------------------------------------------------------------------------------


@rule
def measure(event, four, channel, row):
    """Write what later cuts are compared with, for any two of the four being hard and all pairs being looked at."""
    leptons = (four.a, four.b, four.c, four.d)
    leading = subleading = -math.inf
    apart = lightest = math.inf
    for i in range(4):
        pt = event[leptons[i]].pt
        subleading = max(subleading, min(pt, leading))
        leading = max(leading, pt)
        for j in range(i + 1, 4):
            apart = min(apart, delta_r(event, leptons[i], leptons[j]))
            if event[leptons[i]].charge + event[leptons[j]].charge == 0:
                lightest = min(lightest, pair_mass(event, leptons[i], leptons[j]))
    row.mass_z1, row.mass_z2, row.mass_4l = four.mass_z1, four.mass_z2, four_lepton_mass(event, four)
    row.leading, row.subleading, row.leading_too, row.subleading_too = leading, subleading, -math.inf, -math.inf
    row.delta_r, row.dilepton, row.channel = apart, lightest, channel


@rule
def count_open2012(offsets, leptons, numbers):
    """Count the pairings of each event: pairs of Z candidates that share no lepton."""
    for e in range(len(offsets) - 1):
        event, n = leptons[offsets[e] : offsets[e + 1]], 0
        for i in range(len(event) - 3):
            for j in range(i + 1, len(event)):
                if opposite(event, i, j):
                    for k in range(i + 1, len(event) - 1):
                        for m in range(k + 1, len(event)):
                            n += j not in (k, m) and opposite(event, k, m)
        numbers[e] = n


@rule
def pair_open2012(offsets, leptons, first, last, z_mass, starts, rows):
    """Write the pairings of the events [first, last), in the order of preference."""
    for e in range(first, last):
        event, start, stop = leptons[offsets[e] : offsets[e + 1]], starts[e], starts[e]
        for i in range(len(event) - 3):
            for j in range(i + 1, len(event)):
                if not opposite(event, i, j):
                    continue
                for k in range(i + 1, len(event) - 1):
                    for m in range(k + 1, len(event)):
                        if j in (k, m) or not opposite(event, k, m):
                            continue
                        masses = pair_mass(event, i, j), pair_mass(event, k, m)
                        four = quadruple(event, i, j, k, m, masses[0], masses[1], z_mass)
                        n = make_room(event, four, start, stop, z_mass, rows)
                        measure(event, four, channel_of(event, four), rows[n])
                        rows[n].a, rows[n].b, rows[n].c, rows[n].d = four.a, four.b, four.c, four.d
                        stop += 1


@rule
def make_room(event, four, start, stop, z_mass, rows):
    """Make room for a pairing among those [start, stop) of its event, which are in order; return its place.

    Preferred is the one with Z1 nearer to the Z mass, and of equal ones the larger pT sum of Z2.
    """
    distance, pt = abs(four.mass_z1 - z_mass), event[four.c].pt + event[four.d].pt
    while stop > start:
        other = abs(rows[stop - 1].mass_z1 - z_mass)
        other_pt = event[rows[stop - 1].c].pt + event[rows[stop - 1].d].pt
        if not (distance < other or (distance == other and pt > other_pt)):
            break
        rows[stop] = rows[stop - 1]
        stop -= 1
    return stop


@rule
def pair_channel(event, n_muons, n_leptons, channel, cuts, pick):
    """Return the one pairing of the good leptons in a channel (a = −1: none), and whether their charges allow one."""
    none, whole_event = Quadruple(-1, -1, -1, -1, 0.0, 0.0), cuts.algorithm == DF103
    if whole_event:
        if total_charge(event, 0, n_muons) != 0 or total_charge(event, n_muons, n_leptons) != 0:
            return none, False
        for i in range(2):
            pick[i], pick[2 + i] = i, (n_muons if channel == TWO_EACH else 2) + i
    elif channel == TWO_EACH:
        pick_hardest(event, 0, n_muons, pick, 0, 2)
        pick_hardest(event, n_muons, n_leptons, pick, 2, 2)
        if not (opposite(event, pick[0], pick[1]) and opposite(event, pick[2], pick[3])):
            return none, False
    else:
        pick_hardest(event, 0, n_leptons, pick, 0, 4)
        if event[pick[0]].charge + event[pick[1]].charge + event[pick[2]].charge + event[pick[3]].charge != 0:
            return none, False
    if channel == TWO_EACH:
        masses = pair_mass(event, pick[0], pick[1]), pair_mass(event, pick[2], pick[3])
        return quadruple(event, pick[0], pick[1], pick[2], pick[3], masses[0], masses[1], cuts.z_mass), True
    return best_pairing(event, pick, cuts.z_mass, whole_event and cuts.integer_pairing), True


@rule
def two_hardest(event, first, last):
    """Return the two largest pT of the leptons [first, last)."""
    leading = subleading = -math.inf
    for i in range(first, last):
        subleading = max(subleading, min(event[i].pt, leading))
        leading = max(leading, event[i].pt)
    return leading, subleading


@rule
def correct_rules(event, four, n_muons, n_leptons, channel, cuts, row):
    """Replace what ``aod2012`` and ``df103`` compare their pT and ΔR cuts with, where it is something else."""
    if cuts.algorithm != DF103:
        row.leading, row.subleading = event[four.a].pt, event[four.b].pt
        return
    row.delta_r = min(delta_r(event, four.a, four.b), delta_r(event, four.c, four.d))
    if channel != TWO_EACH:
        row.leading = row.subleading = math.inf
        return
    row.leading, row.subleading = two_hardest(event, 0, n_muons)
    row.leading_too, row.subleading_too = two_hardest(event, n_muons, n_leptons)


@rule
def gather_channel(held, e, channel, whole_event, grades, event):
    """Collect the good leptons of an event for a channel; return (muons, leptons), negative if they do not suffice."""
    start, middle, stop = held.offsets[e], held.offsets[e] + held.muons[e], held.offsets[e + 1]
    stored_muons, stored_electrons, leptons = held.stored_muons[e], held.stored_electrons[e], held.leptons
    grade = WELL_MEASURED if whole_event and channel == TWO_EACH else WELL_MEASURED + HARD
    n_mu = n_all = 0
    if channel != FOUR_ELECTRONS:
        n_mu = n_all = good_leptons(event, 0, leptons, start, middle, grades, grade)
        if whole_event and n_mu < stored_muons:
            return -1, -1
    if channel != FOUR_MUONS:
        n_all = good_leptons(event, n_mu, leptons, middle, stop, grades, grade)
        if whole_event and n_all - n_mu < stored_electrons:
            return -1, -1
    enough = has_enough(n_mu, n_all - n_mu, channel, whole_event)
    return (n_mu, n_all) if enough else (-1, -1)


@rule
def pair_by_channel(held, first, last, cuts, wanted, most, grades, pairings, listed, passed):
    """Pair the good leptons of the events [first, last) in each wanted channel by itself: one row each at most.

    Fill ``listed`` (n, 2) with (event, row), ``passed`` (3, len(Cut)) with how many events got how far; return n.
    """
    event, pick, whole_event = np.empty(most, EVENT), np.empty(4, np.int64), cuts.algorithm == DF103
    starts, stops, rows, n_listed = pairings.starts, pairings.stops, pairings.rows, 0
    offsets, muons = held.offsets, held.muons
    for e in range(first, last):
        n, start, n_mu = starts[e], offsets[e], muons[e]
        n_e = offsets[e + 1] - start - n_mu
        for channel in range(3):
            if not wanted[channel] or not has_enough(n_mu, n_e, channel, False):
                continue
            good_mu, n_all = gather_channel(held, e, channel, whole_event, grades, event)
            if good_mu < 0:
                continue
            four, charged_well = pair_channel(event, good_mu, n_all, channel, cuts, pick)
            passed[channel, np.int64(Cut.CHARGE if charged_well else Cut.GOOD_LEPTONS)] += 1
            if four.a >= 0:
                row = rows[n]
                measure(event, four, channel, row)
                correct_rules(event, four, good_mu, n_all, channel, cuts, row)
                row.a, row.b = event[four.a].place - start, event[four.b].place - start
                row.c, row.d = event[four.c].place - start, event[four.d].place - start
                listed[n_listed, 0], listed[n_listed, 1] = e, n
                n, n_listed = n + 1, n_listed + 1
        stops[e] = n
    return n_listed


@rule
def count_good(grades, first, last):
    """Return how many of the leptons [first, last) pass all cuts on leptons."""
    n = 0
    for i in range(first, last):
        n += grades[i] == WELL_MEASURED + HARD
    return n


@rule
def list_good(offsets, muons, first, last, grades, starts, stops, rows, listed, passed):
    """List the pairings of good leptons among those of ``open2012``; like `pair_by_channel`."""
    n, good = 0, WELL_MEASURED + HARD
    for e in range(first, last):
        start, middle = offsets[e], offsets[e] + muons[e]
        n_mu, n_e = count_good(grades, start, middle), count_good(grades, middle, offsets[e + 1])
        if is_hopeless(n_mu, n_e):
            continue
        for channel in range(3):
            reached = Cut.GOOD_LEPTONS if has_enough(n_mu, n_e, channel, False) else Cut.LEPTONS
            passed[channel, np.int64(reached)] += 1  # numba < 0.68 takes no enum as an index
        for k in range(starts[e], stops[e]):
            row = rows[k]
            a, b, c, d = start + row.a, start + row.b, start + row.c, start + row.d
            if (grades[a] & grades[b] & grades[c] & grades[d]) == good:
                listed[n, 0], listed[n, 1] = e, k
                n += 1
    return n


@rule
def find_bin(value, edges, first, last):
    """Return the bin of a value between the edges [first, last], which are equally spaced; 0 is below them."""
    n = last - first
    if not value >= edges[first]:
        return 0
    if value >= edges[last]:
        return n + 1
    i = min(int((value - edges[first]) * n / (edges[last] - edges[first])), n - 1)
    while value < edges[first + i]:
        i -= 1
    while value >= edges[first + i + 1]:
        i += 1
    return i + 1


@rule
def find_bins(rows, first, last, edges, ends, widths):
    """Write where the masses of the rows [first, last) are in the histograms."""
    for n in range(first, last):
        masses = (rows[n].mass_4l, rows[n].mass_4l, rows[n].mass_z1, rows[n].mass_z2)
        before = 0
        for k in range(4):
            rows[n].bins[k] = before + find_bin(masses[k], edges, ends[k, 0], ends[k, 1])
            before += widths[k]


def pair_all(held: Held, z_mass: float) -> Pairings:
    """Return the pairings of ``open2012``: every two Z candidates that share no lepton, good or not."""
    numbers = np.empty(len(held.muons), np.int64)
    count_open2012(held.offsets, held.leptons, numbers)
    stops = np.cumsum(numbers)
    rows = np.zeros(int(stops[-1]) if len(stops) else 0, PAIRING)
    pairings = Pairings(stops - numbers, stops, rows)
    pair_open2012(held.offsets, held.leptons, 0, len(numbers), z_mass, pairings.starts, rows)
    return pairings


def room(held: Held) -> Pairings:
    """Return room for the pairings of ``aod2012`` and ``df103``: one for each channel with enough leptons."""
    n_mu, n_e = held.muons.astype(np.int64), np.diff(held.offsets) - held.muons
    numbers = (n_mu >= 4).astype(np.int64) + (n_e >= 4) + ((n_mu >= 2) & (n_e >= 2))
    stops = np.cumsum(numbers)
    rows = np.zeros(int(stops[-1]) if len(stops) else 0, PAIRING)
    return Pairings(stops - numbers, stops.copy(), rows)


# --- What passes ---------------------------------------------------------------------------------------------------


@rule
def furthest_cut(row, cuts):  # noqa: PLR0911 - one line a cut
    """Return the last cut, in order, that a pairing passes; the same as the kernel's."""
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


@rule
def pick_row(event, n, rows, counts, picked, place):
    """Note a chosen pairing and count it in every histogram."""
    picked[place, 0], picked[place, 1] = event, n
    channel, bins = rows[n].channel, rows[n].bins
    for k in range(4):
        counts[channel, bins[k]] += 1


@rule
def choose(listed, rows, cuts, one_per_event, passed, counts, picked):
    """Apply the cuts on pairings to those that are listed, event by event.

    ``passed`` (3, len(Cut)) knows already how many events got to these cuts; events that get further are moved there.
    ``counts`` (3, bins) gets the chosen ones, ``picked`` (n, 2) their (event, row); returned is n.
    """
    k, n, furthest = 0, 0, np.empty(3, np.int64)
    before = np.int64(Cut.GOOD_LEPTONS if one_per_event else Cut.CHARGE)
    while k < len(listed):
        event, best = listed[k, 0], -1
        furthest[:] = -1
        while k < len(listed) and listed[k, 0] == event:
            place = listed[k, 1]
            channel, reached = rows[place].channel, furthest_cut(rows[place], cuts)
            if reached == Cut.MASS_4L and (best < 0 or not one_per_event):
                best = place
                pick_row(event, place, rows, counts, picked, n)
                n += 1
                furthest[channel] = Cut.BEST_CANDIDATE
            elif reached > furthest[channel]:
                furthest[channel] = reached
            k += 1
        for channel in range(3):
            if furthest[channel] >= 0:
                passed[channel, before] -= 1
                passed[channel, furthest[channel]] += 1
    return n
