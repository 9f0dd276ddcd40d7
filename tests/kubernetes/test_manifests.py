"""What `binder/hub` ships is valid for every supported Kubernetes, complete, and pinned. Needs no cluster."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from typing import Any

import celpy
import pytest
from kube import MANIFESTS, ROOT, yaml_documents

from higgsnb.cluster import ClusterSpec
from higgsnb.cluster.kubernetes.operated import DASHBOARD_PORT, SCHEDULER_PORT
from higgsnb.cluster.kubernetes.spec import cluster_object

pytestmark = pytest.mark.kubernetes

HUB = MANIFESTS.parent
WORKFLOW = ROOT / ".github" / "workflows" / "kubernetes.yml"
FILES = sorted(MANIFESTS.glob("*.yaml"))


def supported() -> list[str]:
    """The versions of Kubernetes on which the workflow runs the suite."""
    (workflow,) = yaml_documents(WORKFLOW)
    return [entry["version"] for entry in workflow["jobs"]["kind"]["strategy"]["matrix"]["include"]]


@pytest.fixture(scope="module")
def validator() -> Any:
    return pytest.importorskip(
        "kubernetes_validate", reason="needs kubernetes-validate: pip install kubernetes-validate"
    )


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_manifests_follow_the_schema_of_every_supported_version(validator: Any, path: Any) -> None:
    for item in yaml_documents(path):
        for version in supported():
            validator.validate(item, version, strict=True)


def test_a_misspelt_field_would_be_found(validator: Any) -> None:
    item = copy.deepcopy(yaml_documents(MANIFESTS / "network-policy.yaml")[0])
    item["spec"]["podSelectr"] = item["spec"].pop("podSelector")
    with pytest.raises(validator.ValidationError):
        validator.validate(item, supported()[0], strict=True)


def test_clusters_have_a_namespace_of_their_own_that_refuses_privileged_pods() -> None:
    (namespace,) = yaml_documents(MANIFESTS / "namespace.yaml")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    places = {
        (item["kind"], item["metadata"]["namespace"])
        for path in FILES
        for item in yaml_documents(path)
        if "namespace" in item["metadata"]  # neither the namespace itself nor the policy, which belong to the cluster
    }
    assert {place for kind, place in places if kind != "ServiceAccount"} == {namespace["metadata"]["name"]}


# --- What pods a user may have made ----------------------------------------------------------------


def refusals(pod: dict[str, Any]) -> list[str]:
    """What the shipped policy says of a pod, by an evaluator of its language."""
    policy, binding = yaml_documents(MANIFESTS / "admission.yaml")
    assert binding["spec"]["policyName"] == policy["metadata"]["name"]
    spec = policy["spec"]
    if not all(holds(one["expression"], pod) for one in spec["matchConditions"]):
        return []
    return [one["message"] for one in spec["validations"] if not holds(one["expression"], pod)]


def holds(expression: str, pod: dict[str, Any]) -> bool:
    environment = celpy.Environment()
    program = environment.program(environment.compile(expression))
    return bool(program.evaluate({"object": celpy.json_to_cel(pod)}))


def pods(change: Callable[[dict[str, Any]], object] = lambda _: None) -> list[dict[str, Any]]:
    """The pods that the operator makes of a cluster of ours, after its user changed the cluster."""
    controller = pytest.importorskip("dask_kubernetes.operator.controller.controller")
    spec = ClusterSpec.parse("kubernetes", workers=1, memory=2 * 10**9, image="higgsnb:test", pull_secrets=["registry"])
    cluster = cluster_object("higgsnb-x", spec, None)
    change(cluster)
    made = cluster["metadata"], cluster["spec"]
    labels, (scheduler, worker) = made[0]["labels"], (made[1]["scheduler"]["spec"], made[1]["worker"]["spec"])
    deployments = (
        controller.build_scheduler_deployment_spec("higgsnb-x", scheduler, {}, labels),
        controller.build_worker_deployment_spec("g", "higgsnb-dask", "higgsnb-x", "u", worker, {}, labels),
    )
    return [deployment["spec"]["template"] for deployment in deployments]


def test_pods_of_our_clusters_are_admitted() -> None:
    assert [refusals(pod) for pod in pods()] == [[], []]


def scheduler_of(cluster: dict[str, Any]) -> dict[str, Any]:
    pod: dict[str, Any] = cluster["spec"]["scheduler"]["spec"]
    return pod


SECRET = {"secretKeyRef": {"name": "registry", "key": ".dockerconfigjson"}}
PROJECTED = {"name": "t", "projected": {"sources": [{"serviceAccountToken": {"path": "token"}}]}}
HOSTILE: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "the operator's account": (lambda c: scheduler_of(c).update(serviceAccountName="dask-operator"), "account"),
    "a token": (lambda c: scheduler_of(c).update(automountServiceAccountToken=True), "token"),
    "a token by default": (lambda c: scheduler_of(c).pop("automountServiceAccountToken"), "token"),
    "a secret as a volume": (
        lambda c: scheduler_of(c).update(volumes=[{"name": "s", "secret": {"secretName": "registry"}}]),
        "volumes",
    ),
    "a projected token": (lambda c: scheduler_of(c).update(volumes=[PROJECTED]), "volumes"),
    "a secret as a variable": (
        lambda c: scheduler_of(c)["containers"][0]["env"].append({"name": "S", "valueFrom": SECRET}),
        "secrets",
    ),
    "all of a secret": (
        lambda c: scheduler_of(c)["containers"][0].update(envFrom=[{"secretRef": {"name": "registry"}}]),
        "secrets",
    ),
    "an init container": (lambda c: scheduler_of(c).update(initContainers=[{"name": "i"}]), "init containers"),
    "the operator's label": (
        lambda c: c["metadata"]["labels"].update({"app.kubernetes.io/name": "dask-kubernetes-operator"}),
        "label",
    ),
    "no label of a cluster": (
        lambda c: (
            c["metadata"]["labels"].update({"dask.org/cluster-name": ""}),
            scheduler_of(c).update(serviceAccountName="dask-operator"),
        ),
        "account",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_pods_that_reach_for_more_are_refused(name: str) -> None:
    change, word = HOSTILE[name]
    (said, *more) = refusals(pods(change)[0])
    assert word in said
    assert more == []


def test_the_operator_itself_is_admitted() -> None:
    labels = {"app.kubernetes.io/name": "dask-kubernetes-operator"}
    assert refusals({"metadata": {"labels": labels}, "spec": {"serviceAccountName": "dask-operator"}}) == []


def test_a_pod_with_the_operators_label_does_not_get_its_way_to_the_network() -> None:
    *_, operator = yaml_documents(MANIFESTS / "network-policy.yaml")
    (rule,) = operator["spec"]["podSelector"]["matchExpressions"]
    assert rule == {"key": "dask.org/cluster-name", "operator": "DoesNotExist"}


def test_names_are_resolved_where_each_node_has_a_cache_too() -> None:
    _, *policies = yaml_documents(MANIFESTS / "network-policy.yaml")
    for policy in policies:
        (rule,) = (one for one in policy["spec"]["egress"] if {"port": 53, "protocol": "UDP"} in one.get("ports", ()))
        assert {"ipBlock": {"cidr": "169.254.20.10/32"}} in rule["to"]


def test_nothing_is_open_but_what_a_policy_lists() -> None:
    first, dask, operator = yaml_documents(MANIFESTS / "network-policy.yaml")
    assert first["spec"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    (own, notebooks) = dask["spec"]["ingress"]
    assert "ports" not in own
    assert {item["port"] for item in notebooks["ports"]} == {SCHEDULER_PORT, DASHBOARD_PORT}
    *_, outside = dask["spec"]["egress"]
    assert {item["port"] for item in outside["ports"]} == {80, 443, 1094, 1095}
    assert "ingress" not in operator["spec"]


def test_the_hub_gives_notebooks_the_account_and_the_way_to_the_scheduler() -> None:
    (values,) = yaml_documents(HUB / "values.yaml")
    notebook = values["jupyterhub"]["singleuser"]
    account = yaml_documents(MANIFESTS / "dask-user.yaml")[0]
    assert notebook["serviceAccountName"] == account["metadata"]["name"]
    assert notebook["extraEnv"]["HIGGSNB_NAMESPACE"] == "higgsnb-dask"
    ports = {item["port"] for rule in notebook["networkPolicy"]["egress"] for item in rule["ports"]}
    assert {SCHEDULER_PORT, DASHBOARD_PORT, 443} <= ports


def test_the_operator_sees_one_namespace() -> None:
    (values,) = yaml_documents(HUB / "operator-values.yaml")
    assert values["rbac"]["cluster"] is False
    assert values["kopfArgs"] == ["--namespace=higgsnb-dask"]


def test_the_page_names_every_file() -> None:
    text = (HUB / "README.md").read_text(encoding="utf-8")
    names = [str(path.relative_to(HUB)) for path in HUB.rglob("*.yaml")]
    assert [name for name in names if f"`{name}`" not in text] == []


def test_the_workflow_is_pinned_and_has_no_more_rights_than_reading() -> None:
    text = WORKFLOW.read_text(encoding="utf-8")
    used = re.findall(r"uses: (\S+)", text)
    assert used
    assert [name for name in used if not re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", name)] == []
    assert [name for name in re.findall(r"node: (\S+)", text) if not re.search(r"@sha256:[0-9a-f]{64}$", name)] == []
    (workflow,) = yaml_documents(WORKFLOW)
    assert workflow["permissions"] == {}
    assert [job["permissions"] for job in workflow["jobs"].values()] == [{"contents": "read"}]
