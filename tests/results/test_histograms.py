"""Exact fills, against hist's own; what `save` writes."""

from __future__ import annotations

import json
from pathlib import Path

import hist
import numpy as np
import pytest
from filling import BINNING, Variables, fill
from uhi.io.json import object_hook

from higgsnb.results import histograms
from higgsnb.selection import Axis


def variables(n: int, seed: int = 1) -> Variables:
    rng = np.random.default_rng(seed)
    mass = rng.uniform(40, 1100, n)
    mass[: len(mass) // 10] = rng.choice([70.0, 73.0, 181.0, 1000.0, 118.0, 130.0], len(mass) // 10)
    return Variables(
        rng.integers(0, 3, n).astype(np.int8),
        mass,
        rng.uniform(30, 130, n),
        rng.uniform(0, 130, n),
        rng.uniform(0, 400, (n, 4)).astype(np.float32),
        rng.normal(0, 1.5, (n, 4)).astype(np.float32),
    )


@pytest.mark.parametrize("axis", BINNING.axes, ids=lambda axis: axis.name)
def test_counts_equal_those_of_hist(axis: Axis) -> None:
    filled = variables(3000)
    values = getattr(filled, axis.variable)
    channel = np.broadcast_to(filled.channel.reshape(-1, *(1,) * (values.ndim - 1)), values.shape)
    expected = hist.Hist(
        hist.axis.IntCategory([0, 1, 2]), hist.axis.Variable(axis.edges), storage=hist.storage.Int64()
    ).fill(channel.ravel(), values.ravel().astype(float))
    np.testing.assert_array_equal(BINNING.counts_of(fill(filled), axis.name), expected.view(flow=True)[:3])


def test_chunks_add_up_to_the_whole() -> None:
    whole = variables(1000)
    parts = [Variables(*(column[start : start + 137] for column in whole)) for start in range(0, 1000, 137)]
    np.testing.assert_array_equal(sum(fill(part) for part in parts), fill(whole))


def test_windows_and_total_count_half_open() -> None:
    masses = np.array([69.9, 70.0, 118.0, 129.999, 130.0, 180.999, 181.0])
    n = len(masses)
    filled = fill(Variables(np.zeros(n, np.int8), masses, masses, masses, np.ones((n, 4)), np.ones((n, 4))))
    assert BINNING.total(filled).tolist() == [7, 0, 0]
    assert BINNING.in_window(filled, "70-181").tolist() == [5, 0, 0]
    assert BINNING.in_window(filled, "118-130").tolist() == [2, 0, 0]


def test_what_is_not_finite_is_in_no_bin() -> None:
    bad = np.array([np.nan, np.inf, -np.inf, 90.0])
    filled = fill(Variables(np.zeros(4, np.int8), bad, bad, bad, np.ones((4, 4)), np.ones((4, 4))))
    assert BINNING.counts_of(filled, "mass_4l").sum() == 1
    assert BINNING.total(filled)[0] == 4


def test_histograms_come_back_as_saved(tmp_path: Path) -> None:
    counts = {"a": fill(variables(500, 2)), "b": fill(variables(300, 3))}
    saved = histograms.to_hist(counts, BINNING)
    histograms.save({"histograms": saved}, tmp_path / "h.json", {"complete": True})
    content = json.loads((tmp_path / "h.json").read_text(encoding="utf-8"), object_hook=object_hook)
    loaded = {name: hist.Hist(one) for name, one in content["histograms"].items()}
    assert loaded == saved
    assert loaded["mass_4l"]["b", "4e", :].sum(flow=True) == BINNING.total(counts["b"])[1]
    assert content["complete"] is True


def test_unknown_histogram_names_the_known_ones() -> None:
    with pytest.raises(KeyError, match="no histogram 'mass'; known: mass_4l"):
        BINNING.axis("mass")
