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
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from higgsnb import histograms, luminosity
from higgsnb.analysis import FileKey, Table, Tally, empty_table, join_ranges
from higgsnb.atomic import atomic_write
from higgsnb.errors import LedgerError, NondeterminismError
from higgsnb.selection import CHANNELS, QUANTITIES, Cut

try:
    import fcntl
except ImportError:  # Windows has no flock; there SQLite's own lock is the only one
    fcntl = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from higgsnb.datasets import Chunk

__all__ = [
    "Attempts",
    "Ledger",
    "LedgerError",
    "NondeterminismError",
    "Record",
    "Sum",
    "export",
    "merge_records",
    "pack",
    "unit_keys",
]

SCHEMA_VERSION = 2
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
    in the layout `ROW`, ``not_applied`` column names joined by commas. ``sections`` are the certified lumi sections,
    ``edges`` what else is noted of them, see `luminosity.packed`.
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
    sections: bytes = b""
    edges: bytes = b""

    def sha256(self) -> bytes:
        """Return the sha256 over everything in it, 32 bytes."""
        digest = hashlib.sha256()
        for value in self:
            content = value if isinstance(value, bytes) else str(value).encode()
            digest.update(len(content).to_bytes(8, "little") + content)
        return digest.digest()


def nondeterminism(dataset: int, file: int, start: int, stop: int) -> NondeterminismError:
    """Return the error for a chunk, by its place in the catalogue."""
    return NondeterminismError(
        f"entries {start} to {stop} of file {file} of dataset {dataset} gave two different results; "
        "the machine or the code is not deterministic"
    )


def _seal(key: bytes, record: Record) -> bytes:
    """Return the sha256 that a row carries: over the record and the key that it is the record of."""
    return hashlib.sha256(key + record.sha256()).digest()


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
        rows=rows.tobytes(), **luminosity.packed(tally.sections, tally.spans, tally.scattered),
    )  # fmt: skip


def _sparse(array: npt.NDArray[np.int64]) -> bytes:
    """Return the values that are not zero, with their flat indices."""
    index = np.flatnonzero(array)
    return np.stack([index, array.ravel()[index]], axis=1).astype(NUMBER).tobytes()


class Sum:
    """The running sum of records: adding some costs what these take, however much is there already."""

    def __init__(self) -> None:
        self._ranges: dict[FileKey, tuple[tuple[int, int], ...]] = {}
        self._readers: dict[FileKey, frozenset[tuple[str, str]]] = {}
        self._datasets: dict[int, _DatasetSum] = defaultdict(_DatasetSum)
        self._sections = luminosity.SectionSum()

    def add(self, records: Iterable[Record]) -> None:
        """Add records.

        Raises
        ------
        ValueError
            If some events are counted in it already.
        """
        landed: dict[FileKey, list[Record]] = defaultdict(list)
        for record in records:
            landed[record.dataset, record.file].append(record)
            place = (record.dataset, record.file), (record.start, record.stop)
            self._sections.add_packed(*place, record.sections, record.edges)
        for key, some in landed.items():
            ranges = [(record.start, record.stop) for record in some]
            self._ranges[key] = join_ranges(key, [*self._ranges.get(key, ()), *ranges])
            readers = {(record.reader, record.integrity) for record in some}
            if not readers <= self._readers.get(key, frozenset()):
                self._readers[key] = self._readers.get(key, frozenset()) | readers
        for dataset, more in groupby(sorted(landed), key=itemgetter(0)):
            self._datasets[dataset].add([record for key in more for record in landed[key]])

    def tally(self) -> Tally:
        """Return the sum so far, which further records do not change, in the order of the catalogue."""
        sums = dict(sorted(self._datasets.items()))
        return Tally(
            units=dict(sorted(self._ranges.items())),
            counts={dataset: one.arrays["counts"].copy() for dataset, one in sums.items()},
            cutflow={dataset: one.arrays["cutflow"].copy() for dataset, one in sums.items()},
            unusable={dataset: one.arrays["unusable"].copy() for dataset, one in sums.items()},
            masked={dataset: one.masked for dataset, one in sums.items()},
            not_applied={dataset: one.not_applied for dataset, one in sums.items()},
            readers=dict(self._readers),
            blocks=tuple(table for one in sums.values() if (table := one.table()) is not None),
            **self._sections.fields(),
        )


class _DatasetSum:
    """The running sum of the records of one dataset."""

    def __init__(self) -> None:
        self.arrays = {name: np.zeros(shape, np.int64) for name, shape in SHAPES.items()}
        self.masked = 0
        self.not_applied: frozenset[str] = frozenset()
        self._rows: list[bytes] = []

    def add(self, records: list[Record]) -> None:
        """Add records of this dataset."""
        for name, total in self.arrays.items():
            _add_sparse(total, (getattr(record, name) for record in records))
        self.masked += sum(record.masked for record in records)
        for names in {record.not_applied for record in records}:
            self.not_applied |= frozenset(name for name in names.split(",") if name)
        self._rows += [record.rows for record in records if record.rows]

    def table(self) -> Table | None:
        """Return the candidates, None if there are none."""
        self._rows = [b"".join(self._rows)]
        rows = np.frombuffer(self._rows[0], ROW)
        return Table._make(rows[n].astype(ROW[n].base.newbyteorder("=")) for n in Table._fields) if len(rows) else None


def merge_records(records: Iterable[Record]) -> Tally:
    """Add up the tallies of many chunks, as `analysis.merge` does, without making a tally of each.

    Raises
    ------
    ValueError
        If two of them counted the same events.
    """
    total = Sum()
    total.add(records)
    return total.tally()


def _add_sparse(total: npt.NDArray[np.int64], parts: Iterable[bytes]) -> None:
    """Add sparse arrays to a full one."""
    pairs = np.frombuffer(b"".join(parts), NUMBER).reshape(-1, 2)
    np.add.at(total.reshape(-1), pairs[:, 0], pairs[:, 1])


# --- The ledger ----------------------------------------------------------------------------------------------

_CREATE = f"""
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS units (key BLOB PRIMARY KEY, sha256 BLOB NOT NULL,
    {", ".join(f"{name} NOT NULL" for name in Record._fields)});
CREATE TABLE IF NOT EXISTS attempts (key BLOB PRIMARY KEY, begun INTEGER NOT NULL, open INTEGER NOT NULL,
    alone INTEGER NOT NULL) WITHOUT ROWID;
"""
_COLUMNS = f"key, sha256, {', '.join(Record._fields)}"
_MARKS = ", ".join("?" * (2 + len(Record._fields)))
_BEGIN = """
INSERT INTO attempts VALUES (?1, 1, 1, ?2)
ON CONFLICT (key) DO UPDATE SET begun = begun + 1, open = open + 1, alone = alone + ?2
"""
_END = "UPDATE attempts SET open = 0, alone = 0 WHERE key = ?"


class Attempts(NamedTuple):
    """How often a unit was begun in all; how often without an end (the process died); and how often of these alone."""

    begun: int
    open: int
    alone: int


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
        self._insert([(key, _seal(key, record), *record) for key, record in finished])

    def _insert(self, rows: list[tuple[Any, ...]]) -> None:
        """Write rows, all in one transaction, and note that these units have ended."""
        _check_still_there(self._lock, self.path)
        with _clear_errors(self.path), self._database:
            self._check(rows)
            self._database.executemany(f"INSERT OR REPLACE INTO units VALUES ({_MARKS})", rows)  # noqa: S608 - only marks
            self._database.executemany(_END, [(row[0],) for row in rows])

    def _check(self, rows: Sequence[tuple[Any, ...]]) -> None:
        """Complain about units whose content differs from what is written already, or among themselves."""
        seen: dict[bytes, bytes] = {}
        for key, sha256, dataset, file, start, stop, *_ in rows:
            known = next(iter(self._sound([key])), None)
            if seen.setdefault(key, sha256 if known is None else _seal(*known)) != sha256:
                raise nondeterminism(dataset, file, start, stop)

    def finished(self, keys: Iterable[bytes]) -> set[bytes]:
        """Return which of these units are finished; a row whose content is damaged is not."""
        return {key for some in self.records(keys) for key in some}

    def tally(self, keys: Iterable[bytes]) -> Tally:
        """Return the sum of the finished ones of these units: a pure function of the ledger."""
        return merge_records(record for some in self.records(keys) for record in some.values())

    def records(self, keys: Iterable[bytes]) -> Iterator[dict[bytes, Record]]:
        """Yield the finished ones of these units, some at a time; a row whose content is damaged is left out."""
        wanted = list(keys)
        for first in range(0, len(wanted), KEYS_AT_ONCE):
            with _clear_errors(self.path):
                found = dict(self._sound(wanted[first : first + KEYS_AT_ONCE]))
            yield found

    def _sound(self, keys: list[bytes]) -> Iterator[tuple[bytes, Record]]:
        """Yield the rows of these units whose content is not damaged."""
        query = f"SELECT {_COLUMNS} FROM units WHERE key IN ({', '.join('?' * len(keys))})"  # noqa: S608 - names, marks
        for key, sha256, *values in self._database.execute(query, keys):
            if _seal(key, record := Record(*values)) == sha256:
                yield key, record

    def forget(self, keys: Iterable[bytes]) -> None:
        """Delete units, so that they are computed again."""
        with _clear_errors(self.path), self._database:
            rows = [(key,) for key in keys]
            self._database.executemany("DELETE FROM units WHERE key = ?", rows)
            self._database.executemany("DELETE FROM attempts WHERE key = ?", rows)

    # -- attempts

    def begin(self, keys: Iterable[bytes], *, alone: bool) -> None:
        """Note that units are begun, ``alone`` if nothing else is under way that could end this process.

        Not synced to disk: it has to outlive this process, and need not outlive the machine.
        """
        with _clear_errors(self.path):
            self._database.execute("PRAGMA synchronous = OFF")
            try:
                with self._database:
                    self._database.executemany(_BEGIN, [(key, int(alone)) for key in keys])
            finally:
                self._database.execute("PRAGMA synchronous = FULL")

    def end(self, keys: Iterable[bytes]) -> None:
        """Note that units came to an end without a result: they failed, or the run was stopped in good order."""
        with _clear_errors(self.path), self._database:
            self._database.executemany(_END, [(key,) for key in keys])

    def attempts(self, keys: Iterable[bytes]) -> dict[bytes, Attempts]:
        """Return how often units were begun; those never begun are left out."""
        wanted = set(keys)
        rows = self._database.execute("SELECT key, begun, open, alone FROM attempts")
        return {key: Attempts(*numbers) for key, *numbers in rows if key in wanted}

    def begun_again(self) -> int:
        """Return how many units were begun more than once."""
        return int(self._database.execute("SELECT count(*) FROM attempts WHERE begun > 1").fetchone()[0])

    # -- to another place

    def absorb(self, path: Path) -> int:
        """Take over what another ledger holds, and return how many units that added.

        Rows whose content does not agree with their sha256 are left out.

        Raises
        ------
        NondeterminismError
            If a unit is here already with other content. Nothing is taken over then.
        LedgerError
            If the other file is no ledger.
        """
        before = len(self)
        with _clear_errors(path), contextlib.closing(_connect(path, "ro")) as other:
            _check_version(other, path)
            rows = other.execute(f"SELECT {_COLUMNS} FROM units").fetchall()  # noqa: S608 - only names
        self._insert([row for row in rows if _seal(row[0], Record(*row[2:])) == row[1]])
        return len(self) - before


def export(path: Path, target: Path) -> int:
    """Write a copy of a ledger to one file; return the number of finished units in it.

    Whole at any time, also while a run writes to the ledger.

    Raises
    ------
    LedgerError
        If it cannot be read or written.
    """
    with _clear_errors(target), contextlib.closing(_connect(path, "rw")) as database:
        _check_version(database, path)
        with atomic_write(target) as temporary:
            database.execute("VACUUM INTO ?", (str(temporary),))
    with contextlib.closing(_connect(target, "ro")) as copy:
        return int(copy.execute("SELECT count(*) FROM units").fetchone()[0])


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
    database = _connect(path, "rwc")
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


def _connect(path: Path, mode: str) -> sqlite3.Connection:
    """Open a database in one of SQLite's modes: ``rwc`` (made if it does not exist), ``rw`` or ``ro``."""
    address = f"{path.absolute().as_uri()}?mode={mode}"
    return sqlite3.connect(address, uri=True, timeout=BUSY_SECONDS, check_same_thread=False)


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
        except BlockingIOError:
            stream.seek(0)
            holder = stream.read().strip() or "unknown"
            stream.close()
            raise LedgerError(
                f"{path} is in use by {holder}\nWait until it is done, stop it, or name another directory with --out."
            ) from None
        except OSError as error:
            stream.close()
            raise LedgerError(
                f"{lock} cannot be locked: {error.strerror}\nName a directory on a local disk with --out."
            ) from error
    stream.seek(0)
    stream.truncate()
    stream.write(f"process {os.getpid()} on {socket.gethostname()}")
    stream.flush()
    return stream


def _check_still_there(lock: IO[str] | None, path: Path) -> None:
    """Complain if the folder was removed or replaced: SQLite would go on writing to a file that nobody can see."""
    if lock is None:
        return
    held = os.fstat(lock.fileno())
    try:
        found = Path(lock.name).stat()
    except OSError:
        found = None
    if found is None or (found.st_dev, found.st_ino) != (held.st_dev, held.st_ino):
        raise LedgerError(
            f"{path}: was removed or replaced while it was in use\nRun the same command again: it begins anew there."
        )


def _release(lock: IO[str] | None) -> None:
    """Let the lock go; the file stays, an empty one says that nobody holds it."""
    if lock is not None:
        lock.seek(0)
        lock.truncate()
        lock.close()
