"""Where files are read from, with a real local web server that fails on request."""

from __future__ import annotations

import errno
import importlib
import logging
import os
import random
import re
import socket
import subprocess
import sys
import traceback
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from http_server import Fault, FileServer
from strangers import copy_for_all

import higgsnb
from higgsnb import datasets, storage, text
from higgsnb.datasets.files import addresses, cache, http, request, retries, sources, transfer
from higgsnb.datasets.files.addresses import Address
from higgsnb.datasets.toy import writer
from higgsnb.errors import ChecksumError, HiggsnbError, MissingFileError, OptionError, TransferError

DATA = b"root" + random.Random(1).randbytes(200_000)
SUM = f"{zlib.adler32(DATA):08x}"
CANARY = "c4n4ry"


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("HIGGSNB_CACHE", str(folder))
    monkeypatch.setattr(retries, "BACKOFF", 0.001)
    return folder


def assert_one_line_and_hint(error: BaseException) -> None:
    """The message is one line that names the sources tried; the hint is a sentence of its own."""
    assert isinstance(error, HiggsnbError)
    assert "; tried " in error.message
    assert re.fullmatch(r"[^\n]+", error.message)
    assert re.fullmatch(r"[A-Z][^\n]+[.)]", error.hint)


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file() and path.suffix != ".sqlite")


# --- local files


def test_local_file_is_used_in_place(tmp_path: Path) -> None:
    path = tmp_path / "a.root"
    path.write_bytes(DATA)
    assert datasets.locate(str(path)) == sources.Source(str(path), "local", False, len(DATA))
    assert datasets.locate(path.as_uri(), size=len(DATA), adler32=SUM.upper()).verified
    assert datasets.fetch(str(path)) == path


@pytest.mark.parametrize(
    ("expected", "words"),
    [
        ({"size": 7}, f"{len(DATA)} bytes, expected 7"),
        ({"adler32": "00000001"}, f"adler32 {SUM}, expected 00000001"),
    ],
)
def test_local_file_of_other_size_or_checksum_is_refused(
    tmp_path: Path, expected: dict[str, object], words: str
) -> None:
    path = tmp_path / "a.root"
    path.write_bytes(DATA)
    with pytest.raises(ChecksumError, match=words) as caught:
        datasets.locate(str(path), **expected)  # type: ignore[arg-type]
    assert_one_line_and_hint(caught.value)


@pytest.mark.parametrize(("settled", "times"), [(0.0, 1), (1e9, 3)])
def test_local_checksum_is_remembered_once_the_last_change_is_long_ago(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settled: float, times: int
) -> None:
    monkeypatch.setattr(cache, "SETTLED", settled)
    computed = []
    monkeypatch.setattr(cache, "adler32_of", lambda path: computed.append(path) or SUM)
    path = tmp_path / "a.root"
    path.write_bytes(DATA)
    assert {datasets.locate(str(path), adler32=SUM).verified for _ in range(3)} == {True}
    assert len(computed) == times


def test_local_checksum_is_computed_anew_although_the_time_was_set_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "SETTLED", 0.0)
    path = tmp_path / "a.root"
    path.write_bytes(DATA)
    assert datasets.locate(str(path), adler32=SUM).verified
    state = path.stat()
    path.write_bytes(DATA[:-1] + b"?")
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    with pytest.raises(ChecksumError, match=f"expected {SUM}"):
        datasets.locate(str(path), adler32=SUM)


def test_checksum_with_leading_zeros_is_eight_digits(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"a")
    assert cache.checksum(path) == "00620062"  # by hand: a = 1 + 97 = 0x62, b = 0x62


def test_a_read_only_cache_costs_only_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "plain").write_text("not a folder")
    monkeypatch.setenv("HIGGSNB_CACHE", str(tmp_path / "plain" / "cache"))
    path = tmp_path / "a.root"
    path.write_bytes(DATA)
    assert datasets.locate(str(path), adler32=SUM).verified


def test_missing_local_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=re.escape(str(tmp_path / "no.root"))):
        datasets.locate(str(tmp_path / "no.root"))


def test_a_folder_is_not_a_file(tmp_path: Path) -> None:
    with pytest.raises(TransferError, match="is a folder"):
        datasets.locate(str(tmp_path))


def special(folder: Path, kind: str) -> None:
    """Make something that is no regular file, called a.root."""
    if kind == "a pipe":
        os.mkfifo(folder / "a.root")
    elif kind == "a socket":
        with socket.socket(socket.AF_UNIX) as one:
            one.bind("a.root")  # a long path would not fit
    else:
        (folder / "a.root").symlink_to("/dev/zero")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pipes, sockets or devices with a path")
@pytest.mark.parametrize("kind", ["a pipe", "a socket", "a device"])
def test_what_would_be_read_for_ever_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.chdir(tmp_path)
    special(tmp_path, kind)
    with pytest.raises(TransferError, match=f"is {kind}, not a file.*\nGive the path of one regular file"):
        datasets.fetch(str(tmp_path / "a.root"))
    monkeypatch.setenv("HIGGSNB_MIRROR", str(tmp_path))
    with pytest.raises(TransferError, match=f"is {kind}, not a file"):
        datasets.locate("https://host.invalid/eos/a.root")


@pytest.mark.parametrize("url", ["ftp://host/a.root", "s3://bucket/a.root", "data:text/plain,a"])
def test_other_schemes_are_refused(url: str) -> None:
    with pytest.raises(TransferError, match="is not supported\nUse a path, file:, http:"):
        datasets.locate(url)


def test_unknown_toy_file_names_the_known_ones() -> None:
    with pytest.raises(FileNotFoundError, match="ZZTo4mu"):
        datasets.locate("toy:ZZTo4tau.root")


@pytest.mark.parametrize("cache", ["plain", "plain/cache", "/proc/nope/cache", "/dev/null/cache"])
def test_toy_without_a_usable_cache_says_how_to_move_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: str
) -> None:
    (tmp_path / "plain").write_text("not a folder")
    monkeypatch.setenv("HIGGSNB_CACHE", str(tmp_path / cache))
    with pytest.raises(
        TransferError, match=r"the cache .* cannot be written: .+\nSet HIGGSNB_CACHE to a folder"
    ) as caught:
        datasets.locate("toy:ZZTo4mu.root")
    assert "\n" not in caught.value.message
    assert "\n" not in caught.value.hint


def test_toy_on_a_full_disk_says_how_to_move_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HIGGSNB_CACHE", str(tmp_path))  # in which it has not been made

    def full(*_: object) -> Path:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(writer, "ensure", full)
    with pytest.raises(
        TransferError, match="cannot be written: No space left on device\nFree some space, or set HIGGSNB"
    ):
        datasets.locate("toy:ZZTo4mu.root")


def test_cache_of_a_user_who_does_not_exist_is_a_folder_like_any_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HIGGSNB_CACHE", "~nobody-of-that-name/cache")
    assert storage.cache_folder() == tmp_path / "~nobody-of-that-name" / "cache"


def test_file_in_a_shared_cache_is_used_and_a_damaged_one_replaced(
    http_server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = http_server.add("/a.root", DATA)
    monkeypatch.setenv("HIGGSNB_CACHE", str(tmp_path / "shared"))
    path = datasets.fetch(url, adler32=SUM)
    path.parent.chmod(0o755)
    monkeypatch.setenv("HIGGSNB_CACHE", str(tmp_path / "own"))
    monkeypatch.setenv("HIGGSNB_SHARED_CACHE", str(tmp_path / "shared"))
    assert datasets.fetch(url, adler32=SUM) == path
    path.write_bytes(DATA[:-1] + b"?")
    own = datasets.fetch(url, adler32=SUM)
    assert (own.read_bytes(), own.parent) == (DATA, tmp_path / "own" / "files")


def test_toy_in_a_shared_cache_is_used_and_a_damaged_one_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Path(datasets.locate("toy:ZZTo4mu.root").location)
    copy_for_all(made.parent, tmp_path / "shared" / "toy")
    monkeypatch.setenv("HIGGSNB_CACHE", str(tmp_path / "own"))
    monkeypatch.setenv("HIGGSNB_SHARED_CACHE", str(tmp_path / "shared"))
    shared = tmp_path / "shared" / "toy" / made.name
    assert datasets.locate("toy:ZZTo4mu.root").location == str(shared)
    assert not (tmp_path / "own").exists()
    shared.write_bytes(made.read_bytes()[:-1] + b"?")
    own = Path(datasets.locate("toy:ZZTo4mu.root").location)
    assert (own.read_bytes(), own.parent) == (made.read_bytes(), tmp_path / "own" / "toy")


# --- fetching


def test_fetched_file_has_a_hash_as_name_and_is_fetched_once(http_server: FileServer, own_cache: Path) -> None:
    url = http_server.add("/folder/Secret name.root", DATA)
    seen: list[tuple[int, int | None]] = []
    path = datasets.fetch(url, size=len(DATA), adler32=SUM, progress=lambda done, total: seen.append((done, total)))
    assert path.read_bytes() == DATA
    assert seen[-1] == (len(DATA), len(DATA))
    assert names_in(own_cache) == [path.name, f"{path.name}.json"]
    assert re.fullmatch(r"[0-9a-f]{64}\.root", path.name)
    source = datasets.locate(url, size=len(DATA), adler32=SUM)
    assert (source.location, source.origin, source.verified) == (str(path), "cache", True)
    assert len(http_server.seen) == 1
    assert not datasets.locate(url).verified
    assert http_server.ranges_asked() == [None, "bytes=0-0"]


TRANSIENT = {
    "503": Fault(status=503),
    "429 with Retry-After": Fault(status=429, headers={"Retry-After": "0"}),
    "429 with a date": Fault(status=429, headers={"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}),
    "429 with nonsense": Fault(status=429, headers={"Retry-After": "soon"}),
    "500": Fault(status=500),
    "reset": Fault(reset=True),
    "dropped body": Fault(drop_after=100_000),
    "dropped at once": Fault(drop_after=0),
    "flipped byte": Fault(flip=150_000),
}


@pytest.mark.parametrize("fault", TRANSIENT.values(), ids=TRANSIENT.keys())
def test_transient_fault_is_survived(http_server: FileServer, fault: Fault) -> None:
    url = http_server.add("/a.root", DATA)
    http_server.fail("/a.root", fault)
    assert datasets.fetch(url, size=len(DATA), adler32=SUM).read_bytes() == DATA
    assert len(http_server.seen) == 2


def test_silent_server_is_retried(http_server: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "TIMEOUT", 0.2)
    url = http_server.add("/a.root", DATA)
    http_server.fail("/a.root", Fault(stall=True))
    assert datasets.fetch(url).read_bytes() == DATA


def test_silent_server_is_given_up_before_its_tries_are_used(
    http_server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retries, "TIMEOUT", 0.05)
    monkeypatch.setattr(retries, "TRIES_TIMEOUT", 0.08)
    http_server.fail("/a.root", Fault(stall=True, times=None))
    with pytest.raises(TransferError, match=r"no byte for 0.05 s, [1-5] tries"):
        datasets.fetch(http_server.add("/a.root", DATA))


def test_good_progress_starts_the_count_again(http_server: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "GOOD_PROGRESS", 10_000)
    url = http_server.add("/a.root", DATA)
    http_server.fail("/a.root", Fault(drop_after=10_000, times=12))
    assert datasets.fetch(url).read_bytes() == DATA
    assert len(http_server.seen) == 13


def test_tries_are_limited_and_the_reason_is_named(http_server: FileServer) -> None:
    url = http_server.add("/a.root", DATA)
    http_server.fail("/a.root", Fault(status=503, times=None))
    with pytest.raises(TransferError, match=r"503 Service Unavailable, 6 tries\)\nThe server is busy") as caught:
        datasets.fetch(url)
    assert len(http_server.seen) == 6
    assert_one_line_and_hint(caught.value)


def test_host_that_is_not_ascii_is_looked_up() -> None:
    with pytest.raises(TransferError, match="host b\u00fccher\\.invalid not known"):
        datasets.fetch("http://b\u00fccher.invalid:80/a.root")
    with pytest.raises(TransferError, match="host ho\u20acst\\.invalid not known"):
        datasets.fetch("http://ho\u20acst.invalid/a.root")


def test_long_retry_after_is_cut_short(http_server: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "RETRY_AFTER_MAX", 0.01)
    url = http_server.add("/a.root", DATA)
    http_server.fail("/a.root", Fault(status=429, headers={"Retry-After": "86400"}))
    assert datasets.fetch(url).read_bytes() == DATA


def test_backoff_doubles_up_to_its_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    delays: list[float] = []
    monkeypatch.setattr(retries, "BACKOFF", 1.0)
    monkeypatch.setattr(retries, "TRIES", 12)
    monkeypatch.setattr(retries.time, "sleep", delays.append)
    source = Address.of("https://host/a.root")
    tries = retries.Retries(source, request.FileRequest.of(source.text))
    for _ in range(11):
        tries.failed(request.SourceError("transient", "busy"))
    assert all(bound / 2 <= delay <= bound for delay, bound in zip(delays, [1, 2, 4, 8, 16] + 6 * [30], strict=True))


def test_two_hundred_files_with_a_third_of_the_requests_faulty_all_arrive(http_server: FileServer) -> None:
    draw = random.Random(5)
    faults = [fault for name, fault in TRANSIENT.items() if name != "flipped byte"]
    bodies = {f"/{number}.root": b"root" + draw.randbytes(3000) for number in range(200)}
    urls = {path: http_server.add(path, body) for path, body in bodies.items()}
    for path in bodies:
        while draw.random() < 0.3 and len(http_server.faults[path]) < 5:
            fault = draw.choice(faults)
            http_server.fail(path, Fault(**{**vars(fault), "drop_after": fault.drop_after and 1000}))
    with ThreadPoolExecutor(4) as pool:
        found = dict(zip(urls, pool.map(datasets.fetch, urls.values()), strict=True))
    assert all(found[path].read_bytes() == body for path, body in bodies.items())
    assert max(sum(seen.path == path for seen in http_server.seen) for path in urls) <= 6
    assert len(http_server.seen) > 250


# --- resuming


def test_dropped_body_is_resumed_where_it_stopped(http_server: FileServer) -> None:
    url = http_server.add("/a.root", DATA)
    http_server.fail("/a.root", Fault(drop_after=100_000), Fault(drop_after=50_000))
    assert datasets.fetch(url).read_bytes() == DATA
    assert http_server.ranges_asked() == [None, "bytes=100000-", "bytes=150000-"]
    assert http_server.seen[1].headers["if-range"] == http_server_tag(http_server)


def http_server_tag(server: FileServer) -> str:
    return f'"{hash(server.files["/a.root"]):x}"'


def test_short_partial_answer_is_continued(http_server: FileServer) -> None:
    url = http_server.add("/a.root", DATA)
    http_server.fail("/a.root", Fault(drop_after=1000), Fault(short=5000))
    assert datasets.fetch(url).read_bytes() == DATA
    assert http_server.ranges_asked() == [None, "bytes=1000-", "bytes=6000-"]


def test_server_without_ranges_is_read_from_the_start_again(http_server: FileServer) -> None:
    http_server.ranges = False
    url = http_server.add("/a.root", DATA)
    http_server.fail("/a.root", Fault(drop_after=100_000))
    assert datasets.fetch(url, adler32=SUM).read_bytes() == DATA
    assert http_server.ranges_asked() == [None, "bytes=100000-"]


def test_nothing_is_resumed_that_neither_checksum_nor_server_vouches_for(http_server: FileServer) -> None:
    http_server.etags = False
    url = http_server.add("/a.root", DATA)
    http_server.fail("/a.root", Fault(drop_after=100_000))
    assert datasets.fetch(url).read_bytes() == DATA
    assert http_server.ranges_asked() == [None, None]


def interrupt(server: FileServer, url: str, **expected: object) -> None:
    """Leave a part of 1000 bytes behind, as a broken connection would."""
    server.fail("/a.root", Fault(drop_after=1000), Fault(status=503, times=5))
    with pytest.raises(TransferError):
        datasets.fetch(url, **expected)  # type: ignore[arg-type]
    server.seen.clear()


def test_next_call_resumes_what_the_last_one_left(http_server: FileServer, own_cache: Path) -> None:
    url = http_server.add("/a.root", DATA)
    interrupt(http_server, url)
    assert [name.partition(".")[2] for name in names_in(own_cache)] == ["root.part", "root.part.json"]
    path = datasets.fetch(url)
    assert path.read_bytes() == DATA
    assert http_server.ranges_asked() == ["bytes=1000-"]
    assert names_in(own_cache) == [path.name, f"{path.name}.json"]


def test_complete_part_needs_no_request(http_server: FileServer, own_cache: Path) -> None:
    url = http_server.add("/a.root", DATA)
    interrupt(http_server, url, size=len(DATA), adler32=SUM)
    next(own_cache.rglob("*.part")).write_bytes(DATA)
    assert datasets.fetch(url, size=len(DATA), adler32=SUM).read_bytes() == DATA
    assert http_server.seen == []


def test_file_that_changed_meanwhile_is_never_mixed(http_server: FileServer) -> None:
    url = http_server.add("/a.root", DATA)
    interrupt(http_server, url)
    newer = b"root" + bytes(200_000)
    http_server.add("/a.root", newer)
    assert datasets.fetch(url).read_bytes() == newer


def test_wrong_bytes_left_behind_are_thrown_away(http_server: FileServer, own_cache: Path) -> None:
    url = http_server.add("/a.root", DATA)
    interrupt(http_server, url, adler32=SUM)
    next(own_cache.rglob("*.part")).write_bytes(b"x" * 1500)
    assert datasets.fetch(url, adler32=SUM).read_bytes() == DATA


# --- answers that are no file


BAD = {
    "404": (Fault(status=404), MissingFileError, "404 Not Found"),
    "410": (Fault(status=410), MissingFileError, "410 Gone"),
    "403": (Fault(status=403), TransferError, "403 Forbidden"),
    "401": (Fault(status=401), TransferError, "401 Unauthorized"),
    "teapot": (Fault(status=418), TransferError, "418"),
    "page by its bytes": (
        Fault(status=200, body=b"\n<!DOCTYPE html><html>"),
        TransferError,
        "HTML page .* of .root",
    ),
    "page by its type": (
        Fault(status=200, body=b"Please log in", headers={"Content-Type": "text/html; charset=utf-8"}),
        TransferError,
        "HTML page",
    ),
    "empty": (Fault(status=200), TransferError, "an empty file"),
    "gzip": (
        Fault(status=200, body=b"x", headers={"Content-Encoding": "gzip"}),
        TransferError,
        "compressed as gzip",
    ),
}


@pytest.mark.parametrize(("fault", "kind", "words"), BAD.values(), ids=BAD.keys())
def test_bad_answer_is_named_without_another_try(
    http_server: FileServer, own_cache: Path, fault: Fault, kind: type[OSError], words: str
) -> None:
    http_server.fail("/a.root", fault)
    url = http_server.base + "/a.root"
    with pytest.raises(kind, match=words) as caught:
        datasets.fetch(url)
    assert type(caught.value) is kind
    assert url in str(caught.value)
    assert_one_line_and_hint(caught.value)
    assert len(http_server.seen) == 1
    assert names_in(own_cache) == []


def test_root_file_announced_as_html_is_taken_for_what_it_is(http_server: FileServer) -> None:
    http_server.content_type = "text/html"
    assert datasets.fetch(http_server.add("/a.root", DATA)).read_bytes() == DATA


def test_wrong_checksum_is_refused_after_a_second_look(http_server: FileServer, own_cache: Path) -> None:
    url = http_server.add("/a.root", DATA)
    with pytest.raises(ChecksumError, match=f"adler32 {SUM}, expected 00000001") as caught:
        datasets.fetch(url, adler32="00000001")
    assert_one_line_and_hint(caught.value)
    assert len(http_server.seen) == 2
    assert names_in(own_cache) == []


def test_truncated_file_is_refused_before_it_is_transferred(http_server: FileServer) -> None:
    url = http_server.add("/a.root", DATA)
    with pytest.raises(ChecksumError, match=f"offers {len(DATA)} bytes, expected {len(DATA) + 1}"):
        datasets.fetch(url, size=len(DATA) + 1)
    assert len(http_server.seen) == 1


def test_damaged_copy_in_the_cache_is_replaced(http_server: FileServer, caplog: pytest.LogCaptureFixture) -> None:
    url = http_server.add("/a.root", DATA)
    path = datasets.fetch(url, adler32=SUM)
    path.write_bytes(DATA[:-1] + b"?")
    assert datasets.fetch(url, adler32=SUM).read_bytes() == DATA
    assert "damaged or outdated" in caplog.text


def test_unwritable_cache_says_how_to_move_it(
    http_server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "plain").write_text("not a folder")
    monkeypatch.setenv("HIGGSNB_CACHE", str(tmp_path / "plain" / "cache"))
    with pytest.raises(TransferError, match="cannot be written: Not a directory\nSet HIGGSNB_CACHE"):
        datasets.fetch(http_server.add("/a.root", DATA))


@pytest.mark.parametrize("url", ["https:///a.root", "http://[::1/a.root", "http://host:x/a.root", "root:a.root"])
def test_address_without_a_host_is_refused(url: str) -> None:
    with pytest.raises(TransferError, match="not a valid address\nUse https://host/path"):
        datasets.fetch(url)


def test_dead_host_is_named(http_server: FileServer) -> None:
    url = http_server.add("/a.root", DATA)
    http_server.close()
    with pytest.raises(TransferError, match="Connection refused, 6 tries"):
        datasets.fetch(url)


# --- redirects


def redirect(server: FileServer, target: str) -> str:
    server.fail("/r.root", Fault(status=302, headers={"Location": target}, times=None))
    return server.base + "/r.root"


def foreign(server: FileServer) -> str:
    """The same server under another host's name."""
    return server.add("/a.root", DATA).replace("127.0.0.1", "localhost")


def test_redirect_within_the_host_is_followed(http_server: FileServer) -> None:
    http_server.add("/a.root", DATA)
    assert datasets.fetch(redirect(http_server, "/a.root")).read_bytes() == DATA


def test_redirect_to_a_foreign_host_is_refused_before_it_is_asked(http_server: FileServer) -> None:
    url = redirect(http_server, foreign(http_server))
    with pytest.raises(
        TransferError, match=r"redirected to host localhost, refused.*\n.*HIGGSNB_ALLOW_HOSTS=localhost"
    ):
        datasets.fetch(url)
    assert [seen.path for seen in http_server.seen] == ["/r.root"]


def test_redirect_is_checked_at_every_step(http_server: FileServer) -> None:
    http_server.fail("/s.root", Fault(status=307, headers={"Location": foreign(http_server)}, times=None))
    with pytest.raises(TransferError, match="localhost, refused"):
        datasets.fetch(redirect(http_server, "/s.root"))
    with pytest.raises(TransferError, match="localhost, refused"):
        datasets.locate(redirect(http_server, "/s.root"))


def test_redirect_to_a_host_on_the_users_list_is_followed(
    http_server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HIGGSNB_ALLOW_HOSTS", "example.org, LOCALHOST")
    assert datasets.fetch(redirect(http_server, foreign(http_server))).read_bytes() == DATA


def test_redirect_to_the_host_of_an_alternative_is_followed(http_server: FileServer) -> None:
    url = redirect(http_server, foreign(http_server))
    assert datasets.fetch(url, alternatives=["root://localhost//a.root"]).read_bytes() == DATA


def test_redirect_loop_ends(http_server: FileServer) -> None:
    with pytest.raises(TransferError, match="more than 10 redirects"):
        datasets.fetch(redirect(http_server, "/r.root"))


@pytest.mark.parametrize("target", ["http://host/a", "ftp://host/a", "file:///etc/passwd"])
def test_redirect_from_https_to_less_is_refused(target: str) -> None:
    with pytest.raises(request.SourceError, match="refused"):
        http._redirected(Address.of("https://host/b"), target, frozenset({"host"}))


def test_password_follows_a_redirect_only_on_its_own_host() -> None:
    hosts = frozenset({"host", "other"})
    assert http._redirected(Address.of("https://me:pw@host/b"), "https://host/a", hosts).text == "https://me:pw@host/a"
    assert http._redirected(Address.of("https://me:pw@host/b"), "https://other/a", hosts).text == "https://other/a"
    assert http._redirected(Address.of("https://me:pw@host/b"), "https://host:81/a", hosts).text == "https://host:81/a"


def test_password_is_sent_as_a_header(http_server: FileServer) -> None:
    url = http_server.add("/a.root", DATA).replace("://", "://me:p%40ss@")
    datasets.fetch(url)
    assert http_server.seen[0].headers["authorization"] == "Basic bWU6cEBzcw=="  # base64 of me:p@ss


# --- alternatives


def test_fall_back_to_an_alternative_is_reported(http_server: FileServer, caplog: pytest.LogCaptureFixture) -> None:
    http_server.fail("/a.root", Fault(status=403))
    source = datasets.locate(
        http_server.base + "/a.root",
        alternatives=[http_server.add("/b.root", DATA)],
        size=len(DATA),
        adler32=SUM,
    )
    assert Path(source.location).read_bytes() == DATA
    assert "/b.root instead of" in source.note
    assert "403 Forbidden" in source.note
    assert source.note in caplog.text


def test_all_places_tried_are_named(http_server: FileServer) -> None:
    with pytest.raises(FileNotFoundError, match=r"a\.root \(404 Not Found\); .*b\.root \(404 Not Found\)"):
        datasets.fetch(http_server.base + "/a.root", alternatives=[http_server.base + "/b.root"])


def test_missing_xrootd_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "XRootD", None)
    for ask in (datasets.locate, datasets.fetch):
        with pytest.raises(TransferError, match=r"needs the Python package xrootd.*\nRun pip install xrootd"):
            ask("root://eospublic.cern.ch//eos/a.root")


def test_file_missing_everywhere_but_where_xrootd_was_needed_is_missing(
    http_server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "XRootD", None)
    with pytest.raises(FileNotFoundError, match=r"404 Not Found\); root://host//a.root \(needs the Python package"):
        datasets.fetch(http_server.base + "/a.root", alternatives=["root://host//a.root"])


STAND_IN = """
import time
from types import SimpleNamespace
from pathlib import Path
FOLDER = Path({folder!r})
OK = SimpleNamespace(ok=True)
MOST, PAUSE = 70000, 0.0
class File:
    def open(self, url, timeout=0):
        self.path = FOLDER / url.rsplit("/", 1)[-1]
        if self.path.exists():
            return OK, None
        return SimpleNamespace(ok=False, errno=3011, message="[ERROR] no such file: " + url), None
    def stat(self, timeout=0):
        assert timeout, "xrootd would wait for half an hour"
        state = self.path.stat()
        return OK, SimpleNamespace(size=state.st_size, modtime=int(state.st_mtime))
    def read(self, offset=0, size=0, timeout=0):
        assert timeout
        time.sleep(PAUSE)
        return OK, self.path.read_bytes()[offset:offset + min(size, MOST)]
    def close(self, timeout=0):
        assert timeout
        return OK, None
"""


@pytest.fixture
def xrootd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for the client of xrootd, which test machines need not have; returns its folder."""
    package = tmp_path / "packages" / "XRootD"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "client.py").write_text(STAND_IN.format(folder=str(tmp_path)))
    for name in [name for name in sys.modules if name.split(".")[0] == "XRootD"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(str(package.parent))
    yield tmp_path
    for name in [name for name in sys.modules if name.split(".")[0] == "XRootD"]:
        del sys.modules[name]


def test_xrootd_brings_the_file_when_https_does_not(xrootd: Path, http_server: FileServer) -> None:
    (xrootd / "a.root").write_bytes(DATA)
    source = datasets.locate(
        http_server.base + "/a.root", alternatives=["root://host//eos/a.root"], size=len(DATA), adler32=SUM
    )
    assert Path(source.location).read_bytes() == DATA
    assert "taken from root://host//eos/a.root" in source.note
    with pytest.raises(FileNotFoundError, match="no such file"):
        datasets.fetch("root://host//eos/b.root")


def test_xrootd_server_that_drips_is_named(xrootd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (xrootd / "a.root").write_bytes(DATA[:200])
    client = importlib.import_module("XRootD.client")
    monkeypatch.setattr(client, "MOST", 1)
    monkeypatch.setattr(client, "PAUSE", 0.02)
    monkeypatch.setattr(retries, "TIMEOUT", 0.1)
    with pytest.raises(TransferError, match=r"only \d bytes in 0.1 s, 6 tries"):
        datasets.fetch("root://host//eos/a.root")
    monkeypatch.setattr(client, "MOST", 100)
    assert datasets.fetch("root://host//eos/a.root").read_bytes() == DATA[:200]


def test_part_of_a_replaced_file_of_an_xrootd_server_is_refused(xrootd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HIGGSNB_STREAM_ABOVE", "1000")
    path = xrootd / "a.root"
    path.write_bytes(DATA)
    os.utime(path, (1, 1_400_000_000))
    source = datasets.locate("root://host//eos/a.root")
    remote = transfer.RemoteFile(source.location, len(DATA), source.version)
    assert remote.pread(5, 10) == DATA[5:15]
    path.write_bytes(DATA[::-1])
    with pytest.raises(TransferError, match=r"was replaced .*: Last-Modified \d+ instead of 1400000000"):
        remote.pread(5, 10)


def test_text_file_of_an_xrootd_server_has_a_largest_size(xrootd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text, "TABLE_BYTES", 1 * 2**20)
    (xrootd / "a.json").write_bytes(1_048_577 * b" ")
    with pytest.raises(TransferError, match=r"more than 1 MB for a \.json file"):
        datasets.fetch("root://host//eos/a.json")


# --- mirror


@pytest.mark.parametrize("place", ["eos/opendata/a.root", "a.root"])
def test_mirror_folder_stands_in_for_the_remote_host(
    http_server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    monkeypatch.setenv("HIGGSNB_MIRROR", str(tmp_path / "mirror"))
    path = tmp_path / "mirror" / place
    path.parent.mkdir(parents=True)
    path.write_bytes(DATA)
    source = datasets.locate(http_server.add("/eos/opendata/a.root", b"rootother"), size=len(DATA), adler32=SUM)
    assert (source.location, source.origin, source.verified) == (str(path), "mirror", True)
    assert datasets.locate("root://host//eos/opendata/a.root").location == str(path)
    assert http_server.seen == []


def test_mirror_without_the_file_names_both_places_and_asks_nobody_else(
    http_server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HIGGSNB_MIRROR", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"/eos/a\.root \(no such file\); .*/a\.root \(no such") as caught:
        datasets.locate(http_server.add("/eos/a.root", DATA))
    assert "unset HIGGSNB_MIRROR" in caught.value.hint
    assert http_server.seen == []


def test_checksums_hold_for_a_mirror(http_server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.root").write_bytes(DATA)
    monkeypatch.setenv("HIGGSNB_MIRROR", str(tmp_path))
    with pytest.raises(ChecksumError, match=f"adler32 {SUM}, expected 00000001"):
        datasets.locate(http_server.base + "/eos/a.root", adler32="00000001")


@pytest.mark.parametrize(
    ("mirror", "words"),
    [
        ("{folder}/none", "no such folder"),
        ("{folder}/plain", "no such folder"),
        ("~nobody-of-that-name", "no such folder"),
        ("ftp://host/m", "not a valid address"),
        ("toy:", "not a valid address"),
        ("https://", "not a valid address"),
        ("http://[::1", "not a valid address"),
        ("https://me:c4n4ry@/m", "not a valid address"),
    ],
)
def test_mirror_that_can_be_none_is_refused_with_its_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mirror: str, words: str
) -> None:
    (tmp_path / "plain").write_bytes(DATA)
    monkeypatch.setenv("HIGGSNB_MIRROR", mirror.format(folder=tmp_path))
    for ask in (datasets.locate, datasets.fetch):
        with pytest.raises(TransferError, match=rf"^HIGGSNB_MIRROR = .*: {words}\nSet it to a folder") as caught:
            ask("https://host.invalid/eos/a.root")
        assert CANARY not in str(caught.value)
    assert datasets.locate(str(tmp_path / "plain")).origin == "local"  # which needs no mirror


@pytest.mark.parametrize("path", ["/../../secret.root", "/%2e%2e/secret.root", "/x/..%2f..%2fsecret.root"])
def test_mirror_folder_cannot_be_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    (tmp_path / "secret.root").write_bytes(DATA)
    (tmp_path / "mirror" / "x").mkdir(parents=True)
    monkeypatch.setenv("HIGGSNB_MIRROR", str(tmp_path / "mirror"))
    with pytest.raises(TransferError, match="no path that a mirror could hold"):
        datasets.locate(f"http://host{path}")


def test_quoted_slash_does_not_make_a_mirrors_path_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HIGGSNB_MIRROR", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=re.escape(f"{tmp_path}/etc/passwd (no such")):
        datasets.locate("http://host/%2Fetc/passwd")


@pytest.mark.parametrize("place", ["/m/eos/a b.root", "/m/a b.root"])
def test_mirror_address_stands_in_for_the_remote_host(
    http_server: FileServer, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    http_server.add(place, DATA)
    monkeypatch.setenv("HIGGSNB_MIRROR", http_server.base + "/m/")
    source = datasets.locate("https://host.invalid/eos/a%20b.root", size=len(DATA), adler32=SUM)
    assert Path(source.location).read_bytes() == DATA
    assert source.verified
    assert source.note == ""


def test_unverified_file_of_a_mirror_is_not_taken_for_the_original(
    http_server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = http_server.add("/eos/a.root", DATA)
    http_server.add("/m/a.root", b"rootother")
    with monkeypatch.context() as patch:
        patch.setenv("HIGGSNB_MIRROR", http_server.base + "/m")
        assert datasets.fetch(url).read_bytes() == b"rootother"
    assert datasets.fetch(url).read_bytes() == DATA


# --- streaming


def test_large_file_is_streamed_after_one_byte(http_server: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HIGGSNB_STREAM_ABOVE", "1000")
    url = http_server.add("/a.root", DATA)
    http_server.fail("/a.root", Fault(status=503), Fault(reset=True))
    source = datasets.locate(url, size=len(DATA), adler32=SUM)
    assert source == sources.Source(url, "remote", False, len(DATA))
    assert http_server.ranges_asked() == 3 * ["bytes=0-0"]
    assert datasets.fetch(url, size=len(DATA), adler32=SUM).read_bytes() == DATA
    assert datasets.locate(url, size=len(DATA), adler32=SUM).origin == "cache"


def test_small_files_and_tables_are_fetched(http_server: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    assert datasets.locate(http_server.add("/a.root", DATA)).origin == "cache"  # size unknown: asked for, small
    monkeypatch.setenv("HIGGSNB_STREAM_ABOVE", "10")
    assert datasets.locate(http_server.add("/a.csv", DATA)).origin == "cache"
    assert datasets.locate(http_server.add("/b.root", DATA)).origin == "remote"


def test_large_file_on_a_server_without_ranges_is_fetched(
    http_server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HIGGSNB_STREAM_ABOVE", "1000")
    http_server.ranges = False
    assert datasets.locate(http_server.add("/a.root", DATA), size=len(DATA)).origin == "cache"


def test_large_file_of_another_size_is_refused(http_server: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HIGGSNB_STREAM_ABOVE", "1000")
    with pytest.raises(ChecksumError, match=f"offers {len(DATA)} bytes, expected 5000"):
        datasets.locate(http_server.add("/a.root", DATA), size=5000)


def test_page_in_place_of_a_large_file_is_named(http_server: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HIGGSNB_STREAM_ABOVE", "1000")
    http_server.content_type = "text/html"
    with pytest.raises(TransferError, match="HTML page"):
        datasets.locate(http_server.add("/a.root", b"<html>" + DATA), size=len(DATA) + 6)


def test_large_file_is_streamed_from_the_mirror_and_the_miss_is_no_fall_back(
    http_server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HIGGSNB_STREAM_ABOVE", "1000")
    monkeypatch.setenv("HIGGSNB_MIRROR", http_server.base)
    url = http_server.add("/a.root", DATA)
    assert datasets.locate("https://host.invalid/eos/a.root") == sources.Source(url, "mirror", False, len(DATA))


@pytest.mark.parametrize("text", ["1 GB", "-1", "1e9", "1.5", "²", "٣", "nan", 5000 * "9"])
def test_threshold_that_is_no_number_is_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("HIGGSNB_STREAM_ABOVE", text)
    with pytest.raises(
        OptionError, match=rf"STREAM_ABOVE must be a whole number of bytes, got '{text[:30]}.*\nSet it to 1000"
    ):
        datasets.locate("https://host.invalid/a.root", size=5)


def test_empty_threshold_is_none(http_server: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HIGGSNB_STREAM_ABOVE", "")
    assert datasets.locate(http_server.add("/a.root", DATA), size=len(DATA)).origin == "cache"


def test_large_file_of_an_xrootd_server_is_streamed(xrootd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HIGGSNB_STREAM_ABOVE", "1000")
    (xrootd / "a.root").write_bytes(DATA)
    url = "root://host//eos/a.root"
    assert datasets.locate(url) == sources.Source(url, "remote", False, len(DATA))
    assert transfer.RemoteFile(url, len(DATA)).pread(150_000, 1000) == DATA[150_000:151_000]
    with pytest.raises(ChecksumError, match=f"offers {len(DATA)} bytes, expected 5000"):
        datasets.locate(url, size=5000)


def test_copy_from_an_xrootd_server_is_fetched_again_if_it_was_replaced(xrootd: Path) -> None:
    (xrootd / "a.root").write_bytes(DATA)
    url = "root://host//eos/a.root"
    states = []
    for content, time in ((DATA, 1), (DATA, 1), (DATA[::-1], 2)):
        (xrootd / "a.root").write_bytes(content)
        os.utime(xrootd / "a.root", (time, time))
        assert datasets.fetch(url).read_bytes() == content
        states.append(datasets.Version.of_file(datasets.fetch(url)))
    assert states[0] == states[1] != states[2]


# --- several at once


def test_threads_that_want_the_same_file_fetch_it_once(http_server: FileServer) -> None:
    url = http_server.add("/a.root", DATA)
    with ThreadPoolExecutor(8) as pool:
        paths = list(pool.map(lambda _: datasets.fetch(url, adler32=SUM), range(8)))
    assert {path.read_bytes() for path in paths} == {DATA}
    assert len(http_server.seen) == 1


def test_processes_that_want_the_same_file_fetch_it_once(http_server: FileServer, own_cache: Path) -> None:
    url = http_server.add("/a.root", DATA)
    http_server.fail("/a.root", Fault(drop_after=1000))
    code = (
        "from higgsnb.datasets import fetch; from higgsnb.datasets.files import retries; retries.BACKOFF = 0.01; "
        f"print(fetch({url!r}, adler32={SUM!r}))"
    )
    root = str(Path(higgsnb.__file__).resolve().parents[1])
    environment = {**os.environ, "PYTHONPATH": root}
    running = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment)
        for _ in range(3)
    ]
    said = {process.communicate()[0].strip() for process in running}
    assert len(said) == 1
    assert Path(said.pop()).read_bytes() == DATA
    assert len(http_server.seen) == 2
    assert len(names_in(own_cache)) == 2  # with what is noted of its version


def test_stuck_process_does_not_hold_up_others_for_ever(
    http_server: FileServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(cache, "CLAIM_TIMEOUT", 0.01)
    url = http_server.add("/a.root", DATA)
    final = cache.path_in_cache(request.FileRequest.of(url))
    final.parent.mkdir(parents=True)
    with cache.claim(final):
        assert datasets.fetch(url).read_bytes() == DATA
    assert "makes no progress" in caplog.text
    assert names_in(final.parent) == [final.name, f"{final.name}.json"]


def test_without_file_locks_every_download_has_a_name_of_its_own(
    http_server: FileServer, monkeypatch: pytest.MonkeyPatch, own_cache: Path
) -> None:
    monkeypatch.setattr(cache, "fcntl", None)
    monkeypatch.setattr(request, "KEEPS_OPEN_FILES", True)
    url = http_server.add("/a.root", DATA)
    http_server.fail("/a.root", Fault(drop_after=1000))
    with ThreadPoolExecutor(4) as pool:
        assert {path.read_bytes() for path in pool.map(datasets.fetch, 4 * [url])} == {DATA}
    assert len(names_in(own_cache)) == 2  # with what is noted of its version


# --- secrets


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("https://me:pw@host/a.root", "https://***@host/a.root"),
        (
            "root://tok@host//eos/a.root?authz=Bearer%20x&xrd.a=1",
            "root://***@host//eos/a.root?authz=***&xrd.a=1",
        ),
        ("https://h/a?X-Amz-Signature=ab&X-Amz-Date=1", "https://h/a?X-Amz-Signature=***&X-Amz-Date=***"),
        ("see https://h/a?download=1#access_token=ab.", "see https://h/a?download=1#access_token=***"),
        ("https://h/a?access%5Ftoken=ab", "https://h/a?access%5Ftoken=***"),
        ("https://h/a@b.root?n=" + 30 * "f", "https://h/a@b.root?n=***"),
        ("/folder/a=b@c.root", "/folder/a=b@c.root"),
    ],
)
def test_redact_hides_secrets_and_nothing_else(text: str, clean: str) -> None:
    assert addresses.redact(text) == clean


SECRET_FAULTS = [(fault, kind) for fault, kind, _ in BAD.values()] + [
    (Fault(status=503, times=None), TransferError),
    (Fault(reset=True, times=None), TransferError),
]


@pytest.mark.parametrize(("fault", "kind"), SECRET_FAULTS)
def test_secrets_never_appear_in_errors_logs_or_reprs(
    http_server: FileServer, caplog: pytest.LogCaptureFixture, fault: Fault, kind: type[OSError]
) -> None:
    caplog.set_level(logging.DEBUG)
    secrets = f"?authz={CANARY}&X-Amz-Signature={CANARY}&access_token={CANARY}"
    http_server.fail("/a.root", fault)
    bad = f"{http_server.base}/a.root{secrets}".replace("://", f"://{CANARY}:{CANARY}@")
    good = http_server.add("/b.root", DATA) + secrets
    with pytest.raises(kind) as caught:
        datasets.locate(bad, alternatives=[f"root://{CANARY}@host.invalid//c.root{secrets}"], size=len(DATA))
    http_server.faults.clear()
    http_server.fail("/a.root", fault)
    source = datasets.locate(bad, alternatives=[good], size=len(DATA))
    told = [
        *traceback.format_exception(caught.value),
        repr(caught.value),
        repr(source),
        str(source),
        caplog.text,
    ]
    assert CANARY not in "".join(told)
    assert "instead of" in source.note


def test_new_token_finds_the_same_file_in_the_cache(http_server: FileServer) -> None:
    url = http_server.add("/a.root", DATA)
    assert datasets.fetch(f"{url}?n=1&authz=one") == datasets.fetch(f"{url}?n=1&authz=two")
    assert datasets.fetch(f"{url}?n=2&authz=two") != datasets.fetch(f"{url}?n=1")
