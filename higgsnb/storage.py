"""Where files are kept between runs, and how they are written."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["atomic_write", "cache_folder", "expanded"]


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
        if error.errno is not None and error.filename in (None, str(temporary)):  # a full disk names no file
            raise OSError(error.errno, os.strerror(error.errno), str(path)) from None
        raise
    finally:
        temporary.unlink(missing_ok=True)


def cache_folder() -> Path:
    """Return the cache: ``HIGGSNB_CACHE``, else the platform's cache folder. It need not exist yet."""
    given = os.environ.get("HIGGSNB_CACHE")
    if given:
        return expanded(given).absolute()
    import platformdirs

    return Path(platformdirs.user_cache_dir("higgsnb", appauthor=False))


def expanded(path: str) -> Path:
    """Replace a leading ``~``; the home of an unknown user is left as it is written."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)
