"""Files from remote sources, over HTTP or xrootd: whole or piecewise, retried after transient errors.

Remote reads are retried after 408, 425, 429 and 5xx (honouring Retry-After), broken connections and silence.
"""

from __future__ import annotations

import io
from typing import Any, NamedTuple

from higgsnb.datasets.files import http, xrootd
from higgsnb.datasets.files.addresses import Address
from higgsnb.datasets.files.request import FileRequest, OtherSizeError, PartialDownload, RemoteInfo, SourceError
from higgsnb.datasets.files.retries import Retries
from higgsnb.datasets.files.versions import UNKNOWN, Version

MAX_ORIGINS = 10_000  # signed addresses remembered
READ_AHEAD = 256 * 1024  # bytes that a `BlockwiseFile` requests at a time
BLOCKS_KEPT = 64


class Origin(NamedTuple):
    """Where a redirect came from: the address of the file as the caller gave it, and the source that redirected."""

    address: Address
    source: Address


_origins: dict[str, Origin] = {}  # by the address to which the redirect led


def download(source: Address, partial: PartialDownload, request: FileRequest) -> None:
    """Complete a partial download from one source and check it; `SourceError` if that fails.

    Transient errors are retried, a wrong checksum once.
    """
    append = xrootd.download if source.scheme == "root" else http.download
    retries, mismatches = Retries(source, request), 0
    while True:
        before = partial.size
        try:
            append(source, partial, request)
            return partial.check(request)
        except OtherSizeError:
            partial.reset()
            raise
        except SourceError as failure:
            mismatches += failure.kind == "checksum"
            if mismatches > 1 or failure.kind not in ("transient", "checksum"):
                raise
            retries.failed(failure, received=partial.size - before)


def probe(source: Address, request: FileRequest) -> RemoteInfo:
    """Find the size of a file at a source, and whether it can be read piecewise; `SourceError` if it has none."""
    probe_once = xrootd.probe if source.scheme == "root" else http.probe
    retries = Retries(source, request)
    while True:
        try:
            found = probe_once(source, request)
        except SourceError as failure:
            if failure.kind != "transient":
                raise
            retries.failed(failure)
        else:
            if found.address != request.address:  # remembered, so that an expired signed address can be renewed
                _origins[found.address.text] = Origin(request.address, source)
                if len(_origins) > MAX_ORIGINS:
                    _origins.pop(next(iter(_origins)), None)
            return found._replace(version=found.version._replace(source=source.without_secrets))


def present_version(source: Address, request: FileRequest) -> Version:
    """Ask a source once for the version of a file that it has now; `SourceError` if it does not say."""
    return (xrootd.probe if source.scheme == "root" else http.probe)(source, request).version


class RemoteFile(io.RawIOBase):
    """A remote file of ``size`` bytes read piecewise, as a binary file object; transient errors are retried.

    ``location`` and ``version`` are those of a remote source that `locate` returned. All parts are of that version: an
    answer that belongs to another one is an error.
    """

    def __init__(self, location: str, size: int, version: Version = UNKNOWN) -> None:
        super().__init__()
        self.location, self.size, self.version = location, size, version._replace(size=size)
        self._request = FileRequest.of(location)
        self._position = 0

    def pread(self, offset: int, size: int) -> bytes:
        """Read ``size`` bytes at ``offset``; safe to call from several threads.

        Raises
        ------
        FileNotFoundError, TransferError
            If the server does not give them in `retries.TRIES` tries, or has replaced the file.
        """
        source = Address.of(self.location)
        origin = _origins.get(self.location, Origin(self._request.address, source))
        retries = Retries(source, self._request, origin.address)
        while True:
            source = Address.of(self.location)
            read = xrootd.read_range if source.scheme == "root" else http.read_range
            try:
                try:
                    return read(source, offset, size, self._request, self.version)
                except SourceError as failure:
                    # A signed address to which a redirect led may have expired: get the present one.
                    expired = failure.kind == "refused" and origin.source != source
                    if failure.kind != "transient" and not expired:
                        raise
                    retries.failed(failure)
                    if expired:
                        again = FileRequest.of(origin.address.text, (origin.source.text,), self.size)
                        self.location = probe(origin.source, again).address.text
            except SourceError as final:
                raise self._request.error([(source, final)]) from None

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer from the current position."""
        size = min(len(buffer), self.size - self._position)
        if size <= 0:
            return 0
        buffer[:size] = self.pread(self._position, size)
        self._position += size
        return size

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move the current position."""
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self.size}[whence]
        self._position = max(0, origin + offset)
        return self._position

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True


class BlockwiseFile(RemoteFile):
    """A remote file for readers that jump to and fro, such as uproot: read in blocks, of which the last 16 MB are kept.

    Put an `io.BufferedReader` around it: one read does not go beyond the end of a block.
    """

    def __init__(self, location: str, size: int, version: Version = UNKNOWN) -> None:
        super().__init__(location, size, version)
        self._blocks: dict[int, bytes] = {}

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer from the current position, up to the end of a block."""
        start = self._position - self._position % READ_AHEAD
        if self._position >= self.size:
            return 0
        block = self._blocks.get(start)
        if block is None:
            block = self._blocks[start] = self.pread(start, min(READ_AHEAD, self.size - start))
            if len(self._blocks) > BLOCKS_KEPT:
                del self._blocks[next(iter(self._blocks))]
        part = block[self._position - start :][: len(buffer)]
        buffer[: len(part)] = part
        self._position += len(part)
        return len(part)
