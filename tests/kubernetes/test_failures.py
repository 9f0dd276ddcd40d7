"""What goes wrong on Kubernetes is named in words, with a hint, within its deadline; and nothing is left behind."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from kube import MANIFESTS, Kube, Proxy, start_fails, yaml_documents
from waiting import wait_for

import higgsnb
from higgsnb import cluster, errors
from higgsnb.cluster import ClusterSpec
from higgsnb.cluster.kubernetes.operated import delete
from higgsnb.cluster.kubernetes.preflight import RIGHTS
from higgsnb.cluster.prepare import prepare

pytestmark = pytest.mark.kubernetes

OPERATOR = "/apis/apps/v1/namespaces/dask-operator/deployments/dask-operator"
RBAC = "/apis/rbac.authorization.k8s.io/v1"


def test_1_no_custom_resource_definitions(faulty: Kube) -> None:
    faulty.fault(404, match="GET /apis/kubernetes.dask.org/v1$")
    start_fails(faulty, "no DaskCluster", "install it: binder/hub/README.md")


@contextmanager
def operator_away(kube: Kube) -> Iterator[None]:
    """No operator while this lasts."""

    def pods() -> list[Any]:
        found: list[Any] = kube.admin.call("GET", "/api/v1/namespaces/dask-operator/pods")["items"]
        return found

    def ready() -> bool:
        return bool(kube.admin.call("GET", OPERATOR).get("status", {}).get("readyReplicas"))

    kube.admin.call("PATCH", OPERATOR, body={"spec": {"replicas": 0}})
    try:
        wait_for(lambda: not pods(), "the operator's pod is gone")
        yield
    finally:
        kube.admin.call("PATCH", OPERATOR, body={"spec": {"replicas": 1}})
        wait_for(ready, "the operator is back", 60)


def test_2_no_operator(faulty: Kube) -> None:
    with operator_away(faulty):
        start_fails(faulty, "no Dask operator has taken up the cluster in 2[0-9] s", "whether the operator runs")


@contextmanager
def role_without(kube: Kube, group: str, resource: str, verb: str) -> Iterator[None]:
    """The user's Role lacks one verb while this lasts."""
    name = "higgsnb-dask-outside" if resource == "pods/portforward" else "higgsnb-dask"
    path = f"{RBAC}/namespaces/{kube.namespace}/roles/{name}"
    whole = kube.admin.call("GET", path)["rules"]
    less = [
        {**rule, "verbs": [item for item in rule["verbs"] if item != verb]}
        if rule["resources"] == [resource] and rule["apiGroups"] == [group]
        else rule
        for rule in whole
    ]
    assert less != whole
    kube.admin.call("PATCH", path, body={"rules": less})
    try:
        yield
    finally:
        kube.admin.call("PATCH", path, body={"rules": whole})


def test_3_a_missing_right(user: Kube) -> None:
    with role_without(user, "kubernetes.dask.org", "daskclusters", "create"):
        start_fails(user, "rights on daskclusters: may not create", "the verb create on daskclusters")


@pytest.mark.parametrize(
    ("group", "resource", "verb"), [(*key, verb) for key, verbs in RIGHTS.items() for verb in verbs]
)
def test_each_verb_of_the_role_is_missed_by_name(user: Kube, group: str, resource: str, verb: str) -> None:
    with role_without(user, group, resource, verb):
        checks = prepare(ClusterSpec.parse("kubernetes", image=user.image)).checks
    assert [(check.name, check.found.split(" in ")[0]) for check in checks if not check.good] == [
        (f"rights on {resource}", f"may not {verb}")
    ]


def test_with_the_shipped_role_every_check_is_good(user: Kube) -> None:
    checks = prepare(ClusterSpec.parse("kubernetes", image=user.image)).checks
    assert [check for check in checks if not check.good] == []
    assert {"Kubernetes API", "Dask operator", "quota", "image of the workers"} <= {check.name for check in checks}


def test_4_an_image_that_cannot_be_pulled(user: Kube) -> None:
    image = "dask:missing" if user.stand_in else "registry.invalid/higgsnb:none"
    start_fails(user, f"cannot pull its image {image}.*(ErrImagePull|ImagePullBackOff)", "name and tag", image=image)


def test_5_a_crash_loop_with_the_end_of_its_log(faulty: Kube) -> None:
    error = start_fails(faulty, "the scheduler keeps crashing: CrashLoopBackOff", "same versions", image="dask:crash")
    assert "the end of its log: " in error.message
    assert "crash injected" in error.message


def test_6_workers_for_which_no_node_has_room(user: Kube) -> None:
    start_fails(user, "a worker is unschedulable.*Insufficient cpu", "fewer or smaller workers", cores=1000)


@contextmanager
def quota(kube: Kube, hard: dict[str, str]) -> Iterator[None]:
    """A quota of the namespace while this lasts."""
    body = {"metadata": {"name": "small"}, "spec": {"hard": hard}}
    kube.admin.call("POST", kube.admin.path("resourcequotas"), body=body)
    try:
        yield
    finally:
        kube.admin.call("DELETE", kube.admin.path("resourcequotas", "small"))


def test_7_a_quota_that_leaves_no_room_for_the_scheduler(user: Kube) -> None:
    with quota(user, {"pods": "0"}):
        start_fails(user, "quota of the namespace is used up.*exceeded quota", "a larger quota")


def test_a_quota_that_leaves_room_for_some_workers_gives_those_and_says_why(user: Kube) -> None:
    with (
        quota(user, {"pods": "2"}),
        cluster.launch("kubernetes", workers=3, memory="1GiB", image=user.image, deadline=25) as mine,
    ):
        assert (mine.state.phase, mine.state.workers_ready, mine.state.workers_wanted) == ("ready", 1, 3)
        assert "exceeded quota" in mine.state.reason
        assert mine.get_client().submit(sum, [1, 2]).result(timeout=20) == 3


def test_8_an_api_that_answers_503(faulty: Kube) -> None:
    faulty.fault(503, match="daskclusters")
    told: list[cluster.ClusterState] = []
    threading_clear = threading.Timer(25, faulty.clear_faults)  # so that the failed start can be cleaned up
    threading_clear.start()
    try:
        with pytest.raises(errors.ClusterError, match="daskclusters was answered with 503 for 20 s"):
            cluster.launch("kubernetes", workers=1, image=faulty.image, on_state=told.append)
    finally:
        threading_clear.join()
    assert told[-1].phase == "failed"
    assert "higgsnb doctor" in told[-1].hint


def test_a_few_503_are_survived(faulty: Kube) -> None:
    faulty.fault(503, count=6)
    with cluster.launch("kubernetes", workers=1, memory="1GiB", image=faulty.image) as mine:
        faulty.fault(503, count=4)
        assert mine.get_client().submit(sum, [1, 2]).result(timeout=20) == 3
        mine.scale(2)
        wait_for(lambda: mine.state.workers_ready == 2, "two workers", 60)


def test_9_a_connection_that_drops_is_told_and_comes_back(user: Kube, proxy: Proxy) -> None:
    with cluster.launch("kubernetes", workers=1, memory="1GiB", image=user.image) as mine:
        proxy.cut()
        wait_for(lambda: "the scheduler does not answer" in mine.state.reason, f"the loss is told: {mine.state}", 60)
        proxy.mend()
        wait_for(lambda: not mine.state.reason, f"the connection comes back: {mine.state}", 60)
        assert mine.get_client().submit(sum, [1, 2]).result(timeout=30) == 3


def test_9_an_api_that_cannot_be_reached_is_named(user: Kube, proxy: Proxy) -> None:
    proxy.cut()
    start_fails(user, "Kubernetes API: GET /version had no answer in 20 s", "Set KUBECONFIG")


def other_version(folder: Path, package: str) -> dict[str, str]:
    """Variables of a pod in which a package seems to have another version."""
    metadata = folder / f"{package}-0.0.1.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 0.0.1\n", encoding="utf-8")
    return {"PYTHONPATH": f"{folder}:{Path(higgsnb.__file__).parents[1]}"}


def test_10_other_versions_on_the_workers(faulty: Kube, tmp_path: Path) -> None:
    # The pods of the stand-in see this machine's files.
    start_fails(
        faulty,
        "has other versions than this process: cloudpickle .* here and 0.0.1 there",
        "image of this session",
        environment=other_version(tmp_path, "cloudpickle"),
    )


@pytest.mark.usefixtures("user")
def test_an_unknown_image_is_refused_before_the_start() -> None:
    with pytest.raises(errors.ClusterError, match="image of the workers: not known outside a hub"):
        cluster.launch("kubernetes", workers=1)


def test_a_cluster_that_was_removed_by_somebody_is_told(user: Kube) -> None:
    with cluster.launch("kubernetes", workers=1, memory="1GiB", image=user.image, idle_timeout=600) as mine:
        user.admin.call("DELETE", user.admin.path("daskclusters", mine.state.name, group="kubernetes.dask.org"))
        wait_for(lambda: mine.state.phase == "failed", f"the loss is told: {mine.state}", 100)
        assert "the cluster was removed" in mine.state.reason


def test_the_role_is_the_table_of_the_preflight() -> None:
    rules = [
        rule
        for name in ("dask-user", "outside")
        for item in yaml_documents(MANIFESTS / f"{name}.yaml")
        if item["kind"] == "Role"
        for rule in item["rules"]
    ]
    found = {
        (group, resource): tuple(rule["verbs"])
        for rule in rules
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }
    assert found == dict(RIGHTS)
    assert "*" not in str(found)


def test_a_deadline_too_short_says_what_was_missing(faulty: Kube) -> None:
    start_fails(faulty, "was not ready in 6 s", "deadline=", image="dask:never-ready", deadline=6)


def test_the_workers_of_a_deleted_cluster_go_also_without_the_operator(faulty: Kube) -> None:
    with cluster.launch("kubernetes", workers=1, memory="1GiB", image=faulty.image) as mine, operator_away(faulty):
        with pytest.raises(errors.ApiError, match=f"still there 2 s after {mine.state.name} was deleted"):
            delete([(faulty.admin, mine.state.name)], 2)
        wait_for(lambda: not faulty.pods("worker"), "no workers", 60)
        assert faulty.pods("scheduler")
