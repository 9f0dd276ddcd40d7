"""One campaign, every executor, several chunk sizes, with and without kills: one sha256."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from outreach import to_toml

from higgsnb import datasets
from higgsnb.datasets.toy import writer

SHORT, LONG = 300_000, 10_000_000
SCHEDULERS = ("threads", "processes", "dask")


@pytest.fixture(scope="module")
def big(tmp_path_factory: pytest.TempPathFactory, long: bool) -> Path:
    """The toy campaign at many times its size, as files and a TOML file."""
    folder = tmp_path_factory.mktemp("big")
    writer.make(folder, events=LONG if long else SHORT)
    campaign = datasets.load("toy")
    local = [
        dataclasses.replace(
            d, files=tuple(datasets.File(str(folder / file.url.removeprefix("toy:"))) for file in d.files)
        )
        for d in campaign.datasets
    ]
    return to_toml(dataclasses.replace(campaign, datasets=tuple(local)), folder / "big.toml")


def command(big: Path, out: Path, scheduler: str, workers: int, chunk_events: int) -> list[str]:
    """`higgsnb run` of it."""
    options = ["--scheduler", scheduler, "--chunk-events", str(chunk_events), "--out", str(out), "--quiet"]
    if scheduler in SCHEDULERS:
        options += ["--workers", str(workers)]
    return [sys.executable, "-m", "higgsnb", "run", str(big), *options]


def sha256(out: Path) -> str:
    return hashlib.sha256(
        (out / "histograms.json").read_bytes() + (out / "candidates.parquet").read_bytes()
    ).hexdigest()


@contextmanager
def address(scheduler: str, workers: int) -> Iterator[str]:
    """What to give as --scheduler."""
    if scheduler != "dask":
        yield scheduler
        return
    from distributed import LocalCluster

    with LocalCluster(
        n_workers=workers, threads_per_worker=1, dashboard_address=":0", host="127.0.0.1", silence_logs=50
    ) as cluster:
        yield cluster.scheduler_address


def kill_after_commits(process: subprocess.Popen[bytes], out: Path, commits: int) -> None:
    """kill -9, once so much has been written to the ledger, or let it end."""
    deadline = time.monotonic() + 600
    wal = out / "ledger.sqlite-wal"
    while process.poll() is None and time.monotonic() < deadline:
        if wal.exists() and wal.stat().st_size > commits * 8192:
            process.send_signal(signal.SIGKILL)
        try:
            process.wait(timeout=0.01)
        except subprocess.TimeoutExpired:
            continue


def test_whoever_does_the_work_and_whoever_dies_the_bytes_are_the_same(
    big: Path, long: bool, tmp_path: Path, figure: Callable[..., None]
) -> None:
    chunks = (40_000, 250_000, 1_700_000) if long else (4_000, 170_000)
    found: dict[str, Any] = {}
    seconds: dict[str, float] = {}
    ways = [(s, w) for s in SCHEDULERS for w in (1, 2)] if long else [("threads", 1), ("processes", 2), ("dask", 2)]
    for scheduler, workers in ways:
        with address(scheduler, workers) as at:
            for chunk_events in chunks:
                name = f"{scheduler}-{workers}-{chunk_events}"
                begun = time.monotonic()
                subprocess.run(command(big, tmp_path / name, at, workers, chunk_events), check=True)
                found[name], seconds[name] = sha256(tmp_path / name), time.monotonic() - begun
            name = f"{scheduler}-{workers}-killed"
            for commits in (1, 2, 4)[: 3 if long else 1]:
                run = command(big, tmp_path / name, at, workers, chunks[0])
                with subprocess.Popen(run, env={**os.environ}) as process:
                    kill_after_commits(process, tmp_path / name, commits)
            subprocess.run(command(big, tmp_path / name, at, workers, chunks[0]), check=True)
            found[name] = sha256(tmp_path / name)
    figure(
        "G3",
        f"toy at {LONG if long else SHORT:,} events: sha256 of {len(found)} ways to run it",
        len(set(found.values())),
    )
    for name in sorted(seconds):
        figure("G3", f"seconds, {name}", round(seconds[name], 1))
    assert len(set(found.values())) == 1, found
