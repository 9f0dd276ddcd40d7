"""File indexes: expanded with and without a network, damaged in each way, and hostile."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from generators import random_leptons
from http_server import FileServer
from outreach import write as outreach_file
from portal import HTTPS, XROOTD, adler32, entry, file_index

from higgsnb import datasets, engine, selection
from higgsnb.datasets import Campaign
from higgsnb.datasets.files import retries
from higgsnb.errors import CampaignError, ChecksumError, MissingFileError, OptionError, TransferError

FOLDER = "cms/Run2016G/DoubleMuon/NANOAOD/v2/243"
NAMES = ("05DD095C.root", "209D94D9.root", "23A0C786.root")
ENTRIES = [entry(f"{XROOTD}{FOLDER}/{name}", 1000 + i, f"0000000{i}") for i, name in enumerate(NAMES)]

HEAD = """
[campaign]
name = "mine"
schema = "outreach"
luminosity_fb = 1
luminosity_uncertainty = 0.1
energy_tev = 13
"""
DATASET = """
[[dataset]]
name = "{name}"
process = "data"
{totals}
"""


@dataclass
class Portal:
    """A server with indexes, and a campaign that names them."""

    server: FileServer
    folder: Path
    text: str = HEAD

    def add(self, name: str, *indexes: bytes, totals: str = "", **wrong: Any) -> list[str]:
        """Add a dataset with indexes; return their addresses. ``wrong`` replaces what the campaign says of the last."""
        self.text += DATASET.format(name=name, totals=totals)
        urls = []
        for number, content in enumerate(indexes):
            urls.append(self.server.add(f"/{name}_{number}_file_index.json", content))
            stated = {"bytes": len(content), "adler32": adler32(content), "url": urls[-1]}
            stated |= wrong if number == len(indexes) - 1 else {}
            lines = (f"{key} = {json.dumps(value)}" for key, value in stated.items() if value is not None)
            self.text += "[[dataset.index]]\n" + "\n".join(lines) + "\n"
        return urls

    def load(self) -> Campaign:
        path = self.folder / "mine.toml"
        path.write_text(self.text, encoding="utf-8")
        return datasets.load(path)


@pytest.fixture
def portal(http_server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Portal:
    monkeypatch.setattr(retries, "BACKOFF", 0.001)
    monkeypatch.setenv("HIGGSNB_CACHE", str(tmp_path / "cache"))
    return Portal(http_server, tmp_path)


# --- expanded


def test_index_becomes_files_with_https_first_size_and_checksum(portal: Portal) -> None:
    portal.add(
        "muons", file_index(ENTRIES[:2]), file_index(ENTRIES[2:]), totals="n_files = 3\nbytes = 3003\nevents = 77"
    )
    campaign = portal.load()
    assert (campaign.files, campaign.n_files, campaign.bytes, campaign.events) == ((), 3, 3003, 77)
    expanded = datasets.expand(campaign)
    assert [file.url for file in expanded.files] == [f"{HTTPS}{FOLDER}/{name}" for name in NAMES]
    assert [file.alternatives for file in expanded.files] == [(f"{XROOTD}{FOLDER}/{name}",) for name in NAMES]
    assert [(file.bytes, file.adler32) for file in expanded.files] == [(1000 + i, f"0000000{i}") for i in range(3)]
    assert (expanded.n_files, expanded.bytes, expanded.events) == (3, 3003, 77)


def test_digest_is_the_same_before_and_after_and_follows_the_index(portal: Portal) -> None:
    portal.add("muons", file_index(ENTRIES))
    campaign = portal.load()
    expanded = datasets.expand(campaign)
    assert expanded.digest == campaign.digest
    assert datasets.expand(expanded) is expanded
    (dataset,) = campaign.datasets
    other = replace(dataset.index[0], adler32="00000001")
    assert replace(campaign, datasets=(replace(dataset, index=(other,)),)).digest != campaign.digest
    moved = replace(dataset.index[0], url="https://elsewhere/index.json")
    assert replace(campaign, datasets=(replace(dataset, index=(moved,)),)).digest == campaign.digest


def test_campaign_without_an_index_is_returned_as_it_is() -> None:
    campaign = datasets.load("cms2012")
    assert datasets.expand(campaign) is campaign


def test_checksum_without_leading_zeros_is_read(portal: Portal) -> None:
    portal.add("muons", file_index([ENTRIES[0] | {"checksum": "adler32:C0D293F"}]))
    assert datasets.expand(portal.load()).files[0].adler32 == "0c0d293f"


def test_files_of_another_server_keep_their_address(portal: Portal) -> None:
    uri = f"{portal.server.base}/data/a.root"
    portal.add("muons", file_index([entry(uri, 5, "00000005")]))
    (file,) = datasets.expand(portal.load()).files
    assert (file.url, file.alternatives) == (uri, ())


def test_friends_of_an_index_follow_their_files(portal: Portal) -> None:
    portal.add("muons", file_index(ENTRIES), totals='friends = ["https://host/{stem}_weights.root"]')
    expanded = datasets.expand(portal.load())
    assert [file.friends for file in expanded.files] == [
        (f"https://host/{name.removesuffix('.root')}_weights.root",) for name in NAMES
    ]
    (dataset,) = expanded.datasets
    assert replace(expanded, datasets=(replace(dataset, friends=()),)).digest != expanded.digest


def test_local_index_lies_beside_the_campaign_and_is_read_again_after_a_change(tmp_path: Path) -> None:
    (tmp_path / "list.json").write_bytes(file_index(ENTRIES[:1]))
    text = HEAD + DATASET.format(name="muons", totals='index = [{ url = "list.json" }]')
    (tmp_path / "mine.toml").write_text(text, encoding="utf-8")
    campaign = datasets.load(tmp_path / "mine.toml")
    before = campaign.digest
    assert datasets.expand(campaign).n_files == 1
    (tmp_path / "list.json").write_bytes(file_index(ENTRIES))
    assert datasets.expand(campaign).n_files == 3
    assert campaign.digest != before


def test_chunks_of_an_unexpanded_campaign_are_refused(portal: Portal) -> None:
    portal.add("muons", file_index(ENTRIES))
    with pytest.raises(OptionError, match=r"files of dataset 'muons' are not listed yet\nCall datasets\.expand first"):
        datasets.plan_chunks(portal.load(), {}, 100)


def test_campaign_with_an_index_runs(portal: Portal) -> None:
    entries = []
    for name in ("a", "b"):
        content = outreach_file(portal.folder / f"{name}.root", random_leptons(30, seed=ord(name))).read_bytes()
        entries.append(entry(portal.server.add(f"/{name}.root", content), len(content), adler32(content)))
    portal.add("muons", file_index(entries), totals="events = 60")
    (*_, result) = engine.run(portal.load(), selection.load("open2012"))
    assert (result.complete, result.coverage.files, result.coverage.events) == (True, (2, 2), (60, 60))
    assert [file["bytes"] for file in result.provenance["files"]] == [one["size"] for one in entries]


# --- without a network


def test_second_expansion_asks_no_server(portal: Portal) -> None:
    portal.add("muons", *(file_index([one]) for one in ENTRIES))
    first = datasets.expand(portal.load())
    assert len(portal.server.seen) == 3
    portal.server.close()
    assert datasets.expand(portal.load()) == first
    assert len(portal.server.seen) == 3


def test_outage_is_one_error_with_the_remedy(portal: Portal) -> None:
    portal.add("muons", *(file_index([replaced]) for replaced in numbered(28)))
    campaign = portal.load()
    portal.server.close()
    started = time.monotonic()
    with pytest.raises(TransferError) as caught:
        datasets.expand(campaign)
    assert time.monotonic() - started < 5
    assert caught.value.message.startswith(
        "campaign 'mine': one of its 28 file indexes: muons_0_file_index.json: cannot be"
    )
    assert f"run `higgsnb plan {portal.folder}/mine.toml` once where there is one" in caught.value.hint
    assert "HIGGSNB_MIRROR" in caught.value.hint
    assert str(caught.value).count("\n") == 1


def numbered(n: int) -> list[dict[str, Any]]:
    return [entry(f"{XROOTD}{FOLDER}/{i}.root", 1 + i, f"{i:08x}") for i in range(n)]


def test_outage_half_way_keeps_what_is_there(portal: Portal) -> None:
    urls = portal.add("muons", *(file_index([one]) for one in numbered(4)))
    missing = portal.server.files.pop(urls[2].removeprefix(portal.server.base))
    with pytest.raises(MissingFileError, match=r"one of its 4 file indexes: muons_2_file_index\.json: not found"):
        datasets.expand(portal.load())
    portal.server.add(urls[2].removeprefix(portal.server.base), missing)
    portal.server.seen.clear()
    assert datasets.expand(portal.load()).n_files == 4
    assert [seen.path for seen in portal.server.seen] == ["/muons_2_file_index.json"]


@pytest.mark.parametrize("remote", [False, True])
def test_mirror_gives_the_indexes(portal: Portal, monkeypatch: pytest.MonkeyPatch, remote: bool) -> None:
    content = file_index(ENTRIES)
    address = f"{HTTPS}cms/Run2016G/file-indexes/x_file_index.json"
    portal.add("muons", content, url=address)
    if remote:
        portal.server.add("/mirror/eos/opendata/cms/Run2016G/file-indexes/x_file_index.json", content)
        monkeypatch.setenv("HIGGSNB_MIRROR", f"{portal.server.base}/mirror")
    else:
        path = portal.folder / "mirror/eos/opendata/cms/Run2016G/file-indexes/x_file_index.json"
        path.parent.mkdir(parents=True)
        path.write_bytes(content)
        monkeypatch.setenv("HIGGSNB_MIRROR", str(portal.folder / "mirror"))
    assert datasets.expand(portal.load()).n_files == 3


# --- not the index that the catalogue describes


def test_index_that_changed_on_the_server_is_named(portal: Portal) -> None:
    (url,) = portal.add("muons", file_index(ENTRIES))
    portal.server.add(url.removeprefix(portal.server.base), file_index([ENTRIES[1], ENTRIES[0], ENTRIES[2]]))
    with pytest.raises(ChecksumError, match=r"muons_0_file_index\.json: not the file that the catalogue describes"):
        datasets.expand(portal.load())


def test_index_cut_short_is_named(portal: Portal) -> None:
    content = file_index(ENTRIES)
    (url,) = portal.add("muons", content)
    portal.server.add(url.removeprefix(portal.server.base), content[:-100])
    with pytest.raises(ChecksumError, match=f"offers {len(content) - 100} bytes, expected {len(content)}"):
        datasets.expand(portal.load())


def test_index_of_another_dataset_does_not_agree_with_the_record(portal: Portal) -> None:
    portal.add("muons", file_index(ENTRIES), totals="n_files = 29")
    with pytest.raises(
        CampaignError, match=r"'muons' should have 29 files, its list has 3, the first of them .*05DD095C"
    ):
        datasets.expand(portal.load())


def test_bytes_of_the_record_are_compared(portal: Portal) -> None:
    portal.add("muons", file_index(ENTRIES), totals="bytes = 3004")
    with pytest.raises(CampaignError, match=r"dataset 'muons' should have 3,004 bytes, its list has 3,003"):
        datasets.expand(portal.load())


def test_record_of_listed_files_is_compared_when_the_campaign_is_read(portal: Portal) -> None:
    portal.text += DATASET.format(name="muons", totals='n_files = 2\nfile = [{ url = "https://host/a.root" }]')
    with pytest.raises(
        CampaignError, match="'muons' should have 2 files, its list has 1, the first of them https://host"
    ):
        portal.load()


def test_same_file_in_two_datasets_is_named(portal: Portal) -> None:
    portal.add("muons", file_index(ENTRIES[:2]))
    portal.add("electrons", file_index(ENTRIES[1:]))
    with pytest.raises(
        CampaignError, match=r"twice: 209D94D9\.root in dataset 'electrons' and 209D94D9\.root in 'muons"
    ):
        datasets.expand(portal.load())


def test_same_index_in_two_datasets_is_named_when_the_campaign_is_read(portal: Portal) -> None:
    portal.add("muons", file_index(ENTRIES))
    portal.add("electrons", file_index(ENTRIES))
    with pytest.raises(CampaignError, match=r"twice: electrons_0_file_index\.json in dataset 'electrons' and muons_0_"):
        portal.load()


# --- hostile

BAD_ENTRIES: dict[str, tuple[dict[str, Any], str]] = {
    "negative size": ({"size": -1}, "file 2: size: expected a number of bytes above 0, got -1"),
    "no bytes": ({"size": 0}, "size: .*, got 0"),
    "true": ({"size": True}, "size: .*, got True"),
    "size in quotes": ({"size": "5"}, "size: .*, got '5'"),
    "fraction": ({"size": 1.5}, "size: .*, got 1.5"),
    "more than any disk": ({"size": 2**63}, "size: .*, got 9223372036854775808"),
    "no size": ({"size": None}, "size: .*, got None"),
    "md5": ({"checksum": "md5:0123456789abcdef0123456789abcdef"}, "checksum: expected 'adler32:'"),
    "long checksum": ({"checksum": "adler32:123456789"}, "checksum: expected"),
    "checksum of letters": ({"checksum": "adler32:xyz"}, "checksum: expected"),
    "no checksum": ({"checksum": None}, "checksum: .*, got None"),
    "file": ({"uri": "file:///etc/passwd"}, "uri: expected an address with http:, https: or root:.*, got 'file:///etc"),
    "path": ({"uri": "/etc/passwd"}, "uri: expected an address"),
    "toy": ({"uri": "toy:ZZTo4mu.root"}, "uri: expected an address"),
    "ftp": ({"uri": "ftp://opendata.cern.ch/a.root"}, "uri: expected an address"),
    "other folder": ({"uri": f"{XROOTD}../../secret.root"}, "uri: expected .* no '..' in its path"),
    "other folder, encoded": ({"uri": f"{XROOTD}%2e%2e/%2e%2e/secret.root"}, "uri: expected .* no '..' in its path"),
    "no host": ({"uri": "https:///a.root"}, "uri: expected an address"),
    "zero byte": ({"uri": f"{XROOTD}a%00.root"}, "uri: expected an address"),
    "two lines": ({"uri": f"{XROOTD}a\n.root"}, "uri: expected an address"),
    "number": ({"uri": 5}, "uri: .*, got 5"),
    "other host": (
        {"uri": "https://evil.example/a.root"},
        r"is on another server, evil\.example\nIf .*ALLOW_HOSTS=evil",
    ),
    "other name": (
        {"filename": "../../a.root"},
        "filename: expected the last part of its address, '209D94D9.root', got",
    ),
    "nested": ({"uri": [[[[1]]]]}, "uri: expected an address"),
}


@pytest.mark.parametrize(("change", "words"), BAD_ENTRIES.values(), ids=BAD_ENTRIES.keys())
def test_hostile_entry_is_named_by_its_number_and_key(portal: Portal, change: dict[str, Any], words: str) -> None:
    changed = ENTRIES[1] | change
    if "uri" in change:
        del changed["filename"]
    portal.add("muons", file_index([ENTRIES[0], changed, ENTRIES[2]]))
    with pytest.raises(CampaignError, match=words) as caught:
        datasets.expand(portal.load())
    assert "muons_0_file_index.json: file 2: " in caught.value.message
    assert str(caught.value).count("\n") == 1


def test_host_that_the_user_allows_is_read(portal: Portal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HIGGSNB_ALLOW_HOSTS", "store.example")
    portal.add("muons", file_index([entry("https://store.example/a.root", 1, "00000001")]))
    assert datasets.expand(portal.load()).files[0].url == "https://store.example/a.root"


def test_same_file_twice_in_an_index_is_named(portal: Portal) -> None:
    twin = ENTRIES[0] | {"uri": ENTRIES[0]["uri"].replace(XROOTD, HTTPS)}
    portal.add("muons", file_index([ENTRIES[0], twin]))
    with pytest.raises(CampaignError, match=r"listed twice: 05DD095C\.root in dataset 'muons' and 05DD"):
        datasets.expand(portal.load())


BAD_INDEXES = {
    b"{": "not JSON: Expecting property name",
    b"[]": r"expected a list of files, got \[\]",
    b'{"uri": "x"}': "expected a list of files, got {'uri'",
    b"[1]": "file 1: expected an object, got 1",
    b"[" * 100_000: "not JSON: brackets or digits without end",
    b"[" + b"9" * 5000 + b"]": "not JSON: brackets or digits without end",
    b"\xff\xfe[": "is not|not JSON|UTF",
    b"root\0\0\0": "is a ROOT file, not a file index",
}


@pytest.mark.parametrize(("content", "words"), BAD_INDEXES.items())
def test_file_that_is_no_index_is_named(portal: Portal, content: bytes, words: str) -> None:
    portal.add("muons", content)
    with pytest.raises(CampaignError, match=words) as caught:
        datasets.expand(portal.load())
    assert "muons_0_file_index.json: " in caught.value.message


@pytest.mark.parametrize("of_each", [b'{"uri":"https://h/1"}', b"{}", b"1"])
def test_index_of_a_million_files_is_refused_at_once(portal: Portal, of_each: bytes) -> None:
    content = b"[" + b",".join([of_each] * 1_000_000) + b"]"
    portal.add("muons", content)
    started = time.monotonic()
    with pytest.raises(CampaignError, match=r"lists 1,000,000 files, at most 100,000|is larger than 16 MB"):
        datasets.expand(portal.load())
    assert time.monotonic() - started < 10


def test_index_as_long_as_the_largest_campaign_is_expanded(portal: Portal) -> None:
    portal.add("aod", file_index(numbered(26_920)))
    started = time.monotonic()
    assert datasets.expand(portal.load()).n_files == 26_920
    assert time.monotonic() - started < 20


# --- the campaign file

MISTAKES = {
    "no checksum": (
        'index = [{ url = "https://h/i.json", bytes = 5 }]',
        r"'muons' index number 1: adler32 is missing \(expected the adler32 of a list on a server, as its record says",
    ),
    "no size": ('index = [{ url = "https://h/i.json", adler32 = "00000001" }]', "bytes is missing"),
    "files beside it": (
        'index = [{ url = "i.json" }]\nfile = [{ url = "a.root" }]',
        r"index: expected no such key beside `file`: .*; got \[\{",
    ),
    "events of an index": ('index = [{ url = "i.json", events = 5 }]', r"unknown key 'events'"),
    "no address": ("index = [{ bytes = 5 }]", "url is missing"),
    "text": ('index = "i.json"', r"index: expected tables \[\[index\]\] or a list"),
    "no files": ("n_files = 0\nindex = [{ url = 'i.json' }]", "n_files: expected a whole number of at least 1"),
}


@pytest.mark.parametrize(("lines", "words"), MISTAKES.values(), ids=MISTAKES.keys())
def test_mistake_in_the_campaign_is_named(tmp_path: Path, lines: str, words: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(HEAD + DATASET.format(name="muons", totals=lines), encoding="utf-8")
    with pytest.raises(CampaignError, match=words):
        datasets.load(path)
