"""Which events of a chunk lie in certified lumi sections."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from higgsnb import datasets, events
from higgsnb.datasets import Segments

if TYPE_CHECKING:
    from higgsnb.datasets import Chunk

Integers = npt.NDArray[np.int64]


class Certified(NamedTuple):
    """Which of some events are certified, as indices (None: all); how many of all events of the chunk; the sections."""

    kept: Integers | None
    n_events: int
    segments: Segments | None


def certify(chunk: Chunk, entries: Integers, n_events: int) -> Certified:
    """Find which of the events at ``entries`` of a file are in certified lumi sections.

    Run and section of all ``n_events`` events of the chunk are read only if the campaign has lumi sections; else the
    sections are None.
    """
    if not chunk.sections and chunk.golden_json is None:
        return Certified(None, n_events, None)
    segments = Segments.of(*events.read_sections(chunk))
    certain = certain_segments(chunk, segments)
    if certain.all():
        return Certified(None, n_events, segments)
    kept = np.flatnonzero(certain[segments.at(entries - chunk.start)])
    return Certified(kept, int(segments.lengths[certain].sum()), segments)


def certain_segments(chunk: Chunk, segments: Segments) -> npt.NDArray[np.bool_]:
    """Return which segments are certified: all, if there is no golden JSON."""
    if chunk.golden_json is None:
        return np.ones(len(segments.keys), np.bool_)
    return datasets.kept_mask(chunk.golden_json, chunk.mask).holds(segments.keys)


def sections_of(chunk: Chunk) -> Integers | None:
    """Return the certified lumi sections of a chunk that `analyse` failed on: (n,) int64, packed, sorted and unique.

    Only two columns are read, which may be whole although others are damaged. None if they cannot be read, or if the
    campaign has no lumi sections.
    """
    if not chunk.sections:
        return None
    try:
        segments = Segments.of(*events.read_sections(chunk))
    except (OSError, ValueError):
        return None
    return np.unique(segments.keys[certain_segments(chunk, segments)])
