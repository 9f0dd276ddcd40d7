"""Faulty analyses for tests: importable by worker processes, controlled by environment variables."""

from __future__ import annotations

import errno
import os
import re
import signal
from pathlib import Path
from typing import Any

import numpy as np

from higgsnb.datasets import Chunk
from higgsnb.engine import executors
from higgsnb.results import Tally, analyse
from higgsnb.results.layout import FOUR_LEPTONS
from higgsnb.selection import CHANNELS, QUANTITIES, Cut, Selection


def dying(chunk: Chunk, selection: Selection, **options: Any) -> Tally:
    """End the process in the chunk of the first file that begins at entry ``POISON_START``."""
    if _is_poison(chunk):
        os.kill(os.getpid(), signal.SIGSEGV)
    return analyse(chunk, selection, **options)


def endless(chunk: Chunk, selection: Selection, **options: Any) -> Tally:
    """Loop for ever in that chunk."""
    while _is_poison(chunk):
        pass
    return analyse(chunk, selection, **options)


def stuck(chunk: Chunk, selection: Selection, **options: Any) -> Tally:
    """Analyse that chunk, then stay in compiled code that lets no other thread run: 2^60 ways to split a text."""
    found = analyse(chunk, selection, **options)
    if _is_poison(chunk):
        re.match(r"(a+)+$", "a" * 60 + "b")
    return found


def stopped(chunk: Chunk, selection: Selection, **options: Any) -> Tally:
    """Stop the process in that chunk, the first time, which leaves a file in the folder ``CALLS``."""
    first = Path(os.environ["CALLS"]) / "stopped"
    if _is_poison(chunk) and not first.exists():
        first.touch()
        signal.raise_signal(signal.SIGSTOP)
    return analyse(chunk, selection, **options)


def noted(chunk: Chunk, selection: Selection, **options: Any) -> Tally:
    """Write each call to a file in the folder ``CALLS``, before anything else."""
    with (Path(os.environ["CALLS"]) / f"{os.getpid()}").open("a") as stream:
        stream.write(f"{chunk.dataset_index} {chunk.file_index} {chunk.start}\n")
    return dying(chunk, selection, **options)


def away(chunk: Chunk, selection: Selection, **options: Any) -> Tally:
    """Find no server while ``AWAY`` is set."""
    if "AWAY" in os.environ:
        raise ConnectionError("the server is away\nTry again later.")
    return analyse(chunk, selection, **options)


def short_of_memory(chunk: Chunk, selection: Selection, **options: Any) -> Tally:
    """Ask for too much memory in that chunk."""
    if _is_poison(chunk):
        raise MemoryError("Unable to allocate 16.0 GiB")
    return analyse(chunk, selection, **options)


def begin_late(parent: int) -> None:
    """Begin a worker process; the first ``STILLBORN`` ones die before that, counted in the folder ``CALLS``.

    They exit with an error, or are killed by the signal ``SIGNAL``.
    """
    mine = Path(os.environ["CALLS"]) / f"begun-{os.getpid()}"
    mine.touch()
    if len(list(mine.parent.glob("begun-*"))) <= int(os.environ["STILLBORN"]):
        if "SIGNAL" in os.environ:
            os.kill(os.getpid(), int(os.environ["SIGNAL"]))
        os._exit(1)
    executors._follow(parent)


def full_disk() -> None:
    """Find a full disk."""
    raise OSError(errno.ENOSPC, "No space left on device")


def _is_poison(chunk: Chunk) -> bool:
    place = (chunk.dataset_index, chunk.file_index, chunk.start)
    return place == (0, 0, int(os.environ.get("POISON_START", "-1")))


def nothing(chunk: Chunk, _: Selection, **__: Any) -> Tally:
    """Count the events of a chunk without reading any: for campaigns of files that do not exist."""
    index, file = chunk.dataset_index, (chunk.dataset_index, chunk.file_index)
    return Tally(
        ranges={file: ((chunk.start, chunk.stop),)},
        counts={index: np.zeros(FOUR_LEPTONS.shapes["counts"], np.int64)},
        cutflow={index: np.full((len(CHANNELS), len(Cut)), chunk.stop - chunk.start, np.int64)},
        invalid_values={index: np.zeros((2, len(QUANTITIES)), np.int64)},
        rejected_by_golden_json={index: 0},
        not_applied={index: frozenset()},
        readers={file: frozenset({("none", "none")})},
    )
