"""The explorer as a widget: what the view sets is answered, what makes no sense is told, nothing else can be set."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filling import BINNING
from generators import random_leptons, without
from outreach import campaign, dataset, events_of, write
from traitlets import TraitError

from higgsnb import engine, plots, selection
from higgsnb.datasets import Campaign
from higgsnb.errors import SelectionError
from higgsnb.results import PreselectedEvents, Result
from higgsnb.selection import CHANNELS
from higgsnb.widgets import explorer, explorer_data, sliders
from higgsnb.widgets.view import static

OPEN = selection.load("open2012")
SCRIPT, STYLE = static("explorer.js"), static("explorer.css")


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Campaign:
    folder = tmp_path_factory.mktemp("explorer")
    leptons = random_leptons(2500, seed=28)
    paths = [write(folder / f"{i}.root", events_of(leptons, 500 * i, 500 * i + 500)) for i in range(4)]
    return campaign(
        dataset("mu", "data", paths[0], primary_dataset="DoubleMu"),
        dataset("e", "data", paths[1], primary_dataset="DoubleElectron"),
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
    counts = sum(BINNING.counts_of(expected.counts[name], "mass_4l")[:, 1:-1].sum(axis=0) for name in ("mu", "e"))
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


CONTRADICTION = {"lepton_pt_subleading": 30.0}


@pytest.mark.parametrize("base", ["open2012", "aod2012", "nowhere"])
def test_error_stays_until_it_is_mended_and_what_is_shown_belongs_together(
    widget: explorer.CutExplorer, base: str
) -> None:
    widget.select(muon_pt_min=9.0)
    before = widget.view
    set_by_view(widget, base=base, cuts={**widget.cuts, **CONTRADICTION}, asked=9)
    told = widget.view["error"]
    assert told
    for name, state in (("mass_z1", {"variable": "mass_z1"}), ("mass_z1", {"kept": {"base": "df103", "cuts": {}}})):
        set_by_view(widget, **state)
        assert widget.view["error"] == told
        assert widget.view["spectrum"]["name"] == name
        for what in ("yields", "cutflow", "changes", "snippet", "summary", "base"):
            assert widget.view[what] == before[what]
    set_by_view(widget, bin=10, focus="sip_max", rest=1)
    assert widget.distribution == explorer_data.n_minus_one(widget.sample, OPEN.replace(muon_pt_min=9.0), "sip_max")
    set_by_view(widget, base="aod2012", cuts={**widget.cuts, "lepton_pt_subleading": 10.0}, asked=10)
    assert widget.view["error"] == ""
    assert (widget.view["base"], "load('aod2012')" in widget.view["snippet"]) == ("aod2012", True)


@pytest.mark.parametrize("state", [{"cuts": CONTRADICTION}, {"base": "nowhere"}, {"cuts": {"sip_max": 1e9}}])
def test_select_mends_what_makes_no_sense(widget: explorer.CutExplorer, state: dict) -> None:
    widget.select(muon_pt_min=9.0)
    cuts = widget.cuts | state.get("cuts", {})
    set_by_view(widget, base=state.get("base", "open2012"), cuts=cuts, asked=9)
    assert widget.view["error"]
    widget.select(lepton_pt_subleading=5)
    assert widget.selection == OPEN.replace(muon_pt_min=9.0, lepton_pt_subleading=5)
    assert widget.view["error"] == ""


def test_select_refuses_what_is_looser_than_what_is_held_and_changes_nothing(widget: explorer.CutExplorer) -> None:
    before = (widget.base, widget.cuts, widget.asked, widget.view)
    with pytest.raises(SelectionError, match=r"muon_isolation_max = 1\.5 is looser than the preselection"):
        widget.select(muon_isolation_max=1.5)
    assert (widget.base, widget.cuts, widget.asked, widget.view) == before


@pytest.mark.parametrize("variable", ["nothing", "lepton_pt", "", None, 3])
def test_spectrum_that_is_not_offered_is_refused_and_the_sliders_go_on(
    widget: explorer.CutExplorer, variable: object
) -> None:
    with pytest.raises(TraitError, match="variable"):
        set_by_view(widget, variable=variable)
    set_by_view(widget, cuts={**widget.cuts, "muon_pt_min": 9.0}, asked=1)
    assert widget.view["changes"] == {"muon_pt_min": 9.0}
    assert widget.view["spectrum"]["name"] == "mass_4l"


@pytest.mark.parametrize(
    "kept",
    [
        {"base": "open2012", "cuts": 5}, {"base": "open2012", "cuts": "ab"}, {"base": "open2012", "cuts": [1]},
        {"cuts": {}}, {"base": ["open2012"]}, {"base": "open2012", "cuts": {"muon_pt_min": []}}, {"a": 1},
        {"base": "open2012", "cuts": CONTRADICTION}, {"base": "open2012", "cuts": None},
    ],
)  # fmt: skip
def test_nonsense_to_compare_with_is_left_out_and_the_sliders_go_on(widget: explorer.CutExplorer, kept: dict) -> None:
    set_by_view(widget, kept=kept)
    assert widget.view["kept"] is None
    set_by_view(widget, cuts={**widget.cuts, "muon_pt_min": 9.0}, asked=1)
    assert widget.view["changes"] == {"muon_pt_min": 9.0}


@pytest.mark.parametrize("place", [[1], [0, 0], [0, 1, 2, 3], [99, 99, 99], [0, -1, 0]])
def test_place_of_no_event_shows_none(widget: explorer.CutExplorer, place: list[int]) -> None:
    set_by_view(widget, place=place)
    assert widget.event == {}


def test_bin_beyond_the_axis_is_empty(widget: explorer.CutExplorer) -> None:
    for number in (37, 10**6, -2):
        set_by_view(widget, bin=number)
        assert widget.listing == {}


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
    low = BINNING.axis("mass_4l").edges[number]
    assert widget.listing["title"] == f"Four-lepton mass from {low:g} to {low + 3:g} GeV"
    chosen = widget.listing["rows"][0]
    set_by_view(widget, place=chosen["place"])
    assert widget.event["name"] == chosen["name"]
    assert len(widget.event["leptons"]) == 4
    set_by_view(widget, place=[99, 99, 0])
    assert widget.event["name"] == chosen["name"]
    set_by_view(widget, bin=-1, place=[])
    assert (widget.listing, widget.event) == ({}, {})


def fullest(widget: explorer.CutExplorer) -> int:
    return int(np.argmax(widget.view["spectrum"]["data"]))


def test_list_follows_every_move(widget: explorer.CutExplorer) -> None:
    set_by_view(widget, bin=fullest(widget))
    before = widget.listing
    for asked, chosen in enumerate((OPEN.replace(muon_pt_min=12), OPEN.replace(z1_mass_min=80), OPEN), start=1):
        set_by_view(widget, cuts=explorer._cuts(chosen), asked=asked)
        fresh = explorer_data.candidates(widget.sample.select(chosen), "mass_4l", widget.bin)
        assert {name: widget.listing[name] for name in fresh} == fresh
        assert (widget.listing == before) == (chosen == OPEN)


def test_chosen_event_stays_the_same_row_while_cuts_move(widget: explorer.CutExplorer) -> None:
    set_by_view(widget, bin=fullest(widget))
    shown = widget.listing["rows"][-1]
    last, moved = len(widget.listing["rows"]) - 1, 0
    set_by_view(widget, place=shown["place"])
    for asked, value in enumerate((6.0, 8.0, 9.5, 11.0), start=1):
        set_by_view(widget, cuts={**widget.cuts, "muon_pt_min": value}, asked=asked)
        rows = [row["name"] for row in widget.listing["rows"]]
        highlighted = [row["name"] for row in widget.listing["rows"] if row["place"] == widget.place]
        assert highlighted in ([], [shown["name"]])
        assert widget.event["name"] == shown["name"]
        moved += shown["name"] in rows and rows.index(shown["name"]) != last
    assert moved
    for row in widget.listing["rows"]:
        set_by_view(widget, place=row["place"])
        assert widget.event["name"] == row["name"]


def test_event_is_drawn_anew_when_a_cut_pairs_its_leptons_otherwise(widget: explorer.CutExplorer) -> None:
    first, second = (
        {tuple(row["place"]): row for n in range(37) for row in explorer_data.candidates(found, "mass_4l", n)["rows"]}
        for found in (widget.sample.select(OPEN), widget.sample.select(OPEN.replace(z1_mass_max=90.0), slot="other"))
    )
    place = next(place for place in first if place in second and first[place]["mass_z1"] > 90.0)
    set_by_view(widget, place=list(place))
    assert widget.event["mass_z1"] == first[place]["mass_z1"]
    widget.select(z1_mass_max=90.0)
    assert widget.event["mass_z1"] == second[place]["mass_z1"] < 90.0


@pytest.mark.parametrize("name", ["open2012", "aod2012", "df103"])
def test_what_a_user_selects_of_the_sample_does_not_reach_the_view(widget: explorer.CutExplorer, name: str) -> None:
    widget.select("aod2012")

    def listings() -> list[dict]:
        found = []
        for number in range(37):
            set_by_view(widget, bin=number)
            found.append(widget.listing)
        return found

    before = listings()
    widget.sample.select(selection.load(name).replace(muon_pt_min=15.0))
    assert listings() == before
    assert widget.outcome.selection == selection.load("aod2012")
    assert listings() == before


def test_interrupted_move_leaves_nothing_half_done(
    widget: explorer.CutExplorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    widget.select("aod2012", muon_pt_min=9.0)
    set_by_view(widget, bin=fullest(widget))
    wanted = selection.load("aod2012").replace(muon_pt_min=20.0)
    with monkeypatch.context() as patch:
        patch.setattr("higgsnb.results.reselect.pairings.choose", interrupted)
        with pytest.raises(KeyboardInterrupt):
            widget.select(wanted)
    fresh = explorer_data.candidates(widget.sample.select(wanted, slot="fresh"), "mass_4l", widget.bin + 1)
    set_by_view(widget, bin=widget.bin + 1)
    assert {name: widget.listing[name] for name in fresh} == fresh
    set_by_view(widget, asked=widget.asked + 1)
    expected = explorer_data.yields(widget.sample.select(wanted, slot="fresh"))
    assert widget.view["yields"] == expected
    fresh = explorer_data.candidates(widget.sample.select(wanted, slot="fresh"), "mass_4l", widget.bin)
    assert {name: widget.listing[name] for name in fresh} == fresh


def test_outcome_in_hand_stays_as_it_is_while_sliders_move(widget: explorer.CutExplorer) -> None:
    widget.select("aod2012")
    found = widget.outcome
    before = explorer_data.candidates(found, "mass_4l", fullest(widget))
    widget.select("df103", muon_pt_min=12.0)
    assert explorer_data.candidates(found, "mass_4l", before["bin"]) == before


def test_distributions_of_old_selections_are_forgotten(widget: explorer.CutExplorer) -> None:
    cuts = [one.cut for one in sliders.CONTROLS]
    for number in range(60):
        moved = {"muon_pt_min": 5.0 + number % 7, "z1_mass_min": 40.0 + number}
        set_by_view(widget, cuts={**widget.cuts, **moved}, asked=number + 1)
        set_by_view(widget, focus=cuts[number % len(cuts)], rest=number)
        assert len(widget._distributions) <= len(cuts)


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
        found = widget.sample.select(sliders.without(OPEN, cut, widget.sample.loosest))
        assert widget.without["rows"][cut]["data"] == sum(found.counts[i][:, :39].sum() for i in (0, 1))


def test_other_spectrum_is_drawn_of_the_same_selection(widget: explorer.CutExplorer) -> None:
    set_by_view(widget, variable="mass_z1")
    assert widget.view["spectrum"]["name"] == "mass_z1"
    assert sum(widget.view["spectrum"]["data"]) == data_of(widget)["all"]  # the window of Z1 is the range of the axis


def test_kept_selection_is_compared_in_the_spectrum_that_is_shown(widget: explorer.CutExplorer) -> None:
    set_by_view(widget, kept={"base": "aod2012", "cuts": {}})
    for name in ("mass_z1", "mass_4l_wide", "mass_4l"):
        set_by_view(widget, variable=name)
        found = widget.sample.select(selection.load("aod2012"))
        assert widget.view["kept"]["spectrum"] == explorer_data.spectrum(found, name)


@pytest.mark.parametrize("cut", ["dxy_max", "sip_max", "z1_mass_min"])
def test_own_selection_beyond_the_sliders_widens_them(one: Campaign, tmp_path: Path, cut: str) -> None:
    own = OPEN.replace(dxy_max=5.0, sip_max=30.0, z1_mass_min=2.0, z1_mass_max=3.5, z2_mass_min=1.0, z2_mass_max=3.5)
    widget = explorer.CutExplorer(one, own, skims_folder=tmp_path)
    shown = next(one for one in widget.setup["controls"] if one["cut"] == cut)
    assert shown["low"] <= getattr(own, cut) <= shown["high"]
    set_by_view(widget, focus=cut)
    while not widget.without.get("complete"):
        set_by_view(widget, rest=widget.rest + 1)
    totals = {row["process"]: row["all"] for row in widget.view["yields"]}
    assert all(widget.without["rows"][cut][process] >= total for process, total in totals.items())


def test_snippet_of_the_widget_repeats_what_it_shows(result: Result, tmp_path: Path) -> None:
    own = dataclasses.replace(OPEN, name="mine", z_mass=85.0)
    widget = explorer.CutExplorer(result, own, skims_folder=tmp_path)
    widget.select(muon_pt_min=7.1234567)
    assert widget.snippet == widget.view["snippet"]
    line = next(line for line in widget.snippet.splitlines() if line.startswith("selection"))
    names: dict = {}
    exec(f"import higgsnb as hn\n{line}", names)  # noqa: S102 - what the user would run
    assert names["selection"].digest == widget.selection.digest


def test_prediction_that_lacks_a_process_promises_nothing(one: Campaign, tmp_path: Path) -> None:
    lost = dataset("lost", "zz", tmp_path / "missing.root", cross_section_pb=5.0)
    *_, part = engine.run(dataclasses.replace(one, datasets=(*one.datasets, lost)), OPEN, workers=1)
    widget = explorer.CutExplorer(part, skims_folder=tmp_path)
    assert "σ" not in widget.view["summary"]
    assert widget.view["summary"].endswith("The prediction lacks lost.")
    assert "prediction without lost" in widget.setup["note"]


def test_own_selection_is_offered_beside_the_published_ones(result: Result, tmp_path: Path) -> None:
    own = dataclasses.replace(OPEN, name="mine", z_mass=90.0)
    widget = explorer.CutExplorer(result, own, skims_folder=tmp_path)
    assert widget.base == "mine"
    assert widget.selection.z_mass == 90.0
    changed = explorer.CutExplorer(result, OPEN.replace(muon_pt_min=9), skims_folder=tmp_path)
    assert (changed.base, changed.view["changes"]) == ("open2012", {"muon_pt_min": 9.0})
    with pytest.raises(SelectionError, match="from open2012, aod2012, df103 in more than the cuts with a slider"):
        changed.select(own)


@pytest.mark.parametrize("changes", [{"smart_cut": True}, {"muon_cuts": ["mediumId"]}, {"event_cuts": ["MET_pt < 60"]}])
def test_selection_with_options_is_refused_instead_of_shown_without_them(
    changes: dict[str, Any], result: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (name,) = changes
    own = OPEN.replace(**changes)
    with pytest.raises(SelectionError, match=f"cannot be applied to events in memory, as it has {name}"):
        explorer.CutExplorer(result, own, skims_folder=tmp_path)
    with pytest.raises(SelectionError, match=name):
        PreselectedEvents.load(dataclasses.replace(result, selection=own))
    widget = explorer.CutExplorer(result, OPEN, skims_folder=tmp_path)
    with pytest.raises(SelectionError, match=name):
        widget.select(own)
    assert [one["name"] for one in widget.setup["selections"]] == ["open2012", "aod2012", "df103"]
    monkeypatch.setattr(engine, "run", None)  # no campaign is analysed for it
    with pytest.raises(SelectionError, match=name):
        explorer.CutExplorer("toy", own)


def test_cut_that_has_no_meaning_in_the_data_is_off(tmp_path: Path) -> None:
    leptons = without(random_leptons(300, seed=5), "isolation")
    full = dataset("mc", "zz", write(tmp_path / "mc.root", random_leptons(300, seed=5)), cross_section_pb=1.0)
    *_, result = engine.run(campaign(full), OPEN, workers=1)
    lacking = frozenset(f"{flavour}_isolation" for flavour in ("muon", "electron"))
    assert leptons.muon_isolation is None
    partial = dataclasses.replace(result, tally=dataclasses.replace(result.tally, not_applied={0: lacking}))

    def off(result: Result) -> dict[str, str]:
        return explorer._setup(result, {}, OPEN)["off"]

    assert off(partial) == {
        "muon_isolation_max": "not in these data",
        "electron_isolation_max": "not in these data",
    }
    assert off(result) == {}
    for some in ({"muon_dxy"}, {"muon_dxy", "electron_dxy_error"}, {"electron_isolation"}):
        other = dataclasses.replace(result, tally=dataclasses.replace(result.tally, not_applied={0: frozenset(some)}))
        expected = {"electron_isolation_max": "not in these data"} if "electron_isolation" in some else {}
        assert off(other) == expected
    two = dataclasses.replace(
        result.campaign, datasets=(*result.campaign.datasets, dataset("e", "data", primary_dataset="e"))
    )
    assert off(dataclasses.replace(partial, campaign=two)) == {}  # the other dataset has it


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


def test_widget_and_figure_draw_one_detector_and_the_same_tracks(result: Result) -> None:
    display = explorer.EventDisplay(result, 3)
    assert [tuple(layer.values()) for layer in display.setup["detector"]] == [layer[:3] for layer in plots.DETECTOR]
    for one in display.event["leptons"]:
        momentum = (one[name] for name in ("pt", "eta", "phi", "charge"))
        points = np.stack(plots.track(*momentum, leaves=one["flavour"] == "muon"), axis=1)
        drawn = np.array(one["track"])
        assert drawn[[0, -1]] == pytest.approx(points[[0, -1]], abs=0.02)
        nearest = np.linalg.norm(drawn[:, None] - points[None], axis=2).min(axis=1)
        assert nearest.max() < 0.02
    assert "TRACKER" not in SCRIPT
    assert {"End view", "Side view"} == set(re.findall(r"\b\w+ view\b(?= *\")", SCRIPT))


# --- The script ----------------------------------------------------------------------------------------------------


def test_script_sets_text_as_text_and_knows_no_address() -> None:
    for way in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function", "import("):
        assert way not in SCRIPT
    assert re.findall(r"\b(?:https?|wss?):", SCRIPT.replace("http://www.w3.org/2000/svg", "")) == []
    assert re.search(r"^\s*import\b|fetch\(|XMLHttpRequest|WebSocket|url\(", SCRIPT, re.MULTILINE) is None
    assert "url(" not in STYLE
    assert "@import" not in STYLE


def test_script_and_python_know_the_same_traits() -> None:
    used = set(re.findall(r'model\.(?:get|set)\("(\w+)"', SCRIPT))
    assert used <= set(explorer.CutExplorer.class_trait_names())
    assert {"cuts", "base", "view", "kept", "bin", "place", "focus"} <= used
