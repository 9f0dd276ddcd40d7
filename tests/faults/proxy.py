"""A TCP proxy between two programs that can cut their connections.

In a test::

    with Proxy("127.0.0.1:8786") as proxy:
        client = Client(f"tcp://{proxy.address}")
        proxy.cut(10)                                  # reset all connections, refuse new ones for 10 s

By hand, to see how a program copes with a bad network::

    python tests/faults/proxy.py 127.0.0.1:9000 127.0.0.1:8786 --cut-every 30 --cut-for 10
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import socket
import struct
import sys
import threading
from concurrent.futures import Future
from typing import Self

BLOCK = 1 << 16
NO_LINGER = struct.pack("ii", 1, 0)
"""SO_LINGER that makes `close` reset a connection, as a router does that has lost its state."""


class Proxy:
    """A proxy that runs in its own thread; a context manager.

    Parameters
    ----------
    target
        ``host:port`` to which connections are passed on.
    listen
        ``host:port`` to listen on; port 0 picks a free one, see ``address``.
    """

    def __init__(self, target: str, listen: str = "127.0.0.1:0") -> None:
        self._target = _split(target)
        self._host, self._port = _split(listen)
        self._writers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._back = threading.Event()
        self.cuts = 0
        self.refused_connections = 0
        self.passed_connections = 0

    @property
    def address(self) -> str:
        """``host:port`` that it listens on."""
        return f"{self._host}:{self._port}"

    def __enter__(self) -> Self:
        self._thread.start()
        self._call(self._open()).result(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._call(self._close()).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def cut(self, seconds: float) -> threading.Event:
        """Reset all connections and refuse new ones for some seconds; the event is set when it accepts them again."""
        back = threading.Event()
        self._call(self._cut(seconds, back)).result(10)
        return back

    def _call(self, coroutine: object) -> Future[None]:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)  # type: ignore[arg-type]

    async def _open(self) -> None:
        self._server = await asyncio.start_server(self._serve, self._host, self._port)
        self._port = self._server.sockets[0].getsockname()[1]

    async def _cut(self, seconds: float, back: threading.Event) -> None:
        await self._shut()
        self.cuts += 1
        self._loop.call_later(seconds, lambda: self._loop.create_task(self._return(back)))

    async def _return(self, back: threading.Event) -> None:
        await self._open()
        back.set()

    async def _shut(self) -> None:
        if self._server is not None:
            self._server.close()
        for writer in list(self._writers):
            with contextlib.suppress(OSError):
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)
            writer.transport.abort()

    async def _close(self) -> None:
        await self._shut()
        for _ in range(3):  # a connection accepted just before is served, and closed, only now
            await asyncio.sleep(0.01)
            await self._shut()
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        if others:
            await asyncio.wait(others, timeout=5)  # they end once their connections are closed

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            there_reader, there_writer = await asyncio.open_connection(*self._target)
        except OSError:
            self.refused_connections += 1
            self._writers.discard(writer)
            writer.transport.abort()
            return
        self.passed_connections += 1
        self._writers.add(there_writer)
        try:
            await asyncio.gather(_pipe(reader, there_writer), _pipe(there_reader, writer))
        finally:
            for end in (writer, there_writer):
                self._writers.discard(end)
                end.transport.abort()


async def _pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Pass on all data until the connection ends."""
    with contextlib.suppress(OSError):
        while block := await reader.read(BLOCK):
            writer.write(block)
            await writer.drain()
        writer.write_eof()


def _split(address: str) -> tuple[str, int]:
    """Return host and port of ``host:port`` or ``tcp://host:port``."""
    host, _, port = address.rpartition("//")[2].rpartition(":")
    return host, int(port)


def main() -> None:
    """Run the proxy until Ctrl-C, with cuts if requested."""
    parser = argparse.ArgumentParser(description="A TCP proxy that cuts connections.")
    parser.add_argument("listen", metavar="LISTEN", help="host:port to listen on")
    parser.add_argument("target", metavar="TARGET", help="host:port to pass connections to")
    parser.add_argument("--cut-every", type=float, metavar="SECONDS", help="interval between cuts of all connections")
    parser.add_argument("--cut-for", type=float, default=1.0, metavar="SECONDS", help="how long new ones are refused")
    options = parser.parse_args()
    waiting = threading.Event()
    with Proxy(options.target, options.listen) as proxy, contextlib.suppress(KeyboardInterrupt):
        sys.stderr.write(f"{proxy.address} -> {options.target}\n")
        while not waiting.wait(options.cut_every):
            back = proxy.cut(options.cut_for)
            sys.stderr.write(f"cut number {proxy.cuts}: {proxy.passed_connections} connections so far\n")
            back.wait()


if __name__ == "__main__":
    main()
