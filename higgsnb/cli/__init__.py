"""The command line: ``higgsnb run``, ``plan``, ``fetch``, ``dashboard``, ``ledger``, ``doctor``, ``warm``, ``clean``.

It parses arguments, calls the package, prints what it returns, and sets the exit code.
"""

from __future__ import annotations

from higgsnb.cli import clean, dashboard, doctor, fetch, ledger, plan, run, warm
from higgsnb.cli.group import main

__all__ = ["main"]

for command in (  # in the order of use, which is that of --help
    run.run, plan.plan, fetch.fetch, dashboard.dashboard, ledger.ledger, doctor.doctor, warm.warm, clean.clean,
):  # fmt: skip
    main.add_command(command)
