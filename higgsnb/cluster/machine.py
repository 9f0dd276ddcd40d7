"""What this machine or session can do: checks, each with what was found and, if that is a problem, a hint."""

from __future__ import annotations

import os
import platform
import shutil
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata, util
from pathlib import Path

from higgsnb import engine, provenance, selection, storage
from higgsnb.datasets import Address
from higgsnb.errors import LedgerError, describe
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
    checks = {"python": _check_python, "memory": _check_memory, "cache": _check_caches, "session": _check_session}
    for name, check in checks.items():
        yield from completed(name, check)


def completed(name: str, check: Callable[[], Iterator[Check]]) -> Iterator[Check]:
    """Yield some checks; if they cannot be completed, a last one that says why: that is a finding, too."""
    try:
        yield from check()
    except Exception as error:  # noqa: BLE001 - a diagnosis does not fail for what it looks for
        message, hint = describe(error)
        yield Check(name, False, message, hint)


def _check_python() -> Iterator[Check]:
    good = (3, 11) <= sys.version_info[:2] < (3, 14)
    found = f"{platform.python_version()} on {platform.platform()}"
    yield Check("python", good, found, "Use Python 3.11, 3.12 or 3.13.")
    missing = [name for name in provenance.LIBRARIES if util.find_spec(name.replace("-", "_")) is None]
    installed = [name for name in ("higgsnb", *provenance.LIBRARIES) if name not in missing]
    found = ", ".join(f"{name} {metadata.version(name)}" for name in installed)
    if missing:
        found = f"missing: {', '.join(missing)}"
    yield Check("libraries", not missing, found, "Install the package again: pip install -e .")
    missing_xrootd = "not installed; https is used (pip install 'higgsnb[xrootd]' adds root://)"
    yield Check("xrootd", True, "installed" if util.find_spec("XRootD") else missing_xrootd)


def _check_memory() -> Iterator[Check]:
    limit = memory_limit()
    found = "limit not known" if limit is None else f"{limit / 1e9:.1f} GB"
    hint = "Close other programs, or run with --workers 1 --chunk-events 50000."
    yield Check("memory", limit is None or limit >= MEMORY_NEEDED, found, hint)
    yield Check("cores", True, str(provenance.available_cores()))


def _check_caches() -> Iterator[Check]:
    """Check where files are kept and shared, and whether the file system of this folder has locks."""
    compiled = selection.COMPILED_FOLDER
    found = f"kept in {compiled}" if compiled else "not kept, so that each process compiles what is not shared"
    yield Check("compiled code", bool(compiled), found, "Set HIGGSNB_CACHE to a folder that you may write to.")
    for folder in storage.shared_caches():
        parts = [folder / "toy", folder / "files", *folder.glob("skims/code-*"), *folder.glob("compiled-*")]
        parts = [part for part in parts if os.access(part, os.F_OK)]
        bad = next((f"{part} {why}" for part in parts if (why := storage.distrust(part))), "")
        found = bad or f"{folder}{'' if parts else ': nothing in it'}"
        hint = f"Prepare it (higgsnb warm --shared {folder}); its owner can run chmod -R go-w {folder}."
        if parts or folder != storage.INSTALLED_CACHE:
            yield Check("shared cache", bool(parts) and not bad, found, hint)
    try:
        engine.check_locks(Path.cwd())
    except LedgerError as error:
        yield Check("locks", False, error.message, error.hint)
    except OSError as error:
        yield Check("this folder", False, f"{Path.cwd()} cannot be written to: {error.strerror}", "Give run --out DIR.")
    folder = storage.cache_folder()
    existing = next(path for path in (folder, *folder.parents) if os.access(path, os.F_OK))
    free = shutil.disk_usage(existing).free
    lasting = not folder.is_relative_to(tempfile.gettempdir()) or "HIGGSNB_CACHE" in os.environ
    found = f"{folder}, {free / 1e9:.1f} GB free{'' if lasting else '; it may be emptied at any time'}"
    good = storage.can_be_written(folder) and free > DISK_NEEDED and lasting
    yield Check("cache", good, found, "Set HIGGSNB_CACHE to a folder with room that you may write to.")


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


def _check_session() -> Iterator[Check]:
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
