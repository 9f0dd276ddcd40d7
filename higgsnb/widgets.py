"""Views for notebooks: a spectrum that grows while a run goes on, and a panel that starts a cluster.

Both keep one dict, ``state``, which is sent to the browser whole, so that what is shown always belongs together. The
browser never changes it: it sends short messages (``{"do": "stop"}``). So a state may be set from any thread, and no
two sides write the same thing. The work goes on in threads of its own; nothing here blocks the kernel.
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
from higgsnb import engine, errors, files, histograms, plots
from higgsnb.analysis import Result
from higgsnb.cluster_options import MOST, ClusterSpec, check_number
from higgsnb.explorer import CutExplorer, EventDisplay
from higgsnb.selection import CHANNELS

if TYPE_CHECKING:
    from higgsnb.cluster import Cluster, ClusterState
    from higgsnb.datasets import Campaign
    from higgsnb.selection import Selection

__all__ = ["ClusterControl", "CutExplorer", "EventDisplay", "LiveHistogram"]

SECONDS_PER_HEARTBEAT = 20.0
"""A sign of life at least so often: hubs end sessions that send nothing (mybinder.org after 600 s)."""
SECONDS_OF_PACE = 20.0
"""Events a second are averaged over the latest so many seconds."""
MOST_FAILURES_SHOWN = 50
SECONDS_TO_LET_GO = 3
"""How long a client may take to close."""
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
    """Return files of the package one after the other, as one text."""
    folder = resources.files("higgsnb") / "static"
    return "\n".join((folder / name).read_text(encoding="utf-8") for name in names)


def _problem(error: BaseException) -> dict[str, str]:
    """Describe an exception: what is wrong, and what to do about it."""
    if isinstance(error, errors.HiggsnbError):
        return {"what": files.redact(error.message), "remedy": files.redact(error.hint)}
    what, _, remedy = files.redact(str(error)).partition("\n")
    if remedy:
        return {"what": what, "remedy": remedy}
    unexpected = f"{type(error).__name__}: {what}" if what else type(error).__name__
    return {"what": unexpected, "remedy": "Try again. The exception itself is in the attribute `error` of the widget."}


class _Ending:
    """A context that tells how it ended, by an exception or (None) without, and lets no exception go further."""

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
    """A widget that shows ``state`` and does what the browser's messages ask for."""

    state = traitlets.Dict().tag(sync=True)
    heartbeat = traitlets.Int(0).tag(sync=True)

    def __init__(self, state: State, actions: Mapping[str, Callable[[State], None]]) -> None:
        super().__init__(state=state)
        self.error: BaseException | None = None
        self._actions = actions
        self._changing = threading.RLock()
        self.on_msg(self._obey)

    def __del__(self) -> None:
        """Close the connection to the page, no more: what becomes garbage has nothing running."""
        anywidget.AnyWidget.close(self)

    def _obey(self, _: _View, content: State, __: list[bytes]) -> None:
        """Do what a message of the browser asks for; unknown messages are ignored."""
        action = self._actions.get(content.get("do", ""))
        if action is not None:
            action(content)

    def _change(self, **changes: Any) -> None:
        """Replace some entries of the state and send it whole."""
        with self._changing:
            self.state = {**self.state, **changes}

    def _beat(self) -> None:
        with self._changing:
            self.heartbeat += 1


# --- The spectrum ----------------------------------------------------------------------------------------------


def spectrum(result: Result, histogram: str = "mass_4l") -> State:
    """Return what `LiveHistogram` draws of a result, as plain JSON.

    Parameters
    ----------
    result
        A result, complete or not.
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
        If there is no histogram of that name; lists those there are.
    """
    axis = histograms.axis(histogram)
    heights, variance = _prediction(result, histogram)
    total = sum(heights.values(), np.zeros(axis.bins))
    others = [process for process in heights if process not in plots.COLOURS]
    stack = [_layer(process, heights[process], others) for process in plots.stack_order(heights)]
    label = f"{axis.label} [{axis.unit}]" if axis.unit else axis.label
    return {
        **_texts(result),
        "axis": {"variable": label, "heights": plots.per_bin_label(axis.edges, histogram, label)},
        "edges": axis.edges.tolist(),
        "data": _data(result, histogram),
        "stack": stack,
        "total": _rounded(total),
        "error": _rounded(np.sqrt(variance)),
        "coverage": result.coverage._asdict(),
        "failed": [failure.as_dict() for failure in result.failed[:MOST_FAILURES_SHOWN]],
        "failed_total": len(result.failed),
    }


def _texts(result: Result) -> dict[str, str]:
    """Return what is written around the spectrum."""
    done, total = result.coverage.events
    return {
        "heading": plots.heading(result),
        "luminosity": plots.luminosity_label(result),
        "title": f"{result.campaign.title} — selection {result.selection.name}",
        "warning": plots.coverage_text(result),
        "percent": "100 %" if result.complete else plots.percent(done, total) if total else "0 %",
    }


def _prediction(result: Result, histogram: str) -> tuple[dict[str, Floats], Floats]:
    """Return expected events per bin of each process, and the variance of their sum."""
    heights: dict[str, Floats] = {}
    variance = np.zeros(histograms.axis(histogram).bins)
    for dataset in result.campaign.datasets:
        if dataset.is_data:
            continue
        rows = histograms.counts_of(result.counts[dataset.name], histogram)[:, 1:-1]
        by_channel = result.weights.get(dataset.name, {})
        weights = np.array([by_channel.get(channel, 0.0) for channel in CHANNELS])
        heights[dataset.process] = heights.get(dataset.process, 0.0) + np.asarray(weights @ rows, np.float64)
        variance += weights**2 @ rows
    return heights, variance


def _layer(process: str, heights: Floats, others: list[str]) -> State:
    """Return one process of the stack."""
    return {
        "process": process,
        "label": plots.LABELS.get(process, process),
        "colour": plots.colour(process, others),
        "heights": _rounded(heights),
        "sum": float(heights.sum()),
    }


def _data(result: Result, histogram: str) -> State | None:
    """Return counts per bin with their exact Poisson intervals; None if the campaign has no data."""
    names = [dataset.name for dataset in result.campaign.datasets if dataset.is_data]
    if not names:
        return None
    counts = sum(histograms.counts_of(result.counts[name], histogram)[:, 1:-1].sum(axis=0) for name in names)
    low, high = plots.garwood(counts)
    label = "Simulated data" if result.simulated else "Data"
    counted = np.asarray(counts).tolist()
    return {"label": label, "sum": sum(counted), "counts": counted, "low": _rounded(low), "high": _rounded(high)}


def _rounded(values: Floats) -> list[float]:
    """Return values to 1e-5 of an event: far finer than a pixel, and a third of the bytes."""
    return cast("list[float]", np.round(values, 5).tolist())


class Pace:
    """How fast events are counted, over the latest `SECONDS_OF_PACE`."""

    def __init__(self) -> None:
        self._marks: deque[tuple[float, int]] = deque()

    def add(self, now: float, done: int) -> None:
        """Note that ``done`` events were counted at the time ``now`` in seconds."""
        self._marks.append((now, done))
        while len(self._marks) > 2 and now - self._marks[1][0] >= SECONDS_OF_PACE:
            self._marks.popleft()

    @property
    def rate(self) -> float | None:
        """Events a second; None before there are two marks, or if nothing moved."""
        if len(self._marks) < 2:
            return None
        (begun, first), (now, last) = self._marks[0], self._marks[-1]
        return (last - first) / (now - begun) if last > first and now > begun else None

    def seconds_left(self, total: float) -> float | None:
        """Return the seconds until ``total`` events are counted at this rate; None if there is no rate."""
        return None if self.rate is None else max(0.0, total - self._marks[-1][1]) / self.rate


class LiveHistogram(_View):
    """A stacked spectrum that grows while a campaign is analysed, with buttons to start, stop and resume.

    Parameters
    ----------
    campaign, selection
        What to analyse, what to keep.
    histogram
        The name of one of `histograms.AXES`.
    client
        That of `engine.run`; or who has a cluster: a `ClusterControl`, a `Cluster`, or one of Dask's. These are asked
        for a client at each start, so that Resume works with the cluster that a panel has then.
    **options
        The others of `engine.run`. Without ``ledger`` there is one in a temporary folder, so that a stopped run can be
        resumed for as long as this process lives; with ``ledger=None`` a stopped run begins again. ``fresh`` applies
        to the first start only.

    Attributes
    ----------
    result
        The newest `Result`, partial while the run goes on; nothing is counted in it before the first.
    ledger
        The file in which finished chunks are recorded, or None. Another widget, or `engine.run`, can go on from it.
    error
        The exception that ended the latest run, or None. It is also shown, with its remedy.
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
        """Start the run in a thread, or resume it; does nothing while it runs.

        ``client`` is who does the work from now on, the cluster after one that died, say; None: the same as before.
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
        """Ask the run to stop after the chunks that are being counted; what is finished stays in the ledger."""
        with self._changing:
            if not self._idle.is_set():
                self._stopping.set()
                self._enter("stopping")

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until nothing runs any more, at most ``timeout`` seconds; return whether that is so."""
        return self._idle.wait(timeout)

    def close(self) -> None:
        """Stop the run and take the widget from the page."""
        self.stop()
        super().close()

    def _blank(self) -> State:
        """Forget the result; return what is shown before anything has landed."""
        self.result = Result(self._campaign, self._selection)
        return {**spectrum(self.result, self._histogram), "warning": ""}

    def _run(self, fresh: bool) -> None:
        """Take results from the engine until the last one or until asked to stop."""
        with _Ending(self._finish), _opened(self._client) as client:
            self._fresh = False  # only now, as there may have been no cluster
            results = engine.run(self._campaign, self._selection, client=client, fresh=fresh, **self._options)
            with contextlib.closing(results):
                for result in results:
                    self._land(result)
                    if self._stopping.is_set():
                        break

    def _keep_alive(self) -> None:
        """Send a sign of life now and then, also while no chunk lands."""
        while not self._idle.wait(SECONDS_PER_HEARTBEAT):
            self._beat()

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
        """Return in which phase a run has ended."""
        if self.error is not None:
            return "lost" if isinstance(self.error, engine.SchedulerLostError) else "failed"
        if self.result.complete:
            return "complete"
        return "stopped" if self._stopping.is_set() else "incomplete"

    def _trouble(self, error: BaseException) -> dict[str, str]:
        """Say what ended the run; if it is the cluster, how to go on with another one."""
        if not isinstance(error, engine.SchedulerLostError):
            return _problem(error)
        panel = isinstance(self._client, ClusterControl)
        how = "Launch a cluster, then press Resume" if panel else "Start another cluster and give it to start(client=…)"
        kept = f"; nothing that is counted is lost: it is in {self.ledger}" if self.ledger is not None else ""
        return {"what": files.redact(str(error)).partition("\n")[0], "remedy": f"{how}{kept}."}

    def _enter(self, phase: str, **changes: Any) -> None:
        """Change the phase, and what else has changed, in one message."""
        state = {**self.state, **changes, "phase": phase}
        self._change(**changes, phase=phase, words=_words(state))


def _session_folder() -> Path:
    """Make a folder that is removed when this process ends."""
    folder = tempfile.mkdtemp(prefix="higgsnb-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


@contextlib.contextmanager
def _opened(client: Any) -> Iterator[Any]:
    """Open what a live histogram was given as ``client``: who has a cluster is asked for a client of it.

    Raises
    ------
    SchedulerLostError
        If there is no cluster to be a client of.
    """
    if not hasattr(client, "get_client"):
        yield client
        return
    try:
        made = client.get_client()
    except (OSError, RuntimeError) as error:
        raise engine.SchedulerLostError(str(error).partition("\n")[0]) from error
    try:
        yield made
    finally:
        with contextlib.suppress(OSError, RuntimeError):  # its cluster may be gone
            made.close(timeout=SECONDS_TO_LET_GO)


def _words(state: State) -> str:
    """Say a state in one sentence or two, for screen readers."""
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


def estimate(
    campaign: Campaign | None,
    *,
    kind: str,
    workers: int,
    cores: int,
    idle_timeout: float,
    price_core_hour: float | None = None,
    price_gb: float | None = None,
) -> list[tuple[str, str]]:
    """Return what a cluster will take, as (what, how much): cores, time, core-hours, data, and costs where priced.

    The speed is that which ``higgsnb plan`` counts with. The price of a core-hour and of a GB of egress may be in any
    currency.
    """
    total = workers * cores
    lines = [("cores", f"{workers} × {cores} = {total}")]
    if price_core_hour is not None:
        lines.append(("while it is on", f"{_money(total * price_core_hour)} an hour"))
    lost = f"{_core_hours(total * idle_timeout, price_core_hour)}, as it ends when idle for {_span(idle_timeout)}"
    lines.append(("if forgotten", "it ends with this session" if kind == "local" else lost))
    if campaign is None:
        return lines
    return [*lines, *_work(campaign, total, price_core_hour), *_traffic(campaign, price_gb)]


def _work(campaign: Campaign, cores: int, price: float | None) -> list[tuple[str, str]]:
    """Return time and core-hours of a campaign on so many cores."""
    if campaign.events is None:
        return [("time", "not known: the catalogue does not say how many events there are")]
    seconds = campaign.events / engine.EVENTS_PER_CORE_SECOND[campaign.schema]
    lines = [("time", f"about {_span(max(1.0, seconds / cores))} for {campaign.events:,} events")]
    return [*lines, ("work", _core_hours(seconds, price))]


def _traffic(campaign: Campaign, price: float | None) -> list[tuple[str, str]]:
    """Return the volume that is read, and what its egress costs."""
    if campaign.bytes is None:
        return [("data", "not known: the catalogue does not say how large the files are")]
    volume = campaign.bytes * engine.READ_SHARE[campaign.schema] / 1e9
    lines = [("data", f"{volume:.3g} GB read")]
    return lines if price is None else [*lines, ("egress", f"at most {_money(volume * price)}")]


def _core_hours(core_seconds: float, price: float | None) -> str:
    """Return the work of so many seconds of one core, and its price if there is one."""
    number = f"{core_seconds / 3600:.2g}"
    hours = f"{number} core-hour{'' if number == '1' else 's'}"
    return hours if price is None else f"{hours} ({_money(core_seconds / 3600 * price)})"


def _money(amount: float) -> str:
    """Return an amount, never 0.00 for what costs something."""
    return "below 0.01" if 0 < amount < 0.01 else f"{amount:.2f}"


def _span(seconds: float) -> str:
    """Return a time in the unit that suits it."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


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
        state = {"kinds": [(kind, PLACES[kind]) for kind in clusters.KINDS], "why": "", "choice": choice}
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
            raise clusters.ClusterError("the panel has no cluster", "Press Launch, and wait until it is ready.")
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
        self._best, why = clusters.choose()
        self._change(why=f"{why[:1].upper()}{why[1:]}.", costs=self._costs())

    def _start(self, cancel: threading.Event) -> None:
        try:
            if self._closed:
                raise clusters.ClusterError("this panel is closed", "Make another one with widgets.ClusterControl().")
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
        kind = self._best if spec.kind == "auto" else spec.kind
        return estimate(
            self._campaign,
            kind=kind,
            workers=spec.workers,
            cores=spec.cores,
            idle_timeout=spec.idle_timeout,
            **self._prices,
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
        given = {**choice, "memory": clusters.parse_memory(choice["memory"])}
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
