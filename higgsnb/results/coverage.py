"""How much of a campaign stands behind a result."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from html import escape
from typing import TYPE_CHECKING, NamedTuple

from higgsnb.results.weights import to_float
from higgsnb.selection import FOUR_ELECTRONS, FOUR_MUONS, TWO_EACH

if TYPE_CHECKING:
    from higgsnb.datasets import Campaign
    from higgsnb.events import FileInfo
    from higgsnb.results.tally import FileKey, Tally


class Coverage(NamedTuple):
    """How much of a campaign stands behind a result, each (done, total): files, events, luminosity in 1/fb."""

    files: tuple[int, int]
    events: tuple[int, int]
    luminosity_fb: tuple[float, float]

    def __str__(self) -> str:
        """Return it in words."""
        (files, all_files), (done, events), (processed, total) = self
        return f"{files} of {all_files} files, {done:,} of {events:,} events, {processed:.4g} of {total:.4g} /fb"

    def _repr_html_(self) -> str:
        """Return what a notebook shows."""
        return f"<span>{escape(str(self))}</span>"


PRIMARY_DATASET_ORDER = ("DoubleMu", "DoubleElectron")
"""Precedence of primary datasets where a campaign states none."""
CHANNEL_PRIMARY_DATASETS = {
    FOUR_MUONS: {"DoubleMu"},
    FOUR_ELECTRONS: {"DoubleElectron"},
    TWO_EACH: set(PRIMARY_DATASET_ORDER),
}
"""Which of these primary datasets hold events of a channel at all."""


SAME_SUMS = 1e-6
"""Relative difference of two sums of weights, of which one was added up in floating point, that is none."""


@dataclass(frozen=True)
class CampaignProgress:
    """How far the files of a campaign have been counted; ``files`` is what each opened file says of itself."""

    campaign: Campaign
    tally: Tally
    files: Mapping[FileKey, FileInfo]

    @cached_property
    def primary_datasets(self) -> dict[str | None, list[int]]:
        """The datasets of data by primary dataset, as indices into the catalogue."""
        primary_datasets: dict[str | None, list[int]] = defaultdict(list)
        for index, dataset in enumerate(self.campaign.datasets):
            if dataset.is_data:
                primary_datasets[dataset.primary_dataset].append(index)
        return dict(primary_datasets)

    def entries(self, key: FileKey) -> int | None:
        """Return the number of entries of a file: as it says itself, else as the catalogue says, else None."""
        if key in self.files:
            return self.files[key].entries
        return self.campaign.datasets[key[0]].files[key[1]].events

    @cached_property
    def events_done(self) -> list[int]:
        """How many entries of each dataset have been counted."""
        done = [0] * len(self.campaign.datasets)
        for (index, _), ranges in self.tally.ranges.items():
            for start, stop in ranges:
                done[index] += stop - start
        return done

    @cached_property
    def generated(self) -> list[float]:
        """The sum of weights of the generated events that the counted ones of each dataset stand for.

        Without weights each counts as one. It is more than the counted events have, in a skim; a file of which no event
        is left counts whole: it stands for all events that were generated for it.
        """
        terms: list[list[float]] = [[] for _ in self.campaign.datasets]
        for key, ranges in self.tally.ranges.items():
            done, entries = sum(stop - start for start, stop in ranges), self.entries(key)
            stated, weighing = self.tally.generated.get(key), self.tally.weighings.get(key)
            if stated is not None:
                term = stated.total * done / entries if entries else stated.total
            else:
                term = done if weighing is None else to_float(weighing.total, weighing.exponent)
            terms[key[0]].append(term)
        for index, dataset in enumerate(self.campaign.datasets):
            total = dataset.sum_of_weights
            if total is None or not self.events_done[index]:
                continue
            if isinstance(total, str):  # the column that holds it; like the number it is that of all files together
                total = next((one.total for key, one in self.tally.generated.items() if key[0] == index), 0.0)
            terms[index] = [total * self.events_done[index] / self.events[index]]
        return [math.fsum(some) for some in terms]

    @cached_property
    def represented(self) -> list[float]:
        """How many generated events the counted ones of each dataset stand for: more than they are, in a skim.

        Where the campaign states the sum of weights it is not known: other factors may be in the weight.
        """
        found: list[float] = [*self.events_done]
        for key, stated in self.tally.generated.items():
            entries, ranges = self.entries(key), self.tally.ranges.get(key, ())
            done, number = sum(stop - start for start, stop in ranges), stated.number
            weighing = self.tally.weighings.get(key)
            by_campaign = self.campaign.datasets[key[0]].sum_of_weights is not None
            if math.isnan(number) and weighing is not None and done == entries and weighing.total and not by_campaign:
                ratio = stated.total / to_float(weighing.total, weighing.exponent)
                number = done if math.isclose(ratio, 1.0, rel_tol=SAME_SUMS) else done * ratio
            if math.isnan(number):
                continue
            if not entries:
                found[key[0]] += number if ranges else 0
            elif number != entries:
                found[key[0]] += done * number / entries - done
        return found

    @cached_property
    def files_done(self) -> list[int]:
        """How many files of each dataset have been counted from the first to the last entry."""
        done = [0] * len(self.campaign.datasets)
        for key, ranges in self.tally.ranges.items():
            done[key[0]] += ranges == ((0, self.entries(key)),)
        return done

    @cached_property
    def events(self) -> list[float]:
        """The number of entries of each dataset; a file of unknown length counts as the average one."""
        known = [
            [n for file in range(len(dataset.files)) if (n := self.entries((index, file))) is not None]
            for index, dataset in enumerate(self.campaign.datasets)
        ]
        totals: list[float] = []
        for dataset, mine in zip(self.campaign.datasets, known, strict=True):
            some = mine or [n for others in known for n in others] or [0]
            estimated = len(dataset.files) * (sum(some) / len(some))
            totals.append(estimated if dataset.stated_events is None else dataset.stated_events)
        return totals

    def complete(self, datasets: Iterable[int] | None = None) -> bool:
        """Whether every entry of some datasets (default: all) has been counted."""
        indices = range(len(self.campaign.datasets)) if datasets is None else datasets
        return all(self.files_done[index] == self.campaign.datasets[index].n_files for index in indices)

    def fraction(self, datasets: list[int]) -> float:
        """Return which part of the events of some datasets has been counted."""
        if self.complete(datasets):
            return 1.0
        total = sum(self.events[index] for index in datasets)
        return sum(self.events_done[index] for index in datasets) / total if total else 0.0
