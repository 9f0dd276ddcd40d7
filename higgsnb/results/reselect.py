"""A campaign's preselected events in memory, so that other cuts can be applied in milliseconds.

`PreselectedEvents.select` gives the counts and the cutflow that `engine.run` would. The events are read once, and only
those that pass the loosest cuts on leptons are kept. The compiled loops are in `selection.pairings`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from itertools import groupby, pairwise
from operator import attrgetter
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
import numpy.typing as npt

from higgsnb import events, provenance
from higgsnb.datasets import Chunk
from higgsnb.errors import OptionError, SelectionError, UnreadableError
from higgsnb.results.duplicates import find_duplicates
from higgsnb.results.four_leptons import read_certified
from higgsnb.results.layout import FOUR_LEPTONS
from higgsnb.results.result import Result
from higgsnb.results.spectrum import Spectrum, normalise
from higgsnb.selection import CHANNELS, Cut, Pairings, Preselected, Selection, pairings, rules

if TYPE_CHECKING:
    from pathlib import Path

    from higgsnb.datasets import Campaign

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

CHUNK_EVENTS = 250_000
"""Events read at a time."""
EVENTS_PER_TASK = 25_000
"""Least number of events for each thread."""
AXES = tuple(FOUR_LEPTONS.binning.axis(name) for name in ("mass_4l", "mass_4l_wide", "mass_z1", "mass_z2"))
"""The histograms of a `Reselection`."""
_WIDTHS = np.array([axis.bins + 2 for axis in AXES])
_STARTS = np.concatenate(([0], np.cumsum(_WIDTHS)))
_EDGES = np.concatenate([axis.edges for axis in AXES])
_EDGE_STARTS = np.cumsum(_WIDTHS - 1) - (_WIDTHS - 1)
_EDGE_ENDS = np.stack([_EDGE_STARTS, _EDGE_STARTS + _WIDTHS - 2], axis=1)


class DatasetEvents(NamedTuple):
    """The preselected events of one dataset.

    ``file``, ``entry``, ``run``, ``luminosity_block``, ``event`` (n_events,); ``duplicate`` (n_events,) whether an
    event of data occurs elsewhere, too; ``n_events`` and ``possible`` count all that were read, see
    `pairings.preselect`.
    """

    dataset: int
    preselected: Preselected
    file: npt.NDArray[np.int32]
    entry: Integers
    run: Integers
    luminosity_block: Integers
    event: npt.NDArray[np.uint64]
    duplicate: npt.NDArray[np.bool_]
    n_events: int
    possible: Integers


_IDENTITY = ("file", "entry", "run", "luminosity_block", "event")


@dataclass(frozen=True, eq=False, repr=False)
class Reselection:
    """What a selection keeps of preselected events, for each dataset, by index; duplicates are taken out.

    ``counts`` (3, bins of all `AXES`) and ``cutflow`` (3, len(Cut)) are int64. ``selected`` (n, 2) int64 has the event
    and the row of ``pairings``, which are valid until `PreselectedEvents.select` is called again in the same slot.
    """

    events: PreselectedEvents
    selection: Selection
    counts: dict[int, Integers]
    cutflow: dict[int, Integers]
    selected: dict[int, Integers]
    pairings: dict[int, Pairings]

    @cached_property
    def weights(self) -> dict[int, Floats]:
        """Expected events per counted one, (3,) for each dataset, by index; as `Result.weights`."""
        return self.events.weights_for(self.selection)

    def histogram(self, name: str) -> dict[int, Integers]:
        """Return the counts of one histogram, (3, bins + 2) for each dataset, as `histograms.counts_of`."""
        index = [axis.name for axis in AXES].index(name)
        return {i: counts[:, _STARTS[index] : _STARTS[index + 1]] for i, counts in self.counts.items()}

    def normalised(self, edges: npt.ArrayLike, counts: Mapping[int, npt.NDArray[Any]]) -> Spectrum:
        """Return the spectrum of counts (3, bins) of each dataset, by index."""
        datasets = self.events.campaign.datasets
        rows = [
            (datasets[i], array, self.weights[i], (array, array)) for i, array in counts.items() if i in self.weights
        ]
        return normalise(edges, rows)

    def spectrum(self, name: str) -> Spectrum:
        """Return data and prediction in the bins of one histogram, by channel, as `Result.spectrum`."""
        counts = {index: array[:, 1:-1] for index, array in self.histogram(name).items()}
        return self.normalised(FOUR_LEPTONS.binning.axis(name).edges, counts)


@dataclass
class _Memory:
    """What the last selection of one dataset computed, and for which cuts."""

    flags: npt.NDArray[np.uint8]
    pairings: Pairings | None = None
    lepton_cuts: tuple[Any, ...] = ()
    recipe: tuple[Any, ...] = ()
    candidates: dict[int, tuple[npt.NDArray[np.int32], Integers]] = field(default_factory=dict)


class PreselectedEvents:
    """The events of a campaign in memory, see `load`; not safe to use from several threads at once."""

    def __init__(
        self, basis: Result, parts: Iterable[DatasetEvents], loosest: Selection, workers: int | None = None
    ) -> None:
        self.basis = basis
        self.campaign = basis.campaign
        self.parts = _mark_duplicates(self.campaign, list(parts))
        self.loosest = loosest
        self._workers = workers or provenance.available_cores()
        self._pool = ThreadPoolExecutor(self._workers, thread_name_prefix="higgsnb-reselect")
        self._memories: dict[str, dict[int, _Memory]] = {}
        self._all: dict[tuple[int, float], Pairings] = {}
        self._weights: dict[str, dict[int, Floats]] = {}

    @classmethod
    def load(
        cls,
        result: Result,
        *,
        loosest: Selection | None = None,
        skims_folder: Path | None = None,
        workers: int | None = None,
    ) -> PreselectedEvents:
        """Read again the events that a result has counted, and keep those that some setting of the cuts accepts.

        ``loosest`` has the loosest cuts on leptons that will be asked for, by default those of the result; cuts on pT
        may be anything. Skims are kept in ``skims_folder``, see `skims`. ``workers`` threads, by default one per core.

        Raises
        ------
        OptionError
            If the result has counted no events, has weighted simulation, or is not one of a four-lepton selection.
        SelectionError
            If its selection has options, see `check_options`.
        OSError
            If a file cannot be read any more, or is not the one that was counted.
        """
        check_options(result.cuts)
        if not result.tally.ranges:
            raise OptionError("this result has counted no events", "Let the run go on, or look at result.failed.")
        if result.tally.weighings:
            what = "simulation with weights cannot be selected anew in memory, where each event counts as one"
            raise OptionError(what, "Run it with each selection instead: engine.run(campaign, selection.replace(…)).")
        loosest = result.cuts if loosest is None else loosest
        with ThreadPoolExecutor(workers or provenance.available_cores()) as pool:
            chunks = sorted(_chunks(result), key=lambda chunk: (chunk.dataset_index, chunk.file_index, chunk.start))
            pieces = list(pool.map(partial(_read, loosest=loosest, skims_folder=skims_folder), chunks))
        parts = []
        for index, some in groupby(pieces, key=attrgetter("dataset")):
            mine = list(some)
            columns = {name: np.concatenate([getattr(p, name) for p in mine]) for name in (*_IDENTITY, "duplicate")}
            preselected, n_events = pairings.join([p.preselected for p in mine]), sum(p.n_events for p in mine)
            possible = sum((p.possible for p in mine), np.zeros((2, 3), np.int64))
            parts.append(DatasetEvents(index, preselected, **columns, n_events=n_events, possible=possible))
        tally = replace(result.tally, counts={}, cutflow={}, invalid_values={}, blocks=())
        return cls(replace(result, tally=tally), parts, loosest, workers)

    def __repr__(self) -> str:
        """Return one line with the number of events."""
        preselected = sum(len(part.preselected.muons) for part in self.parts)
        read = sum(part.n_events for part in self.parts)
        return f"PreselectedEvents of campaign {self.campaign.name!r}: {preselected:,} of {read:,} events preselected"

    def basis_for(self, selection: Selection) -> Result:
        """Return a result without counts that has this selection: for coverage and weights."""
        return replace(self.basis, selection=selection)

    def weights_for(self, selection: Selection) -> dict[int, Floats]:
        """Return the expected events per counted one, (3,) for each dataset, by index; only the algorithm matters."""
        if selection.algorithm not in self._weights:
            weights, datasets = self.basis_for(selection).weights, enumerate(self.campaign.datasets)
            self._weights[selection.algorithm] = {
                i: np.array([weights[d.name][c] for c in CHANNELS]) for i, d in datasets if d.name in weights
            }
        return self._weights[selection.algorithm]

    def check(self, selection: Selection) -> None:
        """Raise `SelectionError` if a selection accepts leptons that were not preselected; names the cut.

        So it does for a selection with options, see `check_options`.
        """
        check_options(selection)
        for name in pairings.LEPTON_CUTS:
            value, limit = getattr(selection, name), getattr(self.loosest, name)
            if not name.endswith("_pt_min") and value > limit:
                raise SelectionError(
                    f"{name} = {value:g} is looser than the preselection of the events; expected at most {limit:g}",
                    "Load the events from a result whose selection is that loose.",
                )

    def select(self, selection: Selection, *, slot: str = "main") -> Reselection:
        """Apply a selection to all events; each ``slot``, of any name, keeps what the next selection in it can reuse.

        Raises
        ------
        SelectionError
            If its cuts on leptons are looser than those of ``loosest``.
        """
        self.check(selection)
        # Out of its slot while it is worked on: what an interrupt leaves half done, or still at work, is forgotten.
        memories = self._memories.pop(slot, None) or {
            part.dataset: _Memory(np.empty(len(part.preselected.leptons), np.uint8)) for part in self.parts
        }
        calls = [call for part in self.parts for call in self._prepare(part, selection, memories[part.dataset])]
        tasks = list(self._pool.map(lambda call: call(), calls)) if len(calls) > 1 else [call() for call in calls]
        self._memories[slot] = memories
        found = Reselection(self, selection, {}, {}, {}, {})
        for part in self.parts:
            index = part.dataset
            mine = [task for task in tasks if task.dataset == index]
            found.counts[index] = sum((task.counts for task in mine), np.zeros((3, int(_STARTS[-1])), np.int64))
            passed = sum((task.passed for task in mine), np.zeros((3, len(Cut)), np.int64))
            found.selected[index] = np.concatenate([task.selected for task in mine])
            enough_stored = part.possible[int(selection.algorithm == "df103")]
            channels = selection.channels(self.campaign.datasets[index].primary_dataset)
            found.cutflow[index] = pairings.cutflow(passed, part.n_events, enough_stored, channels)
            found.pairings[index] = cast("Pairings", memories[index].pairings)
        return self._without_duplicates(found)

    # -- the work

    def _prepare(self, part: DatasetEvents, selection: Selection, memory: _Memory) -> Iterator[Callable[[], _Counted]]:
        """Yield the calls that together select one part; each works on a range of its events."""
        n = len(part.preselected.muons)
        primary_dataset = self.campaign.datasets[part.dataset].primary_dataset
        wanted = np.isin(np.arange(len(CHANNELS)), selection.channels(primary_dataset))
        lepton_cuts = tuple(getattr(selection, name) for name in pairings.LEPTON_CUTS)
        recipe = (selection.algorithm, selection.z_mass, selection.integer_pairing, *lepton_cuts, *wanted)
        if selection.one_per_event:  # then the pairings depend on nothing but the mass of the Z boson
            key = (part.dataset, selection.z_mass)
            if key not in self._all:
                self._all = {kept: value for kept, value in self._all.items() if kept[1] == selection.z_mass}
                numbers = pairings.count_all(part.preselected)
                paired = pairings.pair_all(part.preselected, numbers, selection.z_mass)
                pairings.find_bins(paired.rows, 0, len(paired.rows), _EDGES, _EDGE_ENDS, _WIDTHS)
                self._all[key] = paired
            memory.pairings = self._all[key]
        elif memory.pairings is None or memory.recipe[:1] == ("open2012",):
            memory.pairings = pairings.room(part.preselected)
        work = _Work(part, selection, rules.cuts_of(selection), wanted, memory)
        options = {"flag": memory.lepton_cuts != lepton_cuts, "pair": memory.recipe != recipe}
        memory.lepton_cuts, memory.recipe = lepton_cuts, recipe
        bounds = np.linspace(0, n, max(1, min(2 * self._workers, n // EVENTS_PER_TASK)) + 1).astype(np.int64)
        for first, last in pairwise(bounds):
            yield partial(work.run, int(first), int(last), **options)

    def _without_duplicates(self, found: Reselection) -> Reselection:
        """Remove events of data that are selected twice, as `Result` does; only `duplicate` events are compared."""
        compared, tables = [], []
        for part in self.parts:
            if part.duplicate.any():
                selected = found.selected[part.dataset]
                places = np.flatnonzero(part.duplicate[selected[:, 0]])
                event, row = selected[places].T
                table = FOUR_LEPTONS.empty()._replace(
                    dataset=np.full(len(event), part.dataset, np.int16),
                    channel=found.pairings[part.dataset].rows["channel"][row].astype(np.int8),
                    **{name: getattr(part, name)[event] for name in _IDENTITY},
                )
                compared.append((part.dataset, places))
                tables.append(table)
        if not tables:
            return found
        precedence, one_per_event = self.basis_for(found.selection).precedence(), found.selection.one_per_event
        twice = find_duplicates(FOUR_LEPTONS.stacked(tables), precedence, one_per_event=one_per_event)
        stops = np.cumsum([len(places) for _, places in compared])
        for (index, places), again in zip(compared, np.split(twice, stops[:-1]), strict=True):
            rows, gone = found.pairings[index].rows, found.selected[index][places[again], 1]
            bins, channel = rows["bins"][gone], rows["channel"][gone]
            for k in range(len(AXES)):
                np.subtract.at(found.counts[index], (channel, bins[:, k]), 1)
            found.cutflow[index][:, Cut.UNIQUE] -= np.bincount(channel, minlength=3)
            found.selected[index] = np.delete(found.selected[index], places[again], axis=0)
        return found


def check_options(selection: Selection) -> None:
    """Raise `SelectionError` for a selection with options: events in memory lack what these need.

    That are identification, ``sip3d``, photons, triggers and event cuts; nor is the smart cut or another choice of the
    candidate applied to them. Own axes and observables do not matter: they are left out.
    """
    if options := [name for name in selection.options if name not in ("axes", "observables")]:
        has = ", ".join(options)
        raise SelectionError(
            f"selection {selection.name!r} cannot be applied to events in memory, as it has {has}",
            "Run it instead: engine.run(campaign, selection). The explorer shows selections without these options.",
        )


class _Counted(NamedTuple):
    """What one task counted."""

    dataset: int
    counts: Integers
    passed: Integers
    selected: Integers


@dataclass(frozen=True)
class _Work:
    """How the events of one dataset are selected; threads share it, each for a range of events."""

    part: DatasetEvents
    selection: Selection
    numbers: Any
    wanted: npt.NDArray[np.bool_]
    memory: _Memory

    def run(self, first: int, last: int, *, flag: bool, pair: bool) -> _Counted:
        """Select the events [first, last); flags and pairings that are still valid are kept."""
        preselected, memory, paired = self.part.preselected, self.memory, cast("Pairings", self.memory.pairings)
        if flag and last > first:
            measured = (preselected.leptons, preselected.isolation, preselected.dxy, preselected.dz, preselected.sip)
            pairings.flag_leptons(*measured, self.numbers, *preselected.offsets[[first, last]], memory.flags)
        if pair:
            which = (first, last, self.numbers, self.wanted, memory.flags, paired)
            memory.candidates[first] = pairings.list_candidates(preselected, *which)
            if not self.selection.one_per_event and first < last:
                stop = paired.starts[last] if last < len(paired.starts) else len(paired.rows)
                pairings.find_bins(paired.rows, int(paired.starts[first]), int(stop), _EDGES, _EDGE_ENDS, _WIDTHS)
        candidates, passed = memory.candidates[first]
        counts, passed = np.zeros((3, int(_STARTS[-1])), np.int64), passed.copy()
        selected = np.empty((len(candidates), 2), np.int64)
        one_per_event = self.selection.one_per_event
        n = pairings.choose(
            candidates, paired.rows, self.numbers, one_per_event, passed, counts, selected, pairings.NOT_WANTED
        )
        return _Counted(self.part.dataset, counts, passed, selected[:n].copy())


# --- Reading -------------------------------------------------------------------------------------------------------


def _chunks(result: Result) -> Iterator[Chunk]:
    """Yield what a result has counted, in pieces that begin and end where those of the engine do."""
    golden_json = result.campaign.golden_json
    for (d, f), ranges in result.tally.ranges.items():
        dataset = result.campaign.datasets[d]
        mask = golden_json if dataset.is_data else None
        info = result.files.get((d, f))
        for start, stop in ranges:
            inner = range((start // CHUNK_EVENTS + 1) * CHUNK_EVENTS, stop, CHUNK_EVENTS)
            for low, high in pairwise([start, *inner, stop]):
                yield Chunk(
                    dataset=dataset.name,
                    dataset_index=d,
                    file_index=f,
                    file=dataset.files[f],
                    schema=result.campaign.schema,
                    primary_dataset=dataset.primary_dataset,
                    is_data=dataset.is_data,
                    start=low,
                    stop=high,
                    golden_json=mask,
                    sections=dataset.is_data and result.campaign.has_sections,
                    entries=None if info is None else info.entries,
                    fingerprint=events.fingerprint(dataset.files[f], info) if info is not None and info.kind else None,
                    mask=(result.golden_json_digest or None) if mask is not None else None,
                    version=None if info is None else info.version,
                    friend_versions=() if info is None else info.friends,
                    **result.campaign.reading(dataset),
                )


def _read(chunk: Chunk, loosest: Selection, skims_folder: Path | None) -> DatasetEvents:
    """Read a chunk and keep what some setting of the cuts may accept."""
    read, certified = read_certified(chunk, loosest, skims_folder)
    leptons = read.leptons
    try:
        preselected, which, possible, _ = pairings.preselect(leptons, rules.cuts_of(loosest), any_pt=True)
    except UnreadableError as error:  # of one event
        raise UnreadableError(f"{chunk.file.url}: {error.message}", error.hint) from error
    return DatasetEvents(
        chunk.dataset_index, preselected, np.full(len(which), chunk.file_index, np.int32), read.entries[which],
        leptons.run[which], leptons.luminosity_block[which], leptons.event[which], np.zeros(len(which), bool),
        certified.n_events, possible,
    )  # fmt: skip


def _mark_duplicates(campaign: Campaign, parts: list[DatasetEvents]) -> list[DatasetEvents]:
    """Mark the events of data that occur more than once."""
    data = [part for part in parts if campaign.datasets[part.dataset].is_data]
    if not data:
        return parts
    keys = [np.concatenate([getattr(p, name) for p in data]) for name in ("event", "luminosity_block", "run")]
    order = np.lexsort(keys)
    same = np.logical_and.reduce([key[order][1:] == key[order][:-1] for key in keys])
    duplicate = np.zeros(len(order), bool)
    duplicate[order[1:][same]] = duplicate[order[:-1][same]] = True
    marks = iter(np.split(duplicate, np.cumsum([len(part.run) for part in data])[:-1]))
    return [p._replace(duplicate=next(marks)) if campaign.datasets[p.dataset].is_data else p for p in parts]
