"""What a run will take: bytes, core-hours, time and costs, from the numbers in the campaign; nothing is read.

The time is the longer of computing and transfer, which overlap. A remote file is transferred once, whole if it is small
enough to be kept in the cache, else only the branches that are read; see `files`.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from higgsnb import datasets

if TYPE_CHECKING:
    from higgsnb.datasets import Campaign

EVENTS_PER_CORE_SECOND = {"outreach": 2_000_000.0, "nanoaod": 500_000.0, "csv": 100_000.0, "atlas": 500_000.0}
"""Events per second and core: ``outreach`` as measured with local ZLIB files, the others are careful guesses."""
READ_SHARE = {"outreach": 0.9, "nanoaod": 0.03, "csv": 1.0, "atlas": 0.5}
"""Part of a file's bytes that lies in the branches that are read."""
BANDWIDTH_MBIT = 100.0
"""Bandwidth of all transfers together in Mbit/s, unless stated."""


@dataclass(frozen=True)
class Estimate:
    """What a run will take; None where the campaign does not say how many events or bytes there are.

    ``core_seconds`` are those that one core would take, ``read_bytes`` what is read from the files, wherever they are,
    ``transfer_bytes`` what comes from remote servers if nothing is in the cache. ``cores`` and ``bandwidth_mbit``
    (Mbit/s for all transfers together) are assumed.
    """

    schema: str
    events: int | None
    core_seconds: float | None
    read_bytes: float | None
    transfer_bytes: float | None
    cores: int
    bandwidth_mbit: float

    @property
    def compute_seconds(self) -> float | None:
        """Seconds of computing on all cores."""
        return None if self.core_seconds is None else self.core_seconds / self.cores

    @property
    def transfer_seconds(self) -> float | None:
        """Seconds of transfer at the assumed bandwidth."""
        return None if self.transfer_bytes is None else self.transfer_bytes * 8e-6 / self.bandwidth_mbit

    @property
    def seconds(self) -> float | None:
        """The longer of computing and transfer; None unless both are known."""
        compute, transferring = self.compute_seconds, self.transfer_seconds
        return None if compute is None or transferring is None else max(compute, transferring)

    def as_dict(self, *, price_gb: float | None = None) -> dict[str, float | None]:
        """Return the numbers: times in seconds, sizes in bytes, the cost of the transfer in the currency of the price.

        None where the campaign does not say enough, and as cost without a price.
        """
        priced = price_gb is not None and self.transfer_bytes is not None
        return {
            "events": self.events,
            "cores": self.cores,
            "bandwidth_mbit": self.bandwidth_mbit,
            "read_bytes": self.read_bytes,
            "transfer_bytes": self.transfer_bytes,
            "core_seconds": self.core_seconds,
            "compute_seconds": self.compute_seconds,
            "transfer_seconds": self.transfer_seconds,
            "seconds": self.seconds,
            "egress_cost": (self.transfer_bytes or 0.0) / 1e9 * (price_gb or 0.0) if priced else None,
        }

    def lines(self, *, price_core_hour: float | None = None, price_gb: float | None = None) -> list[tuple[str, str]]:
        """Describe the estimate as pairs (what, how much) with its assumptions; prices may be in any currency."""
        found, compute, transferring = [], self.compute_seconds, self.transfer_seconds
        if self.events is None or self.core_seconds is None:
            found.append(("events", "unknown: give `events` of each file in the campaign"))
        else:
            found.append(("events", f"{self.events:,}"))
            speed = EVENTS_PER_CORE_SECOND[self.schema]
            work = core_hours(self.core_seconds, price_core_hour)
            found.append(("work", f"{work} at {speed:,.0f} events per second and core"))
        if self.read_bytes is None or self.transfer_bytes is None:
            found.append(("to read", "unknown: give `bytes` of each file in the campaign"))
            return found
        share = READ_SHARE[self.schema]
        found.append(("to read", f"{volume(self.read_bytes)}, {share:.0%} of the bytes in the files"))
        if self.transfer_bytes:
            how = "small files are downloaded whole, larger ones only in part"
            found.append(("transfer", f"{volume(self.transfer_bytes)}: {how}"))
        if compute is not None and transferring is not None:
            parts = [(compute, f"computing on {self.cores} core{'s' if self.cores > 1 else ''}")]
            if transferring:
                parts.append((transferring, f"transfer at {self.bandwidth_mbit:g} Mbit/s in all"))
            (seconds, longest), *rest = sorted(parts, reverse=True)
            others = "".join(f" ({what}: {span(less)})" for less, what in rest)
            found.append(("time", f"about {span(max(1.0, seconds))}: {longest}{others}"))
        if price_gb is not None:
            cost = money(self.transfer_bytes / 1e9 * price_gb)
            found.append(("egress", f"at most {cost} at {price_gb:g} per GB; files in the cache or a mirror are free"))
        return found


def estimate_run(
    campaign: Campaign, *, cores: int, fraction: float = 1.0, bandwidth_mbit: float = BANDWIDTH_MBIT
) -> Estimate:
    """Estimate what a run will take, with so many cores of all workers and so many Mbit/s of all transfers together.

    ``fraction`` is the first part of each file, as in `engine.run`; a file that is fetched whole is transferred whole
    all the same. The files of the campaign ``toy`` are known before they are made; where those of another cannot be
    listed, as its indexes are not at hand, they are taken to be read piecewise.
    """
    with suppress(OSError):
        campaign = datasets.expand(campaign)
    campaign = datasets.with_toy_sizes(campaign)
    events, read, transferred = campaign.events, None, None
    if campaign.bytes is not None:
        share = fraction * READ_SHARE[campaign.schema]
        read = share * campaign.bytes
        transferred = sum(datasets.transferred_bytes(file.url, file.bytes or 0, share) for file in campaign.files)
        transferred += sum(share * (dataset.bytes or 0) for dataset in campaign.datasets if not dataset.is_expanded)
    chosen = None if events is None else round(fraction * events)
    seconds = None if chosen is None else chosen / EVENTS_PER_CORE_SECOND[campaign.schema]
    return Estimate(campaign.schema, chosen, seconds, read, transferred, cores, bandwidth_mbit)


def estimate_cluster(
    campaign: Campaign | None,
    *,
    kind: str,
    workers: int,
    cores: int,
    idle_timeout: float,
    price_core_hour: float | None = None,
    price_gb: float | None = None,
) -> list[tuple[str, str]]:
    """Describe what a cluster takes as pairs (what, how much), and what a campaign takes on it.

    ``kind``, ``workers``, ``cores`` and ``idle_timeout`` are as in `cluster.launch`; the prices of a core-hour and of a
    GB of egress are in any currency.
    """
    total = workers * cores
    lines = [("cores", f"{workers} × {cores} = {total}")]
    if price_core_hour is not None:
        lines.append(("cost while it runs", f"{money(total * price_core_hour)} per hour"))
    lost = (
        f"{core_hours(total * idle_timeout, price_core_hour)}, because it ends after {span(idle_timeout)} without work"
    )
    lines.append(("if left running", "it ends with this session" if kind == "local" else lost))
    if campaign is None:
        return lines
    return [*lines, *estimate_run(campaign, cores=total).lines(price_core_hour=price_core_hour, price_gb=price_gb)]


def core_hours(core_seconds: float, price: float | None) -> str:
    """Return so many seconds of one core in core-hours, with its cost if there is a price per core-hour."""
    number = f"{core_seconds / 3600:.2g}"
    hours = f"{number} core-hour{'' if number == '1' else 's'}"
    return hours if price is None else f"{hours} ({money(core_seconds / 3600 * price)})"


def volume(n_bytes: float) -> str:
    """Return a number of bytes in kB, MB or GB, to three digits."""
    unit, name = next(((unit, name) for unit, name in ((1e9, "GB"), (1e6, "MB")) if n_bytes >= unit), (1e3, "kB"))
    return f"{n_bytes / unit:.3g} {name}"


def money(amount: float) -> str:
    """Return an amount with two decimals, never 0.00 for what costs something."""
    return "below 0.01" if 0 < amount < 0.01 else f"{amount:.2f}"


def span(seconds: float) -> str:
    """Return a time in seconds, minutes or hours."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
