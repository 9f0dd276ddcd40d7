"""The kinds of clusters: how each is made, asked, scaled and removed, and the waiting that this takes.

Only `cluster` uses this. Every wait here has a deadline and can be broken off.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import Future, wait
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from importlib import util
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from higgsnb import k8s_operated as kubernetes
from higgsnb.checks import Check, memory_limit
from higgsnb.errors import ClusterError
from higgsnb.files import redact
from higgsnb.k8s_operated import Trouble

if TYPE_CHECKING:
    from distributed import Client
    from distributed.deploy.cluster import Cluster as DaskCluster

Value = TypeVar("Value")

BATCH = {
    "slurm": ("SLURMCluster", ("sbatch", "scancel")),
    "htcondor": ("HTCondorCluster", ("condor_submit", "condor_rm")),
}
GATEWAY_OPTIONS = ("address", "proxy_address", "auth")
WORKER_LEAST = 500_000_000
"""Bytes that a worker needs: the interpreter, compiled code and one chunk."""
NOTEBOOK_LEAST = 400_000_000
"""Bytes kept free for the notebook and the scheduler, which share the session's limit with local workers."""
POLL_SECONDS = 0.5


@dataclass(frozen=True)
class Description:
    """What was asked for; ``memory`` in bytes per worker, times in seconds; ``why`` says why this kind was taken."""

    kind: str
    workers: int | None
    cores: int
    memory: int
    image: str | None
    namespace: str | None
    idle_timeout: int
    deadline: float
    why: str
    options: Mapping[str, Any] = field(default_factory=dict)


class Provider(Protocol):
    """What differs between the kinds: making a cluster, and asking it."""

    name: str
    workers: int
    note: str

    def start(self, until: float, say: Callable[[Trouble | None], None], cancel: threading.Event) -> None:
        """Start the cluster until its scheduler answers.

        Raise `ClusterError` by ``until`` (monotonic time), or soon after ``cancel`` was set.
        """

    def client(self, *, default: bool) -> Client:
        """Return a new client, or the one that Dask uses when none is named."""

    def dashboard(self) -> str:
        """Return the dashboard's address as the browser needs it; empty if there is none."""

    def trouble(self) -> Trouble | None:
        """Name what keeps workers from being ready."""

    def gone(self) -> str:
        """Return why the cluster is no longer there; empty while it is."""

    def scale(self, workers: int) -> None:
        """Ask for a number of workers."""

    def adapt(self, minimum: int, maximum: int) -> None:
        """Let the number of workers follow the work."""

    def logs(self) -> dict[str, str]:
        """Return the end of each log, by name."""

    def close(self, seconds: float) -> None:
        """Remove everything; may be called again if that failed."""


# --- Waiting -------------------------------------------------------------------------------------


class Patience:
    """How long the same trouble has lasted."""

    def __init__(self) -> None:
        self._kind, self._since = "", 0.0

    def over(self, found: Trouble | None) -> bool:
        """Whether this trouble has lasted longer than it may."""
        kind = found.remedy if found else ""  # the words of a reason change (a back-off counts), the remedy does not
        if kind != self._kind:
            self._kind, self._since = kind, time.monotonic()
        return found is not None and time.monotonic() - self._since >= found.patience


def too_late(found: Trouble | None, deadline: float, name: str) -> ClusterError:
    """Return the error of a cluster that did not become ready."""
    if found:
        return ClusterError(found.reason, found.remedy)
    return ClusterError(
        f"{name} was not ready in {deadline:.0f} s, and nothing says why",
        "Give it longer (deadline=), or look at its pods or jobs.",
    )


def _connected(address: str, *, default: bool) -> Client:
    """Return a client; one that loses its connection tries again for a minute before it gives up."""
    from distributed import Client
    from distributed.versions import VersionMismatchWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", VersionMismatchWarning)  # `cluster` says it as an error
        return Client(address, timeout=60, set_as_default=default)


def close_client(client: Client) -> None:
    """Close a client, whatever state it is in."""
    with suppress(OSError, RuntimeError, TimeoutError):
        within(10, lambda: client.close(timeout=3), "the end of a client")


def within(
    seconds: float,
    call: Callable[[], Value],
    what: str,
    *,
    late: Callable[[Value], object] | None = None,
    cancel: threading.Event | None = None,
) -> Value:
    """Return what a call returns; `TimeoutError` if it takes longer, `ClusterError` if ``cancel`` is set.

    The call then goes on in a thread of its own, and ``late`` gets what comes of it after all; so it does after Ctrl-C.
    Where no thread can be started any more there is no limit of time.
    """
    outcome: Future[Value] = Future()
    owner = threading.Lock()  # whoever is second, the thread or the one that gives up, hands the outcome to `late`

    def run() -> None:
        try:
            value = call()
        except BaseException as error:  # noqa: BLE001  raised again in the thread that waits
            outcome.set_exception(error)
            return
        outcome.set_result(value)
        if not owner.acquire(blocking=False) and late is not None:
            late(value)

    try:
        _heed(cancel)
        thread = threading.Thread(target=run, name=f"higgsnb: {what}", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # at the very end of a program newer versions of Python start no threads
            run()
        return _awaited(outcome, seconds, what, cancel)
    except BaseException:
        if not owner.acquire(blocking=False) and late is not None:
            late(outcome.result())
        raise


def _awaited(outcome: Future[Value], seconds: float, what: str, cancel: threading.Event | None) -> Value:
    """Return what comes within a time, unless ``cancel`` is set before."""
    until = time.monotonic() + seconds
    while not wait([outcome], max(min(until - time.monotonic(), POLL_SECONDS), 0)).done:
        _heed(cancel)
        if time.monotonic() > until:
            raise TimeoutError(f"no answer in {seconds:.0f} s: {what}")
    return outcome.result()


def _heed(cancel: threading.Event | None) -> None:
    """Break off if that was asked for."""
    if cancel is not None and cancel.is_set():
        raise ClusterError("the start was broken off", "Start again.")


def pause(cancel: threading.Event) -> None:
    """Wait a moment before the next look; break off if that is asked for."""
    cancel.wait(POLL_SECONDS)
    _heed(cancel)


# --- The kinds -----------------------------------------------------------------------------------


def make(described: Description) -> Provider:
    """Return what makes a cluster of this kind."""
    if described.kind == "kubernetes":
        return _Kubernetes(described)
    return _Managed(described)


class _Kubernetes:
    """A cluster that the Dask operator runs."""

    def __init__(self, described: Description) -> None:
        options = dict(described.options)
        extra = kubernetes.environment(options.pop("environment", {}))
        self.workers, self.note = described.workers or 2, ""
        wanted = kubernetes.Wanted(
            workers=self.workers,
            cores=described.cores,
            memory=described.memory,
            image=described.image or kubernetes.default_image() or "",
            idle_timeout=described.idle_timeout,
            environment=extra,
            **options,
        )
        self._idle_timeout, self._deadline = described.idle_timeout, described.deadline
        self._cluster = kubernetes.OperatedCluster(wanted, described.namespace)
        self.name = self._cluster.name

    def start(self, until: float, say: Callable[[Trouble | None], None], cancel: threading.Event) -> None:
        """Make the object and wait until its scheduler can be reached."""
        _heed(cancel)
        self._cluster.create()
        patience = Patience()
        while not self._cluster.scheduler_ready():
            found = self._cluster.trouble()
            say(found)
            if patience.over(found) or time.monotonic() > until:
                raise too_late(found, self._deadline, self.name)
            pause(cancel)
        say(None)
        seconds = max(until - time.monotonic(), 5)
        within(2 * seconds, partial(self._cluster.connect, seconds), "the way to the scheduler", cancel=cancel)

    def client(self, *, default: bool) -> Client:
        """Return a new client; a forwarded port may break off a connection, so it is tried for a while."""
        until = time.monotonic() + 25
        while True:
            try:
                return _connected(self._cluster.address, default=default)
            except OSError as error:
                if time.monotonic() > until:
                    raise ClusterError(
                        f"the scheduler runs, but {self._cluster.address} cannot be reached ({redact(str(error))})",
                        "The network policy must let this session reach port 8786: binder/hub/README.md.",
                    ) from error
            time.sleep(POLL_SECONDS)

    def dashboard(self) -> str:
        """Return the address of the dashboard."""
        return dashboard_link(self._cluster.dashboard)

    def trouble(self) -> Trouble | None:
        """Name what the pods wait for."""
        return self._cluster.trouble()

    def gone(self) -> str:
        """Say whether the operator, or somebody, has removed the cluster."""
        if self._cluster.exists():
            return ""
        return f"the cluster was removed: {self._idle_timeout} s without work, or by somebody"

    def scale(self, workers: int) -> None:
        """Ask for a number of workers."""
        self._cluster.scale(workers)

    def adapt(self, minimum: int, maximum: int) -> None:
        """Let the operator choose."""
        self._cluster.adapt(minimum, maximum)

    def logs(self) -> dict[str, str]:
        """Return the logs of the pods."""
        return self._cluster.logs()

    def close(self, seconds: float) -> None:
        """Remove the cluster."""
        self._cluster.close(seconds)


class _Managed:
    """A cluster that a class of Dask runs from this process: local, by a gateway, or by a batch system."""

    def __init__(self, described: Description) -> None:
        self._described = described
        self._memory = described.memory
        self.workers, self.note = described.workers or 2, ""
        if described.kind == "local":
            (self.workers, self._memory), check = local_memory(described)
            self.note = check.found if self._memory < described.memory else ""
        self.name = described.kind
        self._dask: DaskCluster | None = None
        self._adaptive: Any = None
        self._ending = threading.Lock()

    def start(self, until: float, say: Callable[[Trouble | None], None], cancel: threading.Event) -> None:
        """Start the scheduler, and ask for the workers."""
        say(None)
        make = {"local": self._local, "gateway": self._by_gateway}.get(self._described.kind, self._batch)
        try:
            what = f"the start of a {self.name} cluster"
            self._dask = within(max(until - time.monotonic(), 1), make, what, late=self._end, cancel=cancel)
        except ClusterError:
            raise
        except (TimeoutError, RuntimeError) as error:  # Dask: "Nanny failed to start."
            raise ClusterError(f"the cluster could not be started: {redact(str(error))}", self._remedy()) from error
        self.name = str(self._dask.name)

    def _remedy(self) -> str:
        """Return what to do if workers do not come."""
        if self._described.kind == "local":
            return "In a script, start the cluster under `if __name__ == '__main__':`; or ask for fewer workers."
        return "Look at the queue; give it longer (deadline=), or ask for fewer or smaller workers."

    def _local(self) -> DaskCluster:
        """Start processes of this machine, on its loopback only."""
        from distributed import LocalCluster

        return LocalCluster(
            n_workers=self.workers,
            threads_per_worker=self._described.cores,
            memory_limit=self._memory,
            processes=True,
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",
            worker_dashboard_address="127.0.0.1:0",
            **self._described.options,
        )

    def _by_gateway(self) -> DaskCluster:
        """Ask a dask-gateway for a cluster."""
        options = {key: value for key, value in self._described.options.items() if key not in GATEWAY_OPTIONS}
        cluster: DaskCluster = gateway(self._described).new_cluster(shutdown_on_close=True, **options)
        cluster.scale(self.workers)
        return cluster

    def _batch(self) -> DaskCluster:
        """Submit the workers as jobs; the scheduler runs here, and its connections are encrypted."""
        from distributed.security import Security

        options = {"shared_temp_directory": str(Path.cwd()), **self._described.options}
        if self._described.kind == "htcondor":
            options = {"disk": "4GB", **options}
        made: DaskCluster = getattr(jobqueue(), BATCH[self._described.kind][0])(
            cores=self._described.cores,
            memory=str(self._memory),
            processes=1,
            death_timeout=60,
            protocol="tls://",
            security=Security.temporary(),
            scheduler_options={
                "idle_timeout": f"{self._described.idle_timeout} s",
                "dashboard_address": "127.0.0.1:0",
                **options.pop("scheduler_options", {}),
            },
            **options,
        )
        made.scale(jobs=self.workers)
        return made

    def client(self, *, default: bool) -> Client:
        """Return a new client, or the one that Dask uses when none is named."""
        from distributed import Client

        return Client(self._need(), timeout=20, set_as_default=default)

    def _need(self) -> DaskCluster:
        """Return the cluster once it is started."""
        if self._dask is None:
            raise ClusterError(f"the {self.name} cluster is not started", "Use higgsnb.cluster.launch().")
        return self._dask

    def dashboard(self) -> str:
        """Return the address of the dashboard."""
        link = str(self._need().dashboard_link or "")
        if self._described.kind == "gateway":
            return link
        return dashboard_link(link.partition("://")[2].partition("/")[0])

    def trouble(self) -> Trouble | None:
        """Say that the workers have not come yet."""
        where = "on this machine" if self._described.kind == "local" else "in the queue"
        text = f"workers are still {'starting ' if self._described.kind == 'local' else ''}{where}"
        return Trouble(text, self._remedy(), patience=float("inf"))

    def gone(self) -> str:
        """Say whether the scheduler has ended."""
        status = _ended(self._need())
        if status:
            return f"the scheduler has ended ({status}): {self._described.idle_timeout} s without work, or by itself"
        return ""

    def scale(self, workers: int) -> None:
        """Ask for a number of workers."""
        self._check_room(workers)
        cluster = self._need()
        if self._described.kind == "gateway":
            cluster.adapt(active=False)
        elif self._adaptive is not None:
            cluster.sync(_stop_adapting, self._adaptive, callback_timeout=10)
            self._adaptive = None
        cluster.scale(workers)

    def adapt(self, minimum: int, maximum: int) -> None:
        """Let Dask choose."""
        self._check_room(maximum)
        self._adaptive = self._need().adapt(minimum=minimum, maximum=maximum)

    def _check_room(self, workers: int) -> None:
        """Refuse more local workers than there is memory for; as many as at the start are always right."""
        room = _room()
        if self._described.kind == "local" and workers > self.workers and workers * self._memory > room:
            raise ClusterError(
                f"{workers} workers of {self._memory / 1e9:.1f} GB do not fit in this session's memory",
                "Close this cluster and start one with smaller workers; "
                f"{max(room // WORKER_LEAST, 0)} of 0.5 GB would fit.",
            )

    def logs(self) -> dict[str, str]:
        """Return the logs that Dask keeps."""
        return {str(name): str(text) for name, text in self._need().get_logs().items()}

    def close(self, seconds: float) -> None:
        """End the workers, then the scheduler."""
        if self._dask is not None:
            within(seconds, partial(self._end, self._dask), f"the end of the {self.name} cluster")
            self._dask = None

    def _end(self, cluster: Any) -> None:
        """End a cluster of Dask, which cannot be done in two threads at once."""
        with self._ending:
            if _ended(cluster) and getattr(cluster, "scheduler_comm", None) is not None:
                cluster.scheduler_comm.timeout = 1  # else Dask tries for half a minute to tell the dead scheduler
            cluster.close()
        for name in ("_job_key", "_job_cert", "_job_ca_file"):  # dask-jobqueue leaves its certificates open
            file = getattr(cluster, name, None)
            if file is not None:
                file.close()


def _ended(cluster: Any) -> str:
    """Return how a cluster of Dask or its scheduler has ended, in a word; empty if it has not."""
    for server in (cluster, getattr(cluster, "scheduler", None)):
        status = str(getattr(server, "status", "")).rpartition(".")[2]
        if status in {"closed", "closing", "failed"}:
            return status
    return ""


async def _stop_adapting(adaptive: Any) -> None:
    """Stop Dask's Adaptive in its event loop, and let it finish what it is doing: that may be taking workers away."""
    adaptive.stop()
    while adaptive._adapting:
        await asyncio.sleep(0.05)


def jobqueue() -> Any:
    """Return the module dask_jobqueue, imported without its handler of Ctrl-C.

    That handler would end this process without closing anything, and it cannot be set in another thread than the main.
    """
    from unittest.mock import patch

    with _IMPORTING, patch("signal.signal"):
        import dask_jobqueue
        import dask_jobqueue.core
    return dask_jobqueue


_IMPORTING = threading.Lock()


def gateway(described: Description) -> Any:
    """Return the gateway that the options or Dask's configuration name."""
    from dask_gateway import Gateway

    return Gateway(**{key: described.options[key] for key in GATEWAY_OPTIONS if key in described.options})


def _room() -> int:
    """Return the bytes that local workers may use together."""
    import psutil

    limit = memory_limit() or psutil.virtual_memory().total
    return int(limit - max(NOTEBOOK_LEAST, psutil.Process().memory_info().rss + 100_000_000))


def local_memory(described: Description) -> tuple[tuple[int, int], Check]:
    """Fit local workers into the session's memory limit.

    Returns
    -------
    (int, int), Check
        Number of workers, bytes for each; and what to say about it, bad if they do not fit.
    """
    from dask.system import CPU_COUNT

    room = _room()
    fitting = max(1, min(CPU_COUNT // described.cores, room // described.memory))
    workers = described.workers or fitting
    memory = min(described.memory, room // workers)
    limit = memory_limit() or 0
    session = f"the session's limit is {limit / 1e9:.1f} GB" if limit else "the session's limit is not known"
    good = memory >= min(described.memory, WORKER_LEAST)
    found = f"{workers} workers of {max(memory, 0) / 1e9:.1f} GB ({session})"
    remedy = f"Ask for at most {max(room // WORKER_LEAST, 0)} workers, or close other programs."
    return (workers, int(memory)), Check("memory of the workers", good, found, remedy)


def dashboard_link(place: str) -> str:
    """Return the dashboard's address for a browser: through the hub's proxy in a hub; empty without bokeh.

    ``place`` is host and port.
    """
    if not place or util.find_spec("bokeh") is None:
        return ""
    prefix = os.environ.get("JUPYTERHUB_SERVICE_PREFIX")
    if not prefix:
        return f"http://{place}/status"
    host, _, port = place.rpartition(":")
    return f"{prefix}proxy/{port if host in {'127.0.0.1', 'localhost'} else place}/status"
