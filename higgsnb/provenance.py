"""What made a result: code, libraries, machine. It holds what identifies these, never local paths or secrets."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
import sys
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from higgsnb.redaction import redact

LIBRARIES = ("awkward", "boost-histogram", "hist", "numba", "numpy", "pyarrow", "uproot")
"""Libraries whose version can change a result."""

READ_MODULES = ("storage", "text", "datasets", "selection", "events")
"""What can change which leptons are read of a file: wings, and modules beside them."""

RESULT_MODULES = (*READ_MODULES, "results")
"""What can change what is counted in a chunk, likewise."""

_PACKAGE = Path(__file__).resolve().parent


@cache
def code() -> dict[str, Any]:
    """Return the version of this package, the sha256 of its sources, and the git commit if it runs from a checkout."""

    def git(*arguments: str) -> str | None:
        try:
            command = ["git", *arguments]
            done = subprocess.run(command, cwd=_PACKAGE, capture_output=True, text=True, timeout=10, check=True)
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout.strip()

    commit = git("rev-parse", "HEAD") if (_PACKAGE.parent / ".git").exists() else None
    dirty = None if commit is None else bool(git("status", "--porcelain", "--untracked-files=no"))
    found = {"package": "higgsnb", "version": version(), "sources_sha256": sources_sha256()}
    return {**found, "git_commit": commit, "git_dirty": dirty}


@cache
def version() -> str:
    """Return the version of this package."""
    return metadata.version("higgsnb")


@cache
def sources_sha256(*names: str) -> str:
    """Return the sha256 (hex) over sources of this package.

    Names are those of modules, or of folders of which every Python file counts; without any, all Python and TOML files.
    """
    paths = {path for path in _PACKAGE.rglob("*") if path.suffix in (".py", ".toml")} if not names else set()
    for name in names:
        folder = _PACKAGE / name
        paths |= set(folder.rglob("*.py")) if folder.is_dir() else {folder.with_suffix(".py")}
    digest = hashlib.sha256()
    for path in sorted(paths):
        digest.update(path.relative_to(_PACKAGE).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


@cache
def libraries() -> dict[str, str]:
    """Return the versions of the libraries that can change a result."""
    return {name: metadata.version(name) for name in LIBRARIES}


def available_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def notebook_kernel() -> Any:
    """Return the kernel of the notebook that runs this process; None outside one."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return getattr(shell, "kernel", None)


def machine() -> dict[str, Any]:
    """Return what this computation ran on, for the ``run`` block of a result."""
    return {
        "python": platform.python_version(),
        "system": platform.platform(),
        "cpu": platform.machine(),
        "cores": os.cpu_count(),
        "image": redact(os.environ.get("JUPYTER_IMAGE_SPEC", "")) or None,
        "binder": redact(os.environ.get("BINDER_REF_URL", "")) or None,
    }
