"""Live views for notebooks: a histogram that fills, a cluster panel, a cut explorer."""

from __future__ import annotations

from higgsnb.widgets.control import ClusterControl
from higgsnb.widgets.explorer import CutExplorer, EventDisplay
from higgsnb.widgets.live import LiveHistogram

__all__ = ["LiveHistogram", "ClusterControl", "CutExplorer", "EventDisplay"]


def __dir__() -> list[str]:
    return __all__
