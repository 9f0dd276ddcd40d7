"""A web server that fails a share of all requests, drawn from counters, so that every run has the same faults."""

from __future__ import annotations

import hashlib
import threading
from collections import Counter, defaultdict

from http_server import Fault, FileServer, Seen

MOST_IN_A_ROW = 5
"""A fault that lasts longer than the six tries of a transfer is not transient."""
PORTAL, STORE = "/portal/", "/store/"
"""Requests below the first are redirected to a signed address below the second."""

KINDS: dict[str, Fault] = {
    "503": Fault(status=503),
    "429": Fault(status=429, headers={"Retry-After": "0"}),
    "429 after 1 s": Fault(status=429, headers={"Retry-After": "1"}),
    "dropped body": Fault(drop_after=300),
    "dropped at once": Fault(drop_after=0),
    "reset": Fault(reset=True),
    "stall": Fault(stall=True),
    "short 206": Fault(short=100),
    "expired 403": Fault(status=403),
    "expired 401": Fault(status=401),
}


class ChaosServer(FileServer):
    """A `FileServer` with a ``share`` of faulty answers.

    Whether the n-th request for a part of a file fails, and how, depends only on ``seed``, path, part and n, not on the
    order of the threads. `PORTAL` redirects to signed addresses, to another one each time; one that was refused as
    expired is refused from then on.
    """

    def __init__(self, seed: int, share: float = 0.3) -> None:
        super().__init__()
        self.seed, self.share = seed, share
        self.met: Counter[str] = Counter()
        self.n_requests = 0
        self._numbers: Counter[tuple[str, str]] = Counter()
        self._in_a_row: defaultdict[tuple[str, str], int] = defaultdict(int)
        self._expired: set[str] = set()
        self._signed = 0
        self._choosing = threading.Lock()

    def forget(self, *, share: float) -> None:
        """Start again with another share of faults."""
        with self._choosing:
            self.share, self.n_requests = share, 0
            self.met.clear()
            self._numbers.clear()
            self._in_a_row.clear()

    def choose(self, seen: Seen, path: str) -> Fault | None:
        with self._choosing:
            self.n_requests += 1
            if seen.path in self._expired:
                return Fault(status=403)
            fault = self._drawn(seen, path)
            if fault is None and path.startswith(PORTAL):
                self._signed += 1
                return Fault(status=302, headers={"Location": f"{_stored(path)}?sig={self._signed}"})
            return fault

    def _drawn(self, seen: Seen, path: str) -> Fault | None:
        """Return the fault of this request, None for a good answer."""
        part = seen.headers.get("range", "")
        key = (_stored(path), "" if part.endswith("-") else part)  # a resumed transfer is the same transfer
        self._numbers[key] += 1
        luck = hashlib.blake2b(f"{self.seed} {key} {self._numbers[key]}".encode(), digest_size=8).digest()
        if int.from_bytes(luck[:4]) >= self.share * 2**32 or self._in_a_row[key] >= MOST_IN_A_ROW:
            if not path.startswith(PORTAL):
                self._in_a_row[key] = 0
            return None
        self._in_a_row[key] += 1
        possible = [name for name in KINDS if _is_possible(name, path, part)]
        name = possible[int.from_bytes(luck[4:]) % len(possible)]
        self.met[name] += 1
        if name.startswith("expired"):
            self._expired.add(seen.path)
        return KINDS[name]


def _stored(path: str) -> str:
    """The path to which a request is redirected, if it is."""
    return STORE + path.removeprefix(PORTAL) if path.startswith(PORTAL) else path


def _is_possible(name: str, path: str, part: str) -> bool:
    """Whether this kind of fault can occur for a request for this part of a file."""
    if name.startswith("expired"):
        return path.startswith(STORE)
    if path.startswith(PORTAL) and KINDS[name].status is None and name not in ("reset", "stall"):
        return False  # a redirect has no body
    if name in ("short 206", "dropped body") and part == "bytes=0-0":
        return False
    return name != "short 206" or bool(part)  # for a whole file, a shorter length means another file
