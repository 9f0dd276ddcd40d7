"""Clusters that a class of Dask runs from this process: on this machine, through a gateway, or on a batch system."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from higgsnb.cluster.machine import memory_limit
from higgsnb.cluster.options import BATCH, GATEWAY_OPTIONS, ClusterSpec, jobqueue
from higgsnb.cluster.provider import Problem, dashboard_link
from higgsnb.cluster.waiting import call_with_timeout
from higgsnb.datasets import redact
from higgsnb.errors import ClusterError

if TYPE_CHECKING:
    from distributed import Client
    from distributed.deploy.cluster import Cluster as DaskCluster

WORKER_LEAST = 500_000_000
"""Bytes that a worker needs: the interpreter, compiled code and one chunk."""
NOTEBOOK_LEAST = 400_000_000
"""Bytes kept free for the notebook and the scheduler, which share the session's limit with local workers."""


class ManagedCluster:
    """A cluster that a class of Dask runs from this process: local, through a gateway, or on a batch system."""

    def __init__(self, spec: ClusterSpec) -> None:  # a spec as `prepare` returns it
        self._spec = spec
        self.name = spec.kind
        self._dask: DaskCluster | None = None
        self._adaptive: Any = None
        self._ending = threading.Lock()

    def start(self, until: float, report: Callable[[Problem | None], None], cancel: threading.Event) -> None:
        """Start the scheduler, and ask for the workers.

        ``until`` is a time of `time.monotonic`; raises ClusterError by then, or soon after ``cancel`` is set.
        """
        report(None)
        what, seconds = f"the start of a {self.name} cluster", max(until - time.monotonic(), 1)
        try:
            self._dask = call_with_timeout(seconds, self._make, what, on_late=self._end, cancel=cancel)
        except ClusterError:
            raise
        except (TimeoutError, RuntimeError) as error:  # Dask: "Nanny failed to start."
            raise ClusterError(f"the cluster could not be started: {redact(str(error))}", self._hint()) from error
        self.name = str(self._dask.name)

    def _hint(self) -> str:
        """Return what to do if workers do not come."""
        if self._spec.kind == "local":
            return "In a script, start the cluster under `if __name__ == '__main__':`; or ask for fewer workers."
        return "Look at the queue; allow more time (deadline=), or ask for fewer or smaller workers."

    def _make(self) -> DaskCluster:
        """Start processes of this machine, on its loopback only, or ask a gateway or batch system for a cluster."""
        spec = self._spec
        if spec.kind == "local":
            from distributed import LocalCluster

            return LocalCluster(
                n_workers=spec.workers, threads_per_worker=spec.cores, memory_limit=spec.memory, processes=True,
                host="127.0.0.1", dashboard_address="127.0.0.1:0", worker_dashboard_address="127.0.0.1:0",
                **spec.options,
            )  # fmt: skip
        if spec.kind != "gateway":
            return self._batch()
        options = {key: value for key, value in spec.options.items() if key not in GATEWAY_OPTIONS}
        cluster: DaskCluster = gateway(spec).new_cluster(shutdown_on_close=True, **options)
        cluster.scale(spec.workers)
        return cluster

    def _batch(self) -> DaskCluster:
        """Submit the workers as jobs; the scheduler runs here, and its connections are encrypted."""
        from distributed.security import Security

        spec = self._spec
        options = {"shared_temp_directory": str(Path.cwd()), **spec.options}
        if spec.kind == "htcondor":
            options = {"disk": "4GB", **options}
        scheduler = {"idle_timeout": f"{spec.idle_timeout} s", "dashboard_address": "127.0.0.1:0"}
        scheduler |= options.pop("scheduler_options", {})
        made: DaskCluster = getattr(jobqueue(), BATCH[spec.kind][0])(
            cores=spec.cores, memory=str(spec.memory), processes=1, death_timeout=60,
            protocol="tls://", security=Security.temporary(), scheduler_options=scheduler, **options,
        )  # fmt: skip
        made.scale(jobs=spec.workers)
        return made

    def client(self, *, default: bool) -> Client:
        """Return a new client; ``default``: Dask uses it where no client is named."""
        from distributed import Client

        return Client(self._need(), timeout=20, set_as_default=default)

    def _need(self) -> DaskCluster:
        """Return the cluster once it is started."""
        if self._dask is None:
            raise ClusterError(f"the {self.name} cluster is not started", "Use higgsnb.cluster.launch().")
        return self._dask

    def dashboard(self) -> str:
        """Return the address of the dashboard for the browser."""
        link = str(self._need().dashboard_link or "")
        return link if self._spec.kind == "gateway" else dashboard_link(link.partition("://")[2].partition("/")[0])

    def problem(self) -> Problem | None:
        """Return that the workers have not come yet; nothing more is known."""
        where = "starting on this machine" if self._spec.kind == "local" else "in the queue"
        return Problem(f"workers are still {where}", self._hint(), timeout=float("inf"))

    def gone(self) -> str:
        """Return how the scheduler has ended; empty if it has not."""
        status = _ended(self._need())
        if status:
            return f"the scheduler has ended ({status}): {self._spec.idle_timeout} s without work, or by itself"
        return ""

    def scale(self, workers: int) -> None:
        """Ask for a number of workers; ends adapting."""
        self._check_room(workers)
        cluster = self._need()
        if self._spec.kind == "gateway":
            cluster.adapt(active=False)
        elif self._adaptive is not None:
            adaptive = self._adaptive

            async def stop() -> None:  # in Dask's event loop, and wait until it has finished removing workers
                adaptive.stop()
                while adaptive._adapting:
                    await asyncio.sleep(0.05)

            cluster.sync(stop, callback_timeout=10)
            self._adaptive = None
        cluster.scale(workers)

    def adapt(self, minimum: int, maximum: int) -> None:
        """Let Dask choose the number of workers according to the load."""
        self._check_room(maximum)
        self._adaptive = self._need().adapt(minimum=minimum, maximum=maximum)

    def _check_room(self, workers: int) -> None:
        """Raise `ClusterError` if there is no memory for so many local workers; there is for those of the start."""
        spec, room = self._spec, room_for_workers()
        if spec.kind == "local" and workers > spec.workers and workers * spec.memory > room:
            message = f"{workers} workers of {spec.memory / 1e9:.1f} GB do not fit in this session's memory"
            fitting = f"{max(room // WORKER_LEAST, 0)} of 0.5 GB would fit."
            raise ClusterError(message, f"Close this cluster and start one with smaller workers; {fitting}")

    def logs(self) -> dict[str, str]:
        """Return the logs that Dask keeps."""
        return {str(name): str(text) for name, text in self._need().get_logs().items()}

    def close(self, seconds: float) -> None:
        """End the workers, then the scheduler."""
        if self._dask is not None:
            call_with_timeout(seconds, partial(self._end, self._dask), f"closing the {self.name} cluster")
            self._dask = None

    def _end(self, cluster: Any) -> None:
        """End a cluster of Dask, in one thread at a time."""
        with self._ending:
            if _ended(cluster) and getattr(cluster, "scheduler_comm", None) is not None:
                cluster.scheduler_comm.timeout = 1  # otherwise Dask calls the dead scheduler for half a minute
            cluster.close()
        for name in ("_job_key", "_job_cert", "_job_ca_file"):  # dask-jobqueue leaves its certificates open
            file = getattr(cluster, name, None)
            if file is not None:
                file.close()


def _ended(cluster: Any) -> str:
    """Return the status of a cluster of Dask, or of its scheduler, that has ended; empty if it has not."""
    for server in (cluster, getattr(cluster, "scheduler", None)):
        status = str(getattr(server, "status", "")).rpartition(".")[2]
        if status in {"closed", "closing", "failed"}:
            return status
    return ""


def gateway(spec: ClusterSpec) -> Any:
    """Return the gateway that the options or Dask's configuration name."""
    from dask_gateway import Gateway

    return Gateway(**{key: spec.options[key] for key in GATEWAY_OPTIONS if key in spec.options})


def room_for_workers() -> int:
    """Return the bytes that local workers may use together."""
    import psutil

    limit = memory_limit() or psutil.virtual_memory().total
    return int(limit - max(NOTEBOOK_LEAST, psutil.Process().memory_info().rss + 100_000_000))
