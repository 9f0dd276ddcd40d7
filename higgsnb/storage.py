"""Where files are kept between runs, whose files are believed, and how they are written.

What lies in a cache can change numbers, and compiled code in it is executed. So a folder or file in it is believed only
if it is owned by this user or by root and cannot be written to by anybody else, see `distrust`: a cache that an
administrator has prepared is used, one in which others can put things is not.
"""

from __future__ import annotations

import atexit
import errno
import multiprocessing
import os
import shutil
import stat
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import IO

from higgsnb.redaction import logger

__all__ = [
    "NotOwnFileError",
    "atomic_write",
    "cache_folder",
    "distrust",
    "expanded",
    "is_trusted",
    "make_folder",
    "open_no_link",
    "own_folder",
]

log = logger(__name__)

OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
NO_LINK = getattr(os, "O_NOFOLLOW", 0)  # Windows has none, nor links that everybody can make


class NotOwnFileError(OSError):
    """A link, or what is no regular file, under a name of this package: writing would change another file."""


@contextmanager
def atomic_write(path: Path, *, mode: int = 0o666) -> Iterator[Path]:
    """Write a file so that readers see the old content or the new one, never a part of it.

    The block writes to the temporary path that it is given, an empty file in the same folder under a name that cannot
    be foreseen; after it the file gets its name. If the block raises, the file is as before and the temporary one is
    removed. ``mode`` has its permissions, from which the umask is taken; for what is to be believed later, 0o644.

    Raises
    ------
    OSError
        If it cannot be written; names ``path``, not the temporary file.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | NO_LINK, mode))
        yield temporary
        temporary.replace(path)
    except OSError as error:
        if error.filename == str(temporary):
            raise OSError(error.errno, error.strerror, str(path)) from None
        raise
    finally:
        temporary.unlink(missing_ok=True)


def open_no_link(path: Path, *, mode: int = 0o666) -> IO[bytes]:
    """Open a regular file to read and append; it is made with the permissions ``mode`` if it is absent.

    At a name that others can foresee there may be a link to a file of this user, which would be overwritten.

    Raises
    ------
    NotOwnFileError
        If it is a link, has a second name (a hard link), or is no regular file.
    """
    with suppress(FileNotFoundError):
        _check_plain(path, path.lstat())
    file = open(path, "a+b", opener=lambda name, flags: os.open(name, flags | NO_LINK, mode))  # noqa: SIM115
    try:
        _check_plain(path, os.fstat(file.fileno()))
    except NotOwnFileError:
        file.close()
        raise
    return file


def _check_plain(path: Path, state: os.stat_result) -> None:
    """Raise NotOwnFileError for what is no regular file, or one with several names."""
    if not stat.S_ISREG(state.st_mode):
        raise NotOwnFileError(
            errno.ELOOP, "is a link" if stat.S_ISLNK(state.st_mode) else "is not a regular file", str(path)
        )
    if state.st_nlink > 1:
        raise NotOwnFileError(errno.ELOOP, "is a second name of another file", str(path))


def cache_folder(*names: str) -> Path:
    """Return the cache, or a folder in it: ``HIGGSNB_CACHE``, else the platform's cache folder. It need not exist yet.

    Where others can write, it is a folder of this user's in there, see `own_folder`.
    """
    given = os.environ.get("HIGGSNB_CACHE")
    if given:
        folder = expanded(given).absolute()
    else:
        import platformdirs

        folder = Path(platformdirs.user_cache_dir("higgsnb", appauthor=False))
    folder = own_folder(folder)
    for name in names:
        folder = own_folder(folder / name)
    return folder


def own_folder(folder: Path) -> Path:
    """Return a folder if it is believed or absent; else one of this user's in it or, if there is none, a temporary one.

    Says so once, with what to do about it.
    """
    reason = distrust(folder)
    if not reason:
        return folder
    own = folder / f"user-{os.geteuid()}"
    if distrust(own) or not os.access(own if own.exists() else folder, os.W_OK | os.X_OK):
        own = _temporary_folder()
    _say_once(folder, reason, own)
    return own


def distrust(path: Path) -> str:
    """Return why what is at a path is not believed: its owner is neither this user nor root, or others can write to it.

    Empty if it is believed or absent. Of a link, both it and what it leads to count.
    """
    if not hasattr(os, "geteuid"):  # Windows has owners and rights of another kind
        return ""
    for look in (path.lstat, path.stat):
        try:
            state = look()
        except OSError:  # nothing there, or nothing that can be read
            return ""
        if state.st_uid not in (0, os.geteuid()):
            return f"belongs to user {state.st_uid}"
        if state.st_mode & OTHERS_WRITE and not stat.S_ISLNK(state.st_mode):
            return f"can be written to by others (mode {stat.S_IMODE(state.st_mode):o})"
    return ""


def is_trusted(folder: Path) -> bool:
    """Whether the files in a folder are believed, see `distrust`; if not, says so once."""
    reason = distrust(folder)
    if reason:
        _say_once(folder, reason, None)
    return not reason


@cache
def _say_once(folder: Path, reason: str, own: Path | None) -> None:
    """Warn of a folder that is not believed; a worker process leaves that to the one that started it."""
    hint = f"If you trust what is in it, run `chmod -R go-w {folder}`; or set HIGGSNB_CACHE to a folder of your own."
    if reason.startswith("belongs"):
        hint = "Set HIGGSNB_CACHE to a folder of your own."
    say = log.warning if multiprocessing.parent_process() is None else log.info
    say("%s %s: what is in it is not used%s. %s", folder, reason, f", but {own}" if own else "", hint)


@cache
def _temporary_folder() -> Path:
    """Return a folder that nobody else can enter, removed at the end of this process."""
    folder = tempfile.mkdtemp(prefix="higgsnb-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


def make_folder(folder: Path) -> None:
    """Make a folder of the cache if it is absent, and those above it; whatever the umask, others cannot write to it."""
    for path in (*reversed(folder.parents), folder):
        if not path.exists():
            path.mkdir(mode=0o755, exist_ok=True)


def expanded(path: str) -> Path:
    """Replace a leading ``~``; the home of an unknown user is left as it is written."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)
