"""What the two providers of a `Cluster` share: Dask's own classes, and the Dask operator on Kubernetes."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from dataclasses import dataclass
from importlib import util
from typing import TYPE_CHECKING

from higgsnb.cluster.waiting import call_with_timeout
from higgsnb.errors import ClusterError

if TYPE_CHECKING:
    from distributed import Client


@dataclass(frozen=True)
class Problem:
    """Why a cluster is not ready, in the words of Dask or Kubernetes, and what to do about it.

    ``timeout`` is how long it may last, in seconds, before it counts as final: 0 for what cannot clear by itself.
    ``log_of`` is the pod whose log says more. ``some_may_come``: it keeps some workers away, others may still come.
    """

    reason: str
    hint: str
    timeout: float = 0.0
    log_of: str = ""
    some_may_come: bool = False


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


def not_ready(found: Problem | None, deadline: float, name: str) -> ClusterError:
    """Return the error of a cluster that is not ready by its deadline (s)."""
    if found:
        return ClusterError(found.reason, found.hint)
    message = f"{name} was not ready in {deadline:.0f} s, for no known reason"
    return ClusterError(message, "Allow more time (deadline=), or look at its pods or jobs.")


def close_client(client: Client) -> None:
    """Close a client, whatever state it is in."""
    with suppress(OSError, RuntimeError, TimeoutError):
        call_with_timeout(10, lambda: client.close(timeout=3), "closing a client")


def dashboard_link(address: str) -> str:
    """Return the dashboard at host:port for a browser, in a hub through its proxy; empty without address or bokeh."""
    if not address or util.find_spec("bokeh") is None:
        return ""
    prefix = os.environ.get("JUPYTERHUB_SERVICE_PREFIX")
    if not prefix:
        return f"http://{address}/status"
    host, _, port = address.rpartition(":")
    return f"{prefix}proxy/{port if host in {'127.0.0.1', 'localhost'} else address}/status"
