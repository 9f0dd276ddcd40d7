"""What the tests take from a result: its backgrounds, the channels with luminosity, and what is missing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from higgsnb.errors import OptionError
from higgsnb.results import CHANNEL_PRIMARY_DATASETS, PRIMARY_DATASET_ORDER

if TYPE_CHECKING:
    from higgsnb.results import Result
    from higgsnb.selection import Axis

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
    """Return the indices of the channels or regions with processed luminosity; the others have no prediction."""
    return [region for region, name in enumerate(result.regions) if result.luminosity.shares[name] > 0.0]


def regions_of(result: Result, region: str | Sequence[str] = ()) -> list[int]:
    """Return the indices of the channels or regions that are tested together, without those that have no luminosity.

    Default: all channels of a four-lepton selection, the only region of another analysis. Raise KeyError if there is no
    such region, OptionError if one has to be chosen, or if an event is in two of them.
    """
    names = (region,) if isinstance(region, str) and region else tuple(region)
    for name in names:
        if name not in result.regions:
            raise KeyError(f"no region {name!r}; known: {', '.join(result.regions)}")
    if not names and result.layout.binning.category != "channel" and len(result.regions) > 1:
        what = f"analysis {result.selection.name!r} has the regions {', '.join(result.regions)}"
        hint = f'Say which to test: region="{result.regions[0]}", or several in which no event is twice.'
        raise OptionError(what, hint)
    chosen = [index for index, name in enumerate(result.regions) if name in (names or result.regions)]
    tested = {result.regions[index] for index in chosen}
    for pair, n in result.overlaps.items():
        if tested >= set(pair):
            what = f"{n:,} event{'s are' if n > 1 else ' is'} both in {pair[0]!r} and in {pair[1]!r}"
            hint = (
                "The test takes regions as independent: name one of them, or take the events of one out of the other."
            )
            raise OptionError(what, hint)
    read = channels_with_luminosity(result)
    if not set(chosen) & set(read):
        raise OptionError(f"no data of {', '.join(sorted(tested))} have been read yet", "Wait, or name another region.")
    return [index for index in chosen if index in read]


def axis_of(result: Result, variable: str = "") -> Axis:
    """Return the axis of a histogram, by default the first; raise OptionError if an event is in it several times."""
    binning = result.layout.binning
    axis = binning.axis(variable or binning.axes[0].name)
    if axis.per_event > 1:
        what = f"histogram {axis.name!r} has up to {axis.per_event} entries of an event"
        raise OptionError(what, "Tests count events: choose a histogram with one entry of each.")
    return axis


def what_is_missing(result: Result, regions: Sequence[int] = ()) -> str:
    """Return what is missing from a result: events, real data, channels without luminosity; empty if nothing is.

    ``regions`` are those that are asked for, by index (default: all).
    """
    notes = []
    if not result.complete:
        done, total = result.coverage.events
        failed = f", {len(result.failed)} files failed" if result.failed else ""
        notes.append(f"PARTIAL result: {done:,} of {total:,} events{failed}")
    if result.simulated:
        notes.append("simulated collisions")
    unread = sorted(set(regions or range(len(result.regions))) - set(channels_with_luminosity(result)))
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
