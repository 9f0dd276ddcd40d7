"""The slow, obvious twin of the selection kernel: one event at a time, plain Python, float64.

It is written from the text of the selections alone and shares no code with the package, so that an error in one of the
two shows as a disagreement. Read it as the specification in executable form; speed does not matter here.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

MUON, ELECTRON = 13, 11
PDG_MASS = {MUON: 0.1056583755, ELECTRON: 0.00051099895}  # GeV, PDG 2022; for schemas that store no mass
SENTINEL = -999.0

CHANNELS = ("4mu", "4e", "2e2mu")
CHANNELS_OF_PRIMARY_DATASET = {
    None: CHANNELS,
    "DoubleMu": ("4mu", "2e2mu"),
    "DoubleElectron": ("4e",),
}
STAGES = (
    "all",
    "leptons",
    "good leptons",
    "charge",
    "z1 mass",
    "z2 mass",
    "lepton pt",
    "delta r",
    "dilepton mass",
    "mass 4l",
    "best candidate",
)
COLUMNS = ("pt", "eta", "phi", "mass", "charge", "isolation", "dxy", "dxy_error", "dz", "dz_error")


@dataclass(frozen=True)
class Lepton:
    """One stored lepton. Momenta in GeV, lengths in cm; None where the schema has no such quantity."""

    flavour: int
    index: int  # position in the flat column of its flavour
    pt: float
    eta: float
    phi: float
    mass: float
    charge: float
    isolation: float | None = None
    dxy: float | None = None
    dxy_error: float | None = None
    dz: float | None = None
    dz_error: float | None = None


@dataclass(frozen=True)
class Event:
    """Everything a selection looks at in one collision; leptons in stored order."""

    muons: tuple[Lepton, ...]
    electrons: tuple[Lepton, ...]


Pair = tuple[Lepton, Lepton]


@dataclass(frozen=True)
class Candidate:
    """Two disjoint pairs, each with its harder lepton first."""

    channel: str
    z1: Pair
    z2: Pair

    @property
    def leptons(self) -> tuple[Lepton, Lepton, Lepton, Lepton]:
        return (*self.z1, *self.z2)

    @property
    def key(self) -> tuple[str, tuple[tuple[int, int], ...]]:
        """The channel, and flavour and index of the four: Z1 harder, Z1 softer, Z2 harder, Z2 softer."""
        return self.channel, tuple((lepton.flavour, lepton.index) for lepton in self.leptons)

    @property
    def mass_4l(self) -> float:
        return mass(*self.leptons)

    @property
    def mass_z1(self) -> float:
        return mass(*self.z1)

    @property
    def mass_z2(self) -> float:
        return mass(*self.z2)


@dataclass
class Outcome:
    """What a selection makes of one event."""

    selected: list[Candidate] = field(default_factory=list)
    furthest: dict[str, int] = field(default_factory=dict)  # channel -> index into STAGES; no entry: not looked at


# Events out of flat columns


def read_events(leptons: Any) -> Iterator[Event]:
    """Walk the events of a chunk (anything with the attributes of ``higgsnb.selection.Leptons``)."""
    muons = _flavour(leptons, "muon", MUON)
    electrons = _flavour(leptons, "electron", ELECTRON)
    for i in range(len(leptons.event)):
        yield Event(
            muons=tuple(muons[leptons.muon_offsets[i] : leptons.muon_offsets[i + 1]]),
            electrons=tuple(electrons[leptons.electron_offsets[i] : leptons.electron_offsets[i + 1]]),
        )


def _flavour(leptons: Any, prefix: str, flavour: int) -> list[Lepton]:
    columns: dict[str, list[float]] = {}
    for name in COLUMNS:
        column = getattr(leptons, f"{prefix}_{name}", None)
        if column is not None:
            columns[name] = [float(value) for value in column]
    columns.setdefault("mass", [PDG_MASS[flavour]] * len(columns["pt"]))
    return [
        Lepton(flavour, index, **{name: column[index] for name, column in columns.items()})
        for index in range(len(columns["pt"]))
    ]


# Kinematics


def four_momentum(lepton: Lepton) -> tuple[float, float, float, float]:
    px = lepton.pt * math.cos(lepton.phi)
    py = lepton.pt * math.sin(lepton.phi)
    pz = lepton.pt * math.sinh(lepton.eta)
    return math.sqrt(px * px + py * py + pz * pz + lepton.mass * lepton.mass), px, py, pz


def mass(*leptons: Lepton) -> float:
    """Invariant mass in GeV."""
    energy, px, py, pz = (math.fsum(parts) for parts in zip(*map(four_momentum, leptons), strict=True))
    return math.sqrt(max(energy * energy - px * px - py * py - pz * pz, 0.0))


def delta_r(a: Lepton, b: Lepton) -> float:
    """Angular distance, the azimuth taken the short way round."""
    turn = abs(a.phi - b.phi) % (2.0 * math.pi)
    return math.hypot(a.eta - b.eta, min(turn, 2.0 * math.pi - turn))


def harder_first(a: Lepton, b: Lepton) -> Pair:
    """By transverse momentum; equal ones stay in the order given."""
    return (a, b) if a.pt >= b.pt else (b, a)


# Object cuts


def exists(value: float) -> bool:
    """Neither the sentinel nor NaN nor infinite."""
    return math.isfinite(value) and value != SENTINEL


def possible(name: str, value: float) -> bool:
    """Whether a lepton can have this value in this column."""
    return value in (1.0, -1.0) if name == "charge" else exists(value)


def is_good(lepton: Lepton, cuts: Any, *, pt_floor: bool = True) -> bool:
    muon = lepton.flavour == MUON
    pt_min = cuts.muon_pt_min if muon else cuts.electron_pt_min
    eta_max = cuts.muon_eta_max if muon else cuts.electron_eta_max
    isolation_max = cuts.muon_isolation_max if muon else cuts.electron_isolation_max
    if not all(possible(name, getattr(lepton, name)) for name in ("pt", "eta", "phi", "mass", "charge")):
        return False
    if pt_floor and not lepton.pt > pt_min:
        return False
    if not abs(lepton.eta) < eta_max:
        return False
    if lepton.isolation is not None and not (exists(lepton.isolation) and lepton.isolation < isolation_max):
        return False
    return comes_from_collision(lepton, cuts)


def comes_from_collision(lepton: Lepton, cuts: Any) -> bool:
    """Small transverse and longitudinal impact parameters, and small in units of their errors."""
    for value, largest in ((lepton.dxy, cuts.dxy_max), (lepton.dz, cuts.dz_max)):
        if value is not None and not (exists(value) and abs(value) < largest):
            return False
    if lepton.dxy is None or lepton.dz is None or lepton.dxy_error is None or lepton.dz_error is None:
        return True
    errors = (lepton.dxy_error, lepton.dz_error)
    if not all(map(exists, errors)) or min(errors) < 0 or max(errors) == 0:
        return False
    return bool(math.hypot(lepton.dxy, lepton.dz) / math.hypot(*errors) < cuts.sip_max)


# Stages that every selection shares, each on one candidate


def in_z1_window(candidate: Candidate, cuts: Any) -> bool:
    return bool(cuts.z1_mass_min < candidate.mass_z1 < cuts.z1_mass_max)


def in_z2_window(candidate: Candidate, cuts: Any) -> bool:
    return bool(cuts.z2_mass_min < candidate.mass_z2 < cuts.z2_mass_max)


def two_hardest_pass(leptons: Sequence[Lepton], cuts: Any) -> bool:
    first, second = sorted((lepton.pt for lepton in leptons), reverse=True)[:2]
    return bool(first > cuts.lepton_pt_leading and second > cuts.lepton_pt_subleading)


def pt_rule(candidate: Candidate, event: Event, cuts: Any) -> bool:
    if cuts.algorithm == "open2012":
        return two_hardest_pass(candidate.leptons, cuts)
    if cuts.algorithm == "aod2012":
        return two_hardest_pass(candidate.z1, cuts)
    if candidate.channel != "2e2mu":
        return True
    return two_hardest_pass(event.muons, cuts) or two_hardest_pass(event.electrons, cuts)


def apart(candidate: Candidate, cuts: Any) -> bool:
    if cuts.delta_r_min == 0:
        return True
    within_z = (candidate.z1, candidate.z2)
    pairs = within_z if cuts.algorithm == "df103" else tuple(combinations(candidate.leptons, 2))
    return all(delta_r(a, b) > cuts.delta_r_min for a, b in pairs)


def no_light_pair(candidate: Candidate, cuts: Any) -> bool:
    if cuts.dilepton_mass_min == 0:
        return True
    pairs = combinations(candidate.leptons, 2)
    return all(mass(a, b) > cuts.dilepton_mass_min for a, b in pairs if a.charge != b.charge)


def heavy(candidate: Candidate, cuts: Any) -> bool:
    return bool(cuts.mass_4l_min == 0 or candidate.mass_4l > cuts.mass_4l_min)


def furthest_of_candidate(candidate: Candidate, event: Event, cuts: Any) -> int:
    """Index into STAGES of the last one passed; a candidate exists, so it has passed ``charge``."""
    passed = STAGES.index("charge")
    stages: tuple[Callable[[], bool], ...] = (
        lambda: in_z1_window(candidate, cuts),
        lambda: in_z2_window(candidate, cuts),
        lambda: pt_rule(candidate, event, cuts),
        lambda: apart(candidate, cuts),
        lambda: no_light_pair(candidate, cuts),
        lambda: heavy(candidate, cuts),
    )
    for stage in stages:
        if not stage():
            return passed
        passed += 1
    return passed


# The three selections: which leptons, which charge rule, which pairings


def enough(n_muons: int, n_electrons: int, channel: str, *, exactly: bool = False) -> bool:
    if channel == "2e2mu":
        return n_muons >= 2 and n_electrons >= 2
    n = n_muons if channel == "4mu" else n_electrons
    return n == 4 if exactly else n >= 4


def needed(event: Event, channel: str) -> tuple[Lepton, ...]:
    """All stored leptons of the flavours that a channel uses."""
    return {"4mu": event.muons, "4e": event.electrons, "2e2mu": event.muons + event.electrons}[channel]


def ordered(channel: str, a: Pair, b: Pair, cuts: Any) -> Candidate:
    """Z1 is the pair nearer the Z; with equal distances the first one given."""
    first, second = harder_first(*a), harder_first(*b)
    if abs(mass(*b) - cuts.z_mass) < abs(mass(*a) - cuts.z_mass):
        first, second = second, first
    return Candidate(channel, first, second)


def nearest_pairing(channel: str, four: Sequence[Lepton], cuts: Any) -> Candidate:
    """The opposite-sign pair nearest the Z is Z1, the two others are Z2."""
    best: Pair | None = None
    for a, b in combinations(four, 2):
        closer = best is None or abs(mass(a, b) - cuts.z_mass) < abs(mass(*best) - cuts.z_mass)
        if a.charge != b.charge and closer:
            best = (a, b)
    if best is None:
        raise ValueError("four leptons of one charge have no opposite-sign pair; check the charges first")
    return ordered(channel, best, rest(four, best), cuts)


def integer_pairing(channel: str, four: Sequence[Lepton], cuts: Any) -> Candidate | None:
    """As the tutorial's C++: the mass of the best pair so far is kept in an ``int`` that starts at -1."""
    best: Pair | None = None
    best_mass = -1
    for a, b in combinations(four, 2):
        if a.charge != b.charge and abs(mass(a, b) - cuts.z_mass) < abs(best_mass - cuts.z_mass):
            best, best_mass = (a, b), int(mass(a, b))
    return None if best is None else ordered(channel, best, rest(four, best), cuts)


def rest(four: Sequence[Lepton], pair: Pair) -> Pair:
    c, d = (lepton for lepton in four if lepton not in pair)
    return c, d


def neutral(leptons: Sequence[Lepton]) -> bool:
    return sum(lepton.charge for lepton in leptons) == 0


def by_pt(leptons: Sequence[Lepton]) -> list[Lepton]:
    """Hardest first; equal ones in stored order."""
    return sorted(leptons, key=lambda lepton: -lepton.pt)


def good_of(leptons: Sequence[Lepton], cuts: Any) -> list[Lepton]:
    return [lepton for lepton in leptons if is_good(lepton, cuts)]


def explore_aod2012(event: Event, channel: str, cuts: Any) -> tuple[int, list[Candidate]]:
    """The four good leptons of highest pT (2e2mu: two and two)."""
    if not enough(len(event.muons), len(event.electrons), channel):
        return STAGES.index("all"), []
    muons, electrons = by_pt(good_of(event.muons, cuts)), by_pt(good_of(event.electrons, cuts))
    if not enough(len(muons), len(electrons), channel):
        return STAGES.index("leptons"), []
    if channel == "2e2mu":
        if not (neutral(muons[:2]) and neutral(electrons[:2])):
            return STAGES.index("good leptons"), []
        return STAGES.index("charge"), [ordered(channel, (muons[0], muons[1]), (electrons[0], electrons[1]), cuts)]
    four = (muons if channel == "4mu" else electrons)[:4]
    if not neutral(four):
        return STAGES.index("good leptons"), []
    return STAGES.index("charge"), [nearest_pairing(channel, four, cuts)]


def explore_df103(event: Event, channel: str, cuts: Any) -> tuple[int, list[Candidate]]:
    """Every lepton of the event must be good; the first two stored of each flavour in 2e2mu."""
    if not enough(len(event.muons), len(event.electrons), channel, exactly=True):
        return STAGES.index("all"), []
    if not all(is_good(lepton, cuts, pt_floor=channel != "2e2mu") for lepton in needed(event, channel)):
        return STAGES.index("leptons"), []
    if channel == "2e2mu":
        if not (neutral(event.muons) and neutral(event.electrons)):
            return STAGES.index("good leptons"), []
        muons, electrons = event.muons[:2], event.electrons[:2]
        return STAGES.index("charge"), [ordered(channel, (muons[0], muons[1]), (electrons[0], electrons[1]), cuts)]
    four = needed(event, channel)
    if not neutral(four):
        return STAGES.index("good leptons"), []
    pairing = integer_pairing if cuts.integer_pairing else nearest_pairing
    candidate = pairing(channel, four, cuts)
    return STAGES.index("charge"), [] if candidate is None else [candidate]


def explore_open2012(event: Event, channel: str, cuts: Any) -> tuple[int, list[Candidate]]:
    """All pairs of opposite-sign same-flavour pairs that share no lepton."""
    if not enough(len(event.muons), len(event.electrons), channel):
        return STAGES.index("all"), []
    muons, electrons = good_of(event.muons, cuts), good_of(event.electrons, cuts)
    if not enough(len(muons), len(electrons), channel):
        return STAGES.index("leptons"), []
    mumu = [pair for pair in combinations(muons, 2) if neutral(pair)]
    ee = [pair for pair in combinations(electrons, 2) if neutral(pair)]
    if channel == "2e2mu":
        both = [(a, b) for a in mumu for b in ee]
    else:
        both = list(combinations(mumu if channel == "4mu" else ee, 2))
    candidates = [ordered(channel, a, b, cuts) for a, b in both if not set(a) & set(b)]
    return STAGES.index("charge" if candidates else "good leptons"), candidates


EXPLORE = {"open2012": explore_open2012, "aod2012": explore_aod2012, "df103": explore_df103}


def best_of(candidates: Sequence[Candidate], cuts: Any) -> Candidate:
    """Z1 nearest the Z, then the largest scalar pT sum of Z2, then the first."""
    return min(
        candidates,
        key=lambda candidate: (
            abs(candidate.mass_z1 - cuts.z_mass),
            -(candidate.z2[0].pt + candidate.z2[1].pt),
        ),
    )


def select_event(event: Event, cuts: Any, primary_dataset: str | None = None) -> Outcome:
    """Apply one selection (anything with the attributes of ``higgsnb.selection.Selection``) to one event."""
    outcome = Outcome()
    passed: list[Candidate] = []
    for channel in CHANNELS if cuts.algorithm == "open2012" else CHANNELS_OF_PRIMARY_DATASET[primary_dataset]:
        reached, candidates = EXPLORE[cuts.algorithm](event, channel, cuts)
        for candidate in candidates:
            stage = furthest_of_candidate(candidate, event, cuts)
            reached = max(reached, stage)
            if stage == STAGES.index("mass 4l"):
                passed.append(candidate)
        outcome.furthest[channel] = reached
    if cuts.algorithm == "open2012" and passed:
        passed = [best_of(passed, cuts)]
    for candidate in passed:
        outcome.furthest[candidate.channel] = STAGES.index("best candidate")
    outcome.selected = passed
    return outcome


def select(leptons: Any, cuts: Any, primary_dataset: str | None = None) -> list[Outcome]:
    """Apply one selection to every event of a chunk."""
    return [select_event(event, cuts, primary_dataset) for event in read_events(leptons)]


def cutflow(outcomes: Sequence[Outcome]) -> list[list[int]]:
    """Events per channel (rows) that have passed each stage (columns) and all before it."""
    return [
        [sum(outcome.furthest.get(channel, -1) >= stage for outcome in outcomes) for stage in range(len(STAGES))]
        for channel in CHANNELS
    ]


def unusable(leptons: Any) -> dict[int, Counter[str]]:
    """Per flavour, how many leptons have a value in each column that none can have, in events with enough leptons."""
    counts: dict[int, Counter[str]] = {MUON: Counter(), ELECTRON: Counter()}
    for event in read_events(leptons):
        if not any(enough(len(event.muons), len(event.electrons), channel) for channel in CHANNELS):
            continue
        for lepton in event.muons + event.electrons:
            stored = {name: value for name in COLUMNS if (value := getattr(lepton, name)) is not None}
            counts[lepton.flavour].update(name for name, value in stored.items() if not possible(name, value))
    return counts
