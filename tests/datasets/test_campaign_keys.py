"""The keys of a campaign for other trees, columns, weights and experiments; without them nothing changes."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import outreach
import pytest
import uproot
from generators import random_leptons

from higgsnb import datasets, selection
from higgsnb.datasets import Campaign, Dataset, File
from higgsnb.engine import plan
from higgsnb.errors import CampaignError
from higgsnb.results import analyse

BEFORE = {  # the digests before these keys existed
    "toy": "334da523ec9be398919a2cdceadc1f7e52b754198f4ab7b4eec6e7817f84ee85",
    "candidates": "35917f864c2266ff128319c1ccb38999e0a5cdd1bb8b6a9a0c6741191d00eceb",
    "cms2012": "617a699e74db578f8b3558cc4c86dfd52a4cbc53f18a732ef733888d781f8d5b",
}
HEAD = """
[campaign]
name = "mine"
schema = "{schema}"
luminosity_fb = 10
luminosity_uncertainty = 0.02
energy_tev = 13
"""
SIMULATION = """
[[dataset]]
name = "signal"
process = "higgs"
cross_section_pb = 0.006
"""
DATA = """
[[dataset]]
name = "data"
process = "data"
file = [{ url = "https://host/data_A.root" }]
"""


def load(tmp_path: Path, *parts: str, schema: str = "atlas") -> Campaign:
    path = tmp_path / "mine.toml"
    path.write_text(HEAD.format(schema=schema) + "\n".join(parts), encoding="utf-8")
    return datasets.load(path)


FILE = 'file = [{ url = "https://host/ggH.root" }]'


@pytest.mark.parametrize("name", BEFORE)
def test_shipped_campaigns_keep_their_digests(name: str) -> None:
    campaign = datasets.load(name)
    plain = tuple(replace(dataset, trigger_efficiency={}) for dataset in campaign.datasets)  # the toy states some
    assert replace(campaign, datasets=plain).digest == BEFORE[name]


def test_chunks_carry_tree_columns_weight_and_sum_of_weights(tmp_path: Path) -> None:
    head = ('tree = "mini"', 'weight = "mcWeight * scaleFactor_PILEUP"')
    signal = (SIMULATION, "sum_of_weights = 27_881_776.65", FILE)
    zz = (SIMULATION.replace("signal", "zz"), 'weight = "mcWeight"', 'sum_of_weights = "SumWeights"')
    campaign = load(tmp_path, *head, *signal, *zz, FILE.replace("ggH", "zz"), DATA)
    planned = datasets.plan_chunks(campaign, dict.fromkeys(urls(campaign), 7), 5)
    found = {
        chunk.dataset: (chunk.tree, chunk.weight, chunk.sum_of_weights)
        for chunk in map(pickle.loads, map(pickle.dumps, planned))
    }
    assert found == {
        "signal": ("mini", "mcWeight * scaleFactor_PILEUP", 27_881_776.65),
        "zz": ("mini", "mcWeight", "SumWeights"),
        "data": ("mini", None, None),
    }


def urls(campaign: Campaign) -> list[str]:
    return [file.url for file in campaign.files]


def test_columns_of_a_flat_csv_are_one_header_or_one_for_each_object(tmp_path: Path) -> None:
    columns = '[campaign.columns]\nevent = "Event number"\nMuon_pt = ["pt1 [GeV]", "pt2 [GeV]"]'
    campaign = load(tmp_path, columns, DATA.replace(".root", ".csv"), schema="csv")
    assert campaign.columns == {"event": "Event number", "Muon_pt": ("pt1 [GeV]", "pt2 [GeV]")}
    (chunk,) = datasets.plan_chunks(campaign, dict.fromkeys(urls(campaign), 7), 10)
    assert chunk.columns == campaign.columns
    assert hash(chunk) == hash(replace(chunk))
    assert chunk != replace(chunk, columns={})


def test_friends_are_given_by_file_or_by_a_template_of_the_dataset(tmp_path: Path) -> None:
    data = """
[[dataset]]
name = "data"
process = "data"
friends = ["friends/{stem}.friend.root", "https://host/{stem}_w.root"]
file = [{ url = "https://host/data_A.root" }, { url = "https://host/b.root", friends = ["b.root"] }]
"""
    first, second = load(tmp_path, data).files
    assert first.friends == (str(tmp_path / "friends/data_A.friend.root"), "https://host/data_A_w.root")
    assert second.friends == (str(tmp_path / "b.root"),)


def test_friends_are_shown_without_secrets() -> None:
    assert "c4n4ry" not in repr(File("https://host/a.root", friends=("https://me:c4n4ry@host/b.root?authz=c4n4ry",)))


def test_new_keys_are_part_of_the_digest_only_where_they_are_given(tmp_path: Path) -> None:
    base = load(tmp_path, SIMULATION, FILE, schema="nanoaod")
    (signal,) = base.datasets
    (file,) = signal.files
    changed = [
        replace(base, tree="mini"),
        replace(base, columns={"event": "Event"}),
        *(
            replace(base, datasets=(one,))
            for one in (
                replace(signal, weight="mcWeight"),
                replace(signal, sum_of_weights=2.0),
                replace(signal, sum_of_weights="SumWeights"),
                replace(signal, files=(replace(file, friends=("f.root",)),)),
            )
        ),
    ]
    assert len({one.digest for one in [base, *changed]}) == len(changed) + 1
    assert replace(base, experiment="ATLAS").digest == base.digest  # as a title


MISTAKES = {
    "weight of data": ((DATA, 'weight = "w"'), "weight: expected no such key: data has weight 1"),
    "sum of data": ((DATA, "sum_of_weights = 3"), "sum_of_weights: expected no such key: data has weight 1"),
    "no sum": ((SIMULATION, "sum_of_weights = 0", FILE), "sum_of_weights: expected a number above 0; got 0"),
    "infinite sum": ((SIMULATION, "sum_of_weights = inf", FILE), "sum_of_weights: .*got inf"),
    "enormous sum": ((SIMULATION, "sum_of_weights = 1e25", FILE), r"sum_of_weights: .*to 1e\+24; got 1e\+25"),
    "expression as sum": ((SIMULATION, 'sum_of_weights = "a + b"', FILE), "sum_of_weights: .* name of a column; got"),
    "empty weight": (('weight = ""', DATA), "weight: expected a string; got ''"),
    "weight without an end": (
        (SIMULATION, 'weight = "mcWeight * (a"', "sum_of_weights = 3.0", FILE),
        r"'signal': weight: expected a number for each event; .*a parenthesis is not closed here.*\nAdd `\)`",
    ),
    "weight of all": (
        ('weight = "mcWeight > 0"', SIMULATION, "sum_of_weights = 3.0", FILE),
        r"\[campaign\]: weight: expected a number for each event; .*is a condition.*\nRemove the comparison",
    ),
    "weight that calls": ((SIMULATION, 'weight = "exec(mcWeight)"', FILE), r"no function 'exec'.*\nKnown: abs"),
    "atlas without weight": (
        (SIMULATION, "sum_of_weights = 3.0", FILE),
        r"'signal': weight is missing \(expected the weight of an event, such as .*\nAdd `weight = …`",
    ),
    "atlas without sum": (('weight = "mcWeight"', SIMULATION, FILE), r"'signal': sum_of_weights is missing .*column"),
    "weight of two lines": ((SIMULATION, 'weight = "a\\nb"', FILE), "weight: expected a string of one line"),
    "columns of a tree": (('columns = { event = "e" }', DATA), "columns: expected no such key: schema 'atlas' finds"),
    "empty tree": (('tree = ""', DATA), "tree: expected a string"),
    "misspelt tree": (('treee = "mini"', DATA), r"unknown key 'treee'\nDid you mean tree\?"),
    "friend without scheme": ((DATA.replace("}", ', friends = ["ftp://h/x"] }'),), "friends: expected a path or an"),
}


@pytest.mark.parametrize(("parts", "words"), MISTAKES.values(), ids=MISTAKES.keys())
def test_mistake_in_a_new_key_is_named(tmp_path: Path, parts: tuple[str, ...], words: str) -> None:
    with pytest.raises(CampaignError, match=words):
        load(tmp_path, *parts)


BAD_COLUMNS = {
    '"a b" = "x"': r"\[campaign.columns\]: a b: expected as name of a quantity letters",
    "event = 3": r"\[campaign.columns\]: event: expected a string; got 3",
    "Muon_pt = []": r"\[campaign.columns\]: Muon_pt: expected the header of a column, or a list of them",
    'Muon_pt = ["a", "a"]': r"\[campaign.columns\]: Muon_pt: expected a list without repetitions",
}


@pytest.mark.parametrize(("line", "words"), BAD_COLUMNS.items())
def test_mistake_in_the_columns_is_named(tmp_path: Path, line: str, words: str) -> None:
    with pytest.raises(CampaignError, match=words):
        load(tmp_path, f"[campaign.columns]\n{line}", DATA, schema="csv")


# --- what has been counted already


@pytest.fixture(scope="module")
def a_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return outreach.write(tmp_path_factory.mktemp("files") / "a.root", random_leptons(20, seed=1))


def ledger_keys(campaign: Campaign) -> list[bytes]:
    """The keys under which a run looks for what it has counted before."""
    (*_, inspection) = plan.inspect_files(campaign, selection.load("open2012"), strict=True)
    made = plan.make(
        campaign, selection.load("open2012"), inspection, chunk_events=7, fraction=1.0, analyse=analyse, strict=True
    )
    return made.keys


def test_nothing_that_was_read_in_another_way_is_used_again(a_file: Path) -> None:
    file, friend = File(str(a_file)), str(a_file.parent / "b.root")
    with uproot.recreate(friend) as written:
        written["Events"] = {"weight": np.ones(20)}
    dataset = Dataset("zz", "zz", cross_section_pb=1.0, files=(file,))
    plain = outreach.campaign(dataset)
    others = [
        replace(plain, columns={"event": "Event"}),
        *(
            replace(plain, datasets=(replace(dataset, **change),))
            for change in (
                {"weight": "mcWeight"}, {"sum_of_weights": 3.0}, {"sum_of_weights": "SumWeights"},
                {"files": (replace(file, friends=(friend,)),)},
            )
        ),
    ]  # fmt: skip
    found = [ledger_keys(campaign) for campaign in [plain, *others]]
    assert len({key for keys in found for key in keys}) == len(found) * 3
    same = replace(plain, experiment="CMS", datasets=(replace(dataset, trigger_efficiency={"4mu": {"DoubleMu": 0.9}}),))
    assert ledger_keys(same) == found[0]  # the prediction changes, the counts do not


def test_tree_is_part_of_how_a_file_is_read() -> None:
    dataset = Dataset("zz", "zz", cross_section_pb=1.0, files=(File("a.root"),))
    assert outreach.campaign(dataset).reading(dataset) == {}
    assert outreach.campaign(dataset, tree="mini").reading(dataset) == {"tree": "mini"}
