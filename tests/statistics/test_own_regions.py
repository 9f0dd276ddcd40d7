"""Tests of an analysis of one's own: some of its regions, if no event is in two of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import outreach
import pytest
from binned_models import N_SIMULATED, result_of
from generators import clean_zz_events, pack
from outreach import campaign, dataset, events_of

import higgsnb as hn
from higgsnb import engine, statistics
from higgsnb.datasets import Campaign
from higgsnb.errors import OptionError
from higgsnb.results import Result
from higgsnb.selection import Leptons

N = 900
PT = hn.Axis("pt", 16, 0, 80, label="pT of the first muon", unit="GeV")
SOME = {"signal": "higgs"}
TESTS = [statistics.counting_test, statistics.fit_signal_strength, statistics.scan_windows, statistics.toys]


def first_muon(events: Any) -> hn.Selected:
    events = events[ak.num(events.Muon) > 0]
    pt = events.Muon.pt[:, 0]
    regions = {"soft": pt < 30, "hard": pt >= 30, "middle": (pt > 20) & (pt < 40)}
    return hn.Selected(events, pt=pt, all=events.Muon.pt[:, :4], regions=regions)


ONE = hn.Analysis(
    "first", first_muon, columns=["Muon_pt"], regions=["soft", "hard", "middle"],
    axes=[PT, hn.Axis("all", 16, 0, 80, per_event=4), hn.Axis("uneven", [0, 10, 80], variable="pt")],  # type: ignore[arg-type]
)  # fmt: skip


@pytest.fixture(scope="module")
def leptons() -> Leptons:
    return pack(clean_zz_events(N, seed=31))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, leptons: Leptons) -> Campaign:
    folder = tmp_path_factory.mktemp("regions")
    paths = [outreach.write(folder / f"{i}.root", events_of(leptons, i * 300, i * 300 + 300)) for i in range(3)]
    return campaign(
        dataset("data", "data", paths[0]),
        dataset("h", "higgs", paths[1], cross_section_pb=0.002),
        dataset("z", "zz", paths[2], cross_section_pb=0.03),
        schema="nanoaod",
    )


@pytest.fixture(scope="module")
def result(made: Campaign) -> Result:
    *_, found = engine.run(made, ONE, workers=1, ledger=None, chunk_events=97)
    return found


@pytest.fixture(scope="module")
def pt(leptons: Leptons) -> list[np.ndarray]:
    """pT of the first muon in the three files."""
    offsets = leptons.muon_offsets
    return [
        np.array([float(leptons.muon_pt[offsets[e]]) for e in range(a, a + 300) if offsets[e + 1] > offsets[e]])
        for a in (0, 300, 600)
    ]


def test_counting_test_of_a_region_is_a_count_by_hand(result: Result, pt: list[np.ndarray]) -> None:
    found = statistics.counting_test(result, (20, 45), region="hard")
    data, higgs, zz = (int(np.count_nonzero((some >= 30) & (some < 45))) for some in pt)
    assert found.observed == data > 0
    assert found.signal == pytest.approx(higgs * 10_000 * 0.002 / 300)
    assert found.background == pytest.approx(zz * 10_000 * 0.03 / 300)
    assert found.background_error == pytest.approx(math.sqrt(zz) * 10_000 * 0.03 / 300)
    assert repr(found).startswith("Window 20-45 GeV: ")
    both = statistics.counting_test(result, (20, 45), variable="pt", region=["hard", "soft"])
    assert both.observed == np.count_nonzero((pt[0] >= 20) & (pt[0] < 45))


def test_likelihood_of_two_regions_is_the_product(result: Result) -> None:
    both, *single = (statistics.model(result, region=one) for one in (("soft", "hard"), "soft", "hard"))
    assert {region for region, _, _ in both.bins} == {"soft", "hard"}
    for strength in (0.0, 1.0, 3.0):
        parts = [float(one.twice_nll(strength, np.empty(0))) for one in single]
        assert float(both.twice_nll(strength, np.empty(0))) == pytest.approx(sum(parts))
    fit = statistics.fit_signal_strength(result, region=("soft", "hard"))
    rises = [float(both.twice_nll(fit.signal_strength + step, np.empty(0))) - fit.twice_nll for step in (-0.01, 0.01)]
    assert min(rises) > 0
    assert len({one.key for one in (both, *single)}) == 3  # of the random numbers
    assert statistics.toys(result, 3, region="soft").statistics.shape == (3,)


def test_scan_of_a_region_counts_its_events(result: Result, pt: list[np.ndarray]) -> None:
    scan = statistics.scan_windows(result, low=30, high=60, region="hard", n_toys=20)
    assert scan.high[0] - scan.low[0] == 15  # three bins
    expected = [np.count_nonzero((pt[0] >= low) & (pt[0] < low + 15)) for low in scan.low]
    assert scan.observed.tolist() == expected


@pytest.mark.parametrize("test", TESTS)
def test_region_has_to_be_named(test: Callable[..., Any], result: Result) -> None:
    options = {"window": (20, 45)} if test is statistics.counting_test else {}
    with pytest.raises(OptionError, match="the regions soft, hard, middle") as caught:
        test(result, **options)
    assert 'region="soft"' in caught.value.hint
    with pytest.raises(KeyError, match="no region 'hrad'; known: soft, hard, middle"):
        test(result, region="hrad", **options)


@pytest.mark.parametrize("test", TESTS)
def test_regions_that_share_events_are_refused(test: Callable[..., Any], result: Result, pt: list[np.ndarray]) -> None:
    options = {"window": (20, 45)} if test is statistics.counting_test else {}
    everything = np.concatenate(pt)
    n = np.count_nonzero((everything >= 30) & (everything < 40))
    assert result.overlaps == {
        ("soft", "middle"): np.count_nonzero((everything > 20) & (everything < 30)), ("hard", "middle"): n
    }  # fmt: skip
    with pytest.raises(OptionError, match=f"{n} events are both in 'hard' and in 'middle'") as caught:
        test(result, region=("hard", "middle"), **options)
    assert "take the events of one out of the other" in caught.value.hint


def test_histogram_has_to_count_events(result: Result) -> None:
    for test in (statistics.fit_signal_strength, statistics.scan_windows):
        with pytest.raises(OptionError, match="'all' has up to 4 entries of an event"):
            test(result, variable="all", region="hard")
        with pytest.raises(KeyError, match="no histogram 'tp'"):
            test(result, variable="tp", region="hard")
    with pytest.raises(OptionError, match="'uneven' has bins of different widths"):
        statistics.scan_windows(result, variable="uneven", region="hard")
    with pytest.raises(OptionError, match="no window '118-130' of pt") as caught:
        statistics.counting_test(result, region="hard")
    assert "window=(85, 97)" in caught.value.hint
    with pytest.raises(OptionError, match="low = 21 is not a bin edge"):
        statistics.counting_test(result, (21, 45), region="hard")


def test_one_channel_of_a_selection(mixed: Campaign) -> None:
    flat = list(np.linspace(70.5, 180.5, 1110))
    some = result_of(mixed, {"data": [125.0] * 9, "higgs": [124.5] * 300, "zz": flat}, channel=1)
    assert statistics.counting_test(some, region="4e") == statistics.counting_test(some)
    window = statistics.counting_test(some, (118, 130), variable="mass_4l")
    assert window == statistics.counting_test(some)
    with pytest.raises(OptionError, match="no background is expected in 118-130 GeV"):
        statistics.counting_test(some, region="4mu")
    assert some.tally.ranges[0, 0][0][1] == N_SIMULATED


def test_negative_weights_are_merged_until_background_is_expected(tmp_path: Path, leptons: Leptons) -> None:
    rng = np.random.default_rng(1)
    parts = [events_of(leptons, i * 300, i * 300 + 300) for i in range(3)]
    weights = np.where(rng.random(300) < 0.35, -1.0, 1.0).astype(np.float32)
    made = campaign(
        dataset("data", "data", outreach.write(tmp_path / "0.root", parts[0])),
        dataset("h", "higgs", outreach.write(tmp_path / "1.root", parts[1]), cross_section_pb=0.002),
        dataset("z", "zz", outreach.write(tmp_path / "2.root", parts[2], weights=weights), cross_section_pb=0.03),
        schema="nanoaod",
    )
    *_, result = engine.run(made, ONE, workers=1, ledger=None)
    fit = statistics.fit_signal_strength(result, region=("soft", "hard"))
    assert (fit.model.backgrounds["zz"] > 0).all()
    assert fit.model.backgrounds["zz"].sum() == pytest.approx(result.region_spectrum("pt", "soft").total.sum()
        - result.region_spectrum("pt", "soft").stack["higgs"].sum()
        + result.region_spectrum("pt", "hard").stack["zz"].sum())  # fmt: skip
