"""``higgsnb doctor``: what this machine or session can do."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import click

from higgsnb.cli.arguments import examples, json_option
from higgsnb.cli.group import COMPLETE, INCOMPLETE
from higgsnb.cli.terminal import paragraph, show, show_json


@click.command(
    short_help="Check what this machine can do.",
    epilog=examples("higgsnb doctor", "higgsnb doctor --strict && higgsnb run", "higgsnb doctor --json"),
)
@click.option("--strict", is_flag=True, help="Exit with code 3 if there is a problem, for scripts.")
@json_option("the checks")
@click.pass_context
def doctor(ctx: click.Context, strict: bool, as_json: bool) -> None:
    """Check what this machine or session can do; every problem comes with a hint."""
    checks = []
    for check in _checks():  # printed one by one: some take seconds
        checks.append(check)
        if not as_json:
            _show_check(**check)
    problems = sum(not check["good"] for check in checks)
    if as_json:
        show_json({"problems": problems, "checks": checks})
    else:
        found = f"{problems} problem{'s' if problems > 1 else ''}, each with a hint above" if problems else ""
        show(found or "no problem found", bold=True)
    ctx.exit(INCOMPLETE if strict and problems else COMPLETE)


def _checks() -> Iterator[dict[str, Any]]:
    """Yield the checks of this machine; only one if this package itself cannot be imported."""
    try:
        from higgsnb import cluster
    except ImportError as error:
        found = f"{error.name or 'a library'} cannot be imported: {error}"
        yield {
            "name": "libraries",
            "good": False,
            "found": found,
            "hint": "Install the package again: pip install -e .",
        }
        return
    yield from map(asdict, cluster.doctor())


def _show_check(*, name: str, good: bool, found: str, hint: str) -> None:
    """Print what was found, and what to do if that is a problem."""
    for line in paragraph(f"{'ok ' if good else '!! '} {name:<14} ", found):
        show(line, fg=None if good else "red")
    if not good:
        for line in paragraph(" " * 19, hint):
            show(line)
