"""Help, examples and completion: commands in the order of use, examples that parse, names that complete."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.shell_completion import CompletionItem, ShellComplete
from click.testing import CliRunner

from higgsnb import datasets, selection
from higgsnb.__main__ import main

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
BASH = ["bash", "--norc", "--noprofile", "-c"]


def commands(group: click.Group = main, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every command with the words that call it."""
    for name, command in group.commands.items():
        yield (*path, name), command
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))


ALL = dict(commands())


def help_of(*path: str) -> str:
    return CliRunner().invoke(main, [*path, "--help"], prog_name="higgsnb", catch_exceptions=False).stdout


def test_commands_are_listed_in_the_order_of_use_with_whole_sentences() -> None:
    listed = re.findall(r"^  (\w+) +(\S.*)$", help_of().partition("Commands:")[2], re.MULTILINE)
    order = ["run", "plan", "fetch", "dashboard", "ledger", "doctor", "warm", "clean"]
    assert [name for name, _ in listed if name in order] == order
    assert re.findall(r"^  (\w+)  ", help_of("ledger"), re.MULTILINE) == ["show", "export", "import"]
    assert [text for _, text in listed if text.endswith("...") or not text.endswith(".")] == []


@pytest.mark.parametrize("path", ALL, ids=" ".join)
def test_help_has_examples_that_this_version_understands(
    path: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "results" / "cms2012").mkdir(parents=True)
    (tmp_path / "ledger.sqlite").touch()
    examples = [line.strip() for line in help_of(*path).partition("Examples:")[2].splitlines() if line.strip()]
    assert any(example.startswith(f"higgsnb {' '.join(path)}") for example in examples)
    for example in examples:
        assert len(example) <= 58
        for part in example.split("&&"):
            _, *words = shlex.split(part)
            command = next(ALL[tuple(words[:n])] for n in (2, 1) if tuple(words[:n]) in ALL)
            depth = 2 if tuple(words[:2]) in ALL else 1
            with command.make_context(words[0], words[depth:]) as context:
                assert context.params


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_help_fits_the_terminal(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    above = click.Context(main, info_name="higgsnb", **main.context_settings)  # CliRunner makes all help 80 wide
    texts = [command.get_help(click.Context(command, above, " ".join(path))) for path, command in ALL.items()]
    lines = [line for text in (main.get_help(above), *texts) for line in text.splitlines()]
    assert columns - 20 < max(map(len, lines)) <= columns


def completed(*words: str) -> list[CompletionItem]:
    """What is offered for the last of the words after `higgsnb`."""
    *before, incomplete = words
    return ShellComplete(main, {}, "higgsnb", "_HIGGSNB_COMPLETE").get_completions(before, incomplete)


def names(*words: str) -> list[str]:
    return [item.value for item in completed(*words) if item.type == "plain"]


def test_campaigns_selections_datasets_and_schedulers_complete() -> None:
    for command in ("run", "plan", "fetch"):
        assert names(command, "") == list(datasets.names())
    assert (
        names("run", "c")
        == [name for name in datasets.names() if name.startswith("c")]
        == ["candidates", "cms2012", "cms2016"]
    )
    assert names("run", "toy", "--selection", "") == list(selection.names())
    assert names("run", "-s", "aod") == ["aod2012"]
    assert names("run", "--scheduler", "p") == ["processes"]
    assert names("fetch", "cms2012", "ZZ") == ["ZZTo4mu", "ZZTo4e", "ZZTo2e2mu"]
    assert names("fetch", "no-such-campaign", "ZZ") == []
    assert [item.help for item in completed("run", "toy")] == [None, datasets.load("toy").title]


def test_files_are_offered_where_no_name_fits() -> None:
    assert [(item.type, item.value) for item in completed("run", "my")] == [("file", "my")]
    assert [(item.type, item.value) for item in completed("run", "-s", "cuts.t")] == [("file", "cuts.t")]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_readme_says_how_to_complete_and_click_knows_the_shell(shell: str) -> None:
    assert f"_HIGGSNB_COMPLETE={shell}_source higgsnb" in README
    done = subprocess.run(
        [sys.executable, "-m", "higgsnb"],
        env={**os.environ, "_HIGGSNB_COMPLETE": f"{shell}_source"},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert f"_HIGGSNB_COMPLETE={shell}_complete" in done.stdout


def test_bash_completes_a_campaign(tmp_path: Path) -> None:
    program = tmp_path / "higgsnb"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m higgsnb "$@"\n')
    program.chmod(0o755)
    script = (
        'eval "$(_HIGGSNB_COMPLETE=bash_source higgsnb)"; compopt() { :; }; '
        'COMP_WORDS=(higgsnb run ca); COMP_CWORD=2; _higgsnb_completion higgsnb; echo "${COMPREPLY[@]}"'
    )
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run([*BASH, script], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "candidates\n", done.stderr
