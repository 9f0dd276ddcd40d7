"""A sample in memory gives what the engine gives, bin for bin; what the explorer shows follows from it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from generators import clean_zz_events, pack, random_leptons, without
from outreach import campaign, dataset, events_of, write

from higgsnb import engine, exploring, histograms, kernel, pairings, selection, statistics
from higgsnb.analysis import Result
from higgsnb.datasets import Campaign
from higgsnb.sample import AXES, Outcome, Sample
from higgsnb.selection import CHANNELS, Cut, Selection, SelectionError

NAMES = ("open2012", "aod2012", "df103")
OPEN = selection.load("open2012")
CHANGES: list[dict[str, float]] = [
    {},
    {"muon_pt_min": 12.0, "electron_pt_min": 9.5},
    {"muon_isolation_max": 0.1, "electron_isolation_max": 0.9},
    {"muon_eta_max": 1.4, "electron_eta_max": 2.5, "sip_max": 9.0},
    {"dxy_max": 0.003, "dz_max": 2.0},
    {"z1_mass_min": 80.0, "z1_mass_max": 100.0, "z2_mass_min": 0.0},
    {"lepton_pt_leading": 40.0, "lepton_pt_subleading": 40.0},
    {"delta_r_min": 0.4, "dilepton_mass_min": 12.0, "mass_4l_min": 120.0},
    {"delta_r_min": 0.0, "dilepton_mass_min": 0.0, "mass_4l_min": 0.0},
]


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Campaign:
    """Overlapping files: events are in two streams and in two files of one stream."""
    folder = tmp_path_factory.mktemp("exploring")
    leptons = random_leptons(4000, seed=18)
    places = (0, 1, 2, 2, 3, 4, 5, 4)
    paths = [
        write(folder / f"{number}.root", events_of(leptons, 500 * i, 500 * i + 700), basket=211)
        for number, i in enumerate(places)
    ]
    return campaign(
        dataset("mu", "data", *paths[:3], stream="DoubleMu"),
        dataset("e", "data", *paths[3:6], stream="DoubleElectron"),
        dataset("h", "higgs", paths[6], cross_section_pb=0.5),
        dataset("mc", "zz", paths[7], cross_section_pb=1.0),
    )


def run(one: Campaign, chosen: Selection, **options: object) -> Result:
    *_, result = engine.run(one, chosen, workers=1, **options)  # type: ignore[arg-type]
    return result


@pytest.fixture(scope="module")
def sample(one: Campaign) -> Sample:
    published = [selection.load(name) for name in NAMES]
    return Sample.load(run(one, OPEN), reach=exploring.loosest(*published), workers=2)


@pytest.fixture
def found(sample: Sample) -> Outcome:
    return sample.select(OPEN)


def assert_same(found: Outcome, result: Result) -> None:
    """Every bin of every histogram, every number of the cutflow, every event."""
    for index, data in enumerate(result.campaign.datasets):
        for axis in AXES:
            expected = histograms.counts_of(result.counts[data.name], axis.name)
            np.testing.assert_array_equal(
                found.histogram(axis.name)[index], expected, err_msg=f"{data.name} {axis.name}"
            )
        for channel, flow in result.cutflow[data.name].items():
            mine = found.cutflow[index][CHANNELS.index(channel)].tolist()
            assert mine == [number for _, number in flow], (data.name, channel)
        part = next(part for part in found.sample.parts if part.dataset == index)
        rows = result.candidates.rows(result.candidates.dataset == index)
        events = part.event[found.picked[index][:, 0]]
        assert sorted(events.tolist()) == sorted(rows.event.tolist())


# --- The same numbers ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("changes", CHANGES, ids=lambda changes: "-".join(changes) or "published")
@pytest.mark.parametrize("name", NAMES)
def test_every_bin_equals_that_of_the_engine(
    one: Campaign, sample: Sample, name: str, changes: dict[str, float]
) -> None:
    chosen = selection.load(name).replace(**changes)
    result = run(one, chosen)
    assert result.complete
    assert_same(sample.select(chosen), result)


@pytest.mark.parametrize("name", NAMES)
def test_what_was_selected_before_leaves_no_trace(one: Campaign, sample: Sample, name: str) -> None:
    chosen = selection.load(name)
    first = sample.select(chosen)
    expected = {index: counts.copy() for index, counts in first.counts.items()}
    for number, changes in enumerate(CHANGES):
        other = NAMES[(NAMES.index(name) + number) % 3]
        sample.select(selection.load(other).replace(**changes), slot="main" if number % 2 else "aside")
        again = sample.select(chosen)
        for index, counts in expected.items():
            np.testing.assert_array_equal(again.counts[index], counts)
    assert_same(sample.select(chosen), run(one, chosen))


def test_many_small_tasks_on_many_threads_give_the_same(sample: Sample, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("higgsnb.sample.EVENTS_PER_TASK", 40)
    threads = Sample.load(sample.basis, reach=sample.reach, workers=5)
    for name in NAMES:
        chosen = selection.load(name).replace(muon_pt_min=8.0)
        mine, theirs = threads.select(chosen), sample.select(chosen)
        for index in theirs.counts:
            np.testing.assert_array_equal(mine.counts[index], theirs.counts[index])
            np.testing.assert_array_equal(mine.cutflow[index], theirs.cutflow[index])
            np.testing.assert_array_equal(mine.picked[index], theirs.picked[index])


def test_events_in_two_streams_are_counted_once_and_some_are_there(one: Campaign, sample: Sample) -> None:
    result = run(one, OPEN)
    assert sum(result.duplicates_removed.values()) > 20
    assert sum(part.twin.sum() for part in sample.parts) > 100
    assert not any(part.twin.any() for part in sample.parts if not one.datasets[part.dataset].is_data)


def test_weights_and_yields_are_those_of_the_result(one: Campaign, found: Outcome) -> None:
    result = run(one, OPEN)
    rows = {row["process"]: row for row in exploring.yields(found)}
    assert list(rows) == ["higgs", "zz", "data"]
    for process, row in rows.items():
        for channel, number in row["channels"].items():
            assert number == pytest.approx(result.yields[process][channel].expected, rel=1e-12)
        assert row["window"] == pytest.approx(sum(y.expected for y in result.windows["118-130"][process].values()))


def test_partial_result_gives_a_sample_of_what_it_has_counted(one: Campaign) -> None:
    part = run(one, OPEN, fraction=0.4, chunk_events=100)
    assert not part.complete
    sample = Sample.load(part)
    assert_same(sample.select(OPEN), part)
    assert sample.basis_for(OPEN).coverage == part.coverage
    assert exploring.yields(sample.select(OPEN))[0]["all"] == pytest.approx(
        sum(y.expected for y in part.yields["higgs"].values())
    )


def test_skims_serve_as_well_as_the_files(sample: Sample, tmp_path: Path) -> None:
    skimmed = [Sample.load(sample.basis, reach=sample.reach, skims_folder=tmp_path) for _ in range(2)]
    assert list(tmp_path.glob("*.arrow"))
    for again in skimmed:
        np.testing.assert_array_equal(again.select(OPEN).counts[0], sample.select(OPEN).counts[0])


def test_events_outside_the_golden_json_are_not_held(one: Campaign, tmp_path: Path) -> None:
    path = tmp_path / "golden.json"
    path.write_text(json.dumps({"2": [[1, 1]]}))
    masked = dataclasses.replace(one, golden_json=str(path))
    result = run(masked, OPEN)
    assert result.masked
    assert_same(Sample.load(result).select(OPEN), result)


def test_quantities_that_a_schema_lacks_cut_nothing() -> None:
    leptons = without(random_leptons(500, seed=3), "isolation", "dxy_error")
    muons, electrons = kernel.columns_of(leptons, "muon"), kernel.columns_of(leptons, "electron")
    held, which, _ = pairings.hold(
        leptons.muon_offsets, muons, leptons.electron_offsets, electrons, kernel.cuts_of(exploring.loosest(OPEN))
    )
    assert len(which) > 100
    assert held.isolation.max() == 0.0
    assert held.sip.max() < 1e-20


def test_held_leptons_are_those_that_the_loosest_cuts_accept(sample: Sample) -> None:
    for part in sample.parts:
        assert part.held.isolation.max(initial=0) < sample.reach.muon_isolation_max
        assert part.held.sip.max(initial=0) < sample.reach.sip_max
        assert np.diff(part.held.offsets).min(initial=4) >= 4


@pytest.mark.parametrize("number", [0, 1, 2])
def test_bin_is_that_of_a_search_in_the_edges_also_on_the_edges(number: int) -> None:
    edges = histograms.axis(("mass_4l", "mass_z2", "mass_4l_wide")[number]).edges
    values = np.concatenate([edges, np.nextafter(edges, -np.inf), np.nextafter(edges, np.inf), [-5.0, 1e9]])
    found = [pairings.find_bin(value, edges, 0, len(edges) - 1) for value in values]
    np.testing.assert_array_equal(found, np.searchsorted(edges, values, side="right"))


# --- What is refused -----------------------------------------------------------------------------------------------


def test_looser_than_what_is_held_is_refused_with_both_numbers(sample: Sample) -> None:
    with pytest.raises(SelectionError, match=r"muon_isolation_max = 1\.5 is looser than what is held .* at most 1\n"):
        sample.select(OPEN.replace(muon_isolation_max=1.5))


def test_result_without_events_is_refused(one: Campaign) -> None:
    with pytest.raises(ValueError, match="has counted no events"):
        Sample.load(Result(one, OPEN))


def test_unknown_control_names_the_known_ones() -> None:
    with pytest.raises(KeyError, match="no control for 'z_mass'; known: muon_pt_min"):
        exploring.control("z_mass")


# --- Controls ------------------------------------------------------------------------------------------------------


def test_every_number_of_a_selection_but_the_z_mass_has_a_control_in_whose_range_the_published_ones_are() -> None:
    assert {one.cut for one in exploring.CONTROLS} == set(selection.NUMBERS) - {"z_mass", "integer_pairing"}
    for one in exploring.CONTROLS:
        assert one.unit == selection.unit_of(one.cut)
        for name in NAMES:
            assert one.low <= getattr(selection.load(name), one.cut) <= one.high


@pytest.mark.parametrize("cut", [one.cut for one in exploring.CONTROLS])
def test_removing_a_cut_never_loses_an_event(sample: Sample, cut: str) -> None:
    tight = OPEN.replace(muon_pt_min=10, electron_isolation_max=0.2, delta_r_min=0.1)
    assert exploring.without(tight, cut).digest != tight.digest or getattr(tight, cut) == exploring.control(cut).loosest
    kept = {tuple(pair) for pair in _events(sample.select(tight))}
    assert kept <= {tuple(pair) for pair in _events(sample.select(exploring.without(tight, cut)))}


def _events(found: Outcome) -> list[list[int]]:
    return [[index, int(event)] for index, picked in found.picked.items() for event in picked[:, 0]]


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Sample:
    """Events of just the four leptons of a Z pair, each of another quality."""
    rng = np.random.default_rng(7)
    drawn = [
        [
            dataclasses.replace(lepton, isolation=rng.uniform(0, 0.5), dxy=rng.uniform(-0.5, 0.5) ** 7)
            for lepton in event[:4]
        ]
        for event in clean_zz_events(1500, seed=5)
    ]
    path = write(tmp_path_factory.mktemp("clean") / "clean.root", pack(drawn))
    loose = OPEN.replace(sip_max=10, z1_mass_max=200, z2_mass_max=200)
    return Sample.load(
        run(campaign(dataset("zz", "zz", path, cross_section_pb=1.0)), loose), reach=exploring.loosest(OPEN)
    )


@pytest.mark.parametrize("cut", [one.cut for one in exploring.CONTROLS])
@pytest.mark.parametrize("name", ["open2012", "aod2012"])
def test_shaded_part_of_the_distribution_is_what_the_cut_removes(clean: Sample, name: str, cut: str) -> None:
    one, base = exploring.control(cut), selection.load(name).replace(sip_max=10, lepton_pt_subleading=1)
    value = {"dxy_max": 0.002, "sip_max": 1.5, "dz_max": 0.05, "z1_mass_min": 80.0}.get(cut, 0.4 * one.high)
    chosen = base.replace(**{cut: value})
    loose = clean.select(exploring.without(chosen, cut))
    values, _ = exploring.quantity(clean.parts[0], loose, cut)
    passes = np.isnan(values) | (values > value if one.is_lower_limit else values < value)
    kept, passing = len(clean.select(chosen).picked[0]), int(passes.sum())
    if name == "aod2012" or cut in pairings.LEPTON_CUTS:
        assert kept == passing
    else:  # an event whose best candidate is removed may have another one
        assert passing <= kept <= len(values)
    assert passing > 0
    assert passing < len(values) or cut in ("dz_max", "mass_4l_min", "z2_mass_min", "z2_mass_max")


def test_distribution_without_a_cut_counts_every_candidate_in_its_range(sample: Sample) -> None:
    shown = exploring.n_minus_1(sample, OPEN, "mass_4l_min")
    loose = sample.select(OPEN.replace(mass_4l_min=0))
    part = sample.parts[0]
    masses = loose.pairings[0].rows["mass_4l"][loose.picked[0][:, 1]]
    other = loose.pairings[1].rows["mass_4l"][loose.picked[1][:, 1]]
    expected = np.histogram(np.concatenate([masses, other]), np.linspace(0, 300, exploring.BINS + 1))[0]
    assert part.dataset == 0
    assert shown["data"] == expected.tolist()
    assert shown["keeps"] == "above"


# --- What is shown -------------------------------------------------------------------------------------------------


def test_spectrum_is_the_histogram_of_the_result(one: Campaign, found: Outcome) -> None:
    result, shown = run(one, OPEN), exploring.spectrum(found, "mass_4l")
    counts = {name: histograms.counts_of(result.counts[name], "mass_4l")[:, 1:-1] for name in ("mu", "e", "h")}
    assert shown["data"] == (counts["mu"] + counts["e"]).sum(axis=0).tolist()
    weights = np.array([result.weights["h"][channel] for channel in CHANNELS])
    np.testing.assert_allclose(shown["processes"]["higgs"], weights @ counts["h"])
    assert shown["label"] == "four-lepton mass [GeV]"
    assert all(
        low <= count <= high for low, count, high in zip(shown["low"], shown["data"], shown["high"], strict=True)
    )


def test_cutflow_begins_with_every_event_once_and_ends_with_the_yields(sample: Sample) -> None:
    for name in NAMES:
        rows = exploring.cutflow(sample.select(selection.load(name)))
        kept = {row["process"]: row["all"] for row in exploring.yields(sample.select(selection.load(name)))}
        assert rows[0]["events"]["data"] == 6 * 700
        assert rows[-1]["events"] == pytest.approx(kept)
        later = [row["events"]["data"] for row in rows[Cut.GOOD_LEPTONS :]]
        assert later == sorted(later, reverse=True)


def test_summary_says_the_yields_in_words(found: Outcome) -> None:
    rows = exploring.yields(found)
    promise = exploring.expected_significance(rows)
    higgs, zz, data = rows
    assert promise == pytest.approx(statistics.asimov_significance(higgs["window"], zz["window"]))
    said = exploring.summary(rows, promise)
    assert said.startswith(f"{data['all']:.0f} events found, {higgs['all'] + zz['all']:.1f} expected")
    assert f"{higgs['all']:.1f} of them Higgs bosons" in said
    assert f"which promises {promise:.1f} σ" in said
    assert exploring.expected_significance(rows[1:]) is None


def test_listed_candidates_are_those_of_the_bin_data_first(found: Outcome) -> None:
    number = int(np.argmax(exploring.spectrum(found, "mass_4l")["data"]))
    low, high = histograms.axis("mass_4l").edges[number : number + 2]
    listing = exploring.candidates(found, "mass_4l", number)
    shown = exploring.spectrum(found, "mass_4l")
    data = [row for row in listing["rows"] if row["process"] == "data"]
    assert len(data) == min(shown["data"][number], exploring.MOST_CANDIDATES)
    assert listing["rows"][: len(data)] == data
    assert all(low <= row["mass_4l"] + 0.006 and row["mass_4l"] - 0.006 < high for row in listing["rows"])
    inside = sum(int(counts[:, number + 1].sum()) for counts in found.histogram("mass_4l").values())
    assert listing["total"] == inside


def test_event_is_the_same_from_a_sample_and_from_a_result(one: Campaign, found: Outcome) -> None:
    result = run(one, OPEN)
    processes = ["data", "data", "higgs", "zz"]
    table = {
        (d, int(e)): row
        for row, (d, e) in enumerate(zip(result.candidates.dataset, result.candidates.event, strict=True))
    }
    for index in (0, 2):
        shown = exploring.event(found, index, 3)
        number = int(shown["name"].rpartition(":")[2])
        other = exploring.event_of(result.candidates, table[index, number], processes)
        assert {**shown, "place": 0} == {**other, "place": 0}
        momenta = [_momentum(lepton) for lepton in shown["leptons"]]
        assert _mass(momenta) == pytest.approx(shown["mass_4l"], abs=0.02)
        assert _mass(momenta[:2]) == pytest.approx(shown["mass_z1"], abs=0.02)


def _momentum(lepton: dict) -> np.ndarray:
    """(E, px, py, pz) of a lepton whose mass is neglected."""
    pt, eta, phi = lepton["pt"], lepton["eta"], lepton["phi"]
    return pt * np.array([np.cosh(eta), np.cos(phi), np.sin(phi), np.sinh(eta)])


def _mass(momenta: list) -> float:
    energy, *momentum = np.sum(momenta, axis=0)
    return float(np.sqrt(max(energy**2 - np.square(momentum).sum(), 0.0)))


def test_row_that_does_not_exist_is_refused(one: Campaign) -> None:
    result = run(one, OPEN)
    with pytest.raises(IndexError, match=f"row = 100000; this result has {len(result.candidates.run)} candidates"):
        exploring.event_of(result.candidates, 100_000, ["data"] * 4)


def test_snippet_is_python_that_makes_the_same_selection() -> None:
    changed = OPEN.replace(muon_pt_min=7.5, delta_r_min=0.1)
    code = exploring.snippet("toy", OPEN, changed)
    made = next(line for line in code.splitlines() if line.startswith("selection = "))
    assert made == "selection = hn.selection.load('open2012').replace(muon_pt_min=7.5, delta_r_min=0.1)"
    compile(code, "snippet", "exec")
    assert exploring.changes(OPEN, changed) == {"muon_pt_min": 7.5, "delta_r_min": 0.1}


def test_everything_shown_is_plain_json(sample: Sample, found: Outcome) -> None:
    shown = [exploring.spectrum(found, "mass_z1"), exploring.yields(found), exploring.cutflow(found)]
    shown += [exploring.candidates(found, "mass_4l", 5), exploring.event(found, 0, 0)]
    shown += [exploring.n_minus_1(sample, OPEN, "sip_max")]
    assert json.loads(json.dumps(shown)) == shown


def test_campaign_without_data_has_no_points(one: Campaign) -> None:
    simulated = dataclasses.replace(one, datasets=one.datasets[2:])
    found = Sample.load(run(simulated, OPEN)).select(OPEN)
    assert exploring.spectrum(found, "mass_4l")["data"] is None
    assert [row["process"] for row in exploring.yields(found)] == ["higgs", "zz"]
    assert "found" not in exploring.summary(exploring.yields(found), None)


def test_event_without_four_leptons_is_nowhere(tmp_path: Path) -> None:
    few = pack([[] for _ in range(5)])
    result = run(campaign(dataset("mc", "zz", write(tmp_path / "few.root", few), cross_section_pb=1.0)), OPEN)
    for name in NAMES:
        found = Sample.load(result).select(selection.load(name))
        assert found.cutflow[0][:, Cut.ALL].tolist() == [5, 5, 5]
        assert found.cutflow[0][:, 1:].sum() == 0
        assert exploring.yields(found)[0]["all"] == 0
