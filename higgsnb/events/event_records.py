"""Columns of events as awkward records: ``events.Muon.pt``, with four-vectors through `vector`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from higgsnb import datasets
from higgsnb.events.columns import Columns, collection_of
from higgsnb.events.fourvectors import behavior
from higgsnb.events.read import first_chunk, read_events
from higgsnb.selection import parse

if TYPE_CHECKING:
    from higgsnb.datasets import Campaign
    from higgsnb.events.columns import EventColumns

INDEX = "__index__"
"""The field of `records` that says which events are left."""
_KINDS: tuple[tuple[str, set[str], set[str]], ...] = (
    ("Momentum4D", {"pt", "eta", "phi"}, {"mass", "energy", "E", "e"}),
    ("Momentum3D", {"pt", "eta", "phi"}, set()),
    ("Momentum2D", {"pt", "phi"}, set()),
)
"""The names of `vector` for records that have these columns, and one of those."""


def records(read: EventColumns) -> Any:
    """Return events as an awkward array of records.

    A collection becomes a list of records in each event (``events.Muon.pt``), columns with one value per event are
    there by their name and grouped by what stands before the first ``_`` (``events.HLT.IsoMu24``); ``events.entry`` is
    the index in the file, and `INDEX` that among these events, whatever else is changed in them.
    """
    import awkward as ak

    index = np.arange(len(read.entries))
    fields: dict[str, Any] = {
        name: ak.contents.NumpyArray(_read_only(column)) for name, column in (("entry", read.entries), (INDEX, index))
    }
    groups: dict[str, dict[str, npt.NDArray[Any]]] = {}
    for name, column in read.flat.items():
        fields[name] = ak.contents.NumpyArray(_read_only(column))
        group, _, member = name.partition("_")
        if member:
            groups.setdefault(group, {})[member] = column
    for group, members in groups.items():
        if group not in read.offsets and group not in fields:
            fields[group] = _record(members)
    for collection, offsets in read.offsets.items():
        members = {
            name[len(collection) + 1 :]: column
            for name, column in read.jagged.items()
            if read.collection(name) == collection
        }
        fields[collection] = ak.contents.ListOffsetArray(ak.index.Index64(offsets), _record(members, int(offsets[-1])))
    layout = ak.contents.RecordArray(list(fields.values()), list(fields), length=len(read.entries))
    return ak.Array(layout, behavior=behavior())


class FlatEvents(Mapping[str, npt.NDArray[Any]]):
    """Columns of events by name, flat NumPy arrays: (n_events,), or (n_objects,) in the order of the events.

    They cannot be written to, as those of `records`: the events are used again.

    ``offsets`` of each collection, (n_events + 1,) int64, say where the objects of an event start; ``entry`` are the
    indices in the file.
    """

    def __init__(self, read: EventColumns) -> None:
        self._columns = {name: _read_only(column) for name, column in (*read.flat.items(), *read.jagged.items())}
        self._jagged, self.entry = read.jagged.keys(), _read_only(read.entries)
        self.offsets = {collection: _read_only(offsets) for collection, offsets in read.offsets.items()}

    def __getitem__(self, name: str) -> npt.NDArray[Any]:
        if name not in self._columns:
            raise KeyError(f"no column {name}; there are {', '.join(self._columns)}")
        return self._columns[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._columns)

    def collection(self, name: str) -> str:
        """Return the collection that a column is of; empty if the column has one value per event."""
        return collection_of(name, self.offsets) if name in self._jagged else ""

    def __len__(self) -> int:
        """Return the number of columns."""
        return len(self._columns)


def first_events(
    campaign: Campaign | str, columns: Sequence[str], dataset: str = "", *, preselection: str = "", most: int = 100_000
) -> Any:
    """Return the first events of a dataset as records, as the function of an analysis is given them: to try it out.

    ``columns`` and ``preselection`` are those of an `Analysis`. ``dataset`` is the name of one, or of a primary dataset
    (default: the first with data). At most ``most`` events are read, of the first file. Raises as `first_chunk` does.
    """
    campaign = datasets.load(campaign)
    wanted = Columns(
        (columns,) if isinstance(columns, str) else tuple(columns),
        parse(preselection) if preselection.strip() else None,
    )
    first = next((one for one in campaign.datasets if one.is_data), campaign.datasets[0])
    return records(read_events(first_chunk(campaign, dataset or first.name, most, wanted), wanted))


def _read_only(column: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return a view of an array that cannot be written to."""
    view = column.view()
    view.flags.writeable = False
    return view


def _record(members: dict[str, npt.NDArray[Any]], length: int | None = None) -> Any:
    import awkward as ak

    names = set(members)
    kind = next((kind for kind, all_of, any_of in _KINDS if all_of <= names and (not any_of or any_of & names)), None)
    contents = [ak.contents.NumpyArray(_read_only(column)) for column in members.values()]
    return ak.contents.RecordArray(contents, list(members), length, parameters=kind and {"__record__": kind})


def to_numpy(array: Any) -> npt.NDArray[Any]:
    """Return an awkward array as NumPy has it, masked where it is None; ValueError if it is not rectangular."""
    import awkward as ak

    layout: Any = getattr(array, "layout", None)
    index = None
    if type(layout) is ak.contents.IndexedArray:
        index, layout = layout.index.data, layout.content
    if type(layout) is ak.contents.NumpyArray and isinstance(layout.data, np.ndarray) and not layout.parameters:
        return layout.data if index is None else layout.data.take(index, axis=0)  # a third of what awkward takes
    return np.asanyarray(ak.to_numpy(array, allow_missing=True))


def to_padded(array: Any, least: int) -> npt.NDArray[Any]:
    """Return lists of numbers as a masked array with as many columns as the longest has, at least ``least``."""
    import awkward as ak

    lists = ak.Array(array)
    longest = max(least, int(ak.max(ak.num(lists), initial=0)) if len(lists) else 0)
    return np.ma.asarray(ak.to_numpy(ak.pad_none(lists, longest, clip=True), allow_missing=True))
