"""G1: the work queue over thousands of schedules of replies, deaths and cuts; the model is in the kit."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test
from schedules import CHUNKS, Schedules


def test_every_chunk_is_counted_once_or_listed_whatever_happens(long: bool, figure: Callable[..., None]) -> None:
    schedules = 10_000 if long else 600
    chosen = settings(
        max_examples=schedules, stateful_step_count=40, deadline=None, database=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    run_state_machine_as_test(Schedules, settings=chosen)
    figure("G1", f"schedules of {CHUNKS} chunks without one off", schedules)
