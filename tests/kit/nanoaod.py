"""Files in the form of CMS NanoAODv9 from known events: collections, identification, photons, triggers, `Runs`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import uproot
from known_events import ELECTRON, MASS, MUON, PATHS, PHOTON_ANGLE, UNASKED, KnownEvent, KnownLepton

ALL_PATHS = tuple(sorted({*(path for paths in PATHS.values() for path in paths), *UNASKED.values()}))

Quantity = tuple[str, type, Any]  # branch without the prefix, type, value of a good lepton
COMMON: tuple[Quantity, ...] = (
    ("dxy", np.float32, 0.002), ("dxyErr", np.float32, 0.003), ("dz", np.float32, -0.004), ("dzErr", np.float32, 0.005),
    ("ip3d", np.float32, 0.004), ("sip3d", np.float32, 1.1), ("pfRelIso03_all", np.float32, 0.03),
)  # fmt: skip
MUON_QUALITY: tuple[Quantity, ...] = (
    *COMMON, ("pfRelIso04_all", np.float32, 0.04), ("isPFcand", np.bool_, True), ("isGlobal", np.bool_, True),
    ("isTracker", np.bool_, True), ("looseId", np.bool_, True), ("mediumId", np.bool_, True),
    ("tightId", np.bool_, True), ("highPtId", np.uint8, 0), ("nStations", np.int32, 4), ("pdgId", np.int32, 0),
)  # fmt: skip
ELECTRON_QUALITY: tuple[Quantity, ...] = (
    *COMMON, ("mvaFall17V2Iso", np.float32, 0.99), ("mvaFall17V2Iso_WP90", np.bool_, True),
    ("deltaEtaSC", np.float32, 0.01), ("lostHits", np.uint8, 0), ("convVeto", np.bool_, True), ("pdgId", np.int32, 0),
)  # fmt: skip


def write(
    path: Path, events: Sequence[KnownEvent], *, paths: Iterable[str] = ALL_PATHS, simulated: bool = False,
    generated: float = 1.0,
) -> Path:  # fmt: skip
    """Write a file with the trees Events, Runs and LuminosityBlocks.

    ``paths`` are the branches of the trigger: it is complete for most files, and lacks those that were not in the menu.
    Simulation has generator weights, and in `Runs` their sum over ``generated`` times as many events as there are.
    """
    columns: dict[str, Any] = {
        "run": np.array([event.run for event in events], np.uint32),
        "luminosityBlock": np.array([event.section for event in events], np.uint32),
        "event": np.array([event.number for event in events], np.uint64),
        "PV_npvs": np.full(len(events), 24, np.int32),
        "PV_npvsGood": np.full(len(events), 19, np.int32),
        "MET_pt": np.full(len(events), 21.5, np.float32),
        "MET_phi": np.zeros(len(events), np.float32),
        "Muon": _leptons(events, MUON, MUON_QUALITY),
        "Electron": _leptons(events, ELECTRON, ELECTRON_QUALITY),
        "FsrPhoton": _photons(events),
    }
    columns |= {name: np.array([name in event.fired for event in events], np.bool_) for name in paths}
    if simulated:
        columns["genWeight"] = np.array([event.weight for event in events], np.float32)
    with uproot.recreate(path, compression=uproot.ZLIB(1)) as file:
        types = {
            name: ak.type(values).content if isinstance(values, ak.Array) else values.dtype
            for name, values in columns.items()
        }
        file.mktree("Events", types, title="Events").extend(columns)
        file["Runs"] = _runs(events, generated) if simulated else {"run": _unique(events, "run")}
        sections = sorted({(event.run, event.section) for event in events})
        file["LuminosityBlocks"] = {
            "run": np.array([run for run, _ in sections], np.uint32),
            "luminosityBlock": np.array([section for _, section in sections], np.uint32),
        }
    return path


def _unique(events: Sequence[KnownEvent], name: str) -> Any:
    return np.array(sorted({getattr(event, name) for event in events}), np.uint32)


def _runs(events: Sequence[KnownEvent], generated: float) -> dict[str, Any]:
    weights = np.array([event.weight for event in events])
    return {
        "run": np.array([1], np.uint32),
        "genEventCount": np.array([round(generated * len(events))], np.int64),
        "genEventSumw": np.array([generated * weights.sum()]),
        "genEventSumw2": np.array([generated * (weights**2).sum()]),
    }


def _jagged(events: Sequence[KnownEvent], items: Callable[[KnownEvent], list[Any]], fields: dict[str, Any]) -> ak.Array:
    """A collection: ``fields`` are functions of an item, with their types."""
    of_each = [items(event) for event in events]
    counts = np.array([len(some) for some in of_each], np.int64)
    flat = [item for some in of_each for item in some]
    columns = {name: np.array([value(item) for item in flat]).astype(kind) for name, (kind, value) in fields.items()}
    return ak.zip({name: ak.unflatten(ak.Array(values), counts) for name, values in columns.items()})


def _leptons(events: Sequence[KnownEvent], flavour: int, quality: Sequence[Quantity]) -> ak.Array:
    fields: dict[str, Any] = {
        "pt": (np.float32, lambda item: item[0].pt),
        "eta": (np.float32, lambda item: item[0].eta),
        "phi": (np.float32, lambda item: item[0].phi),
        "mass": (np.float32, lambda _: MASS[flavour]),
        "charge": (np.int32, lambda item: item[0].charge),
    }
    for name, kind, good in quality:
        fields[name] = (kind, lambda item, name=name, good=good: item[0].quality.get(name, good))
    fields["pdgId"] = (np.int32, lambda item: -item[0].charge * flavour)
    if flavour == MUON:
        fields["fsrPhotonIdx"] = (np.int32, lambda item: item[1])
    return _jagged(events, lambda event: _with_photons(event, flavour), fields)


def _with_photons(event: KnownEvent, flavour: int) -> list[tuple[KnownLepton, int]]:
    """Leptons of one flavour by falling pT, each with the index of its photon or -1."""
    mine = sorted((one for one in event.leptons if one.flavour == flavour), key=lambda one: -one.pt)
    radiating = [one for one in mine if one.photon]
    return [(one, radiating.index(one) if one.photon else -1) for one in mine]


def _photons(events: Sequence[KnownEvent]) -> ak.Array:
    fields: dict[str, Any] = {
        "pt": (np.float32, lambda item: item[0].photon),
        "eta": (np.float32, lambda item: item[0].eta),
        "phi": (np.float32, lambda item: math.remainder(item[0].phi + PHOTON_ANGLE, 2 * math.pi)),
        "relIso03": (np.float32, lambda _: 0.1),
        "dROverEt2": (np.float32, lambda _: 0.001),
        "muonIdx": (np.int32, lambda item: item[1]),
    }

    def radiated(event: KnownEvent) -> list[tuple[KnownLepton, int]]:
        return [(one, place) for place, (one, photon) in enumerate(_with_photons(event, MUON)) if photon >= 0]

    return _jagged(events, radiated, fields)
