"""Count a chunk with a four-lepton selection."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from higgsnb import events
from higgsnb.errors import AnalysisError, UnreadableError
from higgsnb.results import plausibility
from higgsnb.results.certified import Certified, certify
from higgsnb.results.counted import Counted, Integers, Weights, weigh
from higgsnb.results.layout import layout_of
from higgsnb.selection import (
    MUON,
    Candidates,
    Selection,
    keep_events,
    missing_quantities,
    observe,
    select,
    to_leptons,
    used_by,
)

if TYPE_CHECKING:
    from pathlib import Path

    from higgsnb.datasets import Chunk, Dataset
    from higgsnb.events import Generator, Read


def count_leptons(
    chunk: Chunk, selection: Selection, generator: Generator | None, skims_folder: Path | None
) -> Counted:
    """Read the preselected leptons of a chunk, select candidates, and count; raises as `analysis.analyse` does."""
    read, certified = read_certified(chunk, selection, skims_folder)
    has_weights = generator is not None and generator.weights is not None
    try:
        candidates = select(read.leptons, selection, chunk.primary_dataset, reached=has_weights)
    except UnreadableError as error:  # of one event
        raise UnreadableError(f"{chunk.file.url}: {error.message}", error.hint) from error
    others = certified.n_events - read.leptons.n_events
    candidates.cutflow[list(selection.channels(chunk.primary_dataset)), 0] += others  # all events
    table, layout = _table(chunk, read, candidates, selection), layout_of(selection)
    step = max(1, (chunk.entries or 0) // plausibility.LOOKED_AT)
    some = read.leptons if step == 1 else keep_events(read.leptons, np.flatnonzero(read.entries % step == 0))
    places = layout.binning.places(table.values, len(table.run))
    weights, weighted = None, None
    if has_weights:
        weights, all_rows = weigh(chunk, generator, table.entry), np.arange(len(table.run))
        flow = _weighted_cutflow(
            weights, read.entries - chunk.start, candidates, selection.channels(chunk.primary_dataset)
        )
        weighted = weights.filled(layout, table.channel, places, all_rows, flow)
    return Counted(
        n_read=read.n_events,
        certified=certified,
        counts=layout.binning.fill(table.channel, places),
        cutflow=candidates.cutflow,
        invalid_values=candidates.invalid_values.ravel(),
        plausibility=plausibility.count(some),
        not_applied=frozenset(missing_quantities(read.leptons, selection)) | read.missing,
        how=(read.reader, read.integrity),
        blocks=(table if weights is None else table._replace(weight=weights.nominal),) if len(table.run) else (),
        weighted=weighted,
    )


def _weighted_cutflow(weights: Weights, index: Integers, candidates: Candidates, channels: tuple[int, ...]) -> Integers:
    """Return the sum of the weights of the events that pass each cut and all before, (3, n_cuts) int64.

    ``index`` (n_events,) are the events that were read, in the chunk; no other one passes a cut.
    """
    flow, weight, reached = np.zeros_like(candidates.cutflow), weights.of(index), np.asarray(candidates.reached)
    last = flow.shape[1] - 1
    for channel in channels:
        flow[channel, 0] = weights.total
        for cut in range(1, last):
            flow[channel, cut] = weight[reached[channel] >= cut].sum()
        flow[channel, last] = flow[channel, last - 1]
    return flow


def read_certified(chunk: Chunk, selection: Selection, skims_folder: Path | None) -> tuple[Read, Certified]:
    """Read the preselected leptons of a chunk as a selection uses them, those in certified lumi sections only."""
    selection = selection.of_tree(chunk.tree)
    columns = lepton_columns(selection, chunk, chunk.schema, chunk.columns)
    read = events.read_preselected(chunk, columns=columns, skims_folder=skims_folder)
    if read.columns is not None:
        leptons = to_leptons(read.columns, selection, chunk.primary_dataset, is_data=chunk.is_data)
        read = read._replace(leptons=leptons)
    certified = certify(chunk, read.entries, read.n_events)
    if certified.kept is None:
        return read, certified
    kept = keep_events(read.leptons, certified.kept)
    return read._replace(leptons=kept, entries=read.entries[certified.kept]), certified


def lepton_columns(
    selection: Selection, part: Chunk | Dataset, schema: str, headers: Mapping[str, Any]
) -> events.Columns | None:
    """Return the columns that a selection with options reads of a chunk or dataset.

    None where the usual ones of leptons are enough.
    """
    if not selection.extra_columns or (schema == "csv" and not headers):
        return None
    return events.Columns(selection.columns_of(part.primary_dataset, is_data=part.is_data))


def _table(chunk: Chunk, read: Read, candidates: Candidates, selection: Selection) -> Any:
    """Return the rows of the selected candidates with all that is stored of them."""
    leptons, lepton, n, index = read.leptons, candidates.lepton, len(candidates.channel), candidates.event_index
    is_muon = candidates.flavour == MUON
    columns = {}
    for name in ("pt", "eta", "phi", "mass", "charge"):
        muons, electrons = getattr(leptons, f"muon_{name}"), getattr(leptons, f"electron_{name}")
        columns[name] = np.empty(lepton.shape, muons.dtype)
        columns[name][is_muon], columns[name][~is_muon] = muons[lepton[is_muon]], electrons[lepton[~is_muon]]
    columns["charge"] = columns["charge"].astype(np.int8)
    own = _own_columns(chunk, read, candidates, selection)
    table: Any = layout_of(selection).table
    return table(
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
        **columns,
        pdg_id=(-columns["charge"] * candidates.flavour).astype(np.int8),
        weight=np.ones(n),
        **own,
    )


def _own_columns(chunk: Chunk, read: Read, candidates: Candidates, selection: Selection) -> dict[str, Any]:
    """Return what own axes and observables need of the candidates."""
    if not selection.own_columns:
        return {}
    try:
        leptons = used_by(read.leptons, selection)
        return observe(leptons, candidates, selection.own_columns, selection.observables)
    except AnalysisError as error:
        where = f"selection {selection.name!r}, {chunk.file.url}, entries {chunk.start} to {chunk.stop}"
        raise AnalysisError(f"{where}: {error.message}", error.hint) from error
