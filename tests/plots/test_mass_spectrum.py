"""The figure of a result: heights, intervals, legend, and nothing that overlaps."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import made_results
import numpy as np
import pytest
from filling import BINNING
from made_results import a_result, panel_of, texts
from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.patches import StepPatch
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from higgsnb import datasets, plots, selection, statistics
from higgsnb.results import Result

CASES = {
    "complete": {},
    "partial": {"share": 0.37, "failed": 2},
    "barely begun": {"share": 0.01},
    "simulated": {"name": "toy", "simulated": True},
    "data only": {"processes": "data"},
    "simulation only": {"processes": "higgs zz zx"},
    "other process": {"processes": "higgs zz zx tth data"},
    "sample missing": {"share": 0.5, "left_out": "ZZTo4mu"},
    "empty": {"share": 0.0},
    "long title": {"title": "HIGGS BOSON TO FOUR LEPTONS, RUNS 2012B AND 2012C, MUON AND ELECTRON PRIMARY DATASETS"},
    "everything": {"share": 0.37, "failed": 2, "left_out": "ZZTo4mu", "name": "toy", "simulated": True},
}


def steps(figure: Figure) -> dict[str, np.ndarray]:
    """The heights of each layer of the stack, read back from what is drawn."""
    patches = [patch for patch in panel_of(figure).patches if isinstance(patch, StepPatch) and patch.get_fill()]
    layers = [patch for patch in patches if patch.get_label()]
    return {p.get_label(): p.get_data().values - p.get_data().baseline for p in layers}


@pytest.mark.parametrize("name", [axis.name for axis in BINNING.axes])
def test_drawn_heights_are_counts_times_weights(name: str) -> None:
    result = a_result("higgs zz zx tth data", share=0.37)
    expected: dict[str, np.ndarray] = {}
    for dataset, channel in itertools.product(result.campaign.datasets, ("4mu", "4e", "2e2mu")):
        counts = result.histograms[name][dataset.name, channel, :].values()
        weighted = counts * result.weights[dataset.name][channel]
        expected[dataset.process] = expected.get(dataset.process, 0) + weighted
    figure = plots.mass_4l(result, histogram=name)
    data = expected.pop("data")
    drawn = steps(figure)
    assert list(drawn) == ["tth", "zx", "zz", "higgs"]
    for process, heights in expected.items():
        np.testing.assert_allclose(drawn[process], heights, rtol=1e-12, atol=1e-9)
    (points,) = (c for c in panel_of(figure).containers if isinstance(c, ErrorbarContainer))
    assert points[0].get_ydata().tolist() == data[data > 0].tolist()


def test_layers_stand_on_each_other_and_the_band_is_the_error_of_the_sum() -> None:
    result = a_result()
    figure = plots.mass_4l(result)
    filled = [p for p in panel_of(figure).patches if isinstance(p, StepPatch) and p.get_fill()]
    *stack, band = filled
    for below, above in itertools.pairwise(stack):
        np.testing.assert_array_equal(above.get_data().baseline, below.get_data().values)
    variance = sum(
        result.histograms["mass_4l"][d.name, c, :].values() * result.weights[d.name][c] ** 2
        for d in result.campaign.datasets if not d.is_data for c in ("4mu", "4e", "2e2mu")
    )  # fmt: skip
    values, _, baseline = band.get_data()
    np.testing.assert_allclose((values - baseline) / 2, np.sqrt(variance), rtol=1e-9)
    np.testing.assert_allclose((values + baseline) / 2, stack[-1].get_data().values, rtol=1e-9)


def test_error_bars_are_garwood_intervals_and_empty_bins_have_none() -> None:
    result = a_result("data")
    counts = result.histograms["mass_4l"][sum, sum, :].values()
    figure = plots.mass_4l(result)
    (points,) = panel_of(figure).containers
    segments = np.array(points[2][0].get_segments())
    low, high = statistics.garwood(counts[counts > 0])
    assert (counts == 0).any()
    np.testing.assert_allclose(segments[:, :, 1], np.stack([low, high], axis=1))


def test_legend_gives_the_events_of_the_range_that_is_drawn() -> None:
    result = a_result()
    figure = plots.mass_4l(result)
    legend = [text.get_text() for text in panel_of(figure).get_legend().get_texts()]
    data = sum(result.windows["70-181"]["data"][c].events for c in ("4mu", "4e", "2e2mu"))
    expected = [
        sum(result.windows["70-181"][p][c].expected for c in ("4mu", "4e", "2e2mu")) for p in ("higgs", "zz", "zx")
    ]
    numbers = [float(text.rsplit("(", 1)[1].rstrip(")")) for text in legend[:4]]
    assert numbers == pytest.approx([data, *expected], abs=0.051)


def test_lower_panel_needs_data_and_prediction() -> None:
    assert len(plots.mass_4l(a_result()).axes) == 2
    assert len(plots.mass_4l(a_result("data")).axes) == 1
    assert len(plots.mass_4l(a_result("higgs zz")).axes) == 1


def test_given_axes_are_drawn_into() -> None:
    figure = Figure(figsize=(8, 3))
    left, right = figure.subplots(1, 2)
    assert plots.mass_4l(a_result(), ax=right) is figure
    assert figure.axes == [left, right]
    assert right.patches
    assert not left.patches


def test_prediction_without_a_process_lacks_just_that_and_the_figure_says_so() -> None:
    result = a_result()
    whole, less = (plots.mass_4l(result, without=process) for process in (None, "higgs"))
    assert list(steps(less)) == ["zx", "zz"]
    for process, heights in steps(less).items():
        np.testing.assert_array_equal(heights, steps(whole)[process])
    assert "prediction without H → ZZ* → 4ℓ" in texts(less)
    assert "prediction without" not in texts(whole)
    higgs = result.spectrum().combined().stack["higgs"].sum()
    assert f"H → ZZ* → 4ℓ {higgs:.3g}" in whole.alt
    assert ", without H → ZZ* → 4ℓ" in less.alt


def test_excess_is_seen_in_the_lower_panel_of_a_prediction_without_the_signal() -> None:
    result = a_result("higgs zz zx data")
    spectrum = result.spectrum().combined()
    background = spectrum.total - spectrum.stack["higgs"]
    variance = spectrum.variance - spectrum.variances["higgs"]
    (drawn,) = (p for p in plots.mass_4l(result, without="higgs").axes[1].patches if isinstance(p, StepPatch))
    expected = statistics.deviation(spectrum.data, background, variance)
    np.testing.assert_allclose(drawn.get_data().values, np.nan_to_num(expected), rtol=1e-9, atol=1e-9)


def test_process_to_leave_out_has_to_be_one_of_the_simulated_ones() -> None:
    for wrong in ("Higgs", "data"):
        with pytest.raises(KeyError, match=f"no simulated process '{wrong}'; known: higgs, zz, zx"):
            plots.mass_4l(a_result(), without=wrong)
    without_simulation = plots.mass_4l(a_result("data"), without="higgs")  # nothing to leave out
    assert "prediction" not in texts(without_simulation)


@pytest.mark.parametrize("processes", ["higgs zz zx data", "data", "higgs zz", "higgs zz zx tth data"])
def test_text_alternative_has_the_numbers_of_the_figure(processes: str) -> None:
    result = a_result(processes, share=0.37)
    spectrum = result.spectrum().combined()
    alt = plots.mass_4l(result).alt
    assert alt.startswith("CMS Open Data")
    assert plots.coverage_text(result) in alt
    if spectrum.data is not None:
        assert f"ata {spectrum.data.sum()} events, at most {spectrum.data.max()} in a bin" in alt
    for process, heights in spectrum.stack.items():
        assert f"{plots.LABELS.get(process, process)} {heights.sum():.3g}" in alt


def test_legends_of_all_figures_have_one_order(toy: datasets.Campaign) -> None:
    spectrum = [text.get_text() for text in panel_of(plots.mass_4l(a_result())).get_legend().get_texts()]
    cut = plots.plot_n_minus_one(plots.n_minus_one(toy, selection.load("open2012"), "sip"))
    labels = [text.get_text() for text in panel_of(cut).get_legend().get_texts()]
    processes = [plots.LABELS[name] for name in ("higgs", "zz", "zx")]
    assert [text.split("  ")[0] for text in spectrum[1:4]] == labels[1:] == processes
    assert spectrum[0].lower().startswith(labels[0])


def test_unknown_histogram_error_names_those_there_are() -> None:
    with pytest.raises(KeyError, match=r"no histogram 'mass_4L'.*mass_4l, .*mass_z1"):
        plots.mass_4l(a_result(), histogram="mass_4L")


def visible_texts(figure: Figure) -> Iterator[tuple[str, Bbox]]:
    """Every text that is drawn, with the pixels it covers; of tick labels those within the limits."""
    for axes in figure.axes:
        found: list[Text] = [*axes.texts, axes.xaxis.label, axes.yaxis.label]
        legend = axes.get_legend()
        found += legend.get_texts() if legend else []
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            labels = zip(axis.get_majorticklocs(), axis.get_majorticklabels(), strict=False)
            found += [label for place, label in labels if low <= place <= high and label.get_visible()]
        for text in found:
            box = text.get_window_extent()
            if text.get_text() and box.width and text.get_visible():
                yield text.get_text(), box


def cut_into(box: Bbox, other: Bbox) -> bool:
    shared = Bbox.intersection(box, other)
    return shared is not None and shared.width > 1 and shared.height > 1


def figure_of(result: Result, size: tuple[float, float] | None) -> Figure:
    if size is None:
        return plots.mass_4l(result)
    figure = Figure(figsize=size)
    figure.subplots_adjust(left=0.16, right=0.95, bottom=0.18, top=0.9)
    return plots.mass_4l(result, ax=figure.subplots())


@pytest.fixture(scope="module", params=CASES)
def drawn(request: pytest.FixtureRequest) -> list[Figure]:
    """One result drawn as a figure of its own, and into small and large axes."""
    result = a_result(**CASES[request.param])
    figures = [figure_of(result, size) for size in (None, (4.0, 3.2), (12.0, 7.0))]
    for figure in figures:
        figure.draw_without_rendering()
    return figures


def test_no_text_overlaps_another_or_leaves_the_figure(drawn: list[Figure]) -> None:
    for figure in drawn:
        found = list(visible_texts(figure))
        assert len(found) > 5
        for (text, box), (other, second) in itertools.combinations(found, 2):
            assert not cut_into(box, second), f"{text!r} overlaps {other!r} at {figure.get_size_inches()}"
        for text, box in found:
            inside = figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1
            assert inside, f"{text!r} leaves the figure"


def drawn_boxes(axes: Axes) -> Iterator[Bbox]:
    """What the spectrum covers, in pixels: each error bar, and each bin up to the top of its band."""
    corner = axes.transData.transform
    for container in axes.containers:
        if isinstance(container, ErrorbarContainer):
            for segment in container[2][0].get_segments():
                (x, low), (_, high) = corner(segment)
                yield Bbox([[x - 1, low], [x + 1, high]])
    for patch in axes.patches:
        if isinstance(patch, StepPatch):
            values, edges, _ = patch.get_data()
            for value, left, right in zip(values, edges[:-1], edges[1:], strict=True):
                yield Bbox([corner((left, 0)), corner((right, value))])


def test_legend_and_notes_hide_no_part_of_the_spectrum(drawn: list[Figure]) -> None:
    for figure in drawn:
        axes = panel_of(figure)
        inside = [text for text in axes.texts if cut_into(text.get_window_extent(), axes.bbox)]
        covers = [text.get_window_extent() for text in inside] + [axes.get_legend().get_window_extent()]
        for box, cover in itertools.product(drawn_boxes(axes), covers):
            assert not cut_into(box, cover)
        assert all(box.y1 <= axes.bbox.y1 for box in drawn_boxes(axes))


def test_saved_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        folder.mkdir()
        plots.save(plots.mass_4l(a_result(share=0.37)), folder)
    for name in ("mass_4l.png", "mass_4l.svg"):
        assert (first / name).read_bytes() == (second / name).read_bytes()
    assert sorted(path.name for path in first.iterdir()) == ["mass_4l.png", "mass_4l.svg"]


@pytest.fixture
def sample(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Gives the Higgs sample another process, and returns its name."""

    def rename(process: str) -> str:
        (higgs,) = made_results.SAMPLES["higgs"]
        monkeypatch.setitem(made_results.SAMPLES, process, (replace(higgs, process=process),))
        monkeypatch.setitem(made_results.SELECTED, process, 300)
        return process

    return rename


@pytest.mark.parametrize("text", ["costs_5$_or_6$_$", "$x^^2$", r"\$5_and_$\frac$", "$$", "a_$b$"])
def test_dollar_sign_in_a_title_or_name_is_no_mathematics(
    text: str, tmp_path: Path, sample: Callable[[str], str]
) -> None:
    plots.save(plots.mass_4l(a_result(f"{sample(text)} data", share=0.5, title=text)), tmp_path)
    drawn = (tmp_path / "mass_4l.svg").read_text(encoding="utf-8")
    assert f">{text}</text>" in drawn or f">{text}</tspan>" in drawn
    assert f">{text}  (" in drawn
