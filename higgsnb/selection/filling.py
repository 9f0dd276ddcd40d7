"""Compiled filling of histograms: places of values, counts, and exact sums of weights and of their squares."""

from __future__ import annotations

import math

import numpy as np

from higgsnb.selection.compiled import rule

DIGIT = 20
"""Bits of a digit of a sum of squares."""
TOGETHER = 1024
"""Events whose weights are computed together: one source after the other, with what is computed so far in the cache."""
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
    rest, ones = np.empty(TOGETHER), np.ones(TOGETHER)
    for start in range(0, len(base), TOGETHER):
        n = min(TOGETHER, len(base) - start)
        bad = n
        for source in range(-1, len(sources)):
            multiply(base, sources, source, scale, start, rest[:n])
            if source < 0:
                bad = min(bad, round_weights(rest, ones[:n], fixed[start : start + n, 0]))
                continue
            for way in range(2):
                factors = sources[source, 1 + way][start : start + n]
                bad = min(bad, round_weights(rest, factors, fixed[start : start + n, columns[source, way]]))
        if bad < n:
            return start + bad
    return -1


@rule
def multiply(base, sources, left_out, scale, start, product):
    """Write ``base`` times ``scale`` and the nominal factors of all sources but one, of some events from ``start`` on.

    Slices are taken in steps that leave them contiguous, as numba knows them: loops over others are not vectorised.
    """
    stop = start + len(product)
    first = base[start:stop]
    for i in range(len(product)):
        product[i] = first[i] * scale
    for source in range(len(sources)):
        if source != left_out:
            factors = sources[source, 0][start:stop]
            for i in range(len(product)):
                product[i] *= factors[i]


@rule
def round_weights(values, factors, rounded):
    """Write the products of ``values`` and ``factors`` (n,), and return which is the first that is too large, or n."""
    limit, right = float(1 << 2 * DIGIT), True
    for i in range(len(factors)):
        value = values[i] * factors[i]
        right &= abs(value) < limit
        rounded[i] = np.int64(np.rint(value))
    if not right:
        for i in range(len(factors)):
            if not abs(values[i] * factors[i]) < limit:
                return i
    return len(factors)
