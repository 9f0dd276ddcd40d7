"""The group of all commands: it turns errors into lines on stderr and an exit code."""

from __future__ import annotations

import codecs
import io
import logging
import os
import sys
import traceback
from functools import partial
from typing import Any

import click

from higgsnb import __version__
from higgsnb.cli.terminal import show, spelled, wants_colour
from higgsnb.errors import HiggsnbError, describe
from higgsnb.redaction import redact

COMPLETE, UNEXPECTED, BAD_USAGE, INCOMPLETE, INTERRUPTED = 0, 1, 2, 3, 130
LEVELS = ("debug", "info", "warning", "error")


class InOrder(click.Group):
    """A group that lists its commands in the order in which they were added, which is that of use."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's name and signature
        """Return the names of the commands."""
        return list(self.commands)


class Commands(InOrder):
    """A group whose errors become one to three lines on stderr and an exit code; ``--debug`` shows the traceback."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Parse the arguments and run; a terminal that lacks a letter gets others in its place."""
        codecs.register_error("higgsnb", spelled)
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="higgsnb")
        return super().main(*args, **kwargs)

    def make_context(self, *arguments: Any, **extra: Any) -> click.Context:
        """Decide on colour once for all commands, and for --help."""
        return super().make_context(*arguments, **{"color": wants_colour(), **extra})

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            click.echo("\nhiggsnb: interrupted; the same command resumes", err=True)
            sys.stderr.flush()
            os._exit(INTERRUPTED)  # a thread may be waiting for a server that does not answer
        except click.ClickException as error:
            vars(error)["message"] = redact(error.message)  # it repeats what was typed
            raise
        except (click.exceptions.Exit, click.Abort):
            raise
        except Exception as error:  # noqa: BLE001 - shown, and in the exit code
            if ctx.params.get("debug"):  # not raised: Python would show what other packages say as it is
                click.echo(redact(traceback.format_exc()), err=True, nl=False)
            # Bad input, files or network; anything else is a fault in this package.
            expected = isinstance(error, (HiggsnbError, ValueError, OSError))
            message, hint = describe(error)
            if not expected:
                message = f"unexpected {type(error).__name__}: {message}"
            first, *rest = (line for line in f"{message}\n{hint}".splitlines() if line.strip())
            show(f"higgsnb: {first}", err=True, fg="red")
            for line in rest[:2]:
                show(line, err=True)
            ctx.exit(BAD_USAGE if expected else UNEXPECTED)


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="\b\nExamples:\n  higgsnb run\n  higgsnb plan cms2012\n  higgsnb COMMAND --help",
)
@click.version_option(__version__, prog_name="higgsnb")
@click.option("--debug", is_flag=True, help="Show the full traceback of an error: higgsnb --debug run …")
@click.option("--log-level", type=click.Choice(LEVELS), help="Show log messages of this level and above on stderr.")
@click.option("--verbose", "-v", is_flag=True, help="Short for --log-level info.")
@click.pass_context
def main(ctx: click.Context, debug: bool, log_level: str | None, verbose: bool) -> None:  # noqa: ARG001 - see Commands
    """Find the Higgs boson in four leptons: in simulated collisions, in CMS Open Data, or in your own files."""
    level = log_level or ("info" if verbose else None)
    if level is not None:
        logger, handler = logging.getLogger("higgsnb"), logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s", "%H:%M:%S"))
        ctx.call_on_close(partial(logger.setLevel, logger.level))
        ctx.call_on_close(partial(logger.removeHandler, handler))
        logger.setLevel(level.upper())
        logger.addHandler(handler)
