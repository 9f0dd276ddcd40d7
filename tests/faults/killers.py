"""What the fault tests start, kill and inject: a cluster of forked processes, one run in a process, faulty analyses.

The functions `scheduler`, `worker` and `drive` run in processes that `zygote.Zygote` forks. The functions that count a
chunk (`counted`, `poisoned`, …) are given to ``engine.run(analyse=…)``; they are told what to do by environment
variables, so that they can be pickled by reference.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import hashlib
import json
import os
import signal
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import random_analyses
import zygote
from generators import random_leptons
from outreach import campaign, dataset, events_of, write

from higgsnb import datasets, engine, errors, provenance, results, selection
from higgsnb.datasets import Campaign, Chunk
from higgsnb.engine import loop, versions
from higgsnb.results import Result, Tally, analyse, histograms
from higgsnb.results.layout import FOUR_LEPTONS
from higgsnb.results.tally import ARRAYS, Record, merge
from higgsnb.selection import Selection

LOG, POISON, WORK = "HIGGSNB_FAULTS_LOG", "HIGGSNB_FAULTS_POISON", "HIGGSNB_FAULTS_WORK"
LOOPBACK = "127.0.0.1"
SCHEDULER_LOST = 75
"""Exit code of `drive` when the Dask scheduler was lost."""


def numbers(seed: int, index: int, n: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """``n`` random numbers in [0, 1), a pure function of (seed, index): a run can be repeated alone."""
    return np.random.Generator(np.random.Philox(key=seed, counter=[0, 0, 0, index])).random(n)


# --- A small campaign ------------------------------------------------------------------------------------------

TOML = """
[campaign]
name = "faults"
schema = "outreach"
luminosity_fb = 10.0
luminosity_uncertainty = 0.02
energy_tev = 8
primary_dataset_precedence = ["DoubleMu", "DoubleElectron"]
"""


def small_campaign(folder: Path, *, files: int = 6, events: int = 700) -> Path:
    """Write some small files and the campaign file that lists them: muon data, electron data, simulation in turn."""
    leptons = random_leptons(files * events, seed=8)
    blocks = [TOML]
    names = {
        "mu": 'process = "data"\nprimary_dataset = "DoubleMu"',
        "e": 'process = "data"\nprimary_dataset = "DoubleElectron"',
        "mc": 'process = "zz"\ncross_section_pb = 1.0',
    }
    urls: dict[str, list[str]] = {name: [] for name in names}
    for index in range(files):
        path = folder / f"{index}.root"
        write(path, events_of(leptons, events * index, events * (index + 1)), basket=211)
        urls[list(names)[index % 3]].append(f'{{ url = "{path.name}", events = {events} }}')
    for name, text in names.items():
        blocks.append(f'\n[[dataset]]\nname = "{name}"\n{text}\nfile = [{", ".join(urls[name])}]\n')
    toml = folder / "faults.toml"
    toml.write_text("".join(blocks))
    return toml


def described(n_files: int, n_chunks: int, *, chunk_events: int = 1000) -> Campaign:
    """A campaign of files that do not exist but are fully described, so that a no-op analysis can be planned and run.

    The chunks are spread evenly: some files have one more than others, none ends at a whole chunk.
    """
    base, more = divmod(n_chunks, n_files)
    paths = [Path(f"/none/{index:06d}.root") for index in range(n_files)]
    whole = campaign(dataset("mu", "data", *paths, primary_dataset="DoubleMu"))
    files = tuple(
        datasets.File(
            url=file.url, events=(base + (index < more)) * chunk_events - 1, bytes=1_000_000 + index,
            adler32=f"{index + 1:08x}",
        )
        for index, file in enumerate(whole.datasets[0].files)
    )  # fmt: skip
    first = datasets.Dataset(name="mu", process="data", primary_dataset="DoubleMu", files=files)
    return campaign(first)


# --- Counting one chunk, with faults -----------------------------------------------------------------------------


def counted(chunk: Chunk, chosen: Selection, **options: Any) -> Tally:
    """Count as the package does; write the chunk to the file `LOG`, and take `WORK` seconds longer."""
    _note(chunk)
    if WORK in os.environ:
        threading.Event().wait(float(os.environ[WORK]))
    return analyse(chunk, chosen, **options)


def poisoned(chunk: Chunk, chosen: Selection, **options: Any) -> Tally:
    """Count as the package does, but the chunks named in `POISON` crash, are killed, eat memory, or never end."""
    _note(chunk)
    fault = json.loads(os.environ.get(POISON, "{}")).get(place(chunk))
    if fault is not None:
        FAULTS[fault]()
    return analyse(chunk, chosen, **options)


def nothing(chunk: Chunk, chosen: Selection, **options: Any) -> Tally:  # noqa: ARG001
    """Count nothing in no time: the tally of a chunk without candidates, without reading it."""
    _note(chunk)
    index, file = chunk.dataset_index, (chunk.dataset_index, chunk.file_index)
    zeros = {name: np.zeros(shape, np.int64) for name, shape in FOUR_LEPTONS.shapes.items()}
    zeros["cutflow"][:, 0] = chunk.stop - chunk.start
    return Tally(
        ranges={file: ((chunk.start, chunk.stop),)}, counts={index: zeros["counts"]}, cutflow={index: zeros["cutflow"]},
        invalid_values={index: zeros["invalid_values"]}, rejected_by_golden_json={index: 0},
        not_applied={index: frozenset()},
        readers={file: frozenset({("none", "none")})},
    )  # fmt: skip


def nondeterministic(chunk: Chunk, chosen: Selection, **options: Any) -> Tally:
    """Count as the package does, but one event more is outside the golden JSON each time a chunk is counted again."""
    times = Counter(chunks_in(Path(os.environ[LOG])))[place(chunk)]
    _note(chunk)
    tally = analyse(chunk, chosen, **options)
    index = chunk.dataset_index
    return replace(tally, rejected_by_golden_json={index: tally.rejected_by_golden_json[index] + times})


def place(chunk: Chunk) -> str:
    """The chunk as dataset:file:start."""
    return f"{chunk.dataset_index}:{chunk.file_index}:{chunk.start}"


def _note(chunk: Chunk) -> None:
    """Add a line to the log that all processes share; a short O_APPEND write is never mixed with another."""
    if LOG in os.environ:
        number = os.open(os.environ[LOG], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        os.write(number, place(chunk).encode() + b"\n")
        os.close(number)


def chunks_in(log: Path) -> list[str]:
    """The chunks that were started, in order."""
    return log.read_text().split() if log.exists() else []


def _segfault() -> None:
    ctypes.string_at(0)


def _killed() -> None:
    """End as the kernel's out-of-memory killer would end it."""
    os.kill(os.getpid(), signal.SIGKILL)


def _eat_memory() -> None:
    """Allocate beyond a limit, as with a chunk that does not fit, in a library that does not check."""
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (1 << 30, resource.getrlimit(resource.RLIMIT_AS)[1]))
    hoard = []
    try:
        while True:
            hoard.append(np.ones(1 << 24))
    except MemoryError:
        os.abort()


def _endless() -> None:
    while True:
        pass


FAULTS: dict[str, Callable[[], None]] = {
    "segfault": _segfault, "killed": _killed, "memory": _eat_memory, "endless": _endless,
}  # fmt: skip


# --- Processes ---------------------------------------------------------------------------------------------------


def warm_up() -> None:
    """Import and compile what the forked processes need; called in the server before the first fork."""
    import distributed.chaos  # noqa: F401
    import matplotlib.pyplot  # noqa: ICN001, F401

    from higgsnb import selection as selections

    selections.select(random_leptons(50, seed=1), selection.load("open2012"), "DoubleMu")
    random_analyses.warm_up()
    versions.installed_versions()
    provenance.code()  # asks git


def scheduler(*, port: int = 0, folder: str) -> None:
    """Run a Dask scheduler on loopback; says its ``address``."""
    import distributed

    _quiet_dask(folder)

    async def serve() -> None:
        async with distributed.Scheduler(host=LOOPBACK, port=port, dashboard=False) as running:
            zygote.say(address=running.address)
            await running.finished()

    asyncio.run(serve())


def worker(*, address: str, folder: str) -> None:
    """Run a Dask worker with one thread; says its ``address``."""
    import distributed

    _quiet_dask(folder)

    async def serve() -> None:
        started = distributed.Worker(
            address, nthreads=1, host=LOOPBACK, local_directory=folder, memory_limit=0, dashboard=False
        )
        async with started as running:
            zygote.say(address=running.address)
            await running.finished()

    asyncio.run(serve())


def _quiet_dask(folder: str) -> None:
    import dask

    dask.config.set({"temporary-directory": folder, "distributed.comm.timeouts.connect": "5s"})


class Cluster:
    """A Dask cluster of forked processes; a worker that ends is replaced at once."""

    def __init__(self, forks: zygote.Zygote, *, workers: int = 2, **environment: str) -> None:
        self._forks, self._environment = forks, environment
        self._folder = str(forks.folder / "dask")
        Path(self._folder).mkdir(exist_ok=True)
        self.scheduler = self._start_scheduler(port=0)
        self.address: str = self.scheduler.said("address")
        self.workers = [self.add_worker() for _ in range(workers)]
        for one in self.workers:
            one.said("address")

    def _start_scheduler(self, port: int) -> zygote.Child:
        return self._forks.fork("killers:scheduler", port=port, folder=self._folder)

    def add_worker(self, address: str | None = None) -> zygote.Child:
        """Start one more worker, at the scheduler or at an address that leads to it."""
        return self._forks.fork(
            "killers:worker", address=address or self.address, folder=self._folder, again=True,
            environment=self._environment,
        )  # fmt: skip

    def restart_scheduler(self) -> None:
        """Start a new scheduler where the killed one was."""
        self.scheduler.wait(zygote.PATIENCE)
        self.scheduler = self._start_scheduler(int(self.address.rpartition(":")[2]))
        self.scheduler.said("address")

    def restart_scheduler_when_gone(self, client: zygote.Child, timeout: float) -> None:
        """Wait until the scheduler or the client has ended, whichever is first; in the first case restart."""
        self._forks.until(lambda: self.scheduler.codes or client.codes, timeout)
        if self.scheduler.codes:
            self.restart_scheduler()

    @property
    def processes(self) -> list[zygote.Child]:
        """Scheduler and workers."""
        return [self.scheduler, *self.workers]

    def close(self) -> None:
        """End all its processes."""
        self._forks.retire(*reversed(self.processes))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def drive(
    *, toml: str, out: str, at: str = "threads", chunk_events: int = 50, workers: int | None = None,
    analyse: str = "counted", kill: dict[str, Any] | None = None, check: bool = False, every: float | None = None,
    chunk_seconds: float | None = None, patience: float = 20.0, chaos: dict[str, Any] | None = None,
) -> int:  # fmt: skip
    """Do what ``higgsnb run`` does but for the plot: run, with a ledger, and write the result directory.

    Parameters
    ----------
    toml, out
        The campaign file and the result directory.
    at
        "threads", "processes", or the address of a Dask scheduler.
    analyse
        The function of this module that counts a chunk.
    kill
        ``{"when": "before" | "inside" | "after", "commit": n, "pids": […]}``: at the n-th commit of the ledger, kill
        these processes (0 = this one) with SIGKILL.
    check
        Compare each partial result with the ledger, see `check_partial`.
    every
        Seconds between partial results.
    patience
        How long the Dask client tries to connect, again too.
    chaos
        Options of `distributed.chaos.KillWorker`, which then kills workers all the time.

    Returns
    -------
    int
        0 complete, 3 incomplete, `SCHEDULER_LOST`.
    """
    planned, chosen, folder = datasets.load(toml), selection.load("open2012"), Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    if every is not None:
        loop.SECONDS_BETWEEN_RESULTS = every
    commits = _arm(kill)
    options: dict[str, Any] = {"chunk_events": chunk_events, "workers": workers, "analyse": globals()[analyse]}
    if chunk_seconds is not None:
        options["chunk_seconds"] = chunk_seconds
    try:
        with _client(at, patience, chaos) as client:
            zygote.say(begun=True)
            began = time.monotonic()
            partial = engine.run(planned, chosen, client=client, ledger=folder / "ledger.sqlite", **options)
            found = checked(partial, planned, chunk_events, folder / "ledger.sqlite") if check else list(partial)
    except errors.SchedulerLostError as error:
        zygote.say(lost=str(error))
        return SCHEDULER_LOST
    last = found[-1]
    write_plain(last, folder)
    zygote.say(ended={
        "results": len(found), "seconds": time.monotonic() - began, "commits": commits["n"],
        "failed": [failure.as_dict() for failure in last.failed],
    })  # fmt: skip
    return 0 if last.complete else 3


@contextlib.contextmanager
def _client(at: str, patience: float, chaos: dict[str, Any] | None) -> Iterator[Any]:
    """What ``engine.run`` takes as ``client``."""
    if at in ("threads", "processes"):
        yield at
        return
    import distributed
    from distributed.chaos import KillWorker

    with contextlib.ExitStack() as stack:
        if at == "local":
            options: dict[str, Any] = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": ":0"}
            at = stack.enter_context(distributed.LocalCluster(host=LOOPBACK, processes=True, **options))
        client = stack.enter_context(distributed.Client(at, set_as_default=False, timeout=patience))
        if chaos is not None:
            client.register_plugin(KillWorker(**chaos))
        yield client


def write_plain(result: Result, folder: Path) -> None:
    """Write ``result.json`` (without the block of times) and ``histograms.json``."""
    text = json.dumps(results.document(result), sort_keys=True, indent=1, allow_nan=False)
    (folder / "result.json").write_text(text)
    histograms.save({"histograms": result.histograms}, folder / "histograms.json", {"complete": result.complete})


def digests(folder: Path) -> dict[str, str]:
    """The sha256 of the result files in a folder."""
    return {n: hashlib.sha256((folder / n).read_bytes()).hexdigest() for n in ("result.json", "histograms.json")}


def _arm(kill: dict[str, Any] | None) -> Counter[str]:
    """Count the commits of the ledger; kill some processes at one of them: before, inside its transaction, or after."""
    real, counts = engine.Ledger.commit, Counter[str]()
    when, number, pids = ("", 0, []) if kill is None else (kill["when"], kill["commit"], kill["pids"])

    def shoot() -> None:
        for pid in sorted((pid or os.getpid() for pid in pids), key=lambda pid: pid == os.getpid()):  # itself last
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def traced(statement: str) -> None:
        if statement.strip().upper().startswith("COMMIT") and counts["n"] == number:
            shoot()

    def wrapped(self: engine.Ledger, finished: Any, *arguments: Any, **options: Any) -> Any:
        rows = list(finished)
        counts["n"] += bool(rows)
        mine = when if rows and counts["n"] == number else ""
        if mine == "before":
            shoot()
        self._database.set_trace_callback(traced if mine == "inside" else None)
        answer = real(self, rows, *arguments, **options)
        if mine == "after":
            shoot()
        return answer

    engine.Ledger.commit = wrapped  # type: ignore[method-assign]
    return counts


# --- The ledger, seen from outside -------------------------------------------------------------------------------


def committed(path: Path) -> list[Record]:
    """Every chunk in a ledger at this moment, also while a run writes to it."""
    if not path.exists():
        return []
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=10)) as database:
        try:
            rows = database.execute(f"SELECT {', '.join(Record._fields)} FROM units").fetchall()  # noqa: S608
        except sqlite3.OperationalError:  # made, but its tables are not yet
            return []
    return [Record(*row) for row in rows]


def plan(one: Campaign, chunk_events: int) -> set[tuple[int, int, int, int]]:
    """Every chunk of a fully described campaign: (dataset, file, start, stop)."""
    return {
        (index, number, start, min(start + chunk_events, file.events))
        for index, part in enumerate(one.datasets)
        for number, file in enumerate(part.files)
        if file.events is not None
        for start in range(0, file.events, chunk_events)
    }


def chunk_of(record: Record) -> tuple[int, int, int, int]:
    """The chunk of a record."""
    return record.dataset, record.file, record.start, record.stop


def same(one: Tally, other: Tally) -> bool:
    """Whether two tallies are equal, bit for bit, whatever the order of their blocks."""
    empty = selection.load("open2012")
    sides = [Result(campaign(), empty, tally) for tally in (one, other)]
    tables = [[column.tobytes() for column in side._all_rows] for side in sides]
    plain = [
        (dict(t.ranges), dict(t.rejected_by_golden_json), dict(t.not_applied), dict(t.readers)) for t in (one, other)
    ]
    arrays = [{(name, d): a.tobytes() for name in ARRAYS for d, a in getattr(t, name).items()} for t in (one, other)]
    return tables[0] == tables[1] and plain[0] == plain[1] and arrays[0] == arrays[1]


def inside(tally: Tally, chunk: tuple[int, int, int, int]) -> bool:
    """Whether a chunk is among what a tally has counted."""
    index, file, start, stop = chunk
    return any(first <= start and stop <= end for first, end in tally.ranges.get((index, file), ()))


def checked(partial: Iterator[Result], one: Campaign, chunk_events: int, path: Path) -> list[Result]:
    """Take all results of a run; raise AssertionError for one that is not the sum of what the ledger held then.

    With ``before`` and ``after``, what the ledger holds before a result is asked for and once it is there:
    ``before`` ⊆ the chunks of the result ⊆ ``after``, and its numbers are the sum of their records. Each chunk of the
    plan is either counted whole or not at all.
    """
    planned, found = plan(one, chunk_events), []
    total = sum(stop - start for _, _, start, stop in planned)
    while True:
        before = {chunk_of(record) for record in committed(path)}
        result = next(partial, None)
        if result is None:
            return found
        after = committed(path)
        done = {chunk for chunk in planned if inside(result.tally, chunk)}
        mine = [record for record in after if chunk_of(record) in done]
        events = sum(stop - start for _, _, start, stop in done)
        problems = {
            "a committed chunk is missing": before - done,
            "a chunk was shown before it was committed": done - {chunk_of(record) for record in after},
            "events that are no whole chunk of the plan": result.coverage.events[0] - events,
            "done + failed + pending is not the plan": result.coverage.events[1] - total,
            "not the sum of the ledger": not same(result.tally, merge(mine)),
        }
        wrong = {what: value for what, value in problems.items() if value}
        if wrong:
            raise AssertionError(f"result {len(found)}: {wrong}")
        found.append(result)
