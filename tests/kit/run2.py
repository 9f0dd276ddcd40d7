"""The slow, obvious twin of the selection ``run2``, and events in NanoAOD's columns that reach each branch of it.

As `oracle`, whose kinematics it uses, it shares no code with the package, nor numbers with its ``selections.toml``: one
event at a time, plain Python, float64 from values that a float32 can hold.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Any

import generators as made
import numpy as np
import numpy.typing as npt
from oracle import ELECTRON, MUON

STAGES = (
    "all", "preselected", "leptons", "good leptons", "charge", "z1 mass", "z2 mass", "lepton pt", "delta r",
    "dilepton mass", "mass 4l", "smart cut", "best candidate",
)  # fmt: skip
CHANNELS = ("4mu", "4e", "2e2mu")
Z_MASS = 91.1876
PATHS = {
    "DoubleEG": (
        "HLT_Ele23_Ele12_CaloIdL_TrackIdL_IsoVL", "HLT_Ele23_Ele12_CaloIdL_TrackIdL_IsoVL_DZ",
        "HLT_Ele17_Ele12_CaloIdL_TrackIdL_IsoVL", "HLT_Ele17_Ele12_CaloIdL_TrackIdL_IsoVL_DZ",
        "HLT_DoubleEle33_CaloIdL_GsfTrkIdVL", "HLT_DoubleEle33_CaloIdL_GsfTrkIdVL_MW",
        "HLT_Ele16_Ele12_Ele8_CaloIdL_TrackIdL",
    ),
    "DoubleMuon": (
        "HLT_Mu17_TrkIsoVVL_Mu8_TrkIsoVVL", "HLT_Mu17_TrkIsoVVL_Mu8_TrkIsoVVL_DZ",
        "HLT_Mu17_TrkIsoVVL_TkMu8_TrkIsoVVL", "HLT_Mu17_TrkIsoVVL_TkMu8_TrkIsoVVL_DZ",
        "HLT_TkMu17_TrkIsoVVL_TkMu8_TrkIsoVVL", "HLT_TkMu17_TrkIsoVVL_TkMu8_TrkIsoVVL_DZ", "HLT_TripleMu_12_10_5",
    ),
    "MuonEG": (
        "HLT_Mu8_TrkIsoVVL_Ele17_CaloIdL_TrackIdL_IsoVL", "HLT_Mu8_TrkIsoVVL_Ele23_CaloIdL_TrackIdL_IsoVL",
        "HLT_Mu8_TrkIsoVVL_Ele23_CaloIdL_TrackIdL_IsoVL_DZ", "HLT_Mu12_TrkIsoVVL_Ele23_CaloIdL_TrackIdL_IsoVL",
        "HLT_Mu12_TrkIsoVVL_Ele23_CaloIdL_TrackIdL_IsoVL_DZ", "HLT_Mu17_TrkIsoVVL_Ele12_CaloIdL_TrackIdL_IsoVL",
        "HLT_Mu23_TrkIsoVVL_Ele8_CaloIdL_TrackIdL_IsoVL", "HLT_Mu23_TrkIsoVVL_Ele8_CaloIdL_TrackIdL_IsoVL_DZ",
        "HLT_Mu23_TrkIsoVVL_Ele12_CaloIdL_TrackIdL_IsoVL", "HLT_Mu23_TrkIsoVVL_Ele12_CaloIdL_TrackIdL_IsoVL_DZ",
        "HLT_DiMu9_Ele9_CaloIdL_TrackIdL", "HLT_Mu8_DiEle12_CaloIdL_TrackIdL",
        "HLT_Mu30_Ele30_CaloIdL_GsfTrkIdVL", "HLT_Mu33_Ele33_CaloIdL_GsfTrkIdVL",
    ),
    "SingleElectron": ("HLT_Ele25_eta2p1_WPTight_Gsf", "HLT_Ele27_WPTight_Gsf", "HLT_Ele27_eta2p1_WPLoose_Gsf"),
    "SingleMuon": (
        "HLT_IsoMu20", "HLT_IsoMu22", "HLT_IsoMu24", "HLT_IsoTkMu20", "HLT_IsoTkMu22", "HLT_IsoTkMu24",
    ),
}  # fmt: skip
"""Trigger paths by primary dataset, in the order of precedence."""
ABSENT = ("HLT_IsoTkMu20", "HLT_Mu30_Ele30_CaloIdL_GsfTrkIdVL")
"""Paths that the files do not have."""


@dataclass(frozen=True)
class Lepton:
    """A muon or an electron of NanoAOD; what only the other flavour has stays as it is here."""

    flavour: int
    pt: float
    eta: float
    phi: float
    charge: int
    mass: float = 0.0
    dxy: float = 0.01
    dz: float = 0.02
    sip3d: float = 1.0
    isolation: float = 0.05  # pfRelIso03_all
    is_pf: bool = True
    is_global: bool = True
    is_tracker: bool = True
    high_pt_id: int = 0
    medium_id: bool = True
    delta_eta_sc: float = 0.0
    mva: float = 0.99


@dataclass(frozen=True)
class Photon:
    """A photon of the collection FsrPhoton."""

    pt: float
    eta: float
    phi: float
    distance_over_et2: float
    isolation: float
    muon: int


@dataclass(frozen=True)
class Event:
    """One collision."""

    muons: tuple[Lepton, ...] = ()
    electrons: tuple[Lepton, ...] = ()
    photons: tuple[Photon, ...] = ()
    fired: frozenset[str] = frozenset(["HLT_IsoMu24"])
    met: float = 20.0


@dataclass
class Outcome:
    """What the selection makes of an event: the last stage passed by channel, and the candidate."""

    reached: dict[str, str] = field(default_factory=dict)
    key: tuple[str, tuple[tuple[int, int], ...]] | None = None
    masses: tuple[float, float, float] | None = None  # four leptons, Z1, Z2
    all_passing: list[Any] = field(default_factory=list)


# --- The twin


Vector = tuple[float, float, float, float]


def vector(pt: float, eta: float, phi: float, mass: float) -> Vector:
    px, py, pz = pt * math.cos(phi), pt * math.sin(phi), pt * math.sinh(eta)
    return math.sqrt(px * px + py * py + pz * pz + mass * mass), px, py, pz


def mass_of(*vectors: Vector) -> float:
    energy, px, py, pz = (math.fsum(parts) for parts in zip(*vectors, strict=True))
    return math.sqrt(max(energy * energy - px * px - py * py - pz * pz, 0.0))


def distance(a: Any, b: Any) -> float:
    turn = abs(a.phi - b.phi) % math.tau
    return math.hypot(a.eta - b.eta, min(turn, math.tau - turn))


def real(*values: float) -> bool:
    """Whether the values are measured ones."""
    return all(math.isfinite(value) and value != -999.0 for value in values)


def photons_of(event: Event) -> dict[int, Photon]:
    """The photon of each muon, by the index of the muon."""
    chosen: dict[int, Photon] = {}
    for photon in event.photons:
        if not 0 <= photon.muon < len(event.muons):
            continue
        muon = event.muons[photon.muon]
        if not real(photon.pt, photon.eta, photon.phi, photon.distance_over_et2, photon.isolation, muon.eta, muon.phi):
            continue
        if photon.pt <= 2.0 or abs(photon.eta) >= 2.4 or photon.isolation >= 1.8:
            continue
        if photon.distance_over_et2 >= 0.012 or distance(photon, muon) >= 0.5:
            continue
        other = chosen.get(photon.muon)
        rank = (photon.distance_over_et2, -photon.pt)
        if other is None or rank < (other.distance_over_et2, -other.pt):
            chosen[photon.muon] = photon
    return chosen


def isolation_of(muon: Lepton, photons: Iterable[Photon]) -> float:
    """Without the photons around it; kept in single precision."""
    if not (real(muon.isolation, muon.eta, muon.phi) and muon.pt > 0):
        return muon.isolation
    around = math.fsum(photon.pt for photon in photons if 0.01 < distance(photon, muon) < 0.3)
    return float(np.float32(max(muon.isolation - around / muon.pt, 0.0))) if around else muon.isolation


def identified(lepton: Lepton) -> bool:
    if lepton.flavour == MUON:
        loose = lepton.is_global or lepton.is_tracker
        return lepton.is_pf or (loose and lepton.pt > 200.0 and lepton.high_pt_id > 0)
    if not real(lepton.mva, lepton.delta_eta_sc, lepton.eta, lepton.pt):
        return False
    supercluster = abs(lepton.eta + lepton.delta_eta_sc)
    region = 0 if supercluster < 0.8 else 1 if supercluster < 1.479 else 2
    low, high = (0.9128577458, 0.9056792368, 0.9439440575), (0.1559788054, 0.0273863727, -0.5532483665)
    return lepton.mva > (low if lepton.pt <= 10.0 else high)[region]


def is_good(lepton: Lepton, photons: Iterable[Photon]) -> bool:
    muon = lepton.flavour == MUON
    if not real(lepton.pt, lepton.eta, lepton.phi, lepton.mass, lepton.dxy, lepton.dz, lepton.sip3d):
        return False
    isolation = isolation_of(lepton, photons) if muon else 0.0
    return (
        lepton.pt > (5.0 if muon else 7.0)
        and abs(lepton.eta) < (2.4 if muon else 2.5)
        and abs(lepton.charge) == 1
        and abs(lepton.dxy) < 0.5
        and abs(lepton.dz) < 1.0
        and abs(lepton.sip3d) < 4.0
        and real(isolation)
        and isolation < 0.35
        and identified(lepton)
    )


@dataclass(frozen=True)
class Leg:
    """A good lepton: its index among those of its flavour, and its momentum without and with its photon."""

    lepton: Lepton
    index: int
    bare: Vector
    dressed: Vector


@dataclass(frozen=True)
class Candidate:
    """Two pairs, Z1 first, the harder lepton first."""

    channel: str
    legs: tuple[Leg, Leg, Leg, Leg]

    @property
    def pairs(self) -> tuple[tuple[Leg, Leg], tuple[Leg, Leg]]:
        a, b, c, d = self.legs
        return (a, b), (c, d)

    @property
    def masses(self) -> tuple[float, float, float]:
        first, second = (mass_of(*(leg.dressed for leg in pair)) for pair in self.pairs)
        return mass_of(*(leg.dressed for leg in self.legs)), first, second

    @property
    def pt_sums(self) -> tuple[float, float]:
        first, second = (sum(leg.lepton.pt for leg in pair) for pair in self.pairs)
        return first, second


def legs_of(event: Event) -> list[Leg]:
    photons = photons_of(event)
    found = []
    for leptons in (event.muons, event.electrons):
        for index, lepton in enumerate(leptons):
            if is_good(lepton, photons.values()):
                bare = dressed = vector(lepton.pt, lepton.eta, lepton.phi, lepton.mass)
                if lepton.flavour == MUON and index in photons:
                    photon = vector(photons[index].pt, photons[index].eta, photons[index].phi, 0.0)
                    dressed = tuple(map(math.fsum, zip(bare, photon, strict=True)))  # type: ignore[assignment]
                found.append(Leg(lepton, index, bare, dressed))
    return found


def candidates_of(legs: Sequence[Leg]) -> list[Candidate]:
    """All pairs of opposite-sign pairs of one flavour that share no lepton, in the order of `combinations`."""
    pairs = [
        (a, b)
        for a, b in combinations(legs, 2)
        if a.lepton.flavour == b.lepton.flavour and a.lepton.charge + b.lepton.charge == 0
    ]
    found = []
    for one, other in combinations(pairs, 2):
        if {id(leg) for leg in one} & {id(leg) for leg in other}:
            continue
        flavours = {one[0].lepton.flavour, other[0].lepton.flavour}
        channel = "2e2mu" if len(flavours) == 2 else "4mu" if flavours == {MUON} else "4e"
        away = [abs(mass_of(*(leg.dressed for leg in pair)) - Z_MASS) for pair in (one, other)]
        ordered = (one, other) if away[0] <= away[1] else (other, one)
        harder = [pair if pair[0].lepton.pt >= pair[1].lepton.pt else pair[::-1] for pair in ordered]
        found.append(Candidate(channel, (*harder[0], *harder[1])))
    return found


def falls_by_smart_cut(candidate: Candidate) -> bool:
    if candidate.channel == "2e2mu":
        return False
    a, b, c, d = candidate.legs
    other = ((a, c), (b, d)) if a.lepton.charge != c.lepton.charge else ((a, d), (b, c))
    masses = sorted((mass_of(*(leg.dressed for leg in pair)) for pair in other), key=lambda m: abs(m - Z_MASS))
    return abs(masses[0] - Z_MASS) < abs(candidate.masses[1] - Z_MASS) and masses[1] < 12.0


def last_stage(candidate: Candidate, *, smart_cut: bool = True) -> str:
    """The last stage that a candidate passes."""
    mass_4l, mass_z1, mass_z2 = candidate.masses
    pts = sorted((leg.lepton.pt for leg in candidate.legs), reverse=True)
    pairs = list(combinations(candidate.legs, 2))
    light = [mass_of(a.bare, b.bare) for a, b in pairs if a.lepton.charge + b.lepton.charge == 0]
    tests = {
        "z1 mass": 40.0 < mass_z1 < 120.0,
        "z2 mass": 12.0 < mass_z2 < 120.0,
        "lepton pt": pts[0] > 20.0 and pts[1] > 10.0,
        "delta r": all(distance(a.lepton, b.lepton) > 0.02 for a, b in pairs),
        "dilepton mass": min(light) > 4.0,
        "mass 4l": mass_4l > 70.0,
        "smart cut": not (smart_cut and falls_by_smart_cut(candidate)),
    }
    passed = "charge"
    for name, passes in tests.items():
        if not passes:
            return passed
        passed = name
    return passed


def is_triggered(event: Event, primary_dataset: str | None) -> bool:
    paths = [path for name, some in PATHS.items() if primary_dataset in (None, name) for path in some]
    return bool(event.fired & set(paths) - set(ABSENT))


def enough(n_muons: int, n_electrons: int) -> dict[str, bool]:
    return {"4mu": n_muons >= 4, "4e": n_electrons >= 4, "2e2mu": n_muons >= 2 and n_electrons >= 2}


def select_event(event: Event, primary_dataset: str | None = None, *, smart_cut: bool = True) -> Outcome:
    """Apply the selection to an event of a primary dataset, or to a simulated one."""
    outcome = Outcome(dict.fromkeys(CHANNELS, "all"))
    if not is_triggered(event, primary_dataset):
        return outcome
    outcome.reached = dict.fromkeys(CHANNELS, "preselected")
    stored = enough(len(event.muons), len(event.electrons))
    legs = legs_of(event) if any(stored.values()) else []
    n_muons = sum(leg.lepton.flavour == MUON for leg in legs)
    good = enough(n_muons, len(legs) - n_muons)
    for channel in CHANNELS:
        if stored[channel]:
            outcome.reached[channel] = "good leptons" if good[channel] else "leptons"
    candidates = candidates_of(legs)
    for candidate in candidates:
        stage = last_stage(candidate, smart_cut=smart_cut)
        outcome.reached[candidate.channel] = max(outcome.reached[candidate.channel], stage, key=STAGES.index)
        if stage == "smart cut":
            outcome.all_passing.append(candidate)
    if outcome.all_passing:
        best = min(outcome.all_passing, key=lambda c: (abs(c.masses[1] - Z_MASS), -c.pt_sums[1]))
        outcome.reached[best.channel] = "best candidate"
        outcome.key = best.channel, tuple((leg.lepton.flavour, leg.index) for leg in best.legs)
        outcome.masses = best.masses
    return outcome


def cutflow(outcomes: Sequence[Outcome]) -> list[list[int]]:
    """Events per channel (rows) that have passed each stage (columns)."""
    places = [[STAGES.index(outcome.reached[channel]) for outcome in outcomes] for channel in CHANNELS]
    return [[sum(place >= stage for place in row) for stage in range(len(STAGES))] for row in places]


# --- Columns of events, as a reader gives them


@dataclass(frozen=True)
class Columns:
    """The columns of some events; see `higgsnb.selection.branches.EventColumns`."""

    flat: dict[str, npt.NDArray[Any]]
    jagged: dict[str, npt.NDArray[Any]]
    offsets: dict[str, npt.NDArray[np.int64]]
    missing: frozenset[str] = frozenset()


_MUON = {
    "pt": ("pt", np.float32), "eta": ("eta", np.float32), "phi": ("phi", np.float32), "mass": ("mass", np.float32),
    "charge": ("charge", np.int32), "dxy": ("dxy", np.float32), "dz": ("dz", np.float32),
    "sip3d": ("sip3d", np.float32), "pfRelIso03_all": ("isolation", np.float32), "isPFcand": ("is_pf", np.bool_),
    "isGlobal": ("is_global", np.bool_), "isTracker": ("is_tracker", np.bool_), "highPtId": ("high_pt_id", np.uint8),
    "mediumId": ("medium_id", np.bool_),
}  # fmt: skip
_ELECTRON = {name: _MUON[name] for name in ("pt", "eta", "phi", "mass", "charge", "dxy", "dz", "sip3d")} | {
    "pfRelIso03_all": ("isolation", np.float32), "deltaEtaSC": ("delta_eta_sc", np.float32),
    "mvaFall17V2Iso": ("mva", np.float32),
}  # fmt: skip
_PHOTON = {
    "pt": ("pt", np.float32), "eta": ("eta", np.float32), "phi": ("phi", np.float32),
    "dROverEt2": ("distance_over_et2", np.float32), "relIso03": ("isolation", np.float32),
    "muonIdx": ("muon", np.int32),
}  # fmt: skip


def columns_of(events: Sequence[Event], first_event: int = 0) -> Columns:
    """Put events into columns; each has its index as its number."""
    jagged, offsets = {}, {}
    collections = {"Muon": ("muons", _MUON), "Electron": ("electrons", _ELECTRON), "FsrPhoton": ("photons", _PHOTON)}
    for collection, (name, table) in collections.items():
        lists = [getattr(event, name) for event in events]
        offsets[collection] = np.concatenate(([0], np.cumsum([len(one) for one in lists]))).astype(np.int64)
        for branch, (attribute, kind) in table.items():
            jagged[f"{collection}_{branch}"] = np.array([getattr(x, attribute) for one in lists for x in one], kind)
    for flavour in ("Muon", "Electron"):  # what only other selections use
        for branch in ("dxyErr", "dzErr"):
            jagged[f"{flavour}_{branch}"] = np.full_like(jagged[f"{flavour}_dxy"], 0.01)
    jagged["Muon_pfRelIso04_all"] = jagged["Muon_pfRelIso03_all"]
    n = len(events)
    flat: dict[str, Any] = {"run": np.full(n, 280_000, np.int64), "luminosityBlock": np.arange(n) // 100}
    flat |= {"event": np.arange(first_event, first_event + n, dtype=np.uint64)}
    flat |= {"MET_pt": np.array([event.met for event in events], np.float32)}
    for path in (path for some in PATHS.values() for path in some if path not in ABSENT):
        flat[path] = np.array([path in event.fired for event in events], np.bool_)
    return Columns(flat, jagged, offsets, frozenset(ABSENT))


# --- Events that reach every branch


def single(value: float) -> float:
    """The nearest value that a float32 can hold."""
    return float(np.float32(value))


def rounded(one: Any) -> Any:
    """A lepton or a photon with values that a float32 can hold."""
    return replace(one, **{k: single(v) for k, v in vars(one).items() if type(v) is float})


AT_CUT = 0.3
"""Share of the values near a cut that are on it."""


def beside(rng: np.random.Generator, cut: float, width: float) -> float:
    """A value near a cut, at times on it or next to it."""
    at = np.float32(cut)
    if rng.random() < AT_CUT:
        return float([at, np.nextafter(at, np.float32(-9e9)), np.nextafter(at, np.float32(9e9))][int(rng.integers(3))])
    return cut + width * (2.0 * rng.random() - 1.0)


BAD = (-999.0, math.nan, math.inf, -math.inf)


def bad(rng: np.random.Generator) -> float:
    """A value that no quantity has."""
    return BAD[int(rng.integers(len(BAD)))]


def random_lepton(rng: np.random.Generator, base: Any) -> Lepton:
    """A lepton with the momentum of another, whose quality mostly passes."""
    muon = base.flavour == MUON
    changes: dict[str, Any] = {"sip3d": 4.2 * rng.random() ** 2, "isolation": 0.5 * rng.random() ** 3}
    pt = 180.0 + 60.0 * rng.random() if muon and rng.random() < 0.03 else base.pt
    if muon:
        changes |= {"is_pf": rng.random() < 0.9, "is_global": rng.random() < 0.8, "is_tracker": rng.random() < 0.8}
        changes |= {"high_pt_id": int(rng.integers(3)), "medium_id": rng.random() < 0.8}
    else:
        changes["delta_eta_sc"] = 0.1 * (rng.random() - 0.5)
        changes["mva"] = 1.0 - 0.3 * rng.random() ** 2 if rng.random() < 0.8 else 2.0 * rng.random() - 1.0
        pt = beside(rng, 10.0, 3.0) if rng.random() < 0.1 else pt
    lepton = Lepton(base.flavour, pt, base.eta, base.phi, int(base.charge), base.mass, **changes)
    if rng.random() < 0.06:
        lepton = replace(lepton, **spoiled(rng, muon))
    return rounded(lepton)  # type: ignore[no-any-return]


def spoiled(rng: np.random.Generator, muon: bool) -> dict[str, Any]:
    """A value at a cut, or none."""
    kind = int(rng.integers(9))
    if kind == 0:
        return {str(rng.choice(["dxy", "dz", "sip3d", "isolation", "mva", "pt", "eta"])): bad(rng)}
    if kind == 1:
        return {"delta_eta_sc": bad(rng)}
    if kind == 2:
        return {"charge": int(rng.choice([0, 2, -2]))}
    thresholds = (0.9128577458, 0.9056792368, 0.9439440575, 0.1559788054, 0.0273863727, -0.5532483665)
    name, cut, width = (
        ("sip3d", 4.0, 0.3), ("isolation", 0.35, 0.05), ("eta", 2.4 if muon else 2.5, 0.1), ("dxy", 0.5, 0.1),
        ("dz", 1.0, 0.2), ("mva", float(rng.choice(thresholds)), 0.02),
    )[kind - 3]  # fmt: skip
    return {name: beside(rng, cut, width) * (1 if name in ("sip3d", "isolation", "mva") else int(rng.choice([1, -1])))}


def random_photons(rng: np.random.Generator, muons: Sequence[Lepton]) -> tuple[Photon, ...]:
    """Photons around muons, near the cuts on them."""
    found = []
    for index, muon in enumerate(muons):
        for _ in range(int(rng.choice([0, 1, 2, 3], p=[0.7, 0.2, 0.07, 0.03]))):
            away, angle = (0.6 if rng.random() < 0.2 else 0.1) * rng.random() ** 2, math.tau * rng.random()
            pt = beside(rng, 2.0, 0.5) if rng.random() < 0.2 else 2.0 + 15.0 * rng.random() ** 2
            photon = Photon(
                pt, muon.eta + away * math.sin(angle), math.remainder(muon.phi + away * math.cos(angle), math.tau),
                beside(rng, 0.012, 0.004) if rng.random() < 0.3 else 0.012 * rng.random(),
                beside(rng, 1.8, 0.3) if rng.random() < 0.3 else 1.5 * rng.random(), index,
            )  # fmt: skip
            if rng.random() < 0.08:
                name = str(rng.choice(["pt", "eta", "phi", "distance_over_et2", "isolation", "muon"]))
                photon = replace(photon, **{name: int(rng.choice([-1, 9])) if name == "muon" else bad(rng)})
            elif rng.random() < 0.1:
                photon = replace(photon, eta=beside(rng, 2.4, 0.1))
            elif found and rng.random() < 0.3:  # as near as another one
                photon = replace(photon, distance_over_et2=found[-1].distance_over_et2)
            found.append(rounded(photon))
    return tuple(found[i] for i in rng.permutation(len(found)))


def random_event(rng: np.random.Generator) -> Event:
    """Two Z, a Z and a light pair, or anything; with up to three stray leptons and with photons."""
    kind, uniform = rng.random(), rng.random
    flavours = [(MUON, MUON), (ELECTRON, ELECTRON), (MUON, ELECTRON), (ELECTRON, MUON)][int(rng.integers(4))]
    if kind < 0.15:
        drawn = made.soup(uniform, int(rng.integers(6)), int(rng.integers(6)))
    elif kind < 0.45:  # where the smart cut matters
        light = beside(rng, 12.0, 1.0) if uniform() < 0.3 else 3.0 + 12.0 * uniform()
        drawn = made.decay(uniform, 85.0 + 12.0 * uniform(), flavours[0], 0.6 * uniform(), 0.5 * uniform())
        drawn += made.decay(uniform, light, flavours[0] if uniform() < 0.8 else flavours[1], 4.0 * uniform(), 0.0)
    else:
        drawn = made.zz(uniform, flavours, boosted=uniform() < 0.04)
    if uniform() < 0.4:
        drawn += made.soup(uniform, int(rng.integers(3)), int(rng.integers(3)))
    if len(drawn) >= 2 and uniform() < 0.05:
        made.overlap(rng, drawn)
    leptons = [random_lepton(rng, drawn[i]) for i in rng.permutation(len(drawn))]
    muons = tuple(lepton for lepton in leptons if lepton.flavour == MUON)
    electrons = tuple(lepton for lepton in leptons if lepton.flavour == ELECTRON)
    paths = [path for some in PATHS.values() for path in some]
    fired = frozenset(path for path, draw in zip(paths, rng.random(len(paths)), strict=True) if draw < 0.08)
    return Event(muons, electrons, random_photons(rng, muons), fired, single(100.0 * uniform()))


def random_events(n_events: int, seed: int = 2016) -> list[Event]:
    """Events that reach each branch of the selection; the same for the same seed."""
    rng = np.random.default_rng(seed)
    return [random_event(rng) for _ in range(n_events)]


# --- Events by hand


def four_muons(*changes: dict[str, Any], flavour: int = MUON) -> tuple[Lepton, ...]:
    """+ - + - of 45, 44, 22, 12 GeV: Z1 of 89 GeV, Z2 of 34 GeV."""
    four = ((45.0, 0.1, 0.2, 1), (44.0, -0.2, 3.1, -1), (22.0, 0.5, 1.5, 1), (12.0, -0.3, -1.2, -1))
    leptons = [Lepton(flavour, *one) for one in four]
    return tuple(
        rounded(replace(lepton, **change)) for lepton, change in zip(leptons, [*changes, *[{}] * 4], strict=False)
    )
