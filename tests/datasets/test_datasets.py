"""The catalogue against the published figures, campaign files with mistakes, and the split into chunks."""

from __future__ import annotations

import pickle
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from generators import random_leptons
from hypothesis import given
from hypothesis import strategies as st
from outreach import write as outreach_file

from higgsnb import datasets, engine, errors, selection
from higgsnb.datasets import Campaign, Dataset, File, chunks, parse
from higgsnb.datasets.toy import pseudodata, writer
from higgsnb.errors import CampaignError, OptionError
from higgsnb.events import inspect
from higgsnb.events.schema import FileInfo

GOOD = """
[campaign]
name = "mine"
schema = "outreach"
luminosity_fb = 11.58
luminosity_uncertainty = 0.026
energy_tev = 8
primary_dataset_precedence = ["DoubleMu", "DoubleElectron"]

[[dataset]]
name = "signal"
process = "higgs"
cross_section_pb = 0.0065
[[dataset.file]]
url = "data/signal.root"
alternatives = ["root://host//eos/signal.root"]
events = 299973
bytes = 42400229
adler32 = "1DAFC1D7"

[[dataset]]
name = "muons"
process = "data"
primary_dataset = "DoubleMu"
file = [{ url = "https://host/muons.root" }, { url = "/abs/more.root" }]
"""


@pytest.fixture
def write(tmp_path: Path):  # type: ignore[no-untyped-def]
    def write(text: str) -> Path:
        path = tmp_path / "mine.toml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


# --- what is shipped


def test_shipped_campaigns_load_and_toy_comes_first() -> None:
    assert datasets.names() == ("toy", "atlas2020", "atlas2025", "candidates", "cms2012", "cms2016")
    assert [datasets.load(name).name for name in datasets.names()] == list(datasets.names())


def test_campaign_shows_as_a_table_of_its_datasets() -> None:
    campaign = datasets.load("cms2012")
    html = campaign._repr_html_()
    rows = re.findall(r"<tr>(<td>.*?)</tr>", html)
    assert len(rows) == len(campaign.datasets) + 1
    first = campaign.datasets[0]
    assert rows[0].startswith(f"<td>{first.name}</td><td>{first.process}</td><td>1</td><td>{first.events:,}</td>")
    assert rows[-1].startswith("<td>all</td><td></td><td>8</td><td>120,347,816</td><td>12,790.1 MB</td>")
    assert rows[-1].endswith("<td>11.58 /fb</td>")


def test_table_of_a_campaign_is_escaped_and_shows_what_is_not_known_as_a_dash() -> None:
    strange = Campaign("a", "<b>&", "outreach", 1.0, 0.1, 8.0, "open2012", (Dataset("<i>", "a&b", files=(File("x"),)),))
    html = strange._repr_html_()
    assert "<caption>&lt;b&gt;&amp; (a, 8 TeV)</caption>" in html
    assert "<td>&lt;i&gt;</td><td>a&amp;b</td><td>1</td><td>–</td><td>–</td><td>1 /fb</td>" in html


def test_cms2012_has_the_published_totals() -> None:
    campaign = datasets.load("cms2012")
    assert (len(campaign.files), campaign.bytes, campaign.events) == (8, 12_790_089_202, 120_347_816)
    assert [dataset.record for dataset in campaign.datasets] == list(range(12361, 12369))
    assert len({dataset.doi for dataset in campaign.datasets}) == 8
    assert (campaign.luminosity_fb, campaign.luminosity_uncertainty, campaign.energy_tev) == (11.58, 0.026, 8)
    data = [(dataset.name, dataset.primary_dataset) for dataset in campaign.datasets if dataset.is_data]
    assert all(f"_{primary_dataset}" in name for name, primary_dataset in data)


def test_cms2012_expects_the_events_of_the_public_example() -> None:
    # luminosity [1/pb] x cross section [pb] x 1.386 on ZZ, by hand from the constants of the public example
    expected = {"SMHiggsToZZTo4L": 75.27, "ZZTo4mu": 1235.84, "ZZTo4e": 1235.84, "ZZTo2e2mu": 2888.98}
    campaign = datasets.load("cms2012")
    found = {
        dataset.name: 1000 * campaign.luminosity_fb * dataset.cross_section_pb * dataset.scale
        for dataset in campaign.datasets
        if dataset.cross_section_pb is not None
    }
    assert found == pytest.approx(expected, abs=0.01)


def test_https_is_first_and_xrootd_serves_the_same_path() -> None:
    for name in set(datasets.names()) - {"toy"}:
        campaign = datasets.load(name)
        indexes = [index for dataset in campaign.datasets for index in dataset.index]
        for file in (*campaign.files, *indexes, *campaign.documents):
            assert file.url.startswith("https://opendata.cern.ch/eos/opendata/")
            path = file.url.removeprefix("https://opendata.cern.ch/")
            assert file.alternatives == (f"root://eospublic.cern.ch//{path}",)


def test_candidates_have_the_portals_sizes_and_two_energies() -> None:
    campaign = datasets.load("candidates")
    assert (campaign.schema, campaign.selection, campaign.events) == ("csv", "aod2012", 278)
    assert campaign.bytes == 4092 + 2271 + 5550 + 31445 + 12445 + 28664
    assert campaign.energies_tev == (7.0, 8.0)
    assert campaign.luminosity_fb == pytest.approx(2.33 + 11.58)
    weighted = (2.33 * 0.022 + 11.58 * 0.026) / 13.91
    assert campaign.luminosity_uncertainty == pytest.approx(weighted, abs=5e-5)
    assert {dataset.luminosity_fb for dataset in campaign.datasets} == {2.33, 11.58}


def test_portal_checksums_refuse_the_two_altered_copies_only(
    shared_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HIGGSNB_MIRROR", str(shared_data / "record5200"))
    refused = []
    for dataset in datasets.load("candidates").datasets:
        file = dataset.files[0]
        try:
            source = datasets.locate(file.url, size=file.bytes, adler32=file.adler32)
        except errors.ChecksumError:
            refused.append(dataset.name)
        else:
            assert source.verified
            assert len(Path(source.location).read_text().splitlines()) == (file.events or 0) + 1
    assert refused == ["4mu_2011", "2e2mu_2011"]


def test_toy_catalogue_is_what_the_generator_makes() -> None:
    campaign = datasets.load("toy")
    assert campaign.simulated
    assert campaign.luminosity_fb == pseudodata.LUMINOSITY_FB
    made = [
        (one.name, one.process, one.primary_dataset, one.cross_section_pb, one.scale) for one in pseudodata.DATASETS
    ]
    told = [(one.name, one.process, one.primary_dataset, one.cross_section_pb, one.scale) for one in campaign.datasets]
    assert told == made
    assert [file.url for file in campaign.files] == [f"toy:{one.name}.root" for one in pseudodata.DATASETS]
    assert [one.events for one in campaign.datasets] == [one.events for one in pseudodata.DATASETS]


def test_toy_files_hold_the_events_that_the_catalogue_tells() -> None:
    for file in datasets.load("toy").files:
        path = datasets.fetch(file.url)
        if file.events is not None:
            assert writer.manifest(path.parent)["files"][path.stem]["events"] == file.events


def test_campaign_name_may_hold_all_that_folders_can(write) -> None:  # type: ignore[no-untyped-def]
    name = "A-z_0.9+" + 92 * "x"
    assert datasets.load(write(GOOD.replace('"mine"', f'"{name}"'))).name == name


@pytest.mark.parametrize("schema", parse.DEFAULT_SELECTION)
def test_default_selection_of_every_schema_exists(write, schema: str) -> None:  # type: ignore[no-untyped-def]
    weights = 'weight = "mcWeight"\nsum_of_weights = 1000.0\n' if schema == "atlas" else ""
    text = GOOD.replace('"outreach"', f'"{schema}"').replace("cross_section_pb", f"{weights}cross_section_pb")
    campaign = datasets.load(write(text))
    assert selection.load(campaign.selection).name == campaign.selection


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("cms212", r"unknown campaign 'cms212'; shipped: toy, atlas2020, .*, cms2016\nDid you mean cms2012\?"),
        ("none.toml", "no campaign file at none.toml"),
        ("folder/none", "no campaign file at folder/none"),
        ("/", "it is a folder"),
    ],
)
def test_unknown_campaign_names_what_there_is(name: str, words: str) -> None:
    with pytest.raises(CampaignError, match=words):
        datasets.load(name)


@pytest.mark.parametrize("name", ["muons.root", "muons.csv"])
def test_file_of_events_in_place_of_a_campaign_is_told_what_to_write(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"root")
    with pytest.raises(CampaignError, match=r"is a file of events, not a campaign file") as caught:
        datasets.load(tmp_path / name)
    assert f'url = "{name}"' in caught.value.hint
    head, body = ("\n".join(part.split(" with ")[1].split(", ")) for part in caught.value.hint.split(", and "))
    assert set(re.findall(r"\w+", head)) == {"name", "schema", "energy_tev", "luminosity_fb", "luminosity_uncertainty"}
    assert re.findall(r"^\w+", body, re.MULTILINE) == ["name", "process", "file"]


# --- a user's file


def test_campaign_file_is_read_as_written(write, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    campaign = datasets.load(write(GOOD))
    assert campaign == Campaign(
        name="mine",
        title="mine",
        schema="outreach",
        luminosity_fb=11.58,
        luminosity_uncertainty=0.026,
        energy_tev=8.0,
        selection="open2012",
        primary_dataset_precedence=("DoubleMu", "DoubleElectron"),
        datasets=(
            Dataset(
                "signal",
                "higgs",
                cross_section_pb=0.0065,
                files=(
                    File(
                        str(tmp_path / "data" / "signal.root"),
                        ("root://host//eos/signal.root",),
                        299973,
                        42400229,
                        "1dafc1d7",
                    ),
                ),
            ),
            Dataset(
                "muons",
                "data",
                primary_dataset="DoubleMu",
                files=(File("https://host/muons.root"), File("/abs/more.root")),
            ),
        ),
    )
    assert campaign.events is None
    assert campaign.dataset("muons").is_data
    with pytest.raises(CampaignError, match=r"Did you mean muons\?"):
        campaign.dataset("muon")


def test_paths_are_relative_to_the_file_not_to_the_reader(  # type: ignore[no-untyped-def]
    write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(GOOD.replace("energy_tev", 'golden_json = "../Cert.txt"\nselection = "my.toml"\nenergy_tev'))
    monkeypatch.chdir(tmp_path)
    campaign = datasets.load("mine.toml")
    assert campaign.golden_json == str(tmp_path.parent / "Cert.txt")
    assert campaign.selection == str(tmp_path / "my.toml")
    assert campaign.files[0].url == str(tmp_path / "data" / "signal.root")


def test_old_name_of_the_primary_dataset_is_read_with_a_note(write, caplog: pytest.LogCaptureFixture) -> None:  # type: ignore[no-untyped-def]
    expected = datasets.load(write(GOOD))
    assert not caplog.text
    old = GOOD.replace("primary_dataset_precedence", "stream_precedence").replace("primary_dataset =", "stream =")
    assert datasets.load(write(old)) == expected
    assert "top level" not in caplog.text
    assert "[campaign]: the key 'stream_precedence' is now called 'primary_dataset_precedence'" in caplog.text
    assert "'muons': the key 'stream' is now called 'primary_dataset'" in caplog.text


MISTAKES = {
    "no table": ("[campaign]", "[campagne]", r"\[campaign\]|unknown key 'campagne'"),
    "unknown campaign key": (
        "energy_tev",
        "energi_tev = 8\nenergy_tev",
        r"key 'energi_tev'\nDid you mean energy_tev\?",
    ),
    "misspelt required key": (
        "energy_tev",
        "energi_tev",
        r"energy_tev is missing .*\nIs 'energi_tev' meant to be 'energy_tev'\?",
    ),
    "unknown dataset key": (
        'process = "higgs"',
        'process = "higgs"\nprimery_dataset = 1',
        r"number 1 'signal': unknown key 'primery_dataset'\nDid you mean primary_dataset\?",
    ),
    "unknown file key": (
        "adler32",
        "adler = 1\nadler32",
        r"file number 1: unknown key 'adler'\nDid you mean adler32\?",
    ),
    "text for number": (
        "11.58",
        '"11.58"',
        r"\]: luminosity_fb: expected a number above 0; got '11.58' \(string\)",
    ),
    "true for number": ("11.58", "true", "expected a number above 0; got True"),
    "nan": ("11.58", "nan", "got nan"),
    "infinite": ("11.58", "inf", "got inf"),
    "negative luminosity": ("11.58", "-11.58", "above 0; got -11.58"),
    "uncertainty in per cent": ("0.026", "2.6", "of at least 0 and below 1; got 2.6"),
    "negative cross section": ("0.0065", "-1", "cross_section_pb: expected a number above 0; got -1"),
    "negative events": ("299973", "-1", "events: expected a whole number of at least 0; got -1"),
    "text for a dataset's events": (
        'process = "higgs"',
        'process = "higgs"\nevents = "all"',
        "'signal': events: expected a whole number of at least 0; got 'all'",
    ),
    "dataset and files disagree": (
        'process = "higgs"',
        'process = "higgs"\nevents = 299_974',
        r"dataset 'signal' should have 299,974 events, its files have 299,973: signal.root \(299,973\)\nA file with 1 ",
    ),
    "fractional events": ("299973", "2.5", "events: expected a whole number"),
    "no bytes": ("42400229", "0", "bytes: expected a whole number of at least 1; got 0"),
    "short adler32": ("1DAFC1D7", "1DAFC1", "eight hexadecimal digits"),
    "number as adler32": ('"1DAFC1D7"', "12345678", "a string of eight hexadecimal digits"),
    "unknown schema": (
        "outreach",
        "outreech",
        r"expected one of outreach, nanoaod, csv, atlas; got .*\nDid you mean outreach\?",
    ),
    "empty name": ('"signal"', '""', "name: expected a string; got ''"),
    "no name": ('name = "signal"', "", r"name is missing \(expected a string\)"),
    "no process": ('process = "higgs"', "", r"process is missing \(expected a string\)"),
    "data with a cross section": (
        '"higgs"',
        '"data"',
        "cross_section_pb: expected no such key: data has weight 1",
    ),
    "data with a scale": ('primary_dataset = "DoubleMu"', "scale = 2.0", "scale: expected no such key: data"),
    "simulation without a cross section": (
        "cross_section_pb = 0.0065",
        "",
        "the cross section in pb, as process 'higgs'",
    ),
    "data with a space": ('"data"', '" data"', r'exactly "data" .*; got \' data\' \(string\)'),
    "reserved process": ('"higgs"', '"prediction"', "process: expected another name: 'prediction' is the sum"),
    "campaign name with a slash": ('"mine"', '"../mine"', r"name: expected letters, digits and _ \. \+ - only"),
    "campaign name with a dot first": ('"mine"', '".mine"', "name: expected letters.*no dot first"),
    "campaign name with a space": ('"mine"', '"my campaign"', "name: expected letters"),
    "campaign name that ends its line": ('"mine"', r'"mine\n"', "name: expected a string of one line"),
    "long campaign name": ('"mine"', f'"{101 * "m"}"', "at most 100"),
    "data misspelt": ('"data"', '"Data"', 'process: expected exactly "data" for collision data'),
    "no file": (re.search(r"file = .*", GOOD)[0], "", r"muons.*file is missing \(expected at least one file"),  # type: ignore[index]
    "file is a text": (
        '[{ url = "https://host/muons.root" }, { url = "/abs/more.root" }]',
        '"a.root"',
        r"expected tables \[\[file\]\]",
    ),
    "file without url": ('url = "data/signal.root"', "", r"url is missing \(expected a string\)"),
    "scheme": ("https://host", "ftp://host", "url: expected a path or an address with file:, http:"),
    "no host": ("https://host", "https://", "url: expected a path or an address"),
    "alternatives is a text": (
        '["root://host//eos/signal.root"]',
        '"root://host//x"',
        "alternatives: expected a list",
    ),
    "same dataset name": ('"muons"', '"signal"', "two datasets are called 'signal'"),
    "unknown primary dataset": (
        'primary_dataset = "DoubleMu"',
        'primary_dataset = "DoubleMuon"',
        r"not in primary_dataset_precedence \(DoubleMu, DoubleElectron\)\nDid you mean DoubleMu\?",
    ),
    "primary dataset under both names": (
        'primary_dataset = "DoubleMu"',
        'primary_dataset = "DoubleMu"\nstream = "DoubleMu"',
        "'muons': both 'primary_dataset' and 'stream', its old name\nRemove 'stream'",
    ),
    "primary dataset twice": ('"DoubleElectron"', '"DoubleMu"', "a list without repetitions"),
    "number with 400 digits": ("11.58", "9" * 400, "luminosity_fb: expected a number from 1e-30 to"),
    "number with 5000 hexadecimal digits": (
        "299973",
        "0x" + "f" * 5000,
        "events: .*at most 10,000,000,000; got <a very large int>",
    ),
    "1e308": ("0.0065", "1e308", r"cross_section_pb: expected a number from 1e-30 to 1e\+15; got 1e\+308"),
    "1e-320": ("0.0065", "1e-320", "cross_section_pb: expected a number from 1e-30 to"),
    "events of all of the LHC": (
        "299973",
        "9223372036854775807",
        "events: expected a whole number of at most 10,000,000,000",
    ),
    "bytes": ("42400229", "9223372036854775808", "bytes: expected a whole number of at most"),
    "dotted key": ('name = "signal"', "name." + ".".join("a" * 60) + "=1", "name: expected a string; got {'a': {'a'"),
    "zero byte": ("data/signal", r"data\u0000signal", r"url: expected a string of one line .*; got .*data\\x00signal"),
    "two lines": ('"signal"', r'"sig\nnal"', r"name: expected a string of one line .*; got 'sig\\nnal'"),
    "codes for the terminal": ('"signal"', r'"\u001b[2J"', r"name: expected a string of one line"),
    "key of two lines": ('process = "higgs"', 'process = "higgs"\n"a\\nb" = 1', r"unknown key 'a\\nb'"),
    "home of nobody": ("data/signal", "~no.such.user/signal", "url: expected a path; there is no user 'no.such.user'"),
    "colon in a name": (
        "data/signal",
        "user.me:signal",
        r"got 'user.me:signal.root' .*\nThe path of a file .* is written as './user.me:signal.root'",
    ),
    "not TOML": ("[[dataset]]", "[[dataset", "not valid TOML: .*line 10"),
    "simulated in quotes": (
        "energy_tev",
        'simulated = "yes"\nenergy_tev',
        "simulated: expected true or false",
    ),
}


@pytest.mark.parametrize(("old", "new", "words"), MISTAKES.values(), ids=MISTAKES.keys())
def test_mistake_is_named_with_file_table_key_expected_and_got(  # type: ignore[no-untyped-def]
    write, old: str, new: str, words: str
) -> None:
    assert old in GOOD
    path = write(GOOD.replace(old, new, 1))
    with pytest.raises(CampaignError, match=words) as caught:
        datasets.load(path)
    assert str(path) in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 3


NOWHERE = ["http://a..b/x", f"https://{'h' * 70}.invalid/x", "http://b\u00fc\u2024\u2024cher/x", "file:///folder/a%00b"]


@pytest.mark.parametrize("address", NOWHERE)
@pytest.mark.parametrize("key", ["url", "alternatives", "golden_json", "luminosity_table"])
def test_address_that_leads_nowhere_is_named_before_the_work(write, key: str, address: str) -> None:  # type: ignore[no-untyped-def]
    content = GOOD.replace("[[dataset]]", f'{key} = "{address}"\n[[dataset]]', 1)
    if key == "url":
        content = GOOD.replace("data/signal.root", address)
    elif key == "alternatives":
        content = GOOD.replace("root://host//eos/signal.root", address)
    with pytest.raises(CampaignError) as caught:
        datasets.load(write(content))
    assert f"{key}: expected a path or an address" in caught.value.message
    assert address[:40] in caught.value.message
    assert caught.value.hint.startswith(f"Correct `{key}`: a host has 1 to 63 characters")


ODD_NAMES = {
    "tilde": ("~backup.root", "~backup.root"),
    "two colons": ("./a::b.root", "a::b.root"),
    "colon": ("./user.me:data16.root", "user.me:data16.root"),
    "blank at the end": ("./trail.root ", "trail.root "),
    "percent, hash, question mark": ("a%20b#c?d.root", "a%20b#c?d.root"),
    "no-break space": ("a\u00a0b.root", "a\u00a0b.root"),
}


@pytest.mark.parametrize(("url", "name"), ODD_NAMES.values(), ids=ODD_NAMES)
def test_file_of_any_name_is_found(write, tmp_path: Path, url: str, name: str) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / name).touch()
    campaign = datasets.load(write(GOOD.replace("data/signal.root", url)))
    assert datasets.locate(campaign.files[0].url).location == str(tmp_path / name)


@pytest.mark.parametrize("name", ["a\0b.toml", "a\nb", "~no.such.user/a.toml", "x" * 5000, "x" * 3000])
def test_name_that_no_file_can_have_is_named(name: str) -> None:
    with pytest.raises(CampaignError) as caught:
        datasets.load(name)
    assert len(str(caught.value).splitlines()) == 2
    assert len(caught.value.message) < 4096


def test_plan_of_too_many_chunks_is_refused_before_it_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "MOST_CHUNKS", 1000)  # of two million
    files = (File("a.root", events=10**10),) * 9
    campaign = replace(datasets.load("toy"), datasets=(Dataset(name="d", process="data", files=files),))
    with pytest.raises(OptionError, match=r"more than 1,000 chunks of 80,000,000 events, up to dataset 'd' \(90,000,0"):
        datasets.plan_chunks(campaign, {}, 80_000_000)
    assert len(datasets.plan_chunks(campaign, {}, 80_000_000, fraction=0.5)) == 9 * 63
    assert len(datasets.plan_chunks(campaign, {}, 100_000_000)) == 900


def test_campaign_without_datasets_is_refused(write) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(CampaignError, match=r"no dataset\nAdd at least one \[\[dataset\]\]"):
        datasets.load(write(GOOD.partition("[[dataset]]")[0]))


def test_campaign_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_bytes(b"root\xff\xfe")
    with pytest.raises(CampaignError, match="not UTF-8 text"):
        datasets.load(tmp_path / "a.toml")


SAME = {
    "same text": ("https://host/muons.root", ""),
    "other spelling of the host": ("https://HOST//muons.root", ""),
    "quoted": ("https://host/%6Duons.root", ""),
    "other path to it": ("data/../data/signal.root", ""),
    "as file:": ("file://{folder}/data/signal.root", ""),
    "as an alternative": ("https://else/x.root", 'alternatives = ["https://host/muons.root"]'),
    "another protocol of the same storage": ("https://opendata.cern.ch/eos/signal.root", ""),
    "same size and checksum": ("other.root", 'bytes = 42400229\nadler32 = "1dafc1d7"'),
}


@pytest.mark.parametrize(("url", "more"), SAME.values(), ids=SAME.keys())
def test_same_file_listed_twice_is_an_error(write, tmp_path: Path, url: str, more: str) -> None:  # type: ignore[no-untyped-def]
    extra = f"""
[[dataset]]
name = "again"
process = "data"
[[dataset.file]]
url = "{url.format(folder=tmp_path)}"
{more}
"""
    with pytest.raises(CampaignError, match=r"the same file is listed twice: .* in dataset 'again' and"):
        datasets.load(write(GOOD + extra))


def test_files_that_differ_only_in_their_query_are_two(write) -> None:  # type: ignore[no-untyped-def]
    text = GOOD.replace("/abs/more.root", "https://host/muons.root?part=2")
    assert len(datasets.load(write(text)).files) == 3


def test_secret_in_an_address_is_not_repeated(write) -> None:  # type: ignore[no-untyped-def]
    text = GOOD.replace("/abs/more.root", "https://me:c4n4ry@host/muons.root?authz=c4n4ry")
    campaign = datasets.load(write(text))
    assert "c4n4ry" not in repr(campaign)
    assert "c4n4ry" in campaign.files[2].url
    with pytest.raises(CampaignError) as caught:
        datasets.load(write(GOOD.replace("/abs/more.root", "ftp://me:c4n4ry@host/a?authz=c4n4ry")))
    assert "c4n4ry" not in str(caught.value)


@pytest.mark.parametrize(
    "address", ["http://x/y.toml", "https://me:c4n4ry@x/y", "file:///x/y.toml", "root://x//y.toml"]
)
def test_campaign_is_not_read_from_an_address(address: str) -> None:
    with pytest.raises(CampaignError, match=r"cannot be read from an address\nDownload the TOML file first") as caught:
        datasets.load(address)
    assert "c4n4ry" not in str(caught.value)


@pytest.mark.parametrize("name", ["", "  "])
def test_empty_name_is_no_campaign(name: str) -> None:
    with pytest.raises(
        CampaignError, match=r"name of the campaign is empty\nGive one of toy, atlas2020, .*cms2016, or"
    ):
        datasets.load(name)


# --- entries read = entries in the file = events in the catalogue

TWO_FILES = """
[campaign]
name = "mine"
schema = "outreach"
luminosity_fb = 1
luminosity_uncertainty = 0.1
energy_tev = 8
[[dataset]]
name = "muons"
process = "data"
events = {total}
file = [{files}]
"""


@pytest.fixture(scope="module")
def three_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with files of 30, 20 and 7 events, and the first of them once more under another name."""
    folder = tmp_path_factory.mktemp("entries")
    for name, events_ in (("a", 30), ("b", 20), ("c", 7)):
        outreach_file(folder / f"{name}.root", random_leptons(events_, seed=events_))
    (folder / "copy.root").write_bytes((folder / "a.root").read_bytes())
    return folder


def opened(folder: Path, total: int, listed: str) -> Campaign:
    """Load a campaign of one dataset and compare it with its files, as a run does before any event is read."""
    path = folder / "mine.toml"
    path.write_text(TWO_FILES.format(total=total, files=listed))
    campaign = datasets.load(path)
    infos = {(0, number): inspect(file, "outreach") for number, file in enumerate(campaign.files)}
    for message in chunks.check_files(campaign, infos).values():
        raise CampaignError(*message)
    return campaign


A, B, C = (f'{{ url = "{name}.root", events = {number} }}' for name, number in (("a", 30), ("b", 20), ("c", 7)))
UNTOLD = '{ url = "a.root" }, { url = "b.root" }'
WRONG = {
    "a file one event short": (50, f"{A.replace('30', '29')}, {B}", "50 events, its files have 49: a.root (29)"),
    "a file one event long": (51, f"{A.replace('30', '31')}, {B}", "a.root: holds 30 events, the campaign says 31"),
    "a dataset one event short": (49, UNTOLD, "49 events, its files have 50: a.root (30), b.root (20)", "1 too many"),
    "a dataset one event long": (51, UNTOLD, "51 events, its files have 50: a.root (30), b.root (20)"),
    "a missing file": (57, f"{A}, {B}", "a.root (30), b.root (20)", "A file with 7 events may be missing"),
    "a missing file, numbers untold": (57, UNTOLD, "a.root (30), b.root (20)", "A file with 7 events may be missing"),
    "an extra file": (50, f"{A}, {B}, {C}", "a.root (30), b.root (20), c.root (7)", "would agree without c.root"),
    "an extra file, numbers untold": (30, UNTOLD, "a.root (30), b.root (20)", "agree without b.root: remove that file"),
    "one address twice": (60, f"{A}, {A}", "the same file is listed twice: a.root in dataset 'muons'"),
    "one file under two addresses": (
        60, f"{A}, {A.replace('a.root', 'copy.root')}", "copy.root in dataset 'muons' is the same file as", "a.root in",
    ),
}  # fmt: skip


@pytest.mark.parametrize("total_files_words", WRONG.values(), ids=WRONG.keys())
def test_catalogue_that_its_files_contradict_is_refused_and_the_files_named(
    three_files: Path, total_files_words: tuple[Any, ...]
) -> None:
    total, listed, *words = total_files_words
    with pytest.raises(ValueError, match=re.escape(words[0])) as caught:
        opened(three_files, total, listed)
    assert all(word in str(caught.value) for word in words)
    assert str(caught.value).count("\n") <= 2


def test_catalogue_that_agrees_with_its_files_passes(three_files: Path) -> None:
    for listed in (f"{A}, {B}", UNTOLD):
        campaign = opened(three_files, 50, listed)
        assert (campaign.events, campaign.datasets[0].stated_events) == (50, 50)
        chunks.check_totals(campaign, {(0, 0): 30})  # b.root could not be opened


def test_file_that_could_not_be_opened_may_not_hide_that_there_are_too_many_events(three_files: Path) -> None:
    campaign = opened(three_files, 50, UNTOLD)
    with pytest.raises(CampaignError, match=r"50 events, its files have 51: a\.root \(51\), b\.root \(\?\)"):
        chunks.check_totals(campaign, {(0, 0): 51})


def test_same_file_under_two_addresses_is_counted_once_and_named(three_files: Path) -> None:
    both = Campaign("two", "two", "outreach", 1.0, 0.1, 8.0, "open2012", (
        Dataset("x", "data", files=(File(str(three_files / "a.root")),)),
        Dataset("y", "data", files=(File(str(three_files / "copy.root")),)),
    ))  # fmt: skip
    (*_, result) = engine.run(both, selection.load("open2012"))
    (failure,) = result.failed
    assert (failure.dataset, failure.error) == ("y", "DuplicateFileError")
    assert re.search(r"copy\.root in dataset 'y' is the same file as .*a\.root in dataset 'x'", failure.message)
    assert result.tally.ranges == {(0, 0): ((0, 30),)}
    assert not result.complete


def test_same_address_in_two_datasets_is_counted_once(three_files: Path) -> None:
    file = File(str(three_files / "a.root"))
    both = Campaign("two", "two", "outreach", 1.0, 0.1, 8.0, "open2012", (
        Dataset("x", "data", files=(file,)), Dataset("y", "data", files=(file,)),
    ))  # fmt: skip
    (*_, result) = engine.run(both, selection.load("open2012"))
    assert [failure.error for failure in result.failed] == ["DuplicateFileError"]
    assert result.tally.ranges == {(0, 0): ((0, 30),)}


def test_run_of_a_catalogue_whose_total_is_wrong_stops_before_any_event(three_files: Path) -> None:
    path = three_files / "wrong.toml"
    path.write_text(TWO_FILES.format(total=49, files=UNTOLD))
    with pytest.raises(CampaignError, match=r"49 events, its files have 50: a\.root \(30\), b\.root \(20\)"):
        next(engine.run(datasets.load(path), selection.load("open2012")))


def test_files_that_were_made_alike_are_two() -> None:
    info = FileInfo(30, "TTree", 100, "one")
    campaign = Campaign("c", "c", "outreach", 1.0, 0.0, 8.0, "open2012", (
        Dataset("d", "zz", cross_section_pb=1.0, files=(File("/1"), File("/2"))),
    ))  # fmt: skip
    same = {(0, 0): info, (0, 1): info}
    assert len(chunks.check_files(campaign, same)) == 1
    for other in (replace(info, uuid="two"), replace(info, entries=31), replace(info, bytes=101)):
        assert chunks.check_files(campaign, {**same, (0, 1): other}) == {}
    rows = replace(info, uuid=None)  # a CSV file has none
    assert chunks.check_files(campaign, {(0, 0): rows, (0, 1): rows}) == {}


# --- digest


def test_digest_follows_what_can_change_the_answer_and_nothing_else(write, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "Cert.txt").write_text("{}")
    base = datasets.load(write(GOOD.replace("energy_tev", 'golden_json = "Cert.txt"\nenergy_tev')))
    signal, muons = base.datasets
    file = signal.files[0]

    def with_signal(**changes: object) -> Campaign:
        return replace(base, datasets=(replace(signal, **changes), muons))  # type: ignore[arg-type]

    same = [
        replace(base, title="another"),
        replace(base, source="elsewhere"),
        replace(base, selection="df103"),  # has a digest of its own
        with_signal(doi="10.1/2", record=5),
        with_signal(files=(replace(file, url="/elsewhere/signal.root", alternatives=()),)),
    ]
    other = [
        replace(base, luminosity_fb=11.6),
        replace(base, luminosity_uncertainty=0.03),
        replace(base, schema="nanoaod"),
        replace(base, energy_tev=7.0),
        replace(base, primary_dataset_precedence=("DoubleElectron", "DoubleMu")),
        replace(base, golden_json=None),
        replace(base, simulated=True),
        replace(base, datasets=(muons, signal)),
        with_signal(cross_section_pb=0.0066),
        with_signal(scale=1.1),
        with_signal(name="other"),
        with_signal(process="zz"),
        with_signal(files=(replace(file, events=1),)),
        with_signal(stated_events=299973),
        with_signal(files=(replace(file, adler32="00000001"),)),
        with_signal(files=(replace(file, bytes=1),)),
        with_signal(files=(replace(file, adler32=None),)),
        with_signal(files=(replace(file, adler32=None, url="/elsewhere/signal.root"),)),
    ]
    assert {campaign.digest for campaign in same} == {base.digest}
    assert len({campaign.digest for campaign in [base, *other]}) == len(other) + 1
    before = base.digest
    (tmp_path / "Cert.txt").write_text('{"1": [[1, 2]]}')
    assert base.digest != before


# --- chunks


def campaign_of(*counts: tuple[int, ...]) -> Campaign:
    samples = tuple(
        Dataset(
            f"d{index}",
            "zz",
            cross_section_pb=1.0,
            files=tuple(File(f"/{index}/{n}", events=e) for n, e in enumerate(of)),
        )
        for index, of in enumerate(counts)
    )
    return Campaign("c", "c", "outreach", 1.0, 0.0, 8.0, "open2012", samples)


COUNTS = st.lists(st.lists(st.integers(0, 500), min_size=1, max_size=4).map(tuple), min_size=1, max_size=4)


@given(COUNTS, st.integers(1, 120), st.floats(0.001, 1.0))
def test_chunks_cover_each_file_once_up_to_the_fraction(
    counts: list[tuple[int, ...]], size: int, fraction: float
) -> None:
    found = chunks.plan_chunks(campaign_of(*counts), {}, size, fraction)
    covered = Counter(
        (chunk.dataset_index, chunk.file_index, entry) for chunk in found for entry in range(chunk.start, chunk.stop)
    )
    wanted = {
        (index, number, entry)
        for index, of in enumerate(counts)
        for number, count in enumerate(of)
        for entry in range(round(fraction * count))
    }
    assert set(covered) == wanted
    assert set(covered.values()) <= {1}
    assert all(chunk.stop - chunk.start <= size for chunk in found)


@given(COUNTS, st.integers(1, 120))
def test_all_datasets_progress_in_step(counts: list[tuple[int, ...]], size: int) -> None:
    campaign = campaign_of(*counts)
    totals = [max(1, sum(of)) for of in counts]
    done = [0] * len(counts)
    for chunk in chunks.plan_chunks(campaign, {}, size):
        done[chunk.dataset_index] += chunk.stop - chunk.start
        shares = [part / total for part, total in zip(done, totals, strict=True) if total > 1]
        largest = max(min(size, total) / total for total in totals)
        assert not shares or max(shares) - min(shares) <= largest + 1e-12


def test_golden_json_goes_to_data_only() -> None:
    data = Dataset("d", "data", files=(File("/d", events=5),))
    simulation = Dataset("s", "zz", cross_section_pb=1.0, files=(File("/s", events=5),))
    both = replace(campaign_of(), datasets=(data, simulation), golden_json="/Cert.txt")
    told = {chunk.dataset: chunk.golden_json for chunk in chunks.plan_chunks(both, {}, 100)}
    assert told == {"d": "/Cert.txt", "s": None}


def test_chunks_are_ordered_by_relative_position_by_hand() -> None:
    found = chunks.plan_chunks(campaign_of((4, 4), (6,)), {}, 2)
    assert [(chunk.dataset, chunk.file_index, chunk.start, chunk.stop) for chunk in found] == [
        ("d0", 0, 0, 2),  # 0
        ("d1", 0, 0, 2),  # 0
        ("d0", 0, 2, 4),  # 1/4
        ("d1", 0, 2, 4),  # 1/3
        ("d0", 1, 0, 2),  # 1/2
        ("d1", 0, 4, 6),  # 2/3
        ("d0", 1, 2, 4),  # 3/4
    ]


def test_a_larger_fraction_repeats_the_boundaries_of_a_smaller_one() -> None:
    campaign = campaign_of((1000, 333))
    whole, part = (
        {(c.file_index, c.start, c.stop) for c in chunks.plan_chunks(campaign, {}, 100, f)} for f in (1.0, 0.5)
    )
    assert part - whole == {(1, 100, 166)}  # only the one that the fraction cuts short


def test_counts_given_override_those_of_the_catalogue() -> None:
    found = chunks.plan_chunks(campaign_of((10,)), {"/0/0": 3}, 100)
    assert [(chunk.start, chunk.stop) for chunk in found] == [(0, 3)]


def test_empty_file_has_one_empty_chunk_so_that_it_is_opened() -> None:
    found = chunks.plan_chunks(campaign_of((0, 5)), {}, 100)
    assert [(chunk.file_index, chunk.start, chunk.stop) for chunk in found] == [(0, 0, 0), (1, 0, 5)]


def test_file_of_unknown_length_is_named() -> None:
    with pytest.raises(ValueError, match=r"number of entries of toy:Run2012_DoubleMu\.root is not known"):
        chunks.plan_chunks(datasets.load("toy"), {}, 10_000)


@pytest.mark.parametrize(("size", "fraction"), [(0, 1.0), (-1, 1.0), (10, 0.0), (10, 1.1), (10, float("nan"))])
def test_chunk_size_and_fraction_out_of_range_are_refused(size: int, fraction: float) -> None:
    with pytest.raises(ValueError, match="must be"):
        chunks.plan_chunks(campaign_of((10,)), {}, size, fraction)


def test_chunk_is_small_when_pickled_and_comes_back_equal() -> None:
    campaign = datasets.load("cms2012")
    chunk = chunks.plan_chunks(campaign, {}, 1_000_000)[-1]
    assert pickle.loads(pickle.dumps(chunk)) == chunk  # noqa: S301
    assert len(pickle.dumps(chunk)) < 1000
    assert (chunk.schema, chunk.primary_dataset, chunk.is_data) == (
        "outreach",
        campaign.datasets[chunk.dataset_index].primary_dataset,
        True,
    )


def test_twenty_seven_thousand_files_make_a_quarter_million_chunks() -> None:
    campaign = campaign_of(*[(100,) * 13460] * 2)
    found = chunks.plan_chunks(campaign, {}, 10)
    assert len(found) == 269_200
