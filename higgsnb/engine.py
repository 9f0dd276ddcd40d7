"""Run `analysis.analyse` over the chunks of a campaign, yielding partial results as they land."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

from higgsnb import datasets, events, luminosity, provenance
from higgsnb.analysis import Failure, FileKey, Result, Tally, analyse, merge
from higgsnb.files import redact
from higgsnb.ledger import Ledger, pack, unit_keys
from higgsnb.selection import STREAM_CHANNELS

if TYPE_CHECKING:
    from pathlib import Path

    from higgsnb.datasets import Campaign, Chunk
    from higgsnb.events import FileInfo
    from higgsnb.selection import Selection

CHUNK_EVENTS = 250_000
"""Events in a chunk unless asked otherwise: about 50 MB of columns in the outreach schema."""
SECONDS_BETWEEN_RESULTS = 0.2
"""Partial results come at most five times a second."""
ON_ERROR = ("report", "strict")

Key = TypeVar("Key")
Value = TypeVar("Value")


class FileError(RuntimeError):
    """A file that could not be analysed, raised with ``on_error="strict"``; the message is that of the cause."""


@dataclass
class _Run:
    """The state of one run: what is known of the files, and the sum so far."""

    campaign: Campaign
    selection: Selection
    strict: bool
    ledger: Ledger | None = None
    keys: dict[tuple[FileKey, int], bytes] = field(default_factory=dict)
    files: dict[FileKey, FileInfo] = field(default_factory=dict)
    failures: dict[FileKey, Failure] = field(default_factory=dict)
    tally: Tally = field(default_factory=Tally)
    landed: list[Tally] = field(default_factory=list)

    def result(self) -> Result:
        """Return what has been counted so far."""
        if self.ledger is not None and self.landed:
            self.ledger.commit((self._key(tally), pack(tally)) for tally in self.landed)
        self.tally, self.landed = merge((self.tally, *self.landed)), []
        return Result(self.campaign, self.selection, self.tally, dict(self.files), dict(self.failures))

    def _key(self, tally: Tally) -> bytes:
        """Return the ledger's key of the tally of one chunk."""
        ((file, ((start, _),)),) = tally.units.items()
        return self.keys[file, start]

    def fail(self, key: FileKey, error: Exception) -> None:
        """Note a file that could not be analysed; raise in strict mode."""
        dataset = self.campaign.datasets[key[0]]
        url = dataset.files[key[1]].url
        if self.strict:
            raise FileError(str(error)) from error
        self.failures.setdefault(key, Failure(dataset.name, url, type(error).__name__, redact(str(error))))


def run(
    campaign: Campaign,
    selection: Selection,
    *,
    chunk_events: int | None = None,
    fraction: float = 1.0,
    workers: int | None = None,
    on_error: str = "report",
    skims_folder: Path | None = None,
    ledger: Path | None = None,
    fresh: bool = False,
) -> Iterator[Result]:
    """Analyse a campaign with all cores of this machine.

    Parameters
    ----------
    campaign, selection
        What to analyse, what to keep.
    chunk_events
        Most events in a chunk (default `CHUNK_EVENTS`); changes memory and speed, never the result.
    fraction
        Only the first part of each file, 0 < fraction ≤ 1; the result is then partial.
    workers
        Number of threads (default: the cores this process may use).
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

    Yields
    ------
    Result
        At most five a second; the last one is all there is, and ``complete`` if every event was counted.

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
    """
    if on_error not in ON_ERROR:
        raise ValueError(f"on_error = {on_error!r}; expected one of {', '.join(ON_ERROR)}")
    n_workers = available_cores() if workers is None else workers
    if n_workers < 1:
        raise ValueError(f"workers = {n_workers}; expected at least 1")
    _check_streams(campaign, selection)
    luminosity.check_inputs(campaign)
    pool = ThreadPoolExecutor(n_workers, thread_name_prefix="higgsnb")
    with nullcontext() if ledger is None else Ledger(ledger) as opened:
        state = _Run(campaign, selection, on_error == "strict", opened)
        try:
            _inspect_files(state, pool, n_workers)
            chunks = _plan(state, CHUNK_EVENTS if chunk_events is None else chunk_events, fraction)
            chunks = _pending(state, chunks, fresh=fresh)
            yield from _analyse_chunks(state, pool, n_workers, chunks, skims_folder)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)  # after an interrupt a thread may be stuck in the network
        yield state.result()


def _check_streams(campaign: Campaign, selection: Selection) -> None:
    """Complain about data whose stream the selection takes no channel from."""
    for dataset in campaign.datasets:
        if dataset.is_data and not selection.channels(dataset.stream):
            raise ValueError(
                f"selection {selection.name} takes no channel from stream {dataset.stream!r} of {dataset.name}; "
                f"it knows {', '.join(STREAM_CHANNELS)}\nUse open2012, which takes all channels from all streams."
            )


def available_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _inspect_files(state: _Run, pool: ThreadPoolExecutor, n_workers: int) -> None:
    """Open every file once: schema and number of entries."""
    campaign = state.campaign
    keys = [(d, f) for d, dataset in enumerate(campaign.datasets) for f in range(len(dataset.files))]
    calls = ((key, partial(events.inspect, campaign.datasets[key[0]].files[key[1]], campaign.schema)) for key in keys)
    for key, future in _in_flight(pool, calls, 4 * n_workers):
        try:
            state.files[key] = future.result()
        except (OSError, ValueError) as error:
            state.fail(key, error)


def _plan(state: _Run, chunk_events: int, fraction: float) -> list[Chunk]:
    """Split the files that could be opened into chunks."""
    entries = {}
    for d, dataset in enumerate(state.campaign.datasets):
        for f, file in enumerate(dataset.files):
            entries[file.url] = state.files[d, f].entries if (d, f) in state.files else 0
    chunks = datasets.chunks(state.campaign, entries, chunk_events, fraction)
    return [chunk for chunk in chunks if (chunk.dataset_index, chunk.file_index) in state.files]


def _pending(state: _Run, chunks: list[Chunk], *, fresh: bool) -> list[Chunk]:
    """Take from the ledger what it holds; return the chunks that are still to be analysed."""
    if state.ledger is None:
        return chunks
    golden_json = state.campaign.golden_json
    mask = None if golden_json is None else luminosity.Mask.load(golden_json).digest
    keys = unit_keys(chunks, {key: _identity(state, key, mask) for key in state.files})
    if fresh:
        state.ledger.forget(keys)
    places = [((chunk.dataset_index, chunk.file_index), chunk.start) for chunk in chunks]
    state.keys = dict(zip(places, keys, strict=True))
    finished = state.ledger.finished(keys)
    state.tally = state.ledger.tally(finished)
    return [chunk for chunk, key in zip(chunks, keys, strict=True) if key not in finished]


def _identity(state: _Run, key: FileKey, mask: str | None) -> dict[str, Any]:
    """Return everything but the range of entries that can change what is counted in a chunk of a file."""
    dataset, info = state.campaign.datasets[key[0]], state.files[key]
    file = dataset.files[key[1]]
    return {
        "place": key,
        "file": [info.kind, info.bytes, info.entries, events.fingerprint(file, info)],
        "schema": state.campaign.schema,
        "stream": dataset.stream,
        "is_data": dataset.is_data,
        "golden_json": mask if dataset.is_data else None,
        "selection": state.selection.digest,
        "code": provenance.sources_sha256(*provenance.ANSWER),
        "libraries": provenance.libraries(),
    }


def _analyse_chunks(
    state: _Run, pool: ThreadPoolExecutor, n_workers: int, chunks: list[Chunk], skims_folder: Path | None
) -> Iterator[Result]:
    """Analyse all chunks; yield the sum at most five times a second."""
    due = time.monotonic() + SECONDS_BETWEEN_RESULTS
    calls = ((chunk, partial(analyse, chunk, state.selection, skims_folder=skims_folder)) for chunk in chunks)
    for chunk, future in _in_flight(pool, calls, 2 * n_workers):
        try:
            state.landed.append(future.result())
        except (OSError, ValueError) as error:
            state.fail((chunk.dataset_index, chunk.file_index), error)
        if time.monotonic() >= due:
            yield state.result()
            due = time.monotonic() + SECONDS_BETWEEN_RESULTS


def _in_flight(
    pool: ThreadPoolExecutor, calls: Iterator[tuple[Key, Callable[[], Value]]], most: int
) -> Iterator[tuple[Key, Future[Value]]]:
    """Run calls in the pool with at most so many waiting; yield each with its finished future, as they finish."""
    waiting: dict[Future[Value], Key] = {}
    while True:
        for key, call in islice(calls, most - len(waiting)):
            waiting[pool.submit(call)] = key
        if not waiting:
            return
        for future in wait(waiting, return_when=FIRST_COMPLETED).done:
            yield waiting.pop(future), future
