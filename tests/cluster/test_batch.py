"""Clusters of a batch system, with the two commands of Slurm that dask-jobqueue uses."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from importlib import util
from pathlib import Path
from typing import Any

import pytest
from waiting import wait_for

from higgsnb import cluster
from higgsnb.errors import ClusterError

psutil = pytest.importorskip("psutil", reason="needs psutil: pip install distributed")
if util.find_spec("dask_jobqueue") is None:  # not importorskip: that sets its handler of Ctrl-C
    pytest.skip("needs dask-jobqueue: pip install 'higgsnb[batch]'", allow_module_level=True)

SBATCH = """
    #!{python}
    import os, pathlib, subprocess, sys
    folder = pathlib.Path({folder!r})
    script = pathlib.Path(sys.argv[-1]).read_text()
    number = os.getpid()  # two may be submitted at once
    log = open(folder / f"log-{{number}}", "wb")
    job = subprocess.Popen(["bash", "-c", script], stdout=log, stderr=log, start_new_session=True)
    (folder / f"job-{{number}}").write_text(str(job.pid))
    print("Submitted batch job", number)
"""
SCANCEL = """
    #!{python}
    import os, pathlib, signal, sys
    for number in sys.argv[1:]:
        try:
            os.killpg(int((pathlib.Path({folder!r}) / f"job-{{number}}").read_text()), signal.SIGTERM)
        except (OSError, ValueError):
            pass
"""


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The two commands of Slurm that dask-jobqueue uses; a job is a process of this machine."""
    folder = tmp_path / "jobs"
    folder.mkdir()
    for name, text in (("sbatch", SBATCH), ("scancel", SCANCEL)):
        program = tmp_path / name
        program.write_text(textwrap.dedent(text).strip().format(python=sys.executable, folder=str(folder)))
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)
    yield folder
    for job in folder.glob("job-*"):
        try:
            os.killpg(int(job.read_text()), signal.SIGKILL)
        except ProcessLookupError:
            continue


def jobs_alive(folder: Path) -> list[int]:
    processes = [int(job.read_text()) for job in folder.glob("job-*")]
    return [pid for pid in processes if psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE]


def test_workers_of_a_batch_system_are_jobs_with_encrypted_connections_that_end_with_the_cluster(slurm: Path) -> None:
    options = {"interface": "lo", "walltime": "00:10:00", "queue": "short"}
    with cluster.launch("slurm", workers=2, memory="1GB", idle_timeout=60, **options) as mine:
        client = mine.get_client()
        assert client.submit(sum, range(1000)).result(timeout=20) == 499500
        assert client.scheduler.address.startswith("tls://")
        assert len(jobs_alive(slurm)) == 2
        script = client.cluster.job_script()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler  # dask-jobqueue would set its own
    assert "#SBATCH -p short" in script
    assert "#SBATCH --mem=954M" in script  # 1 GB in units of 1024², rounded up
    assert "--death-timeout 60" in script
    wait_for(lambda: not jobs_alive(slurm), "the jobs are cancelled")


def test_a_start_whose_jobs_wait_in_the_queue_can_be_cancelled(slurm: Path, tmp_path: Path) -> None:
    (tmp_path / "sbatch").write_text(f"#!{sys.executable}\nprint('Submitted batch job 7')\n")  # never started
    cancel = threading.Event()

    def tell(state: cluster.ClusterState) -> None:
        if "in the queue" in state.reason:
            cancel.set()

    with pytest.raises(ClusterError, match="start-up was cancelled"):
        cluster.launch("slurm", workers=1, memory="1GB", deadline=60, interface="lo", on_state=tell, cancel=cancel)
    assert jobs_alive(slurm) == []


def test_jobs_that_wait_in_the_queue_are_told_and_cancelled(slurm: Path, tmp_path: Path) -> None:
    program = tmp_path / "sbatch"
    program.write_text(f"#!{sys.executable}\nprint('Submitted batch job 7')\n")  # never started
    states: list[cluster.ClusterState] = []
    with pytest.raises(ClusterError, match="workers are still in the queue"):
        cluster.launch("slurm", workers=1, memory="1GB", deadline=4, interface="lo", on_state=states.append)
    assert states[-1].phase == "failed"
    assert "Look at the queue" in states[-1].hint
    assert jobs_alive(slurm) == []


@pytest.mark.parametrize("where", ["load()", "thread = threading.Thread(target=load); thread.start(); thread.join()"])
def test_dask_jobqueue_is_imported_in_any_thread_without_its_handler_of_ctrl_c(where: str) -> None:
    code = f"""
        import signal, threading
        from higgsnb.cluster import options
        before = signal.signal
        def load():
            print(options.jobqueue().SLURMCluster.__name__)
        {where}
        print(signal.getsignal(signal.SIGINT) is signal.default_int_handler, signal.signal is before)
    """
    answer = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True)
    assert answer.stdout.split() == ["SLURMCluster", "True", "True"]


def test_a_batch_system_that_is_not_here_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ClusterError, match="batch system: not in PATH: condor_submit, condor_rm"):
        cluster.launch("htcondor", workers=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"qeue": "short"}, r"unknown option qeue for kind 'slurm'\nDid you mean queue\?"),
        ({"death_timeout": 1}, "unknown option death_timeout for kind 'slurm'"),
    ],
)
def test_an_option_that_a_batch_system_does_not_have_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cluster.launch("slurm", **options)
