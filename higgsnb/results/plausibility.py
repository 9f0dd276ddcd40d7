"""Whether the columns of an event file are in the units that the cuts are in: GeV, cm and radians.

A file in other units is read without an error: transverse momenta in MeV pass every cut from below, displacements in mm
few from above. What tells is the median of a column over a whole dataset, which varies far less between samples and
detectors than units differ. To find whether it is in a range, it is enough to count how many values are below it and
how many above, so that the answer does not depend on how the events were divided.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from higgsnb.selection import SENTINEL, Leptons

Integers = npt.NDArray[np.int64]
LEAST = 40
"""Values of a column in a dataset below which its median tells nothing."""


class Median(NamedTuple):
    """Where the median of the absolute values of a quantity is in any sample of collisions: from ``low`` to ``high``.

    ``over``: a quantity by which it is divided. The limits are at least a factor of two from the medians in CMS data
    and simulation of 2011 to 2018, in which some of the leptons are jets.
    """

    quantity: str
    low: float
    high: float
    unit: str
    over: str = ""
    flavours: tuple[str, ...] = ("muon", "electron")

    def __str__(self) -> str:
        return f"{self.quantity} / {self.over}" if self.over else self.quantity


MEDIANS = (
    Median("pt", 1.0, 1000.0, "GeV"),
    Median("eta", 0.0, 5.0, ""),
    Median("phi", 0.0, 6.3, "rad"),
    Median("mass", 0.0, 1.0, "GeV", flavours=("muon",)),
    Median("dxy_error", 2e-4, 0.012, "cm"),
    Median("dz_error", 2e-4, 0.025, "cm"),
    Median("dxy", 0.0, 6.0, "", over="dxy_error"),
)
FLAVOURS = ("muon", "electron")
SHAPE = (len(FLAVOURS), len(MEDIANS), 3)


def count(leptons: Leptons) -> Integers:
    """Count the usable values of each of `MEDIANS`, those below its range and those above it: `SHAPE`, int64."""
    found = np.zeros(SHAPE, np.int64)
    for i, flavour in enumerate(FLAVOURS):
        for j, median in enumerate(MEDIANS):
            columns = [getattr(leptons, f"{flavour}_{name}") for name in (median.quantity, median.over) if name]
            if flavour not in median.flavours or any(column is None for column in columns):
                continue
            usable = np.logical_and.reduce([np.isfinite(column) & (column != SENTINEL) for column in columns])
            values, *by = (np.abs(column[usable]) for column in columns)
            low, high = (np.float32(limit) * by[0] if by else np.float32(limit) for limit in median[1:3])
            found[i, j] = len(values), np.count_nonzero(values < low), np.count_nonzero(values > high)
    return found


def implausible(counts: Integers) -> list[str]:
    """Describe the columns whose median is out of range, from what `count` gives for a whole dataset."""
    found = []
    for i, flavour in enumerate(FLAVOURS):
        for median, (n, below, above) in zip(MEDIANS, counts[i].tolist(), strict=True):
            if n >= LEAST and 2 * max(below, above) > n:
                unit = f" {median.unit}" if median.unit else ""
                where = f"below {median.low:g}{unit}" if below > above else f"above {median.high:g}{unit}"
                found.append(f"half of the {n:,} values of {flavour} {median} are {where}")
    return found
