"""The project around the package: its two commands, versions, dependencies, what may not be committed."""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import higgsnb

pytestmark = pytest.mark.one_python

ROOT = Path(__file__).resolve().parents[1]
RUN = "pip install -e . && higgsnb run"
TEST = "pip install -e '.[test]' && pytest"
REQUIREMENTS = sorted((ROOT / "requirements").glob("*.txt"))
LOADED_BY_NAME = {"certifi", "xrootd", "fsspec-xrootd"}  # `files` looks whether they are there
LOADED_BY_OTHERS = {"fsspec", "nbval", "ipykernel"}  # by uproot, pytest, the notebooks
LOADED_BY_OTHERS |= {"anywidget", "kubernetes_validate", "yaml"}  # by the package, and where a test skips without
OPTIONAL = ("notebook", "kubernetes", "batch", "gateway", "coffea")  # extras that parts of the package need
WITH_OTHERS = {
    "IPython",
    "httpx",
    "jupyter_core",
    "psutil",
    "tornado",
    "traitlets",
}  # come with ipykernel, kr8s, voila, distributed, anywidget


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def project() -> dict:
    return tomllib.loads(read("pyproject.toml"))["project"]


def distributions(requirements: list[str]) -> set[str]:
    return {re.split(r"[^\w.-]", requirement)[0] for requirement in requirements}


def modules(requirements: list[str]) -> set[str]:
    """The names by which distributions are imported."""
    other = {"pyyaml": "yaml", "cel-python": "celpy"}
    return {other.get(name, name.replace("-", "_")) for name in distributions(requirements)}


@pytest.fixture(scope="module")
def repository_files() -> list[Path]:
    """The files that are in the repository or would be added to it."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout: get one with `git clone` to check what is in the repository")
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    return [ROOT / name for name in names if name and (ROOT / name).is_file()]


# --- The two commands ------------------------------------------------------------------------------


@pytest.mark.parametrize("command", [RUN, TEST])
def test_readme_and_ci_have_the_two_commands_word_for_word(command: str) -> None:
    assert command in read("README.md").splitlines()
    assert re.search(rf"^[{{ ]*{re.escape(command)} \|\| exit 1", read(".ci/run"), re.MULTILINE)


def test_ci_scripts_can_be_executed_and_are_valid() -> None:
    assert [path.name for path in (ROOT / ".ci").iterdir() if not os.access(path, os.X_OK)] == []
    for name in ("run", "lint"):
        subprocess.run(["bash", "-n", ROOT / ".ci" / name], check=True)


def test_ci_runs_every_python_of_the_classifiers() -> None:
    versions = re.findall(r"Python :: (3\.\d+)", read("pyproject.toml"))
    assert f"for version in {' '.join(versions)}; do" in read(".ci/run")
    assert f"python: {json.dumps(versions)}" in read(".github/workflows/tests.yml")


def test_command_line_entry_is_the_module() -> None:
    assert project()["scripts"] == {"higgsnb": "higgsnb.__main__:main"}


# --- Versions and dependencies ---------------------------------------------------------------------


def test_version_is_the_same_everywhere() -> None:
    assert project()["dynamic"] == ["version"]
    newest, date = re.findall(r"^## \[(\d[^\]]*)\] - (\S+)$", read("CHANGELOG.md"), re.MULTILINE)[0]
    citation = dict(re.findall(r"^(version|date-released): (\S+)$", read("CITATION.cff"), re.MULTILINE))
    assert newest == higgsnb.__version__
    assert citation == {"version": higgsnb.__version__, "date-released": date}


def test_dependency_groups_are_the_extras_of_the_same_name() -> None:
    groups = tomllib.loads(read("pyproject.toml"))["dependency-groups"]
    assert groups == {name: [f"higgsnb[{name}]"] for name in ("test", "dev")}
    assert set(groups) <= set(project()["optional-dependencies"])


def imported(folder: str) -> set[str]:
    """The third-party libraries that the modules of a folder import, also lazily."""
    names: set[str] = set()
    paths = [path for path in (ROOT / folder).rglob("*.py") if path.parent.name != "data"]  # there: how files were made
    own = {path.stem for path in paths} | {"higgsnb"}
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names.add(node.module or "")
    return {name.split(".")[0] for name in names} - set(sys.stdlib_module_names) - own


def test_package_declares_what_it_imports_and_nothing_else() -> None:
    needed = modules(project()["dependencies"]) - LOADED_BY_NAME - LOADED_BY_OTHERS
    extras = project()["optional-dependencies"]
    optional = set().union(*(modules(extras[name]) for name in OPTIONAL))
    assert needed <= imported("higgsnb") <= needed | optional | WITH_OTHERS


def test_tests_need_what_the_test_extra_brings_and_nothing_else() -> None:
    extras = project()["optional-dependencies"]
    extra, dependencies = modules(extras["test"]), modules(project()["dependencies"])
    skipped_without = modules(extras["kubernetes"]) | modules(extras["browser"])
    assert imported("tests") <= dependencies | extra | skipped_without | WITH_OTHERS
    assert extra - LOADED_BY_OTHERS <= imported("tests")


@pytest.mark.parametrize("path", REQUIREMENTS, ids=lambda path: path.name)
def test_every_pinned_requirement_has_hashes_and_no_address(path: Path) -> None:
    text = re.sub(r"\\\n", " ", path.read_text(encoding="utf-8"))
    lines = [line for line in text.splitlines() if line and not line.lstrip().startswith("#")]
    assert lines
    for line in lines:
        assert re.match(r"[\w.-]+==\S+ .*--hash=sha256:[0-9a-f]{64}", line), line.split(" --hash")[0]
        assert "://" not in line
    pinned = {line.split("==")[0] for line in lines}
    assert distributions(project()["dependencies"]) <= pinned


def test_requirements_are_pinned_for_tests_development_and_notebooks() -> None:
    assert {path.stem for path in REQUIREMENTS} >= {"test", "dev", "notebook"}
    for path in REQUIREMENTS:
        wanted = distributions(project()["optional-dependencies"].get(path.stem, [])) - {"higgsnb"}
        assert wanted <= set(re.findall(r"^([\w.-]+)==", path.read_text(encoding="utf-8"), re.MULTILINE))


# --- What may not be in the repository -------------------------------------------------------------


def test_notebooks_have_no_outputs() -> None:
    with_outputs = []
    for path in sorted((ROOT / "notebooks").glob("**/*.ipynb")):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        if any(cell.get("outputs") or cell.get("execution_count") for cell in cells):
            with_outputs.append(path.name)
    assert with_outputs == [], "run nbstripout on them"


def test_no_file_is_larger_than_one_megabyte(repository_files: list[Path]) -> None:
    assert [path.name for path in repository_files if path.stat().st_size > 1_000_000] == []


def test_no_download_address_or_index_is_in_the_repository(repository_files: list[Path]) -> None:
    address = re.compile(
        rb"--(?:extra-)?index[-]url|pythonhosted[.]|pypi[.]org/simple|https?://\S+[.](?:whl|tar[.]gz)\b"
    )
    assert [path.name for path in repository_files if address.search(path.read_bytes())] == []
    assert [path.name for path in repository_files if path.name == "uv.lock"] == []


def test_results_are_ignored_by_git(repository_files: list[Path]) -> None:
    assert "/results/" in read(".gitignore").splitlines()
    assert [path for path in repository_files if path.is_relative_to(ROOT / "results")] == []


def pinned_for(extra: str) -> dict[str, str]:
    """The versions that a requirements file pins for Python 3.11: those whose marker does not ask for a later one."""
    pins = re.findall(r"^([a-z0-9-]+)(==[^ ]+)(.*)$", read(f"requirements/{extra}.txt"), re.MULTILINE)
    return {name: version for name, version, marker in pins if "python_full_version >=" not in marker}


BUILDS_WITH = {"pathspec", "pluggy", "tomlkit", "trove-classifiers"}  # what hatchling needs


def test_binder_installs_what_the_lock_pins() -> None:
    environment = read("binder/environment.yml")
    listed = dict(re.findall(r"^      - ([a-z0-9-]+)(==\S+)$", environment, re.MULTILINE))
    locked = pinned_for("notebook")
    assert "  - python=3.11\n" in environment
    assert distributions(project()["dependencies"]) <= set(listed)
    assert {name for name in listed if name not in locked} == {"hatchling", *BUILDS_WITH}
    assert {name: version for name, version in listed.items() if name in locked} == {
        name: locked[name] for name in listed if name in locked
    }


@pytest.mark.parametrize("name", ["environment.yml", "postBuild"])
def test_root_links_lead_to_what_binder_reads(name: str) -> None:
    assert (ROOT / name).is_symlink()
    assert (ROOT / name).read_text() == (ROOT / "binder" / name).read_text()


# --- Habits ----------------------------------------------------------------------------------------


def checked(message: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """What Git's hook says about a commit message."""
    path = folder / "message"
    path.write_text(message, encoding="utf-8")
    return subprocess.run([ROOT / ".ci" / "commits", path], capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    "message",
    [
        "engine: retry lost batches\n\nA line of the body may be longer than the subject, up to what fits on a screen.",
        "tests, ci: use one list of Pythons",
        "README: say how to install",
        "events/fast: " + "x" * 59,
        "Merge branch 'engine'",
        'Revert "engine: retry lost batches"',
    ],
)
def test_good_commit_message_is_accepted(message: str, tmp_path: Path) -> None:
    found = checked(message, tmp_path)
    assert (found.returncode, found.stdout, found.stderr) == (0, "", "")


@pytest.mark.parametrize(
    ("message", "fault"),
    [
        ("events/fast: " + "x" * 60, "73 characters"),
        ("retry lost batches", "expected 'area: verb"),
        ("Engine: retry lost batches", "expected 'area: verb"),
        ("engine: retry lost batches.", "without a full stop"),
        ("engine: fixed the loss of batches", "'fixed' is not imperative"),
    ],
)
def test_bad_commit_message_is_refused_with_the_reason(message: str, fault: str, tmp_path: Path) -> None:
    found = checked(message, tmp_path)
    assert found.returncode == 1
    assert fault in found.stdout


def test_subjects_are_not_checked_where_there_is_no_history(tmp_path: Path) -> None:
    (tmp_path / ".ci").mkdir()
    copy = tmp_path / ".ci" / "commits"
    copy.write_text(read(".ci/commits"), encoding="utf-8")
    found = subprocess.run([sys.executable, copy], capture_output=True, text=True, check=False)
    assert found.returncode == 0
    assert "not checked" in found.stdout


def test_changelog_fragments_are_named_by_kind_and_not_empty() -> None:
    kinds = {kind["directory"] for kind in tomllib.loads(read("pyproject.toml"))["tool"]["towncrier"]["type"]}
    name = re.compile(rf"(\d+|\+[a-z-]+)\.({'|'.join(sorted(kinds))})(\.\d+)?\.md")
    fragments = [path for path in (ROOT / "changes").iterdir() if path.name != "README.md"]
    assert [path.name for path in fragments if not name.fullmatch(path.name)] == []
    assert [path.name for path in fragments if not path.read_text(encoding="utf-8").strip()] == []
    assert set(re.findall(r"`12\.(\w+)\.md`", read("changes/README.md"))) == kinds


@pytest.mark.parametrize("folder", ["benchmarks", "tests"])
def test_programs_import_names_that_exist(folder: str) -> None:
    """Also those in strings, inside functions and in tests that only run with a browser or a cluster."""
    line = re.compile(r"^ *from (higgsnb[\w.]*) import \(?([\w, ]+)", re.MULTILINE)
    found = [
        (path.relative_to(ROOT), module, name.split(" as ")[0].strip())
        for path in sorted((ROOT / folder).rglob("*.py"))
        for module, names in line.findall(path.read_text(encoding="utf-8"))
        for name in names.rstrip(", ").split(",")
    ]
    missing = [f"{path}: from {module} import {name}" for path, module, name in found if not exists(module, name)]
    assert not missing, "\n".join(missing)


def exists(module: str, name: str) -> bool:
    """Whether ``from module import name`` would find something."""
    try:
        found = importlib.import_module(module)
        return hasattr(found, name) or importlib.util.find_spec(f"{module}.{name}") is not None
    except ModuleNotFoundError:
        return False


def test_table_of_wings_names_every_room() -> None:
    table = re.findall(r"^\| `(\w+)` \|[^|]*\|([^|]*)\|[^|]*\|$", read("CONTRIBUTING.md"), re.MULTILINE)
    listed = {wing: set(re.findall(r"`(\w+)/?`", rooms)) for wing, rooms in table}
    package = ROOT / "higgsnb"
    wings = sorted(path.parent for path in package.glob("*/__init__.py"))
    rooms = {
        wing.name: {part for path in wing.rglob("*.py") for part in path.relative_to(wing).with_suffix("").parts}
        for wing in wings
    }
    assert listed == {name: parts - {"__init__", "__main__"} for name, parts in rooms.items()}


def test_places_to_begin_exist() -> None:
    wings = "|".join(path.parent.name for path in (ROOT / "higgsnb").glob("*/__init__.py"))
    places = re.findall(rf"`((?:{wings})/[\w/]+\.\w+)(?::(\w+))?`", read("CONTRIBUTING.md"))
    missing = [
        (file, name)
        for file, name in places
        if not (ROOT / "higgsnb" / file).is_file()
        or (name and not re.search(rf"\b(def|class) {name}\b|^{name}\b.*=", read(f"higgsnb/{file}"), re.MULTILINE))
    ]
    assert len(places) > 20
    assert missing == []


WING = {
    "__init__.py": '__all__ = ["shops", "trains"]\n',
    "shops.py": "from .trains import arrive\n\n\ndef buy():\n    return arrive()\n",
    "trains/__init__.py": 'from .timetable import arrive\n\n__all__ = ["arrive"]\n',
    "trains/timetable.py": '''\
def arrive():
    """Two lines

    of a docstring do not count."""
    time = _time()
    return time


def _time():
    return _clock() + _clock()


def _clock():
    def tick():
        return 1

    return tick()


class Train:
    def leave(self):
        pass
''',
}


def test_house_measures_a_small_package_as_counted_by_hand(tmp_path: Path) -> None:
    package = tmp_path / "town"
    for name, text in WING.items():
        (package / name).parent.mkdir(exist_ok=True, parents=True)
        (package / name).write_text(text, encoding="utf-8")
    command = [sys.executable, ROOT / "benchmarks" / "house.py", package]
    table = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert dict(re.findall(r"^(\S.*?)  +(\S.*)$", table, re.MULTILINE)) == {
        "modules": "4",
        "lines": "31",
        "lines of a module, median": "4",
        "entries at the top": "3",
        "floors": "2",
        "arrows between entries": "1",
        "arrows upwards": "0",
        "functions per 100 lines": "19.4",
        "longest function body": "4",
        "longest class": "3",
        "private : public definitions": "2 : 3",
        "private functions": "2",
        "… with exactly one caller": "1",
        "public names of the entries": "2",
        "repo-review, passed : failed": "–",
        "commit subjects over 72": "0 of 0",
    }
