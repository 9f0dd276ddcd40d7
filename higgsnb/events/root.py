"""Read ROOT files: through the fast readers, or through uproot where a file has a form that these do not know."""

from __future__ import annotations

import errno
import io
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from pathlib import Path
from threading import Lock, RLock
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np

from higgsnb import datasets
from higgsnb.errors import DamagedFileError, HiggsnbError, SchemaError, UnreadableError, first_line
from higgsnb.events.columns import Array, Columns, EventColumns, Integers, offsets_of, with_missing
from higgsnb.events.fast.baskets import Preselected, Request
from higgsnb.events.fast.blocks import ByteSource, Notes, UnexpectedFormError
from higgsnb.events.fast.form import Catalogue, Column, Form, resolve
from higgsnb.events.fast.gather import elements_of
from higgsnb.events.fast.preselected import catalogue_of, open_directory, reader_for, source_of
from higgsnb.events.leptons import LEPTON_NAMES, check_leptons
from higgsnb.events.schema import GENERATOR_WEIGHT, FileInfo, diagnose, tree_among

if TYPE_CHECKING:
    from higgsnb.events.fast.baskets import BasketReader
    from higgsnb.events.fast.pages import PageReader

DAMAGED_HINT = "The file is damaged or incomplete; fetch it again."


class Place(NamedTuple):
    """Where a file lies, in which version, and whether all of it agreed with a checksum."""

    location: str
    is_remote: bool
    verified: bool
    version: datasets.Version

    @classmethod
    def of(cls, source: datasets.Source) -> Place:
        """Return the place of a located file."""
        return cls(source.location, source.is_remote, source.verified, source.version)


class OpenTree(NamedTuple):
    """What is known of the tree of a file, which is closed again; ``weighted`` as in `FileInfo`."""

    catalogue: Catalogue
    name: str
    uuid: str
    n_entries: int
    kind: str
    weighted: bool


class Known(NamedTuple):
    """What identifies a file and its friends: its tree and UUID, entries, which are as many in each, all columns."""

    tree: str
    uuid: str
    n_entries: int
    names: frozenset[str]


class KeptFiles:
    """A file and its friends, as long as their versions stay: fast readers of what was asked for; threads share them.

    Opening a file of NanoAOD with its 1500 branches takes a third of a second, so it is done once, not once a chunk.
    The tree is the first of ``trees`` that the file has.
    """

    def __init__(self, places: tuple[Place, ...], trees: tuple[str, ...]) -> None:
        self.places, self.trees, self.location = places, trees, places[0].location
        self._about: Known | None = None
        self._lock = RLock()
        self._sources: list[ByteSource] = []
        self._readers: dict[Columns, tuple[BasketReader | PageReader, ...] | UnexpectedFormError] = {}

    @property
    def known(self) -> Known:
        """What identifies the files; they are opened for it once."""
        if self._about is None:
            self.open()
        return cast("Known", self._about)

    def open(self) -> list[OpenTree]:
        """Return the trees of the files; raises `SchemaError` if they have not equally many entries."""
        opened = [open_tree(place, self.trees) for place in self.places]
        first = opened[0]
        for number, friend in enumerate(opened[1:], 1):
            if friend.n_entries != first.n_entries:
                what = f"its friend number {number} has {friend.n_entries:,} entries, it has {first.n_entries:,}"
                raise SchemaError(
                    f"{self.location}: {what}", "Friends have one entry for each event, in the same order."
                )
        names = frozenset(name for one in opened for name in one.catalogue.names)
        self._about = Known(first.name, first.uuid, first.n_entries, names)
        return opened

    def forms(self, opened: Sequence[OpenTree], columns: Columns) -> list[Form]:
        """Return where the files have some columns; of one name, the first counts. Raises `SchemaError`."""
        forms = resolve(columns, [one.catalogue for one in opened], self.location, opened[0].name)
        if set(LEPTON_NAMES) <= set(columns.names):
            for one, form in zip(opened, forms, strict=True):
                check_leptons(form, one.catalogue, self.location, opened[0].name)
        return forms

    def readers(self, columns: Columns) -> tuple[BasketReader | PageReader, ...]:
        """Return a reader for each file.

        Raises
        ------
        UnexpectedFormError
            If they have to be read by uproot.
        SchemaError, UnreadableError
            See `events.inspect`.
        """
        with self._lock:
            if columns not in self._readers:
                self._readers[columns] = self._make(columns)
            found = self._readers[columns]
        if isinstance(found, UnexpectedFormError):
            raise UnexpectedFormError(str(found))
        return found

    def table(self, names: Sequence[str], start: int, stop: int) -> dict[str, Array]:
        """Return columns with one value per event, of all entries ``start`` to ``stop``; raises as `readers` does.

        Those among ``names`` that have several are not returned.
        """
        with self._lock:
            known = [one[0] for one in self._readers.values() if isinstance(one, tuple)]
        for reader in known:
            if reader.request.form.flat.keys() >= set(names):
                return reader.table(names, start, stop)
        readers = self.readers(Columns(tuple(names)))
        tables = (one.table(one.request.wanted, start, stop) for one in readers)
        missing = readers[0].request.form.missing.flat(stop - start)
        return missing | {name: values for table in tables for name, values in table.items()}

    def _make(self, columns: Columns) -> tuple[BasketReader | PageReader, ...] | UnexpectedFormError:
        opened = self.open()
        forms = self.forms(opened, columns)
        if not self._sources:
            self._sources = [source_of(place.location, _remote(place)) for place in self.places]
        try:
            return tuple(
                reader_for(one.catalogue, source, columns, form, checked=not place.verified)
                for one, source, form, place in zip(opened, self._sources, forms, self.places, strict=True)
            )
        except UnexpectedFormError as error:
            return error.with_traceback(None)


@lru_cache(maxsize=32)
def _kept_files(places: tuple[Place, ...], trees: tuple[str, ...]) -> KeptFiles:
    return KeptFiles(places, trees)


@lru_cache(maxsize=256)
def _lock_of(_place: Place) -> Lock:
    return Lock()


_keeping = Lock()


def kept_files(sources: Sequence[datasets.Source], trees: tuple[str, ...]) -> KeptFiles:
    """Return what is kept of a file and its friends."""
    with _keeping:
        return _kept_files(tuple(Place.of(source) for source in sources), trees)


def forget() -> None:
    """Close all files, and forget what was in them."""
    _kept_files.cache_clear()
    _last_trees.cache_clear()


@lru_cache(maxsize=2)
def _last_trees(place: Place, trees: tuple[str, ...]) -> OpenTree:
    with open_file(place, trees) as (directory, name):
        found = directory[name]
        catalogue = catalogue_of(found, place.location, name)
        kind = "RNTuple" if "RNTuple" in type(found).__name__ else "TTree"
        weighted = GENERATOR_WEIGHT in catalogue.names or "Runs" in directory.keys(cycle=False)
        return OpenTree(catalogue, name, str(found.file.uuid), int(found.num_entries), kind, weighted)


def open_tree(place: Place, trees: tuple[str, ...]) -> OpenTree:
    """Return the tree of a file, which is parsed only if it is neither of the last two; raises as `open_file` does.

    Parsed trees take some 15 MB each with 1500 branches, which is why no more are kept.
    """
    with _keeping:
        lock = _lock_of(place)
    with lock:  # not by two threads at once
        return _last_trees(place, trees)


def inspect_root(kept: KeptFiles, source: datasets.Source, columns: Columns) -> FileInfo:
    """Check that a ROOT file, with its friends, has some columns, and count its entries."""
    opened = kept.open()
    for one, form, place in zip(opened, kept.forms(opened, columns), kept.places, strict=True):
        for column in (*form.flat.values(), *form.counts.values(), *form.jagged.values()):
            for branch in filter(None, (column.branch, column.counter)):
                if (found := one.catalogue.entries(branch)) != one.n_entries:  # the plan trusts this number
                    raise UnreadableError(
                        f"{place.location}: branch {branch} has {found:,} entries, the tree {one.n_entries:,}",
                        "The file is damaged: fetch it again.",
                    )
    size = source.size if source.is_remote else Path(source.location).stat().st_size
    return FileInfo(opened[0].n_entries, opened[0].kind, size, opened[0].uuid, weighted=opened[0].weighted)


def read_fast(kept: KeptFiles, columns: Columns, start: int, stop: int) -> EventColumns:
    """Read entries ``start`` to ``stop`` by the fast readers; raises as `KeptFiles.readers` does.

    With friends, what the preselection needs is read of all files first.
    """
    readers = kept.readers(columns)
    first = readers[0]
    if len(readers) == 1:
        return _completed(first.read(start, stop), first.request, first.name)
    tables = (reader.table(reader.request.tested, start, stop) for reader in readers)
    among = first.request.passing({name: values for table in tables for name, values in table.items()}, stop - start)
    parts = [reader.read(start, stop, among=among) for reader in readers]
    return _completed(_together(parts, kept.location), first.request, first.name)


def read_plain(kept: KeptFiles, columns: Columns, start: int, stop: int) -> EventColumns:
    """Read entries ``start`` to ``stop`` through uproot, with the same result."""
    with ExitStack() as stack:
        opened = []
        for place in kept.places:
            directory, name = stack.enter_context(open_file(place, kept.trees))
            tree = directory[name]
            catalogue = catalogue_of(tree, place.location, name)
            opened.append(OpenTree(catalogue, name, str(tree.file.uuid), int(tree.num_entries), "", weighted=False))
        stop = max(min(stop, opened[0].n_entries), start)
        requests = [Request(columns, form) for form in kept.forms(opened, columns)]
        files = [
            _Plain(one.catalogue, request.form, start, stop) for one, request in zip(opened, requests, strict=True)
        ]
        tables = (file.table(request.tested) for file, request in zip(files, requests, strict=True))
        tested = {name: values for table in tables for name, values in table.items()}
        which = np.flatnonzero(requests[0].passing(tested, stop - start))
        parts = [file.read(request.wanted, which) for file, request in zip(files, requests, strict=True)]
        return _completed(_together(parts, kept.location), requests[0], "uproot")


def _together(parts: Sequence[Preselected], location: str) -> Preselected:
    """Return the columns of the same events of several files; raise `SchemaError` if a collection differs in length."""
    offsets: dict[str, Integers] = {}
    for part in parts:
        for name, starts in part.offsets.items():
            if not np.array_equal(offsets.setdefault(name, starts), starts):
                what = f"{location}: its friends have other numbers of {name} in an event than it has"
                raise SchemaError(what, "Friends have the same objects for each event, in the same order.")
    return Preselected(
        entries=parts[0].entries,
        flat={name: values for part in parts for name, values in part.flat.items()},
        jagged={name: values for part in parts for name, values in part.jagged.items()},
        offsets=offsets,
        n_read=parts[0].n_read,
        notes=Notes(verified=all(part.notes.verified for part in parts)),
    )


def _completed(found: Preselected, request: Request, reader: str) -> EventColumns:
    """Return what was read, together with what no file has, but need not have."""
    integrity = "blocks" if found.notes.verified else "none"
    flat, jagged, offsets = found.flat, found.jagged, found.offsets
    columns = EventColumns(found.entries, found.n_read, flat, jagged, offsets, frozenset(), reader, integrity)
    return with_missing(columns, request.columns.names, request.form.missing)


class _Plain:
    """The columns of one file, through uproot, in a range of entries."""

    def __init__(self, catalogue: Catalogue, form: Form, start: int, stop: int) -> None:
        self._catalogue, self._form = catalogue, form
        self._start, self._stop = start, max(stop, start)

    def table(self, names: Iterable[str]) -> dict[str, Array]:
        """Return columns with one value per event, of all entries."""
        flat, counts = self._form.flat, self._form.counts
        return {name: self._flat(flat[name]) if name in flat else self._counts(counts[name]) for name in names}

    def read(self, names: Sequence[str], which: Integers) -> Preselected:
        """Return columns of ``which`` entries: those with one value per event by name, and all that are jagged."""
        offsets: dict[str, Integers] = {}
        jagged: dict[str, Array] = {}
        counters: dict[str, Integers] = {}
        known: dict[str, tuple[Integers, Integers | slice, Integers]] = {}
        for name, column in self._form.jagged.items():
            counts, values = self._list(column)
            if column.counter and column.counter not in counters:
                counters[column.counter] = self._counts(column)
            if column.counter and not np.array_equal(counts, counters[column.counter]):
                raise DamagedFileError(
                    f"{self._location}: {column.branch} does not have as many values as {column.counter} says"
                )
            if column.collection not in known or not np.array_equal(counts, known[column.collection][0]):
                known[column.collection] = counts, *_objects(counts, which)
            _, elements, starts = known[column.collection]
            if not np.array_equal(offsets.setdefault(column.collection, starts), starts):
                what = f"the columns of {column.collection} differ in length: {name} and others"
                raise DamagedFileError(f"{self._location}: {what}")
            jagged[name] = values[elements]
        flat = {name: values[which] for name, values in self.table(names).items()}
        return Preselected(which + self._start, flat, jagged, offsets, self._stop - self._start, Notes(verified=False))

    @property
    def _location(self) -> str:
        return self._catalogue.location

    def _array(self, branch: str) -> Any:
        return self._catalogue.tree[branch].array(entry_start=self._start, entry_stop=self._stop)

    def _flat(self, column: Column) -> Array:
        return _numbers(self._array(column.branch), 1, column.branch, self._location)

    def _counts(self, column: Column) -> Integers:
        if column.counter:
            return self._flat(Column(column.counter)).astype(np.int64)
        return self._list(column)[0]

    def _list(self, column: Column) -> tuple[Integers, Array]:
        import awkward as ak

        array = self._array(column.branch)
        if array.ndim != 2:
            _numbers(array, 2, column.branch, self._location)
        counts: Integers = np.asarray(ak.num(array)).astype(np.int64)
        return counts, _numbers(ak.flatten(array), 1, column.branch, self._location)


def _objects(counts: Integers, which: Integers) -> tuple[Integers | slice, Integers]:
    """Return the objects of ``which`` events, and where those of each start, from the numbers of all events."""
    firsts = offsets_of(counts)
    return (slice(None), firsts) if len(which) == len(counts) else elements_of(firsts, which)


def _numbers(array: Any, dimensions: int, branch: str, location: str) -> Array:
    """Return an awkward array of numbers as one of NumPy; raise `SchemaError` if it is something else."""
    try:
        found = np.asarray(array)
    except (TypeError, ValueError):
        found = np.empty(0, object)
    if found.dtype.kind not in "biuf" or found.ndim != dimensions:
        raise SchemaError(
            f"{location}: {branch} holds {array.type.content}; a column has one number per event, or a list of numbers",
            "Leave it out, or write it as columns of numbers.",
        )
    return np.ascontiguousarray(found)


def _remote(place: Place) -> datasets.RemoteFile | None:
    return datasets.RemoteFile(place.location, place.version.size or 0, place.version) if place.is_remote else None


@contextmanager
def open_file(place: Place, trees: tuple[str, ...]) -> Iterator[tuple[Any, str]]:
    """Open a file with uproot, and yield its directory and the name of its tree, the first of ``trees``.

    An error that damaged bytes cause is an `UnreadableError`.
    """
    diagnose(place.location)
    content = None
    if place.is_remote:
        remote = datasets.BlockwiseFile(place.location, place.version.size or 0, place.version)
        content = io.BufferedReader(remote)
    with clear_errors(place.location), open_directory(place.location, content) as directory:
        yield directory, tree_among(directory.keys(recursive=False, cycle=False), trees, place.location)


@contextmanager
def clear_errors(location: str) -> Iterator[None]:
    """Turn any error that damaged bytes cause into an `UnreadableError`."""
    try:
        yield
    except DamagedFileError as error:
        raise UnreadableError(error.message, error.hint) from error
    except (HiggsnbError, UnexpectedFormError):
        raise
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        raise UnreadableError(f"{location}: points to a place before its own start", DAMAGED_HINT) from error
    except MemoryError as error:
        raise UnreadableError(
            f"{location}: more memory is needed to read it than there is ({first_line(error)})",
            "Give workers more memory, or use smaller chunks (--chunk-events). A file that alone needs so much may be "
            "damaged: fetch it again.",
        ) from error
    except Exception as error:  # uproot raises whatever the damage leads to: struct.error, zlib.error, IndexError, …
        message = f"{location}: cannot be read ({type(error).__name__}: {first_line(error)})"
        raise UnreadableError(message, DAMAGED_HINT) from error
