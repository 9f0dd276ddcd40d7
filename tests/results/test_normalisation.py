"""Simulation predicts the same whatever was kept of it, how it is stored, and how much of it has been processed."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import pytest
import uproot
from outreach import campaign, dataset

import higgsnb as hn
from higgsnb import engine, errors
from higgsnb.datasets import Campaign
from higgsnb.results import Result

N = 800
CUT = 60.0
EXPECTED = 10.0 * 0.25 * 1000
"""Luminosity times cross section."""


def hard(events: Any) -> hn.Selected:
    events = events[events.MET_pt > 60]
    return hn.Selected(events, met=events.MET_pt)


ONE = hn.Analysis("hard", hard, columns=["MET_pt"], axes=[hn.Axis("met", 10, 0, 100)])


def met(n: int = N) -> np.ndarray:
    return np.random.default_rng(6).uniform(0, 100, n).astype(np.float32)


def write(
    path: Path, weights: Any, *, runs: dict[str, Any] | None = None, kind: str = "TTree", keep: Any = slice(None)
) -> Path:
    """A file with these events: all, or those kept of a skim."""
    n = N if weights is None else len(weights)
    number = np.arange(n)
    columns = {
        "run": np.ones(n, np.uint32), "luminosityBlock": number.astype(np.uint32) // 100,
        "event": number.astype(np.uint64), "MET_pt": met(n), **({} if weights is None else {"genWeight": weights}),
    }  # fmt: skip
    trees = {"Events": {name: values[keep] for name, values in columns.items()}}
    if runs is not None:
        trees["Runs"] = {"run": np.ones(len(next(iter(runs.values()))), np.uint32)}
        trees["Runs"] |= {name: np.asarray(values) for name, values in runs.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    with uproot.recreate(path) as file:
        for name, found in trees.items():
            if kind == "TTree":
                file.mktree(name, {key: values.dtype for key, values in found.items()}).extend(found)
            else:
                arrays = {key: ak.Array(values) for key, values in found.items()}
                file.mkrntuple(name, {key: values[:0] for key, values in arrays.items()}).extend(arrays)
    return path


def of(*paths: Path, **options: Any) -> Campaign:
    return campaign(dataset("mc", "zz", *paths, cross_section_pb=0.25, **options), schema="nanoaod")


def last(made: Campaign, **options: Any) -> Result:
    *_, result = engine.run(made, ONE, **{"workers": 1, **options})
    return result


def expected(made: Campaign, **options: Any) -> float:
    result = last(made, **options)
    assert result.failed == ()
    return result.yields["zz"]["selected"].expected


def stated(weights: np.ndarray, *rows: float) -> dict[str, Any]:
    """A tree `Runs` whose rows are these shares of the sample."""
    total, squares = (float(np.sum(weights.astype(np.float64) ** power)) for power in (1, 2))
    shares = np.array(rows or (1.0,))
    counts = np.round(shares * len(weights)).astype(np.int64)
    return {"genEventCount": counts, "genEventSumw": shares * total, "genEventSumw2": shares * squares}


WEIGHTS: dict[str, np.ndarray] = {
    "one": np.ones(N, np.float32),
    "a tenth": np.full(N, 0.1, np.float32),
    "negative": np.full(N, -26_300.5, np.float32),
    "signs": np.where(np.arange(N) % 4, 2.5, -2.5).astype(np.float32),
    "mostly negative": np.where(np.arange(N) % 4, -2.5, 2.5).astype(np.float32),
    "spread": np.random.default_rng(1).lognormal(0, 2, N).astype(np.float32),
    "tiny": np.random.default_rng(2).lognormal(-69, 1, N).astype(np.float32),
    "huge": np.random.default_rng(3).lognormal(69, 1, N).astype(np.float32),
    "doubles": np.random.default_rng(4).lognormal(3, 1, N),
}


@pytest.mark.parametrize("name", WEIGHTS)
def test_whole_skim_rows_and_kinds_of_file_predict_the_same(tmp_path: Path, name: str) -> None:
    weights = WEIGHTS[name]
    exact = EXPECTED * math.fsum(weights[met() > CUT].astype(float)) / math.fsum(weights.astype(float))
    kept, runs, rows = met() > CUT, stated(weights), stated(weights, 0.5, 0.25, 0.25)
    found = {
        "without Runs": expected(of(write(tmp_path / "a.root", weights))),
        "whole": expected(of(write(tmp_path / "b.root", weights, runs=runs)), chunk_events=70),
        "rows": expected(of(write(tmp_path / "c.root", weights, runs=rows))),
        "RNTuple": expected(of(write(tmp_path / "d.root", weights, runs=runs, kind="RNTuple"))),
        "skim": expected(of(write(tmp_path / "e.root", weights, runs=runs, keep=kept))),
        "skim in an RNTuple": expected(of(write(tmp_path / "f.root", weights, runs=rows, kind="RNTuple", keep=kept))),
        "stated": expected(of(tmp_path / "a.root", sum_of_weights=math.fsum(weights.astype(float)))),
    }  # fmt: skip
    assert found["without Runs"] == pytest.approx(exact, rel=1e-6)
    del found["without Runs"]  # its sum is that of rounded weights
    assert set(found.values()) == {found["whole"]}
    assert found["whole"] == pytest.approx(exact, rel=1e-6)


def parts(folder: Path, weights: np.ndarray, *, keep: str, kind: str = "TTree") -> Campaign:
    """The same events in four files, of which one has no event left that is kept."""
    edges = [0, 100, 110, 500, N]
    paths = []
    for number, (start, stop) in enumerate(pairwise(edges)):
        inside = (np.arange(N) >= start) & (np.arange(N) < stop)
        chosen = inside & (met() > CUT) if keep == "skim" else inside
        chosen &= number != 1 or keep == "whole"
        runs = stated(weights[inside])
        paths.append(write(folder / f"{number}.root", weights, runs=runs, keep=chosen, kind=kind))
    return of(*paths)


@pytest.mark.parametrize("kind", ["TTree", "RNTuple"])
def test_files_of_a_sample_predict_what_one_file_does(tmp_path: Path, kind: str) -> None:
    """A file of which no event is left stands for those that were generated for it."""
    weights = WEIGHTS["signs"]
    whole = expected(of(write(tmp_path / "whole.root", weights, runs=stated(weights))))
    divided = parts(tmp_path / "divided", weights, keep="whole", kind=kind)
    assert expected(divided, chunk_events=64) == expected(divided) == pytest.approx(whole, rel=1e-12)
    skimmed = parts(tmp_path / "skimmed", weights, keep="skim", kind=kind)
    lost = weights[100:110][met()[100:110] > CUT].sum(dtype=float)  # selected events of the file that is empty
    total = weights.sum(dtype=float)
    assert expected(skimmed) == pytest.approx(whole - EXPECTED * lost / total, rel=1e-12)
    assert len(last(skimmed).empty_files) == 1


@pytest.mark.parametrize("fraction", [0.5, 0.1])
@pytest.mark.parametrize("name", ["signs", "spread", "negative"])
def test_part_of_a_sample_predicts_what_the_whole_does(tmp_path: Path, name: str, fraction: float) -> None:
    weights, kept = WEIGHTS[name], met() > CUT
    for made in (
        of(write(tmp_path / "a.root", weights)),
        of(write(tmp_path / "b.root", weights, runs=stated(weights, 0.5, 0.5))),
        of(write(tmp_path / "c.root", weights, runs=stated(weights), keep=kept)),
        parts(tmp_path / "parts", weights, keep="whole"),
    ):
        whole, part = last(made).yields["zz"]["selected"], last(made, fraction=fraction).yields["zz"]["selected"]
        assert part.events < whole.events
        assert abs(part.expected - whole.expected) < 5 * part.stat_error + 0.1 * whole.expected / fraction**0.5


def test_equal_events_in_both_halves_predict_exactly_the_same(tmp_path: Path) -> None:
    """The second half of a file, and a second file, repeat the first."""
    half = WEIGHTS["spread"][: N // 2]
    twice = np.concatenate([half, half])
    first = write(tmp_path / "a.root", half, runs=stated(half))
    once = expected(of(first))
    again = write(tmp_path / "b.root", half, runs=stated(half))
    assert expected(of(first, again)) == pytest.approx(once, rel=1e-14)
    both = tmp_path / "c.root"
    with uproot.recreate(both) as file:
        columns = {"MET_pt": np.tile(met(N // 2), 2), "genWeight": twice}
        columns |= {
            name: np.arange(N).astype(kind)
            for name, kind in (("run", "u4"), ("luminosityBlock", "u4"), ("event", "u8"))
        }
        file.mktree("Events", {name: values.dtype for name, values in columns.items()}).extend(columns)
        file["Runs"] = stated(twice)
    assert expected(of(both), fraction=0.5) == pytest.approx(once, rel=1e-14)


def test_number_of_generated_events_alone_normalises_equal_weights(tmp_path: Path) -> None:
    """`Runs` without genEventSumw, as in skims that lost it."""
    n = int(np.count_nonzero(met() > CUT))
    count = {"genEventCount": [4 * N]}
    for name, weights in (("none", None), ("equal", WEIGHTS["a tenth"])):
        assert expected(of(write(tmp_path / f"{name}.root", weights, runs=count))) == pytest.approx(
            EXPECTED * n / (4 * N), rel=1e-6
        )
    result = last(of(write(tmp_path / "spread.root", WEIGHTS["spread"], runs=count), tmp_path / "equal.root"))
    (failure,) = result.failed
    assert "its Runs tree has no sum of weights, and they differ" in failure.message


def test_no_event_left_of_a_sample(tmp_path: Path) -> None:
    """With `Runs`, nothing is expected; without, nothing is known."""
    none = np.zeros(0, int)
    weights = WEIGHTS["signs"]
    with_runs = last(of(write(tmp_path / "a.root", weights, runs=stated(weights), keep=none)))
    assert with_runs.complete
    assert with_runs.yields["zz"]["selected"] == (0, 0.0, 0.0)
    assert with_runs.missing_simulation == ()
    without = last(of(write(tmp_path / "b.root", weights, keep=none)))
    assert without.missing_simulation == ("mc",)


def test_files_of_wildly_different_weights_are_added_exactly(tmp_path: Path) -> None:
    scales = [1e-30, 1.0, 1e30]
    paths = [
        write(tmp_path / f"{i}.root", (WEIGHTS["one"] * scale).astype(np.float32)) for i, scale in enumerate(scales)
    ]
    result = last(of(*paths), chunk_events=300)
    assert result.failed == ()
    n = int(np.count_nonzero(met() > CUT))
    (values, squares), total = result.sums["mc"], result.layout.binning.total
    assert total(values)[0, 0] == pytest.approx(n * 1e30, rel=1e-6)
    assert total(squares)[0, 0] == pytest.approx(n * 1e60, rel=1e-6)
    assert result.yields["zz"]["selected"].expected == pytest.approx(EXPECTED * n / N, rel=1e-6)


@pytest.mark.parametrize("scale", [1e-310, 1e-280, 1e150, 1e290])
def test_weights_whose_squares_are_no_numbers_are_refused(tmp_path: Path, scale: float) -> None:
    result = last(of(write(tmp_path / "a.root", np.full(N, scale)), write(tmp_path / "b.root", np.full(N, 1.0))))
    (failure,) = result.failed
    assert failure.file.endswith("a.root")
    assert f"its generator weights are about {scale:g}" in failure.message


@pytest.mark.parametrize("scales", [(1e-45, 3e38), (1e-48, 1e48)])
def test_all_weights_that_float32_can_be_are_added(tmp_path: Path, scales: tuple[float, float]) -> None:
    result = last(of(*(write(tmp_path / f"{scale:g}.root", np.full(N, scale)) for scale in scales)))
    found, n = result.yields["zz"]["selected"], int(np.count_nonzero(met() > CUT))
    assert found.expected == pytest.approx(EXPECTED * n / N, rel=1e-6)
    assert found.stat_error == pytest.approx(EXPECTED * n**0.5 / N, rel=1e-6)


@pytest.mark.parametrize("sizes", [(1e-30, 1.0), (1.0, 1e30)])
@pytest.mark.parametrize("chunk_events", [N, 100])
def test_weight_of_wildly_another_size_is_named(tmp_path: Path, sizes: tuple[float, float], chunk_events: int) -> None:
    weights = np.where(np.arange(N) == 555, sizes[1], sizes[0]).astype(np.float32)
    made = of(write(tmp_path / "a.root", weights), write(tmp_path / "b.root", np.full(N, sizes[1], np.float32)))
    (failure,) = last(made, chunk_events=chunk_events).failed
    assert failure.file.endswith("a.root")
    assert f"the weight of entry 555 is {sizes[1]:g}, a typical one about" in failure.message


def test_files_with_and_without_weights_do_not_mix(tmp_path: Path) -> None:
    paths = write(tmp_path / "a.root", WEIGHTS["huge"]), write(tmp_path / "b.root", None)
    result = last(of(*paths), chunk_events=100)
    assert not result.complete
    assert {failure.message for failure in result.failed} == {
        "dataset mc: some of its files have weights, others have none"
    }


def test_weights_that_rounding_would_change_are_doubtful(tmp_path: Path) -> None:
    """Those of an analysis that normalises once more; a rare small weight among others is none."""

    def scaled(events: Any) -> hn.Selected:
        return hn.Selected(events, met=events.MET_pt, weights={"lumi": 1e-9 + 0 * events.MET_pt})

    def some(events: Any) -> hn.Selected:
        return hn.Selected(events, met=events.MET_pt, weights={"veto": np.where(events.MET_pt > 99, 1e-9, 1.0)})

    made = of(write(tmp_path / "a.root", WEIGHTS["spread"]))
    for function, kinds in ((scaled, ["weights"]), (some, [])):
        one = hn.Analysis("a", function, columns=["MET_pt"], axes=[hn.Axis("met", 10, 0, 100)])
        *_, result = engine.run(made, one, workers=1)
        assert [doubt.kind for doubt in result.doubts] == kinds


@pytest.mark.parametrize("chunk_events", [30_000, 200_000])
def test_sum_of_weights_that_does_not_fit_is_an_error(tmp_path: Path, chunk_events: int) -> None:
    """Up to 100 values of each event may be filled in one bin: the bound is that of all."""
    weights = np.r_[np.ones(1000), np.full(130_000, 65_000.0)].astype(np.float32)
    axes = [hn.Axis("met", 10, 0, 100, per_event=100)]
    one = hn.Analysis("many", hard, columns=["MET_pt"], axes=axes)
    with pytest.raises(errors.SchemaError, match=r"the sum of its weights is above 2\^62"):
        list(engine.run(of(write(tmp_path / "a.root", weights)), one, workers=1, chunk_events=chunk_events))
