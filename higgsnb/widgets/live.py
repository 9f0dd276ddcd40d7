"""A spectrum that grows while a campaign is analysed."""

from __future__ import annotations

import atexit
import contextlib
import shutil
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

from higgsnb import datasets, engine, errors, plots, results, statistics
from higgsnb.results import Result
from higgsnb.widgets.control import ClusterControl
from higgsnb.widgets.view import State, View, describe_error, error_of, static

if TYPE_CHECKING:
    from higgsnb.datasets import Campaign
    from higgsnb.selection import Analysis

SECONDS_PER_HEARTBEAT = 20.0
"""Interval of heartbeats: hubs end sessions that send nothing (mybinder.org after 600 s)."""
SECONDS_OF_PACE = 20.0
"""The event rate is averaged over the last so many seconds."""
MOST_FAILURES_SHOWN = 50
CLOSE_CLIENT_SECONDS = 3
"""Timeout for closing a client."""
PHASES = {
    "ready": "Ready to start",
    "starting": "Starting",
    "running": "Running",
    "stopping": "Stopping",
    "stopped": "Stopped; finished chunks are kept",
    "complete": "Complete",
    "incomplete": "Finished, but not complete",
    "lost": "No cluster",
    "failed": "Failed",
}
"""The phases of a run, in words."""

Floats = npt.NDArray[np.float64]


def spectrum(result: Result, histogram: str = "", region: str = "") -> State:
    """Return what `LiveHistogram` draws of a result, as plain JSON.

    ``edges`` (bins + 1); ``data``: counts and central 68.27 % Poisson intervals, None without data; ``stack``: the
    expected events of each process, from bottom to top; ``total`` and ``error`` (bins): their sum and its statistical
    uncertainty; ``coverage``, ``percent`` and ``warning`` (empty if the result is complete).

    Raise KeyError if there is no such histogram or region; the message lists the known ones.
    """
    binning, found = result.layout.binning, result.region_spectrum(histogram, region)
    axis = binning.axis(histogram or binning.axes[0].name)
    processes = results.stack_order(found.stack)
    others = [process for process in processes if process not in plots.COLOURS]
    shown = [region or result.regions[0]] if binning.category != "channel" and len(result.regions) > 1 else []
    done, total = result.coverage.events
    failed = [failure.as_dict() for failure in result.failed[:MOST_FAILURES_SHOWN]]
    data = None
    if found.data is not None:
        label, (low, high) = "Simulated data" if result.simulated else "Data", statistics.garwood(found.data)
        bars = {"counts": found.data.tolist(), "low": _rounded(low), "high": _rounded(high)}
        data = {"label": label, "sum": int(found.data.sum()), **bars}
    return {
        "heading": plots.heading(result),
        "luminosity": plots.luminosity_label(result),
        "title": ", ".join([f"{result.campaign.title} — selection {result.selection.name}", *shown]),
        "warning": plots.coverage_text(result),
        "percent": "100 %" if result.complete else plots.percent(done, total) if total else "0 %",
        "axis": {"variable": axis.title, "heights": plots.per_bin_label(axis, axis.title)},
        "edges": axis.edges.tolist(),
        "data": data,
        "stack": [
            {
                "process": process,
                "label": plots.LABELS.get(process, process),
                "colour": plots.colour(process, others),
                "heights": _rounded(found.stack[process]),
                "sum": float(found.stack[process].sum()),
            }
            for process in processes
        ],
        "total": _rounded(found.total),
        "error": _rounded(np.sqrt(found.variance)),
        "coverage": result.coverage._asdict(),
        "failed": [{"hint": one.pop("remedy"), **one} for one in failed],
        "failed_total": len(result.failed),
    }


def _rounded(values: Floats) -> list[float]:
    """Return values rounded to 1e-5 events: far finer than a pixel, at a third of the bytes."""
    return cast("list[float]", np.round(values, 5).tolist())


@dataclass
class Pace:
    """The event rate over the last `SECONDS_OF_PACE`."""

    _marks: deque[tuple[float, int]] = field(default_factory=deque)

    def add(self, now: float, done: int) -> None:
        """Record that ``done`` events have been counted at the time ``now`` in seconds."""
        self._marks.append((now, done))
        while len(self._marks) > 2 and now - self._marks[1][0] >= SECONDS_OF_PACE:
            self._marks.popleft()

    @property
    def rate(self) -> float | None:
        """Events per second; None before the second record or without progress."""
        if len(self._marks) < 2:
            return None
        (begun, first), (now, last) = self._marks[0], self._marks[-1]
        return (last - first) / (now - begun) if last > first and now > begun else None

    def seconds_left(self, total: float) -> float | None:
        """Return the seconds until ``total`` events are counted at this rate; None without a rate."""
        return None if self.rate is None else max(0.0, total - self._marks[-1][1]) / self.rate


class LiveHistogram(View):
    """A stacked spectrum that grows while a campaign is analysed, with buttons to start, stop and resume.

    ``histogram`` is one of the keys of `Result.histograms` (default: the first), ``region`` one of `Result.regions`
    (default: as `Result.region_spectrum`). The client is that of `engine.run`; or a `ClusterControl`,
    a `Cluster` or a Dask cluster, whose ``get_client`` is called at each start, so that Resume uses the panel's current
    cluster. The other options are those of `engine.run`: by default the ledger is in a temporary folder, and a stopped
    run can be resumed until this process ends; with ``ledger=None`` a stopped run starts over. ``fresh`` applies to the
    first start only.

    Attributes
    ----------
    result
        The latest `Result`: empty at first, partial during the run.
    ledger
        The file that records finished chunks, or None. Another widget or `engine.run` can resume from it.
    error
        The exception that ended the last run, or None; it is shown with its hint.
    """

    _esm = static("elements.js", "live_histogram.js")
    _css = static("widgets.css")

    def __init__(
        self,
        campaign: Campaign | str,
        selection: Analysis,
        *,
        histogram: str = "",
        region: str = "",
        client: Any = None,
        **options: Any,
    ) -> None:
        self.result: Result
        self._campaign, self._selection = datasets.load(campaign), selection.pinned()
        self._shown = (histogram, region)
        self._client = client
        self._own_ledger = "ledger" not in options
        if self._own_ledger:
            options["ledger"] = None
            with contextlib.suppress(OSError):  # without a folder for temporary files it cannot resume
                folder = tempfile.mkdtemp(prefix="higgsnb-")
                atexit.register(shutil.rmtree, folder, ignore_errors=True)
                options["ledger"] = Path(folder) / "ledger.sqlite"
        self.ledger: Path | None = options["ledger"]
        self._fresh = options.pop("fresh", False)
        self._options = options
        self._stopping = threading.Event()
        self._pace = Pace()
        state = {**self._blank(), "phase": "ready", "problem": None, "rate": None, "seconds_left": None}
        state |= {"resumable": self.ledger is not None, "words": _words(state)}
        super().__init__(state, {"start": lambda _: self.start(), "stop": lambda _: self.stop()})
        self._idle.set()

    def __repr__(self) -> str:
        state = self.state
        return f"LiveHistogram({self._campaign.name}, {self._selection.name}: {state['words']})"

    def _still(self) -> Any:
        return plots.plot_spectrum(self.result, *self._shown)

    def start(self, *, client: Any = None) -> None:
        """Start or resume the run in a thread; do nothing if it is running.

        ``client`` replaces the current client, for instance after a cluster was lost; None keeps it.
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
        for target in (lambda: self._finish(error_of(partial(self._run, fresh))), self._keep_alive):
            threading.Thread(target=target, name="higgsnb-live", daemon=True).start()

    def stop(self) -> None:
        """Stop the run after the chunks in flight; finished chunks stay in the ledger."""
        with self._changing:
            if not self._idle.is_set():
                self._stopping.set()
                self._enter("stopping")

    def close(self) -> None:
        """Stop the run and remove the widget from the page."""
        self.stop()
        super().close()

    def _blank(self) -> State:
        """Discard the result; return the state of a run before its first chunk."""
        self.result = Result(self._campaign, self._selection)
        return {**spectrum(self.result, *self._shown), "warning": ""}

    def _run(self, fresh: bool) -> None:
        """Show the results of the engine as they arrive, until the last one or until `stop`."""
        with _opened(self._client) as client:
            self._fresh = False  # only now: without a cluster, the next start is the first one
            results = engine.run(self._campaign, self._selection, client=client, fresh=fresh, **self._options)
            with contextlib.closing(results):
                for result in results:
                    self._pace.add(time.monotonic(), result.coverage.events[0])
                    left = self._pace.seconds_left(result.coverage.events[1] * self._options.get("fraction", 1.0))
                    self.result = result
                    with self._changing:
                        phase = "stopping" if self._stopping.is_set() else "running"
                        shown = spectrum(result, *self._shown)
                        self._enter(phase, **shown, rate=self._pace.rate, seconds_left=left)
                    if self._stopping.is_set():
                        break

    def _keep_alive(self) -> None:
        """Send heartbeats until the run ends."""
        while not self._idle.wait(SECONDS_PER_HEARTBEAT):
            with self._changing:
                self.heartbeat += 1

    def _finish(self, error: BaseException | None) -> None:
        """Show how the run ended."""
        self.error = error
        with self._changing:
            try:
                if isinstance(error, errors.SchedulerLostError):
                    panel = isinstance(self._client, ClusterControl)
                    another = "Launch a cluster, then press Resume."
                    hint = another if panel else "Start another cluster and call start(client=…)."
                    kept = "" if self.ledger is None else f" Finished chunks are kept in {self.ledger}."
                    self._enter("lost", problem={"what": datasets.redact(error.message), "hint": f"{hint}{kept}"})
                elif error is not None:
                    self._enter("failed", problem=describe_error(error))
                else:
                    ended = "stopped" if self._stopping.is_set() else "incomplete"
                    self._enter("complete" if self.result.complete else ended, problem=None)
            finally:
                self._idle.set()

    def _enter(self, phase: str, **changes: Any) -> None:
        """Change the phase and other entries in one message."""
        state = {**self.state, **changes, "phase": phase}
        self._change(**changes, phase=phase, words=_words(state))


@contextlib.contextmanager
def _opened(client: Any) -> Iterator[Any]:
    """Yield the given client, or a new one of a cluster or panel, closed at the end; raise SchedulerLostError."""
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
        with contextlib.suppress(OSError, RuntimeError):  # the cluster may be gone
            made.close(timeout=CLOSE_CLIENT_SECONDS)


def _words(state: State) -> str:
    """Return the state in one or two sentences, for screen readers."""
    phase = PHASES[state["phase"]]
    if state["problem"] is not None:
        return f"{phase}: {state['problem']['what'].rstrip('.')}. {state['problem']['hint']}"
    predicted = sum(layer["sum"] for layer in state["stack"])
    found = [f"{predicted:.1f} events expected"]
    if state["data"] is not None:
        found.insert(0, f"{state['data']['sum']} events of {state['data']['label'].lower()}")
    n = state["failed_total"]
    failed = f" {n} file{'s' if n > 1 else ''} failed." if n else ""
    return f"{phase}: {state['percent']} of the events counted. {', '.join(found)}.{failed}"
