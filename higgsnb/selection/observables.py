"""What a histogram of one's own can show of the four-lepton candidates: quantities that are there, and observables.

An observable is an expression, or a function, of the quantities. All are computed of the selected candidates only, in
float64, with the photons that muons have radiated where the masses have them.
"""

from __future__ import annotations

import inspect
import keyword
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from higgsnb.errors import AnalysisError, OptionError, SelectionError, did_you_mean, first_line
from higgsnb.selection.analysis import RESERVED
from higgsnb.selection.binning import FOUR_LEPTON_AXES, Axis
from higgsnb.selection.expressions import parse
from higgsnb.selection.leptons import MUON, Candidates, Leptons, four_momenta, momentum
from higgsnb.text import shown

Floats = npt.NDArray[np.float64]
Observables = tuple[tuple[str, Any], ...]
"""The text of an expression, or a function, by name."""
Refuse = Callable[[str, str], SelectionError]


class Quantity(NamedTuple):
    """A quantity of a candidate: how axes are labelled, its unit, and how many values a candidate has."""

    label: str
    unit: str = ""
    n_values: int = 1


_OF_LEPTONS = {
    "pt": Quantity("transverse momentum", "GeV"), "eta": Quantity("pseudorapidity"), "phi": Quantity("azimuth"),
    "mass": Quantity("mass", "GeV"), "charge": Quantity("charge"), "pdg_id": Quantity("PDG number"),
}  # fmt: skip
QUANTITIES = {
    "mass_4l": Quantity("four-lepton mass", "GeV"),
    "mass_z1": Quantity("mass of Z1", "GeV"),
    "mass_z2": Quantity("mass of Z2", "GeV"),
    "pt_4l": Quantity("four-lepton transverse momentum", "GeV"),
    "eta_4l": Quantity("four-lepton pseudorapidity"),
    "phi_4l": Quantity("four-lepton azimuth"),
    "rapidity_4l": Quantity("four-lepton rapidity"),
    "pt_z1": Quantity("transverse momentum of Z1", "GeV"),
    "pt_z2": Quantity("transverse momentum of Z2", "GeV"),
    "mass_ll_min": Quantity("smallest mass of two leptons of opposite charge", "GeV"),
    "delta_r_ll_min": Quantity("smallest distance of two leptons"),
    "cos_theta_star": Quantity("cos θ*"),
    "cos_theta_1": Quantity("cos θ1"),
    "cos_theta_2": Quantity("cos θ2"),
    "phi_planes": Quantity("angle Φ between the decay planes"),
    "phi_1": Quantity("angle Φ1 of the decay plane of Z1"),
} | {f"lepton_{name}": one._replace(label=f"lepton {one.label}", n_values=4) for name, one in _OF_LEPTONS.items()} | {
    f"lep{i}_{name}": one._replace(label=f"{one.label} of lepton {i}") for i in (1, 2, 3, 4)
    for name, one in _OF_LEPTONS.items()
}  # fmt: skip
"""The quantities by name.

Leptons 1 to 4 are Z1 harder, Z1 softer, Z2 harder, Z2 softer, ``lepton_…`` all four, (n, 4). Without photons are those
of single leptons, ``mass_ll_min`` (whatever the flavours) and ``delta_r_ll_min``. The five angles are those of
Gao et al., Phys. Rev. D 81 (2010) 075022.
"""
STORED = {"mass_4l", "mass_z1", "mass_z2", "lepton_pt", "lepton_eta"}
"""Those that every row has anyhow."""
_TAKEN = {*QUANTITIES, *_OF_LEPTONS, *Candidates._fields, *RESERVED, "values"}


# --- As they are given


def checked_observables(value: Any, refuse: Refuse) -> Observables:
    """Return observables, given by name, as a tuple; raise SelectionError for anything else."""
    if isinstance(value, str) or not isinstance(value, Mapping | Sequence):
        raise refuse("observables by name", 'Give {"ratio": "mass_z2 / mass_z1"}.')
    pairs = list(value.items()) if isinstance(value, Mapping) else list(value)
    found: dict[str, Any] = {}
    for pair in pairs:
        name, given = pair if isinstance(pair, tuple) and len(pair) == 2 else (pair, None)
        if not isinstance(name, str) or not name.isidentifier() or name.startswith("_") or keyword.iskeyword(name):
            raise refuse(f"names of observables, not {shown(name)}", "A name has letters, digits and underscores.")
        if name in found or name in _TAKEN:
            raise refuse(f"new names, not {name!r}", "There is a column of that name: call it something else.")
        found[name] = _checked(name, given, refuse)
    return tuple(found.items())


def _checked(name: str, given: Any, refuse: Refuse) -> Any:
    """Return an expression as it is written normally, or a function that can be identified."""
    single = [one for one, quantity in QUANTITIES.items() if quantity.n_values == 1]
    if isinstance(given, str):
        try:
            return parse(given, allowed=single).text
        except SelectionError as error:
            raise refuse(f"an expression for {name!r}; {error.message}", error.hint) from None
    if not callable(given):
        hint = 'Give an expression, {"ratio": "mass_z2 / mass_z1"}, or a function of such quantities.'
        raise refuse(f"an observable {name!r}, not {shown(given)}", hint)
    for argument in _arguments(given):
        if argument not in QUANTITIES:
            what = f"a function for {name!r} whose arguments are quantities, not {argument!r}"
            raise refuse(what, did_you_mean(argument, QUANTITIES))
    from higgsnb.selection.identity import identify

    identify(given)  # or refuse it
    return given


def _arguments(function: Any) -> tuple[str, ...]:
    """Return the names of the arguments of a function without a default."""
    parameters = inspect.signature(getattr(function, "py_func", function)).parameters.values()
    return tuple(one.name for one in parameters if one.default is one.empty)


def checked_axes(value: Any, refuse: Refuse) -> tuple[Axis, ...]:
    """Return axes, each an `Axis` or a table of its fields, with label and unit; raise SelectionError for others."""
    hint = 'Give a list: [higgsnb.Axis("pt_4l", 50, 0, 200)]; in a file [[axes]] with name, bins, start and stop.'
    if isinstance(value, str | Mapping) or not isinstance(value, Sequence):
        raise refuse("a list of axes", hint)
    found: list[Axis] = []
    for one in value:
        if not isinstance(one, Axis | Mapping):
            raise refuse(f"axes, not {shown(one)}", hint)
        axis = one if isinstance(one, Axis) else _axis(one, refuse)
        if axis.name in {other.name for other in (*FOUR_LEPTON_AXES, *found)}:
            raise refuse(f"new names, not {axis.name!r}", "There is an axis of that name: call it something else.")
        found.append(axis)
    return tuple(map(_described, found))


def _axis(table: Mapping[str, Any], refuse: Refuse) -> Axis:
    known = ("name", "bins", "start", "stop", "label", "unit", "variable", "per_event")
    for key in table:
        if key not in known:
            raise refuse(f"keys of an axis, not {shown(key)}", did_you_mean(str(key), known))
    for key in ("name", "bins"):
        if key not in table:
            raise refuse(f"axes with a {key}", "Give name, bins, start and stop, or ascending edges as bins.")
    try:
        return Axis(**table)
    except (OptionError, TypeError, ValueError) as error:
        raise refuse(f"an axis; {first_line(error)}", getattr(error, "hint", "") or "Give numbers.") from None


def _described(axis: Axis) -> Axis:
    """Return an axis with the label, the unit and the number of values of its quantity, where it gives none."""
    quantity = QUANTITIES.get(axis.variable)
    if quantity is None:
        return axis
    if axis.label == axis.name and not axis.unit:
        axis = replace(axis, label=quantity.label, unit=quantity.unit)
    return replace(axis, per_event=quantity.n_values) if axis.per_event == 1 else axis


def check_variables(selection: str, axes: Sequence[Axis], observables: Observables) -> None:
    """Raise SelectionError for an axis of which no quantity or observable is known, or with too many values."""
    known = {**{name: one.n_values for name, one in QUANTITIES.items()}, **dict.fromkeys(dict(observables), 0)}
    for axis in axes:
        if axis.variable not in known:
            what = f"selection {selection!r}: axis {axis.name!r} is of {axis.variable!r}, which is no quantity"
            raise SelectionError(what, f"{did_you_mean(axis.variable, known)} Or define it: observables.")
        if known[axis.variable] not in (0, axis.per_event):
            what = f"selection {selection!r}: axis {axis.name!r}: per_event = {axis.per_event}"
            raise SelectionError(what, f"{axis.variable} has {known[axis.variable]} of a candidate: leave it out.")


def own_columns(axes: Sequence[Axis], observables: Observables) -> dict[str, int]:
    """Return what rows have beside what all have, and how many values of each: of own axes, and all observables."""
    found = dict.fromkeys(dict(observables), 1)
    for axis in axes:
        found[axis.variable] = max(found.get(axis.variable, 1), axis.per_event)
    return {name: n for name, n in found.items() if name not in STORED}


# --- What they are


def observe(
    leptons: Leptons, candidates: Candidates, columns: Mapping[str, int], observables: Observables
) -> dict[str, Floats]:
    """Return some quantities and observables of candidates, (n,) or (n, k) float64 by name.

    Raises
    ------
    AnalysisError
        If a function fails, or does not return numbers of that shape.
    """
    n, given, found = len(candidates.channel), dict(observables), {}
    if not n or not columns:
        return {name: np.zeros((n, k) if k > 1 else n) for name, k in columns.items()}
    quantities = _quantities(leptons, candidates)
    for name, k in columns.items():
        what = quantities[name] if name in quantities else _computed(name, given[name], quantities)
        found[name] = _numbers(name, what, n, k)
    return found


def _computed(name: str, given: Any, quantities: Mapping[str, Floats]) -> Any:
    if isinstance(given, str):
        return parse(given)(quantities)
    from higgsnb.selection.identity import captured_digest, check_unchanged

    before = captured_digest(given)
    try:
        found = given(*(quantities[argument] for argument in _arguments(given)))
    except MemoryError:
        raise
    except Exception as error:
        what = f"observable {name!r}: {type(error).__name__}: {first_line(error)}"
        hint = "Its arguments are arrays, (n,), or (n, 4) of lepton_…, and so is what it returns."
        raise AnalysisError(what, hint) from error
    check_unchanged(given, before)
    return found


def _numbers(name: str, value: Any, n: int, k: int) -> Floats:
    """Return what was computed as (n,) float64, or for k values of a candidate as (n, k), filled up with NaN."""
    found = np.asarray(value)
    if found.shape == ():
        found = np.broadcast_to(found, n)
    is_right = found.shape == (n,) or (found.ndim == 2 and len(found) == n and found.shape[1] <= k)
    if found.dtype.kind not in "fiub" or not is_right:
        what = f"observable {name!r} is an array {found.shape} of type {found.dtype} for {n} candidates"
        raise AnalysisError(what, f"Return {n} numbers, one for each candidate, or give the axis per_event=…")
    found = found.astype(np.float64)
    if k == 1:
        return found.reshape(n)
    found = found.reshape(n, -1)
    return np.pad(found, ((0, 0), (0, k - found.shape[1])), constant_values=np.nan)


def _quantities(leptons: Leptons, candidates: Candidates) -> dict[str, Floats]:
    """Return all `QUANTITIES` of candidates."""
    is_muon, lepton = candidates.flavour == MUON, candidates.lepton
    found: dict[str, Any] = {name: getattr(candidates, name) for name in ("mass_4l", "mass_z1", "mass_z2")}
    for name in ("pt", "eta", "phi", "mass", "charge"):
        found[f"lepton_{name}"] = one = np.empty(lepton.shape)
        one[is_muon] = getattr(leptons, f"muon_{name}")[lepton[is_muon]]
        one[~is_muon] = getattr(leptons, f"electron_{name}")[lepton[~is_muon]]
    found["lepton_pdg_id"] = -found["lepton_charge"] * candidates.flavour
    for i in range(4):
        found |= {f"lep{i + 1}_{name}": found[f"lepton_{name}"][:, i] for name in _OF_LEPTONS}
    legs = four_momenta(leptons, candidates)
    with np.errstate(divide="ignore", invalid="ignore"):  # what does not exist is NaN, and in no bin
        return found | _of_sums(legs) | _of_pairs(found) | _angles(legs, found["lepton_charge"])


def _of_sums(legs: Floats) -> dict[str, Floats]:
    """Return what the momenta of Z1, Z2 and all four leptons have; ``legs`` (n, 4, 4) are energy, px, py, pz."""
    z1, z2, (energy, px, py, pz) = legs[:, :2].sum(axis=1), legs[:, 2:].sum(axis=1), legs.sum(axis=1).T
    return {
        "pt_4l": np.hypot(px, py),
        "eta_4l": np.arcsinh(pz / np.hypot(px, py)),
        "phi_4l": np.arctan2(py, px),
        "rapidity_4l": np.arctanh(pz / energy),
        "pt_z1": np.hypot(z1[:, 1], z1[:, 2]),
        "pt_z2": np.hypot(z2[:, 1], z2[:, 2]),
    }


def _of_pairs(found: Mapping[str, Floats]) -> dict[str, Floats]:
    """Return the smallest mass and distance of two leptons."""
    legs = momentum(*(found[f"lepton_{name}"] for name in ("pt", "eta", "phi", "mass")))
    mass, distance = (np.full(len(legs), np.inf) for _ in range(2))
    for i, j in combinations(range(4), 2):
        energy, px, py, pz = (legs[:, i] + legs[:, j]).T
        squared = np.maximum(energy**2 - px**2 - py**2 - pz**2, 0.0)
        opposite = found["lepton_charge"][:, i] + found["lepton_charge"][:, j] == 0
        mass = np.where(opposite, np.minimum(mass, np.sqrt(squared)), mass)
        eta, phi = (found[f"lepton_{name}"][:, i] - found[f"lepton_{name}"][:, j] for name in ("eta", "phi"))
        distance = np.minimum(distance, np.hypot(eta, np.remainder(phi + np.pi, 2 * np.pi) - np.pi))
    return {"mass_ll_min": mass, "delta_r_ll_min": distance}


def _angles(legs: Floats, charge: Floats) -> dict[str, Floats]:
    """Return the five angles of the decay; ``legs`` (n, 4, 4), ``charge`` (n, 4)."""
    legs = _boosted(legs, legs.sum(axis=1))  # all that follows is in the rest frame of the four leptons
    order = np.concatenate([np.argsort(charge[:, :2], axis=1), 2 + np.argsort(charge[:, 2:], axis=1)], axis=1)
    legs = np.take_along_axis(legs, order[:, :, np.newaxis], axis=1)  # ℓ⁻ and ℓ⁺ of Z1, then of Z2
    z1, z2 = legs[:, :2].sum(axis=1), legs[:, 2:].sum(axis=1)
    direction, beam = _unit(z1[:, 1:]), np.array([0.0, 0.0, 1.0])
    planes = [_unit(np.cross(legs[:, i, 1:], legs[:, i + 1, 1:])) for i in (0, 2)]
    production = _unit(np.cross(np.broadcast_to(beam, direction.shape), direction))
    angles = {"cos_theta_star": direction[:, 2]}
    for number, (mine, other, first) in enumerate(((z1, z2, 0), (z2, z1, 2)), 1):
        lepton, recoil = _boosted(np.stack([legs[:, first], other], axis=1), mine).swapaxes(0, 1)[:, :, 1:]
        angles[f"cos_theta_{number}"] = -(_unit(lepton) * _unit(recoil)).sum(axis=1)
    angles["phi_planes"] = _turned(planes[0], -planes[1], np.cross(planes[0], planes[1]), direction)
    angles["phi_1"] = _turned(planes[0], production, np.cross(planes[0], production), direction)
    return angles


def _turned(one: Floats, other: Floats, axis: Floats, direction: Floats) -> Floats:
    """Return the angle between two unit vectors, (n,), with the sign of ``axis`` along ``direction``."""
    sign = np.where((axis * direction).sum(axis=1) < 0, -1.0, 1.0)
    return np.asarray(sign * np.arccos(np.clip((one * other).sum(axis=1), -1.0, 1.0)))


def _unit(vectors: Floats) -> Floats:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=-1, keepdims=True))


def _boosted(vectors: Floats, frame: Floats) -> Floats:
    """Return four-momenta, (n, k, 4), in the rest frame of another, (n, 4)."""
    beta = (frame[:, 1:] / frame[:, :1])[:, np.newaxis]
    squared = (beta**2).sum(axis=-1, keepdims=True)
    gamma = 1.0 / np.sqrt(1.0 - squared)
    along = (vectors[..., 1:] * beta).sum(axis=-1, keepdims=True)
    factor = np.where(squared > 0, (gamma - 1.0) / np.where(squared > 0, squared, 1.0), 0.0)
    energy = gamma * (vectors[..., :1] - along)
    return np.concatenate([energy, vectors[..., 1:] + (factor * along - gamma * vectors[..., :1]) * beta], axis=-1)
