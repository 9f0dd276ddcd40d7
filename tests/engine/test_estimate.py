"""What a run will take: panel and command line give the same numbers, with their assumptions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from outreach import campaign

from higgsnb import datasets
from higgsnb.__main__ import main
from higgsnb.datasets import Campaign, Dataset, File
from higgsnb.engine import estimate

PANEL = {"kind": "kubernetes", "workers": 4, "cores": 2, "idle_timeout": 900.0}


def of_files(*files: File) -> Campaign:
    return campaign(Dataset("mu", "data", "DoubleMu", files=files))


def planned(*arguments: str) -> dict[str, str]:
    """The estimate that ``higgsnb plan`` prints."""
    done = CliRunner().invoke(main, ["plan", *arguments])
    assert done.exit_code == 0, done.output
    lines = done.stdout.rpartition("\n\n")[2].replace(f"\n{' ' * 10}", " ").splitlines()  # those that were broken
    return {line[:10].strip(): line[10:] for line in lines}


def test_panel_and_plan_agree_to_the_digit() -> None:
    shown = planned("cms2012", "--price", "0.1", "--workers", "8")
    panel = dict(estimate.estimate_cluster(datasets.load("cms2012"), **PANEL, price_gb=0.1))
    assert shown.items() <= panel.items()
    assert set(shown) == {"events", "work", "to read", "transfer", "time", "egress"}


def test_transfer_takes_longer_than_computing_for_cms2012() -> None:
    found = estimate.estimate_run(datasets.load("cms2012"), cores=4)
    whole, streamed = 561_849_069, 12_228_241_133  # the four simulated files, and those of more than 1 GB
    assert found.transfer_bytes == pytest.approx(whole + 0.9 * streamed)
    assert found.compute_seconds == pytest.approx(15.04, abs=0.01)
    assert found.seconds == found.transfer_seconds == pytest.approx(925, abs=1)
    assert dict(found.lines())["time"] == ("about 15 min: transfer at 100 Mbit/s in all (computing on 4 cores: 15 s)")


def test_estimate_agrees_with_arithmetic() -> None:
    one = of_files(File("https://example.org/x.root", events=72_000_000, bytes=10_000_000_000))
    assert dict(estimate.estimate_cluster(one, **PANEL, price_core_hour=0.05, price_gb=0.1)) == {
        "cores": "4 × 2 = 8",
        "cost while it runs": "0.40 per hour",
        "if left running": "2 core-hours (0.10), because it ends after 15 min without work",
        "events": "72,000,000",
        "work": "0.01 core-hours (below 0.01) at 2,000,000 events per second and core",
        "to read": "9 GB, 90% of the bytes in the files",
        "transfer": "9 GB: small files are downloaded whole, larger ones only in part",
        "time": "about 12 min: transfer at 100 Mbit/s in all (computing on 8 cores: 4 s)",  # 72 Gbit / 0.1 Gbit/s
        "egress": "at most 0.90 at 0.1 per GB; files in the cache or a mirror are free",
    }


def test_fraction_spares_the_transfer_of_streamed_files_only(monkeypatch: pytest.MonkeyPatch) -> None:
    one = of_files(*(File(f"https://example.org/{n}.root", events=n, bytes=n) for n in (1000, 3000)))
    monkeypatch.setenv("HIGGSNB_STREAM_ABOVE", "2000")
    found = estimate.estimate_run(one, cores=1, fraction=0.1)
    assert (found.events, found.read_bytes) == (400, pytest.approx(360))
    assert found.transfer_bytes == pytest.approx(1000 + 0.1 * 0.9 * 3000)


def test_local_files_are_not_transferred(tmp_path: Path) -> None:
    found = estimate.estimate_run(of_files(File(str(tmp_path / "a.root"), events=8_000_000, bytes=10**9)), cores=2)
    assert (found.transfer_bytes, found.seconds) == (0.0, 2.0)
    assert dict(found.lines())["time"] == "about 2 s: computing on 2 cores"
    assert "transfer" not in dict(found.lines())


def test_faster_network_leaves_computing_as_the_longer_part() -> None:
    shown = planned("cms2012", "--workers", "1", "--bandwidth", "10000")
    assert shown["time"] == "about 60 s: computing on 1 core (transfer at 10000 Mbit/s in all: 9 s)"


@pytest.mark.parametrize("known", [{}, {"events": 5}, {"bytes": 5}])
def test_estimate_says_what_it_cannot_know(known: dict[str, Any]) -> None:
    lines = dict(
        estimate.estimate_cluster(of_files(File("x.root", **known)), kind="local", workers=1, cores=1, idle_timeout=60)
    )
    assert lines["if left running"] == "it ends with this session"
    assert lines["events"] == ("5" if "events" in known else "unknown: give `events` of each file in the campaign")
    assert lines["to read"].startswith("unknown") == ("bytes" not in known)
    assert "time" not in lines
