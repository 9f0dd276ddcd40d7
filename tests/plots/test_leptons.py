"""Leptons, pairs and masses of hand-made events and of the toy."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from made_events import made

from higgsnb import datasets, errors, plots, selection
from higgsnb import selection as selections
from higgsnb.plots import Events, leptons
from higgsnb.selection import Leptons, rules

OPEN = selection.load("open2012")


def test_back_to_back_muons_of_45_gev_have_a_mass_of_90_gev() -> None:
    sample = made([(45.0, 0.0, 0.0, 1), (45.0, 0.0, math.pi, -1)], [])
    assert plots.pair_masses(sample) == pytest.approx([90.0], rel=1e-6)
    assert plots.invariant_mass(sample, 0) == pytest.approx(90.0, rel=1e-6)


def test_event_table_marks_good_leptons_and_shows_a_dash_for_missing_quantities() -> None:
    sample = made([(30.0, 0.1, 0.2, 1), (4.0, 0.1, 0.2, -1)], [(20.0, -1.0, 3.0, -1)])
    leptons = sample.leptons._replace(electron_isolation=np.array([-999.0], np.float32))
    table = plots.event_table(replace(sample, leptons=leptons), 0, OPEN)
    assert table["lepton"] == ["μ⁺", "μ⁻", "e⁻"]
    assert table["good"] == ["yes", "no", "no"]
    assert table["isolation"] == [0.0, 0.0, "–"]
    assert "good" not in plots.event_table(sample, 0).columns


def test_event_that_does_not_exist_is_an_error_with_their_number() -> None:
    for wrong in (1, -1):
        with pytest.raises(IndexError, match=f"no event {wrong}; there are 1, numbered from 0"):
            plots.event_table(made([], []), wrong)


def test_sip_of_sentinels_is_not_a_number() -> None:
    column = rules.columns_of(made([(30.0, 0.0, 0.0, 1)], []).leptons, "muon")
    three, gone = column._replace(dxy=np.float32([0.03]), dz=np.float32([0.04])), np.float32([-999.0])
    assert leptons.sip(three) == pytest.approx([0.05 / math.hypot(0.01, 0.01)], rel=1e-6)
    assert np.isnan(leptons.sip(three._replace(dxy=gone, dz=gone, dxy_error=gone, dz_error=gone))).all()


def test_four_muons_pair_in_two_ways_and_the_best_is_that_of_the_analysis(muons: Events) -> None:
    found = selections.select(muons.leptons, OPEN, "DoubleMu")
    counts = [np.diff(getattr(muons.leptons, f"{name}_offsets")) for name in ("muon", "electron")]
    four = np.flatnonzero((counts[0] == 4) & (counts[1] == 0))
    rows = np.flatnonzero((found.channel == 0) & np.isin(found.event_index, four))
    assert len(rows) > 20
    for row in rows:
        ways = plots.zz_pairings(muons, int(found.event_index[row]))
        assert len(ways) == 2
        passing = [way for way in ways.rows if 40 < way[1] < 120 and 12 <= way[3] < 120]  # the best comes first
        assert passing[0][1] == pytest.approx(found.mass_z1[row], abs=0.006)


def test_two_muons_and_two_electrons_pair_in_one_way() -> None:
    sample = made([(45.0, 0.0, 0.0, 1), (45.0, 0.0, math.pi, -1)], [(10.0, 1.0, 1.0, 1), (10.0, 1.0, 2.0, -1)])
    (way,) = plots.zz_pairings(sample, 0).rows
    assert way[:2] == ("μ⁺ (1) + μ⁻ (2)", 90.0)
    assert way[-1] == 1.19


def test_every_pair_of_an_event_is_found_once_by_a_slow_loop(muons: Events) -> None:
    offsets, charge = muons.leptons.muon_offsets, muons.leptons.muon_charge
    expected = {True: 0, False: 0}
    for start, stop in pairwise(offsets[:501].tolist()):
        for j in range(start, stop):
            for i in range(start, j):
                expected[bool(charge[i] == charge[j])] += 1
    part = Leptons(
        *(
            c[: offsets[500]] if n.startswith("muon_") and c is not None and c is not offsets else c
            for n, c in muons.leptons._asdict().items()
        )
    )
    part = part._replace(muon_offsets=offsets[:501])
    few = replace(muons, leptons=part)
    assert {same: len(plots.pair_masses(few, same_charge=same)) for same in (True, False)} == expected


def test_good_leptons_are_those_of_the_compiled_rule_and_pairs_use_only_them(muons: Events) -> None:
    good = leptons.good_leptons(muons.leptons, "muon", OPEN)
    assert 0.5 < good.mean() < 0.95
    hard = leptons.good_leptons(muons.leptons, "muon", OPEN.replace(muon_pt_min=20))
    assert (hard == (good & (muons.leptons.muon_pt > 20))).all()
    every, some = plots.pair_masses(muons), plots.pair_masses(muons, selection=OPEN)
    assert set(some) < set(every)


def test_logarithmic_scale_shows_a_set_a_hundred_times_smaller(muons: Events) -> None:
    masses = {"opposite": plots.pair_masses(muons), "same": plots.pair_masses(muons, same_charge=True)}
    for log in (True, False):
        figure = plots.plot_masses(muons, masses, low=80, high=100, bins=10, log=log)
        axes = figure.axes[0]
        top = axes.transAxes.inverted().transform(axes.transData.transform((90, 30)))[1]  # about the pairs per bin
        assert (top > 0.2) == log
        inside = masses["same"][(masses["same"] >= 80) & (masses["same"] <= 100)]
        assert f"same: {len(inside):,} pairs" in figure.alt
        assert ("logarithmic" in figure.alt) == log


def test_name_of_a_primary_dataset_stands_for_its_first_dataset(toy: datasets.Campaign, muons: Events) -> None:
    assert plots.events(toy, "DoubleMu").dataset == muons.dataset == "Run2012_DoubleMu"


def test_flavour_that_does_not_exist_is_an_error(muons: Events) -> None:
    with pytest.raises(ValueError, match="flavour = 'tau'; expected one of muon, electron"):
        plots.pair_masses(muons, "tau")


def test_lepton_counts_add_up_to_all_events(muons: Events) -> None:
    counts = plots.lepton_counts(muons)
    for column in counts.columns[1:]:
        assert sum(counts[column]) == muons.n_events
    assert sum(n * events for n, events in zip(counts["leptons"], counts[counts.columns[1]], strict=True)) == len(
        muons.leptons.muon_pt
    )


def test_events_reads_no_more_than_most(toy: datasets.Campaign) -> None:
    few = plots.events(toy, "ZZTo4mu", most=100)
    assert (few.n_events, few.simulated) == (100, True)
    with pytest.raises(errors.CampaignError, match="no dataset 'ZZTo4mmu'"):
        plots.events(toy, "ZZTo4mmu")


def test_events_opens_only_the_file_of_its_dataset(toy: datasets.Campaign) -> None:
    gone = replace(toy.dataset("ZZTo4e"), files=(datasets.File("gone.root"),))
    first = toy.dataset("ZZTo4mu")
    two = replace(first, files=(replace(first.files[0], events=None), *gone.files))
    few = plots.events(replace(toy, datasets=(gone, two)), "ZZTo4mu", most=100)
    assert few.n_events == 100
