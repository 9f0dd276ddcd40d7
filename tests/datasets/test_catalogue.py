"""The shipped campaigns of real data against the records of the CERN Open Data portal, as handed over."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from portal import HTTPS, XROOTD, entry, file_index

from higgsnb import datasets, selection
from higgsnb.datasets import File

Record = dict[str, Any]


@pytest.fixture(scope="module")
def facts(shared_data: Path) -> dict[str, list[Record]]:
    """The records, machine-readable; a skip without them."""
    path = shared_data.parent / "design" / "catalogue-facts.json"
    if not path.is_file():
        pytest.skip(f"the records are not at {path}")
    found: dict[str, list[Record]] = json.loads(path.read_text())
    return found


@pytest.fixture(scope="module")
def printed(facts: dict[str, list[Record]], shared_data: Path) -> str:
    """What the records and ATLAS's example print, as text."""
    assert facts
    return (shared_data.parent / "design" / "catalogue-facts.md").read_text()


def told(file: File) -> tuple[str, int | None, str | None]:
    """Address by xrootd, size and checksum of a file in a catalogue."""
    (xrootd,) = file.alternatives
    assert file.url == xrootd.replace(XROOTD, HTTPS)
    return xrootd, file.bytes, file.adler32


def recorded(file: Record) -> tuple[str, int, str]:
    """The same in a record."""
    return file["uri"], file["bytes"], file["checksum"].removeprefix("adler32:").zfill(8)


@pytest.mark.parametrize("name", datasets.names())
def test_every_shipped_campaign_loads_with_a_selection_that_exists(name: str) -> None:
    campaign = datasets.load(name)
    assert campaign.name == name
    assert campaign.selection in selection.names()
    assert len({dataset.name for dataset in campaign.datasets}) == len(campaign.datasets)
    assert bool(campaign.experiment) != campaign.simulated


# --- cms2016


def test_cms2016_is_what_the_ten_records_say(facts: dict[str, list[Record]]) -> None:
    campaign = datasets.load("cms2016")
    found = {dataset.record: dataset for dataset in campaign.datasets if dataset.is_data}
    assert len(found) == len(facts["cms2016_data"]) == 10
    for record in facts["cms2016_data"]:
        dataset = found[int(record["record"])]
        assert (dataset.title, dataset.doi) == (record["dataset"], record["doi"])
        assert (dataset.stated_events, dataset.stated_files) == (record["number_events"], record["number_files"])
        assert dataset.stated_bytes == record["size"]
        assert [told(index) for index in dataset.index] == [recorded(index) for index in record["index_json"]]
        primary, era = record["dataset"].split("/")[1:3]
        assert (dataset.name, dataset.primary_dataset) == (f"{era.split('-')[0]}_{primary}", primary)
        assert dataset.runs == {"Run2016G": (278820, 280385), "Run2016H": (281613, 284044)}[era.split("-")[0]]


def test_cms2016_has_the_published_totals_and_needs_no_network_to_load() -> None:
    campaign = datasets.load("cms2016")
    assert (campaign.n_files, campaign.events, campaign.bytes) == (541, 927_762_263, 832_203_370_136)
    assert sum(len(dataset.index) for dataset in campaign.datasets) == 28
    assert campaign.files == ()
    order = ("DoubleEG", "DoubleMuon", "MuonEG", "SingleElectron", "SingleMuon")
    assert campaign.primary_dataset_precedence == order
    assert campaign.runs == ((278820, 280385), (281613, 284044))


def test_cms2016_takes_its_luminosity_from_the_table_of_record_1059() -> None:
    campaign = datasets.load("cms2016")
    assert (campaign.sums_luminosity, campaign.luminosity_fb, campaign.luminosity_uncertainty) == (True, 0, 0.012)
    golden, table = (campaign.document(str(url)) for url in (campaign.golden_json, campaign.luminosity_table))
    assert (golden.bytes, golden.adler32) == (11_686, "8690115c")
    assert golden.url.endswith("/validated-runs/2016/Cert_271036-284044_13TeV_Legacy2016_Collisions16_JSON.txt")
    assert (table.bytes, table.adler32) == (21_137_550, "3a0e2089")
    assert table.url.endswith("/luminosity/2016/pp_2016lumibyls.csv")


def test_index_of_one_file_in_the_form_of_the_portal_is_as_long_as_the_real_one(facts: dict[str, list[Record]]) -> None:
    short = [index for record in facts["cms2016_data"] for index in record["index_json"] if index["bytes"] < 400]
    assert len(short) == 5
    for index in short:
        folder, name = index["uri"].rsplit("/file-indexes/", 1)
        volume = name.split("_")[-3]
        uri = f"{folder}/{volume}/00000000-0000-0000-0000-000000000000.root"
        lengths = {len(file_index([entry(uri, 10**digits, "00000000")])) for digits in range(6, 10)}  # 1 MB to 1 GB
        assert index["bytes"] in lengths


# --- ATLAS


def test_atlas2020_has_the_files_of_record_15005(facts: dict[str, list[Record]], printed: str) -> None:
    (record,) = facts["atlas2020_4lep"]
    known = {told_file[0]: told_file for told_file in map(recorded, record["files"])}
    campaign = datasets.load("atlas2020")
    assert all(known[told(file)[0]] == told(file) for file in campaign.files)
    assert {dataset.doi for dataset in campaign.datasets} == {record["doi"]}
    data = [dataset for dataset in campaign.datasets if dataset.is_data]
    assert sum(dataset.bytes or 0 for dataset in data) == 334_404
    assert "**All real data: 334,404 bytes**" in printed
    assert sum(dataset.bytes or 0 for dataset in campaign.datasets if not dataset.is_data) == 301_851_326
    assert "Sum of these 8: 301,851,326 B" in printed
    by_period = {dataset.name: dataset.luminosity_fb for dataset in data}
    assert by_period == {"data_A": 0.5, "data_B": 1.9, "data_C": 2.9, "data_D": 4.7}
    assert sum(dataset.luminosity_fb or 0 for dataset in data) == pytest.approx(campaign.luminosity_fb)


@pytest.mark.parametrize(
    ("short", "name"),
    [("ggH", "ggH125_ZZ4lep"), ("VBF", "VBFH125_ZZ4lep"), ("WH", "WH125_ZZ4lep"), ("llll", "llll"), ("ttbar_lep",) * 2],
)
def test_atlas2020_has_cross_sections_and_sums_of_weights_as_printed(printed: str, short: str, name: str) -> None:
    text = printed[printed.index("σ and Σw (infofile.py") :]
    number = r"([\d.,]*\d)"
    match = re.search(rf"\b{short} {number}(?: pb)?, {number}", text)
    assert match
    dataset = datasets.load("atlas2020").dataset(name)
    expected = [float(one.replace(",", "")) for one in match.groups()]
    assert [dataset.cross_section_pb, dataset.sum_of_weights] == expected


def test_cross_section_of_zh_in_2020_is_not_the_one_printed_but_of_the_kind_of_wh(printed: str) -> None:
    zh, wh = (datasets.load("atlas2020").dataset(f"{boson}H125_ZZ4lep").cross_section_pb for boson in "ZW")
    assert zh is not None
    assert wh == pytest.approx(1.373 * 2.745e-4, rel=1e-3)  # Yellow Report 4 times BR(H -> 4l) with taus
    assert zh == pytest.approx(0.884 * 2.745e-4, rel=2e-3)
    assert "ZH 0.0000021424784 pb" in printed
    assert zh / 0.0000021424784 > 50


def test_atlas2025_has_the_data_of_record_93924(facts: dict[str, list[Record]]) -> None:
    (record,) = facts["atlas2025_exactly4lep_data"]
    (data,) = (dataset for dataset in datasets.load("atlas2025").datasets if dataset.is_data)
    assert [told(file) for file in data.files] == [recorded(file) for file in record["files"]]
    totals = record["distribution"]
    assert (data.events, data.n_files) == (totals["number_events"], totals["number_files"])
    assert data.bytes == data.stated_bytes == totals["size"]
    assert (data.doi, data.record) == (record["doi"], int(record["record"]))


def test_atlas2025_has_the_simulation_at_hand_but_for_what_would_count_twice(facts: dict[str, list[Record]]) -> None:
    (record,) = facts["atlas2025_exactly4lep_mc"]
    simulated = [dataset for dataset in datasets.load("atlas2025").datasets if not dataset.is_data]
    mine = {told(file) for dataset in simulated for file in dataset.files}
    rest = {recorded(file) for file in record["files"]} - mine
    assert mine < {recorded(file) for file in record["files"]}
    assert {uri.rsplit("_mc_", 1)[1][:6] for uri, _, _ in rest} == {"346310", "346311", "346312", "410389"}
    for dataset in simulated:
        assert f"_mc_{dataset.name}.exactly4lep.root" in dataset.files[0].url
        assert (dataset.cross_section_pb, dataset.sum_of_weights) == (1.0, "sum_of_weights")


def test_weights_of_atlas_are_the_products_that_the_facts_name(printed: str) -> None:
    for name, tree, scale_factor, others in (
        ("atlas2020", "mini", "scaleFactor", set()),
        ("atlas2025", "analysis", "ScaleFactor", {"xsec", "kfac", "filteff"}),
    ):
        campaign = datasets.load(name)
        factors = {f"{scale_factor}_{kind}" for kind in ("PILEUP", "ELE", "MUON", "LepTRIGGER")} | {"mcWeight"} | others
        assert (campaign.tree, campaign.schema) == (tree, "atlas")
        assert {dataset.weight for dataset in campaign.datasets if dataset.is_data} == {None}
        (weight,) = {dataset.weight for dataset in campaign.datasets if not dataset.is_data}
        assert set(str(weight).split(" * ")) == factors
    assert "weight = L[/pb]·xsec·kfac·filteff·mcWeight·ΠSF / sum_of_weights" in printed
