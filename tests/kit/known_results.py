"""What a result of known events has to say: candidates, yields and spectra, added up in plain Python.

An `Expected` event is a known one with its weight, normalised: luminosity × cross section × weight / Σ weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import atlas_files
import pytest
from known_events import KnownEvent
from mirrors import Mirror

from higgsnb.datasets import Campaign, Dataset
from higgsnb.results import Result
from higgsnb.selection import CHANNELS


class Expected(NamedTuple):
    """A selected event of simulation: its process, channel, mass in GeV, and the events that are expected of it."""

    process: str
    channel: str
    mass: float
    weight: float


def of_atlas(
    mirror: Mirror, campaign: Campaign, requirements: frozenset[str], *, sign: Callable[[float], float] = float
) -> list[Expected]:
    """The simulation of a mirror of ATLAS; ``sign`` is what is done to the weight of the generator."""
    found = []
    for dataset in _simulated(campaign):
        events = mirror.simulated[dataset.name]
        generated = 4 * math.fsum(event.weight for event in events)  # as `mirrors.atlas` has it
        in_file = isinstance(dataset.sum_of_weights, str)
        cross_section = 0.8 * 1.25 * 0.5 if in_file else dataset.cross_section_pb or 0.0
        scale = campaign.luminosity_fb * 1000 * cross_section / generated
        for event in events:
            if event.passes(requirements):
                factors = atlas_files.weight(event) / event.weight
                weight = scale * sign(event.weight) * factors
                found.append(Expected(dataset.process, event.channel, event.dressed_mass_4l, weight))
    return found


def of_cms(
    mirror: Mirror, campaign: Campaign, requirements: frozenset[str], *, skimmed: float = 1.0,
    sign: Callable[[float], float] = float,
) -> list[Expected]:  # fmt: skip
    """The simulation of a mirror of `cms2016`, normalised to the luminosity of its table."""
    found = []
    for dataset in _simulated(campaign):
        events = mirror.simulated[dataset.name]
        generated = skimmed * math.fsum(event.weight for event in events)
        scale = mirror.luminosity_fb * 1000 * (dataset.cross_section_pb or 0.0) / generated
        found += [
            Expected(dataset.process, event.channel, event.dressed_mass_4l, scale * sign(event.weight))
            for event in events
            if event.passes(requirements)
        ]
    return found


def _simulated(campaign: Campaign) -> list[Dataset]:
    return [dataset for dataset in campaign.datasets if not dataset.is_data]


def check_candidates(result: Result, expected: dict[Any, KnownEvent]) -> None:
    """Compare the candidates of data with the known ones: which events, their channels and masses."""
    rows = result.candidates
    is_data = [result.campaign.datasets[index].is_data for index in rows.dataset]
    rows = rows.rows([index for index, wanted in enumerate(is_data) if wanted])
    ids = list(zip(rows.run.tolist(), rows.luminosity_block.tolist(), rows.event.tolist(), strict=True))
    assert len(ids) == len(set(ids)), "an event is counted twice"
    assert set(ids) == set(expected)
    found = [expected[one] for one in ids]
    assert [CHANNELS[channel] for channel in rows.channel] == [event.channel for event in found]
    assert rows.mass_4l == pytest.approx([event.dressed_mass_4l for event in found], abs=1e-4)


def check_yields(result: Result, expected: Sequence[Expected]) -> None:
    """Compare expected events and their statistical errors, by process and channel."""
    assert set(result.yields) == {"data", *(event.process for event in expected)}
    for process, channels in result.yields.items():
        for channel, found in channels.items() if process != "data" else ():
            weights = [event.weight for event in expected if (event.process, event.channel) == (process, channel)]
            assert found.events == len(weights)
            assert found.expected == pytest.approx(math.fsum(weights), rel=1e-5, abs=1e-6 * _size(weights))
            assert found.stat_error == pytest.approx(_size(weights), rel=1e-5)


def check_spectrum(result: Result, data: Iterable[float], expected: Sequence[Expected]) -> None:
    """Compare the spectrum of the four-lepton mass, bin by bin."""
    spectrum = result.region_spectrum("mass_4l")
    edges = spectrum.edges.tolist()
    assert spectrum.data is not None
    assert spectrum.data.tolist() == [len(one) for one in _in_bins(edges, [(mass, 1.0) for mass in data])]
    for process, found in spectrum.stack.items():
        bins = _in_bins(edges, [(event.mass, event.weight) for event in expected if event.process == process])
        assert found == pytest.approx([math.fsum(one) for one in bins], rel=1e-5, abs=1e-6 * max(map(_size, bins)))
        assert spectrum.variances[process] == pytest.approx([_size(one) ** 2 for one in bins], rel=1e-5)


def _in_bins(edges: Sequence[float], values: Iterable[tuple[float, float]]) -> list[list[float]]:
    """The weights of the values in each bin; a value near an edge could be on either side of it."""
    bins: list[list[float]] = [[] for _ in edges[1:]]
    for value, weight in values:
        assert min(abs(value - edge) for edge in edges) > 1e-4
        for index, some in enumerate(bins):
            if edges[index] <= value < edges[index + 1]:
                some.append(weight)
    return bins


def _size(weights: Iterable[float]) -> float:
    return math.sqrt(math.fsum(weight**2 for weight in weights))
