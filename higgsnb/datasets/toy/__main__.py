"""Command line: ``python -m higgsnb.datasets.toy FOLDER --events N --seed S``."""

from __future__ import annotations

import argparse
from pathlib import Path

from higgsnb.datasets.toy.writer import DEFAULT_EVENTS, DEFAULT_SEED, make

if __name__ == "__main__":
    description = "Write the simulated toy campaign."
    parser = argparse.ArgumentParser(prog="python -m higgsnb.datasets.toy", description=description)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--events", type=int, default=None, help=f"total, default {DEFAULT_EVENTS}")
    parser.add_argument("--seed", type=int, default=DEFAULT_SEED)
    options = parser.parse_args()
    make(options.folder, seed=options.seed, events=options.events)
