"""Analyses drawn from seeds: the numbers of plain Python and fractions, and the same bytes however they are counted."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import random_analyses
from random_analyses import analysis, counted, digest, oracle

from higgsnb import engine
from higgsnb.datasets import Campaign
from higgsnb.results import Result

SEEDS = range(8)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Campaign:
    return random_analyses.write_files(tmp_path_factory.mktemp("files"))


def last(made: Campaign, seed: int, **options: Any) -> Result:
    *_, result = engine.run(made, analysis(seed), **{"workers": 2, **options})
    assert result.complete or "fraction" in options
    return result


@pytest.mark.parametrize("seed", SEEDS)
def test_counts_and_sums_of_weights_are_those_of_fractions(made: Campaign, seed: int) -> None:
    """In each bin of each axis, each region and each variation; and rounded once to what the result shows."""
    result, truth = last(made, seed, chunk_events=97), oracle(made, seed)
    found = counted(result)
    assert found.events == truth.events
    assert found.squares == truth.squares
    assert {key: value for key, value in found.weights.items() if value} == {
        key: value for key, value in truth.weights.items() if value
    }
    assert any(value < 0 for value in truth.weights.values())
    for name, pair in result.sums.items():
        for shown, exact in zip(pair, (truth.weights, truth.squares), strict=True):
            for (dataset, copy, region, place), value in exact.items():
                if dataset == name:
                    index = result.layout.copies.index(copy), result.regions.index(region), place
                    assert shown[index] == float(value)


@pytest.mark.parametrize("seed", [0, 3])
def test_chunks_workers_and_a_ledger_change_no_byte(made: Campaign, tmp_path: Path, seed: int) -> None:
    recorded: dict[str, Any] = {"chunk_events": 60, "ledger": tmp_path / "ledger.sqlite"}
    ways: dict[str, dict[str, Any]] = {
        "one chunk": {"workers": 1}, "small": {"chunk_events": 37}, "part": {"fraction": 0.5, **recorded},
        "the rest": recorded, "processes": {"chunk_events": 111, "client": "processes"},
    }  # fmt: skip
    found = {name: digest(last(made, seed, **options), tmp_path / name) for name, options in ways.items()}
    found.pop("part")
    assert len(set(found.values())) == 1, found


def test_order_of_the_files_changes_no_sum(made: Campaign) -> None:
    turned = [dataclasses.replace(d, files=d.files[::-1]) for d in reversed(made.datasets)]
    other = dataclasses.replace(made, datasets=tuple(turned))
    one, two = last(made, 1), last(other, 1)
    for name, pair in one.sums.items():
        for mine, theirs in zip(pair, two.sums[name], strict=True):
            assert mine.tobytes() == theirs.tobytes()
    assert {name: array.tolist() for name, array in one.counts.items()} == {
        name: two.counts[name].tolist() for name in one.counts
    }
    assert one.yields == two.yields
    assert one.duplicates_removed == two.duplicates_removed != {}
