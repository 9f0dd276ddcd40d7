"""The live histogram where people meet it: a real JupyterLab and a real Voilà in headless Chromium."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from pages import ASK_KERNEL, ROWS, RUN_ALL, Server, Visit, notebook

import higgsnb as hn
from higgsnb.results import Result

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

pytestmark = pytest.mark.browser
SECONDS = 1000  # milliseconds, as playwright counts
LIVE = """
import higgsnb as hn
from higgsnb import widgets

live = widgets.LiveHistogram(hn.datasets.load("toy"), hn.selection.load("open2012"), workers=1, chunk_events=250)
live
"""
CONTROL = """
from higgsnb import widgets

control = widgets.ClusterControl(kind="local", workers=1, memory="500MB")
control
"""
COSTS = """
import higgsnb as hn
from higgsnb import widgets

control = widgets.ClusterControl(
    campaign=hn.datasets.load("cms2012"), price_gb=0.09, price_core_hour=0.05, kind="local", workers=4
)
assert control.wait(60)
control
"""
MORE_THAN = """
(events) => {
  const text = document.querySelectorAll(".hn-numbers span")[1].textContent;
  return Number(text.split(" ")[0].replaceAll(",", "")) > events;
}
"""


@pytest.fixture(scope="module")
def whole() -> Result:
    """The same run without a browser; it also makes the campaign and compiles the selection."""
    *_, result = hn.engine.run(hn.datasets.load("toy"), hn.selection.load("open2012"))
    return result


def open_in_lab(visit: Callable[..., Visit], lab: Server, name: str, *cells: str) -> Page:
    """Open a new notebook in JupyterLab and run all of it."""
    notebook(lab.folder / name, *cells)
    page = visit(viewport={"width": 1280, "height": 1100}).page
    page.goto(f"{lab.address}/lab/tree/{name}?reset")
    page.wait_for_function("window.jupyterapp?.shell.currentWidget?.sessionContext", timeout=60 * SECONDS)
    page.evaluate(RUN_ALL)
    page.wait_for_selector(".hn", timeout=60 * SECONDS)
    return page


def button(page: Page, name: str) -> Locator:
    return page.locator(".hn-live").get_by_role("button", name=name, exact=True)


def colour(page: Page, name: str) -> tuple[float, ...]:
    """A colour of the widget as red, green and blue."""
    text = page.evaluate("(name) => getComputedStyle(document.querySelector('.hn-live'))[name]", name)
    return tuple(float(part) for part in re.findall(r"[\d.]+", text)[:3])


def counted(page: Page) -> int:
    """The events counted, as the page says."""
    return int(page.locator(".hn-numbers span").nth(1).inner_text().split()[0].replace(",", ""))


def wait_for_phase(page: Page, phase: str) -> None:
    page.wait_for_selector(f".hn-live[data-phase={phase}]", timeout=120 * SECONDS)


def wait_for_more_than(page: Page, events: int) -> None:
    page.wait_for_function(MORE_THAN, arg=events, timeout=60 * SECONDS)


def shown(page: Page) -> dict[str, float]:
    """The numbers of the legend."""
    entries = page.locator(".hn-legend li")
    texts = [entries.nth(i).locator("span") for i in range(entries.count())]
    return {one.nth(1).inner_text(): float(one.nth(2).inner_text() or 0) for one in texts}


def assert_is_whole(page: Page, whole: Result) -> None:
    """What the finished page shows is what a run without any page gives."""
    in_range = whole.windows["70-181"]
    data = sum(one.events for one in in_range["data"].values())
    higgs = sum(one.expected for one in in_range["higgs"].values())
    numbers = shown(page)
    assert counted(page) == whole.coverage.events[0]
    assert numbers["Simulated data"] == data
    assert numbers["H → ZZ* → 4ℓ"] == pytest.approx(higgs, abs=0.05)
    assert page.locator(".hn-warning").is_hidden()


def test_in_jupyterlab_the_histogram_grows_stops_resumes_and_completes(
    visit: Callable[..., Visit], lab: Server, whole: Result, artefacts: Path
) -> None:
    page = open_in_lab(visit, lab, "grow.ipynb", LIVE)
    button(page, "Start").click()
    wait_for_more_than(page, 0)
    first = counted(page)
    wait_for_more_than(page, max(first, 30_000))
    assert page.evaluate(ASK_KERNEL, "print(6 * 7, live.state['phase'])") == "42 running\n"
    button(page, "Stop").click()
    wait_for_phase(page, "stopped")
    stopped = counted(page)
    assert first < stopped < whole.coverage.events[1]
    assert page.locator(".hn-warning").inner_text().startswith("PARTIAL: ")
    page.locator(".hn-live").screenshot(path=artefacts / "jupyterlab_stopped.png")
    button(page, "Resume").click()
    wait_for_more_than(page, stopped)
    wait_for_phase(page, "complete")
    assert_is_whole(page, whole)
    page.screenshot(path=artefacts / "jupyterlab_complete.png")
    page.evaluate("window.jupyterapp.commands.execute('apputils:change-theme', { theme: 'JupyterLab Dark' })")
    page.wait_for_selector("body[data-jp-theme-light=false]", state="attached")
    assert colour(page, "color") > (180, 180, 180)
    assert colour(page, "backgroundColor") < (60, 60, 60)
    page.screenshot(path=artefacts / "jupyterlab_dark.png")


def test_in_jupyterlab_the_keyboard_is_enough(visit: Callable[..., Visit], lab: Server, whole: Result) -> None:
    page = open_in_lab(visit, lab, "keyboard.ipynb", LIVE.replace("=250", "=25"))  # long enough for slow hands
    button(page, "Start").focus()
    page.keyboard.press("Enter")
    wait_for_more_than(page, 0)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Stop"
    page.keyboard.press("Space")
    wait_for_phase(page, "stopped")
    page.keyboard.press("Shift+Tab")
    assert page.evaluate("document.activeElement.textContent") == "Resume"
    assert 0 < counted(page) < whole.coverage.events[1]


def test_in_jupyterlab_a_cluster_is_launched_replaced_when_it_died_and_stopped(
    visit: Callable[..., Visit], lab: Server, artefacts: Path
) -> None:
    page = open_in_lab(visit, lab, "cluster.ipynb", CONTROL)
    panel = page.locator(".hn-cluster")
    panel.get_by_role("button", name="Launch").click()
    page.wait_for_selector(".hn-cluster[data-phase=ready]", timeout=120 * SECONDS)
    assert "local: ready, 1 of 1 workers" in panel.inner_text()
    panel.screenshot(path=artefacts / "jupyterlab_cluster.png")
    ask = "print(control.get_client().submit(sum, [20, 22]).result())"
    assert page.evaluate(ASK_KERNEL, ask) == "42\n"
    page.evaluate(ASK_KERNEL, "control.get_client().shutdown()")
    page.wait_for_selector(".hn-cluster[data-phase=failed]", timeout=60 * SECONDS)
    panel.get_by_role("button", name="Launch").click()
    page.wait_for_selector(".hn-cluster[data-phase=ready]", timeout=120 * SECONDS)
    assert page.evaluate(ASK_KERNEL, ask) == "42\n"
    panel.get_by_role("button", name="Stop").click()
    page.wait_for_selector(".hn-cluster[data-phase=closed]", timeout=60 * SECONDS)


def test_in_jupyterlab_the_costs_of_a_cluster_stand_in_two_columns(
    visit: Callable[..., Visit], lab: Server, artefacts: Path
) -> None:
    page = open_in_lab(visit, lab, "costs.ipynb", COSTS)
    rows = page.locator(".hn-costs").evaluate(ROWS)
    page.locator(".hn").screenshot(path=artefacts / "jupyterlab_costs.png")
    assert len(rows) >= 4
    assert len({(left, right) for left, right, _, _ in rows}) == 1
    assert all(level and apart for _, _, level, apart in rows)


def test_in_voila_the_histogram_grows_stops_resumes_and_completes(
    visit: Callable[..., Visit], voila_server: Callable[[Path], Server], whole: Result, tmp_path: Path, artefacts: Path
) -> None:
    server = voila_server(notebook(tmp_path / "live.ipynb", LIVE))
    window = visit(viewport={"width": 390, "height": 844})
    page = window.page
    page.goto(server.address, timeout=60 * SECONDS)
    page.wait_for_selector(".hn-live[data-phase=ready]", timeout=60 * SECONDS)
    button(page, "Start").click()
    wait_for_more_than(page, 20_000)
    button(page, "Stop").click()
    wait_for_phase(page, "stopped")
    stopped = counted(page)
    page.locator(".hn-live").screenshot(path=artefacts / "voila_phone_stopped.png")
    button(page, "Resume").click()
    wait_for_more_than(page, stopped)
    wait_for_phase(page, "complete")
    assert_is_whole(page, whole)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert [address for address in window.refused if "fontawesome" not in address] == []  # those are Voilà's own
