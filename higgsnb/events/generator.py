"""The weights of simulated events, and the sum of weights that a whole file stands for."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from higgsnb.errors import SchemaError
from higgsnb.events.read import opened, read_flat
from higgsnb.events.root import KeptFiles, kept_files, open_file
from higgsnb.events.schema import GENERATOR_WEIGHT, Generator, trees_of
from higgsnb.selection import parse

if TYPE_CHECKING:
    from collections.abc import Sequence

    from higgsnb import datasets
    from higgsnb.datasets import Chunk

MOST_EXPONENT = 160
"""Largest exponent to the base 2 of a typical weight: sums of squares of files of both ends fit into a float64."""
SAME_WEIGHTS = 1e-6
"""Relative difference of two weights, or of (Σw)² and N Σw², up to which all weights are the same."""
_LOOKED_AT = 1000
"""So many weights at the beginning of a file, not counting zeros, show how large a weight is."""
_STEP = 50_000
"""Entries read at a time while looking for them."""
_HINT = "Leave this dataset out, or make the skim again with genWeight in Events and all of genEvent… in Runs."


def read_generator(chunk: Chunk) -> Generator:
    """Read the weights of a chunk of simulation, and the ``Runs`` tree of its file, as NanoAOD has them.

    A weight is ``chunk.weight``, if that is given, or else ``genWeight``. ``chunk.sum_of_weights`` comes before
    ``Runs``: it is that of the whole dataset, a number or the column that holds it.

    Raises
    ------
    SchemaError
        If a weight is not a finite number; names file and entry. If weights are of a size whose squares are no numbers.
        If it cannot be told what was generated: the file holds more than its ``Runs`` tree says, has only the number of
        generated events though weights differ, or the sum of weights is zero or not the same in all events.
    """
    with opened(chunk) as sources:
        kept = kept_files(sources, trees_of(chunk.schema, chunk.tree))
        has_weights = chunk.weight is not None or GENERATOR_WEIGHT in kept.known.names
        weights = _weights(chunk, sources, chunk.start, chunk.stop) if has_weights else None
        if weights is not None and not np.isfinite(weights).all():
            entry = int(np.flatnonzero(~np.isfinite(weights))[0])
            name = GENERATOR_WEIGHT if chunk.weight is None else f"the weight {chunk.weight}"
            what = f"{chunk.file.url}: {name} of entry {chunk.start + entry} is {weights[entry]}"
            raise SchemaError(what, "Leave this dataset out, or fetch the file again.")
        first = _first_weights(_Key(chunk, tuple(sources), kept)) if has_weights else np.zeros(0)
        sums = _sums(kept)
        if chunk.sum_of_weights is not None:
            generated = _stated(chunk, sources)
        else:
            generated = _generated(chunk.file.url, sums, kept.known.n_entries, first, has_weights=has_weights)
    typical = float(np.median(np.abs(first))) if len(first) else 1.0
    exponent = math.frexp(typical)[1] - 1
    if abs(exponent) > MOST_EXPONENT:
        hint = "Give the weights in another unit: only their ratios to the sum of weights matter."
        raise SchemaError(f"{chunk.file.url}: its generator weights are about {typical:g}", hint)
    return Generator(weights, exponent, generated, sums.get("genEventCount", math.nan))


class _Key:
    """What decides which weights a file has; the chunk is any of the file."""

    def __init__(self, chunk: Chunk, sources: tuple[datasets.Source, ...], kept: KeptFiles) -> None:
        self.chunk, self.sources, self.kept = chunk, sources, kept
        self._identity = kept.places, kept.trees, chunk.weight, chunk.schema

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Key) and self._identity == other._identity

    def __hash__(self) -> int:
        return hash(self._identity)


@lru_cache(maxsize=64)
def _first_weights(key: _Key) -> npt.NDArray[np.float64]:
    """Return the first weights of a file that are not zero, at most 1000."""
    parts: list[npt.NDArray[np.float64]] = []
    for start in range(0, key.kept.known.n_entries, _STEP):
        weights = _weights(key.chunk, key.sources, start, min(start + _STEP, key.kept.known.n_entries))
        parts.append(weights[(weights != 0) & np.isfinite(weights)])
        if sum(map(len, parts)) >= _LOOKED_AT:
            break
    return np.concatenate(parts or [np.zeros(0)])[:_LOOKED_AT]


def _weights(chunk: Chunk, sources: Sequence[datasets.Source], start: int, stop: int) -> npt.NDArray[np.float64]:
    """Return the weights of some entries of the file of a chunk."""
    if chunk.weight is None:
        return read_flat(chunk, sources, (GENERATOR_WEIGHT,), start, stop)[GENERATOR_WEIGHT].astype(np.float64)
    weight = parse(chunk.weight, kind="number")
    columns = read_flat(chunk, sources, weight.names, start, stop)
    return np.broadcast_to(weight(columns), (stop - start,)).astype(np.float64)


def _stated(chunk: Chunk, sources: Sequence[datasets.Source]) -> float | None:
    """Return the sum of weights that the campaign states; None if it is a column and the file has no event."""
    stated = chunk.sum_of_weights
    if not isinstance(stated, str):
        return stated
    first = read_flat(chunk, sources, (stated,), 0, 1)[stated]
    values = read_flat(chunk, sources, (stated,), chunk.start, chunk.stop)[stated]
    if not len(first):
        return None
    wrong = np.flatnonzero(values != first[0])
    if len(wrong) or not math.isfinite(first[0]) or not first[0]:
        entry, value = (chunk.start + int(wrong[0]), values[wrong[0]]) if len(wrong) else (0, first[0])
        what = f"{chunk.file.url}: {stated} of entry {entry} is {value}"
        raise SchemaError(what, f"In all events of a file it is the same number, in the first {first[0]}.")
    return float(first[0])


def _generated(
    url: str, sums: dict[str, float], n_events: int, first: npt.NDArray[np.float64], *, has_weights: bool
) -> float | None:
    """Return the sum of weights of the events that were generated for a file, by its ``Runs`` tree; None without one.

    ``first`` are its first weights that are not zero.
    """
    count, sumw, sumw2 = (sums.get(f"genEvent{name}") for name in ("Count", "Sumw", "Sumw2"))
    if not has_weights and sumw is not None:
        if count is None:
            raise SchemaError(f"{url}: its Runs tree has a sum of weights, but no event shows a weight", _HINT)
        if sumw2 is not None and not math.isclose(sumw**2, sumw2 * count, rel_tol=SAME_WEIGHTS):
            what = "its Runs tree says that weights differ, but no event shows its own"
            raise SchemaError(f"{url}: {what}", _HINT)
        sumw = None  # each event counts 1
    same = len(first) > 0 and math.isclose(first.min(), first.max(), rel_tol=SAME_WEIGHTS)
    if sumw == 0 or (sumw is not None and same and sumw / first[0] < 0):
        raise SchemaError(f"{url}: the sum of its generator weights is {sumw:g}", _HINT)
    n_generated = sumw / first[0] if count is None and sumw is not None and same else count
    if n_generated is not None and n_generated * (1 + SAME_WEIGHTS) < n_events:
        what = f"holds {n_events:,} events, but its Runs tree says that {n_generated:,.0f} were generated"
        raise SchemaError(f"{url}: {what}", "The file was merged without its Runs tree: fetch it again.")
    if sumw is not None or count is None:
        return sumw
    if len(first) and not same:
        what = f"its Runs tree has no sum of weights, and they differ ({first.min():g} to {first.max():g})"
        raise SchemaError(f"{url}: {what}", _HINT)
    return count * float(first[0]) if len(first) else count


@lru_cache(maxsize=64)
def _sums(kept: KeptFiles) -> dict[str, float]:
    """Return the sums over the ``Runs`` tree of a file, by name; the file is opened once for all of its chunks."""
    sums: dict[str, float] = {}
    with open_file(kept.places[0], kept.trees) as (directory, _):
        if "Runs" in directory.keys(cycle=False):
            runs = directory["Runs"]
            for name in getattr(runs, "keys", list)():
                if name.rstrip("_") in ("genEventCount", "genEventSumw", "genEventSumw2"):
                    sums[name.rstrip("_")] = _sum(kept.location, name, runs[name].array())
    return sums


def _sum(location: str, name: str, column: Any) -> float:
    """Return the sum of a branch of the tree ``Runs``; SchemaError if that is not a number."""
    try:
        total = float(np.sum(np.asarray(column, np.float64)))
    except (TypeError, ValueError):
        total = math.nan
    if not math.isfinite(total):
        what = f"{location}: {name} of its Runs tree is not one number per row"
        raise SchemaError(what, "Leave this dataset out, or make the skim again.")
    return total
