"""Analyses drawn from seeds: the numbers of plain Python and fractions, and the same bytes however they are counted."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import random_analyses
from random_analyses import analysis, counted, oracle

from higgsnb import engine, results
from higgsnb.datasets import Campaign
from higgsnb.results import Result

SEEDS = range(8)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Campaign:
    return random_analyses.write_files(tmp_path_factory.mktemp("files"))


def last(made: Campaign, seed: int, **options: Any) -> Result:
    *_, result = engine.run(made, analysis(seed), **{"workers": 2, **options})
    assert result.complete
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


def sha256(result: Result, folder: Path) -> str:
    """Of the histograms, the rows, and everything in result.json but how the run went."""
    results.write(result, folder, run={})
    document = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    parts = [(folder / name).read_bytes() for name in ("histograms.json", "candidates.parquet")]
    return hashlib.sha256(b"".join([*parts, json.dumps(document, sort_keys=True).encode()])).hexdigest()


@pytest.mark.parametrize("seed", [0, 3])
def test_chunks_workers_and_a_ledger_change_no_byte(made: Campaign, tmp_path: Path, seed: int) -> None:
    ways: dict[str, dict[str, Any]] = {
        "one chunk": {"workers": 1}, "small": {"chunk_events": 37}, "ledger": {"chunk_events": 50, "ledger": tmp_path / "l"},
        "again": {"chunk_events": 50, "ledger": tmp_path / "l"}, "processes": {"chunk_events": 111, "client": "processes"},
    }  # fmt: skip
    found = {name: sha256(last(made, seed, **options), tmp_path / name) for name, options in ways.items()}
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
