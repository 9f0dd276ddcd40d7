"""What `atlas4l` brings to selections: an identification for each tree, a third limit in pT, no impact parameters."""

from __future__ import annotations

import math
import pickle
from pathlib import Path
from typing import Any

import generators as made
import oracle
import pytest

from higgsnb import selection as hs
from higgsnb.errors import SelectionError

ATLAS, OPEN = hs.load("atlas4l"), hs.load("open2012")
BY_TREE = {"mini": "isTightID and pt > 9", "analysis": "isMediumID"}


# --- Identification by tree


def test_identification_is_that_of_the_tree() -> None:
    mini, analysis = ATLAS.of_tree("mini"), ATLAS.of_tree("analysis")
    assert ATLAS.trees == ("mini", "analysis")
    assert "Muon_isTightID" in mini.columns
    assert "Electron_isLooseID" in analysis.columns
    assert not {"Electron_isLooseID", "Muon_isMediumID"} & set(mini.columns)
    assert set(ATLAS.columns) == {*mini.columns, *analysis.columns}
    assert not {name for name in ATLAS.columns if "dxy" in name or "dz" in name}
    assert mini.of_tree("anything") is mini
    assert OPEN.trees == ()


@pytest.mark.parametrize("tree", ["Events", "", "Mini"])
def test_tree_without_identification_is_named(tree: str) -> None:
    with pytest.raises(
        SelectionError, match=rf"no muon_id for files with tree '{tree}', only for 'mini' and 'analysis'"
    ):
        ATLAS.of_tree(tree)


def test_digest_tells_identifications_and_trees_apart() -> None:
    same = OPEN.replace(muon_id=BY_TREE)
    assert same.digest == pickle.loads(pickle.dumps(same)).digest  # noqa: S301
    assert same.as_dict()["muon_id"] == {"mini": "isTightID and pt > 9", "analysis": "isMediumID"}
    changed = [
        OPEN, OPEN.replace(electron_id=BY_TREE), OPEN.replace(muon_id={**BY_TREE, "analysis": "isTightID"}),
        OPEN.replace(muon_id={"mini": BY_TREE["mini"]}), same.of_tree("mini"), same.of_tree("analysis"),
    ]  # fmt: skip
    assert len({one.digest for one in (same, *changed)}) == 1 + len(changed)


def test_selection_file_can_give_it(tmp_path: Path) -> None:
    text = 'base = "open2012"\nlepton_pt_third = 8\nmuon_id = { mini = "isTightID", analysis = "isMediumID" }\n'
    (tmp_path / "mine.toml").write_text(text)
    mine = hs.load(tmp_path / "mine.toml")
    assert mine.of_tree("mini").muon_id == "isTightID"
    assert mine.lepton_pt_third == 8
    assert "muons (mini): isTightID; muons (analysis): isMediumID" in mine.cut_notes["good leptons"]
    assert "isMediumID" in mine._repr_html_()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"muon_id": {}}, "muon_id = {}; expected a condition, or one by the name of the tree"),
        ({"muon_id": {"": "isTightID"}}, "by the name of the tree"),
        ({"muon_id": {"a b": "isTightID"}}, "by the name of the tree"),
        ({"muon_id": {"mini": 3}}, "expected a condition"),
        ({"muon_id": {"mini": "pt + 1"}}, "condition"),
        ({"electron_id": {"mini": "Electron_pt > 3"}}, "columns of electrons by their own names"),
        ({"muon_id": ("isTightID",)}, "by the name of the tree"),
        ({"muon_id": ["isTightID"]}, "expected a condition"),
        ({"lepton_pt_third": 11.0}, r"lepton_pt_third = 11.0 is above lepton_pt_subleading = 10.0"),
        ({"lepton_pt_third": -1}, "expected a number from 0"),
        ({"lepton_pt_third": math.nan}, "expected a number from 0"),
        ({"impact_parameter": 0}, "expected true or false"),
    ],
)
def test_wrong_option_is_named(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(SelectionError, match=words):
        OPEN.replace(**changes)


def test_third_limit_belongs_to_open2012() -> None:
    with pytest.raises(SelectionError, match="lepton_pt_third belongs to the algorithm open2012"):
        hs.load("aod2012").replace(lepton_pt_third=5.0)


# --- The third lepton


def test_candidate_falls_if_its_third_lepton_is_too_soft() -> None:
    """On events of the outreach schema, with the slow twin of that."""
    chunk, cuts = made.random_leptons(3000, seed=3), OPEN.replace(lepton_pt_third=9.5)
    found, rows, fell = hs.select(chunk, cuts), [], 0
    for number, event in enumerate(oracle.read_events(chunk)):
        passing = [
            candidate
            for channel in oracle.CHANNELS
            for candidate in oracle.explore_open2012(event, channel, OPEN)[1]
            if oracle.furthest_of_candidate(candidate, event, OPEN) == oracle.STAGES.index("mass 4l")
        ]
        left = [one for one in passing if sorted(lepton.pt for lepton in (*one.z1, *one.z2))[1] > 9.5]
        fell += len(passing) > len(left)
        if left:
            best = oracle.best_of(left, OPEN)
            rows.append((number, best.channel, best.mass_4l, best.mass_z1, best.mass_z2))
    assert fell > 30
    mine = zip(found.event_index, found.channel, found.mass_4l, found.mass_z1, found.mass_z2, strict=True)
    for one, other in zip(mine, rows, strict=True):
        assert (one[0], hs.CHANNELS[one[1]]) == other[:2]
        assert one[2:] == pytest.approx(other[2:], rel=1e-9)
    before = hs.select(chunk, OPEN).cutflow
    assert cuts.cut_names()[9:12] == ("mass 4l", "third lepton pt", "best candidate")
    assert found.cutflow[:, :10].tolist() == before[:, :10].tolist()
    assert (found.cutflow[:, 10] < before[:, 9]).any()
    assert (found.cutflow[:, 10] >= found.cutflow[:, 11]).all()
    assert found.cutflow[:, 11].sum() == len(rows)


def test_third_limit_and_smart_cut_are_two_rows() -> None:
    chunk = made.random_leptons(3000, seed=3)
    third, smart = OPEN.replace(lepton_pt_third=9.5), OPEN.replace(smart_cut=True)
    both = hs.select(chunk, OPEN.replace(lepton_pt_third=9.5, smart_cut=True))
    assert both.cutflow.shape[1] == len(OPEN.replace(lepton_pt_third=9.5, smart_cut=True).cut_names()) == 14
    assert both.cutflow[:, :11].tolist() == hs.select(chunk, third).cutflow[:, :11].tolist()
    assert (both.cutflow[:, 11] <= hs.select(chunk, smart).cutflow[:, 10]).all()
    assert both.cutflow[:, 12].sum() == len(both.channel)


# --- Impact parameters


def test_leptons_from_anywhere_are_good_without_impact_parameters() -> None:
    chunk = made.random_leptons(2000, seed=5)
    loose = OPEN.replace(dxy_max=1e12, dz_max=1e12, sip_max=1e12)
    found = hs.select(chunk, OPEN.replace(impact_parameter=False))
    lacking = chunk._replace(**dict.fromkeys(f"{f}_{q}" for f in ("muon", "electron") for q in
                                             ("dxy", "dxy_error", "dz", "dz_error")))  # fmt: skip
    assert found.event_index.tolist() == hs.select(lacking, OPEN).event_index.tolist()
    assert len(found.channel) > len(hs.select(chunk, loose).channel) > len(hs.select(chunk, OPEN).channel)
    assert hs.missing_quantities(lacking, OPEN.replace(impact_parameter=False)) == ()
