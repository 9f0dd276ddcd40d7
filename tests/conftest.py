"""Fixtures shared by all tests: the real data, a cache for the session, a web server with faults."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from http_server import FileServer
from hypothesis import settings

settings.register_profile("untimed", deadline=None)  # how busy the machine is decides nothing
settings.load_profile("untimed")
os.environ.setdefault("MPLBACKEND", "Agg")  # before anything imports matplotlib
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in `nohup pytest &`; some tests interrupt themselves
    signal.signal(signal.SIGINT, signal.default_int_handler)

ONE_PYTHON = {"plots", "statistics"}  # arithmetic and pictures, by libraries that test themselves on every Python


@pytest.hookimpl(tryfirst=True)  # before pytest leaves out what -m does not select
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of wings that do not depend on the version of Python."""
    for item in items:
        if item.path.parent.name in ONE_PYTHON:
            item.add_marker(pytest.mark.one_python)


@pytest.fixture(scope="session", autouse=True)
def session_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache for this session only; the toy campaign, dear to make, is made once in it."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("HIGGSNB_CACHE", str(folder))
        patch.setenv("HIGGSNB_SHARED_CACHE", "")  # not the one of this installation
        for name in ("HIGGSNB_MIRROR", "HIGGSNB_ALLOW_HOSTS", "HIGGSNB_STREAM_ABOVE"):
            patch.delenv(name, raising=False)
        for name in ("NO_PROXY", "no_proxy"):  # the local server is never behind a proxy
            patch.setenv(name, "127.0.0.1,localhost")
        yield folder


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder with the real public data, or a skip that says where it was looked for."""
    given = os.environ.get("HIGGSNB_SHARED")
    folder = Path(given) if given else Path(__file__).resolve().parents[2] / "shared" / "data"
    if not (folder / "record5200").is_dir():
        pytest.skip(f"real data not found at {folder}; set HIGGSNB_SHARED to the folder that holds record5200/")
    return folder


@pytest.fixture
def http_server() -> Iterator[FileServer]:
    """A local web server with Range support and faults to order; see `tests/http_server.py`."""
    with FileServer() as server:
        yield server
