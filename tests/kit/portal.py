"""What the CERN Open Data portal serves beside the events, in its exact form: file indexes and their checksums."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Mapping
from typing import Any

XROOTD, HTTPS = "root://eospublic.cern.ch//eos/opendata/", "https://opendata.cern.ch/eos/opendata/"


def adler32(content: bytes) -> str:
    """Eight hexadecimal digits."""
    return f"{zlib.adler32(content):08x}"


def entry(uri: str, size: int, checksum: str) -> dict[str, Any]:
    """One file in an index; ``checksum`` is eight hexadecimal digits."""
    return {"checksum": f"adler32:{checksum}", "filename": uri.rsplit("/", 1)[-1], "size": size, "uri": uri}


def file_index(entries: Iterable[Mapping[str, Any]]) -> bytes:
    """A file index as cernopendata/data-curation writes it (cms-2016-collision-datasets/code)."""
    return (json.dumps(list(entries), indent=2, sort_keys=True, separators=(",", ": ")) + "\n").encode()
