"""The columns of `Leptons`: which ones to read, what they have to be, and which events have enough of them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from higgsnb.errors import SchemaError
from higgsnb.events.columns import Array, Columns, EventColumns, collection_of
from higgsnb.events.fast.baskets import Preselected
from higgsnb.events.fast.form import Catalogue, Form, lacks
from higgsnb.events.schema import BRANCHES
from higgsnb.selection import QUANTITIES, Leptons

FLAVOURS = {"Muon": "muon", "Electron": "electron"}
_TYPES = {
    "run": np.int64,
    "luminosity_block": np.int64,
    "event": np.uint64,
    "muon_charge": np.int32,
    "electron_charge": np.int32,
}
"""Types of the fields of `Leptons` that are not float32."""


class FourLeptons:
    """The condition that an event can hold a four-lepton candidate of any channel.

    An `Expression` says the same, and takes a little longer.
    """

    names = ("nMuon", "nElectron")

    def __call__(self, columns: Mapping[str, Array]) -> npt.NDArray[np.bool_]:
        """Return which events have enough leptons: (n,)."""
        muons, electrons = (columns[name] for name in self.names)
        passed: npt.NDArray[np.bool_] = (muons >= 4) | (electrons >= 4) | ((muons >= 2) & (electrons >= 2))
        return passed

    def __repr__(self) -> str:
        return "nMuon >= 4 or nElectron >= 4 or (nMuon >= 2 and nElectron >= 2)"


FOUR_LEPTONS = FourLeptons()
LEPTON_NAMES = tuple(name for name in BRANCHES.values() if not name.startswith("n"))
"""The columns behind `Leptons` in NanoAOD."""
LEPTON_COLUMNS = Columns(LEPTON_NAMES, FOUR_LEPTONS)
"""The same, of events with enough leptons."""


def check_leptons(form: Form, catalogue: Catalogue, location: str, tree: str) -> None:
    """Raise `SchemaError` if a file has no leptons at all, or if a column has another type than it should.

    It names the wrong branch, and the types that it has and should have.
    """
    if form.missing.names.issuperset(FLAVOURS):
        raise lacks([name for name in BRANCHES.values() if name not in form.flat], catalogue.names, location, tree)
    for name in LEPTON_NAMES:
        column = form.flat.get(name) or form.jagged.get(name)
        found = None if column is None else catalogue.typename(column)
        if column is None or found is None:
            continue
        if name in ("run", "luminosityBlock", "event"):
            expected = "one integer per event"
        else:
            expected = "integers per lepton" if name.endswith("charge") else "float per lepton"
        kind = "float" if re.search(r"float|double|real", found) else "integer" if "int" in found else "other"
        if bool(column.collection) != expected.endswith("per lepton") or kind not in expected:
            raise SchemaError(
                f"{location}: branch {column.branch} has type {found}; expected {expected}",
                "Is this a file of the schema that the campaign names?",
            )


def to_leptons(found: EventColumns | Preselected, branches: Mapping[str, str] = BRANCHES) -> Leptons:
    """Return columns that were read as `Leptons`, for `select`; ``branches`` are the columns behind its fields.

    Fields that have none are None. Of a flavour that a file does not have, each event has none.
    """
    fields: dict[str, Any] = dict.fromkeys(Leptons._fields)
    for name, branch in branches.items():
        values = found.jagged.get(branch, found.flat.get(branch))
        if values is not None and not name.endswith("_offsets"):
            fields[name] = values.astype(_TYPES.get(name, np.float32), copy=False)
    for flavour in ("muon", "electron"):
        if fields[f"{flavour}_pt"] is None:
            names = [f"{flavour}_{quantity}" for quantity in QUANTITIES]
            fields |= {name: np.empty(0, _TYPES.get(name, np.float32)) for name in names}
            fields[f"{flavour}_offsets"] = np.zeros(len(found.entries) + 1, np.int64)
        else:
            fields[f"{flavour}_offsets"] = found.offsets[collection_of(branches[f"{flavour}_pt"], found.offsets)]
    return Leptons(**fields)
