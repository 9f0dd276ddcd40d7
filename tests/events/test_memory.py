"""No bit and no number in a file makes a run need more memory than the file has content for (G25)."""

from __future__ import annotations

import contextlib
import sys
import zlib
from collections import Counter
from pathlib import Path

import cramjam
import numpy as np
import pytest
import uproot
from basket_files import Events, write_ntuple, write_tree
from flipped_bits import read
from mutated_files import PEAK, high_bits, outcomes, places_of, write_form

from higgsnb.errors import DamagedFileError
from higgsnb.events.fast import baskets, blocks


@pytest.mark.parametrize("form", ["TTree-none", "RNTuple-none", "TTree-ZSTD"])
def test_a_high_bit_anywhere_outside_of_payload_is_named_and_takes_no_memory(tmp_path: Path, form: str) -> None:
    path = write_form(tmp_path / "good.root", form)
    changes = [[change] for change in high_bits(path.read_bytes(), places_of(path, 151), bits=(7,))]
    found, peak = outcomes(path, changes)
    assert set(found) <= {"same", "named", "marked"}
    assert Counter(found)["named"] > len(found) // 10
    assert peak < PEAK


@pytest.mark.parametrize("bit", [7, 6, 2])
@pytest.mark.parametrize("counter", ["nMuon", "nElectron"])
def test_a_high_bit_of_a_counter_is_named_before_anything_is_allocated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, counter: str, bit: int
) -> None:
    path = write_tree(tmp_path / "events.root", Events.random(100), codec="none")
    with uproot.open(path) as file:
        branch = file["Events"][counter]
        payload = int(branch.member("fBasketSeek")[0]) + int(branch.basket_key(0).fKeylen)
    data = bytearray(path.read_bytes())
    data[payload + 4 * 41] ^= 1 << bit
    path.write_bytes(data)
    allocate = baskets.elements_of
    sums: list[int] = []
    monkeypatch.setattr(
        baskets, "elements_of", lambda f, e, **how: sums.append(int((f[e + 1] - f[e]).sum())) or allocate(f, e, **how)
    )
    with pytest.raises(DamagedFileError, match=rf"{path}: (basket 0 of branch \w+ is damaged|branch {counter} counts)"):
        read(path)
    assert all(0 <= n < 1000 for n in sums)  # of the other flavour


def test_negative_counts_that_cancel_are_noticed() -> None:
    counts = np.array([4, -3, 3, 4])
    offsets = np.empty(5, np.int64)
    assert not baskets.add_up(counts, offsets)
    assert baskets.add_up(np.abs(counts), offsets)
    assert offsets.tolist() == [0, 4, 7, 10, 14]
    assert not baskets.add_up(np.array([2**63 + 1], np.uint64), np.empty(2, np.int64))


@pytest.mark.parametrize(("offset", "size"), [(-1, 10), (10, -1), (0, 2**62), (2**62, 10), (95, 10)])
def test_a_place_outside_of_the_file_is_named_without_reading(tmp_path: Path, offset: int, size: int) -> None:
    path = tmp_path / "a.root"
    path.write_bytes(bytes(100))
    remote = blocks.RemoteBlocks("memory", pytest.fail, 100)
    local = blocks.LocalBlocks(path)
    try:
        with pytest.raises(DamagedFileError, match=rf"{path}: (points to|ends \d+ bytes too early)"):
            local.fetch([])(offset, size)
        with pytest.raises(DamagedFileError, match=r"memory: (points to|ends \d+ bytes too early)"):
            remote.fetch([(offset, size)])
    finally:
        remote.close()
        local.close()


def test_a_changed_list_of_pages_fails_its_checksum(tmp_path: Path) -> None:
    path = write_ntuple(tmp_path / "events.root", Events.random(100), codec="none")
    with uproot.open(path) as file:
        locator = file["Events"].footer.cluster_group_records[0].page_list_link.locator
        place = int(locator.offset) + int(locator.num_bytes) // 2
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)
    with pytest.raises(DamagedFileError, match=rf"{path}: a list of pages at byte {locator.offset} fails its checksum"):
        read(path)


@pytest.mark.parametrize("codec", ["zlib", "zstd"])
def test_a_block_that_holds_more_than_it_says_is_not_inflated_whole(
    codec: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also without the libraries that stop by themselves."""
    content = bytes(50_000_000)
    payload = zlib.compress(content) if codec == "zlib" else bytes(cramjam.zstd.compress(content))
    for missing in ("deflate", "zstandard", "isal"):
        monkeypatch.setitem(sys.modules, missing, None)
    inflate = {"zlib": blocks._inflate_zlib, "zstd": blocks._inflate_zstd}[codec]
    with contextlib.suppress(cramjam.DecompressionError):  # refused, which is as good
        assert len(inflate(payload, 1000, 1000, True).data) <= 1001
