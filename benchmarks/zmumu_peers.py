"""One way of filling the dimuon mass of Z → μμ: 2 x 60 bins, opposite charges first, of events with two good muons.

Good muons have pT > 20 GeV and |η| < 2.4. Served as in `peers`, in a process of its own.
"""

from __future__ import annotations

import tempfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from functools import partial, reduce
from math import cos, sin, sinh, sqrt
from pathlib import Path
from typing import Any

import awkward as ak
import numba
import numpy as np
from numpy.typing import NDArray
from peers import Bins, Pass, compiled_root, main, sum_bins

import higgsnb as hn

CHUNK, FLAT_CHUNK, COFFEA_CHUNK = 200_000, 100_000, 500_000
"""Events at a time: a whole number of the file's clusters, not so many that memory passes its bar. A compiled function
loses little with fewer, and its compiler needs memory; coffea is quicker with more."""
MUON = ("pt", "eta", "phi", "mass", "charge")
COLUMNS = [f"Muon_{quantity}" for quantity in MUON]
IDENTITY = ["run", "luminosityBlock", "event"]
REGIONS = ["opposite charge", "same charge"]


# ------------------------------------------------------------------------------------------------------------- higgsnb


def dimuons(events: Any) -> hn.Selected:
    """Events with two good muons, as an analyst writes it with awkward arrays."""
    muons = events.Muon[(events.Muon.pt > 20) & (abs(events.Muon.eta) < 2.4)]
    two = ak.num(muons) == 2
    events, muons = events[two], muons[two]
    first, second = muons[:, 0], muons[:, 1]
    opposite = first.charge != second.charge
    return hn.Selected(
        events, mass=(first + second).mass, regions={"opposite charge": opposite, "same charge": ~opposite}
    )


@numba.njit(nogil=True)
def find_pairs(
    offsets: NDArray[np.int64],
    pt: NDArray[np.float32],
    eta: NDArray[np.float32],
    phi: NDArray[np.float32],
    mass: NDArray[np.float32],
    charge: NDArray[np.int32],
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.bool_]]:
    """Index, mass and charge of the events with two good muons, as an analyst writes it with numba."""
    n, n_events = 0, len(offsets) - 1
    index, masses, opposite = np.empty(n_events, np.int64), np.empty(n_events), np.empty(n_events, np.bool_)
    pair = np.zeros(2, np.int64)
    for i in range(n_events):
        found = 0
        for j in range(offsets[i], offsets[i + 1]):
            if pt[j] > 20 and abs(eta[j]) < np.float32(2.4):
                if found < 2:
                    pair[found] = j
                found += 1
        if found != 2:
            continue
        energy, x, y, z = 0.0, 0.0, 0.0, 0.0
        for j in pair:
            along = pt[j] * sinh(eta[j])
            x += pt[j] * cos(phi[j])
            y += pt[j] * sin(phi[j])
            z += along
            energy += sqrt(pt[j] ** 2 + along**2 + mass[j] ** 2)
        index[n], masses[n] = i, sqrt(energy**2 - x**2 - y**2 - z**2)
        opposite[n] = charge[pair[0]] != charge[pair[1]]
        n += 1
    return index[:n], masses[:n], opposite[:n]


def dimuons_flat(columns: Any) -> hn.Selected:
    """The same from flat columns."""
    index, mass, opposite = find_pairs(columns.offsets["Muon"], *(columns[name] for name in COLUMNS))
    return hn.Selected(index, mass=mass, regions={"opposite charge": opposite, "same charge": ~opposite})


SOURCES = ["pileup", "identification", "isolation", "trigger", "energy scale"]


def factors_of(events: Any, first: Any, second: Any) -> dict[str, tuple[Any, float]]:
    """Five made-up scale factors, each (n,), and their relative uncertainties."""
    return {
        "pileup": (1 + 0.01 * (events.Pileup_nTrueInt - 22), 0.04),
        "identification": (0.98 - 0.002 * (first.eta**2 + second.eta**2), 0.01),
        "isolation": (0.97 + 0.0001 * (first.pt + second.pt), 0.005),
        "trigger": (1 - 0.5 / (first.pt + second.pt), 0.02),
        "energy scale": (1 + 0.00001 * first.pt, 0.001),
    }


def weighted(events: Any, *, varied: bool) -> hn.Selected:
    """Events with two good muons and their weights, with up and down if ``varied``."""
    muons = events.Muon[(events.Muon.pt > 20) & (abs(events.Muon.eta) < 2.4)]
    two = ak.num(muons) == 2
    events, muons = events[two], muons[two]
    first, second = muons[:, 0], muons[:, 1]
    opposite = first.charge != second.charge
    factors = factors_of(events, first, second)
    weights: dict[str, Any] = {name: factor for name, (factor, _) in factors.items()}
    if varied:
        weights = {
            name: (factor, factor * (1 + error), factor * (1 - error)) for name, (factor, error) in factors.items()
        }
    return hn.Selected(
        events,
        mass=(first + second).mass,
        regions={"opposite charge": opposite, "same charge": ~opposite},
        weights=weights,
    )


def with_variations(events: Any) -> hn.Selected:
    """Five sources, up and down."""
    return weighted(events, varied=True)


def nominal_only(events: Any) -> hn.Selected:
    """The same factors without uncertainties."""
    return weighted(events, varied=False)


def analysis(function: Callable[..., hn.Selected], **options: Any) -> hn.Analysis:
    """Z → μμ by one of the functions above."""
    given: dict[str, Any] = {"columns": COLUMNS, "preselection": "nMuon >= 2", **options}
    mass = hn.Axis("mass", 60, 60, 120, label="dimuon mass", unit="GeV")
    return hn.Analysis("zmumu", function, regions=REGIONS, axes=[mass], **given)


GENERATOR = [*COLUMNS, "Pileup_nTrueInt"]
ANALYSES: dict[str, Callable[[], hn.Analysis]] = {
    "awkward": lambda: analysis(dimuons),
    "flat": lambda: analysis(dimuons_flat, form="flat"),
    "nominal": lambda: analysis(nominal_only, columns=GENERATOR),
    "varied": lambda: analysis(with_variations, columns=GENERATOR, variations=SOURCES),
}


def own(path: str, workers: int, *, chosen: str, simulated: bool = False, verified: bool = True) -> Pass:
    """An analysis by `engine.run`; bins are counts of data, or sums of weights of simulation."""
    what = ANALYSES[chosen]()

    def bins(result: Any) -> Any:
        flat = result.sums["sample"][0][0] if simulated else result.counts["sample"]
        return what.binning.counts_of(flat, "mass")[:, 1:-1]

    chunk = FLAT_CHUNK if what.form == "flat" else CHUNK
    return engine_run(path, what, bins, workers, schema="nanoaod", chunk=chunk, simulated=simulated, verified=verified)


def four_leptons(path: str, workers: int) -> Pass:
    """The four-lepton selection by `engine.run`, to be compared with that of another checkout."""
    from higgsnb import selection

    return engine_run(path, selection.load("open2012"), lambda result: result.counts["sample"], workers)


def engine_run(
    path: str,
    what: Any,
    bins: Callable[[Any], Any],
    workers: int,
    *,
    schema: str = "outreach",
    chunk: int = CHUNK,
    simulated: bool = False,
    verified: bool = True,
) -> Pass:
    """`engine.run` with a ledger, as a user calls it; of a ``verified`` file size and checksum are stated."""
    import uproot

    from higgsnb import engine
    from higgsnb.datasets import Campaign, Dataset, File

    with uproot.open(path) as opened:
        stated = {"events": int(opened["Events"].num_entries), "bytes": Path(path).stat().st_size}
    file = File(path, adler32=_adler32(path), **stated) if verified else File(path)
    kind = (
        {"process": "z", "cross_section_pb": 1.0} if simulated else {"process": "data", "primary_dataset": "DoubleMu"}
    )
    campaign = Campaign(
        "bench", "Benchmark", schema, 1.0, 0.0, 8.0, "open2012", (Dataset("sample", files=(file,), **kind),)
    )
    folder = tempfile.TemporaryDirectory()

    def run() -> Bins:
        for old in Path(folder.name).iterdir():
            old.unlink()
        ledger = Path(folder.name, "ledger.sqlite")
        (*_, last) = engine.run(campaign, what, workers=workers, ledger=ledger, chunk_events=chunk)
        if last.failed:
            raise RuntimeError(str(last.failed))
        return np.asarray(bins(last)).reshape(-1)

    return run


def _adler32(path: str) -> str:
    """Checksum of a file, read piece by piece: peak memory is measured."""
    with Path(path).open("rb") as opened:
        pieces = iter(partial(opened.read, 1 << 20), b"")
        return f"{reduce(lambda checksum, piece: zlib.adler32(piece, checksum), pieces, 1):08x}"


# --------------------------------------------------------------------------------------------------------------- peers


def rdataframe(path: str, workers: int, *, variant: str) -> Pass:
    """RDataFrame in C++, compiled ahead of time: `lean` or `typed` of zmumu.C."""
    root = compiled_root(Path(__file__).with_name("zmumu.C"))
    if workers > 1:
        root.EnableImplicitMT(workers)
    function = getattr(root.zmumu, variant)
    return lambda: np.array(function(path)).astype(np.int64)


def _bins(selected: hn.Selected) -> Bins:
    """What the function selected, by NumPy."""
    mass = np.asarray(selected.quantities["mass"])
    assert selected.regions is not None
    return np.concatenate([np.histogram(mass[np.asarray(selected.regions[r])], 60, (60, 120))[0] for r in REGIONS])


def uproot_awkward(path: str, workers: int, *, names: list[str]) -> Pass:
    """Uproot in steps of 100 MB; the same function of awkward arrays."""
    import uproot
    import vector

    vector.register_awkward()

    def work(batch: Any) -> Bins:
        muons = ak.zip({quantity: batch[f"Muon_{quantity}"] for quantity in MUON}, with_name="Momentum4D")
        scalars = {name: batch[name] for name in names if name in IDENTITY}
        return _bins(dimuons(ak.zip({**scalars, "Muon": muons}, depth_limit=1)))

    def run() -> Bins:
        with uproot.open(path) as file:
            return sum_bins(work(batch) for batch in file["Events"].iterate(names, step_size="100 MB", library="ak"))

    return run


def coffea(path: str, workers: int) -> Pass:
    """Coffea's NanoEvents and its iterative runner; the same function of awkward arrays."""
    import warnings

    from coffea import processor
    from coffea.nanoevents import NanoAODSchema

    warnings.filterwarnings("ignore", module="coffea")
    NanoAODSchema.warn_missing_crossrefs = False

    class Zmumu(processor.ProcessorABC):
        def process(self, events: Any) -> Any:
            return {"bins": _bins(dimuons(events))}

        def postprocess(self, accumulator: Any) -> Any:
            return accumulator

    def run() -> Bins:
        runner = processor.Runner(
            processor.IterativeExecutor(status=False), schema=NanoAODSchema, chunksize=COFFEA_CHUNK, savemetrics=False
        )
        return np.asarray(runner({"data": {"files": {path: "Events"}}}, processor_instance=Zmumu())["bins"])

    return run


def inflation_only(path: str, workers: int) -> Pass:
    """No analysis at all: decompress the content of the baskets of the nine columns. The limit of the approach."""
    from isal import igzip_lib

    blocks = list(_blocks(path, [*IDENTITY, "nMuon", *COLUMNS]))

    def run() -> Bins:
        for data, wanted in blocks:
            igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_DEFLATE).decompress(data, wanted)
        return np.zeros(0, np.int64)

    return run


def _blocks(path: str, names: list[str]) -> Iterator[tuple[bytes, int]]:
    """Deflate streams of the baskets of some branches, and how many bytes of each are content.

    A basket begins with a key, whose length is at byte 14, and which ends with where the content ends; then follow
    nine bytes before the stream of ZLIB, two of which are its own header.
    """
    import uproot

    with uproot.open(path) as file, Path(path).open("rb") as raw:
        for name in names:
            branch = file["Events"][name]
            places = zip(branch.member("fBasketSeek"), branch.member("fBasketBytes"), strict=True)
            for seek, size in list(places)[: branch.num_baskets]:
                raw.seek(int(seek))
                basket = raw.read(int(size))
                length = int.from_bytes(basket[14:16], "big")
                end = int.from_bytes(basket[length - 5 : length - 1], "big")
                if basket[length : length + 2] == b"ZL":
                    yield basket[length + 11 :], end - length


PEERS: Mapping[str, Callable[[str, int], Pass]] = {
    "higgsnb, awkward": partial(own, chosen="awkward"),
    "higgsnb, awkward, checked": partial(own, chosen="awkward", verified=False),
    "higgsnb, flat": partial(own, chosen="flat"),
    "higgsnb, nominal weights": partial(own, chosen="nominal", simulated=True),
    "higgsnb, five variations": partial(own, chosen="varied", simulated=True),
    "higgsnb, four leptons": four_leptons,
    "RDataFrame": partial(rdataframe, variant="lean"),
    "RDataFrame, vectors": partial(rdataframe, variant="typed"),
    "uproot + awkward": partial(uproot_awkward, names=[*IDENTITY, "nMuon", *COLUMNS]),
    "uproot + awkward, muons only": partial(uproot_awkward, names=COLUMNS),
    "coffea": coffea,
    "inflation only": inflation_only,
}


if __name__ == "__main__":
    main(PEERS)
