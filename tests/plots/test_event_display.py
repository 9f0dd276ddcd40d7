"""The event display: tracks bend as they should, leptons have their names."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_events import made
from made_results import texts

from higgsnb import plots, selection
from higgsnb.plots import Events, event_display

OPEN = selection.load("open2012")


PT = st.floats(2.0, 200.0)
ETA = st.floats(-2.4, 2.4)
PHI = st.floats(-3.1, 3.1)


@given(PT, ETA, PHI)
def test_opposite_charges_bend_to_mirrored_sides(pt: float, eta: float, phi: float) -> None:
    plus, minus = (np.array(event_display.track(pt, eta, phi, charge, leaves=True)) for charge in (1, -1))
    along, across = (math.cos(phi), math.sin(phi)), (-math.sin(phi), math.cos(phi))
    assert along @ plus[:2] == pytest.approx(along @ minus[:2], abs=1e-9)
    assert across @ plus[:2] == pytest.approx(-(across @ minus[:2]), abs=1e-9)
    assert plus[2] == pytest.approx(minus[2])


def test_positive_charge_turns_clockwise_by_the_angle_of_the_formula() -> None:
    x, y, _ = event_display.track(10.0, 0.0, 0.0, 1, leaves=False)
    assert y[-1] < 0
    radius = 10.0 / (0.2998 * 3.8)  # p = 0.2998 B r
    assert math.hypot(x[-1], y[-1] + radius) == pytest.approx(radius, rel=0.01)  # on the circle around (0, −r)


@given(PT, ETA, PHI)
def test_muons_leave_the_detector_and_electrons_end_in_the_calorimeter(pt: float, eta: float, phi: float) -> None:
    for leaves, radius, half in ((True, 7.0, 10.5), (False, 1.6, 3.2)):
        x, y, z = event_display.track(pt, eta, phi, 1, leaves=leaves)
        inside = (np.hypot(x, y) < radius) & (np.abs(z) < half)
        assert inside[:-1].all()
        assert not inside[-1] or len(x) == 1000  # one of the softest may never leave


def test_figure_of_real_collisions_is_not_called_simulated(muons: Events) -> None:
    assert "CMS Open Data" in texts(plots.plot_event(replace(muons, simulated=False, origin="CMS Open Data"), 0))
    assert "simulated" not in texts(plots.plot_event(replace(muons, simulated=False), 0))


def test_figure_names_every_lepton_in_both_views() -> None:
    sample = made([(45.0, 0.0, 0.0, 1), (45.0, 0.0, math.pi, -1)], [(10.0, 1.0, 1.0, 1)])
    shown = texts(plots.plot_event(sample, 0))
    for name in ("1 μ⁺ 45 GeV", "2 μ⁻ 45 GeV", "3 e⁺ 10 GeV"):
        assert shown.count(name) == 2
    assert "end view" in shown
    assert "side view" in shown


def test_text_alternative_of_the_figure_has_the_numbers_of_every_lepton() -> None:
    figure = plots.plot_event(made([(45.0, 0.5, 0.25, 1), (44.0, -0.5, -2.0, -1)], [(10.0, 1.0, 1.0, 1)]), 0)
    assert figure.alt.endswith(
        "with 3 leptons: 1 μ⁺ with pT 45.0 GeV, η 0.50, φ 0.25; 2 μ⁻ with pT 44.0 GeV, η −0.50, φ −2.00; "
        "3 e⁺ with pT 10.0 GeV, η 1.00, φ 1.00."
    )
