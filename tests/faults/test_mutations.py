"""G11, G25: mutated files of every form and codec, each read by a process that has 2 GB."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import pytest
from mutated_files import FORMS, PEAK, high_bits, mutations, outcomes, places_of, write_form

AT_ONCE = 150
"""Mutated files that one process reads."""
SHORT, LONG = 20, 290
"""Mutated files of each form: 140 and 2,030 in all."""


def judged(path: Path, changes: list[list[tuple[int, str]]]) -> tuple[Counter[str], int]:
    found: Counter[str] = Counter()
    highest = 0
    for first in range(0, len(changes), AT_ONCE):
        some, peak = outcomes(path, changes[first : first + AT_ONCE])
        found.update(some)
        highest = max(highest, peak)
    return found, highest


@pytest.mark.parametrize("form", FORMS)
def test_mutated_files_are_named_or_marked(tmp_path: Path, form: str, long: bool, figure: Callable[..., None]) -> None:
    path = write_form(tmp_path / "good.root", form)
    draw = random.Random(form)
    found, peak = judged(path, list(islice(mutations(path.read_bytes(), draw), LONG if long else SHORT)))
    figure("G11", f"mutated files, {form}", f"{dict(found)}, peak {peak / 1e6:.0f} MB")
    assert set(found) <= {"same", "named", "marked"}
    assert peak < PEAK


@pytest.mark.parametrize("form", ["TTree-none", "TTree-ZSTD", "RNTuple-none", "RNTuple-ZSTD"])
def test_high_bits_of_counters_and_headers_take_no_memory(
    tmp_path: Path, form: str, long: bool, figure: Callable[..., None]
) -> None:
    path = write_form(tmp_path / "good.root", form)
    changes = [[change] for change in high_bits(path.read_bytes(), places_of(path, 1 if long else 151))]
    found, peak = judged(path, changes)
    figure("G25", f"high bits of counters and headers, {form}", f"{dict(found)}, peak {peak / 1e6:.0f} MB")
    assert set(found) <= {"same", "named", "marked"}
    assert peak < PEAK
