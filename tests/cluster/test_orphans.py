"""Clusters on Kubernetes that cannot be made or removed, against as much of its API as that needs."""

from __future__ import annotations

import http.server
import json
import os
import platform
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
from click.testing import CliRunner

from higgsnb import cluster
from higgsnb.__main__ import main
from higgsnb.cluster import ClusterSpec
from higgsnb.cluster.kubernetes import spec as kubernetes_spec
from higgsnb.cluster.kubernetes.operated import OperatedCluster
from higgsnb.errors import ClusterError

psutil = pytest.importorskip("psutil", reason="needs psutil: pip install distributed")
for module in ("kr8s", "dask_kubernetes"):
    pytest.importorskip(module, reason=f"needs {module}: pip install 'higgsnb[kubernetes]'")


def test_without_kubeconfig_kubernetes_is_refused_with_a_hint(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "no-kubeconfig"))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(ClusterError, match=r"Kubernetes API: .*credentials") as failure:
        cluster.launch("kubernetes", workers=1, image="x")
    assert "Set KUBECONFIG" in failure.value.hint


class Operated(http.server.BaseHTTPRequestHandler):
    """As much of the API of Kubernetes as removing clusters needs; the operator does its work at once."""

    protocol_version = "HTTP/1.1"
    objects: ClassVar[dict[str, Any]] = {}
    deleted: ClassVar[list[str]] = []
    refused: ClassVar[set[str]] = set()
    stuck: ClassVar[set[str]] = set()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass

    def answer(self, status: int, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self) -> None:
        path = self.path.partition("?")[0].rstrip("/")
        if path == "/version":
            self.answer(200, {"gitVersion": "v1.35.0", "major": "1", "minor": "35"})
        elif path.endswith(("/daskclusters", "/daskworkergroups", "/pods", "/services")):
            self.answer(200, {"items": list(self.objects.values()) if path.endswith("clusters") else []})
        else:
            self.answer(404, {"kind": "Status", "message": f"no {path}", "code": 404})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.objects[body["metadata"]["name"]] = body
        self.answer(201, body)

    def do_DELETE(self) -> None:
        name = self.path.partition("?")[0].rpartition("/")[2]
        self.deleted.append(name)
        if name in self.refused:
            self.answer(403, {"kind": "Status", "message": "forbidden for a moment", "code": 403})
            return
        if name not in self.stuck:
            self.objects.pop(name, None)
        self.answer(200, {})


@pytest.fixture
def operated(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[type[Operated]]:
    """A server of that API in KUBECONFIG."""
    handler = type("Handler", (Operated,), {"objects": {}, "deleted": [], "refused": set(), "stuck": set()})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "clusters": [{"name": "test", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}],
            "users": [{"name": "test", "user": {"token": "x"}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test", "namespace": "team"}}],
        }
        (tmp_path / "kubeconfig").write_text(json.dumps(config), encoding="utf-8")
        monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
        monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
        yield handler
        server.shutdown()


def left_behind(name: str, host: str = "", process: str = "0 0") -> dict[str, Any]:
    notes = {kubernetes_spec.CLIENT_HOST: host or platform.node(), kubernetes_spec.CLIENT_PROCESS: process}
    made = {"namespace": "team", "creationTimestamp": "2026-01-01T00:00:00Z", "annotations": notes}
    return {"metadata": {"name": name, **made}}


def test_a_cluster_whose_removal_was_refused_can_be_closed_again(operated: type[Operated]) -> None:
    spec = ClusterSpec(kind="kubernetes", image="x:y", workers=1)
    mine, inner = cluster.Cluster(spec), OperatedCluster(spec)
    mine._provider = inner
    inner.create()
    operated.refused.add(inner.name)
    with pytest.raises(ClusterError, match="forbidden for a moment"):
        mine.close()
    assert mine.state.phase == "failed"
    operated.refused.clear()
    mine.close()
    assert mine.state.phase == "closed"
    assert operated.objects == {}


def test_one_cluster_that_cannot_be_removed_does_not_keep_the_others(operated: type[Operated]) -> None:
    names = ("stuck", "refused", "other")
    operated.objects.update({name: left_behind(name) for name in names})
    operated.stuck.add("stuck")
    operated.refused.add("refused")
    with pytest.raises(ClusterError) as failure:
        cluster.remove_orphans([item for item in cluster.orphans() if item.name in names], seconds=5)
    assert "refused: forbidden for a moment" in str(failure.value)
    assert "stuck still there 5 s after" in str(failure.value)
    assert set(operated.objects) == {"stuck", "refused"}


def test_a_cluster_in_use_is_not_offered_when_the_clock_was_set(
    operated: type[Operated], monkeypatch: pytest.MonkeyPatch
) -> None:
    process = f"{os.getpid()} {kubernetes_spec.process_start(os.getpid())}"
    operated.objects.update(
        used=left_behind("used", process=process),
        reused=left_behind("reused", process=f"{process}1"),  # the same number, started at another time
    )
    now = psutil.Process().create_time()
    monkeypatch.setattr(psutil.Process, "create_time", lambda _self: now + 3600)
    assert [item.name for item in cluster.orphans()] == ["reused"]


def test_clean_leaves_what_another_machine_may_be_using_unless_told_otherwise(operated: type[Operated]) -> None:
    operated.objects.update(here=left_behind("here"), there=left_behind("there", host="jupyter-jane--second"))

    def clean(*arguments: str) -> list[str]:
        answer = CliRunner().invoke(main, ["clean", *arguments], catch_exceptions=False)
        assert answer.exit_code == 0
        return answer.output.splitlines()

    marked = "team/there, made 2026-01-01T00:00:00Z by process 0 of jupyter-jane--second; may be in use there"
    first, second, last = clean("-y")
    assert (first.endswith(f"of {platform.node()}"), second, last) == (True, marked, "removed: 1")
    assert set(operated.objects) == {"there"}
    kept = "nothing removed; `higgsnb clean --all` includes clusters that may be in use elsewhere"
    assert clean("-y") == [marked, kept]
    assert clean("-y", "--all") == [marked, "removed: 1"]
    assert clean("-y") == ["no orphaned clusters"]
