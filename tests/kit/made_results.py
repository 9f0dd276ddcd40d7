"""Results without files, of which a share of the events has been counted, and what their figures show."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from filling import Variables, fill
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text

from higgsnb import plots, selection
from higgsnb.datasets import Campaign, Dataset, File
from higgsnb.results import Result, Tally
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
        experiment="CMS",
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
    return fill(
        Variables(
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


def texts(figure: Figure) -> str:
    return "\n".join(text.get_text() for text in figure.findobj(Text))


def svg_of(result: Result, folder: Path) -> str:
    return plots.save(plots.mass_4l(result), folder)[1].read_text()
