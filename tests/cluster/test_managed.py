"""The waiting for clusters, and what can be said of providers without starting one."""

from __future__ import annotations

import os
import signal
import threading
from typing import Any

import pytest

from higgsnb.cluster import ClusterSpec, provider, waiting
from higgsnb.cluster.managed import ManagedCluster
from higgsnb.cluster.prepare import prepare
from higgsnb.cluster.provider import Problem
from higgsnb.errors import ClusterError


@pytest.mark.parametrize("end", ["timeout", "cancel", "Ctrl-C"])
def test_what_comes_too_late_is_handed_on(end: str) -> None:
    given_up, handed_on, cancel = threading.Event(), threading.Event(), threading.Event()
    late: list[str] = []

    def call() -> str:
        if end == "cancel":
            cancel.set()
        elif end == "Ctrl-C":
            os.kill(os.getpid(), signal.SIGINT)
        given_up.wait(30)
        return "made"

    def take(value: str) -> None:
        late.append(value)
        handed_on.set()

    errors = {"timeout": TimeoutError, "cancel": ClusterError, "Ctrl-C": KeyboardInterrupt}
    with pytest.raises(errors[end]):
        waiting.call_with_timeout(0.1 if end == "timeout" else 30, call, "the moon", on_late=take, cancel=cancel)
    given_up.set()
    assert handed_on.wait(30)
    assert late == ["made"]


def test_a_call_that_takes_too_long_is_given_up() -> None:
    never = threading.Event()
    with pytest.raises(TimeoutError, match="no answer in 0 s: the moon"):
        waiting.call_with_timeout(0.05, never.wait, "the moon")
    never.set()
    with pytest.raises(KeyError):
        waiting.call_with_timeout(5, lambda: {}["x"], "nothing")


def test_problem_is_final_only_if_the_same_one_lasts() -> None:
    timer = provider.ProblemTimer()
    assert not timer.is_final(None)
    assert not timer.is_final(Problem("a", "do a", timeout=100))
    assert timer.is_final(Problem("b", "do b", timeout=0))
    assert not timer.is_final(Problem("a", "do a", timeout=100))


def test_scaling_ends_adapting_at_a_gateway() -> None:
    asked: list[str] = []

    class Gateway:  # dask-gateway has no server that could run here
        def adapt(self, **options: Any) -> None:
            asked.append(f"adapt {options}")

        def scale(self, workers: int) -> None:
            asked.append(f"scale {workers}")

    managed = ManagedCluster(ClusterSpec(kind="gateway"))
    gateway: Any = Gateway()
    managed._dask = gateway
    managed.scale(2)
    assert asked == ["adapt {'active': False}", "scale 2"]


def test_the_dashboard_is_reached_through_the_proxy_of_a_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provider.util, "find_spec", lambda _name: object())
    monkeypatch.delenv("JUPYTERHUB_SERVICE_PREFIX", raising=False)
    assert provider.dashboard_link("127.0.0.1:8787") == "http://127.0.0.1:8787/status"
    monkeypatch.setenv("JUPYTERHUB_SERVICE_PREFIX", "/user/jane/")
    assert provider.dashboard_link("127.0.0.1:8787") == "/user/jane/proxy/8787/status"
    assert provider.dashboard_link("10.1.2.3:8787") == "/user/jane/proxy/10.1.2.3:8787/status"
    assert provider.dashboard_link("") == ""


def test_a_gateway_that_does_not_answer_is_named() -> None:
    pytest.importorskip("dask_gateway", reason="needs dask-gateway: pip install dask-gateway")
    (library, gateway) = prepare(ClusterSpec.parse("gateway", address="http://127.0.0.1:9")).checks
    assert library.good
    assert not gateway.good
    assert "DASK_GATEWAY__ADDRESS" in gateway.hint
