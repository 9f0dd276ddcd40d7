"""Files of forms that CERN's do not have: read, or named as what they are, never called damaged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uproot
from flipped_bits import DATA
from mutated_files import chunk_of

from higgsnb import datasets, events
from higgsnb.datasets import File
from higgsnb.errors import SchemaError

COUNTS = np.array([[i % 5, (i + 2) % 5] for i in range(9)])
"""Muons and electrons of the nine events; the values are those of `make.py`."""


def muon_pt(which: list[int]) -> list[float]:
    return [8.0 * event + place for event in which for place in range(COUNTS[event, 0])]


@pytest.mark.parametrize(
    ("form", "reader", "which"),
    [
        ("counter-uint64", "baskets", [2, 4, 7]),
        ("long", "baskets", [2, 4, 7]),
        ("double32", "uproot", [2, 4, 7]),
    ],
)
def test_other_types_of_number_are_read(form: str, reader: str, which: list[int]) -> None:
    file = File(str(DATA / f"form-{form}.root"))
    assert events.inspect(file, "outreach").entries == 9
    found = events.read_preselected(chunk_of(file, 9))
    assert found.reader == reader
    assert found.entries.tolist() == which
    assert np.diff(found.leptons.muon_offsets).tolist() == COUNTS[which, 0].tolist()
    assert np.diff(found.leptons.electron_offsets).tolist() == COUNTS[which, 1].tolist()
    assert found.leptons.muon_pt.tolist() == muon_pt(which)
    charges = [-1 if place % 2 == 0 else 1 for event in which for place in range(COUNTS[event, 1])]
    assert found.leptons.electron_charge.tolist() == charges


@pytest.mark.parametrize(
    ("form", "stored"),
    [
        ("float16", "stored as Float16_t, "),
        ("float16-range", "stored as Float16_t, "),
        ("double32-range", "stored as Double32_t in a range of its own (Muon_pt[nMuon]/d[-500,500,20]), "),
    ],
)
def test_packed_numbers_are_named_by_their_type(form: str, stored: str) -> None:
    file = File(str(DATA / f"form-{form}.root"))
    for action in (lambda: events.inspect(file, "outreach"), lambda: events.read_preselected(chunk_of(known(file), 9))):
        with pytest.raises(SchemaError) as caught:
            action()
        assert f"{file.url}: branch Muon_pt is {stored}" in caught.value.message
        assert "write this branch as float" in caught.value.hint


def known(file: File) -> File:
    """The same file with all that lets a run begin without opening it."""
    path = Path(file.url)
    return File(file.url, events=9, bytes=path.stat().st_size, adler32=datasets.checksum(path))


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (np.histogram([1.0, 2.0]), "TH1D"),
        (np.histogram2d([1.0, 2.0], [3.0, 4.0]), "TH2D"),
        ("a sentence", "TObjString"),
        (None, "folder"),
    ],
)
def test_something_else_called_events_is_named(tmp_path: Path, content: Any, what: str) -> None:
    path = tmp_path / "other.root"
    with uproot.recreate(path) as file:
        if content is None:
            file.mkdir("Events")
        else:
            file["Events"] = content
    with pytest.raises(SchemaError) as caught:
        events.inspect(File(str(path)), "outreach")
    assert caught.value.message == f"{path}: 'Events' is a {what}, neither a TTree nor an RNTuple"
    assert "fetch" not in caught.value.hint.lower()
