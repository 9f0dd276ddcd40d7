"""Data and prediction per bin, against sums made one number at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from filling import BINNING

import higgsnb as hn
from higgsnb.errors import OptionError
from higgsnb.results import Result, Spectrum
from higgsnb.results.spectrum import normalise, stack_order
from higgsnb.selection import CHANNELS


@pytest.fixture(scope="module")
def whole() -> Result:
    *_, result = hn.engine.run(hn.datasets.load("toy"), hn.selection.load("open2012"))
    return result


def slow_sums(result: Result, name: str, channel: str) -> dict[str, np.ndarray]:
    """The expected events of each process in each bin, from the `hist` objects, one number at a time."""
    sums: dict[str, np.ndarray] = {}
    for dataset in result.campaign.datasets:
        bins: Any = result.histograms[name][dataset.name, channel, :].values()
        weight = result.weights[dataset.name][channel]
        before = sums.get(dataset.process, np.zeros(len(bins)))
        sums[dataset.process] = np.array([a + n * weight for a, n in zip(before, bins, strict=True)])
    return sums


@pytest.mark.parametrize("name", [axis.name for axis in BINNING.axes])
def test_spectrum_is_counts_times_weights_by_channel(whole: Result, name: str) -> None:
    spectrum = whole.spectrum(name)
    for index, channel in enumerate(CHANNELS):
        expected = slow_sums(whole, name, channel)
        assert spectrum.data is not None
        assert spectrum.data[index].tolist() == expected.pop("data").tolist()
        assert set(spectrum.stack) == set(expected)
        for process, heights in expected.items():
            np.testing.assert_allclose(spectrum.stack[process][index], heights, rtol=1e-12)


def test_variance_is_the_sum_of_squared_weights() -> None:
    campaign = hn.datasets.load("toy")
    higgs = next(dataset for dataset in campaign.datasets if dataset.process == "higgs")
    counts, weights = np.array([[4, 0], [1, 2], [0, 0]]), np.array([0.5, 2.0, 1.0])
    spectrum = normalise([0, 1, 2], [(higgs, counts, weights, (counts, counts))] * 2)
    assert spectrum.data is None
    assert spectrum.simulated["higgs"].tolist() == [[8, 0], [2, 4], [0, 0]]
    assert spectrum.combined().total.tolist() == [8.0, 8.0]
    assert spectrum.combined().variance.tolist() == [2 * (4 * 0.25 + 1 * 4.0), 2 * (2 * 4.0)]


def test_windows_of_the_spectrum_are_those_counted_exactly(whole: Result) -> None:
    inside = whole.spectrum().between(100.0, 118.0)
    assert (inside.edges[0], inside.edges[-1]) == (100.0, 118.0)
    for process, per_channel in inside.yields(CHANNELS).items():
        for channel, one in per_channel.items():
            assert one == pytest.approx(whole.windows["100-118"][process][channel])


def test_whole_axis_is_the_default_range(whole: Result) -> None:
    spectrum = whole.spectrum("mass_z1")
    assert spectrum.bins_between() == slice(0, 40)
    assert spectrum.between().edges.tolist() == spectrum.edges.tolist()


def test_range_that_is_not_made_of_bins_is_refused_with_the_nearest_edge(whole: Result) -> None:
    with pytest.raises(OptionError, match=r"high = 120 is not a bin edge\nThe nearest one is 121"):
        whole.spectrum().between(100.0, 120.0)
    with pytest.raises(OptionError, match=r"low = 130.0 is not below high = 100.0"):
        whole.spectrum().between(130.0, 100.0)


def test_unknown_histogram_names_the_known_ones(whole: Result) -> None:
    with pytest.raises(KeyError, match="no histogram 'mass'; known: mass_4l"):
        whole.spectrum("mass")


def test_without_any_dataset_nothing_is_expected_and_nothing_found() -> None:
    nothing: Spectrum = normalise([0.0, 1.0, 3.0], [])
    assert nothing.data is None
    assert nothing.total.tolist() == nothing.variance.tolist() == [0.0, 0.0]
    assert nothing.yields(CHANNELS) == {}


def test_stack_has_the_higgs_boson_on_top_and_unknown_processes_at_the_bottom() -> None:
    assert stack_order(["higgs", "tth", "zz", "data_driven", "zx"]) == ["data_driven", "tth", "zx", "zz", "higgs"]
