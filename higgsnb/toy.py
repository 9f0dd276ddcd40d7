"""The embedded campaign ``toy``: simulated proton collisions at 8 TeV, written in the outreach schema.

Everything here is *simulated*; no collision was recorded. The campaign lets every notebook and command work
without a network, with files that look to the reader like the public ones of 2012: TTree ``Events``, 32
branches, sentinels where a quantity does not exist, and two data streams that overlap.

What is exact and what is not
-----------------------------
* **H(125) -> ZZ* -> 4l**: masses and angles follow the tree-level squared amplitude with V-A couplings, by
  accept-reject. Interference of identical flavours enters as a factor on their rate only. Neglected: photon
  exchange, the width of 4 MeV, spin correlations of tau pairs (taus decay collinearly to e, mu or hadrons).
* **q q -> 4l**: two incoherent parts. *Double-resonant*, q q -> (Z/gamma*)(Z/gamma*): the tree-level
  dsigma/dt for two off-shell vector bosons, with Z and photon spectral functions added incoherently.
  *Single-resonant*, Z -> l l gamma* (the Z -> 4l peak): the same amplitude crossed. Approximations: boson
  decays follow 1 + cos^2(theta) without correlation, no interference of identical leptons, parton
  luminosity M^-3.2; the relative size of the two parts is tuned, not computed. Weights above 1.2 times the
  largest at the corners and the centre of a cell of the sampling grid are clipped.
* **Z + X**: a Z boson and two non-prompt leptons; spectra and rates are plausible, not derived.
* **Detector**: acceptance, efficiency, resolution, isolation, impact parameters are parametrised per
  lepton. Some columns carry 11 or 12 bits of mantissa, as in NanoAOD.

The ZZ samples have a generator filter: four leptons with pT > 3 GeV and abs(eta) < 2.7, every opposite-sign
same-flavour pair above 4 GeV, m4l > 65 GeV. The cross sections in `DATASETS` are those after the filter and
*before* the factor ``scale`` (1.386 for ZZ as in the public examples): expected events = luminosity x cross
section x scale. They are tuned so that the selection ``aod2012`` expects, in 70 < m4l < 181 GeV at 11.58
/fb, H 8.0, ZZ 66, Z + X 9. No trigger is applied to the simulation, as in the public files.

Pseudo-data are drawn from the same processes with Poisson counts at 11.58 /fb, among two- and three-lepton
collisions (Z, tt-like, Z + fake, QCD-like) that no selection of four isolated leptons keeps. Emulated
dilepton triggers split them in two streams; a collision that fires both is in both files, identical in
every branch. The triggers keep 97 % or more of the selected four-lepton collisions, but DoubleMu alone only
two thirds of 2e2mu.

`DEFAULT_SEED`, 125, was the first one tried. It was kept because it is typical: over 3 channels x 6 ranges
of mass the selected pseudo-data agree with the expectation with -2 ln L ratio = 7.0 for 18 numbers, and 17
events lie in 118-130 GeV where 16.3 are expected.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
import shutil
import struct
import tempfile
import uuid
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from higgsnb.constants import MASS_ELECTRON, MASS_MUON, MASS_TAU, MASS_Z, WIDTH_Z

Array = NDArray[Any]
Block = dict[str, Array]

DEFAULT_SEED = 125
LUMINOSITY_FB = 11.58
VERSION = 1  # raise whenever the bytes change for the same seed: `ensure` then makes the files anew
TREE_TITLE = "simulated events of the higgsnb toy campaign (not collision data)"
SENTINEL = np.float32(-999.0)
BLOCK = 1 << 14  # collisions simulated at a time: their arrays stay in the processor's cache
BASKET = 1 << 16  # events a basket, at least, unless the file ends

# Mass of the simulated Higgs boson in GeV; sin^2 of the weak mixing angle (effective, leptonic).
MASS_HIGGS = 125.0
SIN2_THETA_W = 0.2315
G_LEFT, G_RIGHT = -0.5 + SIN2_THETA_W, SIN2_THETA_W
SQRT_S = 8000.0
TAU_TO_ELECTRON, TAU_TO_MUON = 0.1782, 0.1739
IDENTICAL_BOOST = 1.108  # 2 BR(H -> 4e) / BR(H -> 2e2mu) at 125 GeV (LHC Higgs WG): interference

ELECTRON, MUON, TAU = 11, 13, 15
PROMPT, HEAVY, LIGHT = 0, 1, 2  # where a lepton comes from: W/Z/tau, a b or c hadron, a jet or conversion


@dataclass(frozen=True)
class ToyDataset:
    """One file of the campaign.

    ``cross_section_pb`` is after the generator filter and before ``scale``; ``events`` is the number
    simulated in the default campaign (data: None, because the trigger decides; the manifest has the number
    kept).
    """

    name: str
    process: str
    stream: str | None
    cross_section_pb: float | None
    scale: float
    events: int | None

    @property
    def expected(self) -> float:
        """Expected number of generated events at the campaign's luminosity."""
        return 1000.0 * LUMINOSITY_FB * self.scale * (self.cross_section_pb or 0.0)


DATASETS: tuple[ToyDataset, ...] = (
    ToyDataset("SMHiggsToZZTo4L", "higgs", None, 0.0065, 1.0, 30_000),
    ToyDataset("ZZTo4mu", "zz", None, 0.0152, 1.386, 12_000),
    ToyDataset("ZZTo4e", "zz", None, 0.0152, 1.386, 16_000),
    ToyDataset("ZZTo2e2mu", "zz", None, 0.0311, 1.386, 12_000),
    ToyDataset("ReducibleZX", "zx", None, 0.07, 1.0, 10_000),
    ToyDataset("Run2012_DoubleMu", "data", "DoubleMu", None, 1.0, None),
    ToyDataset("Run2012_DoubleElectron", "data", "DoubleElectron", None, 1.0, None),
)
REJECTED = 50_000  # two- and three-lepton collisions around the four-lepton pseudo-data
DEFAULT_EVENTS = REJECTED + sum(dataset.events or 0 for dataset in DATASETS)
SINGLE_RESONANT = {"ZZTo4mu": 0.5, "ZZTo4e": 0.5, "ZZTo2e2mu": 0.5}  # fraction before the filter; tuned

# (run, first, last): certified ranges of lumi sections of 2012B and C, from the public golden JSON of 2012.
RUNS: tuple[tuple[int, int, int], ...] = (
    (194050, 816, 1435), (194151, 240, 617), (194429, 413, 742), (194480, 959, 1402), (194533, 46, 379),
    (194704, 44, 545), (194711, 9, 619), (194712, 61, 418), (194912, 98, 444), (195378, 737, 1120),
    (195398, 1309, 1712), (195552, 1303, 1789), (195656, 1, 362), (195658, 40, 362), (195930, 179, 526),
    (195950, 833, 1587), (196438, 701, 1269), (196452, 114, 490), (196453, 147, 669), (198212, 1, 574),
    (198487, 997, 1434), (199021, 565, 1223), (199336, 234, 614), (199409, 604, 1014), (199435, 699, 1034),
    (199436, 257, 675), (199572, 1, 317), (199608, 464, 800), (199699, 412, 756), (199703, 97, 482),
    (199834, 505, 942), (199877, 175, 605), (200042, 112, 536), (200229, 293, 624), (200473, 740, 1324),
    (200991, 255, 632), (200992, 1, 405), (201173, 197, 586), (201202, 1, 437), (201278, 1306, 1793),
    (201613, 228, 646), (202016, 179, 743), (202045, 75, 528), (202178, 967, 1444), (202237, 540, 936),
    (202272, 937, 1295), (202504, 766, 1172), (202973, 853, 1408),
)  # fmt: skip
EVENTS_PER_SECTION = 2_000_000  # collisions numbered in one lumi section of 23 s: about 90 kHz

_ELECTRON_FIELDS = ("pt", "eta", "phi", "mass", "charge", "dxy", "dxyErr", "dz", "dzErr", "pfRelIso03_all")
_MUON_FIELDS = (*_ELECTRON_FIELDS, "pfRelIso04_all")
_SCALARS = {
    "run": "int32", "luminosityBlock": "uint32", "event": "uint64",
    "PV_npvs": "int32", "PV_x": "float32", "PV_y": "float32", "PV_z": "float32",
}  # fmt: skip
_MET = {"MET_pt": "float32", "MET_phi": "float32"}


def generator(seed: int, dataset: str, block: int, purpose: str) -> np.random.Generator:
    """Make counter-based random numbers for one purpose, whatever the order of calls or the thread."""
    key = (seed, zlib.crc32(dataset.encode()), block, zlib.crc32(purpose.encode()))
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))


# ------------------------------------------------------------------------------------------------------------
# Sampling


class Grid:
    """Accept-reject over a box of up to three variables, with a piecewise constant envelope.

    Parameters
    ----------
    density
        Unnormalised, non-negative density of the coordinates; must accept arrays.
    edges
        Increasing cell edges per coordinate. The envelope of a cell is 1.2 times the largest density at its
        corners and its centre; the rare higher value is clipped.
    """

    def __init__(self, density: Callable[..., Array], *edges: Array) -> None:
        self.density, self.edges = density, edges
        corners = density(*np.meshgrid(*edges, indexing="ij"))
        centres = density(*np.meshgrid(*((e[1:] + e[:-1]) / 2 for e in edges), indexing="ij"))
        for axis in range(len(edges)):
            low = np.take(corners, range(len(edges[axis]) - 1), axis=axis)
            corners = np.maximum(low, np.take(corners, range(1, len(edges[axis])), axis=axis))
        self.envelope = 1.2 * np.maximum(corners, centres)
        volume = functools.reduce(np.multiply.outer, [np.diff(e) for e in edges])
        cumulative = np.cumsum((self.envelope * volume).ravel())
        self.cumulative = cumulative / cumulative[-1]

    def draw(self, rng: np.random.Generator, n: int) -> tuple[Array, ...]:
        """Return the accepted coordinates of ``n`` trials (fewer than ``n`` points)."""
        flat = np.minimum(np.searchsorted(self.cumulative, rng.random(n), side="right"), self.cumulative.size - 1)
        point = []
        for cells, edges in zip(np.unravel_index(flat, self.envelope.shape), self.edges, strict=True):
            point.append(edges[cells] + rng.random(n) * (edges[cells + 1] - edges[cells]))
        keep = rng.random(n) * self.envelope.ravel()[flat] < self.density(*point)
        return tuple(x[keep] for x in point)


def _collect(n: int, draw: Callable[[int], tuple[Array, ...]], guess: float = 0.3) -> tuple[Array, ...]:
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


def _kaellen_root(a: Array, b: Array, c: Array) -> Array:
    """Square root of the Kaellen function of three squared masses; zero where the decay is closed."""
    lam = a * a + b * b + c * c - 2 * (a * b + b * c + a * c)
    return np.asarray(np.sqrt(np.maximum(lam, 0.0)))


# ------------------------------------------------------------------------------------------------------------
# H -> ZZ* -> 4l

_EQUAL = G_LEFT**4 + G_RIGHT**4  # couplings of (p1.p3)(p2.p4)
_CROSS = 2 * G_LEFT**2 * G_RIGHT**2  # couplings of (p1.p4)(p2.p3)


def higgs_amplitude(m1: Array, m2: Array, cos1: Array, cos2: Array, phi: Array) -> Array:
    """Squared amplitude of H -> Z(p1 p2) Z(p3 p4) without the propagators, arbitrary units.

    ``cos1`` and ``cos2`` are the lepton angles in the Z rest frames with respect to the flight of each Z,
    ``phi`` the angle between the decay planes; p1, p3 are leptons and p2, p4 antileptons, all massless.
    """
    p13, p24, p14, p23 = _lepton_products(m1, m2, cos1, cos2, phi)
    return _EQUAL * p13 * p24 + _CROSS * p14 * p23


def _lepton_products(m1: Array, m2: Array, cos1: Array, cos2: Array, phi: Array) -> tuple[Array, Array, Array, Array]:
    """Scalar products p1.p3, p2.p4, p1.p4, p2.p3 in GeV^2."""
    h2, s1, s2 = MASS_HIGGS**2, m1 * m1, m2 * m2
    q = _kaellen_root(np.asarray(h2), s1, s2) / (2 * MASS_HIGGS)
    e1, e2 = (h2 + s1 - s2) / (2 * MASS_HIGGS), (h2 + s2 - s1) / (2 * MASS_HIGGS)
    across = m1 * m2 * np.sqrt((1 - cos1**2) * (1 - cos2**2)) * np.cos(phi)
    even = e1 * e2 * (1 + cos1 * cos2) + q * q * (1 + cos1 * cos2)
    odd = q * (e1 * (cos1 + cos2) + e2 * (cos1 + cos2))
    even_m = e1 * e2 * (1 - cos1 * cos2) + q * q * (1 - cos1 * cos2)
    odd_1, odd_2 = q * (e2 * cos1 - e1 * cos2), q * (e1 * cos1 - e2 * cos2)
    p13, p24 = (even + odd - across) / 4, (even - odd - across) / 4
    return p13, p24, (even_m + odd_1 + odd_2 + across) / 4, (even_m - odd_1 - odd_2 + across) / 4


def _amplitude_bound(m1: Array, m2: Array) -> Array:
    """Bound `higgs_amplitude` from above over the angles; reached at cos1 = cos2 = 0, cos(phi) = -1.

    Near threshold, where m1 m2 is large, it is a little higher than needed.
    """
    k = (MASS_HIGGS**2 - m1 * m1 - m2 * m2) / 2
    return np.asarray((_EQUAL * (k + m1 * m2) ** 2 + _CROSS * np.maximum(k - m1 * m2, m1 * m2) ** 2) / 16)


def _mass_of(u: Array) -> Array:
    """Mass for the variable u in which the Breit-Wigner of the Z in the squared mass is flat."""
    return np.sqrt(np.maximum(MASS_Z**2 + MASS_Z * WIDTH_Z * np.tan(u), 0.0))


def _flat_of(mass: Array) -> Array:
    """Inverse of `_mass_of`."""
    return np.arctan((mass**2 - MASS_Z**2) / (MASS_Z * WIDTH_Z))


def _higgs_density(u1: Array, u2: Array) -> Array:
    m1, m2 = _mass_of(u1), _mass_of(u2)
    root = _kaellen_root(np.asarray(MASS_HIGGS**2), m1 * m1, m2 * m2)
    return np.where((m1 + m2 < MASS_HIGGS) & (m1 >= m2), root * _amplitude_bound(m1, m2), 0.0)


@functools.cache
def _higgs_grid() -> Grid:
    m1 = np.concatenate([np.arange(1.0, 84.0, 2.0), np.arange(84.0, 98.0, 0.5), np.arange(98.0, 126.0, 1.0)])
    return Grid(_higgs_density, _flat_of(m1), _flat_of(np.linspace(2 * MASS_MUON, MASS_HIGGS / 2, 64)))


def higgs_decays(rng: np.random.Generator, n: int) -> tuple[Array, ...]:
    """Draw ``n`` decays: m1 >= m2 (GeV), cos1, cos2, phi, exactly as the squared amplitude has them."""

    def draw(trials: int) -> tuple[Array, ...]:
        u1, u2 = _higgs_grid().draw(rng, trials)
        m1, m2 = _mass_of(u1), _mass_of(u2)
        cos1, cos2 = rng.uniform(-1, 1, (2, len(m1)))
        phi = rng.uniform(0, 2 * np.pi, len(m1))
        keep = rng.random(len(m1)) * _amplitude_bound(m1, m2) < higgs_amplitude(m1, m2, cos1, cos2, phi)
        return m1[keep], m2[keep], cos1[keep], cos2[keep], phi[keep]

    return _collect(n, draw, 0.3)


# ------------------------------------------------------------------------------------------------------------
# q q -> 4l


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
    beta = np.minimum(_kaellen_root(s_line, s1, s2) / np.maximum(total, 1.0), 1 - 1e-12)
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
    value = (
        _luminosity(m4l)
        * m4l
        * _spectral(m1)
        * _spectral(m2)
        * np.arctanh(beta)
        * bound
        / (s * s * np.maximum(total, 1.0))
    )
    return np.where((m1 + m2 < m4l) & (m1 >= m2), value, 0.0)


def _single_density(u: Array, m1: Array, log_m2: Array) -> Array:
    m, m2 = _mass_of(u), np.exp(log_m2)
    total = m * m + m2 * m2 - m1 * m1
    beta, bound = _bosons(total, m1 * m1, m * m, m2 * m2)
    value = _luminosity(m) * m * m1 * np.arctanh(beta) * bound / (m * m * np.maximum(total, 1.0))
    return np.where(m1 + m2 < m, value, 0.0)


@functools.cache
def _double_grid() -> Grid:
    m4l = np.concatenate([np.arange(65.0, 220.0, 3.0), np.geomspace(220.0, 1200.0, 24)])
    pair = [np.geomspace(4.0, 80.0, 18), np.arange(84.0, 88.0, 1.0), np.arange(88.0, 94.6, 0.4)]
    high = np.concatenate([*pair, np.arange(95.0, 100.0, 1.0), np.geomspace(100.0, 400.0, 8)])
    return Grid(_double_density, m4l, high, high[high < 200.0])


@functools.cache
def _single_grid() -> Grid:
    mass = np.concatenate([np.arange(65.0, 85.0, 2.0), np.arange(85.0, 98.0, 0.5), np.arange(98.0, 121.0, 3.0)])
    return Grid(_single_density, _flat_of(mass), np.linspace(4.0, 112.0, 55), np.log(np.geomspace(4.0, 100.0, 33)))


def _double_resonant(rng: np.random.Generator, n: int) -> tuple[Array, ...]:
    """Trials of q q -> V V: m4l, m1, m2, cos1, cos2, phi and the cosine of the production angle."""
    m4l, m1, m2 = _double_grid().draw(rng, n)
    s, s1, s2 = m4l**2, m1**2, m2**2
    star, keep = _emission_cosine(rng, s - s1 - s2, s, s1, s2)
    cos1, cos2 = _vector_cosine(rng, len(m1)), _vector_cosine(rng, len(m1))
    phi = rng.uniform(0, 2 * np.pi, len(m1))
    return tuple(x[keep] for x in (m4l, m1, m2, cos1, cos2, phi, star))


def _single_resonant(rng: np.random.Generator, n: int) -> tuple[Array, ...]:
    """Trials of q q -> Z -> l l gamma*: the same columns; m1 is the radiating pair, heavier or not."""
    u, m1, log_m2 = _single_grid().draw(rng, n)
    m, m2 = _mass_of(u), np.exp(log_m2)
    cos1, keep = _emission_cosine(rng, m**2 + m2**2 - m1**2, m1**2, m**2, m2**2)
    phi, star = rng.uniform(0, 2 * np.pi, len(m)), rng.uniform(-1, 1, len(m))
    return tuple(x[keep] for x in (m, m1, m2, cos1, _vector_cosine(rng, len(m)), phi, star))


def _vector_cosine(rng: np.random.Generator, n: int) -> Array:
    """Draw cos(theta) from 3/8 (1 + cos^2): the root of c^3 + 3c = 8u - 4, in closed form."""
    x = 4 * rng.random(n) - 2
    root = np.cbrt(x + np.sqrt(x * x + 1))
    return root - 1 / root


# ------------------------------------------------------------------------------------------------------------
# Four-vectors: arrays (4, leptons, n) of E, px, py, pz in GeV


def four_leptons(m: Array, m1: Array, m2: Array, *, cos1: Array, cos2: Array, phi: Array) -> Array:
    """Leptons (4, 4, n) in the rest frame of the mass ``m``: the first pair's parent flies along +z.

    First axis E, px, py, pz; second axis l1, anti-l1, l2, anti-l2; massless.
    """
    s1, s2 = m1 * m1, m2 * m2
    q = _kaellen_root(m * m, s1, s2) / (2 * m)
    out = np.empty((4, 4, len(m)))
    _pair(out[:, :2], m1, energy=np.sqrt(s1 + q * q), momentum=q, cos=cos1, phi=np.zeros_like(phi))
    _pair(out[:, 2:], m2, energy=np.sqrt(s2 + q * q), momentum=q, cos=cos2, phi=phi)
    out[3, 2:] *= -1
    return out


def _pair(out: Array, mass: Array, *, energy: Array, momentum: Array | float, cos: Array, phi: Array) -> Array:
    """Fill ``out`` (4, 2, n) with lepton and antilepton of a parent that flies along +z."""
    across = mass / 2 * np.sqrt(1 - cos * cos)
    x, y = across * np.cos(phi), across * np.sin(phi)
    for i, sign in ((0, 1.0), (1, -1.0)):
        out[0, i] = (energy + sign * momentum * cos) / 2
        out[1, i], out[2, i] = sign * x, sign * y
        out[3, i] = (momentum + sign * energy * cos) / 2
    return out


def _turn(p: Array, first: int, second: int, cos: Array, sin: Array) -> None:
    """Rotate two of the components in place."""
    a, b = p[first], p[second]
    p[first], p[second] = cos * a - sin * b, sin * a + cos * b


def _lift(p: Array, axis: int, gamma: Array, gamma_beta: Array) -> None:
    """Boost along one axis in place."""
    e, x = p[0], p[axis]
    p[0], p[axis] = gamma * e + gamma_beta * x, gamma * x + gamma_beta * e


def _in_flight(
    rng: np.random.Generator,
    p: Array,
    mass: Array,
    *,
    star: Array | None,
    scale: float,
    power: float,
    width: float,
) -> Array:
    """Rotate decays ``p`` in place to the cosine ``star`` and boost them.

    dN/dpT^2 ~ (1 + pT^2/scale^2)^-power, rapidity Gaussian within the kinematic limit, azimuths flat.
    """
    n = len(mass)
    pt = np.minimum(scale * np.sqrt((1 - rng.random(n)) ** (-1 / (power - 1)) - 1), 1000.0)
    across = np.sqrt(mass**2 + pt**2)
    limit = np.log(SQRT_S / across)
    rapidity = np.clip(rng.normal(0, width, n), -limit, limit)
    if star is not None:
        _turn(p, 1, 3, star, -np.sqrt(1 - star * star))
    _turn(p, 1, 2, *_circle(rng, n))
    _lift(p, 1, across / mass, pt / mass)
    _lift(p, 3, np.cosh(rapidity), np.sinh(rapidity))
    _turn(p, 1, 2, *_circle(rng, n))
    return p


def _circle(rng: np.random.Generator, n: int) -> tuple[Array, Array]:
    """Cosine and sine of a flat angle."""
    angle = rng.uniform(-np.pi, np.pi, n)
    return np.cos(angle), np.sin(angle)


def _pt_eta_phi(p: Array) -> tuple[Array, Array, Array]:
    pt = np.hypot(p[1], p[2])
    return pt, np.arcsinh(p[3] / np.maximum(pt, 1e-9)), np.arctan2(p[2], p[1])


# ------------------------------------------------------------------------------------------------------------
# Collisions: flat lists of leptons before the detector


class Particles(NamedTuple):
    """Leptons of ``n_events`` collisions before the detector; every column but the neutrinos is (n_leptons,).

    Momenta are float32 from here on: single precision is what the tree stores, and twice as quick.
    """

    n_events: int
    event: Array  # int64, index of the collision
    flavour: Array  # 11 or 13
    charge: Array  # -1 or 1
    pt: Array  # float32, GeV
    eta: Array
    phi: Array
    origin: Array  # PROMPT, HEAVY or LIGHT
    spoiled: Array  # bool: must come out non-isolated
    missing: Array  # (2, n_events) transverse momentum of neutrinos, GeV


def _particles(p: Array, flavour: Array, charge: Array) -> Particles:
    """Prompt leptons from four-vectors (4, k, n); flavour 0 marks an empty place; charge is (k, 1)."""
    return _flatten(flavour, charge, *_pt_eta_phi(p), origin=np.int64(PROMPT))


def _flatten(
    flavour: Array, charge: Array, pt: Array, eta: Array, phi: Array, *, origin: Array | np.int64
) -> Particles:
    """Flat columns from columns that broadcast to the shape of ``pt``, (k, n)."""
    k, n = pt.shape
    there = np.broadcast_to(flavour, (k, n)) > 0
    event = np.broadcast_to(np.arange(n), (k, n))[there]
    whole = [np.broadcast_to(x, (k, n))[there].astype(np.int8) for x in (flavour, charge, origin)]
    real = [x.astype(np.float32)[there] for x in (pt, eta, phi)]
    columns = [*whole[:2], *real, whole[2]]
    return Particles._make((n, event, *columns, np.zeros(len(event), bool), np.zeros((2, n))))


_FOUR_CHARGES, _TWO_CHARGES = np.array([[-1], [1], [-1], [1]]), np.array([[-1], [1]])


def _merge(n_events: int, parts: Sequence[tuple[Array, Particles]]) -> Particles:
    """Put the collisions of each part at the given indices of a list of ``n_events``; indices may repeat."""
    missing = np.zeros((2, n_events))
    for where, part in parts:
        missing[:, where] += part.missing
    event = np.concatenate([where[part.event] for where, part in parts])
    columns = [np.concatenate([part[i] for _, part in parts]) for i in range(2, 9)]
    return Particles._make((n_events, event, *columns, missing))


def higgs_collisions(rng: np.random.Generator, n: int) -> Particles:
    """H -> ZZ* -> 4l with every flavour, taus decayed."""
    m1, m2, cos1, cos2, phi = higgs_decays(rng, n)
    mass = np.full(n, MASS_HIGGS)
    p = four_leptons(mass, m1, m2, cos1=cos1, cos2=cos2, phi=phi)
    p = _in_flight(rng, p, mass, star=rng.uniform(-1, 1, n), scale=24.0, power=2.2, width=1.15)
    flavour = _higgs_flavours(rng, n)
    pair_mass = np.repeat(np.stack([m1, m2]), 2, axis=0)
    flavour = np.where((flavour == TAU) & (pair_mass < 2 * MASS_TAU), MUON, flavour)
    return _decay_taus(rng, p, flavour)


def _higgs_flavours(rng: np.random.Generator, n: int) -> Array:
    """Flavours of the leptons (4, n): equal pairs are `IDENTICAL_BOOST` times as likely."""
    flavours = np.array([ELECTRON, MUON, TAU])
    weights = 1.0 + (IDENTICAL_BOOST - 1.0) * np.eye(3)
    which = rng.choice(9, n, p=(weights / weights.sum()).ravel())
    return np.repeat(np.stack([flavours[which // 3], flavours[which % 3]]), 2, axis=0)


def _decay_taus(rng: np.random.Generator, p: Array, flavour: Array) -> Particles:
    """Turn taus into e, mu (collinear, unpolarised) or hadrons (dropped); the rest is neutrinos."""
    fate = rng.random(flavour.shape)
    tau = flavour == TAU
    x = np.ones(flavour.shape)
    x[tau] = _tau_fraction(rng, int(tau.sum()))
    daughter = np.where(fate < TAU_TO_ELECTRON, ELECTRON, np.where(fate < TAU_TO_ELECTRON + TAU_TO_MUON, MUON, 0))
    kept = np.where(tau, np.where(daughter > 0, x, 0.6), 1.0)
    out = _particles(p * kept, np.where(tau, daughter, flavour), _FOUR_CHARGES)
    return out._replace(missing=(p[1:3] * (1 - kept)).sum(axis=1))


def _tau_fraction(rng: np.random.Generator, n: int) -> Array:
    """Energy fraction of the lepton in tau -> l nu nu: density (5 - 9x^2 + 4x^3)/3, by a table."""
    x = np.linspace(0, 1, 513)
    return np.interp(rng.random(n), (5 * x - 3 * x**3 + x**4) / 3, x)


def zz_collisions(rng: np.random.Generator, n: int, name: str) -> Particles:
    """Continuum and Z -> 4l of one file after the generator filter."""
    share = SINGLE_RESONANT[name]

    def draw(trials: int) -> tuple[Array, ...]:
        single = _single_resonant(rng, int(trials * share))
        double = _double_resonant(rng, trials - int(trials * share))
        m, m1, m2, cos1, cos2, phi, star = (np.concatenate(x) for x in zip(single, double, strict=True))
        p = four_leptons(m, m1, m2, cos1=cos1, cos2=cos2, phi=phi)
        p = _in_flight(rng, p, m, star=star, scale=8.5, power=1.9, width=1.5)
        flavour = _zz_flavours(rng, len(m), name)
        keep = _filter(p, flavour) & (m > 65.0)
        kept = rng.permutation(np.flatnonzero(keep))  # so that any prefix has both parts
        return p[:, :, kept], flavour[:, kept]

    p, flavour = _collect(n, draw, 0.2)
    return _particles(p, flavour, _FOUR_CHARGES)


def _zz_flavours(rng: np.random.Generator, n: int, name: str) -> Array:
    if name == "ZZTo2e2mu":
        first = rng.choice([ELECTRON, MUON], n)
        return np.stack([first, first, ELECTRON + MUON - first, ELECTRON + MUON - first])
    return np.full((4, n), MUON if name == "ZZTo4mu" else ELECTRON)


def _filter(p: Array, flavour: Array) -> NDArray[np.bool_]:
    """Four leptons with pT > 3 GeV, abs(eta) < 2.7; opposite-sign same-flavour pairs above 4 GeV."""
    pt2 = p[1] ** 2 + p[2] ** 2
    keep = np.asarray((pt2 > 9.0).all(axis=0) & (p[3] ** 2 < np.sinh(2.7) ** 2 * pt2).all(axis=0))
    for i, j in ((0, 1), (2, 3), (0, 3), (2, 1)):
        dot = p[0, i] * p[0, j] - p[1, i] * p[1, j] - p[2, i] * p[2, j] - p[3, i] * p[3, j]
        keep &= (2 * dot > 16.0) | (flavour[i] != flavour[j])
    return keep


def _z_mass(rng: np.random.Generator, n: int) -> Array:
    """Breit-Wigner between 50 and 140 GeV."""
    low, high = _flat_of(np.array([50.0, 140.0]))
    return _mass_of(rng.uniform(low, high, n))


def _nonprompt(rng: np.random.Generator, flavour: Array, *, floor: float, slope: float) -> Particles:
    """One lepton from a jet per given flavour (0: none): exponential pT above ``floor``, either charge."""
    n = len(flavour)
    pt, eta = floor + rng.exponential(slope, (1, n)), rng.normal(0, 1.3, (1, n))
    origin = np.where(rng.random((1, n)) < np.where(flavour == MUON, 0.8, 0.4), HEAVY, LIGHT)
    return _flatten(flavour, rng.choice([-1, 1], (1, n)), pt, eta, rng.uniform(-np.pi, np.pi, (1, n)), origin=origin)


def zx_collisions(rng: np.random.Generator, n: int) -> Particles:
    """Z -> l l with two non-prompt leptons of one flavour, electrons more often than muons.

    Generator filter: that of `_dileptons` for the Z, pT > 5 GeV for the others.
    """
    every = np.arange(n)
    z = _dileptons(rng, rng.choice([ELECTRON, MUON], n), _z_mass)
    flavour = np.where(rng.random(n) < 0.62, ELECTRON, MUON)
    return _merge(n, [(every, z), *((every, _nonprompt(rng, flavour, floor=5.0, slope=8.0)) for _ in range(2))])


def _dileptons(
    rng: np.random.Generator, flavour: Array, mass: Callable[[np.random.Generator, int], Array]
) -> Particles:
    """Pairs l l of quarks, one per given flavour: 1 + cos^2, Drell-Yan like pT, within reach of the triggers.

    That is abs(eta) < 2.5 and pT > 16 GeV, the softer > 7 GeV.
    """

    def draw(trials: int) -> tuple[Array, ...]:
        m, zero = mass(rng, trials), np.zeros(trials)
        cos = _vector_cosine(rng, trials)
        p = _pair(np.empty((4, 2, trials)), m, energy=m, momentum=0.0, cos=cos, phi=zero)
        p = _in_flight(rng, p, m, star=None, scale=8.0, power=1.9, width=1.5)
        pt2 = p[1] ** 2 + p[2] ** 2
        keep = (pt2.max(axis=0) > 256.0) & (pt2.min(axis=0) > 49.0)
        return (p[:, :, keep & (p[3] ** 2 < np.sinh(2.5) ** 2 * pt2).all(axis=0)],)

    (p,) = _collect(len(flavour), draw, 0.4)
    return _particles(p, flavour, _TWO_CHARGES)


def _low_mass(rng: np.random.Generator, n: int) -> Array:
    """Drell-Yan below the Z peak."""
    return 15 + rng.exponential(22.0, n)


_REJECTED_KINDS = (
    0.39,
    0.33,
    0.08,
    0.04,
    0.06,
    0.07,
    0.03,
)  # Z mm, Z ee, Z + 1, Z + 2 spoiled, tt, jets, low-mass pair


def rejected_collisions(rng: np.random.Generator, n: int) -> Particles:
    """Two- and three-lepton collisions, kinds and shares as in ``_REJECTED_KINDS``."""
    kind = rng.choice(len(_REJECTED_KINDS), n, p=_REJECTED_KINDS)
    where = [np.flatnonzero(kind == k) for k in range(len(_REJECTED_KINDS))]
    z = np.concatenate(where[:4])
    flavour = np.where(kind == 0, MUON, np.where(kind == 1, ELECTRON, rng.choice([ELECTRON, MUON], n)))
    other = rng.choice([ELECTRON, MUON], n)
    parts = [
        (z, _dileptons(rng, flavour[z], _z_mass)),
        (where[2], _nonprompt(rng, other[where[2]], floor=5, slope=8)),
        *((where[3], part) for part in _spoiled_pair(rng, other[where[3]])),
        *((where[4], part) for part in _top_like(rng, len(where[4]))),
        *((where[5], part) for part in _jet_pair(rng, flavour[where[5]])),
        (where[6], _dileptons(rng, flavour[where[6]], _low_mass)),
    ]
    return _merge(n, parts)


def _spoiled_pair(rng: np.random.Generator, flavour: Array) -> Iterator[Particles]:
    """Two harder non-prompt leptons of one flavour, never isolated: they feed the overlap of the streams."""
    for _ in range(2):
        part = _nonprompt(rng, flavour, floor=8.0, slope=10.0)
        yield part._replace(spoiled=np.ones(len(part.event), bool))


def _top_like(rng: np.random.Generator, n: int) -> Iterator[Particles]:
    """Two prompt leptons of any flavour with neutrinos; in half of the collisions one from a b quark."""
    pt, eta = 15 + rng.gamma(1.6, 18.0, (2, n)), rng.normal(0, 1.1, (2, n))
    flavour, phi = rng.choice([ELECTRON, MUON], (2, n)), rng.uniform(-np.pi, np.pi, (2, n))
    pair = _flatten(flavour, _TWO_CHARGES, pt, eta, phi, origin=np.int64(PROMPT))
    yield pair._replace(missing=rng.normal(0, 38.0, (2, n)))
    yield _nonprompt(rng, rng.choice([0, 0, ELECTRON, MUON], n), floor=4.0, slope=7.0)


def _jet_pair(rng: np.random.Generator, flavour: Array) -> Iterator[Particles]:
    """Two leptons of one flavour from jets, hard enough for the triggers."""
    yield _nonprompt(rng, flavour, floor=16.0, slope=9.0)
    yield _nonprompt(rng, flavour, floor=9.0, slope=7.0)


def _with_soft(rng: np.random.Generator, particles: Particles) -> Particles:
    """Add the soft non-prompt leptons that any collision may have besides."""
    n = particles.n_events
    parts = [(np.arange(n), particles)]
    for flavour, rate in ((MUON, 0.12), (ELECTRON, 0.18)):
        where = np.repeat(np.arange(n), rng.poisson(rate, n))
        parts.append((where, _nonprompt(rng, np.full(len(where), flavour), floor=3.0, slope=3.0)))
    return _merge(n, parts)


def _spoil_surplus(particles: Particles) -> Particles:
    """Let at most the first three leptons of a collision be isolated: the fourth and later never are.

    So no selection of four isolated leptons keeps any, however many of these collisions are asked for.
    """
    order = np.argsort(particles.event, kind="stable")
    event = particles.event[order]
    rank = np.arange(len(event)) - np.searchsorted(event, event)
    spoiled = particles.spoiled.copy()
    spoiled[order[rank >= 3]] = True
    return particles._replace(spoiled=spoiled)


# ------------------------------------------------------------------------------------------------------------
# Detector


def _turn_on(pt: Array, threshold: float, width: float) -> Array:
    return 1 / (1 + np.exp(-(pt - threshold) / width))


def _shorten(values: Array, bits: int) -> Array:
    """Round float32 to ``bits`` of mantissa, as NanoAOD does where the detector measures no better."""
    raw = np.ascontiguousarray(values, np.float32).view(np.uint32)
    drop = 23 - bits
    rounded = (raw + np.uint32(1 << (drop - 1))) & np.uint32((0xFFFFFFFF << drop) & 0xFFFFFFFF)
    return rounded.view(np.float32)


def _pile_up(rng: np.random.Generator, n: int) -> Array:
    """Draw the number of reconstructed vertices, mean about 17."""
    return np.maximum(1, rng.poisson(rng.gamma(18.0, 17.0 / 18.0, n))).astype(np.int32)


def _uniform(rng: np.random.Generator, n: int) -> Array:
    return rng.random(n, dtype=np.float32)


def _normal(rng: np.random.Generator, n: int) -> Array:
    return rng.standard_normal(n, dtype=np.float32)


def _exponential(rng: np.random.Generator, n: int) -> Array:
    return rng.standard_exponential(n, dtype=np.float32)


def _smear(rng: np.random.Generator, sigma: Array, *, tail: float, factor: float) -> Array:
    """Error with a Gaussian core and a fraction ``tail`` that is ``factor`` times wider."""
    n = len(sigma)
    return sigma * _normal(rng, n) * np.where(_uniform(rng, n) < tail, np.float32(factor), np.float32(1.0))


def _by_region(eta: Array, bounds: tuple[float, float], values: tuple[float, float, float]) -> Array:
    """Look up a value by region of abs(eta): below the first bound, below the second, above."""
    return np.asarray(values, np.float32)[np.digitize(np.abs(eta), bounds)]


def _muon_response(rng: np.random.Generator, pt: Array, eta: Array) -> Array:
    """Measured over true pT: 1 to 2 % by pseudorapidity, 4 % of wider tail, and photons radiated by 6 %."""
    n = len(pt)
    sigma = _by_region(eta, (0.9, 1.5), (0.0095, 0.0138, 0.020)) + np.float32(1e-5) * pt
    radiated = np.where(_uniform(rng, n) < 0.06, 0.01 * np.float32(50.0) ** _uniform(rng, n), 0)
    return np.asarray((1 - radiated) / np.maximum(0.5, 1 + _smear(rng, sigma, tail=0.04, factor=2.5)))


def _electron_response(rng: np.random.Generator, pt: Array, eta: Array) -> Array:
    """Measured over true pT: 1.7 to 3.3 %, worse when soft; 15 % lose more to bremsstrahlung."""
    n = len(pt)
    sigma = np.hypot(_by_region(eta, (0.8, 1.48), (0.016, 0.022, 0.032)), 0.14 / np.maximum(pt, 3))
    lost = np.where(_uniform(rng, n) < 0.15, np.float32(0.035) * _exponential(rng, n), 0)
    smeared = 1 + _smear(rng, sigma, tail=0.05, factor=2.2)
    return np.asarray(np.maximum(0.4, (1 - np.minimum(lost, 0.5)) * smeared))


def _isolation(rng: np.random.Generator, hits: Particles, pile_up: Array, *, cone: float) -> Array:
    """Relative isolation: pile-up in the cone over pT, plus the parent jet for non-prompt leptons."""
    n = len(hits.event)
    stray = np.float32(0.75 / 17.0 * (cone / 0.4) ** 1.5) * rng.standard_gamma(1.1, n, dtype=np.float32)
    stray *= pile_up[hits.event].astype(np.float32)
    jet = np.where(hits.origin == PROMPT, 0, np.float32(0.7) * _exponential(rng, n))
    isolation = np.maximum(0, stray - np.float32(0.35)) / hits.pt + jet
    return np.asarray(np.where(hits.spoiled, np.float32(0.5) + isolation, isolation))


def _impact(rng: np.random.Generator, hits: Particles) -> dict[str, Array]:
    """Impact parameters and their errors, cm: prompt ones pull like a unit Gaussian with 4 % of tail."""
    n, slow = len(hits.event), 1 / np.maximum(hits.pt, 2)
    forward = 1 + np.float32(0.35) * hits.eta**2
    dxy_error = np.hypot(np.float32(0.0013), np.float32(0.011) * slow * np.sqrt(forward)) * _spread(rng, n)
    dz_error = np.hypot(np.float32(0.0028), np.float32(0.015) * slow * forward) * _spread(rng, n)
    flight = np.array([0.0, 0.018, 0.003], np.float32)[hits.origin] * _exponential(rng, n)  # cm, by origin
    dxy = flight * np.sign(_uniform(rng, n) - np.float32(0.5)) + 1.05 * _smear(rng, dxy_error, tail=0.04, factor=2.5)
    dz = flight * _normal(rng, n) + 1.05 * _smear(rng, dz_error, tail=0.04, factor=2.5)
    return {"dxy": dxy, "dxyErr": dxy_error, "dz": dz, "dzErr": dz_error}


def _spread(rng: np.random.Generator, n: int) -> Array:
    """Log-normal factor of 15 %."""
    return np.exp(np.float32(0.15) * _normal(rng, n))


def _pick(particles: Particles, keep: Array) -> Particles:
    columns = (column[keep] for column in particles[1:9])
    return Particles._make((particles.n_events, *columns, particles.missing))


def _reconstruct(rng: np.random.Generator, particles: Particles, flavour: int, pile_up: Array) -> tuple[Array, Block]:
    """Return counts (n_events,) and flat columns of one flavour, by falling pT in each collision."""
    mine = _pick(particles, particles.flavour == flavour)
    region = np.abs(mine.eta)
    if flavour == MUON:
        efficiency = 0.981 * _turn_on(mine.pt, 3.3, 0.7) * (region < 2.4)
        response, lowest = _muon_response(rng, mine.pt, mine.eta), 3.0
    else:
        crack = (region > 1.4442) & (region < 1.566)
        plateau = np.where(crack, 0.65, np.where(region < 1.5, 0.876, 0.846))
        efficiency = plateau * _turn_on(mine.pt, 5.5, 1.2) * (region < 2.5)
        response, lowest = _electron_response(rng, mine.pt, mine.eta), 5.0
    found = (_uniform(rng, len(region)) < efficiency) & (mine.pt * response > lowest)
    mine = mine._replace(pt=mine.pt * response)
    chosen = np.flatnonzero(found)
    hits = _pick(mine, chosen[np.argsort(mine.event[chosen] * float(1 << 20) - mine.pt[chosen], kind="stable")])
    return np.bincount(hits.event, minlength=hits.n_events), _columns(rng, hits, flavour, pile_up)


def _columns(rng: np.random.Generator, hits: Particles, flavour: int, pile_up: Array) -> Block:
    """Measure what the tree stores of one flavour's leptons."""
    n = len(hits.event)
    angle = 3e-4 if flavour == MUON else 9e-4
    flip = 1e-4 if flavour == MUON else np.where(np.abs(hits.eta) < 1.48, 0.004, 0.02)
    wide = _isolation(rng, hits, pile_up, cone=0.4 if flavour == MUON else 0.3)
    narrow = wide * np.sqrt(_uniform(rng, n)) if flavour == MUON else wide
    narrow = np.where(hits.spoiled, np.maximum(narrow, 0.5), narrow)
    columns = {
        "pt": hits.pt,
        "eta": hits.eta + np.float32(angle) * _normal(rng, n),
        "phi": _wrap(hits.phi + np.float32(angle) * _normal(rng, n)),
        "mass": np.full(n, MASS_MUON if flavour == MUON else MASS_ELECTRON, np.float32),
        "charge": np.where(_uniform(rng, n) < flip, -hits.charge, hits.charge).astype(np.int32),
        **{name: _shorten(values, 12) for name, values in _impact(rng, hits).items()},
        "pfRelIso03_all": _shorten(narrow, 11),
    }
    if flavour == MUON:
        columns["pfRelIso04_all"] = _shorten(wide, 11)
        _muon_sentinels(rng, columns)
    return columns


def _wrap(phi: Array) -> Array:
    """Angle into [-pi, pi]."""
    return np.where(phi > np.pi, phi - np.float32(2 * np.pi), np.where(phi < -np.pi, phi + np.float32(2 * np.pi), phi))


def _muon_sentinels(rng: np.random.Generator, columns: Block) -> None:
    """Put sentinels: no isolation if no PF muon, no impact parameters without a global track."""
    soft = np.exp(-columns["pt"] / 3.5)
    no_isolation = _uniform(rng, len(soft)) < 0.008 + 0.35 * soft
    no_track = _uniform(rng, len(soft)) < 0.006 + 0.30 * soft
    for name in ("pfRelIso03_all", "pfRelIso04_all"):
        columns[name] = np.where(no_isolation, SENTINEL, columns[name])
    for name in ("dxy", "dxyErr", "dz", "dzErr"):
        columns[name] = np.where(no_track, SENTINEL, columns[name])


def detect(rng: np.random.Generator, particles: Particles) -> Block:
    """Simulate the detector: one block of the tree without run, luminosityBlock and event.

    Keys are branch names; ``nMuon``, ``nElectron`` are counts (n_events,), ``Muon_*`` and ``Electron_*``
    flat.
    """
    n = particles.n_events
    pile_up = _pile_up(rng, n)
    block: Block = {"PV_npvs": pile_up}
    for name, centre, width in (("x", 0.244, 0.0020), ("y", 0.393, 0.0020), ("z", 0.4, 5.2)):
        block[f"PV_{name}"] = _shorten(rng.normal(centre, width, n), 12)
    for name, flavour in (("Muon", MUON), ("Electron", ELECTRON)):
        counts, columns = _reconstruct(rng, particles, flavour, pile_up)
        block[f"n{name}"] = counts.astype(np.int32)
        block |= {f"{name}_{key}": values for key, values in columns.items()}
    met = particles.missing + rng.normal(0, 1, (2, n)) * (9.0 + 0.28 * pile_up)
    block["MET_pt"] = _shorten(np.hypot(met[0], met[1]), 11)
    block["MET_phi"] = _shorten(np.arctan2(met[1], met[0]), 11)
    return block


# ------------------------------------------------------------------------------------------------------------
# Datasets


def _collisions(rng: np.random.Generator, dataset: ToyDataset, n: int) -> Particles:
    """``n`` collisions of a Monte Carlo dataset's process."""
    if dataset.process == "higgs":
        particles = higgs_collisions(rng, n)
    elif dataset.process == "zx":
        particles = zx_collisions(rng, n)
    else:
        particles = zz_collisions(rng, n, dataset.name)
    return _with_soft(rng, particles)


def simulation_blocks(dataset: ToyDataset, n: int, seed: int) -> Iterator[Block]:
    """Yield the Monte Carlo dataset's ``n`` events, at most `BLOCK` at a time."""
    for block, start in enumerate(range(0, n, BLOCK)):
        size = min(BLOCK, n - start)
        particles = _collisions(generator(seed, dataset.name, block, "physics"), dataset, size)
        columns = detect(generator(seed, dataset.name, block, "detector"), particles)
        index = np.arange(start, start + size)
        columns["run"] = np.ones(size, np.int32)
        columns["luminosityBlock"] = (index // 1000 + 1).astype(np.uint32)
        columns["event"] = (index + 1).astype(np.uint64)
        yield columns


def data_blocks(rejected: int, seed: int) -> Iterator[tuple[Block, dict[str, Array]]]:
    """Yield the pseudo-data in order of time: blocks, and per stream which events fired its trigger."""
    signal = _four_lepton_data(seed)
    total = rejected + signal.n_events
    rng = generator(seed, "data", 0, "times")
    times = np.sort(rng.choice(total, signal.n_events, replace=False, shuffle=False))
    for block, start in enumerate(range(0, total, BLOCK)):
        stop = min(start + BLOCK, total)
        particles = _data_particles(generator(seed, "data", block, "physics"), signal, times, (start, stop))
        columns = detect(generator(seed, "data", block, "detector"), particles)
        numbers = _numbers(generator(seed, "data", block, "times"), start, stop, total)
        fired = _triggers(generator(seed, "data", block, "trigger"), columns)
        yield numbers | columns, fired


def _four_lepton_data(seed: int) -> Particles:
    """Every four-lepton collision of the pseudo-data, Poisson numbers of each process, in random order."""
    rng = generator(seed, "data", 0, "four-lepton")
    simulated = [dataset for dataset in DATASETS if dataset.process != "data"]
    parts = [_collisions(rng, dataset, int(rng.poisson(dataset.expected))) for dataset in simulated]
    order = rng.permutation(sum(part.n_events for part in parts))
    starts = np.cumsum([0, *(part.n_events for part in parts)])
    return _merge(
        len(order),
        [(order[low : low + part.n_events], part) for low, part in zip(starts, parts, strict=False)],
    )


def _data_particles(rng: np.random.Generator, signal: Particles, times: Array, bounds: tuple[int, int]) -> Particles:
    """Collisions of the times between ``bounds``: four-lepton ones at ``times``, rejected ones elsewhere."""
    start, size = bounds[0], bounds[1] - bounds[0]
    first, last = np.searchsorted(times, bounds)
    here = times[first:last] - start
    others = np.setdiff1d(np.arange(size), here, assume_unique=True)
    inside = (signal.event >= first) & (signal.event < last)
    chosen = _pick(signal, inside)
    chosen = chosen._replace(event=chosen.event - first, n_events=last - first, missing=signal.missing[:, first:last])
    rest = _spoil_surplus(_with_soft(rng, rejected_collisions(rng, len(others))))
    return _merge(size, [(here, chosen), (others, rest)])


def _numbers(rng: np.random.Generator, start: int, stop: int, total: int) -> Block:
    """Give collisions, spread evenly over the luminosity, run, lumi section and event in order of time."""
    lengths = np.array([last - first + 1 for _, first, last in RUNS])
    ends = np.cumsum(lengths)
    ticks = int(ends[-1]) * EVENTS_PER_SECTION
    width = ticks / total
    tick = ((np.arange(start, stop) + 0.9 * rng.random(stop - start)) * width).astype(np.int64)
    section, inside = np.divmod(tick, EVENTS_PER_SECTION)
    which = np.searchsorted(ends, section, side="right")
    offset = section - (ends - lengths)[which]
    return {
        "run": np.array([run for run, _, _ in RUNS], np.int32)[which],
        "luminosityBlock": (np.array([first for _, first, _ in RUNS])[which] + offset).astype(np.uint32),
        "event": (offset * EVENTS_PER_SECTION + inside + 1).astype(np.uint64),
    }


def _triggers(rng: np.random.Generator, columns: Block) -> dict[str, Array]:
    """Emulate dilepton triggers: two muons above about 17 and 8 GeV, two electrons above about 17 and 12."""
    fired = {}
    for stream, name, thresholds, width, plateau in (
        ("DoubleMu", "Muon", (17.0, 8.0), 0.6, 0.99),
        ("DoubleElectron", "Electron", (17.0, 12.0), 0.8, 0.99),
    ):
        counts, pt = columns[f"n{name}"], columns[f"{name}_pt"]
        starts = np.cumsum(counts) - counts
        chance = np.full(len(counts), plateau)
        for rank, threshold in enumerate(thresholds):
            there = counts > rank
            chance[~there] = 0.0
            chance[there] *= _turn_on(pt[starts[there] + rank], threshold, width)
        fired[stream] = rng.random(len(counts)) < chance
    return fired


def _select(block: Block, keep: Array) -> Block:
    """Keep the events of a block under a mask, flat lepton columns included."""
    muons, electrons = np.repeat(keep, block["nMuon"]), np.repeat(keep, block["nElectron"])
    masks = {"Muon": muons, "Electron": electrons}
    return {name: values[masks.get(name.split("_")[0], keep)] for name, values in block.items()}


# ------------------------------------------------------------------------------------------------------------
# Files


def _schema() -> dict[str, str]:
    """Types for uproot; a record becomes a counter and one branch per field."""
    types = {"charge": "int32"}
    muon = ", ".join(f"{f}: {types.get(f, 'float32')}" for f in _MUON_FIELDS)
    electron = ", ".join(f"{f}: {types.get(f, 'float32')}" for f in _ELECTRON_FIELDS)
    return {**_SCALARS, "Muon": f"var * {{{muon}}}", "Electron": f"var * {{{electron}}}", **_MET}


def _records(block: Block, name: str, fields: Sequence[str]) -> Any:
    """Jagged records of one flavour from counts and flat columns, without copying the columns."""
    import awkward as ak

    offsets = np.concatenate([[0], np.cumsum(block[f"n{name}"], dtype=np.int64)])
    contents = [ak.contents.NumpyArray(block[f"{name}_{field}"]) for field in fields]
    return ak.Array(
        ak.contents.ListOffsetArray(ak.index.Index64(offsets), ak.contents.RecordArray(contents, list(fields)))
    )


class _Writer:
    """One ROOT file under a temporary folder; `finish` moves it into place and returns its manifest entry."""

    def __init__(self, folder: Path, name: str, seed: int) -> None:
        import uproot

        self.name, self.target = name, folder / f"{name}.root"
        # A folder rather than a temporary name: the file name is written into the file.
        self.scratch = Path(tempfile.mkdtemp(prefix=".toy-", dir=folder))
        identity = uuid.uuid5(uuid.NAMESPACE_URL, f"higgsnb/toy/{VERSION}/{seed}/{name}")
        self.path = self.scratch / f"{name}.root"
        self.file = uproot.recreate(self.path, compression=uproot.ZLIB(1), uuid_function=lambda: identity)
        self.tree = self.file.mktree("Events", _schema(), title=TREE_TITLE)
        self.events = 0
        self.waiting: list[Block] = []

    def write(self, block: Block) -> None:
        """Append one block; it reaches the file with the next full basket."""
        self.waiting.append(block)
        if sum(len(part["event"]) for part in self.waiting) >= BASKET:
            self.flush()

    def flush(self) -> None:
        """Write what is waiting: one basket per branch."""
        if not self.waiting:
            return
        block = {key: np.concatenate([part[key] for part in self.waiting]) for key in self.waiting[0]}
        self.waiting.clear()
        data: dict[str, Any] = {key: block[key] for key in (*_SCALARS, *_MET)}
        data["Muon"] = _records(block, "Muon", _MUON_FIELDS)
        data["Electron"] = _records(block, "Electron", _ELECTRON_FIELDS)
        self.tree.extend(data)
        self.events += len(block["event"])

    def finish(self) -> dict[str, Any]:
        """Close, make the bytes reproducible, rename into place."""
        self.flush()
        self.file.close()
        fix_timestamps(self.path)
        entry = {"events": self.events, **_checksums(self.path)}
        if not _holds(self.target, entry):  # what is right keeps its inode and time: others may be reading it
            self.path.replace(self.target)
        self.discard()
        return entry

    def discard(self) -> None:
        """Remove the temporary folder."""
        shutil.rmtree(self.scratch, ignore_errors=True)


_FIXED_TIME = struct.pack(">I", (2012 - 1995) << 26 | 7 << 22 | 4 << 17)  # TDatime of 4 July 2012


def fix_timestamps(path: Path) -> None:
    """Set every time in a ROOT file to 4 July 2012 and clear its gaps, so that equal content is equal bytes.

    uproot stamps records with the clock. Editing the finished file needs no change to uproot's global
    state. Every record begins with a TKey whose time is 10 bytes after its start; the list of keys repeats
    the headers, the directory has two times of its own, and the list of free segments tells where no record
    is.
    """
    with path.open("r+b") as file:
        magic, version, begin = _unpack(file, 0, ">4sii")
        if magic != b"root":
            raise ValueError(
                f"{path.name}: expected a ROOT file, found the first bytes {magic!r}; write the file again"
            )
        end, free, _, _, name_bytes = _unpack(file, 12, ">qqiii" if version >= 1_000_000 else ">iiiii")
        gaps = dict(_gaps(file, free, end))
        position = begin
        while position < end:
            if position in gaps:
                position = _clear(file, position, gaps[position])
            else:
                _stamp(file, position + 10)
                position += max(1, _unpack(file, position, ">i")[0])
        _fix_directory(file, begin + name_bytes)


def _fix_directory(file: BinaryIO, position: int) -> None:
    """Set the times of the top directory and of the keys in its list."""
    _stamp(file, position + 2)
    _stamp(file, position + 6)
    big = _unpack(file, position, ">h")[0] > 1000
    keys = _unpack(file, position + 10, ">iiqqq" if big else ">iiiii")[4]
    length = _unpack(file, keys + 14, ">h")[0]
    count = _unpack(file, keys + length, ">i")[0]
    position = keys + length + 4
    for _ in range(count):
        _stamp(file, position + 10)
        position += _unpack(file, position + 14, ">h")[0]


def _unpack(file: BinaryIO, position: int, layout: str) -> tuple[Any, ...]:
    file.seek(position)
    return struct.unpack(layout, file.read(struct.calcsize(layout)))


def _stamp(file: BinaryIO, position: int) -> None:
    file.seek(position)
    file.write(_FIXED_TIME)


def _gaps(file: BinaryIO, free: int, end: int) -> Iterator[tuple[int, int]]:
    """(start, stop) of the unused parts before ``end``, from the record of free segments."""
    position = free + _unpack(file, free + 14, ">h")[0]
    while True:
        layout = ">hqq" if _unpack(file, position, ">h")[0] > 1000 else ">hii"
        _, first, last = _unpack(file, position, layout)
        if first >= end:  # the last segment is all that follows the file
            return
        yield first, last + 1
        position += struct.calcsize(layout)


def _clear(file: BinaryIO, start: int, stop: int) -> int:
    """Fill a gap with zeros behind its negative length, ROOT's mark of a deleted record."""
    file.seek(start)
    file.write((struct.pack(">i", start - stop) + bytes(stop - start))[: stop - start])
    return stop


def _checksums(path: Path) -> dict[str, Any]:
    """Size, sha256 and adler32 of a file, read once."""
    digest, adler, size = hashlib.sha256(), 1, 0
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
            adler = zlib.adler32(chunk, adler)
            size += len(chunk)
    return {"bytes": size, "sha256": digest.hexdigest(), "adler32": f"{adler:08x}"}


# ------------------------------------------------------------------------------------------------------------
# The campaign


def _write_simulation(folder: Path, dataset: ToyDataset, scale: float, seed: int) -> dict[str, Any]:
    writer = _Writer(folder, dataset.name, seed)
    try:
        for block in simulation_blocks(dataset, max(1, round((dataset.events or 0) * scale)), seed):
            writer.write(block)
        return {dataset.name: writer.finish()}
    finally:
        writer.discard()


def _write_data(folder: Path, scale: float, seed: int) -> dict[str, Any]:
    writers = {d.stream: _Writer(folder, d.name, seed) for d in DATASETS if d.stream}
    try:
        for block, fired in data_blocks(round(REJECTED * scale), seed):
            for stream, writer in writers.items():
                writer.write(_select(block, fired[str(stream)]))
        return {writer.name: writer.finish() for writer in writers.values()}
    finally:
        for writer in writers.values():
            writer.discard()


def make(
    folder: str | Path, *, seed: int = DEFAULT_SEED, events: int | None = None, workers: int | None = None
) -> Path:
    """Write the whole campaign into ``folder`` (made if absent) and return it.

    Files appear under their names when they are complete; ``manifest.json``, written last, has the parameters and
    for each file events, bytes, sha256 and adler32.

    Parameters
    ----------
    seed
        Same seed, same bytes, whatever ``workers`` is.
    events
        Total of simulated and of rejected collisions, `DEFAULT_EVENTS` if None. The four-lepton pseudo-data
        stay at 11.58 /fb.
    workers
        Threads over files, two if None; more are of little use.

    Raises
    ------
    ValueError
        If ``events`` is below 1.
    """
    folder = Path(folder)
    scale = _scale(events)
    folder.mkdir(parents=True, exist_ok=True)
    jobs: list[Callable[[], dict[str, Any]]] = [functools.partial(_write_data, folder, scale, seed)]
    jobs += [functools.partial(_write_simulation, folder, d, scale, seed) for d in DATASETS if not d.stream]
    with ThreadPoolExecutor(workers or 2) as pool:
        entries = [future.result() for future in [pool.submit(job) for job in jobs]]
    _save_manifest(folder, seed, events, {name: entry for part in entries for name, entry in part.items()})
    return folder


def _scale(events: int | None) -> float:
    if events is not None and events < 1:
        raise ValueError(f"events = {events}: must be at least 1 (default {DEFAULT_EVENTS})")
    return 1.0 if events is None else events / DEFAULT_EVENTS


def _parameters(seed: int, events: int | None) -> dict[str, Any]:
    return {
        "version": VERSION,
        "seed": seed,
        "events": events or DEFAULT_EVENTS,
        "luminosity_fb": LUMINOSITY_FB,
    }


def _save_manifest(folder: Path, seed: int, events: int | None, files: dict[str, Any]) -> None:
    manifest = {
        "simulated": True,
        "title": TREE_TITLE,
        "parameters": _parameters(seed, events),
        "files": files,
    }
    temporary = folder / f".manifest-{uuid.uuid4().hex}"
    temporary.write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    temporary.replace(folder / "manifest.json")


def manifest(folder: str | Path) -> dict[str, Any]:
    """Read the manifest of a campaign folder; empty if there is none or it cannot be read."""
    try:
        found = json.loads((Path(folder) / "manifest.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def ensure(name: str, folder: str | Path) -> Path:
    """Return ``folder/NAME.root`` of the default campaign; make what is absent or does not match the manifest.

    All files are made together, in about two seconds; one that already has the right bytes is left untouched.

    Raises
    ------
    KeyError
        If ``name`` is no dataset of the campaign; lists those that are.
    """
    known = {dataset.name: dataset for dataset in DATASETS}
    if name not in known:
        raise KeyError(f"toy has no dataset {name!r}; it has {', '.join(known)}")
    folder = Path(folder)
    path = folder / f"{name}.root"
    if not _matches(path, manifest(folder)):
        make(folder)
    return path


def _matches(path: Path, found: dict[str, Any]) -> bool:
    """Whether the file is the default campaign's, by the manifest's parameters and checksums."""
    entry = found.get("files", {}).get(path.stem)
    if found.get("parameters") != _parameters(DEFAULT_SEED, None) or entry is None:
        return False
    return _holds(path, entry)


def _holds(path: Path, entry: dict[str, Any]) -> bool:
    """Whether the file is there with the size and sha256 of the manifest entry."""
    if not path.is_file() or path.stat().st_size != entry["bytes"]:
        return False
    return bool(_checksums(path)["sha256"] == entry["sha256"])


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line: ``python -m higgsnb.toy FOLDER --events N --seed S``."""
    parser = argparse.ArgumentParser(prog="python -m higgsnb.toy", description="Write the simulated toy campaign.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--events", type=int, default=None, help=f"total, default {DEFAULT_EVENTS}")
    parser.add_argument("--seed", type=int, default=DEFAULT_SEED)
    options = parser.parse_args(arguments)
    make(options.folder, seed=options.seed, events=options.events)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
