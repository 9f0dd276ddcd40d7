"""The selection ``run2`` against its slow twin, on events worked out by hand, and under symmetries."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import numpy.typing as npt
import pytest
import run2 as twin
import uproot
from oracle import ELECTRON, MUON
from run2 import Columns, Event, Lepton, Outcome, Photon, columns_of, four_muons, rounded

from higgsnb import selection as hs
from higgsnb.errors import SchemaError, SelectionError
from higgsnb.plots.leptons import good_leptons
from higgsnb.results.duplicates import find_duplicates
from higgsnb.results.layout import FOUR_LEPTONS
from higgsnb.selection import Candidates, Selection

RUN2 = hs.load("run2")
N_EVENTS = 100_000
N_FEWER = 20_000


@pytest.fixture(scope="module")
def events() -> list[Event]:
    return twin.random_events(N_FEWER)


@pytest.fixture(scope="module")
def outcomes(events: list[Event]) -> list[Outcome]:
    return [twin.select_event(event) for event in events]


@pytest.fixture(scope="module")
def columns(events: list[Event]) -> Columns:
    return columns_of(events)


Row = tuple[int, tuple[str, tuple[tuple[int, int], ...]]]


def run(
    columns: Columns, cuts: Selection = RUN2, primary_dataset: str | None = None, *, is_data: bool = False
) -> Candidates:
    leptons = hs.to_leptons(columns, cuts, primary_dataset, is_data=is_data)
    return hs.select(leptons, cuts, primary_dataset, reached=True)


def rows(columns: Columns, found: Candidates) -> list[Row]:
    """Event, channel, and flavour and index within the event of the four leptons."""
    starts = {MUON: columns.offsets["Muon"], ELECTRON: columns.offsets["Electron"]}
    return [
        (int(e), (hs.CHANNELS[c], tuple((int(f), int(i - starts[int(f)][e])) for f, i in zip(fs, ls, strict=True))))
        for e, c, fs, ls in zip(found.event_index, found.channel, found.flavour, found.lepton, strict=True)
    ]


def masses(found: Candidates) -> npt.NDArray[np.float64]:
    return np.stack([found.mass_4l, found.mass_z1, found.mass_z2], axis=1)


def assert_same(columns: Columns, found: Candidates, outcomes: Sequence[Outcome]) -> None:
    """The same events, channels, leptons, masses and cutflow."""
    expected = [(event, outcome.key) for event, outcome in enumerate(outcomes) if outcome.key is not None]
    assert rows(columns, found) == expected
    expected_masses = np.array([outcome.masses for outcome in outcomes if outcome.masses is not None]).reshape(-1, 3)
    np.testing.assert_allclose(masses(found), expected_masses, rtol=1e-9)
    assert found.cutflow[:, :-1].tolist() == twin.cutflow(outcomes)
    assert (found.cutflow[:, -1] == found.cutflow[:, -2]).all()


def check(*events: Event, **options: Any) -> list[str]:
    """Package and twin agree; return the channel of each candidate."""
    columns = columns_of(events)
    found = run(columns)
    assert_same(columns, found, [twin.select_event(event, **options) for event in events])
    return [hs.CHANNELS[channel] for channel in found.channel]


def stage(event: Event, channel: str = "4mu", cuts: Selection = RUN2) -> str:
    """Name of the last cut that an event passes."""
    passed = int(run(columns_of([event]), cuts).cutflow[hs.CHANNELS.index(channel), :-1].sum())
    return cuts.cut_names()[passed - 1]


# --- Package and twin


def test_run2_equals_its_slow_twin(columns: Columns, outcomes: list[Outcome]) -> None:
    found = run(columns)
    assert_same(columns, found, outcomes)
    assert (np.bincount(found.channel, minlength=3) > 500).all()


@pytest.mark.one_python
def test_run2_equals_its_slow_twin_in_many_events() -> None:
    for seed in range(N_EVENTS // N_FEWER):
        many = twin.random_events(N_FEWER, seed=100 + seed)
        columns = columns_of(many)
        assert_same(columns, run(columns), [twin.select_event(event) for event in many])


@pytest.mark.parametrize("primary_dataset", list(twin.PATHS))
def test_run2_equals_its_slow_twin_in_each_primary_dataset(primary_dataset: str, events: list[Event]) -> None:
    columns = columns_of(events)
    found = run(columns, RUN2, primary_dataset, is_data=True)
    assert_same(columns, found, [twin.select_event(event, primary_dataset) for event in events])
    assert 0 < len(found.channel) < len(run(columns).channel)


def test_rows_of_the_cutflow_are_the_stages_of_the_twin() -> None:
    assert RUN2.cut_names() == (*twin.STAGES, "unique")
    assert hs.load("open2012").cut_names() == hs.CUT_NAMES


def test_random_events_exercise_every_cut(outcomes: list[Outcome]) -> None:
    flow = np.array(twin.cutflow(outcomes))
    assert (np.diff(flow.sum(axis=0)) < 0).all()
    assert (flow[:2, twin.STAGES.index("smart cut") - 1] - flow[:2, twin.STAGES.index("smart cut")] > 60).all()


CHANGES = {
    "no photons": lambda event: replace(event, photons=()),
    "no isolation": lambda event: replace(event, muons=tuple(replace(m, isolation=0.0) for m in event.muons)),
    "every muon PF": lambda event: replace(event, muons=tuple(replace(m, is_pf=True) for m in event.muons)),
    "no PF muon": lambda event: replace(event, muons=tuple(replace(m, is_pf=False) for m in event.muons)),
    "no high-pT ID": lambda event: replace(event, muons=tuple(replace(m, high_pt_id=0) for m in event.muons)),
    "best MVA": lambda event: replace(event, electrons=tuple(replace(e, mva=1.0) for e in event.electrons)),
    "eta of the track": lambda event: replace(
        event, electrons=tuple(replace(e, delta_eta_sc=0.0) for e in event.electrons)
    ),
    "best sip3d": lambda event: replace(
        event,
        muons=tuple(replace(m, sip3d=0.0) for m in event.muons),
        electrons=tuple(replace(e, sip3d=0.0) for e in event.electrons),
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_random_events_depend_on_each_quantity(change: str, events: list[Event], outcomes: list[Outcome]) -> None:
    """Were one of them ignored, the comparison with the twin would show it in so many events."""
    again = [twin.select_event(CHANGES[change](event)) for event in events]
    assert sum((a.key, a.masses) != (b.key, b.masses) for a, b in zip(again, outcomes, strict=True)) > 5


def test_photons_decide_by_mass_and_by_isolation(events: list[Event]) -> None:
    """Photons move masses, and make muons good that were not isolated; both happen often."""
    moved = isolated = 0
    for event in events:
        photons = twin.photons_of(event)
        without = twin.legs_of(replace(event, photons=()))
        legs = twin.legs_of(event)
        moved += any(leg.bare != leg.dressed for leg in legs)
        isolated += len(legs) > len(without)
        assert len(legs) >= len(without)
        assert len(photons) <= len(event.muons)
    assert moved > 1000
    assert isolated > 100


def test_invalid_values_are_counted_by_quantity(events: list[Event], columns: Columns) -> None:
    found = run(columns).invalid_values
    names = RUN2.quantities
    assert found.shape == (2, len(names))
    expected = np.zeros((2, len(names)), np.int64)
    for event in events:
        if not twin.is_triggered(event, None) or not any(twin.enough(len(event.muons), len(event.electrons)).values()):
            continue
        for lepton in event.muons + event.electrons:
            electron = lepton.flavour == ELECTRON
            for index, name in enumerate(names):
                if name in ("dxy_error", "dz_error") or (electron and name == "isolation"):
                    continue  # in no cut
                if name == "charge":
                    wrong = abs(lepton.charge) != 1
                elif name == "id":
                    wrong = electron and not twin.real(lepton.mva, lepton.delta_eta_sc)
                else:
                    wrong = not twin.real(getattr(lepton, name))
                expected[int(electron), index] += wrong
    assert found.tolist() == expected.tolist()
    assert (expected[:, names.index("sip3d")] > 0).all()


def test_candidates_come_with_dressed_four_momenta(columns: Columns) -> None:
    leptons = hs.to_leptons(columns, RUN2)
    found = hs.select(leptons, RUN2)
    energy, *momentum = np.moveaxis(hs.four_momenta(leptons, found).sum(axis=1), 1, 0)
    np.testing.assert_allclose(np.sqrt(energy**2 - sum(p**2 for p in momentum)), found.mass_4l, rtol=1e-9)
    bare = hs.four_momenta(leptons._replace(muon_photon_pt=None), found)
    assert 0.005 < np.mean(bare[:, :, 0] != hs.four_momenta(leptons, found)[:, :, 0]) < 0.5


@pytest.mark.parametrize("size", [97, 5000])
def test_blocks_of_a_chunk_give_the_bytes_of_the_whole(
    size: int, events: list[Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    columns = columns_of(events)
    whole = run(columns)
    monkeypatch.setattr("higgsnb.selection.kernel.BLOCK", size)
    blocks = run(columns)
    for field in Candidates._fields:
        one, other = getattr(whole, field), getattr(blocks, field)
        assert (other.dtype, other.shape, other.tobytes()) == (one.dtype, one.shape, one.tobytes()), field


@pytest.mark.parametrize("pieces", [1, 3])
def test_events_in_pieces_add_up(pieces: int, events: list[Event]) -> None:
    some = events[:3000]
    whole = run(columns_of(some))
    parts = [run(columns_of(some[i::pieces])) for i in range(pieces)]
    assert sum(part.cutflow for part in parts).tolist() == whole.cutflow.tolist()
    assert sum(part.invalid_values for part in parts).tolist() == whole.invalid_values.tolist()
    assert sorted(m for part in parts for m in part.mass_4l) == sorted(whole.mass_4l)


# --- Events by hand: leptons

GOOD = Event(four_muons())
GOOD_E = Event((), four_muons(flavour=ELECTRON))


def test_hand_worked_events_are_selected() -> None:
    """m² = 2 pT pT' (cosh Δη - cos Δφ) for massless leptons."""
    assert check(GOOD) == ["4mu"]
    assert check(GOOD_E) == ["4e"]
    found = run(columns_of([GOOD]))
    assert found.mass_z1[0] == pytest.approx(math.sqrt(2 * 45 * 44 * (math.cosh(0.3) - math.cos(2.9))), rel=1e-6)
    assert found.mass_z2[0] == pytest.approx(math.sqrt(2 * 22 * 12 * (math.cosh(0.8) - math.cos(2.7))), rel=1e-6)


@pytest.mark.parametrize(
    ("passes", "changes"),
    [
        (True, {"sip3d": 3.99}),
        (False, {"sip3d": 4.0}),
        (False, {"sip3d": -4.5}),
        (False, {"sip3d": math.nan}),
        (False, {"sip3d": -999.0}),
        (True, {"isolation": 0.349}),
        (False, {"isolation": 0.351}),
        (False, {"isolation": -999.0}),
        (True, {"is_global": False, "is_tracker": False}),
        (False, {"is_pf": False}),
        (False, {"is_pf": False, "high_pt_id": 2}),  # 45 GeV
        (True, {"is_pf": False, "high_pt_id": 1, "pt": 201.0}),
        (False, {"is_pf": False, "high_pt_id": 1, "pt": 200.0}),
        (True, {"is_pf": False, "high_pt_id": 2, "pt": 201.0, "is_global": False}),
        (True, {"is_pf": False, "high_pt_id": 2, "pt": 201.0, "is_tracker": False}),
        (False, {"is_pf": False, "high_pt_id": 2, "pt": 201.0, "is_global": False, "is_tracker": False}),
        (False, {"is_pf": False, "high_pt_id": 0, "pt": 201.0}),
        (False, {"dxy": 0.5}),
        (False, {"dz": -1.0}),
        (False, {"eta": 2.4}),
    ],
)
def test_one_muon_decides(passes: bool, changes: dict[str, Any]) -> None:
    event = Event(four_muons(changes))
    check(event)
    assert (stage(event) not in ("leptons", "all")) == passes
    assert (stage(event) == "leptons") != passes


@pytest.mark.parametrize("value", [-999.0, math.nan, math.inf, -math.inf])
def test_significance_that_does_not_exist_fails_however_large_it_may_be(value: float) -> None:
    cuts = RUN2.replace(sip_max=1e4)
    assert stage(Event(four_muons({"sip3d": 900.0})), cuts=cuts) == "best candidate"
    assert stage(Event(four_muons({"sip3d": value})), cuts=cuts) == "leptons"


def test_significance_of_preselected_leptons_is_the_stored_one() -> None:
    leptons = hs.to_leptons(columns_of([Event(four_muons({"sip3d": -2.5}), four_muons(flavour=ELECTRON))]), RUN2)
    found, *_ = hs.pairings.preselect(leptons, hs.rules.cuts_of(RUN2), any_pt=True)
    assert found.sip.tolist() == [2.5, 1, 1, 1, 1, 1, 1, 1]
    assert found.bare["pt"].tolist() == found.leptons["pt"].tolist()


# Threshold, pT and |η| of the supercluster, from physics: 0.8 halves the barrel, 1.479 is its end.
WORKING_POINTS = [
    (0.9128577458, 9.0, 0.5),
    (0.9056792368, 9.0, 1.2),
    (0.9439440575, 9.0, 2.0),
    (0.1559788054, 30.0, 0.5),
    (0.0273863727, 30.0, 1.2),
    (-0.5532483665, 30.0, 2.0),
]


@pytest.mark.parametrize(("threshold", "pt", "eta"), WORKING_POINTS)
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("shift", [0.0, 0.05])
def test_electron_mva_threshold(threshold: float, pt: float, eta: float, sign: int, shift: float) -> None:
    """The region is that of the supercluster: its pseudorapidity is eta + deltaEtaSC."""
    track = {"pt": pt, "eta": sign * (eta - shift), "delta_eta_sc": sign * shift}
    for step, passes in ((1e-4, True), (-1e-4, False)):
        electron = rounded(replace(four_muons(flavour=ELECTRON)[3], **track, mva=threshold + step))
        event = Event((), (*four_muons(flavour=ELECTRON)[:3], electron))
        check(event)
        assert (stage(event, "4e") == "leptons") != passes


@pytest.mark.parametrize(
    ("eta", "shift", "mva", "passes"),
    [
        (0.79, 0.02, 0.1, True),  # 0.81 is in the second region, whose threshold is 0.027
        (0.81, -0.02, 0.1, False),
        (1.47, 0.02, -0.5, True),  # 1.49 is in the endcap
        (1.49, -0.02, -0.5, False),
        (-0.79, -0.02, 0.1, True),
        (2.49, 0.05, -0.5, True),  # the cut on |η| is on that of the track
        (2.51, -0.05, -0.5, False),
    ],
)
def test_supercluster_and_not_track_is_in_a_region(eta: float, shift: float, mva: float, passes: bool) -> None:
    electrons = list(four_muons(flavour=ELECTRON))
    electrons[2] = rounded(replace(electrons[2], eta=eta, delta_eta_sc=shift, mva=mva))
    event = Event((), tuple(electrons))
    check(event)
    assert (stage(event, "4e") == "leptons") != passes


def test_ten_gev_is_in_the_lower_region() -> None:
    for pt, mva, passes in ((10.0, 0.5, False), (10.001, 0.5, True), (10.0, 0.95, True)):
        electrons = list(four_muons(flavour=ELECTRON))
        electrons[3] = rounded(replace(electrons[3], pt=pt, mva=mva))
        check(Event((), tuple(electrons)))
        assert (stage(Event((), tuple(electrons)), "4e") == "leptons") != passes


def test_electrons_need_not_be_isolated() -> None:
    for isolation in (5.0, -999.0, math.nan):
        assert check(Event((), four_muons(*[{"isolation": isolation}] * 4, flavour=ELECTRON))) == ["4e"]


@pytest.mark.parametrize("change", [{"mva": math.nan}, {"mva": -999.0}, {"delta_eta_sc": -999.0, "mva": 0.9}])
def test_electron_without_a_value_fails_and_is_counted(change: dict[str, Any]) -> None:
    """With a pseudorapidity of −999 it would be in the endcap, where an MVA of 0.9 passes."""
    event = Event((), four_muons(change, flavour=ELECTRON))
    assert stage(event, "4e") == "leptons"
    found = run(columns_of([event])).invalid_values
    assert found[1, RUN2.quantities.index("id")] == 1
    assert found.sum() == 1


# --- Photons


def photon_at(muon: Lepton, index: int, pt: float, away: float = 0.1, /, **changes: Any) -> Photon:
    """A photon beside a muon, at the same φ."""
    photon = Photon(pt, muon.eta + away, muon.phi, away / pt**2, 0.5, index)
    return rounded(replace(photon, **changes))  # type: ignore[no-any-return]


def with_photon(**changes: Any) -> Event:
    return Event(four_muons(), (), (photon_at(four_muons()[0], 0, 6.0, **changes),))


def is_radiated(event: Event) -> bool:
    check(event)
    found, bare = run(columns_of([event])), run(columns_of([replace(event, photons=())]))
    return bool(found.mass_4l[0] != bare.mass_4l[0])


def test_photon_is_added_to_its_muon_in_all_masses_but_not_to_its_pt() -> None:
    """Its muon has (45, η = 0.1, φ = 0.2), the photon (6, 0.2, 0.2): masses are those of the sums of vectors."""
    event = with_photon()
    found = run(columns_of([event]))
    leptons = [np.array(twin.vector(m.pt, m.eta, m.phi, 0.0)) for m in event.muons]
    leptons[0] += np.array(twin.vector(6.0, event.photons[0].eta, 0.2, 0.0))

    def mass(*vectors: npt.NDArray[np.float64]) -> float:
        energy, px, py, pz = sum(vectors)
        return math.sqrt(energy**2 - px**2 - py**2 - pz**2)

    assert found.mass_z1[0] == pytest.approx(mass(leptons[0], leptons[1]), rel=1e-6)
    assert found.mass_z2[0] == pytest.approx(mass(leptons[2], leptons[3]), rel=1e-6)
    assert found.mass_4l[0] == pytest.approx(mass(*leptons), rel=1e-6)
    assert found.mass_4l[0] > run(columns_of([GOOD])).mass_4l[0] + 5
    # Were it part of the muon, the leading pT would be 51 GeV.
    assert stage(event, cuts=RUN2.replace(lepton_pt_leading=45.0)) == "z2 mass"


@pytest.mark.parametrize(
    ("added", "changes"),
    [
        (True, {}),
        (False, {"pt": 2.0, "distance_over_et2": 0.001}),
        (True, {"pt": 2.01, "distance_over_et2": 0.001}),
        (True, {"isolation": 1.79}),
        (False, {"isolation": 1.8001}),
        (True, {"distance_over_et2": 0.0119}),
        (False, {"distance_over_et2": 0.0121}),
        (False, {"muon": -1}),
        (False, {"muon": 4}),
        (False, {"isolation": -999.0}),
        (False, {"distance_over_et2": -999.0}),
        (False, {"phi": -999.0}),
        (False, {"pt": math.inf}),
        (False, {"eta": math.nan}),
    ],
)
def test_cuts_on_photons(added: bool, changes: dict[str, Any]) -> None:
    assert is_radiated(with_photon(**changes)) == added


def test_photon_that_is_half_a_unit_away_is_not_of_the_muon() -> None:
    assert is_radiated(with_photon(eta=0.599))
    assert not is_radiated(with_photon(eta=0.601))


@pytest.mark.parametrize("side", [1, -1])
def test_photon_outside_the_tracker_is_not_used(side: int) -> None:
    muons = four_muons({"eta": 2.3 * side}, {"eta": 2.0 * side})
    for eta, added in ((2.39, True), (2.41, False)):
        photon = photon_at(muons[0], 0, 6.0, side * (eta - 2.3), distance_over_et2=0.003)
        assert is_radiated(Event(muons, (), (photon,))) == added


def test_of_two_photons_the_one_of_smallest_distance_over_et2_is_used() -> None:
    muon = four_muons()[0]
    near, far = photon_at(muon, 0, 5.0, 0.05), photon_at(muon, 0, 9.0, 0.4)
    expected = run(columns_of([Event(four_muons(), (), (near,))])).mass_4l[0]
    for photons in ((near, far), (far, near)):
        event = Event(four_muons(), (), photons)
        check(event)
        assert run(columns_of([event])).mass_4l[0] == expected


def test_photon_of_a_muon_is_one_of_its_own_event() -> None:
    """The first event has no muon 0 of the second; indices count from each event."""
    other = Event((four_muons()[0],), (), ())
    events = [other, with_photon(), other, GOOD, with_photon(muon=1, eta=-0.2, phi=3.0)]
    check(*events)
    found = run(columns_of(events))
    assert len(set(found.mass_4l)) == 3
    # Nor is the last muon of the event before, in the same direction, number −1.
    last = four_muons()[3]
    events = [
        GOOD,
        replace(GOOD, photons=(photon_at(last, -1, 6.0),)),
        replace(GOOD, photons=(photon_at(last, 3, 6.0),)),
    ]
    check(*events)
    found = run(columns_of(events))
    assert found.mass_4l[0] == found.mass_4l[1] < found.mass_4l[2]


@pytest.mark.parametrize(("away", "passes"), [(0.005, False), (0.02, True), (0.29, True), (0.31, False)])
def test_photon_in_the_cone_does_not_spoil_the_isolation(away: float, passes: bool) -> None:
    """0.45 of 45 GeV are around the muon, 9 GeV of that the photon: 0.25 is left if it is between 0.01 and 0.3 away."""
    muons = four_muons({"isolation": 0.45})
    event = Event(muons, (), (photon_at(muons[0], 0, 9.0, away),))
    check(event)
    assert (stage(event) == "best candidate") == passes


def test_photon_is_taken_out_of_the_isolation_of_other_muons_too() -> None:
    """The third muon is not isolated for the photon of the first, 0.2 away from it; the photon is not its own."""
    muons = four_muons({}, {}, {"eta": 0.3, "phi": 0.2, "isolation": 0.5})
    event = Event(muons, (), (photon_at(muons[0], 0, 6.0, 0.05),))
    check(event)
    assert stage(event) != "leptons"
    assert stage(replace(event, photons=())) == "leptons"
    # A photon that belongs to no muon is not taken out.
    assert stage(replace(event, photons=(replace(event.photons[0], distance_over_et2=0.02),))) == "leptons"


def test_two_photons_in_a_cone_are_both_taken_out() -> None:
    """Each of two near muons has one; a code that keeps only the last subtraction fails."""
    muons = four_muons({"isolation": 0.55}, {}, {"eta": 0.3, "phi": 0.2})
    photons = photon_at(muons[0], 0, 6.0, 0.05), photon_at(muons[2], 2, 6.0, -0.05)
    event = Event(muons, (), photons)
    check(event)
    assert stage(event) != "leptons"  # 0.55 − 12/45 = 0.28
    assert stage(replace(event, photons=photons[:1])) == "leptons"  # 0.55 − 6/45 = 0.42
    assert stage(replace(event, photons=photons[1:])) == "leptons"


def test_isolation_is_not_negative() -> None:
    muons = four_muons({"isolation": 0.01})
    event = Event(muons, (), (photon_at(muons[0], 0, 9.0),))
    leptons = hs.to_leptons(columns_of([event]), RUN2)
    assert leptons.muon_isolation is not None
    assert leptons.muon_isolation.tolist() == [0.0, *np.float32([0.05] * 3).tolist()]
    assert check(event) == ["4mu"]


def test_light_pair_is_light_with_its_photon() -> None:
    """CMS leaves photons out here: 3.1 GeV of a pair stay 3.1 GeV though a photon makes it 15 GeV."""
    muons = four_muons({}, {}, {}, {"eta": 0.12, "phi": 0.335})
    photon = photon_at(muons[3], 3, 20.0, 0.4)
    first, last, radiated = (np.array(twin.vector(x.pt, x.eta, x.phi, 0.0)) for x in (muons[0], muons[3], photon))
    assert twin.mass_of(tuple(first), tuple(last)) == pytest.approx(3.1, abs=0.1)
    assert twin.mass_of(tuple(first), tuple(last + radiated)) == pytest.approx(15, abs=2)
    event = Event(muons, (), (photon,))
    check(event)
    assert stage(event) == stage(replace(event, photons=())) == "delta r"
    assert stage(event, cuts=RUN2.replace(dilepton_mass_min=3.0)) == "best candidate"


# --- Smart cut

Z = (45.0, 0.1, 0.2, 1), (44.0, -0.2, 3.1, -1)


def near_pair(away: float, flavour: int = MUON, z: int = MUON) -> Event:
    """A Z of 89 GeV, and a pair of √(2·22·12·(1 − cos away)) GeV; crosswise they make 50 and 20 GeV."""
    leptons = [Lepton(z, *one) for one in Z]
    leptons += [Lepton(flavour, 22.0, 0.5, 1.5, 1), Lepton(flavour, 12.0, 0.5, 1.5 - away, -1)]
    some = tuple(rounded(one) for one in leptons)
    return Event(tuple(x for x in some if x.flavour == MUON), tuple(x for x in some if x.flavour == ELECTRON))


WITHOUT = RUN2.replace(smart_cut=False)


@pytest.mark.parametrize("flavour", [MUON, ELECTRON])
def test_candidate_falls_if_the_other_pairing_is_a_z_and_a_light_pair(flavour: int) -> None:
    event, channel = near_pair(0.5, flavour, flavour), "4mu" if flavour == MUON else "4e"
    found = run(columns_of([event]), WITHOUT)
    crosswise = [(45, 0.1, 0.2, 12, 0.5, 1.0), (22, 0.5, 1.5, 44, -0.2, 3.1)]
    light, heavy = (math.sqrt(2 * a * b * (math.cosh(e - f) - math.cos(p - q))) for a, e, p, b, f, q in crosswise)
    assert (found.mass_z1[0], found.mass_z2[0]) == pytest.approx((heavy, light), rel=1e-5)
    assert math.sqrt(2 * 22 * 12 * (1 - math.cos(0.5))) < 12
    assert check(event) == []
    assert stage(event, channel) == "mass 4l"
    assert stage(event, channel, WITHOUT) == "best candidate"


def test_candidate_stays_if_the_light_pair_has_12_gev() -> None:
    """12.65 GeV: with Z2 above 13 the right pairing fails its window, but the other one does not fall for that."""
    event, cuts = near_pair(0.8), RUN2.replace(z2_mass_min=13.0)
    assert math.sqrt(2 * 22 * 12 * (1 - math.cos(0.8))) == pytest.approx(12.65, abs=0.01)
    found = run(columns_of([event]), cuts)
    assert found.mass_z1[0] == pytest.approx(50, abs=3)
    # Another one with 11.9 GeV falls.
    assert stage(near_pair(0.75), cuts=cuts) == "mass 4l"
    # Without the window the right pairing is the candidate.
    assert run(columns_of([event])).mass_z1[0] == pytest.approx(89.36, abs=0.01)


def test_candidate_stays_if_its_own_z1_is_the_nearer_one() -> None:
    """The light pair is crosswise, and with it no mass nearer to that of the Z boson."""
    muons = four_muons({}, {}, {}, {"eta": 0.18, "phi": 0.4})
    event = Event(muons)
    (mass_z1,), cross = run(columns_of([event])).mass_z1, 2 * 45 * 12 * (math.cosh(0.08) - math.cos(0.2))
    assert math.sqrt(cross) < 12
    assert mass_z1 == pytest.approx(89.36, abs=0.01)
    assert check(event) == ["4mu"]


def test_two_flavours_have_one_pairing_only() -> None:
    event = near_pair(0.9, ELECTRON)
    assert check(event) == ["2e2mu"]
    assert run(columns_of([event]), WITHOUT).mass_z1.tolist() == run(columns_of([event])).mass_z1.tolist()


def test_smart_cut_uses_good_leptons_only() -> None:
    """A fifth muon that would make a Z with one of the four is not good, and changes nothing."""
    event = Event((*four_muons(), rounded(Lepton(MUON, 40.0, 0.3, -1.9, 1, sip3d=9.0))))
    assert check(event) == ["4mu"]


def test_smart_cut_belongs_to_open2012() -> None:
    for name in ("aod2012", "df103"):
        with pytest.raises(SelectionError, match="smart_cut belongs to the algorithm open2012"):
            hs.load(name).replace(smart_cut=True)


# --- Triggers


def test_data_need_a_path_of_their_own_primary_dataset_and_simulation_any() -> None:
    event = replace(GOOD, fired=frozenset(["HLT_IsoMu24"]))
    columns = columns_of([event])
    assert len(run(columns).channel) == 1
    for name in twin.PATHS:
        found = run(columns, RUN2, name, is_data=True)
        assert len(found.channel) == (name == "SingleMuon")
        assert found.cutflow[:, :2].tolist() == [[1, int(name == "SingleMuon")]] * 3
    assert len(run(columns_of([replace(event, fired=frozenset())])).channel) == 0


def test_path_that_a_file_lacks_has_not_fired() -> None:
    columns = columns_of([replace(GOOD, fired=frozenset(["HLT_IsoMu24"]))])
    lacking = {name: column for name, column in columns.flat.items() if name != "HLT_IsoMu24"}
    assert len(run(replace(columns, flat=lacking)).channel) == 0


@pytest.mark.parametrize(
    ("primary_dataset", "is_data"), [*((name, True) for name in twin.PATHS), ("DoubleEG", False), (None, False)]
)
def test_preselection_counts_leptons_and_asks_for_triggers(
    primary_dataset: str | None, is_data: bool, events: list[Event]
) -> None:
    some = events[:5000]
    columns = columns_of(some)
    condition = RUN2.preselection(primary_dataset, is_data=is_data)
    counters = {f"n{name}": np.diff(columns.offsets[name]) for name in ("Muon", "Electron")}
    absent = {name: np.zeros(len(some), bool) for name in twin.ABSENT}
    passing = condition(columns.flat | counters | absent)
    expected = [
        twin.is_triggered(event, primary_dataset if is_data else None)
        and any(twin.enough(len(event.muons), len(event.electrons)).values())
        for event in some
    ]
    assert passing.tolist() == expected
    # What it takes away, the selection would not have kept.
    kept = [event for event, keep in zip(some, expected, strict=True) if keep]
    options: dict[str, Any] = {"primary_dataset": primary_dataset, "is_data": is_data}
    assert len(run(columns_of(kept), **options).channel) == len(run(columns, **options).channel)


def test_preselection_of_the_others_only_counts_leptons() -> None:
    for name in ("open2012", "aod2012", "df103"):
        condition = hs.load(name).preselection("DoubleMu", is_data=True)
        assert condition.names == ("nMuon", "nElectron")
        counts = np.array([(m, e) for m in range(6) for e in range(6)]).T
        expected = [m >= 4 or e >= 4 or (m >= 2 and e >= 2) for m, e in counts.T]
        assert condition({"nMuon": counts[0], "nElectron": counts[1]}).tolist() == expected


def test_primary_dataset_without_triggers_is_named() -> None:
    assert RUN2.channels("DoubleMuonLowMass") == ()
    with pytest.raises(SelectionError, match="no triggers for primary dataset 'DoubleMuonn'") as caught:
        RUN2.preselection("DoubleMuonn", is_data=True)
    assert "DoubleMuon" in caught.value.hint


def test_each_event_of_five_primary_datasets_is_counted_once_by_precedence(events: list[Event]) -> None:
    """A collision is recorded in each primary dataset of which a path fired; the first of them counts it."""
    precedence, tables, expected = list(twin.PATHS), [], {}
    for index, name in enumerate(precedence):
        recorded = [n for n, event in enumerate(events) if twin.is_triggered(event, name)]
        found = run(columns_of([events[n] for n in recorded]), RUN2, name, is_data=True)
        event = np.array(recorded)[found.event_index]
        table = FOUR_LEPTONS.empty()._replace(
            dataset=np.full(len(event), index, np.int16), file=np.zeros(len(event), np.int32), entry=event,
            run=np.ones(len(event), np.int64), luminosity_block=event // 100, event=event.astype(np.uint64),
            channel=found.channel,
        )  # fmt: skip
        tables.append(table)
    for number, event in enumerate(events):
        names = [name for name in precedence if twin.is_triggered(event, name)]
        if names and twin.select_event(event).key is not None:
            expected[number] = names[0]
    names = ("dataset", "file", "entry", "run", "luminosity_block", "event", "channel")
    merged = FOUR_LEPTONS.empty()._replace(
        **{name: np.concatenate([getattr(t, name) for t in tables]) for name in names}
    )
    twice = find_duplicates(merged, np.arange(5), one_per_event=True)
    counted = {int(e): precedence[d] for e, d in zip(merged.event[~twice], merged.dataset[~twice], strict=True)}
    assert counted == expected
    assert len(counted) == np.count_nonzero(~twice) < len(twice)
    assert list(RUN2.primary_dataset_precedence) == precedence


# --- What a file lacks


@pytest.mark.parametrize(
    "name", ["Muon_sip3d", "Muon_isPFcand", "Muon_pfRelIso03_all", "Electron_deltaEtaSC", "FsrPhoton_relIso03"]
)
def test_missing_branch_is_an_error_that_names_it(name: str) -> None:
    columns = columns_of([GOOD])
    lacking = replace(columns, jagged={key: value for key, value in columns.jagged.items() if key != name})
    with pytest.raises(SchemaError, match=f"no branch {name}, which selection 'run2' needs"):
        run(lacking)


@pytest.mark.parametrize("missing", [{"FsrPhoton"}, set(hs.load("run2").columns[23:29])])
def test_file_without_photons_does_not_pass_for_one_without_radiation(missing: set[str]) -> None:
    assert "FsrPhoton" in missing or all(name.startswith("FsrPhoton_") for name in missing)
    columns = columns_of([GOOD])
    with pytest.raises(SchemaError, match="no branch FsrPhoton_pt"):
        run(replace(columns, missing=columns.missing | missing))
    assert len(run(replace(columns, missing=columns.missing | missing), RUN2.replace(fsr=False)).channel) == 1


def test_flavour_that_a_file_does_not_have_counts_as_none() -> None:
    """The reader gives empty columns for it."""
    columns = columns_of([GOOD, GOOD])
    assert columns.jagged["Electron_pt"].size == 0
    found = run(replace(columns, missing=columns.missing | {"Electron"}))
    assert found.channel.tolist() == [0, 0]


@pytest.mark.parametrize("needs", ["muon_sip3d", "muon_id", "electron_id", "muon_photon_pt", "passes"])
def test_leptons_without_a_column_are_refused(needs: str) -> None:
    leptons = hs.to_leptons(columns_of([GOOD]), RUN2)._replace(**{needs: None})  # type: ignore[arg-type]
    with pytest.raises(SchemaError, match=f"no column {needs} was made for the leptons"):
        hs.select(leptons, RUN2)


def test_leptons_of_another_selection_are_refused() -> None:
    leptons = hs.to_leptons(columns_of([GOOD]), hs.load("open2012"))
    assert len(hs.select(leptons, hs.load("open2012")).channel) == 1
    with pytest.raises(SchemaError, match="no column muon_sip3d"):
        hs.select(leptons, RUN2)


def test_candidates_in_a_table_are_selected_by_kinematics_and_it_says_so() -> None:
    """As in the other selections: a schema that has no such quantities (CSV) passes the cuts on them."""
    leptons = hs.to_leptons(columns_of([GOOD]), hs.load("open2012"))
    bare = leptons._replace(
        **{f"{f}_{q}": None for f in ("muon", "electron") for q in ("dxy", "dxy_error", "dz", "dz_error", "isolation")}  # type: ignore[arg-type]
    )
    assert len(hs.select(bare, RUN2).channel) == 1
    assert set(hs.missing_quantities(bare, RUN2)) == {
        "muon_dxy", "muon_dz", "muon_isolation", "muon_sip3d", "electron_dxy", "electron_dz", "electron_sip3d",
        "muon_id", "electron_id", "muon_photon_pt", "muon_photon_eta", "muon_photon_phi", "passes",
    }  # fmt: skip
    assert hs.missing_quantities(hs.to_leptons(columns_of([GOOD]), RUN2), RUN2) == ()


def test_errors_of_impact_parameters_are_not_used_beside_sip3d() -> None:
    """Leptons that have both: the significance computed from dxy and dz would be far above 4."""
    leptons = hs.to_leptons(columns_of([Event(four_muons(*[{"dxy": 0.2}] * 4))]), RUN2)
    tiny: dict[str, Any] = {f"muon_{name}": np.full(4, 1e-4, np.float32) for name in ("dxy_error", "dz_error")}
    assert len(hs.select(leptons._replace(**tiny), RUN2).channel) == 1
    assert len(hs.select(leptons._replace(**tiny), RUN2.replace(sip3d=False)).channel) == 0


# --- Symmetries


def shuffled(rng: np.random.Generator, event: Event) -> Event:
    """The same event with leptons and photons in another order."""
    muons, electrons, photons = (rng.permutation(len(some)) for some in (event.muons, event.electrons, event.photons))
    place = {int(old): new for new, old in enumerate(muons)}
    moved = [replace(p, muon=place.get(p.muon, p.muon)) for p in event.photons]
    return replace(
        event,
        muons=tuple(event.muons[i] for i in muons),
        electrons=tuple(event.electrons[i] for i in electrons),
        photons=tuple(moved[i] for i in photons),
    )


def ordinary(events: Iterable[Event], n: int) -> list[Event]:
    """The first events with candidates in them, of which none has two equal momenta."""
    found = []
    for event in events:
        pts = [lepton.pt for lepton in event.muons + event.electrons]
        if len(set(pts)) == len(pts) >= 4 and all(map(math.isfinite, pts)):
            found.append(event)
    return found[:n]


def test_order_of_leptons_and_photons_does_not_matter(events: list[Event]) -> None:
    rng, some = np.random.default_rng(4), ordinary(events, 5000)
    others = [shuffled(rng, event) for event in some]
    one, other = run(columns_of(some)), run(columns_of(others))
    assert one.cutflow.tolist() == other.cutflow.tolist()
    assert one.event_index.tolist() == other.event_index.tolist()
    np.testing.assert_allclose(masses(one), masses(other), rtol=1e-12)


def test_order_of_photons_alone_changes_no_byte(events: list[Event]) -> None:
    rng, some = np.random.default_rng(5), [event for event in events if len(event.photons) > 1][:5000]
    others = [replace(e, photons=tuple(e.photons[i] for i in rng.permutation(len(e.photons)))) for e in some]
    for one, other in zip(run(columns_of(some)), run(columns_of(others)), strict=True):
        assert one.tobytes() == other.tobytes()


@pytest.mark.parametrize("angle", [0.3, 2.0, math.pi])
def test_rotation_about_the_beam_changes_nothing(angle: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """No value is at a cut: rounding of φ to a float32 would decide."""

    def turn(one: Any) -> Any:
        return rounded(replace(one, phi=math.remainder(one.phi + angle, math.tau))) if math.isfinite(one.phi) else one

    def turned(event: Event) -> Event:
        names = ("muons", "electrons", "photons")
        return replace(event, **{name: tuple(map(turn, getattr(event, name))) for name in names})

    monkeypatch.setattr(twin, "AT_CUT", 0.0)
    some = ordinary(twin.random_events(6000, seed=7), 5000)
    one, other = run(columns_of(some)), run(columns_of([turned(event) for event in some]))
    assert one.event_index.tolist() == other.event_index.tolist()
    assert len(one.channel) > 500
    np.testing.assert_allclose(masses(one), masses(other), rtol=1e-5)


# --- Real files


def columns_in(path: Path) -> Columns:
    """The columns of run2 of a file of NanoAOD, read by uproot."""
    with uproot.open(path) as file:
        tree = file["Events"]
        present = set(tree.keys())
        missing = {name for name in RUN2.columns if name not in present}
        names = [name for name in RUN2.columns if name in present]
        arrays = {name: tree[name].array() for name in ("run", "luminosityBlock", "event", *names)}
    flat = {name: np.asarray(array) for name, array in arrays.items() if array.ndim == 1}
    jagged = {name: np.asarray(ak.flatten(array)) for name, array in arrays.items() if array.ndim == 2}
    offsets = {
        collection: np.cumsum([0, *ak.num(arrays[f"{collection}_pt"])])
        for collection in ("Muon", "Electron", "FsrPhoton")
    }
    return Columns(flat, jagged, offsets, frozenset(missing))


def events_in(columns: Columns) -> list[Event]:
    """The same as the twin takes it."""
    tables = {"Muon": (MUON, twin._MUON), "Electron": (ELECTRON, twin._ELECTRON)}
    leptons: dict[str, list[Lepton]] = {}
    for collection, (flavour, table) in tables.items():
        read = {
            attribute: columns.jagged[f"{collection}_{branch}"].tolist()
            for branch, (attribute, _) in table.items()
            if f"{collection}_{branch}" in columns.jagged
        }
        leptons[collection] = [
            Lepton(flavour, **dict(zip(read, row, strict=True))) for row in zip(*read.values(), strict=True)
        ]
    values = (columns.jagged[f"FsrPhoton_{branch}"].tolist() for branch in twin._PHOTON)
    photons = [Photon(*row) for row in zip(*values, strict=True)]
    paths = [path for some in twin.PATHS.values() for path in some if path in columns.flat]
    found = []
    for i in range(len(columns.flat["run"])):
        m, e, p = (slice(*columns.offsets[name][i : i + 2]) for name in ("Muon", "Electron", "FsrPhoton"))
        fired = frozenset(path for path in paths if columns.flat[path][i])
        found.append(Event(tuple(leptons["Muon"][m]), tuple(leptons["Electron"][e]), tuple(photons[p]), fired))
    return found


@pytest.mark.parametrize(
    ("name", "n_good"), [("nano_dimuon", 40), ("nano_dy", 40), ("nanoAOD_2015_CMS_Open_Data_ttbar", 200)]
)
def test_leptons_of_real_files_are_those_that_the_twin_finds_good(name: str, n_good: int, shared_data: Path) -> None:
    columns = columns_in(shared_data / "nanoaod" / f"{name}.root")
    events = events_in(columns)
    assert len(events) == n_good
    leptons = hs.to_leptons(columns, RUN2)
    expected = {MUON: [], ELECTRON: []}
    for event in events:
        photons = twin.photons_of(event).values()
        for lepton in event.muons + event.electrons:
            expected[lepton.flavour].append(twin.is_good(lepton, photons))
    for flavour, number in (("muon", MUON), ("electron", ELECTRON)):
        assert good_leptons(leptons, flavour, RUN2).tolist() == expected[number]
        assert not all(expected[number])
    assert any(expected[MUON] + expected[ELECTRON])
    assert leptons.passes is not None
    assert leptons.passes.tolist() == [bool(event.fired) for event in events]
