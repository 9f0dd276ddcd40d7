"""The cost of one update of the live histogram on the Python side: spectrum, state, message; target 5 ms.

    python benchmarks/widgets.py --updates 50 --json widgets.json

Measured on the finished toy campaign, and on a result with `--times` as many candidates. ``counts`` is what
the result itself needs to take out duplicates, before anything can be drawn.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import higgsnb as hn
from higgsnb.results import Result
from higgsnb.widgets import LiveHistogram
from higgsnb.widgets.live import spectrum

BAR_MS = 5.0


def fresh(result: Result) -> Result:
    """The same result with nothing computed yet, as it comes from the engine."""
    return Result(result.campaign, result.selection, result.tally, result.files, result.failures)


def enlarged(result: Result, times: int) -> Result:
    """A result with so many times the candidates; the numbers mean nothing."""
    return replace(result, tally=replace(result.tally, blocks=result.tally.blocks * times))


def milliseconds(call: Any) -> float:
    """The time of a call."""
    begun = time.perf_counter()
    call()
    return 1e3 * (time.perf_counter() - begun)


def measure(result: Result, updates: int) -> dict[str, float]:
    """Medians of the parts of an update in ms, and the bytes that are sent."""
    view = LiveHistogram(result.campaign, result.selection)
    counts, update = [], []
    for n in range(updates):
        one = fresh(result)
        counts.append(milliseconds(lambda one=one: one.counts))
        update.append(milliseconds(lambda one=one, n=n: view._enter("running", **spectrum(one), rate=float(n))))
    size = len(json.dumps(view.state))
    candidates = sum(len(block.run) for block in result.tally.blocks)
    view.close()
    return {
        "candidates": candidates,
        "counts_ms": statistics.median(counts),
        "update_ms": statistics.median(update),
        "bytes": size,
    }


def main() -> None:
    """Measure, print one line per size, write a JSON file if there is --json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--updates", type=int, default=50)
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    *_, result = hn.engine.run(hn.datasets.load("toy"), hn.selection.load("open2012"))
    rows = [measure(one, options.updates) for one in (result, enlarged(result, options.times))]
    print(f"{'candidates':>12}{'counts [ms]':>14}{'update [ms]':>14}{'bytes sent':>12}   bar {BAR_MS:g} ms")
    for row in rows:
        good = "met" if row["update_ms"] <= BAR_MS else "MISSED"
        print(f"{row['candidates']:>12,}{row['counts_ms']:>14.2f}{row['update_ms']:>14.2f}{row['bytes']:>12,}   {good}")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
