"""Where a file is read from: a path, the toy campaign, the cache, a mirror, https or xrootd.

`locate` returns what to hand to a reader: a path, or the address of a large remote file to be read piecewise.
`fetch` downloads the whole file. Downloads go to a temporary name in the cache, resume where they stopped, and
get their final name (a hash) only after size and adler32 have been checked. A copy in the cache whose adler32 is not
stated is compared with what its server has now, see `copies`.

Environment: ``HIGGSNB_CACHE`` (folder), ``HIGGSNB_MIRROR`` (folder or address used instead of every remote host),
``HIGGSNB_ALLOW_HOSTS`` (hosts to which a redirect may lead, separated by commas), ``HIGGSNB_STREAM_ABOVE`` (bytes
above which `locate` does not download).

Errors, all of them `OSError`; the message names each source tried and why, the hint says what to do::

    MissingFileError      none of the sources has the file
    TransferError         a source may have it, but it could not be read or downloaded
    ChecksumError         what is there is not the file that the catalogue describes
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from higgsnb.datasets.files import transfer
from higgsnb.datasets.files.addresses import Address
from higgsnb.datasets.files.cache import (
    claim,
    name_in_cache,
    path_in_cache,
    problem_with,
    remember_checksum,
    writable,
)
from higgsnb.datasets.files.copies import is_current
from higgsnb.datasets.files.request import TEXT_FILES, FileRequest, Progress, SourceError
from higgsnb.datasets.files.versions import UNKNOWN, Version
from higgsnb.errors import OptionError, TransferError
from higgsnb.redaction import logger
from higgsnb.storage import cache_folder, cached, distrust
from higgsnb.text import shown

log = logger(__name__)

STREAM_ABOVE = 10**9  # bytes

Answer = TypeVar("Answer")


@dataclass(frozen=True, repr=False)
class Source:
    """What to hand to a reader.

    ``location`` is a path or an address, ``origin`` one of local, cache, mirror, remote, toy. ``verified``:
    the whole file agreed with an adler32 given by the caller. ``size`` in bytes, None = not known. ``note``
    names the sources that failed before this one. ``version`` tells its content from an earlier or later one.
    """

    location: str
    origin: str
    verified: bool
    size: int | None
    note: str = ""
    version: Version = field(default=UNKNOWN, compare=False)

    def __repr__(self) -> str:
        return (
            f"Source({str(Address.of(self.location))!r}, {self.origin!r}, verified={self.verified}, size={self.size}, "
            f"note={self.note!r})"
        )

    @property
    def is_remote(self) -> bool:
        """Whether it has to be read with a `RemoteFile`."""
        return Address.of(self.location).is_remote


def locate(
    url: str,
    *,
    alternatives: Sequence[str] = (),
    size: int | None = None,
    adler32: str | None = None,
    known: Version | None = None,
) -> Source:
    """Return where a reader finds a file; download it into the cache first if it is small.

    Parameters
    ----------
    url
        Path, ``file:``, ``http(s):``, ``root:`` or ``toy:NAME.root``.
    alternatives
        Other addresses of the same file, tried in this order after ``url``.
    size, adler32
        Bytes and eight hexadecimal digits, checked when given. Of a local file the checksum is computed once
        and remembered as long as its `Version` stays. A copy in the cache without a stated checksum is compared with
        what its server has now, in one request, and fetched again if that is another version.
    known
        The version of a file that was located before: a copy of it in the cache is used without that request.

    Returns
    -------
    Source
        A path; or an address, never verified, for a file of more than ``HIGGSNB_STREAM_ABOVE`` bytes (1 GB).

    Raises
    ------
    MissingFileError, TransferError, ChecksumError
        As described at the top of this module.
    """
    request = FileRequest.of(url, alternatives, size, adler32)
    source, outdated = _without_download(request, known)
    if source is not None:
        return source
    if _is_downloaded(request.address, size):
        return _download(request, request.sources, outdated)
    address, found, note = _first(request, request.sources, lambda one: transfer.probe(one, request))
    if found.has_ranges and (found.size is None or found.size > _stream_above()):
        origin = "mirror" if request.mirror else "remote"
        return Source(found.address.text, origin, False, found.size, note, found.version)
    if not found.has_ranges:
        log.warning("%s: the server does not support range requests, fetching it whole", request.address.name)
    source = _download(request, request.sources[request.sources.index(address) :], outdated)
    return replace(source, note="; ".join(text for text in (note, source.note) if text))


def fetch(
    url: str,
    *,
    alternatives: Sequence[str] = (),
    size: int | None = None,
    adler32: str | None = None,
    progress: Progress | None = None,
) -> Path:
    """Download a whole file, however large, and return its path. See `locate` for parameters and errors.

    ``progress(done, total)`` is called during a download, in bytes; ``total`` is None if the server does not give it.
    """
    request = FileRequest.of(url, alternatives, size, adler32, progress)
    source, outdated = _without_download(request)
    return Path((source or _download(request, request.sources, outdated)).location)


def transferred_bytes(url: str, size: int, share: float) -> float:
    """Return how many bytes are transferred if ``share`` of a file of ``size`` bytes is read; 0 for a local file.

    Raises
    ------
    OptionError
        If ``HIGGSNB_STREAM_ABOVE`` is not a number of bytes.
    """
    address = Address.of(url)
    if not address.is_remote:
        return 0.0
    return size if _is_downloaded(address, size) else share * size


def is_streamed(url: str, size: int | None) -> bool:
    """Whether a file is read piecewise from its server, if no copy is at hand; raises as `transferred_bytes` does."""
    address = Address.of(url)
    return address.is_remote and not _is_downloaded(address, size)


def _is_downloaded(address: Address, size: int | None) -> bool:
    """Whether a file is small enough to be kept in the cache; False if its size has to be found out first."""
    return address.suffix in TEXT_FILES or (size is not None and size <= _stream_above())


def _stream_above() -> int:
    """Return the size in bytes above which a remote file is read piecewise and not downloaded."""
    given = os.environ.get("HIGGSNB_STREAM_ABOVE", "").strip()
    if not given:
        return STREAM_ABOVE
    if not re.fullmatch("[0-9]{1,18}", given):
        message = f"HIGGSNB_STREAM_ABOVE must be a whole number of bytes, got {shown(given, 40)}"
        raise OptionError(message, f"Set it to {STREAM_ABOVE} for 1 GB, or unset it.")
    return int(given)


# --- Files that are here ---------------------------------------------------------------------------------------


def _without_download(request: FileRequest, known: Version | None = None) -> tuple[Source | None, Version | None]:
    """Find a file that is on this machine already, or is made here; None if it has to be downloaded.

    In a mirror that is a folder it is used in place. Second comes the state of a copy in the cache that is outdated.
    """
    address = request.address
    if address.is_local:
        return _checked([address.local_path], "local", replace(request, mirror=None)), None
    if address.scheme == "toy":
        return _checked([_toy(address.path.removesuffix(".root"))], "toy", request), None
    if not address.is_remote:
        hint = "Use a path, file:, http:, https:, root: or toy:."
        raise TransferError(f"{address}: scheme '{address.scheme}:' is not supported", hint)
    copy, outdated = _from_cache(request, known)
    mirror = request.mirror
    if copy is not None or mirror is None or (mirror.is_remote and mirror.valid):
        return copy, outdated
    if mirror.is_local and mirror.valid and mirror.local_path.is_dir():
        paths = [mirror.local_path / path for path in request.mirror_paths]
        return _checked([path.absolute() for path in paths], "mirror", request), None
    what = "no such folder" if mirror.is_local else "not a valid address"
    hint = "Set it to a folder that exists or to an address such as https://host/path, or unset it."
    raise TransferError(f"HIGGSNB_MIRROR = {mirror}: {what}", hint)


def _from_cache(request: FileRequest, known: Version | None) -> tuple[Source | None, Version | None]:
    """Return the copy of a remote file in a cache, and the state of one that is outdated."""
    name, outdated = request.address.name, None
    for folder in cached("files"):
        path = folder / name_in_cache(request)
        problem = problem_with(path, request)
        if reason := distrust(path):
            log.warning("%s: the copy in the cache is not used: it %s", name, reason)
        elif problem is None and is_current(path, request, known):
            return _source(path, "cache", request), None
        elif problem is None:
            outdated = outdated or Version.of_file(path)
        elif problem.kind == "checksum":
            log.warning("%s: the copy in the cache is damaged or outdated (%s)", name, problem.reason)
    return None, outdated


def _toy(name: str) -> Path:
    """Return a file of the simulated campaign in the cache or in a shared one; it is made if it is in none."""
    from higgsnb.datasets.toy import writer

    made = (writer.find(name, folder) for folder in cached("toy"))
    path = next((path for path in made if path is not None), None)
    if path is None:
        folder = cache_folder("toy")
        with writable(folder):
            path = writer.ensure(name, folder)
    return path


def _checked(paths: Sequence[Path], origin: str, request: FileRequest) -> Source:
    """Return the first of some paths that exists, if it is the file requested."""
    failures: list[tuple[Path, SourceError]] = []
    for path in paths:
        problem = problem_with(path, request)
        if problem is None:
            return _source(path, origin, request)
        failures.append((path, problem))
        if problem.kind != "missing":
            break
    raise request.error(failures)


def _source(path: Path, origin: str, request: FileRequest, note: str = "") -> Source:
    version = Version.of_file(path)
    return Source(str(path), origin, request.adler32 is not None, version.size, note, version)


# --- Remote sources --------------------------------------------------------------------------------------------


def _download(request: FileRequest, sources: Sequence[Address], outdated: Version | None) -> Source:
    """Download a file into the cache from the first source that gives it, in place of a copy that is outdated."""
    final = path_in_cache(request)
    with writable(final.parent), claim(final) as partial:
        # Another process may have downloaded it while this one waited.
        if not distrust(final) and problem_with(final, request) is None and Version.of_file(final) != outdated:
            return _source(final, "cache", request)
        _, _, note = _first(request, sources, lambda source: transfer.download(source, partial, request))
        partial.finish(final)
        if request.adler32 is not None:
            remember_checksum(final, final.stat(), request.adler32)
        return _source(final, "cache", request, note)


def _first(
    request: FileRequest, sources: Sequence[Address], use: Callable[[Address], Answer]
) -> tuple[Address, Answer, str]:
    """Return the first source that can be used, its answer, and a note about those that could not."""
    failures: list[tuple[Address, SourceError]] = []
    for source in sources:
        try:
            answer = use(source)
        except SourceError as failure:
            failures.append((source, failure))
            if request.mirror and failure.kind != "missing":
                break
            continue
        # A mirror may have the file only under its last part: then the other addresses are no failures.
        failed = "" if request.mirror else ", ".join(f"{tried} ({error.reason})" for tried, error in failures)
        note = f"taken from {source} instead of {failed}" if failed else ""
        if note:
            log.warning("%s: %s", request.address.name, note)
        return source, answer, note
    raise request.error(failures)
