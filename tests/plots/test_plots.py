"""The figure says what the result says: heights, intervals, coverage, whether collisions are simulated."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
from hist.intervals import poisson_interval
from IPython.core.formatters import DisplayFormatter
from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.patches import StepPatch
from matplotlib.text import Text
from matplotlib.transforms import Bbox
from scipy import integrate, stats

from higgsnb import plots, selection
from higgsnb.datasets import Campaign, Dataset, File
from higgsnb.plots import spectrum
from higgsnb.results import Result, Tally, histograms
from higgsnb.results.result import Failure

EVENTS = 100_000  # in each file
SAMPLES = {
    "higgs": (Dataset("SMHiggsToZZTo4L", "higgs", cross_section_pb=0.0012),),
    "zz": (
        Dataset("ZZTo4mu", "zz", cross_section_pb=0.004, scale=1.386),
        Dataset("ZZTo2e2mu", "zz", cross_section_pb=0.003, scale=1.386),
    ),
    "zx": (Dataset("ReducibleZX", "zx", cross_section_pb=0.003),),
    "tth": (Dataset("TTH", "tth", cross_section_pb=0.001),),
    "data": (Dataset("DoubleMu", "data", "DoubleMu"), Dataset("DoubleElectron", "data", "DoubleElectron")),
}
SELECTED = {"higgs": 300, "zz": 900, "zx": 120, "tth": 40, "data": 60}  # candidates per sample, when complete


def a_campaign(processes: str, **changes: Any) -> Campaign:
    samples = [sample for process in processes.split() for sample in SAMPLES[process]]
    datasets = [replace(sample, files=(File(f"{sample.name}.root", events=EVENTS),)) for sample in samples]
    campaign = Campaign(
        name="cms2012",
        title="Four leptons in 2012 data",
        schema="outreach",
        luminosity_fb=11.58,
        luminosity_uncertainty=0.026,
        energy_tev=8.0,
        selection="open2012",
        datasets=tuple(datasets),
    )
    return replace(campaign, **changes)


def some_masses(process: str, number: int, random: np.random.Generator) -> np.ndarray:
    if process == "higgs":
        return random.normal(125, 2.0, number)
    peak = random.normal(91, 2.5, number)
    return np.where(random.random(number) < 0.3, peak, 60 + 160 * random.beta(2, 2, number))


def some_counts(process: str, share: float, seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    number = round(SELECTED[process] * share)
    leptons = random.uniform(8, 60, (number, 4)).astype(np.float32)
    return histograms.fill(
        histograms.Variables(
            channel=random.integers(0, 3, number).astype(np.int8),
            mass_4l=some_masses(process, number, random),
            mass_z1=random.normal(91, 3, number),
            mass_z2=random.uniform(12, 60, number),
            lepton_pt=leptons,
            lepton_eta=leptons / 60,
        )
    )


def a_result(
    processes: str = "higgs zz zx data",
    *,
    share: float = 1.0,
    failed: int = 0,
    left_out: str = "",
    **changes: Any,
) -> Result:
    """A real result without its files: a share of every sample but one (`left_out`) has been counted."""
    campaign = a_campaign(processes, **changes)
    read = [index for index, dataset in enumerate(campaign.datasets) if dataset.name != left_out and share]
    tally = Tally(
        ranges={(index, 0): ((0, round(EVENTS * share)),) for index in read},
        counts={index: some_counts(campaign.datasets[index].process, share, index) for index in read},
    )
    failures = {(index, 0): Failure("any", "any.root", "OSError", "gone", "Fetch it again.") for index in range(failed)}
    return Result(campaign, selection.load("open2012"), tally, {}, failures)


def panel_of(figure: Figure) -> Axes:
    return figure.axes[0]


def steps(figure: Figure) -> dict[str, np.ndarray]:
    """The heights of each layer of the stack, read back from what is drawn."""
    patches = [patch for patch in panel_of(figure).patches if isinstance(patch, StepPatch) and patch.get_fill()]
    layers = [patch for patch in patches if patch.get_label()]
    return {p.get_label(): p.get_data().values - p.get_data().baseline for p in layers}


def texts(figure: Figure) -> str:
    return "\n".join(text.get_text() for text in figure.findobj(Text))


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


# --- Intervals and deviations ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "low", "high"),
    [
        (0, 0.0, 1.841),
        (1, 0.173, 3.300),
        (2, 0.708, 4.638),
        (3, 1.367, 5.918),
        (5, 2.840, 8.382),
        (10, 6.891, 14.267),
    ],
)
def test_garwood_interval_agrees_with_the_published_table(count: int, low: float, high: float) -> None:
    # PDG, statistics review; Cousins, Hymes and Tucker, NIM A 612 (2010) 388: central 68.27 % intervals.
    assert spectrum.garwood(count) == pytest.approx((low, high), abs=1.5e-3)


def test_garwood_interval_is_that_of_hist_to_the_last_bit() -> None:
    counts = np.arange(1001)
    np.testing.assert_array_equal(spectrum.garwood(counts), poisson_interval(counts, coverage=0.6827))


def test_garwood_limits_leave_the_same_probability_on_either_side() -> None:
    counts = np.arange(1, 200)
    low, high = spectrum.garwood(counts, level=0.95)
    np.testing.assert_allclose(stats.poisson.sf(counts - 1, low), 0.025)
    np.testing.assert_allclose(stats.poisson.cdf(counts, high), 0.025)


def test_deviation_of_an_exact_expectation_is_the_poisson_probability() -> None:
    assert spectrum.deviation([0], [3.0], [0.0])[0] == pytest.approx(stats.norm.ppf(math.exp(-3)))
    assert spectrum.deviation([7], [2.0], [0.0])[0] == pytest.approx(stats.norm.isf(stats.poisson.sf(6, 2.0)))
    assert spectrum.deviation([7], [2.0], [1e-7])[0] == pytest.approx(
        stats.norm.isf(stats.poisson.sf(6, 2.0)), rel=1e-5
    )


@pytest.mark.parametrize(("count", "mean", "error"), [(12, 5.0, 1.5), (1, 6.0, 2.0), (3, 0.4, 0.3)])
def test_deviation_averages_over_the_uncertain_expectation(count: int, mean: float, error: float) -> None:
    prior = stats.gamma(a=(mean / error) ** 2, scale=error**2 / mean)
    tail = stats.poisson.sf if count > mean else stats.poisson.cdf
    edge = count - 1 if count > mean else count
    probability, _ = integrate.quad(lambda m: tail(edge, m) * prior.pdf(m), 0, mean + 40 * error, limit=200)
    expected = math.copysign(stats.norm.isf(probability), count - mean)
    assert spectrum.deviation([count], [mean], [error**2])[0] == pytest.approx(expected, rel=1e-6)


def test_deviation_is_zero_at_the_expectation_and_unknown_without_one() -> None:
    assert spectrum.deviation([5, 0], [5.0, 0.05], [0.0, 0.0]) == pytest.approx([0.0, 0.0])
    assert np.isnan(spectrum.deviation([2], [0.0], [0.0])).all()
    assert np.isfinite(spectrum.deviation([10_000], [0.1], [0.0])).all()


# --- What is drawn --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [axis.name for axis in histograms.AXES])
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
    low, high = spectrum.garwood(counts[counts > 0])
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


def test_axes_carry_units_and_bin_width() -> None:
    figure = plots.mass_4l(a_result())
    assert panel_of(figure).get_ylabel() == "Events / 3 GeV"
    assert figure.axes[1].get_xlabel() == r"$m_{4\ell}$ [GeV]"
    leptons = plots.mass_4l(a_result(), histogram="lepton_pt")
    assert panel_of(leptons).get_ylabel() == "Leptons / 5 GeV"
    assert leptons.axes[1].get_xlabel() == "lepton transverse momentum [GeV]"


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


def test_unknown_histogram_error_names_those_there_are() -> None:
    with pytest.raises(KeyError, match=r"no histogram 'mass_4L'.*mass_4l, .*mass_z1"):
        plots.mass_4l(a_result(), histogram="mass_4L")


# --- What must be said ----------------------------------------------------------------------------


def svg_of(result: Result, folder: Path) -> str:
    return plots.save(plots.mass_4l(result), folder)[1].read_text()


@pytest.mark.parametrize("share", [0.0, 0.0001, 0.37, 0.9999, 1.0])
def test_partial_result_says_so_and_complete_one_does_not(share: float, tmp_path: Path) -> None:
    svg = svg_of(a_result(share=share), tmp_path)
    assert ("PARTIAL" in svg) == (share < 1)
    assert "100 %" not in svg


def test_partial_result_gives_its_share_and_the_failed_files(tmp_path: Path) -> None:
    svg = svg_of(a_result(share=0.37, failed=2), tmp_path)
    assert "PARTIAL: 37 % of events, 4.28 of 11.6 fb" in svg
    assert "2 files failed" in svg
    assert ">4.28 fb" in svg  # the heading, too, gives the luminosity that was processed


@pytest.mark.parametrize(("share", "words"), [(0.9999, "&gt; 99.9 % of events"), (0.00002, "&lt; 0.1 % of events")])
def test_coverage_is_not_rounded_to_all_or_nothing(share: float, words: str, tmp_path: Path) -> None:
    assert words in svg_of(a_result(share=share), tmp_path)


def test_files_of_unknown_length_are_counted_as_files() -> None:
    campaign = a_campaign("zz data")
    unknown = tuple(replace(d, files=(File(d.files[0].url),)) for d in campaign.datasets)
    result = Result(a_campaign("zz data", datasets=unknown), selection.load("open2012"))
    assert "PARTIAL: 0 of 4 files" in spectrum.coverage_text(result)


def test_prediction_that_lacks_a_sample_says_which() -> None:
    assert "prediction without ZZTo4mu" in texts(plots.mass_4l(a_result(left_out="ZZTo4mu")))


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_simulated_collisions_are_called_simulated(share: float, tmp_path: Path) -> None:
    svg = svg_of(a_result(share=share, name="toy", simulated=True), tmp_path)
    assert "higgsnb toy — simulated collisions" in svg
    assert "Simulated data" in svg
    assert "CMS" not in svg


def test_real_data_are_called_cms_open_data_and_never_simulated(tmp_path: Path) -> None:
    svg = svg_of(a_result(), tmp_path)
    assert "CMS Open Data" in svg
    assert "simulated" not in svg.lower()


def test_simulation_without_data_is_called_simulated(tmp_path: Path) -> None:
    assert "simulated collisions only" in svg_of(a_result("higgs zz"), tmp_path)


def test_two_energies_are_both_named() -> None:
    campaign = a_campaign("data")
    first, second = campaign.datasets
    both = (replace(first, energy_tev=7.0), second)
    result = Result(a_campaign("data", datasets=both), selection.load("open2012"))
    assert "(7 and 8 TeV)" in texts(plots.mass_4l(result))


# --- Legibility -----------------------------------------------------------------------------------


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


# --- Files, threads, notebooks --------------------------------------------------------------------


def test_saved_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        folder.mkdir()
        plots.save(plots.mass_4l(a_result(share=0.37)), folder)
    for name in ("mass_4l.png", "mass_4l.svg"):
        assert (first / name).read_bytes() == (second / name).read_bytes()
    assert sorted(path.name for path in first.iterdir()) == ["mass_4l.png", "mass_4l.svg"]


def test_settings_of_the_user_neither_change_nor_matter(tmp_path: Path) -> None:
    plain = svg_of(a_result(), tmp_path)
    with mpl.rc_context({"font.size": 30, "svg.fonttype": "path", "axes.facecolor": "red", "savefig.bbox": "tight"}):
        before = dict(mpl.rcParams)
        assert svg_of(a_result(), tmp_path) == plain
        with pytest.raises(KeyError):
            plots.mass_4l(a_result(), histogram="none")
        assert dict(mpl.rcParams) == before


def test_figures_made_in_threads_are_the_same_and_leave_no_trace(tmp_path: Path) -> None:
    before = dict(mpl.rcParams)
    result = a_result(share=0.37)
    alone = svg_of(result, tmp_path)
    folders = [tmp_path / str(index) for index in range(6)]
    for folder in folders:
        folder.mkdir()
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda folder: svg_of(result, folder), folders))
    assert together == [alone] * 6
    assert dict(mpl.rcParams) == before


def test_figures_are_not_kept_by_pyplot() -> None:
    from matplotlib import pyplot as plt

    plots.mass_4l(a_result())
    assert plt.get_fignums() == []


def test_notebook_shows_the_figure_as_a_picture() -> None:
    shown, metadata = DisplayFormatter().format(plots.mass_4l(a_result()))
    assert shown["image/png"].startswith(b"\x89PNG")
    assert metadata["image/png"]["width"] == pytest.approx(560)
