"""The how-to page for users of coffea and RDataFrame: its programs run, and find the same numbers."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import uproot

import higgsnb as hn

pytestmark = pytest.mark.one_python

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "from_coffea_or_rdataframe.md"
TEXT = PAGE.read_text(encoding="utf-8")
BLOCKS = {
    heading: dict(re.findall(r"^```(\w+)\n(.*?)^```", section, re.MULTILINE | re.DOTALL))
    for heading, section in re.findall(r"^### (.+?)\n(.*?)(?=^##)", TEXT, re.MULTILINE | re.DOTALL)
}
OURS, COFFEA, RDATAFRAME, UNCHANGED = "higgsnb", "coffea", "RDataFrame", "A processor of coffea, as it is"
COMPILED = "A compiled function"
SHOW = {
    OURS: 'result.histograms["mass"].values()[0].tolist()',
    COMPILED: 'result.histograms["mass"].values()[0].tolist()',
    COFFEA: 'output["mass"].values().tolist()',
    RDATAFRAME: "[[one.GetBinContent(i) for i in range(1, 61)] for one in (opposite, same)]",
    UNCHANGED: 'result.output["mass"].values().tolist()',
}
"""What the programs have found, (2, 60)."""


def needs(module: str, how: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(importlib.util.find_spec(module) is None, reason=f"{module} is not installed: {how}")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the campaign file of the page, and a file for it: muons of the toy."""
    made = tmp_path_factory.mktemp("how_to")
    (made / "muons.root").symlink_to(hn.datasets.locate("toy:Run2012_DoubleMu.root").location)
    (made / "muons.toml").write_text(BLOCKS[OURS]["toml"], encoding="utf-8")
    return made


def run(folder: Path, heading: str, *, before: str = "") -> npt.NDArray[np.float64]:
    """Run a program of the page as a script, and return what it found."""
    script = folder / "zmumu.py"
    program = f"{before}\n{BLOCKS[heading]['python']}\nimport json\nprint(json.dumps({SHOW[heading]}))\n"
    script.write_text(program, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, script.name], cwd=folder, env={**os.environ, "MPLBACKEND": "agg"}, capture_output=True,
        text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return np.array(json.loads(done.stdout.splitlines()[-1]))


@pytest.fixture(scope="module")
def truth(folder: Path) -> npt.NDArray[np.float64]:
    """The same in plain Python, event by event."""
    with uproot.open(folder / "muons.root") as file:
        arrays = file["Events"].arrays([f"Muon_{name}" for name in ("pt", "eta", "phi", "mass", "charge")])
    masses: tuple[list[float], list[float]] = ([], [])
    for event in arrays.to_list():
        columns = zip(*event.values(), strict=True)
        good = [muon for muon in columns if muon[0] > 20 and abs(muon[1]) < np.float32(2.4)]
        if len(good) == 2:
            pt, eta, phi, mass, charge = np.array(good).T
            momentum = pt * np.array([np.cos(phi), np.sin(phi), np.sinh(eta)])
            energy = np.sqrt((momentum**2).sum(axis=0) + mass**2).sum()
            masses[int(charge[0] == charge[1])].append(np.sqrt(energy**2 - (momentum.sum(axis=1) ** 2).sum()))
    return np.array([np.histogram(some, 60, (60, 120))[0] for some in masses])


def test_our_program_counts_what_plain_python_counts(folder: Path, truth: npt.NDArray[np.float64]) -> None:
    assert truth.sum() > 19_000
    np.testing.assert_array_equal(run(folder, OURS), truth)


def test_compiled_function_counts_the_same(folder: Path, truth: npt.NDArray[np.float64]) -> None:
    np.testing.assert_array_equal(run(folder, COMPILED), truth)


def differ_at_edges_only(found: npt.NDArray[np.float64], truth: npt.NDArray[np.float64]) -> bool:
    """Whether at most two masses, in float32, are on the other side of an edge of a bin."""
    return found.sum() == truth.sum() and np.abs(found - truth).sum() <= 4


@needs("coffea", "pip install 'higgsnb[coffea]'")
def test_program_for_coffea_finds_the_same(folder: Path, truth: npt.NDArray[np.float64]) -> None:
    assert differ_at_edges_only(run(folder, COFFEA), truth)


@needs("coffea", "pip install 'higgsnb[coffea]'")
def test_processor_of_coffea_runs_as_it_is(folder: Path) -> None:
    definition = BLOCKS[COFFEA]["python"].partition("\nrunner = ")[0]
    np.testing.assert_array_equal(run(folder, UNCHANGED, before=definition), run(folder, COFFEA))


@needs("ROOT", "pip install 'higgsnb[bench]', on Linux")
def test_program_for_rdataframe_finds_the_same(folder: Path, truth: npt.NDArray[np.float64]) -> None:
    assert differ_at_edges_only(run(folder, RDATAFRAME), truth)


def test_every_program_of_the_page_is_run() -> None:
    assert TEXT.count("```python") == len(SHOW)
    assert set(SHOW) == {heading for heading, some in BLOCKS.items() if "python" in some}


def test_names_of_ours_on_the_page_exist() -> None:
    for name in set(re.findall(r"\bhn((?:\.\w+)+)", TEXT)):
        found = hn
        for part in name.split(".")[1:]:
            found = getattr(found, part)


def test_links_lead_to_files_of_this_repository_or_to_https() -> None:
    for target in re.findall(r"\]\(([^)]+)\)", TEXT):
        assert target.startswith("https://") or (PAGE.parent / target).exists(), target
