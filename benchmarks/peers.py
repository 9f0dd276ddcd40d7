"""One peer of the comparison: reads a file, selects as ROOT's tutorial df103 does, and returns 3 x 36 bins of m(4l).

Run as a program it serves one peer over its standard streams, so that peers can be timed in turn, each in a process of
its own and warm: a line in, a line of JSON out.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import nullcontext
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Bins = NDArray[np.int64]
Pass = Callable[[], Bins]
"""One pass over the file."""

CHUNK = 500_000
"""Entries per task of our own variants."""
N_BINS, LOW, HIGH = 36, 70.0, 180.0


# ------------------------------------------------------------------------------------------------------------- higgsnb


def _histogram(candidates: Any) -> Bins:
    """Counts of candidates per channel and bin of m(4l)."""
    mass = candidates.mass_4l
    inside = (mass >= LOW) & (mass < HIGH)
    index = ((mass[inside] - LOW) * (N_BINS / (HIGH - LOW))).astype(np.int64)
    return np.bincount(candidates.channel[inside] * N_BINS + index, minlength=3 * N_BINS)


def _own_columns() -> Any:
    from higgsnb.events.leptons import LEPTON_COLUMNS

    return LEPTON_COLUMNS


_reader: dict[str, Any] = {}


def _chunk(path: str, checked: bool, bounds: tuple[int, int]) -> Bins:
    """Read, select and count one range of entries; each worker keeps the file open."""
    from higgsnb import selection
    from higgsnb.events.fast.preselected import open_preselected
    from higgsnb.events.leptons import to_leptons

    if path not in _reader:
        _reader[path] = open_preselected(path, _own_columns(), checked=checked)
    leptons = to_leptons(_reader[path].read(*bounds))
    return _histogram(selection.select(leptons, selection.load("df103")))


def _bounds(path: str) -> list[tuple[int, int]]:
    import uproot

    with uproot.open(path) as file:
        n = int(file["Events"].num_entries)
    return [(start, min(start + CHUNK, n)) for start in range(0, n, CHUNK)]


def own(path: str, workers: int, *, checked: bool, pool: str = "processes") -> Pass:
    """The basket reader and the compiled kernel, chunk by chunk."""
    work = partial(_chunk, path, checked)
    if workers == 1:
        return lambda: sum_bins(work(bounds) for bounds in _bounds(path))
    kind = (
        ThreadPoolExecutor if pool == "threads" else partial(ProcessPoolExecutor, mp_context=get_context("forkserver"))
    )
    executor: Executor = kind(workers)
    return lambda: sum_bins(executor.map(work, _bounds(path)))


def plain_uproot_and_kernel(path: str, workers: int) -> Pass:
    """Uproot's own reading, then the same kernel: what remains where the fast path does not apply."""
    from higgsnb import events, selection
    from higgsnb.datasets import Chunk, File

    def work(bounds: tuple[int, int]) -> Bins:
        chunk = Chunk("file", 0, 0, File(path), "outreach", None, True, *bounds, None)
        return _histogram(selection.select(events.read_leptons(chunk), selection.load("df103")))

    return lambda: sum_bins(map(work, _bounds(path)))


def inflation_only(path: str, workers: int) -> Pass:
    """No analysis at all: decompress the content of the baskets that the analysis needs. The limit of the approach."""
    from isal import igzip_lib

    from higgsnb.events.fast.preselected import open_preselected

    reader = open_preselected(path, _own_columns(), checked=False)
    blocks = [block for branch in reader._branches.values() for block in _zlib_blocks(reader, branch)]

    def run() -> Bins:
        for data, wanted in blocks:
            igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_DEFLATE).decompress(data, wanted)
        return np.zeros(0, np.int64)

    return run


def _zlib_blocks(reader: Any, branch: Any) -> Iterator[tuple[bytes, int]]:
    """Deflate streams of one branch and how many bytes of each are content."""
    from higgsnb.events.fast.branches import read_head

    for index, (seek, size) in enumerate(zip(branch.seeks, branch.sizes, strict=True)):
        raw = reader._source.fetch([])(seek, size)
        head = read_head(raw, branch, index)
        if raw[head.key_length : head.key_length + 2] == b"ZL":
            yield raw[head.key_length + 11 :], head.content_length


def sum_bins(parts: Iterator[Bins]) -> Bins:
    """Sum of all parts."""
    return np.sum(list(parts), axis=0)


# ---------------------------------------------------------------------------------------------------------------- ROOT


def rdataframe(path: str, workers: int, *, variant: str) -> Pass:
    """RDataFrame in C++, compiled ahead of time: `tutorial`, `typed` or `lean` of rdataframe.C."""
    root = compiled_root()
    if workers > 1:
        root.EnableImplicitMT(workers)
    function = getattr(root.bench, variant)
    return lambda: np.array(function(path)).astype(np.int64)


RDATAFRAME = Path(__file__).with_name("rdataframe.C")


def compiled_root(source: Path = RDATAFRAME) -> Any:
    """ROOT with a file of C++ functions compiled (once, kept beside the inputs) and loaded."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the wheel calls itself alpha on import
        import ROOT
    tutorials = Path(ROOT.__path__[0], "tutorials")
    tutorial = next(tutorials.rglob("df103_NanoAODHiggsAnalysis.C"))
    build = Path(__file__).parent / "build"
    build.mkdir(exist_ok=True)
    ROOT.gErrorIgnoreLevel = ROOT.kWarning
    ROOT.gSystem.AddIncludePath(f'-DDF103_TUTORIAL=\\"{tutorial}\\"')
    ROOT.gSystem.SetFlagsOpt("-O2 -DNDEBUG")
    ROOT.gSystem.SetBuildDir(str(build), True)
    with (build / "lock").open("w") as lock:  # peers that start together would overwrite each other's object files
        fcntl.flock(lock, fcntl.LOCK_EX)
        if ROOT.gROOT.ProcessLine(f".L {source}+O"):
            raise RuntimeError(f"{source.name} did not compile; is a C++ compiler installed?")
    return ROOT


def rdataframe_jit(path: str, workers: int) -> Pass:
    """The tutorial's functions as RDataFrame compiles them just in time, as `root df103….C` does."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import ROOT
    if workers > 1:
        ROOT.EnableImplicitMT(workers)
    tutorial = next(Path(ROOT.__path__[0], "tutorials").rglob("df103_NanoAODHiggsAnalysis.C"))
    source = Path(__file__).with_name("rdataframe.C").read_text()
    for library in ("ROOTDataFrame", "GenVector", "Gpad", "Graf"):  # the interpreter does not find them by itself here
        ROOT.gSystem.Load(f"lib{library}")
    ROOT.gInterpreter.Declare(f'#define DF103_TUTORIAL "{tutorial}"\n{source}')
    return lambda: np.array(ROOT.bench.tutorial(path)).astype(np.int64)


# -------------------------------------------------------------------------------------------------------------- arrays


def _masses(pt: Any, eta: Any, phi: Any, mass: Any, members: list[int]) -> NDArray[np.float64]:
    """Invariant mass of some columns of (n, 4) arrays."""
    pt, eta, phi, mass = (np.asarray(x, np.float64)[:, members] for x in (pt, eta, phi, mass))
    px, py, pz = pt * np.cos(phi), pt * np.sin(phi), pt * np.sinh(eta)
    energy = np.sqrt(pt**2 + pz**2 + mass**2)
    total = [component.sum(axis=1) for component in (energy, px, py, pz)]
    return np.sqrt(np.maximum(total[0] ** 2 - total[1] ** 2 - total[2] ** 2 - total[3] ** 2, 0.0))


def _delta_r(eta: Any, phi: Any, i: Any, j: Any) -> NDArray[np.float64]:
    rows = np.arange(len(eta))
    d_phi = (phi[rows, i].astype(np.float64) - phi[rows, j] + np.pi) % (2 * np.pi) - np.pi
    return np.hypot(eta[rows, i].astype(np.float64) - eta[rows, j], d_phi)


def _good(leptons: Any, isolation: str, pt_min: float | None, eta_max: float) -> Any:
    """Whether every lepton of an event passes the object cuts of df103."""
    import awkward as ak

    sip = np.sqrt(leptons.dxy**2 + leptons.dz**2) / np.sqrt(leptons.dxyErr**2 + leptons.dzErr**2)
    good = (abs(leptons[isolation]) < 0.4) & (abs(leptons.eta) < eta_max) & (sip < 4)
    good = good & (abs(leptons.dxy) < 0.5) & (abs(leptons.dz) < 1.0)
    return ak.all(good if pt_min is None else good & (leptons.pt > pt_min), axis=1)


def _bins(mass: NDArray[np.float64]) -> Bins:
    return np.histogram(mass.astype(np.float32).astype(np.float64), N_BINS, (LOW, HIGH))[0]


def _windows(z1: NDArray[np.float64], z2: NDArray[np.float64]) -> NDArray[np.bool_]:
    swap = ~(abs(z1 - 91.2) < abs(z2 - 91.2))
    near, far = np.where(swap, z2, z1), np.where(swap, z1, z2)
    return (near > 40) & (near < 120) & (far > 12) & (far < 120)


def _four(leptons: Any, isolation: str, pt_min: float, eta_max: float) -> Bins:
    """The 4mu or 4e channel of df103 in awkward arrays, numpy from where all events have four leptons."""
    import awkward as ak

    leptons = leptons[ak.num(leptons) == 4]
    leptons = leptons[_good(leptons, isolation, pt_min, eta_max)]
    leptons = leptons[ak.sum(leptons.charge == 1, axis=1) == 2]
    pt, eta, phi, mass, charge = (np.asarray(leptons[q]).reshape(-1, 4) for q in ("pt", "eta", "phi", "mass", "charge"))
    best, first, second = np.full(len(pt), -1.0), np.zeros(len(pt), int), np.zeros(len(pt), int)
    for i, j in ((0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)):
        pair = _masses(pt, eta, phi, mass, [i, j])
        nearer = (charge[:, i] != charge[:, j]) & (abs(91.2 - pair) < abs(91.2 - best))
        best, first, second = (
            np.where(nearer, np.trunc(pair), best),
            np.where(nearer, i, first),
            np.where(nearer, j, second),
        )
    rest = np.array([[k for k in range(4) if k not in ij] for ij in zip(first, second, strict=True)], int).reshape(
        -1, 2
    )
    apart = (_delta_r(eta, phi, first, second) >= 0.02) & (_delta_r(eta, phi, rest[:, 0], rest[:, 1]) >= 0.02)
    order = np.stack([first, second, rest[:, 0], rest[:, 1]], axis=1)
    columns = [np.take_along_axis(x, order, 1) for x in (pt, eta, phi, mass)]
    keep = apart & _windows(_masses(*columns, [0, 1]), _masses(*columns, [2, 3]))
    return _bins(_masses(*columns, [0, 1, 2, 3])[keep])


def _two_each(muons: Any, electrons: Any) -> Bins:
    """The 2e2mu channel of df103."""
    import awkward as ak

    enough = (ak.num(muons) >= 2) & (ak.num(electrons) >= 2)
    muons, electrons = muons[enough], electrons[enough]
    keep = _good(muons, "pfRelIso04_all", None, 2.4) & _good(electrons, "pfRelIso03_all", None, 2.5)
    keep = keep & (ak.sum(muons.charge, axis=1) == 0) & (ak.sum(electrons.charge, axis=1) == 0)
    muons, electrons = muons[keep], electrons[keep]
    hard = np.zeros(len(muons), bool)
    for leptons in (muons, electrons):
        ordered = ak.sort(leptons.pt, axis=1, ascending=False)[:, :2]
        hard |= np.asarray((ordered[:, 0] > 20) & (ordered[:, 1] > 10))
    columns = [
        np.concatenate([np.asarray(x[q][:, :2]).reshape(-1, 2) for x in (muons, electrons)], axis=1)
        for q in ("pt", "eta", "phi", "mass")
    ]
    apart = (_delta_r(*columns[1:3], 0, 1) >= 0.02) & (_delta_r(*columns[1:3], 2, 3) >= 0.02)
    keep = hard & apart & _windows(_masses(*columns, [0, 1]), _masses(*columns, [2, 3]))
    return _bins(_masses(*columns, [0, 1, 2, 3])[keep])


def _channels(muons: Any, electrons: Any) -> Bins:
    return np.concatenate(
        [
            _four(muons, "pfRelIso04_all", 5, 2.4),
            _four(electrons, "pfRelIso03_all", 7, 2.5),
            _two_each(muons, electrons),
        ]
    )


_QUANTITIES = ("pt", "eta", "phi", "mass", "charge", "dxy", "dxyErr", "dz", "dzErr")


def uproot_awkward(path: str, workers: int) -> Pass:
    """Uproot in steps of 100 MB, awkward arrays."""
    import awkward as ak
    import uproot

    isolation = {"Muon": "pfRelIso04_all", "Electron": "pfRelIso03_all"}
    names = [f"{flavour}_{q}" for flavour, iso in isolation.items() for q in (*_QUANTITIES, iso)]

    def work(batch: Any) -> Bins:
        zipped = [
            ak.zip({q: batch[f"{flavour}_{q}"] for q in (*_QUANTITIES, iso)}) for flavour, iso in isolation.items()
        ]
        return _channels(*zipped)

    def run() -> Bins:
        with uproot.open(path) as file:
            return sum_bins(work(batch) for batch in file["Events"].iterate(names, step_size="100 MB", library="ak"))

    return run


def coffea(path: str, workers: int) -> Pass:
    """Coffea's NanoEvents and its iterative runner."""
    import warnings

    from coffea import processor
    from coffea.nanoevents import NanoAODSchema

    warnings.filterwarnings("ignore", module="coffea")
    NanoAODSchema.warn_missing_crossrefs = False

    class Df103(processor.ProcessorABC):
        def process(self, events: Any) -> Any:
            return {"bins": _channels(events.Muon, events.Electron)}

        def postprocess(self, accumulator: Any) -> Any:
            return accumulator

    def run() -> Bins:
        runner = processor.Runner(
            processor.IterativeExecutor(status=False), schema=NanoAODSchema, chunksize=CHUNK, savemetrics=False
        )
        fileset = {"data": {"files": {path: "Events"}}}
        return np.asarray(runner(fileset, processor_instance=Df103())["bins"])

    return run


PEERS: dict[str, Callable[[str, int], Pass]] = {
    "higgsnb, verified file": partial(own, checked=False),
    "higgsnb, checked": partial(own, checked=True),
    "higgsnb, threads": partial(own, checked=False, pool="threads"),
    "RDataFrame tutorial": partial(rdataframe, variant="tutorial"),
    "RDataFrame tutorial, JIT": rdataframe_jit,
    "RDataFrame typed": partial(rdataframe, variant="typed"),
    "RDataFrame lean": partial(rdataframe, variant="lean"),
    "uproot + kernel": plain_uproot_and_kernel,
    "uproot + awkward": uproot_awkward,
    "coffea": coffea,
    "inflation only": inflation_only,
}


# -------------------------------------------------------------------------------------------------------------- serving


def _cpu_seconds() -> float:
    """CPU time of this process and of children that have ended."""
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in usage)


def _peak_mb() -> float:
    """Peak memory of this process; ru_maxrss would begin with that of the process it was forked from."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def serve(prepare: Callable[[], Pass]) -> None:
    """Prepare a peer, then do one pass for every line read."""
    started = time.perf_counter(), _cpu_seconds()
    with nullcontext() if sys.flags.dev_mode else np.errstate(all="ignore"):
        one_pass = prepare()
        first = True
        for _ in sys.stdin:
            before = started if first else (time.perf_counter(), _cpu_seconds())
            bins = one_pass()
            report = {
                "wall": time.perf_counter() - before[0],
                "cpu": _cpu_seconds() - before[1],
                "rss_mb": _peak_mb(),
                "bins": bins.tolist(),
                "cold": first,
            }
            first = False
            print(json.dumps(report), flush=True)


def main(peers: Mapping[str, Callable[[str, int], Pass]]) -> None:
    """Serve the peer that the command line names."""
    parser = argparse.ArgumentParser(description="Serve one peer of a comparison: a line in, a line of JSON out.")
    parser.add_argument("peer", choices=sorted(peers))
    parser.add_argument("path")
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()
    serve(lambda: peers[options.peer](options.path, options.workers))


if __name__ == "__main__":
    main(PEERS)
