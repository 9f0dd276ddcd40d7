"""Whether a copy in the cache is what its server has now: the version noted with it against the present one."""

from __future__ import annotations

import threading
import time
from pathlib import Path

from higgsnb.datasets.files import transfer
from higgsnb.datasets.files.addresses import Address
from higgsnb.datasets.files.cache import content_digest
from higgsnb.datasets.files.request import FileRequest, OtherSizeError, SourceError, note_of, read_note
from higgsnb.datasets.files.versions import Version
from higgsnb.redaction import logger
from higgsnb.storage import distrust

log = logger(__name__)

ASK_AGAIN = 60.0  # s before a server that did not answer is asked again

_failed: dict[str, float] = {}  # when a server last did not answer
_noting = threading.Lock()


def is_current(path: Path, request: FileRequest, known: Version | None) -> bool:
    """Whether a copy may be used: its checksum was stated, it is of the version ``known``, or its server has no other.

    Where no server can say so it is used as well, with a warning, once for each server.
    """
    if request.adler32 is not None or (known is not None and _is_version(path, known)):
        return True
    if request.mirror is not None and not request.mirror.is_remote:
        return True
    note = note_of(path)
    noted = {} if distrust(note) else {source: read_note(note, source) for source in request.sources}
    origin = next((source for source, version in noted.items() if version is not None), None)
    for source in request.sources if origin is None else (origin,):
        try:
            found = _ask(source, request)
        except OtherSizeError:
            return False
        except SourceError as failure:
            _warn(source, request, failure)
            continue
        if found is not None:
            size, before = path.stat().st_size, noted.get(source)
            if before is None:  # of what the copy is a copy, is not known
                return not found.has_validators and found.size in (None, size)
            difference = before._replace(size=size).difference(found)
            if difference:
                log.info("%s: was replaced on its server (%s)", request.address.name, difference)
            return not difference
    return True


def _is_version(path: Path, known: Version) -> bool:
    """Whether a copy is of a version that was found before, on this or another machine."""
    return Version.of_file(path) == known._replace(digest="") or (
        bool(known.digest) and content_digest(path) == known.digest
    )


def _ask(source: Address, request: FileRequest) -> Version | None:
    """Return the present version of a file at a source; None if the server did not answer a moment ago."""
    failed = _failed.get(source.server)
    if failed is not None and time.monotonic() - failed < ASK_AGAIN:
        return None
    return transfer.present_version(source, request)


def _warn(source: Address, request: FileRequest, failure: SourceError) -> None:
    """Say that a copy is used without its server; of a server that does not answer only once in a while."""
    if failure.kind == "transient":
        with _noting:
            failed, _failed[source.server] = _failed.get(source.server), time.monotonic()
        if failed is not None and time.monotonic() - failed < ASK_AGAIN:
            return
        log.warning(
            "%s: does not say whether its files were replaced (%s): the copies in the cache are used",
            source.server,
            failure.reason,
        )
    else:
        log.warning(
            "%s: whether it was replaced on %s is not known (%s): the copy in the cache is used",
            request.address.name,
            source.server,
            failure.reason,
        )
