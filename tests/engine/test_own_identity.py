"""A change of an analysis reuses no row of the ledger, no change all: `higgsnb run CAMPAIGN --analysis FILE.py:NAME`.

What is a change is tested in `tests/selection/test_identity.py`; here, what comes of it in the ledger of a run.
"""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import distributions
import numpy as np
import pytest
import random_analyses
from click.testing import CliRunner

import higgsnb.cli.run  # noqa: F401 - the module is patched by its name
from higgsnb.__main__ import main

ROOT = Path(__file__).resolve().parents[2]
N_EVENTS, CHUNK = 120, 30
N_CHUNKS = N_EVENTS // CHUNK

CAMPAIGN = """
[campaign]
name = "identity"
schema = "nanoaod"
luminosity_fb = 10.0
luminosity_uncertainty = 0.02
energy_tev = 13

[[dataset]]
name = "mu"
process = "data"
file = [{ url = "mu.root" }]
"""

ANALYSIS = """
import functools
from dataclasses import dataclass

import awkward as ak
import hist
import numba
import numpy as np

import higgsnb as hn
import helper

LEAST = 4.0
SLICE = hist.axis.Regular(10, 0.0, 90.0)


@dataclass(frozen=True)
class Cuts:
    eta: float = 2.2


class Window:
    def __init__(self, high):
        self.high = high

    def contains(self, values):
        return values <= self.high


def doubled(function):
    @functools.wraps(function)
    def wrapper(values):
        return 2.0 * function(values)

    return wrapper


@doubled
def half(values):
    return values / 2


def above(limit):
    def passes(values):
        return values > limit

    return passes


@numba.njit
def count(offsets, eta, most):
    found = np.zeros(len(offsets) - 1, np.int64)
    for i in range(len(found)):
        for k in range(offsets[i], offsets[i + 1]):
            found[i] += abs(eta[k]) < most
    return found


passes = above(1.0)
scaled = functools.partial(np.multiply, 1.0)
cuts, window = Cuts(), Window(70.0)


def select(columns, least=0):
    met = half(scaled(columns["MET_pt"].astype(float)))
    n = count(columns.offsets["Muon"], columns["Muon_eta"], cuts.eta)
    kept = (met > LEAST) & passes(met) & window.contains(met) & (n > least) & (met < SLICE.edges[-1])
    return hn.Selected(kept, met=met[kept] + helper.OFFSET)


one = hn.Analysis(
    "one", select, columns=["MET_pt", "Muon_eta"], preselection="nMuon >= 1", form="flat",
    axes=[hn.Axis("met", 40, 0, 80)],
)
"""
HELPER = "OFFSET = 0.5\n"

CHANGES = {
    "cut in the function": ("(n > least)", "(n > least + 1)"),
    "value in a closure": ("above(1.0)", "above(6.0)"),
    "global": ("LEAST = 4.0", "LEAST = 8.0"),
    "default of an argument": ("least=0", "least=1"),
    "helper module": ("OFFSET = 0.5", "OFFSET = 2.5"),
    "decorator": ("2.0 * function", "3.0 * function"),
    "object of a library": ("Regular(10, 0.0, 90.0)", "Regular(10, 0.0, 20.0)"),
    "field of a dataclass": ("eta: float = 2.2", "eta: float = 1.0"),
    "compiled function": ("found[i] += abs(", "found[i] += 0.5 < abs("),
    "argument of a partial": ("np.multiply, 1.0", "np.multiply, 1.5"),
    "method": ("values <= self.high", "values >= self.high / 9"),
    "state of an object": ("Window(70.0)", "Window(15.0)"),
    "preselection": ("nMuon >= 1", "nMuon >= 2"),
    "axis": ("40, 0, 80", "41, 0, 80"),
    "name of a region": ('form="flat"', 'form="flat", regions=["all of them"]'),
    "what is kept": ('form="flat"', 'form="flat", keep=["met"]'),
    "columns": ('["MET_pt", "Muon_eta"]', '["MET_pt", "Muon_eta", "Muon_pt"]'),
}
NO_CHANGES = {
    "nothing": ("", ""),
    "comment": ("LEAST = 4.0", "# in GeV\n\nLEAST = 4.0  # of the missing momentum"),
    "what is not used": ("LEAST = 4.0", "MOST = 5.0\nLEAST = 4.0"),
    "title": ('form="flat"', 'form="flat", title="Another title"'),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A campaign, and a ledger in which the unchanged analysis is recorded."""
    folder = tmp_path_factory.mktemp("identity")
    columns = random_analyses._columns(np.random.default_rng(9), N_EVENTS, first=0)
    random_analyses.write(folder / "mu.root", columns)
    (folder / "campaign.toml").write_text(CAMPAIGN, encoding="utf-8")
    return folder


class Runs:
    """Runs of an analysis on the command line, all with the ledger of the folder."""

    def __init__(self, folder: Path, log: pytest.LogCaptureFixture) -> None:
        self.folder, self.log = folder, log

    def __call__(self, place: Path, change: tuple[str, str] = ("", ""), *more: str) -> tuple[int, Any]:
        """Return how many chunks came from the ledger, and what was counted."""
        place.mkdir(exist_ok=True, parents=True)
        assert (change[0] in ANALYSIS) + (change[0] in HELPER) == 1 or change == ("", "")
        (place / "mine.py").write_text(ANALYSIS.replace(*change) if change[0] else ANALYSIS, encoding="utf-8")
        (place / "helper.py").write_text(HELPER.replace(*change) if change[0] else HELPER, encoding="utf-8")
        self.log.clear()
        done = CliRunner().invoke(main, [*self.arguments(place), *more])
        assert done.exit_code == 0, done.output
        (text,) = re.findall(rf"(\d+) of {N_CHUNKS} chunks are in the ledger", self.log.text)
        return int(text), json.loads((place / "out" / "histograms.json").read_text(encoding="utf-8"))

    def arguments(self, place: Path) -> list[str]:
        out, ledger = str(place / "out"), str(self.folder / "ledger.sqlite")
        return [
            "run", str(self.folder / "campaign.toml"), "--analysis", f"{place / 'mine.py'}:one", "--out", out,
            "--ledger", ledger, "--chunk-events", str(CHUNK), "--quiet",
        ]  # fmt: skip


@pytest.fixture
def runs(folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Runs:
    monkeypatch.setattr(sys.modules["higgsnb.cli.run"], "MOST_FIGURES", 0)
    caplog.set_level(logging.INFO, "higgsnb")
    found = Runs(folder, caplog)
    found(folder / "first")
    return found


@pytest.mark.parametrize("name", CHANGES)
def test_changed_analysis_reuses_no_chunk(runs: Runs, tmp_path: Path, name: str) -> None:
    """And what it counts is something else; the analysis as it was finds its chunks again."""
    _, before = runs(runs.folder / "first")
    reused, found = runs(tmp_path, CHANGES[name])
    assert reused == 0
    assert found != before or name in ("what is kept", "columns")
    assert runs(tmp_path, CHANGES[name])[0] == N_CHUNKS
    reused, again = runs(tmp_path)
    assert reused == N_CHUNKS
    assert again == before


@pytest.mark.parametrize("name", NO_CHANGES)
def test_unchanged_analysis_reuses_every_chunk(runs: Runs, tmp_path: Path, name: str) -> None:
    _, before = runs(runs.folder / "first")
    reused, found = runs(tmp_path / "another folder", NO_CHANGES[name])
    assert reused == N_CHUNKS
    assert found == before


def test_other_process_reuses_every_chunk(runs: Runs, tmp_path: Path) -> None:
    """On two workers, and with other hashes of texts."""
    _, before = runs(tmp_path)
    code = (
        "import logging, sys; logging.basicConfig(level='INFO'); from higgsnb.__main__ import main; main(sys.argv[1:])"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "77"}
    command = [sys.executable, "-c", code, *runs.arguments(tmp_path), "--scheduler", "processes"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"{N_CHUNKS} of {N_CHUNKS} chunks are in the ledger" in done.stderr
    assert json.loads((tmp_path / "out" / "histograms.json").read_text(encoding="utf-8")) == before


@pytest.mark.parametrize("scheduler", ["threads", "processes"])
def test_library_built_from_a_folder_is_found_unchanged_by_workers(runs: Runs, tmp_path: Path, scheduler: str) -> None:
    site = distributions.install(tmp_path / "env", HELPER, **distributions.BUILT_HERE)
    code = ANALYSIS.replace("import helper", "import toylib as helper")
    (tmp_path / "mine.py").write_text(code, encoding="utf-8")
    command = [sys.executable, "-m", "higgsnb", *runs.arguments(tmp_path), "--fresh", "--scheduler", scheduler]
    paths = os.pathsep.join([str(ROOT), str(site)])
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    _, before = runs(runs.folder / "first")
    assert json.loads((tmp_path / "out" / "histograms.json").read_text(encoding="utf-8")) == before


REFUSED = {
    "random numbers of the process": ("met = half(", "met = np.random.normal() + half(", "numpy.random.normal"),
    "a file": ("met = half(", "met = len(open('x').read()) + half(", "open"),
    "the environment": ("met = half(", "import os\n    met = float(os.environ['X']) + half(", "environ"),
    "a global that it changes": ("met = half(", "global LEAST\n    LEAST += 1\n    met = half(", "LEAST"),
    "a generator": ("met = half(", "yield\n    met = half(", "generator"),
    "code of a text": ("met = half(", "met = eval('1.0') + half(", "eval"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_analysis_that_cannot_be_identified_is_refused(
    runs: Runs, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """With exit code 2, the reason and a remedy, before anything is read; the ledger stays as it is."""
    old, new, reason = REFUSED[name]
    (tmp_path / "mine.py").write_text(ANALYSIS.replace(old, new), encoding="utf-8")
    (tmp_path / "helper.py").write_text(HELPER, encoding="utf-8")
    with pytest.raises(SystemExit) as caught:
        main(runs.arguments(tmp_path))
    text = capsys.readouterr().err
    assert caught.value.code == 2, text
    assert "cannot identify select" in text
    assert reason in text
    assert len(text.strip().splitlines()) >= 2
    assert not (tmp_path / "out" / "result.json").exists()
