"""Threads, processes and Dask give the same bytes, also if workers die."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import analyses
import psutil
import pytest
from generators import random_leptons
from outreach import campaign, dataset, events_of, to_toml, write
from waiting import wait_for

from higgsnb import engine, errors, results, selection
from higgsnb.datasets import Campaign, Dataset, File
from higgsnb.engine import executors, loop, plan, versions, worker
from higgsnb.results import Result

KIT = Path(__file__).resolve().parents[1] / "kit"

OPEN = selection.load("open2012")


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Campaign:
    folder = tmp_path_factory.mktemp("executors")
    leptons = random_leptons(3000, seed=31)
    paths = [write(folder / f"{i}.root", events_of(leptons, 400 * i, 400 * i + 900)) for i in range(4)]
    return campaign(
        dataset("mu", "data", *paths[:2], primary_dataset="DoubleMu"),
        dataset("e", "data", paths[2], primary_dataset="DoubleElectron"),
        dataset("mc", "zz", paths[3], cross_section_pb=1.0),
    )


@pytest.fixture(scope="module")
def dask_client() -> Iterator[Any]:
    from distributed import Client, LocalCluster

    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0", host="127.0.0.1") as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client


@pytest.fixture
def client(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue("dask_client") if request.param == "dask" else request.param


everyone = pytest.mark.parametrize("client", ["threads", "processes", "dask"], indirect=True)
isolating = pytest.mark.parametrize("client", ["processes"], indirect=True)


def last(one: Campaign, **options: Any) -> Result:
    (*_, result) = engine.run(one, OPEN, **{"chunk_events": 100, **options})
    return result


@everyone
def test_everyone_gives_the_same_bytes_and_resumes_from_the_same_ledger(
    one: Campaign, client: Any, tmp_path: Path
) -> None:
    expected = results.document(last(one, chunk_events=1000))
    partial = engine.run(one, OPEN, client=client, chunk_events=100, ledger=tmp_path / "l.sqlite")
    next(partial)
    partial.close()
    assert results.document(last(one, client=client, ledger=tmp_path / "l.sqlite")) == expected
    assert results.document(last(one, ledger=tmp_path / "l.sqlite")) == expected


@isolating
@pytest.mark.parametrize("analyse", [analyses.dying, analyses.endless, analyses.stuck])
def test_poison_is_named_and_its_neighbours_are_counted(
    one: Campaign, client: Any, analyse: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POISON_START", "300")
    result = last(
        one, client=client, workers=2, analyse=analyse, chunk_seconds=None if analyse is analyses.dying else 5.0
    )
    (failure,) = result.failed
    assert failure.error == "PoisonUnitError"
    assert "0.root: entries 300 to 400 ended the worker each time" in failure.message
    assert result.coverage.events == (3500, 3600)
    assert result.tally.ranges[0, 0] == ((0, 300), (400, 900))


_LIMITED = """
import ctypes, sys, threading
from higgsnb.engine import worker
hold, begun = ctypes.PyDLL(None).usleep, threading.Event()  # keeps the other Python threads from running
def other():
    with worker._time_limit(300.0):
        begun.set()
        threading.Event().wait()
threading.Thread(target=other, daemon=True).start()
begun.wait()
with worker._time_limit(0.2):
    hold(int(sys.argv[1]))
hold(2_000_000)
print("alive", flush=True)
"""


@pytest.mark.parametrize(("microseconds", "code", "text"), [(600_000_000, 1, ""), (0, 0, "alive")])
def test_time_limit_of_one_thread_holds_whatever_the_others_have(microseconds: int, code: int, text: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _LIMITED, str(microseconds)], capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stdout.strip(), done.stderr) == (code, text, "")


_CRASHING = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import analyses
from higgsnb import datasets, engine, selection
for result in engine.run(datasets.load(sys.argv[2]), selection.load("open2012"), chunk_events=100, workers=2,
                         ledger=Path(sys.argv[3]), analyse=analyses.noted):
    pass
print([failure.message for failure in result.failed])
"""


def test_threads_blame_a_chunk_only_after_it_ended_the_process_alone_three_times(one: Campaign, tmp_path: Path) -> None:
    command = [sys.executable, "-c", _CRASHING, str(KIT), str(to_toml(one, tmp_path / "c.toml"))]
    environment = {**os.environ, "POISON_START": "300", "CALLS": str(tmp_path)}
    done = []
    for _ in range(5):
        run = [*command, str(tmp_path / "l.sqlite")]
        done.append(subprocess.run(run, env=environment, capture_output=True, text=True, check=False))
    codes = [finished.returncode for finished in done]
    assert codes == [-11, -11, -11, -11, 0]
    assert "entries 300 to 400 ended the worker each time" in done[-1].stdout
    assert "or more than 900 s" in done[-1].stdout  # the limit of that process, which this run has not
    calls = Counter(line for path in tmp_path.glob("[0-9]*") for line in path.read_text().splitlines())
    assert calls["0 0 300"] == 5  # among others, alone three times, and in a process of its own
    assert len(calls) == 36
    assert all(count <= 3 for line, count in calls.items() if line != "0 0 300")


def test_file_that_fails_in_run_after_run_is_no_poison(
    one: Campaign, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"ledger": tmp_path / "l.sqlite", "analyse": analyses.away, "chunk_events": 300}
    monkeypatch.setenv("AWAY", "1")
    for _ in range(6):
        with pytest.raises(errors.FileError, match="none of the 4 files can be read: 4 files: ConnectionError: "):
            last(one, **options)
    monkeypatch.delenv("AWAY")
    assert results.document(last(one, **options)) == results.document(last(one))


def test_chunk_during_which_the_process_was_ended_from_outside_is_counted_in_the_end(
    one: Campaign, tmp_path: Path
) -> None:
    command = [sys.executable, "-c", _CRASHING, str(KIT), str(to_toml(one, tmp_path / "c.toml"))]
    run, done = [*command, str(tmp_path / "l.sqlite")], []
    for poison in ("300",) * 4 + ("-1",):  # four times something else ends it there; the chunk itself is good
        environment = {**os.environ, "POISON_START": poison, "CALLS": str(tmp_path)}
        done.append(subprocess.run(run, env=environment, capture_output=True, text=True, check=False))
    assert [finished.returncode for finished in done] == [-11, -11, -11, -11, 0]
    assert done[-1].stdout.strip() == "[]"


def test_inputs_that_change_during_a_run_are_named_and_not_recorded(
    one: Campaign, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "SECONDS_BETWEEN_RESULTS", 0.0)
    golden, source = tmp_path / "golden.json", Path(one.datasets[0].files[0].url)
    golden.write_text('{"1": [[1, 1000]]}')
    copy = tmp_path / "copy.root"
    copy.write_bytes(source.read_bytes())
    masked = campaign(dataset("mu", "data", copy, primary_dataset="DoubleMu"), golden_json=str(golden))
    options = {"chunk_events": 1, "workers": 1, "ledger": tmp_path / "l.sqlite"}
    partial = engine.run(masked, OPEN, **options)
    next(partial)
    shorter = tmp_path / "shorter.json"
    shorter.write_text('{"1": [[1, 2]]}')
    shorter.replace(golden)  # at once: a worker may be reading it
    (*_, result) = partial
    assert "is not the golden JSON that it was when the run began" in result.failed[0].message
    golden.write_text('{"1": [[1, 1000]]}')
    partial = engine.run(masked, OPEN, **{**options, "chunk_events": 2})
    next(partial)
    other = write(tmp_path / "other.root", events_of(random_leptons(3000, seed=32), 0, 900))
    other.replace(copy)
    (*_, result) = partial
    assert "is not the file that it was when the run began" in result.failed[0].message
    assert not result.complete


def test_worker_process_that_dies_while_idle_is_replaced() -> None:
    with executors.open_executor("processes", 1) as processes:
        first = processes.submit(os.getpid).result()
        psutil.Process(first).kill()
        psutil.wait_procs([psutil.Process(first)] if psutil.pid_exists(first) else [], timeout=10)
        second = next(pid for _ in range(5) if (pid := _pid(processes)) is not None)
        assert second != first


def test_call_that_ends_its_process_fails_and_the_next_one_gets_another_process() -> None:
    with executors.open_executor("processes", 1) as processes:
        with pytest.raises(errors.WorkerLostError):
            processes.submit(os._exit, 1).result(timeout=60)
        assert processes.submit(os.getpid).result(timeout=60) != os.getpid()


def test_process_that_was_stopped_is_killed_once_its_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executors, "SLACK_SECONDS", 0.0)
    with executors.open_executor("processes", 1) as processes:
        assert isinstance(processes, executors.Processes)
        first = processes.submit(os.getpid).result(timeout=60)
        stopped = processes.submit(signal.raise_signal, signal.SIGSTOP)
        wait_for(lambda: psutil.Process(first).status() == psutil.STATUS_STOPPED, "it is stopped")
        processes.end_overdue(stopped, 1000.0)
        assert psutil.Process(first).status() == psutil.STATUS_STOPPED
        processes.end_overdue(stopped, 0.0)
        with pytest.raises(errors.WorkerLostError):
            stopped.result(timeout=60)
        assert processes.submit(os.getpid).result(timeout=60) != first


def test_chunk_whose_process_was_stopped_is_counted_by_another(
    one: Campaign, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POISON_START", "300")
    monkeypatch.setenv("CALLS", str(tmp_path))
    monkeypatch.setattr(executors, "SLACK_SECONDS", 5.0)
    result = last(one, client="processes", workers=2, analyse=analyses.stopped, chunk_seconds=4.0)
    assert (tmp_path / "stopped").exists()
    assert results.document(result) == results.document(last(one))


def test_suspect_whose_process_was_stopped_is_named(
    one: Campaign, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POISON_START", "300")
    monkeypatch.setenv("CALLS", str(tmp_path))
    monkeypatch.setattr(executors, "SLACK_SECONDS", 5.0)
    monkeypatch.setattr(loop, "CHUNK_SECONDS", 4.0)
    analyse, path = analyses.stopped, tmp_path / "l.sqlite"
    (*_, inspection) = plan.inspect_files(one, OPEN, strict=True)
    planned = plan.make(one, OPEN, inspection, chunk_events=100, fraction=1.0, analyse=analyse, strict=True)
    (key,) = (key for key, chunk in zip(planned.keys, planned.chunks, strict=True) if analyses._is_poison(chunk))
    with engine.Ledger(path) as opened:
        for _ in range(3):
            opened.begin([key], alone=True)
    result = last(one, analyse=analyse, ledger=path)
    assert (tmp_path / "stopped").exists()
    assert [failure.error for failure in result.failed] == ["PoisonUnitError"]
    assert result.coverage.events == (3500, 3600)


def _pid(processes: Any) -> int | None:
    """The number of the process that takes the next call; None if that one proves to be dead."""
    try:
        return int(processes.submit(os.getpid).result())
    except errors.WorkerLostError:
        return None


def test_error_of_a_worker_itself_is_told_and_not_taken_for_a_cut_connection(dask_client: Any) -> None:
    with executors.open_executor(dask_client, None) as cluster:
        future = cluster.submit(analyses.full_disk)
        with pytest.raises(OSError, match="No space left"):
            future.result(timeout=30)


def test_files_that_the_workers_of_a_cluster_do_not_see_are_refused_before_the_start(
    one: Campaign, dask_client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.root").write_bytes(Path(one.datasets[0].files[0].url).read_bytes())
    monkeypatch.chdir(tmp_path)  # the workers stay where they were started
    mine = campaign(dataset("mu", "data", Path("mine.root"), primary_dataset="DoubleMu"))
    with pytest.raises(ValueError, match=r"reads mine\.root, which worker tcp://.* cannot see\nGive addresses"):
        next(engine.run(mine, OPEN, client=dask_client))
    assert last(mine).complete


_ABANDONED = """
import os, signal, sys
from higgsnb.engine import executors
processes = executors.Processes(2)
for worker in [processes.submit(os.getpid) for _ in range(2)]:
    print(worker.result(), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_worker_processes_end_with_the_process_that_started_them() -> None:
    done = subprocess.run([sys.executable, "-c", _ABANDONED], capture_output=True, text=True, check=False)
    assert done.stdout.split(), done.stderr
    workers = [psutil.Process(int(line)) for line in done.stdout.split() if psutil.pid_exists(int(line))]
    _, alive = psutil.wait_procs(workers, timeout=20)
    assert alive == []


def test_stopped_run_leaves_no_process(one: Campaign) -> None:
    before = set(psutil.Process().children(recursive=True))
    partial = engine.run(one, OPEN, client="processes", workers=2, chunk_events=10)
    next(partial)
    started = set(psutil.Process().children(recursive=True)) - before
    assert started
    partial.close()
    _, alive = psutil.wait_procs(started, timeout=20)
    assert alive == []


def test_lost_cluster_is_named_and_the_ledger_goes_on_elsewhere(one: Campaign, tmp_path: Path) -> None:
    from distributed import Client, LocalCluster

    cluster = LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=":0", host="127.0.0.1")
    client = Client(cluster, set_as_default=False)
    partial = engine.run(one, OPEN, client=client, chunk_events=5, ledger=tmp_path / "l.sqlite")
    first = next(partial)
    cluster.close()
    with pytest.raises(errors.SchedulerLostError, match=r"of 720 chunks are in the ledger: the same call .* resumes"):
        list(partial)
    client.close()
    resumed = last(one, chunk_events=5, ledger=tmp_path / "l.sqlite")
    assert not first.complete
    assert results.document(resumed) == results.document(last(one))


def test_other_versions_are_named_with_both_numbers() -> None:
    mine = versions.installed_versions()
    with pytest.raises(errors.VersionError, match=r"a worker has other versions .*: numpy \S+ here and 1\.0 there"):
        versions.check(mine, {**mine, "numpy": "1.0"}, "a worker")
    with pytest.raises(errors.VersionError, match="distributed"):
        versions.check_cluster_versions({"the scheduler": {"distributed": "2020.1", "python": "3.11.0.final.0"}})


def test_worker_with_other_code_refuses_the_work() -> None:
    job = worker.Job(OPEN, None, analyses.dying, None, {**versions.installed_versions(), "higgsnb": "another"})
    with pytest.raises(errors.VersionError, match=r"higgsnb another here and \S+ \(code"):
        worker.process_chunks((), job)


def described_campaign(n_files: int) -> Campaign:
    """Files that do not exist, described so fully that nobody has to open them beforehand."""
    files = tuple(File(f"https://example.org/{i}.root", (), 1000, 10_000 + i, f"{i:08x}") for i in range(n_files))
    return campaign(Dataset("many", "data", "DoubleMu", files=files))


def test_described_files_are_not_opened_beforehand(tmp_path: Path) -> None:
    options = {"analyse": analyses.nothing, "chunk_events": 100, "ledger": tmp_path / "l.sqlite"}
    result = last(described_campaign(300), **options)
    assert result.coverage.files == (300, 300)
    assert result.cutflow["many"]["4mu"][0] == ("all", 300_000)
    assert results.document(last(described_campaign(300), **options)) == results.document(result)


def test_described_file_that_is_not_what_the_campaign_says_is_named(one: Campaign) -> None:
    path = Path(one.datasets[0].files[0].url)
    from higgsnb.datasets.files.cache import checksum

    files = (File(str(path), (), 901, path.stat().st_size, checksum(path)),)
    result = last(campaign(Dataset("mu", "data", "DoubleMu", files=files)))
    assert [failure.error for failure in result.failed] == ["CampaignError"]
    assert "holds 900 events, the campaign says 901" in result.failed[0].message
    assert result.coverage.events[0] == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"client": "tasks"}, 'client = .tasks.\nGive "threads", "processes", a distributed.Client or'),
        ({"chunk_seconds": 5.0}, "a thread cannot be ended"),
        ({"client": "processes", "chunk_seconds": 0.0}, r"chunk_seconds = 0.0 \(float\)\nGive a number above 0"),
    ],
)
def test_impossible_options_are_refused(one: Campaign, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        last(one, **options)
