"""Processed and lost lumi sections of a result, and the luminosity they add up to."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from higgsnb.datasets import LumiData, LumiList, LumiMask, kept_mask, kept_table
from higgsnb.results.coverage import CHANNEL_PRIMARY_DATASETS, PRIMARY_DATASET_ORDER, CampaignProgress
from higgsnb.results.failures import named, told
from higgsnb.results.tally import ChunkKey, Integers, Span
from higgsnb.selection import Selection

if TYPE_CHECKING:
    from higgsnb.selection import Analysis

Name = TypeVar("Name")
FEW_EVENTS = 5
"""Events in a lumi section below which more than exp(-5) = 0.7 % of the sections are expected to have none."""


@dataclass(frozen=True)
class Luminosity:
    """The processed luminosity of a result, and the lumi sections behind it.

    ``failed_sections`` are, by `ChunkKey`, those of chunks that failed, where they could be read.
    """

    progress: CampaignProgress
    selection: Analysis
    failed_sections: Mapping[ChunkKey, Integers]

    @cached_property
    def _catalogue(self) -> LumiCatalogue | None:
        """The lumi sections of the campaign; None if it names neither golden JSON nor table, or has no data."""
        campaign, has_data = self.progress.campaign, bool(self.progress.primary_datasets)
        inputs = campaign.golden_json, campaign.luminosity_table, campaign.runs
        return lumi_catalogue(*inputs) if has_data else None

    @property
    def source(self) -> str:
        """How processed luminosity is found: from "lumi sections" and their table, or in proportion to "events"."""
        return "lumi sections" if self._catalogue is not None and self._catalogue.total > 0 else "events"

    @cached_property
    def share(self) -> float:
        """Which part of the luminosity has been processed, over all primary datasets; 1 in a campaign without data.

        In proportion to the events of all data, or, by lumi sections, the mean over the primary datasets.
        """
        primary_datasets = list(self.progress.primary_datasets.values())
        if not primary_datasets:
            return 1.0
        if self.source == "events":
            return self.progress.fraction([index for indices in primary_datasets for index in indices])
        return sum(self._recorded([indices]) for indices in primary_datasets) / len(primary_datasets)

    @cached_property
    def shares(self) -> dict[str, float]:
        """Which part of the luminosity has been processed, per channel; 1 in a campaign without data.

        By lumi sections (`source`), a primary dataset's share is the recorded luminosity of its processed sections over
        that of all sections. By events, it is taken to be that of its events.

        Where a channel is the union of two primary datasets (2e2mu), either primary dataset holds nearly all events of
        the channel, and an event in both is counted once. By lumi sections, a section that is processed in either
        primary dataset therefore counts, once: with only those of both, the data of the other sections would be
        compared with no prediction, and with the larger of the two shares, two primary datasets that are done in
        different sections would be taken for one. What remains is the inefficiency of one primary dataset alone in
        sections that only one has processed. By events it is unknown which sections these are: the primary dataset that
        is further counts, which is right as long as the chunks of both are done in the same order, as `datasets.chunks`
        lays them out, and too low if they are not.
        """
        primary_datasets, found = self.progress.primary_datasets, {}
        if not primary_datasets:
            return dict.fromkeys(self.selection.regions, 1.0)
        holding = CHANNEL_PRIMARY_DATASETS if isinstance(self.selection, Selection) else {}
        for region, region_name in enumerate(self.selection.regions):
            feeding = [
                indices
                for name, indices in primary_datasets.items()
                if region in self.selection.channels(name)
                and (name not in PRIMARY_DATASET_ORDER or name in holding.get(region, (name,)))
            ]
            if self.source == "events":
                found[region_name] = max((self.progress.fraction(indices) for indices in feeding), default=0.0)
            else:
                found[region_name] = self._recorded(feeding)
        return found

    def _recorded(self, primary_datasets: list[list[int]]) -> float:
        """Return the share of the luminosity in the sections that at least one of some primary datasets processed."""
        if self._catalogue is None:
            return 0.0
        done = []
        for indices in primary_datasets:
            statuses = [self._statuses[index] for index in indices]
            done.append(union(one.processed for one in statuses) - union(one.lost for one in statuses))
        return self._catalogue.integrated(union(done)) / self._catalogue.total

    @property
    def processed(self) -> dict[str, LumiList]:
        """The lumi sections of each dataset of data of which every event has been counted.

        They and `lost` are disjoint; over all datasets of a primary dataset they are all sections of the campaign:
        those in golden JSON and luminosity table, or in whichever it names. Without either both are empty dictionaries.

        A section of which some events were counted and some are pending or failed is lost. A section without any event
        is in no file: it counts as processed once every event of its primary dataset has been counted, and as lost
        until then. So a table by lumi section suits files with events in nearly every section; with files of a few
        selected events the luminosity of a partial result would be far too low (`notes` warns).
        """
        return {self.progress.campaign.datasets[i].name: one.processed for i, one in self._statuses.items()}

    @property
    def lost(self) -> dict[str, LumiList]:
        """The lumi sections of each dataset of data that are not processed, see `processed`."""
        return {self.progress.campaign.datasets[i].name: one.lost for i, one in self._statuses.items()}

    @cached_property
    def _statuses(self) -> dict[int, LumiStatus]:
        """Processed and lost sections by dataset."""
        if self._catalogue is None:
            return {}
        found: dict[int, LumiStatus] = {}
        for indices in self.progress.primary_datasets.values():
            complete = self.progress.complete(indices)
            sections = {index: self._sections_of(index) for index in indices}
            found |= lumi_accounting(self._catalogue.sections, sections, complete=complete)
        return {index: found[index] for index in sorted(found)}

    def _sections_of(self, dataset: int) -> DatasetSections:
        """Return which sections have been seen of a dataset, and which of them are not finished."""
        tally, failed, ranges = self.progress.tally, [], defaultdict(list)
        for (index, file, start, stop), keys in self.failed_sections.items():
            counted = tally.ranges.get((index, file), ())
            if index == dataset and not any(first <= start and stop <= last for first, last in counted):
                failed.append(keys)
                ranges[file].append((start, stop))
        files = [
            FileSections(self.progress.entries(key), tally.spans.get(key, ()), ranges[key[1]], tally.scattered.get(key))
            for key in ((dataset, file) for file in range(len(self.progress.campaign.datasets[dataset].files)))
        ]
        seen = [tally.sections.get(dataset, np.empty(0, np.int64)), *failed]
        return DatasetSections(union(map(LumiList, seen)), unfinished(files, failed))

    @cached_property
    def without_table(self) -> dict[str, LumiList]:
        """Certified sections with events that the luminosity table lacks, by dataset; no empty ones."""
        if self._catalogue is None or self._catalogue.recorded is None:
            return {}
        found = {
            self.progress.campaign.datasets[index].name: LumiList(keys) - self._catalogue.sections
            for index, keys in self.progress.tally.sections.items()
        }
        return {name: sections for name, sections in found.items() if len(sections)}

    def _unseen(self, indices: list[int]) -> LumiList:
        """Return the sections of the campaign in which a primary dataset has no event; none until it is complete."""
        if self._catalogue is None or not self.progress.complete(indices):
            return LumiList(np.empty(0, np.int64))
        return self._catalogue.sections - self._seen(indices)

    def _seen(self, indices: list[int]) -> LumiList:
        """Return the certified sections in which a primary dataset has events."""
        sections = self.progress.tally.sections
        return union(LumiList(sections[index]) for index in indices if index in sections)

    def _certified_events(self, index: int) -> int:
        """Return how many counted events of a dataset are in certified sections."""
        return self.progress.events_done[index] - self.progress.tally.rejected_by_golden_json.get(index, 0)

    @cached_property
    def in_other_sections(self) -> dict[str, tuple[int, int]]:
        """Datasets of other sections than the golden JSON certifies: how many events are certified, how many counted.

        None of its events is certified; or few are, and most certified sections have no event in its primary dataset.
        """
        found: dict[int, tuple[int, int]] = {}
        for indices in self.progress.primary_datasets.values():
            for index in indices:
                certified, done = self._certified_events(index), self.progress.events_done[index]
                if 2 * certified >= done:
                    continue
                if not certified or (
                    self._catalogue and 2 * len(self._unseen(indices)) > len(self._catalogue.sections)
                ):
                    found[index] = certified, done
        return {self.progress.campaign.datasets[index].name: found[index] for index in sorted(found)}

    @property
    def notes(self) -> tuple[tuple[str, str], ...]:
        """Warnings about the luminosity, each with a hint: table and campaign, or table and data, disagree.

        They are not errors: the counts are right whatever the luminosity, and that data have sections which the table
        lacks is seen only when they have been read.
        """
        campaign, tally = self.progress.campaign, self.progress.tally
        notes: list[tuple[str, str]] = []
        if self._catalogue is None or campaign.luminosity_table is None:
            return ()
        total, expected = self._catalogue.total, campaign.luminosity_fb
        if abs(total - expected) > campaign.luminosity_uncertainty * expected:
            what = (
                f"luminosity_table adds up to {total:.4g} /fb in the certified sections, luminosity_fb is "
                f"{expected:.4g}: they differ by more than luminosity_uncertainty "
                f"({campaign.luminosity_uncertainty:.2g}). luminosity_fb was used, the table only for shares of it"
            )
            notes.append((what, "Correct luminosity_fb, or make the table for these data."))
        if found := self.without_table:
            sections = union(found.values())
            run, section = divmod(int(sections.starts[0]), 2**32)
            s, more = ("s", " …") if len(sections) > 1 else ("", "")
            what = (
                f"{named(list(found))}: {len(sections):,} lumi section{s} with events (run {run}, section "
                f"{section}{more}) not in luminosity_table: their events are counted, their luminosity is not"
            )
            hint = "Make the table with brilcalc lumi --byls -i GOLDEN_JSON, or leave the sections out of that."
            notes.append((what, hint))
        if without_data := self._without_data():
            hint = "Name the data of these runs, too, or a golden JSON and a table of the data that are there."
            notes.append((told(without_data), hint))
        sparse = [
            campaign.datasets[index].name
            for index, keys in tally.sections.items()
            if self._certified_events(index) < FEW_EVENTS * len(keys)
        ]
        if sparse and not self.progress.complete():
            what = (
                f"{named(sparse)}: fewer than {FEW_EVENTS} events in a lumi section on average. Sections without "
                "any event count as lost until the run is complete, so that the luminosity is too low until then"
            )
            notes.append((what, "Leave luminosity_table out to estimate it from the events."))
        return tuple(notes)

    def _without_data(self) -> dict[str, list[str]]:
        """Describe sections whose luminosity counts although their data are not in the campaign; by that, the datasets.

        Where a primary dataset is complete and has `FEW_EVENTS` in a section or more, a section without any is not one
        in which nothing happened to be triggered.
        """
        found: dict[str, list[str]] = {}
        for indices in self.progress.primary_datasets.values():
            seen, unseen, n = self._seen(indices), self._unseen(indices), sum(map(self._certified_events, indices))
            if self._catalogue is None or not len(seen) or n < FEW_EVENTS * len(seen):
                continue
            total, without = self._catalogue.total, self._catalogue.integrated(unseen)
            if without > self.progress.campaign.luminosity_uncertainty * total:
                what = (
                    f"no event in {len(unseen):,} of {len(self._catalogue.sections):,} lumi sections of "
                    f"luminosity_table, which have {without:.4g} of its {total:.4g} /fb and count as processed; "
                    f"sections with events have {n / len(seen):.3g} on average"
                )
                found.setdefault(what, []).extend(self.progress.campaign.datasets[index].name for index in indices)
        return found


class FileSections(NamedTuple):
    """How far a file is.

    ``entries`` of the file, None = not known; ``spans`` counted; ``failed`` the ranges of entries that could not be
    counted but whose sections are known; ``scattered`` the sections of counted events that are not neighbours.
    """

    entries: int | None
    spans: Sequence[Span] = ()
    failed: Sequence[tuple[int, int]] = ()
    scattered: Integers | None = None

    @property
    def known(self) -> bool:
        """Whether the sections of every entry are known."""
        at = 0
        for start, stop in sorted([*((span.start, span.stop) for span in self.spans), *self.failed]):
            if start > at:
                return False
            at = max(at, stop)
        return self.entries is not None and at >= self.entries

    @property
    def heads(self) -> list[int]:
        """The section with which the file begins, if its first entry has been counted."""
        return [span.first for span in self.spans if span.start == 0]

    @property
    def tails(self) -> list[int]:
        """The section with which the file ends, if its last entry has been counted."""
        return [span.last for span in self.spans if span.stop == self.entries]

    @property
    def head_known(self) -> bool:
        """Whether the section of the first entry is known."""
        return any(start == 0 for start, *_ in (*self.spans, *self.failed))

    @property
    def tail_known(self) -> bool:
        """Whether the section of the last entry is known."""
        return any(stop == self.entries for _, stop, *_ in (*self.spans, *self.failed))


def unfinished(files: Iterable[FileSections], failed: Iterable[Integers]) -> LumiList:
    """Return the sections of one dataset, certified or not, of which events are missing, or may be.

    Of a range that failed the sections are known (``failed``), if they could be read at least. Of a range that is
    pending, or too damaged, they are not: but events of a section are neighbours in a file, so that only the sections
    beside the range can have a part in it, or those beside it in the next file of the catalogue, if it reaches to the
    end of its file. Where a file shows that they are not neighbours, all of its sections can. Where files of the
    dataset are seen to share sections, those at the ends of all its files can.

    What cannot be known: that a section has a part in an unread file, if the other part is in a file that is no
    neighbour in the catalogue and no two files have been seen to share a section.
    """
    files, missing = [file for file in files if file.entries != 0], list(failed)
    edges: list[int] = []  # sections that may have a part in entries of which nothing is known
    for file in files:
        if not file.known:
            starts, stops = {start for start, _ in file.failed}, {stop for _, stop in file.failed}
            edges += [span.first for span in file.spans if span.start > 0 and span.start not in stops]
            edges += [span.last for span in file.spans if span.stop != file.entries and span.stop not in starts]
            missing += [] if file.scattered is None else [file.scattered]
    for one, following in pairwise(files):
        edges += [] if following.head_known else one.tails
        edges += [] if one.tail_known else following.heads
    ends = [{*file.heads, *file.tails} for file in files]
    shared = any(number > 1 for number in Counter(key for some in ends for key in some).values())
    if shared and not all(file.known for file in files):
        edges += set().union(*ends)
    return LumiList(np.unique(np.concatenate([*missing, np.array(edges, np.int64)])))


class DatasetSections(NamedTuple):
    """The sections of a dataset: ``seen`` in events, of which some events are ``missing`` (or may be)."""

    seen: LumiList
    missing: LumiList


class LumiStatus(NamedTuple):
    """Sections that are wholly processed, and those that are not; disjoint."""

    processed: LumiList
    lost: LumiList


def lumi_accounting(
    everything: LumiList, datasets: Mapping[Name, DatasetSections], *, complete: bool
) -> dict[Name, LumiStatus]:
    """Divide the sections of a primary dataset into processed and lost ones, for each of its datasets (its eras).

    Both together are ``everything`` (the sections in golden JSON and table) but for the sections that only another
    dataset of the primary dataset has shown; over all of its datasets they are ``everything``. A section without any
    event is in no file: it counts as processed if the primary dataset is ``complete`` (every event of it has been
    counted), until then as lost.
    """
    found = {}
    for name, one in datasets.items():
        others = union(other.seen for key, other in datasets.items() if key != name)
        mine = everything - (others - one.seen)
        processed = mine if complete else (one.seen - one.missing) & mine
        found[name] = LumiStatus(processed, mine - processed)
    return found


def union(parts: Iterable[LumiList]) -> LumiList:
    """Return the sections in any of some sets."""
    starts, stops = zip(*((part.starts, part.stops) for part in (LumiList(np.empty(0, np.int64)), *parts)), strict=True)
    return LumiList.of_ranges(np.concatenate(starts), np.concatenate(stops))


@dataclass(frozen=True)
class LumiCatalogue:
    """The lumi sections of a campaign: those in golden JSON, table and the runs of its eras, or in whichever exist.

    ``recorded`` is the luminosity of each in 1/fb, float64 in the order of ``sections``; None without a table.
    """

    sections: LumiList
    recorded: npt.NDArray[np.float64] | None

    @cached_property
    def total(self) -> float:
        """The recorded luminosity of all, in 1/fb; 0 without a table."""
        return self.integrated(self.sections)

    def integrated(self, some: LumiList) -> float:
        """Sum the recorded luminosity of those of its sections that are in ``some``, in 1/fb."""
        if self.recorded is None:
            return 0.0
        inside = some.holds(self.sections.keys)
        return math.fsum(self.recorded[inside].tolist())  # exact, so that it is the same on every machine


def lumi_catalogue(
    golden_json: str | None, luminosity_table: str | None, runs: tuple[tuple[int, int], ...] = ()
) -> LumiCatalogue | None:
    """Return the sections of a campaign that names a golden JSON, a table or both; None if it names neither.

    Only those of some ``runs`` (ranges of them), if there are any. Raises as `LumiMask.load` and `read_table` do.
    """
    if golden_json is None and luminosity_table is None:
        return None
    mask = None if golden_json is None else kept_mask(golden_json)
    return _catalogue(mask, None if luminosity_table is None else kept_table(luminosity_table), runs)


@lru_cache(maxsize=4)
def _catalogue(mask: LumiMask | None, table: LumiData | None, runs: tuple[tuple[int, int], ...]) -> LumiCatalogue:
    sections = None if mask is None else mask.sections
    if table is not None:
        sections = table.sections if sections is None else table.sections & sections
    if sections is None:
        sections = LumiList(np.empty(0, np.int64))
    if runs:
        sections &= LumiList.of_runs(runs)
    recorded = None if table is None else table.recorded[sections.holds(table.sections.keys)]
    return LumiCatalogue(sections, recorded)
