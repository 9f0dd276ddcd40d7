"""How much of a campaign stands behind a result."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from html import escape
from typing import TYPE_CHECKING, NamedTuple

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
        """How many generated events the counted entries of each dataset stand for: more than they are, in a skim.

        A file of which no event is left counts whole: it stands for all events that were generated for it.
        """
        found: list[float] = [*self.events_done]
        for key, generated in self.tally.generated.items():
            entries, ranges = self.entries(key), self.tally.ranges.get(key, ())
            if not entries:
                found[key[0]] += generated if ranges else 0
            elif generated != entries:
                done = sum(stop - start for start, stop in ranges)
                found[key[0]] += done * generated / entries - done
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
