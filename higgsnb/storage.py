"""Where files are kept between runs, also on machines where little may be written, and how they are written.

The *cache* of a user is the first of these folders: ``HIGGSNB_CACHE``; the platform's folder for caches; below the
folder for temporary files, one for this user alone. *Shared caches* were prepared by somebody else (`engine.warm`):
they are read, never written. These are the folders that ``HIGGSNB_SHARED_CACHE`` names, separated as in ``PATH``, or,
if it is not set, the one of this installation; and ``HIGGSNB_CACHE`` if it names a folder that cannot be written to.
"""

from __future__ import annotations

import atexit
import logging
import multiprocessing
import os
import shutil
import stat
import sys
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from higgsnb.errors import OptionError

__all__ = [
    "INSTALLED_CACHE",
    "atomic_write",
    "cache_folder",
    "cached",
    "can_be_written",
    "distrust",
    "expanded",
    "given_cache",
    "house_libraries",
    "is_trusted",
    "shared",
    "shared_caches",
]

INSTALLED_CACHE = Path(sys.prefix, "share", "higgsnb")
"""The shared cache of the environment that this package is installed in; it need not exist."""

OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH

log = logging.getLogger(__name__)


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Write a file so that readers see the old content or the new one, never a part of it.

    The block writes to the temporary path that it is given, in the same folder; after it the file gets its name. If
    the block raises, the file is as before and the temporary one is removed.

    Raises
    ------
    OSError
        If it cannot be written; names ``path``, not the temporary file.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        yield temporary
        temporary.replace(path)
    except OSError as error:
        if error.filename == str(temporary):
            raise OSError(error.errno, error.strerror, str(path)) from None
        raise
    finally:
        temporary.unlink(missing_ok=True)


def cache_folder() -> Path:
    """Return the cache of this user, as described at the top of this module; it need not exist yet.

    Raises
    ------
    OptionError
        If there is no folder to write to, or ``HIGGSNB_CACHE`` begins with the home of nobody.
    """
    given = given_cache()
    if given is not None and not _is_read_only(given):
        return given
    found = _platform_cache()
    found = found if found is not None and can_be_written(found) else _temporary_cache()
    if found is None:
        message = "there is no folder to keep files in: neither the home folder nor one for temporary files is writable"
        raise OptionError(message, "Set HIGGSNB_CACHE to a folder that you may write to.")
    return found


def given_cache() -> Path | None:
    """Return the folder that ``HIGGSNB_CACHE`` names, None if it is not set.

    Raises
    ------
    OptionError
        If it begins with the home of nobody.
    """
    given = os.environ.get("HIGGSNB_CACHE")
    if not given:
        return None
    folder = expanded(given)
    if folder.parts[0] == "~":  # not the name of a folder
        message = f"HIGGSNB_CACHE = {given}: this user has no home folder"
        raise OptionError(message, "Set it to a path that begins with a slash.")
    return folder.absolute()


def shared_caches() -> tuple[Path, ...]:
    """Return the shared caches, as described at the top of this module; they may be absent, or not be trusted."""
    names = os.environ.get("HIGGSNB_SHARED_CACHE", str(INSTALLED_CACHE)).split(os.pathsep)
    folders = [expanded(name).absolute() for name in names if name]
    with suppress(OptionError):
        if (given := given_cache()) is not None and _is_read_only(given):
            folders.insert(0, given)
    return tuple(dict.fromkeys(folders))


def shared(name: str) -> Iterator[Path]:
    """Yield the folders called ``name`` in shared caches, without those that are not trusted (they are logged once)."""
    for folder in shared_caches():
        if os.access(folder / name, os.R_OK | os.X_OK) and is_trusted(folder / name):
            yield folder / name


def cached(name: str) -> Iterator[Path]:
    """Yield the folders called ``name`` in which to look for something: in the cache of this user, then as `shared`."""
    with suppress(OptionError):
        yield cache_folder() / name
    yield from shared(name)


def can_be_written(folder: Path) -> bool:
    """Whether a folder can be written to, or made; nothing is made."""
    existing = next(path for path in (folder, *folder.absolute().parents) if os.access(path, os.F_OK))
    return os.access(f"{existing}/.", os.W_OK | os.X_OK)  # the dot: a file is not a folder


def distrust(path: Path) -> str:
    """Return why what is at a path is not believed, as others could have changed it; empty if it is, or is absent.

    It is believed if it belongs to this user, to root, or to whom this package belongs (whose code is run anyway), and
    if neither its group nor others may write to it. Of a link, both it and what it leads to count.
    """
    if not hasattr(os, "getuid"):  # Windows has rights of another kind
        return ""
    try:
        states = path.lstat(), path.stat()
    except OSError:
        return ""
    owners = {os.getuid(), 0, Path(__file__).stat().st_uid}
    for state in states:
        if state.st_uid not in owners:
            return f"belongs to user {state.st_uid}"
        if state.st_mode & OTHERS_WRITE and not stat.S_ISLNK(state.st_mode):
            return f"can be written to by others (mode {stat.S_IMODE(state.st_mode):o})"
    return ""


def is_trusted(folder: Path) -> bool:
    """Whether the files in a folder are believed, see `distrust`; logs once why not."""
    why = distrust(folder)
    if why:
        _warn_once(f"{folder} {why}, so what is in it is not used; its owner can run: chmod -R go-w {folder}")
    return not why


def house_libraries() -> None:
    """Give libraries that keep files in the home folder another place if there is no home, or it is read-only.

    Otherwise matplotlib would not start, or list the fonts of the machine anew in each process, and Dask would make a
    folder called ``~``. What the user has set is left as it is.
    """
    home = expanded("~")  # not absolute if there is neither HOME nor an entry in the list of users
    folders = [
        Path(os.environ.get(name) or home / default)
        for name, default in (("XDG_CONFIG_HOME", ".config"), ("XDG_CACHE_HOME", ".cache"))
    ]
    if all(folder.is_absolute() and can_be_written(folder) for folder in folders):
        return
    try:
        place = cache_folder()
    except OptionError:
        return
    os.environ.setdefault("MPLCONFIGDIR", str(place / "matplotlib"))
    if not home.is_absolute():
        os.environ.setdefault("DASK_CONFIG", str(place / "dask"))


def _is_read_only(folder: Path) -> bool:
    """Whether a folder exists but cannot be written to."""
    return os.access(f"{folder}/.", os.F_OK) and not can_be_written(folder)


def _platform_cache() -> Path | None:
    """Return the platform's folder for caches, None without a home."""
    import platformdirs

    with suppress(RuntimeError):
        folder = Path(platformdirs.user_cache_dir("higgsnb", appauthor=False))
        return folder if folder.is_absolute() else None
    return None


def _temporary_cache() -> Path | None:
    """Return a folder that no other user can write to, below the one for temporary files; None if that is read-only.

    Its name is always the same, so that the next process finds it, too. Only who makes it says so.
    """
    if not hasattr(os, "getuid"):
        return None
    try:
        base = tempfile.gettempdir()
    except FileNotFoundError:
        base = "/dev/shm"  # noqa: S108 - memory; in a container with a read-only file system it is there
    with suppress(OSError):
        folder = Path(base, f"higgsnb-{os.getuid()}")
        with suppress(FileExistsError):
            folder.mkdir(mode=0o700)
            log.warning(
                "files are kept in %s, as there is no other folder to write to; set HIGGSNB_CACHE to keep them longer",
                folder,
            )
        state = folder.lstat()
        mine = stat.S_ISDIR(state.st_mode) and state.st_uid == os.getuid() and not state.st_mode & OTHERS_WRITE
        return folder if mine else _private_folder(folder)
    return None


@cache
def _private_folder(taken: Path) -> Path:
    """Return a new folder, for this process, beside one that somebody else has made."""
    folder = Path(tempfile.mkdtemp(prefix=f"{taken.name}-", dir=taken.parent))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    log.warning("%s is not a folder of yours: files are kept in %s until this process ends", taken, folder)
    return folder


@cache
def _warn_once(text: str) -> None:
    """Log a warning; a worker process leaves that to the one that started it."""
    (log.warning if multiprocessing.parent_process() is None else log.info)("%s", text)


def expanded(path: str) -> Path:
    """Replace a leading ``~``; the home of an unknown user is left as it is written."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)
