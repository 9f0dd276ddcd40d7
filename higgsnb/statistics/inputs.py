"""What the tests take from a result: its backgrounds, the channels with luminosity, and what is missing."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from higgsnb.errors import OptionError
from higgsnb.results import CHANNEL_PRIMARY_DATASETS, PRIMARY_DATASET_ORDER

if TYPE_CHECKING:
    from higgsnb.results import Result

SIGNAL = "higgs"


def check_not_negative(**numbers: float) -> None:
    """Raise OptionError if a number is negative or not finite."""
    for name, number in numbers.items():
        if not (math.isfinite(number) and number >= 0.0):
            problem = f"{name} = {number}; expected a finite number that is not negative"
            raise OptionError(problem, "Check the numbers passed in.")


def backgrounds_of(result: Result, signal: str) -> list[str]:
    """Return the simulated processes other than the signal, in the order of the campaign."""
    processes = dict.fromkeys(dataset.process for dataset in result.campaign.datasets if not dataset.is_data)
    return [process for process in processes if process != signal]


def check_testable(result: Result, signal: str) -> None:
    """Raise OptionError or KeyError if a result cannot be tested."""
    backgrounds, datasets = backgrounds_of(result, signal), result.campaign.datasets
    campaign = f"campaign {result.campaign.name!r}"
    if not any(dataset.is_data for dataset in datasets):
        raise OptionError(f"{campaign} has no data to test", "Use a campaign with data, or `asimov_significance`.")
    if not backgrounds:
        raise OptionError(f"{campaign} has no simulated background to compare with", "Add a dataset for it.")
    if not any(dataset.process == signal and not dataset.is_data for dataset in datasets):
        known = ", ".join(backgrounds)
        raise KeyError(f"no simulated process {signal!r} in {campaign}; it has {known}: pass signal=...")
    if not result.coverage.events[0]:
        raise OptionError("nothing has been read yet", "Wait until the run has read some events.")
    if result.missing_simulation:
        raise OptionError(
            f"the prediction lacks {', '.join(result.missing_simulation)}, of which nothing has been read",
            "Wait until the run has read some of them, or leave these datasets out of the campaign.",
        )
    if not channels_with_luminosity(result):
        failed = f"; {len(result.failed)} files failed, see result.failed" if result.failed else ""
        problem = f"no data have been read yet, only simulation{failed}"
        raise OptionError(problem, "Wait until the run has read some data.")


def channels_with_luminosity(result: Result) -> list[int]:
    """Return the indices of the channels with processed luminosity; the others have no prediction."""
    return [region for region, name in enumerate(result.regions) if result.luminosity.shares[name] > 0.0]


def what_is_missing(result: Result) -> str:
    """Return what is missing from a result: events, real data, channels without luminosity; empty if nothing is."""
    notes = []
    if not result.complete:
        done, total = result.coverage.events
        failed = f", {len(result.failed)} files failed" if result.failed else ""
        notes.append(f"PARTIAL result: {done:,} of {total:,} events{failed}")
    if result.simulated:
        notes.append("simulated collisions")
    unread = sorted(set(range(len(result.regions))) - set(channels_with_luminosity(result)))
    if unread:
        missing = [
            name
            for name in PRIMARY_DATASET_ORDER
            if any(
                name in CHANNEL_PRIMARY_DATASETS.get(one, ()) and one in result.selection.channels(name)
                for one in unread
            )
        ]
        names = ", ".join(result.regions[region] for region in unread)
        of = f" of {' or '.join(missing)}" if missing else ""
        notes.append(f"without {names}: no luminosity{of} processed")
    return "; ".join(notes)
