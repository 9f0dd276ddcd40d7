"""The dashboard as a page that people open, reload and leave: no kernel stays behind."""

from __future__ import annotations

import shutil
import sys
import tomllib
import urllib.request
from collections.abc import Callable, Iterator

import psutil
import pytest
from pages import ROOT, Server, Visit, free_port, jupyterlab, serving, wait_for

pytestmark = pytest.mark.browser
NOTEBOOK = ROOT / "notebooks" / "dashboard.ipynb"
SECONDS = 1000  # milliseconds, as playwright counts
SECONDS_TO_END = 60
"""A kernel ends at most so many seconds after its page."""
OPENED = 120 * SECONDS
TEMPLATE = "share/jupyter/voila/templates/higgsnb"


@pytest.fixture(scope="module")
def dashboard(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The page as `higgsnb dashboard` serves it."""
    pytest.importorskip("voila", reason="no Voilà; pip install -e '.[browser]'")
    folder, port = tmp_path_factory.mktemp("dashboard"), free_port()
    command = [sys.executable, "-m", "higgsnb", "dashboard", "--no-browser", f"--port={port}"]
    with serving(command, folder, f"http://127.0.0.1:{port}", "/static/voila.js", any_answer=True) as server:
        yield server


@pytest.fixture(scope="module")
def beside_lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The page as Binder serves it: Voilà in JupyterLab's server, whose kernels are not ended soon."""
    pytest.importorskip("voila", reason="no Voilà; pip install -e '.[browser]'")
    folder = tmp_path_factory.mktemp("beside")
    shutil.copy(NOTEBOOK, folder)
    with jupyterlab(folder) as server:
        yield Server(f"{server.address}/voila/render/dashboard.ipynb", folder, server.process)


def kernels(server: Server) -> list[int]:
    """The processes of the server's kernels."""
    found = []
    for child in psutil.Process(server.process).children(recursive=True):
        try:
            if "ipykernel_launcher" in " ".join(child.cmdline()):
                found.append(child.pid)
        except psutil.NoSuchProcess:
            continue
    return found


@pytest.mark.parametrize("name", ["dashboard", "beside_lab"])
def test_kernel_of_a_page_ends_when_the_page_is_reloaded_or_left(
    visit: Callable[..., Visit], request: pytest.FixtureRequest, name: str
) -> None:
    server: Server = request.getfixturevalue(name)
    page = visit(viewport={"width": 1280, "height": 900}).page
    page.goto(server.address, timeout=OPENED)
    page.wait_for_selector(".hgx .bin", timeout=OPENED)
    (first,) = kernels(server)
    page.reload(timeout=OPENED)
    page.wait_for_selector(".hgx .bin", timeout=OPENED)
    wait_for(lambda: first not in kernels(server), SECONDS_TO_END)
    assert len(kernels(server)) == 1
    page.goto("about:blank")
    wait_for(lambda: not kernels(server), SECONDS_TO_END)


def test_kernel_of_a_page_that_never_says_goodbye_ends_and_that_of_an_open_page_stays(
    visit: Callable[..., Visit], dashboard: Server
) -> None:
    page = visit(viewport={"width": 1280, "height": 900}).page
    page.goto(dashboard.address, timeout=OPENED)
    page.wait_for_selector(".hgx .bin", timeout=OPENED)
    (kept,) = kernels(dashboard)
    with urllib.request.urlopen(dashboard.address, timeout=120) as answer:  # noqa: S310 - no browser, no JavaScript
        assert b"higgsnb" in answer.read()
    assert len(kernels(dashboard)) == 2
    wait_for(lambda: kernels(dashboard) == [kept], SECONDS_TO_END)
    page.locator('.hgx input[data-cut="muon_pt_min"]').fill("15")
    page.wait_for_function("document.querySelector('.hgx .status').textContent.startsWith('1')", timeout=30 * SECONDS)


def test_page_and_its_template_are_installed_where_voila_looks_for_them() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    shared = project["tool"]["hatch"]["build"]["targets"]["wheel"]["shared-data"]
    (template,) = (source for source, target in shared.items() if target == TEMPLATE)
    assert (ROOT / template / "index.html.j2").is_file()
    assert template.endswith("static/voila/templates/higgsnb")  # the same below the folder that the command names
    assert shared["notebooks/dashboard.ipynb"] == f"{TEMPLATE}/dashboard.ipynb"
