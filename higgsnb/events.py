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
import io
import logging
import re
import struct
from collections.abc import Container, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import numpy as np
import numpy.typing as npt

from higgsnb import files, survivors
from higgsnb.blocks import UnexpectedFormError
from higgsnb.constants import MASS_ELECTRON, MASS_MUON
from higgsnb.errors import DamagedFileError, SchemaError, UnreadableError
from higgsnb.selection import ELECTRON, MUON, Leptons

if TYPE_CHECKING:
    from higgsnb.baskets import BasketReader
    from higgsnb.datasets import Chunk, File
    from higgsnb.pages import PageReader

log = logging.getLogger(__name__)

TREE = "Events"
MASSES = {MUON: MASS_MUON, ELECTRON: MASS_ELECTRON}
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

CSV_COLUMNS = (
    "Run",
    "Event",
    *(f"{name}{i}" for i in range(1, 5) for name in ("PID", "pt", "eta", "phi", "Q")),
)


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
    source = _locate(file)
    info = _inspect_csv(source.location) if schema == "csv" else _inspect_root(source)
    _check_events(info.entries, file.events, file)
    return info


def described(file: File) -> FileInfo | None:
    """Return what the campaign says of a file if that identifies it, so that it need not be opened beforehand.

    The reader holds the file against it. None unless number of events, size and checksum are all given.
    """
    if file.events is None or file.bytes is None or file.adler32 is None:
        return None
    return FileInfo(file.events, "", file.bytes, None)


def _check_events(found: int, expected: int | None, file: File) -> None:
    """Complain if a file does not hold as many events as it should."""
    if expected is not None and found != expected:
        raise ValueError(
            f"{file.url}: holds {found:,} events, the campaign says {expected:,}; "
            "correct `events` in the campaign or fetch the file again"
        )


def _check_same(chunk: Chunk, entries: int, uuid: str) -> None:
    """Complain if a file does not hold as many events as were planned with, or is another one than then."""
    if chunk.entries is not None and entries != chunk.entries and chunk.file.events is None:
        _other_file(chunk, f"holds {entries:,} events; {chunk.entries:,} when the run began")
    _check_events(entries, chunk.file.events, chunk.file)
    if chunk.fingerprint not in (None, chunk.file.adler32, uuid):
        _other_file(chunk, f"is not the file that it was when the run began (UUID {uuid}, not {chunk.fingerprint})")


def _other_file(chunk: Chunk, what: str) -> NoReturn:
    """Complain about a file that is another one than when the run began."""
    raise UnreadableError(
        f"{chunk.file.url}: {what}\nThe file has changed, or workers see another one than this process; run again."
    )


class Read(NamedTuple):
    """What was read of a chunk: the events that have enough leptons for a channel, and how they were read.

    ``entries`` (n,) int64 are their places in the file; ``n_events`` counts all events of the chunk. ``reader`` is
    "baskets" or "pages" (the fast readers of TTree and RNTuple), "uproot" (for files of a form these do not know) or
    "csv". ``integrity`` says which checksums covered the bytes: those of the whole "file", of its "blocks", or "none".
    """

    leptons: Leptons
    entries: npt.NDArray[np.int64]
    n_events: int
    reader: str
    integrity: str


def read_survivors(chunk: Chunk) -> Read:
    """Read of one chunk only the events that have enough leptons for a channel.

    Raises
    ------
    FileNotFoundError, UnreadableError, SchemaError
        As `inspect` does.
    """
    source = _locate(chunk.file)
    whole = "file" if source.verified else "none"
    if chunk.schema == "csv":
        if chunk.fingerprint not in (None, chunk.file.adler32, files.checksum(Path(source.location))):
            _other_file(chunk, "is not the file that it was when the run began")
        return _all_events(_read_csv(source.location, chunk.start, chunk.stop), chunk, "csv", whole)
    try:
        with _clear_errors(source.location):
            reader = _reader(source, unseen=described(chunk.file) is not None)
        _check_same(chunk, reader.n_entries, reader.uuid)
        with _clear_errors(source.location):
            found = reader.read(chunk.start, chunk.stop)
    except UnexpectedFormError as error:
        log.info("%s: read by uproot, as %s", source, error)
        with _open_tree(source) as tree:
            entries, uuid = int(tree.num_entries), str(tree.file.uuid)
        _check_same(chunk, entries, uuid)
        return _all_events(_read_root(source, chunk.start, chunk.stop), chunk, "uproot", whole)
    integrity = "file" if source.verified else "blocks" if found.notes.verified else "none"
    leptons = survivors.to_leptons(found, BRANCHES)
    return Read(leptons, found.entries, found.n_read, reader.name, integrity)


def _all_events(leptons: Leptons, chunk: Chunk, reader: str, integrity: str) -> Read:
    """Return a read that holds every event of the chunk."""
    return Read(leptons, np.arange(chunk.start, chunk.start + leptons.n_events), leptons.n_events, reader, integrity)


def read_leptons(chunk: Chunk) -> Leptons:
    """Read the muons and electrons of all events of a chunk, through uproot.

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
    source = _locate(chunk.file)
    if chunk.schema == "csv":
        return _read_csv(source.location, chunk.start, chunk.stop)
    return _read_root(source, chunk.start, chunk.stop)


def read_sections(chunk: Chunk) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Read run and luminosity block of all events of a chunk, each (n_events,) int64; raises as `read_leptons` does."""
    source = _locate(chunk.file)
    if chunk.schema == "csv":
        leptons = _read_csv(source.location, chunk.start, chunk.stop)
        return leptons.run, leptons.luminosity_block
    try:
        with _clear_errors(source.location):
            reader = _reader(source, unseen=described(chunk.file) is not None)
            run, section = (
                reader.flat(BRANCHES[name], chunk.start, chunk.stop).astype(np.int64)
                for name in ("run", "luminosity_block")
            )
            return run, section
    except UnexpectedFormError as error:
        log.info("%s: sections read by uproot, as %s", source, error)
    with _open_tree(source) as tree:
        run, section = (
            np.asarray(tree[BRANCHES[name]].array(entry_start=chunk.start, entry_stop=chunk.stop)).astype(np.int64)
            for name in ("run", "luminosity_block")
        )
    return run, section


def check_weights(chunk: Chunk) -> None:
    """Complain about simulation whose events do not all have the same generator weight.

    Raises
    ------
    SchemaError
        If ``genWeight`` differs between events: counting events would then not give the expected number.
    """
    source = _locate(chunk.file)
    with _open_tree(source) as tree:
        if GENERATOR_WEIGHT not in tree.keys():  # noqa: SIM118 - a tree is no dict
            return
        weights = np.asarray(tree[GENERATOR_WEIGHT].array(entry_start=chunk.start, entry_stop=chunk.stop))
    other = int(np.count_nonzero(weights != weights[:1])) if len(weights) else 0
    if other:
        raise SchemaError(
            f"{chunk.file.url}: {other} of {len(weights)} events have another {GENERATOR_WEIGHT} than the first; "
            "weighted simulation is not supported yet\nLeave this dataset out, or use a sample without weights."
        )


def fingerprint(file: File, info: FileInfo) -> str | None:
    """Return the checksum of a file if the campaign states it, else ROOT's UUID, else the adler32 of a CSV file."""
    if file.adler32 is not None or info.uuid is not None:
        return file.adler32 or info.uuid
    return files.checksum(Path(_locate(file).location))


def identity(file: File) -> list[Any]:
    """Return what tells a file from any other: its checksum if verified, else place, size and time of change."""
    source = _locate(file)
    if source.verified:
        return [file.adler32, source.size]
    return [source.location, source.size] if _is_remote(source) else [source.location, *_identity(source.location)]


def _locate(file: File) -> files.Source:
    """Return where a file can be read."""
    return files.locate(file.url, alternatives=file.alternatives, size=file.bytes, adler32=file.adler32)


# --- ROOT ----------------------------------------------------------------------------------------------------


def _inspect_root(source: files.Source) -> FileInfo:
    """Check a ROOT file and count its entries."""
    with _open_tree(source) as tree:
        _check_types(tree, source.location)
        kind = "RNTuple" if "RNTuple" in type(tree).__name__ else "TTree"
        size = source.size if _is_remote(source) else Path(source.location).stat().st_size
        return FileInfo(int(tree.num_entries), kind, size, str(tree.file.uuid))


def _read_root(source: files.Source, start: int, stop: int) -> Leptons:
    """Read the entries [start, stop) of a TTree or RNTuple through uproot."""
    with _open_tree(source) as tree:
        columns = {
            column: tree[branch].array(entry_start=start, entry_stop=stop) for column, branch in BRANCHES.items()
        }
    offsets = {name: _offsets(columns[f"{name}_offsets"]) for name in ("muon", "electron")}
    return Leptons(**{column: _flat(column, array, offsets, source.location) for column, array in columns.items()})


def _reader(source: files.Source, *, unseen: bool) -> BasketReader | PageReader:
    """Return the fast reader of a file; one that `inspect` has not seen is held against its schema."""
    if _is_remote(source):
        return _kept_reader(source.location, source.size or 0, source.verified, unseen, None)
    return _kept_reader(source.location, None, source.verified, unseen, _identity(source.location))


@lru_cache(maxsize=32)
def _kept_reader(
    location: str, remote_size: int | None, verified: bool, unseen: bool, _identity: tuple[int, int] | None
) -> BasketReader | PageReader:
    """Open a file; it stays open, as opening one of NanoAOD's 1500 branches takes a second. Threads share it."""
    diagnose(location)
    remote = None if remote_size is None else files.RemoteFile(location, remote_size)
    columns, check = survivors.columns_for(BRANCHES), partial(_check_types, location=location) if unseen else None
    try:
        return survivors.open_survivors(location, columns, tree=TREE, check=check, checked=not verified, remote=remote)
    except KeyError as error:  # `inspect` says it better, where it was asked
        raise SchemaError(f"{location}: no tree {TREE!r}, or one without the branches needed: {error}") from error


def _is_remote(source: files.Source) -> bool:
    """Whether a source is an address and not a path."""
    return "://" in source.location


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


def _check_types(tree: Any, location: str) -> None:
    """Complain about the branches of an open tree, see `check_branches`."""
    check_branches(tree.keys(), tree.typenames() if hasattr(tree, "typenames") else {}, location)


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
def _open_tree(source: files.Source) -> Iterator[Any]:
    """Open the tree of a file; whatever goes wrong with its bytes becomes one clear error."""
    import uproot

    diagnose(source.location)
    remote = _is_remote(source)
    what = io.BufferedReader(files.RemoteFile(source.location, source.size or 0)) if remote else source.location
    options: dict[str, Any] = {"object_cache": None, "array_cache": None, "custom_classes": survivors.own_classes()}
    with _clear_errors(source.location), uproot.open(what, **options) as directory:
        _check_tree(directory.keys(recursive=False, cycle=False), source.location)
        yield directory[TREE]


@contextmanager
def _clear_errors(location: str) -> Iterator[None]:
    """Turn what damaged bytes lead to into one clear error."""
    try:
        yield
    except DamagedFileError as error:
        what, _, remedy = str(error).rpartition("; ")
        raise UnreadableError(f"{what}\n{remedy[:1].upper()}{remedy[1:]}.") from error
    except (SchemaError, UnexpectedFormError, OSError, MemoryError):
        raise
    except Exception as error:  # uproot raises whatever the damage leads to: struct.error, zlib.error, IndexError, …
        detail = str(error).strip().splitlines()[0] if str(error).strip() else ""
        raise UnreadableError(
            f"{location}: cannot be read ({type(error).__name__}: {detail[:160]})\n"
            "The file is damaged or incomplete; fetch it again."
        ) from error


def _check_tree(names: Iterable[str], location: str) -> None:
    """Complain if there is no tree of events."""
    present = set(names)
    if not present:
        raise UnreadableError(
            f"{location}: holds nothing; its writer was stopped before it closed the file\n"
            "Fetch the file again, or have it made again."
        )
    if TREE not in present:
        raise SchemaError(
            f"{location}: no tree {TREE!r}; it holds {', '.join(sorted(present))}\n"
            "Is this a file of the schema that the campaign names?"
        )


def diagnose(location: str, kind: str = "ROOT") -> None:
    """Say what is wrong with a local file that is no complete ROOT file, before uproot stumbles over it; or no CSV."""
    path = Path(location)
    if "://" in location or not path.is_file():
        return
    size = path.stat().st_size
    with path.open("rb") as stream:
        head = stream.read(512)
    if not head:
        raise UnreadableError(f"{location}: is empty (0 bytes); fetch it again")
    if head.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"<":
        raise UnreadableError(
            f"{location}: is an HTML or XML page, not a {kind} file; the link gave an error page, check it in a browser"
        )
    if kind != "ROOT":
        return
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


class _Rows(NamedTuple):
    """The rows of a CSV: run (n,) int64, event (n,) uint64, leptons (n, 4, [PID, pt, eta, phi, Q]) float64."""

    run: npt.NDArray[np.int64]
    event: npt.NDArray[np.uint64]
    leptons: npt.NDArray[np.float64]


def _inspect_csv(location: str) -> FileInfo:
    """Check a CSV file and count its rows."""
    return FileInfo(len(_rows(location, _identity(location)).run), "CSV", Path(location).stat().st_size, None)


def _identity(location: str) -> tuple[int, int]:
    """Return size and modification time: a CSV that changes is read again."""
    stat = Path(location).stat()
    return stat.st_size, stat.st_mtime_ns


@lru_cache(maxsize=16)
def _rows(location: str, _identity: tuple[int, int]) -> _Rows:
    """Read a whole CSV file."""
    diagnose(location, "CSV")
    with Path(location).open(newline="", encoding="utf-8-sig", errors="replace") as stream:
        reader = csv.DictReader(stream)
        try:
            header = reader.fieldnames or []
            missing = [name for name in CSV_COLUMNS if name not in header]
            if missing:
                described = "; ".join(f"{name}{_nearest(name, header)}" for name in missing[:6])
                raise SchemaError(f"{location}: the CSV lacks the columns {described}")
            rows = [_row(f"{location}, line {reader.line_num}", row) for row in reader]
        except csv.Error as error:
            raise UnreadableError(
                f"{location}, line {reader.reader.line_num}: not a row of numbers: {error}; fetch the file again"
            ) from error
    return _Rows(
        np.array([row[0] for row in rows], np.int64),
        np.array([row[1] for row in rows], np.uint64),
        np.array([row[2:] for row in rows], np.float64).reshape(len(rows), 4, 5),
    )


def _row(place: str, row: Mapping[str, str | None]) -> list[float]:
    """Return the numbers of one line in the order of `CSV_COLUMNS`."""
    return [_number(place, name, row[name] or "") for name in CSV_COLUMNS]


_WHOLE_NUMBERS: dict[str, tuple[str, Container[int]]] = {
    "Run": ("a whole number from 0 to 2147483647", range(2**31)),
    "Event": ("a whole number from -2147483648 to 9223372036854775807", range(-(2**31), 2**63)),
    "PID": ("11, -11, 13 or -13", (11, -11, 13, -13)),
    "Q": ("1 or -1", (1, -1)),
}
"""What may stand in a column that does not hold a measured quantity: in words, and as numbers."""


def _number(place: str, name: str, text: str) -> float:
    """Return the number in one cell, an `int` in the columns of `_WHOLE_NUMBERS`."""
    column = name.rstrip("1234")
    expected, allowed = _WHOLE_NUMBERS.get(column, ("a number", None))
    try:
        if allowed is None:
            return float(text)
        number = _whole(text)
        if number in allowed:
            return number % 2**32 if column == "Event" and number < 0 else number
    except ValueError:
        pass
    what = "" if _is_number(text) else "not a row of numbers: "
    raise UnreadableError(
        f"{place}: {what}{name} is {text[:40]!r}, expected {expected}\nCorrect the line, or fetch the file again."
    )


def _is_number(text: str) -> bool:
    """Whether a text is a number of any kind."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def _whole(text: str) -> int:
    """Return a whole number, also one written as 12.0 or 1e5; `ValueError` for any other text."""
    try:
        return int(text)
    except ValueError:
        number = float(text)
        if not number.is_integer() or abs(number) > 2**53:  # beyond, a float no longer tells neighbours apart
            raise
        return int(number)


def _read_csv(location: str, start: int, stop: int) -> Leptons:
    """Read the rows [start, stop) of a CSV file; negative Event numbers are wrapped 32-bit integers."""
    rows, part = _rows(location, _identity(location)), slice(start, stop)
    run, leptons = rows.run[part], rows.leptons[part]
    muons, electrons = _csv_flavour(leptons, MUON), _csv_flavour(leptons, ELECTRON)
    return Leptons._make((run, np.zeros(len(run), np.int64), rows.event[part], *muons, *electrons))


def _csv_flavour(leptons: npt.NDArray[np.float64], pdg_id: int) -> tuple[npt.NDArray[Any] | None, ...]:
    """Return the columns of one flavour from (n_rows, 4, [PID, pt, eta, phi, Q])."""
    mine = np.abs(leptons[:, :, 0]) == pdg_id
    pt, eta, phi = (leptons[:, :, i][mine].astype(np.float32) for i in (1, 2, 3))
    mass = np.full(len(pt), MASSES[pdg_id], np.float32)
    charge = leptons[:, :, 4][mine].astype(np.int32)
    return (_offsets(mine.sum(axis=1)), pt, eta, phi, mass, charge, None, None, None, None, None)
