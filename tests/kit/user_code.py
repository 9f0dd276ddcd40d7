"""Analyses as users write them, in files, and other processes in which they run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from higgsnb.selection import load_from_file

ROOT = Path(__file__).resolve().parents[2]

ANALYSIS = '''\
"""Dimuons, with something of everything that Python has."""

import enum
import functools
import re
from dataclasses import dataclass, field
from pathlib import Path

import numba
import numpy as np

import helper
from helper import scaled

CUT = 20.0
TABLE = np.array([1.0, 2.0, 3.0])
NAMES = {"muon", "electron", "photon", "jet"}
CHANNELS = frozenset({"ee", "mumu", "emu", "tautau"})
WORKING_POINTS = {"loose": [0.1, 0.2], "tight": [0.05]}
PATTERN = re.compile("HLT_.*Mu")
PAYLOAD = Path("corrections/payload.json")


class Quality(enum.Enum):
    LOOSE = 1
    TIGHT = 2


def doubled(function):
    """A decorator."""
    factor = 2

    @functools.wraps(function)
    def wrapper(*arguments):
        return factor * function(*arguments)

    return wrapper


@doubled
def weight(x):
    return x + 1


@numba.njit
def inner(x):
    return x * 3.0


@numba.njit
def compiled(x):
    return inner(x) + 1.0


class Window:
    low = 60

    def __init__(self, high):
        self.high = high

    def contains(self, mass):
        return self.low < mass < self.high


@dataclass(frozen=True)
class Cuts:
    eta: float = 2.4
    charges: tuple = (1, -1)
    triggers: list = field(default_factory=list)


def made(limit):
    def passes(x):
        return x > limit

    return passes


passes = made(5)
passes.working_point = "medium"
part = functools.partial(scaled, factor=4)
WINDOW = Window(120)
CUTS = Cuts(triggers=["IsoMu24"])


def zmumu(x, threshold=3, *, scale=1.5):
    total = [value for value in TABLE if value > 1 and x > CUT]
    flags = x in {3.0, 21.0, 40.0}, "muon" in NAMES, bool(PATTERN.match("HLT_IsoMu")), Quality.TIGHT.value
    channels = "ee" in {"ee", "mumu", "emu"}, "ee" in CHANNELS, passes.working_point
    return (
        sum(total), weight(x), compiled(x), WINDOW.contains(x), passes(x), part(x), x > threshold, scale * x,
        helper.cuts["pt"], helper.corrected(x), CUTS.eta, len(WORKING_POINTS), PAYLOAD.name, flags, channels,
    )
'''

HELPER = """\
cuts = {"pt": 10, "eta": 2.4}
OFFSET = 7


def scaled(x, factor):
    return x * factor


def corrected(x):
    return shifted(x) - 1


def shifted(x):
    return x + OFFSET
"""


def cases(text: str) -> list[tuple[str, str]]:
    """Pieces of code, each after a name: a line ``### name``."""
    _, *parts = re.split(r"^### (.*)\n", text, flags=re.MULTILINE)
    return list(zip(parts[::2], parts[1::2], strict=True))


def write(folder: Path, analysis: str = ANALYSIS, helper: str | None = HELPER) -> Path:
    """Write an analysis and the module beside it into a folder; return the path of the analysis."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "analysis.py"
    path.write_text(analysis, encoding="utf-8")
    if helper is not None:
        (folder / "helper.py").write_text(helper, encoding="utf-8")
    return path


def function_of(path: Path, name: str = "zmumu") -> Any:
    """The function of an analysis that was written."""
    return load_from_file(f"{path}:{name}", object)


def in_other_process(
    code: str, *, folders: tuple[Path, ...] = (), hash_seed: str = "random", cwd: Path | None = None
) -> str:
    """What code prints in a new process that finds modules in some folders."""
    path = os.pathsep.join(map(str, (ROOT, *folders)))
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONHASHSEED": hash_seed, "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()
