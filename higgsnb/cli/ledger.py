"""``higgsnb ledger``: inspect the checkpoint of a run, or carry it elsewhere."""

from __future__ import annotations

from pathlib import Path

import click

from higgsnb.cli.arguments import examples, json_option
from higgsnb.cli.group import InOrder
from higgsnb.cli.terminal import show, show_json
from higgsnb.errors import MissingFileError

LEDGER = "ledger.sqlite"


@click.group(
    cls=InOrder,
    short_help="Inspect or copy the checkpoint of a run.",
    epilog=examples(
        "higgsnb ledger show results/cms2012",
        "higgsnb ledger export results/cms2012 ledger.sqlite",
        "higgsnb ledger import results/cms2012 ledger.sqlite",
    ),
)
def ledger() -> None:
    """Inspect the ledger of a result directory, or copy it elsewhere (from a Binder session, for example)."""


folder_argument = click.argument("folder", metavar="DIR", type=click.Path(exists=True, file_okay=False, path_type=Path))


@ledger.command(
    "show",
    short_help="Count the finished chunks.",
    epilog=examples("higgsnb ledger show results/cms2012", "higgsnb ledger show results/cms2012 --json"),
)
@folder_argument
@json_option("the numbers")
def ledger_show(folder: Path, as_json: bool) -> None:
    """Show how many chunks are finished, and how many were started more than once."""
    from higgsnb.engine import Ledger

    with Ledger(_ledger_of(folder)) as opened:
        finished, again = len(opened), opened.begun_again()
    if as_json:
        show_json({"ledger": str(folder / LEDGER), "chunks_finished": finished, "chunks_started_again": again})
    else:
        show(f"{finished:,} chunks finished, {again:,} started more than once")


@ledger.command(
    "export",
    short_help="Copy the checkpoint to a file.",
    epilog=examples("higgsnb ledger export results/cms2012 ledger.sqlite"),
)
@folder_argument
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
def ledger_export(folder: Path, file: Path) -> None:
    """Write the ledger of DIR to FILE, to be downloaded and imported elsewhere."""
    from higgsnb import engine

    show(f"{file}: {engine.export_ledger(_ledger_of(folder), file):,} chunks")


@ledger.command(
    "import",
    short_help="Resume elsewhere from such a file.",
    epilog=examples("higgsnb ledger import results/cms2012 ledger.sqlite", "higgsnb run cms2012"),
)
@click.argument("folder", metavar="DIR", type=click.Path(file_okay=False, path_type=Path))
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
def ledger_import(folder: Path, file: Path) -> None:
    """Add the finished chunks in FILE to the ledger of DIR, so that `higgsnb run --out DIR` resumes from them."""
    from higgsnb.engine import Ledger

    with Ledger(folder / LEDGER) as opened:
        show(f"{folder / LEDGER}: {opened.absorb(file):,} chunks added")


def _ledger_of(folder: Path) -> Path:
    """Return the ledger of a result directory."""
    if not (folder / LEDGER).is_file():
        raise MissingFileError(f"{folder} has no {LEDGER}", "Give the directory that `higgsnb run --out DIR` wrote.")
    return folder / LEDGER
