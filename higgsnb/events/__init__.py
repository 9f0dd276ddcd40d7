"""From bytes to events: open event files, check them against their schema, and read columns or leptons of chunks."""

from __future__ import annotations

from higgsnb.events.columns import Columns, EventColumns, keep
from higgsnb.events.event_records import INDEX, FlatEvents, first_events, records, to_numpy, to_padded
from higgsnb.events.generator import read_generator
from higgsnb.events.read import (
    fingerprint,
    first_chunk,
    identify,
    info_from_campaign,
    inspect,
    read_events,
    read_leptons,
    read_preselected,
    read_sections,
)
from higgsnb.events.schema import BRANCHES, FileInfo, Generator, Read

__all__ = [
    "inspect",
    "identify",
    "info_from_campaign",
    "fingerprint",
    "Columns",
    "EventColumns",
    "read_events",
    "first_events",
    "first_chunk",
    "Generator",
    "read_generator",
    "read_preselected",
    "read_leptons",
    "read_sections",
    "keep",
    "records",
    "INDEX",
    "FlatEvents",
    "to_numpy",
    "to_padded",
    "BRANCHES",
    "FileInfo",
    "Read",
]


def __dir__() -> list[str]:
    return __all__
