"""A sample in memory gives what the engine gives, bin for bin; what the explorer shows follows from it."""

from __future__ import annotations

import dataclasses
import json
import threading
from pathlib import Path

import numpy as np
import pytest
from filling import BINNING
from generators import clean_zz_events, four_muons, pack, random_leptons, without
from hist.intervals import poisson_interval
from outreach import campaign, dataset, events_of, to_toml, write

from higgsnb import datasets, engine, selection, statistics
from higgsnb.datasets import Campaign
from higgsnb.errors import SelectionError
from higgsnb.results import Result, cut_quantity
from higgsnb.results.reselect import AXES, PreselectedEvents, Reselection
from higgsnb.selection import CHANNELS, Cut, Selection, cuts, pairings, rules
from higgsnb.widgets import explorer_data as exploring
from higgsnb.widgets import sliders

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
    """Overlapping files: events are in two primary datasets and in two files of one primary dataset."""
    folder = tmp_path_factory.mktemp("exploring")
    leptons = random_leptons(4000, seed=18)
    places = (0, 1, 2, 2, 3, 4, 5, 4)
    paths = [
        write(folder / f"{number}.root", events_of(leptons, 500 * i, 500 * i + 700), basket=211)
        for number, i in enumerate(places)
    ]
    return campaign(
        dataset("mu", "data", *paths[:3], primary_dataset="DoubleMu"),
        dataset("e", "data", *paths[3:6], primary_dataset="DoubleElectron"),
        dataset("h", "higgs", paths[6], cross_section_pb=0.5),
        dataset("mc", "zz", paths[7], cross_section_pb=1.0),
    )


def run(one: Campaign, chosen: Selection, **options: object) -> Result:
    *_, result = engine.run(one, chosen, workers=1, **options)  # type: ignore[arg-type]
    return result


@pytest.fixture(scope="module")
def sample(one: Campaign) -> PreselectedEvents:
    published = [selection.load(name) for name in NAMES]
    return PreselectedEvents.load(run(one, OPEN), loosest=sliders.loosest(*published), workers=2)


@pytest.fixture
def found(sample: PreselectedEvents) -> Reselection:
    return sample.select(OPEN)


def assert_same(found: Reselection, result: Result) -> None:
    """Every bin of every histogram, every number of the cutflow, every event."""
    for index, data in enumerate(result.campaign.datasets):
        for axis in AXES:
            expected = BINNING.counts_of(result.counts[data.name], axis.name)
            np.testing.assert_array_equal(
                found.histogram(axis.name)[index], expected, err_msg=f"{data.name} {axis.name}"
            )
        for channel, flow in result.cutflow[data.name].items():
            mine = found.cutflow[index][CHANNELS.index(channel)].tolist()
            assert mine == [number for _, number in flow], (data.name, channel)
        part = next(part for part in found.events.parts if part.dataset == index)
        rows = result.candidates.rows(result.candidates.dataset == index)
        events = part.event[found.selected[index][:, 0]]
        assert sorted(events.tolist()) == sorted(rows.event.tolist())


# --- The same numbers ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("changes", CHANGES, ids=lambda changes: "-".join(changes) or "published")
@pytest.mark.parametrize("name", NAMES)
def test_every_bin_equals_that_of_the_engine(
    one: Campaign, sample: PreselectedEvents, name: str, changes: dict[str, float]
) -> None:
    chosen = selection.load(name).replace(**changes)
    result = run(one, chosen)
    assert result.complete
    assert_same(sample.select(chosen), result)


@pytest.mark.parametrize("name", NAMES)
def test_what_was_selected_before_leaves_no_trace(one: Campaign, sample: PreselectedEvents, name: str) -> None:
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


@pytest.mark.parametrize("name", NAMES)
def test_neither_the_mass_of_the_z_nor_its_pairing_leaves_a_trace(
    one: Campaign, sample: PreselectedEvents, name: str
) -> None:
    chosen = selection.load(name)
    others = [chosen.replace(z_mass=70.0), chosen.replace(z_mass=chosen.z_mass)]
    others += [chosen.replace(integer_pairing=on) for on in (False, True)] if name == "df103" else []
    expected = [run(one, other) for other in others]
    pairs = [result.candidates.mass_z1.tolist() for result in expected]
    assert len({str(masses) for masses in pairs}) == (3 if name == "df103" else 2)  # one of them is the published one
    for _ in range(2):
        for other, result in zip(others, expected, strict=True):
            assert_same(sample.select(other), result)


def test_distance_of_zero_removes_nothing_not_even_leptons_on_top_of_each_other(tmp_path: Path) -> None:
    touching = four_muons({}, {}, {"eta": 0.1, "phi": 0.2})  # the harder one of Z2 beside the first of Z1
    path = write(tmp_path / "touching.root", pack([touching, four_muons()]))
    simulation = campaign(dataset("mc", "zz", path, cross_section_pb=1.0))
    loose = {"dilepton_mass_min": 0.0, "z2_mass_min": 0.0, "mass_4l_min": 0.0}
    for name in NAMES:
        for distance, kept in ((0.0, 2), (0.02, 2 if name == "df103" else 1)):  # df103 looks at Z1 and Z2 themselves
            chosen = selection.load(name).replace(delta_r_min=distance, **loose)
            result = run(simulation, chosen)
            assert len(result.candidates.run) == kept
            assert_same(PreselectedEvents.load(result).select(chosen), result)


def test_leptons_are_graded_again_only_if_a_cut_on_them_has_moved(
    sample: PreselectedEvents, monkeypatch: pytest.MonkeyPatch
) -> None:
    graded, grade = [], pairings.flag_leptons

    def note(*arguments: object) -> None:
        graded.append(len(arguments))
        grade(*arguments)

    monkeypatch.setattr(pairings, "flag_leptons", note)
    for cut, again in (("muon_pt_min", True), ("z1_mass_min", False), ("z1_mass_min", False), ("sip_max", True)):
        base = OPEN.replace(muon_pt_min=9.0)
        sample.select(base, slot="noted")
        graded.clear()
        sample.select(base.replace(**{cut: getattr(base, cut) + 0.5}), slot="noted")
        assert bool(graded) == again


def tight_in_muons(changes: float) -> Selection:
    return OPEN.replace(muon_pt_min=20.0 + changes, electron_pt_min=20.0)


@pytest.mark.parametrize("rule", ["flag_leptons", "list_good", "choose"])
def test_interrupted_selection_leaves_nothing_half_done(
    one: Campaign, sample: PreselectedEvents, monkeypatch: pytest.MonkeyPatch, rule: str
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    tight = tight_in_muons(0.0)
    sample.select(OPEN)
    with monkeypatch.context() as patch:
        patch.setattr(pairings, rule, interrupted)
        with pytest.raises(KeyboardInterrupt):
            sample.select(tight)
    assert_same(sample.select(tight), run(one, tight))


def test_task_that_goes_on_after_an_interrupt_spoils_no_later_selection(
    one: Campaign, sample: PreselectedEvents, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("higgsnb.results.reselect.EVENTS_PER_TASK", 40)
    threads = PreselectedEvents.load(sample.basis, loosest=sample.loosest, workers=2)
    grade, go_on, done, turn = pairings.flag_leptons, threading.Event(), threading.Event(), iter(range(1000))

    def grade_late(*arguments: object) -> None:
        number = next(turn)
        if number == 0:
            raise KeyboardInterrupt
        if number == 1:
            assert go_on.wait(60)
        grade(*arguments)
        if number == 1:
            done.set()

    with monkeypatch.context() as patch:
        patch.setattr(pairings, "flag_leptons", grade_late)
        with pytest.raises(KeyboardInterrupt):
            threads.select(tight_in_muons(15.0))
    loose = OPEN.replace(muon_pt_min=6.0)
    threads.select(loose)
    go_on.set()
    assert done.wait(60)
    again = loose.replace(z2_mass_min=11.0)  # the same leptons: what is remembered of them is used
    assert_same(threads.select(again), run(one, again))


def test_many_small_tasks_on_many_threads_give_the_same(
    sample: PreselectedEvents, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("higgsnb.results.reselect.EVENTS_PER_TASK", 40)
    threads = PreselectedEvents.load(sample.basis, loosest=sample.loosest, workers=5)
    for name in NAMES:
        chosen = selection.load(name).replace(muon_pt_min=8.0)
        mine, theirs = threads.select(chosen), sample.select(chosen)
        for index in theirs.counts:
            np.testing.assert_array_equal(mine.counts[index], theirs.counts[index])
            np.testing.assert_array_equal(mine.cutflow[index], theirs.cutflow[index])
            np.testing.assert_array_equal(mine.selected[index], theirs.selected[index])


def test_events_in_two_primary_datasets_are_counted_once_and_some_are_there(
    one: Campaign, sample: PreselectedEvents
) -> None:
    result = run(one, OPEN)
    assert sum(result.duplicates_removed.values()) > 20
    assert sum(part.duplicate.sum() for part in sample.parts) > 100
    assert not any(part.duplicate.any() for part in sample.parts if not one.datasets[part.dataset].is_data)


def test_weights_and_yields_are_those_of_the_result(one: Campaign, found: Reselection) -> None:
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
    sample = PreselectedEvents.load(part)
    assert_same(sample.select(OPEN), part)
    assert sample.basis_for(OPEN).coverage == part.coverage
    assert exploring.yields(sample.select(OPEN))[0]["all"] == pytest.approx(
        sum(y.expected for y in part.yields["higgs"].values())
    )


@pytest.fixture(scope="module")
def parts(one: Campaign, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Result]:
    """Results that are not the whole of anything, by what they lack."""
    folder = tmp_path_factory.mktemp("parts")
    leptons = random_leptons(2800, seed=18)
    leptons = leptons._replace(luminosity_block=np.arange(2800, dtype=np.int64) // 50 + 1)
    paths = [write(folder / f"{i}.root", events_of(leptons, 700 * i, 700 * i + 700), basket=100) for i in range(4)]
    rows = "".join(f"1:1,{n}:{n},01/01/12 00:00:00,STABLE BEAMS,4000,2e8,{1e8 + n},1,HFOC\n" for n in range(1, 57))
    table = folder / "luminosity.csv"
    table.write_text("#run:fill,ls,time,beamstatus,E(GeV),delivered(/ub),recorded(/ub),avgpu,source\n" + rows)
    by_section = campaign(
        dataset("mu", "data", paths[0], primary_dataset="DoubleMu"),
        dataset("e", "data", paths[1], primary_dataset="DoubleElectron"),
        dataset("h", "higgs", paths[2], cross_section_pb=0.5),
        dataset("mc", "zz", paths[3], cross_section_pb=1.0),
        luminosity_table=str(table),
    )
    half = run(by_section, OPEN, fraction=0.5, chunk_events=100)
    lost = dataset("lost", "zz", folder / "missing.root", cross_section_pb=5.0)
    lacking = frozenset({"muon_isolation", "electron_isolation"})
    blind = dataclasses.replace(half.tally, not_applied={0: lacking})
    return {
        "table of luminosity": half,
        "chunks that failed": dataclasses.replace(half, failed_sections={(0, 0, 600, 700): np.array([2**32 + 3])}),
        "file that failed": run(dataclasses.replace(one, datasets=(*one.datasets, lost)), OPEN),
        "quantity": dataclasses.replace(half, tally=blind),
    }


@pytest.mark.parametrize("lack", ["table of luminosity", "chunks that failed", "file that failed", "quantity"])
def test_sample_knows_of_its_result_all_but_the_counts(parts: dict[str, Result], lack: str) -> None:
    part = parts[lack]
    sample = PreselectedEvents.load(part)
    for name in NAMES:
        result = dataclasses.replace(part, selection=selection.load(name))
        basis = sample.basis_for(result.selection)
        for what in ("coverage", "weights", "failed"):
            assert getattr(basis, what) == getattr(result, what), what
        for what in ("shares", "source", "notes", "processed", "lost"):
            assert getattr(basis.luminosity, what) == getattr(result.luminosity, what), what
        for what in ("not_applied", "missing_simulation", "rejected_by_golden_json", "complete", "provenance"):
            assert getattr(basis, what) == getattr(result, what), what
    for row in exploring.yields(sample.select(OPEN)):
        assert row["channels"] == pytest.approx({c: y.expected for c, y in part.yields[row["process"]].items()})
        assert row["all"] > 0


def test_results_of_this_test_differ_in_what_they_lack(parts: dict[str, Result]) -> None:
    half = parts["table of luminosity"]
    assert half.luminosity.source == "lumi sections"
    assert 0 < half.luminosity.shares["4mu"] < 0.5
    assert parts["chunks that failed"].luminosity.shares != half.luminosity.shares
    assert parts["file that failed"].missing_simulation == ("lost",)
    assert parts["file that failed"].failed
    assert parts["quantity"].not_applied == {"mu": ["electron_isolation", "muon_isolation"]}


def test_skims_serve_as_well_as_the_files(sample: PreselectedEvents, tmp_path: Path) -> None:
    skimmed = [PreselectedEvents.load(sample.basis, loosest=sample.loosest, skims_folder=tmp_path) for _ in range(2)]
    assert list(tmp_path.rglob("*.arrow"))
    for again in skimmed:
        np.testing.assert_array_equal(again.select(OPEN).counts[0], sample.select(OPEN).counts[0])


def test_events_outside_the_golden_json_are_not_held(one: Campaign, tmp_path: Path) -> None:
    path = tmp_path / "golden.json"
    path.write_text(json.dumps({"2": [[1, 1]]}))
    masked = dataclasses.replace(one, golden_json=str(path))
    result = run(masked, OPEN)
    assert result.rejected_by_golden_json
    assert_same(PreselectedEvents.load(result).select(OPEN), result)


def test_quantities_that_a_schema_lacks_cut_nothing() -> None:
    leptons = without(random_leptons(500, seed=3), "isolation", "dxy_error")
    held, which, _, _ = pairings.preselect(leptons, rules.cuts_of(sliders.loosest(OPEN)), any_pt=True)
    assert len(which) > 100
    assert held.isolation.max() == 0.0
    assert held.sip.max() < 1e-20


def test_held_leptons_are_those_that_the_loosest_cuts_accept(sample: PreselectedEvents) -> None:
    for part in sample.parts:
        assert part.preselected.isolation.max(initial=0) < sample.loosest.muon_isolation_max
        assert part.preselected.sip.max(initial=0) < sample.loosest.sip_max
        assert np.diff(part.preselected.offsets).min(initial=4) >= 4


@pytest.mark.parametrize("number", [0, 1, 2])
def test_bin_is_that_of_a_search_in_the_edges_also_on_the_edges(number: int) -> None:
    edges = BINNING.axis(("mass_4l", "mass_z2", "mass_4l_wide")[number]).edges
    values = np.concatenate([edges, np.nextafter(edges, -np.inf), np.nextafter(edges, np.inf), [-5.0, 1e9]])
    found = [pairings.find_bin(value, edges, 0, len(edges) - 1, True) for value in values]
    np.testing.assert_array_equal(found, np.searchsorted(edges, values, side="right"))


# --- What is refused -----------------------------------------------------------------------------------------------


def test_looser_than_what_is_held_is_refused_with_both_numbers(sample: PreselectedEvents) -> None:
    with pytest.raises(
        SelectionError, match=r"muon_isolation_max = 1\.5 is looser than the preselection .* at most 1\n"
    ):
        sample.select(OPEN.replace(muon_isolation_max=1.5))


def test_result_without_events_is_refused(one: Campaign) -> None:
    with pytest.raises(ValueError, match="has counted no events"):
        PreselectedEvents.load(Result(one, OPEN))


def test_unknown_control_names_the_known_ones() -> None:
    with pytest.raises(KeyError, match="no control for 'z_mass'; known: muon_pt_min"):
        sliders.control("z_mass")


# --- Controls ------------------------------------------------------------------------------------------------------


def test_every_number_of_a_selection_but_the_z_mass_has_a_control_in_whose_range_the_published_ones_are() -> None:
    assert {one.cut for one in sliders.CONTROLS} == set(cuts.NUMBERS) - {"z_mass", "integer_pairing"}
    for one in sliders.CONTROLS:
        assert one.unit == cuts.unit_of(one.cut)
        for name in NAMES:
            assert one.low <= getattr(selection.load(name), one.cut) <= one.high


def test_range_of_a_control_is_widened_to_what_is_held() -> None:
    reach = OPEN.replace(dxy_max=5.0, z1_mass_min=2.0)
    assert sliders.range_of(sliders.control("dxy_max"), reach) == {"low": 0.01, "high": 5.0}
    assert sliders.range_of(sliders.control("z1_mass_min"), reach) == {"low": 2.0, "high": 90.0}
    assert sliders.range_of(sliders.control("sip_max"), reach) == {"low": 1.0, "high": 10.0}


@pytest.mark.parametrize("cut", [one.cut for one in sliders.CONTROLS])
def test_removing_a_cut_never_loses_an_event(sample: PreselectedEvents, cut: str) -> None:
    tight = OPEN.replace(muon_pt_min=10, electron_isolation_max=0.2, delta_r_min=0.1)
    wide = sliders.without(tight, cut, sample.loosest)
    one = sliders.control(cut)
    assert wide.digest != tight.digest or getattr(tight, cut) == (one.low if one.is_lower_limit else one.high)
    kept = {tuple(pair) for pair in _events(sample.select(tight))}
    assert kept <= {tuple(pair) for pair in _events(sample.select(wide))}


LOOSER = OPEN.replace(muon_isolation_max=2, electron_isolation_max=2, dxy_max=5, dz_max=9, sip_max=30)
LOW = OPEN.replace(z1_mass_min=2, z1_mass_max=3.5, z2_mass_min=1, z2_mass_max=3.5)
HIGH = OPEN.replace(z1_mass_min=150, z1_mass_max=300, z2_mass_min=90, z2_mass_max=250)


@pytest.mark.parametrize("cut", [one.cut for one in sliders.CONTROLS])
@pytest.mark.parametrize("chosen", [LOOSER, LOW, HIGH], ids=["looser", "low", "high"])
def test_removing_a_cut_never_tightens_it_even_beyond_the_range_of_its_control(chosen: Selection, cut: str) -> None:
    one = sliders.control(cut)
    for reach in (sliders.loosest(OPEN), sliders.loosest(OPEN, chosen), LOOSER):
        value, wide = getattr(chosen, cut), sliders.without(chosen, cut, reach)
        assert getattr(wide, cut) <= value if one.is_lower_limit else getattr(wide, cut) >= value
        if cut != "lepton_pt_leading":  # at the end of its slider, or where it was
            end = sliders.range_of(one, reach)["low" if one.is_lower_limit else "high"]
            assert getattr(wide, cut) in (end, value)


def _events(found: Reselection) -> list[list[int]]:
    return [[index, int(event)] for index, picked in found.selected.items() for event in picked[:, 0]]


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> PreselectedEvents:
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
    return PreselectedEvents.load(
        run(campaign(dataset("zz", "zz", path, cross_section_pb=1.0)), loose), loosest=sliders.loosest(OPEN)
    )


@pytest.mark.parametrize("cut", [one.cut for one in sliders.CONTROLS])
@pytest.mark.parametrize("name", NAMES)
def test_shaded_part_of_the_distribution_is_what_the_cut_removes(clean: PreselectedEvents, name: str, cut: str) -> None:
    one, base = sliders.control(cut), selection.load(name).replace(sip_max=10, lepton_pt_subleading=1)
    value = {"dxy_max": 0.002, "sip_max": 1.5, "dz_max": 0.05, "z1_mass_min": 80.0, "delta_r_min": 1.0}.get(
        cut, 0.4 * one.high
    )
    chosen = base.replace(**{cut: value})
    loose = clean.select(sliders.without(chosen, cut, clean.loosest))
    values, _ = cut_quantity(clean.parts[0], loose, cut)
    passes = np.isnan(values) | (values > value if one.is_lower_limit else values < value)
    kept, passing = len(clean.select(chosen).selected[0]), int(passes.sum())
    if name != "open2012" or cut in pairings.LEPTON_CUTS:
        assert kept == passing
    else:  # an event whose best candidate is removed may have another one
        assert passing <= kept <= len(values)
    assert passing > 0
    assert passing < len(values) or cut in ("dz_max", "mass_4l_min", "z2_mass_min", "z2_mass_max")


@pytest.mark.parametrize("cut", [one.cut for one in sliders.CONTROLS])
@pytest.mark.parametrize("name", NAMES)
def test_candidate_outside_the_shaded_part_is_kept_whatever_else_is_in_its_event(
    sample: PreselectedEvents, name: str, cut: str
) -> None:
    one, base = sliders.control(cut), selection.load(name)
    value = {"z1_mass_max": 93.0, "z2_mass_max": 62.0}.get(cut, 0.3 * one.low + 0.7 * getattr(base, cut))
    value = value if not one.is_lower_limit else getattr(base, cut) + 0.3 * (one.high - getattr(base, cut))
    chosen = base.replace(**({"lepton_pt_leading": 30.0} if cut == "lepton_pt_subleading" else {}), **{cut: value})
    loose = sample.select(sliders.without(chosen, cut, sample.loosest))
    outside, n_loose = set(), 0
    for part in sample.parts:
        values, channels = cut_quantity(part, loose, cut)
        passes = np.isnan(values) | (values > value if one.is_lower_limit else values < value)
        events = loose.selected[part.dataset][passes, 0]
        outside |= {(part.dataset, int(e), int(c)) for e, c in zip(events, channels[passes], strict=True)}
        n_loose += len(values)
    found = sample.select(chosen)
    kept = {
        (index, int(event), int(found.pairings[index].rows["channel"][row]))
        for index, picked in found.selected.items()
        for event, row in picked
    }
    assert outside <= kept
    assert kept == outside or name != "df103"  # one way to pair an event: nothing else in it can pass
    assert 0 < len(outside) < n_loose or cut in ("delta_r_min", "mass_4l_min", "dilepton_mass_min", "dz_max")


def test_distribution_without_a_cut_counts_every_candidate_in_its_range(sample: PreselectedEvents) -> None:
    shown = exploring.n_minus_one(sample, OPEN, "mass_4l_min")
    loose = sample.select(OPEN.replace(mass_4l_min=0))
    part = sample.parts[0]
    masses = loose.pairings[0].rows["mass_4l"][loose.selected[0][:, 1]]
    other = loose.pairings[1].rows["mass_4l"][loose.selected[1][:, 1]]
    expected = np.histogram(np.concatenate([masses, other]), np.linspace(0, 300, exploring.BINS + 1))[0]
    assert part.dataset == 0
    assert shown["data"] == expected.tolist()
    assert shown["keeps"] == "above"


# --- What is shown -------------------------------------------------------------------------------------------------


def test_spectrum_is_the_histogram_of_the_result(one: Campaign, found: Reselection) -> None:
    result, shown = run(one, OPEN), exploring.spectrum(found, "mass_4l")
    counts = {name: BINNING.counts_of(result.counts[name], "mass_4l")[:, 1:-1] for name in ("mu", "e", "h")}
    assert shown["data"] == (counts["mu"] + counts["e"]).sum(axis=0).tolist()
    weights = np.array([result.weights["h"][channel] for channel in CHANNELS])
    np.testing.assert_allclose(shown["processes"]["higgs"], weights @ counts["h"])
    assert shown["label"] == "four-lepton mass [GeV]"
    assert all(
        low <= count <= high for low, count, high in zip(shown["low"], shown["data"], shown["high"], strict=True)
    )


def test_error_bars_are_the_central_interval_of_a_poisson_mean(found: Reselection) -> None:
    shown = exploring.spectrum(found, "mass_4l")
    low, high = poisson_interval(np.array(shown["data"]), coverage=0.6827)
    assert shown["low"] == low.tolist()
    assert shown["high"] == high.tolist()
    assert shown["high"][shown["data"].index(0)] == pytest.approx(1.841, abs=0.001)


def test_cutflow_begins_with_every_event_once_and_ends_with_the_yields(sample: PreselectedEvents) -> None:
    for name in NAMES:
        rows = exploring.cutflow(sample.select(selection.load(name)))
        kept = {row["process"]: row["all"] for row in exploring.yields(sample.select(selection.load(name)))}
        assert rows[0]["events"]["data"] == 6 * 700
        assert rows[-1]["events"] == pytest.approx(kept)
        later = [row["events"]["data"] for row in rows[Cut.GOOD_LEPTONS :]]
        assert later == sorted(later, reverse=True)


def test_summary_says_the_yields_in_words(found: Reselection) -> None:
    rows = exploring.yields(found)
    promise = exploring.expected_significance(rows)
    higgs, zz, data = rows
    assert promise == pytest.approx(statistics.asimov_significance(higgs["window"], zz["window"]))
    said = exploring.summary(rows, promise)
    assert said.startswith(f"{data['all']:.0f} events found, {higgs['all'] + zz['all']:.1f} expected")
    assert f"{higgs['all']:.1f} of them Higgs bosons" in said
    assert f"expected significance {promise:.1f} σ" in said
    assert exploring.expected_significance(rows[1:]) is None


def test_prediction_that_lacks_a_process_promises_nothing_and_says_what_it_lacks(parts: dict[str, Result]) -> None:
    sample = PreselectedEvents.load(parts["file that failed"])
    rows, lacking = exploring.yields(sample.select(OPEN)), sample.basis.missing_simulation
    assert exploring.expected_significance(rows) is not None  # from what is there
    promise = exploring.expected_significance(rows, lacking=lacking)
    assert promise is None
    said = exploring.summary(rows, promise, lacking=lacking)
    assert said.endswith("Higgs bosons. The prediction lacks lost.")
    with pytest.raises(ValueError, match="the prediction lacks lost"):
        statistics.counting_test(parts["file that failed"])


def test_listed_candidates_are_those_of_the_bin_data_first(found: Reselection) -> None:
    number = int(np.argmax(exploring.spectrum(found, "mass_4l")["data"]))
    low, high = BINNING.axis("mass_4l").edges[number : number + 2]
    listing = exploring.candidates(found, "mass_4l", number)
    shown = exploring.spectrum(found, "mass_4l")
    data = [row for row in listing["rows"] if row["process"] == "data"]
    assert len(data) == min(shown["data"][number], exploring.MOST_CANDIDATES)
    assert listing["rows"][: len(data)] == data
    assert all(low <= row["mass_4l"] + 0.006 and row["mass_4l"] - 0.006 < high for row in listing["rows"])
    inside = sum(int(counts[:, number + 1].sum()) for counts in found.histogram("mass_4l").values())
    assert listing["total"] == inside


def test_list_stops_at_the_longest_and_still_counts_all(found: Reselection, monkeypatch: pytest.MonkeyPatch) -> None:
    number = int(np.argmax(exploring.spectrum(found, "mass_4l")["data"]))
    whole = exploring.candidates(found, "mass_4l", number)
    processes = [row["process"] for row in whole["rows"]]
    for most in (1, processes.count("data"), processes.count("data") + 1, len(processes) - 1):
        monkeypatch.setattr(exploring, "MOST_CANDIDATES", most)
        short = exploring.candidates(found, "mass_4l", number)
        assert short["total"] == whole["total"] > most
        assert short["rows"] == whole["rows"][:most]


@pytest.mark.parametrize("name", NAMES)
def test_place_of_a_candidate_is_the_same_whatever_the_selection(sample: PreselectedEvents, name: str) -> None:
    chosen = selection.load(name)
    first = {tuple(row["place"]): row for row in _all_candidates(sample.select(chosen))}
    second = _all_candidates(sample.select(chosen.replace(muon_pt_min=9.0, z1_mass_min=50.0)))
    assert 20 < len(second) < len(first)
    assert len(first) == len({(row["process"], row["name"], row["channel"]) for row in first.values()})
    again = [row for row in second if tuple(row["place"]) in first]
    assert len(again) >= 0.9 * len(second)
    for row in again:
        assert row["name"] == first[tuple(row["place"])]["name"]
        assert row["channel"] == first[tuple(row["place"])]["channel"]


def _all_candidates(found: Reselection) -> list[dict]:
    return [row for n in range(37) for row in exploring.candidates(found, "mass_4l", n)["rows"]]


def test_event_that_is_not_picked_is_none(found: Reselection) -> None:
    dataset_of_it, held, channel = exploring.candidates(found, "mass_4l", 12)["rows"][0]["place"]
    assert exploring.event(found, dataset_of_it, held, channel) is not None
    for place in ((99, held, channel), (dataset_of_it, -1, channel), (dataset_of_it, 10**9, channel)):
        assert exploring.event(found, *place) is None
    assert sum(exploring.event(found, dataset_of_it, held, other) is not None for other in range(3)) == 1


def test_event_is_the_same_from_a_sample_and_from_a_result(one: Campaign, found: Reselection) -> None:
    result = run(one, OPEN)
    processes = ["data", "data", "higgs", "zz"]
    table = {
        (d, int(e)): row
        for row, (d, e) in enumerate(zip(result.candidates.dataset, result.candidates.event, strict=True))
    }
    for index in (0, 2):
        event, row = found.selected[index][3]
        shown = exploring.event(found, index, int(event), int(found.pairings[index].rows["channel"][row]))
        assert shown is not None
        number = int(shown["name"].rpartition(":")[2])
        other = exploring.event_of(result.candidates, table[index, number], processes)
        assert {**shown, "place": 0} == {**other, "place": 0}
        momenta = {pair: [_momentum(one) for one in shown["leptons"] if one["pair"] == pair] for pair in (1, 2)}
        assert _mass([*momenta[1], *momenta[2]]) == pytest.approx(shown["mass_4l"], abs=0.02)
        assert _mass(momenta[1]) == pytest.approx(shown["mass_z1"], abs=0.02)
        assert _mass(momenta[2]) == pytest.approx(shown["mass_z2"], abs=0.02)
        assert abs(shown["mass_z1"] - shown["mass_z2"]) > 1


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


def test_snippet_is_short_where_little_is_changed() -> None:
    changed = OPEN.replace(muon_pt_min=7.5, delta_r_min=0.1)
    code = exploring.snippet(exploring.campaign_code(datasets.load("toy")), changed)
    assert code.splitlines()[2:4] == [
        "campaign = hn.datasets.load('toy')",
        "selection = hn.selection.load('open2012').replace(muon_pt_min=7.5, delta_r_min=0.1)",
    ]
    assert "\nselection = hn.selection.load('open2012')\n" in exploring.snippet("", OPEN)
    assert exploring.changes(OPEN, changed) == {"muon_pt_min": 7.5, "delta_r_min": 0.1}


DF103 = selection.load("df103")
OWN = dataclasses.replace(OPEN, name="it's mine", version=7, z_mass=85.0, dxy_max=0.1 + 0.2)


@pytest.mark.parametrize(
    "chosen",
    [
        OPEN, OPEN.replace(z_mass=85.0), OPEN.replace(muon_pt_min=7.1234567), OPEN.replace(sip_max=1e12), OWN,
        DF103.replace(integer_pairing=False), dataclasses.replace(OPEN, algorithm="aod2012"),
        dataclasses.replace(DF103, name="open2012"), dataclasses.replace(DF103, name="mine", mass_4l_min=119.99999),
    ],
)  # fmt: skip
def test_snippet_makes_the_very_same_selection(chosen: Selection) -> None:
    names: dict = {}
    code = exploring.snippet(exploring.campaign_code(datasets.load("toy")), chosen)
    begin, _, run_it = code.partition("*_, result")
    assert run_it
    exec(begin, names)  # noqa: S102 - what the user would run
    assert names["selection"].digest == chosen.digest
    assert names["selection"].name == chosen.name or chosen.name in NAMES
    assert names["campaign"] == datasets.load("toy")


def test_snippet_loads_a_campaign_from_its_file_or_says_that_it_has_none(one: Campaign, tmp_path: Path) -> None:
    path = to_toml(dataclasses.replace(one, datasets=one.datasets[:2]), tmp_path / "toy.toml")
    path.write_text(path.read_text().replace('name = "test"', 'name = "toy"'))
    mine = datasets.load(path)
    assert mine.name == "toy"
    names: dict = {}
    exec(f"import higgsnb as hn\n{exploring.campaign_code(mine)}", names)  # noqa: S102
    assert names["campaign"] == mine
    assert exploring.campaign_code(one) == "# campaign = 'test' exists in memory only"


def test_everything_shown_is_plain_json(sample: PreselectedEvents, found: Reselection) -> None:
    shown = [exploring.spectrum(found, "mass_z1"), exploring.yields(found), exploring.cutflow(found)]
    listing = exploring.candidates(found, "mass_4l", 5)
    shown += [listing, exploring.event(found, *listing["rows"][0]["place"])]
    shown += [exploring.n_minus_one(sample, OPEN, "sip_max")]
    assert json.loads(json.dumps(shown)) == shown


def test_campaign_without_data_has_no_points(one: Campaign) -> None:
    simulated = dataclasses.replace(one, datasets=one.datasets[2:])
    found = PreselectedEvents.load(run(simulated, OPEN)).select(OPEN)
    assert exploring.spectrum(found, "mass_4l")["data"] is None
    assert [row["process"] for row in exploring.yields(found)] == ["higgs", "zz"]
    assert "found" not in exploring.summary(exploring.yields(found), None)


def test_event_without_four_leptons_is_nowhere(tmp_path: Path) -> None:
    few = pack([[] for _ in range(5)])
    result = run(campaign(dataset("mc", "zz", write(tmp_path / "few.root", few), cross_section_pb=1.0)), OPEN)
    for name in NAMES:
        found = PreselectedEvents.load(result).select(selection.load(name))
        assert found.cutflow[0][:, Cut.ALL].tolist() == [5, 5, 5]
        assert found.cutflow[0][:, 1:].sum() == 0
        assert exploring.yields(found)[0]["all"] == 0
