"""Runs of analyses drawn from seeds, in processes that `zygote.Zygote` forks: their chunks in any order, and killed."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import killers
import random_analyses
import zygote

from higgsnb import engine, errors
from higgsnb.engine import loop
from higgsnb.engine.plan import Plan


def drive(
    *, seed: int, files: str, out: str, at: str = "threads", chunk_events: int = 37, workers: int | None = None,
    order: int | None = None, kill: dict[str, Any] | None = None,
) -> int:  # fmt: skip
    """Run the analysis of a seed with a ledger, and say its ``sha256``; see `killers.drive` for the rest.

    With ``order``, the chunks are worked on in an order that is drawn from it.
    """
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    loop.plans.make = _shuffled(loop.plans.make, order)  # type: ignore[assignment]
    killers._arm(kill)
    began = time.monotonic()
    try:
        with killers._client(at, 20.0, None) as client:
            *_, last = engine.run(
                random_analyses.campaign_in(Path(files)), random_analyses.analysis(seed), client=client,
                chunk_events=chunk_events, workers=workers, ledger=folder / "ledger.sqlite", analyse=killers.counted,
            )  # fmt: skip
    except errors.SchedulerLostError:
        return killers.SCHEDULER_LOST
    zygote.say(sha256=random_analyses.digest(last, folder), seconds=time.monotonic() - began)
    return 0 if last.complete else 3


def _shuffled(make: Callable[..., Plan], order: int | None) -> Callable[..., Plan]:
    """Plan as usual, with the chunks in another order."""

    def made(*arguments: Any, **options: Any) -> Plan:
        plan = make(*arguments, **options)
        chunks = list(plan.chunks)
        if order is not None:
            random.Random(order).shuffle(chunks)
        return replace(plan, chunks=tuple(chunks))

    return made
