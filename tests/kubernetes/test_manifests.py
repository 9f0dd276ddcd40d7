"""What `binder/hub` ships is valid for every supported Kubernetes, complete, and pinned. Needs no cluster."""

from __future__ import annotations

import copy
import functools
import ipaddress
import json
import re
from pathlib import Path
from typing import Any

import celpy
import pytest
from hostile import HOSTILE_PODS, HOSTILE_SERVICES, cluster_of_ours, made, pods, scheduler_of
from kube import MANIFESTS, ROOT, yaml_documents

from higgsnb.cluster.kubernetes.operated import DASHBOARD_PORT, SCHEDULER_PORT
from higgsnb.cluster.options import quantity as amount

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


# --- What pods and services a user may have made ---------------------------------------------------


def policy(kind: str) -> dict[str, Any]:
    """The shipped policy for pods or services."""
    policies = [item for item in yaml_documents(MANIFESTS / "admission.yaml") if "validations" in item["spec"]]
    spec: dict[str, Any] = next(item["spec"] for item in policies if item["metadata"]["name"].endswith(kind))
    return spec


def lists(kind: str) -> dict[str, list[str]]:
    """The lists in the variables of a policy, by name."""
    entries = policy(kind)["variables"]
    return {one["name"]: json.loads(one["expression"]) for one in entries if one["expression"].startswith("[")}


def refusals(item: dict[str, Any], operation: str = "CREATE") -> list[str]:
    """What the shipped policy says of a pod, service or cluster, by an evaluator of its language."""
    resource = {"Service": "services", "DaskCluster": "daskclusters"}.get(item.get("kind", ""), "pods")
    spec = policy("pods" if resource == "pods" else "services")
    request = {"operation": operation, "resource": {"resource": resource}}
    context = {"object": celpy.json_to_cel(item), "request": celpy.json_to_cel(request)}
    if not all(value(one["expression"], context) for one in spec["matchConditions"]):
        return []
    context["variables"] = celpy.json_to_cel({})
    for one in spec["variables"]:
        context["variables"][celpy.json_to_cel(one["name"])] = value(one["expression"], context)
    return [one["message"] for one in spec["validations"] if not value(one["expression"], context)]


@functools.cache
def compiled(expression: str) -> Any:
    environment = celpy.Environment()
    return environment.program(environment.compile(expression))


def value(expression: str, context: dict[str, Any]) -> Any:
    try:
        return compiled(expression).evaluate(context)
    except celpy.CELEvalError:  # failurePolicy: Fail
        return celpy.json_to_cel(False)


def test_what_our_clusters_consist_of_is_admitted() -> None:
    assert [refusals(item) for item in [cluster_of_ours(), *made()]] == [[], [], [], []]


def test_what_kubernetes_adds_is_admitted() -> None:
    for place in (0, 1):
        pod = made()[place]
        pod["metadata"]["labels"]["pod-template-hash"] = "5d9c7b6f8"
        pod["metadata"]["annotations"]["kubernetes.io/limit-ranger"] = "LimitRanger plugin set: ..."
        seconds = {"operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}
        taints = ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable")
        pod["spec"] |= {"dnsPolicy": "ClusterFirst", "restartPolicy": "Always", "schedulerName": "default-scheduler"}
        pod["spec"] |= {"serviceAccount": "default", "serviceAccountName": "default", "priority": 0}
        pod["spec"] |= {"preemptionPolicy": "PreemptLowerPriority", "terminationGracePeriodSeconds": 30}
        pod["spec"]["tolerations"] = [{"key": key, **seconds} for key in taints]
        message = {"terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File"}
        pod["spec"]["containers"][0] |= {**message, "imagePullPolicy": "IfNotPresent"}
        assert refusals(pod) == []
        pod["spec"]["nodeName"] = "node-1"  # as the scheduler sets it later
        pod["metadata"]["annotations"]["cni.example.org/addresses"] = "10.1.2.3/32"
        assert refusals(pod, "UPDATE") == []
    service = made()[2]
    service["spec"] |= {"clusterIP": "10.0.0.7", "clusterIPs": ["10.0.0.7"], "internalTrafficPolicy": "Cluster"}
    service["spec"] |= {"ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack", "sessionAffinity": "None"}
    assert refusals(service) == []
    service["metadata"]["annotations"]["kopf.zalando.org/last-handled-configuration"] = "{}"
    assert refusals(service, "UPDATE") == []


@pytest.mark.parametrize(
    ("kind", "name", "schema"),
    [("pods", "fields", "podspec"), ("pods", "containerFields", "container"), ("services", "fields", "servicespec")],
)
def test_every_field_of_kubernetes_is_in_the_list_or_refused(validator: Any, kind: str, name: str, schema: str) -> None:
    folder = Path(validator.__file__).parent / "kubernetes-json-schema" / f"v{max(supported())}.0-local-strict"
    known = json.loads((folder / f"{schema}-v1.json").read_text(encoding="utf-8"))["properties"].keys()
    allowed = set(lists(kind)[name])
    assert allowed <= known
    for field in known - allowed:

        def change(cluster: dict[str, Any], field: str = field) -> None:
            pod = scheduler_of(cluster)
            places = {"podspec": pod, "container": pod["containers"][0]}
            places.get(schema, cluster["spec"]["scheduler"]["service"])[field] = {}

        pod, _, service = made(change)
        assert [words for words in refusals(service if kind == "services" else pod) if "no other fields" in words], (
            field
        )


@pytest.mark.parametrize("name", HOSTILE_PODS)
def test_pods_that_reach_for_more_are_refused_by_one_rule(name: str) -> None:
    change, word = HOSTILE_PODS[name]
    (said,) = refusals(pods(change)[0])
    assert word in said


@pytest.mark.parametrize("name", HOSTILE_SERVICES)
def test_services_that_reach_for_more_are_refused_by_one_rule_and_so_are_their_clusters(name: str) -> None:
    change, word = HOSTILE_SERVICES[name]
    (said,) = refusals(made(change)[2])
    assert word in said
    assert refusals(cluster_of_ours(change)) == [said]


def test_there_is_a_hostile_cluster_for_each_rule() -> None:
    for kind, place, hostile in (("pods", 0, HOSTILE_PODS), ("services", 2, HOSTILE_SERVICES)):
        said = {words for change, _ in hostile.values() for words in refusals(made(change)[place])}
        assert said == {one["message"] for one in policy(kind)["validations"]}


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


def reaches(rules: list[dict[str, Any]], address: str, port: int) -> bool:
    """Whether an address block of a network policy includes an address at a port."""
    one = ipaddress.ip_address(address)
    blocks = [
        to["ipBlock"]
        for rule in rules
        if "to" in rule and (not rule.get("ports") or port in {item["port"] for item in rule["ports"]})
        for to in rule["to"]
        if "ipBlock" in to
    ]
    inside = [block for block in blocks if one in ipaddress.ip_network(block["cidr"])]
    return any(not any(one in ipaddress.ip_network(less) for less in block.get("except", ())) for block in inside)


def egress() -> dict[str, list[dict[str, Any]]]:
    """The rules for what goes out, of the clusters, the operator and the notebooks."""
    _, dask, operator = yaml_documents(MANIFESTS / "network-policy.yaml")
    (values,) = yaml_documents(HUB / "values.yaml")
    policy = values["jupyterhub"]["singleuser"]["networkPolicy"]
    assert not any(policy["egressAllowRules"].values())
    return {"clusters": dask["spec"]["egress"], "operator": operator["spec"]["egress"], "notebooks": policy["egress"]}


CLOUD = ("169.254.169.254", "169.254.170.2", "168.63.129.16", "192.0.0.192", "100.100.100.200", "fd00:ec2::254")


@pytest.mark.parametrize("port", [80, 443, 1094])
@pytest.mark.parametrize("address", [*CLOUD, "10.1.2.3", "172.31.0.1", "192.168.1.1", "127.0.0.1", "240.0.0.1"])
def test_neither_private_addresses_nor_what_clouds_tell_a_machine_can_be_reached(address: str, port: int) -> None:
    reached = {who for who, rules in egress().items() if reaches(rules, address, port)}
    api = {"operator"} if address not in CLOUD or address == "100.100.100.200" else set()  # wherever the API server is
    assert reached <= (api | {"notebooks"} if address == "10.1.2.3" else api)


def test_the_servers_of_the_open_data_can_be_reached() -> None:
    rules = egress()
    for address in ("188.184.17.17", "128.142.33.66", "1.1.1.1"):
        assert reaches(rules["clusters"], address, 443)
        assert reaches(rules["clusters"], address, 1094)
        assert reaches(rules["notebooks"], address, 443)


def test_the_quota_bounds_everything_and_has_room_for_ten_people_with_three_workers_each() -> None:
    quota, limit_range = yaml_documents(MANIFESTS / "quota.yaml")
    hard = {name: amount(text) for name, text in quota["spec"]["hard"].items()}
    (limits,) = limit_range["spec"]["limits"]
    (operator,) = yaml_documents(HUB / "operator-values.yaml")
    scheduler, worker = (pod["spec"]["containers"][0]["resources"] for pod in pods())
    used = {"pods": 41.0, "services": 10.0, "count/deployments.apps": 41.0, "count/replicasets.apps": 41.0}
    used |= {
        f"count/{kind}.kubernetes.dask.org": 10.0 for kind in ("daskclusters", "daskworkergroups", "daskautoscalers")
    }
    for kind in ("requests", "limits"):
        for name in ("cpu", "memory", "ephemeral-storage"):
            used[f"{kind}.{name}"] = sum(
                count * amount(resources[kind][name])
                for count, resources in ((10, scheduler), (30, worker), (1, operator["resources"]))
            )
            assert amount(worker["limits"][name]) <= amount(limits["max"][name])
            assert name in limits["default"]
            assert name in limits["defaultRequest"]
    assert {name for name, most in hard.items() if most == 0} == hard.keys() - used.keys()
    assert [name for name, need in used.items() if not need <= hard[name]] == []
    # Otherwise the operator tries for ever to make the service of a cluster, which then cannot be deleted.
    assert hard["services"] >= hard["count/daskclusters.kubernetes.dask.org"]


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
