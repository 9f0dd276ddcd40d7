"""Where work is done: threads of this process, processes of this machine, or a Dask cluster.

All three take a call and return a future. A future that fails with `WorkerLostError` says that the worker died of this
call or of something beside it; one that is cancelled, that the connection to the cluster was cut.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from typing import Any, TypeVar

from higgsnb.errors import SchedulerLostError, WorkerLostError

Value = TypeVar("Value")

PARENT_SECONDS = 1.0
"""How often a worker process looks whether the process that started it is still there."""
RECONNECT_SECONDS = 40.0
"""How long a cut connection to a cluster may take to come back (Dask itself gives up after 30 s)."""
ANSWER_SECONDS = 10.0
"""How long a scheduler may take to answer."""
GATHER_SECONDS = 60.0
"""How long a finished result may take to come here."""
WORKERS_SECONDS = 120.0
"""How long a cluster may be without any worker."""


def available_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Threads:
    """Threads of this process: quick to start, share memory, and die together."""

    name = "threads"
    isolates = False
    """Whether the death of a worker leaves the others, and this process, alive."""
    batch_seconds = 0.1
    """About how long the chunks should take that go out together: sending them costs something."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self.most_under_way = 2 * workers
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="higgsnb")

    def submit(self, call: Callable[..., Value], *arguments: Any) -> Future[Value]:
        """Begin a call."""
        return self._pool.submit(call, *arguments)

    def await_return(self) -> None:
        """Nothing to wait for: there is no connection."""

    def close(self) -> None:
        """Let it go; a thread that is stuck in the network is not waited for."""
        self._pool.shutdown(wait=False, cancel_futures=True)


class Processes:
    """Processes of this machine, one call each at a time, so that a death names the call.

    They are started when first needed, and end with the process that started them, even if that is killed.
    """

    name = "processes"
    isolates = True
    batch_seconds = 0.3

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self.most_under_way = workers
        self._idle: list[ProcessPoolExecutor] = []
        self._busy: set[ProcessPoolExecutor] = set()
        self._lock = threading.Lock()

    def submit(self, call: Callable[..., Value], *arguments: Any) -> Future[Value]:
        """Begin a call in a process of its own."""
        outer: Future[Value] = Future()
        while True:
            with self._lock:
                pool = self._idle.pop() if self._idle else _one_process()
                self._busy.add(pool)
            try:
                inner = pool.submit(call, *arguments)
            except BrokenProcessPool:  # it died while it had nothing to do: take another
                with self._lock:
                    self._busy.discard(pool)
                pool.shutdown(wait=False)
                continue
            inner.add_done_callback(partial(self._finish, pool, outer))
            return outer

    def _finish(self, pool: ProcessPoolExecutor, outer: Future[Value], inner: Future[Value]) -> None:
        """Pass on what came out, and keep the process for the next call unless it died."""
        error = None if inner.cancelled() else inner.exception()
        died = isinstance(error, BrokenProcessPool)
        with self._lock:
            self._busy.discard(pool)
            if not died:
                self._idle.append(pool)
        if inner.cancelled():
            outer.cancel()
        elif died:
            pool.shutdown(wait=False)
            outer.set_exception(WorkerLostError("the worker process died"))
        elif error is not None:
            outer.set_exception(error)
        else:
            outer.set_result(inner.result())

    def await_return(self) -> None:
        """Nothing to wait for: there is no connection."""

    def close(self) -> None:
        """End all processes, also those that are at work."""
        with self._lock:
            pools = [*self._idle, *self._busy]
            self._idle.clear()
        for pool in pools:
            processes = list((pool._processes or {}).values())
            pool.shutdown(wait=False, cancel_futures=True)
            for process in processes:
                process.kill()
                process.join()


def _one_process() -> ProcessPoolExecutor:
    """Return a pool of one process; spawned, as a fork of a process with threads may hang."""
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(1, mp_context=context, initializer=_follow, initargs=(os.getpid(),))


def _follow(parent: int) -> None:
    """In a worker process: end with the process that started it, and leave Ctrl-C to that one."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(PARENT_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, name="higgsnb-parent", daemon=True).start()


class Cluster:
    """A Dask cluster, whatever it runs on, through its client.

    Dask re-runs what was on a worker that dies; after some deaths (``distributed.scheduler.allowed-failures``, 3) it
    gives the task up, which counts as two strikes here. Beyond that nothing is left to Dask: not its retries of
    failed tasks, and no state, as all of that is lost with the scheduler.
    """

    name = "dask"
    batch_seconds = 1.0
    STRIKES = 2

    def __init__(self, client: Any) -> None:
        if getattr(client, "asynchronous", False):
            raise ValueError("client is asynchronous; give a `distributed.Client` made outside of a coroutine")
        self._client = client
        self._address = getattr(client.scheduler, "address", "an unknown address")
        self.isolates = not self._address.startswith("inproc")  # workers that are threads of this process
        self._under_way: dict[Future[Any], Any] = {}
        self._counted = (float("-inf"), 0)
        self._some_workers = self._answered = time.monotonic()

    def _ask(self, question: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        """Ask the scheduler; `TimeoutError` if it does not answer."""
        return self._client.sync(question, *arguments, callback_timeout=ANSWER_SECONDS, **options)

    @property
    def workers(self) -> int:
        """The number of calls that the cluster can do at once, as of a second ago at most."""
        counted_at, count = self._counted
        if time.monotonic() - counted_at > 1.0 and self._client.status == "running":
            with contextlib.suppress(OSError):  # it may be cut off at this very moment, or be frozen
                count = sum(self._ask(self._client.scheduler.ncores).values())
                self._answered = time.monotonic()
            self._counted = (time.monotonic(), count)
            if count:
                self._some_workers = time.monotonic()
        return count

    @property
    def most_under_way(self) -> int:
        """Twice what it can do at once, and some more, so that an adaptive cluster sees work waiting."""
        return 2 * self.workers + 4

    def submit(self, call: Callable[..., Value], *arguments: Any) -> Future[Value]:
        """Begin a call on the cluster."""
        outer: Future[Value] = Future()
        inner = self._client.submit(call, *arguments, pure=False, retries=0)
        self._under_way[outer] = inner
        inner.add_done_callback(lambda _: self._finish(outer, inner))
        return outer

    def _finish(self, outer: Future[Value], inner: Any) -> None:
        """Pass on what came out of a call; runs in a thread of Dask's."""
        from distributed.client import FutureCancelledError
        from distributed.scheduler import KilledWorker

        self._under_way.pop(outer, None)
        try:
            outer.set_result(inner.result(timeout=GATHER_SECONDS))
        except KilledWorker as error:
            outer.set_exception(WorkerLostError(f"its Dask workers died: {error}", failures=self.STRIKES))
        except (CancelledError, FutureCancelledError, OSError) as error:
            if inner.status == "error":  # the call's own
                outer.set_exception(error)
                return
            outer.cancel()  # cut off, perhaps while the result was on its way
            outer.set_running_or_notify_cancel()
        except Exception as error:  # noqa: BLE001 - whatever it is, whoever waits for this future has to hear of it
            outer.set_exception(error)

    def await_return(self) -> None:
        """Wait until the client is connected again, and until there is a worker.

        Raises
        ------
        SchedulerLostError
            If that takes too long.
        """
        deadline = time.monotonic() + RECONNECT_SECONDS
        while self._client.status != "running":
            if self._client.status in ("closed", "closing") or time.monotonic() > deadline:
                raise SchedulerLostError(f"the Dask scheduler at {self._address} is gone and did not come back")
            time.sleep(0.05)
        workers = self.workers
        if time.monotonic() - self._answered > RECONNECT_SECONDS + ANSWER_SECONDS:
            raise SchedulerLostError(f"the Dask scheduler at {self._address} does not answer")
        if not workers and time.monotonic() - self._some_workers > WORKERS_SECONDS:
            raise SchedulerLostError(
                f"the Dask cluster at {self._address} has had no workers for {WORKERS_SECONDS:.0f} s"
            )

    def ask(self, question: Callable[[], Value]) -> tuple[dict[str, dict[str, Any]], dict[str, Value | BaseException]]:
        """Ask for the versions of packages of scheduler and workers, and every worker a question; by address.

        A worker that dies while it is asked is left out.

        Raises
        ------
        SchedulerLostError
            If the cluster does not answer in time.
        """
        deadline = time.monotonic() + RECONNECT_SECONDS
        while True:
            self.await_return()
            try:
                reported = self._ask(self._client._get_versions)
                answers = self._ask(self._client._run, question, on_error="return")
                break
            except OSError as error:  # cut off, or a worker died, at this very moment
                if time.monotonic() > deadline:
                    raise SchedulerLostError(f"the Dask cluster at {self._address} does not answer: {error}") from error
        hosts = {"the scheduler": reported["scheduler"], **reported["workers"]}
        packages = {host: found["packages"] for host, found in hosts.items() if found}
        return packages, {host: answer for host, answer in answers.items() if not isinstance(answer, OSError)}

    def close(self) -> None:
        """Take back what is still waiting there; the client stays open."""
        if self._client.status == "running":
            with contextlib.suppress(OSError):  # it may be cut off at this very moment
                self._ask(self._client._cancel, list(self._under_way.values()))


@contextlib.contextmanager
def opened(client: Any, workers: int | None) -> Iterator[Threads | Processes | Cluster]:
    """Open what `engine.run` was given as ``client``; closed in the end.

    Raises
    ------
    ValueError
        If it is neither "threads", "processes" nor a Dask client, or ``workers`` is given with a client or below 1.
    """
    if workers is not None and workers < 1:
        raise ValueError(f"workers = {workers}; expected at least 1")
    if client in (None, "threads", "processes"):
        kind = Processes if client == "processes" else Threads
        executor: Threads | Processes | Cluster = kind(workers or available_cores())
    elif hasattr(client, "scheduler_info"):
        if workers is not None:
            raise ValueError("workers is for threads and processes; a Dask cluster is scaled with cluster.scale(n)")
        executor = Cluster(client)
    else:
        raise ValueError(f'client = {client!r}; expected "threads", "processes" or a distributed.Client')
    try:
        yield executor
    finally:
        executor.close()
