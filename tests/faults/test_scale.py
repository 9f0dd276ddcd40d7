"""G21: a campaign of the size of all of CMS Open Data's NanoAOD is planned, run and resumed exactly.

Times and memory are measured by ``benchmarks/scale.py``; here it is only checked that nothing is lost.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import killers
import pytest
from killers import LOG, chunks_in

from higgsnb import engine, selection

CHUNK = 1000

Figure = Callable[[str, str, object], None]


def test_large_campaign_is_run_and_resumed_exactly(
    tmp_path: Path, long: bool, figure: Figure, monkeypatch: pytest.MonkeyPatch
) -> None:
    n_files, n_chunks = (26_920, 250_000) if long else (2_700, 25_000)
    one, chosen = killers.described(n_files, n_chunks, chunk_events=CHUNK), selection.load("open2012")
    events = n_chunks * CHUNK - n_files
    options = {"chunk_events": CHUNK, "workers": 2, "ledger": tmp_path / "l.sqlite"}
    running = engine.run(one, chosen, analyse=killers.nothing, **options)
    for result in running:
        if result.coverage.events[0] > events / 3:
            break
    running.close()
    n_first = len(killers.committed(tmp_path / "l.sqlite"))
    assert events / 3 / CHUNK < n_first < n_chunks
    (*_, last) = engine.run(one, chosen, analyse=killers.nothing, **options)
    assert last.complete
    assert last.coverage.events == (events, events)
    assert last.coverage.files == (n_files, n_files)
    assert all(
        ranges == ((0, file.events),) for ranges, file in zip(last.tally.ranges.values(), one.files, strict=True)
    )
    assert len(killers.committed(tmp_path / "l.sqlite")) == n_chunks
    monkeypatch.setenv(LOG, str(tmp_path / "log"))
    (*_, resumed) = engine.run(one, chosen, analyse=killers.nothing, **options)
    assert Counter(chunks_in(tmp_path / "log")) == {}
    assert killers.same(resumed.tally, last.tally)
    figure("G21", "files and chunks resumed exactly", f"{n_files:,} and {n_chunks:,}; {n_first:,} at the stop")
