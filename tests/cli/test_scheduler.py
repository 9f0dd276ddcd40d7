"""``--scheduler``: what cannot be an address is refused at once, what does not answer in time by name."""

from __future__ import annotations

import subprocess
import sys

import pytest
from click.testing import CliRunner
from http_server import FileServer

from higgsnb.__main__ import main
from higgsnb.cli import run

LOADED = """
import sys
from higgsnb.__main__ import main
try:
    main()
finally:
    print(*sorted({"distributed", "numba", "uproot", "matplotlib"} & set(sys.modules)))
"""


@pytest.mark.parametrize("scheduler", ["foo", "thread", "tcp://", "localhost", "127.0.0.1:0", "tcp://h:99999", ""])
def test_what_is_no_address_is_refused_before_anything_is_loaded(scheduler: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOADED, "run", "--scheduler", scheduler],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stdout.split() == []
    message, hint = done.stderr.splitlines()
    assert message == f"higgsnb: --scheduler {scheduler}: neither threads, processes nor an address with a port"
    assert ("Did you mean threads?" in hint) == (scheduler == "thread")


@pytest.mark.parametrize(
    "scheduler",
    [
        "tcp://127.0.0.1:8786",
        "127.0.0.1:8786",
        "tls://[::1]:8786",
        "ws://host:80/path",
        "node-17.cluster.example:65535",
    ],
)
def test_addresses_of_dask_are_accepted(scheduler: str) -> None:
    assert run.ADDRESS.fullmatch(scheduler)


def refused(scheduler: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setattr(run, "CONNECT_SECONDS", 1)
    done = CliRunner().invoke(main, ["run", "--scheduler", scheduler, "--quiet"])
    assert done.exit_code == 2
    return done.stderr.splitlines()


def test_server_of_another_kind_is_no_scheduler(http_server: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    address = http_server.base.removeprefix("http://")
    message, hint = refused(address, monkeypatch)
    assert message == f"higgsnb: no Dask scheduler at {address}: no answer in 1 s"
    assert "tcp://127.0.0.1:8786" in hint


def test_unknown_host_is_named_without_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    message, _ = refused("no-such-host.invalid:8786", monkeypatch)
    assert "no Dask scheduler at no-such-host.invalid:8786: " in message
    assert not message.endswith("no answer in 1 s")
