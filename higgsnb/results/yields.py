"""Yields per process and channel: counted, and expected at the processed luminosity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from higgsnb.selection import CHANNELS

if TYPE_CHECKING:
    from higgsnb.datasets import Campaign


class Yield(NamedTuple):
    """Events of a process in a channel.

    Counted, expected at the processed luminosity, statistical error of ``expected``.
    """

    events: int
    expected: float
    stat_error: float

    def __str__(self) -> str:
        """Return it in words."""
        if self.expected == self.events:  # data, of which each event counts as one
            return f"{self.events} events"
        return f"{self.events} events counted, {self.expected:.2f} ± {self.stat_error:.2f} expected"

    def _repr_html_(self) -> str:
        """Return what a notebook shows."""
        return f"<span>{self}</span>"


def weights(campaign: Campaign, generated: Sequence[float], shares: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """Return expected events per counted event, by dataset and channel: 1 for data, L·σ·k / N for simulation.

    L is the luminosity processed so far in that channel (``shares`` of all), N the number of generated events that the
    processed ones stand for (``generated``, by dataset): a partial result is normalised like a complete one, and a skim
    like the sample that it was made of. A simulated dataset of which nothing has been processed is left out.
    """
    found: dict[str, dict[str, float]] = {}
    for index, dataset in enumerate(campaign.datasets):
        if dataset.is_data:
            found[dataset.name] = dict.fromkeys(CHANNELS, 1.0)
        elif n_events := generated[index]:
            found[dataset.name] = {}
            for channel in CHANNELS:
                luminosity_fb = (dataset.luminosity_fb or campaign.luminosity_fb) * shares[channel]
                cross_section_fb = (dataset.cross_section_pb or 0.0) * 1000.0
                found[dataset.name][channel] = luminosity_fb * cross_section_fb * dataset.scale / n_events
    return found
