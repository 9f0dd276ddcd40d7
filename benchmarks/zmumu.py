"""Z → μμ, an analysis of one's own, against RDataFrame, uproot + awkward and coffea; what variations cost; and whether
the four-lepton selection is as fast as in another checkout.

Each variant runs in a process of its own, makes one pass to warm up, and then they take turns, as in `throughput`.
Histograms must be equal bin for bin, or nothing is reported.

    python benchmarks/zmumu.py --json zmumu.json
    python benchmarks/zmumu.py four-leptons --baseline ../before --passes 15
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inputs import DATA, DIMUONS, SIMULATED_DIMUONS, make_content
from throughput import PROGRAM, Peer, alternate, compare, race

PEERS = Path(__file__).with_name("zmumu_peers.py")
AWKWARD, FLAT = "higgsnb, awkward", "higgsnb, flat"


@dataclass(frozen=True)
class Bar:
    """``ours`` must take at most ``most`` times the CPU time of ``peer``; without ``most`` it is only reported."""

    name: str
    ours: str
    peer: str
    most: float | None


BARS = (
    Bar("awkward function, against uproot + awkward", AWKWARD, "uproot + awkward", 1 / 1.7),
    Bar("same, uproot reading the muons only", AWKWARD, "uproot + awkward, muons only", None),
    Bar("awkward function, against coffea", AWKWARD, "coffea", 1 / 2.0),
    Bar("awkward function, against RDataFrame", AWKWARD, "RDataFrame", 1 / 1.5),
    Bar("numba function of flat columns, against RDataFrame", FLAT, "RDataFrame", 1 / 2.5),
    Bar("same, RDataFrame with functions of vectors", FLAT, "RDataFrame, vectors", None),
    Bar("awkward function, over inflating alone", AWKWARD, "inflation only", None),
    Bar("numba function, over inflating alone", FLAT, "inflation only", None),
    Bar("awkward function, blocks checked, against RDataFrame", "higgsnb, awkward, checked", "RDataFrame", None),
)
VARIATIONS = (
    Bar("five sources, up and down, over nominal alone", "higgsnb, five variations", "higgsnb, nominal weights", 1.3),
)
MOST_MB = 300.0
"""Most resident memory of one of our processes with data."""
FOUR, SLOWER = "higgsnb, four leptons", 1.03
"""Most CPU time of the four-lepton selection, in units of that of the other checkout."""


def zmumu(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Z → μμ in data."""
    path = make_content(options.folder, options.events, DIMUONS)
    peers = race(_names(BARS), path, passes=options.passes, workers=1, program=PEERS)
    return [*judge(BARS, peers), *memory(peers, MOST_MB)]


def variations(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Weights of simulation, whose generator weights have both signs; the nominal histograms must be equal."""
    path = make_content(options.folder, options.events, SIMULATED_DIMUONS)
    peers = race(_names(VARIATIONS), path, passes=options.passes, workers=1, program=PEERS)
    return [*judge(VARIATIONS, peers), *memory(peers, None)]


def four_leptons(options: argparse.Namespace) -> list[dict[str, Any]]:
    """The four-lepton selection here and in another checkout, whose own scripts are run with its own package."""
    if options.baseline is None:
        return []
    path = make_content(options.folder, options.events, DATA)
    here = Path(__file__).resolve().parents[1]
    rows = []
    for program, name in ((PROGRAM, "higgsnb, verified file"), (PROGRAM, "higgsnb, checked"), (PEERS, FOUR)):
        peers = {}
        for label, package in (("before", options.baseline.resolve()), ("here", here)):
            script = package / "benchmarks" / program.name
            one = script if script.exists() else program  # the other checkout may be older than this script
            peers[label] = Peer.start(name, path, 1, program=one, package=package)
        alternate(peers.values(), options.passes)
        compare(peers, path)
        rows += judge([Bar(f"{name}, here over before", "here", "before", SLOWER)], peers)
    return rows


SECTIONS: dict[str, Callable[[argparse.Namespace], list[dict[str, Any]]]] = {
    "zmumu": zmumu,
    "variations": variations,
    "four-leptons": four_leptons,
}


def _names(bars: Sequence[Bar]) -> dict[str, None]:
    return dict.fromkeys(name for bar in bars for name in (bar.ours, bar.peer))


def judge(bars: Sequence[Bar], peers: dict[str, Peer]) -> list[dict[str, Any]]:
    """Compare medians of CPU seconds; bars whose peer is not installed are left out."""
    rows = []
    for bar in bars:
        if bar.ours not in peers or bar.peer not in peers:
            continue
        ours, peer = (peers[name].median("cpu") for name in (bar.ours, bar.peer))
        reached = bar.most is None or ours <= bar.most * peer
        details = {name: peers[name].summary() for name in (bar.ours, bar.peer)}
        rows.append(
            {"bar": bar.name, "ours": ours, "peer": peer, "most": bar.most, "reached": reached, "details": details}
        )
        _show(bar.name, f"{ours:6.3f} s {peer:6.3f} s", f"{ours / peer:5.2f}", bar.most, reached)
    return rows


def memory(peers: dict[str, Peer], most: float | None) -> list[dict[str, Any]]:
    """Peak memory of each process; only ours must not take more than ``most`` MB."""
    rows = []
    for name, peer in peers.items():
        found, limit = float(peer.summary()["rss_mb"]), most if name.startswith("higgsnb") else None
        reached = limit is None or found <= limit
        rows.append({"bar": f"{name}, peak memory", "mb": found, "most": limit, "reached": reached})
        _show(f"{name}, peak memory", "", f"{found:.0f} MB", limit, reached)
    return rows


def _show(name: str, times: str, value: str, most: float | None, reached: bool) -> None:
    verdict = "" if most is None else f"(at most {most:.3g}) " + ("ok" if reached else "MISSED")
    print(f"{name[:58]:58s} {times:19s} {value:>8s} {verdict}", flush=True)


def main() -> None:
    """Run the sections asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sections", nargs="*", choices=[*SECTIONS, []], default=[])
    parser.add_argument("--events", type=int, default=2_000_000)
    parser.add_argument("--passes", type=int, default=5, help="warm passes of each variant")
    parser.add_argument("--folder", type=Path, default=Path(__file__).parent / "build" / "inputs")
    parser.add_argument("--baseline", type=Path, help="another checkout, for four-leptons")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows = [row for name in options.sections or SECTIONS for row in SECTIONS[name](options)]
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")
    if not all(row["reached"] for row in rows):
        raise SystemExit("a bar was missed")


if __name__ == "__main__":
    main()
