"""higgsnb.

Find the Higgs boson in four leptons, in CMS Open Data or in the simulated campaign that comes with the package.

The modules in the order of an analysis; each is loaded when it is first used::

    campaign = higgsnb.datasets.load("toy")             # what to analyse
    selection = higgsnb.selection.load("open2012")      # what to keep
    for result in higgsnb.engine.run(campaign, selection):
        print(result.coverage)                          # partial results; the last one is whole
    higgsnb.results.write(result, folder, run={})
    higgsnb.plots.save(higgsnb.plots.mass_4l(result), folder)
"""

from __future__ import annotations

import importlib
from typing import Any

from higgsnb import storage

__version__ = "0.1.0"

__all__ = [
    "Analysis",
    "Axis",
    "Selected",
    "Shift",
    "datasets",
    "selection",
    "events",
    "results",
    "engine",
    "cluster",
    "statistics",
    "plots",
    "widgets",
    "errors",
]

storage.house_libraries()  # before any of them is imported


def __getattr__(name: str) -> Any:
    """Load a module of the package, or what an analysis of one's own is made of, when it is first used."""
    if name in ("Analysis", "Axis", "Selected", "Shift"):
        return getattr(importlib.import_module("higgsnb.selection"), name)
    if name in __all__:
        return importlib.import_module(f"higgsnb.{name}")
    raise AttributeError(f"module 'higgsnb' has no attribute {name!r}; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    """List the public names."""
    return [*__all__, "__version__"]
