"""The options of a selection as they are written in a TOML file or in Python, checked and in one form."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import Field
from typing import Any

from higgsnb.errors import SelectionError
from higgsnb.selection.branches import TRIGGER
from higgsnb.selection.expressions import parse
from higgsnb.selection.observables import checked_axes, checked_observables
from higgsnb.text import is_one_line, shown

Triggers = tuple[tuple[str, tuple[str, ...]], ...]
"""Trigger paths by primary dataset, in the order of precedence."""
Identification = str | tuple[tuple[str, str], ...]
"""A condition on leptons, or one for each tree of events; empty for none."""
Pairing = Callable[[float, float, float, float, float], float]


def checked_option(selection: str, field: Field[Any], value: Any) -> Any:
    """Return the value of an optional field in the form in which it is kept; raise SelectionError for any other."""

    def refuse(expected: str, hint: str) -> SelectionError:
        return SelectionError(f"selection {selection!r}: {field.name} = {shown(value)}; expected {expected}", hint)

    flavour, _, kind = field.name.partition("_")
    whole = {
        "pairing": _checked_pairing, "triggers": _checked_triggers, "axes": checked_axes,
        "observables": checked_observables,
    }.get(field.name)  # fmt: skip
    if whole is not None:
        return whole(value, refuse)
    if kind == "isolation":
        if not isinstance(value, str) or not re.fullmatch(r"\w*", value, re.ASCII):
            raise refuse("the name of a column", f"A column of {flavour}s, such as pfRelIso03_all, or nothing.")
        return value
    if kind == "id":
        return _checked_identification(value, flavour, refuse)
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise refuse("a list of conditions", f'Write {field.name} = ["…", "…"].')
    return tuple(_condition(text, flavour, refuse) for text in value)


def _checked_pairing(value: Any, refuse: Callable[[str, str], SelectionError]) -> Any:
    """Return a function that can be identified, as Python has it, or None."""
    if value is not None and not callable(value):
        raise refuse("a function", "Give it in Python: Selection.replace(pairing=function).")
    function = getattr(value, "py_func", value)  # of a function that numba has compiled already
    if function is not None:
        from higgsnb.selection.identity import identify

        identify(function)  # or refuse it
    return function


def _checked_identification(value: Any, flavour: str, refuse: Callable[[str, str], SelectionError]) -> Identification:
    """Return an identification, given as a condition or by the name of the tree of events."""
    if value == "":
        return ""
    if isinstance(value, str) or not isinstance(value, (Mapping, tuple)):
        return _condition(value, flavour, refuse)
    given = dict(value) if isinstance(value, Mapping) or all(isinstance(one, tuple) for one in value) else {}
    if not given or not all(isinstance(tree, str) and re.fullmatch(r"\w+", tree, re.ASCII) for tree in given):
        raise refuse("a condition, or one by the name of the tree", '{flavour}_id = {{ mini = "…", analysis = "…" }}.')
    return tuple((tree, _condition(text, flavour, refuse)) for tree, text in given.items())


def _condition(text: Any, flavour: str, refuse: Callable[[str, str], SelectionError]) -> str:
    """Return a condition as it is written normally; ``flavour`` is "muon", "electron", or "event"."""
    if not isinstance(text, str):
        raise refuse("a condition", 'For example "MET_pt < 60", or "sip3d < 4" for leptons.')
    try:
        found = parse(text, kind="condition")
    except SelectionError as error:
        raise refuse(f"a condition; {error.message}", error.hint) from None
    for name in found.names:
        of_leptons = name.startswith(("Muon_", "Electron_"))
        if of_leptons and flavour == "event":
            raise refuse("conditions on the event", f"Write {name.partition('_')[2]} in the cuts of that flavour.")
        if of_leptons:
            raise refuse(f"columns of {flavour}s by their own names", f"Write {name.partition('_')[2]}.")
    return found.text


def _checked_triggers(value: Any, refuse: Callable[[str, str], SelectionError]) -> Triggers:
    """Return triggers, given by primary dataset, as a tuple."""
    hint = 'Write triggers = {DoubleMuon = ["HLT_…", …], …}.'
    pairs = list(value.items()) if isinstance(value, Mapping) else value
    if isinstance(pairs, str) or not isinstance(pairs, Sequence):
        raise refuse("trigger paths by primary dataset", hint)
    found: list[tuple[str, tuple[str, ...]]] = []
    for pair in pairs:
        primary_dataset, paths = pair if isinstance(pair, tuple) and len(pair) == 2 else (None, None)
        names = [] if isinstance(paths, str) or not isinstance(paths, Sequence) else list(paths)
        is_name = isinstance(primary_dataset, str) and bool(primary_dataset) and is_one_line(primary_dataset)
        if not is_name or not names or primary_dataset in dict(found):
            raise refuse("trigger paths by primary dataset", hint)
        for name in names:
            if not isinstance(name, str) or not re.fullmatch(rf"{TRIGGER}\w+", name, re.ASCII):
                raise refuse(f"names of trigger paths, not {shown(name)}", f"A path begins with {TRIGGER}.")
        found.append((str(primary_dataset), tuple(dict.fromkeys(names))))
    return tuple(found)
