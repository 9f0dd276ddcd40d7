"""What `binder/hub` ships is valid for every supported Kubernetes, complete, and pinned. Needs no cluster."""

from __future__ import annotations

import copy
import re
from typing import Any

import pytest
from kube import MANIFESTS, ROOT, yaml_documents

from higgsnb import kubernetes

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
        if item["kind"] != "Namespace"
    }
    assert {place for kind, place in places if kind != "ServiceAccount"} == {namespace["metadata"]["name"]}


def test_nothing_is_open_but_what_a_policy_lists() -> None:
    first, dask, operator = yaml_documents(MANIFESTS / "network-policy.yaml")
    assert first["spec"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    (own, notebooks) = dask["spec"]["ingress"]
    assert "ports" not in own
    assert {item["port"] for item in notebooks["ports"]} == {kubernetes.SCHEDULER_PORT, kubernetes.DASHBOARD_PORT}
    outside = next(rule for rule in dask["spec"]["egress"] if "ipBlock" in rule["to"][0])
    assert {item["port"] for item in outside["ports"]} == {80, 443, 1094, 1095}
    assert "ingress" not in operator["spec"]


def test_the_hub_gives_notebooks_the_account_and_the_way_to_the_scheduler() -> None:
    (values,) = yaml_documents(HUB / "values.yaml")
    notebook = values["jupyterhub"]["singleuser"]
    account = yaml_documents(MANIFESTS / "dask-user.yaml")[0]
    assert notebook["serviceAccountName"] == account["metadata"]["name"]
    assert notebook["extraEnv"]["HIGGSNB_NAMESPACE"] == "higgsnb-dask"
    ports = {item["port"] for rule in notebook["networkPolicy"]["egress"] for item in rule["ports"]}
    assert {kubernetes.SCHEDULER_PORT, kubernetes.DASHBOARD_PORT, 443} <= ports


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
