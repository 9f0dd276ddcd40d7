"""Cuts that a user adds to a selection, against doing the same outside; the digests of selections with options."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import generators as made
import numpy as np
import oracle
import pytest
import run2 as twin
from oracle import ELECTRON, MUON
from run2 import Event, columns_of, four_muons, rounded

from higgsnb import selection as hs
from higgsnb.errors import SchemaError, SelectionError
from higgsnb.selection import Candidates, Selection, options, pairings, rules

RUN2, OPEN, AOD, DF103 = (hs.load(name) for name in ("run2", "open2012", "aod2012", "df103"))
SHIPPED = {
    "open2012": "a79e5924dc44d745628678795880d2500aea11dbeb4d21701541f7b25e2a672b",
    "aod2012": "0b36dc57bf844bf15993c2b29853316b94754a5639849490589f99f0ac17ab3e",
    "df103": "eb7b9a4b26889fc9a63c45bc6f8a6b421d3ff890820d73f30699fd71ed7906c0",
}


@pytest.fixture(scope="module")
def events() -> list[Event]:
    return twin.random_events(8000, seed=14)


def run(events: Sequence[Event], cuts: Selection) -> Candidates:
    return hs.select(hs.to_leptons(columns_of(events), cuts), cuts)


def found_in(events: Sequence[Event], cuts: Selection) -> list[tuple[Any, ...]]:
    """Channel and masses of each candidate, with the event it is in."""
    found = run(events, cuts)
    return list(zip(found.event_index, found.channel, found.mass_4l, found.mass_z1, found.mass_z2, strict=True))


def travelled(one: Selection) -> Selection:
    """The selection as a worker gets it."""
    return pickle.loads(pickle.dumps(one))  # type: ignore[no-any-return]  # noqa: S301


# --- Digests


@pytest.mark.parametrize("name", SHIPPED)
def test_digest_of_a_selection_without_options_is_as_it_was(name: str) -> None:
    """Results and ledgers of earlier versions are found by it."""
    one = hs.load(name)
    assert one.digest == SHIPPED[name]
    assert one.options == ()
    assert not {"smart_cut", "fsr", "triggers", "muon_cuts", "pairing"} & set(one.as_dict())
    assert one.replace(smart_cut=False, muon_cuts=[], triggers={}, pairing=None).digest == one.digest


@pytest.mark.parametrize(
    "changes",
    [
        {"smart_cut": True},
        {"sip3d": True},
        {"fsr": True},
        {"muon_isolation": "pfRelIso03_all"},
        {"electron_isolation": ""},
        {"muon_id": "isPFcand"},
        {"muon_cuts": ["isPFcand"]},
        {"electron_cuts": ["mvaFall17V2Iso > 0.5"]},
        {"event_cuts": ["MET_pt < 60"]},
        {"triggers": {"DoubleMuon": ["HLT_IsoMu24"]}},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_each_option_changes_the_digest_and_is_in_the_table(changes: dict[str, Any]) -> None:
    one = OPEN.replace(**changes)
    (name,) = changes
    assert one.options == (name,)
    assert one.digest != OPEN.digest
    assert one.as_dict()[name] == changes[name]
    assert f"<td>{name}</td>" in one._repr_html_()
    assert f"<td>{name}</td>" not in OPEN._repr_html_()
    for other in (copy.copy(one), travelled(one), Selection(**one.as_dict())):
        assert (other, other.digest, hash(other)) == (one, one.digest, hash(one))


def test_blanks_in_a_condition_do_not_change_the_digest() -> None:
    one = OPEN.replace(muon_cuts=["sip3d<4", "mediumId"], event_cuts=["( MET_pt<60 )"])
    assert one.digest == OPEN.replace(muon_cuts=("sip3d < 4", "mediumId"), event_cuts=("MET_pt < 60",)).digest
    assert one.digest != OPEN.replace(muon_cuts=["mediumId", "sip3d < 4.5"], event_cuts=["MET_pt < 60"]).digest


# --- Cuts on events


@pytest.mark.parametrize("base", ["open2012", "aod2012", "df103", "run2"])
def test_event_cut_gives_what_filtering_the_events_gives(base: str, events: list[Event]) -> None:
    cuts = hs.load(base)
    more = cuts.replace(event_cuts=["MET_pt < 60", "HLT_IsoMu24 or HLT_IsoMu22 or MET_pt > 10"])
    kept = [
        i for i, event in enumerate(events)
        if event.met < 60 and (event.fired & {"HLT_IsoMu24", "HLT_IsoMu22"} or event.met > 10)
    ]  # fmt: skip
    outside = [(kept[e], *rest) for e, *rest in found_in([events[i] for i in kept], cuts)]
    assert found_in(events, more) == outside
    assert 0 < len(outside) < len(found_in(events, cuts))


def test_event_cut_is_a_row_of_the_cutflow(events: list[Event]) -> None:
    cuts = OPEN.replace(event_cuts=["MET_pt < 60"])
    flow = run(events, cuts).cutflow
    assert cuts.cut_names()[:3] == ("all", "preselected", "leptons")
    assert flow[:, :2].tolist() == [[len(events), sum(event.met < 60 for event in events)]] * 3
    assert cuts.cut_notes == {"preselected": "MET_pt < 60"}
    assert RUN2.cut_notes["preselected"] == "a trigger of the primary dataset"
    assert OPEN.cut_notes == {}


def test_event_cut_is_part_of_the_preselection(events: list[Event]) -> None:
    columns = columns_of(events)
    condition = OPEN.replace(event_cuts=["MET_pt < 60"]).preselection(None, is_data=False)
    counters = {f"n{name}": np.diff(columns.offsets[name]) for name in ("Muon", "Electron")}
    expected = [
        event.met < 60 and any(twin.enough(len(event.muons), len(event.electrons)).values()) for event in events
    ]
    assert condition(columns.flat | counters).tolist() == expected
    assert "MET_pt" in OPEN.replace(event_cuts=["MET_pt < 60"]).columns
    assert "MET_pt" not in OPEN.columns


def test_event_cut_on_a_column_of_objects_is_refused() -> None:
    columns = columns_of([Event(four_muons())])
    jets = replace(columns, jagged=columns.jagged | {"Jet_pt": np.array([30.0], np.float32)})
    cuts = OPEN.replace(event_cuts=["Jet_pt > 20"])
    with pytest.raises(SelectionError, match="Jet_pt has one value per object"):
        hs.to_leptons(jets, cuts)
    with pytest.raises(SchemaError, match="no branch MET_phi, which selection 'open2012' needs"):
        hs.to_leptons(columns, OPEN.replace(event_cuts=["MET_phi > 0"]))


# --- Cuts on leptons


def with_leptons(event: Event, passes: Callable[[twin.Lepton], bool]) -> Event:
    """The same event without the leptons that fail."""
    return replace(
        event, muons=tuple(filter(passes, event.muons)), electrons=tuple(filter(passes, event.electrons)), photons=()
    )


def is_kept(lepton: twin.Lepton) -> bool:
    if lepton.flavour == MUON:
        return lepton.medium_id and lepton.sip3d < 2.5 and twin.real(lepton.sip3d)
    return lepton.mva > 0.9 and twin.real(lepton.mva)


MORE = {"muon_cuts": ["mediumId", "sip3d < 2.5"], "electron_cuts": ["mvaFall17V2Iso > 0.9"]}


@pytest.mark.parametrize("base", [OPEN, AOD, RUN2.replace(fsr=False)], ids=["open2012", "aod2012", "run2"])
def test_lepton_cut_gives_what_leaving_the_leptons_out_gives(base: Selection, events: list[Event]) -> None:
    outside = found_in([with_leptons(event, is_kept) for event in events], base)
    assert found_in(events, base.replace(**MORE)) == outside
    assert 0 < len(outside) < 0.8 * len(found_in(events, base))


def test_lepton_that_fails_drops_the_event_in_df103(events: list[Event]) -> None:
    """In each channel by itself: a bad electron does not matter in 4mu."""
    inside = found_in(events, DF103.replace(**MORE))
    expected = []
    for e, channel, *masses in found_in(events, DF103):
        event = events[e]
        leptons = {0: event.muons, 1: event.electrons, 2: event.muons + event.electrons}[int(channel)]
        if all(map(is_kept, leptons)):
            expected.append((e, channel, *masses))
    assert inside == expected
    assert 0 < len(inside) < len(found_in(events, DF103))


def test_lepton_cut_is_in_the_row_of_good_leptons(events: list[Event]) -> None:
    cuts = OPEN.replace(**MORE)
    assert cuts.cut_names() == hs.CUT_NAMES
    assert cuts.cut_notes == {"good leptons": "muons: mediumId and sip3d < 2.5; electrons: mvaFall17V2Iso > 0.9"}
    before, after = run(events, OPEN).cutflow, run(events, cuts).cutflow
    assert before[:, :2].tolist() == after[:, :2].tolist()
    assert (before[:, 2] > after[:, 2]).all()


def test_value_that_does_not_exist_fails_a_lepton_cut_that_it_would_pass() -> None:
    """−999 is below any limit, NaN above none; both are counted."""
    cuts = OPEN.replace(muon_cuts=["sip3d < 3"])
    for value in (-999.0, math.nan, math.inf, -math.inf):
        found = run([Event(four_muons({"sip3d": value}))], cuts)
        assert len(found.channel) == 0
        assert found.invalid_values[0].tolist() == [0] * 10 + [1]
    assert cuts.quantities == (*hs.QUANTITIES, "id")
    # So does one that is counted already, but by no cut asked for.
    errors = columns_of([Event(four_muons())])
    errors.jagged["Muon_dxyErr"][0] = -999.0
    one = RUN2.replace(muon_cuts=["dxyErr < 1"])
    assert len(hs.select(hs.to_leptons(errors, one), one).channel) == 0


def test_columns_of_a_cut_are_read_and_only_those() -> None:
    assert set(OPEN.replace(**MORE).columns) - set(OPEN.columns) == {
        "Muon_mediumId", "Muon_sip3d", "Electron_mvaFall17V2Iso",
    }  # fmt: skip
    assert set(OPEN.replace(**MORE).extra_columns) == {"Muon_mediumId", "Muon_sip3d", "Electron_mvaFall17V2Iso"}
    assert OPEN.extra_columns == ()
    assert set(OPEN.replace(sip3d=True).columns) ^ set(OPEN.columns) == {
        "Muon_sip3d", "Electron_sip3d", *(f"{f}_{e}" for f in ("Muon", "Electron") for e in ("dxyErr", "dzErr")),
    }  # fmt: skip
    assert OPEN.replace(smart_cut=True).columns == OPEN.columns


def test_columns_of_a_selection_without_options_are_those_that_files_are_read_for() -> None:
    from higgsnb.events.schema import BRANCHES

    ids = {"run", "luminosityBlock", "event", "nMuon", "nElectron"}
    for name in SHIPPED:
        assert set(hs.load(name).columns) == set(BRANCHES.values()) - ids


# --- In a file


TOML = """
base = "run2"
event_cuts = ["HLT_IsoMu24", "MET_pt < 60"]
muon_cuts = ["mediumId", "sip3d < 3"]
electron_cuts = []
[triggers]
SingleMuon = ["HLT_IsoMu24"]
"""


def test_selection_file_can_have_all_of_it(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(TOML)
    mine = hs.load(tmp_path / "mine.toml")
    changes = {"event_cuts": ["HLT_IsoMu24", "MET_pt < 60"], "muon_cuts": ["mediumId", "sip3d < 3"]}
    assert mine.digest == RUN2.replace(triggers={"SingleMuon": ["HLT_IsoMu24"]}, **changes).digest
    assert mine.triggers == (("SingleMuon", ("HLT_IsoMu24",)),)
    assert mine.channels("DoubleMuon") == ()


WRONG = {
    'muon_cuts = "mediumId"': "expected a list of conditions",
    "muon_cuts = [1]": "expected a condition",
    'muon_cuts = ["Muon_mediumId"]': "Write mediumId",
    'muon_cuts = ["pt + 1"]': "condition",
    'muon_cuts = ["pt >"]': "muon_cuts",
    'electron_cuts = ["Muon_pt > 3"]': "columns of electrons by their own names",
    'event_cuts = ["Muon_pt > 3"]': "expected conditions on the event",
    'event_cuts = ["Muon.pt > 3"]': "expected conditions on the event",
    'event_cuts = ["__import__(1)"]': "event_cuts",
    "event_cuts = {a = 1}": "expected a list of conditions",
    'muon_id = ["isPFcand"]': "expected a condition",
    "muon_isolation = 3": "expected the name of a column",
    'muon_isolation = "a b"': "expected the name of a column",
    'smart_cut = "yes"': "expected true or false",
    "fsr = 1": "expected true or false",
    'triggers = ["HLT_IsoMu24"]': "expected trigger paths by primary dataset",
    "triggers = {DoubleMuon = []}": "expected trigger paths by primary dataset",
    'triggers = {DoubleMuon = "HLT_IsoMu24"}': "expected trigger paths by primary dataset",
    'triggers = {"" = ["HLT_IsoMu24"]}': "expected trigger paths by primary dataset",
    'triggers = {DoubleMuon = ["IsoMu24"]}': "A path begins with HLT_",
    'triggers = {DoubleMuon = ["HLT_IsoMu24 or HLT_a"]}': "names of trigger paths",
    'pairing = "nearest"': "expected a function",
    "smartcut = true": "smart_cut",
}


@pytest.mark.parametrize("text", WRONG)
def test_option_that_makes_no_sense_is_named(text: str, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(text + "\n")
    with pytest.raises(SelectionError, match="mine") as caught:
        hs.load(tmp_path / "mine.toml")
    assert WRONG[text] in str(caught.value)
    assert text.split(maxsplit=1)[0] in str(caught.value)
    assert len(str(caught.value).splitlines()) == 2


# --- The smart cut in other selections


def test_smart_cut_of_open2012_gives_what_dropping_the_candidates_gives() -> None:
    """On events of the outreach schema, with the slow twin of that."""
    chunk, cuts = made.random_leptons(6000, seed=3), OPEN.replace(smart_cut=True)
    found, fell = hs.select(chunk, cuts), 0
    rows = []
    for number, event in enumerate(oracle.read_events(chunk)):
        passing = [
            candidate
            for channel in oracle.CHANNELS
            for candidate in oracle.explore_open2012(event, channel, OPEN)[1]
            if oracle.furthest_of_candidate(candidate, event, OPEN) == oracle.STAGES.index("mass 4l")
        ]
        left = [candidate for candidate in passing if not _falls(candidate)]
        fell += len(passing) > len(left)
        if left:
            best = oracle.best_of(left, OPEN)
            rows.append((number, best.channel, best.mass_4l, best.mass_z1, best.mass_z2))
    assert fell > 30
    mine = zip(found.event_index, found.channel, found.mass_4l, found.mass_z1, found.mass_z2, strict=True)
    for one, other in zip(mine, rows, strict=True):
        assert (one[0], hs.CHANNELS[one[1]]) == other[:2]
        assert one[2:] == pytest.approx(other[2:], rel=1e-9)
    flow, before = found.cutflow, hs.select(chunk, OPEN).cutflow
    assert flow[:, :10].tolist() == before[:, :10].tolist()
    assert (flow[:2, 10] < before[:2, 9]).all()
    assert (flow[:, 10] >= flow[:, 11]).all()


def _falls(candidate: oracle.Candidate) -> bool:
    """Candidates of one flavour whose other pairing has a mass nearer 91.1876 than Z1, and its other mass below 12."""
    if candidate.channel == "2e2mu":
        return False
    (a, b), (c, d) = candidate.z1, candidate.z2
    other = ((a, c), (b, d)) if a.charge != c.charge else ((a, d), (b, c))
    near, far = sorted((oracle.mass(*pair) for pair in other), key=lambda m: abs(m - 91.1876))
    return abs(near - 91.1876) < abs(candidate.mass_z1 - 91.1876) and far < 12


def test_neutral_options_change_no_byte(events: list[Event]) -> None:
    """A cut that all pass, and a photon that nobody has, leave the candidates as they are."""
    plain = [replace(event, photons=()) for event in events]
    neutral = OPEN.replace(fsr=True, muon_cuts=["pt > -1e9"], event_cuts=["MET_pt > -1"])
    one, other = run(plain, OPEN), run(plain, neutral)
    for name in ("event_index", "channel", "lepton", "flavour", "mass_4l", "mass_z1", "mass_z2"):
        assert getattr(one, name).tobytes() == getattr(other, name).tobytes(), name


# --- The arrays behind it


def test_smart_cut_and_masses_are_those_of_the_compiled_rules(events: list[Event]) -> None:
    """`options` computes with arrays what `rules` computes one by one: to the last bit."""
    leptons = hs.to_leptons(columns_of(events), OPEN)
    found, *_ = pairings.preselect(leptons, rules.cuts_of(OPEN), any_pt=False)
    rows = pairings.pair_all(found, pairings.count_all(found), OPEN.z_mass).rows
    events_of = np.repeat(np.arange(len(found.muons)), pairings.count_all(found))
    candidates = np.stack([events_of, np.arange(len(rows))], axis=1).astype(np.int32)
    legs = found.leptons[options._legs(found, candidates, rows)]
    assert options._mass(legs[:, 0], legs[:, 1]).tobytes() == np.ascontiguousarray(rows["mass_z1"]).tobytes()
    assert options._mass(legs[:, 2], legs[:, 3]).tobytes() == np.ascontiguousarray(rows["mass_z2"]).tobytes()
    before = rows["dilepton"].copy()
    shifted = found._replace(bare=found.leptons.copy())
    shifted.bare["energy"] -= 0.0
    shifted.leptons["energy"] *= 1 + 1e-15  # every lepton has radiated, next to nothing
    options.leave_out_photons(shifted, candidates, rows)
    assert rows["dilepton"].tobytes() == before.tobytes()


def test_electrons_radiate_nothing_here() -> None:
    """NanoAOD v9 knows photons of muons only."""
    photon = rounded(twin.Photon(6.0, 0.2, 0.2, 0.1 / 36, 0.5, 0))
    event = Event((), four_muons(flavour=ELECTRON), (photon,))
    assert found_in([event], RUN2) == found_in([replace(event, photons=())], RUN2)
