"""Plain values, code and arrays as bytes that are the same in every process."""

from __future__ import annotations

import dis
import hashlib
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from functools import lru_cache
from types import CodeType
from typing import Any

import numpy as np
import numpy.typing as npt

_FLAGS = 0x3FF  # of code: what kind of function it is, not which features of the future it was compiled with
_JUMPS = {*dis.hasjrel, *dis.hasjabs}
_WITHOUT_EFFECT = {"CACHE", "EXTENDED_ARG", "NOP", "PUSH_NULL"}


def joined(*parts: bytes) -> bytes:
    """Return the sha256 of some parts, which tells where each of them ends."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.digest()


def atom(value: Any) -> bytes | None:
    """Return a value that has no parts as bytes; None if it has."""
    kind = type(value)
    found: bytes | None = None
    if value is None or kind is bool or value is Ellipsis or value is NotImplemented:
        found = repr(value).encode()
    elif kind is int:
        found = b"int " + hex(value).encode()
    elif kind is float:
        found = b"float " + value.hex().encode()
    elif kind is str:
        found = b"str " + value.encode("utf-8", "surrogatepass")
    elif kind is bytes:
        found = b"bytes " + value
    elif kind is complex:
        found = f"complex {value.real.hex()} {value.imag.hex()}".encode()
    return found


def atoms(values: Iterable[Any]) -> bytes | None:
    """Return numbers and strings as bytes, many of them faster than one by one; None if others are among them."""
    values = list(values)
    if not {type(value) for value in values} <= {int, float, str, bool, type(None)}:
        return None
    return repr([hex(value) if type(value) is int else value for value in values]).encode()


@lru_cache(4096)
def code(of: CodeType) -> bytes:
    """Return what code does, without where it stands."""
    arguments = (of.co_argcount, of.co_posonlyargcount, of.co_kwonlyargcount, of.co_flags & _FLAGS)
    shape = (of.co_varnames, of.co_freevars, of.co_cellvars, *arguments)
    steps = repr([shape, *_instructions(of)]).encode()
    return joined(b"code", steps, *map(_constant, of.co_consts))


def _instructions(of: CodeType) -> Iterator[tuple[Any, ...]]:
    """Yield the instructions of code, then the ranges in which exceptions are handled; places are counted in these.

    How ``module.function()`` is called depends on whether the module was imported in the same cell or file. It is
    written here in one way: a method is an attribute, and there are no NULLs on the stack.
    """
    bytecode = dis.Bytecode(of)
    steps = [one for one in bytecode if one.opname not in _WITHOUT_EFFECT]
    offsets = [one.offset for one in steps]
    for one in steps:
        name, value = one.opname.replace("LOAD_METHOD", "LOAD_ATTR"), one.arg
        if one.opcode in _JUMPS:
            value = bisect_left(offsets, one.argval)
        elif name in ("LOAD_GLOBAL", "LOAD_ATTR", "LOAD_SUPER_ATTR") or one.opcode in dis.hasname:
            value = one.argval
        yield name, value
    entries: Any = bytecode.exception_entries  # type: ignore[attr-defined]
    for one in entries:
        yield (*(bisect_left(offsets, place) for place in (one.start, one.end, one.target)), one.depth, one.lasti)


def _constant(value: Any) -> bytes:
    """Return a constant of code: it may hold more code, tuples and sets."""
    if isinstance(value, CodeType):
        return code(value)
    if isinstance(value, tuple):
        return joined(b"tuple", *map(_constant, value))
    if isinstance(value, frozenset):
        return joined(b"set", *sorted(map(_constant, value)))
    return atom(value) or repr(value).encode()


def dtype(of: np.dtype[Any]) -> bytes:
    """Return a type of NumPy, with its byte order, names and offsets."""
    return repr(np.lib.format.dtype_to_descr(of)).encode()


def numbers(array: npt.NDArray[Any]) -> bytes:
    """Return the sha256 of the content of an array, however it lies in memory."""
    if not array.dtype.itemsize:
        return b""
    plain: Any = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    return hashlib.sha256(plain).digest()
