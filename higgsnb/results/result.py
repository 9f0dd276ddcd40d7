"""A tally seen against its campaign: normalised, without duplicate events, and with its coverage."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from html import escape
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from higgsnb import events, provenance
from higgsnb.datasets import Address
from higgsnb.errors import OptionError
from higgsnb.results import histograms, yields
from higgsnb.results.coverage import PRIMARY_DATASET_ORDER, CampaignProgress, Coverage
from higgsnb.results.failures import Failure, named, told
from higgsnb.results.lumi_sections import Luminosity
from higgsnb.results.plausibility import implausible, unusable
from higgsnb.results.spectrum import Spectrum, normalise
from higgsnb.results.tally import ChunkKey, FileKey, Integers, Table, Tally, find_duplicates, in_order
from higgsnb.results.yields import Yield
from higgsnb.selection import CHANNELS, CUT_NAMES, QUANTITIES, SENTINEL, Cut, Selection

if TYPE_CHECKING:
    import hist

    from higgsnb.datasets import Campaign
    from higgsnb.events import FileInfo

KINDS = {"baskets": "TTree", "pages": "RNTuple", "csv": "CSV"}
"""The kind of a file by the reader of it."""


class Doubt(NamedTuple):
    """Inputs that do not fit each other: ``kind`` in a word or two, what it is, and what to do."""

    kind: str
    message: str
    hint: str


@dataclass(frozen=True, repr=False)
class Result:
    """A tally seen against its campaign. ``result + other`` adds disjoint parts of the same campaign and selection.

    By `FileKey`, ``files`` has what each opened file says of itself, and ``failures`` those that could not be analysed.
    ``run`` says how the work went (workers, tries), which may differ between runs that give the same result. By
    `ChunkKey`, ``failed_sections`` has the lumi sections of failed chunks that `analysis.sections_of` could read.
    ``golden_json_digest`` is that of the mask with which data were counted, empty without one.
    """

    campaign: Campaign
    selection: Selection
    tally: Tally = field(default_factory=Tally)
    files: Mapping[FileKey, FileInfo] = field(default_factory=dict)
    failures: Mapping[FileKey, Failure] = field(default_factory=dict)
    failed_sections: Mapping[ChunkKey, Integers] = field(default_factory=dict)
    golden_json_digest: str = ""
    run: Mapping[str, Any] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        """Leave out simulation that cannot be normalised by a number of events: a decision over all that is in it."""
        pairs = self.tally.generator_weights.items()  # the smallest is infinite if there is no event
        mixed = {
            index: pair
            for index, pair in pairs
            if not pair[0] or (pair[0] < pair[1] and not math.isclose(*pair, rel_tol=events.SAME_WEIGHTS))
        }
        if not mixed:
            return
        failures = dict(self.failures)
        for index, (smallest, largest) in mixed.items():
            dataset = self.campaign.datasets[index]
            what = f"goes from {smallest:g} to {largest:g}" if smallest != largest else "is 0"
            message = f"dataset {dataset.name}: genWeight {what}; weighted simulation is not supported yet"
            for number, file in enumerate(dataset.files):
                failure = Failure(dataset.name, file.url, "SchemaError", message, "Use a sample without weights.")
                failures.setdefault((index, number), failure)
        object.__setattr__(self, "failures", failures)
        object.__setattr__(self, "tally", self.tally.without(mixed))

    def __repr__(self) -> str:
        """Return one line that says how much of the campaign is in it."""
        state = "complete" if self.complete else "PARTIAL"
        failed = f", {len(self.failures)} failed" if self.failures else ""
        return f"<Result of {self.campaign.name!r} with {self.selection.name!r}: {state}, {self.coverage}{failed}>"

    def _repr_html_(self) -> str:
        """Return what a notebook shows: coverage, yields per process and channel, and failures in red."""
        state = "complete" if self.complete else "partial"
        title = f"{self.campaign.name} with {self.selection.name}: {state}{', simulated' if self.simulated else ''}"
        header = "".join(f"<th>{escape(name)}</th>" for name in ("events", *CHANNELS))
        rows = ""
        for process, channels in self.yields.items():
            rows += f'<tr><td style="text-align: left">{escape(process)}</td>'
            for one in channels.values():
                text = f"{one.events}" if process == "data" else f"{one.expected:.2f} ± {one.stat_error:.2f}"
                rows += f'<td style="text-align: right">{text}</td>'
            rows += "</tr>"
        warnings = ""
        if self.missing_simulation:
            warnings += f"<div>The prediction lacks {escape(', '.join(self.missing_simulation))}.</div>"
        for doubt in self.doubts:
            warnings += f"<div>Doubtful {escape(doubt.kind)}: {escape(doubt.message)}. {escape(doubt.hint)}</div>"
        if self.failures:
            kinds = Failure.described(self.failed, rest=", see result.failed")
            listed = "".join(f"<li>{'<br>'.join(map(escape, kind))}</li>" for kind in kinds)
            number = f"{len(self.failures)} of {self.coverage.files[1]} files"
            warnings += f"<div>{number} could not be analysed:<ul>{listed}</ul></div>"
        return (
            f"<div><strong>{escape(title)}</strong><br>{escape(str(self.coverage))}"
            f"<table><thead><tr>{header}</tr></thead><tbody>{rows}</tbody></table>"
            f'<div style="color: #b3261e">{warnings}</div></div>'
        )

    def __add__(self, other: Result) -> Result:
        """Add a part that counted other events; OptionError if campaign or selection differ, or an event is in both."""
        for name in ("campaign", "selection"):
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine.digest != theirs.digest:
                raise OptionError(
                    f"results of different {name}s cannot be added: "
                    f"{mine.name!r} ({mine.digest[:8]}), {theirs.name!r} ({theirs.digest[:8]})",
                    f"Add results of one {name}.",
                )
        masks = {self.golden_json_digest, other.golden_json_digest} - {""}
        if len(masks) > 1:
            what = "results cannot be added: the golden JSON was changed between them"
            raise OptionError(what, "Run both again with the same one.")
        return Result(
            self.campaign, self.selection, self.tally + other.tally, {**self.files, **other.files},
            {**self.failures, **other.failures}, {**self.failed_sections, **other.failed_sections}, "".join(masks),
        )  # fmt: skip

    # -- how much of it

    @property
    def simulated(self) -> bool:
        """Whether the data, too, is simulated."""
        return self.campaign.simulated

    @property
    def failed(self) -> tuple[Failure, ...]:
        """The files that could not be analysed, in the order of the catalogue."""
        return tuple(self.failures[key] for key in sorted(self.failures))

    @property
    def complete(self) -> bool:
        """Whether every event of every file of the campaign has been counted."""
        done, total = self.coverage.files
        return done == total and not self.failures

    @cached_property
    def coverage(self) -> Coverage:
        """Files, events and luminosity done, and their totals."""
        progress, luminosity_fb = self._progress, self.campaign.luminosity_fb
        return Coverage(
            files=(sum(progress.files_done), self.campaign.n_files),
            events=(sum(progress.events_done), round(sum(progress.events))),
            luminosity_fb=(luminosity_fb * self.luminosity.share, luminosity_fb),
        )

    @cached_property
    def luminosity(self) -> Luminosity:
        """The processed luminosity, and the lumi sections behind it."""
        return Luminosity(self._progress, self.selection, self.failed_sections)

    @cached_property
    def _progress(self) -> CampaignProgress:
        """How far the files are."""
        return CampaignProgress(self.campaign, self.tally, self.files)

    # -- the events

    @cached_property
    def candidates(self) -> Table:
        """Every selected candidate in the order of the catalogue, each event of data once (see `duplicates`)."""
        return self._all_rows.rows(~self.duplicates)

    @cached_property
    def _all_rows(self) -> Table:
        """Every selected candidate in the order of the catalogue, also those found again in another primary dataset."""
        return in_order(self.tally.blocks)

    @cached_property
    def duplicates(self) -> npt.NDArray[np.bool_]:
        """Which rows are events of data that an earlier primary dataset, or an earlier file, holds already."""
        return find_duplicates(self._all_rows, self.precedence(), one_per_event=self.selection.one_per_event)

    def precedence(self) -> Integers:
        """Return the rank of each dataset for `find_duplicates`, −1 for simulation, which is never compared."""
        order = self.campaign.primary_dataset_precedence or PRIMARY_DATASET_ORDER
        ranks = [
            order.index(d.primary_dataset) if d.primary_dataset in order else len(order) for d in self.campaign.datasets
        ]
        return np.array([r if d.is_data else -1 for r, d in zip(ranks, self.campaign.datasets, strict=True)], np.int64)

    @cached_property
    def counts(self) -> dict[str, Integers]:
        """Counts as in `histograms`, (3, SIZE) int64, by the name of each dataset, with duplicates taken out."""
        counts = {d.name: np.zeros((len(CHANNELS), histograms.SIZE), np.int64) for d in self.campaign.datasets}
        for index, array in self.tally.counts.items():
            counts[self.campaign.datasets[index].name] += array
        # Only rows of data are sorted here: those of simulation are many, and live plots ask often.
        is_data = np.array([dataset.is_data for dataset in self.campaign.datasets])
        blocks = [block.rows(keep) for block in self.tally.blocks if (keep := is_data[block.dataset]).any()]
        rows = in_order(blocks)
        twice = rows.rows(find_duplicates(rows, self.precedence(), one_per_event=self.selection.one_per_event))
        for index in np.unique(twice.dataset):
            counts[self.campaign.datasets[index].name] -= histograms.fill(twice.rows(twice.dataset == index).variables)
        return counts

    @cached_property
    def histograms(self) -> dict[str, hist.Hist[Any]]:
        """Every histogram, with the axes dataset, channel and variable, as integer counts."""
        return histograms.to_hist(self.counts)

    @cached_property
    def cutflow(self) -> dict[str, dict[str, list[tuple[str, int]]]]:
        """Events that pass each cut and all before, per dataset and channel.

        The last row is after duplicates are gone.
        """
        found: dict[str, dict[str, list[tuple[str, int]]]] = {}
        rows = self._all_rows.rows(self.duplicates)
        for index, numbers in sorted(self.tally.cutflow.items()):
            dataset = self.campaign.datasets[index]
            found[dataset.name] = {}
            for channel in self.selection.channels(dataset.primary_dataset):
                passed = numbers[channel].tolist()
                passed[Cut.UNIQUE] -= int(np.count_nonzero((rows.dataset == index) & (rows.channel == channel)))
                found[dataset.name][CHANNELS[channel]] = list(zip(CUT_NAMES, passed, strict=True))
        return found

    # -- what a reader should know

    @cached_property
    def invalid_values(self) -> dict[str, dict[str, int]]:
        """Sentinels and non-finite values by dataset and column, in events with enough leptons for a channel.

        No zeros.
        """
        columns = [f"{flavour}_{quantity}" for flavour in ("muon", "electron") for quantity in QUANTITIES]
        return {
            self.campaign.datasets[index].name: {
                column: int(n) for column, n in zip(columns, counts.ravel(), strict=True) if n
            }
            for index, counts in self.tally.invalid_values.items()
        }

    @property
    def not_applied(self) -> dict[str, list[str]]:
        """Columns that a dataset's schema does not have: cuts on them were not applied."""
        found = self.tally.not_applied
        return {self.campaign.datasets[index].name: sorted(found[index]) for index in sorted(found) if found[index]}

    @property
    def rejected_by_golden_json(self) -> dict[str, int]:
        """Events in lumi sections that the golden JSON does not certify, by dataset."""
        return {self.campaign.datasets[i].name: n for i, n in self.tally.rejected_by_golden_json.items() if n}

    @property
    def duplicates_removed(self) -> dict[str, int]:
        """Selected candidates that another primary dataset or file held already, by dataset."""
        found = np.bincount(self._all_rows.dataset[self.duplicates], minlength=len(self.campaign.datasets))
        return {dataset.name: int(n) for dataset, n in zip(self.campaign.datasets, found, strict=True) if n}

    @property
    def skimmed(self) -> dict[str, tuple[int, float]]:
        """Counted events, and generated events that they stand for, of each dataset where these differ."""
        pairs = zip(self.campaign.datasets, self._progress.events_done, self._progress.generated, strict=True)
        return {dataset.name: (done, generated) for dataset, done, generated in pairs if done != generated}

    @cached_property
    def doubts(self) -> tuple[Doubt, ...]:
        """What makes the numbers doubtful although they could be computed: inputs that do not fit each other.

        One doubt for each kind and hint, of all datasets that it is about.
        """
        found = [Doubt("luminosity", *note) for note in self.luminosity.notes]
        if outside := self.luminosity.in_other_sections:
            certified, done = (sum(column) for column in zip(*outside.values(), strict=True))
            how_many = f"only {certified:,}" if certified else "none"
            message = (
                f"{named(list(outside))}: {how_many} of {'its' if len(outside) == 1 else 'their'} {done:,} events "
                f"{'are' if certified > 1 else 'is'} in a section that the golden JSON certifies"
            )
            found.append(Doubt("golden JSON", message, "Name the golden JSON of the year of these data."))
        units, values = defaultdict[str, list[str]](list), defaultdict[str, list[str]](list)
        for index, counts in sorted(self.tally.plausibility.items()):
            for what in implausible(counts):
                units[what].append(self.campaign.datasets[index].name)
            for column in unusable(counts):
                values[f"most values of {column} are not finite or {SENTINEL:g}"].append(
                    self.campaign.datasets[index].name
                )
        if units:
            hint = "Momenta must be in GeV, lengths in cm, angles in radians, isolation relative: convert the file."
            found.append(Doubt("units", told(units), hint))
        if values:
            hint = "A lepton without the value is never selected: name files in which the column is filled."
            found.append(Doubt("values", told(values), hint))
        return tuple(found)

    @property
    def remarks(self) -> tuple[str, ...]:
        """What a reader of the numbers should know, a sentence each; nothing of it is wrong."""
        lacking: dict[tuple[str, ...], list[str]] = {}
        for name, columns in self.not_applied.items():
            lacking.setdefault(tuple(columns), []).append(name)
        found = [
            f"{named(some)} {'lacks' if len(some) == 1 else 'lack'} {', '.join(columns)}; cuts on them are not applied"
            for columns, some in lacking.items()
        ]
        if skimmed := self.skimmed:
            done, generated = (sum(column) for column in zip(*skimmed.values(), strict=True))
            what = f"{done:,} events stand for {generated:,.0f} generated ones, which normalise them"
            found.append(f"{named(list(skimmed))}: {what}")
        outside = self.luminosity.in_other_sections  # of which `doubts` says more
        if rejected := {name: n for name, n in self.rejected_by_golden_json.items() if name not in outside}:
            what = f"the golden JSON does not certify the lumi sections of {sum(rejected.values()):,} events"
            found.append(f"{named(list(rejected))}: {what}")
        if not self._progress.primary_datasets and self.campaign.has_sections:
            unused = [key for key in ("golden_json", "luminosity_table") if getattr(self.campaign, key) is not None]
            found.append(f"no use is made of {' and '.join(unused)}: the campaign has no data")
        triggers: dict[str, list[str]] = {}
        for channel, primary in yields.only_primary_dataset(self.campaign, self.selection).items():
            if any(primary in d.trigger_efficiency.get(channel, ()) for d in self.campaign.datasets):
                triggers.setdefault(primary, []).append(channel)
        for primary, channels in triggers.items():
            what = f"the prediction of {', '.join(channels)} (data of {primary} only) includes its trigger efficiency"
            found.append(what)
        if len(empty := self.empty_files) > 1:
            found.append(f"{len(empty):,} files contain no events: {named(empty)}")
        elif empty:
            found.append(f"{empty[0]} contains no events")
        return tuple(found)

    @property
    def empty_files(self) -> tuple[str, ...]:
        """Files without any event: legal, but worth a look."""
        urls = [
            self.campaign.datasets[d].files[f].url for (d, f), info in sorted(self.files.items()) if info.entries == 0
        ]
        return tuple(Address.of(url).public_name for url in urls)

    # -- what it means

    @cached_property
    def weights(self) -> dict[str, dict[str, float]]:
        """Expected events per counted event, by dataset and channel, see `yields.weights`."""
        only = yields.only_primary_dataset(self.campaign, self.selection)
        return yields.weights(self.campaign, self._progress.generated, self.luminosity.shares, only)

    @property
    def missing_simulation(self) -> tuple[str, ...]:
        """Simulated datasets of which nothing has been processed: the prediction lacks them."""
        return tuple(d.name for d in self.campaign.datasets if d.name not in self.weights)

    def spectrum(self, name: str = "mass_4l") -> Spectrum:
        """Return data and prediction in the bins of one histogram, by channel; `Spectrum.combined` adds the channels.

        Under- and overflow are left out. KeyError names the known histograms.
        """
        counts = {dataset: histograms.counts_of(counts, name)[:, 1:-1] for dataset, counts in self.counts.items()}
        return self.normalised(histograms.axis(name).edges, counts)

    def normalised(self, edges: npt.ArrayLike, counts: Mapping[str, Integers]) -> Spectrum:
        """Return the spectrum of counts (3, bins) by the name of the dataset; a dataset without weights counts as 0."""
        weights = {name: np.array([*by_channel.values()]) for name, by_channel in self.weights.items()}
        none = np.zeros(len(CHANNELS))
        return normalise(edges, [(d, counts[d.name], weights.get(d.name, none)) for d in self.campaign.datasets])

    def _yields(self, count: Callable[[Integers], Integers]) -> dict[str, dict[str, Yield]]:
        """Return yields per process and channel from what ``count`` takes out of each dataset's counts."""
        counts = {name: count(counts)[:, np.newaxis] for name, counts in self.counts.items()}
        return self.normalised([0.0, np.inf], counts).yields()

    @cached_property
    def yields(self) -> dict[str, dict[str, Yield]]:
        """Events per process and channel, over all masses."""
        return self._yields(histograms.total)

    @cached_property
    def windows(self) -> dict[str, dict[str, dict[str, Yield]]]:
        """The same in each window of the four-lepton mass, see `histograms.WINDOWS`."""
        return {name: self._yields(partial(histograms.in_window, window=name)) for name, _, _ in histograms.WINDOWS}

    @cached_property
    def provenance(self) -> dict[str, Any]:
        """What made this result: campaign, selection, files with what identifies them, code and libraries."""
        files = []
        for key, info in sorted(self.files.items()):
            dataset = self.campaign.datasets[key[0]]
            file, read = dataset.files[key[1]], self.tally.readers.get(key, ())
            readers = sorted({reader for reader, _ in read})
            files.append({
                "dataset": dataset.name, "record": dataset.record, "doi": dataset.doi,
                "file": Address.of(file.url).public_name, "entries": info.entries,
                "kind": info.kind or (KINDS.get(readers[0]) if readers else None),
                "bytes": file.bytes or info.bytes, "adler32": file.adler32, "uuid": info.uuid,
                "counted": [list(pair) for pair in self.tally.ranges.get(key, ())],
                "readers": readers, "integrity": sorted({integrity for _, integrity in read}),
            })  # fmt: skip
        return {
            "campaign": {"name": self.campaign.name, "title": self.campaign.title, "digest": self.campaign.digest},
            "simulated": self.simulated,
            "selection": {**self.selection.as_dict(), "digest": self.selection.digest},
            "files": files,
            "code": provenance.code(),
            "libraries": provenance.libraries(),
        }
