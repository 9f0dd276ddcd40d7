"""The command line: ``higgsnb run``, ``plan``, ``fetch``, ``ledger``, ``dashboard``, ``doctor``,
``warm`` and ``clean``.

It parses arguments, calls the package, prints what it returns, and sets the exit code.
"""

from __future__ import annotations

from higgsnb.cli import clean, dashboard, doctor, fetch, ledger, plan, run, warm
from higgsnb.cli.group import main

__all__ = ["main"]

# In the order of use, which is that of --help.
for room in (
    run.run,
    plan.plan,
    fetch.fetch,
    dashboard.dashboard,
    ledger.ledger,
    doctor.doctor,
    warm.warm,
    clean.clean,
):
    main.add_command(room)
