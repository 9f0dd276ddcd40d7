"""Objects out of a user's Python file, for the command line: ``FILE.py:NAME``."""

from __future__ import annotations

import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import util
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any, TypeVar

from higgsnb.errors import HiggsnbError, MissingFileError, SelectionError, did_you_mean, first_line
from higgsnb.selection.identity.ownership import Owner, is_users_module, owner_of_module, owner_of_name
from higgsnb.storage import expanded
from higgsnb.text import shown

Wanted = TypeVar("Wanted")

_LOADING = threading.RLock()
_loaded: dict[str, ModuleType] = {}


def load_from_file(place: str, expected: type[Wanted]) -> Wanted:
    """Return an object of a Python file, given ``FILE.py:NAME``; the file is run each time.

    The file can import modules that lie beside it. `sys.path` is as before when it has been loaded, and modules of the
    same name from other folders keep their names.

    Raises
    ------
    MissingFileError
        If there is no such file.
    SelectionError
        If the file cannot be run (the message gives file, line and reason), or has no object of this name and type.
    """
    file, _, name = place.rpartition(":")
    if not file or not name.isidentifier():
        file, name = place, ""
    path = expanded(file)
    if not path.is_file():
        script = file if path.suffix == ".py" or not file else f"{file}.py"
        hint = f"Give the path of a Python file and a name: {script}:{name or 'NAME'}."
        raise MissingFileError(f"no file {shown(file)}", hint)
    if path.suffix != ".py":
        raise SelectionError(f"{file}: is not a Python file", f"Give a .py file and a name in it: {path.stem}.py:NAME.")
    with _LOADING:
        module = _run(path.absolute(), file)
    names = [key for key, value in vars(module).items() if isinstance(value, expected)]
    kind = expected.__name__
    if not name:
        hint = f"Write {file}:{names[0]}." if names else f"Make one in it, and write {file}:NAME."
        raise SelectionError(f"{file}: the name of the {kind} is missing", hint)
    if not hasattr(module, name):
        known = names or [key for key in vars(module) if not key.startswith("_")]
        raise SelectionError(f"{file} has no {shown(name)}", did_you_mean(name, known))
    found = getattr(module, name)
    if not isinstance(found, expected):
        other = did_you_mean(name, names) if names else f"Make one of it: {kind}(…)."
        raise SelectionError(f"{name} in {file} is of type {type(found).__name__}, not {kind}", other)
    return found


class _Loader(SourceFileLoader):
    """Compiles a file as it is now: a file of bytecode could be as old as the second in which both were written."""

    def get_code(self, fullname: str) -> CodeType:  # noqa: ARG002 - the name is that of importlib
        return self.source_to_code(self.get_data(self.path), self.path)


def _run(path: Path, label: str) -> ModuleType:
    """Run a file as a module of its own name, or of another if a library has this one."""
    name = path.stem
    if name in sys.stdlib_module_names or _is_library(name):
        name = f"{name}_file"
    spec = util.spec_from_file_location(name, path, loader=_Loader(name, str(path)))
    if spec is None or spec.loader is None:
        raise SelectionError(f"{label}: cannot be imported", "Check the path of the file.")
    module = util.module_from_spec(spec)
    with _importing_beside(path, module):
        try:
            spec.loader.exec_module(module)
        except (Exception, SystemExit) as error:
            where = _where(error, path, label)
            if isinstance(error, HiggsnbError):
                raise SelectionError(f"{where}: {error.message}", error.hint) from error
            what = f"{type(error).__name__}: {first_line(error)}".rstrip(": ")
            raise SelectionError(f"{where}: {what}", _hint(error, path)) from error
    return module


def _is_library(name: str) -> bool:
    found = sys.modules.get(name)
    if found is not None:
        return owner_of_module(found) != Owner.USER
    return owner_of_name(name) not in (Owner.USER, None)


@contextmanager
def _importing_beside(path: Path, module: ModuleType) -> Iterator[None]:
    """Let a file import what lies beside it, anew if an earlier call has imported it.

    Modules of the user's from elsewhere that have one of these names get it back afterwards.
    """
    folder = path.parent
    ours, theirs = _of_same_names(path, module.__name__)
    for name in (*ours, *theirs):
        del sys.modules[name]
    before = set(sys.modules)
    sys.modules[module.__name__] = module
    sys.path.insert(0, str(folder))
    try:
        yield
    except BaseException:
        for name in _new_in(folder, before):
            del sys.modules[name]
        sys.modules.update(ours)
        raise
    else:
        _loaded.update({name: sys.modules[name] for name in _new_in(folder, before)})
    finally:
        sys.modules.update(theirs)
        sys.path.remove(str(folder))


def _of_same_names(path: Path, own: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the modules that would hide what lies beside a file: those of earlier calls, and others of the user's."""
    try:
        beside = {own, *(one.stem for one in path.parent.iterdir())}
    except OSError:  # a folder of which the content cannot be listed
        beside = {own}
    ours: dict[str, Any] = {}
    theirs: dict[str, Any] = {}
    modules: dict[str, Any] = dict(sys.modules)
    for name, found in modules.items():
        if name.partition(".")[0] not in beside or name == "__main__" or not is_users_module(found):
            continue
        if _loaded.get(name) is found:
            ours[name] = found
        elif name == own or not _is_in(found, path.parent):
            theirs[name] = found
    return ours, theirs


def _new_in(folder: Path, before: set[str]) -> list[str]:
    """Return the names of the modules of a folder that have been imported since."""
    return [name for name, found in list(sys.modules.items()) if name not in before and _is_in(found, folder)]


def _is_in(module: Any, folder: Path) -> bool:
    file = getattr(module, "__dict__", {}).get("__file__")
    return isinstance(file, str) and _is_beside(Path(file), folder)


def _is_beside(file: Path, folder: Path) -> bool:
    """Whether a file lies in a folder, but not in an environment with libraries there."""
    return file.is_relative_to(folder) and "site-packages" not in file.relative_to(folder).parts


def _where(error: BaseException, path: Path, label: str) -> str:
    """Return file and line of an error in the user's code: the last line of it that lies in the folder."""
    if isinstance(error, SyntaxError) and error.filename:
        file, line = error.filename, error.lineno or 0
    else:
        places = [(one.filename, one.lineno or 0) for one in traceback.extract_tb(error.__traceback__)]
        beside = [place for place in places if _is_beside(Path(place[0]), path.parent)]
        if not beside:
            return label
        file, line = beside[-1]
    return f"{label if file == str(path) else Path(file).name}: line {line}"


def _hint(error: BaseException, path: Path) -> str:
    if isinstance(error, ModuleNotFoundError) and error.name:
        return f"Put {error.name}.py beside {path.name}, or install what it is part of."
    if isinstance(error, SystemExit):
        return 'Put what runs a program under `if __name__ == "__main__":`.'
    if isinstance(error, ImportError) and "relative import" in str(error):
        return "A module beside it is imported by its name: `import helper`, without a dot."
    return "Correct this line."
