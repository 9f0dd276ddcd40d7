"""What is left of a widget on a page without a kernel: a picture, and nothing that is fetched from elsewhere."""

from __future__ import annotations

import html
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

import higgsnb as hn
from higgsnb import widgets
from higgsnb.results import Result
from higgsnb.widgets import view

OPEN = hn.selection.load("open2012")
VIEW = "application/vnd.jupyter.widget-view+json"
CELL = """
import higgsnb as hn

result = hn.engine.watch(hn.datasets.load("toy"), hn.selection.load("open2012"))
for widget in (
    hn.widgets.CutExplorer(result),
    hn.widgets.EventDisplay(result, 3),
    hn.widgets.LiveHistogram(result.campaign, result.selection),
    hn.widgets.ClusterControl(kind="local"),
):
    display(widget)
"""


@pytest.fixture(scope="module")
def result() -> Result:
    return hn.engine.watch(hn.datasets.load("toy"), OPEN)


def test_explorer_shows_the_current_cuts_and_spectrum_as_a_picture(result: Result) -> None:
    explorer = widgets.CutExplorer(result)
    data, _ = explorer._repr_mimebundle_()
    assert set(data) == {"text/plain", "text/html", "image/png", VIEW}
    assert "23 events found" in data["text/plain"]
    assert 'alt="higgsnb toy — simulated collisions' in data["text/html"]
    assert "Simulated data 114 events" in data["text/html"]
    explorer.select(muon_pt_min=15)
    explorer.variable = "mass_z1"
    changed = hn.plots.mass_4l(explorer.result(), histogram="mass_z1")
    assert changed.alt in explorer._repr_mimebundle_()[0]["text/html"].replace("&gt;", ">")


def test_live_histogram_shows_what_has_been_counted(result: Result) -> None:
    live = widgets.LiveHistogram(result.campaign, result.selection)
    live.start()
    assert live.wait(120)
    assert "Simulated data 114 events" in live._repr_mimebundle_()[0]["text/html"]


def test_event_display_names_its_leptons_with_their_numbers(result: Result) -> None:
    display = widgets.EventDisplay(result, 3)
    shown = display._repr_mimebundle_()[0]["text/html"]
    for lepton in display.event["leptons"]:
        assert f"pT {lepton['pt']:.1f} GeV" in shown


def test_cluster_panel_leaves_its_costs_as_a_table() -> None:
    control = widgets.ClusterControl(campaign="cms2012", kind="local", price_gb=0.09)
    assert control.wait(60)
    shown = html.unescape(control._repr_mimebundle_()[0]["text/html"])
    assert [cost for _, cost in control.state["costs"] if cost not in shown] == []
    assert ">none<" in shown


def test_voila_gets_the_view_without_the_time_of_a_picture(result: Result, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(view.VOILA, "http://127.0.0.1:8866/")
    assert set(widgets.EventDisplay(result, 3)._repr_mimebundle_()[0]) == {"text/plain", VIEW}


@pytest.fixture(scope="module")
def executed(tmp_path_factory: pytest.TempPathFactory) -> nbformat.NotebookNode:
    """A notebook with every widget, run by a program."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(CELL)])
    folder = str(tmp_path_factory.mktemp("run"))
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": folder}}).execute()
    return notebook


@pytest.mark.one_python
def test_program_that_runs_a_notebook_finds_pictures_and_no_widgets(executed: nbformat.NotebookNode) -> None:
    shown = [one["data"] for one in executed.cells[0].outputs if "watch" not in one.get("text", "")][-4:]
    assert [sorted(data) for data in shown] == [
        *[["image/png", "text/html", "text/plain"]] * 3,
        ["text/html", "text/plain"],
    ]
    assert "widgets" not in executed.metadata


@pytest.mark.one_python
def test_page_made_by_nbconvert_has_the_pictures_and_fetches_no_widgets(
    executed: nbformat.NotebookNode, tmp_path: Path
) -> None:
    nbconvert = pytest.importorskip("nbconvert", reason="no nbconvert; pip install nbconvert")
    page, _ = nbconvert.HTMLExporter().from_notebook_node(executed)
    (tmp_path / "page.html").write_text(page, encoding="utf-8")
    images = re.findall(r"<img [^>]*>", page)
    assert len(images) == 3
    for image in images:
        assert 'src="data:image/png;base64,' in image
        assert re.search(r'alt="[^"]{40,}"', image)
    assert "CutExplorer object" not in page
    for server in ("unpkg.com", "jsdelivr", "html-manager"):
        assert server not in page
