"""The identity of a function, and whether its variables are still what they were.

Two functions have one digest if they do the same: the same code (comments, names of files and of the function play no
part), the same values of what they find outside (closures, defaults, globals, attributes of the user's modules, and
what those reach), and the same versions of the libraries. It is the same in each process, with the same Python.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Sequence
from itertools import zip_longest
from types import FunctionType
from typing import Any, NamedTuple

from higgsnb.errors import SelectionError
from higgsnb.selection.identity.content import joined
from higgsnb.selection.identity.ownership import Owner, owner_of, owner_of_name, reference
from higgsnb.selection.identity.source import class_source, function_source
from higgsnb.selection.identity.walk import Line, Walk, name_of


class Identity(NamedTuple):
    """What a function is.

    ``digest`` is the sha256 (hex) over everything that can change what it returns, ``source`` the text of it and of the
    user's functions and classes that it reaches. ``libraries`` are the versions of the installed distributions that it
    reaches, ``modules`` the names of the user's own modules.
    """

    digest: str
    source: str
    libraries: dict[str, str]
    modules: tuple[str, ...]


def identify(function: Any) -> Identity:
    """Return what a function, or any object that holds functions, is at this moment.

    Raises
    ------
    SelectionError
        If that cannot be told, or if it would not give the same result each time: a function without a source; one
        that changes a variable outside; open files, locks, iterators, random generators; names looked up by text. The
        message names the variable, the hint a remedy.

    Notes
    -----
    Of a module from which names are taken by text (``getattr(module, text)``) all counts. It is not seen if a function
    depends on the time; reads a file through a library function that `refused` does not list; or needs changes that the
    user's modules have made to a library: attributes of its classes, or what numba is taught by ``overload``.
    """
    walk, source = checked(function)
    libraries = dict(sorted(walk.libraries.items()))
    return Identity(digest_of(walk), source, libraries, tuple(sorted(_modules(walk))))


def checked(function: Any) -> tuple[Walk, str]:
    """Return all that a function reaches, and the text of that; raises as `identify` does."""
    walk = Walk(function)
    _check_kind(walk, function)
    _check_behaviors(walk)
    return walk, _source(walk)


def digest_of(walk: Walk) -> str:
    """Return the sha256 (hex) of what a walk has found."""
    libraries = (f"{name} {version}".encode() for name, version in sorted(walk.libraries.items()))
    return joined(*(line.content for line in walk.lines), b"libraries", *libraries).hex()


def captured_digest(function: Any) -> tuple[Line, ...]:
    """Return a sha256 for each thing that a function holds or finds outside itself, with the name of its variable.

    It takes as long as hashing the arrays among these, and about a millisecond.
    """
    return tuple(Walk(function, is_checked=False).lines)


def check_unchanged(function: Any, before: Sequence[Line]) -> None:
    """Raise SelectionError if a variable is not what it was at ``before``, an earlier `captured_digest`."""
    now = captured_digest(function)
    if now == before:
        return
    pairs = zip_longest(before, now)
    name = next((one or other).name for one, other in pairs if one != other)
    hint = f"Copy it before you change it: the next chunk would find {name} as this one has left it."
    raise SelectionError(f"{name_of(function)} has changed {name} while it ran", hint)


def _check_kind(walk: Walk, function: Any) -> None:
    """Refuse a function whose call returns a generator or a coroutine."""
    inner = inspect.unwrap(function) if callable(function) else function
    for test, kind in (
        (inspect.iscoroutinefunction, "async"),
        (inspect.isasyncgenfunction, "async"),
        (inspect.isgeneratorfunction, "a generator (it has a `yield`)"),
    ):
        if test(inner):
            walk.refuse(f"it is {kind}: a call returns before anything is computed", "Write a plain function.")


def _check_behaviors(walk: Walk) -> None:
    """Refuse behaviors that the user has added to those of awkward: workers do not have them."""
    awkward = sys.modules.get("awkward")
    for key, value in list(getattr(awkward, "behavior", {}).items()):
        if isinstance(value, (type, FunctionType)) and owner_of(value) == Owner.USER and reference(value) is None:
            hint = "Give it to the arrays in the function instead: ak.with_name(…, behavior={…})."
            walk.refuse(f"awkward.behavior[{key!r}] is yours ({name_of(value)}), which the workers do not have", hint)


def _source(walk: Walk) -> str:
    """Return the text of all functions and classes of the user's, the first one first."""
    texts: dict[str, None] = {}
    for cls in walk.classes:
        text = class_source(cls)
        if text is not None:
            texts[f"# {cls.__module__}.{cls.__qualname__}\n{text}"] = None
    functions: dict[str, None] = {}
    for function, is_in_class in walk.functions:
        text = function_source(function)
        if text is None and not is_in_class:
            hint = "Define it in a file or in a cell of a notebook (without %%time), not by exec or eval."
            walk.refuse(f"function {function.__qualname__} has no source that could be shown", hint)
        if text is not None and not any(text.strip() in one.replace("\n    ", "\n") for one in texts):
            functions[f"# {function.__module__}.{function.__qualname__}\n{text}"] = None
    return "\n\n".join(one.rstrip("\n") for one in (*functions, *texts)) + "\n"


def _modules(walk: Walk) -> set[str]:
    found = {str(function.__globals__.get("__name__")) for function, _ in walk.functions}
    found |= {module.__name__ for module in walk.modules.values()} | {cls.__module__ for cls in walk.classes}
    return {name for name in found if owner_of_name(name) == Owner.USER}
