"""What goes out to a worker and what comes back: a few chunks, and for each one a record or the reason why not."""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from higgsnb import errors, kernel, provenance, transfer
from higgsnb.analysis import sections_of
from higgsnb.errors import VersionError
from higgsnb.files import redact
from higgsnb.ledger import Record, pack

if TYPE_CHECKING:
    from higgsnb.analysis import Integers, Tally
    from higgsnb.datasets import Chunk
    from higgsnb.selection import Selection


class Work(NamedTuple):
    """Everything but the chunks that a worker has to know.

    ``versions`` are those of the client, see `versions`; ``analyse`` counts one chunk.
    """

    selection: Selection
    skims_folder: Path | None
    analyse: Callable[..., Tally]
    unit_seconds: float | None
    versions: dict[str, str]


class Outcome(NamedTuple):
    """What came of one chunk.

    A record with its sha256, or the kind of error, its message and hint, and the lumi sections that are lost (where
    they could be read); the seconds it took, and how often each remote file was asked, where that was more than once.
    """

    record: Record | None
    sha256: bytes
    error: str
    message: str
    hint: str
    sections: Integers | None
    seconds: float
    tries: dict[str, int]


@cache
def versions() -> dict[str, str]:
    """Return what has to be the same everywhere for the same bytes: Python, libraries, and the code that counts."""
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    code = provenance.sources_sha256(*provenance.ANSWER)[:12]
    return {"python": python, **provenance.libraries(), "higgsnb": f"{provenance.version()} (code {code})"}


def unseen(paths: tuple[str, ...]) -> list[str]:
    """Return which of some paths do not exist on this worker."""
    return [path for path in paths if not Path(path).exists()]


COMMUNICATION = ("python", "dask", "distributed", "msgpack", "cloudpickle")
"""What client, scheduler and workers of a Dask cluster need to understand each other."""


def compare_all(
    reported: Mapping[str, dict[str, Any]], answers: Mapping[str, dict[str, str] | BaseException] | None = None
) -> None:
    """Complain about the first host of a Dask cluster that has other versions than this process, see `compare`.

    Parameters
    ----------
    reported
        What Dask says of the packages of each host, by the host's name.
    answers
        What `versions` returned on each worker, or the error that it raised there, by the worker's address.
    """
    from distributed.versions import get_versions

    mine = _wanted(get_versions()["packages"])
    for host, packages in reported.items():
        compare(mine, _wanted(packages), host)
    for worker, theirs in (answers or {}).items():
        compare(versions(), theirs, f"worker {worker}")


def _wanted(packages: dict[str, Any]) -> dict[str, str]:
    """Return the versions that matter of those that Dask reports; of Python only the first two numbers."""
    found = {name: str(packages[name]) for name in COMMUNICATION if packages.get(name) is not None}
    if "python" in found:
        found["python"] = ".".join(found["python"].split(".")[:2])
    return found


def compare(mine: dict[str, str], theirs: dict[str, str] | BaseException, host: str) -> None:
    """Complain if a host has other versions than the client, or answers with an error when asked.

    Raises
    ------
    VersionError
        Names the packages with both versions.
    """
    if isinstance(theirs, BaseException):
        raise VersionError(
            f"{host} cannot run this package: {type(theirs).__name__}: {theirs}\n"
            "Use the same image or environment for both."
        )
    names = [name for name in mine if theirs.get(name) not in (None, mine[name])]
    if names:
        found = ", ".join(f"{name} {mine[name]} here and {theirs[name]} there" for name in names)
        raise VersionError(
            f"{host} has other versions than this process: {found}\n"
            "Use the same image or environment for both, so that they give the same numbers."
        )


def do(chunks: tuple[Chunk, ...], work: Work) -> list[Outcome]:
    """Count some chunks, one after the other, on whatever worker this runs.

    Returns
    -------
    list of Outcome
        One for each chunk, in their order.

    Raises
    ------
    VersionError
        If this worker has other versions than the client.
    """
    compare(work.versions, versions(), "a worker")
    kernel.warm_up(work.selection.algorithm)  # not counted as time that a chunk took
    return [_do_one(chunk, work) for chunk in chunks]


def _do_one(chunk: Chunk, work: Work) -> Outcome:
    """Count one chunk; what is wrong with its file becomes part of the outcome."""
    before = time.perf_counter()
    record, error, message, hint = None, "", "", ""
    sections: Integers | None = None
    try:
        with _limited(work.unit_seconds):
            record = pack(work.analyse(chunk, work.selection, skims_folder=work.skims_folder))
    except (OSError, ValueError, MemoryError) as caught:
        error = type(caught).__name__
        message, hint = (redact(text) for text in errors.describe(caught))
        sections = _lost_sections(chunk, work)
    sha256 = b"" if record is None else record.sha256()
    seconds = time.perf_counter() - before
    return Outcome(record, sha256, error, message, hint, sections, seconds, transfer.take_tries())


def _lost_sections(chunk: Chunk, work: Work) -> Integers | None:
    """Return the lumi sections of a chunk that failed, None if they cannot be read either."""
    try:
        with _limited(work.unit_seconds):
            return sections_of(chunk)
    except (OSError, ValueError, MemoryError):
        return None


# --- A limit on time -----------------------------------------------------------------------------------------

_deadlines: dict[int, float] = {}
_watched = threading.Lock()
WATCH_SECONDS = 0.25
"""How often the watchdog looks."""


@contextmanager
def _limited(seconds: float | None) -> Iterator[None]:
    """End this process if what is done inside takes longer: an endless loop can be ended in no other way."""
    if seconds is None:
        yield
        return
    _deadlines[threading.get_ident()] = time.monotonic() + seconds
    if _watched.acquire(blocking=False):  # held for ever: one watchdog for each process
        threading.Thread(target=_watch, name="higgsnb-watchdog", daemon=True).start()
    try:
        yield
    finally:
        del _deadlines[threading.get_ident()]


def _watch() -> None:
    """Look at the deadlines now and then.

    A loop in compiled code may keep all Python threads from running, this one too: then the interpreter's own timer,
    which needs no thread of Python, ends the process.
    """
    while True:
        deadlines, now = list(_deadlines.values()), time.monotonic()
        if deadlines and min(deadlines) < now:
            os._exit(1)
        if deadlines and sys.__stderr__ is not None:
            faulthandler.dump_traceback_later(max(deadlines) - now + 1.0, exit=True, file=sys.__stderr__)
        else:
            faulthandler.cancel_dump_traceback_later()
        time.sleep(WATCH_SECONDS)


def describe(analyse: Any) -> str:
    """Name a function that counts a chunk, for the ledger's key: its results are not those of another one."""
    return f"{analyse.__module__}.{analyse.__qualname__}"
