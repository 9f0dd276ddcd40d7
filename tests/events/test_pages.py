"""The fast reader of RNTuples finds what plain uproot finds, and never anything else."""

from __future__ import annotations

from pathlib import Path

import awkward as ak
import numpy as np
import pytest
import uproot
from basket_files import CODECS, COLUMNS, Events, flat_fields, plainly, same, write_ntuple
from flipped_bits import DATA, READABLE, outcomes, read
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from higgsnb.errors import DamagedFileError
from higgsnb.events import Columns
from higgsnb.events.fast.blocks import RemoteBlocks
from higgsnb.events.fast.form import FieldCatalogue, resolve
from higgsnb.events.fast.pages import PageReader
from higgsnb.events.fast.preselected import catalogue_of
from higgsnb.events.leptons import FOUR_LEPTONS


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    layout=st.lists(st.integers(1, 60), min_size=1, max_size=4),
    most=st.integers(0, 6),
    codec=st.sampled_from(sorted(CODECS)),
    bounds=st.tuples(st.integers(0, 240), st.integers(0, 240)),
)
def test_fast_reader_equals_uproot(
    tmp_path: Path, layout: list[int], most: int, codec: str, bounds: tuple[int, int]
) -> None:
    n = sum(layout)
    path = write_ntuple(tmp_path / "events.root", Events.random(n, seed=n, most=most), codec=codec, clusters=layout)
    start, stop = sorted(min(bound, n) for bound in bounds)
    found = read(path, start, stop)
    assert same(found, plainly(path, start, stop)) or start == stop
    assert found.n_read == stop - start


def test_many_pages_equal_uproot(tmp_path: Path) -> None:
    path = write_ntuple(tmp_path / "events.root", Events.random(300_000), clusters=[120_000, 180_000])
    assert same(read(path, 100_001, 299_000), plainly(path, 100_001, 299_000))


def test_converted_nanoaod_equals_uproot(shared_data: Path) -> None:
    (path,) = (shared_data / "rntuple").glob("*.root")
    columns = Columns(("run", "event", "Muon_pt", "Muon_isGlobal", "Electron_pt", "Electron_charge"), FOUR_LEPTONS)
    found = read(path, columns=columns)
    assert same(found, plainly(path, columns=columns))
    assert found.notes.verified


def test_fields_of_different_length_are_damage(tmp_path: Path) -> None:
    fields = flat_fields(Events.random(50).part(0, 50))
    fields["Muon_charge"] = ak.Array([[1] * ((len(pt) + 1) % 6) for pt in fields["Muon_pt"]])
    with uproot.recreate(tmp_path / "events.root") as file:
        file.mkrntuple("Events", fields)
    with pytest.raises(DamagedFileError, match="fields Muon_pt and Muon_charge differ in length"):
        read(tmp_path / "events.root")


@pytest.mark.one_python
@pytest.mark.parametrize("codec", sorted(CODECS))
@pytest.mark.parametrize("n_flips", [60, pytest.param(2000, marks=pytest.mark.slow)])
def test_no_flipped_bit_goes_unnoticed(tmp_path: Path, codec: str, n_flips: int) -> None:
    path = write_ntuple(tmp_path / "events.root", Events.random(900), codec=codec, clusters=[300, 600])
    found = outcomes(path, n_flips)
    assert found["silent"] == 0, found


@settings(max_examples=30, deadline=None)
@given(bounds=st.tuples(st.integers(0, 600), st.integers(0, 600)))
def test_tree_converted_by_root_equals_the_tree(bounds: tuple[int, int]) -> None:
    start, stop = sorted(bounds)
    assert same(read(DATA / "converted.root", start, stop), plainly(READABLE, start, stop))


@pytest.mark.one_python
@pytest.mark.parametrize("n_flips", [100, pytest.param(2000, marks=pytest.mark.slow)])
def test_no_flipped_bit_in_checksummed_pages_goes_unnoticed(tmp_path: Path, n_flips: int) -> None:
    path = tmp_path / "events.root"
    path.write_bytes((DATA / "converted.root").read_bytes())
    found = outcomes(path, n_flips)
    assert found["silent"] == found["marked"] == 0, found
    assert found["caught"] > n_flips / 4, found


def test_pages_of_root_are_verified_whatever_the_codec(shared_data: Path, tmp_path: Path) -> None:
    (path,) = (shared_data / "rntuple").glob("*.root")
    found = read(path, columns=Columns(("run", "Muon_pt", "Electron_pt"), FOUR_LEPTONS))
    assert found.notes.codecs == {"ZSTD", "none"}
    assert found.notes.verified
    assert not read(write_ntuple(tmp_path / "unverified.root", Events.random(300), codec="ZSTD")).notes.verified


def test_remote_file_equals_local_in_few_requests(tmp_path: Path) -> None:
    path = write_ntuple(tmp_path / "events.root", Events.random(600), clusters=[300, 300])
    data = path.read_bytes()
    asked: list[int] = []

    def pread(offset: int, size: int) -> bytes:
        asked.append(size)
        return data[offset : offset + size]

    with uproot.open(path) as file:
        catalogue = catalogue_of(file["Events"], "memory", "Events")
    assert isinstance(catalogue, FieldCatalogue)
    (form,) = resolve(COLUMNS, [catalogue], "memory", "Events")
    with PageReader(catalogue, RemoteBlocks("memory", pread), COLUMNS, form) as reader:
        found = reader.read()
    assert same(found, plainly(path))
    assert len(asked) <= 4


def test_empty_ntuple_is_legal(tmp_path: Path) -> None:
    path = write_ntuple(tmp_path / "events.root", Events(np.zeros(1, np.int64), np.zeros(1, np.int64)))
    found = read(path)
    assert (found.n_read, len(found.entries), len(found.jagged["Muon_pt"])) == (1, 0, 0)
