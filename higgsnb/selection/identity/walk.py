"""The walk from a function to everything of the user's that decides what it does.

Each function, class, module and changeable object gets a number when it is first met, and one or more *lines*: what it
is, and what it refers to. Equal lines in equal order are equal functions. No line depends on addresses, on file names,
on the order of sets and attributes, or on which process writes it.
"""

from __future__ import annotations

import dataclasses
import enum
import sys
import types
import typing
from collections import deque
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any, NamedTuple, NoReturn, cast

import numpy as np

from higgsnb.errors import SelectionError, did_you_mean, first_line
from higgsnb.selection.identity import refused
from higgsnb.selection.identity.bytecode import Origin, Uses, names_in, uses_of
from higgsnb.selection.identity.content import atom, atoms, dtype, joined, numbers
from higgsnb.selection.identity.content import code as code_of
from higgsnb.selection.identity.ownership import (
    Owner,
    is_users_module,
    own_name,
    owner_of,
    owner_of_module,
    owner_of_name,
    reference,
    version_of,
)
from higgsnb.selection.identity.reductions import is_dispatching, own_reduction, reduction

_MISSING = object()
_SKIPPED_OF_MODULES = {
    "__annotations__", "__builtins__", "__cached__", "__doc__", "__file__", "__loader__", "__name__", "__package__",
    "__path__", "__spec__",
}  # fmt: skip
_SKIPPED_OF_CLASSES = {
    "__annotate__", "__annotate_func__", "__annotations__", "__annotations_cache__", "__dict__", "__doc__",
    "__firstlineno__", "__module__", "__orig_bases__", "__parameters__", "__slotnames__", "__static_attributes__",
    "__type_params__", "__weakref__", "_abc_impl",
}  # fmt: skip
_FIELD = ("name", "default", "default_factory", "init", "compare", "hash", "kw_only", "metadata")
_TYPES_OF_NUMBA = ("numba.core.types.abstract", "numba.core.typing.templates")
_CONSTRUCTORS = ("__init__", "__new__", "__post_init__", "__init_subclass__", "__set_name__")
_DESCRIPTORS = (types.GetSetDescriptorType, types.MemberDescriptorType)
_CONTAINERS = (list, dict, set, bytearray, deque, np.ndarray)


class Line(NamedTuple):
    """A statement about what a function reaches; ``name`` is that of the variable, for messages."""

    name: str
    content: bytes


class Walk:
    """Goes from one object to all that it reaches.

    Parameters
    ----------
    start
        Where it begins: a function, or any object with functions in it.
    is_checked
        Whether to refuse what makes results that cannot be repeated.

    Attributes
    ----------
    functions
        The user's functions, each with whether it is part of a class.
    needed
        What is taken of the user's modules, by the id of the module.
    places
        The module and the name of what belongs to libraries, by its id.
    """

    def __init__(self, start: Any, *, is_checked: bool = True, within: frozenset[int] = frozenset()) -> None:
        self.is_checked = is_checked
        self.title = name_of(start)
        self.lines: list[Line] = []
        self.libraries: dict[str, str] = {}
        self.functions: list[tuple[FunctionType, bool]] = []
        self.classes: list[type] = []
        self.modules: dict[int, ModuleType] = {}
        self.needed: dict[int, dict[str, Any]] = {}
        self.places: dict[int, tuple[str, str]] = {}
        self._within = within
        self._home: Any = None
        self._numbers: dict[int, int] = {}
        self._kept: list[Any] = []
        self._waiting: deque[tuple[Any, str, tuple[str, ...]]] = deque()
        self._method: tuple[str, ...] = ()
        self._complaints: list[tuple[tuple[str, ...], str, str]] = []
        self._wholes: set[int] = set()
        self._tuples: dict[int, bytes] = {}
        self._singles: dict[str, dict[int, str]] = {}
        try:
            self.lines.append(Line("", joined(b"start", self.token(start, self.title))))
            while self._waiting:
                value, name, self._method = self._waiting.popleft()
                self._define(value, name)
        except RecursionError:
            self.refuse("it reaches an object that is nested too deeply", "Use an array, or a flat list.")
        self._complain_of_methods()

    def refuse(self, what: str, hint: str) -> NoReturn:
        """Raise SelectionError."""
        raise SelectionError(f"cannot identify {self.title}: {what}", hint)

    # --- References ---------------------------------------------------------------------------------

    def token(self, value: Any, name: str) -> bytes:
        """Return what stands for a value where something refers to it; ``name`` is that of the variable."""
        found = self._inline(value, name)
        if found is not None:
            return found
        wrong = refused.unrepeatable(value) if self.is_checked else None
        if wrong is not None:
            self.refuse(f"{name} is {wrong[0]}", wrong[1])
        if id(value) not in self._numbers and type(value) not in _CONTAINERS:
            place = self._place(value)
            if place is not None:
                self._check_use(place[0], place[-1], name, is_bare=False)
                return joined(b"reference", *(part.encode() for part in place))
        return self._numbered(value, name)

    def _inline(self, value: Any, name: str) -> bytes | None:
        """Return what stands for a value of which it does not matter whether it is the same object as another."""
        found = atom(value)
        if found is None and type(value) is tuple:
            found = self._tuple(value, name)
        elif found is None and type(value) is frozenset and all(atom(one) is not None for one in value):
            found = joined(b"set", *sorted(self.token(one, name) for one in value))
        elif isinstance(value, np.generic):
            self._library("numpy")
            found = joined(b"scalar", dtype(value.dtype), value.tobytes())
        elif isinstance(value, enum.Enum):
            found = self._member(value, name)
        elif is_users_module(value):
            found = self._whole(value)
        return found

    def _tuple(self, value: tuple[Any, ...], name: str) -> bytes:
        """Return what stands for a tuple: its elements, as it does not matter whether equal tuples are one object."""
        if id(value) not in self._tuples:
            self._tuples[id(value)] = joined(b"tuple", *(self.token(one, name) for one in value))
            self._kept.append(value)
        return self._tuples[id(value)]

    def _numbered(self, value: Any, name: str) -> bytes:
        if id(value) in self._within:
            return b"outside " + name_of(value).encode()
        number = self._numbers.get(id(value))
        if number is None:
            number = self._numbers[id(value)] = len(self._numbers)
            self._kept.append(value)
            self._waiting.append((value, name, self._method))
        return f"#{number}".encode()

    def _whole(self, module: ModuleType) -> bytes:
        """Write all that one of the user's modules has: it cannot be seen what is taken of it."""
        if id(module) not in self._wholes:
            self._wholes.add(id(module))
            self._numbered(module, module.__name__)
            for key in sorted(vars(module).keys() - _SKIPPED_OF_MODULES):
                value = self._need(module, key)
                if is_users_module(value):
                    self._whole(value)
        return self._numbered(module, module.__name__)

    def _place(self, value: Any) -> tuple[str, ...] | None:
        """Return where every process finds a value that belongs to a library; note the library."""
        if isinstance(value, type) and value.__module__ == "builtins":
            return "builtins", value.__qualname__
        if isinstance(value, ModuleType):
            self._library(value.__name__)
            return (value.__name__,)
        if isinstance(value, typing.TypeVar):
            return "TypeVar", value.__name__
        found = reference(value) if callable(value) or isinstance(value, classmethod) else self._single(value)
        if found is not None:
            self._library(found[0])
            self.places[id(value)] = found
        return found

    def _single(self, value: Any) -> tuple[str, str] | None:
        """Return where the module of a library's class has this very object."""
        home = type(value).__module__
        if home not in self._singles:
            module = sys.modules.get(home)
            is_library = module is not None and owner_of_module(module) != Owner.USER
            self._singles[home] = {id(one): name for name, one in list(vars(module).items())} if is_library else {}
        name = self._singles[home].get(id(value))
        return None if name is None else (home, name)

    def _library(self, module: str) -> None:
        found = version_of(module)
        if found is not None:
            self.libraries[found[0]] = found[1]

    def _member(self, value: enum.Enum, name: str) -> bytes:
        cls = type(value)
        is_named = value.name in cls.__members__
        member = value.name.encode() if is_named and value.name else self.token(value.value, name)
        return joined(b"member", self.token(cls, cls.__qualname__), member)

    def _sorted(self, values: Iterable[Any], name: str) -> list[bytes]:
        """Return what stands for the elements of a set, in an order that does not depend on hashes or addresses."""
        within = self._within | self._numbers.keys()

        def content(value: Any) -> bytes:
            return joined(*(line.content for line in Walk(value, is_checked=False, within=within).lines))

        ordered = sorted(values, key=lambda value: atom(value) or content(value))
        return [self.token(value, name) for value in ordered]

    # --- What things are ----------------------------------------------------------------------------

    def _add(self, value: Any, name: str, *parts: bytes) -> None:
        self.lines.append(Line(name, joined(f"#{self._numbers[id(value)]}".encode(), *parts)))

    def _define(self, value: Any, name: str) -> None:
        """Write the lines of one object."""
        kind = type(value)
        if isinstance(value, FunctionType) and not is_dispatching(value):
            self._function(value, name)
        elif isinstance(value, ModuleType):
            if kind is not ModuleType:
                self.refuse(f"module {name} is {kind.__qualname__}, a class of its own", "Use a plain module.")
            self.modules[id(value)] = value
            self._add(value, name, b"module")
        elif isinstance(value, type):
            self._class(value, name)
        elif isinstance(value, np.ndarray) and kind in (np.ndarray, np.memmap):
            self._add(value, name, *self._array(value, name))
        elif kind is list:
            self._add(value, name, b"list", *self._elements(value, name))
        elif kind in (dict, types.MappingProxyType):
            parts = [part for pair in value.items() for part in pair]
            self._add(value, name, b"dict", *self._elements(parts, name))
        elif kind in (set, frozenset):
            self._add(value, name, b"set", *self._sorted(value, name))
        elif kind is bytearray:
            self._add(value, name, b"bytearray", bytes(value))
        else:
            self._add(value, name, *self._wrapped(value, name))

    def _elements(self, values: list[Any], name: str) -> list[bytes]:
        """Return what stands for each of some values; for plain numbers and strings all at once."""
        found = atoms(values)
        return [self.token(value, name) for value in values] if found is None else [found]

    def _array(self, value: Any, name: str) -> list[bytes]:
        """Return type, shape and content of an array; how it lies in memory plays no part."""
        self._library("numpy")
        shape = [b"array", dtype(value.dtype), repr(value.shape).encode()]
        has_objects = value.dtype.hasobject or value.dtype.kind == "T"
        return shape + (self._elements(value.ravel().tolist(), name) if has_objects else [numbers(value)])

    def _wrapped(self, value: Any, name: str) -> list[bytes]:
        """Return the parts of something that wraps others: a method, a property, a cell, an object with a state."""
        wrapped: list[Any]
        if isinstance(value, (staticmethod, classmethod)):
            wrapped = [value.__func__]
        elif isinstance(value, property):
            wrapped = [value.fget, value.fset, value.fdel]
        elif isinstance(value, types.MethodType):
            wrapped = [value.__func__, value.__self__]
        elif isinstance(value, dataclasses.Field):
            wrapped = [getattr(value, part) for part in _FIELD]
        elif isinstance(value, types.CellType):
            return [b"cell", self._cell(value, name)]
        elif isinstance(value, CodeType):
            return [code_of(value)]
        elif any(cls.__module__ in _TYPES_OF_NUMBA for cls in type(value).__mro__):
            return [b"type of numba", str(value).encode()]
        else:
            return self._object(value, name)
        return [type(value).__name__.encode(), *(self.token(one, name) for one in wrapped)]

    def _cell(self, cell: types.CellType, name: str, *, is_followed: bool = False) -> bytes:
        """Return what stands for the content of a cell; of a module only itself, if what is taken of it is followed."""
        try:
            value = cell.cell_contents
        except ValueError:
            return b"empty"
        return self._numbered(value, name) if is_followed and is_users_module(value) else self.token(value, name)

    def _object(self, value: Any, name: str) -> list[bytes]:
        """Return the parts of an object as pickle takes it apart."""
        kind = f"a {type(value).__qualname__}"
        if type(value).__module__.startswith("numba.") and own_reduction(value) is None:
            hint = "Use functions compiled by numba and arrays of NumPy, and make other objects in the function."
            self.refuse(f"{name} is {kind} of numba, which cannot be sent", hint)
        try:
            found = reduction(value)
        except RecursionError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever an object's own method raises
            why = first_line(error) or type(error).__name__
            hint = "Keep what it is made of (numbers, text, arrays) in a variable, and make it in the function."
            self.refuse(f"{name} is {kind}, whose state cannot be told: {why}", hint)
        if isinstance(found, str):
            hint = "Use a function in Python, one compiled by numba, or one of an installed package."
            self.refuse(f"{name} is {kind} of which there is only a name, {found}", hint)
        padded: list[Any] = [*found, *[None] * (6 - len(found))]
        callable_, arguments, state, items, pairs, setter = padded
        parts = [b"object", self.token(callable_, name), self.token(arguments, name), self._state(state, name)]
        parts += [self.token(one, name) for one in items or ()]
        parts += [self.token(tuple(pair), name) for pair in pairs or ()]
        return [*parts, self.token(setter, name)]

    def _state(self, state: Any, name: str) -> bytes:
        """Return what stands for the state of an object: the order of attributes plays no part."""
        if type(state) is dict and all(type(key) is str for key in state):
            pairs = sorted(state.items())
            return joined(
                b"state", *(part for key, one in pairs for part in (key.encode(), self.token(one, f"{name}.{key}")))
            )
        if type(state) is tuple:
            return joined(b"states", *(self._state(one, name) for one in state))
        return self.token(state, name)

    def _class(self, cls: type, name: str) -> None:
        """Write a class: its bases, and one line for each attribute of its own."""
        self.classes.append(cls)
        bases = (self.token(base, base.__qualname__) for base in cls.__bases__)
        names = (cls.__name__.encode(), cls.__qualname__.encode())
        self._add(cls, name, b"class", *names, self.token(type(cls), name), *bases)
        members: Any = cls.__members__ if isinstance(cls, enum.EnumMeta) else {}
        for key, member in members.items():
            self._add(cls, f"{name}.{key}", b"member", key.encode(), self.token(member.value, f"{name}.{key}"))
        name = cls.__qualname__
        for key, value in sorted(vars(cls).items()):
            if key in _SKIPPED_OF_CLASSES or key in members or isinstance(value, _DESCRIPTORS):
                continue
            if members and key.startswith("_") and key.endswith("_") and not isinstance(value, FunctionType):
                continue  # made by the metaclass of an enum
            self._method = (cls.__name__, key)
            self._add(cls, f"{name}.{key}", b"attribute", key.encode(), self.token(value, f"{name}.{key}"))

    def _function(self, function: FunctionType, name: str) -> None:
        """Write a function: its code and all that it finds outside itself."""
        is_own = owner_of(function) == Owner.USER
        code, home = function.__code__, function.__globals__
        if is_own:
            self._home = home if self._home is None else self._home
            self.functions.append((function, bool(self._method)))
            names = (function.__name__.encode(), function.__qualname__.encode())
            self._add(function, name, b"function", *names, code_of(code))
        else:  # made by a library, such as a decorator: what it finds in its module is known, not what was put into it
            self._library(str(home.get("__name__")))
            place = f"{home.get('__name__')}.{code.co_qualname}"
            self._add(function, name, b"function of a library", place.encode(), code_of(code))
        positional = code.co_varnames[: code.co_argcount]
        defaults = function.__defaults__ or ()
        given = dict(zip(positional[len(positional) - len(defaults) :], defaults, strict=True))
        for key, value in (*given.items(), *sorted((function.__kwdefaults__ or {}).items())):
            label = f"{key} (default in {name})"
            self._add(function, label, b"default", key.encode(), self.token(value, label))
        for key, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
            label = f"{key} (in {name})"
            self._add(function, label, b"closure", key.encode(), self._cell(cell, label, is_followed=is_own))
        for key, value in sorted(vars(function).items()):
            label = f"{name}.{key}"
            self._add(function, label, b"attribute", key.encode(), self.token(value, label))
        if is_own:
            self._uses(function, uses_of(code), name)

    def _uses(self, function: FunctionType, uses: Uses, name: str) -> None:
        """Write what a function finds outside itself, in its module and those of others."""
        file = function.__code__.co_filename
        is_generated = bool(self._method) and file.startswith("<") and "ipython" not in file
        if not is_generated:
            self._check_code(function, uses, name)
        for origin in uses.used:
            self._follow(function, origin, name, is_bare=origin in uses.called_bare)

    def _follow(self, function: FunctionType, origin: Origin, name: str, *, is_bare: bool) -> None:
        """Write the value of a name that a function uses, as far as its attributes can be followed."""
        value = self._first(function, origin, name)
        if value is _MISSING:
            return
        label, path = self._label(function, origin.name), list(origin.attributes)
        content = b""
        while isinstance(value, ModuleType):
            module, owner = value, owner_of_module(value)
            if owner == Owner.USER:
                if not path:
                    content += self._whole(module)
                    break
                content += self._numbered(module, module.__name__)
                value = self._need(module, path[0])
            else:
                self._library(module.__name__)
                content += module.__name__.encode()
                value = getattr(module, path[0], _MISSING) if path and owner != Owner.PACKAGE else _MISSING
                if value is _MISSING:
                    break
            label = f"{module.__name__}.{path.pop(0)}"
            if not isinstance(value, ModuleType) and owner != Owner.USER:
                content += self._of_library(module, label, value, is_bare=is_bare)
                self._check_method(value, path, name)
                break
        else:
            if len(path) == 1 and self._is_changed_by(value, path[0]):
                self._complain_of_change(name, str(origin._replace(attributes=origin.attributes[:-1])))
            content = joined(content, self.token(value, label))
            place = reference(value) if self.is_checked and is_bare else None
            if place is not None:
                self._check_use(*place, name, is_bare=True)
            self._check_method(value, path, name)
        self._add(function, label, b"uses", str(origin).encode(), content)

    def _first(self, function: FunctionType, origin: Origin, name: str) -> Any:
        """Return what the first name of an origin stands for."""
        if origin.kind == "free":
            cell = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=True))[origin.name]
            try:
                return cell.cell_contents
            except ValueError:
                return _MISSING
        if origin.kind == "import":
            return self._imported(origin.name, name)
        if origin.name in function.__globals__:
            return function.__globals__[origin.name]
        known: Any = cast("Any", function).__builtins__
        if origin.name not in known:
            if origin.kind == "global":
                hint = did_you_mean(origin.name, [*function.__globals__, *known])
                self._complain(f"{name} uses {origin.name}, which is not defined", hint)
            return _MISSING
        self._check_use("builtins", origin.name, name, is_bare=False)
        return _MISSING  # every Python has it

    def _imported(self, module: str, name: str) -> Any:
        """Return a library that a function imports itself."""
        try:
            return import_module(module)
        except Exception as error:  # noqa: BLE001 - importing runs code of others
            hint = "Install it, also for the workers, or import it at the top of the module."
            self._complain(f"{name} imports {module}, which fails: {first_line(error)}", hint)
            return _MISSING

    def _need(self, module: ModuleType, key: str) -> Any:
        """Return an attribute of one of the user's modules, and write it once."""
        needed = self.needed.setdefault(id(module), {})
        if key not in vars(module) and "__getattr__" in vars(module):
            key = "__getattr__"
        if key not in vars(module):
            if self.is_checked:
                self._complain(
                    f"module {module.__name__} has no {key}",
                    did_you_mean(key, vars(module).keys() - _SKIPPED_OF_MODULES),
                )
            return _MISSING
        value = vars(module)[key]
        if key not in needed:
            needed[key] = value
            label = f"{module.__name__}.{key}"
            self._numbered(module, module.__name__)
            content = self._numbered(value, label) if is_users_module(value) else self.token(value, label)
            self._add(module, label, b"attribute", key.encode(), content)
        return value

    def _of_library(self, module: ModuleType, label: str, value: Any, *, is_bare: bool) -> bytes:
        """Return what stands for something in a library's module, of which the version is enough."""
        if self.is_checked:
            wrong = refused.unrepeatable(value)
            if wrong is not None:
                self._complain(f"{label} is {wrong[0]}", wrong[1])
            self._check_use(module.__name__, label.rpartition(".")[2], self.title, is_bare=is_bare)
            if isinstance(value, (FunctionType, type)) and owner_of(value) == Owner.USER and reference(value) is None:
                hint = "Use your function under a name of its own: workers have the one of the library."
                self._complain(f"{label} was replaced by {name_of(value)}", hint)
        place = reference(value) if callable(value) else None
        if place is not None:
            self._library(place[0])
        return joined(label.encode(), atom(value) or b"", *(part.encode() for part in place or ()))

    def _label(self, function: FunctionType, name: str) -> str:
        """Return the name of a variable, with its module if that is another than where the walk began."""
        if function.__globals__ is self._home:
            return name
        return f"{function.__globals__.get('__name__', '?')}.{name}"

    # --- What is refused ----------------------------------------------------------------------------

    def _complain(self, what: str, hint: str) -> None:
        """Refuse a function for what it does; for a method wait until it is known whether that may be called."""
        if self.is_checked and self._method:
            self._complaints.append((self._method, what, hint))
        elif self.is_checked:
            self.refuse(what, hint)

    def _complain_of_methods(self) -> None:
        """Refuse for a method whose name appears in the code (of a constructor: that of its class)."""
        if not self._complaints:
            return
        named = set().union(*(names_in(function.__code__) for function, _ in self.functions))
        for (cls, method), what, hint in self._complaints:
            is_special = method.startswith("__") and method.endswith("__")
            if (cls if method in _CONSTRUCTORS else method) in named or (is_special and method not in _CONSTRUCTORS):
                self.refuse(what, hint)

    def _check_use(self, module: str, key: str, name: str, *, is_bare: bool) -> None:
        wrong = refused.forbidden(module, key, is_called_bare=is_bare)
        if wrong is not None:
            self._complain(f"{self.title if name == key else name} uses {key}, which {wrong[0]}", wrong[1])

    def _check_method(self, value: Any, path: list[str], name: str) -> None:
        """Refuse methods of a library's classes and objects that give something else each time."""
        if path and self.is_checked:
            home = value.__module__ if isinstance(value, type) else type(value).__module__
            self._check_use(home, path[-1], name, is_bare=False)

    def _check_code(self, function: FunctionType, uses: Uses, name: str) -> None:
        """Refuse code that changes what other calls see, or that reads or imports what workers need not have."""
        for origin in uses.changed:
            self._complain_of_change(name, str(origin))
        for method in sorted(refused.READING_METHODS & names_in(function.__code__)):
            self._check_use("pathlib", method, name, is_bare=False)
        for found in uses.imports:
            beside = Path(function.__code__.co_filename).with_name(found.name.partition(".")[0])
            is_beside = beside.is_dir() or beside.with_suffix(".py").is_file()
            owner = Owner.USER if found.level or is_beside else owner_of_name(found.name)
            if owner is None:
                self._complain(
                    f"{name} imports {found.name}, which cannot be found", "Install it, or correct its name."
                )
            elif owner == Owner.USER:
                hint = f"Put `import {found.name}` at the top of the module: then what it has is sent to the workers."
                self._complain(f"{name} imports your module {found.name or '.'} only when it runs", hint)

    def _complain_of_change(self, name: str, changed: str) -> None:
        hint = f"Return a new value, or copy {changed} first: chunks are counted in any order, by several processes."
        self._complain(f"{name} changes {changed}, which other calls would see", hint)

    @staticmethod
    def _is_changed_by(value: Any, method: str) -> bool:
        is_histogram = method == "fill" and type(value).__module__.partition(".")[0] in ("hist", "boost_histogram")
        return is_histogram or (isinstance(value, _CONTAINERS) and method in refused.CHANGING_METHODS)


def name_of(thing: Any) -> str:
    """Return what a message calls an object."""
    return own_name(thing) or f"a {type(thing).__qualname__}"
