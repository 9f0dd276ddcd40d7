"""Run 2 of CMS from plan to spectrum: five primary datasets, photons, triggers and signed weights, of known events."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import known_results
import mirrors
import pytest
from click.testing import CliRunner
from known_events import PRIMARY_DATASETS, RUN2, KnownEvent
from made_results import texts
from mirrors import Mirror

from higgsnb import datasets, engine, plots, results, selection
from higgsnb.cli import main
from higgsnb.datasets import Campaign
from higgsnb.errors import OptionError
from higgsnb.results import Result

SKIMMED = 2.5


class Made(NamedTuple):
    """A mirror, its campaign, and the result of the whole of it."""

    mirror: Mirror
    campaign: Campaign
    result: Result

    @property
    def expected(self) -> dict[tuple[int, int, int], KnownEvent]:
        return self.mirror.expected(RUN2)


def made_of(mirror: Mirror) -> Made:
    campaign = datasets.load(mirror.campaign)
    *_, result = engine.run(campaign, selection.load("run2"), workers=1)
    return Made(mirror, result.campaign, result)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    folder = tmp_path_factory.mktemp("cms2016")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HIGGSNB_MIRROR", str(folder / "portal"))
        yield made_of(mirrors.cms2016(folder / "portal", 14, skimmed=SKIMMED))


def test_candidates_of_data_are_the_events_that_were_made_to_pass(made: Made) -> None:
    assert made.result.complete
    assert made.result.doubts == ()
    known_results.check_candidates(made.result, made.expected)
    assert {event.fails for event in made.mirror.data} >= RUN2


def test_yields_and_spectrum_are_sums_of_signed_weights(made: Made) -> None:
    expected = known_results.of_cms(made.mirror, made.campaign, RUN2, skimmed=SKIMMED)
    known_results.check_yields(made.result, expected)
    data = [event.dressed_mass_4l for event in made.expected.values()]
    known_results.check_spectrum(made.result, data, expected)
    absolute = known_results.of_cms(made.mirror, made.campaign, RUN2, skimmed=SKIMMED, sign=abs)
    with pytest.raises(AssertionError):
        known_results.check_yields(made.result, absolute)


def test_luminosity_is_the_sum_of_the_table(made: Made) -> None:
    assert "luminosity_fb" not in Path(made.mirror.campaign).read_text(encoding="utf-8")
    assert made.result.coverage.luminosity_fb == pytest.approx((made.mirror.luminosity_fb,) * 2, rel=1e-12)
    found = texts(plots.mass_4l(made.result))
    assert "CMS Open Data" in found
    assert f"{made.mirror.luminosity_fb:.3g} fb⁻¹ (13 TeV)" in found


def test_each_event_counts_for_the_first_of_its_primary_datasets(made: Made) -> None:
    rows, listed = made.result.candidates, made.campaign.datasets
    for index, *key in zip(
        rows.dataset.tolist(), rows.run.tolist(), rows.luminosity_block.tolist(), rows.event.tolist(), strict=True
    ):
        if listed[index].is_data:
            event = made.expected[tuple(key)]  # type: ignore[index]
            assert listed[index].primary_dataset == min(event.primary_datasets, key=PRIMARY_DATASETS.index)
    removed = Counter(made.result.duplicates_removed)
    assert removed.total() == sum(len(event.primary_datasets) - 1 for event in made.expected.values()) > 50
    for name, channels in made.result.cutflow.items():
        before, after = (sum(dict(rows)[cut] for rows in channels.values()) for cut in ("best candidate", "unique"))
        assert before - after == removed[name]


def test_path_that_a_file_lacks_has_not_fired_and_that_is_said(made: Made) -> None:
    """Of data only the paths of their own primary dataset are asked for."""
    triggers, lacking = dict(selection.load("run2").triggers), made.result.not_applied
    every = {path for paths in triggers.values() for path in paths}
    for name, paths in lacking.items():
        dataset = made.campaign.dataset(name)
        assert set(paths) <= (set(triggers[str(dataset.primary_dataset)]) if dataset.is_data else every)
    assert "HLT_IsoMu20" in lacking["Run2016G_SingleMuon"]
    assert any("what is not there has not fired" in remark for remark in made.result.remarks)


def test_command_line_plans_runs_and_writes_the_campaign(made: Made, tmp_path: Path) -> None:
    planned = CliRunner().invoke(main, ["plan", str(made.mirror.campaign), "--json"])
    assert planned.exit_code == 0
    assert json.loads(planned.output)["total"]["files"] == made.campaign.n_files > 30
    answer = CliRunner().invoke(main, ["run", str(made.mirror.campaign), "--out", str(tmp_path / "out"), "-j", "1"])
    assert answer.exit_code == 0, answer.output
    written = json.loads((tmp_path / "out" / "result.json").read_text(encoding="utf-8"))
    assert written["yields"] == json.loads(json.dumps(results.document(made.result)))["yields"]
    assert written["notes"]["duplicates_removed"] == made.result.duplicates_removed
    assert f"{SKIMMED * 240:,.0f} generated ones" in re.sub(r"\s+", " ", answer.output)


def test_cutflow_says_what_its_rows_ask_for(made: Made) -> None:
    shown = repr(plots.cutflow(made.result, "4mu"))
    assert "preselected: a trigger of the primary dataset" in shown
    assert "good leptons: muons: isPFcand or" in shown


# --- primary datasets that share no event, and one event too many


def test_event_in_one_primary_dataset_is_never_removed_and_a_planted_one_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same events, each in the first of its primary datasets only; then one of them in its second, too."""
    found = []
    for planted in (0, 1):
        monkeypatch.setenv("HIGGSNB_MIRROR", str(folder := tmp_path / f"{planted} planted"))
        mirror = mirrors.cms2016(folder, 15, events=120, simulated=20, only_first=True, planted=planted)
        found.append(made_of(mirror))
        known_results.check_candidates(found[-1].result, found[-1].expected)
    clean, made = found
    assert clean.result.duplicates_removed == {}
    (event,) = (one for one in made.mirror.data if len(one.primary_datasets) == 2)
    (name,) = made.result.duplicates_removed
    assert results.document(made.result)["notes"]["duplicates_removed"] == {name: 1}
    assert made.campaign.dataset(name).primary_dataset == event.primary_datasets[1]
    assert made.result.yields["data"] == clean.result.yields["data"]


def test_precedence_is_that_of_the_selection_where_the_campaign_has_none(made: Made) -> None:
    backwards = tuple(reversed(made.campaign.datasets))
    for order, kept in (((), "DoubleEG"), (("SingleMuon", *PRIMARY_DATASETS[:-1]), "SingleMuon")):
        campaign = replace(made.campaign, primary_dataset_precedence=order, datasets=backwards)
        ranks = Result(campaign, selection.load("run2")).precedence().tolist()
        first = [one.primary_dataset for one, rank in zip(backwards, ranks, strict=True) if rank == 0]
        assert first == [kept, kept]


@pytest.mark.parametrize(
    ("name", "primary", "words"),
    [
        (
            "run2",
            "DoubleMuons",
            r"'DoubleMuons' of Run2016G_DoubleEG; it knows DoubleEG, .*\nDid you mean DoubleMuon\?",
        ),
        ("run2", "Tau", r"it knows DoubleEG, DoubleMuon, MuonEG, .*\nKnown: DoubleEG, .* Or use open2012"),
        ("aod2012", "DoubleEG", r"it knows DoubleMu, DoubleElectron\n(Known|Did you mean)"),
    ],
)
def test_primary_dataset_that_a_selection_does_not_know_is_named(
    made: Made, name: str, primary: str, words: str
) -> None:
    first, *others = made.campaign.datasets
    wrong = replace(made.campaign, datasets=(replace(first, primary_dataset=primary), *others))
    with pytest.raises(OptionError, match=words):
        list(engine.run(wrong, selection.load(name)))


def test_sum_of_the_weights_is_that_of_all_files(made: Made) -> None:
    """The oracle above takes Σw × 2.5 from nowhere else: here it is what the files say."""
    for dataset in made.campaign.datasets:
        if not dataset.is_data:
            events = made.mirror.simulated[dataset.name]
            total = SKIMMED * math.fsum(event.weight for event in events)
            index = made.campaign.datasets.index(dataset)
            assert made.result.tally.generated[index, 0].total == pytest.approx(total, rel=1e-12)
