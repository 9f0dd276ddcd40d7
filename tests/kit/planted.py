"""What an attacker puts at a name that a program will use: a link to a file of the victim, or an endless pipe."""

from __future__ import annotations

import os
from pathlib import Path

KINDS = ("symbolic", "hard", "dangling", "pipe")


def plant(kind: str, path: Path, victim: Path) -> None:
    """Plant at a path; the victim's file holds "precious", unless the link dangles."""
    if kind != "dangling":
        victim.write_text("precious")
    if kind == "hard":
        path.hardlink_to(victim)
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(victim)


def is_untouched(kind: str, victim: Path) -> bool:
    """Whether the victim's file is as it was planted."""
    return not victim.exists() if kind == "dangling" else victim.read_text() == "precious"
