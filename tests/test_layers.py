"""The shape of the package: nine wings, entered by their faces, importing only downwards."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import pytest

import higgsnb

PACKAGE = Path(higgsnb.__file__).parent

# From the ground floor to the top: a wing imports only from floors below its own.
FLOORS = (
    {"errors"},
    {"provenance"},
    {"datasets", "selection"},
    {"events"},
    {"results"},
    {"engine", "statistics"},
    {"cluster", "plots"},
    {"widgets"},
    {"__main__"},
)
WINGS = {"datasets", "selection", "events", "results", "engine", "cluster", "statistics", "plots", "widgets"}

# Who may import what is not in the standard library. NumPy belongs to all.
LIBRARIES: dict[str, set[str]] = {}
HEAVY = {"awkward", "hist", "matplotlib", "mplhep", "numba", "pyarrow", "scipy", "uhi", "uproot"}
HEAVY |= {"anywidget", "dask_kubernetes", "iminuit", "httpx", "ipywidgets", "kr8s", "psutil", "traitlets"}
HEAVY |= {"aiohttp", "dask", "distributed", "fsspec", "requests"}
VAGUE = {"utils", "util", "core", "base", "common", "helpers", "misc", "tools"}


class Import(NamedTuple):
    """One imported name; ``module`` is dotted and absolute, ``name`` None for ``import module``."""

    module: str
    name: str | None
    line: int
    for_types: bool


def dotted(path: Path) -> str:
    """The name under which a file of the package is imported."""
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {dotted(path): path.read_text(encoding="utf-8") for path in sorted(PACKAGE.rglob("*.py"))}


def imports(module: str, source: str, *, is_package: bool = False) -> Iterator[Import]:
    """Every import of a module, also those inside functions and for types only."""
    tree = ast.parse(source)
    for_types = {
        id(node)
        for scope in ast.walk(tree)
        if isinstance(scope, ast.If) and ast.unparse(scope.test) == "TYPE_CHECKING"
        for node in ast.walk(scope)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, None, node.lineno, id(node) in for_types) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = module.split(".") if is_package else module.split(".")[:-1]
            above = package[: len(package) - node.level + 1] if node.level else []
            origin = ".".join([*above, *filter(None, [node.module])])
            yield from (Import(origin, alias.name, node.lineno, id(node) in for_types) for alias in node.names)


def wing_of(module: str) -> str:
    """The wing, or the module beside the wings, that a dotted name lies in."""
    return module.split(".")[1] if "." in module else "higgsnb"


def floor(wing: str) -> int:
    return next(number for number, names in enumerate(FLOORS) if wing in names)


def faces() -> dict[str, set[str]]:
    """The public names of each wing."""
    return {wing: set(getattr(higgsnb, wing).__all__) for wing in WINGS}


def violations(module: str, source: str, *, is_package: bool = False) -> list[str]:
    """What a module imports against the rules."""
    wrong, mine = [], wing_of(module)
    for found in imports(module, source, is_package=is_package):
        where = f"{module}:{found.line}"
        library = found.module.split(".")[0]
        if library != "higgsnb":
            known = library in sys.stdlib_module_names or library == "numpy"
            if not known and library not in LIBRARIES.get(module.removeprefix("higgsnb."), set()):
                wrong.append(f"{where} imports {library}, which belongs elsewhere")
            continue
        target = f"{found.module}.{found.name}" if found.module == "higgsnb" else found.module
        if target == "higgsnb.__version__" or mine == "higgsnb":
            continue
        theirs = wing_of(target)
        if theirs == mine:
            continue
        if floor(theirs) >= floor(mine):
            wrong.append(f"{where} imports {target}, which is not below it")
        elif target.count(".") > 1:
            wrong.append(f"{where} imports {target}, a room inside another wing")
        elif theirs in WINGS and found.module != "higgsnb" and found.name not in faces()[theirs]:
            wrong.append(f"{where} imports {found.name}, which {theirs} does not show")
    return wrong


def test_floors_name_every_module_and_folder_at_the_top_once() -> None:
    listed = sorted(name for names in FLOORS for name in names)
    top = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__"} | {p.parent.name for p in PACKAGE.glob("*/*.py")}
    assert listed == sorted(top)
    assert set(higgsnb.__all__) >= WINGS


@pytest.mark.parametrize("module", sorted(MODULES))
def test_imports_go_downwards_and_through_the_faces(module: str) -> None:
    is_package = (PACKAGE.parent / Path(*module.split("."))).is_dir()
    assert violations(module, MODULES[module], is_package=is_package) == []


@pytest.mark.parametrize("module", sorted(MODULES))
def test_attributes_of_a_wing_are_names_of_its_face(module: str) -> None:
    """``from higgsnb import plots`` and then ``plots.name``."""
    tree = ast.parse(MODULES[module])
    aliases = {
        alias.asname or alias.name: alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module == "higgsnb"
        for alias in node.names
        if alias.name in WINGS
    }
    assigned = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    assigned |= {n.arg for n in ast.walk(tree) if isinstance(n, ast.arg)}
    hidden = [
        f"{module}:{node.lineno} uses {node.value.id}.{node.attr}"
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id in aliases
        and node.value.id not in assigned
        and node.attr not in faces()[aliases[node.value.id]]
    ]
    assert hidden == []


@pytest.mark.parametrize("wing", sorted(WINGS))
def test_rooms_of_a_wing_import_each_other_without_a_circle(wing: str) -> None:
    graph: dict[str, set[str]] = {}
    for module, source in MODULES.items():
        if wing_of(module) != wing or module == f"higgsnb.{wing}":
            continue
        targets = graph.setdefault(module, set())
        for found in imports(module, source):
            for target in (found.module, f"{found.module}.{found.name}"):
                if target in MODULES and wing_of(target) == wing and target != module and not found.for_types:
                    targets.add(target)
    faces_inside = {module for module in graph if (PACKAGE.parent / Path(*module.split("."))).is_dir()}
    for module in faces_inside:  # a face inside a wing, as of datasets.files, stands for its rooms
        graph[module] = {room for room in graph if room.startswith(f"{module}.")}
        for room in graph[module]:
            graph[room].discard(module)
    list(TopologicalSorter(graph).static_order())  # CycleError names the circle


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("datasets.parse", "from higgsnb import events"),
        ("selection.cuts", "def f():\n    from higgsnb.plots import save"),
        ("results.tally", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from higgsnb import engine"),
        ("events.read", "from higgsnb.datasets.campaign import Chunk"),
        ("events.read", "from higgsnb.datasets import _total"),
        ("engine.run", "from ..cluster import launch"),
        ("statistics.fit", "from higgsnb.engine import run"),
        ("plots.tables", "import uproot.reading"),
        ("datasets.parse", "import pickle, numba"),
    ],
)
def test_import_against_the_rules_is_found(module: str, source: str) -> None:
    assert len(violations(f"higgsnb.{module}", source)) == 1


def test_import_within_the_rules_is_accepted() -> None:
    assert violations("higgsnb.events.read", "import numpy as np\nfrom higgsnb.datasets import Chunk") == []
    assert violations("higgsnb.__main__", "import click\nfrom higgsnb import __version__, engine") == []


def test_no_module_has_a_vague_name() -> None:
    assert VAGUE.isdisjoint(part for module in MODULES for part in module.split("."))


@pytest.mark.parametrize("module", ["higgsnb", "higgsnb.__main__", "higgsnb.datasets", "higgsnb.selection"])
def test_import_loads_no_heavy_library(module: str) -> None:
    code = f"import sys, {module}; print(*sorted({{name.split('.')[0] for name in sys.modules}}))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert sorted(set(answer.stdout.split()) & HEAVY) == []
