"""Response time of the cut explorer: 100,000 events in memory with re-pairing, a million without.

python benchmarks/explorer.py --json explorer.json
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from inputs import make

from higgsnb import engine, selection
from higgsnb.datasets import Campaign, Dataset, File
from higgsnb.results.reselect import PreselectedEvents
from higgsnb.selection import Selection, pairings
from higgsnb.widgets import explorer_data, sliders

NAMES = ("open2012", "aod2012", "df103")
PASSES = 15
MOST_MS = 50.0


@dataclass(frozen=True)
class Row:
    """One measurement: number of events, median wall-clock time, median CPU time."""

    what: str
    selection: str
    events: int
    wall_ms: float
    cpu_ms: float

    @property
    def reached(self) -> bool:
        """Whether the limit is met."""
        return self.wall_ms <= MOST_MS


def load(path: Path, entries: int) -> PreselectedEvents:
    """Load the events of a file."""
    files = (File(url=str(path), events=entries),)
    one = Campaign(
        name="benchmark", title="benchmark", schema="outreach", luminosity_fb=10.0, luminosity_uncertainty=0.02,
        energy_tev=8.0, selection="open2012", primary_dataset_precedence=("DoubleMu", "DoubleElectron"),
        datasets=(Dataset(name="signal", process="higgs", files=files, cross_section_pb=1.0),),
    )  # fmt: skip
    *_, result = engine.run(one, selection.load("open2012"))
    return PreselectedEvents.load(result, loosest=sliders.loosest(*(selection.load(name) for name in NAMES)))


def repeat(sample: PreselectedEvents, events: int) -> PreselectedEvents:
    """Repeat the same events until there are exactly so many."""
    part = sample.parts[0]
    times = -(-events // len(part.preselected.muons))
    names = ("file", "entry", "run", "luminosity_block", "event", "duplicate")
    columns = {name: np.tile(getattr(part, name), times)[:events] for name in names}
    held = pairings.join([part.preselected] * times)
    n_leptons = int(held.offsets[events])
    per_event = (column[:events] for column in held[1:4])
    per_lepton = (np.ascontiguousarray(column[:n_leptons]) for column in held[4:])
    held = pairings.Preselected(held.offsets[: events + 1], *per_event, *per_lepton)
    return PreselectedEvents(sample.basis, [part._replace(preselected=held, **columns)], sample.loosest)


def answer(sample: PreselectedEvents, chosen: Selection) -> None:
    """Compute what the explorer shows when a slider moves."""
    found = sample.select(chosen)
    rows = explorer_data.yields(found)
    explorer_data.spectrum(found, "mass_4l")
    explorer_data.cutflow(found)
    explorer_data.summary(rows, explorer_data.expected_significance(rows))


def measure(what: str, sample: PreselectedEvents, name: str, call: Callable[[], None]) -> Row:
    """Return the median of several passes."""
    call()
    wall, cpu = [], []
    for _ in range(PASSES):
        started, worked = time.perf_counter(), time.process_time()
        call()
        wall.append(1000 * (time.perf_counter() - started))
        cpu.append(1000 * (time.process_time() - worked))
    return Row(what, name, len(sample.parts[0].preselected.muons), statistics.median(wall), statistics.median(cpu))


def moving(sample: PreselectedEvents, name: str, cut: str, values: tuple[float, float]) -> Callable[[], None]:
    """Return a call that moves a slider to and fro."""
    turns = itertools.cycle(values)
    return lambda: answer(sample, selection.load(name).replace(**{cut: next(turns)}))


def distribution(sample: PreselectedEvents, name: str) -> Callable[[], None]:
    """Return a call that changes to another slider: the distribution after all other cuts."""
    turns = itertools.cycle((("muon_pt_min", 6.0), ("z1_mass_min", 41.0)))

    def call() -> None:
        cut, value = next(turns)
        explorer_data.n_minus_one(sample, selection.load(name).replace(**{cut: value}), cut)

    return call


def rows(held: PreselectedEvents) -> Iterator[Row]:
    """Measure everything."""
    small, large = repeat(held, 100_000), repeat(held, 1_000_000)
    for name in NAMES:
        yield measure("a cut on leptons, re-pairing", small, name, moving(small, name, "muon_pt_min", (5.5, 6.0)))
        yield measure("a cut on pairs", small, name, moving(small, name, "z1_mass_min", (40.0, 41.0)))
        yield measure("N−1 of another cut", small, name, distribution(small, name))
        yield measure("a cut on pairs", large, name, moving(large, name, "z1_mass_min", (40.0, 41.0)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the numbers here")
    parser.add_argument("--events", type=int, default=100_000, help="events in the generated file")
    parser.add_argument("--folder", type=Path, help="keep the file here")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        path = make(folder, arguments.events, codec="zlib", layout="large", signal=True)
        found = []
        print(f"{'what':30} {'selection':10} {'events':>10} {'wall':>9} {'CPU':>9}   at most {MOST_MS:g} ms")
        for row in rows(load(path, arguments.events)):
            found.append(row)
            mark = "ok" if row.reached else "MISSED"
            print(
                f"{row.what:30} {row.selection:10} {row.events:10,} {row.wall_ms:6.1f} ms {row.cpu_ms:6.1f} ms   {mark}"
            )
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(row) for row in found], indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
