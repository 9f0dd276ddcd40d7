"""G18: a connection that is cut for a while is survived, or the run resumes; nothing is lost or counted twice."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import killers
import pytest
from killers import LOG, SCHEDULER_LOST, WORK, Cluster
from proxy import Proxy
from zygote import HERE, Zygote, forking, poll

DEADLINE = 120.0
EVENTS = 10

Figure = Callable[[str, str, object], None]


@pytest.fixture(scope="module")
def forks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Zygote]:
    with forking(tmp_path_factory.mktemp("zygote")) as zygote:
        yield zygote


@pytest.fixture(scope="module")
def toml(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return killers.small_campaign(tmp_path_factory.mktemp("connection"))


@pytest.fixture(scope="module")
def expected(forks: Zygote, toml: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    out = tmp_path_factory.mktemp("expected") / "out"
    run = forks.fork("killers:drive", toml=str(toml), out=str(out))
    assert run.join(DEADLINE) == 0, run.text
    return killers.digests(out)


@pytest.mark.parametrize("seconds", [1.0, 10.0])
@pytest.mark.parametrize("who", ["client", "worker", "client gives up"])
def test_cut_connection_loses_nothing(
    forks: Zygote, toml: Path, expected: dict[str, str], tmp_path: Path, who: str, seconds: float, figure: Figure
) -> None:
    environment = {WORK: "0.02", LOG: str(tmp_path / "log")}
    out = tmp_path / "out"
    patience = seconds / 4 if who == "client gives up" else 20.0
    with Cluster(forks, workers=0 if who == "worker" else 2, **environment) as cluster, Proxy(cluster.address) as proxy:
        through = f"tcp://{proxy.address}"
        if who == "worker":
            cluster.workers = [cluster.add_worker(through), cluster.add_worker(through)]
            for worker in cluster.workers:
                worker.said("address")
        at = cluster.address if who == "worker" else through
        options = {"toml": str(toml), "out": str(out), "at": at, "chunk_events": EVENTS, "check": True}
        run = forks.fork("killers:drive", patience=patience, **options)
        assert poll(lambda: len(killers.committed(out / "ledger.sqlite")) > 20, DEADLINE)
        back = proxy.cut(seconds)
        code = run.join(DEADLINE)
        assert code == (SCHEDULER_LOST if who == "client gives up" else 0), run.text
        if code == SCHEDULER_LOST:
            message = run.said("lost")
            units = len(killers.committed(out / "ledger.sqlite"))
            assert f"{units:,}" in message
            assert "the same call with a new cluster resumes" in message
        assert back.wait(DEADLINE)
        again = forks.fork("killers:drive", patience=20.0, **options)
        assert again.join(DEADLINE) == 0, again.text
    assert killers.digests(out) == expected
    what = "resumed from the ledger" if code else "survived"
    figure("G18", f"{who}: connection cut for {seconds:g} s", what)


def echo(listening: socket.socket) -> None:
    """Send back what comes, on each connection, until the socket is closed."""
    while True:
        try:
            connection, _ = listening.accept()
        except OSError:
            return
        with connection, contextlib.suppress(ConnectionError):
            while block := connection.recv(4096):
                connection.sendall(block)


def test_proxy_passes_cuts_refuses_and_returns() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=echo, args=(listening,), daemon=True)
        thread.start()
        host, port = listening.getsockname()
        with Proxy(f"{host}:{port}") as proxy:
            where = ("127.0.0.1", int(proxy.address.rpartition(":")[2]))
            with socket.create_connection(where, timeout=10) as through:
                through.sendall(b"hello")
                assert through.recv(100) == b"hello"
                back = proxy.cut(0.2)
                with pytest.raises(ConnectionError):
                    through.sendall(b"x") or through.recv(100)
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(where, timeout=10)
            assert back.wait(10)
            with socket.create_connection(where, timeout=10) as through:
                through.sendall(b"again")
                assert through.recv(100) == b"again"
            assert (proxy.cuts, proxy.passed_connections) == (1, 2)
        listening.shutdown(socket.SHUT_RDWR)
    thread.join(10)
    assert not thread.is_alive()


def test_proxy_runs_as_a_command() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        host, port = listening.getsockname()
        command = [sys.executable, str(HERE / "proxy.py"), "127.0.0.1:0", f"{host}:{port}", "--cut-every", "0.1",
                   "--cut-for", "0.1"]  # fmt: skip
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as running:
            assert running.stderr is not None
            lines = [running.stderr.readline() for _ in range(3)]
            running.terminate()
            running.wait(10)
    assert lines[0].endswith(f" -> {host}:{port}\n")
    assert [line.partition(":")[0] for line in lines[1:]] == ["cut number 1", "cut number 2"]
