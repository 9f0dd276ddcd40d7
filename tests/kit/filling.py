"""Fill the histograms of a four-lepton selection with made-up candidates."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from higgsnb.results.layout import FOUR_LEPTONS

BINNING = FOUR_LEPTONS.binning


class Variables(NamedTuple):
    """What is filled for n candidates: ``channel`` and masses (n,), leptons (n, 4); GeV."""

    channel: Any
    mass_4l: Any
    mass_z1: Any
    mass_z2: Any
    lepton_pt: Any
    lepton_eta: Any


def fill(variables: Variables) -> np.ndarray:
    """Return the counts, (3, size) int64."""
    values = variables._asdict()
    return BINNING.fill(values.pop("channel"), BINNING.places(values, len(variables.channel)))
