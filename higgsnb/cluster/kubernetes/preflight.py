"""Whether a cluster can be started on Kubernetes: libraries, API, operator, rights, quota and image."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from importlib import util

from higgsnb.cluster.kubernetes.api import GROUP, Api, Object, default_image, in_cluster
from higgsnb.cluster.kubernetes.problems import QUOTA_HINT, is_ready
from higgsnb.cluster.kubernetes.spec import DISK, SCHEDULER_DISK, SCHEDULER_MEMORY
from higgsnb.cluster.machine import Check
from higgsnb.cluster.options import DEFAULT_WORKERS, WORKER_DISK, ClusterSpec, parse_memory, quantity
from higgsnb.errors import ApiError

QUOTA = "quota"
API_HINTS = {
    0: "Set KUBECONFIG to a file with which `kubectl get pods` works, or use the kind 'local'.",
    401: "The token is not accepted: log in again (kubectl get pods must work), or restart the server of the hub.",
    403: "Ask the platform engineer for the Role in binder/hub/manifests/dask-user.yaml.",
}
"""What to do about an API that answers with one of these statuses, or not at all."""
RIGHTS: Mapping[tuple[str, str], tuple[str, ...]] = {
    (GROUP, "daskclusters"): ("get", "list", "watch", "create", "delete"),
    (GROUP, "daskworkergroups"): ("get", "list", "watch", "create", "patch", "delete"),
    (GROUP, "daskworkergroups/scale"): ("get", "patch"),
    (GROUP, "daskautoscalers"): ("get", "list", "create", "patch", "delete"),
    ("", "pods"): ("get", "list", "watch"),
    ("", "pods/log"): ("get",),
    ("", "pods/portforward"): ("get", "create"),
    ("", "services"): ("get", "list", "watch"),
    ("", "events"): ("get", "list"),
}
"""The rules of the shipped Role, ``binder/hub/manifests/dask-user.yaml``; a test holds them together."""


def preflight(spec: ClusterSpec) -> Iterator[Check]:
    """Yield what is needed for a cluster, each with a hint; ends at the first thing that the rest depends on."""
    missing = [name for name in ("kr8s", "dask_kubernetes", "distributed") if util.find_spec(name) is None]
    found = f"missing: {', '.join(missing)}" if missing else "installed"
    yield Check("Kubernetes libraries", not missing, found, "pip install 'higgsnb[kubernetes]'")
    if missing:
        return
    try:
        with closing(Api(spec.namespace)) as api:
            yield from _check_api(api, spec)
    except ApiError as error:
        busy = "The API server is overloaded or restarting: try again in a minute, or use the kind 'local'."
        yield Check("Kubernetes API", False, error.message, API_HINTS.get(error.status, busy))


def _check_api(api: Api, spec: ClusterSpec) -> Iterator[Check]:
    """Yield the checks that need the API."""
    version = api.call("GET", "/version").get("gitVersion", "of unknown version")
    yield Check("Kubernetes API", True, f"{version} at {api.server}, namespace {api.namespace}")
    name, hint = "kinds of the Dask operator", "Ask the platform engineer to install it: binder/hub/README.md."
    kinds = api.call("GET", f"/apis/{GROUP}/v1", allowed={404})
    if kinds is None:
        yield Check(name, False, "this Kubernetes has no DaskCluster (custom resource definition)", hint)
        return
    known = {resource["name"] for resource in kinds.get("resources", [])}
    missing = sorted({"daskclusters", "daskworkergroups", "daskautoscalers"} - known)
    yield Check(name, not missing, f"missing: {', '.join(missing)}" if missing else "installed", hint)
    if missing:
        return
    yield from _rights(api)
    label = {"labelSelector": "app.kubernetes.io/name=dask-kubernetes-operator"}
    pods = (api.call("GET", api.path("pods"), parameters=label, allowed={403}) or {}).get("items", [])
    ready = [pod for pod in pods if is_ready(pod)]
    found = "not in this namespace; the start shows whether it runs"  # it may be in a namespace of its own
    if pods:
        found = f"{(ready or pods)[0]['metadata']['name']} is {'ready' if ready else 'not ready'}"
    hint = f"Ask the platform engineer: kubectl -n {api.namespace} describe pod."
    yield Check("Dask operator", bool(ready) or not pods, found, hint)
    quotas = api.call("GET", api.path("resourcequotas"), allowed={403})
    if quotas is None:
        yield Check(QUOTA, True, "not visible with these rights; the start fails if it is too small")
    else:
        workers = spec.workers or DEFAULT_WORKERS
        memory = workers * spec.memory + quantity(SCHEDULER_MEMORY)
        disk = workers * parse_memory(spec.options.get("disk", WORKER_DISK)) + quantity(SCHEDULER_DISK)
        needs = {"pods": workers + 1.0, "cpu": workers * spec.cores + 0.5, "memory": memory, f"limits.{DISK}": disk}
        short = [text for quota in quotas.get("items", []) for text in shortage(quota, needs)]
        yield Check(QUOTA, not short, "; ".join(short) or f"enough for {workers} workers", QUOTA_HINT)
    image = spec.image or default_image()
    hint = 'Name an image with this version of higgsnb in it: image="registry/name@sha256:…".'
    yield Check("image of the workers", bool(image), image or "not known outside a hub", hint)


def _rights(api: Api) -> Iterator[Check]:
    """Yield for each resource whether every verb of `RIGHTS` is allowed here."""
    needed = {key: verbs for key, verbs in RIGHTS.items() if key[1] != "pods/portforward" or not in_cluster()}

    def is_allowed(question: tuple[str, str, str]) -> bool:
        group, path, verb = question
        resource, _, subresource = path.partition("/")
        asked = {"namespace": api.namespace, "verb": verb, "group": group, "resource": resource}
        if subresource:
            asked["subresource"] = subresource
        review = {"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview"}
        body = {**review, "spec": {"resourceAttributes": asked}}
        answer = api.call("POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", body=body)
        return bool(answer.get("status", {}).get("allowed"))

    questions = [(*key, verb) for key, verbs in needed.items() for verb in verbs]
    with ThreadPoolExecutor(8, thread_name_prefix="higgsnb-rights") as pool:
        allowed = dict(zip(questions, pool.map(is_allowed, questions), strict=True))
    for (group, resource), verbs in needed.items():
        refused = [verb for verb in verbs if not allowed[group, resource, verb]]
        yield Check(
            f"rights on {resource}",
            not refused,
            f"may not {', '.join(refused)} in {api.namespace}" if refused else ", ".join(verbs),
            f"Ask the platform engineer for the verb{'s' * (len(refused) > 1)} {', '.join(refused)} on {resource} "
            "(binder/hub/manifests/dask-user.yaml).",
        )


def shortage(quota: Object, needs: Mapping[str, float]) -> Iterator[str]:
    """Yield each resource of a ResourceQuota that is too small.

    ``needs`` has ``pods``, ``cpu`` (cores), ``memory`` (bytes) and ``limits.ephemeral-storage`` (bytes).
    """
    status = quota.get("status", {})
    for name, most in status.get("hard", {}).items():
        need = needs.get(name, needs.get(name.removeprefix("requests.").removeprefix("limits.")))
        used = status.get("used", {}).get(name, "0")
        if need is not None and quantity(used) + need > quantity(most):
            yield f"{quota['metadata']['name']}: {name} {most}, used {used}, needed {need:g}"
