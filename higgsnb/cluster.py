"""Make, describe, scale and close a Dask cluster: on this machine, on Kubernetes, by a gateway or a batch system.

One description, one life: preflight, starting, ready, scaling, closing, closed; or failed, with the reason and the
remedy. Every wait has a deadline, and what was begun is removed when it cannot be finished::

    with cluster.launch("kubernetes", workers=20) as mine:
        for result in engine.run(campaign, selection, client=mine.get_client()):
            ...
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from difflib import get_close_matches
from functools import partial
from importlib import util
from inspect import Parameter, signature
from numbers import Integral, Real
from shutil import which
from typing import TYPE_CHECKING, Any, Self

from higgsnb import executors, tasks
from higgsnb import k8s_operated as kubernetes
from higgsnb.checks import Check
from higgsnb.errors import ApiError, ClusterError, VersionError
from higgsnb.files import redact
from higgsnb.k8s_operated import Leftover, Trouble
from higgsnb.providers import (
    BATCH,
    GATEWAY_OPTIONS,
    POLL_SECONDS,
    Description,
    Patience,
    Provider,
    close_client,
    gateway,
    jobqueue,
    local_memory,
    make,
    pause,
    too_late,
    within,
)

if TYPE_CHECKING:
    from types import TracebackType

    from distributed import Client

log = logging.getLogger(__name__)

__all__ = [
    "KINDS",
    "Cluster",
    "ClusterError",
    "ClusterState",
    "choose",
    "describe",
    "doctor",
    "launch",
    "leftovers",
    "parse_memory",
    "preflight",
    "remove",
]

KINDS = ("auto", "local", "kubernetes", "gateway", "slurm", "htcondor")
KUBERNETES_OPTIONS = ("environment", "pull_secrets", "user_id")
OWN_OPTIONS = {
    *("n_workers", "threads_per_worker", "memory_limit", "host", "dashboard_address", "worker_dashboard_address"),
    *("processes", "death_timeout", "protocol", "security", "asynchronous"),
}
"""Options of Dask's classes that `launch` sets itself."""
PREFLIGHT_SECONDS = 60.0
CLOSE_SECONDS = 90.0
"""Long enough for the minute that the Dask operator may take; it usually is a second or two."""


@dataclass(frozen=True)
class ClusterState:
    """What a cluster is doing.

    ``phase`` is preflight, starting, ready, scaling, closing, closed or failed; ``why`` says why this kind was taken;
    ``started`` is seconds since 1970; ``dashboard`` is empty if there is none.
    """

    kind: str
    phase: str = "preflight"
    workers_wanted: int = 0
    workers_ready: int = 0
    reason: str = ""
    remedy: str = ""
    why: str = ""
    dashboard: str = ""
    started: float = 0.0
    name: str = ""

    def as_dict(self) -> dict[str, str | int | float]:
        """Return the state as plain JSON."""
        return asdict(self)


# --- Which kind ----------------------------------------------------------------------------------


def choose(namespace: str | None = None, image: str | None = None) -> tuple[str, str]:
    """Return the kind for this session, and why, in one sentence.

    Kubernetes in a hub that gives the rights; otherwise this machine.
    """
    if "mybinder.org" in os.environ.get("BINDER_LAUNCH_HOST", ""):
        return "local", "mybinder.org gives no access to Kubernetes, so the workers run in this session"
    if not kubernetes.in_cluster():
        return "local", "this is no hub session, so the workers run on this machine"
    bad = next((check for check in kubernetes.preflight(namespace=namespace, image=image) if not check.good), None)
    if bad is not None:
        return "local", f"Kubernetes cannot be used from here ({bad.name}: {bad.found}), so the workers run here"
    return "kubernetes", "this hub session may start workers on Kubernetes"


def preflight(kind: str, **options: Any) -> tuple[Check, ...]:
    """Check, without starting anything, whether a cluster of a kind can be started.

    Parameters
    ----------
    kind
        One of `KINDS`.
    options
        Those of `launch`.

    Raises
    ------
    ValueError
        If the kind or a number is out of range, or an option is unknown.
    """
    return tuple(_checks(describe(kind, **options)))


def _checks(described: Description) -> Iterator[Check]:
    """Yield the checks of a kind."""
    if described.kind == "local":
        yield _library("distributed", "distributed")
        yield local_memory(described)[1]
    elif described.kind == "kubernetes":
        yield from kubernetes.preflight(
            namespace=described.namespace,
            image=described.image,
            workers=described.workers or 2,
            cores=described.cores,
            memory=described.memory,
        )
    elif described.kind == "gateway":
        yield from _gateway_checks(described)
    else:
        yield _library("dask_jobqueue", "dask-jobqueue")
        missing = [name for name in BATCH[described.kind][1] if which(name) is None]
        remedy = f"Log in to a machine where the commands of {described.kind} are installed, or use the kind 'local'."
        found = f"not in PATH: {', '.join(missing)}" if missing else ", ".join(BATCH[described.kind][1])
        yield Check("batch system", not missing, found, remedy)


def _library(module: str, distribution: str) -> Check:
    """Check that a library is installed."""
    good = util.find_spec(module) is not None
    return Check(distribution, good, "installed" if good else "not installed", f"pip install {distribution}")


def _gateway_checks(described: Description) -> Iterator[Check]:
    """Check that the gateway is known and answers."""
    library = _library("dask_gateway", "dask-gateway")
    yield library
    if not library.good:
        return
    try:
        names = within(15, lambda: len(gateway(described).list_clusters()), "the gateway")
    except (OSError, RuntimeError, ValueError, TimeoutError) as error:
        found = redact(str(error)) or type(error).__name__
        yield Check("gateway", False, found, "Give address= and auth=, or set DASK_GATEWAY__ADDRESS.")
        return
    yield Check("gateway", True, f"answers; you have {names} clusters there")


def describe(
    kind: str,
    *,
    workers: int | None = None,
    cores: int = 1,
    memory: str | int = "2GiB",
    image: str | None = None,
    namespace: str | None = None,
    idle_timeout: int = 900,
    deadline: float = 120,
    **options: Any,
) -> Description:
    """Return what is asked for, checked, with a kind for ``auto``.

    Raises
    ------
    ValueError
        If something is out of range, or an option is unknown; says the right values.
    """
    if kind not in KINDS:
        raise ValueError(f"kind = {kind!r}; expected one of {', '.join(KINDS)}")
    _check_number("workers", 1 if workers is None else workers)
    _check_number("cores", cores)
    _check_number("idle_timeout", idle_timeout)
    _check_number("deadline", deadline, Real)
    amount = parse_memory(memory)
    chosen, why = choose(namespace, image) if kind == "auto" else (kind, "asked for")
    kept = _own_options(kind, chosen, options)
    return Description(chosen, workers, cores, amount, image, namespace, idle_timeout, deadline, why, kept)


def _check_number(name: str, value: Any, kind: type = Integral, least: int = 1) -> None:
    """Refuse what is no number, or too small."""
    is_number = isinstance(value, kind) and not isinstance(value, bool)
    if not is_number or value < least:
        what = "whole number" if kind is Integral else "number"
        raise ValueError(f"{name} = {value!r}; expected a {what} of at least {least}")


def _own_options(kind: str, chosen: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options for the chosen kind; ``auto`` drops those of other kinds, so that a notebook runs anywhere."""
    if not options:
        return {}
    if kind in {"auto", "kubernetes"}:
        _check_types(options)
    mine = _option_names(chosen)
    if chosen == "gateway" or not mine:  # only a gateway knows what it offers; the preflight tells of missing libraries
        return dict(options)
    known = {other: _option_names(other) for other in KINDS[1:] if other != chosen}
    for name in (name for name in options if name not in mine):
        owners = [other for other, names in known.items() if name in names]
        if kind != "auto" or not owners:
            raise ValueError(f"{name} is no option of the kind {kind!r}; {_hint(name, mine, owners)}")
    return {name: value for name, value in options.items() if name in mine}


def _hint(name: str, mine: set[str], owners: Sequence[str]) -> str:
    """Return what to do about an unknown option."""
    if owners:
        return f"it belongs to {' and '.join(owners)}"
    near = get_close_matches(name, [*signature(launch).parameters, *sorted(mine)], 1)
    return f"did you mean {near[0]}?" if near else "help(higgsnb.cluster.launch) lists them"


def _option_names(kind: str) -> set[str]:
    """Return the options that a kind takes besides those of `launch`; none if its library is missing."""
    makers: tuple[Any, ...]
    if kind in {"kubernetes", "gateway"}:
        return set(KUBERNETES_OPTIONS if kind == "kubernetes" else GATEWAY_OPTIONS)
    if kind == "local":
        from distributed import LocalCluster, Nanny, Worker

        makers = (LocalCluster, Nanny, Worker)
    elif util.find_spec("dask_jobqueue") is None:
        return set()
    else:
        library = jobqueue()
        made = getattr(library, BATCH[kind][0])
        makers = (library.core.JobQueueCluster, made.job_cls, library.core.Job)
    named = (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)
    found = {item.name for maker in makers for item in signature(maker).parameters.values() if item.kind in named}
    return found - OWN_OPTIONS


def _check_types(options: Mapping[str, Any]) -> None:
    """Refuse options of Kubernetes that have the wrong form."""
    secrets, variables = options.get("pull_secrets", []), options.get("environment", {})
    if not isinstance(secrets, list | tuple) or not all(isinstance(name, str) for name in secrets):
        raise ValueError(f"pull_secrets = {secrets!r}; expected a list of names, for instance ['my-registry']")
    if not isinstance(variables, Mapping) or not all(isinstance(x, str) for pair in variables.items() for x in pair):
        raise ValueError("environment is no dict of texts; expected for instance {'OMP_NUM_THREADS': '1'}")
    _check_number("user_id", options.get("user_id", 1))


def parse_memory(text: str | int) -> int:
    """Return an amount of memory in bytes.

    >>> parse_memory("2GiB"), parse_memory("500 MB"), parse_memory(1_000_000_000)
    (2147483648, 500000000, 1000000000)

    Raises
    ------
    ValueError
        If it is no amount, or less than 100 MB.
    """
    amount = int(kubernetes.quantity(str(text).replace(" ", "").removesuffix("B").removesuffix("b")))
    if amount < 100_000_000:
        raise ValueError(f"memory = {text!r} is {amount} bytes; a worker needs at least 100MB, better 2GiB")
    return amount


# --- The life of a cluster -----------------------------------------------------------------------


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
        The cluster is removed after so many seconds without work, also if this process is gone. Local workers are
        not: they end with this process.
    deadline
        Seconds until at least one worker must be ready. With fewer than wanted by then, the cluster is ready all the
        same, and its state says why.
    on_state
        Called with each new `ClusterState`, from whatever thread; what it raises is logged.
    cancel
        Set it from another thread, and a start under way is broken off within about a second with `ClusterError`; what
        was made is removed, by a thread if that takes longer. Without effect once the cluster is ready.
    options
        ``kubernetes``: ``environment`` (dict for the pods), ``pull_secrets``, ``user_id``; ``gateway``: ``address``,
        ``proxy_address``, ``auth`` and what its administrator offers; ``slurm``, ``htcondor``: those of dask-jobqueue;
        ``local``: those of Dask's ``LocalCluster``; ``auto``: all of them, of which the kind taken gets its own.

    Raises
    ------
    ValueError
        If something is out of range, or an option is unknown.
    ClusterError
        If it could not be started; says why and what to do. Everything was removed again.
    """
    asked = dict(options, workers=workers, cores=cores, memory=memory, image=image, namespace=namespace)
    asked |= {"idle_timeout": idle_timeout, "deadline": deadline}
    described = within(PREFLIGHT_SECONDS, lambda: describe(kind, **asked), "where a cluster can run", cancel=cancel)
    cluster = Cluster(described, on_state, cancel)
    cluster.start()
    return cluster


class Cluster:
    """A Dask cluster from its start to its end; made by `launch`. Closes itself when the process ends."""

    def __init__(
        self,
        described: Description,
        on_state: Callable[[ClusterState], None] | None = None,
        cancel: threading.Event | None = None,
    ) -> None:
        self._described = described
        self._on_state = on_state
        self._cancel = cancel or threading.Event()
        self._state = ClusterState(
            described.kind, why=described.why, started=time.time(), workers_wanted=described.workers or 0
        )
        self._lock = threading.RLock()
        self._removing = threading.RLock()  # one thread at a time; the same one comes again if `on_state` closes
        self._provider: Provider | None = None
        self._clients: list[Client] = []
        self._observer: Client | None = None
        self._stop = threading.Event()
        self._monitor = threading.Thread(target=self._observe, name="higgsnb-cluster", daemon=True)
        self._adaptive = False

    @property
    def state(self) -> ClusterState:
        """What the cluster is doing now."""
        return self._state

    def __repr__(self) -> str:
        state = self._state
        return (
            f"<Cluster {state.kind} {state.name}: {state.phase}, {state.workers_ready}/{state.workers_wanted} workers>"
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _update(self, **changes: Any) -> None:
        """Take over a new state and tell whoever wants to know."""
        with self._lock:
            before, self._state = self._state, replace(self._state, **changes)
            changed = self._state != before
        if changed:
            self._report()

    def _report(self) -> None:
        """Tell the state; an error of who is told must not end a cluster's life, or leave it without its end."""
        if self._on_state is None:
            return
        try:
            self._on_state(self._state)
        except Exception:
            log.exception("on_state failed for %r", self._state.phase)

    def start(self) -> None:
        """Check, start and wait; remove everything and raise if it cannot be done. `launch` calls this."""
        self._report()
        atexit.register(self.close)
        try:
            self._start(time.monotonic() + self._described.deadline)
        except ClusterError as error:
            self._fail(error)
            raise
        except Exception as error:
            words = redact(str(error)) or type(error).__name__
            failure = ClusterError(f"the cluster could not be started: {words}", self._general_remedy())
            self._fail(failure)
            raise failure from error
        except BaseException:  # Ctrl-C: nothing may be left behind
            self._fail(ClusterError("the start was interrupted", "Start again."))
            raise

    def _general_remedy(self) -> str:
        """Return what to do if nothing better is known."""
        other = "" if self._described.kind == "local" else ", or use the kind 'local'"
        return f"Run `higgsnb doctor`{other}."

    def _start(self, until: float) -> None:
        """Go from the preflight to ready."""
        described, cancel = self._described, self._cancel
        checks = within(
            PREFLIGHT_SECONDS, lambda: tuple(_checks(described)), "the checks before the start", cancel=cancel
        )
        bad = next((check for check in checks if not check.good), None)
        if bad is not None:
            raise ClusterError(f"{bad.name}: {bad.found}", bad.remedy)
        provider = self._provider = within(
            PREFLIGHT_SECONDS,
            lambda: make(described),
            "the preparation",
            late=lambda made: made.close(CLOSE_SECONDS),
            cancel=cancel,
        )
        self._update(phase="starting", name=provider.name, workers_wanted=provider.workers, reason=provider.note)
        provider.start(until, self._tell, cancel)
        seconds = max(until - time.monotonic(), 5)
        self._observer = within(
            seconds, lambda: provider.client(default=False), _CLIENT, late=close_client, cancel=cancel
        )
        self._update(dashboard=provider.dashboard(), name=provider.name)
        self._wait_for_workers(until)
        self._check_versions()
        self._update(phase="ready")
        self._monitor.start()

    def _tell(self, found: Trouble | None) -> None:
        """Show what keeps the cluster from being ready, or that nothing does any more."""
        note = self._provider.note if self._provider else ""
        self._update(reason=found.reason if found else note, remedy=found.remedy if found else "")

    def _wait_for_workers(self, until: float) -> None:
        """Wait for all workers until the deadline; one is enough then."""
        provider, wanted = self._need_provider(), self._state.workers_wanted
        patience = Patience()
        while (ready := self._count()) < wanted:
            self._update(workers_ready=ready)
            found = provider.trouble()
            self._tell(found)
            final = patience.over(found)
            if ready == 0 and (final or time.monotonic() > until):
                raise too_late(found, self._described.deadline, provider.name)
            if final or time.monotonic() > until:
                break
            pause(self._cancel)
        else:
            self._tell(None)
        self._update(workers_ready=ready)

    def _count(self) -> int:
        """Return the number of workers that the scheduler knows."""
        client = self._observer
        if client is None:
            raise ClusterError("the cluster is not started", "Use higgsnb.cluster.launch().")
        return len(client.sync(client.scheduler.ncores, callback_timeout=10))

    def _check_versions(self) -> None:
        """Refuse workers whose software is not that of this session, before the first unit of work."""
        client = self._observer
        if client is None:
            return
        ask = executors.Cluster(client).ask
        what = "the versions of the workers"
        try:
            tasks.compare_all(*within(PREFLIGHT_SECONDS, lambda: ask(tasks.versions), what, cancel=self._cancel))
        except VersionError as error:
            raise ClusterError(
                error.message,
                "Use the image of this session for the workers (image=), or install the same versions here.",
            ) from error

    def _need_provider(self) -> Provider:
        """Return the provider of a cluster that is alive."""
        if self._provider is None or self._state.phase in {"closing", "closed", "failed"}:
            raise ClusterError(
                f"the cluster is {self._state.phase}{f': {self._state.reason}' if self._state.reason else ''}",
                "Start another one with higgsnb.cluster.launch().",
            )
        return self._provider

    def get_client(self) -> Client:
        """Return a new client, Dask's default from now on; it is closed with the cluster."""
        provider = self._need_provider()
        client = within(30, lambda: provider.client(default=True), _CLIENT, late=close_client)
        self._clients.append(client)
        return client

    def scale(self, workers: int) -> None:
        """Ask for a number of workers and return at once; the state tells when they are there.

        Raises
        ------
        ValueError
            If the number is below 0.
        ClusterError
            If the cluster is not alive, or refuses.
        """
        if workers < 0:
            raise ValueError(f"workers = {workers}; expected 0 or more")
        self._ask(lambda provider: provider.scale(workers))
        self._adaptive = False
        self._update(phase="scaling", workers_wanted=workers, reason="", remedy="")

    def adapt(self, minimum: int, maximum: int) -> None:
        """Let the number of workers follow the work between two bounds; `scale` ends it.

        Raises
        ------
        ValueError
            If not 0 ≤ minimum ≤ maximum.
        ClusterError
            If the cluster is not alive, or refuses.
        """
        if not 0 <= minimum <= maximum or maximum < 1:
            raise ValueError(f"minimum = {minimum}, maximum = {maximum}; expected 0 ≤ minimum ≤ maximum, maximum ≥ 1")
        self._ask(lambda provider: provider.adapt(minimum, maximum))
        self._adaptive = True
        note = f"adaptive: {minimum} to {maximum} workers, as the work needs"
        self._update(phase="ready", workers_wanted=maximum, reason=note, remedy="")

    def _ask(self, request: Callable[[Provider], None]) -> None:
        """Make a request of the provider; say what went wrong in the usual form."""
        provider = self._need_provider()
        try:
            request(provider)
        except ClusterError:
            raise
        except (OSError, RuntimeError) as error:
            raise ClusterError(
                f"the cluster did not accept it: {redact(str(error))}", self._general_remedy()
            ) from error

    def logs(self) -> dict[str, str]:
        """Return the end of the log of the scheduler and of each worker, by name."""
        return self._need_provider().logs()

    # -- while it lives --

    def _observe(self) -> None:
        """Keep the state up to date until the cluster is closed."""
        silent_since: float | None = None
        while not self._stop.wait(POLL_SECONDS):
            try:
                self._reconnect()
                ready, silent_since = self._count(), None
            except (OSError, RuntimeError, TimeoutError, ValueError) as error:
                silent_since = silent_since or time.monotonic()
                if self._stop.is_set() or self._lost(silent_since, error):
                    return
                continue
            self._notice(ready)

    def _reconnect(self) -> None:
        """Make a new client for looking if the old one has given up."""
        client, provider = self._observer, self._provider
        if client is not None and provider is not None and client.status == "closed":
            self._observer = within(
                65, lambda: provider.client(default=False), _CLIENT, late=close_client, cancel=self._stop
            )

    def _notice(self, ready: int) -> None:
        """Take over a new number of workers."""
        wanted = self._state.workers_wanted
        self._update(workers_ready=ready)
        if self._adaptive or self._state.phase not in {"ready", "scaling"}:
            return
        if ready == wanted:
            self._update(phase="ready")
            self._tell(None)
        elif self._provider is not None:
            with suppress(OSError, RuntimeError, ApiError):  # the next look says more
                self._tell(self._provider.trouble())

    def _lost(self, since: float, error: Exception) -> bool:
        """Deal with a scheduler that does not answer; whether it is gone for good."""
        gone = ""
        with suppress(OSError, RuntimeError, ApiError):
            gone = self._provider.gone() if self._provider else "closed"
        if gone:
            self._update(phase="failed", workers_ready=0, reason=gone, remedy="Start another one; the ledger resumes.")
            return True
        seconds = time.monotonic() - since
        self._update(
            reason=f"the scheduler does not answer ({type(error).__name__}); trying again",
            remedy="" if seconds < 60 else "Check the network; else close the cluster and start another one.",
        )
        return False

    # -- its end --

    def _fail(self, error: ClusterError) -> None:
        """Remove everything, and keep the reason; who broke it off waits a second for that, a thread does the rest."""
        if not self._cancel.is_set():
            self._failed(error, self._remove())
            return
        self._failed(error, "")
        with suppress(TimeoutError):
            self._failed(error, within(1, self._remove, "the end of the cluster", late=partial(self._failed, error)))

    def _failed(self, error: ClusterError, left: str) -> None:
        """Tell why it failed, and what may be left."""
        reason = f"{error.message} ({left})" if left else error.message
        self._update(phase="failed", workers_ready=0, reason=reason, remedy=error.hint)

    def close(self) -> None:
        """Remove the cluster and everything that belongs to it; a second time does nothing.

        Raises
        ------
        ClusterError
            If something may be left behind; says how to remove it.
        """
        with self._removing:
            if self._provider is None:
                return
            lost = self._state.phase == "failed" and self._state.remedy != _CLEAN  # the state goes on to say why
            if not lost:
                self._update(phase="closing", reason="", remedy="")
            left = self._remove()
            if left:
                self._update(phase="failed", workers_ready=0, reason=left, remedy=_CLEAN)
                raise ClusterError(left, _CLEAN)
            if not lost:
                self._update(phase="closed", workers_ready=0)

    def _remove(self) -> str:
        """Close the clients and remove the cluster; return what may be left, in words. May be tried again then."""
        self._stop.set()
        try:
            with self._removing:
                return self._remove_all()
        except BaseException:  # Ctrl-C
            self._update(phase="failed", workers_ready=0, reason="the end was interrupted", remedy=_CLEAN)
            raise

    def _remove_all(self) -> str:
        """Do what `_remove` says."""
        if self._observer is not None:
            self._clients.append(self._observer)
            self._observer = None
        while self._clients:
            close_client(self._clients.pop())
        if self._monitor.is_alive() and threading.current_thread() is not self._monitor:
            self._monitor.join(15)
        if self._provider is not None:
            try:
                self._provider.close(CLOSE_SECONDS)
            except (OSError, RuntimeError) as error:
                return f"not everything could be removed: {redact(str(error))}"
        self._provider = None
        atexit.unregister(self.close)
        return ""


_CLIENT = "a client of the scheduler"
_CLEAN = "Close it again, or run `higgsnb clean`; without work the cluster is removed after its idle timeout."


# --- What was left behind ------------------------------------------------------------------------


def leftovers(namespace: str | None = None) -> tuple[Leftover, ...]:
    """Return the clusters on Kubernetes that this user left behind; none if no Kubernetes is configured.

    Local workers end with their process, jobs of a batch system 60 seconds after their scheduler.

    Raises
    ------
    ClusterError
        If Kubernetes cannot be asked.
    """
    if not kubernetes.configured() or util.find_spec("kr8s") is None:
        return ()
    try:
        return kubernetes.leftovers(namespace)
    except ApiError as error:
        raise ClusterError(f"Kubernetes cannot be asked: {error}", "Run `higgsnb doctor`.") from error


def remove(items: Sequence[Leftover]) -> None:
    """Remove what `leftovers` found, and wait until it is gone.

    Raises
    ------
    ClusterError
        If something is still there.
    """
    try:
        kubernetes.remove(items)
    except ApiError as error:
        raise ClusterError(f"not everything could be removed: {error}", "Run `higgsnb clean` again.") from error


def doctor() -> Iterator[Check]:
    """Yield the checks for `higgsnb doctor`: which kind is taken here, why, and what Kubernetes lacks."""
    kind, why = choose()
    yield Check("cluster", True, f"{kind}: {why}")
    if kubernetes.configured():
        yield from kubernetes.preflight()
