"""What Kubernetes says, in words for people, and what goes to it; `tests/kubernetes` has the clusters."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from higgsnb.cluster import ClusterSpec
from higgsnb.cluster.kubernetes import api, preflight, problems, spec
from higgsnb.errors import OptionError


def test_only_addresses_without_secrets_reach_the_pods(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HIGGSNB_MIRROR", str(tmp_path))
    monkeypatch.setenv("HIGGSNB_ALLOW_HOSTS", "data.example.org")
    found = spec.environment({"MINE": "1"})
    assert "HIGGSNB_MIRROR" not in found
    assert (found["HIGGSNB_ALLOW_HOSTS"], found["MINE"]) == ("data.example.org", "1")
    assert "distributed.http.scheduler.api" in json.loads(found["DASK_DISTRIBUTED__SCHEDULER__HTTP__ROUTES"])
    monkeypatch.setenv("HIGGSNB_MIRROR", "https://mirror.example.org/cms")
    assert spec.environment({})["HIGGSNB_MIRROR"] == "https://mirror.example.org/cms"
    monkeypatch.setenv("HIGGSNB_MIRROR", "https://me:canary@mirror.example.org/cms")
    with pytest.raises(ValueError, match=r"HIGGSNB_MIRROR = .* contains a secret") as failure:
        spec.environment({})
    assert "canary" not in str(failure.value)


def test_users_whose_names_look_alike_have_different_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = set()
    for name in ("jane@example.org", "jane-example.org", "jane.example.org", "a" * 200, "Ω"):
        monkeypatch.setenv("JUPYTERHUB_USER", name)
        label = api.user_label()
        assert len(label) <= 63
        assert label.replace("-", "").isalnum()
        labels.add(label)
    assert len(labels) == 5


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


EARLY, READY_AT, LATE = (f"2026-11-27T10:00:{second}Z" for second in ("05", "09", "31"))
SCHEDULER = pod("scheduler", phase="Running", conditions=[{**READY[0], "lastTransitionTime": READY_AT}])
REFUSED = {"reason": "FailedCreate", "type": "Warning", "message": "pods is forbidden: exceeded quota: small"}


def refused(replica_set: str, message: str = REFUSED["message"]) -> dict[str, Any]:
    return {**REFUSED, "message": message, "involvedObject": {"kind": "ReplicaSet", "name": replica_set}}


def ended(at: str, **status: Any) -> dict[str, Any]:
    """What the API says of a container that has ended before."""
    return {"lastState": {"terminated": {"exitCode": 1, "reason": "Error", "finishedAt": at}}, **status}


def reason(pods: list[dict[str, Any]], *events: dict[str, Any]) -> str:
    found = problems.find_problem(pods, events)
    return found.reason if found else ""


def test_worker_that_ends_for_want_of_its_scheduler_is_not_the_problem() -> None:
    crashed = waiting("CrashLoopBackOff", lastState={"terminated": {"exitCode": 1, "reason": "Error"}})
    assert problems.find_problem([pod("scheduler", phase="Running"), crashed], []) is None
    assert problems.find_problem([pod("scheduler", phase="Running", conditions=READY), crashed], []) is not None


def test_the_crash_of_a_worker_is_its_own_only_once_the_scheduler_is_ready() -> None:
    before, after = (waiting("CrashLoopBackOff", **ended(at)) for at in (EARLY, LATE))
    again = pod(phase="Running", containerStatuses=[{"state": {"running": {}}, **ended(EARLY, restartCount=2)}])
    assert reason([SCHEDULER, before]) == reason([SCHEDULER, again]) == reason([before]) == ""
    assert "a worker keeps crashing" in reason([SCHEDULER, after])
    for worker in (before, again):
        assert "exceeded quota" in reason([SCHEDULER, worker], refused("c-default-worker-2"))


def test_what_keeps_the_scheduler_away_comes_before_what_that_does_to_workers() -> None:
    crashed = waiting("CrashLoopBackOff", **ended(LATE))
    full = pod(conditions=[{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": FULL}])
    for workers in ([crashed], [full], [crashed, full], []):
        assert "no schedulers" in reason(
            workers, refused("c-default-worker-1"), refused("c-scheduler-1", "no schedulers")
        )
        pulling = waiting("ErrImagePull")
        pulling["metadata"]["labels"]["dask.org/component"] = "scheduler"
        assert "the scheduler cannot pull its image" in reason([*workers, pulling], refused("c-default-worker-1"))


def test_a_refusal_counts_only_while_its_pod_is_missing() -> None:
    worker = pod(phase="Running")
    worker["metadata"]["ownerReferences"] = [{"kind": "ReplicaSet", "name": "c-default-worker-1"}]
    assert reason([SCHEDULER, worker], refused("c-default-worker-1")) == ""
    assert "exceeded quota" in reason([SCHEDULER, worker], refused("c-default-worker-2"))


@pytest.mark.parametrize(
    ("workers", "some_may_come"),
    [
        ([pod(phase="Running")], True),
        ([pod()], True),
        ([], False),
        ([waiting("ErrImagePull")], False),
        ([waiting("CrashLoopBackOff", **ended(LATE))], False),
        ([waiting("CrashLoopBackOff", **ended(LATE)), pod(phase="Running")], True),
    ],
)
def test_what_keeps_some_workers_away_does_not_end_the_start_while_others_may_come(
    workers: list[dict[str, Any]], some_may_come: bool
) -> None:
    found = problems.find_problem([SCHEDULER, *workers], [refused("c-default-worker-9")])
    assert found is not None
    assert found.some_may_come is some_may_come


def test_what_the_operator_cannot_make_is_named_from_its_log() -> None:
    words = "Handler 'daskcluster_create_components/status.phase' failed with an exception: services \"c\" is forbidden"
    event = {"type": "Error", "reason": "Logging", "message": words, "involvedObject": {"name": "c"}}
    assert "the Dask operator cannot make the cluster: Handler" in reason([SCHEDULER], event)
    assert reason([SCHEDULER, pod(phase="Running")], event) == ""  # it has tried again since
    assert reason([SCHEDULER], {**event, "type": "Warning"}) == ""


def test_a_pod_that_ran_out_of_disk_is_told_what_to_ask_for() -> None:
    words = "Pod ephemeral local storage usage exceeds the total limit of containers 10Gi."
    found = problems.find_problem([SCHEDULER, pod(phase="Failed", reason="Evicted", message=words)], [])
    assert found is not None
    assert 'disk="20GiB"' in found.hint
    assert "HIGGSNB_STREAM_ABOVE" in found.hint


@pytest.mark.parametrize(("options", "limit"), [({}, 10 * 2**30), ({"disk": "500MB"}, 5 * 10**8)])
def test_workers_have_a_disk_of_limited_size(options: dict[str, Any], limit: int) -> None:
    pytest.importorskip("dask_kubernetes", reason="needs dask-kubernetes: pip install 'higgsnb[kubernetes]'")
    wanted = ClusterSpec.parse("kubernetes", workers=1, image="x", **options)
    made = spec.cluster_object("c", wanted, None)["spec"]
    worker, scheduler = (made[role]["spec"]["containers"][0]["resources"] for role in ("worker", "scheduler"))
    assert worker["limits"]["ephemeral-storage"] == str(limit)
    assert scheduler["limits"]["ephemeral-storage"] == "1Gi"
    assert [one["requests"]["ephemeral-storage"] for one in (worker, scheduler)] == ["0", "0"]
    with pytest.raises(OptionError, match="disk = '1MB' is 1000000 bytes"):
        ClusterSpec.parse("kubernetes", disk="1MB")


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
def test_problem_of_a_pod_is_named_in_its_own_words(found: dict[str, Any], words: str) -> None:
    told = problems.find_problem([pod("scheduler", phase="Running", conditions=READY), found], [])
    assert told is not None
    assert words in told.reason
    assert told.hint


def test_quota_and_admission_are_named_from_events() -> None:
    quota = {"reason": "FailedCreate", "message": "pods is forbidden: exceeded quota: team, used: pods=5"}
    policy = {"reason": "FailedCreate", "message": 'violates PodSecurity "restricted:latest"'}
    assert "quota of the namespace is used up" in str(problems.find_problem([], [quota]))
    assert "Kubernetes refuses the pods: violates PodSecurity" in str(problems.find_problem([], [policy]))
    assert problems.find_problem([], [{"reason": "Killing", "message": "x"}]) is None


def test_a_healthy_or_starting_pod_is_not_a_problem() -> None:
    assert problems.find_problem([pod(phase="Running"), waiting("ContainerCreating")], []) is None


def test_secrets_and_walls_of_text_do_not_get_into_a_reason() -> None:
    told = problems.find_problem([waiting("ErrImagePull", "https://me:canary@registry/v2 " + "x" * 5000)], [])
    assert told is not None
    assert "canary" not in told.reason
    assert len(told.reason) < 500


def test_a_quota_is_compared_with_what_is_needed() -> None:
    status = {
        "hard": {"pods": "10", "requests.cpu": "4", "limits.memory": "8Gi"},
        "used": {"pods": "3", "requests.cpu": "2500m"},
    }
    quota = {"metadata": {"name": "team"}, "status": status}
    assert list(preflight.shortage(quota, {"pods": 3, "cpu": 1.5, "memory": 2**33})) == []
    disks = {"requests.ephemeral-storage": "5Gi", "limits.ephemeral-storage": "20Gi"}
    small = {"metadata": {"name": "team"}, "status": {"hard": disks}}
    assert list(preflight.shortage(small, {"limits.ephemeral-storage": 2.0**35})) == [
        "team: limits.ephemeral-storage 20Gi, used 0, needed 3.43597e+10"
    ]
    assert list(preflight.shortage(quota, {"pods": 8, "cpu": 1.6, "memory": 2**33 + 1})) == [
        "team: pods 10, used 3, needed 8",
        "team: requests.cpu 4, used 2500m, needed 1.6",
        "team: limits.memory 8Gi, used 0, needed 8.58993e+09",
    ]
