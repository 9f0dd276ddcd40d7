"""Where a cluster can run, and whether it can be started; nothing is started here."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from importlib import util
from shutil import which
from typing import NamedTuple

from higgsnb.cluster.kubernetes import preflight as k8s_preflight
from higgsnb.cluster.kubernetes.api import configured, in_cluster
from higgsnb.cluster.machine import Check, check_machine, completed, memory_limit
from higgsnb.cluster.managed import WORKER_LEAST, gateway, room_for_workers
from higgsnb.cluster.options import BATCH, DEFAULT_WORKERS, ClusterSpec, option_names
from higgsnb.cluster.waiting import call_with_timeout
from higgsnb.datasets import redact
from higgsnb.errors import describe


class Prepared(NamedTuple):
    """A spec with a definite kind and number of workers, why this kind, a note on the size, and the checks."""

    spec: ClusterSpec
    why: str
    note: str
    checks: tuple[Check, ...]


def choose() -> tuple[str, str]:
    """Return the kind for this session, and why, in one sentence.

    Kubernetes in a hub that gives the rights; otherwise this machine.
    """
    return choose_for(ClusterSpec())[:2]


def choose_for(spec: ClusterSpec) -> tuple[str, str, tuple[Check, ...]]:
    """Return Kubernetes or this machine, why in one sentence, and the checks of Kubernetes if that took any.

    A quota that is too small for the spec does not decide it.
    """
    if "mybinder.org" in os.environ.get("BINDER_LAUNCH_HOST", ""):
        return "local", "mybinder.org gives no access to Kubernetes, so the workers run in this session", ()
    if not in_cluster():
        return "local", "this is not a hub session, so the workers run on this machine", ()
    checks = tuple(k8s_preflight.preflight(spec))
    bad = next((check for check in checks if not check.good and check.name != k8s_preflight.QUOTA), None)
    if bad is not None:
        why = f"Kubernetes cannot be used from here ({bad.name}: {bad.found}), so the workers run here"
        return "local", why, checks
    return "kubernetes", "this hub session may start workers on Kubernetes", checks


def prepare(spec: ClusterSpec) -> Prepared:
    """Decide what the spec leaves open, and check, without starting anything, whether it can be started.

    ``auto`` drops the options of the kinds that are not taken, so that a notebook runs anywhere.
    """
    why, note, checks = "asked for", "", tuple[Check, ...]()
    if spec.kind == "auto":
        kind, why, checks = choose_for(spec)
        mine = option_names(kind) if spec.options else ()
        options = {name: value for name, value in spec.options.items() if name in mine}
        spec = replace(spec, kind=kind, options=options)
    if spec.kind == "local":
        fitting, check = fit_local(spec)
        note = check.found if fitting.memory < spec.memory else ""
        return Prepared(fitting, why, note, (_library("distributed", "distributed"), check))
    spec = replace(spec, workers=spec.workers or DEFAULT_WORKERS)
    if spec.kind == "kubernetes":
        checks = checks or tuple(k8s_preflight.preflight(spec))
    elif spec.kind == "gateway":
        checks = tuple(_gateway_checks(spec))
    else:
        missing = [name for name in BATCH[spec.kind][1] if which(name) is None]
        hint = f"Log in to a machine where the commands of {spec.kind} are installed, or use the kind 'local'."
        found = f"not in PATH: {', '.join(missing)}" if missing else ", ".join(BATCH[spec.kind][1])
        batch_system = Check("batch system", not missing, found, hint)
        checks = (_library("dask_jobqueue", "dask-jobqueue"), batch_system)
    return Prepared(spec, why, note, checks)


def doctor() -> Iterator[Check]:
    """Yield the checks of `higgsnb doctor`: this machine, the kind of cluster that is chosen here, and Kubernetes."""
    yield from check_machine()
    yield from completed("cluster", _check_clusters)


def _check_clusters() -> Iterator[Check]:
    kind, why, checks = choose_for(ClusterSpec())
    yield Check("cluster", True, f"{kind}: {why}")
    if checks or configured():
        yield from checks or k8s_preflight.preflight(ClusterSpec())


def fit_local(spec: ClusterSpec) -> tuple[ClusterSpec, Check]:
    """Return the spec with the number of workers and the bytes for each that fit into the session's memory limit.

    The check is bad if that is too little.
    """
    from dask.system import CPU_COUNT

    room = room_for_workers()
    workers = spec.workers or max(1, min(CPU_COUNT // spec.cores, room // spec.memory))
    memory = min(spec.memory, room // workers)
    limit = memory_limit() or 0
    session = f"the session's limit is {limit / 1e9:.1f} GB" if limit else "the session's limit is not known"
    good = memory >= min(spec.memory, WORKER_LEAST)
    found = f"{workers} workers of {max(memory, 0) / 1e9:.1f} GB ({session})"
    hint = f"Ask for at most {max(room // WORKER_LEAST, 0)} workers, or close other programs."
    return replace(spec, workers=workers, memory=memory), Check("memory of the workers", good, found, hint)


def _library(module: str, distribution: str) -> Check:
    """Check that a library is installed."""
    good = util.find_spec(module) is not None
    return Check(distribution, good, "installed" if good else "not installed", f"pip install {distribution}")


def _gateway_checks(spec: ClusterSpec) -> Iterator[Check]:
    """Check that the gateway is known and answers."""
    library = _library("dask_gateway", "dask-gateway")
    yield library
    if not library.good:
        return
    try:
        names = call_with_timeout(15, lambda: len(gateway(spec).list_clusters()), "the gateway")
    except (OSError, RuntimeError, ValueError, TimeoutError) as error:
        hint = "Give address= and auth=, or set DASK_GATEWAY__ADDRESS."
        yield Check("gateway", False, redact(describe(error)[0]), hint)
        return
    yield Check("gateway", True, f"answers; you have {names} clusters there")
