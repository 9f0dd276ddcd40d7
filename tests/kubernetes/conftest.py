"""A namespace of a real cluster, or of a stand-in, for each run of this suite; tests act in it as its users do.

The cluster is the one in KUBECONFIG, whose user must be allowed to make namespaces, roles and tokens; the Dask operator
must be installed for all namespaces. The tests themselves use a token that has only the shipped Role. Images:
HIGGSNB_TEST_IMAGE, with this version of higgsnb in it. Faults and a census of processes need the stand-in; tests that
ask for them are skipped elsewhere.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kube import ADMIN, MANIFESTS, Kube, Proxy, apply, user_kubeconfig, yaml_documents
from waiting import wait_for

HOW = "`.ci/run` starts one where it can, or make one with `kind create cluster`"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Touch a cluster only when asked to: a plain `pytest` must not act on whatever KUBECONFIG names."""
    if "kubernetes" in config.option.markexpr:
        return
    skip = pytest.mark.skip(reason=f"acts on the cluster in KUBECONFIG; run it with `pytest -m kubernetes`: {HOW}")
    for item in items:
        if Path(__file__).parent in item.path.parents and item.get_closest_marker("kubernetes"):
            item.add_marker(skip)


@pytest.fixture(scope="session")
def admin() -> Iterator[Any]:
    """The API as the administrator whom KUBECONFIG names."""
    if not ADMIN.is_file():
        pytest.skip(f"needs a Kubernetes cluster in KUBECONFIG: {HOW}")
    for module in ("distributed", "kr8s", "dask_kubernetes"):
        pytest.importorskip(module, reason=f"needs {module}: pip install 'higgsnb[kubernetes]'")
    from higgsnb.cluster.kubernetes.api import Api

    api = Api(f"higgsnb-test-{uuid.uuid4().hex[:6]}")
    yield api
    api.close()


@pytest.fixture(scope="session")
def kube(admin: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kube]:
    """A namespace with the shipped manifests in it."""
    from higgsnb.errors import ApiError

    stand_in = True
    try:
        admin.call("GET", "/minicluster/census")
    except ApiError:
        stand_in = False
    image = os.environ.get("HIGGSNB_TEST_IMAGE") or ("dask:test" if stand_in else "")
    if not image:
        pytest.skip("needs an image with this version of higgsnb: set HIGGSNB_TEST_IMAGE, see binder/hub/README.md")
    namespace = admin.namespace
    admin.call("POST", "/api/v1/namespaces", body={"metadata": {"name": namespace}})
    try:
        for name in ("dask-user", "outside"):
            for item in yaml_documents(MANIFESTS / f"{name}.yaml"):
                apply(admin, item, namespace)
        path = tmp_path_factory.mktemp("kube") / "kubeconfig"
        path.write_text(json.dumps(user_kubeconfig(admin, namespace, "higgsnb-dask")), encoding="utf-8")
        yield Kube(admin, namespace, path, image, stand_in)
    finally:
        admin.call("DELETE", f"/api/v1/namespaces/{namespace}")


@pytest.fixture
def user(kube: Kube, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kube]:
    """The namespace, with KUBECONFIG set to the user's; nothing may be left in it at the end."""
    monkeypatch.setenv("KUBECONFIG", str(kube.kubeconfig))
    monkeypatch.setenv("JUPYTERHUB_USER", "student@example.org")
    for name in ("HIGGSNB_NAMESPACE", "JUPYTER_IMAGE_SPEC", "JUPYTER_IMAGE"):
        monkeypatch.delenv(name, raising=False)
    yield kube
    if kube.stand_in:
        kube.clear_faults()
    wait_for(lambda: not kube.objects(), f"an empty namespace, but there is {kube.objects()}", 75)


@pytest.fixture
def faulty(user: Kube) -> Kube:
    """The namespace, if faults can be ordered in it."""
    if not user.stand_in:
        pytest.skip("needs the stand-in cluster of ../shared/tools/minicluster, which can be told to fail")
    return user


@pytest.fixture
def proxy(user: Kube, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """The user's way to the API server leads through this."""
    host, _, port = user.admin.server.rpartition("//")[2].rstrip("/").rpartition(":")
    between = Proxy(host, int(port))
    path = tmp_path / "kubeconfig"
    server = f"https://127.0.0.1:{between.port}"
    path.write_text(json.dumps(user_kubeconfig(user.admin, user.namespace, "higgsnb-dask", server)), encoding="utf-8")
    monkeypatch.setenv("KUBECONFIG", str(path))
    yield between
    between.close()
