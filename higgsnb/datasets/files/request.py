"""A request for a file, why a source did not give it, and the file while it is downloaded."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, NamedTuple
from urllib.parse import quote

from higgsnb import text
from higgsnb.datasets.files.addresses import Address
from higgsnb.datasets.files.versions import UNKNOWN, Version
from higgsnb.errors import ChecksumError, MissingFileError, TransferError
from higgsnb.redaction import redact
from higgsnb.storage import atomic_write

BLOCK = 2**18  # bytes read at a time
TEXT_FILES = frozenset({".csv", ".json", ".toml", ".txt"})
CATALOGUE_HOSTS = frozenset({"eospublic.cern.ch", "opendata.cern.ch"})
AGAIN = "Run the same command again: it resumes."
KEEPS_OPEN_FILES = os.name == "nt"  # Windows neither renames nor removes open files

Progress = Callable[[int, "int | None"], None]

active_tries: ContextVar[dict[str, int]] = ContextVar("active_tries")
"""Where retries are counted, see `counted_tries`."""


@contextlib.contextmanager
def counted_tries(into: dict[str, int] | None = None) -> Iterator[dict[str, int]]:
    """Count the tries of all transfers that are requested in this context, in a new dict or ``into`` a given one.

    Yields
    ------
    dict of str to int
        For each file that took more than one try, the most tries of one transfer (of the whole file, or of one part
        of a file that is read piecewise), by its address without secrets.
    """
    tries = {} if into is None else into
    token = active_tries.set(tries)
    try:
        yield tries
    finally:
        active_tries.reset(token)


class SourceError(Exception):
    """Why one source did not give the file.

    ``kind`` is one of missing, checksum, permanent, skipped (not tried), transient (to be retried, after ``wait``
    seconds if given) and refused (permanent, unless a redirect led to a signed address, which may have expired).
    """

    def __init__(self, kind: str, reason: str, hint: str = AGAIN, wait: float | None = None) -> None:
        super().__init__(kind, redact(reason), redact(hint), wait)
        self.kind, self.reason, self.hint, self.wait = self.args


class UnknownHostError(SourceError):
    """A host name that cannot be resolved: another source of the file is a better next try."""


class ReplacedError(SourceError):
    """A source that has another content of a file than before."""

    def __init__(self, difference: str, hint: str) -> None:
        super().__init__("permanent", f"was replaced while it was read: {difference}", hint)


class OtherSizeError(SourceError):
    """A source that offers a file of another size, or one without end; it is not retried, its bytes are discarded."""


class RemoteInfo(NamedTuple):
    """What a source reports about a file: its address after redirects, bytes, and whether it can be read piecewise.

    ``version`` tells whether a part that is read later belongs to the same content.
    """

    address: Address
    size: int | None
    has_ranges: bool
    version: Version = UNKNOWN


@dataclass(frozen=True)
class FileRequest:
    """One file as the caller asked for it; ``tries`` counts its retries, see `counted_tries`."""

    address: Address
    alternatives: tuple[Address, ...] = ()
    size: int | None = None
    adler32: str | None = None
    progress: Progress | None = None
    mirror: Address | None = None
    tries: dict[str, int] = field(default_factory=dict, compare=False)

    @classmethod
    def of(
        cls,
        url: str | os.PathLike[str],
        alternatives: Sequence[str] = (),
        size: int | None = None,
        adler32: str | None = None,
        progress: Progress | None = None,
    ) -> FileRequest:
        """Parse the addresses and take the mirror from ``HIGGSNB_MIRROR``; `TransferError` names a bad address."""
        addresses = [Address.of(location) for location in (url, *alternatives)]
        for address in addresses:
            if not address.valid:
                raise TransferError(f"{address}: not a valid address", "Use https://host/path or root://host//path.")
        mirror = os.environ.get("HIGGSNB_MIRROR")
        return cls(
            addresses[0],
            tuple(addresses[1:]),
            size,
            None if adler32 is None else adler32.lower().zfill(8),
            progress,
            Address.of(mirror) if mirror else None,
            active_tries.get({}),
        )

    @property
    def hosts(self) -> frozenset[str]:
        """Hosts to which a redirect may lead."""
        extra = os.environ.get("HIGGSNB_ALLOW_HOSTS", "").split(",")
        named = {address.host for address in (self.address, *self.alternatives, self.mirror) if address is not None}
        return frozenset((named | {host.strip().lower() for host in extra} | CATALOGUE_HOSTS) - {""})

    @property
    def mirror_paths(self) -> tuple[str, ...]:
        """Where a mirror may have the file, below its root: the paths of all addresses, then their last parts."""
        paths = [path for address in (self.address, *self.alternatives) if (path := address.mirror_path)]
        if not paths:
            unusable = SourceError("permanent", "no path that a mirror could hold", "Correct the address.")
            raise self.error([(self.address, unusable)])
        return tuple(dict.fromkeys(paths + [path.rsplit("/", 1)[-1] for path in paths]))

    @property
    def sources(self) -> tuple[Address, ...]:
        """Addresses to try, in this order: those in the mirror if there is one, else those given."""
        if self.mirror is None:
            return (self.address, *self.alternatives)
        base = self.mirror.text.rstrip("/")
        return tuple(Address.of(f"{base}/{quote(path)}") for path in self.mirror_paths)

    def check_offered_size(self, total: int | None) -> None:
        """Raise `OtherSizeError` if a source offers a file of another size than the one requested."""
        self.check_text_size(total or 0)
        if total is not None and self.size is not None and total != self.size:
            hint = "Check the address, or bytes and adler32 in the campaign."
            raise OtherSizeError("checksum", f"offers {total} bytes, expected {self.size}", hint)

    def check_text_size(self, size: int) -> None:
        """Raise `OtherSizeError` if ``size`` bytes are more than a table or list can have."""
        if self.address.suffix in TEXT_FILES and size > text.TABLE_BYTES:
            what = f"more than {text.TABLE_BYTES // 2**20} MB for a {self.address.suffix} file"
            raise OtherSizeError("permanent", what, "Check the address: no table or list is so long.")

    def difference(self, size: int, adler32: Callable[[], str], hint: str) -> SourceError | None:
        """Compare a whole file with what was requested; return None if it agrees. ``adler32`` computes its checksum."""
        if self.size is not None and size != self.size:
            return SourceError("checksum", f"{size} bytes, expected {self.size}", hint)
        found = None if self.adler32 is None else adler32()
        if found != self.adler32:
            return SourceError("checksum", f"adler32 {found}, expected {self.adler32}", hint)
        return None

    def error(self, failures: Sequence[tuple[object, SourceError]]) -> OSError:
        """Return the exception for a file that no source gave; it names each source and why."""
        name = self.address.name
        tried = "; ".join(f"{redact(str(source))} ({failure.reason})" for source, failure in failures)
        reasons = [failure for _, failure in failures]
        asked = [failure for failure in reasons if failure.kind != "skipped"] or reasons
        for failure in asked:
            if failure.kind == "checksum":
                return ChecksumError(f"{name}: not the file that the catalogue describes; tried {tried}", failure.hint)
        for failure in asked:
            if failure.kind != "missing":
                verb = "read" if self.address.is_local else "fetched"
                return TransferError(f"{name}: cannot be {verb}; tried {tried}", failure.hint)
        hint = "Check the address, or list another address of the file under 'alternatives'."
        if self.mirror is not None:
            hint = f"Put the file there, or unset HIGGSNB_MIRROR ({self.mirror})."
        return MissingFileError(f"{name}: not found; tried {tried}", hint)


def adler32_of(path: Path) -> str:
    """Compute the adler32 of a file, eight hexadecimal digits."""
    with path.open("rb") as file:
        return _adler32(file)


def sha256_of(path: Path) -> str:
    """Compute the sha256 of a file, 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _adler32(file: IO[bytes]) -> str:
    value = 1
    while block := file.read(2**20):
        value = zlib.adler32(block, value)
    return f"{value:08x}"


class PartialDownload:
    """A file while it is downloaded: bytes under a temporary name, and which source they came from."""

    def __init__(self, path: Path, file: IO[bytes], *, resumable: bool) -> None:
        self.path, self.file, self.resumable = path, file, resumable
        self.origin = note_of(path)
        self.finished = False

    @property
    def size(self) -> int:
        """Bytes so far."""
        return os.fstat(self.file.fileno()).st_size

    def write(self, block: bytes) -> None:
        """Append a block."""
        self.file.write(block)
        self.file.flush()

    def reset(self) -> None:
        """Discard all bytes."""
        self.file.seek(0)
        self.file.truncate()
        self.origin.unlink(missing_ok=True)

    def check(self, request: FileRequest) -> None:
        """Discard the bytes and raise `SourceError` if they are not the file requested."""
        hint = "The bytes were discarded; check the address, or bytes and adler32 in the campaign."
        self.file.seek(0)  # the file that was written, whatever has that name by now; it is appended to all the same
        difference = request.difference(self.size, lambda: _adler32(self.file), hint)
        if difference is not None:
            self.reset()
            raise difference

    def version(self, source: Address) -> Version | None:
        """Return the version of the file to which this source said that the bytes so far belong; None if it did not."""
        return read_note(self.origin, source)

    def note_origin(self, source: Address, version: Version) -> None:
        """Keep the version of the file whose bytes a source gives."""
        known = {"place": _fingerprint(source), "size": version.size, "modified": version.modified, "tag": version.tag}
        with atomic_write(self.origin, mode=0o644) as temporary:
            temporary.write_text(json.dumps(known), encoding="utf-8")

    def finish(self, final: Path) -> None:
        """Give the bytes their final name, in one step, once they are on the disk; their version is noted beside it."""
        self.file.flush()
        os.fsync(self.file.fileno())
        if KEEPS_OPEN_FILES:
            self.file.close()
        note = note_of(final)
        note.unlink(missing_ok=True)  # never beside another content
        self.path.replace(final)
        self.finished = True
        with contextlib.suppress(FileNotFoundError):
            self.origin.replace(note)

    def close(self) -> None:
        """Keep what can be resumed; remove the rest before the lock is released: other processes wait for it."""
        if not self.finished and not (self.resumable and self.size):
            self.origin.unlink(missing_ok=True)
            if KEEPS_OPEN_FILES:
                self.file.close()
            self.path.unlink(missing_ok=True)
        self.file.close()


def note_of(path: Path) -> Path:
    """Return where it is noted which version of a file is in the cache, and which source gave it."""
    return path.with_name(path.name + ".json")


def read_note(note: Path, source: Address) -> Version | None:
    """Return the version of a file that a source gave, from a note of `PartialDownload`; None if it did not."""
    try:
        if stat.S_ISREG(note.lstat().st_mode):  # reading a pipe would not end
            known = json.loads(note.read_text(encoding="utf-8"))
            if known["place"] == _fingerprint(source):
                return Version(known["size"], str(known["modified"]), str(known["tag"]))
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return None


def _fingerprint(source: Address) -> str:
    return hashlib.sha256(source.without_secrets.encode()).hexdigest()
