"""Which content a file has: what a server says of it, and the state of a file on this machine."""

from __future__ import annotations

import os
import random
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from http_server import Fault, FileServer, Seen
from raw_server import OK, RawServer, partial

from higgsnb import datasets
from higgsnb.datasets import RemoteFile, Version
from higgsnb.datasets.files import retries
from higgsnb.errors import TransferError

OLD = b"root" + random.Random(1).randbytes(50_000)
NEW = b"root" + random.Random(2).randbytes(50_000)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HIGGSNB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(retries, "BACKOFF", 0.001)


FULL = Version(10, "Mon", '"a"')
ANSWERS = {
    "the same": (FULL, FULL, ""),
    "other tag": (FULL, Version(10, "Mon", '"b"'), 'ETag "b" instead of "a"'),
    "other date": (FULL, Version(10, "Tue", '"a"'), "Last-Modified Tue instead of Mon"),
    "other size": (FULL, Version(11, "Mon", '"a"'), "size 11 instead of 10"),
    "weak, later strong": (Version(10, "", 'W/"a"'), Version(10, "", '"a"'), ""),
    "no size": (FULL, Version(None, "Mon", '"a"'), ""),
    "no date": (FULL, Version(10, "", '"a"'), ""),
    "only the date left": (FULL, Version(10, "Mon", ""), ""),
    "nothing left": (FULL, Version(10), "an answer without the ETag or Last-Modified of the earlier ones"),
    "tag, later date": (Version(10, "", '"a"'), Version(10, "Mon"), "an answer without the ETag"),
    "never anything": (Version(10), Version(10), ""),
    "another source": (FULL._replace(source="https://a/f"), Version(10, "Tue", '"b"', source="root://b/f"), ""),
    "another source, other size": (
        FULL._replace(source="https://a/f"),
        Version(11, source="root://b/f"),
        "size 11 instead of 10",
    ),
    "what a terminal obeys": (FULL, Version(10, "Mon", '"\x1b[2J"'), 'ETag "?[2J" instead of "a"'),
}


@pytest.mark.parametrize(("before", "now", "words"), ANSWERS.values(), ids=ANSWERS.keys())
def test_difference_of_two_answers_is_named(before: Version, now: Version, words: str) -> None:
    assert before.difference(now).startswith(words)
    assert bool(before.difference(now)) == bool(words)


class Replacing(FileServer):
    """A server that replaces ``/a.root`` when the ``at``-th request arrives; ``validators`` are its headers."""

    def __init__(self, at: int, validators: Callable[[bytes], dict[str, str]]) -> None:
        super().__init__()
        self.at, self.validators, self.etags = at, validators, False
        self.url = self.add("/a.root", OLD)

    def choose(self, seen: Seen, path: str) -> Fault | None:
        if len(self.seen) > self.at:
            self.files[path] = NEW
        return super().choose(seen, path) or Fault(headers=self.validators(self.files[path]))


VALIDATORS: dict[str, Callable[[bytes], dict[str, str]]] = {
    "ETag": lambda data: {"ETag": f'"{data[4]}"'},
    "weak ETag": lambda data: {"ETag": f'W/"{data[4]}"'},
    "Last-Modified": lambda data: {"Last-Modified": f"Mon, 01 Jan 2024 00:00:{data[4] % 60:02} GMT"},
    "ETag lost": lambda data: {"ETag": '"1"'} if data is OLD else {},
}


@pytest.mark.parametrize("validators", VALIDATORS.values(), ids=VALIDATORS.keys())
def test_parts_of_two_contents_are_never_mixed(
    monkeypatch: pytest.MonkeyPatch, validators: Callable[[bytes], dict[str, str]]
) -> None:
    monkeypatch.setenv("HIGGSNB_STREAM_ABOVE", "1000")
    for at in range(7):
        with Replacing(at, validators) as server:
            source = datasets.locate(server.url)
            remote = RemoteFile(source.location, source.size or 0, source.version)
            if at in (0, 6):
                found = b"".join(remote.pread(offset, 10_000) for offset in range(0, 50_000, 10_000))
                assert found == (NEW if at == 0 else OLD)[:50_000]
            else:
                with pytest.raises(TransferError, match="was replaced while it was read: ") as caught:
                    [remote.pread(offset, 10_000) for offset in range(0, 50_000, 10_000)]
                assert "un the same command again." in caught.value.hint
                assert len(server.seen) == at + 1  # it is not tried again


class TwoServers(FileServer):
    """Two servers of one name, which answer in turn, each with ETags of its own, as Apache makes them of inodes."""

    def choose(self, seen: Seen, path: str) -> Fault | None:
        tag = f'"{len(self.seen) % 2}-inode"'
        return super().choose(seen, path) or Fault(headers={"ETag": tag, "Last-Modified": "Mon"})


def test_several_servers_of_one_name_are_an_error_with_a_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HIGGSNB_STREAM_ABOVE", "1000")
    with TwoServers() as server:
        server.etags = False
        url = server.add("/a.root", OLD)
        source = datasets.locate(url)
        with pytest.raises(TransferError, match="was replaced while it was read: ETag ") as caught:
            RemoteFile(source.location, source.size or 0, source.version).pread(0, 10)
        assert "state bytes and adler32 of the file in the campaign, and set HIGGSNB_STREAM_ABOVE" in caught.value.hint
        monkeypatch.setenv("HIGGSNB_STREAM_ABOVE", str(len(OLD)))
        for _ in range(3):
            verified = datasets.locate(url, size=len(OLD), adler32=f"{zlib.adler32(OLD):08x}")
            assert (verified.verified, Path(verified.location).read_bytes()) == (True, OLD)


def test_total_that_changes_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HIGGSNB_STREAM_ABOVE", "1000")
    with RawServer() as server:
        url = server.url(
            "a.root",
            lambda first, last: [partial(OLD[first : (last or 0) + 1], first, len(OLD) if last == 0 else 10**6)],
        )
        source = datasets.locate(url)
        with pytest.raises(TransferError, match=f"size 1000000 instead of {len(OLD)}"):
            RemoteFile(source.location, source.size or 0).pread(0, 10)


def test_download_is_not_continued_with_another_content() -> None:
    """The server drops the first download half-way, then ignores If-Range and sends the rest of another file."""
    with RawServer() as server:
        asked: list[int] = []

        def answer(first: int, _: int | None) -> list[bytes]:
            asked.append(first)
            if len(asked) == 1:
                return [OK + b'ETag: "old"\r\nContent-Length: %d\r\n\r\n' % len(OLD) + OLD[:20_000]]
            if first:
                return [partial(NEW[first:], first, len(NEW), b'ETag: "new"')]
            return [OK + b'ETag: "new"\r\nContent-Length: %d\r\n\r\n' % len(NEW) + NEW]

        assert datasets.fetch(server.url("a.root", answer)).read_bytes() == NEW
        assert asked == [0, 20_000, 0]


@pytest.mark.parametrize("form", ["path", "file:", "~"])
def test_golden_json_that_was_changed_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    path = tmp_path / "golden.json"
    path.write_text('{"1": [[1, 2]]}')
    location = {"path": str(path), "file:": path.as_uri(), "~": "~/golden.json"}[form]
    before, state = datasets.kept_mask(location).digest, path.stat()
    path.write_text('{"1": [[1, 9]]}')
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert datasets.kept_mask(location).digest != before
