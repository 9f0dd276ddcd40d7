"""``higgsnb dashboard``: serve the cut explorer as a web page."""

from __future__ import annotations

import os
from pathlib import Path

import click

from higgsnb.cli.arguments import CAMPAIGN, examples
from higgsnb.errors import OptionError

CULLING = {"cull_idle_timeout": 40, "cull_interval": 5, "cull_connected": False}
"""A page says when it is left, but not if its browser or device dies: such a kernel ends within a minute."""


@click.command(
    short_help="Serve the cut explorer as a web page.",
    epilog=examples("higgsnb dashboard", "higgsnb dashboard cms2012 --port 8900 --no-browser"),
)
@click.argument("name", envvar="HIGGSNB_CAMPAIGN", **CAMPAIGN)
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
    package = Path(__file__).parents[1]
    in_clone = package.parent / "notebooks" / "dashboard.ipynb"
    installed = (Path(folder, in_clone.name) for folder in jupyter_path("voila", "templates", "higgsnb"))
    source = next(path for path in (in_clone, *installed) if path.is_file())
    os.environ["HIGGSNB_CAMPAIGN"] = str(Path(name).resolve()) if Path(name).is_file() else name
    static = str(package / "widgets" / "static")
    os.environ["JUPYTER_PATH"] = os.pathsep.join(filter(None, [static, os.environ.get("JUPYTER_PATH")]))
    options = [str(source), f"--port={port}", f"--Voila.ip={ip}", *(["--no-browser"] if no_browser else [])]
    options += [f"--MappingKernelManager.{trait}={value}" for trait, value in CULLING.items()]
    Voila.launch_instance(options)
