"""The life of a cluster on Kubernetes, with the shipped Role and nothing more."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from kube import Kube
from waiting import wait_for

import higgsnb
from higgsnb import cluster, datasets, engine, errors, selection
from higgsnb.datasets.toy import writer
from higgsnb.results import Result

pytestmark = pytest.mark.kubernetes

EVENTS, CHUNK_EVENTS = 3_000_000, 20_000
CLIENT = """
import sys, threading
from higgsnb import cluster
if __name__ == "__main__":
    def tell(state):
        print(state.phase, flush=True)
    mine = cluster.launch("kubernetes", workers=1, memory="1GiB", image=sys.argv[1], idle_timeout=int(sys.argv[2]),
                          on_state=tell)
    print("name", mine.state.name, flush=True)
    threading.Event().wait(120)
"""


def fingerprint(result: Result) -> str:
    """sha256 over every bin of every histogram."""
    digest = hashlib.sha256()
    for name, histogram in sorted(result.histograms.items()):
        digest.update(name.encode() + histogram.values(flow=True).tobytes())
    return digest.hexdigest()


@pytest.fixture(scope="module")
def campaign(kube: Kube, tmp_path_factory: pytest.TempPathFactory) -> datasets.Campaign:
    """The toy campaign: large where the pods of the stand-in see this disk, else as each worker makes it for itself."""
    small = datasets.load("toy")
    if not kube.stand_in:
        return small
    folder = writer.make(tmp_path_factory.mktemp("toy"), events=EVENTS)
    here = [
        replace(d, files=tuple(replace(f, url=str(folder / f.url.removeprefix("toy:")), events=None) for f in d.files))
        for d in small.datasets
    ]
    return replace(small, datasets=tuple(here))


def test_a_result_of_a_cluster_that_is_scaled_loses_a_worker_and_adapts_is_that_of_this_machine(
    user: Kube, campaign: datasets.Campaign, tmp_path: Path
) -> None:
    chosen = selection.load("open2012")
    *_, here = engine.run(campaign, chosen)
    states: list[cluster.ClusterState] = []
    done: list[int] = []
    with cluster.launch("kubernetes", workers=2, memory="1GiB", image=user.image, on_state=states.append) as mine:
        assert (mine.state.phase, mine.state.workers_ready, mine.state.why) == ("ready", 2, "asked for")
        client = mine.get_client()
        for there in engine.run(
            campaign, chosen, client=client, chunk_events=CHUNK_EVENTS, ledger=tmp_path / "ledger.sqlite"
        ):
            done.append(there.coverage.events[0])
            if len(done) == 1:
                mine.scale(4)
                assert mine.state.phase == "scaling"
            if len(done) == 3:
                user.delete_pod(user.pods("worker")[0])
        wait_for(lambda: mine.state.workers_ready == 4, f"four workers, the one that was deleted replaced: {mine}", 60)
        mine.adapt(1, 3)
        assert "adaptive" in mine.state.reason
        wait_for(lambda: mine.state.workers_ready < 4, f"fewer workers, since there is no work: {mine}", 60)
        logs = mine.logs()
        assert any("distributed.scheduler" in text for name, text in logs.items() if "scheduler" in name)
    assert fingerprint(there) == fingerprint(here)
    assert there.counts.keys() == here.counts.keys()
    assert there.complete
    assert len(done) > 3
    assert 0 < done[0] < done[2] < done[-1] == here.coverage.events[1]
    phases = [
        state.phase
        for before, state in zip([None, *states], states, strict=False)
        if before is None or before.phase != state.phase
    ]
    assert phases[:4] == ["preflight", "starting", "ready", "scaling"]
    assert phases[-2:] == ["closing", "closed"]
    json.dumps([state.as_dict() for state in states])


def test_a_closed_cluster_can_be_closed_again_and_refuses_the_rest(user: Kube) -> None:
    mine = cluster.launch("kubernetes", workers=1, memory="1GiB", image=user.image)
    mine.close()
    mine.close()
    assert mine.state.phase == "closed"
    with pytest.raises(errors.ClusterError, match="the cluster is closed"):
        mine.scale(2)


def test_port_that_is_taken_before_it_is_opened_does_not_matter(user: Kube, monkeypatch: pytest.MonkeyPatch) -> None:
    from kr8s.asyncio.portforward import PortForward

    find, found = PortForward._find_available_port, list[int]()
    with socket.create_server(("127.0.0.1", 0)) as taken:

        def one_that_is_taken(self: PortForward) -> int:
            found.append(taken.getsockname()[1] if len(found) % 3 < 2 else find(self))
            return found[-1]

        monkeypatch.setattr(PortForward, "_find_available_port", one_that_is_taken)
        with cluster.launch("kubernetes", workers=1, memory="1GiB", image=user.image) as mine:
            assert mine.get_client().submit(sum, [1, 2]).result(timeout=30) == 3
    assert len(found) == 6  # two ports, of the scheduler and its dashboard, each at the third try


def test_the_operators_race_does_not_matter(faulty: Kube) -> None:
    # Slows the operator down between two handlers, so that `Pending` overwrites `Running` in most starts.
    faulty.fault(latency=0.1, match="POST .*daskworkergroups", user="dask-operator")
    with cluster.launch("kubernetes", workers=1, memory="1GiB", image=faulty.image) as mine:
        assert mine.state.workers_ready == 1


def test_the_pods_have_no_more_rights_than_they_need(user: Kube) -> None:
    with cluster.launch("kubernetes", workers=1, memory="1GiB", image=user.image, idle_timeout=77) as mine:
        pods = user.admin.list("pods", labelSelector=f"dask.org/cluster-name={mine.state.name}")
        (made,) = user.admin.list("daskclusters", group="kubernetes.dask.org")
    assert len(pods) == 2
    for pod in pods:
        spec, (container,) = pod["spec"], pod["spec"]["containers"]
        assert spec["automountServiceAccountToken"] is False
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        resources, names = container["resources"], {"cpu", "memory", "ephemeral-storage"}
        assert set(resources["requests"]) == set(resources["limits"]) == names
        assert pod["metadata"]["labels"]["app.kubernetes.io/managed-by"] == "higgsnb"
    assert made["spec"]["idleTimeout"] == 77


def start_client(kube: Kube, idle_timeout: int, image: str = "") -> subprocess.Popen[str]:
    command = [sys.executable, "-c", CLIENT, image or kube.image, str(idle_timeout)]
    environment = {**os.environ, "PYTHONPATH": str(Path(higgsnb.__file__).parents[1])}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def read_until(process: subprocess.Popen[str], word: str, seconds: float = 90) -> list[str]:
    """The lines of a process up to one that begins with a word; a failure if it does not come."""
    lines: list[str] = []
    killer = threading.Timer(seconds, process.kill)
    killer.start()
    try:
        for line in process.stdout or ():
            lines.append(line.strip())
            if line.startswith(word):
                return lines
    finally:
        killer.cancel()
    raise AssertionError(f"no {word!r} in {lines}; {process.stderr.read() if process.stderr else ''}")


def end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate(timeout=20)


def test_after_kill_9_of_the_client_the_cluster_is_gone_within_its_idle_timeout(user: Kube) -> None:
    process = start_client(user, idle_timeout=8)
    try:
        name = read_until(process, "name")[-1].split()[1]
    finally:
        end(process)
    (left,) = cluster.orphans()  # found earlier than it goes by itself
    assert (left.name, left.process) == (name, process.pid)
    wait_for(lambda: not user.objects(), "the operator removes what is idle", 90)
    assert cluster.orphans() == ()


def test_what_a_killed_client_left_is_listed_and_removed(user: Kube) -> None:
    with cluster.launch("kubernetes", workers=1, memory="1GiB", image=user.image) as used:
        process = start_client(user, idle_timeout=600)
        try:
            read_until(process, "name")
            assert cluster.orphans() == ()  # both are in use
        finally:
            end(process)
        left = cluster.orphans()
        assert [item.process for item in left] == [process.pid]
        assert left[0].name in left[0].text
        cluster.remove_orphans(left)
        assert cluster.orphans() == ()
        assert used.get_client().submit(sum, [1, 2]).result(timeout=20) == 3
    assert user.objects() == []


def test_another_users_clusters_are_not_listed(user: Kube, monkeypatch: pytest.MonkeyPatch) -> None:
    process = start_client(user, idle_timeout=600)
    try:
        read_until(process, "name")
    finally:
        end(process)
    monkeypatch.setenv("JUPYTERHUB_USER", "student-example.org")  # the same letters once sanitised
    assert cluster.orphans() == ()
    monkeypatch.setenv("JUPYTERHUB_USER", "student@example.org")
    cluster.remove_orphans(cluster.orphans())


@pytest.mark.parametrize("phase", ["starting", "ready"])
def test_ctrl_c_leaves_nothing(user: Kube, phase: str) -> None:
    process = start_client(user, idle_timeout=600)
    try:
        read_until(process, phase)
        process.send_signal(signal.SIGINT)
        _, output = process.communicate(timeout=120)
    finally:
        end(process)
    assert "KeyboardInterrupt" in output
    assert user.objects() == []


def test_a_cancelled_start_leaves_nothing(user: Kube) -> None:
    cancel, states = threading.Event(), list[cluster.ClusterState]()

    def press_stop() -> None:
        wait_for(lambda: user.pods("scheduler"), "the cluster is being made")
        cancel.set()

    watch = threading.Thread(target=press_stop)
    watch.start()
    options = {"workers": 2, "cores": 1000, "memory": "1GiB", "image": user.image}  # never ready: no node has room
    with pytest.raises(errors.ClusterError, match="start-up was cancelled"):
        cluster.launch("kubernetes", **options, on_state=states.append, cancel=cancel)
    watch.join()
    assert (states[-1].phase, states[-1].reason) == ("failed", "start-up was cancelled")
    wait_for(lambda: not user.objects(), "a thread removes what was made", 90)


IN_POD = """
import threading
from higgsnb import cluster
kind, why = cluster.choose()
print("chosen", kind, why, flush=True)
mine = cluster.launch(workers=1, memory="1GiB", idle_timeout=600)
print("computed", mine.get_client().submit(sum, range(1000)).result(), flush=True)
threading.Event().wait(300)
"""


def test_in_a_hub_session_kubernetes_is_chosen_and_goes_with_the_users_pod(user: Kube) -> None:
    session = [{"name": "JUPYTER_IMAGE_SPEC", "value": user.image}]  # as the hub sets it
    container = {"name": "notebook", "image": user.image, "args": ["python", "-c", IN_POD], "env": session}
    spec = {"serviceAccountName": "higgsnb-dask", "automountServiceAccountToken": True, "containers": [container]}
    body = {"metadata": {"name": "jupyter-student"}, "spec": {**spec, "restartPolicy": "Never"}}
    user.admin.call("POST", user.admin.path("pods"), body=body)
    try:
        wait_for(lambda: user.pods("worker") or not is_pending(user, "jupyter-student"), "the pod of the user", 60)
        text = wait_for(lambda: pod_log(user, "jupyter-student", "computed"), "a result in the pod's log", 60)
    finally:
        user.delete_pod("jupyter-student")
    assert "chosen kubernetes this hub session may start workers on Kubernetes" in text
    assert "computed 499500" in text
    wait_for(lambda: not user.objects(), "the cluster goes with its owner", 90)


def is_pending(kube: Kube, name: str) -> bool:
    pod = kube.admin.call("GET", kube.admin.path("pods", name))
    return pod.get("status", {}).get("phase", "Pending") == "Pending"


def pod_log(kube: Kube, name: str, word: str) -> str:
    """The log of a pod, once a word is in it."""
    text = str(kube.admin.call("GET", kube.admin.path("pods", f"{name}/log")))
    assert "Traceback" not in text, text
    return text if word in text else ""
