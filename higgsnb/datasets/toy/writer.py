"""Write the files of the simulated campaign, the same bytes for the same seed."""

from __future__ import annotations

import functools
import hashlib
import json
import shutil
import struct
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from higgsnb.datasets.files.request import adler32_of
from higgsnb.datasets.toy.detector import Block
from higgsnb.datasets.toy.pseudodata import (
    DATASETS,
    LUMINOSITY_FB,
    REJECTED,
    ToyDataset,
    data_blocks,
    select_events,
    simulation_blocks,
)
from higgsnb.errors import MissingFileError, OptionError, UnreadableError
from higgsnb.storage import atomic_write

DEFAULT_SEED = 125
VERSION = 1  # raise whenever the bytes change for the same seed: `ensure` then makes the files anew
TREE_TITLE = "simulated events of the higgsnb toy campaign (not collision data)"
BASKET = 1 << 16  # events a basket, at least, unless the file ends
DEFAULT_EVENTS = REJECTED + sum(dataset.events or 0 for dataset in DATASETS)
_ELECTRON_FIELDS = ("pt", "eta", "phi", "mass", "charge", "dxy", "dxyErr", "dz", "dzErr", "pfRelIso03_all")
_MUON_FIELDS = (*_ELECTRON_FIELDS, "pfRelIso04_all")
_SCALARS = {
    "run": "int32", "luminosityBlock": "uint32", "event": "uint64",
    "PV_npvs": "int32", "PV_x": "float32", "PV_y": "float32", "PV_z": "float32",
}  # fmt: skip
_MET = {"MET_pt": "float32", "MET_phi": "float32"}


@functools.cache
def _schema() -> dict[str, Any]:
    """Return the types of the branches; uproot makes a counter and a branch per field of a list of records."""
    from awkward.types import ListType, NumpyType, RecordType

    def leptons(fields: Sequence[str]) -> ListType:
        return ListType(RecordType([NumpyType("int32" if f == "charge" else "float32") for f in fields], list(fields)))

    return {**_SCALARS, "Muon": leptons(_MUON_FIELDS), "Electron": leptons(_ELECTRON_FIELDS), **_MET}


def _records(block: Block, name: str, fields: Sequence[str]) -> Any:
    """Jagged records of one flavour from counts and flat columns, without copying the columns."""
    import awkward as ak

    offsets = np.concatenate([[0], np.cumsum(block[f"n{name}"], dtype=np.int64)])
    contents = [ak.contents.NumpyArray(block[f"{name}_{field}"]) for field in fields]
    return ak.Array(
        ak.contents.ListOffsetArray(ak.index.Index64(offsets), ak.contents.RecordArray(contents, list(fields)))
    )


class _Writer:
    """One ROOT file under a temporary folder; `finish` moves it into place and returns its manifest entry."""

    def __init__(self, folder: Path, name: str, seed: int) -> None:
        import uproot

        self.name, self.target = name, folder / f"{name}.root"
        # A folder rather than a temporary name: the file name is written into the file.
        self.scratch = Path(tempfile.mkdtemp(prefix=".toy-", dir=folder))
        identity = uuid.uuid5(uuid.NAMESPACE_URL, f"higgsnb/toy/{VERSION}/{seed}/{name}")
        self.path = self.scratch / f"{name}.root"
        self.file = uproot.recreate(self.path, compression=uproot.ZLIB(1), uuid_function=lambda: identity)
        self.tree = self.file.mktree("Events", _schema(), title=TREE_TITLE)
        self.events = 0
        self.waiting: list[Block] = []

    def write(self, block: Block) -> None:
        """Append one block; it reaches the file with the next full basket."""
        self.waiting.append(block)
        if sum(len(part["event"]) for part in self.waiting) >= BASKET:
            self.flush()

    def flush(self) -> None:
        """Write what is waiting: one basket per branch."""
        if not self.waiting:
            return
        block = {key: np.concatenate([part[key] for part in self.waiting]) for key in self.waiting[0]}
        self.waiting.clear()
        data: dict[str, Any] = {key: block[key] for key in (*_SCALARS, *_MET)}
        data["Muon"] = _records(block, "Muon", _MUON_FIELDS)
        data["Electron"] = _records(block, "Electron", _ELECTRON_FIELDS)
        self.tree.extend(data)
        self.events += len(block["event"])

    def finish(self) -> dict[str, Any]:
        """Close, make the bytes reproducible, rename into place."""
        self.flush()
        self.file.close()
        fix_timestamps(self.path)
        entry = {"events": self.events, **_checksums(self.path)}
        if not _holds(self.target, entry):  # what is right keeps its inode and time: others may be reading it
            self.path.replace(self.target)
        self.discard()
        return entry

    def discard(self) -> None:
        """Remove the temporary folder."""
        shutil.rmtree(self.scratch, ignore_errors=True)


_FIXED_TIME = struct.pack(">I", (2012 - 1995) << 26 | 7 << 22 | 4 << 17)  # TDatime of 4 July 2012


def fix_timestamps(path: Path) -> None:
    """Set every time in a ROOT file to 4 July 2012 and clear its gaps, so that equal content is equal bytes.

    uproot writes the time into each record. Editing the finished file leaves uproot's global state alone. Every record
    begins with a TKey whose time is 10 bytes after its start; the list of keys repeats these headers, the directory
    has two times of its own, and the list of free segments gives the gaps between records.

    Raises
    ------
    UnreadableError
        If it is not a ROOT file.
    """
    with path.open("r+b") as file:
        magic, version, begin = _unpack(file, 0, ">4sii")
        if magic != b"root":
            raise UnreadableError(f"{path.name}: not a ROOT file, begins with {magic!r}", "Write the file again.")
        end, free, _, _, name_bytes = _unpack(file, 12, ">qqiii" if version >= 1_000_000 else ">iiiii")
        gaps = dict(_gaps(file, free, end))
        position = begin
        while position < end:
            if position in gaps:
                start, position = position, gaps[position]
                file.seek(start)  # the negative length is ROOT's mark of a deleted record
                file.write((struct.pack(">i", start - position) + bytes(position - start))[: position - start])
            else:
                _stamp(file, position + 10)
                position += max(1, _unpack(file, position, ">i")[0])
        _fix_directory(file, begin + name_bytes)


def _fix_directory(file: BinaryIO, position: int) -> None:
    """Set the times of the top directory and of the keys in its list."""
    _stamp(file, position + 2)
    _stamp(file, position + 6)
    big = _unpack(file, position, ">h")[0] > 1000
    keys = _unpack(file, position + 10, ">iiqqq" if big else ">iiiii")[4]
    length = _unpack(file, keys + 14, ">h")[0]
    count = _unpack(file, keys + length, ">i")[0]
    position = keys + length + 4
    for _ in range(count):
        _stamp(file, position + 10)
        position += _unpack(file, position + 14, ">h")[0]


def _unpack(file: BinaryIO, position: int, layout: str) -> tuple[Any, ...]:
    file.seek(position)
    return struct.unpack(layout, file.read(struct.calcsize(layout)))


def _stamp(file: BinaryIO, position: int) -> None:
    file.seek(position)
    file.write(_FIXED_TIME)


def _gaps(file: BinaryIO, free: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield (start, stop) of the unused parts before ``end``, from the record of free segments."""
    position = free + _unpack(file, free + 14, ">h")[0]
    while True:
        layout = ">hqq" if _unpack(file, position, ">h")[0] > 1000 else ">hii"
        _, first, last = _unpack(file, position, layout)
        if first >= end:  # the last segment is all that follows the file
            return
        yield first, last + 1
        position += struct.calcsize(layout)


def _checksums(path: Path) -> dict[str, Any]:
    """Size, sha256 and adler32 of a file."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
    return {"bytes": path.stat().st_size, "sha256": digest.hexdigest(), "adler32": adler32_of(path)}


def _write_simulation(folder: Path, dataset: ToyDataset, scale: float, seed: int) -> dict[str, Any]:
    writer = _Writer(folder, dataset.name, seed)
    try:
        for block in simulation_blocks(dataset, max(1, round((dataset.events or 0) * scale)), seed):
            writer.write(block)
        return {dataset.name: writer.finish()}
    finally:
        writer.discard()


def _write_data(folder: Path, scale: float, seed: int) -> dict[str, Any]:
    writers = {d.primary_dataset: _Writer(folder, d.name, seed) for d in DATASETS if d.primary_dataset}
    try:
        for block, fired in data_blocks(round(REJECTED * scale), seed):
            for primary_dataset, writer in writers.items():
                writer.write(select_events(block, fired[str(primary_dataset)]))
        return {writer.name: writer.finish() for writer in writers.values()}
    finally:
        for writer in writers.values():
            writer.discard()


def make(
    folder: str | Path, *, seed: int = DEFAULT_SEED, events: int | None = None, workers: int | None = None
) -> Path:
    """Write the whole campaign into ``folder`` (made if absent) and return it.

    Files appear under their names when they are complete; ``manifest.json``, written last, has the parameters and
    for each file events, bytes, sha256 and adler32.

    Parameters
    ----------
    seed
        Same seed, same bytes, whatever ``workers`` is.
    events
        Total of simulated and of rejected collisions, `DEFAULT_EVENTS` if None. The four-lepton pseudo-data
        stay at 11.58 /fb.
    workers
        Threads over files, two if None; more are of little use.

    Raises
    ------
    OptionError
        If ``events`` is below 1.
    """
    folder = Path(folder)
    if events is not None and events < 1:
        raise OptionError(f"events = {events}: must be at least 1", f"The default is {DEFAULT_EVENTS}.")
    scale = 1.0 if events is None else events / DEFAULT_EVENTS
    folder.mkdir(parents=True, exist_ok=True)
    jobs: list[Callable[[], dict[str, Any]]] = [functools.partial(_write_data, folder, scale, seed)]
    jobs += [functools.partial(_write_simulation, folder, d, scale, seed) for d in DATASETS if not d.primary_dataset]
    with ThreadPoolExecutor(workers or 2) as pool:
        entries = [future.result() for future in [pool.submit(job) for job in jobs]]
    content = {
        "simulated": True,
        "title": TREE_TITLE,
        "parameters": _parameters(seed, events),
        "files": {name: entry for part in entries for name, entry in part.items()},
    }
    with atomic_write(folder / "manifest.json") as temporary:
        temporary.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return folder


def _parameters(seed: int, events: int | None) -> dict[str, Any]:
    return {
        "version": VERSION,
        "seed": seed,
        "events": events or DEFAULT_EVENTS,
        "luminosity_fb": LUMINOSITY_FB,
    }


def manifest(folder: str | Path) -> dict[str, Any]:
    """Read the manifest of a campaign folder; empty if there is none or it cannot be read."""
    try:
        found = json.loads((Path(folder) / "manifest.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


_MAKING = threading.Lock()
"""Held while the campaign is made: files are opened by several threads, and each would make it anew."""


def ensure(name: str, folder: str | Path) -> Path:
    """Return ``folder/NAME.root`` of the default campaign, made if it is absent or differs from the manifest.

    All files are made together, in about two seconds. A file that already has the right bytes is left untouched.

    Raises
    ------
    MissingFileError
        If the campaign has no dataset ``name``; the hint lists those that it has.
    """
    known = [dataset.name for dataset in DATASETS]
    if name not in known:
        raise MissingFileError(f"the toy campaign has no dataset '{name}'", f"It has {', '.join(known)}.")
    folder = Path(folder)
    path = folder / f"{name}.root"
    with _MAKING:
        found = manifest(folder)
        entry = found.get("files", {}).get(name)
        if found.get("parameters") != _parameters(DEFAULT_SEED, None) or entry is None or not _holds(path, entry):
            make(folder)
    return path


def _holds(path: Path, entry: dict[str, Any]) -> bool:
    """Whether a file has the size and sha256 of its entry in the manifest."""
    if not path.is_file() or path.stat().st_size != entry["bytes"]:
        return False
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == str(entry["sha256"])
