"""A function as bytes: what is the user's goes by value, so that each worker runs what was identified.

cloudpickle refers to functions of an importable module by their names, and gives back classes and compiled functions
that a process already has. Both would make another function of it: where another version of the user's module is
installed, and where a class was changed since. So here everything of the user's is sent, and made anew.
"""

from __future__ import annotations

import io
import pickle
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from operator import attrgetter
from types import CodeType, FunctionType, ModuleType
from typing import Any

import cloudpickle

from higgsnb.errors import SelectionError, VersionError, first_line
from higgsnb.selection.identity.bytecode import uses_of
from higgsnb.selection.identity.identify import captured_digest, checked, digest_of
from higgsnb.selection.identity.ownership import SENT, Owner, installed_version, is_users_module, owner_of, reference
from higgsnb.selection.identity.reductions import is_dispatching, own_reduction
from higgsnb.selection.identity.walk import Line, Walk

_REGISTERING = threading.Lock()
_CODE = (
    "co_argcount", "co_posonlyargcount", "co_kwonlyargcount", "co_nlocals", "co_stacksize", "co_flags", "co_code",
    "co_consts", "co_names", "co_varnames", "co_filename", "co_name", "co_qualname", "co_firstlineno", "co_linetable",
    "co_exceptiontable", "co_freevars", "co_cellvars",
)  # fmt: skip
_PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
_HINT = "Keep what it is made of (numbers, text, arrays) in variables, and make the object in the function."


def pack(function: Any) -> bytes:
    """Return a function, or any object that holds functions, as bytes for another process.

    Raises
    ------
    SelectionError
        If it cannot be identified or sent, or if what arrives would not be what was sent.
    """
    walk, _ = checked(function)
    try:
        data = _dumps(function, walk)
        arrived = Walk(_loads(data), is_checked=False)
    except SelectionError:
        raise
    except Exception as error:
        raise SelectionError(f"cannot send {walk.title} to workers: {first_line(error)}", _HINT) from error
    if digest_of(arrived) != digest_of(walk):
        pairs = zip(walk.lines, arrived.lines, strict=False)
        name = next((one.name for one, other in pairs if one.content != other.content), walk.title)
        raise SelectionError(f"cannot send {walk.title} to workers: {name} would not arrive as it is", _HINT)
    return pickle.dumps((walk.title, {"python": _PYTHON, **walk.libraries}, data))


def unpack(data: bytes) -> Any:
    """Return anew what `pack` has turned into bytes; they run code, so only from a process that is trusted.

    Raises
    ------
    VersionError
        If a library that it reaches is not installed here, or in another version; or if this is another Python.
    """
    title, libraries, function = pickle.loads(data)  # noqa: S301
    for name, version in libraries.items():
        here = _PYTHON if name == "python" else installed_version(name)
        if here != version:
            found = f"{name} {here} is installed here" if here else f"{name} is not installed here"
            raise VersionError(f"{title} was written with {name} {version}, but {found}")
    return _loads(function)


_KEPT = 8
"""Functions from other processes that are kept for the next chunks."""
_kept: dict[bytes, tuple[Any, tuple[Line, ...]]] = {}
_keeping = threading.Lock()


def unpack_once(data: bytes) -> Any:
    """Do the same, but return what an earlier call has made, if it has not been changed since; the last ones are kept.

    numba compiles functions for each copy anew, which takes as long as some chunks do.
    """
    with _keeping:
        found = _kept.pop(data, None)
        if found is None or captured_digest(found[0]) != found[1]:
            function = unpack(data)
            found = function, captured_digest(function)
        _kept[data] = found
        for old in list(_kept)[:-_KEPT]:
            del _kept[old]
        return found[0]


def _dumps(function: Any, walk: Walk) -> bytes:
    """Return the pickle of a function; what is the user's in it by value.

    Functions that use each other lie inside each other in a pickle. Where that is too deep, all functions come empty,
    and what they use follows.
    """
    with _by_value():
        file = io.BytesIO()
        try:
            _Pickler(file, walk).dump(function)
        except (RecursionError, pickle.PicklingError):
            file = io.BytesIO()
            pickler = _Pickler(file, walk, is_deferring=True)
            pickler.dump(function)
            while pickler.deferred:
                pickler.dump(pickler.deferred.pop())
    return file.getvalue()


def _loads(data: bytes) -> Any:
    """Return what `_dumps` has turned into bytes."""
    file = io.BytesIO(data)
    unpickler = pickle.Unpickler(file)  # noqa: S301
    found = unpickler.load()
    while file.tell() < len(data):
        fill, function, state = unpickler.load()
        fill(function, state)
    return found


_others: dict[str, Any] = {}
"""Modules that are not the user's, by name: they stay so, and there are thousands."""


def _users_modules() -> list[ModuleType]:
    """Return the modules of the user's that have been imported."""
    found = []
    for name, module in list(sys.modules.items()):
        if _others.get(name) is module:
            continue
        if getattr(module, "__name__", None) == name and is_users_module(module):
            found.append(module)
        else:
            _others[name] = module
    return found


@contextmanager
def _by_value() -> Iterator[None]:
    """Let cloudpickle take the user's modules by value; those that the user has registered stay so."""
    with _REGISTERING:
        before = cloudpickle.list_registry_pickle_by_value()
        modules = [module for module in _users_modules() if module.__name__ not in before]
        try:
            for module in modules:
                cloudpickle.register_pickle_by_value(module)
            yield
        finally:
            for module in modules:
                cloudpickle.unregister_pickle_by_value(module)


class _Pickler(cloudpickle.CloudPickler):  # type: ignore[misc]
    """Sends what is the user's by value, and what is a library's by its name."""

    def __init__(self, file: io.BytesIO, walk: Walk, *, is_deferring: bool = False) -> None:
        super().__init__(file)
        self.walk, self.is_deferring = walk, is_deferring
        self.deferred: list[tuple[Any, FunctionType, Any]] = []

    def reducer_override(self, thing: Any) -> Any:
        """Return how an object is sent."""
        place = self.walk.places.get(id(thing))
        found: Any = NotImplemented
        if isinstance(thing, type) and thing.__module__ == "builtins":
            found = super().reducer_override(thing)
        elif isinstance(thing, (type, FunctionType)) and not is_dispatching(thing):
            place = reference(thing)
            if place is None:
                found = self._function(thing) if isinstance(thing, FunctionType) else self._class(thing)
            elif place != (thing.__module__, thing.__qualname__):
                found = _referred, place
        elif isinstance(thing, CodeType):
            found = CodeType, attrgetter(*_CODE)(thing)
        elif is_users_module(thing):
            found = ModuleType, (thing.__name__,), self.walk.needed.get(id(thing), {}), None, None, _fill
        elif not isinstance(thing, ModuleType):
            found = (_referred, place) if place is not None else own_reduction(thing) or NotImplemented
        return found

    def _class(self, cls: type) -> Any:
        """Return how a class is sent: with its slots, without annotations.

        It has no number either, by which cloudpickle would find the class in a process that has it.
        """
        make, arguments, state, *others = super().reducer_override(cls)
        *first, _, last = arguments
        if vars(cls).get("__slots__"):
            first[3]["__slots__"] = vars(cls)["__slots__"]
        state[0].pop("__annotations__", None)
        return make, (*first, None, last), state, *others

    def _function(self, function: FunctionType) -> Any:
        """Return how a function is sent: without annotations, with what bodies of classes in it look up.

        It arrives without a module: numba would import what has this name there.
        """
        found = super().reducer_override(function)
        if found is NotImplemented and owner_of(function) != Owner.USER:
            return found
        if found is NotImplemented:
            raise pickle.PicklingError(f"function {function.__qualname__} would be sent by its name only")
        _, slots = found[2]
        slots["__annotations__"] = {}
        if owner_of(function) == Owner.USER:
            names = {origin.name for origin in uses_of(function.__code__).used if origin.kind == "name"}
            slots["__globals__"] |= {name: function.__globals__[name] for name in names & function.__globals__.keys()}
            slots["__globals__"][SENT] = True
            slots["__module__"] = None
        if not self.is_deferring:
            return found
        self.deferred.append((found[5], function, found[2]))
        return found[:2]


def _fill(module: ModuleType, state: dict[str, Any]) -> None:
    vars(module).update(state)


def _referred(module: str, name: str) -> Any:
    """Return what a library's module has under a dotted name."""
    return attrgetter(name)(import_module(module))
