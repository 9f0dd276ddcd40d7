"""Files over HTTP: one request for all of it, a part or its size; redirects only to allowed hosts."""

from __future__ import annotations

import contextlib
import email.utils
import http.client
import importlib
import importlib.util
import io
import os
import re
import shutil
import socket
import ssl
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from http.client import HTTPResponse
from typing import Any
from urllib.error import URLError
from urllib.parse import quote, unquote, urljoin, urlunsplit
from urllib.request import AbstractHTTPHandler, OpenerDirector, ProxyHandler, Request

from higgsnb.datasets.files import retries
from higgsnb.datasets.files.addresses import Address
from higgsnb.datasets.files.request import (
    BLOCK,
    FileRequest,
    OtherSizeError,
    PartialDownload,
    RemoteInfo,
    ReplacedError,
    SourceError,
    UnknownHostError,
)
from higgsnb.datasets.files.retries import Pace
from higgsnb.datasets.files.versions import Version
from higgsnb.redaction import logger, redact

log = logger(__name__)

MAX_REDIRECTS = 10
TRANSIENT_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})
REFUSED_STATUS = frozenset({401, 403})
REFUSED_HINT = "The server refuses access: check that the file is public and that a token in its address is valid."
REDIRECT_STATUS = frozenset({301, 302, 303, 307, 308})
INVALID_HINT = "The server does not answer as HTTP demands: try another address of the file."


def download(source: Address, partial: PartialDownload, request: FileRequest) -> None:
    """Append what is missing of a file, in one request; start again where it cannot be resumed."""
    before = partial.version(source)
    validator = before and (before.tag if before.tag.startswith('"') else before.modified)  # If-Range takes no weak tag
    # Kept bytes are judged by the checksum of the whole file, or the server can vouch for them.
    judged = request.adler32 is not None or validator
    if partial.size and not (judged and (request.size is None or partial.size <= request.size)):
        partial.reset()
    offset = partial.size
    if request.size is not None and offset == request.size:
        return
    headers = {"Range": f"bytes={offset}-"} if offset else {}
    if offset and validator:
        headers["If-Range"] = validator
    with _open(source, headers, request.hosts) as (response, _):
        start, total = _content_range(response)
        if response.status == 416 and offset:
            if total == offset:
                return
            partial.reset()
            raise SourceError("transient", "cannot resume there")
        _check_answer(response)
        if response.status != 206:
            if offset:
                log.info("%s: the server does not resume, starting again", request.address.name)
            partial.reset()
            total = _content_length(response)
        version = Version.of_answer(response.headers, total)
        if response.status == 206:
            _check_rest(partial, before, version, start)
        head = _read(response.read, 512)
        if partial.size == 0:
            _check_head(head, total, response, request)
        request.check_offered_size(total)
        partial.note_origin(source, version)
        _copy(response, head, partial, total, request)


def _check_rest(partial: PartialDownload, before: Version | None, version: Version, start: int | None) -> None:
    """Discard what has arrived and raise `SourceError` if the answer does not continue it."""
    difference = before.difference(version) if partial.size and before is not None else ""
    if start != partial.size:
        difference = f"sent bytes from {start}, requested from {partial.size}"
    if difference:
        partial.reset()
        raise SourceError("transient", f"cannot resume there: {difference}")


def probe(source: Address, request: FileRequest) -> RemoteInfo:
    """Request the first byte of a file: where redirects lead, its size, and whether parts of it can be read."""
    with _open(source, {"Range": "bytes=0-0"}, request.hosts) as (response, address):
        if response.status == 416:  # as some servers answer for an empty file
            return RemoteInfo(address, None, False)
        _check_answer(response)
        total = _content_range(response)[1]
        _check_head(_read(response.read, 16), total, response, request)
        if response.status != 206 or total is None:
            size = _content_length(response) if response.status == 200 else None
            return RemoteInfo(address, None, False, Version.of_answer(response.headers, size))
        version = Version.of_answer(response.headers, total)
    request.check_offered_size(total)
    return RemoteInfo(address, total, True, version)


def read_range(source: Address, offset: int, size: int, request: FileRequest, version: Version) -> bytes:
    """Read ``size`` bytes at ``offset``, in one request; `ReplacedError` if they are of another version."""
    headers = {"Range": f"bytes={offset}-{offset + size - 1}"}
    with _open(source, headers, request.hosts) as (response, _):
        _check_answer(response)
        start, total = _content_range(response)
        if response.status != 206 or start != offset:
            raise SourceError("transient", f"did not send the part from byte {offset} that was requested")
        found = Version.of_answer(response.headers, total)
        if difference := version.difference(found):
            raise ReplacedError(difference, version.hint(found))
        data = _read(response.read, size + 1)
    if len(data) != size:
        raise SourceError("transient", f"sent {len(data)} of {size} bytes")
    return data


# --- Answers -------------------------------------------------------------------------------------------------


def _copy(
    response: HTTPResponse, block: bytes, partial: PartialDownload, total: int | None, request: FileRequest
) -> None:
    """Write ``block``, then the rest of the body; give up a body that may have no end."""
    done, length = partial.size, request.size if total is None else total
    deadline = time.monotonic() + retries.UNANNOUNCED_TIMEOUTS * retries.TIMEOUT
    free = shutil.disk_usage(partial.path.parent).free
    if (length or 0) - done > free:  # before the disk of others is full as well
        what = f"announced {length:,} bytes, {free:,} are free in the cache"
        hint = "Is the file so large? Then free some space, or set HIGGSNB_CACHE to a folder with more."
        raise SourceError("permanent", what, hint)
    while block:
        done += len(block)
        request.check_text_size(done)
        if length is None and time.monotonic() > deadline:
            what = f"announced no length, and did not end in {retries.UNANNOUNCED_TIMEOUTS * retries.TIMEOUT:g} s"
            hint = "Give the number of bytes of the file in the campaign, or download it."
            raise OtherSizeError("permanent", what, hint)
        partial.write(block)
        if request.progress is not None:
            request.progress(done, total)
        block = b"" if length is not None and done >= length else _read(response.read1, BLOCK)
    if total is not None and done < total:
        raise SourceError("transient", f"the body ended after {done} of {total} bytes", "Run the same command again.")
    if total is not None and done > total:
        partial.reset()
        raise SourceError("transient", f"sent {done} bytes, announced {total}")


def _read(read: Callable[[int], bytes], size: int) -> bytes:
    """Read from a body; an error of the network becomes a `SourceError`, unlike one of the disk."""
    try:
        return read(size)
    except OSError as error:
        raise _network_failure(error, "") from None
    except ValueError:
        raise SourceError("transient", "sent a chunk with an impossible length", INVALID_HINT) from None


def _content_range(response: HTTPResponse) -> tuple[int | None, int | None]:
    """Return first byte and size of the whole file from ``Content-Range: bytes 5-9/10`` or ``bytes */10``."""
    text = response.headers.get("Content-Range", "").strip()
    match = re.fullmatch(r"bytes (?:([0-9]{1,18})-[0-9]{1,18}|\*)/(?:([0-9]{1,18})|\*)", text)
    if match is None:
        return None, None
    return (None if match[1] is None else int(match[1])), (None if match[2] is None else int(match[2]))


def _content_length(response: HTTPResponse) -> int | None:
    """Return the announced length of the body, None if there is none; `SourceError` for one that is no such number."""
    texts = {text.strip() for text in response.headers.get_all("Content-Length", [])}
    if not texts:
        return None
    if len(texts) > 1 or not re.fullmatch("[0-9]{1,18}", min(texts)):
        raise SourceError("transient", f"announced a length of {', '.join(sorted(texts))[:40]!a}", INVALID_HINT)
    return int(min(texts))


def _check_answer(response: HTTPResponse) -> None:
    """Raise `SourceError` for a status other than 200 and 206, or a body in another encoding."""
    status, reason = response.status, _status(response)
    if status in (404, 410):
        raise SourceError("missing", reason)
    if status in REFUSED_STATUS:
        raise SourceError("refused", reason, REFUSED_HINT)
    if status in TRANSIENT_STATUS:
        wait, text = None, response.headers.get("Retry-After", "")
        with contextlib.suppress(ValueError):  # it holds seconds or a date; anything else is ignored
            date = None if text.strip().isdigit() else email.utils.parsedate_to_datetime(text).timestamp()
            wait = float(text) if date is None else max(0.0, date - time.time())
        raise SourceError("transient", reason, "The server is busy or down: run the same command again later.", wait)
    if status not in (200, 206):
        raise SourceError("permanent", reason, "Check the address in a browser.")
    encoding = response.headers.get("Content-Encoding", "").lower()
    if encoding not in ("", "identity"):
        raise SourceError("permanent", f"sent compressed as {encoding}", "The server must send the file as it is.")


def _status(response: HTTPResponse) -> str:
    return f"{response.status} {http.client.responses.get(response.status, '')}".strip()


def _check_head(head: bytes, total: int | None, response: HTTPResponse, request: FileRequest) -> None:
    """Raise `SourceError` for an empty file, or for the web page that a portal sends for a login or an error."""
    if not head and total == 0:
        raise SourceError("permanent", "an empty file", "The file is empty at its source: contact its provider.")
    suffix, begin = request.address.suffix, head.lstrip(b"\xef\xbb\xbf \t\r\n")[:9].lower()
    announced = response.headers.get_content_type() in ("text/html", "application/xhtml+xml")
    is_page = begin.startswith((b"<!doctype", b"<html")) or (announced and not head.startswith(b"root"))
    if is_page and suffix not in (".html", ".htm"):
        hint = "Open the address in a browser: it may ask for a login or show an error."
        raise SourceError("permanent", f"an HTML page came instead of {suffix or 'the file'}", hint)


# --- Requests ------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _open(source: Address, headers: dict[str, str], hosts: frozenset[str]) -> Iterator[tuple[HTTPResponse, Address]]:
    """Send a request and follow its redirects, each only to an allowed host; yield the answer and where it came from.

    An exception of the network becomes a `SourceError`; its own message is dropped, as it may hold secrets.
    """
    address = source
    try:
        pace = Pace()
        for redirects in range(MAX_REDIRECTS):
            response = _request(address, headers, pace)
            target = response.headers.get("Location")
            if redirects and response.status in REFUSED_STATUS:  # a signed address is valid for minutes only
                response.close()
                raise SourceError("transient", f"{_status(response)} after a redirect", REFUSED_HINT)
            if response.status not in REDIRECT_STATUS or target is None:
                break
            response.close()
            address = _redirected(address, target, hosts)
        else:
            raise SourceError("permanent", f"more than {MAX_REDIRECTS} redirects", "Check the address in a browser.")
        pace.begin_body()
        with contextlib.closing(response):
            yield response, address
    except (URLError, http.client.HTTPException, ConnectionError, TimeoutError, ssl.SSLError) as error:
        raise _network_failure(error, source.host) from None


def _network_failure(error: BaseException, host: str) -> SourceError:
    cause = error.reason if isinstance(error, URLError) and isinstance(error.reason, BaseException) else error
    if isinstance(cause, ssl.SSLCertVerificationError):
        hint = "Check the clock and the certificates of this machine (SSL_CERT_FILE)."
        return SourceError("permanent", f"certificate not accepted: {cause.verify_message}", hint)
    if isinstance(cause, http.client.InvalidURL | ValueError):
        return SourceError("permanent", "not a valid address", "Correct the address.")
    if isinstance(cause, socket.gaierror):
        return UnknownHostError("transient", f"host {host} not known", "Check the network, or set HIGGSNB_MIRROR.")
    if isinstance(cause, TimeoutError):
        return SourceError("transient", f"no byte for {retries.TIMEOUT:g} s", "Check the network, then run again.")
    invalid = isinstance(cause, http.client.HTTPException) and not isinstance(cause, OSError)
    hint = INVALID_HINT if invalid else "Check the network, or set HIGGSNB_MIRROR."
    return SourceError("transient", redact(_words_of(cause)), hint)


def _words_of(error: BaseException) -> str:
    """Return what happened to an answer."""
    if isinstance(error, http.client.RemoteDisconnected):
        return "closed the connection without an answer"
    if isinstance(error, http.client.LineTooLong):
        return "sent more than 65,536 bytes as one line of the headers, or as the length of a chunk"
    if isinstance(error, http.client.IncompleteRead):
        return "closed the connection within a chunk of the body"
    if type(error) is http.client.HTTPException:  # of which it raises no other
        return "sent more than 100 headers"
    if isinstance(error, http.client.HTTPException):
        return "did not answer with HTTP"
    return error.strerror if isinstance(error, OSError) and error.strerror else type(error).__name__


def _redirected(old: Address, target: str, hosts: frozenset[str]) -> Address:
    """Return the address to which a redirect leads; a password goes along only to the same server."""
    try:
        new = Address.of(urljoin(old.text, target))
    except ValueError:
        new = Address(target, valid=False)
    if not new.valid or new.scheme not in ("http", "https") or (old.scheme, new.scheme) == ("https", "http"):
        leads = f"redirected from {old.scheme}: to {f'{new.scheme}:' if new.valid else 'an invalid address'}, refused"
        raise SourceError("permanent", leads, "Give the address to which it leads, if you trust it.")
    if new.host not in hosts:
        hint = f"If you trust that host, set HIGGSNB_ALLOW_HOSTS={new.host}."
        raise SourceError("permanent", f"redirected to host {new.host}, refused", hint)
    user, _, _ = old.authority.rpartition("@")
    if user and "@" not in new.authority and (old.scheme, old.server) == (new.scheme, new.server):
        return Address.of(new.text.replace("://", f"://{user}@", 1))
    return new


def _request(address: Address, headers: dict[str, str], pace: Pace) -> HTTPResponse:
    """Send one request, no redirects. A password in the address goes into a header, for this host only."""
    user, _, host = address.authority.rpartition("@")
    if not host.isascii():  # then it is a name, as `Address.valid` has it
        name, colon, port = host.partition(":")
        host = f"{name.encode('idna').decode()}{colon}{port}"
    path, query = quote(address.path, safe="/%:=&+,;~!$'()*@"), address.query.replace(" ", "%20")
    headers = {"Accept-Encoding": "identity", "User-Agent": "higgsnb", **headers}
    request = Request(urlunsplit((address.scheme, host, path, query, "")), headers=headers)  # noqa: S310 see below
    if user:
        request.add_unredirected_header("Authorization", "Basic " + b64encode(unquote(user).encode()).decode())
    opener = OpenerDirector()  # only http and https; no handler for redirects and errors: answers come back as they are
    for handler in (ProxyHandler(), _PacedHandler(pace)):
        opener.add_handler(handler)
    response = opener.open(request, timeout=pace.timeout())
    if not isinstance(response, HTTPResponse):
        raise SourceError("permanent", "not an http address", "Correct the address.")
    return response


class _PacedHandler(AbstractHTTPHandler):
    """Opens http and https addresses; all that their servers send arrives at a `Pace`, also what a proxy sends."""

    def __init__(self, pace: Pace) -> None:
        super().__init__()
        self._response = partial(_PacedResponse, pace=pace)
        self.http_request = self.https_request = self.do_request_

    def http_open(self, request: Request) -> HTTPResponse:
        return self.do_open(partial(self._connect, http.client.HTTPConnection), request)

    def https_open(self, request: Request) -> HTTPResponse:
        return self.do_open(partial(self._connect, http.client.HTTPSConnection, context=_tls()), request)

    def _connect(self, kind: type[http.client.HTTPConnection], host: str, **options: Any) -> http.client.HTTPConnection:
        connection = kind(host, **options)
        connection.response_class = self._response  # type: ignore[assignment] # called, not derived from
        return connection


class _PacedResponse(HTTPResponse):
    """An answer whose status, headers and body are read through a `Pace`."""

    def __init__(self, sock: socket.socket, *arguments: Any, pace: Pace, **options: Any) -> None:
        super().__init__(sock, *arguments, **options)
        self.fp = io.BufferedReader(_PacedSocket(self.fp, sock, pace))


class _PacedSocket(io.RawIOBase):
    """The bytes of a socket; ``file`` is its own file object, which keeps it open."""

    def __init__(self, file: io.BufferedReader, sock: socket.socket, pace: Pace) -> None:
        super().__init__()
        self._file, self._socket, self._pace = file, sock, pace

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while True:
            self._socket.settimeout(self._pace.timeout())
            before = time.monotonic()
            try:
                size = self._socket.recv_into(buffer)
            except TimeoutError:
                self._pace.received(0, time.monotonic() - before)
            else:
                if size:  # else the connection was closed
                    self._pace.received(size, time.monotonic() - before)
                return size

    def close(self) -> None:
        self._file.close()
        super().close()


@lru_cache(maxsize=1)
def _tls() -> ssl.SSLContext:
    """Trust the system's certificates, or those of certifi where it is installed and SSL_CERT_FILE is not set."""
    if not os.environ.get("SSL_CERT_FILE") and importlib.util.find_spec("certifi") is not None:
        return ssl.create_default_context(cafile=importlib.import_module("certifi").where())
    return ssl.create_default_context()
