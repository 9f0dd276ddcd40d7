"""A namespace as its administrator and its users see it, and a connection to the API server that can be cut."""

from __future__ import annotations

import json
import os
import socket
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from higgsnb import cluster, errors

ROOT = Path(__file__).resolve().parents[2]
MANIFESTS = ROOT / "binder" / "hub" / "manifests"
ADMIN = Path(os.environ.get("KUBECONFIG", ""))


@dataclass
class Kube:
    """A namespace: an administrator's view of it, and a user's kubeconfig."""

    admin: Any
    namespace: str
    kubeconfig: Path
    image: str
    stand_in: bool

    def objects(self, *, user_pods: bool = False) -> list[str]:
        """What Dask left in the namespace, and the Dask processes of the stand-in."""
        found = []
        for plural, group in (
            ("daskclusters", "kubernetes.dask.org"),
            ("daskworkergroups", "kubernetes.dask.org"),
            ("daskautoscalers", "kubernetes.dask.org"),
            ("pods", ""),
            ("services", ""),
        ):
            found += [f"{plural}/{item['metadata']['name']}" for item in self.admin.list(plural, group=group)]
        if self.stand_in:
            census = self.admin.call("GET", "/minicluster/census")
            found += [f"process {item}" for item in census["processes"] if self.namespace in json.dumps(item)]
        return [name for name in found if user_pods or not name.endswith("/kubernetes")]

    def pods(self, component: str) -> list[str]:
        """Names of the pods of a component that are running."""
        pods = self.admin.list("pods", labelSelector=f"dask.org/component={component}")
        return [
            pod["metadata"]["name"]
            for pod in pods
            if pod["status"].get("phase") == "Running" and "deletionTimestamp" not in pod["metadata"]
        ]

    def delete_pod(self, name: str) -> None:
        self.admin.call("DELETE", self.admin.path("pods", name), body={"gracePeriodSeconds": 0})

    def fault(self, status: int | None = None, **rule: Any) -> None:
        """Let requests fail; see the stand-in's README."""
        whole = {"status": status, "latency": 0, "count": None, "match": "", "user": "higgsnb-dask", **rule}
        self.admin.call("POST", "/minicluster/fault", body=whole)

    def clear_faults(self) -> None:
        self.admin.call("POST", "/minicluster/clear-faults", body={})


def yaml_documents(path: Path) -> list[dict[str, Any]]:
    """The objects of a YAML file."""
    yaml = pytest.importorskip("yaml", reason="needs PyYAML: pip install pyyaml")
    return [item for item in yaml.safe_load_all(path.read_text(encoding="utf-8")) if item]


def apply(admin: Any, item: dict[str, Any], namespace: str) -> None:
    """Make an object of a manifest in a namespace, as `kubectl -n NAMESPACE create` does."""
    group, _, _ = item["apiVersion"].rpartition("/")
    base = f"/apis/{item['apiVersion']}" if group else f"/api/{item['apiVersion']}"
    plural = {"NetworkPolicy": "networkpolicies"}.get(item["kind"], f"{item['kind'].lower()}s")
    for subject in item.get("subjects", []):
        subject["namespace"] = namespace
    item["metadata"]["namespace"] = namespace
    admin.call("POST", f"{base}/namespaces/{namespace}/{plural}", body=item)


def user_kubeconfig(admin: Any, namespace: str, account: str, server: str = "") -> dict[str, Any]:
    """The administrator's kubeconfig, with a token of a service account in place of the administrator's."""
    body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 7200}}
    token = admin.call("POST", admin.path("serviceaccounts", f"{account}/token"), body=body)["status"]["token"]
    (config,) = yaml_documents(ADMIN)
    name = next(item["context"]["cluster"] for item in config["contexts"] if item["name"] == config["current-context"])
    cluster = next(item["cluster"] for item in config["clusters"] if item["name"] == name)
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "test",
        "clusters": [{"name": "test", "cluster": {**cluster, "server": server or cluster["server"]}}],
        "users": [{"name": "test", "user": {"token": token}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test", "namespace": namespace}}],
    }


def start_fails(kube: Kube, words: str, hint: str, **options: Any) -> errors.ClusterError:
    """A start must fail with these words and this hint, be told in time, and leave nothing."""
    states: list[cluster.ClusterState] = []
    whole = {
        "workers": 1,
        "memory": "1GiB",
        "image": kube.image,
        "deadline": 55,
        **options,
    }  # guarantee G16: named within a minute
    with pytest.raises(errors.ClusterError, match=words) as failure:
        cluster.launch("kubernetes", on_state=states.append, **whole)
    error = failure.value
    assert hint in error.hint
    assert len(str(error).splitlines()) <= 3
    state = states[-1]
    assert (state.phase, state.workers_ready, state.hint) == ("failed", 0, error.hint)
    assert kube.objects() == []
    return error


class Proxy:
    """A TCP connection to the API server that can be cut and mended."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        self._sockets: list[socket.socket] = []
        self._up = True
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def _accept(self) -> None:
        while True:
            try:
                here, _ = self._server.accept()
            except OSError:
                return
            if not self._up:
                here.close()
                continue
            there = socket.create_connection(self._target)
            self._sockets += [here, there]
            for source, sink in ((here, there), (there, here)):
                threading.Thread(target=self._copy, args=(source, sink), daemon=True).start()

    @staticmethod
    def _copy(source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def cut(self) -> None:
        """End every connection, and refuse new ones."""
        self._up = False
        for item in self._sockets:
            with suppress(OSError):
                item.shutdown(socket.SHUT_RDWR)

    def mend(self) -> None:
        """Accept connections again."""
        self._up = True

    def close(self) -> None:
        self.cut()
        with suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self._thread.join(5)
        for item in self._sockets:
            item.close()
