"""How the counts and rows of an analysis are laid out in memory and in bytes."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from higgsnb.results import plausibility
from higgsnb.results.duplicates import repeated
from higgsnb.results.rows import PackedRows, doubtful, unpack_rows
from higgsnb.results.weights import LIMBS
from higgsnb.selection import (
    CHANNELS,
    FOUR_LEPTON_AXES,
    FOUR_LEPTON_WINDOWS,
    NOMINAL,
    QUANTITIES,
    Analysis,
    Binning,
    Cut,
    Selection,
)

if TYPE_CHECKING:
    from higgsnb.results.tally import Record

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

INVALID_LEPTONS = tuple(f"{flavour}_{quantity}" for flavour in ("muon", "electron") for quantity in QUANTITIES)
"""The columns of which invalid values are counted in a four-lepton selection."""

_PLACE = (("dataset", "<i2"), ("file", "<i4"), ("entry", "<i8"))
_IDENTITY = (*_PLACE, ("run", "<i8"), ("luminosity_block", "<i8"), ("event", "<u8"))
_LEPTONS = (
    ("channel", "<i1"), ("mass_4l", "<f8"), ("mass_z1", "<f8"), ("mass_z2", "<f8"), ("pt", "<f4", 4),
    ("eta", "<f4", 4), ("phi", "<f4", 4), ("mass", "<f4", 4), ("charge", "<i1", 4), ("pdg_id", "<i1", 4),
)  # fmt: skip


class Table(NamedTuple):
    """Selected candidates, one row each.

    Position in the catalogue, event, masses in GeV, leptons (n, 4) Z1 harder … Z2 softer; ``weight`` is that of the
    simulated event, 1 without one.
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
    weight: Floats

    def rows(self, which: npt.NDArray[Any]) -> Table:
        """Return the rows that an index or a mask selects."""
        make: Any = self._make
        return make(column[which] for column in self)  # type: ignore[no-any-return]

    @property
    def region(self) -> npt.NDArray[np.int8]:
        """The region of each row: the channel."""
        return self.channel

    @property
    def values(self) -> dict[str, npt.NDArray[Any]]:
        """The columns that are filled into histograms, by the name of the variable."""
        masses = {name: getattr(self, name) for name in ("mass_4l", "mass_z1", "mass_z2")}
        return {**masses, "lepton_pt": self.pt, "lepton_eta": self.eta}


@dataclass(frozen=True)
class Layout:
    """What a `Tally` of an analysis holds: the shapes of its arrays, and the columns of its rows."""

    binning: Binning
    n_cuts: int
    copies: tuple[str, ...]
    invalid: tuple[str, ...]
    row: np.dtype[Any]
    """The columns of a `table` and their types; of a four-lepton selection a row of it in a record, packed."""
    table: type[Any]

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The arrays of a `Tally` that are added up, each int64."""
        return {
            "counts": (len(self.binning.regions), self.binning.size),
            "cutflow": (len(self.binning.regions), self.n_cuts),
            "invalid_values": (len(self.invalid),),
            "plausibility": plausibility.SHAPE,
            "overlaps": self.overlaps,
        }

    @property
    def overlaps(self) -> tuple[int, ...]:
        """The shape of the numbers of events in two regions: channels are taken to be disjoint."""
        return (0,)

    @property
    def weighted(self) -> tuple[int, ...]:
        """The shape of weighted sums: copy, (Σw, digits of Σw²), region, place or row of the cutflow.

        The cutflow is that of the nominal weights, without their squares.
        """
        return (len(self.copies), 1 + LIMBS, len(self.binning.regions), self.binning.size + self.n_cuts)

    def empty(self) -> Any:
        """Return a table without rows."""
        return self.table._make(np.empty((0, *self.row[name].shape), self.row[name].base) for name in self.columns)

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the columns of a table."""
        return self.row.names or ()

    def blocks(self, records: Iterable[Record]) -> tuple[Any, ...]:
        """Return the rows of some records of one dataset."""
        found = np.frombuffer(b"".join([record.rows for record in records]), self.row)
        table = self.table._make(found[name].astype(self.row[name].base.newbyteorder("=")) for name in self.columns)
        return (table,) if len(found) else ()

    def packed(self, blocks: Sequence[Any]) -> bytes:
        """Return the rows of one chunk as a record holds them."""
        table = self.stacked(blocks)
        found = np.empty(len(table.run), self.row)
        for name, column in table._asdict().items():
            found[name] = column
        return found.tobytes()

    def stacked(self, blocks: Sequence[Any]) -> Any:
        """Return the rows of some blocks below each other."""
        return self._below(blocks)

    def _below(self, tables: Sequence[Any]) -> Any:
        """Return the rows of some tables below each other."""
        tables = tables or (self.empty(),)
        return tables[0] if len(tables) == 1 else self.table._make(map(np.concatenate, zip(*tables, strict=True)))

    def joined(self, blocks: Sequence[Any]) -> list[Any]:
        """Return the same rows in one block, if that is how they are kept."""
        return [self.stacked(blocks)] if blocks else []

    def without(self, blocks: Sequence[Any], datasets: Collection[int]) -> tuple[Any, ...]:
        """Return blocks without the rows of some datasets."""
        kept = [block.rows(~np.isin(block.dataset, list(datasets))) for block in blocks]
        return tuple(block for block in kept if len(block.run))

    def repeated(self, blocks: Sequence[Any], *, one_per_event: bool) -> Any:
        """Return the rows of events that may occur more than once in some blocks, all that do among them."""
        rows = self.stacked(blocks)
        return rows.rows(repeated(rows, one_per_event=one_per_event))

    def refill(self, table: Any) -> Integers:
        """Count the rows of a table once more, (n_regions, size) int64."""
        return self.binning.fill(table.region, self.binning.places(table.values, len(table.run)))


class OwnLayout(Layout):
    """The layout of an analysis of one's own: blocks are `PackedRows`, which become a table when they are asked for."""

    @property
    def overlaps(self) -> tuple[int, ...]:
        """The shape of the numbers of events in two regions: region, region."""
        return (len(self.binning.regions),) * 2

    def blocks(self, records: Iterable[Record]) -> tuple[PackedRows, ...]:
        """Return the rows of some records of one dataset."""
        return tuple(PackedRows(one.dataset, one.file, one.start, one.rows) for one in records if one.rows)

    def packed(self, blocks: Sequence[PackedRows]) -> bytes:
        """Return the rows of one chunk as a record holds them."""
        return b"".join(block.content for block in blocks)

    def stacked(self, blocks: Sequence[PackedRows]) -> Any:
        """Return the rows of some blocks, a row for each region of an event, in the order of the catalogue."""
        return self._below([self._table(block) for block in sorted(blocks)])

    def joined(self, blocks: Sequence[PackedRows]) -> list[PackedRows]:
        """Return the blocks."""
        return list(blocks)

    def without(self, blocks: Sequence[PackedRows], datasets: Collection[int]) -> tuple[PackedRows, ...]:
        """Return blocks without the rows of some datasets."""
        return tuple(block for block in blocks if block.dataset not in datasets)

    def repeated(self, blocks: Sequence[PackedRows], *, one_per_event: bool) -> Any:
        """Return the rows of events that may occur more than once in some blocks, all that do among them."""
        rows = self._below([self._table(block, which) for block, which in doubtful(sorted(blocks))])
        return rows.rows(repeated(rows, one_per_event=one_per_event))

    def refill(self, table: Any) -> Integers:
        """Count the rows of a table once more, (n_regions, size) int64."""
        total = np.full((len(table.run), 1), self.binning.starts[-1])
        return self.binning.fill(table.region, np.concatenate([table.places, total], axis=1).astype(np.int32))

    def _table(self, block: PackedRows, which: Integers | None = None) -> Any:
        """Return the rows of a block, or of some segments of it."""
        kept = self.columns[self.columns.index("places") + 1 :]
        found = unpack_rows(block, len(self.binning.regions), self.binning.n_fills - 1, len(kept), which)
        found |= dict(zip(kept, found.pop("kept"), strict=True))
        table: Any = self.table
        return table._make(found[name].astype(self.row[name].base, copy=False) for name in self.columns)


FOUR_LEPTONS = Layout(
    Binning(FOUR_LEPTON_AXES, CHANNELS, FOUR_LEPTON_WINDOWS, "channel"), len(Cut), (NOMINAL,), INVALID_LEPTONS,
    np.dtype([*_IDENTITY, *_LEPTONS, ("weight", "<f8")]), Table,
)  # fmt: skip
"""The layout of a four-lepton selection without own axes."""


@lru_cache(maxsize=64)
def layout_of(analysis: Analysis) -> Layout:
    """Return the layout of an analysis."""
    if isinstance(analysis, Selection):
        invalid = tuple(f"{flavour}_{name}" for flavour in ("muon", "electron") for name in analysis.quantities)
        own = analysis.own_columns
        row = np.dtype([*_IDENTITY, *_LEPTONS, *((name, "<f8", (n,) if n > 1 else ()) for name, n in own.items()),
                        ("weight", "<f8")])  # fmt: skip
        table = _table_with(tuple(own)) if own else Table
        return replace(
            FOUR_LEPTONS, binning=analysis.binning, n_cuts=len(analysis.cut_names()), invalid=invalid, row=row,
            table=table,
        )  # fmt: skip
    binning = analysis.binning
    n_cuts = max(len(analysis.cut_names(region)) for region in binning.regions)
    kept = [(name, "<f8") for name in (*analysis.keep, *("weight",) * bool(analysis.keep))]
    place = "<i2" if binning.size < 2**15 else "<i4"
    numbers = [("run", "<u4"), ("luminosity_block", "<u4"), ("event", "<u8"), ("region", "<i1")]
    row = np.dtype([*_PLACE, *numbers, ("places", place, (binning.n_fills - 1,)), *kept])
    return OwnLayout(binning, n_cuts, analysis.copies, tuple(binning.variables), row, _table_of(row.names or ()))


@lru_cache(maxsize=64)
def _table_with(names: tuple[str, ...]) -> type[Any]:
    """Return a class of tables like `Table` with further columns, which are filled into histograms."""

    class Candidates(namedtuple("Candidates", (*Table._fields[:-1], *names, "weight"))):  # type: ignore[misc]  # noqa: PYI024
        """Selected candidates with own columns, one row each."""

        __slots__ = ()
        rows, region = Table.rows, Table.region

        @property
        def values(self) -> dict[str, npt.NDArray[Any]]:
            """The columns that are filled into histograms, by the name of the variable."""
            stored: Any = Table.values.fget  # type: ignore[attr-defined]
            return {**stored(self), **{name: getattr(self, name) for name in names}}

    return Candidates


@lru_cache(maxsize=64)
def _table_of(names: tuple[str, ...]) -> type[Any]:
    """Return a class of tables like `Table` with some columns."""

    class Rows(namedtuple("Rows", names, rename=True)):  # type: ignore[misc]  # noqa: PYI024
        """Selected events, a row for each region that they are in."""

        __slots__ = ()

        def rows(self, which: npt.NDArray[Any]) -> Any:
            """Return the rows that an index or a mask selects."""
            make: Any = self._make
            columns: Any = self
            return make([column[which] for column in columns])

    return Rows
