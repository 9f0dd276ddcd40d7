"""``higgsnb run``: analyse a campaign, print what was found, and write the result directory."""

from __future__ import annotations

import asyncio
import os
import re
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, redirect_stdout
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

from higgsnb.cli.arguments import (
    campaign_argument,
    chunk_option,
    examples,
    fraction_option,
    json_option,
    selection_option,
)
from higgsnb.cli.failures import show_failures
from higgsnb.cli.group import BAD_USAGE, COMPLETE, INCOMPLETE
from higgsnb.cli.ledger import LEDGER
from higgsnb.cli.report import show_report
from higgsnb.cli.terminal import show, show_json
from higgsnb.errors import FileError, OptionError, did_you_mean

if TYPE_CHECKING:
    from higgsnb.datasets import Campaign
    from higgsnb.results import Failure, Result
    from higgsnb.selection import Analysis

CONNECT_SECONDS = 10
MOST_FIGURES = 30
"""Most figures that are drawn of an analysis with many histograms and regions."""
LONGEST_NAME = 60
"""Most characters of the name of a figure, which are up to four bytes each; a file system takes 255."""
LOCAL = ("threads", "processes")
ADDRESS = re.compile(r"(?:[a-z][a-z0-9+.-]*://)?(\[[0-9a-f:.]+\]|[^\s/:\[\]]+):(\d{1,5})(?:/\S*)?", re.IGNORECASE)
"""``tcp://HOST:PORT``, or without the scheme; what else a Dask address may have is Dask's to check."""


def _complete_scheduler(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    return [CompletionItem(name) for name in LOCAL if name.startswith(incomplete)]


def _check_scheduler(_ctx: click.Context, _param: click.Parameter, scheduler: str) -> str:
    """Return the option if it can be meant; raises OptionError at once, before anything is loaded."""
    address = ADDRESS.fullmatch(scheduler)
    if scheduler in LOCAL or (address and 0 < int(address[2]) < 2**16):
        return scheduler
    hint = f"{did_you_mean(scheduler, LOCAL)} Or give the address of a Dask scheduler, such as tcp://127.0.0.1:8786."
    raise OptionError(f"--scheduler {scheduler}: neither threads, processes nor an address with a port", hint)


@click.command(
    short_help="Analyse a campaign: find the Higgs boson.",
    epilog=examples(
        "higgsnb run",
        "higgsnb run candidates",
        "higgsnb run mine.toml --out results/mine",
        "higgsnb run cms2012 --fraction 0.01",
        "higgsnb run cms2012 --skim --selection cuts.toml",
        "higgsnb run muons.toml --analysis zmumu.py:z",
        "higgsnb run cms2012 --scheduler tcp://127.0.0.1:8786",
        "higgsnb run toy --json --quiet",
    ),
)
@campaign_argument
@selection_option
@click.option(
    "--analysis", "analysis_name", metavar="FILE.py:NAME",
    help="An analysis of your own in place of a selection: the higgsnb.Analysis NAME in a Python file.",
)  # fmt: skip
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), help="Result directory (default: results/CAMPAIGN)."
)
@fraction_option
@click.option("--workers", "-j", type=click.IntRange(min=1), help="Threads or processes (default: all cores).")
@click.option(
    "--scheduler",
    default="threads",
    show_default=True,
    metavar="threads|processes|ADDRESS",
    callback=_check_scheduler,
    shell_complete=_complete_scheduler,
    help="Where to run: threads; processes, so that a crash costs one chunk only; or the Dask scheduler at an address.",
)
@click.option(
    "--chunk-seconds",
    type=click.FloatRange(0, min_open=True),
    help="Time limit for one chunk, after which its process is ended (default: 900; not with threads).",
)
@click.option("--unit-seconds", "chunk_seconds", type=click.FloatRange(0, min_open=True), hidden=True)
@click.option(
    "--on-error",
    type=click.Choice(["strict", "report"]),
    default="report",
    show_default=True,
    help="Stop at the first bad file, or go on and list it at the end.",
)
@chunk_option
@click.option(
    "--ledger",
    "ledger",
    metavar="FILE|none",
    help="Where to record finished chunks (default: ledger.sqlite in the result directory); none: nowhere, so that an "
    "interrupted run begins again.",
)
@click.option("--fresh", is_flag=True, help="Start again instead of resuming an earlier run of the same command.")
@click.option(
    "--skim", is_flag=True, help="Cache the leptons of preselected events, so that runs with other cuts are fast."
)
@click.option("--quiet", "-q", is_flag=True, help="Print errors only, no progress and no tables.")
@json_option("the content of result.json")
@click.pass_context
def run(
    ctx: click.Context, name: str, selection_name: str | None, analysis_name: str | None, out: Path | None,
    fraction: float, workers: int | None, scheduler: str, chunk_seconds: float | None, on_error: str,
    chunk_events: int | None, ledger: str | None, fresh: bool, skim: bool, quiet: bool, as_json: bool,
) -> None:  # fmt: skip
    """Analyse CAMPAIGN (such as toy or cms2012, or a TOML file; default: toy) and write the result directory."""
    from higgsnb import datasets, engine, provenance, results, storage

    campaign = datasets.load(name)
    selection = _chosen(campaign, selection_name, analysis_name)
    folder = Path("results") / campaign.name if out is None else out
    results.prepare(folder)
    from higgsnb import plots  # not before: it loads matplotlib, which `prepare` tries

    if not quiet:
        _announce(campaign, selection)
    started, wall, cpu = datetime.now(UTC), time.perf_counter(), time.process_time()
    unread: Sequence[Failure] = ()
    with _prints_to_stderr(as_json), _client(scheduler, quiet=quiet) as client:
        partial_results = engine.run(
            campaign, selection, client=client, workers=workers, chunk_events=chunk_events, fraction=fraction,
            on_error=on_error, skims_folder=storage.cache_folder("skims") if skim else None,
            ledger=None if ledger == "none" else Path(ledger or folder / LEDGER), fresh=fresh,
            chunk_seconds=chunk_seconds,
        )  # fmt: skip
        with closing(partial_results):  # on Ctrl-C: the ledger must not count it as a failure of the chunks in flight
            try:
                result = _last(partial_results, quiet=quiet)
            except FileError as error:
                if not error.failed:
                    raise
                unread = error.failed
    if unread:
        _show_nothing_read(unread, folder, as_json=as_json)
        ctx.exit(BAD_USAGE)
    run_block = {
        "started": started.isoformat(timespec="seconds"),
        "wall_seconds": round(time.perf_counter() - wall, 3),
        "cpu_seconds": round(time.process_time() - cpu, 3),
        "machine": provenance.machine(),
        **result.run,
    }
    written = results.write(result, folder, run=run_block)
    for one, figure in _figures(result):
        written += plots.save(figure, folder, one)
    try:
        show_report(result, written, folder, quiet=quiet or as_json)
        if as_json:
            show_json({**results.document(result), "run": run_block, "written": [str(path) for path in written]})
        sys.stdout.flush()
    except OSError:  # a closed pipe: the result is written, so that its exit code counts
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    ctx.exit(COMPLETE if result.complete and not result.doubts else INCOMPLETE)


def _chosen(campaign: Campaign, selection_name: str | None, analysis_name: str | None) -> Analysis:
    """Return the analysis of a run: of a file, a named selection, or the campaign's own."""
    from higgsnb.selection import Analysis, load, load_from_file

    if analysis_name is None:
        return load(selection_name or campaign.selection)
    if selection_name is not None:
        raise OptionError("both --selection and --analysis are given", "Give one of them.")
    return load_from_file(analysis_name, Analysis)


def _figures(result: Result) -> Iterator[tuple[str, Any]]:
    """Yield the figures of a result, each with a name of its own for its file."""
    from higgsnb import plots
    from higgsnb.selection import Selection

    if isinstance(result.selection, Selection):
        figures = [("mass_4l", ""), *((axis.name, "") for axis in result.selection.axes)]
    else:
        figures = [(axis.name, region) for axis in result.layout.binning.axes for region in result.regions]
    names: list[str] = []
    for axis, region in figures[:MOST_FIGURES]:
        full = f"{axis}_{region}" if region and len(result.regions) > 1 else axis
        name = re.sub(r"[^\w.+-]+", "_", full)[:LONGEST_NAME]
        names.append(name.casefold())
        same = names.count(name.casefold())
        yield name if same == 1 else f"{name}_{same}", plots.plot_spectrum(result, axis, region)


def _announce(campaign: Campaign, selection: Analysis) -> None:
    """Print on stderr what is analysed, and whether the first seconds will be spent on compiling."""
    from higgsnb.selection import Selection, is_compiled

    show(campaign.title, err=True, bold=True)
    kind = "selection" if isinstance(selection, Selection) else "analysis"
    title = f": {selection.title}" if selection.title != selection.name else ""
    show(f"{kind} {selection.name}{title}", err=True)
    if isinstance(selection, Selection) and not is_compiled(selection.algorithm):
        show("compiling the selection for this machine: once, a few seconds", err=True)


def _show_nothing_read(failed: Sequence[Failure], folder: Path, *, as_json: bool) -> None:
    """Print why there is no result; what lies in the directory from an earlier run stays."""
    show_failures(failed, rest="; --json lists all")
    none = "the only file" if len(failed) == 1 else f"none of the {len(failed):,} files"
    could = "could not be read" if len(failed) == 1 else "could be read"
    show(f"higgsnb: no result: {none} {could}", err=True, fg="red")
    if (folder / "result.json").exists():
        show(f"    What {folder} holds is the result of an earlier run.", err=True)
    if as_json:
        show_json({"complete": False, "failed": [failure.as_dict() for failure in failed], "written": []})


@contextmanager
def _prints_to_stderr(is_wanted: bool) -> Iterator[None]:
    """Send what a user's functions print, in this process and its children, to where it cannot be taken for JSON."""
    if not is_wanted:
        yield
        return
    sys.stdout.flush()
    stdout = os.dup(1)
    os.dup2(2, 1)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(stdout, 1)
        os.close(stdout)


@contextmanager
def _client(scheduler: str, *, quiet: bool) -> Iterator[Any]:
    """Return the ``client`` for `engine.run`; a connection to a Dask scheduler is closed on exit."""
    if scheduler in LOCAL:
        yield scheduler
        return
    from distributed import Client

    if not quiet:
        show(f"connecting to the Dask scheduler at {scheduler}", err=True)
    try:
        asyncio.run(asyncio.wait_for(_find_scheduler(scheduler), CONNECT_SECONDS))
        client = Client(scheduler, timeout=f"{CONNECT_SECONDS} s", set_as_default=False)
    except (OSError, ValueError, TypeError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or str(error) or f"no answer in {CONNECT_SECONDS} s"
        raise OptionError(
            f"no Dask scheduler at {scheduler}: {reason}",
            "Give an address such as tcp://127.0.0.1:8786, or --scheduler processes.",
        ) from error
    with client:
        yield client


async def _find_scheduler(scheduler: str) -> None:
    """Raise OSError or ValueError unless a scheduler answers at an address.

    A `Client` that cannot connect waits 20 s longer for itself, and then prints a traceback.
    """
    from distributed import rpc
    from distributed.security import Security

    if address := ADDRESS.fullmatch(scheduler):  # Dask would ask again and again for the name of an unknown host
        socket.getaddrinfo(address[1].strip("[]"), int(address[2]))
    arguments = Security().get_connection_args("client")
    async with rpc(scheduler, timeout=CONNECT_SECONDS, connection_args=arguments) as asked:
        kind = (await asked.identity())["type"]
    if kind != "Scheduler":
        raise ValueError(f"what answers there is a {kind}")


def _last(partial_results: Iterator[Result], *, quiet: bool) -> Result:
    """Show the progress of a run and return its last result."""
    from tqdm import tqdm

    shown = {"unit": " events", "unit_scale": True, "dynamic_ncols": True, "desc": "events"}
    with tqdm(file=sys.stderr, disable=quiet, **shown) as bar:
        for result in partial_results:
            (files, all_files), (events, all_events), _ = result.coverage
            bar.total = all_events
            failed = f", {len(result.failed)} failed" if result.failed else ""
            bar.set_postfix_str(f"{files}/{all_files} files{failed}", refresh=False)
            bar.update(events - bar.n)
    return result
