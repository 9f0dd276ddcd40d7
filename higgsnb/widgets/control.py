"""A panel that starts, scales, describes and stops a Dask cluster."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from higgsnb import cluster as clusters
from higgsnb import datasets, engine, errors
from higgsnb.cluster import KINDS, ClusterSpec, check_workers, choose
from higgsnb.plots import Table
from higgsnb.widgets.view import State, View, describe_error, error_of, static

if TYPE_CHECKING:
    from higgsnb.cluster import Cluster, ClusterState
    from higgsnb.datasets import Campaign

SECONDS_BETWEEN_CHECKS = 0.2
"""How often the end of the interpreter is checked for while a cluster is being started or stopped."""
KIND_LABELS = {
    "auto": "automatic",
    "local": "this machine",
    "kubernetes": "Kubernetes",
    "gateway": "Dask Gateway",
    "slurm": "Slurm",
    "htcondor": "HTCondor",
}
"""What each of `cluster.KINDS` is called in the panel."""


def web_address(text: str) -> str:
    """Return an http(s) address or an absolute path unchanged, an empty string for anything else."""
    parts = urlsplit(text)
    good = bool(parts.hostname) if parts.scheme in ("http", "https") else re.match(r"/(?!/)", text) is not None
    return text if good else ""


class ClusterControl(View):
    """A panel that starts, scales, describes and stops a Dask cluster.

    The campaign is for the estimate of time and data, the prices, in any currency, for that of costs. ``launch`` starts
    the cluster: `cluster.launch`, or a function like it that returns soon after ``cancel`` is set. Of its options
    ``kind``, ``workers``, ``cores`` and ``memory`` are the initial choice in the panel (OptionError if one is out of
    range); the others are passed on.

    Attributes
    ----------
    cluster
        The `Cluster`, or None; one that has failed is kept until the next launch, for its state and reason.
    error
        The exception that ended the last action, or None; it is shown with its hint.
    """

    _esm = static("elements.js", "cluster_control.js")
    _css = static("widgets.css")

    def __init__(
        self,
        *,
        campaign: Campaign | str | None = None,
        price_core_hour: float | None = None,
        price_gb: float | None = None,
        launch: Callable[..., Cluster] = clusters.launch,
        **options: Any,
    ) -> None:
        self.cluster: Cluster | None = None
        self._launch = launch
        choice: State = {"kind": "auto", "workers": 2, "cores": 1, "memory": "2GiB"}
        choice |= {name: options.pop(name) for name in choice if options.get(name) is not None}
        self._options = options
        self._spec_of = partial(ClusterSpec.parse, idle_timeout=options.get("idle_timeout", 900))
        self._spec = self._spec_of(**choice)
        self._campaign = None if campaign is None else datasets.load(campaign)
        self._prices = {"price_core_hour": price_core_hour, "price_gb": price_gb}
        self._last: threading.Thread | None = None
        self._pending = 0
        self._cancel: threading.Event | None = None  # of a start that is queued or in progress
        self._closed = False
        self._best = "auto"
        actions = {
            "choose": self._choose,
            "launch": lambda _: self.launch(),
            "scale": lambda content: self._act_on(self.scale, content, "workers"),
            "adapt": lambda content: self._act_on(self.adapt, content, "minimum", "maximum"),
            "logs": lambda _: self.show_logs(),
            "stop": lambda _: self.stop(),
        }
        state = {"kinds": [(kind, KIND_LABELS[kind]) for kind in KINDS], "why": "", "choice": choice}
        rest = {"cluster": None, "busy": "", "problem": None, "logs": None, "dashboard": ""}
        super().__init__({**state, **rest, "costs": self._costs()}, actions)
        self._begin("checking where a cluster can run", self._choose_best)

    def __repr__(self) -> str:
        found = self.state["cluster"]
        return f"ClusterControl({found['phase'] if found else 'no cluster'})"

    def _still(self) -> Table:
        return Table(
            ("cluster", self.state["cluster"]["phase"] if self.state["cluster"] else "none"), self.state["costs"]
        )

    def launch(self) -> None:
        """Start the chosen cluster in a thread; do nothing if a cluster exists or is being started."""
        with self._changing:
            alive = self.cluster is not None and self.cluster.state.phase not in ("closed", "failed")
            if self._cancel is None and not alive:
                self._cancel = cancel = threading.Event()
                _keep_alive(self._begin("starting the cluster", partial(self._start, cancel)), cancel)

    def get_client(self) -> Any:
        """Return a new `distributed.Client`, which becomes Dask's default; it is closed with the cluster.

        Raise ClusterError if there is no cluster, or it has failed.
        """
        cluster = self.cluster
        if cluster is None:
            raise errors.ClusterError("the panel has no cluster", "Press Launch and wait until the cluster is ready.")
        return cluster.get_client()

    def scale(self, workers: int) -> None:
        """Scale to a number of workers, and stop automatic scaling."""
        self._begin_on_cluster(f"scaling to {workers} workers", lambda cluster: cluster.scale(workers))

    def adapt(self, minimum: int, maximum: int) -> None:
        """Scale automatically with the amount of work."""
        what = f"setting automatic scaling to {minimum}–{maximum} workers"
        self._begin_on_cluster(what, lambda cluster: cluster.adapt(minimum, maximum))

    def show_logs(self) -> None:
        """Fetch the logs of the scheduler and the workers, and show them."""
        self._begin_on_cluster("fetching the logs", lambda cluster: self._change(logs=cluster.logs()))

    def stop(self) -> None:
        """Cancel a start or stop the cluster, in a thread; another one can be started afterwards."""
        with self._changing:
            if self._cancel is not None:
                self._cancel.set()
            _keep_alive(self._begin("stopping the cluster", self._stop))

    def close(self) -> None:
        """Cancel a start, stop the cluster, wait until it is gone, and remove the panel from the page."""
        with self._changing:
            self._closed = True
            if self._cancel is not None:
                self._cancel.set()
        self.wait()
        self._stop()
        super().close()

    def _choose_best(self) -> None:
        self._best, why = choose()
        self._change(why=f"{why[:1].upper()}{why[1:]}.", costs=self._costs())

    def _start(self, cancel: threading.Event) -> None:
        try:
            if self._closed:
                raise errors.ClusterError("this panel is closed", "Make a new one with widgets.ClusterControl().")
            self._drop()
            self.cluster = self._launch(**self.state["choice"], **self._options, on_state=self._follow, cancel=cancel)
        finally:
            with self._changing:
                self._cancel = None
        self._follow(self.cluster.state)

    def _stop(self) -> None:
        self._drop()
        self._change(logs=None)

    def _drop(self) -> None:
        """Close the cluster, also a failed one, and forget it."""
        cluster, self.cluster = self.cluster, None
        if cluster is not None:
            cluster.close()
            self._follow(cluster.state)

    def _begin_on_cluster(self, what: str, action: Callable[[Cluster], None]) -> None:
        """Queue an action on the cluster that there is by then; without one it does nothing."""
        self._begin(what, lambda: None if self.cluster is None else action(self.cluster))

    def _begin(self, what: str, action: Callable[[], None]) -> threading.Thread:
        """Queue an action behind the earlier ones and show that it is in progress."""
        with self._changing:
            self.error = None
            self._pending += 1
            self._idle.clear()
            self._change(busy=what, problem=None)
            before = self._last

            def perform() -> None:
                if before is not None:
                    before.join()
                error = error_of(action)
                with self._changing:
                    self.error = error
                    self._pending -= 1
                    try:
                        busy = self.state["busy"] if self._pending else ""
                        self._change(busy=busy, problem=None if error is None else describe_error(error))
                    finally:
                        if not self._pending:
                            self._idle.set()

            self._last = threading.Thread(target=perform, name="higgsnb-panel", daemon=True)
            self._last.start()
            return self._last

    def _follow(self, state: ClusterState) -> None:
        """Show the state of the cluster; called from any thread."""
        link = web_address(state.dashboard) if state.phase in ("ready", "scaling") else ""
        self._change(cluster=state.as_dict(), dashboard=link)

    def _costs(self) -> list[tuple[str, str]]:
        """Estimate time and costs of the chosen cluster."""
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
        choice = {name: content.get(name, before) for name, before in self.state["choice"].items()}
        try:
            self._spec = self._spec_of(**choice)
        except ValueError as error:
            self._change(problem=describe_error(error))
        else:
            self._change(choice=choice, costs=self._costs(), problem=None)

    def _act_on(self, action: Callable[..., None], content: State, *names: str) -> None:
        """Run an action with numbers from a form, or show what is wrong with them."""
        try:
            for name in names:
                check_workers(name, content.get(name), least=0)
            action(*(content[name] for name in names))
        except ValueError as error:
            self._change(problem=describe_error(error))


def _keep_alive(action: threading.Thread, cancel: threading.Event | None = None) -> None:
    """Keep the interpreter alive until a cluster is removed: when it ends, cancel a start, complete a stop.

    This is a thread because `atexit` is too late: by then the interpreter starts no threads and runs no executors, and
    the removal needs both. Python 3.12 starts none from the end of the main thread on: see `call_with_timeout`.
    """

    def wait() -> None:
        while action.is_alive() and threading.main_thread().is_alive():
            action.join(SECONDS_BETWEEN_CHECKS)
        if cancel is not None and action.is_alive():
            cancel.set()
        action.join(clusters.CLOSE_SECONDS)

    threading.Thread(target=wait, name="higgsnb-keep-alive", daemon=False).start()
