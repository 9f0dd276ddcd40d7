"""From bytes to leptons: open event files, check them against their schema, and read chunks of them."""

from higgsnb.errors import SchemaError
from higgsnb.read import (
    check_weights,
    fingerprint,
    info_from_campaign,
    inspect,
    read_leptons,
    read_preselected,
    read_sections,
)
from higgsnb.schema import BRANCHES, FileInfo, Read

__all__ = [
    "BRANCHES",
    "FileInfo",
    "Read",
    "SchemaError",
    "check_weights",
    "fingerprint",
    "info_from_campaign",
    "inspect",
    "read_leptons",
    "read_preselected",
    "read_sections",
]
