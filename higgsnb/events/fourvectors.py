"""Objects that behave as four-vectors of `vector`, at a third of the cost where arrays are plain.

`vector` finds out at each access of ``pt`` how a vector is stored, and turns every sum back into pt, phi, eta and mass;
awkward counts a jagged mask four times over. The arrays of a chunk are plain columns: for these the short way is taken
here, and everything else is left to `vector`. Angles are taken as precise as they are stored, sums are in float64.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from higgsnb.selection import rule

Integers = npt.NDArray[np.int64]

NAME = "Momentum4D"
"""The name that `vector` gives to records with a four-momentum."""
FIELDS = ("pt", "eta", "phi", "mass")


@cache
def behavior() -> dict[Any, Any]:
    """Return the behavior of arrays of records with four-momenta, for ``ak.Array(…, behavior=…)``."""
    from vector.backends.awkward import MomentumArray4D
    from vector.backends.awkward import behavior as original

    class Objects(MomentumArray4D):  # type: ignore[misc]
        """Lists of objects, or one object of each event."""

        def __getitem__(self, where: Any) -> Any:
            found = _masked(self, where)
            return super().__getitem__(where) if found is None else found

        @property
        def mass(self) -> Any:
            """Invariant mass, negative where E² < p²."""
            names = list(self.layout.fields)
            if "mass" in names:
                return self["mass"]
            columns = [_column(self.layout, name) for name in names]
            numbers = [column for column in columns if column is not None]
            if names != ["x", "y", "z", "t"] or len(numbers) < len(columns):
                return super().mass
            x, y, z, t = numbers
            square = t * t - x * x - y * y - z * z
            return _array(np.copysign(np.sqrt(np.abs(square)), square))

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
    kept = np.ascontiguousarray(flags.content.data)
    index, starts = np.empty(len(kept) + 1, np.int64), np.empty(len(offsets), np.int64)
    n = keep_objects(np.ascontiguousarray(offsets, np.int64), kept, index, starts)
    content = ak.contents.IndexedArray.simplified(ak.index.Index64(index[:n]), lists.content)
    found = ak.contents.ListOffsetArray(ak.index.Index64(starts), content)
    return ak.Array(found, behavior=array.behavior, attrs=array.attrs)


@rule
def keep_objects(offsets, mask, index, starts):
    """Write the indices of the objects that a mask keeps, with room for one more, and where those of an event start.

    Return how many they are.
    """
    n = 0
    for event in range(len(offsets) - 1):
        starts[event] = n
        for i in range(offsets[event], offsets[event + 1]):
            index[n] = i
            n += mask[i]
    starts[len(offsets) - 1] = n
    return n


def _column(layout: Any, name: str) -> npt.NDArray[Any] | None:
    """Return a field as NumPy has it; None if it is not one number for each record."""
    import awkward as ak

    index = None
    if type(layout) is ak.contents.IndexedArray:
        index, layout = layout.index.data, layout.content
    if type(layout) is not ak.contents.RecordArray or name not in layout.fields:
        return None
    values = layout[name]
    if type(values) is ak.contents.IndexedArray:
        values = values.project()
    if type(values) is not ak.contents.NumpyArray or values.data.ndim != 1:
        return None
    column: npt.NDArray[Any] = values.data if index is None else values.data[index]
    return column


def _sum(one: Any, other: Any, slow: Any) -> Any:
    """Return the sum as x, y, z, t in float64; that of `vector` where these are no plain arrays of one length."""
    import awkward as ak

    columns = [[_column(v.layout, name) for name in FIELDS] for v in (one, other) if isinstance(v, ak.Array)]
    if len(columns) < 2 or len(one) != len(other) or any(column is None for some in columns for column in some):
        return slow(one, other)
    total: list[Any] = [0.0, 0.0, 0.0, 0.0]
    for pt, eta, phi, mass in columns:
        wide = np.asarray(pt, np.float64)
        x, y, z = wide * np.cos(phi), wide * np.sin(phi), wide * np.sinh(eta)  # type: ignore[arg-type]
        energy = np.sqrt(wide * wide + z * z + np.asarray(mass, np.float64) ** 2)
        total = [before + value for before, value in zip(total, (x, y, z, energy), strict=True)]
    contents = [ak.contents.NumpyArray(values) for values in total]
    record = ak.contents.RecordArray(contents, ["x", "y", "z", "t"], parameters={"__record__": NAME})
    return ak.Array(record, behavior=one.behavior)
