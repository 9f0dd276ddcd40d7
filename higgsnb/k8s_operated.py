"""A Dask cluster on Kubernetes: what the operator is asked for, what is looked at, and what a problem is called.

The Dask operator does the work: one ``DaskCluster`` object becomes a scheduler, workers and a service. Here that object
is made, and its pods and events are looked at until they are ready or say why they are not. The operator's own client,
``KubeCluster``, is not used for that: it waits without a deadline for an image that cannot be pulled and for a port
that is closed, deletes the pods of a crash loop before their log is read, gives up when the operator overwrites the
phase ``Running`` with ``Pending``, and never ends its port forwards.

Looking means listing once a second, not watching: a list cannot be dropped without notice, and each has a deadline.
"""

from __future__ import annotations

import asyncio
import getpass
import hashlib
import json
import os
import platform
import re
import threading
import time
import uuid
import warnings
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import util
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from higgsnb.checks import Check
from higgsnb.errors import ApiError
from higgsnb.files import redact

if TYPE_CHECKING:
    from kr8s.portforward import PortForward

Object = dict[str, Any]
Value = TypeVar("Value")

GROUP = "kubernetes.dask.org"
SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
SCHEDULER_PORT, DASHBOARD_PORT = 8786, 8787
JOVYAN = 1000
"""The user that repo2docker makes in every image; a number, since Kubernetes cannot tell whether a name is root."""
REQUEST_SECONDS = 20.0
"""A request is repeated for so long while the API server is busy, restarting or out of reach."""
UP_TAKE_SECONDS = 25.0
"""The operator sets the phase of a new cluster within a second or two; after this long there is none."""
MANAGED = "app.kubernetes.io/managed-by"
USER = "higgsnb/user"
CLIENT_HOST, CLIENT_PROCESS = "higgsnb/client-host", "higgsnb/client-process"
RETRIED = (429, 500, 502, 503, 504)
SCHEDULER_MEMORY = "1Gi"
PASSED_ON = ("HIGGSNB_MIRROR", "HIGGSNB_ALLOW_HOSTS", "HIGGSNB_STREAM_ABOVE")

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


@dataclass(frozen=True)
class Trouble:
    """Why a cluster is not ready, in the container's or Kubernetes' own words, and what to do.

    ``patience`` is how long, in seconds, it may last before it counts as final: none for what cannot mend itself.
    """

    reason: str
    remedy: str
    patience: float = 0.0


@dataclass(frozen=True)
class Leftover:
    """A cluster of this user that no process of this machine uses any more."""

    name: str
    namespace: str
    created: str
    host: str
    process: int

    @property
    def elsewhere(self) -> bool:
        """Whether another machine made it, which may be using it: a second server in the hub, for instance."""
        return self.host != platform.node()

    @property
    def text(self) -> str:
        """One line for a list."""
        made = f"{self.namespace}/{self.name}, made {self.created} by process {self.process} of {self.host}"
        return f"{made}; may be in use there" if self.elsewhere else made


def in_cluster() -> bool:
    """Whether this process runs in a pod that may talk to the Kubernetes API."""
    return "KUBERNETES_SERVICE_HOST" in os.environ and (SERVICE_ACCOUNT / "token").is_file()


def configured() -> bool:
    """Whether there is a cluster to talk to: in a pod, or by a kubeconfig."""
    paths = os.environ.get("KUBECONFIG", "~/.kube/config").split(os.pathsep)
    return in_cluster() or any(path and Path(path).expanduser().is_file() for path in paths)


def _own_namespace() -> str:
    """Return the namespace that the hub names, or that of this pod; empty outside, where the kubeconfig has one."""
    if os.environ.get("HIGGSNB_NAMESPACE"):
        return os.environ["HIGGSNB_NAMESPACE"]
    file = SERVICE_ACCOUNT / "namespace"
    return file.read_text(encoding="ascii").strip() if in_cluster() and "KUBECONFIG" not in os.environ else ""


def default_image() -> str | None:
    """Return the image of this session, which the workers use unless told otherwise; None outside a hub."""
    return os.environ.get("JUPYTER_IMAGE_SPEC") or os.environ.get("JUPYTER_IMAGE") or None


def user_label() -> str:
    """Return the name of the user as a label value: readable, and different for different users."""
    user = os.environ.get("JUPYTERHUB_USER") or f"{getpass.getuser()}-{platform.node()}"
    readable = re.sub(r"[^A-Za-z0-9]+", "-", user)[:40].strip("-")
    return f"{readable or 'user'}-{hashlib.sha256(user.encode()).hexdigest()[:8]}"


# --- The API -------------------------------------------------------------------------------------


class Api:
    """The Kubernetes API, with a deadline on each request; its event loop has a thread of its own.

    Parameters
    ----------
    namespace
        Where everything is done; None: the namespace of the kubeconfig or of this pod.

    Raises
    ------
    ApiError
        If there are no credentials, or the API server does not answer.
    """

    def __init__(self, namespace: str | None = None) -> None:
        self._api: Any = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="higgsnb-kubernetes", daemon=True)
        self._thread.start()
        try:
            self._api = self._connect()
        except BaseException:
            self.close()
            raise
        self.namespace = namespace or _own_namespace() or str(self._api.namespace)

    def _connect(self) -> Any:
        """Read the credentials and ask for the server's version."""
        import kr8s.asyncio

        async def connect() -> Any:
            with warnings.catch_warnings():  # that it does not know a version yet; the checks below find what matters
                warnings.filterwarnings("ignore", message=r"(Unable to parse )?Kubernetes version")
                return await kr8s.asyncio.api()

        return self._persist(connect, "GET /version", REQUEST_SECONDS)

    @property
    def server(self) -> str:
        """The address of the API server."""
        return str(self._api.auth.server)

    def run(self, coroutine: Coroutine[Any, Any, Value], seconds: float) -> Value:
        """Run a coroutine in the event loop; `TimeoutError` after so many seconds."""
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return future.result(seconds)
        except BaseException:  # the time is over, or Ctrl-C: what nobody waits for any more must not do anything either
            future.cancel()
            raise

    def call(
        self,
        method: str,
        path: str,
        *,
        body: Object | None = None,
        parameters: Mapping[str, str | int | bool] | None = None,
        seconds: float = REQUEST_SECONDS,
    ) -> Any:
        """Make a request, again while the server is busy; return the decoded JSON, or a log's text.

        Raises
        ------
        ApiError
            If it was refused, or not answered in ``seconds``.
        """
        base, _, last = path.rpartition("/") if path.count("/") > 1 else (path, "", "")
        options: Object = {"params": dict(parameters or {})}
        if body is not None:
            patching = method == "PATCH"
            options["content"] = json.dumps(body)
            options["headers"] = {"Content-Type": f"application/{'merge-patch+' if patching else ''}json"}

        async def request() -> Any:
            async with self._api.call_api(method, version="", base=base, url=last, **options) as response:
                is_json = "json" in response.headers.get("content-type", "")
                return response.json() if is_json else response.text

        return self._persist(request, f"{method} {path}", seconds)

    def _persist(self, attempt: Any, what: str, seconds: float) -> Any:
        """Run an attempt until it is answered; raise `ApiError` when the time is over."""
        import httpx
        import kr8s

        until, pause = time.monotonic() + seconds, 0.2
        while True:
            left = until - time.monotonic()
            try:
                return self.run(attempt(), max(left, 0.1))
            except kr8s.ServerError as error:
                status = error.response.status_code if error.response is not None else 0
                failure = ApiError(str(error), status=status)
                if status not in RETRIED:
                    raise failure from error
                failure = ApiError(f"{what} was answered with {status} for {seconds:.0f} s", status=status)
            except (httpx.TransportError, OSError, kr8s.APITimeoutError, FutureTimeoutError) as error:
                failure = ApiError(f"{what} had no answer in {seconds:.0f} s ({_words(error)})")
            except (ValueError, KeyError, LookupError) as error:  # what kr8s says of a kubeconfig it cannot use
                raise ApiError(f"no usable credentials ({_words(error)})") from error
            if until - time.monotonic() <= pause:
                raise failure
            time.sleep(pause)
            pause = min(2 * pause, 2.0)

    def list(self, plural: str, *, group: str = "", **parameters: str | int) -> list[Object]:
        """List the objects of one kind in the namespace."""
        found: list[Object] = self.call("GET", self.path(plural, group=group), parameters=parameters).get("items", [])
        return found

    def path(self, plural: str, name: str = "", *, group: str = "") -> str:
        """Return the path of the objects of one kind, or of one of them."""
        base = f"/apis/{group}/v1" if group else "/api/v1"
        return f"{base}/namespaces/{self.namespace}/{plural}{f'/{name}' if name else ''}"

    def forward(self, service: str, port: int, seconds: float) -> tuple[PortForward, int]:
        """Open a port of this machine's loopback that leads to a service; return it with its number."""

        async def start() -> tuple[PortForward, int]:
            from kr8s.asyncio.objects import Service

            target = await Service.get(service, namespace=self.namespace, api=self._api)
            forwarding: Any = target.portforward(port, local_port="auto")
            return forwarding, int(await forwarding.start())

        return self.run(start(), seconds)

    def close(self) -> None:
        """End the event loop, its connections and its thread."""
        if self._loop.is_closed():
            return
        with suppress(FutureTimeoutError):
            self.run(_end_tasks(getattr(self._api, "_session", None)), 5)
        self._api = None
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        if not self._thread.is_alive():
            self._loop.close()


async def _end_tasks(session: Any) -> None:
    """Cancel everything else in this event loop, wait until it has ended, and close the connections."""
    others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    if session is not None:
        await session.aclose()


def _words(error: BaseException) -> str:
    """Return what an exception says, or its name if it says nothing."""
    return redact(str(error)) or type(error).__name__


# --- What is asked for ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Wanted:
    """What a cluster should be: number and size of the workers, image, and how long it may be idle (s)."""

    workers: int
    cores: int
    memory: int
    image: str
    idle_timeout: int
    environment: Mapping[str, str]
    pull_secrets: Sequence[str] = ()
    user_id: int = JOVYAN


def environment(extra: Mapping[str, str]) -> dict[str, str]:
    """Return the variables of the pods: where remote files are, and the scheduler's route for retiring workers.

    Only addresses are passed on: a pod does not see this machine's folders.

    Raises
    ------
    ValueError
        If an address has a password in it: whoever may read the cluster's objects could read it.
    """
    import dask.config
    import distributed  # noqa: F401  its defaults are in the configuration only once it is imported

    routes = list(dask.config.get("distributed.scheduler.http.routes"))
    route = "distributed.http.scheduler.api"
    variables = {"DASK_DISTRIBUTED__SCHEDULER__HTTP__ROUTES": json.dumps([*routes, *({route} - set(routes))])}
    for name in PASSED_ON:
        value = os.environ.get(name, "")
        if not value or (name == "HIGGSNB_MIRROR" and "://" not in value):
            continue
        if redact(value) != value:
            raise ValueError(
                f"{name} = {redact(value)} has a secret in it, which everybody who may read the cluster's objects "
                "would see\nUse a mirror without a password, or unset it."
            )
        variables[name] = value
    return variables | dict(extra)


def cluster_object(name: str, wanted: Wanted, owner: Object | None) -> Object:
    """Return the ``DaskCluster`` object.

    The commands are ours, ``dask worker`` and ``dask scheduler``: the programs ``dask-worker`` and ``dask-scheduler``,
    which the operator's template names, are gone from present releases.
    """
    from dask_kubernetes.operator import make_cluster_spec

    made: Object = make_cluster_spec(
        name,
        image=wanted.image,
        n_workers=wanted.workers,
        env=dict(wanted.environment),
        worker_command="dask worker",
        idle_timeout=wanted.idle_timeout,
    )
    made["metadata"] = {"name": name, "labels": _labels(), "annotations": _annotations()}
    if owner:
        made["metadata"]["ownerReferences"] = [owner]
    scheduler, worker = made["spec"]["scheduler"]["spec"], made["spec"]["worker"]["spec"]
    scheduler["containers"][0]["args"] = ["dask", "scheduler", "--host", "0.0.0.0"]  # noqa: S104  of its pod
    worker["containers"][0]["args"] += ["--nthreads", str(wanted.cores), "--memory-limit", str(wanted.memory)]
    worker["containers"][0]["args"] += ["--death-timeout", "60"]
    scheduler["containers"][0]["resources"] = _resources("500m", SCHEDULER_MEMORY)
    worker["containers"][0]["resources"] = _resources(str(wanted.cores), str(wanted.memory))
    for pod in (scheduler, worker):
        _secure(pod, wanted)
    return made


def _labels() -> dict[str, str]:
    """Return the labels by which `leftovers` finds a cluster; the operator copies them to all that it makes."""
    return {MANAGED: "higgsnb", USER: user_label()}


def _annotations() -> dict[str, str]:
    """Return who uses a cluster: the machine, and the process with its start (process ids come again)."""
    return {CLIENT_HOST: platform.node(), CLIENT_PROCESS: f"{os.getpid()} {_started(os.getpid())}"}


def _started(process: int) -> str:
    """Return the start of a process of this machine; empty if there is none.

    On Linux that is the tick since boot: the time of day at which it started changes whenever the clock is set.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii")
    except OSError:
        return _time_of_start(process)
    try:
        state, *fields = Path(f"/proc/{process}/stat").read_text(encoding="latin-1").rpartition(")")[2].split()
    except OSError:
        return ""
    return f"{boot[:8]}-{fields[18]}" if state != "Z" else ""


def _time_of_start(process: int) -> str:
    """Return when a process started (s since 1970), where there is no Linux; empty if there is none."""
    import psutil

    with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
        return str(int(psutil.Process(process).create_time()))
    return ""


def _resources(cpu: str, memory: str) -> dict[str, dict[str, str]]:
    """Return requests and equal limits."""
    amounts = {"cpu": cpu, "memory": memory}
    return {"requests": dict(amounts), "limits": dict(amounts)}


def _secure(pod: Object, wanted: Wanted) -> None:
    """Take every right from a pod that analysing files does not need."""
    pod["automountServiceAccountToken"] = False
    pod["enableServiceLinks"] = False
    pod["imagePullSecrets"] = [{"name": name} for name in wanted.pull_secrets]
    pod["securityContext"] = {
        "runAsNonRoot": True,
        "runAsUser": wanted.user_id,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    for container in pod["containers"]:
        container["securityContext"] = {
            "allowPrivilegeEscalation": False,
            "privileged": False,
            "capabilities": {"drop": ["ALL"]},
        }


def owner_reference(api: Api) -> Object | None:
    """Return this pod as an owner, so that Kubernetes removes the cluster with it; None outside a pod."""
    if not in_cluster() or (SERVICE_ACCOUNT / "namespace").read_text(encoding="ascii").strip() != api.namespace:
        return None
    name = os.environ.get("HOSTNAME") or platform.node()
    try:
        uid = api.call("GET", api.path("pods", name))["metadata"]["uid"]
    except ApiError as error:
        if error.status != 404:  # another host name than the pod's: then only the idle timeout removes the cluster
            raise
        return None
    return {"apiVersion": "v1", "kind": "Pod", "name": name, "uid": uid, "blockOwnerDeletion": False}


# --- Before the start ----------------------------------------------------------------------------


def preflight(
    *,
    namespace: str | None = None,
    image: str | None = None,
    workers: int = 1,
    cores: int = 1,
    memory: int = 0,
    **_others: object,
) -> Iterator[Check]:
    """Yield what is needed for a cluster, each with the remedy; ends at the first thing that the rest depends on."""
    missing = [name for name in ("kr8s", "dask_kubernetes", "distributed") if util.find_spec(name) is None]
    yield Check(
        "Kubernetes libraries",
        not missing,
        f"missing: {', '.join(missing)}" if missing else "installed",
        "pip install 'higgsnb[kubernetes]'",
    )
    if missing:
        return
    try:
        api = Api(namespace)
    except ApiError as error:
        yield Check("Kubernetes API", False, str(error), _api_remedy(error))
        return
    try:
        yield from _checks(api, image, workers=workers, cores=cores, memory=memory)
    except ApiError as error:
        yield Check("Kubernetes API", False, str(error), _api_remedy(error))
    finally:
        api.close()


def _api_remedy(error: ApiError) -> str:
    """Return what to do about an API that cannot be used."""
    if error.status == 401:
        return "The token is not accepted: log in again (kubectl get pods must work), or restart the server of the hub."
    if error.status == 403:
        return "Ask the platform engineer for the Role in binder/hub/manifests/dask-user.yaml."
    if error.status:
        return "The API server is overloaded or restarting: try again in a minute, or use the kind 'local'."
    return "Set KUBECONFIG to a file with which `kubectl get pods` works, or use the kind 'local'."


def _checks(api: Api, image: str | None, *, workers: int, cores: int, memory: int) -> Iterator[Check]:
    """Yield the checks that ask the API."""
    version = api.call("GET", "/version").get("gitVersion", "of unknown version")
    yield Check("Kubernetes API", True, f"{version} at {api.server}, namespace {api.namespace}")
    kinds = _operator_kinds(api)
    yield kinds
    if not kinds.good:
        return
    yield from _rights(api)
    yield _operator(api)
    yield _quota(api, workers=workers, cores=cores, memory=memory)
    known = image or default_image()
    remedy = 'Name an image with this version of higgsnb in it: image="registry/name@sha256:…".'
    yield Check("image of the workers", known is not None, known or "not known outside a hub", remedy)


def _operator_kinds(api: Api) -> Check:
    """Check that Kubernetes knows what a DaskCluster is."""
    name, remedy = "kinds of the Dask operator", "Ask the platform engineer to install it: binder/hub/README.md."
    try:
        resources = api.call("GET", f"/apis/{GROUP}/v1").get("resources", [])
    except ApiError as error:
        if error.status != 404:
            raise
        return Check(name, False, "this Kubernetes has no DaskCluster (custom resource definition)", remedy)
    known = {resource["name"] for resource in resources}
    missing = sorted({"daskclusters", "daskworkergroups", "daskautoscalers"} - known)
    return Check(name, not missing, f"missing: {', '.join(missing)}" if missing else "installed", remedy)


def _rights(api: Api) -> Iterator[Check]:
    """Yield for each resource whether every verb of `RIGHTS` is allowed here."""
    needed = {key: verbs for key, verbs in RIGHTS.items() if key[1] != "pods/portforward" or not in_cluster()}
    questions = [(key, verb) for key, verbs in needed.items() for verb in verbs]
    with ThreadPoolExecutor(8, thread_name_prefix="higgsnb-rights") as pool:
        allowed = dict(zip(questions, pool.map(lambda asked: _may(api, *asked), questions), strict=True))
    for (group, resource), verbs in needed.items():
        refused = [verb for verb in verbs if not allowed[(group, resource), verb]]
        yield Check(
            f"rights on {resource}",
            not refused,
            f"may not {', '.join(refused)} in {api.namespace}" if refused else ", ".join(verbs),
            f"Ask the platform engineer for the verb{'s' * (len(refused) > 1)} {', '.join(refused)} on {resource} "
            "(binder/hub/manifests/dask-user.yaml).",
        )


def _may(api: Api, key: tuple[str, str], verb: str) -> bool:
    """Ask whether a verb is allowed."""
    resource, _, subresource = key[1].partition("/")
    asked = {"namespace": api.namespace, "verb": verb, "group": key[0], "resource": resource}
    if subresource:
        asked["subresource"] = subresource
    path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
    review = {"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview"}
    answer = api.call("POST", path, body={**review, "spec": {"resourceAttributes": asked}})
    return bool(answer.get("status", {}).get("allowed"))


def _operator(api: Api) -> Check:
    """Look for the operator's pod; it may be in a namespace that we may not see."""
    name = "Dask operator"
    try:
        pods = api.list("pods", labelSelector="app.kubernetes.io/name=dask-kubernetes-operator")
    except ApiError as error:
        if error.status != 403:
            raise
        pods = []
    if not pods:
        return Check(name, True, "not in this namespace; whether it is alive shows at the start")
    ready = [pod["metadata"]["name"] for pod in pods if _is_ready(pod)]
    found = f"{ready[0]} is ready" if ready else f"{pods[0]['metadata']['name']} is not ready"
    return Check(name, bool(ready), found, f"Ask the platform engineer: kubectl -n {api.namespace} describe pod.")


def _quota(api: Api, *, workers: int, cores: int, memory: int) -> Check:
    """Compare what is left of the namespace's quota with what is wanted, if we may see it."""
    name = "quota"
    try:
        quotas = api.list("resourcequotas")
    except ApiError as error:
        if error.status != 403:
            raise
        return Check(name, True, "not visible with these rights; if it is too small, the start says so")
    needs = {"pods": workers + 1.0, "cpu": workers * cores + 0.5, "memory": workers * memory + quantity("1Gi")}
    short = [text for quota in quotas for text in shortage(quota, needs)]
    remedy = "Ask for fewer or smaller workers, close other clusters (higgsnb clean), or ask for a larger quota."
    return Check(name, not short, "; ".join(short) or f"enough for {workers} workers", remedy)


def shortage(quota: Object, needs: Mapping[str, float]) -> Iterator[str]:
    """Yield in words what a ResourceQuota does not leave room for.

    ``needs`` has the keys ``pods``, ``cpu`` (cores) and ``memory`` (bytes).
    """
    status = quota.get("status", {})
    for name, most in status.get("hard", {}).items():
        need = needs.get(name.removeprefix("requests.").removeprefix("limits."))
        used = quantity(status.get("used", {}).get(name, "0"))
        if need is not None and used + need > quantity(most):
            yield f"{quota['metadata']['name']}: {name} {most}, used {status['used'].get(name, '0')}, needed {need:g}"


SUFFIXES = {"m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12} | {
    f"{letter}i": 1024.0**power for power, letter in enumerate("KMGT", start=1)
}


def quantity(text: str) -> float:
    """Return a Kubernetes quantity as a number.

    >>> quantity("500m"), quantity("2Gi"), quantity("3")
    (0.5, 2147483648.0, 3.0)

    Raises
    ------
    ValueError
        If it is none.
    """
    match = re.fullmatch(r"([0-9.]+)([a-zA-Z]{0,2})", str(text).strip())
    if match is None or (match[2] and match[2] not in SUFFIXES):
        raise ValueError(f"{str(text)[:40]!r} is no amount; write for instance 2GiB, 500M or 1.5")
    return float(match[1]) * SUFFIXES.get(match[2], 1.0)


# --- What goes wrong -----------------------------------------------------------------------------

PULL = ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "RegistryUnavailable")
CONFIGURATION = ("CreateContainerConfigError", "CreateContainerError", "RunContainerError", "StartError")


def trouble(pods: Sequence[Object], events: Sequence[Object]) -> Trouble | None:
    """Name what keeps the pods of a cluster from running, the gravest first; None if nothing is known.

    Parameters
    ----------
    pods, events
        As the Kubernetes API gives them: the pods of the cluster, and the events about its objects.
    """
    orphans = any(_component(pod) == "scheduler" and not _is_ready(pod) for pod in pods)
    for find in (_pull, _configuration, _crash, _unschedulable, _evicted):
        for pod in pods:
            if find is _crash and orphans and _component(pod) == "worker":
                continue  # a worker ends for want of its scheduler: the reason lies there
            found = find(pod)
            if found:
                return found
    return _refused(events)


def _component(pod: Object) -> str:
    """Return "scheduler" or "worker"."""
    return str(pod.get("metadata", {}).get("labels", {}).get("dask.org/component", ""))


def _statuses(pod: Object) -> Iterator[tuple[Object, Object]]:
    """Yield each container's status with what it waits for."""
    for status in pod.get("status", {}).get("containerStatuses") or []:
        yield status, status.get("state", {}).get("waiting") or {}


def _role(pod: Object) -> str:
    """Return what a pod is: ``the scheduler`` or ``a worker``."""
    component = pod["metadata"].get("labels", {}).get("dask.org/component")
    return "the scheduler" if component == "scheduler" else "a worker"


def _pull(pod: Object) -> Trouble | None:
    for status, waiting in _statuses(pod):
        if waiting.get("reason") in PULL:
            image = status.get("image") or pod["spec"]["containers"][0]["image"]
            words = waiting.get("message") or waiting["reason"]
            return Trouble(
                f"{_role(pod)} cannot pull its image {image}: {waiting['reason']}, {_short(words)}",
                "Check the name and tag of the image, and that Kubernetes may read the registry (pull_secrets=).",
                patience=12,  # a registry may refuse once and answer the next time
            )
    return None


def _configuration(pod: Object) -> Trouble | None:
    for status, waiting in _statuses(pod):
        last = status.get("state", {}).get("terminated") or status.get("lastState", {}).get("terminated") or {}
        for state in (waiting, last):
            if state.get("reason") in (*CONFIGURATION, "ContainerCannotRun"):
                return Trouble(
                    f"{_role(pod)} cannot be started: {state['reason']}, {_short(state.get('message', ''))}",
                    "Use an image that has `dask` in its PATH and a user who is not root (user_id=).",
                    patience=5,
                )
    return None


def _crash(pod: Object) -> Trouble | None:
    for status, waiting in _statuses(pod):
        ended = status.get("lastState", {}).get("terminated") or status.get("state", {}).get("terminated") or {}
        if not ended or (waiting.get("reason") != "CrashLoopBackOff" and status.get("restartCount", 0) < 2):
            continue
        if ended.get("reason") == "OOMKilled" or ended.get("exitCode") == 137:
            return Trouble(
                f"{_role(pod)} was killed for using more memory than its limit (exit code 137, OOMKilled)",
                'Ask for more, for instance memory="4GiB", or fewer cores per worker.',
            )
        return Trouble(
            f"{_role(pod)} ends again and again: CrashLoopBackOff, exit code {ended.get('exitCode', '?')}",
            "Use an image with the same versions of dask, distributed and higgsnb as here.",
            patience=10,  # a worker that was there before its scheduler ends, too, and is well the next time
        )
    return None


def _unschedulable(pod: Object) -> Trouble | None:
    for condition in pod.get("status", {}).get("conditions") or []:
        if condition.get("type") == "PodScheduled" and condition.get("reason") == "Unschedulable":
            return Trouble(
                f"{_role(pod)} is unschedulable, no node has room for it: {_short(condition.get('message', ''))}",
                "Ask for fewer or smaller workers (workers=, cores=, memory=), or wait for nodes (deadline=).",
                patience=30,  # a cluster that grows by itself needs longer: then the deadline has to be longer too
            )
    return None


def _evicted(pod: Object) -> Trouble | None:
    status = pod.get("status", {})
    if status.get("phase") != "Failed":
        return None
    words = _short(status.get("message", ""))
    reason = f"{_role(pod)} was ended by Kubernetes: {status.get('reason', 'Failed')}, {words}"
    return Trouble(reason, "Start again; if it happens again, ask for less memory.", patience=10)


def _refused(events: Sequence[Object]) -> Trouble | None:
    """Name why Kubernetes did not make a pod at all."""
    for event in events:
        if event.get("reason") != "FailedCreate":
            continue
        words = event.get("message", "")
        if "exceeded quota" in words:
            remedy = (
                "Ask for fewer or smaller workers, close other clusters (higgsnb clean), or ask for a larger quota."
            )
            return Trouble(f"the quota of the namespace is used up: {_short(words)}", remedy, patience=8)
        remedy = "Show this message to the platform engineer; binder/hub/README.md says what the namespace must allow."
        return Trouble(f"Kubernetes refuses the pods: {_short(words)}", remedy, patience=8)
    return None


def _short(words: str, most: int = 300) -> str:
    """Return a message in one line of limited length, without secrets."""
    line = " ".join(redact(str(words)).split())
    return line if len(line) <= most else f"{line[: most - 1]}…"


def _is_ready(pod: Object) -> bool:
    """Whether the condition Ready of a pod holds."""
    conditions = pod.get("status", {}).get("conditions") or []
    return any(item.get("type") == "Ready" and item.get("status") == "True" for item in conditions)


# --- One cluster ---------------------------------------------------------------------------------


class OperatedCluster:
    """One ``DaskCluster`` and what came of it; every method has a deadline.

    Parameters
    ----------
    wanted
        What to ask for.
    namespace
        Where; None: the namespace of the kubeconfig or of this pod.
    """

    def __init__(self, wanted: Wanted, namespace: str | None) -> None:
        self.wanted = wanted
        self.name = f"higgsnb-{uuid.uuid4().hex[:10]}"
        self.api = Api(namespace)
        self.address = self.dashboard = ""
        self._forwards: list[PortForward] = []
        self._created = 0.0
        self._phase = ""

    def create(self) -> None:
        """Make the object; a repeated request that finds it made is no error, since its name is ours alone."""
        made = cluster_object(self.name, self.wanted, owner_reference(self.api))
        self._created = time.monotonic()
        try:
            self.api.call("POST", self.api.path("daskclusters", group=GROUP), body=made)
        except ApiError as error:
            if error.status != 409:
                raise

    def pods(self) -> list[Object]:
        """List the pods of the cluster."""
        return self.api.list("pods", labelSelector=f"dask.org/cluster-name={self.name}")

    def scheduler_ready(self) -> bool:
        """Whether the scheduler's pod is ready and has its service.

        The phase of the object does not matter here: the operator may overwrite ``Running`` with ``Pending``.
        """
        pods = [pod for pod in self.pods() if _role(pod) == "the scheduler" and _is_ready(pod)]
        names = {service["metadata"]["name"] for service in self.api.list("services")} if pods else set()
        return f"{self.name}-scheduler" in names

    def exists(self) -> bool:
        """Whether the object is still there; the operator deletes it after the idle timeout."""
        try:
            found = self.api.call("GET", self.api.path("daskclusters", self.name, group=GROUP))
        except ApiError as error:
            if error.status != 404:
                raise
            return False
        self._phase = found.get("status", {}).get("phase", "")
        return "deletionTimestamp" not in found["metadata"]

    def trouble(self) -> Trouble | None:
        """Name what keeps the cluster from being ready."""
        pods = self.pods()
        events = self.api.list("events", fieldSelector="type=Warning")
        mine = [event for event in events if self.name in event.get("involvedObject", {}).get("name", "")]
        found = trouble(pods, mine)
        if found and "CrashLoopBackOff" in found.reason:
            return Trouble(f"{found.reason}; its last words: {self._last_words(pods)}", found.remedy, found.patience)
        seconds = time.monotonic() - self._created
        if found is None and not pods and seconds > UP_TAKE_SECONDS and self.exists() and not self._phase:
            return Trouble(
                f"no Dask operator has taken up the cluster in {seconds:.0f} s",
                "Ask the platform engineer whether the operator runs and looks after this namespace.",
            )
        return found

    def _last_words(self, pods: Sequence[Object], lines: int = 5) -> str:
        """Return the end of the log of the container that crashed."""
        crashed = next(pod for pod in pods if _crash(pod))
        path = self.api.path("pods", f"{crashed['metadata']['name']}/log")
        for previous in (True, False):
            with suppress(ApiError):
                text = self.api.call("GET", path, parameters={"previous": previous, "tailLines": lines}, seconds=5)
                if str(text).strip():
                    return _short(" / ".join(str(text).strip().splitlines()[-lines:]), 600)
        return "(no log)"

    def connect(self, seconds: float) -> None:
        """Find the way to the scheduler: its service inside Kubernetes, a forwarded port of the loopback outside."""
        service = f"{self.name}-scheduler"
        if in_cluster():
            host = self.api.call("GET", self.api.path("services", service))["spec"]["clusterIP"]
            self.address, self.dashboard = f"tcp://{host}:{SCHEDULER_PORT}", f"{host}:{DASHBOARD_PORT}"
            return
        self.address = f"tcp://127.0.0.1:{self._forward(service, SCHEDULER_PORT, seconds)}"
        self.dashboard = f"127.0.0.1:{self._forward(service, DASHBOARD_PORT, seconds)}"

    def _forward(self, service: str, port: int, seconds: float) -> int:
        """Open a forwarded port and remember it."""
        forwarding, number = self.api.forward(service, port, seconds)
        self._forwards.append(forwarding)
        return number

    def scale(self, workers: int) -> None:
        """Ask for a number of workers; ends adaptive scaling."""
        _delete(self.api, "daskautoscalers", self.name, REQUEST_SECONDS)
        path = self.api.path("daskworkergroups", f"{self.name}-default/scale", group=GROUP)
        self.api.call("PATCH", path, body={"spec": {"replicas": workers}})

    def adapt(self, minimum: int, maximum: int) -> None:
        """Let the operator choose the number of workers by the work there is."""
        limits = {"minimum": minimum, "maximum": maximum}
        body = {
            "apiVersion": f"{GROUP}/v1",
            "kind": "DaskAutoscaler",
            "metadata": {"name": self.name, "labels": {**_labels(), "dask.org/cluster-name": self.name}},
            "spec": {"cluster": self.name, **limits},
        }
        try:
            self.api.call("POST", self.api.path("daskautoscalers", group=GROUP), body=body)
        except ApiError as error:
            if error.status != 409:
                raise
            self.api.call("PATCH", self.api.path("daskautoscalers", self.name, group=GROUP), body={"spec": limits})

    def logs(self, lines: int = 500) -> dict[str, str]:
        """Return the end of the log of each pod, by its name."""
        texts = {}
        for pod in self.pods():
            name = pod["metadata"]["name"]
            try:
                path = self.api.path("pods", f"{name}/log")
                texts[name] = str(self.api.call("GET", path, parameters={"tailLines": lines}))
            except ApiError as error:  # a pod that has not started has no log yet
                texts[name] = f"(no log: {error})"
        return texts

    def close(self, seconds: float) -> None:
        """Remove the cluster and wait until its pods are gone.

        Raises
        ------
        ApiError
            If it could not be removed, or its pods are still there after ``seconds``; it may be called again then.
        """
        if self._created:
            delete([(self.api, self.name)], seconds)
        self._end_forwards()
        self.api.close()

    def _end_forwards(self) -> None:
        """Close the forwarded ports."""

        async def stop() -> None:
            for forwarding in self._forwards:
                await forwarding.stop()

        with suppress(FutureTimeoutError):
            self.api.run(stop(), 5)


@contextmanager
def _missing_is_fine() -> Iterator[None]:
    """Go on if what should be deleted is not there."""
    try:
        yield
    except ApiError as error:
        if error.status != 404:
            raise


def delete(clusters: Sequence[tuple[Api, str]], seconds: float) -> None:
    """Delete clusters, each named with the API of its namespace, and wait until nothing of them is left.

    That takes a second or two; a minute if the operator is just asking whether the scheduler is idle, because it looks
    only once a minute whether it has finished asking. The workers then go first.

    Raises
    ------
    ApiError
        If something was refused, or is still there after ``seconds``; the others are gone all the same.
    """
    began = time.monotonic()
    refused, waiting = [], {key: [""] for key in clusters}
    for api, name in clusters:
        try:
            _delete(api, "daskclusters", name, max(began + seconds - time.monotonic(), 1))
        except ApiError as error:
            refused.append(f"{name}: {error}")
            del waiting[api, name]
    workers_deleted = False
    while waiting := {key: left for key in waiting if (left := _remains(*key))}:
        if time.monotonic() > began + seconds:
            break
        if not workers_deleted and time.monotonic() > began + 4:
            for api, name in waiting:
                with suppress(ApiError):  # it only helps
                    _delete(api, "daskworkergroups", f"{name}-default", REQUEST_SECONDS)
            workers_deleted = True
        time.sleep(0.3)
    after = f"still there {seconds:.0f} s after"
    late = [f"{', '.join(left[:4])} {after} {name} was deleted" for (_, name), left in waiting.items()]
    if refused or late:
        raise ApiError("; ".join([*refused, *late]))


def _delete(api: Api, plural: str, name: str, seconds: float) -> None:
    """Delete an object of Dask, if it is there."""
    with _missing_is_fine():
        api.call("DELETE", api.path(plural, name, group=GROUP), seconds=seconds)


def _remains(api: Api, name: str) -> list[str]:
    """Return the names of what is left of a cluster."""
    selector = f"dask.org/cluster-name={name}"
    pods = [str(pod["metadata"]["name"]) for pod in api.list("pods", labelSelector=selector)]
    services = [str(item["metadata"]["name"]) for item in api.list("services", labelSelector=selector)]
    clusters = api.list("daskclusters", group=GROUP, labelSelector=f"{MANAGED}=higgsnb")
    return [*pods, *services, *(name for item in clusters if item["metadata"]["name"] == name)]


# --- What was left behind ------------------------------------------------------------------------


def leftovers(namespace: str | None = None) -> tuple[Leftover, ...]:
    """Return the clusters of this user that no living process of this machine uses; another machine may use them.

    Raises
    ------
    ApiError
        If the API does not answer, or may not be asked.
    """
    api = Api(namespace)
    try:
        selector = f"{MANAGED}=higgsnb,{USER}={user_label()}"
        found = [_leftover(item) for item in api.list("daskclusters", group=GROUP, labelSelector=selector)]
    finally:
        api.close()
    return tuple(item for item, used in found if not used)


def _leftover(item: Object) -> tuple[Leftover, bool]:
    """Return a cluster, and whether the process that made it is alive on this machine."""
    metadata = item["metadata"]
    notes = metadata.get("annotations", {})
    process, _, started = notes.get(CLIENT_PROCESS, "0 0").partition(" ")
    host = notes.get(CLIENT_HOST, "an unknown machine")
    created = metadata.get("creationTimestamp") or datetime.now(UTC).isoformat()
    used = host == platform.node() and started != "" and _started(int(process)) == started
    return Leftover(metadata["name"], metadata["namespace"], created, host, int(process)), used


def remove(items: Sequence[Leftover], seconds: float = 90.0) -> None:
    """Delete what `leftovers` found, and wait until its pods are gone.

    Raises
    ------
    ApiError
        If something is still there after ``seconds``; names it.
    """
    with ExitStack() as stack:
        namespaces = {item.namespace for item in items}
        apis = {namespace: stack.enter_context(closing(Api(namespace))) for namespace in namespaces}
        delete([(apis[item.namespace], item.name) for item in items], seconds)
