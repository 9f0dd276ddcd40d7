"""G28: any analysis gives the same bytes in any chunks and order, on any backend, whatever is killed on the way."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import random_analyses
from killers import WORK, Cluster
from zygote import Zygote, forking

ANALYSES_SHORT, ANALYSES_LONG = 3, 20
KILLS_SHORT, KILLS_LONG = 3, 10
DEADLINE = 300.0
SECONDS = "0.02"
"""What a chunk takes longer in a run that is to be killed."""
NAMED = ("after", "inside", "before")
CHUNKS = (1000, 111, 37)

Figure = Callable[[str, str, object], None]


@pytest.fixture(scope="module")
def forks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Zygote]:
    with forking(tmp_path_factory.mktemp("zygote")) as zygote:
        yield zygote


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    random_analyses.write_files(folder)
    return folder


@pytest.fixture(scope="module")
def cluster(forks: Zygote) -> Iterator[Cluster]:
    with Cluster(forks, **{WORK: SECONDS}) as cluster:
        yield cluster


def run(forks: Zygote, **options: Any) -> str:
    """Do a run undisturbed; return the sha256 of what it wrote."""
    child = forks.fork("drawn_runs:drive", **options)
    assert child.join(DEADLINE) == 0, child.text
    return str(child.said("sha256"))


def killed(forks: Zygote, cluster: Cluster, kills: int, out: Path, **options: Any) -> Iterator[str]:
    """Begin runs that kill themselves or a worker at their first commit; yield the sha256 of each that is then resumed.

    A worker is replaced and its run goes on; of the others two are killed one after the other, on two backends.
    """
    for number in range(kills):
        of_worker, folder = number % 3 == 2, str(out / f"{number // 3} {number % 3 == 2}")
        pid = cluster.workers[number // 3 % len(cluster.workers)].pid if of_worker else 0
        kill = {"when": NAMED[number // 3 % 3], "commit": 1, "pids": [pid]}
        at = "threads" if number % 3 == 0 else cluster.address
        child = forks.fork(
            "drawn_runs:drive", kill=kill, at=at, order=number, out=folder, environment={WORK: SECONDS}, **options
        )
        assert child.join(DEADLINE) == (0 if of_worker else -9), child.text
        if of_worker:
            yield str(child.said("sha256"))
        elif number % 3 == 1 or number == kills - 1:
            yield run(forks, out=folder, at=cluster.address, **options)


def test_one_sha256_for_each_analysis_however_it_is_run(
    forks: Zygote, files: Path, cluster: Cluster, tmp_path: Path, long: bool, figure: Figure
) -> None:
    n_runs, n_kills = 0, 0
    for seed in range(ANALYSES_LONG if long else ANALYSES_SHORT):
        given: dict[str, Any] = {"seed": seed, "files": str(files)}
        out, found = tmp_path / f"{seed}", {}
        ways: dict[str, dict[str, Any]] = {
            f"{at} {size}": {"at": address, "chunk_events": size, "order": order}
            for at, address in (("threads", "threads"), ("dask", cluster.address))
            for order, size in zip((None, 1 + seed, 100 + seed), CHUNKS, strict=True)
        }
        if long and seed % 5 == 0:
            ways["processes 111"] = {"at": "processes", "chunk_events": 111, "order": seed, "workers": 2}
        for name, options in ways.items():
            found[name] = run(forks, out=str(out / name), **given, **options)
        kills = KILLS_LONG if long else KILLS_SHORT
        for number, sha256 in enumerate(killed(forks, cluster, kills, out, **given)):
            found[f"killed {number}"] = sha256
        assert len(set(found.values())) == 1, (seed, found)
        n_runs, n_kills = n_runs + len(found), n_kills + kills
    figure("G28", f"sha256 of {n_runs} runs of {seed + 1} drawn analyses, {n_kills} kills among them", seed + 1)
