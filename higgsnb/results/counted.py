"""What was counted in one chunk, and the weights of its events."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from higgsnb.results.tally import Weighing
from higgsnb.results.weights import BITS, add_up, to_fixed
from higgsnb.selection import DIGIT

if TYPE_CHECKING:
    from higgsnb.datasets import Chunk
    from higgsnb.events import Generator
    from higgsnb.results.certified import Certified
    from higgsnb.results.layout import Layout

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


class Counted(NamedTuple):
    """What was counted in a chunk, for its `Tally`.

    ``n_read`` events were read; ``how`` is (reader, integrity); ``weighted``, of weighted simulation, are what its
    events weigh and the sums of `Layout.weighted`; ``output`` is that of a processor of coffea; ``overlaps`` as in
    `Layout.shapes`.
    """

    n_read: int
    certified: Certified
    counts: Integers
    cutflow: Integers
    invalid_values: Integers
    plausibility: Integers
    not_applied: frozenset[str]
    how: tuple[str, str]
    blocks: tuple[Any, ...]
    weighted: tuple[Weighing, Integers] | None
    output: bytes = b""
    overlaps: Integers = np.zeros(0, np.int64)


class Weights(NamedTuple):
    """The weights of n selected events in units of 2 ** (``exponent`` − 24): ``fixed`` (n, n_copies) int64.

    ``total`` is the sum of the generator's weights of all events of the chunk, ``generated`` (n_events,) are these
    weights, in the same units; None if each is 1.
    """

    exponent: int
    fixed: Integers
    total: int
    generated: Integers | None

    @property
    def nominal(self) -> Floats:
        """The nominal weights, (n,) float64."""
        return np.asarray(np.ldexp(self.fixed[:, 0].astype(np.float64), self.exponent - BITS), np.float64)

    def of(self, index: Integers) -> Integers:
        """Return the weights of the generator of some events of the chunk, selected or not, (n,) int64."""
        return np.full(len(index), 1 << BITS) if self.generated is None else self.generated[index]

    def filled(
        self,
        layout: Layout,
        region: npt.NDArray[np.int8],
        places: npt.NDArray[np.int32],
        rows: Integers,
        cutflow: Integers | None = None,
    ) -> tuple[Weighing, Integers]:
        """Return the weighted sums of the events ``rows``, each in a region; see `Binning.fill`.

        ``cutflow`` (n_regions, n_cuts) int64 are those of the events that pass each cut, and goes along with them.
        """
        sums = add_up(region, rows, places, self.fixed, layout.binning)
        most = max(axis.per_event for axis in layout.binning.axes)
        digits = layout.binning.total(sums)[:, 1:].sum(axis=-1).astype(np.float64)  # (n_copies, 4), all regions
        squares = np.ldexp(digits, DIGIT * np.arange(digits.shape[1])).sum(axis=1)
        magnitude = math.sqrt(len(rows) * squares.max(initial=0.0))  # no less than Σ|w|
        found = np.zeros(layout.weighted, np.int64)
        found[..., : layout.binning.size] = sums
        bound = 1 + abs(self.total) + int(1.001 * most * magnitude)
        if cutflow is not None:
            found[0, 0, :, layout.binning.size :] = cutflow
            bound += int(np.abs(cutflow).max(initial=0))
        return Weighing(self.exponent, self.total, bound, self.generated is not None), found


def weigh(
    chunk: Chunk, generator: Generator | None, entries: Integers, factor: Floats | None = None, **varied: Any
) -> Weights:
    """Return the weights of the events at ``entries``: those of the generator, if any, times ``factor`` (n,).

    ``varied`` are sources of uncertainty, see `weights.to_fixed`. The total counts every event of the chunk, selected
    or not.
    """
    n_events, where = chunk.stop - chunk.start, chunk.file.url
    if generator is None or generator.weights is None:
        exponent, total, mine, generated = 0, n_events << BITS, np.ones(len(entries)), None
    else:
        exponent, everything = generator.exponent, np.arange(chunk.start, chunk.stop)
        generated = to_fixed(generator.weights, exponent, where=where, entries=everything)[:, 0]
        total = sum(part.sum().item() for part in np.array_split(generated, 1 + n_events // 2**20))
        mine = generator.weights[entries - chunk.start]
    mine = mine if factor is None else mine * factor
    return Weights(exponent, to_fixed(mine, exponent, where=where, entries=entries, **varied), total, generated)
