"""Read from the pages of an RNTuple only the columns of events that pass a preselection.

The counterpart of `baskets` for ROOT's newer format. Uproot reads the schema and the list of pages; this module
inflates the pages that hold elements of preselected events and copies out these only: a *split* page keeps the first
bytes, second bytes, ... of its elements together, so where few elements are wanted, each is gathered from four places,
and the page is never put back together.

A jagged field has its offsets in a separate column. Files converted from NanoAOD share one among all fields of a
collection, as the records do that uproot writes; where every field has its own, they have to be the same, page by page
as stored, or else value by value.

Pages carry an XXH3 checksum, whatever the codec (ROOT's tree/ntuple/doc/BinaryFormatSpecification.md); where a writer
left it out, what the codec offers is verified, as in `blocks`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import xxhash

from higgsnb.errors import DamagedFileError
from higgsnb.events.columns import Array, Columns, Integers
from higgsnb.events.fast.baskets import OpenFile, Preselected, Request, Which, joined
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
from higgsnb.events.fast.form import CARDINALITY, FieldCatalogue, Form
from higgsnb.events.fast.gather import elements_of

_PROJECTED = 0x02
_CHECKSUM = 8


@dataclass(frozen=True)
class Page:
    """One page: its bytes in the file, with the checksum, and its elements, counted from the start of the cluster."""

    offset: int
    size: int
    has_checksum: bool
    start: int
    stop: int


@dataclass(frozen=True)
class PageColumn:
    """One column: how its elements are stored, and its pages, one list per cluster."""

    name: str
    dtype: np.dtype[Any]
    split: bool
    zigzag: bool
    delta: bool
    is_bit: bool
    clusters: tuple[tuple[Page, ...], ...]

    def n_elements(self, cluster: int) -> int:
        """Return the number of elements in a cluster."""
        pages = self.clusters[cluster]
        return pages[-1].stop if pages else 0


class JaggedField(NamedTuple):
    """The two columns of a field with several values per event."""

    offsets: PageColumn
    values: PageColumn


class _Fields:
    """Columns of an RNTuple, by uproot's records of them."""

    def __init__(self, catalogue: FieldCatalogue, location: str) -> None:
        self._catalogue, self._ntuple, self._location = catalogue, catalogue.tree, location
        self._columns: dict[int, list[int]] = {}
        for number, column in enumerate(self._ntuple.column_records):
            self._columns.setdefault(column.field_id, []).append(number)
        self._made: dict[int, PageColumn] = {}

    def values(self, branch: str) -> PageColumn:
        """Return the values of a field: those of its items, if it is jagged."""
        return self._column(self._catalogue.values_of(branch), branch)

    def offsets(self, branch: str) -> PageColumn:
        """Return where the values of a jagged field start."""
        return self._column(self._catalogue.list_of(branch), branch)

    def _column(self, number: int, name: str) -> PageColumn:
        """Return the only column of a field, or of the one that has the data of a projected field."""
        record = self._ntuple.field_records[number]
        if CARDINALITY in record.type_name:
            raise UnexpectedFormError(f"field {name} is a {record.type_name}, which counts")
        columns = self._columns.get(int(record.source_field_id) if record.flags & _PROJECTED else number, [])
        if len(columns) != 1:
            raise UnexpectedFormError(f"field {name} has {len(columns)} columns instead of one")
        (number,) = columns
        if number not in self._made:
            metadata = self._ntuple.get_field_metadata(number)
            kind = str(metadata.dtype_str)
            if kind in ("switch", "real32trunc", "real32quant") or metadata.dtype.itemsize not in (1, 2, 4, 8):
                raise UnexpectedFormError(f"field {name} is stored as {kind}")
            self._made[number] = PageColumn(
                name=name,
                dtype=np.dtype(metadata.dtype).newbyteorder("<"),
                split=bool(metadata.split),
                zigzag=bool(metadata.zigzag),
                delta=bool(metadata.delta),
                is_bit=bool(metadata.isbit),
                clusters=tuple(_pages(self._location, c, number, name) for c in self._ntuple.page_link_list),
            )
        return self._made[number]


def read_page_lists(ntuple: Any, location: str) -> None:
    """Let uproot read entries and pages of each cluster, and verify the checksums of these lists, which it does not.

    Raises `DamagedFileError` if one does not agree.
    """

    def read(locator: Any, size: int) -> tuple[Any, Any]:
        chunk, cursor = type(ntuple).read_locator(ntuple, locator, size)
        content = bytes(chunk.raw_data)
        if xxhash.xxh3_64_digest(content[:-_CHECKSUM])[::-1] != content[-_CHECKSUM:]:
            raise DamagedFileError(f"{location}: a list of pages at byte {locator.offset} fails its checksum")
        return chunk, cursor

    ntuple.read_locator = read
    try:
        ntuple.page_link_list  # noqa: B018 - read now, and kept
    finally:
        del ntuple.read_locator


def _pages(location: str, cluster: Any, number: int, name: str) -> tuple[Page, ...]:
    """List the pages of one column in one cluster."""
    if number >= len(cluster) or cluster[number].suppressed:
        raise UnexpectedFormError(f"field {name} is not stored in every cluster")
    pages: list[Page] = []
    stop = 0
    for record in cluster[number].pages:
        if not record.num_elements > 0 or not record.locator.num_bytes > 0:
            raise DamagedFileError(f"{location}: field {name} has a page of {record.num_elements} elements")
        start, stop = stop, stop + int(record.num_elements)
        size = int(record.locator.num_bytes) + (_CHECKSUM if record.has_checksum else 0)
        pages.append(Page(int(record.locator.offset), size, bool(record.has_checksum), start, stop))
    return tuple(pages)


class PageReader(OpenFile):
    """Some columns of an open RNTuple, ready to be read in any range of entries; used as `baskets.BasketReader` is.

    Arguments and errors are the same. Counters are not read: the offsets of the jagged fields hold the same numbers.
    """

    name = "pages"

    def __init__(
        self, catalogue: FieldCatalogue, source: ByteSource, columns: Columns, form: Form, *, checked: bool = True
    ) -> None:
        self.request = Request(columns, form)
        self.n_entries = int(catalogue.tree.num_entries)
        self._source = source
        self._checked = checked
        fields = _Fields(catalogue, source.location)
        self._flat = {name: fields.values(column.branch) for name, column in form.flat.items()}
        self._counts = {name: fields.offsets(column.branch) for name, column in form.counts.items()}
        self._jagged: dict[str, dict[str, JaggedField]] = {name: {} for name in form.collections}
        for name, column in form.jagged.items():
            pair = JaggedField(fields.offsets(column.branch), fields.values(column.branch))
            self._jagged[column.collection][name] = pair
        edges = np.cumsum([0, *(int(cluster.num_entries) for cluster in catalogue.tree.cluster_summaries)])
        self._edges: Integers = edges.astype(np.int64)
        for one in (*self._flat.values(), *self._counts.values(), *self._offsets()):
            lengths = [one.n_elements(i) for i in range(len(one.clusters))]
            if lengths != np.diff(self._edges).tolist() or self._edges[-1] != self.n_entries:
                what = f"field {one.name} has {sum(lengths)} of {self.n_entries} entries"
                raise DamagedFileError(f"{source.location}: {what}")

    def _offsets(self) -> list[PageColumn]:
        return [jagged.offsets for fields in self._jagged.values() for jagged in fields.values()]

    def read(
        self, start: int = 0, stop: int | None = None, *, among: npt.NDArray[np.bool_] | None = None
    ) -> Preselected:
        """Read the preselected events among entries ``start`` to ``stop``; raises as `BasketReader.read` does."""
        flat = {name: np.empty(0, _result_dtype(column)) for name, column in self._flat.items()}
        flat |= {name: np.empty(0, np.int64) for name in self._counts}
        pairs = {name: pair for fields in self._jagged.values() for name, pair in fields.items()}
        nothing = Preselected(
            entries=np.zeros(0, np.int64),
            flat={name: flat[name] for name in self.request.wanted},
            jagged={name: np.empty(0, _result_dtype(pair.values)) for name, pair in pairs.items()},
            offsets={name: np.zeros(1, np.int64) for name in self._jagged},
            n_read=0,
            notes=Notes(),
        )
        return joined(list(self.windows(start, stop, among=among)), nothing)

    def windows(
        self, start: int = 0, stop: int | None = None, *, among: npt.NDArray[np.bool_] | None = None
    ) -> Iterator[Preselected]:
        """Read the same cluster by cluster."""
        start, stop = max(start, 0), self.n_entries if stop is None else min(stop, self.n_entries)
        for cluster, first, last in self._parts(start, stop):
            yield self._read_cluster(
                cluster, first, last, None if among is None else among[first - start :][: last - first]
            )

    def table(self, names: Iterable[str], start: int, stop: int) -> dict[str, Array]:
        """Return columns with one value per event, of all entries ``start`` to ``stop``; raises as `read` does."""
        names, stop = list(names), min(stop, self.n_entries)
        dtypes = {name: _result_dtype(self._flat[name]) if name in self._flat else np.dtype(np.int64) for name in names}
        parts: dict[str, list[Array]] = {name: [np.empty(0, dtype)] for name, dtype in dtypes.items()}
        for cluster, first, last in self._parts(start, stop):
            work = _Work(self._source, cluster, self._checked)
            low, high = first - int(self._edges[cluster]), last - int(self._edges[cluster])
            work.prepare(
                self._pages(work, names, [self._counts[name] for name in names if name in self._counts], low, high)
            )
            for name, values in self._values(work, names, low, high).items():
                parts[name].append(values)
        return {name: np.concatenate(values) for name, values in parts.items()}

    def _parts(self, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
        """Yield each cluster of a range of entries, and which entries it holds of it."""
        for cluster, (first, last) in enumerate(pairwise(self._edges.tolist())):
            if first < stop and last > start:
                yield cluster, max(start, first), min(stop, last)

    def _pages(
        self, work: _Work, names: Iterable[str], offsets: Iterable[PageColumn], low: int, high: int
    ) -> list[Page]:
        """Return the pages of flat columns and of offsets that entries ``low`` to ``high`` of a cluster need."""
        flat = [self._flat[name] for name in names if name in self._flat]
        before = max(low - 1, 0)
        shared = {id(column): column for column in offsets}.values()
        return [page for column in flat for page in work.touched(column, low, high)] + [
            page for column in shared for page in work.touched(column, before, high)
        ]

    def _values(self, work: _Work, names: Iterable[str], low: int, high: int) -> dict[str, Array]:
        """Return columns with one value per event, of entries ``low`` to ``high`` of a cluster."""
        return {
            name: work.gather(self._flat[name], slice(low, high))
            if name in self._flat
            else np.diff(work.ends(self._counts[name], low, high))
            for name in names
        }

    def _read_cluster(self, cluster: int, start: int, stop: int, given: npt.NDArray[np.bool_] | None) -> Preselected:
        """Read the preselected events of one cluster between two entries."""
        origin, n_events, request = int(self._edges[cluster]), stop - start, self.request
        work = _Work(self._source, cluster, self._checked)
        low, high = start - origin, stop - origin
        early = dict.fromkeys(
            (request.tested if given is None else []) + [n for n in request.wanted if n in self._counts]
        )
        work.prepare(self._pages(work, early, [*self._offsets(), *self._counts.values()], low, high))
        known = self._values(work, early, low, high)
        if given is None and request.columns.preselection is not None:
            given = request.passing(known, n_events)
        which: Which = slice(0, n_events) if given is None or given.all() else np.flatnonzero(given)
        entries = np.arange(low, high)[which]
        place: Which = slice(low, high) if isinstance(which, slice) else entries
        wanted = {name: (self._flat[name], place) for name in request.wanted if name not in known}
        offsets: dict[str, Integers] = {}
        for collection, fields in self._jagged.items():
            elements, offsets[collection] = _elements(self._ends(work, fields, low, high), which)
            wanted |= {name: (pair.values, elements) for name, pair in fields.items()}
        work.prepare([page for column, elements in wanted.values() for page, _, _ in work.hits(column, elements)])
        found = {name: work.gather(column, elements) for name, (column, elements) in wanted.items()}
        flat = {name: known[name][which] if name in known else found[name] for name in request.wanted}
        jagged = {name: found[name] for fields in self._jagged.values() for name in fields}
        return Preselected(entries + origin, flat, jagged, offsets, n_events, Notes.of(work.seen))

    def _ends(self, work: _Work, fields: dict[str, JaggedField], start: int, stop: int) -> Integers:
        """Return where each entry's elements start and the last ones end, (n + 1,), the same for all ``fields``."""
        location = self._source.location
        columns = list({id(jagged.offsets): jagged.offsets for jagged in fields.values()}.values())
        ends = work.ends(columns[0], start, stop)
        for column in columns[1:]:
            stored_alike = work.same_pages(columns[0], column, start, stop)
            if not stored_alike and not np.array_equal(ends, work.ends(column, start, stop)):
                raise DamagedFileError(f"{location}: fields {columns[0].name} and {column.name} differ in length")
        for name, jagged in fields.items():
            n_elements = jagged.values.n_elements(work.cluster)
            whole = stop == jagged.offsets.n_elements(work.cluster)
            if ends[-1] > n_elements or (whole and ends[-1] != n_elements):
                raise DamagedFileError(f"{location}: field {name} has {n_elements} elements instead of {ends[-1]}")
        return ends


@dataclass
class _Work:
    """One cluster being read."""

    source: ByteSource
    cluster: int
    checked: bool
    seen: Seen = field(default_factory=set)
    decoded: dict[int, Integers] = field(default_factory=dict)
    """By the identity of a column, the offsets that were decoded."""

    def prepare(self, pages: list[Page]) -> None:
        """Ask for the bytes of some pages, the only ones that can be read until the next call."""
        self.fetch: Fetch = self.source.fetch([(page.offset, page.size) for page in pages])

    def ends(self, column: PageColumn, start: int, stop: int) -> Integers:
        """Return the offsets of entries ``start`` to ``stop`` within the cluster, with the one before: (n + 1,).

        The range is always the same; a column is decoded once.
        """
        if id(column) in self.decoded:
            return self.decoded[id(column)]
        parts = [np.zeros(1, np.int64)] if start == 0 else []
        wanted = max(start - 1, 0)
        for page in self.touched(column, wanted, stop):
            values = _unsplit(self._content(column, page), column, slice(None)).astype(np.int64)
            if column.delta:
                values = np.cumsum(values)
            parts.append(values[max(wanted - page.start, 0) : stop - page.start])
        ends = np.concatenate(parts)
        if (np.diff(ends) < 0).any() or ends[0] < 0:
            raise DamagedFileError(f"{self.source.location}: the offsets of field {column.name} decrease")
        self.decoded[id(column)] = ends
        return ends

    def same_pages(self, one: PageColumn, other: PageColumn, start: int, stop: int) -> bool:
        """Whether two columns have the same bytes in the file, so that they need not be decoded to be compared."""
        mine, others = (self.touched(column, max(start - 1, 0), stop) for column in (one, other))
        alike = (one.dtype, one.split, one.delta) == (other.dtype, other.split, other.delta)
        return (
            alike
            and [(a.start, a.stop) for a in mine] == [(b.start, b.stop) for b in others]
            and all(self._stored(one, a) == self._stored(other, b) for a, b in zip(mine, others, strict=True))
        )

    def gather(self, column: PageColumn, elements: Which) -> Array:
        """Return the values of a column at ``elements`` of the cluster; pages without any are not read."""
        n_values = elements.stop - elements.start if isinstance(elements, slice) else len(elements)
        values = np.empty(n_values, _result_dtype(column))
        for page, first, last in self.hits(column, elements):
            if isinstance(elements, slice):
                here: Which = slice(elements.start + first - page.start, elements.start + last - page.start)
            else:
                here = elements[first:last] - page.start
            values[first:last] = _unsplit(self._content(column, page), column, here)
        return values

    def hits(self, column: PageColumn, elements: Which) -> list[tuple[Page, int, int]]:
        """Return the pages that hold some of ``elements``, each with the range of those it holds."""
        pages = column.clusters[self.cluster]
        edges = np.array([0, *(page.stop for page in pages)])
        if isinstance(elements, slice):
            cuts = (np.clip(edges, elements.start, elements.stop) - elements.start).tolist()
        else:
            cuts = np.searchsorted(elements, edges).tolist()
        return [hit for hit in zip(pages, cuts, cuts[1:], strict=False) if hit[1] < hit[2]]

    def touched(self, column: PageColumn, start: int, stop: int) -> list[Page]:
        """Return the pages that hold elements ``start`` to ``stop``."""
        return [page for page in column.clusters[self.cluster] if page.start < stop and page.stop > start]

    def _stored(self, column: PageColumn, page: Page) -> bytes:
        """Return the bytes of a page as they are in the file, after comparing its checksum."""
        data = bytes(self.fetch(page.offset, page.size))
        if not page.has_checksum:
            return data
        content, checksum = data[:-_CHECKSUM], data[-_CHECKSUM:]
        if xxhash.xxh3_64_digest(content)[::-1] != checksum:
            raise DamagedFileError(
                f"{self.source.location}: the page of field {column.name} at byte {page.offset} fails its checksum"
            )
        return content

    def _content(self, column: PageColumn, page: Page) -> npt.NDArray[np.uint8]:
        """Return the uncompressed bytes of a page."""
        n = page.stop - page.start
        size = (n + 7) // 8 if column.is_bit else n * column.dtype.itemsize
        content: Buffer = self._stored(column, page)
        seen: Seen = set()
        if len(content) == size:
            seen.add((UNCOMPRESSED, False))
        else:
            try:
                content = inflate(content, 0, size, size, checked=self.checked and not page.has_checksum, seen=seen)
            except UnexpectedFormError:
                raise
            except ValueError as error:
                what = f"the page of field {column.name} at byte {page.offset} is damaged ({error})"
                raise DamagedFileError(f"{self.source.location}: {what}") from error
        self.seen |= {(name, verified or page.has_checksum) for name, verified in seen}
        return np.frombuffer(content, np.uint8)


def _result_dtype(column: PageColumn) -> np.dtype[Any]:
    """Return the type of the values of a column in memory."""
    return np.dtype(bool) if column.is_bit else column.dtype.newbyteorder("=")


def _elements(ends: Integers, which: Which) -> tuple[Which, Integers]:
    """Return the objects of ``which`` events, and where those of each start, from where those of all events end."""
    if isinstance(which, slice):
        return slice(int(ends[0]), int(ends[-1])), ends - ends[0]
    return elements_of(ends, which)


MANY = 0.25
"""Share of the elements of a split page from which on it is put back together, all of it."""


def _unsplit(content: npt.NDArray[np.uint8], column: PageColumn, elements: Which) -> Array:
    """Return the values at ``elements`` of an uncompressed page."""
    if column.is_bit:
        bits: Array = np.unpackbits(content, bitorder="little")[elements].astype(bool)
        return bits
    width = column.dtype.itemsize
    if not column.split:
        values = content.view(column.dtype)[elements]
    elif isinstance(elements, slice) or len(elements) > MANY * (len(content) // width):
        values = np.ascontiguousarray(content.reshape(width, -1).T).reshape(-1).view(column.dtype)[elements]
    else:
        values = np.stack([row[elements] for row in content.reshape(width, -1)], axis=1).reshape(-1).view(column.dtype)
    if column.zigzag:
        unsigned = values.view(f"<u{width}")
        values = (unsigned >> 1).astype(column.dtype) ^ -(unsigned & 1).astype(column.dtype)
    return values
