"""The likelihood profile of a fit."""

from __future__ import annotations

from typing import TYPE_CHECKING

from higgsnb.plots.style import ShownFigure, one_panel, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from higgsnb.statistics import FitResult


def plot_scan(fit: FitResult) -> Figure:
    """Draw the likelihood profile of a fit; where it crosses the dashed line is one standard deviation."""
    with styled():
        figure = ShownFigure(figsize=(7.0, 3.4))
        axes = one_panel(figure, "signal strength (1 = as predicted)", "−2 ln L above its minimum", fit.model.note)
        axes.plot(fit.scan_strength, fit.scan_twice_nll, color="#0072B2", linewidth=1.8)
        axes.axhline(1.0, color="0.3", linestyle="--", linewidth=0.9)
        for strength in (fit.signal_strength - fit.error_low, fit.signal_strength + fit.error_high):
            axes.axvline(strength, color="0.6", linestyle=":", linewidth=0.9)
        found = f"{fit.signal_strength:.2f}, one standard deviation −{fit.error_low:.2f} and +{fit.error_high:.2f}"
        note = f" {fit.model.note}." if fit.model.note else ""
        figure.alt = f"Likelihood profile of the signal strength: minimum at {found}.{note}"
        axes.set(xlim=(fit.scan_strength[0], fit.scan_strength[-1]), ylim=(0, None))
    return figure
