"""One chunk of events to numbers (`analyse`), and the sum over chunks (`Tally`, `Result`).

A `Tally` is what has been counted. Tallies of disjoint chunks add up in any order and grouping to the same value,
because everything in them is an integer, a set of entry ranges, or a row that is brought into the order of the
catalogue in the end. A `Result` is a tally seen against its campaign: normalised, freed of events that stand in two
streams, and with its coverage.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from higgsnb import events, histograms, luminosity, provenance, skims
from higgsnb.kernel import select
from higgsnb.luminosity import Account, Catalogue, FileProgress, LumiSections, Progress, Segments, Span
from higgsnb.selection import (
    CHANNELS,
    CUT_NAMES,
    FOUR_ELECTRONS,
    FOUR_MUONS,
    MUON,
    QUANTITIES,
    TWO_EACH,
    Candidates,
    Cut,
    Leptons,
    Selection,
    missing_quantities,
)
from higgsnb.spectrum import Spectrum, Yield, normalise

if TYPE_CHECKING:
    from pathlib import Path

    import hist

    from higgsnb.datasets import Campaign, Chunk, Dataset
    from higgsnb.events import FileInfo, Read

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
FileKey = tuple[int, int]
"""A file by its place in the catalogue: (index of the dataset, index of the file in it)."""
ChunkKey = tuple[int, int, int, int]
"""A chunk by its place in the catalogue: (dataset, file, first entry, entry after the last)."""

PB_PER_FB = 1000.0
STREAM_ORDER = ("DoubleMu", "DoubleElectron")
"""Precedence of streams where a campaign states none."""
CHANNEL_STREAMS = {FOUR_MUONS: {"DoubleMu"}, FOUR_ELECTRONS: {"DoubleElectron"}, TWO_EACH: set(STREAM_ORDER)}
"""Which of these streams hold events of a channel at all."""
FEW_EVENTS = 5
"""Events in a lumi section below which more than exp(-5) = 0.7 % of the sections are expected to have none."""


class Table(NamedTuple):
    """Selected candidates, one row each.

    Place in the catalogue, event, masses in GeV, leptons (n, 4) Z1 harder … Z2 softer.
    """

    dataset: npt.NDArray[np.int16]
    file: npt.NDArray[np.int32]
    entry: Integers
    run: Integers
    luminosity_block: Integers
    event: npt.NDArray[np.uint64]
    channel: npt.NDArray[np.int8]
    mass_4l: Floats
    mass_z1: Floats
    mass_z2: Floats
    pt: npt.NDArray[np.float32]
    eta: npt.NDArray[np.float32]
    phi: npt.NDArray[np.float32]
    mass: npt.NDArray[np.float32]
    charge: npt.NDArray[np.int8]
    pdg_id: npt.NDArray[np.int8]

    def rows(self, which: npt.NDArray[Any]) -> Table:
        """Return the rows that an index or a mask picks."""
        return Table._make(column[which] for column in self)

    @property
    def variables(self) -> histograms.Variables:
        """The columns that are filled into histograms."""
        return histograms.Variables(self.channel, self.mass_4l, self.mass_z1, self.mass_z2, self.pt, self.eta)


@dataclass(frozen=True)
class Tally:
    """What has been counted, per dataset (by its index in the catalogue); ``a + b`` for disjoint chunks.

    ``units`` are the entry ranges done of each file, ``counts`` as in `histograms`, ``cutflow`` (3, len(Cut)),
    ``unusable`` (2, len(QUANTITIES)), ``masked`` events outside the golden JSON, ``not_applied`` columns that the
    schema does not have. Only of data of a campaign with lumi sections: ``sections``, the certified ones as packed by
    `luminosity.pack`, sorted and unique, ``spans`` the ranges of ``units`` with the section at either end, and
    ``scattered`` the certified sections of chunks in which a section is left and entered again.
    """

    units: Mapping[FileKey, tuple[tuple[int, int], ...]] = field(default_factory=dict)
    counts: Mapping[int, Integers] = field(default_factory=dict)
    cutflow: Mapping[int, Integers] = field(default_factory=dict)
    unusable: Mapping[int, Integers] = field(default_factory=dict)
    masked: Mapping[int, int] = field(default_factory=dict)
    not_applied: Mapping[int, frozenset[str]] = field(default_factory=dict)
    readers: Mapping[FileKey, frozenset[tuple[str, str]]] = field(default_factory=dict)
    blocks: tuple[Table, ...] = ()
    sections: Mapping[int, Integers] = field(default_factory=dict)
    spans: Mapping[FileKey, tuple[Span, ...]] = field(default_factory=dict)
    scattered: Mapping[FileKey, Integers] = field(default_factory=dict)

    def __add__(self, other: Tally) -> Tally:
        """Add the tally of other chunks; ValueError if some events were counted in both."""
        return merge((self, other))

    def events(self, dataset: int) -> int:
        """Return the number of events of a dataset that have been counted."""
        return sum(stop - start for key, ranges in self.units.items() if key[0] == dataset for start, stop in ranges)


def merge(tallies: Iterable[Tally]) -> Tally:
    """Add up many tallies at once.

    Raises
    ------
    ValueError
        If two of them counted the same events.
    """
    units: dict[FileKey, list[tuple[int, int]]] = defaultdict(list)
    sums: tuple[dict[int, Any], ...] = ({}, {}, {}, {})
    not_applied: dict[int, frozenset[str]] = {}
    readers: dict[FileKey, frozenset[tuple[str, str]]] = {}
    blocks: list[Table] = []
    seen = luminosity.SectionSum()
    for tally in tallies:
        for key, ranges in tally.units.items():
            units[key].extend(ranges)
        for total, part in zip(sums, (tally.counts, tally.cutflow, tally.unusable, tally.masked), strict=True):
            _add_into(total, part)
        for dataset, names in tally.not_applied.items():
            not_applied[dataset] = not_applied.get(dataset, frozenset()) | names
        for key, found in tally.readers.items():
            readers[key] = readers.get(key, frozenset()) | found
        seen.add(tally.sections, tally.spans, tally.scattered)
        blocks.extend(tally.blocks)
    joined = {key: join_ranges(key, units[key]) for key in sorted(units)}
    counts, cutflow, unusable, masked = ({key: total[key] for key in sorted(total)} for total in sums)
    return Tally(joined, counts, cutflow, unusable, masked, not_applied, readers, tuple(blocks), **seen.fields())


def _add_into(total: dict[int, Any], part: Mapping[int, Any]) -> None:
    """Add the arrays of one tally to the running sums.

    The first of a dataset is copied, the next ones added in place.
    """
    for dataset, array in part.items():
        if dataset in total:
            total[dataset] += array
        else:
            total[dataset] = array.copy() if isinstance(array, np.ndarray) else array


def join_ranges(key: FileKey, ranges: list[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """Join ranges of entries that touch; complain about any that overlap."""
    joined: list[tuple[int, int]] = []
    for start, stop in sorted(ranges):
        if joined and start < joined[-1][1]:
            end = min(stop, joined[-1][1])
            raise ValueError(f"entries {start} to {end} of file {key[1]} of dataset {key[0]} were counted twice")
        if joined and start == joined[-1][1]:
            joined[-1] = (joined[-1][0], stop)
        else:
            joined.append((start, stop))
    return tuple(joined)


# --- One chunk -----------------------------------------------------------------------------------------------


def analyse(chunk: Chunk, selection: Selection, *, skims_folder: Path | None = None) -> Tally:
    """Read a chunk of events, select, and count.

    Parameters
    ----------
    chunk
        Which entries of which file.
    selection
        What to keep.
    skims_folder
        Where skims are kept, see `skims`; None: none are read or made.

    Returns
    -------
    Tally
        Counts, cutflow and candidates of these events.

    Raises
    ------
    FileNotFoundError, UnreadableError, SchemaError
        See `events.inspect`.
    """
    if chunk.schema == "nanoaod" and not chunk.is_data:
        events.check_weights(chunk)
    read = events.read_survivors(chunk) if skims_folder is None else skims.read_survivors(chunk, skims_folder)
    read, n_events, segments = certified(read, chunk)
    candidates = select(read.leptons, selection, chunk.stream)
    candidates.cutflow[list(selection.channels(chunk.stream)), Cut.ALL] += n_events - read.leptons.n_events
    table = _table(chunk, read, candidates)
    index, file = chunk.dataset_index, (chunk.dataset_index, chunk.file_index)
    return Tally(
        units={file: ((chunk.start, chunk.stop),)},
        counts={index: histograms.fill(table.variables)},
        cutflow={index: candidates.cutflow},
        unusable={index: candidates.unusable},
        masked={index: read.n_events - n_events},
        not_applied={index: frozenset(missing_quantities(read.leptons))},
        readers={file: frozenset({(read.reader, read.integrity)})},
        blocks=(table,) if len(table.run) else (),
        **_seen(chunk, segments),
    )


def sections_of(chunk: Chunk) -> Integers | None:
    """Return the certified lumi sections of a chunk, for one that `analyse` failed on.

    Only two columns are read, which may be whole although others are damaged.

    Returns
    -------
    (n,) int64 or None
        Packed, sorted and unique; None if they cannot be read, or if the campaign has no lumi sections.
    """
    if not chunk.sections:
        return None
    try:
        segments = Segments.of(*events.read_sections(chunk))
    except (OSError, ValueError):
        return None
    return np.unique(segments.keys[_certain(chunk, segments)])


def _certain(chunk: Chunk, segments: Segments) -> npt.NDArray[np.bool_]:
    """Say which segments are certified: all, if there is no golden JSON."""
    if chunk.golden_json is None:
        return np.ones(len(segments.keys), np.bool_)
    return luminosity.kept_mask(chunk.golden_json, chunk.mask).holds(segments.keys)


def certified(read: Read, chunk: Chunk) -> tuple[Read, int, Segments | None]:
    """Return the events in certified lumi sections, how many of all events of the chunk are in one, and the sections.

    Run and section of all events are read only if the campaign has lumi sections; else the sections are None.
    """
    if not chunk.sections and chunk.golden_json is None:
        return read, read.n_events, None
    segments = Segments.of(*events.read_sections(chunk))
    certain = _certain(chunk, segments)
    if certain.all():
        return read, read.n_events, segments
    kept = np.flatnonzero(certain[segments.at(read.entries - chunk.start)])
    n_events = int(segments.lengths[certain].sum())
    return read._replace(leptons=_keep(read.leptons, kept), entries=read.entries[kept]), n_events, segments


def _seen(chunk: Chunk, segments: Segments | None) -> dict[str, Any]:
    """Return the fields of a `Tally` that tell the lumi sections of a chunk; none of one without any event."""
    if segments is None or not len(segments.keys):
        return {}
    file = (chunk.dataset_index, chunk.file_index)
    first, last = int(segments.keys[0]), int(segments.keys[-1])
    found: dict[str, Any] = {"spans": {file: (Span(chunk.start, chunk.stop, first, last),)}}
    sections = np.unique(segments.keys[_certain(chunk, segments)])
    if len(sections):
        found["sections"] = {chunk.dataset_index: sections}
        found["scattered"] = {file: sections} if segments.scattered else {}
    return found


def _keep(leptons: Leptons, which: Integers) -> Leptons:
    """Return the leptons of some events only."""
    columns: dict[str, Any] = {name: getattr(leptons, name)[which] for name in ("run", "luminosity_block", "event")}
    for flavour in ("muon", "electron"):
        offsets = getattr(leptons, f"{flavour}_offsets")
        counts = np.diff(offsets)[which]
        columns[f"{flavour}_offsets"] = np.concatenate(([0], np.cumsum(counts)))
        index = np.repeat(offsets[which] - columns[f"{flavour}_offsets"][:-1], counts) + np.arange(counts.sum())
        for quantity in QUANTITIES:
            column = getattr(leptons, f"{flavour}_{quantity}")
            columns[f"{flavour}_{quantity}"] = None if column is None else column[index]
    return Leptons(**columns)


def _table(chunk: Chunk, read: Read, candidates: Candidates) -> Table:
    """Return the rows of the selected candidates with all that is stored of them."""
    leptons, n, index = read.leptons, len(candidates.channel), candidates.event_index
    is_muon = candidates.flavour == MUON
    columns = {
        name: _pick(leptons, name, candidates.lepton, is_muon) for name in ("pt", "eta", "phi", "mass", "charge")
    }
    charge = columns["charge"].astype(np.int8)
    return Table(
        dataset=np.full(n, chunk.dataset_index, np.int16),
        file=np.full(n, chunk.file_index, np.int32),
        entry=read.entries[index],
        run=leptons.run[index],
        luminosity_block=leptons.luminosity_block[index],
        event=leptons.event[index],
        channel=candidates.channel,
        mass_4l=candidates.mass_4l,
        mass_z1=candidates.mass_z1,
        mass_z2=candidates.mass_z2,
        pt=columns["pt"],
        eta=columns["eta"],
        phi=columns["phi"],
        mass=columns["mass"],
        charge=charge,
        pdg_id=(-charge * candidates.flavour).astype(np.int8),
    )


def _pick(leptons: Leptons, quantity: str, lepton: Integers, is_muon: npt.NDArray[np.bool_]) -> npt.NDArray[Any]:
    """Return a quantity of the chosen leptons, (n, 4), from the muon or the electron column."""
    muons, electrons = getattr(leptons, f"muon_{quantity}"), getattr(leptons, f"electron_{quantity}")
    picked = np.empty(lepton.shape, muons.dtype)
    picked[is_muon], picked[~is_muon] = muons[lepton[is_muon]], electrons[lepton[~is_muon]]
    return picked


# --- All chunks ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Failure:
    """A file that could not be (wholly) analysed, and why."""

    dataset: str
    file: str
    error: str
    message: str
    hint: str

    def as_dict(self) -> dict[str, str]:
        """Return the failure as it stands in ``result.json``, where the hint is called remedy."""
        file = provenance.public_name(self.file)
        return {
            "dataset": self.dataset, "file": file, "error": self.error, "message": self.message, "remedy": self.hint,
        }  # fmt: skip


class Coverage(NamedTuple):
    """How much of a campaign stands behind a result, each (done, total): files, events, luminosity in 1/fb."""

    files: tuple[int, int]
    events: tuple[int, int]
    luminosity_fb: tuple[float, float]


@dataclass(frozen=True, repr=False)
class Result:
    """A tally seen against its campaign. ``result + other`` adds disjoint parts of the same campaign and selection.

    Attributes
    ----------
    campaign, selection
        What was analysed and what was kept.
    tally
        The counted numbers.
    files
        What each opened file says of itself, by `FileKey`.
    failures
        By `FileKey`: the files that could not be analysed.
    run
        How the work went (workers, tries): what may differ between runs that give the same result.
    failed_sections
        By `ChunkKey`: the lumi sections of chunks that failed, where `sections_of` could read them.
    """

    campaign: Campaign
    selection: Selection
    tally: Tally = field(default_factory=Tally)
    files: Mapping[FileKey, FileInfo] = field(default_factory=dict)
    failures: Mapping[FileKey, Failure] = field(default_factory=dict)
    failed_sections: Mapping[ChunkKey, Integers] = field(default_factory=dict)
    run: Mapping[str, Any] = field(default_factory=dict, compare=False)

    def __repr__(self) -> str:
        """Return one line that says how much of the campaign is in it."""
        (files, all_files), (done, events), (processed, total) = self.coverage
        state = "complete" if self.complete else "PARTIAL"
        failed = f", {len(self.failures)} failed" if self.failures else ""
        return (
            f"<Result of {self.campaign.name!r} with {self.selection.name!r}: {state}, {files} of {all_files} files, "
            f"{done:,} of {events:,} events, {processed:.4g} of {total:.4g} /fb{failed}>"
        )

    def __add__(self, other: Result) -> Result:
        """Add a part that counted other events.

        ValueError if campaign or selection differ or events were counted twice.
        """
        for name in ("campaign", "selection"):
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine.digest != theirs.digest:
                raise ValueError(
                    f"results of different {name}s cannot be added: "
                    f"{mine.name!r} ({mine.digest[:8]}), {theirs.name!r} ({theirs.digest[:8]})"
                )
        files, failures = {**self.files, **other.files}, {**self.failures, **other.failures}
        failed_sections = {**self.failed_sections, **other.failed_sections}
        return Result(self.campaign, self.selection, self.tally + other.tally, files, failures, failed_sections)

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
        """Files, events and luminosity done, and their totals; files of unknown length count as the average one.

        The luminosity is in proportion to the events of all data, or, by lumi sections, the mean over the streams.
        """
        keys = [key for index in range(len(self.campaign.datasets)) for key in self._keys(index)]
        files = sum(self._is_done(key) for key in keys)
        done = sum(stop - start for ranges in self.tally.units.values() for start, stop in ranges)
        total = round(self._total(range(len(self.campaign.datasets))))
        luminosity_fb, streams = self.campaign.luminosity_fb, list(self._streams.values())
        if not streams:
            share = 1.0
        elif self.luminosity_source == "events":
            share = self._fraction([index for indices in streams for index in indices])
        else:
            share = sum(self._recorded([indices]) for indices in streams) / len(streams)
        return Coverage((files, len(keys)), (done, total), (luminosity_fb * share, luminosity_fb))

    def _keys(self, dataset: int) -> list[FileKey]:
        """Return the keys of the files of a dataset."""
        return [(dataset, file) for file in range(len(self.campaign.datasets[dataset].files))]

    def _entries(self, key: FileKey) -> int | None:
        """Return the number of entries of a file: as it says itself, else as the catalogue says, else None."""
        if key in self.files:
            return self.files[key].entries
        return self.campaign.datasets[key[0]].files[key[1]].events

    def _total(self, datasets: Iterable[int]) -> float:
        """Return the number of entries of some datasets; a file of unknown length counts as the average one."""
        stated = {index: self.campaign.datasets[index].stated_events for index in datasets}
        return sum(len(self._keys(i)) * self._average(i) if n is None else n for i, n in stated.items())

    def _average(self, dataset: int) -> float:
        """Return the mean number of entries of a dataset's files of known length, else of all such files."""
        for keys in (self._keys(dataset), [key for d in range(len(self.campaign.datasets)) for key in self._keys(d)]):
            known = [entries for key in keys if (entries := self._entries(key)) is not None]
            if known:
                return sum(known) / len(known)
        return 0.0

    def _is_done(self, key: FileKey) -> bool:
        """Whether all entries of a file have been counted."""
        entries, ranges = self._entries(key), self.tally.units.get(key)
        return (
            ranges is not None
            and entries is not None
            and ranges in (((0, entries),), ((0, 0),) if entries == 0 else ())
        )

    def _fraction(self, datasets: list[int]) -> float:
        """Return which part of some datasets' events has been counted."""
        keys = [key for index in datasets for key in self._keys(index)]
        if all(self._is_done(key) for key in keys):
            return 1.0
        total = self._total(datasets)
        return sum(self.tally.events(index) for index in datasets) / total if total else 0.0

    @cached_property
    def luminosity_shares(self) -> dict[str, float]:
        """Which part of the luminosity has been processed, per channel; 1 in a campaign without data.

        By lumi sections (`luminosity_source`), a stream's share is the recorded luminosity of its processed sections
        over that of all sections. By events, it is taken to be that of its events.

        Where a channel is the union of two streams (2e2mu), either stream holds nearly all events of the channel, and
        an event in both is counted once. By lumi sections, a section that is processed in either stream therefore
        counts, once: with only those of both, the data of the other sections would stand against no prediction, and
        with the larger of the two shares, two streams that are done in different sections would be taken for one. What
        remains is the inefficiency of one stream alone in sections that only one has processed. By events nobody knows
        which sections these are: the stream that is further counts, which is right as long as the chunks of both are
        done in the same order, as `datasets.chunks` lays them out, and too low if they are not.
        """
        return {name: self._luminosity_share(channel) for channel, name in enumerate(CHANNELS)}

    def _luminosity_share(self, channel: int) -> float:
        """Return the processed part of the luminosity in one channel."""
        if not self._streams:
            return 1.0
        feeding = [
            indices
            for stream, indices in self._streams.items()
            if channel in self.selection.channels(stream)
            and (stream not in STREAM_ORDER or stream in CHANNEL_STREAMS[channel])
        ]
        if self.luminosity_source == "events":
            return max((self._fraction(indices) for indices in feeding), default=0.0)
        return self._recorded(feeding)

    # -- lumi sections

    @cached_property
    def _streams(self) -> dict[str | None, list[int]]:
        """The datasets of data by stream, as indices into the catalogue."""
        streams: dict[str | None, list[int]] = defaultdict(list)
        for index, dataset in enumerate(self.campaign.datasets):
            if dataset.is_data:
                streams[dataset.stream].append(index)
        return dict(streams)

    @cached_property
    def _catalogue(self) -> Catalogue | None:
        """The lumi sections of the campaign; None if it names neither golden JSON nor table, or has no data."""
        if not self._streams:
            return None
        return luminosity.catalogue(self.campaign.golden_json, self.campaign.luminosity_table)

    @property
    def luminosity_source(self) -> str:
        """How processed luminosity is found: from "lumi sections" and their table, or in proportion to "events"."""
        return "lumi sections" if self._catalogue is not None and self._catalogue.total > 0 else "events"

    @property
    def processed_sections(self) -> dict[str, LumiSections]:
        """The lumi sections of each dataset of data of which every event has been counted.

        They and `lost_sections` are disjoint; over all datasets of a stream they are all sections of the campaign:
        those in golden JSON and luminosity table, or in whichever it names. Without either both are empty dictionaries.

        A section of which some events were counted and some are pending or failed is lost. A section without any event
        is in no file: it counts as processed once every event of its stream has been counted, and as lost until then.
        So a table by lumi section suits files with events in nearly every section; with files of a few selected events
        the luminosity of a partial result would be far too low (`luminosity_notes` warns).
        """
        return {self.campaign.datasets[index].name: one.processed for index, one in self._accounts.items()}

    @property
    def lost_sections(self) -> dict[str, LumiSections]:
        """The lumi sections of each dataset of data that are not processed, see `processed_sections`."""
        return {self.campaign.datasets[index].name: one.lost for index, one in self._accounts.items()}

    @cached_property
    def _accounts(self) -> dict[int, Account]:
        """Processed and lost sections by dataset."""
        if self._catalogue is None:
            return {}
        found: dict[int, Account] = {}
        for indices in self._streams.values():
            complete = all(self._is_done(key) for index in indices for key in self._keys(index))
            progress = {index: self._progress(index) for index in indices}
            found |= luminosity.account(self._catalogue.sections, progress, complete=complete)
        return {index: found[index] for index in sorted(found)}

    def _progress(self, dataset: int) -> Progress:
        """Return which sections have been seen of a dataset, and which of them are not finished."""
        failed = {key: some for key, some in self.failed_sections.items() if key[0] == dataset and self._is_open(key)}
        ranges: dict[int, list[tuple[int, int]]] = defaultdict(list)
        for _, file, start, stop in failed:
            ranges[file].append((start, stop))
        files = [
            FileProgress(
                self._entries(key), self.tally.spans.get(key, ()), ranges[key[1]], self.tally.scattered.get(key)
            )
            for key in self._keys(dataset)
        ]
        seen = [
            LumiSections(self.tally.sections.get(dataset, np.empty(0, np.int64))),
            *map(LumiSections, failed.values()),
        ]
        return Progress(luminosity.union(seen), luminosity.unfinished(files, failed.values()))

    def _is_open(self, key: ChunkKey) -> bool:
        """Whether a chunk that failed has not been counted after all."""
        dataset, file, start, stop = key
        ranges = self.tally.units.get((dataset, file), ())
        return not any(first <= start and stop <= last for first, last in ranges)

    def _recorded(self, streams: list[list[int]]) -> float:
        """Return the share of the recorded luminosity in the sections that at least one of some streams processed."""
        if self._catalogue is None:
            return 0.0
        done = [luminosity.of_stream(self._accounts[index] for index in indices) for indices in streams]
        return self._catalogue.integrated(luminosity.union(done)) / self._catalogue.total

    @cached_property
    def sections_without_luminosity(self) -> dict[str, LumiSections]:
        """Certified sections with events that the luminosity table lacks, by dataset; no empty ones."""
        if self._catalogue is None or self._catalogue.recorded is None:
            return {}
        found = {
            self.campaign.datasets[index].name: LumiSections(keys) - self._catalogue.sections
            for index, keys in self.tally.sections.items()
        }
        return {name: sections for name, sections in found.items() if len(sections)}

    @property
    def luminosity_notes(self) -> tuple[str, ...]:
        """What speaks against the luminosity, each with its remedy: table and campaign, or table and data, disagree.

        Notes and no errors: the counts are right whatever the luminosity, and that data have sections which the table
        lacks is seen only when they have been read.
        """
        if self._catalogue is None or self.campaign.luminosity_table is None:
            return ()
        notes = [
            *_total_note(self._catalogue.total, self.campaign),
            *map(_lack_note, self.sections_without_luminosity.items()),
        ]
        return (*notes, *self._sparse_note())

    def _sparse_note(self) -> tuple[str, ...]:
        """Warn of a partial result whose data have so few events that many sections have none."""
        sparse = [
            self.campaign.datasets[index].name
            for index, keys in self.tally.sections.items()
            if self.tally.events(index) - self.tally.masked.get(index, 0) < FEW_EVENTS * len(keys)
        ]
        if self.complete or not sparse:
            return ()
        note = (
            f"{', '.join(sparse)}: fewer than {FEW_EVENTS} events in a lumi section on average. Sections without any "
            "event count as lost until the run is complete, so that the luminosity is too low until then. "
            "Leave luminosity_table out to estimate it from the events."
        )
        return (note,)

    # -- the events

    @cached_property
    def candidates(self) -> Table:
        """Every selected candidate in the order of the catalogue, each event of data once (see `duplicates`)."""
        return self._all_rows.rows(~self.duplicates)

    @cached_property
    def _all_rows(self) -> Table:
        """Every selected candidate in the order of the catalogue, also those found again in another stream."""
        return _in_order(self.tally.blocks)

    @cached_property
    def duplicates(self) -> npt.NDArray[np.bool_]:
        """Which rows are events of data that an earlier stream, or an earlier file, holds already."""
        return find_duplicates(self._all_rows, self.precedence(), one_per_event=self.selection.one_per_event)

    def precedence(self) -> Integers:
        """Return the rank of each dataset for `find_duplicates`, −1 for simulation, which is never compared."""
        order = self.campaign.stream_precedence or STREAM_ORDER
        ranks = [order.index(d.stream) if d.stream in order else len(order) for d in self.campaign.datasets]
        return np.array([r if d.is_data else -1 for r, d in zip(ranks, self.campaign.datasets, strict=True)], np.int64)

    @cached_property
    def counts(self) -> dict[str, Integers]:
        """Counts as in `histograms`, (3, SIZE) int64, by the name of each dataset, with duplicates taken out."""
        counts = {d.name: np.zeros((len(CHANNELS), histograms.SIZE), np.int64) for d in self.campaign.datasets}
        for index, array in self.tally.counts.items():
            counts[self.campaign.datasets[index].name] += array
        twice = self._data_twice()
        for index in np.unique(twice.dataset):
            counts[self.campaign.datasets[index].name] -= histograms.fill(twice.rows(twice.dataset == index).variables)
        return counts

    def _data_twice(self) -> Table:
        """Return the rows of data that `duplicates` marks, without sorting those of simulation, for live plots."""
        is_data = np.array([dataset.is_data for dataset in self.campaign.datasets])
        blocks = [block.rows(keep) for block in self.tally.blocks if (keep := is_data[block.dataset]).any()]
        table = _in_order(blocks)
        return table.rows(find_duplicates(table, self.precedence(), one_per_event=self.selection.one_per_event))

    @cached_property
    def histograms(self) -> dict[str, hist.Hist[Any]]:
        """Every histogram, with the axes dataset, channel and variable, as integer counts."""
        return histograms.to_hist(self.counts)

    @cached_property
    def cutflow(self) -> dict[str, dict[str, list[tuple[str, int]]]]:
        """Events that pass each cut and all before, per dataset and channel.

        The last row is after duplicates are gone.
        """
        return {
            dataset.name: {
                CHANNELS[channel]: self._cutflow(index, channel) for channel in self.selection.channels(dataset.stream)
            }
            for index, dataset in enumerate(self.campaign.datasets)
            if index in self.tally.cutflow
        }

    def _cutflow(self, dataset: int, channel: int) -> list[tuple[str, int]]:
        """Return the cutflow of one dataset in one channel."""
        rows = self._all_rows
        twice = int(np.count_nonzero(self.duplicates & (rows.dataset == dataset) & (rows.channel == channel)))
        passed = [int(number) for number in self.tally.cutflow[dataset][channel]]
        passed[Cut.UNIQUE] -= twice
        return list(zip(CUT_NAMES, passed, strict=True))

    # -- what a reader should know

    @cached_property
    def unusable(self) -> dict[str, dict[str, int]]:
        """Sentinels and non-finite values by dataset and column, in events with enough leptons for a channel.

        No zeros.
        """
        found = {}
        for index, counts in self.tally.unusable.items():
            columns = [f"{flavour}_{quantity}" for flavour in ("muon", "electron") for quantity in QUANTITIES]
            found[self.campaign.datasets[index].name] = {
                c: int(n) for c, n in zip(columns, counts.ravel(), strict=True) if n
            }
        return found

    @property
    def not_applied(self) -> dict[str, list[str]]:
        """Columns that a dataset's schema does not have: cuts on them were not applied."""
        names = {
            self.campaign.datasets[index].name: columns for index, columns in sorted(self.tally.not_applied.items())
        }
        return {name: sorted(columns) for name, columns in names.items() if columns}

    @property
    def masked(self) -> dict[str, int]:
        """Events outside the golden JSON, by dataset."""
        return {self.campaign.datasets[index].name: number for index, number in self.tally.masked.items() if number}

    @property
    def duplicates_removed(self) -> dict[str, int]:
        """Selected candidates that another stream or file held already, by dataset."""
        found = np.bincount(self._all_rows.dataset[self.duplicates], minlength=len(self.campaign.datasets))
        return {dataset.name: int(n) for dataset, n in zip(self.campaign.datasets, found, strict=True) if n}

    @property
    def empty_files(self) -> tuple[str, ...]:
        """Files without any event: legal, but worth a look."""
        urls = [
            self.campaign.datasets[d].files[f].url for (d, f), info in sorted(self.files.items()) if info.entries == 0
        ]
        return tuple(provenance.public_name(url) for url in urls)

    # -- what it means

    @cached_property
    def weights(self) -> dict[str, dict[str, float]]:
        """Expected events per counted event, by dataset and channel: 1 for data, L·σ·k / N for simulation.

        L is the luminosity processed so far in that channel (`luminosity_shares`), N the number of events processed: a
        partial result is normalised like a complete one. A simulated dataset of which nothing has been processed is
        left out.
        """
        weights: dict[str, dict[str, float]] = {}
        for index, dataset in enumerate(self.campaign.datasets):
            if dataset.is_data:
                weights[dataset.name] = dict.fromkeys(CHANNELS, 1.0)
            elif self.tally.events(index):
                weights[dataset.name] = {channel: self._weight(index, dataset, channel) for channel in CHANNELS}
        return weights

    def _weight(self, index: int, dataset: Dataset, channel: str) -> float:
        """Return L·σ·k / N of a simulated dataset in a channel."""
        luminosity_fb = (dataset.luminosity_fb or self.campaign.luminosity_fb) * self.luminosity_shares[channel]
        cross_section_fb = (dataset.cross_section_pb or 0.0) * PB_PER_FB
        return luminosity_fb * cross_section_fb * dataset.scale / self.tally.events(index)

    @property
    def unpredicted(self) -> tuple[str, ...]:
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

    @cached_property
    def yields(self) -> dict[str, dict[str, Yield]]:
        """Events per process and channel, over all masses."""
        return self._yields(histograms.total)

    @cached_property
    def windows(self) -> dict[str, dict[str, dict[str, Yield]]]:
        """The same in each window of the four-lepton mass, see `histograms.WINDOWS`."""
        return {name: self._yields(partial(histograms.in_window, window=name)) for name, _, _ in histograms.WINDOWS}

    def _yields(self, count: Callable[[Integers], Integers]) -> dict[str, dict[str, Yield]]:
        """Return yields per process and channel from what ``count`` takes out of each dataset's counts."""
        counts = {name: count(counts)[:, np.newaxis] for name, counts in self.counts.items()}
        return self.normalised([0.0, np.inf], counts).yields()

    @cached_property
    def provenance(self) -> dict[str, Any]:
        """What made this result: campaign, selection, files with what identifies them, code and libraries."""
        return {
            "campaign": {"name": self.campaign.name, "title": self.campaign.title, "digest": self.campaign.digest},
            "simulated": self.simulated,
            "selection": {**self.selection.as_dict(), "digest": self.selection.digest},
            "files": [self._file_record(key) for key in sorted(self.files)],
            "code": provenance.code(),
            "libraries": provenance.libraries(),
        }

    def _file_record(self, key: FileKey) -> dict[str, Any]:
        """Return what identifies one file, and which of its entries were counted."""
        dataset, info = self.campaign.datasets[key[0]], self.files[key]
        file = dataset.files[key[1]]
        return {
            "dataset": dataset.name, "record": dataset.record, "doi": dataset.doi,
            "file": provenance.public_name(file.url), "kind": info.kind or self._kind(key), "entries": info.entries,
            "bytes": file.bytes or info.bytes, "adler32": file.adler32, "uuid": info.uuid,
            "counted": [list(pair) for pair in self.tally.units.get(key, ())],
            "readers": sorted({reader for reader, _ in self.tally.readers.get(key, ())}),
            "integrity": sorted({integrity for _, integrity in self.tally.readers.get(key, ())}),
        }  # fmt: skip

    def _kind(self, key: FileKey) -> str | None:
        """Return the kind of a file from how it was read; None if nothing of it was."""
        kinds = {"baskets": "TTree", "pages": "RNTuple", "csv": "CSV"}
        readers = sorted({reader for reader, _ in self.tally.readers.get(key, ())})
        return kinds.get(readers[0]) if readers else None


def _total_note(total: float, campaign: Campaign) -> tuple[str, ...]:
    """Compare the luminosity of the table with the campaign's, which is the one that counts."""
    if abs(total - campaign.luminosity_fb) <= campaign.luminosity_uncertainty * campaign.luminosity_fb:
        return ()
    note = (
        f"luminosity_table adds up to {total:.4g} /fb in the certified sections, luminosity_fb is "
        f"{campaign.luminosity_fb:.4g}: they differ by more than luminosity_uncertainty "
        f"({campaign.luminosity_uncertainty:.2g}). luminosity_fb was used, the table only for shares of it. "
        "Correct luminosity_fb, or make the table for these data."
    )
    return (note,)


def _lack_note(lacking: tuple[str, LumiSections]) -> str:
    """Say which sections of a dataset the table lacks."""
    name, sections = lacking
    run, section = divmod(int(sections.keys[0]), 2**32)
    number = f"{len(sections)} lumi section{'s' if len(sections) > 1 else ''}"
    return (
        f"{name}: {number} with events (run {run}, section {section}{' …' if len(sections) > 1 else ''}) not in "
        "luminosity_table: their events are counted, their luminosity is not. Make the table with the same golden JSON "
        "(brilcalc lumi --byls -i), or name a golden_json that leaves these sections out."
    )


def _in_order(blocks: Sequence[Table]) -> Table:
    """Return the rows of some tables in the order of the catalogue."""
    table = Table._make(map(np.concatenate, zip(*blocks, strict=True))) if blocks else empty_table()
    return table.rows(np.lexsort((table.channel, table.entry, table.file, table.dataset)))


def empty_table() -> Table:
    """Return a table without rows."""
    narrow = {"dataset": np.int16, "file": np.int32, "event": np.uint64, "channel": np.int8}
    wide = ("pt", "eta", "phi", "mass")
    columns: list[npt.NDArray[Any]] = []
    for name in Table._fields:
        if name in wide:
            columns.append(np.empty((0, 4), np.float32))
        elif name in ("charge", "pdg_id"):
            columns.append(np.empty((0, 4), np.int8))
        else:
            columns.append(np.empty(0, narrow.get(name, np.float64 if name.startswith("mass_") else np.int64)))
    return Table._make(columns)


def find_duplicates(table: Table, precedence: Integers, *, one_per_event: bool) -> npt.NDArray[np.bool_]:
    """Mark the events of data that occur again.

    Parameters
    ----------
    table
        Rows in the order of the catalogue.
    precedence
        Rank of each dataset, (n_datasets,): of equal events the one of lowest rank stays, then the first in the table.
        Datasets of rank −1 (simulation) are never compared.
    one_per_event
        Whether an event is the same whatever its channel; else (run, luminosityBlock, event, channel) is compared.

    Returns
    -------
    (n_rows,) bool
        True for every row but the first of each event.
    """
    rank = precedence[table.dataset]
    data = np.flatnonzero(rank >= 0)
    channel = np.zeros(len(data), np.int8) if one_per_event else table.channel[data]
    keys = (channel, table.event[data], table.luminosity_block[data], table.run[data])
    order = np.lexsort((data, rank[data], *keys))
    again = np.zeros(len(order), bool)
    if len(order) > 1:
        again[1:] = np.logical_and.reduce([key[order][1:] == key[order][:-1] for key in keys])
    duplicate = np.zeros(len(table.run), bool)
    duplicate[data[order]] = again
    return duplicate


provenance.sources_sha256(*provenance.ANSWER)  # remembered: of the code as it is loaded, not as it lies there later
