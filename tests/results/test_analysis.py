"""Counting: chunks add up in any order, an event of two primary datasets once; partial results are normalised."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from generators import pack, random_leptons
from hypothesis import given, settings
from hypothesis import strategies as st
from outreach import campaign, dataset, events_of, write

from higgsnb import selection
from higgsnb.datasets import Campaign, Chunk, File, luminosity
from higgsnb.datasets.chunks import plan_chunks
from higgsnb.events.schema import FileInfo
from higgsnb.results import Result, Tally, analyse
from higgsnb.results.certified import sections_of
from higgsnb.results.duplicates import find_duplicates
from higgsnb.results.layout import FOUR_LEPTONS, Table
from higgsnb.results.tally import Span, merge
from higgsnb.results.tally import pack as pack_record
from higgsnb.selection import CHANNELS, CUT_NAMES, Leptons

OPEN = selection.load("open2012")


@pytest.fixture(scope="module")
def leptons() -> Leptons:
    return random_leptons(3000, seed=5)


@pytest.fixture(scope="module")
def two_primary_datasets(leptons: Leptons, tmp_path_factory: pytest.TempPathFactory) -> Campaign:
    """Two primary datasets that share a third of their events, and simulation with the very same events."""
    folder = tmp_path_factory.mktemp("primary_datasets")
    muons = write(folder / "mu.root", events_of(leptons, 0, 2000))
    electrons = write(folder / "e.root", events_of(leptons, 1000, 3000))
    simulation = write(folder / "mc.root", leptons)
    return campaign(
        dataset("e", "data", electrons, primary_dataset="DoubleElectron"),
        dataset("mu", "data", muons, primary_dataset="DoubleMu"),
        dataset("mc", "higgs", simulation, cross_section_pb=0.5),
    )


def run(one: Campaign, chunk_events: int = 500, fraction: float = 1.0, sel: selection.Selection = OPEN) -> list[Tally]:
    return [analyse(chunk, sel) for chunk in plan_chunks(one, sizes(one), chunk_events, fraction)]


def sizes(one: Campaign) -> dict[str, int]:
    return {file.url: {"mc": 3000}.get(d.name, 2000) for d in one.datasets for file in d.files}


def result(one: Campaign, tallies: Sequence[Tally], sel: selection.Selection = OPEN) -> Result:
    files = {(d, 0): FileInfo(sizes(one)[s.files[0].url], "TTree", 1, "u") for d, s in enumerate(one.datasets)}
    return Result(one, sel, merge(tallies), files)


def identity(of: Result) -> tuple[object, ...]:
    """Everything that is public of a result, as plain values that can be compared."""
    tables = tuple(column.tobytes() for column in of.candidates)
    counts = tuple((name, array.tobytes()) for name, array in of.counts.items())
    return tables, counts, of.cutflow, of.yields, of.windows, of.coverage, of.invalid_values, of.tally.ranges


@settings(max_examples=12, deadline=None)
@given(order=st.randoms(use_true_random=False), groups=st.integers(1, 7), chunk_events=st.sampled_from([97, 500, 3000]))
def test_any_chunking_order_and_grouping_gives_the_same_result(
    two_primary_datasets: Campaign, order: object, groups: int, chunk_events: int
) -> None:
    expected = identity(result(two_primary_datasets, run(two_primary_datasets, 700)))
    tallies = run(two_primary_datasets, chunk_events)
    order.shuffle(tallies)  # type: ignore[attr-defined]
    summed = [merge(tallies[i::groups]) for i in range(groups)]
    assert identity(result(two_primary_datasets, summed)) == expected


def test_addition_commutes_and_zero_is_neutral(two_primary_datasets: Campaign) -> None:
    a, b, *_ = run(two_primary_datasets)
    assert identity(result(two_primary_datasets, [a + b])) == identity(result(two_primary_datasets, [b + a]))
    assert identity(result(two_primary_datasets, [a + Tally()])) == identity(result(two_primary_datasets, [a]))


def test_adding_leaves_the_summands_alone(two_primary_datasets: Campaign) -> None:
    tallies = run(two_primary_datasets)
    before = [tally.counts[next(iter(tally.counts))].copy() for tally in tallies]
    merge(tallies)
    for tally, counts in zip(tallies, before, strict=True):
        np.testing.assert_array_equal(next(iter(tally.counts.values())), counts)


def test_events_counted_twice_are_refused(two_primary_datasets: Campaign) -> None:
    tally = run(two_primary_datasets)[0]
    with pytest.raises(ValueError, match="were counted twice"):
        tally + tally


def test_results_add_up_and_different_ones_are_refused(two_primary_datasets: Campaign) -> None:
    first, second = run(two_primary_datasets)[:4], run(two_primary_datasets)[4:]
    total = result(two_primary_datasets, first) + result(two_primary_datasets, second)
    assert identity(total) == identity(result(two_primary_datasets, first + second))
    other = result(two_primary_datasets, second, OPEN.replace(muon_pt_min=6))
    with pytest.raises(ValueError, match="results of different selections cannot be added"):
        result(two_primary_datasets, first) + other


def test_event_in_both_primary_datasets_is_counted_once_and_for_double_mu(
    leptons: Leptons, two_primary_datasets: Campaign
) -> None:
    found = result(two_primary_datasets, run(two_primary_datasets))
    truth = selection.select(leptons, OPEN)
    data = found.candidates.rows(found.candidates.dataset < 2)
    assert sorted(data.event.tolist()) == sorted(leptons.event[truth.event_index].tolist())
    mine = truth.event_index
    assert found.yields["data"]["4mu"].events == np.count_nonzero(truth.channel == 0)
    assert np.count_nonzero(data.dataset == 1) == np.count_nonzero(mine < 2000)
    assert found.duplicates_removed == {"e": np.count_nonzero((mine >= 1000) & (mine < 2000))}


def test_simulation_is_never_compared_with_data(two_primary_datasets: Campaign, leptons: Leptons) -> None:
    found = result(two_primary_datasets, run(two_primary_datasets))
    assert found.yields["higgs"]["4e"].events == np.count_nonzero(selection.select(leptons, OPEN).channel == 1)


def test_cutflow_counts_before_duplicates_and_unique_after(two_primary_datasets: Campaign, leptons: Leptons) -> None:
    found = result(two_primary_datasets, run(two_primary_datasets))
    expected = selection.select(events_of(leptons, 1000, 3000), OPEN).cutflow
    for channel, name in enumerate(CHANNELS):
        flow = dict(found.cutflow["e"][name])
        assert list(flow) == list(CUT_NAMES)
        assert [flow[cut] for cut in CUT_NAMES[:-1]] == expected[channel][:-1].tolist()
    removed = sum(
        dict(found.cutflow["e"][c])["best candidate"] - dict(found.cutflow["e"][c])["unique"] for c in CHANNELS
    )
    assert removed == found.duplicates_removed["e"] > 0


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_order_of_the_catalogue_does_not_change_what_is_kept(
    two_primary_datasets: Campaign, order: tuple[int, ...]
) -> None:
    permuted = dataclasses.replace(
        two_primary_datasets, datasets=tuple(two_primary_datasets.datasets[i] for i in order)
    )
    kept = result(permuted, run(permuted)).candidates
    names = np.array([d.name for d in permuted.datasets])
    rows = sorted(zip(names[kept.dataset].tolist(), kept.event.tolist(), kept.mass_4l.tolist(), strict=True))
    reference = result(two_primary_datasets, run(two_primary_datasets)).candidates
    names = np.array([d.name for d in two_primary_datasets.datasets])
    assert rows == sorted(
        zip(names[reference.dataset].tolist(), reference.event.tolist(), reference.mass_4l.tolist(), strict=True)
    )


def test_same_event_twice_in_one_file_is_counted_once(leptons: Leptons, tmp_path: Path) -> None:
    doubled = Leptons(**{
        n: np.concatenate((c, c if not n.endswith("offsets") else c[1:] + c[-1]))
        for n, c in leptons._asdict().items()
        if c is not None
    })  # fmt: skip
    one = campaign(dataset("mu", "data", write(tmp_path / "f.root", doubled), primary_dataset="DoubleMu"))
    tally = analyse(Chunk("mu", 0, 0, one.datasets[0].files[0], "outreach", "DoubleMu", True, 0, 6000, None), OPEN)
    found = Result(one, OPEN, tally, {(0, 0): FileInfo(6000, "TTree", 1, "u")})
    assert len(found.candidates.event) == len(selection.select(leptons, OPEN).channel)


def test_channels_of_aod2012_come_from_their_primary_datasets(two_primary_datasets: Campaign) -> None:
    aod = selection.load("aod2012")
    found = result(two_primary_datasets, run(two_primary_datasets, sel=aod), aod)
    assert set(found.cutflow["mu"]) == {"4mu", "2e2mu"}
    assert set(found.cutflow["e"]) == {"4e"}
    assert set(found.cutflow["mc"]) == set(CHANNELS)


def test_weight_is_luminosity_times_cross_section_over_processed_events(two_primary_datasets: Campaign) -> None:
    found = result(two_primary_datasets, run(two_primary_datasets))
    assert found.weights["mc"]["4mu"] == pytest.approx(10.0 * 0.5 * 1000 / 3000)
    one = found.yields["higgs"]["2e2mu"]
    assert one.expected == pytest.approx(one.events * 5000 / 3000)
    assert one.stat_error == pytest.approx(np.sqrt(one.events) * 5000 / 3000)


def test_partial_result_is_normalised_to_what_was_processed(two_primary_datasets: Campaign) -> None:
    half = result(two_primary_datasets, run(two_primary_datasets, 100, fraction=0.5))
    assert half.coverage == ((0, 3), (3500, 7000), (5.0, 10.0))
    assert not half.complete
    assert half.weights["mc"]["4mu"] == pytest.approx(5.0 * 0.5 * 1000 / 1500)


def test_luminosity_of_a_channel_is_that_of_its_primary_datasets(two_primary_datasets: Campaign) -> None:
    only_muons = [t for t in run(two_primary_datasets) if 0 not in t.counts]
    found = result(two_primary_datasets, only_muons)
    assert found.weights["mc"]["4mu"] == pytest.approx(10.0 * 0.5 * 1000 / 3000)
    assert found.weights["mc"]["4e"] == 0.0


@pytest.mark.parametrize(("name", "share"), [("open2012", 1.0), ("aod2012", 0.0)])
def test_2e2mu_has_the_luminosity_of_the_primary_datasets_that_its_selection_reads(
    two_primary_datasets: Campaign, name: str, share: float
) -> None:
    sel = selection.load(name)
    only_electrons = [tally for tally in run(two_primary_datasets, sel=sel) if 1 not in tally.counts]
    assert result(two_primary_datasets, only_electrons, sel).luminosity.shares == {
        "4mu": 0.0,
        "4e": 1.0,
        "2e2mu": share,
    }


def test_file_of_unknown_length_counts_as_the_average_one(two_primary_datasets: Campaign) -> None:
    muons = two_primary_datasets.datasets[1]
    more = dataclasses.replace(muons, files=(*muons.files, File(url="nowhere.root")))
    one = dataclasses.replace(
        two_primary_datasets, datasets=(two_primary_datasets.datasets[0], more, two_primary_datasets.datasets[2])
    )
    found = result(one, run(two_primary_datasets))
    assert found.coverage == ((3, 4), (7000, 9000), (pytest.approx(20 / 3), 10.0))
    assert found.luminosity.shares == {"4mu": 0.5, "4e": 1.0, "2e2mu": 1.0}


def test_golden_json_leaves_simulation_alone(two_primary_datasets: Campaign, tmp_path: Path) -> None:
    (tmp_path / "cert.json").write_text('{"7": [[1, 2]]}')
    masked = dataclasses.replace(two_primary_datasets, golden_json=str(tmp_path / "cert.json"))
    found, whole = result(masked, run(masked)), result(two_primary_datasets, run(two_primary_datasets))
    assert found.yields["higgs"] == whole.yields["higgs"]
    assert found.rejected_by_golden_json == {"e": 2000, "mu": 2000}
    assert sum(one.events for one in found.yields["data"].values()) == 0


def test_dataset_not_begun_is_not_predicted(two_primary_datasets: Campaign) -> None:
    found = result(two_primary_datasets, [t for t in run(two_primary_datasets) if 2 not in t.counts])
    assert found.missing_simulation == ("mc",)
    assert found.yields["higgs"]["4mu"] == (0, 0, 0)


def test_histograms_equal_a_fill_of_the_candidates(two_primary_datasets: Campaign) -> None:
    found = result(two_primary_datasets, run(two_primary_datasets))
    for index, name in enumerate(("e", "mu", "mc")):
        rows = found.candidates.rows(found.candidates.dataset == index)
        np.testing.assert_array_equal(found.counts[name], FOUR_LEPTONS.refill(rows))
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
    truth = selection.select(leptons, OPEN).event_index
    assert tally.rejected_by_golden_json == {0: np.count_nonzero(~certified)}
    assert tally.cutflow[0][0, 0] == np.count_nonzero(certified)
    assert tally.blocks[0].entry.tolist() == truth[certified[truth]].tolist()


def test_empty_chunk_counts_nothing(tmp_path: Path) -> None:
    one = campaign(dataset("d", "data", write(tmp_path / "f.root", pack([]))))
    tally = analyse(Chunk("d", 0, 0, one.datasets[0].files[0], "outreach", None, True, 0, 0, None), OPEN)
    found = Result(one, OPEN, tally, {(0, 0): FileInfo(0, "TTree", 1, "u")})
    assert found.complete
    assert len(found.candidates.event) == 0
    assert found.empty_files == ("f.root",)
    assert find_duplicates(found.candidates, np.array([0]), one_per_event=True).tolist() == []


# --- an event found again, whatever the order

PRIMARY_DATASETS = ("DoubleMu", "DoubleElectron", "MuonEG")
EVENTS = st.tuples(st.integers(1, 2), st.integers(1, 2), st.integers(1, 6), st.integers(0, 2))  # run … channel
FILES = st.lists(EVENTS, min_size=1, max_size=8)
ERAS = st.lists(
    st.tuples(st.sampled_from(PRIMARY_DATASETS), st.lists(FILES, min_size=1, max_size=3)), min_size=1, max_size=4
)


def block(dataset: int, file: int, rows: Sequence[tuple[int, int, int, int]]) -> Table:
    """The candidates of one file: (run, luminosityBlock, event, channel) each."""
    run, block, event, channel = np.array(rows).T
    n = len(rows)
    columns: dict[str, Any] = {
        **{
            name: np.zeros((n, *column.shape[1:]), column.dtype)
            for name, column in FOUR_LEPTONS.empty()._asdict().items()
        },
        "dataset": np.full(n, dataset, np.int16), "file": np.full(n, file, np.int32), "entry": np.arange(n),
        "run": run, "luminosity_block": block, "event": event.astype(np.uint64), "channel": channel.astype(np.int8),
    }  # fmt: skip
    return Table(**columns)


def kept_events(eras: Any, sel: selection.Selection, order: Any) -> tuple[list[tuple[Any, ...]], int]:
    """What is kept of a campaign of these eras whose files land in some order, and how many rows there were."""
    datasets_ = [
        dataset(str(d), "data", *(Path(f"/{d}-{f}.root") for f in range(len(files))), primary_dataset=primary_dataset)
        for d, (primary_dataset, files) in enumerate(eras)
    ]
    blocks = [block(d, f, rows) for d, (_, files) in enumerate(eras) for f, rows in enumerate(files)]
    order.shuffle(blocks)
    kept = Result(
        campaign(*datasets_, primary_dataset_precedence=PRIMARY_DATASETS),
        sel,
        merge(Tally(blocks=(b,)) for b in blocks),
    )
    rows = kept.candidates
    primary_datasets = [eras[d][0] for d in rows.dataset.tolist()]
    columns = (c.tolist() for c in (rows.run, rows.luminosity_block, rows.event, rows.channel))
    return sorted(zip(primary_datasets, *columns, strict=True)), sum(map(len, (b.run for b in blocks)))


@given(eras=ERAS, order=st.randoms(use_true_random=False))
def test_the_same_events_are_kept_whatever_the_order_of_chunks_datasets_and_files(eras: Any, order: Any) -> None:
    aod = selection.load("aod2012")  # an event may be in several channels: (event, channel) is compared
    kept, n_rows = kept_events(eras, aod, order)
    oracle = {}
    for primary_dataset, files in eras:
        for event in itertools.chain.from_iterable(files):
            oracle[event] = min(oracle.get(event, primary_dataset), primary_dataset, key=PRIMARY_DATASETS.index)
    assert kept == sorted((primary_dataset, *event) for event, primary_dataset in oracle.items())
    permuted = [
        (primary_dataset, order.sample(files, len(files))) for primary_dataset, files in order.sample(eras, len(eras))
    ]
    assert kept_events(permuted, aod, order) == (kept, n_rows)
    once, _ = kept_events(permuted, OPEN, order)  # one candidate per event: the channel does not tell events apart
    primary_datasets: dict[tuple[int, ...], str] = {}
    for (*event, _), primary_dataset in oracle.items():
        primary_datasets[tuple(event)] = min(
            primary_datasets.get(tuple(event), primary_dataset), primary_dataset, key=PRIMARY_DATASETS.index
        )
    assert sorted(row[:4] for row in once) == sorted(
        (primary_dataset, *event) for event, primary_dataset in primary_datasets.items()
    )


# --- lumi sections


class BySection:
    """A campaign whose data have lumi sections, and the section of every event by (dataset, file)."""

    def __init__(self, campaign: Campaign, truth: Mapping[tuple[int, int], list[int]], folder: Path) -> None:
        self.campaign, self.truth, self.folder = campaign, truth, folder


@pytest.fixture(scope="module")
def by_section(tmp_path_factory: pytest.TempPathFactory) -> BySection:
    """Two eras of one primary dataset, of two files each that share a section, and another with the same sections."""
    folder = tmp_path_factory.mktemp("sections")
    leptons = random_leptons(1500, seed=31)
    draw = np.random.default_rng(7)
    key = np.repeat(luminosity.pack(200_000, np.arange(1, 61)), draw.integers(1, 50, 60))[:1500]
    marked = leptons._replace(run=key >> 32, luminosity_block=key & 0xFFFFFFFF)
    cuts = {"b": (0, 311, 600), "c": (590, 1003, 1500), "e": (0, 1500)}
    truth, made = {}, []
    for d, (name, edges) in enumerate(cuts.items()):
        paths = []
        for f, (start, stop) in enumerate(itertools.pairwise(edges)):
            paths.append(write(folder / f"{name}{f}.root", events_of(marked, start, stop)))
            truth[d, f] = key[start:stop].tolist()
        made.append(dataset(name, "data", *paths, primary_dataset="DoubleElectron" if name == "e" else "DoubleMu"))
    assert key[310] == key[311]  # a section in two files
    mc = dataset("mc", "zz", write(folder / "mc.root", leptons), cross_section_pb=0.5)
    (folder / "cert.json").write_text('{"200000": [[3, 20], [22, 58], [70, 75]]}')
    rows = (
        f"200000:1,{n}:{n},06/16/12 20:55:44,STABLE BEAMS,4000,{n**2 + 9},{n**2},20,X" for n in range(1, 73) if n % 7
    )
    (folder / "byls.csv").write_text("#run:fill,ls,time,beamstatus,E(GeV),delivered(/pb),recorded(/pb),avgpu,source\n")
    with (folder / "byls.csv").open("a") as file:
        file.write("\n".join(rows))
    return BySection(campaign(*made, mc), truth, folder)


def named(by: BySection, *, mask: bool, table: bool) -> Campaign:
    """The campaign with a golden JSON, a luminosity table or both."""
    return dataclasses.replace(
        by.campaign,
        golden_json=str(by.folder / "cert.json") if mask else None,
        luminosity_table=str(by.folder / "byls.csv") if table else None,
    )


def everything(*, mask: bool, table: bool) -> set[int]:
    """The sections in golden JSON and table."""
    certified = {*range(3, 21), *range(22, 59), *range(70, 76)} if mask else set(range(1, 100))
    return {200_000 << 32 | n for n in certified if not table or (n % 7 and n < 73)}


KNOWN: dict[tuple[Chunk, str], Any] = {}


def analysed(chunk: Chunk) -> Tally:
    """Analyse a chunk, once in all examples."""
    if (chunk, "tally") not in KNOWN:
        KNOWN[chunk, "tally"] = analyse(chunk, OPEN)
        KNOWN[chunk, "sections"] = sections_of(chunk)
    return KNOWN[chunk, "tally"]


def entries_of(by: BySection) -> dict[tuple[int, int], int]:
    return {**{key: len(sections) for key, sections in by.truth.items()}, (3, 0): 1500}


def seen(by: BySection, one: Campaign, chunk_events: int, state: Any) -> tuple[Result, dict[Chunk, str]]:
    """A result in which each chunk is "done", has "failed" with known sections, or is "unknown"."""
    entries = entries_of(by)
    urls = {one.datasets[d].files[f].url: n for (d, f), n in entries.items()}
    states = {chunk: state(chunk) for chunk in plan_chunks(one, urls, chunk_events)}
    tally = merge(analysed(chunk) for chunk in states if states[chunk] == "done")
    failed: Any = {}
    for chunk, how in states.items():
        if how == "failed" and chunk.is_data:
            analysed(chunk)
            place = (chunk.dataset_index, chunk.file_index, chunk.start, chunk.stop)
            failed[place] = KNOWN[chunk, "sections"]
    infos = {key: FileInfo(n, "TTree", 1, "u") for key, n in entries.items()}
    return Result(one, OPEN, tally, infos, {}, failed_sections=failed), states


def whole(by: BySection, states: Mapping[Chunk, str], dataset: int) -> set[int]:
    """The sections of which every event of the dataset is done, by looking at every event."""
    missing, present = set(), set()
    for chunk, state in states.items():
        if chunk.dataset_index == dataset:
            events = by.truth[dataset, chunk.file_index][chunk.start : chunk.stop]
            (present if state == "done" else missing).update(events)
    return present - missing


def beside(by: BySection, states: Mapping[Chunk, str], dataset: int) -> set[int]:
    """The sections that an unknown range touches, and those at the ends of files: they may be taken for lost."""
    found = set()
    for chunk, state in states.items():
        if chunk.dataset_index == dataset and state == "unknown":
            events = by.truth[dataset, chunk.file_index]
            found |= {*events[max(chunk.start - 1, 0) : chunk.start], *events[chunk.stop : chunk.stop + 1]}
    ends = {events[i] for (d, _), events in by.truth.items() if d == dataset for i in (0, -1)}
    return (
        found | ends if found or any(s == "unknown" for c, s in states.items() if c.dataset_index == dataset) else found
    )


INPUTS = st.sampled_from([(True, False), (False, True), (True, True)])


@settings(max_examples=80, deadline=None)
@given(
    inputs=INPUTS,
    chunk_events=st.sampled_from([90, 400]),
    allowed=st.sampled_from([["done", "failed"], ["done", "failed", "unknown"], ["done", "unknown"], ["done"]]),
    seed=st.integers(0, 10**6),
)
def test_processed_and_lost_sections_are_those_of_a_look_at_every_event(
    by_section: BySection, inputs: tuple[bool, bool], chunk_events: int, allowed: list[str], seed: int
) -> None:
    (mask, table), draw = inputs, np.random.default_rng(seed)
    one = named(by_section, mask=mask, table=table)
    found, states = seen(by_section, one, chunk_events, lambda _: str(draw.choice(allowed)))
    sections = everything(mask=mask, table=True) if table else everything(mask=True, table=False)
    for primary_dataset in (("b", "c"), ("e",)):
        union = set()
        for name in primary_dataset:
            processed = set(found.luminosity.processed[name].keys.tolist())
            lost = set(found.luminosity.lost[name].keys.tolist())
            assert not processed & lost
            union |= processed | lost
            d = "bce".index(name)
            if all(s == "done" for c, s in states.items() if c.dataset_index in ((0, 1) if d < 2 else (2,))):
                assert not lost
                continue
            truth = whole(by_section, states, d) & sections
            assert processed <= truth
            assert truth - processed <= beside(by_section, states, d)
        assert union == sections


def test_sections_do_not_depend_on_the_order_in_which_chunks_land(by_section: BySection) -> None:
    one = named(by_section, mask=True, table=True)
    urls = {one.datasets[d].files[f].url: n for (d, f), n in entries_of(by_section).items()}
    tallies = [analysed(chunk) for chunk in plan_chunks(one, urls, 90) if chunk.is_data]
    for some in (tallies, tallies[::3]):
        expected = merge(some)
        for order in (some[::-1], some[1::2] + some[::2]):
            for total in (
                merge(order),
                merge([merge(order[:4]), merge(order[4:])]),
                merge(map(pack_record, order)),
            ):
                assert total.spans == expected.spans
                for name in ("sections", "scattered"):
                    mine, theirs = getattr(total, name), getattr(expected, name)
                    assert {k: v.tolist() for k, v in mine.items()} == {k: v.tolist() for k, v in theirs.items()}
    complete = merge(tallies)
    assert {key: len(some) for key, some in complete.spans.items()} == dict.fromkeys(by_section.truth, 1)
    assert all((np.diff(keys) > 0).all() for keys in complete.sections.values())


def test_sections_are_noted_only_where_the_campaign_has_any(by_section: BySection) -> None:
    found, _ = seen(by_section, by_section.campaign, 400, lambda _: "done")
    assert (found.tally.sections, found.tally.spans, found.tally.scattered) == ({}, {}, {})
    assert (found.luminosity.processed, found.luminosity.lost, found.luminosity.source) == ({}, {}, "events")
    first = plan_chunks(by_section.campaign, {f.url: 9 for f in by_section.campaign.files}, 9)[0]
    assert sections_of(first) is None


def test_simulation_has_no_sections(by_section: BySection) -> None:
    found, _ = seen(by_section, named(by_section, mask=True, table=True), 400, lambda _: "done")
    assert set(found.tally.sections) == {0, 1, 2}
    assert set(found.luminosity.processed) == {"b", "c", "e"}


def test_events_out_of_order_make_all_their_sections_uncertain_until_the_file_is_done(tmp_path: Path) -> None:
    leptons = random_leptons(400, seed=3)
    mixed = leptons._replace(run=np.full(400, 9), luminosity_block=np.arange(400) % 10 + 1)
    (tmp_path / "cert.json").write_text('{"9": [[1, 10]]}')
    one = campaign(dataset("d", "data", write(tmp_path / "f.root", mixed)), golden_json=str(tmp_path / "cert.json"))
    parts = plan_chunks(one, {one.files[0].url: 400}, 100)
    infos = {(0, 0): FileInfo(400, "TTree", 1, "u")}
    for n in (1, 3, 4):
        found = Result(one, OPEN, merge(analyse(chunk, OPEN) for chunk in parts[:n]), infos)
        assert len(found.luminosity.processed["d"]) == (10 if n == 4 else 0)
        assert len(found.luminosity.lost["d"]) == (0 if n == 4 else 10)


def test_share_of_the_luminosity_is_that_of_the_recorded_luminosity(by_section: BySection) -> None:
    one = named(by_section, mask=True, table=True)
    half, states = seen(by_section, one, 90, lambda c: "done" if (c.start // 90 + c.dataset_index) % 3 else "failed")
    recorded = {key: (key & 0xFFFFFFFF) ** 2 for key in everything(mask=True, table=True)}
    e = whole(by_section, states, 2) & set(recorded)
    present = {d: {s for (i, _), events in by_section.truth.items() if i == d for s in events} for d in (0, 1)}
    done = {d: whole(by_section, states, d) for d in (0, 1)}
    mu = {s for s in recorded if s in done[0] | done[1] and all(s in done[d] for d in (0, 1) if s in present[d])}
    assert e != mu
    total = sum(recorded.values())
    expected = {"4mu": mu, "4e": e, "2e2mu": mu | e}
    assert half.luminosity.source == "lumi sections"
    for channel, sections in expected.items():
        share = sum(recorded[s] for s in sections) / total
        assert half.luminosity.shares[channel] == pytest.approx(share, rel=1e-12)
        n = counted(half.tally, 3)
        assert half.weights["mc"][channel] == pytest.approx(10.0 * share * 500 / n, rel=1e-12)
    mean = (half.luminosity.shares["4mu"] + half.luminosity.shares["4e"]) / 2
    assert half.coverage.luminosity_fb == (pytest.approx(10 * mean), 10.0)


def test_complete_run_has_all_the_luminosity_also_of_sections_without_events(by_section: BySection) -> None:
    found, _ = seen(by_section, named(by_section, mask=True, table=True), 90, lambda _: "done")
    assert found.complete
    assert found.luminosity.shares == dict.fromkeys(CHANNELS, 1.0)
    assert found.coverage.luminosity_fb == (10.0, 10.0)
    assert 200_000 << 32 | 71 in found.luminosity.processed["e"].keys  # no event is in section 71


def test_only_one_finished_primary_dataset_gives_2e2mu_its_luminosity(by_section: BySection) -> None:
    one = named(by_section, mask=True, table=True)
    found, _ = seen(by_section, one, 400, lambda c: "done" if c.primary_dataset == "DoubleElectron" else "unknown")
    assert found.luminosity.shares == {"4mu": 0.0, "4e": 1.0, "2e2mu": 1.0}
    assert found.coverage.luminosity_fb == (5.0, 10.0)


def test_golden_json_alone_leaves_the_luminosity_to_the_events(by_section: BySection) -> None:
    found, _ = seen(
        by_section, named(by_section, mask=True, table=False), 90, lambda c: "done" if c.start else "unknown"
    )
    assert found.luminosity.source == "events"
    assert found.luminosity.shares["4e"] == pytest.approx((1500 - 90) / 1500)
    assert 0 < len(found.luminosity.processed["e"]) < len(everything(mask=True, table=False))


def test_table_that_disagrees_with_the_campaign_or_the_data_is_told_with_the_remedy(by_section: BySection) -> None:
    found, _ = seen(by_section, named(by_section, mask=False, table=True), 400, lambda _: "done")
    lacking = {s for events in (by_section.truth[2, 0],) for s in events} - everything(mask=False, table=True)
    assert set(found.luminosity.without_table["e"].keys.tolist()) == lacking != set()
    total = sum(n**2 for n in range(1, 73) if n % 7) / 1000
    (first, _), *pairs = found.luminosity.notes
    others = [f"{what}. {hint}" for what, hint in pairs]
    assert f"adds up to {total:.4g} /fb in the certified sections, luminosity_fb is 10:" in first
    assert [other.split(":")[0] for other in others] == ["b, c, e", "b, c"]
    every = {s for events in by_section.truth.values() for s in events} - everything(mask=False, table=True)
    what = f"b, c, e: {len(every)} lumi sections with events (run 200000, section 7 …) not in luminosity_table"
    assert others[0].startswith(what)
    assert "brilcalc lumi --byls" in others[0]
    assert "; e: no event in " in others[1]
    fitting = dataclasses.replace(found.campaign, luminosity_fb=total * 1.01)
    assert len(Result(fitting, OPEN, found.tally, found.files).luminosity.notes) == 2


def test_few_events_in_a_section_are_warned_of_until_the_run_is_complete(tmp_path: Path) -> None:
    leptons = random_leptons(60, seed=3)
    thin = leptons._replace(run=np.full(60, 9), luminosity_block=np.arange(60) // 2 + 1)
    (tmp_path / "t.csv").write_text(
        "#run:fill,ls,delivered(/fb),recorded(/fb)\n" + "\n".join(f"9:1,{n}:{n},1,1" for n in range(1, 31))
    )
    path = write(tmp_path / "f.root", thin)
    one = campaign(dataset("d", "data", path), luminosity_table=str(tmp_path / "t.csv"), luminosity_fb=30.0)
    parts = plan_chunks(one, {str(path): 60}, 20)
    infos = {(0, 0): FileInfo(60, "TTree", 1, "u")}
    ((note, _),) = Result(one, OPEN, merge(analyse(c, OPEN) for c in parts[:2]), infos).luminosity.notes
    assert note.startswith("d: fewer than 5 events in a lumi section")
    assert Result(one, OPEN, merge(analyse(c, OPEN) for c in parts), infos).luminosity.notes == ()


def test_failed_chunk_counted_after_all_is_not_lost(by_section: BySection) -> None:
    one = named(by_section, mask=True, table=True)
    part, _ = seen(by_section, one, 400, lambda c: "failed" if c.start == 400 else "done")
    rest, _ = seen(by_section, one, 400, lambda c: "done" if c.start == 400 else "unknown")
    assert sum(map(len, part.luminosity.lost.values())) > 0
    assert sum(map(len, (part + rest).luminosity.lost.values())) == 0


@pytest.mark.parametrize("source", ["lumi sections", "events"])
def test_partial_prediction_is_unbiased_for_data_spread_as_the_luminosity(tmp_path: Path, source: str) -> None:
    """Random chunks of data and of simulation: the prediction for what was processed agrees with the data in it."""
    draw = np.random.default_rng(11)
    recorded = draw.lognormal(0, 1.2, 800)
    counts = draw.poisson(recorded * 200_000 / recorded.sum())
    sections = np.repeat(luminosity.pack(5, np.arange(1, 801)), counts)
    rows = "\n".join(f"5:1,{n}:{n},9,{value!r}" for n, value in enumerate(recorded.tolist(), 1))
    (tmp_path / "t.csv").write_text(f"#run:fill,ls,delivered(/pb),recorded(/pb)\n{rows}")
    total, n_mc, step = len(sections), 100_000, 10_000
    one = campaign(
        dataset("d", "data", Path("/d.root")), dataset("mc", "zz", Path("/mc.root"), cross_section_pb=total / 10_000),
        luminosity_table=str(tmp_path / "t.csv") if source == "lumi sections" else None,
        luminosity_fb=10.0,
    )  # fmt: skip
    infos = {(0, 0): FileInfo(total, "TTree", 1, "u"), (1, 0): FileInfo(n_mc, "TTree", 1, "v")}
    passed = draw.random(n_mc) < 0.2  # a simulated event is selected or not
    pulls = []
    for _ in range(60):
        found, n_done = Tally(), 0
        for start in range(0, total, step):
            if draw.random() < 0.5:
                found, n_done = found + data_chunk(sections, start, min(start + step, total)), n_done + 1
        for start in range(0, n_mc, step):
            if draw.random() < 0.5 or not start:
                found += mc_chunk(passed, start, start + step)
        result = Result(one, OPEN, found, infos)
        assert result.luminosity.source == source
        done = result.luminosity.processed["d"].keys if source == "lumi sections" else np.unique(sections)
        inside = counted(found, 0) if source == "events" else int(np.isin(sections, done).sum())
        expected = result.yields["zz"]["4mu"]
        true = 0.2 * inside
        error = math.hypot(expected.stat_error, 0.2 * math.sqrt(inside))
        pulls.append((expected.expected - true) / error if error else 0.0)
        if source == "lumi sections":  # what is counted beyond it lies in the sections at the edges
            largest = np.sort(counts)[::-1]
            assert 0 <= counted(found, 0) - inside <= largest[: 2 * n_done].sum()
    assert abs(np.mean(pulls)) < 1
    assert np.std(pulls) < 1.5


def data_chunk(sections: np.ndarray, start: int, stop: int) -> Tally:
    """The tally of data without candidates."""
    keys = sections[start:stop]
    span = Span(start, stop, int(keys[0]), int(keys[-1]))
    return Tally(ranges={(0, 0): ((start, stop),)}, sections={0: np.unique(keys)}, spans={(0, 0): (span,)})


def mc_chunk(passed: np.ndarray, start: int, stop: int) -> Tally:
    """The tally of simulation of which some events are selected, all in 4mu."""
    counts = np.zeros(FOUR_LEPTONS.shapes["counts"], np.int64)
    FOUR_LEPTONS.binning.total(counts)[0] = passed[start:stop].sum()
    return Tally(ranges={(1, 0): ((start, stop),)}, counts={1: counts})


def counted(tally: Tally, dataset: int) -> int:
    """Return the number of events of a dataset in a tally."""
    return sum(stop - start for (d, _), ranges in tally.ranges.items() if d == dataset for start, stop in ranges)
