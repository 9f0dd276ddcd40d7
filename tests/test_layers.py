"""The shape of the package: imports go only downwards, and each library belongs to one or two modules."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import higgsnb
from higgsnb import provenance

PACKAGE = Path(higgsnb.__file__).parent

# From the lowest layer to the highest: a module imports only from layers below its own.
LAYERS = (
    {"errors", "constants"},
    {"provenance", "transfer", "accounts", "executors"},
    {"files"},
    {"campaign", "luminosity", "diagnosis"},
    {"chunks"},
    {"parse"},
    {"datasets"},
    {"selection"},
    {"rules", "blocks"},
    {"baskets", "pairings"},
    {"kernel"},
    {"pages"},
    {"preselected", "schema"},
    {"csv_events", "root_events", "skims", "kubernetes"},
    {"read"},
    {"events"},
    {"histograms"},
    {"tally"},
    {"analyse", "coverage", "yields"},
    {"lumi_sections"},
    {"result"},
    {"ledger"},
    {"tasks", "plan"},
    {"engine", "providers"},
    {"cluster_preflight"},
    {"cluster"},
    {"plots", "statistics", "sample"},
    {"results", "exploring"},
    {"pictures", "explorer"},
    {"widgets"},
    {"__main__"},
)
OUTSIDE = {"toy"}  # the simulated campaign imports constants only; no module knows it but `files`, on demand

# Who may import what is not in the standard library. NumPy belongs to all.
LIBRARIES = {
    "errors": set(),
    "constants": set(),
    "provenance": set(),
    "atomic": set(),
    "addresses": set(),
    "request": set(),
    "retries": set(),
    "http_source": set(),  # certifi where it is installed
    "xrootd": set(),  # XRootD where it is installed
    "transfer": set(),
    "cache": {"platformdirs"},
    "accounts": set(),
    "executors": {"distributed"},
    "files": set(),
    "datasets": set(),
    "luminosity": set(),
    "checks": set(),
    "selection": set(),
    "compiled": {"numba"},
    "kernel": set(),
    "rules": set(),
    "blocks": {"cramjam", "deflate", "isal", "xxhash", "zstandard"},
    "baskets": set(),
    "pages": {"xxhash"},
    "preselected": {"uproot"},
    "schema": set(),
    "csv_events": set(),
    "root_events": {"uproot", "awkward"},
    "read": set(),
    "events": set(),
    "skims": {"pyarrow"},
    "histograms": {"hist", "uhi"},
    "tally": set(),
    "analyse": set(),
    "coverage": set(),
    "yields": set(),
    "lumi_sections": set(),
    "result": {"hist"},  # for a type only
    "ledger": set(),
    "tasks": set(),
    "engine": set(),
    "waiting": set(),
    "cluster_options": {"dask_jobqueue", "distributed"},
    "provider": {"distributed"},
    "k8s_api": {"httpx", "kr8s"},
    "k8s_spec": {"dask", "dask_kubernetes", "distributed", "psutil"},
    "k8s_problems": set(),
    "k8s_preflight": set(),
    "k8s_operated": {"distributed", "kr8s"},
    "k8s_orphans": set(),
    "providers": {"dask_gateway", "distributed", "psutil"},
    "cluster_preflight": {"dask"},
    "cluster": {"distributed"},
    "widgets": {"anywidget", "traitlets"},
    "pairings": set(),
    "statistics": {"iminuit", "scipy"},
    "sample": set(),
    "exploring": set(),
    "explorer": {"anywidget", "traitlets"},
    "pictures": {"matplotlib"},
    "plots": {"matplotlib", "mplhep", "scipy"},
    "results": {"pyarrow"},
    "__main__": {"click", "distributed", "tqdm"},
    "toy": set(),
    "toy_physics": set(),
    "toy_collisions": set(),
    "toy_detector": set(),
    "toy_pseudodata": set(),
    "toy_writer": {"uproot", "awkward"},
}
HEAVY = {"awkward", "hist", "matplotlib", "mplhep", "numba", "pyarrow", "scipy", "uhi", "uproot"}
HEAVY |= {"anywidget", "dask_kubernetes", "iminuit", "httpx", "ipywidgets", "kr8s", "psutil", "traitlets"}
HEAVY |= {"aiohttp", "dask", "distributed", "fsspec", "requests"}
VAGUE = {"utils", "util", "core", "base", "common", "helpers", "misc", "tools"}


class Import(NamedTuple):
    module: str  # dotted, absolute
    line: int
    at_start: bool  # executed when the importing module is


def imports(source: str) -> Iterator[Import]:
    """Every import of a module of the package, also those inside functions and for types only."""
    tree = ast.parse(source)
    late = {
        id(node)
        for scope in ast.walk(tree)
        if isinstance(scope, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        or (isinstance(scope, ast.If) and ast.unparse(scope.test) == "TYPE_CHECKING")
        for node in ast.walk(scope)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, node.lineno, id(node) not in late) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            origin = ".".join(filter(None, ("higgsnb" if node.level else "", node.module)))
            names = [f"{origin}.{alias.name}" for alias in node.names] if origin == "higgsnb" else [origin]
            yield from (Import(name, node.lineno, id(node) not in late) for name in names)


def own_modules(source: str) -> Iterator[Import]:
    """The imports of other modules of the package, by their plain names."""
    for found in imports(source):
        parts = found.module.split(".")
        if parts[0] == "higgsnb" and len(parts) > 1 and parts[1] != "__version__":
            yield found._replace(module=parts[1])


def layer(module: str) -> int:
    return next(number for number, names in enumerate(LAYERS) if module in names)


def violations(module: str, source: str) -> list[str]:
    """What a module imports against the rules."""
    wrong = []
    for found in own_modules(source):
        if found.module in OUTSIDE:
            allowed = module == "files" and not found.at_start
        elif module in OUTSIDE:
            allowed = found.module == "constants"
        else:
            allowed = layer(found.module) < layer(module)
        if not allowed:
            wrong.append(f"{module}.py:{found.line} imports {found.module}")
    for found in imports(source):
        library = found.module.split(".")[0]
        known = library in sys.stdlib_module_names or library in {"higgsnb", "numpy"}
        if not known and library not in LIBRARIES[module]:
            wrong.append(f"{module}.py:{found.line} imports {library}, which belongs elsewhere")
    return wrong


MODULES = sorted(path.stem for path in PACKAGE.glob("*.py") if path.stem != "__init__")


def test_table_lists_every_module_once() -> None:
    listed = sorted([name for names in LAYERS for name in names] + list(OUTSIDE))
    assert listed == MODULES
    assert sorted(LIBRARIES) == MODULES


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_only_downwards(module: str) -> None:
    assert violations(module, (PACKAGE / f"{module}.py").read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("files", "from higgsnb import datasets"),
        ("selection", "def f():\n    from higgsnb.plots.spectrum import save"),
        ("histograms", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from . import analysis"),
        ("campaign", "from .luminosity import Mask"),
        ("files", "from higgsnb import toy"),
        ("engine", "def f():\n    import higgsnb.datasets.toy"),
        ("toy", "from higgsnb import files"),
        ("cache", "from higgsnb import transfer"),
        ("plots", "import uproot.reading"),
        ("files", "import pickle, numba"),
    ],
)
def test_import_against_the_rules_is_found(module: str, source: str) -> None:
    assert len(violations(module, source)) == 1


def test_import_within_the_rules_is_accepted() -> None:
    assert violations("files", "import numpy as np\ndef f():\n    from higgsnb import toy") == []
    assert violations("__main__", "import click\nfrom higgsnb import __version__, engine") == []


def test_package_is_flat_and_no_module_has_a_vague_name() -> None:
    assert VAGUE.isdisjoint(MODULES)
    assert [path.name for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE] == []


@pytest.mark.parametrize(
    "module", ["higgsnb", "higgsnb.__main__", "higgsnb.datasets", "higgsnb.datasets.files.sources"]
)
def test_import_loads_no_heavy_library(module: str) -> None:
    code = f"import sys, {module}; print(*sorted({{name.split('.')[0] for name in sys.modules}}))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert sorted(set(answer.stdout.split()) & HEAVY) == []


def test_every_public_name_can_be_used_and_no_other() -> None:
    assert [name for name in higgsnb.__all__ if getattr(higgsnb, name).__name__ != f"higgsnb.{name}"] == []
    assert set(higgsnb.__all__) <= set(dir(higgsnb))
    with pytest.raises(AttributeError, match="no attribute 'histogramms'"):
        _ = higgsnb.histogramms


def everything_behind(module: str) -> set[str]:
    """A module with all that it imports, and what that imports …, but for what changes no number."""
    found: set[str] = set()
    left = [module]
    while left:
        found.add(name := left.pop())
        left += [i.module for i in own_modules((PACKAGE / f"{name}.py").read_text(encoding="utf-8"))]
        left = [name for name in left if name not in found]
    return found - {"errors", "provenance"}


@pytest.mark.parametrize(
    ("module", "covered"), [("analyse", provenance.RESULT_MODULES), ("skims", provenance.READ_MODULES)]
)
def test_key_of_what_is_kept_covers_every_module_behind_it(module: str, covered: tuple[str, ...]) -> None:
    assert everything_behind(module) == set(covered)


def test_sources_of_a_folder_are_those_of_every_module_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "_PACKAGE", tmp_path)
    (tmp_path / "wing" / "room").mkdir(parents=True)
    digests = []
    for name in ("one.py", "wing/__init__.py", "wing/room/two.py", "wing/notes.txt", "other.py"):
        (tmp_path / name).write_text(name)
        digests.append(provenance.sources_sha256.__wrapped__("wing", "one"))
    assert len(set(digests[:3])) == 3
    assert digests[2] == digests[3] == digests[4]
