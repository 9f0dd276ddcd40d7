"""Where bytes come from: a path, the toy campaign, the cache, a mirror, https or xrootd.

`locate` says what to hand to a reader: a path, or the address of a large remote file to read piecewise.
`fetch` brings the whole file. Downloads go to a temporary name in the cache, resume where they stopped, and
get their final name (a hash) only after size and adler32 have been checked.

Environment: ``HIGGSNB_CACHE`` (folder), ``HIGGSNB_MIRROR`` (folder or address that stands in for every remote
host), ``HIGGSNB_ALLOW_HOSTS`` (hosts that a redirect may lead to, comma between), ``HIGGSNB_STREAM_ABOVE``
(bytes above which `locate` does not fetch).

Errors, all of them `OSError` and at most three lines (what, where it was tried, what to do next)::

    FileNotFoundError     none of the places has the file
    TransferError         a place may have it, but it could not be brought here
    ChecksumError         what is there is not the file that the catalogue describes
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import importlib
import logging
import os
import re
import sqlite3
import stat
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote, unquote, urlsplit, urlunsplit
from urllib.request import url2pathname

from higgsnb import http_source
from higgsnb.errors import ChecksumError, TransferError
from higgsnb.http_source import (
    OtherSizeError,
    Part,
    PlaceError,
    Progress,
    RemoteFile,
    Tries,
    Wanted,
    error_for,
    host_of,
    is_address,
    redact,
    scheme_of,
)

fcntl: Any
try:
    fcntl = importlib.import_module("fcntl")
except ImportError:  # Windows: there every download has a temporary name of its own and does not resume
    fcntl = None

__all__ = [
    "ChecksumError",
    "RemoteFile",
    "Source",
    "TransferError",
    "cache_folder",
    "checksum",
    "fetch",
    "locate",
    "redact",
]

log = logging.getLogger(__name__)

CLAIM_TIMEOUT = 300.0  # s without progress of another process that fetches the same file
STREAM_ABOVE = 10**9  # bytes
TEXT_FILES = frozenset({".csv", ".json", ".toml", ".txt"})


@dataclass(frozen=True, repr=False)
class Source:
    """What to hand to a reader.

    ``location`` is a path or an address, ``origin`` one of local, cache, mirror, remote, toy. ``verified``:
    the whole file agreed with an adler32 given by the caller. ``size`` in bytes, None = not known. ``note``
    reports a fall-back.
    """

    location: str
    origin: str
    verified: bool
    size: int | None
    note: str = ""

    def __repr__(self) -> str:
        return (
            f"Source({redact(self.location)!r}, {self.origin!r}, verified={self.verified}, size={self.size}, "
            f"note={self.note!r})"
        )


def cache_folder() -> Path:
    """Return the cache: ``HIGGSNB_CACHE``, else the platform's cache folder. It need not exist yet."""
    given = os.environ.get("HIGGSNB_CACHE")
    if given:
        return _expanded(given).absolute()
    import platformdirs

    return Path(platformdirs.user_cache_dir("higgsnb", appauthor=False))


def locate(
    url: str, *, alternatives: Sequence[str] = (), size: int | None = None, adler32: str | None = None
) -> Source:
    """Say where a reader finds a file; fetch it into the cache first if it is small.

    Parameters
    ----------
    url
        Path, ``file:``, ``http(s):``, ``root:`` or ``toy:NAME.root``.
    alternatives
        Other addresses of the same file, tried in this order after ``url``.
    size, adler32
        Bytes and eight hexadecimal digits, checked when given. Of a local file the checksum is computed once
        and remembered by path, size and time of modification.

    Returns
    -------
    Source
        A path; or an address, never verified, for a file of more than ``HIGGSNB_STREAM_ABOVE`` bytes (1 GB).

    Raises
    ------
    FileNotFoundError, TransferError, ChecksumError
        As described at the top of this module.
    """
    wanted = Wanted.of(url, alternatives, size, adler32)
    return _at_hand(wanted) or (_bring(wanted) if _fetch_whole(wanted) else _stream(wanted))


def fetch(
    url: str,
    *,
    alternatives: Sequence[str] = (),
    size: int | None = None,
    adler32: str | None = None,
    progress: Progress | None = None,
) -> Path:
    """Bring a whole file here, however large, and return its path. See `locate` for parameters and errors.

    ``progress(done, total)`` is called during a download, in bytes; ``total`` is None if it is not told.
    """
    wanted = Wanted.of(url, alternatives, size, adler32, progress)
    return Path((_at_hand(wanted) or _bring(wanted)).location)


def checksum(path: Path) -> str:
    """Compute the adler32 of a file, eight hexadecimal digits; remembered by path, size and mtime."""
    path = path.absolute()
    state = path.stat()
    remembered = _remembered(path, state)
    if remembered is not None:
        return remembered
    text, after = _adler32(path), path.stat()
    if (after.st_size, after.st_mtime_ns) == (state.st_size, state.st_mtime_ns):
        _remember(path, state, text)
    return text


def _adler32(path: Path) -> str:
    value = 1
    with path.open("rb") as file:
        while block := file.read(2**20):
            value = zlib.adler32(block, value)
    return f"{value:08x}"


# --- local files, the toy campaign, checksums


def _at_hand(wanted: Wanted) -> Source | None:
    """Find a file that needs no transfer; None if it must come from elsewhere."""
    scheme = scheme_of(wanted.url)
    if scheme in (None, "file"):
        return _local(wanted)
    if scheme == "toy":
        return _toy(wanted)
    if scheme not in ("http", "https", "root"):
        raise TransferError(
            f"{redact(wanted.url)}: scheme '{scheme}:' is not supported; "
            "use a path, file:, http:, https:, root: or toy:"
        )
    path = _cache_path(wanted)
    if _good(path, wanted):
        return _here(path, "cache", wanted)
    if wanted.mirror is None:
        return None
    _check_mirror(wanted.mirror)
    return _mirrored(wanted) if _is_folder(wanted.mirror) else None


def _here(path: Path, origin: str, wanted: Wanted, note: str = "") -> Source:
    return Source(str(path), origin, wanted.adler32 is not None, path.stat().st_size, note)


def _local(wanted: Wanted) -> Source:
    path = _local_path(wanted.url)
    failure = _wrong(path, wanted)
    if failure is not None:
        raise error_for(replace(wanted, mirror=None), [(str(path), failure)])
    return _here(path, "local", wanted)


def _expanded(path: str) -> Path:
    """Replace ``~``; the home of a user that does not exist stays as it is written, and is then not found."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def _local_path(location: str) -> Path:
    if scheme_of(location) is None:
        return _expanded(location)
    parts = urlsplit(location)
    if parts.netloc not in ("", "localhost"):
        raise TransferError(
            f"{location}: a file: address cannot name a host ('{parts.netloc}'); use file:///folder/name"
        )
    return Path(url2pathname(parts.path))


def _toy(wanted: Wanted) -> Source:
    from higgsnb import toy

    folder = cache_folder() / "toy"
    try:
        with _cache_errors(folder):
            path = toy.ensure(wanted.url.partition(":")[2].removesuffix(".root"), folder)
    except KeyError as error:
        raise FileNotFoundError(f"{wanted.url}: {error.args[0]}") from None
    failure = _wrong(path, wanted)
    if failure is not None:
        raise error_for(wanted, [(str(path), failure)])
    return _here(path, "toy", wanted)


def _wrong(path: Path, wanted: Wanted) -> PlaceError | None:
    """Say what is wrong with a file on disk; None if it is as wanted."""
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):  # a pipe or a device would be read for ever
            return PlaceError("permanent", f"is {_kind(mode)}, not a file", "give the path of one regular file")
        return _mismatch(path, wanted)
    except FileNotFoundError:
        return PlaceError("missing", "no such file")
    except OSError as error:
        return PlaceError("permanent", f"cannot be read: {error.strerror}", "check the permissions of the file")


def _kind(mode: int) -> str:
    """Name what is there that is no regular file."""
    if stat.S_ISDIR(mode):
        return "a folder"
    return "a pipe" if stat.S_ISFIFO(mode) else "a socket" if stat.S_ISSOCK(mode) else "a device"


def _mismatch(path: Path, wanted: Wanted, compute: Callable[[Path], str] = checksum) -> PlaceError | None:
    remedy = "replace the file, or correct bytes and adler32 in the campaign if the new file is the right one"
    size = path.stat().st_size
    if wanted.size is not None and size != wanted.size:
        return PlaceError("checksum", f"{size} bytes, expected {wanted.size}", remedy)
    found = compute(path) if wanted.adler32 is not None else None
    if found != wanted.adler32:
        return PlaceError("checksum", f"adler32 {found}, expected {wanted.adler32}", remedy)
    return None


def _good(path: Path, wanted: Wanted) -> bool:
    """Is there a file as wanted under this name of the cache? A wrong one will be replaced."""
    failure = _wrong(path, wanted)
    if failure is not None and failure.kind == "checksum":
        log.warning(
            "%s: the copy in the cache is damaged or outdated (%s), fetching it again",
            wanted.name,
            failure.reason,
        )
    return failure is None


@contextlib.contextmanager
def _memory() -> Iterator[sqlite3.Connection]:
    with (
        contextlib.closing(sqlite3.connect(cache_folder() / "verified.sqlite", timeout=30.0)) as memory,
        memory,
    ):
        memory.execute(
            "CREATE TABLE IF NOT EXISTS verified (path TEXT PRIMARY KEY, size INTEGER, mtime_ns INTEGER, adler32 TEXT)"
        )
        yield memory


def _remembered(path: Path, state: os.stat_result) -> str | None:
    try:
        if not (cache_folder() / "verified.sqlite").exists():
            return None
        with _memory() as memory:
            row = memory.execute(
                "SELECT adler32 FROM verified WHERE path = ? AND size = ? AND mtime_ns = ?",
                (os.fsencode(path), state.st_size, state.st_mtime_ns),
            ).fetchone()
    except (sqlite3.Error, OSError) as error:
        log.info("checksums cannot be looked up in the cache: %s", error)
        return None
    return None if row is None else str(row[0])


def _remember(path: Path, state: os.stat_result, adler32: str) -> None:
    try:
        cache_folder().mkdir(parents=True, exist_ok=True)
        with _memory() as memory:
            memory.execute(
                "INSERT OR REPLACE INTO verified VALUES (?, ?, ?, ?)",
                (os.fsencode(path), state.st_size, state.st_mtime_ns, adler32),
            )
    except (sqlite3.Error, OSError) as error:  # a read-only cache costs time, nothing else
        log.info("the checksum of %s cannot be remembered in the cache: %s", path.name, error)


def _is_folder(mirror: str) -> bool:
    return scheme_of(mirror) in (None, "file")


def _check_mirror(mirror: str) -> None:
    """Refuse a mirror that is neither a folder nor an address."""
    if _local_path(mirror).is_dir() if _is_folder(mirror) else is_address(mirror):
        return
    what = "no such folder" if _is_folder(mirror) else "not a valid address"
    raise TransferError(
        f"HIGGSNB_MIRROR = {redact(mirror)}: {what}\n"
        "set it to a folder that exists, or to an address as https://host/path, or unset it"
    )


def _mirror_parts(wanted: Wanted) -> list[str]:
    """List where a mirror may hold the file, below its root: the addresses' paths, then last parts."""
    places = [place for place in (wanted.url, *wanted.alternatives) if host_of(place)]
    paths = [unquote(urlsplit(place).path).lstrip("/") for place in places]
    inside = [path for path in paths if path and ".." not in re.split(r"[/\\]", path)]
    if not inside:
        refused = PlaceError("permanent", "no path that a mirror could hold", "correct the address")
        raise error_for(wanted, [(wanted.url, refused)])
    return list(dict.fromkeys(inside + [path.rsplit("/", 1)[-1] for path in inside]))


def _mirrored(wanted: Wanted) -> Source:
    """Find the file in a mirror that is a folder; it is used in place."""
    root = _local_path(wanted.mirror or "")
    failures: list[tuple[str, PlaceError]] = []
    for part in _mirror_parts(wanted):
        path = root / part
        failure = _wrong(path, wanted)
        if failure is None:
            return _here(path.absolute(), "mirror", wanted)
        failures.append((str(path), failure))
        if failure.kind != "missing":
            break
    raise error_for(wanted, failures)


def _places(wanted: Wanted) -> list[str]:
    """List the addresses to try, in order: only the mirror's if there is one, else as given."""
    if wanted.mirror is None:
        return [wanted.url, *wanted.alternatives]
    base = wanted.mirror.rstrip("/")
    return [f"{base}/{quote(part)}" for part in _mirror_parts(wanted)]


def _cache_path(wanted: Wanted) -> Path:
    """Name in the cache: only a hash, of the address without its secrets.

    What a mirror gives without a checksum is kept apart, so that it is never taken for the original.
    """
    parts = urlsplit(wanted.url)
    query = http_source.without_secrets(parts.query)
    key = urlunsplit((parts.scheme.lower(), parts.netloc.rsplit("@", 1)[-1].lower(), parts.path, query, ""))
    if wanted.mirror is not None and wanted.adler32 is None:
        key = f"{wanted.mirror} {key}"
    return cache_folder() / "files" / (hashlib.sha256(key.encode()).hexdigest() + wanted.suffix)


# --- fetching


def _fetch_whole(wanted: Wanted) -> bool:
    return wanted.suffix in TEXT_FILES or (wanted.size is not None and wanted.size <= _stream_above())


def _stream_above() -> int:
    given = os.environ.get("HIGGSNB_STREAM_ABOVE", "").strip()
    if not given:
        return STREAM_ABOVE
    if not re.fullmatch("[0-9]{1,18}", given):
        raise ValueError(
            f"HIGGSNB_STREAM_ABOVE must be a whole number of bytes, got '{given[:40]}'; "
            f"write {STREAM_ABOVE} for 1 GB, or unset it"
        )
    return int(given)


def _bring(wanted: Wanted, places: Sequence[str] | None = None) -> Source:
    """Fetch into the cache from the first place that gives the file."""
    final = _cache_path(wanted)
    failures: list[tuple[str, PlaceError]] = []
    with _cache_errors(final.parent), _claim(final) as part:
        if _good(final, wanted):  # another process has brought it while this one waited
            return _here(final, "cache", wanted)
        for place in _places(wanted) if places is None else places:
            try:
                _download(place, part, wanted)
            except PlaceError as failure:
                failures.append((place, failure))
                if wanted.mirror and failure.kind != "missing":
                    break
                continue
            part.finish(final)
            if wanted.adler32 is not None:
                _remember(final, final.stat(), wanted.adler32)
            return _here(final, "cache", wanted, _fallback(wanted, place, failures))
    raise error_for(wanted, failures)


def _fallback(wanted: Wanted, place: str, failures: Sequence[tuple[str, PlaceError]]) -> str:
    """Report that a later place had to serve; a miss of a mirror's long path is expected."""
    real = [(tried, failure) for tried, failure in failures if not (wanted.mirror and failure.kind == "missing")]
    if not real:
        return ""
    note = f"taken from {redact(place)} instead of " + ", ".join(
        f"{redact(tried)} ({failure.reason})" for tried, failure in real
    )
    log.warning("%s: %s", wanted.name, note)
    return note


@contextlib.contextmanager
def _cache_errors(folder: Path) -> Iterator[None]:
    """Say what to do when it is the cache that cannot be written, not the network that fails."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        if error.errno is None:  # one of this module's own, about a place
            raise
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise TransferError(
            f"the cache {folder} cannot be written: {error.strerror}\n"
            f"{'free some space, or ' if full else ''}set HIGGSNB_CACHE to a folder "
            f"{'with more' if full else 'that you may write to'}"
        ) from None


@contextlib.contextmanager
def _claim(final: Path) -> Iterator[Part]:
    """Hold the temporary file: exclusive, so that two processes fetch a file once and never mix bytes."""
    part = _locked(final.with_name(final.name + ".part")) or _private(final)
    try:
        yield part
    finally:
        part.close()


def _private(final: Path) -> Part:
    handle, name = tempfile.mkstemp(prefix=final.name + ".", suffix=".part", dir=final.parent)
    return Part(Path(name), os.fdopen(handle, "r+b"), resumable=False)


def _locked(path: Path) -> Part | None:
    """Lock the common temporary file; None where locks do not work or the holder makes no progress."""
    patience = _Patience(path)
    while fcntl is not None:
        file = path.open("a+b")
        state = _lock(file, path)
        if state == "ours":
            return Part(path, file, resumable=True)
        file.close()
        if state == "impossible" or (state == "taken" and not patience.wait()):
            break
    return None


def _lock(file: IO[bytes], path: Path) -> str:
    """Try to lock. ``gone``: another process has finished or removed the file since it was opened."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return "ours" if os.path.samestat(os.fstat(file.fileno()), path.stat()) else "gone"
    except BlockingIOError:
        return "taken"
    except FileNotFoundError:
        return "gone"
    except OSError as error:
        log.info("files cannot be locked in %s: %s", path.parent, error.strerror)
        return "impossible"


class _Patience:
    """Waits for another process as long as its file grows."""

    def __init__(self, path: Path) -> None:
        self.path, self.size, self.since = path, -1, time.monotonic()

    def wait(self) -> bool:
        try:
            size = self.path.stat().st_size
        except FileNotFoundError:  # finished just now
            return True
        if size != self.size:
            self.size, self.since = size, time.monotonic()
        elif time.monotonic() - self.since > CLAIM_TIMEOUT:
            log.warning("%s: another process makes no progress, fetching separately", self.path.name)
            return False
        time.sleep(min(0.05, http_source.BACKOFF))
        return True


def _download(place: str, part: Part, wanted: Wanted) -> None:
    """Fill the temporary file from one place and check it; try again what may pass."""
    tries, mismatches = Tries(place, wanted), 0
    while True:
        before = part.size
        try:
            http_source.append(place, part, wanted)
            return _check(part, wanted)
        except PlaceError as failure:
            mismatches += failure.kind == "checksum"
            hopeless = mismatches > 1 or isinstance(failure, OtherSizeError)
            if hopeless or failure.kind not in {"transient", "checksum"}:
                raise
            tries.failed(failure, brought=part.size - before)


def _check(part: Part, wanted: Wanted) -> None:
    """Refuse what was brought if it is not what was wanted. Nothing is remembered of temporary names."""
    failure = _mismatch(part.path, wanted, _adler32)
    if failure is not None:
        part.reset()
        failure.remedy = "the bytes were thrown away; check the address, or bytes and adler32 in the campaign"
        raise failure


# --- streaming


def _stream(wanted: Wanted) -> Source:
    """Find the first place that can be read piecewise; a small file, or one that cannot, is fetched."""
    failures: list[tuple[str, PlaceError]] = []
    places = _places(wanted)
    for index, place in enumerate(places):
        try:
            found = http_source.probe(place, wanted)
        except PlaceError as failure:
            failures.append((place, failure))
            if wanted.mirror and failure.kind != "missing":
                break
            continue
        note = _fallback(wanted, place, failures)
        if not found.parts or (found.size is not None and found.size <= _stream_above()):
            source = _bring(wanted, places[index:])
            return replace(source, note="; ".join(text for text in (note, source.note) if text))
        return Source(found.location, "mirror" if wanted.mirror else "remote", False, found.size, note)
    raise error_for(wanted, failures)
