"""A Dask cluster on Kubernetes that the Dask operator runs.

One ``DaskCluster`` object becomes a scheduler, workers and a service. Here that object is made, and its pods and events
are polled until they are ready or say why they are not. The operator's own client, ``KubeCluster``, is not used for
that: it waits without a timeout for an image that cannot be pulled and for a port that is closed, deletes the pods of a
crash loop before their log is read, gives up when the operator overwrites the phase ``Running`` with ``Pending``, and
never ends its port forwards.

The state is polled, not watched: a watch can be dropped unnoticed, and each request has a timeout.
"""

from __future__ import annotations

import threading
import time
import uuid
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from higgsnb.cluster.kubernetes.api import GROUP, REQUEST_SECONDS, Api, Object, in_cluster
from higgsnb.cluster.kubernetes.problems import find_problem, is_ready, is_scheduler, short
from higgsnb.cluster.kubernetes.spec import MANAGED, cluster_object, labels, owner_reference
from higgsnb.cluster.options import ClusterSpec
from higgsnb.cluster.provider import Problem, ProblemTimer, dashboard_link, not_ready
from higgsnb.cluster.waiting import POLL_SECONDS, call_with_timeout, pause, raise_if_cancelled
from higgsnb.datasets import redact
from higgsnb.errors import ApiError, ClusterError

if TYPE_CHECKING:
    from distributed import Client

SCHEDULER_PORT, DASHBOARD_PORT = 8786, 8787
UP_TAKE_SECONDS = 25.0
"""The operator sets the phase of a new cluster within a second or two; after this long there is none."""


class OperatedCluster:
    """A cluster that the Dask operator runs; every method has a timeout."""

    def __init__(self, spec: ClusterSpec) -> None:
        self.spec = spec
        self.name = f"higgsnb-{uuid.uuid4().hex[:10]}"
        self.api = Api(spec.namespace)
        self._address = self._dashboard = ""
        self._created = 0.0

    def start(self, until: float, report: Callable[[Problem | None], None], cancel: threading.Event) -> None:
        """Make the object and wait until its scheduler can be reached.

        ``until`` is a time of `time.monotonic`; raises ClusterError by then, or soon after ``cancel`` is set.
        """
        raise_if_cancelled(cancel)
        self.create()
        timer, service = ProblemTimer(), f"{self.name}-scheduler"
        # The phase of the object does not matter here: the operator may overwrite ``Running`` with ``Pending``.
        while not any(is_scheduler(pod) and is_ready(pod) for pod in self._pods()) or all(
            item["metadata"]["name"] != service for item in self.api.list("services")
        ):
            found = self.problem()
            report(found)
            if timer.is_final(found) or time.monotonic() > until:
                raise not_ready(found, self.spec.deadline, self.name)
            pause(cancel)
        report(None)
        seconds = max(until - time.monotonic(), 5)
        find = partial(self._find_scheduler, seconds)
        call_with_timeout(2 * seconds, find, "the connection to the scheduler", cancel=cancel)

    def create(self) -> None:
        """Make the object; 409 means that a repeated request finds it made, since its name is unique."""
        made = cluster_object(self.name, self.spec, owner_reference(self.api))
        self._created = time.monotonic()
        self.api.call("POST", self.api.path("daskclusters", group=GROUP), body=made, allowed={409})

    def _find_scheduler(self, seconds: float) -> None:
        """Set the addresses: of the service inside Kubernetes, of forwarded ports of the loopback outside."""
        service = f"{self.name}-scheduler"
        if in_cluster():
            host = self.api.call("GET", self.api.path("services", service))["spec"]["clusterIP"]
            self._address, self._dashboard = f"tcp://{host}:{SCHEDULER_PORT}", f"{host}:{DASHBOARD_PORT}"
            return
        scheduler, board = (self.api.forward(service, port, seconds) for port in (SCHEDULER_PORT, DASHBOARD_PORT))
        self._address, self._dashboard = f"tcp://127.0.0.1:{scheduler}", f"127.0.0.1:{board}"

    def client(self, *, default: bool) -> Client:
        """Return a new client; tries for 25 s, since a forwarded port may drop a connection."""
        from distributed import Client
        from distributed.versions import VersionMismatchWarning

        until = time.monotonic() + 25
        while True:
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", VersionMismatchWarning)  # `Cluster.start` raises an error instead
                    return Client(self._address, timeout=60, set_as_default=default)  # it reconnects for a minute
            except OSError as error:
                if time.monotonic() > until:
                    message = f"the scheduler runs, but {self._address} cannot be reached ({redact(str(error))})"
                    hint = "The network policy must let this session reach port 8786: binder/hub/README.md."
                    raise ClusterError(message, hint) from error
            time.sleep(POLL_SECONDS)

    def dashboard(self) -> str:
        """Return the address of the dashboard for the browser."""
        return dashboard_link(self._dashboard)

    def _pods(self) -> list[Object]:
        return self.api.list("pods", labelSelector=f"dask.org/cluster-name={self.name}")

    def _made(self) -> Object | None:
        """Return the object; None once it is deleted, as the operator does after the idle timeout."""
        path = self.api.path("daskclusters", self.name, group=GROUP)
        found: Object | None = self.api.call("GET", path, allowed={404})
        return found if found and "deletionTimestamp" not in found["metadata"] else None

    def gone(self) -> str:
        """Return why the cluster is no longer there; empty while it is."""
        if self._made() is not None:
            return ""
        return f"the cluster was removed: {self.spec.idle_timeout} s without work, or by another user"

    def problem(self) -> Problem | None:
        """Return what keeps the cluster from being ready, if it is known."""
        pods = self._pods()
        events = self.api.list("events", fieldSelector="type!=Normal")
        mine = [event for event in events if self.name in event.get("involvedObject", {}).get("name", "")]
        found = find_problem(pods, mine)
        if found and found.log_of:
            return replace(found, reason=f"{found.reason}; the end of its log: {self._end_of_log(found.log_of)}")
        seconds = time.monotonic() - self._created
        if found or pods or seconds <= UP_TAKE_SECONDS:
            return found
        made = self._made()
        if made is None:
            return Problem("the cluster was removed, by another user perhaps", "Start again.")
        if made.get("status", {}).get("phase"):
            return None
        hint = "Ask the platform engineer whether the operator runs and watches this namespace."
        return Problem(f"no Dask operator has taken up the cluster in {seconds:.0f} s", hint)

    def _end_of_log(self, pod: str, lines: int = 5) -> str:
        """Return the end of the log of a pod that crashed."""
        path = self.api.path("pods", f"{pod}/log")
        for previous in (True, False):
            with suppress(ApiError):
                text = self.api.call("GET", path, parameters={"previous": previous, "tailLines": lines}, seconds=5)
                if str(text).strip():
                    return short(" / ".join(str(text).strip().splitlines()[-lines:]), 600)
        return "(no log)"

    def scale(self, workers: int) -> None:
        """Ask for a number of workers; ends adaptive scaling."""
        _delete(self.api, "daskautoscalers", self.name, REQUEST_SECONDS)
        path = self.api.path("daskworkergroups", f"{self.name}-default/scale", group=GROUP)
        self.api.call("PATCH", path, body={"spec": {"replicas": workers}})

    def adapt(self, minimum: int, maximum: int) -> None:
        """Let the operator choose the number of workers according to the load."""
        limits = {"minimum": minimum, "maximum": maximum}
        metadata = {"name": self.name, "labels": {**labels(), "dask.org/cluster-name": self.name}}
        body = {"apiVersion": f"{GROUP}/v1", "kind": "DaskAutoscaler", "metadata": metadata}
        body["spec"] = {"cluster": self.name, **limits}
        if self.api.call("POST", self.api.path("daskautoscalers", group=GROUP), body=body, allowed={409}) is None:
            self.api.call("PATCH", self.api.path("daskautoscalers", self.name, group=GROUP), body={"spec": limits})

    def logs(self, lines: int = 500) -> dict[str, str]:
        """Return the end of the log of each pod, by its name."""
        texts = {}
        for pod in self._pods():
            name = pod["metadata"]["name"]
            try:
                path = self.api.path("pods", f"{name}/log")
                texts[name] = str(self.api.call("GET", path, parameters={"tailLines": lines}))
            except ApiError as error:  # a pod that has not started has no log yet
                texts[name] = f"(no log: {error.message})"
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
        self.api.close()


def delete(clusters: Sequence[tuple[Api, str]], seconds: float) -> None:
    """Delete clusters, each given as the API of its namespace and its name, and wait until nothing of them is left.

    That takes a second or two, or a minute while the operator is asking whether the scheduler is idle: it checks only
    once a minute whether the answer has come. The workers do not wait for that, their group is deleted as well; the
    service does, since the operator asks for minutes if it cannot find it.

    Raises
    ------
    ApiError
        If something is refused, or is still there after ``seconds``; the other clusters are gone.
    """
    until = time.monotonic() + seconds
    refused, waiting = [], {key: [""] for key in clusters}
    for api, name in clusters:
        try:
            _delete(api, "daskclusters", name, max(until - time.monotonic(), 1))
        except ApiError as error:
            refused.append(f"{name}: {error.message}")
            del waiting[api, name]
    while waiting := {key: left for key in waiting if (left := _remains(*key))}:
        if time.monotonic() > until:
            break
        for (api, name), left in waiting.items():
            if f"{name}-default" in left:  # perhaps made after its cluster was deleted, and never tied to it
                with suppress(ApiError):  # tried again
                    _delete(api, "daskworkergroups", f"{name}-default", REQUEST_SECONDS)
        time.sleep(0.3)
    after = f"still there {seconds:.0f} s after"
    late = [f"{', '.join(left[:4])} {after} {name} was deleted" for (_, name), left in waiting.items()]
    if refused or late:
        raise ApiError("; ".join([*refused, *late]))


def _delete(api: Api, plural: str, name: str, seconds: float) -> None:
    """Delete an object of Dask, if it is there."""
    api.call("DELETE", api.path(plural, name, group=GROUP), seconds=seconds, allowed={404})


def _remains(api: Api, name: str) -> list[str]:
    """Return the names of what is left of a cluster."""
    mine = {"labelSelector": f"dask.org/cluster-name={name}"}
    items = [
        *api.list("pods", **mine),
        *api.list("services", **mine),
        *api.list("daskworkergroups", group=GROUP, **mine),
    ]
    clusters = api.list("daskclusters", group=GROUP, labelSelector=f"{MANAGED}=higgsnb")
    items += [item for item in clusters if item["metadata"]["name"] == name]
    return [str(item["metadata"]["name"]) for item in items]
