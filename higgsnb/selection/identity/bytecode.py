"""What compiled code takes from outside itself, and what it changes there: read off its instructions.

The values on the interpreter's stack are followed as far as it is known where they come from: a global, a variable of
an enclosing function, an import, and the attributes taken of it. Where paths of the program meet, this knowledge ends.
"""

from __future__ import annotations

import dis
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import lru_cache
from types import CodeType
from typing import Any, NamedTuple


class Origin(NamedTuple):
    """Where a value comes from, and which attributes were taken of it, one after the other.

    ``kind`` is "global", "free" (a variable of an enclosing function), "import", or "name" (in the body of a class: a
    global, if there is one).
    """

    kind: str
    name: str
    attributes: tuple[str, ...] = ()

    def __str__(self) -> str:
        return ".".join((self.name, *self.attributes))


class Imported(NamedTuple):
    """An import statement within a function; relative to its package if ``level`` is not 0."""

    name: str
    level: int


class Uses(NamedTuple):
    """What code takes from outside; what of that it calls without any argument; what it changes or assigns."""

    used: tuple[Origin, ...]
    called_bare: frozenset[Origin]
    changed: tuple[Origin, ...]
    imports: tuple[Imported, ...]


class _Step(NamedTuple):
    """An instruction, by how much it makes the stack larger, and whether another path joins before it."""

    name: str
    argument: int
    value: Any
    effect: int
    joins: bool


_IGNORED = {"RESUME", "NOP", "CACHE", "EXTENDED_ARG", "MAKE_CELL", "COPY_FREE_VARS", "KW_NAMES"}
_ONE_RESULT = (
    "LOAD_", "PUSH_NULL", "BINARY_", "UNARY_", "COMPARE_OP", "CONTAINS_OP", "IS_OP", "CALL", "BUILD_", "FORMAT_",
    "CONVERT_VALUE", "MAKE_FUNCTION", "SET_FUNCTION_ATTRIBUTE", "GET_ITER", "TO_BOOL",
)  # fmt: skip
"""Instructions (how their names begin) that take some values off the stack and put one there."""
_NO_RESULT = ("STORE_", "DELETE_", "POP_", "PRECALL", "LIST_", "SET_", "MAP_ADD", "DICT_", "RETURN_VALUE")
_CHANGING = {"STORE_SUBSCR": 2, "DELETE_SUBSCR": 2, "STORE_SLICE": 3, "STORE_ATTR": 1, "DELETE_ATTR": 1}
"""Instructions that change an object, and how far below the top of the stack that is."""
_VARARGS, _VARKEYWORDS = 4, 8  # flags of code with *args or **kwargs


@lru_cache(4096)
def uses_of(code: CodeType) -> Uses:
    """Return what code, and the code of the functions and classes within it, takes from outside."""
    found = _Found([], [], [], [])
    _read(code, {name: Origin("free", name) for name in code.co_freevars}, found)
    used, changed = tuple(dict.fromkeys(found.used)), tuple(dict.fromkeys(found.changed))
    return Uses(used, frozenset(found.called_bare), changed, tuple(dict.fromkeys(found.imports)))


def names_in(code: CodeType) -> set[str]:
    """Return the names of the globals and attributes in code, and in the code within it."""
    inner = (names_in(constant) for constant in code.co_consts if isinstance(constant, CodeType))
    return set(code.co_names).union(*inner)


class _Found(NamedTuple):
    """`Uses` in the making."""

    used: list[Origin]
    called_bare: list[Origin]
    changed: list[Origin]
    imports: list[Imported]


def _read(code: CodeType, outer: dict[str, Origin], found: _Found) -> None:
    """Read code and what is within it; ``outer`` tells where the variables of the enclosing functions come from."""
    steps = list(_steps(code))
    reading = _Reading(code, steps, outer, found)
    for index, step in enumerate(steps):
        reading.take(step, steps[max(index - 2, 0) : index], steps[index + 1 : index + 3])
    reading.drop(len(reading.stack))
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            known = {name: reading.known[name] for name in constant.co_freevars if name in reading.known}
            _read(constant, known, found)


def _steps(code: CodeType) -> Iterator[_Step]:
    """Yield the instructions of code; one that loads or stores two variables is taken apart."""
    joins = False
    for found in dis.get_instructions(code):
        joins |= found.is_jump_target
        if found.opname in _IGNORED:
            continue
        parts = re.findall(r"(?:LOAD|STORE)_FAST(?=_LOAD|_STORE|$)", found.opname)
        if len(parts) == 2:
            for part, value in zip(parts, found.argval, strict=True):
                yield _Step(part, 0, value, 1 if part == "LOAD_FAST" else -1, joins)
                joins = False
        else:
            effect = dis.stack_effect(found.opcode, found.arg, jump=False)
            yield _Step(found.opname, found.arg or 0, found.argval, effect, joins)
        joins = False


class _Reading:
    """Follows what is on the stack through one code object."""

    def __init__(self, code: CodeType, steps: Sequence[_Step], outer: dict[str, Origin], found: _Found) -> None:
        self.outer, self.found = outer, found
        self.known = dict(outer)
        self.own_names = {step.value for step in steps if step.name == "STORE_NAME"}
        stored = Counter(step.value for step in steps if step.name in ("STORE_FAST", "STORE_DEREF"))
        flags = bool(code.co_flags & _VARARGS) + bool(code.co_flags & _VARKEYWORDS)
        stored.update(code.co_varnames[: code.co_argcount + code.co_kwonlyargcount + flags])
        self.stored_once = {name for name, times in stored.items() if times == 1 and name not in code.co_freevars}
        self.stack: list[Origin | None] = []

    def drop(self, count: int) -> None:
        """Take values off the stack: what is known of them has been used."""
        for _ in range(min(count, len(self.stack))):
            origin = self.stack.pop()
            if origin is not None:
                self.found.used.append(origin)

    def take(self, step: _Step, before: Sequence[_Step], after: Sequence[_Step]) -> None:
        """Follow one instruction, given two on either side."""
        name = step.name
        if step.joins:
            self.drop(len(self.stack))
        if name == "IMPORT_NAME":
            self._import(step.value, [one.value for one in before])
        elif name == "COPY":
            self.stack.append(self.stack[-step.argument] if step.argument <= len(self.stack) else None)
        elif name == "SWAP":
            self.stack[:0] = [None] * (step.argument - len(self.stack))
            self.stack[-1], self.stack[-step.argument] = self.stack[-step.argument], self.stack[-1]
        elif name.startswith("LOAD_") or name == "IMPORT_FROM":
            self._load(step, after)
        else:
            self._change(step)
            self._other(step)

    def _import(self, name: str, before: Sequence[Any]) -> None:
        """Follow ``import name``, or ``from name import …``, which is preceded by its level and the list of names."""
        level, names = before if len(before) == 2 else (0, None)
        self.drop(2)
        self.found.imports.append(Imported(name, level))
        self.stack.append(Origin("import", name if names else name.partition(".")[0]))

    def _load(self, step: _Step, after: Sequence[_Step]) -> None:
        """Put a value on the stack, perhaps with a NULL."""
        name, value, pushed = step.name, step.value, step.effect
        origin: Origin | None = None
        if name == "LOAD_GLOBAL":
            origin = Origin("global", value)
        elif name in ("LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS"):
            is_global = value not in self.own_names and value != "__name__"  # which every class looks up
            origin = Origin("name", value) if is_global else None
        elif name in ("LOAD_ATTR", "LOAD_METHOD", "IMPORT_FROM"):
            base = self.stack[-1] if self.stack else None
            if name != "IMPORT_FROM":
                del self.stack[-1:]
                pushed += 1
            origin = base and base._replace(attributes=(*base.attributes, value))
        elif name != "LOAD_FAST_AND_CLEAR" and name.startswith(("LOAD_FAST", "LOAD_DEREF", "LOAD_CLASSDEREF")):
            origin = self.known.get(value)
        else:
            self._other(step)
            return
        self.drop(1 - pushed)  # the dict that LOAD_FROM_DICT_OR_GLOBALS looks into first
        self.stack += [*[None] * (pushed - 1), origin]
        called = [one for one in after if one.name not in ("PUSH_NULL", "PRECALL")]
        if origin is not None and called and called[0].name == "CALL" and called[0].argument == 0:
            self.found.called_bare.append(origin)

    def _change(self, step: _Step) -> None:
        """Note what an instruction assigns or changes."""
        name, value, depth = step.name, step.value, _CHANGING.get(step.name, 0)
        if name in ("STORE_GLOBAL", "DELETE_GLOBAL"):
            self.found.changed.append(Origin("global", value))
        elif name in ("STORE_DEREF", "DELETE_DEREF") and self.outer.get(value) == Origin("free", value):
            self.found.changed.append(Origin("free", value))
        elif name in ("STORE_FAST", "STORE_DEREF") and value in self.stored_once and self.stack and self.stack[-1]:
            self.known[value] = self.stack[-1]
        elif 0 < depth <= len(self.stack) and (changed := self.stack[-depth]):
            attributes = (value,) if name.endswith("_ATTR") else ()
            self.found.changed.append(changed._replace(attributes=(*changed.attributes, *attributes)))

    def _other(self, step: _Step) -> None:
        """Follow an instruction of which only the effect on the stack matters; of some that is not known exactly."""
        if step.name.startswith(_ONE_RESULT):
            self.drop(1 - step.effect)
            self.stack += [None] * max(step.effect, 1)
        elif step.name.startswith(_NO_RESULT):
            self.drop(-step.effect)
        else:
            depth = len(self.stack) + step.effect
            self.drop(len(self.stack))
            self.stack += [None] * depth
