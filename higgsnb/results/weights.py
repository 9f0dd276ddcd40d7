"""Weights as fixed-point integers, so that sums of them are exact in any order.

The unit is 2⁻²⁴ of a power of two that is near the typical weight of the events of a file. A weight is rounded to the
unit once, and from then on nothing is rounded: 2⁻²⁵ of a typical weight is the largest error of each event.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from higgsnb.errors import SchemaError
from higgsnb.selection import DIGIT, Binning, add_weights, combine_weights

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

BITS = 24
"""Bits of a typical weight behind the binary point; the largest weight is 65,536 typical ones, 2⁴⁰ units."""
LIMBS = 4
"""A sum of squares is kept as the sums of so many digits to the base 2²⁰, each of which is exact in int64."""
FILLS = 2**21
"""Most weights whose squares are added up in a bin at a time, see `add_weights`."""


def to_fixed(
    base: Floats, exponent: int, *, where: str, entries: Integers, sources: Floats | None = None,
    columns: Integers | None = None, n_copies: int = 1,
) -> Integers:  # fmt: skip
    """Return weights in units of 2 ** (``exponent`` − 24), (n, n_copies): nominal ones, and those of the sources.

    ``base`` (n,) are those without sources; see `selection.combine_weights`.

    Raises
    ------
    SchemaError
        If one is not finite or too large; ``where`` names the file, ``entries`` (n,) the events.
    """
    n = len(base)
    sources = np.empty((0, 3, n)) if sources is None else sources
    columns = np.empty((0, 2), np.int64) if columns is None else columns
    fixed = (np.zeros if n_copies > 1 + columns.size else np.empty)((n, n_copies), np.int64)
    bad = combine_weights(np.ascontiguousarray(base), sources, columns, 2.0 ** (BITS - exponent), fixed)
    if bad >= 0:
        factors = ", ".join(f"{value:g}" for value in (base[bad], *sources[:, :, bad].ravel()))
        what = f"{where}: the weight of entry {entries[bad]} is {factors}, a typical one about {2.0**exponent:g}"
        raise SchemaError(what, "Leave this file out, or limit the weight in the analysis.")
    return fixed


def add_up(
    region: npt.NDArray[np.int8], rows: Integers, places: npt.NDArray[np.int32], fixed: Integers, binning: Binning
) -> Integers:
    """Return Σw and the digits of Σw², (n_copies, 5, n_regions, size), of events that are filled at places.

    Events are ``rows``, each in a region; ``fixed`` (n, n_copies) are the weights of all.
    """
    n_copies, n_regions, size = fixed.shape[1], len(binning.regions), binning.size
    found = np.zeros((n_copies, 1 + LIMBS, n_regions, size), np.int64)
    derived = binning.derived
    step = FILLS // max(axis.per_event for axis in binning.axes)
    for start in range(0, len(rows), step):
        sums = np.zeros((n_regions, size, 4, n_copies), np.int64)
        some = slice(start, start + step)
        add_weights(region[some], rows[some], places, fixed, derived, sums)
        if derived >= 0:
            sums[:, binning.starts[-1]] += sums[:, : binning.starts[1]].sum(axis=1)
        weight, low, middle, high = np.moveaxis(sums, (2, 3), (0, 1))  # each (n_copies, n_regions, size)
        found[:, 0] += weight
        carried = (low >> DIGIT) + (middle << 1)  # in units of 2²⁰
        upper = (carried >> DIGIT) + high  # in units of 2⁴⁰
        for digit, values in enumerate((low, carried, upper, upper >> DIGIT)):
            found[:, 1 + digit] += values & ((1 << DIGIT) - 1) if digit < LIMBS - 1 else values
    return found


def to_float(total: int, exponent: int) -> float:
    """Return a sum of weights that is given in units, rounded once."""
    shift = exponent - BITS
    return float(total << shift) if shift >= 0 else total / (1 << -shift)


def add_exactly(parts: Mapping[int, Integers]) -> tuple[Floats, Floats]:
    """Return Σw and Σw², (n_copies, n_regions, size) each, of sums in units of several exponents, as `add_up` gives."""
    lowest = min(parts)
    first = next(iter(parts.values()))
    shape = (first.shape[0], *first.shape[2:])
    sums, squares = np.zeros(shape, object), np.zeros(shape, object)
    for exponent, array in parts.items():
        sums += _shifted(array[:, 0], exponent - lowest)
        for digit in range(LIMBS):
            squares += _shifted(array[:, 1 + digit], 2 * (exponent - lowest) + digit * DIGIT)
    return _floats(sums, lowest - BITS), _floats(squares, 2 * (lowest - BITS))


def _shifted(array: Integers, bits: int) -> npt.NDArray[Any]:
    """Return integers of any size, each times 2 ** ``bits``."""
    return np.asarray(array.astype(object) * (1 << bits))


def _floats(values: npt.NDArray[Any], exponent: int) -> Floats:
    """Return integers of any size times 2 ** ``exponent``, each rounded once."""
    return np.asarray(np.ldexp(values.astype(np.float64), exponent), np.float64)
