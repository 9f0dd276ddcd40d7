"""Collisions whose fate is known by construction, for files in the form of CMS NanoAODv9 and of ATLAS Open Data.

Every event is two pairs of leptons, back to back across the beam: a pair of pT p has the mass 2p, and both together
have the sum of these, whatever the flavours. Each lepton is far from every cut; a *fault* moves one quantity of one
lepton (or trigger, lumi section, charge) so far that exactly one requirement fails. A selection then keeps an event
unless the requirement that fails is one of its own::

    events = cms_events(seed=1, number=500, certified={278820: [(1, 50)]})
    kept = {event.id: event.channel for event in events if event.passes(RUN2)}

The requirements are named, not computed: `RUN2`, `OPEN2012` and `ATLAS4L` list those of each selection.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

MUON, ELECTRON = 13, 11
MASS = {MUON: 0.1056583755, ELECTRON: 0.00051099895}
FLAVOURS = {"4mu": (MUON, MUON), "4e": (ELECTRON, ELECTRON), "2e2mu": (ELECTRON, MUON), "2mu2e": (MUON, ELECTRON)}

PRIMARY_DATASETS = ("DoubleEG", "DoubleMuon", "MuonEG", "SingleElectron", "SingleMuon")
PATHS: dict[str, tuple[str, ...]] = {
    "DoubleEG": ("HLT_Ele23_Ele12_CaloIdL_TrackIdL_IsoVL_DZ", "HLT_Ele16_Ele12_Ele8_CaloIdL_TrackIdL"),
    "DoubleMuon": ("HLT_Mu17_TrkIsoVVL_Mu8_TrkIsoVVL", "HLT_TripleMu_12_10_5"),
    "MuonEG": ("HLT_Mu8_TrkIsoVVL_Ele23_CaloIdL_TrackIdL_IsoVL", "HLT_DiMu9_Ele9_CaloIdL_TrackIdL"),
    "SingleElectron": ("HLT_Ele27_WPTight_Gsf", "HLT_Ele25_eta2p1_WPTight_Gsf"),
    "SingleMuon": ("HLT_IsoMu24", "HLT_IsoTkMu24"),
}
"""Paths of each primary dataset that the selection asks for; the events here fire no other ones but `UNASKED`."""
UNASKED = {"SingleMuon": "HLT_Mu50", "SingleElectron": "HLT_Ele115_CaloIdVT_GsfTrkIdT"}
"""Paths of two of them that it does not ask for."""

OBJECT = ("muon pt", "electron pt", "muon eta", "electron eta", "sip", "dxy", "dz", "muon isolation")
OPEN2012 = frozenset({*OBJECT, "electron isolation", "fsr", "charge", "number", "z2 mass", "golden json"})
"""What `open2012` requires of NanoAOD: no identification and no trigger, no photons, isolation of electrons, too."""
RUN2 = frozenset({*OBJECT, "muon id", "electron id", "charge", "number", "z2 mass", "golden json", "trigger"})
"""What `run2` requires: isolation of electrons is part of their identification, photons do not count for muons."""
ATLAS4L = frozenset({"trigger", "matching", "id", "isolation", "charge", "flavour", "second pt", "third pt"})
"""What ATLAS's four-lepton selection requires of events with exactly four leptons above 7 GeV."""


PHOTON_ANGLE = 0.05
"""How far a photon is from its muon: inside the cone of isolations, which leave out what is nearer than 0.01."""


@dataclass(frozen=True)
class KnownLepton:
    """A lepton: momentum in GeV, and in ``quality`` what differs from a good one, in the words of the file format."""

    flavour: int
    pt: float
    eta: float
    phi: float
    charge: int
    quality: Mapping[str, Any] = field(default_factory=dict)
    photon: float = 0.0
    """pT of a photon that it radiated, `PHOTON_ANGLE` beside it in φ."""


@dataclass(frozen=True)
class KnownEvent:
    """An event: its leptons, hardest first, and what becomes of it.

    ``channel`` is that of its candidate, ``fails`` the only requirement that it does not meet, None if it meets all.
    ``fired`` are the trigger paths, ``primary_datasets`` those whose files have it. Masses in GeV.
    """

    run: int
    section: int
    number: int
    channel: str
    leptons: tuple[KnownLepton, ...]
    mass_z1: float
    mass_z2: float
    fails: str | None = None
    fired: tuple[str, ...] = ()
    primary_datasets: tuple[str, ...] = ()
    weight: float = 1.0

    @property
    def id(self) -> tuple[int, int, int]:
        """Run, lumi section, event."""
        return self.run, self.section, self.number

    @property
    def mass_4l(self) -> float:
        """Mass of the candidate, without photons."""
        return self.mass_z1 + self.mass_z2

    @property
    def dressed_mass_4l(self) -> float:
        """Mass of its leptons with the photons that they radiated."""
        total = np.zeros(4)
        for lepton in self.leptons:
            parts = ((lepton.pt, 0.0, MASS[lepton.flavour]), (lepton.photon, PHOTON_ANGLE, 0.0))
            for pt, away, mass in parts:
                phi = lepton.phi + away
                x, y, z = pt * math.cos(phi), pt * math.sin(phi), pt * math.sinh(lepton.eta)
                total += (math.sqrt(x * x + y * y + z * z + mass**2), x, y, z)
        return math.sqrt(total[0] ** 2 - total[1] ** 2 - total[2] ** 2 - total[3] ** 2)

    def passes(self, requirements: frozenset[str]) -> bool:
        """Whether a selection with these requirements keeps it."""
        return self.fails is None or self.fails not in requirements


@dataclass(frozen=True)
class Fault:
    """What is wrong with an event: the requirement that fails, and for which flavour of the second pair it is possible.

    ``changes`` are of its last lepton.
    """

    requirement: str
    flavour: int | None = None
    changes: Mapping[str, Any] = field(default_factory=dict)
    quality: Mapping[str, Any] = field(default_factory=dict)


FAR = {"sip3d": 8.6, "dxy": 0.03, "dxyErr": 0.003, "dz": 0.04, "dzErr": 0.005}
CMS_FAULTS: tuple[Fault, ...] = (
    Fault("muon pt", MUON, {"pt": 4.5}),
    Fault("electron pt", ELECTRON, {"pt": 6.5}),
    Fault("muon eta", MUON, {"eta": 2.45}),
    Fault("electron eta", ELECTRON, {"eta": -2.55}),
    Fault("muon isolation", MUON, {}, {"pfRelIso03_all": 0.6, "pfRelIso04_all": 0.7}),
    Fault("electron isolation", ELECTRON, {}, {"pfRelIso03_all": 0.7}),
    Fault("fsr", MUON, {"photon": 6.0}, {"pfRelIso03_all": 0.45, "pfRelIso04_all": 0.46}),
    Fault("sip", MUON, {}, FAR),
    Fault("sip", ELECTRON, {}, FAR),
    Fault("dxy", MUON, {}, {"dxy": 0.6, "dxyErr": 0.3, "sip3d": 2.0}),
    Fault("dz", ELECTRON, {}, {"dz": -1.5, "dzErr": 0.8, "sip3d": 1.9}),
    Fault("muon id", MUON, {}, {"isPFcand": False}),
    Fault("electron id", ELECTRON, {}, {"mvaFall17V2Iso": -0.9}),
    Fault("charge"),
    Fault("number"),
    Fault("z2 mass"),
    Fault("trigger"),
    Fault("golden json"),
)
ATLAS_FAULTS: tuple[Fault, ...] = (
    Fault("id", MUON, {}, {"isLooseID": False, "isMediumID": False, "isTightID": False}),
    Fault("id", ELECTRON, {}, {"isLooseID": False, "isMediumID": False, "isTightID": False}),
    Fault("isolation", MUON, {}, {"isLooseIso": False, "ptcone30": 0.6, "etcone20": 0.6}),
    Fault("isolation", ELECTRON, {}, {"isLooseIso": False, "ptcone30": 0.6, "etcone20": 0.6}),
    Fault("charge"),
    Fault("flavour"),
    Fault("second pt"),
    Fault("third pt"),
    Fault("trigger"),
    Fault("matching"),
)


def _collision(draw: random.Random, channel: str) -> tuple[list[KnownLepton], float, float]:
    """Two pairs of leptons, the first near the Z, and the masses of both.

    The angle between the pairs is such that the other way of pairing four equal flavours has no Z1 above 40 GeV.
    """
    first, second = FLAVOURS[channel]
    half_z1, half_z2 = draw.uniform(43.0, 47.5), draw.uniform(12.5, 16.5)
    eta, phi, between = draw.uniform(-1.2, 1.2), draw.uniform(-math.pi, math.pi), draw.uniform(1.75, 2.4)
    leptons = [
        KnownLepton(flavour, pt, eta, math.remainder(angle, 2 * math.pi), charge)
        for flavour, pt, angle, charge in (
            (first, half_z1, phi, 1),
            (first, half_z1, phi + math.pi, -1),
            (second, half_z2, phi + between, 1),
            (second, half_z2, phi + between + math.pi, -1),
        )
    ]
    return leptons, 2 * half_z1, 2 * half_z2


def cms_events(
    seed: int, number: int, *, certified: Mapping[int, Sequence[tuple[int, int]]], faulty: float = 0.6
) -> list[KnownEvent]:
    """Events of data in certified lumi sections, ``{run: [(first, last), …]}``, but for those whose fault this is.

    Each is in the files of one or more primary datasets, whose triggers it fired: half of them in several.
    """
    draw = random.Random(seed)
    events = []
    for index in range(number):
        channel = draw.choice([*FLAVOURS])
        run = draw.choice([*certified])
        first, last = draw.choice([*certified[run]])
        leptons, mass_z1, mass_z2 = _collision(draw, channel)
        event = KnownEvent(
            run, draw.randint(first, last), 2**33 * index + draw.randrange(2**33), channel.replace("2mu2e", "2e2mu"),
            tuple(leptons), mass_z1, mass_z2, **_triggers(draw, channel),
        )  # fmt: skip
        possible = [fault for fault in CMS_FAULTS if _fits(fault, channel)]
        events.append(_spoiled(event, draw.choice(possible)) if draw.random() < faulty else event)
    return events


def simulated_events(seed: int, number: int, *, negative: float = 0.2, faulty: float = 0.6) -> list[KnownEvent]:
    """Events of simulation, numbered from 1 in run 1, with generator weights of both signs."""
    draw = random.Random(seed)
    events = []
    for index, event in enumerate(cms_events(seed, number, certified={1: [(1, 1)]}, faulty=faulty)):
        weight = draw.uniform(0.9, 1.1) * 28.3 * (-1 if draw.random() < negative else 1)
        plain = replace(event, section=index // 100 + 1, number=index + 1, weight=_as_float32(weight))
        events.append(replace(plain, fails=None if event.fails == "golden json" else event.fails))
    return events


def atlas_events(seed: int, number: int, *, runs: Iterable[int] = (), faulty: float = 0.6) -> list[KnownEvent]:
    """Events with exactly four leptons above 7 GeV: data if there are ``runs``, else simulation with weights."""
    draw, runs = random.Random(seed), list(runs)
    events = []
    for index in range(number):
        channel = draw.choice([*FLAVOURS])
        leptons, mass_z1, mass_z2 = _collision(draw, channel)
        weight = 1.0 if runs else draw.uniform(0.5, 1.5) * (-1 if draw.random() < 0.15 else 1)
        event = KnownEvent(
            draw.choice(runs) if runs else 284500, 0, 10_000 + 7 * index, channel.replace("2mu2e", "2e2mu"),
            tuple(leptons), mass_z1, mass_z2, fired=_atlas_triggers(leptons), weight=_as_float32(weight),
        )  # fmt: skip
        possible = [fault for fault in ATLAS_FAULTS if _fits(fault, channel)]
        events.append(_spoiled(event, draw.choice(possible)) if draw.random() < faulty else event)
    return events


def _fits(fault: Fault, channel: str) -> bool:
    """Whether a channel can have this fault: the last lepton has the flavour, and no other pairing mends it."""
    _, second = FLAVOURS[channel]
    if fault.requirement in ("z2 mass", "flavour"):
        return channel in ("2e2mu", "2mu2e")
    return fault.flavour in (None, second)


def _triggers(draw: random.Random, channel: str) -> dict[str, tuple[str, ...]]:
    """Draw the primary datasets whose trigger an event fires, and the paths."""
    flavours = set(FLAVOURS[channel])
    able = ["DoubleMuon", "SingleMuon"] * (MUON in flavours) + ["DoubleEG", "SingleElectron"] * (ELECTRON in flavours)
    able += ["MuonEG"] * (len(flavours) == 2)
    chosen = draw.sample(able, draw.choice([1, 1, len(able), draw.randint(1, len(able))]))
    fired = [draw.choice(PATHS[name]) for name in chosen]
    return {"primary_datasets": tuple(sorted(chosen, key=PRIMARY_DATASETS.index)), "fired": tuple(sorted(fired))}


def _atlas_triggers(leptons: Sequence[KnownLepton]) -> tuple[str, ...]:
    return tuple(name for name, flavour in (("trigE", ELECTRON), ("trigM", MUON)) if leptons[0].flavour == flavour)


def _spoiled(event: KnownEvent, fault: Fault) -> KnownEvent:
    """The event with a fault."""
    leptons, changes = list(event.leptons), dict(fault.changes)
    last = leptons[-1]
    quality: Mapping[str, Any] = {**last.quality, **fault.quality}
    if fault.requirement == "charge":
        changes["charge"] = -last.charge
    elif fault.requirement == "flavour":  # three of a kind, and one of the other
        changes["flavour"] = leptons[0].flavour
    elif fault.requirement == "z2 mass":  # 2 p sin(0.35) = 10 GeV
        changes["phi"] = math.remainder(leptons[2].phi + 0.7 * 14.0 / last.pt, 2 * math.pi)
    leptons[-1] = replace(last, **changes, quality=quality)
    found = replace(event, leptons=tuple(leptons), fails=fault.requirement)
    if fault.requirement == "number":
        found = replace(found, leptons=found.leptons[:3])
    elif fault.requirement == "golden json":
        found = replace(found, section=event.section + 5000)
    elif fault.requirement == "trigger":
        found = replace(found, **_unasked(event))
    elif fault.requirement == "matching":
        found = _all_leptons(found, isTrigMatched=False)
    elif fault.requirement in ("second pt", "third pt"):
        found = _softer(found, fault.requirement)
    return found


def _unasked(event: KnownEvent) -> dict[str, tuple[str, ...]]:
    """Only a path fired that the selection does not ask for; in ATLAS's files none."""
    if not event.primary_datasets:
        return {"fired": ()}
    name = "SingleMuon" if any(lepton.flavour == MUON for lepton in event.leptons) else "SingleElectron"
    return {"primary_datasets": (name,), "fired": (UNASKED[name],)}


def _all_leptons(event: KnownEvent, **quality: Any) -> KnownEvent:
    leptons = tuple(replace(lepton, quality={**lepton.quality, **quality}) for lepton in event.leptons)
    return replace(event, leptons=leptons)


def _softer(event: KnownEvent, requirement: str) -> KnownEvent:
    """Leptons that are too soft in order of pT: the second below 15 GeV, or the third below 10 GeV."""
    limits = {"second pt": (60.0, 14.0, 12.0, 11.0), "third pt": (60.0, 40.0, 9.0, 8.0)}[requirement]
    leptons = tuple(replace(lepton, pt=pt) for lepton, pt in zip(event.leptons, limits, strict=True))
    return replace(event, leptons=leptons)


def _as_float32(value: float) -> float:
    return float(np.float32(value))
