"""Seeded benchmark inputs, in the basket layouts and codecs that real files have.

The columns come from one counter-seeded generator, so every codec and layout of one size holds the same events.
ROOT writes them where it is installed (entry offsets and basket flushing exactly as in the public files), uproot
otherwise; RNTuple files are written by uproot.

Events of the outreach schema are data-like: about 2.2 leptons each, about 1.4 % with enough of them for four-lepton
channels, floats with full mantissa entropy, so that a ZLIB-1 file has 90 bytes per event (the public 2012 files have 85
to 126). Dimuon events are those of a NanoAOD skim for Z → μμ: 70 % have exactly two muons that pass the cuts of
`zmumu`, and angles and masses have as many bits as NanoAOD keeps.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

CODECS = {"none": 0, "zlib": 101, "lzma": 207, "lz4": 404, "zstd": 505}
"""ROOT's compression settings, algorithm times 100 plus level."""

Block = dict[str, NDArray[Any]]
"""Name to array; jagged branches are flat beside their counters."""

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
DIMUON_SCALARS = {"run": "uint32", "luminosityBlock": "uint32", "event": "uint64"}
DIMUON_MUONS = {"Muon": ("pt", "eta", "phi", "mass", "charge")}
GENERATOR_SCALARS = {"genWeight": "float32", "Pileup_nTrueInt": "float32"}
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


@dataclass(frozen=True)
class Content:
    """What a file holds: branches with one value per event and their types, those of each collection, and the events.

    ``block(rng, start)`` makes ``BLOCK`` events; ``stream`` keeps the random numbers of one content from another's. A
    file with generator weights has a tree ``Runs`` with their sum.
    """

    name: str
    scalars: dict[str, str]
    collections: dict[str, tuple[str, ...]]
    block: Callable[[np.random.Generator, int], Block]
    stream: int

    def blocks(self, n_events: int, *, seed: int = 2012) -> Iterator[Block]:
        """Blocks of at most ``BLOCK`` events."""
        for number, start in enumerate(range(0, n_events, BLOCK)):
            rng = np.random.Generator(np.random.Philox(key=[seed, number + (self.stream << 32)]))
            yield self._head(self.block(rng, start), n_events - start)

    def _head(self, block: Block, n_events: int) -> Block:
        """The first events of a block."""
        lengths = {name: int(block[f"n{name}"][:n_events].sum()) for name in self.collections}
        return {name: array[: lengths.get(name.partition("_")[0], n_events)] for name, array in block.items()}

    @property
    def branches(self) -> list[tuple[str, str, str]]:
        """(branch, C++ type, collection or nothing) in the order of the public files."""
        names = [(name, _CPP[dtype], "") for name, dtype in self.scalars.items()]
        for collection, quantities in self.collections.items():
            names.append((f"n{collection}", "unsigned int", ""))
            names += [(f"{collection}_{q}", "int" if q == "charge" else "float", collection) for q in quantities]
        return names


# --- Events of the outreach schema


def _outreach(rng: np.random.Generator, start: int, *, signal: bool) -> Block:
    """One full block of events."""
    index = np.arange(start, start + BLOCK)
    block: Block = {
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


def _leptons(rng: np.random.Generator, flavour: str, n: int, mass: float) -> Block:
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


DATA = Content("data", SCALARS, FLAVOURS, partial(_outreach, signal=False), 0)
SIGNAL = Content("signal", SCALARS, FLAVOURS, partial(_outreach, signal=True), 1)


# --- Dimuon events


MANTISSA = {"eta": 12, "phi": 12, "mass": 10}
"""Bits of the mantissa that NanoAOD keeps of a muon's quantity, where it does not keep all."""


def _dimuons(rng: np.random.Generator, start: int, *, simulated: bool) -> Block:
    """One full block of events with two muons of a Z or of the continuum, or with less, and perhaps softer ones."""
    index = np.arange(start, start + BLOCK)
    counts = rng.choice(5, BLOCK, p=[0.03, 0.12, 0.71, 0.11, 0.03]).astype(np.uint32)
    first = np.concatenate(([0], np.cumsum(counts, dtype=np.int64)))
    muons = _soft_muons(rng, int(first[-1]))
    leading = first[:-1][counts >= 2]
    for name, values in _pairs(rng, len(leading)).items():
        muons[name][leading], muons[name][leading + 1] = values
    block: Block = {
        "run": (np.ones(BLOCK) if simulated else 198_000 + index // 400_000).astype(np.uint32),
        "luminosityBlock": (1 + index // 700 % 1000).astype(np.uint32),
        "event": np.cumsum(rng.integers(1, 400, BLOCK)).astype(np.uint64) + np.uint64(start * 400),
        "nMuon": counts,
        **{f"Muon_{name}": values for name, values in muons.items()},
    }
    if simulated:
        sign = rng.choice([-1, 1], BLOCK, p=[0.18, 0.82])
        block["genWeight"] = (25_000 * sign * rng.normal(1.0, 0.05, BLOCK)).astype(np.float32)
        block["Pileup_nTrueInt"] = rng.normal(22.0, 5.0, BLOCK).clip(1, 60).astype(np.float32)
    return block


def _stored(values: dict[str, NDArray[Any]]) -> Block:
    """Quantities of muons as NanoAOD has them: 32 bits, of floats with as much of the mantissa as it keeps."""
    stored: Block = {"charge": values["charge"].astype(np.int32)}
    for name in ("pt", "eta", "phi", "mass"):
        bits = values[name].astype(np.float32).view(np.uint32)
        dropped = 23 - MANTISSA.get(name, 23)
        stored[name] = ((bits + (1 << dropped >> 1)) >> dropped << dropped).astype(np.uint32).view(np.float32)
    return {name: stored[name] for name in DIMUON_MUONS["Muon"]}


def _soft_muons(rng: np.random.Generator, n: int) -> Block:
    """Muons below 19 GeV."""
    return _stored(
        {
            "pt": (3.0 + rng.exponential(5.0, n)).clip(max=19.0),
            "eta": rng.normal(0.0, 1.2, n),
            "phi": rng.uniform(-np.pi, np.pi, n),
            "mass": np.full(n, 0.10565837),
            "charge": rng.choice([-1, 1], n),
        }
    )


def _pairs(rng: np.random.Generator, n: int) -> Block:
    """Pairs of muons, (2, n), seven in eight of a Z boson, one in twenty of the same charge.

    No mass is so near to a whole number of GeV that rounding of 32-bit floats decides on which side it is: the peers
    compute it in different ways, and their histograms have to be equal.
    """
    peak = 91.19 + 1.25 * rng.standard_cauchy(n)
    mass = np.where(rng.random(n) < 0.875, peak.clip(15, 300), 15.0 + rng.exponential(45.0, n))
    cosine, phi, boost = rng.uniform(-0.85, 0.85, n), rng.uniform(-np.pi, np.pi, n), rng.normal(0.0, 1.0, n)
    recoil = rng.normal(0.0, 6.0, (2, n))
    x, y = mass / 2 * np.sqrt(1 - cosine**2) * np.array([np.cos(phi), np.sin(phi)])
    px, py = np.array([x, -x]) + recoil[0], np.array([y, -y]) + recoil[1]
    pt = np.hypot(px, py)
    first = rng.choice([-1, 1], n)
    pairs = _stored(
        {
            "pt": pt,
            "eta": np.arcsinh(mass / 2 * np.array([cosine, -cosine]) / pt) + boost,
            "phi": np.arctan2(py, px),
            "mass": np.full((2, n), 0.10565837),
            "charge": np.array([first, np.where(rng.random(n) < 0.05, first, -first)]),
        }
    )
    energy, mass = _energy_and_mass(pairs)
    near = abs(mass - np.rint(mass)) < 1e-6 * energy**2 / mass
    pairs["pt"][:, near] *= np.float32(1.001)
    return pairs


def _energy_and_mass(pairs: Block) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Energy and invariant mass of each pair."""
    pt, eta, phi, mass = (pairs[name].astype(np.float64) for name in ("pt", "eta", "phi", "mass"))
    energy = np.sqrt((pt * np.cosh(eta)) ** 2 + mass**2).sum(axis=0)
    momentum = [part.sum(axis=0) for part in (pt * np.cos(phi), pt * np.sin(phi), pt * np.sinh(eta))]
    return energy, np.sqrt(energy**2 - momentum[0] ** 2 - momentum[1] ** 2 - momentum[2] ** 2)


DIMUONS = Content("dimuons", DIMUON_SCALARS, DIMUON_MUONS, partial(_dimuons, simulated=False), 2)
SIMULATED_DIMUONS = Content(
    "simulated-dimuons", DIMUON_SCALARS | GENERATOR_SCALARS, DIMUON_MUONS, partial(_dimuons, simulated=True), 3
)


# --- Writing


_WRITER = """
struct {writer} {{
   TFile file;
   TTree *tree;
   {members}
   {writer}(const char *path, int compression, int basket_bytes, long flush)
      : file(path, "RECREATE", "", compression), tree(new TTree("Events", "Events", 99, &file)) {{
      tree->SetAutoSave(0);
      tree->SetAutoFlush(flush);
      {branches}
   }}
   void fill(long n, {arguments}) {{
      long {starts};
      for (long i = 0; i < n; ++i) {{
         {assignments}
         tree->Fill();
         {steps}
      }}
   }}
   void runs(long n, double sum) {{
      file.cd();
      TTree runs("Runs", "Runs");
      unsigned int run = 1;
      runs.Branch("run", &run, "run/i");
      runs.Branch("genEventCount", &n, "genEventCount/L");
      runs.Branch("genEventSumw", &sum, "genEventSumw/D");
      runs.Fill();
      runs.Write();
   }}
   void close() {{ file.cd(); tree->Write("", TObject::kOverwrite); file.Close(); }}
}};
"""
_CPP = {"int32": "int", "uint32": "unsigned int", "uint64": "std::uint64_t", "float32": "float"}


def _declare_writer(content: Content) -> Any:
    """The C++ writer of a content, compiled when it is first asked for."""
    import ROOT

    writer = content.name.title().replace("-", "") + "Writer"
    if hasattr(ROOT, writer):
        return getattr(ROOT, writer)
    letters = {_CPP[dtype]: letter for dtype, letter in ROOT_TYPES.items()}
    members, branches, arguments, assignments = [], [], [], []
    for name, cpp, collection in content.branches:
        arguments.append(f"{cpp} *{name}_")
        size = f"[n{collection}]" if collection else ""
        members.append(f"{cpp} {name}{'[64]' if collection else ''};")
        amp = "" if collection else "&"
        branches.append(f'tree->Branch("{name}", {amp}{name}, "{name}{size}/{letters[cpp]}", basket_bytes);')
        if collection:
            assignments.append(f"for (unsigned k = 0; k < n{collection}; ++k) {name}[k] = {name}_[i{collection} + k];")
        else:
            assignments.append(f"{name} = {name}_[i];")
    code = _WRITER.format(
        writer=writer,
        members="\n   ".join(members),
        branches="\n      ".join(branches),
        arguments=", ".join(arguments),
        starts=", ".join(f"i{collection} = 0" for collection in content.collections),
        assignments="\n         ".join(assignments),
        steps="\n         ".join(f"i{collection} += n{collection};" for collection in content.collections),
    )
    if not ROOT.gInterpreter.Declare(code):
        raise RuntimeError("the C++ writer of the benchmark inputs did not compile; ROOT 6.30 or newer is needed")
    return getattr(ROOT, writer)


def write_with_root(path: Path, n_events: int, content: Content, *, codec: str, layout: Layout) -> None:
    """Write a TTree file with ROOT itself."""
    names = [name for name, _, _ in content.branches]
    writer = _declare_writer(content)(str(path), CODECS[codec], layout.basket_bytes, layout.flush_entries)
    total = 0.0
    for block in content.blocks(n_events):
        writer.fill(len(block["run"]), *(np.ascontiguousarray(block[name]) for name in names))
        total += float(block.get("genWeight", np.zeros(1)).sum(dtype=np.float64))
    if "genWeight" in names:
        writer.runs(n_events, total)
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


def write_with_uproot(path: Path, n_events: int, content: Content, *, codec: str, rntuple: bool = False) -> None:
    """Write a TTree or an RNTuple with uproot: one basket or cluster per block."""
    import awkward as ak
    import uproot

    total = 0.0
    with uproot.recreate(path, compression=uproot.compression.Compression.from_code(CODECS[codec])) as file:
        written = None
        for block in content.blocks(n_events):
            total += float(block.get("genWeight", np.zeros(1)).sum(dtype=np.float64))
            record: dict[str, Any] = {name: block[name] for name in content.scalars}
            for name, quantities in content.collections.items():
                counts = block[f"n{name}"].astype(np.int64)
                fields = {q: ak.unflatten(block[f"{name}_{q}"], counts) for q in quantities}
                record |= {f"{name}_{q}": field for q, field in fields.items()} if rntuple else {name: ak.zip(fields)}
            if written is None and rntuple:
                written = file.mkrntuple("Events", {name: values[:0] for name, values in record.items()})
            elif written is None:
                written = file.mktree("Events", {name: ak.type(ak.Array(v)).content for name, v in record.items()})
            written.extend(record)
        if "genWeight" in content.scalars:
            sums = {
                "run": np.array([1], np.uint32),
                "genEventCount": np.array([n_events]),
                "genEventSumw": np.array([total]),
            }
            file.mktree("Runs", {name: values.dtype for name, values in sums.items()}).extend(sums)


def make(folder: Path, n_events: int, *, codec: str, layout: str, signal: bool = False) -> Path:
    """The path of an input in the outreach schema, written first if it is not there yet."""
    return make_content(folder, n_events, SIGNAL if signal else DATA, codec=codec, layout=layout)


def make_content(folder: Path, n_events: int, content: Content, *, codec: str = "zlib", layout: str = "large") -> Path:
    """The path of an input, written first if it is not there yet."""
    path = folder / f"{content.name}-{layout}-{codec}-{n_events}.root"
    if path.exists():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".part.root")
    if layout == "rntuple" and _has_root():
        source = make_content(folder, n_events, content, codec=codec, layout="large")
        convert_with_root(source, unfinished, codec=codec)
    elif layout == "rntuple":
        write_with_uproot(unfinished, n_events, content, codec=codec, rntuple=True)
    elif _has_root():
        write_with_root(unfinished, n_events, content, codec=codec, layout=LAYOUTS[layout])
    else:
        write_with_uproot(unfinished, n_events, content, codec=codec)
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
