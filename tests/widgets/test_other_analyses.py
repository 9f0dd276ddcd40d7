"""Views of four leptons refuse other analyses, and weighted simulation where each event counts as one, and say why."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import outreach
import pytest
from generators import clean_zz_events, pack
from outreach import campaign, dataset, events_of

import higgsnb as hn
from higgsnb import engine, plots, results, widgets
from higgsnb import selection as hs
from higgsnb.datasets import Campaign
from higgsnb.errors import OptionError
from higgsnb.results import Result
from higgsnb.widgets.explorer import CutExplorer

OPEN = hs.load("open2012")


def first_muon(events: Any) -> hn.Selected:
    events = events[ak.num(events.Muon) > 0]
    return hn.Selected(events, pt=events.Muon.pt[:, 0])


OWN = hn.Analysis("mine", first_muon, columns=["Muon_pt"], keep=["pt"], axes=[hn.Axis("pt", 8, 0, 80)])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Campaign:
    """Data, and simulation with weights of both signs."""
    folder, leptons = tmp_path_factory.mktemp("other"), pack(clean_zz_events(300, seed=6))
    weights = np.where(np.arange(200) % 4, 1.5, -1.5).astype(np.float32)
    return campaign(
        dataset("data", "data", outreach.write(folder / "data.root", events_of(leptons, 0, 100))),
        dataset("zz", "zz", outreach.write(folder / "zz.root", events_of(leptons, 100, 300), weights=weights),
                cross_section_pb=0.1),
        schema="nanoaod",
    )  # fmt: skip


@pytest.fixture(scope="module")
def own(made: Campaign) -> Result:
    *_, found = engine.run(made, OWN, workers=1, ledger=None)
    return found


@pytest.fixture(scope="module")
def weighted(made: Campaign) -> Result:
    *_, found = engine.run(made, OPEN, workers=1, ledger=None)
    return found


VIEWS: dict[str, Callable[[Result], Any]] = {
    "explorer": CutExplorer,
    "explorer of a campaign": lambda result: CutExplorer(result.campaign, result.selection),  # type: ignore[arg-type]
    "event display": widgets.EventDisplay,
    "events in memory": results.PreselectedEvents.load,
    "candidates": lambda result: plots.candidates_in(result, 70, 181),
    "n minus one": lambda result: plots.n_minus_one(result.campaign, result.selection, "sip"),  # type: ignore[arg-type]
    "good leptons": lambda result: plots.event_table(plots.events(result.campaign, "data"), 0, result.selection),  # type: ignore[arg-type]
    "pairs": lambda result: plots.pair_masses(plots.events(result.campaign, "data"), selection=result.selection),  # type: ignore[arg-type]
    "select": lambda result: hs.select(pack([]), result.selection),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("view", VIEWS)
def test_other_analysis_is_refused_with_what_to_do(view: str, own: Result) -> None:
    with pytest.raises(OptionError, match="'mine' is not a four-lepton selection") as caught:
        VIEWS[view](own)
    assert caught.value.hint


@pytest.mark.parametrize("view", ["explorer", "explorer of a campaign", "events in memory", "n minus one"])
def test_weighted_simulation_is_not_counted_as_one_each(view: str, weighted: Result) -> None:
    with pytest.raises(OptionError, match="with weights cannot be selected anew in memory") as caught:
        VIEWS[view](weighted)
    assert "engine.run(campaign" in caught.value.hint


def test_windows_belong_to_four_leptons(own: Result, weighted: Result) -> None:
    for view in (plots.windows, lambda result: plots.yields(result, "118-130")):
        with pytest.raises(OptionError, match="'mine' has no windows") as caught:
            view(own)
        assert "between(80, 100)" in caught.value.hint
        assert len(view(weighted))
    with pytest.raises(KeyError, match="no window '118'; known: 70-181"):
        plots.windows(weighted, "118")


def test_what_there_is_of_any_analysis(own: Result) -> None:
    assert plots.yields(own)["process"] == ["zz", "all predicted", "data"]
    assert plots.cutflow(own)["cut"] == ["all", "preselected", "selected", "unique"]
    assert plots.plot_spectrum(own).axes
    assert "mine" in repr(widgets.LiveHistogram(own.campaign, OWN))
    assert plots.summary(own)["which"][3].startswith("mine ")


def test_explorer_leaves_own_axes_out(tmp_path: Path) -> None:
    leptons = pack(clean_zz_events(100, seed=6))
    made = campaign(dataset("data", "data", outreach.write(tmp_path / "data.root", leptons)))
    one = OPEN.replace(muon_pt_min=8, axes=[hn.Axis("pt_4l", 9, 0, 90)], observables={"x": "mass_z1 - mass_z2"})
    *_, result = engine.run(made, one, workers=1, ledger=None)
    explorer = CutExplorer(result, skims_folder=tmp_path)
    assert explorer.selection.digest == one.replace(axes=(), observables=()).digest
    expected = result.histograms["mass_4l"].view().sum(axis=(0, 1))
    assert sum(explorer.outcome.histogram("mass_4l").values()).sum(axis=0)[1:-1].tolist() == expected.tolist()  # type: ignore[union-attr]
