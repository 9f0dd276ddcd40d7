"""The output of a processor of coffea as bytes: what comes back is equal, bit for bit, or it is refused."""

from __future__ import annotations

import json
import math
from typing import Any

import boost_histogram as bh
import hist
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from higgsnb.errors import AnalysisError
from higgsnb.selection import processors


def kept(value: Any) -> Any:
    return processors._from_json(json.loads(processors._to_json("output", value)))


def filled(storage: Any, *weights: float) -> hist.Hist[Any]:
    dataset = hist.axis.StrCategory(["data", "zz"], name="dataset", label="dataset")
    mass = hist.axis.Regular(3, 60, 120, name="mass", label="mass [GeV]")
    made = hist.Hist(dataset, mass, hist.axis.Variable([0, 1, 5], name="pt"), storage=storage, name="h")
    for place, weight in enumerate(weights):
        given = {} if isinstance(storage, hist.storage.Int64) else {"weight": weight}
        made.fill(dataset="zz", mass=50.0 + 20 * place, pt=place, **given)
    return made


@pytest.mark.parametrize("storage", [hist.storage.Int64(), hist.storage.Double(), hist.storage.Weight()], ids=repr)
def test_histogram_comes_back_bit_for_bit_with_axes_and_names(storage: Any) -> None:
    before = filled(storage, 0.1, 0.2, 1e-300, -0.3, math.pi)
    after = kept({"mass": before})["mass"]
    assert isinstance(after, hist.Hist)
    assert after == before
    assert after.view(flow=True).tobytes() == before.view(flow=True).tobytes()
    assert [axis.name for axis in after.axes] == ["dataset", "mass", "pt"]
    assert after.axes[1].label == "mass [GeV]"


@given(st.recursive(st.integers() | st.floats(allow_nan=False), lambda some: st.dictionaries(st.text(), some)))
def test_numbers_in_dictionaries_come_back(value: Any) -> None:
    assert kept(value) == value
    assert repr(kept(value)) == repr(value)


def test_keys_of_the_format_are_keys_like_any_other() -> None:
    value = {"values": 1, "dict": {"histogram": 2.5}, "edges": {"": 0}}
    assert kept(value) == value


def test_scalars_of_numpy_become_numbers() -> None:
    value = kept({"n": np.int64(3), "pt": np.float32(0.1), "any": np.bool_(True)})
    assert value == {"n": 3, "pt": float(np.float32(0.1)), "any": 1}


def test_axis_that_can_grow_grows_on_or_is_refused() -> None:
    """Before boost-histogram 1.7 the format does not know that it can."""
    before = hist.Hist(hist.axis.StrCategory([], growth=True, name="dataset"), storage="weight")
    before.fill(dataset="data", weight=0.5)
    if tuple(map(int, bh.__version__.split(".")[:2])) < (1, 7):
        with pytest.raises(AnalysisError, match="cannot be kept"):
            kept(before)
        return
    other = hist.Hist(hist.axis.StrCategory([], growth=True, name="dataset"), storage="weight")
    other.fill(dataset="zz", weight=0.25)
    assert list((kept(before) + kept(other)).axes[0]) == ["data", "zz"]


REFUSED: dict[str, Any] = {
    "list": [1, 2],
    "array": np.ones(2),
    "text": "a",
    "nothing": None,
    "numbers as keys": {1: 2},
    "means": hist.Hist(hist.axis.Regular(2, 0, 1, name="x"), storage=hist.storage.Mean()).fill(x=[0.1], sample=[2.0]),
}


@pytest.mark.parametrize("value", REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_kept_is_refused_with_its_place(value: Any) -> None:
    with pytest.raises(AnalysisError) as caught:
        kept({"ok": 1, "data": {"inner": value}})
    assert caught.value.message.startswith("output['data']['inner'] is ")
    assert "Return dictionaries of strings" in caught.value.hint
