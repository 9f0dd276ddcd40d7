"""The notebooks as a course: their form, their solutions, and the same numbers in two fresh kernels.

nbval runs every notebook from top to bottom: pytest uses it for the folder ``notebooks``.
"""

from __future__ import annotations

import ast
import json
import re
import statistics
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from higgsnb import datasets

pytestmark = pytest.mark.one_python

FOLDER = Path(__file__).resolve().parents[1] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
LESSONS = [path for path in NOTEBOOKS if re.match(r"\d\d_", path.name)]
ALL = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
EACH_LESSON = pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)

MOST_LINES, MEDIAN_LINES, LONGEST_LINE = 10, 3, 100
SOLUTION = re.compile(r"<details>\s*<summary>Solution</summary>\n(.*?)</details>", re.DOTALL)
PYTHON = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)


def cells(path: Path, kind: str | None = None) -> list[dict[str, Any]]:
    """Return the cells of a notebook, the source of each as one string."""
    found = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [{**cell, "source": "".join(cell["source"])} for cell in found if kind in (None, cell["cell_type"])]


def code(path: Path) -> list[str]:
    return [cell["source"] for cell in cells(path, "code")]


def prose(path: Path) -> str:
    return "\n\n".join(cell["source"] for cell in cells(path, "markdown"))


def lines(source: str) -> int:
    """Count the lines of code, without empty lines and comments."""
    return sum(bool(line.strip()) and not line.lstrip().startswith("#") for line in source.splitlines())


def exercises(path: Path) -> list[str]:
    """Return the text below each heading *Exercise* or *Exercises*, split where a new number begins."""
    parts = re.split(r"^#+ Exercises?\n", prose(path), flags=re.MULTILINE)[1:]
    text = re.split(r"^#+ ", "\n".join(parts), maxsplit=1, flags=re.MULTILINE)[0]
    return [part for part in re.split(r"^(?=\d+\. )", text, flags=re.MULTILINE) if part.strip()]


def solutions(path: Path) -> list[str]:
    """Return the code of each folded solution, its blocks joined."""
    return ["\n".join(PYTHON.findall(text)) for text in SOLUTION.findall(prose(path))]


# --- How they are written --------------------------------------------------------------------------


def test_lessons_are_numbered_from_zero_without_a_gap() -> None:
    assert [int(path.name[:2]) for path in LESSONS] == list(range(len(LESSONS)))


@EACH_LESSON
def test_lesson_opens_with_what_to_do_learn_and_need_and_how_long_it_takes(path: Path) -> None:
    opening = cells(path)[0]
    assert opening["cell_type"] == "markdown"
    assert re.match(r"# (\d+\. )?[A-Z]", opening["source"])
    bullets = re.findall(r"^\* \*\*(Do|Learn|Need)\*\* – (.+)$", opening["source"], re.MULTILINE)
    assert [name for name, _ in bullets] == ["Do", "Learn", "Need"]
    assert re.search(r"\d+ minutes", dict(bullets)["Need"])


@ALL
def test_no_cell_is_long_and_most_are_short(path: Path) -> None:
    counted = [lines(source) for source in code(path)]
    assert max(counted) <= MOST_LINES
    assert statistics.median(counted) <= MEDIAN_LINES


DEFINING = {"10_bring_your_own_analysis"}
"""Notebooks in which defining a function is the lesson."""


@pytest.mark.parametrize("path", [p for p in NOTEBOOKS if p.stem not in DEFINING], ids=lambda path: path.stem)
def test_no_cell_defines_a_function_or_a_class(path: Path) -> None:
    defined = [
        node.name
        for source in code(path)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
    ]
    assert defined == [], "put it into the package"


@ALL
def test_no_line_of_code_is_cut_off_at_the_edge_of_the_page(path: Path) -> None:
    assert [line for source in code(path) for line in source.splitlines() if len(line) > LONGEST_LINE] == []


def tags(cell: dict[str, Any]) -> list[str]:
    return cell["metadata"].get("tags", [])


@EACH_LESSON
def test_at_most_two_cells_of_code_follow_each_other_without_text(path: Path) -> None:
    kinds = "".join(cell["cell_type"][0] for cell in cells(path) if not {"check", "parameters"} & set(tags(cell)))
    assert "ccc" not in kinds


@ALL
def test_assertions_are_in_collapsed_cells_of_their_own(path: Path) -> None:
    hidden, needed = set(), set()
    for cell in cells(path, "code"):
        nodes = list(ast.walk(ast.parse(cell["source"])))
        asserts = any(isinstance(node, ast.Assert) for node in nodes)
        assert asserts == ("check" in tags(cell)), cell["source"]
        assert asserts == cell["metadata"].get("jupyter", {}).get("source_hidden", False)
        names = [node for node in nodes if isinstance(node, ast.Name)]
        stored = {name.id for name in names if isinstance(name.ctx, ast.Store)}
        (hidden if asserts else needed).update(stored if asserts else {name.id for name in names} - stored)
    assert hidden & needed == set(), "a reader does not see where these come from"


@ALL
def test_campaign_comes_from_one_cell_of_parameters(path: Path) -> None:
    found = [cell for cell in cells(path, "code") if "parameters" in tags(cell)]
    assert len(found) == 1
    assert cells(path, "code")[0] == found[0]
    assert 'campaign = os.environ.get("HIGGSNB_CAMPAIGN", "toy")' in found[0]["source"]
    others = "\n".join(source for source in code(path) if source != found[0]["source"])
    assert not re.search(r"""load\(["']toy["']\)|CutExplorer\(["']""", others)


@EACH_LESSON
def test_lesson_ends_with_a_link_to_the_next(path: Path) -> None:
    number = LESSONS.index(path)
    link = cells(path)[-1]["source"]
    assert link.startswith("**Next:** ")
    if path != LESSONS[-1]:
        following = LESSONS[number + 1]
        title = cells(following)[0]["source"].splitlines()[0].removeprefix("# ")
        assert f"[{title}]({following.name})" in link


def test_every_view_of_an_event_has_one_name_everywhere() -> None:
    root = FOLDER.parent
    sources = [path for kind in ("py", "js") for path in sorted((root / "higgsnb").rglob(f"*.{kind}"))]
    for path in [*NOTEBOOKS, FOLDER / "INSTRUCTORS.md", root / "README.md", *sources]:
        other = re.search(
            r"transverse view|longitudinal view|view (along|from)", path.read_text("utf-8"), re.IGNORECASE
        )
        assert other is None, f"{path.name} says {other}; say end view, side view"


@EACH_LESSON
def test_text_after_the_code_is_checked_by_asserting_cells(path: Path) -> None:
    assert sum(source.count("assert ") for source in code(path)) >= 2


@EACH_LESSON
def test_lesson_has_exercises_each_with_a_folded_solution(path: Path) -> None:
    found = exercises(path)
    assert found
    unsolved = [part.splitlines()[0] for part in found if not SOLUTION.search(part) and "With a network" not in part]
    assert unsolved == []


@EACH_LESSON
def test_lesson_ends_with_what_was_run(path: Path) -> None:
    *_, before, last, _ = cells(path)
    assert before["source"].rstrip().endswith("### What was run")
    assert last["cell_type"] == "code"


@ALL
def test_notebook_names_no_path_of_a_machine_and_no_shell_command(path: Path) -> None:
    text = "\n".join(cell["source"] for cell in cells(path))
    assert not re.search(r"(?<![\w.:/])/(?:home|root|tmp|opt|work|Users|mnt|srv)/", text)
    assert not re.search(r"^\s*[!%]", "\n".join(code(path)), re.MULTILINE)


@ALL
def test_links_lead_to_files_of_this_repository_or_to_https(path: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", prose(path)):
        assert target.startswith("https://") or (path.parent / target.partition("#")[0]).exists(), target


@ALL
def test_notebook_is_for_any_python_kernel_and_has_unique_cell_ids(path: Path) -> None:
    document = json.loads(path.read_text(encoding="utf-8"))
    assert document["metadata"]["kernelspec"]["name"] == "python3"
    assert "version" not in document["metadata"].get("language_info", {})
    identifiers = [cell["id"] for cell in document["cells"]]
    assert len(set(identifiers)) == len(identifiers)


def minutes(path: Path) -> int:
    found = re.search(r"(\d+) minutes", cells(path)[0]["source"])
    return int(found[1]) if found else 0


@EACH_LESSON
def test_minutes_agree_with_the_overview_and_the_notes_for_instructors(path: Path) -> None:
    overview = dict(re.findall(r"^\| \[\d\d\]\((\w+)\.ipynb\) .*\| (\d+) \|$", prose(LESSONS[0]), re.MULTILINE))
    notes = dict(re.findall(r"^\| `(\w+)` \| (\d+)", (FOLDER / "INSTRUCTORS.md").read_text("utf-8"), re.MULTILINE))
    assert int(notes[path.stem]) == minutes(path)
    if path != LESSONS[0]:
        assert int(overview[path.stem]) == minutes(path)


# --- The tests themselves --------------------------------------------------------------------------


def test_exercises_and_solutions_are_found_in_a_text(tmp_path: Path) -> None:
    text = (
        "### Exercises\n\n1. Why?\n\n<details><summary>Solution</summary>\n\n```python\na = 1\n```\n\nSo.\n\n"
        "```python\na\n```\n</details>\n\n2. How?\n\n### What was run\n"
    )
    path = tmp_path / "00_x.ipynb"
    path.write_text(json.dumps({"cells": [{"cell_type": "markdown", "source": [text]}]}), encoding="utf-8")
    assert [bool(SOLUTION.search(part)) for part in exercises(path)] == [True, False]
    assert solutions(path) == ["a = 1\n\na\n"]


# --- In a fresh kernel -----------------------------------------------------------------------------


def notebook_of(path: Path) -> nbformat.NotebookNode:
    return nbformat.read(path, as_version=4)


def run(notebook: nbformat.NotebookNode, extra: list[str], folder: Path) -> list[dict[str, Any]]:
    """Run a notebook in a fresh kernel, with further cells before the summary; return its code cells."""
    notebook.cells[-2:-2] = [nbformat.v4.new_code_cell(source) for source in extra]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONWARNINGS", "error:::higgsnb")
        NotebookClient(
            notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
        ).execute()
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def texts(executed: list[dict[str, Any]]) -> list[str]:
    """Return the text outputs of cells, results and printed text, without figures and the state of widgets."""
    shown = []
    for cell in executed:
        for output in cell["outputs"]:
            text = output.get("data", {}).get("text/plain", output.get("text", ""))
            shown.append(re.sub(r"0x[0-9a-f]+|<\w*Figure.*>|model_id='\w+'", "…", text))
    return shown


def with_parameters(path: Path, **values: str) -> nbformat.NotebookNode:
    """Return a notebook with a cell that sets parameters, where papermill puts it."""
    notebook = notebook_of(path)
    index = next(i for i, cell in enumerate(notebook.cells) if "parameters" in tags(cell))
    source = "\n".join(f"{name} = {value!r}" for name, value in values.items())
    notebook.cells.insert(index + 1, nbformat.v4.new_code_cell(source))
    return notebook


VARYING = {"07_scale_out", "08_trust_the_result"}
"""Notebooks that show times, addresses of workers, or where a run was interrupted."""
LEDGER = {"07_scale_out": {"scale_out.sqlite", ".scale_out.sqlite.lock"}}


@pytest.mark.slow
@EACH_LESSON
def test_solutions_run_and_two_fresh_kernels_give_the_same_numbers(path: Path, tmp_path: Path) -> None:
    found = [source for source in solutions(path) if source]
    assert found
    first = run(notebook_of(path), found, tmp_path)
    assert len(first) == len(code(path)) + len(found)
    if path.stem not in VARYING:
        assert texts(first) == texts(run(notebook_of(path), found, tmp_path))
        assert any(texts(first))
    left = {left.name for left in tmp_path.iterdir()}
    assert left <= LEDGER.get(path.stem, set()), "a lesson leaves no file but the ledger that it names"


# --- With other data -------------------------------------------------------------------------------

OPEN_DATA = {
    "SMHiggsToZZTo4L": ("SMHiggsToZZTo4L", 'process = "higgs"\ncross_section_pb = 0.0065'),
    "ZZTo4mu": ("ZZTo4mu", 'process = "zz"\ncross_section_pb = 0.0152\nscale = 1.386'),
    "ZZTo4e": ("ZZTo4e", 'process = "zz"\ncross_section_pb = 0.0152\nscale = 1.386'),
    "ZZTo2e2mu": ("ZZTo2e2mu", 'process = "zz"\ncross_section_pb = 0.0311\nscale = 1.386'),
    "Run2012B_DoubleMuParked": ("Run2012_DoubleMu", 'process = "data"\nprimary_dataset = "DoubleMu"'),
    "Run2012B_DoubleElectron": ("Run2012_DoubleElectron", 'process = "data"\nprimary_dataset = "DoubleElectron"'),
}
"""Datasets with the names and processes of the public ones (no ``zx``), read from files of the toy."""
HEAD = """
[campaign]
name = "like2012"
schema = "outreach"
luminosity_fb = 11.58
luminosity_uncertainty = 0.026
energy_tev = 8
primary_dataset_precedence = ["DoubleMu", "DoubleElectron"]
"""


@pytest.fixture(scope="module")
def like_2012(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a campaign file like that of the public data, with small files on disk."""
    parts = [HEAD]
    for name, (file, lines) in OPEN_DATA.items():
        location = datasets.locate(f"toy:{file}.root").location
        parts.append(f'[[dataset]]\nname = "{name}"\n{lines}\nfile = [{{ url = "{location}" }}]\n')
    path = tmp_path_factory.mktemp("like") / "like2012.toml"
    path.write_text("".join(parts), encoding="utf-8")
    return path


@pytest.mark.slow
@EACH_LESSON
def test_every_cell_works_with_other_data_in_place_of_the_toy(path: Path, like_2012: Path, tmp_path: Path) -> None:
    notebook = with_parameters(path, campaign=str(like_2012))
    shown = "".join(texts(run(notebook, [], tmp_path)))
    assert shown
    assert not re.search(r"\btoy\b", shown)
