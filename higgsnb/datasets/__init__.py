"""What to analyse, and where its bytes are: campaigns of datasets and files, chunks, luminosity."""

from __future__ import annotations

from higgsnb.datasets import constants
from higgsnb.datasets.campaign import Campaign, Chunk, Dataset, File
from higgsnb.datasets.chunks import check_files, plan_chunks
from higgsnb.datasets.files.addresses import Address
from higgsnb.datasets.files.cache import checksum, content_digest
from higgsnb.datasets.files.request import counted_tries
from higgsnb.datasets.files.sources import Source, fetch, is_streamed, locate, transferred_bytes
from higgsnb.datasets.files.transfer import BlockwiseFile, RemoteFile
from higgsnb.datasets.files.versions import Version
from higgsnb.datasets.indexes import expand
from higgsnb.datasets.luminosity import LumiData, LumiList, LumiMask, Segments, check_inputs, kept_mask, kept_table
from higgsnb.datasets.parse import load, names
from higgsnb.datasets.toy.sizes import with_toy_sizes
from higgsnb.redaction import redact

__all__ = [
    "load",
    "names",
    "expand",
    "Campaign",
    "Dataset",
    "File",
    "Chunk",
    "locate",
    "fetch",
    "transferred_bytes",
    "is_streamed",
    "Source",
    "RemoteFile",
    "BlockwiseFile",
    "Address",
    "redact",
    "checksum",
    "content_digest",
    "Version",
    "counted_tries",
    "LumiMask",
    "LumiData",
    "LumiList",
    "Segments",
    "check_inputs",
    "kept_mask",
    "kept_table",
    "plan_chunks",
    "check_files",
    "with_toy_sizes",
    "constants",
]


def __dir__() -> list[str]:
    return __all__
