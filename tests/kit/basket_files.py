"""Small ROOT files for the tests of the fast readers, and what plain uproot finds in them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import numpy.typing as npt
import uproot

from higgsnb.events import Columns
from higgsnb.events.fast.baskets import Preselected
from higgsnb.events.leptons import FOUR_LEPTONS

CODECS = {"ZLIB": 101, "LZ4": 404, "ZSTD": 505, "LZMA": 207, "none": 0}
"""ROOT's compression settings."""
COLUMNS = Columns(
    ("run", "luminosityBlock", "event", "Muon_pt", "Muon_charge", "Electron_pt", "Electron_charge"), FOUR_LEPTONS
)


@dataclass(frozen=True)
class Events:
    """Lepton counts per event; everything else follows from them and the event's number."""

    muons: npt.NDArray[np.int64]
    electrons: npt.NDArray[np.int64]

    @classmethod
    def random(cls, n: int, seed: int = 1, most: int = 5) -> Events:
        rng = np.random.default_rng(seed)
        return cls(rng.integers(0, most + 1, n), rng.integers(0, most + 1, n))

    def part(self, start: int, stop: int) -> dict[str, Any]:
        """Columns of some events."""
        number = np.arange(start, stop)
        part: dict[str, Any] = {
            "run": (1 + number // 50).astype(np.int32),
            "luminosityBlock": (1 + number // 7).astype(np.uint32),
            "event": (10**12 + number * 37).astype(np.uint64),
        }
        for seed, (flavour, counts) in enumerate({"Muon": self.muons, "Electron": self.electrons}.items()):
            here = counts[start:stop]
            rng = np.random.default_rng([seed, start, stop])
            part[flavour] = ak.zip(
                {
                    "pt": ak.unflatten((0.125 * rng.integers(8, 800, here.sum())).astype(np.float32), here),
                    "charge": ak.unflatten(rng.choice([-1, 1], here.sum()).astype(np.int32), here),
                }
            )
        return part


def write_tree(path: Path, events: Events, *, codec: str = "ZLIB", baskets: Sequence[int] | None = None) -> Path:
    """Write a TTree with baskets of so many events each."""
    edges = np.cumsum([0, *(baskets or [len(events.muons)])]).tolist()
    first = events.part(0, 0)
    with uproot.recreate(path, compression=_compression(codec)) as file:
        tree = file.mktree("Events", {name: ak.type(ak.Array(values)).content for name, values in first.items()})
        for start, stop in itertools.pairwise(edges):
            if stop > start:
                tree.extend(events.part(start, stop))
    return path


def write_ntuple(path: Path, events: Events, *, codec: str = "ZLIB", clusters: Sequence[int] | None = None) -> Path:
    """Write an RNTuple with clusters of so many events each; every field has offsets of its own."""
    edges = np.cumsum([0, *(clusters or [len(events.muons)])]).tolist()
    with uproot.recreate(path, compression=_compression(codec)) as file:
        ntuple = None
        for start, stop in itertools.pairwise(edges):
            part = flat_fields(events.part(start, stop))
            if ntuple is None:
                ntuple = file.mkrntuple("Events", part)
            else:
                ntuple.extend(part)
    return path


def flat_fields(part: dict[str, Any]) -> dict[str, Any]:
    """Jagged columns side by side, as NanoAOD has them."""
    fields = {name: values for name, values in part.items() if name not in ("Muon", "Electron")}
    return fields | {f"{flavour}_{q}": part[flavour][q] for flavour in ("Muon", "Electron") for q in ("pt", "charge")}


def _compression(codec: str) -> uproot.compression.Compression:
    # Instead of None, which versions before 5.7.7 cannot write into an RNTuple.
    return uproot.compression.Compression.from_code(CODECS[codec]) or uproot.ZLIB(0)


def plainly(
    path: Path, start: int = 0, stop: int | None = None, columns: Columns = COLUMNS
) -> dict[str, npt.NDArray[Any]]:
    """The survivors as plain uproot and awkward find them: the oracle."""
    with uproot.open(path, array_cache=None, object_cache=None) as file:
        tree = file["Events"]
        names = [name for name in columns.names if name in tree]
        batch = tree.arrays(names, entry_start=start, entry_stop=stop, library="ak")
    firsts = (next(name for name in names if name.startswith(f"{flavour}_")) for flavour in ("Muon", "Electron"))
    muons, electrons = (ak.num(batch[name]).to_numpy() for name in firsts)
    keep = np.maximum(muons, electrons) >= 4
    keep |= np.minimum(muons, electrons) >= 2
    found = {name: ak.flatten(batch[name][keep], axis=None).to_numpy() for name in names if not name.startswith("n")}
    return found | {
        "entries": np.flatnonzero(keep) + start,
        "muons": muons[keep],
        "electrons": electrons[keep],
    }


def same(survivors: Preselected, expected: dict[str, npt.NDArray[Any]]) -> bool:
    """Whether the fast reader found the same, to the bit and the type."""
    found = {**survivors.flat, **survivors.jagged} | {
        "entries": survivors.entries,
        "muons": np.diff(survivors.offsets["Muon"]),
        "electrons": np.diff(survivors.offsets["Electron"]),
    }
    return found.keys() == expected.keys() and all(
        np.array_equal(found[name], values) and (name in ("muons", "electrons") or found[name].dtype == values.dtype)
        for name, values in expected.items()
    )
