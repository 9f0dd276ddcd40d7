"""The cut explorer where people use it: in JupyterLab and as a Voilà page, by mouse, finger and keyboard, offline."""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

import higgsnb

pytestmark = pytest.mark.browser

NOTEBOOK = Path(__file__).resolve().parents[2] / "notebooks" / "dashboard.ipynb"
SECONDS = 180
"""The longest that anything may take, on a machine that compiles everything anew."""


def missing() -> str | None:
    """What is missing for these tests, with the command that installs it."""
    for module in ("playwright", "voila", "jupyterlab", "anywidget"):
        if importlib.util.find_spec(module) is None:
            return f"{module} is not installed: pip install -e '.[test,notebook,browser]'"
    if chromium() is None:
        return "no chromium on PATH: apt-get install chromium"
    return None


def chromium() -> str | None:
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@dataclass(frozen=True)
class Server:
    """A running server."""

    address: str


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def wait_for(address: str, process: subprocess.Popen[bytes]) -> None:
    """Wait until a server answers."""
    deadline, pause = time.monotonic() + SECONDS, threading.Event()
    while time.monotonic() < deadline:
        assert process.poll() is None, f"the server ended with code {process.returncode}"
        try:
            with urllib.request.urlopen(address, timeout=5):  # noqa: S310 - our own server
                return
        except urllib.error.HTTPError:
            return
        except (urllib.error.URLError, OSError):
            pause.wait(0.2)
    pytest.fail(f"{address} did not answer within {SECONDS} s")


@contextmanager
def serving(folder: Path, *command: str, ready: str) -> Iterator[Server]:
    """Run a server on this machine, with folders of its own."""
    port = free_port()
    private = {name: str(folder / name) for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR")}
    private["IPYTHONDIR"] = str(folder / "ipython")
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", *(part.format(port=port) for part in command)],
            stdout=log, stderr=subprocess.STDOUT, env={**os.environ, **private}, cwd=folder,
        )  # fmt: skip
        try:
            wait_for(f"http://127.0.0.1:{port}/{ready}", process)
            yield Server(f"http://127.0.0.1:{port}")
        finally:
            process.terminate()
            process.wait(timeout=30)


@pytest.fixture(scope="module")
def voila(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The dashboard as a page."""
    if reason := missing():
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("voila")
    notebook = shutil.copy(NOTEBOOK, folder)
    template = folder / "JUPYTER_DATA_DIR" / "voila" / "templates" / "higgsnb"
    shutil.copytree(Path(higgsnb.__file__).parent / "static" / "voila", template)
    command = ["voila", str(notebook), "--no-browser", "--port={port}", "--Voila.ip=127.0.0.1"]
    with serving(folder, *command, ready="static/voila.js") as server:
        yield server


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """JupyterLab with the dashboard's notebook."""
    if reason := missing():
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("lab")
    shutil.copy(NOTEBOOK, folder)
    command = ["jupyterlab", "--no-browser", "--port={port}", "--ServerApp.ip=127.0.0.1", "--allow-root"]
    options = ["--IdentityProvider.token=", "--expose-app-in-browser", f"--ServerApp.root_dir={folder}"]
    with serving(folder, *command, *options, ready="api") as server:
        yield server


@pytest.fixture(scope="session")
def browser(chromium: Any) -> Any:
    """The Chromium of this suite; one playwright serves a whole session."""
    return chromium


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where screenshots go: HIGGSNB_ARTEFACTS, for a continuous integration that keeps them."""
    folder = Path(os.environ.get("HIGGSNB_ARTEFACTS") or tmp_path_factory.mktemp("pictures"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@dataclass
class Visit:
    """A page, and what it has asked for and complained about."""

    page: Any
    hosts: set[str]
    errors: list[str]

    def yields(self) -> int:
        """The number of data events in the table."""
        return int(self.page.locator(".hgx .yields tr.last td").first.inner_text())

    def wait_for_yields(self, other_than: int) -> int:
        """Wait until the table shows another number of data events."""
        self.page.wait_for_function(
            "(before) => Number(document.querySelector('.hgx .yields tr.last td').textContent) !== before",
            arg=other_than, timeout=1000 * SECONDS,
        )  # fmt: skip
        return self.yields()

    def slider(self, cut: str) -> Any:
        return self.page.locator(f'.hgx input[data-cut="{cut}"]')

    def wait(self, selector: str) -> Any:
        self.page.wait_for_selector(selector, timeout=1000 * SECONDS)
        return self.page.locator(selector).first


@contextmanager
def visiting(browser: Any, address: str, **options: Any) -> Iterator[Visit]:
    """Open a page and note every request; when all is done, check that none has left this machine."""
    context = browser.new_context(**{"viewport": {"width": 1300, "height": 900}, **options})
    page = context.new_page()
    visit = Visit(page, set(), [])
    page.on("request", lambda request: visit.hosts.add(urlsplit(request.url).hostname or ""))
    page.on("websocket", lambda opened: visit.hosts.add(urlsplit(opened.url).hostname or ""))
    page.on("pageerror", lambda error: visit.errors.append(str(error)))
    page.set_default_timeout(1000 * SECONDS)
    try:
        page.goto(address, timeout=1000 * SECONDS, wait_until="domcontentloaded")
        yield visit
        assert visit.hosts - {""} == {"127.0.0.1"}
        assert [error for error in visit.errors if "hgx" in error or "explorer" in error] == []
    finally:
        context.close()


def run_notebook(visit: Visit) -> None:
    """Run all cells of the notebook that JupyterLab shows, once its kernel is ready."""
    visit.wait(".jp-NotebookPanel .jp-Cell")
    context = "window.jupyterapp?.shell?.currentWidget?.context?.sessionContext"
    visit.page.wait_for_function(f"{context}?.session?.kernel?.status === 'idle'", timeout=1000 * SECONDS)
    visit.page.evaluate("window.jupyterapp.commands.execute('notebook:run-all-cells')")
    visit.wait(".hgx .bin")


@pytest.fixture(params=["voila", "lab"])
def visit(request: pytest.FixtureRequest, browser: Any) -> Iterator[Visit]:
    """The explorer as a Voilà page and in JupyterLab."""
    server = request.getfixturevalue(request.param)
    path = "" if request.param == "voila" else "/lab/tree/dashboard.ipynb?reset"
    with visiting(browser, server.address + path) as opened:
        if request.param == "lab":
            run_notebook(opened)
        opened.wait(".hgx .bin")
        yield opened


def test_slider_bin_and_event_by_mouse_and_nothing_leaves_the_machine(
    visit: Visit, pictures: Path, request: pytest.FixtureRequest
) -> None:
    page, before = visit.page, visit.yields()
    visit.slider("muon_pt_min").fill("15")
    after = visit.wait_for_yields(other_than=before)
    assert after < before
    assert visit.slider("muon_pt_min").get_attribute("aria-valuetext") == "15 GeV"
    assert f"{after} events found" in page.locator(".hgx .status").inner_text()

    page.locator(".hgx .bin").nth(18).click()
    visit.wait(".hgx .list button").click()
    heading = visit.wait(".hgx .event h3").inner_text()
    assert heading.startswith("Event ")
    assert page.locator(".hgx .event svg .track").count() >= 8  # four leptons in two views
    assert page.locator(".hgx .event tbody tr").count() == 4
    page.set_viewport_size({"width": 1300, "height": 2700})
    page.locator(".hgx").screenshot(path=pictures / f"{request.node.callspec.id}.png")

    page.locator(".hgx button.reset").click()
    assert visit.wait_for_yields(other_than=after) == before


def test_everything_can_be_done_with_the_keyboard(visit: Visit) -> None:
    page, before = visit.page, visit.yields()
    visit.slider("muon_pt_min").focus()
    for _ in range(20):
        page.keyboard.press("ArrowRight")
    after = visit.wait_for_yields(other_than=before)
    assert after <= before
    assert page.evaluate("document.activeElement.dataset.cut") == "muon_pt_min"
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline != "none"
    for _ in range(80):  # on to the spectrum, as Tab goes
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.classList.contains('bin')"):
            break
    assert page.evaluate("document.activeElement.getAttribute('role')") == "option"
    label = page.evaluate("document.activeElement.getAttribute('aria-label')")
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement.getAttribute('aria-label')") != label
    page.keyboard.press("Enter")
    visit.wait(".hgx .list button")
    for _ in range(40):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.dataset.event"):
            break
    page.keyboard.press("Enter")
    visit.wait(".hgx .event h3")
    assert page.locator(".hgx .event tbody tr").count() == 4


def test_published_selection_comparison_and_link(browser: Any, voila: Server) -> None:
    with visiting(browser, voila.address) as visit:
        visit.wait(".hgx .bin")
        before = visit.yields()
        visit.page.locator(".hgx button.keep").click()
        visit.wait(".hgx svg .kept")
        visit.page.locator('.hgx button[data-base="aod2012"]').click()
        after = visit.wait_for_yields(other_than=before)
        visit.slider("lepton_pt_leading").fill("30")
        changed = visit.wait_for_yields(other_than=after)
        link = visit.page.locator(".hgx .share input").input_value()
        assert link == f"{voila.address}/#higgsnb=aod2012&lepton_pt_leading=30"
        code = visit.page.locator(".hgx .share textarea").input_value()
        assert "load('aod2012').replace(lepton_pt_leading=30)" in code
    with visiting(browser, link) as visit:
        visit.wait(".hgx .bin")
        visit.page.wait_for_function(
            "(wanted) => Number(document.querySelector('.hgx .yields tr.last td').textContent) === wanted", arg=changed
        )
        assert visit.slider("lepton_pt_leading").input_value() == "30"


@pytest.mark.parametrize(("name", "width", "least"), [("phone", 390, 14), ("projector", 1920, 20)])
def test_page_fits_its_screen_and_is_legible(
    browser: Any, voila: Server, pictures: Path, name: str, width: int, least: int
) -> None:
    with visiting(browser, voila.address, viewport={"width": width, "height": 900}) as visit:
        visit.wait(".hgx .bin")
        page = visit.page
        page.locator(".hgx .bin").nth(18).click()
        visit.wait(".hgx .list button").click()
        visit.wait(".hgx .event h3")
        page.screenshot(path=pictures / f"{name}.png", full_page=True)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        sizes = page.evaluate(
            """() => [...document.querySelectorAll('.hgx *, .jp-RenderedHTMLCommon :is(p, li)')]
                .filter((node) => [...node.childNodes].some((one) => one.nodeType === 3 && one.textContent.trim()))
                .map((node) => parseFloat(getComputedStyle(node).fontSize))"""
        )
        assert min(sizes) >= least


OVERLAPS = """() => {
    const boxOf = (element) => element.getBoundingClientRect();
    const within = (box, all) => box.left > all.left - 1 && box.right < all.right + 1
        && box.top > all.top - 1 && box.bottom < all.bottom + 1;
    const clash = (one, two) => one.left < two.right - 1 && two.left < one.right - 1
        && one.top + 3 < two.bottom - 3 && two.top + 3 < one.bottom - 3;
    return [...document.querySelectorAll('.hgx .event .views svg')].flatMap((drawing) => {
        const names = [...drawing.querySelectorAll('text')];
        return names.flatMap((name, i) => [
            ...(within(boxOf(name), boxOf(drawing)) ? [] : [`${name.textContent} sticks out`]),
            ...names.slice(i + 1).filter((other) => clash(boxOf(name), boxOf(other)))
                .map((other) => `${name.textContent} covers ${other.textContent}`),
        ]);
    });
}"""


@pytest.mark.parametrize("width", [390, 1000, 1920])
def test_names_of_the_four_leptons_can_be_read_in_any_event(browser: Any, voila: Server, width: int) -> None:
    with visiting(browser, voila.address, viewport={"width": width, "height": 900}) as visit:
        visit.wait(".hgx .bin")
        visit.page.locator(".hgx .bin").nth(7).click()
        visit.wait(".hgx .list button")
        events = visit.page.locator(".hgx .list button")
        for number in range(24):
            name = events.nth(number).inner_text()
            events.nth(number).click()
            visit.page.wait_for_function(
                "(name) => document.querySelector('.hgx .event h3')?.textContent.endsWith(` ${name}`)", arg=name
            )
            assert visit.page.locator(".hgx .event .views text").count() == 8
            assert (name, visit.page.evaluate(OVERLAPS)) == (name, [])


def test_page_prints_whole(browser: Any, voila: Server, pictures: Path) -> None:
    with visiting(browser, voila.address) as visit:
        visit.wait(".hgx .bin")
        page = visit.page
        page.emulate_media(media="print")
        assert page.locator(".hgx button.reset").is_hidden()
        assert page.locator(".hgx .bin").first.is_visible()
        height = page.evaluate("document.documentElement.scrollHeight")
        assert height >= page.locator(".hgx").bounding_box()["height"]
        page.pdf(path=pictures / "print.pdf", format="A4", print_background=True)
        assert (pictures / "print.pdf").stat().st_size > 20_000
