"""The widgets without a browser: what they send, and that a run or a cluster behind them is never lost."""

from __future__ import annotations

import ast
import gc
import importlib.util
import itertools
import json
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from http_server import FileServer

from higgsnb import cluster, datasets, engine, errors, plots, selection
from higgsnb.datasets import Campaign, File
from higgsnb.engine import executors, loop
from higgsnb.errors import OptionError
from higgsnb.results import Result, stack_order
from higgsnb.selection import Selection
from higgsnb.widgets import ClusterControl, LiveHistogram
from higgsnb.widgets.control import KIND_LABELS, web_address
from higgsnb.widgets.live import SECONDS_PER_HEARTBEAT, Pace, spectrum

CHUNK = 8000
SECONDS = 120.0


@pytest.fixture(scope="module")
def toy() -> Campaign:
    return datasets.load("toy")


@pytest.fixture(scope="module")
def open2012() -> Selection:
    return selection.load("open2012")


@pytest.fixture(scope="module")
def whole(toy: Campaign, open2012: Selection) -> Result:
    *_, result = engine.run(toy, open2012)
    return result


@pytest.fixture(scope="module")
def partial(toy: Campaign, open2012: Selection) -> Result:
    *_, result = engine.run(toy, open2012, fraction=0.3)
    return result


@pytest.fixture
def live(toy: Campaign, open2012: Selection, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., LiveHistogram]]:
    """A function that makes a live histogram of the toy campaign; in the end nothing runs any more.

    Every chunk gives a result, however fast the machine, so that a run can be stopped in the middle.
    """
    monkeypatch.setattr(loop, "SECONDS_BETWEEN_RESULTS", 0.0)
    made: list[LiveHistogram] = []

    def make(campaign: Campaign = toy, **options: Any) -> LiveHistogram:
        made.append(LiveHistogram(campaign, open2012, **{"workers": 1, "chunk_events": CHUNK, **options}))
        return made[-1]

    yield make
    for one in made:
        one.close()
        assert one.wait(SECONDS)


def broken(campaign: Campaign, url: str = "gone.root") -> Campaign:
    """A campaign whose first file is missing."""
    first = replace(campaign.datasets[0], files=(File(url),))
    return replace(campaign, datasets=(first, *campaign.datasets[1:]))


def states(widget: Any) -> list[dict[str, Any]]:
    """Every state that a widget sends from now on."""
    seen: list[dict[str, Any]] = []
    widget.observe(lambda change: seen.append(change["new"]), "state")
    return seen


def stop_at_first_result(widget: LiveHistogram) -> None:
    """Press Stop as soon as something has landed."""

    def press(change: dict[str, Any]) -> None:
        if change["new"]["phase"] == "running":
            widget.unobserve(press, "state")
            widget._handle_custom_msg({"do": "stop"}, [])

    widget.observe(press, "state")


def same_counts(one: Result, other: Result) -> bool:
    return all(np.array_equal(one.counts[name], other.counts[name]) for name in other.counts)


# --- What is drawn ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mass_4l", "mass_z1", "lepton_pt"])
@pytest.mark.parametrize("which", ["whole", "partial"])
def test_spectrum_is_that_of_the_result(request: pytest.FixtureRequest, which: str, name: str) -> None:
    result = request.getfixturevalue(which)
    expected, drawn = result.spectrum(name).combined(), spectrum(result, name)
    assert drawn["edges"] == pytest.approx(expected.edges.tolist())
    assert drawn["data"]["counts"] == expected.data.tolist()
    assert [layer["process"] for layer in drawn["stack"]] == stack_order(expected.stack) == ["zx", "zz", "higgs"]
    for layer in drawn["stack"]:
        assert layer["heights"] == pytest.approx(expected.stack[layer["process"]].tolist(), abs=1e-5)
    assert drawn["total"] == pytest.approx(expected.total.tolist(), abs=1e-5)
    assert drawn["error"] == pytest.approx(np.sqrt(expected.variance).tolist(), abs=1e-5)


@pytest.mark.parametrize("which", ["whole", "partial"])
def test_words_around_the_spectrum_are_those_of_the_figure(request: pytest.FixtureRequest, which: str) -> None:
    result = request.getfixturevalue(which)
    panel = plots.mass_4l(result).axes[0]
    written = [text.get_text().replace("\n", " ") for text in panel.texts]
    drawn = spectrum(result)
    assert drawn["heading"] in written
    assert drawn["luminosity"] in written
    assert drawn["warning"] == "" if result.complete else drawn["warning"] in written
    assert drawn["axis"]["heights"] == panel.get_ylabel()
    labels = [text.get_text() for text in panel.get_legend().get_texts()]
    for layer in drawn["stack"]:
        assert any(label.startswith(f"{layer['label']}  (") for label in labels)
        assert layer["colour"] == plots.COLOURS[layer["process"]]


def test_errors_of_the_data_are_the_published_poisson_intervals(whole: Result) -> None:
    # Central 68.27 % limits, as tabulated by N. Gehrels, Astrophys. J. 303 (1986) 336, tables 1 and 2 (S = 1).
    table = {1: (0.173, 3.300), 2: (0.708, 4.638), 3: (1.367, 5.918), 5: (2.840, 8.382), 7: (4.419, 10.77)}
    data = spectrum(whole)["data"]
    found = {n: (low, high) for n, low, high in zip(data["counts"], data["low"], data["high"], strict=True)}
    assert table.keys() <= found.keys()
    for count, interval in table.items():
        assert found[count] == pytest.approx(interval, abs=6e-3)


def test_state_is_plain_json_and_small(whole: Result, live: Callable[..., LiveHistogram]) -> None:
    state = {**live().state, **spectrum(whole)}
    assert len(json.dumps(state, allow_nan=False)) < 8000


def test_campaign_without_data_has_a_spectrum(partial: Result) -> None:
    simulated = tuple(one for one in partial.campaign.datasets if not one.is_data)
    result = Result(replace(partial.campaign, datasets=simulated), partial.selection)
    drawn = spectrum(result)
    assert drawn["data"] is None
    assert drawn["total"] == [0.0] * 37


def test_unknown_histogram_is_refused_at_once(live: Callable[..., LiveHistogram]) -> None:
    with pytest.raises(KeyError, match="no histogram 'mass_5l'; known: mass_4l"):
        live(histogram="mass_5l")


def test_pace_is_that_of_the_latest_seconds() -> None:
    pace = Pace()
    assert (pace.rate, pace.seconds_left(100)) == (None, None)
    pace.add(0.0, 1000)
    pace.add(10.0, 1000)
    assert pace.rate is None
    pace.add(20.0, 3000)
    assert pace.rate == 100.0
    assert pace.seconds_left(4000) == 10.0
    pace.add(30.0, 7000)  # now from the second mark on: (7000 - 1000) in 20 s
    assert pace.rate == 300.0
    assert pace.seconds_left(7000) == 0.0


# --- A run behind a live histogram -----------------------------------------------------------------


def test_finished_view_is_the_result_of_the_engine(live: Callable[..., LiveHistogram], whole: Result) -> None:
    view = live()
    sent = states(view)
    view.start()
    assert view.wait(SECONDS)
    assert [phase for phase, _ in itertools.groupby(state["phase"] for state in sent)] == [
        "starting",
        "running",
        "complete",
    ]
    done = [state["coverage"]["events"][0] for state in sent]
    assert done == sorted(done)
    assert done[-1] == whole.coverage.events[1]
    assert same_counts(view.result, whole)
    assert {**sent[-1], **spectrum(whole)} == sent[-1]


def test_partial_states_say_that_they_are_partial(live: Callable[..., LiveHistogram]) -> None:
    view = live()
    sent = states(view)
    view.start()
    assert view.wait(SECONDS)
    running = [state for state in sent if 0 < state["coverage"]["events"][0] < state["coverage"]["events"][1]]
    assert running
    assert [state for state in running if not state["warning"].startswith("PARTIAL: ")] == []
    assert [state for state in running if state["percent"] == "100 %"] == []


def test_start_while_running_starts_nothing(live: Callable[..., LiveHistogram]) -> None:
    view = live()
    view.start()
    view.start()
    assert view.wait(SECONDS)
    assert (view.state["phase"], view.error) == ("complete", None)  # a second run would find the ledger in use


def test_stopped_run_resumes_where_it_was(live: Callable[..., LiveHistogram], whole: Result) -> None:
    view = live()
    stop_at_first_result(view)
    view.start()
    assert view.wait(SECONDS)
    assert view.state["phase"] == "stopped"
    assert view.state["resumable"]
    stopped = view.state["coverage"]["events"][0]
    assert 0 < stopped < whole.coverage.events[1]
    sent = states(view)
    view._handle_custom_msg({"do": "start"}, [])
    assert view.wait(SECONDS)
    assert min(state["coverage"]["events"][0] for state in sent) == stopped
    assert view.state["phase"] == "complete"
    assert same_counts(view.result, whole)


def test_complete_run_can_be_shown_again_from_the_start(live: Callable[..., LiveHistogram], whole: Result) -> None:
    view = live()
    view.start()
    assert view.wait(SECONDS)
    sent = states(view)
    stop_at_first_result(view)
    view.start()
    assert view.wait(SECONDS)
    assert sent[0]["coverage"]["events"][0] == 0
    assert sent[0]["total"] == [0.0] * 37
    assert view.state["phase"] == "stopped"
    view.start()
    assert view.wait(SECONDS)
    assert same_counts(view.result, whole)


def test_without_ledger_a_stopped_run_begins_again(live: Callable[..., LiveHistogram]) -> None:
    view = live(ledger=None)
    stop_at_first_result(view)
    view.start()
    assert view.wait(SECONDS)
    assert not view.state["resumable"]
    view.start()
    assert view.wait(SECONDS)
    assert view.state["phase"] == "complete"


def test_fresh_forgets_the_ledger_only_at_the_first_start(live: Callable[..., LiveHistogram], tmp_path: Path) -> None:
    ledger = tmp_path / "mine.sqlite"
    first = live(ledger=ledger)
    first.start()
    assert first.wait(SECONDS)
    again = live(ledger=ledger, fresh=True)
    stop_at_first_result(again)
    again.start()
    assert again.wait(SECONDS)
    stopped = again.state["coverage"]["events"][0]
    assert stopped < again.state["coverage"]["events"][1]
    sent = states(again)
    again.start()
    assert again.wait(SECONDS)
    assert min(state["coverage"]["events"][0] for state in sent) == stopped


def test_file_that_fails_is_shown_with_its_hint_and_the_rest_counted(
    live: Callable[..., LiveHistogram], toy: Campaign, whole: Result, tmp_path: Path
) -> None:
    view = live(broken(toy, str(tmp_path / "gone.root")))
    view.start()
    assert view.wait(SECONDS)
    (failed,) = view.state["failed"]
    assert view.state["phase"] == "incomplete"
    assert failed["dataset"] == toy.datasets[0].name
    assert "gone.root" in failed["file"]
    assert failed["message"]
    assert failed["hint"]
    assert view.state["data"]["counts"] == spectrum(whole)["data"]["counts"]
    assert view.state["words"].endswith(" 1 file failed.")


def test_error_that_ends_the_run_is_shown_in_words_and_kept(
    live: Callable[..., LiveHistogram], toy: Campaign, tmp_path: Path
) -> None:
    view = live(broken(toy, str(tmp_path / "gone.root")), on_error="strict")
    view.start()
    assert view.wait(SECONDS)
    assert view.state["phase"] == "failed"
    assert "gone.root" in view.state["problem"]["what"]
    assert view.state["problem"]["hint"]
    assert isinstance(view.error, errors.FileError)


def test_unexpected_error_is_shown_with_its_class(live: Callable[..., LiveHistogram]) -> None:
    view = live(colour="red")
    view.start()
    assert view.wait(SECONDS)
    assert view.state["problem"]["what"].startswith("TypeError: ")
    assert "colour" in view.state["problem"]["what"]
    assert isinstance(view.error, TypeError)


def test_after_an_error_the_run_can_be_tried_again(
    live: Callable[..., LiveHistogram], toy: Campaign, tmp_path: Path
) -> None:
    path = tmp_path / "comes_late.root"
    view = live(broken(toy, str(path)), on_error="strict")
    view.start()
    assert view.wait(SECONDS)
    source = Path(datasets.locate(toy.datasets[0].files[0].url).location)
    path.write_bytes(source.read_bytes())
    view.start()
    assert view.wait(SECONDS)
    assert (view.state["phase"], view.state["problem"], view.error) == ("complete", None, None)


def test_signs_of_life_are_sent_while_nothing_lands(
    live: Callable[..., LiveHistogram], monkeypatch: pytest.MonkeyPatch, partial: Result
) -> None:
    enough = threading.Event()

    def silent(*_: Any, **__: Any) -> Iterator[Result]:
        assert enough.wait(SECONDS)
        yield partial

    monkeypatch.setattr("higgsnb.widgets.live.SECONDS_PER_HEARTBEAT", 0.01)
    monkeypatch.setattr(engine, "run", silent)
    view = live()
    view.observe(lambda change: enough.set() if change["new"] >= 3 else None, "heartbeat")
    view.start()
    assert view.wait(SECONDS)
    assert view.heartbeat >= 3


def test_heartbeat_is_far_quicker_than_any_culling() -> None:
    assert SECONDS_PER_HEARTBEAT <= 30


def test_result_before_the_first_chunk_holds_nothing(live: Callable[..., LiveHistogram], whole: Result) -> None:
    result = live().result
    assert not result.complete
    assert result.coverage.events[0] == 0
    assert same_counts(result + whole, whole)


def test_ledger_can_be_seen_and_another_widget_goes_on_from_it(
    live: Callable[..., LiveHistogram], whole: Result, tmp_path: Path
) -> None:
    assert live(ledger=tmp_path / "mine.sqlite").ledger == tmp_path / "mine.sqlite"
    assert live(ledger=None).ledger is None
    first = LiveHistogram(whole.campaign, whole.selection, chunk_events=CHUNK)
    first.start()
    assert first.wait(SECONDS)
    ledger = first.ledger
    first.close()
    del first
    gc.collect()
    second = live(ledger=ledger)
    sent = states(second)
    second.start()
    assert second.wait(SECONDS)
    assert {state["coverage"]["events"][0] for state in sent} == {0, whole.coverage.events[0]}  # all at once
    assert same_counts(second.result, whole)


def test_run_without_a_cluster_says_how_to_get_one_and_goes_on_with_who_is_given(
    live: Callable[..., LiveHistogram], panel: Callable[..., ClusterControl], whole: Result, tmp_path: Path
) -> None:
    ledger = tmp_path / "mine.sqlite"
    earlier = live(ledger=ledger)
    earlier.start()
    assert earlier.wait(SECONDS)
    view = live(client=panel(), ledger=ledger, fresh=True)
    view.start()
    assert view.wait(SECONDS)
    assert view.state["phase"] == "lost"
    assert view.state["problem"] == {
        "what": "the panel has no cluster",
        "hint": f"Launch a cluster, then press Resume. Finished chunks are kept in {ledger}.",
    }
    sent = states(view)
    view.start(client="threads")
    assert view.wait(SECONDS)
    assert (view.state["phase"], view.error) == ("complete", None)
    assert min(state["coverage"]["events"][0] for state in sent) == 0  # `fresh` was for the first start that was one
    assert same_counts(view.result, whole)


@pytest.mark.usefixtures("short_patience")
def test_run_goes_on_with_the_cluster_that_is_launched_after_one_that_died(
    live: Callable[..., LiveHistogram], panel: Callable[..., ClusterControl], whole: Result
) -> None:
    control = launched(panel())
    view = live(client=control, workers=None, chunk_events=2000)
    sent = states(view)

    def kill(change: dict[str, Any]) -> None:
        if change["new"]["phase"] == "running" and change["new"]["coverage"]["events"][0]:
            view.unobserve(kill, "state")
            end_cluster(control)

    view.observe(kill, "state")
    view.start()
    assert view.wait(SECONDS)
    assert view.state["phase"] == "lost"
    assert view.state["problem"]["hint"] == (
        f"Launch a cluster, then press Resume. Finished chunks are kept in {view.ledger}."
    )
    counted = view.state["coverage"]["events"][0]
    assert 0 < counted < whole.coverage.events[1]
    wait_for_phase(control, "failed")
    launched(control)
    sent.clear()
    view._handle_custom_msg({"do": "start"}, [])
    assert view.wait(SECONDS)
    assert (view.state["phase"], view.error) == ("complete", None)
    assert min(state["coverage"]["events"][0] for state in sent) >= counted
    assert same_counts(view.result, whole)


@pytest.mark.parametrize("message", [{}, {"do": "explode"}, {"do": None}, {"state": {}}])
def test_message_that_means_nothing_changes_nothing(
    live: Callable[..., LiveHistogram], message: dict[str, Any]
) -> None:
    view = live()
    before = view.state
    view._handle_custom_msg(message, [])
    assert view.state is before


def test_secrets_in_addresses_are_not_shown(
    live: Callable[..., LiveHistogram], toy: Campaign, http_server: FileServer
) -> None:
    address = http_server.base.replace("//", "//me:canary@")
    view = live(broken(toy, f"{address}/gone.root"))
    view.start()
    assert view.wait(SECONDS)
    sent = json.dumps(view.state)
    assert "gone.root" in sent
    assert "canary" not in sent


# --- On stage --------------------------------------------------------------------------------------


DEMO = Path(__file__).resolve().parents[2] / "notebooks" / "live_demo.ipynb"


def demo_cells(seconds: int) -> list[str]:
    """The code of the notebook after its parameters, as for real data but with less patience."""
    cells = ["".join(cell["source"]) for cell in json.loads(DEMO.read_text("utf-8"))["cells"] if "outputs" in cell]
    text = json.dumps(cells)
    for old, new in (("rehearsal = campaign.simulated", "rehearsal = False"), ("(600)", f"({seconds})")):
        assert text.count(old) == 1
        text = text.replace(old, new)
    return cast("list[str]", json.loads(text)[1:])


def shown(cell: str, names: dict[str, Any]) -> Any:
    """Run a cell; return what would be shown below it."""
    *statements, last = ast.parse(cell).body
    exec(compile(ast.Module(statements, []), "cell", "exec"), names)  # noqa: S102 - a cell of our own notebook
    if isinstance(last, ast.Expr):
        return eval(compile(ast.Expression(last.value), "cell", "eval"), names)  # noqa: S307 - likewise
    exec(compile(ast.Module([last], []), "cell", "exec"), names)  # noqa: S102 - likewise
    return None


@pytest.mark.parametrize("begun", [False, True], ids=["before the first chunk", "after some"])
def test_demo_that_is_not_done_in_time_shows_the_picture_so_far(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, partial: Result, begun: bool
) -> None:
    enough, landed = threading.Event(), threading.Event()

    def slow(*_: Any, **__: Any) -> Iterator[Result]:
        if begun:
            yield partial
        landed.set()
        assert enough.wait(SECONDS)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(engine, "run", slow)
    first, show, start, numbers, answer, _ = demo_cells(seconds=0)
    names: dict[str, Any] = {"campaign": "toy"}
    shown(first, names)
    shown(show, names)
    shown(start, names)
    try:
        assert landed.wait(SECONDS)
        assert shown(numbers, names)["process"][-1] == "data"
        written = " ".join(text.get_text() for text in shown(answer, names).axes[0].texts)
        assert "PARTIAL: " in written
        assert f"{partial.coverage.events[0] / partial.coverage.events[1]:.0%}"[:-1] in written or not begun
    finally:
        enough.set()
        assert names["live"].wait(SECONDS)


def test_demo_that_is_done_ends_with_the_significance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"campaign": "toy"}
    *_, answer, _ = [shown(cell, names) for cell in demo_cells(seconds=int(SECONDS))]
    assert (answer.observed, round(answer.background, 2), round(answer.significance, 2)) == (23, 11.42, 2.93)


# --- What is sent to the browser once --------------------------------------------------------------


def static_files() -> list[Path]:
    folder = resources.files("higgsnb.widgets") / "static"
    return sorted(Path(str(one)) for one in folder.iterdir() if one.name.endswith((".js", ".css")))


@pytest.mark.parametrize("path", static_files(), ids=lambda path: path.name)
def test_scripts_ask_for_nothing_and_write_no_html(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    addresses = set(re.findall(r"(?:https?:)?//[\w.-]+\.\w+[^\s\"']*", text))
    assert addresses <= {"http://www.w3.org/2000/svg"}  # the name of a format
    assert re.findall(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|Function\(|fetch\(", text) == []
    assert re.findall(r"@import|\bimport\s*\(|^import ", text, re.MULTILINE) == []


@pytest.mark.parametrize(
    ("text", "good"),
    [
        ("http://127.0.0.1:8787/status", True),
        ("https://hub.example.org/user/me/proxy/8787/status", True),
        ("/user/me/proxy/8787/status", True),
        ("//evil.example.org/status", False),
        ("javascript:alert(1)", False),
        ("data:text/html,x", False),
        ("http:", False),
        ("", False),
    ],
)
def test_only_web_addresses_become_links(text: str, good: bool) -> None:
    assert web_address(text) == (text if good else "")


# --- The panel of the cluster ----------------------------------------------------------------------


@pytest.fixture
def short_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A scheduler that is gone is soon given up, as it will not come back."""
    monkeypatch.setattr(executors, "RECONNECT_SECONDS", 0.5)


@pytest.fixture
def panel() -> Iterator[Callable[..., ClusterControl]]:
    """A function that makes a panel; in the end its cluster is gone."""
    made: list[ClusterControl] = []

    def make(**options: Any) -> ClusterControl:
        made.append(ClusterControl(**{"kind": "local", "workers": 1, "memory": "500MB", **options}))
        return made[-1]

    yield make
    for one in made:
        one.close()
        assert one.cluster is None


def launched(control: ClusterControl) -> ClusterControl:
    """Press Launch and wait until the cluster is ready."""
    control._handle_custom_msg({"do": "launch"}, [])
    assert control.wait(SECONDS)
    assert control.error is None
    assert control.state["cluster"]["phase"] == "ready"
    return control


def end_cluster(control: ClusterControl) -> None:
    """End scheduler and workers behind the back of the panel, as an idle timeout does."""
    control.get_client().shutdown()


def wait_for_phase(control: ClusterControl, phase: str) -> None:
    """Wait until the cluster says that it is in a phase."""
    there = threading.Event()

    def look(_: object = None) -> None:
        if control.state["cluster"]["phase"] == phase:
            there.set()

    control.observe(look, "state")
    look()
    assert there.wait(SECONDS)
    control.unobserve(look, "state")


def test_local_cluster_is_launched_used_scaled_and_stopped(panel: Callable[..., ClusterControl]) -> None:
    control = panel()
    sent = states(control)
    launched(control)
    with control.get_client() as client:
        assert client.submit(sum, [20, 22]).result(timeout=30) == 42
    control._handle_custom_msg({"do": "logs"}, [])
    assert control.wait(SECONDS)
    assert len(control.state["logs"]) >= 2  # the scheduler and a worker
    control._handle_custom_msg({"do": "stop"}, [])
    assert control.wait(SECONDS)
    phases = [phase for phase, _ in itertools.groupby(one["cluster"]["phase"] for one in sent if one["cluster"])]
    assert phases == ["preflight", "starting", "ready", "closing", "closed"]
    assert (control.cluster, control.state["busy"], control.state["dashboard"]) == (None, "", "")


def test_cluster_that_cannot_start_is_explained_and_another_can_be_launched(
    panel: Callable[..., ClusterControl], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))  # no sbatch here
    control = panel(kind="slurm")
    control.launch()
    assert control.wait(SECONDS)
    assert isinstance(control.error, errors.ClusterError)
    assert control.state["cluster"]["phase"] == "failed"
    missing = "sbatch" if importlib.util.find_spec("dask_jobqueue") else "dask-jobqueue"
    assert missing in control.state["problem"]["what"] + control.state["problem"]["hint"]
    assert control.state["problem"]["hint"]
    control._handle_custom_msg({"do": "choose", "kind": "local"}, [])
    assert control.state["problem"] is None
    assert control.state["choice"]["kind"] == "local"


def test_second_launch_waits_for_no_second_cluster(panel: Callable[..., ClusterControl]) -> None:
    begun, go_on = threading.Event(), threading.Event()
    calls = []

    def launch(**options: Any) -> cluster.Cluster:
        calls.append(options)
        begun.set()
        assert go_on.wait(SECONDS)
        raise errors.ClusterError("no room", "Ask for less.")

    control = panel(launch=launch, image="mine")
    control.launch()
    assert begun.wait(SECONDS)  # nothing blocks: this thread goes on while the cluster is being started
    assert control.state["busy"] == "starting the cluster"
    control.launch()
    go_on.set()
    assert control.wait(SECONDS)
    assert len(calls) == 1
    assert {"kind": "local", "workers": 1, "cores": 1, "memory": "500MB", "image": "mine"}.items() <= calls[0].items()
    assert control.state["problem"] == {"what": "no room", "hint": "Ask for less."}


def test_cluster_that_died_is_replaced_by_the_next_launch(panel: Callable[..., ClusterControl]) -> None:
    control = launched(panel())
    first = control.cluster
    end_cluster(control)
    wait_for_phase(control, "failed")
    with pytest.raises(errors.ClusterError, match="failed"):
        control.get_client()
    launched(control)
    assert control.cluster is not first
    with control.get_client() as client:
        assert client.submit(sum, [20, 22]).result(timeout=30) == 42
    assert first is not None
    assert first._provider is None  # what was left of it is removed


def obedient(begun: threading.Event) -> Callable[..., cluster.Cluster]:
    """A start that takes for ever, unless it is cancelled."""

    def launch(*, cancel: threading.Event, **_: Any) -> cluster.Cluster:
        begun.set()
        assert cancel.wait(SECONDS)
        raise errors.ClusterError("start-up was cancelled", "Start again.")

    return launch


def test_stop_cancels_a_start(panel: Callable[..., ClusterControl]) -> None:
    begun = threading.Event()
    control = panel(launch=obedient(begun))
    problems = states(control)
    control.launch()
    assert begun.wait(SECONDS)
    control._handle_custom_msg({"do": "stop"}, [])
    assert control.wait(SECONDS)
    assert [one["problem"]["what"] for one in problems if one["problem"]] == ["start-up was cancelled"]
    assert (control.cluster, control.error, control.state["busy"]) == (None, None, "")
    begun.clear()
    control.launch()  # and another one can be started
    assert begun.wait(SECONDS)


def test_stop_cancels_the_start_of_a_local_cluster(panel: Callable[..., ClusterControl]) -> None:
    control = panel()
    sent = states(control)

    def press(change: dict[str, Any]) -> None:
        if (change["new"]["cluster"] or {}).get("phase") == "starting":
            control.unobserve(press, "state")
            control.stop()

    control.observe(press, "state")
    control.launch()
    assert control.wait(SECONDS)
    assert control.cluster is None
    assert "ready" not in [one["cluster"]["phase"] for one in sent if one["cluster"]]
    assert control.state["cluster"]["reason"] == "start-up was cancelled"


def test_panel_that_closes_cancels_a_start(panel: Callable[..., ClusterControl]) -> None:
    begun = threading.Event()
    control = panel(launch=obedient(begun))
    control.launch()
    assert begun.wait(SECONDS)
    control.close()
    assert control.cluster is None
    assert control.wait(0)


def test_launch_after_close_is_explained_and_starts_nothing(panel: Callable[..., ClusterControl]) -> None:
    control = panel(launch=lambda **_: pytest.fail("started"))
    control.close()
    control.launch()
    assert control.wait(SECONDS)
    assert (control.cluster, control.state["busy"]) == (None, "")
    assert control.state["problem"] == {
        "what": "this panel is closed",
        "hint": "Make a new one with widgets.ClusterControl().",
    }


ENDING = """
import atexit
import threading

from higgsnb import cluster, errors, widgets
from higgsnb.cluster.waiting import call_with_timeout

begun = threading.Event()


class Real:
    state = cluster.ClusterState("local", "ready")

    def close(self):
        begun.set()
        threading.main_thread().join()
        print("closed")


def launch(*, cancel, **options):
    if kind == "stop":
        return Real()
    begun.set()
    cancel.wait(600)
    call_with_timeout(60, lambda: print("removed", flush=True), "removal")  # each step of a removal is one of these
    raise errors.ClusterError("start-up was cancelled", "Start again.")


kind = "KIND"
panel = widgets.ClusterControl(kind="local", launch=launch)
panel.launch()
if kind == "stop":
    panel.wait()
    panel.stop()
begun.wait(600)
atexit.register(print, "end")
"""


@pytest.mark.parametrize(("kind", "expected"), [("start", ["removed", "end"]), ("stop", ["closed", "end"])])
def test_program_that_ends_cancels_a_start_and_finishes_a_stop(kind: str, expected: list[str]) -> None:
    command = [sys.executable, "-c", ENDING.replace("KIND", kind)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert ended.stdout.split() == expected, ended.stderr


@pytest.mark.parametrize(
    ("message", "what"),
    [
        ({"do": "choose", "workers": 0}, "workers = 0; expected a whole number from 1 to 10,000"),
        ({"do": "choose", "workers": None}, "workers = None; expected a whole number"),
        ({"do": "choose", "cores": "2"}, "cores = '2'; expected a whole number"),
        ({"do": "choose", "kind": "cloud"}, "kind = 'cloud'; expected one of auto, local"),
        ({"do": "choose", "memory": "many"}, "many"),
        ({"do": "scale", "workers": -1}, "workers = -1; expected a whole number from 0 to 10,000"),
        ({"do": "adapt", "minimum": 1}, "maximum = None; expected a whole number"),
    ],
)
def test_wrong_entry_is_explained_and_not_taken(
    panel: Callable[..., ClusterControl], message: dict[str, Any], what: str
) -> None:
    control = panel()
    assert control.wait(SECONDS)
    before = control.state["choice"]
    control._handle_custom_msg(message, [])
    assert what in control.state["problem"]["what"]
    assert control.state["choice"] == before


def test_panel_refuses_an_initial_choice_that_is_out_of_range(panel: Callable[..., ClusterControl]) -> None:
    with pytest.raises(OptionError, match="cores = 0; expected a whole number from 1"):
        panel(cores=0)


def test_panel_says_where_it_would_run_and_why(panel: Callable[..., ClusterControl]) -> None:
    control = panel()
    assert control.wait(SECONDS)
    _, why = cluster.choose()
    assert control.state["why"].casefold() == f"{why}.".casefold()
    assert set(KIND_LABELS) == set(cluster.KINDS)


def test_choice_changes_the_estimate(panel: Callable[..., ClusterControl]) -> None:
    control = panel()
    assert dict(control.state["costs"])["cores"] == "1 × 1 = 1"
    control._handle_custom_msg({"do": "choose", "workers": 3, "cores": 2}, [])
    assert dict(control.state["costs"])["cores"] == "3 × 2 = 6"
