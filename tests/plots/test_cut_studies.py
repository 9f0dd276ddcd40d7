"""What a cut keeps and removes agrees with the analysis with and without it."""

from __future__ import annotations

import html
import io
import math
from dataclasses import replace

import numpy as np
import pytest
from made_results import texts

from higgsnb import datasets, engine, plots, selection
from higgsnb.plots import Events, cut_studies
from higgsnb.results import Result

OPEN = selection.load("open2012")


@pytest.mark.parametrize("quantity", ["sip", "isolation"])
def test_events_that_the_left_out_cut_keeps_are_the_selected_ones(
    toy: datasets.Campaign, result: Result, quantity: str
) -> None:
    found = plots.n_minus_one(toy, OPEN, quantity)
    kept = dict(zip(found.table["process"], found.table["kept"], strict=True))
    for process, channels in result.yields.items():
        selected = sum(one.expected for one in channels.values())
        # A few events are lost: of two candidates, one with a bad lepton is now the better one.
        assert 0.97 * selected < kept[process] < selected + 0.006


def test_quantity_of_the_left_out_cut_is_that_of_the_kernel(toy: datasets.Campaign) -> None:
    tight = plots.n_minus_one(toy, OPEN.replace(sip_max=2), "sip")
    *_, cut = engine.run(toy, OPEN.replace(sip_max=2))
    kept = dict(zip(tight.table["process"], tight.table["kept"], strict=True))
    assert kept["data"] == pytest.approx(sum(one.events for one in cut.yields["data"].values()), abs=2)
    assert tight.kept == (-math.inf, 2.0)


def test_cuts_that_differ_for_muons_and_electrons_are_each_applied_to_their_own(toy: datasets.Campaign) -> None:
    cuts = OPEN.replace(muon_isolation_max=0.1, electron_isolation_max=0.9)
    *_, cut = engine.run(toy, cuts)
    table = plots.n_minus_one(toy, cuts, "isolation").table
    kept = dict(zip(table["process"], table["kept"], strict=True))
    assert kept["data"] == pytest.approx(sum(one.events for one in cut.yields["data"].values()), rel=0.03)


def test_table_and_figure_of_a_partial_result_state_it(toy: datasets.Campaign, result: Result) -> None:
    lost = replace(toy.dataset("ZZTo4e"), files=(datasets.File("gone.root"),))
    rest = tuple(lost if one.name == lost.name else one for one in toy.datasets)
    *_, part = engine.run(replace(toy, datasets=rest), OPEN)
    assert part.failed
    for table in (plots.yields(part), plots.windows(part), plots.cutflow(part)):
        assert table.note.startswith("PARTIAL: ")
        assert repr(table).endswith(table.note)
        assert html.escape(table.note) in table._repr_html_()
    one_cut = plots.n_minus_one(part.campaign, OPEN, "sip")
    assert one_cut.table.note == plots.yields(part).note
    assert one_cut.note in texts(plots.plot_n_minus_one(one_cut)).replace("\n", " ")
    assert plots.yields(result).note == ""
    assert "PARTIAL" not in repr(plots.cutflow(result))


def test_quantity_that_does_not_exist_is_an_error(toy: datasets.Campaign) -> None:
    with pytest.raises(KeyError, match="no quantity 'pt'; known: sip, isolation, mass_z1, mass_z2"):
        plots.n_minus_one(toy, OPEN, "pt")


def test_every_figure_of_simulated_collisions_states_it(toy: datasets.Campaign, muons: Events) -> None:
    masses = plots.pair_masses(muons)
    for figure in (
        plots.plot_event(muons, 0),
        plots.plot_masses(muons, {"all": masses}, low=60, high=120, mark=91.19),
        plots.plot_n_minus_one(plots.n_minus_one(toy, OPEN, "mass_z2")),
    ):
        assert "simulated collisions" in texts(figure)
        image = io.BytesIO(figure._repr_png_()[0]).getvalue()
        assert image.startswith(b"\x89PNG")


def test_process_that_begins_with_an_underscore_is_in_the_legend() -> None:
    values, one = {"_bkg": np.array([1.0, 2.0]), "a$b$": np.array([3.0])}, {"_bkg": np.ones(2), "a$b$": np.ones(1)}
    passes = {process: weights > 0 for process, weights in one.items()}
    found = cut_studies.NMinusOne("sip", "heading", "", (-math.inf, 4.0), values, one, passes)
    legend = plots.plot_n_minus_one(found).axes[0].get_legend()
    assert sorted(text.get_text().strip().replace("\\", "") for text in legend.get_texts()) == ["_bkg", "a$b$"]
