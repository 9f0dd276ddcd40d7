"""From bytes to leptons: open event files, check them against their schema, and read chunks of them."""

from __future__ import annotations

from higgsnb.events.read import (
    SAME_WEIGHTS,
    fingerprint,
    identify,
    info_from_campaign,
    inspect,
    read_generator,
    read_leptons,
    read_preselected,
    read_sections,
)
from higgsnb.events.schema import FileInfo, Read

__all__ = [
    "inspect",
    "identify",
    "info_from_campaign",
    "fingerprint",
    "SAME_WEIGHTS",
    "read_generator",
    "read_preselected",
    "read_leptons",
    "read_sections",
    "FileInfo",
    "Read",
]


def __dir__() -> list[str]:
    return __all__
