"""A Dask cluster, wherever you are: this machine, Kubernetes, a gateway, a batch system."""

from __future__ import annotations

from higgsnb.cluster.cluster import Cluster, ClusterState, launch
from higgsnb.cluster.kubernetes.orphans import orphans, remove_orphans
from higgsnb.cluster.options import KINDS, ClusterSpec, check_workers
from higgsnb.cluster.prepare import choose, doctor
from higgsnb.cluster.waiting import CLOSE_SECONDS

__all__ = [
    "launch",
    "Cluster",
    "ClusterState",
    "ClusterSpec",
    "KINDS",
    "choose",
    "doctor",
    "orphans",
    "remove_orphans",
    "check_workers",
    "CLOSE_SECONDS",
]


def __dir__() -> list[str]:
    return __all__
