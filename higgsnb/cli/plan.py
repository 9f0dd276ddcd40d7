"""``higgsnb plan``: what a run would read and how long it would take."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from higgsnb.cli.arguments import campaign_argument, chunk_option, examples, fraction_option, json_option
from higgsnb.cli.terminal import paragraph, show, show_json, table

if TYPE_CHECKING:
    from higgsnb.datasets import Campaign

COUNTS = ("files", "chunks", "events", "bytes")


@click.command(
    short_help="Estimate data volume, time and cost.",
    epilog=examples("higgsnb plan cms2012", "higgsnb plan cms2012 --workers 40 --price 0.1", "higgsnb plan --json"),
)
@campaign_argument
@fraction_option
@chunk_option
@click.option(
    "--workers", "-j", type=click.IntRange(min=1), help="Number of cores to assume (default: this machine's)."
)
@click.option(
    "--price", type=click.FloatRange(0), metavar="PER_GB", help="Price of a GB transferred, for the egress cost."
)
@click.option(
    "--bandwidth", type=click.FloatRange(0, min_open=True), metavar="MBIT/S",
    help="Bandwidth of all transfers together (default: 100).",
)  # fmt: skip
@json_option("the table and the estimate")
def plan(
    name: str, fraction: float, chunk_events: int | None, workers: int | None, price: float | None,
    bandwidth: float | None, as_json: bool,
) -> None:  # fmt: skip
    """Estimate what a run of CAMPAIGN would read and how long it would take, without reading anything."""
    from higgsnb import datasets, engine, provenance

    campaign = datasets.with_toy_sizes(datasets.expand(datasets.load(name)))
    found = engine.estimate_run(
        campaign,
        cores=workers or provenance.available_cores(),
        fraction=fraction,
        bandwidth_mbit=bandwidth or engine.BANDWIDTH_MBIT,
    )
    rows = _rows(campaign, chunk_events or engine.CHUNK_EVENTS, fraction)
    if as_json:
        *listed, total = rows
        counts = {key: total[key] for key in COUNTS}
        estimate = found.as_dict(price_gb=price)
        show_json({"campaign": campaign.name, "datasets": listed, "total": counts, "estimate": estimate})
        return
    show(campaign.title, bold=True)
    header, *lines, last = table([
        ("dataset", "process", *COUNTS),
        *((row["name"], row["process"], *(_number(row[key]) for key in COUNTS)) for row in rows),
    ], texts=2)  # fmt: skip
    show("")
    show(header, dim=True)
    for line in lines:
        show(line)
    show(last, bold=True)
    show("")
    for what, how_much in found.lines(price_gb=price):
        for line in paragraph(f"{what:<10}", how_much):
            show(line)


def _rows(campaign: Campaign, chunk_events: int, fraction: float) -> list[dict[str, Any]]:
    """Return name, process and numbers of each dataset, then of all; None is what the campaign does not state."""
    rows = []
    for dataset in campaign.datasets:
        events = [file.events for file in dataset.files if file.events is not None]
        chunks = sum(max(1, -(-round(fraction * n) // chunk_events)) for n in events)
        rows.append({
            "name": dataset.name,
            "process": dataset.process,
            "files": len(dataset.files),
            "chunks": chunks if len(events) == len(dataset.files) else None,
            "events": dataset.events,
            "bytes": dataset.bytes,
        })  # fmt: skip
    total: dict[str, Any] = {"name": "total", "process": ""}
    for key in COUNTS:
        known = [row[key] for row in rows]
        total[key] = None if None in known else sum(known)
    return [*rows, total]


def _number(number: int | None) -> str:
    """Format a number that the campaign may not state."""
    return "unknown" if number is None else f"{number:,}"
