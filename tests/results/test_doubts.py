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

from higgsnb import datasets, engine, errors, events, plots, selection
from higgsnb.__main__ import main
from higgsnb.datasets import Campaign
from higgsnb.datasets.chunks import plan_chunks
from higgsnb.results import Result, analyse, directory, plausibility
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

MIXED = {
    "signs in a chunk": (np.where(np.arange(N // 2) % 3, 1, -1), 1),
    "one of many": (1, np.where(np.arange(N // 2) == 299, 1.5, 1)),
    "signs in parts of a file": (np.where(np.arange(N // 2) < 250, 1, -1), 1),
    "files": (1, 3),
    "all zero": (0, 0),
}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("weights", MIXED.values(), ids=MIXED)
def test_sample_with_different_weights_is_left_out_whatever_the_chunks(
    tmp_path: Path, leptons: Leptons, weights: tuple[npt.ArrayLike, ...], size: int
) -> None:
    made = simulation(tmp_path, leptons, *weights)
    result = result_of(made, chunk_events=size)
    assert not result.complete
    assert [failure.file for failure in result.failed] == [file.url for file in made.files]
    assert {failure.message.partition(";")[2] for failure in result.failed} == {
        " weighted simulation is not supported yet"
    }
    assert (result.missing_simulation, result.candidates.run.size, result.coverage.events[0]) == (("mc",), 0, 0)
    with pytest.raises(errors.FileError, match="dataset mc: genWeight"):
        result_of(made, chunk_events=size, on_error="strict")


def test_equal_weights_of_any_size_are_a_sample_like_any_other(tmp_path: Path, leptons: Leptons) -> None:
    plain, weighted = (result_of(simulation(tmp_path, leptons, w, w), chunk_events=211) for w in (1, -26_300.5))
    assert weighted.complete
    assert weighted.yields == plain.yields
    assert plain.weights["mc"]["4mu"] == pytest.approx(10.0 * 0.1 * 1000 / N)


def test_parts_of_a_weighted_sample_are_refused_when_they_are_added(tmp_path: Path, leptons: Leptons) -> None:
    made, cuts = simulation(tmp_path, leptons, 1, 3), selection.load("open2012")
    chunks = plan_chunks(made, dict.fromkeys((file.url for file in made.files), N // 2), 211, 1.0)
    parts = [Result(made, cuts, analyse(chunk, cuts)) for chunk in chunks]
    assert not any(part.failed for part in parts)
    for order in (parts, parts[::-1], parts[1:] + parts[:1]):
        total = sum(order[1:], start=order[0])
        assert [failure.file for failure in total.failed] == [file.url for file in made.files]
        assert (total.candidates.run.size, total.coverage.events[0]) == (0, 0)


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


SUMS = {
    "signs of which one is left": ({"genEventCount": [1500], "genEventSumw": [900.0], "genEventSumw2": [1500.0]}, 900),
    "count and sum differ": ({"genEventCount": [300], "genEventSumw": [1500.0]}, 1500),
}


@pytest.mark.parametrize("schema", ["nanoaod", "outreach"])
@pytest.mark.parametrize(("runs", "stands_for"), SUMS.values(), ids=SUMS)
def test_sum_of_the_weights_counts_where_it_differs_from_the_number(
    tmp_path: Path, leptons: Leptons, runs: dict[str, npt.ArrayLike], stands_for: int, schema: str
) -> None:
    result = result_of(replace(simulation(tmp_path, leptons, 1, 1, runs=runs), schema=schema), chunk_events=211)
    assert result.skimmed == {"mc": (N, 2 * stands_for)}
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


@pytest.mark.parametrize("schema", ["nanoaod", "outreach"])
def test_mixed_weights_are_refused_in_either_schema(tmp_path: Path, leptons: Leptons, schema: str) -> None:
    signs = np.where(np.arange(N // 2) % 3, 1, -1)
    result = result_of(replace(simulation(tmp_path, leptons, signs, signs), schema=schema))
    assert {failure.message for failure in result.failed} == {
        "dataset mc: genWeight goes from -1 to 1; weighted simulation is not supported yet"
    }


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
}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("quantity", "factor", "what"), UNITS.values(), ids=UNITS)
def test_other_units_are_said(
    tmp_path: Path, leptons: Leptons, quantity: str, factor: float, what: str, size: int
) -> None:
    names = [f"{flavour}_{quantity}" for flavour in ("muon", "electron")]
    columns = {name: getattr(leptons, name) * np.float32(factor) for name in names}
    path = outreach.write(tmp_path / "0.root", leptons._replace(**columns))
    result = result_of(campaign(dataset("mu", "data", path, primary_dataset="DoubleMu")), chunk_events=size)
    found = [doubt.message for doubt in result.doubts if doubt.kind == "units"]
    assert any(what in message for message in found)
    assert "DOUBTFUL: units" in plots.coverage_text(result)


@pytest.mark.parametrize("name", ["nano_dimuon", "nano_dy", "nanoAOD_2015_CMS_Open_Data_ttbar"])
def test_units_of_real_files_are_plausible(shared_data: Path, name: str) -> None:
    made = campaign(dataset("mu", "data", shared_data / "nanoaod" / f"{name}.root"), schema="nanoaod")
    (chunk,) = plan_chunks(made, {made.files[0].url: 200 if "ttbar" in name else 40}, 1000)
    counts = plausibility.count(events.read_leptons(chunk))
    assert counts[..., 0].max() >= 25
    assert plausibility.implausible(counts * 2) == []  # as many values again, to be enough of them


def test_toy_is_free_of_doubt() -> None:
    result = result_of(datasets.load("toy"))
    assert (result.doubts, result.complete) == ((), True)
    assert all(counts[0, 0, 0] for counts in result.tally.plausibility.values())


# --- Golden JSON, and what a person sees


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


def test_doubt_is_on_stderr_in_the_picture_in_the_json_and_in_the_exit_code(tmp_path: Path, leptons: Leptons) -> None:
    outreach.write(tmp_path / "0.root", leptons._replace(muon_pt=leptons.muon_pt * np.float32(1000)))
    (tmp_path / "mine.toml").write_text(
        outreach.HEAD + '[[dataset]]\nname = "mu"\nprocess = "data"\nfile = [{ url = "0.root" }]\n'
    )
    answer = CliRunner().invoke(main, ["run", str(tmp_path / "mine.toml"), "--out", str(tmp_path / "out"), "-q"])
    assert answer.exit_code == 3
    lines = answer.stderr.splitlines()
    assert lines[0].startswith("higgsnb: doubtful units: mu: half of the ")
    assert lines[1] == "    Momenta must be in GeV, lengths in cm, angles in radians: convert the file."
    document = json.loads((tmp_path / "out" / "result.json").read_text())
    assert [doubt["kind"] for doubt in document["doubts"]] == ["units"]
    assert document["complete"]
    assert "DOUBTFUL: units" in (tmp_path / "out" / "mass_4l.svg").read_text()
