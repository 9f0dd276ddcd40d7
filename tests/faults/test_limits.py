"""G4, G19: damaged and full disks, two clients, little memory, one core, no network."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from bad_files import contents
from outreach import campaign, dataset, to_toml

from higgsnb import engine, results, selection
from higgsnb.datasets import Campaign
from higgsnb.engine import Ledger, loop
from higgsnb.errors import LedgerError

OPEN = selection.load("open2012")
CHUNK_EVENTS = 10
NAMES = ("l.sqlite", "l.sqlite-wal")
MEMORY = 1_200_000_000


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Campaign:
    folder = tmp_path_factory.mktemp("limits")
    contents(folder, 4)
    paths = [folder / f"content{i}.root" for i in range(4)]
    return campaign(
        dataset("mu", "data", *paths[:2], primary_dataset="DoubleMu"),
        dataset("zz", "zz", *paths[2:], cross_section_pb=1.0),
    )


@pytest.fixture(scope="module")
def half(one: Campaign, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ledger of a run that was cut off: its file and its log, as they lie on the disk."""
    folder, kept = tmp_path_factory.mktemp("ledger"), tmp_path_factory.mktemp("kept")
    list(engine.run(campaign(one.datasets[0]), OPEN, chunk_events=CHUNK_EVENTS, ledger=folder / NAMES[0]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "SECONDS_BETWEEN_RESULTS", 0.0)
        run = engine.run(one, OPEN, chunk_events=CHUNK_EVENTS, workers=1, ledger=folder / NAMES[0])
        next(run)
        next(run)
        for name in NAMES:
            shutil.copy(folder / name, kept / name)
        run.close()
    return kept


@pytest.fixture(scope="module")
def expected(one: Campaign) -> str:
    return bytes_of(one)


def bytes_of(one: Campaign, ledger: Path | None = None) -> str:
    """The result, resumed from a ledger."""
    (*_, found) = engine.run(one, OPEN, chunk_events=CHUNK_EVENTS, workers=2, ledger=ledger)
    return json.dumps(results.document(found), sort_keys=True)


def damage(data: bytes, draw: random.Random) -> bytes:
    """Cut off, lose a block, or change some bytes."""
    place, changed = draw.randrange(len(data)), bytearray(data)
    kind = draw.choice(("cut", "lost block", "bytes", "bytes"))
    if kind == "cut":
        return data[:place]
    if kind == "lost block":
        first = place // 512 * 512
        changed[first : first + 512] = bytes(len(changed[first : first + 512]))
        return bytes(changed)
    for _ in range(draw.randint(1, 4)):
        changed[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    return bytes(changed)


def test_damaged_ledger_is_mended_or_named_and_never_believed(
    one: Campaign, half: Path, expected: str, tmp_path: Path, long: bool, figure: Callable[..., None]
) -> None:
    n, draw, found = 1000 if long else 60, random.Random(6), Counter[str]()
    for number in range(n):
        folder = tmp_path / str(number)
        shutil.copytree(half, folder)
        hurt = folder / draw.choice(NAMES)
        hurt.write_bytes(damage(hurt.read_bytes(), draw))
        try:
            same = bytes_of(one, folder / NAMES[0]) == expected
            found["right" if same else "WRONG"] += 1
        except LedgerError as error:
            found["named" if 2 <= len(str(error).splitlines()) <= 3 else f"UNCLEAR {error}"] += 1
        except Exception as error:  # noqa: BLE001 - anything else is what is looked for
            found[f"UNCLEAR {type(error).__name__}: {error}"] += 1
        shutil.rmtree(folder)
    figure("G4", f"ledger damaged at {n} places", ", ".join(f"{count} {what}" for what, count in found.items()))
    assert set(found) <= {"right", "named"}, found
    assert found["right"] > 0


def test_undamaged_ledger_of_a_cut_off_run_is_used(one: Campaign, half: Path, expected: str, tmp_path: Path) -> None:
    shutil.copytree(half, tmp_path / "l")
    with Ledger(tmp_path / "l" / NAMES[0]) as ledger:
        assert len(ledger) >= 24
    assert bytes_of(one, tmp_path / "l" / NAMES[0]) == expected


_LIMITED = """
import os, resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
if sys.argv[1] != "0":
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), resource.RLIM_INFINITY))
from higgsnb.__main__ import main
main(sys.argv[2:])
"""


def shell(one: Campaign, folder: Path, *, out: Path, largest_file: int = 0) -> subprocess.CompletedProcess[str]:
    """`higgsnb run` of this campaign."""
    toml = to_toml(one, folder / "kit.toml")
    command = [sys.executable, "-c", _LIMITED, str(largest_file), "run", str(toml), "--out", str(out)]
    return subprocess.run(
        [*command, "--chunk-events", str(CHUNK_EVENTS), "-q"], capture_output=True, text=True, check=False
    )


def assert_refused_then_resumed(
    one: Campaign, out: Path, refused: subprocess.CompletedProcess[str], expected: str
) -> None:
    assert refused.returncode == 2, refused.stderr
    assert "Traceback" not in refused.stderr
    assert 1 <= len(refused.stderr.strip().splitlines()) <= 4, refused.stderr
    assert "--out" in refused.stderr
    assert not (out / "result.json").exists()
    assert bytes_of(one, out / "ledger.sqlite") == expected


@pytest.mark.parametrize("largest", [5_000, 30_000])
def test_file_size_limit_is_named_and_the_run_resumes(
    one: Campaign, tmp_path: Path, expected: str, largest: int, figure: Callable[..., None]
) -> None:
    refused = shell(one, tmp_path, out=tmp_path / "out", largest_file=largest)
    assert_refused_then_resumed(one, tmp_path / "out", refused, expected)
    figure("G4", f"files limited to {largest} bytes", "named, resumed, result equal")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 60 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=60k", "none", str(folder)], capture_output=True, text=True, check=False
    )
    if made.returncode:
        pytest.skip(f"a small disk cannot be mounted here (needs root): {made.stderr.strip()[:80]}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def remount(folder: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], check=True)


def test_full_disk_is_named_and_the_run_resumes(
    one: Campaign, small_disk: Path, tmp_path: Path, expected: str, figure: Callable[..., None]
) -> None:
    refused = shell(one, tmp_path, out=small_disk / "out")
    remount(small_disk, "size=50m")
    assert_refused_then_resumed(one, small_disk / "out", refused, expected)
    figure("G4", "disk of 60 kB", "named, resumed, result equal")


def test_read_only_disk_is_named_and_the_run_resumes(
    one: Campaign, small_disk: Path, tmp_path: Path, expected: str, figure: Callable[..., None]
) -> None:
    remount(small_disk, "ro,size=50m")
    refused = shell(one, tmp_path, out=small_disk / "out")
    remount(small_disk, "rw,size=50m")
    assert_refused_then_resumed(one, small_disk / "out", refused, expected)
    figure("G4", "read-only disk", "named, resumed, result equal")


def test_second_client_is_refused_with_process_and_host(
    one: Campaign, tmp_path: Path, expected: str, figure: Callable[..., None]
) -> None:
    (tmp_path / "out").mkdir()
    with Ledger(tmp_path / "out" / "ledger.sqlite"):
        refused = shell(one, tmp_path, out=tmp_path / "out")
    assert f"in use by process {os.getpid()} on " in refused.stderr
    assert_refused_then_resumed(one, tmp_path / "out", refused, expected)
    figure("G4", "second client", "refused with process and host")


# --- a small machine

_SMALL = """
import os, resource, sys
memory, core, report = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
os.sched_setaffinity(0, {core})
connections = []
def hook(event, arguments):
    if event == "socket.connect":
        connections.append(repr(arguments[1]))
sys.addaudithook(hook)
from higgsnb.__main__ import main
try:
    main(sys.argv[4:])
finally:
    # Not ru_maxrss, which begins with that of the process it was forked from.
    peak = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
    with open(report, "w") as file:
        file.write("\\n".join([str(peak), *connections]))
"""


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs Linux, for cores and limits")
def test_toy_runs_on_one_core_in_little_memory_without_the_network(tmp_path: Path, figure: Callable[..., None]) -> None:
    subprocess.run([sys.executable, "-m", "higgsnb", "fetch", "toy", "-q"], check=True)
    core, report = min(os.sched_getaffinity(0)), tmp_path / "report"
    command = [sys.executable, "-c", _SMALL, str(MEMORY), str(core), str(report), "run", "toy", "--out"]
    done = subprocess.run([*command, str(tmp_path / "out"), "-q"], capture_output=True, text=True, check=False)
    peak, *connections = report.read_text().splitlines()
    assert done.returncode == 0, done.stderr
    assert connections == []
    assert 1024 * int(peak) < MEMORY
    assert json.loads((tmp_path / "out" / "result.json").read_text())["complete"] is True
    figure("G19", "toy on one core, memory limit 1.2 GB: peak", f"{1024 * int(peak) / 1e6:.0f} MB")
    figure("G19", "toy: connections", len(connections))
