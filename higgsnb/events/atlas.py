"""ATLAS Open Data for education: trees, names and units by release, and leptons by flavour.

============  ==========  =======  ===================================================================
release       tree        energy   impact parameters, isolation
============  ==========  =======  ===================================================================
2020 (2016)   mini        MeV      lep_trackd0pvunbiased, lep_z0 in mm; lep_ptcone30, lep_etcone20
2025          analysis    GeV      lep_d0, lep_z0 in mm; lep_ptvarcone30, lep_topoetcone20
============  ==========  =======  ===================================================================

(ATLAS Open Data, "Variables" of the 2025 release, which lists what was renamed.) Columns have the names of the file.
Momenta, masses and energies are returned in GeV, flags (``trigE``, ``lep_isTightID``) as booleans. Muons and electrons
share the collection ``lep``, with ``lep_type`` 13 and 11: ``Muon_x`` and ``Electron_x`` are the ``lep_x`` of one
flavour, ``nMuon`` and ``nElectron`` their numbers. Four of these have another origin, as NanoAOD has them:
``Muon_mass`` is the mass from the PDG, ``Muon_dxy`` and ``Muon_dz`` are d0 and z0 in cm, ``Muon_relIso`` is the sum of
track momenta around it over its own. ``nTrigMatched`` is the number of leptons that fired a trigger
(``lep_trigMatched``, in 2025 ``lep_isTrigMatched``).
There is no error of dxy or dz: what `mini` calls the significance of d0 (``lep_tracksigd0pvunbiased``) is used as its
error by ATLAS's own code, and the two cannot both be right.

There are no lumi sections: ``luminosityBlock`` is 0.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from higgsnb.errors import SchemaError
from higgsnb.events.columns import (
    IDENTIFIERS,
    AllOf,
    Array,
    Columns,
    Condition,
    EventColumns,
    keep,
    offsets_of,
    only,
)
from higgsnb.events.leptons import FOUR_LEPTONS
from higgsnb.events.schema import MASSES, RELEASES
from higgsnb.selection import ELECTRON, MUON

RUN, EVENT, TYPE = "runNumber", "eventNumber", "lep_type"
FLAVOURS = {"Muon": MUON, "Electron": ELECTRON}
_MATCHED = {"nTrigMatched": ("lep_isTrigMatched", "lep_trigMatched")}
"""Numbers of leptons for which a flag is set, with the columns that it may be."""
_COUNTERS = (*(f"n{prefix}" for prefix in FLAVOURS), *_MATCHED)
_ENERGY = re.compile(r"(?:^|_)(?:pt|E|e|m|et|ptcone\d+|etcone\d+|ptvarcone\d+|topoetcone\d+)(?:_syst)?$")
_FLAG = re.compile(r"(?:^|_)(?:is|trig)[A-Z]\w*$")
_MM_PER_CM = 10.0
_UNITS = {1000.0: "MeV", 1.0: "GeV"}
_D0, _Z0, _CONES = ("lep_d0", "lep_trackd0pvunbiased"), ("lep_z0",), ("lep_ptvarcone30", "lep_ptcone30")
_MADE = {"mass": (), "dxy": _D0, "dz": _Z0, "relIso": _CONES}
"""Quantities of one flavour that are not in the file as they are, with the columns that they may be made of."""


def lepton_columns(present: Collection[str]) -> dict[str, str]:
    """Return the column behind each field of `Leptons`, in a file with some columns; what it lacks has none."""
    made = {"dxy": "dxy", "dz": "dz", "isolation": "relIso"}
    own = {field: name for field, name in made.items() if set(_MADE[name]) & set(present)}
    found = {"run": "run", "luminosity_block": "luminosityBlock", "event": "event"}
    for flavour, prefix in (("muon", "Muon"), ("electron", "Electron")):
        found |= {f"{flavour}_{name}": f"{prefix}_{name}" for name in ("pt", "eta", "phi", "mass", "charge")}
        found |= {f"{flavour}_{field}": f"{prefix}_{name}" for field, name in own.items()}
    return found


@dataclass(frozen=True)
class _InGeV:
    """A condition whose columns are in the unit of a release."""

    condition: Condition
    tree: str

    @property
    def names(self) -> tuple[str, ...]:
        return self.condition.names

    def __call__(self, columns: Mapping[str, Array]) -> Any:
        return self.condition({name: _in_gev(name, values, self.tree) for name, values in columns.items()})


class _FourOfAnyFlavour:
    """What `FOUR_LEPTONS` requires at least, before flavours are told apart."""

    names = ("lep_n",)

    def __call__(self, columns: Mapping[str, Array]) -> Any:
        return columns["lep_n"] >= 4


_FOUR_OF_ANY_FLAVOUR = _FourOfAnyFlavour()


def in_file(columns: Columns, tree: str, present: Collection[str]) -> Columns:
    """Return what to read of a file with the columns ``present``; `in_nanoaod` is the way back."""
    if tree not in RELEASES:
        raise SchemaError(
            f"tree {tree!r} is of no known release of ATLAS Open Data, so that the unit of its energies is not known",
            f"Known: {', '.join(f'{name} ({_UNITS[unit]})' for name, unit in RELEASES.items())}.",
        )
    names, condition = [RUN, EVENT, *_sources(columns.names, present)], columns.preselection
    if condition is not None and _flavoured(condition.names):
        names += _sources(condition.names, present)
        parts = condition.conditions if isinstance(condition, AllOf) else (condition,)
        condition = _FOUR_OF_ANY_FLAVOUR if FOUR_LEPTONS in parts else None  # the rest has to wait for flavours
    elif condition is not None:
        condition = _InGeV(condition, tree)
    return Columns(tuple(names), condition)


def _sources(names: Sequence[str], present: Collection[str]) -> list[str]:
    """Return the columns of a file that some columns are made of."""
    found: list[str] = [] if not _flavoured(names) else [TYPE, "lep_pt"]
    for name in names:
        prefix, _, quantity = name.partition("_")
        if name in _MATCHED:
            found.append(_first(_MATCHED[name], present))
        elif prefix not in FLAVOURS:
            found += [] if name in (*IDENTIFIERS, *_COUNTERS) else [name]
        elif quantity in _MADE:
            found += [_first(_MADE[quantity], present)] if _MADE[quantity] else []
        else:
            found.append(f"lep_{quantity}")
    return found


def _first(names: Sequence[str], present: Collection[str]) -> str:
    """Return the first of some columns that is there; the first one, to be missed, if none is."""
    return next((name for name in names if name in present), names[0])


def _flavoured(names: Sequence[str]) -> bool:
    """Whether some columns are those of one flavour."""
    return any(name in _COUNTERS or name.partition("_")[0] in FLAVOURS for name in names)


def in_nanoaod(found: EventColumns, columns: Columns, tree: str) -> EventColumns:
    """Return what was read of a file as it was asked for: in GeV, leptons by flavour, events of the preselection."""
    flat = {name: _in_gev(name, values, tree) for name, values in found.flat.items()}
    event = flat.pop(EVENT)
    flat["run"] = flat[RUN].astype(np.int64)
    flat["luminosityBlock"] = np.zeros(len(event), np.int64)
    wrapped = event.astype(np.int64) % 2**32 if event.dtype == np.int32 else event  # of the release of 2020
    flat["event"] = wrapped.astype(np.uint64)
    jagged = {name: _in_gev(name, values, tree) for name, values in found.jagged.items()}
    offsets = dict(found.offsets)
    condition = columns.preselection
    tested = () if condition is None or not _flavoured(condition.names) else condition.names
    wanted = [name for name in (*columns.names, *tested) if _flavoured([name])]
    for prefix in FLAVOURS if wanted else ():
        which = np.abs(jagged[TYPE].astype(np.int64)) == FLAVOURS[prefix]
        before = offsets_of(which)[found.offsets["lep"]]
        offsets[prefix] = before - before[:1]
        flat[f"n{prefix}"] = np.diff(before)
        names = [name for name in wanted if name.startswith(f"{prefix}_")]
        jagged |= {name: _of_flavour(name.partition("_")[2], jagged, which, FLAVOURS[prefix]) for name in names}
    for name in {*columns.names, *tested} & set(_MATCHED):
        flags = next(jagged[one] for one in _MATCHED[name] if one in jagged) != 0
        flat[name] = np.diff(offsets_of(flags)[found.offsets["lep"]])
    everything = found._replace(flat=flat, jagged=jagged, offsets=offsets)
    if tested and condition is not None:
        everything = keep(everything, columns.passing(flat, len(event)))
    return only(everything, columns.names)


def _of_flavour(quantity: str, jagged: Mapping[str, Array], which: npt.NDArray[np.bool_], flavour: int) -> Any:
    """Return a quantity of the leptons of one flavour, ``which`` of all leptons."""
    if quantity not in _MADE:
        return jagged[f"lep_{quantity}"][which]
    pt = jagged["lep_pt"][which]
    if quantity == "mass":
        return np.full(len(pt), MASSES[flavour], np.float32)
    values = next(jagged[name] for name in _MADE[quantity] if name in jagged)[which]
    if quantity == "relIso":
        with np.errstate(divide="ignore", invalid="ignore"):
            return values / pt
    return values / values.dtype.type(_MM_PER_CM)


def _in_gev(name: str, values: Array, tree: str) -> Any:
    """Return a column with energies in GeV, and with flags as booleans."""
    if _FLAG.search(name) and values.dtype.kind in "iu":
        return values != 0
    unit = RELEASES[tree]
    if unit == 1.0 or values.dtype.kind != "f" or not _ENERGY.search(name):
        return values
    return values / values.dtype.type(unit)
