"""The widgets' own JavaScript in a real browser, without Jupyter: what is drawn, how fast, and for whom."""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from pages import PAINT, ROWS, Visit, plain

import higgsnb as hn
from higgsnb.results import Result
from higgsnb.widgets import ClusterControl, LiveHistogram
from higgsnb.widgets.live import spectrum

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.browser
EVIL = '<img src=x onerror="window.hacked = 1"><script>window.hacked = 1</script>'
PHONE = {"width": 360, "height": 800}
WIDE = {"width": 1280, "height": 900}


@pytest.fixture(scope="module")
def whole() -> Result:
    *_, result = hn.engine.run(hn.datasets.load("toy"), hn.selection.load("open2012"))
    return result


@pytest.fixture(scope="module")
def partial(whole: Result) -> Result:
    *_, result = hn.engine.run(whole.campaign, whole.selection, fraction=0.5)
    return result


@pytest.fixture
def live(whole: Result) -> LiveHistogram:
    """A live histogram that shows the whole result, as it does at the end of a run."""
    view = LiveHistogram(whole.campaign, whole.selection)
    view.state = {**view.state, **spectrum(whole), "phase": "complete", "rate": 12_345.0}
    return view


@pytest.fixture
def panel() -> ClusterControl:
    """A panel whose cluster is ready, as far as its state says."""
    control = ClusterControl(campaign=hn.datasets.load("cms2012"), price_gb=0.09, price_core_hour=0.05, workers=4)
    assert control.wait(60)
    found = hn.cluster.ClusterState("local", "ready", workers_wanted=4, workers_ready=3).as_dict()
    control.state = {**control.state, "cluster": found, "dashboard": "/user/me/proxy/8787/status"}
    return control


def failure(text: str) -> dict[str, str]:
    return dict.fromkeys(("dataset", "file", "error", "message", "hint"), text)


def fits(page: Page) -> bool:
    """Whether nothing is wider than the window."""
    return bool(page.evaluate("document.documentElement.scrollWidth <= innerWidth"))


def sent(page: Page) -> list[dict[str, Any]]:
    return page.evaluate("window.sent")


def heights(path: str) -> list[float]:
    """The heights at which the tops of an outline lie, from left to right."""
    return [float(one) for one in re.findall(r"V([\d.]+)H", path)]


# --- What is drawn ---------------------------------------------------------------------------------


def test_bars_are_as_high_as_the_numbers_say(visit: Callable[..., Visit], live: LiveHistogram) -> None:
    page = visit(viewport=WIDE).show(live)
    total = heights(page.locator(".hn-total").get_attribute("d"))
    bottom, top = max(total), min(total)
    numbers = live.state["total"]
    scale = (bottom - top) / (max(numbers) - min(numbers))
    assert len(total) == len(numbers) == 37
    for drawn, number in zip(total, numbers, strict=True):
        assert (bottom - drawn) / scale == pytest.approx(number - min(numbers), abs=0.11 / scale)
    dots = page.locator(".hn-dots").get_attribute("d").count("M")
    assert dots == sum(count > 0 for count in live.state["data"]["counts"])


@pytest.mark.parametrize("most", [7.0, 93.0, 512.0, 3400.0, 88_000.0, 1_200_000.0])
@pytest.mark.parametrize("width", [PHONE, WIDE], ids=["phone", "wide"])
def test_numbers_of_the_axis_do_not_touch_its_label(
    visit: Callable[..., Visit], live: LiveHistogram, width: dict[str, int], most: float
) -> None:
    n = len(live.state["total"])
    changes = {"total": [most] * n, "error": [0.0] * n, "stack": [], "data": None}
    page = visit(viewport=width).show(live, **changes)
    label = page.locator(".hn-axis text[transform]").bounding_box()
    numbers = page.locator(".hn-axis text[text-anchor=end]").filter(has_text=re.compile(r"^[\d.]+$"))
    boxes = [numbers.nth(i).bounding_box() for i in range(numbers.count())]
    assert len(boxes) > 2
    baseline = label["x"] + 0.8 * label["width"]  # no letter of it goes below
    assert min(box["x"] for box in boxes) > baseline


def test_picture_grows_with_the_state_and_keeps_its_elements(
    visit: Callable[..., Visit], live: LiveHistogram, partial: Result
) -> None:
    page = visit(viewport=WIDE).show(live, **spectrum(Result(live._campaign, live._selection)), phase="running")
    empty = page.locator(".hn-empty")
    assert empty.text_content() == "no events yet"
    page.evaluate(PAINT, plain(live.state))
    assert empty.text_content() == ""
    page.evaluate("for (const path of document.querySelectorAll('.hn-plot > path')) path.kept = true")
    page.evaluate(PAINT, plain({**live.state, **spectrum(partial), "phase": "running"}))
    assert page.evaluate("[...document.querySelectorAll('.hn-plot > path')].every((path) => path.kept)")


def test_table_has_every_number_of_the_picture(visit: Callable[..., Visit], live: LiveHistogram) -> None:
    page = visit(viewport=WIDE).show(live)
    page.get_by_text("Show as a table").click()
    rows = page.locator(".hn-table tbody tr")
    rows.nth(36).wait_for()  # the table is filled in the browser's own time after it has opened
    assert rows.count() == 37
    for i, count in enumerate(live.state["data"]["counts"]):
        cells = rows.nth(i).locator("th, td").all_inner_texts()
        assert cells[0] == f"{live.state['edges'][i]:g} – {live.state['edges'][i + 1]:g}"
        assert cells[1] == str(count)
        assert cells[-1].startswith(f"{live.state['total'][i]:.2f} ±")


def test_text_of_files_and_clusters_is_never_html(
    visit: Callable[..., Visit], live: LiveHistogram, panel: ClusterControl
) -> None:
    stack = [{**layer, "label": EVIL} for layer in live.state["stack"]]
    texts = dict.fromkeys(("heading", "title", "luminosity", "warning", "words", "percent"), EVIL)
    problem = {"what": EVIL, "hint": EVIL}
    page = visit(viewport=WIDE).show(
        live, **texts, stack=stack, failed=[failure(EVIL)], failed_total=1, problem=problem, phase="failed"
    )
    page.get_by_text("Show as a table").click()
    page.locator(".hn-table tbody tr").first.wait_for()
    assert EVIL in page.locator(".hn-failures").inner_text()
    assert EVIL in page.locator(".hn-table").inner_text()
    assert page.evaluate("[window.hacked, document.querySelectorAll('.hn :is(img, script)').length]") == [None, 0]
    cluster = {**panel.state["cluster"], "reason": EVIL, "hint": EVIL, "phase": "failed", "kind": EVIL}
    changes = {"problem": problem, "why": EVIL, "logs": {EVIL: EVIL}, "costs": [[EVIL, EVIL]]}
    page = visit(viewport=WIDE).show(panel, cluster=cluster, **changes)
    assert page.locator(".hn").inner_text().count(EVIL) >= 6
    assert page.evaluate("[window.hacked, document.querySelectorAll('.hn :is(img, script)').length]") == [None, 0]


# --- For whom --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("phase", "resumable", "names", "does"),
    [
        ("ready", True, ["Start", "(Stop)"], "start"),
        ("starting", True, ["(Start)", "Stop"], "stop"),
        ("running", True, ["(Start)", "Stop"], "stop"),
        ("stopping", True, ["(Start)", "(Stop)"], None),
        ("stopped", True, ["Resume", "(Stop)"], "start"),
        ("stopped", False, ["Start again", "(Stop)"], "start"),
        ("incomplete", True, ["Try again", "(Stop)"], "start"),
        ("lost", True, ["Resume", "(Stop)"], "start"),
        ("lost", False, ["Start again", "(Stop)"], "start"),
        ("failed", True, ["Try again", "(Stop)"], "start"),
        ("complete", True, ["Run again", "(Stop)"], "start"),
    ],
)
def test_buttons_offer_what_can_be_done(
    visit: Callable[..., Visit], live: LiveHistogram, phase: str, resumable: bool, names: list[str], does: str | None
) -> None:
    page = visit(viewport=WIDE).show(live, phase=phase, resumable=resumable)
    buttons = page.locator(".hn-controls button")
    found = []
    for i in range(2):
        usable = buttons.nth(i).get_attribute("aria-disabled") is None
        found.append(buttons.nth(i).inner_text() if usable else f"({buttons.nth(i).inner_text()})")
        buttons.nth(i).click(force=True)
    assert found == names
    assert sent(page) == ([] if does is None else [{"do": does}])


def test_keyboard_reaches_everything_and_the_focus_is_visible(visit: Callable[..., Visit], live: LiveHistogram) -> None:
    page = visit(viewport=WIDE).show(live, phase="running")
    reached = []
    for _ in range(3):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.textContent"))
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
        assert page.evaluate("getComputedStyle(document.activeElement).outlineWidth") == "3px"
    assert reached == ["Start", "Stop", "Show as a table"]
    page.keyboard.press("Enter")
    page.locator(".hn-table[open] tbody tr").first.wait_for()


def test_button_that_becomes_useless_keeps_the_focus(visit: Callable[..., Visit], live: LiveHistogram) -> None:
    page = visit(viewport=WIDE).show(live, phase="running")
    page.locator("button", has_text="Stop").focus()
    page.evaluate(PAINT, plain({**live.state, "phase": "stopped"}))
    assert page.evaluate("document.activeElement.textContent") == "Stop"


def test_screen_reader_hears_phases_and_quarters_only(visit: Callable[..., Visit], live: LiveHistogram) -> None:
    page = visit(viewport=WIDE).show(live, phase="running")
    status = page.locator("[role=status]")
    heard = []
    for done in range(0, 101, 5):
        coverage = {**live.state["coverage"], "events": [done, 100]}
        page.evaluate(PAINT, plain({**live.state, "phase": "running", "coverage": coverage, "words": f"{done} %"}))
        heard.append(status.inner_text())
    assert list(dict.fromkeys(heard)) == ["0 %", "25 %", "50 %", "75 %", "100 %"]
    assert page.locator("svg[role=img]").get_attribute("aria-label") == "100 %"
    assert page.locator("[role=progressbar]").get_attribute("aria-valuenow") == "100"


def test_everything_has_a_name_for_screen_readers(
    visit: Callable[..., Visit], live: LiveHistogram, panel: ClusterControl
) -> None:
    for widget in (live, panel):
        page = visit(viewport=WIDE).show(widget)
        nameless = """[...document.querySelectorAll(".hn :is(input, select, button, a, svg, [role=progressbar])")]
            .filter((e) => !(e.ariaLabel || e.labels?.length || e.textContent.trim())).map((e) => e.outerHTML)"""
        assert page.evaluate(nameless) == []


def test_nothing_is_marked_busy_as_some_screen_readers_hide_that_with_its_buttons(
    visit: Callable[..., Visit], live: LiveHistogram, panel: ClusterControl
) -> None:
    starting = {**panel.state["cluster"], "phase": "starting"}
    for widget, changes in ((live, {"phase": "running"}), (panel, {"busy": "starting", "cluster": starting})):
        page = visit(viewport=WIDE).show(widget, **changes)
        assert page.get_by_role("button", name="Stop").is_visible()
        assert page.locator("[aria-busy=true]").count() == 0


def contrast(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    """The contrast of two colours, 1 to 21, as WCAG 2.2 defines it."""

    def luminance(colour: tuple[float, ...]) -> float:
        parts = [part / 255 for part in colour]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_can_be_read_in_both_themes(
    visit: Callable[..., Visit], live: LiveHistogram, artefacts: Path, theme: str
) -> None:
    page = visit(viewport=WIDE).show(live, theme=theme, phase="running", warning="PARTIAL: 37 %")
    page.screenshot(path=artefacts / f"{theme}.png")
    read = "(name) => getComputedStyle(document.querySelector('.hn'))[name]"
    text, back = page.evaluate(read, "color"), page.evaluate(read, "backgroundColor")
    colours = [[float(part) for part in re.findall(r"[\d.]+", one)] for one in (text, back)]
    opacity = colours[0][3] if len(colours[0]) > 3 else 1.0
    mixed = tuple(opacity * a + (1 - opacity) * b for a, b in zip(colours[0][:3], colours[1][:3], strict=True))
    assert contrast(mixed, tuple(colours[1][:3])) >= 7
    assert contrast((0x8A, 0x1C, 0x00), (0xFB, 0xE3, 0xD6)) >= 7  # the warning, the same in both


@pytest.mark.parametrize("size", [PHONE, {"width": 320, "height": 600}], ids=["360", "320"])
def test_nothing_overflows_on_a_phone(
    visit: Callable[..., Visit], live: LiveHistogram, panel: ClusterControl, artefacts: Path, size: dict[str, int]
) -> None:
    long = "root://eospublic.cern.ch//eos/opendata/cms/derived-data/Run2012B_DoubleMuParked.root"
    page = visit(viewport=size).show(live, failed=[failure(long)], failed_total=1, phase="running", seconds_left=7.0)
    page.get_by_text("Show as a table").click()
    assert fits(page)
    assert page.evaluate("parseFloat(getComputedStyle(document.querySelector('svg')).fontSize)") >= 14
    page.screenshot(path=artefacts / f"phone_{size['width']}.png", full_page=True)
    page = visit(viewport=size).show(panel, logs={"scheduler": long * 3})
    assert fits(page)
    page.screenshot(path=artefacts / f"phone_{size['width']}_cluster.png", full_page=True)


def test_letters_are_legible_on_a_projector(visit: Callable[..., Visit], live: LiveHistogram, artefacts: Path) -> None:
    page = visit(viewport=WIDE).show(live)
    sizes = """[...document.querySelectorAll(".hn :is(text, p, li, button, strong)")]
        .map((element) => parseFloat(getComputedStyle(element).fontSize))"""
    assert min(page.evaluate(sizes)) >= 17
    page.screenshot(path=artefacts / "stage.png")


def test_print_is_dark_on_white_without_buttons(
    visit: Callable[..., Visit], live: LiveHistogram, artefacts: Path
) -> None:
    page = visit(viewport=WIDE).show(live, theme="dark")
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.querySelector('.hn')).color") == "rgb(0, 0, 0)"
    assert page.locator(".hn-controls").is_hidden()
    assert page.locator("svg").is_visible()
    page.pdf(path=artefacts / "print.pdf", print_background=False)
    page.screenshot(path=artefacts / "print.png")


# --- How fast --------------------------------------------------------------------------------------


def test_every_update_is_drawn_and_its_time_kept(
    visit: Callable[..., Visit], live: LiveHistogram, artefacts: Path
) -> None:
    window = visit(viewport=WIDE)
    page = window.show(live, phase="running")
    state = plain(live.state)
    painted, scripted = [], []
    for n in range(30):
        state["data"]["counts"] = [count + n for count in state["data"]["counts"]]
        painted.append(page.evaluate(PAINT, state))
        scripted.append(float(page.locator(".hn").get_attribute("data-milliseconds")))
    medians = {"paint_ms": statistics.median(painted), "script_ms": statistics.median(scripted)}
    (artefacts / "paint.json").write_text(json.dumps(medians), encoding="utf-8")
    assert int(page.locator(".hn").get_attribute("data-updates")) >= 31
    assert window.errors == []


def test_burst_of_states_is_drawn_once_and_ends_with_the_newest(
    visit: Callable[..., Visit], live: LiveHistogram
) -> None:
    page = visit(viewport=WIDE).show(live, phase="running")
    before = int(page.locator(".hn").get_attribute("data-updates"))
    burst = """(state) => { for (let n = 1; n <= 500; n += 1) window.update({ ...state, percent: `${n}` });
        return new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done))); }"""
    page.evaluate(burst, plain({**live.state, "phase": "running"}))
    assert int(page.locator(".hn").get_attribute("data-updates")) - before <= 2
    assert page.locator(".hn-numbers span").first.inner_text() == "500"


# --- The panel of the cluster ----------------------------------------------------------------------


def test_panel_sends_what_was_chosen(visit: Callable[..., Visit], panel: ClusterControl, artefacts: Path) -> None:
    page = visit(viewport=WIDE).show(panel, cluster=None, dashboard="")
    page.get_by_label("Where").select_option("kubernetes")
    page.get_by_label("Workers", exact=True).fill("20")
    page.get_by_label("Memory per worker").fill("4GiB")
    page.get_by_role("button", name="Launch").click()
    assert sent(page)[-2:] == [
        {"do": "choose", "kind": "kubernetes", "workers": 20, "cores": 1, "memory": "4GiB"},
        {"do": "launch"},
    ]
    assert page.get_by_role("link").count() == 0
    page.screenshot(path=artefacts / "cluster_choice.png")


LAB = """
.jp-OutputArea-output dl, .jp-OutputArea-output dt, .jp-OutputArea-output dd { display: block; }
.jp-OutputArea-output dl { width: 100%; overflow: hidden; padding: 0; margin: 0; }
.jp-OutputArea-output dt { font-weight: bold; float: left; width: 20%; padding: 0; margin: 0; }
.jp-OutputArea-output dd { float: left; width: 80%; padding: 0; margin: 0; }
"""
"""What JupyterLab 4.5 and 4.6 say of lists of definitions in outputs."""


def test_costs_stand_in_two_columns_also_where_jupyterlabs_styles_come_last(
    visit: Callable[..., Visit], panel: ClusterControl
) -> None:
    page = visit(viewport=WIDE).show(panel)
    alone = page.locator(".hn-costs").evaluate(ROWS)
    page.evaluate("document.querySelector('.hn-frame').classList.add('jp-OutputArea-output')")
    page.add_style_tag(content=LAB)
    assert page.locator(".hn-costs").evaluate(ROWS) == alone
    assert len({(left, right) for left, right, _, _ in alone}) == 1
    assert all(level and apart for _, _, level, apart in alone)
    assert page.locator(".hn-costs dt").first.evaluate("(term) => getComputedStyle(term).fontWeight") == "400"


def test_panel_scales_adapts_only_when_asked_and_links_the_dashboard(
    visit: Callable[..., Visit], panel: ClusterControl, artefacts: Path
) -> None:
    page = visit(viewport=WIDE).show(panel)
    page.get_by_label("Number of workers").fill("7")
    page.get_by_role("button", name="Apply").click()
    page.get_by_label("scale automatically").check()
    page.get_by_label("Minimum").fill("0")
    page.get_by_label("Maximum").fill("9")
    page.get_by_role("button", name="Apply").click()
    page.get_by_role("button", name="Logs").click()
    page.get_by_role("button", name="Stop").click()
    adapt = {"do": "adapt", "minimum": 0, "maximum": 9}
    assert sent(page) == [{"do": "scale", "workers": 7}, adapt, {"do": "logs"}, {"do": "stop"}]
    assert page.get_by_role("link", name="Dashboard").get_attribute("href") == "/user/me/proxy/8787/status"
    assert page.locator("[aria-current=step]").inner_text() == "ready"
    page.screenshot(path=artefacts / "cluster_ready.png")


def test_scale_begins_with_what_a_new_cluster_has_and_is_not_written_over(
    visit: Callable[..., Visit], panel: ClusterControl
) -> None:
    page = visit(viewport=WIDE).show(panel)

    def tell(**changes: Any) -> None:
        page.evaluate("(next) => window.update(next)", plain({**panel.state, "cluster": {**ready, **changes}}))

    ready, field = panel.state["cluster"], page.get_by_label("Number of workers")
    field.fill("")
    tell(workers_ready=4)
    page.keyboard.type("10")
    page.get_by_role("button", name="Apply").click()
    assert sent(page) == [{"do": "scale", "workers": 10}]
    page.get_by_label("scale automatically").check()
    tell(phase="closed")
    tell(workers_wanted=2)
    assert (field.is_visible(), field.input_value()) == (True, "2")


def test_start_of_a_cluster_can_be_cancelled(visit: Callable[..., Visit], panel: ClusterControl) -> None:
    before = {**panel.state["cluster"], "phase": "failed"}
    for cluster in (None, before, {**before, "phase": "starting"}):
        page = visit(viewport=WIDE).show(panel, cluster=cluster, busy="starting the cluster", dashboard="")
        page.get_by_role("button", name="Launch").click(force=True)
        page.get_by_role("button", name="Stop").click()
        assert sent(page) == [{"do": "stop"}]


def test_failure_of_a_cluster_is_shown_once_with_its_hint(
    visit: Callable[..., Visit], panel: ClusterControl, artefacts: Path
) -> None:
    problem = {"what": "the quota of the namespace is used up", "hint": "Ask for fewer workers."}
    cluster = {**panel.state["cluster"], "phase": "failed", "reason": problem["what"], "hint": problem["hint"]}
    page = visit(viewport=WIDE).show(panel, cluster=cluster, problem=problem, dashboard="")
    text = page.locator(".hn").inner_text()
    assert [text.count(problem["what"]), text.count(problem["hint"])] == [1, 1]
    assert page.locator("[role=alert]").is_visible()
    assert page.locator("a").is_hidden()
    assert page.locator("[aria-current=step]").inner_text() == "failed"
    page.get_by_role("button", name="Launch").click()
    assert sent(page) == [{"do": "launch"}]
    page.screenshot(path=artefacts / "cluster_failed.png")
