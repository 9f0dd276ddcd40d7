"""What makes numbers doubtful is found, whatever the chunks, and said where the numbers are."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import outreach
import pytest
from click.testing import CliRunner
from generators import clean_zz_events, pack
from outreach import campaign, dataset, events_of

from higgsnb import datasets, engine, events, plots, selection
from higgsnb.__main__ import main
from higgsnb.datasets import Campaign
from higgsnb.datasets.chunks import plan_chunks
from higgsnb.engine import progress
from higgsnb.results import Result, directory, plausibility
from higgsnb.selection import Leptons

N = 600
SIZES = (1000, 211, 64)
"""Events in a chunk: a file in one, in some, in many."""


@pytest.fixture(scope="module")
def leptons() -> Leptons:
    return pack(clean_zz_events(N, seed=13))


def result_of(made: Campaign, **options: Any) -> Result:
    *_, result = engine.run(made, selection.load("open2012"), workers=1, **options)
    return result


def simulation(folder: Path, leptons: Leptons, *weights: npt.ArrayLike, **options: Any) -> Campaign:
    """A campaign of NanoAOD, half of the events in each of two files, with these generator weights."""
    paths = []
    for i, some in enumerate(weights):
        part = events_of(leptons, i * N // 2, (i + 1) * N // 2)
        ones = np.broadcast_to(np.asarray(some, np.float32), part.n_events)
        paths.append(outreach.write(folder / f"{i}.root", part, weights=ones, **options))
    return campaign(dataset("mc", "zz", *paths, cross_section_pb=0.1), schema="nanoaod")


# --- Weights


def test_equal_weights_of_any_size_are_a_sample_like_any_other(tmp_path: Path, leptons: Leptons) -> None:
    plain, weighted = (result_of(simulation(tmp_path, leptons, w, w), chunk_events=211) for w in (1, -26_300.5))
    assert weighted.complete
    for channel, one in weighted.yields["zz"].items():
        assert one == pytest.approx(plain.yields["zz"][channel], rel=1e-12)
    assert plain.weights["mc"]["4mu"] == pytest.approx(10.0 * 0.1 * 1000 / N)


def test_sum_of_weights_that_was_rounded_is_no_skim(tmp_path: Path, leptons: Leptons) -> None:
    weight = np.float32(26_331.2)
    almost = float(weight) * (1 + 1e-8)
    result = result_of(simulation(tmp_path, leptons, weight, weight, runs={"genEventSumw": [almost * N / 2]}))
    assert result.complete
    assert result.skimmed == {}
    skim = result_of(simulation(tmp_path, leptons, weight, weight, runs={"genEventSumw": [almost * 1500]}))
    assert skim.skimmed == {"mc": (N, pytest.approx(3000, rel=1e-6))}
    assert "600 events stand for 3,000 generated ones" in skim.remarks[0]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_weight_that_is_no_number_is_an_error_of_its_file(tmp_path: Path, leptons: Leptons, bad: float) -> None:
    result = result_of(simulation(tmp_path, leptons, 1, np.where(np.arange(N // 2) == 7, bad, 1)), chunk_events=64)
    (failure,) = result.failed
    assert failure.message == f"{result.campaign.files[1].url}: genWeight of entry 7 is {bad}"


# --- Skims

RUNS = {
    "one row": {"genEventCount": [5 * N // 2]},
    "many rows": {"run": [1, 1, 1], "genEventCount": [N, N, N // 2]},
    "older name": {"genEventCount_": [5 * N // 2]},
    "sum of weights only": {"genEventSumw": [1.0 * N, 1.5 * N]},
}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("runs", RUNS.values(), ids=RUNS)
def test_skim_is_normalised_to_the_generated_events(
    tmp_path: Path, leptons: Leptons, runs: dict[str, npt.ArrayLike], size: int
) -> None:
    skim, whole = tmp_path / "skim", tmp_path / "whole"
    skim.mkdir()
    whole.mkdir()
    found = result_of(simulation(skim, leptons, 1, 1, runs=runs), chunk_events=size)
    expected = result_of(simulation(whole, leptons, 1, 1, runs={"genEventCount": [N // 2]}), chunk_events=size)
    assert found.complete
    assert found.weights["mc"]["4mu"] == pytest.approx(expected.weights["mc"]["4mu"] / 5, rel=1e-12)
    assert (found.skimmed, expected.skimmed) == ({"mc": (N, 5 * N)}, {})
    assert found.remarks == ("mc: 600 events stand for 3,000 generated ones, which normalise them",)
    assert directory.document(found)["notes"]["skimmed"] == {"mc": [N, 5 * N]}


def test_part_of_a_skim_stands_for_its_share_of_the_generated_events(tmp_path: Path, leptons: Leptons) -> None:
    made = simulation(tmp_path, leptons, 1, 1, runs={"genEventCount": [5 * N // 2]})
    part, whole = result_of(made, fraction=0.5), result_of(made)
    assert part.weights["mc"]["4mu"] == pytest.approx(2 * whole.weights["mc"]["4mu"], rel=1e-12)


def test_file_with_more_events_than_were_generated_is_an_error(tmp_path: Path, leptons: Leptons) -> None:
    result = result_of(simulation(tmp_path, leptons, 1, 1, runs={"genEventCount": [100]}))
    assert {failure.message.partition(": ")[2] for failure in result.failed} == {
        "holds 300 events, but its Runs tree says that 100 were generated"
    }


@pytest.mark.parametrize("size", SIZES)
def test_files_of_which_no_event_is_left_stand_for_their_generated_events(
    tmp_path: Path, leptons: Leptons, size: int
) -> None:
    runs = {"genEventCount": [1500]}
    paths = [outreach.write(tmp_path / "0.root", events_of(leptons, 0, 300), weights=np.ones(300), runs=runs)]
    empty = events_of(leptons, 0, 0)
    paths += [outreach.write(tmp_path / f"{i}.root", empty, weights=np.ones(0), runs=runs) for i in range(1, 10)]
    made = campaign(dataset("mc", "zz", *paths, cross_section_pb=0.1), schema="nanoaod")
    result = result_of(made, chunk_events=size)
    assert result.complete
    assert result.skimmed == {"mc": (300, 15_000)}
    assert result.weights["mc"]["4mu"] == pytest.approx(10.0 * 0.1 * 1000 / 15_000, rel=1e-12)


SUMS: dict[str, Any] = {
    "signs of which one is left": (
        {"genEventCount": [1500], "genEventSumw": [900.0], "genEventSumw2": [1500.0]},
        900,
        {"mc": (N, 3000)},
    ),
    "count and sum differ": ({"genEventCount": [300], "genEventSumw": [1500.0]}, 1500, {}),
}


@pytest.mark.parametrize("schema", ["nanoaod", "outreach"])
@pytest.mark.parametrize(("runs", "stands_for", "skimmed"), SUMS.values(), ids=SUMS)
def test_sum_of_the_weights_counts_where_it_differs_from_the_number(
    tmp_path: Path, leptons: Leptons, runs: dict[str, npt.ArrayLike], stands_for: int, skimmed: Any, schema: str
) -> None:
    result = result_of(replace(simulation(tmp_path, leptons, 1, 1, runs=runs), schema=schema), chunk_events=211)
    assert result.skimmed == skimmed
    assert result.weights["mc"]["4mu"] == pytest.approx(10.0 * 0.1 * 1000 / (2 * stands_for), rel=1e-12)


UNKNOWN = {
    "no weights": (
        {"genEventSumw": [26_300.0 * 300]},
        "its Runs tree has a sum of weights, but no event shows a weight",
    ),
    "weights that differ": (
        {"genEventCount": [1500], "genEventSumw": [900.0], "genEventSumw2": [1500.0]},
        "its Runs tree says that weights differ, but no event shows its own",
    ),
    "not a number": ({"genEventCount": [np.nan]}, "genEventCount of its Runs tree is not one number per row"),
}


@pytest.mark.parametrize(("runs", "words"), UNKNOWN.values(), ids=UNKNOWN)
def test_skim_without_weights_is_refused_where_they_matter(
    tmp_path: Path, leptons: Leptons, runs: dict[str, npt.ArrayLike], words: str
) -> None:
    path = outreach.write(tmp_path / "a.root", events_of(leptons, 0, 300), runs=runs)
    (failure,) = result_of(campaign(dataset("mc", "zz", path, cross_section_pb=0.1), schema="nanoaod")).failed
    assert (failure.error, failure.message.partition(": ")[2]) == ("SchemaError", words)


def test_same_weights_without_the_column_are_a_number_of_events(tmp_path: Path, leptons: Leptons) -> None:
    runs = {"genEventCount": [1500], "genEventSumw": [1500 * 26_331.2], "genEventSumw2": [1500 * 26_331.2**2]}
    path = outreach.write(tmp_path / "a.root", events_of(leptons, 0, 300), runs=runs)
    result = result_of(campaign(dataset("mc", "zz", path, cross_section_pb=0.1), schema="nanoaod"))
    assert result.skimmed == {"mc": (300, 1500)}


def test_real_skim_is_normalised_to_what_its_runs_tree_says(shared_data: Path) -> None:
    files = shared_data / "nanoaod" / "nano_tree.root"
    result = result_of(campaign(dataset("mc", "zz", files, cross_section_pb=1.0), schema="nanoaod"))
    assert result.skimmed == {"mc": (10, 49_919)}
    assert result.weights["mc"]["4e"] == pytest.approx(10.0 * 1000 / 49_919)


# --- Units

UNITS = {
    "pt in MeV": ("pt", 1000, "muon pt are above 1000 GeV"),
    "pt in TeV": ("pt", 0.001, "muon pt are below 1 GeV"),
    "mass in MeV": ("mass", 1000, "muon mass are above 1 GeV"),
    "dxy in mm": ("dxy", 10, "muon dxy / dxy_error are above 6"),
    "errors in mm": ("dxy_error", 10, "muon dxy_error are above 0.012 cm"),
    "errors in m": ("dz_error", 0.01, "muon dz_error are below 0.0002 cm"),
    "phi in degrees": ("phi", 57.3, "muon phi are above 6.3 rad"),
    "dz in mm": ("dz", 10, "muon dz / dz_error are above 2.5"),
    "isolation in percent": ("isolation", 100, "muon isolation are above 15"),
    "charge in thirds": ("charge", 3, "muon charge are above 1"),
}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("quantity", "factor", "what"), UNITS.values(), ids=UNITS)
def test_other_units_are_said(
    tmp_path: Path, leptons: Leptons, quantity: str, factor: float, what: str, size: int
) -> None:
    names = [f"{flavour}_{quantity}" for flavour in ("muon", "electron")]
    columns = {name: getattr(leptons, name) for name in names}
    scaled = {name: (column * np.float32(factor)).astype(column.dtype) for name, column in columns.items()}
    path = outreach.write(tmp_path / "0.root", leptons._replace(**scaled))
    result = result_of(campaign(dataset("mu", "data", path, primary_dataset="DoubleMu")), chunk_events=size)
    found = [doubt.message for doubt in result.doubts if doubt.kind == "units"]
    assert any(what in message for message in found)
    assert "DOUBTFUL: units" in plots.coverage_text(result)


def test_units_of_a_few_events_are_said(tmp_path: Path, leptons: Leptons) -> None:
    some = events_of(leptons, 0, 10)
    path = outreach.write(tmp_path / "0.root", some._replace(muon_pt=some.muon_pt * np.float32(1000)))
    (doubt,) = result_of(campaign(dataset("mu", "data", path))).doubts
    assert doubt.message == "mu: more than half of the values of muon pt are above 1000 GeV"


@pytest.mark.parametrize(
    "name",
    [
        "nanoaod/nano_dimuon.root", "nanoaod/nano_dy.root", "nanoaod/nanoAOD_2015_CMS_Open_Data_ttbar.root",
        "rntuple/cmsopendata2015_ttbar_19980_NANOAOD_RNTupleImporter_rntuple_v1-0-0-1.root", "cases/seed/raw.root",
    ],
)  # fmt: skip
def test_units_of_real_files_are_plausible(shared_data: Path, name: str) -> None:
    made = campaign(dataset("mu", "data", shared_data / name), schema="nanoaod")
    entries = events.inspect(made.files[0], made.schema).entries
    (chunk,) = plan_chunks(made, {made.files[0].url: entries}, entries)
    counts = plausibility.count(events.read_leptons(chunk))
    assert counts[..., 0].max() >= plausibility.LEAST
    assert [plausibility.implausible(counts * n) for n in (1, 4)] == [[], []]  # also if there were enough of them
    assert plausibility.unusable(counts * 4) == []


@pytest.mark.parametrize(("quantity", "value"), [("isolation", -999.0), ("dxy", np.nan), ("pt", np.inf)])
@pytest.mark.parametrize("size", SIZES)
def test_column_without_values_is_said(
    tmp_path: Path, leptons: Leptons, quantity: str, value: float, size: int
) -> None:
    column = getattr(leptons, f"electron_{quantity}")
    for part, messages in ((0.4, []), (0.6, [f"el: most values of electron {quantity} are not finite or -999"])):
        spoiled = np.where(np.arange(len(column)) % 10 < 10 * part, np.float32(value), column)
        path = outreach.write(tmp_path / "0.root", leptons._replace(**{f"electron_{quantity}": spoiled}))
        doubts = result_of(campaign(dataset("el", "data", path)), chunk_events=size).doubts
        assert [doubt.message for doubt in doubts if doubt.kind == "values"] == messages


@pytest.mark.parametrize("fraction", [0.001, 0.01, 1.0])
def test_toy_is_free_of_doubt(fraction: float) -> None:
    result = result_of(datasets.load("toy"), fraction=fraction)
    assert (result.doubts, result.complete) == ((), fraction == 1)
    if fraction == 1:
        assert all(counts[0, 0, 0] for counts in result.tally.plausibility.values())


# --- Golden JSON


@pytest.mark.parametrize("size", SIZES)
def test_golden_json_of_other_runs_is_said(tmp_path: Path, leptons: Leptons, size: int) -> None:
    path = outreach.write(tmp_path / "0.root", leptons)
    (tmp_path / "golden.json").write_text('{"999": [[1, 9]]}')
    made = campaign(dataset("mu", "data", path, primary_dataset="DoubleMu"), golden_json=str(tmp_path / "golden.json"))
    (doubt,) = result_of(made, chunk_events=size).doubts
    assert doubt == (
        "golden JSON", "mu: none of its 600 events is in a section that the golden JSON certifies",
        "Name the golden JSON of the year of these data.",
    )  # fmt: skip


RUN = np.repeat(190_456, N)
SECTION = np.repeat(np.arange(1, 61), N // 60)
YEAR = "Name the golden JSON of the year of these data."


def with_sections(
    folder: Path, leptons: Leptons, golden: Any, run: npt.ArrayLike = RUN, section: npt.ArrayLike = SECTION,
    table: dict[int, int] | None = None, **options: Any,
) -> Campaign:  # fmt: skip
    """Data in these lumi sections, with a golden JSON, and maybe a table of so many sections from 1 on in each run."""
    marked = leptons._replace(run=np.asarray(run, np.int64), luminosity_block=np.asarray(section, np.int64))
    path = outreach.write(folder / "0.root", marked)
    (folder / "golden.json").write_text(json.dumps(golden))
    if table is not None:
        keys = [f"{run}:1,{n}:{n}" for run, last in table.items() for n in range(1, last + 1)]
        rows = [f"{key},1,{1 / len(keys):.12f}" for key in keys]
        (folder / "byls.csv").write_text("\n".join(["#run:fill,ls,delivered(/fb),recorded(/fb)", *rows]))
        options |= {"luminosity_table": str(folder / "byls.csv"), "luminosity_fb": 1.0}
    data = dataset("mu", "data", path, primary_dataset="DoubleMu")
    return campaign(data, golden_json=str(folder / "golden.json"), **options)


@pytest.mark.parametrize("size", SIZES)
def test_golden_json_with_few_of_the_events_and_few_events_in_it_is_said(
    tmp_path: Path, leptons: Leptons, size: int
) -> None:
    made = with_sections(tmp_path, leptons, {"190456": [[1, 1]], "200000": [[1, 500]]})
    result = result_of(made, chunk_events=size)
    message = "mu: only 10 of its 600 events are in a section that the golden JSON certifies"
    assert result.doubts == (("golden JSON", message, YEAR),)
    assert result.remarks == ()
    assert result_of(made, chunk_events=size, fraction=0.5).doubts == ()  # the other sections may be in the rest


def test_real_golden_json_of_another_year_is_said_although_an_event_is_in_it(
    shared_data: Path, tmp_path: Path, leptons: Leptons
) -> None:
    name = "Cert_190456-208686_8TeV_22Jan2013ReReco_Collisions12_JSON.txt"
    golden = json.loads((shared_data / "golden-json" / name).read_text())
    run, section = np.repeat(170_000, N), np.arange(N)
    run[-1], section[-1] = 190_645, 10
    (doubt,) = result_of(with_sections(tmp_path, leptons, golden, run, section)).doubts
    assert doubt.message == "mu: only 1 of its 600 events is in a section that the golden JSON certifies"
    run[:], section[:] = 190_645, 10 + np.arange(N) // 10
    assert result_of(with_sections(tmp_path, leptons, golden, run, section)).doubts == ()  # a part of the year


@pytest.mark.parametrize(
    "golden",
    [{"190456": [[1, 1]]}, {"190456": [[1, 31]], "200000": [[1, 500]]}],
    ids=["part of the data", "part of it"],
)
def test_golden_json_of_a_part_is_no_doubt(tmp_path: Path, leptons: Leptons, golden: Any) -> None:
    result = result_of(with_sections(tmp_path, leptons, golden))
    assert result.doubts == ()
    (remark,) = result.remarks
    assert remark.startswith("mu: the golden JSON does not certify the lumi sections of ")


# --- Luminosity of data that are not there

BOTH = {"190456": [[1, 60]], "190457": [[1, 60]]}
TWO_RUNS = {190_456: 60, 190_457: 60}


@pytest.mark.parametrize("size", SIZES)
def test_luminosity_of_runs_without_data_is_said(tmp_path: Path, leptons: Leptons, size: int) -> None:
    result = result_of(with_sections(tmp_path, leptons, BOTH, table=TWO_RUNS), chunk_events=size)
    assert result.coverage.luminosity_fb[0] == pytest.approx(1.0)
    (doubt,) = result.doubts
    what = "no event in 60 of 120 lumi sections of luminosity_table, which have 0.5 of its 1 /fb and count as processed"
    hint = "Name the data of these runs, too, or a golden JSON and a table of the data that are there."
    assert doubt == ("luminosity", f"mu: {what}; sections with events have 10 on average", hint)


def test_luminosity_of_sections_without_events_is_no_doubt_where_these_are_expected(
    tmp_path: Path, leptons: Leptons
) -> None:
    few = np.arange(N) // 2 + 1  # events in a section
    for options in (
        {"table": {190_456: 60}}, {"table": {190_456: 60, 190_457: 1}}, {"luminosity_uncertainty": 0.6},
        {"section": few, "golden": {"190456": [[1, 600]]}, "table": {190_456: 600}},
    ):  # fmt: skip
        made = with_sections(tmp_path, leptons, **{"golden": BOTH, "table": TWO_RUNS, **options})
        assert result_of(made).doubts == (), options
    assert result_of(with_sections(tmp_path, leptons, BOTH, table=TWO_RUNS), fraction=0.5).doubts == ()


def test_golden_json_and_table_without_data_are_not_used(tmp_path: Path, leptons: Leptons) -> None:
    made = with_sections(tmp_path, leptons, BOTH, table=TWO_RUNS)
    simulated = replace(made, datasets=(dataset("mc", "zz", made.files[0].url, cross_section_pb=0.1),))
    result = result_of(simulated)
    assert result.doubts == ()
    assert result.remarks == ("no use is made of golden_json and luminosity_table: the campaign has no data",)


# --- Many datasets

NAMED = ", ".join(f"part{i:02d}" for i in range(10))


def many(folder: Path, leptons: Leptons, process: str, *, n: int = 13, **head: Any) -> Path:
    """A campaign of many datasets of 40 events each, data in MeV and simulation skimmed."""
    made = []
    for i in range(n):
        some = events_of(leptons, i * 40, (i + 1) * 40)
        if process == "data":
            path = outreach.write(folder / f"{i}.root", some._replace(muon_pt=some.muon_pt * np.float32(1000)))
        else:
            path = outreach.write(folder / f"{i}.root", some, weights=np.ones(40), runs={"genEventCount": [400 + i]})
        made.append(dataset(f"part{i:02d}", process, path, primary_dataset="DoubleMu" if process == "data" else None))
    made_toml = outreach.to_toml(campaign(*made), folder / "many.toml")
    keys = "".join(f"{key} = {json.dumps(value)}\n" for key, value in head.items())
    made_toml.write_text(made_toml.read_text().replace("energy_tev", f"{keys}energy_tev", 1))
    return made_toml


def test_doubts_of_many_datasets_are_one_with_ten_names(tmp_path: Path, leptons: Leptons) -> None:
    (tmp_path / "golden.json").write_text('{"999": [[1, 9]]}')
    path = many(tmp_path, leptons, "data", golden_json="golden.json")
    answer = CliRunner().invoke(main, ["run", str(path), "--out", str(tmp_path / "out")])
    said = [line for line in answer.stderr.splitlines() if "doubtful" in line]
    what = "none of their 520 events is in a section that the golden JSON certifies"
    assert said == [f"higgsnb: doubtful golden JSON: {NAMED} and 3 more: {what}"]
    assert "note:" not in answer.stdout
    result = result_of(datasets.load(path))
    assert list(progress._remarks("running", result)) == [f"doubtful golden JSON: {NAMED} and 3 more: {what}. {YEAR}"]
    (doubt,) = result_of(datasets.load(many(tmp_path, leptons, "data"))).doubts
    assert doubt.message == f"{NAMED} and 3 more: more than half of the values of muon pt are above 1000 GeV"


def test_what_is_said_of_other_datasets_is_kept_apart(tmp_path: Path, leptons: Leptons) -> None:
    scaled = leptons._replace(muon_pt=leptons.muon_pt * np.float32(1000))
    both = scaled._replace(electron_pt=leptons.electron_pt * np.float32(1000))
    paths = [
        outreach.write(tmp_path / f"{i}.root", events_of(some, 0, 100 + i))
        for i, some in enumerate((scaled, both, both))
    ]
    made = campaign(*(dataset(name, "data", path) for name, path in zip("abc", paths, strict=True)))
    (doubt,) = result_of(made).doubts
    muon, electron = (
        f"more than half of the values of {flavour} pt are above 1000 GeV" for flavour in ("muon", "electron")
    )
    assert doubt.message == f"a, b, c: {muon}; b, c: {electron}"


def test_skims_are_one_remark(tmp_path: Path, leptons: Leptons) -> None:
    path = many(tmp_path, leptons, "zz")
    path.write_text(path.read_text().replace("outreach", "nanoaod"))
    total = sum(400 + i for i in range(13))
    assert result_of(datasets.load(path)).remarks == (
        f"{NAMED} and 3 more: 520 events stand for {total:,} generated ones, which normalise them",
    )


# --- What a person sees


def test_doubt_is_on_stderr_in_the_picture_in_the_json_and_in_the_exit_code(tmp_path: Path, leptons: Leptons) -> None:
    outreach.write(tmp_path / "0.root", leptons._replace(muon_pt=leptons.muon_pt * np.float32(1000)))
    (tmp_path / "mine.toml").write_text(
        outreach.HEAD + '[[dataset]]\nname = "mu"\nprocess = "data"\nfile = [{ url = "0.root" }]\n'
    )
    answer = CliRunner().invoke(main, ["run", str(tmp_path / "mine.toml"), "--out", str(tmp_path / "out"), "-q"])
    assert answer.exit_code == 3
    lines = answer.stderr.splitlines()
    assert lines[0] == "higgsnb: doubtful units: mu: more than half of the values of muon pt are above 1000 GeV"
    assert (
        lines[1]
        == "    Momenta must be in GeV, lengths in cm, angles in radians, isolation relative: convert the file."
    )
    document = json.loads((tmp_path / "out" / "result.json").read_text())
    assert [doubt["kind"] for doubt in document["doubts"]] == ["units"]
    assert document["complete"]
    assert "DOUBTFUL: units" in (tmp_path / "out" / "mass_4l.svg").read_text()
