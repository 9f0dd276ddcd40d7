"""Clusters of this machine, and what can be said of the others without one; `tests/kubernetes` has the rest."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from higgsnb import cluster, datasets, diagnosis, kubernetes
from higgsnb.kubernetes import Trouble

distributed = pytest.importorskip("distributed", reason="needs Dask: pip install distributed")
psutil = pytest.importorskip("psutil", reason="needs psutil: pip install distributed")


def wait_for(condition: Any, what: str, seconds: float = 30) -> None:
    until, pause = time.monotonic() + seconds, threading.Event()
    while not condition():
        assert time.monotonic() < until, f"not within {seconds} s: {what}"
        pause.wait(0.1)


def dask_children() -> set[int]:
    return {child.pid for child in psutil.Process().children(recursive=True) if is_worker(child)}


def is_worker(process: Any) -> bool:
    try:
        return "multiprocessing.spawn" in " ".join(process.cmdline()) and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No hub, no Kubernetes, no mirror."""
    for name in ("BINDER_LAUNCH_HOST", "KUBERNETES_SERVICE_HOST", "JUPYTER_IMAGE_SPEC", "JUPYTERHUB_SERVICE_PREFIX"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "no-kubeconfig"))


# --- On this machine -----------------------------------------------------------------------------


def test_a_local_cluster_goes_through_its_life_and_leaves_no_process() -> None:
    before, states = dask_children(), []
    with cluster.launch("local", workers=2, memory="1GB", on_state=states.append) as mine:
        assert mine.state.workers_ready == 2
        assert mine.get_client().submit(sum, range(1000)).result(timeout=20) == 499500
        mine.scale(1)
        wait_for(lambda: (mine.state.phase, mine.state.workers_ready) == ("ready", 1), f"one worker: {mine}")
        assert len(dask_children() - before) >= 1
        assert any("distributed.scheduler" in text for text in mine.logs().values())
    phases = [state.phase for state in states]
    order = [phase for before, phase in zip(["", *phases], phases, strict=False) if before != phase]
    assert order == ["preflight", "starting", "ready", "scaling", "ready", "closing", "closed"]
    wait_for(lambda: dask_children() <= before, "no process is left")
    assert [json.loads(json.dumps(state.as_dict()))["kind"] for state in states] == ["local"] * len(states)
    mine.close()
    with pytest.raises(cluster.ClusterError, match=r"the cluster is closed\nStart another one"):
        mine.get_client()


def listening() -> set[tuple[str, int]]:
    found = set()
    for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
        connections = process.net_connections("inet")
        found |= {(item.laddr.ip, item.laddr.port) for item in connections if item.status == psutil.CONN_LISTEN}
    return found


def test_local_schedulers_and_workers_listen_on_the_loopback_only() -> None:
    before = listening()
    with cluster.launch("local", workers=2, memory="1GB"):
        opened = listening() - before
    assert len(opened) >= 3  # the scheduler and two workers at least
    assert {address for address, _ in opened} == {"127.0.0.1"}


@pytest.fixture
def session_of_2_gb(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The memory limit of a container on mybinder.org."""
    (tmp_path / "memory.max").write_text("2000000000\n", encoding="ascii")
    monkeypatch.setattr(diagnosis, "CGROUP_LIMITS", (str(tmp_path / "memory.max"),))


@pytest.mark.usefixtures("session_of_2_gb")
def test_workers_fit_into_the_memory_limit_of_the_session() -> None:
    with cluster.launch("local", memory="2GiB") as mine:
        limits = [info["memory_limit"] for info in mine.get_client().scheduler_info()["workers"].values()]
        assert 500_000_000 < sum(limits) < 1_700_000_000
        assert "2.0 GB" in mine.state.reason or mine.state.reason == ""
        with pytest.raises(cluster.ClusterError, match=r"workers of .* GB do not fit in this session's memory"):
            mine.scale(5)


@pytest.mark.usefixtures("session_of_2_gb")
def test_more_workers_than_the_memory_limit_holds_are_refused_before_the_start() -> None:
    states: list[cluster.ClusterState] = []
    with pytest.raises(
        cluster.ClusterError,
        match=r"20 workers of 0\.\d GB \(the session's limit is 2.0 GB\)\nAsk for at most [23] workers",
    ):
        cluster.launch("local", workers=20, on_state=states.append)
    assert [state.phase for state in states] == ["preflight", "failed"]


SCRIPT = """
import sys, threading
from higgsnb import cluster
if __name__ == "__main__":
    mine = cluster.launch("local", workers=2, memory="1GB")
    client = mine.get_client()
    print(*client.run(__import__("os").getpid).values(), flush=True)
    threading.Event().wait(100)
"""


def started(program: str, **options: Any) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(Path(cluster.__file__).parents[1])}
    return subprocess.Popen(
        [sys.executable, *([program] if program.endswith(".py") else ["-c", program])],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        **options,
    )


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_local_workers_end_with_their_process(number: signal.Signals) -> None:
    process = started(SCRIPT)
    killer = threading.Timer(60, process.kill)
    killer.start()
    try:
        assert process.stdout is not None
        workers = [psutil.Process(int(text)) for text in process.stdout.readline().split()]
        assert len(workers) == 2
        process.send_signal(number)
        _, alive = psutil.wait_procs(workers, timeout=30)
        process.communicate(timeout=60)
    finally:
        killer.cancel()
        process.kill()
        process.communicate()
    assert alive == []


def test_a_script_without_main_guard_is_told_so_before_the_deadline(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from higgsnb import cluster\ncluster.launch('local', workers=1, memory='1GB', deadline=8)\n", encoding="utf-8"
    )
    process = started(str(script))
    try:
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert "ClusterError" in errors
    assert "under `if __name__ == '__main__':`" in errors


def test_an_idle_or_broken_scheduler_is_told() -> None:
    with cluster.launch("local", workers=1, memory="1GB") as mine:
        inner: Any = mine._provider
        inner._dask.sync(inner._dask.scheduler.close)
        wait_for(lambda: mine.state.phase == "failed", f"the loss is told: {mine.state}", 60)
        assert "the scheduler has ended" in mine.state.reason
        assert "the ledger resumes" in mine.state.remedy


def test_a_call_that_takes_too_long_is_given_up() -> None:
    never = threading.Event()
    with pytest.raises(TimeoutError, match="no answer in 0 s: the moon"):
        cluster.within(0.05, never.wait, "the moon")
    never.set()
    with pytest.raises(KeyError):
        cluster.within(5, lambda: {}["x"], "nothing")


# --- What is asked for ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "lokal"}, "expected one of auto, local, kubernetes"),
        ({"workers": 0}, "workers = 0; expected at least 1"),
        ({"cores": 0}, "cores = 0"),
        ({"idle_timeout": 0}, "idle_timeout = 0; expected at least 1"),
        ({"memory": "2 bananas"}, "is no amount; write for instance 2GiB"),
        ({"memory": "5MB"}, "a worker needs at least 100MB"),
    ],
)
def test_what_is_out_of_range_is_refused_with_the_right_value(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cluster.launch(**{"kind": "local", **options})


@pytest.mark.parametrize(
    ("text", "amount"), [("2GiB", 2**31), ("500 MB", 500_000_000), ("1.5G", 1_500_000_000), (10**9, 10**9)]
)
def test_memory_is_read_as_people_write_it(text: str | int, amount: int) -> None:
    assert cluster.parse_memory(text) == amount


@pytest.mark.usefixtures("elsewhere")
def test_outside_a_hub_the_choice_is_this_machine() -> None:
    assert cluster.choose() == ("local", "this is no hub session, so the workers run on this machine")
    assert cluster.leftovers() == ()


@pytest.mark.usefixtures("elsewhere")
def test_on_mybinder_the_choice_is_this_session(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BINDER_LAUNCH_HOST", "https://mybinder.org/")
    kind, why = cluster.choose()
    assert kind == "local"
    assert "mybinder.org gives no access to Kubernetes" in why


@pytest.mark.usefixtures("elsewhere")
def test_without_kubeconfig_kubernetes_is_refused_with_the_remedy() -> None:
    pytest.importorskip("kr8s", reason="needs kr8s: pip install 'higgsnb[kubernetes]'")
    with pytest.raises(cluster.ClusterError, match=r"Kubernetes API: .*credentials") as failure:
        cluster.launch("kubernetes", workers=1, image="x")
    assert "Set KUBECONFIG" in failure.value.remedy


def test_a_batch_system_that_is_not_here_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("dask_jobqueue", reason="needs dask-jobqueue: pip install dask-jobqueue")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(cluster.ClusterError, match="batch system: not in PATH: condor_submit, condor_rm"):
        cluster.launch("htcondor", workers=1)


def test_a_gateway_that_does_not_answer_is_named() -> None:
    pytest.importorskip("dask_gateway", reason="needs dask-gateway: pip install dask-gateway")
    (library, gateway) = cluster.preflight("gateway", address="http://127.0.0.1:9")
    assert library.good
    assert not gateway.good
    assert "DASK_GATEWAY__ADDRESS" in gateway.remedy


def test_files_that_the_workers_cannot_see_are_refused_before_the_start(tmp_path: Path) -> None:
    toy = datasets.load("toy")
    first = toy.datasets[0]
    hidden = replace(
        toy, datasets=(replace(first, files=(datasets.File(str(tmp_path / "a.root")),)), *toy.datasets[1:])
    )
    remote = replace(toy, datasets=(replace(first, files=(datasets.File("https://example.org/a.root"),)),))
    masked = replace(toy, golden_json=str(tmp_path / "Cert.txt"))
    for kind in ("local", "slurm", "htcondor"):
        cluster.check_campaign(hidden, kind)
    for kind in ("kubernetes", "gateway"):
        cluster.check_campaign(toy, kind)
        cluster.check_campaign(remote, kind)
        for campaign in (hidden, masked):
            with pytest.raises(
                cluster.ClusterError, match=r"campaign 'toy' reads .*(a\.root|Cert\.txt).*cannot see"
            ) as failure:
                cluster.check_campaign(campaign, kind)
            assert "HIGGSNB_MIRROR" in failure.value.remedy


def test_only_addresses_without_secrets_reach_the_pods(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HIGGSNB_MIRROR", str(tmp_path))
    monkeypatch.setenv("HIGGSNB_ALLOW_HOSTS", "data.example.org")
    found = kubernetes.environment({"MINE": "1"})
    assert "HIGGSNB_MIRROR" not in found
    assert (found["HIGGSNB_ALLOW_HOSTS"], found["MINE"]) == ("data.example.org", "1")
    assert "distributed.http.scheduler.api" in json.loads(found["DASK_DISTRIBUTED__SCHEDULER__HTTP__ROUTES"])
    monkeypatch.setenv("HIGGSNB_MIRROR", "https://mirror.example.org/cms")
    assert kubernetes.environment({})["HIGGSNB_MIRROR"] == "https://mirror.example.org/cms"
    monkeypatch.setenv("HIGGSNB_MIRROR", "https://me:canary@mirror.example.org/cms")
    with pytest.raises(ValueError, match=r"HIGGSNB_MIRROR = .* has a secret") as failure:
        kubernetes.environment({})
    assert "canary" not in str(failure.value)


def test_users_whose_names_look_alike_have_different_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = set()
    for name in ("jane@example.org", "jane-example.org", "jane.example.org", "a" * 200, "Ω"):
        monkeypatch.setenv("JUPYTERHUB_USER", name)
        label = kubernetes.user_label()
        assert len(label) <= 63
        assert label.replace("-", "").isalnum()
        labels.add(label)
    assert len(labels) == 5


def test_importing_the_module_is_light() -> None:
    code = "import sys, higgsnb.cluster; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"dask", "distributed", "kr8s", "httpx", "dask_kubernetes", "psutil"} & set(answer.stdout.split())


# --- What goes wrong, in the words of Kubernetes ---------------------------------------------------


def pod(component: str = "worker", **status: Any) -> dict[str, Any]:
    """A pod as the API gives it, as far as it matters."""
    return {
        "metadata": {"name": "x", "labels": {"dask.org/component": component}},
        "spec": {"containers": [{"image": "repo/image:tag"}]},
        "status": {"phase": "Pending", **status},
    }


def waiting(reason: str, message: str = "", **status: Any) -> dict[str, Any]:
    state = {"waiting": {"reason": reason, "message": message}}
    return pod(containerStatuses=[{"image": "repo/image:tag", "state": state, "restartCount": 0, **status}])


PULL = 'Back-off pulling image "repo/image:tag"'
KILLED = {"lastState": {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}}
READY = [{"type": "Ready", "status": "True"}]
FULL = "0/3 nodes are available: 3 Insufficient memory."


def test_worker_that_ends_for_want_of_its_scheduler_is_not_the_trouble() -> None:
    crashed = waiting("CrashLoopBackOff", lastState={"terminated": {"exitCode": 1, "reason": "Error"}})
    assert kubernetes.trouble([pod("scheduler", phase="Running"), crashed], []) is None
    assert kubernetes.trouble([pod("scheduler", phase="Running", conditions=READY), crashed], []) is not None


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (waiting("ImagePullBackOff", PULL), "cannot pull its image repo/image:tag: ImagePullBackOff, Back-off pulling"),
        (waiting("InvalidImageName"), "InvalidImageName"),
        (waiting("CreateContainerConfigError", "container has runAsNonRoot and image will run as root"), "run as root"),
        (waiting("CrashLoopBackOff", **KILLED), "killed for using more memory than its limit"),
        (
            waiting("CrashLoopBackOff", lastState={"terminated": {"exitCode": 2, "reason": "Error"}}),
            "CrashLoopBackOff, exit code 2",
        ),
        (
            pod(conditions=[{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": FULL}]),
            f"a worker is unschedulable, no node has room for it: {FULL}",
        ),
        (pod(phase="Failed", reason="Evicted", message="low on memory"), "ended by Kubernetes: Evicted, low on memory"),
    ],
)
def test_trouble_of_a_pod_is_named_in_its_own_words(found: dict[str, Any], words: str) -> None:
    told = kubernetes.trouble([pod("scheduler", phase="Running", conditions=READY), found], [])
    assert told is not None
    assert words in told.reason
    assert told.remedy


def test_quota_and_admission_are_named_from_events() -> None:
    quota = {"reason": "FailedCreate", "message": "pods is forbidden: exceeded quota: team, used: pods=5"}
    policy = {"reason": "FailedCreate", "message": 'violates PodSecurity "restricted:latest"'}
    assert "quota of the namespace is used up" in str(kubernetes.trouble([], [quota]))
    assert "Kubernetes refuses the pods: violates PodSecurity" in str(kubernetes.trouble([], [policy]))
    assert kubernetes.trouble([], [{"reason": "Killing", "message": "x"}]) is None


def test_a_healthy_or_starting_pod_is_no_trouble() -> None:
    assert kubernetes.trouble([pod(phase="Running"), waiting("ContainerCreating")], []) is None


def test_secrets_and_walls_of_text_do_not_get_into_a_reason() -> None:
    told = kubernetes.trouble([waiting("ErrImagePull", "https://me:canary@registry/v2 " + "x" * 5000)], [])
    assert told is not None
    assert "canary" not in told.reason
    assert len(told.reason) < 500


def test_patience_ends_only_if_the_same_trouble_lasts() -> None:
    patience = cluster.Patience()
    assert not patience.over(None)
    assert not patience.over(Trouble("a", "do a", patience=100))
    assert patience.over(Trouble("b", "do b", patience=0))
    assert not patience.over(Trouble("a", "do a", patience=100))


def test_a_quota_is_compared_with_what_is_needed() -> None:
    status = {
        "hard": {"pods": "10", "requests.cpu": "4", "limits.memory": "8Gi"},
        "used": {"pods": "3", "requests.cpu": "2500m"},
    }
    quota = {"metadata": {"name": "team"}, "status": status}
    assert list(kubernetes.shortage(quota, {"pods": 3, "cpu": 1.5, "memory": 2**33})) == []
    assert list(kubernetes.shortage(quota, {"pods": 8, "cpu": 1.6, "memory": 2**33 + 1})) == [
        "team: pods 10, used 3, needed 8",
        "team: requests.cpu 4, used 2500m, needed 1.6",
        "team: limits.memory 8Gi, used 0, needed 8.58993e+09",
    ]


def versions(client: str, scheduler: str, worker: str) -> dict[str, Any]:
    made = [{"packages": {"python": "3.11", "numpy": version}} for version in (client, scheduler, worker)]
    return {"client": made[0], "scheduler": made[1], "workers": {"tcp://10.0.0.1:1": made[2]}}


def test_a_difference_of_versions_names_package_and_both_versions() -> None:
    assert cluster.skew(versions("2.4", "2.4", "2.4")) == ""
    assert cluster.skew(versions("2.4", "2.4", "2.3")) == "numpy 2.4 here, 2.3 on the workers"
    assert cluster.skew(versions("2.4", "2.3", "2.3")) == "numpy 2.4 here, 2.3 on the scheduler"


def test_the_dashboard_is_reached_through_the_proxy_of_a_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster.util, "find_spec", lambda _name: object())
    monkeypatch.delenv("JUPYTERHUB_SERVICE_PREFIX", raising=False)
    assert cluster.dashboard_link("127.0.0.1:8787") == "http://127.0.0.1:8787/status"
    monkeypatch.setenv("JUPYTERHUB_SERVICE_PREFIX", "/user/jane/")
    assert cluster.dashboard_link("127.0.0.1:8787") == "/user/jane/proxy/8787/status"
    assert cluster.dashboard_link("10.1.2.3:8787") == "/user/jane/proxy/10.1.2.3:8787/status"
    assert cluster.dashboard_link("") == ""


# --- A batch system --------------------------------------------------------------------------------

SBATCH = """
    #!{python}
    import pathlib, subprocess, sys
    folder = pathlib.Path({folder!r})
    script = pathlib.Path(sys.argv[-1]).read_text()
    number = len(list(folder.glob("job-*"))) + 1
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
    pytest.importorskip("dask_jobqueue", reason="needs dask-jobqueue: pip install dask-jobqueue")
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
    assert "#SBATCH -p short" in script
    assert "#SBATCH --mem=954M" in script  # 1 GB in units of 1024², rounded up
    assert "--death-timeout 60" in script
    wait_for(lambda: not jobs_alive(slurm), "the jobs are cancelled")


def test_jobs_that_wait_in_the_queue_are_told_and_cancelled(slurm: Path, tmp_path: Path) -> None:
    program = tmp_path / "sbatch"
    program.write_text(f"#!{sys.executable}\nprint('Submitted batch job 7')\n")  # never started
    states: list[cluster.ClusterState] = []
    with pytest.raises(cluster.ClusterError, match="workers are still in the queue"):
        cluster.launch("slurm", workers=1, memory="1GB", deadline=4, interface="lo", on_state=states.append)
    assert states[-1].phase == "failed"
    assert "Look at the queue" in states[-1].remedy
    assert jobs_alive(slurm) == []
