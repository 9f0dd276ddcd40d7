"""One process that has imported everything and forks the others: a scheduler, worker or client in 10 ms, not 2 s.

The processes are real ones, with their own ids, memory and TCP connections on loopback; only the imports are shared. A
`Zygote` is made and used in the test process::

    with Zygote(folder) as zygote:
        scheduler = zygote.fork("killers:scheduler")
        address = scheduler.said("address", timeout=10)
        worker = zygote.fork("killers:worker", address=address, again=True)   # forked again when it ends, as by a nanny
        worker.kill()
    # nothing is left; `Zygote.close` raises an error if a grandchild had to be ended by force

How: the forked server runs no threads while it forks. It is a subreaper, so that the children of a child that was
killed become its own, and it ends with everything below it when the test process does.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import gc
import importlib
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn, Self

HERE = Path(__file__).resolve().parent
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
MESSAGE_BYTES = 1 << 16
FAILED = 70
"""Exit code of a child whose function raised; the traceback is in its log."""
NOTHING: dict[str, Any] = {"children": [], "orphans": {}}
"""The census when nothing runs."""
STACKS = "most recent call first"
"""In what faulthandler writes."""
PATIENCE = 30.0
"""Deadline in seconds for what takes milliseconds on an idle machine."""


def poll(condition: Callable[[], object], timeout: float) -> bool:
    """Ask every 20 ms whether something has come that nobody tells of, a line in a file say; return whether it has."""
    deadline, ticks = time.monotonic() + timeout, threading.Event()
    while not (found := bool(condition())) and time.monotonic() < deadline:
        ticks.wait(0.02)
    return found


@dataclass
class Child:
    """One forked process, seen from the test process. With ``again`` it has a new pid after each death."""

    number: int
    zygote: Zygote = field(repr=False)
    log: Path
    pids: list[int] = field(default_factory=list)
    codes: list[int] = field(default_factory=list)
    messages: list[dict[str, Any]] = field(default_factory=list)

    @property
    def pid(self) -> int:
        """The present, or last, process id."""
        return self.pids[-1]

    def kill(self, sent: int = signal.SIGKILL) -> None:
        """Send a signal, SIGKILL unless told, if it still runs."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, sent)

    def wait(self, timeout: float, *, times: int = 1) -> int | None:
        """Exit code (negative: the signal) of its ``times``-th end, or None if it has not come by then."""
        if self.zygote.until(lambda: len(self.codes) >= times, timeout):
            return self.codes[times - 1]
        return None

    def join(self, timeout: float) -> int:
        """Exit code; where the end has not come by then, AssertionError with its log and what it was doing."""
        code = self.wait(timeout)
        if code is None:
            self.kill(signal.SIGUSR1)
            poll(lambda: STACKS in self.text, 5.0)
            raise AssertionError(f"process {self.pid} did not end within {timeout} s\n{self.text}")
        return code

    def said(self, name: str, *, timeout: float = PATIENCE, times: int = 1) -> Any:
        """What the child reported under a name the ``times``-th time; AssertionError with its log if it does not."""

        def heard() -> list[Any]:
            return [message[name] for message in self.messages if name in message]

        self.zygote.until(lambda: len(heard()) >= times or (self.codes and not self.zygote.forks_again(self)), timeout)
        if len(heard()) < times:
            raise AssertionError(f"nothing heard of {name!r} from process {self.pids}; codes {self.codes}\n{self.text}")
        return heard()[times - 1]

    @property
    def text(self) -> str:
        """What it wrote to stdout and stderr."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""


class Zygote:
    """The server process, seen from the test process; a context manager."""

    def __init__(self, folder: Path, **environment: str) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._changed = threading.Condition()
        self._children: dict[int, Child] = {}
        self._again: set[int] = set()
        self._census: dict[str, Any] | None = None
        self._ready = self._over = False
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        paths = [str(HERE), str(HERE.parent / "kit"), str(HERE.parent.parent), os.environ.get("PYTHONPATH", "")]
        variables = {
            **os.environ, "PYTHONPATH": os.pathsep.join(p for p in paths if p), "OPENBLAS_NUM_THREADS": "1",
            "OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg", "ARROW_DEFAULT_MEMORY_POOL": "system",
            "JE_ARROW_MALLOC_CONF": "background_thread:false", **environment,
        }  # fmt: skip
        with theirs, (folder / "zygote.log").open("wb") as log:
            command = [sys.executable, str(HERE / "zygote.py"), str(theirs.fileno()), str(folder)]
            self._server = subprocess.Popen(
                command, pass_fds=[theirs.fileno()], env=variables, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        self._reader = threading.Thread(target=self._listen, name="zygote", daemon=True)
        self._reader.start()
        if not self.until(lambda: self._ready or self._over, 2 * PATIENCE) or self._over:
            self.close()
            raise RuntimeError(f"the zygote did not start\n{(folder / 'zygote.log').read_text()}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def fork(
        self, call: str, *, again: bool = False, environment: dict[str, str] | None = None, **options: Any
    ) -> Child:
        """Fork a process that calls ``module:function`` with these options (plain JSON); with ``again`` for ever."""
        with self._changed:
            number = len(self._children)
            child = Child(number, self, self.folder / f"{number:03d}-{call.partition(':')[2]}.log")
            self._children[number] = child
            if again:
                self._again.add(number)
        self._send({"fork": number, "call": call, "options": options, "environment": environment or {},
                    "again": again, "log": str(child.log)})  # fmt: skip
        if not self.until(lambda: bool(child.pids) or self._over, PATIENCE) or not child.pids:
            raise RuntimeError(f"the zygote did not fork {call}")
        return child

    def retire(self, *children: Child, timeout: float = PATIENCE) -> None:
        """End children for good and wait for it."""
        for child in children:
            self._send({"retire": child.number})
            with self._changed:
                self._again.discard(child.number)
        self.until(lambda: all(len(c.codes) == len(c.pids) for c in children), timeout)

    def forks_again(self, child: Child) -> bool:
        """Whether the child is replaced when it ends."""
        return child.number in self._again

    def until(self, condition: Callable[[], object], timeout: float) -> bool:
        """Wait for something that changes with the messages of the processes; return whether it came."""
        with self._changed:
            return bool(self._changed.wait_for(condition, timeout))

    def census(self) -> dict[str, Any]:
        """``children``: pids of those that run, ``orphans``: {pid: command} of processes that those left behind."""
        self._census = None
        self._send({"census": True})
        self.until(lambda: self._census is not None or self._over, PATIENCE)
        return self._census or NOTHING

    def left(self, *, within: float) -> dict[str, Any]:
        """The census after at most so many seconds, as soon as nothing is left."""
        return NOTHING if poll(lambda: self.census() == NOTHING, within) else self.census()

    def close(self) -> None:
        """End everything."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)
        try:
            self._server.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._server.kill()
            self._server.wait(PATIENCE)
        self._reader.join(PATIENCE)
        self._socket.close()

    def _send(self, message: dict[str, Any]) -> None:
        """Tell the server something."""
        self._socket.send(json.dumps(message).encode())

    def _listen(self) -> None:
        """Note what the server and its children say, until they are gone."""
        while True:
            try:
                packet = self._socket.recv(MESSAGE_BYTES)
            except OSError:
                packet = b""
            with self._changed:
                if not packet:
                    self._over = True
                else:
                    self._note(json.loads(packet))
                self._changed.notify_all()
            if not packet:
                return

    def _note(self, message: dict[str, Any]) -> None:
        """Sort one message."""
        if "ready" in message:
            self._ready = True
        elif "census" in message:
            self._census = message["census"]
        elif "forked" in message:
            self._children[message["forked"]].pids.append(message["pid"])
        elif "ended" in message:
            self._children[message["ended"]].codes.append(message["code"])
        else:
            self._children[message["child"]].messages.append(message["said"])


@contextlib.contextmanager
def forking(folder: Path) -> Iterator[Zygote]:
    """A zygote with a cache of its own, under which nothing may be left in the end."""
    with Zygote(folder, HIGGSNB_CACHE=str(folder / "cache")) as zygote:
        yield zygote
        left = zygote.left(within=PATIENCE)
        if left != NOTHING:
            raise AssertionError(f"processes are left: {left}")


# --- in the child ----------------------------------------------------------------------------------------------


class _Here:
    """What a forked child knows of itself."""

    socket: socket.socket | None = None
    number = -1


def say(**values: Any) -> None:
    """Report something to the test process, see `Child.said`; nothing happens in a process that was not forked here."""
    if _Here.socket is not None:
        _Here.socket.send(json.dumps({"child": _Here.number, "said": values}).encode())


# --- in the server ---------------------------------------------------------------------------------------------


def _prctl(option: int, value: int) -> None:
    ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


class _Server:
    """Forks on request, reports ends, forks again what has to be there always."""

    def __init__(self, channel: socket.socket, folder: Path) -> None:
        self.channel, self.folder = channel, folder
        self.orders: dict[int, dict[str, Any]] = {}
        self.running: dict[int, int] = {}
        self.over = False
        self.wake, self.woken = socket.socketpair()
        for end in (self.wake, self.woken):
            end.setblocking(False)

    def serve(self) -> None:
        """Serve until the test process hangs up; then end everything."""
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self.woken.fileno())
        with selectors.DefaultSelector() as selector:
            selector.register(self.channel, selectors.EVENT_READ)
            selector.register(self.wake, selectors.EVENT_READ)
            self._tell({"ready": True})
            while not self.over:
                for key, _ in selector.select():
                    if key.fileobj is self.channel:
                        self._order()
                    else:
                        self.wake.recv(4096)
                self._reap()
        for pid in (*self.running, *_children_of(os.getpid())):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, _ = os.waitpid(-1, 0)
                for orphan in _children_of(os.getpid()):  # the children of the one that has just ended
                    os.kill(orphan, signal.SIGKILL)

    def _tell(self, message: dict[str, Any]) -> None:
        with contextlib.suppress(OSError):
            self.channel.send(json.dumps(message).encode())

    def _order(self) -> None:
        packet = self.channel.recv(MESSAGE_BYTES)
        if not packet:
            self.over = True
            return
        order = json.loads(packet)
        if "fork" in order:
            self.orders[order["fork"]] = order
            self._fork(order)
        elif "retire" in order:
            self.orders[order["retire"]]["again"] = False
            for pid in [pid for pid, number in self.running.items() if number == order["retire"]]:
                os.kill(pid, signal.SIGKILL)
        elif "census" in order:
            found = {pid: name for pid in _children_of(os.getpid()) if (name := _command(pid))}
            orphans = {str(pid): name for pid, name in found.items() if pid not in self.running}
            self._tell({"census": {"children": list(self.running), "orphans": orphans}})

    def _fork(self, order: dict[str, Any]) -> None:
        pid = os.fork()
        if pid == 0:
            self._child(order)
        self.running[pid] = order["fork"]
        self._tell({"forked": order["fork"], "pid": pid})

    def _reap(self) -> None:
        while self.running or _children_of(os.getpid()):
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            number = self.running.pop(pid, None)
            if number is not None:
                self._tell({"ended": number, "code": os.waitstatus_to_exitcode(status)})
                if self.orders[number]["again"]:
                    self._fork(self.orders[number])

    def _child(self, order: dict[str, Any]) -> NoReturn:
        code = FAILED
        try:
            _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            self.wake.close()
            self.woken.close()
            log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(log, 1)
            os.dup2(log, 2)
            faulthandler.register(signal.SIGUSR1, file=sys.__stderr__)
            os.environ.update(order["environment"])
            _Here.socket, _Here.number = self.channel, order["fork"]
            module, _, function = order["call"].partition(":")
            code = int(getattr(importlib.import_module(module), function)(**order["options"]) or 0)
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
        except BaseException:  # noqa: BLE001 - whatever it was belongs into the log, and must not reach the server
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _children_of(pid: int) -> list[int]:
    """Process ids of the children of a process."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _command(pid: int) -> str:
    """Command line of a process; empty of one that has ended and was not yet waited for."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    return ""


def main() -> None:
    """Import everything, then serve."""
    channel, folder = socket.socket(fileno=int(sys.argv[1])), Path(sys.argv[2])
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    _prctl(PR_SET_CHILD_SUBREAPER, 1)
    sys.modules["zygote"] = sys.modules["__main__"]
    import killers

    killers.warm_up()
    threads = list(Path("/proc/self/task").iterdir())
    if len(threads) > 1:
        raise RuntimeError(f"{len(threads)} threads run before the first fork; a forked child could hang")
    gc.freeze()
    _Server(channel, folder).serve()


if __name__ == "__main__":
    main()
