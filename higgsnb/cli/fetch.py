"""``higgsnb fetch``: download the files of a campaign into the cache."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
from click.shell_completion import CompletionItem

from higgsnb.cli.arguments import campaign_argument, examples
from higgsnb.cli.failures import show_failures
from higgsnb.cli.group import COMPLETE, INCOMPLETE
from higgsnb.cli.terminal import show
from higgsnb.errors import HiggsnbError, describe
from higgsnb.text import plain

if TYPE_CHECKING:
    from higgsnb.datasets import File
    from higgsnb.results import Failure


def _complete_dataset(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return the datasets of the campaign that was typed before."""
    from higgsnb import datasets

    try:
        found = datasets.load(ctx.params.get("name") or "toy").datasets
    except HiggsnbError:
        return []
    return [CompletionItem(one.name, help=one.process) for one in found if one.name.startswith(incomplete)]


@click.command(
    short_help="Download files into the cache, verified.",
    epilog=examples("higgsnb fetch cms2012", "higgsnb fetch cms2012 ZZTo4mu SMHiggsToZZTo4L"),
)
@campaign_argument
@click.argument("datasets_wanted", metavar="[NAME…]", nargs=-1, shell_complete=_complete_dataset)
@click.option("--quiet", "-q", is_flag=True, help="Print errors only.")
@click.pass_context
def fetch(ctx: click.Context, name: str, datasets_wanted: tuple[str, ...], quiet: bool) -> None:
    """Download the files of CAMPAIGN (or of its datasets NAME…) into the cache, resuming and verifying checksums."""
    from higgsnb import datasets

    campaign = datasets.expand(datasets.load(name))
    chosen = [campaign.dataset(one) for one in datasets_wanted] or list(campaign.datasets)
    wanted = [(dataset.name, file) for dataset in chosen for file in dataset.files]
    wanted += [] if datasets_wanted else [(campaign.name, file) for file in campaign.documents]
    found = [_fetch_one(name, file, quiet=quiet) for name, file in wanted]
    failed = [failure for failure in found if failure is not None]
    show_failures(failed)
    if failed:
        show(f"higgsnb: {len(failed):,} of {len(found):,} files could not be fetched", err=True, fg="red")
    ctx.exit(INCOMPLETE if failed else COMPLETE)


def _fetch_one(dataset: str, file: File, *, quiet: bool) -> Failure | None:
    """Fetch one file of a dataset with a progress bar and print its path; return the failure if there is one."""
    from tqdm import tqdm

    from higgsnb import datasets
    from higgsnb.datasets import Address
    from higgsnb.results import Failure

    def advance(done: int, total: int | None) -> None:
        bar.total = total
        bar.update(done - bar.n)

    with tqdm(unit="B", unit_scale=True, disable=quiet, desc=plain(Address.of(file.url).name)) as bar:
        try:
            path = datasets.fetch(
                file.url, alternatives=file.alternatives, size=file.bytes, adler32=file.adler32, progress=advance
            )
        except (OSError, ValueError) as error:
            message, hint = describe(error)
            return Failure(dataset, file.url, type(error).__name__, message, hint)
    if not quiet:
        click.echo(str(path))  # as it is: to be used
    return None
