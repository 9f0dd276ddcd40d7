"""Weights of either sign are added up exactly, in any order, and normalised to the generated events."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import outreach
import pytest
from generators import clean_zz_events, pack
from hypothesis import given
from hypothesis import strategies as st
from outreach import campaign, dataset, events_of

import higgsnb as hn
from higgsnb import engine
from higgsnb.datasets import Campaign
from higgsnb.errors import SchemaError
from higgsnb.results import Result, weights
from higgsnb.selection import DIGIT, Binning, Leptons

N = 600
PT = hn.Axis("pt", 8, 0, 80, label="pT of the first muon", unit="GeV")
SIZES = (1000, 211, 64)


@pytest.fixture(scope="module")
def leptons() -> Leptons:
    return pack(clean_zz_events(N, seed=13))


def first_muon(events: Any) -> hn.Selected:
    events = events[ak.num(events.Muon) > 0]
    pt = events.Muon.pt[:, 0]
    return hn.Selected(events, pt=pt, regions={"soft": pt < 30, "hard": pt > 20})


ONE = hn.Analysis("first", first_muon, columns=["Muon_pt"], axes=[PT], regions=["soft", "hard"])


def simulation(folder: Path, leptons: Leptons, *some: Any, **options: Any) -> Campaign:
    """NanoAOD of one process, the events divided among files, each with these weights."""
    edges = np.linspace(0, N, len(some) + 1).astype(int)
    paths = []
    for i, (drawn, start, stop) in enumerate(zip(some, edges, edges[1:], strict=False)):
        part = events_of(leptons, int(start), int(stop))
        ours = np.broadcast_to(np.asarray(drawn, np.float32), part.n_events)
        paths.append(outreach.write(folder / f"{i}.root", part, weights=ours, **options))
    return campaign(dataset("mc", "zz", *paths, cross_section_pb=0.1), schema="nanoaod")


def last(made: Campaign, one: Any = ONE, **options: Any) -> Result:
    *_, result = engine.run(made, one, **{"workers": 1, **options})
    return result


def fixed(some: np.ndarray) -> tuple[list[Fraction], Fraction]:
    """Weights rounded to 2⁻²⁴ of the power of two below the median size of the first thousand, as fractions."""
    sizes = [abs(float(one)) for one in some if one][:1000]
    unit = Fraction(2) ** (math.floor(math.log2(float(np.median(sizes)))) - 24)
    return [round(Fraction(float(one)) / unit) * unit for one in some], unit


def drawn(seed: int, n: int = N) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.choice([-1, 1, 1], n) * rng.lognormal(8, 2, n)).astype(np.float32)


@pytest.mark.parametrize("size", SIZES)
def test_sums_are_those_of_fractions(tmp_path: Path, leptons: Leptons, size: int) -> None:
    ours = drawn(1)
    result = last(simulation(tmp_path, leptons, ours), chunk_events=size)
    exact, _ = fixed(ours)
    n_muons = np.diff(leptons.muon_offsets)
    pt = [float(leptons.muon_pt[leptons.muon_offsets[i]]) if n_muons[i] else math.nan for i in range(N)]
    sums, squares = result.sums["mc"]
    for region, (low, high) in enumerate([(-1.0, 30.0), (20.0, 1e9)]):
        total = result.layout.binning.total
        inside = [w for w, p in zip(exact, pt, strict=True) if (p < high and p > low)]
        assert total(sums)[0, region] == float(sum(inside))
        assert total(squares)[0, region] == float(sum(w * w for w in inside))
        for k in range(8):
            mine = [w for w, p in zip(exact, pt, strict=True) if 10 * k <= p < 10 * k + 10 and low < p < high]
            bins = result.layout.binning.counts_of(sums, "pt")[0, region, 1 + k]
            assert bins == float(sum(mine))
    assert any(value < 0 for value in result.layout.binning.counts_of(sums, "pt").ravel())


def test_same_whatever_chunks_order_and_backend(tmp_path: Path, leptons: Leptons) -> None:
    ours = drawn(2)
    made = simulation(tmp_path, leptons, ours[: N // 2], ours[N // 2 :] * 300)
    first = last(made, chunk_events=1000)
    assert len({exponent for _, exponent in first.tally.weighted}) == 2  # of files with other typical weights
    for options in ({"chunk_events": 211}, {"chunk_events": 7, "workers": 2}, {"client": "processes"}):
        again = last(made, **options)
        for mine, other in zip(first.sums["mc"], again.sums["mc"], strict=True):
            assert mine.tobytes() == other.tobytes()
        assert again.weights == first.weights


@given(st.lists(st.integers(-(2**40) + 1, 2**40 - 1), min_size=1, max_size=30))
def test_digits_of_squares_are_exact(values: list[int]) -> None:
    n = len(values)
    binning = Binning((hn.Axis("one", 1, 0, 1),), ("all",))
    places = np.array([[1, 3]] * n, np.int32)
    places[0, 0] = -1  # in no bin, but among all
    fixed = np.array(values)[:, np.newaxis]
    sums = weights.add_up(np.zeros(n, np.int8), np.arange(n), places, fixed, binning)
    assert sums[0, 0, 0].tolist() == [0, sum(values[1:]), 0, sum(values)]
    for place, some in ((1, values[1:]), (3, values)):
        digits = sums[0, 1:, 0, place].tolist()
        assert sum(digit << (DIGIT * k) for k, digit in enumerate(digits)) == sum(v * v for v in some)


def products(base: np.ndarray, sources: np.ndarray, scale: float) -> np.ndarray:
    """Weights in units, not rounded: the nominal one, then up and down of each source, by plain NumPy."""

    def times(skip: int) -> np.ndarray:
        total = base * scale
        for source in range(len(sources)):
            total = total if source == skip else total * sources[source, 0]
        return total

    varied = [times(source) * sources[source, way] for source in range(len(sources)) for way in (1, 2)]
    return np.stack([times(-1), *varied], axis=1)


@pytest.mark.parametrize("n", [0, 1, 1023, 1024, 2500])
@pytest.mark.parametrize("n_sources", [0, 1, 4])
def test_weights_of_all_variations_are_those_of_numpy(n: int, n_sources: int) -> None:
    rng = np.random.default_rng(n)
    base, sources = rng.normal(0, 3, n), rng.normal(1, 0.2, (n_sources, 3, n))
    columns = np.arange(1, 1 + 2 * n_sources).reshape(n_sources, 2)[::-1]
    fixed = weights.to_fixed(
        base, 1, where="a", entries=np.arange(n), sources=sources, columns=columns, n_copies=3 + 2 * n_sources
    )
    expected = np.rint(products(base, sources, 2.0**23))
    assert fixed[:, 0].tolist() == expected[:, 0].tolist()
    assert fixed[:, columns.ravel()].tolist() == expected[:, 1:].tolist()
    assert not fixed[:, 1 + 2 * n_sources :].any()  # those of shifts


@pytest.mark.parametrize("value", [math.nan, math.inf, -1e10])
def test_first_event_with_a_wrong_variation_is_named(value: float) -> None:
    sources = np.ones((2, 3, 3000))
    sources[1, 2, 2100] = sources[0, 1, 2500] = value
    with pytest.raises(SchemaError, match="the weight of entry 7102100 is"):
        weights.to_fixed(
            np.ones(3000), 0, where="a", entries=np.arange(7_100_000, 7_103_000), sources=sources,
            columns=np.array([[1, 2], [3, 4]]), n_copies=5,
        )  # fmt: skip


def test_weights_of_either_sign_normalise_to_their_sum(tmp_path: Path, leptons: Leptons) -> None:
    signs = np.where(np.arange(N) % 3, 1, -1)
    result = last(simulation(tmp_path, leptons, signs * 26_331.5), "open2012")
    assert result.complete
    assert result.weights["mc"]["4mu"] == pytest.approx(10.0 * 0.1 * 1000 / (26_331.5 * signs.sum()), rel=1e-12)
    plain = last(simulation(tmp_path, leptons, 1), "open2012")
    for channel, one in result.yields["zz"].items():
        rows = result.candidates.rows(result.candidates.channel == result.regions.index(channel))
        net = np.where(rows.entry % 3, 1, -1).sum()
        assert one.events == plain.yields["zz"][channel].events == len(rows.entry)
        assert one.expected == pytest.approx(1000 * net / signs.sum(), rel=1e-12)
        assert one.stat_error == pytest.approx(1000 * math.sqrt(len(rows.entry)) / signs.sum(), rel=1e-12)


CASES: dict[str, Callable[[Any], Any]] = {
    "all one": lambda _: 1,
    "all alike": lambda _: -26_300.5,
    "signs": lambda n: np.where(np.arange(n) % 4, 2.0, -2.0),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@pytest.mark.parametrize("runs", ["one row", "rows"])
def test_skim_has_the_expectation_of_the_whole(
    tmp_path: Path, leptons: Leptons, case: Callable[[Any], Any], runs: str
) -> None:
    """The skim holds every selected event, and says in `Runs` what it was made of."""
    ours = np.broadcast_to(np.asarray(case(N), np.float32), N)
    total = float(ours.sum(dtype=np.float64))
    rows = {"genEventSumw": [total], "genEventCount": [N]}
    if runs == "rows":
        rows = {"genEventSumw": [0.25 * total, 0.75 * total], "genEventCount": [N // 4, N - N // 4]}
    whole = last(simulation(tmp_path, leptons, ours, runs=rows))
    n_muons = np.diff(leptons.muon_offsets)
    stop = int(np.flatnonzero(n_muons > 0).max()) + 1
    kept = events_of(leptons, 0, stop)
    skim = tmp_path / "skim"
    skim.mkdir()
    path = outreach.write(skim / "a.root", kept, weights=ours[:stop], runs=rows)
    found = last(campaign(dataset("mc", "zz", path, cross_section_pb=0.1), schema="nanoaod"))
    assert found.yields == whole.yields
    without = last(simulation(tmp_path, leptons, ours))
    for region, one in without.yields["zz"].items():
        assert one.expected == pytest.approx(whole.yields["zz"][region].expected, rel=1e-6)


def test_half_of_a_sample_predicts_what_the_whole_does(tmp_path: Path, leptons: Leptons) -> None:
    ours = np.where(np.arange(N) % 4, 2.0, -2.0)
    made = simulation(tmp_path, leptons, ours, runs={"genEventSumw": [float(ours.sum())], "genEventCount": [N]})
    half, whole = last(made, fraction=0.5), last(made)
    assert half.weights["mc"]["hard"] == pytest.approx(2 * whole.weights["mc"]["hard"], rel=1e-12)
    for region in ("soft", "hard"):
        one, other = (result.yields["zz"][region] for result in (half, whole))
        assert abs(one.expected - other.expected) < 5 * one.stat_error


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("case", ["zero", "cancel", "cancel over files"])
def test_sample_whose_weights_add_up_to_nothing_is_left_out(
    tmp_path: Path, leptons: Leptons, case: str, size: int
) -> None:
    signs = np.where(np.arange(N) % 2, 1, -1)
    some = {"zero": (0 * signs,), "cancel": (signs,), "cancel over files": (np.ones(N // 2), -np.ones(N // 2))}[case]
    result = last(simulation(tmp_path, leptons, *some), chunk_events=size)
    assert not result.complete
    assert {failure.message for failure in result.failed} == {
        "dataset mc: the sum of its weights is 0, to which nothing can be normalised"
    }
    assert result.missing_simulation == ("mc",)


def test_part_of_which_the_weights_cancel_is_no_failure(tmp_path: Path, leptons: Leptons) -> None:
    made = simulation(tmp_path, leptons, np.where(np.arange(N) < 200, np.where(np.arange(N) % 2, 1, -1), 1))
    part = last(made, fraction=1 / 3)
    assert (part.failed, part.missing_simulation) == ((), ("mc",))
    assert last(made).complete


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_weight_that_is_no_number_is_an_error_of_its_file(tmp_path: Path, leptons: Leptons, bad: float) -> None:
    result = last(
        simulation(tmp_path, leptons, np.ones(N // 2), np.where(np.arange(N // 2) == 7, bad, 1)), chunk_events=64
    )
    (failure,) = result.failed
    assert failure.file == result.campaign.files[1].url
    assert "entry 7" in failure.message


def test_weight_of_a_million_typical_ones_is_named(tmp_path: Path, leptons: Leptons) -> None:
    ours = np.where(np.arange(N) == 333, 1e6, 1.0)
    (failure,) = last(simulation(tmp_path, leptons, ours), chunk_events=64).failed
    assert "the weight of entry 333 is 1e+06, a typical one about 1" in failure.message


def test_files_with_and_without_weights_do_not_mix(tmp_path: Path, leptons: Leptons) -> None:
    made = simulation(tmp_path, leptons, np.full(N, 3.0))
    other = outreach.write(tmp_path / "other.root", events_of(leptons, 0, 100))
    mixed = campaign(dataset("mc", "zz", Path(made.files[0].url), other, cross_section_pb=0.1), schema="nanoaod")
    result = last(mixed, "open2012")
    assert not result.complete
    assert {failure.message for failure in result.failed} == {
        "dataset mc: some of its files have weights, others have none"
    }


def test_squares_of_the_largest_weights_in_one_bin_are_exact() -> None:
    n, k, largest = 90_000, 100, 2**40 - 1
    binning = Binning((hn.Axis("x", 1, 0, 1, per_event=k),), ("all",))
    places = np.ones((n, k + 1), np.int32)
    sums = weights.add_up(np.zeros(n, np.int8), np.arange(n), places, np.full((n, 1), largest), binning)
    found = sum(int(sums[0, 1 + digit, 0, 1]) << DIGIT * digit for digit in range(weights.LIMBS))
    assert found == n * (k + 1) * largest**2


# --- Factors and variations


def weighted(events: Any) -> hn.Selected:
    events = events[ak.num(events.Muon) > 0]
    pt = np.asarray(events.Muon.pt[:, 0], np.float64)
    factors = {"trigger": 0.5 + pt / 200, "pileup": (1.1 + 0 * pt, 1.2 + 0 * pt, 1.0 + 0 * pt)}
    return hn.Selected(events, pt=pt, weights=factors)


def test_variations_are_what_runs_of_their_own_give(tmp_path: Path, leptons: Leptons) -> None:
    def alone(way: int, scale: float = 1.0) -> Callable[[Any], hn.Selected]:
        def function(events: Any) -> hn.Selected:
            events = events[ak.num(events.Muon) > 0]
            first = np.asarray((events.Muon.pt[:, 0] * np.float32(scale)), np.float32).astype(np.float64)
            return hn.Selected(events, pt=first, weights={"all": (0.5 + first / 200) * (1.1, 1.2, 1.0)[way]})

        return function

    made = simulation(tmp_path, leptons, drawn(4))
    options: dict[str, Any] = {"columns": ["Muon_pt"], "axes": [PT]}
    shift = hn.Shift("scale", {"Muon_pt": (np.float32(1.1), np.float32(0.9))})
    found = last(made, hn.Analysis("v", weighted, variations=["pileup", shift], **options), chunk_events=100)
    for copy, function in {
        "nominal": alone(0), "pileup_up": alone(1), "pileup_down": alone(2), "scale_up": alone(0, 1.1),
        "scale_down": alone(0, 0.9),
    }.items():  # fmt: skip
        single = last(made, hn.Analysis("s", function, **options))
        mine, other = found.spectrum("pt", copy), single.spectrum("pt")
        np.testing.assert_allclose(mine.stack["zz"], other.stack["zz"], rtol=1e-6, atol=1e-12)
    assert found.spectrum("pt", "pileup_up").stack["zz"] == pytest.approx(found.spectrum("pt").stack["zz"] * 1.2 / 1.1)
    with pytest.raises(KeyError, match="pileup_up"):
        found.spectrum("pt", "pileup")


def test_data_have_weight_one(tmp_path: Path, leptons: Leptons) -> None:
    path = outreach.write(tmp_path / "data.root", leptons)
    one = hn.Analysis("w", weighted, columns=["Muon_pt"], axes=[PT], variations=["pileup"])
    result = last(campaign(dataset("mu", "data", path)), one)
    assert result.sums == {}
    assert result.yields["data"]["selected"].events == np.count_nonzero(np.diff(leptons.muon_offsets) > 0)


def test_weighted_histograms_are_written(tmp_path: Path, leptons: Leptons) -> None:
    result = last(simulation(tmp_path, leptons, drawn(5)))
    histogram = result.weighted_histograms["pt"]
    assert [axis.name for axis in histogram.axes] == ["dataset", "variation", "region", "pt"]
    sums, squares = (result.layout.binning.counts_of(some, "pt")[0, 1] for some in result.sums["mc"])
    np.testing.assert_array_equal(histogram["mc", "nominal", "hard", :].view(flow=True).value, sums)
    np.testing.assert_array_equal(histogram["mc", "nominal", "hard", :].view(flow=True).variance, squares)
