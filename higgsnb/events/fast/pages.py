"""Read from the pages of an RNTuple only the leptons of events that have enough of them.

The counterpart of `baskets` for ROOT's newer format. Uproot reads the schema and the list of pages; this module
inflates the pages that hold elements of preselected events and copies out these only: a *split* page keeps the first
bytes, second bytes, ... of its elements together, so an element is gathered from four places, and the page is never
put back together.

A jagged field has its offsets in a separate column. Files converted from NanoAOD share one among all fields of a
flavour; where every field has its own, they have to be the same, page by page as stored, or else value by value.

Pages carry an XXH3 checksum, whatever the codec (ROOT's tree/ntuple/doc/BinaryFormatSpecification.md); where a writer
left it out, what the codec offers is verified, as in `blocks`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import xxhash

from higgsnb.errors import DamagedFileError
from higgsnb.events.fast.baskets import (
    Array,
    Columns,
    Integers,
    OpenFile,
    Preselected,
    elements_of,
    four_leptons,
    joined,
)
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

_LEAF, _COLLECTION = 0, 1
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


class _Schema:
    """Fields and columns of an RNTuple, by uproot's records of them."""

    def __init__(self, ntuple: Any, location: str) -> None:
        self._ntuple, self._location = ntuple, location
        self._fields = ntuple.field_records
        self._top = {record.field_name: i for i, record in enumerate(self._fields) if record.parent_field_id == i}
        self._columns: dict[int, list[int]] = {}
        for number, column in enumerate(ntuple.column_records):
            self._columns.setdefault(column.field_id, []).append(number)
        self._made: dict[int, PageColumn] = {}

    def flat(self, name: str) -> PageColumn:
        """Find the column of a field with one value per event."""
        number = self._field(name)
        if self._fields[number].struct_role != _LEAF or self._fields[number].type_name.startswith("std::string"):
            raise UnexpectedFormError(f"field {name} is a {self._fields[number].type_name or 'record'}, not one number")
        return self._column(number, name)

    def jagged(self, name: str) -> JaggedField:
        """Find the columns of a field with several values per event."""
        number = self._field(name)
        children = [i for i, record in enumerate(self._fields) if record.parent_field_id == number and i != number]
        roles = [self._fields[i].struct_role for i in (number, *children)]
        if roles != [_COLLECTION, _LEAF]:
            raise UnexpectedFormError(f"field {name} is a {self._fields[number].type_name}, not a list of numbers")
        return JaggedField(self._column(number, name), self._column(children[0], name))

    def _field(self, name: str) -> int:
        if name not in self._top:
            raise KeyError(f"field {name} does not exist; there are {len(self._top)} fields")
        return self._top[name]

    def _column(self, number: int, name: str) -> PageColumn:
        """Return the only column of a field, or of the one that has the data of a projected field."""
        record = self._fields[number]
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
    """An open RNTuple, ready to read any range of its entries; used as `baskets.BasketReader` is.

    Arguments and errors are the same. Counters are not read: the offsets of the jagged fields hold the same numbers.
    """

    name = "pages"

    def __init__(self, ntuple: Any, source: ByteSource, columns: Columns, *, checked: bool = True) -> None:
        read_page_lists(ntuple, source.location)
        self.uuid = str(ntuple.file.uuid)
        self.columns = columns
        self.n_entries = int(ntuple.num_entries)
        self._source = source
        self._checked = checked
        schema = _Schema(ntuple, source.location)
        self._flat = {name: schema.flat(name) for name in columns.flat}
        self._jagged = {c: {name: schema.jagged(name) for name in names} for c, names in columns.jagged.items()}
        edges = np.cumsum([0, *(int(cluster.num_entries) for cluster in ntuple.cluster_summaries)])
        self._edges: Integers = edges.astype(np.int64)
        offsets = [jagged.offsets for fields in self._jagged.values() for jagged in fields.values()]
        for column in (*self._flat.values(), *offsets):
            lengths = [column.n_elements(i) for i in range(len(column.clusters))]
            if lengths != np.diff(self._edges).tolist() or self._edges[-1] != self.n_entries:
                what = f"field {column.name} has {sum(lengths)} of {self.n_entries} entries"
                raise DamagedFileError(f"{source.location}: {what}")

    def read(self, start: int = 0, stop: int | None = None) -> Preselected:
        """Read the preselected events among entries ``start`` to ``stop``; raises as `BasketReader.read` does."""
        columns = dict(self._flat)
        for fields in self._jagged.values():
            columns |= {name: jagged.values for name, jagged in fields.items()}
        dtypes = {name: _result_dtype(column) for name, column in columns.items()}
        return joined(list(self.windows(start, stop)), dtypes)

    def windows(self, start: int = 0, stop: int | None = None) -> Iterator[Preselected]:
        """Read the same cluster by cluster."""
        stop = self.n_entries if stop is None else min(stop, self.n_entries)
        for cluster, (first, last) in enumerate(zip(self._edges.tolist(), self._edges.tolist()[1:], strict=False)):
            if first < stop and last > start:
                yield self._read_cluster(cluster, max(start, first), min(stop, last))

    def flat(self, name: str, start: int, stop: int) -> Array:
        """Return a flat field of all entries ``start`` to ``stop``; raises as `read` does, for this field only."""
        column, parts = self._flat[name], [np.empty(0, _result_dtype(self._flat[name]))]
        for cluster, (first, last) in enumerate(pairwise(self._edges.tolist())):
            if first < stop and last > start:
                work = _Work(self._source, cluster, self._checked)
                low, high = max(start, first) - first, min(stop, last) - first
                work.prepare(work.touched(column, low, high))
                parts.append(work.gather(column, np.arange(low, high)))
        return np.concatenate(parts)

    def _read_cluster(self, cluster: int, start: int, stop: int) -> Preselected:
        """Read the preselected events of one cluster between two entries."""
        origin = int(self._edges[cluster])
        work = _Work(self._source, cluster, self._checked)
        shared = {id(jagged.offsets): jagged.offsets for fields in self._jagged.values() for jagged in fields.values()}
        around = max(start - origin - 1, 0), stop - origin
        work.prepare([page for column in shared.values() for page in work.touched(column, *around)])
        ends = {c: self._ends(work, fields, start - origin, stop - origin) for c, fields in self._jagged.items()}
        counts = {counter: np.diff(edges) for counter, edges in ends.items()}
        selected = np.flatnonzero(four_leptons(*(counts[counter] for counter in self.columns.jagged)))
        wanted = {name: (column, selected + (start - origin)) for name, column in self._flat.items()}
        offsets = []
        for counter, fields in self._jagged.items():
            elements, starts = elements_of(ends[counter][selected], counts[counter][selected])
            offsets.append(starts)
            wanted |= {name: (jagged.values, elements) for name, jagged in fields.items()}
        work.prepare([page for column, elements in wanted.values() for page, _, _ in work.hits(column, elements)])
        found = {name: work.gather(column, elements) for name, (column, elements) in wanted.items()}
        muons, electrons = offsets
        return Preselected(selected + start, muons, electrons, found, stop - start, Notes.of(work.seen))

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

    def prepare(self, pages: list[Page]) -> None:
        """Ask for the bytes of some pages, the only ones that can be read until the next call."""
        self.fetch: Fetch = self.source.fetch([(page.offset, page.size) for page in pages])

    def ends(self, column: PageColumn, start: int, stop: int) -> Integers:
        """Return the offsets of entries ``start`` to ``stop`` within the cluster, with the one before: (n + 1,)."""
        parts = [np.zeros(1, np.int64)] if start == 0 else []
        wanted = max(start - 1, 0)
        for page in self.touched(column, wanted, stop):
            values = _unsplit(self._content(column, page), column, np.arange(page.stop - page.start)).astype(np.int64)
            if column.delta:
                values = np.cumsum(values)
            parts.append(values[max(wanted - page.start, 0) : stop - page.start])
        ends = np.concatenate(parts)
        if (np.diff(ends) < 0).any() or ends[0] < 0:
            raise DamagedFileError(f"{self.source.location}: the offsets of field {column.name} decrease")
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

    def gather(self, column: PageColumn, elements: Integers) -> Array:
        """Return the values of a column at ``elements`` of the cluster, ascending; pages without any are not read."""
        values = np.empty(len(elements), _result_dtype(column))
        for page, first, last in self.hits(column, elements):
            values[first:last] = _unsplit(self._content(column, page), column, elements[first:last] - page.start)
        return values

    def hits(self, column: PageColumn, elements: Integers) -> list[tuple[Page, int, int]]:
        """Return the pages that hold some of ``elements``, each with the range of those it holds."""
        pages = column.clusters[self.cluster]
        cuts = np.searchsorted(elements, [0, *(page.stop for page in pages)]).tolist()
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


def _unsplit(content: npt.NDArray[np.uint8], column: PageColumn, elements: Integers) -> Array:
    """Return the values at ``elements`` of an uncompressed page."""
    if column.is_bit:
        bits: Array = np.unpackbits(content, bitorder="little")[elements].astype(bool)
        return bits
    width = column.dtype.itemsize
    if column.split:
        rows = content.reshape(width, -1)
        values = np.stack([row[elements] for row in rows], axis=1).reshape(-1).view(column.dtype)
    else:
        values = content.view(column.dtype)[elements]
    if column.zigzag:
        unsigned = values.view(f"<u{width}")
        values = (unsigned >> 1).astype(column.dtype) ^ -(unsigned & 1).astype(column.dtype)
    return values
