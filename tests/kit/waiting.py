"""Waiting for what another thread or process does."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any


def wait_for(condition: Callable[[], Any], what: str, seconds: float = 30) -> Any:
    """What a condition returns once it holds; a failure that names it when the time is over."""
    until, pause = time.monotonic() + seconds, threading.Event()
    while not (found := condition()):
        assert time.monotonic() < until, f"not within {seconds} s: {what}"
        pause.wait(0.1)
    return found
