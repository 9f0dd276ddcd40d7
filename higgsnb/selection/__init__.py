"""Which events to keep: cuts as data, and the compiled code that applies them."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from higgsnb.selection.analysis import NOMINAL, Analysis, Processor, Sample, Selected, Shift
from higgsnb.selection.binning import FOUR_LEPTON_AXES, FOUR_LEPTON_WINDOWS, Axis, Binning
from higgsnb.selection.branches import to_leptons, used_by
from higgsnb.selection.cuts import CUT_NAMES, LARGEST, NUMBERS, Cut, Selection, four_lepton_selection, load, names
from higgsnb.selection.expressions import Expression, parse
from higgsnb.selection.leptons import (
    CHANNELS,
    ELECTRON,
    FOUR_ELECTRONS,
    FOUR_MUONS,
    MUON,
    QUANTITIES,
    SENTINEL,
    TWO_EACH,
    Candidates,
    Flavour,
    Leptons,
    four_momenta,
    keep_events,
    missing_quantities,
)
from higgsnb.selection.observables import observe
from higgsnb.selection.options import identified

if TYPE_CHECKING:
    from higgsnb.selection import pairings, rules
    from higgsnb.selection.compiled import COMPILED_FOLDER, rule
    from higgsnb.selection.filling import DIGIT, add_weights, combine_weights
    from higgsnb.selection.identity import (
        Identity,
        captured_digest,
        check_unchanged,
        identify,
        load_from_file,
        pack,
        unpack,
    )
    from higgsnb.selection.kernel import is_compiled, select, warm_up
    from higgsnb.selection.pairings import Pairings, Preselected

__all__ = [
    "load",
    "names",
    "Analysis",
    "Selected",
    "Shift",
    "Sample",
    "Processor",
    "Axis",
    "Binning",
    "NOMINAL",
    "FOUR_LEPTON_AXES",
    "FOUR_LEPTON_WINDOWS",
    "Selection",
    "four_lepton_selection",
    "Cut",
    "CUT_NAMES",
    "CHANNELS",
    "FOUR_MUONS",
    "FOUR_ELECTRONS",
    "TWO_EACH",
    "NUMBERS",
    "LARGEST",
    "Leptons",
    "Flavour",
    "Candidates",
    "MUON",
    "ELECTRON",
    "QUANTITIES",
    "SENTINEL",
    "missing_quantities",
    "to_leptons",
    "used_by",
    "keep_events",
    "four_momenta",
    "observe",
    "identified",
    "select",
    "is_compiled",
    "warm_up",
    "rule",
    "rules",
    "COMPILED_FOLDER",
    "pairings",
    "Pairings",
    "Preselected",
    "add_weights",
    "combine_weights",
    "DIGIT",
    "parse",
    "Expression",
    "load_from_file",
    "identify",
    "Identity",
    "captured_digest",
    "check_unchanged",
    "pack",
    "unpack",
]

_LATE = {
    "select": "kernel", "is_compiled": "kernel", "warm_up": "kernel", "rule": "compiled", "COMPILED_FOLDER": "compiled",
    "rules": "rules", "pairings": "pairings", "Pairings": "pairings", "Preselected": "pairings",
    "add_weights": "filling", "combine_weights": "filling", "DIGIT": "filling",
    "identify": "identity", "Identity": "identity", "captured_digest": "identity", "check_unchanged": "identity",
    "pack": "identity", "unpack": "identity", "load_from_file": "identity",
}  # fmt: skip
"""Names of rooms that load numba or cloudpickle, each with its room: they are loaded on first use."""


def __getattr__(name: str) -> Any:
    if name not in _LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    room = import_module(f"{__name__}.{_LATE[name]}")
    return room if name == _LATE[name] else getattr(room, name)


def __dir__() -> list[str]:
    return __all__
