"""Arguments and options that several commands take."""

from __future__ import annotations

import click

campaign_argument = click.argument("name", metavar="[CAMPAIGN]", default="toy")
selection_option = click.option(
    "--selection", "-s", "selection_name", metavar="NAME|FILE.toml", help="Selection (default: the campaign's)."
)
chunk_option = click.option(
    "--chunk-events",
    type=click.IntRange(min=1),
    help="Maximum number of events in a chunk; affects memory and speed, never the result.",
)
fraction_option = click.option(
    "--fraction", type=click.FloatRange(0, 1, min_open=True), default=1.0, show_default=True,
    help="Read only this fraction of each file, from its beginning.",
)  # fmt: skip
