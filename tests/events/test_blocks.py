"""Blocks are inflated the same by every library that can, and requests cover what was asked for."""

from __future__ import annotations

import sys
import zlib

import cramjam
import pytest
import xxhash
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from higgsnb.events.fast import blocks
from higgsnb.events.fast.blocks import UnexpectedFormError, coalesce, inflate

TEXT = b"".join(b"%d leptons " % (i * i) for i in range(9000))


def block(tag: bytes, payload: bytes, size: int) -> bytes:
    """One block as ROOT writes it."""
    return tag + b"\x08" + len(payload).to_bytes(3, "little") + size.to_bytes(3, "little") + payload


def lz4(data: bytes) -> bytes:
    packed = bytes(cramjam.lz4.compress_block(data, store_size=False))
    return xxhash.xxh64_digest(packed) + packed


PACKED = {
    "ZLIB": block(b"ZL", zlib.compress(TEXT, 1), len(TEXT)),
    "LZ4": block(b"L4", lz4(TEXT), len(TEXT)),
    "ZSTD": block(b"ZS", bytes(cramjam.zstd.compress(TEXT)), len(TEXT)),
    "LZMA": block(b"XZ", bytes(cramjam.xz.compress(TEXT)), len(TEXT)),
}


@pytest.mark.parametrize("codec", sorted(PACKED))
@pytest.mark.parametrize("missing", [(), ("isal",), ("deflate",), ("isal", "deflate", "zstandard")])
@pytest.mark.parametrize("checked", [True, False])
@pytest.mark.parametrize("wanted", [1, 1000, len(TEXT)])
def test_every_library_inflates_the_same(
    monkeypatch: pytest.MonkeyPatch, codec: str, missing: tuple[str, ...], checked: bool, wanted: int
) -> None:
    for name in missing:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr(blocks, "_zstd", blocks.threading.local())
    seen: blocks.Seen = set()
    assert bytes(inflate(b"key" + PACKED[codec], 3, len(TEXT), wanted, checked=checked, seen=seen)) == TEXT[:wanted]
    assert {name for name, _ in seen} == {codec}


def test_blocks_behind_the_content_are_not_touched() -> None:
    raw = PACKED["ZLIB"] + b"not a block at all"
    assert bytes(inflate(raw, 0, 2 * len(TEXT), len(TEXT), checked=True, seen=set())) == TEXT


@pytest.mark.parametrize(
    ("raw", "size", "match"),
    [
        (PACKED["ZLIB"][:-1], len(TEXT), "ends in the middle of a block"),
        (PACKED["ZLIB"][:5], len(TEXT), "ends in the middle of a block"),
        (b"", len(TEXT), "ends in the middle of a block"),
        (PACKED["ZLIB"] + b"more", len(TEXT), "its blocks end at byte"),
        (PACKED["ZLIB"], len(TEXT) - 1, "its blocks end at byte"),
        (b"QQ" + PACKED["ZLIB"][2:], len(TEXT), "unknown tag b'QQ'"),
        (PACKED["ZLIB"][:200] + b"\xff" + PACKED["ZLIB"][201:], len(TEXT), "ZLIB block does not decompress"),
        (PACKED["LZ4"][:200] + b"\xff" + PACKED["LZ4"][201:], len(TEXT), "xxHash64 does not match"),
        (PACKED["LZMA"][:90] + b"\xff" + PACKED["LZMA"][91:], len(TEXT), "LZMA block does not decompress"),
    ],
)
def test_damaged_blocks_are_errors(raw: bytes, size: int, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        inflate(raw, 0, size, size, checked=True, seen=set())


def test_wrong_size_in_a_frame_is_never_allocated() -> None:
    frame = bytearray(zstandard.ZstdCompressor().compress(TEXT))
    size = zstandard.frame_content_size(bytes(frame))
    place = bytes(frame).index(size.to_bytes(4, "little"))
    frame[place + 3] ^= 0x80  # two gigabytes more
    with pytest.raises(ValueError, match="its frame has another size"):
        inflate(block(b"ZS", bytes(frame), len(TEXT)), 0, len(TEXT), len(TEXT), checked=True, seen=set())


def test_compression_of_the_nineties_is_left_to_others() -> None:
    with pytest.raises(UnexpectedFormError, match="before 2000"):
        inflate(b"CS" + PACKED["ZLIB"][2:], 0, len(TEXT), len(TEXT), checked=True, seen=set())


ranges = st.lists(st.tuples(st.integers(0, 10_000), st.integers(1, 900)), max_size=40)


@given(wanted=ranges, gap=st.integers(0, 500), largest=st.integers(1, 3000))
def test_requests_cover_every_range(wanted: list[tuple[int, int]], gap: int, largest: int) -> None:
    requests = coalesce(wanted, gap=gap, largest=largest)
    for offset, size in wanted:
        assert any(start <= offset and offset + size <= start + length for start, length in requests)
    longest = max((size for _, size in wanted), default=0)
    assert all(length <= max(largest, longest) for _, length in requests)
    assert requests == sorted(requests)


@given(wanted=ranges)
def test_reads_come_back_from_the_right_place(wanted: list[tuple[int, int]]) -> None:
    data = bytes(i * 7 % 251 for i in range(11_000))
    source = blocks.RemoteBlocks("memory", lambda offset, size: data[offset : offset + size], gap=64, largest=2000)
    try:
        fetch = source.fetch(wanted)
        assert all(fetch(offset, size) == data[offset : offset + size] for offset, size in wanted)
    finally:
        source.close()
