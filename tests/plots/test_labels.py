"""What every figure has to state: coverage, simulated or real collisions, luminosity, units."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from made_results import a_campaign, a_result, panel_of, svg_of, texts

from higgsnb import datasets, plots, selection
from higgsnb.datasets import File
from higgsnb.results import Result


def test_axes_carry_units_and_bin_width() -> None:
    figure = plots.mass_4l(a_result())
    assert panel_of(figure).get_ylabel() == "Events / 3 GeV"
    assert figure.axes[1].get_xlabel() == r"$m_{4\ell}$ [GeV]"
    leptons = plots.mass_4l(a_result(), histogram="lepton_pt")
    assert panel_of(leptons).get_ylabel() == "Leptons / 5 GeV"
    assert leptons.axes[1].get_xlabel() == "lepton transverse momentum [GeV]"


@pytest.mark.parametrize("share", [0.0, 0.0001, 0.37, 0.9999, 1.0])
def test_partial_result_is_called_partial_and_complete_one_is_not(share: float, tmp_path: Path) -> None:
    svg = svg_of(a_result(share=share), tmp_path)
    assert ("PARTIAL" in svg) == (share < 1)
    assert "100 %" not in svg


def test_partial_result_gives_its_share_and_the_failed_files(tmp_path: Path) -> None:
    svg = svg_of(a_result(share=0.37, failed=2), tmp_path)
    assert "PARTIAL: 37 % of events, 4.28 of 11.6 fb" in svg
    assert "2 files failed" in svg
    assert ">4.28 fb" in svg  # the heading, too, gives the luminosity that was processed


@pytest.mark.parametrize(("share", "words"), [(0.9999, "&gt; 99.9 % of events"), (0.00002, "&lt; 0.1 % of events")])
def test_coverage_is_not_rounded_to_all_or_nothing(share: float, words: str, tmp_path: Path) -> None:
    assert words in svg_of(a_result(share=share), tmp_path)


def test_files_of_unknown_length_are_counted_as_files() -> None:
    campaign = a_campaign("zz data")
    unknown = tuple(replace(d, files=(File(d.files[0].url),)) for d in campaign.datasets)
    result = Result(a_campaign("zz data", datasets=unknown), selection.load("open2012"))
    assert "PARTIAL: 0 of 4 files" in plots.coverage_text(result)


def test_prediction_that_lacks_a_sample_names_it() -> None:
    assert "prediction without ZZTo4mu" in texts(plots.mass_4l(a_result(left_out="ZZTo4mu")))


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_simulated_collisions_are_called_simulated(share: float, tmp_path: Path) -> None:
    svg = svg_of(a_result(share=share, name="toy", simulated=True), tmp_path)
    assert "higgsnb toy — simulated collisions" in svg
    assert "Simulated data" in svg
    assert "CMS" not in svg


def test_real_data_are_called_cms_open_data_and_never_simulated(tmp_path: Path) -> None:
    svg = svg_of(a_result(), tmp_path)
    assert "CMS Open Data" in svg
    assert "simulated" not in svg.lower()


def test_experiment_is_the_one_that_the_campaign_names(tmp_path: Path) -> None:
    svg = svg_of(a_result(experiment="ATLAS"), tmp_path)
    assert "ATLAS Open Data" in svg
    assert "CMS" not in svg


def test_campaign_without_an_experiment_goes_by_its_title(tmp_path: Path) -> None:
    svg = svg_of(a_result(experiment=None), tmp_path)
    assert "Four leptons in 2012 data" in svg
    assert "Open Data" not in svg


@pytest.mark.parametrize("name", ["cms2012", "candidates"])
def test_shipped_campaigns_of_real_data_are_cms_open_data(name: str) -> None:
    assert plots.labels.heading(Result(datasets.load(name), selection.load("open2012"))) == "CMS Open Data"


def test_simulation_without_data_is_called_simulated(tmp_path: Path) -> None:
    assert "simulated collisions only" in svg_of(a_result("higgs zz"), tmp_path)


def test_two_energies_are_both_named() -> None:
    campaign = a_campaign("data")
    first, second = campaign.datasets
    both = (replace(first, energy_tev=7.0), second)
    result = Result(a_campaign("data", datasets=both), selection.load("open2012"))
    assert "(7 and 8 TeV)" in texts(plots.mass_4l(result))
