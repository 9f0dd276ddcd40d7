"""Compressed blocks of a ROOT file: where their bytes come from, and how they are inflated.

Baskets of a TTree and pages of an RNTuple are made of the same blocks, each compressed by itself: two letters for the
codec, a method, three bytes of compressed and three of uncompressed size, then the payload
(https://root.cern/doc/master/TFile__header_8dox.html, core/zip/src/RZip.cxx).

Checksums are verified per block where the format has them: ZLIB (adler32), LZ4 (xxHash64), LZMA (CRC). ZSTD as ROOT
writes it and uncompressed pieces have none; `Notes.verified` is then False. For a file that was verified as a whole
pass ``checked=False``: ZLIB and LZMA are then inflated only as far as the content is wanted, which passes over the
checksum.
"""

from __future__ import annotations

import bisect
import os
import sys
import threading
import weakref
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

from higgsnb.errors import DamagedFileError

if TYPE_CHECKING:
    from pathlib import Path

Buffer = bytes | bytearray | memoryview
Fetch = Callable[[int, int], Buffer]
"""``(offset, size)`` to the bytes there."""
Seen = set[tuple[str, bool]]
"""Codecs met in a read, each with whether a checksum was verified."""


class UnexpectedFormError(ValueError):
    """The tree is valid, but not of a form that the fast readers know; uproot can read it."""


# --- Where bytes come from


class ByteSource(Protocol):
    """Where the bytes of one file come from."""

    location: str
    """Path or URL, for messages."""
    remote: bool
    """Whether bytes should be requested early and in large pieces."""

    def fetch(self, ranges: Sequence[tuple[int, int]]) -> Fetch:
        """Make ``ranges`` of (offset, size) available; they are then read from the result, once each."""

    @property
    def close(self) -> Callable[[], object]:
        """Release open files and threads; a second call does nothing."""


class LocalBlocks:
    """A file on this machine, read with ``pread``: no shared position, so threads may share it."""

    remote = False

    def __init__(self, path: str | Path) -> None:
        self.location = os.fspath(path)
        self._descriptor = os.open(self.location, os.O_RDONLY)
        self._size = os.fstat(self._descriptor).st_size
        self.close = weakref.finalize(self, os.close, self._descriptor)

    def read(self, offset: int, size: int) -> bytes:
        """Return the bytes at ``offset``; fewer than ``size`` of them is a `DamagedFileError`."""
        check_place(self.location, offset, size, self._size)
        data = os.pread(self._descriptor, size, offset)
        if len(data) != size:
            raise DamagedFileError(f"{self.location}: gave {len(data)} bytes instead of {size} at {offset}")
        return data

    def fetch(self, ranges: Sequence[tuple[int, int]]) -> Fetch:  # noqa: ARG002 - the operating system reads ahead
        """Prepare nothing; see `read`."""
        return self.read


class RemoteBlocks:
    """A file of ``size`` bytes, if that is known, read through ``pread(offset, size) -> bytes`` in few, large requests.

    Ranges less than ``gap`` bytes apart are asked for together, up to ``largest`` bytes a request, and four requests
    run at once. Retrying is left to ``pread``.
    """

    remote = True

    def __init__(
        self, location: str, pread: Callable[[int, int], bytes], size: int = sys.maxsize, *,
        gap: int = 128 * 1024, largest: int = 8 * 1024**2,
    ) -> None:  # fmt: skip
        self.location = location
        self._size = size
        self._pread = pread
        self._gap = gap
        self._largest = largest
        self._pool = ThreadPoolExecutor(4, thread_name_prefix="baskets")
        self.close = weakref.finalize(self, self._pool.shutdown, wait=False, cancel_futures=True)

    def fetch(self, ranges: Sequence[tuple[int, int]]) -> Fetch:
        """Read all ``ranges`` now."""
        for offset, size in ranges:
            check_place(self.location, offset, size, self._size)
        requests = coalesce(ranges, gap=self._gap, largest=self._largest)
        futures = [self._pool.submit(copy_context().run, self._pread, offset, size) for offset, size in requests]
        pieces = []
        for (offset, size), future in zip(requests, futures, strict=True):
            pieces.append(future.result())
            if len(pieces[-1]) != size:
                what = f"gave {len(pieces[-1])} bytes instead of {size} at {offset}"
                raise DamagedFileError(f"{self.location}: {what}")
        starts = [start for start, _ in requests]

        def read(offset: int, size: int) -> Buffer:
            i = bisect.bisect_right(starts, offset) - 1
            return memoryview(pieces[i])[offset - starts[i] : offset - starts[i] + size]

        return read


def check_place(location: str, offset: int, size: int, file_size: int) -> None:
    """Raise `DamagedFileError` if a file cannot have ``size`` bytes at ``offset``; nothing is allocated for them."""
    if offset < 0 or size < 0:
        raise DamagedFileError(f"{location}: points to {size} bytes at {offset}, which cannot be")
    if offset + size > file_size:
        missing = offset + size - file_size
        raise DamagedFileError(f"{location}: ends {missing} bytes too early, reading {size} at {offset}")


def coalesce(ranges: Sequence[tuple[int, int]], *, gap: int, largest: int) -> list[tuple[int, int]]:
    """Merge (offset, size) ranges up to ``gap`` bytes apart into requests of up to ``largest`` bytes, in file order.

    A single range that is larger stays whole.

    >>> coalesce([(100, 10), (0, 50), (5000, 10)], gap=64, largest=1000)
    [(0, 110), (5000, 10)]
    """
    requests: list[tuple[int, int]] = []
    for offset, size in sorted(ranges):
        if requests:
            start, length = requests[-1]
            together = max(offset + size - start, length)
            if offset <= start + length + gap and together <= largest:
                requests[-1] = (start, together)
                continue
        requests.append((offset, size))
    return requests


# --- Codecs


class Inflated(NamedTuple):
    """At least the wanted first bytes of a block, and whether a checksum covered them."""

    data: Buffer
    verified: bool


_STOPPING_PAYS = 32 * 1024
"""Bytes that a decompressor has to be spared before stopping it early pays for the slower interface that can."""


def _inflate_zlib(payload: Buffer, size: int, wanted: int, checked: bool) -> Inflated:
    """ZLIB: libdeflate, or `zlib`, for the whole block with its adler32; ISA-L up to ``wanted`` where it is installed.

    ISA-L fills 64 kB before it checks a limit, another reason to stop early in large blocks only.
    """
    if not checked and size - wanted > _STOPPING_PAYS:
        try:
            from isal import igzip_lib
        except ImportError:
            pass  # the whole block, then
        else:
            decompressor = igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_DEFLATE)
            return Inflated(decompressor.decompress(payload[2:], wanted), False)
    try:
        import deflate
    except ImportError:
        import zlib

        whole = zlib.decompressobj()
        data = whole.decompress(payload, size + 1)  # however much more it holds
        return Inflated(data if whole.eof else b"", True)  # without its end it is damaged
    return Inflated(deflate.zlib_decompress(payload, size), True)


def _inflate_lz4(payload: Buffer, size: int, _wanted: int, _checked: bool) -> Inflated:
    """LZ4: eight bytes of xxHash64 over the compressed bytes, always compared, then one LZ4 block."""
    import cramjam
    import xxhash

    if xxhash.xxh64_digest(payload[8:]) != bytes(payload[:8]):
        raise ValueError("its xxHash64 does not match")
    return Inflated(memoryview(cramjam.lz4.decompress_block(payload[8:], output_len=size)), True)


_zstd = threading.local()


def _inflate_zstd(payload: Buffer, size: int, wanted: int, _checked: bool) -> Inflated:
    """ZSTD: stops at ``wanted`` in large blocks where `zstandard` is installed; few frames have a checksum."""
    has_checksum = len(payload) > 4 and bool(payload[4] & 4)
    try:
        import zstandard
    except ImportError:
        import cramjam

        data = bytearray(size)  # `decompress` would go on, however much the block holds
        return Inflated(memoryview(data)[: cramjam.zstd.decompress_into(payload, data)], has_checksum)
    if zstandard.frame_content_size(payload) not in (size, -1):  # that much would be allocated, however wrong it is
        raise ValueError("its frame has another size")
    if not hasattr(_zstd, "decompressor"):  # one for each thread; making one costs as much as a small block
        _zstd.decompressor = zstandard.ZstdDecompressor()
    if has_checksum or size - wanted < _STOPPING_PAYS:
        return Inflated(_zstd.decompressor.decompress(payload, max_output_size=size), has_checksum)
    return Inflated(_zstd.decompressor.stream_reader(payload).read(wanted), False)


_LZMA_MEMORY = 256 * 1024**2
"""Most memory of an LZMA decompressor; the largest dictionary that a compressor makes, of level 9, takes 65 MiB."""


def _inflate_lzma(payload: Buffer, size: int, wanted: int, checked: bool) -> Inflated:
    """LZMA: an XZ container with its CRC, or the first ``wanted`` bytes of it."""
    import lzma

    decompressor = lzma.LZMADecompressor(format=lzma.FORMAT_XZ, memlimit=_LZMA_MEMORY)
    data = decompressor.decompress(payload, size + 1 if checked else wanted)
    return Inflated(data, decompressor.eof)


class Codec(NamedTuple):
    """How blocks with one two-letter tag are inflated: ``inflate(payload, size, wanted, checked)``."""

    name: str
    inflate: Callable[[Buffer, int, int, bool], Inflated]


CODECS = {
    b"ZL": Codec("ZLIB", _inflate_zlib),
    b"L4": Codec("LZ4", _inflate_lz4),
    b"ZS": Codec("ZSTD", _inflate_zstd),
    b"XZ": Codec("LZMA", _inflate_lzma),
}
UNCOMPRESSED = "none"


@dataclass(frozen=True)
class Notes:
    """How the bytes of a read were coded, and whether checksums covered all of them."""

    codecs: frozenset[str] = frozenset()
    verified: bool = True

    @classmethod
    def of(cls, seen: Iterable[tuple[str, bool]]) -> Notes:
        """Return the notes of a read from what was ``seen``."""
        return cls(frozenset(name for name, _ in seen), all(verified for _, verified in seen))


def inflate(raw: Buffer, start: int, size: int, wanted: int, *, checked: bool, seen: Seen) -> Buffer:
    """Return the first ``wanted`` of the ``size`` bytes that the blocks in ``raw[start:]`` hold.

    Blocks after those are not touched. Codecs and whether a checksum was verified are added to ``seen``. Raises
    `ValueError` if a block is damaged; the caller puts the name of the basket before the message.
    """
    parts = []
    filled = 0
    while filled < wanted:
        data, block_size, start = _inflate_block(raw, start, wanted - filled, checked, seen)
        parts.append(data)
        filled += block_size
    if filled > size or (filled == size) != (start == len(raw)):
        raise ValueError(f"its blocks end at byte {start} of {len(raw)} with {filled} of {size} bytes")
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _inflate_block(raw: Buffer, start: int, wanted: int, checked: bool, seen: Seen) -> tuple[Buffer, int, int]:
    """Return up to ``wanted`` bytes of the block at ``start``, how many it holds, and where it ends."""
    header = bytes(raw[start : start + 9])  # two letters, a method, and two sizes of three bytes each
    end = start + 9 + int.from_bytes(header[3:6], "little")
    size = int.from_bytes(header[6:9], "little")
    if len(header) < 9 or end > len(raw) or not size:
        raise ValueError(f"it ends in the middle of a block at byte {start} of {len(raw)}")
    if header[:2] == b"CS":
        raise UnexpectedFormError("a block is in the compression of ROOT before 2000, which nothing reads any more")
    codec, wanted = CODECS.get(header[:2]), min(size, wanted)
    if codec is None:
        raise ValueError(f"a block has the unknown tag {header[:2]!r}")
    try:
        data, verified = codec.inflate(memoryview(raw)[start + 9 : end], size, wanted, checked)
    except Exception as error:  # each library has an exception of its own, most of them derived from Exception only
        raise ValueError(f"a {codec.name} block does not decompress ({error})") from error
    seen.add((codec.name, verified))
    if len(data) not in (wanted, size):
        raise ValueError(f"a {codec.name} block holds {len(data)} bytes instead of {size}")
    return (data if len(data) == wanted else memoryview(data)[:wanted]), size, end
