"""The notebook for an analysis of one's own, on a desktop in JupyterLab and on a phone in Voilà."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from pages import ASK_KERNEL, ROOT, RUN_ALL, Server, Visit, notebook

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.browser
NOTEBOOK = ROOT / "notebooks" / "10_bring_your_own_analysis.ipynb"
SECONDS = 1000  # milliseconds, as playwright counts
STICKING_OUT = """
() => [...document.querySelectorAll("img, svg, table, pre, p, h1, h2, h3, .hn")]
  .filter((one) => one.getBoundingClientRect().right > innerWidth + 1)
  .map((one) => `${one.tagName} ${one.className} ${one.textContent.slice(0, 40)}`)
"""
OWN = (
    """
import awkward as ak
import numpy as np
import higgsnb as hn

CUT = 20.0
control = hn.widgets.ClusterControl(campaign="toy", kind="local", workers=1, memory="500MB")
control
""",
    """
def good(muons):
    return (muons.pt > CUT) & (np.abs(muons.eta) < 2.4)

def dimuons(events):
    muons = events.Muon[good(events.Muon)]
    two = ak.num(muons) == 2
    events, muons = events[two], muons[two]
    same = muons[:, 0].charge == muons[:, 1].charge
    return hn.Selected(events, mass=ak.sum(muons, axis=1).mass, pt=muons.pt, regions={"Z": ~same, "same": same})

axes = [hn.Axis("mass", 60, 60, 120), hn.Axis("pt", 50, 0, 100, label="muon pT", unit="GeV", per_event=2)]
columns = ["Muon_pt", "Muon_eta", "Muon_phi", "Muon_mass", "Muon_charge"]
z = hn.Analysis("zmumu", dimuons, columns=columns, preselection="nMuon >= 2", axes=axes, regions=["Z", "same"])
live = hn.widgets.LiveHistogram("toy", z, histogram="pt", region="same", client=control, chunk_events=2000)
live
""",
)
"""Cells with a function, a helper and a constant that exist in the notebook alone."""
SHOWN_DATA = "Number(document.querySelector('.hn-live .hn-legend li span:last-child').textContent.replaceAll(',', ''))"
FIGURES = 4
"""Figures of the notebook, without the live one."""


def wait_until_run(page: Page) -> None:
    """Wait for the live histogram to be complete, and for the table of what was run below it."""
    page.wait_for_selector(".hn-live[data-phase=complete]", state="attached", timeout=240 * SECONDS)
    page.get_by_text("121,198 of 121,198").last.wait_for(state="attached", timeout=120 * SECONDS)
    page.locator("td", has_text="higgsnb").wait_for(state="attached", timeout=120 * SECONDS)


def test_on_a_desktop_every_cell_runs_and_every_figure_has_its_text(
    visit: Callable[..., Visit], lab: Server, artefacts: Path
) -> None:
    shutil.copy(NOTEBOOK, lab.folder)
    page = visit(viewport={"width": 1280, "height": 20_000}).page  # high enough for all of it
    page.goto(f"{lab.address}/lab/tree/{NOTEBOOK.name}?reset")
    page.wait_for_function("window.jupyterapp?.shell.currentWidget?.sessionContext", timeout=60 * SECONDS)
    page.evaluate(RUN_ALL)
    wait_until_run(page)
    page.screenshot(path=artefacts / "own_analysis_desktop.png")
    wrong = ", ".join(f".jp-OutputArea [data-mime-type*={kind}]" for kind in ("error", "stderr"))
    assert page.locator(wrong).count() == 0
    texts = page.locator(".jp-OutputArea img").evaluate_all("some => some.map((one) => one.alt)")
    assert len(texts) == FIGURES
    assert all("simulated collisions" in text.lower() for text in texts)
    assert "same sign" in texts[1]


def test_on_a_phone_nothing_sticks_out(
    visit: Callable[..., Visit], voila_server: Callable[[Path], Server], tmp_path: Path, artefacts: Path
) -> None:
    shutil.copy(NOTEBOOK, tmp_path / NOTEBOOK.name)
    page = visit(viewport={"width": 390, "height": 844}).page
    page.goto(voila_server(tmp_path / NOTEBOOK.name).address, timeout=240 * SECONDS)
    wait_until_run(page)
    page.screenshot(path=artefacts / "own_analysis_phone.png")
    assert page.evaluate(STICKING_OUT) == []
    page.set_viewport_size({"width": 270, "height": 844})  # as narrow as the notebook is in JupyterLab on a phone
    page.wait_for_function("document.querySelector('.hn-live svg').getBoundingClientRect().width < 260")
    labels = page.locator(".hn-live svg text[text-anchor=middle]").all_text_contents()
    assert {"60", "120"} < set(labels)


def test_function_of_a_cell_travels_to_the_cluster_of_the_panel(
    visit: Callable[..., Visit], lab: Server, artefacts: Path
) -> None:
    """One axis of one region fills while it runs; stopped and resumed, it has what a run without a page has."""
    notebook(lab.folder / "own.ipynb", *OWN)
    page = visit(viewport={"width": 1280, "height": 1800}).page
    page.goto(f"{lab.address}/lab/tree/own.ipynb?reset")
    page.wait_for_function("window.jupyterapp?.shell.currentWidget?.sessionContext", timeout=60 * SECONDS)
    page.evaluate(RUN_ALL)
    page.wait_for_selector(".hn-live", timeout=60 * SECONDS)
    page.locator(".hn-cluster").get_by_role("button", name="Launch").click()
    page.wait_for_selector(".hn-cluster[data-phase=ready]", timeout=120 * SECONDS)
    live = page.locator(".hn-live")
    live.get_by_role("button", name="Start", exact=True).click()
    page.wait_for_function(f"{SHOWN_DATA} > 20", timeout=120 * SECONDS)
    assert "muon pT [GeV]" in live.locator("svg").text_content()
    live.screenshot(path=artefacts / "own_analysis_live.png")
    live.get_by_role("button", name="Stop", exact=True).click()
    page.wait_for_selector(".hn-live[data-phase=stopped]", timeout=60 * SECONDS)
    stopped = page.evaluate(SHOWN_DATA)
    live.get_by_role("button", name="Resume", exact=True).click()
    page.wait_for_selector(".hn-live[data-phase=complete]", timeout=240 * SECONDS)
    page.screenshot(path=artefacts / "own_analysis_panel.png")
    ask = "*_, alone = hn.engine.run('toy', z); print(alone.region_spectrum('pt', 'same').data.sum())"
    assert 20 < stopped < page.evaluate(SHOWN_DATA) == int(page.evaluate(ASK_KERNEL, ask))
    page.locator(".hn-cluster").get_by_role("button", name="Stop").click()
    page.wait_for_selector(".hn-cluster[data-phase=closed]", timeout=60 * SECONDS)
