"""Wrong arguments and surroundings are said at once, and blamed on no file."""

from __future__ import annotations

import re
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import analyses
import pytest
from distributed import LocalCluster
from generators import random_leptons
from outreach import campaign, dataset, events_of, to_toml, write

from higgsnb import engine, errors, results, selection
from higgsnb.datasets import Campaign, Chunk, Dataset, File
from higgsnb.engine import executors, loop, plan
from higgsnb.results import Result

OPEN = selection.load("open2012")


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Campaign:
    folder = tmp_path_factory.mktemp("arguments")
    leptons = random_leptons(600, seed=31)
    paths = [write(folder / f"{i}.root", events_of(leptons, 300 * i, 300 * i + 300)) for i in range(2)]
    return campaign(dataset("mu", "data", *paths, primary_dataset="DoubleMu"))


def last(one: Any, selected: Any = OPEN, **options: Any) -> Result:
    (*_, result) = engine.run(one, selected, **options)
    return result


def test_names_and_paths_stand_for_what_they_name(one: Campaign, tmp_path: Path) -> None:
    path, cuts = to_toml(one, tmp_path / "c.toml"), tmp_path / "cuts.toml"
    cuts.write_text('base = "aod2012"\n')
    expected = results.document(last(one))["yields"]
    for given in (path, str(path)):
        assert results.document(last(given, "open2012"))["yields"] == expected
    found = last(path, cuts, ledger=str(tmp_path / "l.sqlite"), skims_folder=str(tmp_path / "skims"))
    assert found.yields == last(one, "aod2012").yields
    assert (tmp_path / "l.sqlite").is_file()
    with pytest.raises(errors.CampaignError, match="tooy"):
        last("tooy")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("workers", "2"), ("workers", 2.5), ("workers", True), ("chunk_events", "1000"), ("chunk_events", 1e5),
        ("fraction", "0.5"), ("fraction", None), ("on_error", None), ("on_error", ["strict"]), ("fresh", "no"),
        ("chunk_seconds", "5"), ("ledger", 3), ("skims_folder", False), ("analyse", "count"), ("client", "process"),
        ("client", 8), ("client", ["threads"]),
    ],
)  # fmt: skip
def test_wrong_types_are_said_with_what_is_expected(one: Campaign, name: str, value: Any) -> None:
    with pytest.raises(errors.OptionError) as caught:
        last(one, **{name: value})
    assert caught.value.message.startswith(f"{name} = {value!r}")
    assert caught.value.hint.startswith("Give ")


@pytest.mark.parametrize(("place", "value"), [(0, None), (0, 7), (0, {"name": "toy"}), (1, None), (1, 7), (1, {})])
def test_something_else_for_campaign_or_selection_is_said(one: Campaign, place: int, value: Any) -> None:
    given = [one, OPEN]
    given[place] = value
    name = ("campaign", "selection")[place]
    with pytest.raises(errors.OptionError, match=rf"{name} = .*{type(value).__name__}"):
        last(*given)


def test_a_dask_cluster_stands_for_its_client(one: Campaign) -> None:
    with LocalCluster(n_workers=1, processes=False, dashboard_address=":0") as cluster:
        assert results.document(last(one, client=cluster)) == results.document(last(one))
        assert not cluster.scheduler.clients.keys() - {"fire-and-forget"}, "its own client is closed"


_WITHOUT_GUARD = """
import sys
import higgsnb as hn
for result in hn.engine.run(sys.argv[1], "open2012", client="processes", workers=2):
    pass
"""


_WITH_GUARD = """
import os, sys
import higgsnb as hn
if __name__ == "__main__":
    if "gone" in sys.argv:
        os.remove(__file__)
    for result in hn.engine.run(sys.argv[1], "open2012", client="processes", workers=2):
        pass
    print(result.complete)
"""


def run_script(text: str, one: Campaign, folder: Path, *words: str, stdin: bool = False) -> Any:
    (folder / "script.py").write_text(text)
    return subprocess.run(
        [sys.executable, "-" if stdin else str(folder / "script.py"), str(to_toml(one, folder / "c.toml")), *words],
        input=text if stdin else None, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_a_script_without_main_guard_is_named_and_no_file_is_blamed(one: Campaign, tmp_path: Path) -> None:
    done = run_script(_WITHOUT_GUARD, one, tmp_path)
    assert done.returncode == 1
    end = done.stderr.splitlines()[-2:]
    assert re.search(r"OptionError: \d worker processes died before they could begin$", end[0])
    assert "if __name__ == '__main__':" in end[1]


def test_a_script_that_worker_processes_cannot_read_is_not_asked_for_its_guard(one: Campaign, tmp_path: Path) -> None:
    assert run_script(_WITH_GUARD, one, tmp_path).stdout == "True\n"
    for done, what in (
        (run_script(_WITH_GUARD, one, tmp_path, stdin=True), "is read from standard input"),
        (run_script(_WITHOUT_GUARD, one, tmp_path, stdin=True), "is read from standard input"),
        (run_script(_WITH_GUARD, one, tmp_path, "gone"), f"'{tmp_path / 'script.py'}' is gone"),
    ):
        assert done.returncode == 1
        message, hint = done.stderr.splitlines()[-2:]
        assert message.endswith(f"OptionError: the script {what}, and worker processes cannot read it again")
        assert hint == 'Save it as a file, or give client="threads".'


@pytest.mark.parametrize(
    ("number", "what"), [(9, r"9 \(SIGKILL\)\n.* use fewer workers"), (15, r"15 \(SIGTERM\)\nSomething else ended")]
)
def test_a_signal_that_kills_processes_at_their_start_is_named(
    one: Campaign, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, what: str
) -> None:
    monkeypatch.setattr(executors, "_follow", analyses.begin_late)
    monkeypatch.setenv("STILLBORN", "3")
    monkeypatch.setenv("SIGNAL", str(number))
    monkeypatch.setenv("CALLS", str(tmp_path))
    with pytest.raises(errors.OptionError, match=f"3 worker .* before they could begin: killed by signal {what}"):
        last(one, client="processes", workers=1)


@pytest.mark.parametrize("stillborn", [2, 3])
def test_processes_that_die_at_their_start_are_no_fault_of_a_chunk(
    one: Campaign, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stillborn: int
) -> None:
    monkeypatch.setattr(executors, "_follow", analyses.begin_late)
    monkeypatch.setenv("STILLBORN", str(stillborn))
    monkeypatch.setenv("CALLS", str(tmp_path))
    if stillborn < executors.STILLBORN:
        assert last(one, client="processes", workers=1).complete
        return
    with pytest.raises(errors.OptionError, match=r"3 worker processes died before they could begin\nIn a script"):
        last(one, client="processes", workers=1)


def progress(one: Campaign, n_chunks: int) -> loop._Progress:
    file = one.datasets[0].files[0]
    chunks = tuple(Chunk("mu", 0, 0, file, "outreach", "DoubleMu", True, i, i + 1, None) for i in range(n_chunks))
    made = plan.Plan(one, OPEN, {}, {}, chunks, results.analyse, strict=False)
    return loop._Progress(made, executors.Threads(1), None, {})


def test_a_file_that_failed_before_keeps_its_reason_however_many_chunks_kill(one: Campaign) -> None:
    found = progress(one, 3)
    found._failures[0, 0] = results.Failure("mu", "0.root", "UnreadableError", "is damaged", "Fetch it.")
    for index in range(3):
        found.fail_killer(index, 900.0)
    assert [failure.error for failure in found.result().failed] == ["UnreadableError"]


def test_very_many_killing_chunks_of_one_file_are_named_in_a_bounded_message(one: Campaign) -> None:
    found = progress(one, 1000)
    for index in range(1000):
        found.fail_killer(index, None)
    (failure,) = found.result().failed
    assert "entries 0 to 1, 1 to 2, " in failure.message
    assert "9 to 10 and 990 more such chunks ended the worker" in failure.message


def of_files(*files: File) -> Campaign:
    return campaign(Dataset(name="mu", process="data", files=files, primary_dataset="DoubleMu"))


@pytest.mark.parametrize(("events", "chunk_events"), [(10**18, 250_000), (3_000_000, 1)])
def test_a_plan_of_too_many_chunks_is_refused_before_it_is_made(tmp_path: Path, events: int, chunk_events: int) -> None:
    huge = of_files(File(str(tmp_path / "a.root"), events=events, bytes=1, adler32="00000001"))
    with pytest.raises(errors.OptionError, match=rf"more than 2,000,000 chunks of .*\({events:,} events\)"):
        last(huge, chunk_events=chunk_events)


def test_nothing_readable_is_no_result_but_one_reason(one: Campaign, tmp_path: Path) -> None:
    absent = [File(str(tmp_path / f"absent{i}.root")) for i in range(2000)]
    with pytest.raises(errors.FileError) as caught:
        last(of_files(*absent), ledger=tmp_path / "l.sqlite")
    reason = "2,000 files of mu: MissingFileError: not found; tried … (no such file)"
    assert caught.value.message == f"none of the 2,000 files can be read: {reason}"
    assert len(caught.value.message) < 500
    with pytest.raises(errors.FileError, match=r"absent0\.root"):
        last(of_files(absent[0]))
    mixed = last(of_files(*absent[:20], *one.datasets[0].files))
    assert len(mixed.failed) == 20
    assert mixed.coverage.files == (2, 22)


def test_a_failed_allocation_names_file_and_remedy_and_loses_nothing_else(
    one: Campaign, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POISON_START", "100")
    result = last(one, analyse=analyses.short_of_memory, chunk_events=100)
    (failure,) = result.failed
    assert failure.message == f"{one.datasets[0].files[0].url}: no memory left (Unable to allocate 16.0 GiB)"
    assert "--chunk-events" in failure.hint
    assert result.coverage.events == (500, 600)


def test_no_memory_left_in_the_plan_is_a_failure_of_that_file(one: Campaign, monkeypatch: pytest.MonkeyPatch) -> None:
    identify = plan.events.identify

    def hungry(file: File, schema: str, **options: Any) -> Any:
        if file.url.endswith("0.root"):
            raise MemoryError
        return identify(file, schema, **options)

    monkeypatch.setattr(plan.events, "identify", hungry)
    (failure,) = last(one).failed
    assert failure.message == f"{one.datasets[0].files[0].url}: the worker had no memory left"


def test_a_full_disk_keeps_no_skims_and_the_same_result(
    one: Campaign, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    expected = results.document(last(one))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))
    try:
        found = last(one, skims_folder=tmp_path, chunk_events=100)
        with pytest.raises(OSError, match="too large") as caught:
            results.write(found, tmp_path / "out", run={})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert results.document(found) == expected
    (said,) = [
        r.getMessage() for r in caplog.records if "(file too large), so that later runs take longer" in r.getMessage()
    ]
    assert "HIGGSNB_CACHE" in said
    message, hint = errors.describe(caught.value)
    assert message.startswith(f"{tmp_path}/out/")
    assert "--out" in hint
    assert not list(tmp_path.rglob("*.part"))
