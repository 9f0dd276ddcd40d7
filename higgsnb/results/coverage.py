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
    """How far the files of a campaign have been counted.

    Attributes
    ----------
    campaign, tally
        What there is, and what has been counted of it.
    files
        What each opened file says of itself, by `FileKey`.
    """

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

    @property
    def all_datasets(self) -> range:
        """The index of every dataset of the campaign."""
        return range(len(self.campaign.datasets))

    def keys(self, datasets: Iterable[int]) -> list[FileKey]:
        """Return the keys of the files of some datasets."""
        return [(index, file) for index in datasets for file in range(len(self.campaign.datasets[index].files))]

    def entries(self, key: FileKey) -> int | None:
        """Return the number of entries of a file: as it says itself, else as the catalogue says, else None."""
        if key in self.files:
            return self.files[key].entries
        return self.campaign.datasets[key[0]].files[key[1]].events

    @cached_property
    def done(self) -> frozenset[FileKey]:
        """The files of which all entries have been counted."""
        units = self.tally.units
        return frozenset(key for key, ranges in units.items() if ranges == ((0, self.entries(key)),))

    def is_done(self, key: FileKey) -> bool:
        """Whether all entries of a file have been counted."""
        return key in self.done

    def total(self, datasets: Iterable[int]) -> float:
        """Return the number of entries of some datasets; a file of unknown length counts as the average one."""
        stated = {index: self.campaign.datasets[index].stated_events for index in datasets}
        return sum(
            len(self.campaign.datasets[index].files) * self._average(index) if events is None else events
            for index, events in stated.items()
        )

    def _average(self, dataset: int) -> float:
        """Return the mean number of entries of a dataset's files of known length, else of all such files."""
        for keys in (self.keys([dataset]), self.keys(self.all_datasets)):
            known = [entries for key in keys if (entries := self.entries(key)) is not None]
            if known:
                return sum(known) / len(known)
        return 0.0

    def fraction(self, datasets: list[int]) -> float:
        """Return which part of the events of some datasets has been counted."""
        if all(self.is_done(key) for key in self.keys(datasets)):
            return 1.0
        total = self.total(datasets)
        return sum(self.tally.events(index) for index in datasets) / total if total else 0.0


def coverage(progress: CampaignProgress, luminosity_share: float) -> Coverage:
    """Return files, events and luminosity done, and their totals.

    Parameters
    ----------
    progress
        How far the files are; those of unknown length count as the average one.
    luminosity_share
        Which part of the luminosity has been processed, see `lumi_sections.Luminosity.share`.
    """
    keys, luminosity_fb = progress.keys(progress.all_datasets), progress.campaign.luminosity_fb
    done = sum(stop - start for ranges in progress.tally.units.values() for start, stop in ranges)
    return Coverage(
        files=(sum(map(progress.is_done, keys)), len(keys)),
        events=(done, round(progress.total(progress.all_datasets))),
        luminosity_fb=(luminosity_fb * luminosity_share, luminosity_fb),
    )
