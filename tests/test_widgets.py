"""The widgets without a browser: what they send, and that a run or a cluster behind them is never lost."""

from __future__ import annotations

import importlib.util
import itertools
import json
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from http_server import FileServer

from higgsnb import cluster, datasets, engine, plots, selection, widgets
from higgsnb.analysis import Result
from higgsnb.datasets import Campaign, File
from higgsnb.selection import Selection
from higgsnb.widgets import ClusterControl, LiveHistogram, Pace, estimate, spectrum, web_address

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
    monkeypatch.setattr(engine, "SECONDS_BETWEEN_RESULTS", 0.0)
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


def same_counts(one: Result | None, other: Result) -> bool:
    assert one is not None
    return all(np.array_equal(one.counts[name], other.counts[name]) for name in other.counts)


# --- What is drawn ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mass_4l", "mass_z1", "lepton_pt"])
@pytest.mark.parametrize("which", ["whole", "partial"])
def test_spectrum_is_that_of_the_figure(request: pytest.FixtureRequest, which: str, name: str) -> None:
    result = request.getfixturevalue(which)
    figure, drawn = plots._spectrum(result, name), spectrum(result, name)
    assert drawn["edges"] == pytest.approx(figure.edges.tolist())
    assert drawn["data"]["counts"] == figure.data.tolist()
    assert [layer["process"] for layer in drawn["stack"]] == list(figure.predictions) == ["zx", "zz", "higgs"]
    for layer in drawn["stack"]:
        assert layer["heights"] == pytest.approx(figure.predictions[layer["process"]].tolist(), abs=1e-5)
    assert drawn["total"] == pytest.approx(figure.total.tolist(), abs=1e-5)
    assert drawn["error"] == pytest.approx(np.sqrt(figure.variance).tolist(), abs=1e-5)


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


def test_file_that_fails_is_shown_with_its_remedy_and_the_rest_counted(
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
    assert failed["remedy"]
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
    assert view.state["problem"]["remedy"]
    assert isinstance(view.error, engine.FileError)


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
    source = Path(datasets.files.locate(toy.datasets[0].files[0].url).location)
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

    monkeypatch.setattr(widgets, "SECONDS_PER_HEARTBEAT", 0.01)
    monkeypatch.setattr(engine, "run", silent)
    view = live()
    view.observe(lambda change: enough.set() if change["new"] >= 3 else None, "heartbeat")
    view.start()
    assert view.wait(SECONDS)
    assert view.heartbeat >= 3


def test_heartbeat_is_far_quicker_than_any_culling() -> None:
    assert widgets.SECONDS_PER_HEARTBEAT <= 30


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


# --- What is sent to the browser once --------------------------------------------------------------


def static_files() -> list[Path]:
    folder = resources.files("higgsnb") / "static"
    return sorted(Path(str(one)) for one in folder.iterdir() if one.name.endswith((".js", ".css")))


@pytest.mark.parametrize("path", static_files(), ids=lambda path: path.name)
def test_scripts_ask_for_nothing_and_write_no_html(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    addresses = set(re.findall(r"(?:https?:)?//[\w.-]+\.\w+[^\s\"']*", text))
    assert addresses <= {"http://www.w3.org/2000/svg"}  # the name of a format
    assert re.findall(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|Function\(|fetch\(", text) == []
    assert re.findall(r"@import|\bimport\s*\(|^import ", text, re.MULTILINE) == []


# --- What a cluster will take ----------------------------------------------------------------------


def test_estimate_agrees_with_arithmetic(toy: Campaign) -> None:
    campaign = replace(
        toy,
        schema="outreach",
        datasets=(replace(toy.datasets[0], files=(File("x.root", events=72_000_000, bytes=10_000_000_000),)),),
    )
    lines = estimate(
        campaign, kind="kubernetes", workers=4, cores=2, idle_timeout=900, price_core_hour=0.05, price_gb=0.1
    )
    assert dict(lines) == {
        "cores": "4 × 2 = 8",
        "while it is on": "0.40 an hour",
        "if forgotten": "2 core-hours (0.10), as it ends when idle for 15 min",
        "time": "about 4 s for 72,000,000 events",  # 72 M / (2 M a second and core) / 8 cores = 4.5 s
        "work": "0.01 core-hours (below 0.01)",
        "data": "9 GB read",
        "egress": "at most 0.90",
    }


def test_estimate_says_what_it_cannot_know(toy: Campaign) -> None:
    lines = dict(estimate(toy, kind="local", workers=1, cores=1, idle_timeout=60))
    assert lines["if forgotten"] == "it ends with this session"
    assert lines["time"].startswith("not known")
    assert not any("(" in text for text in lines.values())


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


def test_local_cluster_is_launched_used_scaled_and_stopped(panel: Callable[..., ClusterControl]) -> None:
    control = panel()
    sent = states(control)
    control._handle_custom_msg({"do": "launch"}, [])
    assert control.wait(SECONDS)
    assert control.error is None
    assert control.cluster is not None
    with control.cluster.get_client() as client:
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
    assert isinstance(control.error, cluster.ClusterError)
    assert control.state["cluster"]["phase"] == "failed"
    missing = "sbatch" if importlib.util.find_spec("dask_jobqueue") else "dask-jobqueue"
    assert missing in control.state["problem"]["what"] + control.state["problem"]["remedy"]
    assert control.state["problem"]["remedy"]
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
        raise cluster.ClusterError("no room", "Ask for less.")

    control = panel(launch=launch, image="mine")
    control.launch()
    assert begun.wait(SECONDS)  # nothing blocks: this thread goes on while the cluster is being started
    assert control.state["busy"] == "starting the cluster"
    control.launch()
    go_on.set()
    assert control.wait(SECONDS)
    assert len(calls) == 1
    assert {"kind": "local", "workers": 1, "cores": 1, "memory": "500MB", "image": "mine"}.items() <= calls[0].items()
    assert control.state["problem"] == {"what": "no room", "remedy": "Ask for less."}


@pytest.mark.parametrize(
    ("message", "what"),
    [
        ({"do": "choose", "workers": 0}, "workers = 0; expected a whole number from 1"),
        ({"do": "choose", "workers": None}, "workers = None; expected a whole number"),
        ({"do": "choose", "cores": "2"}, "cores = 2; expected a whole number"),
        ({"do": "choose", "kind": "cloud"}, "kind = 'cloud'; expected one of auto, local"),
        ({"do": "choose", "memory": "many"}, "many"),
        ({"do": "scale", "workers": -1}, "workers = -1; expected a whole number from 0"),
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


def test_panel_says_where_it_would_run_and_why(panel: Callable[..., ClusterControl]) -> None:
    control = panel()
    assert control.wait(SECONDS)
    _, why = cluster.choose()
    assert control.state["why"].casefold() == f"{why}.".casefold()
    assert set(widgets.PLACES) == set(cluster.KINDS)


def test_choice_changes_the_estimate(panel: Callable[..., ClusterControl]) -> None:
    control = panel()
    assert dict(control.state["costs"])["cores"] == "1 × 1 = 1"
    control._handle_custom_msg({"do": "choose", "workers": 3, "cores": 2}, [])
    assert dict(control.state["costs"])["cores"] == "3 × 2 = 6"
