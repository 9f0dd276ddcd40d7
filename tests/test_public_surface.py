"""The public surface, name by name: `public_surface.txt` has the names of every wing, in the order of its face.

A name that is added, removed or moved changes that file, and the changelog. To write it again:

    python tests/test_public_surface.py > tests/public_surface.txt
"""

from __future__ import annotations

import importlib
import inspect
from pathlib import Path
from types import ModuleType

import pytest

import higgsnb

ANALYSIS = ["Analysis", "Axis", "Selected", "Shift"]  # names of `selection` that an analysis of one's own begins with
WINGS = [name for name in higgsnb.__all__ if name not in ("errors", *ANALYSIS)]
LISTED = Path(__file__).with_name("public_surface.txt")


def wing(name: str) -> ModuleType:
    return importlib.import_module(f"higgsnb.{name}")


def surface() -> list[str]:
    return [f"{name}.{public}" for name in WINGS for public in wing(name).__all__]


NAMES = surface()


def test_public_names_are_those_listed() -> None:
    assert LISTED.read_text(encoding="utf-8").splitlines() == NAMES


def test_package_shows_its_wings_and_the_errors() -> None:
    assert sorted(dir(higgsnb)) == sorted([*WINGS, *ANALYSIS, "errors", "__version__"])
    assert all(getattr(higgsnb, name) is getattr(higgsnb.selection, name) for name in ANALYSIS)


@pytest.mark.parametrize("name", WINGS)
def test_wing_shows_its_public_names_and_no_others(name: str) -> None:
    public = wing(name).__all__
    assert dir(wing(name)) == sorted(public)
    assert len(set(public)) == len(public)
    assert [one for one in public if one.startswith("_")] == []


@pytest.mark.parametrize("name", NAMES)
def test_public_name_exists_and_is_documented(name: str) -> None:
    found = getattr(wing(name.partition(".")[0]), name.partition(".")[2])
    if inspect.isclass(found) or callable(found) or inspect.ismodule(found):
        text = vars(found).get("__doc__") if inspect.isclass(found) else found.__doc__
        assert text
        assert not text.startswith(f"{name.partition('.')[2]}("), "written by dataclass or NamedTuple, not by a person"


def test_wing_names_what_it_does_not_have() -> None:
    with pytest.raises(AttributeError, match="module 'higgsnb' has no attribute 'pictures'"):
        _ = higgsnb.pictures


if __name__ == "__main__":
    print("\n".join(NAMES))
