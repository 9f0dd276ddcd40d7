"""The cutflow of weighted simulation has the exact sum of weights of the events that pass each cut."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import outreach
import pytest
import run2 as twin
from generators import pack, random_events
from outreach import campaign, dataset, events_of

import higgsnb as hn
from higgsnb import engine, plots, results
from higgsnb import selection as hs
from higgsnb.datasets import Campaign
from higgsnb.results import Result
from higgsnb.selection import CHANNELS, Leptons, Selection

N = 500
UNIT = Fraction(1, 2**24)


@pytest.fixture(scope="module")
def leptons() -> Leptons:
    return pack(random_events(N, seed=8))


@pytest.fixture(scope="module")
def weights() -> np.ndarray:
    rng = np.random.default_rng(9)
    return (rng.choice([-1, 1, 1], N) * rng.uniform(1, 2, N)).astype(np.float32)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, leptons: Leptons, weights: np.ndarray) -> Campaign:
    folder = tmp_path_factory.mktemp("weighted")
    halves = [(0, 300), (300, N)]
    paths = [
        outreach.write(folder / f"{a}.root", events_of(leptons, a, b), weights=weights[a:b]) for a, b in halves
    ]  # fmt: skip
    return campaign(dataset("mc", "zz", *paths, cross_section_pb=0.1), schema="nanoaod")


def last(made: Campaign, one: Any, **options: Any) -> Result:
    *_, result = engine.run(made, one, **{"workers": 1, "ledger": None, **options})
    return result


def by_event(leptons: Leptons, one: Selection, exact: list[Fraction]) -> list[list[Fraction]]:
    """The weighted cutflow of each channel: every event is selected by itself, and weighed."""
    flow = [[Fraction(0)] * len(one.cut_names()) for _ in CHANNELS]
    for event, weight in enumerate(exact):
        alone = hs.select(events_of(leptons, event, event + 1), one).cutflow
        for channel in range(3):
            for cut in np.flatnonzero(alone[channel]):
                flow[channel][cut] += weight
    return flow


@pytest.mark.parametrize("name", ["open2012", "aod2012", "df103", "smart", "tight"])
def test_cutflow_is_that_of_each_event_alone(made: Campaign, leptons: Leptons, weights: np.ndarray, name: str) -> None:
    changes: dict[str, dict[str, Any]] = {"smart": {"smart_cut": True}, "tight": {"sip_max": 1.5, "z1_mass_min": 75}}
    one = hs.load("open2012").replace(**changes[name]) if name in changes else hs.load(name)
    exact = [round(Fraction(float(weight)) / UNIT) * UNIT for weight in weights]
    expected = by_event(leptons, one, exact)
    for options in ({"chunk_events": 1000}, {"chunk_events": 71}):
        result = last(made, one, **options)
        flow = result.weighted_cutflow["mc"]
        assert {channel: [weight for _, weight in rows] for channel, rows in flow.items()} == {
            channel: [float(weight) for weight in row] for channel, row in zip(CHANNELS, expected, strict=True)
        }
        assert [cut for cut, _ in flow["4e"]] == list(one.cut_names())
        total = result.layout.binning.total(result.sums["mc"][0])[0]
        assert [rows[-1][1] for rows in flow.values()] == total.tolist()
    assert sum(len(set(row)) for row in expected) > 12  # of 36: the cuts do cut


def test_rows_of_triggers_and_identification_are_weighted() -> None:
    """`run2` has rows for triggers, identification and the smart cut."""
    one = hs.load("run2")
    events = twin.random_events(1500, seed=3)
    leptons = hs.to_leptons(twin.columns_of(events), one)
    found = hs.select(leptons, one, reached=True)
    assert found.reached.shape == (3, 1500)
    flow = np.stack([np.count_nonzero(found.reached >= cut, axis=1) for cut in range(len(one.cut_names()))], axis=1)
    assert flow[:, :-1].tolist() == found.cutflow[:, :-1].tolist()  # then weights can only be those of the events
    assert hs.select(leptons, one).reached.shape == (3, 0)


def test_table_is_normalised_from_the_sums(tmp_path: Path, made: Campaign, weights: np.ndarray) -> None:
    result = last(made, hs.load("open2012"))
    table, flow = plots.cutflow(result, "2e2mu"), dict(result.weighted_cutflow["mc"]["2e2mu"])
    scale = 10_000 * 0.1 / float(weights.sum(dtype=np.float64))
    for row, (cut, weight) in zip(table.rows, flow.items(), strict=True):
        assert row == (cut, pytest.approx(weight * scale, abs=0.006))
    yielded = result.yields["zz"]["2e2mu"].expected
    assert table.rows[-1][1] == pytest.approx(yielded, abs=0.006)
    results.write(result, tmp_path, run={})
    written = json.loads((tmp_path / "result.json").read_text())
    assert dict(map(tuple, written["weighted_cutflow"]["mc"]["2e2mu"])) == flow


def half(events: Any) -> hn.Selected:
    muons = ak.num(events.Muon) > 2
    events = events[ak.num(events.Muon) > 1]
    pt = events.Muon.pt[:, 0]
    weight = {"scale": 0.5 + 0.25 * (events.event % 3)}
    regions = {"all": [pt > 0], "hard": [pt > 20, pt > 30]}
    assert len(muons) >= len(events)
    return hn.Selected(events, pt=pt, regions=regions, weights=weight)


OWN = hn.Analysis(
    "half", half, columns=["Muon_pt"], preselection="nMuon >= 1", axes=[hn.Axis("pt", 5, 0, 100)],
    regions={"all": ["any"], "hard": ["20", "30"]},
)  # fmt: skip


def test_own_analysis_has_its_factors_from_the_first_cut_on(
    made: Campaign, leptons: Leptons, weights: np.ndarray
) -> None:
    n_muons = np.diff(leptons.muon_offsets)
    plain = [round(Fraction(float(weight)) / UNIT) * UNIT for weight in weights]
    factor = [0.5 + 0.25 * (int(number) % 3) for number in leptons.event]
    scaled = [round(Fraction(float(w) * f) / UNIT) * UNIT for w, f in zip(weights, factor, strict=True)]
    first = [float(leptons.muon_pt[leptons.muon_offsets[e]]) if n_muons[e] > 1 else -1.0 for e in range(N)]

    def total(some: list[Fraction], passes: list[bool]) -> float:
        return float(sum((w for w, good in zip(some, passes, strict=True) if good), Fraction(0)))

    begin = [("all", float(sum(plain))), ("preselected", total(plain, [n > 0 for n in n_muons]))]
    cuts = [(f"{low}", total(scaled, [pt > low for pt in first])) for low in (20, 30)]
    for size in (1000, 97):
        flow = last(made, OWN, chunk_events=size).weighted_cutflow["mc"]
        assert flow["hard"] == [*begin, *cuts, ("unique", cuts[-1][1])]
        everything = total(scaled, [pt > 0 for pt in first])
        assert flow["all"] == [*begin, ("any", everything), ("unique", everything)]


def test_simulation_without_weights_has_none(tmp_path: Path, leptons: Leptons) -> None:
    path = outreach.write(tmp_path / "plain.root", leptons)
    made = campaign(dataset("mc", "zz", path, cross_section_pb=0.1))
    result = last(made, hs.load("open2012"))
    assert result.weighted_cutflow == {}
    assert "weighted_cutflow" not in results.document(result)
