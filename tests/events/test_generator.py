"""The weights of simulation: signed, event by event, with the sum that the file stands for."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import numpy.typing as npt
import pytest
import uproot

from higgsnb import events
from higgsnb.datasets import Chunk, File
from higgsnb.errors import SchemaError

N = 200


def write(
    path: Path, columns: dict[str, npt.ArrayLike], *, runs: dict[str, npt.ArrayLike] | None = None, kind: str = "TTree",
    tree: str = "Events",
) -> Chunk:  # fmt: skip
    """A file of simulation with these columns, and maybe a tree ``Runs`` of the same kind."""
    number = np.arange(len(next(iter(columns.values()))))  # type: ignore[arg-type]
    identifiers = {
        "run": number.astype(np.uint32),
        "luminosityBlock": number.astype(np.uint32),
        "event": number.astype(np.uint64),
    }
    with uproot.recreate(path) as file:
        for name, found in ((tree, {**identifiers, **columns}), ("Runs", runs)):
            if found is not None:
                make = file.mktree if kind == "TTree" else file.mkrntuple
                arrays = {
                    key: ak.Array(values) if isinstance(values, list) else values for key, values in found.items()
                }
                types = {key: np.asarray(v).dtype if kind == "TTree" else v[:0] for key, v in arrays.items()}
                make(name, types).extend(arrays)
    return Chunk("mc", 0, 0, File(str(path)), "nanoaod", None, False, 0, len(number), None, tree=tree)


@pytest.mark.parametrize("kind", ["TTree", "RNTuple"])
def test_signed_weights_come_with_the_sum_of_all_rows_of_runs(tmp_path: Path, kind: str) -> None:
    weights = np.where(np.arange(N) % 4, 26_331.2, -26_331.2).astype(np.float32)
    runs = {"genEventCount": np.array([300, 50, 50]), "genEventSumw": np.array([1.5e6, -0.25e6, 2.0e6])}
    chunk = write(tmp_path / "a.root", {"genWeight": weights}, runs=runs, kind=kind)
    whole = events.read_generator(chunk)
    assert whole.weights is not None
    assert whole.weights.dtype == np.float64
    assert whole.weights.tolist() == weights.tolist()
    assert (whole.exponent, whole.generated) == (14, 3.25e6)
    parts = [
        events.read_generator(replace(chunk, start=start, stop=stop)) for start, stop in ((0, 1), (1, 150), (150, N))
    ]
    assert np.concatenate([part.weights for part in parts]).tolist() == weights.tolist()
    assert {part[1:] for part in parts} == {whole[1:]}
    assert sum(map(Fraction, whole.weights)) == sum(map(Fraction, weights.tolist()))


@pytest.mark.parametrize("weight", [1.0, 0.999, 1.001, 2.0**-40, 3e7, 1e-30])
@pytest.mark.parametrize("sign", [1, -1])
def test_exponent_is_that_of_the_median_of_the_first_weights(tmp_path: Path, weight: float, sign: int) -> None:
    """The rest of the file has other weights, and so have some of the first; zeros do not count."""
    first = np.r_[np.zeros(700), np.full(600, sign * weight), np.full(400, 1e3 * weight), np.full(5000, 1e6 * weight)]
    for values in (first, np.r_[first[1300:1700], first[:1300], first[1700:]]):
        generator = events.read_generator(write(tmp_path / "a.root", {"genWeight": values}))
        assert generator.exponent == math.floor(math.log2(weight))
        assert generator.generated is None


def test_events_without_weights_count_one_each(tmp_path: Path) -> None:
    chunk = write(tmp_path / "a.root", {"x": np.zeros(N)}, runs={"genEventCount": np.array([500, 1])})
    assert events.read_generator(chunk) == (None, 0, 501.0, 501.0)
    assert events.read_generator(write(tmp_path / "b.root", {"x": np.zeros(N)}))[:3] == (None, 0, None)


def test_number_of_generated_events_is_a_sum_of_equal_weights(tmp_path: Path) -> None:
    count = {"genEventCount": np.array([500])}
    equal = write(tmp_path / "a.root", {"genWeight": np.full(N, -2.5)}, runs=count)
    assert events.read_generator(equal).generated == -1250.0
    mixed = write(tmp_path / "b.root", {"genWeight": np.where(np.arange(N) % 4, 2.5, -2.5)}, runs=count)
    with pytest.raises(
        SchemaError, match=r"b.root: its Runs tree has no sum of weights, and they differ \(-2.5 to 2.5\)"
    ):
        events.read_generator(mixed)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_weight_that_is_no_number_names_file_and_entry(tmp_path: Path, bad: float) -> None:
    weights = np.where(np.arange(N) == 123, bad, 1.0)
    chunk = write(tmp_path / "a.root", {"genWeight": weights, "sf": np.ones(N)})
    assert events.read_generator(replace(chunk, stop=123)).weights is not None
    with pytest.raises(SchemaError, match=rf"a.root: genWeight of entry 123 is {bad}\n"):
        events.read_generator(replace(chunk, start=100))
    formula = replace(chunk, weight="sf / (genWeight - 1)", start=5)
    with pytest.raises(SchemaError, match=r"a.root: the weight sf / \(genWeight - 1\) of entry 5 is inf"):
        events.read_generator(formula)


@pytest.mark.parametrize(
    ("runs", "message"),
    [
        ({"genEventSumw": [0.0]}, "the sum of its generator weights is 0"),
        ({"genEventSumw": [-50.0]}, "the sum of its generator weights is -50"),
        ({"genEventCount": [100]}, "holds 200 events, but its Runs tree says that 100 were generated"),
        ({"genEventSumw": [150.0]}, "holds 200 events, but its Runs tree says that 150 were generated"),
        ({"genEventCount": [np.nan]}, "genEventCount of its Runs tree is not one number per row"),
    ],
)
def test_sum_that_cannot_be_is_an_error(tmp_path: Path, runs: dict[str, Any], message: str) -> None:
    arrays = {name: np.array(values) for name, values in runs.items()}
    with pytest.raises(SchemaError, match=f"a.root: {message}"):
        events.read_generator(write(tmp_path / "a.root", {"genWeight": np.ones(N)}, runs=arrays))


def test_formula_and_stated_sum_come_before_those_of_the_file(tmp_path: Path) -> None:
    weights, factor = np.where(np.arange(N) % 3, 1.5, -1.5), np.linspace(0.5, 2, N)
    columns = {"genWeight": weights, "sf": factor, "total": np.full(N, 1234.5)}
    chunk = write(tmp_path / "a.root", columns, runs={"genEventSumw": np.array([9e9])})
    stated = events.read_generator(replace(chunk, weight="2 * genWeight * sf", sum_of_weights=77.0))
    assert stated.weights is not None
    assert stated.weights.tolist() == (2 * weights * factor).tolist()
    assert (stated.exponent, stated.generated) == (1, 77.0)
    assert events.read_generator(replace(chunk, weight="2 * genWeight")).generated == 9e9
    assert events.read_generator(replace(chunk, sum_of_weights="total", start=30, stop=40)).generated == 1234.5
    assert events.read_generator(replace(chunk, weight="3")).weights.tolist() == [3.0] * N


def test_sum_of_weights_in_a_column_is_the_same_in_all_events(tmp_path: Path) -> None:
    total = np.where(np.arange(N) == 50, 2.0, 1.0)
    chunk = replace(write(tmp_path / "a.root", {"total": total, "lists": np.ones(N)}), sum_of_weights="total")
    assert events.read_generator(replace(chunk, stop=50)).generated == 1.0
    with pytest.raises(SchemaError, match=r"a.root: total of entry 50 is 2.0\nIn all events .*, in the first 1.0"):
        events.read_generator(replace(chunk, start=20))
    with pytest.raises(SchemaError, match=r"lacks totl\nFor totl: Did you mean total\?"):
        events.read_generator(replace(chunk, sum_of_weights="totl"))
    empty = write(tmp_path / "b.root", {"total": np.zeros(0)})
    assert events.read_generator(replace(empty, sum_of_weights="total")).generated is None


def test_weight_of_atlas_is_a_formula_of_its_columns_in_gev(tmp_path: Path) -> None:
    columns = {
        "runNumber": np.ones(N, np.uint32), "eventNumber": np.arange(N, dtype=np.uint64), "met_et": np.full(N, 2000.0),
        "mcWeight": np.where(np.arange(N) % 2, 3.0, -1.0), "SumWeights": np.full(N, 5e5, np.float32),
    }  # fmt: skip
    chunk = write(tmp_path / "a.root", columns, tree="mini")
    chunk = replace(chunk, schema="atlas", tree="Events", weight="mcWeight * met_et", sum_of_weights="SumWeights")
    generator = events.read_generator(chunk)
    assert generator.weights is not None
    assert generator.weights.tolist() == (2 * columns["mcWeight"]).tolist()
    assert generator.generated == 5e5


def test_weight_with_several_values_per_event_is_an_error(tmp_path: Path) -> None:
    with uproot.recreate(tmp_path / "a.root") as file:
        tree = file.mktree("Events", {"run": np.int32, "w": "var * float64"})
        tree.extend({"run": np.arange(3), "w": ak.Array([[1.0], [], [2.0, 3.0]])})
    chunk = Chunk("mc", 0, 0, File(str(tmp_path / "a.root")), "nanoaod", None, False, 0, 3, None, weight="w")
    with pytest.raises(SchemaError, match="w has several values per event, but one is needed"):
        events.read_generator(chunk)
