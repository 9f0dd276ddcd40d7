"""Own axes of a four-lepton selection are filled like the shipped ones: exactly, by channel, each event once."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import outreach
import pyarrow.parquet as pq
import pytest
from generators import clean_zz_events, pack
from outreach import campaign, dataset, events_of

import higgsnb as hn
from higgsnb import engine, plots
from higgsnb import selection as hs
from higgsnb.datasets import Campaign
from higgsnb.errors import AnalysisError
from higgsnb.results import Result, write
from higgsnb.selection import CHANNELS, Leptons, Selection

N = 900
PLAIN = hs.load("open2012")


def softest(lepton_pt: Any) -> Any:
    return np.sort(lepton_pt, axis=1)[:, :2]


OWN = PLAIN.replace(
    axes=[
        hn.Axis("pt_4l", 25, 0, 100),
        hn.Axis("ratio", [0, 0.1, 0.35, 1], label="m(Z2) / m(Z1)"),  # type: ignore[arg-type]
        hn.Axis("azimuth", 12, -3.2, 3.2, variable="lepton_phi"),
        hn.Axis("softest", 10, 0, 50, per_event=2),
    ],
    observables={"ratio": "mass_z2 / mass_z1", "softest": softest, "unplotted": "rapidity_4l"},
)


@pytest.fixture(scope="module")
def leptons() -> Leptons:
    return pack(clean_zz_events(N, seed=21))


@pytest.fixture(scope="module")
def weights() -> np.ndarray:
    rng = np.random.default_rng(4)
    return (rng.choice([-1, 1, 1], N) * rng.uniform(1, 2, N)).astype(np.float32)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, leptons: Leptons, weights: np.ndarray) -> Campaign:
    """Weighted simulation, and two primary datasets that share a third of their events."""
    folder = tmp_path_factory.mktemp("own")
    simulated = outreach.write(folder / "mc.root", leptons, weights=weights)
    muons = outreach.write(folder / "mu.root", events_of(leptons, 0, 600))
    electrons = outreach.write(folder / "e.root", events_of(leptons, 300, 900))
    return campaign(
        dataset("mc", "zz", simulated, cross_section_pb=0.1),
        dataset("mu", "data", muons, primary_dataset="DoubleMu"),
        dataset("e", "data", electrons, primary_dataset="DoubleElectron"),
        schema="nanoaod",
    )


def last(made: Campaign, one: Selection = OWN, **options: Any) -> Result:
    *_, result = engine.run(made, one, **{"workers": 1, "ledger": None, **options})
    return result


@pytest.fixture(scope="module")
def result(made: Campaign) -> Result:
    return last(made)


Values = Mapping[int, tuple[int, dict[str, list[float]]]]


def oracle(leptons: Leptons) -> Values:
    """Channel and values of each selected event, computed one by one; by the number of the event."""
    found: dict[int, tuple[int, dict[str, list[float]]]] = {}
    candidates = hs.select(leptons, PLAIN)
    for row, event in enumerate(candidates.event_index.tolist()):
        px = py = 0.0
        pts, phis = [], []
        for index, flavour in zip(candidates.lepton[row], candidates.flavour[row], strict=True):
            name = "muon" if flavour == 13 else "electron"
            pt, phi = float(getattr(leptons, f"{name}_pt")[index]), float(getattr(leptons, f"{name}_phi")[index])
            px, py = px + pt * np.cos(phi), py + pt * np.sin(phi)
            pts.append(pt)
            phis.append(phi)
        ratio = float(candidates.mass_z2[row]) / float(candidates.mass_z1[row])
        values = {"pt_4l": [float(np.hypot(px, py))], "ratio": [ratio], "azimuth": phis, "softest": sorted(pts)[:2]}
        found[event] = int(candidates.channel[row]), values
    return found


def filled(some: Values, name: str, weigh: Callable[[int], Any]) -> list[list[Any]]:
    """A histogram by channel, with flow bins, in plain Python."""
    edges = OWN.binning.axis(name).edges
    counts: list[list[Any]] = [[0] * (len(edges) + 1) for _ in CHANNELS]
    for event, (channel, values) in some.items():
        for value in values[name]:
            counts[channel][sum(value >= edge for edge in edges)] += weigh(event)
    return counts


@pytest.mark.parametrize("name", ["pt_4l", "ratio", "azimuth", "softest"])
def test_own_axes_are_filled_by_channel(result: Result, leptons: Leptons, weights: np.ndarray, name: str) -> None:
    some = oracle(leptons)
    assert len(some) > 300
    shown = result.histograms[name].view(flow=True)
    assert shown[0, :3].tolist() == filled(some, name, lambda _: 1)
    data = shown[1, :3] + shown[2, :3]
    assert data.tolist() == filled(some, name, lambda _: 1)  # each event once, although a third is in both
    unit = Fraction(1, 2**24)
    exact = [round(Fraction(float(w)) / unit) * unit for w in weights]
    weighted = result.weighted_histograms[name].view(flow=True)
    expected = filled(some, name, lambda event: exact[event])
    assert weighted.value[0, 0, :3].tolist() == [[float(one) for one in row] for row in expected]
    assert result.duplicates_removed


def test_same_bytes_whatever_the_chunks(tmp_path: Path, made: Campaign, result: Result) -> None:
    write(result, tmp_path / "first", run={})
    for number, options in enumerate([{"chunk_events": 101}, {"chunk_events": 37, "client": "processes"}]):
        folder = tmp_path / str(number)
        write(last(made, **options), folder, run={})
        for name in ("histograms.json", "candidates.parquet"):
            assert (folder / name).read_bytes() == (tmp_path / "first" / name).read_bytes()


def test_shipped_histograms_stay_as_they_are(made: Campaign, result: Result) -> None:
    plain = last(made, PLAIN)
    for name, one in plain.histograms.items():
        assert np.array_equal(one.view(flow=True), result.histograms[name].view(flow=True))
    assert plain.windows == result.windows
    assert plain.cutflow == result.cutflow
    assert plain.candidates._fields == tuple(name for name in result.candidates._fields if name not in OWN.own_columns)


def test_ledger_keeps_selections_with_other_axes_apart(
    tmp_path: Path, made: Campaign, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    used, first = [], PLAIN.replace(axes=OWN.axes[:1], observables={"ratio": "mass_z2 / mass_z1"})
    for one in (PLAIN, OWN, first, first.replace(observables=()), OWN):
        caplog.clear()
        found = last(made, one, ledger=tmp_path / "ledger.sqlite")
        assert list(found.histograms) == [axis.name for axis in one.binning.axes]
        used.append(caplog.text.partition(" of 3 chunks are in the ledger")[0][-1])
    assert used == ["0", "0", "0", "0", "3"]


def test_rows_have_the_columns(tmp_path: Path, result: Result) -> None:
    rows = result.candidates
    assert np.array_equal(rows.ratio, rows.mass_z2 / rows.mass_z1)
    write(result, tmp_path, run={})
    table = pq.read_table(tmp_path / "candidates.parquet")
    assert table["ratio"].to_numpy().tolist() == rows.ratio.tolist()
    assert {"pt_4l", "unplotted", "softest_1", "softest_2", "lep1_phi"} <= set(table.column_names)
    assert "lepton_phi_1" not in table.column_names
    content = json.loads((tmp_path / "result.json").read_text())
    assert "np.sort" in content["provenance"]["selection"]["observables"]["softest"]["source"]
    assert [axis["name"] for axis in content["provenance"]["selection"]["axes"]] == [axis.name for axis in OWN.axes]


def test_figure_names_what_is_counted(result: Result) -> None:
    def label(name: str) -> str:
        return plots.plot_spectrum(result, name).axes[0].get_ylabel()

    assert [label(name) for name in ("pt_4l", "ratio", "azimuth", "softest")] == [
        "Events / 4 GeV", "Events / bin", "Leptons / 0.533", "Entries / 5",
    ]  # fmt: skip


def failing(mass_4l: Any) -> Any:  # noqa: ARG001
    raise ValueError("no such thing")


def test_error_of_an_observable_names_it_and_the_file(made: Campaign) -> None:
    with pytest.raises(AnalysisError, match=r"mc\.root.*observable 'mine': ValueError: no such thing"):
        last(made, PLAIN.replace(observables={"mine": failing}), on_error="strict")
