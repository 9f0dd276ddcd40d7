"""From bytes to events: open event files, check them against their schema, and read columns or leptons of chunks."""

from __future__ import annotations

from higgsnb.events.columns import Columns, EventColumns
from higgsnb.events.generator import SAME_WEIGHTS, read_generator
from higgsnb.events.read import (
    fingerprint,
    identify,
    info_from_campaign,
    inspect,
    read_events,
    read_leptons,
    read_preselected,
    read_sections,
)
from higgsnb.events.schema import FileInfo, Generator, Read

__all__ = [
    "inspect",
    "identify",
    "info_from_campaign",
    "fingerprint",
    "Columns",
    "EventColumns",
    "read_events",
    "SAME_WEIGHTS",
    "Generator",
    "read_generator",
    "read_preselected",
    "read_leptons",
    "read_sections",
    "FileInfo",
    "Read",
]


def __dir__() -> list[str]:
    return __all__
