"""Waiting with a timeout, which another thread can cancel."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import TypeVar

from higgsnb.errors import ClusterError

Value = TypeVar("Value")

POLL_SECONDS = 0.5
CLOSE_SECONDS = 90.0
"""Timeout of the removal of a cluster: the Dask operator usually takes a second or two, but may take a minute."""


def call_with_timeout(
    seconds: float,
    call: Callable[[], Value],
    what: str,
    *,
    on_late: Callable[[Value], object] | None = None,
    cancel: threading.Event | None = None,
) -> Value:
    """Return what ``call`` returns, if that is within ``seconds`` and before ``cancel`` is set.

    Otherwise the call goes on in a daemon thread, and ``on_late`` gets its result when it comes; the same after Ctrl-C.
    Where the interpreter can no longer start threads, the call runs in this one, without a timeout.

    Raises
    ------
    TimeoutError
        If it takes longer; the message names ``what``.
    ClusterError
        If ``cancel`` is set.
    """
    outcome: Future[Value] = Future()
    owner = threading.Lock()  # taken by the first of the two threads to end; the second one calls `on_late`

    def run() -> None:
        try:
            value = call()
        except BaseException as error:  # noqa: BLE001  raised again in the thread that waits
            outcome.set_exception(error)
            return
        outcome.set_result(value)
        if not owner.acquire(blocking=False) and on_late is not None:
            on_late(value)

    try:
        raise_if_cancelled(cancel)
        thread = threading.Thread(target=run, name=f"higgsnb: {what}", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # Python 3.12 and later start no threads while the interpreter shuts down
            run()
        return _result(outcome, seconds, what, cancel)
    except BaseException:
        if not owner.acquire(blocking=False) and on_late is not None:
            on_late(outcome.result())
        raise


def _result(outcome: Future[Value], seconds: float, what: str, cancel: threading.Event | None) -> Value:
    until = time.monotonic() + seconds
    while not wait([outcome], max(min(until - time.monotonic(), POLL_SECONDS), 0)).done:
        raise_if_cancelled(cancel)
        if time.monotonic() > until:
            raise TimeoutError(f"no answer in {seconds:.0f} s: {what}")
    return outcome.result()


def raise_if_cancelled(cancel: threading.Event | None) -> None:
    """Raise `ClusterError` if ``cancel`` is set."""
    if cancel is not None and cancel.is_set():
        raise ClusterError("start-up was cancelled", "Start again.")


def pause(cancel: threading.Event) -> None:
    """Wait `POLL_SECONDS`; raise `ClusterError` as soon as ``cancel`` is set."""
    cancel.wait(POLL_SECONDS)
    raise_if_cancelled(cancel)
