"""Skims belong to one version of the code."""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uproot
from generators import random_leptons
from outreach import events_of, write

from higgsnb import events, provenance
from higgsnb.datasets import Chunk, File
from higgsnb.events import Columns, Read, read_preselected, skims
from higgsnb.selection import parse

CHUNK = Chunk(
    dataset="mu",
    dataset_index=0,
    file_index=0,
    file=File("/a.root"),
    schema="nanoaod",
    primary_dataset=None,
    is_data=True,
    start=0,
    stop=100,
    golden_json=None,
    sections=False,
)


@pytest.fixture(autouse=True)
def _forget_versions() -> Iterator[None]:
    skims._version_folder.cache_clear()
    yield
    skims._version_folder.cache_clear()


def test_skims_of_this_version_share_a_folder_without_a_word(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first = skims.skim_path(tmp_path, CHUNK, ["x"])
    first.parent.mkdir()
    skims._version_folder.cache_clear()
    other = skims.skim_path(tmp_path, CHUNK, ["y"])
    assert (other.parent, other.name == first.name) == (first.parent, False)
    assert not caplog.records


@pytest.mark.parametrize("left", ["code-0a0a", f"{'0a' * 32}.arrow"])
def test_skims_of_another_version_are_named_once_and_kept(
    left: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(provenance, "sources_sha256", lambda *_: "f" * 64)
    (tmp_path / left).mkdir()
    with caplog.at_level(logging.WARNING):
        paths = {skims.skim_path(tmp_path, CHUNK, ["x"]) for _ in range(3)}
    assert {path.parent.name for path in paths} == {"code-" + "f" * 24}
    assert (tmp_path / left).exists()
    (record,) = caplog.records
    assert "skims of another version are not used" in record.message


@pytest.fixture
def file_chunk(tmp_path: Path) -> Chunk:
    leptons = random_leptons(300, seed=5)
    path = write(tmp_path / "a.root", events_of(leptons, 0, 300))
    return replace(CHUNK, file=File(str(path)), schema="outreach", stop=300)


def test_skim_in_a_shared_cache_is_read_where_it_lies(
    file_chunk: Chunk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = events.read_preselected(file_chunk, skims_folder=tmp_path / "shared" / "skims")
    for folder in (tmp_path / "shared" / "skims").iterdir():
        folder.chmod(0o755)
    monkeypatch.setenv("HIGGSNB_SHARED_CACHE", str(tmp_path / "shared"))
    skims._version_folder.cache_clear()
    monkeypatch.setattr("higgsnb.events.read._read_preselected", lambda *_: pytest.fail("the file was read again"))
    again = events.read_preselected(file_chunk, skims_folder=tmp_path / "own" / "skims")
    assert len(first.entries) > 0
    assert again.entries.tolist() == first.entries.tolist()
    assert again.leptons.muon_pt.tobytes() == first.leptons.muon_pt.tobytes()
    assert not (tmp_path / "own").exists()


@pytest.mark.parametrize("place", ["/dev/null/skims", "/proc/nope/skims"])
def test_skims_that_cannot_be_kept_are_no_reason_to_stop(
    file_chunk: Chunk, tmp_path: Path, caplog: pytest.LogCaptureFixture, place: str
) -> None:
    expected = events.read_preselected(file_chunk, skims_folder=tmp_path / "skims")
    with caplog.at_level(logging.WARNING):
        found = [events.read_preselected(file_chunk, skims_folder=Path(place)) for _ in range(3)]
    assert {read.leptons.muon_pt.tobytes() for read in found} == {expected.leptons.muon_pt.tobytes()}
    (record,) = caplog.records
    assert f"skims cannot be kept in {place}" in record.message


@pytest.mark.parametrize("what", ["skim", "sha256", "folder"])
def test_skim_that_others_could_have_written_is_read_anew(
    what: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder, leptons = tmp_path / "skims", random_leptons(400, seed=2)
    chunk = dataclasses.replace(
        CHUNK, file=File(str(write(tmp_path / "a.root", leptons))), schema="outreach", stop=leptons.n_events
    )
    right = read_preselected(chunk, skims_folder=folder)
    (skim,) = folder.rglob("*.arrow")
    skims.save(right._replace(leptons=right.leptons._replace(muon_pt=right.leptons.muon_pt * 2)), skim)
    poisoned = read_preselected(chunk, skims_folder=folder)
    np.testing.assert_array_equal(poisoned.leptons.muon_pt, 2 * right.leptons.muon_pt)  # as it is believed still
    path = {"skim": skim, "sha256": Path(f"{skim}.sha256"), "folder": skim.parent}[what]
    path.chmod(path.stat().st_mode | 0o022)
    skims._version_folder.cache_clear()
    for _ in range(2):
        found = read_preselected(chunk, skims_folder=folder)
        np.testing.assert_array_equal(found.leptons.muon_pt, right.leptons.muon_pt)
    assert sum("can be written to by others" in record.getMessage() for record in caplog.records) == 1
    assert (skim.parent / f"user-{os.geteuid()}").exists() == (what == "folder")


def test_skim_has_other_columns_and_is_of_one_preselection(file_chunk: Chunk, tmp_path: Path) -> None:
    def read(names: tuple[str, ...], condition: str | None, **changes: Any) -> Read:
        columns = Columns(names, None if condition is None else parse(condition))
        return read_preselected(replace(file_chunk, **changes), columns=columns, skims_folder=tmp_path / "skims")

    asked = [
        (("nMuon", "Muon_dxy", "Tau_pt"), "nMuon >= 3"),
        (("nMuon", "Muon_dxy"), "nMuon >= 3"),
        (("nMuon", "Muon_dxy", "Tau_pt"), "nMuon >= 4"),
        (("nMuon", "Muon_dxy", "Tau_pt"), None),
        ((), None),
    ]
    first = [read(*one) for one in asked]
    assert len(list((tmp_path / "skims").rglob("*.arrow"))) == len(asked)
    assert len({len(one.entries) for one in first}) == 3
    for again, once in zip([read(*one) for one in asked], first, strict=True):
        assert again.leptons.muon_pt.tobytes() == once.leptons.muon_pt.tobytes()
        assert (again.missing, again.entries.tolist()) == (once.missing, once.entries.tolist())
        assert again.columns is not None
        assert once.columns is not None
        for field in ("flat", "jagged", "offsets"):
            kept, made = getattr(again.columns, field), getattr(once.columns, field)
            assert {name: v.tolist() for name, v in kept.items()} == {name: v.tolist() for name, v in made.items()}
            assert {name: v.dtype for name, v in kept.items()} == {name: v.dtype for name, v in made.items()}
        assert again.columns.entries.tolist() == once.columns.entries.tolist()
        assert again.columns[5:] == once.columns[5:]


def test_skim_of_a_friend_is_of_its_content(file_chunk: Chunk, tmp_path: Path) -> None:
    def friend(value: float) -> Chunk:
        with uproot.recreate(tmp_path / "friend.root") as file:
            file.mktree("Events", {"x": np.float32}).extend({"x": np.full(300, value, np.float32)})
        return replace(file_chunk, file=replace(file_chunk.file, friends=(str(tmp_path / "friend.root"),)))

    for value in (1.0, 2.0):
        found = read_preselected(friend(value), columns=Columns(("x",)), skims_folder=tmp_path / "skims")
        assert found.columns is not None
        assert set(found.columns.flat["x"].tolist()) == {value}
