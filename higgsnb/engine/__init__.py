"""Run it: every chunk exactly once, resumable, on threads, processes or a Dask cluster."""

from __future__ import annotations

from higgsnb.engine.estimate import BANDWIDTH_MBIT, estimate_cluster, estimate_run
from higgsnb.engine.executors import DaskCluster
from higgsnb.engine.ledger import Ledger, check_locks, export_ledger
from higgsnb.engine.loop import run
from higgsnb.engine.plan import CHUNK_EVENTS
from higgsnb.engine.progress import watch
from higgsnb.engine.versions import check_cluster_versions, installed_versions
from higgsnb.engine.warming import warm, warm_shared

__all__ = [
    "run",
    "watch",
    "CHUNK_EVENTS",
    "Ledger",
    "export_ledger",
    "check_locks",
    "estimate_run",
    "estimate_cluster",
    "BANDWIDTH_MBIT",
    "DaskCluster",
    "installed_versions",
    "check_cluster_versions",
    "warm",
    "warm_shared",
]


def __dir__() -> list[str]:
    return __all__
