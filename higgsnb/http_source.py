"""Bytes over the network: one place, whole or in parts, with redirects, retries and clear reasons.

`append` brings what is missing of a file over http or xrootd, `probe` asks whether a place can be read piecewise,
`RemoteFile` reads it so. Where a file may be, and where it is kept, is the business of `higgsnb.files`.

Environment: ``HIGGSNB_ALLOW_HOSTS`` (hosts that a redirect may lead to, comma between).
"""

from __future__ import annotations

import contextlib
import email.utils
import hashlib
import http.client
import importlib
import importlib.util
import io
import json
import logging
import os
import random
import re
import socket
import ssl
import threading
import time
from base64 import b64encode
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO, Any, NamedTuple
from urllib.error import URLError
from urllib.parse import quote, unquote, urljoin, urlsplit, urlunsplit
from urllib.request import HTTPHandler, HTTPSHandler, OpenerDirector, ProxyHandler, Request

from higgsnb.errors import ChecksumError, TransferError

__all__ = [
    "ChecksumError",
    "OtherSizeError",
    "Part",
    "PlaceError",
    "Progress",
    "RemoteFile",
    "TransferError",
    "Tries",
    "Wanted",
    "append",
    "error_for",
    "host_of",
    "is_address",
    "probe",
    "redact",
    "scheme_of",
    "take_tries",
    "without_secrets",
]

log = logging.getLogger(__name__)

TRIES = 6  # of one place, unless a try made good progress
BACKOFF = 0.5  # s, before the second try; doubles with each
BACKOFF_MAX = 30.0  # s
RETRY_AFTER_MAX = 120.0  # s: a server may ask for a longer wait, it gets this one
TIMEOUT = 20.0  # s without a single byte
PATIENCE = 60.0  # s spent in tries of one place that brought nothing, apart from the waits between them
GOOD_PROGRESS = 64 * 2**20  # bytes: a try that brought as many does not count as failed
BLOCK = 2**18  # bytes
MAX_REDIRECTS = 10
MOST_ORIGINS = 10_000  # signed addresses remembered
CATALOGUE_HOSTS = frozenset({"eospublic.cern.ch", "opendata.cern.ch"})
TRANSIENT_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})
REFUSED_STATUS = frozenset({401, 403})
REFUSED_REMEDY = "the server refuses: is the file public, is the token in its address valid?"
REDIRECT_STATUS = frozenset({301, 302, 303, 307, 308})
KEEPS_OPEN_FILES = os.name == "nt"  # Windows neither renames nor removes open files
SECRET_NAME = re.compile(r"auth|token|sig|secret|pass|pwd|cred|key|jwt|session|x-amz|x-goog", re.IGNORECASE)

NETWORK = frozenset({"http", "https", "root"})

Progress = Callable[[int, "int | None"], None]


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


# --- what is wanted, and what can go wrong


@dataclass(frozen=True)
class Wanted:
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
    ) -> Wanted:
        """Check the addresses and take the mirror from ``HIGGSNB_MIRROR``; `TransferError` names a bad address."""
        for place in (url, *alternatives):
            if scheme_of(place) in NETWORK and not is_address(place):
                raise TransferError(
                    f"{redact(place)}: not a valid address; expected https://host/path or root://host//path"
                )
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
        return unquote(urlsplit(self.url).path if scheme_of(self.url) else self.url).rstrip("/").rsplit("/", 1)[-1]

    @property
    def suffix(self) -> str:
        """Extension with its dot, if it is a harmless one."""
        suffix = Path(self.name).suffix.lower()
        return suffix if re.fullmatch(r"\.[a-z0-9]{1,8}", suffix) else ""

    @property
    def hosts(self) -> frozenset[str]:
        """Hosts that a redirect may lead to."""
        extra = os.environ.get("HIGGSNB_ALLOW_HOSTS", "").split(",")
        named = {host_of(place) for place in (self.url, *self.alternatives, self.mirror or "")}
        return frozenset((named | {host.strip().lower() for host in extra} | CATALOGUE_HOSTS) - {""})


class PlaceError(Exception):
    """Why one place did not give the file.

    ``kind``: missing, checksum, permanent, refused (permanent unless the address was a signed one of a redirect),
    skipped (not tried), transient (try again after ``wait`` seconds).
    """

    def __init__(self, kind: str, reason: str, remedy: str = "", wait: float | None = None) -> None:
        super().__init__(kind, reason, remedy, wait)
        self.kind, self.reason, self.remedy, self.wait = kind, reason, remedy, wait


class UnknownHostError(PlaceError):
    """A host whose name has no address: another place of the same file is a better next try."""

    def __init__(self, host: str) -> None:
        super().__init__("transient", f"host {host} not known", "check the network, or set HIGGSNB_MIRROR")


def error_for(wanted: Wanted, failures: Sequence[tuple[str, PlaceError]]) -> OSError:
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


# --- addresses


def scheme_of(location: str) -> str | None:
    """Return the scheme of an address, None for a path (a single letter is a drive, not a scheme)."""
    match = re.match(r"([A-Za-z][A-Za-z0-9+.-]+):", location)
    return match[1].lower() if match else None


def host_of(location: str) -> str:
    """Return the host of a network address in lower case, empty for any other place."""
    if scheme_of(location) not in NETWORK:
        return ""
    return (urlsplit(location).hostname or "").rstrip(".").lower()


def is_address(location: str) -> bool:
    """Whether a text is a network address that can be taken apart and names a host."""
    try:
        return bool(host_of(location)) and urlsplit(location).port != 0
    except ValueError:
        return False


def without_secrets(query: str) -> str:
    """Return the query of an address without the parameters that look like tokens: the same file, whoever asks.

    >>> without_secrets("n=1&authz=abc")
    'n=1'
    """
    return "&".join(item for item in query.split("&") if not SECRET_NAME.search(unquote(item.partition("=")[0])))


# --- a file in the making, and the tries it takes


class Part:
    """A file in the making: bytes under a temporary name, and from where they came."""

    def __init__(self, path: Path, file: IO[bytes], *, resumable: bool) -> None:
        self.path, self.file, self.resumable = path, file, resumable
        self.origin = path.with_name(path.name + ".json")
        self.finished = False

    @property
    def size(self) -> int:
        """Bytes so far."""
        return os.fstat(self.file.fileno()).st_size

    def write(self, block: bytes) -> None:
        """Append a block."""
        self.file.write(block)
        self.file.flush()

    def reset(self) -> None:
        """Forget all bytes."""
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
        """Keep the ETag or date under which a place gives the bytes."""
        tag = headers.get("ETag", "")
        validator = tag if tag.startswith('"') else headers.get("Last-Modified")
        self.origin.write_text(json.dumps({"place": _fingerprint(place), "validator": validator}), encoding="utf-8")

    def finish(self, final: Path) -> None:
        """Give the bytes their final name, in one step."""
        self.file.flush()
        os.fsync(self.file.fileno())
        if KEEPS_OPEN_FILES:
            self.file.close()
        self.path.replace(final)
        self.finished = True
        self.origin.unlink(missing_ok=True)

    def close(self) -> None:
        """Keep what may be resumed; remove the rest, before the lock is given up: others may wait for it."""
        if not self.finished and not (self.resumable and self.size):
            self.origin.unlink(missing_ok=True)
            if KEEPS_OPEN_FILES:
                self.file.close()
            self.path.unlink(missing_ok=True)
        self.file.close()


def _fingerprint(place: str) -> str:
    return hashlib.sha256(place.encode()).hexdigest()


class Tries:
    """Counts the failed tries of one place, waits before the next, and ends them when they lead nowhere."""

    def __init__(self, place: str, wanted: Wanted) -> None:
        self.place, self.name, self.count, self.spent = place, wanted.name, 0, 0.0
        self.file = _origins.get(wanted.url, Origin(wanted.url, place)).url
        self.others = wanted.mirror is None and place in (wanted.url, *wanted.alternatives)[: len(wanted.alternatives)]
        self.started = time.monotonic()

    def failed(self, failure: PlaceError, *, brought: int = 0) -> None:
        """Wait before the next try, or raise a permanent `PlaceError`; ``brought`` is in bytes."""
        if brought >= GOOD_PROGRESS:
            self.count, self.spent = 0, 0.0
        else:
            self.count, self.spent = self.count + 1, self.spent + time.monotonic() - self.started
        if self.count >= TRIES or self.spent > PATIENCE:
            raise PlaceError("permanent", f"{failure.reason}, {self.count} tries", failure.remedy) from None
        if self.others and isinstance(failure, UnknownHostError):
            raise failure from None
        _note_tries(self.file, self.count + 1)
        log.info("%s: %s, trying %s again", self.name, failure.reason, redact(self.place))
        time.sleep(_delay(self.count, failure.wait))
        self.started = time.monotonic()


_counting = threading.Lock()
_most_tries: dict[str, int] = {}


def _note_tries(url: str, tries: int) -> None:
    """Remember that a transfer of a file is in its second or a later try."""
    with _counting:
        _most_tries[redact(url)] = max(tries, _most_tries.get(redact(url), 0))


def take_tries() -> dict[str, int]:
    """Return the most tries that a transfer of each file took, and forget them.

    A transfer is that of a whole file, or of one part of a file that is read piecewise.

    Returns
    -------
    dict of str to int
        By the address in the campaign, without secrets: 2 to `TRIES`, only the files that took more than one try in
        this process since the last call. For several processes take the greater number.
    """
    with _counting:
        found = dict(_most_tries)
        _most_tries.clear()
    return found


def _delay(failed: int, wait: float | None) -> float:
    """Seconds before the next try: as the server asks, within reason; else doubling, spread at random."""
    if wait is not None:
        return min(wait, RETRY_AFTER_MAX)
    spread = random.uniform(0.5, 1.0)  # noqa: S311 # nosec B311: no secret hangs on it
    return min(BACKOFF * 2.0 ** max(failed - 1, 0), BACKOFF_MAX) * spread


class OtherSizeError(PlaceError):
    """A place that offers a file of another size will do so again: not worth a second try."""

    def __init__(self, total: int, expected: int) -> None:
        super().__init__(
            "checksum",
            f"offers {total} bytes, expected {expected}",
            "check the address, or bytes and adler32 in the campaign",
        )


def _refuse_other_size(total: int | None, part: Part, wanted: Wanted) -> None:
    """Refuse a file of another size before it is transferred."""
    if total is not None and wanted.size is not None and total != wanted.size:
        part.reset()
        raise OtherSizeError(total, wanted.size)


# --- one place


class Place(NamedTuple):
    """What a place said when asked: where its redirects ended, bytes, and whether parts of the file can be had."""

    location: str
    size: int | None
    parts: bool


def append(place: str, part: Part, wanted: Wanted) -> None:
    """Append what is missing to the temporary file, in one try; `PlaceError` says why that failed."""
    (_append_root if scheme_of(place) == "root" else _append_http)(place, part, wanted)


class Origin(NamedTuple):
    """From where a redirect led to a location: the file's address as the caller gave it, and the place asked."""

    url: str
    place: str


_origins: dict[str, Origin] = {}


def probe(place: str, wanted: Wanted) -> Place:
    """Ask a place for the size of its file and whether it gives parts of it; `PlaceError` if it has none."""
    ask, tries = _probe_root if scheme_of(place) == "root" else _probe_http, Tries(place, wanted)
    while True:
        try:
            found = ask(place, wanted)
        except PlaceError as failure:
            if failure.kind != "transient":
                raise
            tries.failed(failure)
        else:
            _remember_origin(found.location, Origin(wanted.url, place))
            return found


def _remember_origin(location: str, origin: Origin) -> None:
    """Remember from where a redirect led to a location, so that a signed one can be had anew."""
    if location != origin.url:
        _origins[location] = origin
        if len(_origins) > MOST_ORIGINS:
            _origins.pop(next(iter(_origins)), None)


# --- http


class _Answer(NamedTuple):
    response: http.client.HTTPResponse
    url: str


def _append_http(place: str, part: Part, wanted: Wanted) -> None:
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
        _refuse_other_size(total, part, wanted)
        part.note(place, response.headers)
        _copy(response, head, part, total, wanted)


def _resume_point(place: str, part: Part, wanted: Wanted) -> int:
    """Count the bytes that may be kept: a checksum will judge them, or the server can vouch for them."""
    size = part.size
    if size and (wanted.adler32 is not None or part.validator(place)) and (wanted.size is None or size <= wanted.size):
        return size
    part.reset()
    return 0


def _begin(response: http.client.HTTPResponse, offset: int, part: Part, wanted: Wanted) -> int | None:
    """Judge the answer before its body is read. Returns the size of the whole file, None if not told."""
    if response.status == 416:
        part.reset()
        raise PlaceError("transient", "cannot resume there")
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
        raise PlaceError("transient", f"sent bytes from {start}, asked from {offset}")
    return total


def _copy(response: http.client.HTTPResponse, block: bytes, part: Part, total: int | None, wanted: Wanted) -> None:
    """Write ``block``, then the rest of the body."""
    done = part.size
    while block:
        part.write(block)
        done += len(block)
        if wanted.progress is not None:
            wanted.progress(done, total)
        block = b"" if done == total else _read(response)
    if total is not None and done < total:
        raise PlaceError("transient", f"the body ended after {done} of {total} bytes", "try again: what came is kept")
    if total is not None and done > total:
        part.reset()
        raise PlaceError("transient", f"sent {done} bytes, announced {total}")


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
    status, reason = response.status, _status(response)
    if status in (200, 206):
        return
    if status in (404, 410):
        raise PlaceError("missing", reason)
    if status in REFUSED_STATUS:
        raise PlaceError("refused", reason, REFUSED_REMEDY)
    if status in TRANSIENT_STATUS:
        raise PlaceError(
            "transient",
            reason,
            "the server is busy or down: run the same again later",
            _retry_after(response.headers.get("Retry-After")),
        )
    raise PlaceError("permanent", reason, "check the address in a browser")


def _status(response: http.client.HTTPResponse) -> str:
    """Return the status of an answer with its name."""
    return f"{response.status} {http.client.responses.get(response.status, '')}".strip()


def _retry_after(text: str | None) -> float | None:
    """Seconds from a Retry-After header, which holds seconds or a date."""
    if text is None:
        return None
    try:
        if text.strip().isdigit():
            return float(text)
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    except ValueError:
        return None


def _check_encoding(response: http.client.HTTPResponse) -> None:
    encoding = response.headers.get("Content-Encoding", "identity").lower()
    if encoding not in {"", "identity"}:
        raise PlaceError("permanent", f"sent compressed as {encoding}", "the server must serve the file as it is")


def _check_head(head: bytes, total: int | None, response: http.client.HTTPResponse, wanted: Wanted) -> None:
    """Name an empty file, or a web page in place of the file, as portals serve for logins and errors."""
    if not head and total == 0:
        raise PlaceError("permanent", "an empty file", "the file is empty at its source: tell whoever serves it")
    page = head.lstrip(b"\xef\xbb\xbf \t\r\n")[:9].lower()
    looks = page.startswith((b"<!doctype", b"<html"))
    says = response.headers.get_content_type() in (
        "text/html",
        "application/xhtml+xml",
    ) and not head.startswith(b"root")
    if (looks or says) and wanted.suffix not in (".html", ".htm"):
        raise PlaceError(
            "permanent",
            f"an HTML page came instead of {wanted.suffix or 'the file'}",
            "open the address in a browser: it may ask for a login or show an error",
        )


@contextlib.contextmanager
def _network_errors(place: str) -> Iterator[None]:
    """Turn what the network throws into a `PlaceError`; its own messages may hold secrets and stay here."""
    try:
        yield
    except PlaceError:
        raise
    except (URLError, http.client.HTTPException, ConnectionError, TimeoutError, ssl.SSLError) as error:
        raise _network_failure(error, place) from None


def _network_failure(error: BaseException, place: str) -> PlaceError:
    cause = error.reason if isinstance(error, URLError) and isinstance(error.reason, BaseException) else error
    if isinstance(cause, ssl.SSLCertVerificationError):
        return PlaceError(
            "permanent",
            f"certificate not accepted: {cause.verify_message}",
            "check the clock and the certificates of this machine (SSL_CERT_FILE)",
        )
    if isinstance(cause, http.client.InvalidURL | ValueError):
        return PlaceError("permanent", "not a valid address", "correct the address")
    if isinstance(cause, socket.gaierror):
        return UnknownHostError(host_of(place))
    if isinstance(cause, TimeoutError):
        return PlaceError("transient", f"no byte for {TIMEOUT:g} s", "check the network; what came is kept")
    words = cause.strerror if isinstance(cause, OSError) and cause.strerror else type(cause).__name__
    return PlaceError("transient", redact(words), "check the network, or set HIGGSNB_MIRROR")


@contextlib.contextmanager
def _open(url: str, headers: dict[str, str], hosts: frozenset[str]) -> Iterator[http.client.HTTPResponse]:
    answer = _follow(url, headers, hosts)
    try:
        yield answer.response
    finally:
        answer.response.close()


def _follow(url: str, headers: dict[str, str], hosts: frozenset[str]) -> _Answer:
    """Send a request and follow its redirects, each only to an allowed host."""
    for redirects in range(MAX_REDIRECTS):
        response = _request(url, headers)
        target = response.headers.get("Location")
        if redirects and response.status in REFUSED_STATUS:  # a signed address lasts minutes, and a new one is free
            response.close()
            raise PlaceError("transient", f"{_status(response)} after a redirect", REFUSED_REMEDY)
        if response.status not in REDIRECT_STATUS or target is None:
            return _Answer(response, url)
        response.close()
        url = _redirected(url, urljoin(url, target), hosts)
    raise PlaceError("permanent", f"more than {MAX_REDIRECTS} redirects", "check the address in a browser")


def _redirected(url: str, target: str, hosts: frozenset[str]) -> str:
    old, new = urlsplit(url), urlsplit(target)
    if new.scheme not in ("http", "https") or (old.scheme, new.scheme) == ("https", "http"):
        raise PlaceError(
            "permanent",
            f"redirected from {old.scheme}: to {new.scheme}:, refused",
            "give the address to which it leads, if you trust it",
        )
    if host_of(target) not in hosts:
        raise PlaceError(
            "permanent",
            f"redirected to host {host_of(target)}, refused",
            f"if you trust that host: HIGGSNB_ALLOW_HOSTS={host_of(target)}",
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
        raise PlaceError("permanent", "not an http address", "correct the address")
    return response


@lru_cache(maxsize=1)
def _tls() -> ssl.SSLContext:
    """Certificates of the system; of certifi where it is installed and the user has named none."""
    if not os.environ.get("SSL_CERT_FILE") and importlib.util.find_spec("certifi") is not None:
        return ssl.create_default_context(cafile=importlib.import_module("certifi").where())
    return ssl.create_default_context()


def _probe_http(place: str, wanted: Wanted) -> Place:
    with _network_errors(place):
        answer = _follow(place, {"Range": "bytes=0-0"}, wanted.hosts)
        with contextlib.closing(answer.response) as response:
            if response.status == 416:  # as some servers answer for an empty file
                return Place(answer.url, None, False)
            _check_status(response)
            _check_encoding(response)
            total = _content_range(response)[1]
            _check_head(response.read(16), total, response, wanted)
            if response.status != 206 or total is None:
                log.warning("%s: the server does not give parts of files, fetching it whole", wanted.name)
                return Place(answer.url, None, False)
    if wanted.size is not None and total != wanted.size:
        raise OtherSizeError(total, wanted.size)
    return Place(answer.url, total, True)


# --- parts of a remote file


class RemoteFile(io.RawIOBase):
    """A remote file read piecewise, as a binary file object; transient faults are retried.

    Parameters
    ----------
    location
        What `locate` gave as the location of a source of origin "remote" or "mirror".
    size
        Its size in bytes.
    """

    def __init__(self, location: str, size: int) -> None:
        super().__init__()
        self.location, self.size = location, size
        self._wanted = Wanted.of(location, (), None, None)
        self._position = 0

    def pread(self, offset: int, size: int) -> bytes:
        """Read ``size`` bytes at ``offset``; safe to call from several threads.

        Raises
        ------
        TransferError
            If the server does not give them in `TRIES` tries.
        """
        tries = Tries(self.location, self._wanted)
        while True:
            try:
                try:
                    return _read_part(self.location, offset, size, self._wanted)
                except PlaceError as failure:
                    if failure.kind != "transient" and not self._may_be_renewed(failure):
                        raise
                    tries.failed(failure)
                    if failure.kind == "refused":
                        self._renew()
            except PlaceError as final:
                raise error_for(self._wanted, [(self.location, final)]) from None

    def _may_be_renewed(self, failure: PlaceError) -> bool:
        """Whether this is the refusal of an address to which a redirect led: it may have been valid for minutes."""
        return failure.kind == "refused" and _origins.get(self.location, ("", self.location))[1] != self.location

    def _renew(self) -> None:
        """Ask the place that redirected for its present address of the file."""
        origin = _origins[self.location]
        found = probe(origin.place, Wanted.of(origin.url, (origin.place,), self.size, None))
        self.location = found.location

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer from the current position."""
        size = min(len(buffer), self.size - self._position)
        if size <= 0:
            return 0
        buffer[:size] = self.pread(self._position, size)
        self._position += size
        return size

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move the current position."""
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self.size}[whence]
        self._position = max(0, origin + offset)
        return self._position

    def tell(self) -> int:
        """Return the current position."""
        return self._position

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True


def _read_part(location: str, offset: int, size: int, wanted: Wanted) -> bytes:
    """Ask once for a part of a file."""
    if scheme_of(location) == "root":
        return _read_part_root(location, offset, size)
    headers = {"Range": f"bytes={offset}-{offset + size - 1}"}
    with _network_errors(location), _open(location, headers, wanted.hosts) as response:
        _check_status(response)
        _check_encoding(response)
        if response.status != 206 or _content_range(response)[0] != offset:
            raise PlaceError("transient", f"did not send the part from byte {offset} that was asked for")
        data = response.read(size + 1)
    if len(data) != size:
        raise PlaceError("transient", f"sent {len(data)} of {size} bytes")
    return data


# --- xrootd


@contextlib.contextmanager
def _open_root(place: str) -> Iterator[Any]:
    """Open a file of an xrootd server, whose redirects to disk servers are its own and not checked here."""
    if importlib.util.find_spec("XRootD") is None:
        raise PlaceError(
            "skipped",
            "needs the Python package xrootd, which is not installed",
            "pip install xrootd, or give an https: address, or set HIGGSNB_MIRROR",
        )
    file = importlib.import_module("XRootD.client").File()
    _xrootd(file.open(place, timeout=_whole_timeout()))
    try:
        yield file
    finally:
        file.close()


def _whole_timeout() -> int:
    """Return the timeout as xrootd takes it, in whole seconds."""
    return max(1, int(TIMEOUT))


def _read_part_root(location: str, offset: int, size: int) -> bytes:
    """Ask an xrootd server once for a part of a file."""
    with _open_root(location) as file:
        data = bytes(_xrootd(file.read(offset=offset, size=size, timeout=_whole_timeout())))
    if len(data) != size:
        raise PlaceError("transient", f"sent {len(data)} of {size} bytes")
    return data


def _probe_root(place: str, wanted: Wanted) -> Place:
    with _open_root(place) as file:
        total = int(_xrootd(file.stat(timeout=_whole_timeout())).size)
    if wanted.size is not None and total != wanted.size:
        raise OtherSizeError(total, wanted.size)
    return Place(place, total, True)


def _append_root(place: str, part: Part, wanted: Wanted) -> None:
    with _open_root(place) as file:
        total = int(_xrootd(file.stat(timeout=_whole_timeout())).size)
        _refuse_other_size(total, part, wanted)
        done = part.size if wanted.adler32 is not None and part.size <= total else 0
        if not done:
            part.reset()
        while done < total:
            block = bytes(_xrootd(file.read(offset=done, size=16 * BLOCK, timeout=_whole_timeout())))
            if not block:
                raise PlaceError("transient", f"the file ended after {done} of {total} bytes")
            part.write(block)
            done += len(block)
            if wanted.progress is not None:
                wanted.progress(done, total)


def _xrootd(answer: tuple[Any, Any]) -> Any:
    """Unpack an xrootd call, whose errors come back as a status; 3010 and 3011 are the protocol's."""
    status, value = answer
    if status.ok:
        return value
    reason = redact(str(status.message)).strip().splitlines()[0]
    if status.errno == 3011:
        raise PlaceError("missing", reason)
    if status.errno == 3010:
        raise PlaceError("permanent", reason, "the server refuses: check that the file is public")
    raise PlaceError("transient", reason, "xrootd needs port 1094 open to the outside; https: does not")
