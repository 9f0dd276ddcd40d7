"""The toy campaign, its result, and the leptons of one of its datasets."""

from __future__ import annotations

import pytest

from higgsnb import datasets, engine, plots, selection
from higgsnb.plots import Events
from higgsnb.results import Result

OPEN = selection.load("open2012")


@pytest.fixture(scope="session")
def toy() -> datasets.Campaign:
    return datasets.load("toy")


@pytest.fixture(scope="session")
def result(toy: datasets.Campaign) -> Result:
    *_, last = engine.run(toy, OPEN)
    return last


@pytest.fixture(scope="session")
def muons(toy: datasets.Campaign) -> Events:
    return plots.events(toy, "Run2012_DoubleMu")
