"""Where work is done: threads of this process, processes of this machine, or a Dask cluster.

All three take a call and return a future. It fails with `WorkerLostError` if the worker died, of this call or of
another one on the same worker. It is cancelled if the connection to the cluster was cut.
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
from multiprocessing.process import BaseProcess
from multiprocessing.spawn import get_preparation_data
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from higgsnb.errors import OptionError, SchedulerLostError, WorkerLostError
from higgsnb.provenance import available_cores
from higgsnb.text import shown

Value = TypeVar("Value")

PARENT_SECONDS = 1.0
"""How often a worker process checks that the process that started it is still there."""
END_SECONDS = 0.2
"""How long is waited for the end of threads that may have nothing to do any more."""
RECONNECT_SECONDS = 40.0
"""How long a cut connection to a cluster may take to come back (Dask itself gives up after 30 s)."""
ANSWER_SECONDS = 10.0
"""How long a scheduler may take to answer."""
GATHER_SECONDS = 60.0
"""How long the transfer of a finished result to this process may take."""
WORKERS_SECONDS = 120.0
"""How long a cluster may be without any worker."""
SLACK_SECONDS = 75.0
"""How much more than its own time limit a process may take for a call: for its start, imports and compilation."""
STILLBORN = 3
"""So many processes in succession that die before they could begin are no accident."""
PROCESSES_HINT = (
    "In a script, start the run under `if __name__ == '__main__':`, because every process imports the script. "
    'Otherwise give client="threads".'
)
SCRIPT_HINT = 'Save it as a file, or give client="threads".'
KILLED_HINT = (
    "Something else ended them. SIGKILL mostly means that memory ran out: use fewer workers (--workers), or a machine "
    "with more memory."
)
NEW_CLUSTER = "Start a new cluster, then run the same call again."


class Threads(ThreadPoolExecutor):
    """Threads of this process: quick to start, with shared memory; a crash ends all of them."""

    name = "threads"
    isolates = False
    """Whether the death of a worker leaves the others, and this process, alive."""
    batch_seconds = 0.1
    """About how long a batch should take, so that sending it costs little in comparison."""

    def __init__(self, workers: int, name: str = "higgsnb") -> None:
        self._begun: list[threading.Thread] = []
        begin = lambda: self._begun.append(threading.current_thread())  # noqa: E731
        super().__init__(workers, thread_name_prefix=name, initializer=begin)
        self.workers = workers
        self.max_in_flight = 2 * workers

    def close(self) -> None:
        """Shut down without waiting long for threads blocked on network I/O.

        The memory of threads that have ended is used by the next ones, that of others is not.
        """
        self.shutdown(wait=False, cancel_futures=True)
        deadline = time.monotonic() + END_SECONDS
        while any(map(_is_there, self._begun)) and time.monotonic() < deadline:
            time.sleep(0.001)


def _is_there(thread: threading.Thread) -> bool:
    """Whether a thread runs, or the system still has it: it gives back its memory after its last line of Python."""
    return thread.is_alive() or Path(f"/proc/self/task/{thread.native_id}").exists()


class Processes:
    """Processes of this machine, each with one call at a time, so that it is known which call a process died of.

    They are started when first needed, and end with the process that started them, even if that is killed. A process
    that dies before it could begin is no fault of the call that it was started for.
    """

    name = "processes"
    isolates = True
    batch_seconds = 0.3

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self.max_in_flight = workers
        self._idle: list[ProcessPoolExecutor] = []
        self._busy: dict[Future[Any], tuple[ProcessPoolExecutor, float]] = {}
        """For each call, its process and the time at which it was sent."""
        self._broken: list[ProcessPoolExecutor] = []
        self._begun: dict[ProcessPoolExecutor, Future[int]] = {}
        """The first call of each process, which does nothing: whether it has been answered."""
        self._stillborn: list[BaseProcess] = []
        """Processes that, in succession, died before they could begin."""
        self._lock = threading.Lock()
        self._context = multiprocessing.get_context("spawn")  # a fork of a process with threads may hang

    def submit(self, call: Callable[..., Value], *arguments: Any) -> Future[Value]:
        """Start a call in an idle process, or in a new one."""
        outer: Future[Value] = Future()
        while True:
            with self._lock:
                pool = self._idle.pop() if self._idle else self._new()
                self._busy[outer] = pool, time.monotonic()
                broken, self._broken = self._broken, []
            for dead in broken:
                dead.shutdown(wait=False)
            try:
                if pool not in self._begun:
                    self._begun[pool] = pool.submit(os.getpid)
                inner = pool.submit(call, *arguments)
            except BrokenProcessPool:  # it died while it was idle, or at its start: take another
                self._bury(pool, outer)
                continue
            inner.add_done_callback(partial(self._finish, pool, outer))
            return outer

    def _new(self) -> ProcessPoolExecutor:
        """Return a new process; raise `OptionError` if those before it died before they could begin."""
        if len(self._stillborn) >= STILLBORN:
            raise _not_begun(self._stillborn)
        try:
            return ProcessPoolExecutor(1, self._context, _follow, (os.getpid(),))
        except OSError as error:  # they need semaphores, which Linux keeps in a folder
            message = f"worker processes cannot be started: /dev/shm: {error.strerror}"
            raise OptionError(message, "Make it writable, or use threads (--scheduler threads).") from error

    def _finish(self, pool: ProcessPoolExecutor, outer: Future[Value], inner: Future[Value]) -> None:
        """Pass on the result of a call, and keep the process for the next one unless it died.

        The pool is not shut down here: from Python 3.12 on, a broken pool runs the callbacks of its futures while it
        holds the lock that `shutdown` takes.
        """
        error = None if inner.cancelled() else inner.exception()
        died = isinstance(error, BrokenProcessPool)
        begun = self._bury(pool, outer) if died else True
        if not died:
            with self._lock:
                self._busy.pop(outer, None)
                self._idle.append(pool)
                self._stillborn.clear()
        if inner.cancelled() or not begun:
            outer.cancel()
            outer.set_running_or_notify_cancel()
        elif died:
            outer.set_exception(WorkerLostError("the worker process died"))
        elif error is not None:
            outer.set_exception(error)
        else:
            outer.set_result(inner.result())

    def _bury(self, pool: ProcessPoolExecutor, outer: Future[Any]) -> bool:
        """Note that a process died, and return whether it had begun; it is shut down later, see `_finish`."""
        begun = self._begun[pool].exception() is None  # known by now: the calls of a process end in their order
        with self._lock:
            del self._begun[pool]
            self._busy.pop(outer, None)
            self._broken.append(pool)
            if begun:
                self._stillborn.clear()
            else:
                self._stillborn.extend((pool._processes or {}).values())
        return begun

    def end_overdue(self, outer: Future[Any], seconds: float) -> None:
        """Kill the process of a call that takes longer: it has been stopped (SIGSTOP), or it would have ended itself.

        The call then fails as any other whose process died.
        """
        with self._lock:
            pool, sent = self._busy.get(outer, (None, 0.0))
            if pool is not None and time.monotonic() > sent + seconds + SLACK_SECONDS:
                for process in (pool._processes or {}).values():
                    process.kill()

    def close(self) -> None:
        """End all processes, including those that are working."""
        with self._lock:
            pools = [*self._idle, *(pool for pool, _ in self._busy.values()), *self._broken]
            self._idle.clear()
        for pool in pools:
            processes = list((pool._processes or {}).values())
            pool.shutdown(wait=False, cancel_futures=True)
            for process in processes:
                process.kill()
                process.join()


def _not_begun(processes: list[BaseProcess]) -> OptionError:
    """Return the error for processes that died before they could begin: by a signal, or of an error of their own."""
    message = f"{len(processes)} worker processes died before they could begin"
    for process in processes:
        process.join(1.0)  # without it, the exit code of the last one may not be known yet
    numbers = [-process.exitcode for process in processes if process.exitcode is not None and process.exitcode < 0]
    if not numbers:
        return OptionError(message, PROCESSES_HINT)
    names = {known.value: known.name for known in signal.Signals}
    return OptionError(f"{message}: killed by signal {numbers[-1]} ({names.get(numbers[-1], '?')})", KILLED_HINT)


def _check_script() -> None:
    """Raise OptionError if worker processes cannot import the script that starts them, or this is one of them."""
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise OptionError("a worker process runs the script that started it from the beginning", PROCESSES_HINT)
    script = get_preparation_data("").get("init_main_from_path")
    if script is not None and not Path(script).exists():
        what = "is read from standard input" if Path(script).name == "<stdin>" else f"{shown(script)} is gone"
        raise OptionError(f"the script {what}, and worker processes cannot read it again", SCRIPT_HINT)


def _follow(parent: int) -> None:
    """Make a worker process end with the process that started it, and leave Ctrl-C to that process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(PARENT_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, name="higgsnb-parent", daemon=True).start()


class DaskCluster:
    """A Dask cluster of any kind, through its client.

    When a worker dies, Dask re-runs its tasks elsewhere; after ``distributed.scheduler.allowed-failures`` (3) deaths it
    gives a task up, which counts as `FAILURES` here. Nothing else is left to Dask: it does not retry failed tasks, and
    holds no state that would be lost with the scheduler.
    """

    name = "dask"
    batch_seconds = 1.0
    FAILURES = 2

    def __init__(self, client: Any) -> None:
        if getattr(client, "asynchronous", False):
            raise OptionError("client is asynchronous", "Give a `distributed.Client` made outside of a coroutine.")
        self._client = client
        self._address = getattr(client.scheduler, "address", "an unknown address")
        self.isolates = not self._address.startswith("inproc")  # workers that are threads of this process
        self._in_flight: dict[Future[Any], Any] = {}
        self._counted = (float("-inf"), 0)
        self._some_workers = self._answered = time.monotonic()

    def _ask(self, question: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        """Return the scheduler's answer; raise TimeoutError if there is none."""
        return self._client.sync(question, *arguments, callback_timeout=ANSWER_SECONDS, **options)

    @property
    def workers(self) -> int:
        """Number of calls that the cluster can run at once, at most a second old."""
        counted_at, count = self._counted
        if time.monotonic() - counted_at > 1.0 and self._client.status == "running":
            with contextlib.suppress(OSError):  # the connection may just have been cut
                count = sum(self._ask(self._client.scheduler.ncores).values())
                self._answered = time.monotonic()
            self._counted = (time.monotonic(), count)
            if count:
                self._some_workers = time.monotonic()
        return count

    @property
    def max_in_flight(self) -> int:
        """Twice what it can run at once, and some more, so that an adaptive cluster sees waiting work."""
        return 2 * self.workers + 4

    def submit(self, call: Callable[..., Value], *arguments: Any) -> Future[Value]:
        """Start a call on the cluster."""
        outer: Future[Value] = Future()
        inner = self._client.submit(call, *arguments, pure=False, retries=0)
        self._in_flight[outer] = inner
        inner.add_done_callback(lambda _: self._finish(outer, inner))
        return outer

    def _finish(self, outer: Future[Value], inner: Any) -> None:
        """Pass on the result of a call; runs in a thread of Dask's."""
        from distributed.client import FutureCancelledError
        from distributed.scheduler import KilledWorker

        self._in_flight.pop(outer, None)
        try:
            outer.set_result(inner.result(timeout=GATHER_SECONDS))
        except KilledWorker as error:
            outer.set_exception(WorkerLostError(f"its Dask workers died: {error}", failures=self.FAILURES))
        except (CancelledError, FutureCancelledError, OSError) as error:
            if inner.status == "error":  # the call's own
                outer.set_exception(error)
                return
            outer.cancel()  # cut off, perhaps while the result was on its way
            outer.set_running_or_notify_cancel()
        except Exception as error:  # noqa: BLE001 - without this, the caller would wait for ever
            outer.set_exception(error)

    def wait_until_connected(self) -> None:
        """Wait until the client is connected again; SchedulerLostError if that, or a worker, takes too long to come."""
        deadline = time.monotonic() + RECONNECT_SECONDS
        while self._client.status != "running":
            if self._client.status in ("closed", "closing") or time.monotonic() > deadline:
                raise SchedulerLostError(
                    f"the Dask scheduler at {self._address} is gone and did not come back", NEW_CLUSTER
                )
            time.sleep(0.05)
        workers = self.workers
        if time.monotonic() - self._answered > RECONNECT_SECONDS + ANSWER_SECONDS:
            raise SchedulerLostError(f"the Dask scheduler at {self._address} does not answer", NEW_CLUSTER)
        if not workers and time.monotonic() - self._some_workers > WORKERS_SECONDS:
            raise SchedulerLostError(
                f"the Dask cluster at {self._address} has had no workers for {WORKERS_SECONDS:.0f} s", NEW_CLUSTER
            )

    def ask(self, question: Callable[[], Value]) -> tuple[dict[str, dict[str, Any]], dict[str, Value | BaseException]]:
        """Call a function on every worker, and collect the package versions of scheduler and workers.

        Returns
        -------
        tuple of dict
            The packages that Dask reports for each host, and each worker's answer, or the error that it raised there,
            by the worker's address. A worker that dies meanwhile is left out.

        Raises
        ------
        SchedulerLostError
            If the cluster does not answer in time.
        """
        deadline = time.monotonic() + RECONNECT_SECONDS
        while True:
            self.wait_until_connected()
            try:
                reported = self._ask(self._client._get_versions)
                answers = self._ask(self._client._run, question, on_error="return")
                break
            except OSError as error:  # the connection was just cut, or a worker just died
                if time.monotonic() > deadline:
                    raise SchedulerLostError(
                        f"the Dask cluster at {self._address} does not answer: {error}", NEW_CLUSTER
                    ) from error
        hosts = {"the scheduler": reported["scheduler"], **reported["workers"]}
        packages = {host: found["packages"] for host, found in hosts.items() if found}
        return packages, {host: answer for host, answer in answers.items() if not isinstance(answer, OSError)}

    def close(self) -> None:
        """Cancel the calls that are not finished; the client stays open."""
        if self._client.status == "running":
            with contextlib.suppress(OSError):  # the connection may just have been cut
                self._ask(self._client._cancel, list(self._in_flight.values()))


Executor: TypeAlias = Threads | Processes | DaskCluster


@contextlib.contextmanager
def open_executor(client: Any, workers: Any) -> Iterator[Executor]:
    """Return the executor for two options of `engine.run`, closed on exit; OptionError if they do not fit together."""
    with contextlib.ExitStack() as stack:
        if hasattr(client, "get_client") and not hasattr(client, "submit"):  # a cluster, of Dask or of this package
            client = stack.enter_context(contextlib.closing(client.get_client()))
        if isinstance(client, str | None) and client in (None, "threads", "processes"):
            if client == "processes":
                _check_script()
            kind = Processes if client == "processes" else Threads
            executor: Executor = kind(workers or available_cores())
        elif hasattr(client, "scheduler_info") and hasattr(client, "submit"):
            if workers is not None:
                raise OptionError("workers is for threads and processes", "Scale a Dask cluster with cluster.scale(n).")
            executor = DaskCluster(client)
        else:
            raise OptionError(
                f"client = {shown(client)}", 'Give "threads", "processes", a distributed.Client or a cluster.'
            )
        stack.callback(executor.close)
        yield executor
