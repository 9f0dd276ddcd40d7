"""The arguments of a run: names become what they name; anything of a wrong type or out of range is refused at once."""

from __future__ import annotations

import os
from collections.abc import Callable
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from higgsnb import datasets, selection
from higgsnb.datasets import Campaign
from higgsnb.errors import OptionError
from higgsnb.selection import Analysis
from higgsnb.text import shown


def loaded(campaign: Any, chosen: Any) -> tuple[Campaign, Analysis]:
    """Return campaign and selection, loaded if they are given by name or by path of a TOML file.

    Raises
    ------
    OptionError
        If one is something else.
    CampaignError, SelectionError, MissingFileError
        See `datasets.load` and `selection.load`.
    """
    if isinstance(campaign, str | Path):
        campaign = datasets.load(campaign)
    if isinstance(chosen, str | Path):
        chosen = selection.load(chosen)
    if not isinstance(campaign, Campaign):
        raise OptionError(f"campaign = {_shown(campaign)}", "Give a campaign: datasets.load(name), or its name.")
    if not isinstance(chosen, Analysis):
        hint = "Give a selection: selection.load(name), or its name; or a higgsnb.Analysis."
        raise OptionError(f"selection = {_shown(chosen)}", hint)
    return campaign, chosen


def _number(value: Any, kind: type = Real) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


def _path(value: Any) -> bool:
    return value is None or isinstance(value, str | os.PathLike)


AT_LEAST_1 = "Give a whole number of at least 1."
_EXPECTED: dict[str, tuple[Callable[[Any], bool], str]] = {
    "workers": (lambda value: value is None or (_number(value, Integral) and value >= 1), AT_LEAST_1),
    "chunk_events": (lambda value: value is None or (_number(value, Integral) and value >= 1), AT_LEAST_1),
    "fraction": (lambda value: _number(value) and 0 < value <= 1, "Give a number above 0 and at most 1."),
    "on_error": (lambda value: isinstance(value, str) and value in ("report", "strict"), "Give one of report, strict."),
    "skims_folder": (_path, "Give the path of a folder, or None."),
    "ledger": (_path, "Give the path of a file, or None; not an open ledger."),
    "fresh": (lambda value: isinstance(value, bool), "Give True or False."),
    "chunk_seconds": (lambda value: value is None or (_number(value) and value > 0), "Give a number above 0."),
    "analyse": (callable, "Give a function of a chunk and a selection that returns a tally."),
}
"""What each option of `engine.run` may be, and what to give instead."""


def check(**options: Any) -> None:
    """Raise `OptionError` for the first option that is of a wrong type or out of range."""
    for name, value in options.items():
        is_right, hint = _EXPECTED[name]
        if not is_right(value):
            raise OptionError(f"{name} = {_shown(value)}", hint)


def _shown(value: Any) -> str:
    """Return a short form of a wrong argument, in one line and with its type."""
    return f"{shown(value, 60)} ({type(value).__name__})"
