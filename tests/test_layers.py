"""The shape of the package: nine wings, entered by their faces, importing only downwards."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import pytest

import higgsnb

pytestmark = pytest.mark.one_python
PACKAGE = Path(higgsnb.__file__).parent

# From the ground floor to the top: a wing imports only from floors below its own.
FLOORS = (
    {"redaction"},
    {"errors"},
    {"provenance", "storage", "text"},
    {"selection"},
    {"datasets"},
    {"events"},
    {"results"},
    {"engine", "statistics"},
    {"cluster", "plots"},
    {"widgets"},
    {"cli"},
    {"__main__"},
)
WINGS = {"datasets", "selection", "events", "results", "engine", "cluster", "statistics", "plots", "widgets"}

# The libraries outside the standard one, each with the wings or rooms that may import it. NumPy belongs to all.
LIBRARIES = {
    # where bytes are, and what is in them
    "platformdirs": {"storage"},
    "uproot": {"events", "datasets.toy.writer"},
    "awkward": {"events", "selection.processors", "datasets.toy.writer"},
    "vector": {"events.fourvectors"},
    "cramjam": {"events.fast.blocks"},
    "deflate": {"events.fast.blocks"},
    "isal": {"events.fast.blocks"},
    "zstandard": {"events.fast.blocks"},
    "xxhash": {"events.fast"},
    "pyarrow": {"events.skims", "results.directory"},
    "coffea": {"selection.processors"},
    "boost_histogram": {"selection.processors"},
    # compiled code; everybody else takes `rule` from `selection`
    "numba": {"selection.compiled"},
    # a user's function on its way to the workers
    "cloudpickle": {"selection.identity"},
    # counts and what they mean
    "hist": {"results", "selection.processors"},
    "uhi": {"results.histograms", "selection.processors"},
    "scipy": {"statistics"},
    "iminuit": {"statistics"},
    # many cores
    "distributed": {"engine.executors", "engine.versions", "cluster", "cli.run"},
    "dask": {"cluster"},
    "dask_gateway": {"cluster"},
    "dask_jobqueue": {"cluster"},
    "dask_kubernetes": {"cluster.kubernetes"},
    "kr8s": {"cluster.kubernetes"},
    "httpx": {"cluster.kubernetes"},
    "psutil": {"cluster"},
    # what people look at
    "matplotlib": {"plots"},
    "mplhep": {"plots"},
    "anywidget": {"widgets"},
    "traitlets": {"widgets"},
    "click": {"cli"},
    "tqdm": {"cli"},
    # only where a notebook has imported it already
    "IPython": {"engine.progress", "widgets.view"},
    "jupyter_core": {"cli"},
    "voila": {"cli"},
}
# Libraries that take long to import, and those of them that importing a module may load.
HEAVY = set(LIBRARIES) - {"click", "cramjam", "deflate", "isal", "platformdirs", "tqdm", "xxhash", "zstandard"}
HEAVY |= {"aiohttp", "fsspec", "ipywidgets", "requests"}
COMPILED = {"numba", "scipy"}  # numba loads scipy
FIGURES = COMPILED | {"matplotlib", "mplhep", "uhi"}
LOADED: dict[str, set[str]] = {
    "": set(),
    ".__main__": set(),
    ".cli": set(),
    ".datasets": set(),
    ".selection": set(),
    ".events": COMPILED,
    ".results": COMPILED,
    ".engine": COMPILED,
    ".statistics": COMPILED,
    ".cluster": COMPILED,
    ".plots": FIGURES,
    ".widgets": FIGURES | {"IPython", "anywidget", "ipywidgets", "traitlets"},
}
VAGUE = {"utils", "util", "core", "base", "common", "helpers", "misc", "tools"}


class Import(NamedTuple):
    """One imported name; ``module`` is dotted and absolute, ``name`` is None for ``import module``."""

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


def belongs_to(module: str, library: str) -> bool:
    """Whether a module may import a library: it or one of its folders is listed with it."""
    parts = module.split(".")[1:]
    folders = {".".join(parts[:length]) for length in range(1, len(parts) + 1)}
    return library in sys.stdlib_module_names or library == "numpy" or bool(folders & LIBRARIES.get(library, set()))


def violations(module: str, source: str, *, is_package: bool = False) -> list[str]:
    """What a module imports against the rules."""
    wrong, mine = [], wing_of(module)
    for found in imports(module, source, is_package=is_package):
        where = f"{module}:{found.line}"
        library = found.module.split(".")[0]
        if library != "higgsnb":
            if not belongs_to(module, library):
                wrong.append(f"{where} imports {library}, which belongs elsewhere")
            continue
        target = f"{found.module}.{found.name}" if found.module == "higgsnb" else found.module
        if target == "higgsnb.__version__" or mine == "higgsnb":
            continue
        theirs = wing_of(target)
        if theirs == mine:
            if found.module == f"higgsnb.{mine}" != module and f"{found.module}.{found.name}" not in MODULES:
                wrong.append(f"{where} imports {found.name} from the face of its own wing")
            continue
        if floor(theirs) >= floor(mine):
            wrong.append(f"{where} imports {target}, which is not below it")
        elif target.count(".") > 1:
            wrong.append(f"{where} imports {target}, a room inside another wing")
        elif theirs in WINGS and found.module != "higgsnb" and found.name not in faces()[theirs]:
            wrong.append(f"{where} imports {found.name}, which {theirs} does not show")
    return wrong


def hidden_attributes(module: str, source: str) -> list[str]:
    """Uses of ``wing.name`` after ``from higgsnb import wing`` where the face does not show the name."""
    tree = ast.parse(source)
    aliases = {
        alias.asname or alias.name: alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module == "higgsnb"
        for alias in node.names
        if alias.name in WINGS
    }
    assigned = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    assigned |= {n.arg for n in ast.walk(tree) if isinstance(n, ast.arg)}
    return [
        f"{module}:{node.lineno} uses {node.value.id}.{node.attr}"
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id in aliases.keys() - assigned
        and node.attr not in faces()[aliases[node.value.id]]
    ]


def order_of_rooms(wing: str, sources: dict[str, str]) -> list[str]:
    """The rooms of a wing, each after those that it imports when it is loaded or later; CycleError names a circle.

    A face inside a wing, like that of ``datasets.files``, stands for all of its rooms.
    """
    graph: dict[str, set[str]] = {}
    rooms = {module for module in sources if module.startswith(f"higgsnb.{wing}.")}
    for module in rooms:
        found = [one for one in imports(module, sources[module]) if not one.for_types]
        targets = {name for one in found for name in (one.module, f"{one.module}.{one.name}")}
        graph[module] = targets & rooms - {module}
    for folder in {room.rpartition(".")[0] for room in rooms} & rooms:
        graph[folder] = {room for room in rooms if room.startswith(f"{folder}.")}
        for room in graph[folder]:
            graph[room].discard(folder)
    return list(TopologicalSorter(graph).static_order())


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
    assert hidden_attributes(module, MODULES[module]) == []


def test_attribute_that_a_face_does_not_show_is_found() -> None:
    source = "from higgsnb import datasets as data\nchunks = data.load('toy'), data.parse"
    assert hidden_attributes("higgsnb.plots.tables", source) == ["higgsnb.plots.tables:2 uses data.parse"]


@pytest.mark.parametrize("wing", sorted(WINGS))
def test_rooms_of_a_wing_import_each_other_without_a_circle(wing: str) -> None:
    rooms = [module for module in MODULES if module.startswith(f"higgsnb.{wing}.")]
    assert sorted(order_of_rooms(wing, MODULES)) == sorted(rooms)


def test_circle_of_rooms_is_found_also_through_late_imports() -> None:
    sources = {
        "higgsnb.events.read": "from higgsnb.events.root import open_file",
        "higgsnb.events.root": "def f():\n    from higgsnb.events import schema",
        "higgsnb.events.schema": "from .read import inspect",
    }
    with pytest.raises(CycleError):
        order_of_rooms("events", sources)
    sources["higgsnb.events.schema"] = "import numpy"
    assert order_of_rooms("events", sources) == [f"higgsnb.events.{room}" for room in ("schema", "root", "read")]


@pytest.mark.parametrize("wing", sorted(WINGS))
def test_no_public_name_hides_a_room(wing: str) -> None:
    """``from higgsnb.engine import run`` means one thing."""
    rooms = {module.split(".")[2] for module in MODULES if module.startswith(f"higgsnb.{wing}.")}
    assert {
        name for name in rooms & faces()[wing] if not isinstance(getattr(getattr(higgsnb, wing), name), ModuleType)
    } == set()


@pytest.mark.parametrize("library", sorted(LIBRARIES))
def test_every_place_listed_for_a_library_imports_it(library: str) -> None:
    users = {
        module
        for module in MODULES
        if any(one.module.split(".")[0] == library for one in imports(module, MODULES[module]))
    }
    unused = {
        place for place in LIBRARIES[library] if not any(f"{user}.".startswith(f"higgsnb.{place}.") for user in users)
    }
    assert unused == set()


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
        ("events.fast.baskets", "def f():\n    import numba"),
        ("datasets.luminosity", "from higgsnb.datasets import load"),
    ],
)
def test_import_against_the_rules_is_found(module: str, source: str) -> None:
    assert len(violations(f"higgsnb.{module}", source)) == 1


def test_import_within_the_rules_is_accepted() -> None:
    assert violations("higgsnb.events.read", "import numpy as np\nfrom higgsnb.datasets import Chunk") == []
    assert violations("higgsnb.engine.run", "from higgsnb.engine import plan") == []
    assert violations("higgsnb.cluster.kubernetes.api", "import httpx") == []
    assert violations("higgsnb.cli.run", "import click\nfrom higgsnb import __version__, engine") == []


def test_no_module_has_a_vague_name() -> None:
    assert VAGUE.isdisjoint(part for module in MODULES for part in module.split("."))


@pytest.mark.parametrize("module", sorted(LOADED))
def test_import_loads_no_heavy_library_that_it_need_not(module: str) -> None:
    code = f"import sys, higgsnb{module}; print(*sorted({{name.split('.')[0] for name in sys.modules}}))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert sorted(set(answer.stdout.split()) & HEAVY - LOADED[module]) == []
