"""G10, G11: every kind of bad file is named with its remedy, and costs nothing of the good ones."""

from __future__ import annotations

import itertools
import json
import random
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
import uproot
from bad_files import BAD, N_EVENTS, Workshop, many
from basket_files import Events, write_tree
from flipped_bits import outcomes
from http_server import FileServer
from outreach import campaign

from higgsnb import datasets, engine, errors, events, selection
from higgsnb.datasets import Campaign, Dataset, File
from higgsnb.datasets.files import retries
from higgsnb.errors import CampaignError
from higgsnb.events import root

N_FILES = 200
OPEN = selection.load("open2012")
TOML = """
[campaign]
name = "kit"
schema = "outreach"
luminosity_fb = 10.0
luminosity_uncertainty = 0.02
energy_tev = 8
[[dataset]]
name = "zz"
process = "zz"
cross_section_pb = 1.0
"""


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "BACKOFF", 0.01)


@pytest.fixture
def good(tmp_path: Path) -> list[File]:
    folder = tmp_path / "good"
    folder.mkdir()
    for number, data in enumerate(many(tmp_path, N_FILES - len(BAD) - 1)):
        (folder / f"{number}.root").write_bytes(data)
    return [File(str(folder / f"{number}.root")) for number in range(N_FILES - len(BAD) - 1)]


@pytest.fixture
def shop(tmp_path: Path, http_server: FileServer, good: list[File]) -> Workshop:
    folder = tmp_path / "bad"
    folder.mkdir()
    return Workshop(folder, http_server, Path(good[0].url).read_bytes())


def of(files: list[File]) -> Campaign:
    return campaign(Dataset(name="zz", process="zz", files=tuple(files), cross_section_pb=1.0))


def mixed(good: list[File], bad: list[File]) -> list[File]:
    """Good and bad files in an order drawn once."""
    together = [*good, *bad]
    random.Random(4).shuffle(together)
    return together


@pytest.mark.parametrize("client", ["threads", "processes"])
def test_each_kind_is_named_and_the_good_files_are_counted_exactly(
    good: list[File], shop: Workshop, figure: Callable[..., None], monkeypatch: pytest.MonkeyPatch, client: str
) -> None:
    monkeypatch.setenv("HIGGSNB_STREAM_ABOVE", "0")
    shop.server.ranges = False  # the sixteenth kind: such a file is fetched whole, and no loss
    (whole,) = itertools.islice(many(shop.folder, 999), 998, None)
    good = [*good, File(shop.server.add("/whole.root", whole))]
    bad = {name: make(shop) for name, (make, _, _) in BAD.items()}
    (*_, found) = engine.run(of(mixed(good, list(bad.values()))), OPEN, client=client, workers=2)
    (*_, expected) = engine.run(of(mixed(good, [])), OPEN)
    named = {failure.file: failure for failure in found.failed}
    assert set(named) == {file.url for file in bad.values()}
    for name, file in bad.items():
        _, error, words = BAD[name]
        failure = named[file.url]
        assert (name, failure.error) == (name, error), failure
        assert words in failure.message, failure
        assert Path(file.url).name in failure.message
        assert 1 <= len(failure.message.splitlines()) <= 3
        assert len(failure.message) > len(words) + len(file.url)
    assert not found.complete
    assert found.coverage.files == (len(good), len(good) + len(bad))
    assert found.coverage.events[0] == expected.coverage.events[0] == len(good) * N_EVENTS
    assert (found.counts["zz"] == expected.counts["zz"]).all()
    assert sorted(found.candidates.mass_4l) == sorted(expected.candidates.mass_4l)
    figure("G10", f"{client}: kinds named", f"{len(named)} of {len(bad)}, 1 more read whole (server without Range)")
    figure("G10", f"{client}: good files exact", f"{found.coverage.files[0]} of {len(good)}")


def run(folder: Path, files: list[File], *options: str) -> subprocess.CompletedProcess[str]:
    """Run the campaign of these files from the command line."""
    known = [f'{{ url = "{file.url}"' + (f", events = {file.events}" if file.events else "") + (
        f', adler32 = "{file.adler32}"' if file.adler32 else "") + " }" for file in files]  # fmt: skip
    (folder / "kit.toml").write_text(TOML + f"file = [{', '.join(known)}]\n")
    command = [sys.executable, "-m", "higgsnb", "run", str(folder / "kit.toml"), "--out", str(folder / "out"), *options]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_command_line_says_incomplete_everywhere(good: list[File], shop: Workshop, figure: Callable[..., None]) -> None:
    bad = [make(shop) for make, _, _ in BAD.values()]
    done = run(shop.folder, mixed(good[:20], bad))
    document = json.loads((shop.folder / "out" / "result.json").read_text())
    assert done.returncode == 3
    assert document["complete"] is False
    assert len(document["failed"]) == len(bad)
    assert f"incomplete: 20 of {20 + len(bad)} files" in done.stderr
    svg = (shop.folder / "out" / "mass_4l.svg").read_text()
    assert "partial" in svg.lower() or "incomplete" in svg.lower()
    figure("G10", "report: exit code, files named", f"{done.returncode}, {len(document['failed'])} of {len(bad)}")


@pytest.mark.parametrize("name", ["not ROOT", "missing branch", "corrupted block"])
def test_strict_stops_at_the_bad_file(good: list[File], shop: Workshop, name: str) -> None:
    make, _, words = BAD[name]
    with pytest.raises(errors.FileError, match=words):
        list(engine.run(of([*good[:5], make(shop)]), OPEN, on_error="strict"))


def test_strict_has_exit_code_2(good: list[File], shop: Workshop) -> None:
    done = run(shop.folder, [*good[:3], BAD["not ROOT"][0](shop)], "--on-error", "strict")
    assert done.returncode == 2
    assert "is not a ROOT file" in done.stderr
    assert len(done.stderr.strip().splitlines()) < 12


def adler32(data: bytes) -> str:
    return f"{zlib.adler32(data):08x}"


def test_same_file_under_another_name_is_refused_by_its_checksum(shop: Workshop, tmp_path: Path) -> None:
    first, second = (shop.local(name, shop.good) for name in ("one", "two"))
    known = f'bytes = {len(shop.good)}, adler32 = "{adler32(shop.good)}"'
    listed = ", ".join(f'{{ url = "{file.url}", {known} }}' for file in (first, second))
    (tmp_path / "twice.toml").write_text(TOML + f"file = [{listed}]\n")
    with pytest.raises(CampaignError, match=r"listed twice: two.root in dataset 'zz' and one.root in 'zz'\nRemove one"):
        datasets.load(tmp_path / "twice.toml")


def test_engine_refuses_the_copy_and_counts_the_file_once(shop: Workshop, good: list[File]) -> None:
    copy = shop.local("copy", Path(good[3].url).read_bytes())
    (*_, found) = engine.run(of([*good[:10], copy]), OPEN)
    (failure,) = found.failed
    assert (failure.error, failure.file) == ("DuplicateFileError", copy.url)
    assert found.coverage.events[0] == 10 * N_EVENTS


def classes() -> dict[str, object]:
    """What uproot knows of classes, for all files."""
    return {name: (found, dict(getattr(found, "known_versions", {}))) for name, found in uproot.classes.items()}


def numbers(files: list[File]) -> list[object]:
    """What is counted in files, none of them kept open from before."""
    root.forget()
    (*_, found) = engine.run(of(files), OPEN, workers=1)
    return [found.failed, found.counts["zz"].tolist(), found.coverage.events]


def flipped(data: bytes, rng: random.Random) -> bytes:
    """The same bytes with one to three bits flipped."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 3)):
        changed[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def test_good_files_are_read_in_a_process_that_read_bad_ones_in_any_order(
    shop: Workshop, good: list[File], figure: Callable[..., None]
) -> None:
    made = {name: make(shop) for name, (make, _, _) in BAD.items()}
    expected = numbers(good[:2])
    orders = [random.Random(seed).sample(list(BAD), len(BAD)) for seed in (1, 2)]
    for name in itertools.chain(*orders):
        try:
            (failed, *_) = numbers([made[name]])
        except errors.FileError as error:  # it could not even be read
            failed = error.failed
        assert failed, name
        assert numbers(good[:2]) == expected, name
    figure("G10", "good files right after each bad one", f"{2 * len(BAD)} of {2 * len(BAD)} exact")


def test_what_a_damaged_file_says_of_classes_stays_with_it(
    shop: Workshop, good: list[File], long: bool, figure: Callable[..., None]
) -> None:
    plain = write_tree(shop.folder / "plain.root", Events.random(300), codec="none")  # no checksum guards its header
    content, rng, n_flips = plain.read_bytes(), random.Random(3), 4000 if long else 400
    expected, before, n_failed = numbers(good[:2]), classes(), 0
    for _ in range(n_flips):
        plain.write_bytes(flipped(content, rng))
        try:
            events.inspect(File(str(plain)), "outreach")
        except (OSError, ValueError):
            n_failed += 1
    assert classes() == before
    assert numbers(good[:2]) == expected
    assert n_failed == n_flips  # if only because it lacks branches
    figure("G10", "classes that damaged files changed for others", f"0 after {n_flips} damaged files")


@pytest.mark.parametrize("codec", ["ZLIB", "LZ4", "LZMA", "ZSTD", "none"])
def test_no_flipped_bit_is_silent(tmp_path: Path, codec: str, long: bool, figure: Callable[..., None]) -> None:
    n_flips = 2000 if long else 60
    path = write_tree(tmp_path / "events.root", Events.random(900), codec=codec, baskets=[300, 600])
    found = outcomes(path, n_flips, seed=2)
    assert found["silent"] == 0, found
    assert found["marked"] == 0 or codec in ("ZSTD", "none"), found
    figure("G11", f"{codec}: {n_flips} bit flips", ", ".join(f"{n} {what}" for what, n in sorted(found.items())))
