"""``higgsnb run``: analyse a campaign, print what was found, and write the result directory."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from higgsnb.cli.arguments import campaign_argument, chunk_option, fraction_option, selection_option
from higgsnb.cli.failures import failure_lines
from higgsnb.cli.group import COMPLETE, INCOMPLETE
from higgsnb.cli.ledger import LEDGER
from higgsnb.errors import OptionError

if TYPE_CHECKING:
    from higgsnb.results import Result, Yield

CONNECT_SECONDS = 10


@click.command()
@campaign_argument
@selection_option
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
@click.option("--fresh", is_flag=True, help="Start again instead of resuming an earlier run of the same command.")
@click.option(
    "--skim", is_flag=True, help="Cache the leptons of preselected events, so that runs with other cuts are fast."
)
@click.option("--quiet", "-q", is_flag=True, help="Print errors only, no progress and no tables.")
@click.pass_context
def run(
    ctx: click.Context, name: str, selection_name: str | None, out: Path | None, fraction: float,
    workers: int | None, scheduler: str, chunk_seconds: float | None, on_error: str, chunk_events: int | None,
    fresh: bool, skim: bool, quiet: bool,
) -> None:  # fmt: skip
    """Analyse CAMPAIGN (toy, candidates, cms2012 or a TOML file; default: toy) and write the result directory."""
    from higgsnb import datasets, engine, plots, provenance, results, storage
    from higgsnb.selection import is_compiled, load

    campaign = datasets.load(name)
    selection = load(selection_name or campaign.selection)
    folder = Path("results") / campaign.name if out is None else out
    results.prepare(folder)
    if not quiet:
        click.echo(f"{campaign.title}\nselection {selection.name}: {selection.title}", err=True)
        if not is_compiled(selection.algorithm):
            click.echo("compiling the selection for this machine: once, a few seconds", err=True)
    started, wall, cpu = datetime.now(UTC), time.perf_counter(), time.process_time()
    with _client(scheduler) as client:
        partial_results = engine.run(
            campaign, selection, client=client, workers=workers, chunk_events=chunk_events, fraction=fraction,
            on_error=on_error, skims_folder=storage.cache_folder() / "skims" if skim else None,
            ledger=folder / LEDGER, fresh=fresh, chunk_seconds=chunk_seconds,
        )  # fmt: skip
        with closing(partial_results):  # on Ctrl-C: the ledger must not count it as a failure of the chunks in flight
            result = _last(partial_results, quiet=quiet)
    run_block = {
        "started": started.isoformat(timespec="seconds"),
        "wall_seconds": round(time.perf_counter() - wall, 3),
        "cpu_seconds": round(time.process_time() - cpu, 3),
        "machine": provenance.machine(),
        **result.run,
    }
    written = results.write(result, folder, run=run_block)
    written += plots.save(plots.mass_4l(result), folder)
    try:
        _report(result, written, quiet=quiet)
        sys.stdout.flush()
    except OSError:  # a closed pipe: the result is written, so that its exit code counts
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    ctx.exit(COMPLETE if result.complete else INCOMPLETE)


@contextmanager
def _client(scheduler: str) -> Iterator[Any]:
    """Return the ``client`` for `engine.run`; a connection to a Dask scheduler is closed on exit."""
    if scheduler in ("threads", "processes"):
        yield scheduler
        return
    from distributed import Client

    try:
        client = Client(scheduler, timeout=f"{CONNECT_SECONDS} s", set_as_default=False)
    except (OSError, ValueError, TypeError) as error:
        raise OptionError(
            f"no Dask scheduler at {scheduler}: {str(error) or type(error).__name__}",
            "Give an address such as tcp://127.0.0.1:8786, or --scheduler processes.",
        ) from error
    with client:
        yield client


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


def _report(result: Result, written: list[Path], *, quiet: bool) -> None:
    """Print what was found, what is missing, and where it was written."""
    for line in failure_lines(result.failed):
        click.echo(line, err=True)
    if not result.complete:
        click.echo(f"higgsnb: incomplete: {result.coverage}", err=True)
    if quiet:
        return
    tables = {
        "all masses": result.yields,
        "70 < m4l < 181 GeV": result.windows["70-181"],
        "118 < m4l < 130 GeV: around the Higgs boson": result.windows["118-130"],
    }
    for title, yields in tables.items():
        for line in _table(title, yields):
            click.echo(line)
    for name, columns in result.not_applied.items():
        click.echo(f"note: {name} lacks {', '.join(columns)}; cuts on them are not applied")
    for url in result.empty_files:
        click.echo(f"note: {url} contains no events")
    click.echo(f"{'simulated collisions; ' if result.simulated else ''}{result.coverage}")
    click.echo("written: " + ", ".join(str(path) for path in written))


def _table(title: str, yields: dict[str, dict[str, Yield]]) -> Iterator[str]:
    """Yield the lines of one table: expected events ± statistical error, and the data."""
    from higgsnb.selection import CHANNELS

    yield f"\n{title}"
    yield " " * 16 + "".join(f"{channel:>16}" for channel in (*CHANNELS, "all"))
    predicted = {process: per for process, per in yields.items() if process != "data"}
    rows = dict(predicted)
    if len(predicted) > 1:
        rows["prediction"] = {channel: _sum([per[channel] for per in predicted.values()]) for channel in CHANNELS}
    for process, per in rows.items():
        values = [*(per[channel] for channel in CHANNELS), _sum(list(per.values()))]
        yield f"  {process:<14}" + "".join(f"{f'{v.expected:.2f} ± {v.stat_error:.2f}':>16}" for v in values)
    if "data" in yields:
        counts = [yields["data"][channel].events for channel in CHANNELS]
        yield f"  {'data':<14}" + "".join(f"{n:>16}" for n in (*counts, sum(counts)))


def _sum(yields: list[Yield]) -> Yield:
    """Add up independent yields."""
    from higgsnb.results import Yield

    variance = sum(y.stat_error**2 for y in yields)
    return Yield(sum(y.events for y in yields), sum(y.expected for y in yields), variance**0.5)
