"""Machines where little may be written: read-only file systems, foreign users, no home, no locks.

They are real: a mount namespace of its own in which everything is read-only, the rights of another user, system calls
that fail as on some network file systems.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import higgsnb

STRANGER = 123456
"""A user without an entry in the list of users, as containers on OpenShift have them."""
PACKAGE = Path(higgsnb.__file__).resolve().parent

_ENTER = r"""
import json, os, subprocess, sys
from pathlib import Path

given = json.load(sys.stdin)

def mount(*arguments):
    subprocess.run(["mount", *arguments], check=True)

# Folders behind one that the stranger may not enter (the home of root, pytest's own) are put where they were again.
hidden = {}
for place in map(Path, given["visible"]):
    closed = next((path for path in reversed(place.parents) if not path.stat().st_mode & 0o001), None)
    if closed is not None:
        hidden[place] = closed
mount("-t", "tmpfs", "none", "/mnt")
for number, place in enumerate(hidden):
    Path(f"/mnt/{number}").mkdir()
    mount("--bind", str(place), f"/mnt/{number}")
for closed in dict.fromkeys(hidden.values()):
    mount("-t", "tmpfs", "-o", "mode=755", "none", str(closed))
for number, place in enumerate(hidden):
    place.mkdir(parents=True, exist_ok=True)
    mount("--bind", f"/mnt/{number}", str(place))
for place in given["writable"]:
    mount("--bind", place, place)
for place in dict.fromkeys(line.split()[4] for line in open("/proc/self/mountinfo")):
    if place not in given["writable"] and not place.startswith(("/proc", "/sys", "/mnt/")):
        subprocess.run(["mount", "-o", "remount,bind,ro", place], stderr=subprocess.DEVNULL)
os.setgroups([])
os.setgid(0)
os.setuid(given["user"])
os.chdir(given["writable"][0])
os.execve(given["command"][0], given["command"], given["environment"])
"""


def why_no_namespaces() -> str:
    """Why there can be no mount namespace here; empty if there can."""
    if sys.platform != "linux" or os.getuid() != 0:
        return "needs root on Linux, for a mount namespace (unshare -m) and another user"
    done = subprocess.run(["unshare", "-m", "true"], capture_output=True, text=True, check=False)
    return f"unshare -m: {done.stderr.strip()}" if done.returncode else ""


def as_stranger(
    *arguments: str, out: Path, visible: tuple[Path, ...] = (), **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run Python as user `STRANGER`, where nothing but ``out`` can be written, with no other variables than these."""
    out.mkdir(exist_ok=True)
    out.chmod(0o777)
    python = [Path(sys.base_prefix).resolve(), Path(sys.prefix).resolve(), PACKAGE.parent]
    given = {
        "visible": [str(path) for path in dict.fromkeys((*python, out, *visible))],
        "writable": [str(out)],
        "user": STRANGER,
        "command": [sys.executable, *arguments],
        "environment": {"PATH": os.defpath, "LANG": "C.UTF-8", "PYTHONPATH": str(PACKAGE.parent), **environment},
    }
    command = ["unshare", "-m", "--propagation", "private", sys.executable, "-c", _ENTER]
    return subprocess.run(command, input=json.dumps(given), capture_output=True, text=True, check=False)


def copy_for_all(source: Path, target: Path) -> Path:
    """Copy a folder so that everybody can read it, and only its owner write."""
    shutil.copytree(source, target)
    for path in (target, *target.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return target


_CALLS = {"x86_64": {"flock": 73, "fcntl": 72}, "aarch64": {"flock": 32, "fcntl": 25}}

WITHOUT_LOCKS = f"""
import ctypes, struct

def without_locks(kind, error):
    '''Let a kind of locks ("flock" or "fcntl") fail from now on in this process, as a file system without them does.'''
    call = {_CALLS.get(platform.machine())}[kind]
    load, equal, answer = 0x20, 0x15, 0x06
    allow, refuse = 0x7fff0000, 0x50000 | error
    program = [(load, 0, 0, 0), (equal, 0, 1, call)]
    if kind == "fcntl":  # the second argument says what is wanted: set a lock, or wait for one
        program = [(load, 0, 0, 0), (equal, 0, 4, call), (load, 0, 0, 24), (equal, 1, 0, 6), (equal, 0, 1, 7)]
    program += [(answer, 0, 0, refuse), (answer, 0, 0, allow)]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in program))
    filter_ = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(program), ctypes.addressof(code)))
    library = ctypes.CDLL(None, use_errno=True)
    for arguments in ((38, 1, 0, 0, 0), (22, 2, filter_, 0, 0)):
        assert library.prctl(*arguments) == 0, ctypes.get_errno()
"""
"""Defines ``without_locks``, in Python; empty call numbers on a processor that is not listed."""


def why_no_filters() -> str:
    """Why system calls cannot be made to fail here; empty if they can."""
    known = sys.platform == "linux" and platform.machine() in _CALLS
    return "" if known else f"the numbers of the system calls of {sys.platform} on {platform.machine()} are not known"
