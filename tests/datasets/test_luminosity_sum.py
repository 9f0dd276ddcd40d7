"""Luminosity that a campaign takes from its table: the sum over table, golden JSON and the runs of its eras."""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import pytest
from http_server import FileServer
from portal import adler32, golden_json, luminosity_table

from higgsnb import datasets
from higgsnb.datasets import Campaign
from higgsnb.datasets.files import retries
from higgsnb.errors import CampaignError, ChecksumError, LumiDataError, TransferError
from higgsnb.results.lumi_sections import lumi_catalogue

ERAS = {"G": (278820, 280385), "H": (281613, 284044)}
CAMPAIGN = """
[campaign]
name = "mine"
schema = "nanoaod"
luminosity_uncertainty = 0.012
energy_tev = 13
golden_json = {golden}
luminosity_table = {table}
"""
DATASET = """
[[dataset]]
name = "{name}"
process = "data"
primary_dataset = "{primary}"
file = [{{ url = "https://host/{name}.root" }}]
"""


def made(seed: int) -> tuple[bytes, bytes]:
    """Golden JSON and table of runs within, between and beyond the eras; neither holds all that the other does."""
    draw = random.Random(seed)
    edges = [278819, 278820, 280385, 280386, 281612, 281613, 284044, 284045]
    runs = [*draw.sample(range(278600, 284300), 60), *edges]
    certified, recorded = {}, {}
    for run in runs:
        first = draw.randrange(1, 40)
        certified[run] = [(first, first + draw.randrange(30)), (first + 60, first + 60 + draw.randrange(30))]
        for section in range(draw.randrange(1, 50), draw.randrange(60, 120)):
            if draw.random() < 0.95:
                recorded[run, section] = draw.random() * 3e-4
    return golden_json(certified), luminosity_table(recorded)


def by_hand(golden: bytes, table: bytes, eras: list[tuple[int, int]]) -> float:
    """The sum, row by row and exactly."""
    certified = json.loads(golden)
    total = Fraction(0)
    for cells in csv.reader(line for line in table.decode().splitlines() if not line.startswith("#")):
        run, section = int(cells[0].split(":")[0]), int(cells[1].split(":")[1])
        good = any(first <= section <= last for first, last in certified.get(str(run), []))
        if good and any(first <= run <= last for first, last in eras):
            total += Fraction(float(cells[6]))
    return float(total)


Load = Callable[..., Campaign]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    def load(certified: bytes, byls: bytes, eras: str = "GH", **more: str) -> Campaign:
        (tmp_path / "Cert.txt").write_bytes(certified)
        (tmp_path / "byls.csv").write_bytes(byls)
        text = CAMPAIGN.format(golden=more.get("golden", '"Cert.txt"'), table=more.get("table", '"byls.csv"'))
        for era in "GH":
            for primary in ("DoubleEG", "DoubleMuon"):
                text += DATASET.format(name=f"{era}_{primary}", primary=primary)
                if era in eras:
                    text += f"runs = {list(ERAS[era])}\n"
        path = tmp_path / "mine.toml"
        path.write_text(text, encoding="utf-8")
        return datasets.load(path)

    return load


@pytest.mark.parametrize("seed", range(5))
def test_sum_is_that_of_the_certified_rows_in_the_runs_of_the_eras(load: Load, seed: int) -> None:
    golden, table = made(seed)
    campaign = load(golden, table)
    assert (campaign.luminosity_fb, campaign.sums_luminosity, campaign.runs) == (0, True, tuple(ERAS.values()))
    summed = datasets.check_inputs(campaign)
    assert summed.luminosity_fb == by_hand(golden, table, list(ERAS.values())) > 0.01
    assert summed.digest == campaign.digest
    catalogue = lumi_catalogue(summed.golden_json, summed.luminosity_table, summed.runs)
    assert catalogue is not None
    assert catalogue.total == summed.luminosity_fb  # what a result calls all of it


def test_without_runs_of_every_dataset_all_certified_rows_count(load: Load) -> None:
    golden, table = made(7)
    campaign = load(golden, table, eras="G")
    assert campaign.runs == ()
    assert datasets.check_inputs(campaign).luminosity_fb == by_hand(golden, table, [(1, 2**31 - 1)])


def test_a_stated_luminosity_stays(load: Load, tmp_path: Path) -> None:
    load(*made(7))
    path = tmp_path / "mine.toml"
    path.write_text(path.read_text().replace("energy_tev", "luminosity_fb = 5.5\nenergy_tev"))
    campaign = datasets.load(path)
    assert (campaign.luminosity_fb, campaign.sums_luminosity) == (5.5, False)
    assert datasets.check_inputs(campaign) is campaign


def test_digest_follows_table_and_runs(load: Load) -> None:
    golden, table = made(7)
    found = {load(golden, table).digest, load(golden, table, eras="G").digest, load(golden, made(8)[1]).digest}
    assert len(found) == 3


def test_luminosity_is_shown_as_unknown_until_it_is_summed(load: Load) -> None:
    campaign = load(*made(7))
    assert "<td>–</td></tr>" in campaign._repr_html_()
    assert (
        f"<td>{datasets.check_inputs(campaign).luminosity_fb:g} /fb</td>"
        in datasets.check_inputs(campaign)._repr_html_()
    )


def test_golden_json_and_table_on_a_server_are_verified_and_kept(
    load: Load, http_server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retries, "BACKOFF", 0.001)
    monkeypatch.setenv("HIGGSNB_CACHE", str(tmp_path / "cache"))
    golden, table = made(3)
    stated = {
        key: f'{{ url = "{http_server.add(path, content)}", bytes = {len(content)}, adler32 = "{adler32(content)}" }}'
        for key, path, content in (("golden", "/Cert.txt", golden), ("table", "/byls.csv", table))
    }
    campaign = load(golden, table, **stated)
    expected = by_hand(golden, table, list(ERAS.values()))
    assert datasets.check_inputs(campaign).luminosity_fb == expected
    http_server.seen.clear()
    assert datasets.check_inputs(load(golden, table, **stated)).luminosity_fb == expected
    assert http_server.seen == []
    http_server.add("/byls.csv", made(4)[1])  # replaced on the server: the one that is described is here
    assert datasets.check_inputs(load(golden, table, **stated)).luminosity_fb == expected
    monkeypatch.setenv("HIGGSNB_CACHE", str(tmp_path / "another"))
    with pytest.raises(
        ChecksumError, match=r"^luminosity_table = http.*byls\.csv: not the file that the catalogue des"
    ):
        datasets.check_inputs(load(golden, table, **stated))
    http_server.close()
    with pytest.raises(TransferError, match=r"^luminosity_table = http://.*byls\.csv: cannot be fetched"):
        datasets.check_inputs(load(golden, table, **stated))


def test_digest_of_a_verified_document_is_that_of_its_content_wherever_it_lies(load: Load) -> None:
    golden, table = made(3)
    stated = '{{ url = "{url}", bytes = 5, adler32 = "00000005" }}'
    digests = {load(golden, table, golden=stated.format(url=f"https://{host}/Cert.txt")).digest for host in "ab"}
    assert len(digests) == 1
    assert (
        load(golden, table, golden='{ url = "https://a/C.txt", bytes = 6, adler32 = "00000005" }').digest not in digests
    )


def test_table_without_the_runs_of_the_campaign_is_named(load: Load) -> None:
    with pytest.raises(
        LumiDataError, match=r"byls\.csv: has no lumi section in the runs of the campaign\nName the table"
    ):
        datasets.check_inputs(load(golden_json({300000: [(1, 9)]}), luminosity_table({(300000, 5): 1e-4})))


def test_table_without_luminosity_is_named(load: Load) -> None:
    with pytest.raises(LumiDataError, match="no luminosity was recorded in these sections"):
        datasets.check_inputs(load(golden_json({280000: [(1, 9)]}), luminosity_table({(280000, 5): 0.0})))


MISTAKES = {
    "neither table nor number": ("luminosity_table", "#", r"luminosity_fb is missing \(expected a number above 0\)"),
    "runs in the wrong order": ("[278820, 280385]", "[280385, 278820]", "runs: expected the first and"),
    "one run": ("[278820, 280385]", "[278820]", "runs: expected"),
    "runs as text": ("[278820, 280385]", '"278820-280385"', "runs: expected"),
    "run 0": ("[278820, 280385]", "[0, 280385]", "runs: expected"),
    "runs of simulation": (
        'process = "data"', 'process = "zz"\ncross_section_pb = 1.0', "runs: expected no such key: only data have runs",
    ),
    "document without checksum": (
        '"byls.csv"', '{ url = "https://h/b.csv", bytes = 5 }', r"\[campaign.luminosity_table\]: adler32 is missing",
    ),
    "document with an unknown key": ('"byls.csv"', '{ url = "b.csv", event = 5 }', "unknown key 'event'"),
    "number": ('"byls.csv"', "5", "luminosity_table: expected a string; got 5"),
}  # fmt: skip


@pytest.mark.parametrize(("old", "new", "words"), MISTAKES.values(), ids=MISTAKES.keys())
def test_mistake_is_named(load: Load, tmp_path: Path, old: str, new: str, words: str) -> None:
    load(*made(3))
    path = tmp_path / "mine.toml"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(CampaignError, match=words):
        datasets.load(path)
