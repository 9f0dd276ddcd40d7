"""The interface between a `Cluster` and what runs it: Dask's own classes, or the Dask operator on Kubernetes."""

from __future__ import annotations

import os
import threading
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from importlib import util
from typing import TYPE_CHECKING, Protocol

from higgsnb.cluster.waiting import call_with_timeout
from higgsnb.errors import ClusterError

if TYPE_CHECKING:
    from distributed import Client


@dataclass(frozen=True)
class Problem:
    """Why a cluster is not ready, in the words of Dask or Kubernetes, and what to do about it.

    ``timeout`` is how long it may last, in seconds, before it counts as final: 0 for what cannot clear by itself.
    """

    reason: str
    hint: str
    timeout: float = 0.0


class ProblemTimer:
    """Measures how long the same problem has lasted."""

    def __init__(self) -> None:
        self._hint, self._since = "", 0.0

    def is_final(self, found: Problem | None) -> bool:
        """Whether this problem has lasted longer than its timeout."""
        hint = found.hint if found else ""  # not the reason, which may count attempts
        if hint != self._hint:
            self._hint, self._since = hint, time.monotonic()
        return found is not None and time.monotonic() - self._since >= found.timeout


class Provider(Protocol):
    """What differs between the kinds: how a cluster is made, queried, scaled and removed."""

    name: str

    def start(self, until: float, report: Callable[[Problem | None], None], cancel: threading.Event) -> None:
        """Start the cluster and return when its scheduler answers.

        ``until`` is a time of `time.monotonic`. Raises `ClusterError` by then, or soon after ``cancel`` is set.
        """

    def client(self, *, default: bool) -> Client:
        """Return a new client; ``default``: Dask uses it where no client is named."""

    def dashboard(self) -> str:
        """Return the address of the dashboard for the browser; empty if there is none."""

    def problem(self) -> Problem | None:
        """Return what keeps workers from being ready, if it is known."""

    def gone(self) -> str:
        """Return why the cluster is no longer there; empty while it is."""

    def scale(self, workers: int) -> None:
        """Ask for a number of workers."""

    def adapt(self, minimum: int, maximum: int) -> None:
        """Let the number of workers follow the load."""

    def logs(self) -> dict[str, str]:
        """Return the end of each log, by name."""

    def close(self, seconds: float) -> None:
        """Remove everything; may be called again if that failed."""


def not_ready(found: Problem | None, deadline: float, name: str) -> ClusterError:
    """Return the error of a cluster that is not ready by its deadline (s)."""
    if found:
        return ClusterError(found.reason, found.hint)
    return ClusterError(
        f"{name} was not ready in {deadline:.0f} s, for no known reason",
        "Allow more time (deadline=), or look at its pods or jobs.",
    )


def connect(address: str, *, default: bool) -> Client:
    """Return a client of the scheduler at an address; one that loses its connection reconnects for a minute."""
    from distributed import Client
    from distributed.versions import VersionMismatchWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", VersionMismatchWarning)  # `Cluster.start` raises an error instead
        return Client(address, timeout=60, set_as_default=default)


def close_client(client: Client) -> None:
    """Close a client, whatever state it is in."""
    with suppress(OSError, RuntimeError, TimeoutError):
        call_with_timeout(10, lambda: client.close(timeout=3), "closing a client")


def dashboard_link(address: str) -> str:
    """Return the dashboard's address for a browser: through the hub's proxy in a hub; empty without bokeh.

    ``address`` is host and port.
    """
    if not address or util.find_spec("bokeh") is None:
        return ""
    prefix = os.environ.get("JUPYTERHUB_SERVICE_PREFIX")
    if not prefix:
        return f"http://{address}/status"
    host, _, port = address.rpartition(":")
    return f"{prefix}proxy/{port if host in {'127.0.0.1', 'localhost'} else address}/status"
