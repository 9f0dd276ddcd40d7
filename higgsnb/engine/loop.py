"""Run `results.analyse` over the chunks of a campaign, here or on a Dask cluster, yielding partial results.

One code path for every backend: the `plan` lists all chunks, the `queue` those that are left, `executors` run them,
each in a `worker`, and the `ledger` records those that are finished. Workers, cluster and this process may die at any
moment; what is in the ledger is not counted again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Mapping
from concurrent.futures import CancelledError, Future, wait
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

from higgsnb import datasets, storage
from higgsnb.datasets import Address
from higgsnb.engine import arguments, versions
from higgsnb.engine import plan as plans  # `plan` is that of a run
from higgsnb.engine.executors import DaskCluster, Executor, Processes, open_executor
from higgsnb.engine.ledger import Ledger, nondeterminism
from higgsnb.engine.plan import CHUNK_EVENTS, HEARTBEAT_SECONDS, Plan
from higgsnb.engine.queue import MAX_FAILURES, Batch, WorkQueue
from higgsnb.engine.worker import ChunkResult, Job, process_chunks, unseen
from higgsnb.errors import FileError, LedgerError, NondeterminismError, OptionError, SchedulerLostError, WorkerLostError
from higgsnb.redaction import logger
from higgsnb.results import ChunkKey, Failure, FileKey, Record, Result, Sum, Tally, analyse, layout_of

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from higgsnb.datasets import Campaign
    from higgsnb.selection import Analysis

log = logger(__name__)

SECONDS_BETWEEN_RESULTS = 0.2
"""Least time between two partial results."""
SHARE_OF_TIME = 0.1
"""Largest share of the time for making partial results, and for what the caller does with them."""
COMMIT_SHARE = 0.05
"""Largest share of this thread's time for writing to the ledger; mostly it waits for workers."""
BATCH_CHUNKS = 500
"""Largest number of chunks in a batch."""
BATCHES_PER_WORKER = 100
"""Least number of batches per worker that the remaining chunks are split into, so that a lost worker costs little."""
CHUNK_SECONDS = 900.0
"""Default time limit for one chunk, in a process or on a cluster."""
PATHS_CHECKED = 100
"""Number of local paths that are looked up on every worker before the run."""
KILLERS_NAMED = 10
"""Chunks of one file that a message names; it is made anew for each of them."""
KILLER_HINT = "The others are counted. Look at this part of the file, or give workers more memory."


def run(
    campaign: Campaign | str | Path,
    selection: Analysis | str | Path,
    *,
    client: Any = None,
    workers: int | None = None,
    chunk_events: int | None = None,
    fraction: float = 1.0,
    on_error: str = "report",
    skims_folder: Path | None = None,
    ledger: Path | None = None,
    fresh: bool = False,
    chunk_seconds: float | None = None,
    analyse: Callable[..., Tally] = analyse,
) -> Generator[Result]:
    """Analyse a campaign with all cores of this machine, or with a Dask cluster.

    Parameters
    ----------
    campaign, selection
        What to analyse; what to keep: a four-lepton selection or any other `Analysis`. Or their names or TOML files,
        for `datasets.load` and `selection.load`.
    client
        Where to run. None or "threads": threads of this process. "processes": processes of this machine, so that a
        crash, too little memory or an endless loop costs one chunk and not the run. A `distributed.Client`, or a
        cluster that gives one: any Dask cluster, see `cluster`.
    workers
        Number of threads or processes (default: the cores this process may use).
    chunk_events
        Most events in a chunk (default 250,000); changes memory and speed, never the result.
    fraction
        Only the first part of each file, 0 < fraction ≤ 1; the result is then partial.
    on_error
        ``"report"``: go on without a file that cannot be read, and list it in ``result.failed``; ``"strict"``: raise
        `FileError`.
    skims_folder
        Where to keep the leptons of preselected events between runs, see `skims`; None: nowhere.
    ledger
        The file in which finished chunks are recorded, so that the same call resumes after any interruption; None:
        nothing is recorded.
    fresh
        Whether to delete what the ledger holds of this campaign and selection, and begin again.
    chunk_seconds
        How long one chunk may take (default 900 s); a process that takes longer is ended. Not with threads, which
        cannot be ended.
    analyse
        The function ``(chunk, selection, skims_folder=) -> Tally`` that counts a chunk; importable by the workers.

    Yields
    ------
    Result
        At most five a second and at least one every 5 s; the last one holds everything, and is ``complete`` if every
        event was counted. Closing the generator stops the run.

    Raises
    ------
    OptionError
        If an option is out of range or of the wrong type, or worker processes cannot be started.
    LedgerError
        If the ledger is in use by another process or cannot be written.
    NondeterminismError
        If a chunk gave another result than before.
    FileError
        If none of the files can be read. With ``on_error="strict"``, for the first one that cannot be analysed.
    AnalysisError
        If the function of an analysis fails, or returns something else than the analysis declares.
    VersionError
        If the cluster's workers run other versions than this process.
    SchedulerLostError
        If the Dask cluster is gone; the same call with a new cluster resumes.
    """
    campaign, selection = arguments.loaded(campaign, selection)
    selection = selection.pinned()
    arguments.check(
        workers=workers, chunk_events=chunk_events, fraction=fraction, on_error=on_error, skims_folder=skims_folder,
        ledger=ledger, fresh=fresh, chunk_seconds=chunk_seconds, analyse=analyse,
    )  # fmt: skip
    plans.check_primary_datasets(campaign, selection)
    storage.given_cache()  # if it is wrong, it is so for every file
    campaign = datasets.check_inputs(datasets.expand(campaign))
    strict = on_error == "strict"
    with ExitStack() as stack:
        executor = stack.enter_context(open_executor(client, workers))
        limit = _time_limit(chunk_seconds, executor)
        folder = None if skims_folder is None else Path(skims_folder)
        job = Job(selection, folder, analyse, limit, versions.installed_versions())
        if isinstance(executor, DaskCluster):
            _check_workers(executor, campaign)
        opened = None if ledger is None else stack.enter_context(Ledger(ledger))
        for inspection in plans.inspect_files(campaign, selection, strict=strict):
            if not inspection.complete:
                yield Result(
                    campaign, selection, Tally(), inspection.files, inspection.failures,
                    run=_run_block(executor, inspection.tries),
                )  # fmt: skip
        plan = plans.make(
            campaign, selection, inspection, chunk_events=CHUNK_EVENTS if chunk_events is None else chunk_events,
            fraction=fraction, analyse=analyse, strict=strict,
        )  # fmt: skip
        progress = _Progress(plan, executor, opened, inspection.tries)
        loop = _Loop(plan, executor, job, progress, opened)
        loop.resume(fresh=fresh)
        yield from loop.results()
        progress.check_readable()
        yield progress.result()


def _time_limit(chunk_seconds: float | None, executor: Executor) -> float | None:
    """Return how long a chunk may take, None where it cannot be ended."""
    if executor.isolates:
        return CHUNK_SECONDS if chunk_seconds is None else chunk_seconds
    if chunk_seconds is not None:
        message = "chunk_seconds is given, but a thread cannot be ended"
        raise OptionError(message, 'Give client="processes" or a Dask client.')
    return None


def _check_workers(cluster: DaskCluster, campaign: Campaign) -> None:
    """Raise an error if the workers run other versions, or do not see the files on this disk (pods, for example)."""
    versions.check_cluster_versions(*cluster.ask(versions.installed_versions))
    paths = [*(file.url for file in campaign.files), *filter(None, [campaign.golden_json])]
    here = tuple(path for path in paths if not Address.of(path).scheme and Path(path).exists())
    if not here:
        return
    _, answers = cluster.ask(partial(unseen, here[:PATHS_CHECKED]))
    for worker, missing in answers.items():
        if isinstance(missing, list) and missing:
            raise OptionError(
                f"campaign {campaign.name!r} reads {missing[0]}, which worker {worker} cannot see",
                "Give addresses (https://… or root://…), or set HIGGSNB_MIRROR to one, or use workers on this machine.",
            )


def _run_block(executor: Executor, tries: Mapping[str, int]) -> dict[str, Any]:
    """Return the ``run`` block of a result: how the work went, which may differ between equal runs."""
    return {"backend": executor.name, "workers": executor.workers, "tries": dict(tries)}


class _Progress:
    """The sum of the finished chunks of a plan, and the failures."""

    def __init__(self, plan: Plan, executor: Executor, ledger: Ledger | None, tries: Mapping[str, int]) -> None:
        self._plan, self._executor, self._ledger = plan, executor, ledger
        self._mask = next((chunk.mask for chunk in plan.chunks if chunk.mask), "")
        self.sum = Sum(layout_of(plan.selection))
        self.counted = False
        """Whether any chunk is in the sum."""
        self.uncommitted: list[tuple[int, Record, bytes]] = []
        """Finished chunks, by their index, that wait to be written to the ledger and counted."""
        self.tries = dict(tries)
        """How often each remote file was requested: the largest number of tries."""
        self._failures: dict[FileKey, Failure] = dict(plan.failures)
        self._failed_sections: dict[ChunkKey, npt.NDArray[np.int64]] = {}
        self._killers: dict[FileKey, list[str]] = {}

    def result(self) -> Result:
        """Commit, and return what has been counted so far."""
        self.commit()
        result = Result(
            self._plan.campaign, self._plan.selection, self.sum.tally(), self._plan.files, dict(self._failures),
            failed_sections=dict(self._failed_sections), golden_json_digest=self._mask,
            run=_run_block(self._executor, self.tries),
        )  # fmt: skip
        if self._plan.strict and result.failed:  # found when the chunks of a dataset were put together
            raise FileError(result.failed[0].message, result.failed[0].hint)
        return result

    def commit(self) -> None:
        """Write finished chunks to the ledger, and only then count them."""
        if self._ledger is not None and self.uncommitted:
            keys = self._plan.keys
            self._ledger.commit((keys[index], record, sha256) for index, record, sha256 in self.uncommitted)
        finished, self.uncommitted = self.uncommitted, []
        self.sum.add(record for _, record, _ in finished)
        self.counted |= bool(finished)

    def fail(self, index: int, result: ChunkResult) -> None:
        """List the file of a chunk that failed; raise FileError in strict mode."""
        chunk = self._plan.chunks[index]
        key = (chunk.dataset_index, chunk.file_index)
        what, strict = (result.error, result.message, result.hint), self._plan.strict
        self._failures.setdefault(key, plans.failure(self._plan.campaign, key, *what, strict=strict))
        if result.sections is not None:
            self._failed_sections[*key, chunk.start, chunk.stop] = result.sections

    def check_readable(self) -> None:
        """Raise FileError if nothing was counted, and no file could be read: that is no result."""
        if not self.counted:
            plans.check_readable(self._plan.campaign, self._plan.selection, self._failures)

    def fail_killer(self, index: int, limit: float | None) -> None:
        """List a chunk that ends its worker each time it is tried; the chunks of one file share one message."""
        chunk = self._plan.chunks[index]
        key = (chunk.dataset_index, chunk.file_index)
        ranges = self._killers.setdefault(key, [])
        ranges.append(f"{chunk.start} to {chunk.stop}")
        if key in self._failures and self._failures[key].error != "PoisonUnitError":  # of another reason, which stays
            return
        cause = "a crash, or no memory left" if limit is None else f"a crash, no memory left, or more than {limit:g} s"
        named = ", ".join(ranges[:KILLERS_NAMED])
        more = f" and {len(ranges) - KILLERS_NAMED} more such chunks" if len(ranges) > KILLERS_NAMED else ""
        message = f"{chunk.file.url}: entries {named}{more} ended the worker each time they were tried ({cause})"
        self._failures[key] = plans.failure(
            self._plan.campaign, key, "PoisonUnitError", message, KILLER_HINT, strict=self._plan.strict
        )


class _Loop:
    """Send chunks to the workers until none is left, and collect their results."""

    def __init__(self, plan: Plan, executor: Executor, job: Job, progress: _Progress, ledger: Ledger | None) -> None:
        self._plan, self._executor, self._job, self._progress, self._ledger = plan, executor, job, progress, ledger
        self._queue = WorkQueue(range(len(plan.chunks)))
        self._in_flight: dict[Future[list[ChunkResult]], Batch] = {}
        self._completed: SimpleQueue[Future[list[ChunkResult]]] = SimpleQueue()
        self._seconds_per_chunk = 0.0

    def resume(self, *, fresh: bool) -> None:
        """Count what the ledger holds, and queue the rest; with ``fresh``, delete what it holds of this plan first."""
        if self._ledger is None:
            return
        keys = self._plan.keys
        if fresh:
            self._ledger.forget(keys)
        finished: set[bytes] = set()
        for records in self._ledger.records(keys):
            finished.update(records)
            self._progress.sum.add(records.values())
            self._progress.counted |= bool(records)
        waiting = [index for index, key in enumerate(keys) if key not in finished]
        attempts = {} if self._executor.isolates else self._ledger.attempts(keys)
        begun = {index: attempts[keys[index]] for index in waiting if keys[index] in attempts}
        self._queue = WorkQueue(waiting, {index for index, before in begun.items() if before.open})
        log.info("%d of %d chunks are in the ledger", len(finished), len(keys))
        suspects = [index for index, before in begun.items() if before.alone >= MAX_FAILURES]
        if not suspects:
            return
        # This process ended again and again during these. Something else may have ended it each time, such as a limit
        # of a batch system: so they are run in a process of their own.
        job = self._job._replace(chunk_seconds=CHUNK_SECONDS)
        with open_executor("processes", 1) as executor:
            for index in suspects:
                while True:
                    future = executor.submit(process_chunks, (self._plan.chunks[index],), job)
                    while wait([future], timeout=1.0).not_done:
                        _end_overdue(executor, job, {future: Batch((index,), alone=False)})
                    if not future.cancelled():  # as it is if the process died before it could begin
                        break
                if isinstance(future.exception(), WorkerLostError):
                    self._queue.fail(index)
                    self._progress.fail_killer(index, job.chunk_seconds)
                else:
                    self._receive(Batch((index,), alone=False), future)

    def results(self) -> Iterator[Result]:
        """Process the chunks that are left, and yield partial results."""
        pace = _Pace()
        try:
            while True:
                if isinstance(self._executor, DaskCluster):
                    self._executor.wait_until_connected()
                self._send()
                if not self._in_flight:
                    return
                _end_overdue(self._executor, self._job, self._in_flight)
                for future in self._wait(pace.timeout(uncommitted=bool(self._progress.uncommitted))):
                    self._receive(self._in_flight[future], future)
                    del self._in_flight[future]
                    pace.news = True
                if self._progress.uncommitted and time.monotonic() >= pace.commit_due:
                    pace.committed(self._progress.commit)
                if time.monotonic() >= pace.due:
                    before = time.monotonic()
                    yield self._progress.result()
                    pace.yielded(time.monotonic() - before)
        except SchedulerLostError as error:
            total = len(self._plan.chunks)
            done = total - self._queue.remaining - len(self._queue.failed)
            hint = f"{done} of {total} chunks are in the ledger: the same call with a new cluster resumes."
            if self._ledger is None:
                hint = "Nothing was recorded; with ledger=PATH the same call would resume."
            raise SchedulerLostError(error.message, hint) from error
        finally:
            with suppress(LedgerError, NondeterminismError):  # if these ended the run, they are being raised already
                self._progress.commit()
                if self._ledger is not None:  # nothing is in flight any more
                    self._ledger.end(self._plan.keys[i] for batch in self._in_flight.values() for i in batch.chunks)

    def _send(self) -> None:
        """Send as many batches as the executor takes."""
        while len(self._in_flight) < self._executor.max_in_flight:
            most = 1
            if self._seconds_per_chunk:  # as many as fill `batch_seconds`, few enough that little is lost
                fair = self._queue.remaining // (BATCHES_PER_WORKER * max(1, self._executor.workers)) + 1
                most = max(1, min(BATCH_CHUNKS, fair, int(self._executor.batch_seconds / self._seconds_per_chunk)))
            batch = self._queue.next_batch(most)
            if batch is None:
                return
            if self._ledger is not None:
                if batch.alone:  # if it ends this process, nothing else is lost or suspected
                    self._progress.commit()
                keys = [self._plan.keys[index] for index in batch.chunks]
                self._ledger.begin(keys, alone=batch.alone and not self._executor.isolates)
            chunks = tuple(self._plan.chunks[index] for index in batch.chunks)
            future = self._executor.submit(process_chunks, chunks, self._job)
            self._in_flight[future] = batch
            future.add_done_callback(self._completed.put)

    def _wait(self, timeout: float) -> Iterator[Future[list[ChunkResult]]]:
        """Wait for the first batch to be completed, and yield all that are."""
        with suppress(Empty):
            yield self._completed.get(timeout=timeout)
            while True:
                yield self._completed.get_nowait()

    def _receive(self, batch: Batch, future: Future[list[ChunkResult]]) -> None:
        """Process the results of a batch, or the loss of its worker."""
        try:
            results = future.result()
        except CancelledError:  # the connection was cut, or a process died before it could begin
            log.info("%d chunks are sent again: they did not reach a worker", len(batch.chunks))
            self._queue.requeue(batch)
            return
        except WorkerLostError as error:
            log.info("a worker died with %d chunks: %s", len(batch.chunks), error.message)
            for index in self._queue.worker_lost(batch, error.failures):
                self._progress.fail_killer(index, self._job.chunk_seconds)
            return
        pairs = list(zip(batch.chunks, results, strict=True))
        if self._ledger is not None:  # a chunk that failed did not end its process
            self._ledger.end(self._plan.keys[index] for index, result in pairs if result.record is None)
        tries = self._progress.tries
        for index, result in pairs:
            tries |= {name: max(count, tries.get(name, 0)) for name, count in result.tries.items()}
            if result.record is None:
                if self._queue.fail(index):
                    self._progress.fail(index, result)
                continue
            try:
                is_new = self._queue.complete(index, result.sha256)
            except NondeterminismError:
                chunk = self._plan.chunks[index]
                raise nondeterminism(chunk.dataset_index, chunk.file_index, chunk.start, chunk.stop) from None
            if is_new:
                self._progress.uncommitted.append((index, result.record, result.sha256))
        mean = sum(result.seconds for result in results) / len(results)
        self._seconds_per_chunk = (self._seconds_per_chunk + mean) / 2 if self._seconds_per_chunk else mean


def _end_overdue(executor: Executor, job: Job, in_flight: Mapping[Future[list[ChunkResult]], Batch]) -> None:
    """End the processes that did not end themselves when the time limits of all their chunks had passed."""
    if isinstance(executor, Processes) and job.chunk_seconds is not None:
        for future, batch in in_flight.items():
            executor.end_overdue(future, 2 * len(batch.chunks) * job.chunk_seconds)  # lumi sections have a limit, too


@dataclass
class _Pace:
    """When to write to the ledger and when to yield a result, so that neither takes much of the time."""

    commit_due: float = 0.0
    result_due: float = field(default_factory=lambda: time.monotonic() + SECONDS_BETWEEN_RESULTS)
    heartbeat_due: float = field(default_factory=lambda: time.monotonic() + HEARTBEAT_SECONDS)
    news: bool = False

    def timeout(self, *, uncommitted: bool) -> float:
        """Return how long to wait for a result from a worker; ``uncommitted``: some wait to be written."""
        due = min(self.due, self.commit_due if uncommitted else float("inf"))
        return min(max(due - time.monotonic(), 0.0), 1.0)

    def committed(self, commit: Callable[[], None]) -> None:
        """Call ``commit``, and set the time of the next one."""
        before = time.monotonic()
        commit()
        now = time.monotonic()
        self.commit_due = now + min((now - before) / COMMIT_SHARE, SECONDS_BETWEEN_RESULTS)

    @property
    def due(self) -> float:
        """When the next result is due; a heartbeat does not wait for news."""
        return min(self.result_due, self.heartbeat_due) if self.news else self.heartbeat_due

    def yielded(self, seconds: float) -> None:
        """Set the time of the next result, after one that took ``seconds``."""
        now, self.news = time.monotonic(), False
        self.result_due = now + max(SECONDS_BETWEEN_RESULTS, seconds / SHARE_OF_TIME)
        self.heartbeat_due = now + HEARTBEAT_SECONDS
