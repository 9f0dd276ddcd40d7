"""Tree-level amplitudes of H -> ZZ* -> 4l and q q -> 4l, drawn by accept-reject."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from higgsnb.datasets.constants import MASS_MUON, MASS_Z, WIDTH_Z

Array = NDArray[Any]
BLOCK = 1 << 14  # collisions simulated at a time: their arrays stay in the processor's cache
# Mass of the simulated Higgs boson in GeV; sin^2 of the weak mixing angle (effective, leptonic).
MASS_HIGGS = 125.0
SIN2_THETA_W = 0.2315
G_LEFT, G_RIGHT = -0.5 + SIN2_THETA_W, SIN2_THETA_W
SQRT_S = 8000.0


@dataclass(eq=False)
class Grid:
    """Accept-reject over a box of up to three variables, with a piecewise constant envelope, computed when needed.

    ``density`` is the unnormalised, non-negative density of arrays of coordinates, ``edges`` are the increasing cell
    edges of each coordinate. The envelope of a cell is 1.2 times the largest density at its corners and its centre; the
    rare higher value is clipped.
    """

    density: Callable[..., Array]
    edges: tuple[Array, ...]

    @functools.cached_property
    def envelope(self) -> tuple[Array, Array]:
        """The bound on the density in each cell, and the cumulative probability of the cells, flat."""
        edges = self.edges
        corners = self.density(*np.meshgrid(*edges, indexing="ij"))
        centres = self.density(*np.meshgrid(*((e[1:] + e[:-1]) / 2 for e in edges), indexing="ij"))
        for axis in range(len(edges)):
            low = np.take(corners, range(len(edges[axis]) - 1), axis=axis)
            corners = np.maximum(low, np.take(corners, range(1, len(edges[axis])), axis=axis))
        bound = 1.2 * np.maximum(corners, centres)
        volume = functools.reduce(np.multiply.outer, [np.diff(e) for e in edges])
        cumulative = np.cumsum((bound * volume).ravel())
        return bound, cumulative / cumulative[-1]

    def draw(self, rng: np.random.Generator, n: int) -> tuple[Array, ...]:
        """Return the accepted coordinates of ``n`` trials (fewer than ``n`` points)."""
        bound, cumulative = self.envelope
        flat = np.minimum(np.searchsorted(cumulative, rng.random(n), side="right"), cumulative.size - 1)
        point = []
        for cells, edges in zip(np.unravel_index(flat, bound.shape), self.edges, strict=True):
            point.append(edges[cells] + rng.random(n) * (edges[cells + 1] - edges[cells]))
        keep = rng.random(n) * bound.ravel()[flat] < self.density(*point)
        return tuple(x[keep] for x in point)


def collect(n: int, draw: Callable[[int], tuple[Array, ...]], guess: float = 0.3) -> tuple[Array, ...]:
    """Call ``draw(trials)``, which returns what it accepted, until the last axis has ``n``; cut to ``n``."""
    parts: list[tuple[Array, ...]] = []
    have = 0
    while have < n or not parts:
        trials = min(int((n - have) / guess * 1.05) + 64, 4 * BLOCK)
        parts.append(draw(trials))
        got = parts[-1][0].shape[-1]
        have += got
        guess = max(0.5 * guess, got / trials)
    return tuple(np.concatenate(columns, axis=-1)[..., :n] for columns in zip(*parts, strict=True))


def kaellen_root(a: Array, b: Array, c: Array) -> Array:
    """Square root of the Kaellen function of three squared masses; zero where the decay is closed."""
    lam = a * a + b * b + c * c - 2 * (a * b + b * c + a * c)
    return np.asarray(np.sqrt(np.maximum(lam, 0.0)))


_EQUAL = G_LEFT**4 + G_RIGHT**4  # couplings of (p1.p3)(p2.p4)
_CROSS = 2 * G_LEFT**2 * G_RIGHT**2  # couplings of (p1.p4)(p2.p3)


def higgs_amplitude(m1: Array, m2: Array, cos1: Array, cos2: Array, phi: Array) -> Array:
    """Squared amplitude of H -> Z(p1 p2) Z(p3 p4) without the propagators, arbitrary units.

    ``cos1`` and ``cos2`` are the lepton angles in the Z rest frames with respect to the flight of each Z,
    ``phi`` the angle between the decay planes; p1, p3 are leptons and p2, p4 antileptons, all massless.
    """
    h2, s1, s2 = MASS_HIGGS**2, m1 * m1, m2 * m2
    q = kaellen_root(np.asarray(h2), s1, s2) / (2 * MASS_HIGGS)
    e1, e2 = (h2 + s1 - s2) / (2 * MASS_HIGGS), (h2 + s2 - s1) / (2 * MASS_HIGGS)
    across = m1 * m2 * np.sqrt((1 - cos1**2) * (1 - cos2**2)) * np.cos(phi)
    even = e1 * e2 * (1 + cos1 * cos2) + q * q * (1 + cos1 * cos2)
    odd = q * (e1 * (cos1 + cos2) + e2 * (cos1 + cos2))
    even_m = e1 * e2 * (1 - cos1 * cos2) + q * q * (1 - cos1 * cos2)
    odd_1, odd_2 = q * (e2 * cos1 - e1 * cos2), q * (e1 * cos1 - e2 * cos2)
    p13, p24 = (even + odd - across) / 4, (even - odd - across) / 4
    p14, p23 = (even_m + odd_1 + odd_2 + across) / 4, (even_m - odd_1 - odd_2 + across) / 4
    return np.asarray(_EQUAL * p13 * p24 + _CROSS * p14 * p23)


def _amplitude_bound(m1: Array, m2: Array) -> Array:
    """Bound `higgs_amplitude` from above over the angles; reached at cos1 = cos2 = 0, cos(phi) = -1.

    Near threshold, where m1 m2 is large, it is a little higher than needed.
    """
    k = (MASS_HIGGS**2 - m1 * m1 - m2 * m2) / 2
    return np.asarray((_EQUAL * (k + m1 * m2) ** 2 + _CROSS * np.maximum(k - m1 * m2, m1 * m2) ** 2) / 16)


def mass_of(u: Array) -> Array:
    """Mass for the variable u in which the Breit-Wigner of the Z in the squared mass is flat."""
    return np.sqrt(np.maximum(MASS_Z**2 + MASS_Z * WIDTH_Z * np.tan(u), 0.0))


def flat_of(mass: Array) -> Array:
    """Inverse of `mass_of`."""
    return np.arctan((mass**2 - MASS_Z**2) / (MASS_Z * WIDTH_Z))


def _higgs_density(u1: Array, u2: Array) -> Array:
    m1, m2 = mass_of(u1), mass_of(u2)
    root = kaellen_root(np.asarray(MASS_HIGGS**2), m1 * m1, m2 * m2)
    return np.where((m1 + m2 < MASS_HIGGS) & (m1 >= m2), root * _amplitude_bound(m1, m2), 0.0)


_FIRST_MASS = np.concatenate([np.arange(1.0, 84.0, 2.0), np.arange(84.0, 98.0, 0.5), np.arange(98.0, 126.0, 1.0)])
_SECOND_MASS = np.linspace(2 * MASS_MUON, MASS_HIGGS / 2, 64)
_HIGGS = Grid(_higgs_density, (flat_of(_FIRST_MASS), flat_of(_SECOND_MASS)))


def higgs_decays(rng: np.random.Generator, n: int) -> tuple[Array, ...]:
    """Draw ``n`` decays: m1 >= m2 (GeV), cos1, cos2, phi, exactly as the squared amplitude has them."""

    def draw(trials: int) -> tuple[Array, ...]:
        u1, u2 = _HIGGS.draw(rng, trials)
        m1, m2 = mass_of(u1), mass_of(u2)
        cos1, cos2 = rng.uniform(-1, 1, (2, len(m1)))
        phi = rng.uniform(0, 2 * np.pi, len(m1))
        keep = rng.random(len(m1)) * _amplitude_bound(m1, m2) < higgs_amplitude(m1, m2, cos1, cos2, phi)
        return m1[keep], m2[keep], cos1[keep], cos2[keep], phi[keep]

    return collect(n, draw, 0.3)


def _luminosity(mass: Array) -> Array:
    """Parton luminosity dL/ds of quarks at 8 TeV: a power that lets Drell-Yan fall as it does above the Z."""
    return np.asarray(mass**-3.2 * (1 - np.minimum(mass / SQRT_S, 1.0)) ** 8)


def _spectral(mass: Array) -> Array:
    """Weight per GeV of a lepton pair of this mass from Z or gamma* on a quark line (incoherent sum).

    Z: s Gamma(ll) / (pi M |D|^2); gamma*: 0.7 alpha / (3 pi s) with alpha = 1/128, 0.7 about the mean ratio
    of the squared photon and Z couplings to u and d quarks.
    """
    s = mass * mass
    z = s * 0.0840 / (np.pi * MASS_Z) / ((s - MASS_Z**2) ** 2 + (MASS_Z * WIDTH_Z) ** 2)
    return 2 * mass * (z + 0.7 / (128.0 * 3 * np.pi * s))


def _bosons(total: Array, s_line: Array, s1: Array, s2: Array) -> tuple[Array, Array]:
    """Return beta and an upper bound of t u F for a fermion line and vector bosons, squared masses.

    F = t/u + u/t + 2 s (s1 + s2)/(t u) - s1 s2 (1/t^2 + 1/u^2) with t, u = total/2 (1 -+ beta cos) is what
    the tree diagrams give for two vector bosons of squared masses s1, s2 on a massless line, summed over
    their decays. It holds for q q -> V V and, crossed, for V -> l l V.
    """
    beta = np.minimum(kaellen_root(s_line, s1, s2) / np.maximum(total, 1.0), 1 - 1e-12)
    return beta, total**2 * (1 + beta**2) / 2 + 2 * s_line * (s1 + s2) - 2 * s1 * s2


def _emission_cosine(
    rng: np.random.Generator, total: Array, s_line: Array, s1: Array, s2: Array
) -> tuple[Array, NDArray[np.bool_]]:
    """Angle drawn from 1/(1 - beta^2 cos^2), and which trials the numerator of F keeps."""
    beta, bound = _bosons(total, s_line, s1, s2)
    cos = np.tanh(rng.uniform(-1, 1, len(total)) * np.arctanh(beta)) / np.maximum(beta, 1e-9)
    t, u = total / 2 * (1 - beta * cos), total / 2 * (1 + beta * cos)
    squares = t * t + u * u
    value = squares + 2 * s_line * (s1 + s2) - s1 * s2 * squares / (t * u)
    return cos, rng.random(len(total)) * bound < value


def _double_density(m4l: Array, m1: Array, m2: Array) -> Array:
    s, s1, s2 = m4l * m4l, m1 * m1, m2 * m2
    total = s - s1 - s2
    beta, bound = _bosons(total, s, s1, s2)
    value = _luminosity(m4l) * m4l * _spectral(m1) * _spectral(m2) * np.arctanh(beta) * bound
    return np.where((m1 + m2 < m4l) & (m1 >= m2), value / (s * s * np.maximum(total, 1.0)), 0.0)


def _single_density(u: Array, m1: Array, log_m2: Array) -> Array:
    m, m2 = mass_of(u), np.exp(log_m2)
    total = m * m + m2 * m2 - m1 * m1
    beta, bound = _bosons(total, m1 * m1, m * m, m2 * m2)
    value = _luminosity(m) * m * m1 * np.arctanh(beta) * bound / (m * m * np.maximum(total, 1.0))
    return np.where(m1 + m2 < m, value, 0.0)


_PAIR_MASS = np.concatenate([
    np.geomspace(4.0, 80.0, 18), np.arange(84.0, 88.0, 1.0), np.arange(88.0, 94.6, 0.4),
    np.arange(95.0, 100.0, 1.0), np.geomspace(100.0, 400.0, 8),
])  # fmt: skip
_MASS_4L = np.concatenate([np.arange(65.0, 220.0, 3.0), np.geomspace(220.0, 1200.0, 24)])
_DOUBLE = Grid(_double_density, (_MASS_4L, _PAIR_MASS, _PAIR_MASS[_PAIR_MASS < 200.0]))
_PEAK = np.concatenate([np.arange(65.0, 85.0, 2.0), np.arange(85.0, 98.0, 0.5), np.arange(98.0, 121.0, 3.0)])
_SOFTER = np.log(np.geomspace(4.0, 100.0, 33))
_SINGLE = Grid(_single_density, (flat_of(_PEAK), np.linspace(4.0, 112.0, 55), _SOFTER))


def double_resonant(rng: np.random.Generator, n: int) -> tuple[Array, ...]:
    """Trials of q q -> V V: m4l, m1, m2, cos1, cos2, phi and the cosine of the production angle."""
    m4l, m1, m2 = _DOUBLE.draw(rng, n)
    s, s1, s2 = m4l**2, m1**2, m2**2
    star, keep = _emission_cosine(rng, s - s1 - s2, s, s1, s2)
    cos1, cos2 = vector_cosine(rng, len(m1)), vector_cosine(rng, len(m1))
    phi = rng.uniform(0, 2 * np.pi, len(m1))
    return tuple(x[keep] for x in (m4l, m1, m2, cos1, cos2, phi, star))


def single_resonant(rng: np.random.Generator, n: int) -> tuple[Array, ...]:
    """Trials of q q -> Z -> l l gamma*: the same columns; m1 is the radiating pair, heavier or not."""
    u, m1, log_m2 = _SINGLE.draw(rng, n)
    m, m2 = mass_of(u), np.exp(log_m2)
    cos1, keep = _emission_cosine(rng, m**2 + m2**2 - m1**2, m1**2, m**2, m2**2)
    phi, star = rng.uniform(0, 2 * np.pi, len(m)), rng.uniform(-1, 1, len(m))
    return tuple(x[keep] for x in (m, m1, m2, cos1, vector_cosine(rng, len(m)), phi, star))


def vector_cosine(rng: np.random.Generator, n: int) -> Array:
    """Draw cos(theta) from 3/8 (1 + cos^2): the root of c^3 + 3c = 8u - 4, in closed form."""
    x = 4 * rng.random(n) - 2
    root = np.cbrt(x + np.sqrt(x * x + 1))
    return root - 1 / root
