"""The throughput bars: one file per codec and layout, all peers side by side, medians of alternating passes.

Each peer runs in a process of its own and makes one pass to warm up; then all take turns, so that a change in the
machine's mood meets all of them. Histograms must be equal bin for bin, or nothing is reported.

    python benchmarks/throughput.py --events 1000000 --passes 5 --json throughput.json
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from inputs import make

TUTORIAL, LEAN = "RDataFrame tutorial", "RDataFrame lean"
VERIFIED, CHECKED = "higgsnb, verified file", "higgsnb, checked"
LIMIT = "inflation only"
PROGRAM = Path(__file__).with_name("peers.py")
NEEDS = {"RDataFrame": "ROOT", "coffea": "coffea"}


@dataclass(frozen=True)
class Bar:
    """``ours`` must take at most 1/``factor`` of the time of ``peer`` on an input (codec, layout)."""

    name: str
    codec: str
    layout: str
    ours: str
    peer: str
    factor: float
    workers: int = 1
    clock: str = "cpu"
    signal: bool = False


BARS = (
    Bar("ZLIB, large baskets, verified file, against the tutorial", "zlib", "large", VERIFIED, TUTORIAL, 3.0),
    Bar("same, against the leanest RDataFrame", "zlib", "large", VERIFIED, LEAN, 1.5),
    Bar("same, against typed lambdas", "zlib", "large", VERIFIED, "RDataFrame typed", 1.5),
    Bar("same, checked path", "zlib", "large", CHECKED, TUTORIAL, 2.5),
    Bar("against uproot + awkward", "zlib", "large", VERIFIED, "uproot + awkward", 3.5),
    Bar("against coffea", "zlib", "large", VERIFIED, "coffea", 4.0),
    Bar("against uproot + the same kernel", "zlib", "large", VERIFIED, "uproot + kernel", 2.0),
    Bar("over inflating the same baskets (at most 1.35 times)", "zlib", "large", VERIFIED, LIMIT, 1 / 1.35),
    Bar("ZLIB, small unaligned baskets", "zlib", "small", CHECKED, TUTORIAL, 2.0),
    Bar("ZSTD", "zstd", "large", CHECKED, TUTORIAL, 2.4),
    Bar("LZ4", "lz4", "large", CHECKED, TUTORIAL, 5.0),
    Bar("ZSTD, small unaligned baskets", "zstd", "small", CHECKED, TUTORIAL, 2.0),
    Bar("LZ4, small unaligned baskets", "lz4", "small", CHECKED, TUTORIAL, 2.0),
    Bar("signal, ZLIB, large baskets", "zlib", "large", VERIFIED, TUTORIAL, 3.0, signal=True),
    Bar("RNTuple, ZSTD", "zstd", "rntuple", CHECKED, TUTORIAL, 1.2),
    Bar("RNTuple, ZLIB", "zlib", "rntuple", CHECKED, TUTORIAL, 1.2),
    Bar("2 workers, wall clock", "zlib", "large", VERIFIED, TUTORIAL, 3.0, workers=2, clock="wall"),
    Bar(
        "2 threads in one process, wall clock",
        "zlib",
        "large",
        "higgsnb, threads",
        TUTORIAL,
        3.0,
        workers=2,
        clock="wall",
    ),
)


@dataclass
class Peer:
    """One peer in a process of its own, and the passes it has made."""

    name: str
    process: subprocess.Popen[str]
    passes: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def start(
        cls, name: str, path: Path, workers: int, *, program: Path = PROGRAM, package: Path | None = None
    ) -> Peer:
        """Start the process; it waits for `run`. ``package`` is another checkout of higgsnb to be imported."""
        command = [sys.executable, str(program), name, str(path), "--workers", str(workers)]
        env = None if package is None else os.environ | {"PYTHONPATH": str(package)}
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)
        return cls(name, process)

    def run(self) -> None:
        """Make one pass and note it."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        for line in self.process.stdout:
            if line.startswith('{"wall"'):
                self.passes.append(json.loads(line))
                return
        raise RuntimeError(f"{self.name} ended with code {self.process.wait()}; run it by hand to see why")

    def stop(self) -> None:
        """Close its input, which ends it."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(timeout=60)

    def median(self, clock: str) -> float:
        """Median seconds of the warm passes."""
        return statistics.median(one[clock] for one in self.passes if not one["cold"])

    def summary(self) -> dict[str, Any]:
        """What goes into the JSON."""
        return {
            "cpu_s": self.median("cpu"),
            "wall_s": self.median("wall"),
            "cold_cpu_s": self.passes[0]["cpu"],
            "cold_wall_s": self.passes[0]["wall"],
            "rss_mb": max(one["rss_mb"] for one in self.passes),
            "passes": [{clock: one[clock] for clock in ("cpu", "wall")} for one in self.passes],
        }


def is_installed(name: str) -> bool:
    """Whether what a peer needs is installed."""
    return all(find_spec(module) is not None for start, module in NEEDS.items() if name.startswith(start))


def race(names: Iterable[str], path: Path, *, passes: int, workers: int, program: Path = PROGRAM) -> dict[str, Peer]:
    """Let the peers take turns on one file; their histograms must agree."""
    peers = {name: Peer.start(name, path, workers, program=program) for name in names if is_installed(name)}
    alternate(peers.values(), passes)
    compare(peers, path)
    return peers


def alternate(peers: Iterable[Peer], passes: int) -> None:
    """Let peers take turns, first each with a pass to warm up, and stop them."""
    peers = list(peers)
    try:
        for _ in range(1 + passes):
            for peer in peers:
                peer.run()
    finally:
        for peer in peers:
            peer.stop()


def compare(peers: Mapping[str, Peer], path: Path) -> None:
    """Complain about histograms that differ."""
    bins = {name: peer.passes[-1]["bins"] for name, peer in peers.items() if peer.passes[-1]["bins"]}
    first = next(iter(bins))
    for name, found in bins.items():
        if found != bins[first]:
            wrong = [i for i, (a, b) in enumerate(zip(found, bins[first], strict=True)) if a != b]
            raise RuntimeError(f"{path.name}: {name} and {first} differ in bins {wrong}")


def measure(bars: Sequence[Bar], folder: Path, events: int, passes: int) -> list[dict[str, Any]]:
    """Race the peers that the bars need, file by file, and judge."""
    rows = []
    for key in dict.fromkeys((bar.codec, bar.layout, bar.signal, bar.workers) for bar in bars):
        codec, layout, signal, workers = key
        mine = [bar for bar in bars if (bar.codec, bar.layout, bar.signal, bar.workers) == key]
        path = make(folder, events, codec=codec, layout=layout, signal=signal)
        peers = race(
            dict.fromkeys(name for bar in mine for name in (bar.ours, bar.peer)), path, passes=passes, workers=workers
        )
        rows += [_judge(bar, peers, events) for bar in mine if bar.ours in peers and bar.peer in peers]
        for row in rows[-len(mine) :]:
            verdict = "ok" if row["reached"] else "MISSED"
            times = f"{row['ours']:6.3f} s {row['peer']:6.3f} s {row['ratio']:5.2f} (bar {row['needed']:.2f})"
            print(f"{row['bar'][:58]:58s} {times} {verdict}", flush=True)
    return rows


def _judge(bar: Bar, peers: dict[str, Peer], events: int) -> dict[str, Any]:
    ours, peer = (peers[name].median(bar.clock) for name in (bar.ours, bar.peer))
    return {
        "bar": bar.name,
        "clock": bar.clock,
        "ours": ours,
        "peer": peer,
        "ratio": peer / ours,
        "needed": bar.factor,
        "reached": peer / ours >= bar.factor,
        "million_events_per_second": events / ours / 1e6,
        "details": {name: peers[name].summary() for name in (bar.ours, bar.peer)},
    }


def main() -> None:
    """Run the bars."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--events", type=int, default=2_000_000)
    parser.add_argument("--passes", type=int, default=5, help="warm passes of each peer")
    parser.add_argument("--folder", type=Path, default=Path(__file__).parent / "build" / "inputs")
    parser.add_argument("--only", default="", help="only bars whose name contains this")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    bars = [bar for bar in BARS if options.only.lower() in bar.name.lower()]
    rows = measure(bars, options.folder, options.events, options.passes)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")
    if not all(row["reached"] for row in rows):
        raise SystemExit("a bar was missed")


if __name__ == "__main__":
    main()
