"""The command line: ``higgsnb run``, ``plan``, ``fetch``, ``ledger``, ``doctor``, ``dashboard`` and ``clean``.

It parses arguments, calls the package, prints what it returns, and sets the exit code.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from higgsnb import __version__
from higgsnb.errors import HiggsnbError, MissingFileError, OptionError, describe

if TYPE_CHECKING:
    from higgsnb.datasets import Dataset, File
    from higgsnb.results import Failure, Result, Yield

COMPLETE, UNEXPECTED, BAD_USAGE, INCOMPLETE, INTERRUPTED = 0, 1, 2, 3, 130
CONNECT_SECONDS = 10
LEDGER = "ledger.sqlite"
FAILURES_SHOWN = 10
"""Number of files named on the terminal for each kind of error."""
LEVELS = ("debug", "info", "warning", "error")


class Commands(click.Group):
    """A group whose errors become one to three lines on stderr and an exit code; ``--debug`` shows the traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            click.echo("\nhiggsnb: interrupted; the same command resumes", err=True)
            sys.stderr.flush()
            os._exit(INTERRUPTED)  # a thread may be waiting for a server that does not answer
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except Exception as error:
            if ctx.params.get("debug"):
                raise
            # Bad input, files or network; anything else is a fault in this package.
            expected = isinstance(error, (HiggsnbError, ValueError, OSError))
            message, hint = describe(error)
            if not expected:
                message = f"unexpected {type(error).__name__}: {message}"
            lines = [line for line in f"{message}\n{hint}".splitlines() if line.strip()]
            click.echo("\n".join(["higgsnb: " + lines[0], *lines[1:3]]), err=True)
            ctx.exit(BAD_USAGE if expected else UNEXPECTED)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
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


@main.command()
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


def _failure_lines(failures: Iterable[Failure]) -> Iterator[str]:
    """Describe failures in at most three lines each, the first ten of each kind of error; equal hints only once."""
    kinds: dict[str, list[Failure]] = {}
    for failure in failures:
        kinds.setdefault(failure.error, []).append(failure)
    for error, some in kinds.items():
        shown = some[:FAILURES_SHOWN]
        for failure, following in zip_longest(shown, shown[1:]):
            yield f"higgsnb: {failure.dataset}: {error}: {failure.message}"
            if following is None or following.hint != failure.hint:
                yield from (f"    {line}" for line in failure.hint.splitlines()[:2])
        if len(some) > len(shown):
            yield f"higgsnb: {error}: {len(some)} files, of which the first {len(shown)} are named above"


def _report(result: Result, written: list[Path], *, quiet: bool) -> None:
    """Print what was found, what is missing, and where it was written."""
    for line in _failure_lines(result.failed):
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


@main.command()
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


@main.command()
@click.argument("name", metavar="[CAMPAIGN]", default="toy")
@click.argument("datasets_wanted", metavar="[NAME…]", nargs=-1)
@click.option("--quiet", "-q", is_flag=True, help="Print errors only.")
@click.pass_context
def fetch(ctx: click.Context, name: str, datasets_wanted: tuple[str, ...], quiet: bool) -> None:
    """Download the files of CAMPAIGN (or of its datasets NAME…) into the cache, resuming and verifying checksums."""
    from higgsnb import datasets

    campaign = datasets.load(name)
    chosen = [campaign.dataset(wanted) for wanted in datasets_wanted] or list(campaign.datasets)
    found = [_fetch_one(dataset, file, quiet=quiet) for dataset in chosen for file in dataset.files]
    failed = [failure for failure in found if failure is not None]
    for line in _failure_lines(failed):
        click.echo(line, err=True)
    if failed:
        click.echo(f"higgsnb: {len(failed)} of {len(found)} files could not be fetched", err=True)
    ctx.exit(INCOMPLETE if failed else COMPLETE)


def _fetch_one(dataset: Dataset, file: File, *, quiet: bool) -> Failure | None:
    """Fetch one file with a progress bar and print its path; return the failure if there is one."""
    from tqdm import tqdm

    from higgsnb import datasets
    from higgsnb.datasets import Address
    from higgsnb.results import Failure

    def advance(done: int, total: int | None) -> None:
        bar.total = total
        bar.update(done - bar.n)

    with tqdm(unit="B", unit_scale=True, disable=quiet, desc=Address.of(file.url).name) as bar:
        try:
            path = datasets.fetch(
                file.url, alternatives=file.alternatives, size=file.bytes, adler32=file.adler32, progress=advance
            )
        except (OSError, ValueError) as error:
            message, hint = map(datasets.redact, describe(error))
            return Failure(dataset.name, file.url, type(error).__name__, message, hint)
    if not quiet:
        click.echo(str(path))
    return None


@main.group()
def ledger() -> None:
    """Inspect the ledger of a result directory, or copy it elsewhere (from a Binder session, for example)."""


folder_argument = click.argument("folder", metavar="DIR", type=click.Path(exists=True, file_okay=False, path_type=Path))


@ledger.command("show")
@folder_argument
def ledger_show(folder: Path) -> None:
    """Show how many chunks are finished, and how many were started more than once."""
    from higgsnb.engine import Ledger

    with Ledger(_ledger_of(folder)) as opened:
        again = opened.begun_again()
        click.echo(f"{len(opened):,} chunks finished, {again:,} started more than once")


@ledger.command("export")
@folder_argument
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
def ledger_export(folder: Path, file: Path) -> None:
    """Write the ledger of DIR to FILE, to be downloaded and imported elsewhere."""
    from higgsnb import engine

    click.echo(f"{file}: {engine.export_ledger(_ledger_of(folder), file):,} chunks")


@ledger.command("import")
@click.argument("folder", metavar="DIR", type=click.Path(file_okay=False, path_type=Path))
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
def ledger_import(folder: Path, file: Path) -> None:
    """Add the finished chunks in FILE to the ledger of DIR, so that `higgsnb run --out DIR` resumes from them."""
    from higgsnb.engine import Ledger

    with Ledger(folder / LEDGER) as opened:
        click.echo(f"{folder / LEDGER}: {opened.absorb(file):,} chunks added")


def _ledger_of(folder: Path) -> Path:
    """Return the ledger of a result directory."""
    if not (folder / LEDGER).is_file():
        raise MissingFileError(f"{folder} has no {LEDGER}", "Give the directory that `higgsnb run --out DIR` wrote.")
    return folder / LEDGER


@main.command()
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


@main.command()
@click.argument("name", metavar="[CAMPAIGN]", default="toy", envvar="HIGGSNB_CAMPAIGN")
@click.option("--port", type=click.IntRange(1, 65535), default=8866, show_default=True, help="Port to listen at.")
@click.option(
    "--ip", default="127.0.0.1", show_default=True, metavar="ADDRESS",
    help="Address to listen at; 0.0.0.0: also for others in the network, who need no password.",
)  # fmt: skip
@click.option("--no-browser", is_flag=True, help="Do not open the page.")
def dashboard(name: str, port: int, ip: str, no_browser: bool) -> None:
    """Serve the cut explorer as a web page; the kernel of a page ends when the page is left."""
    from higgsnb import datasets

    datasets.load(name)  # an error is said here, not on the page
    try:
        from jupyter_core.paths import jupyter_path
        from voila.app import Voila
    except ImportError as error:
        raise OptionError("the dashboard needs Voilà", "Install it: pip install 'higgsnb[notebook]'.") from error
    static = Path(__file__).parent / "widgets" / "static"
    in_clone = Path(__file__).parents[1] / "notebooks" / "dashboard.ipynb"
    installed = (Path(folder, in_clone.name) for folder in jupyter_path("voila", "templates", "higgsnb"))
    source = next(path for path in (in_clone, *installed) if path.is_file())
    os.environ["HIGGSNB_CAMPAIGN"] = str(Path(name).resolve()) if Path(name).is_file() else name
    os.environ["JUPYTER_PATH"] = os.pathsep.join(filter(None, [str(static), os.environ.get("JUPYTER_PATH")]))
    options = [str(source), f"--port={port}", f"--Voila.ip={ip}", *(["--no-browser"] if no_browser else [])]
    # A page tells when it is left, but not if its browser or device dies: such a kernel ends within a minute.
    culling = {"cull_idle_timeout": 40, "cull_interval": 5, "cull_connected": False}
    options += [f"--MappingKernelManager.{trait}={value}" for trait, value in culling.items()]
    Voila.launch_instance(options)


@main.command()
@click.option("--namespace", "-n", help="Kubernetes namespace (default: that of this session or of the kubeconfig).")
@click.option("--yes", "-y", is_flag=True, help="Remove without confirmation.")
@click.option("--all", "everything", is_flag=True, help="Include clusters that another machine may be using.")
def clean(namespace: str | None, yes: bool, everything: bool) -> None:
    """List your orphaned clusters on Kubernetes, and remove them after confirmation.

    A cluster started from another machine, such as your second server in a hub, may be in use there: it is listed, but
    removed only with --all. Clusters in use on this machine are never removed.
    """
    from higgsnb import cluster

    found = cluster.orphans(namespace or "")
    for item in found:
        click.echo(item.text)
    chosen = [item for item in found if everything or not item.elsewhere]
    if not found:
        click.echo("no orphaned clusters")
    elif not chosen:
        click.echo("nothing removed; `higgsnb clean --all` includes clusters that may be in use elsewhere")
    if not chosen:
        return
    if not yes:
        click.confirm(f"Remove {len(chosen)} cluster{'s' if len(chosen) > 1 else ''}?", abort=True)
    cluster.remove_orphans(chosen)
    click.echo(f"removed: {len(chosen)}")


if __name__ == "__main__":
    main()
