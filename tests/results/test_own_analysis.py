"""What the function of an analysis selects is counted in every region, exactly once; what is wrong is said."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import outreach
import pyarrow.parquet as pq
import pytest
import uproot
from matplotlib.patches import StepPatch
from outreach import campaign, dataset, events_of

import higgsnb as hn
from higgsnb import engine, errors, results
from higgsnb.datasets import Campaign
from higgsnb.results import Result
from higgsnb.selection import Leptons

N = 3000
MUONS = ["Muon_pt", "Muon_eta", "Muon_phi", "Muon_mass", "Muon_charge"]
MASS = hn.Axis("mass", 40, 0, 200, label="dimuon mass", unit="GeV")
PT = hn.Axis("pt", [5, 10, 20, 50, 200], label="muon pT", unit="GeV", per_event=4)
REGIONS = {"opposite sign": ["two muons", "charge"], "same sign": ["two muons", "charge"], "hard": []}


@pytest.fixture(scope="module")
def leptons() -> Leptons:
    rng = np.random.default_rng(5)
    counts = rng.choice(5, N, p=[0.2, 0.2, 0.3, 0.2, 0.1])
    n = int(counts.sum())
    columns: dict[str, Any] = dict.fromkeys(Leptons._fields, np.zeros(0, np.float32))
    columns |= {name: np.full(n, 0.01, np.float32) for name in Leptons._fields if name.startswith("muon_")}
    offsets = np.concatenate(([0], np.cumsum(counts)))
    columns |= {
        "run": np.full(N, 194_000), "luminosity_block": np.arange(N) // 100, "event": np.arange(N).astype(np.uint64),
        "muon_offsets": offsets,
        "electron_offsets": np.zeros(N + 1, np.int64), "electron_charge": np.zeros(0, np.int32),
        "muon_pt": rng.exponential(20, n).astype(np.float32) + np.float32(3),
        "muon_eta": rng.uniform(-2.6, 2.6, n).astype(np.float32),
        "muon_phi": rng.uniform(-np.pi, np.pi, n).astype(np.float32),
        "muon_mass": np.full(n, 0.105658, np.float32),
        "muon_charge": rng.choice([-1, 1], n).astype(np.int32),
    }  # fmt: skip
    return Leptons(**columns)


def two_muons(events: Any) -> hn.Selected:
    muons = events.Muon[(events.Muon.pt > 6) & (abs(events.Muon.eta) < 2.4)]
    two = ak.num(muons) >= 2
    events, muons, two = events[two], muons[two], two[two]
    first, second = muons[:, 0], muons[:, 1]
    opposite = first.charge != second.charge
    return hn.Selected(
        events,
        mass=(first + second).mass,
        pt=muons.pt[:, :4],
        leading=ak.max(muons.pt, axis=1),
        regions={"opposite sign": [two, opposite], "same sign": [two, ~opposite], "hard": first.pt > 30},
    )


def analysis(function: Any = two_muons, **changes: Any) -> hn.Analysis:
    options: dict[str, Any] = {
        "columns": MUONS, "axes": [MASS, PT], "preselection": "nMuon >= 2", "regions": REGIONS, "keep": ["leading"],
    }  # fmt: skip
    return hn.Analysis("two_muons", function, **{**options, **changes})


def last(made: Campaign, one: hn.Analysis, **options: Any) -> Result:
    *_, result = engine.run(made, one, **{"workers": 1, **options})
    return result


def expected(leptons: Leptons) -> list[dict[str, Any]]:
    """What `two_muons` selects, event by event, in plain Python."""
    found = []
    for event in range(leptons.n_events):
        some = range(leptons.muon_offsets[event], leptons.muon_offsets[event + 1])
        pt, eta, phi, mass, charge = (
            [float(getattr(leptons, f"muon_{name}")[i]) for i in some]
            for name in ("pt", "eta", "phi", "mass", "charge")
        )
        good = [i for i in range(len(pt)) if pt[i] > 6 and abs(eta[i]) < 2.4]
        if len(pt) < 2 or len(good) < 2:
            continue
        total = np.zeros(4)
        for i in good[:2]:
            p = pt[i] * np.array([math.cos(phi[i]), math.sin(phi[i]), math.sinh(eta[i])])
            total += [*p, math.sqrt(p @ p + mass[i] ** 2)]
        m2 = total[3] ** 2 - total[:3] @ total[:3]
        regions = ["opposite sign" if charge[good[0]] != charge[good[1]] else "same sign"]
        regions += ["hard"] * (pt[good[0]] > 30)
        found.append({
            "entry": event, "mass": math.sqrt(max(m2, 0.0)), "pt": [pt[i] for i in good[:4]], "regions": regions,
            "leading": max(pt[i] for i in good),
        })  # fmt: skip
    return found


@pytest.fixture
def made(tmp_path: Path, leptons: Leptons) -> Campaign:
    data = outreach.write(tmp_path / "data.root", events_of(leptons, 0, 1800))
    simulated = outreach.write(tmp_path / "mc.root", events_of(leptons, 1800, N))
    return campaign(
        dataset("mu", "data", data, primary_dataset="DoubleMu"), dataset("zz", "zz", simulated, cross_section_pb=0.5)
    )


@pytest.mark.parametrize("size", [5000, 700, 64])
def test_counts_are_those_of_plain_python_whatever_the_chunks(made: Campaign, leptons: Leptons, size: int) -> None:
    result = last(made, analysis(), chunk_events=size)
    assert result.complete
    for name, some in (("mu", events_of(leptons, 0, 1800)), ("zz", events_of(leptons, 1800, N))):
        truth = expected(some)
        for region in REGIONS:
            mine = [one for one in truth if region in one["regions"]]
            mass = np.histogram([one["mass"] for one in mine], MASS.edges)[0]
            np.testing.assert_array_equal(result.histograms["mass"][name, region, :].values(), mass)
            pt = np.histogram([value for one in mine for value in one["pt"]], PT.edges)[0]
            np.testing.assert_array_equal(result.histograms["pt"][name, region, :].values(), pt)
            flow = dict(result.cutflow[name][region])
            assert (flow["all"], flow["unique"]) == (some.n_events, len(mine))
            assert flow["preselected"] == np.count_nonzero(np.diff(some.muon_offsets) >= 2)
            if region != "hard":
                assert (flow["two muons"], flow["charge"]) == (len(truth), len(mine))


def test_rows_are_those_of_plain_python(made: Campaign, leptons: Leptons, tmp_path: Path) -> None:
    result = last(made, analysis(), chunk_events=700)
    results.write(result, tmp_path / "out", run={})
    found = pq.read_table(tmp_path / "out" / "candidates.parquet").to_pydict()
    rows = Counter(zip(found["dataset"], found["event"], found["region"], found["leading"], strict=True))
    truth = Counter()
    for name, some in (("mu", events_of(leptons, 0, 1800)), ("zz", events_of(leptons, 1800, N))):
        for one in expected(some):
            truth.update((name, int(some.event[one["entry"]]), region, one["leading"]) for region in one["regions"])
    assert rows == truth


def test_simulation_is_normalised_as_with_a_selection(made: Campaign, leptons: Leptons) -> None:
    result = last(made, analysis())
    n = sum("hard" in one["regions"] for one in expected(events_of(leptons, 1800, N)))
    found = result.yields["zz"]["hard"]
    assert found.expected == pytest.approx(n * 10_000 * 0.5 / 1200, rel=1e-12)
    assert found.stat_error == pytest.approx(math.sqrt(n) * 10_000 * 0.5 / 1200, rel=1e-12)
    half = last(made, analysis(), fraction=0.5)
    assert half.yields["zz"]["hard"].expected == pytest.approx(found.expected * half.luminosity.share, rel=0.2)


def test_event_of_two_primary_datasets_counts_once_in_each_region(tmp_path: Path, leptons: Leptons) -> None:
    paths = [
        outreach.write(tmp_path / f"{i}.root", events_of(leptons, start, stop))
        for i, (start, stop) in enumerate([(0, 1000), (600, 1600)])
    ]
    names = ("DoubleMu", "DoubleElectron")
    twice = campaign(
        *(dataset(name, "data", path, primary_dataset=name) for name, path in zip(names, paths, strict=True))
    )
    whole = outreach.write(tmp_path / "whole.root", events_of(leptons, 0, 1600))
    once = campaign(dataset("all", "data", whole))
    found, truth = last(twice, analysis(), chunk_events=333), last(once, analysis())
    for axis in ("mass", "pt"):
        mine, all_of_it = (one.histograms[axis][sum, :, :].view(flow=True) for one in (found, truth))
        np.testing.assert_array_equal(mine, all_of_it)
    assert sum(found.duplicates_removed.values()) == sum(
        len(one["regions"]) for one in expected(events_of(leptons, 600, 1000))
    )
    assert {region: flow[-1][1] for region, flow in found.cutflow["DoubleElectron"].items()} == {
        region: sum(region in one["regions"] for one in expected(events_of(leptons, 1000, 1600))) for region in REGIONS
    }


def test_region_of_one_primary_dataset_is_not_taken_from_the_others(made: Campaign) -> None:
    result = last(made, analysis(primary_datasets={"hard": ["DoubleElectron"]}))
    assert set(result.cutflow["mu"]) == {"opposite sign", "same sign"}
    assert result.histograms["mass"]["mu", "hard", :].sum(flow=True) == 0
    assert result.yields["data"]["same sign"].events > 0


def flat(columns: Any) -> hn.Selected:
    offsets, pt, charge = columns.offsets["Muon"], columns["Muon_pt"], columns["Muon_charge"]
    two = np.flatnonzero(np.diff(offsets) >= 2)
    first = offsets[two]
    same = charge[first] == charge[first + 1]
    hard = np.maximum(pt[first], pt[first + 1])
    return hn.Selected(two, hard=hard, regions={"same sign": same, "opposite sign": ~same})


def test_flat_form_gives_what_records_give(made: Campaign) -> None:
    def records(events: Any) -> hn.Selected:
        events = events[ak.num(events.Muon) >= 2]
        first, second = events.Muon[:, 0], events.Muon[:, 1]
        same = first.charge == second.charge
        return hn.Selected(
            events, hard=np.maximum(first.pt, second.pt), regions={"same sign": same, "opposite sign": ~same}
        )

    axes, regions = [hn.Axis("hard", 50, 0, 100)], ["same sign", "opposite sign"]
    one = last(made, analysis(flat, axes=axes, regions=regions, keep=(), form="flat", preselection=""))
    other = last(made, analysis(records, axes=axes, regions=regions, keep=()))
    np.testing.assert_array_equal(one.histograms["hard"].view(flow=True), other.histograms["hard"].view(flow=True))


def test_function_is_told_what_it_is_given(made: Campaign) -> None:
    def told(events: Any, sample: Any) -> hn.Selected:
        return hn.Selected(events, one=np.full(len(events), {"mu": 1.0, "zz": 2.0}[sample.name] + sample.is_data))

    result = last(made, analysis(told, axes=[hn.Axis("one", 3, 0.5, 3.5)], regions=("selected",), keep=()))
    counts = result.histograms["one"].values()
    assert (counts[0, 0, 0], counts[0, 0, 2]) == (0, 0)
    assert counts[0, 0, 1] == counts[0].sum() > 0
    assert counts[1, 0, 1] == counts[1].sum() > 0


def test_column_of_simulation_is_not_read_of_data(tmp_path: Path, leptons: Leptons) -> None:
    def reweighted(events: Any, sample: Any) -> hn.Selected:
        assert ("Pileup" in events.fields) is not sample.is_data
        up = {} if sample.is_data else {"pileup": (events.Pileup.nTrueInt / 20, 1.5, 0.5)}
        return hn.Selected(events, one=np.ones(len(events)), weights=up)

    def forgetful(events: Any) -> hn.Selected:
        return hn.Selected(events, one=np.ones(len(events)), weights={"pileup": (events.Pileup.nTrueInt, 1.0, 1.0)})

    outreach.write(tmp_path / "data.root", events_of(leptons, 0, 1800))
    with uproot.recreate(tmp_path / "mc.root") as file:
        numbers = {name: np.arange(3, dtype=np.int64) for name in ("run", "luminosityBlock", "event")}
        file["Events"] = {**numbers, "Pileup_nTrueInt": np.array([10, 20, 60], np.float32)}
    made = campaign(
        dataset("mu", "data", tmp_path / "data.root"),
        dataset("zz", "zz", tmp_path / "mc.root", cross_section_pb=0.5),
        schema="nanoaod",
    )
    options: dict[str, Any] = {"axes": [hn.Axis("one", 1, 0, 2)], "regions": ("selected",), "keep": (), "columns": ()}
    options |= {"preselection": "", "simulation_columns": ["Pileup_nTrueInt"], "variations": ["pileup"]}
    result = last(made, analysis(reweighted, **options))
    assert result.complete
    assert result.yields["data"]["selected"].events == 1800
    assert result.yields["zz"]["selected"].expected == pytest.approx(0.5 * 10_000 * 4.5 / 3)
    assert result.spectrum("one", "pileup_up").stack["zz"].sum() == pytest.approx(0.5 * 10_000 * 1.5)
    with pytest.raises(errors.AnalysisError, match=r"(?s)'Pileup'.*Data have no Pileup_nTrueInt: look at sample\.is_"):
        last(made, analysis(forgetful, **options))
    data = campaign(dataset("mu", "data", tmp_path / "data.root"), schema="nanoaod")
    of_all = {**options, "simulation_columns": (), "columns": ["Pileup_nTrueInt"]}
    with pytest.raises(errors.FileError, match=r"name Pileup_nTrueInt in simulation_columns"):
        last(data, analysis(reweighted, **of_all))


def test_four_lepton_candidates_are_not_asked_of_another_analysis(made: Campaign) -> None:
    with pytest.raises(errors.OptionError, match="'two_muons' is not a four-lepton selection"):
        hn.plots.candidates_in(last(made, analysis()), 80, 100)


def test_figure_has_the_variation_of_the_prediction(made: Campaign) -> None:
    def varied(events: Any) -> hn.Selected:
        return hn.Selected(events, one=np.ones(len(events)), weights={"sf": (1.0, 1.1, 0.5)})

    options: dict[str, Any] = {"axes": [hn.Axis("one", 1, 0, 2)], "regions": ("selected",), "keep": ()}
    result = last(made, analysis(varied, variations=["sf"], **options))
    heights = {
        name: max(patch.get_data().values.max() for patch in figure.axes[0].findobj(StepPatch))
        for name in result.selection.copies
        if (figure := hn.plots.plot_spectrum(result, "one", variation=name))
    }
    assert heights["sf_up"] > heights["nominal"] > heights["sf_down"]
    with pytest.raises(KeyError, match="no variation 'sf'; known: nominal, sf_up, sf_down"):
        hn.plots.plot_spectrum(result, "one", variation="sf")


def test_file_needs_no_more_than_what_the_analysis_reads(tmp_path: Path) -> None:
    """A skim of muons: without electrons, and without what a four-lepton selection needs of muons."""
    muons = ak.zip({"pt": [[40.0, 30.0], [], [9.0, 8.0, 7.0]], "charge": [[1, -1], [], [1, 1, -1]]})
    with uproot.recreate(tmp_path / "skim.root") as file:
        numbers = {name: np.arange(3, dtype=np.int64) for name in ("run", "luminosityBlock", "event")}
        file["Events"] = {**numbers, "Muon": muons}
    made = campaign(dataset("skim", "data", tmp_path / "skim.root"), schema="nanoaod")
    one = hn.Analysis("charges", charges, columns=["Muon_charge"], axes=[hn.Axis("total", 5, -2, 3)])
    result = last(made, one)
    assert result.complete
    assert result.histograms["total"].values()[0, 0].tolist() == [0, 0, 2, 1, 0]
    skimmed = hn.Analysis("charges", charges, columns=["Muon_charge", "Muon_eta"], axes=[hn.Axis("total", 5, -2, 3)])
    with pytest.raises(errors.FileError, match="lacks Muon_eta"):
        last(made, skimmed)


def charges(events: Any) -> hn.Selected:
    return hn.Selected(events, total=ak.sum(events.Muon.charge, axis=1))


@pytest.mark.parametrize("values", ["jagged", "one", "table"])
def test_chunk_in_which_nothing_is_selected_counts_nothing(made: Campaign, values: str) -> None:
    def nothing(events: Any) -> hn.Selected:
        none = events[events.run < 0]
        pt = {"jagged": none.Muon.pt, "one": none.run, "table": np.zeros((0, 3))}[values]
        return hn.Selected(none, mass=none.run, pt=pt, leading=none.run, regions=dict.fromkeys(REGIONS, none.run > 0))

    result = last(made, analysis(nothing, regions=tuple(REGIONS)))
    assert result.complete
    assert result.histograms["pt"].sum(flow=True) == 0


# --- What is wrong

WRONG: dict[str, tuple[Any, str]] = {
    "nothing": (lambda _: None, "the function returned None"),
    "no quantity": (hn.Selected, "no quantity 'leading'"),
    "too short": (lambda events: hn.Selected(events, leading=np.ones(3)), "leading is 3 values of type float64"),
    "text": (lambda events: hn.Selected(events, leading=["a"] * len(events)), "leading is"),
    "lists": (lambda events: hn.Selected(events, leading=events.Muon.pt), "leading has up to"),
    "other mask": (lambda _: hn.Selected(np.ones(4, bool), leading=np.ones(4)), "given as 4 values of type bool"),
    "twice": (lambda _: hn.Selected([0, 0], leading=np.ones(2)), "given as 2 values of type int64"),
    "an event that is not there": (lambda _: hn.Selected([10**6], leading=np.ones(1)), "given as 1 values"),
    "region": (
        lambda events: hn.Selected(events, leading=np.ones(len(events)), regions={"hard": events.run > 0}),
        "region 'hard' is not declared",
    ),
    "mask of numbers": (
        lambda events: hn.Selected(events, leading=np.ones(len(events)), regions={"selected": events.run}),
        "region 'selected' is given as",
    ),
    "unknown weight": (
        lambda events: hn.Selected(events, leading=np.ones(len(events)), weights={"pileup": (1.0, 1.0, 1.0)}),
        "weight 'pileup' has 3 part(s), and is not in variations",
    ),
    "error": (lambda events: events.Muon.ptt, "AttributeError: no field named 'ptt'"),
}  # fmt: skip


@pytest.mark.parametrize(("function", "words"), WRONG.values(), ids=WRONG)
def test_what_a_function_returns_wrongly_is_said_at_once(made: Campaign, function: Any, words: str) -> None:
    one = analysis(function, axes=[hn.Axis("leading", 10, 0, 100)], regions=("selected",))
    with pytest.raises(errors.AnalysisError) as caught:
        last(made, one)
    assert words in caught.value.message
    assert "analysis 'two_muons'" in caught.value.message


OPTIONS: dict[str, tuple[dict[str, Any], str]] = {
    "columns": ({"columns": "Muon_pt"}, "columns = 'Muon_pt'"),
    "pattern": ({"columns": ["Muon_*"]}, "columns: 'Muon_*' is a pattern"),
    "pattern for simulation": ({"simulation_columns": ["LHE*"]}, "simulation_columns: 'LHE*' is a pattern"),
    "one variation": ({"variations": "pileup"}, "variations = 'pileup'"),
    "axes": ({"axes": ["mass"]}, "'mass' is no axis"),
    "one axis": ({"axes": MASS}, "axes = Axis(name='mass'"),
    "no axis": ({"axes": []}, "axes = []"),
    "function as preselection": ({"preselection": len}, "preselection = <built-in function len>"),
    "number as preselection": ({"preselection": "nMuon + 1"}, "preselection 'nMuon + 1' is a number"),
    "form": ({"form": "arrow"}, "form = 'arrow'"),
    "no region": ({"regions": []}, "regions: none"),
    "region twice": ({"regions": ["a", "a"]}, "regions: a"),
    "primary dataset": ({"primary_datasets": {"hrad": ["A"]}}, "no region 'hrad'"),
    "column twice": ({"columns": ["Muon_pt", "Muon.pt"]}, "columns: Muon_pt"),
    "shift": ({"variations": [hn.Shift("scale", {"Muon_ptt": (1, 1)})]}, "no column 'Muon_ptt'"),
}


@pytest.mark.parametrize(("options", "words"), OPTIONS.values(), ids=OPTIONS)
def test_options_that_do_not_fit_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(errors.OptionError) as caught:
        analysis(**options)
    assert words in caught.value.message


def test_columns_may_be_named_with_a_dot(made: Campaign) -> None:
    dotted, shifts = [name.replace("_", ".") for name in MUONS], {"Muon_pt": (1.1, 0.9)}
    one = last(made, analysis(columns=dotted, variations=[hn.Shift("scale", {"Muon.pt": (1.1, 0.9)})]))
    other = last(made, analysis(variations=[hn.Shift("scale", shifts)]))
    assert one.selection.digest == other.selection.digest
    up, nominal = (one.spectrum("mass", name).stack["zz"] for name in ("scale_up", "nominal"))
    np.testing.assert_array_equal(up, other.spectrum("mass", "scale_up").stack["zz"])
    assert (up != nominal).any()


def test_result_file_has_the_source_of_the_function(made: Campaign, tmp_path: Path) -> None:
    results.write(last(made, analysis()), tmp_path, run={})
    selection = json.loads((tmp_path / "result.json").read_text(encoding="utf-8"))["provenance"]["selection"]
    assert "def two_muons" in selection["function"]["source"]
    assert selection["preselection"] == {"*": "nMuon >= 2"}
