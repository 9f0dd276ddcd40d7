"""The ``DaskCluster`` object for a `ClusterSpec`: its pods, their rights, and the labels by which it is found again."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from higgsnb.cluster.kubernetes.api import Api, Object, default_image, in_cluster, own_namespace, user_label
from higgsnb.cluster.options import WORKER_DISK, ClusterSpec, parse_memory
from higgsnb.datasets import Address, redact
from higgsnb.errors import OptionError

JOVYAN = 1000
"""The user of every image made by repo2docker; a number, since Kubernetes cannot tell whether a name is root."""
MANAGED = "app.kubernetes.io/managed-by"
USER = "higgsnb/user"
CLIENT_HOST, CLIENT_PROCESS = "higgsnb/client-host", "higgsnb/client-process"
SCHEDULER_MEMORY = "1Gi"
DISK, SCHEDULER_DISK = "ephemeral-storage", "1Gi"
"""What Kubernetes calls the disk of a pod; how much of it the scheduler may use."""
PASSED_ON = ("HIGGSNB_MIRROR", "HIGGSNB_ALLOW_HOSTS", "HIGGSNB_STREAM_ABOVE")


def cluster_object(name: str, spec: ClusterSpec, owner: Object | None) -> Object:
    """Return the ``DaskCluster`` object.

    It runs ``dask worker`` and ``dask scheduler``: the programs ``dask-worker`` and ``dask-scheduler`` of the
    operator's template no longer exist in current releases.
    """
    from dask_kubernetes.operator import make_cluster_spec

    made: Object = make_cluster_spec(
        name,
        image=spec.image or default_image(),
        n_workers=spec.workers,
        env=environment(spec.options.get("environment", {})),
        worker_command="dask worker",
        idle_timeout=spec.idle_timeout,
    )
    client = {CLIENT_HOST: platform.node(), CLIENT_PROCESS: f"{os.getpid()} {process_start(os.getpid())}"}
    made["metadata"] = {"name": name, "labels": labels(), "annotations": client}
    if owner:
        made["metadata"]["ownerReferences"] = [owner]
    scheduler, worker = made["spec"]["scheduler"]["spec"], made["spec"]["worker"]["spec"]
    scheduler["containers"][0]["args"] = ["dask", "scheduler", "--host", "0.0.0.0"]  # noqa: S104  of its pod
    worker["containers"][0]["args"] += ["--nthreads", str(spec.cores), "--memory-limit", str(spec.memory)]
    worker["containers"][0]["args"] += ["--death-timeout", "60"]
    sizes = {"cpu": "500m", "memory": SCHEDULER_MEMORY}, {"cpu": str(spec.cores), "memory": str(spec.memory)}
    disks = SCHEDULER_DISK, str(parse_memory(spec.options.get("disk", WORKER_DISK)))
    for pod, size, disk in zip((scheduler, worker), sizes, disks, strict=True):
        # The disk is limited but not reserved: a node may be small, or not count its disk at all.
        resources = {"requests": {**size, DISK: "0"}, "limits": {**size, DISK: disk}}
        pod["containers"][0]["resources"] = resources
        pod["imagePullSecrets"] = [{"name": name} for name in spec.options.get("pull_secrets", ())]
        # Every right that analysing files does not need is dropped.
        pod.update(automountServiceAccountToken=False, enableServiceLinks=False)
        user = {"runAsNonRoot": True, "runAsUser": spec.options.get("user_id", JOVYAN)}
        pod["securityContext"] = {**user, "seccompProfile": {"type": "RuntimeDefault"}}
        for container in pod["containers"]:
            rights = {"allowPrivilegeEscalation": False, "privileged": False, "capabilities": {"drop": ["ALL"]}}
            container["securityContext"] = rights
    return made


def environment(extra: Mapping[str, str]) -> dict[str, str]:
    """Return the variables of the pods: where remote files are, and the scheduler's route for retiring workers.

    Only addresses are passed on, since a pod does not see this machine's folders.

    Raises
    ------
    OptionError
        If an address has a password in it: everybody who may read the cluster's objects would see it.
    """
    import dask.config
    import distributed  # noqa: F401  its defaults are in the configuration only once it is imported

    routes = list(dask.config.get("distributed.scheduler.http.routes"))
    route = "distributed.http.scheduler.api"
    variables = {"DASK_DISTRIBUTED__SCHEDULER__HTTP__ROUTES": json.dumps([*routes, *({route} - set(routes))])}
    for name in PASSED_ON:
        value = os.environ.get(name, "")
        if not value or (name == "HIGGSNB_MIRROR" and not Address.of(value).is_remote):
            continue
        if redact(value) != value:
            who = "everybody who may read the cluster's objects"
            message = f"{name} = {redact(value)} contains a secret, which {who} would see"
            raise OptionError(message, "Use a mirror without a password, or unset it.")
        variables[name] = value
    return variables | dict(extra)


def labels() -> dict[str, str]:
    """Return the labels of a cluster of this user; the operator copies them to everything that it makes."""
    return {MANAGED: "higgsnb", USER: user_label()}


def process_start(process: int) -> str:
    """Return when a process of this machine started, since process ids are reused; empty if there is none.

    On Linux that is in ticks since boot: the time of day would change whenever the clock is set.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii")
    except OSError:  # not Linux
        import psutil

        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            return str(int(psutil.Process(process).create_time()))
        return ""
    try:
        state, *fields = Path(f"/proc/{process}/stat").read_text(encoding="latin-1").rpartition(")")[2].split()
    except OSError:
        return ""
    return f"{boot[:8]}-{fields[18]}" if state != "Z" else ""


def owner_reference(api: Api) -> Object | None:
    """Return this pod as an owner, so that Kubernetes removes the cluster with it; None outside a pod."""
    if not in_cluster() or own_namespace() != api.namespace:
        return None
    name = os.environ.get("HOSTNAME") or platform.node()
    pod = api.call("GET", api.path("pods", name), allowed={404})
    if pod is None:  # the host name is not the pod's: then only the idle timeout removes the cluster
        return None
    return {"apiVersion": "v1", "kind": "Pod", "name": name, "uid": pod["metadata"]["uid"], "blockOwnerDeletion": False}
