"""What a worker does with the chunks that it is sent, and what it sends back for each."""

from __future__ import annotations

import faulthandler
import os
import pickle
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from higgsnb import errors
from higgsnb.datasets import counted_tries
from higgsnb.engine import versions
from higgsnb.errors import VersionError
from higgsnb.results import Record, layout_of, pack, sections_of
from higgsnb.selection import Selection, warm_up

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from higgsnb.datasets import Chunk
    from higgsnb.results import Tally
    from higgsnb.selection import Analysis


class Job(NamedTuple):
    """Everything but the chunks that a worker has to know.

    ``analyse`` counts one chunk, within ``chunk_seconds`` if that is given; ``versions`` are those of the client, see
    `versions.installed_versions`. ``refusal`` is why the functions of the selection cannot be those of the client here.
    """

    selection: Analysis
    skims_folder: Path | None
    analyse: Callable[..., Tally]
    chunk_seconds: float | None
    versions: dict[str, str]
    refusal: VersionError | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        """Send the selection as bytes: a worker of Dask that cannot take a message apart ends, without a word."""
        return _received, (pickle.dumps(self.selection), *self[1:])


def _received(selection: bytes, *others: Any) -> Job:
    """Return the job of a client; whoever works on it raises what is wrong with it."""
    try:
        return Job(pickle.loads(selection), *others)  # noqa: S301 - from the client, as everything here
    except VersionError as error:
        nothing: Any = None
        return Job(nothing, *others)._replace(refusal=error)


class ChunkResult(NamedTuple):
    """What came of one chunk.

    Either a record with its sha256; or the kind of error, its message and hint, and the lumi sections that are lost (if
    they could be read). Also the seconds that it took, and how often each remote file was asked if more than once.
    """

    record: Record | None
    sha256: bytes
    error: str
    message: str
    hint: str
    sections: npt.NDArray[np.int64] | None
    seconds: float
    tries: dict[str, int]


def unseen(paths: tuple[str, ...]) -> list[str]:
    """Return which of some paths do not exist on this worker."""
    return [path for path in paths if not Path(path).exists()]


def process_chunks(chunks: tuple[Chunk, ...], job: Job) -> list[ChunkResult]:
    """Count some chunks, one after the other; an error of a file becomes part of the result of its chunk.

    Raises
    ------
    VersionError
        If this worker has other versions than the client, or of a library that a function of the user needs.
    """
    keep_freed_memory()
    versions.check(job.versions, versions.installed_versions(), "a worker")
    if job.refusal is not None:
        raise job.refusal
    if isinstance(job.selection, Selection):
        warm_up(job.selection.algorithm)  # not counted as time that a chunk took
    layout = layout_of(job.selection)
    results = []
    for chunk in chunks:
        before = time.perf_counter()
        record, error, message, hint = None, "", "", ""
        sections: npt.NDArray[np.int64] | None = None
        with counted_tries() as tries:
            try:
                with _time_limit(job.chunk_seconds):
                    record = pack(job.analyse(chunk, job.selection, skims_folder=job.skims_folder), layout)
            except (OSError, ValueError, MemoryError) as caught:
                error = type(caught).__name__
                message, hint = errors.describe(caught, chunk.file.url)
                with suppress(OSError, ValueError, MemoryError), _time_limit(job.chunk_seconds):
                    sections = sections_of(chunk)
        sha256 = b"" if record is None else record.sha256()
        seconds = time.perf_counter() - before
        results.append(ChunkResult(record, sha256, error, message, hint, sections, seconds, tries))
    return results


@cache
def keep_freed_memory() -> None:
    """Let the C library keep the memory of one chunk for the next instead of returning it to the system.

    Every chunk needs about the same; on virtual machines fresh pages cost up to a sixth of the time of a chunk. Only
    glibc has these options; Dask's setting of the second one for its workers is the opposite.
    """
    import ctypes

    with suppress(AttributeError, OSError):  # another C library
        library = ctypes.CDLL(None)
        for option, size in MALLOC_OPTIONS.items():
            library.mallopt(option, size)


MALLOC_OPTIONS = {-3: 32 * 2**20, -1: 64 * 2**20}
"""Of glibc's ``mallopt``, bytes: M_MMAP_THRESHOLD, blocks that are returned at once; M_TRIM_THRESHOLD, unused ones."""

_deadlines: dict[int, float] = {}
_changing = threading.Lock()
_watched = threading.Lock()
WATCH_SECONDS = 0.25
"""How often the watchdog looks at the deadlines."""
TIMER_SECONDS = 1.0
"""How much later than the watchdog the interpreter's timer ends the process."""


@contextmanager
def _time_limit(seconds: float | None) -> Iterator[None]:
    """End this process if the block takes longer: an endless loop can be ended in no other way."""
    if seconds is None:
        yield
        return
    if _watched.acquire(blocking=False):  # never released: one watchdog for each process
        threading.Thread(target=_watch, name="higgsnb-watchdog", daemon=True).start()
    _set_deadline(time.monotonic() + seconds)
    try:
        yield
    finally:
        _set_deadline(None)


def _set_deadline(deadline: float | None) -> None:
    """Note when the block of this thread has to end; None: it has ended.

    A loop in compiled code may keep all Python threads from running, the watchdog too. So the interpreter's own timer,
    which needs no Python thread, is set before the block runs. There is one for all threads: it is set for the first
    deadline among them, and anew when a block ends.
    """
    with _changing:
        if deadline is None:
            del _deadlines[threading.get_ident()]
        else:
            _deadlines[threading.get_ident()] = deadline
        if _deadlines:
            left = max(min(_deadlines.values()) - time.monotonic(), 0.0)
            faulthandler.dump_traceback_later(left + TIMER_SECONDS, exit=True, file=_nowhere())
        else:
            faulthandler.cancel_dump_traceback_later()


@cache
def _nowhere() -> int:
    """Return where the timer's traceback goes: it would tell users nothing, and standard error may be closed."""
    return os.open(os.devnull, os.O_WRONLY)


def _watch() -> None:
    """End the process when a deadline has passed."""
    while True:
        if min(list(_deadlines.values()), default=float("inf")) < time.monotonic():
            os._exit(1)
        time.sleep(WATCH_SECONDS)
