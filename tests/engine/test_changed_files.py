"""Content that changes between runs or under a run: all old, all new or an error; no old numbers, no mixture."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import uproot
from generators import random_leptons
from http_server import Fault, FileServer, Seen
from outreach import campaign, dataset, with_other_runs, write

from higgsnb import engine, selection
from higgsnb.datasets import Campaign, checksum
from higgsnb.datasets.files import cache, retries
from higgsnb.engine import plan as plans
from higgsnb.errors import FileError, LumiMaskError, OptionError, UnreadableError
from higgsnb.events import read_leptons, read_preselected
from higgsnb.results import PreselectedEvents, Result, Tally, analyse
from higgsnb.selection import Selection

OPEN = selection.load("open2012")
EVENTS = 400
OTHER = 1000
"""Run numbers of the new content begin here, those of the old one end before."""


@pytest.fixture(scope="module")
def contents(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, bytes]:
    """Old and new content of a file: same size, UUID and everything but the run numbers."""
    leptons = random_leptons(EVENTS, seed=8)
    leptons = leptons._replace(run=leptons.run % 7 + 1)
    path = write(tmp_path_factory.mktemp("old") / "a.root", leptons, basket=50, compression=uproot.ZLIB(0))
    return path.read_bytes(), with_other_runs(path, OTHER)


@pytest.fixture
def old(tmp_path: Path, contents: tuple[bytes, bytes]) -> Path:
    path = tmp_path / "a.root"
    path.write_bytes(contents[0])
    return path


def last(one: Campaign, **options: Any) -> Result:
    *_, result = engine.run(one, OPEN, **{"chunk_events": 50, **options})
    return result


def one_file(url: Path | str) -> Campaign:
    return campaign(dataset("mu", "data", url, primary_dataset="DoubleMu"))  # type: ignore[arg-type]


def kinds(result: Result) -> set[str]:
    """Which content the candidates of a result are from."""
    return {"new" if run > OTHER else "old" for run in result.candidates.run}


def in_place(path: Path, content: bytes) -> None:
    with path.open("r+b") as file:
        file.write(content)


def in_place_with_the_old_time(path: Path, content: bytes) -> None:
    state = path.stat()
    in_place(path, content)
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))


def another_file_of_the_same_time(path: Path, content: bytes) -> None:
    other = path.with_name("other.root")
    other.write_bytes(content)
    shutil.copystat(path, other)
    other.replace(path)


EDITS = [in_place, in_place_with_the_old_time, another_file_of_the_same_time]


@pytest.mark.parametrize("edit", EDITS, ids=lambda edit: edit.__name__)
@pytest.mark.parametrize("with_skims", [False, True], ids=["no skims", "skims"])
def test_local_file_that_was_changed_is_counted_anew(
    old: Path,
    contents: tuple[bytes, bytes],
    tmp_path: Path,
    edit: Callable[[Path, bytes], None],
    with_skims: bool,
) -> None:
    options = {"ledger": tmp_path / "ledger.sqlite", "skims_folder": tmp_path / "skims" if with_skims else None}
    assert kinds(last(one_file(old), **options)) == {"old"}
    edit(old, contents[1])
    found = last(one_file(old), **options)
    assert (found.complete, kinds(found)) == (True, {"new"})


def test_file_that_was_only_touched_or_copied_is_not_counted_again(old: Path, tmp_path: Path) -> None:
    calls = []

    def counted(chunk: Any, *arguments: Any, **options: Any) -> Tally:
        calls.append(chunk)
        return analyse(chunk, *arguments, **options)

    def run() -> int:
        calls.clear()
        assert last(one_file(old), ledger=tmp_path / "ledger.sqlite", analyse=counted).complete
        return len(calls)

    assert run() == EVENTS // 50
    os.utime(old)
    assert run() == 0
    shutil.copy(old, tmp_path / "copy.root")
    (tmp_path / "copy.root").replace(old)
    assert run() == 0


@pytest.mark.parametrize("edit", EDITS, ids=lambda edit: edit.__name__)
def test_local_file_that_is_changed_under_the_run_is_an_error(
    old: Path, contents: tuple[bytes, bytes], edit: Callable[[Path, bytes], None]
) -> None:
    def editing(chunk: Any, chosen: Selection, **options: Any) -> Tally:
        if chunk.start == 200:
            edit(old, contents[1])
        return analyse(chunk, chosen, **options)

    found = last(one_file(old), analyse=editing, workers=1)
    assert (found.complete, kinds(found)) == (False, {"old"})
    assert found.tally.ranges == {(0, 0): ((0, 200),)}
    (failure,) = found.failed
    assert (failure.error, failure.message.endswith("is not the file that it was when the run began")) == (
        "UnreadableError",
        True,
    )


@pytest.mark.parametrize("stated", [False, True], ids=["not stated", "stated checksum"])
def test_local_file_that_is_changed_while_a_chunk_is_read_is_an_error(
    old: Path, contents: tuple[bytes, bytes], monkeypatch: pytest.MonkeyPatch, stated: bool
) -> None:
    from higgsnb.events import root

    one = one_file(old)
    if stated:
        one = stating_all(one, old)
    inspection = [*plans.inspect_files(one, OPEN, strict=True)][-1]
    plan = plans.make(one, OPEN, inspection, chunk_events=50, fraction=1.0, analyse=analyse, strict=True)
    real = root.KeptFiles.readers

    def edited_when_open(*arguments: Any) -> Any:
        readers = real(*arguments)
        in_place(old, contents[1])
        return readers

    monkeypatch.setattr(root.KeptFiles, "readers", edited_when_open)
    with pytest.raises(UnreadableError, match="was changed while it was read"):
        read_preselected(plan.chunks[0])


def test_checksum_is_computed_anew_for_every_kind_of_change(
    old: Path, contents: tuple[bytes, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "SETTLED", 0.0)
    for edit in EDITS:
        for content in contents[::-1]:
            before = cache.content_digest(old), checksum(old)
            assert before == (cache.content_digest(old), checksum(old))
            edit(old, content)
            after = cache.content_digest(old), checksum(old)
            assert before[0] != after[0]
            assert before[1] != after[1]


class Replacing(FileServer):
    """A server that replaces its files when a request arrives, the ``at``-th."""

    def __init__(self, new: bytes, at: int) -> None:
        super().__init__()
        self.new, self.at = new, at

    def choose(self, seen: Seen, path: str) -> Fault | None:
        with self._lock:
            if len(self.seen) > self.at:
                self.files[path] = self.new
        return super().choose(seen, path)


def outcome(server: Replacing, url: str, one: Campaign) -> tuple[str, int]:
    """Which content was counted ("old", "new", "" for none), and in how many requests; a mixture fails."""
    assert url == one.files[0].url
    try:
        found = last(one, workers=3, chunk_events=100)
    except FileError as error:  # nothing of it could be read
        found = Result(one, OPEN, failures={(0, 0): error.failed[0]})
    complete, counted, failed = found.complete, kinds(found), found.failed
    assert len(counted) < 2
    assert found.coverage.events == (EVENTS, EVENTS) or not complete
    assert len(failed) == (0 if complete else 1)
    for failure in failed:
        assert "replaced" in failure.message + failure.hint
        assert failure.hint
    return ("complete " if complete else "") + "".join(counted), len(server.seen)


def stating_all(one: Campaign, path: Path) -> Campaign:
    """The campaign with all that need be known of its file, so that a run does not open it beforehand."""
    file = replace(one.files[0], events=EVENTS, bytes=path.stat().st_size, adler32=checksum(path))
    return replace(one, datasets=(replace(one.datasets[0], files=(file,)),))


@pytest.mark.parametrize("stated", [False, True], ids=["opened before", "stated"])
def test_remote_file_replaced_between_two_runs_is_counted_anew(
    contents: tuple[bytes, bytes],
    old: Path,
    tmp_path: Path,
    http_server: FileServer,
    monkeypatch: pytest.MonkeyPatch,
    stated: bool,
) -> None:
    monkeypatch.setenv("HIGGSNB_STREAM_ABOVE", "1000")
    url = http_server.add("/a.root", contents[0])
    one = stating_all(one_file(url), old) if stated else one_file(url)
    options = {"ledger": tmp_path / "ledger.sqlite", "skims_folder": tmp_path / "skims"}
    assert kinds(last(one, **options, fraction=0.5)) == {"old"}
    http_server.add("/a.root", contents[1])
    found = last(one, **options)
    assert (found.complete, kinds(found)) == (True, {"new"})


def test_copy_in_the_cache_is_asked_for_once_in_a_run(
    contents: tuple[bytes, bytes], tmp_path: Path, http_server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HIGGSNB_CACHE", str(tmp_path / "cache"))
    one = one_file(http_server.add("/a.root", contents[0]))
    one = replace(one, datasets=(replace(one.datasets[0], files=(replace(one.files[0], bytes=len(contents[0])),)),))
    options = {"ledger": tmp_path / "ledger.sqlite", "skims_folder": tmp_path / "skims"}
    for content in ("old", "old", "new"):
        http_server.add("/a.root", contents[content == "new"])
        found = last(one, **options)
        assert (found.complete, kinds(found)) == (True, {content})
    assert http_server.ranges_asked() == [None, "bytes=0-0", "bytes=0-0", None]


def test_copy_in_the_cache_is_read_to_the_end_of_a_run_that_its_server_replaces(
    contents: tuple[bytes, bytes], tmp_path: Path, http_server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HIGGSNB_CACHE", str(tmp_path / "cache"))
    url = http_server.add("/a.root", contents[0])

    def replacing(chunk: Any, *arguments: Any, **options: Any) -> Tally:
        http_server.add("/a.root", contents[1])
        return analyse(chunk, *arguments, **options)

    found = last(one_file(url), analyse=replacing, workers=2)
    assert (found.complete, kinds(found)) == (True, {"old"})
    assert kinds(last(one_file(url))) == {"new"}


def test_streamed_file_without_validators_is_counted_anew_in_each_run(
    contents: tuple[bytes, bytes],
    tmp_path: Path,
    http_server: FileServer,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("HIGGSNB_STREAM_ABOVE", "1000")
    http_server.etags = False
    one = one_file(http_server.add("/a.root", contents[0]))
    options = {"ledger": tmp_path / "ledger.sqlite", "skims_folder": tmp_path / "skims"}
    assert kinds(last(one, **options, fraction=0.5)) == {"old"}
    http_server.add("/a.root", contents[1])
    found = last(one, **options)
    assert (found.complete, kinds(found), found.coverage.events) == (True, {"new"}, (EVENTS, EVENTS))
    assert "a.root may have been replaced, as the server gives neither ETag nor Last-Modified" in caplog.text


@pytest.mark.parametrize("stated", [False, True], ids=["opened before", "stated"])
def test_remote_file_replaced_at_any_request_is_never_mixed(
    contents: tuple[bytes, bytes], old: Path, monkeypatch: pytest.MonkeyPatch, stated: bool
) -> None:
    monkeypatch.setenv("HIGGSNB_STREAM_ABOVE", "1000")
    monkeypatch.setattr(retries, "BACKOFF", 0.001)
    found, at, n_requests = [], 0, 1
    while at <= n_requests:
        with Replacing(contents[1], at) as server:
            url = server.add("/a.root", contents[0])
            one = stating_all(one_file(url), old) if stated else one_file(url)
            result, n_requests = outcome(server, url, one)
        found.append(result)
        at += 1
    assert found[0] == "complete new"
    assert found[-1] == "complete old"
    assert len(found) > EVENTS // 100
    assert not {"complete old", "complete new"} & set(found[1:-1])


def test_events_that_are_read_again_are_those_that_were_counted(
    old: Path, contents: tuple[bytes, bytes], tmp_path: Path
) -> None:
    result = last(one_file(old), skims_folder=tmp_path / "skims", chunk_events=None)
    made = set(tmp_path.rglob("*.arrow"))
    assert PreselectedEvents.load(result, skims_folder=tmp_path / "skims").parts[0].n_events == EVENTS
    assert set(tmp_path.rglob("*.arrow")) == made  # the skims of the run are used
    in_place(old, contents[1])
    for folder in (tmp_path / "skims", None):
        with pytest.raises(UnreadableError, match="is not the file that it was when the run began"):
            PreselectedEvents.load(result, skims_folder=folder)


def test_events_are_not_read_again_with_another_golden_json(old: Path, tmp_path: Path) -> None:
    golden = tmp_path / "golden.json"
    golden.write_text('{"1": [[1, 1000000]], "2": [[1, 1000000]]}')
    result = last(replace(one_file(old), golden_json=str(golden)))
    assert PreselectedEvents.load(result).parts[0].n_events > 0
    other = tmp_path / "other.json"
    other.write_text('{"900000": [[1, 9]]}')
    other.replace(golden)
    with pytest.raises(LumiMaskError, match="is not the golden JSON that it was when the run began"):
        PreselectedEvents.load(result)
    with pytest.raises(OptionError, match="the golden JSON was changed between them"):
        result + replace(result, golden_json_digest="0" * 64)


def test_workers_that_see_another_file_than_the_plan_are_an_error(
    contents: tuple[bytes, bytes], tmp_path: Path, old: Path
) -> None:
    one = one_file(old)
    inspection = [*plans.inspect_files(one, OPEN, strict=True)][-1]
    plan = plans.make(one, OPEN, inspection, chunk_events=50, fraction=1.0, analyse=analyse, strict=True)
    elsewhere = tmp_path / "elsewhere.root"
    chunk = replace(plan.chunks[0], file=replace(plan.chunks[0].file, url=str(elsewhere)))
    elsewhere.write_bytes(contents[0])
    assert read_leptons(chunk).n_events == 50
    elsewhere.write_bytes(contents[1])
    with pytest.raises(UnreadableError, match="is not the file that it was when the run began"):
        read_leptons(chunk)
