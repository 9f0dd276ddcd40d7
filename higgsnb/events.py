"""From a chunk of a file to `Leptons`: the only module that knows uproot and the names of branches.

Schemas
-------
``outreach``
    The 32-branch files of CERN Open Data records 12361-12368 (tree ``Events``).
``nanoaod``
    CMS NanoAOD, of which the same branches are read; TTree or RNTuple.
``csv``
    One row per four-lepton candidate, as in record 5200; no isolation or impact parameters, lepton masses from the PDG.
"""

from __future__ import annotations

import csv
import difflib
import re
import struct
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from higgsnb import files
from higgsnb.selection import ELECTRON, MUON, Leptons

if TYPE_CHECKING:
    from higgsnb.datasets import Chunk, File

TREE = "Events"
MASSES = {MUON: 0.1056583755, ELECTRON: 0.00051099895}
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

CSV_COLUMNS = (
    "Run",
    "Event",
    *(f"{name}{i}" for i in range(1, 5) for name in ("PID", "pt", "eta", "phi", "Q")),
)


class SchemaError(ValueError):
    """A file whose branches are not those of its schema."""


class UnreadableError(OSError):
    """A file that is there but cannot be read: not ROOT, truncated, a corrupted block."""


@dataclass(frozen=True)
class FileInfo:
    """What a file says of itself: number of entries, TTree, RNTuple or CSV, bytes and ROOT's UUID (None for CSV)."""

    entries: int
    kind: str
    bytes: int | None
    uuid: str | None


def inspect(file: File, schema: str) -> FileInfo:
    """Open a file, check it against its schema, and count its entries; no event is read.

    Raises
    ------
    FileNotFoundError
        If the file is in none of the places tried; names them.
    UnreadableError
        If it is empty, not a ROOT file, truncated or damaged.
    SchemaError
        If branches are missing (with the nearest present names) or have the wrong type.
    ValueError
        If the number of entries differs from the one in the campaign.
    """
    source = files.locate(file.url, alternatives=file.alternatives, size=file.bytes, adler32=file.adler32)
    info = _inspect_csv(source.location) if schema == "csv" else _inspect_root(source.location)
    if file.events is not None and info.entries != file.events:
        raise ValueError(
            f"{file.url}: holds {info.entries:,} events, the campaign says {file.events:,}; "
            "correct `events` in the campaign or fetch the file again"
        )
    return info


def read_leptons(chunk: Chunk) -> Leptons:
    """Read one chunk's muons and electrons as flat columns.

    Returns
    -------
    Leptons
        ``muon_offsets`` and ``electron_offsets`` (n_events + 1,) int64; momenta in GeV, angles in radians, lengths in
        cm.

    Raises
    ------
    FileNotFoundError, UnreadableError, SchemaError
        As `inspect` does.
    """
    file = chunk.file
    source = files.locate(file.url, alternatives=file.alternatives, size=file.bytes, adler32=file.adler32)
    if chunk.schema == "csv":
        return _read_csv(source.location, chunk.start, chunk.stop)
    return _read_root(source.location, chunk.start, chunk.stop)


# --- ROOT ----------------------------------------------------------------------------------------------------


def _inspect_root(location: str) -> FileInfo:
    """Check a ROOT file and count its entries."""
    with _open_tree(location) as tree:
        check_branches(tree.keys(), tree.typenames() if hasattr(tree, "typenames") else {}, location)
        kind = "RNTuple" if "RNTuple" in type(tree).__name__ else "TTree"
        size = Path(location).stat().st_size if Path(location).exists() else None
        return FileInfo(int(tree.num_entries), kind, size, str(tree.file.uuid))


def _read_root(location: str, start: int, stop: int) -> Leptons:
    """Read the entries [start, stop) of a TTree or RNTuple through uproot."""
    with _open_tree(location) as tree:
        columns = {
            column: tree[branch].array(entry_start=start, entry_stop=stop) for column, branch in BRANCHES.items()
        }
    offsets = {name: _offsets(columns[f"{name}_offsets"]) for name in ("muon", "electron")}
    return Leptons(**{column: _flat(column, array, offsets, location) for column, array in columns.items()})


def _offsets(counter: Any) -> npt.NDArray[np.int64]:
    """Return where each event's leptons start, (n_events + 1,) int64, from their numbers."""
    counts = np.asarray(counter).astype(np.int64)
    return np.concatenate(([0], np.cumsum(counts)))


def _flat(column: str, array: Any, offsets: Mapping[str, npt.NDArray[np.int64]], location: str) -> npt.NDArray[Any]:
    """Return a column of `Leptons` from the array uproot gave; a jagged one must agree with its counter."""
    import awkward as ak

    if column in ("run", "luminosity_block", "event"):
        return np.asarray(array).astype(np.uint64 if column == "event" else np.int64)
    flavour = column.partition("_")[0]
    if column == f"{flavour}_offsets":
        return offsets[flavour]
    if not np.array_equal(np.asarray(ak.num(array)), np.diff(offsets[flavour])):
        raise UnreadableError(
            f"{location}: {BRANCHES[column]} does not have as many values as {BRANCHES[flavour + '_offsets']} says"
        )
    return np.ascontiguousarray(ak.flatten(array)).astype(np.int32 if column.endswith("charge") else np.float32)


def check_branches(present: Iterable[str], types: Mapping[str, str], location: str) -> None:
    """Complain about branches that are missing or of the wrong type, naming the nearest present ones."""
    present = set(present)
    missing = [branch for branch in BRANCHES.values() if branch not in present]
    if missing:
        described = "; ".join(f"{branch}{_nearest(branch, present)}" for branch in missing[:6])
        more = f" and {len(missing) - 6} more" if len(missing) > 6 else ""
        raise SchemaError(
            f"{location}: tree {TREE!r} lacks {described}{more}\nIs this a file of the schema that the campaign names?"
        )
    for column, branch in BRANCHES.items():
        if branch in types and not _has_type(column, types[branch]):
            raise SchemaError(
                f"{location}: branch {branch} has type {types[branch]}; expected {_expected_type(column)}"
            )


def _nearest(name: str, present: Iterable[str]) -> str:
    """Return `` (nearest: …)`` with the present names most like a missing one."""
    close = difflib.get_close_matches(name, present, n=2, cutoff=0.6)
    return f" (nearest: {', '.join(close)})" if close else ""


def _expected_type(column: str) -> str:
    """Return in words what type the branch of a column has."""
    if column in ("run", "luminosity_block", "event") or column.endswith("offsets"):
        return "one integer per event"
    return "integers per lepton" if column.endswith("charge") else "float per lepton"


def _has_type(column: str, typename: str) -> bool:
    """Whether ROOT's name of a type is what a column needs."""
    jagged = bool(re.search(r"\[\]|RVec<|vector<", typename))
    kind = "float" if re.search(r"float|double|real", typename) else "integer" if "int" in typename else "other"
    expected = _expected_type(column)
    return jagged == expected.endswith("per lepton") and expected.startswith(
        ("one integer", "integer") if kind == "integer" else kind
    )


@contextmanager
def _open_tree(location: str) -> Iterator[Any]:
    """Open the tree of a file; whatever goes wrong with its bytes becomes one clear error."""
    import uproot

    diagnose(location)
    try:
        with uproot.open(location, object_cache=None, array_cache=None) as directory:
            _check_tree(directory.keys(recursive=False, cycle=False), location)
            yield directory[TREE]
    except (SchemaError, UnreadableError, FileNotFoundError, MemoryError):
        raise
    except Exception as error:  # uproot raises whatever the damage leads to: struct.error, zlib.error, IndexError, …
        detail = str(error).strip().splitlines()[0] if str(error).strip() else ""
        raise UnreadableError(
            f"{location}: cannot be read ({type(error).__name__}: {detail[:160]})\n"
            "The file is damaged or incomplete; fetch it again."
        ) from error


def _check_tree(names: Iterable[str], location: str) -> None:
    """Complain if there is no tree of events."""
    if TREE not in names:
        raise SchemaError(f"{location}: no tree {TREE!r}; it holds {', '.join(sorted(set(names))) or 'nothing'}")


def diagnose(location: str) -> None:
    """Say what is wrong with a local file that is no complete ROOT file, before uproot stumbles over it."""
    path = Path(location)
    if "://" in location or not path.is_file():
        return
    size = path.stat().st_size
    with path.open("rb") as stream:
        head = stream.read(512)
    if not head:
        raise UnreadableError(f"{location}: is empty (0 bytes); fetch it again")
    if head.lstrip()[:1] == b"<":
        raise UnreadableError(
            f"{location}: is an HTML or XML page, not a ROOT file; the link gave an error page, check it in a browser"
        )
    if head[:4] != b"root" or len(head) < 64:
        raise UnreadableError(f"{location}: is not a ROOT file (begins with {head[:8]!r}); check the address")
    expected = _size_in_header(head)
    if size < expected:
        raise UnreadableError(f"{location}: is truncated: {size:,} bytes, its header says {expected:,}; fetch it again")


def _size_in_header(head: bytes) -> int:
    """Return fEND of a ROOT file header: where the file ends, in bytes."""
    version = struct.unpack(">i", head[4:8])[0]
    return int(struct.unpack(">q", head[12:20])[0] if version >= 1_000_000 else struct.unpack(">i", head[12:16])[0])


# --- CSV -----------------------------------------------------------------------------------------------------


def _inspect_csv(location: str) -> FileInfo:
    """Check a CSV file and count its rows."""
    return FileInfo(len(_rows(location, _identity(location))), "CSV", Path(location).stat().st_size, None)


def _identity(location: str) -> tuple[int, int]:
    """Return size and modification time: a CSV that changes is read again."""
    stat = Path(location).stat()
    return stat.st_size, stat.st_mtime_ns


@lru_cache(maxsize=16)
def _rows(location: str, _identity: tuple[int, int]) -> npt.NDArray[np.float64]:
    """Return the columns of `CSV_COLUMNS`, (n_rows, 22) float64."""
    with Path(location).open(newline="", encoding="utf-8", errors="replace") as stream:
        reader = csv.DictReader(stream)
        header = reader.fieldnames or []
        missing = [name for name in CSV_COLUMNS if name not in header]
        if missing:
            described = "; ".join(f"{name}{_nearest(name, header)}" for name in missing[:6])
            raise SchemaError(f"{location}: the CSV lacks the columns {described}")
        rows = [_row(location, reader.line_num, row) for row in reader]
    return np.array(rows, np.float64).reshape(len(rows), len(CSV_COLUMNS))


def _row(location: str, line: int, row: Mapping[str, str]) -> list[float]:
    """Return the numbers of one line."""
    try:
        return [float(row[name]) for name in CSV_COLUMNS]
    except (TypeError, ValueError) as error:
        raise UnreadableError(
            f"{location}, line {line}: not a row of numbers ({error}); fetch the file again"
        ) from error


def _read_csv(location: str, start: int, stop: int) -> Leptons:
    """Read the rows [start, stop) of a CSV file; its Event numbers are wrapped 32-bit integers."""
    rows = _rows(location, _identity(location))[start:stop]
    leptons = rows[:, 2:].reshape(-1, 4, 5)
    muons, electrons = _csv_flavour(leptons, MUON), _csv_flavour(leptons, ELECTRON)
    event = (rows[:, 1].astype(np.int64) % 2**32).astype(np.uint64)
    return Leptons._make((rows[:, 0].astype(np.int64), np.zeros(len(rows), np.int64), event, *muons, *electrons))


def _csv_flavour(leptons: npt.NDArray[np.float64], pdg_id: int) -> tuple[npt.NDArray[Any] | None, ...]:
    """Return the columns of one flavour from (n_rows, 4, [PID, pt, eta, phi, Q])."""
    mine = np.abs(leptons[:, :, 0]) == pdg_id
    pt, eta, phi = (leptons[:, :, i][mine].astype(np.float32) for i in (1, 2, 3))
    mass = np.full(len(pt), MASSES[pdg_id], np.float32)
    charge = leptons[:, :, 4][mine].astype(np.int32)
    return (_offsets(mine.sum(axis=1)), pt, eta, phi, mass, charge, None, None, None, None, None)
