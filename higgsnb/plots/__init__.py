"""Figures and tables of events and results."""

from __future__ import annotations

from higgsnb.plots.mass_spectrum import (
    COLOURS,
    LABELS,
    colour,
    coverage_text,
    garwood,
    heading,
    luminosity_label,
    mass_4l,
    per_bin_label,
    percent,
    save,
)
from higgsnb.plots.leptons import (
    Events,
    NMinusOne,
    Table,
    candidates_in,
    cutflow,
    event_table,
    events,
    good_leptons,
    invariant_mass,
    lepton_counts,
    n_minus_one,
    pair_masses,
    plot_event,
    plot_masses,
    plot_n_minus_one,
    plot_scan,
    summary,
    windows,
    yields,
    zz_pairings,
)

__all__ = [
    "mass_4l",
    "save",
    "COLOURS",
    "LABELS",
    "colour",
    "coverage_text",
    "garwood",
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
    "good_leptons",
    "zz_pairings",
    "pair_masses",
    "plot_event",
    "plot_masses",
    "plot_scan",
    "NMinusOne",
    "n_minus_one",
    "plot_n_minus_one",
]


def __dir__() -> list[str]:
    return __all__
