"""G15: a chunk that kills its worker is isolated and named; every other chunk is counted, also those beside it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import killers
import pytest
from killers import LOG, POISON, Cluster, chunks_in, committed
from zygote import NOTHING, Zygote, forking

from higgsnb import datasets

EVENTS, FILES, CHUNK = 500, 4, 10
DEADLINE = 300.0
CHUNK_SECONDS = {"dask": 1.0, "processes": 5.0}
"""A new process has to load the compiled selection within the time of its first chunk; the Dask workers have it."""

Figure = Callable[[str, str, object], None]


@pytest.fixture(scope="module")
def forks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Zygote]:
    with forking(tmp_path_factory.mktemp("zygote")) as zygote:
        yield zygote


@pytest.fixture(scope="module")
def toml(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return killers.small_campaign(tmp_path_factory.mktemp("poison"), files=FILES, events=EVENTS)


@pytest.mark.parametrize(
    "poison",
    [
        {"0:0:100": "segfault", "1:0:0": "killed", "2:0:490": "endless"},
        {"0:1:490": "memory", "0:1:480": "segfault", "0:1:470": "segfault"},  # three neighbours in one file
    ],
    ids=["crash, kill, loop", "out of memory and neighbours"],
)
@pytest.mark.parametrize("at", ["processes", "dask"])
def test_poison_is_named_and_its_neighbours_are_counted(
    forks: Zygote, toml: Path, tmp_path: Path, at: str, poison: dict[str, str], long: bool, figure: Figure
) -> None:
    if at == "processes" and "0:0:100" not in poison and not long:
        pytest.skip("each death costs the start of a process; the other faults are tried without --long")
    environment = {POISON: json.dumps(poison), LOG: str(tmp_path / "log")}
    out = tmp_path / "out"
    options = {"toml": str(toml), "out": str(out), "chunk_events": CHUNK, "analyse": "poisoned",
               "chunk_seconds": CHUNK_SECONDS[at]}  # fmt: skip
    if at == "dask":
        with Cluster(forks, workers=2, **environment) as cluster:
            run = forks.fork("killers:drive", at=cluster.address, **options)
            code = run.join(DEADLINE)
    else:
        run = forks.fork("killers:drive", at="processes", workers=2, environment=environment, **options)
        code = run.join(DEADLINE)
    assert code == 3, run.text
    one = datasets.load(toml)
    planned = killers.plan(one, CHUNK)
    done = {killers.chunk_of(record) for record in committed(out / "ledger.sqlite")}
    missing = {f"{d}:{f}:{start}" for d, f, start, _ in planned - done}
    assert len(planned) == 200
    assert missing == set(poison)
    document = json.loads((out / "result.json").read_text())
    assert document["coverage"]["events"] == [(200 - 3) * CHUNK, 200 * CHUNK]
    assert not document["complete"]
    named = document["failed"]
    assert {failure["error"] for failure in named} == {"PoisonUnitError"}
    places = [place.split(":") for place in poison]
    files = {(one.datasets[int(d)].name, Path(one.datasets[int(d)].files[int(f)].url).name) for d, f, _ in places}
    assert {(failure["dataset"], failure["file"]) for failure in named} == files
    text = json.dumps(named)
    for _, _, start in places:
        assert f"{int(start)} to {int(start) + CHUNK}" in text, text
    begun = chunks_in(tmp_path / "log")
    figure("G15", f"{at}: done and named", f"{len(done)} and {len(missing)} of 200; begun {len(begun)} times")
    assert forks.left(within=30.0) == NOTHING


def test_chunk_that_killed_its_worker_is_tried_again_by_the_next_run(forks: Zygote, toml: Path, tmp_path: Path) -> None:
    """A worker may have died for another reason (a full machine): the same command again tries the chunk again."""
    out = tmp_path / "out"
    options = {"toml": str(toml), "out": str(out), "chunk_events": 100, "analyse": "poisoned", "at": "processes",
               "workers": 1}  # fmt: skip
    run = forks.fork("killers:drive", environment={POISON: json.dumps({"0:0:100": "segfault"})}, **options)
    assert run.join(DEADLINE) == 3, run.text
    again = forks.fork("killers:drive", environment={LOG: str(tmp_path / "log")}, **options)
    assert again.join(DEADLINE) == 0, again.text
    assert chunks_in(tmp_path / "log") == ["0:0:100"]
