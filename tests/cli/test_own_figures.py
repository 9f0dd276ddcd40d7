"""A run draws own axes of a selection, and each region of an analysis in a file of its own."""

from __future__ import annotations

from pathlib import Path

import outreach
import pytest
from click.testing import CliRunner
from generators import clean_zz_events, pack

from higgsnb.cli import main

CAMPAIGN = """
[campaign]
name = "mine"
schema = "outreach"
energy_tev = 8
luminosity_fb = 10
luminosity_uncertainty = 0.026
[[dataset]]
name = "data"
process = "data"
file = [{ url = "data.root" }]
"""
SELECTION = """
base = "open2012"
[observables]
ratio = "mass_z2 / mass_z1"
[[axes]]
name = "m(Z2) / m(Z1)"
variable = "ratio"
bins = [0, 0.5, 1]
"""
ANALYSIS = """
import awkward as ak
import higgsnb as hn

def first(events):
    events = events[ak.num(events.Muon) > 0]
    pt = events.Muon.pt[:, 0]
    return hn.Selected(events, pt=pt, regions={"a b": pt > 0, "a_b": pt > 10, "A b": pt > 20})

one = hn.Analysis("first", first, columns=["Muon_pt"], regions=["a b", "a_b", "A b"], axes=[hn.Axis("pt", 9, 0, 90)])
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    outreach.write(tmp_path / "data.root", pack(clean_zz_events(90, seed=2)))
    for name, text in (("mine.toml", CAMPAIGN), ("own.toml", SELECTION), ("first.py", ANALYSIS)):
        (tmp_path / name).write_text(text)
    return tmp_path


def drawn(folder: Path, *options: str) -> set[str]:
    out = folder / "out"
    command = ["run", str(folder / "mine.toml"), *options, "--out", str(out), "--quiet", "--workers", "1"]
    done = CliRunner().invoke(main, command)
    assert done.exit_code == 0, done.output
    return {path.name for path in out.glob("*.png")}


def test_own_axes_are_drawn(folder: Path) -> None:
    assert drawn(folder, "--selection", str(folder / "own.toml")) == {"mass_4l.png", "m_Z2_m_Z1_.png"}


def test_regions_do_not_share_a_file(folder: Path) -> None:
    assert drawn(folder, "--analysis", f"{folder / 'first.py'}:one") == {"pt_a_b.png", "pt_a_b_2.png", "pt_A_b_3.png"}
