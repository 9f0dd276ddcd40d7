"""Count a chunk with an analysis of one's own: events to its function, and what that returns to histograms."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from higgsnb import events
from higgsnb.results import plausibility
from higgsnb.results.calling import Checked, call, check_alone, shifted
from higgsnb.results.certified import Certified, certify
from higgsnb.results.counted import Counted, Weights, weigh
from higgsnb.results.layout import layout_of
from higgsnb.results.rows import Chosen, PackedRows, pack_rows
from higgsnb.results.tally import Weighing

if TYPE_CHECKING:
    from higgsnb.datasets import Chunk
    from higgsnb.events import EventColumns, Generator
    from higgsnb.selection import Analysis

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


def count_events(chunk: Chunk, analysis: Analysis, generator: Generator | None) -> Counted:
    """Read the preselected events of a chunk, give them to the function, and count; raises as `analysis.analyse` does.

    A row is kept of every event of data, so that one that is found again elsewhere can be taken out; of simulation, if
    the analysis keeps quantities.
    """
    preselection = analysis.preselection(chunk.primary_dataset, is_data=chunk.is_data)
    columns = analysis.columns_of(chunk.primary_dataset, is_data=chunk.is_data)
    read = events.read_events(chunk, events.Columns(columns, preselection))
    certified = certify(chunk, read.entries, read.n_events)
    if certified.kept is not None:
        read = events.keep(read, certified.kept)
    layout = layout_of(analysis)
    nominal = call(analysis, chunk, read)
    if chunk.start == 0:
        check_alone(analysis, chunk, read, nominal)
    region, rows = nominal.rows(analysis, chunk.primary_dataset)
    places = layout.binning.places(nominal.quantities, len(nominal.chosen))
    weight, weighted = np.ones(len(nominal.chosen) if analysis.keep else 0), None
    if not chunk.is_data:
        chosen = read.entries[nominal.chosen]
        weights = weigh(chunk, generator, chosen, nominal.factor(analysis.sources), **nominal.varied(analysis))
        flow = _weighted_cutflow(weights, nominal, analysis, chunk, read.entries - chunk.start)
        weight, weighted = weights.nominal, weights.filled(layout, region, places, rows, flow)
        if analysis.shifts:
            weighted = _add_shifted(chunk, analysis, generator, read, weighted)
    counts = layout.binning.fill(region, places, rows)
    del region, rows  # packing takes the most memory of all that is done with a chunk
    keeps_rows = chunk.is_data or bool(analysis.keep)
    return Counted(
        n_read=read.n_events,
        certified=certified,
        counts=counts,
        cutflow=_cutflow(nominal, analysis, chunk, certified, len(read.entries)),
        invalid_values=np.array([nominal.invalid[name] for name in layout.invalid], np.int64),
        plausibility=plausibility.count_columns(_some(read, chunk)),
        not_applied=read.missing,
        how=(read.reader, read.integrity),
        blocks=_rows(chunk, read, nominal, analysis, places, weight) if keeps_rows else (),
        weighted=weighted,
        output=nominal.output,
        overlaps=_overlaps(nominal, analysis, chunk.primary_dataset),
    )


def _add_shifted(
    chunk: Chunk,
    analysis: Analysis,
    generator: Generator | None,
    read: EventColumns,
    nominal: tuple[Weighing, Integers],
) -> tuple[Weighing, Integers]:
    """Run the function again with each shift of columns, up and down, and add the histograms to the nominal ones."""
    weighing, sums = nominal
    layout = layout_of(analysis)
    for shift in analysis.shifts:
        for direction, way in enumerate(("up", "down")):
            changed = call(analysis, chunk, shifted(analysis, chunk, read, shift, direction))
            region, rows = changed.rows(analysis, chunk.primary_dataset)
            weights = weigh(chunk, generator, read.entries[changed.chosen], changed.factor())
            only = np.zeros((len(changed.chosen), len(analysis.copies)), np.int64)
            only[:, analysis.copies.index(f"{shift.name}_{way}")] = weights.fixed[:, 0]
            places = layout.binning.places(changed.quantities, len(changed.chosen))
            more, added = weights._replace(fixed=only).filled(layout, region, places, rows)
            sums += added
            weighing = weighing._replace(magnitude=weighing.magnitude + more.magnitude)
    return weighing, sums


def _cutflow(found: Checked, analysis: Analysis, chunk: Chunk, certified: Certified, n_preselected: int) -> Integers:
    """Return how many events passed each cut and all before, (n_regions, n_cuts) int64; 0 in regions not taken."""
    flow = np.zeros(layout_of(analysis).shapes["cutflow"], np.int64)
    for region in analysis.channels(chunk.primary_dataset):
        passed = found.passed[analysis.regions[region]].sum(axis=0).tolist()
        numbers = [certified.n_events, n_preselected, *passed, passed[-1]]
        flow[region, : len(numbers)] = numbers
    return flow


def _weighted_cutflow(weights: Weights, found: Checked, analysis: Analysis, chunk: Chunk, index: Integers) -> Integers:
    """Return the sum of the weights of the events that pass each cut and all before, (n_regions, n_cuts) int64.

    The factors of the function are in it from the first cut on; what its function does not select has none.
    """
    flow, preselected = np.zeros(layout_of(analysis).shapes["cutflow"], np.int64), int(weights.of(index).sum())
    for region in analysis.channels(chunk.primary_dataset):
        masks = found.passed[analysis.regions[region]].T
        passed = [int(weights.fixed[mask, 0].sum()) for mask in masks]
        numbers = [weights.total, preselected, *passed, passed[-1]]
        flow[region, : len(numbers)] = numbers
    return flow


def _overlaps(found: Checked, analysis: Analysis, primary_dataset: str | None) -> Integers:
    """Return how many events are in each two regions, (n_regions, n_regions) int64, symmetric, 0 of the same."""
    masks = [found.passed[name][:, -1] for name in analysis.regions]
    for region in set(range(len(masks))) - set(analysis.channels(primary_dataset)):
        masks[region] = np.zeros(len(found.chosen), np.bool_)
    overlaps = np.zeros((len(masks),) * 2, np.int64)
    if len(masks) == 1:
        return overlaps
    number = np.zeros(len(found.chosen), np.uint8)  # of regions that an event is in: at most 200
    for mask in masks:
        number += mask
    several = np.flatnonzero(number > 1)
    for start in range(0, len(several), 2**16):  # which float32 counts exactly
        some = np.array([mask[several[start : start + 2**16]] for mask in masks], np.float32)
        overlaps += (some @ some.T).astype(np.int64)
    np.fill_diagonal(overlaps, 0)
    return overlaps


def _some(read: EventColumns, chunk: Chunk) -> EventColumns:
    """Return about as many events of a file as tell whether its columns are in the right units, and these columns."""
    jagged = {name: column for name, column in read.jagged.items() if name in plausibility.COLUMNS}
    read = read._replace(flat={}, jagged=jagged)
    step = max(1, (chunk.entries or 0) // plausibility.LOOKED_AT)
    if step == 1 or not len(read.entries):
        return read
    entries = np.arange(-(-chunk.start // step) * step, read.entries[-1] + 1, step)
    index = np.searchsorted(read.entries, entries)
    return events.keep(read, index[read.entries[index] == entries])


def _rows(
    chunk: Chunk, read: EventColumns, found: Checked, analysis: Analysis, places: npt.NDArray[np.int32], weight: Floats
) -> tuple[PackedRows, ...]:
    """Return the rows of the selected events."""
    n = len(found.chosen)
    regions = np.zeros((len(analysis.regions), n), np.bool_)
    for region in analysis.channels(chunk.primary_dataset):
        regions[region] = found.passed[analysis.regions[region]][:, -1]
    kept = [*(found.quantities[name] for name in analysis.keep), *[weight] * bool(analysis.keep)]
    run, section, event = (read.flat[name] for name in ("run", "luminosityBlock", "event"))
    chosen = Chosen(
        found.chosen, read.entries, run, section, event.view(np.int64), regions, places[:, :-1],
        np.array(kept, np.float64).reshape(len(kept), n),
    )  # fmt: skip
    packed = pack_rows(chunk.dataset_index, chunk.file_index, chunk.start, chosen)
    return () if packed is None else (packed,)
