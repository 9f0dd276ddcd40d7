"""Compiled functions: the decorator, and where the compiled code is kept.

A function compiled by numba contains the functions it calls and the constants it uses, from whatever module they come,
but numba's own cache looks at the module of the outer function only. Here compiled code lies in a folder named by a
hash over the sources of all modules that have such functions or constants: after any change in one of them nothing old
is used. The time of modification of a source plays no part.

New code is kept where this user may write; code that an administrator has compiled, beside the sources or in a shared
cache, is read where it lies. Whoever can change compiled code can run anything as this user, so it is read only from
folders that are trusted, see `storage.distrust`.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from itertools import islice
from pathlib import Path
from typing import IO, Any, NoReturn

import numba
import numpy as np
from numba.core.caching import CompileResultCacheImpl, FunctionCache, IndexDataCacheFile, _CacheLocator

from higgsnb import provenance, storage
from higgsnb.errors import OptionError, SelectionError

SOURCES = ("datasets/constants", "selection", "events/fast", "events/fourvectors", "results/duplicates", "results/rows")
"""Folders and modules with compiled functions, or with constants used in them."""
UNUSED_SECONDS = 86_400.0
"""Code of other sources, or of other versions of numba and NumPy, is removed if it has not been used for that long."""

_CONFIG: Any = numba.config
_OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy", "inline": "never", "no_cfunc_wrapper": True}


def _key() -> str:
    """Return the hash (hex) over everything that decides what is compiled, other than Python and the processor."""
    sources = provenance.sources_sha256.__wrapped__(*SOURCES)  # read anew, for `_is_unchanged`
    return hashlib.sha256(f"{sources}, numba {numba.__version__}, numpy {np.__version__}".encode()).hexdigest()[:24]


def _bases() -> Iterator[Path]:
    """Yield where compiled code may be kept, best first: ``NUMBA_CACHE_DIR``, beside the sources, the cache folder."""
    if _CONFIG.CACHE_DIR:
        yield Path(_CONFIG.CACHE_DIR).absolute()
    yield Path(__file__).resolve().parent / "__pycache__"
    yield storage.cache_folder()


def _folder(key: str) -> Path | None:
    """Return the folder for compiled code, or None if none can be written to; remove what is no longer used."""
    bases = _bases()
    while True:
        try:
            folder = next(bases) / f"compiled-{key}"
            if not storage.is_trusted(folder):  # the next one is the user's own
                continue
            is_new = not folder.exists()
            storage.make_folder(folder)
            tempfile.TemporaryFile(dir=folder).close()
            os.utime(folder)  # in use
        except StopIteration:
            return None
        except (OSError, OptionError):
            continue
        # Earlier versions left files beside it. Whoever still needs what is removed here compiles it again.
        unused = (*folder.parent.glob("compiled-*"), *folder.parent.glob("*.nb[ci]")) if is_new else ()
        for path in unused:
            with suppress(OSError):
                if path != folder and time.time() - path.stat().st_mtime > UNUSED_SECONDS:
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
        return folder


def _folders(key: str, own: Path | None) -> Iterator[Path]:
    """Yield the folders in which to look for compiled code: the own one, then those that cannot be written to.

    If ``NUMBA_CACHE_DIR`` can be written to, it is the only one.
    """
    if own is not None:
        yield own
    bases = list(islice(_bases(), 2 if _CONFIG.CACHE_DIR else 1))  # not the cache folder
    if _CONFIG.CACHE_DIR and own is not None and own.parent == bases[0]:
        return
    for folder in (base / f"compiled-{key}" for base in bases):
        if folder != own and os.access(folder, os.R_OK | os.X_OK) and storage.is_trusted(folder):
            yield folder
    yield from storage.shared(f"compiled-{key}")


def is_disabled() -> bool:
    """Whether numba has been told to compile nothing."""
    return bool(_CONFIG.DISABLE_JIT)


KEY = _key()
COMPILED_FOLDER = _folder(KEY)
"""Where compiled code is kept; None if no folder can be written to, so that every process compiles for itself."""
FOLDERS = tuple(_folders(KEY, COMPILED_FOLDER))
"""Where compiled code is looked for."""


class _Locator(_CacheLocator):
    """Tells numba the folder, and that code found there is up to date."""

    def __init__(self, function: Any) -> None:
        self._py_file = function.__code__.co_filename
        self._line = function.__code__.co_firstlineno

    def get_cache_path(self) -> str:
        return str(COMPILED_FOLDER)

    def get_source_stamp(self) -> str:
        return KEY

    def get_disambiguator(self) -> str:
        return str(self._line)


class _Files(CompileResultCacheImpl):
    """How numba names the files, and turns compiled code into bytes and back."""

    def __init__(self, function: Any) -> None:
        self._lineno = function.__code__.co_firstlineno
        self._locator = _Locator(function)
        name = f"{function.__module__.rpartition('.')[2]}.{function.__qualname__}"
        self._filename_base = self.get_filename_base(name, getattr(sys, "abiflags", ""))


class _CacheFile(IndexDataCacheFile):
    """How numba reads and writes the files: they are pickles, which execute, so only those that are believed."""

    @contextmanager
    def _open_for_write(self, filepath: str) -> Iterator[IO[bytes]]:
        with storage.atomic_write(Path(filepath), mode=0o644) as temporary, temporary.open("wb") as file:
            yield file

    def _load_index(self) -> Any:
        return {} if storage.distrust(Path(self._index_path)) else super()._load_index()

    def _load_data(self, name: str) -> Any:
        return None if storage.distrust(Path(self._data_path(name))) else super()._load_data(name)


class _Cache(FunctionCache):
    """numba's cache, in which a file that cannot be read or written is no reason to stop.

    numba itself would read only from a folder to which it can write.
    """

    _impl_class = _Files

    def __init__(self, function: Any) -> None:
        super().__init__(function)
        self._cache_file = _CacheFile(str(COMPILED_FOLDER), self._impl.filename_base, KEY)

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        target_context.refresh()
        key = self._index_key(sig, target_context.codegen())
        for folder in FOLDERS:
            try:
                data = _CacheFile(str(folder), self._impl.filename_base, KEY).load(key)
                found = None if data is None else self._impl.rebuild(target_context, data)
            except Exception:  # noqa: BLE001 - a damaged pickle can raise anything
                if folder == COMPILED_FOLDER:
                    with suppress(OSError):
                        self.flush()
                continue
            # Two processes that compile at the same time can give their code the same name.
            if found is not None and tuple(found.signature.args) == tuple(sig):
                return found
        return None

    def save_overload(self, sig: Any, data: Any) -> None:
        with suppress(OSError):
            if COMPILED_FOLDER is not None:
                super().save_overload(sig, data)


@cache
def _is_unchanged(module: str) -> bool:  # noqa: ARG001 - asked anew for every module
    """Whether the sources are still those of the key when a module is imported, perhaps long after this one."""
    return _key() == KEY


def rule(function: Any, **options: Any) -> Any:
    """Compile a function when it is first called, with further ``options`` of numba, and keep the compiled code.

    Only that of functions of this package is kept: changes in the sources of others would not be noticed.
    Division by zero gives infinity or NaN, as in NumPy. Rules load what they need of an array before the first ``and``,
    ``or`` or ``if``: behind a branch, numba counts the references to all arrays of a tuple again, which costs a hundred
    times as much as the rule itself. A constant as an argument is a type of its own, for which it is compiled again.
    """
    compiled: Any = numba.njit(**_OPTIONS, **options)(function)
    is_own = function.__module__.partition(".")[0] == __name__.partition(".")[0]
    if is_own and FOLDERS and not is_disabled() and _is_unchanged(function.__module__):
        compiled._cache = _Cache(function)
    return compiled


def loop_over(function: Any) -> Any:
    """Compile a user's function of five numbers, and a loop that calls it for the elements of five arrays.

    The loop writes what the function returns into a sixth array; all are (n,) float64. Nothing is kept on disk.
    Raises `SelectionError` if the function cannot be compiled, or does not return a number.
    """
    compiled = numba.njit(nogil=True, error_model="numpy")(function)

    @numba.njit(nogil=True)
    def loop(first, second, third, fourth, fifth, found):
        for i in range(len(found)):
            found[i] = compiled(first[i], second[i], third[i], fourth[i], fifth[i])

    try:
        loop.compile((numba.float64[::1],) * 6)
    except Exception as error:  # numba raises many kinds
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        what = next((line for line in lines[1:] if "Failed" not in line and "During" not in line), lines[0])
        name = getattr(function, "__name__", "the function")
        hint = "It takes five numbers and returns one: use numbers and functions of math and numpy only."
        raise SelectionError(f"pairing: {name} cannot be compiled: {what}", hint) from error
    return loop


def inner_rule(function: Any) -> Any:
    """Like `rule`, for a function that only rules call: compiles faster; a call from Python is a TypeError."""
    compiled = rule(function, no_cpython_wrapper=True)

    def refuse(*_: Any, **__: Any) -> NoReturn:
        raise TypeError(f"{function.__name__} can be called by compiled functions only")

    # numba would call it from Python although it has no entry for that, which is a segmentation fault.
    compiled.add_overload = lambda result: compiled.overloads.update({tuple(result.signature.args): result})
    compiled._compile_for_args = refuse
    return compiled
