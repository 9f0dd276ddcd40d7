"""A parametrised detector: acceptance, efficiency, resolution, isolation and impact parameters per lepton."""

from __future__ import annotations

import numpy as np
from numpy import float32

from higgsnb.datasets.constants import MASS_ELECTRON, MASS_MUON
from higgsnb.datasets.toy.collisions import ELECTRON, MUON, PROMPT, Particles, pick
from higgsnb.datasets.toy.physics import Array

Block = dict[str, Array]
SENTINEL = float32(-999.0)


def turn_on(pt: Array, threshold: float, width: float) -> Array:
    """Return a logistic efficiency curve, one half at ``threshold`` (GeV)."""
    return 1 / (1 + np.exp(-(pt - threshold) / width))


def _shorten(values: Array, bits: int) -> Array:
    """Round float32 to ``bits`` of mantissa, as NanoAOD does where the detector measures no better."""
    raw = np.ascontiguousarray(values, float32).view(np.uint32)
    drop = 23 - bits
    rounded = (raw + np.uint32(1 << (drop - 1))) & np.uint32((0xFFFFFFFF << drop) & 0xFFFFFFFF)
    return rounded.view(float32)


def _smear(rng: np.random.Generator, sigma: Array, *, tail: float, factor: float) -> Array:
    """Draw errors with a Gaussian core and a fraction ``tail`` that is ``factor`` times wider."""
    n = len(sigma)
    core = sigma * rng.standard_normal(n, float32)
    return core * np.where(rng.random(n, float32) < tail, float32(factor), float32(1.0))


def _impact(rng: np.random.Generator, hits: Particles) -> dict[str, Array]:
    """Impact parameters and their errors, cm: prompt ones pull like a unit Gaussian with 4 % of tail."""
    n, slow = len(hits.event), 1 / np.maximum(hits.pt, 2)
    forward = 1 + float32(0.35) * hits.eta**2
    # the errors are spread by a log-normal factor of 15 %
    dxy_error = np.hypot(float32(0.0013), float32(0.011) * slow * np.sqrt(forward))
    dxy_error = dxy_error * np.exp(float32(0.15) * rng.standard_normal(n, float32))
    dz_error = np.hypot(float32(0.0028), float32(0.015) * slow * forward)
    dz_error = dz_error * np.exp(float32(0.15) * rng.standard_normal(n, float32))
    by_origin = np.array([0.0, 0.018, 0.003], float32)  # cm
    flight = by_origin[hits.origin] * rng.standard_exponential(n, float32)
    dxy = flight * np.sign(rng.random(n, float32) - float32(0.5)) + 1.05 * _smear(rng, dxy_error, tail=0.04, factor=2.5)
    dz = flight * rng.standard_normal(n, float32) + 1.05 * _smear(rng, dz_error, tail=0.04, factor=2.5)
    return {"dxy": dxy, "dxyErr": dxy_error, "dz": dz, "dzErr": dz_error}


def _reconstruct(rng: np.random.Generator, particles: Particles, flavour: int, pile_up: Array) -> tuple[Array, Block]:
    """Return counts (n_events,) and flat columns of one flavour, by falling pT in each collision."""
    mine = pick(particles, particles.flavour == flavour)
    n, region = len(mine.eta), np.abs(mine.eta)
    if flavour == MUON:
        efficiency = 0.981 * turn_on(mine.pt, 3.3, 0.7) * (region < 2.4)
        # measured over true pT: 1 to 2 % by pseudorapidity, 4 % of wider tail, and photons radiated by 6 %
        sigma: Array = np.array([0.0095, 0.0138, 0.020], float32)[np.digitize(region, (0.9, 1.5))]
        sigma = sigma + float32(1e-5) * mine.pt
        radiated = np.where(rng.random(n, float32) < 0.06, 0.01 * float32(50.0) ** rng.random(n, float32), 0)
        response = (1 - radiated) / np.maximum(0.5, 1 + _smear(rng, sigma, tail=0.04, factor=2.5))
        lowest = 3.0
    else:
        crack = (region > 1.4442) & (region < 1.566)
        plateau = np.where(crack, 0.65, np.where(region < 1.5, 0.876, 0.846))
        efficiency = plateau * turn_on(mine.pt, 5.5, 1.2) * (region < 2.5)
        # 1.7 to 3.3 %, worse when soft; 15 % lose more to bremsstrahlung
        sigma = np.array([0.016, 0.022, 0.032], float32)[np.digitize(region, (0.8, 1.48))]
        sigma = np.hypot(sigma, 0.14 / np.maximum(mine.pt, 3))
        lost = np.where(rng.random(n, float32) < 0.15, float32(0.035) * rng.standard_exponential(n, float32), 0)
        smeared = 1 + _smear(rng, sigma, tail=0.05, factor=2.2)
        response, lowest = np.maximum(0.4, (1 - np.minimum(lost, 0.5)) * smeared), 5.0
    found = (rng.random(n, float32) < efficiency) & (mine.pt * response > lowest)
    mine = mine._replace(pt=mine.pt * response)
    chosen = np.flatnonzero(found)
    hits = pick(mine, chosen[np.argsort(mine.event[chosen] * float(1 << 20) - mine.pt[chosen], kind="stable")])
    return np.bincount(hits.event, minlength=hits.n_events), _columns(rng, hits, flavour, pile_up)


def _columns(rng: np.random.Generator, hits: Particles, flavour: int, pile_up: Array) -> Block:
    """Return the reconstructed quantities of one flavour, by branch name without the prefix."""
    n = len(hits.event)
    angle = 3e-4 if flavour == MUON else 9e-4
    flip = 1e-4 if flavour == MUON else np.where(np.abs(hits.eta) < 1.48, 0.004, 0.02)
    # relative isolation: pile-up in the cone over pT, plus the parent jet for non-prompt leptons
    cone = 0.4 if flavour == MUON else 0.3
    stray = float32(0.75 / 17.0 * (cone / 0.4) ** 1.5) * rng.standard_gamma(1.1, n, dtype=float32)
    stray *= pile_up[hits.event].astype(float32)
    jet = np.where(hits.origin == PROMPT, 0, float32(0.7) * rng.standard_exponential(n, float32))
    wide = np.maximum(0, stray - float32(0.35)) / hits.pt + jet
    wide = np.where(hits.spoiled, float32(0.5) + wide, wide)
    narrow = wide * np.sqrt(rng.random(n, float32)) if flavour == MUON else wide
    narrow = np.where(hits.spoiled, np.maximum(narrow, 0.5), narrow)
    turn = float32(2 * np.pi)
    eta = hits.eta + float32(angle) * rng.standard_normal(n, float32)
    phi = hits.phi + float32(angle) * rng.standard_normal(n, float32)
    columns = {
        "pt": hits.pt,
        "eta": eta,
        "phi": np.where(phi > np.pi, phi - turn, np.where(phi < -np.pi, phi + turn, phi)),
        "mass": np.full(n, MASS_MUON if flavour == MUON else MASS_ELECTRON, float32),
        "charge": np.where(rng.random(n, float32) < flip, -hits.charge, hits.charge).astype(np.int32),
        **{name: _shorten(values, 12) for name, values in _impact(rng, hits).items()},
        "pfRelIso03_all": _shorten(narrow, 11),
    }
    if flavour == MUON:
        columns["pfRelIso04_all"] = _shorten(wide, 11)
        # no isolation without a PF muon, no impact parameters without a global track
        soft = np.exp(-hits.pt / 3.5)
        no_isolation = rng.random(n, float32) < 0.008 + 0.35 * soft
        no_track = rng.random(n, float32) < 0.006 + 0.30 * soft
        for name in ("pfRelIso03_all", "pfRelIso04_all"):
            columns[name] = np.where(no_isolation, SENTINEL, columns[name])
        for name in ("dxy", "dxyErr", "dz", "dzErr"):
            columns[name] = np.where(no_track, SENTINEL, columns[name])
    return columns


def detect(rng: np.random.Generator, particles: Particles) -> Block:
    """Simulate the detector: one block of the tree without run, luminosityBlock and event.

    Keys are branch names; ``nMuon``, ``nElectron`` are counts (n_events,), ``Muon_*`` and ``Electron_*``
    flat.
    """
    n = particles.n_events
    pile_up = np.maximum(1, rng.poisson(rng.gamma(18.0, 17.0 / 18.0, n))).astype(np.int32)  # mean about 17
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
