"""Measure the shape of a package from its source alone, without importing it.

    python benchmarks/house.py                              # this package
    python benchmarks/house.py src/zarr gammapy coffea      # side by side
    python benchmarks/house.py higgsnb --since v0.1.0       # subjects of the commits since then only

`repo-review`, from `pip install -e '.[dev]'`, checks the repository around each package; without it the row shows "–".

An *entry* is a module or a folder with modules, directly below the package; where two entries import each other, one of
the two arrows goes upwards. A function without a name of its own (a lambda) does not count, a nested one does.
"""

from __future__ import annotations

import argparse
import ast
import json
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import NamedTuple

FUNCTION = ast.FunctionDef | ast.AsyncFunctionDef
NAMED = FUNCTION | ast.ClassDef
USE = ast.Name | ast.Attribute
SUBJECT = 72  # characters
INIT = "__init__"


class Module(NamedTuple):
    """A file, parsed."""

    name: str  # below the package, dotted: "events.fast.pages"; "__init__" is the package's own
    is_folder: bool
    n_lines: int
    tree: ast.Module


def modules(package: Path) -> list[Module]:
    found = []
    for path in sorted(package.rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        parts = path.relative_to(package).with_suffix("").parts
        is_folder = parts[-1] == "__init__"
        name = ".".join(parts[:-1] if is_folder else parts) or INIT
        found.append(Module(name, is_folder, len(text.splitlines()), ast.parse(text)))
    return found


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.endswith("__")


def entry(module: str) -> str:
    return module.partition(".")[0]


# --- functions and names ---------------------------------------------------------------------------


def named(tree: ast.AST, kind: type | object) -> Iterator[ast.AST]:
    return (node for node in ast.walk(tree) if isinstance(node, kind))


def body_lines(function: FUNCTION) -> int:
    """The lines from the first statement after the docstring to the last."""
    statements = function.body[1:] if ast.get_docstring(function, clean=False) is not None else function.body
    return statements[-1].end_lineno - statements[0].lineno + 1 if statements else 0


def with_one_caller(module: Module) -> int:
    """Private functions and methods whose name is used (called, passed on) exactly once in their module."""
    used = Counter(node.id if isinstance(node, ast.Name) else node.attr for node in named(module.tree, USE))
    private = [node.name for node in named(module.tree, FUNCTION) if is_private(node.name)]
    return sum(used[name] == 1 for name in private)


def public_names(module: Module) -> list[str]:
    """The names in ``__all__``, or the public functions and classes of a module that has none."""
    for node in module.tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        listed = any(isinstance(target, ast.Name) and target.id == "__all__" for target in targets)
        if listed and isinstance(node.value, ast.List | ast.Tuple):
            return [ast.unparse(name) for name in node.value.elts]
    return [node.name for node in module.tree.body if isinstance(node, NAMED) and not node.name.startswith("_")]


# --- imports ---------------------------------------------------------------------------------------


def imported(module: Module, package: str, known: set[str]) -> Iterator[str]:
    """The modules of the package that a module imports, also inside functions and for types only."""
    parts = [] if module.name == INIT else module.name.split(".")
    folder = parts if module.is_folder else parts[:-1]
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            origins = [alias.name.split(".") for alias in node.names]
            candidates = [origin[1:] for origin in origins if origin[0] == package]
        elif isinstance(node, ast.ImportFrom):
            origin = node.module.split(".") if node.module else []
            if node.level:
                origin = folder[: len(folder) - node.level + 1] + origin
            elif origin[0] == package:
                origin = origin[1:]
            else:
                continue
            candidates = [[*origin, alias.name] for alias in node.names]
        else:
            continue
        for path in candidates:
            lengths = range(len(path), 0, -1)
            yield next((".".join(path[:n]) for n in lengths if ".".join(path[:n]) in known), INIT)


def arrows(package: list[Module], name: str) -> set[tuple[str, str]]:
    """Which entry imports which; what the package's own ``__init__`` imports does not count."""
    known = {module.name for module in package}
    pairs = {(entry(module.name), entry(target)) for module in package for target in imported(module, name, known)}
    return {(here, there) for here, there in pairs if here not in {there, INIT}}


def ordered(arrows: set[tuple[str, str]]) -> list[str]:
    """The entries from the highest to the lowest: next is always the one that the rest imports least."""
    left = {entry for pair in arrows for entry in pair}
    order = []
    while left:
        into = Counter(there for here, there in arrows if here in left and there in left)
        out_of = Counter(here for here, there in arrows if here in left and there in left)
        order.append(min(left, key=lambda entry: (into[entry], -out_of[entry], entry)))
        left.remove(order[-1])
    return order


def floors(arrows: set[tuple[str, str]], order: list[str]) -> int:
    """The entries of the longest chain of imports downwards."""
    place = {entry: index for index, entry in enumerate(order)}
    depth: dict[str, int] = {}
    for here in reversed(order):
        below = [depth[there] for start, there in arrows if start == here and place[there] > place[here]]
        depth[here] = 1 + max(below, default=0)
    return max(depth.values(), default=1)


# --- the table -------------------------------------------------------------------------------------


def subjects(folder: Path, since: str | None) -> list[str]:
    """The subjects of the commits, newest first; none where there is no repository."""
    command = ["git", "-C", str(folder), "log", "--format=%s", *([f"{since}.."] if since else [])]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.splitlines()


def habits(folder: Path) -> str:
    """How many checks of ``repo-review`` pass and fail; neither counts those that are ignored or do not apply."""
    root = next((path for path in folder.resolve().parents if (path / "pyproject.toml").is_file()), None)
    program = shutil.which("repo-review")
    if root is None or program is None:
        return "–"
    command = [program, "--format", "json", str(root)]
    found = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    results = [check["result"] for check in json.loads(found)["checks"].values()]
    return f"{results.count(True)} : {results.count(False)}"


def measure(folder: Path, since: str | None = None) -> dict[str, str]:
    package = modules(folder)
    if not package:
        raise SystemExit(f"no Python modules in {folder}: name the folder of a package")
    functions = [node for module in package for node in named(module.tree, FUNCTION)]
    classes = [node for module in package for node in named(module.tree, ast.ClassDef)]
    top_level = [node.name for module in package for node in module.tree.body if isinstance(node, NAMED)]
    n_lines = sum(module.n_lines for module in package)
    between = arrows(package, folder.resolve().name)
    order = ordered(between)
    upwards = [pair for pair in between if order.index(pair[0]) > order.index(pair[1])]
    faces = [module for module in package if module.name != INIT and "." not in module.name]
    commits = subjects(folder, since)
    n_private = sum(is_private(node.name) for node in functions)
    n_hidden = sum(name.startswith("_") for name in top_level)
    return {
        "modules": f"{len(package)}",
        "lines": f"{n_lines:,}",
        "lines of a module, median": f"{median(module.n_lines for module in package):.0f}",
        "entries at the top": f"{len({entry(module.name) for module in package})}",
        "floors": f"{floors(between, order)}",
        "arrows between entries": f"{len(between)}",
        "arrows upwards": f"{len(upwards)}",
        "functions per 100 lines": f"{100 * len(functions) / n_lines:.1f}",
        "longest function body": f"{max(map(body_lines, functions), default=0)}",
        "longest class": f"{max((node.end_lineno - node.lineno + 1 for node in classes), default=0)}",
        "private : public definitions": f"{n_hidden} : {len(top_level) - n_hidden}",
        "private functions": f"{n_private}",
        "… with exactly one caller": f"{sum(map(with_one_caller, package))}",
        "public names of the entries": f"{sum(len(public_names(module)) for module in faces)}",
        "repo-review, passed : failed": habits(folder),
        f"commit subjects over {SUBJECT}": f"{sum(len(s) > SUBJECT for s in commits)} of {len(commits)}",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("packages", nargs="*", type=Path, default=[Path(__file__).parents[1] / "higgsnb"])
    parser.add_argument("--since", help="count the commits after this one only")
    options = parser.parse_args()
    columns = [measure(folder, options.since) for folder in options.packages]
    rows = [("", *(folder.resolve().name for folder in options.packages))]
    rows += [(name, *(column[name] for column in columns)) for name in columns[0]]
    widths = [max(map(len, cells)) for cells in zip(*rows, strict=True)]
    for row in rows:
        print(row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)))


if __name__ == "__main__":
    main()
