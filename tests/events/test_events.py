"""Reading: real NanoAOD and RNTuple files, made outreach files, and everything that can be wrong with a file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import awkward as ak
import numpy as np
import pytest
import uproot
from generators import pack, random_leptons
from http_server import FileServer
from outreach import branches, write

from higgsnb.datasets import Chunk, File
from higgsnb.datasets.files import transfer
from higgsnb.errors import SchemaError, UnreadableError
from higgsnb.events import csv, inspect, read_leptons
from higgsnb.events import schema as schema_
from higgsnb.events.fast import preselected
from higgsnb.selection import Leptons

NANOAOD = {
    "nano_dimuon.root": 40,
    "nano_dy.root": 40,
    "nano_tree.root": 10,
    "nanoAOD_2015_CMS_Open_Data_ttbar.root": 200,
}
RNTUPLE = "cmsopendata2015_ttbar_19980_NANOAOD_RNTupleImporter_rntuple_v1-0-0-1.root"


def chunk(path: Path, start: int, stop: int, schema: str = "outreach") -> Chunk:
    return Chunk("d", 0, 0, File(url=str(path)), schema, None, True, start, stop, None)


def same(a: Leptons, b: Leptons) -> bool:
    pairs = zip(a, b, strict=True)
    return all(
        (x is None and y is None) or (x.dtype == y.dtype and np.array_equal(x, y, equal_nan=True)) for x, y in pairs
    )


@pytest.fixture(scope="module")
def leptons() -> Leptons:
    return random_leptons(500, seed=11)


@pytest.fixture(scope="module")
def outreach_file(leptons: Leptons, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("outreach") / "f.root", leptons, basket=137)


@pytest.mark.parametrize(("name", "entries"), NANOAOD.items())
def test_real_nanoaod_files_have_the_right_number_of_events(shared_data: Path, name: str, entries: int) -> None:
    path = shared_data / "nanoaod" / name
    info = inspect(File(url=str(path)), "nanoaod")
    assert (info.entries, info.kind, info.bytes) == (entries, "TTree", path.stat().st_size)
    read = read_leptons(chunk(path, 0, entries, "nanoaod"))
    assert read.n_events == entries
    with uproot.open(path) as file:
        tree = file["Events"]
        assert read.event.tolist() == tree["event"].array().tolist()
        assert read.muon_pt.tolist() == ak.flatten(tree["Muon_pt"].array()).tolist()
        assert np.diff(read.electron_offsets).tolist() == ak.num(tree["Electron_charge"].array()).tolist()


def test_real_rntuple_file_is_read(shared_data: Path) -> None:
    path = shared_data / "rntuple" / RNTUPLE
    info = inspect(File(url=str(path)), "nanoaod")
    assert (info.entries, info.kind) == (10, "RNTuple")
    read = read_leptons(chunk(path, 2, 9, "nanoaod"))
    with uproot.open(path) as file:
        assert read.muon_pt.tolist() == ak.flatten(file["Events"]["Muon_pt"].array()[2:9]).tolist()
        assert read.event.tolist() == file["Events"]["event"].array()[2:9].tolist()


def test_rntuple_holds_the_same_leptons_as_a_ttree(leptons: Leptons, tmp_path: Path) -> None:
    columns = branches(leptons)
    columns |= {f"n{f}": ak.num(columns[f"{f}_pt"]) for f in ("Muon", "Electron")}
    with uproot.recreate(tmp_path / "f.root") as file:
        file.mkrntuple("Events", columns)
    assert inspect(File(url=str(tmp_path / "f.root")), "outreach").kind == "RNTuple"
    assert same(read_leptons(chunk(tmp_path / "f.root", 0, 500)), leptons)


def test_file_reads_back_what_was_written(leptons: Leptons, outreach_file: Path) -> None:
    assert same(read_leptons(chunk(outreach_file, 0, 500)), leptons)


@pytest.mark.parametrize(("start", "stop"), [(0, 1), (100, 300), (136, 138), (499, 500), (250, 250)])
def test_any_range_of_entries_is_that_part_of_the_whole(
    leptons: Leptons, outreach_file: Path, start: int, stop: int
) -> None:
    part = read_leptons(chunk(outreach_file, start, stop))
    assert part.n_events == stop - start
    first, last = leptons.muon_offsets[start], leptons.muon_offsets[stop]
    np.testing.assert_array_equal(part.muon_pt, leptons.muon_pt[first:last])
    np.testing.assert_array_equal(part.event, leptons.event[start:stop])


def test_empty_tree_is_legal(tmp_path: Path) -> None:
    path = write(tmp_path / "empty.root", pack([]))
    assert inspect(File(url=str(path)), "outreach").entries == 0
    assert read_leptons(chunk(path, 0, 0)).n_events == 0


def test_file_without_luminosity_block_names_it(shared_data: Path) -> None:
    with pytest.raises(SchemaError, match=r"missing_luminosityBlock.root: tree 'Events' lacks luminosityBlock"):
        inspect(File(url=str(shared_data / "nanoaod" / "missing_luminosityBlock.root")), "nanoaod")


def inspected(path: Path) -> None:
    inspect(File(url=str(path)), "outreach")


def read_without_inspection(path: Path) -> None:
    read_leptons(chunk(path, 0, 3))


@pytest.mark.parametrize("use", [inspected, read_without_inspection])
def test_missing_branch_error_names_nearest(leptons: Leptons, tmp_path: Path, use: Callable[[Path], None]) -> None:
    path = write(tmp_path / "f.root", leptons, leave_out=("Muon_pfRelIso04_all", "Electron_dzErr"))
    with pytest.raises(
        SchemaError,
        match=r"lacks Muon_pfRelIso04_all, Electron_dzErr\n.*For Electron_dzErr: Did you mean Electron_dxyErr\?",
    ):
        use(path)


@pytest.mark.parametrize("use", [inspected, read_without_inspection])
def test_branch_of_wrong_type_is_named(tmp_path: Path, use: Callable[[Path], None]) -> None:
    with uproot.recreate(tmp_path / "f.root") as file:
        columns = {branch: np.zeros(3, np.int32) for branch in schema_.BRANCHES.values()}
        file.mktree("Events", {name: column.dtype for name, column in columns.items()}).extend(columns)
    with pytest.raises(SchemaError, match=r"branch Muon_pt has type int32_t; expected float per lepton"):
        use(tmp_path / "f.root")


def test_fallback_asks_a_server_for_few_large_parts(
    http_server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HIGGSNB_STREAM_ABOVE", "1000")
    leptons = random_leptons(2000, seed=5)
    content = write(tmp_path / "f.root", leptons, basket=500, compression=uproot.ZLIB(0)).read_bytes()
    assert len(content) > 2 * transfer.READ_AHEAD
    url = http_server.add("/f.root", content)
    read = read_leptons(replace(chunk(tmp_path / "f.root", 0, 2000), file=File(url)))
    assert read.event.tolist() == leptons.event.tolist()
    assert len(http_server.seen) < 4 + 2 * len(content) / transfer.READ_AHEAD


def test_file_without_the_tree_says_what_it_holds(tmp_path: Path) -> None:
    with uproot.recreate(tmp_path / "f.root") as file:
        file.mktree("Collisions", {"run": np.int32}).extend({"run": np.zeros(2, np.int32)})
    with pytest.raises(SchemaError, match=r"no tree 'Events'; it holds Collisions"):
        inspect(File(url=str(tmp_path / "f.root")), "outreach")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"is empty \(0 bytes\)"),
        (b"<!DOCTYPE html><html><body>Not found</body></html>", r"is an HTML or XML page, not a ROOT file"),
        (b"Run,Event\n1,2\n" * 10, r"is not a ROOT file \(begins with b'Run,Even'\)"),
    ],
)
def test_what_is_no_root_file_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "f.root"
    path.write_bytes(content)
    with pytest.raises(UnreadableError, match=message):
        inspect(File(url=str(path)), "outreach")


def test_truncated_file_gives_both_sizes(outreach_file: Path, tmp_path: Path) -> None:
    whole = outreach_file.read_bytes()
    path = tmp_path / "f.root"
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(
        UnreadableError, match=rf"is truncated: {len(whole) // 2:,} bytes, its header says {len(whole):,}"
    ):
        inspect(File(url=str(path)), "outreach")


def test_damaged_block_is_an_error_and_not_other_numbers(outreach_file: Path, tmp_path: Path) -> None:
    content = bytearray(outreach_file.read_bytes())
    with uproot.open(outreach_file) as file:
        basket = file["Events"]["Muon_pt"].member("fBasketSeek")[1]
    content[basket + 200 : basket + 260] = bytes(60)
    (tmp_path / "f.root").write_bytes(content)
    with pytest.raises(UnreadableError, match=r"f.root: cannot be read .*\nThe file is damaged"):
        read_leptons(chunk(tmp_path / "f.root", 0, 500))


def test_wrong_number_of_events_gives_both_numbers(outreach_file: Path) -> None:
    with pytest.raises(ValueError, match=r"holds 500 events, the campaign says 501"):
        inspect(File(url=str(outreach_file), events=501), "outreach")


def test_file_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere\.root"):
        inspect(File(url=str(tmp_path / "nowhere.root")), "outreach")


def test_csv_without_a_column_names_the_nearest(tmp_path: Path) -> None:
    names = [name.replace("eta2", "etaa2") for name in csv.CSV_COLUMNS]
    (tmp_path / "f.csv").write_text(",".join(names) + "\n")
    with pytest.raises(SchemaError, match=r"lacks the columns eta2\nFor eta2: Did you mean etaa2\?"):
        inspect(File(url=str(tmp_path / "f.csv")), "csv")


def test_csv_line_that_is_no_numbers_is_named(tmp_path: Path) -> None:
    (tmp_path / "f.csv").write_text(",".join(csv.CSV_COLUMNS) + "\n1,2,x\n")
    with pytest.raises(UnreadableError, match=r"f.csv, line 2: not a row of numbers"):
        inspect(File(url=str(tmp_path / "f.csv")), "csv")


def test_negative_event_numbers_of_csv_are_wrapped_to_32_bits(shared_data: Path) -> None:
    path = shared_data / "record5200" / "4mu_2011.csv"
    read = read_leptons(chunk(path, 0, inspect(File(url=str(path)), "csv").entries, "csv"))
    stored = np.loadtxt(path, delimiter=",", skiprows=1, usecols=1)
    assert (stored < 0).any()
    assert read.event.tolist() == [int(number) % 2**32 for number in stored]


def test_what_a_file_says_of_classes_stays_with_it(outreach_file: Path) -> None:
    shared = uproot.classes["TBranch"]
    before = dict(shared.known_versions)
    for _ in range(2):
        with uproot.open(outreach_file, custom_classes=preselected.own_classes()) as file:
            own = file.file.class_named("TBranch")
            assert own.class_of_version(13) is shared.class_of_version(13)
            own.known_versions[13] = own.known_versions[99] = None
            assert shared.known_versions == before
