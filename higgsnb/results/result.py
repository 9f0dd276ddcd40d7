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

from higgsnb import provenance
from higgsnb.datasets import Address
from higgsnb.errors import OptionError
from higgsnb.results import histograms, yields
from higgsnb.results.coverage import PRIMARY_DATASET_ORDER, CampaignProgress, Coverage
from higgsnb.results.duplicates import find_duplicates, in_order
from higgsnb.results.failures import Failure, named, told
from higgsnb.results.layout import Layout, layout_of
from higgsnb.results.lumi_sections import Luminosity
from higgsnb.results.plausibility import implausible, unusable
from higgsnb.results.spectrum import Spectrum, normalise
from higgsnb.results.tally import ChunkKey, FileKey, Floats, Integers, Tally
from higgsnb.results.weights import BITS, add_exactly
from higgsnb.results.yields import Yield
from higgsnb.selection import NOMINAL, SENTINEL, Analysis, Processor, Selection, four_lepton_selection

if TYPE_CHECKING:
    import hist

    from higgsnb.datasets import Campaign
    from higgsnb.events import FileInfo

FINE_ENOUGH = 2**10
"""In units, the least root mean square of the weights of selected events: below, rounding could be seen."""
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

    ``selection`` is the analysis: a four-lepton selection, or any other.

    By `FileKey`, ``files`` has what each opened file says of itself, and ``failures`` those that could not be analysed.
    ``run`` says how the work went (workers, tries), which may differ between runs that give the same result. By
    `ChunkKey`, ``failed_sections`` has the lumi sections of failed chunks that `analysis.sections_of` could read.
    ``golden_json_digest`` is that of the mask with which data were counted, empty without one.
    """

    campaign: Campaign
    selection: Analysis
    tally: Tally = field(default_factory=Tally)
    files: Mapping[FileKey, FileInfo] = field(default_factory=dict)
    failures: Mapping[FileKey, Failure] = field(default_factory=dict)
    failed_sections: Mapping[ChunkKey, Integers] = field(default_factory=dict)
    golden_json_digest: str = ""
    run: Mapping[str, Any] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        """Leave out weighted simulation that cannot be normalised, once all of it has been counted."""
        weighted = {index for index, _ in self.tally.weighings}
        if not weighted:
            return
        wrong: dict[int, str] = {}
        for index in weighted:
            kinds = {
                key in self.tally.weighings and self.tally.weighings[key].has_weights
                for key, ranges in self.tally.ranges.items()
                if key[0] == index and any(stop > start for start, stop in ranges)
            }
            if len(kinds) > 1:
                wrong[index] = "some of its files have weights, others have none"
            elif not self._progress.generated[index] and self._progress.complete([index]):
                wrong[index] = "the sum of its weights is 0, to which nothing can be normalised"
        if not wrong:
            return
        failures = dict(self.failures)
        for index, what in wrong.items():
            dataset = self.campaign.datasets[index]
            message = f"dataset {dataset.name}: {what}"
            for number, file in enumerate(dataset.files):
                failure = Failure(dataset.name, file.url, "SchemaError", message, "Leave this dataset out.")
                failures.setdefault((index, number), failure)
        object.__setattr__(self, "failures", failures)
        object.__setattr__(self, "tally", self.tally.without(wrong, self.layout))
        self.__dict__.pop("_progress", None)

    def __repr__(self) -> str:
        """Return one line that says how much of the campaign is in it."""
        state = "complete" if self.complete else "PARTIAL"
        failed = f", {len(self.failures)} failed" if self.failures else ""
        return f"<Result of {self.campaign.name!r} with {self.selection.name!r}: {state}, {self.coverage}{failed}>"

    def _repr_html_(self) -> str:
        """Return what a notebook shows: coverage, yields per process and channel, and failures in red."""
        state = "complete" if self.complete else "partial"
        title = f"{self.campaign.name} with {self.selection.name}: {state}{', simulated' if self.simulated else ''}"
        header = "".join(f"<th>{escape(name)}</th>" for name in ("events", *self.regions))
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
    def regions(self) -> tuple[str, ...]:
        """The regions of the analysis: of a four-lepton selection, the channels."""
        return self.selection.regions

    @property
    def cuts(self) -> Selection:
        """The four-lepton selection; OptionError if it is another analysis."""
        what = "What there is of any analysis: plots.plot_spectrum, yields and cutflow, statistics, LiveHistogram."
        return four_lepton_selection(self.selection, what)

    @property
    def layout(self) -> Layout:
        """How counts and rows are laid out."""
        return layout_of(self.selection)

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
    def candidates(self) -> Any:
        """Every selected candidate in the order of the catalogue, each event of data once (see `duplicates`).

        Of an analysis of one's own: the events of which quantities are kept, and of data all events.
        """
        return self._all_rows.rows(~self.duplicates)

    @cached_property
    def _all_rows(self) -> Any:
        """Every selected candidate in the order of the catalogue, also those found again in another primary dataset."""
        return in_order(self._stacked)

    @property
    def _stacked(self) -> Any:
        """Every row, in any order."""
        return self.layout.stacked(self.tally.blocks)

    @cached_property
    def duplicates(self) -> npt.NDArray[np.bool_]:
        """Which rows are events of data that an earlier primary dataset, or an earlier file, holds already."""
        return find_duplicates(self._all_rows, self.precedence(), one_per_event=self.selection.one_per_event)

    def precedence(self) -> Integers:
        """Return the rank of each dataset for `find_duplicates`, −1 for simulation, which is never compared."""
        of_selection = self.selection.primary_dataset_precedence if isinstance(self.selection, Selection) else ()
        order = self.campaign.primary_dataset_precedence or of_selection or PRIMARY_DATASET_ORDER
        ranks = [
            order.index(d.primary_dataset) if d.primary_dataset in order else len(order) for d in self.campaign.datasets
        ]
        return np.array([r if d.is_data else -1 for r, d in zip(ranks, self.campaign.datasets, strict=True)], np.int64)

    @cached_property
    def counts(self) -> dict[str, Integers]:
        """Counts as in `Binning`, (n_regions, size) int64, by the name of each dataset, with duplicates taken out."""
        shape = self.layout.shapes["counts"]
        counts = {d.name: np.zeros(shape, np.int64) for d in self.campaign.datasets}
        for index, array in self.tally.counts.items():
            counts[self.campaign.datasets[index].name] += array
        rows = self._twice
        for index in np.unique(rows.dataset):
            counts[self.campaign.datasets[index].name] -= self.layout.refill(rows.rows(rows.dataset == index))
        return counts

    @cached_property
    def _twice(self) -> Any:
        """The rows of data that are taken out as duplicates, in the order of the catalogue."""
        # Only rows of data that may be duplicates are sorted: the others are many, and live plots ask often.
        once = self.selection.one_per_event
        simulated = [index for index, dataset in enumerate(self.campaign.datasets) if not dataset.is_data]
        blocks = self.layout.without(self.tally.blocks, simulated)
        rows = in_order(self.layout.repeated(blocks, one_per_event=once))
        return rows.rows(find_duplicates(rows, self.precedence(), one_per_event=once))

    @cached_property
    def sums(self) -> dict[str, tuple[Floats, Floats]]:
        """Σw and Σw², (n_copies, n_regions, size) each, of each dataset with weights, by name.

        The weights are those of the generator, with the factors of the analysis; copies are the nominal one and the
        variations, see `Analysis.copies`. Both sums are exact before they become float64.
        """
        size = self.layout.binning.size
        return {name: (sums[..., :size], squares[..., :size]) for name, (sums, squares) in self._exact_sums.items()}

    @cached_property
    def _exact_sums(self) -> dict[str, tuple[Floats, Floats]]:
        """Σw and Σw² as in `Layout.weighted`, by dataset."""
        found = {}
        for index in sorted({index for index, _ in self.tally.weighted}):
            parts = {exponent: array for (i, exponent), array in self.tally.weighted.items() if i == index}
            found[self.campaign.datasets[index].name] = add_exactly(parts)
        return found

    @cached_property
    def weighted_cutflow(self) -> dict[str, dict[str, list[tuple[str, float]]]]:
        """Sums of weights, not normalised, of the events that pass each cut, of each dataset with weights.

        As in `cutflow`, and as exact as `sums`. In an analysis of one's own, the factors of its function are in it from
        its first cut on; the rows before have the weights of the generator.
        """
        found: dict[str, dict[str, list[tuple[str, float]]]] = {}
        for name, (sums, _) in self._exact_sums.items():
            rows = dict(zip(self.regions, sums[0, :, self.layout.binning.size :].tolist(), strict=True))
            counted = self.cutflow.get(name, {})
            found[name] = {
                region: [(cut, weight) for (cut, _), weight in zip(flow, rows[region], strict=False)]
                for region, flow in counted.items()
            }
        return found

    @cached_property
    def histograms(self) -> dict[str, hist.Hist[Any]]:
        """Every histogram, with the axes dataset, channel (or region) and variable, as integer counts."""
        return histograms.to_hist(self.counts, self.layout.binning)

    @cached_property
    def weighted_histograms(self) -> dict[str, hist.Hist[Any]]:
        """Every histogram of the weighted datasets, as sums of weights, also varied; empty if there are no weights."""
        if not self.sums:
            return {}
        return histograms.to_weighted_hist(self.sums, self.layout.binning, self.layout.copies)

    @cached_property
    def output(self) -> Any:
        """What a processor of coffea returned, summed in the order of the catalogue; None of any other analysis."""
        function = getattr(self.selection, "function", None)
        return function.total(self.tally.outputs.values()) if isinstance(function, Processor) else None

    @cached_property
    def cutflow(self) -> dict[str, dict[str, list[tuple[str, int]]]]:
        """Events that pass each cut and all before, per dataset and channel or region.

        The last row is after duplicates are gone.
        """
        found: dict[str, dict[str, list[tuple[str, int]]]] = {}
        rows = self._twice
        for index, numbers in sorted(self.tally.cutflow.items()):
            dataset = self.campaign.datasets[index]
            found[dataset.name] = {}
            for region in self.selection.channels(dataset.primary_dataset):
                names = self.selection.cut_names(self.regions[region])
                passed = numbers[region].tolist()[: len(names)]
                passed[-1] -= int(np.count_nonzero((rows.dataset == index) & (rows.region == region)))
                found[dataset.name][self.regions[region]] = list(zip(names, passed, strict=True))
        return found

    @property
    def overlaps(self) -> dict[tuple[str, str], int]:
        """How many events, of data and simulation, are in two regions at once; no zeros, nor of channels."""
        found = sum(self.tally.overlaps.values(), np.zeros(self.layout.overlaps, np.int64))
        names = self.regions
        return (
            {(names[i], names[j]): int(found[i, j]) for i, j in np.argwhere(np.triu(found)).tolist()}
            if found.size
            else {}
        )

    # -- what a reader should know

    @cached_property
    def invalid_values(self) -> dict[str, dict[str, int]]:
        """Sentinels and non-finite values by dataset and column, in preselected events.

        No zeros. Of an analysis of one's own: values that are not finite, by quantity.
        """
        return {
            self.campaign.datasets[index].name: {
                column: int(n) for column, n in zip(self.layout.invalid, counts.ravel(), strict=True) if n
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
        found = np.bincount(self._twice.dataset, minlength=len(self.campaign.datasets))
        return {dataset.name: int(n) for dataset, n in zip(self.campaign.datasets, found, strict=True) if n}

    @property
    def skimmed(self) -> dict[str, tuple[int, float]]:
        """Counted events, and generated events that they stand for, of each dataset where these differ."""
        pairs = zip(self.campaign.datasets, self._progress.events_done, self._progress.represented, strict=True)
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
        if small := self._small_weights():
            hint = "Leave luminosity, cross section and number of events out of the weights: they are applied later."
            found.append(Doubt("weights", told(small), hint))
        if units:
            hint = "Momenta must be in GeV, lengths in cm, angles in radians, isolation relative: convert the file."
            found.append(Doubt("units", told(units), hint))
        if values:
            hint = "A lepton without the value is never selected: name files in which the column is filled."
            found.append(Doubt("values", told(values), hint))
        return tuple(found)

    def _small_weights(self) -> dict[str, list[str]]:
        """Return which datasets have selected events of too small weights, by what is to be said of them."""
        found = defaultdict[str, list[str]](list)
        for name, (_, squares) in self.sums.items():
            index = [dataset.name for dataset in self.campaign.datasets].index(name)
            unit = 2.0 ** (max(exponent for i, exponent in self.tally.weighted if i == index) - BITS)
            n = int(self.layout.binning.total(self.counts[name]).sum())
            mean = math.sqrt(self.layout.binning.total(squares)[0].sum() / max(1, n))
            if n and mean < FINE_ENOUGH * unit:
                what = f"a selected event weighs about {mean:.2g}, and weights are rounded to multiples of {unit:.2g}"
                found[what].append(name)
        return found

    @property
    def remarks(self) -> tuple[str, ...]:
        """What a reader of the numbers should know, a sentence each; nothing of it is wrong."""
        found = self._not_applied_remarks()
        if skimmed := self.skimmed:
            done, generated = (sum(column) for column in zip(*skimmed.values(), strict=True))
            what = f"{done:,} events stand for {generated:,.0f} generated ones, which normalise them"
            found.append(f"{named(list(skimmed))}: {what}")
        found += self._weight_remarks()
        outside = self.luminosity.in_other_sections  # of which `doubts` says more
        if rejected := {name: n for name, n in self.rejected_by_golden_json.items() if name not in outside}:
            what = f"the golden JSON does not certify the lumi sections of {sum(rejected.values()):,} events"
            found.append(f"{named(list(rejected))}: {what}")
        if not self._progress.primary_datasets and self.campaign.has_sections:
            unused = [key for key in ("golden_json", "luminosity_table") if getattr(self.campaign, key) is not None]
            found.append(f"no use is made of {' and '.join(unused)}: the campaign has no data")
        found += self._trigger_remarks()
        if self.tally.outputs:
            twice = sum(self.duplicates_removed.values())
            what = f", and {twice:,} events that are in two primary datasets are in it twice" if twice else ""
            found.append(f"result.output is a sum of floating-point numbers over the chunks, not normalised{what}")
        if len(empty := self.empty_files) > 1:
            found.append(f"{len(empty):,} files contain no events: {named(empty)}")
        elif empty:
            found.append(f"{empty[0]} contains no events")
        return tuple(found)

    def _not_applied_remarks(self) -> list[str]:
        """Return what lacking columns mean, a sentence for each group of datasets."""
        lacking: dict[tuple[str, tuple[str, ...]], list[str]] = {}
        for name, columns in self.not_applied.items():
            kinds: dict[str, list[str]] = {}
            for column in columns:
                kinds.setdefault(_meaning(column), []).append(column)
            for meaning, some in kinds.items():
                lacking.setdefault((meaning, tuple(some)), []).append(name)
        return [
            f"{named(some)} {'lacks' if len(some) == 1 else 'lack'} {named(columns)}; {meaning}"
            for (meaning, columns), some in lacking.items()
        ]

    def _weight_remarks(self) -> list[str]:
        """Return which simulation is normalised to itself, as nobody says what was generated for it."""
        unstated = {index for index, _ in self.tally.weighings.keys() - self.tally.generated.keys()}
        names = [
            dataset.name
            for index, dataset in enumerate(self.campaign.datasets)
            if index in unstated and dataset.weight is not None and dataset.sum_of_weights is None
        ]
        if not names:
            return []
        why = "neither sum_of_weights nor a tree Runs says what was generated"
        return [f"{named(names)}: normalised to the weights of the events in the files, as {why}"]

    def _trigger_remarks(self) -> list[str]:
        """Return for each primary dataset in which channels its trigger efficiency is in the prediction."""
        triggers: dict[str, list[str]] = {}
        for channel, primary in yields.only_primary_dataset(self.campaign, self.selection).items():
            if any(primary in d.trigger_efficiency.get(channel, ()) for d in self.campaign.datasets):
                triggers.setdefault(primary, []).append(channel)
        return [
            f"the prediction of {', '.join(channels)} (data of {primary} only) includes its trigger efficiency"
            for primary, channels in triggers.items()
        ]

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

    def spectrum(self, name: str = "", variation: str = NOMINAL) -> Spectrum:
        """Return data and prediction in the bins of one histogram (default: the first), by channel or region.

        `Spectrum.combined` adds these. Under- and overflow are left out. ``variation`` is one of `Analysis.copies`.
        KeyError names the known histograms and variations.
        """
        binning = self.layout.binning
        axis = binning.axis(name or binning.axes[0].name)
        return self._spectrum(axis.edges, lambda flat: binning.counts_of(flat, axis.name)[..., 1:-1], variation)

    def region_spectrum(self, name: str = "", region: str = "", variation: str = NOMINAL) -> Spectrum:
        """Return data and prediction of one region, each array (n,), see `spectrum`.

        Default: all channels of a four-lepton selection together; of any other analysis, whose regions may overlap, the
        first one. KeyError names the known regions.
        """
        spectrum, combined = self.spectrum(name, variation), self.layout.binning.category == "channel"
        if not region and combined:
            return spectrum.combined()
        return spectrum.of_region(self._region(region))

    def _region(self, name: str) -> int:
        if name and name not in self.regions:
            raise KeyError(f"no region {name!r}; known: {', '.join(self.regions)}")
        return self.regions.index(name) if name else 0

    def _spectrum(
        self, edges: npt.ArrayLike, bins: Callable[[npt.NDArray[Any]], npt.NDArray[Any]], variation: str = NOMINAL
    ) -> Spectrum:
        """Return the spectrum of what ``bins`` takes out of flat arrays (…, size)."""
        if variation not in self.layout.copies:
            raise KeyError(f"no variation {variation!r}; known: {', '.join(self.layout.copies)}")
        copy = self.layout.copies.index(variation)
        counts = {name: bins(flat) for name, flat in self.counts.items()}
        sums = {name: (bins(w[copy]), bins(w2[copy])) for name, (w, w2) in self.sums.items()}
        return self.normalised(edges, counts, sums)

    def normalised(
        self,
        edges: npt.ArrayLike,
        counts: Mapping[str, Integers],
        sums: Mapping[str, tuple[Floats, Floats]] | None = None,
    ) -> Spectrum:
        """Return the spectrum of counts (n_regions, bins) by the name of the dataset.

        ``sums`` are Σw and Σw² of weighted datasets. A dataset that is not normalised yet counts as 0.
        """
        weights = {name: np.array([*by_region.values()]) for name, by_region in self.weights.items()}
        none = np.zeros(len(self.regions))
        return normalise(
            edges,
            [
                (d, counts[d.name], weights.get(d.name, none), (sums or {}).get(d.name, (counts[d.name],) * 2))
                for d in self.campaign.datasets
            ],
        )

    def _yields(self, count: Callable[[npt.NDArray[Any]], npt.NDArray[Any]]) -> dict[str, dict[str, Yield]]:
        """Return yields per process and region from what ``count`` takes out of flat arrays (…, size)."""
        return self._spectrum([0.0, np.inf], lambda flat: count(flat)[..., np.newaxis]).yields(self.regions)

    @cached_property
    def yields(self) -> dict[str, dict[str, Yield]]:
        """Events per process and channel or region, over all bins."""
        return self._yields(self.layout.binning.total)

    @cached_property
    def windows(self) -> dict[str, dict[str, dict[str, Yield]]]:
        """The same in each window of the four-lepton mass, see `Binning.windows`."""
        binning = self.layout.binning
        return {one.name: self._yields(partial(binning.in_window, name=one.name)) for one in binning.windows}

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
            "libraries": {**provenance.libraries(), **self.selection.libraries},
        }


def _meaning(column: str) -> str:
    """Return what it means that a file lacks a column, or a whole collection."""
    if column.startswith("HLT_"):
        return "what is not there has not fired"
    if "_" not in column:
        return "each event has none"
    return "cuts on them are not applied"
