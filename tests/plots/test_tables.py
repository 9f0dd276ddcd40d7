"""Tables of a result agree with the result."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from generators import read_record5200

from higgsnb import datasets, engine, plots, selection
from higgsnb.plots import Events, Table
from higgsnb.results import Result
from higgsnb.selection import CHANNELS

OPEN = selection.load("open2012")


def test_table_gives_columns_by_name_and_names_those_it_has() -> None:
    table = Table(("a", "b"), ((1, "x"), (2, "y")))
    assert (table["a"], table["b"], len(table)) == ([1, 2], ["x", "y"], 2)
    with pytest.raises(KeyError, match="no column 'c'; the columns are a, b"):
        table["c"]


def test_table_shows_numbers_short_and_escapes_text() -> None:
    table = Table(("<n>", "v"), (("<b>", 1234567), ("c", 0.01234), ("d", 1234.567)))
    assert repr(table).splitlines() == ["<n>          v", "<b>  1,234,567", "  c     0.0123", "  d   1,234.57"]
    page = table._repr_html_()
    assert "&lt;b&gt;" in page
    assert "<b>" not in page
    assert page.count("<tr>") == 4


def test_yields_and_windows_are_those_of_the_result(result: Result) -> None:
    table = plots.yields(result, "118-130")
    window = result.windows["118-130"]
    assert table["process"] == ["higgs", "zz", "zx", "all predicted", "data"]
    assert table.rows[-1][1:] == (*(window["data"][c].events for c in ("4mu", "4e", "2e2mu")), 23)
    assert table["4mu"][0] == round(window["higgs"]["4mu"].expected, 2)
    row = plots.windows(result).rows[list(result.windows).index("118-130")]
    assert row == ("118-130", table["all"][3], 23)
    with pytest.raises(KeyError, match="no window '1-2'; known: 70-181"):
        plots.yields(result, "1-2")


def test_cutflow_never_grows_and_ends_at_the_yields(result: Result) -> None:
    for channel in ("4mu", "4e", "2e2mu"):
        flow = plots.cutflow(result, channel)
        for process in flow.columns[1:]:
            assert flow[process] == sorted(flow[process], reverse=True)
        assert flow["data"][-1] == result.yields["data"][channel].events
        assert flow["higgs"][-1] == pytest.approx(result.yields["higgs"][channel].expected, abs=0.005)


def test_candidates_in_are_those_counted_in_the_window_and_lead_back_to_their_file(
    result: Result, muons: Events
) -> None:
    table = plots.candidates_in(result, 118.0, 130.0)
    assert len(table) == plots.yields(result, "118-130").rows[-1][-1]
    assert table["mass_4l"] == sorted(table["mass_4l"])
    counts = [np.diff(getattr(muons.leptons, f"{name}_offsets")) for name in ("muon", "electron")]
    for dataset, entry, channel, mass, *_ in table.rows:
        if dataset == muons.dataset and channel == "4mu" and (counts[0][entry], counts[1][entry]) == (4, 0):
            assert plots.invariant_mass(muons, entry) == pytest.approx(mass, abs=0.006)


def test_cutflow_of_an_unknown_channel_names_the_known_ones(result: Result) -> None:
    with pytest.raises(KeyError, match="no channel '4tau'; known: 4mu, 4e, 2e2mu"):
        plots.cutflow(result, "4tau")


def test_summary_states_whether_a_result_is_complete(toy: datasets.Campaign, result: Result) -> None:
    *_, part = engine.run(toy, OPEN, fraction=0.2)
    for one, complete in ((result, "yes"), (part, "no")):
        shown = dict(plots.summary(one).rows)
        assert shown["complete"] == complete
        assert shown["campaign"] == "toy (simulated)"
        assert shown["events"].startswith(f"{one.coverage.events[0]:,} of")


PUBLISHED = """
[campaign]
name = "published"
schema = "csv"
luminosity_fb = 13.91
luminosity_uncertainty = 0.026
energy_tev = 8
[[dataset]]
name = "all"
process = "data"
file = [{files}]
"""


def test_real_data_without_prediction_are_shown_by_everything_that_shows_the_toy(
    shared_data: Path, tmp_path: Path
) -> None:
    urls = ", ".join(f'{{ url = "{path}" }}' for path in sorted((shared_data / "record5200").glob("*.csv")))
    (tmp_path / "published.toml").write_text(PUBLISHED.format(files=urls))
    campaign, cuts = datasets.load(tmp_path / "published.toml"), selection.load("aod2012")
    *_, result = engine.run(campaign, cuts)
    inside = Counter(one.channel for one in read_record5200(shared_data) if 70 < one.mass_4l < 181)
    assert plots.yields(result, "70-181").rows == (("data", *(inside[c] for c in CHANNELS), inside.total()),)
    shown = plots.windows(result, "118-130", "70-181")
    assert (shown.columns, shown["data"]) == (("window [GeV]", "data"), [15, 102])
    assert plots.cutflow(result, "4mu")["data"][-1] == sum(m["4mu"].events for m in result.yields.values())
    mass_z2 = plots.n_minus_one(campaign, cuts, "mass_z2")
    assert mass_z2.table["kept"] == [278]
    plots.plot_n_minus_one(mass_z2)
    event = plots.events(campaign, "all")
    table = plots.event_table(event, 0)
    assert set(table["isolation"] + table["dz"] + table["sip"]) == {"–"}, "the published files do not have these"
    assert all(isinstance(pt, float) for pt in table["pt"])
