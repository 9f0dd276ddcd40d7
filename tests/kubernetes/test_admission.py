"""The shipped admission policies in an API server: hostile clusters are refused there, ours run, nothing stays."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hostile import HOSTILE_PODS, HOSTILE_SERVICES, cluster_of_ours, made
from kube import MANIFESTS, Kube, start_fails, yaml_documents
from waiting import wait_for

from higgsnb import cluster, errors
from higgsnb.cluster.kubernetes.api import Api

pytestmark = pytest.mark.kubernetes

ADMISSION = "/apis/admissionregistration.k8s.io/v1"
DASK = "kubernetes.dask.org"


@contextmanager
def policies(kube: Kube, items: list[dict[str, Any]]) -> Iterator[None]:
    """Policies and their bindings, for the namespace of the tests, while this lasts."""
    paths = []
    selector = {"matchLabels": {"kubernetes.io/metadata.name": kube.namespace}}
    namespace = {"metadata": {"labels": selector["matchLabels"]}}  # Kubernetes sets this label itself
    kube.admin.call("PATCH", f"/api/v1/namespaces/{kube.namespace}", body=namespace)
    try:
        for item in items:
            name = item["metadata"]["name"] = f"{kube.namespace}-{item['metadata']['name']}"
            plural = "validatingadmissionpolicies"
            if "policyName" in item["spec"]:
                plural = "validatingadmissionpolicybindings"
                item["spec"] |= {"policyName": name, "matchResources": {"namespaceSelector": selector}}
            kube.admin.call("POST", f"{ADMISSION}/{plural}", body=item)
            paths.append(f"{ADMISSION}/{plural}/{name}")
        yield
    finally:
        for path in paths:
            kube.admin.call("DELETE", path)


@pytest.fixture(scope="module")
def guarded(kube: Kube) -> Iterator[Kube]:
    """The namespace with the shipped policies in force."""
    kube.admin.call("POST", kube.admin.path("serviceaccounts"), body={"metadata": {"name": "dask-operator"}})
    with policies(kube, yaml_documents(MANIFESTS / "admission.yaml")):
        for hostile in (made(HOSTILE_PODS["a token"][0])[0], made(HOSTILE_SERVICES["no selector"][0])[2]):
            wait_for(lambda item=hostile: "denied" in answer(kube, item), "the policy is in force")
        yield kube


def answer(kube: Kube, item: dict[str, Any]) -> str:
    """What the API server says when asked to make something, without making it; empty if it would."""
    plural, group = "pods", ""
    if "kind" in item:
        plural, group = {"Service": ("services", ""), "DaskCluster": ("daskclusters", DASK)}[item["kind"]]
    try:
        kube.admin.call("POST", kube.admin.path(plural, group=group), body=item, parameters={"dryRun": "All"})
    except errors.ApiError as error:
        return error.message
    return ""


def test_what_our_clusters_consist_of_is_admitted_by_the_api_server(guarded: Kube) -> None:
    assert [answer(guarded, item) for item in [cluster_of_ours(), *made()]] == ["", "", "", ""]


@pytest.mark.parametrize("name", HOSTILE_PODS)
def test_hostile_pods_are_refused_by_the_api_server(guarded: Kube, name: str) -> None:
    change, word = HOSTILE_PODS[name]
    said = answer(guarded, made(change)[0])
    assert said
    if guarded.stand_in:  # a real one checks more, and may be the first to say no
        assert "denied request" in said
        assert word in said


FIELDS = {
    "addresses of others": "externalIPs", "an address of a load balancer": "loadBalancerIP",
    "a name elsewhere": "externalName",
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE_SERVICES)
def test_hostile_services_and_their_clusters_are_refused_by_the_api_server(guarded: Kube, name: str) -> None:
    change, word = HOSTILE_SERVICES[name]
    word = FIELDS.get(name, word)  # the API server names it, the rule does not
    for item in (made(change)[2], cluster_of_ours(change)):
        said = answer(guarded, item)
        assert said
        if guarded.stand_in:
            assert "denied request" in said
            assert word in said
    assert "do not have externalIPs" in answer(guarded, made(HOSTILE_SERVICES["addresses of others"][0])[2])


def test_a_user_of_the_hub_cannot_make_a_cluster_that_takes_the_addresses_of_others(guarded: Kube, user: Kube) -> None:
    api = Api(guarded.namespace)  # with the token of the shipped account
    try:
        body = cluster_of_ours(HOSTILE_SERVICES["addresses of others"][0])
        with pytest.raises(errors.ApiError, match="do not have externalIPs"):
            api.call("POST", api.path("daskclusters", group=DASK), body=body)
    finally:
        api.close()
    assert user.objects() == []


@pytest.mark.usefixtures("guarded")
def test_our_clusters_start_and_compute_under_the_policies(user: Kube) -> None:
    options = {"workers": 1, "memory": "1GiB", "image": user.image, "pull_secrets": ["registry"]}
    with cluster.launch("kubernetes", **options) as mine:
        assert mine.get_client().submit(sum, [1, 2]).result(timeout=30) == 3
    assert user.objects() == []


@pytest.mark.usefixtures("guarded")
def test_a_cluster_that_is_refused_names_the_rule_and_leaves_nothing(user: Kube) -> None:
    words = "Kubernetes refuses the pods.*use no pull secrets but those"
    start_fails(user, words, "platform engineer", pull_secrets=["foreign"])


def test_a_scheduler_that_is_refused_is_named_and_not_the_workers_that_crash_without_it(user: Kube) -> None:
    rule = {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}
    validation = {
        "expression": 'object.metadata.?labels["dask.org/component"].orValue("") != "scheduler"',
        "message": "no schedulers",
    }
    spec = {"matchConstraints": {"resourceRules": [rule]}, "validations": [validation]}
    binding = {"policyName": "", "validationActions": ["Deny"]}
    items = [{"metadata": {"name": "schedulers"}, "spec": one} for one in (spec, binding)]
    with policies(user, items):
        start_fails(user, "Kubernetes refuses the pods.*no schedulers", "platform engineer", workers=2)
