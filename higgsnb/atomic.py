"""Files that appear under their name only once they are complete."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["atomic_write"]


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
