"""A real server for tests that sends exactly the bytes it is told to, and when: what no well-behaved server would."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Self

Answer = Callable[[int, int | None], Iterable[bytes]]
"""From the first and last byte that were requested (0 and None without Range) to the pieces that are sent."""
OK = b"HTTP/1.1 200 OK\r\n"


def partial(body: bytes, first: int, total: object, *headers: bytes) -> bytes:
    """A complete answer with a part of a file."""
    span = f"Content-Range: bytes {first}-{first + len(body) - 1}/{total}"
    return b"\r\n".join((b"HTTP/1.1 206 Partial Content", span.encode(), *headers, b"", body))


class RawServer:
    """Answers a request for ``/name.suffix`` with the pieces of ``answers["name"]``, then closes the connection.

    A piece that is empty is a pause of ``pause`` seconds.
    """

    def __init__(self, pause: float = 0.05) -> None:
        self.answers: dict[str, Answer] = {}
        self.pause = pause
        self.n_requests = 0
        self._closing = threading.Event()
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.set()
        with socket.create_connection(self._socket.getsockname()):  # ends the wait for the next connection
            self._thread.join()
        self._socket.close()

    def url(self, name: str, answer: Answer | bytes) -> str:
        """Answer requests for this file so; returns its address."""
        self.answers[name.partition(".")[0]] = answer if callable(answer) else lambda *_: [answer]
        return f"http://127.0.0.1:{self._socket.getsockname()[1]}/{name}"

    def _accept(self) -> None:
        while not self._closing.is_set():
            connection, _ = self._socket.accept()
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        with connection:
            request = b""
            while b"\r\n\r\n" not in request:
                received = connection.recv(65536)
                if not received:
                    return
                request += received
            self.n_requests += 1
            span = re.search(rb"Range: bytes=(\d+)-(\d*)", request)
            first, last = (int(span[1]), int(span[2]) if span[2] else None) if span else (0, None)
            name = request.split()[1].decode("latin-1").lstrip("/").partition(".")[0]
            try:
                for piece in self.answers[name](first, last):
                    if self._closing.is_set():
                        return
                    if piece:
                        connection.sendall(piece)
                    else:
                        self._closing.wait(self.pause)
            except OSError:  # the client has had enough
                return
