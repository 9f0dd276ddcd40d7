"""A campaign of the size of CMS Open Data's NanoAOD: 26,920 files, 250,000 chunks, of which nothing is read.

python benchmarks/scale.py --json scale.json

The overhead of the ledger is the CPU time of the client that a run with it takes longer than one without, for each
chunk, over the 0.1 s that a realistic chunk takes: 250,000 events of the outreach schema on one core.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests" / "faults"), str(ROOT / "tests" / "kit")]

CHUNK_EVENTS = 1000
CHUNK_SECONDS = 0.1
"""What a chunk of 250,000 events of the outreach schema takes on one core, see README.md."""


def resident(name: str = "VmHWM") -> float:
    """Peak (or with VmRSS present) resident memory of this process in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1024


def measure(files: int, chunks: int, kind: str, folder: Path) -> dict[str, float]:
    """Plan, run without and with a ledger, resume half and all of it; seconds and MB."""
    import killers

    from higgsnb import engine, selection
    from higgsnb.datasets import plan_chunks

    began = resident("VmRSS")
    one, chosen = killers.described(files, chunks, chunk_events=CHUNK_EVENTS), selection.load("open2012")
    figures: dict[str, float] = {}

    def timed(name: str, work: Callable[[], Any]) -> Any:
        wall, cpu = time.perf_counter(), time.process_time()
        found = work()
        figures[f"{name}, s"] = time.perf_counter() - wall
        figures[f"{name}, CPU s of the client"] = time.process_time() - cpu
        return found

    planned = timed("plan: chunks alone", lambda: plan_chunks(one, {}, CHUNK_EVENTS))
    if len(planned) != chunks:
        raise RuntimeError(f"{len(planned)} chunks were planned and not {chunks}")
    del planned
    with _client(kind, folder) as client:

        def begin(ledger: Path | None, what: Any = one) -> Iterator[Any]:
            options = {"client": client, "chunk_events": CHUNK_EVENTS, "analyse": killers.nothing, "ledger": ledger}
            return engine.run(what, chosen, **options)

        def run(ledger: Path | None) -> None:
            (last,) = deque(begin(ledger), maxlen=1)
            if not last.complete:
                raise RuntimeError("the run was not complete")

        def first(ledger: Path) -> None:
            partial = begin(ledger)
            next(partial)
            partial.close()

        deque(
            begin(None, killers.described(4, 40, chunk_events=CHUNK_EVENTS)), maxlen=0
        )  # workers import what they need
        ledger = folder / "ledger.sqlite"
        timed("plan and first result", lambda: first(folder / "first.sqlite"))
        timed("run without a ledger", lambda: run(None))
        timed("run with a ledger", lambda: run(ledger))
        timed("resume of everything", lambda: run(ledger))
    cpu = [figures[f"run {name} a ledger, CPU s of the client"] for name in ("with", "without")]
    figures["ledger, share of a chunk of 0.1 s, %"] = 100 * max(0.0, cpu[0] - cpu[1]) / chunks / CHUNK_SECONDS
    figures["all bookkeeping, share of a chunk of 0.1 s, %"] = 100 * cpu[0] / chunks / CHUNK_SECONDS
    figures["ledger, MB"] = ledger.stat().st_size / 1e6
    figures["memory of the client before, MB"] = began
    figures["peak memory of the client, MB"] = resident()
    return figures


MOST = {
    "plan and first result, s": 10.0,
    "ledger, share of a chunk of 0.1 s, %": 1.0,
    "peak memory of the client, MB": 500.0,
}
"""The bars, where there is one."""


@contextmanager
def _client(kind: str, folder: Path) -> Iterator[Any]:
    """Threads, processes, or a Dask cluster of two worker processes on this machine."""
    if kind != "dask":
        yield kind
        return
    from distributed import Client, LocalCluster

    os.environ["PYTHONPATH"] = os.pathsep.join([*sys.path[:2], str(ROOT), os.environ.get("PYTHONPATH", "")])
    with (
        LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=None, host="127.0.0.1", local_directory=str(folder)
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client


def main() -> None:
    """Measure each kind in a process of its own, so that each has its own peak memory."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kinds", nargs="*", choices=["threads", "processes", "dask", []], default=[])
    parser.add_argument("--files", type=int, default=26_920)
    parser.add_argument("--chunks", type=int, default=250_000)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--only", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(measure(options.files, options.chunks, options.only, Path(folder))))
        return
    rows: list[dict[str, Any]] = []
    for kind in options.kinds or ["threads", "dask"]:
        command = [
            sys.executable,
            __file__,
            "--only",
            kind,
            "--files",
            str(options.files),
            "--chunks",
            str(options.chunks),
        ]
        found = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1]
        for name, value in json.loads(found).items():
            most = MOST.get(name)
            verdict = "" if most is None else f"(at most {most:g}) {'ok' if value <= most else 'MISSED'}"
            print(f"{kind:10s} {name:48s} {value:10.3f} {verdict}", flush=True)
            rows.append({"kind": kind, "bar": name, "value": value, "most": most})
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
