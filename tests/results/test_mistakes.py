"""The mistakes of somebody's first analysis: each is said at once, with its line in the function and what to do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import awkward as ak
import numpy as np
import pytest

import higgsnb as hn
from higgsnb import errors

COLUMNS = ["Muon_pt", "Muon_eta", "MET_pt"]
VECTORS = ["Muon_pt", "Muon_eta", "Muon_phi", "Muon_mass", "MET_pt", "MET_phi"]
MET = [hn.Axis("met", 40, 0, 200, label="missing transverse momentum", unit="GeV")]
Function = Callable[[Any], hn.Selected]


def jagged_mask(events: Any) -> hn.Selected:
    return hn.Selected(events.Muon.pt > 20, met=events.MET.pt)


def jagged_region(events: Any) -> hn.Selected:
    return hn.Selected(events, met=events.MET.pt, regions={"selected": events.Muon.pt > 20})


def events_that_are_none(events: Any) -> hn.Selected:
    return hn.Selected(ak.mask(events, events.MET.pt > 20), met=events.MET.pt)


def events_and_quantity_of_other_lengths(events: Any) -> hn.Selected:
    return hn.Selected(events[ak.num(events.Muon) == 2], met=events.MET.pt)


def sum_over_everything(events: Any) -> hn.Selected:
    return hn.Selected(events, met=np.sum(events.Muon.pt))


def too_many_values(events: Any) -> hn.Selected:
    return hn.Selected(events, met=events.Muon.pt)


def forgotten_column(events: Any) -> hn.Selected:
    return hn.Selected(events, met=events.MET.pt * np.cos(events.MET.phi))


def jagged_mask_on_events(events: Any) -> hn.Selected:
    return hn.Selected(events[events.Muon.pt > 20], met=events.MET.pt)


def third_muon(events: Any) -> hn.Selected:
    return hn.Selected(events, met=events.Muon.pt[:, 2])


def word_and(events: Any) -> hn.Selected:
    return hn.Selected(events[events.MET.pt > 20 and events.MET.pt < 90], met=events.MET.pt)


def no_parentheses(events: Any) -> hn.Selected:
    return hn.Selected(events[events.MET.pt > 20 & events.MET.pt < 90], met=events.MET.pt)


def weight_as_quantity(events: Any) -> hn.Selected:
    return hn.Selected(events, met=events.MET.pt, weight=np.ones(len(events)))


def weights_without_names(events: Any) -> hn.Selected:
    return hn.Selected(events, met=events.MET.pt, weights=np.ones(len(events)))


def misspelt_region(events: Any) -> hn.Selected:
    return hn.Selected(events, met=events.MET.pt, regions={"selcted": events.MET.pt > 20})


def region_without_declaration(events: Any) -> hn.Selected:
    return hn.Selected(events, met=events.MET.pt, regions={"signal": events.MET.pt > 20})


def histogram_in_place_of_events(events: Any) -> Any:
    return np.histogram(events.MET.pt)


MISTAKES: dict[Function, tuple[str, str]] = {
    jagged_mask: ("one for each object, where one for each event is needed (ak.any(…, axis=1))", "a mask over"),
    jagged_region: ("region 'selected' is given as <Array [[", "a mask over the 24,748 events"),
    events_that_are_none: ("some of the events are None", "events[mask]"),
    events_and_quantity_of_other_lengths: ("met is 24,748 values", "each of the 20,951"),
    sum_over_everything: ("met is one value of type float32", "each of the 24,748 selected events"),
    too_many_values: (" values in an event, where 1 fit", "met[:, :1]"),
    forgotten_column: ("no field named 'phi'", "The columns are Muon_pt, Muon_eta, MET_pt"),
    jagged_mask_on_events: ("too many jagged slice dimensions", "ak.any(mask, axis=1)"),
    third_muon: ("index out of range", "ak.num(muons) >= 2"),
    word_and: ("the truth value of an array", "Join masks with & | ~"),
    no_parentheses: ("bitwise_and", "each comparison in parentheses"),
    weight_as_quantity: ("no quantity can be called weight", 'weights={"…": …}'),
    weights_without_names: ("weights = array([1.", "Give the name of each"),
    misspelt_region: ("region 'selcted' is not declared", "Did you mean selected?"),
    region_without_declaration: ("region 'signal' is not declared", "regions=['signal']"),
    histogram_in_place_of_events: ("the function returned ", "Return higgsnb.Selected"),
}


@pytest.fixture(scope="module")
def data() -> hn.datasets.Campaign:
    toy = hn.datasets.load("toy")
    return replace(toy, datasets=(toy.dataset("Run2012_DoubleMu"),))


@pytest.mark.parametrize("function", MISTAKES, ids=lambda function: function.__name__)
def test_mistake_is_said_with_what_to_do(data: hn.datasets.Campaign, function: Function) -> None:
    analysis = hn.Analysis("mine", function, columns=COLUMNS, axes=MET, preselection="nMuon >= 1")
    with pytest.raises(errors.AnalysisError) as caught:
        list(hn.engine.run(data, analysis, workers=1))
    words, hint = MISTAKES[function]
    assert words in caught.value.message
    assert hint in caught.value.hint
    assert "analysis 'mine', toy:Run2012_DoubleMu.root, entries 0 to 24748" in caught.value.message


@pytest.mark.parametrize(
    ("function", "words", "hint"),
    [
        (lambda events: events.Muon[:, 0].delta_r(events.Muon[:, 0]), "'delta_r'", "a.deltaR(b)"),
        (lambda events: events.Muon.nearest(events.Muon), "'nearest'", "ak.cartesian"),
        (lambda events: (events.Muon[:, 0] + events.MET).mass, "Momentum4D", "met.to_Vector4D(eta=0, mass=0)"),
    ],
    ids=["delta_r", "nearest", "muon and MET"],
)
def test_habit_of_coffea_is_translated(data: hn.datasets.Campaign, function: Any, words: str, hint: str) -> None:
    analysis = hn.Analysis("mine", function, columns=VECTORS, axes=MET, preselection="nMuon >= 1")
    with pytest.raises(errors.AnalysisError) as caught:
        list(hn.engine.run(data, analysis, workers=1))
    assert words in caught.value.message
    assert hint in caught.value.hint


def test_muon_and_missing_momentum_add_up_as_the_hint_says(data: hn.datasets.Campaign) -> None:
    def transverse_mass(events: Any) -> hn.Selected:
        muon, met = events.Muon[:, 0], events.MET
        mine = np.sqrt(2 * muon.pt * met.pt * (1 - np.cos(muon.phi - met.phi)))
        massless = ak.with_field(muon, 0 * muon.mass, "mass")
        added = (massless.to_Vector2D().to_Vector4D(eta=0, mass=0) + met.to_Vector4D(eta=0, mass=0)).mass
        return hn.Selected(events, met=(added**2 - mine**2) / (muon.pt + met.pt) ** 2)

    axis = [hn.Axis("met", 3, -1e-6, 1e-6)]  # a few times the precision of float32, in which E² − p² cancels
    analysis = hn.Analysis("mine", transverse_mass, columns=VECTORS, axes=axis, preselection="nMuon >= 1")
    *_, result = hn.engine.run(data, analysis, workers=1)
    assert result.histograms["met"].values().sum() == result.histograms["met"].sum(flow=True) > 20_000


def test_column_of_a_collection_is_named_for_the_collection(data: hn.datasets.Campaign) -> None:
    analysis = hn.Analysis("mine", too_many_values, columns=["Muon"], axes=MET)
    with pytest.raises(errors.FileError, match=r"(?s)lacks Muon\n.*Name its columns, such as Muon_"):
        list(hn.engine.run(data, analysis, workers=1))


def test_column_that_no_file_has_ends_the_run(data: hn.datasets.Campaign) -> None:
    analysis = hn.Analysis("mine", too_many_values, columns=["Moun_pt"], axes=MET)
    with pytest.raises(errors.FileError, match=r"(?s)lacks Moun_pt.*Did you mean Muon_pt\?"):
        list(hn.engine.run(data, analysis, workers=1))


def test_flat_columns_are_taken_by_name(data: hn.datasets.Campaign) -> None:
    def hardest(columns: Any) -> hn.Selected:
        starts = columns.offsets["Muon"]
        return hn.Selected(np.arange(len(starts) - 1), met=columns["Muon_pt"][starts[:-1]])

    def misspelt(columns: Any) -> hn.Selected:
        return hn.Selected([], met=columns["Muon_pT"])

    options: dict[str, Any] = {"columns": COLUMNS, "axes": MET, "preselection": "nMuon >= 1", "form": "flat"}
    *_, result = hn.engine.run(data, hn.Analysis("flat", hardest, **options), workers=1)
    *_, other = hn.engine.run(data, hn.Analysis("lists", first_muon, **{**options, "form": "awkward"}), workers=1)
    assert result.histograms["met"].sum(flow=True) == 24_748
    np.testing.assert_array_equal(result.histograms["met"].view(flow=True), other.histograms["met"].view(flow=True))
    with pytest.raises(errors.AnalysisError, match=r'(?s)no attribute .Muon.*columns\["Muon_pt"\]'):
        list(hn.engine.run(data, hn.Analysis("records", first_muon, **options), workers=1))
    with pytest.raises(errors.AnalysisError, match=r"no column Muon_pT; there are run, luminosityBlock, event, MET_pt"):
        list(hn.engine.run(data, hn.Analysis("flat", misspelt, **options), workers=1))


def first_muon(events: Any) -> hn.Selected:
    return hn.Selected(events, met=events.Muon.pt[:, 0])
