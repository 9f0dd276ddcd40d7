"""What made a result: code, libraries, machine. Names only what identifies, never paths of a machine or secrets."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
from functools import cache
from importlib import metadata
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

LIBRARIES = ("awkward", "boost-histogram", "hist", "numba", "numpy", "pyarrow", "uproot")
"""Libraries whose version can change a result."""

ANSWER = (
    "analysis",
    "baskets",
    "blocks",
    "compiled",
    "events",
    "histograms",
    "kernel",
    "luminosity",
    "pages",
    "pairings",
    "rules",
    "selection",
    "survivors",
)
"""Modules of this package whose code can change what is counted in a chunk."""

_PACKAGE = Path(__file__).resolve().parent


@cache
def code() -> dict[str, Any]:
    """Return the version of this package, the sha256 of its sources, and the git commit if it runs from a checkout."""
    return {"package": "higgsnb", "version": version(), "sources_sha256": sources_sha256(), **_git()}


@cache
def version() -> str:
    """Return the version of this package."""
    return metadata.version("higgsnb")


@cache
def sources_sha256(*modules: str) -> str:
    """Return the sha256 (hex) over the sources of some modules, or over all Python and TOML files of the package."""
    paths = [_PACKAGE / f"{name}.py" for name in modules] or [
        path for path in _PACKAGE.rglob("*") if path.suffix in (".py", ".toml")
    ]
    digest = hashlib.sha256()
    for path in sorted(paths):
        digest.update(path.relative_to(_PACKAGE).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def _git() -> dict[str, Any]:
    """Return commit and dirtiness of the checkout, or None for both."""
    commit = _run_git("rev-parse", "HEAD") if (_PACKAGE.parent / ".git").exists() else None
    dirty = None if commit is None else bool(_run_git("status", "--porcelain", "--untracked-files=no"))
    return {"git_commit": commit, "git_dirty": dirty}


def _run_git(*arguments: str) -> str | None:
    """Return what git prints, or None where it cannot say."""
    try:
        done = subprocess.run(["git", *arguments], cwd=_PACKAGE, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


@cache
def libraries() -> dict[str, str]:
    """Return the versions of the libraries that can change a result."""
    return {name: metadata.version(name) for name in LIBRARIES}


def machine() -> dict[str, Any]:
    """Return what this computation ran on, for the ``run`` block of a result."""
    return {
        "python": platform.python_version(),
        "system": platform.platform(),
        "cpu": platform.machine(),
        "cores": os.cpu_count(),
        "image": os.environ.get("JUPYTER_IMAGE_SPEC"),
        "binder": os.environ.get("BINDER_REF_URL"),
    }


def public_name(url: str) -> str:
    """Return an address without credentials or query; of a local path only the file's name."""
    parts = urlsplit(url)
    if parts.scheme in ("", "file") or len(parts.scheme) == 1:
        return PurePosixPath(url.replace("\\", "/")).name
    if parts.scheme == "toy":
        return url
    return f"{parts.scheme}://{parts.hostname or ''}{parts.path}"
