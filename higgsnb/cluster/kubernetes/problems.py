"""Why the pods of a cluster are not running, from their status and from events."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

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
    """Return the most serious thing that keeps the pods of a cluster from running; None if nothing is known.

    Parameters
    ----------
    pods, events
        As the Kubernetes API gives them: the pods of the cluster, and the events about its objects.
    """
    no_scheduler = any(is_scheduler(pod) and not is_ready(pod) for pod in pods)
    for find in (_not_started, crash, _not_running):
        for pod in pods:
            if find is crash and no_scheduler and not is_scheduler(pod):
                continue  # without a scheduler workers exit, so that is not the reason
            found = find(pod)
            if found:
                return found
    words = next((event.get("message", "") for event in events if event.get("reason") == "FailedCreate"), None)
    if words is None:
        return None
    if "exceeded quota" in words:
        return Problem(f"the quota of the namespace is used up: {short(words)}", QUOTA_HINT, timeout=8)
    hint = "Show this message to the platform engineer; binder/hub/README.md says what the namespace must allow."
    return Problem(f"Kubernetes refuses the pods: {short(words)}", hint, timeout=8)


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


def crash(pod: Object) -> Problem | None:
    """Return how a container of a pod has crashed, if it has more than once or ran out of memory."""
    for status, waiting in _statuses(pod):
        ended = status.get("lastState", {}).get("terminated") or status.get("state", {}).get("terminated") or {}
        if not ended or (waiting.get("reason") != "CrashLoopBackOff" and status.get("restartCount", 0) < 2):
            continue
        if ended.get("reason") == "OOMKilled" or ended.get("exitCode") == 137:
            return Problem(
                f"{_role(pod)} was killed for using more memory than its limit (exit code 137, OOMKilled)",
                'Ask for more, for instance memory="4GiB", or fewer cores per worker.',
            )
        return Problem(
            f"{_role(pod)} keeps crashing: CrashLoopBackOff, exit code {ended.get('exitCode', '?')}",
            "Use an image with the same versions of dask, distributed and higgsnb as here.",
            timeout=10,  # a worker that starts before its scheduler exits, too, and succeeds the next time
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
    return Problem(f"{_role(pod)} was ended by Kubernetes: {reason}", hint, timeout=10)


def short(words: str, most: int = 300) -> str:
    """Return a message in one line of limited length, without secrets."""
    line = " ".join(redact(str(words)).split())
    return line if len(line) <= most else f"{line[: most - 1]}…"


def is_ready(pod: Object) -> bool:
    """Whether the condition Ready of a pod holds."""
    conditions = pod.get("status", {}).get("conditions") or []
    return any(item.get("type") == "Ready" and item.get("status") == "True" for item in conditions)
