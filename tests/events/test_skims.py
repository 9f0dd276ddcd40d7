"""Skims belong to one version of the code."""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from generators import random_leptons
from outreach import write

from higgsnb import provenance
from higgsnb.datasets import Chunk, File
from higgsnb.events import read_preselected, skims

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
