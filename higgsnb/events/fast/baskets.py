"""Read, straight from the baskets of a TTree, only the leptons of events that have enough of them.

Uproot opens the file and says where each branch's baskets are. This module reads those bytes, inflates them and copies
out the few elements that belong to *preselected* events, whose counters (``nMuon``, ``nElectron``) allow four leptons.
Three things make that quick.

* The counters are decoded first. They say where every event's leptons start, so the entry offsets that close each
  jagged basket, 40 % of the uncompressed bytes, are never decoded, and not even inflated where the codec can stop
  before them.
* Nothing is built for the 98 % of events that cannot pass.
* Bytes are read with ``pread``, basket by basket, so memory does not grow with the file.

Headers are checked, because a flipped bit in a header is as bad as one in the payload: the key of a basket must hold
its branch's name, its position and its size, and the length of its content must equal the sum of the counters. A
contradiction is a `DamagedFileError`. A tree that is valid but different (``std::vector``, several leaves, ...) is an
`UnexpectedFormError`: read it with uproot.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass, field
from functools import reduce
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from higgsnb.errors import DamagedFileError
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
from higgsnb.selection import rule

Integers = npt.NDArray[np.int64]
Array = npt.NDArray[Any]

WINDOW = 200_000
"""Entries worked on at a time; about 30 bytes of memory each, besides the baskets."""
WIDEST_WINDOW = 8 * WINDOW
"""Upper limit of a window that is extended to the end of baskets longer than `WINDOW`."""


# --- One branch


_STORED = {
    ("TLeafF", False): ">f4",
    ("TLeafD", False): ">f8",
    ("TLeafO", False): "?",
    ("TLeafB", False): "i1",
    ("TLeafB", True): "u1",
    ("TLeafS", False): ">i2",
    ("TLeafS", True): ">u2",
    ("TLeafI", False): ">i4",
    ("TLeafI", True): ">u4",
    ("TLeafL", False): ">i8",
    ("TLeafL", True): ">u8",
    ("TLeafG", False): ">i8",  # Long_t, stored with eight bytes on every machine
    ("TLeafG", True): ">u8",
}
_KEY = struct.Struct(">ihiIhhii")
_BIG_KEY = struct.Struct(">ihiIhhqq")
_BASKET = struct.Struct(">HiiiiB")
_BASKET_WITH_BITS = struct.Struct(">HiiBiiB")
_GENERATED_OFFSETS = 0x01
"""The only I/O feature that baskets can have: entry offsets left out. They are not used here anyway."""
_OFFSETS_TO_GENERATE = 80
"""The flag of a basket whose offsets were left out."""


@dataclass(frozen=True)
class BranchBaskets:
    """One branch: how its elements are stored, and where its baskets are.

    ``edges`` (n_baskets + 1,) are the entries at which baskets start; ``seeks`` and ``sizes`` (n_on_file,) place them
    in the file. Baskets that the writer left inside the tree's header follow in ``embedded``.
    """

    name: str
    dtype: np.dtype[Any]
    counter: str | None
    edges: Integers
    seeks: tuple[int, ...]
    sizes: tuple[int, ...]
    embedded: tuple[bytes, ...]
    key_names: bytes = field(repr=False)

    def overlapping(self, start: int, stop: int) -> range:
        """Return the indices of the baskets that hold entries ``start`` to ``stop``."""
        if stop <= start:
            return range(0)
        first = int(np.searchsorted(self.edges, start, side="right")) - 1
        last = int(np.searchsorted(self.edges, stop, side="left"))
        return range(first, last)


def branch_baskets(branch: Any) -> BranchBaskets:
    """Return how the baskets of ``branch`` are stored, as uproot has read it.

    Raises
    ------
    UnexpectedFormError
        If it is not one leaf of numbers, alone or counted by another branch.
    DamagedFileError
        If its table of baskets contradicts itself.
    """
    name = str(branch.name)
    dtype, counter = _stored_form(branch)
    n_on_file = int(branch._num_normal_baskets)
    embedded = branch.embedded_baskets
    edges = np.asarray(branch.member("fBasketEntry")[: n_on_file + 1], dtype=np.int64)
    if n_on_file == 0:
        edges = np.zeros(1, dtype=np.int64)
    edges = np.concatenate([edges, edges[-1] + np.cumsum([b.num_entries for b in embedded], dtype=np.int64)])
    n_entries = int(branch.member("fEntries"))
    if edges[0] != 0 or edges[-1] != n_entries or (np.diff(edges) < 0).any():
        raise DamagedFileError(
            f"{branch.file.file_path}: branch {name} has baskets to entry {edges[-1]} of {n_entries}"
        )
    encoded = name.encode()
    length = bytes([len(encoded)]) if len(encoded) < 255 else b"\xff" + struct.pack(">I", len(encoded))  # as ROOT does
    return BranchBaskets(
        name=name,
        dtype=dtype,
        counter=counter,
        edges=edges,
        seeks=tuple(branch.member("fBasketSeek")[:n_on_file].tolist()),
        sizes=tuple(branch.member("fBasketBytes")[:n_on_file].tolist()),
        embedded=tuple(bytes(basket.data) for basket in embedded),
        key_names=b"\x07TBasket" + length + encoded,
    )


def _stored_form(branch: Any) -> tuple[np.dtype[Any], str | None]:
    """Return the type of one stored element and the name of the counting branch, if any."""
    leaves = list(branch.member("fLeaves"))
    if branch.classname != "TBranch" or len(leaves) != 1 or len(branch.member("fBranches")):
        raise UnexpectedFormError(
            f"branch {branch.name} is a {branch.classname} with {len(leaves)} leaves, not a plain one"
        )
    leaf = leaves[0]
    length = leaf.member("fLen")
    stored = _STORED.get((leaf.classname, bool(leaf.member("fIsUnsigned"))))
    if stored is None or length != 1:
        raise UnexpectedFormError(f"branch {branch.name} has a {leaf.classname} of {length} elements, not one number")
    counter = leaf.member("fLeafCount")
    return np.dtype(stored), None if counter is None else str(counter.member("fName"))


class _Head(NamedTuple):
    """The header of a basket: bytes of its key, of the whole object and of the content in it, and entries."""

    key_length: int
    object_length: int
    content_length: int
    n_entries: int


def _read_head(raw: Buffer, branch: BranchBaskets, index: int) -> _Head:
    """Read key and header of a basket, which must be those of basket ``index`` of ``branch``."""
    n_bytes, version, object_length, _, key_length, _, seek, _ = _KEY.unpack_from(raw)
    names = _KEY.size
    if version > 1000:
        seek, names = _BIG_KEY.unpack_from(raw)[6], _BIG_KEY.size
    title = names + len(branch.key_names)
    if n_bytes != len(raw) or seek != branch.seeks[index] or raw[names:title] != branch.key_names:
        raise ValueError("its key is that of something else")
    start = title + (1 + raw[title] if raw[title] < 255 else 5 + int.from_bytes(raw[title + 1 : title + 5], "big"))
    if key_length - start == _BASKET.size:
        _, _, entry_size, n_entries, last, flag = _BASKET.unpack_from(raw, start)
        is_known = entry_size >= 0 and flag == 0
    elif key_length - start == _BASKET_WITH_BITS.size:
        _, _, entry_size, bits, n_entries, last, flag = _BASKET_WITH_BITS.unpack_from(raw, start)
        is_known = entry_size < 0 and bits & 0x7F == _GENERATED_OFFSETS and flag in (0, _OFFSETS_TO_GENERATE)
    else:
        raise ValueError(f"its header has {key_length - start} bytes")
    if not is_known:
        what = bytes(raw[start:key_length]).hex()
        raise UnexpectedFormError(f"a basket's header has features not known here: {what}")
    if not 0 <= last - key_length <= object_length:
        raise ValueError(f"its content ends at byte {last - key_length} of {object_length}")
    return _Head(key_length, object_length, last - key_length, n_entries)


# --- Events


@dataclass(frozen=True)
class Columns:
    """Which branches to read: counters of muons and electrons, flat ones, and those that each counter counts."""

    muon_counter: str
    electron_counter: str
    flat: tuple[str, ...]
    muons: tuple[str, ...]
    electrons: tuple[str, ...]

    @property
    def jagged(self) -> dict[str, tuple[str, ...]]:
        """Branches by counter."""
        return {self.muon_counter: self.muons, self.electron_counter: self.electrons}

    @property
    def names(self) -> tuple[str, ...]:
        """All branches, counters first."""
        return (self.muon_counter, self.electron_counter, *self.flat, *self.muons, *self.electrons)


class Preselected(NamedTuple):
    """Events that have enough leptons.

    ``entries`` (n,) int64 are their indices in the tree; ``muon_offsets`` and ``electron_offsets`` (n + 1,) int64 give
    where the leptons of each event start; ``columns`` maps branch names to arrays, (n,) or (n_leptons,), in the
    machine's byte order. ``n_read`` counts all events, preselected or not.
    """

    entries: Integers
    muon_offsets: Integers
    electron_offsets: Integers
    columns: dict[str, Array]
    n_read: int
    notes: Notes


def four_leptons(n_muons: Integers, n_electrons: Integers) -> npt.NDArray[np.bool_]:
    """Return which events can hold a four-lepton candidate of any channel."""
    passed: npt.NDArray[np.bool_] = (n_muons >= 4) | (n_electrons >= 4) | ((n_muons >= 2) & (n_electrons >= 2))
    return passed


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
    """An open uproot ``TTree``, ready to read any range of its entries, also from several threads at once.

    ``source`` has the bytes of the same file, and is closed together with the reader. The checksum of every block that
    has one is verified if ``checked``; False is for files that were verified as a whole.

    Raises
    ------
    KeyError
        If a branch does not exist.
    UnexpectedFormError, DamagedFileError
        See `branch_baskets`.
    """

    name = "baskets"

    def __init__(self, tree: Any, source: ByteSource, columns: Columns, *, checked: bool = True) -> None:
        self.uuid = str(tree.file.uuid)
        self.columns = columns
        self.n_entries = int(tree.num_entries)
        self._source = source
        self._checked = checked
        self._branches = {name: branch_baskets(tree[name]) for name in columns.names}
        counters = {name: counter for counter, names in columns.jagged.items() for name in names}
        for name, branch in self._branches.items():
            if branch.counter != counters.get(name):
                raise UnexpectedFormError(f"branch {name} is counted by {branch.counter}, not by {counters.get(name)}")
            if branch.edges[-1] != self.n_entries:
                what = f"branch {name} has {branch.edges[-1]} entries, the tree {self.n_entries}"
                raise DamagedFileError(f"{source.location}: {what}")
        for name in columns.jagged:
            if self._branches[name].dtype.kind not in "iu":
                raise UnexpectedFormError(f"counter {name} holds {self._branches[name].dtype}, not integers")
        self._edges: Integers = reduce(np.intersect1d, [branch.edges for branch in self._branches.values()])
        longest = max(int(np.diff(branch.edges).max(initial=0)) for branch in self._branches.values())
        self._widest = WIDEST_WINDOW if longest > WINDOW else WINDOW

    def read(self, start: int = 0, stop: int | None = None) -> Preselected:
        """Read the preselected events among entries ``start`` to ``stop``.

        Raises
        ------
        DamagedFileError
            If the bytes fail a check; names the basket.
        UnexpectedFormError
            If a basket is legal but not plain; read the range with uproot.
        """
        dtypes = {name: self._branches[name].dtype.newbyteorder("=") for name in self.columns.names[2:]}
        return joined(list(self.windows(start, stop)), dtypes)

    def windows(self, start: int = 0, stop: int | None = None) -> Iterator[Preselected]:
        """Read the same piece by piece, in order and without gaps, so that memory does not grow with the range."""
        plan = self._plan(start, self.n_entries if stop is None else min(stop, self.n_entries))
        kept: dict[str, dict[int, Buffer]] = {name: {} for name in self._branches}
        for window, following, fetch in self._fetched(plan):
            work = _Work(self._branches, window, following, fetch, kept, self._checked, self._source.location)
            yield _read_window(work, self.columns)

    def flat(self, name: str, start: int, stop: int) -> Array:
        """Return a flat branch of all entries ``start`` to ``stop``; raises as `read` does, for this branch only."""
        branch = self._branches[name]
        window = _Window(start, stop, (start, stop), {name: branch.overlapping(start, stop)})
        places = [(branch.seeks[i], branch.sizes[i]) for i in window.baskets[name] if i < len(branch.seeks)]
        fetch = self._source.fetch(places)
        work = _Work(self._branches, window, None, fetch, {name: {}}, self._checked, self._source.location)
        return _counts(work, name) if start < stop else np.empty(0, branch.dtype.newbyteorder("="))

    def _fetched(self, plan: list[_Window]) -> Iterator[tuple[_Window, _Window | None, Fetch]]:
        """Yield each window with its successor and its bytes; those of a remote file are asked for one window ahead."""
        followers = [*plan[1:], None][: len(plan)]
        ranges = []  # (offset, size) of the baskets of each window that the one before did not have
        for window, before in zip(plan, [None, *plan], strict=False):
            had = before.baskets if before else {}
            wanted = [
                (branch.seeks[i], branch.sizes[i])
                for name, branch in self._branches.items()
                for i in window.baskets[name]
                if i < len(branch.seeks) and i not in had.get(name, ())
            ]
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
            baskets = {name: branch.overlapping(start, end) for name, branch in self._branches.items()}
            jagged = [(branch.edges, baskets[name]) for name, branch in self._branches.items() if branch.counter]
            first = min((int(edges[touched.start]) for edges, touched in jagged), default=start)
            last = max((int(edges[touched.stop]) for edges, touched in jagged), default=end)
            baskets |= {name: self._branches[name].overlapping(first, last) for name in self.columns.jagged}
            plan.append(_Window(start, end, (first, last), baskets))
            start = end
        return plan


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

    def edges(self, name: str) -> Integers:
        """Return the entries at which this window's baskets of branch ``name`` start, and where the last one stops."""
        baskets = self.window.baskets[name]
        return self.branches[name].edges[baskets.start : baskets.stop + 1]

    def contents(self, name: str, lengths: Integers) -> Iterator[Array]:
        """Yield the elements of each basket of branch ``name`` in this window, which must be as many as ``lengths``."""
        branch = self.branches[name]
        had, shared = self.kept[name], self.following.baskets[name] if self.following else range(0)
        kept = self.kept[name] = {}
        sizes = (lengths * branch.dtype.itemsize).tolist()
        for index, size in zip(self.window.baskets[name], sizes, strict=True):
            try:
                content = had[index] if index in had else self._stored(branch, index, size)
            except (UnexpectedFormError, DamagedFileError):
                raise
            except (ValueError, IndexError, struct.error) as error:
                what = f"basket {index} of branch {branch.name} is damaged ({error})"
                raise DamagedFileError(f"{self.location}: {what}") from error
            if index in shared:
                kept[index] = content
            yield np.frombuffer(content, branch.dtype)

    def gather(self, name: str, contents: Iterable[Array], starts: Integers, elements: Integers) -> Array:
        """Return the values of branch ``name`` at ``elements``, ascending; its ``contents`` begin at ``starts``."""
        values = np.empty(len(elements), self.branches[name].dtype.newbyteorder("="))
        cuts = np.searchsorted(elements, starts).tolist()
        for content, start, first, last in zip(contents, starts.tolist(), cuts, cuts[1:], strict=False):
            if first < last:
                values[first:last] = content[elements[first:last] - start]
        return values

    def _stored(self, branch: BranchBaskets, index: int, size: int) -> Buffer:
        """Read and inflate the content of a basket, which has to be ``size`` bytes."""
        if index >= len(branch.seeks):  # inside the tree's header, which uproot has read
            content = branch.embedded[index - len(branch.seeks)]
            if len(content) != size:
                raise ValueError(f"it has {len(content)} bytes, expected {size}")
            self.seen.add((UNCOMPRESSED, False))
            return content
        raw = self.fetch(branch.seeks[index], branch.sizes[index])
        head = _read_head(raw, branch, index)
        n_entries = branch.edges[index + 1] - branch.edges[index]
        if head.content_length != size or head.n_entries != n_entries:
            found = f"{head.n_entries} entries in {head.content_length} bytes"
            raise ValueError(f"it has {found}, expected {n_entries} in {size}")
        if len(raw) - head.key_length == head.object_length:
            self.seen.add((UNCOMPRESSED, False))
            return memoryview(raw)[head.key_length : head.key_length + size]
        return inflate(raw, head.key_length, head.object_length, size, checked=self.checked, seen=self.seen)


def _read_window(work: _Work, columns: Columns) -> Preselected:
    """Read the counters, preselect events, and read their values."""
    window = work.window
    first, last = window.counted
    counts = {name: _counts(work, name) for name in columns.jagged}
    here = slice(window.start - first, window.stop - first)
    selected = np.flatnonzero(four_leptons(*(counts[name][here] for name in columns.jagged)))
    entries = selected + window.start
    edges = {name: work.edges(name) for name in columns.flat}
    found = {
        name: work.gather(name, work.contents(name, np.diff(starts)), starts, entries) for name, starts in edges.items()
    }
    offsets = []
    for counter, names in columns.jagged.items():
        firsts = np.empty(last - first + 1, dtype=np.int64)
        if not add_up(counts[counter], firsts):
            raise DamagedFileError(f"{work.location}: branch {counter} counts less than no leptons, or too many")
        edges = {name: firsts[work.edges(name) - first] for name in names}
        # Baskets of another size than the counters say end it here, before anything is allocated for so many leptons.
        read = {name: list(work.contents(name, np.diff(edges[name]))) for name in names[:1]}
        elements, starts = elements_of(firsts[entries - first], counts[counter][entries - first])
        offsets.append(starts)
        for name, begins in edges.items():
            contents = read.pop(name, None) or work.contents(name, np.diff(begins))
            found[name] = work.gather(name, contents, begins, elements)
    muons, electrons = offsets
    return Preselected(entries, muons, electrons, found, window.stop - window.start, Notes.of(work.seen))


def _counts(work: _Work, counter: str) -> npt.NDArray[Any]:
    """Return the values of a flat branch, such as a counter, for each counted entry of the window."""
    edges = work.edges(counter)
    start, stop = work.window.counted
    parts = work.contents(counter, np.diff(edges))
    counts = np.concatenate([part.astype(part.dtype.newbyteorder("="), copy=False) for part in parts])
    return counts[start - edges[0] : stop - edges[0]]


@rule
def add_up(counts: npt.NDArray[Any], offsets: Integers) -> bool:
    """Fill ``offsets`` (n + 1,) with zero and the running sum of ``counts`` (n,), eight times faster than `numpy`.

    Return whether the sum never decreases, as it does with a negative count or one that is too large.
    """
    total, rises = np.int64(0), True
    offsets[0] = total
    for i in range(len(counts)):
        total += np.int64(counts[i])
        rises &= total >= offsets[i]
        offsets[i + 1] = total
    return rises


def elements_of(firsts: Integers, counts: npt.NDArray[Any]) -> tuple[Integers, Integers]:
    """Return the indices of the leptons of events that start at ``firsts`` and have ``counts``, and their offsets."""
    counts = counts.astype(np.int64, copy=False)  # numpy adds no unsigned 64-bit integers to signed ones
    offsets = np.empty(len(firsts) + 1, dtype=np.int64)
    add_up(counts, offsets)
    return np.arange(offsets[-1]) + np.repeat(firsts - offsets[:-1], counts), offsets


def joined(parts: list[Preselected], dtypes: Mapping[str, np.dtype[Any]]) -> Preselected:
    """Join consecutive pieces; ``dtypes`` are the types of the columns where there are none."""
    if len(parts) == 1:
        return parts[0]
    if not parts:
        empty = {name: np.empty(0, dtype) for name, dtype in dtypes.items()}
        return Preselected(np.zeros(0, np.int64), np.zeros(1, np.int64), np.zeros(1, np.int64), empty, 0, Notes())
    muon_offsets, electron_offsets = (
        np.concatenate(([0], np.cumsum(np.concatenate([np.diff(getattr(part, name)) for part in parts]))))
        for name in ("muon_offsets", "electron_offsets")
    )
    return Preselected(
        entries=np.concatenate([part.entries for part in parts]),
        muon_offsets=muon_offsets,
        electron_offsets=electron_offsets,
        columns={name: np.concatenate([part.columns[name] for part in parts]) for name in dtypes},
        n_read=sum(part.n_read for part in parts),
        notes=Notes(
            frozenset().union(*(part.notes.codecs for part in parts)), all(part.notes.verified for part in parts)
        ),
    )
