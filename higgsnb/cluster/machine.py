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

from higgsnb import provenance, storage
from higgsnb.datasets import Address

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


def checks() -> Iterator[Check]:
    """Yield every check of this machine."""
    yield _python()
    yield _libraries()
    yield _memory()
    yield Check("cores", True, str(provenance.available_cores()))
    yield _cache()
    yield _compiler_cache()
    yield _session()
    yield _mirror()
    yield _network()
    yield _xrootd()


def _python() -> Check:
    """Check Python's version."""
    good = (3, 11) <= sys.version_info[:2] < (3, 14)
    return Check(
        "python", good, f"{platform.python_version()} on {platform.platform()}", "Use Python 3.11, 3.12 or 3.13."
    )


def _libraries() -> Check:
    """Check that every required library is installed."""
    missing = [name for name in provenance.LIBRARIES if util.find_spec(name.replace("-", "_")) is None]
    if missing:
        return Check(
            "libraries", False, f"missing: {', '.join(missing)}", "Install the package again: pip install -e ."
        )
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("higgsnb", *provenance.LIBRARIES))
    return Check("libraries", True, versions)


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


def _memory() -> Check:
    """Check the memory limit."""
    limit = memory_limit()
    if limit is None:
        return Check("memory", True, "limit not known")
    hint = "Close other programs, or run with --workers 1 --chunk-events 50000."
    return Check("memory", limit >= MEMORY_NEEDED, f"{limit / 1e9:.1f} GB", hint)


def _cache() -> Check:
    """Check that the cache folder can be written and has room."""
    folder = storage.cache_folder()
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    good = os.access(existing, os.W_OK) and free > DISK_NEEDED
    return Check(
        "cache",
        good,
        f"{folder}, {free / 1e9:.1f} GB free",
        "Set HIGGSNB_CACHE to a folder with room that you may write to.",
    )


def _compiler_cache() -> Check:
    """Check that compiled code can be cached, so that it is compiled once and not at every start."""
    folder = Path(os.environ.get("NUMBA_CACHE_DIR") or Path(__file__).parent)
    good = os.access(folder, os.W_OK)
    return Check(
        "compiled code",
        good,
        f"kept in {folder}" if good else f"{folder} is read-only",
        "Set NUMBA_CACHE_DIR to a folder that you may write to.",
    )


def _session() -> Check:
    """Return whether this is a Binder or a hub session."""
    if os.environ.get("BINDER_REPO_URL"):
        host = os.environ.get("BINDER_LAUNCH_HOST", "an unknown host")
        return Check("session", True, f"Binder at {host}, {os.environ.get('BINDER_REF_URL', '')}")
    if os.environ.get("JUPYTERHUB_SERVICE_PREFIX"):
        return Check("session", True, f"JupyterHub, {os.environ['JUPYTERHUB_SERVICE_PREFIX']}")
    return Check("session", True, "this machine, no Binder or hub")


def _mirror() -> Check:
    """Check the mirror, if one is set."""
    mirror = os.environ.get("HIGGSNB_MIRROR")
    if not mirror:
        return Check("mirror", True, "none (HIGGSNB_MIRROR is not set)")
    address = Address.of(mirror)
    good = address.valid and (address.is_remote or (address.is_local and address.local_path.is_dir()))
    return Check(
        "mirror",
        good,
        str(address),
        "HIGGSNB_MIRROR is neither a folder nor an address; correct it, or unset it to use the network.",
    )


def _network() -> Check:
    """Check that the open data portal can be reached."""
    host = "opendata.cern.ch"
    try:
        with socket.create_connection((host, 443), timeout=3):
            return Check("network", True, f"{host} answers")
    except OSError as error:
        hint = (
            "Without a network the campaign toy still runs; for others set HIGGSNB_MIRROR to a folder with the files."
        )
        return Check("network", False, f"{host} cannot be reached ({error})", hint)


def _xrootd() -> Check:
    """Return whether root:// addresses can be read."""
    found = util.find_spec("XRootD") is not None
    return Check(
        "xrootd",
        True,
        "installed" if found else "not installed; https is used (pip install 'higgsnb[xrootd]' adds root://)",
    )
