"""The policy of retries: how long a source is waited for, and how often it is tried; the loops are in `transfer`."""

from __future__ import annotations

import random
import threading
import time

from higgsnb.datasets.files.addresses import Address
from higgsnb.datasets.files.request import FileRequest, SourceError, UnknownHostError, active_tries
from higgsnb.redaction import logger

log = logger(__name__)

TIMEOUT = 20.0  # s without a single byte
TRIES = 6  # of one source, unless a try made good progress
TRIES_TIMEOUT = 60.0  # s in tries of one source that brought nothing, without the waits between them
BACKOFF = 0.5  # s before the second try; doubles with each
BACKOFF_MAX = 30.0  # s
RETRY_AFTER_MAX = 120.0  # s; a longer Retry-After of a server is cut to this
GOOD_PROGRESS = 64 * 2**20  # bytes: a try that brought as many does not count as failed

_counting = threading.Lock()


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
