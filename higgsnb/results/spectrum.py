"""Data and prediction per bin: counts, the expected events of each process, and their statistical uncertainty.

Figures, tables, fits and live views all start from a `Spectrum`. `Result.spectrum` gives one of a result's histograms,
`normalise` makes one of any other counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from higgsnb.errors import OptionError
from higgsnb.results.yields import Yield

if TYPE_CHECKING:
    from higgsnb.datasets import Dataset

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

STACK_ORDER = ("zx", "zz", "higgs")
"""Processes from the bottom of a stack to its top; any other process is below them."""


@dataclass(frozen=True, eq=False)
class Spectrum:
    """Data and prediction in n bins with ``edges`` (n + 1,); every other array is (n,), or (n_regions, n).

    ``data`` are counts, None if there are none. ``stack`` has the expected events of each simulated process, in the
    order of the campaign (`stack_order` is the one to draw in), ``variances`` their variances from the finite number of
    simulated events, and ``simulated`` the number of these.
    """

    edges: Floats
    data: Integers | None
    stack: dict[str, Floats]
    variances: dict[str, Floats]
    simulated: dict[str, Integers]

    @property
    def total(self) -> Floats:
        """Expected events per bin, all processes together."""
        return sum(self.stack.values(), np.zeros(len(self.edges) - 1))

    @property
    def variance(self) -> Floats:
        """Variance of `total`."""
        return sum(self.variances.values(), np.zeros(len(self.edges) - 1))

    def by_process(self) -> dict[str, npt.NDArray[Any]]:
        """Return the expected events of each process, and the counts of the data, which come last."""
        return {**self.stack} if self.data is None else {**self.stack, "data": self.data}

    def combined(self) -> Spectrum:
        """Return the sum over the channels, every array (n,)."""
        return self._apply(lambda values: values.sum(axis=0))

    def bins_between(self, low: float | None = None, high: float | None = None) -> slice:
        """Return which bins lie between two edges; default: the ends of the axis.

        Raises
        ------
        OptionError
            If `low` or `high` is not a bin edge (gives the nearest one), or `low` is not below `high`.
        """
        found = []
        for name, limit in (
            ("low", self.edges[0] if low is None else low),
            ("high", self.edges[-1] if high is None else high),
        ):
            nearest = int(np.argmin(np.abs(self.edges - limit)))
            if abs(self.edges[nearest] - limit) > 1e-9:
                raise OptionError(
                    f"{name} = {limit:g} is not a bin edge", f"The nearest one is {self.edges[nearest]:g}."
                )
            found.append(nearest)
        if found[0] >= found[1]:
            raise OptionError(f"low = {low} is not below high = {high}", "Give the lower edge first.")
        return slice(*found)

    def between(self, low: float | None = None, high: float | None = None) -> Spectrum:
        """Return the bins between two edges only; OptionError as in `bins_between`."""
        bins = self.bins_between(low, high)
        inside = self._apply(lambda values: values[..., bins])
        return replace(inside, edges=self.edges[bins.start : bins.stop + 1])

    def yields(self, regions: Sequence[str]) -> dict[str, dict[str, Yield]]:
        """Return the sums over all bins of a spectrum by region, per process and region; the data come last."""
        counted: dict[str, tuple[npt.NDArray[Any], ...]] = {
            name: (counts, self.stack[name], self.variances[name]) for name, counts in self.simulated.items()
        }
        if self.data is not None:
            counted["data"] = (self.data, self.data, self.data)
        found = {}
        for process, arrays in counted.items():
            sums = (values.sum(axis=1).tolist() for values in arrays)
            found[process] = {
                region: Yield(events, float(mean), float(variance**0.5))
                for region, events, mean, variance in zip(regions, *sums, strict=True)
            }
        return found

    def of_region(self, index: int) -> Spectrum:
        """Return one channel or region, every array (n,)."""
        return self._apply(lambda values: values[index])

    def _apply(self, function: Callable[[npt.NDArray[Any]], npt.NDArray[Any]]) -> Spectrum:
        data = None if self.data is None else function(self.data)
        stack, variances, simulated = (
            {process: function(values) for process, values in arrays.items()}
            for arrays in (self.stack, self.variances, self.simulated)
        )
        return Spectrum(self.edges, data, stack, variances, simulated)


def normalise(
    edges: npt.ArrayLike,
    counted: Iterable[tuple[Dataset, npt.NDArray[Any], Floats, tuple[npt.NDArray[Any], npt.NDArray[Any]]]],
) -> Spectrum:
    """Add up the counts of some datasets, (n_regions, n), by process.

    Given are, for each dataset, its counts, the expected events for each unit of weight, (n_regions,), and the sums of
    weights and of their squares, which are the counts if there are no weights.
    """
    data: Integers | None = None
    stack: dict[str, Floats] = {}
    variances: dict[str, Floats] = {}
    simulated: dict[str, Integers] = {}
    for dataset, counts, weights, (sums, squares) in counted:
        if dataset.is_data:
            data = counts if data is None else data + counts
            continue
        expected, variance = (values * weights[:, np.newaxis] for values in (sums, squares))
        process, none = dataset.process, np.zeros_like(counts)
        stack[process] = stack.get(process, 0.0) + expected
        variances[process] = variances.get(process, 0.0) + variance * weights[:, np.newaxis]
        simulated[process] = simulated.get(process, none) + counts
    return Spectrum(np.asarray(edges, np.float64), data, stack, variances, simulated)


def stack_order(processes: Iterable[str]) -> list[str]:
    """Return processes from the bottom of a stack to its top: unknown ones first, by name, the Higgs boson last."""
    return sorted(processes, key=lambda name: (STACK_ORDER.index(name) if name in STACK_ORDER else -1, name))
