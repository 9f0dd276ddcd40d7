"""The project around the package: its two commands, versions, dependencies, what may not be committed."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import higgsnb

ROOT = Path(__file__).resolve().parents[1]
RUN = "pip install -e . && higgsnb run"
TEST = "pip install -e '.[test]' && pytest"
REQUIREMENTS = sorted((ROOT / "requirements").glob("*.txt"))
LOADED_BY_NAME = {"certifi", "xrootd", "fsspec-xrootd"}  # `files` looks whether they are there
LOADED_BY_OTHERS = {"fsspec", "boost_histogram", "nbval", "ipykernel"}  # by uproot, hist, pytest, the notebooks
LOADED_BY_OTHERS |= {"anywidget", "kubernetes_validate", "yaml"}  # by the package, and where a test skips without
OPTIONAL = ("notebook", "kubernetes", "batch", "gateway")  # extras that parts of the package need
WITH_OTHERS = {
    "IPython",
    "httpx",
    "psutil",
    "tornado",
    "traitlets",
}  # come with ipykernel, kr8s, distributed, anywidget


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


def test_ci_script_can_be_executed_and_is_valid_bash() -> None:
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
    subprocess.run(["bash", "-n", ROOT / ".ci" / "run"], check=True)


def test_command_line_entry_is_the_module() -> None:
    assert project()["scripts"] == {"higgsnb": "higgsnb.__main__:main"}


# --- Versions and dependencies ---------------------------------------------------------------------


def test_version_is_the_same_everywhere() -> None:
    assert project()["dynamic"] == ["version"]
    newest, date = re.findall(r"^## \[(\d[^\]]*)\] - (\S+)$", read("CHANGELOG.md"), re.MULTILINE)[0]
    citation = dict(re.findall(r"^(version|date-released): (\S+)$", read("CITATION.cff"), re.MULTILINE))
    assert newest == higgsnb.__version__
    assert citation == {"version": higgsnb.__version__, "date-released": date}


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
