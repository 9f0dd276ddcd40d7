"""What Binder reads: its environment, and the scripts that prepare and start a session."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from importlib import metadata, util
from pathlib import Path
from urllib.parse import unquote

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import higgsnb

pytestmark = pytest.mark.one_python

ROOT = Path(__file__).resolve().parents[1]
BINDER = ROOT / "binder"
BASE = {
    # What repo2docker's environment for Python 3.11 brings and the package uses, too.
    "attrs", "idna", "importlib-metadata", "jinja2", "markupsafe", "packaging", "psutil", "pyyaml", "six", "tornado",
    "tzdata", "zipp",
}  # fmt: skip
JUPYTER = {
    "comm", "ipykernel", "ipython", "ipywidgets", "jinja2", "jupyter", "jupyterhub", "jupyterlab", "jupyterlab-widgets",
    "jupyter-client", "jupyter-core", "jupyter-server", "nbclient", "nbformat", "notebook", "pyzmq", "tornado",
    "traitlets",
}  # fmt: skip


def pins() -> dict[str, str]:
    """The packages of the pip section, with the versions they are pinned to."""
    text = (BINDER / "environment.yml").read_text(encoding="utf-8")
    section = text.partition("  - pip:\n")[2]
    lines = [line.split("#")[0].strip() for line in section.splitlines()]
    return dict(line.removeprefix("- ").split("==") for line in lines if line)


def needed(names: set[str]) -> set[str]:
    """These distributions and all that they need, as installed here."""
    found: set[str] = set()
    todo = set(names)
    while todo:
        name = todo.pop()
        found.add(name)
        for requirement in metadata.requires(name) or []:
            wanted, _, marker = requirement.partition(";")
            if not re.search(r"extra|platform|sys_|os_name|python_(?:full_)?version\s*<", marker):
                todo |= {re.split(r"[^\w.-]", wanted)[0].lower().replace("_", "-").replace(".", "-")} - found
    return found


def run(*command: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a script with no more of an environment than PATH and what is given."""
    environment = {"PATH": os.environ["PATH"], **variables}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)


# --- The environment -------------------------------------------------------------------------------


def test_python_is_pinned_in_the_only_form_that_binder_understands() -> None:
    assert "  - python=3.11\n" in (BINDER / "environment.yml").read_text(encoding="utf-8")


def test_every_package_is_pinned_exactly_and_jupyter_is_left_as_binder_built_it() -> None:
    listed = pins()
    assert all(re.fullmatch(r"[\d.]+", version) for version in listed.values())
    assert JUPYTER & set(listed) == set()


def test_everything_that_the_package_needs_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    direct = {re.split(r"[^\w.-]", requirement)[0] for requirement in project["dependencies"]}
    assert needed(direct) - BASE - set(pins()) == set()


def test_package_itself_is_installed_by_post_build_and_not_by_the_environment() -> None:
    assert "-e ." not in (BINDER / "environment.yml").read_text(encoding="utf-8")
    assert "hatchling" in pins()
    assert "--no-deps --no-build-isolation --no-index" in (BINDER / "postBuild").read_text(encoding="utf-8")


# --- The scripts -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["postBuild", "start"])
def test_script_is_executable_and_valid_bash(name: str) -> None:
    assert os.access(BINDER / name, os.X_OK)
    subprocess.run(["bash", "-n", BINDER / name], check=True)


def test_post_build_stops_at_the_first_error_and_asks_no_server() -> None:
    text = (BINDER / "postBuild").read_text(encoding="utf-8")
    assert "set -euo pipefail" in text
    assert not re.search(r"curl|wget|git |https?:", text)


def test_start_hands_over_words_and_exit_code_unchanged() -> None:
    done = run(BINDER / "start", "sh", "-c", 'printf "%s|" "$@"; exit 7', "sh", "two words", "*", "")
    assert (done.returncode, done.stdout, done.stderr) == (7, "two words|*||", "")
    assert (BINDER / "start").read_text(encoding="utf-8").rstrip().endswith('exec "$@"')


def test_start_expects_no_jupyter() -> None:
    """A Dask worker runs it, too: in an environment with the system's shell alone."""
    shell = shutil.which("sh") or "/bin/sh"
    done = run(BINDER / "start", shell, "-c", "echo here", PATH="/usr/bin:/bin")
    assert (done.stdout, done.stderr) == ("here\n", "")


def test_dashboard_is_linked_through_the_hub_only_where_there_is_one() -> None:
    show = ("sh", "-c", 'echo "${DASK_DISTRIBUTED__DASHBOARD__LINK:-none}"')
    assert run(BINDER / "start", *show).stdout == "none\n"
    in_hub = run(BINDER / "start", *show, JUPYTERHUB_SERVICE_PREFIX="/user/ada/")
    assert in_hub.stdout == "/user/ada/proxy/{port}/status\n"
    own = run(BINDER / "start", *show, JUPYTERHUB_SERVICE_PREFIX="/user/ada/", DASK_DISTRIBUTED__DASHBOARD__LINK="x")
    assert own.stdout == "x\n"


def test_numerical_libraries_use_one_thread_unless_told_otherwise() -> None:
    show = ("sh", "-c", 'echo "$OMP_NUM_THREADS"')
    assert run(BINDER / "start", *show).stdout == "1\n"
    assert run(BINDER / "start", *show, OMP_NUM_THREADS="4").stdout == "4\n"


# --- The layout of JupyterLab ----------------------------------------------------------------------


def test_workspace_opens_the_first_notebook_beside_the_list_of_notebooks() -> None:
    workspace = json.loads((BINDER / "workspace.json").read_text(encoding="utf-8"))
    layout, data = workspace["data"]["layout-restorer:data"], workspace["data"]
    current = layout["main"]["current"]
    assert layout["main"]["dock"]["widgets"] == [current]
    assert (ROOT / data[current]["data"]["path"]).is_file()
    assert current == f"notebook:{data[current]['data']['path']}"
    assert (ROOT / data["file-browser-filebrowser:cwd"]["path"]).is_dir()
    assert layout["left"]["current"] == "filebrowser"
    assert workspace["metadata"]["id"] == "default"


def test_settings_of_jupyterlab_are_valid_and_ask_nobody_about_news() -> None:
    settings = json.loads((BINDER / "overrides.json").read_text(encoding="utf-8"))
    assert settings["@jupyterlab/apputils-extension:notification"]["fetchNews"] == "false"


def test_kernels_that_nobody_looks_at_end_after_a_while() -> None:
    culling = json.loads((BINDER / "jupyter_server_config.json").read_text(encoding="utf-8"))["MappingKernelManager"]
    assert 60 <= culling["cull_idle_timeout"] <= 600  # then mybinder.org ends the whole session
    assert 0 < culling["cull_interval"] <= 60
    assert culling["cull_connected"] is False
    script = (BINDER / "postBuild").read_text(encoding="utf-8")
    assert 'cp binder/jupyter_server_config.json "$prefix/etc/jupyter/"' in script


# --- Links that open it ----------------------------------------------------------------------------


def test_links_of_binder_name_the_tag_of_this_version_those_of_hubs_a_branch_and_all_files_that_exist() -> None:
    """nbgitpuller merges ``origin/BRANCH`` each time but the first; with a tag there is no such thing, and it fails."""
    text = "".join((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "notebooks/INSTRUCTORS.md"))
    links = re.findall(r"https://(?:mybinder\.org/v2/gh/|HUB/hub/user-redirect/git-pull)[^\s)\"]+", text)
    assert links
    for link in map(unquote, links):
        found = re.search(r"branch=([^&]+)|/v2/gh/[^/]+/[^/]+/([^?]+)", link)
        assert found is not None
        assert found.groups() in (("main", None), (None, f"v{higgsnb.__version__}"))
        target = re.search(r"(?:lab/tree|voila/render)/(?:higgsnb/)?(\S+)$", link)
        assert target is not None
        assert (ROOT / target[1]).is_file()


# --- With the real tool ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def dockerfile() -> str:
    """What repo2docker would build of this repository; it needs no Docker for that."""
    tool = shutil.which("jupyter-repo2docker")
    if tool is None:
        pytest.skip("jupyter-repo2docker is not installed: pip install jupyter-repo2docker")
    command = [tool, "--no-build", "--debug", "--Repo2Docker.default_buildpack=None", str(ROOT)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=True, timeout=120)
    return done.stdout


def test_repo2docker_reads_the_files_in_binder_and_no_other(dockerfile: str) -> None:
    assert "COPY --chown=0:0 src/binder/environment.yml ${REPO_DIR}/binder/environment.yml" in dockerfile
    assert 'env update -p ${NB_PYTHON_PREFIX} --file "binder/environment.yml"' in dockerfile
    assert "RUN ./binder/postBuild" in dockerfile
    assert 'ENV R2D_ENTRYPOINT="${REPO_DIR}/binder/start"' in dockerfile
    assert not re.search(r"src/environment\.yml|RUN \./postBuild|setup\.py|requirements\.txt", dockerfile)


def test_repo2docker_recognises_the_python_version(dockerfile: str) -> None:
    assert "environment-2epy-2d3-2e11" in dockerfile


# --- An empty environment --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment with all that the pip section lists beside a bare kernel."""
    if sys.version_info[:2] != (3, 11):
        pytest.skip("Binder has Python 3.11: run this test with it")
    folder = tmp_path_factory.mktemp("binder") / "empty"
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    listed = [f"{name}=={version}" for name, version in pins().items()]
    subprocess.run([folder / "bin" / "pip", "install", "-q", "ipykernel", "nbclient", *listed], check=True)
    return folder / "bin" / "python"


@pytest.mark.slow
def test_environment_in_an_empty_one_runs_post_build_and_the_first_notebook(empty: Path, tmp_path: Path) -> None:
    """Takes minutes and needs a package index."""
    shutil.copytree(ROOT, tmp_path / "copy", ignore=shutil.ignore_patterns(".git", ".*_cache"), symlinks=True)
    environment = {
        **{name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        "PATH": f"{empty.parent}{os.pathsep}{os.environ['PATH']}",
        "HIGGSNB_CACHE": str(tmp_path / "cache"),
        "HOME": str(tmp_path),
    }
    subprocess.run([tmp_path / "copy" / "binder" / "postBuild"], env=environment, check=True)
    first = tmp_path / "copy" / "notebooks" / "00_start_here.ipynb"
    subprocess.run([empty.parent / "jupyter-execute", first], env=environment, cwd=tmp_path, check=True)


def brought_by_binder() -> dict[str, str]:
    """The versions that repo2docker's own environment has, by name."""
    lock = Path("buildpacks", "conda", "environment.py-3.11-linux-64.lock")
    folder = util.find_spec("repo2docker")
    if folder is None or folder.origin is None:
        pytest.skip("jupyter-repo2docker is not installed: pip install jupyter-repo2docker")
    text = (Path(folder.origin).parent / lock).read_text(encoding="utf-8")
    found = re.findall(r"/([^/]+)-([^-/]+)-[^-/]+\.(?:conda|tar\.bz2)(?:#\w+)?$", text, re.MULTILINE)
    versions = {canonicalize_name(name): version for name, version in found}
    return {"nbconvert": versions["nbconvert-core"], **versions}  # conda-forge splits it


@pytest.mark.slow
def test_binder_brings_what_is_not_pinned_and_new_enough(empty: Path) -> None:
    """Else pip would replace it by whatever is the newest on that day."""
    base, listed, unfit = brought_by_binder(), pins(), []
    assert base["jupyterlab"]
    installed = metadata.distributions(path=[str(next(empty.parents[1].glob("lib/python*/site-packages")))])
    for one in (one for one in installed if canonicalize_name(one.name) in listed):
        for needs in map(Requirement, one.requires or []):
            name = canonicalize_name(needs.name)
            if name in listed or (needs.marker and not needs.marker.evaluate({"extra": ""})):
                continue
            if name not in base or not needs.specifier.contains(base[name]):
                unfit.append(f"{one.name} needs {needs}, Binder brings {base.get(name)}")
    assert not unfit, "\n".join(sorted(unfit))
