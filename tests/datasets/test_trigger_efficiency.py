"""Trigger efficiency of a channel whose data come from one primary dataset only; for the toy, as simulated."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import uproot
from scipy import stats

from higgsnb import datasets, engine, selection
from higgsnb.datasets import Campaign, parse
from higgsnb.datasets.toy import pseudodata, writer
from higgsnb.errors import CampaignError
from higgsnb.results import Result
from higgsnb.selection import CHANNELS

LOW, HIGH = 70.0, 181.0  # the spectrum of aod2012
BEFORE = "334da523ec9be398919a2cdceadc1f7e52b754198f4ab7b4eec6e7817f84ee85"  # the toy's digest without efficiencies
Table = dict[str, dict[str, dict[str, float]]]  # by dataset, channel and primary dataset


def analysed(campaign: Campaign, name: str) -> Result:
    (*_, result) = engine.run(campaign, selection.load(name))
    return result


@pytest.fixture(scope="module")
def toy() -> Result:
    return analysed(datasets.load("toy"), "aod2012")


def measured(result: Result) -> Table:
    """How likely the selected simulated events of each channel are to fire each trigger, on average."""
    rows, found = result.candidates, defaultdict(dict)
    for index, dataset in enumerate(result.campaign.datasets):
        if dataset.is_data:
            continue
        with uproot.open(datasets.fetch(dataset.files[0].url)) as file:
            names = ("event", "nMuon", "Muon_pt", "nElectron", "Electron_pt")
            arrays = file["Events"].arrays(names, library="np")
        jagged = {name: np.concatenate(arrays[name]) for name in names if name.endswith("_pt")}
        chances = pseudodata.trigger_chances(arrays | jagged)
        place = {int(event): number for number, event in enumerate(arrays["event"])}
        for number, channel in enumerate(CHANNELS):
            mine = (rows.dataset == index) & (rows.channel == number) & (rows.mass_4l > LOW) & (rows.mass_4l < HIGH)
            events = [place[int(event)] for event in rows.event[mine]]
            if len(events) >= 20:
                found[dataset.name][channel] = {name: float(chance[events].mean()) for name, chance in chances.items()}
    return found


# --- the toy


def test_efficiencies_of_the_toy_are_those_of_its_own_simulation(toy: Result) -> None:
    for name, channels in measured(toy).items():
        told = toy.campaign.dataset(name).trigger_efficiency
        assert set(told) == set(channels), name
        for channel, efficiencies in channels.items():
            fired = {primary: round(one, 3) for primary, one in efficiencies.items() if one > 0.05}
            assert told[channel] == pytest.approx(fired, abs=5e-4), (name, channel)


def test_chance_of_a_trigger_by_hand() -> None:
    columns = {
        "nMuon": np.array([2, 2, 1, 3]),
        "Muon_pt": np.array([17.0, 8.0, 90.0, 70.0, 90.0, 90.0, 80.0, 3.0]),
        "nElectron": np.array([0, 2, 0, 0]),
        "Electron_pt": np.array([17.0, 12.0]),
    }
    found = pseudodata.trigger_chances(columns)
    assert found["DoubleMu"] == pytest.approx([0.99 / 4, 0.99, 0, 0.99], abs=1e-3)
    assert found["DoubleElectron"] == pytest.approx([0, 0.99 / 4, 0, 0], abs=1e-3)


def test_other_simulated_events_fire_as_often_as_the_efficiency_says(tmp_path: Path) -> None:
    """With another seed, and with the trigger drawn as for the pseudo-data, not averaged."""
    folder = writer.make(tmp_path, seed=7)
    campaign = datasets.load("toy")
    higgs = campaign.dataset("SMHiggsToZZTo4L")
    path = str(folder / "SMHiggsToZZTo4L.root")
    other = replace(campaign, datasets=(replace(higgs, files=(replace(higgs.files[0], url=path),)),))
    rows = analysed(other, "aod2012").candidates
    fired = np.concatenate([
        pseudodata._triggers(np.random.default_rng(number), block)["DoubleMu"]
        for number, block in enumerate(pseudodata.simulation_blocks(pseudodata.DATASETS[0], 30_000, 7))
    ])  # fmt: skip
    mine = rows.event[(rows.channel == CHANNELS.index("2e2mu")) & (rows.mass_4l > LOW) & (rows.mass_4l < HIGH)]
    seen, efficiency = int(fired[mine.astype(int) - 1].sum()), higgs.trigger_efficiency["2e2mu"]["DoubleMu"]
    assert len(mine) > 1000
    assert 0.02 < stats.binom.cdf(seen, len(mine), efficiency) < 0.98


def test_digest_follows_the_efficiencies_and_nothing_else_has_changed() -> None:
    campaign = datasets.load("toy")
    without = replace(campaign, datasets=tuple(replace(one, trigger_efficiency={}) for one in campaign.datasets))
    assert without.digest == BEFORE
    assert campaign.digest != BEFORE


# --- applied


def without_efficiencies(result: Result) -> Result:
    campaign = result.campaign
    plain = replace(campaign, datasets=tuple(replace(one, trigger_efficiency={}) for one in campaign.datasets))
    return replace(result, campaign=plain)


def test_prediction_of_a_channel_from_one_primary_dataset_has_its_trigger(toy: Result) -> None:
    before, after = without_efficiencies(toy).weights, toy.weights
    for dataset in toy.campaign.datasets:
        for channel, primary in (("4mu", "DoubleMu"), ("4e", "DoubleElectron"), ("2e2mu", "DoubleMu")):
            efficiency = dataset.trigger_efficiency.get(channel, {}).get(primary, 1.0)
            assert after[dataset.name][channel] == before[dataset.name][channel] * efficiency
    assert after["ZZTo2e2mu"]["2e2mu"] / before["ZZTo2e2mu"]["2e2mu"] == pytest.approx(0.617, abs=1e-3)


def test_pseudo_data_of_2e2mu_are_typical_of_the_prediction_with_the_trigger(toy: Result) -> None:
    window = {process: by_channel["2e2mu"] for process, by_channel in toy.windows["70-181"].items()}
    mean = sum(one.expected for process, one in window.items() if process != "data")
    assert 20 < mean < 25  # 34.5 as if electrons had a trigger of their own
    assert 0.05 < stats.poisson.cdf(window["data"].events, mean) < 0.95


def test_union_of_primary_datasets_is_left_as_it_is() -> None:
    result = analysed(datasets.load("toy"), "open2012")
    assert result.weights == without_efficiencies(result).weights


def test_campaign_with_one_primary_dataset_needs_its_trigger_in_every_selection() -> None:
    campaign = datasets.load("toy")
    kept = tuple(dataset for dataset in campaign.datasets if dataset.primary_dataset != "DoubleElectron")
    result = analysed(replace(campaign, datasets=kept), "open2012")
    ratio = result.weights["ZZTo2e2mu"]["2e2mu"] / without_efficiencies(result).weights["ZZTo2e2mu"]["2e2mu"]
    assert ratio == pytest.approx(campaign.dataset("ZZTo2e2mu").trigger_efficiency["2e2mu"]["DoubleMu"])


def test_reader_is_told_of_the_trigger_in_the_prediction(toy: Result) -> None:
    assert "the prediction of 4mu, 2e2mu (data of DoubleMu only) includes its trigger efficiency" in toy.remarks
    assert not any("trigger" in remark for remark in without_efficiencies(toy).remarks)


# --- the campaign file

HEAD = """
[campaign]
name = "mine"
schema = "outreach"
luminosity_fb = 10
luminosity_uncertainty = 0.02
energy_tev = 13
{shared}
[[dataset]]
name = "signal"
process = "higgs"
cross_section_pb = 0.006
{own}
file = [{{ url = "a.root" }}]
[[dataset]]
name = "muons"
process = "data"
primary_dataset = "DoubleMu"
{data}
file = [{{ url = "b.root" }}]
"""


def load(tmp_path: Path, *, shared: str = "", own: str = "", data: str = "") -> Campaign:
    path = tmp_path / "mine.toml"
    path.write_text(HEAD.format(shared=shared, own=own, data=data), encoding="utf-8")
    return datasets.load(path)


def test_campaign_may_state_efficiencies_for_all_and_a_dataset_its_own(tmp_path: Path) -> None:
    shared = "[campaign.trigger_efficiency]\n2e2mu = { DoubleMu = 0.7 }"
    assert load(tmp_path, shared=shared).datasets[0].trigger_efficiency == {"2e2mu": {"DoubleMu": 0.7}}
    own = "trigger_efficiency = { 4mu = { DoubleMu = 0.9 } }"
    signal, muons = load(tmp_path, shared=shared, own=own).datasets
    assert (signal.trigger_efficiency, muons.trigger_efficiency) == ({"4mu": {"DoubleMu": 0.9}}, {})
    assert hash(signal) == hash(replace(signal))


def test_channels_are_those_of_the_selections() -> None:
    assert parse.CHANNELS == CHANNELS


MISTAKES = {
    "per cent": ("4mu = { DoubleMu = 98 }", "DoubleMu: expected an efficiency of at most 1; got 98"),
    "nothing": ("4mu = { DoubleMu = 0 }", "DoubleMu: expected a number above 0; got 0"),
    "channel": ("4muons = { DoubleMu = 0.9 }", "4muons: expected no such channel: they are 4mu, 4e, 2e2mu"),
    "primary dataset": (
        "4mu = { DoubleMuon = 0.9 }",
        r"no data of primary dataset 'DoubleMuon'\nDid you mean DoubleMu\?",
    ),
    "number": ("4mu = 0.9", r"4mu: expected a table"),
}


@pytest.mark.parametrize(("line", "words"), MISTAKES.values(), ids=MISTAKES.keys())
def test_mistake_is_named(tmp_path: Path, line: str, words: str) -> None:
    with pytest.raises(CampaignError, match=words):
        load(tmp_path, own=f"trigger_efficiency = {{ {line} }}")


def test_data_have_no_efficiency(tmp_path: Path) -> None:
    with pytest.raises(CampaignError, match="trigger_efficiency: expected no such key: data has weight 1"):
        load(tmp_path, data="trigger_efficiency = { 4mu = { DoubleMu = 0.9 } }")
