"""The Kubernetes API, with a timeout on each request, and what this session knows about its cluster."""

from __future__ import annotations

import asyncio
import errno
import getpass
import hashlib
import json
import os
import platform
import re
import threading
import time
import warnings
from collections.abc import Collection, Coroutine, Mapping
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from higgsnb.datasets import redact
from higgsnb.errors import ApiError
from higgsnb.storage import expanded

Object = dict[str, Any]
Value = TypeVar("Value")
GROUP = "kubernetes.dask.org"
SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
REQUEST_SECONDS = 20.0
"""Requests are retried for so long while the API server is busy, restarting or unreachable."""
RETRIED = (429, 500, 502, 503, 504)


def in_cluster() -> bool:
    """Whether this process runs in a pod that may talk to the Kubernetes API."""
    return "KUBERNETES_SERVICE_HOST" in os.environ and (SERVICE_ACCOUNT / "token").is_file()


def configured() -> bool:
    """Whether a cluster is known, from inside a pod or from a kubeconfig."""
    paths = os.environ.get("KUBECONFIG", "~/.kube/config").split(os.pathsep)
    return in_cluster() or any(path and expanded(path).is_file() for path in paths)


def own_namespace() -> str:
    """Return the namespace of this pod."""
    return (SERVICE_ACCOUNT / "namespace").read_text(encoding="ascii").strip()


def default_image() -> str:
    """Return the image of this session, which the workers use by default; empty outside a hub."""
    return os.environ.get("JUPYTER_IMAGE_SPEC") or os.environ.get("JUPYTER_IMAGE", "")


def user_label() -> str:
    """Return the name of the user as a label value: readable, and unique by a hash."""
    user = os.environ.get("JUPYTERHUB_USER") or f"{getpass.getuser()}-{platform.node()}"
    readable = re.sub(r"[^A-Za-z0-9]+", "-", user)[:40].strip("-")
    return f"{readable or 'user'}-{hashlib.sha256(user.encode()).hexdigest()[:8]}"


class Api:
    """The Kubernetes API, with a timeout on each request; its event loop runs in a thread of its own.

    Everything is done in ``namespace``; empty: ``HIGGSNB_NAMESPACE``, otherwise that of the kubeconfig or of this pod.

    Raises
    ------
    ApiError
        If there are no credentials, or the API server does not answer.
    """

    def __init__(self, namespace: str = "") -> None:
        self._api: Any = None
        self._forwards: list[asyncio.Task[None]] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="higgsnb-kubernetes", daemon=True)
        self._thread.start()

        async def connect() -> Any:  # reads the credentials and requests the server's version
            import kr8s.asyncio

            with warnings.catch_warnings():  # a version unknown to kr8s; the preflight checks what is needed of it
                warnings.filterwarnings("ignore", message=r"(Unable to parse )?Kubernetes version")
                return await kr8s.asyncio.api()

        try:
            self._api = self._retry(connect, "GET /version", REQUEST_SECONDS)
        except BaseException:
            self.close()
            raise
        own = own_namespace() if in_cluster() and "KUBECONFIG" not in os.environ else str(self._api.namespace)
        self.namespace = namespace or os.environ.get("HIGGSNB_NAMESPACE") or own
        self.server = str(self._api.auth.server)

    def run(self, coroutine: Coroutine[Any, Any, Value], seconds: float) -> Value:
        """Run a coroutine in the event loop; raise `TimeoutError` after so many seconds."""
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return future.result(seconds)
        except BaseException:  # timeout or Ctrl-C: the coroutine must not go on unattended
            future.cancel()
            raise

    def call(
        self, method: str, path: str, *, body: Object | None = None, seconds: float = REQUEST_SECONDS,
        parameters: Mapping[str, str | int | bool] | None = None, allowed: Collection[int] = (),
    ) -> Any:  # fmt: skip
        """Make a request, retried while the server is busy; return the decoded JSON, or the text of a log.

        Returns None if it is answered with one of the ``allowed`` statuses.

        Raises
        ------
        ApiError
            If it is refused, or not answered in ``seconds``.
        """
        base, _, last = path.rpartition("/") if path.count("/") > 1 else (path, "", "")
        options: Object = {"params": dict(parameters or {})}
        if body is not None:
            kind = "merge-patch+json" if method == "PATCH" else "json"
            options |= {"content": json.dumps(body), "headers": {"Content-Type": f"application/{kind}"}}

        async def request() -> Any:
            async with self._api.call_api(method, version="", base=base, url=last, **options) as response:
                is_json = "json" in response.headers.get("content-type", "")
                return response.json() if is_json else response.text

        try:
            return self._retry(request, f"{method} {path}", seconds)
        except ApiError as error:
            if error.status in allowed:
                return None
            raise

    def _retry(self, attempt: Any, what: str, seconds: float) -> Any:
        """Repeat an attempt until it is answered; raise `ApiError` after ``seconds``."""
        import httpx
        import kr8s

        until, pause = time.monotonic() + seconds, 0.2
        while True:
            left = until - time.monotonic()
            try:
                return self.run(attempt(), max(left, 0.1))
            except kr8s.ServerError as error:
                status = error.response.status_code if error.response is not None else 0
                failure = ApiError(str(error), status=status)
                if status not in RETRIED:
                    raise failure from error
                failure = ApiError(f"{what} was answered with {status} for {seconds:.0f} s", status=status)
            except (httpx.TransportError, OSError, kr8s.APITimeoutError, FutureTimeoutError) as error:
                failure = ApiError(f"{what} had no answer in {seconds:.0f} s ({_words(error)})")
            except (ValueError, LookupError) as error:  # raised by kr8s for a kubeconfig that it cannot use
                raise ApiError(f"no usable credentials ({_words(error)})") from error
            if until - time.monotonic() <= pause:
                raise failure
            time.sleep(pause)
            pause = min(2 * pause, 2.0)

    def list(self, plural: str, *, group: str = "", **parameters: str | int) -> list[Object]:
        """Return the objects of one kind in the namespace."""
        found: list[Object] = self.call("GET", self.path(plural, group=group), parameters=parameters).get("items", [])
        return found

    def path(self, plural: str, name: str = "", *, group: str = "") -> str:
        """Return the path of the objects of one kind, or of one of them."""
        base = f"/apis/{group}/v1" if group else "/api/v1"
        return f"{base}/namespaces/{self.namespace}/{plural}{f'/{name}' if name else ''}"

    def forward(self, service: str, port: int, seconds: float) -> int:
        """Forward a free port of this machine's loopback to a service, until `close`; return it."""

        async def start() -> int:
            from kr8s.asyncio.objects import Service

            target = await Service.get(service, namespace=self.namespace, api=self._api)
            while True:
                forwarding = target.portforward(port, local_port="auto")
                task = asyncio.create_task(forwarding.run_forever())
                self._forwards.append(task)
                while not forwarding.servers and not task.done():
                    await asyncio.sleep(0.02)
                if not task.done():
                    return int(forwarding.local_port)
                error = task.exception()
                if not isinstance(error, OSError) or error.errno != errno.EADDRINUSE:
                    raise error or ApiError(f"no port could be forwarded to {service}")
                # kr8s finds a free port and opens it later: somebody else may have taken it. Then it tries another one.

        return self.run(start(), seconds)

    def close(self) -> None:
        """End the event loop with its connections, and its thread."""
        if self._loop.is_closed():
            return

        async def end() -> None:
            others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)
            session = getattr(self._api, "_session", None)
            if session is not None:
                await session.aclose()

        with suppress(FutureTimeoutError):
            self.run(end(), 5)
        self._api = None
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        if not self._thread.is_alive():
            self._loop.close()


def _words(error: BaseException) -> str:
    """Return the message of an exception without secrets, or its name if it has none."""
    return redact(str(error)) or type(error).__name__
