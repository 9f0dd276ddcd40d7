"""Servers that drip, never end, or say what cannot be: each is named in bounded time, none is believed."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from itertools import chain, repeat
from pathlib import Path
from types import SimpleNamespace

import pytest
from raw_server import OK, RawServer, partial

from higgsnb import datasets, storage, text
from higgsnb.datasets.files import retries
from higgsnb.datasets.files.request import SourceError
from higgsnb.datasets.files.retries import Pace
from higgsnb.errors import TransferError

BODY = b"root" + bytes(96)
WHOLE = OK + b"Content-Length: 100\r\n\r\n" + BODY
PIECES = 60  # of 0.05 s each: ten times as long as a request may take


@pytest.fixture(autouse=True)
def short_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HIGGSNB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(retries, "BACKOFF", 0.001)
    monkeypatch.setattr(retries, "TRIES", 2)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "TIMEOUT", 0.3)


@pytest.fixture
def server() -> Iterator[RawServer]:
    with RawServer() as server:
        yield server


def drip(before: bytes, piece: bytes, after: bytes) -> tuple[bytes, ...]:
    """An answer that is good, only that it comes in small pieces with pauses: a patient client gets it in 3 s."""
    return (before, *(PIECES * (piece, b"")), after)


SLOW_HEAD = r"(no complete head of an answer in 0\.45|no byte for 0\.3) s"
SLOW_BODY = r"(only \d+ bytes in|no byte for) 0\.3 s"
"""No byte at all comes where this machine is so busy that the server does not get to run."""

SLOW: dict[str, tuple[tuple[bytes, ...], str]] = {
    "body": (drip(OK + b"Content-Length: 64\r\n\r\nroot", b"x", b""), SLOW_BODY),
    "body without length": (drip(OK + b"\r\nroot", b"x", b""), SLOW_BODY),
    "chunk size": (
        drip(OK + b"Transfer-Encoding: chunked\r\n\r\n4;a=", b"x", b"\r\nroot\r\n0\r\n\r\n"),
        SLOW_BODY,
    ),
    "chunks": (
        drip(OK + b"Transfer-Encoding: chunked\r\n\r\n4\r\nroot\r\n", b"1\r\nx\r\n", b"0\r\n\r\n"),
        SLOW_BODY,
    ),
    "status line": (drip(b"HTTP/1.1 200 ", b"O", b"\r\nContent-Length: 4\r\n\r\nroot"), SLOW_HEAD),
    "headers": (drip(OK + b"A: ", b"x", b"\r\nContent-Length: 4\r\n\r\nroot"), SLOW_HEAD),
    "100-continue": (drip(b"", b"HTTP/1.1 100 Continue\r\n\r\n", WHOLE), SLOW_HEAD),
}


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(("pieces", "words"), SLOW.values(), ids=SLOW.keys())
def test_server_that_drips_is_named(server: RawServer, pieces: tuple[bytes, ...], words: str) -> None:
    url = server.url("a.root", lambda *_: pieces)
    with pytest.raises(TransferError, match=rf"{words}.*, 2 tries") as caught:
        datasets.fetch(url)
    assert caught.value.hint == "Check the network, then run again."


@pytest.mark.usefixtures("impatient")
def test_redirect_to_a_server_that_drips_is_named(server: RawServer) -> None:
    server.url("b.root", lambda *_: SLOW["headers"][0])
    url = server.url("a.root", b"HTTP/1.1 302 Found\r\nLocation: /b.root\r\n\r\n")
    with pytest.raises(TransferError, match=rf"{SLOW_HEAD}, 2 tries"):
        datasets.fetch(url)


def test_connection_that_is_closed_at_once_is_not_called_slow(server: RawServer) -> None:
    with pytest.raises(TransferError, match=r"\(closed the connection without an answer, 2 tries\)"):
        datasets.fetch(server.url("a.root", b""))


@pytest.mark.usefixtures("impatient")
def test_proxy_that_drips_is_named(server: RawServer, monkeypatch: pytest.MonkeyPatch) -> None:
    pieces = drip(b"HTTP/1.1 200 Connection established\r\nA: ", b"x", b"\r\n\r\n")
    url = server.url("proxied.root", lambda *_: pieces)
    monkeypatch.setenv("https_proxy", url)
    with pytest.raises(TransferError, match=rf"{SLOW_HEAD}, 2 tries"):
        datasets.fetch("https://proxied.invalid/a.root")


@pytest.mark.usefixtures("impatient")
def test_flood_of_heads_is_named_although_no_byte_is_waited_for(server: RawServer) -> None:
    server.pause = 0.001
    url = server.url("a.root", lambda *_: chain(*repeat((1000 * b"HTTP/1.1 100 Continue\r\n\r\n", b""), 2000), [WHOLE]))
    with pytest.raises(TransferError, match=rf"{SLOW_HEAD}, 2 tries"):
        datasets.fetch(url)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(("slow", "words"), [("probe", SLOW_HEAD), ("part", SLOW_BODY)])
def test_large_file_whose_server_drips_is_named(
    server: RawServer, monkeypatch: pytest.MonkeyPatch, slow: str, words: str
) -> None:
    monkeypatch.setenv("HIGGSNB_STREAM_ABOVE", "10")

    def answer(first: int, last: int | None) -> Iterable[bytes]:
        good = partial(BODY[first : (last or 0) + 1], first, 100)
        status, _, rest = good.partition(b"\r\n")
        if slow == "probe":
            return drip(status + b"\r\nA: ", b"x", b"\r\n" + rest)
        return [good] if last == 0 else chain([good[:-PIECES]], *((bytes([one]), b"") for one in good[-PIECES:]))

    url = server.url("a.root", answer)
    with pytest.raises(TransferError, match=words):
        datasets.RemoteFile(datasets.locate(url).location, 100).pread(0, 100)


def test_slow_but_steady_body_is_awaited(server: RawServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "TIMEOUT", 2.0)
    monkeypatch.setattr(retries, "LEAST_RATE", 1.0)
    pieces = drip(OK + b"Content-Length: 64\r\n\r\nroot", b"x", b"")
    assert datasets.fetch(server.url("a.root", lambda *_: pieces)).read_bytes() == b"root" + 60 * b"x"


def test_least_rate_counts_bytes_over_seconds_of_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "TIMEOUT", 20.0)
    pace = Pace()
    pace.begin_body()
    for _ in range(3):  # 20,000 bytes in each 20 s are just enough
        pace.received(0, 19.0)
        assert pace.timeout() == pytest.approx(1.0)
        pace.received(20_000, 1.0)
    pace.received(10**9, 0.0)  # at once: no time was waited, so the window goes on
    pace.received(0, 20.0)
    pace.received(19_999, 19.0)
    with pytest.raises(SourceError, match="only 19999 bytes in 20 s"):
        pace.received(0, 1.0)


@pytest.mark.usefixtures("impatient")
def test_body_that_announces_no_length_has_an_end(server: RawServer) -> None:
    server.pause = 0.001
    block = 10 * (b"1000\r\n" + 4096 * b"x" + b"\r\n")
    pieces = (OK + b"Transfer-Encoding: chunked\r\n\r\n4\r\nroot\r\n", *(4000 * (block, b"")), b"0\r\n\r\n")
    url = server.url("a.root", lambda *_: pieces)
    with pytest.raises(TransferError, match=r"announced no length, and did not end in 1\.5 s\)") as caught:
        datasets.fetch(url)
    assert server.n_requests == 1
    assert "number of bytes" in caught.value.hint
    with pytest.raises(OSError, match="expected 5000"):  # with a known size it ends there
        datasets.fetch(url, size=5000)


@pytest.mark.parametrize("suffix", ["json", "csv", "txt", "toml"])
@pytest.mark.parametrize("announced", [True, False])
def test_text_file_has_a_largest_size(
    server: RawServer, monkeypatch: pytest.MonkeyPatch, suffix: str, announced: bool
) -> None:
    monkeypatch.setattr(text, "TABLE_BYTES", 2 * 2**20)
    head = OK + (b"Content-Length: 2097153\r\n\r\n" if announced else b"\r\n")
    url = server.url(f"a.{suffix}", head + 2_097_153 * b" ")
    with pytest.raises(TransferError, match=rf"more than 2 MB for a \.{suffix} file"):
        datasets.fetch(url)
    assert not [path for path in Path(storage.cache_folder()).rglob("*") if path.is_file()]
    assert datasets.fetch(server.url("b.json", OK + b"\r\n" + 2_097_152 * b" ")).stat().st_size == 2_097_152


LENGTHS = {
    "superscript": "\xb2".encode("latin-1"),
    "negative": b"-5",
    "5000 digits": 5000 * b"9",
    "words": b"many",
    "two": b"100\r\nContent-Length: 8",
}


@pytest.mark.parametrize("length", LENGTHS.values(), ids=LENGTHS.keys())
def test_length_that_is_no_number_is_named(server: RawServer, length: bytes) -> None:
    url = server.url("a.root", OK + b"Content-Length: " + length + b"\r\n\r\n" + BODY)
    with pytest.raises(TransferError, match="announced a length of '") as caught:
        datasets.fetch(url)
    assert "\n" not in caught.value.message
    assert len(caught.value.message) < 200


def test_file_larger_than_the_disk_is_refused_before_it_is_written(server: RawServer) -> None:
    url = server.url("a.root", OK + b"Content-Length: 999999999999999999\r\n\r\nroot")
    with pytest.raises(TransferError, match=r"announced 999,999,999,999,999,999 bytes, [\d,]+ are free") as caught:
        datasets.fetch(url)
    assert "free some space" in caught.value.hint
    assert server.n_requests == 1


def test_what_arrived_is_kept_when_the_rest_is_larger_than_the_disk(
    server: RawServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retries, "TRIES", 1)
    asked: list[int] = []

    def answer(first: int, _: int | None) -> list[bytes]:
        asked.append(first)
        return [partial(BODY[first:], first, 100)] if first else [OK + b"Content-Length: 100\r\n\r\n" + BODY[:60]]

    url, adler32 = server.url("a.root", answer), f"{zlib.adler32(BODY):08x}"
    with pytest.raises(TransferError, match="the body ended after 60 of 100 bytes"):
        datasets.fetch(url, adler32=adler32)
    with monkeypatch.context() as full:
        full.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=39))
        with pytest.raises(TransferError, match=r"announced 100 bytes, 39 are free in the cache"):
            datasets.fetch(url, adler32=adler32)
    assert datasets.fetch(url, adler32=adler32).read_bytes() == BODY
    assert asked == [0, 60, 60]


NO_HTTP = {
    "endless header": (OK + b"A: " + 70_000 * b"x" + b"\r\n\r\n", "sent more than 65,536 bytes as one line"),
    "200 headers": (OK + 200 * b"A: b\r\n" + b"\r\n", "sent more than 100 headers"),
    "endless chunk extension": (
        OK + b"Transfer-Encoding: chunked\r\n\r\n8;" + 70_000 * b"x" + b"\r\nroot1234\r\n",
        "sent more than 65,536 bytes as one line",
    ),
    "another protocol": (b"SSH-2.0-OpenSSH_9.6\r\n", "did not answer with HTTP"),
    "chunk cut off": (OK + b"Transfer-Encoding: chunked\r\n\r\n8\r\nroo", "closed the connection within a chunk"),
}


@pytest.mark.parametrize(("answer", "words"), NO_HTTP.values(), ids=NO_HTTP.keys())
def test_answer_that_is_no_http_is_described(
    server: RawServer, monkeypatch: pytest.MonkeyPatch, answer: bytes, words: str
) -> None:
    monkeypatch.setattr(retries, "TRIES", 1)
    with pytest.raises(TransferError, match=rf"\({words}[^()]*, 1 tries\)") as caught:
        datasets.fetch(server.url("a.root", answer))
    assert caught.value.hint == "The server does not answer as HTTP demands: try another address of the file."


def test_chunk_with_a_negative_length_is_named(server: RawServer) -> None:
    url = server.url("a.root", OK + b"Transfer-Encoding: chunked\r\n\r\n-8\r\nroot1234\r\n0\r\n\r\n")
    with pytest.raises(TransferError, match="sent a chunk with an impossible length"):
        datasets.fetch(url)


@pytest.mark.parametrize("total", ["*", 5000 * "9", "\xb2"])
def test_total_that_is_no_number_leads_to_a_download(
    server: RawServer, monkeypatch: pytest.MonkeyPatch, total: str
) -> None:
    monkeypatch.setenv("HIGGSNB_STREAM_ABOVE", "10")
    span = f"Content-Range: bytes 0-0/{total}\r\n\r\nr".encode("latin-1")
    url = server.url("a.root", lambda _, last: [WHOLE if last is None else b"HTTP/1.1 206 P\r\n" + span])
    source = datasets.locate(url)
    assert (source.origin, Path(source.location).read_bytes()) == ("cache", BODY)


def test_whole_file_that_is_answered_with_416_is_no_empty_file(server: RawServer) -> None:
    url = server.url("a.root", b"HTTP/1.1 416 R\r\nContent-Range: bytes */0\r\nContent-Length: 0\r\n\r\n")
    with pytest.raises(TransferError, match="416"):
        datasets.fetch(url)
