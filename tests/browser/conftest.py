"""A headless Chromium, pages that note every request, and real Jupyter servers."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from pages import Server, Visit, jupyterlab, voila

if TYPE_CHECKING:
    from playwright.sync_api import Browser

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--no-sandbox",
    "--disable-background-networking",
    # Should anything ask for another machine, it must fail even where there is a network.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost",
)


@pytest.fixture(scope="session")
def artefacts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where screenshots are kept: HIGGSNB_ARTEFACTS, or pytest's temporary folder."""
    given = os.environ.get("HIGGSNB_ARTEFACTS")
    folder = Path(given) if given else tmp_path_factory.mktemp("artefacts")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    """Debian's Chromium without a window, or a skip that says what to install."""
    playwright = pytest.importorskip("playwright.sync_api", reason="no playwright; pip install playwright")
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.skip("no chromium; apt-get install chromium")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=list(FLAGS))
        yield browser
        browser.close()


@pytest.fixture
def visit(chromium: Browser) -> Iterator[Callable[..., Visit]]:
    """A function that opens a fresh page of a given size; in the end, no request may have left the machine."""
    opened: list[Visit] = []

    def open_page(**options: Any) -> Visit:
        opened.append(Visit(chromium.new_context(**options)))
        return opened[-1]

    yield open_page
    for one in opened:
        one.context.close()
    assert [address for one in opened for address in one.foreign] == []


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A JupyterLab with folders of its own."""
    pytest.importorskip("jupyterlab", reason="no JupyterLab; pip install -e '.[browser]'")
    with jupyterlab(tmp_path_factory.mktemp("lab")) as server:
        yield server


@pytest.fixture
def voila_server(tmp_path: Path) -> Iterator[Callable[[Path], Server]]:
    """A function that serves one notebook with Voilà."""
    with voila(tmp_path) as serve:
        yield serve
