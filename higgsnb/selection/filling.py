"""Compiled filling of histograms: places of values, counts, and exact sums of weights and of their squares."""

from __future__ import annotations

import math

import numpy as np

from higgsnb.selection.compiled import rule

DIGIT = 20
"""Bits of a digit of a sum of squares."""
NOWHERE = -1
"""The place of a value that is in no bin, as it is not finite."""


@rule
def find_bin(value, edges, first, last, equal):
    """Return the bin of a value between the edges [first, last]: 0 is below them, and what is not a number.

    Bins are [low, high); the one after the last is from the last edge on. With ``equal`` bins the edges are equally
    spaced up to rounding: the bin is computed, and corrected where rounding matters.
    """
    n = last - first
    if not value >= edges[first]:
        return 0
    if value >= edges[last]:
        return n + 1
    low, high = first, last
    if equal:
        low += min(int((value - edges[first]) * (n / (edges[last] - edges[first]))), n - 1)
        while value < edges[low]:
            low -= 1
        while value >= edges[low + 1]:
            low += 1
        return low - first + 1
    while high - low > 1:
        middle = (low + high) // 2
        if value < edges[middle]:
            high = middle
        else:
            low = middle
    return low - first + 1


@rule
def find_places(values, edges, equal, start, column, places):
    """Write the places of ``values`` (n, k) on one axis into ``places`` (n, n_fills) from ``column`` on.

    The underflow of the axis has the place ``start``; what is not finite is `NOWHERE`.
    """
    last = len(edges) - 1
    for i in range(values.shape[0]):
        for k in range(values.shape[1]):
            value = values[i, k]
            place = start + find_bin(value, edges, 0, last, equal)
            places[i, column + k] = place if math.isfinite(value) else NOWHERE


@rule
def count_places(region, rows, places, derived, counts):
    """Add 1 to ``counts`` (n_regions, size) at the places (n, n_fills) of the events ``rows``, each in a region.

    The place in column ``derived`` (−1: none) is left out where the first column has one, see `add_weights`.
    """
    for j in range(len(rows)):
        r, i = region[j], np.uint64(rows[j])
        is_in_first = places[i, 0] >= 0
        for k in range(places.shape[1]):
            place = places[i, k]
            if place >= 0 and not (k == derived and is_in_first):
                counts[r, place] += 1


@rule
def add_weights(region, rows, places, weights, derived, sums):
    """Add the weights (n, n_copies) int64, below 2⁴⁰, of the events ``rows``, each in a region, at their places.

    With w = 2²⁰ a + b, ``sums`` (n_regions, size, 4, n_copies) int64 gets w, b², ab and a²: exact for 2²¹ fills. The
    place in column ``derived`` (−1: none) is left out where the first column has one: it is the sum of all of those.
    """
    mask = (1 << DIGIT) - 1
    for j in range(len(rows)):
        r, i = region[j], rows[j]
        for k in range(places.shape[1]):
            place = places[i, k]
            if place < 0 or (k == derived and places[i, 0] >= 0):
                continue
            here = sums[r, place]
            for copy in range(weights.shape[1]):
                weight = weights[i, copy]
                a, b = weight >> DIGIT, weight & mask
                here[0, copy] += weight
                here[1, copy] += b * b
                here[2, copy] += a * b
                here[3, copy] += a * a


@rule
def combine_weights(base, sources, columns, scale, fixed):
    """Write the weights of each event in units, rounded to the nearest: ``fixed`` (n, n_copies) int64.

    The nominal one is ``base`` (n,) times the nominal factors of all ``sources`` (n_sources, 3, n): nominal, up, down.
    In the copies ``columns`` (n_sources, 2) the factor of one source is that up or down instead. Returned is the first
    event with a weight of 2⁴⁰ units or more, or one that is not finite; −1 if there is none.
    """
    limit = float(1 << 2 * DIGIT)
    for i in range(len(base)):
        nominal = base[i] * scale
        for source in range(len(sources)):
            nominal *= sources[source, 0, i]
        if not abs(nominal) < limit:
            return i
        fixed[i, 0] = np.int64(np.rint(nominal))
        for source in range(len(sources)):
            rest = base[i] * scale
            for other in range(len(sources)):
                if other != source:
                    rest *= sources[other, 0, i]
            for way in range(2):
                varied = rest * sources[source, 1 + way, i]
                if not abs(varied) < limit:
                    return i
                fixed[i, columns[source, way]] = np.int64(np.rint(varied))
    return -1
