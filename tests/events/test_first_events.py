"""The first events of a dataset are those that the function of an analysis is given: to look at, and to try it out."""

from __future__ import annotations

from pathlib import Path

import awkward as ak
import numpy as np
import outreach
import pytest
import uproot

from higgsnb import datasets, events, plots
from higgsnb.errors import CampaignError


def test_first_events_are_those_that_uproot_finds() -> None:
    found = events.first_events("toy", ["Muon_pt", "MET_pt"], preselection="nMuon >= 3", most=500)
    with uproot.open(datasets.locate("toy:Run2012_DoubleMu.root").location) as file:
        whole = file["Events"].arrays(["nMuon", "Muon_pt", "MET_pt"], entry_stop=500)
    enough = np.asarray(whole["nMuon"]) >= 3
    assert found.entry.to_list() == np.flatnonzero(enough).tolist()
    assert found.Muon.pt.to_list() == whole["Muon_pt"][enough].to_list()
    assert found.MET.pt.to_list() == whole["MET_pt"][enough].to_list()
    assert events.first_events("toy", "MET_pt", most=2).MET.pt.to_list() == whole["MET_pt"][:2].to_list()


def test_dataset_is_found_by_the_name_of_its_primary_dataset() -> None:
    toy = datasets.load("toy")
    found = events.first_events(toy, ["Muon_pt"], "DoubleElectron", most=10)
    assert found.event.to_list() == plots.events(toy, "DoubleElectron", most=10).leptons.event.tolist()
    with pytest.raises(CampaignError, match="Did you mean ZZTo4mu"):
        events.first_events(toy, ["Muon_pt"], "ZZTo4m")


def test_file_need_not_have_what_is_not_asked_for(tmp_path: Path) -> None:
    muons = ak.zip({"pt": [[40.0, 30.0], []], "eta": [[0.1, 0.2], []], "phi": [[0.0, 3.0], []]})
    with uproot.recreate(tmp_path / "skim.root") as file:
        numbers = {"run": [1, 1], "luminosityBlock": [2, 2], "event": [3, 4]}
        file["Events"] = {**{name: np.array(some, np.int64) for name, some in numbers.items()}, "Muon": muons}
    made = outreach.campaign(outreach.dataset("skim", "data", tmp_path / "skim.root"), schema="nanoaod")
    found = events.first_events(made, ["Muon_pt", "Muon_eta", "Muon_phi"])
    assert found.Muon.pt.to_list() == [[40.0, 30.0], []]
    assert found.Muon.px[0, 0] == pytest.approx(40.0)
