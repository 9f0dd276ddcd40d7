"""The durable record of finished chunks: resume, exactly-once accounting and the merge stand on it.

One SQLite file in WAL mode holds a row per finished unit of work (one chunk with one selection). Its key covers
everything that can change the answer, see `unit_keys`, so that a changed cut, file, library or line of code never finds
an old row. A row is written in one transaction together with the sha256 of its content: after a kill it is there whole
or not at all, and a row that was damaged on disk is not believed. The same key with other content is an alarm.

One client at a time: a lock file beside the ledger names the process that holds it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import socket
import sqlite3
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from higgsnb import histograms
from higgsnb.analysis import FileKey, Table, Tally, empty_table, join_ranges, merge
from higgsnb.selection import CHANNELS, QUANTITIES, Cut

try:
    import fcntl
except ImportError:  # Windows has no flock; there SQLite's own lock is the only one
    fcntl = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from higgsnb.datasets import Chunk

SCHEMA_VERSION = 1
BUSY_SECONDS = 10.0
"""How long a commit waits for a reader before it gives up."""
KEYS_AT_ONCE = 500
"""Keys looked up in one query (SQLite allows 999 variables)."""

SHAPES = {
    "counts": (len(CHANNELS), histograms.SIZE),
    "cutflow": (len(CHANNELS), len(Cut)),
    "unusable": (2, len(QUANTITIES)),
}
ROW = np.dtype(
    [(name, column.dtype.newbyteorder("<"), column.shape[1:]) for name, column in empty_table()._asdict().items()]
)
"""Layout of a candidate: the columns of `analysis.Table`, packed, little-endian."""
NUMBER = np.dtype("<i8")
"""Layout of the numbers of a record."""


class Record(NamedTuple):
    """What was counted in one chunk.

    ``counts``, ``cutflow`` and ``unusable`` are sparse: pairs (flat index, value) of int64. ``rows`` are the candidates
    in the layout `ROW`, ``not_applied`` column names joined by commas.
    """

    dataset: int
    file: int
    start: int
    stop: int
    counts: bytes
    cutflow: bytes
    unusable: bytes
    masked: int
    not_applied: str
    reader: str
    integrity: str
    rows: bytes

    def sha256(self) -> bytes:
        """Return the sha256 over everything in it, 32 bytes."""
        digest = hashlib.sha256()
        for value in self:
            content = value if isinstance(value, bytes) else str(value).encode()
            digest.update(len(content).to_bytes(8, "little") + content)
        return digest.digest()


def pack(tally: Tally) -> Record:
    """Return the tally of one chunk as bytes."""
    (((dataset, file), ((start, stop),)),) = tally.units.items()
    ((reader, integrity),) = tally.readers[dataset, file]
    (table,) = tally.blocks or (empty_table(),)
    rows = np.empty(len(table.run), ROW)
    for name, column in table._asdict().items():
        rows[name] = column
    sparse = {name: _sparse(getattr(tally, name)[dataset]) for name in SHAPES}
    return Record(
        dataset=dataset, file=file, start=start, stop=stop, **sparse, masked=tally.masked[dataset],
        not_applied=",".join(sorted(tally.not_applied[dataset])), reader=reader, integrity=integrity,
        rows=rows.tobytes(),
    )  # fmt: skip


def _sparse(array: npt.NDArray[np.int64]) -> bytes:
    """Return the values that are not zero, with their flat indices."""
    index = np.flatnonzero(array)
    return np.stack([index, array.ravel()[index]], axis=1).astype(NUMBER).tobytes()


def merge_records(records: Iterable[Record]) -> Tally:
    """Add up the tallies of many chunks, as `analysis.merge` does, without making a tally of each.

    Raises
    ------
    ValueError
        If two of them counted the same events.
    """
    by_dataset: dict[int, list[Record]] = defaultdict(list)
    for record in records:
        by_dataset[record.dataset].append(record)
    return merge(_tally(dataset, by_dataset[dataset]) for dataset in sorted(by_dataset))


def _tally(dataset: int, records: list[Record]) -> Tally:
    """Add up the records of one dataset."""
    units: dict[FileKey, list[tuple[int, int]]] = defaultdict(list)
    readers: dict[FileKey, set[tuple[str, str]]] = defaultdict(set)
    for record in records:
        units[dataset, record.file].append((record.start, record.stop))
        readers[dataset, record.file].add((record.reader, record.integrity))
    sums = {name: _dense((getattr(record, name) for record in records), shape) for name, shape in SHAPES.items()}
    rows = np.frombuffer(b"".join(record.rows for record in records), ROW)
    columns = (rows[name].astype(ROW[name].base.newbyteorder("=")) for name in Table._fields)
    return Tally(
        units={key: join_ranges(key, ranges) for key, ranges in units.items()},
        counts={dataset: sums["counts"]},
        cutflow={dataset: sums["cutflow"]},
        unusable={dataset: sums["unusable"]},
        masked={dataset: sum(record.masked for record in records)},
        not_applied={dataset: frozenset(n for record in records for n in record.not_applied.split(",") if n)},
        readers={key: frozenset(found) for key, found in readers.items()},
        blocks=(Table._make(columns),) if len(rows) else (),
    )


def _dense(parts: Iterable[bytes], shape: tuple[int, int]) -> npt.NDArray[np.int64]:
    """Add up sparse arrays."""
    pairs = np.frombuffer(b"".join(parts), NUMBER).reshape(-1, 2)
    total = np.zeros(shape, np.int64)
    np.add.at(total.reshape(-1), pairs[:, 0], pairs[:, 1])
    return total


# --- The ledger ----------------------------------------------------------------------------------------------

_CREATE = f"""
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS units (key BLOB PRIMARY KEY, sha256 BLOB NOT NULL,
    {", ".join(f"{name} NOT NULL" for name in Record._fields)});
"""


class LedgerError(OSError):
    """A ledger that cannot be used: held by another client, unreadable, of another version, on a full disk."""


class NondeterminismError(RuntimeError):
    """The same unit of work gave two different results: the computation cannot be trusted."""


class Ledger:
    """The ledger in one file; a context manager.

    Parameters
    ----------
    path
        The SQLite file; made if it does not exist.

    Raises
    ------
    LedgerError
        If another client holds it (names its process and host), or it cannot be written.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._lock = _acquire(self.path)
        try:
            with _clear_errors(self.path):
                self._database = _open(self.path)
        except BaseException:
            _release(self._lock)
            raise

    def __enter__(self) -> Self:
        """Return the ledger."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        self.close()

    def close(self) -> None:
        """Close the file and let others have it."""
        self._database.close()
        _release(self._lock)

    def __len__(self) -> int:
        """Return the number of finished units, of whatever campaign and selection."""
        return int(self._database.execute("SELECT count(*) FROM units").fetchone()[0])

    def commit(self, finished: Iterable[tuple[bytes, Record]]) -> None:
        """Write finished units, all in one transaction: (key, content).

        A unit that is there already with the same content is left as it is.

        Raises
        ------
        NondeterminismError
            If a unit is there with other content. Nothing is written then.
        LedgerError
            If the disk is full or read-only. Nothing is written then.
        """
        rows = [(key, record.sha256(), *record) for key, record in finished]
        places = ", ".join("?" * (2 + len(Record._fields)))
        with _clear_errors(self.path), self._database:
            self._check(rows)
            self._database.executemany(f"INSERT OR IGNORE INTO units VALUES ({places})", rows)  # noqa: S608 - only marks

    def _check(self, rows: Sequence[tuple[Any, ...]]) -> None:
        """Complain about units whose content differs from what is written already."""
        for key, sha256, *_ in rows:
            found = self._database.execute("SELECT sha256, dataset, file, start, stop FROM units WHERE key = ?", (key,))
            for known, dataset, file, start, stop in found:
                if known != sha256:
                    raise NondeterminismError(
                        f"entries {start} to {stop} of file {file} of dataset {dataset} gave two different results; "
                        "the machine or the code is not deterministic\n"
                        "Nothing was overwritten. Run `higgsnb run --fresh` on another machine and compare."
                    )

    def finished(self, keys: Iterable[bytes]) -> set[bytes]:
        """Return which of these units are finished; a row whose content is damaged is not."""
        return {key for key, _ in self._rows(keys)}

    def tally(self, keys: Iterable[bytes]) -> Tally:
        """Return the sum of the finished ones of these units: a pure function of the ledger."""
        return merge_records(record for _, record in self._rows(keys))

    def _rows(self, keys: Iterable[bytes]) -> Iterator[tuple[bytes, Record]]:
        """Yield key and content of the finished ones of these units."""
        columns = f"key, sha256, {', '.join(Record._fields)}"
        wanted = list(keys)
        for first in range(0, len(wanted), KEYS_AT_ONCE):
            some = wanted[first : first + KEYS_AT_ONCE]
            marks = ", ".join("?" * len(some))
            query = f"SELECT {columns} FROM units WHERE key IN ({marks})"  # noqa: S608 - only names and marks
            for key, sha256, *values in self._database.execute(query, some):
                record = Record(*values)
                if record.sha256() == sha256:
                    yield key, record

    def forget(self, keys: Iterable[bytes]) -> None:
        """Delete units, so that they are computed again."""
        with _clear_errors(self.path), self._database:
            self._database.executemany("DELETE FROM units WHERE key = ?", [(key,) for key in keys])


def unit_keys(chunks: Iterable[Chunk], identities: Mapping[tuple[int, int], Mapping[str, Any]]) -> list[bytes]:
    """Return the key of each chunk, 32 bytes: sha256 over the range of entries and the identity of its file.

    ``identities`` holds for each file, by its place in the catalogue, everything else that can change the answer: what
    identifies the file, schema and stream, selection, golden JSON, code and libraries.
    """
    begun = {
        place: hashlib.sha256(json.dumps(identity, sort_keys=True).encode()) for place, identity in identities.items()
    }
    keys = []
    for chunk in chunks:
        digest = begun[chunk.dataset_index, chunk.file_index].copy()
        digest.update(f"{chunk.start}:{chunk.stop}".encode())
        keys.append(digest.digest())
    return keys


def _open(path: Path) -> sqlite3.Connection:
    """Open the database, make its tables, and check its version."""
    database = sqlite3.connect(path, timeout=BUSY_SECONDS, check_same_thread=False)
    try:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = FULL")
        with database:
            database.executescript(_CREATE)
            database.execute("INSERT OR IGNORE INTO meta VALUES ('schema_version', ?)", (str(SCHEMA_VERSION),))
        _check_version(database, path)
    except BaseException:
        database.close()
        raise
    return database


def _check_version(database: sqlite3.Connection, path: Path) -> None:
    """Complain about a ledger that another version of this package wrote."""
    version = database.execute("SELECT value FROM meta WHERE name = 'schema_version'").fetchone()[0]
    if version != str(SCHEMA_VERSION):
        raise LedgerError(
            f"{path}: a ledger of version {version}; this package writes version {SCHEMA_VERSION}\n"
            "Use another result directory."
        )


@contextlib.contextmanager
def _clear_errors(path: Path) -> Iterator[None]:
    """Turn SQLite's errors into ones that say what to do."""
    try:
        yield
    except sqlite3.OperationalError as error:
        remedy = (
            "Free some space or choose another result directory (--out), then run the same command again: it resumes."
        )
        raise LedgerError(f"{path}: {error}\nNothing is lost that was finished before. {remedy}") from error
    except sqlite3.DatabaseError as error:
        raise LedgerError(
            f"{path}: not a usable ledger ({error})\nMove it away: the files are then read anew."
        ) from error


def _acquire(path: Path) -> IO[str] | None:
    """Take the lock beside the ledger, or say who holds it."""
    lock = path.with_name(f".{path.name}.lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        stream = lock.open("a+", encoding="utf-8")
    except OSError as error:
        raise LedgerError(
            f"cannot write to {path.parent}: {error.strerror}\nName another directory with --out."
        ) from error
    if fcntl is not None:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            stream.seek(0)
            holder = stream.read().strip() or "unknown"
            stream.close()
            raise LedgerError(
                f"{path} is in use by {holder}\nWait until it is done, stop it, or name another directory with --out."
            ) from None
    stream.seek(0)
    stream.truncate()
    stream.write(f"process {os.getpid()} on {socket.gethostname()}")
    stream.flush()
    return stream


def _release(lock: IO[str] | None) -> None:
    """Let the lock go; the file stays, an empty one says that nobody holds it."""
    if lock is not None:
        lock.seek(0)
        lock.truncate()
        lock.close()
