"""The bars around the kernel: whole pipeline against bare kernel, memory, merging, starting.

python benchmarks/pipeline.py --json pipeline.json
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from inputs import make

PASSES = 5


@dataclass(frozen=True)
class Row:
    """One bar: what was measured, the most it may be, and its unit."""

    bar: str
    value: float
    most: float
    unit: str

    @property
    def reached(self) -> bool:
        """Whether the bar was reached."""
        return self.value <= self.most


def cpu_of(work: Callable[[], object]) -> float:
    """Median CPU seconds of a warm call."""
    work()
    seconds = []
    for _ in range(PASSES):
        before = time.process_time()
        work()
        seconds.append(time.process_time() - before)
    return statistics.median(seconds)


def pipeline(folder: Path, events: int) -> list[Row]:
    """Read, select, fill, add up and sum: `engine.run` on one worker against reader and kernel alone."""
    from higgsnb import engine, selection
    from higgsnb.datasets import Campaign, Dataset, File
    from higgsnb.engine import plan
    from higgsnb.events.fast import preselected
    from higgsnb.events.leptons import LEPTON_COLUMNS, to_leptons

    path = make(folder, events, codec="zlib", layout="large")
    dataset = Dataset("data", "data", "DoubleMu", files=(File(str(path)),))
    campaign = Campaign("bench", "Benchmark", "outreach", 1.0, 0.0, 8.0, "open2012", (dataset,))
    chosen = selection.load("open2012")
    ledger = folder / "bench-ledger.sqlite"

    def bare() -> None:
        with preselected.open_preselected(str(path), LEPTON_COLUMNS, checked=True) as reader:
            for start in range(0, reader.n_entries, plan.CHUNK_EVENTS):
                part = reader.read(start, start + plan.CHUNK_EVENTS)
                selection.select(to_leptons(part), chosen)

    def whole() -> None:
        (*_, last) = engine.run(campaign, chosen, workers=1, ledger=ledger, fresh=True)
        if last.failed:
            raise RuntimeError(str(last.failed))
        last.histograms  # noqa: B018 - they are made when asked for

    ours, least = cpu_of(whole), cpu_of(bare)
    return [Row("whole pipeline, ledger on, over bare kernel path", ours / least, 1.10, "times")]


_READ = """
import sys
from pathlib import Path
from higgsnb import selection
from higgsnb.events.fast import preselected
from higgsnb.events.leptons import LEPTON_COLUMNS, to_leptons
chosen = selection.load("open2012")
with preselected.open_preselected(sys.argv[1], LEPTON_COLUMNS, checked=False) as reader:
    for part in reader.windows():
        selection.select(to_leptons(part), chosen)
print(next(int(line.split()[1]) for line in Path("/proc/self/status").open() if line.startswith("VmHWM")) / 1024)
"""
"""VmHWM, as ru_maxrss begins with that of the process it was forked from."""


def memory(folder: Path, events: int) -> list[Row]:
    """Peak memory of a process that reads and selects a file, and one of eight times the events, in both layouts."""
    rows = []
    for layout in ("large", "small"):
        paths = [make(folder, n, codec="zlib", layout=layout) for n in (events, 8 * events)]
        one, eight = (_peak(path) for path in paths)
        rows.append(Row(f"peak memory, {layout} baskets", eight, 300.0, "MB"))
        rows.append(Row(f"growth from 1 to 8 times the events, {layout} baskets", 100 * (eight / one - 1), 5.0, "%"))
    return rows


def _peak(path: Path) -> float:
    """Peak memory in MB of a fresh process; the first one compiles the kernel, so the median of three."""
    run = [sys.executable, "-c", _READ, str(path)]
    return statistics.median(float(subprocess.run(run, check=True, capture_output=True).stdout) for _ in range(3))


def merging(folder: Path, events: int) -> list[Row]:
    """Add up the partial results of 26,920 files."""
    from higgsnb import selection
    from higgsnb.datasets import Chunk, File
    from higgsnb.results import analyse
    from higgsnb.results.tally import merge

    path = make(folder, events, codec="zlib", layout="large")
    chunk = Chunk("data", 0, 0, File(str(path)), "outreach", "DoubleMu", True, 0, 2000, None)
    tally = analyse(chunk, selection.load("open2012"))
    tallies = [replace(tally, ranges={(0, i): ((0, 2000),)}, readers={(0, i): frozenset()}) for i in range(26_920)]
    before = time.perf_counter()
    total = merge(tallies)
    seconds = time.perf_counter() - before
    if len(total.ranges) != 26_920:
        raise RuntimeError("the merged result lacks files")
    return [Row("merge 26,920 partial results", seconds, 0.3, "s")]


FILES, BATCH = 26_920, 25


def through_dask(folder: Path, events: int) -> list[Row]:
    """A tally of each of 26,920 files through Dask: 25 in a task, merged as they land."""
    from higgsnb import selection
    from higgsnb.datasets import Chunk, File
    from higgsnb.results import analyse

    path = make(folder, events, codec="zlib", layout="large")
    chunk = Chunk("data", 0, 0, File(str(path)), "outreach", "DoubleMu", True, 0, 2000, None)
    tally = analyse(chunk, selection.load("open2012"))
    with _two_workers() as client:
        shared = client.scatter(tally, broadcast=True)
        client.submit(_batch, 0, 1, shared).result()
        before = time.perf_counter()
        futures = [client.submit(_batch, first, min(first + BATCH, FILES), shared) for first in range(0, FILES, BATCH)]
        total = _merged(futures)
        seconds = time.perf_counter() - before
    if len(total.ranges) != FILES:
        raise RuntimeError("the merged result lacks files")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return [
        Row("26,920 files through Dask, 2 workers", seconds, 15.0, "s"),
        Row("client's peak memory", peak, 500.0, "MB"),
    ]


def _batch(first: int, stop: int, tally: Any) -> list[Any]:
    """The tallies of some files, none of which takes any work."""
    return [replace(tally, ranges={(0, i): ((0, 2000),)}, readers={(0, i): frozenset()}) for i in range(first, stop)]


@contextmanager
def _two_workers() -> Iterator[Any]:
    """A Dask client with two worker processes on this machine."""
    from distributed import Client, LocalCluster

    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None, host="127.0.0.1") as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client


def _merged(futures: list[Any]) -> Any:
    """The sum of all results, a hundred batches at a time, none kept longer than needed."""
    from distributed import as_completed

    from higgsnb.results import Tally
    from higgsnb.results.tally import merge

    total, landed = Tally(), []
    for future in as_completed(futures, loop=futures[0].client.loop):
        landed += future.result()
        future.release()
        if len(landed) >= 100 * BATCH:
            total, landed = merge((total, *landed)), []
    return merge((total, *landed))


def starting(folder: Path, events: int) -> list[Row]:
    """Import, and the first result of the simulated campaign with nothing cached."""
    imports = [_seconds(["-c", "import higgsnb"]) - _seconds(["-c", "pass"]) for _ in range(7)]
    with tempfile.TemporaryDirectory() as empty:
        caches = {"HIGGSNB_CACHE": f"{empty}/cache", "NUMBA_CACHE_DIR": f"{empty}/numba"}
        first = _seconds(["-m", "higgsnb", "run", "--out", f"{empty}/result", "--quiet"], caches)
    return [
        Row("import higgsnb", statistics.median(imports), 0.3, "s"),
        Row("`higgsnb run` on toy, cold, no numba cache", first, 20.0, "s"),
    ]


def _seconds(arguments: list[str], variables: dict[str, str] | None = None) -> float:
    """Wall seconds of a Python process."""
    before = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, env=os.environ | (variables or {}), capture_output=True)
    return time.perf_counter() - before


SECTIONS = {
    "pipeline": pipeline,
    "memory": memory,
    "merging": merging,
    "dask": through_dask,
    "starting": starting,
}


def main() -> None:
    """Run the sections asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sections", nargs="*", choices=[*SECTIONS, []], default=[])
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, default=Path(__file__).parent / "build" / "inputs")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for name in options.sections or SECTIONS:
        for row in SECTIONS[name](options.folder, options.events):
            verdict = "ok" if row.reached else "MISSED"
            print(f"{row.bar[:58]:58s} {row.value:8.3f} {row.unit:5s} (at most {row.most:g}) {verdict}", flush=True)
            rows.append(
                {"bar": row.bar, "value": row.value, "most": row.most, "unit": row.unit, "reached": row.reached}
            )
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")
    if not all(row["reached"] for row in rows):
        raise SystemExit("a bar was missed")


if __name__ == "__main__":
    main()
