"""G1 and G8, G5: workers die all the time, and each chunk is counted once, and shown only once it is in the ledger."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

import killers
import pytest
from killers import LOG, WORK, Cluster, committed, numbers
from zygote import NOTHING, Zygote, forking

from higgsnb import datasets, engine, selection
from higgsnb.engine import Ledger
from higgsnb.errors import NondeterminismError
from higgsnb.results import Result
from higgsnb.results.tally import Record, merge

SEED = 19_640_831
EVENTS = 10
DEADLINE = 240.0
MODES = ("sys.exit", "segfault", "graceful")

Figure = Callable[[str, str, object], None]


@pytest.fixture(scope="module")
def forks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Zygote]:
    with forking(tmp_path_factory.mktemp("zygote")) as zygote:
        yield zygote


@pytest.fixture(scope="module")
def toml(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return killers.small_campaign(tmp_path_factory.mktemp("chaos"))


@pytest.fixture(scope="module")
def expected(forks: Zygote, toml: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    out = tmp_path_factory.mktemp("expected") / "out"
    run = forks.fork("killers:drive", toml=str(toml), out=str(out), chunk_events=EVENTS)
    assert run.join(DEADLINE) == 0, run.text
    return killers.digests(out)


def offline(toml: Path, ledger: Path) -> Result:
    """The result made from the ledger alone, with nothing read and nothing run."""
    whole = datasets.load(toml)
    return Result(whole, selection.load("open2012"), merge(committed(ledger)), {}, {})


def test_chunks_are_counted_once_while_workers_die(
    forks: Zygote, toml: Path, expected: dict[str, str], tmp_path: Path, long: bool, figure: Figure
) -> None:
    shown = deaths = 0
    n_runs = 30 if long else 3
    for index in range(n_runs):
        out = tmp_path / f"{index}"
        chaos = {"delay": float(0.5 + numbers(SEED, index, 1)[0]), "mode": MODES[index % 3]}
        with Cluster(forks, workers=3, **{WORK: "0.02", LOG: str(tmp_path / f"{index}.log")}) as cluster:
            run = forks.fork(
                "killers:drive", toml=str(toml), out=str(out), at=cluster.address, chunk_events=EVENTS,
                chaos=chaos, check=True, every=0.0,
            )  # fmt: skip
            assert run.join(DEADLINE) == 0, f"{chaos}\n{run.text}"
            deaths += sum(len(worker.codes) for worker in cluster.workers)
        shown += run.said("ended")["results"]
        assert killers.digests(out) == expected
        assert killers.same(offline(toml, out / "ledger.sqlite").tally, whole_of(toml, out / "ledger.sqlite").tally)
    assert deaths >= n_runs
    figure("G1", "runs with dying workers, 0 events off", f"{n_runs} of {n_runs}, {deaths} deaths")
    figure("G8", "results shown that are the sum of the ledger", f"{shown} of {shown}")


def whole_of(toml: Path, ledger: Path) -> Result:
    """The last result of the same run again, which finds everything in the ledger."""
    (*_, last) = engine.run(datasets.load(toml), selection.load("open2012"), chunk_events=EVENTS, ledger=ledger,
                            analyse=killers.counted)  # fmt: skip
    return last


def test_workers_of_a_local_dask_cluster_die_and_nothing_is_lost(
    forks: Zygote, toml: Path, expected: dict[str, str], tmp_path: Path, long: bool, figure: Figure
) -> None:
    n_runs = 5 if long else 1
    for index in range(n_runs):
        out = tmp_path / f"{index}"
        run = forks.fork(
            "killers:drive", toml=str(toml), out=str(out), at="local", chunk_events=50, check=True, every=0.0,
            chaos={"delay": 10.0, "mode": "segfault"}, environment={WORK: "0.1"},
        )  # fmt: skip
        assert run.join(DEADLINE) == 0, run.text
        assert killers.digests(out) == expected
    figure("G1", "runs with a LocalCluster whose workers die", f"{n_runs} of {n_runs}")
    assert forks.left(within=30.0) == NOTHING


# --- The checks of this file see what they are for ---------------------------------------------------------------


@pytest.fixture
def three(toml: Path, tmp_path: Path) -> tuple[Path, list[Result]]:
    """A ledger of a whole run, and its results."""
    one = datasets.load(toml)
    found = list(engine.run(one, selection.load("open2012"), chunk_events=350, ledger=tmp_path / "l.sqlite"))
    return tmp_path / "l.sqlite", found


@pytest.mark.parametrize("fault", ["a chunk twice", "a chunk early", "a number off"])
def test_check_of_partial_results_finds(three: tuple[Path, list[Result]], toml: Path, fault: str) -> None:
    ledger, found = three
    last, one = found[-1], datasets.load(toml)
    assert killers.checked(iter([last]), one, 350, ledger)
    records = committed(ledger)
    if fault == "a chunk twice":
        tally = merge(records)
        tally.counts[0][:] += merge(records[:1]).counts[records[0].dataset]
    elif fault == "a chunk early":
        tally = merge(records)
        ledger = ledger.with_name("other.sqlite")
        with Ledger(ledger) as opened:
            opened.commit((bytes([n]), record) for n, record in enumerate(records[1:]))
    else:
        tally = merge([records[0]._replace(rejected_by_golden_json=1), *records[1:]])
    with pytest.raises(AssertionError, match=r"result 0: "):
        killers.checked(iter([dataclasses.replace(last, tally=tally)]), one, 350, ledger)


# --- G5: the same chunk, other bytes -------------------------------------------------------------------------------


def record_of(number: int, *, rejected: int = 0) -> Record:
    return Record(0, 0, number, number + 1, b"", b"", b"", b"", rejected, "", "baskets", "blocks", b"")


def test_other_bytes_of_the_same_chunk_raise_each_time(tmp_path: Path, long: bool, figure: Figure) -> None:
    n_alarms, n_faults = 0, 1000 if long else 100
    with Ledger(tmp_path / "l.sqlite") as ledger:
        ledger.commit((n.to_bytes(4, "big"), record_of(n)) for n in range(100))
        for index in range(n_faults):
            which, how_many, field = numbers(SEED + 1, index, 3)
            batch = [(n.to_bytes(4, "big"), record_of(n)) for n in range(int(100 * which), int(100 + 20 * how_many))]
            key, record = batch[0]
            name = ("rejected_by_golden_json", "counts", "rows", "reader")[int(4 * field)]
            value = {"rejected_by_golden_json": 1 + index, "counts": bytes(16), "rows": b"x", "reader": "other"}[name]
            batch[0] = (key, record._replace(**{name: value}))
            with pytest.raises(NondeterminismError):
                ledger.commit(batch)
            n_alarms += 1
        assert len(ledger) == 100
    figure("G5", "other bytes of a finished chunk: alarms", f"{n_alarms} of {n_faults}")


def test_reply_that_comes_twice_in_one_commit_with_other_bytes_is_an_alarm(tmp_path: Path) -> None:
    with Ledger(tmp_path / "l.sqlite") as ledger:
        ledger.commit([(b"key", record_of(1)), (b"key", record_of(1))])
        with pytest.raises(NondeterminismError):
            ledger.commit([(b"other", record_of(2)), (b"other", record_of(2, rejected=1))])
        assert len(ledger) == 1
