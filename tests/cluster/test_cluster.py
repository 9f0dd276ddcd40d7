"""Clusters of this machine, and what can be said of the others without one; `tests/kubernetes` has the rest."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import fields
from inspect import signature
from pathlib import Path
from typing import Any

import pytest
from waiting import wait_for

import higgsnb
from higgsnb import cluster, provenance
from higgsnb.cluster import ClusterSpec, machine
from higgsnb.cluster.kubernetes import preflight
from higgsnb.cluster.machine import Check
from higgsnb.cluster.options import parse_memory
from higgsnb.cluster.prepare import prepare
from higgsnb.engine import versions
from higgsnb.errors import ClusterError

distributed = pytest.importorskip("distributed", reason="needs Dask: pip install distributed")
psutil = pytest.importorskip("psutil", reason="needs psutil: pip install distributed")


def dask_children() -> set[int]:
    return {child.pid for child in psutil.Process().children(recursive=True) if is_worker(child)}


def is_worker(process: Any) -> bool:
    try:
        return "multiprocessing.spawn" in " ".join(process.cmdline()) and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


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


def test_importing_the_module_is_light() -> None:
    code = "import sys, higgsnb.cluster; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"dask", "distributed", "kr8s", "httpx", "dask_kubernetes", "psutil"} & set(answer.stdout.split())
