"""A Dask cluster, wherever you are: this machine, Kubernetes, a gateway, a batch system."""

from __future__ import annotations

from higgsnb.cluster.cluster import CLOSE_SECONDS, Cluster, ClusterState, launch, orphans, remove
from higgsnb.cluster.machine import checks
from higgsnb.cluster.options import KINDS, MOST, ClusterSpec, check_number, parse_memory
from higgsnb.cluster.prepare import choose, doctor

__all__ = [
    "launch",
    "Cluster",
    "ClusterState",
    "orphans",
    "remove",
    "CLOSE_SECONDS",
    "ClusterSpec",
    "KINDS",
    "MOST",
    "check_number",
    "parse_memory",
    "choose",
    "doctor",
    "checks",
]


def __dir__() -> list[str]:
    return __all__
