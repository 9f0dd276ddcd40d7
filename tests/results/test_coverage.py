"""Partial is never shown as complete: every output at 0, 37, 99.9 and 100 % of the events says which it is."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from generators import random_leptons
from outreach import campaign, dataset, events_of, write

from higgsnb import engine, events, plots, results, selection
from higgsnb.datasets import Campaign, Chunk, File, luminosity
from higgsnb.errors import FileError
from higgsnb.results import Failure, Result
from higgsnb.results.failures import KINDS_SHOWN

OPEN = selection.load("open2012")
EVENTS = 2000


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Campaign:
    """Two primary datasets and a simulation, with lumi sections of 20 events, a golden JSON and a luminosity table."""
    folder = tmp_path_factory.mktemp("coverage")
    leptons = random_leptons(EVENTS, seed=13)
    marked = leptons._replace(run=np.full(EVENTS, 7), luminosity_block=np.arange(EVENTS) // 20 + 1)
    (folder / "cert.json").write_text('{"7": [[1, 60], [63, 100]]}')
    rows = "\n".join(f"7:1,{n}:{n},0.2,0.1" for n in range(1, 101))
    (folder / "byls.csv").write_text(f"#run:fill,ls,delivered(/fb),recorded(/fb)\n{rows}\n")
    return campaign(
        dataset("mu", "data", write(folder / "mu.root", marked, basket=500), primary_dataset="DoubleMu"),
        dataset("e", "data", write(folder / "e.root", marked, basket=500), primary_dataset="DoubleElectron"),
        dataset("mc", "higgs", write(folder / "mc.root", events_of(leptons, 0, 1000)), cross_section_pb=0.01),
        golden_json=str(folder / "cert.json"),
        luminosity_table=str(folder / "byls.csv"),
        luminosity_fb=9.8,
    )  # fmt: skip


def last(one: Campaign, **options: Any) -> Result:
    (*_, result) = engine.run(one, OPEN, **{"chunk_events": 250, **options})
    return result


def damaged(one: Campaign, folder: Path, branch: str, *baskets: int) -> Campaign:
    """The campaign with some damaged baskets in the file of the first primary dataset."""
    import uproot

    path = Path(one.datasets[0].files[0].url)
    content = bytearray(path.read_bytes())
    with uproot.open(path) as file:
        for basket in baskets:
            seek = int(file["Events"][branch].member("fBasketSeek")[basket])
            size = int(file["Events"][branch].member("fBasketBytes")[basket])
            content[seek + size // 2 : seek + size] = bytes(size - size // 2)
    (folder / "damaged.root").write_bytes(content)
    muons = dataclasses.replace(
        one.datasets[0], files=(dataclasses.replace(one.files[0], url=str(folder / "damaged.root")),)
    )
    return dataclasses.replace(one, datasets=(muons, *one.datasets[1:]))


def nothing(one: Campaign, folder: Path) -> Result:
    """No file can be read: 0 %."""
    away = [
        dataclasses.replace(d, files=(File(str(folder / f"gone-{d.name}.root"), events=n),))
        for d, n in zip(one.datasets, (EVENTS, EVENTS, 1000), strict=True)
    ]
    gone = dataclasses.replace(one, datasets=tuple(away))
    with pytest.raises(FileError) as caught:
        last(gone)
    return Result(gone, OPEN, failures={(i, 0): failure for i, failure in enumerate(caught.value.failed)})


def almost(one: Campaign, _: Path) -> Result:
    """All but five events: 99.9 %."""
    return last(one, fraction=0.999)


STATES: dict[str, tuple[Callable[[Campaign, Path], Result], bool]] = {
    "0 %": (nothing, False),
    "0 %, stopped before the first event": (lambda one, _: Result(one, OPEN), False),
    "37 %": (lambda one, _: last(one, fraction=0.37), False),
    "a damaged file": (lambda one, folder: last(damaged(one, folder, "Muon_pt", 1)), False),
    "99.9 %": (almost, False),
    "100 %": (lambda one, _: last(one), True),
}


@pytest.mark.parametrize(("make", "complete"), STATES.values(), ids=STATES.keys())
def test_every_output_says_whether_it_is_partial(
    one: Campaign, tmp_path: Path, make: Callable[[Campaign, Path], Result], complete: bool
) -> None:
    result = make(one, tmp_path)
    results.write(result, tmp_path / "out", run={})
    plots.save(plots.mass_4l(result), tmp_path / "out")
    assert result.complete is complete
    assert ("PARTIAL" in repr(result)) is not complete
    assert (", complete," in repr(result).replace(": ", ", ")) is complete
    coverage = {name: list(pair) for name, pair in result.coverage._asdict().items()}
    for name in ("result.json", "histograms.json"):
        content = json.loads((tmp_path / "out" / name).read_text(encoding="utf-8"))
        assert content["complete"] is complete
        assert content["coverage"] == coverage
    metadata = pq.read_schema(tmp_path / "out" / "candidates.parquet").metadata
    assert metadata[b"complete"] == str(complete).lower().encode()
    assert json.loads(metadata[b"coverage"]) == coverage
    svg = (tmp_path / "out" / "mass_4l.svg").read_text(encoding="utf-8")
    assert ("PARTIAL" in svg) is not complete
    assert not re.search(r"(?<![\d.])100 %", svg)
    counted, files = result.coverage.events, result.coverage.files
    assert complete or counted[0] < counted[1] or not counted[1]  # 0 of 0 as long as no file has told its number
    assert (files[0] == files[1]) is complete
    assert (result.coverage.luminosity_fb[0] == 9.8) is complete


def tags_left_open(html: str) -> list[str]:
    """The tags that are not closed, or closed out of turn."""
    left: list[str] = []
    for closing, tag in re.findall(r"<(/?)(\w+)", html):
        if closing and left[-1:] == [tag]:
            left.pop()
        elif tag != "br":
            left.append(closing + tag)
    return left


def test_notebook_shows_coverage_yields_and_failures_with_their_hints(one: Campaign, tmp_path: Path) -> None:
    result = last(damaged(one, tmp_path, "Muon_pt", 1))
    (failure,) = result.failed
    html = result._repr_html_()
    assert tags_left_open(html) == []
    assert f"<strong>test with open2012: partial</strong><br>{result.coverage}<table>" in html
    higgs = result.yields["higgs"]["4mu"]
    assert f'<td style="text-align: right">{higgs.expected:.2f} ± {higgs.stat_error:.2f}</td>' in html
    assert f'<td style="text-align: right">{result.yields["data"]["4e"].events}</td>' in html
    assert "color: #b3261e" in html
    assert "1 of 3 files could not be analysed" in html
    for text in (failure.message, *failure.hint.splitlines()[:2]):
        assert len(text) > 10
        assert escape(text) in html
    assert "could not be analysed" not in last(one)._repr_html_()


def test_names_in_a_notebook_cannot_become_code(one: Campaign) -> None:
    bad = "<script>alert('&')</script>"
    datasets = tuple(dataclasses.replace(d, name=f"{d.name}{bad}", process=d.process + bad) for d in one.datasets[2:])
    campaign_ = dataclasses.replace(one, name=bad, datasets=(*one.datasets[:2], *datasets))
    failures = {
        (0, file): Failure(bad, f"/a/{file}{bad}", bad, f"message {word} {bad}", f"hint {word} {bad}")
        for file, word in enumerate("ghijklmnopqrs")
    }
    result = Result(campaign_, OPEN.replace(name=bad), failures=failures)
    html = result._repr_html_()
    assert "<script" not in html
    assert html.count("&lt;script&gt;alert(&#x27;&amp;&#x27;)") >= 3 + 3 * KINDS_SHOWN
    assert "3 more files failed for 3 other reasons, see result.failed" in html
    assert "message p" in html
    assert "message q" not in html
    assert tags_left_open(html) == []


def test_coverage_and_yield_read_as_words(one: Campaign) -> None:
    result = last(one)
    assert str(result.coverage) == "3 of 3 files, 5,000 of 5,000 events, 9.8 of 9.8 /fb"
    assert result.coverage._repr_html_() == f"<span>{result.coverage}</span>"
    found = result.yields["higgs"]["4mu"]
    assert str(found) == f"{found.events} events counted, {found.expected:.2f} ± {found.stat_error:.2f} expected"
    assert found._repr_html_() == f"<span>{found}</span>"


def test_coverage_is_that_of_the_events_and_sections_that_were_read(one: Campaign, tmp_path: Path) -> None:
    """At 37 %: 740 of 2000 events, 37 whole sections of 20, of which the last may go on."""
    result = last(one, fraction=0.37)
    assert result.coverage.events == (1850, 5000)
    assert result.coverage.luminosity_fb == (pytest.approx(9.8 * 36 / 98), 9.8)
    assert nothing(one, tmp_path).coverage == ((0, 3), (0, 5000), (0.0, 9.8))


def test_result_tells_processed_and_lost_sections_as_golden_json(one: Campaign, tmp_path: Path) -> None:
    result = last(damaged(one, tmp_path, "Muon_pt", 1))
    results.write(result, tmp_path / "out", run={})
    told = json.loads((tmp_path / "out" / "result.json").read_text())["luminosity"]
    assert told["source"] == "lumi sections"
    # events 500 to 999 are lost, of sections 26 to 50: run and section of them could be read all the same
    assert told["lost"] == {"mu": {"7": [[26, 50]]}, "e": {}}
    assert told["processed"] == {"mu": {"7": [[1, 25], [51, 60], [63, 100]]}, "e": {"7": [[1, 60], [63, 100]]}}
    assert told["shares"] == {"4mu": pytest.approx(73 / 98), "4e": 1.0, "2e2mu": 1.0}
    assert len(luminosity.LumiMask.of(told["processed"]["mu"]).sections) == 73


def test_sections_that_cannot_be_read_are_lost_with_those_beside_them(one: Campaign, tmp_path: Path) -> None:
    result = last(damaged(one, tmp_path, "luminosityBlock", 1))
    assert [failure.dataset for failure in result.failed] == ["mu"]
    assert result.failed_sections == {}
    # sections 25 and 51 end and begin where the damage does: nobody can tell that they do not reach into it
    assert result.luminosity.lost["mu"].ranges() == {"7": [[25, 51]]}
    assert result.luminosity.processed["mu"].ranges() == {"7": [[1, 24], [52, 60], [63, 100]]}


def test_campaign_without_sections_says_that_luminosity_follows_events(one: Campaign, tmp_path: Path) -> None:
    result = last(dataclasses.replace(one, golden_json=None, luminosity_table=None), fraction=0.5)
    results.write(result, tmp_path, run={})
    told = json.loads((tmp_path / "result.json").read_text())["luminosity"]
    assert told == {"source": "events", "shares": {"4mu": 0.5, "4e": 0.5, "2e2mu": 0.5}}


def test_interrupted_run_resumes_with_the_same_sections(one: Campaign, tmp_path: Path) -> None:
    broken = damaged(one, tmp_path, "Muon_pt", 2)
    whole = results.document(last(broken))
    runs = engine.run(broken, OPEN, chunk_events=250, workers=1, ledger=tmp_path / "ledger.sqlite")
    next(runs)
    runs.close()
    for _ in range(2):
        assert results.document(last(broken, ledger=tmp_path / "ledger.sqlite")) == whole


def test_table_that_is_named_later_does_not_use_what_was_counted_without_sections(
    one: Campaign, tmp_path: Path
) -> None:
    without = dataclasses.replace(one, golden_json=None, luminosity_table=None)
    assert last(without, ledger=tmp_path / "ledger.sqlite").tally.sections == {}
    after = last(dataclasses.replace(one, golden_json=None), ledger=tmp_path / "ledger.sqlite")
    assert after.luminosity.source == "lumi sections"
    assert {index: len(keys) for index, keys in after.tally.sections.items()} == {0: 100, 1: 100}
    assert {name: len(sections) for name, sections in after.luminosity.processed.items()} == {"mu": 100, "e": 100}


def test_golden_json_that_is_written_again_is_read_again(one: Campaign, tmp_path: Path) -> None:
    (tmp_path / "cert.json").write_text('{"7": [[1, 10]]}')
    other = dataclasses.replace(one, golden_json=str(tmp_path / "cert.json"))
    assert last(other).luminosity.processed["e"].ranges() == {"7": [[1, 10]]}
    (tmp_path / "cert.json").write_text('{"7": [[1, 10], [12, 13]]}')
    assert last(other).luminosity.processed["e"].ranges() == {"7": [[1, 10], [12, 13]]}


@pytest.mark.parametrize(("start", "stop"), [(0, EVENTS), (0, 1), (499, 501), (120, 1777), (500, 500)])
def test_run_and_section_of_all_events_are_those_that_uproot_reads(one: Campaign, start: int, stop: int) -> None:
    import uproot

    chunk = Chunk("mu", 0, 0, one.files[0], "outreach", "DoubleMu", True, start, stop, None)
    run, section = events.read_sections(chunk)
    with uproot.open(one.files[0].url) as file:
        for branch, found in (("run", run), ("luminosityBlock", section)):
            assert found.dtype == np.int64
            assert found.tolist() == file["Events"][branch].array(entry_start=start, entry_stop=stop).tolist()
