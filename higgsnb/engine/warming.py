"""`warm`: prepare a cache, so that the first run of everybody who uses it is quick."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from higgsnb import datasets, storage
from higgsnb import selection as selections
from higgsnb.engine.loop import run
from higgsnb.errors import OptionError
from higgsnb.results import PreselectedEvents


def warm() -> Iterator[str]:
    """Prepare the cache of this user; yield what is done next, in one line each.

    It then holds the simulated campaign and its skims, and compiled code of every shipped selection for which it
    has the columns.

    Raises
    ------
    OptionError
        If there is no folder to write to.
    FileError
        If the campaign cannot be written or read.
    """
    skims = storage.cache_folder("skims")
    campaign = datasets.load("toy")
    for name in selections.names():
        selection = selections.load(name)
        if selection.extra_columns:  # the simulated files do not have them
            continue
        yield f"selection {name}: compiling, and reading {campaign.title}"
        *_, result = run(campaign, selection, skims_folder=skims, on_error="strict")
        PreselectedEvents.load(result, skims_folder=skims).select(selection)


def warm_shared(folder: Path) -> None:
    """Prepare a shared cache: `warm`, in a process of its own, into a folder that everybody can read.

    ``folder`` is made if it does not exist; others may read, but not write, what is made in it, so that they can trust
    it, see `storage.distrust`.

    Raises
    ------
    OptionError
        If it cannot be written.
    """
    folder = folder.absolute()
    if not storage.can_be_written(folder):
        raise OptionError(f"cannot write to {folder}", "Name another folder, or run this as its owner.")
    # Nothing is taken from other caches, and compiled code is not kept beside the package.
    places = {"HIGGSNB_CACHE": str(folder), "NUMBA_CACHE_DIR": str(folder), "HIGGSNB_SHARED_CACHE": ""}
    command = [sys.executable, "-m", "higgsnb", "warm"]
    if subprocess.run(command, env=os.environ | places, umask=0o022, check=False).returncode:
        raise OptionError(f"{folder} could not be prepared", "The reason is above.")
