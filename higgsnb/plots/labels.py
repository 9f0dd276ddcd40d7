"""Texts of figures and tables: real or simulated collisions, luminosity, and which part of the events is shown."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from higgsnb.datasets import Campaign
    from higgsnb.results import Result
    from higgsnb.selection import Axis


def heading(result: Result) -> str:
    """Return the heading of a figure: whose open data, real or simulated collisions."""
    if result.simulated:
        return f"higgsnb {result.campaign.name} — simulated collisions"
    has_data = any(dataset.is_data for dataset in result.campaign.datasets)
    return f"{origin(result.campaign)}{'' if has_data else ' — simulated collisions only'}"


def origin(campaign: Campaign) -> str:
    """Return whose open data a campaign consists of, or its title if it does not say so."""
    return f"{campaign.experiment} Open Data" if campaign.experiment else campaign.title


def luminosity_label(result: Result) -> str:
    """Return processed luminosity and centre-of-mass energy, for the text above the frame."""
    processed, _ = result.coverage.luminosity_fb
    energies = " and ".join(f"{energy:g}" for energy in result.campaign.energies_tev)
    return f"{processed:.3g} fb⁻¹ ({energies} TeV)"


def per_bin_label(axis: Axis, label: str) -> str:
    """Return the label of the vertical axis, with the width of equal bins; ``label`` is that of the horizontal one.

    What is counted are events, or leptons, or whatever an event has several of.
    """
    what = "Events" if axis.per_event == 1 else "Leptons" if axis.variable.startswith("lepton_") else "Entries"
    if axis.boundaries and not np.allclose(np.diff(axis.edges), axis.edges[1] - axis.edges[0]):
        return f"{what} / bin"
    return f"{what} / {axis.edges[1] - axis.edges[0]:.3g}{' GeV' if label.endswith('[GeV]') else ''}"


def coverage_text(result: Result) -> str:
    """Return in one line what is missing from a result, ``PARTIAL: 37 % of events, …``, and what is doubtful in it.

    Empty if nothing is.
    """
    missing = []
    if not result.complete:
        done, total = result.coverage.events
        files = "{} of {} files".format(*result.coverage.files)  # while the number of events is not known
        missing.append(f"PARTIAL: {percent(done, total)} of events" if done < total else f"PARTIAL: {files}")
        missing.append("{:.3g} of {:.3g} fb⁻¹".format(*result.coverage.luminosity_fb))
    if result.failed:
        missing.append(f"{len(result.failed)} file{'s' if len(result.failed) > 1 else ''} failed")
    if names := result.missing_simulation:
        missing.append(f"prediction without {' and '.join(names) if len(names) < 3 else f'{len(names)} samples'}")
    if result.doubts:
        missing.append(f"DOUBTFUL: {', '.join(dict.fromkeys(doubt.kind for doubt in result.doubts))}")
    return ", ".join(missing)


def percent(done: float, total: float) -> str:
    """Return the completed share of an unfinished run: never 100 %, and 0 % only if nothing is done."""
    share = 100.0 * done / total
    if share > 99.9:
        return "> 99.9 %"
    return "< 0.1 %" if 0 < share < 0.1 else f"{share:.3g} %"
