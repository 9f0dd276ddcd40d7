"""The fast reader of TTrees finds what plain uproot finds, and never anything else."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import uproot
from basket_files import CODECS, COLUMNS, Events, plainly, same, write_tree
from flipped_bits import DATA, READABLE, outcomes, read
from http_server import FileServer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from higgsnb.datasets.files.transfer import RemoteFile
from higgsnb.errors import DamagedFileError, SchemaError
from higgsnb.events import Columns
from higgsnb.events.fast import baskets
from higgsnb.events.fast.baskets import BasketReader
from higgsnb.events.fast.blocks import RemoteBlocks, UnexpectedFormError
from higgsnb.events.fast.branches import BranchBaskets
from higgsnb.events.fast.form import TreeCatalogue, resolve
from higgsnb.events.fast.preselected import open_preselected

KIT = Path(__file__).resolve().parents[1] / "kit"

ROOT_FILES = ("embedded.root", "generated-offsets.root", "unaligned.root")
"""The same 600 events as ROOT writes them in different ways; uproot cannot read the second."""


# --- The same as uproot


layouts = st.lists(st.integers(0, 40), min_size=1, max_size=6)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    layout=layouts,
    most=st.integers(0, 6),
    codec=st.sampled_from(sorted(CODECS)),
    window=st.integers(1, 100),
    checked=st.booleans(),
    bounds=st.tuples(st.integers(0, 240), st.integers(0, 240)),
)
def test_fast_reader_equals_uproot(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    layout: list[int],
    most: int,
    codec: str,
    window: int,
    checked: bool,
    bounds: tuple[int, int],
) -> None:
    monkeypatch.setattr(baskets, "WINDOW", window)
    monkeypatch.setattr(baskets, "WIDEST_WINDOW", 2 * window)
    n = sum(layout)
    path = write_tree(tmp_path / "events.root", Events.random(n, seed=n, most=most), codec=codec, baskets=layout)
    start, stop = sorted(min(bound, n) for bound in bounds)
    found = read(path, start, stop, checked=checked)
    assert same(found, plainly(path, start, stop))
    assert found.n_read == stop - start


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    window=st.integers(1, 700),
    bounds=st.tuples(st.integers(0, 600), st.integers(0, 600)),
    name=st.sampled_from(ROOT_FILES),
)
def test_unaligned_baskets_of_root_equal_uproot(
    monkeypatch: pytest.MonkeyPatch, window: int, bounds: tuple[int, int], name: str
) -> None:
    monkeypatch.setattr(baskets, "WINDOW", window)
    monkeypatch.setattr(baskets, "WIDEST_WINDOW", window)
    start, stop = sorted(bounds)
    assert same(read(DATA / name, start, stop), plainly(READABLE, start, stop))


def test_root_files_cover_offsets_left_out_and_baskets_in_the_header() -> None:
    def shape(name: str) -> tuple[bool, bool]:
        with uproot.open(DATA / name) as file:
            branch = file["Events"]["Muon_pt"]
            edges = {tuple(file["Events"][b].entry_offsets) for b in ("nMuon", "nElectron", *COLUMNS.names)}
            return len(edges) > 1 and branch.basket(0).byte_offsets is None, bool(branch.embedded_baskets)

    assert shape("unaligned.root") == (False, False)
    assert shape("generated-offsets.root") == (True, False)
    assert shape("embedded.root") == (False, True)


def test_each_basket_is_decoded_once_whatever_the_window(monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: Counter[tuple[str, int]] = Counter()
    original = baskets._Work._stored

    def count(work: baskets._Work, branch: BranchBaskets, index: int, size: int) -> object:
        decoded[branch.name, index] += 1
        return original(work, branch, index, size)

    monkeypatch.setattr(baskets._Work, "_stored", count)
    monkeypatch.setattr(baskets, "WINDOW", 17)
    monkeypatch.setattr(baskets, "WIDEST_WINDOW", 17)
    with open_preselected(DATA / "unaligned.root", COLUMNS) as reader:
        for _ in reader.windows():
            pass
    assert set(decoded.values()) == {1}
    assert {name for name, _ in decoded} == {"nMuon", "nElectron", *COLUMNS.names}


@pytest.mark.parametrize("codec", sorted(CODECS))
def test_long_baskets_are_inflated_only_as_far_as_needed(tmp_path: Path, codec: str) -> None:
    path = write_tree(tmp_path / "events.root", Events.random(60_000), codec=codec)
    assert same(read(path, checked=False), plainly(path))


def test_a_basket_of_several_blocks_equals_uproot(tmp_path: Path) -> None:
    path = write_tree(tmp_path / "events.root", Events.random(2_400_000, most=3), codec="LZ4")
    with uproot.open(path) as file:
        assert len(file["Events"]["event"].basket(0).block_compression_info) == 2
    assert same(read(path, 1_000_000, 2_400_000), plainly(path, 1_000_000, 2_400_000))


@pytest.mark.parametrize("n", [0, 1])
def test_tree_of_no_event_or_one_is_legal(tmp_path: Path, n: int) -> None:
    events = Events(np.full(n, 4), np.zeros(n, np.int64))
    found = read(write_tree(tmp_path / "events.root", events))
    assert (found.n_read, len(found.entries), len(found.jagged["Muon_pt"])) == (n, n, 4 * n)
    assert found.flat["run"].dtype == np.int32


def test_windows_join_to_the_whole(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = write_tree(tmp_path / "events.root", Events.random(100), baskets=[30, 30, 40])
    monkeypatch.setattr(baskets, "WINDOW", 30)
    with open_preselected(path, COLUMNS) as reader:
        parts = list(reader.windows())
        whole = reader.read()
    assert [part.n_read for part in parts] == [30, 30, 40], "windows end where baskets end"
    assert np.array_equal(np.concatenate([part.entries for part in parts]), whole.entries)
    assert same(whole, plainly(path))


def test_threads_can_share_a_reader(tmp_path: Path) -> None:
    path = write_tree(tmp_path / "events.root", Events.random(3000), codec="ZSTD", baskets=[300] * 10)
    bounds = [(start, start + 250) for start in range(0, 3000, 250)]
    with open_preselected(path, COLUMNS) as reader, ThreadPoolExecutor(4) as pool:
        for (start, stop), found in zip(bounds, pool.map(lambda b: reader.read(*b), bounds), strict=True):
            assert same(found, plainly(path, start, stop))


# --- What is not the plain form


def test_several_numbers_per_leaf_are_no_column(tmp_path: Path) -> None:
    with uproot.recreate(tmp_path / "events.root") as file:
        tree = file.mktree("Events", {"pair": np.dtype((np.float32, (2,)))})
        tree.extend({"pair": np.ones((3, 2), np.float32)})
    with pytest.raises(SchemaError, match="pair is a TBranch of 2 values per entry; a column has one number per event"):
        open_preselected(tmp_path / "events.root", Columns(("pair",)))


def test_packed_numbers_are_refused_for_uproot_to_read() -> None:
    with pytest.raises(UnexpectedFormError, match="branch Muon_pt has a TLeafD32 of 1 elements, not one number"):
        open_preselected(DATA / "form-double32.root", Columns(("Muon_pt",)))


def test_missing_branch_is_named(tmp_path: Path) -> None:
    path = write_tree(tmp_path / "events.root", Events.random(5))
    with pytest.raises(SchemaError, match=r"lacks Muon_carge\n.*Did you mean Muon_charge\?"):
        open_preselected(path, Columns(("Muon_carge",)))


def test_something_else_than_a_tree_is_refused(tmp_path: Path) -> None:
    with uproot.recreate(tmp_path / "events.root") as file:
        file["Events"] = np.histogram([1.0], 2)
    with pytest.raises(SchemaError, match="TH1D, neither a TTree nor an RNTuple"):
        open_preselected(tmp_path / "events.root", COLUMNS)


# --- Integrity


@pytest.mark.parametrize(
    ("codec", "verified"), [("ZLIB", True), ("LZ4", True), ("LZMA", True), ("ZSTD", False), ("none", False)]
)
def test_notes_say_what_was_verified(tmp_path: Path, codec: str, verified: bool) -> None:
    events = Events.random(60_000)
    notes = read(write_tree(tmp_path / "events.root", events, codec=codec)).notes
    assert codec in notes.codecs
    assert notes.verified == (verified and notes.codecs == {codec})


@pytest.mark.parametrize(("codec", "verified"), [("ZLIB", False), ("LZ4", True), ("LZMA", False)])
def test_unchecked_reading_says_so(tmp_path: Path, codec: str, verified: bool) -> None:
    path = write_tree(tmp_path / "events.root", Events.random(60_000), codec=codec)
    assert read(path, checked=False).notes.verified == verified


@pytest.mark.one_python
@pytest.mark.parametrize("codec", ["ZLIB", "LZ4", "LZMA", "ZSTD", "none"])
@pytest.mark.parametrize("n_flips", [100, pytest.param(2000, marks=pytest.mark.slow)])
def test_no_flipped_bit_goes_unnoticed(tmp_path: Path, codec: str, n_flips: int) -> None:
    path = write_tree(tmp_path / "events.root", Events.random(900), codec=codec, baskets=[300, 600])
    found = outcomes(path, n_flips)
    assert found["silent"] == 0, found
    if codec in ("ZLIB", "LZ4", "LZMA"):
        assert found["marked"] == 0, found
        assert found["caught"] > n_flips / 4, found


@pytest.mark.parametrize("codec", ["ZLIB", "LZ4", "ZSTD", "LZMA", "none"])
def test_truncated_file_never_gives_events(tmp_path: Path, codec: str) -> None:
    path = write_tree(tmp_path / "events.root", Events.random(300), codec=codec, baskets=[100, 200])
    data = path.read_bytes()
    bad = tmp_path / "bad.root"
    with uproot.open(path) as file:
        seek, size = (file["Events"]["event"].member(f"fBasket{name}")[1] for name in ("Seek", "Bytes"))
    with open_preselected(path, COLUMNS) as reader:
        for end in (seek, seek + 20, seek + size - 1):
            bad.write_bytes(data[:end])
            reader._source.close()
            reader._source = baskets_source(bad)
            with pytest.raises(DamagedFileError, match=r"ends \d+ bytes too early, reading \d+ at \d+\n"):
                reader.read()


def reader_of(tree: object, source: object) -> BasketReader:
    catalogue = TreeCatalogue(tree, "memory")
    (form,) = resolve(COLUMNS, [catalogue], "memory", "Events")
    return BasketReader(catalogue, source, COLUMNS, form)


def baskets_source(path: Path) -> object:
    from higgsnb.events.fast.blocks import LocalBlocks

    return LocalBlocks(path)


def test_damage_names_file_basket_and_remedy(tmp_path: Path) -> None:
    path = write_tree(tmp_path / "events.root", Events.random(900), baskets=[300, 600])
    with uproot.open(path) as file:
        seek = int(file["Events"]["Muon_pt"].member("fBasketSeek")[1])
    data = bytearray(path.read_bytes())
    data[seek + 200] ^= 1
    path.write_bytes(data)
    with pytest.raises(
        DamagedFileError, match=r"events.root: basket 1 of branch Muon_pt is damaged .*\nFetch the file again\."
    ):
        read(path)


def test_counters_that_disagree_with_content_are_damage(tmp_path: Path) -> None:
    path = write_tree(tmp_path / "events.root", Events.random(50), codec="none")
    with uproot.open(path) as file:
        seek = int(file["Events"]["nMuon"].member("fBasketSeek")[0])
        key = file["Events"]["nMuon"].basket(0).member("fKeylen")
    data = bytearray(path.read_bytes())
    data[seek + key + 3] += 1  # one muon more in the first event; an uncompressed basket has no checksum
    path.write_bytes(data)
    with pytest.raises(DamagedFileError, match=r"basket 0 of branch Muon_pt is damaged .*bytes, expected"):
        read(path)


# --- Remote files


@pytest.mark.parametrize("name", ROOT_FILES)
def test_remote_file_equals_local_in_few_requests(http_server: FileServer, name: str) -> None:
    url = http_server.add(f"/{name}", (DATA / name).read_bytes())
    asked: list[tuple[int, int]] = []

    remote = RemoteFile(url, (DATA / name).stat().st_size)

    def pread(offset: int, size: int) -> bytes:
        asked.append((offset, size))
        return remote.pread(offset, size)

    with uproot.open(DATA / name) as file, reader_of(file["Events"], RemoteBlocks(url, pread)) as reader:
        found = reader.read()
    assert same(found, plainly(READABLE))
    assert len(asked) <= 3


def test_remote_windows_ask_for_nothing_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    data = (DATA / "unaligned.root").read_bytes()
    asked: list[tuple[int, int]] = []

    def pread(offset: int, size: int) -> bytes:
        asked.append((offset, size))
        return data[offset : offset + size]

    monkeypatch.setattr(baskets, "WINDOW", 50)
    monkeypatch.setattr(baskets, "WIDEST_WINDOW", 50)
    with uproot.open(DATA / "unaligned.root") as file:
        source = RemoteBlocks("memory", pread, gap=0)
        with reader_of(file["Events"], source) as reader:
            found = reader.read()
    assert same(found, plainly(DATA / "unaligned.root"))
    bytes_asked = [byte for offset, size in asked for byte in range(offset, offset + size)]
    assert len(bytes_asked) == len(set(bytes_asked))


def test_short_answer_is_an_error() -> None:
    with (
        uproot.open(DATA / "unaligned.root") as file,
        reader_of(file["Events"], RemoteBlocks("memory", lambda _, size: bytes(size - 1))) as reader,
        pytest.raises(DamagedFileError, match=r"memory: gave .* bytes instead of"),
    ):
        reader.read()


# --- Memory

_PEAK = """
import sys
from pathlib import Path
from basket_files import COLUMNS
from higgsnb.events import Columns
from higgsnb.events.fast.preselected import open_preselected
from higgsnb.selection import parse
most = Columns(COLUMNS.names, parse("nMuon >= 1 or nElectron >= 1"))
with open_preselected(sys.argv[1], most if sys.argv[2] == "most" else COLUMNS) as reader:
    n = sum(part.n_read for part in reader.windows())
print(n, next(line.split()[1] for line in Path("/proc/self/status").open() if line.startswith("VmHWM")))
"""


def peak(path: Path, events: str) -> tuple[int, int]:
    """Events read and peak memory in kB of a fresh process (ru_maxrss would begin with the memory of this one)."""
    done = subprocess.run(
        [sys.executable, "-c", _PEAK, str(path), events], check=True, capture_output=True, text=True, cwd=KIT
    )
    n, rss = done.stdout.split()
    return int(n), int(rss)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc, which Linux has")
@pytest.mark.parametrize("passing", ["few", "most"])
def test_memory_does_not_grow_with_the_file(tmp_path: Path, passing: str) -> None:
    one, eight = (Events.random(n, most=2) for n in (400_000, 3_200_000))
    small = write_tree(tmp_path / "one.root", one, codec="LZ4", baskets=[50_000] * 8)
    large = write_tree(tmp_path / "eight.root", eight, codec="LZ4", baskets=[50_000] * 64)
    (n_small, rss_small), (n_large, rss_large) = peak(small, passing), peak(large, passing)
    assert n_large == 8 * n_small
    assert rss_large < 1.05 * rss_small
