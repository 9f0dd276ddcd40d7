"""A small real web server for tests: files from memory, Range, ETag, and faults on request."""

from __future__ import annotations

import re
import socket
import struct
import threading
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self
from urllib.parse import unquote


@dataclass(frozen=True)
class Fault:
    """How to answer wrongly. ``times`` requests are answered so; None = all."""

    status: int | None = None  # answer with this status and ``body``
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    drop_after: int | None = None  # announce the whole body, close the connection after so many bytes
    short: int | None = None  # announce and send only so many bytes
    flip: int | None = None  # invert one bit of this byte of the file
    reset: bool = False  # reset the connection without an answer
    stall: bool = False  # accept the request, but do not answer until the server closes
    times: int | None = 1


@dataclass(frozen=True)
class Seen:
    """A request that arrived."""

    method: str
    path: str
    headers: Mapping[str, str]


class FileServer:
    """Serves `files` on 127.0.0.1 at a free port until `close`."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.faults: dict[str, list[Fault]] = defaultdict(list)
        self.seen: list[Seen] = []
        self.ranges = True
        self.etags = True
        self.content_type = "application/octet-stream"
        self.closing = threading.Event()
        self._lock = threading.Lock()
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.owner = self
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def add(self, path: str, data: bytes) -> str:
        """Serve ``data`` under ``path``; returns its address."""
        self.files[path] = data
        return self.base + path

    def fail(self, path: str, *faults: Fault) -> None:
        """Answer the next requests for ``path`` with these faults, in this order."""
        self.faults[path].extend(faults)

    def take(self, path: str) -> Fault | None:
        with self._lock:
            queue = self.faults.get(path)
            if not queue:
                return None
            fault = queue[0]
            if fault.times is not None:
                queue[:1] = [] if fault.times == 1 else [Fault(**{**vars(fault), "times": fault.times - 1})]
            return fault

    def choose(self, seen: Seen, path: str) -> Fault | None:  # noqa: ARG002 - for subclasses
        """The fault with which to answer this request; None for a good answer."""
        return self.take(path)

    def note(self, seen: Seen) -> None:
        with self._lock:
            self.seen.append(seen)

    def ranges_asked(self) -> list[str | None]:
        """The Range header of every request so far."""
        return [seen.headers.get("range") for seen in self.seen]

    def close(self) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128  # with the default of 5, a dozen threads lose connections and wait a second to retry
    owner: FileServer

    def handle_error(self, request: object, client_address: object) -> None:
        """Do not report clients that hang up."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name in the base class
        """Log nothing."""

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        owner, path = self.server.owner, unquote(self.path.partition("?")[0])
        seen = Seen(self.command, self.path, {key.lower(): value for key, value in self.headers.items()})
        owner.note(seen)
        fault = owner.choose(seen, path) or Fault()
        if fault.reset:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
        elif fault.stall:
            owner.closing.wait(30)
        elif fault.status is not None:
            self._send(fault.status, dict(fault.headers), fault.body if body else b"", len(fault.body))
        elif path not in owner.files:
            self._send(404, {"Content-Type": "text/html"}, b"<html>no</html>" if body else b"", 15)
        else:
            self._file(owner.files[path], fault, body=body)

    def _file(self, data: bytes, fault: Fault, *, body: bool) -> None:
        owner = self.server.owner
        headers = {"Content-Type": owner.content_type, **fault.headers}
        tag = f'"{hash(data):x}"'
        if owner.etags:
            headers["ETag"] = tag
        if fault.flip is not None:
            data = data[: fault.flip] + bytes([data[fault.flip] ^ 1]) + data[fault.flip + 1 :]
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")) if owner.ranges else None
        status, part = 200, data
        if match and self.headers.get("If-Range", tag) == tag:
            first, last = int(match[1]), int(match[2] or len(data) - 1)
            if first >= len(data):
                self._send(416, {"Content-Range": f"bytes */{len(data)}"}, b"", 0)
                return
            status, part = 206, data[first : last + 1]
            headers["Content-Range"] = f"bytes {first}-{first + len(part) - 1}/{len(data)}"
        part = part[: fault.short]
        self._send(status, headers, part[: fault.drop_after] if body else b"", len(part))

    def _send(self, status: int, headers: dict[str, str], body: bytes, length: int) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(length))
        self.end_headers()
        self.wfile.write(body)
