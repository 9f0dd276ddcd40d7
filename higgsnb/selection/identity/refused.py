"""What makes a function give other results another time, with the reason and what to do instead."""

from __future__ import annotations

import io
import random
import socket
import sys
import types
from collections.abc import Iterator
from typing import Any

SEED = (
    "Random numbers have to depend on the event alone: make a generator in the function, "
    "np.random.default_rng([run, luminosityBlock, event])."
)
_READ = "Read the file when the module is loaded, and keep its content in a variable: that is part of the analysis."
_NAME = "Write the name itself, so that it can be seen which value is used."
_ENVIRONMENT = "Read it when the module is loaded, and keep it in a variable: workers have another environment."

# By the name at the top of the module, and the last name.
_FORBIDDEN = {
    **{("builtins", name): ("looks up names by text", _NAME) for name in ("eval", "exec", "compile", "globals")},
    ("builtins", "__import__"): ("imports a module by text", _NAME),
    ("importlib", "import_module"): ("imports a module by text", _NAME),
    ("importlib", "reload"): ("imports a module anew", _NAME),
    **{(module, "open"): ("reads or writes a file", _READ) for module in ("builtins", "io", "_io", "os", "uproot")},
    **{("numpy", name): ("reads a file", _READ) for name in ("load", "loadtxt", "genfromtxt", "fromfile", "memmap")},
    **{("pandas", f"read_{kind}"): ("reads a file", _READ) for kind in ("csv", "json", "parquet", "hdf", "table")},
    **{("awkward", f"from_{kind}"): ("reads a file", _READ) for kind in ("parquet", "feather", "avro_file")},
    ("uproot", "concatenate"): ("reads a file", _READ),
    ("correctionlib", "from_file"): (
        "reads a file",
        "Read the text of the file when the module is loaded: from_string.",
    ),
    **{("pathlib", f"read_{kind}"): ("reads a file", _READ) for kind in ("text", "bytes")},
    **{(module, "environ"): ("depends on the environment", _ENVIRONMENT) for module in ("os", "posix")},
    ("os", "getenv"): ("depends on the environment", _ENVIRONMENT),
    **{(module, "urandom"): ("takes random numbers", SEED) for module in ("os", "posix")},
    **{("uuid", name): ("takes random numbers", SEED) for name in ("uuid1", "uuid4")},
    **{
        ("secrets", name): ("takes random numbers", SEED) for name in ("choice", "randbelow", "randbits", "token_bytes")
    },
    ("random", "SystemRandom"): ("takes random numbers", SEED),
    ("scipy", "rvs"): ("takes random numbers", SEED),
    ("numpy", "seed"): ("seeds the random numbers of the whole process", SEED),
}
_SEEDED = {
    ("random", "Random"),
    *(
        ("numpy", name)
        for name in ("default_rng", "RandomState", "PCG64", "Philox", "SFC64", "MT19937", "SeedSequence")
    ),
}
"""What gives the same random numbers only if it is called with a seed."""

READING_METHODS = {"read_text", "read_bytes"}
"""Methods that read a file, of whatever object."""
CHANGING_METHODS = {
    "add", "append", "appendleft", "clear", "difference_update", "discard", "extend", "extendleft", "fill", "insert",
    "intersection_update", "itemset", "partition", "pop", "popitem", "popleft", "put", "remove", "resize", "reverse",
    "rotate", "setdefault", "setfield", "sort", "symmetric_difference_update", "update",
}  # fmt: skip
"""Methods of lists, dicts, sets and arrays that change them."""


def forbidden(module: str, name: str, *, is_called_bare: bool) -> tuple[str, str] | None:
    """Return why a function of a library may not be used, and a remedy; None if it may."""
    key = (module.partition(".")[0], name)
    if key in _SEEDED and is_called_bare:
        return "takes random numbers without a seed", SEED
    return _FORBIDDEN.get(key)


def unrepeatable(value: Any) -> tuple[str, str] | None:
    """Return what is wrong with an object that is not the same in each process and at each call; None if nothing is."""
    bound_to = getattr(value, "__self__", None) if isinstance(value, _METHODS) else value
    if isinstance(bound_to, (random.Random, *_numpy_generators())):
        what = "random number generator" if bound_to is value else "function of the random numbers of the whole process"
        return f"a {what}: its results could not be repeated", SEED
    if isinstance(value, io.IOBase):
        return "an open file", _READ
    if isinstance(value, socket.socket):
        return "a network connection", "Get what is needed when the module is loaded, and keep it in a variable."
    if isinstance(value, Iterator):
        hint = "Use a list or a tuple: an iterator gives each value once, so that each chunk would find others."
        return f"a {type(value).__name__}, which is used up by the first call", hint
    if isinstance(value, (types.CoroutineType, types.FrameType, types.TracebackType)):
        return f"a {type(value).__name__}, which no other process can have", "Use its result."
    return None


_METHODS = (types.MethodType, types.BuiltinMethodType)


def _numpy_generators() -> tuple[Any, ...]:
    numpy = sys.modules.get("numpy.random")
    return () if numpy is None else (numpy.Generator, numpy.RandomState, numpy.BitGenerator, numpy.SeedSequence)
