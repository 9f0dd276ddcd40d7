"""``python -m higgsnb`` and ``higgsnb``: the command line, see `cli`."""

from __future__ import annotations

from higgsnb.cli import main

__all__ = ["main"]

if __name__ == "__main__":
    main(prog_name="higgsnb")
