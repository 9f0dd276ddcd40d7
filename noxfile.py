#!/usr/bin/env -S uv run --script
# /// script
# dependencies = ["nox>=2025.5"]
# ///
"""Sessions for developers: ``nox -l`` lists them, ``nox -s lint`` runs one."""

from __future__ import annotations

import nox

nox.needs_version = ">=2025.5"
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.error_on_missing_interpreters = False

PYTHONS = ("3.11", "3.12", "3.13")


@nox.session
def lint(session: nox.Session) -> None:
    """Check style, types, spelling, workflows, changelog fragments and commit subjects."""
    session.install("-e", ".[dev]")
    session.run(".ci/lint", external=True)


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """Run the tests; arguments after ``--`` go to pytest."""
    session.install("-e", ".[test]")
    session.run("pytest", *(session.posargs or ["tests"]))


@nox.session(default=False)
def slow(session: nox.Session) -> None:
    """Run the tests that take minutes."""
    session.install("-e", ".[test]")
    session.run("pytest", "-m", "slow", *(session.posargs or ["tests"]))


@nox.session(default=False)
def faults(session: nox.Session) -> None:
    """Run the fault-injection tests; ``-- --long`` runs them for hours."""
    session.install("-e", ".[test]")
    session.run("pytest", "-m", "faults", *(session.posargs or ["tests/faults"]))


@nox.session(default=False)
def notebooks(session: nox.Session) -> None:
    """Run every notebook from top to bottom."""
    session.install("-e", ".[test]")
    session.run("pytest", "notebooks", *session.posargs)


@nox.session(default=False)
@nox.parametrize("jupyterlab", ["jupyterlab", "jupyterlab==4.5.7"], ids=["newest", "oldest"])
def browser(session: nox.Session, jupyterlab: str) -> None:
    """Run the tests that need a browser, with the newest and the oldest JupyterLab that `pyproject.toml` allows."""
    session.install("-e", ".[test,browser]", jupyterlab)
    session.run("pytest", "-m", "browser", *session.posargs)


@nox.session(python="3.11", venv_backend="uv", default=False)
def minimums(session: nox.Session) -> None:
    """Run the tests with the oldest versions of the dependencies that `pyproject.toml` allows."""
    session.install("--resolution", "lowest-direct", "-e", ".[test]")
    session.run("pytest", *(session.posargs or ["tests"]))


@nox.session(default=False)
def peers(session: nox.Session) -> None:
    """Run the tests that need coffea, correctionlib and ROOT."""
    session.install("-e", ".[test,bench]")
    files = ["results/test_coffea.py", "results/test_correctionlib.py", "test_how_to.py"]
    session.run("pytest", *(session.posargs or [f"tests/{file}" for file in files]))


@nox.session(default=False)
def bench(session: nox.Session) -> None:
    """Run the benchmarks, or the scripts named after ``--``."""
    session.install("-e", ".")
    chosen = session.posargs or ["benchmarks/throughput.py", "benchmarks/pipeline.py"]
    for script in chosen:
        session.run("python", script)


if __name__ == "__main__":
    nox.main()
