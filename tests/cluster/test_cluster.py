"""Clusters of this machine, and what can be said of the others without one; `tests/kubernetes` has the rest."""

from __future__ import annotations

import http.server
import json
import os
import platform
import signal
import stat
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from dataclasses import fields
from importlib import util
from inspect import signature
from pathlib import Path
from typing import Any, ClassVar

import pytest
from click.testing import CliRunner

import higgsnb
from higgsnb import cluster, provenance
from higgsnb.__main__ import main
from higgsnb.cluster import ClusterSpec, machine
from higgsnb.cluster.kubernetes import preflight
from higgsnb.cluster.kubernetes import spec as kubernetes_spec
from higgsnb.cluster.kubernetes.operated import OperatedCluster
from higgsnb.cluster.machine import Check
from higgsnb.cluster.options import parse_memory
from higgsnb.cluster.prepare import prepare
from higgsnb.engine import versions
from higgsnb.errors import ClusterError

distributed = pytest.importorskip("distributed", reason="needs Dask: pip install distributed")
psutil = pytest.importorskip("psutil", reason="needs psutil: pip install distributed")


def wait_for(condition: Any, what: str, seconds: float = 30) -> None:
    until, pause = time.monotonic() + seconds, threading.Event()
    while not condition():
        assert time.monotonic() < until, f"not within {seconds} s: {what}"
        pause.wait(0.1)


def dask_children() -> set[int]:
    return {child.pid for child in psutil.Process().children(recursive=True) if is_worker(child)}


def is_worker(process: Any) -> bool:
    try:
        return "multiprocessing.spawn" in " ".join(process.cmdline()) and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def need_jobqueue() -> None:
    if util.find_spec("dask_jobqueue") is None:  # not importorskip: that sets its handler of Ctrl-C
        pytest.skip("needs dask-jobqueue: pip install dask-jobqueue")


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No hub, no Kubernetes, no mirror."""
    for name in ("BINDER_LAUNCH_HOST", "KUBERNETES_SERVICE_HOST", "JUPYTER_IMAGE_SPEC", "JUPYTERHUB_SERVICE_PREFIX"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "no-kubeconfig"))


# --- On this machine -----------------------------------------------------------------------------


def test_a_local_cluster_goes_through_its_life_and_leaves_no_process() -> None:
    before, states = dask_children(), []
    with cluster.launch("local", workers=2, memory="1GB", on_state=states.append) as mine:
        assert mine.state.workers_ready == 2
        assert mine.get_client().submit(sum, range(1000)).result(timeout=20) == 499500
        mine.scale(1)
        wait_for(lambda: (mine.state.phase, mine.state.workers_ready) == ("ready", 1), f"one worker: {mine}")
        assert len(dask_children() - before) >= 1
        assert any("distributed.scheduler" in text for text in mine.logs().values())
    phases = [state.phase for state in states]
    order = [phase for before, phase in zip(["", *phases], phases, strict=False) if before != phase]
    assert order == ["preflight", "starting", "ready", "scaling", "ready", "closing", "closed"]
    wait_for(lambda: dask_children() <= before, "no process is left")
    assert [json.loads(json.dumps(state.as_dict()))["kind"] for state in states] == ["local"] * len(states)
    mine.close()
    with pytest.raises(ClusterError, match=r"the cluster is closed\nStart another one"):
        mine.get_client()


def listening() -> set[tuple[str, int]]:
    found = set()
    for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
        connections = process.net_connections("inet")
        found |= {(item.laddr.ip, item.laddr.port) for item in connections if item.status == psutil.CONN_LISTEN}
    return found


def test_local_schedulers_and_workers_listen_on_the_loopback_only() -> None:
    before = listening()
    with cluster.launch("local", workers=2, memory="1GB"):
        opened = listening() - before
    assert len(opened) >= 3  # the scheduler and two workers at least
    assert {address for address, _ in opened} == {"127.0.0.1"}


@pytest.fixture
def session_of_2_gb(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The memory limit of a container on mybinder.org."""
    (tmp_path / "memory.max").write_text("2000000000\n", encoding="ascii")
    monkeypatch.setattr(machine, "CGROUP_LIMITS", (str(tmp_path / "memory.max"),))


@pytest.mark.usefixtures("session_of_2_gb")
def test_workers_fit_into_the_memory_limit_of_the_session() -> None:
    with cluster.launch("local", memory="2GiB") as mine:
        limits = [info["memory_limit"] for info in mine.get_client().scheduler_info()["workers"].values()]
        assert 500_000_000 < sum(limits) < 1_700_000_000
        assert "2.0 GB" in mine.state.reason or mine.state.reason == ""
        with pytest.raises(ClusterError, match=r"workers of .* GB do not fit in this session's memory"):
            mine.scale(5)


@pytest.mark.usefixtures("session_of_2_gb")
def test_more_workers_than_the_memory_limit_holds_are_refused_before_the_start() -> None:
    states: list[cluster.ClusterState] = []
    with pytest.raises(
        ClusterError,
        match=r"20 workers of 0\.\d GB \(the session's limit is 2.0 GB\)\nAsk for at most [23] workers",
    ):
        cluster.launch("local", workers=20, on_state=states.append)
    assert [state.phase for state in states] == ["preflight", "failed"]


SCRIPT = """
import sys, threading
from higgsnb import cluster
if __name__ == "__main__":
    mine = cluster.launch("local", workers=2, memory="1GB")
    client = mine.get_client()
    print(*client.run(__import__("os").getpid).values(), flush=True)
    threading.Event().wait(100)
"""


def started(program: str, **options: Any) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(Path(higgsnb.__file__).parents[1])}
    return subprocess.Popen(
        [sys.executable, *([program] if program.endswith(".py") else ["-c", program])],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        **options,
    )


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_local_workers_end_with_their_process(number: signal.Signals) -> None:
    process = started(SCRIPT)
    killer = threading.Timer(60, process.kill)
    killer.start()
    try:
        assert process.stdout is not None
        workers = [psutil.Process(int(text)) for text in process.stdout.readline().split()]
        assert len(workers) == 2
        process.send_signal(number)
        _, alive = psutil.wait_procs(workers, timeout=30)
        process.communicate(timeout=60)
    finally:
        killer.cancel()
        process.kill()
        process.communicate()
    assert alive == []


def test_a_script_without_main_guard_is_told_so_before_the_deadline(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from higgsnb import cluster\ncluster.launch('local', workers=1, memory='1GB', deadline=8)\n", encoding="utf-8"
    )
    process = started(str(script))
    try:
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert "ClusterError" in errors
    assert "under `if __name__ == '__main__':`" in errors


def test_an_idle_or_broken_scheduler_is_told() -> None:
    with cluster.launch("local", workers=1, memory="1GB") as mine:
        inner: Any = mine._provider
        inner._dask.sync(inner._dask.scheduler.close)
        wait_for(lambda: mine.state.phase == "failed", f"the loss is told: {mine.state}", 60)
        assert "the scheduler has ended" in mine.state.reason
        assert "the ledger resumes" in mine.state.hint


def test_workers_with_other_code_of_this_package_are_refused_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    before = dask_children()
    versions.installed_versions.cache_clear()
    monkeypatch.setattr(provenance, "version", lambda: "0.0")
    try:
        with pytest.raises(
            ClusterError, match=r"worker tcp://.* other versions .*: higgsnb 0\.0 .* here and"
        ) as failure:
            cluster.launch("local", workers=1, memory="500MB")
    finally:
        versions.installed_versions.cache_clear()
    assert "or install the same versions" in failure.value.hint
    assert dask_children() == before


def test_an_observer_that_fails_changes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    def fail(state: cluster.ClusterState) -> None:
        raise LookupError(state.phase)

    before = dask_children()
    with cluster.launch("local", workers=1, memory="500MB", on_state=fail) as mine:
        mine.adapt(0, 1)
        wait_for(lambda: mine.state.workers_ready == 0, f"no worker, since there is no work: {mine}")
        mine.scale(1)
        wait_for(lambda: (mine.state.phase, mine.state.workers_ready) == ("ready", 1), f"one worker again: {mine}")
    assert mine.state.phase == "closed"
    assert dask_children() == before
    assert "LookupError: closed" in caplog.text


class Stalling:
    """A client whose end presses Ctrl-C if asked to, and then lasts until it is let go."""

    def __init__(self, *, press: bool = False) -> None:
        self.press, self.entered, self.go = press, threading.Event(), threading.Event()

    def close(self, timeout: float) -> None:
        self.entered.set()
        if self.press:
            os.kill(os.getpid(), signal.SIGINT)
        self.go.wait(timeout + 5)


def test_a_close_that_was_interrupted_can_be_repeated() -> None:
    before = dask_children()
    mine = cluster.launch("local", workers=1, memory="1GB")
    stalling: Any = Stalling(press=True)
    mine._clients.append(stalling)
    with pytest.raises(KeyboardInterrupt):
        mine.close()
    assert (mine.state.phase, mine.state.reason) == ("failed", "closing was interrupted")
    assert mine.state.hint.startswith("Close it again")
    stalling.go.set()
    mine.close()
    assert (mine.state.phase, mine.state.reason) == ("closed", "")
    wait_for(lambda: dask_children() <= before, "no process is left")


def test_a_cluster_is_closed_where_no_thread_can_be_started_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    before = dask_children()
    mine = cluster.launch("local", workers=1, memory="1GB")

    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    monkeypatch.setattr(threading.Thread, "start", refuse)  # as Python 3.12 does while it ends
    mine.close()
    assert (mine.state.phase, mine.state.reason) == ("closed", "")
    wait_for(lambda: dask_children() <= before, "no process is left")


def test_a_second_thread_that_closes_waits_for_the_first() -> None:
    mine = cluster.launch("local", workers=1, memory="1GB")
    stalling: Any = Stalling()
    mine._clients.append(stalling)
    phases: list[str] = []
    returned = threading.Event()

    def close() -> None:
        mine.close()
        phases.append(mine.state.phase)
        returned.set()

    first = threading.Thread(target=close)
    first.start()
    assert stalling.entered.wait(30)
    second = threading.Thread(target=close)
    second.start()
    returned.wait(1)  # a second one that does not wait has returned by then
    stalling.go.set()
    first.join(30)
    second.join(30)
    assert phases == ["closed", "closed"]


def test_a_close_that_took_too_long_ends_only_when_the_scheduler_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    mine = cluster.launch("local", workers=1, memory="1GB")
    inner: Any = mine._provider
    dask_cluster = inner._dask
    with monkeypatch.context() as patch:
        patch.setattr("higgsnb.cluster.cluster.CLOSE_SECONDS", 0.0)
        with pytest.raises(ClusterError, match="not everything could be removed: no answer in 0 s"):
            mine.close()
    mine.close()
    assert mine.state.phase == "closed"
    assert dask_cluster.status == distributed.Status.closed


INTERRUPTED = """
import os, signal, threading
from higgsnb import cluster
import psutil

def interrupt():
    while not psutil.Process().children():
        threading.Event().wait(0.01)
    os.kill(os.getpid(), signal.SIGINT)

if __name__ == "__main__":
    threading.Thread(target=interrupt).start()
    try:
        cluster.launch("local", workers=2, memory="1GB", on_state=lambda state: print(state.phase, flush=True))
    except KeyboardInterrupt:
        for thread in threading.enumerate():
            if thread.name.startswith("higgsnb: the start of"):
                print("under way", flush=True)
                thread.join(60)
        children = psutil.Process().children(recursive=True)
        print("workers", sum("spawn_main" in " ".join(child.cmdline()) for child in children), flush=True)
"""


def test_ctrl_c_while_local_workers_start_leaves_none(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(INTERRUPTED, encoding="utf-8")
    process = started(str(tmp_path / "script.py"))
    try:
        output, _ = process.communicate(timeout=90)
    finally:
        process.kill()
        process.communicate()
    assert output.splitlines() == ["preflight", "starting", "failed", "under way", "workers 0"]


def test_a_client_that_comes_after_ctrl_c_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []
    interrupted = threading.Event()
    with cluster.launch("local", workers=1, memory="1GB") as mine:
        inner: Any = mine._provider
        connect = inner.client

        def slow(**options: Any) -> Any:
            made.append(connect(**options))
            os.kill(os.getpid(), signal.SIGINT)
            interrupted.wait(30)
            return made[0]

        monkeypatch.setattr(inner, "client", slow)
        with pytest.raises(KeyboardInterrupt):
            mine.get_client()
        interrupted.set()
        wait_for(lambda: made[0].status == "closed", "the client is closed")


def test_a_cancelled_start_leaves_nothing() -> None:
    before, cancel, states = dask_children(), threading.Event(), []

    def tell(state: cluster.ClusterState) -> None:
        states.append(state)
        if state.phase == "starting":
            cancel.set()

    with pytest.raises(ClusterError, match="start-up was cancelled"):
        cluster.launch("local", workers=2, memory="1GB", on_state=tell, cancel=cancel)
    assert [state.phase for state in states] == ["preflight", "starting", "failed"]
    assert states[-1].reason == "start-up was cancelled"
    for thread in threading.enumerate():
        if thread.name.startswith("higgsnb: the start of"):
            thread.join(60)
    assert dask_children() <= before
    with pytest.raises(ClusterError, match="start-up was cancelled"):
        cluster.launch("local", workers=2, memory="1GB", on_state=tell, cancel=cancel)
    assert len(states) == 3


def test_a_refused_number_of_workers_changes_nothing() -> None:
    with cluster.launch("local", workers=1, memory="500MB") as mine:
        for refused in (lambda: mine.scale(10_000), lambda: mine.adapt(0, 10_000)):
            with pytest.raises(ClusterError) as failure:
                refused()
            assert failure.value.message == "10000 workers of 0.5 GB do not fit in this session's memory"
            assert failure.value.hint.startswith("Close this cluster and start one with smaller workers")
            assert (mine.state.phase, mine.state.workers_wanted, mine.state.reason) == ("ready", 1, "")


def test_scaling_ends_adapting() -> None:
    with cluster.launch("local", workers=1, memory="500MB") as mine:
        inner: Any = mine._provider
        mine.adapt(0, 1)
        wait_for(lambda: mine.state.workers_ready == 0, f"no worker, since there is no work: {mine}")
        adaptive = inner._dask._adaptive
        mine.scale(1)
        assert adaptive.periodic_callback is None
        wait_for(lambda: (mine.state.phase, mine.state.workers_ready) == ("ready", 1), f"one worker again: {mine}")
        mine.adapt(1, 2)
        assert inner._dask._adaptive.periodic_callback is not None


# --- What is asked for ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "lokal"}, "expected one of auto, local, kubernetes"),
        ({"workers": 0}, "workers = 0; expected a whole number from 1 to 10,000"),
        ({"cores": 0}, "cores = 0"),
        ({"idle_timeout": 0}, "idle_timeout = 0; expected a whole number of at least 1"),
        ({"workers": "3"}, "workers = '3'; expected a whole number"),
        ({"deadline": True}, "deadline = True; expected a number"),
        ({"wokers": 3}, r"unknown option wokers for kind 'local'\nDid you mean workers\?"),
        ({"pull_secrets": ["mine"]}, "unknown option pull_secrets for kind 'local'\nIt belongs to kubernetes"),
        ({"kind": "auto", "wokers": 3}, r"unknown option wokers for kind 'auto'\nDid you mean workers\?"),
        ({"kind": "slurm", "qeue": "short"}, r"unknown option qeue for kind 'slurm'\nDid you mean queue\?"),
        ({"kind": "slurm", "death_timeout": 1}, "unknown option death_timeout for kind 'slurm'"),
        ({"kind": "kubernetes", "environmnt": {}}, r"unknown option environmnt .*\nDid you mean environment\?"),
        ({"kind": "kubernetes", "pull_secrets": "mine"}, r"pull_secrets = 'mine'; expected a list of names"),
        ({"kind": "kubernetes", "environment": {"A": 1}}, "environment must be a dict of str to str"),
        ({"kind": "kubernetes", "user_id": "jovyan"}, "user_id = 'jovyan'; expected a whole number"),
        ({"memory": "2 bananas"}, r"is not an amount\nWrite for instance 2GiB"),
        ({"memory": "5MB"}, "a worker needs at least 100MB"),
    ],
)
@pytest.mark.usefixtures("elsewhere")
def test_what_is_out_of_range_is_refused_with_the_right_value(options: dict[str, Any], message: str) -> None:
    if options.get("kind") == "slurm":
        need_jobqueue()
    with pytest.raises(ValueError, match=message):
        cluster.launch(**{"kind": "local", **options})


@pytest.mark.usefixtures("elsewhere")
def test_options_of_a_kind_that_is_not_taken_are_dropped() -> None:
    others = {"pull_secrets": ["mine"], "environment": {"A": "1"}, "address": "https://gateway.example.org"}
    found = prepare(ClusterSpec.parse("auto", local_directory="/scratch", **others)).spec
    assert (found.kind, found.options) == ("local", {"local_directory": "/scratch"})
    assert ClusterSpec.parse("gateway", address="x", whatever_it_offers=1).options["whatever_it_offers"] == 1


def test_launch_and_the_spec_have_the_same_options_and_defaults() -> None:
    offered = {name: item.default for name, item in signature(cluster.launch).parameters.items()}
    found = {item.name: getattr(ClusterSpec(), item.name) for item in fields(ClusterSpec) if item.name != "options"}
    assert offered.keys() - {"on_state", "cancel", "options"} == found.keys()
    given = {name: offered[name] for name in found if name != "kind" and offered[name] is not None}
    assert ClusterSpec.parse(offered["kind"], **given) == ClusterSpec()


@pytest.mark.usefixtures("elsewhere")
@pytest.mark.parametrize("enough", [True, False])
def test_in_a_hub_kubernetes_is_checked_once_and_a_small_quota_is_no_reason_to_stay_here(
    monkeypatch: pytest.MonkeyPatch, enough: bool
) -> None:
    asked: list[ClusterSpec] = []

    def answers(spec: ClusterSpec) -> Iterator[Check]:
        asked.append(spec)
        yield Check("Kubernetes API", True, "answers")
        yield Check(preflight.QUOTA, enough, "pods 3, used 0, needed 4")

    monkeypatch.setattr("higgsnb.cluster.prepare.in_cluster", lambda: True)
    monkeypatch.setattr(preflight, "preflight", answers)
    prepared = prepare(ClusterSpec.parse("auto", workers=3, user_id=7, address="https://gateway.example.org"))
    assert (prepared.spec.kind, prepared.spec.workers, prepared.spec.options) == ("kubernetes", 3, {"user_id": 7})
    assert [check.good for check in prepared.checks] == [True, enough]
    assert [spec.workers for spec in asked] == [3]


@pytest.mark.parametrize("where", ["load()", "thread = threading.Thread(target=load); thread.start(); thread.join()"])
def test_dask_jobqueue_is_imported_in_any_thread_without_its_handler_of_ctrl_c(where: str) -> None:
    need_jobqueue()
    code = f"""
        import signal, threading
        from higgsnb.cluster import options
        before = signal.signal
        def load():
            print(options.jobqueue().SLURMCluster.__name__)
        {where}
        print(signal.getsignal(signal.SIGINT) is signal.default_int_handler, signal.signal is before)
    """
    answer = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True)
    assert answer.stdout.split() == ["SLURMCluster", "True", "True"]


@pytest.mark.parametrize(
    ("text", "amount"), [("2GiB", 2**31), ("500 MB", 500_000_000), ("1.5G", 1_500_000_000), (10**9, 10**9)]
)
def test_memory_is_read_as_people_write_it(text: str | int, amount: int) -> None:
    assert parse_memory(text) == amount


@pytest.mark.usefixtures("elsewhere")
def test_outside_a_hub_the_choice_is_this_machine() -> None:
    assert cluster.choose() == ("local", "this is not a hub session, so the workers run on this machine")
    assert cluster.orphans() == ()


@pytest.mark.usefixtures("elsewhere")
def test_on_mybinder_the_choice_is_this_session(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BINDER_LAUNCH_HOST", "https://mybinder.org/")
    kind, why = cluster.choose()
    assert kind == "local"
    assert "mybinder.org gives no access to Kubernetes" in why


@pytest.mark.usefixtures("elsewhere")
def test_without_kubeconfig_kubernetes_is_refused_with_a_hint() -> None:
    pytest.importorskip("kr8s", reason="needs kr8s: pip install 'higgsnb[kubernetes]'")
    with pytest.raises(ClusterError, match=r"Kubernetes API: .*credentials") as failure:
        cluster.launch("kubernetes", workers=1, image="x")
    assert "Set KUBECONFIG" in failure.value.hint


def test_a_batch_system_that_is_not_here_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    need_jobqueue()
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ClusterError, match="batch system: not in PATH: condor_submit, condor_rm"):
        cluster.launch("htcondor", workers=1)


def test_a_gateway_that_does_not_answer_is_named() -> None:
    pytest.importorskip("dask_gateway", reason="needs dask-gateway: pip install dask-gateway")
    (library, gateway) = prepare(ClusterSpec.parse("gateway", address="http://127.0.0.1:9")).checks
    assert library.good
    assert not gateway.good
    assert "DASK_GATEWAY__ADDRESS" in gateway.hint


def test_importing_the_module_is_light() -> None:
    code = "import sys, higgsnb.cluster; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"dask", "distributed", "kr8s", "httpx", "dask_kubernetes", "psutil"} & set(answer.stdout.split())


# --- What was left behind --------------------------------------------------------------------------


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
        elif path.endswith(("/daskclusters", "/pods", "/services")):
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
    for module in ("kr8s", "dask_kubernetes"):
        pytest.importorskip(module, reason=f"needs {module}: pip install 'higgsnb[kubernetes]'")
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


# --- A batch system --------------------------------------------------------------------------------

SBATCH = """
    #!{python}
    import os, pathlib, subprocess, sys
    folder = pathlib.Path({folder!r})
    script = pathlib.Path(sys.argv[-1]).read_text()
    number = os.getpid()  # two may be submitted at once
    log = open(folder / f"log-{{number}}", "wb")
    job = subprocess.Popen(["bash", "-c", script], stdout=log, stderr=log, start_new_session=True)
    (folder / f"job-{{number}}").write_text(str(job.pid))
    print("Submitted batch job", number)
"""
SCANCEL = """
    #!{python}
    import os, pathlib, signal, sys
    for number in sys.argv[1:]:
        try:
            os.killpg(int((pathlib.Path({folder!r}) / f"job-{{number}}").read_text()), signal.SIGTERM)
        except (OSError, ValueError):
            pass
"""


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The two commands of Slurm that dask-jobqueue uses; a job is a process of this machine."""
    need_jobqueue()
    folder = tmp_path / "jobs"
    folder.mkdir()
    for name, text in (("sbatch", SBATCH), ("scancel", SCANCEL)):
        program = tmp_path / name
        program.write_text(textwrap.dedent(text).strip().format(python=sys.executable, folder=str(folder)))
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)
    yield folder
    for job in folder.glob("job-*"):
        try:
            os.killpg(int(job.read_text()), signal.SIGKILL)
        except ProcessLookupError:
            continue


def jobs_alive(folder: Path) -> list[int]:
    processes = [int(job.read_text()) for job in folder.glob("job-*")]
    return [pid for pid in processes if psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE]


def test_workers_of_a_batch_system_are_jobs_with_encrypted_connections_that_end_with_the_cluster(slurm: Path) -> None:
    options = {"interface": "lo", "walltime": "00:10:00", "queue": "short"}
    with cluster.launch("slurm", workers=2, memory="1GB", idle_timeout=60, **options) as mine:
        client = mine.get_client()
        assert client.submit(sum, range(1000)).result(timeout=20) == 499500
        assert client.scheduler.address.startswith("tls://")
        assert len(jobs_alive(slurm)) == 2
        script = client.cluster.job_script()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler  # dask-jobqueue would set its own
    assert "#SBATCH -p short" in script
    assert "#SBATCH --mem=954M" in script  # 1 GB in units of 1024², rounded up
    assert "--death-timeout 60" in script
    wait_for(lambda: not jobs_alive(slurm), "the jobs are cancelled")


def test_a_start_whose_jobs_wait_in_the_queue_can_be_cancelled(slurm: Path, tmp_path: Path) -> None:
    (tmp_path / "sbatch").write_text(f"#!{sys.executable}\nprint('Submitted batch job 7')\n")  # never started
    cancel = threading.Event()

    def tell(state: cluster.ClusterState) -> None:
        if "in the queue" in state.reason:
            cancel.set()

    with pytest.raises(ClusterError, match="start-up was cancelled"):
        cluster.launch("slurm", workers=1, memory="1GB", deadline=60, interface="lo", on_state=tell, cancel=cancel)
    assert jobs_alive(slurm) == []


def test_jobs_that_wait_in_the_queue_are_told_and_cancelled(slurm: Path, tmp_path: Path) -> None:
    program = tmp_path / "sbatch"
    program.write_text(f"#!{sys.executable}\nprint('Submitted batch job 7')\n")  # never started
    states: list[cluster.ClusterState] = []
    with pytest.raises(ClusterError, match="workers are still in the queue"):
        cluster.launch("slurm", workers=1, memory="1GB", deadline=4, interface="lo", on_state=states.append)
    assert states[-1].phase == "failed"
    assert "Look at the queue" in states[-1].hint
    assert jobs_alive(slurm) == []
