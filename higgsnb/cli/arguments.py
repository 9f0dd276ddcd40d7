"""Arguments and options that several commands take, with what completes them in a shell."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click
from click.shell_completion import CompletionItem

Command = TypeVar("Command", bound=Callable[..., Any])


def _complete_campaign(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return the shipped campaigns; where none begins so, the shell offers files."""
    from higgsnb import datasets

    found = [name for name in datasets.names() if name.startswith(incomplete)]
    return [_files(incomplete), *(CompletionItem(name, help=datasets.load(name).title) for name in found)]


def _complete_selection(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return the shipped selections; where none begins so, the shell offers files."""
    from higgsnb import selection

    found = [name for name in selection.names() if name.startswith(incomplete)]
    return [_files(incomplete), *(CompletionItem(name, help=selection.load(name).title) for name in found)]


def _files(incomplete: str) -> CompletionItem:
    # First: bash drops what comes before it.
    return CompletionItem(incomplete, type="file")


CAMPAIGN: dict[str, Any] = {"metavar": "[CAMPAIGN]", "default": "toy", "shell_complete": _complete_campaign}
campaign_argument = click.argument("name", **CAMPAIGN)
selection_option = click.option(
    "--selection", "-s", "selection_name", metavar="NAME|FILE.toml", help="Selection (default: the campaign's).",
    shell_complete=_complete_selection,
)  # fmt: skip
chunk_option = click.option(
    "--chunk-events",
    type=click.IntRange(min=1),
    help="Maximum number of events in a chunk; affects memory and speed, never the result.",
)
fraction_option = click.option(
    "--fraction", type=click.FloatRange(0, 1, min_open=True), default=1.0, show_default=True,
    help="Read only this fraction of each file, from its beginning.",
)  # fmt: skip


def json_option(what: str) -> Callable[[Command], Command]:
    """Return the option ``--json`` of a command that prints a table."""
    return click.option("--json", "as_json", is_flag=True, help=f"Print {what} as JSON (see README).")


def examples(*lines: str) -> str:
    """Return the end of a command's help."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)
