"""Leptons of simulated proton collisions before the detector: four-vectors, tau decays, backgrounds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from higgsnb.datasets.constants import MASS_TAU
from higgsnb.datasets.toy.physics import (
    MASS_HIGGS,
    SQRT_S,
    Array,
    collect,
    double_resonant,
    flat_of,
    higgs_decays,
    kaellen_root,
    mass_of,
    single_resonant,
    vector_cosine,
)

TAU_TO_ELECTRON, TAU_TO_MUON = 0.1782, 0.1739
IDENTICAL_BOOST = 1.108  # 2 BR(H -> 4e) / BR(H -> 2e2mu) at 125 GeV (LHC Higgs WG): interference
ELECTRON, MUON, TAU = 11, 13, 15
PROMPT, HEAVY, LIGHT = 0, 1, 2  # where a lepton comes from: W/Z/tau, a b or c hadron, a jet or conversion
SINGLE_RESONANT = {"ZZTo4mu": 0.5, "ZZTo4e": 0.5, "ZZTo2e2mu": 0.5}  # fraction before the filter; tuned


def four_leptons(m: Array, m1: Array, m2: Array, *, cos1: Array, cos2: Array, phi: Array) -> Array:
    """Leptons (4, 4, n) in the rest frame of the mass ``m``: the first pair's parent flies along +z.

    First axis E, px, py, pz; second axis l1, anti-l1, l2, anti-l2; massless.
    """
    s1, s2 = m1 * m1, m2 * m2
    q = kaellen_root(m * m, s1, s2) / (2 * m)
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
    rng: np.random.Generator, p: Array, mass: Array, *, star: Array | None, scale: float, power: float, width: float
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
    """Return prompt leptons from four-vectors (4, k, n); flavour 0 means no lepton; charge is (k, 1)."""
    pt = np.hypot(p[1], p[2])
    eta, phi = np.arcsinh(p[3] / np.maximum(pt, 1e-9)), np.arctan2(p[2], p[1])
    return _flatten(flavour, charge, pt, eta, phi, origin=np.int64(PROMPT))


def _flatten(
    flavour: Array, charge: Array, pt: Array, eta: Array, phi: Array, *, origin: Array | np.int64
) -> Particles:
    """Return flat columns from columns that broadcast to the shape of ``pt``, (k, n)."""
    k, n = pt.shape
    there = np.broadcast_to(flavour, (k, n)) > 0
    event = np.broadcast_to(np.arange(n), (k, n))[there]
    whole = [np.broadcast_to(x, (k, n))[there].astype(np.int8) for x in (flavour, charge, origin)]
    real = [x.astype(np.float32)[there] for x in (pt, eta, phi)]
    columns = [*whole[:2], *real, whole[2]]
    return Particles._make((n, event, *columns, np.zeros(len(event), bool), np.zeros((2, n))))


_FOUR_CHARGES, _TWO_CHARGES = np.array([[-1], [1], [-1], [1]]), np.array([[-1], [1]])


def merge(n_events: int, parts: Sequence[tuple[Array, Particles]]) -> Particles:
    """Put the collisions of each part at the given indices of a list of ``n_events``; indices may repeat."""
    missing = np.zeros((2, n_events))
    for where, part in parts:
        missing[:, where] += part.missing
    event = np.concatenate([where[part.event] for where, part in parts])
    columns = [np.concatenate([part[i] for _, part in parts]) for i in range(2, 9)]
    return Particles._make((n_events, event, *columns, missing))


def pick(particles: Particles, keep: Array) -> Particles:
    """Return the leptons chosen by a mask or by indices; all collisions stay."""
    columns = (column[keep] for column in particles[1:9])
    return Particles._make((particles.n_events, *columns, particles.missing))


def higgs_collisions(rng: np.random.Generator, n: int) -> Particles:
    """Draw H -> ZZ* -> 4l with all flavours; equal pairs are `IDENTICAL_BOOST` times as likely.

    Taus become e, mu (collinear, unpolarised) or hadrons (dropped); the rest is neutrinos.
    """
    m1, m2, cos1, cos2, phi = higgs_decays(rng, n)
    mass = np.full(n, MASS_HIGGS)
    p = four_leptons(mass, m1, m2, cos1=cos1, cos2=cos2, phi=phi)
    p = _in_flight(rng, p, mass, star=rng.uniform(-1, 1, n), scale=24.0, power=2.2, width=1.15)
    weights = 1.0 + (IDENTICAL_BOOST - 1.0) * np.eye(3)
    which = rng.choice(9, n, p=(weights / weights.sum()).ravel())
    flavours = np.array([ELECTRON, MUON, TAU])
    flavour = np.repeat(np.stack([flavours[which // 3], flavours[which % 3]]), 2, axis=0)
    pair_mass = np.repeat(np.stack([m1, m2]), 2, axis=0)
    flavour = np.where((flavour == TAU) & (pair_mass < 2 * MASS_TAU), MUON, flavour)
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
    """Continuum and Z -> 4l of one file after the generator filter.

    That is m4l > 65 GeV, four leptons with pT > 3 GeV and abs(eta) < 2.7, opposite-sign same-flavour pairs above 4 GeV.
    """
    share = SINGLE_RESONANT[name]

    def draw(trials: int) -> tuple[Array, ...]:
        single = single_resonant(rng, int(trials * share))
        double = double_resonant(rng, trials - int(trials * share))
        m, m1, m2, cos1, cos2, phi, star = (np.concatenate(x) for x in zip(single, double, strict=True))
        p = four_leptons(m, m1, m2, cos1=cos1, cos2=cos2, phi=phi)
        p = _in_flight(rng, p, m, star=star, scale=8.5, power=1.9, width=1.5)
        if name == "ZZTo2e2mu":
            first = rng.choice([ELECTRON, MUON], len(m))
            flavour = np.stack([first, first, ELECTRON + MUON - first, ELECTRON + MUON - first])
        else:
            flavour = np.full((4, len(m)), MUON if name == "ZZTo4mu" else ELECTRON)
        pt2 = p[1] ** 2 + p[2] ** 2
        keep = (m > 65.0) & (pt2 > 9.0).all(axis=0) & (p[3] ** 2 < np.sinh(2.7) ** 2 * pt2).all(axis=0)
        for i, j in ((0, 1), (2, 3), (0, 3), (2, 1)):
            dot = p[0, i] * p[0, j] - p[1, i] * p[1, j] - p[2, i] * p[2, j] - p[3, i] * p[3, j]
            keep &= (2 * dot > 16.0) | (flavour[i] != flavour[j])
        kept = rng.permutation(np.flatnonzero(keep))  # so that any prefix has both parts
        return p[:, :, kept], flavour[:, kept]

    p, flavour = collect(n, draw, 0.2)
    return _particles(p, flavour, _FOUR_CHARGES)


def _z_mass(rng: np.random.Generator, n: int) -> Array:
    """Breit-Wigner between 50 and 140 GeV."""
    low, high = flat_of(np.array([50.0, 140.0]))
    return mass_of(rng.uniform(low, high, n))


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
    return merge(n, [(every, z), *((every, _nonprompt(rng, flavour, floor=5.0, slope=8.0)) for _ in range(2))])


def _dileptons(
    rng: np.random.Generator, flavour: Array, mass: Callable[[np.random.Generator, int], Array]
) -> Particles:
    """Pairs l l of quarks, one per given flavour: 1 + cos^2, Drell-Yan like pT, within reach of the triggers.

    That is abs(eta) < 2.5 and pT > 16 GeV, the softer > 7 GeV.
    """

    def draw(trials: int) -> tuple[Array, ...]:
        m, zero = mass(rng, trials), np.zeros(trials)
        cos = vector_cosine(rng, trials)
        p = _pair(np.empty((4, 2, trials)), m, energy=m, momentum=0.0, cos=cos, phi=zero)
        p = _in_flight(rng, p, m, star=None, scale=8.0, power=1.9, width=1.5)
        pt2 = p[1] ** 2 + p[2] ** 2
        keep = (pt2.max(axis=0) > 256.0) & (pt2.min(axis=0) > 49.0)
        return (p[:, :, keep & (p[3] ** 2 < np.sinh(2.5) ** 2 * pt2).all(axis=0)],)

    (p,) = collect(len(flavour), draw, 0.4)
    return _particles(p, flavour, _TWO_CHARGES)


_REJECTED_KINDS = (0.39, 0.33, 0.08, 0.04, 0.06, 0.07, 0.03)
"""Shares of Z -> mu mu, Z -> e e, Z + 1 lepton, Z + 2 non-isolated ones, t tbar, two jets, and a low-mass pair."""


def rejected_collisions(rng: np.random.Generator, n: int) -> Particles:
    """Draw two- and three-lepton collisions, kinds and shares as in ``_REJECTED_KINDS``."""
    kind = rng.choice(len(_REJECTED_KINDS), n, p=_REJECTED_KINDS)
    where = [np.flatnonzero(kind == k) for k in range(len(_REJECTED_KINDS))]
    z = np.concatenate(where[:4])
    flavour = np.where(kind == 0, MUON, np.where(kind == 1, ELECTRON, rng.choice([ELECTRON, MUON], n)))
    other = rng.choice([ELECTRON, MUON], n)
    parts = [
        (z, _dileptons(rng, flavour[z], _z_mass)),
        (where[2], _nonprompt(rng, other[where[2]], floor=5, slope=8)),
    ]
    for _ in range(2):  # harder ones, never isolated: they feed the overlap of the primary datasets
        part = _nonprompt(rng, other[where[3]], floor=8.0, slope=10.0)
        parts.append((where[3], part._replace(spoiled=np.ones(len(part.event), bool))))
    # t tbar: two prompt leptons of any flavour with neutrinos; in half of the collisions one from a b quark
    shape = (2, len(where[4]))
    pt, eta = 15 + rng.gamma(1.6, 18.0, shape), rng.normal(0, 1.1, shape)
    leptons, phi = rng.choice([ELECTRON, MUON], shape), rng.uniform(-np.pi, np.pi, shape)
    pair = _flatten(leptons, _TWO_CHARGES, pt, eta, phi, origin=np.int64(PROMPT))
    parts += [
        (where[4], pair._replace(missing=rng.normal(0, 38.0, shape))),
        (where[4], _nonprompt(rng, rng.choice([0, 0, ELECTRON, MUON], shape[1]), floor=4.0, slope=7.0)),
        (where[5], _nonprompt(rng, flavour[where[5]], floor=16.0, slope=9.0)),  # hard enough for the triggers
        (where[5], _nonprompt(rng, flavour[where[5]], floor=9.0, slope=7.0)),
    ]
    # Drell-Yan below the Z peak
    parts.append((where[6], _dileptons(rng, flavour[where[6]], lambda rng, n: 15 + rng.exponential(22.0, n))))
    return merge(n, parts)


def with_soft(rng: np.random.Generator, particles: Particles) -> Particles:
    """Add the soft non-prompt leptons that any collision may have besides."""
    n = particles.n_events
    parts = [(np.arange(n), particles)]
    for flavour, rate in ((MUON, 0.12), (ELECTRON, 0.18)):
        where = np.repeat(np.arange(n), rng.poisson(rate, n))
        parts.append((where, _nonprompt(rng, np.full(len(where), flavour), floor=3.0, slope=3.0)))
    return merge(n, parts)


def spoil_surplus(particles: Particles) -> Particles:
    """Make all leptons of a collision but the first three non-isolated.

    So no selection of four isolated leptons keeps any of these collisions, however many there are.
    """
    order = np.argsort(particles.event, kind="stable")
    event = particles.event[order]
    rank = np.arange(len(event)) - np.searchsorted(event, event)
    spoiled = particles.spoiled.copy()
    spoiled[order[rank >= 3]] = True
    return particles._replace(spoiled=spoiled)
