"""Why the pods of a cluster are not running, from their status and from events."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial

from higgsnb.cluster.kubernetes.api import Object
from higgsnb.cluster.provider import Problem
from higgsnb.datasets import redact

PULL = ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "RegistryUnavailable")
CONFIGURATION = {
    *("CreateContainerConfigError", "CreateContainerError"),
    *("RunContainerError", "StartError", "ContainerCannotRun"),
}
QUOTA_HINT = "Ask for fewer or smaller workers, close other clusters (higgsnb clean), or ask for a larger quota."


def find_problem(pods: Sequence[Object], events: Sequence[Object]) -> Problem | None:
    """Return what keeps the pods of a cluster from running; None if nothing is known.

    Causes come before their consequences: without a scheduler, workers exit, so what keeps the scheduler away is named
    first, and of workers only what has happened since it is ready.

    Parameters
    ----------
    pods, events
        As the Kubernetes API gives them: the pods of the cluster, and the events about its objects.
    """
    schedulers = [pod for pod in pods if is_scheduler(pod)]
    workers = [pod for pod in pods if not is_scheduler(pod)]
    ready = max(map(_ready_since, schedulers), default="")
    if not ready:
        found = _first((_not_started, crash, _not_running), schedulers) or _refused(events, pods, "scheduler")
        return found or _first((_not_started, _not_running), workers) or _refused(events, pods, "")
    kinds = (_not_started, partial(crash, since=ready), _not_running)
    found = _first(kinds, workers) or _refused(events, pods, "")
    others = any(_first(kinds, [pod]) is None for pod in workers)
    return found and replace(found, some_may_come=others)


def _first(kinds: Sequence[Callable[[Object], Problem | None]], pods: Sequence[Object]) -> Problem | None:
    """Return the first problem of these kinds that one of the pods has."""
    return next((found for find in kinds for pod in pods if (found := find(pod))), None)


def _refused(events: Sequence[Object], pods: Sequence[Object], role: str) -> Problem | None:
    """Return why Kubernetes refuses a pod of this role (empty: any), or the operator's request for something else."""
    made = {owner["name"] for pod in pods for owner in pod["metadata"].get("ownerReferences", [])}
    for event in events:
        name, words = str(event.get("involvedObject", {}).get("name", "")), str(event.get("message", ""))
        by_operator = event.get("type") == "Error"  # a level of its log
        if name in made or role not in name or (event.get("reason") != "FailedCreate" and not by_operator):
            continue  # the event outlives what it tells of: a pod that was refused once may be there by now
        if "exceeded quota" in words:
            return Problem(f"the quota of the namespace is used up: {short(words)}", QUOTA_HINT, timeout=8)
        hint = "Show this message to the platform engineer; binder/hub/README.md says what the namespace must allow."
        if not by_operator:
            return Problem(f"Kubernetes refuses the pods: {short(words)}", hint, timeout=8)
        if all(map(is_scheduler, pods)):  # it makes the workers last
            timeout = 8.0 if "forbidden" in words else 75.0  # it tries again after a minute
            return Problem(f"the Dask operator cannot make the cluster: {short(words)}", hint, timeout)
    return None


def is_scheduler(pod: Object) -> bool:
    """Whether a pod of a cluster is its scheduler; the others are workers."""
    return bool(pod["metadata"].get("labels", {}).get("dask.org/component") == "scheduler")


def _statuses(pod: Object) -> Iterator[tuple[Object, Object]]:
    """Yield each container's status with what it waits for."""
    for status in pod.get("status", {}).get("containerStatuses") or []:
        yield status, status.get("state", {}).get("waiting") or {}


def _role(pod: Object) -> str:
    return "the scheduler" if is_scheduler(pod) else "a worker"


def _not_started(pod: Object) -> Problem | None:
    """Return why a container of a pod cannot be started: its image, or its configuration."""
    for status, waiting in _statuses(pod):
        if waiting.get("reason") in PULL:
            image = status.get("image") or pod["spec"]["containers"][0]["image"]
            words = waiting.get("message") or waiting["reason"]
            return Problem(
                f"{_role(pod)} cannot pull its image {image}: {waiting['reason']}, {short(words)}",
                "Check the name and tag of the image, and that Kubernetes may read the registry (pull_secrets=).",
                timeout=12,  # a registry may refuse once and answer the next time
            )
        last = status.get("state", {}).get("terminated") or status.get("lastState", {}).get("terminated") or {}
        for state in (waiting, last):
            if state.get("reason") in CONFIGURATION:
                return Problem(
                    f"{_role(pod)} cannot be started: {state['reason']}, {short(state.get('message', ''))}",
                    "Use an image that has `dask` in its PATH and a user who is not root (user_id=).",
                    timeout=5,
                )
    return None


def crash(pod: Object, since: str = "") -> Problem | None:
    """Return how a container of a pod has crashed after a time, if it has more than once or ran out of memory."""
    for status, waiting in _statuses(pod):
        ended = status.get("lastState", {}).get("terminated") or status.get("state", {}).get("terminated") or {}
        if not ended or (waiting.get("reason") != "CrashLoopBackOff" and status.get("restartCount", 0) < 2):
            continue
        if ended.get("finishedAt", "~") <= since:  # both in UTC, to the second
            continue
        if ended.get("reason") == "OOMKilled" or ended.get("exitCode") == 137:
            return Problem(
                f"{_role(pod)} was killed for using more memory than its limit (exit code 137, OOMKilled)",
                'Ask for more, for instance memory="4GiB", or fewer cores per worker.',
            )
        return Problem(
            f"{_role(pod)} keeps crashing: CrashLoopBackOff, exit code {ended.get('exitCode', '?')}",
            "Use an image with the same versions of dask, distributed and higgsnb as here.",
            timeout=10,  # a worker that loses its scheduler exits, too, and succeeds the next time
            log_of=pod["metadata"]["name"],
        )
    return None


def _not_running(pod: Object) -> Problem | None:
    """Return why a pod is on no node: it fits on none, or Kubernetes ended it."""
    status = pod.get("status", {})
    for condition in status.get("conditions") or []:
        if condition.get("type") == "PodScheduled" and condition.get("reason") == "Unschedulable":
            return Problem(
                f"{_role(pod)} is unschedulable, no node has room for it: {short(condition.get('message', ''))}",
                "Ask for fewer or smaller workers (workers=, cores=, memory=), or wait for nodes (deadline=).",
                timeout=30,  # adding a node takes longer, and needs a longer deadline, too
            )
    if status.get("phase") != "Failed":
        return None
    reason = f"{status.get('reason', 'Failed')}, {short(status.get('message', ''))}"
    hint = "Start again; if it happens again, ask for less memory."
    if "storage" in reason:
        hint = 'Ask for more, for instance disk="20GiB", or let files be read piecewise (HIGGSNB_STREAM_ABOVE=0).'
    return Problem(f"{_role(pod)} was ended by Kubernetes: {reason}", hint, timeout=10)


def short(words: str, most: int = 300) -> str:
    """Return a message in one line of limited length, without secrets."""
    line = " ".join(redact(str(words)).split())
    return line if len(line) <= most else f"{line[: most - 1]}…"


def is_ready(pod: Object) -> bool:
    """Whether the condition Ready of a pod holds."""
    return bool(_ready_since(pod))


def _ready_since(pod: Object) -> str:
    """Return since when a pod is ready; empty if it is not."""
    conditions = pod.get("status", {}).get("conditions") or []
    ready = (item for item in conditions if item.get("type") == "Ready" and item.get("status") == "True")
    return next((str(item.get("lastTransitionTime") or "0") for item in ready), "")
