"""Clusters on Kubernetes whose client is gone: found and removed."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import util

from higgsnb.cluster.kubernetes.api import GROUP, Api, configured, user_label
from higgsnb.cluster.kubernetes.operated import delete
from higgsnb.cluster.kubernetes.spec import CLIENT_HOST, CLIENT_PROCESS, MANAGED, USER, process_start
from higgsnb.cluster.waiting import CLOSE_SECONDS
from higgsnb.errors import ApiError, ClusterError


@dataclass(frozen=True)
class OrphanedCluster:
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


def orphans(namespace: str = "") -> tuple[OrphanedCluster, ...]:
    """Return the clusters of this user on Kubernetes that no living process of this machine uses.

    Another machine may use them. Empty if no Kubernetes is configured. Local workers end with their process, jobs of a
    batch system 60 seconds after their scheduler.

    Raises
    ------
    ClusterError
        If Kubernetes does not answer, or refuses.
    """
    if not configured() or util.find_spec("kr8s") is None:
        return ()
    found = []
    try:
        with closing(Api(namespace)) as api:
            items = api.list("daskclusters", group=GROUP, labelSelector=f"{MANAGED}=higgsnb,{USER}={user_label()}")
    except ApiError as error:
        raise ClusterError(f"Kubernetes could not be queried: {error.message}", "Run `higgsnb doctor`.") from error
    for metadata in (item["metadata"] for item in items):
        notes = metadata.get("annotations", {})
        process, _, started = notes.get(CLIENT_PROCESS, "0 0").partition(" ")
        host = notes.get(CLIENT_HOST, "an unknown machine")
        created = metadata.get("creationTimestamp") or datetime.now(UTC).isoformat()
        if host != platform.node() or started == "" or process_start(int(process)) != started:
            found.append(OrphanedCluster(metadata["name"], metadata["namespace"], created, host, int(process)))
    return tuple(found)


def remove_orphans(items: Sequence[OrphanedCluster], seconds: float = CLOSE_SECONDS) -> None:
    """Delete clusters that `orphans` found, and wait until their pods are gone.

    Raises
    ------
    ClusterError
        If something is still there after ``seconds``; names it.
    """
    try:
        with ExitStack() as stack:
            namespaces = {item.namespace for item in items}
            apis = {namespace: stack.enter_context(closing(Api(namespace))) for namespace in namespaces}
            delete([(apis[item.namespace], item.name) for item in items], seconds)
    except ApiError as error:
        raise ClusterError(f"not everything could be removed: {error.message}", "Run `higgsnb clean` again.") from error
