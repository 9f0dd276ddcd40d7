"""What a terminal shows: colour where it has it, tables that fit, nothing that moves the cursor."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
from click.testing import CliRunner
from terminal import in_terminal, without_colour

from higgsnb.__main__ import main
from higgsnb.cli import report, terminal
from higgsnb.cli.terminal import paragraph, show, table, wants_colour
from higgsnb.results import Yield
from higgsnb.selection import CHANNELS

ESCAPE = "\x1b["


@pytest.mark.parametrize(
    ("environment", "wanted"),
    [
        ({}, None),
        ({"NO_COLOR": "1"}, False),
        ({"NO_COLOR": ""}, None),
        ({"FORCE_COLOR": "1"}, True),
        ({"FORCE_COLOR": "0"}, None),
        ({"FORCE_COLOR": "1", "NO_COLOR": "1"}, False),
        ({"FORCE_COLOR": "1", "TERM": "dumb"}, True),
        ({"TERM": "dumb"}, False),
    ],
)
def test_colour_follows_the_environment(
    environment: dict[str, str], wanted: bool | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert wants_colour() is wanted


@pytest.mark.parametrize(
    ("environment", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)]
)
def test_terminal_shows_colour_and_the_same_words(environment: dict[str, str], coloured: bool) -> None:
    found = in_terminal("plan", **environment)
    assert (ESCAPE in found) == coloured
    assert without_colour(found) == CliRunner().invoke(main, ["plan"]).stdout


@pytest.mark.parametrize(("forced", "coloured"), [("", False), ("1", True)])
def test_pipe_gets_colour_only_if_it_is_forced(forced: str, coloured: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("FORCE_COLOR", forced)
    assert (ESCAPE in CliRunner().invoke(main, ["plan"]).stdout) == coloured


@pytest.mark.parametrize("columns", [60, 80, 120])
@pytest.mark.parametrize("campaign", ["toy", "cms2012", "candidates"])
def test_plan_fits_the_terminal_and_80_columns(campaign: str, columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    lines = CliRunner().invoke(main, ["plan", campaign, "--price", "0.1"]).stdout.splitlines()
    assert max(map(len, lines)) <= min(columns, 80)
    total = next(line for line in lines if line.startswith("total")).split()
    stated = json.loads(CliRunner().invoke(main, ["plan", campaign, "--json"]).stdout)["total"]
    assert total[1:] == [f"{stated[key]:,}" for key in ("files", "chunks", "events", "bytes")]


@pytest.mark.parametrize("scale", [0.01, 1.0, 1e6])
@pytest.mark.parametrize("columns", [60, 80, 120])
def test_yields_fit_and_the_window_of_the_higgs_stands_out(
    columns: int, scale: float, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    one = {channel: Yield(1, 72.35 * scale, 1.25 * scale) for channel in CHANNELS}
    yields = {"higgs": one, "a_process_with_a_name_of_forty_characters": one, "data": one}

    report._show_yields(SimpleNamespace(yields=yields, windows={"70-181": yields, "118-130": yields}, regions=CHANNELS))  # type: ignore[arg-type]
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= min(columns, 80)
    marked = [line for line in lines if line.startswith("| ")]
    assert marked[0] == "| 118 < m4l < 130 GeV: around the Higgs boson"
    assert lines[-len(marked) :] == marked
    assert [line.split()[1] for line in marked[2:]] == ["higgs", marked[3].split()[1], "prediction", "data"]
    assert float(marked[2].split()[2].partition("±")[0]) == pytest.approx(72.35 * scale, rel=0.01)


def test_table_leaves_out_text_then_shortens_names_and_never_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [("dataset", "process", "events"), ("DYJetsToLL_M-50_TuneCUETP8M1_13TeV", "zx", "120,347,816")]
    for columns, expected in (
        (80, "DYJetsToLL_M-50_TuneCUETP8M1_13TeV  zx       120,347,816"),
        (50, "DYJetsToLL_M-50_TuneCUETP8M1_13TeV  120,347,816"),
        (33, "DYJetsToLL…8M1_13TeV  120,347,816"),
    ):
        monkeypatch.setenv("COLUMNS", str(columns))
        assert table(rows, texts=2)[1] == expected


def test_paragraph_keeps_paths_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    path = "/a/path-that-is-longer/than-the-whole-terminal"
    assert paragraph("ok  ", f"kept in {path}") == ["ok  kept in", f"    {path}"]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[2J\x1b]0;gone\x07", "?[2J?]0;gone?"),
        ("two\nlines\tand\u00a0more", "two lines and more"),
        ("right\u202eto left", "right?to left"),
        ("\udcff", "?"),
        ("m4ℓ ± 1 γγ", "m4ℓ ± 1 γγ"),
    ],
)
def test_names_of_strangers_do_not_steer_the_terminal(
    text: str, shown: str, capsys: pytest.CaptureFixture[str]
) -> None:
    show(text)
    assert capsys.readouterr().out == f"{shown}\n"


def test_width_is_80_where_there_is_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    assert terminal.columns() <= 80
