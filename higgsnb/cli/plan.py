"""``higgsnb plan``: what a run would read and how long it would take."""

from __future__ import annotations

import click

from higgsnb.cli.arguments import campaign_argument, chunk_option, fraction_option


@click.command()
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
def plan(
    name: str, fraction: float, chunk_events: int | None, workers: int | None, price: float | None,
    bandwidth: float | None,
) -> None:  # fmt: skip
    """Estimate what a run of CAMPAIGN would read and how long it would take, without reading anything."""
    from higgsnb import datasets, engine, provenance

    campaign = datasets.load(name)
    size = chunk_events or engine.CHUNK_EVENTS
    click.echo(f"{campaign.title}\n\n{'dataset':<26}{'process':<8}{'files':>7}{'chunks':>8}{'events':>14}{'bytes':>17}")
    total: int | None = 0  # None: the campaign does not state the events of every file
    for dataset in campaign.datasets:
        events = [file.events for file in dataset.files if file.events is not None]
        chunks = None
        if len(events) == len(dataset.files):
            chunks = sum(max(1, -(-round(fraction * n) // size)) for n in events)
        total = None if total is None or chunks is None else total + chunks
        row = f"{dataset.name:<26}{dataset.process:<8}{len(dataset.files):>7}"
        click.echo(f"{row}{_number(chunks):>8}{_number(dataset.events):>14}{_number(dataset.bytes):>17}")
    row = f"{'total':<34}{len(campaign.files):>7}"
    click.echo(f"{row}{_number(total):>8}{_number(campaign.events):>14}{_number(campaign.bytes):>17}\n")
    found = engine.estimate_run(
        campaign,
        cores=workers or provenance.available_cores(),
        fraction=fraction,
        bandwidth_mbit=bandwidth or engine.BANDWIDTH_MBIT,
    )
    for what, how_much in found.lines(price_gb=price):
        click.echo(f"{what:<10}{how_much}")


def _number(number: int | None) -> str:
    """Format a number that the campaign may not state."""
    return "unknown" if number is None else f"{number:,}"
