"""Compiled code is never older than the sources it was made of."""

from __future__ import annotations

import ast
import json
import os
import pickle
import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pytest

import higgsnb
from higgsnb.selection import compiled, kernel, rules

PACKAGE = Path(higgsnb.__file__).parent

# Twice the same four muons; the last one of the second event has no isolation.
USERS = """
import json
import numba
import numpy as np
from higgsnb import selection
from higgsnb.events.fast import gather
from higgsnb.selection import pairings, rules

n, z = 8, np.zeros(8)
pt, eta, phi = np.tile([50.0, 41.0, 20.0, 11.0], 2), np.tile([0.1, 0.4, -0.2, 0.3], 2), np.tile([0, 3.0, 1.5, -1.3], 2)
charge, small, isolation = np.tile([1, -1], 4), np.full(n, 0.01), np.r_[np.full(n - 1, 0.1), -999.0]
columns = [c.astype(np.float32) for c in (pt, eta, phi, z, charge, z, small, z, small, isolation)]
columns[4] = charge.astype(np.int32)
muons, electrons = selection.Flavour._make(columns), selection.Flavour._make(c[:0] for c in columns)
offsets, none, two = np.array([0, 4, 8]), np.zeros(3, np.int64), np.ones(2, np.int64)
cuts = selection.load("open2012").replace(mass_4l_min=0, z1_mass_min=0, z2_mass_min=0, z1_mass_max=1e6, z2_mass_max=1e6)
leptons = selection.Leptons(two, two, two.astype(np.uint64), offsets, *muons, none, *electrons)
found = selection.select(leptons, cuts)
held, which, _, _ = pairings.preselect(leptons, rules.cuts_of(cuts), any_pt=True)
total, numbers = np.empty(3, np.int64), pairings.count_all(held)
gather.add_up(np.array([2, 3], np.uint32), total)
print(json.dumps({
    "selected": found.mass_4l.tolist(), "unusable": found.invalid_values.sum(),
    "pairings": np.unique(np.round(pairings.pair_all(held, numbers, 91.2).rows["mass_4l"], 6)).tolist(),
    "held": len(which),
    "pair": numba.njit(lambda leptons: rules.pair_mass(leptons, 0, 1))(held.leptons), "offsets": total.tolist(),
}, default=int))
"""

READER = """
import json
import numpy as np
from higgsnb.events.fast import gather

total = np.empty(3, np.int64)
gather.add_up(np.array([2, 3], np.uint32), total)
stats, loaded = gather.add_up.stats, sum(gather.add_up.stats.cache_hits.values())
print(json.dumps({"offsets": total.tolist(), "folder": str(stats.cache_path), "loaded": loaded}))
"""

# `find_bins` calls `find_bin`, which numba does not look at when it searches its cache.
BINS = """
import json
import numpy as np
from higgsnb.selection import pairings

rows = np.ones(1, pairings.PAIRING)
pairings.find_bins(rows, 0, 1, np.arange(3.0), np.tile([0, 2], (4, 1)), np.zeros(4, np.int64))
print(json.dumps({"bins": rows["bins"][0].tolist(), "loaded": sum(pairings.find_bins.stats.cache_hits.values())}))
"""

CHANGES = {
    "selection/rules.py": ("energy**2 - px**2", "energy**2 + px**2"),
    "selection/leptons.py": ("SENTINEL = -999.0", "SENTINEL = -998.0"),
    "events/fast/gather.py": ("rises = np.int64(0), True", "rises = np.int64(7), True"),
}


class Copy:
    """A copy of the package that can be changed, and what its compiled functions return."""

    def __init__(self, folder: Path) -> None:
        self.package = folder / "higgsnb"
        shutil.copytree(PACKAGE, self.package, ignore=shutil.ignore_patterns("__pycache__", "static"))

    def run(self, code: str, **variables: str) -> dict[str, Any]:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("NUMBA_")}
        # Python's own cache would go by the time of modification.
        environment |= {"PYTHONPATH": str(self.package.parent), "PYTHONDONTWRITEBYTECODE": "1", **variables}
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment,
            cwd=self.package.parent,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return dict(json.loads(done.stdout))

    def change(self, name: str, old: str, new: str) -> None:
        """Change a source; neither its length nor its time of modification tells."""
        path = self.package / name
        text, times = path.read_text(encoding="utf-8"), path.stat()
        assert (text.count(old), len(old)) == (1, len(new))
        path.write_text(text.replace(old, new), encoding="utf-8")
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def masses(sign: int) -> tuple[float, float]:
    """The invariant mass of all four massless muons and of the first two, with ±px² in the formula."""
    pt, eta, phi = np.array([[50.0, 0.1, 0.0], [41.0, 0.4, 3.0], [20.0, -0.2, 1.5], [11.0, 0.3, -1.3]], np.float32).T
    vectors = np.array([pt * np.cosh(eta), pt * np.cos(phi), pt * np.sin(phi), pt * np.sinh(eta)], np.float64)
    four, two = (float(np.sqrt(np.dot([1, sign, -1, -1], vectors[:, :n].sum(axis=1) ** 2))) for n in (4, 2))
    return four, two


def answers(sign: int, good_events: int, unusable: int, offsets: list[int]) -> dict[str, Any]:
    four, two = masses(sign)
    return {
        "selected": pytest.approx([four] * good_events, rel=1e-5),
        "pairings": pytest.approx([four], rel=1e-5),
        "pair": pytest.approx(two, rel=1e-5),
        "held": good_events, "unusable": unusable, "offsets": offsets,
    }  # fmt: skip


def own_names(tree: ast.Module) -> dict[str, str]:
    """Names that a module imports from other modules of the package, and from which."""
    return {
        alias.name: node.module.removeprefix("higgsnb.")
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("higgsnb.")
        for alias in node.names
    }


def used_by_rules(tree: ast.Module) -> set[str]:
    """All names in the functions of a module that are compiled."""
    rules = [
        node
        for node in tree.body
        if isinstance(node, ast.FunctionDef) and {"rule", "inner_rule"} & {ast.unparse(d) for d in node.decorator_list}
    ]
    return {name.id for node in rules for name in ast.walk(node) if isinstance(name, ast.Name)}


def is_covered(module: str) -> bool:
    """Whether the key of the compiled code covers a module (``selection.rules``)."""
    return any(f"{module.replace('.', '/')}/".startswith(f"{source}/") for source in compiled.SOURCES)


def test_key_covers_every_module_with_a_rule_or_a_constant_of_a_rule() -> None:
    with_rules = set()
    for path in PACKAGE.rglob("*.py"):
        module = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        tree = ast.parse(path.read_text(encoding="utf-8"))
        assert "njit" not in ast.unparse(tree) or module == "selection.compiled"
        used = used_by_rules(tree)
        if used:
            with_rules.add(module)
            assert is_covered(module)
            assert all(is_covered(source) for name, source in own_names(tree).items() if name in used)
    rules = {"selection.rules", "selection.pairings", "selection.filling"}
    columns = {"events.fast.gather", "events.fourvectors", "results.rows", "results.duplicates"}
    assert with_rules == rules | columns


def test_same_sources_are_compiled_once_whenever_they_were_written(tmp_path: Path) -> None:
    copy = Copy(tmp_path)
    first = copy.run(READER)
    for path in copy.package.rglob("*.py"):
        os.utime(path)
    assert copy.run(READER) == {**first, "loaded": 1}
    assert (first["offsets"], first["loaded"]) == ([0, 2, 5], 0)
    assert Path(first["folder"]).parent == copy.package / "selection" / "__pycache__"


def test_rule_of_a_user_is_compiled_from_the_source_as_it_is_now(tmp_path: Path) -> None:
    results = []
    for factor in (2, 3):
        code = f"from higgsnb.selection import rule\n\n\n@rule\ndef g(x):\n    return x * {factor}\n\n\nprint(g(10))\n"
        (tmp_path / "user.py").write_text(code, encoding="utf-8")
        environment = {**os.environ, "PYTHONPATH": str(PACKAGE.parent), "NUMBA_CACHE_DIR": str(tmp_path / "cache")}
        command = [sys.executable, tmp_path / "user.py"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        results.append(done.stdout.strip())
    assert results == ["20", "30"]


@pytest.mark.parametrize("kind", ["nbi", "nbc"])
def test_damaged_code_is_compiled_anew(tmp_path: Path, kind: str) -> None:
    copy, cache = Copy(tmp_path), {"NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    first = copy.run(READER, **cache)
    assert Path(first["folder"]).parent == tmp_path / "cache"
    for path in Path(first["folder"]).glob(f"*.{kind}"):
        path.write_bytes(path.read_bytes()[:-100])
    assert copy.run(READER, **cache) == first
    assert copy.run(READER, **cache) == {**first, "loaded": 1}


@pytest.mark.parametrize("kind", ["nbi", "nbc"])
def test_code_that_others_could_have_written_is_not_executed(tmp_path: Path, kind: str) -> None:
    copy, cache = Copy(tmp_path), {"NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    first = copy.run(READER, **cache)
    executed = tmp_path / "executed"
    for path in Path(first["folder"]).glob(f"*.{kind}"):
        path.write_bytes(pickle.dumps(Touch(executed)))
    assert copy.run(READER, **cache) == first
    assert executed.exists()  # those of this user are: that is how numba keeps code
    executed.rmdir()
    for path in Path(first["folder"]).glob(f"*.{kind}"):
        path.write_bytes(pickle.dumps(Touch(executed)))
        path.chmod(0o666)
    assert copy.run(READER, **cache) == first
    assert not executed.exists()
    assert copy.run(READER, **cache) == {**first, "loaded": 1}


def test_folder_of_code_where_others_can_write_is_left_for_the_next_one(tmp_path: Path) -> None:
    copy, cache = Copy(tmp_path), {"NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    first = copy.run(READER, **cache)
    Path(first["folder"]).chmod(0o777)
    beside = copy.package / "selection" / "__pycache__" / Path(first["folder"]).name
    assert copy.run(READER, **cache) == {**first, "folder": str(beside)}
    assert copy.run(READER, **cache) == {**first, "folder": str(beside), "loaded": 1}


class Touch:
    """Something whose unpickling makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.path),))


def test_sources_edited_during_the_imports_leave_no_compiled_code(tmp_path: Path) -> None:
    copy = Copy(tmp_path)
    path = copy.package / "selection" / "filling.py"
    text = path.read_text(encoding="utf-8")
    edited = text.replace("return low - first + 1\n    while", "return low - first + 2\n    while")
    edit = f"import higgsnb.selection.compiled\nopen({str(path)!r}, 'w', encoding='utf-8').write({edited!r})"
    assert copy.run(edit + BINS) == {"bins": [3, 3, 3, 3], "loaded": 0}
    path.write_text(text, encoding="utf-8")
    assert copy.run(BINS) == {"bins": [2, 2, 2, 2], "loaded": 0}


def test_without_a_folder_to_write_to_every_process_compiles_for_itself(tmp_path: Path) -> None:
    copy, blocked = Copy(tmp_path), tmp_path / "file"
    blocked.touch()
    (copy.package / "selection" / "__pycache__").touch()
    found = copy.run(READER, NUMBA_CACHE_DIR=str(blocked), HIGGSNB_CACHE=str(blocked))
    assert found == {"offsets": [0, 2, 5], "folder": "None", "loaded": 0}
    found = copy.run(READER, HIGGSNB_CACHE=str(tmp_path / "cache"))
    assert Path(found["folder"]).parent == tmp_path / "cache"


def test_code_that_an_administrator_compiled_is_read_where_it_lies(tmp_path: Path) -> None:
    copy, shared = Copy(tmp_path), tmp_path / "shared"
    first = copy.run(READER, NUMBA_CACHE_DIR=str(shared))
    own = {"HIGGSNB_CACHE": str(tmp_path / "own"), "HIGGSNB_SHARED_CACHE": str(shared)}
    (copy.package / "selection" / "__pycache__").touch()  # nothing can be kept beside the sources
    assert copy.run(READER, **own) == {
        **first,
        "folder": str(tmp_path / "own" / Path(first["folder"]).name),
        "loaded": 1,
    }
    # Others could have put anything there.
    Path(first["folder"]).chmod(0o775)
    assert copy.run(READER, **own)["loaded"] == 0
    Path(first["folder"]).chmod(0o755)
    damaged = next(Path(first["folder"]).glob("gather.add_up*.nbc"))
    damaged.write_bytes(damaged.read_bytes()[:-100])
    shutil.rmtree(tmp_path / "own")
    assert copy.run(READER, **own)["loaded"] == 0
    assert copy.run(READER, **own)["loaded"] == 1  # from the own folder


def test_code_beside_the_sources_is_read_from_a_cache_that_cannot_be_written(tmp_path: Path) -> None:
    copy, blocked = Copy(tmp_path), tmp_path / "file"
    first, code = copy.run(READER), Path(copy.package / "selection" / "__pycache__")
    # Neither this folder nor any other can be written to.
    prepare = """
import tempfile

def read_only(*, dir):
    raise OSError(30, "Read-only file system", dir)

tempfile.TemporaryFile = read_only
"""
    blocked.touch()
    found = copy.run(prepare + READER, HIGGSNB_CACHE=str(blocked))
    assert found == {"offsets": [0, 2, 5], "folder": "None", "loaded": 1}
    assert Path(first["folder"]).parent == code


def test_threads_do_not_load_compiled_code_at_the_same_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """numba's look-up of types fails if another thread makes it grow: "dictionary changed size during iteration"."""
    barrier, together = threading.Barrier(2), []

    def meet(*_: object) -> None:
        try:
            barrier.wait(1.0)
        except threading.BrokenBarrierError:  # nobody else came
            return
        together.append(True)

    monkeypatch.setattr(kernel, "select", meet)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(kernel.warm_up.__wrapped__, ["open2012", "open2012"]))
    assert together == []


def test_rule_for_rules_cannot_be_called_from_python() -> None:
    @numba.njit
    def mass(energy: float) -> Any:
        return invariant_mass(energy, 3.0, 0.0, 0.0)

    invariant_mass = rules.invariant_mass
    assert mass(5.0) == 4.0
    with pytest.raises(TypeError):
        invariant_mass(5.0, 3.0, 0.0, 0.0)


def test_new_sources_remove_code_that_has_not_been_used_for_a_day(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiled, "_bases", lambda: iter([tmp_path]))
    now = time.time()
    for name, days in (
        ("compiled-old", 2),
        ("compiled-new", 0),
        ("kernel.select_events-506.py311.nbi", 2),
        ("x.pyc", 2),
    ):
        (tmp_path / name).touch() if "." in name else (tmp_path / name).mkdir()
        os.utime(tmp_path / name, (now - 86_500 * days,) * 2)
    assert compiled._folder("key") == tmp_path / "compiled-key"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["compiled-key", "compiled-new", "x.pyc"]


@pytest.mark.slow
def test_every_user_of_a_changed_rule_or_constant_changes(tmp_path: Path) -> None:
    copy = Copy(tmp_path)
    assert copy.run(USERS) == answers(-1, 1, 1, [0, 2, 5])
    for name, (old, new) in CHANGES.items():
        copy.change(name, old, new)
    assert copy.run(USERS) == answers(+1, 2, 0, [7, 9, 12])
