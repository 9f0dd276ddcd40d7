"""The explorer as a widget: what the view sets is answered, what makes no sense is told, nothing else can be set."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest
from generators import random_leptons, without
from outreach import campaign, dataset, events_of, write

from higgsnb import engine, explorer, exploring, histograms, selection
from higgsnb.analysis import Result
from higgsnb.datasets import Campaign
from higgsnb.selection import CHANNELS, SelectionError

OPEN = selection.load("open2012")
SCRIPT = (explorer.STATIC / "explorer.js").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Campaign:
    folder = tmp_path_factory.mktemp("explorer")
    leptons = random_leptons(2500, seed=28)
    paths = [write(folder / f"{i}.root", events_of(leptons, 500 * i, 500 * i + 500)) for i in range(4)]
    return campaign(
        dataset("mu", "data", paths[0], stream="DoubleMu"),
        dataset("e", "data", paths[1], stream="DoubleElectron"),
        dataset("h", "higgs", paths[2], cross_section_pb=0.5),
        dataset("mc", "zz", paths[3], cross_section_pb=1.0),
        title="A <b>test</b> & more",
    )


@pytest.fixture(scope="module")
def result(one: Campaign) -> Result:
    *_, last = engine.run(one, OPEN, workers=1)
    return last


@pytest.fixture
def widget(result: Result, tmp_path: Path) -> explorer.CutExplorer:
    return explorer.CutExplorer(result, skims_folder=tmp_path)


def set_by_view(widget: explorer.CutExplorer, **state: object) -> None:
    """What arrives from a browser."""
    widget.set_state(state)


def data_of(widget: explorer.CutExplorer) -> dict[str, float]:
    return next(row for row in widget.view["yields"] if row["process"] == "data")


def test_slider_moves_spectrum_yields_and_cutflow_to_those_of_the_engine(
    one: Campaign, widget: explorer.CutExplorer
) -> None:
    set_by_view(widget, cuts={**widget.cuts, "muon_pt_min": 11.5}, asked=1)
    *_, expected = engine.run(one, OPEN.replace(muon_pt_min=11.5), workers=1)
    for channel, number in data_of(widget)["channels"].items():
        assert number == expected.yields["data"][channel].events
    counts = sum(histograms.counts_of(expected.counts[name], "mass_4l")[:, 1:-1].sum(axis=0) for name in ("mu", "e"))
    assert widget.view["spectrum"]["data"] == counts.tolist()
    assert widget.view["asked"] == 1
    assert widget.selection == OPEN.replace(muon_pt_min=11.5)
    result = widget.result()
    assert result.selection.digest == widget.selection.digest
    assert result.yields == expected.yields


@pytest.mark.parametrize("name", ["open2012", "aod2012", "df103"])
def test_published_selection_is_one_message_away(one: Campaign, widget: explorer.CutExplorer, name: str) -> None:
    cuts = next(base["cuts"] for base in widget.setup["selections"] if base["name"] == name)
    set_by_view(widget, base=name, cuts=cuts, asked=1)
    *_, expected = engine.run(one, selection.load(name), workers=1)
    assert data_of(widget)["all"] == sum(one.events for one in expected.yields["data"].values())
    assert widget.selection.digest == selection.load(name).digest
    assert widget.view["changes"] == {}


def test_kept_selection_is_compared_with_the_present_one(widget: explorer.CutExplorer) -> None:
    before = data_of(widget)
    set_by_view(widget, kept={"base": "open2012", "cuts": widget.cuts})
    widget.select(muon_pt_min=20, electron_pt_min=20)
    kept = next(row for row in widget.view["kept"]["yields"] if row["process"] == "data")
    assert kept == before
    assert data_of(widget)["all"] < before["all"]
    assert sum(widget.view["kept"]["spectrum"]["data"]) >= sum(widget.view["spectrum"]["data"])
    set_by_view(widget, kept={})
    assert widget.view["kept"] is None


def test_contradicting_cuts_are_told_and_the_last_good_answer_stays(widget: explorer.CutExplorer) -> None:
    before = data_of(widget)
    set_by_view(widget, cuts={**widget.cuts, "lepton_pt_subleading": 30.0}, asked=1)
    assert "lepton_pt_subleading = 30.0 is above lepton_pt_leading" in widget.view["error"]
    assert widget.view["asked"] == 1
    assert data_of(widget) == before
    set_by_view(widget, cuts={**widget.cuts, "lepton_pt_subleading": 10.0}, asked=2)
    assert widget.view["error"] == ""


@pytest.mark.parametrize(
    "cuts", [{"muon_pt_min": "1; import os"}, {"muon_pt_min": -3}, {"sip_max": 1e9}, {"muon_pt_min": float("nan")}]
)
def test_nonsense_from_the_view_is_told_and_changes_nothing(widget: explorer.CutExplorer, cuts: dict) -> None:
    set_by_view(widget, cuts={**widget.cuts, **cuts}, asked=1)
    assert next(iter(cuts)) in widget.view["error"]


def test_view_cannot_set_what_is_no_cut(widget: explorer.CutExplorer) -> None:
    set_by_view(widget, cuts={**widget.cuts, "name": "hacked", "algorithm": "df103", "z_mass": 1.0}, asked=1)
    assert (widget.selection.name, widget.selection.algorithm, widget.selection.z_mass) == (
        "open2012",
        "open2012",
        91.1876,
    )
    set_by_view(widget, base="nowhere", asked=2)
    assert "no selection 'nowhere'" in widget.view["error"]


def test_bin_lists_its_candidates_and_one_of_them_is_shown(widget: explorer.CutExplorer) -> None:
    number = int(np.argmax(widget.view["spectrum"]["data"]))
    set_by_view(widget, bin=number)
    assert widget.listing["rows"]
    low = histograms.axis("mass_4l").edges[number]
    assert widget.listing["title"] == f"Four-lepton mass from {low:g} to {low + 3:g} GeV"
    chosen = widget.listing["rows"][0]
    set_by_view(widget, place=chosen["place"])
    assert widget.event["name"] == chosen["name"]
    assert len(widget.event["leptons"]) == 4
    set_by_view(widget, place=[99, 99])
    assert widget.event["name"] == chosen["name"]
    set_by_view(widget, bin=-1, place=[])
    assert (widget.listing, widget.event) == ({}, {})


def test_distribution_follows_the_focus_and_not_its_own_cut(widget: explorer.CutExplorer) -> None:
    set_by_view(widget, focus="sip_max")
    assert widget.distribution["cut"] == "sip_max"
    before = widget.distribution
    set_by_view(widget, cuts={**widget.cuts, "sip_max": 2.0}, asked=1)
    assert widget.distribution == before
    set_by_view(widget, cuts={**widget.cuts, "muon_pt_min": 15.0}, asked=2)
    assert widget.distribution != before
    set_by_view(widget, focus="nothing")
    assert widget.distribution["cut"] == "sip_max"


def test_yields_without_each_cut_are_complete_in_the_end_and_right(
    widget: explorer.CutExplorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(explorer, "SECONDS_AT_A_TIME", 0.0)
    asked = 0
    while not widget.without.get("complete"):
        asked += 1
        set_by_view(widget, rest=asked)
        assert asked < 30
    assert asked > 5
    for cut in ("muon_isolation_max", "z1_mass_max", "mass_4l_min"):
        found = widget.sample.select(exploring.without(OPEN, cut))
        assert widget.without["rows"][cut]["data"] == sum(found.counts[i][:, :39].sum() for i in (0, 1))


def test_other_spectrum_is_drawn_of_the_same_selection(widget: explorer.CutExplorer) -> None:
    set_by_view(widget, variable="mass_z1")
    assert widget.view["spectrum"]["name"] == "mass_z1"
    assert sum(widget.view["spectrum"]["data"]) == data_of(widget)["all"]  # the window of Z1 is the range of the axis


def test_own_selection_is_offered_beside_the_published_ones(result: Result, tmp_path: Path) -> None:
    own = dataclasses.replace(OPEN, name="mine", z_mass=90.0)
    widget = explorer.CutExplorer(result, own, skims_folder=tmp_path)
    assert widget.base == "mine"
    assert widget.selection.z_mass == 90.0
    changed = explorer.CutExplorer(result, OPEN.replace(muon_pt_min=9), skims_folder=tmp_path)
    assert (changed.base, changed.view["changes"]) == ("open2012", {"muon_pt_min": 9.0})
    with pytest.raises(SelectionError, match="differs from open2012, aod2012, df103 in more than can be moved here"):
        changed.select(own)


def test_cut_that_has_no_meaning_in_the_data_is_off(tmp_path: Path) -> None:
    leptons = without(random_leptons(300, seed=5), "isolation")
    full = dataset("mc", "zz", write(tmp_path / "mc.root", random_leptons(300, seed=5)), cross_section_pb=1.0)
    *_, result = engine.run(campaign(full), OPEN, workers=1)
    lacking = frozenset(f"{flavour}_isolation" for flavour in ("muon", "electron"))
    assert leptons.muon_isolation is None
    partial = dataclasses.replace(result, tally=dataclasses.replace(result.tally, not_applied={0: lacking}))
    assert explorer._off(partial) == {
        "muon_isolation_max": "not in these data",
        "electron_isolation_max": "not in these data",
    }
    assert explorer._off(result) == {}


def test_partial_and_simulated_results_say_so(one: Campaign, tmp_path: Path) -> None:
    *_, part = engine.run(dataclasses.replace(one, simulated=True), OPEN, fraction=0.5, workers=1)
    for widget in (explorer.CutExplorer(part, skims_folder=tmp_path), explorer.EventDisplay(part)):
        assert widget.setup["note"].startswith("Simulated collisions, no real data — PARTIAL: 50 % of events")


def test_state_is_plain_json_and_holds_the_title_as_text(widget: explorer.CutExplorer) -> None:
    state = {name: getattr(widget, name) for name in widget.keys if not name.startswith("_")}
    state = {name: value for name, value in state.items() if name not in ("layout", "tabbable", "tooltip")}
    assert json.loads(json.dumps(state))["setup"]["title"] == "A <b>test</b> & more"


def test_event_display_shows_a_row_of_the_result(result: Result) -> None:
    display = explorer.EventDisplay(result, 3)
    table = result.candidates
    assert display.event["mass_4l"] == pytest.approx(table.mass_4l[3], abs=0.006)
    assert display.event["channel"] == CHANNELS[table.channel[3]]
    assert [lepton["pt"] for lepton in display.event["leptons"]] == pytest.approx(table.pt[3].tolist(), abs=1e-3)
    display.show(4)
    assert display.event["name"].endswith(f":{table.event[4]}")
    with pytest.raises(IndexError, match="row = -1"):
        display.show(-1)


# --- The script ----------------------------------------------------------------------------------------------------


def test_script_sets_text_as_text_and_knows_no_address() -> None:
    for way in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function", "import("):
        assert way not in SCRIPT
    assert re.findall(r"\b(?:https?|wss?):", SCRIPT.replace("http://www.w3.org/2000/svg", "")) == []
    assert re.search(r"^\s*import\b|fetch\(|XMLHttpRequest|WebSocket|url\(", SCRIPT, re.MULTILINE) is None
    style = (explorer.STATIC / "explorer.css").read_text(encoding="utf-8")
    assert "url(" not in style
    assert "@import" not in style


def test_script_and_python_know_the_same_traits() -> None:
    used = set(re.findall(r'model\.(?:get|set)\("(\w+)"', SCRIPT))
    assert used <= set(explorer.CutExplorer.class_trait_names())
    assert {"cuts", "base", "view", "kept", "bin", "place", "focus"} <= used
