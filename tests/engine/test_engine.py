"""Running a campaign: the same bytes whatever the chunks and threads; a bad file is named and spoils nothing else."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

import numpy as np
import pytest
import uproot
from generators import pack, random_leptons
from outreach import campaign, dataset, events_of, write

from higgsnb import engine, errors, plots, results, selection
from higgsnb.datasets import Campaign
from higgsnb.engine import loop
from higgsnb.results import Result
from higgsnb.selection import Selection, pairings

OPEN = selection.load("open2012")


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Campaign:
    folder = tmp_path_factory.mktemp("engine")
    leptons = random_leptons(4000, seed=8)
    paths = [write(folder / f"{i}.root", events_of(leptons, 500 * i, 500 * i + 700), basket=211) for i in range(6)]
    return campaign(
        dataset("mu", "data", *paths[:3], primary_dataset="DoubleMu"),
        dataset("e", "data", *paths[3:5], primary_dataset="DoubleElectron"),
        dataset("mc", "zz", paths[5], cross_section_pb=1.0),
    )


def last(one: Campaign, chosen: Selection = OPEN, **options: object) -> Result:
    *_, result = engine.run(one, chosen, **options)  # type: ignore[arg-type]
    return result


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


@pytest.mark.parametrize("name", ["open2012", "aod2012", "df103"])
def test_chunk_size_and_number_of_workers_do_not_change_a_byte(one: Campaign, name: str, tmp_path: Path) -> None:
    written = []
    for workers, chunk_events in ((1, 10_000), (1, 97), (2, 350), (4, 33)):
        folder = tmp_path / f"{workers}-{chunk_events}"
        result = last(one, selection.load(name), workers=workers, chunk_events=chunk_events)
        assert result.complete
        results.write(result, folder, run={})
        plots.save(plots.mass_4l(result), folder)
        written.append(digests(folder))
    assert all(digest == written[0] for digest in written[1:])
    assert set(written[0]) == {"result.json", "histograms.json", "candidates.parquet", "mass_4l.png", "mass_4l.svg"}


def test_every_partial_result_is_a_part_of_the_last(one: Campaign, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "SECONDS_BETWEEN_RESULTS", 0.0)
    monkeypatch.setattr(loop, "SHARE_OF_TIME", 1e9)  # a result whenever something has landed
    partial = list(engine.run(one, OPEN, chunk_events=20, workers=2))
    assert len(partial) > 10
    events = [result.coverage.events[0] for result in partial]
    assert events == sorted(events)
    assert events[-1] == 6 * 700
    for result in partial[:-1:5]:
        assert all((counts <= partial[-1].tally.counts[d]).all() for d, counts in result.tally.counts.items())
        assert set(result.tally.ranges) <= set(partial[-1].tally.ranges)


def test_bad_files_are_reported_and_the_good_ones_counted(one: Campaign, tmp_path: Path) -> None:
    (tmp_path / "page.root").write_text("<html>404</html>")
    (tmp_path / "empty.root").write_bytes(b"")
    good = one.datasets[0].files[0].url
    broken = campaign(
        dataset("mu", "data", tmp_path / "page.root", Path(good), tmp_path / "absent.root"),
        dataset("mc", "zz", tmp_path / "empty.root", cross_section_pb=1.0),
    )
    result = last(broken)
    assert [(f.dataset, Path(f.file).name, f.error) for f in result.failed] == [
        ("mu", "page.root", "UnreadableError"),
        ("mu", "absent.root", "MissingFileError"),
        ("mc", "empty.root", "UnreadableError"),
    ]
    assert all(failure.message and failure.hint for failure in result.failed)
    assert not result.complete
    assert result.coverage.files == (1, 4)
    alone = last(campaign(dataset("mu", "data", Path(good))))
    assert result.yields["data"] == alone.yields["data"]


def test_strict_stops_at_the_bad_file(tmp_path: Path) -> None:
    (tmp_path / "page.root").write_text("<html>404</html>")
    with pytest.raises(errors.FileError, match="HTML or XML page"):
        last(campaign(dataset("mu", "data", tmp_path / "page.root")), on_error="strict")


def test_damage_in_the_middle_of_a_file_loses_only_what_is_damaged(one: Campaign, tmp_path: Path) -> None:
    import uproot

    content = bytearray(Path(one.datasets[0].files[0].url).read_bytes())
    with uproot.open(one.datasets[0].files[0].url) as file:
        basket = file["Events"]["Muon_pt"].member("fBasketSeek")[1]
    content[basket + 200 : basket + 260] = bytes(60)
    (tmp_path / "f.root").write_bytes(content)
    result = last(campaign(dataset("mu", "data", tmp_path / "f.root")), chunk_events=211)
    assert [failure.error for failure in result.failed] == ["UnreadableError"]
    assert not result.complete
    assert result.tally.ranges == {(0, 0): ((0, 211), (422, 700))}


def test_primary_dataset_that_the_selection_does_not_know_is_refused(one: Campaign) -> None:
    strange = dataclasses.replace(one, datasets=(dataclasses.replace(one.datasets[0], primary_dataset="SingleMu"),))
    with pytest.raises(ValueError, match="takes no channel from primary dataset 'SingleMu'"):
        last(strange, selection.load("aod2012"))
    assert last(strange).complete


def test_real_simulation_with_weights_of_both_signs_is_normalised_to_its_runs_tree(shared_data: Path) -> None:
    path = shared_data / "nanoaod" / "nano_dy.root"
    result = last(campaign(dataset("dy", "zx", path, cross_section_pb=1.0), schema="nanoaod"))
    with uproot.open(path) as file:
        weights, total = file["Events"]["genWeight"].array(), float(file["Runs"]["genEventSumw_"].array()[0])
    assert weights[0] == -weights[np.flatnonzero(weights * weights[0] < 0)[0]]
    assert result.complete
    assert result.weights["dy"]["4mu"] == pytest.approx(10.0 * 1000 / total)


def test_skims_give_the_same_bytes_and_serve_other_cuts(one: Campaign, tmp_path: Path) -> None:
    folder = tmp_path / "skims"
    for name, made in (("open2012", 12), ("open2012", 12), ("aod2012", 12)):
        chosen = selection.load(name)
        expected, found = last(one, chosen, chunk_events=350), last(one, chosen, chunk_events=350, skims_folder=folder)
        assert results.document(found) == results.document(expected)
        assert found.candidates.mass_4l.tobytes() == expected.candidates.mass_4l.tobytes()
        assert len(list(folder.rglob("*.arrow"))) == made


def test_skims_and_files_share_one_compiled_kernel(one: Campaign, tmp_path: Path) -> None:
    last(one, skims_folder=tmp_path)
    compiled = list(pairings.survey.signatures)
    last(one, skims_folder=tmp_path)
    assert list(pairings.survey.signatures) == compiled


def test_damaged_skim_is_made_anew(one: Campaign, tmp_path: Path) -> None:
    expected = last(one, skims_folder=tmp_path)
    skim = min(tmp_path.rglob("*.arrow"))
    content = bytearray(skim.read_bytes())
    content[len(content) // 2] ^= 1
    skim.write_bytes(content)
    assert results.document(last(one, skims_folder=tmp_path)) == results.document(expected)
    assert skim.read_bytes() != content


def test_standard_files_are_served_by_the_fast_reader(one: Campaign) -> None:
    assert {(r["readers"][0], r["integrity"][0]) for r in last(one).provenance["files"]} == {("baskets", "blocks")}


def test_empty_file_is_mentioned_and_counts_nothing(one: Campaign, tmp_path: Path) -> None:
    empty = write(tmp_path / "nothing.root", pack([]))
    result = last(campaign(dataset("mu", "data", empty, Path(one.datasets[0].files[0].url))))
    assert result.complete
    assert result.empty_files == ("nothing.root",)
    assert result.coverage.events == (700, 700)


def test_fraction_takes_the_first_part_of_each_file(one: Campaign) -> None:
    result = last(one, fraction=0.1, chunk_events=50)
    assert not result.complete
    assert result.coverage == ((0, 6), (6 * 70, 6 * 700), (pytest.approx(1.0), 10.0))
    assert all(ranges == ((0, 70),) for ranges in result.tally.ranges.values())


@pytest.mark.parametrize(
    ("option", "value"), [("workers", 0), ("on_error", "ignore"), ("fraction", 0.0), ("chunk_events", 0)]
)
def test_options_out_of_range_are_refused(one: Campaign, option: str, value: object) -> None:
    with pytest.raises(ValueError, match=option):
        last(one, **{option: value})
