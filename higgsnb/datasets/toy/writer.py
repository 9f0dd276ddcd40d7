"""Write the files of the simulated campaign, the same bytes for the same seed."""

from __future__ import annotations

import json
import shutil
import struct
import tempfile
import threading
import uuid
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from higgsnb.datasets.files.request import adler32_of, sha256_of
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
from higgsnb.storage import OTHERS_WRITE, atomic_write, distrust

DEFAULT_SEED = 125
VERSION = 1  # raise whenever the bytes change for the same seed: `ensure` then makes the files anew
TREE_TITLE = "simulated events of the higgsnb toy campaign (not collision data)"
BASKET = 1 << 16  # events a basket, at least, unless the file ends
DEFAULT_EVENTS = REJECTED + sum(dataset.events or 0 for dataset in DATASETS)
_FIELDS = ["pt", "eta", "phi", "mass", "charge", "dxy", "dxyErr", "dz", "dzErr", "pfRelIso03_all"]
_LEPTONS = {"Muon": [*_FIELDS, "pfRelIso04_all"], "Electron": _FIELDS}
_SCALARS = {
    "run": "int32", "luminosityBlock": "uint32", "event": "uint64",
    "PV_npvs": "int32", "PV_x": "float32", "PV_y": "float32", "PV_z": "float32",
}  # fmt: skip
_MET = {"MET_pt": "float32", "MET_phi": "float32"}


class _Writer:
    """One ROOT file under a temporary folder; `finish` moves it into place and returns its manifest entry."""

    def __init__(self, folder: Path, name: str, seed: int) -> None:
        import uproot
        from awkward.types import ListType, NumpyType, RecordType

        self.name, self.target = name, folder / f"{name}.root"
        # A folder rather than a temporary name: the file name is written into the file.
        self.scratch = Path(tempfile.mkdtemp(prefix=".toy-", dir=folder))
        identity = uuid.uuid5(uuid.NAMESPACE_URL, f"higgsnb/toy/{VERSION}/{seed}/{name}")
        self.path = self.scratch / f"{name}.root"
        self.file = uproot.recreate(self.path, compression=uproot.ZLIB(1), uuid_function=lambda: identity)
        types: dict[str, Any] = dict(_SCALARS)
        for key, fields in _LEPTONS.items():  # uproot makes a counter, and a branch per field of a list of records
            columns = [NumpyType("int32" if field == "charge" else "float32") for field in fields]
            types[key] = ListType(RecordType(columns, fields))
        self.tree = self.file.mktree("Events", types | _MET, title=TREE_TITLE)
        self.events = 0
        self.waiting: list[Block] = []

    def write(self, block: Block) -> None:
        """Append one block; it reaches the file with the next full basket."""
        self.waiting.append(block)
        if sum(len(part["event"]) for part in self.waiting) >= BASKET:
            self.flush()

    def flush(self) -> None:
        """Write what is waiting: one basket per branch. Columns of leptons are not copied."""
        import awkward as ak

        if not self.waiting:
            return
        block = {key: np.concatenate([part[key] for part in self.waiting]) for key in self.waiting[0]}
        self.waiting.clear()
        data: dict[str, Any] = {key: block[key] for key in (*_SCALARS, *_MET)}
        for name, fields in _LEPTONS.items():
            offsets = np.concatenate([[0], np.cumsum(block[f"n{name}"], dtype=np.int64)])
            contents = [ak.contents.NumpyArray(block[f"{name}_{field}"]) for field in fields]
            records = ak.contents.RecordArray(contents, fields)
            data[name] = ak.Array(ak.contents.ListOffsetArray(ak.index.Index64(offsets), records))
        self.tree.extend(data)
        self.events += len(block["event"])

    def finish(self) -> dict[str, Any]:
        """Close, make the bytes reproducible, rename into place."""
        self.flush()
        self.file.close()
        fix_timestamps(self.path)
        self.path.chmod(self.path.stat().st_mode & ~OTHERS_WRITE)
        entry: dict[str, Any] = {"events": self.events, "bytes": self.path.stat().st_size}
        entry |= {"sha256": sha256_of(self.path), "adler32": adler32_of(self.path)}
        if not _holds(self.target, entry):  # what is right keeps its inode and time: others may be reading it
            self.path.replace(self.target)
        return entry


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
        gaps: dict[int, int] = {}  # unused parts, from start to stop
        segment = free + _unpack(file, free + 14, ">h")[0]
        while True:
            layout = ">hqq" if _unpack(file, segment, ">h")[0] > 1000 else ">hii"
            _, first, last = _unpack(file, segment, layout)
            if first >= end:  # the last segment is all that follows the file
                break
            gaps[first] = last + 1
            segment += struct.calcsize(layout)
        position = begin
        while position < end:
            if position in gaps:
                start, position = position, gaps[position]
                file.seek(start)  # the negative length is ROOT's mark of a deleted record
                file.write((struct.pack(">i", start - position) + bytes(position - start))[: position - start])
            else:
                _stamp(file, position + 10)
                position += max(1, _unpack(file, position, ">i")[0])
        directory = begin + name_bytes
        _stamp(file, directory + 2)
        _stamp(file, directory + 6)
        big = _unpack(file, directory, ">h")[0] > 1000
        keys = _unpack(file, directory + 10, ">iiqqq" if big else ">iiiii")[4]
        length = _unpack(file, keys + 14, ">h")[0]
        position = keys + length + 4
        for _ in range(_unpack(file, keys + length, ">i")[0]):
            _stamp(file, position + 10)
            position += _unpack(file, position + 14, ">h")[0]


def _unpack(file: BinaryIO, position: int, layout: str) -> tuple[Any, ...]:
    file.seek(position)
    return struct.unpack(layout, file.read(struct.calcsize(layout)))


def _stamp(file: BinaryIO, position: int) -> None:
    file.seek(position)
    file.write(_FIXED_TIME)


def _write(
    folder: Path, datasets: Sequence[ToyDataset], blocks: Iterable[Sequence[Block]], seed: int
) -> dict[str, Any]:
    """Write the files of some datasets, of which each element of ``blocks`` holds the next events; return entries."""
    writers = [_Writer(folder, dataset.name, seed) for dataset in datasets]
    try:
        for parts in blocks:
            for writer, part in zip(writers, parts, strict=True):
                writer.write(part)
        return {writer.name: writer.finish() for writer in writers}
    finally:
        for writer in writers:
            shutil.rmtree(writer.scratch, ignore_errors=True)


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
    data = [dataset for dataset in DATASETS if dataset.primary_dataset]
    split = (
        [select_events(block, fired[str(dataset.primary_dataset)]) for dataset in data]
        for block, fired in data_blocks(round(REJECTED * scale), seed)
    )
    with ThreadPoolExecutor(workers or 2) as pool:
        jobs = [pool.submit(_write, folder, data, split, seed)]
        for dataset in DATASETS:
            if dataset.events:
                blocks = simulation_blocks(dataset, max(1, round(dataset.events * scale)), seed)
                jobs.append(pool.submit(_write, folder, [dataset], ([block] for block in blocks), seed))
        entries = [job.result() for job in jobs]
    content = {
        "simulated": True,
        "title": TREE_TITLE,
        "parameters": _parameters(seed, events),
        "files": {name: entry for part in entries for name, entry in part.items()},
    }
    with atomic_write(folder / "manifest.json", mode=0o644) as temporary:
        temporary.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return folder


def _parameters(seed: int, events: int | None) -> dict[str, Any]:
    return {"version": VERSION, "seed": seed, "events": events or DEFAULT_EVENTS, "luminosity_fb": LUMINOSITY_FB}


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
    """Return ``folder/NAME.root`` of the default campaign, made if it is absent or not that of a believed manifest.

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
        if find(name, folder) is None:
            make(folder)
    return path


def find(name: str, folder: str | Path) -> Path | None:
    """Return ``folder/NAME.root`` if it is a file of the default campaign, and as in its manifest; else None."""
    folder = Path(folder)
    path = folder / f"{name}.root"
    found = {} if distrust(folder / "manifest.json") else manifest(folder)
    entry = found.get("files", {}).get(name)
    right = found.get("parameters") == _parameters(DEFAULT_SEED, None) and entry is not None and _holds(path, entry)
    return path if right else None


def _holds(path: Path, entry: dict[str, Any]) -> bool:
    """Whether a file is believed and has the size and sha256 of its entry in the manifest."""
    if not path.is_file() or distrust(path):
        return False
    return path.stat().st_size == entry["bytes"] and sha256_of(path) == str(entry["sha256"])
