"""Made-up events for the tests: hand-written, drawn at random deep into the selections, and outreach files with decoys.

Leptons are written as ``oracle.Lepton``; `pack` turns lists of them into the flat float32 columns of the package.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st
from oracle import CHANNELS_OF_PRIMARY_DATASET, COLUMNS, ELECTRON, MUON, PDG_MASS, Lepton

from higgsnb.selection import Leptons

Uniform = Callable[[], float]  # draws from [0, 1)
Drawn = list[Lepton]  # one event, in stored order
GOOD: dict[str, Any] = {
    "isolation": 0.05,
    "dxy": 0.002,
    "dxy_error": 0.003,
    "dz": -0.004,
    "dz_error": 0.005,
}


def muon(pt: float, eta: float, phi: float, charge: int, **changes: Any) -> Lepton:
    """A muon that passes every object cut but those on what is given."""
    return Lepton(MUON, -1, pt, eta, phi, charge=charge, **{"mass": PDG_MASS[MUON], **GOOD, **changes})


def electron(pt: float, eta: float, phi: float, charge: int, **changes: Any) -> Lepton:
    """An electron that passes every object cut but those on what is given."""
    return Lepton(ELECTRON, -1, pt, eta, phi, charge=charge, **{"mass": PDG_MASS[ELECTRON], **GOOD, **changes})


# Packing


def pack(events: Sequence[Iterable[Lepton]], ids: Sequence[tuple[int, int, int]] | None = None) -> Leptons:
    """Flat columns of events; ``ids`` are (run, luminosity block, event), by default (1, 1, 0…)."""
    stored = [list(event) for event in events]
    ids = ids if ids is not None else [(1, 1, number) for number in range(len(stored))]
    return Leptons(
        run=np.array([run for run, _, _ in ids], dtype=np.int64),
        luminosity_block=np.array([block for _, block, _ in ids], dtype=np.int64),
        event=np.array([event for _, _, event in ids], dtype=np.uint64),
        **_columns("muon", [[lepton for lepton in event if lepton.flavour == MUON] for event in stored]),
        **_columns("electron", [[lepton for lepton in event if lepton.flavour == ELECTRON] for event in stored]),
    )


def one_event(*leptons: Lepton) -> Leptons:
    """A chunk of a single hand-written event."""
    return pack([leptons])


def _columns(prefix: str, events: Sequence[Drawn]) -> dict[str, npt.NDArray[Any]]:
    flat = [lepton for event in events for lepton in event]
    columns: dict[str, npt.NDArray[Any]] = {
        f"{prefix}_offsets": np.concatenate([[0], np.cumsum([len(event) for event in events])]).astype(np.int64)
    }
    for name in COLUMNS:
        kind = np.int32 if name == "charge" else np.float32
        columns[f"{prefix}_{name}"] = np.array([getattr(lepton, name) for lepton in flat]).astype(kind)
    return columns


def without(leptons: Leptons, *quantities: str) -> Leptons:
    """The same chunk in a schema that lacks some quantities of both flavours."""
    absent: dict[str, Any] = {f"{prefix}_{name}": None for prefix in ("muon", "electron") for name in quantities}
    return leptons._replace(**absent)


# Random events


def soup(uniform: Uniform, n_muons: int, n_electrons: int) -> Drawn:
    """Leptons that have nothing to do with each other."""
    return [_stray(uniform, maker) for maker in [muon] * n_muons + [electron] * n_electrons]


def _stray(uniform: Uniform, maker: Callable[..., Lepton]) -> Lepton:
    return maker(
        3.0 - 18.0 * math.log(1.0 - uniform()),
        5.0 * uniform() - 2.5,
        math.pi * (2.0 * uniform() - 1.0),
        1 if uniform() < 0.5 else -1,
        **_drawn_quality(uniform),
    )


def _drawn_quality(uniform: Uniform) -> dict[str, Any]:
    """Isolation and impact parameters that mostly pass."""
    dxy_error, dz_error = 0.001 + 0.004 * uniform(), 0.001 + 0.006 * uniform()
    return {
        "isolation": 0.42 * uniform() ** 2,
        "dxy": 3.0 * dxy_error * (2.0 * uniform() - 1.0),
        "dxy_error": dxy_error,
        "dz": 3.0 * dz_error * (2.0 * uniform() - 1.0),
        "dz_error": dz_error,
    }


def zz(uniform: Uniform, flavours: tuple[int, int], *, boosted: bool = False) -> Drawn:
    """Two Z bosons that decay into two leptons each, the first mostly on shell; collinear where ``boosted``."""
    first = 91.19 + 2.0 * math.tan(2.6 * (uniform() - 0.5)) if uniform() < 0.6 else 30.0 + 100.0 * uniform()
    second = 6.0 + 45.0 * uniform() if uniform() < 0.6 else 80.0 + 45.0 * uniform()
    spread, momentum = (0.3, 3.0) if uniform() < 0.3 else (1.8, 25.0)
    kicks = [-momentum * math.log(1.0 - uniform()) / mass for mass in (first, second)]
    if boosted:
        kicks[1] = 70.0 + 150.0 * uniform()  # the leptons are about 2/kick apart
    return [
        *decay(uniform, first, flavours[0], kicks[0], spread * (uniform() - 0.5)),
        *decay(uniform, second, flavours[1], kicks[1], spread * (uniform() - 0.5)),
    ]


def decay(uniform: Uniform, mass: float, flavour: int, kick: float, rapidity: float) -> Drawn:
    """Z → l+ l-, isotropic in its rest frame, boosted sideways (``kick`` is pT/m) and then along the beam."""
    cosine, azimuth = 2.0 * uniform() - 1.0, 2.0 * math.pi * uniform()
    sine = math.sqrt(1.0 - cosine * cosine)
    gamma = math.sqrt(1.0 + kick * kick)
    turn = 2.0 * math.pi * uniform()
    leptons = []
    for sign in (1, -1):
        x, y, z = (0.5 * mass * sign * part for part in (sine * math.cos(azimuth), sine * math.sin(azimuth), cosine))
        x = gamma * x + kick * 0.5 * mass
        pt, phi = math.hypot(x, y), math.remainder(math.atan2(y, x) + turn, 2.0 * math.pi)
        maker = muon if flavour == MUON else electron
        leptons.append(maker(pt, math.asinh(z / pt) + rapidity, phi, sign, **_drawn_quality(uniform)))
    return leptons


def _beside(value: float) -> tuple[float, float, float]:
    """A cut value as float32, and its neighbours."""
    at = np.float32(value)
    return float(np.nextafter(at, np.float32(-np.inf))), float(at), float(np.nextafter(at, np.float32(np.inf)))


Changes = dict[str, Any]  # of a lepton, by quantity

FAULTS: dict[str, tuple[Changes, ...]] = {
    "pt": (*({"pt": v} for cut in (5.0, 7.0, 10.0, 20.0) for v in _beside(cut)), {"pt": 4.0}, {"pt": 6.0}),
    "eta": tuple({"eta": sign * v} for cut in (2.4, 2.5) for v in _beside(cut) for sign in (1, -1)),
    "isolation": tuple({"isolation": v} for v in (*_beside(0.4), 3.0, -999.0, math.nan, math.inf)),
    "dxy": tuple({"dxy": sign * v, "dxy_error": 0.3} for v in (*_beside(0.5), 2.0) for sign in (1, -1)),
    "dz": tuple({"dz": sign * v, "dz_error": 0.6} for v in (*_beside(1.0), 2.0) for sign in (1, -1)),
    "sip": (
        # exactly 4 (a triangle of sides 3, 4, 5), just under, just over
        {"dxy": 0.1875, "dz": -0.25, "dxy_error": 0.046875, "dz_error": 0.0625},
        {"dxy": 0.1875, "dz": -0.2499, "dxy_error": 0.046875, "dz_error": 0.0625},
        {"dxy": 0.1875, "dz": -0.2501, "dxy_error": 0.046875, "dz_error": 0.0625},
    ),
    "errors": (
        {"dxy_error": 0.0, "dz_error": 0.0},
        {"dxy": 0.0, "dz": 0.0, "dxy_error": 0.0, "dz_error": 0.0},
        {"dxy_error": -0.003},
        {"dz_error": -0.003},
        {"dxy_error": math.inf},
        {"dz_error": math.nan},
    ),
    "sentinel": (
        {"dxy": -999.0, "dxy_error": -999.0, "dz": -999.0, "dz_error": -999.0},
        *({name: -999.0} for name in ("pt", "eta", "phi", "mass", "dxy", "dxy_error", "dz", "dz_error")),
    ),
    "not finite": tuple(
        {name: value}
        for name in ("pt", "eta", "phi", "mass", "dxy", "dxy_error", "dz", "dz_error")
        for value in (math.nan, math.inf, -math.inf)
    ),
    "charge": tuple({"charge": v} for v in (0, 2, -2, -999)),
}


def spoil(rng: np.random.Generator, event: Drawn, kind: str) -> None:
    """Give one lepton of the event a value at a cut, or one that no lepton can have."""
    which = int(rng.integers(len(event)))
    changes = FAULTS[kind][int(rng.integers(len(FAULTS[kind])))]
    event[which] = replace(event[which], **changes)


def overlap(rng: np.random.Generator, event: Drawn) -> None:
    """Put one lepton beside another, at times across the border of the azimuth."""
    a, b = (int(i) for i in rng.choice(len(event), size=2, replace=False))
    distance, angle = 0.003 * 100.0 ** rng.random(), 2.0 * math.pi * rng.random()
    phi = event[a].phi if rng.random() < 0.5 else math.copysign(math.pi - 0.5 * distance * rng.random(), event[a].phi)
    beside = math.remainder(phi + distance * math.cos(angle), 2.0 * math.pi)
    event[a] = replace(event[a], phi=phi)
    event[b] = replace(event[b], eta=event[a].eta + distance * math.sin(angle), phi=beside)


def random_event(rng: np.random.Generator) -> Drawn:
    """Soup, or two Z with up to three stray leptons; a third of the events spoiled; in any order."""
    uniform: Uniform = rng.random
    if rng.random() < 0.2:
        event = soup(uniform, int(rng.integers(9)), int(rng.integers(9)))
    else:
        flavours = [(MUON, MUON), (ELECTRON, ELECTRON), (MUON, ELECTRON), (ELECTRON, MUON)][int(rng.integers(4))]
        event = zz(uniform, flavours, boosted=rng.random() < 0.04)
        if rng.random() < 0.4:
            event += soup(uniform, int(rng.integers(3)), int(rng.integers(3)))
    if len(event) >= 2 and rng.random() < 0.12:
        overlap(rng, event)
    if event and rng.random() < 0.35:
        for kind in rng.choice(list(FAULTS), size=int(rng.integers(1, 3)), replace=False):
            spoil(rng, event, str(kind))
    if rng.random() < 0.7:
        return [event[i] for i in rng.permutation(len(event))]
    return sorted(event, key=lambda lepton: -lepton.pt if math.isfinite(lepton.pt) else 0.0)


def random_events(n_events: int, seed: int = 2012) -> list[Drawn]:
    """Events of 0–8 leptons of each flavour that reach deep into the selections; the same for the same seed."""
    rng = np.random.default_rng(seed)
    return [random_event(rng) for _ in range(n_events)]


def random_leptons(n_events: int, seed: int = 2012) -> Leptons:
    """`random_events`, packed."""
    return pack(random_events(n_events, seed))


def clean_zz_events(n_events: int, seed: int) -> list[Drawn]:
    """Events without spoiled leptons; drawn values are neither equal nor at a cut."""
    rng = np.random.default_rng(seed)
    kinds = [(MUON, MUON), (ELECTRON, ELECTRON), (MUON, ELECTRON)]
    return [
        zz(rng.random, kinds[i % 3]) + soup(rng.random, int(rng.integers(3)), int(rng.integers(3)))
        for i in range(n_events)
    ]


# Hand-written events. Z1 is near the Z mass, Z2 near 34 GeV, and the other pairing is far from both.

TRACKLESS = {"dxy": -999.0, "dxy_error": -999.0, "dz": -999.0, "dz_error": -999.0}


def four_muons(*changes: Changes) -> Drawn:
    """+ - + - of 45, 44, 22, 12 GeV, with changes to the first, second, ..."""
    four = [muon(45.0, 0.1, 0.2, +1), muon(44.0, -0.2, 3.1, -1), muon(22.0, 0.5, 1.5, +1), muon(12.0, -0.3, -1.2, -1)]
    return [replace(lepton, **change) for lepton, change in zip(four, [*changes, {}, {}, {}, {}], strict=False)]


def four_electrons(*changes: Changes) -> Drawn:
    """The same in electrons."""
    return [_as_electron(lepton) for lepton in four_muons(*changes)]


def two_and_two(*changes: Changes) -> Drawn:
    """The same with Z1 in electrons, Z2 in muons."""
    first, second, third, fourth = four_muons(*changes)
    return [_as_electron(first), _as_electron(second), third, fourth]


def _as_electron(lepton: Lepton) -> Lepton:
    mass = PDG_MASS[ELECTRON] if lepton.mass == PDG_MASS[MUON] else lepton.mass
    return replace(lepton, flavour=ELECTRON, mass=mass)


EVENTS: dict[str, Callable[..., Drawn]] = {"4mu": four_muons, "4e": four_electrons, "2e2mu": two_and_two}


# Hypothesis


def _float32(low: float, high: float) -> st.SearchStrategy[float]:
    return st.floats(float(np.float32(low)), float(np.float32(high)), width=32)


def any_lepton() -> st.SearchStrategy[Lepton]:
    """One lepton, mostly usable."""
    none: Changes = {}
    quality = st.one_of(st.just(none), st.sampled_from([change for kind in FAULTS.values() for change in kind]))
    return st.builds(
        lambda maker, pt, eta, phi, charge, changes: replace(maker(pt, eta, phi, charge), **changes),
        st.sampled_from([muon, electron]),
        _float32(3.0, 90.0),
        _float32(-2.6, 2.6),
        _float32(-math.pi, math.pi),
        st.sampled_from([1, -1]),
        quality,
    )


def small_events() -> st.SearchStrategy[Drawn]:
    """Events of up to eight leptons, no two of equal pT (ties are tested by hand)."""
    return st.lists(any_lepton(), max_size=8, unique_by=lambda lepton: (lepton.pt, math.isnan(lepton.pt)))


@st.composite
def zz_events(draw: st.DrawFn) -> Drawn:
    """Two Z bosons with each number drawn by hypothesis, so that a failure shrinks, and up to two stray leptons."""

    def uniform() -> float:
        return draw(st.floats(1 / 64, 63 / 64, width=32))

    flavours = draw(st.sampled_from([(MUON, MUON), (ELECTRON, ELECTRON), (MUON, ELECTRON)]))
    event = zz(uniform, flavours) + soup(uniform, draw(st.integers(0, 1)), draw(st.integers(0, 1)))
    return draw(st.permutations(event))


# Record 5200: 278 real candidates, kinematics only


@dataclass(frozen=True)
class Published:
    """One row of the record: who it is, its leptons, and the masses as published."""

    channel: str
    run: int
    event: int
    leptons: tuple[Lepton, ...]
    momenta: tuple[tuple[float, float, float, float], ...]  # E, px, py, pz as printed
    mass_z1: float
    mass_z2: float
    mass_4l: float


def read_record5200(shared_data: Path) -> list[Published]:
    """The six CSV files, by the csv module alone. Masses from the PDG; ``Event`` is an integer wrapped at 32 bits."""
    found = []
    for path in sorted((shared_data / "record5200").glob("*.csv")):
        with path.open(newline="") as stream:
            found += [_published(row, path.name.split("_")[0]) for row in csv.DictReader(stream)]
    return found


def _published(row: dict[str, str], channel: str) -> Published:
    leptons, momenta = [], []
    for n in "1234":
        maker = muon if abs(int(row[f"PID{n}"])) == MUON else electron
        pt, eta, phi = (float(row[f"{name}{n}"]) for name in ("pt", "eta", "phi"))
        leptons.append(maker(pt, eta, phi, int(row[f"Q{n}"])))
        momenta.append((float(row[f"E{n}"]), float(row[f"px{n}"]), float(row[f"py{n}"]), float(row[f"pz{n}"])))
    return Published(
        channel=channel,
        run=int(row["Run"]),
        event=int(row["Event"]) % 2**32,
        leptons=tuple(leptons),
        momenta=tuple(momenta),
        mass_z1=float(row["mZ1"]),
        mass_z2=float(row["mZ2"]),
        mass_4l=float(row["M"]),
    )


# Decoys: events that differ from a selected one by one cut

PASSES = "best candidate"


@dataclass(frozen=True)
class Decoy:
    """An event, the last cut it passes in its channel in each selection, and the change of a cut that would save it."""

    name: str
    channel: str
    leptons: Drawn
    open2012: str
    aod2012: str
    df103: str
    relaxed: dict[str, float] | None = None  # None: no change of a cut helps


def decoys() -> list[Decoy]:
    """All decoys, in each channel in which they make sense."""
    return [decoy for channel in EVENTS for decoy in (*_spoiled_leptons(channel), *_spoiled_kinematics(channel))] + [
        *_more_leptons(),
        *_two_hard_pairs(),
    ]


def _spoiled_leptons(channel: str) -> list[Decoy]:
    """One lepton fails one object cut, or has the wrong charge."""
    make = EVENTS[channel]
    last = "electron" if channel == "4e" else "muon"
    first = "muon" if channel == "4mu" else "electron"
    pt_min, eta_max = (7.0, 2.5) if channel == "4e" else (5.0, 2.4)
    quality: list[tuple[str, Changes, dict[str, float] | None]] = [
        ("isolation", {"isolation": 0.45}, {f"{first}_isolation_max": 0.5}),
        ("dxy", {"dxy": 0.55, "dxy_error": 0.3}, {"dxy_max": 0.6}),
        ("dz", {"dz": -1.05, "dz_error": 0.6}, {"dz_max": 1.1}),
        ("sip", {"dxy": 0.03}, {"sip_max": 6.0}),
        ("no isolation", {"isolation": -999.0}, None),
        ("no track", TRACKLESS, None),
        ("isolation not a number", {"isolation": math.nan}, None),
        ("infinite error", {"dz_error": math.inf}, None),
    ]
    fails = ("leptons",) * 3
    floor = ("leptons", "leptons", PASSES if channel == "2e2mu" else "leptons")
    return [
        *(Decoy(name, channel, make(change), *fails, relaxed) for name, change, relaxed in quality),
        Decoy("pt", channel, make({}, {}, {}, {"pt": pt_min - 0.1}), *floor, {f"{last}_pt_min": pt_min - 0.2}),
        Decoy("eta", channel, make({}, {}, {}, {"eta": eta_max + 0.05}), *fails, {f"{last}_eta_max": eta_max + 0.1}),
        Decoy("charge", channel, make({}, {}, {}, {"charge": 1}), *("good leptons",) * 3),
    ]


def _spoiled_kinematics(channel: str) -> list[Decoy]:
    """Four good leptons whose masses, momenta or angles fail one cut."""
    make = EVENTS[channel]
    four_alike = channel != "2e2mu"

    def decoy(name: str, event: Drawn, reached: tuple[str, str, str], **relaxed: float) -> Decoy:
        return Decoy(name, channel, event, *reached, relaxed)

    low_z1 = make({"pt": 21.0}, {"pt": 18.0}, {"pt": 8.0, "eta": 2.1}, {"pt": 7.5, "eta": 1.3})
    low_z2 = make({}, {}, {"pt": 7.5}, {"pt": 7.2, "phi": 0.0})
    soft = make({"pt": 19.5, "eta": 1.0}, {"pt": 19.0, "eta": -1.0}, {"pt": 12.0}, {"pt": 11.0})
    one_hard = make({"pt": 60.0}, {"pt": 9.5}, {"pt": 9.0, "eta": 1.7}, {"pt": 8.5, "eta": 0.9})
    collinear = make(
        {"phi": 1.0},
        {"phi": -2.4},
        {"pt": 720.0, "eta": 0.5, "phi": math.pi - 0.009},
        {"pt": 700.0, "eta": 0.5, "phi": 0.009 - math.pi},
    )
    touching = make({}, {}, {"eta": 0.105, "phi": 0.2})
    light_pair = make({}, {}, {}, {"eta": 0.12, "phi": 0.27})
    light = make(
        {"pt": 22.0, "eta": 0.0},
        {"pt": 20.5, "eta": 0.0},
        {"pt": 8.5, "eta": 0.0},
        {"pt": 8.0, "eta": 0.0, "phi": -3.0},
    )
    no_pt_rule = PASSES if four_alike else "z2 mass"
    return [
        decoy("z1 low", low_z1, ("charge",) * 3, z1_mass_min=30.0),
        decoy("z2 low", low_z2, ("z1 mass",) * 3, z2_mass_min=10.0),
        decoy("leading pt", soft, ("z2 mass", "z2 mass", no_pt_rule), lepton_pt_leading=15.0),
        decoy("subleading pt", one_hard, ("z2 mass", "z2 mass", no_pt_rule), lepton_pt_subleading=8.0),
        decoy("delta r in z2, over the border", collinear, ("lepton pt", PASSES, "lepton pt"), delta_r_min=0.01),
        decoy("delta r between z1 and z2", touching, ("lepton pt", PASSES, PASSES), delta_r_min=0.001),
        decoy("dilepton mass", light_pair, ("delta r", PASSES, PASSES), dilepton_mass_min=1.0),
        decoy("mass 4l", light, ("dilepton mass", "dilepton mass", PASSES), mass_4l_min=40.0),
    ]


def _two_hard_pairs() -> list[Decoy]:
    """What only one channel can show: no second pairing saves 2e2mu, and four muons can share hard leptons."""
    high_z1, high_z2 = two_and_two({"pt": 90.0}), two_and_two({}, {}, {"pt": 100.0}, {"pt": 90.0})
    soft_z1 = [muon(9.5, 1.5, 0.0, +1), muon(60.0, -1.0, 3.0, -1), muon(30.0, 0.1, 1.0, +1), muon(25.0, 0.0, 0.4, -1)]
    return [
        Decoy("z1 high", "2e2mu", high_z1, *("charge",) * 3, {"z1_mass_max": 140.0}),
        Decoy("z2 high", "2e2mu", high_z2, *("z1 mass",) * 3, {"z2_mass_max": 250.0}),
        Decoy("soft z1", "4mu", soft_z1, PASSES, "z2 mass", PASSES, {"lepton_pt_subleading": 9.0}),
    ]


def _more_leptons() -> list[Decoy]:
    """Too few, or more than four."""
    bad = muon(30.0, 0.9, -0.5, 1, isolation=2.0)
    third = muon(6.0, 1.2, 2.5, 1)
    bad_electron = electron(30.0, 0.9, -0.5, 1, isolation=2.0)
    return [
        Decoy("nothing", "4mu", [], "all", "all", "all"),
        Decoy("three muons", "4mu", four_muons()[:3], "all", "all", "all"),
        Decoy("one electron", "2e2mu", two_and_two()[1:], "all", "all", "all"),
        Decoy("a bad fifth muon", "4mu", [*four_muons(), bad], PASSES, PASSES, "all"),
        Decoy("a bad fifth electron", "4e", [*four_electrons(), bad_electron], PASSES, PASSES, "all"),
        Decoy("a bad third muon", "2e2mu", [*two_and_two(), bad], PASSES, PASSES, "leptons"),
        Decoy("a good third muon", "2e2mu", [*two_and_two(), third], PASSES, PASSES, "good leptons"),
    ]


# Outreach files made of both

Id = tuple[int, int, int]  # run, luminosity block, event
Selected = set[tuple[int, int, int, str]]  # the same and the channel


@dataclass(frozen=True)
class Outreach:
    """Files in the outreach schema, and what each selection keeps of each."""

    files: dict[str, Path]  # by primary dataset; "simulated" holds every event once
    events: dict[str, list[tuple[Id, Drawn]]]
    expected: dict[str, Selected]  # by selection, over all events, each (run, luminosity block, event) once

    def expected_in(self, primary_dataset: str, selection: str) -> Selected:
        """What is expected from one file alone."""
        ids = {which for which, _ in self.events[primary_dataset]}
        channels = CHANNELS_OF_PRIMARY_DATASET[
            None if primary_dataset == "simulated" or selection == "open2012" else primary_dataset
        ]
        return {row for row in self.expected[selection] if row[:3] in ids and row[3] in channels}


def write_outreach_with_decoys(folder: Path, shared_data: Path) -> Outreach:
    """Write the 278 real candidates, with drawn isolation and impact parameters that pass, among the decoys.

    The events with muons are in ``DoubleMu.root``, those with electrons in ``DoubleElectron.root``: as in the real
    primary datasets, each 2e2mu event is in both.
    """
    real = [(_real_id(n, row), _with_quality(row.leptons, n)) for n, row in enumerate(read_record5200(shared_data))]
    false = [((190_000 + n // 20, 1 + n % 20, 2**33 + n), decoy.leptons) for n, decoy in enumerate(decoys())]
    order = np.random.default_rng(5200).permutation(len(real) + len(false))
    everything = [(real + false)[i] for i in order]
    events = {
        "DoubleMu": [item for item in everything if any(lepton.flavour == MUON for lepton in item[1])],
        "DoubleElectron": [item for item in everything if any(lepton.flavour == ELECTRON for lepton in item[1])],
        "simulated": everything,
    }
    files = {primary_dataset: folder / f"{primary_dataset}.root" for primary_dataset in events}
    for primary_dataset, path in files.items():
        write_outreach(path, events[primary_dataset])
    expected = {name: _expected(name, shared_data, [which for which, _ in false]) for name in REAL_DROPPED}
    return Outreach(files, events, expected)


# Real candidates that a selection drops: (run, event). open2012 drops 7 with two leptons nearer than ΔR = 0.02 and 16
# others with an opposite-sign pair below 4 GeV. df103 drops one through its truncated mass: 93.53 GeV is kept as 93,
# which the nearer 93.51 does not beat, and leaves two muons of 0.35 GeV where the right pairing leaves 50.9 GeV.
NEAR_PAIR = {
    (163237, 41158481),
    (166859, 71964992),
    (194076, 651520176),
    (196334, 139206418),
    (199703, 137316968),
    (199833, 608443341),
    (202087, 453984349),
}
LIGHT_PAIR = {
    (172952, 842265702),
    (173439, 1130676816),
    (173657, 34442568),
    (173692, 292842892),
    (194151, 265657221),
    (194224, 328627223),
    (194533, 912828037),
    (195655, 323504297),
    (196218, 311679667),
    (196239, 348855506),
    (196349, 310890613),
    (199435, 435603487),
    (199877, 414227757),
    (200991, 993923997),
    (201196, 266438901),
    (201278, 1265779667),
}
REAL_DROPPED: dict[str, set[tuple[int, int]]] = {
    "aod2012": set(),
    "open2012": NEAR_PAIR | LIGHT_PAIR,
    "df103": {(199703, 137316968)},
}


def _real_id(number: int, row: Published) -> Id:
    return row.run, 1 + number, row.event


def _with_quality(leptons: Iterable[Lepton], seed: int) -> Drawn:
    """Isolation below 0.38, and a significance of at most 3: |d| < 3 σ in both."""
    rng = np.random.default_rng([5200, seed])
    return [replace(lepton, **_drawn_quality(lambda: 0.95 * rng.random() + 0.02)) for lepton in leptons]


def _expected(name: str, shared_data: Path, false: Sequence[Id]) -> Selected:
    real = {
        (*_real_id(n, row), row.channel)
        for n, row in enumerate(read_record5200(shared_data))
        if (row.run, row.event) not in REAL_DROPPED[name]
    }
    passing = {(*which, d.channel) for which, d in zip(false, decoys(), strict=True) if getattr(d, name) == PASSES}
    return real | passing


def write_outreach(path: Path, events: Sequence[tuple[Id, Drawn]], *, clusters: int = 3) -> None:
    """One file with the 32 branches of the outreach schema.

    The isolation of muons is in ``pfRelIso04_all``; their ``pfRelIso03_all`` is one that no selection would pass.
    """
    import uproot  # slow to import, and few tests write files

    with uproot.recreate(path) as file:
        for part in np.array_split(np.arange(len(events)), clusters):
            branches = _outreach_branches([events[i] for i in part])
            if "Events" in file:
                file["Events"].extend(branches)
            else:
                types = {
                    name: values.type if hasattr(values, "layout") else values.dtype
                    for name, values in branches.items()
                }
                file.mktree("Events", types).extend(branches)


def _outreach_branches(events: Sequence[tuple[Id, Drawn]]) -> dict[str, Any]:
    import awkward as ak

    ids = np.array([which for which, _ in events], dtype=np.int64).reshape(-1, 3)
    chunk = pack([leptons for _, leptons in events])
    columns: dict[str, dict[str, Any]] = {}
    for prefix in ("muon", "electron"):
        counts = np.diff(getattr(chunk, f"{prefix}_offsets"))
        renamed = {"dxy_error": "dxyErr", "dz_error": "dzErr"}
        values = {
            renamed.get(name, name): getattr(chunk, f"{prefix}_{name}") for name in COLUMNS if name != "isolation"
        }
        isolation = getattr(chunk, f"{prefix}_isolation")
        if prefix == "muon":
            values |= {"pfRelIso03_all": np.full_like(isolation, 9.0), "pfRelIso04_all": isolation}
        else:
            values |= {"pfRelIso03_all": isolation}
        columns[prefix] = {name: ak.unflatten(column, counts) for name, column in values.items()}
    n = len(events)
    return {
        "run": ids[:, 0].astype(np.int32),
        "luminosityBlock": ids[:, 1].astype(np.uint32),
        "event": ids[:, 2].astype(np.uint64),
        "PV_npvs": np.full(n, 12, dtype=np.int32),
        **{f"PV_{axis}": np.zeros(n, dtype=np.float32) for axis in "xyz"},
        "Muon": ak.zip(columns["muon"]),
        "Electron": ak.zip(columns["electron"]),
        "MET_pt": np.full(n, 20.0, dtype=np.float32),
        "MET_phi": np.zeros(n, dtype=np.float32),
    }
