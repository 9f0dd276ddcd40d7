"""Run `analysis.analyse` over the chunks of a campaign, yielding partial results as they land."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

from higgsnb import datasets, events, luminosity
from higgsnb.analysis import Failure, FileKey, Result, Tally, analyse, merge
from higgsnb.files import redact
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
    files: dict[FileKey, FileInfo] = field(default_factory=dict)
    failures: dict[FileKey, Failure] = field(default_factory=dict)
    tally: Tally = field(default_factory=Tally)
    landed: list[Tally] = field(default_factory=list)

    def result(self) -> Result:
        """Return what has been counted so far."""
        self.tally, self.landed = merge((self.tally, *self.landed)), []
        return Result(self.campaign, self.selection, self.tally, dict(self.files), dict(self.failures))

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

    Yields
    ------
    Result
        At most five a second; the last one is all there is, and ``complete`` if every event was counted.

    Raises
    ------
    ValueError
        If an option is out of range.
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
    state = _Run(campaign, selection, on_error == "strict")
    pool = ThreadPoolExecutor(n_workers, thread_name_prefix="higgsnb")
    try:
        _inspect_files(state, pool, n_workers)
        chunks = _plan(state, CHUNK_EVENTS if chunk_events is None else chunk_events, fraction)
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
