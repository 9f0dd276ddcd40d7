"""Copies in the cache without a stated checksum: their servers are asked whether they have another content by now."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from http_server import Fault, FileServer
from outreach import campaign

from higgsnb import datasets
from higgsnb.datasets import Version, kept_mask, kept_table, luminosity
from higgsnb.datasets.files import copies
from higgsnb.datasets.files.cache import path_in_cache
from higgsnb.datasets.files.request import FileRequest, note_of
from higgsnb.errors import ChecksumError

OLD = b"root" + bytes(range(256)) * 40
NEW = b"root" + bytes(range(255, -1, -1)) * 40
LONGER = NEW + NEW
PRESENT = "bytes=0-0"  # what a request for the version asks for


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HIGGSNB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("higgsnb.datasets.files.retries.BACKOFF", 0.001)
    monkeypatch.setattr(copies, "_failed", {})
    monkeypatch.setattr(luminosity, "_copies", {})


@pytest.fixture
def second_server() -> Iterator[FileServer]:
    with FileServer() as server:
        yield server


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("new", [NEW, LONGER], ids=["same size", "longer"])
def test_copy_that_was_replaced_on_its_server_is_fetched_again(
    http_server: FileServer, new: bytes, ranges: bool
) -> None:
    http_server.ranges = ranges
    url = http_server.add("/a.root", OLD)
    assert datasets.fetch(url).read_bytes() == OLD
    http_server.add("/a.root", new)
    assert datasets.fetch(url).read_bytes() == new
    assert datasets.fetch(url).read_bytes() == new
    assert http_server.ranges_asked() == [None, PRESENT, None, PRESENT]


def test_last_modified_tells_a_copy_from_a_later_content(http_server: FileServer) -> None:
    http_server.etags = False
    url = http_server.add("/a.root", OLD)
    for content, date in ((OLD, "Mon"), (NEW, "Tue")):
        http_server.add("/a.root", content)
        http_server.faults["/a.root"] = [Fault(headers={"Last-Modified": date}, times=None)]
        assert Path(datasets.locate(url, size=len(OLD)).location).read_bytes() == content


def test_copy_with_a_stated_checksum_or_a_known_version_costs_no_request(http_server: FileServer) -> None:
    url = http_server.add("/a.root", OLD)
    adler32 = f"{zlib.adler32(OLD):08x}"
    known = datasets.locate(url, size=len(OLD), adler32=adler32).version
    http_server.add("/a.root", NEW)
    digest = datasets.content_digest(datasets.fetch(url, adler32=adler32))
    assert datasets.locate(url, known=known).version == known
    assert datasets.locate(url, known=Version(digest=digest)).version == known  # of another machine
    assert len(http_server.seen) == 1
    assert Path(datasets.locate(url, size=len(OLD), known=Version(digest="0" * 64)).location).read_bytes() == NEW


def test_copy_is_used_without_its_server_and_a_warning_names_the_server_once(
    second_server: FileServer, caplog: pytest.LogCaptureFixture
) -> None:
    urls = [second_server.add(f"/{name}.root", OLD) for name in "ab"]
    for url in urls:
        datasets.fetch(url)
    second_server.close()
    for url in urls:
        assert datasets.fetch(url).read_bytes() == OLD
    (warning,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    server = second_server.base.removeprefix("http://")
    assert warning.startswith(f"{server}: does not say whether its files were replaced (Connection refused): ")


def test_copy_of_a_file_that_was_removed_is_used_with_a_warning(
    http_server: FileServer, caplog: pytest.LogCaptureFixture
) -> None:
    url = http_server.add("/a.root", OLD)
    datasets.fetch(url)
    del http_server.files["/a.root"]
    assert datasets.fetch(url).read_bytes() == OLD
    assert "a.root: whether it was replaced on 127.0.0.1" in caplog.text
    assert "(404 Not Found): the copy in the cache is used" in caplog.text


def test_without_validators_only_the_size_is_compared(http_server: FileServer) -> None:
    http_server.etags = False
    url = http_server.add("/a.root", OLD)
    for served, found in ((OLD, OLD), (NEW, OLD), (LONGER, LONGER)):
        http_server.add("/a.root", served)
        assert datasets.fetch(url).read_bytes() == found


@pytest.mark.parametrize("note", ["absent", "writable by others", "of another source", "damaged"])
def test_copy_of_which_nothing_is_known_is_fetched_again(http_server: FileServer, note: str) -> None:
    url = http_server.add("/a.root", OLD)
    copy = datasets.fetch(url)
    noted = note_of(copy)
    if note == "absent":
        noted.unlink()
    elif note == "writable by others":
        noted.chmod(0o666)
    elif note == "damaged":
        noted.write_text("[]")
    else:
        noted.write_text(json.dumps({**json.loads(noted.read_text()), "place": "0" * 64}))
    copy.write_bytes(NEW)
    assert datasets.fetch(url).read_bytes() == OLD
    assert http_server.ranges_asked() == [None, PRESENT, None]


def test_other_size_than_the_campaign_states_is_an_error(http_server: FileServer) -> None:
    url = http_server.add("/a.root", OLD)
    datasets.fetch(url, size=len(OLD))
    http_server.add("/a.root", LONGER)
    with pytest.raises(ChecksumError, match=f"offers {len(LONGER)} bytes, expected {len(OLD)}"):
        datasets.fetch(url, size=len(OLD))


def test_source_that_gave_the_copy_is_asked(http_server: FileServer, second_server: FileServer) -> None:
    first, second = http_server.base + "/a.root", second_server.add("/a.root", OLD)
    assert datasets.fetch(first, alternatives=[second]).read_bytes() == OLD
    http_server.add("/a.root", OLD)  # with an ETag of its own, perhaps
    assert datasets.fetch(first, alternatives=[second]).read_bytes() == OLD
    assert (len(http_server.seen), second_server.ranges_asked()) == (1, [None, PRESENT])


def test_renewed_token_in_an_address_leaves_the_copy_as_it_is(http_server: FileServer) -> None:
    url = http_server.add("/a.root", OLD)
    for token in "ab":
        assert datasets.fetch(f"{url}?token={token}").read_bytes() == OLD
    assert http_server.ranges_asked() == [None, PRESENT]


GOLDEN = b'{"1": [[1, 9]]}', b'{"1": [[1, 8]]}'
TABLE = "#run:fill,ls,delivered(/pb),recorded(/pb)\n1:1,1:1,{0},{0}\n"


def test_golden_json_and_table_on_a_server_are_asked_for_once_in_each_run(http_server: FileServer) -> None:
    golden = http_server.add("/g.json", GOLDEN[0])
    table = http_server.add("/t.csv", TABLE.format("1.0").encode())
    one = replace(campaign(), golden_json=golden, luminosity_table=table)
    found = []
    for content, recorded in zip(GOLDEN, ("1.0", "2.0"), strict=True):
        http_server.add("/g.json", content)
        http_server.add("/t.csv", TABLE.format(recorded).encode())
        datasets.check_inputs(one)
        found.append((kept_mask(golden).digest, float(kept_table(table).recorded.sum() * 1000)))
        assert kept_mask(golden, found[-1][0]).digest == found[-1][0]
    assert found[0][0] != found[1][0]
    assert [recorded for _, recorded in found] == pytest.approx([1.0, 2.0])
    assert http_server.ranges_asked() == [None, None, PRESENT, None, PRESENT, None]


def test_worker_of_an_earlier_run_asks_for_the_golden_json_of_this_one(http_server: FileServer) -> None:
    golden = http_server.add("/g.json", GOLDEN[0])
    kept_mask(golden)
    http_server.add("/g.json", GOLDEN[1])
    assert kept_mask(golden, datasets.LumiMask.of(json.loads(GOLDEN[1])).digest)
    assert path_in_cache(FileRequest.of(golden)).read_bytes() == GOLDEN[1]
