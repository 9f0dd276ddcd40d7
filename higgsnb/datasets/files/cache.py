"""The cache: downloaded files under a hash as name, their verified checksums, and locks between processes."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import importlib
import os
import sqlite3
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from higgsnb.datasets.files import retries
from higgsnb.datasets.files.request import FileRequest, PartialDownload, SourceError, adler32_of, sha256_of
from higgsnb.datasets.files.versions import Version
from higgsnb.errors import TransferError
from higgsnb.redaction import logger
from higgsnb.storage import NotOwnFileError, cache_folder, distrust, make_folder, open_no_link

fcntl: Any
try:
    fcntl = importlib.import_module("fcntl")
except ImportError:  # Windows: there every download has a temporary name of its own and does not resume
    fcntl = None

log = logger(__name__)

CLAIM_TIMEOUT = 300.0  # s without progress of another process that downloads the same file


def name_in_cache(request: FileRequest) -> str:
    """Return the name of a file in a cache: only a hash, of the address without its secrets.

    What a mirror gives without a checksum is kept apart, so that it is never taken for the original.
    """
    key = request.address.without_secrets
    if request.mirror is not None and request.adler32 is None:
        key = f"{request.mirror.text} {key}"
    return hashlib.sha256(key.encode()).hexdigest() + request.address.suffix


def path_in_cache(request: FileRequest) -> Path:
    """Return the path of a file in the cache of this user."""
    return cache_folder("files") / name_in_cache(request)


def problem_with(path: Path, request: FileRequest) -> SourceError | None:
    """Return what is wrong with a file on disk; None if it is the one requested."""
    hint = "Replace the file, or correct bytes and adler32 in the campaign if the new file is the right one."
    try:
        state = path.stat()
        if stat.S_ISREG(state.st_mode):
            return request.difference(state.st_size, lambda: checksum(path), hint)
    except FileNotFoundError:
        return SourceError("missing", "no such file")
    except OSError as error:
        return SourceError("permanent", f"cannot be read: {error.strerror}", "Check the permissions of the file.")
    kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}  # reading might never end
    kind = kinds.get(stat.S_IFMT(state.st_mode), "a device")
    return SourceError("permanent", f"is {kind}, not a file", "Give the path of one regular file.")


# --- Checksums that were computed before -----------------------------------------------------------------------

SETTLED = 2.0
"""s after its last change from which on the times of a file identify it: some file systems keep whole seconds only."""


def checksum(path: Path) -> str:
    """Return the adler32 of a file, eight hexadecimal digits; remembered as long as its `Version` stays."""
    return _remembered(path, "adler32", adler32_of)


def content_digest(path: Path) -> str:
    """Return the sha256 of the content of a file, 64 hexadecimal digits; remembered like `checksum`."""
    return _remembered(path, "sha256", sha256_of)


_MOST = 10_000
"""Digests that a process keeps itself: asking the database takes as long as some chunks do."""
_last: dict[tuple[Path, str, Path], tuple[str, str]] = {}
"""What was read there, as long as it is believed: the version of a file and its digest, by database, kind and path."""


def _remembered(path: Path, kind: str, compute: Callable[[Path], str]) -> str:
    path = path.absolute()
    version = Version.of_file(path)
    memory, text = cache_folder() / "verified.sqlite", _text(version)
    key = (memory, kind, path)
    try:
        if key in _last and _last[key][0] == text and memory.exists() and not distrust(memory):
            return _last[key][1]
        if memory.exists():
            with _database() as database:
                found = "SELECT digest FROM digests WHERE path = ? AND kind = ? AND version = ?"
                row = database.execute(found, (os.fsencode(path), kind, text)).fetchone()
            if row is not None:
                if len(_last) >= _MOST:
                    _last.clear()
                _last[key] = text, str(row[0])
                return str(row[0])
    except (sqlite3.Error, OSError) as error:
        log.info("checksums cannot be looked up in the cache: %s", error)
    digest, after = compute(path), path.stat()
    if Version.of_state(after) == version and not 0 <= time.time() - after.st_ctime < SETTLED:
        _remember(path, kind, version, digest)
    return digest


@contextlib.contextmanager
def _database() -> Iterator[sqlite3.Connection]:
    """Open the memory of checksums; one that others can write to is removed and begun again."""
    memory = cache_folder() / "verified.sqlite"
    if reason := distrust(memory):
        log.warning("%s %s: what is in it is not used, and it is begun again", memory, reason)
        memory.unlink()
    with contextlib.closing(sqlite3.connect(memory, timeout=30.0)) as database, database:
        columns = "path BLOB, kind TEXT, version TEXT, digest TEXT, PRIMARY KEY (path, kind)"
        database.execute(f"CREATE TABLE IF NOT EXISTS digests ({columns})")
        yield database


def _text(version: Version) -> str:
    return f"{version.size} {version.modified} {version.tag}"


def remember_checksum(path: Path, state: os.stat_result, adler32: str) -> None:
    """Remember the checksum of a file; a cache that cannot be written costs time, nothing else."""
    _remember(path, "adler32", Version.of_state(state), adler32)


def _remember(path: Path, kind: str, version: Version, digest: str) -> None:
    try:
        make_folder(cache_folder())
        with _database() as database:
            row = (os.fsencode(path), kind, _text(version), digest)
            database.execute("INSERT OR REPLACE INTO digests VALUES (?, ?, ?, ?)", row)
    except (sqlite3.Error, OSError) as error:
        log.info("the checksum of %s cannot be stored in the cache: %s", path.name, error)


# --- Downloads into the cache ----------------------------------------------------------------------------------


@contextlib.contextmanager
def writable(folder: Path) -> Iterator[None]:
    """Make a folder of the cache; an error of the disk inside the block becomes a `TransferError` with a hint."""
    try:
        make_folder(folder)
        yield
    except OSError as error:
        if error.errno is None:  # an error of this package, about a source
            raise
        hint = "Set HIGGSNB_CACHE to a folder that you may write to."
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            hint = "Free some space, or set HIGGSNB_CACHE to a folder with more."
        raise TransferError(f"the cache {folder} cannot be written: {error.strerror}", hint) from None


@contextlib.contextmanager
def claim(final: Path) -> Iterator[PartialDownload]:
    """Hold the temporary file of a download exclusively: processes download a file once and never mix bytes."""
    partial = _locked(final.with_name(final.name + ".part"))
    if partial is None:
        handle, name = tempfile.mkstemp(prefix=final.name + ".", suffix=".part", dir=final.parent)
        partial = PartialDownload(Path(name), os.fdopen(handle, "r+b"), resumable=False)
    try:
        yield partial
    finally:
        partial.close()


def _locked(path: Path) -> PartialDownload | None:
    """Lock the common temporary file; None where locks do not work, or if the file of the holder stops growing."""
    known_size, since = -1, time.monotonic()
    while fcntl is not None:
        file = _open_own(path)
        state = _lock(file, path)
        if state == "ours":
            return PartialDownload(path, file, resumable=True)
        file.close()
        if state == "impossible":
            break
        if state == "gone":
            continue
        try:
            size = path.stat().st_size
        except FileNotFoundError:
            continue
        if size != known_size:
            known_size, since = size, time.monotonic()
        elif time.monotonic() - since > CLAIM_TIMEOUT:
            log.warning("%s: another process makes no progress, fetching separately", path.name)
            break
        time.sleep(min(0.05, retries.BACKOFF))
    return None


def _open_own(path: Path) -> IO[bytes]:
    """Open the temporary file of this name; what others have put there, such as a link, is removed."""
    if reason := distrust(path):
        log.warning("%s %s: removed", path, reason)
        path.unlink(missing_ok=True)
    try:
        return open_no_link(path, mode=0o644)
    except NotOwnFileError as error:
        log.warning("%s %s: removed", path, error.strerror)
        path.unlink(missing_ok=True)
    return open_no_link(path, mode=0o644)


def _lock(file: IO[bytes], path: Path) -> str:
    """Try to lock. ``gone``: another process has finished or removed the file since it was opened."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return "ours" if os.path.samestat(os.fstat(file.fileno()), path.lstat()) else "gone"
    except BlockingIOError:
        return "taken"
    except FileNotFoundError:
        return "gone"
    except OSError as error:
        log.info("files cannot be locked in %s: %s", path.parent, error.strerror)
        return "impossible"
