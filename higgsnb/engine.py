"""Run `analyse.analyse` over the chunks of a campaign, here or on a Dask cluster, yielding partial results.

One code path: `accounts` says what is to be done, `executors` where, `tasks` what a worker does, and the `ledger` what
is finished. Whoever does the work may die at any moment; what counts is what is in the ledger.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

from higgsnb import accounts, datasets, errors, events, luminosity, provenance, tasks, transfer
from higgsnb.accounts import Accounts, Batch
from higgsnb.analyse import analyse
from higgsnb.errors import (
    FileError,
    LedgerError,
    NondeterminismError,
    SchedulerLostError,
    VersionError,
    WorkerLostError,
)
from higgsnb.executors import Cluster, Threads, available_cores, opened
from higgsnb.files import redact
from higgsnb.ledger import Ledger, unit_keys
from higgsnb.result import Failure, Result
from higgsnb.selection import STREAM_CHANNELS
from higgsnb.tally import ChunkKey, FileKey, Integers, Record, Sum, Tally
from higgsnb.tasks import Outcome, Work

if TYPE_CHECKING:
    from higgsnb.datasets import Campaign, Chunk
    from higgsnb.events import FileInfo
    from higgsnb.executors import Processes
    from higgsnb.selection import Selection

__all__ = [
    "CHUNK_EVENTS",
    "FileError",
    "NondeterminismError",
    "SchedulerLostError",
    "VersionError",
    "available_cores",
    "run",
]

CHUNK_EVENTS = 250_000
"""Events in a chunk unless asked otherwise: about 50 MB of columns in the outreach schema."""
SECONDS_BETWEEN_RESULTS = 0.2
"""Partial results come at most five times a second."""
HEARTBEAT_SECONDS = 5.0
"""A partial result comes at least so often, also if nothing has landed: a sign of life, and a moment to stop."""
SHARE_OF_TIME = 0.1
"""Partial results, and what the caller does with each, take at most this share of the time."""
COMMIT_SHARE = 0.05
"""Writing to the ledger takes at most this share of the time of this thread, which mostly waits for workers."""
BATCH_CHUNKS = 500
"""Most chunks that go out together."""
BATCHES_PER_WORKER = 100
"""What is left is split so finely at least: what dies with a worker is then at most a hundredth of its share."""
UNIT_SECONDS = 900.0
"""How long one chunk may take in a process or on a cluster unless asked otherwise."""
INSPECTORS = 8
"""Threads that open files before the run, at least: nearly all of it is waiting."""
PATHS_ASKED = 100
"""Of how many paths the workers are asked whether they see them."""
ON_ERROR = ("report", "strict")

EVENTS_PER_CORE_SECOND = {"outreach": 2_000_000.0, "nanoaod": 500_000.0, "csv": 100_000.0}
"""Events a second and core that estimates count with.

``outreach`` as measured with local ZLIB files, checksums verified; the other two are careful guesses.
"""
READ_SHARE = {"outreach": 0.9, "nanoaod": 0.03, "csv": 1.0}
"""Part of a file's bytes that lies in the branches that are read."""


@dataclass
class _Run:
    """The state of one run: what is known of the files, the books, and the sum so far."""

    campaign: Campaign
    selection: Selection
    executor: Threads | Processes | Cluster
    work: Work
    strict: bool
    ledger: Ledger | None = None
    chunks: list[Chunk] = field(default_factory=list)
    keys: list[bytes] = field(default_factory=list)
    books: Accounts = field(default_factory=lambda: Accounts(()))
    files: dict[FileKey, FileInfo] = field(default_factory=dict)
    failures: dict[FileKey, Failure] = field(default_factory=dict)
    failed_sections: dict[ChunkKey, Integers] = field(default_factory=dict)
    poison: dict[FileKey, list[str]] = field(default_factory=dict)
    total: Sum = field(default_factory=Sum)
    landed: list[tuple[int, Record]] = field(default_factory=list)
    tries: dict[str, int] = field(default_factory=dict)
    seconds_per_chunk: float = 0.0

    def result(self) -> Result:
        """Return what has been counted so far."""
        self.commit()
        return Result(
            self.campaign,
            self.selection,
            self.total.tally(),
            dict(self.files),
            dict(self.failures),
            failed_sections=dict(self.failed_sections),
            run=self.figures(),
        )

    def commit(self) -> None:
        """Write what has landed to the ledger, and only then count it."""
        self.write()
        landed, self.landed = self.landed, []
        self.total.add(record for _, record in landed)

    def write(self) -> None:
        """Write what has landed to the ledger."""
        if self.ledger is not None and self.landed:
            self.ledger.commit((self.keys[unit], record) for unit, record in self.landed)

    def note_tries(self, tries: Mapping[str, int]) -> None:
        """Note how often remote files had to be asked."""
        for name, count in tries.items():
            self.tries[name] = max(count, self.tries.get(name, 0))

    def figures(self) -> dict[str, Any]:
        """Return how the work went, for the ``run`` block of a result: it may differ between runs of the same thing."""
        return {"backend": self.executor.name, "workers": self.executor.workers, "tries": dict(self.tries)}

    def fail(self, key: FileKey, error: str, message: str, hint: str, cause: Exception | None = None) -> None:
        """Note a file that could not be analysed; raise in strict mode."""
        dataset = self.campaign.datasets[key[0]]
        if self.strict:
            raise FileError(message, hint) from cause
        url = dataset.files[key[1]].url
        self.failures.setdefault(key, Failure(dataset.name, url, error, redact(message), redact(hint)))

    def file_of(self, unit: int) -> FileKey:
        """Return the file that a unit is a part of."""
        chunk = self.chunks[unit]
        return chunk.dataset_index, chunk.file_index


def run(
    campaign: Campaign,
    selection: Selection,
    *,
    client: Any = None,
    workers: int | None = None,
    chunk_events: int | None = None,
    fraction: float = 1.0,
    on_error: str = "report",
    skims_folder: Path | None = None,
    ledger: Path | None = None,
    fresh: bool = False,
    unit_seconds: float | None = None,
    analyse: Callable[..., Tally] = analyse,
) -> Generator[Result]:
    """Analyse a campaign with all cores of this machine, or with a Dask cluster.

    Parameters
    ----------
    campaign, selection
        What to analyse, what to keep.
    client
        Who does the work. None or "threads": threads of this process. "processes": processes of this machine, so that a
        crash, too little memory or an endless loop costs one chunk and not the run. A `distributed.Client`: any Dask
        cluster, see `cluster`.
    workers
        Number of threads or processes (default: the cores this process may use).
    chunk_events
        Most events in a chunk (default `CHUNK_EVENTS`); changes memory and speed, never the result.
    fraction
        Only the first part of each file, 0 < fraction ≤ 1; the result is then partial.
    on_error
        ``"report"``: go on without a file that cannot be read and list it in ``result.failed``; ``"strict"``: raise
        `FileError`.
    skims_folder
        Where the leptons of surviving events are kept between runs, see `skims`; None: nowhere.
    ledger
        The file in which finished chunks are recorded, so that the same call resumes after any interruption; None:
        nothing is recorded.
    fresh
        Whether to forget what the ledger holds of this campaign and selection, and begin again.
    unit_seconds
        How long one chunk may take (default `UNIT_SECONDS`); a process that takes longer is ended. Not with threads,
        which cannot be ended.
    analyse
        The function ``(chunk, selection, skims_folder=) -> Tally`` that counts a chunk; importable by the workers.

    Yields
    ------
    Result
        At most five a second and at least one every 5 s; the last one is all there is, and ``complete`` if every event
        was counted. Closing the generator stops the run.

    Raises
    ------
    ValueError
        If an option is out of range.
    LedgerError
        If the ledger is in use by another process or cannot be written.
    NondeterminismError
        If a chunk gave another result than an earlier time.
    FileError
        With ``on_error="strict"``, for the first file that cannot be read.
    VersionError
        If the cluster's workers have other versions than this process.
    SchedulerLostError
        If the Dask cluster is gone; the same call with a new cluster resumes.
    """
    if on_error not in ON_ERROR:
        raise ValueError(f"on_error = {on_error!r}; expected one of {', '.join(ON_ERROR)}")
    _check_streams(campaign, selection)
    luminosity.check_inputs(campaign)
    with ExitStack() as stack:
        executor = stack.enter_context(opened(client, workers))
        work = Work(selection, skims_folder, analyse, _limit(unit_seconds, executor), tasks.versions())
        _check_versions(executor)
        _check_paths(executor, campaign)
        state = _Run(campaign, selection, executor, work, on_error == "strict")
        if ledger is not None:
            state.ledger = stack.enter_context(Ledger(ledger))
        yield from _inspect_files(state)
        _check_files(state)
        _plan(state, CHUNK_EVENTS if chunk_events is None else chunk_events, fraction)
        _resume(state, fresh=fresh)
        yield from _carry_out(state)
        yield state.result()


def _check_streams(campaign: Campaign, selection: Selection) -> None:
    """Complain about data whose stream the selection takes no channel from."""
    for dataset in campaign.datasets:
        if dataset.is_data and not selection.channels(dataset.stream):
            raise ValueError(
                f"selection {selection.name} takes no channel from stream {dataset.stream!r} of {dataset.name}; "
                f"it knows {', '.join(STREAM_CHANNELS)}\nUse open2012, which takes all channels from all streams."
            )


def _limit(unit_seconds: float | None, executor: Threads | Processes | Cluster) -> float | None:
    """Return how long a chunk may take, None where nothing can be done about it."""
    if unit_seconds is not None and unit_seconds <= 0:
        raise ValueError(f"unit_seconds = {unit_seconds}; expected more than 0")
    if not executor.isolates:
        if unit_seconds is not None:
            raise ValueError('unit_seconds needs client="processes" or a Dask client: a thread cannot be ended')
        return None
    return UNIT_SECONDS if unit_seconds is None else unit_seconds


def _check_versions(executor: Threads | Processes | Cluster) -> None:
    """Complain if a cluster runs other versions than this process."""
    if isinstance(executor, Cluster):
        tasks.compare_all(*executor.ask(tasks.versions))


def _check_paths(executor: Threads | Processes | Cluster, campaign: Campaign) -> None:
    """Complain if the workers of a cluster do not see the files on this disk: pods, for one, do not share it."""
    places = [*(file.url for file in campaign.files), *filter(None, [campaign.golden_json])]
    here = tuple(place for place in places if transfer.scheme_of(place) is None and Path(place).exists())
    if not here or not isinstance(executor, Cluster):
        return
    _, answers = executor.ask(partial(tasks.unseen, here[:PATHS_ASKED]))
    for worker, missing in answers.items():
        if isinstance(missing, list) and missing:
            raise ValueError(
                f"campaign {campaign.name!r} reads {missing[0]}, which worker {worker} cannot see\n"
                "Give addresses (https://… or root://…), or set HIGGSNB_MIRROR to one, or use workers on this machine."
            )


# --- The plan ------------------------------------------------------------------------------------------------


def _inspect_files(state: _Run) -> Iterator[Result]:
    """Find out number of entries and identity of every file: from the campaign if it says all, else by opening it."""
    campaign, unknown = state.campaign, []
    for key in ((d, f) for d, dataset in enumerate(campaign.datasets) for f in range(len(dataset.files))):
        info = events.described(campaign.datasets[key[0]].files[key[1]])
        if info is None or campaign.schema == "csv":
            unknown.append(key)
        else:
            state.files[key] = info
    threads = max(INSPECTORS, 2 * available_cores())
    pool = ThreadPoolExecutor(threads, thread_name_prefix="higgsnb-inspect")
    heartbeat_due = time.monotonic() + HEARTBEAT_SECONDS
    try:
        for key, future in _inspecting(pool, campaign, unknown, 4 * threads):
            if future is not None:
                _note_file(state, key, future)
            if time.monotonic() >= heartbeat_due:
                yield state.result()
                heartbeat_due = time.monotonic() + HEARTBEAT_SECONDS
    finally:
        state.note_tries(transfer.take_tries())
        pool.shutdown(wait=False, cancel_futures=True)  # after an interrupt a thread may be stuck in the network


def _note_file(state: _Run, key: FileKey, future: Future[FileInfo]) -> None:
    """Note what a file says of itself, or that it could not be opened."""
    try:
        state.files[key] = future.result()
    except (OSError, ValueError) as error:
        state.fail(key, type(error).__name__, *errors.describe(error), error)


def _check_files(state: _Run) -> None:
    """Leave out files that are there already under another address; hold the rest against the catalogue's totals."""
    for place, message in datasets.same_files(state.campaign, state.files).items():
        del state.files[place]
        state.fail(place, "DuplicateFileError", *message)
    datasets.check_totals(state.campaign, {place: info.entries for place, info in state.files.items()})


def _inspecting(
    pool: ThreadPoolExecutor, campaign: Campaign, keys: Iterable[FileKey], most: int
) -> Iterator[tuple[FileKey, Future[FileInfo] | None]]:
    """Inspect files with at most so many under way; yield each one's finished future, and None while there is none."""
    left = iter(keys)
    waiting: dict[Future[FileInfo], FileKey] = {}
    while True:
        for key in islice(left, most - len(waiting)):
            waiting[pool.submit(events.inspect, campaign.datasets[key[0]].files[key[1]], campaign.schema)] = key
        if not waiting:
            return
        done = wait(waiting, timeout=1.0, return_when=FIRST_COMPLETED).done
        for future in done:
            yield waiting.pop(future), future
        if not done:
            yield (0, 0), None


def _plan(state: _Run, chunk_events: int, fraction: float) -> None:
    """Split the files that could be opened into chunks."""
    entries = dict.fromkeys((file.url for file in state.campaign.files), 0)
    entries |= {state.campaign.datasets[d].files[f].url: info.entries for (d, f), info in state.files.items()}
    chunks = datasets.chunks(state.campaign, entries, chunk_events, fraction)
    marks = {key: _marks(state, key) for key in state.files}
    for chunk in chunks:
        found = marks.get((chunk.dataset_index, chunk.file_index))
        if found is not None:
            state.chunks.append(replace(chunk, **found) if found else chunk)


def _marks(state: _Run, key: FileKey) -> dict[str, Any]:
    """Return by what a worker recognises that a file and the golden JSON are those that the plan was made with."""
    dataset, info = state.campaign.datasets[key[0]], state.files[key]
    marks: dict[str, Any] = {}
    if dataset.is_data and state.campaign.golden_json is not None:
        marks["mask"] = luminosity.kept_mask(state.campaign.golden_json).digest
    if info.kind and (fingerprint := events.fingerprint(dataset.files[key[1]], info)):
        marks["fingerprint"] = fingerprint
    return marks


def _resume(state: _Run, *, fresh: bool) -> None:
    """Take from the ledger what it holds, and open the books for what is still to be done."""
    units = range(len(state.chunks))
    if state.ledger is None:
        state.books = Accounts(units)
        return
    state.keys = _keys(state)
    if fresh:
        state.ledger.forget(state.keys)
    finished: set[bytes] = set()
    for some in state.ledger.records(state.keys):
        finished.update(some)
        state.total.add(some.values())
    waiting = [unit for unit in units if state.keys[unit] not in finished]
    attempts = {} if state.executor.isolates else state.ledger.attempts(state.keys)
    begun = {unit: attempts[state.keys[unit]] for unit in waiting if state.keys[unit] in attempts}
    state.books = Accounts(waiting, {unit for unit, before in begun.items() if before.open})
    _try_apart(state, [unit for unit, before in begun.items() if before.alone >= accounts.MOST_STRIKES])


def _try_apart(state: _Run, units: list[int]) -> None:
    """Give units during which this process has ended again and again a process of their own, which decides.

    Somebody else may have ended this one each time (a limit of a batch system, a session that was culled).
    """
    work = state.work._replace(unit_seconds=UNIT_SECONDS)
    with opened("processes" if units else "threads", 1) as executor:
        for unit in units:
            future = executor.submit(tasks.do, (state.chunks[unit],), work)
            wait([future])
            if isinstance(future.exception(), WorkerLostError):
                state.books.fail(unit)
                _blame(
                    state, unit, "The others are counted. Look at this part of the file, or give workers more memory."
                )
            else:
                _receive(state, Batch((unit,), alone=False), future)


def _keys(state: _Run) -> list[bytes]:
    """Return the ledger's key of each chunk."""
    return unit_keys(state.chunks, {key: _identity(state, key) for key in state.files})


def _identity(state: _Run, key: FileKey) -> dict[str, Any]:
    """Return everything but the range of entries that can change what is counted in a chunk of a file."""
    dataset, info = state.campaign.datasets[key[0]], state.files[key]
    return {
        "place": key,
        "file": [info.bytes, info.entries, dataset.files[key[1]].adler32],
        "marks": _marks(state, key),
        "schema": state.campaign.schema,
        "stream": dataset.stream,
        "is_data": dataset.is_data,
        "sections": dataset.is_data and state.campaign.has_sections,
        "selection": state.selection.digest,
        "code": provenance.sources_sha256(*provenance.RESULT_MODULES),
        "analyse": tasks.describe(state.work.analyse),
        "libraries": provenance.libraries(),
    }


# --- The work ------------------------------------------------------------------------------------------------


def _carry_out(state: _Run) -> Iterator[Result]:
    """Do everything that is left; yield the sum now and then."""
    come_back: SimpleQueue[Future[list[Outcome]]] = SimpleQueue()
    under_way: dict[Future[list[Outcome]], Batch] = {}
    pace = _Pace()
    try:
        while True:
            state.executor.await_return()
            _send_out(state, under_way, come_back)
            if not under_way:
                return
            for future in _come_back(come_back, pace.patience(waiting=bool(state.landed))):
                _receive(state, under_way[future], future)
                del under_way[future]
                pace.news = True
            if state.landed and pace.commit_is_due():
                pace.committed(state.commit)
            if pace.result_is_due():
                before = time.monotonic()
                yield state.result()
                pace.shown(time.monotonic() - before)
    except SchedulerLostError as error:
        raise SchedulerLostError(f"{error}\n{_what_is_kept(state)}") from error
    finally:
        _stop(state, under_way)


@dataclass
class _Pace:
    """When to write to the ledger and when to show a result, so that neither takes much of the time."""

    commit_due: float = 0.0
    result_due: float = field(default_factory=lambda: time.monotonic() + SECONDS_BETWEEN_RESULTS)
    heartbeat_due: float = field(default_factory=lambda: time.monotonic() + HEARTBEAT_SECONDS)
    news: bool = False

    def patience(self, *, waiting: bool) -> float:
        """Return how long to wait for a result from a worker; ``waiting``: some wait to be written."""
        due = min(self._due(), self.commit_due if waiting else float("inf"))
        return min(max(due - time.monotonic(), 0.0), 1.0)

    def commit_is_due(self) -> bool:
        """Whether to write to the ledger now."""
        return time.monotonic() >= self.commit_due

    def committed(self, commit: Callable[[], None]) -> None:
        """Write, and say when next."""
        before = time.monotonic()
        commit()
        now = time.monotonic()
        self.commit_due = now + min((now - before) / COMMIT_SHARE, SECONDS_BETWEEN_RESULTS)

    def result_is_due(self) -> bool:
        """Whether to show a result now."""
        return time.monotonic() >= self._due()

    def _due(self) -> float:
        """Return when the next result is due: a heartbeat comes whatever else."""
        return min(self.result_due, self.heartbeat_due) if self.news else self.heartbeat_due

    def shown(self, seconds: float) -> None:
        """Note that a result was shown, which took so long."""
        now, self.news = time.monotonic(), False
        self.result_due = now + max(SECONDS_BETWEEN_RESULTS, seconds / SHARE_OF_TIME)
        self.heartbeat_due = now + HEARTBEAT_SECONDS


def _send_out(
    state: _Run,
    under_way: dict[Future[list[Outcome]], Batch],
    come_back: SimpleQueue[Future[list[Outcome]]],
) -> None:
    """Give the workers as much as they may have."""
    while len(under_way) < state.executor.most_under_way:
        batch = state.books.take(_batch_size(state))
        if batch is None:
            return
        if state.ledger is not None:
            if batch.alone:  # what it may take with it must not count against others
                state.commit()
            keys = [state.keys[unit] for unit in batch.units]
            state.ledger.begin(keys, alone=batch.alone and not state.executor.isolates)
        future = state.executor.submit(tasks.do, tuple(state.chunks[unit] for unit in batch.units), state.work)
        under_way[future] = batch
        future.add_done_callback(come_back.put)


def _batch_size(state: _Run) -> int:
    """Return how many chunks to send out together: enough to be worth it, few enough that little can be lost."""
    if not state.seconds_per_chunk:
        return 1
    fair = state.books.left // (BATCHES_PER_WORKER * max(1, state.executor.workers)) + 1
    return max(1, min(BATCH_CHUNKS, fair, int(state.executor.batch_seconds / state.seconds_per_chunk)))


def _come_back(queue: SimpleQueue[Future[list[Outcome]]], patience: float) -> Iterator[Future[list[Outcome]]]:
    """Yield what has come back, after waiting for the first one."""
    try:
        yield queue.get(timeout=patience) if patience > 0 else queue.get_nowait()
        while True:
            yield queue.get_nowait()
    except Empty:
        return


def _receive(state: _Run, batch: Batch, future: Future[list[Outcome]]) -> None:
    """Enter into the books what came of a batch."""
    try:
        outcomes = future.result()
    except CancelledError:  # the connection was cut
        state.books.give_back(batch)
        return
    except WorkerLostError as error:
        for unit in state.books.lose(batch, error.failures):
            _blame(state, unit, "The others were counted. Look at this part of the file, or give workers more memory.")
        return
    if state.ledger is not None:  # a unit that failed has not ended its process
        state.ledger.end(state.keys[u] for u, outcome in zip(batch.units, outcomes, strict=True) if not outcome.record)
    for unit, outcome in zip(batch.units, outcomes, strict=True):
        if outcome.record is None:
            if state.books.fail(unit):
                state.fail(state.file_of(unit), outcome.error, outcome.message, outcome.hint)
                chunk = state.chunks[unit]
                if outcome.sections is not None:
                    place = (chunk.dataset_index, chunk.file_index, chunk.start, chunk.stop)
                    state.failed_sections[place] = outcome.sections
        elif _is_new(state, unit, outcome):
            state.landed.append((unit, outcome.record))
        state.note_tries(outcome.tries)
    mean = sum(outcome.seconds for outcome in outcomes) / len(outcomes)
    state.seconds_per_chunk = (state.seconds_per_chunk + mean) / 2 if state.seconds_per_chunk else mean


def _is_new(state: _Run, unit: int, outcome: Outcome) -> bool:
    """Whether a record is the first one of its unit; another one has to be the same."""
    try:
        return state.books.land(unit, outcome.sha256)
    except NondeterminismError:
        chunk = state.chunks[unit]
        raise accounts.nondeterminism(chunk.dataset_index, chunk.file_index, chunk.start, chunk.stop) from None


def _blame(state: _Run, unit: int, remedy: str) -> None:
    """List a unit that ends its worker whenever it is tried; those of one file stand in one message."""
    chunk, key, limit = state.chunks[unit], state.file_of(unit), state.work.unit_seconds
    ranges = state.poison.setdefault(key, [])
    ranges.append(f"{chunk.start} to {chunk.stop}")
    cause = "a crash, or no memory left" if limit is None else f"a crash, no memory left, or more than {limit:g} s"
    what = f"entries {', '.join(ranges)} ended the worker each time they were tried ({cause})"
    if key not in state.failures or len(ranges) > 1:
        state.failures.pop(key, None)
        state.fail(key, "PoisonUnitError", f"{chunk.file.url}: {what}", remedy)


def _what_is_kept(state: _Run) -> str:
    """Say what is not lost when a cluster is."""
    if state.ledger is None:
        return "Nothing was recorded; with ledger=PATH the same call would resume."
    done = len(state.chunks) - state.books.left - len(state.books.failed)
    return f"{done} of {len(state.chunks)} chunks are in the ledger: the same call with a new cluster resumes."


def _stop(state: _Run, under_way: Mapping[Future[list[Outcome]], Batch]) -> None:
    """Keep what has landed, and note that nothing is under way any more."""
    with suppress(LedgerError, NondeterminismError):  # whoever stops because of these is told already
        state.write()
        if state.ledger is not None:
            state.ledger.end(state.keys[unit] for batch in under_way.values() for unit in batch.units)
