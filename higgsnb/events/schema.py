"""The schema of event files: which branches hold which quantity, and the errors where a file does not have them.

``outreach``
    The 32-branch files of CERN Open Data records 12361-12368 (tree ``Events``).
``nanoaod``
    CMS NanoAOD of any version, that of Run 1 (records 31104-31133) included; TTree or RNTuple. The same branches are
    read for four leptons. A flavour of which a file has nothing counts as none.
``atlas``
    ATLAS Open Data for education, see `atlas`.
``csv``
    One row per four-lepton candidate, as in record 5200; no isolation or impact parameters, lepton masses from the PDG.
    With names of columns in the campaign (``[campaign.columns]``) any table with one row per event.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from higgsnb.datasets import Version, constants
from higgsnb.errors import SchemaError, UnreadableError
from higgsnb.events.columns import EventColumns
from higgsnb.selection import ELECTRON, MUON, Leptons

TREE = "Events"
"""The tree of events, unless the campaign names another one."""
RELEASES = {"mini": 1000.0, "analysis": 1.0}
"""Trees of events in ATLAS Open Data of 2016 and 2020, and of 2025; in each so many units of energy make a GeV."""
MASSES = {MUON: constants.MASS_MUON, ELECTRON: constants.MASS_ELECTRON}
"""Lepton masses in GeV (Particle Data Group 2024), for files that hold none."""

_MOMENTUM = ("pt", "eta", "phi", "mass", "charge")
_VERTEX = {"dxy": "dxy", "dxy_error": "dxyErr", "dz": "dz", "dz_error": "dzErr"}

BRANCHES: dict[str, str] = {
    "run": "run",
    "luminosity_block": "luminosityBlock",
    "event": "event",
    "muon_offsets": "nMuon",
    **{f"muon_{name}": f"Muon_{name}" for name in _MOMENTUM},
    **{f"muon_{name}": f"Muon_{branch}" for name, branch in _VERTEX.items()},
    "muon_isolation": "Muon_pfRelIso04_all",
    "electron_offsets": "nElectron",
    **{f"electron_{name}": f"Electron_{name}" for name in _MOMENTUM},
    **{f"electron_{name}": f"Electron_{branch}" for name, branch in _VERTEX.items()},
    "electron_isolation": "Electron_pfRelIso03_all",
}
"""The branch behind each column of `Leptons`, the same in ``outreach`` and ``nanoaod``."""

GENERATOR_WEIGHT = "genWeight"
"""The weight of a simulated event in NanoAOD."""


@dataclass(frozen=True)
class FileInfo:
    """What is known of an open file; ``kind`` is "TTree", "RNTuple" or "CSV", ``uuid`` that of ROOT, None for CSV.

    ``version`` identifies its content; None if a checksum does, which the campaign states. ``weighted``: whether it has
    generator weights or a tree ``Runs``, or may have, as long as it has not been opened. ``friends`` are the versions
    of the files with further branches, in their order.
    """

    entries: int
    kind: str
    bytes: int | None
    uuid: str | None
    version: Version | None = None
    weighted: bool = True
    friends: tuple[Version, ...] = ()


class Read(NamedTuple):
    """What was read of a chunk: the events that have enough leptons for a channel, and how they were read.

    ``entries`` (n,) int64 are their indices in the file; ``n_events`` counts all events of the chunk. ``columns`` are
    the others that were asked for, of the same events; ``reader``, ``integrity`` and ``missing`` as in `EventColumns`.
    """

    leptons: Leptons
    entries: npt.NDArray[np.int64]
    n_events: int
    reader: str
    integrity: str
    missing: frozenset[str] = frozenset()
    columns: EventColumns | None = None


class Generator(NamedTuple):
    """What a chunk of simulation says of its generator.

    ``weights`` (n_events of the chunk,) float64, None if events have none (then each counts 1). ``exponent`` is the
    power of two below their size, ⌊log₂⌋ of the median of the first 1000 that are not zero in the file: the same for
    all chunks of a file. ``generated`` is the sum of the weights of all generated events that the whole file stands
    for, which are more than it holds if it is a skim; None if it does not say. ``number`` is how many they are, NaN if
    it does not say.
    """

    weights: npt.NDArray[np.float64] | None
    exponent: int
    generated: float | None
    number: float


def trees_of(schema: str, tree: str) -> tuple[str, ...]:
    """Return the names that the tree of events may have: that of the campaign, or else those of ATLAS's releases."""
    return tuple(RELEASES) if schema == "atlas" and tree == TREE else (tree,)


def tree_among(names: Iterable[str], trees: Sequence[str], location: str) -> str:
    """Return the first of some trees that is among the objects of a file; raise an error if none of them is there."""
    present = set(names)
    if not present:
        raise UnreadableError(
            f"{location}: is a ROOT file without any object; its writer was stopped before it closed the file",
            "Fetch the file again, or produce it again.",
        )
    found = next((tree for tree in trees if tree in present), None)
    if found is None:
        raise SchemaError(
            f"{location}: no tree {' or '.join(map(repr, trees))}; it holds {', '.join(sorted(present))}",
            "Is this a file of the schema that the campaign names?",
        )
    return found


def diagnose(location: str) -> None:
    """Raise `UnreadableError` for a local file that is empty, an HTML page, not a ROOT file, or truncated.

    These are common, and give obscure errors in uproot.
    """
    path = Path(location)
    if "://" in location or not path.is_file():
        return
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(512)
    if not head:
        raise UnreadableError(f"{location}: is empty (0 bytes)", "Fetch the file again.")
    if head.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"<":
        raise UnreadableError(
            f"{location}: is an HTML or XML page, not a ROOT file",
            "The link gave an error page: open it in a browser.",
        )
    if head[:4] != b"root" or len(head) < 64:
        raise UnreadableError(f"{location}: is not a ROOT file (begins with {head[:8]!r})", "Check the address.")
    is_big = struct.unpack(">i", head[4:8])[0] >= 1_000_000
    end = struct.unpack(">q", head[12:20])[0] if is_big else struct.unpack(">i", head[12:16])[0]  # fEND
    if size < end:
        raise UnreadableError(
            f"{location}: is truncated: {size:,} bytes, its header says {end:,}", "Fetch the file again."
        )
