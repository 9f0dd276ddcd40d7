"""Make, describe, scale and close a Dask cluster: on this machine, on Kubernetes, by a gateway or a batch system.

One description, one life: preflight, starting, ready, scaling, closing, closed; or failed, with the reason and the
remedy. Every wait has a deadline, and what was begun is removed when it cannot be finished::

    with cluster.launch("kubernetes", workers=20) as mine:
        for result in engine.run(campaign, selection, client=mine.get_client()):
            ...
"""

from __future__ import annotations

import atexit
import os
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field, replace
from importlib import util
from pathlib import Path
from shutil import which
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeVar

from higgsnb import kubernetes
from higgsnb.diagnosis import Check, memory_limit
from higgsnb.files import redact
from higgsnb.kubernetes import ApiError, Leftover, Trouble

if TYPE_CHECKING:
    from types import TracebackType

    from distributed import Client
    from distributed.deploy.cluster import Cluster as DaskCluster

    from higgsnb.datasets import Campaign

Value = TypeVar("Value")

KINDS = ("auto", "local", "kubernetes", "gateway", "slurm", "htcondor")
NO_SHARED_DISK = ("kubernetes", "gateway")
"""The kinds whose workers do not see the files of the notebook."""
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
CLOSE_SECONDS = 90.0
"""Long enough for the minute that the Dask operator may take; it usually is a second or two."""
PACKAGES = ("higgsnb", "numpy", "numba", "uproot", "awkward")
"""Packages that must have the same version everywhere, besides those that Dask itself looks at."""


class ClusterError(RuntimeError):
    """A cluster that could not be started or changed: ``reason`` in one sentence, and the ``remedy``."""

    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(f"{reason}\n{remedy}" if remedy else reason)
        self.reason, self.remedy = reason, remedy


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


@dataclass(frozen=True)
class Description:
    """What was asked for; ``memory`` in bytes per worker, times in seconds."""

    kind: str
    workers: int | None
    cores: int
    memory: int
    image: str | None
    namespace: str | None
    idle_timeout: int
    deadline: float
    options: Mapping[str, Any] = field(default_factory=dict)


class Provider(Protocol):
    """What differs between the kinds: making a cluster, and asking it."""

    name: str
    workers: int
    note: str

    def start(self, until: float, say: Callable[[Trouble | None], None]) -> None:
        """Start the cluster until its scheduler answers, or raise `ClusterError` by ``until`` (monotonic time)."""

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
        """Remove everything."""


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
        If the kind or a number is out of range.
    """
    chosen = choose(options.get("namespace"), options.get("image"))[0] if kind == "auto" else kind
    described = describe(chosen, **options)
    return tuple(_checks(described))


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
        names = within(15, lambda: len(_gateway(described).list_clusters()), "the gateway")
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
    """Return what is asked for, checked.

    Raises
    ------
    ValueError
        If something is out of range; says the right values.
    """
    if kind not in KINDS:
        raise ValueError(f"kind = {kind!r}; expected one of {', '.join(KINDS)}")
    least = {"workers": (workers, 1), "cores": (cores, 1), "idle_timeout": (idle_timeout, 1), "deadline": (deadline, 1)}
    for name, (value, lowest) in least.items():
        if value is not None and value < lowest:
            raise ValueError(f"{name} = {value}; expected at least {lowest}")
    amount = parse_memory(memory)
    return Description(kind, workers, cores, amount, image, namespace, idle_timeout, deadline, options)


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


def check_campaign(campaign: Campaign, cluster_or_kind: Cluster | str) -> None:
    """Refuse a campaign whose files the workers cannot see.

    Raises
    ------
    ClusterError
        If a file or the golden JSON is a path of this machine, and the workers run elsewhere; says what to do.
    """
    kind = cluster_or_kind if isinstance(cluster_or_kind, str) else cluster_or_kind.state.kind
    if kind not in NO_SHARED_DISK:
        return
    package = str(Path(__file__).parent)
    places = [file.url for file in campaign.files] + [campaign.golden_json or ""]
    hidden = [place for place in places if _is_path(place) and not place.startswith(package)]
    if hidden:
        more = f" and {len(hidden) - 1} more" if len(hidden) > 1 else ""
        raise ClusterError(
            f"campaign {campaign.name!r} reads {redact(hidden[0])}{more}; workers of the kind {kind!r} cannot see it",
            "Give addresses (https://… or root://…), or set HIGGSNB_MIRROR to an address, or use the kind 'local'.",
        )


def _is_path(place: str) -> bool:
    """Whether a place is on this machine's disk."""
    return bool(place) and (place.startswith("file:") or ("://" not in place and not place.startswith("toy:")))


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
        Called with each new `ClusterState`, from whatever thread.
    options
        ``kubernetes``: ``environment`` (dict for the pods), ``pull_secrets``, ``user_id``; ``gateway``: ``address``,
        ``proxy_address``, ``auth`` and what its administrator offers; ``slurm``, ``htcondor``: those of dask-jobqueue.

    Raises
    ------
    ValueError
        If something is out of range.
    ClusterError
        If it could not be started; says why and what to do. Everything was removed again.
    """
    if kind not in KINDS:
        raise ValueError(f"kind = {kind!r}; expected one of {', '.join(KINDS)}")
    chosen, why = choose(namespace, image) if kind == "auto" else (kind, "asked for")
    described = describe(
        chosen,
        workers=workers,
        cores=cores,
        memory=memory,
        image=image,
        namespace=namespace,
        idle_timeout=idle_timeout,
        deadline=deadline,
        **options,
    )
    cluster = Cluster(described, why, on_state)
    cluster.start()
    return cluster


class Cluster:
    """A Dask cluster from its start to its end; made by `launch`. Closes itself when the process ends."""

    def __init__(
        self, described: Description, why: str, on_state: Callable[[ClusterState], None] | None = None
    ) -> None:
        self._described = described
        self._on_state = on_state
        self._state = ClusterState(described.kind, why=why, started=time.time(), workers_wanted=described.workers or 0)
        self._lock = threading.RLock()
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
        if changed and self._on_state is not None:
            self._on_state(self._state)

    def start(self) -> None:
        """Check, start and wait; remove everything and raise if it cannot be done. `launch` calls this."""
        if self._on_state is not None:
            self._on_state(self._state)
        atexit.register(self.close)
        try:
            self._start(time.monotonic() + self._described.deadline)
        except ClusterError as error:
            self._fail(error)
            raise
        except (OSError, RuntimeError, ValueError, ApiError) as error:
            failure = ClusterError(f"the cluster could not be started: {redact(str(error))}", _GENERAL_REMEDY)
            self._fail(failure)
            raise failure from error
        except BaseException:  # Ctrl-C: nothing may be left behind
            self._fail(ClusterError("the start was interrupted", "Start again."))
            raise

    def _start(self, until: float) -> None:
        """Go from the preflight to ready."""
        bad = next((check for check in _checks(self._described) if not check.good), None)
        if bad is not None:
            raise ClusterError(f"{bad.name}: {bad.found}", bad.remedy)
        provider = self._provider = _provider(self._described)
        self._update(phase="starting", name=provider.name, workers_wanted=provider.workers, reason=provider.note)
        provider.start(until, self._tell)
        self._observer = within(max(until - time.monotonic(), 5), lambda: provider.client(default=False), _CLIENT)
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
                raise _too_late(found, self._described.deadline, provider.name)
            if final or time.monotonic() > until:
                break
            time.sleep(POLL_SECONDS)
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
        found = skew(within(30, lambda: client.get_versions(packages=list(PACKAGES)), "the versions of the workers"))
        if found:
            raise ClusterError(
                f"different versions here and on the cluster: {found}",
                "Use the image of this session for the workers (image=), or install the same versions here.",
            )

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
        client = within(30, lambda: provider.client(default=True), _CLIENT)
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
        self._need_provider()
        self._adaptive = False
        self._update(phase="scaling", workers_wanted=workers, reason="", remedy="")
        self._ask(lambda provider: provider.scale(workers))

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
        except (OSError, RuntimeError, ApiError) as error:
            self._update(phase="ready")
            raise ClusterError(f"the cluster did not accept it: {redact(str(error))}", _GENERAL_REMEDY) from error

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
            self._observer = within(65, lambda: provider.client(default=False), _CLIENT)

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
        """Remove everything, and keep the reason."""
        left = self._remove()
        reason = f"{error.reason} ({left})" if left else error.reason
        self._update(phase="failed", workers_ready=0, reason=reason, remedy=error.remedy)

    def close(self) -> None:
        """Remove the cluster and everything that belongs to it; a second time does nothing.

        Raises
        ------
        ClusterError
            If something may be left behind; says how to remove it.
        """
        with self._lock:
            if self._state.phase in {"closing", "closed"} or self._provider is None:
                return
            failed = self._state.phase == "failed"
        if not failed:
            self._update(phase="closing", reason="", remedy="")
        left = self._remove()
        if left:
            self._update(phase="failed", workers_ready=0, reason=left, remedy=_CLEAN)
            raise ClusterError(left, _CLEAN)
        if not failed:
            self._update(phase="closed", workers_ready=0)

    def _remove(self) -> str:
        """Close the clients and remove the cluster; return what may be left, in words. May be tried again then."""
        self._stop.set()
        provider = self._provider
        clients, self._clients = [*self._clients, *filter(None, [self._observer])], []
        self._observer = None
        with ExitStack() as stack:
            for client in clients:
                stack.callback(_close_client, client)
        if self._monitor.is_alive() and threading.current_thread() is not self._monitor:
            self._monitor.join(15)
        if provider is not None:
            try:
                provider.close(CLOSE_SECONDS)
            except (OSError, RuntimeError, ApiError) as error:
                return f"not everything could be removed: {redact(str(error))}"
        self._provider = None
        atexit.unregister(self.close)
        return ""


_CLIENT = "a client of the scheduler"
_CLEAN = "Run `higgsnb clean`; without work the cluster is removed by itself after its idle timeout."
_GENERAL_REMEDY = "Run `higgsnb doctor`, or use the kind 'local'."


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


def _too_late(found: Trouble | None, deadline: float, name: str) -> ClusterError:
    """Return the error of a cluster that did not become ready."""
    if found:
        return ClusterError(found.reason, found.remedy)
    return ClusterError(
        f"{name} was not ready in {deadline:.0f} s, and nothing says why",
        "Give it longer (deadline=), or look at its pods or jobs.",
    )


def _connected(cluster: str | DaskCluster, *, default: bool) -> Client:
    """Return a client; one that loses its connection tries again for a minute before it gives up."""
    from distributed import Client
    from distributed.versions import VersionMismatchWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", VersionMismatchWarning)  # `skew` says it as an error
        return Client(cluster, timeout=60, set_as_default=default)


def _close_client(client: Client) -> None:
    """Close a client, whatever state it is in."""
    with suppress(OSError, RuntimeError, TimeoutError):
        within(10, lambda: client.close(timeout=3), "the end of a client")


def within(
    seconds: float, call: Callable[[], Value], what: str, *, late: Callable[[Value], object] | None = None
) -> Value:
    """Return what a call returns; `TimeoutError` if it takes longer.

    The call then goes on in a thread of its own, and ``late`` gets what comes of it after all.
    """
    outcome: Future[Value] = Future()
    waiting = threading.Lock()  # whoever has it first, the thread or the one that waits, decides who gets the outcome

    def run() -> None:
        try:
            value = call()
        except BaseException as error:  # noqa: BLE001  raised again in the thread that waits
            outcome.set_exception(error)
            return
        if waiting.acquire(blocking=False):
            outcome.set_result(value)
        elif late is not None:
            late(value)

    threading.Thread(target=run, name=f"higgsnb: {what}", daemon=True).start()
    try:
        return outcome.result(seconds)
    except FutureTimeoutError:
        if outcome.done() or not waiting.acquire(blocking=False):
            return outcome.result()  # it came at the last moment, or the call itself ran into a time limit
        raise TimeoutError(f"no answer in {seconds:.0f} s: {what}") from None


def skew(versions: Mapping[str, Any]) -> str:
    """Return in words which packages differ between this process and the cluster; empty if none do.

    Parameters
    ----------
    versions
        As `distributed.Client.get_versions` returns them: client, scheduler, and workers by address.
    """
    here = versions["client"]["packages"]
    others = {"scheduler": versions["scheduler"], **dict(sorted(versions["workers"].items()))}
    found = {}
    for place, there in others.items():
        for package, version in sorted((there or {}).get("packages", {}).items()):
            if here.get(package) != version and package not in found:
                where = place if place == "scheduler" else "workers"
                found[package] = f"{package} {here.get(package) or 'absent'} here, {version or 'absent'} on the {where}"
    return "; ".join(found.values())


# --- The kinds -----------------------------------------------------------------------------------


def _provider(described: Description) -> Provider:
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

    def start(self, until: float, say: Callable[[Trouble | None], None]) -> None:
        """Make the object and wait until its scheduler can be reached."""
        self._cluster.create()
        patience = Patience()
        while not self._cluster.scheduler_ready():
            found = self._cluster.trouble()
            say(found)
            if patience.over(found) or time.monotonic() > until:
                raise _too_late(found, self._deadline, self.name)
            time.sleep(POLL_SECONDS)
        say(None)
        self._cluster.connect(max(until - time.monotonic(), 5))

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

    def start(self, until: float, say: Callable[[Trouble | None], None]) -> None:
        """Start the scheduler, and ask for the workers."""
        say(None)
        make = {"local": self._local, "gateway": self._by_gateway}.get(self._described.kind, self._batch)
        try:
            what = f"the start of a {self.name} cluster"
            self._dask = within(max(until - time.monotonic(), 1), make, what, late=lambda made: made.close())
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
        cluster: DaskCluster = _gateway(self._described).new_cluster(shutdown_on_close=True, **options)
        cluster.scale(self.workers)
        return cluster

    def _batch(self) -> DaskCluster:
        """Submit the workers as jobs; the scheduler runs here, and its connections are encrypted."""
        import dask_jobqueue
        from distributed.security import Security

        options = {"shared_temp_directory": str(Path.cwd()), **self._described.options}
        if self._described.kind == "htcondor":
            options = {"disk": "4GB", **options}
        made: DaskCluster = getattr(dask_jobqueue, BATCH[self._described.kind][0])(
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
        status = str(getattr(self._need(), "status", "")).rpartition(".")[2]
        if status not in {"closed", "closing", "failed"}:
            scheduler = getattr(self._need(), "scheduler", None)
            status = str(getattr(scheduler, "status", "")).rpartition(".")[2]
        if status in {"closed", "closing", "failed"}:
            return f"the scheduler has ended ({status}): {self._described.idle_timeout} s without work, or by itself"
        return ""

    def scale(self, workers: int) -> None:
        """Ask for a number of workers."""
        cluster = self._need()
        if self._described.kind == "local":
            most = _room() // WORKER_LEAST
            if workers * self._memory > _room():
                raise ClusterError(
                    f"{workers} workers of {self._memory / 1e9:.1f} GB do not fit in this session's memory",
                    f"Close this cluster and start one with smaller workers; {most} of 0.5 GB would fit.",
                )
        cluster.scale(workers)

    def adapt(self, minimum: int, maximum: int) -> None:
        """Let Dask choose."""
        self._need().adapt(minimum=minimum, maximum=maximum)

    def logs(self) -> dict[str, str]:
        """Return the logs that Dask keeps."""
        return {str(name): str(text) for name, text in self._need().get_logs().items()}

    def close(self, seconds: float) -> None:
        """End the workers, then the scheduler."""
        if self._dask is not None:
            cluster, self._dask = self._dask, None
            within(seconds, lambda: (cluster.close(), True), f"the end of the {self.name} cluster")
            for name in ("_job_key", "_job_cert", "_job_ca_file"):  # dask-jobqueue leaves its certificates open
                file = getattr(cluster, name, None)
                if file is not None:
                    file.close()


def _gateway(described: Description) -> Any:
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
