"""What was counted in some chunks: `Tally`, its sum over chunks (`Sum`), and its form in bytes (`Record`).

Tallies of disjoint chunks add up in any order and grouping to the same value, because everything in them is an integer,
a set of entry ranges, or a row that is put into the order of the catalogue at the end.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from higgsnb.errors import OptionError
from higgsnb.results import histograms, plausibility
from higgsnb.selection import CHANNELS, QUANTITIES, Cut

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
FileKey = tuple[int, int]
"""A file by its position in the catalogue: (index of the dataset, index of the file in it)."""
ChunkKey = tuple[int, int, int, int]
"""A chunk by its position in the catalogue: (dataset, file, first entry, entry after the last)."""

SHAPES = {
    "counts": (len(CHANNELS), histograms.SIZE),
    "cutflow": (len(CHANNELS), len(Cut)),
    "invalid_values": (2, len(QUANTITIES)),
    "plausibility": plausibility.SHAPE,
}
"""The arrays of a `Tally` that are added up, each int64."""


class Table(NamedTuple):
    """Selected candidates, one row each.

    Position in the catalogue, event, masses in GeV, leptons (n, 4) Z1 harder … Z2 softer.
    """

    dataset: npt.NDArray[np.int16]
    file: npt.NDArray[np.int32]
    entry: Integers
    run: Integers
    luminosity_block: Integers
    event: npt.NDArray[np.uint64]
    channel: npt.NDArray[np.int8]
    mass_4l: Floats
    mass_z1: Floats
    mass_z2: Floats
    pt: npt.NDArray[np.float32]
    eta: npt.NDArray[np.float32]
    phi: npt.NDArray[np.float32]
    mass: npt.NDArray[np.float32]
    charge: npt.NDArray[np.int8]
    pdg_id: npt.NDArray[np.int8]

    def rows(self, which: npt.NDArray[Any]) -> Table:
        """Return the rows that an index or a mask selects."""
        return Table._make(column[which] for column in self)

    @property
    def variables(self) -> histograms.Variables:
        """The columns that are filled into histograms."""
        return histograms.Variables(self.channel, self.mass_4l, self.mass_z1, self.mass_z2, self.pt, self.eta)


ROW = np.dtype([
    ("dataset", "<i2"), ("file", "<i4"), ("entry", "<i8"), ("run", "<i8"), ("luminosity_block", "<i8"),
    ("event", "<u8"), ("channel", "<i1"), ("mass_4l", "<f8"), ("mass_z1", "<f8"), ("mass_z2", "<f8"),
    ("pt", "<f4", 4), ("eta", "<f4", 4), ("phi", "<f4", 4), ("mass", "<f4", 4), ("charge", "<i1", 4),
    ("pdg_id", "<i1", 4),
])  # fmt: skip
"""Layout of a row of a `Table` in a `Record`: packed, little-endian."""
NUMBER = np.dtype("<i8")
"""Layout of the numbers of a `Record`."""


class Span(NamedTuple):
    """Counted entries ``start`` to ``stop`` of a file, with the lumi sections of the first and the last of them."""

    start: int
    stop: int
    first: int
    last: int


@dataclass(frozen=True)
class Tally:
    """What has been counted, per dataset (by its index in the catalogue); ``a + b`` for disjoint chunks.

    ``ranges`` are the entry ranges counted of each file, ``counts`` as in `histograms`, ``cutflow`` (3, len(Cut)),
    ``invalid_values`` (2, len(QUANTITIES)), ``plausibility`` see `plausibility.count`, ``rejected_by_golden_json``
    events in lumi sections that are not certified, ``not_applied`` columns that the schema does not have. Only of
    simulation with generator weights: ``generator_weights``, the smallest and the largest, and ``generated``, how many
    generated events each whole file stands for, if it says so. Only of data of a campaign with lumi sections:
    ``sections``, the certified ones as packed by `luminosity.pack`, sorted and unique, ``spans`` the ranges with the
    section at either end, and ``scattered`` the certified sections of chunks in which a section is left and entered
    again.
    """

    ranges: Mapping[FileKey, tuple[tuple[int, int], ...]] = field(default_factory=dict)
    counts: Mapping[int, Integers] = field(default_factory=dict)
    cutflow: Mapping[int, Integers] = field(default_factory=dict)
    invalid_values: Mapping[int, Integers] = field(default_factory=dict)
    plausibility: Mapping[int, Integers] = field(default_factory=dict)
    rejected_by_golden_json: Mapping[int, int] = field(default_factory=dict)
    not_applied: Mapping[int, frozenset[str]] = field(default_factory=dict)
    readers: Mapping[FileKey, frozenset[tuple[str, str]]] = field(default_factory=dict)
    blocks: tuple[Table, ...] = ()
    sections: Mapping[int, Integers] = field(default_factory=dict)
    spans: Mapping[FileKey, tuple[Span, ...]] = field(default_factory=dict)
    scattered: Mapping[FileKey, Integers] = field(default_factory=dict)
    generator_weights: Mapping[int, tuple[float, float]] = field(default_factory=dict)
    generated: Mapping[FileKey, float] = field(default_factory=dict)

    def __add__(self, other: Tally) -> Tally:
        """Add the tally of other chunks; OptionError if some events were counted in both."""
        return merge((self, other))

    def without(self, datasets: Collection[int]) -> Tally:
        """Return the tally without what was counted in some datasets, by index; why not is kept: their weights."""
        kept: dict[str, Any] = {}
        for name in ("ranges", "readers", "spans", "scattered", "generated"):
            kept[name] = {key: value for key, value in getattr(self, name).items() if key[0] not in datasets}
        for name in (*SHAPES, "rejected_by_golden_json", "not_applied", "sections"):
            kept[name] = {index: value for index, value in getattr(self, name).items() if index not in datasets}
        left_out = list(datasets)
        blocks = [block.rows(~np.isin(block.dataset, left_out)) for block in self.blocks]
        return replace(self, **kept, blocks=tuple(block for block in blocks if len(block.run)))


class Record(NamedTuple):
    """The tally of one chunk in bytes.

    The arrays of `SHAPES` are sparse: pairs (flat index, value) of int64. ``rows`` are the candidates in the layout
    `ROW`, ``not_applied`` column names joined by commas, ``sections`` the certified lumi sections. ``edges``, where
    lumi sections are noted: that of the first entry, of the last one, and whether they are scattered. ``generator``,
    where events have generator weights: the smallest, the largest, and the number of generated events that the whole
    file stands for (NaN: it does not say), each float64.
    """

    dataset: int
    file: int
    start: int
    stop: int
    counts: bytes
    cutflow: bytes
    invalid_values: bytes
    plausibility: bytes
    rejected_by_golden_json: int
    not_applied: str
    reader: str
    integrity: str
    rows: bytes
    sections: bytes = b""
    edges: bytes = b""
    generator: bytes = b""

    def sha256(self) -> bytes:
        """Return the sha256 over everything in it, 32 bytes."""
        digest = hashlib.sha256()
        for value in self:
            content = value if isinstance(value, bytes) else str(value).encode()
            digest.update(len(content).to_bytes(8, "little") + content)
        return digest.digest()


def pack(tally: Tally) -> Record:
    """Return the tally of one chunk in bytes."""
    (((dataset, file), ((start, stop),)),) = tally.ranges.items()
    ((reader, integrity),) = tally.readers[dataset, file]
    (table,) = tally.blocks or (empty_table(),)
    rows = np.empty(len(table.run), ROW)
    for name, column in table._asdict().items():
        rows[name] = column
    sparse = {}
    for name in SHAPES:
        array = getattr(tally, name).get(dataset, np.zeros(0, np.int64)).ravel()
        index = np.flatnonzero(array)
        sparse[name] = np.stack([index, array[index]], axis=1).astype(NUMBER).tobytes()
    edges = [(span.first, span.last, len(tally.scattered)) for (span,) in tally.spans.values()]
    generator = [(*found, tally.generated.get((dataset, file), np.nan)) for found in tally.generator_weights.values()]
    return Record(
        dataset=dataset, file=file, start=start, stop=stop, **sparse,
        rejected_by_golden_json=tally.rejected_by_golden_json[dataset],
        not_applied=",".join(sorted(tally.not_applied[dataset])), reader=reader, integrity=integrity,
        rows=rows.tobytes(), sections=b"".join(keys.astype(NUMBER).tobytes() for keys in tally.sections.values()),
        edges=np.array(edges, NUMBER).tobytes(), generator=np.array(generator, "<f8").tobytes(),
    )  # fmt: skip


def unpack(dataset: int, records: list[Record]) -> Tally:
    """Return what is in some records of one dataset.

    Ranges of entries are not joined, so that `Sum.add` can see whether they overlap.
    """
    ranges: dict[FileKey, list[tuple[int, int]]] = defaultdict(list)
    readers: dict[FileKey, frozenset[tuple[str, str]]] = {}
    ways: dict[tuple[str, str], frozenset[tuple[str, str]]] = {}
    spans: dict[FileKey, list[Span]] = defaultdict(list)
    sections: list[Integers] = []
    scattered: dict[FileKey, list[Integers]] = defaultdict(list)
    generator_weights: list[tuple[float, float]] = []
    generated: dict[FileKey, float] = {}
    for record in records:
        file = (dataset, record.file)
        ranges[file].append((record.start, record.stop))
        pair, known = (record.reader, record.integrity), readers.get(file)
        how = ways.setdefault(pair, frozenset({pair}))  # one object for all records: there may be 250,000
        readers[file] = how if known is None or known is how else known | how
        if record.edges:
            first, last, is_scattered = np.frombuffer(record.edges, NUMBER).tolist()
            spans[file].append(Span(record.start, record.stop, first, last))
            sections.append(np.frombuffer(record.sections, NUMBER).astype(np.int64))
            scattered[file] += sections[-1:] if is_scattered else []
        if record.generator:
            smallest, largest, n_generated = np.frombuffer(record.generator, "<f8").tolist()
            generator_weights.append((smallest, largest))
            generated |= {} if math.isnan(n_generated) else {file: n_generated}
    arrays = {}
    for name, shape in SHAPES.items():
        arrays[name] = np.zeros(shape, np.int64)
        pairs = np.frombuffer(b"".join([getattr(record, name) for record in records]), NUMBER).reshape(-1, 2)
        np.add.at(arrays[name].reshape(-1), pairs[:, 0], pairs[:, 1])
    rows = np.frombuffer(b"".join([record.rows for record in records]), ROW)
    names = {name for joined in {record.not_applied for record in records} for name in joined.split(",") if name}
    return Tally(
        ranges={file: tuple(some) for file, some in ranges.items()},
        **{name: {dataset: array} for name, array in arrays.items()},
        rejected_by_golden_json={dataset: sum(record.rejected_by_golden_json for record in records)},
        not_applied={dataset: frozenset(names)},
        readers=readers,
        blocks=(_table(rows),) if len(rows) else (),
        sections={dataset: _union(sections)} if any(map(len, sections)) else {},
        spans={file: tuple(some) for file, some in spans.items()},
        scattered={file: _union(some) for file, some in scattered.items() if some},
        generator_weights={dataset: _extremes(generator_weights)} if generator_weights else {},
        generated=generated,
    )


def _table(rows: npt.NDArray[np.void]) -> Table:
    return Table._make(rows[name].astype(ROW[name].base.newbyteorder("=")) for name in Table._fields)


def empty_table() -> Table:
    """Return a table without rows."""
    return _table(np.empty(0, ROW))


def stacked(tables: Iterable[Table]) -> Table:
    """Return the rows of some tables, at least one, below each other."""
    return Table._make(map(np.concatenate, zip(*tables, strict=True)))


def _union(some: Sequence[Integers]) -> Integers:
    """Return the union of sorted sets of numbers."""
    return some[0] if len(some) == 1 else np.unique(np.concatenate(some))


def _extremes(pairs: Iterable[tuple[float, float]]) -> tuple[float, float]:
    """Return the smallest and the largest of some pairs (smallest, largest)."""
    smallest, largest = zip(*pairs, strict=True)
    return min(smallest), max(largest)


class Sum:
    """The running sum of tallies; adding some costs what these take, however much is in it already."""

    def __init__(self) -> None:
        self._ranges: dict[FileKey, tuple[tuple[int, int], ...]] = {}
        self._arrays: dict[str, dict[int, Integers]] = {name: {} for name in SHAPES}
        self._rejected: Counter[int] = Counter()
        self._not_applied: dict[int, frozenset[str]] = {}
        self._readers: dict[FileKey, frozenset[tuple[str, str]]] = {}
        self._blocks: list[Table] = []
        self._sections: dict[int, list[Integers]] = defaultdict(list)
        self._spans: dict[FileKey, list[Span]] = defaultdict(list)
        self._scattered: dict[FileKey, list[Integers]] = defaultdict(list)
        self._generator_weights: dict[int, tuple[float, float]] = {}
        self._generated: dict[FileKey, float] = {}

    def add(self, parts: Iterable[Tally | Record]) -> None:
        """Add tallies, or records of chunks; OptionError if some events are counted already, and nothing is added."""
        tallies: list[Tally] = []
        records: dict[int, list[Record]] = defaultdict(list)
        for part in parts:
            if isinstance(part, Record):
                records[part.dataset].append(part)
            else:
                tallies.append(part)
        tallies += [unpack(dataset, some) for dataset, some in records.items()]
        ranges: dict[FileKey, list[tuple[int, int]]] = {}
        for tally in tallies:
            for file, some in tally.ranges.items():
                if file in ranges:
                    ranges[file] += some
                else:
                    ranges[file] = [*self._ranges.get(file, ()), *some]
        self._ranges |= {file: join_ranges(file, some) for file, some in ranges.items()}
        for tally in tallies:
            self._add(tally)

    def _add(self, tally: Tally) -> None:
        """Add everything but the ranges of a tally."""
        for name, totals in self._arrays.items():
            for dataset, array in getattr(tally, name).items():
                if dataset in totals:
                    totals[dataset] += array
                else:
                    totals[dataset] = array.copy()
        self._rejected.update(tally.rejected_by_golden_json)
        for dataset, names in tally.not_applied.items():
            self._not_applied[dataset] = self._not_applied.get(dataset, frozenset()) | names
        for file, readers in tally.readers.items():
            known = self._readers.get(file)
            self._readers[file] = readers if known is None or known <= readers else known | readers
        self._blocks += tally.blocks
        for dataset, keys in tally.sections.items():
            self._sections[dataset].append(keys)
        for file, spans in tally.spans.items():
            self._spans[file] += spans
        for file, keys in tally.scattered.items():
            self._scattered[file].append(keys)
        for dataset, pair in tally.generator_weights.items():
            self._generator_weights[dataset] = _extremes([pair, self._generator_weights.get(dataset, pair)])
        self._generated |= tally.generated

    def tally(self) -> Tally:
        """Return the sum so far, in the order of the catalogue; what is added later does not change it."""
        if len(self._blocks) > 1:
            self._blocks = [stacked(self._blocks)]
        for file, some in self._spans.items():
            self._spans[file] = join_spans(some)
        for dataset, keys in self._sections.items():
            self._sections[dataset] = [_union(keys)]
        for file, keys in self._scattered.items():
            self._scattered[file] = [_union(keys)]
        arrays = {name: {d: totals[d].copy() for d in sorted(totals)} for name, totals in self._arrays.items()}
        return Tally(
            ranges=dict(sorted(self._ranges.items())),
            **arrays,
            rejected_by_golden_json=dict(sorted(self._rejected.items())),
            not_applied=dict(sorted(self._not_applied.items())),
            readers=dict(sorted(self._readers.items())),
            blocks=tuple(self._blocks),
            sections={dataset: keys for dataset, (keys,) in sorted(self._sections.items())},
            spans={file: tuple(some) for file, some in sorted(self._spans.items())},
            scattered={file: keys for file, (keys,) in sorted(self._scattered.items())},
            generator_weights=dict(sorted(self._generator_weights.items())),
            generated=dict(sorted(self._generated.items())),
        )


def merge(parts: Iterable[Tally | Record]) -> Tally:
    """Add up many tallies, or records of chunks, at once; OptionError if two of them counted the same events."""
    total = Sum()
    total.add(parts)
    return total.tally()


def join_ranges(key: FileKey, ranges: list[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """Join ranges of entries that touch; OptionError if any overlap."""
    if len(ranges) == 1:
        return (ranges[0],)
    joined: list[tuple[int, int]] = []
    for start, stop in sorted(ranges):
        if joined and start < joined[-1][1]:
            end = min(stop, joined[-1][1])
            raise OptionError(
                f"entries {start} to {end} of file {key[1]} of dataset {key[0]} were counted twice",
                "Add results of different events only.",
            )
        if joined and start == joined[-1][1]:
            joined[-1] = (joined[-1][0], stop)
        else:
            joined.append((start, stop))
    return tuple(joined)


def join_spans(spans: Iterable[Span]) -> list[Span]:
    """Join the spans of one file that touch; the same whatever their order and grouping."""
    joined: list[Span] = []
    for span in sorted(spans):
        if joined and joined[-1].stop == span.start:
            joined[-1] = Span(joined[-1].start, span.stop, joined[-1].first, span.last)
        else:
            joined.append(span)
    return joined


def in_order(blocks: Sequence[Table]) -> Table:
    """Return the rows of some tables in the order of the catalogue."""
    table = stacked(blocks) if blocks else empty_table()
    return table.rows(np.lexsort((table.channel, table.entry, table.file, table.dataset)))


def find_duplicates(table: Table, precedence: Integers, *, one_per_event: bool) -> npt.NDArray[np.bool_]:
    """Return which rows, in the order of the catalogue, are events of data that occur before: (n_rows,) bool.

    Of equal events the one whose dataset has the lowest rank in ``precedence`` (n_datasets,) is the first, then the one
    that comes first in the table. Datasets of rank −1 (simulation) are never compared. With ``one_per_event`` an event
    is the same whatever its channel; else (run, luminosityBlock, event, channel) is compared.
    """
    rank = precedence[table.dataset]
    data = np.flatnonzero(rank >= 0)
    channel = np.zeros(len(data), np.int8) if one_per_event else table.channel[data]
    keys = (channel, table.event[data], table.luminosity_block[data], table.run[data])
    order = np.lexsort((data, rank[data], *keys))
    again = np.zeros(len(order), bool)
    if len(order) > 1:
        again[1:] = np.logical_and.reduce([key[order][1:] == key[order][:-1] for key in keys])
    duplicate = np.zeros(len(table.run), bool)
    duplicate[data[order]] = again
    return duplicate
