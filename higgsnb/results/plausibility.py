"""Whether the columns of an event file are filled, and in the units that the cuts are in: GeV, cm and radians.

A file in other units is read without an error: transverse momenta in MeV pass every cut from below, displacements in mm
few from above. What tells is a quantile of a column over a whole dataset, mostly the median, which varies far less
between samples and detectors than units differ. To find whether it is in a range, it is enough to count how many values
are below it and how many above, so that the answer does not depend on how the events were divided.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from higgsnb.events import BRANCHES
from higgsnb.selection import SENTINEL, Leptons

if TYPE_CHECKING:
    from higgsnb.events import EventColumns

Integers = npt.NDArray[np.int64]
LEAST = 10
"""Values of a column in a dataset below which they tell nothing."""
FEW = 40
"""Values below which a quantile tells little: nearly all have to be out of range."""
NEARLY_ALL = 0.9
SHARES = {0.1: "a tenth", 0.5: "half", 0.75: "three quarters"}


class Range(NamedTuple):
    """Where the absolute values of a quantity are in any sample of collisions: from ``low`` to ``high``.

    ``over``: a quantity by which it is divided. No more than ``share`` of the values are out of range, whether below or
    above. The limits are at least a factor of two from the quantiles in CMS data and simulation of 2011 to 2018, in
    which some of the leptons are jets, or from other collisions in the same crossing.
    """

    quantity: str
    low: float
    high: float
    unit: str
    over: str = ""
    share: float = 0.5

    def __str__(self) -> str:
        return f"{self.quantity} / {self.over}" if self.over else self.quantity


RANGES = (
    Range("pt", 1.0, 1000.0, "GeV"),
    Range("eta", 0.0, 5.0, ""),
    Range("phi", 0.0, 6.3, "rad"),
    Range("mass", 0.0, 1.0, "GeV"),
    Range("charge", 1.0, 1.0, ""),
    Range("dxy_error", 2e-4, 0.012, "cm"),
    Range("dz_error", 2e-4, 0.025, "cm"),
    Range("dxy", 0.0, 6.0, "", over="dxy_error"),
    # In dimuon data most leptons may be from other collisions, centimetres away; those that are not tell.
    Range("dz", 0.0, 2.5, "", over="dz_error", share=0.75),
    # Isolated leptons have none, in whatever unit: those that are jets tell.
    Range("isolation", 0.0, 15.0, "", share=0.1),
)
COLUMNS = {branch: name for name, branch in BRANCHES.items()}
"""What columns of muons and electrons are called in `Leptons`."""
LOOKED_AT = 20_000
"""About as many events of a file are looked at."""
FLAVOURS = ("muon", "electron")
SHAPE = (len(FLAVOURS), len(RANGES), 4)


def count(leptons: Leptons) -> Integers:
    """Count, for each of `RANGES`, usable values, those below it, those above it, and unusable ones: `SHAPE`, int64.

    Of a ratio those values are unusable whose numerator is.
    """
    return _count(leptons._asdict())


def count_columns(read: EventColumns) -> Integers:
    """Do the same with the columns of muons and electrons among those that were read."""
    return _count({COLUMNS[branch]: column for branch, column in read.jagged.items() if branch in COLUMNS})


def _count(columns: Mapping[str, Any]) -> Integers:
    found = np.zeros(SHAPE, np.int64)
    for i, flavour in enumerate(FLAVOURS):
        for j, expected in enumerate(RANGES):
            names = [f"{flavour}_{name}" for name in (expected.quantity, expected.over) if name]
            mine = [column for column in map(columns.get, names) if column is not None]
            if len(mine) < len(names):
                continue
            exists = [np.isfinite(column) & (column != SENTINEL) for column in mine]
            usable = np.logical_and.reduce(exists)
            values, *by = (np.abs(column[usable]) for column in mine)
            low, high = (np.float32(limit) * by[0] if by else np.float32(limit) for limit in expected[1:3])
            below, above = np.count_nonzero(values < low), np.count_nonzero(values > high)
            found[i, j] = len(values), below, above, np.count_nonzero(~exists[0])
    return found


def implausible(counts: Integers) -> list[str]:
    """Describe the columns of which too many values are out of range, from what `count` gives for a whole dataset."""
    found = []
    for flavour, expected, (n, below, above, _) in _columns(counts):
        if _exceeds(max(below, above), n, expected.share):
            unit = f" {expected.unit}" if expected.unit else ""
            where = f"below {expected.low:g}{unit}" if below > above else f"above {expected.high:g}{unit}"
            found.append(f"more than {SHARES[expected.share]} of the values of {flavour} {expected} are {where}")
    return found


def unusable(counts: Integers) -> list[str]:
    """Name the columns of which most values are not finite or a sentinel, from what `count` gives for a dataset."""
    columns = _columns(counts)
    return [f"{flavour} {of.quantity}" for flavour, of, (n, *_, without) in columns if _exceeds(without, n + without)]


def _columns(counts: Integers) -> Iterator[tuple[str, Range, list[int]]]:
    """Yield the flavour of each column, what is expected of it, and its counts."""
    for flavour, rows in zip(FLAVOURS, counts.tolist(), strict=True):
        yield from ((flavour, expected, numbers) for expected, numbers in zip(RANGES, rows, strict=True))


def _exceeds(some: int, n: int, share: float = 0.5) -> bool:
    """Whether some of ``n`` values are more than a share of them; of a few, whether they are nearly all."""
    return n >= LEAST and some > (share if n >= FEW else NEARLY_ALL) * n
