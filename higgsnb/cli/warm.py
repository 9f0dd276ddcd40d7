"""``higgsnb warm``: prepare a cache, for quick first runs."""

from __future__ import annotations

from pathlib import Path

import click

from higgsnb.cli.arguments import examples
from higgsnb.cli.terminal import show


@click.command(
    short_help="Prepare caches, so that first runs are quick.",
    epilog=examples("higgsnb warm", "higgsnb warm --shared", "higgsnb warm --shared /data/higgsnb"),
)
@click.option(
    "--shared",
    is_flag=False,
    flag_value="",
    metavar="[DIR]",
    help="Prepare DIR for other users, who set HIGGSNB_SHARED_CACHE=DIR. Without DIR: for all users of this "
    "installation, who need not set anything.",
)
def warm(shared: str | None) -> None:
    """Prepare the simulated campaign, its skims and the compiled selections, so that first runs are quick."""
    from higgsnb import engine, storage

    if shared is None:
        for line in engine.warm():
            show(line, err=True)
        show(f"prepared: {storage.cache_folder()}")
        return
    folder = Path(shared or storage.INSTALLED_CACHE)
    engine.warm_shared(folder)
    if shared:
        show(f"users set HIGGSNB_SHARED_CACHE={folder.absolute()}")
