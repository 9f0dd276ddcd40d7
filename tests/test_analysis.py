"""Counting: chunks add up in any order, an event of two streams counts once; partial results are normalised."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from generators import pack, random_leptons
from hypothesis import given, settings
from hypothesis import strategies as st
from outreach import campaign, dataset, events_of, write

from higgsnb import analysis, histograms, kernel, selection
from higgsnb.analysis import Result, Tally, analyse, merge
from higgsnb.datasets import Campaign, Chunk, File, chunks
from higgsnb.events import FileInfo
from higgsnb.selection import CHANNELS, CUT_NAMES, Leptons

OPEN = selection.load("open2012")


@pytest.fixture(scope="module")
def leptons() -> Leptons:
    return random_leptons(3000, seed=5)


@pytest.fixture(scope="module")
def two_streams(leptons: Leptons, tmp_path_factory: pytest.TempPathFactory) -> Campaign:
    """Two streams that share a third of their events, and simulation with the very same events."""
    folder = tmp_path_factory.mktemp("streams")
    muons = write(folder / "mu.root", events_of(leptons, 0, 2000))
    electrons = write(folder / "e.root", events_of(leptons, 1000, 3000))
    simulation = write(folder / "mc.root", leptons)
    return campaign(
        dataset("e", "data", electrons, stream="DoubleElectron"),
        dataset("mu", "data", muons, stream="DoubleMu"),
        dataset("mc", "higgs", simulation, cross_section_pb=0.5),
    )


def run(one: Campaign, chunk_events: int = 500, fraction: float = 1.0, sel: selection.Selection = OPEN) -> list[Tally]:
    return [analyse(chunk, sel) for chunk in chunks(one, sizes(one), chunk_events, fraction)]


def sizes(one: Campaign) -> dict[str, int]:
    return {file.url: {"mc": 3000}.get(d.name, 2000) for d in one.datasets for file in d.files}


def result(one: Campaign, tallies: Sequence[Tally], sel: selection.Selection = OPEN) -> Result:
    files = {(d, 0): FileInfo(sizes(one)[s.files[0].url], "TTree", 1, "u") for d, s in enumerate(one.datasets)}
    return Result(one, sel, merge(tallies), files)


def identity(of: Result) -> tuple[object, ...]:
    """Everything that is public of a result, as plain values that can be compared."""
    tables = tuple(column.tobytes() for column in of.candidates)
    counts = tuple((name, array.tobytes()) for name, array in of.counts.items())
    return tables, counts, of.cutflow, of.yields, of.windows, of.coverage, of.unusable, of.tally.units


@settings(max_examples=12, deadline=None)
@given(order=st.randoms(use_true_random=False), groups=st.integers(1, 7), chunk_events=st.sampled_from([97, 500, 3000]))
def test_any_chunking_order_and_grouping_gives_the_same_result(
    two_streams: Campaign, order: object, groups: int, chunk_events: int
) -> None:
    expected = identity(result(two_streams, run(two_streams, 700)))
    tallies = run(two_streams, chunk_events)
    order.shuffle(tallies)  # type: ignore[attr-defined]
    summed = [merge(tallies[i::groups]) for i in range(groups)]
    assert identity(result(two_streams, summed)) == expected


def test_addition_commutes_and_zero_is_neutral(two_streams: Campaign) -> None:
    a, b, *_ = run(two_streams)
    assert identity(result(two_streams, [a + b])) == identity(result(two_streams, [b + a]))
    assert identity(result(two_streams, [a + Tally()])) == identity(result(two_streams, [a]))


def test_adding_leaves_the_summands_alone(two_streams: Campaign) -> None:
    tallies = run(two_streams)
    before = [tally.counts[next(iter(tally.counts))].copy() for tally in tallies]
    merge(tallies)
    for tally, counts in zip(tallies, before, strict=True):
        np.testing.assert_array_equal(next(iter(tally.counts.values())), counts)


def test_events_counted_twice_are_refused(two_streams: Campaign) -> None:
    tally = run(two_streams)[0]
    with pytest.raises(ValueError, match="were counted twice"):
        tally + tally


def test_results_add_up_and_different_ones_are_refused(two_streams: Campaign) -> None:
    first, second = run(two_streams)[:4], run(two_streams)[4:]
    total = result(two_streams, first) + result(two_streams, second)
    assert identity(total) == identity(result(two_streams, first + second))
    other = result(two_streams, second, OPEN.replace(muon_pt_min=6))
    with pytest.raises(ValueError, match="results of different selections cannot be added"):
        result(two_streams, first) + other


def test_event_in_both_streams_is_counted_once_and_for_double_mu(leptons: Leptons, two_streams: Campaign) -> None:
    found = result(two_streams, run(two_streams))
    truth = kernel.select(leptons, OPEN)
    data = found.candidates.rows(found.candidates.dataset < 2)
    assert sorted(data.event.tolist()) == sorted(leptons.event[truth.event_index].tolist())
    mine = truth.event_index
    assert found.yields["data"]["4mu"].events == np.count_nonzero(truth.channel == 0)
    assert np.count_nonzero(data.dataset == 1) == np.count_nonzero(mine < 2000)
    assert found.duplicates_removed == {"e": np.count_nonzero((mine >= 1000) & (mine < 2000))}


def test_simulation_is_never_compared_with_data(two_streams: Campaign, leptons: Leptons) -> None:
    found = result(two_streams, run(two_streams))
    assert found.yields["higgs"]["4e"].events == np.count_nonzero(kernel.select(leptons, OPEN).channel == 1)


def test_cutflow_counts_before_duplicates_and_unique_after(two_streams: Campaign, leptons: Leptons) -> None:
    found = result(two_streams, run(two_streams))
    expected = kernel.select(events_of(leptons, 1000, 3000), OPEN).cutflow
    for channel, name in enumerate(CHANNELS):
        flow = dict(found.cutflow["e"][name])
        assert list(flow) == list(CUT_NAMES)
        assert [flow[cut] for cut in CUT_NAMES[:-1]] == expected[channel][:-1].tolist()
    removed = sum(
        dict(found.cutflow["e"][c])["best candidate"] - dict(found.cutflow["e"][c])["unique"] for c in CHANNELS
    )
    assert removed == found.duplicates_removed["e"] > 0


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_order_of_the_catalogue_does_not_change_what_is_kept(two_streams: Campaign, order: tuple[int, ...]) -> None:
    permuted = dataclasses.replace(two_streams, datasets=tuple(two_streams.datasets[i] for i in order))
    kept = result(permuted, run(permuted)).candidates
    names = np.array([d.name for d in permuted.datasets])
    rows = sorted(zip(names[kept.dataset].tolist(), kept.event.tolist(), kept.mass_4l.tolist(), strict=True))
    reference = result(two_streams, run(two_streams)).candidates
    names = np.array([d.name for d in two_streams.datasets])
    assert rows == sorted(
        zip(names[reference.dataset].tolist(), reference.event.tolist(), reference.mass_4l.tolist(), strict=True)
    )


def test_same_event_twice_in_one_file_is_counted_once(leptons: Leptons, tmp_path: Path) -> None:
    doubled = Leptons(*(
        np.concatenate((c, c if not n.endswith("offsets") else c[1:] + c[-1]))
        for n, c in zip(Leptons._fields, leptons, strict=True)
    ))  # fmt: skip
    one = campaign(dataset("mu", "data", write(tmp_path / "f.root", doubled), stream="DoubleMu"))
    tally = analyse(Chunk("mu", 0, 0, one.datasets[0].files[0], "outreach", "DoubleMu", True, 0, 6000, None), OPEN)
    found = Result(one, OPEN, tally, {(0, 0): FileInfo(6000, "TTree", 1, "u")})
    assert len(found.candidates.event) == len(kernel.select(leptons, OPEN).channel)


def test_channels_of_aod2012_come_from_their_streams(two_streams: Campaign) -> None:
    aod = selection.load("aod2012")
    found = result(two_streams, run(two_streams, sel=aod), aod)
    assert set(found.cutflow["mu"]) == {"4mu", "2e2mu"}
    assert set(found.cutflow["e"]) == {"4e"}
    assert set(found.cutflow["mc"]) == set(CHANNELS)


def test_weight_is_luminosity_times_cross_section_over_processed_events(two_streams: Campaign) -> None:
    found = result(two_streams, run(two_streams))
    assert found.weights["mc"]["4mu"] == pytest.approx(10.0 * 0.5 * 1000 / 3000)
    one = found.yields["higgs"]["2e2mu"]
    assert one.expected == pytest.approx(one.events * 5000 / 3000)
    assert one.stat_error == pytest.approx(np.sqrt(one.events) * 5000 / 3000)


def test_partial_result_is_normalised_to_what_was_processed(two_streams: Campaign) -> None:
    half = result(two_streams, run(two_streams, 100, fraction=0.5))
    assert half.coverage == ((0, 3), (3500, 7000), (5.0, 10.0))
    assert not half.complete
    assert half.weights["mc"]["4mu"] == pytest.approx(5.0 * 0.5 * 1000 / 1500)


def test_luminosity_of_a_channel_is_that_of_its_streams(two_streams: Campaign) -> None:
    only_muons = [t for t in run(two_streams) if 0 not in t.counts]
    found = result(two_streams, only_muons)
    assert found.weights["mc"]["4mu"] == pytest.approx(10.0 * 0.5 * 1000 / 3000)
    assert found.weights["mc"]["4e"] == 0.0


@pytest.mark.parametrize(("name", "share"), [("open2012", 1.0), ("aod2012", 0.0)])
def test_2e2mu_has_the_luminosity_of_the_streams_that_its_selection_reads(
    two_streams: Campaign, name: str, share: float
) -> None:
    sel = selection.load(name)
    only_electrons = [tally for tally in run(two_streams, sel=sel) if 1 not in tally.counts]
    assert result(two_streams, only_electrons, sel).luminosity_shares == {"4mu": 0.0, "4e": 1.0, "2e2mu": share}


def test_file_of_unknown_length_counts_as_the_average_one(two_streams: Campaign) -> None:
    muons = two_streams.datasets[1]
    more = dataclasses.replace(muons, files=(*muons.files, File(url="nowhere.root")))
    one = dataclasses.replace(two_streams, datasets=(two_streams.datasets[0], more, two_streams.datasets[2]))
    found = result(one, run(two_streams))
    assert found.coverage == ((3, 4), (7000, 9000), (pytest.approx(20 / 3), 10.0))
    assert found.luminosity_shares == {"4mu": 0.5, "4e": 1.0, "2e2mu": 1.0}


def test_golden_json_leaves_simulation_alone(two_streams: Campaign, tmp_path: Path) -> None:
    (tmp_path / "cert.json").write_text('{"7": [[1, 2]]}')
    masked = dataclasses.replace(two_streams, golden_json=str(tmp_path / "cert.json"))
    found, whole = result(masked, run(masked)), result(two_streams, run(two_streams))
    assert found.yields["higgs"] == whole.yields["higgs"]
    assert found.masked == {"e": 2000, "mu": 2000}
    assert sum(one.events for one in found.yields["data"].values()) == 0


def test_dataset_not_begun_is_not_predicted(two_streams: Campaign) -> None:
    found = result(two_streams, [t for t in run(two_streams) if 2 not in t.counts])
    assert found.unpredicted == ("mc",)
    assert found.yields["higgs"]["4mu"] == (0, 0, 0)


def test_histograms_equal_a_fill_of_the_candidates(two_streams: Campaign) -> None:
    found = result(two_streams, run(two_streams))
    for index, name in enumerate(("e", "mu", "mc")):
        rows = found.candidates.rows(found.candidates.dataset == index)
        np.testing.assert_array_equal(found.counts[name], histograms.fill(rows.variables))
    assert (
        found.histograms["mass_4l"][{"dataset": "mu", "channel": "4e"}].sum(flow=True)
        == found.candidates.rows((found.candidates.dataset == 1) & (found.candidates.channel == 1)).event.size
    )


def test_golden_json_leaves_events_out_and_counts_them(leptons: Leptons, tmp_path: Path) -> None:
    run_number = np.where(np.arange(3000) % 3 == 0, 200000, 200001)
    marked = leptons._replace(run=run_number.astype(np.int64), luminosity_block=np.arange(3000) // 100 + 1)
    (tmp_path / "cert.json").write_text('{"200000": [[1, 10], [12, 40]]}')
    one = campaign(dataset("d", "data", write(tmp_path / "f.root", marked)), golden_json=str(tmp_path / "cert.json"))
    tally = analyse(Chunk("d", 0, 0, one.datasets[0].files[0], "outreach", None, True, 0, 3000, one.golden_json), OPEN)
    certified = (run_number == 200000) & (marked.luminosity_block != 11) & (marked.luminosity_block <= 40)
    truth = kernel.select(leptons, OPEN).event_index
    assert tally.masked == {0: np.count_nonzero(~certified)}
    assert tally.cutflow[0][0, 0] == np.count_nonzero(certified)
    assert tally.blocks[0].entry.tolist() == truth[certified[truth]].tolist()


def test_empty_chunk_counts_nothing(tmp_path: Path) -> None:
    one = campaign(dataset("d", "data", write(tmp_path / "f.root", pack([]))))
    tally = analyse(Chunk("d", 0, 0, one.datasets[0].files[0], "outreach", None, True, 0, 0, None), OPEN)
    found = Result(one, OPEN, tally, {(0, 0): FileInfo(0, "TTree", 1, "u")})
    assert found.complete
    assert len(found.candidates.event) == 0
    assert found.empty_files == ("f.root",)
    assert analysis.find_duplicates(found.candidates, np.array([0]), one_per_event=True).tolist() == []
