"""Records of events behave as four-vectors of `vector` do, and as plain arrays where that is quicker."""

from __future__ import annotations

from typing import Any

import awkward as ak
import numpy as np
import pytest
import vector

from higgsnb.events import to_numpy
from higgsnb.events.fourvectors import behavior

FIELDS = ("pt", "eta", "phi", "mass")


def made(seed: int = 1, n: int = 500, kind: Any = np.float32) -> tuple[Any, Any]:
    """The same objects as ours and as those of `vector`."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 5, n)
    total = int(counts.sum())
    columns = {
        "pt": rng.exponential(20, total).astype(kind) + kind(1),
        "eta": rng.uniform(-2.5, 2.5, total).astype(kind),
        "phi": rng.uniform(-np.pi, np.pi, total).astype(kind),
        "mass": np.full(total, 0.1057, kind),
        "charge": rng.choice([-1, 1], total).astype(np.int32),
    }
    record = ak.zip({name: ak.unflatten(values, counts) for name, values in columns.items()}, with_name="Momentum4D")
    return ak.Array(record.layout, behavior=behavior()), ak.Array(
        record.layout, behavior=vector.backends.awkward.behavior
    )


@pytest.mark.parametrize("seed", range(3))
def test_masks_keep_what_awkward_keeps(seed: int) -> None:
    ours, theirs = made(seed)
    mask, other = ((one.pt > 10) & (abs(one.eta) < 2) for one in (ours, theirs))
    assert ak.to_list(ours[mask]) == ak.to_list(theirs[other])
    assert ak.to_list(ours[mask][ours[mask].charge > 0]) == ak.to_list(theirs[other][theirs[other].charge > 0])
    two = ak.num(ours) == 2
    assert ak.to_list(ours[two][:, 0]) == ak.to_list(theirs[two][:, 0])
    assert ak.to_list(ours[ak.num(ours) > 9][mask[ak.num(ours) > 9]]) == []


def test_masks_of_other_lengths_are_the_errors_of_awkward() -> None:
    ours, _ = made()
    with pytest.raises(IndexError, match="cannot slice"):
        ours[made(7)[0].pt > 10]


@pytest.mark.parametrize("at", [0, 1, -1, -2, np.int64(1), slice(1)])
def test_objects_at_one_place_are_those_of_awkward(at: Any) -> None:
    ours, theirs = made(seed=4)
    hard, other = ours[ours.pt > 10], theirs[theirs.pt > 10]
    for mine, wanted in ((ours, theirs), (hard, other), (hard[::-1], other[::-1]), (hard[:, ::-1], other[:, ::-1])):
        many, same = mine[ak.num(mine) >= 2], wanted[ak.num(wanted) >= 2]
        assert ak.to_list(many[:, at]) == ak.to_list(same[:, at])
        assert ak.to_list(many[:9, at].charge) == ak.to_list(same[:9, at].charge)
        assert ak.to_list(many[3, at]) == ak.to_list(same[3, at])
    assert type(hard[ak.num(hard) > 9][:, 0]) is type(ours)


@pytest.mark.parametrize("at", [1, -2])
def test_a_list_that_is_too_short_is_the_error_of_awkward(at: int) -> None:
    ours, _ = made()
    with pytest.raises(IndexError, match="cannot slice"):
        ours[ak.num(ours) > 0][:, at]


def test_fields_of_one_object_of_each_event_are_those_of_awkward() -> None:
    ours, theirs = ((one[ak.num(one) > 1])[:, 1] for one in made(seed=5))
    shuffled = np.random.default_rng(5).permutation(len(ours))
    for mine, wanted in ((ours, theirs), (ours[shuffled], theirs[shuffled]), (ours[:0], theirs[:0])):
        for name in (*FIELDS, "charge"):
            assert ak.to_list(mine[name]) == ak.to_list(wanted[name])
            assert str(mine[name].type) == str(wanted[name].type)


def test_arrays_of_chosen_events_are_those_of_awkward() -> None:
    events = ak.Array({"index": np.arange(9), "pair": np.arange(18).reshape(9, 2), "maybe": [None, *range(8)]})
    which = np.array([7, 0, 3])
    for some in (events, events[which], events[:0]):
        for name in events.fields:
            found, expected = to_numpy(some[name]), ak.to_numpy(some[name], allow_missing=True)
            np.testing.assert_array_equal(found, expected)
            assert (type(found), found.dtype) == (type(expected), expected.dtype)
    assert to_numpy(ak.Array(["a", "bc"])).tolist() == ["a", "bc"]


def test_sums_are_those_of_numpy_in_float64() -> None:
    ours, _ = made(seed=6)
    pairs = ours[ak.num(ours) >= 2]
    first, second = pairs[:, 0], pairs[:, -1]
    expected = np.zeros((4, len(pairs)))
    for one in (first, second):
        pt, eta, phi, mass = (np.asarray(one[name]) for name in FIELDS)
        wide = pt.astype(np.float64)
        z = wide * np.sinh(eta)
        energy = np.sqrt(wide * wide + z * z + mass.astype(np.float64) ** 2)
        expected += np.stack([wide * np.cos(phi), wide * np.sin(phi), z, energy])
    total = first + second
    assert [np.asarray(total[name]).tolist() for name in "xyzt"] == expected.tolist()
    x, y, z, t = expected
    square = t * t - x * x - y * y - z * z
    assert np.asarray(total.mass).tolist() == np.copysign(np.sqrt(np.abs(square)), square).tolist()
    assert (np.asarray((first + first).mass) > 0).all()


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_sums_and_masses_are_those_of_vector(kind: Any) -> None:
    ours, theirs = made(kind=kind)
    two = ak.num(ours) >= 2
    (a, b), (c, d) = ((one[two][:, 0], one[two][:, 1]) for one in (ours, theirs))
    wide_c, wide_d = (ak.values_astype(one, np.float64) for one in (c, d))
    expected = wide_c + wide_d
    for name in ("mass", "pt", "phi", "eta", "px", "py", "pz", "energy"):
        np.testing.assert_allclose(getattr(a + b, name), getattr(expected, name), rtol=2e-5, atol=2e-4)
    three = ak.num(ours) >= 3
    one = ours[three]
    total = one[:, 0] + one[:, 1] + one[:, 2]
    wide = [ak.values_astype(theirs[three][:, i], np.float64) for i in range(3)]
    np.testing.assert_allclose(total.mass, (wide[0] + wide[1] + wide[2]).mass, rtol=2e-5)


def test_everything_else_is_left_to_vector() -> None:
    ours, theirs = made()
    for mine, other in zip(ak.unzip(ak.combinations(ours, 2)), ak.unzip(ak.combinations(theirs, 2)), strict=True):
        np.testing.assert_allclose(ak.flatten(mine.p), ak.flatten(other.p))
    (a, b), (c, d) = (ak.unzip(ak.combinations(one, 2)) for one in (ours, theirs))
    np.testing.assert_allclose(ak.flatten((a + b).mass), ak.flatten((c + d).mass), rtol=1e-2)
    np.testing.assert_allclose(ak.flatten(a.deltaR(b)), ak.flatten(c.deltaR(d)), rtol=1e-6)
    np.testing.assert_allclose(ak.flatten((2 * a).pt), ak.flatten((2 * c).pt), rtol=1e-6)
    first = ak.firsts(ours)
    assert ak.to_list(ak.is_none(first.pt)) == ak.to_list(ak.num(ours) == 0)
    assert ours[3, 0].pt == theirs[3, 0].pt if len(theirs[3]) else True


def test_space_like_sum_has_a_negative_mass() -> None:
    one = ak.Array([{"x": 3.0, "y": 0.0, "z": 0.0, "t": 1.0}], with_name="Momentum4D", behavior=behavior())
    assert one.mass[0] == pytest.approx(-np.sqrt(8.0))
