"""The durable record of finished chunks, on which resuming, exactly-once counting and the sum are based.

One SQLite file in WAL mode holds a row per finished chunk of one selection. Its key covers everything that can change
the result, see `chunk_keys`, so that after a change of a cut, file, library or line of code no old row is found. A row
is written in one transaction together with the sha256 of its content: after a kill it is either complete or absent, and
a row damaged on disk is ignored. The same key with other content raises NondeterminismError.

It needs a file system with locks, such as any local disk.

One client at a time: a lock file beside the ledger names the process that holds it. A ledger that an older version of
this package wrote is moved aside, and everything is counted again.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import socket
import sqlite3
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple

from higgsnb.errors import LedgerError, NondeterminismError
from higgsnb.redaction import logger
from higgsnb.results import FileKey, Record
from higgsnb.storage import NotOwnFileError, atomic_write, distrust, open_no_link

try:
    import fcntl

    LOCKS = fcntl.flock, fcntl.lockf
except ImportError:  # Windows has no flock; there SQLite's own lock is the only one
    fcntl = None  # type: ignore[assignment]
    LOCKS = ()  # type: ignore[assignment]

if TYPE_CHECKING:
    from higgsnb.datasets import Chunk

log = logger(__name__)
SCHEMA_VERSION = 5
BUSY_SECONDS = 10.0
"""How long a commit waits for a reader before it gives up."""
NO_SQLITE_LOCKS = {
    sqlite3.SQLITE_PROTOCOL, sqlite3.SQLITE_IOERR_LOCK, sqlite3.SQLITE_IOERR_RDLOCK, sqlite3.SQLITE_IOERR_UNLOCK,
    sqlite3.SQLITE_IOERR_CHECKRESERVEDLOCK, sqlite3.SQLITE_IOERR_SHMOPEN, sqlite3.SQLITE_IOERR_SHMLOCK,
    sqlite3.SQLITE_IOERR_SHMMAP,
}  # fmt: skip
"""What SQLite says where its locks, or the memory that processes share, cannot be had."""
NO_LOCKS_HINT = "Keep the ledger on a local disk: --ledger FILE (ledger=PATH); or run without: --ledger none."
PAGE_BYTES = 16384
"""Pages of a new file: larger ones than usual are fewer calls of the system for rows of many events."""
KEYS_AT_ONCE = 500
"""Keys looked up in one query (SQLite allows 999 variables)."""


def nondeterminism(dataset: int, file: int, start: int, stop: int) -> NondeterminismError:
    """Return the error for a chunk, by its place in the catalogue."""
    return NondeterminismError(
        f"entries {start} to {stop} of file {file} of dataset {dataset} gave two different results; "
        "the machine or the code is not deterministic"
    )


def _seal(key: bytes, record: Record, sha256: bytes = b"") -> bytes:
    """Return the sha256 that a row carries: over the record and the key that it is the record of."""
    return hashlib.sha256(key + (sha256 or record.sha256())).digest()


_CREATE = f"""
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS units (key BLOB PRIMARY KEY, sha256 BLOB NOT NULL,
    {", ".join(f"{name} NOT NULL" for name in Record._fields)});
CREATE TABLE IF NOT EXISTS attempts (key BLOB PRIMARY KEY, begun INTEGER NOT NULL, open INTEGER NOT NULL,
    alone INTEGER NOT NULL) WITHOUT ROWID;
"""
_COLUMNS = f"key, sha256, {', '.join(Record._fields)}"
_PLACEHOLDERS = ", ".join("?" * (2 + len(Record._fields)))
_BEGIN = """
INSERT INTO attempts VALUES (?, 1, 1, ?)
ON CONFLICT (key) DO UPDATE SET begun = begun + 1, open = open + 1, alone = alone + excluded.alone
"""
_END = "UPDATE attempts SET open = 0, alone = 0 WHERE key = ?"


class Attempts(NamedTuple):
    """How often a chunk was begun in all; how often without an end (the process died); and how often of these alone."""

    begun: int
    open: int
    alone: int


class Ledger(contextlib.AbstractContextManager["Ledger"]):
    """The ledger in one SQLite file, made if it does not exist; one of an older version is renamed to ``….old-vN``.

    Raises
    ------
    LedgerError
        If another client holds it (names its process and host), a newer version of this package wrote it, or it cannot
        be written.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        with contextlib.ExitStack() as stack:
            self._lock = stack.enter_context(_lock_beside(self.path))
            with _translated_errors(self.path):
                database = stack.enter_context(contextlib.closing(_connect(self.path, "rwc")))
                version = _version(database)
                if version is not None and version < SCHEMA_VERSION:
                    database.close()
                    _move_aside(self.path, version)
                    database = stack.enter_context(contextlib.closing(_connect(self.path, "rwc")))
                elif version is not None:
                    _check_version(database, self.path)
                database.execute(f"PRAGMA page_size = {PAGE_BYTES}")  # of a new file
                database.execute("PRAGMA journal_mode = WAL")
                database.execute("PRAGMA synchronous = FULL")
                with database:
                    database.executescript(_CREATE)
                    database.execute("INSERT OR IGNORE INTO meta VALUES ('schema_version', ?)", (str(SCHEMA_VERSION),))
            self._database, self._opened = database, stack.pop_all()

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file and release its lock."""
        self._opened.close()

    def __len__(self) -> int:
        """Return the number of finished chunks, of any campaign and selection."""
        return int(self._database.execute("SELECT count(*) FROM units").fetchone()[0])

    def commit(self, finished: Iterable[tuple[bytes, Record] | tuple[bytes, Record, bytes]]) -> None:
        """Write finished chunks, all in one transaction: (key, content), and its sha256 if a worker has computed it.

        A chunk that is there already with the same content is left as it is.

        Raises
        ------
        NondeterminismError
            If a chunk is there with other content. Nothing is written then.
        LedgerError
            If the disk is full or read-only. Nothing is written then.
        """
        rows = [(key, _seal(key, record, *sha256), *record) for key, record, *sha256 in finished]
        try:  # if the folder was removed or replaced, SQLite would go on writing to an unlinked file
            replaced = not os.path.samestat(os.fstat(self._lock.fileno()), Path(self._lock.name).stat())
        except OSError:
            replaced = True
        if replaced:
            message = f"{self.path}: was removed or replaced while it was in use"
            raise LedgerError(message, "Run the same command again: it starts again there.")
        with _translated_errors(self.path), self._database:
            known: dict[bytes, bytes] = {}
            for some in self.records(row[0] for row in rows):
                known |= {key: _seal(key, record) for key, record in some.items()}
            for key, sha256, dataset, file, start, stop, *_ in rows:
                if known.setdefault(key, sha256) != sha256:  # written already, or among the rows
                    raise nondeterminism(dataset, file, start, stop)
            self._database.executemany(f"INSERT OR REPLACE INTO units VALUES ({_PLACEHOLDERS})", rows)  # noqa: S608 - only placeholders
            self._database.executemany(_END, [(row[0],) for row in rows])

    def records(self, keys: Iterable[bytes]) -> Iterator[dict[bytes, Record]]:
        """Yield the finished ones of these chunks, some at a time; a row whose content is damaged is left out."""
        wanted = list(keys)
        for first in range(0, len(wanted), KEYS_AT_ONCE):
            some = wanted[first : first + KEYS_AT_ONCE]
            with _translated_errors(self.path):
                found = dict(_sound(self._database, f"WHERE key IN ({', '.join('?' * len(some))})", some))
            yield found

    def forget(self, keys: Iterable[bytes]) -> None:
        """Delete chunks, so that they are computed again."""
        with _translated_errors(self.path), self._database:
            rows = [(key,) for key in keys]
            self._database.executemany("DELETE FROM units WHERE key = ?", rows)
            self._database.executemany("DELETE FROM attempts WHERE key = ?", rows)

    # -- attempts

    def begin(self, keys: Iterable[bytes], *, alone: bool) -> None:
        """Note that chunks are begun, ``alone`` if nothing else is in flight that could end this process.

        Not synced to disk: it has to outlive this process, and need not outlive the machine.
        """
        with _translated_errors(self.path):
            self._database.execute("PRAGMA synchronous = OFF")
            try:
                with self._database:
                    self._database.executemany(_BEGIN, [(key, int(alone)) for key in keys])
            finally:
                self._database.execute("PRAGMA synchronous = FULL")

    def end(self, keys: Iterable[bytes]) -> None:
        """Note that chunks came to an end without a result: they failed, or the run was stopped in good order."""
        with _translated_errors(self.path), self._database:
            self._database.executemany(_END, [(key,) for key in keys])

    def attempts(self, keys: Iterable[bytes]) -> dict[bytes, Attempts]:
        """Return how often chunks were begun; those never begun are left out."""
        wanted = set(keys)
        rows = self._database.execute("SELECT key, begun, open, alone FROM attempts")
        return {key: Attempts(*numbers) for key, *numbers in rows if key in wanted}

    def begun_again(self) -> int:
        """Return how many chunks were begun more than once."""
        return int(self._database.execute("SELECT count(*) FROM attempts WHERE begun > 1").fetchone()[0])

    # -- to another place

    def absorb(self, path: Path) -> int:
        """Take over what another ledger holds, and return how many chunks that added.

        Rows whose content does not agree with their sha256 are left out.

        Raises
        ------
        NondeterminismError
            If a chunk is here already with other content. Nothing is taken over then.
        LedgerError
            If the other file is not a ledger.
        """
        before = len(self)
        with _translated_errors(path), contextlib.closing(_connect(path, "ro")) as other:
            _check_version(other, path)
            found = list(_sound(other))
        self.commit(found)
        return len(self) - before


def export_ledger(path: Path, target: Path) -> int:
    """Write a copy of a ledger to one file; return the number of finished chunks in it.

    Consistent even while a run writes to the ledger.

    Raises
    ------
    LedgerError
        If it cannot be read or written.
    """
    with _translated_errors(target), contextlib.closing(_connect(path, "rw")) as database:
        _check_version(database, path)
        with atomic_write(target) as temporary:
            database.execute("VACUUM INTO ?", (str(temporary),))
    with contextlib.closing(_connect(target, "ro")) as copy:
        return int(copy.execute("SELECT count(*) FROM units").fetchone()[0])


def chunk_keys(chunks: Iterable[Chunk], identities: Mapping[FileKey, Mapping[str, Any]]) -> list[bytes]:
    """Return the key of each chunk, 32 bytes: sha256 over the range of entries and the identity of its file.

    ``identities`` holds for each file everything else that can change the result: what identifies the file, schema and
    primary dataset, selection, golden JSON, code and libraries.
    """
    begun = {key: hashlib.sha256(json.dumps(identity, sort_keys=True).encode()) for key, identity in identities.items()}
    keys = []
    for chunk in chunks:
        digest = begun[chunk.dataset_index, chunk.file_index].copy()
        digest.update(f"{chunk.start}:{chunk.stop}".encode())
        keys.append(digest.digest())
    return keys


def _sound(database: sqlite3.Connection, where: str = "", keys: Sequence[bytes] = ()) -> Iterator[tuple[bytes, Record]]:
    """Yield the rows, all or those of some keys, whose content is not damaged."""
    for key, sha256, *values in database.execute(f"SELECT {_COLUMNS} FROM units {where}", keys):  # noqa: S608 - only names
        if _seal(key, record := Record(*values)) == sha256:
            yield key, record


def _version(database: sqlite3.Connection) -> int | None:
    """Return the version of a ledger's layout; None of a file without one, such as a ledger begun and interrupted."""
    if not database.execute("SELECT count(*) FROM sqlite_master WHERE name = 'meta'").fetchone()[0]:
        return None
    row = database.execute("SELECT value FROM meta WHERE name = 'schema_version'").fetchone()
    try:
        return None if row is None else int(row[0])
    except (TypeError, ValueError):
        raise sqlite3.DatabaseError(f"its version is not a number ({row[0]!r})") from None


def _move_aside(path: Path, version: int) -> None:
    """Rename a closed ledger of an older version, with what SQLite keeps beside it; nothing is overwritten."""
    names = (f"{path.name}.old-v{version}{'' if n == 1 else f'-{n}'}" for n in count(1))
    target = next(path.with_name(name) for name in names if not path.with_name(name).exists())
    for suffix in ("-wal", "-shm", ""):  # these exist only after a crash; the ledger itself last
        with contextlib.suppress(FileNotFoundError):
            path.with_name(path.name + suffix).rename(target.with_name(target.name + suffix))
    log.warning(
        "%s was written by an older version of higgsnb (ledger version %d, now %d): it was kept as %s, and everything "
        "is counted again.", path, version, SCHEMA_VERSION, target.name,
    )  # fmt: skip


def _connect(path: Path, mode: str) -> sqlite3.Connection:
    """Open a database in one of SQLite's modes: ``rwc`` (made if it does not exist), ``rw`` or ``ro``."""
    address = f"{path.absolute().as_uri()}?mode={mode}"
    return sqlite3.connect(address, uri=True, timeout=BUSY_SECONDS, check_same_thread=False)


def _check_version(database: sqlite3.Connection, path: Path) -> None:
    """Raise LedgerError if another version of this package wrote a ledger."""
    version = _version(database)
    if version is None:
        raise LedgerError(f"{path}: not a ledger", "Name the ledger.sqlite of a result directory.")
    if version != SCHEMA_VERSION:
        hint = "Export it again with this version of higgsnb, or count again."
        if version > SCHEMA_VERSION:
            hint = "Update higgsnb, or use another result directory (--out)."
        raise LedgerError(f"{path}: a ledger of version {version}; this package writes version {SCHEMA_VERSION}", hint)


@contextlib.contextmanager
def _translated_errors(path: Path) -> Iterator[None]:
    """Turn SQLite's errors into a LedgerError with a hint."""
    try:
        yield
    except sqlite3.OperationalError as error:
        if getattr(error, "sqlite_errorcode", 0) in NO_SQLITE_LOCKS:
            message = f"{path}: its file system has no locks, or none that SQLite can use ({error})"
            raise LedgerError(message, NO_LOCKS_HINT) from error
        raise LedgerError(
            f"{path}: {error}",
            "Nothing is lost that was finished before. Free some space or choose another result directory (--out), "
            "then run the same command again: it resumes.",
        ) from error
    except sqlite3.DatabaseError as error:
        raise LedgerError(
            f"{path}: not a usable ledger ({error})", "Move it away: the files are then read again."
        ) from error


def check_locks(folder: Path) -> None:
    """Try both kinds of locks, ours and SQLite's, on new files in a folder.

    Raises
    ------
    LedgerError
        If its file system has no locks: NFS without its lock service, Lustre without ``flock``, some of FUSE.
    OSError
        If it cannot be written.
    """
    for lock in LOCKS:
        with tempfile.TemporaryFile(dir=folder) as file:
            try:
                lock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                message = f"the file system of {folder} has no locks ({error.strerror}), which a ledger needs"
                raise LedgerError(message, NO_LOCKS_HINT) from error


@contextlib.contextmanager
def _lock_beside(path: Path) -> Iterator[IO[str]]:
    """Hold the lock file beside the ledger, which stays, empty; LedgerError names the process that holds it already."""
    lock = path.with_name(f".{path.name}.lock")
    if path.is_symlink() and (reason := distrust(path)):
        raise LedgerError(f"{path} is a link and {reason}", "Remove it, or name another directory with --out.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        check_locks(path.parent)
        stream = io.TextIOWrapper(open_no_link(lock), encoding="utf-8")
    except LedgerError:
        raise
    except NotOwnFileError as error:
        raise LedgerError(f"{lock} {error.strerror}", "Remove it, or name another directory with --out.") from None
    except OSError as error:
        raise LedgerError(
            f"cannot write to {path.parent}: {error.strerror}", "Name another directory with --out."
        ) from error
    with stream:
        try:
            if fcntl is not None:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            stream.seek(0)
            message = f"{path} is in use by {stream.read().strip() or 'unknown'}"
            raise LedgerError(
                message, "Wait until it is done, stop it, or name another directory with --out."
            ) from None
        stream.seek(0)
        stream.truncate()
        stream.write(f"process {os.getpid()} on {socket.gethostname()}")
        stream.flush()
        try:
            yield stream
        finally:
            stream.seek(0)
            stream.truncate()
