"""Functions of users that do what they should not: a right number, or an error with a remedy; never a wrong number."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import pytest
import random_analyses
from click.testing import CliRunner
from outreach import campaign, dataset

import higgsnb as hn
from higgsnb import engine, errors, results
from higgsnb.__main__ import main
from higgsnb.datasets import Campaign
from higgsnb.results import Result

N = 200
COLUMNS = ["MET_pt", "Muon_pt", "Muon_charge"]
AXIS = hn.Axis("x", 20, 0, 50)


@pytest.fixture(scope="module")
def columns() -> dict[str, Any]:
    found = random_analyses._columns(np.random.default_rng(8), N, first=0)
    return found | {
        "genWeight": ak.Array(np.where(np.arange(N) % 5, 1.5, -1.5).astype(np.float32)),
        "index": ak.Array(np.arange(N, dtype=np.int32)[::-1].copy()),
        "entry": ak.Array(np.zeros(N, np.int32)),
    }


@pytest.fixture(scope="module")
def made(columns: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Campaign:
    path = random_analyses.write(tmp_path_factory.mktemp("hostile") / "mc.root", columns)
    return campaign(dataset("mc", "zz", path, cross_section_pb=0.1), schema="nanoaod")


@pytest.fixture(scope="module")
def data(columns: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Campaign:
    path = random_analyses.write(tmp_path_factory.mktemp("hostile") / "data.root", columns)
    return campaign(dataset("mu", "data", path), schema="nanoaod")


def analysis(function: Any, **options: Any) -> hn.Analysis:
    return hn.Analysis("hostile", function, **{"columns": COLUMNS, "axes": [AXIS], **options})


def last(made: Campaign, function: Any, *, client: Any = None, chunk_events: int = 1000, **options: Any) -> Result:
    *_, result = engine.run(
        made, analysis(function, **options), workers=1, client=client, chunk_events=chunk_events
    )  # fmt: skip
    return result


def selected(events: Any, x: Any = None, **more: Any) -> hn.Selected:
    return hn.Selected(events, x=events.MET_pt if x is None else x, **more)


# --- Errors that name what is wrong

WEIGHTS: dict[str, tuple[Any, str]] = {
    "None": (lambda events: ak.mask(events.MET_pt, events.MET_pt <= 20), "None"),
    "masked": (lambda events: np.ma.masked_greater(np.asarray(events.MET_pt), 20), "None"),
    "not a number": (lambda events: np.where(events.MET_pt > 20, np.nan, 1.0), "nan"),
    "infinite": (lambda events: np.where(events.MET_pt > 20, np.inf, 1.0), "inf"),
}


@pytest.mark.parametrize("name", WEIGHTS)
def test_weight_that_is_no_number_names_source_and_entry(made: Campaign, columns: dict[str, Any], name: str) -> None:
    weight, words = WEIGHTS[name]
    entry = int(np.flatnonzero(np.asarray(columns["MET_pt"]) > 20)[0])
    with pytest.raises(errors.AnalysisError, match=rf"weight 'scale' of entry {entry} is {words}"):
        last(made, lambda events: selected(events, weights={"scale": weight(events)}))


def test_data_need_no_weight(data: Campaign) -> None:
    """It is 1 whatever a function makes of columns that only simulation has."""
    result = last(data, lambda events: selected(events, weights={"scale": np.full(len(events), np.nan)}))
    assert result.yields["data"]["selected"].events == N


def writes(events: Any) -> hn.Selected:
    met = np.asarray(events.MET_pt)
    met *= 2
    return selected(events, met)


def writes_objects(events: Any) -> hn.Selected:
    np.asarray(ak.flatten(events.Muon.pt))[:] = 0
    return selected(events)


def writes_flat(columns: Any) -> hn.Selected:
    columns["event"][:] = 7
    return hn.Selected(columns["MET_pt"] > 0, x=columns["MET_pt"])


@pytest.mark.parametrize(
    ("function", "form"), [(writes, "awkward"), (writes_objects, "awkward"), (writes_flat, "flat")]
)
def test_events_cannot_be_written_to(data: Campaign, function: Any, form: str) -> None:
    """Other variations, and the recognition of duplicates, use the same arrays."""
    with pytest.raises(errors.AnalysisError, match="read-only") as caught:
        last(data, function, form=form)
    assert "test_hostile_analyses.py, line" in caught.value.message
    assert "Copy it before you change it" in caught.value.hint


def smeared(events: Any) -> Any:
    return selected(events, events.MET_pt * np.random.default_rng(1).normal(1, 0.1, len(events)))


MIXED: dict[str, tuple[Any, str]] = {
    "seeded random numbers": (smeared, "x of entry"),
    "mean": (lambda events: selected(events, events.MET_pt / ak.mean(events.MET_pt)), "x of entry"),
    "largest": (lambda events: selected(events[events.MET_pt > 0.3 * ak.max(events.MET_pt)]), "depending on"),
    "first ones": (lambda events: selected(events[:20]), "is selected or not"),
    "neighbour": (lambda events: selected(events, np.roll(np.asarray(events.MET_pt), 1)), "x of entry"),
    "region": (
        lambda events: selected(events, regions={"selected": events.MET_pt > ak.mean(events.MET_pt)}), "region",
    ),
    "weight": (lambda events: selected(events, weights={"a": events.MET_pt / ak.sum(events.MET_pt)}), "weight a"),
}  # fmt: skip


@pytest.mark.parametrize("name", MIXED)
def test_events_that_depend_on_each_other_are_refused(made: Campaign, name: str) -> None:
    """Chunks of another size would give other numbers."""
    function, words = MIXED[name]
    with pytest.raises(errors.AnalysisError, match="events around it") as caught:
        last(made, function)
    assert words in caught.value.message
    assert "Work on each event alone" in caught.value.hint


def test_random_numbers_of_the_event_are_the_same_in_any_chunks(made: Campaign) -> None:
    def smeared(events: Any) -> hn.Selected:
        numbers = zip(events.run, events.luminosityBlock, events.event, strict=True)
        draws = [np.random.default_rng([int(n) for n in one]).normal(1, 0.1) for one in numbers]
        return selected(events, events.MET_pt * np.array(draws).reshape(len(events)))

    one, other = (last(made, smeared, chunk_events=size).sums["mc"][0] for size in (1000, 17))
    assert one.tobytes() == other.tobytes()


def exits(_: Any) -> Any:
    sys.exit()


def without_text(_: Any) -> Any:
    class OddError(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    raise OddError


def endless(events: Any) -> Any:
    return endless(events)


def odd(_: Any) -> Any:
    class Odd:
        def __repr__(self) -> str:
            raise RuntimeError

    return Odd()


FAILING: dict[str, tuple[Any, str]] = {
    "exit": (exits, "SystemExit"),
    "error without a text": (without_text, "OddError: an error without a text"),
    "recursion": (endless, "RecursionError"),
    "what cannot be shown": (odd, "returned <a Odd that cannot be shown>"),
    "end of an iterator": (lambda _: next(iter([])), "StopIteration"),
    "list with None": (lambda events: selected(events, [None] * len(events)), "x is [None"),
    "rows of whole numbers too large": (
        lambda events: hn.Selected(events, x=events.MET_pt, big=np.full(len(events), 2**62)), "big is up to",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("name", "client"), [*((name, None) for name in FAILING), ("exit", "processes")])
def test_function_that_fails_stops_the_run(made: Campaign, name: str, client: str | None) -> None:
    function, words = FAILING[name]
    with pytest.raises(errors.AnalysisError) as caught:
        last(made, function, client=client, keep=["big"] if "whole" in name else [])
    assert words in caught.value.message
    assert caught.value.hint


def test_function_that_changes_what_it_holds_stops_the_run(made: Campaign) -> None:
    class Counter:
        def __init__(self) -> None:
            self.values = np.zeros(3)

    held = Counter()

    def counting(events: Any) -> hn.Selected:
        alias = held.values
        np.add(alias, 1, out=alias)
        return selected(events)

    with pytest.raises(errors.HiggsnbError) as caught:
        last(made, counting)
    assert "values" in caught.value.message or "held" in caught.value.message


SHIFTS: dict[str, tuple[Any, str]] = {
    "one": (1.01, "the changes of Muon_pt are 1.01"),
    "three": ((1.01, 1.0, 0.99), "the changes of Muon_pt are"),
    "text": (("1.01", "0.99"), "the changes of Muon_pt are"),
    "no number": ((float("nan"), 1.0), "the changes of Muon_pt are"),
}


@pytest.mark.parametrize("name", SHIFTS)
def test_shift_without_two_changes_is_refused(name: str) -> None:
    changes, words = SHIFTS[name]
    with pytest.raises(errors.OptionError) as caught:
        hn.Shift("scale", {"Muon_pt": changes})
    assert words in caught.value.message


CHANGES: dict[str, tuple[dict[str, Any], str]] = {
    "error": ({"Muon_pt": (lambda columns: columns["Muon_ptt"], 1.0)}, "no column Muon_ptt"),
    "length": ({"Muon_pt": (lambda columns: columns["MET_pt"], 1.0)}, "scale makes of Muon_pt an array (200,)"),
    "in place": ({"Muon_pt": (lambda columns: columns["Muon_pt"].sort(), 1)}, "read-only"),
    "whole numbers": ({"Muon_charge": (1.5, 0.5)}, "numbers that are not whole, which its type int32 is"),
}  # fmt: skip


@pytest.mark.parametrize("name", CHANGES)
def test_shift_that_gives_what_does_not_fit_is_named(made: Campaign, name: str) -> None:
    changes, words = CHANGES[name]
    with pytest.raises(errors.AnalysisError) as caught:
        last(made, selected, variations=[hn.Shift("scale", changes)])
    assert words in caught.value.message


def test_column_of_a_shift_may_be_written_with_a_dot(made: Campaign) -> None:
    def first(events: Any) -> hn.Selected:
        return selected(events, ak.fill_none(ak.firsts(events.Muon.pt), np.nan))

    dotted, plain = (
        last(made, first, columns=["MET_pt", name], variations=[hn.Shift("scale", {name: (1.5, 0.5)})]).sums["mc"]
        for name in ("Muon.pt", "Muon_pt")
    )
    assert [one.tobytes() for one in dotted] == [one.tobytes() for one in plain]
    assert dotted[0][1].tobytes() != dotted[0][2].tobytes()


NAMES: dict[str, tuple[dict[str, Any], str]] = {
    "too many regions": ({"regions": [f"{i}" for i in range(129)]}, "regions: 129"),
    "half a character": ({"regions": ["\ud800"]}, "is not a name"),
    **{f"axis {name}": ({"axes": [hn.Axis(name, 5, 0, 1)]}, f"called {name}") for name in ("region", "weights")},
    **{f"kept {name}": ({"keep": [name]}, f"keep: {name!r}") for name in ("_x", "class", "weights")},
}  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_name_that_no_file_can_hold_is_refused_at_once(name: str) -> None:
    options, words = NAMES[name]
    with pytest.raises(errors.OptionError) as caught:
        analysis(selected, **options)
    assert words in caught.value.message


# --- Odd, and right


def test_as_many_regions_as_there_may_be_are_counted(data: Campaign) -> None:
    names = [f"region {i}" for i in range(128)]

    def function(events: Any) -> hn.Selected:
        return selected(events, regions={name: events.entry >= i for i, name in enumerate(names)})

    result = last(data, function, regions=names, keep=["x"])
    assert [result.yields["data"][name].events for name in names] == [N - i for i in range(128)]
    assert np.bincount(result.candidates.region).tolist() == [N - i for i in range(128)]


@pytest.mark.parametrize("column", ["index", "entry"])
def test_columns_of_any_name_are_read(data: Campaign, columns: dict[str, Any], column: str) -> None:
    """Also those that records of events have themselves."""

    def function(events: Any) -> hn.Selected:
        events = events[events.MET_pt > 10]
        return selected(events, events[column])

    result = last(data, function, columns=["MET_pt", column], keep=["x"])
    truth = np.flatnonzero(np.asarray(columns["MET_pt"]) > 10)
    assert result.candidates.entry.tolist() == truth.tolist()
    assert result.candidates.x.tolist() == np.asarray(columns[column])[truth].tolist()


def test_fields_that_a_function_adds_select_nothing_else(data: Campaign, columns: dict[str, Any]) -> None:
    def function(events: Any) -> hn.Selected:
        events = events[events.MET_pt > 10]
        events["index"] = np.arange(len(events))
        events["entry"] = np.arange(len(events))
        return selected(events)

    found = last(data, function, keep=["x"]).candidates
    assert found.entry.tolist() == np.flatnonzero(np.asarray(columns["MET_pt"]) > 10).tolist()


def test_values_in_no_bin_are_in_none(made: Campaign) -> None:
    """NaN, None, infinities, an empty list, and a table without columns."""

    def function(events: Any) -> hn.Selected:
        n = len(events)
        x = np.select([events.entry % 4 == k for k in range(3)], [np.nan, np.inf, -np.inf], 5.0)
        return selected(events, x, none=np.zeros((n, 0)), empty=events.Muon.pt[:, :0])

    axes = [AXIS, hn.Axis("none", 2, 0, 1), hn.Axis("empty", 2, 0, 1, per_event=2)]
    result = last(made, function, axes=axes)
    counts = {name: found.view(flow=True).sum() for name, found in result.histograms.items()}
    assert counts == {"x": N // 4, "none": 0, "empty": 0}
    assert result.yields["zz"]["selected"].events == N
    assert result.invalid_values["mc"]["x"] == 3 * N // 4


def test_largest_numbers_that_an_event_can_have_stay(columns: dict[str, Any], tmp_path: Path) -> None:
    largest = [2**31, 2**32, 2**53 + 1, 2**63, 2**64 - 1]
    some = {name: column[: len(largest)] for name, column in columns.items()}
    some |= {"event": ak.Array(np.array(largest, np.uint64)), "run": ak.Array(np.full(5, 2**32 - 1, np.uint32))}
    path = random_analyses.write(tmp_path / "a.root", some)
    twice = campaign(
        dataset("a", "data", path, primary_dataset="DoubleMu"),
        dataset("b", "data", random_analyses.write(tmp_path / "b.root", some), primary_dataset="DoubleElectron"),
        schema="nanoaod",
    )
    found = last(twice, selected, keep=["x"])
    assert found.candidates.event.tolist() == largest
    assert set(found.candidates.run.tolist()) == {2**32 - 1}
    assert found.duplicates_removed == {"b": 5}


def test_what_is_returned_may_be_a_view_of_anything(data: Campaign, columns: dict[str, Any]) -> None:
    def function(columns: Any) -> hn.Selected:
        met = columns["MET_pt"]
        return hn.Selected(np.arange(len(met))[::-1], x=met[::-1], regions={"selected": columns["HLT_Mu"][::-1]})

    options: dict[str, Any] = {"form": "flat", "keep": ["x"], "columns": ["MET_pt", "HLT_Mu"]}
    found = last(data, function, chunk_events=33, **options).candidates
    fired = np.asarray(columns["HLT_Mu"])
    assert found.entry.tolist() == np.flatnonzero(fired).tolist()
    assert found.x.tolist() == np.asarray(columns["MET_pt"], np.float64)[fired].tolist()


SCRIPT = """
import higgsnb as hn

NAMES = ["a/b", "a b", "..", "total", "$x_{$", "é" + "x" * 200, "all<b>"]


def select(events):
    print("from the function")
    return hn.Selected(events, x=events.MET_pt, regions={name: events.MET_pt > i for i, name in enumerate(NAMES)})


one = hn.Analysis("one", select, columns=["MET_pt"], axes=[hn.Axis("x", 5, 0, 50)], regions=NAMES, keep=["x"])
"""


@pytest.mark.parametrize("scheduler", ["threads", "processes"])
def test_odd_names_and_prints_on_the_command_line(
    made: Campaign, tmp_path: Path, scheduler: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each region has a figure of its own, and what a function prints is no part of the JSON."""
    (tmp_path / "mine.py").write_text(SCRIPT, encoding="utf-8")
    text = '[campaign]\nname = "odd"\nschema = "nanoaod"\nluminosity_fb = 1.0\nluminosity_uncertainty = 0.02\n'
    text += 'energy_tev = 13\n[[dataset]]\nname = "mc"\nprocess = "zz"\ncross_section_pb = 0.1\n'
    (tmp_path / "odd.toml").write_text(f'{text}file = [{{ url = "{made.files[0].url}" }}]\n', encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    arguments = ["run", "odd.toml", "--analysis", "mine.py:one", "--out", "out", "--json", "-j", "1"]
    command = [sys.executable, "-m", "higgsnb", *arguments, "--scheduler", scheduler]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert "from the function" in done.stderr
    assert len(document["yields"]["zz"]) == 7
    assert len(list((tmp_path / "out").glob("*.png"))) == 7


def test_analysis_from_standard_input_is_refused_with_the_reason(tmp_path: Path) -> None:
    code = "import higgsnb as hn\none = hn.Analysis('a', lambda events: hn.Selected(events, x=events.run), columns=[],"
    code += " axes=[hn.Axis('x', 1, 0, 1)])\nprint(one.identity)"
    done = subprocess.run([sys.executable], input=code, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 1
    assert "has no source that could be shown" in done.stderr
    assert "Define it in a file or in a cell of a notebook" in done.stderr


def test_result_of_an_analysis_with_odd_names_is_written(made: Campaign, tmp_path: Path) -> None:
    names = ["total", "nominal", "é\"'", "🙂", "%s", "{x}", "all"]

    def function(events: Any) -> hn.Selected:
        return selected(events, regions={name: events.entry >= i for i, name in enumerate(names)})

    result = last(made, function, regions=names, keep=["x"])
    results.write(result, tmp_path, run={})
    document = json.loads((tmp_path / "result.json").read_text(encoding="utf-8"))
    assert [document["yields"]["zz"][name]["events"] for name in names] == [N - i for i in range(len(names))]
    assert list(document["cutflow"]["mc"]) == sorted(names)


def test_exit_in_a_function_is_no_success_on_the_command_line(made: Campaign, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(SCRIPT.replace('print("from the function")', "exit()"), encoding="utf-8")
    (tmp_path / "odd.toml").write_text(
        '[campaign]\nname = "odd"\nschema = "nanoaod"\nluminosity_fb = 1.0\nluminosity_uncertainty = 0.02\n'
        'energy_tev = 13\n[[dataset]]\nname = "mc"\nprocess = "zz"\ncross_section_pb = 0.1\n'
        f'file = [{{ url = "{made.files[0].url}" }}]\n',
        encoding="utf-8",
    )
    arguments = ["run", str(tmp_path / "odd.toml"), "--analysis", f"{tmp_path / 'mine.py'}:one", "--quiet"]
    done = CliRunner().invoke(main, [*arguments, "--out", str(tmp_path / "out"), "-j", "1"])
    assert done.exit_code == 2
    assert "SystemExit" in done.output
