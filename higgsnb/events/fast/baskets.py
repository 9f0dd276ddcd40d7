"""Read, straight from the baskets of a TTree, only the columns of events that pass a preselection.

Uproot opens the file and says where each branch's baskets are. This module reads those bytes, inflates them and copies
out the elements that belong to *preselected* events. Three things make that quick.

* What the preselection needs, counters and flags, is decoded first. Counters say where every event's objects start, so
  the entry offsets that close each jagged basket, 40 % of the uncompressed bytes, are never decoded, and not even
  inflated where the codec can stop before them.
* Nothing is built for events that cannot pass: 98 % of them, if four leptons are needed. Where most pass, the places
  of their objects are worked out once for all columns of a collection.
* Bytes are read with ``pread``, basket by basket, so memory does not grow with the file.

Headers are checked, because a flipped bit in a header is as bad as one in the payload: the key of a basket must hold
its branch's name, its position and its size, and the length of its content must equal the sum of the counters. A
contradiction is a `DamagedFileError`. A tree that is valid but different (several leaves, packed numbers, ...) is an
`UnexpectedFormError`: read it with uproot. The lists of a ``std::vector`` count themselves.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass, field
from functools import reduce
from typing import Any, NamedTuple, Self, TypeGuard

import numpy as np
import numpy.typing as npt

from higgsnb.errors import DamagedFileError
from higgsnb.events.columns import Array, Columns, Integers, offsets_of
from higgsnb.events.fast.blocks import (
    UNCOMPRESSED,
    Buffer,
    ByteSource,
    Fetch,
    Notes,
    Seen,
    UnexpectedFormError,
    inflate,
)
from higgsnb.events.fast.branches import BranchBaskets, branch_baskets, read_head
from higgsnb.events.fast.form import Form, TreeCatalogue
from higgsnb.events.fast.gather import (
    COPIES,
    LIST_HEADER,
    MARK,
    add_up,
    chosen,
    elements_of,
    indices_of,
    marks_of,
    split_lists,
)

WINDOW = 200_000
"""Entries worked on at a time; about 30 bytes of memory each, besides the baskets."""
WIDEST_WINDOW = 8 * WINDOW
"""Upper limit of a window that is extended to the end of baskets longer than `WINDOW`."""
LAST_WINDOW = 1.25
"""So many times the usual window are read at once if that is all: the usual chunk, which then need not be joined."""

Which = Array | slice
"""Some entries or elements, ascending: their indices, or a range of them without gaps; or marks, 1 for each of them."""


class Preselected(NamedTuple):
    """Events that pass the preselection.

    ``entries`` (n,) int64 are their indices in the tree; ``flat`` (n,) and ``jagged`` (n_objects,) are the columns that
    were asked for, in the machine's byte order; ``offsets`` (n + 1,) int64 say, by collection, where the objects of
    each event start. ``n_read`` counts all events, preselected or not.
    """

    entries: Integers
    flat: dict[str, Array]
    jagged: dict[str, Array]
    offsets: dict[str, Integers]
    n_read: int
    notes: Notes


class Request(NamedTuple):
    """What a reader has to find in its file: `Columns`, and how the file has them."""

    columns: Columns
    form: Form

    @property
    def wanted(self) -> list[str]:
        """Columns with one value per event, and counters, that are returned."""
        return [name for name in self.columns.names if name in self.form.flat or name in self.form.counts]

    @property
    def tested(self) -> list[str]:
        """Those that the preselection needs, as far as this file has them."""
        return [name for name in self.columns.tested if name in self.form.flat or name in self.form.counts]

    def passing(self, found: Mapping[str, Array], n_events: int) -> npt.NDArray[np.bool_]:
        """Return which events pass: (n_events,); what no file has did not fire, and is in no event."""
        return self.columns.passing(self.form.missing.flat(n_events) | dict(found), n_events)


class Group(NamedTuple):
    """Jagged columns with the same counter: their collection, and their branches by column.

    ``counter`` is the branch that counts, or the vector that is counted itself.
    """

    collection: str
    counter: str
    columns: dict[str, str]


@dataclass(frozen=True)
class _Window:
    """Entries that are read together, and the baskets of each branch that hold them."""

    start: int
    stop: int
    counted: tuple[int, int]
    """Entries for which counters are needed: up to the edges of the baskets that the window touches."""
    baskets: Mapping[str, range]


class OpenFile:
    """A reader that closes its source at the end of a ``with`` block."""

    _source: ByteSource

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._source.close()


class BasketReader(OpenFile):
    """Some columns of an open ``TTree``, ready to be read in any range of entries, also from several threads at once.

    ``source`` has the bytes of the same file, and is closed together with the reader. The checksum of every block that
    has one is verified if ``checked``; False is for files that were verified as a whole.

    Raises
    ------
    UnexpectedFormError, DamagedFileError
        See `branches.branch_baskets`.
    """

    name = "baskets"

    def __init__(
        self, catalogue: TreeCatalogue, source: ByteSource, columns: Columns, form: Form, *, checked: bool = True
    ) -> None:
        self.request = Request(columns, form)
        self.n_entries = int(catalogue.tree.num_entries)
        self._source = source
        self._checked = checked
        self._groups = _groups(form)
        counters = {name: column.counter or column.branch for name, column in form.counts.items()}
        self._flat = {name: column.branch for name, column in form.flat.items()} | counters
        jagged = [branch for group in self._groups for branch in group.columns.values()]
        counting = {*counters.values(), *(group.counter for group in self._groups)}
        names = dict.fromkeys((*sorted(counting), *self._flat.values(), *jagged))
        self._branches = {name: branch_baskets(catalogue.branches[name]) for name in names}
        counted = {branch: group.counter for group in self._groups for branch in group.columns.values()}
        for name, branch in self._branches.items():
            if not branch.is_vector and branch.counter != counted.get(name):
                raise UnexpectedFormError(f"branch {name} is counted by {branch.counter}, not by {counted.get(name)}")
            if branch.edges[-1] != self.n_entries:
                what = f"branch {name} has {branch.edges[-1]} entries, the tree {self.n_entries}"
                raise DamagedFileError(f"{source.location}: {what}")
            if name in counting and branch.dtype.kind not in "iu" and not branch.is_vector:
                raise UnexpectedFormError(f"counter {name} holds {branch.dtype}, not integers")
        edges = [branch.edges for branch in self._branches.values()] or [np.array([0, self.n_entries])]
        self._edges: Integers = reduce(np.intersect1d, edges)
        longest = max(int(np.diff(one).max(initial=0)) for one in edges)
        self._widest = WIDEST_WINDOW if longest > WINDOW else WINDOW

    def read(
        self, start: int = 0, stop: int | None = None, *, among: npt.NDArray[np.bool_] | None = None
    ) -> Preselected:
        """Read the preselected events among entries ``start`` to ``stop``, or those that ``among`` (n,) picks.

        Raises
        ------
        DamagedFileError
            If the bytes fail a check; names the basket.
        UnexpectedFormError
            If a basket is legal but not plain; read the range with uproot.
        """
        return joined(list(self.windows(start, stop, among=among)), self._nothing())

    def windows(
        self, start: int = 0, stop: int | None = None, *, among: npt.NDArray[np.bool_] | None = None
    ) -> Iterator[Preselected]:
        """Read the same piece by piece, in order and without gaps, so that memory does not grow with the range."""
        plan = self._plan(start, self.n_entries if stop is None else min(stop, self.n_entries))
        kept: dict[str, dict[int, Buffer]] = {name: {} for name in self._branches}
        for window, following, fetch in self._fetched(plan):
            work = _Work(self._branches, window, following, fetch, kept, self._checked, self._source.location)
            yield self._read_window(work, None if among is None else among[window.start - start : window.stop - start])

    def table(self, names: Iterable[str], start: int, stop: int) -> dict[str, Array]:
        """Return columns with one value per event, of all entries ``start`` to ``stop``; raises as `read` does."""
        branches, stop = {name: self._flat[name] for name in names}, min(stop, self.n_entries)
        touched = {branch: self._branches[branch].overlapping(start, stop) for branch in branches.values()}
        window = _Window(start, stop, (start, stop), touched)
        places = [place for name, indices in touched.items() for place in self._branches[name].places(indices)]
        kept: dict[str, dict[int, Buffer]] = {branch: {} for branch in touched}
        fetch = self._source.fetch(places)
        work = _Work(self._branches, window, None, fetch, kept, self._checked, self._source.location)
        return {name: work.values(branch) for name, branch in branches.items()}

    def _nothing(self) -> Preselected:
        """Return the columns of no event."""

        def empty(name: str) -> Array:
            return np.empty(0, self._branches[name].dtype.newbyteorder("="))

        flat = {name: empty(self._flat[name]) for name in self.request.wanted}
        flat |= {name: np.empty(0, np.int64) for name in flat if name in self.request.form.counts}
        jagged = {name: empty(branch) for group in self._groups for name, branch in group.columns.items()}
        offsets = {group.collection: np.zeros(1, np.int64) for group in self._groups}
        return Preselected(np.zeros(0, np.int64), flat, jagged, offsets, 0, Notes())

    def _fetched(self, plan: list[_Window]) -> Iterator[tuple[_Window, _Window | None, Fetch]]:
        """Yield each window with its successor and its bytes; those of a remote file are asked for one window ahead."""
        followers = [*plan[1:], None][: len(plan)]
        ranges = []  # (offset, size) of the baskets of each window that the one before did not have
        for window, before in zip(plan, [None, *plan], strict=False):
            had = before.baskets if before else {}
            wanted = []
            for name, branch in self._branches.items():
                wanted += branch.places(i for i in window.baskets[name] if i not in had.get(name, ()))
            ranges.append(wanted)
        if not self._source.remote:
            for window, follower, wanted in zip(plan, followers, ranges, strict=True):
                yield window, follower, self._source.fetch(wanted)
            return
        run = copy_context().run  # so that retries are counted with those of the caller
        with ThreadPoolExecutor(1, thread_name_prefix="baskets-ahead") as ahead:
            futures = [ahead.submit(run, self._source.fetch, wanted) for wanted in ranges[:1]]
            for i, (window, follower) in enumerate(zip(plan, followers, strict=True)):
                fetch = futures.pop().result()
                futures += [ahead.submit(run, self._source.fetch, wanted) for wanted in ranges[i + 1 : i + 2]]
                yield window, follower, fetch

    def _plan(self, start: int, stop: int) -> list[_Window]:
        """Cut the range into windows that end where all branches' baskets end, if such entries are near enough."""
        plan = []
        while start < stop:
            common = self._edges[(self._edges > start) & (self._edges <= start + self._widest)]
            near = common[common <= start + WINDOW]
            end = min(stop, int(near[-1]) if near.size else int(common[0]) if common.size else start + WINDOW)
            end = stop if stop - start <= WINDOW * LAST_WINDOW else end
            baskets = {name: branch.overlapping(start, end) for name, branch in self._branches.items()}
            counted = [group for group in self._groups if not self._branches[group.counter].is_vector]
            jagged = [(self._branches[name].edges, baskets[name]) for one in counted for name in one.columns.values()]
            first = min((int(edges[touched.start]) for edges, touched in jagged), default=start)
            last = max((int(edges[touched.stop]) for edges, touched in jagged), default=end)
            baskets |= {one.counter: self._branches[one.counter].overlapping(first, last) for one in counted}
            plan.append(_Window(start, end, (first, last), baskets))
            start = end
        return plan

    def _read_window(self, work: _Work, given: npt.NDArray[np.bool_] | None) -> Preselected:
        """Decode what the preselection needs, unless it is ``given`` who passes, and read the events that pass."""
        window, request = work.window, self.request
        n_events = window.stop - window.start
        if given is None and request.columns.preselection is not None:
            tested = {name: work.values(self._flat[name]) for name in request.tested}
            given = request.passing(tested, n_events)
        which: Which = slice(0, n_events) if given is None else chosen(given)
        flat = {name: work.flat(self._flat[name], which) for name in request.wanted}
        flat |= {name: flat[name].astype(np.int64, copy=False) for name in flat if name in request.form.counts}
        jagged: dict[str, Array] = {}
        offsets: dict[str, Integers] = {}
        for group in self._groups:
            is_vector = self._branches[group.counter].is_vector
            starts, columns = (work.listed if is_vector else work.counted)(group, which)
            if not np.array_equal(offsets.setdefault(group.collection, starts), starts):
                what = f"the columns of {group.collection} differ in length: {', '.join(group.columns)} and others"
                raise DamagedFileError(f"{work.location}: {what}")
            jagged |= columns
        entries = _entries(which, window.start)
        return Preselected(entries, flat, jagged, offsets, n_events, Notes.of(work.seen))


def _groups(form: Form) -> list[Group]:
    """Return the jagged columns by what counts them."""
    groups: dict[tuple[str, str], Group] = {}
    for name, column in form.jagged.items():
        counter = column.counter or column.branch
        group = groups.setdefault((column.collection, counter), Group(column.collection, counter, {}))
        group.columns[name] = column.branch
    return list(groups.values())


@dataclass
class _Work:
    """One window being read."""

    branches: Mapping[str, BranchBaskets]
    window: _Window
    following: _Window | None
    fetch: Fetch
    kept: dict[str, dict[int, Buffer]]
    """By branch, contents of baskets that the window before shared with this one."""
    checked: bool
    location: str
    seen: Seen = field(default_factory=set)
    decoded: dict[str, Array] = field(default_factory=dict)
    """By branch, values of all entries of its baskets that hold this window."""
    lists: dict[str, Array] = field(default_factory=dict)
    """By branch, the values of a vector, without the headers of its lists; their lengths are in ``decoded``."""
    cut: tuple[Integers, Integers, list[tuple[int, int, Integers]]] | None = None
    """The last result of `_cut`."""

    def edges(self, name: str) -> Integers:
        """Return the entries at which this window's baskets of branch ``name`` start, and where the last one stops."""
        baskets = self.window.baskets[name]
        return self.branches[name].edges[baskets.start : baskets.stop + 1]

    def values(self, name: str, start: int | None = None, stop: int | None = None) -> Array:
        """Return a flat branch, or the lengths of the lists of a vector, of the window or of entries around it."""
        start, stop = (self.window.start if start is None else start), (self.window.stop if stop is None else stop)
        edges = self.edges(name)
        if name not in self.decoded and self.branches[name].is_vector:
            self._split(name)
        elif name not in self.decoded:
            native = self.branches[name].dtype.newbyteorder("=")
            parts = [part.astype(native, copy=False) for part in self.contents(name, np.diff(edges))]
            self.decoded[name] = np.concatenate(parts or [np.empty(0, native)])
        return self.decoded[name][start - edges[0] : stop - edges[0]]

    def flat(self, name: str, which: Which) -> Array:
        """Return the values of a flat branch for ``which`` events of the window."""
        if isinstance(which, slice) or name in self.decoded or self.branches[name].is_vector:
            return self.values(name)[_plain(which)]
        edges = self.edges(name)
        return self.gather(name, self.contents(name, np.diff(edges)), edges - self.window.start, which)

    def counted(self, group: Group, which: Which) -> tuple[Integers, dict[str, Array]]:
        """Return where the objects of ``which`` events start in columns that a branch counts, and these columns."""
        first, last = self.window.counted
        firsts = np.empty(last - first + 1, dtype=np.int64)
        if not add_up(self.values(group.counter, first, last), firsts):
            raise DamagedFileError(f"{self.location}: branch {group.counter} counts less than no objects, or too many")
        begins = {name: firsts[self.edges(name) - first] for name in group.columns.values()}
        # Baskets of another size than the counters say end it here, before anything is allocated for so many objects.
        read = {name: list(self.contents(name, np.diff(begins[name]))) for name in list(begins)[:1]}
        elements, starts = _elements(firsts, which, self.window.start - first)
        columns = {}
        for column, name in group.columns.items():
            contents = read.pop(name, None) or self.contents(name, np.diff(begins[name]))
            columns[column] = self.gather(name, contents, begins[name], elements)
        return starts, columns

    def listed(self, group: Group, which: Which) -> tuple[Integers, dict[str, Array]]:
        """Return the same of a vector."""
        first, last = (int(entry) for entry in self.edges(group.counter)[[0, -1]])
        lengths = self.values(group.counter, first, last)
        elements, starts = _elements(offsets_of(lengths), which, self.window.start - first)
        return starts, {column: self.lists[name][_plain(elements)] for column, name in group.columns.items()}

    def contents(self, name: str, lengths: Integers | None) -> Iterator[Array]:
        """Yield the elements of each basket of branch ``name`` in this window, which must be as many as ``lengths``.

        Of a vector, whose elements are not counted, they are bytes.
        """
        branch = self.branches[name]
        had, shared = self.kept[name], self.following.baskets[name] if self.following else range(0)
        kept = self.kept[name] = {}
        indices = self.window.baskets[name]
        sizes = [-1] * len(indices) if lengths is None else (lengths * branch.dtype.itemsize).tolist()
        for index, size in zip(indices, sizes, strict=True):
            try:
                content = had[index] if index in had else self._stored(branch, index, size)
            except (UnexpectedFormError, DamagedFileError):
                raise
            except (ValueError, IndexError, struct.error) as error:
                raise self._damaged(branch, index, error) from error
            if index in shared:
                kept[index] = content
            elements = np.frombuffer(content, np.uint8 if lengths is None else branch.dtype)
            elements.flags.writeable = False  # whatever it came from: compiled code has one form
            yield elements

    def gather(self, name: str, contents: Iterable[Array], starts: Integers, elements: Which) -> Array:
        """Return the values of branch ``name`` at ``elements``; its ``contents`` begin at ``starts``."""
        native = self.branches[name].dtype.newbyteorder("=")
        if isinstance(elements, slice):
            bounds = [slice(max(elements.start - at, 0), max(elements.stop - at, 0)) for at in starts.tolist()]
            pieces = [content[here].astype(native) for content, here in zip(contents, bounds, strict=False)]
            return pieces[0] if len(pieces) == 1 else np.concatenate(pieces or [np.empty(0, native)])
        if _is_marks(elements):
            return self._marked(native, contents, starts, elements)
        values = np.empty(len(elements), native)
        for content, (first, last, inside) in zip(contents, self._cut(elements, starts), strict=True):
            if first < last:
                values[first:last] = content.take(inside)
        return values

    def _marked(self, native: np.dtype[Any], contents: Iterable[Array], starts: Integers, marks: Array) -> Array:
        """Return the values of which the marks are 1."""
        values, at = np.empty(np.count_nonzero(marks) + 1, native), 0
        for content, start in zip(contents, starts.tolist(), strict=False):
            first = max(start, 0)
            here, content = marks[first : max(start + len(content), 0)], content[first - start :]  # noqa: PLW2901
            if content.dtype.str[0] == ">" and native.itemsize in COPIES:
                at = COPIES[native.itemsize](content.view(np.uint32), here, values.view(np.uint32), at)
            else:
                some = content[: len(here)][here.view(np.bool_)]
                values[at : at + len(some)] = some
                at += len(some)
        return values[:at]

    def _cut(self, elements: Integers, starts: Integers) -> list[tuple[int, int, Integers]]:
        """Return for each basket which range of ``elements`` it holds, and where they are in it.

        What was found is kept for the next branch, whose baskets mostly begin at the same ``starts``.
        """
        if self.cut is None or self.cut[0] is not elements or not np.array_equal(self.cut[1], starts):
            cuts = np.searchsorted(elements, starts).tolist()
            ranges = zip(starts.tolist(), cuts, cuts[1:], strict=False)
            pieces = [(first, last, elements[first:last] - start) for start, first, last in ranges]
            self.cut = elements, starts, pieces
        return self.cut[2]

    def _split(self, name: str) -> None:
        """Decode a vector: the lengths of its lists, and their values."""
        branch, parts = self.branches[name], []
        numbers = np.diff(self.edges(name)).tolist()
        for index, n_lists, content in zip(self.window.baskets[name], numbers, self.contents(name, None), strict=False):
            lengths, values = np.empty(n_lists, np.int64), np.empty(max(len(content) - LIST_HEADER * n_lists, 0), "u1")
            if split_lists(content, branch.dtype.itemsize, lengths, values) != len(values):
                raise self._damaged(branch, index, "its lists do not end where it does")
            parts.append((lengths, values.view(branch.dtype).astype(branch.dtype.newbyteorder("="), copy=False)))
        empty = np.empty(0, np.int64), np.empty(0, branch.dtype.newbyteorder("="))
        self.decoded[name], self.lists[name] = map(np.concatenate, zip(*(parts or [empty]), strict=True))

    def _damaged(self, branch: BranchBaskets, index: int, why: object) -> DamagedFileError:
        return DamagedFileError(f"{self.location}: basket {index} of branch {branch.name} is damaged ({why})")

    def _stored(self, branch: BranchBaskets, index: int, size: int) -> Buffer:
        """Read and inflate the content of a basket, which has to be ``size`` bytes; -1 if that is not known."""
        if index >= len(branch.seeks):  # inside the tree's header, which uproot has read
            content = branch.embedded[index - len(branch.seeks)]
            if size not in (len(content), -1):
                raise ValueError(f"it has {len(content)} bytes, expected {size}")
            self.seen.add((UNCOMPRESSED, False))
            return content
        raw = self.fetch(branch.seeks[index], branch.sizes[index])
        head = read_head(raw, branch, index)
        n_entries = branch.edges[index + 1] - branch.edges[index]
        size = head.content_length if size < 0 else size
        if head.content_length != size or head.n_entries != n_entries:
            found = f"{head.n_entries} entries in {head.content_length} bytes"
            raise ValueError(f"it has {found}, expected {n_entries} in {size}")
        if len(raw) - head.key_length == head.object_length:
            self.seen.add((UNCOMPRESSED, False))
            return memoryview(raw)[head.key_length : head.key_length + size]
        return inflate(raw, head.key_length, head.object_length, size, checked=self.checked, seen=self.seen)


def _elements(firsts: Integers, which: Which, ahead: int) -> tuple[Which, Integers]:
    """Return the objects of ``which`` events and where those of each start, from where those of all entries start.

    ``ahead`` entries come before the first event of the window.
    """
    if isinstance(which, slice):
        starts = firsts[ahead + which.start : ahead + which.stop + 1]
        return slice(int(starts[0]), int(starts[-1])), starts - starts[0]
    if _is_marks(which):
        return marks_of(firsts, which, ahead)
    return elements_of(firsts, which + ahead if ahead else which)


def _is_marks(which: Which) -> TypeGuard[npt.NDArray[np.uint8]]:
    return not isinstance(which, slice) and which.dtype == MARK


def _plain(which: Which) -> Which:
    """Return the same as NumPy takes it: a mask instead of marks."""
    return which.view(np.bool_) if _is_marks(which) else which


def _entries(which: Which, start: int) -> Integers:
    """Return which entries these are, if the first event is ``start``."""
    if isinstance(which, slice):
        return np.arange(start, start + which.stop)
    return indices_of(which, start) if _is_marks(which) else which + start


def joined(parts: list[Preselected], nothing: Preselected) -> Preselected:
    """Join consecutive pieces; ``nothing`` has the same columns of no event."""
    if len(parts) == 1:
        return parts[0]
    parts = parts or [nothing]
    lengths = {name: [np.diff(part.offsets[name]) for part in parts] for name in nothing.offsets}
    return Preselected(
        entries=np.concatenate([part.entries for part in parts]),
        flat={name: np.concatenate([part.flat[name] for part in parts]) for name in nothing.flat},
        jagged={name: np.concatenate([part.jagged[name] for part in parts]) for name in nothing.jagged},
        offsets={name: offsets_of(np.concatenate(counts)) for name, counts in lengths.items()},
        n_read=sum(part.n_read for part in parts),
        notes=Notes(
            frozenset().union(*(part.notes.codecs for part in parts)), all(part.notes.verified for part in parts)
        ),
    )
