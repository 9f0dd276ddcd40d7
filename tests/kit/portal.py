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


def golden_json(certified: Mapping[int, Iterable[tuple[int, int]]]) -> bytes:
    """A list of certified lumi sections, (first, last) by run, as the records of validated runs have it."""
    spans = {str(run): [list(span) for span in ranges] for run, ranges in certified.items()}
    return json.dumps(spans).encode()


def luminosity_table(recorded: Mapping[tuple[int, int], float]) -> bytes:
    """A table as the luminosity records have it: recorded luminosity in 1/fb by (run, section).

    It is what ``brilcalc lumi --byls -u /fb --output-style csv`` writes, with the comments around.
    """
    lines = [
        "#Brilcalc command:  brilcalc lumi -c web --byls -i Cert.txt -u /fb --normtag normtag.json --output-style csv",
        "#Data tag : 22v1 , Norm tag: normtag_PHYSICS.json",
        "#run:fill,ls,time,beamstatus,E(GeV),delivered(/fb),recorded(/fb),avgpu,source",
    ]
    for (run, section), luminosity in recorded.items():
        when = f"{run}:5199,{section}:{section},08/19/16 20:55:44,STABLE BEAMS,6500"
        lines.append(f"{when},{luminosity / 0.93:.12f},{luminosity:.12f},24.1,PXL")
    total = sum(recorded.values())
    runs = len({run for run, _ in recorded})
    lines += [
        "#Summary:",
        "#nfill,nrun,nls,ncms,totdelivered(/fb),totrecorded(/fb)",
        f"#{runs},{runs},{len(recorded)},{len(recorded)},{total / 0.93:.9f},{total:.9f}",
    ]
    return ("\n".join(lines) + "\n").encode()
