"""The compiled kernel against its slow twin, against symmetries of nature, and on the known faults of public code."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import generators as made
import numpy as np
import numpy.typing as npt
import oracle
import pytest
from generators import EVENTS, TRACKLESS, electron, four_muons, muon, one_event, pack, two_and_two
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from higgsnb import errors, selection
from higgsnb import selection as hs
from higgsnb.selection import Candidates, Cut, Leptons, Selection

N_EVENTS = 24_000
CHECKED = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
SELECTIONS: dict[str, Selection] = {
    "open2012": selection.load("open2012"),
    "aod2012": selection.load("aod2012"),
    "df103": selection.load("df103").replace(integer_pairing=False),
    "df103 integer": selection.load("df103").replace(integer_pairing=True),
    "open2012 changed": selection.load("open2012").replace(
        muon_pt_min=8.0,
        muon_eta_max=2.0,
        electron_pt_min=5.0,
        electron_eta_max=2.2,
        muon_isolation_max=0.15,
        electron_isolation_max=0.3,
        dxy_max=0.02,
        dz_max=0.03,
        sip_max=2.5,
        z_mass=85.0,
        z1_mass_min=60.0,
        z1_mass_max=110.0,
        z2_mass_min=20.0,
        z2_mass_max=100.0,
        lepton_pt_leading=25.0,
        lepton_pt_subleading=15.0,
        delta_r_min=0.4,
        dilepton_mass_min=10.0,
        mass_4l_min=110.0,
    ),
    "aod2012 changed": selection.load("aod2012").replace(
        z_mass=60.0, dilepton_mass_min=12.0, mass_4l_min=0.0, lepton_pt_leading=30.0, sip_max=3.0
    ),
    "df103 changed": selection.load("df103").replace(
        z_mass=80.0, delta_r_min=0.5, mass_4l_min=150.0, lepton_pt_subleading=18.0, muon_pt_min=12.0, z2_mass_min=4.0
    ),
}
WIDE = {
    "muon_eta_max": 30.0,
    "electron_eta_max": 30.0,
    "z1_mass_min": 1.0,
    "z1_mass_max": 1e4,
    "z2_mass_min": 0.5,
    "z2_mass_max": 1e4,
}


@pytest.fixture(scope="module")
def events() -> list[made.Drawn]:
    return made.random_events(N_EVENTS)


@pytest.fixture(scope="module")
def leptons(events: list[made.Drawn]) -> Leptons:
    return pack(events)


Row = tuple[int, str, tuple[tuple[int, int], ...]]


def rows(found: Candidates) -> list[Row]:
    """Event, channel, and flavour and index of the four leptons."""
    return [
        (
            int(event),
            hs.CHANNELS[channel],
            tuple((int(f), int(i)) for f, i in zip(flavour, lepton, strict=True)),
        )
        for event, channel, flavour, lepton in zip(
            found.event_index, found.channel, found.flavour, found.lepton, strict=True
        )
    ]


def masses(found: Candidates) -> npt.NDArray[np.float64]:
    return np.stack([found.mass_4l, found.mass_z1, found.mass_z2], axis=1)


def expected_rows(outcomes: list[oracle.Outcome]) -> list[Row]:
    return [(event, *candidate.key) for event, outcome in enumerate(outcomes) for candidate in outcome.selected]


def expected_masses(outcomes: list[oracle.Outcome]) -> npt.NDArray[np.float64]:
    found = [(c.mass_4l, c.mass_z1, c.mass_z2) for outcome in outcomes for c in outcome.selected]
    return np.array(found).reshape(-1, 3)


def selected_channels(event: Leptons, cuts: Selection) -> list[str]:
    return [hs.CHANNELS[channel] for channel in selection.select(event, cuts).channel]


def furthest(event: Leptons, cuts: Selection, channel: str) -> str:
    """Name of the last cut that a chunk of one event has passed; the kernel agrees with its twin."""
    passed = selection.select(event, cuts).cutflow[hs.CHANNELS.index(channel), : Cut.UNIQUE]
    (outcome,) = oracle.select(event, cuts)
    assert int(passed.sum()) - 1 == outcome.furthest[channel]
    return oracle.STAGES[int(passed.sum()) - 1]


# Kernel and twin


def assert_same(chunk: Leptons, cuts: Selection, primary_dataset: str | None = None) -> Candidates:
    """Kernel and twin agree on events, channels, leptons, masses and cutflow; return what the kernel found."""
    found, outcomes = selection.select(chunk, cuts, primary_dataset), oracle.select(chunk, cuts, primary_dataset)
    assert rows(found) == expected_rows(outcomes)
    np.testing.assert_allclose(masses(found), expected_masses(outcomes), rtol=1e-9)
    assert found.cutflow[:, : Cut.UNIQUE].tolist() == oracle.cutflow(outcomes)
    return found


@pytest.mark.parametrize("name", SELECTIONS)
def test_kernel_equals_slow_twin(name: str, leptons: Leptons) -> None:
    found = assert_same(leptons, SELECTIONS[name])
    assert len(found.channel) > 1000  # the events reach deep
    assert (np.bincount(found.channel, minlength=3) > 100).all()


@pytest.mark.parametrize("primary_dataset", ["DoubleMu", "DoubleElectron"])
@pytest.mark.parametrize("name", ["open2012", "aod2012", "df103"])
def test_kernel_equals_slow_twin_in_each_primary_dataset(
    name: str, primary_dataset: str, events: list[made.Drawn]
) -> None:
    assert_same(pack(events[:5000]), SELECTIONS[name], primary_dataset)


@pytest.mark.parametrize("name", ["open2012", "aod2012", "df103", "df103 integer"])
def test_each_event_reaches_the_same_cut_in_kernel_and_twin(name: str, events: list[made.Drawn]) -> None:
    cuts = SELECTIONS[name]
    for event in events[:2000]:
        chunk = one_event(*event)
        (outcome,) = oracle.select(chunk, cuts)
        reached = selection.select(chunk, cuts).cutflow[:, : Cut.UNIQUE].sum(axis=1) - 1
        assert reached.tolist() == [outcome.furthest.get(channel, -1) for channel in oracle.CHANNELS]


@pytest.mark.parametrize("name", SELECTIONS)
def test_random_events_exercise_every_cut(name: str, leptons: Leptons) -> None:
    cuts = SELECTIONS[name]
    flow = selection.select(leptons, cuts).cutflow.sum(axis=0)
    lost = {oracle.STAGES[i] for i in range(1, len(oracle.STAGES)) if flow[i] < flow[i - 1]}
    absent = {
        "delta r": cuts.delta_r_min == 0,
        "dilepton mass": cuts.dilepton_mass_min == 0,
        "mass 4l": cuts.mass_4l_min == 0,
        "best candidate": cuts.algorithm != "open2012",
    }
    assert lost == set(oracle.STAGES[1:]) - {stage for stage, none in absent.items() if none}


@settings(CHECKED, max_examples=400)
@given(event=made.small_events(), name=st.sampled_from(list(SELECTIONS)))
def test_kernel_equals_slow_twin_on_any_small_event(event: made.Drawn, name: str) -> None:
    assert_same(one_event(*event), SELECTIONS[name])


@settings(CHECKED, max_examples=300)
@given(event=made.zz_events(), name=st.sampled_from(list(SELECTIONS)))
def test_kernel_equals_slow_twin_on_any_two_z(event: made.Drawn, name: str) -> None:
    assert_same(one_event(*event), SELECTIONS[name])


def test_unusable_leptons_are_counted_by_quantity(leptons: Leptons) -> None:
    found = selection.select(leptons, SELECTIONS["open2012"]).invalid_values
    expected = oracle.unusable(leptons)
    for row, flavour in enumerate((oracle.MUON, oracle.ELECTRON)):
        assert dict(zip(hs.QUANTITIES, found[row].tolist(), strict=True)) == {
            name: expected[flavour][name] for name in hs.QUANTITIES
        }


@pytest.mark.parametrize("name", SELECTIONS)
def test_chunk_without_events_gives_no_candidates(name: str) -> None:
    found = selection.select(pack([]), SELECTIONS[name])
    assert len(found.event_index) == 0
    assert found.lepton.shape == (0, 4)
    assert not found.cutflow.any()


@pytest.mark.parametrize("name", SELECTIONS)
def test_two_halves_of_a_chunk_add_up_to_the_whole(name: str, events: list[made.Drawn]) -> None:
    cuts = SELECTIONS[name]
    whole, first, second = (
        selection.select(pack(part), cuts) for part in (events[:4000], events[:1700], events[1700:4000])
    )
    np.testing.assert_array_equal(whole.cutflow, first.cutflow + second.cutflow)
    np.testing.assert_array_equal(whole.event_index, np.concatenate([first.event_index, second.event_index + 1700]))
    np.testing.assert_array_equal(masses(whole), np.concatenate([masses(first), masses(second)]))


@pytest.mark.parametrize("size", [97, 5000])
@pytest.mark.parametrize("name", SELECTIONS)
def test_blocks_of_a_chunk_give_the_bytes_of_the_whole(
    name: str, size: int, leptons: Leptons, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = selection.select(leptons, SELECTIONS[name])
    monkeypatch.setattr("higgsnb.selection.kernel.BLOCK", size)
    blocks = selection.select(leptons, SELECTIONS[name])
    for field in Candidates._fields:
        one, other = getattr(whole, field), getattr(blocks, field)
        assert (other.dtype, other.shape, other.tobytes()) == (one.dtype, one.shape, one.tobytes()), field


# Symmetries

EXACT, ROUNDED = 1e-9, 1e-5  # relative, on masses; angles are rounded to float32 after a rotation or a boost
SEEDS = st.integers(0, 2**32 - 1)  # of events with generic values: no ties, nothing so near a cut that rounding decides


def changed(events: list[made.Drawn], **functions: Callable[[Any], Any]) -> list[made.Drawn]:
    """Apply a function to a quantity of every lepton."""
    return [
        [replace(lepton, **{name: f(getattr(lepton, name)) for name, f in functions.items()}) for lepton in event]
        for event in events
    ]


def assert_same_choice(before: list[made.Drawn], after: list[made.Drawn], cuts: Selection, rtol: float) -> None:
    """The same events, channels, leptons (by their pT, which none of the changes touches), and masses."""
    chunks = pack(before), pack(after)
    found = [selection.select(chunk, cuts) for chunk in chunks]
    assert by_pt(chunks[0], found[0]) == by_pt(chunks[1], found[1])
    np.testing.assert_allclose(masses(found[0]), masses(found[1]), rtol=rtol)


def by_pt(chunk: Leptons, found: Candidates) -> list[tuple[int, str, tuple[float, ...]]]:
    pt = {oracle.MUON: chunk.muon_pt, oracle.ELECTRON: chunk.electron_pt}
    return [(event, channel, tuple(float(pt[f][i]) for f, i in four)) for event, channel, four in rows(found)]


@settings(CHECKED)
@given(seed=SEEDS, angle=st.floats(-math.pi, math.pi), name=st.sampled_from(list(SELECTIONS)))
def test_rotation_about_the_beam_changes_nothing(seed: int, angle: float, name: str) -> None:
    events = made.clean_zz_events(30, seed)
    turned = changed(events, phi=lambda phi: math.remainder(phi + angle, 2.0 * math.pi))
    assert_same_choice(events, turned, SELECTIONS[name], ROUNDED)


@settings(CHECKED)
@given(seed=SEEDS, name=st.sampled_from(list(SELECTIONS)))
def test_reflection_at_the_transverse_plane_changes_nothing(seed: int, name: str) -> None:
    events = made.clean_zz_events(30, seed)
    assert_same_choice(events, changed(events, eta=lambda eta: -eta), SELECTIONS[name], EXACT)


@settings(CHECKED)
@given(seed=SEEDS, name=st.sampled_from(list(SELECTIONS)))
def test_charge_conjugation_changes_nothing(seed: int, name: str) -> None:
    events = made.clean_zz_events(30, seed)
    assert_same_choice(events, changed(events, charge=lambda charge: -charge), SELECTIONS[name], EXACT)


@settings(CHECKED)
@given(seed=SEEDS, name=st.sampled_from([name for name in SELECTIONS if "df103" not in name]))
def test_stored_order_of_leptons_does_not_matter(seed: int, name: str) -> None:
    events, rng = made.clean_zz_events(30, seed), np.random.default_rng([1, seed])
    shuffled = [[event[i] for i in rng.permutation(len(event))] for event in events]
    assert_same_choice(events, shuffled, SELECTIONS[name], EXACT)


@settings(CHECKED)
@given(seed=SEEDS, rapidity=st.floats(-2.0, 2.0), name=st.sampled_from(list(SELECTIONS)))
def test_boost_leaves_four_lepton_mass_unchanged(seed: int, rapidity: float, name: str) -> None:
    events = made.clean_zz_events(30, seed)
    moving = [[boosted(lepton, rapidity) for lepton in event] for event in events]
    assert_same_choice(events, moving, SELECTIONS[name].replace(**WIDE), ROUNDED)


def boosted(lepton: oracle.Lepton, rapidity: float) -> oracle.Lepton:
    """Along the beam: the rapidity grows, which is the pseudorapidity only of a massless lepton."""
    transverse_mass = math.hypot(lepton.pt, lepton.mass)
    before = math.asinh(lepton.pt * math.sinh(lepton.eta) / transverse_mass)
    return replace(lepton, eta=math.asinh(transverse_mass * math.sinh(before + rapidity) / lepton.pt))


# Hand-written events


SHIPPED = ["open2012", "aod2012", "df103", "df103 integer"]


@pytest.mark.parametrize("channel", EVENTS)
@pytest.mark.parametrize("name", SHIPPED)
def test_hand_worked_event_is_selected_with_its_masses(name: str, channel: str) -> None:
    """m² = 2 pT pT' (cosh Δη - cos Δφ) for leptons whose own mass hardly matters."""
    found = assert_same(one_event(*EVENTS[channel]()), SELECTIONS[name])
    assert [hs.CHANNELS[c] for c in found.channel] == [channel]
    assert found.mass_z1[0] == pytest.approx(math.sqrt(2 * 45 * 44 * (math.cosh(0.3) - math.cos(2.9))), abs=1e-3)
    assert found.mass_z2[0] == pytest.approx(math.sqrt(2 * 22 * 12 * (math.cosh(0.8) - math.cos(2.7))), abs=1e-3)
    pt = [45.0, 44.0, 22.0, 12.0]
    assert by_pt(one_event(*EVENTS[channel]()), found)[0][2] == tuple(pt)


@pytest.mark.parametrize("channel", EVENTS)
@pytest.mark.parametrize("name", SHIPPED)
@pytest.mark.parametrize(
    ("quantity", "limit", "others"),
    [
        ("isolation", 0.4, {}),
        ("dxy", 0.5, {"dxy_error": 0.3}),
        ("dxy", -0.5, {"dxy_error": 0.3}),
        ("dz", 1.0, {"dz_error": 0.5}),
        ("dz", -1.0, {"dz_error": 0.5}),
    ],
)
def test_quality_limit_itself_fails(
    quantity: str, limit: float, others: dict[str, float], name: str, channel: str
) -> None:
    def selected(value: np.float32) -> bool:
        event = one_event(*EVENTS[channel]({quantity: float(value), **others}))
        return selected_channels(event, SELECTIONS[name]) == [channel]

    assert selected(np.nextafter(np.float32(limit), np.float32(0.0)))
    assert not selected(np.float32(limit))  # float32(0.4) is above 0.4, the others are exact


@pytest.mark.parametrize("name", SHIPPED)
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(("channel", "limit"), [("4mu", 2.4), ("4e", 2.5)])
def test_eta_limit_itself_fails(channel: str, limit: float, sign: int, name: str) -> None:
    cuts = SELECTIONS[name].replace(z2_mass_max=1000.0)
    at = np.float32(limit)
    inside = EVENTS[channel]({}, {}, {}, {"eta": sign * float(np.nextafter(at, np.float32(0.0)))})
    outside = EVENTS[channel]({}, {}, {}, {"eta": sign * float(at)})
    assert selected_channels(one_event(*inside), cuts) == [channel]
    assert furthest(one_event(*outside), cuts, channel) == "leptons"


@pytest.mark.parametrize("name", SHIPPED)
@pytest.mark.parametrize(("channel", "limit"), [("4mu", 5.0), ("4e", 7.0)])
def test_pt_limit_itself_fails(channel: str, limit: float, name: str) -> None:
    above = EVENTS[channel]({}, {}, {}, {"pt": float(np.nextafter(np.float32(limit), np.float32(99.0)))})
    at = EVENTS[channel]({}, {}, {}, {"pt": limit})
    assert selected_channels(one_event(*above), SELECTIONS[name]) == [channel]
    assert furthest(one_event(*at), SELECTIONS[name], channel) == "leptons"


def test_df103_has_no_pt_floor_in_2e2mu_and_the_others_have() -> None:
    event = one_event(*two_and_two({}, {}, {"pt": 40.0}, {"pt": 4.0}))
    assert furthest(event, SELECTIONS["df103"], "2e2mu") == "best candidate"
    assert furthest(event, SELECTIONS["aod2012"], "2e2mu") == "leptons"
    assert furthest(event, SELECTIONS["open2012"], "2e2mu") == "leptons"


@pytest.mark.parametrize("channel", EVENTS)
@pytest.mark.parametrize("name", SHIPPED)
def test_impact_significance_of_exactly_four_fails(name: str, channel: str) -> None:
    exactly = {"dxy": 0.1875, "dz": -0.25, "dxy_error": 0.046875, "dz_error": 0.0625}  # 5/16 over 5/64
    under = {**exactly, "dz": -0.2499}
    assert selected_channels(one_event(*EVENTS[channel](exactly)), SELECTIONS[name]) == []
    assert selected_channels(one_event(*EVENTS[channel](under)), SELECTIONS[name]) == [channel]


@pytest.mark.parametrize("channel", EVENTS)
@pytest.mark.parametrize("name", SHIPPED)
@pytest.mark.parametrize(
    ("lower", "upper", "quantity"),
    [
        ("z1_mass_min", "z1_mass_max", "mass_z1"),
        ("z2_mass_min", "z2_mass_max", "mass_z2"),
        ("mass_4l_min", None, "mass_4l"),
    ],
)
def test_windows_are_open(lower: str, upper: str | None, quantity: str, name: str, channel: str) -> None:
    event, cuts = one_event(*EVENTS[channel]()), SELECTIONS[name]
    found = selection.select(event, cuts)
    value = float(getattr(found, quantity)[0])
    key = rows(found)[0]
    assert key not in rows(selection.select(event, cuts.replace(**{lower: value})))
    assert key in rows(selection.select(event, cuts.replace(**{lower: math.nextafter(value, 0.0)})))
    if upper is not None:
        assert key not in rows(selection.select(event, cuts.replace(**{upper: value})))
        assert key in rows(selection.select(event, cuts.replace(**{upper: math.nextafter(value, math.inf)})))


@pytest.mark.parametrize(
    ("name", "channel"), [("open2012", "4mu"), ("open2012", "2e2mu"), ("aod2012", "4e"), ("df103", "2e2mu")]
)
def test_lepton_pt_limits_themselves_fail(name: str, channel: str) -> None:
    event, cuts = one_event(*EVENTS[channel]()), SELECTIONS[name]
    for limit, value in (("lepton_pt_leading", 45.0), ("lepton_pt_subleading", 44.0)):
        above = cuts.replace(lepton_pt_leading=44.0) if limit.endswith("subleading") else cuts
        assert furthest(event, above.replace(**{limit: value}), channel) == "z2 mass"
        assert selected_channels(event, above.replace(**{limit: math.nextafter(value, 0.0)})) == [channel]


@pytest.mark.parametrize("channel", ["4mu", "4e"])
def test_df103_has_no_pt_rule_in_four_of_a_kind(channel: str) -> None:
    event = one_event(*EVENTS[channel]())
    assert selected_channels(event, SELECTIONS["df103"].replace(lepton_pt_leading=500.0)) == [channel]


def test_df103_takes_either_flavour_for_the_pt_rule() -> None:
    """Electrons of 45 and 44, muons of 22 and 12: either is enough, neither is not."""
    event, cuts = one_event(*two_and_two()), SELECTIONS["df103"]
    muons_only = one_event(*[replace(lepton, flavour=24 - lepton.flavour) for lepton in two_and_two()])
    for chunk in (event, muons_only):
        assert selected_channels(chunk, cuts.replace(lepton_pt_leading=40.0, lepton_pt_subleading=40.0)) == ["2e2mu"]
        assert furthest(chunk, cuts.replace(lepton_pt_leading=46.0), "2e2mu") == "z2 mass"


def test_aod2012_wants_the_hard_leptons_in_z1() -> None:
    """A Z1 of 19 and 60 GeV leptons passes, one of 9 does not, however hard Z2 is."""
    soft = [muon(9.5, 1.5, 0.0, +1), muon(60.0, -1.0, 3.0, -1), muon(30.0, 0.1, 1.0, +1), muon(25.0, 0.0, 0.4, -1)]
    event = one_event(*soft)
    assert furthest(event, SELECTIONS["aod2012"], "4mu") == "z2 mass"
    assert selected_channels(event, SELECTIONS["open2012"]) == ["4mu"]


@pytest.mark.parametrize("name", ["open2012", "df103"])
def test_delta_r_limit_itself_fails(name: str) -> None:
    """Muons of Z2 half a unit apart in η, at the same φ; 600 GeV so that their mass is in the window."""
    near = {"pt": 60.0, "eta": 0.25, "phi": 1.5}, {"pt": 50.0, "eta": -0.25, "phi": 1.5}
    event = one_event(*two_and_two({}, {}, *near))
    assert furthest(event, SELECTIONS[name].replace(delta_r_min=0.5), "2e2mu") == "lepton pt"
    assert selected_channels(event, SELECTIONS[name].replace(delta_r_min=math.nextafter(0.5, 0.0))) == ["2e2mu"]


def test_dilepton_mass_limit_itself_fails() -> None:
    """The lightest opposite-sign pair, of whatever flavour, decides; a same-sign pair never does."""
    event = one_event(*two_and_two({}, {}, {"pt": 22.0, "eta": -0.2, "phi": 3.0}, {"pt": 30.0, "eta": 0.1, "phi": 0.3}))
    (outcome,) = oracle.select(event, SELECTIONS["aod2012"])
    (candidate,) = outcome.selected
    lightest = min(oracle.mass(a, b) for a in candidate.z1 for b in candidate.z2 if a.charge != b.charge)
    assert 1.0 < lightest < 4.0
    cuts = SELECTIONS["open2012"]
    assert furthest(event, cuts, "2e2mu") == "delta r"
    assert furthest(event, cuts.replace(dilepton_mass_min=lightest * (1 + 1e-9)), "2e2mu") == "delta r"
    assert selected_channels(event, cuts.replace(dilepton_mass_min=lightest * (1 - 1e-9))) == ["2e2mu"]
    same_sign = two_and_two({}, {}, {"eta": 0.12, "phi": 0.26})
    assert oracle.mass(same_sign[0], same_sign[2]) < 4.0
    assert selected_channels(one_event(*same_sign), cuts) == ["2e2mu"]


# Known faults of public code


@pytest.mark.parametrize("channel", EVENTS)
@pytest.mark.parametrize("name", SHIPPED)
def test_sentinel_in_impact_parameters_fails_although_their_ratio_is_one(name: str, channel: str) -> None:
    cuts = SELECTIONS[name].replace(dxy_max=1e4, dz_max=1e4)  # √2·999/√2·999 = 1 is below 4
    event = one_event(*EVENTS[channel](TRACKLESS))
    assert furthest(event, cuts, channel) == "leptons"
    assert furthest(event, SELECTIONS[name], channel) == "leptons"


@pytest.mark.parametrize("value", [-999.0, math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("quantity", [name for name in oracle.COLUMNS if name != "charge"])
@pytest.mark.parametrize("name", SHIPPED)
def test_lepton_with_an_impossible_value_fails(name: str, quantity: str, value: float) -> None:
    cuts = SELECTIONS[name].replace(dxy_max=1e4, dz_max=1e4, muon_eta_max=1e4, electron_eta_max=1e4)
    for channel, make in EVENTS.items():
        for position in range(4):
            event = one_event(*make(*[{}] * position, {quantity: value}))
            assert furthest(event, cuts, channel) == "leptons"


@pytest.mark.parametrize("charge", [0, 2, -2, 3, -999])
@pytest.mark.parametrize("name", SHIPPED)
def test_lepton_without_unit_charge_fails(name: str, charge: int) -> None:
    for channel, make in EVENTS.items():
        event = one_event(*make({"charge": charge}))
        assert furthest(event, SELECTIONS[name], channel) == "leptons"


@pytest.mark.parametrize(
    "errors",
    [
        {"dxy_error": 0.0, "dz_error": 0.0},
        {"dxy": 0.0, "dz": 0.0, "dxy_error": 0.0, "dz_error": 0.0},
        {"dxy_error": -0.003},
        {"dz_error": -0.005},
        {"dxy_error": -0.003, "dz_error": -0.005},
    ],
    ids=["no errors", "nothing", "negative dxy error", "negative dz error", "both negative"],
)
@pytest.mark.parametrize("name", SHIPPED)
def test_lepton_without_defined_significance_fails(name: str, errors: dict[str, float]) -> None:
    for channel, make in EVENTS.items():
        assert furthest(one_event(*make(errors)), SELECTIONS[name], channel) == "leptons"


@pytest.mark.parametrize("border", [0.0, math.pi])
@pytest.mark.parametrize(("name", "reached"), [("open2012", "lepton pt"), ("df103", "lepton pt"), ("aod2012", None)])
def test_delta_r_is_taken_the_short_way_round(name: str, reached: str | None, border: float) -> None:
    """Two muons 0.018 apart on either side of φ = ±π are as close as at φ = 0; 700 GeV puts their mass at 13."""
    close = [math.remainder(border + side * 0.009, 2.0 * math.pi) for side in (1, -1)]
    z2 = {"pt": 720.0, "eta": 0.5, "phi": close[0]}, {"pt": 700.0, "eta": 0.5, "phi": close[1]}
    event = one_event(*two_and_two({"phi": 1.0}, {"phi": 1.0 + 2.9}, *z2))
    assert furthest(event, SELECTIONS[name], "2e2mu") == (reached or "best candidate")


def test_a_lepton_belongs_to_one_z_only() -> None:
    """+ - - -: three opposite-sign pairs in the windows, but all with the same positive muon."""
    event = one_event(*four_muons({}, {}, {"charge": -1}, {}))
    for name in SHIPPED:
        assert furthest(event, SELECTIONS[name], "4mu") == "good leptons"
    three = one_event(*four_muons({}, {}, {"charge": -1}, {"isolation": 3.0}))
    for name in SHIPPED:
        assert furthest(three, SELECTIONS[name], "4mu") == "leptons"


def integer_event() -> Leptons:
    """At η = 0: m(01) = 91.9, m(03) = 91.5, m(12) = 51, m(23) = 60."""
    hard = 50.0
    return one_event(
        muon(hard, 0.0, 0.0, +1),
        muon(91.9**2 / (4 * hard), 0.0, math.pi, -1),
        muon(20.0, 0.0, 1.0, +1),
        muon(91.5**2 / (2 * hard * (1 - math.cos(2.5))), 0.0, -2.5, -1),
    )


def test_integer_pairing_keeps_a_pair_that_is_not_the_nearest() -> None:
    """91.9 is stored as 91, which 91.5 does not beat: |91.5 - 91.2| = 0.3 > 0.2 = |91 - 91.2|."""
    event = integer_event()
    right, truncated = (assert_same(event, SELECTIONS[name]) for name in ("df103", "df103 integer"))
    assert right.mass_z1[0] == pytest.approx(91.5, abs=0.01)
    assert truncated.mass_z1[0] == pytest.approx(91.9, abs=0.01)
    assert right.lepton[0].tolist() == [0, 3, 1, 2]
    assert truncated.lepton[0].tolist() == [0, 1, 3, 2]
    assert assert_same(event, SELECTIONS["aod2012"]).mass_z1[0] == right.mass_z1[0]
    assert SELECTIONS["df103"].digest != SELECTIONS["df103 integer"].digest


def test_integer_pairing_without_any_pair_below_183_gev_selects_nothing() -> None:
    """The best mass starts at -1, which is 92.2 away; no pair is nearer, and so there is no Z1."""
    heavy = [
        muon(300.0, 2.0, 0.0, 1),
        muon(290.0, -2.0, 3.0, -1),
        muon(310.0, 1.9, 1.5, 1),
        muon(280.0, -1.9, -1.5, -1),
    ]
    event = one_event(*heavy)
    for name in SHIPPED:
        assert furthest(event, SELECTIONS[name], "4mu") == "charge"


# What distinguishes the selections


def test_one_bad_muon_more_drops_the_event_in_df103_only() -> None:
    event = one_event(*four_muons(), muon(30.0, 0.9, -0.5, 1, isolation=2.0))
    assert selected_channels(event, SELECTIONS["open2012"]) == ["4mu"]
    assert selected_channels(event, SELECTIONS["aod2012"]) == ["4mu"]
    assert furthest(event, SELECTIONS["df103"], "4mu") == "all"


def test_channels_are_independent_but_in_open2012() -> None:
    """Four muons and two electrons: two channels where they are independent, else the better Z1."""
    event = one_event(*four_muons(), electron(50.0, 0.0, 0.0, 1), electron(41.57, 0.0, math.pi, -1))
    assert selected_channels(event, SELECTIONS["aod2012"]) == ["4mu", "2e2mu"]
    assert selected_channels(event, SELECTIONS["df103"]) == ["4mu", "2e2mu"]
    assert selected_channels(event, SELECTIONS["open2012"]) == ["2e2mu"]
    assert furthest(event, SELECTIONS["open2012"], "4mu") == "mass 4l"


def test_open2012_prefers_the_hardest_z2_among_equal_z1() -> None:
    """The electrons make Z1; of the two muon pairs with them the one of larger ΣpT is taken, not the nearer one."""
    z1 = [electron(45.0, 0.1, 0.2, 1), electron(45.5, -0.2, 3.3, -1)]
    z2 = [muon(22.0, 0.5, 1.5, 1), muon(12.0, -0.3, -1.2, -1), muon(14.0, 0.3, -0.9, -1)]
    found = assert_same(one_event(*z1, *z2), SELECTIONS["open2012"])
    assert found.lepton[0].tolist() == [1, 0, 0, 2]


def test_df103_takes_the_first_two_stored_and_aod2012_the_two_hardest() -> None:
    soft, hard = (
        [muon(22.0, 0.5, 1.5, 1), muon(12.0, -0.3, -1.2, -1)],
        [muon(60.0, 0.0, 2.0, -1), muon(31.0, 0.4, 0.0, 1)],
    )
    event = one_event(*soft, *hard, electron(45.0, 0.1, 0.2, 1), electron(44.0, -0.2, 3.1, -1))
    taken = {}
    for name in ("df103", "aod2012"):
        found = assert_same(event, SELECTIONS[name])
        (row,) = np.flatnonzero(found.channel == hs.TWO_EACH)
        taken[name] = sorted(found.lepton[row][found.flavour[row] == hs.MUON].tolist())
    assert taken == {"df103": [0, 1], "aod2012": [2, 3]}


def test_df103_sums_the_charge_over_all_muons() -> None:
    """The first two muons are of one sign; with four muons the sum is zero and the event is kept."""
    muons = [muon(22.0, 0.5, 1.5, 1), muon(12.0, -0.3, -1.2, 1), muon(11.0, 0.0, 2.0, -1), muon(10.0, 0.4, 0.0, -1)]
    electrons = [electron(45.0, 0.1, 0.2, 1), electron(44.0, -0.2, 3.1, -1)]
    assert furthest(one_event(*muons, *electrons), SELECTIONS["df103"], "2e2mu") == "best candidate"
    assert furthest(one_event(*muons[:3], *electrons), SELECTIONS["df103"], "2e2mu") == "good leptons"
    assert furthest(one_event(*muons, *electrons), SELECTIONS["aod2012"], "2e2mu") == "good leptons"


def test_equal_pt_is_decided_by_stored_order_in_aod2012() -> None:
    twins = [muon(12.0, -0.3, -1.2, -1), muon(12.0, -0.5, -1.4, -1)]
    for fourth in (twins, twins[::-1]):
        found = assert_same(one_event(*four_muons()[:3], *fourth), SELECTIONS["aod2012"])
        assert found.lepton[0].tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("primary_dataset", "channels"),
    [(None, ["4mu", "4e", "2e2mu"]), ("DoubleMu", ["4mu", "2e2mu"]), ("DoubleElectron", ["4e"])],
)
def test_primary_datasets_give_their_channels(primary_dataset: str | None, channels: list[str]) -> None:
    events = pack([make() for make in EVENTS.values()])
    for name in SHIPPED:
        found = [hs.CHANNELS[c] for c in selection.select(events, SELECTIONS[name], primary_dataset).channel]
        assert Counter(found) == Counter(list(EVENTS) if name == "open2012" else channels)


@pytest.mark.parametrize(
    "lacking",
    [("isolation",), tuple(TRACKLESS), ("isolation", *TRACKLESS), ("dxy", "dxy_error"), ("dz_error",)],
    ids=str,
)
@pytest.mark.parametrize("name", SHIPPED)
def test_quantity_that_the_schema_lacks_is_not_cut_on(
    name: str, lacking: tuple[str, ...], events: list[made.Drawn]
) -> None:
    """Nor is one that only this cut would use: without dxy there is no significance, and the error of dz has no use."""
    assert_same(made.without(pack(events[:3000]), *lacking), SELECTIONS[name])


@pytest.mark.parametrize("name", SHIPPED)
def test_csv_schema_selects_by_kinematics_alone(name: str) -> None:
    event = one_event(*four_muons({"isolation": 5.0, **TRACKLESS}))
    assert selected_channels(event, SELECTIONS[name]) == []
    assert selected_channels(made.without(event, "isolation", *TRACKLESS), SELECTIONS[name]) == ["4mu"]


@pytest.mark.parametrize(
    "changes",
    [
        {"muon_pt_min": float("inf")},
        {"muon_pt_min": float("nan")},
        {"muon_pt_min": -1},
        {"muon_pt_min": "5"},
        {"muon_pt_min": True},
        {"muon_pt_min": 10**300},
        {"title": 3},
        {"integer_pairing": 1},
        {"lepton_pt_leading": 5, "lepton_pt_subleading": 10},
        {"z2_mass_min": 130},
    ],
)
def test_cut_that_makes_no_sense_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(errors.SelectionError, match=next(iter(changes))):
        selection.load("open2012").replace(**changes)


def test_whole_numbers_and_numpy_numbers_are_the_same_cut() -> None:
    digests = {
        selection.load("open2012").replace(muon_pt_min=value).digest for value in (7, 7.0, np.float32(7), np.int64(7))
    }
    assert len(digests) == 1


BAD_CUTS = (
    "muon_pt_min = 1e308",
    "muon_pt_min = 0x" + "f" * 5000,
    "version = 0x" + "f" * 5000,
    "muon_pt_min = " + "[" * 200 + "]" * 200,
    "base." + ".".join("a" * 60) + " = 1",
    r'title = "a\u0000b"',
    r'"a\nb" = 1',
)


@pytest.mark.parametrize(
    "text", ["base = ['a']", "base = 'run1'", "muon_ptmin = 3", "= 3", "muon_pt_min = 'a'", *BAD_CUTS]
)
def test_selection_file_that_makes_no_sense_names_the_file(text: str, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(text)
    with pytest.raises(errors.SelectionError, match="mine") as caught:
        selection.load(tmp_path / "mine.toml")
    assert len(str(caught.value).splitlines()) == 2


@pytest.mark.parametrize("name", ["a\0b.toml", "a" * 3000 + ".toml", "~no.such.user/a.toml", "open2012 ", "a\nb"])
def test_name_that_no_selection_can_have_is_named(name: str) -> None:
    with pytest.raises((errors.SelectionError, errors.MissingFileError)) as caught:
        selection.load(name)
    assert len(str(caught.value).splitlines()) == 2


def test_selection_file_changes_its_base(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text('base = "aod2012"\nmuon_pt_min = 9\n')
    assert selection.load(tmp_path / "mine.toml").digest == selection.load("aod2012").replace(muon_pt_min=9).digest


def test_integer_pairing_never_makes_a_z_of_two_equal_charges() -> None:
    event = one_event(
        *(muon(200, 0, phi, charge) for phi, charge in ((0, 1), (0.4, 1), (3.1, -1), (3.5 - 2 * math.pi, -1)))
    )
    assert len(selection.select(event, selection.load("df103")).channel) == 0
    assert oracle.select(event, selection.load("df103"))[0].selected == []
