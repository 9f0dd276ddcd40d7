"""Objects that behave as four-vectors of `vector`, at a third of the cost where arrays are plain.

`vector` finds out at each access of ``pt`` how a vector is stored, and turns every sum back into pt, phi, eta and mass;
awkward counts a jagged mask four times over. The arrays of a chunk are plain columns: for these the short way is taken
here, and everything else is left to `vector`. Angles are taken as precise as they are stored, sums are in float64.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from higgsnb.selection import rule

Integers = npt.NDArray[np.int64]

NAME = "Momentum4D"
"""The name that `vector` gives to records with a four-momentum."""
FIELDS = ("pt", "eta", "phi", "mass")
AT_ONCE = 32_768
"""Vectors that are added up at a time: what is computed in between stays in the cache."""
MOST_INT32 = 2**31
"""Objects from which on their indices need eight bytes."""


@cache
def behavior() -> dict[Any, Any]:
    """Return the behavior of arrays of records with four-momenta, for ``ak.Array(…, behavior=…)``."""
    from vector.backends.awkward import MomentumArray4D
    from vector.backends.awkward import behavior as original

    class Objects(MomentumArray4D):  # type: ignore[misc]
        """Lists of objects, or one object of each event."""

        def __getitem__(self, where: Any) -> Any:
            short = _field if type(where) is str else _nth if type(where) is tuple else _masked
            found = short(self, where)
            return super().__getitem__(where) if found is None else found

        @property
        def mass(self) -> Any:
            """Invariant mass, negative where E² < p²."""
            names = list(self.layout.fields)
            if "mass" in names:
                return self["mass"]
            columns = [_column(self.layout, name) for name in names]
            numbers = [column.part() for column in columns if column is not None]
            if names != ["x", "y", "z", "t"] or len(numbers) < len(columns):
                return super().mass
            masses = np.empty(len(self))
            find_masses(*(np.ascontiguousarray(column, np.float64) for column in numbers), masses)
            return _array(masses)

    for name in FIELDS[:3]:
        setattr(Objects, name, _plain(name, getattr(MomentumArray4D, name)))
    slow = original[np.add, NAME, NAME]
    return {**original, ("*", NAME): Objects, (np.add, NAME, NAME): lambda one, other: _sum(one, other, slow)}


def _plain(name: str, derived: property) -> property:
    """Return a property that is the field of that name, if there is one."""

    def get(self: Any) -> Any:
        return self[name] if name in self.layout.fields else derived.__get__(self)

    return property(get, doc=derived.__doc__)


def _array(values: npt.NDArray[Any]) -> Any:
    import awkward as ak

    return ak.Array(ak.contents.NumpyArray(values))


def _like(array: Any, layout: Any) -> Any:
    import awkward as ak

    return ak.Array(layout, behavior=array.behavior, attrs=array.attrs)


def _field(array: Any, name: str) -> Any:
    """Return a field of one object of each event; None if these are lists."""
    import awkward as ak

    column = _column(array.layout, name)
    return None if column is None else _like(array, ak.contents.NumpyArray(column.part()))


def _nth(array: Any, where: tuple[Any, ...]) -> Any:
    """Return the object at one place in each list; None if that is not what is asked for, or if a list is too short."""
    import awkward as ak

    lists = array.layout
    if len(where) != 2 or where[0] != slice(None) or type(where[1]) is not int:
        return None
    if type(lists) not in (ak.contents.ListArray, ak.contents.ListOffsetArray):
        return None
    starts, stops, at = lists.starts.data, lists.stops.data, where[1]
    if (stops - starts <= (at if at >= 0 else -1 - at)).any():
        return None
    index, content = (starts if at >= 0 else stops) + at, lists.content
    if type(content) is ak.contents.IndexedArray:
        index, content = content.index.data.take(index), content.content
    return _like(array, ak.contents.IndexedArray.simplified(ak.index.Index(index), content))


def _masked(array: Any, mask: Any) -> Any:
    """Return the objects that a jagged mask keeps; None if that is no plain mask of the same lengths."""
    import awkward as ak

    lists, flags = array.layout, getattr(mask, "layout", None)
    if flags is None or not all(type(one) is ak.contents.ListOffsetArray for one in (lists, flags)):
        return None
    if type(flags.content) is not ak.contents.NumpyArray or flags.content.dtype != np.bool_:
        return None
    offsets = lists.offsets.data
    if flags.offsets.data is not offsets and not np.array_equal(flags.offsets.data, offsets):
        return None
    kept = np.ascontiguousarray(flags.content.data[: offsets[-1]])
    kind = np.int32 if len(kept) < MOST_INT32 else np.int64
    index, before = (np.empty(len(kept) + 1, kind) for _ in range(2))
    starts = np.empty(len(offsets), np.int64)
    n = keep_objects(np.ascontiguousarray(offsets, np.int64), kept, index, before, starts)
    content = ak.contents.IndexedArray.simplified(ak.index.Index(index[:n]), lists.content)
    return _like(array, ak.contents.ListOffsetArray(ak.index.Index64(starts), content))


@rule
def keep_objects(offsets, mask, index, before, starts):
    """Write the indices of the objects that a mask keeps, and where those of an event start; return how many there are.

    ``index`` and ``before``, how many are kept before each object, have room for one more than there are objects. A
    loop over the few objects of each event would take longer: how many they are cannot be foreseen.
    """
    n = 0
    for i in range(len(mask)):
        before[i], index[n] = n, i
        n += mask[i]
    before[len(mask)] = n
    for event in range(len(offsets)):
        starts[event] = before[offsets[event]]
    return n


class _Column(NamedTuple):
    """One number for each record: ``values`` at the last of the ``indices``, at the one before it, and so on."""

    values: npt.NDArray[Any]
    indices: tuple[npt.NDArray[Any], ...]

    def part(self, start: int = 0, stop: int | None = None) -> npt.NDArray[Any]:
        """Return the numbers of some records."""
        if not self.indices:
            return self.values[start:stop]
        first, *others = self.indices
        where = first[start:stop]
        for index in others:
            where = index.take(where)
        return self.values.take(where)


def _column(layout: Any, name: str) -> _Column | None:
    """Return a field; None if it is not one number for each record."""
    import awkward as ak

    indices = []
    if type(layout) is ak.contents.IndexedArray:
        indices, layout = [layout.index.data], layout.content
    if type(layout) is not ak.contents.RecordArray or name not in layout.fields:
        return None
    values = layout[name]
    if type(values) is ak.contents.IndexedArray:
        indices, values = [*indices, values.index.data], values.content
    if type(values) is not ak.contents.NumpyArray or values.data.ndim != 1:
        return None
    return _Column(values.data, tuple(indices))


def _parts(columns: list[_Column], start: int, stop: int) -> Any:
    """Return the numbers of some records in four columns, which mostly are taken from the same places."""
    indices, kind = columns[0].indices, columns[0].values.dtype
    if len(indices) != 1 or any(
        column.values.dtype != kind or len(column.indices) != 1 or column.indices[0] is not indices[0]
        for column in columns
    ):
        return [column.part(start, stop) for column in columns]
    index = indices[0][start:stop]
    parts = np.empty((4, len(index)), kind)
    take_four(index, *(column.values for column in columns), parts)
    return parts


@rule
def take_four(index, first, second, third, fourth, parts):
    """Write what four columns have at ``index`` (n,) to ``parts`` (4, n)."""
    one, two, three, four = parts[0], parts[1], parts[2], parts[3]
    for i in range(len(index)):
        at = np.uint64(index[i])
        one[i], two[i], three[i], four[i] = first[at], second[at], third[at], fourth[at]


def _sum(one: Any, other: Any, slow: Any) -> Any:
    """Return the sum as x, y, z, t in float64; that of `vector` where these are no plain arrays of one length."""
    import awkward as ak

    columns: list[list[Any]] = [
        [_column(v.layout, name) for name in FIELDS] for v in (one, other) if isinstance(v, ak.Array)
    ]
    if len(columns) < 2 or len(one) != len(other) or any(column is None for some in columns for column in some):
        return slow(one, other)
    total = np.zeros((4, len(one)))
    for some in columns:
        for start in range(0, len(one), AT_ONCE):
            pt, eta, phi, mass = _parts(some, start, start + AT_ONCE)
            add_momenta(*map(np.ascontiguousarray, (pt, np.cos(phi), np.sin(phi), np.sinh(eta), mass)), start, total)
    contents = [ak.contents.NumpyArray(values) for values in total]
    record = ak.contents.RecordArray(contents, ["x", "y", "z", "t"], parameters={"__record__": NAME})
    return ak.Array(record, behavior=one.behavior)


@rule
def add_momenta(pt, cosine, sine, slope, mass, start, total):
    """Add momenta and energies to ``total`` (4, n) float64: x, y, z, t, from ``start`` on; ``slope`` is sinh(eta)."""
    x, y, z, t = total[0][start:], total[1][start:], total[2][start:], total[3][start:]
    for i in range(len(pt)):
        transverse, heavy = np.float64(pt[i]), np.float64(mass[i])
        along = transverse * slope[i]
        x[i] += transverse * cosine[i]
        y[i] += transverse * sine[i]
        z[i] += along
        t[i] += np.sqrt(transverse * transverse + along * along + heavy * heavy)


@rule
def find_masses(x, y, z, t, masses):
    """Write invariant masses, negative where E² < p²."""
    for i in range(len(masses)):
        square = t[i] * t[i] - x[i] * x[i] - y[i] * y[i] - z[i] * z[i]
        masses[i] = np.copysign(np.sqrt(np.abs(square)), square)
