"""Files over xrootd (``root:`` addresses), with the Python package xrootd where it is installed."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
from collections.abc import Iterator
from typing import Any

from higgsnb.datasets.files import retries
from higgsnb.datasets.files.addresses import Address, redact
from higgsnb.datasets.files.request import BLOCK, FileRequest, PartialDownload, RemoteInfo, SourceError

__all__ = ["download", "probe", "read_range"]


def download(source: Address, partial: PartialDownload, request: FileRequest) -> None:
    """Append what is missing of a file; start again if no checksum can judge the bytes that are there."""
    with _open(source) as file:
        total = file.size()
        request.check_offered_size(total)
        done = partial.size if request.adler32 is not None and partial.size <= total else 0
        if not done:
            partial.reset()
        while done < total:
            block = file.read(done, 16 * BLOCK)
            if not block:
                raise SourceError("transient", f"the file ended after {done} of {total} bytes")
            partial.write(block)
            done += len(block)
            if request.progress is not None:
                request.progress(done, total)


def probe(source: Address, request: FileRequest) -> RemoteInfo:
    """Find the size of a file."""
    with _open(source) as file:
        total = file.size()
    request.check_offered_size(total)
    return RemoteInfo(source, total, True)


def read_range(source: Address, offset: int, size: int, request: FileRequest) -> bytes:  # noqa: ARG001 as over HTTP
    """Read ``size`` bytes at ``offset``."""
    with _open(source) as file:
        data = file.read(offset, size)
    if len(data) != size:
        raise SourceError("transient", f"sent {len(data)} of {size} bytes")
    return data


class _File:
    """An open file of an xrootd server; a failed call raises `SourceError`."""

    def __init__(self, source: Address) -> None:
        self._file = importlib.import_module("XRootD.client").File()
        self._call("open", source.text)

    def size(self) -> int:
        return int(self._call("stat").size)

    def read(self, offset: int, size: int) -> bytes:
        return bytes(self._call("read", offset=offset, size=size))

    def close(self) -> None:
        self._file.close()

    def _call(self, method: str, *arguments: Any, **options: Any) -> Any:
        """Call a method, whose errors come back as a status; 3010 and 3011 are numbers of the protocol."""
        timeout = max(1, int(retries.TIMEOUT))  # whole seconds
        status, value = getattr(self._file, method)(*arguments, timeout=timeout, **options)
        if status.ok:
            return value
        reason = redact(str(status.message)).strip().splitlines()[0]
        if status.errno == 3011:
            raise SourceError("missing", reason)
        if status.errno == 3010:
            raise SourceError("permanent", reason, "The server refuses access: check that the file is public.")
        raise SourceError("transient", reason, "Check that port 1094 is open to the outside, or use https:.")


@contextlib.contextmanager
def _open(source: Address) -> Iterator[_File]:
    """Open a file; the redirects of xrootd servers to their disk servers are not checked."""
    if importlib.util.find_spec("XRootD") is None:
        raise SourceError(
            "skipped",
            "needs the Python package xrootd, which is not installed",
            "Run pip install xrootd, or give an https: address, or set HIGGSNB_MIRROR.",
        )
    with contextlib.closing(_File(source)) as file:
        yield file
