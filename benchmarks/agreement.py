"""The events that higgsnb and ROOT's df103 select, compared one by one, for every codec and layout.

python benchmarks/agreement.py --events 3000000
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from inputs import make
from peers import compiled_root

INPUTS = [
    *((codec, layout) for codec in ("zlib", "zstd") for layout in ("large", "small", "rntuple")),
    *(("lz4", layout) for layout in ("large", "small")),
    *((codec, "large") for codec in ("lzma", "none")),
]
LISTS = Path(__file__).with_name("event_lists.C")


def ours(path: Path) -> list[list[int]]:
    """Sorted event numbers per channel that higgsnb selects with df103."""
    from higgsnb import engine, selection
    from higgsnb.datasets import Campaign, Dataset, File

    dataset = Dataset("data", "data", files=(File(str(path)),))
    campaign = Campaign("bench", "Benchmark", "outreach", 1.0, 0.0, 8.0, "df103", (dataset,))
    (*_, result) = engine.run(campaign, selection.load("df103"))
    if not result.complete:
        raise RuntimeError(str(result.failed))
    rows = result.candidates
    return [sorted(rows.event[rows.channel == channel].tolist()) for channel in range(3)]


def theirs(root: Any, path: Path) -> list[list[int]]:
    """Sorted event numbers per channel that ROOT selects."""
    return [sorted(int(event) for event in channel) for channel in root.bench.event_lists(str(path))]


def main() -> None:
    """Compare all inputs; exit 1 if any differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--events", type=int, default=3_000_000)
    parser.add_argument("--folder", type=Path, default=Path(__file__).parent / "build" / "inputs")
    options = parser.parse_args()
    root, differing = compiled_root(LISTS), 0
    for codec, layout in INPUTS:
        path = make(options.folder, options.events, codec=codec, layout=layout)
        mine, peers = ours(path), theirs(root, path)
        differing += mine != peers
        counts = " ".join(f"{len(channel):6d}" for channel in mine)
        print(f"{codec:5s} {layout:8s} {counts}  {'equal' if mine == peers else 'DIFFERENT'}", flush=True)
    sys.exit(1 if differing else 0)


if __name__ == "__main__":
    main()
