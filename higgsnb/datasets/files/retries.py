"""The policy of retries: how long a source is waited for, and how often it is tried; the loops are in `transfer`."""

from __future__ import annotations

import random
import threading
import time

from higgsnb.datasets.files.addresses import Address
from higgsnb.datasets.files.request import FileRequest, SourceError, UnknownHostError, active_tries
from higgsnb.redaction import logger

log = logger(__name__)

TIMEOUT = 20.0  # s in which a body must bring at least TIMEOUT * LEAST_RATE bytes
LEAST_RATE = 1000.0  # bytes/s
HEAD_TIMEOUTS = 1.5  # so many TIMEOUT for all that comes before the body: connection, redirects, headers
UNANNOUNCED_TIMEOUTS = 5.0  # so many TIMEOUT for a whole body whose length the server does not say
TRIES = 6  # of one source, unless a try made good progress
TRIES_TIMEOUT = 60.0  # s in tries of one source that brought nothing, without the waits between them
BACKOFF = 0.5  # s before the second try; doubles with each
BACKOFF_MAX = 30.0  # s
RETRY_AFTER_MAX = 120.0  # s; a longer Retry-After of a server is cut to this
GOOD_PROGRESS = 64 * 2**20  # bytes: a try that brought as many does not count as failed

_counting = threading.Lock()


class Pace:
    """How long one request is waited for: its head in total, its body as long as it comes at the least rate.

    Of the body only the time counts that is spent waiting for bytes, not what the caller does with them.
    """

    def __init__(self) -> None:
        self._head_until: float | None = time.monotonic() + HEAD_TIMEOUTS * TIMEOUT
        self._waited, self._received = 0.0, 0

    def begin_body(self) -> None:
        """End the time for the head."""
        self._head_until, self._waited, self._received = None, 0.0, 0

    def timeout(self) -> float:
        """Return how long the next bytes may take, in s; `SourceError` if they are late already."""
        left = TIMEOUT - self._waited
        if self._head_until is not None:
            left = min(TIMEOUT, self._head_until - time.monotonic())
        if left <= 0:
            raise self._late()
        return left

    def received(self, size: int, seconds: float) -> None:
        """Note how many bytes came in so many seconds of waiting; `SourceError` if they are too few."""
        self._received += size
        if self._head_until is not None:
            if not size:
                raise self._late()
            return
        self._waited += seconds
        if self._waited >= TIMEOUT:
            if self._received < LEAST_RATE * TIMEOUT:
                raise self._late()
            self._waited, self._received = 0.0, 0

    def _late(self) -> SourceError:
        if not self._received:
            what = f"no byte for {TIMEOUT:g} s"
        elif self._head_until is not None:
            what = f"no complete head of an answer in {HEAD_TIMEOUTS * TIMEOUT:g} s"
        else:
            what = f"only {self._received} bytes in {TIMEOUT:g} s"
        return SourceError("transient", what, "Check the network, then run again.")


class Retries:
    """The failed tries of one source: waits before the next one, and gives up when they lead nowhere.

    ``file`` is the address under which they are counted, that of the request if None.
    """

    def __init__(self, source: Address, request: FileRequest, file: Address | None = None) -> None:
        self.source, self.name = source, request.address.name
        self.file = str(request.address if file is None else file)
        self.tries = active_tries.get(request.tries)
        self.others = request.mirror is None and source in request.sources[:-1]
        self.failures, self.seconds, self.started = 0, 0.0, time.monotonic()

    def failed(self, failure: SourceError, *, received: int = 0) -> None:
        """Wait before the next try; raise a permanent `SourceError` if there is none. ``received`` is in bytes.

        The wait is Retry-After if the server gave it, else it doubles with each failure, with random jitter.
        """
        if received >= GOOD_PROGRESS:
            self.failures, self.seconds = 0, 0.0
        else:
            self.failures, self.seconds = self.failures + 1, self.seconds + time.monotonic() - self.started
        if self.failures >= TRIES or self.seconds > TRIES_TIMEOUT:
            raise SourceError("permanent", f"{failure.reason}, {self.failures} tries", failure.hint) from None
        if self.others and isinstance(failure, UnknownHostError):
            raise failure from None
        with _counting:
            self.tries[self.file] = max(self.failures + 1, self.tries.get(self.file, 0))
        log.info("%s: %s, trying %s again", self.name, failure.reason, self.source)
        jitter = random.uniform(0.5, 1.0)  # noqa: S311 # nosec B311: no secret depends on it
        wait = min(BACKOFF * 2.0 ** max(self.failures - 1, 0), BACKOFF_MAX) * jitter
        time.sleep(wait if failure.wait is None else min(failure.wait, RETRY_AFTER_MAX))
        self.started = time.monotonic()
