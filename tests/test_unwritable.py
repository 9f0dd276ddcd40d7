"""Runs where nothing may be written: the same bytes, or what to set; a cache that others prepared is used."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from strangers import STRANGER, as_stranger, copy_for_all, why_no_namespaces

from higgsnb import datasets, engine, results, selection
from higgsnb.selection import COMPILED_FOLDER

pytestmark = pytest.mark.skipif(bool(why_no_namespaces()), reason=why_no_namespaces())


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory, session_cache: Path) -> dict[str, str]:  # noqa: ARG001
    """The sha256 of the files of a result, from an ordinary run of this process."""
    folder = tmp_path_factory.mktemp("ordinary")
    *_, result = engine.run(datasets.load("toy"), selection.load("open2012"))
    results.write(result, folder, run={})
    return sums(folder)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, session_cache: Path, expected: dict[str, str]) -> Path:  # noqa: ARG001
    """A cache with the toy and all compiled code of a run, as an administrator leaves it."""
    folder = tmp_path_factory.mktemp("shared")
    folder.chmod(0o755)
    copy_for_all(session_cache / "toy", folder / "toy")
    assert COMPILED_FOLDER is not None
    copy_for_all(COMPILED_FOLDER, folder / COMPILED_FOLDER.name)
    return folder


def sums(folder: Path) -> dict[str, str]:
    names = ("histograms.json", "candidates.parquet")
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize("home", [None, "/", "/nonexistent", "~"])
def test_run_without_a_home_and_with_all_read_only_gives_the_same_bytes(
    tmp_path: Path, shared: Path, expected: dict[str, str], home: str | None
) -> None:
    out = tmp_path / "out"
    environment = {} if home is None else {"HOME": home}
    done = as_stranger(
        "-m", "higgsnb", "run", "--quiet", "--out", "result", "--scheduler", "threads",
        out=out, visible=(shared,), HIGGSNB_SHARED_CACHE=str(shared), **environment,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "")
    assert sums(out / "result") == expected
    # Only fonts and checksums had to be kept, in the one place that can be written to; this is said, once.
    assert names(out) == {"result", (cache := out / f"higgsnb-{STRANGER}").name}
    assert {path.name for path in cache.rglob("*.*") if "matplotlib" not in path.parts} <= {"verified.sqlite"}
    assert done.stderr.count("HIGGSNB_CACHE") == 1


def test_run_makes_what_nobody_has_prepared(tmp_path: Path, shared: Path, expected: dict[str, str]) -> None:
    out, cache = tmp_path / "out", tmp_path / "out" / "cache"
    (only_code := tmp_path / "code").mkdir(mode=0o755)
    copy_for_all(next(shared.glob("compiled-*")), only_code / next(shared.glob("compiled-*")).name)
    done = as_stranger(
        "-m", "higgsnb", "run", "--quiet", "--out", "result", out=out, visible=(only_code,),
        HIGGSNB_CACHE=str(cache), HIGGSNB_SHARED_CACHE=str(only_code),
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr.count("HIGGSNB_CACHE")) == (0, "", 0)
    assert sums(out / "result") == expected
    assert list(cache.glob("compiled-*/*")) == []
    assert names(cache) >= {"toy", "matplotlib"}


def test_explorer_works_on_a_cache_that_cannot_be_written(tmp_path: Path, shared: Path) -> None:
    code = """if True:
        import higgsnb as hn
        explorer = hn.widgets.CutExplorer("toy")
        explorer.select(muon_pt_min=20)
        print(sum(int(counts.sum()) for counts in explorer.outcome.counts.values()) > 0)
    """
    done = as_stranger("-c", code, out=tmp_path / "out", visible=(shared,), HOME="/", HIGGSNB_CACHE=str(shared))
    assert done.stdout == "True\n", done.stderr
    assert names(tmp_path / "out" / f"higgsnb-{STRANGER}") >= {"skims"}


@pytest.mark.parametrize("environment", [{}, {"HOME": "/"}, {"HIGGSNB_CACHE": "~/cache"}, {"HIGGSNB_CACHE": "closed"}])
def test_doctor_does_not_fail_for_what_it_diagnoses(tmp_path: Path, environment: dict[str, str]) -> None:
    if environment.get("HIGGSNB_CACHE") == "closed":
        (tmp_path / "closed").mkdir(mode=0o700)
        environment = {"HIGGSNB_CACHE": str(tmp_path / "closed" / "cache")}
    done = as_stranger("-m", "higgsnb", "doctor", out=tmp_path / "out", **environment)
    lines = done.stdout.splitlines()
    assert done.returncode == 0, done.stderr
    cache = next(i for i, line in enumerate(lines) if line.startswith("!!  cache"))
    assert "HIGGSNB_CACHE" in " ".join(lines[cache : cache + 4])
    assert any(" cluster " in line for line in lines)
    assert lines[-1].endswith("with a hint above")
    assert "~" not in names(tmp_path / "out")


def test_processes_without_shared_memory_are_refused_with_another_way(tmp_path: Path, shared: Path) -> None:
    done = as_stranger(
        "-m", "higgsnb", "run", "--scheduler", "processes", "--out", "result",
        out=tmp_path / "out", visible=(shared,), HIGGSNB_SHARED_CACHE=str(shared),
    )  # fmt: skip
    assert done.returncode == 2
    assert "worker processes cannot be started: /dev/shm: Read-only file system" in done.stderr
    assert "--scheduler threads" in done.stderr
    assert "Traceback" not in done.stderr


def test_nothing_but_the_result_directory_says_what_to_set(tmp_path: Path, shared: Path) -> None:
    code = """if True:
        import os, sys
        out, sys.argv = os.getcwd(), ["higgsnb"]
        os.chdir("/")
        from higgsnb.__main__ import main
        main(["run", "--out", f"{out}/result"])
    """
    done = as_stranger("-c", code, out=tmp_path / "out", visible=(shared,), HIGGSNB_SHARED_CACHE=str(shared))
    assert done.returncode == 2
    assert "there is no folder in which matplotlib could keep files" in done.stderr
    assert "\nSet HIGGSNB_CACHE to a folder that you may write to." in done.stderr


def test_cache_of_nobody_ends_the_run_with_what_to_set(tmp_path: Path) -> None:
    done = as_stranger(
        "-m", "higgsnb", "run", "--out", "result", out=tmp_path / "out", HIGGSNB_CACHE="~/cache", MPLCONFIGDIR="m"
    )
    assert done.returncode == 2
    assert "HIGGSNB_CACHE = ~/cache: this user has no home folder" in done.stderr
    assert "begins with a slash" in done.stderr
    assert names(tmp_path / "out") <= {"result", "m"}


@pytest.mark.slow
def test_new_user_of_a_warm_installation_compiles_and_makes_nothing(tmp_path: Path, expected: dict[str, str]) -> None:
    shared = tmp_path / "shared"
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("HIGGSNB_", "NUMBA_"))}
    command = [sys.executable, "-m", "higgsnb", "warm", "--shared", str(shared)]
    subprocess.run(command, env=variables, umask=0o077, check=True)
    out = tmp_path / "out"
    code = """if True:
        import json
        import higgsnb as hn
        from higgsnb.selection import compiled, pairings, rules
        from higgsnb.events.fast import baskets
        hits = misses = 0
        for name in ("open2012", "aod2012", "df103"):
            *_, result = hn.engine.run(hn.datasets.load("toy"), hn.selection.load(name))
        hn.widgets.CutExplorer("toy")
        for module in (baskets, pairings, rules):
            for function in vars(module).values():
                if hasattr(function, "stats"):
                    hits += sum(function.stats.cache_hits.values())
                    misses += sum(function.stats.cache_misses.values())
        print(json.dumps([hits > 0, misses]))
    """
    done = as_stranger("-c", code, out=out, visible=(shared,), HIGGSNB_SHARED_CACHE=str(shared))
    assert json.loads(done.stdout) == [True, 0], done.stderr
    assert "toy" not in names(out / f"higgsnb-{STRANGER}")
    assert list((out / f"higgsnb-{STRANGER}").glob("compiled-*/*")) == []
    done = as_stranger(
        "-m", "higgsnb", "run", "-q", "--out", "result", out=out, visible=(shared,), HIGGSNB_SHARED_CACHE=str(shared)
    )
    assert sums(out / "result") == expected
