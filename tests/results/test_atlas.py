"""ATLAS Open Data from plan to spectrum: files of both releases in a mirror, against events whose fate is known."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import known_results
import mirrors
import pytest
from click.testing import CliRunner
from known_events import ATLAS4L
from known_results import Expected
from made_results import texts
from mirrors import Mirror

import higgsnb as hn
from higgsnb import datasets, engine, plots, results, selection
from higgsnb.cli import main
from higgsnb.datasets import Campaign
from higgsnb.errors import SelectionError
from higgsnb.results import Result


class Made(NamedTuple):
    """A mirror, its campaign, and the result of the whole of it."""

    mirror: Mirror
    campaign: Campaign
    result: Result

    @property
    def expected(self) -> list[Expected]:
        return known_results.of_atlas(self.mirror, self.campaign, ATLAS4L)


def run(campaign: Campaign, **options: object) -> Result:
    *_, result = engine.run(campaign, selection.load(campaign.selection), **options)  # type: ignore[arg-type]
    return result


@pytest.fixture(scope="module", params=["atlas2020", "atlas2025"])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    """Leptons are in ``std::vector`` in one of them, as in the public files."""
    folder = tmp_path_factory.mktemp(request.param)
    mirror = mirrors.atlas(folder / "portal", request.param, 14, vectors=request.param == "atlas2020")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HIGGSNB_MIRROR", str(mirror.folder))
        campaign = datasets.load(mirror.campaign)
        yield Made(mirror, campaign, run(campaign, workers=1))


def test_candidates_of_data_are_the_events_that_were_made_to_pass(made: Made) -> None:
    assert made.result.complete
    assert made.result.doubts == made.result.remarks == ()
    known_results.check_candidates(made.result, made.mirror.expected(ATLAS4L))
    assert {event.fails for event in made.mirror.data} == {None, *ATLAS4L}


def test_yields_and_spectrum_are_sums_of_signed_weights(made: Made) -> None:
    known_results.check_yields(made.result, made.expected)
    data = [event.dressed_mass_4l for event in made.mirror.expected(ATLAS4L).values()]
    known_results.check_spectrum(made.result, data, made.expected)


def test_absolute_weights_would_be_another_result(made: Made) -> None:
    """ATLAS's example takes |mcWeight|; it is far from what stands here."""
    absolute = known_results.of_atlas(made.mirror, made.campaign, ATLAS4L, sign=abs)
    for process, found in made.result.yields.items():
        if process != "data":
            total = math.fsum(one.expected for one in found.values())
            assert math.fsum(event.weight for event in absolute if event.process == process) > 1.05 * total
    with pytest.raises(AssertionError):
        known_results.check_yields(made.result, absolute)


def test_chunks_change_nothing(made: Made) -> None:
    other = run(made.campaign, workers=2, chunk_events=23)
    assert json.dumps(results.document(other)) == json.dumps(results.document(made.result))


def test_half_of_each_file_is_normalised_to_what_it_stands_for(made: Made) -> None:
    half = run(made.campaign, fraction=0.5)
    assert half.coverage.luminosity_fb == pytest.approx(
        (0.5 * made.campaign.luminosity_fb, made.campaign.luminosity_fb)
    )
    first = {name: events[: len(events) // 2] for name, events in made.mirror.simulated.items()}
    for name, process in ((one.name, one.process) for one in made.campaign.datasets if not one.is_data):
        some = [event for event in first[name] if event.passes(ATLAS4L)]
        assert half.counts[name][:, half.layout.binning.starts[-1]].sum() == len(some), process
    # half the luminosity over half the sum of weights: what the events of the first halves count as in the whole
    in_half = [event.id for events in first.values() for event in events if event.passes(ATLAS4L)]
    kept = [e for e, known in zip(made.expected, passing(made), strict=True) if known in in_half]
    known_results.check_yields(half, kept)


def passing(made: Made) -> list[tuple[int, int, int]]:
    """The identities of the events of simulation that pass, in the order of the campaign."""
    names = [one.name for one in made.campaign.datasets if not one.is_data]
    return [event.id for name in names for event in made.mirror.expected_simulation(ATLAS4L, name)]


def test_command_line_plans_runs_and_writes_the_campaign(made: Made, tmp_path: Path) -> None:
    planned = CliRunner().invoke(main, ["plan", str(made.mirror.campaign), "--json"])
    assert planned.exit_code == 0
    assert json.loads(planned.output)["total"]["files"] == made.campaign.n_files
    command = ["run", str(made.mirror.campaign), "--selection", "atlas4l", "--out", str(tmp_path / "out"), "-j", "1"]
    answer = CliRunner().invoke(main, command)
    assert answer.exit_code == 0, answer.output
    written = json.loads((tmp_path / "out" / "result.json").read_text(encoding="utf-8"))
    assert written["yields"] == json.loads(json.dumps(results.document(made.result)))["yields"]
    svg = (tmp_path / "out" / "mass_4l.svg").read_text(encoding="utf-8")
    assert "ATLAS Open Data" in svg
    assert "CMS" not in svg


def test_figure_says_whose_data_and_how_much_of_them(made: Made) -> None:
    found = texts(plots.mass_4l(made.result))
    luminosity = {"atlas2020": "10", "atlas2025": "36.6"}[made.campaign.name]
    assert "ATLAS Open Data" in found
    assert f"{luminosity} fb⁻¹ (13 TeV)" in found


def test_cutflow_says_what_its_rows_ask_for(made: Made) -> None:
    flow = plots.cutflow(made.result, "4e")
    assert flow["cut"][:4] == ["all", "preselected", "leptons", "good leptons"]
    assert "third lepton pt" in flow["cut"]
    assert "preselected: trigE or trigM; nTrigMatched >= 1" in repr(flow)
    electrons = {"mini": "isTightID and ptcone30 / pt < 0.3", "analysis": "isLooseID and isLooseIso"}
    for tree, words in electrons.items():
        assert (f"electrons: {words}" in repr(flow)) == (tree == made.campaign.tree)
    assert "trigE or trigM" in flow._repr_html_()


def test_files_of_another_experiment_are_refused() -> None:
    with pytest.raises(SelectionError, match=r"has no muon_id for files with tree 'Events', only for 'mini' and 'anal"):
        list(engine.run("toy", selection.load("atlas4l")))


def muons(events):  # type: ignore[no-untyped-def]
    two = events.nMuon >= 2
    return hn.Selected(events[two], matched=events.nTrigMatched[two])


def test_number_of_matched_leptons_is_a_column_that_a_preselection_can_use(made: Made) -> None:
    columns = ["Muon_pt", "nMuon", "nTrigMatched"]
    axes = [hn.Axis("matched", 5, -0.5, 4.5)]
    analysis = hn.Analysis("matched", muons, columns=columns, axes=axes, preselection="nTrigMatched >= 1 and trigM")
    *_, result = engine.run(made.campaign, analysis, workers=1)
    chosen = [
        sum(lepton.quality.get("isTrigMatched", True) for lepton in event.leptons)
        for event in made.mirror.data
        if "trigM" in event.fired and sum(lepton.flavour == 13 for lepton in event.leptons) >= 2
    ]
    wanted = [0, *(chosen.count(n) for n in range(1, 5))]
    spectrum = result.region_spectrum("matched")
    assert spectrum.data is not None
    assert spectrum.data.tolist() == wanted
