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
from types import ModuleType

from higgsnb import storage

__version__ = "0.1.0"

__all__ = [
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


def __getattr__(name: str) -> ModuleType:
    """Load a module of the package when it is first used."""
    if name in __all__:
        return importlib.import_module(f"higgsnb.{name}")
    raise AttributeError(f"module 'higgsnb' has no attribute {name!r}; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    """List the public modules."""
    return [*__all__, "__version__"]
