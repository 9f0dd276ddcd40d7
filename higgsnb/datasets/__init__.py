"""What to analyse, and where its bytes are: campaigns of datasets and files, chunks, luminosity."""

from __future__ import annotations

from higgsnb.datasets.campaign import Campaign, Chunk, Dataset, File
from higgsnb.datasets.chunks import check_totals, plan_chunks, same_files
from higgsnb.datasets.files.addresses import Address, redact
from higgsnb.datasets.files.cache import checksum
from higgsnb.datasets.files.request import active_tries, counted_tries
from higgsnb.datasets.files.sources import TEXT_FILES, Source, fetch, locate, stream_above
from higgsnb.datasets.files.transfer import RemoteFile
from higgsnb.datasets.luminosity import LumiList, LumiMask, Segments, check_inputs, kept_mask, read_table, stamp
from higgsnb.datasets.parse import load, names

__all__ = [
    "load",
    "names",
    "Campaign",
    "Dataset",
    "File",
    "Chunk",
    "locate",
    "fetch",
    "Source",
    "stream_above",
    "TEXT_FILES",
    "RemoteFile",
    "Address",
    "redact",
    "checksum",
    "active_tries",
    "counted_tries",
    "LumiMask",
    "LumiList",
    "Segments",
    "check_inputs",
    "kept_mask",
    "read_table",
    "stamp",
    "plan_chunks",
    "check_totals",
    "same_files",
]


def __dir__() -> list[str]:
    return __all__
