"""Seeded benchmark inputs in the outreach schema, in the basket layouts and codecs that real files have.

The columns come from one counter-seeded generator, so every codec and layout of one size holds the same events.
ROOT writes them where it is installed (entry offsets and basket flushing exactly as in the public files), uproot
otherwise; RNTuple files are written by uproot.

Events are data-like: about 2.2 leptons each, about 1.4 % with enough of them for four-lepton channels, floats with
full mantissa entropy, so that a ZLIB-1 file has 90 bytes per event (the public 2012 files have 85 to 126).
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

CODECS = {"none": 0, "zlib": 101, "lzma": 207, "lz4": 404, "zstd": 505}
"""ROOT's compression settings, algorithm times 100 plus level."""

FLAVOURS = {
    "Muon": ("pt", "eta", "phi", "mass", "charge", "dxy", "dxyErr", "dz", "dzErr", "pfRelIso03_all", "pfRelIso04_all"),
    "Electron": ("pt", "eta", "phi", "mass", "charge", "dxy", "dxyErr", "dz", "dzErr", "pfRelIso03_all"),
}
SCALARS = {
    "run": "int32",
    "luminosityBlock": "uint32",
    "event": "uint64",
    "PV_npvs": "int32",
    "PV_x": "float32",
    "PV_y": "float32",
    "PV_z": "float32",
    "MET_pt": "float32",
    "MET_phi": "float32",
}
ROOT_TYPES = {"int32": "I", "uint32": "i", "uint64": "l", "float32": "F"}
BLOCK = 100_000
"""Events generated at a time; part of the seed, so that a longer file begins with the events of a shorter one."""


@dataclass(frozen=True)
class Layout:
    """How a writer cuts branches into baskets."""

    name: str
    basket_bytes: int
    flush_entries: int
    """Entries between flushes of all branches together; 0 lets each branch flush when its own buffer is full."""


LARGE = Layout("large", 4_000_000, 100_000)
SMALL = Layout("small", 32_000, 0)
LAYOUTS = {layout.name: layout for layout in (LARGE, SMALL)}


def columns(n_events: int, *, seed: int = 2012, signal: bool = False) -> Iterator[dict[str, NDArray[Any]]]:
    """Blocks of at most ``BLOCK`` events: name to array, jagged branches flat beside their counters."""
    for number, start in enumerate(range(0, n_events, BLOCK)):
        rng = np.random.Generator(np.random.Philox(key=[seed, number + (1 << 32 if signal else 0)]))
        block = _block(rng, start, signal)
        yield _head(block, n_events - start) if n_events - start < BLOCK else block


def _block(rng: np.random.Generator, start: int, signal: bool) -> dict[str, NDArray[Any]]:
    """One full block of events."""
    index = np.arange(start, start + BLOCK)
    block: dict[str, NDArray[Any]] = {
        "run": (198_000 + index // 400_000).astype(np.int32),
        "luminosityBlock": (1 + index // 700 % 1000).astype(np.uint32),
        "event": np.cumsum(rng.integers(1, 400, BLOCK)).astype(np.uint64) + np.uint64(start * 400),
        "PV_npvs": rng.poisson(15, BLOCK).astype(np.int32),
        "PV_x": rng.normal(0.07, 0.002, BLOCK).astype(np.float32),
        "PV_y": rng.normal(0.06, 0.002, BLOCK).astype(np.float32),
        "PV_z": rng.normal(0.0, 5.0, BLOCK).astype(np.float32),
        "MET_pt": rng.exponential(20.0, BLOCK).astype(np.float32),
        "MET_phi": rng.uniform(-np.pi, np.pi, BLOCK).astype(np.float32),
    }
    muons = [0.34, 0.09, 0.27, 0.06, 0.22, 0.02] if signal else [0.02, 0.12, 0.70, 0.153, 0.006, 0.001]
    electrons = [0.34, 0.10, 0.27, 0.06, 0.21, 0.02] if signal else [0.80, 0.19, 0.008, 0.0013, 0.0006, 0.0001]
    for flavour, weights, mass in (("Muon", muons, 0.10565837), ("Electron", electrons, 0.000511)):
        counts = rng.choice(len(weights), BLOCK, p=weights).astype(np.uint32)
        block[f"n{flavour}"] = counts
        block.update(_leptons(rng, flavour, int(counts.sum()), mass))
    return block


def _leptons(rng: np.random.Generator, flavour: str, n: int, mass: float) -> dict[str, NDArray[Any]]:
    """Flat columns of ``n`` leptons, one in a hundred with the sentinel of a missing quantity."""
    values = {
        "pt": 4.0 + rng.exponential(25.0, n),
        "eta": rng.normal(0.0, 1.2, n),
        "phi": rng.uniform(-np.pi, np.pi, n),
        "mass": np.full(n, mass),
        "charge": rng.choice([-1, 1], n),
        "dxy": rng.normal(0.0, 0.005, n),
        "dxyErr": 0.001 + rng.exponential(0.004, n),
        "dz": rng.normal(0.0, 0.01, n),
        "dzErr": 0.002 + rng.exponential(0.01, n),
        "pfRelIso03_all": rng.exponential(0.12, n),
        "pfRelIso04_all": rng.exponential(0.12, n),
    }
    missing = rng.random(n) < 0.01
    for name in ("dxy", "dxyErr", "dz", "dzErr"):
        values[name][missing] = -999.0
    values["pfRelIso03_all"][rng.random(n) < 0.01] = -999.0
    dtypes = {"charge": np.int32}
    return {f"{flavour}_{name}": values[name].astype(dtypes.get(name, np.float32)) for name in FLAVOURS[flavour]}


def _head(block: dict[str, NDArray[Any]], n_events: int) -> dict[str, NDArray[Any]]:
    """The first events of a block."""
    lengths = {flavour: int(block[f"n{flavour}"][:n_events].sum()) for flavour in FLAVOURS}
    return {name: array[: lengths.get(name.partition("_")[0], n_events)] for name, array in block.items()}


_WRITER = """
struct OutreachWriter {{
   TFile file;
   TTree *tree;
   {members}
   OutreachWriter(const char *path, int compression, int basket_bytes, long flush)
      : file(path, "RECREATE", "", compression), tree(new TTree("Events", "Events", 99, &file)) {{
      tree->SetAutoSave(0);
      tree->SetAutoFlush(flush);
      {branches}
   }}
   void fill(long n, {arguments}) {{
      long muon = 0, electron = 0;
      for (long i = 0; i < n; ++i) {{
         {assignments}
         tree->Fill();
         muon += nMuon;
         electron += nElectron;
      }}
   }}
   void close() {{ file.cd(); tree->Write("", TObject::kOverwrite); file.Close(); }}
}};
"""
_CPP = {"int32": "int", "uint32": "unsigned int", "uint64": "std::uint64_t", "float32": "float"}


def _branch_names() -> list[tuple[str, str, str]]:
    """(branch, C++ type, flavour or nothing) in the order of the public files."""
    names = [(name, _CPP[dtype], "") for name, dtype in SCALARS.items()]
    for flavour, quantities in FLAVOURS.items():
        names.append((f"n{flavour}", "unsigned int", ""))
        names += [(f"{flavour}_{q}", "int" if q == "charge" else "float", flavour) for q in quantities]
    return names


def _declare_writer() -> Any:
    """Compile the C++ writer once and return ROOT."""
    import ROOT

    if hasattr(ROOT, "OutreachWriter"):
        return ROOT
    letters = {_CPP[dtype]: letter for dtype, letter in ROOT_TYPES.items()}
    members, branches, arguments, assignments = [], [], [], []
    for name, cpp, flavour in _branch_names():
        arguments.append(f"{cpp} *{name}_")
        size = f"[n{flavour}]" if flavour else ""
        members.append(f"{cpp} {name}{'[64]' if flavour else ''};")
        amp = "" if flavour else "&"
        branches.append(f'tree->Branch("{name}", {amp}{name}, "{name}{size}/{letters[cpp]}", basket_bytes);')
        if flavour:
            index = flavour.lower()
            assignments.append(f"for (unsigned k = 0; k < n{flavour}; ++k) {name}[k] = {name}_[{index} + k];")
        else:
            assignments.append(f"{name} = {name}_[i];")
    code = _WRITER.format(
        members="\n   ".join(members),
        branches="\n      ".join(branches),
        arguments=", ".join(arguments),
        assignments="\n         ".join(assignments),
    )
    if not ROOT.gInterpreter.Declare(code):
        raise RuntimeError("the C++ writer of the benchmark inputs did not compile; ROOT 6.30 or newer is needed")
    return ROOT


def write_with_root(path: Path, n_events: int, *, codec: str, layout: Layout, signal: bool = False) -> None:
    """Write a TTree file with ROOT itself."""
    root = _declare_writer()
    names = [name for name, _, _ in _branch_names()]
    writer = root.OutreachWriter(str(path), CODECS[codec], layout.basket_bytes, layout.flush_entries)
    for block in columns(n_events, signal=signal):
        writer.fill(len(block["run"]), *(np.ascontiguousarray(block[name]) for name in names))
    writer.close()


def convert_with_root(source: Path, path: Path, *, codec: str) -> None:
    """Turn a TTree file into an RNTuple as converted NanoAOD is: a collection per flavour, its fields projected out."""
    import ROOT

    path.unlink(missing_ok=True)
    importer = ROOT.Experimental.RNTupleImporter.Create(str(source), "Events", str(path))
    options = importer.GetWriteOptions()
    options.SetCompression(CODECS[codec])
    importer.SetWriteOptions(options)
    importer.SetIsQuiet(True)
    importer.Import()


def write_with_uproot(path: Path, n_events: int, *, codec: str, rntuple: bool = False, signal: bool = False) -> None:
    """Write a TTree or an RNTuple with uproot: one basket or cluster per block."""
    import awkward as ak
    import uproot

    with uproot.recreate(path, compression=uproot.compression.Compression.from_code(CODECS[codec])) as file:
        written = None
        for block in columns(n_events, signal=signal):
            record: dict[str, Any] = {name: block[name] for name in SCALARS}
            for flavour, quantities in FLAVOURS.items():
                counts = block[f"n{flavour}"].astype(np.int64)
                record[flavour] = ak.zip({q: ak.unflatten(block[f"{flavour}_{q}"], counts) for q in quantities})
            if rntuple:
                record = _flatten(record)
            if written is None and rntuple:
                written = file.mkrntuple("Events", {name: values[:0] for name, values in record.items()})
            elif written is None:
                written = file.mktree("Events", {name: ak.type(ak.Array(v)).content for name, v in record.items()})
            written.extend(record)


def _flatten(record: dict[str, Any]) -> dict[str, Any]:
    """Counters and jagged columns side by side, as NanoAOD has them."""
    flat = {name: value for name, value in record.items() if name not in FLAVOURS}
    for flavour, quantities in FLAVOURS.items():
        flat |= {f"{flavour}_{q}": record[flavour][q] for q in quantities}
    return flat


def make(folder: Path, n_events: int, *, codec: str, layout: str, signal: bool = False) -> Path:
    """The path of an input, written first if it is not there yet."""
    kind = "signal" if signal else "data"
    path = folder / f"{kind}-{layout}-{codec}-{n_events}.root"
    if path.exists():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".part.root")
    if layout == "rntuple" and _has_root():
        convert_with_root(make(folder, n_events, codec=codec, layout="large", signal=signal), unfinished, codec=codec)
    elif layout == "rntuple":
        write_with_uproot(unfinished, n_events, codec=codec, rntuple=True, signal=signal)
    elif _has_root():
        write_with_root(unfinished, n_events, codec=codec, layout=LAYOUTS[layout], signal=signal)
    else:
        write_with_uproot(unfinished, n_events, codec=codec, signal=signal)
    unfinished.rename(path)
    return path


def _has_root() -> bool:
    from importlib.util import find_spec

    return find_spec("ROOT") is not None


def main() -> None:
    """Make one input and print its path and size."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--codec", choices=sorted(CODECS), default="zlib")
    parser.add_argument("--layout", choices=[*LAYOUTS, "rntuple"], default="large")
    parser.add_argument("--signal", action="store_true")
    options = parser.parse_args()
    path = make(options.folder, options.events, codec=options.codec, layout=options.layout, signal=options.signal)
    print(f"{path} {path.stat().st_size / options.events:.1f} bytes per event")


if __name__ == "__main__":
    main()
