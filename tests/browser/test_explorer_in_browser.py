"""The cut explorer where people use it: in JupyterLab and as a Voilà page, by mouse, finger and keyboard, offline."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
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
    command = ["higgsnb", "dashboard", "--no-browser", "--port={port}"]
    with serving(tmp_path_factory.mktemp("voila"), *command, ready="static/voila.js") as server:
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
    assert "-" not in page.locator(".hgx .event tbody").inner_text()  # a minus is no hyphen
    assert re.search(r" GeV: 1,\d{3} candidates", page.locator(".hgx").inner_text())
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
    visit.wait(".hgx .event tbody tr:nth-child(4)")
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
        assert "load('aod2012').replace(lepton_pt_leading=30.0)" in code
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
        page.evaluate("scrollTo(0, 0)")
        page.screenshot(path=pictures / f"{name}.png", full_page=True)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        sizes = page.evaluate(
            """() => [...document.querySelectorAll('.hgx *, .jp-RenderedHTMLCommon :is(p, li)')]
                .filter((node) => [...node.childNodes].some((one) => one.nodeType === 3 && one.textContent.trim()))
                .map((node) => parseFloat(getComputedStyle(node).fontSize))"""
        )
        assert min(sizes) >= least


SEEN = """(cut) => {
    const box = (found) => document.querySelector(found).getBoundingClientRect();
    const figure = box('.hgx .main'), slider = box(`[data-cut=${cut}]`);
    return { top: figure.top >= 0, apart: figure.bottom <= slider.top, bottom: slider.bottom <= innerHeight };
}"""


def test_spectrum_stays_in_sight_on_a_phone_while_any_slider_is_moved_and_all_cuts_are_printed(
    browser: Any, voila: Server, pictures: Path
) -> None:
    with visiting(browser, voila.address, viewport={"width": 390, "height": 844}) as visit:
        visit.wait(".hgx .bin")
        page, before = visit.page, visit.yields()
        page.locator(".hgx .controls summary", has_text="Four leptons").click()
        for cut in ("muon_pt_min", "lepton_pt_leading", "lepton_pt_subleading"):
            visit.slider(cut).focus()
            assert page.evaluate(SEEN, cut) == {"top": True, "apart": True, "bottom": True}
        visit.slider("lepton_pt_leading").fill("50")
        assert visit.wait_for_yields(other_than=before) < before
        page.screenshot(path=pictures / "phone_slider.png")
        folded = page.locator(".hgx .cut output", has_text="40 GeV").first  # of the Z bosons
        shown = "(one) => one.checkVisibility({ contentVisibilityAuto: true, visibilityProperty: true })"
        assert not folded.evaluate(shown)
        page.emulate_media(media="print")
        assert folded.evaluate(shown)


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
        around = "for (let one = document.querySelector('.hgx'); one; one = one.parentElement) found.push(one)"
        assert page.evaluate(f"""() => {{
            const found = [];
            {around};
            return found.every((one) => getComputedStyle(one).breakInside === 'auto');
        }}"""), "a box around the explorer would begin on a new sheet of paper"
        page.pdf(path=pictures / "print.pdf", format="A4", print_background=True)
        assert (pictures / "print.pdf").stat().st_size > 20_000


# --- The view and Python, without a server -------------------------------------------------------------------------

# Shows the widget in one or more places with a model as Jupyter's: `set` tells all views at once, `save_changes` sends
# what is new to Python, whose answer comes later.
ALONE = """async ([script, style, state]) => {
    const sheet = document.createElement('style');
    sheet.textContent = style;
    document.head.append(sheet);
    const same = (one, other) => JSON.stringify(one) === JSON.stringify(other);
    const listeners = {};
    let unsent = {};
    const set = (name, value) => {
        if (same(state[name], value)) return;
        state[name] = value;
        (listeners[`change:${name}`] || []).slice().forEach((call) => call());
    };
    const model = {
        get: (name) => state[name],
        set: (name, value) => { if (!same(state[name], value)) unsent[name] = value; set(name, value); },
        save_changes: () => {
            const sent = unsent;
            unsent = {};
            if (Object.keys(sent).length) window.ask(sent).then(window.take);
        },
        on: (name, call) => { (listeners[name] = listeners[name] || []).push(call); },
        off: (name, call) => { listeners[name] = (listeners[name] || []).filter((one) => one !== call); },
    };
    window.take = (answer) => Object.entries(answer).forEach(([name, value]) => set(name, value));
    const load = () => import(URL.createObjectURL(new Blob([script], {type: 'text/javascript'})));
    const own = await load();  // anywidget loads it once for a widget, and once more for another widget
    window.show = async (name, another) => {
        const place = document.createElement('div');
        place.id = name;
        document.body.append(place);
        window.remove = (another ? await load() : own).default.render({model, el: place});
    };
}"""


class Alone:
    """Views of one widget on a page, and the widget itself in this process."""

    def __init__(self, page: Any, widget: Any, *names: str, address: str = "about:blank") -> None:
        self.page, self.widget, self.errors = page, widget, []
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.set_default_timeout(1000 * SECONDS)
        page.expose_function("ask", self.answer)
        page.route("http://127.0.0.1/**", lambda route: route.fulfill(body="", content_type="text/html"))
        page.goto(address)
        page.set_content("<!doctype html><html lang=en><body></body></html>")
        files = [Path(higgsnb.__file__).parent / "widgets" / "static" / f"explorer.{kind}" for kind in ("js", "css")]
        page.evaluate(ALONE, [*(file.read_text(encoding="utf-8") for file in files), self.state()])
        for name in names:
            self.show(name)

    def show(self, name: str, *, another: bool = False) -> None:
        """Show the widget once more, or as if it were another one."""
        self.page.evaluate("([name, another]) => window.show(name, another)", [name, another])
        self.page.wait_for_selector(f"#{name} .bin")

    def state(self) -> dict[str, Any]:
        """What a browser knows of the widget."""
        left_out = ("layout", "tabbable", "tooltip")
        names = [name for name in self.widget.keys if not name.startswith("_") and name not in left_out]
        return json.loads(json.dumps({name: getattr(self.widget, name) for name in names}))

    def answer(self, sent: dict[str, Any]) -> dict[str, Any]:
        """What a kernel does with a message: only what has changed in Python goes back."""
        before = {**self.state(), **sent}
        self.widget.set_state(sent)
        return {name: value for name, value in self.state().items() if value != before.get(name)}

    def wait(self, condition: str) -> None:
        """Wait until something holds in the page."""
        self.page.wait_for_function(condition)

    def press(self, view: str, cut: str, key: str = "ArrowRight", times: int = 1) -> None:
        """Move a slider and wait until Python has answered."""
        for _ in range(times):
            asked = self.widget.asked
            self.page.locator(f"#{view} [data-cut={cut}]").focus()
            self.page.keyboard.press(key)
            deadline = time.monotonic() + SECONDS
            while self.widget.asked == asked:
                assert time.monotonic() < deadline
                self.page.evaluate("() => new Promise(requestAnimationFrame)")

    def values(self, cut: str) -> list[float]:
        """Where the views show a cut."""
        return [float(one.input_value()) for one in self.page.locator(f"[data-cut={cut}]").all()]


@pytest.fixture
def alone_at(browser: Any, tmp_path: Path) -> Iterator[Callable[[str], Alone]]:
    """A function that shows the explorer of the toy campaign once, as a page of that address."""
    from higgsnb.widgets import CutExplorer

    context = browser.new_context(viewport={"width": 1200, "height": 900})
    opened: list[Alone] = []

    def open_at(address: str) -> Alone:
        widget = CutExplorer("toy", skims_folder=tmp_path, workers=1)
        opened.append(Alone(context.new_page(), widget, "one", address=address))
        return opened[-1]

    yield open_at
    context.close()
    assert [error for one in opened for error in one.errors] == []


@pytest.fixture
def alone(alone_at: Callable[[str], Alone]) -> Alone:
    """The explorer of the toy campaign, seen once."""
    return alone_at("about:blank")


FOCUS = "document.activeElement.className"


def test_bins_can_be_stepped_through_with_the_keyboard(alone: Alone) -> None:
    page = alone.page
    page.locator(".bin").nth(26).focus()
    page.keyboard.press("Enter")
    alone.wait("document.querySelector('.turn1')")
    page.locator(".turn1").focus()
    for number in range(27, 37):
        page.keyboard.press("Enter")
        alone.wait(f"document.querySelectorAll('.bin')[{number}].getAttribute('aria-selected') === 'true'")
        title = alone.widget.setup["variables"][0]["label"].split()[0].capitalize()
        low = 70 + 3 * number
        alone.wait(
            f"document.querySelector('.turn1').parentNode.parentNode.textContent.includes('{title} mass from {low} to')"
        )
        assert page.evaluate(FOCUS) == ("turn1" if number < 36 else "turn-1")  # at the end there is only the way back
        roving = page.evaluate("[...document.querySelectorAll('.bin')].map((one) => one.getAttribute('tabindex'))")
        assert (roving.index("0"), roving.count("0")) == (number, 1)
    assert alone.widget.bin == 36


def test_every_slider_has_a_name_of_its_own_that_says_whose_cut_it_is(alone: Alone) -> None:
    sliders = [
        line.split('"')[1] for line in alone.page.locator("#one").aria_snapshot().splitlines() if "slider" in line
    ]
    assert len(sliders) == len(set(sliders)) == len(alone.widget.setup["controls"])
    assert {"Muons isolation below", "Electrons isolation below"} <= set(sliders)
    groups = {control["group"] for control in alone.widget.setup["controls"]}
    for group in groups:
        assert alone.page.get_by_role("group", name=group, exact=True).count() == 1


def test_two_views_of_one_widget_stay_in_step(alone: Alone) -> None:
    alone.press("one", "muon_pt_min", times=4)
    alone.show("two")
    alone.press("one", "muon_pt_min", times=3)
    alone.press("two", "electron_pt_min")
    alone.press("one", "z2_mass_min")
    alone.press("two", "electron_pt_min")
    alone.wait("document.querySelectorAll('[data-cut=electron_pt_min]')[0].value === '8'")
    for cut, value in (("muon_pt_min", 8.5), ("electron_pt_min", 8.0), ("z2_mass_min", 13.0)):
        assert (alone.values(cut), alone.widget.cuts[cut]) == ([value, value], value)
    alone.widget.select(muon_pt_min=20.0)
    alone.page.evaluate("(state) => window.take(state)", alone.state())
    assert alone.values("muon_pt_min") == [20.0, 20.0]


def test_error_stays_in_sight_while_another_spectrum_is_chosen(alone: Alone) -> None:
    page, before = alone.page, alone.widget.view["summary"]
    cuts = {**alone.widget.cuts, "lepton_pt_subleading": 40.0}
    page.evaluate(
        "(state) => window.take(state)", alone.answer({"cuts": cuts, "asked": 50}) | {"cuts": cuts, "asked": 50}
    )
    assert "is above lepton_pt_leading" in page.locator("[role=alert]").inner_text()
    page.locator("select").select_option("mass_z1")
    alone.wait("document.querySelector('svg [role=listbox]').getAttribute('aria-label').includes('Z1')")
    assert "is above lepton_pt_leading" in page.locator("[role=alert]").inner_text()
    assert page.locator(".status").inner_text() == before
    alone.press("one", "lepton_pt_leading")  # moves the second cut along
    alone.wait("document.querySelector('[role=alert]').textContent === ''")


def test_chosen_event_is_the_row_that_is_marked_while_cuts_move(alone: Alone) -> None:
    page = alone.page
    page.locator(".bin").nth(7).click()
    alone.wait("document.querySelector('.list button')")
    name = page.locator(".list button").nth(5).inner_text()
    page.locator(".list button").nth(5).click()
    alone.wait("document.querySelector('tr.chosen')")
    for _ in range(4):
        alone.press("one", "muon_pt_min", "PageUp")
        alone.wait(f"document.querySelector('.status').textContent === {json.dumps(alone.widget.view['summary'])}")
        assert page.locator("tr.chosen button").all_inner_texts() in ([], [name])
        assert page.locator(".event h3").inner_text() == f"Event {name}"
    other = page.locator(".list button").first
    expected = other.inner_text()
    other.click()
    alone.wait(f"document.querySelector('.event h3').textContent === 'Event {expected}'")


def test_shaded_region_is_described_as_failing_candidates(alone: Alone) -> None:
    text = alone.page.locator("p.hint", has_text="After all other cuts").inner_text()
    assert text.endswith("Candidates in the shaded region fail it; their event may have another candidate that passes.")


# --- Links ---------------------------------------------------------------------------------------------------------

PAGE = "http://127.0.0.1/user/ada/voila/render/dashboard.ipynb"


def wait_for_base(alone: Alone, base: str) -> None:
    alone.wait(f"document.querySelector('[data-base={base}]').getAttribute('aria-pressed') === 'true'")


def banners(alone: Alone) -> str:
    return "".join(alone.page.locator(".banner[role]").all_inner_texts())


def test_link_to_share_does_not_give_away_the_token_of_the_session(alone_at: Callable[[str], Alone]) -> None:
    alone = alone_at(f"{PAGE}?token=secret&theme=dark")
    alone.press("one", "muon_pt_min")
    assert alone.page.locator(".share input").input_value() == f"{PAGE}?theme=dark#higgsnb=open2012&muon_pt_min=5.5"


def test_link_is_followed_in_a_page_that_is_open_until_the_view_is_gone(alone_at: Callable[[str], Alone]) -> None:
    alone = alone_at(PAGE)
    alone.page.evaluate("location.hash = '#higgsnb=aod2012&muon_pt_min=20'")
    wait_for_base(alone, "aod2012")
    alone.wait("document.querySelector('.share input').value.endsWith('higgsnb=aod2012&muon_pt_min=20')")
    assert alone.values("muon_pt_min") == [alone.widget.cuts["muon_pt_min"]] == [20.0]
    asked = alone.widget.asked
    alone.page.evaluate("""() => {
        window.remove();
        const changed = new Promise((done) => addEventListener('hashchange', () => done(), { once: true }));
        location.hash = '#higgsnb=df103';
        return changed;
    }""")
    assert (alone.widget.base, alone.widget.asked) == ("aod2012", asked)


def test_link_does_not_undo_what_was_moved_since_when_the_widget_is_shown_again(
    alone_at: Callable[[str], Alone],
) -> None:
    alone = alone_at(f"{PAGE}#higgsnb=aod2012&muon_pt_min=20")
    wait_for_base(alone, "aod2012")
    alone.press("one", "muon_pt_min", times=2)
    alone.show("two")
    assert alone.values("muon_pt_min") == [21.0, 21.0]
    alone.press("two", "muon_pt_min")
    alone.wait("[...document.querySelectorAll('[data-cut=muon_pt_min]')].every((one) => one.value === '21.5')")


@pytest.mark.parametrize(
    ("link", "said", "base", "cuts"),
    [
        ("higgsnb=mine&muon_pt_min=20", ["“mine”"], "open2012", {}),
        ("higgsnb=" + "x" * 100_000, [f"“{'x' * 40}”"], "open2012", {}),
        (
            "higgsnb=aod2012&muon_pt_min=&z2_mass_min=abc&electron_pt_min=20",
            ["muon_pt_min=,", "z2_mass_min=abc."],
            "aod2012",
            {"electron_pt_min": 20.0},
        ),
        ("higgsnb=aod2012&jet_pt_min=4&muon_pt_min=1e9", ["jet_pt_min=4", "muon_pt_min=1e9"], "aod2012", None),
        ("higgsnb=aod2012&electron_pt_min=20", [], "aod2012", {"electron_pt_min": 20.0}),
    ],
    ids=["selection", "huge", "values", "cuts", "good"],
)
def test_ignored_parts_of_a_link_are_shown(
    alone_at: Callable[[str], Alone], link: str, said: list[str], base: str, cuts: dict[str, float] | None
) -> None:
    alone = alone_at(f"{PAGE}#{link}")
    alone.wait("document.querySelector('.share input').value.includes('#higgsnb=')")
    wait_for_base(alone, base)
    text = banners(alone)
    assert all(part in text for part in said)
    assert (text != "") == bool(said)
    if cuts is not None:
        published = next(one["cuts"] for one in alone.widget.setup["selections"] if one["name"] == base)
        assert alone.widget.cuts == {**published, **cuts}
    alone.page.locator("button.reset").click()
    assert banners(alone) == ""


# --- More than one, slow, and unseen -------------------------------------------------------------------------------


def test_label_belongs_to_the_slider_beside_it_with_two_explorers_on_a_page(alone: Alone) -> None:
    alone.show("two", another=True)
    names = alone.page.evaluate("[...document.querySelectorAll('[id]')].map((one) => one.id)")
    assert len(names) == len(set(names))
    alone.page.locator("#two .cut label").first.click()
    assert alone.page.evaluate("document.querySelector('#two').contains(document.activeElement)")


def test_numbers_are_marked_as_old_while_python_does_not_answer(alone: Alone) -> None:
    page = alone.page
    page.evaluate("""() => {
        const real = window.ask, held = [];
        window.ask = (sent) => new Promise((done) => held.push(() => real(sent).then(done)));
        window.answer = () => { window.ask = real; held.forEach((one) => one()); };
    }""")
    page.locator("[data-cut=muon_pt_min]").fill("30")
    said = "document.querySelector('.hgx').textContent.includes('Python has not answered')"
    alone.wait(said)
    page.evaluate("window.answer()")
    alone.wait(f"!{said}")
    assert (alone.widget.cuts["muon_pt_min"], banners(alone)) == (30.0, "")


def test_screen_reader_is_told_only_what_a_moved_cut_changes(alone: Alone) -> None:
    page = alone.page
    assert page.evaluate("[...document.querySelectorAll('output')].every((one) => one.ariaLive === 'off')")
    page.evaluate("""() => {
        window.written = new Set();
        const note = ({ target }) => written.add(target.htmlFor?.value || target.className);
        const observer = new MutationObserver((changes) => changes.forEach(note));
        const told = document.querySelectorAll('output, [role=status], [role=alert]');
        told.forEach((one) => observer.observe(one, { childList: true, characterData: true, subtree: true }));
    }""")
    before = alone.widget.view["summary"]
    slider = page.locator("[data-cut=muon_pt_min]")
    slider.fill("30")
    alone.wait(f"document.querySelector('.status').textContent !== {json.dumps(before)}")
    assert sorted(page.evaluate("[...written]")) == sorted([slider.get_attribute("id"), "status"])


def test_button_that_vanishes_passes_the_focus_on(alone: Alone) -> None:
    page = alone.page
    page.locator(".keep").focus()
    page.keyboard.press("Enter")
    alone.wait("!document.querySelector('.forget').hidden")
    page.locator(".forget").focus()
    page.keyboard.press("Enter")
    alone.wait("document.querySelector('.forget').hidden")
    assert page.evaluate(FOCUS) == "keep"


def test_yields_without_one_cut_never_stand_beside_those_of_other_cuts(alone: Alone) -> None:
    page = alone.page
    table = "[...document.querySelectorAll('table')].find((one) => one.textContent.includes('cut removed'))"
    cells = f"[...{table}.querySelectorAll('tbody tr:not(.last) td')].map((cell) => cell.textContent)"
    alone.wait(f"!{cells}.includes('…')")
    page.evaluate("""() => {
        const real = window.ask;
        window.ask = (sent) => ('rest' in sent ? new Promise(() => {}) : real(sent));
    }""")
    before = alone.widget.view["summary"]
    page.locator("[data-cut=muon_pt_min]").fill("30")
    alone.wait(f"document.querySelector('.status').textContent !== {json.dumps(before)}")
    assert set(page.evaluate(cells)) == {"…"}


def test_focus_is_with_the_event_that_was_chosen_again_and_a_new_size_does_not_move_it(alone: Alone) -> None:
    page, heading = alone.page, "document.activeElement.localName === 'h3'"
    page.locator(".bin").nth(7).click()
    alone.wait("document.querySelector('.list button')")
    for _ in range(2):
        page.locator(".list button").nth(2).click()
        alone.wait(heading)
    drawn = "document.querySelector('.event .views svg').getAttribute('viewBox')"
    for width, stays in ((900, heading), (800, "document.activeElement.dataset.cut === 'muon_pt_min'")):
        before = page.evaluate(drawn)
        page.set_viewport_size({"width": width, "height": 900})
        alone.wait(f"{drawn} !== '{before}'")
        assert page.evaluate(stays)
        page.locator("[data-cut=muon_pt_min]").focus()


def test_print_has_the_colours_for_paper_in_the_dark_theme_too(alone: Alone) -> None:
    page = alone.page
    alone.press("one", "muon_pt_min")
    page.locator(".bin").nth(7).click()
    page.locator(".list button").first.click()
    alone.wait("document.querySelector('.event h3')")
    colours = """['.z1-text', '.z2-text', '.cut.changed output'].map((name) => {
        const style = getComputedStyle(document.querySelector(name));
        return name.endsWith('text') ? style.fill : style.color;
    })"""
    light = page.evaluate(colours)
    page.evaluate("document.body.dataset.jpThemeLight = 'false'")
    assert not set(page.evaluate(colours)) & set(light)
    page.emulate_media(media="print")
    assert page.evaluate(colours) == light
