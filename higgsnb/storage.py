"""Where files are kept between runs, also on machines where little may be written, and how they are written.

The *cache* of a user is the first of these folders: ``HIGGSNB_CACHE``; the platform's folder for caches; below the
folder for temporary files, one for this user alone. *Shared caches* were prepared by somebody else (`engine.warm`):
they are read, never written. These are the folders that ``HIGGSNB_SHARED_CACHE`` names, separated as in ``PATH``, or,
if it is not set, the one of this installation; and ``HIGGSNB_CACHE`` if it names a folder that cannot be written to.

What lies in a cache can change numbers, and compiled code in it is executed. So a folder or file in it is believed only
if nobody else could have changed it, see `distrust`.
"""

from __future__ import annotations

import atexit
import errno
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
from typing import IO

from higgsnb.errors import OptionError
from higgsnb.redaction import logger

__all__ = [
    "INSTALLED_CACHE",
    "NotOwnFileError",
    "atomic_write",
    "cache_folder",
    "cached",
    "can_be_written",
    "distrust",
    "expanded",
    "given_cache",
    "house_libraries",
    "is_trusted",
    "make_folder",
    "open_no_link",
    "own_folder",
    "shared",
    "shared_caches",
]

INSTALLED_CACHE = Path(sys.prefix, "share", "higgsnb")
"""The shared cache of the environment that this package is installed in; it need not exist."""

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
        if error.errno is not None and error.filename in (None, str(temporary)):  # a full disk names no file
            raise OSError(error.errno, os.strerror(error.errno), str(path)) from None
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
    """Return the cache of this user, as described at the top of this module, or a folder in it; it need not exist yet.

    Where others can write, it is a folder of this user's in there, see `own_folder`.

    Raises
    ------
    OptionError
        If there is no folder to write to, or ``HIGGSNB_CACHE`` begins with the home of nobody.
    """
    folder = given_cache()
    if folder is None or _is_read_only(folder):
        folder = _platform_cache()
        if folder is None or not can_be_written(folder):
            folder = _temporary_cache()
    if folder is None:
        message = "there is no folder to keep files in: neither the home folder nor one for temporary files is writable"
        raise OptionError(message, "Set HIGGSNB_CACHE to a folder that you may write to.")
    for name in ("", *names):
        folder = own_folder(folder / name)
    return folder


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
        yield cache_folder(name)
    yield from shared(name)


def own_folder(folder: Path) -> Path:
    """Return a folder if it is believed or absent; else one of this user's in it or, if there is none, a temporary one.

    Says so once, with what to do about it.
    """
    reason = distrust(folder)
    if not reason:
        return folder
    own = folder / f"user-{os.geteuid()}"
    if distrust(own) or not os.access(own if own.exists() else folder, os.W_OK | os.X_OK):
        own = _temporary_cache() or own
    hint = f"If you trust what is in it, run `chmod -R go-w {folder}`; or set HIGGSNB_CACHE to a folder of your own."
    if reason.startswith("belongs"):
        hint = "Set HIGGSNB_CACHE to a folder of your own."
    _warn_once(f"{folder} {reason}: what is in it is not used, but {own}. {hint}")
    return own


def make_folder(folder: Path) -> None:
    """Make a folder of the cache if it is absent, and those above it; whatever the umask, others cannot write to it."""
    for path in (*reversed(folder.parents), folder):
        if not path.exists():
            path.mkdir(mode=0o755, exist_ok=True)


def can_be_written(folder: Path) -> bool:
    """Whether a folder can be written to, or made; nothing is made."""
    existing = next(path for path in (folder, *folder.absolute().parents) if os.access(path, os.F_OK))
    return os.access(f"{existing}/.", os.W_OK | os.X_OK)  # the dot: a file is not a folder


def distrust(path: Path) -> str:
    """Return why what is at a path is not believed: others could have changed it.

    Empty if it is believed or absent: if it belongs to this user, to root, or to whom this package belongs (whose code
    is run anyway), and neither its group nor others may write to it. Of a link, both it and what it leads to count.
    """
    if not hasattr(os, "geteuid"):  # Windows has owners and rights of another kind
        return ""
    owners = {os.geteuid(), 0, Path(__file__).stat().st_uid}
    for look in (path.lstat, path.stat):
        try:
            state = look()
        except OSError:  # nothing there, or nothing that can be read
            return ""
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
