"""The slow twin itself, on numbers worked out by hand and on the published candidates, without the kernel."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import generators as made
import oracle
import pytest
from generators import electron, four_muons, muon, one_event

from higgsnb import selection
from higgsnb import selection as hs


def test_mass_of_two_back_to_back_leptons_is_the_sum_of_their_momenta() -> None:
    pair = electron(40.0, 0.0, 0.0, 1, mass=0.0), electron(40.0, 0.0, math.pi, -1, mass=0.0)
    assert oracle.mass(*pair) == pytest.approx(80.0, rel=1e-12)


def test_mass_of_one_lepton_is_its_own() -> None:
    assert oracle.mass(muon(30.0, 1.2, 0.7, 1)) == pytest.approx(oracle.PDG_MASS[oracle.MUON], rel=1e-6)


@pytest.mark.parametrize("turns", [0, 1, -1])
def test_distance_goes_the_short_way_round(turns: int) -> None:
    a, b = muon(9.0, 0.3, 3.1, 1), muon(9.0, 0.0, -3.1 + turns * math.tau, 1)
    assert oracle.delta_r(a, b) == pytest.approx(math.hypot(0.3, math.tau - 6.2), rel=1e-9)


def test_harder_comes_first_and_equals_stay() -> None:
    a, b, c = muon(9.0, 0.0, 0.0, 1), muon(8.0, 0.0, 0.0, 1), muon(9.0, 1.0, 0.0, 1)
    assert oracle.harder_first(b, a) == (a, b)
    assert oracle.harder_first(c, a) == (c, a)
    assert oracle.by_pt([b, c, a]) == [c, a, b]


@pytest.mark.parametrize(
    "change", [change for kind in ("errors", "sentinel", "not finite") for change in made.FAULTS[kind]]
)
def test_lepton_with_an_impossible_value_is_not_good(change: made.Changes) -> None:
    for lepton in (muon(30.0, 0.5, 0.5, 1), electron(30.0, 0.5, 0.5, 1)):
        assert oracle.is_good(lepton, selection.load("open2012"))
        assert not oracle.is_good(replace(lepton, **change), selection.load("open2012"))


def test_one_zero_error_leaves_the_significance_defined() -> None:
    lepton = muon(30.0, 0.5, 0.5, 1, dxy_error=0.0)
    assert oracle.is_good(lepton, selection.load("open2012"))
    assert not oracle.is_good(replace(lepton, dz_error=0.0), selection.load("open2012"))


def test_cutflow_counts_events_that_reached_each_stage() -> None:
    chunk = made.pack([four_muons(), four_muons({"isolation": 2.0}), []])
    flow = oracle.cutflow(oracle.select(chunk, selection.load("open2012")))
    assert flow[0] == [3, 2] + [1] * (len(oracle.STAGES) - 2)
    assert flow[1] == flow[2] == [3] + [0] * (len(oracle.STAGES) - 1)


def test_stages_are_the_cuts_of_the_package_but_the_last() -> None:
    assert (*oracle.STAGES, "unique") == hs.CUT_NAMES


def test_twin_reproduces_the_published_candidates(shared_data: Path) -> None:
    """The reading of the specification, held against publication without any code of the package's kernel."""
    cuts, inside = selection.load("aod2012"), 0
    for row in made.read_record5200(shared_data):
        (candidate,) = oracle.select(one_event(*row.leptons), cuts)[0].selected
        assert candidate.channel == row.channel
        assert candidate.mass_4l == pytest.approx(row.mass_4l, abs=0.01)
        assert candidate.mass_z1 == pytest.approx(row.mass_z1, abs=0.02)
        assert candidate.mass_z2 == pytest.approx(row.mass_z2, abs=0.02)
        inside += 70 < candidate.mass_4l < 181
    assert inside == 102
