"""How objects are taken apart so that they can be identified and sent, both from the same parts.

Mostly as `pickle` does it. Where pickle refuses, would refer to the user's module by name, or would return the very
object that this process already has, the parts are given here: compiled functions, cached and dispatching functions.
"""

from __future__ import annotations

import copyreg
import functools
import uuid
from collections.abc import Callable
from types import FunctionType
from typing import Any

import numpy as np

Reduction = tuple[Any, ...]
"""As of ``__reduce__``: a callable, its arguments, and perhaps a state, items of a list, and items of a dict."""


def reduction(thing: Any) -> Reduction | str:
    """Return the parts of an object, or the name under which a module has it; TypeError if there are none."""
    own = own_reduction(thing)
    if own is not None:
        return own
    reducer: Any = copyreg.dispatch_table.get(type(thing))
    found: Reduction | str = thing.__reduce_ex__(4) if reducer is None else reducer(thing)
    return found


def own_reduction(thing: Any) -> Reduction | None:
    """Return the parts of an object that pickle, or cloudpickle, would not take apart, or not rightly."""
    if isinstance(thing, functools._lru_cache_wrapper):
        return _cached, (thing.__wrapped__, *thing.cache_parameters().values())
    if isinstance(thing, functools.cached_property):
        return _cached_property, (thing.func, thing.attrname)
    if isinstance(thing, functools.singledispatchmethod):
        return _dispatching_method, (thing.func, thing.dispatcher)
    if is_dispatching(thing):
        registered = dict(thing.registry)
        return _dispatching, (registered.pop(object), tuple(registered.items()))
    library = type(thing).__module__.partition(".")[0]
    if library in _OF_LIBRARIES:
        return _OF_LIBRARIES[library](thing)
    cached = [key for key in getattr(thing, "__dict__", ()) if _is_cached_property(thing, key)]
    return _without(thing, cached) if cached else None


def is_dispatching(thing: Any) -> bool:
    """Whether a function was made by `functools.singledispatch`."""
    return isinstance(thing, FunctionType) and thing.__globals__ is vars(functools) and hasattr(thing, "registry")


def _is_cached_property(thing: Any, name: str) -> bool:
    return not isinstance(thing, type) and isinstance(getattr(type(thing), name, None), functools.cached_property)


def _without(thing: Any, names: list[str]) -> Reduction:
    """Return the parts of an object without some of its attributes."""
    make, arguments, *others = thing.__reduce_ex__(4)
    if others and isinstance(others[0], dict):
        others[0] = {name: value for name, value in others[0].items() if name not in names} or None
    return make, arguments, *others


def _of_numba(thing: Any) -> Reduction | None:
    """Return the parts of a function that numba compiles, without what has been compiled so far."""
    if not hasattr(type(thing), "_reduce_states"):
        return None
    states = {name: value for name, value in thing._reduce_states().items() if name not in ("uuid", "cache")}
    if not states.get("frozen", True):
        states["siglist" if "siglist" in states else "typesigs"] = []
    return _recompiled, (type(thing), states)


def _of_numpy(thing: Any) -> Reduction | None:
    """Return the parts of a function or array that changes by itself when it is used."""
    if type(thing) is np.vectorize:
        options = {name: getattr(thing, name) for name in ("otypes", "excluded", "cache", "signature")}
        return _vectorized, (thing.pyfunc, options)
    if type(thing) is np.ma.MaskedArray:
        return _masked, (np.asarray(thing.data), np.ma.getmask(thing), thing.fill_value)
    return None


def _of_awkward(thing: Any) -> Reduction | None:
    """Return the parts of an array: looking at its behavior or attrs has turned None into an empty dict."""
    if type(thing).__module__ != "awkward.highlevel" or not hasattr(thing, "layout"):
        return None
    make, arguments, *others = thing.__reduce_ex__(4)
    return make, (*arguments[:3], *(None if one == {} else one for one in arguments[3:])), *others


def _of_scipy(thing: Any) -> Reduction | None:
    """Return the parts of a distribution, without the random numbers of the whole process that it would draw from."""
    is_distribution = any(cls.__name__ == "rv_generic" for cls in type(thing).__mro__)
    return _without(thing, ["_random_state"]) if is_distribution else None


_OF_LIBRARIES = {"numba": _of_numba, "numpy": _of_numpy, "awkward": _of_awkward, "scipy": _of_scipy}


def _recompiled(kind: Any, states: dict[str, Any]) -> Any:
    """Make a compiled function anew: numba itself would return one that this process has already."""
    states = dict(states)
    if "is_dynamic" in states:
        states["cache"] = False
    elif "sigs" in states:
        states["uuid"] = uuid.uuid4().hex
    return kind._rebuild(**states)


def _cached(function: Callable[..., Any], maxsize: int | None, typed: bool) -> Any:
    return functools.lru_cache(maxsize, typed)(function)


def _cached_property(function: Callable[..., Any], name: str | None) -> Any:
    found = functools.cached_property(function)
    if name is not None:
        found.__set_name__(object, name)
    return found


def _dispatching(function: Callable[..., Any], registered: tuple[tuple[type, Callable[..., Any]], ...]) -> Any:
    found = functools.singledispatch(function)
    for kind, implementation in registered:
        found.register(kind, implementation)
    return found


def _dispatching_method(function: Callable[..., Any], dispatcher: Any) -> Any:
    found: Any = functools.singledispatchmethod(function)
    found.dispatcher = dispatcher
    return found


def _vectorized(function: Callable[..., Any], options: dict[str, Any]) -> Any:
    return np.vectorize(function, **options)


def _masked(data: Any, mask: Any, fill_value: Any) -> Any:
    return np.ma.MaskedArray(data, mask, fill_value=fill_value)
