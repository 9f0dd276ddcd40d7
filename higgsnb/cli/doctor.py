"""``higgsnb doctor``: what this machine or session can do."""

from __future__ import annotations

import click

from higgsnb.cli.group import COMPLETE


@click.command()
@click.pass_context
def doctor(ctx: click.Context) -> None:
    """Check what this machine or session can do; every problem comes with a hint."""
    from higgsnb import cluster

    problems = 0
    for check in cluster.doctor():
        click.echo(f"{'ok ' if check.good else '!! '} {check.name:<14} {check.found}")
        if not check.good:
            problems += 1
            click.echo(f"    {'':<14} {check.hint}")
    found = f"{problems} problem{'s' if problems > 1 else ''}, each with a hint above" if problems else ""
    click.echo(found or "no problem found")
    ctx.exit(COMPLETE)
