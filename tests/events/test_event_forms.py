"""The same events come out of every form in which a file may hold them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import event_forms
import numpy as np
import pytest
from event_forms import FORMS, Made, N, Written, make

from higgsnb import events
from higgsnb.events import Columns, EventColumns
from higgsnb.events import root as root_
from higgsnb.events.fast.blocks import UnexpectedFormError
from higgsnb.selection import QUANTITIES, parse

WANTED = (
    "nMuon", "Muon_pt", "Muon_eta", "Muon_phi", "Muon_charge", "Electron_pt", "Electron_charge", "MET_pt", "MET_phi",
    "HLT_IsoMu24",
)  # fmt: skip
LISTS = ("Muon_mediumId", "Jet_pt", "Jet_jetId", "Muon_jetIdx")


@pytest.fixture(scope="module")
def made() -> Made:
    return make()


@pytest.fixture(scope="module", params=FORMS)
def written(request: pytest.FixtureRequest, made: Made, tmp_path_factory: pytest.TempPathFactory) -> Written:
    return FORMS[request.param](made, tmp_path_factory.mktemp(request.param))


def by_uproot(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise UnexpectedFormError("uproot shall read it")

    monkeypatch.setattr(root_.KeptFiles, "readers", refuse)


def check(found: EventColumns, made: Made, wanted: dict[str, str], which: Any, written: Written) -> None:
    """Compare columns, given by their names in the file and in `Made`."""
    assert found.entries.tolist() == np.flatnonzero(which).tolist()
    assert found.n_events == N
    is_atlas = written.chunk.schema == "atlas"
    assert found.flat["run"].tolist() == made.flat["run"][which].tolist()
    assert found.flat["luminosityBlock"].tolist() == (made.flat["luminosityBlock"][which] * (not is_atlas)).tolist()
    assert found.flat["event"].tolist() == (made.flat["event"][which] % (2**32 if is_atlas else 2**63)).tolist()
    assert [found.flat[name].dtype for name in ("run", "luminosityBlock", "event")] == [np.int64, np.int64, np.uint64]
    for name, ours in wanted.items():
        values = found.flat[name] if name in found.flat else found.jagged[name]
        assert values.dtype.isnative
        assert values.tolist() == made.column(ours, which).tolist(), name
    for name in ("Muon", "Electron"):
        assert np.diff(found.offsets[name]).tolist() == made.counts[name][which].tolist()
    assert set(found.flat) | set(found.jagged) == {"run", "luminosityBlock", "event", *wanted}


@pytest.mark.parametrize("reader", ["fast", "uproot"])
@pytest.mark.parametrize("chunking", [[0, N], [0, 1, 77, 150, 151, N]])
def test_columns_are_equal_in_every_form(
    made: Made, written: Written, reader: str, chunking: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    if reader == "uproot":
        by_uproot(monkeypatch)
    triggers = "HLT_" in " ".join(written.names.get(n, n) for n in WANTED) and written.chunk.schema != "outreach"
    names = WANTED + (LISTS if written.has_lists and written.chunk.schema == "nanoaod" else ())
    wanted = {written.names.get(name, name): name for name in names}
    trigger = written.names.get("HLT_IsoMu24", "HLT_IsoMu24")
    met = written.names.get("MET_pt", "MET_pt")
    columns = Columns(tuple(wanted), parse(f"nMuon >= 2 and ({trigger} or {met} > 60) and nElectron < 4"))
    fired = made.flat["HLT_IsoMu24"] if written.chunk.schema != "outreach" else np.zeros(N, np.bool_)
    which = (made.counts["Muon"] >= 2) & (fired | (made.flat["MET_pt"] > 60)) & (made.counts["Electron"] < 4)
    if written.chunk.schema == "outreach":
        del wanted["HLT_IsoMu24"]
    assert triggers or written.chunk.schema in ("outreach", "atlas")
    parts = [replace(written.chunk, start=start, stop=stop) for start, stop in pairwise(chunking)]
    found = joined([events.read_events(part, columns) for part in parts])
    if written.chunk.schema == "outreach":
        assert found.missing == {"HLT_IsoMu24"}
        assert not found.flat.pop("HLT_IsoMu24").any()
    check(found, made, wanted, which, written)
    assert found.reader == (written.reader if reader == "fast" or written.reader == "csv" else "uproot")


def joined(parts: list[EventColumns]) -> EventColumns:
    """Chunks of one file, one after the other."""
    offsets = {
        name: np.concatenate(([0], np.cumsum(np.concatenate([np.diff(part.offsets[name]) for part in parts]))))
        for name in parts[0].offsets
    }
    return parts[0]._replace(
        entries=np.concatenate([part.entries for part in parts]),
        n_events=sum(part.n_events for part in parts),
        flat={name: np.concatenate([part.flat[name] for part in parts]) for name in parts[0].flat},
        jagged={name: np.concatenate([part.jagged[name] for part in parts]) for name in parts[0].jagged},
        offsets=offsets,
    )
