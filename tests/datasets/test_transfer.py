"""`RemoteFile`: parts of a remote file, from a real local web server that fails on request."""

from __future__ import annotations

import io
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import uproot
from generators import random_leptons
from http_server import Fault, FileServer
from outreach import write

from higgsnb import datasets
from higgsnb.datasets.files import retries
from higgsnb.datasets.files.request import counted_tries
from higgsnb.datasets.files.transfer import RemoteFile
from higgsnb.errors import TransferError
from higgsnb.events.fast.blocks import RemoteBlocks

DATA = random.Random(2).randbytes(50_000)


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "BACKOFF", 0.001)


@pytest.fixture
def remote(http_server: FileServer) -> RemoteFile:
    return RemoteFile(http_server.add("/a.root", DATA), len(DATA))


TRANSIENT = {
    "503": Fault(status=503),
    "429": Fault(status=429, headers={"Retry-After": "0"}),
    "reset": Fault(reset=True),
    "dropped": Fault(drop_after=100),
    "dropped at once": Fault(drop_after=0),
    "short 206": Fault(short=100),
    "another part": Fault(status=206, body=DATA[:500], headers={"Content-Range": "bytes 0-499/50000"}),
    "206 without a range": Fault(status=206, body=DATA[:500]),
    "whole file": Fault(status=200, body=DATA),
}


@pytest.mark.parametrize("fault", TRANSIENT.values(), ids=TRANSIENT.keys())
def test_transient_fault_of_a_part_is_survived(http_server: FileServer, remote: RemoteFile, fault: Fault) -> None:
    http_server.fail("/a.root", fault, fault)
    assert remote.pread(1000, 500) == DATA[1000:1500]
    assert http_server.ranges_asked() == 3 * ["bytes=1000-1499"]


def test_silent_server_is_retried(http_server: FileServer, remote: RemoteFile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "TIMEOUT", 0.2)
    http_server.fail("/a.root", Fault(stall=True))
    assert remote.pread(0, 10) == DATA[:10]


LASTING = {
    "503": (Fault(status=503, times=None), 6, "503 Service Unavailable, 6 tries"),
    "short": (Fault(short=100, times=None), 6, "sent 100 of 500 bytes, 6 tries"),
    "no ranges": (Fault(status=200, body=DATA, times=None), 6, "did not send the part from byte 1000"),
    "403": (Fault(status=403), 1, "403 Forbidden"),
    "compressed": (Fault(status=206, headers={"Content-Encoding": "gzip"}), 1, "sent compressed as gzip"),
    "elsewhere": (Fault(status=302, headers={"Location": "http://localhost/a.root"}), 1, "host localhost, refused"),
}


@pytest.mark.parametrize(("fault", "tries", "words"), LASTING.values(), ids=LASTING.keys())
def test_lasting_fault_of_a_part_is_named(
    http_server: FileServer, remote: RemoteFile, fault: Fault, tries: int, words: str
) -> None:
    http_server.fail("/a.root", fault)
    with pytest.raises(TransferError, match=words) as caught:
        remote.pread(1000, 500)
    assert len(http_server.seen) == tries
    assert str(caught.value).startswith("a.root: cannot be fetched; tried http://127")


def test_file_that_vanished_is_missing(http_server: FileServer, remote: RemoteFile) -> None:
    http_server.files.clear()
    with pytest.raises(FileNotFoundError, match=r"a\.root \(404 Not Found\)"):
        remote.pread(0, 10)


def test_threads_share_one_remote_file(http_server: FileServer, remote: RemoteFile) -> None:
    http_server.fail("/a.root", *(6 * [Fault(status=503)]))
    with ThreadPoolExecutor(4) as pool:
        parts = list(pool.map(lambda start: remote.pread(start, 1000), range(0, 50_000, 1000)))
    assert b"".join(parts) == DATA


def test_remote_file_behaves_as_the_bytes_in_memory_do(remote: RemoteFile) -> None:
    plain = io.BytesIO(DATA)
    assert (remote.readable(), remote.seekable(), remote.writable()) == (True, True, False)
    for offset, whence, size in [(0, 0, 7), (5, 1, 3), (-10, 2, 20), (0, 2, 5), (60_000, 0, 5), (49_000, 0, -1)]:
        assert remote.seek(offset, whence) == plain.seek(offset, whence)
        assert remote.read(size) == plain.read(size)
        assert remote.tell() == plain.tell()
    remote.seek(49_000)
    assert remote.readall() == DATA[49_000:]


def test_nothing_is_asked_for_beyond_the_end(http_server: FileServer, remote: RemoteFile) -> None:
    remote.seek(0, io.SEEK_END)
    assert remote.read(10) == b""
    assert remote.readinto(bytearray()) == 0
    assert http_server.seen == []


def test_buffered_remote_file_reads_the_whole_in_blocks(http_server: FileServer, remote: RemoteFile) -> None:
    with io.BufferedReader(remote, 8192) as buffered:
        assert [buffered.read(100) for _ in range(3)] == [DATA[:100], DATA[100:200], DATA[200:300]]
        assert len(http_server.seen) == 1
        assert buffered.read() == DATA[300:]


def test_uproot_reads_a_remote_file_through_faults(http_server: FileServer, tmp_path: Path) -> None:
    leptons = random_leptons(300, seed=4)
    content = write(tmp_path / "f.root", leptons).read_bytes()
    url = http_server.add("/f.root", content)
    http_server.fail("/f.root", Fault(status=503), Fault(drop_after=10), Fault(reset=True), Fault(short=5))
    with uproot.open(io.BufferedReader(RemoteFile(url, len(content)))) as file:
        assert file["Events"]["event"].array().tolist() == leptons.event.tolist()
        assert len(http_server.seen) > 5


def test_location_of_a_streamed_source_opens_as_a_remote_file(
    http_server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HIGGSNB_STREAM_ABOVE", "1000")
    http_server.add("/b.root", DATA)
    http_server.fail("/a.root", Fault(status=302, headers={"Location": "/b.root"}))
    source = datasets.locate(http_server.base + "/a.root")
    assert source.location == http_server.base + "/b.root"  # the redirect is followed once, not for every part
    assert RemoteFile(source.location, source.size or 0).pread(7, 5) == DATA[7:12]


def signed(number: int) -> Fault:
    """An answer that leads to a signed address of the file."""
    return Fault(status=302, headers={"Location": f"/store/{number}.root?sig=secret{number}"})


def test_expired_address_is_asked_for_again(http_server: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HIGGSNB_STREAM_ABOVE", "0")
    for number in (1, 2):
        http_server.add(f"/store/{number}.root", DATA)
        http_server.fail("/a.root", signed(number))
    source = datasets.locate(http_server.base + "/a.root")
    remote = RemoteFile(source.location, source.size or 0)
    assert remote.pread(5, 10) == DATA[5:15]
    http_server.fail("/store/1.root", Fault(status=403, times=None))
    with counted_tries() as tries:
        assert remote.pread(5, 10) == DATA[5:15]
    assert remote.location.partition("?")[0] == http_server.base + "/store/2.root"
    assert tries == {http_server.base + "/a.root": 2}


def test_whole_file_whose_address_expires_is_fetched(http_server: FileServer) -> None:
    http_server.add("/store/1.root", DATA)
    http_server.fail("/a.root", signed(1), signed(1))
    http_server.fail("/store/1.root", Fault(status=401))
    assert datasets.fetch(http_server.base + "/a.root").read_bytes() == DATA


def test_refusal_without_a_redirect_is_final(http_server: FileServer, remote: RemoteFile) -> None:
    http_server.fail("/a.root", Fault(status=403, times=None))
    with pytest.raises(TransferError, match="403 Forbidden"):
        remote.pread(0, 10)
    assert len(http_server.seen) == 1


def test_tries_are_counted_by_file_where_the_request_was_made(http_server: FileServer) -> None:
    with counted_tries() as tries:
        for name, faults in {"/none.root": 0, "/two.root": 2}.items():
            http_server.fail(name, *(faults * [Fault(status=503)]))
            datasets.fetch(http_server.add(name, DATA) + "?token=secret")
    assert tries == {f"{http_server.base}/two.root?token=***": 3}
    with counted_tries() as later:
        datasets.fetch(http_server.base + "/two.root")
    assert later == {}


def test_tries_of_concurrent_reads_are_not_mixed(http_server: FileServer, remote: RemoteFile) -> None:
    other = RemoteFile(http_server.add("/b.root", DATA), len(DATA))
    http_server.fail("/b.root", Fault(status=503))

    def read(file: RemoteFile) -> dict[str, int]:
        with counted_tries() as tries:
            assert file.pread(5, 10) == DATA[5:15]
        return tries

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(read, (remote, other))) == [{}, {other.location: 2}]


def test_tries_of_a_file_that_stays_open_belong_to_each_read(http_server: FileServer, remote: RemoteFile) -> None:
    blocks = RemoteBlocks(remote.location, remote.pread)
    for faults in (2, 0, 1):
        http_server.fail("/a.root", *(faults * [Fault(status=503)]))
        with counted_tries() as tries:
            assert bytes(blocks.fetch([(5, 10)])(5, 10)) == DATA[5:15]
        assert tries == ({remote.location: faults + 1} if faults else {})
    blocks.close()


def test_host_that_does_not_exist_is_left_at_once_for_the_next_place(http_server: FileServer) -> None:
    dead = "http://no-such-host.invalid/a.root"
    with counted_tries() as tries:
        assert datasets.fetch(dead, alternatives=[http_server.add("/a.root", DATA)]).read_bytes() == DATA
    assert tries == {}
    with pytest.raises(TransferError, match=r"host no-such-host\.invalid not known, 6 tries"):
        datasets.fetch(dead.replace("a.root", "b.root"))
