"""Weights that a campaign states as an expression, in files with and without weights of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import outreach
import pytest
from generators import random_leptons

from higgsnb import engine, selection
from higgsnb.datasets import Campaign
from higgsnb.results import Result
from higgsnb.selection import Leptons

LUMINOSITY_FB, CROSS_SECTION_PB = 10.0, 0.5
NOBODY_SAYS = "normalised to the weights of the events in the files"


@pytest.fixture(scope="module")
def leptons() -> Leptons:
    some = random_leptons(600, seed=14)
    runs = np.where(np.arange(some.n_events) % 3, 5, 2).astype(some.run.dtype)
    return some._replace(run=runs)


def run(path: Path, **keys: Any) -> Result:
    one = outreach.dataset("signal", "higgs", path, cross_section_pb=CROSS_SECTION_PB, **keys)
    campaign: Campaign = outreach.campaign(one, luminosity_fb=LUMINOSITY_FB)
    *_, result = engine.run(campaign, selection.load("open2012"), workers=1, chunk_events=170)
    return result


def expected(result: Result) -> float:
    return sum(one.expected for one in result.yields["higgs"].values())


def test_expression_weighs_events_of_files_without_weights(tmp_path: Path, leptons: Leptons) -> None:
    """In a file with neither genWeight nor Runs, and of both signs: run is 2 or 5."""
    result = run(outreach.write(tmp_path / "a.root", leptons), weight="run - 3", sum_of_weights=2500.0)
    weights = result.candidates.run - 3.0
    assert {*weights.tolist()} == {-1.0, 2.0}
    scale = LUMINOSITY_FB * 1000 * CROSS_SECTION_PB
    assert expected(result) == pytest.approx(scale * weights.sum() / 2500.0, rel=1e-6)
    assert not any(NOBODY_SAYS in remark for remark in result.remarks)
    assert result.skimmed == {}


def test_weights_that_nobody_normalises_are_named(tmp_path: Path, leptons: Leptons) -> None:
    result = run(outreach.write(tmp_path / "a.root", leptons), weight="run - 3")
    weights = result.candidates.run - 3.0
    scale = LUMINOSITY_FB * 1000 * CROSS_SECTION_PB / (leptons.run - 3.0).sum()
    assert expected(result) == pytest.approx(scale * weights.sum(), rel=1e-6)
    (remark,) = (one for one in result.remarks if NOBODY_SAYS in one)
    assert remark.startswith("signal: ")
    assert remark.endswith("neither sum_of_weights nor a tree Runs says what was generated")


def test_factor_on_the_weight_of_the_generator_is_normalised_by_runs(tmp_path: Path, leptons: Leptons) -> None:
    drawn = np.where(np.arange(leptons.n_events) % 5, 1.5, -1.5)
    runs = {"genEventCount": np.array([4 * 600]), "genEventSumw": np.array([4 * drawn.sum()])}
    path = outreach.write(tmp_path / "a.root", leptons, weights=drawn, runs=runs)
    plain, doubled = run(path), run(path, weight="genWeight * 2")
    assert expected(plain) != 0
    assert expected(doubled) == pytest.approx(2 * expected(plain), rel=1e-6)
    assert not any(NOBODY_SAYS in remark for remark in doubled.remarks)
