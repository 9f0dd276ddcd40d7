"""The same events come out of every form in which a file may hold them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from event_forms import FORMS, Made, N, Written, make

from higgsnb import events, selection
from higgsnb.errors import SchemaError
from higgsnb.events import Columns, EventColumns
from higgsnb.events.fast.blocks import UnexpectedFormError
from higgsnb.events.root import KeptFiles
from higgsnb.selection import Leptons, parse

WANTED = (
    "nMuon", "Muon_pt", "Muon_eta", "Muon_phi", "Muon_charge", "Electron_pt", "Electron_charge", "MET_pt", "MET_phi",
    "HLT_IsoMu24",
)  # fmt: skip
LISTS = ("Muon_mediumId", "Jet_pt", "Jet_jetId", "Muon_jetIdx")
FIELDS = {
    "pt": "pt", "eta": "eta", "phi": "phi", "mass": "mass", "charge": "charge", "dxy": "dxy", "dxy_error": "dxyErr",
    "dz": "dz", "dz_error": "dzErr", "isolation": "pfRelIso03_all",
}  # fmt: skip


@pytest.fixture(scope="module")
def made() -> Made:
    return make()


@pytest.fixture(scope="module", params=FORMS)
def written(request: pytest.FixtureRequest, made: Made, tmp_path_factory: pytest.TempPathFactory) -> Written:
    return FORMS[request.param](made, tmp_path_factory.mktemp(request.param))


@pytest.fixture(params=["fast", "uproot"])
def reader(request: pytest.FixtureRequest, written: Written, monkeypatch: pytest.MonkeyPatch) -> str:
    """How the form is read: by the fast readers, or by uproot as if these did not know it."""

    def refuse(*_: Any) -> None:
        raise UnexpectedFormError("uproot shall read it")

    if request.param == "uproot":
        monkeypatch.setattr(KeptFiles, "readers", refuse)
    return written.reader if request.param == "fast" or written.reader == "csv" else "uproot"


def read_in_chunks(written: Written, columns: Columns, edges: Sequence[int]) -> EventColumns:
    """Read the chunks of a file, one after the other."""
    chunks = [replace(written.chunk, start=start, stop=stop) for start, stop in pairwise(edges)]
    parts = [events.read_events(chunk, columns) for chunk in chunks]
    first = parts[0]
    counts = {name: np.concatenate([np.diff(part.offsets[name]) for part in parts]) for name in first.offsets}
    return first._replace(
        entries=np.concatenate([part.entries for part in parts]),
        n_events=sum(part.n_events for part in parts),
        flat={name: np.concatenate([part.flat[name] for part in parts]) for name in first.flat},
        jagged={name: np.concatenate([part.jagged[name] for part in parts]) for name in first.jagged},
        offsets={name: np.concatenate(([0], np.cumsum(number))) for name, number in counts.items()},
    )


def identifiers(written: Written, made: Made, which: npt.NDArray[np.bool_]) -> dict[str, list[int]]:
    """What identifies some events: ATLAS has no lumi sections, and event numbers of 32 bits here."""
    is_atlas = written.chunk.schema == "atlas"
    return {
        "run": made.flat["run"][which].tolist(),
        "luminosityBlock": (made.flat["luminosityBlock"][which] * (not is_atlas)).tolist(),
        "event": (made.flat["event"][which] % (2**32 if is_atlas else 2**63)).tolist(),
    }


@pytest.mark.parametrize("edges", [[0, N], [0, 1, 77, 150, 151, N]])
def test_columns_are_equal_in_every_form(made: Made, written: Written, reader: str, edges: list[int]) -> None:
    is_outreach = written.chunk.schema == "outreach"  # which has no triggers
    names = WANTED + (LISTS if written.has_lists and written.chunk.schema == "nanoaod" else ())
    wanted = {written.names.get(name, name): name for name in names}
    trigger, met = (written.names.get(name, name) for name in ("HLT_IsoMu24", "MET_pt"))
    columns = Columns(tuple(wanted), parse(f"nMuon >= 2 and ({trigger} or {met} > 60) and nElectron < 4"))
    fired = made.flat["HLT_IsoMu24"] & (not is_outreach)
    which = (made.counts["Muon"] >= 2) & (fired | (made.flat["MET_pt"] > 60)) & (made.counts["Electron"] < 4)
    assert 20 < which.sum() < N - 20

    found = read_in_chunks(written, columns, edges)
    assert (found.reader, found.n_events) == (reader, N)
    assert found.missing == ({"HLT_IsoMu24"} if is_outreach else set())
    assert found.entries.tolist() == np.flatnonzero(which).tolist()
    assert {name: found.flat[name].tolist() for name in identifiers(written, made, which)} == identifiers(
        written, made, which
    )
    assert [found.flat[name].dtype for name in ("run", "luminosityBlock", "event")] == [np.int64, np.int64, np.uint64]
    for name, ours in wanted.items():
        values = found.flat[name] if name in found.flat else found.jagged[name]
        expected = made.column(ours, which) & (not is_outreach) if ours == "HLT_IsoMu24" else made.column(ours, which)
        assert values.dtype.isnative
        assert values.tolist() == expected.tolist(), name
    for name in ("Muon", "Electron"):
        assert np.diff(found.offsets[name]).tolist() == made.counts[name][which].tolist()
    assert {*found.flat, *found.jagged} == {"run", "luminosityBlock", "event", *wanted}


def test_leptons_and_candidates_are_equal_in_every_form(made: Made, written: Written, reader: str) -> None:
    muons, electrons = made.counts["Muon"], made.counts["Electron"]
    which = (np.maximum(muons, electrons) >= 4) | (np.minimum(muons, electrons) >= 2)
    assert events.inspect(
        written.chunk.file, written.chunk.schema, tree=written.chunk.tree, headers=written.chunk.columns
    ).entries == N  # fmt: skip
    found = events.read_preselected(written.chunk)
    assert (found.reader, found.entries.tolist(), found.n_events) == (reader, np.flatnonzero(which).tolist(), N)
    expected = identifiers(written, made, which)
    leptons = found.leptons
    assert leptons.run.tolist() == expected["run"]
    assert leptons.luminosity_block.tolist() == expected["luminosityBlock"]
    assert leptons.event.tolist() == expected["event"]
    for flavour, collection in (("muon", "Muon"), ("electron", "Electron")):
        assert np.diff(getattr(leptons, f"{flavour}_offsets")).tolist() == made.counts[collection][which].tolist()
        for field, name in FIELDS.items():
            values = getattr(leptons, f"{flavour}_{field}")
            if f"{flavour}_{field}" in written.lacks:
                assert values is None
            else:
                assert values.dtype == (np.int32 if field == "charge" else np.float32)
                assert values.tolist() == made.column(f"{collection}_{name}", which).tolist(), (flavour, field)
    cuts = selection.load("open2012").replace(sip_max=1e6)  # ATLAS has no errors of impact parameters
    candidates = selection.select(leptons, cuts)
    assert np.allclose(candidates.mass_4l, selection.select(_expected(made, which), cuts).mass_4l, rtol=0, atol=0)
    assert len(candidates.mass_4l) > 3


def _expected(made: Made, which: npt.NDArray[np.bool_]) -> Leptons:
    columns: dict[str, Any] = {"run": made.flat["run"][which].astype(np.int64)}
    columns |= {"luminosity_block": np.zeros(which.sum(), np.int64), "event": made.flat["event"][which]}
    for flavour, collection in (("muon", "Muon"), ("electron", "Electron")):
        columns[f"{flavour}_offsets"] = np.concatenate(([0], np.cumsum(made.counts[collection][which])))
        columns |= {f"{flavour}_{field}": made.column(f"{collection}_{name}", which) for field, name in FIELDS.items()}
    return Leptons(**columns)


def test_all_events_and_lumi_sections_are_equal_in_every_form(made: Made, written: Written) -> None:
    everything = np.ones(N, np.bool_)
    chunk = replace(written.chunk, start=50, stop=N - 3)
    leptons = events.read_leptons(chunk)
    muons = np.repeat(np.arange(N), made.counts["Muon"])
    inside = (muons >= 50) & (muons < N - 3)
    assert leptons.muon_pt.tolist() == made.column("Muon_pt", everything)[inside].tolist()
    run, section = events.read_sections(chunk)
    expected = identifiers(written, made, everything)
    assert (run.tolist(), section.tolist()) == (expected["run"][50:-3], expected["luminosityBlock"][50:-3])


def test_columns_of_atlas_have_the_names_of_the_file_in_gev(made: Made, tmp_path: Path) -> None:
    mini, analysis = (FORMS[f"atlas_{name}"](made, tmp_path) for name in ("mini", "analysis"))
    four = parse("lep_n >= 4 and met_et > 40")
    found = events.read_events(mini.chunk, Columns(("lep_pt", "lep_ptcone30", "met_et", "lep_eta"), four))
    again = events.read_events(
        analysis.chunk, Columns(("lep_pt", "lep_ptvarcone30", "met", "lep_eta"), parse("lep_n >= 4 and met > 40"))
    )
    which = (made.counts["Muon"] + made.counts["Electron"] >= 4) & (made.flat["MET_pt"] > 40)
    assert found.entries.tolist() == again.entries.tolist() == np.flatnonzero(which).tolist()
    assert list(found.offsets) == ["lep"]
    for name, other in zip(
        ("lep_pt", "lep_ptcone30", "lep_eta"), ("lep_pt", "lep_ptvarcone30", "lep_eta"), strict=True
    ):
        assert found.jagged[name].dtype == np.float32
        assert found.jagged[name].tolist() == again.jagged[other].tolist()
    pt = np.concatenate([made.column(f"{one}_pt", which) for one in ("Muon", "Electron")])
    assert sorted(found.jagged["lep_pt"].tolist()) == sorted(pt.tolist())
    assert found.flat["met_et"].tolist() == made.column("MET_pt", which).tolist()


def test_tree_of_no_release_of_atlas_is_refused_as_its_unit_is_not_known(made: Made, tmp_path: Path) -> None:
    chunk = replace(FORMS["other_tree"](made, tmp_path).chunk, schema="atlas")
    with pytest.raises(
        SchemaError, match=r"tree 'nano' is of no known release .*\nKnown: mini \(MeV\), analysis \(GeV\)"
    ):
        events.read_events(chunk, Columns(("lep_pt",)))
    with pytest.raises(SchemaError, match=r"no tree 'mini' or 'analysis'; it holds nano"):
        events.inspect(chunk.file, "atlas")
