"""The example of the README that starts a cluster, run as it stands there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from higgsnb import engine

README = Path(__file__).resolve().parents[2] / "README.md"
HEADING = "## A cluster, and a histogram that fills live\n"


def example() -> str:
    """The first block of Python below the heading."""
    found = re.search(
        r"^```python\n(.*?)^```$", README.read_text("utf-8").partition(HEADING)[2], re.DOTALL | re.MULTILINE
    )
    assert found is not None
    return found[1]


def test_example_with_a_cluster_of_this_machine_counts_everything() -> None:
    asked = 'launch("kubernetes", workers=20)'
    assert asked in example()
    names: dict[str, Any] = {}
    exec(example().replace(asked, 'launch("local", workers=1)'), names)  # noqa: S102 - that is what is tested
    live = names["live"]
    assert (live.wait(0), live.state["phase"], live.error) == (True, "complete", None)
    assert names["mine"].state.phase == "closed"
    *_, expected = engine.run(names["campaign"], names["selection"])
    assert all(np.array_equal(live.result.counts[name], expected.counts[name]) for name in expected.counts)
