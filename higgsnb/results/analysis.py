"""One chunk of events to a `Tally`: read, keep certified lumi sections, select, count."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from higgsnb import events, provenance
from higgsnb.results.certified import certain_segments
from higgsnb.results.four_leptons import count_leptons, lepton_columns
from higgsnb.results.own_analysis import count_events
from higgsnb.results.tally import Generated, Span, Tally
from higgsnb.selection import Selection

if TYPE_CHECKING:
    from pathlib import Path

    from higgsnb.datasets import Campaign, Chunk, Dataset
    from higgsnb.selection import Analysis


def analyse(chunk: Chunk, selection: Analysis, *, skims_folder: Path | None = None) -> Tally:
    """Read a chunk of events, select, and count; skims are read from and kept in ``skims_folder``, see `skims`.

    Raises
    ------
    FileNotFoundError, UnreadableError, SchemaError
        See `events.inspect`.
    AnalysisError
        If the function of an analysis fails, or returns what it does not declare.
    """
    generator = None if chunk.schema == "csv" or chunk.is_data or not chunk.weighted else events.read_generator(chunk)
    if isinstance(selection, Selection):
        counted = count_leptons(chunk, selection, generator, skims_folder)
    else:
        counted = count_events(chunk, selection, generator)
    file, index = (chunk.dataset_index, chunk.file_index), chunk.dataset_index
    more: dict[str, Any] = {}
    segments = counted.certified.segments
    if segments is not None and len(segments.keys):
        first, last = int(segments.keys[0]), int(segments.keys[-1])
        more["spans"] = {file: (Span(chunk.start, chunk.stop, first, last),)}
        certain = np.unique(segments.keys[certain_segments(chunk, segments)])
        if len(certain):
            more["sections"] = {index: certain}
            more["scattered"] = {file: certain} if segments.scattered else {}
    if generator is not None and generator.generated is not None:
        more["generated"] = {file: Generated(generator.generated, generator.number)}
    if counted.weighted is not None:
        weighing, sums = counted.weighted
        more["weighings"] = {file: weighing}
        more["weighted"] = {(index, weighing.exponent): sums}
    if counted.output:
        more["outputs"] = {(*file, chunk.start, chunk.stop): counted.output}
    return Tally(
        ranges={file: ((chunk.start, chunk.stop),)},
        counts={index: counted.counts},
        cutflow={index: counted.cutflow},
        invalid_values={index: counted.invalid_values},
        plausibility={index: counted.plausibility},
        overlaps={index: counted.overlaps},
        rejected_by_golden_json={index: counted.n_read - counted.certified.n_events},
        not_applied={index: counted.not_applied},
        readers={file: frozenset({counted.how})},
        blocks=counted.blocks,
        **more,
    )


def columns_for(selection: Analysis, campaign: Campaign, dataset: Dataset) -> events.Columns | None:
    """Return the columns that a selection reads of the files of a dataset; None: those of leptons."""
    if not isinstance(selection, Selection):
        preselection = selection.preselection(dataset.primary_dataset, is_data=dataset.is_data)
        return events.Columns(selection.columns_of(dataset.primary_dataset, is_data=dataset.is_data), preselection)
    return lepton_columns(selection.of_tree(campaign.tree), dataset, campaign.schema, campaign.columns)


# Computed now and kept: the code as it was loaded, not as it may be edited while this process runs.
provenance.sources_sha256(*provenance.RESULT_MODULES)
