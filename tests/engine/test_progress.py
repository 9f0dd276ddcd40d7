"""What a person sees of a run: in a notebook, in a terminal, and nothing where nobody looks."""

from __future__ import annotations

import html
import io
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

import higgsnb as hn
from higgsnb import datasets
from higgsnb.engine import progress
from higgsnb.errors import OptionError

OPEN = hn.selection.load("open2012")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """A terminal in place of stderr, on a machine that is no CI."""
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setenv("COLUMNS", "100")
    screen = Terminal()
    monkeypatch.setattr(progress, "sys", SimpleNamespace(stderr=screen, modules={}))
    return screen


def broken(*names: str) -> datasets.Campaign:
    """The toy, of which some datasets lack their file."""
    toy = hn.datasets.load("toy")
    gone = {name: replace(toy.dataset(name), files=(datasets.File(f"gone-{name}.root"),)) for name in names}
    return replace(toy, datasets=tuple(gone.get(one.name, one) for one in toy.datasets))


def test_terminal_shows_the_events_counted_and_ends_with_all_of_them(terminal: Terminal) -> None:
    result = hn.engine.watch(hn.datasets.load("toy"), OPEN, chunk_events=2000, workers=1)
    shown = [line.rstrip() for line in terminal.getvalue().split("\r")]
    assert result.complete
    assert re.match(r"starting|first run", shown[1])
    assert shown[-1] == "complete: 7 of 7 files, 121,198 of 121,198 events, 11.58 of 11.58 /fb"
    counted = [int(one.replace(",", "")) for one in re.findall(r" files, ([\d,]+) of", terminal.getvalue())]
    assert counted == sorted(counted)
    assert max(map(len, shown)) < 100


def test_terminal_ends_with_the_remarks_as_that_no_file_has_a_trigger(terminal: Terminal) -> None:
    nothing = hn.Analysis(
        "nothing",
        lambda events: hn.Selected(events, met=events.MET.pt),
        columns=["MET_pt"],
        preselection="HLT_IsoMu42",
        axes=[hn.Axis("met", 10, 0, 100)],
    )
    result = hn.engine.watch("toy", nothing, workers=1)
    assert result.yields["data"]["selected"].events == 0
    last = terminal.getvalue().split("\r")[-1].splitlines()
    assert last[0].startswith("complete: 7 of 7 files")
    assert last[1].endswith("Run2012_DoubleElectron lack HLT_IsoMu42; what is not there has not fired")


def test_terminal_names_each_kind_of_failure_once_with_its_files_and_hint(terminal: Terminal) -> None:
    result = hn.engine.watch(broken("ZZTo4e", "ZZTo4mu"), OPEN)
    assert len(result.failed) == 2
    _, _, below = terminal.getvalue().rpartition("\r")
    line, *failures = below.splitlines()
    assert line.startswith("incomplete: 5 of 7 files")
    assert line.rstrip().endswith(", 2 failed")
    assert len(failures) == 1
    assert "gone-ZZTo4e.root" in failures[0]
    assert "gone-ZZTo4mu.root" in failures[0]
    assert failures[0].endswith(result.failed[0].hint)


def test_thousand_failures_are_one_line_with_ten_files_and_the_number_of_the_others() -> None:
    toy = hn.datasets.load("toy")
    many = replace(toy.dataset("ZZTo4e"), files=tuple(datasets.File(f"gone{i}.root") for i in range(1000)))
    failures = {
        (0, i): hn.results.Failure("ZZTo4e", f"gone{i}.root", "OSError", f"no gone{i}.root", "Fetch it.")
        for i in range(1000)
    }
    result = hn.results.Result(replace(toy, datasets=(many,)), OPEN, hn.results.Tally(), {}, failures)
    (line,) = progress._remarks("running", result)
    assert line.startswith("1,000 files of ZZTo4e: OSError: no ….")
    assert line.count(".root") == 10
    assert line.endswith(" and 990 more, see result.failed. Fetch it.")


def test_interrupted_run_is_called_so_and_the_error_goes_on(terminal: Terminal) -> None:
    with pytest.raises(OptionError, match="chunk_seconds is given"):
        hn.engine.watch(hn.datasets.load("toy"), OPEN, chunk_seconds=1.0)
    assert terminal.getvalue().rpartition("\r")[2].startswith("interrupted: 0 of 7 files")


@pytest.mark.parametrize("why", ["no terminal", "CI"])
def test_nothing_is_shown_where_nobody_looks(why: str, terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    if why == "CI":
        monkeypatch.setenv("CI", "true")
    else:
        monkeypatch.setattr(terminal, "isatty", lambda: False)
    assert hn.engine.watch(hn.datasets.load("toy"), OPEN).complete
    assert terminal.getvalue() == ""


NOTEBOOK = """
import higgsnb as hn
from dataclasses import replace

toy = hn.datasets.load("toy")
lost = replace(toy.dataset("ZZTo4e"), files=(hn.datasets.File("<gone>.root"),))
campaign = replace(toy, datasets=tuple(lost if one.name == lost.name else one for one in toy.datasets))
result = hn.engine.watch(campaign, hn.selection.load("open2012"), chunk_events=2000, workers=1)
"""


class Updates(NotebookClient):
    """Runs a notebook, and notes what is displayed meanwhile."""

    def process_message(self, msg: dict[str, Any], *args: Any, **options: Any) -> Any:
        if msg["msg_type"] in ("display_data", "update_display_data"):
            seen.append(msg["content"]["data"].get("text/html", ""))
        return super().process_message(msg, *args, **options)


seen: list[str] = []


@pytest.mark.one_python
def test_notebook_shows_a_bar_at_once_and_in_its_place_the_result_with_its_failures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CI", raising=False)
    seen.clear()
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(NOTEBOOK)])
    Updates(notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}).execute()
    (output,) = notebook.cells[0].outputs
    first, last = seen[1], output["data"]["text/html"]
    assert "<progress " in first
    assert "value=" not in first  # it moves by itself
    assert any(re.search(r'<progress value="\d+" max="\d+"', one) for one in seen)
    assert "<progress" not in last
    assert "incomplete: 6 of 7 files" in last
    assert html.escape("<gone>.root") in last
    assert "<gone>" not in last
    assert "incomplete: 6 of 7 files" in output["data"]["text/plain"]
