"""Make, describe, scale and close a Dask cluster: on this machine, on Kubernetes, through a gateway or a batch system.

A cluster goes through the phases preflight, starting, ready, scaling, closing and closed; or failed, with a reason and
a hint. Every wait has a timeout, and whatever was started is removed when it cannot be finished::

    with cluster.launch("kubernetes", workers=20) as mine:
        for result in engine.run(campaign, selection, client=mine.get_client()):
            ...
"""

from __future__ import annotations

import atexit
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

from higgsnb import engine
from higgsnb.cluster.kubernetes.operated import OperatedCluster
from higgsnb.cluster.managed import ManagedCluster
from higgsnb.cluster.options import ClusterSpec, check_workers
from higgsnb.cluster.prepare import prepare
from higgsnb.cluster.provider import Problem, ProblemTimer, close_client, not_ready
from higgsnb.cluster.waiting import CLOSE_SECONDS, POLL_SECONDS, call_with_timeout, pause, raise_if_cancelled
from higgsnb.datasets import redact
from higgsnb.errors import ClusterError, HiggsnbError, OptionError, VersionError
from higgsnb.redaction import logger

if TYPE_CHECKING:
    from distributed import Client

log = logger(__name__)

Provider: TypeAlias = OperatedCluster | ManagedCluster
"""What makes, queries, scales and removes a cluster; both kinds have the same methods."""
PREFLIGHT_SECONDS = 60.0
_CLIENT = "a client of the scheduler"
_CLEAN = "Close it again, or run `higgsnb clean`; without work the cluster is removed after its idle timeout."


@dataclass(frozen=True)
class ClusterState:
    """What a cluster is doing.

    ``phase`` is preflight, starting, ready, scaling, closing, closed or failed; ``reason`` and ``hint`` say what keeps
    it from being ready and what to do about it; ``why`` is why this kind was chosen; ``started`` is in seconds since
    1970; ``dashboard`` is empty if there is none.
    """

    kind: str
    phase: str = "preflight"
    workers_wanted: int = 0
    workers_ready: int = 0
    reason: str = ""
    hint: str = ""
    why: str = ""
    dashboard: str = ""
    started: float = 0.0
    name: str = ""

    def as_dict(self) -> dict[str, str | int | float]:
        """Return the state as plain JSON."""
        return asdict(self)


def launch(
    kind: str = "auto",
    *,
    workers: int | None = None,
    cores: int = 1,
    memory: str | int = "2GiB",
    image: str | None = None,
    namespace: str | None = None,
    idle_timeout: int = 900,
    deadline: float = 120,
    on_state: Callable[[ClusterState], None] | None = None,
    cancel: threading.Event | None = None,
    **options: Any,
) -> Cluster:
    """Start a Dask cluster and return it when workers are ready.

    Parameters
    ----------
    kind
        ``auto`` (see `choose`), ``local``, ``kubernetes``, ``gateway``, ``slurm`` or ``htcondor``.
    workers
        How many; None: two, or locally as many as cores and memory allow.
    cores, memory
        Threads and memory (``"2GiB"``, or bytes) of one worker.
    image
        Image of the workers on Kubernetes (default: that of this session).
    namespace
        Where on Kubernetes (default: that of this session or of the kubeconfig).
    idle_timeout
        The cluster removes itself after so many seconds without work, also if this process is gone. Local workers do
        not: they end with this process.
    deadline
        Seconds until at least one worker must be ready. With fewer than wanted by then, the cluster is ready all the
        same, and its state says why.
    on_state
        Called with each new `ClusterState`, from any thread; exceptions that it raises are logged.
    cancel
        Setting it from another thread cancels the start within about a second with `ClusterError`; what was made is
        removed, in a thread if that takes longer. Without effect once the cluster is ready.
    options
        ``kubernetes``: ``environment`` (dict for the pods), ``pull_secrets``, ``user_id``, ``disk`` (temporary storage
        of a worker, ``"10GiB"``); ``gateway``: ``address``, ``proxy_address``, ``auth`` and what its administrator
        offers; ``slurm``, ``htcondor``: those of dask-jobqueue; ``local``: those of Dask's ``LocalCluster``; ``auto``:
        all of them; those of other kinds than the chosen one are ignored.

    Raises
    ------
    OptionError
        If something is out of range, or an option is unknown.
    ClusterError
        If it cannot be started; everything that was made is removed.
    """
    raise_if_cancelled(cancel)
    given = {"workers": workers, "image": image, "namespace": namespace}
    options |= {name: value for name, value in given.items() if value is not None}
    sizes = {"cores": cores, "memory": memory, "idle_timeout": idle_timeout, "deadline": deadline}
    spec = ClusterSpec.parse(kind, **sizes, **options)
    cluster = Cluster(spec, on_state, cancel)
    cluster.start()
    return cluster


class Cluster(AbstractContextManager["Cluster"]):
    """A Dask cluster from its start to its end; made by `launch`. Closes itself when the process ends.

    ``state`` is what it is doing now.
    """

    def __init__(
        self, spec: ClusterSpec, on_state: Callable[[ClusterState], None] | None = None,
        cancel: threading.Event | None = None,
    ) -> None:  # fmt: skip
        self._spec = spec
        self._on_state = on_state
        self._cancel = cancel or threading.Event()
        why = "" if spec.kind == "auto" else "asked for"
        self.state = ClusterState(spec.kind, why=why, workers_wanted=spec.workers)
        self._note = ""
        self._lock = threading.RLock()
        self._removing = threading.RLock()  # one thread at a time; reentered if `on_state` closes the cluster
        self._provider: Provider | None = None
        self._clients: list[Client] = []
        self._observer: Client | None = None
        self._stop = threading.Event()
        self._monitor = threading.Thread(target=self._observe, name="higgsnb-cluster", daemon=True)
        self._adaptive = False

    def __repr__(self) -> str:
        now = self.state
        return f"<Cluster {now.kind} {now.name}: {now.phase}, {now.workers_ready}/{now.workers_wanted} workers>"

    def __exit__(self, *_: object) -> None:
        self.close()

    def _update(self, **changes: Any) -> None:
        """Change the state, and report it if it differs."""
        with self._lock:
            before, self.state = self.state, replace(self.state, **changes)
            changed = self.state != before
        if changed and self._on_state is not None:
            try:
                self._on_state(self.state)
            except Exception:  # it must not keep a cluster from being closed
                log.exception("on_state failed for %r", self.state.phase)

    def start(self) -> None:
        """Check, start and wait; remove everything and raise `ClusterError` if that fails. `launch` calls this."""
        self._update(started=time.time())
        atexit.register(self.close)
        try:
            self._start(time.monotonic() + self._spec.deadline)
        except ClusterError as error:
            self._fail(error)
            raise
        except Exception as error:
            hint = error.hint if isinstance(error, HiggsnbError) else ""
            words = error.message if isinstance(error, HiggsnbError) else str(error)
            message = f"the cluster could not be started: {redact(words) or type(error).__name__}"
            failure = ClusterError(message, hint or self._general_hint())
            self._fail(failure)
            raise failure from error
        except BaseException:  # Ctrl-C: nothing may be left behind
            self._fail(ClusterError("start-up was interrupted", "Start again."))
            raise

    def _general_hint(self) -> str:
        """Return what to do if nothing better is known."""
        other = "" if self._spec.kind == "local" else ", or use the kind 'local'"
        return f"Run `higgsnb doctor`{other}."

    def _start(self, until: float) -> None:
        """Go from preflight to ready."""
        cancel, what = self._cancel, "the checks before the start"
        prepared = call_with_timeout(PREFLIGHT_SECONDS, partial(prepare, self._spec), what, cancel=cancel)
        spec = self._spec = prepared.spec
        self._note = prepared.note
        self._update(kind=spec.kind, why=prepared.why)
        bad = next((check for check in prepared.checks if not check.good), None)
        if bad is not None:
            raise ClusterError(f"{bad.name}: {bad.found}", bad.hint)
        make: Callable[[ClusterSpec], Provider] = OperatedCluster if spec.kind == "kubernetes" else ManagedCluster
        provider = self._provider = call_with_timeout(
            PREFLIGHT_SECONDS, partial(make, spec), "the preparation", cancel=cancel,
            on_late=lambda made: made.close(CLOSE_SECONDS),
        )  # fmt: skip
        self._update(phase="starting", name=provider.name, workers_wanted=spec.workers, reason=self._note)
        provider.start(until, self._show, cancel)
        seconds = max(until - time.monotonic(), 5)
        connect = partial(provider.client, default=False)
        client = call_with_timeout(seconds, connect, _CLIENT, on_late=close_client, cancel=cancel)
        self._observer = client
        self._update(dashboard=provider.dashboard(), name=provider.name)
        self._wait_for_workers(until)
        ask, what = partial(engine.DaskCluster(client).ask, engine.installed_versions), "the versions of the workers"
        try:
            engine.check_cluster_versions(*call_with_timeout(PREFLIGHT_SECONDS, ask, what, cancel=cancel))
        except VersionError as error:
            hint = "Use the image of this session for the workers (image=), or install the same versions here."
            raise ClusterError(error.message, hint) from error
        self._update(phase="ready")
        self._monitor.start()

    def _show(self, found: Problem | None) -> None:
        """Put what keeps the cluster from being ready into the state, or take it out."""
        self._update(reason=found.reason if found else self._note, hint=found.hint if found else "")

    def _wait_for_workers(self, until: float) -> None:
        """Wait for all workers until the deadline; one is enough then."""
        provider, wanted = self._need_provider(), self.state.workers_wanted
        timer = ProblemTimer()
        while (ready := self._count()) < wanted:
            self._update(workers_ready=ready)
            found = provider.problem()
            self._show(found)
            final = timer.is_final(found)
            late = time.monotonic() > until
            if ready == 0 and (late or (final and found and not found.some_may_come)):
                raise not_ready(found, self._spec.deadline, provider.name)
            if late or (ready and final):
                break
            pause(self._cancel)
        else:
            self._show(None)
        self._update(workers_ready=ready)

    def _count(self) -> int:
        """Return the number of workers that the scheduler knows."""
        client = self._observer
        if client is None:
            raise ClusterError("the cluster is not started", "Use higgsnb.cluster.launch().")
        return len(client.sync(client.scheduler.ncores, callback_timeout=10))

    def _need_provider(self) -> Provider:
        """Return the provider of a cluster that is alive."""
        if self._provider is None or self.state.phase in {"closing", "closed", "failed"}:
            why = f": {self.state.reason}" if self.state.reason else ""
            message = f"the cluster is {self.state.phase}{why}"
            raise ClusterError(message, "Start another one with higgsnb.cluster.launch().")
        return self._provider

    def get_client(self) -> Client:
        """Return a new client, Dask's default from now on; it is closed with the cluster."""
        provider = self._need_provider()
        client = call_with_timeout(30, lambda: provider.client(default=True), _CLIENT, on_late=close_client)
        self._clients.append(client)
        return client

    def scale(self, workers: int) -> None:
        """Ask for a number of workers and return at once; the state changes when they are ready.

        Raises
        ------
        OptionError
            If the number is not from 0 to 10,000.
        ClusterError
            If the cluster is not alive, or refuses.
        """
        check_workers("workers", workers, least=0)
        self._request(lambda provider: provider.scale(workers))
        self._adaptive = False
        self._update(phase="scaling", workers_wanted=workers, reason="", hint="")

    def adapt(self, minimum: int, maximum: int) -> None:
        """Let the number of workers follow the load, between two bounds; `scale` ends this.

        Raises
        ------
        OptionError
            Unless 0 ≤ minimum ≤ maximum and maximum ≥ 1.
        ClusterError
            If the cluster is not alive, or refuses.
        """
        if not 0 <= minimum <= maximum or maximum < 1:
            message = f"minimum = {minimum}, maximum = {maximum}; expected 0 ≤ minimum ≤ maximum, maximum ≥ 1"
            raise OptionError(message, "Correct them and try again.")
        self._request(lambda provider: provider.adapt(minimum, maximum))
        self._adaptive = True
        note = f"adaptive: {minimum} to {maximum} workers, as the work needs"
        self._update(phase="ready", workers_wanted=maximum, reason=note, hint="")

    def _request(self, request: Callable[[Provider], None]) -> None:
        """Pass a request to the provider; raise `ClusterError` if it fails."""
        provider = self._need_provider()
        try:
            request(provider)
        except ClusterError:
            raise
        except (OSError, RuntimeError) as error:
            raise ClusterError(f"the cluster refused: {redact(str(error))}", self._general_hint()) from error

    def logs(self) -> dict[str, str]:
        """Return the end of the log of the scheduler and of each worker, by name."""
        return self._need_provider().logs()

    def _observe(self) -> None:
        """Keep the state up to date until the cluster is closed."""
        silent_since: float | None = None
        while not self._stop.wait(POLL_SECONDS):
            try:
                client, provider = self._observer, self._provider
                if client is not None and provider is not None and client.status == "closed":
                    connect = partial(provider.client, default=False)
                    self._observer = call_with_timeout(65, connect, _CLIENT, on_late=close_client, cancel=self._stop)
                ready, silent_since = self._count(), None
            except (OSError, RuntimeError, TimeoutError, ValueError) as error:
                silent_since, gone = silent_since or time.monotonic(), ""
                if self._stop.is_set():
                    return
                with suppress(OSError, RuntimeError):
                    gone = self._provider.gone() if self._provider else "closed"
                if gone:
                    hint = "Start another one; the ledger resumes."
                    self._update(phase="failed", workers_ready=0, reason=gone, hint=hint)
                    return
                reason = f"the scheduler does not answer ({type(error).__name__}); trying again"
                hint = "Check the network; otherwise close the cluster and start another one."
                self._update(reason=reason, hint="" if time.monotonic() - silent_since < 60 else hint)
                continue
            self._update(workers_ready=ready)
            if self._adaptive or self.state.phase not in {"ready", "scaling"}:
                continue
            if ready == self.state.workers_wanted:
                self._update(phase="ready")
                self._show(None)
            elif provider is not None:
                with suppress(OSError, RuntimeError):  # reported the next time
                    self._show(provider.problem())

    def _fail(self, error: ClusterError) -> None:
        """Remove everything, and keep the reason; if cancelled, leave to a thread what takes longer than a second."""
        if not self._cancel.is_set():
            self._failed(error, self._remove())
            return
        self._failed(error, "")
        failed = partial(self._failed, error)
        with suppress(TimeoutError):
            failed(call_with_timeout(1, self._remove, "closing the cluster", on_late=failed))

    def _failed(self, error: ClusterError, left: str) -> None:
        """Report why it failed, and what may be left."""
        reason = f"{error.message} ({left})" if left else error.message
        self._update(phase="failed", workers_ready=0, reason=reason, hint=error.hint)

    def close(self) -> None:
        """Remove the cluster and everything that belongs to it; a second time does nothing.

        Raises
        ------
        ClusterError
            If something may be left behind; the hint is how to remove it.
        """
        with self._removing:
            if self._provider is None:
                return
            lost = self.state.phase == "failed" and self.state.hint != _CLEAN  # the state keeps the reason
            if not lost:
                self._update(phase="closing", reason="", hint="")
            left = self._remove()
            if left:
                self._update(phase="failed", workers_ready=0, reason=left, hint=_CLEAN)
                raise ClusterError(left, _CLEAN)
            if not lost:
                self._update(phase="closed", workers_ready=0)

    def _remove(self) -> str:
        """Close the clients and remove the cluster; return what may be left, in words. It may be repeated then."""
        self._stop.set()
        try:
            with self._removing:
                if self._observer is not None:
                    self._clients.append(self._observer)
                    self._observer = None
                while self._clients:
                    close_client(self._clients.pop())
                if self._monitor.is_alive() and threading.current_thread() is not self._monitor:
                    self._monitor.join(15)
                if self._provider is not None:
                    self._provider.close(CLOSE_SECONDS)
                self._provider = None
                atexit.unregister(self.close)
                return ""
        except (OSError, RuntimeError) as error:
            return f"not everything could be removed: {redact(str(error))}"
        except BaseException:  # Ctrl-C
            self._update(phase="failed", workers_ready=0, reason="closing was interrupted", hint=_CLEAN)
            raise
