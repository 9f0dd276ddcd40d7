"""G20: a worker with other versions than the client is refused by name before the first chunk."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import distributed
import distributions
import killers
import pytest
from zygote import HERE, PATIENCE, poll

import higgsnb
from higgsnb import datasets, engine, errors, provenance, selection

Figure = Callable[[str, str, object], None]

WORKER = """
import sys
sys.path[:0] = sys.argv[3:]
import killers
killers.worker(address=sys.argv[1], folder=sys.argv[2])
"""


@pytest.fixture
def scheduler(tmp_path: Path) -> Iterator[str]:
    """A scheduler in this process, without workers."""
    with distributed.LocalCluster(
        n_workers=0, processes=True, dashboard_address=":0", host="127.0.0.1", local_directory=str(tmp_path)
    ) as cluster:
        yield cluster.scheduler_address


@contextmanager
def worker_with(scheduler: str, folder: Path, *first: Path) -> Iterator[distributed.Client]:
    """A client of the scheduler and of a worker that finds what it imports in some folders first."""
    paths = [*map(str, first), str(HERE), str(HERE.parent / "kit"), str(HERE.parent.parent)]
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, "-c", WORKER, scheduler, str(folder), *paths]
    with (
        (folder / "worker.log").open("w") as log,
        subprocess.Popen(command, env=variables, cwd=folder, stdout=log, stderr=log) as worker,
    ):
        try:
            with distributed.Client(scheduler, set_as_default=False) as client:
                arrived = poll(lambda: client.scheduler_info()["workers"] or worker.poll() is not None, PATIENCE)
                assert arrived, (folder / "worker.log").read_text()
                assert worker.poll() is None, (folder / "worker.log").read_text()
                yield client
        finally:
            worker.kill()


def fake_distribution(folder: Path, name: str, version: str) -> None:
    """Say that another version of a package is installed, as `importlib.metadata` sees it."""
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


def other_code(folder: Path) -> None:
    """Copy the package, with one line more in the module that selects."""
    package = Path(higgsnb.__file__).parent
    shutil.copytree(package, folder / "higgsnb", ignore=shutil.ignore_patterns("__pycache__"))
    with (folder / "higgsnb" / "selection" / "kernel.py").open("a") as kernel:
        kernel.write("\n# another line\n")


STUBS = {
    "numpy": lambda folder: fake_distribution(folder, "numpy", "1.99.9"),
    "awkward": lambda folder: fake_distribution(folder, "awkward", "0.0.1"),
    "higgsnb": other_code,
}


@pytest.mark.filterwarnings("ignore:.*Mismatched versions found:UserWarning")
@pytest.mark.parametrize("package", STUBS)
def test_worker_of_another_version_is_refused_before_the_first_chunk(
    scheduler: str, tmp_path: Path, package: str, figure: Figure, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub = tmp_path / "stub"
    STUBS[package](stub)
    monkeypatch.setenv(killers.LOG, str(tmp_path / "log"))
    one = datasets.load(killers.small_campaign(tmp_path, files=3, events=50))
    with worker_with(scheduler, tmp_path, stub) as client:
        before = time.monotonic()
        with pytest.raises(errors.VersionError) as caught:
            list(engine.run(one, selection.load("open2012"), client=client, analyse=killers.counted))
        seconds = time.monotonic() - before
    mine, theirs = here_and_there(package, stub)
    message = str(caught.value)
    assert package in message
    assert mine in message
    assert theirs in message
    assert len(message.splitlines()) <= 3
    assert not (tmp_path / "log").exists()  # no chunk was begun
    figure("G20", f"worker with another {package}: named", f"{seconds:.2f} s, before the first chunk")


LIBRARY_USER = """
import higgsnb as hn
import toylib


def shifted(columns):
    return hn.Selected(columns["nMuon"] >= 0, n=columns["nMuon"] + toylib.OFFSET)


one = hn.Analysis("one", shifted, columns=["nMuon"], form="flat", axes=[hn.Axis("n", 10, 0, 10)])
"""


@pytest.mark.filterwarnings("ignore:.*Mismatched versions found:UserWarning")
def test_worker_with_another_library_of_the_user_is_refused(
    scheduler: str, tmp_path: Path, figure: Figure, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = distributions.install(tmp_path / "here", "OFFSET = 1")
    there = distributions.install(tmp_path / "there", "OFFSET = 2", "2.0")
    (tmp_path / "mine.py").write_text(LIBRARY_USER)
    monkeypatch.syspath_prepend(here)
    one = datasets.load(killers.small_campaign(tmp_path, files=3, events=50))
    mine = selection.load_from_file(f"{tmp_path / 'mine.py'}:one", higgsnb.Analysis)
    with worker_with(scheduler, tmp_path, there) as client:
        before = time.monotonic()
        with pytest.raises(errors.VersionError, match=r"toylib 1\.0, but toylib 2\.0 is installed"):
            list(engine.run(one, mine, client=client))
        figure("G20", "worker with another library of the user: named", f"{time.monotonic() - before:.2f} s")


def here_and_there(package: str, stub: Path) -> tuple[str, str]:
    """What the error has to say of the version here and there, worked out without the code that compares them."""
    if package != "higgsnb":
        (info,) = stub.glob("*.dist-info")
        return provenance.libraries()[package], info.name.removesuffix(".dist-info").rpartition("-")[2]
    probe = "from higgsnb import provenance; print(provenance.sources_sha256(*provenance.RESULT_MODULES)[:12])"
    digests = [
        subprocess.run(
            [sys.executable, "-c", probe], env={**os.environ, "PYTHONPATH": str(path)}, cwd=stub.parent, check=True,
            capture_output=True, text=True,
        ).stdout.strip()
        for path in (HERE.parent.parent, stub)
    ]  # fmt: skip
    assert digests[0] != digests[1]
    return digests[0], digests[1]


def test_worker_of_the_same_versions_is_accepted(scheduler: str, tmp_path: Path) -> None:
    one = datasets.load(killers.small_campaign(tmp_path, files=3, events=50))
    with worker_with(scheduler, tmp_path) as client:
        (*_, last) = engine.run(one, selection.load("open2012"), client=client, analyse=killers.counted)
    assert last.complete
