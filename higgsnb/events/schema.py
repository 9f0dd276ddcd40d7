"""The schema of event files: which branches hold which quantity, and the errors where a file does not have them.

``outreach``
    The 32-branch files of CERN Open Data records 12361-12368 (tree ``Events``).
``nanoaod``
    CMS NanoAOD, of which the same branches are read; TTree or RNTuple.
``csv``
    One row per four-lepton candidate, as in record 5200; no isolation or impact parameters, lepton masses from the PDG.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from higgsnb.datasets import Version, constants
from higgsnb.errors import SchemaError, UnreadableError, did_you_mean
from higgsnb.selection import ELECTRON, MUON, Leptons

TREE = "Events"
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
    generator weights or a tree ``Runs``, or may have, as long as it has not been opened.
    """

    entries: int
    kind: str
    bytes: int | None
    uuid: str | None
    version: Version | None = None
    weighted: bool = True


class Read(NamedTuple):
    """What was read of a chunk: the events that have enough leptons for a channel, and how they were read.

    ``entries`` (n,) int64 are their indices in the file; ``n_events`` counts all events of the chunk. ``reader`` is
    "baskets" or "pages" (the fast readers of TTree and RNTuple), "uproot" (for files of a form these do not know) or
    "csv". ``integrity`` says which checksums covered the bytes: those of the whole "file", of its "blocks", or "none".
    """

    leptons: Leptons
    entries: npt.NDArray[np.int64]
    n_events: int
    reader: str
    integrity: str


class Generator(NamedTuple):
    """What a chunk of simulation says of its generator.

    ``smallest`` and ``largest`` weight of its events (1 if they have none); ``events``, how many generated events the
    whole file stands for, more than it holds if it is a skim, and None if it does not say.
    """

    smallest: float
    largest: float
    events: int | None


def check_branches(tree: Any, location: str) -> None:
    """Raise `SchemaError` for branches that are missing, with the name most like the first, or of the wrong type.

    So it does for an object that is no tree at all, such as a histogram.
    """
    if not hasattr(type(tree), "num_entries"):
        raise SchemaError(
            f"{location}: {TREE!r} is a {getattr(tree, 'classname', 'folder')}, neither a TTree nor an RNTuple",
            "Is this a file of events? Give the one that holds them.",
        )
    present = list(tree.keys())
    missing = [branch for branch in BRANCHES.values() if branch not in set(present)]
    if missing:
        more = f" and {len(missing) - 6} more" if len(missing) > 6 else ""
        raise SchemaError(
            f"{location}: tree {TREE!r} lacks {', '.join(missing[:6])}{more}",
            " ".join(f"For {branch}: {did_you_mean(branch, present)}" for branch in missing[:3])
            + " Is this a file of the schema that the campaign names?",
        )
    for column, branch in BRANCHES.items():
        if column in ("run", "luminosity_block", "event") or column.endswith("offsets"):
            expected = "one integer per event"
        else:
            expected = "integers per lepton" if column.endswith("charge") else "float per lepton"
        if unread := _unread_type(tree[branch]):
            raise SchemaError(
                f"{location}: branch {branch} is stored as {unread}, which is not supported",
                "The file may be whole: write this branch as float (/F), for example with RDataFrame's Snapshot.",
            )
        found = tree[branch].typename
        if found is not None:
            per_lepton = bool(re.search(r"\[\]|RVec<|vector<", found))
            kind = "float" if re.search(r"float|double|real", found) else "integer" if "int" in found else "other"
            if per_lepton != expected.endswith("per lepton") or kind not in expected:
                raise SchemaError(
                    f"{location}: branch {branch} has type {found}; expected {expected}",
                    "Is this a file of the schema that the campaign names?",
                )


def _unread_type(branch: Any) -> str | None:
    """Return the type of a branch if uproot cannot read it, or takes its packed numbers for plain ones; else None."""
    if not hasattr(branch, "member"):  # a field of an RNTuple
        return None
    for leaf in branch.member("fLeaves"):
        title = str(leaf.member("fTitle"))
        if leaf.classname == "TLeafF16":
            return "Float16_t"
        if leaf.classname == "TLeafD32" and re.search(r"\[[^]]*,", f"{title} {branch.title}"):
            return f"Double32_t in a range of its own ({branch.title})"
    return None


def check_tree(names: Iterable[str], location: str) -> None:
    """Raise an error if a file, by the names of its objects, does not hold the tree of events."""
    present = set(names)
    if not present:
        raise UnreadableError(
            f"{location}: is a ROOT file without any object; its writer was stopped before it closed the file",
            "Fetch the file again, or produce it again.",
        )
    if TREE not in present:
        raise SchemaError(
            f"{location}: no tree {TREE!r}; it holds {', '.join(sorted(present))}",
            "Is this a file of the schema that the campaign names?",
        )


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


def offsets_of(counter: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """Return where each event's leptons start, (n_events + 1,) int64, from their numbers."""
    return np.concatenate(([0], np.cumsum(np.asarray(counter).astype(np.int64))))
