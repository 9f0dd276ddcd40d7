"""Files over xrootd (``root:`` addresses), with the Python package xrootd where it is installed."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import time
from collections.abc import Callable, Iterator
from typing import Any

from higgsnb.datasets.files import retries
from higgsnb.datasets.files.addresses import Address
from higgsnb.datasets.files.request import (
    BLOCK,
    FileRequest,
    PartialDownload,
    RemoteInfo,
    ReplacedError,
    SourceError,
)
from higgsnb.datasets.files.retries import Pace
from higgsnb.datasets.files.versions import Version
from higgsnb.redaction import redact


def download(source: Address, partial: PartialDownload, request: FileRequest) -> None:
    """Append what is missing of a file; start again if no checksum can judge the bytes that are there."""
    with _open(source) as (call, version):
        total = version.size or 0
        request.check_offered_size(total)
        done = partial.size if request.adler32 is not None and partial.size <= total else 0
        if not done:
            partial.reset()
        partial.note_origin(source, version)
        while done < total:
            block = bytes(call("read", offset=done, size=16 * BLOCK))
            if not block:
                raise SourceError("transient", f"the file ended after {done} of {total} bytes")
            partial.write(block)
            done += len(block)
            if request.progress is not None:
                request.progress(done, total)


def probe(source: Address, request: FileRequest) -> RemoteInfo:
    """Find the size of a file."""
    with _open(source) as (_, version):
        request.check_offered_size(version.size)
        return RemoteInfo(source, version.size, True, version)


def read_range(source: Address, offset: int, size: int, request: FileRequest, version: Version) -> bytes:  # noqa: ARG001 as over HTTP
    """Read ``size`` bytes at ``offset``; `ReplacedError` if they are of another version."""
    with _open(source) as (call, found):
        if difference := version.difference(found):
            raise ReplacedError(difference, version.hint(found))
        data = bytes(call("read", offset=offset, size=size))
    if len(data) != size:
        raise SourceError("transient", f"sent {len(data)} of {size} bytes")
    return data


@contextlib.contextmanager
def _open(source: Address) -> Iterator[tuple[Callable[..., Any], Version]]:
    """Open a file; yield what calls its methods, and what version the file is.

    The redirects of xrootd servers to disk servers are not checked.
    """
    if importlib.util.find_spec("XRootD") is None:
        hint = "Run pip install xrootd, or give an https: address, or set HIGGSNB_MIRROR."
        raise SourceError("skipped", "needs the Python package xrootd, which is not installed", hint)
    file, pace = importlib.import_module("XRootD.client").File(), Pace()

    def call(method: str, *arguments: Any, **options: Any) -> Any:
        """Call a method, whose errors come back as a status; 3010 and 3011 are numbers of the protocol."""
        timeout, before = max(1, int(pace.timeout())), time.monotonic()  # whole seconds; 0 would be half an hour
        status, value = getattr(file, method)(*arguments, timeout=timeout, **options)
        if status.ok:
            pace.received(len(value) if method == "read" else 1, time.monotonic() - before)
            return value
        reason = (redact(str(status.message)).strip() or "an error without a message").splitlines()[0]
        if status.errno == 3011:
            raise SourceError("missing", reason)
        if status.errno == 3010:
            raise SourceError("permanent", reason, "The server refuses access: check that the file is public.")
        raise SourceError("transient", reason, "Check that port 1094 is open to the outside, or use https:.")

    call("open", source.text)
    try:
        state = call("stat")
        pace.begin_body()
        yield call, Version(int(state.size), str(getattr(state, "modtime", "")))
    finally:
        file.close(timeout=max(1, int(retries.TIMEOUT)))
