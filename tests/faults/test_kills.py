"""G3: kill -9 of worker, scheduler, client or all at any moment; the same command again gives the same bytes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import killers
import pytest
from killers import LOG, SCHEDULER_LOST, WORK, Cluster, chunks_in, numbers
from zygote import NOTHING, Child, Zygote, forking, poll

SEED = 20_120_704
POINTS_SHORT, POINTS_LONG = 10, 100
DEADLINE = 120.0
"""Seconds; the engine itself waits up to 50 s for a scheduler that does not come back."""
SECONDS = "0.01"
"""What a chunk takes longer, so that a run has a duration worth cutting."""
NAMED = ("before", "inside", "after")
VICTIMS = ("worker", "scheduler", "client", "all")
ENDS = {"worker": {0}, "scheduler": {0, SCHEDULER_LOST}, "client": {0, -9}, "all": {0, -9}}
"""Exit codes of the run that is disturbed; 0 also where it ended before the kill point."""

Figure = Callable[[str, str, object], None]


@dataclass(frozen=True)
class Setting:
    """What the tests of this module share: processes, a campaign, and what an undisturbed run of it gives."""

    forks: Zygote
    toml: Path
    digests: dict[str, str]
    seconds: float
    commits: int


@pytest.fixture(scope="module")
def forks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Zygote]:
    with forking(tmp_path_factory.mktemp("zygote")) as zygote:
        yield zygote


@pytest.fixture(scope="module")
def setting(forks: Zygote, tmp_path_factory: pytest.TempPathFactory) -> Setting:
    """Expected bytes from threads in one process; duration and number of commits from an undisturbed cluster."""
    folder = tmp_path_factory.mktemp("kills")
    toml = killers.small_campaign(folder)
    alone = forks.fork("killers:drive", toml=str(toml), out=str(folder / "alone"))
    assert alone.join(DEADLINE) == 0
    expected, ended = killers.digests(folder / "alone"), []
    for number in range(2):
        out = folder / f"{number}"
        with Cluster(forks, **{WORK: SECONDS}) as cluster:
            run = forks.fork("killers:drive", toml=str(toml), out=str(out), at=cluster.address)
            assert run.join(DEADLINE) == 0
        assert killers.digests(out) == expected
        ended.append(run.said("ended"))
    return Setting(forks, toml, expected, min(e["seconds"] for e in ended), min(e["commits"] for e in ended))


def start(setting: Setting, cluster: Cluster, out: Path, **options: Any) -> Child:
    return setting.forks.fork("killers:drive", toml=str(setting.toml), out=str(out), at=cluster.address, **options)


def strike(setting: Setting, cluster: Cluster, out: Path, victim: str, index: int) -> tuple[Child, bool]:
    """Begin a run and kill the victim at the kill point of that number; return the client, and whether it ran then.

    Even numbers are moments in the duration of an undisturbed run, odd ones commits of the ledger.
    """
    when, which = numbers(SEED + VICTIMS.index(victim), index, 2)
    killed = {"worker": [cluster.workers[int(which * len(cluster.workers))]], "scheduler": [cluster.scheduler],
              "client": [], "all": cluster.processes}[victim]  # fmt: skip
    pids = [child.pid for child in killed] + [0] * (victim in ("client", "all"))
    if index % 2:
        kill = {"when": NAMED[index // 2 % 3], "commit": 1 + int(when * setting.commits), "pids": pids}
        client = start(setting, cluster, out, kill=kill, patience=2.0)
        setting.forks.until(lambda: client.codes or any(child.codes for child in killed), DEADLINE)
        return client, client.codes[:1] not in ([0], [SCHEDULER_LOST])
    client = start(setting, cluster, out, patience=2.0)
    client.said("begun")
    if client.wait(when * setting.seconds) is not None:
        return client, False
    for child in [*killed, *[client] * (0 in pids)]:
        child.kill()
    return client, True


@pytest.mark.parametrize("victim", VICTIMS)
def test_killed_at_any_moment_then_the_same_command_gives_the_same_bytes(
    setting: Setting, tmp_path: Path, victim: str, long: bool, figure: Figure
) -> None:
    codes: Counter[int] = Counter()
    planned = {f"{d}:{f}:{start}" for d, f, start, _ in killers.plan(killers.datasets.load(setting.toml), 50)}
    n_points = POINTS_LONG if long else POINTS_SHORT
    for index in range(5 * n_points):
        out, environment = tmp_path / f"{index}", {LOG: str(tmp_path / f"{index}.log"), WORK: SECONDS}
        with ExitStack() as stack:
            cluster = stack.enter_context(Cluster(setting.forks, **environment))
            client, struck = strike(setting, cluster, out, victim, index)
            gone = struck and victim in ("scheduler", "all")
            if gone and victim == "scheduler" and index // 2 % 2:
                cluster.restart_scheduler()
                gone = False
            code = client.join(DEADLINE)
            assert code in ENDS[victim], f"point {index}: code {code}\n{client.text}"
            codes[code] += struck
            if gone:
                cluster.close()
                cluster = stack.enter_context(Cluster(setting.forks, **environment))
            again = start(setting, cluster, out)
            assert again.join(DEADLINE) == 0, f"point {index}\n{client.text}\n{again.text}"
        assert killers.digests(out) == setting.digests, f"point {index}"
        assert set(chunks_in(Path(environment[LOG]))) == planned
        if codes.total() == n_points:
            break
    assert codes.total() == n_points
    figure("G3", f"{victim} killed, then the same command again", f"{n_points} of {n_points} equal, {dict(codes)}")


def test_kill_of_the_client_costs_little(setting: Setting, tmp_path: Path, long: bool, figure: Figure) -> None:
    """420 chunks on 4 workers, about as many for each as in a large run; there a chunk takes about a second."""
    events, seconds, workers, redone = 10, 0.6 if long else 0.05, 4, 0
    planned = {f"{d}:{f}:{s}" for d, f, s, _ in killers.plan(killers.datasets.load(setting.toml), events)}
    n_points = 20 if long else 2
    for index in range(n_points):
        out, log = tmp_path / f"{index}", tmp_path / f"{index}.log"
        with Cluster(setting.forks, workers=workers, **{WORK: str(seconds), LOG: str(log)}) as cluster:
            client = start(setting, cluster, out, chunk_events=events)
            client.said("begun")
            stop = len(planned) * (0.2 + 0.6 * numbers(SEED, 1000 + index, 1)[0])
            assert poll(lambda log=log, stop=stop: len(chunks_in(log)) > stop, 10 * DEADLINE)
            client.kill()
            assert client.wait(DEADLINE) == -9
            assert 0 < len(killers.committed(out / "ledger.sqlite")) < len(planned)
            again = start(setting, cluster, out, chunk_events=events)
            assert again.join(10 * DEADLINE) == 0
        assert killers.digests(out) == setting.digests
        begun = chunks_in(log)
        assert set(begun) == planned
        redone += len(begun) - len(planned)
    share, lost = 100 * redone / (n_points * len(planned)), redone * seconds / n_points / workers
    what = f"{share:.1f} % of {len(planned) * seconds:.0f} s; {lost:.2f} s of each worker"
    figure("G3", "work done twice after a kill of the client", what)


def test_worker_processes_end_with_a_killed_client(setting: Setting, tmp_path: Path, figure: Figure) -> None:
    options: dict[str, Any] = {"toml": str(setting.toml), "out": str(tmp_path / "out"), "at": "processes", "workers": 2}
    client = setting.forks.fork("killers:drive", **options, environment={WORK: "0.05", LOG: str(tmp_path / "log")})
    assert poll(lambda: chunks_in(tmp_path / "log"), DEADLINE)
    client.kill()
    assert client.wait(DEADLINE) == -9
    assert setting.forks.left(within=30.0) == NOTHING
    again = setting.forks.fork("killers:drive", **options)
    assert again.join(DEADLINE) == 0, again.text
    assert killers.digests(tmp_path / "out") == setting.digests
    figure("G17", "processes left by a killed client", 0)
