"""One set of events in all the forms in which files may hold them, and the columns that must come out."""

from __future__ import annotations

import csv
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import numpy.typing as npt
import uproot

from higgsnb.datasets import Chunk, File, constants

Array = npt.NDArray[Any]
N = 240
LEPTONS = ("pt", "eta", "phi", "mass", "charge", "dxy", "dxy_error", "dz", "dz_error", "isolation")
MUON_MASS, ELECTRON_MASS = np.float32(constants.MASS_MUON), np.float32(constants.MASS_ELECTRON)


@dataclass(frozen=True)
class Made:
    """The events: columns with one value per event, counts and jagged columns by collection, as NanoAOD names them."""

    flat: dict[str, Array]
    counts: dict[str, npt.NDArray[np.int64]]
    jagged: dict[str, dict[str, Array]]

    def column(self, name: str, which: npt.NDArray[np.bool_]) -> Array:
        """A column of some events, by its name in NanoAOD."""
        if name in self.flat:
            return self.flat[name][which]
        if name[1:] in self.counts:
            return self.counts[name[1:]][which]
        collection, _, quantity = name.partition("_")
        return self.jagged[collection][quantity][np.repeat(which, self.counts[collection])]

    def lists(self, collection: str) -> dict[str, Any]:
        """The columns of a collection as lists."""
        return {name: ak.unflatten(v, self.counts[collection]) for name, v in self.jagged[collection].items()}

    def records(self, collection: str) -> Any:
        """The same as records."""
        return ak.zip(self.lists(collection))


def make(seed: int = 14) -> Made:
    """Make events; momenta and lengths survive being written in MeV and mm and divided again."""
    rng = np.random.default_rng(seed)
    number = np.arange(N)
    flat: dict[str, Array] = {
        "run": (278_820 + number // 60).astype(np.uint32),
        "luminosityBlock": (1 + number // 7).astype(np.uint32),
        "event": (2**40 + 2**31 - 4000 + 37 * number).astype(np.uint64),
        "MET_pt": (rng.integers(8, 800, N) / 8).astype(np.float32),
        "MET_phi": rng.uniform(-3, 3, N).astype(np.float32),
        "HLT_IsoMu24": rng.random(N) < 0.6,
        "HLT_Ele27": rng.random(N) < 0.3,
    }
    counts = {name: rng.integers(0, 6, N) for name in ("Muon", "Electron", "Jet")}
    jagged = {}
    for name, mass in (("Muon", MUON_MASS), ("Electron", ELECTRON_MASS)):
        n = int(counts[name].sum())
        jagged[name] = {
            "pt": (rng.integers(40, 800, n) / 8).astype(np.float32),
            "eta": rng.uniform(-2.4, 2.4, n).astype(np.float32),
            "phi": rng.uniform(-3, 3, n).astype(np.float32),
            "mass": np.full(n, mass),
            "charge": rng.choice([-1, 1], n).astype(np.int32),
            "dxy": (rng.integers(-40, 41, n) / 1024).astype(np.float32),
            "dxyErr": rng.uniform(0.001, 0.01, n).astype(np.float32),
            "dz": (rng.integers(-80, 81, n) / 1024).astype(np.float32),
            "dzErr": rng.uniform(0.001, 0.02, n).astype(np.float32),
            "pfRelIso03_all": rng.choice([0.0, 0.125, 0.25, 0.5], n).astype(np.float32),
            "mediumId": rng.random(n) < 0.7,
            "jetIdx": rng.integers(-1, 4, n).astype(np.int32),
        }
    jagged["Muon"]["pfRelIso04_all"] = jagged["Muon"]["pfRelIso03_all"]
    n = int(counts["Jet"].sum())
    jagged["Jet"] = {
        "pt": (rng.integers(120, 1600, n) / 8).astype(np.float32),
        "jetId": rng.integers(0, 7, n).astype(np.uint8),
    }
    return Made(flat, counts, jagged)


@dataclass(frozen=True)
class Written:
    """A file of these events: how to read it, and what it calls or lacks of them."""

    chunk: Chunk
    reader: str
    names: Mapping[str, str] = field(default_factory=dict)
    """Names of columns that differ from those in `Made`."""
    lacks: frozenset[str] = frozenset()
    """Fields of `Leptons` that are None."""
    has_lists: bool = True
    """Whether it has jets, and quality flags of leptons."""


def _chunk(path: Path, schema: str = "nanoaod", **options: Any) -> Chunk:
    url = File(str(path), friends=tuple(map(str, options.pop("friends", ()))))
    return replace(Chunk("d", 0, 0, url, schema, None, True, 0, N, None), **options)


def tree_of(path: Path, columns: Mapping[str, Any], *, name: str = "Events", **options: Any) -> Path:
    """Write a TTree in baskets of 100 events."""
    with uproot.recreate(path, compression=uproot.ZLIB(1)) as file:
        types = {key: ak.type(ak.Array(values)).content for key, values in columns.items()}
        tree = file.mktree(name, types, **options)
        for start in range(0, N, 100):
            tree.extend({key: values[start : start + 100] for key, values in columns.items()})
    return path


def _ntuple(path: Path, columns: Mapping[str, Any]) -> Path:
    """Write an RNTuple in clusters of 150 events."""
    with uproot.recreate(path, compression=uproot.ZSTD(1)) as file:
        ntuple = file.mkrntuple("Events", {key: values[:150] for key, values in columns.items()})
        ntuple.extend({key: values[150:] for key, values in columns.items()})
    return path


def _side_by_side(made: Made, *collections: str) -> dict[str, Any]:
    return {f"{one}_{name}": values for one in collections for name, values in made.lists(one).items()}


def outreach(made: Made, folder: Path) -> Written:
    """Signed run numbers, 32 columns at most: no triggers."""
    flat = {**made.flat, "run": made.flat["run"].astype(np.int32)}
    columns = {name: values for name, values in flat.items() if not name.startswith("HLT")}
    leptons = {one: made.records(one) for one in ("Muon", "Electron")}
    return Written(_chunk(tree_of(folder / "outreach.root", {**columns, **leptons}), "outreach"), "baskets")


def v9(made: Made, folder: Path) -> Written:
    """Counters without a sign."""
    path = tree_of(folder / "v9.root", {**made.flat, **{one: made.records(one) for one in made.counts}})
    content = path.read_bytes()
    for one in made.counts:
        text = bytes([1 + len(one)]) + b"n" + one.encode()
        leaf = text + text + struct.pack(">iii?", 1, 4, 0, True)  # name and title, then length, bytes, offset, range
        assert content.count(leaf + b"\0") == 1
        content = content.replace(leaf + b"\0", leaf + b"\1")
    path.write_bytes(content)
    return Written(_chunk(path), "baskets")


def v12(made: Made, folder: Path) -> Written:
    """Counters with a sign, smaller integers."""
    jagged = {name: dict(columns) for name, columns in made.jagged.items()}
    for name in ("Muon", "Electron"):
        jagged[name]["jetIdx"] = jagged[name]["jetIdx"].astype(np.int16)
    smaller = replace(made, jagged=jagged)
    path = tree_of(folder / "v12.root", {**made.flat, **{one: smaller.records(one) for one in made.counts}})
    return Written(_chunk(path), "baskets")


def v15(made: Made, folder: Path) -> Written:
    """Missing momentum under another name, and doubles among the flat columns."""
    columns = {name.replace("MET", "PFMET"): values for name, values in made.flat.items()}
    columns["PFMET_pt"] = columns["PFMET_pt"].astype(np.float64)
    columns |= {one: made.records(one) for one in made.counts}
    path = tree_of(folder / "v15.root", columns)
    return Written(_chunk(path), "baskets", {"MET_pt": "PFMET_pt", "MET_phi": "PFMET_phi"})


def run1(made: Made, folder: Path) -> Written:
    """Columns of records 31104-31133: counters that look like columns, and columns that look like counters."""
    more = {"Muon_nNano": made.counts["Muon"].astype(np.int32), "nTrk": np.arange(N, dtype=np.int32)}
    path = tree_of(folder / "run1.root", {**made.flat, **more, **{one: made.records(one) for one in made.counts}})
    return Written(_chunk(path), "baskets")


def flat_ntuple(made: Made, folder: Path) -> Written:
    """An RNTuple with a field for each column."""
    return Written(_chunk(_ntuple(folder / "n.root", {**made.flat, **_side_by_side(made, *made.counts)})), "pages")


def record_ntuple(made: Made, folder: Path) -> Written:
    """An RNTuple of records, as uproot writes events today: ``Muon.pt``, ``MET.pt``."""
    columns = {name: values for name, values in made.flat.items() if not name.startswith("MET_")}
    columns["MET"] = ak.zip({name: made.flat[f"MET_{name}"] for name in ("pt", "phi")})
    columns |= {one: made.records(one) for one in made.counts}
    return Written(_chunk(_ntuple(folder / "r.root", columns)), "pages")


def own_counters(made: Made, folder: Path) -> Written:
    """A TTree in which each column has a counter of its own."""
    path = tree_of(folder / "own.root", {**made.flat, **_side_by_side(made, *made.counts)})
    return Written(_chunk(path), "baskets")


def friends(made: Made, folder: Path) -> Written:
    """Two TTrees and an RNTuple in files of their own, in a tree of another name."""
    flat = {name: values for name, values in made.flat.items() if not name.startswith("HLT")}
    first = tree_of(folder / "first.root", {**flat, "Muon": made.records("Muon")}, name="t")
    triggers = {name: values for name, values in made.flat.items() if name not in flat}
    second = tree_of(folder / "second.root", {**triggers, "Electron": made.records("Electron")}, name="t")
    third = tree_of(folder / "third.root", {"Jet": made.records("Jet"), "MET_pt": np.zeros(N, np.float32)}, name="t")
    return Written(_chunk(first, friends=(second, third), tree="t"), "baskets")


def other_tree(made: Made, folder: Path) -> Written:
    """A TTree with another name."""
    path = tree_of(folder / "other.root", {**made.flat, **{one: made.records(one) for one in made.counts}}, name="nano")
    return Written(_chunk(path, tree="nano"), "baskets")


def _atlas(made: Made, folder: Path, tree: str, unit: float) -> Written:
    """Leptons of both flavours in one collection, the electrons first in every other event."""
    is_mini = tree == "mini"
    order = [("Muon", "Electron"), ("Electron", "Muon")]
    names = ("pt", "eta", "phi", "charge", "dxy", "dz", "pfRelIso03_all", "mediumId")
    parts: dict[str, list[Any]] = {name: [] for name in (*names, "type")}
    lists = {flavour: made.lists(flavour) for flavour in ("Muon", "Electron")}
    for event in range(N):
        for name, found in parts.items():
            columns = [
                np.full(made.counts[flavour][event], 13 if flavour == "Muon" else 11)
                if name == "type"
                else np.asarray(lists[flavour][name][event])
                for flavour in order[event % 2]
            ]
            found.append(np.concatenate(columns))
    columns = {name: np.concatenate(found) for name, found in parts.items()}
    counts = made.counts["Muon"] + made.counts["Electron"]
    pt = columns["pt"] * np.float32(unit)
    lep = {
        "pt": pt,
        "eta": columns["eta"],
        "phi": columns["phi"],
        "charge": columns["charge"].astype(np.int32),
        "type": columns["type"].astype(np.int32),
        "trackd0pvunbiased" if is_mini else "d0": columns["dxy"] * np.float32(10),
        "z0": columns["dz"] * np.float32(10),
        "ptcone30" if is_mini else "ptvarcone30": pt * columns["pfRelIso03_all"],
        "isMediumID": columns["mediumId"],
    }
    event = made.flat["event"] % 2**32
    flat = {
        "runNumber": made.flat["run"].astype(np.int32 if is_mini else np.uint32),
        "eventNumber": event.astype(np.uint32).view(np.int32) if is_mini else event,
        "lep_n": counts.astype(np.int32),
        "met_et" if is_mini else "met": made.flat["MET_pt"] * np.float32(unit),
        "met_phi": made.flat["MET_phi"],
        "trigM": made.flat["HLT_IsoMu24"],
        "trigE": made.flat["HLT_Ele27"],
    }
    records = {"lep": ak.zip({name: ak.unflatten(values, counts) for name, values in lep.items()})}
    path = tree_of(folder / f"{tree}.root", {**flat, **records}, name=tree)
    named = {
        "MET_pt": "met_et" if is_mini else "met",
        "MET_phi": "met_phi",
        "HLT_IsoMu24": "trigM",
        "HLT_Ele27": "trigE",
    }
    named |= {f"{one}_{name}": f"{one}_isMediumID" for one in ("Muon", "Electron") for name in ("mediumId",)}
    lacks = frozenset(f"{flavour}_{name}_error" for flavour in ("muon", "electron") for name in ("dxy", "dz"))
    return Written(_chunk(path, "atlas"), "baskets", named, lacks)


def atlas_mini(made: Made, folder: Path) -> Written:
    """ATLAS Open Data of 2020, in MeV; event numbers with a sign."""
    return _atlas(made, folder, "mini", 1000.0)


def atlas_analysis(made: Made, folder: Path) -> Written:
    """ATLAS Open Data of 2025, in GeV."""
    return _atlas(made, folder, "analysis", 1.0)


def flat_csv(made: Made, folder: Path) -> Written:
    """A table with five places for muons and five for electrons."""
    quantities = ("pt", "eta", "phi", "charge", "dxy", "dxyErr", "dz", "dzErr", "pfRelIso03_all")
    headers: dict[str, Any] = {
        "run": "Run",
        "event": "Event",
        "luminosityBlock": "LS",
        "MET_pt": "met",
        "MET_phi": "mphi",
    }
    headers |= {"HLT_IsoMu24": "trigger"}
    for flavour in ("Muon", "Electron"):
        headers |= {f"{flavour}_{name}": tuple(f"{flavour[0]}{name}{i}" for i in range(5)) for name in quantities}
    headers["Muon_pfRelIso04_all"] = headers["Muon_pfRelIso03_all"]
    path = folder / "events.csv"
    lists = {flavour: made.lists(flavour) for flavour in ("Muon", "Electron")}
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter=";")
        flat = {header: made.flat[name] for name, header in headers.items() if isinstance(header, str)}
        places = [
            (flavour, name, i, headers[f"{flavour}_{name}"][i])
            for flavour in lists
            for name in quantities
            for i in range(5)
        ]
        writer.writerow([*flat, *(header for *_, header in places)])
        for event in range(N):
            objects = {(one, name): lists[one][name][event].tolist() for one in lists for name in quantities}
            cells = [objects[one, name][i : i + 1] for one, name, i, _ in places]
            writer.writerow([*(_text(values[event]) for values in flat.values()), *(c[0] if c else "" for c in cells)])
    return Written(_chunk(path, "csv", columns=headers), "csv", has_lists=False)


def _text(value: Any) -> str:
    return str(int(value)) if value.dtype.kind in "biu" else repr(float(value))


FORMS: dict[str, Callable[[Made, Path], Written]] = {
    one.__name__: one
    for one in (
        outreach, v9, v12, v15, run1, flat_ntuple, record_ntuple, own_counters, friends, other_tree, atlas_mini,
        atlas_analysis, flat_csv,
    )
}  # fmt: skip
