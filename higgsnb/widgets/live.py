"""Views for notebooks: a spectrum that grows during a run, and a panel that starts a cluster.

Both keep one dict, ``state``, which is always sent to the browser as a whole, so that everything shown belongs
together. The browser never changes it but sends short messages (``{"do": "stop"}``). A state may therefore be set from
any thread. The work is done in background threads; nothing here blocks the kernel.
"""

from __future__ import annotations

import atexit
import contextlib
import re
import shutil
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from importlib import resources
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

import anywidget
import numpy as np
import numpy.typing as npt
import traitlets

from higgsnb import cluster as clusters
from higgsnb import datasets, engine, errors, plots
from higgsnb import results as histograms
from higgsnb.cluster import KINDS, MOST, ClusterSpec, check_number, choose, parse_memory
from higgsnb.results import Result, stack_order
from higgsnb.widgets.explorer import CutExplorer, EventDisplay

if TYPE_CHECKING:
    from higgsnb.cluster import Cluster, ClusterState
    from higgsnb.datasets import Campaign
    from higgsnb.selection import Selection

__all__ = ["ClusterControl", "CutExplorer", "EventDisplay", "LiveHistogram"]

SECONDS_PER_HEARTBEAT = 20.0
"""Interval of heartbeats: hubs end sessions that send nothing (mybinder.org after 600 s)."""
SECONDS_OF_PACE = 20.0
"""The event rate is averaged over the last so many seconds."""
MOST_FAILURES_SHOWN = 50
SECONDS_TO_LET_GO = 3
"""Timeout for closing a client."""
SECONDS_BETWEEN_LOOKS = 0.2
"""How often the end of the interpreter is checked for while a cluster is being started or stopped."""
GONE = ("closed", "failed")
"""The phases of a cluster that is no longer there."""

WORDS = {
    "ready": "Ready to start",
    "starting": "Starting",
    "running": "Running",
    "stopping": "Stopping",
    "stopped": "Stopped; what is finished is kept",
    "complete": "Complete",
    "incomplete": "Finished, but not complete",
    "lost": "No cluster",
    "failed": "Failed",
}
PLACES = {
    "auto": "best for this place",
    "local": "this machine",
    "kubernetes": "Kubernetes",
    "gateway": "Dask Gateway",
    "slurm": "Slurm",
    "htcondor": "HTCondor",
}
"""What each of `cluster.KINDS` is called in the panel."""

State = dict[str, Any]
Floats = npt.NDArray[np.float64]


# --- What both widgets need ------------------------------------------------------------------------------------


def _static(*names: str) -> str:
    """Return some files of the package, concatenated."""
    folder = resources.files("higgsnb.widgets") / "static"
    return "\n".join((folder / name).read_text(encoding="utf-8") for name in names)


def _problem(error: BaseException) -> dict[str, str]:
    """Return what is wrong and what to do about it, for the browser."""
    if isinstance(error, errors.HiggsnbError):
        return {"what": datasets.redact(error.message), "remedy": datasets.redact(error.hint)}
    what, _, remedy = datasets.redact(str(error)).partition("\n")
    if remedy:
        return {"what": what, "remedy": remedy}
    unexpected = f"{type(error).__name__}: {what}" if what else type(error).__name__
    return {"what": unexpected, "remedy": "Try again. The exception itself is in the attribute `error` of the widget."}


class _Ending:
    """A context that suppresses any exception and passes it, or None, to a callback at its end."""

    def __init__(self, tell: Callable[[BaseException | None], None]) -> None:
        self.tell = tell

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        self.tell(error)
        return True


class _View(anywidget.AnyWidget):
    """A widget that shows ``state`` and runs the actions that the browser's messages name."""

    state = traitlets.Dict().tag(sync=True)
    heartbeat = traitlets.Int(0).tag(sync=True)

    def __init__(self, state: State, actions: Mapping[str, Callable[[State], None]]) -> None:
        super().__init__(state=state)
        self.error: BaseException | None = None
        self._actions = actions
        self._changing = threading.RLock()
        self.on_msg(self._obey)

    def __del__(self) -> None:
        """Close the connection to the page; a widget that is garbage-collected has nothing running."""
        anywidget.AnyWidget.close(self)

    def _obey(self, _: _View, content: State, __: list[bytes]) -> None:
        """Run the action that a message names; unknown messages are ignored."""
        action = self._actions.get(content.get("do", ""))
        if action is not None:
            action(content)

    def _change(self, **changes: Any) -> None:
        """Replace some entries of the state and send all of it."""
        with self._changing:
            self.state = {**self.state, **changes}


# --- The spectrum ----------------------------------------------------------------------------------------------


def spectrum(result: Result, histogram: str = "mass_4l") -> State:
    """Return what `LiveHistogram` draws of a result, as plain JSON.

    Parameters
    ----------
    result
        A result, complete or partial.
    histogram
        The name of one of `histograms.AXES`.

    Returns
    -------
    dict
        ``edges`` (bins + 1); ``data`` with counts and central 68.27 % Poisson intervals, None without data; ``stack``
        from the bottom to the top, with the expected events of each process; ``total`` and ``error`` (bins), the sum
        and its statistical error; ``coverage``, ``percent`` and ``warning`` (empty if the result is complete).

    Raises
    ------
    KeyError
        If there is no such histogram; names the known ones.
    """
    axis, found = histograms.axis(histogram), result.spectrum(histogram).combined()
    processes = stack_order(found.stack)
    others = [process for process in processes if process not in plots.COLOURS]
    done, total = result.coverage.events
    return {
        "heading": plots.heading(result),
        "luminosity": plots.luminosity_label(result),
        "title": f"{result.campaign.title} — selection {result.selection.name}",
        "warning": plots.coverage_text(result),
        "percent": "100 %" if result.complete else plots.percent(done, total) if total else "0 %",
        "axis": {"variable": axis.title, "heights": plots.per_bin_label(axis.edges, histogram, axis.title)},
        "edges": axis.edges.tolist(),
        "data": None if found.data is None else _data(found.data, simulated=result.simulated),
        "stack": [_layer(process, found.stack[process], others) for process in processes],
        "total": _rounded(found.total),
        "error": _rounded(np.sqrt(found.variance)),
        "coverage": result.coverage._asdict(),
        "failed": [failure.as_dict() for failure in result.failed[:MOST_FAILURES_SHOWN]],
        "failed_total": len(result.failed),
    }


def _layer(process: str, heights: Floats, others: list[str]) -> State:
    """Return one process of the stack."""
    return {
        "process": process,
        "label": plots.LABELS.get(process, process),
        "colour": plots.colour(process, others),
        "heights": _rounded(heights),
        "sum": float(heights.sum()),
    }


def _data(counts: npt.NDArray[np.int64], *, simulated: bool) -> State:
    """Return counts per bin with their Poisson intervals."""
    low, high = plots.garwood(counts)
    bars = {"counts": counts.tolist(), "low": _rounded(low), "high": _rounded(high)}
    return {"label": "Simulated data" if simulated else "Data", "sum": int(counts.sum()), **bars}


def _rounded(values: Floats) -> list[float]:
    """Return values rounded to 1e-5 of an event: far finer than a pixel, and a third of the bytes."""
    return cast("list[float]", np.round(values, 5).tolist())


class Pace:
    """The event rate over the last `SECONDS_OF_PACE`."""

    def __init__(self) -> None:
        self._marks: deque[tuple[float, int]] = deque()

    def add(self, now: float, done: int) -> None:
        """Record that ``done`` events have been counted at the time ``now`` in seconds."""
        self._marks.append((now, done))
        while len(self._marks) > 2 and now - self._marks[1][0] >= SECONDS_OF_PACE:
            self._marks.popleft()

    @property
    def rate(self) -> float | None:
        """Events per second; None before the second record, or without progress."""
        if len(self._marks) < 2:
            return None
        (begun, first), (now, last) = self._marks[0], self._marks[-1]
        return (last - first) / (now - begun) if last > first and now > begun else None

    def seconds_left(self, total: float) -> float | None:
        """Return the seconds until ``total`` events are counted at this rate; None without a rate."""
        return None if self.rate is None else max(0.0, total - self._marks[-1][1]) / self.rate


class LiveHistogram(_View):
    """A stacked spectrum that grows while a campaign is analysed, with buttons to start, stop and resume.

    Parameters
    ----------
    campaign, selection
        What to analyse, and the cuts.
    histogram
        The name of one of `histograms.AXES`.
    client
        As for `engine.run`; or an object with a cluster: a `ClusterControl`, a `Cluster`, or one of Dask's. It is asked
        for a client at each start, so that Resume works with the panel's current cluster.
    **options
        The other options of `engine.run`. By default the ledger is in a temporary folder, so that a stopped run can be
        resumed during the life of this process; with ``ledger=None`` a stopped run starts over. ``fresh`` applies to
        the first start only.

    Attributes
    ----------
    result
        The latest `Result`, partial while the run goes on, empty before the first one.
    ledger
        The file in which finished chunks are recorded, or None. Another widget, or `engine.run`, can resume from it.
    error
        The exception that ended the last run, or None. It is also shown, with its hint.
    """

    _esm = _static("elements.js", "live_histogram.js")
    _css = _static("widgets.css")

    def __init__(
        self,
        campaign: Campaign,
        selection: Selection,
        *,
        histogram: str = "mass_4l",
        client: Any = None,
        **options: Any,
    ) -> None:
        self.result: Result
        self._campaign, self._selection, self._histogram = campaign, selection, histogram
        self._client = client
        self._own_ledger = "ledger" not in options
        if self._own_ledger:
            options["ledger"] = _session_folder() / "ledger.sqlite"
        self.ledger: Path | None = options["ledger"]
        self._fresh = options.pop("fresh", False)
        self._options = options
        self._stopping = threading.Event()
        self._idle = threading.Event()
        self._idle.set()
        self._pace = Pace()
        state = {**self._blank(), "phase": "ready", "problem": None, "rate": None, "seconds_left": None}
        state["resumable"] = self.ledger is not None
        super().__init__(
            {**state, "words": _words(state)}, {"start": lambda _: self.start(), "stop": lambda _: self.stop()}
        )

    def __repr__(self) -> str:
        state = self.state
        return f"LiveHistogram({self._campaign.name}, {self._selection.name}: {state['words']})"

    def start(self, *, client: Any = None) -> None:
        """Start or resume the run in a thread; does nothing while it runs.

        ``client`` replaces the present client, for instance after a cluster has died; None: keep it.
        """
        with self._changing:
            if not self._idle.is_set():
                return
            self._client = self._client if client is None else client
            self._idle.clear()
            self._stopping.clear()
            self.error, self._pace = None, Pace()
            fresh = self._fresh or (self.state["phase"] == "complete" and self._own_ledger)
            shown = self._blank() if fresh or not self.state["resumable"] else {}
            self._enter("starting", **shown, problem=None, rate=None, seconds_left=None)
        for target in (partial(self._run, fresh), self._keep_alive):
            threading.Thread(target=target, name="higgsnb-live", daemon=True).start()

    def stop(self) -> None:
        """Ask the run to stop after the chunks in flight; finished chunks stay in the ledger."""
        with self._changing:
            if not self._idle.is_set():
                self._stopping.set()
                self._enter("stopping")

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the run has ended, at most ``timeout`` seconds; return whether it has."""
        return self._idle.wait(timeout)

    def close(self) -> None:
        """Stop the run and remove the widget from the page."""
        self.stop()
        super().close()

    def _blank(self) -> State:
        """Discard the result; return the state before the first chunk is complete."""
        self.result = Result(self._campaign, self._selection)
        return {**spectrum(self.result, self._histogram), "warning": ""}

    def _run(self, fresh: bool) -> None:
        """Show results from the engine until the last one, or until asked to stop."""
        with _Ending(self._finish), _opened(self._client) as client:
            self._fresh = False  # not earlier: there may be no cluster yet, and then the next start is the first
            results = engine.run(self._campaign, self._selection, client=client, fresh=fresh, **self._options)
            with contextlib.closing(results):
                for result in results:
                    self._land(result)
                    if self._stopping.is_set():
                        break

    def _keep_alive(self) -> None:
        """Send heartbeats until the run ends."""
        while not self._idle.wait(SECONDS_PER_HEARTBEAT):
            with self._changing:
                self.heartbeat += 1

    def _land(self, result: Result) -> None:
        """Show a result."""
        self._pace.add(time.monotonic(), result.coverage.events[0])
        total = result.coverage.events[1] * self._options.get("fraction", 1.0)
        left = self._pace.seconds_left(total)
        self.result = result
        with self._changing:
            phase = "stopping" if self._stopping.is_set() else "running"
            self._enter(phase, **spectrum(result, self._histogram), rate=self._pace.rate, seconds_left=left)

    def _finish(self, error: BaseException | None) -> None:
        """Show how the run ended."""
        self.error = error
        with self._changing:
            try:
                self._enter(self._last_phase(), problem=None if error is None else self._trouble(error))
            finally:
                self._idle.set()

    def _last_phase(self) -> str:
        """Return the phase in which a run has ended."""
        if self.error is not None:
            return "lost" if isinstance(self.error, errors.SchedulerLostError) else "failed"
        if self.result.complete:
            return "complete"
        return "stopped" if self._stopping.is_set() else "incomplete"

    def _trouble(self, error: BaseException) -> dict[str, str]:
        """Return what ended the run; if the cluster was lost, how to resume with another one."""
        if not isinstance(error, errors.SchedulerLostError):
            return _problem(error)
        panel = isinstance(self._client, ClusterControl)
        how = "Launch a cluster, then press Resume" if panel else "Start another cluster and give it to start(client=…)"
        kept = f"; nothing that is counted is lost: it is in {self.ledger}" if self.ledger is not None else ""
        return {"what": datasets.redact(errors.describe(error)[0]), "remedy": f"{how}{kept}."}

    def _enter(self, phase: str, **changes: Any) -> None:
        """Change the phase and other entries in one message."""
        state = {**self.state, **changes, "phase": phase}
        self._change(**changes, phase=phase, words=_words(state))


def _session_folder() -> Path:
    """Create a folder that is removed when this process ends."""
    folder = tempfile.mkdtemp(prefix="higgsnb-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


@contextlib.contextmanager
def _opened(client: Any) -> Iterator[Any]:
    """Yield a client: the given one, or a new one of the given cluster or panel, which is closed at the end.

    Raises
    ------
    SchedulerLostError
        If there is no cluster.
    """
    if not hasattr(client, "get_client"):
        yield client
        return
    try:
        made = client.get_client()
    except (OSError, RuntimeError) as error:
        raise errors.SchedulerLostError(errors.describe(error)[0]) from error
    try:
        yield made
    finally:
        with contextlib.suppress(OSError, RuntimeError):  # its cluster may be gone
            made.close(timeout=SECONDS_TO_LET_GO)


def _words(state: State) -> str:
    """Return a state in one or two sentences, for screen readers."""
    phase = WORDS[state["phase"]]
    if state["problem"] is not None:
        return f"{phase}: {state['problem']['what'].rstrip('.')}. {state['problem']['remedy']}"
    predicted = sum(layer["sum"] for layer in state["stack"])
    found = [f"{predicted:.1f} events expected"]
    if state["data"] is not None:
        found.insert(0, f"{state['data']['sum']} events of {state['data']['label'].lower()}")
    n = state["failed_total"]
    failed = f" {n} file{'s' if n > 1 else ''} failed." if n else ""
    return f"{phase}: {state['percent']} of the events counted. {', '.join(found)}.{failed}"


# --- The cluster -----------------------------------------------------------------------------------------------


def web_address(text: str) -> str:
    """Return an http(s) address or an absolute path as it is, anything else as an empty text."""
    parts = urlsplit(text)
    good = bool(parts.hostname) if parts.scheme in ("http", "https") else re.match(r"/(?!/)", text) is not None
    return text if good else ""


class ClusterControl(_View):
    """A panel that starts, scales, describes and stops a Dask cluster.

    Parameters
    ----------
    campaign
        For the estimate of time and data; optional.
    price_core_hour, price_gb
        Prices in any currency, for the estimate of costs; optional.
    launch
        What makes the cluster: `cluster.launch`, or a function like it, which returns soon after ``cancel`` is set.
    **options
        Those of `cluster.launch`: ``kind``, ``workers``, ``cores`` and ``memory`` are the initial choice in the panel,
        all others are passed on.

    Attributes
    ----------
    cluster
        The `Cluster`, or None; one that has died stays until another is launched, for its state and its reason.
    error
        The exception that ended the latest action, or None. It is also shown, with its hint.

    Raises
    ------
    OptionError
        If the initial choice is out of range.
    """

    _esm = _static("elements.js", "cluster_control.js")
    _css = _static("widgets.css")

    def __init__(
        self,
        *,
        campaign: Campaign | None = None,
        price_core_hour: float | None = None,
        price_gb: float | None = None,
        launch: Callable[..., Cluster] = clusters.launch,
        **options: Any,
    ) -> None:
        self.cluster: Cluster | None = None
        self._launch = launch
        choice = {"kind": "auto", "workers": 2, "cores": 1, "memory": "2GiB"}
        choice |= {name: options.pop(name) for name in choice if options.get(name) is not None}
        self._options = options
        self._spec = self._checked(choice)
        self._campaign = campaign
        self._prices = {"price_core_hour": price_core_hour, "price_gb": price_gb}
        self._last: threading.Thread | None = None
        self._pending = 0
        self._idle = threading.Event()
        self._cancel: threading.Event | None = None  # of the start in progress
        self._closed = False
        self._best = "auto"
        actions = {
            "choose": self._choose,
            "launch": lambda _: self.launch(),
            "scale": lambda content: self._ask(self.scale, content, "workers"),
            "adapt": lambda content: self._ask(self.adapt, content, "minimum", "maximum"),
            "logs": lambda _: self.show_logs(),
            "stop": lambda _: self.stop(),
        }
        state = {"kinds": [(kind, PLACES[kind]) for kind in KINDS], "why": "", "choice": choice}
        rest = {"cluster": None, "busy": "", "problem": None, "logs": None, "dashboard": ""}
        super().__init__({**state, **rest, "costs": self._costs()}, actions)
        self._begin("checking where a cluster can run", self._choose_best)

    def __repr__(self) -> str:
        found = self.state["cluster"]
        return f"ClusterControl({found['phase'] if found else 'no cluster'})"

    def launch(self) -> None:
        """Start the chosen cluster in a thread; does nothing if there is one or one is being started."""
        with self._changing:
            alive = self.cluster is not None and self.cluster.state.phase not in GONE
            if self._cancel is None and not alive:
                self._cancel = cancel = threading.Event()
                _keep_alive(self._begin("starting the cluster", partial(self._start, cancel)), cancel)

    def get_client(self) -> Any:
        """Return a new `distributed.Client`, Dask's default from now on; it is closed with the cluster.

        Raises
        ------
        ClusterError
            If there is no cluster, or it has died.
        """
        cluster = self.cluster
        if cluster is None:
            raise errors.ClusterError("the panel has no cluster", "Press Launch, and wait until it is ready.")
        return cluster.get_client()

    def scale(self, workers: int) -> None:
        """Ask for so many workers; ends adapting."""

        def scale() -> None:
            if self.cluster is not None:
                self.cluster.scale(workers)

        self._begin(f"asking for {workers} workers", scale)

    def adapt(self, minimum: int, maximum: int) -> None:
        """Let the cluster choose the number of workers by the work there is."""

        def adapt() -> None:
            if self.cluster is not None:
                self.cluster.adapt(minimum, maximum)

        self._begin(f"adapting between {minimum} and {maximum} workers", adapt)

    def show_logs(self) -> None:
        """Fetch the logs of the scheduler and the workers, and show them."""

        def fetch() -> None:
            if self.cluster is not None:
                self._change(logs=self.cluster.logs())

        self._begin("fetching the logs", fetch)

    def stop(self) -> None:
        """Cancel a start, or stop the cluster, in a thread; the panel stays and can start another."""
        with self._changing:
            self._cancel_start()
            _keep_alive(self._begin("stopping the cluster", self._stop))

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until every action has ended, at most ``timeout`` seconds; return whether they have."""
        return self._idle.wait(timeout)

    def close(self) -> None:
        """Cancel a start, stop the cluster, wait until it is gone, and remove the panel from the page."""
        with self._changing:
            self._closed = True
            self._cancel_start()
        self.wait()
        self._stop()
        super().close()

    # -- in threads

    def _choose_best(self) -> None:
        self._best, why = choose()
        self._change(why=f"{why[:1].upper()}{why[1:]}.", costs=self._costs())

    def _start(self, cancel: threading.Event) -> None:
        try:
            if self._closed:
                raise errors.ClusterError("this panel is closed", "Make another one with widgets.ClusterControl().")
            self._drop()
            self.cluster = self._launch(**self.state["choice"], **self._options, on_state=self._follow, cancel=cancel)
        finally:
            with self._changing:
                self._cancel = None
        self._follow(self.cluster.state)

    def _cancel_start(self) -> None:
        """Cancel the start that is in progress or queued, if there is one."""
        if self._cancel is not None:
            self._cancel.set()

    def _stop(self) -> None:
        self._drop()
        self._change(logs=None)

    def _drop(self) -> None:
        """Remove the cluster, or what is left of it."""
        cluster, self.cluster = self.cluster, None
        if cluster is not None:
            cluster.close()
            self._follow(cluster.state)

    # -- what is shown

    def _begin(self, what: str, action: Callable[[], None]) -> threading.Thread:
        """Queue an action behind the earlier ones, and show that it is in progress."""
        with self._changing:
            self.error = None
            self._pending += 1
            self._idle.clear()
            self._change(busy=what, problem=None)
            before = self._last

            def perform() -> None:
                if before is not None:
                    before.join()
                with _Ending(self._done):
                    action()

            self._last = threading.Thread(target=perform, name="higgsnb-panel", daemon=True)
            self._last.start()
            return self._last

    def _done(self, error: BaseException | None) -> None:
        """Show how an action ended."""
        with self._changing:
            self.error = error
            self._pending -= 1
            try:
                busy = self.state["busy"] if self._pending else ""
                self._change(busy=busy, problem=None if error is None else _problem(error))
            finally:
                if not self._pending:
                    self._idle.set()

    def _follow(self, state: ClusterState) -> None:
        """Show the state of the cluster; called from any thread."""
        link = web_address(state.dashboard) if state.phase in ("ready", "scaling") else ""
        self._change(cluster=state.as_dict(), dashboard=link)

    def _costs(self) -> list[tuple[str, str]]:
        """Return what the chosen cluster will take."""
        spec = self._spec
        return engine.estimate_cluster(
            self._campaign,
            kind=self._best if spec.kind == "auto" else spec.kind,
            workers=spec.workers,
            cores=spec.cores,
            idle_timeout=spec.idle_timeout,
            price_core_hour=self._prices["price_core_hour"],
            price_gb=self._prices["price_gb"],
        )

    def _choose(self, content: State) -> None:
        """Take a choice from the form."""
        choice = {name: content.get(name, before) for name, before in self.state["choice"].items()}
        try:
            self._spec = self._checked(choice)
        except ValueError as error:
            self._change(problem=_problem(error))
        else:
            self._change(choice=choice, costs=self._costs(), problem=None)

    def _checked(self, choice: State) -> ClusterSpec:
        """Return the spec for what is in the form; raise `OptionError` if something is out of range."""
        check_number("workers", choice["workers"], most=MOST)
        given = {**choice, "memory": parse_memory(choice["memory"])}
        return ClusterSpec(**given, idle_timeout=self._options.get("idle_timeout", 900))

    def _ask(self, action: Callable[..., None], content: State, *names: str) -> None:
        """Do what a form asks for, or show what is wrong with it."""
        try:
            for name in names:
                check_number(name, content.get(name), least=0, most=MOST)
            action(*(content[name] for name in names))
        except ValueError as error:
            self._change(problem=_problem(error))


def _keep_alive(action: threading.Thread, cancel: threading.Event | None = None) -> None:
    """Keep the interpreter alive until a cluster is removed: at its end a start is cancelled, a stop completed.

    A thread does this and not `atexit`, which is too late: Python 3.12 and later start no threads by then, and the
    removal needs some.
    """

    def wait() -> None:
        while action.is_alive() and threading.main_thread().is_alive():
            action.join(SECONDS_BETWEEN_LOOKS)
        if cancel is not None and action.is_alive():
            cancel.set()
        action.join(clusters.CLOSE_SECONDS)

    threading.Thread(target=wait, name="higgsnb-keep-alive", daemon=False).start()
