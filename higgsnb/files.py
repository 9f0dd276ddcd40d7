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
import email.utils
import errno
import hashlib
import http.client
import importlib
import importlib.util
import json
import logging
import os
import random
import re
import socket
import sqlite3
import ssl
import tempfile
import time
import zlib
from base64 import b64encode
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import IO, Any, NamedTuple
from urllib.error import URLError
from urllib.parse import quote, unquote, urljoin, urlsplit, urlunsplit
from urllib.request import HTTPHandler, HTTPSHandler, OpenerDirector, ProxyHandler, Request, url2pathname

fcntl: Any
try:
    fcntl = importlib.import_module("fcntl")
except ImportError:  # Windows: there every download has a temporary name of its own and does not resume
    fcntl = None

__all__ = [
    "ChecksumError",
    "Source",
    "TransferError",
    "cache_folder",
    "checksum",
    "fetch",
    "locate",
    "redact",
]

log = logging.getLogger(__name__)

TRIES = 6  # of one place, unless a try made good progress
BACKOFF = 0.5  # s, before the second try; doubles with each
BACKOFF_MAX = 30.0  # s
RETRY_AFTER_MAX = 120.0  # s: a server may ask for a longer wait, it gets this one
TIMEOUT = 20.0  # s without a single byte
PATIENCE = 60.0  # s spent in tries of one place that brought nothing, apart from the waits between them
CLAIM_TIMEOUT = 300.0  # s without progress of another process that fetches the same file
GOOD_PROGRESS = 64 * 2**20  # bytes: a try that brought as many does not count as failed
BLOCK = 2**18  # bytes
STREAM_ABOVE = 10**9  # bytes
MAX_REDIRECTS = 10
CATALOGUE_HOSTS = frozenset({"eospublic.cern.ch", "opendata.cern.ch"})
TEXT_FILES = frozenset({".csv", ".json", ".toml", ".txt"})
TRANSIENT_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})
REDIRECT_STATUS = frozenset({301, 302, 303, 307, 308})
SECRET_NAME = re.compile(r"auth|token|sig|secret|pass|pwd|cred|key|jwt|session|x-amz|x-goog", re.IGNORECASE)

Progress = Callable[[int, "int | None"], None]


class TransferError(OSError):
    """A file could not be brought here; the message names each place tried, why, and the next step."""


class ChecksumError(OSError):
    """A file is not the one that the catalogue describes: size or adler32 differ."""


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
        return Path(given).expanduser().absolute()
    import platformdirs

    return Path(platformdirs.user_cache_dir("higgsnb", appauthor=False))


def redact(text: str) -> str:
    """Take the secrets out of a text with addresses: passwords, and parameters that look like tokens.

    >>> redact("https://me:pw@host/f.root?authz=abc&download=1")
    'https://***@host/f.root?authz=***&download=1'
    """
    text = re.sub(r"(?<=://)[^/?#\s]*@", "***@", text)
    return re.sub(r"(?<=[?&#;])([^=&#;\s]+)=([^&#;\s'\"<>)]+)", _redact_parameter, text)


def _redact_parameter(match: re.Match[str]) -> str:
    secret = SECRET_NAME.search(unquote(match[1])) or len(match[2]) >= 24
    return f"{match[1]}=***" if secret else match[0]


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
    wanted = _Wanted.of(url, alternatives, size, adler32)
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
    wanted = _Wanted.of(url, alternatives, size, adler32, progress)
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


# --- what is wanted, and what can go wrong


@dataclass(frozen=True)
class _Wanted:
    """One file as the caller asked for it."""

    url: str
    alternatives: tuple[str, ...]
    size: int | None
    adler32: str | None
    progress: Progress | None
    mirror: str | None

    @classmethod
    def of(
        cls,
        url: str,
        alternatives: Sequence[str],
        size: int | None,
        adler32: str | None,
        progress: Progress | None = None,
    ) -> _Wanted:
        for place in (url, *alternatives, os.environ.get("HIGGSNB_MIRROR", "")):
            _check_address(place)
        digits = None if adler32 is None else adler32.lower().zfill(8)
        return cls(
            os.fspath(url),
            tuple(alternatives),
            size,
            digits,
            progress,
            os.environ.get("HIGGSNB_MIRROR") or None,
        )

    @property
    def name(self) -> str:
        """The last part of the address, for messages."""
        return unquote(urlsplit(self.url).path if _scheme(self.url) else self.url).rstrip("/").rsplit("/", 1)[-1]

    @property
    def suffix(self) -> str:
        """Extension with its dot, if it is a harmless one."""
        suffix = Path(self.name).suffix.lower()
        return suffix if re.fullmatch(r"\.[a-z0-9]{1,8}", suffix) else ""

    @property
    def hosts(self) -> frozenset[str]:
        """Hosts that a redirect may lead to."""
        extra = os.environ.get("HIGGSNB_ALLOW_HOSTS", "").split(",")
        named = {_host(place) for place in (self.url, *self.alternatives, self.mirror or "")}
        return frozenset((named | {host.strip().lower() for host in extra} | CATALOGUE_HOSTS) - {""})


def _check_address(place: str) -> None:
    """Refuse an address without a host, or one that cannot be taken apart."""
    try:
        bad = _scheme(place) in {"http", "https", "root"} and not (_host(place) and urlsplit(place).port != 0)
    except ValueError:
        bad = True
    if bad:
        raise TransferError(f"{redact(place)}: not a valid address; expected https://host/path or root://host//path")


class _PlaceError(Exception):
    """Why one place did not give the file.

    ``kind``: missing, checksum, permanent, skipped (not tried), transient (try again after ``wait`` seconds).
    """

    def __init__(self, kind: str, reason: str, remedy: str = "", wait: float | None = None) -> None:
        super().__init__(kind, reason, remedy, wait)
        self.kind, self.reason, self.remedy, self.wait = kind, reason, remedy, wait


def _error(wanted: _Wanted, failures: Sequence[tuple[str, _PlaceError]]) -> OSError:
    """Make the exception for a file that no place gave: what; where and why; the next step."""
    tried = "; ".join(f"{redact(place)} ({failure.reason})" for place, failure in failures)
    real = [failure for _, failure in failures if failure.kind != "skipped"] or [failure for _, failure in failures]
    worst = next((failure for failure in real if failure.kind == "checksum"), None) or next(
        (failure for failure in real if failure.kind != "missing"), None
    )
    if worst is None:
        remedy = (
            f"put it there or unset HIGGSNB_MIRROR ({redact(wanted.mirror)})"
            if wanted.mirror
            else "check the address, or give the file another place under 'alternatives'"
        )
        return FileNotFoundError(f"{wanted.name}: not found at any place\ntried {tried}\n{remedy}")
    if worst.kind == "checksum":
        return ChecksumError(f"{wanted.name}: not the file of the catalogue\ntried {tried}\n{worst.remedy}")
    return TransferError(f"{wanted.name}: cannot be brought here\ntried {tried}\n{worst.remedy}")


# --- local files, the toy campaign, checksums


def _at_hand(wanted: _Wanted) -> Source | None:
    """Find a file that needs no transfer; None if it must come from elsewhere."""
    scheme = _scheme(wanted.url)
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
    return _mirrored(wanted) if wanted.mirror and _is_folder(wanted.mirror) else None


def _here(path: Path, origin: str, wanted: _Wanted, note: str = "") -> Source:
    return Source(str(path), origin, wanted.adler32 is not None, path.stat().st_size, note)


def _local(wanted: _Wanted) -> Source:
    path = _local_path(wanted.url)
    failure = _wrong(path, wanted)
    if failure is not None:
        raise _error(replace(wanted, mirror=None), [(str(path), failure)])
    return _here(path, "local", wanted)


def _local_path(location: str) -> Path:
    if _scheme(location) is None:
        return Path(location).expanduser()
    parts = urlsplit(location)
    if parts.netloc not in ("", "localhost"):
        raise TransferError(
            f"{location}: a file: address cannot name a host ('{parts.netloc}'); use file:///folder/name"
        )
    return Path(url2pathname(parts.path))


def _toy(wanted: _Wanted) -> Source:
    from higgsnb import toy

    try:
        path = toy.ensure(wanted.url.partition(":")[2].removesuffix(".root"), cache_folder() / "toy")
    except KeyError as error:
        raise FileNotFoundError(f"{wanted.url}: {error.args[0]}") from None
    failure = _wrong(path, wanted)
    if failure is not None:
        raise _error(wanted, [(str(path), failure)])
    return _here(path, "toy", wanted)


def _wrong(path: Path, wanted: _Wanted) -> _PlaceError | None:
    """Say what is wrong with a file on disk; None if it is as wanted."""
    try:
        if path.is_dir():
            return _PlaceError("permanent", "is a folder", "give the path of one file")
        return _mismatch(path, wanted)
    except FileNotFoundError:
        return _PlaceError("missing", "no such file")
    except OSError as error:
        return _PlaceError("permanent", f"cannot be read: {error.strerror}", "check the permissions of the file")


def _mismatch(path: Path, wanted: _Wanted, compute: Callable[[Path], str] = checksum) -> _PlaceError | None:
    remedy = "replace the file, or correct bytes and adler32 in the campaign if the new file is the right one"
    size = path.stat().st_size
    if wanted.size is not None and size != wanted.size:
        return _PlaceError("checksum", f"{size} bytes, expected {wanted.size}", remedy)
    found = compute(path) if wanted.adler32 is not None else None
    if found != wanted.adler32:
        return _PlaceError("checksum", f"adler32 {found}, expected {wanted.adler32}", remedy)
    return None


def _good(path: Path, wanted: _Wanted) -> bool:
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


# --- addresses


def _scheme(location: str) -> str | None:
    """Return the scheme of an address, None for a path (a single letter is a drive, not a scheme)."""
    match = re.match(r"([A-Za-z][A-Za-z0-9+.-]+):", location)
    return match[1].lower() if match else None


def _host(location: str) -> str:
    if _scheme(location) not in ("http", "https", "root"):
        return ""
    return (urlsplit(location).hostname or "").rstrip(".").lower()


def _is_folder(mirror: str) -> bool:
    return _scheme(mirror) in (None, "file")


def _mirror_parts(wanted: _Wanted) -> list[str]:
    """List where a mirror may hold the file, below its root: the addresses' paths, then last parts."""
    places = [place for place in (wanted.url, *wanted.alternatives) if _host(place)]
    paths = [unquote(urlsplit(place).path).lstrip("/") for place in places]
    inside = [path for path in paths if path and ".." not in re.split(r"[/\\]", path)]
    if not inside:
        refused = _PlaceError("permanent", "no path that a mirror could hold", "correct the address")
        raise _error(wanted, [(wanted.url, refused)])
    return list(dict.fromkeys(inside + [path.rsplit("/", 1)[-1] for path in inside]))


def _mirrored(wanted: _Wanted) -> Source:
    """Find the file in a mirror that is a folder; it is used in place."""
    root = _local_path(wanted.mirror or "")
    failures: list[tuple[str, _PlaceError]] = []
    for part in _mirror_parts(wanted):
        path = root / part
        failure = _wrong(path, wanted)
        if failure is None:
            return _here(path.absolute(), "mirror", wanted)
        failures.append((str(path), failure))
        if failure.kind != "missing":
            break
    raise _error(wanted, failures)


def _places(wanted: _Wanted) -> list[str]:
    """List the addresses to try, in order: only the mirror's if there is one, else as given."""
    if wanted.mirror is None:
        return [wanted.url, *wanted.alternatives]
    base = wanted.mirror.rstrip("/")
    return [f"{base}/{quote(part)}" for part in _mirror_parts(wanted)]


def _cache_path(wanted: _Wanted) -> Path:
    """Name in the cache: only a hash, of the address without its secrets.

    What a mirror gives without a checksum is kept apart, so that it is never taken for the original.
    """
    parts = urlsplit(wanted.url)
    query = "&".join(item for item in parts.query.split("&") if not SECRET_NAME.search(unquote(item.partition("=")[0])))
    key = urlunsplit((parts.scheme.lower(), parts.netloc.rsplit("@", 1)[-1].lower(), parts.path, query, ""))
    if wanted.mirror is not None and wanted.adler32 is None:
        key = f"{wanted.mirror} {key}"
    return cache_folder() / "files" / (hashlib.sha256(key.encode()).hexdigest() + wanted.suffix)


# --- fetching


def _fetch_whole(wanted: _Wanted) -> bool:
    return wanted.suffix in TEXT_FILES or (wanted.size is not None and wanted.size <= _stream_above())


def _stream_above() -> int:
    given = os.environ.get("HIGGSNB_STREAM_ABOVE")
    if given is None:
        return STREAM_ABOVE
    if not given.strip().isdigit():
        raise ValueError(f"HIGGSNB_STREAM_ABOVE must be a whole number of bytes, got '{given}'")
    return int(given)


def _bring(wanted: _Wanted, places: Sequence[str] | None = None) -> Source:
    """Fetch into the cache from the first place that gives the file."""
    final = _cache_path(wanted)
    failures: list[tuple[str, _PlaceError]] = []
    with _cache_errors(final.parent), _claim(final) as part:
        if _good(final, wanted):  # another process has brought it while this one waited
            return _here(final, "cache", wanted)
        for place in _places(wanted) if places is None else places:
            try:
                _download(place, part, wanted)
            except _PlaceError as failure:
                failures.append((place, failure))
                if wanted.mirror and failure.kind != "missing":
                    break
                continue
            part.finish(final)
            if wanted.adler32 is not None:
                _remember(final, final.stat(), wanted.adler32)
            return _here(final, "cache", wanted, _fallback(wanted, place, failures))
    raise _error(wanted, failures)


def _fallback(wanted: _Wanted, place: str, failures: Sequence[tuple[str, _PlaceError]]) -> str:
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
    except (TransferError, ChecksumError, FileNotFoundError):
        raise
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise TransferError(
            f"the cache {folder} cannot be written: {error.strerror}\n"
            f"{'free some space, or ' if full else ''}set HIGGSNB_CACHE to a folder "
            f"{'with more' if full else 'that you may write to'}"
        ) from None


class _Part:
    """A file in the making: bytes under a temporary name, and from where they came."""

    def __init__(self, path: Path, file: IO[bytes], *, resumable: bool) -> None:
        self.path, self.file, self.resumable = path, file, resumable
        self.origin = path.with_name(path.name + ".json")
        self.finished = False

    @property
    def size(self) -> int:
        return os.fstat(self.file.fileno()).st_size

    def write(self, block: bytes) -> None:
        self.file.write(block)
        self.file.flush()

    def reset(self) -> None:
        self.file.truncate(0)
        self.origin.unlink(missing_ok=True)

    def validator(self, place: str) -> str | None:
        """Return the ETag or date under which this place gave the bytes so far; None if it did not."""
        try:
            known = json.loads(self.origin.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        good = isinstance(known, dict) and known.get("place") == _fingerprint(place)
        return str(known["validator"]) if good and known.get("validator") else None

    def note(self, place: str, headers: Any) -> None:
        tag = headers.get("ETag", "")
        validator = tag if tag.startswith('"') else headers.get("Last-Modified")
        self.origin.write_text(json.dumps({"place": _fingerprint(place), "validator": validator}), encoding="utf-8")

    def finish(self, final: Path) -> None:
        """Give the bytes their final name, in one step."""
        self.file.flush()
        os.fsync(self.file.fileno())
        if fcntl is None:  # Windows does not rename open files
            self.file.close()
        self.path.replace(final)
        self.finished = True
        self.origin.unlink(missing_ok=True)

    def close(self) -> None:
        """Keep what may be resumed; remove the rest, before the lock is given up: others may wait for it."""
        if not self.finished and not (self.resumable and self.size):
            self.origin.unlink(missing_ok=True)
            if fcntl is None:
                self.file.close()
            self.path.unlink(missing_ok=True)
        self.file.close()


def _fingerprint(place: str) -> str:
    return hashlib.sha256(place.encode()).hexdigest()


@contextlib.contextmanager
def _claim(final: Path) -> Iterator[_Part]:
    """Hold the temporary file: exclusive, so that two processes fetch a file once and never mix bytes."""
    part = _locked(final.with_name(final.name + ".part")) or _private(final)
    try:
        yield part
    finally:
        part.close()


def _private(final: Path) -> _Part:
    handle, name = tempfile.mkstemp(prefix=final.name + ".", suffix=".part", dir=final.parent)
    return _Part(Path(name), os.fdopen(handle, "r+b"), resumable=False)


def _locked(path: Path) -> _Part | None:
    """Lock the common temporary file; None where locks do not work or the holder makes no progress."""
    patience = _Patience(path)
    while fcntl is not None:
        file = path.open("a+b")
        state = _lock(file, path)
        if state == "ours":
            return _Part(path, file, resumable=True)
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
        time.sleep(min(0.05, BACKOFF))
        return True


def _download(place: str, part: _Part, wanted: _Wanted) -> None:
    """Fill the temporary file from one place and check it; try again what may pass."""
    transfer = _transfer_root if _scheme(place) == "root" else _transfer_http
    tries, mismatches = _Tries(place, wanted), 0
    while True:
        before = part.size
        try:
            transfer(place, part, wanted)
            return _check(part, wanted)
        except _PlaceError as failure:
            mismatches += failure.kind == "checksum"
            hopeless = mismatches > 1 or isinstance(failure, _OtherSizeError)
            if hopeless or failure.kind not in {"transient", "checksum"}:
                raise
            tries.failed(failure, brought=part.size - before)


class _Tries:
    """Counts the failed tries of one place, waits before the next, and ends them when they lead nowhere."""

    def __init__(self, place: str, wanted: _Wanted) -> None:
        self.place, self.name, self.count, self.spent = place, wanted.name, 0, 0.0
        self.started = time.monotonic()

    def failed(self, failure: _PlaceError, *, brought: int = 0) -> None:
        if brought >= GOOD_PROGRESS:
            self.count, self.spent = 0, 0.0
        else:
            self.count, self.spent = self.count + 1, self.spent + time.monotonic() - self.started
        if self.count >= TRIES or self.spent > PATIENCE:
            raise _PlaceError("permanent", f"{failure.reason}, {self.count} tries", failure.remedy) from None
        log.info("%s: %s, trying %s again", self.name, failure.reason, redact(self.place))
        time.sleep(_delay(self.count, failure.wait))
        self.started = time.monotonic()


def _delay(failed: int, wait: float | None) -> float:
    """Seconds before the next try: as the server asks, within reason; else doubling, spread at random."""
    if wait is not None:
        return min(wait, RETRY_AFTER_MAX)
    spread = random.uniform(0.5, 1.0)  # noqa: S311 # nosec B311: no secret hangs on it
    return min(BACKOFF * 2.0 ** max(failed - 1, 0), BACKOFF_MAX) * spread


def _check(part: _Part, wanted: _Wanted) -> None:
    """Refuse what was brought if it is not what was wanted. Nothing is remembered of temporary names."""
    failure = _mismatch(part.path, wanted, _adler32)
    if failure is not None:
        part.reset()
        failure.remedy = "the bytes were thrown away; check the address, or bytes and adler32 in the campaign"
        raise failure


def _offered(total: int | None, part: _Part, wanted: _Wanted) -> None:
    """Refuse a file of another size before it is transferred."""
    if total is not None and wanted.size is not None and total != wanted.size:
        part.reset()
        raise _OtherSizeError(total, wanted.size)


class _OtherSizeError(_PlaceError):
    """A place that offers a file of another size will do so again: not worth a second try."""

    def __init__(self, total: int, expected: int) -> None:
        super().__init__(
            "checksum",
            f"offers {total} bytes, expected {expected}",
            "check the address, or bytes and adler32 in the campaign",
        )


# --- http


class _Answer(NamedTuple):
    response: http.client.HTTPResponse
    url: str


def _transfer_http(place: str, part: _Part, wanted: _Wanted) -> None:
    """Append what is missing to the temporary file, in one request; start again where that cannot be."""
    offset = _resume_point(place, part, wanted)
    if wanted.size is not None and offset == wanted.size:
        return
    headers = {"Range": f"bytes={offset}-"} if offset else {}
    validator = part.validator(place)
    if offset and validator:
        headers["If-Range"] = validator
    with _network_errors(place), _open(place, headers, wanted.hosts) as response:
        if response.status == 416 and _content_range(response)[1] == offset:
            return
        total = _begin(response, offset, part, wanted)
        head = response.read(512)
        if part.size == 0:
            _check_head(head, total, response, wanted)
        _offered(total, part, wanted)
        part.note(place, response.headers)
        _copy(response, head, part, total, wanted)


def _resume_point(place: str, part: _Part, wanted: _Wanted) -> int:
    """Count the bytes that may be kept: a checksum will judge them, or the server can vouch for them."""
    size = part.size
    if size and (wanted.adler32 is not None or part.validator(place)) and (wanted.size is None or size <= wanted.size):
        return size
    part.reset()
    return 0


def _begin(response: http.client.HTTPResponse, offset: int, part: _Part, wanted: _Wanted) -> int | None:
    """Judge the answer before its body is read. Returns the size of the whole file, None if not told."""
    if response.status == 416:
        part.reset()
        raise _PlaceError("transient", "cannot resume there")
    _check_status(response)
    _check_encoding(response)
    if response.status != 206:
        if offset:
            log.info("%s: the server does not resume, starting again", wanted.name)
        part.reset()
        return int(response.headers["Content-Length"]) if _has_length(response) else None
    start, total = _content_range(response)
    if start != offset:
        part.reset()
        raise _PlaceError("transient", f"sent bytes from {start}, asked from {offset}")
    return total


def _copy(response: http.client.HTTPResponse, block: bytes, part: _Part, total: int | None, wanted: _Wanted) -> None:
    """Write ``block``, then the rest of the body."""
    done = part.size
    while block:
        part.write(block)
        done += len(block)
        if wanted.progress is not None:
            wanted.progress(done, total)
        block = b"" if done == total else _read(response)
    if total is not None and done < total:
        raise _PlaceError("transient", f"the body ended after {done} of {total} bytes", "try again: what came is kept")
    if total is not None and done > total:
        part.reset()
        raise _PlaceError("transient", f"sent {done} bytes, announced {total}")


def _read(response: http.client.HTTPResponse) -> bytes:
    """Read what has arrived. An `OSError` here is the network's; elsewhere, at a write, it is the disk's."""
    try:
        return response.read1(BLOCK)
    except OSError as error:
        raise _network_failure(error, "") from None


def _has_length(response: http.client.HTTPResponse) -> bool:
    return response.headers.get("Content-Length", "").isdigit()


def _content_range(response: http.client.HTTPResponse) -> tuple[int | None, int | None]:
    """First byte and size of the whole file from ``Content-Range: bytes 5-9/10``, ``bytes */10``."""
    match = re.fullmatch(r"bytes (?:(\d+)-\d+|\*)/(?:(\d+)|\*)", response.headers.get("Content-Range", "").strip())
    if match is None:
        return None, None
    return (None if match[1] is None else int(match[1])), (None if match[2] is None else int(match[2]))


def _check_status(response: http.client.HTTPResponse) -> None:
    status = response.status
    if status in (200, 206):
        return
    reason = f"{status} {http.client.responses.get(status, '')}".strip()
    if status in (404, 410):
        raise _PlaceError("missing", reason)
    if status in (401, 403):
        raise _PlaceError(
            "permanent", reason, "the server refuses: is the file public, is the token in its address valid?"
        )
    if status in TRANSIENT_STATUS:
        raise _PlaceError(
            "transient",
            reason,
            "the server is busy or down: run the same again later",
            _retry_after(response.headers.get("Retry-After")),
        )
    raise _PlaceError("permanent", reason, "check the address in a browser")


def _retry_after(text: str | None) -> float | None:
    """Seconds from a Retry-After header, which holds seconds or a date."""
    if text is None:
        return None
    if text.strip().isdigit():
        return float(text)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    except ValueError:
        return None


def _check_encoding(response: http.client.HTTPResponse) -> None:
    encoding = response.headers.get("Content-Encoding", "identity").lower()
    if encoding not in {"", "identity"}:
        raise _PlaceError("permanent", f"sent compressed as {encoding}", "the server must serve the file as it is")


def _check_head(head: bytes, total: int | None, response: http.client.HTTPResponse, wanted: _Wanted) -> None:
    """Name an empty file, or a web page in place of the file, as portals serve for logins and errors."""
    if not head and total == 0:
        raise _PlaceError("permanent", "an empty file", "the file is empty at its source: tell whoever serves it")
    page = head.lstrip(b"\xef\xbb\xbf \t\r\n")[:9].lower()
    looks = page.startswith((b"<!doctype", b"<html"))
    says = response.headers.get_content_type() in (
        "text/html",
        "application/xhtml+xml",
    ) and not head.startswith(b"root")
    if (looks or says) and wanted.suffix not in (".html", ".htm"):
        raise _PlaceError(
            "permanent",
            f"an HTML page came instead of {wanted.suffix or 'the file'}",
            "open the address in a browser: it may ask for a login or show an error",
        )


@contextlib.contextmanager
def _network_errors(place: str) -> Iterator[None]:
    """Turn what the network throws into a `_PlaceError`; its own messages may hold secrets and stay here."""
    try:
        yield
    except _PlaceError:
        raise
    except (URLError, http.client.HTTPException, ConnectionError, TimeoutError, ssl.SSLError) as error:
        raise _network_failure(error, place) from None


def _network_failure(error: BaseException, place: str) -> _PlaceError:
    cause = error.reason if isinstance(error, URLError) and isinstance(error.reason, BaseException) else error
    if isinstance(cause, ssl.SSLCertVerificationError):
        return _PlaceError(
            "permanent",
            f"certificate not accepted: {cause.verify_message}",
            "check the clock and the certificates of this machine (SSL_CERT_FILE)",
        )
    if isinstance(cause, http.client.InvalidURL | ValueError):
        return _PlaceError("permanent", "not a valid address", "correct the address")
    if isinstance(cause, socket.gaierror):
        return _PlaceError("transient", f"host {_host(place)} not known", "check the network, or set HIGGSNB_MIRROR")
    if isinstance(cause, TimeoutError):
        return _PlaceError("transient", f"no byte for {TIMEOUT:g} s", "check the network; what came is kept")
    words = cause.strerror if isinstance(cause, OSError) and cause.strerror else type(cause).__name__
    return _PlaceError("transient", redact(words), "check the network, or set HIGGSNB_MIRROR")


@contextlib.contextmanager
def _open(url: str, headers: dict[str, str], hosts: frozenset[str]) -> Iterator[http.client.HTTPResponse]:
    answer = _follow(url, headers, hosts)
    try:
        yield answer.response
    finally:
        answer.response.close()


def _follow(url: str, headers: dict[str, str], hosts: frozenset[str]) -> _Answer:
    """Send a request and follow its redirects, each only to an allowed host."""
    for _ in range(MAX_REDIRECTS):
        response = _request(url, headers)
        target = response.headers.get("Location")
        if response.status not in REDIRECT_STATUS or target is None:
            return _Answer(response, url)
        response.close()
        url = _redirected(url, urljoin(url, target), hosts)
    raise _PlaceError("permanent", f"more than {MAX_REDIRECTS} redirects", "check the address in a browser")


def _redirected(url: str, target: str, hosts: frozenset[str]) -> str:
    old, new = urlsplit(url), urlsplit(target)
    if new.scheme not in ("http", "https") or (old.scheme, new.scheme) == ("https", "http"):
        raise _PlaceError(
            "permanent",
            f"redirected from {old.scheme}: to {new.scheme}:, refused",
            "give the address to which it leads, if you trust it",
        )
    if _host(target) not in hosts:
        raise _PlaceError(
            "permanent",
            f"redirected to host {_host(target)}, refused",
            f"if you trust that host: HIGGSNB_ALLOW_HOSTS={_host(target)}",
        )
    same = (old.scheme, old.hostname, old.port) == (new.scheme, new.hostname, new.port)
    if same and "@" in old.netloc and "@" not in new.netloc:
        target = urlunsplit(new._replace(netloc=f"{old.netloc.rsplit('@', 1)[0]}@{new.netloc}"))
    return target


def _request(url: str, headers: dict[str, str]) -> http.client.HTTPResponse:
    """Send one request, no redirects. A password in the address goes into a header, for this host only."""
    parts = urlsplit(url)
    user, _, host = parts.netloc.rpartition("@")
    address = urlunsplit(
        (parts.scheme, host, quote(parts.path, safe="/%:=&+,;~!$'()*@"), parts.query.replace(" ", "%20"), "")
    )
    headers = {"Accept-Encoding": "identity", "User-Agent": "higgsnb", **headers}
    request = Request(address, headers=headers)  # noqa: S310 only http and https have a handler below
    if user:
        request.add_unredirected_header("Authorization", "Basic " + b64encode(unquote(user).encode()).decode())
    opener = OpenerDirector()  # no redirect, error, file or ftp handlers: every answer comes back as it is
    for handler in (ProxyHandler(), HTTPHandler(), HTTPSHandler(context=_tls())):
        opener.add_handler(handler)
    response = opener.open(request, timeout=TIMEOUT)
    if not isinstance(response, http.client.HTTPResponse):
        raise _PlaceError("permanent", "not an http address", "correct the address")
    return response


@lru_cache(maxsize=1)
def _tls() -> ssl.SSLContext:
    """Certificates of the system; of certifi where it is installed and the user has named none."""
    if not os.environ.get("SSL_CERT_FILE") and importlib.util.find_spec("certifi") is not None:
        return ssl.create_default_context(cafile=importlib.import_module("certifi").where())
    return ssl.create_default_context()


# --- streaming


def _stream(wanted: _Wanted) -> Source:
    """Find the first place that can be read piecewise; a small file, or one that cannot, is fetched."""
    failures: list[tuple[str, _PlaceError]] = []
    places = _places(wanted)
    for index, place in enumerate(places):
        try:
            found = _probe_root(place, wanted) if _scheme(place) == "root" else _probe(place, wanted)
        except _PlaceError as failure:
            failures.append((place, failure))
            if wanted.mirror and failure.kind != "missing":
                break
            continue
        note = _fallback(wanted, place, failures)
        if found is None:
            source = _bring(wanted, places[index:])
            return replace(source, note="; ".join(text for text in (note, source.note) if text))
        return replace(found, note=note)
    raise _error(wanted, failures)


def _probe(place: str, wanted: _Wanted) -> Source | None:
    """Ask for one byte. None: small enough to fetch, or the server has no ranges."""
    tries = _Tries(place, wanted)
    while True:
        try:
            return _probe_once(place, wanted)
        except _PlaceError as failure:
            if failure.kind != "transient":
                raise
            tries.failed(failure)


def _probe_once(place: str, wanted: _Wanted) -> Source | None:
    with _network_errors(place):
        answer = _follow(place, {"Range": "bytes=0-0"}, wanted.hosts)
        with contextlib.closing(answer.response) as response:
            if response.status == 416:  # as some servers answer for an empty file
                return None
            _check_status(response)
            _check_encoding(response)
            total = _content_range(response)[1]
            _check_head(response.read(16), total, response, wanted)
            if response.status != 206 or total is None:
                log.warning("%s: the server does not give parts of files, fetching it whole", wanted.name)
                return None
    if wanted.size is not None and total != wanted.size:
        raise _OtherSizeError(total, wanted.size)
    if total <= _stream_above():
        return None
    return Source(answer.url, "mirror" if wanted.mirror else "remote", False, total)


# --- xrootd


def _has(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def _probe_root(place: str, wanted: _Wanted) -> Source:
    for module, package in (("XRootD", "xrootd"), ("fsspec_xrootd", "fsspec-xrootd")):
        if not _has(module):
            raise _no_xrootd(package)
    return Source(place, "remote", False, wanted.size)


def _no_xrootd(package: str) -> _PlaceError:
    return _PlaceError(
        "skipped",
        f"needs the Python package {package}, which is not installed",
        f"pip install {package}, or give an https: address, or set HIGGSNB_MIRROR",
    )


def _transfer_root(place: str, part: _Part, wanted: _Wanted) -> None:
    """As `_transfer_http`, over xrootd, whose redirects to disk servers are its own and not checked here."""
    if not _has("XRootD"):
        raise _no_xrootd("xrootd")
    file = importlib.import_module("XRootD.client").File()
    timeout = max(1, int(TIMEOUT))
    _xrootd(file.open(place, timeout=timeout))
    try:
        total = int(_xrootd(file.stat(timeout=timeout)).size)
        _offered(total, part, wanted)
        done = part.size if wanted.adler32 is not None and part.size <= total else 0
        if not done:
            part.reset()
        while done < total:
            block = bytes(_xrootd(file.read(offset=done, size=16 * BLOCK, timeout=timeout)))
            if not block:
                raise _PlaceError("transient", f"the file ended after {done} of {total} bytes")
            part.write(block)
            done += len(block)
            if wanted.progress is not None:
                wanted.progress(done, total)
    finally:
        file.close()


def _xrootd(answer: tuple[Any, Any]) -> Any:
    """Unpack an xrootd call, whose errors come back as a status; 3010 and 3011 are the protocol's."""
    status, value = answer
    if status.ok:
        return value
    reason = redact(str(status.message)).strip().splitlines()[0]
    if status.errno == 3011:
        raise _PlaceError("missing", reason)
    if status.errno == 3010:
        raise _PlaceError("permanent", reason, "the server refuses: check that the file is public")
    raise _PlaceError("transient", reason, "xrootd needs port 1094 open to the outside; https: does not")
