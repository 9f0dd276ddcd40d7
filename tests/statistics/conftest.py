"""Results that the tests of several rooms start from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from binned_models import result_of
from outreach import campaign, dataset

from higgsnb.datasets import Campaign
from higgsnb.results import Result


@pytest.fixture
def mixed() -> Campaign:
    """Data, signal and background without any file: the tests make up what was counted. Same names, same toys."""
    return campaign(
        dataset("data", "data", Path("data.root")),
        dataset("higgs", "higgs", Path("higgs.root"), cross_section_pb=0.001),
        dataset("zz", "zz", Path("zz.root"), cross_section_pb=0.004),
    )


@pytest.fixture
def excess(mixed: Campaign) -> Result:
    """9 events between 118 and 130 GeV over 4.0 expected, of them 0.01 × 300 signal; flat background elsewhere."""
    flat = list(np.linspace(70.5, 180.5, 1110))
    return result_of(mixed, {"data": [119.0] * 4 + [125.0] * 5 + [150.0] * 7, "higgs": [124.5] * 300, "zz": flat})
