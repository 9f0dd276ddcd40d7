"""Yields per process and channel: counted, and expected at the processed luminosity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from higgsnb.datasets import Campaign
    from higgsnb.selection import Analysis


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


def only_primary_dataset(campaign: Campaign, selection: Analysis) -> dict[str, str]:
    """Return the primary dataset of each region that is taken from one only, and not from all data."""
    found = {}
    for index, region in enumerate(selection.regions):
        taken = {
            d.primary_dataset for d in campaign.datasets if d.is_data and index in selection.channels(d.primary_dataset)
        }
        if len(taken) == 1 and (primary_dataset := taken.pop()) is not None:
            found[region] = primary_dataset
    return found


def weights(
    campaign: Campaign, generated: Sequence[float], shares: Mapping[str, float], only: Mapping[str, str]
) -> dict[str, dict[str, float]]:
    """Return expected events per unit of weight, by dataset and region: 1 for data, L·σ·k / N for simulation.

    Without weights each event counts as one. L is the luminosity processed so far in that region (``shares`` of all), N
    the sum of weights of the generated events that the processed ones stand for (``generated``, by dataset): a partial
    result is normalised like a complete one, and a skim like the sample that it was made of. A simulated dataset of
    which nothing has been processed, or only events whose weights cancel, is left out. Where the data of a region come
    from one primary dataset only (``only``, see `only_primary_dataset`), the efficiency of its trigger is a factor, if
    the campaign states it.
    """
    found: dict[str, dict[str, float]] = {}
    for index, dataset in enumerate(campaign.datasets):
        if dataset.is_data:
            found[dataset.name] = dict.fromkeys(shares, 1.0)
        elif n_events := generated[index]:
            found[dataset.name] = {}
            for region, share in shares.items():
                luminosity_fb = (dataset.luminosity_fb or campaign.luminosity_fb) * share
                cross_section_fb = (dataset.cross_section_pb or 0.0) * 1000.0
                expected = luminosity_fb * cross_section_fb * dataset.scale / n_events
                efficiency = dataset.trigger_efficiency.get(region, {}).get(only.get(region, ""), 1.0)
                found[dataset.name][region] = expected * efficiency
    return found
