"""The selection in three steps: which leptons can be good, how they pair into Z candidates, which pairing passes.

`preselect` keeps the leptons that pass some cuts, with their momenta. `Pairings` are the ways in which the leptons of
an event form two Z candidates, with every quantity that a cut is compared with. For ``open2012`` they do not depend on
the cuts: the cuts only choose among them. ``aod2012`` and ``df103`` pair the good leptons of a channel in one way.
`choose` applies the cuts and counts.

`kernel.select` takes the three steps once. `sample` takes the first with the loosest cuts, and repeats of the others
only what a changed cut can change.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from higgsnb.errors import UnreadableError
from higgsnb.selection.compiled import inner_rule, rule
from higgsnb.selection.cuts import DF103, OPEN2012, Cut
from higgsnb.selection.filling import find_bin
from higgsnb.selection.leptons import (
    CHANNELS,
    ELECTRON,
    FOUR_ELECTRONS,
    FOUR_MUONS,
    MUON,
    QUANTITIES,
    TWO_EACH,
    Integers,
    Leptons,
)
from higgsnb.selection.options import count_options, passing, with_options
from higgsnb.selection.rules import (
    EVENT,
    ZZCandidate,
    best_pairing,
    channel_of,
    columns_of,
    count_invalid,
    delta_r,
    four_lepton_mass,
    has_enough,
    is_good,
    last_passed_cut,
    opposite,
    pair_mass,
    pick_hardest,
    set_momentum,
    sip,
    too_few_leptons,
    total_charge,
    zz_candidate,
)

Floats = npt.NDArray[np.float64]
LEPTON_CUTS = (
    "muon_pt_min", "muon_eta_max", "muon_isolation_max", "electron_pt_min", "electron_eta_max",
    "electron_isolation_max", "dxy_max", "dz_max", "sip_max",
)  # fmt: skip
"""The cuts on single leptons: they decide which leptons are good."""
WELL_MEASURED, HARD = 1, 2  # quality flags of a lepton: passes all cuts except that on pT; passes that on pT
GOOD = WELL_MEASURED + HARD
MOST_STORED = 32_767
"""Most muons or electrons of an event: their places are 16-bit integers."""
MOST_GOOD = 32
"""Most leptons of an event that ``open2012`` pairs, in up to 28,800 ways; hundreds would take days, and all memory."""


NOT_WANTED = np.empty((0, 3), np.int8)
"""In place of an array that says of each event how far it got."""


class Preselected(NamedTuple):
    """Events with enough leptons that pass some cuts, and these leptons.

    ``offsets`` (n_events + 1,) int64: where the leptons of an event start, muons first, ``muons`` (n_events,) of them.
    ``stored_muons``, ``stored_electrons`` (n_events,): how many of each the event has in its file. ``leptons``
    (n_leptons,) `rules.EVENT`; ``isolation``, ``dxy``, ``dz`` float32 and ``sip`` float64, absolute values. ``bare``:
    the leptons without the photons that they have radiated, (n_leptons,); empty where photons are not recovered.
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
    bare: npt.NDArray[Any]


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


# --- Preselection


@inner_rule
def mark_good(leptons, first, last, pt_min, eta_max, isolation_max, cuts, marks):
    """Leave the marks of the good ones of the leptons [first, last) only; return how many they are."""
    n = 0
    for i in range(first, last):
        marks[i] &= is_good(leptons, i, pt_min, eta_max, isolation_max, cuts)
        n += marks[i]
    return n


@rule
def survey(
    muon_offsets, muons, electron_offsets, electrons, cuts, pt_min, good_muons, good_electrons, kept, possible, invalid
):
    """Leave the marks of the leptons that pass the cuts, with ``pt_min`` (2,) as those on pT.

    ``kept`` (2, n_events) gets their numbers in events that have enough of them, ``possible`` (2, 3) the number of
    events with at least, and with exactly, as many stored leptons as a channel needs, ``invalid`` what `count_invalid`
    counts in those. Returned is the first event with more leptons than `MOST_STORED` or `MOST_GOOD`, or −1.
    """
    for e in range(len(muon_offsets) - 1):
        n_mu, n_e = muon_offsets[e + 1] - muon_offsets[e], electron_offsets[e + 1] - electron_offsets[e]
        if too_few_leptons(n_mu, n_e):
            continue
        if max(n_mu, n_e) > MOST_STORED:
            return e
        count_invalid(muons, muon_offsets[e], muon_offsets[e + 1], invalid[0])
        count_invalid(electrons, electron_offsets[e], electron_offsets[e + 1], invalid[1])
        for channel in range(3):
            for exactly in (False, True):
                possible[int(exactly), channel] += has_enough(n_mu, n_e, channel, exactly)
        n_mu = mark_good(
            muons, muon_offsets[e], muon_offsets[e + 1], pt_min[0], cuts.muon_eta_max, cuts.muon_isolation_max, cuts,
            good_muons,
        )  # fmt: skip
        n_e = mark_good(
            electrons, electron_offsets[e], electron_offsets[e + 1], pt_min[1], cuts.electron_eta_max,
            cuts.electron_isolation_max, cuts, good_electrons,
        )  # fmt: skip
        if cuts.algorithm == OPEN2012 and n_mu + n_e > MOST_GOOD:
            return e
        if not too_few_leptons(n_mu, n_e):
            kept[0, e], kept[1, e] = n_mu, n_e
    return -1


@inner_rule
def keep_leptons(found, n, leptons, first, last, flavour, good):
    """Write the good ones of the leptons [first, last) from index n on; return the index after them."""
    for i in range(first, last):
        if good[i]:
            found.leptons[n].flavour = flavour
            found.leptons[n].place = i
            found.leptons[n].charge = leptons.charge[i]
            set_momentum(found.leptons, n, leptons, i)
            found.isolation[n] = leptons.isolation[i]
            found.dxy[n], found.dz[n] = abs(leptons.dxy[i]), abs(leptons.dz[i])
            found.sip[n] = sip(leptons, i)
            n += 1
    return n


@rule
def keep_events(which, muon_offsets, muons, electron_offsets, electrons, good_muons, good_electrons, found):
    """Write the good leptons of the events ``which``."""
    for number in range(len(which)):
        e, n = which[number], found.offsets[number]
        found.stored_muons[number] = muon_offsets[e + 1] - muon_offsets[e]
        found.stored_electrons[number] = electron_offsets[e + 1] - electron_offsets[e]
        # A constant would be a type of its own: compiled twice.
        n = keep_leptons(found, n, muons, muon_offsets[e], muon_offsets[e + 1], np.int64(MUON), good_muons)
        keep_leptons(
            found, n, electrons, electron_offsets[e], electron_offsets[e + 1], np.int64(ELECTRON), good_electrons
        )


def preselect(leptons: Leptons, cuts: Any, *, any_pt: bool) -> tuple[Preselected, Integers, Integers, Integers]:
    """Keep the leptons that pass the cuts (`rules.Cuts`) on leptons, in events with enough of them for a channel.

    With ``any_pt`` the cuts on pT are left out.

    Returns
    -------
    tuple
        `Preselected`; the index of each of its events in the chunk, (n,) int64; the number of events with enough stored
        leptons in each channel, at least and exactly, (2, 3) int64; the number of muons and electrons with an invalid
        value of each quantity (`Selection.quantities`), in events with enough leptons, (2, n_quantities) int64.

    Raises
    ------
    UnreadableError
        If an event has more leptons than any collision gives; names the event.
    """
    muons, electrons = columns_of(leptons, "muon"), columns_of(leptons, "electron")
    columns = (leptons.muon_offsets, muons, leptons.electron_offsets, electrons)
    good = tuple(passing(leptons, flavour, cuts.sip_max) for flavour in ("muon", "electron"))
    kept, possible = np.zeros((2, leptons.n_events), np.int16), np.zeros((2, 3), np.int64)
    invalid = np.zeros((2, len(QUANTITIES)), np.int64)
    pt_min = np.array([-np.inf, -np.inf] if any_pt else [cuts.muon_pt_min, cuts.electron_pt_min])
    too_many = survey(*columns, cuts, pt_min, *good, kept, possible, invalid)
    if too_many >= 0:
        raise _too_many_leptons(leptons, too_many)
    which = np.flatnonzero(kept[0] | kept[1])
    muons_kept = kept[0, which]
    offsets = np.concatenate(([0], np.cumsum(muons_kept + kept[1, which], dtype=np.int64)))
    n = int(offsets[-1])
    found = Preselected(
        offsets, muons_kept, np.empty(len(which), np.int16), np.empty(len(which), np.int16), np.empty(n, EVENT),
        np.empty(n, np.float32), np.empty(n, np.float32), np.empty(n, np.float32), np.empty(n), np.empty(0, EVENT),
    )  # fmt: skip
    keep_events(which, *columns, *good, found)
    return with_options(found, leptons), which, possible, np.hstack([invalid, *count_options(leptons)])


def _too_many_leptons(leptons: Leptons, e: int) -> UnreadableError:
    n_mu, n_e = (int(np.diff(offsets[e : e + 2])[0]) for offsets in (leptons.muon_offsets, leptons.electron_offsets))
    return UnreadableError(
        f"run {leptons.run[e]}, luminosity block {leptons.luminosity_block[e]}, event {leptons.event[e]} has {n_mu} "
        f"muons and {n_e} electrons; at most {MOST_GOOD} good ones can be paired",
        "No collision gives so many: the file may be damaged. Leave it out, or tighten the cuts on leptons.",
    )


def join(parts: list[Preselected]) -> Preselected:
    """Concatenate the events of several chunks."""
    before = np.cumsum([0, *(part.offsets[-1] for part in parts)])
    offsets = [part.offsets[:-1] + start for part, start in zip(parts, before[:-1], strict=True)]
    columns = [np.concatenate(columns) for columns in zip(*(part[1:] for part in parts), strict=True)]
    return Preselected(np.concatenate([*offsets, before[-1:]]), *columns)


# --- Which leptons are good


@rule
def flag_leptons(leptons, isolations, dxys, dzs, sips, cuts, first, last, flags):
    """Set the quality flags (`WELL_MEASURED`, `HARD`) of the leptons [first, last)."""
    for i in range(first, last):
        muon, pt, eta, sip = leptons[i].flavour == MUON, leptons[i].pt, abs(leptons[i].eta), sips[i]
        isolation, dxy, dz = np.float64(isolations[i]), np.float64(dxys[i]), np.float64(dzs[i])
        pt_min = cuts.muon_pt_min if muon else cuts.electron_pt_min
        eta_max = cuts.muon_eta_max if muon else cuts.electron_eta_max
        isolation_max = cuts.muon_isolation_max if muon else cuts.electron_isolation_max
        prompt = (dxy < cuts.dxy_max) & (dz < cuts.dz_max) & (sip < cuts.sip_max)
        measured = prompt & (eta < eta_max) & (isolation < isolation_max)
        flags[i] = WELL_MEASURED * measured + HARD * (pt > pt_min)


@inner_rule
def take_flagged(event, n, leptons, first, last, flags, wanted):
    """Append those of the leptons [first, last) that have all wanted flags; return the new length of the event."""
    for i in range(first, last):
        if (flags[i] & wanted) == wanted:
            event[n] = leptons[i]
            event[n].place = i
            n += 1
    return n


# --- Pairing


@inner_rule
def measure(event, four, channel, row):
    """Write what cuts are compared with, if any two leptons may pass the pT cuts and all pairs have to be apart."""
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
                        four = zz_candidate(event, i, j, k, m, masses[0], masses[1], z_mass)
                        n = make_room(event, four, start, stop, z_mass, rows)
                        measure(event, four, channel_of(event, four), rows[n])
                        rows[n].a, rows[n].b, rows[n].c, rows[n].d = four.a, four.b, four.c, four.d
                        stop += 1


@inner_rule
def make_room(event, four, start, stop, z_mass, rows):
    """Make room for a pairing among the rows [start, stop) of its event, which are in order; return its index.

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


@inner_rule
def pair_channel(event, n_muons, n_leptons, channel, cuts, pick):
    """Return the one pairing of the good leptons in a channel (a = −1: none), and whether their charges allow one."""
    none, whole_event = ZZCandidate(-1, -1, -1, -1, 0.0, 0.0), cuts.algorithm == DF103
    n_groups = 2 if channel == TWO_EACH else 1
    size = 4 // n_groups
    if whole_event and (total_charge(event[:n_muons]) != 0 or total_charge(event[n_muons:n_leptons]) != 0):
        return none, False
    for group in range(n_groups):
        first, last = group * n_muons, n_muons if n_groups == 2 and group == 0 else n_leptons
        if whole_event:
            for i in range(size):
                pick[group * size + i] = first + i
        else:
            pick_hardest(event, first, last, pick, group * size, size)
    if channel == TWO_EACH:
        # df103 has seen the charges of all electrons and of all muons, which may be more than two.
        if not whole_event and not (opposite(event, pick[0], pick[1]) and opposite(event, pick[2], pick[3])):
            return none, False
        masses = pair_mass(event, pick[0], pick[1]), pair_mass(event, pick[2], pick[3])
        return zz_candidate(event, pick[0], pick[1], pick[2], pick[3], masses[0], masses[1], cuts.z_mass), True
    if event[pick[0]].charge + event[pick[1]].charge + event[pick[2]].charge + event[pick[3]].charge != 0:
        return none, False
    return best_pairing(event, pick, cuts.z_mass, whole_event and cuts.integer_pairing), True


@inner_rule
def two_hardest(event):
    """Return the two largest pT of some leptons."""
    leading = subleading = -math.inf
    for lepton in event:
        subleading = max(subleading, min(lepton.pt, leading))
        leading = max(leading, lepton.pt)
    return leading, subleading


@inner_rule
def correct_rules(event, four, n_muons, n_leptons, channel, cuts, row):
    """Replace what ``aod2012`` and ``df103`` compare their pT and ΔR cuts with, where it is something else."""
    if cuts.algorithm != DF103:
        row.leading, row.subleading = event[four.a].pt, event[four.b].pt
        return
    row.delta_r = min(delta_r(event, four.a, four.b), delta_r(event, four.c, four.d))
    if channel != TWO_EACH:
        row.leading = row.subleading = math.inf
        return
    row.leading, row.subleading = two_hardest(event[:n_muons])
    row.leading_too, row.subleading_too = two_hardest(event[n_muons:n_leptons])


@inner_rule
def gather_channel(found, e, channel, whole_event, flags, event):
    """Collect the good leptons of an event for a channel; return (muons, leptons), negative if they do not suffice."""
    start, middle, stop = found.offsets[e], found.offsets[e] + found.muons[e], found.offsets[e + 1]
    stored_muons, stored_electrons, leptons = found.stored_muons[e], found.stored_electrons[e], found.leptons
    wanted = WELL_MEASURED if whole_event and channel == TWO_EACH else GOOD
    n_mu = n_all = np.int64(0)
    if channel != FOUR_ELECTRONS:
        n_mu = n_all = take_flagged(event, n_mu, leptons, start, middle, flags, wanted)
        if whole_event and n_mu < stored_muons:
            return -1, -1
    if channel != FOUR_MUONS:
        n_all = take_flagged(event, n_mu, leptons, middle, stop, flags, wanted)
        if whole_event and n_all - n_mu < stored_electrons:
            return -1, -1
    enough = has_enough(n_mu, n_all - n_mu, channel, whole_event)
    return (n_mu, n_all) if enough else (-1, -1)


@rule
def pair_by_channel(found, first, last, cuts, wanted, largest, flags, pairings, candidates, passed, reached):
    """Pair the good leptons of the events [first, last) in each wanted channel by itself: one row each at most.

    Fill ``candidates`` (n, 2) with (event, row), ``passed`` (3, len(Cut)) with how many events got how far, and
    ``reached`` (n_events, 3), if it is not empty, with how far each of them got; return n.
    """
    event, pick, whole_event = np.empty(largest, EVENT), np.empty(4, np.int64), cuts.algorithm == DF103
    starts, stops, rows, n_candidates = pairings.starts, pairings.stops, pairings.rows, 0
    offsets, muons = found.offsets, found.muons
    for e in range(first, last):
        n, start, n_mu = starts[e], offsets[e], np.int64(muons[e])
        n_e = offsets[e + 1] - start - n_mu
        for channel in range(3):
            if not wanted[channel] or not has_enough(n_mu, n_e, channel, whole_event):
                continue
            good_mu, n_all = gather_channel(found, e, channel, whole_event, flags, event)
            if good_mu < 0:
                continue
            four, charges_allow = pair_channel(event, good_mu, n_all, channel, cuts, pick)
            cut = np.int64(Cut.CHARGE if charges_allow else Cut.GOOD_LEPTONS)
            passed[channel, cut] += 1
            if len(reached):
                reached[e, channel] = cut
            if four.a >= 0:
                row = rows[n]
                measure(event, four, channel, row)
                correct_rules(event, four, good_mu, n_all, channel, cuts, row)
                row.a, row.b = event[four.a].place - start, event[four.b].place - start
                row.c, row.d = event[four.c].place - start, event[four.d].place - start
                candidates[n_candidates, 0], candidates[n_candidates, 1] = e, n
                n, n_candidates = n + 1, n_candidates + 1
        stops[e] = n
    return n_candidates


@rule
def list_good(offsets, muons, first, last, flags, starts, stops, rows, candidates, passed, reached):
    """List the pairings of good leptons among those of ``open2012``; like `pair_by_channel`."""
    n, at_least = 0, np.bool_(False)  # as a plain constant it would be a type of its own: compiled twice
    for e in range(first, last):
        start, middle, stop, n_mu, n_e = offsets[e], offsets[e] + muons[e], offsets[e + 1], 0, 0
        for i in range(start, middle):
            n_mu += flags[i] == GOOD
        for i in range(middle, stop):
            n_e += flags[i] == GOOD
        if too_few_leptons(n_mu, n_e):
            continue
        for channel in range(3):
            enough = has_enough(n_mu, n_e, channel, at_least)
            cut = np.int64(Cut.GOOD_LEPTONS if enough else Cut.LEPTONS)  # numba < 0.68 takes no enum as an index
            passed[channel, cut] += 1
            if len(reached):
                reached[e, channel] = cut
        for k in range(starts[e], stops[e]):
            row = rows[k]
            a, b, c, d = start + row.a, start + row.b, start + row.c, start + row.d
            if (flags[a] & flags[b] & flags[c] & flags[d]) == GOOD:
                candidates[n, 0], candidates[n, 1] = e, k
                n += 1
    return n


@rule
def find_bins(rows, first, last, edges, ends, widths):
    """Write where the masses of the rows [first, last) are in the histograms."""
    for n in range(first, last):
        masses = (rows[n].mass_4l, rows[n].mass_4l, rows[n].mass_z1, rows[n].mass_z2)
        before = 0
        for k in range(4):
            rows[n].bins[k] = before + find_bin(masses[k], edges, ends[k, 0], ends[k, 1], True)
            before += widths[k]


def count_all(found: Preselected) -> Integers:
    """Return how many pairings each event has in ``open2012``, (n_events,) int64: what `pair_all` makes room for."""
    numbers = np.empty(len(found.muons), np.int64)
    count_open2012(found.offsets, found.leptons, numbers)
    return numbers


def pair_all(found: Preselected, numbers: Integers, z_mass: float) -> Pairings:
    """Return the pairings of ``open2012``: every two Z candidates that share no lepton, good or not."""
    stops = np.cumsum(numbers)
    pairings = Pairings(stops - numbers, stops, np.zeros(numbers.sum(), PAIRING))
    pair_open2012(found.offsets, found.leptons, 0, len(numbers), z_mass, pairings.starts, pairings.rows)
    return pairings


def room(found: Preselected) -> Pairings:
    """Return empty `Pairings` for ``aod2012`` and ``df103``: one row for each channel with enough leptons."""
    n_mu, n_e = found.muons.astype(np.int64), np.diff(found.offsets) - found.muons
    numbers = (n_mu >= 4).astype(np.int64) + (n_e >= 4) + ((n_mu >= 2) & (n_e >= 2))
    stops = np.cumsum(numbers)
    return Pairings(stops - numbers, stops, np.zeros(numbers.sum(), PAIRING))


def list_candidates(
    found: Preselected,
    first: int,
    last: int,
    cuts: Any,
    wanted: npt.NDArray[np.bool_],
    flags: npt.NDArray[np.uint8],
    pairings: Pairings,
    reached: npt.NDArray[np.int8] = NOT_WANTED,
) -> tuple[npt.NDArray[np.int32], Integers]:
    """List the pairings of good leptons in the events [first, last); for ``aod2012`` and ``df103``, make them.

    ``reached`` (n_events, 3), unless it is empty, gets the last passed cut of each event.

    Returns
    -------
    tuple
        The candidates, (n, 2) int32: event and row of ``pairings``; the number of events whose last passed cut was
        each one before those on pairs, (3, len(Cut)) int64.
    """
    stop = pairings.starts[last] if last < len(pairings.starts) else len(pairings.rows)
    start = pairings.starts[first] if first < last else stop
    candidates, passed = np.empty((int(stop - start), 2), np.int32), np.zeros((len(CHANNELS), len(Cut)), np.int64)
    if cuts.algorithm == OPEN2012:
        n = list_good(found.offsets, found.muons, first, last, flags, *pairings, candidates, passed, reached)
    else:
        largest = int(np.diff(found.offsets[first : last + 1]).max(initial=0))
        n = pair_by_channel(found, first, last, cuts, wanted, largest, flags, pairings, candidates, passed, reached)
    return candidates[:n], passed


# --- What passes


@rule
def choose(candidates, rows, cuts, one_per_event, passed, counts, selected, reached):
    """Apply the cuts on pairings to the candidates, event by event.

    ``passed`` (3, len(Cut)) knows already how many events got to these cuts; events that get further are moved there,
    also in ``reached`` (n_events, 3), if it is not empty.
    ``counts`` (3, bins) gets the selected ones, ``selected`` (n, 2) their (event, row); returned is n.
    """
    k, n, furthest = 0, 0, np.empty(3, np.int64)
    before = np.int64(Cut.GOOD_LEPTONS if one_per_event else Cut.CHARGE)
    while k < len(candidates):
        event, is_found = candidates[k, 0], False
        furthest[:] = -1
        while k < len(candidates) and candidates[k, 0] == event:
            row = candidates[k, 1]
            channel, cut = rows[row].channel, last_passed_cut(rows[row], cuts)
            if cut == Cut.MASS_4L and not (one_per_event and is_found):
                is_found, furthest[channel] = True, Cut.BEST_CANDIDATE
                selected[n, 0], selected[n, 1] = event, row
                for bin_index in rows[row].bins:
                    counts[channel, bin_index] += 1
                n += 1
            elif cut > furthest[channel]:
                furthest[channel] = cut
            k += 1
        for channel in range(3):
            if furthest[channel] >= 0:
                passed[channel, before] -= 1
                passed[channel, furthest[channel]] += 1
                if len(reached):
                    reached[event, channel] = furthest[channel]
    return n


@rule
def list_passing(candidates, rows, cuts, passing):
    """Mark the candidates that pass all cuts on pairings."""
    for k in range(len(candidates)):
        passing[k] = last_passed_cut(rows[candidates[k, 1]], cuts) == Cut.MASS_4L


def cutflow(passed: Integers, n_events: int, enough_stored: Integers, channels: tuple[int, ...]) -> Integers:
    """Return the number of events that passed each cut and all before, (3, len(Cut)) int64; 0 in other channels.

    ``passed`` (3, len(Cut)) counts the events whose last passed cut was this one, those not preselected left out;
    ``n_events`` is the number of events read, ``enough_stored`` (3,) of those with enough stored leptons.
    """
    flow = passed[:, ::-1].cumsum(axis=1)[:, ::-1]
    flow[:, Cut.ALL], flow[:, Cut.LEPTONS], flow[:, Cut.UNIQUE] = n_events, enough_stored, flow[:, Cut.BEST_CANDIDATE]
    flow[[channel for channel in range(len(CHANNELS)) if channel not in channels]] = 0
    return flow
