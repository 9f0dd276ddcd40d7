"""One chunk of events to a `Tally`: read, keep certified lumi sections, select, count."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from higgsnb import datasets, events, provenance
from higgsnb.datasets import Segments
from higgsnb.errors import UnreadableError
from higgsnb.results import histograms, plausibility
from higgsnb.results.tally import Integers, Span, Table, Tally
from higgsnb.selection import MUON, Candidates, Cut, Selection, keep_events, missing_quantities, select

if TYPE_CHECKING:
    from pathlib import Path

    from higgsnb.datasets import Chunk
    from higgsnb.events import Read

LOOKED_AT = 20_000
"""About as many events of a file are looked at to see whether its columns are in the right units."""


def analyse(chunk: Chunk, selection: Selection, *, skims_folder: Path | None = None) -> Tally:
    """Read a chunk of events, select, and count; skims are read from and kept in ``skims_folder``, see `skims`.

    Raises
    ------
    FileNotFoundError, UnreadableError, SchemaError
        See `events.inspect`.
    """
    file, index = (chunk.dataset_index, chunk.file_index), chunk.dataset_index
    weighted: dict[str, Any] = {}
    if chunk.schema != "csv" and not chunk.is_data and chunk.weighted:
        generator = events.read_generator(chunk)
        weights = np.ones(1) if generator.weights is None else generator.weights
        smallest, largest = (float(weights.min()), float(weights.max())) if len(weights) else (np.inf, -np.inf)
        weighted["generator_weights"] = {index: (smallest, largest)}
        if generator.generated is not None:
            a_weight = smallest if smallest and np.isclose(smallest, largest, events.SAME_WEIGHTS, 0) else 1.0
            weighted["generated"] = {file: round(generator.generated / a_weight)}
    read = events.read_preselected(chunk, skims_folder=skims_folder)
    read, n_events, segments = certified(read, chunk)
    try:
        candidates = select(read.leptons, selection, chunk.primary_dataset)
    except UnreadableError as error:  # of one event
        raise UnreadableError(f"{chunk.file.url}: {error.message}", error.hint) from error
    candidates.cutflow[list(selection.channels(chunk.primary_dataset)), Cut.ALL] += n_events - read.leptons.n_events
    table = _table(chunk, read, candidates)
    step = max(1, (chunk.entries or 0) // LOOKED_AT)
    some = read.leptons if step == 1 else keep_events(read.leptons, np.flatnonzero(read.entries % step == 0))
    sections: dict[str, Any] = {}
    if segments is not None and len(segments.keys):
        first, last = int(segments.keys[0]), int(segments.keys[-1])
        sections["spans"] = {file: (Span(chunk.start, chunk.stop, first, last),)}
        certain = np.unique(segments.keys[_certain(chunk, segments)])
        if len(certain):
            sections["sections"] = {index: certain}
            sections["scattered"] = {file: certain} if segments.scattered else {}
    return Tally(
        ranges={file: ((chunk.start, chunk.stop),)},
        counts={index: histograms.fill(table.variables)},
        cutflow={index: candidates.cutflow},
        invalid_values={index: candidates.invalid_values},
        plausibility={index: plausibility.count(some)},
        rejected_by_golden_json={index: read.n_events - n_events},
        not_applied={index: frozenset(missing_quantities(read.leptons, selection))},
        readers={file: frozenset({(read.reader, read.integrity)})},
        blocks=(table,) if len(table.run) else (),
        **sections,
        **weighted,
    )


def sections_of(chunk: Chunk) -> Integers | None:
    """Return the certified lumi sections of a chunk that `analyse` failed on: (n,) int64, packed, sorted and unique.

    Only two columns are read, which may be whole although others are damaged. None if they cannot be read, or if the
    campaign has no lumi sections.
    """
    if not chunk.sections:
        return None
    try:
        segments = Segments.of(*events.read_sections(chunk))
    except (OSError, ValueError):
        return None
    return np.unique(segments.keys[_certain(chunk, segments)])


def _certain(chunk: Chunk, segments: Segments) -> npt.NDArray[np.bool_]:
    """Return which segments are certified: all, if there is no golden JSON."""
    if chunk.golden_json is None:
        return np.ones(len(segments.keys), np.bool_)
    return datasets.kept_mask(chunk.golden_json, chunk.mask).holds(segments.keys)


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
    return read._replace(leptons=keep_events(read.leptons, kept), entries=read.entries[kept]), n_events, segments


def _table(chunk: Chunk, read: Read, candidates: Candidates) -> Table:
    """Return the rows of the selected candidates with all that is stored of them."""
    leptons, lepton, n, index = read.leptons, candidates.lepton, len(candidates.channel), candidates.event_index
    is_muon = candidates.flavour == MUON
    columns = {}
    for name in ("pt", "eta", "phi", "mass", "charge"):
        muons, electrons = getattr(leptons, f"muon_{name}"), getattr(leptons, f"electron_{name}")
        columns[name] = np.empty(lepton.shape, muons.dtype)
        columns[name][is_muon], columns[name][~is_muon] = muons[lepton[is_muon]], electrons[lepton[~is_muon]]
    columns["charge"] = columns["charge"].astype(np.int8)
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
        **columns,
        pdg_id=(-columns["charge"] * candidates.flavour).astype(np.int8),
    )


# Computed now and kept: the code as it was loaded, not as it may be edited while this process runs.
provenance.sources_sha256(*provenance.RESULT_MODULES)
