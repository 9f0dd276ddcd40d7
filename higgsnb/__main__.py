"""The command line.

``higgsnb run · plan · fetch · ledger · doctor · clean``. A thin view: it parses, calls, prints, and sets the exit code.
"""

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

from higgsnb import __version__
from higgsnb.errors import HiggsnbError, describe

if TYPE_CHECKING:
    from higgsnb.analysis import Result, Yield
    from higgsnb.datasets import Campaign
    from higgsnb.selection import Selection

COMPLETE, UNEXPECTED, BAD_USAGE, INCOMPLETE, INTERRUPTED = 0, 1, 2, 3, 130
CONNECT_SECONDS = 10
LEDGER = "ledger.sqlite"


class Commands(click.Group):
    """Turns errors into one to three lines on stderr and an exit code; ``--debug`` shows the traceback."""

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
            click.echo(f"higgsnb: {_shortened(error)}", err=True)
            ctx.exit(BAD_USAGE if _is_expected(error) else UNEXPECTED)


def _is_expected(error: Exception) -> bool:
    """Whether an error tells of bad input, and not of a fault in this package."""
    return isinstance(error, (HiggsnbError, ValueError, OSError))


def _shortened(error: Exception) -> str:
    """Return at most three lines of an error; an unexpected one names its type and how to see more."""
    message, hint = describe(error)
    if not _is_expected(error):
        message = f"unexpected {type(error).__name__}: {message}"
    return "\n".join([line for line in f"{message}\n{hint}".splitlines() if line.strip()][:3])


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="higgsnb")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def main(debug: bool) -> None:
    """Find the Higgs boson in four leptons: in simulated collisions, in CMS Open Data, or in your own files."""


campaign_argument = click.argument("name", metavar="[CAMPAIGN]", default="toy")
selection_option = click.option(
    "--selection", "-s", "selection_name", metavar="NAME|FILE.toml", help="What to keep (default: the campaign's)."
)
chunk_option = click.option(
    "--chunk-events",
    type=click.IntRange(min=1),
    help="Most events in a chunk; changes memory and speed, never the result.",
)
fraction_option = click.option(
    "--fraction",
    type=click.FloatRange(0, 1, min_open=True),
    default=1.0,
    show_default=True,
    help="Only the first part of each file.",
)


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
    help="Who does the work: threads; processes, so that a crash costs one chunk only; or the Dask scheduler there.",
)
@click.option(
    "--unit-seconds",
    type=click.FloatRange(0, min_open=True),
    help="How long one chunk may take before its process is ended (default: 900; not with threads).",
)
@click.option(
    "--on-error",
    type=click.Choice(["strict", "report"]),
    default="report",
    show_default=True,
    help="Stop at a bad file, or go on and list it.",
)
@chunk_option
@click.option("--fresh", is_flag=True, help="Forget what earlier runs of the same command have finished.")
@click.option(
    "--skim", is_flag=True, help="Keep the leptons of surviving events in the cache: other cuts then run fast."
)
@click.option("--quiet", "-q", is_flag=True, help="No progress, no table; errors only.")
@click.pass_context
def run(
    ctx: click.Context, name: str, selection_name: str | None, out: Path | None, fraction: float,
    workers: int | None, scheduler: str, unit_seconds: float | None, on_error: str, chunk_events: int | None,
    fresh: bool, skim: bool, quiet: bool,
) -> None:  # fmt: skip
    """Analyse CAMPAIGN (toy, candidates, cms2012 or a TOML file; default: toy) and write the result directory."""
    from higgsnb import engine, files, kernel, results

    campaign, selection = _load(name, selection_name)
    folder = Path("results") / campaign.name if out is None else out
    results.prepare(folder)
    if not quiet:
        click.echo(f"{campaign.title}\nselection {selection.name}: {selection.title}", err=True)
        if not kernel.is_compiled(selection.algorithm):
            click.echo("compiling the selection for this machine: once, a few seconds", err=True)
    clock = _Clock()
    with _client(scheduler) as client:
        partial_results = engine.run(
            campaign, selection, client=client, workers=workers, chunk_events=chunk_events, fraction=fraction,
            on_error=on_error, skims_folder=files.cache_folder() / "skims" if skim else None,
            ledger=folder / LEDGER, fresh=fresh, unit_seconds=unit_seconds,
        )  # fmt: skip
        with closing(partial_results):  # Ctrl-C must not leave pieces that look as if they had ended the process
            result = _last(partial_results, quiet=quiet)
    written = results.write(result, folder, run={**clock.record(), **result.run})
    try:
        _report(result, written, quiet=quiet)
        sys.stdout.flush()
    except OSError:  # whoever read our output has gone; the result is written, and its exit code counts
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    ctx.exit(COMPLETE if result.complete else INCOMPLETE)


@contextmanager
def _client(scheduler: str) -> Iterator[Any]:
    """Return what `engine.run` takes as ``client``; a connection to a Dask scheduler is closed in the end."""
    if scheduler in ("threads", "processes"):
        yield scheduler
        return
    from distributed import Client

    try:
        client = Client(scheduler, timeout=f"{CONNECT_SECONDS} s", set_as_default=False)
    except (OSError, ValueError, TypeError) as error:
        raise OSError(
            f"no Dask scheduler at {scheduler}: {str(error) or type(error).__name__}\n"
            "Give an address such as tcp://127.0.0.1:8786, or --scheduler processes."
        ) from error
    with client:
        yield client


def _load(name: str, selection_name: str | None) -> tuple[Campaign, Selection]:
    """Return the campaign and the selection that the user names."""
    from higgsnb import datasets, selection

    campaign = datasets.load(name)
    return campaign, selection.load(selection_name or campaign.selection)


class _Clock:
    """Times one run."""

    def __init__(self) -> None:
        self.started, self.wall, self.cpu = datetime.now(UTC), time.perf_counter(), time.process_time()

    def record(self) -> dict[str, Any]:
        """Return the ``run`` block of ``result.json``."""
        from higgsnb import provenance

        return {
            "started": self.started.isoformat(timespec="seconds"),
            "wall_seconds": round(time.perf_counter() - self.wall, 3),
            "cpu_seconds": round(time.process_time() - self.cpu, 3),
            "machine": provenance.machine(),
        }


def _last(partial_results: Iterator[Result], *, quiet: bool) -> Result:
    """Show the progress of a run and return its last result."""
    from tqdm import tqdm

    with tqdm(
        unit=" events", unit_scale=True, disable=quiet, file=sys.stderr, dynamic_ncols=True, desc="events"
    ) as bar:
        for result in partial_results:
            (files, all_files), (events, all_events), _ = result.coverage
            bar.total = all_events
            bar.set_postfix_str(
                f"{files}/{all_files} files" + (f", {len(result.failed)} failed" if result.failed else ""),
                refresh=False,
            )
            bar.update(events - bar.n)
    return result


def _report(result: Result, written: list[Path], *, quiet: bool) -> None:
    """Print what was found, what is missing, and where it lies."""
    for failure in result.failed:
        click.echo(f"higgsnb: {failure.dataset}: {failure.error}: {failure.message}", err=True)
    if not result.complete:
        click.echo(f"higgsnb: INCOMPLETE: {_coverage_line(result)}", err=True)
    if quiet:
        return
    for line in _tables(result):
        click.echo(line)
    for name, columns in result.not_applied.items():
        click.echo(f"note: {name} has no {', '.join(columns)}; cuts on them are not applied")
    for url in result.empty_files:
        click.echo(f"note: {url} holds no events")
    click.echo(f"{'simulated collisions; ' if result.simulated else ''}{_coverage_line(result)}")
    click.echo("written: " + ", ".join(str(path) for path in written))


def _coverage_line(result: Result) -> str:
    """Return the coverage in words."""
    (files, all_files), (events, all_events), (done, total) = result.coverage
    return f"{files} of {all_files} files, {events:,} of {all_events:,} events, {done:.2f} of {total:.2f} /fb"


def _tables(result: Result) -> Iterator[str]:
    """Yield the lines of the yields tables."""
    yield from _table("all masses", result.yields)
    for window, title in (
        ("70-181", "70 < m4l < 181 GeV"),
        ("118-130", "118 < m4l < 130 GeV: where the Higgs boson is"),
    ):
        yield from _table(title, result.windows[window])


def _table(title: str, yields: dict[str, dict[str, Yield]]) -> Iterator[str]:
    """Yield the lines of one table: expected events ± statistical error, and the data."""
    from higgsnb.selection import CHANNELS

    yield f"\n{title:<52}" + "".join(f"{channel:>16}" for channel in (*CHANNELS, "all"))
    predicted = {process: per for process, per in yields.items() if process != "data"}
    rows = dict(predicted)
    if len(predicted) > 1:
        rows["prediction"] = {channel: _sum([per[channel] for per in predicted.values()]) for channel in CHANNELS}
    for process, per in rows.items():
        values = [*(per[channel] for channel in CHANNELS), _sum(list(per.values()))]
        yield f"  {process:<50}" + "".join(f"{f'{v.expected:.2f} ± {v.stat_error:.2f}':>16}" for v in values)
    if "data" in yields:
        counts = [yields["data"][channel].events for channel in CHANNELS]
        yield f"  {'data':<50}" + "".join(f"{n:>16}" for n in (*counts, sum(counts)))


def _sum(yields: list[Yield]) -> Yield:
    """Add up independent yields."""
    from higgsnb.analysis import Yield

    return Yield(
        sum(y.events for y in yields), sum(y.expected for y in yields), sum(y.stat_error**2 for y in yields) ** 0.5
    )


# --- plan ----------------------------------------------------------------------------------------------------


@main.command()
@campaign_argument
@fraction_option
@chunk_option
@click.option("--workers", "-j", type=click.IntRange(min=1), help="Cores to reckon with (default: this machine's).")
@click.option(
    "--price", type=click.FloatRange(0), metavar="PER_GB", help="Price of a GB transferred, for the egress cost."
)
def plan(name: str, fraction: float, chunk_events: int | None, workers: int | None, price: float | None) -> None:
    """Say what a run of CAMPAIGN would read and take; nothing is read."""
    from higgsnb import datasets, engine

    campaign = datasets.load(name)
    size = chunk_events or engine.CHUNK_EVENTS
    click.echo(f"{campaign.title}\n\n{'dataset':<28}{'process':<9}{'files':>8}{'chunks':>9}{'events':>15}{'bytes':>18}")
    chunks = [_plan_row(dataset, fraction, size) for dataset in campaign.datasets]
    total = None if None in chunks else sum(n for n in chunks if n is not None)
    click.echo(
        f"{'total':<37}{len(campaign.files):>8}{_number(total):>9}{_number(campaign.events):>15}{_number(campaign.bytes):>18}\n"
    )
    for line in _estimates(campaign, fraction, workers or engine.available_cores(), price):
        click.echo(line)


def _plan_row(dataset: Any, fraction: float, chunk_events: int) -> int | None:
    """Print one dataset's line; return its number of chunks, None if that is not known beforehand."""
    chunks = None
    if all(file.events is not None for file in dataset.files):
        chunks = sum(max(1, -(-round(fraction * file.events) // chunk_events)) for file in dataset.files)
    click.echo(
        f"{dataset.name:<28}{dataset.process:<9}{len(dataset.files):>8}{_number(chunks):>9}"
        f"{_number(dataset.events):>15}{_number(dataset.bytes):>18}"
    )
    return chunks


def _number(number: int | None) -> str:
    """Return a number with separators, or that it is not known before the files are opened."""
    return "unknown" if number is None else f"{number:,}"


def _estimates(campaign: Campaign, fraction: float, cores: int, price: float | None) -> Iterator[str]:
    """Yield the lines of the estimate: bytes to read, core-hours, transfer, price."""
    from higgsnb import engine

    if campaign.events is not None:
        seconds = fraction * campaign.events / engine.EVENTS_PER_CORE_SECOND[campaign.schema]
        yield f"events        {round(fraction * campaign.events):,}"
        yield f"core-hours    {seconds / 3600:.3g}, about {max(1, round(seconds / cores)):,} s with {cores} cores"
    remote = [file for file in campaign.files if file.url.startswith(("http:", "https:", "root:"))]
    if campaign.bytes is None:
        yield "The sizes of some files are not in the campaign; give `events` and `bytes` of each file for an estimate."
        return
    read = fraction * campaign.bytes * engine.READ_SHARE[campaign.schema]
    transfer = sum(file.bytes or 0 for file in remote) * fraction
    yield f"to read       {read / 1e9:.3g} GB"
    yield f"transfer      {transfer / 1e9:.3g} GB at most; files in the cache or a mirror cost nothing"
    if price is not None:
        yield f"egress cost   {transfer / 1e9 * price:.2f} at {price:g} a GB"


# --- fetch ---------------------------------------------------------------------------------------------------


@main.command()
@click.argument("name", metavar="[CAMPAIGN]", default="toy")
@click.argument("datasets_wanted", metavar="[NAME…]", nargs=-1)
@click.option("--quiet", "-q", is_flag=True, help="No progress.")
@click.pass_context
def fetch(ctx: click.Context, name: str, datasets_wanted: tuple[str, ...], quiet: bool) -> None:
    """Download the files of CAMPAIGN (or of its datasets NAME…) into the cache; resumes, and verifies checksums."""
    from higgsnb import datasets

    campaign = datasets.load(name)
    chosen = [campaign.dataset(wanted) for wanted in datasets_wanted] or list(campaign.datasets)
    failed = [file.url for dataset in chosen for file in dataset.files if not _fetch_one(file, quiet=quiet)]
    if failed:
        click.echo(
            f"higgsnb: {len(failed)} of {sum(len(d.files) for d in chosen)} files could not be fetched", err=True
        )
    ctx.exit(INCOMPLETE if failed else COMPLETE)


def _fetch_one(file: Any, *, quiet: bool) -> bool:
    """Fetch one file with a progress bar; return whether it is there, and say why if not."""
    from tqdm import tqdm

    from higgsnb import files, provenance

    with tqdm(
        unit="B", unit_scale=True, disable=quiet, desc=provenance.public_name(file.url).rsplit("/", 1)[-1]
    ) as bar:
        try:
            path = files.fetch(
                file.url, alternatives=file.alternatives, size=file.bytes, adler32=file.adler32,
                progress=lambda done, total: _advance(bar, done, total),
            )  # fmt: skip
        except (OSError, ValueError) as error:
            click.echo(f"higgsnb: {_shortened(error)}", err=True)
            return False
    if not quiet:
        click.echo(str(path))
    return True


def _advance(bar: Any, done: int, total: int | None) -> None:
    """Move a progress bar to ``done`` bytes."""
    bar.total = total
    bar.update(done - bar.n)


# --- ledger --------------------------------------------------------------------------------------------------


@main.group()
def ledger() -> None:
    """Look into the ledger of a result directory, or carry it elsewhere (from a Binder session, say)."""


folder_argument = click.argument("folder", metavar="DIR", type=click.Path(exists=True, file_okay=False, path_type=Path))


@ledger.command("show")
@folder_argument
def ledger_show(folder: Path) -> None:
    """Say how many pieces are finished, and how often any had to be begun again."""
    from higgsnb.ledger import Ledger

    with Ledger(_ledger_of(folder)) as opened:
        again = opened.begun_again()
        click.echo(f"{len(opened):,} pieces finished, {again:,} begun more than once")


@ledger.command("export")
@folder_argument
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
def ledger_export(folder: Path, file: Path) -> None:
    """Write the ledger of DIR to one FILE, which can be downloaded and imported elsewhere."""
    from higgsnb import ledger as ledgers

    click.echo(f"{file}: {ledgers.export(_ledger_of(folder), file):,} pieces")


@ledger.command("import")
@click.argument("folder", metavar="DIR", type=click.Path(file_okay=False, path_type=Path))
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
def ledger_import(folder: Path, file: Path) -> None:
    """Take over the finished pieces in FILE, so that `higgsnb run --out DIR` goes on from there."""
    from higgsnb.ledger import Ledger

    with Ledger(folder / LEDGER) as opened:
        click.echo(f"{folder / LEDGER}: {opened.absorb(file):,} pieces more")


def _ledger_of(folder: Path) -> Path:
    """Return the ledger of a result directory."""
    if not (folder / LEDGER).is_file():
        raise FileNotFoundError(f"{folder} has no {LEDGER}\nGive the directory that `higgsnb run --out DIR` wrote.")
    return folder / LEDGER


# --- doctor --------------------------------------------------------------------------------------------------


@main.command()
@click.pass_context
def doctor(ctx: click.Context) -> None:
    """Say what this machine or session can do; every problem with its remedy."""
    from higgsnb import cluster, diagnosis

    problems = 0
    for check in (*diagnosis.checks(), *cluster.doctor()):
        click.echo(f"{'ok ' if check.good else '!! '} {check.name:<14} {check.found}")
        if not check.good:
            problems += 1
            click.echo(f"    {'':<14} {check.remedy}")
    click.echo(
        "no problem found"
        if not problems
        else f"{problems} problem{'s' if problems > 1 else ''}, each with its remedy above"
    )
    ctx.exit(COMPLETE)


# --- clean ---------------------------------------------------------------------------------------------------


@main.command()
@click.option("--namespace", "-n", help="Where on Kubernetes (default: that of this session or of the kubeconfig).")
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@click.option("--all", "everything", is_flag=True, help="Also remove what another machine made and may be using.")
def clean(namespace: str | None, yes: bool, everything: bool) -> None:
    """List the clusters on Kubernetes that you left behind, and remove them on confirmation.

    A cluster that another machine made, such as your second server in a hub, may be in use there: it is listed, but
    removed only with --all. Clusters in use on this machine are never touched.
    """
    from higgsnb import cluster

    found = cluster.leftovers(namespace)
    for item in found:
        click.echo(item.text)
    chosen = [item for item in found if everything or not item.elsewhere]
    if not found:
        click.echo("nothing left behind")
    elif not chosen:
        click.echo("nothing removed; `higgsnb clean --all` removes what may be in use elsewhere, too")
    if not chosen:
        return
    if not yes:
        click.confirm(f"Remove {len(chosen)} cluster{'s' if len(chosen) > 1 else ''}?", abort=True)
    cluster.remove(chosen)
    click.echo(f"removed: {len(chosen)}")


if __name__ == "__main__":
    main()
