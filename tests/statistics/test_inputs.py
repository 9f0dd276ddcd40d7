"""Results that cannot be tested, or only in part."""

from __future__ import annotations

import dataclasses

import pytest
from binned_models import N_SIMULATED, result_of, two_primary_datasets
from outreach import campaign

from higgsnb import selection, statistics
from higgsnb.datasets import Campaign
from higgsnb.events.schema import FileInfo
from higgsnb.results import Result


def test_partial_result_is_tested_and_called_partial(excess: Result) -> None:
    part = dataclasses.replace(excess, files={**excess.files, (0, 0): FileInfo(4 * N_SIMULATED, "TTree", 1, None)})
    found = statistics.counting_test(part)
    assert found.background == pytest.approx(statistics.counting_test(excess).background / 4)
    assert "PARTIAL result: 3,000 of 6,000 events" in repr(found)
    assert "PARTIAL" in repr(statistics.fit_signal_strength(part))
    assert "PARTIAL" in repr(statistics.scan_windows(part, n_toys=10))
    assert "PARTIAL" not in repr(statistics.counting_test(excess))


@pytest.mark.parametrize("test", [statistics.counting_test, statistics.fit_signal_strength, statistics.scan_windows])
def test_result_that_cannot_be_tested_is_refused_with_the_reason(test, mixed: Campaign) -> None:
    data, higgs, zz = mixed.datasets
    with pytest.raises(ValueError, match="campaign 'test' has no data to test"):
        test(result_of(campaign(higgs, zz), {}))
    with pytest.raises(ValueError, match="campaign 'test' has no simulated background"):
        test(result_of(campaign(data, higgs), {}))
    with pytest.raises(KeyError, match="no simulated process 'higgs' in campaign 'test'; it has zz"):
        test(result_of(campaign(data, zz), {}))
    with pytest.raises(ValueError, match="the prediction lacks zz, of which nothing has been read"):
        test(result_of(mixed, {}, missing=("zz",)))
    with pytest.raises(ValueError, match="nothing has been read yet"):
        test(Result(mixed, selection.load("open2012")))
    with pytest.raises(ValueError, match=r"no (background|event|higgs)"):
        test(result_of(mixed, {"data": [125.0]}))


def test_channel_without_luminosity_is_left_out_and_its_primary_dataset_named(tmp_path) -> None:
    part = two_primary_datasets(tmp_path, missing=("mu",), failed=True)
    assert part.luminosity.shares == {"4mu": 0.0, "4e": 1.0, "2e2mu": 1.0}
    fit, window = statistics.fit_signal_strength(part), statistics.counting_test(part)
    assert {channel for channel, _, _ in fit.model.bins} == {"4e"}
    assert fit.model.observed.sum() == 3  # the muons in events of the other primary dataset have no prediction
    assert (window.observed, window.signal) == (3, pytest.approx(3.0))
    scan = statistics.scan_windows(part, n_toys=10)
    assert scan.observed.max() == 3
    for found in (fit, window, scan):
        assert "without 4mu: no luminosity of DoubleMu processed" in repr(found)
    assert "without" not in repr(statistics.fit_signal_strength(two_primary_datasets(tmp_path, missing=())))


def test_simulation_without_any_data_is_refused_with_the_cause(tmp_path) -> None:
    none = two_primary_datasets(tmp_path, missing=("mu", "e"), failed=True)
    for test in (statistics.counting_test, statistics.fit_signal_strength, statistics.scan_windows):
        with pytest.raises(ValueError, match=r"no data have been read yet, only simulation; 1 files failed"):
            test(none)
