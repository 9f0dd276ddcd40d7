"""``higgsnb clean``: remove orphaned clusters."""

from __future__ import annotations

import click

from higgsnb.cli.arguments import examples
from higgsnb.cli.terminal import show


@click.command(
    short_help="Remove orphaned clusters on Kubernetes.",
    epilog=examples("higgsnb clean", "higgsnb clean --namespace physics --yes"),
)
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
        show(item.text)
    chosen = [item for item in found if everything or not item.elsewhere]
    if not found:
        show("no orphaned clusters")
    elif not chosen:
        show("nothing removed; `higgsnb clean --all` includes clusters that may be in use elsewhere")
    if not chosen:
        return
    if not yes:
        click.confirm(f"Remove {len(chosen)} cluster{'s' if len(chosen) > 1 else ''}?", abort=True)
    cluster.remove_orphans(chosen)
    show(f"removed: {len(chosen)}")
