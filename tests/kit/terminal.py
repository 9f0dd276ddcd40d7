"""The command line in a pseudo-terminal: what a person sees."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from collections.abc import Mapping


def in_terminal(*arguments: str, columns: int = 80, **environment: str) -> str:
    """What `higgsnb` prints on stdout where that is a terminal of so many columns, escape sequences included."""
    outer, inner = pty.openpty()
    known: Mapping[str, str] = {
        name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "TERM")
    }
    with subprocess.Popen(
        [sys.executable, "-m", "higgsnb", *arguments],
        stdout=inner,
        stderr=subprocess.DEVNULL,
        env={**known, "COLUMNS": str(columns), "TERM": "xterm-256color", **environment},
    ) as process:
        os.close(inner)
        found = b""
        while True:
            try:
                part = os.read(outer, 65536)
            except OSError:  # how Linux says that the other end is closed
                part = b""
            if not part:
                break
            found += part
    os.close(outer)
    assert process.returncode == 0
    return found.decode().replace("\r\n", "\n")


def without_colour(text: str) -> str:
    """The text without escape sequences for colour and weight."""
    return re.sub(r"\x1b\[[\d;]*m", "", text)
