"""Clusters on Kubernetes whose client is gone: found and removed."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from datetime import UTC, datetime

from higgsnb.cluster.kubernetes.api import GROUP, Api, user_label
from higgsnb.cluster.kubernetes.operated import delete
from higgsnb.cluster.kubernetes.spec import CLIENT_HOST, CLIENT_PROCESS, MANAGED, USER, process_start


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
    """Return the clusters of this user that no living process of this machine uses; another machine may use them.

    Raises
    ------
    ApiError
        If the API does not answer, or refuses.
    """
    found = []
    with closing(Api(namespace)) as api:
        items = api.list("daskclusters", group=GROUP, labelSelector=f"{MANAGED}=higgsnb,{USER}={user_label()}")
    for metadata in (item["metadata"] for item in items):
        notes = metadata.get("annotations", {})
        process, _, started = notes.get(CLIENT_PROCESS, "0 0").partition(" ")
        host = notes.get(CLIENT_HOST, "an unknown machine")
        created = metadata.get("creationTimestamp") or datetime.now(UTC).isoformat()
        if host != platform.node() or started == "" or process_start(int(process)) != started:
            found.append(OrphanedCluster(metadata["name"], metadata["namespace"], created, host, int(process)))
    return tuple(found)


def remove(items: Sequence[OrphanedCluster], seconds: float = 90.0) -> None:
    """Delete what `orphans` found, and wait until its pods are gone.

    Raises
    ------
    ApiError
        If something is still there after ``seconds``; names it.
    """
    with ExitStack() as stack:
        namespaces = {item.namespace for item in items}
        apis = {namespace: stack.enter_context(closing(Api(namespace))) for namespace in namespaces}
        delete([(apis[item.namespace], item.name) for item in items], seconds)
