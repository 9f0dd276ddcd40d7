"""The text of the user's functions and classes, to be shown beside a result."""

from __future__ import annotations
import __future__

import ast
import inspect
import linecache
import textwrap
import tokenize
from contextlib import suppress
from functools import lru_cache
from types import CodeType, FunctionType
from typing import Any

from higgsnb.selection.identity.ownership import Owner, owner_of

_FUTURE = sum(getattr(__future__, name).compiler_flag for name in __future__.all_feature_names)


def function_source(function: FunctionType) -> str | None:
    """Return the text of a function; None if it was made of text that is nowhere, such as by `exec`.

    If the file has changed since the function was loaded, the text of the function is not known: a comment says so.
    """
    code = function.__code__
    linecache.checkcache(code.co_filename)
    lines = linecache.getlines(code.co_filename, function.__globals__)
    if not lines:
        return None
    found = _compiled(code.co_filename, "".join(lines), code.co_flags & _FUTURE)
    if found and code not in found:
        return f"# {function.__qualname__}: the file has changed since it was imported\n"
    lines = lines[code.co_firstlineno - 1 :]
    with suppress(SyntaxError, tokenize.TokenError):  # a lambda of which the text does not stand alone
        lines = inspect.getblock(lines)
        return textwrap.dedent("".join(lines))
    return lines[0].strip() + "\n" if lines else None


def class_source(cls: type) -> str | None:
    """Return the text of a class that has methods of its own; None if it cannot be found."""
    for value in vars(cls).values():
        function = inspect.unwrap(getattr(value, "__func__", value)) if callable(value) else value
        if not isinstance(function, FunctionType) or owner_of(function) != Owner.USER:
            continue
        lines = linecache.getlines(function.__code__.co_filename, function.__globals__)
        for node in _classes("".join(lines), cls.__name__):
            if node.lineno <= function.__code__.co_firstlineno <= (node.end_lineno or 0):
                first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
                return textwrap.dedent("".join(lines[first - 1 : node.end_lineno]))
    return None


@lru_cache(64)
def _classes(text: str, name: str) -> list[ast.ClassDef]:
    """Return the classes of a name in a text; none if it cannot be parsed, like a cell with commands of IPython."""
    try:
        return [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ClassDef) and node.name == name]
    except (SyntaxError, ValueError):
        return []


@lru_cache(64)
def _compiled(file: str, text: str, flags: int) -> tuple[CodeType, ...]:
    """Return the code of all functions in a text; none if it cannot be compiled as it is."""
    try:
        whole: Any = compile(text, file, "exec", flags, dont_inherit=True)
    except (SyntaxError, ValueError):
        return ()
    found, waiting = [], [whole]
    while waiting:
        code = waiting.pop()
        found.append(code)
        waiting += [constant for constant in code.co_consts if isinstance(constant, CodeType)]
    return tuple(found)
