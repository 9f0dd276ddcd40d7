"""What was counted in some chunks: `Tally`, its sum over chunks (`Sum`), and its form in bytes (`Record`).

Tallies of disjoint chunks add up in any order and grouping to the same value, because everything in them is an integer,
a set of entry ranges, or a row that is put into the order of the catalogue at the end.
"""

from __future__ import annotations

import hashlib
import math
import struct
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from higgsnb.errors import OptionError, SchemaError
from higgsnb.results.layout import FOUR_LEPTONS, Layout

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
FileKey = tuple[int, int]
"""A file by its position in the catalogue: (index of the dataset, index of the file in it)."""
ChunkKey = tuple[int, int, int, int]
"""A chunk by its position in the catalogue: (dataset, file, first entry, entry after the last)."""

NUMBER = np.dtype("<i8")
"""Layout of the numbers of a `Record`."""
GENERATOR = struct.Struct("<qqq?dd")
"""Layout of what a `Record` says of weights: a `Weighing` and `Generated`."""
MOST_WEIGHT = 2**62
"""Largest sum of absolute weights of a dataset, in units of its weights: beyond it int64 would overflow."""


ARRAYS = ("counts", "cutflow", "invalid_values", "plausibility", "overlaps")
"""The arrays of a `Tally` that are added up, each int64; see `Layout.shapes`."""


class Span(NamedTuple):
    """Counted entries ``start`` to ``stop`` of a file, with the lumi sections of the first and the last of them."""

    start: int
    stop: int
    first: int
    last: int


class Weighing(NamedTuple):
    """The weights of the events counted of a file, in units of 2 ** (``exponent`` − 24), as exact integers.

    ``total`` is the sum over all events that were read, selected or not; ``magnitude`` bounds the sum of the absolute
    values of all weights, of any variation. Without weights of the generator (``has_weights``) each event counts one.
    """

    exponent: int
    total: int
    magnitude: int
    has_weights: bool = True


class Generated(NamedTuple):
    """The generated events that a whole file stands for: the sum of their weights, and their number (NaN: unknown)."""

    total: float
    number: float


@dataclass(frozen=True)
class Tally:
    """What has been counted, per dataset (by its index in the catalogue); ``a + b`` for disjoint chunks.

    ``ranges`` are the entry ranges counted of each file. The arrays of `ARRAYS` have the shapes of `Layout.shapes`:
    ``counts`` as in `Binning`, ``cutflow``, ``invalid_values``, ``plausibility`` see `plausibility.count`, ``overlaps``
    the number of events in two regions at once.
    ``rejected_by_golden_json`` are events in lumi sections that are not certified, ``not_applied`` columns that the
    file does not have. Only of weighted simulation: ``weighted``, the sums of `Layout.weighted` by dataset and
    exponent, and ``weighings``. Of any simulation: ``generated``, if a file says what it stands for. Only of data of a
    campaign with lumi sections: ``sections``, the certified ones as packed by `luminosity.pack`, sorted and unique,
    ``spans`` the ranges with the section at either end, and ``scattered`` the certified sections of chunks in which a
    section is left and entered again. Only of a processor of coffea: its ``outputs``, which are added up when they are
    asked for, in the order of the chunks.
    """

    ranges: Mapping[FileKey, tuple[tuple[int, int], ...]] = field(default_factory=dict)
    counts: Mapping[int, Integers] = field(default_factory=dict)
    cutflow: Mapping[int, Integers] = field(default_factory=dict)
    invalid_values: Mapping[int, Integers] = field(default_factory=dict)
    plausibility: Mapping[int, Integers] = field(default_factory=dict)
    overlaps: Mapping[int, Integers] = field(default_factory=dict)
    rejected_by_golden_json: Mapping[int, int] = field(default_factory=dict)
    not_applied: Mapping[int, frozenset[str]] = field(default_factory=dict)
    readers: Mapping[FileKey, frozenset[tuple[str, str]]] = field(default_factory=dict)
    blocks: tuple[Any, ...] = ()
    sections: Mapping[int, Integers] = field(default_factory=dict)
    spans: Mapping[FileKey, tuple[Span, ...]] = field(default_factory=dict)
    scattered: Mapping[FileKey, Integers] = field(default_factory=dict)
    weighted: Mapping[tuple[int, int], Integers] = field(default_factory=dict)
    weighings: Mapping[FileKey, Weighing] = field(default_factory=dict)
    generated: Mapping[FileKey, Generated] = field(default_factory=dict)
    outputs: Mapping[ChunkKey, bytes] = field(default_factory=dict)

    def __add__(self, other: Tally) -> Tally:
        """Add the tally of other chunks; OptionError if some events were counted in both."""
        return merge((self, other))

    def without(self, datasets: Collection[int], layout: Layout = FOUR_LEPTONS) -> Tally:
        """Return the tally without what was counted in some datasets, by index; why not is kept: their weights."""
        kept: dict[str, Any] = {}
        for name in ("ranges", "readers", "spans", "scattered", "generated", "weighted", "outputs"):
            kept[name] = {key: value for key, value in getattr(self, name).items() if key[0] not in datasets}
        for name in (*ARRAYS, "rejected_by_golden_json", "not_applied", "sections"):
            kept[name] = {index: value for index, value in getattr(self, name).items() if index not in datasets}
        return replace(self, **kept, blocks=layout.without(self.blocks, datasets))


class Record(NamedTuple):
    """The tally of one chunk in bytes.

    The arrays of `ARRAYS` and ``weighted`` are sparse: pairs (flat index, value) of int64. ``rows`` are those of
    `Layout.row`, ``not_applied`` column names joined by commas, ``sections`` the certified lumi sections. ``edges``,
    where lumi sections are noted: that of the first entry, of the last one, and whether they are scattered.
    ``generator``, of simulation: a `Weighing` and what the whole file stands for (NaN: it does not say); without
    weights its magnitude is 0. ``output`` is that of a processor of coffea.
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
    weighted: bytes = b""
    output: bytes = b""
    overlaps: bytes = b""

    def sha256(self) -> bytes:
        """Return the sha256 over everything in it, 32 bytes."""
        digest = hashlib.sha256()
        for value in self:
            content = value if isinstance(value, bytes) else str(value).encode()
            digest.update(len(content).to_bytes(8, "little"))
            digest.update(content)
        return digest.digest()


def pack(tally: Tally, layout: Layout = FOUR_LEPTONS) -> Record:
    """Return the tally of one chunk in bytes."""
    (((dataset, file), ((start, stop),)),) = tally.ranges.items()
    ((reader, integrity),) = tally.readers[dataset, file]
    sparse = {name: _sparse(getattr(tally, name).get(dataset, np.zeros(0, np.int64))) for name in ARRAYS}
    edges = [(span.first, span.last, len(tally.scattered)) for (span,) in tally.spans.values()]
    generator = b""
    if tally.weighings or tally.generated:
        weighing = tally.weighings.get((dataset, file), Weighing(0, 0, 0))
        generator = GENERATOR.pack(*weighing, *tally.generated.get((dataset, file), Generated(math.nan, math.nan)))
    return Record(
        dataset=dataset, file=file, start=start, stop=stop, **sparse,
        rejected_by_golden_json=tally.rejected_by_golden_json[dataset],
        not_applied=",".join(sorted(tally.not_applied[dataset])), reader=reader, integrity=integrity,
        rows=layout.packed(tally.blocks),
        sections=b"".join(keys.astype(NUMBER).tobytes() for keys in tally.sections.values()),
        edges=np.array(edges, NUMBER).tobytes(), generator=generator,
        weighted=b"".join(_sparse(sums) for sums in tally.weighted.values()), output=b"".join(tally.outputs.values()),
    )  # fmt: skip


def _sparse(array: Integers) -> bytes:
    """Return an array as pairs (flat index, value), without zeros."""
    index = np.flatnonzero(array)
    return np.stack([index, array.ravel()[index]], axis=1).astype(NUMBER).tobytes()


def _dense(pairs: Iterable[bytes], shape: tuple[int, ...]) -> Integers:
    """Return the sum of arrays that are given as pairs (flat index, value)."""
    found = np.zeros(shape, np.int64)
    index, value = np.frombuffer(b"".join(pairs), NUMBER).reshape(-1, 2).T
    np.add.at(found.reshape(-1), index, value)
    return found


def unpack(dataset: int, records: list[Record], layout: Layout = FOUR_LEPTONS) -> Tally:
    """Return what is in some records of one dataset.

    Ranges of entries are not joined, so that `Sum.add` can see whether they overlap.
    """
    ranges: dict[FileKey, list[tuple[int, int]]] = defaultdict(list)
    readers: dict[FileKey, frozenset[tuple[str, str]]] = {}
    ways: dict[tuple[str, str], frozenset[tuple[str, str]]] = {}
    spans: dict[FileKey, list[Span]] = defaultdict(list)
    sections: list[Integers] = []
    scattered: dict[FileKey, list[Integers]] = defaultdict(list)
    weighted: dict[tuple[int, int], list[bytes]] = defaultdict(list)
    weighings: dict[FileKey, Weighing] = {}
    generated: dict[FileKey, Generated] = {}
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
            numbers = GENERATOR.unpack(record.generator)
            generated |= {} if math.isnan(numbers[4]) else {file: Generated(*numbers[4:])}
            if numbers[2]:
                weighings[file] = add_weighings(file, weighings.get(file), Weighing(*numbers[:4]))
                weighted[dataset, numbers[0]].append(record.weighted)
    names = {name for joined in {record.not_applied for record in records} for name in joined.split(",") if name}
    return Tally(
        ranges={file: tuple(some) for file, some in ranges.items()},
        **{
            name: {dataset: _dense([getattr(record, name) for record in records], shape)}
            for name, shape in layout.shapes.items()
        },
        rejected_by_golden_json={dataset: sum(record.rejected_by_golden_json for record in records)},
        not_applied={dataset: frozenset(names)},
        readers=readers,
        blocks=layout.blocks(records),
        sections={dataset: _union(sections)} if any(map(len, sections)) else {},
        spans={file: tuple(some) for file, some in spans.items()},
        scattered={file: _union(some) for file, some in scattered.items() if some},
        weighted={key: _dense(some, layout.weighted) for key, some in weighted.items()},
        weighings=weighings,
        generated=generated,
        outputs={(dataset, one.file, one.start, one.stop): one.output for one in records if one.output},
    )


def add_weighings(file: FileKey, one: Weighing | None, other: Weighing) -> Weighing:
    """Add what two chunks of a file weigh; SchemaError if their weights are not in the same units."""
    if one is None:
        return other
    if one.exponent != other.exponent:
        what = f"file {file[1]} of dataset {file[0]}: the typical weight is 2^{one.exponent}, then 2^{other.exponent}"
        raise SchemaError(what, "The file was changed during the run: run again.")
    return one._replace(total=one.total + other.total, magnitude=one.magnitude + other.magnitude)


def _union(some: Sequence[Integers]) -> Integers:
    """Return the union of sorted sets of numbers."""
    return some[0] if len(some) == 1 else np.unique(np.concatenate(some))


class Sum:
    """The running sum of tallies; adding some costs what these take, however much is in it already."""

    def __init__(self, layout: Layout = FOUR_LEPTONS) -> None:
        self._layout = layout
        self._ranges: dict[FileKey, tuple[tuple[int, int], ...]] = {}
        self._arrays: dict[str, dict[Any, Integers]] = {name: {} for name in (*ARRAYS, "weighted")}
        self._rejected: Counter[int] = Counter()
        self._not_applied: dict[int, frozenset[str]] = {}
        self._readers: dict[FileKey, frozenset[tuple[str, str]]] = {}
        self._blocks: list[Any] = []
        self._sections: dict[int, list[Integers]] = defaultdict(list)
        self._spans: dict[FileKey, list[Span]] = defaultdict(list)
        self._scattered: dict[FileKey, list[Integers]] = defaultdict(list)
        self._weighings: dict[FileKey, Weighing] = {}
        self._magnitudes: Counter[int] = Counter()
        self._generated: dict[FileKey, Generated] = {}
        self._outputs: dict[ChunkKey, bytes] = {}

    def add(self, parts: Iterable[Tally | Record]) -> None:
        """Add tallies, or records of chunks; OptionError if some events are counted already, and nothing is added."""
        tallies: list[Tally] = []
        records: dict[int, list[Record]] = defaultdict(list)
        for part in parts:
            if isinstance(part, Record):
                records[part.dataset].append(part)
            else:
                tallies.append(part)
        tallies += [unpack(dataset, some, self._layout) for dataset, some in records.items()]
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
        self._add_weighings(tally)
        self._generated |= tally.generated
        self._outputs |= tally.outputs

    def _add_weighings(self, tally: Tally) -> None:
        """Add what the events of each file weigh; SchemaError if the sum of a dataset would overflow."""
        for file, weighing in tally.weighings.items():
            self._weighings[file] = add_weighings(file, self._weighings.get(file), weighing)
            self._magnitudes[file[0]] += weighing.magnitude
            if self._magnitudes[file[0]] >= MOST_WEIGHT:
                what = f"dataset {file[0]}: the sum of its weights is above 2^62 / 2^24 typical weights"
                raise SchemaError(what, "Divide the dataset into several, or leave out the largest weights.")

    def tally(self) -> Tally:
        """Return the sum so far, in the order of the catalogue; what is added later does not change it."""
        self._blocks = self._layout.joined(self._blocks)
        for file, some in self._spans.items():
            self._spans[file] = join_spans(some)
        for dataset, keys in self._sections.items():
            self._sections[dataset] = [_union(keys)]
        for file, keys in self._scattered.items():
            self._scattered[file] = [_union(keys)]
        arrays: dict[str, Any] = {
            name: {key: totals[key].copy() for key in sorted(totals)} for name, totals in self._arrays.items()
        }
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
            weighings=dict(sorted(self._weighings.items())),
            generated=dict(sorted(self._generated.items())),
            outputs=dict(sorted(self._outputs.items())),
        )


def merge(parts: Iterable[Tally | Record], layout: Layout = FOUR_LEPTONS) -> Tally:
    """Add up many tallies, or records of chunks, at once; OptionError if two of them counted the same events."""
    total = Sum(layout)
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
