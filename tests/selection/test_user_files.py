"""`FILE.py:NAME`: a user's file as a module, with what lies beside it, and errors that name its lines."""

from __future__ import annotations

import sys
from pathlib import Path
from types import FunctionType
from typing import Any, ClassVar

import pytest
from user_code import function_of, in_other_process, write

from higgsnb.errors import HiggsnbError, MissingFileError, SelectionError
from higgsnb.selection import Selection, identify, load, load_from_file, pack, unpack

USES_HELPER = "import helper\n\n\ndef f(x):\n    return helper.value + x\n"


def message_of(place: Any, expected: type = object) -> tuple[str, str]:
    """Message and hint of the error."""
    with pytest.raises(HiggsnbError) as caught:
        load_from_file(str(place), expected)
    assert "\n" not in caught.value.message
    return caught.value.message, caught.value.hint


def test_object_of_a_file_is_returned_with_what_lies_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "my folder", USES_HELPER, "value = 3\n")
    before = list(sys.path)
    assert load_from_file(f"{path}:f", FunctionType)(1) == 4
    assert sys.path == before
    monkeypatch.chdir(path.parent)
    assert load_from_file("analysis.py:f", FunctionType)(1) == 4
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load_from_file("~/my folder/analysis.py:f", FunctionType)(1) == 4
    assert sys.path == before


def test_packages_and_submodules_beside_it_are_found(tmp_path: Path) -> None:
    package = tmp_path / "tools"
    (package / "deep").mkdir(parents=True)
    (package / "__init__.py").write_text("from .cuts import pt\n", encoding="utf-8")
    (package / "cuts.py").write_text("from . import deep\n\npt = deep.inner.value\n", encoding="utf-8")
    (package / "deep" / "__init__.py").write_text("from . import inner\n", encoding="utf-8")
    (package / "deep" / "inner.py").write_text("value = 20\n", encoding="utf-8")
    total = "tools.deep.inner.value + tools.cuts.pt + pt"
    code = f"import tools.deep.inner\nfrom tools import pt\n\n\ndef f(x):\n    return {total}\n"
    function = function_of(write(tmp_path, code), "f")
    assert unpack(pack(function))(0) == function(0) == 60
    assert identify(function).modules == ("analysis", "tools", "tools.cuts", "tools.deep", "tools.deep.inner")


def test_file_is_read_anew_each_time_with_its_helpers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also within one second, with as many bytes: a file of bytecode would be taken for up to date."""
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    first = function_of(write(tmp_path, USES_HELPER, "value = 3\n"), "f")
    second = function_of(write(tmp_path, USES_HELPER.replace("+ x", "- x"), "value = 50\n"), "f")
    assert (first(1), second(1)) == (4, 49)
    assert identify(first).digest != identify(second).digest


def test_files_and_helpers_of_one_name_in_two_folders_do_not_mix(tmp_path: Path) -> None:
    """The second import would otherwise get the helper of the first."""
    functions = [
        function_of(write(tmp_path / str(value), USES_HELPER, f"value = {value}\n"), "f") for value in (3, 5, 7)
    ]
    assert [function(0) for function in functions] == [3, 5, 7]
    assert [unpack(pack(function))(0) for function in functions] == [3, 5, 7]
    assert len({identify(function).digest for function in functions}) == 3


def test_module_that_the_user_has_imported_keeps_its_name(tmp_path: Path) -> None:
    write(tmp_path / "mine", "", "value = 1\n")
    write(tmp_path / "other", USES_HELPER, "value = 2\n")
    code = """
import sys
import helper
from higgsnb.selection import load_from_file
mine, path = helper, list(sys.path)
f = load_from_file("other/analysis.py:f", object)
import helper
print(f(0), helper is mine, helper.value, sys.path == path)
"""
    found = in_other_process(code, folders=(tmp_path / "mine",), cwd=tmp_path)
    assert found == "2 True 1 True"


@pytest.mark.parametrize("name", ["numpy", "statistics", "higgsnb", "random", "vector"])
def test_file_with_the_name_of_a_library_leaves_that_alone(name: str, tmp_path: Path) -> None:
    path = tmp_path / f"{name}.py"
    path.write_text("def f(x):\n    return x + 1\n", encoding="utf-8")
    before = sys.modules.get(name)
    function = load_from_file(f"{path}:f", FunctionType)
    assert sys.modules.get(name) is before or before is None
    assert unpack(pack(function))(1) == 2


def test_library_beside_which_a_file_of_its_name_lies_is_the_library(tmp_path: Path) -> None:
    (tmp_path / "numpy.py").write_text("raise ValueError('not this one')\n", encoding="utf-8")
    function = function_of(write(tmp_path, "import numpy\n\n\ndef f(x):\n    return float(numpy.sqrt(x))\n"), "f")
    assert function(4) == 2


def test_selection_is_loaded_with_the_type_that_is_expected(tmp_path: Path) -> None:
    code = "import higgsnb as hn\n\nmine = hn.selection.load('open2012').replace(z1_mass_min=50)\n"
    assert load_from_file(f"{write(tmp_path, code)}:mine", Selection) == load("open2012").replace(z1_mass_min=50)


@pytest.mark.parametrize(
    ("name", "message", "hint"),
    [
        ("Open2012", "has no 'Open2012'", "Did you mean open2012?"),
        ("zzz", "has no 'zzz'", "Known: open2012, tight."),
        ("number", "number in analysis.py is of type int, not Selection", "Known: open2012, tight."),
        ("make", "make in analysis.py is of type function, not Selection", "Known: open2012, tight."),
    ],
)
def test_wrong_name_and_wrong_type_are_told(
    name: str, message: str, hint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = "import higgsnb as hn\nopen2012 = hn.selection.load('open2012')\ntight = open2012\n"
    write(tmp_path, f"{code}number = 3\ndef make(): pass\n")
    monkeypatch.chdir(tmp_path)
    found = message_of(f"analysis.py:{name}", Selection)
    assert message in found[0]
    assert found[1] == hint


def test_type_of_which_there_is_none_says_what_to_make(tmp_path: Path) -> None:
    message, hint = message_of(f"{write(tmp_path, 'def f(x): return x')}:f", Selection)
    assert message.endswith("is of type function, not Selection")
    assert hint == "Make one of it: Selection(…)."


def test_missing_file_name_or_ending_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "import higgsnb as hn\nmine = hn.selection.load('open2012')\n")
    with pytest.raises(MissingFileError, match=r"no file 'analysi\.py'"):
        load_from_file("analysi.py:mine", object)
    assert message_of("analysis.py", Selection) == (
        "analysis.py: the name of the Selection is missing",
        "Write analysis.py:mine.",
    )
    assert message_of("analysis.py:", Selection)[0] == "no file 'analysis.py:'"
    (tmp_path / "notes.txt").write_text("x", encoding="utf-8")
    assert message_of("notes.txt:f")[0] == "notes.txt: is not a Python file"
    (tmp_path / "folder.py").mkdir()
    assert message_of("folder.py:f")[0] == "no file 'folder.py'"
    assert message_of("")[0] == "no file ''"
    assert message_of("\0:f")[0].startswith("no file")
    assert message_of("analysis:mine") == (
        "no file 'analysis'",
        "Give the path of a Python file and a name: analysis.py:mine.",
    )


ERRORS = {
    "x = 1\ny = x / 0\n": ("analysis.py: line 2: ZeroDivisionError: division by zero", "Correct this line."),
    "def f(:\n    pass\n": ("analysis.py: line 1: SyntaxError: invalid syntax", "Correct this line."),
    "if True:\nx = 1\n": ("analysis.py: line 2: IndentationError", "Correct this line."),
    "import missing_helper\n": ("analysis.py: line 1: ModuleNotFoundError", "Put missing_helper.py beside analysis.py"),
    "from helper import value\n": (
        "analysis.py: line 1: ImportError: cannot import name 'value'",
        "Correct this line.",
    ),
    "from . import helper\n": ("analysis.py: line 1: ImportError: attempted relative import", "`import helper`"),
    "import sys\n\nsys.exit(3)\n": ("analysis.py: line 3: SystemExit: 3", "__main__"),
    "def g():\n    raise KeyError('no such key')\n\n\ng()\n": (
        "analysis.py: line 2: KeyError: 'no such key'",
        "Correct",
    ),
    "import helper\nhelper.broken()\n": (
        "helper.py: line 3: NameError: name 'nothing' is not defined",
        "Correct this line.",
    ),
    "import higgsnb as hn\nhn.selection.load('open2013')\n": (
        "analysis.py: line 2: no selection 'open2013'",
        "Did you mean open2012?",
    ),
    "x = 1\0\n": ("analysis.py", ""),
    "raise ValueError('a\\nb')\n": ("analysis.py: line 1: ValueError: a", "Correct this line."),
}


@pytest.mark.parametrize("code", ERRORS)
def test_error_in_a_file_names_file_line_and_reason(code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, code, "def broken():\n    # here\n    return nothing\n")
    monkeypatch.chdir(tmp_path)
    before = dict(sys.modules)
    path = list(sys.path)
    message, hint = message_of("analysis.py:f")
    assert message.startswith(ERRORS[code][0])
    assert ERRORS[code][1] in hint
    assert sys.path == path
    assert not {"analysis", "helper"} & (sys.modules.keys() - before.keys())
    assert sys.modules.get("helper") is before.get("helper")


def test_line_is_that_of_the_user_also_where_an_environment_lies_beside_the_file(tmp_path: Path) -> None:
    site = tmp_path / ".venv" / "lib" / "site-packages"
    site.mkdir(parents=True)
    (site / "toylib.py").write_text("def fail():\n    raise ValueError('no')\n", encoding="utf-8")
    path = write(tmp_path, "import toylib\n\ntoylib.fail()\n")
    code = "from higgsnb.selection import load_from_file as load\n"
    code += f"try: load('{path}:f', object)\nexcept ValueError as error: print(error.message)"
    assert in_other_process(code, folders=(site,)).endswith("analysis.py: line 3: ValueError: no")


def test_error_in_the_file_is_kept_as_the_cause(tmp_path: Path) -> None:
    with pytest.raises(SelectionError) as caught:
        function_of(write(tmp_path, "1 / 0\n"), "f")
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_interrupt_is_not_taken_for_an_error_of_the_file(tmp_path: Path) -> None:
    path = list(sys.path)
    with pytest.raises(KeyboardInterrupt):
        function_of(write(tmp_path, "raise KeyboardInterrupt\n"), "f")
    assert sys.path == path


CLASSES = """
from __future__ import annotations
import dataclasses, enum, pickle, typing

@dataclasses.dataclass
class A:
    a: typing.ClassVar[int] = 1
    b: int = 2

class K(enum.Enum):
    X = 1

def f(x):
    return A(x).b, typing.get_type_hints(A), pickle.loads(pickle.dumps(K.X)) is K.X
"""


def test_classes_of_the_file_work_while_it_is_loaded_and_afterwards(tmp_path: Path) -> None:
    """Dataclasses and enums look for their module by its name."""
    assert function_of(write(tmp_path, CLASSES), "f")(3) == (3, {"a": ClassVar[int], "b": int}, True)
