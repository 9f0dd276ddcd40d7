"""What was counted, and what it means per bin: chunks to tallies, tallies to results, results to files."""

from __future__ import annotations

from higgsnb.results.analysis import analyse, columns_for
from higgsnb.results.certified import sections_of
from higgsnb.results.coverage import CHANNEL_PRIMARY_DATASETS, PRIMARY_DATASET_ORDER
from higgsnb.results.cut_quantities import cut_quantity, legs_of
from higgsnb.results.directory import document, prepare, write
from higgsnb.results.failures import Failure
from higgsnb.results.layout import Layout, Table, layout_of
from higgsnb.results.reselect import AXES, DatasetEvents, PreselectedEvents, Reselection, check_options
from higgsnb.results.result import Result
from higgsnb.results.spectrum import Spectrum, stack_order
from higgsnb.results.tally import ChunkKey, FileKey, Record, Sum, Tally, pack
from higgsnb.results.yields import Yield

__all__ = [
    "analyse",
    "columns_for",
    "sections_of",
    "Tally",
    "Sum",
    "Record",
    "Table",
    "FileKey",
    "ChunkKey",
    "pack",
    "Result",
    "Failure",
    "Yield",
    "Spectrum",
    "stack_order",
    "Layout",
    "layout_of",
    "PRIMARY_DATASET_ORDER",
    "CHANNEL_PRIMARY_DATASETS",
    "PreselectedEvents",
    "Reselection",
    "DatasetEvents",
    "AXES",
    "check_options",
    "cut_quantity",
    "legs_of",
    "write",
    "document",
    "prepare",
]


def __dir__() -> list[str]:
    return __all__
