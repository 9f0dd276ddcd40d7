"""Clusters of ours, what the operator makes of them, and what a user who reaches for more may change in them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from higgsnb.cluster import ClusterSpec
from higgsnb.cluster.kubernetes.spec import cluster_object

Change = Callable[[dict[str, Any]], object]


def cluster_of_ours(change: Change = lambda _: None) -> dict[str, Any]:
    """A cluster as this package makes it, once its user has changed it."""
    spec = ClusterSpec.parse("kubernetes", workers=1, memory=2 * 10**9, image="higgsnb:test", pull_secrets=["registry"])
    cluster = cluster_object("higgsnb-x", spec, None)
    change(cluster)
    return cluster


def made(change: Change = lambda _: None) -> list[dict[str, Any]]:
    """The scheduler's pod, a worker's and the service that the operator makes of a cluster of ours, once changed."""
    controller = pytest.importorskip("dask_kubernetes.operator.controller.controller")
    cluster = cluster_of_ours(change)
    labels, notes = cluster["metadata"]["labels"], cluster["metadata"]["annotations"]
    scheduler, worker = cluster["spec"]["scheduler"], cluster["spec"]["worker"]
    own = scheduler.get("metadata", {})
    labels, notes = labels | own.get("labels", {}), notes | own.get("annotations", {})
    service = controller.build_scheduler_service_spec("higgsnb-x", scheduler["service"], notes, labels)
    deployments = (
        controller.build_scheduler_deployment_spec("higgsnb-x", scheduler["spec"], notes, labels),
        controller.build_worker_deployment_spec("g", "higgsnb-dask", "higgsnb-x", "u", worker["spec"], notes, labels),
    )
    return [*(deployment["spec"]["template"] for deployment in deployments), service]


def pods(change: Change = lambda _: None) -> list[dict[str, Any]]:
    return made(change)[:2]


def scheduler_of(cluster: dict[str, Any]) -> dict[str, Any]:
    pod: dict[str, Any] = cluster["spec"]["scheduler"]["spec"]
    return pod


def pod(**fields: Any) -> Change:
    return lambda cluster: scheduler_of(cluster).update(fields)


def container(**fields: Any) -> Change:
    return lambda cluster: scheduler_of(cluster)["containers"][0].update(fields)


def variable(**source: Any) -> Change:
    return lambda c: scheduler_of(c)["containers"][0]["env"].append({"name": "S", "valueFrom": source})


def limits(**amounts: Any) -> Change:
    def change(cluster: dict[str, Any]) -> None:
        resources = scheduler_of(cluster)["containers"][0]["resources"]
        resources["limits"] = {name: amount for name, amount in {**resources["limits"], **amounts}.items() if amount}

    return change


def metadata(field: str, **entries: str) -> Change:
    return lambda cluster: cluster["metadata"][field].update(entries)


def service(**fields: Any) -> Change:
    return lambda cluster: cluster["spec"]["scheduler"]["service"].update(fields)


SECRET = {"name": "registry", "key": ".dockerconfigjson"}
PROJECTED = {"name": "t", "projected": {"sources": [{"serviceAccountToken": {"path": "token"}}]}}
METADATA_SERVER = {"httpGet": {"host": "169.254.169.254", "port": 80}}
HOSTILE_PODS: dict[str, tuple[Change, str]] = {
    "the operator's account": (pod(serviceAccountName="dask-operator"), "account"),
    "the operator's account by its old name": (pod(serviceAccount="dask-operator"), "account"),
    "a token": (pod(automountServiceAccountToken=True), "token"),
    "a token by default": (lambda c: scheduler_of(c).pop("automountServiceAccountToken"), "token"),
    "a secret as a volume": (pod(volumes=[{"name": "s", "secret": {"secretName": "registry"}}]), "volumes"),
    "a projected token": (pod(volumes=[PROJECTED]), "volumes"),
    "a folder of the node": (pod(volumes=[{"name": "h", "hostPath": {"path": "/"}}]), "volumes"),
    "a folder of the node beside an emptyDir": (
        pod(volumes=[{"name": "h", "emptyDir": {"sizeLimit": "1Gi"}, "hostPath": {"path": "/"}}]),
        "volumes",
    ),
    "an emptyDir without limit": (pod(volumes=[{"name": "d", "emptyDir": {}}]), "volumes"),
    "a secret as a variable": (variable(secretKeyRef=SECRET), "variables"),
    "a configuration as a variable": (variable(configMapKeyRef=SECRET), "variables"),
    "all of a secret": (container(envFrom=[{"secretRef": {"name": "registry"}}]), "containers of"),
    "an init container": (pod(initContainers=[{"name": "i"}]), "pods of"),
    "an ephemeral container": (pod(ephemeralContainers=[{"name": "e"}]), "pods of"),
    "a second container": (lambda c: scheduler_of(c)["containers"].append(scheduler_of(c)["containers"][0]), "one"),
    "a hook": (container(lifecycle={"postStart": METADATA_SERVER}), "containers of"),
    "a probe of another host": (container(livenessProbe=METADATA_SERVER), "probes"),
    "a probe of a port elsewhere": (container(startupProbe={"tcpSocket": {"host": "10.0.0.1", "port": 22}}), "probes"),
    "a privileged container": (container(securityContext={"privileged": True}), "rights"),
    "a port of the node": (container(ports=[{"containerPort": 22, "hostPort": 22}]), "rights"),
    "the network of the node": (pod(hostNetwork=True), "pods of"),
    "the processes of the node": (pod(hostPID=True), "pods of"),
    "somebody else's pull secret": (pod(imagePullSecrets=[{"name": "operator-secret"}]), "pull secrets"),
    "no limit of storage": (limits(**{"ephemeral-storage": None}), "limits"),
    "no limits": (lambda c: scheduler_of(c)["containers"][0].pop("resources"), "limits"),
    "a graphics card": (limits(**{"nvidia.com/gpu": "1"}), "limits"),
    "a node": (pod(nodeName="control-plane-1"), "choose their node"),
    "a kind of node": (pod(nodeSelector={"node-role.kubernetes.io/control-plane": ""}), "pods of"),
    "every taint": (pod(tolerations=[{"operator": "Exists"}]), "taints"),
    "the taint of the control plane": (
        pod(tolerations=[{"key": "node-role.kubernetes.io/control-plane", "effect": "NoSchedule"}]),
        "taints",
    ),
    "a priority": (pod(priorityClassName="system-cluster-critical"), "priority"),
    "a priority by number": (pod(priority=2_000_000_000), "priority"),
    "another scheduler": (pod(schedulerName="other"), "usual scheduler"),
    "another name service": (pod(dnsPolicy="Default"), "name service"),
    "names of its own": (pod(hostAliases=[{"ip": "192.0.2.1", "hostnames": ["eospublic.cern.ch"]}]), "pods of"),
    "a long end": (pod(terminationGracePeriodSeconds=10**9), "60 s to end"),
    "the operator's label": (metadata("labels", **{"app.kubernetes.io/name": "dask-kubernetes-operator"}), "labels"),
    "a second network": (metadata("annotations", **{"k8s.v1.cni.cncf.io/networks": "storage"}), "annotations"),
    "no label of a cluster": (
        lambda c: (metadata("labels", **{"dask.org/cluster-name": ""})(c), pod(serviceAccountName="dask-operator")(c)),
        "account",
    ),
}
HOSTILE_SERVICES: dict[str, tuple[Change, str]] = {
    "addresses of others": (service(externalIPs=["203.0.113.7"]), "fields"),
    "an address of a load balancer": (service(loadBalancerIP="203.0.113.7"), "fields"),
    "a name elsewhere": (service(externalName="example.org"), "fields"),
    "a load balancer": (service(type="LoadBalancer"), "type ClusterIP"),
    "ports of all nodes": (service(type="NodePort"), "type ClusterIP"),
    "the type of a name elsewhere": (service(type="ExternalName"), "type ClusterIP"),
    "a port of all nodes": (service(ports=[{"name": "tcp-comm", "port": 8786, "nodePort": 30000}]), "ports"),
    "the scheduler of another cluster": (
        service(selector={"dask.org/cluster-name": "other", "dask.org/component": "scheduler"}),
        "selects the scheduler",
    ),
    "workers, too": (service(selector={"dask.org/cluster-name": "higgsnb-x"}), "selects the scheduler"),
    "the operator": (service(selector={"app.kubernetes.io/name": "dask-kubernetes-operator"}), "selects the scheduler"),
    "no selector": (lambda c: c["spec"]["scheduler"]["service"].pop("selector"), "selects the scheduler"),
    "a label": (metadata("labels", release="prometheus"), "labels"),
    "a label of the scheduler": (
        lambda c: c["spec"]["scheduler"].update(metadata={"labels": {"release": "prometheus"}}),
        "labels",
    ),
    "a name in the public name service": (
        metadata("annotations", **{"external-dns.alpha.kubernetes.io/hostname": "hub.example.org"}),
        "annotations",
    ),
}
