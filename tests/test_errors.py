"""The tree of errors: every one has a message and a hint, also after a journey to another process."""

from __future__ import annotations

import inspect
import pickle

import pytest

from higgsnb import errors
from higgsnb.errors import HiggsnbError, did_you_mean

TREE = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, HiggsnbError)]
EXTRA = {"WorkerLostError": {"failures": 3}, "ApiError": {"status": 403}}


@pytest.mark.parametrize("hint", ["Do this.", ""])
@pytest.mark.parametrize("kind", TREE)
def test_error_is_the_same_after_pickling(kind: type[HiggsnbError], hint: str) -> None:
    extra = EXTRA.get(kind.__name__, {})
    error = kind("something is wrong", hint, **extra)
    for one in (error, pickle.loads(pickle.dumps(error))):  # noqa: S301 - our own bytes
        assert type(one) is kind
        assert one.message == "something is wrong"
        assert one.hint == (hint or kind.default_hint)
        assert str(one) == f"{one.message}\n{one.hint}"
        assert {name: getattr(one, name) for name in extra} == extra
        assert errors.describe(one) == (one.message, one.hint)


@pytest.mark.parametrize("kind", TREE)
def test_every_class_has_a_hint_of_its_own_and_a_line_in_the_drawn_tree(kind: type[HiggsnbError]) -> None:
    assert kind.default_hint.endswith(".")
    if kind is not HiggsnbError:
        assert "default_hint" in vars(kind)
        _, builtin = kind.__bases__
        assert f"── {kind.__name__} ({builtin.__name__})" in (errors.__doc__ or "")


@pytest.mark.parametrize(
    ("error", "message", "hint"),
    [
        (OSError(28, "No space left on device"), "no space left on device", "Free some space"),
        (OSError(28, "No space left on device", "/disk/a"), "/disk/a: no space left on device", "Free some space"),
        (OSError(27, "File too large", b"/disk/a"), "/disk/a: file too large", "Free some space"),
        (OSError(30, "Read-only file system", "/disk/a"), "/disk/a: read-only file system", "Choose a place"),
        (OSError(24, "Too many open files"), "too many open files", "Use fewer workers"),
        (PermissionError(13, "Permission denied", "/a"), "/a: permission denied", "Check the permissions"),
        (OSError("no number"), "no number", "Check that the file"),
        (ConnectionResetError(), "ConnectionResetError", "Check the network"),
        (MemoryError(), "the worker had no memory left", "Give workers more memory"),
        (MemoryError("16 GiB"), "no memory left (16 GiB)", "Give workers more memory"),
        (ValueError("not ROOT\nTry another file."), "not ROOT", "Try another file."),
        (ValueError(" \n "), "ValueError", "Check the file"),
        (ZeroDivisionError(), "ZeroDivisionError", "Run `higgsnb --debug"),
    ],
)
def test_errors_of_others_have_a_message_and_a_hint(error: Exception, message: str, hint: str) -> None:
    found = errors.describe(error)
    assert found[0] == message
    assert found[1].startswith(hint)


@pytest.mark.parametrize("error", [OSError(22, "Invalid argument"), MemoryError("16 GiB"), ValueError("not ROOT")])
def test_the_file_is_named_where_the_error_names_none(error: Exception) -> None:
    message, hint = errors.describe(error, "a.root")
    assert message == f"a.root: {errors.describe(error)[0]}"
    assert hint == errors.describe(error)[1]
    assert errors.describe(OSError(22, "Invalid argument", "b.root"), "a.root")[0] == "b.root: invalid argument"
    own = errors.UnreadableError("b.root: is damaged", "Fetch it.")
    assert errors.describe(own, "a.root") == (own.message, own.hint)


def test_unknown_name_is_answered_with_the_nearest_or_with_all() -> None:
    assert did_you_mean("tooy", ["toy", "cms2012"]) == "Did you mean toy?"
    assert did_you_mean("xyz", ["toy", "cms2012"]) == "Known: toy, cms2012."
    assert did_you_mean("?", map(str, range(20))).endswith("10, 11 and 8 more.")
    assert did_you_mean("xyz", []) == ""
