"""G9: three in ten requests fail, and every file is read all the same, with the same result."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from bad_files import N_EVENTS, many
from fault_server import KINDS, PORTAL, STORE, ChaosServer
from outreach import campaign

from higgsnb import engine, events, results, selection
from higgsnb.datasets import Campaign, Dataset, File
from higgsnb.datasets.files import retries
from higgsnb.datasets.files.request import counted_tries
from higgsnb.events import root
from higgsnb.results import Result

N_FILES = 200
DEAD = "http://no-such-host.invalid"
OPEN = selection.load("open2012")


@pytest.fixture(scope="module")
def server() -> Iterator[ChaosServer]:
    with ChaosServer(seed=1) as server:
        yield server


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "BACKOFF", 0.01)
    monkeypatch.setattr(retries, "TIMEOUT", 0.6)


@pytest.fixture(scope="module")
def served(server: ChaosServer, tmp_path_factory: pytest.TempPathFactory) -> list[File]:
    """The files: a third behind signed addresses, a tenth with a first address whose host does not exist."""
    files = []
    for number, data in enumerate(many(tmp_path_factory.mktemp("served"), N_FILES)):
        path = f"{STORE if number % 3 == 0 else '/plain/'}{number}.root"
        url = server.add(path, data).replace(STORE, PORTAL)
        dead = (f"{DEAD}/{number}.root", (url,)) if number % 10 == 1 else (url, ())
        known = {"bytes": len(data), "adler32": f"{zlib.adler32(data):08x}"} if number % 2 else {}
        files.append(File(*dead, **known))
    return files


def analysed(one: Campaign, cache: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Result, dict[str, int]]:
    """The result with an empty cache, and how many tries its files took."""
    monkeypatch.setenv("HIGGSNB_CACHE", str(cache))
    root.forget()
    (*_, result) = engine.run(one, OPEN, workers=8)
    return result, result.run["tries"]


@pytest.mark.parametrize(("mode", "above"), [("fetched whole", "1000000000"), ("read piecewise", "0")])
def test_every_file_is_read_in_at_most_six_tries_with_the_same_result(
    server: ChaosServer, served: list[File], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    figure: Callable[..., None], mode: str, above: str,
) -> None:  # fmt: skip
    monkeypatch.setenv("HIGGSNB_STREAM_ABOVE", above)
    one = campaign(Dataset(name="zz", process="zz", files=tuple(served), cross_section_pb=1.0))
    server.forget(share=0.0)
    expected, _ = analysed(one, tmp_path / "good", monkeypatch)
    server.forget(share=0.3)
    found, tries = analysed(one, tmp_path / "faulty", monkeypatch)
    assert found.failed == ()
    assert found.complete
    assert found.coverage.events == (N_FILES * N_EVENTS, N_FILES * N_EVENTS)
    assert results.document(found) == results.document(expected)
    assert found.candidates.mass_4l.tobytes() == expected.candidates.mass_4l.tobytes()
    assert 0.25 < server.met.total() / server.n_requests < 0.35
    assert set(server.met) == set(KINDS)
    assert len(tries) > 50
    assert max(tries.values()) <= retries.TRIES
    assert set(tries) <= {file.url for file in served} | {place for file in served for place in file.alternatives}
    figure("G9", f"{mode}: files done", f"{found.coverage.files[0]} of {N_FILES}, result equal")
    figure("G9", f"{mode}: faults", f"{server.met.total()} of {server.n_requests} requests, {len(server.met)} kinds")
    figure("G9", f"{mode}: most tries of a transfer", f"{max(tries.values())} ({len(tries)} files took more than one)")


def test_unknown_host_is_left_at_once_for_the_next_place(
    server: ChaosServer, served: list[File], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HIGGSNB_CACHE", str(tmp_path))
    server.forget(share=0.0)
    (file,) = [file for file in served if urlsplit(file.url).hostname == urlsplit(DEAD).hostname][:1]
    with counted_tries() as tries:
        assert events.inspect(file, "outreach").entries == N_EVENTS
    assert tries == {}
