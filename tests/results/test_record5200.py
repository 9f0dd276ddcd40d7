"""The 278 published candidates of record 5200, bare and hidden among decoys in outreach files."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from itertools import combinations, pairwise
from pathlib import Path

import generators as made
import numpy as np
import oracle
import pytest
from generators import NEAR_PAIR, PASSES, REAL_DROPPED, Outreach, Published, one_event, pack
from outreach import campaign, dataset

from higgsnb import datasets, engine, events, selection
from higgsnb.results import analyse
from higgsnb.results.tally import merge
from higgsnb.selection import Candidates, Cut, Leptons

SELECTED = {"aod2012": 278, "open2012": 255, "df103": 277}
CSV_FILES = [f"{channel}_{year}.csv" for year in (2011, 2012) for channel in ("2e2mu", "4e", "4mu")]


@pytest.fixture(scope="module")
def published(shared_data: Path) -> list[Published]:
    return made.read_record5200(shared_data)


@pytest.fixture(scope="module")
def leptons(published: list[Published]) -> Leptons:
    """Kinematics only, as the CSV schema has them."""
    chunk = pack([row.leptons for row in published], [(row.run, 0, row.event) for row in published])
    return made.without(chunk, "isolation", "dxy", "dxy_error", "dz", "dz_error")


@pytest.fixture(scope="module")
def found(leptons: Leptons) -> Candidates:
    return selection.select(leptons, selection.load("aod2012"))


def test_record_holds_278_different_events_of_three_channels(published: list[Published]) -> None:
    assert len({(row.run, row.event) for row in published}) == 278
    assert Counter(row.channel for row in published) == {"2e2mu": 117, "4e": 48, "4mu": 113}
    assert all(0 <= row.event < 2**32 for row in published)


def test_aod2012_selects_all_278_in_their_channels(published: list[Published], found: Candidates) -> None:
    assert found.event_index.tolist() == list(range(278))
    assert [selection.CHANNELS[c] for c in found.channel] == [row.channel for row in published]
    assert found.cutflow[:, Cut.BEST_CANDIDATE].tolist() == [113, 48, 117]


def test_recomputed_masses_equal_the_published_ones(published: list[Published], found: Candidates) -> None:
    np.testing.assert_allclose(found.mass_4l, [row.mass_4l for row in published], rtol=0, atol=0.01)
    np.testing.assert_allclose(found.mass_z1, [row.mass_z1 for row in published], rtol=0, atol=0.02)
    np.testing.assert_allclose(found.mass_z2, [row.mass_z2 for row in published], rtol=0, atol=0.02)


def test_102_candidates_lie_between_70_and_181_gev(published: list[Published], found: Candidates) -> None:
    assert int(np.sum((found.mass_4l > 70) & (found.mass_4l < 181))) == 102
    assert sum(70 < row.mass_4l < 181 for row in published) == 102


@pytest.mark.parametrize("name", SELECTED)
def test_each_selection_keeps_what_it_should_of_the_278(
    name: str, published: list[Published], leptons: Leptons
) -> None:
    kept = set(selection.select(leptons, selection.load(name)).event_index.tolist())
    assert len(kept) == SELECTED[name]
    assert {(row.run, row.event) for i, row in enumerate(published) if i not in kept} == REAL_DROPPED[name]


@pytest.mark.parametrize("integer", [True, False])
@pytest.mark.parametrize("name", SELECTED)
def test_kernel_equals_slow_twin_on_real_candidates(name: str, integer: bool, leptons: Leptons) -> None:
    cuts = selection.load(name).replace(integer_pairing=integer and name == "df103")
    outcomes = oracle.select(leptons, cuts)
    found = selection.select(leptons, cuts)
    expected = [(i, c) for i, outcome in enumerate(outcomes) for c in outcome.selected]
    assert found.event_index.tolist() == [i for i, _ in expected]
    assert found.lepton.tolist() == [[lepton.index for lepton in c.leptons] for _, c in expected]
    assert found.flavour.tolist() == [[lepton.flavour for lepton in c.leptons] for _, c in expected]
    np.testing.assert_allclose(found.mass_4l, [c.mass_4l for _, c in expected], rtol=1e-9)
    assert found.cutflow[:, : Cut.UNIQUE].tolist() == oracle.cutflow(outcomes)


def test_open2012_drops_the_near_and_the_light_pairs(published: list[Published]) -> None:
    """From the printed momenta, by arithmetic of its own: ΔR from (px, py, pz), masses from energies."""
    near = {(row.run, row.event) for row in published if min(printed_distances(row)) < 0.02}
    light = {(row.run, row.event) for row in published if min(printed_opposite_masses(row)) < 4.0}
    assert near == NEAR_PAIR
    assert near | light == REAL_DROPPED["open2012"]


def printed_distances(row: Published) -> list[float]:
    angles = [(math.asinh(pz / math.hypot(px, py)), math.atan2(py, px)) for _, px, py, pz in row.momenta]
    return [math.hypot(a[0] - b[0], math.remainder(a[1] - b[1], math.tau)) for a, b in combinations(angles, 2)]


def printed_opposite_masses(row: Published) -> list[float]:
    together = []
    for (a, p), (b, q) in combinations(zip(row.leptons, row.momenta, strict=True), 2):
        if a.charge != b.charge:
            energy, *momentum = (x + y for x, y in zip(p, q, strict=True))
            together.append(math.sqrt(max(energy**2 - sum(x * x for x in momentum), 0.0)))
    return together


def test_truncated_mass_loses_one_real_event(published: list[Published]) -> None:
    """93.53 is stored as 93; 93.51, nearer to 91.2, is not nearer than 93."""
    (row,) = [row for row in published if (row.run, row.event) == (199703, 137316968)]
    event = one_event(*row.leptons)
    cuts = selection.load("df103")
    assert len(selection.select(event, cuts.replace(integer_pairing=True)).channel) == 0
    right = selection.select(event, cuts.replace(integer_pairing=False))
    assert right.mass_z1[0] == pytest.approx(row.mass_z1, abs=0.02)
    assert right.mass_z2[0] == pytest.approx(50.90, abs=0.02)


# Decoys, without files


@pytest.mark.parametrize("name", SELECTED)
@pytest.mark.parametrize("decoy", made.decoys(), ids=lambda decoy: f"{decoy.channel}-{decoy.name}")
def test_decoy_fails_the_cut_it_is_made_for(decoy: made.Decoy, name: str) -> None:
    chunk, cuts = one_event(*decoy.leptons), selection.load(name)
    reached = getattr(decoy, name)
    (outcome,) = oracle.select(chunk, cuts)
    assert oracle.STAGES[outcome.furthest[decoy.channel]] == reached
    found = selection.select(chunk, cuts)
    passed = found.cutflow[selection.CHANNELS.index(decoy.channel), : Cut.UNIQUE].sum()
    assert selection.CUT_NAMES[passed - 1] == reached
    assert [selection.CHANNELS[c] for c in found.channel] == ([decoy.channel] if reached == PASSES else [])


@pytest.mark.parametrize("name", SELECTED)
@pytest.mark.parametrize(
    "decoy", [d for d in made.decoys() if d.relaxed], ids=lambda decoy: f"{decoy.channel}-{decoy.name}"
)
def test_decoy_fails_that_cut_only(decoy: made.Decoy, name: str) -> None:
    relaxed = selection.load(name).replace(**(decoy.relaxed or {}))
    assert [selection.CHANNELS[c] for c in selection.select(one_event(*decoy.leptons), relaxed).channel] == [
        decoy.channel
    ]


# Through files


@pytest.fixture(scope="module")
def outreach(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Outreach:
    return made.write_outreach_with_decoys(tmp_path_factory.mktemp("outreach"), shared_data)


def chunk_of(path: Path, schema: str, start: int, stop: int, primary_dataset: str | None = None) -> datasets.Chunk:
    return datasets.Chunk(
        dataset=path.stem,
        dataset_index=0,
        file_index=0,
        file=datasets.File(str(path)),
        schema=schema,
        primary_dataset=primary_dataset,
        is_data=True,
        start=start,
        stop=stop,
        golden_json=None,
    )


def selected(chunk: Leptons, name: str, primary_dataset: str | None) -> set[tuple[int, int, int, str]]:
    found = selection.select(chunk, selection.load(name), primary_dataset)
    return {
        (int(chunk.run[i]), int(chunk.luminosity_block[i]), int(chunk.event[i]), selection.CHANNELS[c])
        for i, c in zip(found.event_index, found.channel, strict=True)
    }


@pytest.mark.parametrize("primary_dataset", ["DoubleMu", "DoubleElectron", "simulated"])
@pytest.mark.parametrize("name", SELECTED)
def test_events_hidden_among_decoys_are_found(name: str, primary_dataset: str, outreach: Outreach) -> None:
    """By run, luminosity block, event and channel, before any file: what the builder says is what both select."""
    given = None if primary_dataset == "simulated" else primary_dataset
    ids, made_up = zip(*outreach.events[primary_dataset], strict=True)
    chunk, expected = pack(made_up, ids), outreach.expected_in(primary_dataset, name)
    assert selected(chunk, name, given) == expected
    outcomes = oracle.select(chunk, selection.load(name), given)
    assert {(*ids[i], c.channel) for i, outcome in enumerate(outcomes) for c in outcome.selected} == expected


@pytest.mark.parametrize("n_chunks", [1, 4])
@pytest.mark.parametrize("primary_dataset", ["DoubleMu", "DoubleElectron", "simulated"])
@pytest.mark.parametrize("name", SELECTED)
def test_events_hidden_in_outreach_files_are_found(
    name: str, primary_dataset: str, n_chunks: int, outreach: Outreach
) -> None:
    given = None if primary_dataset == "simulated" else primary_dataset
    edges = np.linspace(0, len(outreach.events[primary_dataset]), n_chunks + 1).astype(int).tolist()
    got: set[tuple[int, int, int, str]] = set()
    for start, stop in pairwise(edges):
        chunk = events.read_leptons(chunk_of(outreach.files[primary_dataset], "outreach", start, stop, given))
        got |= selected(chunk, name, given)
    assert got == outreach.expected_in(primary_dataset, name)


@pytest.mark.parametrize("file", CSV_FILES)
def test_csv_reader_gives_the_leptons_of_the_record(file: str, shared_data: Path) -> None:
    channel, year = file.removesuffix(".csv").split("_")
    rows = [row for row in made.read_record5200(shared_data) if row.channel == channel and is_of_year(row, year)]
    expected = pack([row.leptons for row in rows], [(row.run, 0, row.event) for row in rows])
    path = shared_data / "record5200" / file
    read = events.read_leptons(chunk_of(path, "csv", 0, len(rows)))
    assert read.event.tolist() == expected.event.tolist()
    assert read.run.tolist() == expected.run.tolist()
    for name in Leptons._fields:
        flavour, _, quantity = name.partition("_")
        if flavour in ("muon", "electron") and quantity in ("offsets", "pt", "eta", "phi", "mass", "charge"):
            np.testing.assert_array_equal(getattr(read, name), getattr(expected, name), err_msg=name)
        elif flavour in ("muon", "electron"):
            assert getattr(read, name) is None


def is_of_year(row: Published, year: str) -> bool:
    """Runs of 2012 start at 190,000."""
    return (row.run > 190_000) == (year == "2012")


def test_analysis_of_the_record_counts_278(shared_data: Path) -> None:
    tallies = []
    for number, file in enumerate(CSV_FILES):
        path = shared_data / "record5200" / file
        n_rows = len(path.read_text().splitlines()) - 1
        chunk = replace(chunk_of(path, "csv", 0, n_rows), file_index=number)
        tallies.append(analyse(chunk, selection.load("aod2012")))
    total = merge(tallies)
    assert total.cutflow[0][:, Cut.BEST_CANDIDATE].tolist() == [113, 48, 117]
    masses = np.concatenate([block.mass_4l for block in total.blocks])
    assert len(masses) == 278
    assert int(np.sum((masses > 70) & (masses < 181))) == 102


@pytest.mark.parametrize("name", ["open2012", "aod2012", "df103"])
def test_run_over_both_primary_datasets_keeps_exactly_the_expected_events_once(outreach: Outreach, name: str) -> None:
    primary_datasets = ("DoubleElectron", "DoubleMu")
    one = campaign(
        *(
            dataset(primary_dataset, "data", outreach.files[primary_dataset], primary_dataset=primary_dataset)
            for primary_dataset in primary_datasets
        )
    )
    *_, result = engine.run(one, selection.load(name), chunk_events=100)
    rows = result.candidates
    kept = list(zip(rows.run.tolist(), rows.luminosity_block.tolist(), rows.event.tolist(), rows.channel, strict=True))
    expected = outreach.expected[name]
    assert len(kept) == len(expected)
    assert {(run, block, event, selection.CHANNELS[channel]) for run, block, event, channel in kept} == expected
