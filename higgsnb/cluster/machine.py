"""What this machine or session can do: checks, each with what was found and, if that is a problem, a hint."""

from __future__ import annotations

import os
import platform
import shutil
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata, util
from pathlib import Path

from higgsnb import provenance, selection, storage
from higgsnb.datasets import Address
from higgsnb.redaction import redact

MEMORY_NEEDED = 1.2e9
"""Bytes that an analysis with two workers takes at most."""
DISK_NEEDED = 100e6
"""Bytes of cache that the toy campaign needs, generously."""
CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


@dataclass(frozen=True)
class Check:
    """One finding; ``hint`` is what to do if it is not ``good``."""

    name: str
    good: bool
    found: str
    hint: str = ""

    def __post_init__(self) -> None:
        for name in ("found", "hint"):  # variables of a session may hold a token
            object.__setattr__(self, name, redact(getattr(self, name)))


def check_machine() -> Iterator[Check]:
    """Yield every check of this machine."""
    good = (3, 11) <= sys.version_info[:2] < (3, 14)
    found = f"{platform.python_version()} on {platform.platform()}"
    yield Check("python", good, found, "Use Python 3.11, 3.12 or 3.13.")
    missing = [name for name in provenance.LIBRARIES if util.find_spec(name.replace("-", "_")) is None]
    installed = [name for name in ("higgsnb", *provenance.LIBRARIES) if name not in missing]
    found = ", ".join(f"{name} {metadata.version(name)}" for name in installed)
    if missing:
        found = f"missing: {', '.join(missing)}"
    yield Check("libraries", not missing, found, "Install the package again: pip install -e .")
    limit = memory_limit()
    found = "limit not known" if limit is None else f"{limit / 1e9:.1f} GB"
    hint = "Close other programs, or run with --workers 1 --chunk-events 50000."
    yield Check("memory", limit is None or limit >= MEMORY_NEEDED, found, hint)
    yield Check("cores", True, str(provenance.available_cores()))
    folder = storage.cache_folder()
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    good = os.access(existing, os.W_OK) and free > DISK_NEEDED
    hint = "Set HIGGSNB_CACHE to a folder with room that you may write to."
    yield Check("cache", good, f"{folder}, {free / 1e9:.1f} GB free", hint)
    compiled = selection.COMPILED_FOLDER
    found = f"kept in {compiled}" if compiled else "not kept, so that each process compiles for itself"
    yield Check("compiled code", bool(compiled), found, "Set NUMBA_CACHE_DIR to a folder that you may write to.")
    yield from _surroundings()
    missing_xrootd = "not installed; https is used (pip install 'higgsnb[xrootd]' adds root://)"
    yield Check("xrootd", True, "installed" if util.find_spec("XRootD") else missing_xrootd)


def memory_limit() -> int | None:
    """Return the memory in bytes that this process may use: the container's limit or the machine's; None: unknown."""
    limits = []
    for path in CGROUP_LIMITS:
        text = Path(path).read_text(encoding="ascii").strip() if Path(path).is_file() else ""
        if text.isdigit() and int(text) < 2**60:
            limits.append(int(text))
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        limits.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    return min(limits, default=None)


def _surroundings() -> Iterator[Check]:
    """Check the kind of session, the mirror if one is set, and the way to the open data portal."""
    found = "this machine, no Binder or hub"
    if os.environ.get("BINDER_REPO_URL"):
        host = os.environ.get("BINDER_LAUNCH_HOST", "an unknown host")
        found = f"Binder at {host}, {os.environ.get('BINDER_REF_URL', '')}"
    elif os.environ.get("JUPYTERHUB_SERVICE_PREFIX"):
        found = f"JupyterHub, {os.environ['JUPYTERHUB_SERVICE_PREFIX']}"
    yield Check("session", True, found)
    good, found = True, "none (HIGGSNB_MIRROR is not set)"
    if mirror := os.environ.get("HIGGSNB_MIRROR"):
        address = Address.of(mirror)
        good = address.valid and (address.is_remote or (address.is_local and address.local_path.is_dir()))
        found = str(address)
    hint = "HIGGSNB_MIRROR is neither a folder nor an address; correct it, or unset it to use the network."
    yield Check("mirror", good, found, hint)
    host = "opendata.cern.ch"
    good, found = True, f"{host} answers"
    try:
        socket.create_connection((host, 443), timeout=3).close()
    except OSError as error:
        good, found = False, f"{host} cannot be reached ({error})"
    hint = "Without a network the campaign toy still runs; for others set HIGGSNB_MIRROR to a folder with the files."
    yield Check("network", good, found, hint)
