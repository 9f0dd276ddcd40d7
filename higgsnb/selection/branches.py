"""From the branches of a file to `Leptons`: which branches a selection needs, and what it makes of them.

Identification and all cuts that are expressions are evaluated here; the compiled code gets their outcome.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from higgsnb.errors import SchemaError, SelectionError
from higgsnb.selection import photons
from higgsnb.selection.expressions import Expression
from higgsnb.selection.leptons import Leptons, exists

if TYPE_CHECKING:
    from higgsnb.selection.cuts import Selection

COLLECTIONS = {"muon": "Muon", "electron": "Electron"}
"""The prefix of the branches of each flavour."""
STORED = {
    "pt": "pt", "eta": "eta", "phi": "phi", "mass": "mass", "charge": "charge",
    "dxy": "dxy", "dxy_error": "dxyErr", "dz": "dz", "dz_error": "dzErr",
}  # fmt: skip
"""Branches behind the quantities of a lepton that every selection uses; the isolation is named by the selection."""
SIGNIFICANCE = ("dxy_error", "dz_error")
"""Quantities that are used only where the significance of the impact parameter is not read."""
IMPACT_PARAMETER = ("dxy", "dz", *SIGNIFICANCE)
ENOUGH_LEPTONS = "nMuon >= 4 or nElectron >= 4 or (nMuon >= 2 and nElectron >= 2)"
"""What an event needs for any channel; nothing else is read of the others."""
TRIGGER = "HLT_"
"""How the name of a trigger path begins; a path that a file lacks has not fired."""


class EventColumns(Protocol):
    """What was read of some events, by the names of the branches.

    ``flat``: (n_events,), with ``run``, ``luminosityBlock`` and ``event``; ``jagged``: (n_objects,); ``offsets`` of
    each collection: (n_events + 1,) int64. ``missing``: names, of columns or collections, that the file lacks.
    """

    @property
    def flat(self) -> Mapping[str, npt.NDArray[Any]]:
        """Columns with one value per event."""

    @property
    def jagged(self) -> Mapping[str, npt.NDArray[Any]]:
        """Columns with one value per object."""

    @property
    def offsets(self) -> Mapping[str, npt.NDArray[np.int64]]:
        """Where the objects of each event start."""

    @property
    def missing(self) -> Collection[str]:
        """Names that the file lacks."""


def stored_columns(selection: Selection) -> dict[str, str]:
    """Return the branch behind each column of `Leptons` that is used as it is stored."""
    found: dict[str, str] = {}
    unused = (SIGNIFICANCE if selection.sip3d else ()) if selection.impact_parameter else IMPACT_PARAMETER
    for flavour, collection in COLLECTIONS.items():
        names = {name: branch for name, branch in STORED.items() if name not in unused}
        names["isolation"] = getattr(selection, f"{flavour}_isolation")
        names["sip3d"] = "sip3d" if selection.sip3d and selection.impact_parameter else ""
        found |= {f"{flavour}_{name}": f"{collection}_{branch}" for name, branch in names.items() if branch}
    return found


def computed_columns(selection: Selection) -> tuple[str, ...]:
    """Return the columns of `Leptons` that are computed for a selection."""
    asked = {flavour: [getattr(selection, f"{flavour}_{name}") for name in ("id", "cuts")] for flavour in COLLECTIONS}
    identified = tuple(f"{flavour}_id" for flavour, given in asked.items() if any(given))
    radiated = tuple(f"muon_photon_{name}" for name in ("pt", "eta", "phi")) if selection.fsr else ()
    return (*identified, *radiated, *(("passes",) if selection.event_level else ()))


def lepton_cuts(selection: Selection, flavour: str) -> Expression | None:
    """Return identification and cuts of a flavour as one condition, in names without the collection; None if none.

    `SelectionError` if that depends on the tree, see `Selection.of_tree`.
    """
    selection = selection.of_tree("")
    texts = (getattr(selection, f"{flavour}_id"), *getattr(selection, f"{flavour}_cuts"))
    found = [text for text in texts if text]
    return Expression.all_of(found) if found else None


def branches_of(selection: Selection, primary_dataset: str | None = None, *, is_data: bool = False) -> tuple[str, ...]:
    """Return the names of all branches that a selection reads; counters of objects are not among them.

    Of data of a primary dataset these are the trigger paths of that only.
    """
    names = list(stored_columns(selection).values())
    for one in [selection.of_tree(tree) for tree in selection.trees] or [selection]:
        for flavour, collection in COLLECTIONS.items():
            cuts = lepton_cuts(one, flavour)
            names += [f"{collection}_{name}" for name in (cuts.names if cuts else ())]
    names += photons.BRANCHES if selection.fsr else ()
    conditions = selection.event_conditions(primary_dataset, is_data=is_data)
    names += [name for one in conditions for name in one.names]
    return tuple(dict.fromkeys(names))


def to_leptons(
    columns: EventColumns, selection: Selection, primary_dataset: str | None = None, *, is_data: bool = False
) -> Leptons:
    """Return the leptons of events as a selection uses them; what the file lacks of its branches is an error.

    They serve this selection and others that differ from it in numbers only.

    Raises
    ------
    SchemaError
        If a branch is missing; a flavour that the file does not have at all counts as none.
    SelectionError
        If an event cut has not one value per event.
    """
    jagged, found = columns.jagged, dict[str, Any]()
    for flavour, collection in COLLECTIONS.items():
        found[f"{flavour}_offsets"] = columns.offsets[collection]
    for name, branch in stored_columns(selection).items():
        kind = np.int32 if name.endswith("_charge") else np.float32
        found[name] = _get(jagged, branch, selection).astype(kind, copy=False)
    for flavour, collection in COLLECTIONS.items():
        cuts = lepton_cuts(selection, flavour)
        if cuts is not None:
            found[f"{flavour}_id"] = _identified(jagged, collection, cuts, selection)
    event = {name: columns.flat[branch] for name, branch in (("run", "run"), ("luminosity_block", "luminosityBlock"))}
    absent = dict.fromkeys(Leptons._fields)
    leptons = Leptons(**absent | found | event | {"event": columns.flat["event"]})  # type: ignore[arg-type]
    if selection.fsr:
        lacks = [name for name in photons.BRANCHES if {name, photons.COLLECTION} & set(columns.missing)]
        some = {name: _get({} if lacks else jagged, name, selection) for name in photons.BRANCHES}
        leptons = photons.recovered(leptons, columns.offsets[photons.COLLECTION], some)
    if selection.event_level:
        leptons = leptons._replace(passes=_passes(columns, selection, primary_dataset, is_data))
    return leptons


def used_by(leptons: Leptons, selection: Selection) -> Leptons:
    """Return leptons without the columns that a selection does not use.

    Candidates in a table (CSV) have neither isolation nor impact parameters: what a selection needs beyond is then not
    applied either. Raises `SchemaError` for any others that lack a column that is computed or read for a selection.
    """
    used = {*stored_columns(selection), *computed_columns(selection)}
    optional = [*Leptons._field_defaults]
    optional += [f"{flavour}_{name}" for flavour in COLLECTIONS for name in (*IMPACT_PARAMETER, "isolation")]
    unused = [name for name in optional if name not in used and getattr(leptons, name) is not None]
    others = ("muon_dxy", "muon_dz", "muon_isolation", *Leptons._field_defaults)
    has_kinematics_only = all(getattr(leptons, name) is None for name in others)
    if not has_kinematics_only:
        for name in Leptons._field_defaults:
            if name in used and getattr(leptons, name) is None:
                raise SchemaError(
                    f"no column {name} was made for the leptons, which selection {selection.name!r} needs",
                    "Take NanoAOD, which has Selection.columns; open2012 needs no more than every file of events has.",
                )
    return leptons._replace(**dict.fromkeys(unused)) if unused else leptons  # type: ignore[arg-type]


def _get(columns: Mapping[str, npt.NDArray[Any]], branch: str, selection: Selection) -> npt.NDArray[Any]:
    if branch not in columns:
        hint = "Take files that have it (NanoAOD v9), or leave the cut that needs it out: Selection.replace(…)."
        raise SchemaError(f"no branch {branch}, which selection {selection.name!r} needs", hint)
    return columns[branch]


def _identified(
    jagged: Mapping[str, npt.NDArray[Any]], collection: str, cuts: Expression, selection: Selection
) -> npt.NDArray[np.int8]:
    """Return 1 for leptons that pass the cuts, 0 for others, -1 where a value does not exist, (n_leptons,)."""
    some = {name: _get(jagged, f"{collection}_{name}", selection) for name in cuts.names}
    n = len(jagged[f"{collection}_pt"])
    found = np.broadcast_to(cuts(some), n).astype(np.int8)
    lacks = {name: np.zeros(n, np.bool_) for name in ("counted elsewhere", "counted here")}
    for name, values in some.items():
        if values.dtype.kind == "f":
            lacks["counted elsewhere" if name in STORED.values() else "counted here"] |= ~exists(values)
    found[lacks["counted elsewhere"]] = 0
    found[lacks["counted here"]] = -1
    return found


def _passes(
    columns: EventColumns, selection: Selection, primary_dataset: str | None, is_data: bool
) -> npt.NDArray[np.bool_]:
    """Return which events pass triggers and event cuts, (n_events,)."""
    n = len(columns.flat["run"])
    passes = np.ones(n, np.bool_)
    for one in selection.event_conditions(primary_dataset, is_data=is_data):
        some = {}
        for name in one.names:
            if name in columns.jagged:
                what = f"selection {selection.name!r}: event cut {one.text!r}: {name} has one value per object"
                raise SelectionError(what, "Cut on leptons with muon_cuts and electron_cuts, count objects: nJet >= 2.")
            lacks = name.startswith(TRIGGER) and name not in columns.flat
            some[name] = np.zeros(n, np.bool_) if lacks else _get(columns.flat, name, selection)
        passes &= one(some)
    return passes
