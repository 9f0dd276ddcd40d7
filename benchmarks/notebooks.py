"""What the notebooks cost: words to read, lines of code, seconds to run and memory, each in a fresh kernel.

    python benchmarks/notebooks.py [--no-run] [NAME ...]

A name is the beginning of a notebook's file name. Seconds are from the start of the kernel to the last output; memory
is the largest resident size of the kernel, without the processes that it starts.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import time
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parents[1] / "notebooks"
PEAK = "import resource as _r; print(_r.getrusage(_r.RUSAGE_SELF).ru_maxrss)"


def cells(path: Path, kind: str) -> list[str]:
    document = json.loads(path.read_text(encoding="utf-8"))
    return ["".join(cell["source"]) for cell in document["cells"] if cell["cell_type"] == kind]


def code_lines(source: str) -> int:
    return sum(bool(line.strip()) and not line.lstrip().startswith("#") for line in source.splitlines())


def words(source: str) -> int:
    """Words of prose: without code, folded solutions' code and formulas."""
    return len(re.sub(r"```.*?```|\$\$.*?\$\$|<[^>]*>", " ", source, flags=re.DOTALL).split())


def style(path: Path) -> dict[str, Any]:
    counted = [code_lines(source) for source in cells(path, "code")]
    return {
        "words": sum(map(words, cells(path, "markdown"))),
        "code cells": len(counted),
        "code lines": sum(counted),
        "median": statistics.median(counted),
        "biggest": max(counted),
        "exercises": "\n".join(cells(path, "markdown")).count("<summary>Solution</summary>"),
    }


def run(path: Path) -> dict[str, Any]:
    """Seconds and peak memory (MB) of one notebook in a fresh kernel."""
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    notebook.cells.append(nbformat.v4.new_code_cell(source=PEAK))
    started = time.perf_counter()
    NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(FOLDER)}}
    ).execute()
    kilobytes = int(notebook.cells[-1]["outputs"][0]["text"])
    return {"seconds": round(time.perf_counter() - started, 1), "MB": round(kilobytes / 1024)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="beginnings of file names; default: all notebooks")
    parser.add_argument("--no-run", action="store_true", help="count only")
    options = parser.parse_args()
    chosen = [p for p in sorted(FOLDER.glob("*.ipynb")) if not options.names or p.name.startswith(tuple(options.names))]
    heading = True
    for path in chosen:
        row = {"notebook": path.stem, **style(path), **({} if options.no_run else run(path))}
        if heading:
            print("| " + " | ".join(row) + " |\n|" + "---|" * len(row))
        heading = False
        print("| " + " | ".join(map(str, row.values())) + " |", flush=True)


if __name__ == "__main__":
    main()
