"""A processor of coffea runs unchanged: its output is that of coffea's own runner, whoever counted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import awkward as ak
import hist
import numpy as np
import pytest
import uproot

import higgsnb as hn
from higgsnb import datasets, engine, errors
from higgsnb.datasets import Campaign
from higgsnb.results import Result

HOW = "coffea is not installed: pip install 'higgsnb[coffea]'"
processor = pytest.importorskip("coffea.processor", reason=HOW)
nanoevents = pytest.importorskip("coffea.nanoevents", reason=HOW)
pytestmark = [pytest.mark.one_python, pytest.mark.filterwarnings("ignore::DeprecationWarning:coffea")]

COLUMNS = ["Muon_pt", "Muon_eta", "Muon_phi", "Muon_mass", "Muon_charge"]


class Dimuons(processor.ProcessorABC):  # type: ignore[misc, name-defined]
    """Masses of pairs, as counts and with weights, and sums of numbers."""

    def __init__(self, pt: float = 20.0) -> None:
        self.pt = pt

    def process(self, events: Any) -> Any:
        name = events.metadata["dataset"]
        sign = hist.axis.StrCategory(["opposite", "same"], name="sign")
        mass = hist.axis.Regular(60, 60, 120, name="mass")
        counts = hist.Hist(hist.axis.StrCategory([], growth=True, name="dataset"), sign, mass, storage="int64")
        weights = hist.Hist(sign, mass, storage="weight")
        muons = events.Muon[(events.Muon.pt > self.pt) & (abs(events.Muon.eta) < 2.4)]
        muons = muons[ak.num(muons) == 2]
        pair = muons[:, 0] + muons[:, 1]
        same = muons[:, 0].charge == muons[:, 1].charge
        for way, chosen in (("opposite", ~same), ("same", same)):
            values = ak.to_numpy(pair.mass[chosen])
            counts.fill(dataset=name, sign=way, mass=values)
            weights.fill(sign=way, mass=values, weight=0.1 + 1e-3 * ak.to_numpy(muons.pt[:, 0][chosen]))
        numbers = {"events": len(events), "pt": ak.to_numpy(muons.pt).sum(dtype=float)}
        return {"counts": counts, "weights": weights, name: numbers}

    def postprocess(self, accumulator: Any) -> Any:
        return accumulator


@pytest.fixture(scope="module")
def some() -> Campaign:
    toy = datasets.load("toy")
    return replace(toy, datasets=tuple(toy.dataset(name) for name in ("ZZTo4mu", "Run2012_DoubleMu")))


def run(campaign: Campaign, one: Any, **options: Any) -> Result:
    given = hn.Analysis.from_coffea(one, columns=COLUMNS, **options.pop("more", {}))
    *_, result = engine.run(campaign, given, **{"workers": 1, **options})
    return result


def same_bits(one: Any, other: Any) -> bool:
    """Whether two outputs of `Dimuons` are the same to the last bit."""
    views = [[output[name].view(flow=True).tobytes() for name in ("counts", "weights")] for output in (one, other)]
    numbers = [{name: value for name, value in output.items() if isinstance(value, dict)} for output in (one, other)]
    return views[0] == views[1] and numbers[0] == numbers[1]


@pytest.fixture(scope="module")
def in_chunks(some: Campaign) -> Result:
    return run(some, Dimuons(), chunk_events=3000)


def test_output_is_that_of_coffea_itself(some: Campaign, in_chunks: Result) -> None:
    class Schema(nanoevents.NanoAODSchema):  # type: ignore[misc, name-defined]
        warn_missing_crossrefs = False

    files = {d.name: {"files": {datasets.locate(d.files[0].url).location: "Events"}} for d in some.datasets}
    runner = processor.Runner(processor.IterativeExecutor(status=False), schema=Schema, savemetrics=False)
    theirs, ours = runner(files, processor_instance=Dimuons()), in_chunks.output
    for name in ("ZZTo4mu", "Run2012_DoubleMu"):
        assert ours["counts"][{"dataset": name}] == theirs["counts"][{"dataset": name}]
        assert ours["counts"][{"dataset": name}].sum() > 1000
        assert ours[name]["events"] == theirs[name]["events"]
        assert ours[name]["pt"] == pytest.approx(theirs[name]["pt"], rel=1e-12)
    for part in ("value", "variance"):
        mine, other = (one["weights"].view(flow=True)[part] for one in (ours, theirs))
        np.testing.assert_allclose(mine, other, rtol=1e-12)


@pytest.mark.parametrize(
    "options", [{"workers": 4}, {"client": "processes", "workers": 2}], ids=["threads", "processes"]
)
def test_same_chunks_give_the_same_bits_whoever_counts_them(
    some: Campaign, in_chunks: Result, options: dict[str, Any]
) -> None:
    assert same_bits(run(some, Dimuons(), chunk_events=3000, **options).output, in_chunks.output)


def test_interrupted_run_ends_with_the_same_bits(some: Campaign, in_chunks: Result, tmp_path: Path) -> None:
    one = hn.Analysis.from_coffea(Dimuons(), columns=COLUMNS)
    options: dict[str, Any] = {"chunk_events": 3000, "workers": 1, "ledger": tmp_path / "ledger.sqlite"}
    partial = next(engine.run(some, one, **options))
    assert not partial.complete
    *_, result = engine.run(some, one, **options)
    assert same_bits(result.output, in_chunks.output)


def test_other_chunks_change_no_count_and_weights_in_their_last_digits(some: Campaign, in_chunks: Result) -> None:
    other = run(some, Dimuons(), chunk_events=700).output
    assert other["counts"] == in_chunks.output["counts"]
    np.testing.assert_allclose(other["weights"].values(), in_chunks.output["weights"].values(), rtol=1e-12)


def test_preselection_cutflow_and_identity_are_those_of_any_analysis(some: Campaign, in_chunks: Result) -> None:
    result = run(some, Dimuons(), more={"preselection": "nMuon >= 2"})
    assert result.output["counts"] == in_chunks.output["counts"]
    assert result.cutflow["ZZTo4mu"]["selected"][:2] == [("all", 12_000), ("preselected", 11_946)]
    digests = {hn.Analysis.from_coffea(Dimuons(pt), columns=COLUMNS).digest for pt in (20.0, 25.0)}
    assert len(digests) == 2


def test_result_says_what_is_not_exact(in_chunks: Result) -> None:
    (remark,) = in_chunks.remarks
    assert remark == "result.output is a sum of floating-point numbers over the chunks, not normalised"
    toy = datasets.load("toy")
    data = replace(toy, datasets=tuple(one for one in toy.datasets if one.is_data))
    numbers = []
    for one in data.datasets:
        with uproot.open(datasets.locate(one.files[0].url).location) as file:
            found = file["Events"].arrays(["run", "luminosityBlock", "event"], library="np")
        numbers.append(set(zip(*(column.tolist() for column in found.values()), strict=True)))
    (remark,) = run(data, Dimuons()).remarks
    n = len(numbers[0] & numbers[1])
    assert n > 100
    assert remark.endswith(f", and {n:,} events that are in two primary datasets are in it twice")


class Wrong(Dimuons):
    def process(self, events: Any) -> Any:
        return {"pt": events.Muon.pt}


class Failing(Dimuons):
    def process(self, events: Any) -> Any:
        return {"pt": ak.sum(events.Muon.ptt)}


def test_errors_name_the_output_or_the_line_of_the_processor(some: Campaign) -> None:
    with pytest.raises(errors.AnalysisError, match=r"output\['pt'\] is <.*cannot be kept"):
        run(some, Wrong())
    with pytest.raises(errors.AnalysisError, match=r"analysis 'Failing'.*ptt.*test_coffea.py, line \d+\)"):
        run(some, Failing())


def test_other_analyses_have_no_output(some: Campaign) -> None:
    (*_, result) = engine.run(replace(some, datasets=some.datasets[:1]), "open2012", fraction=0.1)
    assert result.output is None
