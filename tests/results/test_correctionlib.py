"""A payload of correctionlib is a source of weights like any other, and part of the identity of the analysis."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import outreach
import pytest
import uproot
from generators import clean_zz_events, pack
from outreach import campaign, dataset

import higgsnb as hn
from higgsnb import engine
from higgsnb.datasets import Campaign

HOW = "correctionlib is not installed: pip install correctionlib"
correctionlib = pytest.importorskip("correctionlib", reason=HOW)
schema = pytest.importorskip("correctionlib.schemav2", reason=HOW)
pytestmark = pytest.mark.one_python

EDGES = (0.0, 20.0, 40.0, 1000.0)
FACTORS = {"sf": (0.9, 0.95, 1.0), "systup": (0.96, 0.98, 1.01), "systdown": (0.84, 0.92, 0.99)}
PT = hn.Axis("pt", 8, 0, 80)


def payload(factors: dict[str, tuple[float, ...]]) -> str:
    """Return scale factors in bins of pT, nominal, up and down, as the JSON that collaborations publish."""
    binned = [
        schema.CategoryItem(
            key=way,
            value=schema.Binning(
                nodetype="binning", input="pt", edges=list(EDGES), content=list(content), flow="clamp"
            ),
        )
        for way, content in factors.items()
    ]
    scale_factor = schema.Correction(
        name="muon_id", version=1, output=schema.Variable(name="weight", type="real"),
        inputs=[schema.Variable(name="pt", type="real"), schema.Variable(name="way", type="string")],
        data=schema.Category(nodetype="category", input="way", content=binned),
    )  # fmt: skip
    return str(schema.CorrectionSet(schema_version=2, corrections=[scale_factor]).model_dump_json())


def analysis(factors: dict[str, tuple[float, ...]]) -> hn.Analysis:
    muon_id = correctionlib.CorrectionSet.from_string(payload(factors))["muon_id"]

    def first_muon(events: Any) -> hn.Selected:
        events = events[ak.num(events.Muon) > 0]
        pt = np.asarray(events.Muon.pt[:, 0], np.float64)
        weights = tuple(muon_id.evaluate(pt, way) for way in ("sf", "systup", "systdown"))
        return hn.Selected(events, pt=pt, weights={"muon_id": weights})

    return hn.Analysis("first", first_muon, columns=["Muon_pt"], axes=[PT], variations=["muon_id"])


@pytest.fixture
def made(tmp_path: Path) -> Campaign:
    path = outreach.write(tmp_path / "mc.root", pack(clean_zz_events(400, seed=3)), weights=np.ones(400, np.float32))
    return campaign(dataset("mc", "zz", path, cross_section_pb=0.1), schema="nanoaod")


@pytest.mark.parametrize("options", [{"workers": 1}, {"client": "processes", "workers": 2}], ids=["here", "processes"])
def test_weights_are_those_of_the_table(made: Campaign, options: dict[str, Any]) -> None:
    *_, result = engine.run(made, analysis(FACTORS), chunk_events=150, **options)
    with uproot.open(hn.datasets.locate(made.datasets[0].files[0].url).location) as file:
        pt = ak.to_numpy(ak.drop_none(ak.firsts(file["Events"]["Muon_pt"].array()))).astype(np.float64)
    assert len(pt) > 200
    histogram = result.weighted_histograms["pt"]
    for copy, way in {"nominal": "sf", "muon_id_up": "systup", "muon_id_down": "systdown"}.items():
        factors = np.asarray(FACTORS[way])[np.searchsorted(EDGES, pt, side="right") - 1]
        expected, _ = np.histogram(pt, PT.edges, weights=factors)
        np.testing.assert_allclose(histogram["mc", copy, "selected", :].view().value, expected, rtol=1e-6)


def test_another_payload_is_counted_anew_and_the_same_is_not(made: Campaign, tmp_path: Path) -> None:
    other = FACTORS | {"systup": (0.96, 0.98, 1.02)}
    assert analysis(FACTORS).digest == analysis(dict(FACTORS)).digest
    assert analysis(other).digest != analysis(FACTORS).digest
    yields = []
    for factors in (FACTORS, other, FACTORS):
        *_, result = engine.run(made, analysis(factors), workers=1, ledger=tmp_path / "ledger.sqlite")
        yields.append(result.spectrum("pt", "muon_id_up").stack["zz"].sum())
    assert yields[0] == yields[2] < yields[1]
