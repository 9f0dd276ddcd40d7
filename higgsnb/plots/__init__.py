"""Figures and tables of events and results."""

from __future__ import annotations

from higgsnb.plots.cut_studies import NMinusOne, n_minus_one, plot_n_minus_one
from higgsnb.plots.event_display import DETECTOR, plot_event, plot_tracks, track
from higgsnb.plots.labels import coverage_text, heading, luminosity_label, per_bin_label, percent
from higgsnb.plots.leptons import (
    Events,
    event_table,
    events,
    invariant_mass,
    lepton_counts,
    pair_masses,
    plot_masses,
    zz_pairings,
)
from higgsnb.plots.mass_spectrum import mass_4l, plot_spectrum, save
from higgsnb.plots.profile import plot_scan
from higgsnb.plots.style import COLOURS, LABELS, colour
from higgsnb.plots.tables import Table, candidates_in, cutflow, summary, windows, yields

__all__ = [
    "mass_4l",
    "plot_spectrum",
    "save",
    "COLOURS",
    "LABELS",
    "colour",
    "coverage_text",
    "heading",
    "luminosity_label",
    "per_bin_label",
    "percent",
    "Table",
    "yields",
    "windows",
    "cutflow",
    "candidates_in",
    "summary",
    "Events",
    "events",
    "event_table",
    "lepton_counts",
    "invariant_mass",
    "zz_pairings",
    "pair_masses",
    "plot_event",
    "plot_tracks",
    "DETECTOR",
    "track",
    "plot_masses",
    "plot_scan",
    "NMinusOne",
    "n_minus_one",
    "plot_n_minus_one",
]


def __dir__() -> list[str]:
    return __all__
