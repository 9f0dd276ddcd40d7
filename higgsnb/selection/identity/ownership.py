"""Whose code something is: the user's, an installed distribution's, Python's own, or of this package.

The user's is what nobody else has a version number for: files beside a script, cells of a notebook, editable installs.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
import sysconfig
from contextlib import suppress
from enum import Enum
from functools import cache
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

SENT = "__higgsnb_sent__"
"""A global of functions that came from another process: they are the user's, whatever modules this process has."""

_PACKAGE = Path(__file__).resolve().parents[2]
_STANDARD = {Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib")}


class Owner(Enum):
    """Who answers for a piece of code."""

    USER = "the user"
    INSTALLED = "an installed distribution"
    STANDARD = "Python"
    PACKAGE = "this package"


def owner_of_module(module: ModuleType) -> Owner:
    """Return whose a module is; one that Python does not list, or lists as another, was made or sent by the user."""
    known = vars(module)  # not getattr: a module may make what it is asked for
    name, file, folders = known.get("__name__"), known.get("__file__"), known.get("__path__")
    if name == "__main__" or not isinstance(name, str) or sys.modules.get(name) is not module:
        return Owner.USER
    return _owner_of(name, file if isinstance(file, str) else None, tuple(map(str, folders or ())))


def is_users_module(thing: Any) -> bool:
    """Whether something is a module of the user's."""
    return isinstance(thing, ModuleType) and owner_of_module(thing) == Owner.USER


@cache
def _owner_of(name: str, file: str | None, folders: tuple[str, ...]) -> Owner:
    if file is None and not folders:
        return Owner.STANDARD  # built into Python, or frozen
    path = Path(file or folders[0]).absolute()
    places = {path, path.resolve()}
    if any(place.is_relative_to(_PACKAGE) for place in places):
        return Owner.PACKAGE
    if any(part in ("site-packages", "dist-packages") for place in places for part in place.parts):
        return Owner.INSTALLED
    top = name.partition(".")[0]
    if any(_has_installed(distribution, top, path) for distribution in _distributions().get(top, ())):
        return Owner.INSTALLED
    is_standard = top in sys.stdlib_module_names
    if is_standard and any(place.is_relative_to(folder) for place in places for folder in _STANDARD):
        return Owner.STANDARD
    return Owner.USER


def _has_installed(distribution: str, top: str, path: Path) -> bool:
    """Whether a distribution outside site-packages has brought a file.

    That of an editable install is the user's, but for libraries that this package depends on: they are on workers, too.
    """
    found = metadata.distribution(distribution)
    if (folder := _editable_folder(found)) is not None:
        return path.is_relative_to(folder) and _normal(distribution) in _requirements()
    return path.is_relative_to(Path(str(found.locate_file(top))))


def _editable_folder(distribution: metadata.Distribution) -> Path | None:
    """Return the folder that an editable install refers to; None if it is not one."""
    found = json.loads(distribution.read_text("direct_url.json") or "{}")
    is_editable = found.get("dir_info", {}).get("editable", False)
    return Path(url2pathname(urlsplit(found["url"]).path)) if is_editable else None


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@cache
def _requirements() -> frozenset[str]:
    """Return the names of the distributions that this package depends on."""
    listed = (re.match(r"[\w.-]+", line) for line in metadata.requires("higgsnb") or ())
    return frozenset(_normal(found.group()) for found in listed if found)


def owner_of_name(name: str) -> Owner | None:
    """Return whose a module is, without importing it; None if it cannot be found."""
    top = name.partition(".")[0]
    module = sys.modules.get(name) or sys.modules.get(top)
    if module is not None:
        return owner_of_module(module)
    try:
        spec = find_spec(top)
    except (ImportError, ValueError):
        spec = None
    if spec is None:
        return None
    return _owner_of(top, spec.origin if spec.has_location else None, tuple(spec.submodule_search_locations or ()))


def owner_of(thing: Any) -> Owner:
    """Return whose a function or class is; a class that its module does not know by its name is the user's."""
    if isinstance(thing, FunctionType):
        if SENT in thing.__globals__:
            return Owner.USER
        module = sys.modules.get(str(thing.__globals__.get("__name__")))
        is_there = module is not None and (vars(module) is thing.__globals__ or owner_of_module(module) != Owner.USER)
        return owner_of_module(module) if module is not None and is_there else Owner.USER
    module = sys.modules.get(str(getattr(thing, "__module__", None)))
    if module is None:
        return Owner.USER
    if (
        isinstance(thing, type)
        and thing.__module__ != "builtins"
        and attribute(module, thing.__qualname__) is not thing
    ):
        return Owner.USER
    return owner_of_module(module)


def attribute(module: Any, path: str) -> Any:
    """Return what a module has under a dotted name, without loading anything; None if there is no such."""
    found = module
    for name in path.split("."):
        if isinstance(found, ModuleType):
            found = vars(found).get(name)
        elif isinstance(found, type):
            found = getattr(found, name, None)
        else:
            return None
    return found


def own_name(thing: Any) -> str:
    """Return the name that an object has itself; nothing if it has none."""
    for key in ("__qualname__", "__name__"):
        with suppress(Exception):  # whatever an object raises for an attribute that it lacks
            found = getattr(thing, key)
            if isinstance(found, str):
                return found
    return ""


def reference(thing: Any) -> tuple[str, str] | None:
    """Return the module and the dotted name by which every process finds this same object; None if there is none.

    Such are the functions, classes and single objects (``scipy.stats.norm``) of a library, never what is the user's.
    """
    name = own_name(thing)
    home: Any = getattr(thing, "__module__", None) or type(thing).__module__
    module = sys.modules.get(home) if isinstance(home, str) else None
    if module is not None and name and attribute(module, name) is thing:
        return None if owner_of_module(module) == Owner.USER else (module.__name__, name)
    if module is not None and not isinstance(thing, (FunctionType, type)) and owner_of_module(module) != Owner.USER:
        named = next((key for key, value in list(vars(module).items()) if value is thing), None)
        if named is not None:
            return module.__name__, named
    return _searched(thing, name) if callable(thing) and name else None


def _searched(thing: Any, name: str) -> tuple[str, str] | None:
    """Return where a function or class is that does not say, or not rightly, which module it is of."""
    if isinstance(thing, FunctionType) and owner_of(thing) == Owner.USER:
        return None
    modules: list[Any] = list(sys.modules.values())
    found = [
        module.__name__
        for module in modules
        if isinstance(module, ModuleType)
        and vars(module).get(name) is thing
        and owner_of_module(module) in (Owner.INSTALLED, Owner.STANDARD)
    ]
    # Of several modules the deepest is the one that defines it, not one that shows it.
    return (max(found, key=lambda one: (one.count("."), one)), name) if found else None


@cache
def _distributions() -> dict[str, list[str]]:
    return dict(metadata.packages_distributions())


@cache
def version_of(module: str) -> tuple[str, str] | None:
    """Return name and version of the distribution that installed a module; None for what no distribution did.

    A lone file in site-packages counts as a distribution of its name.
    """
    found = sys.modules.get(module)
    if found is None or owner_of_module(found) != Owner.INSTALLED:
        return None
    top = module.partition(".")[0]
    names = tuple(sorted(set(_distributions().get(top, ()))))
    name = _installing(module, names) if names else top
    return name, installed_version(name) or "unknown"


@cache
def installed_version(name: str) -> str | None:
    """Return the version of a distribution, or the sha256 of a lone file in site-packages; None if there is none.

    What was built from a folder or a repository can change while its version does not: a hash of its files is added.
    """
    try:
        distribution = metadata.distribution(name)
    except metadata.PackageNotFoundError:
        spec = find_spec(name) if name.isidentifier() else None
        if spec is None or not spec.has_location or spec.origin is None:
            return None
        return f"sha256:{hashlib.sha256(Path(spec.origin).read_bytes()).hexdigest()}"
    if not distribution.read_text("direct_url.json"):
        return distribution.version
    digest = hashlib.sha256()
    if (folder := _editable_folder(distribution)) is not None:
        for path in sorted(folder.rglob("*.py")):
            digest.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    else:
        lines = (distribution.read_text("RECORD") or "").splitlines()
        code = sorted(line for line in lines if line.partition(",")[0].endswith((".py", ".so", ".pyd")))
        digest.update("\n".join(code).encode())
    return f"{distribution.version} (sha256:{digest.hexdigest()[:16]})"


def _installing(module: str, names: tuple[str, ...]) -> str:
    """Return which of some distributions that share a name at the top has installed a module."""
    file = getattr(sys.modules[module], "__file__", None)
    if len(names) > 1 and file is not None:
        for name in names:
            if any(Path(str(one.locate())) == Path(file) for one in metadata.files(name) or ()):
                return name
    return names[0]
