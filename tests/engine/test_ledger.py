"""The ledger: what is finished is never done again, never lost, never stale, and never counted twice."""

from __future__ import annotations

import dataclasses
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from generators import random_leptons
from outreach import campaign, dataset, events_of, to_toml, write
from strangers import WITHOUT_LOCKS, why_no_filters

from higgsnb import datasets, engine, plots, provenance, results, selection
from higgsnb.datasets import Campaign
from higgsnb.datasets.chunks import plan_chunks
from higgsnb.engine import Ledger, ledger, loop
from higgsnb.errors import LedgerError, NondeterminismError
from higgsnb.results import Result, Tally, analyse
from higgsnb.results.tally import NUMBER, Record, merge, pack

KIT = Path(__file__).resolve().parents[1] / "kit"

OPEN = selection.load("open2012")


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Campaign:
    folder = tmp_path_factory.mktemp("ledger")
    leptons = random_leptons(3000, seed=21)
    paths = [write(folder / f"{i}.root", events_of(leptons, 400 * i, 400 * i + 900)) for i in range(4)]
    return campaign(
        dataset("mu", "data", *paths[:2], primary_dataset="DoubleMu"),
        dataset("e", "data", paths[2], primary_dataset="DoubleElectron"),
        dataset("mc", "zz", paths[3], cross_section_pb=1.0),
    )


def last(one: Campaign, chosen: selection.Selection = OPEN, **options: Any) -> Result:
    (*_, result) = engine.run(one, chosen, **{"chunk_events": 100, **options})
    return result


def tallies(one: Campaign) -> list[Tally]:
    entries = {file.url: 900 for d in one.datasets for file in d.files}
    return [analyse(chunk, OPEN) for chunk in plan_chunks(one, entries, 100)]


def finished(opened: Ledger, keys: list[bytes]) -> set[bytes]:
    """Which of these chunks are finished; a row whose content is damaged is not."""
    return {key for some in opened.records(keys) for key in some}


def analysed(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The chunks that are analysed from now on."""
    seen: list[Any] = []

    def counting(chunk: Any, *arguments: Any, **options: Any) -> Tally:
        seen.append(chunk)
        return analyse(chunk, *arguments, **options)

    counting.__module__, counting.__qualname__ = analyse.__module__, analyse.__qualname__
    monkeypatch.setitem(engine.run.__kwdefaults__, "analyse", counting)
    return seen


def test_records_add_up_as_the_tallies_do(one: Campaign) -> None:
    parts = tallies(one)
    expected = Result(one, OPEN, merge(parts))
    found = Result(one, OPEN, merge(pack(part) for part in parts))
    assert results.document(found) == results.document(expected)
    assert [c.tobytes() for c in found.candidates] == [c.tobytes() for c in expected.candidates]
    assert [c.dtype for c in found.candidates] == [c.dtype for c in expected.candidates]


def test_record_counted_twice_is_refused(one: Campaign) -> None:
    record = pack(tallies(one)[0])
    with pytest.raises(ValueError, match="were counted twice"):
        merge([record, record])


def test_second_run_does_nothing_again_and_gives_the_same(
    one: Campaign, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = last(one, ledger=tmp_path / "l.sqlite")
    seen = analysed(monkeypatch)
    again = last(one, ledger=tmp_path / "l.sqlite")
    assert seen == []
    assert results.document(again) == results.document(first) == results.document(last(one))


def test_two_results_of_a_chunk_in_one_commit_are_an_alarm(one: Campaign, tmp_path: Path) -> None:
    record = pack(tallies(one)[0])
    with Ledger(tmp_path / "l.sqlite") as opened:
        with pytest.raises(NondeterminismError, match="gave two different results"):
            opened.commit([(b"key", record), (b"key", record._replace(rejected_by_golden_json=1))])
        assert len(opened) == 0


def test_fresh_does_everything_again(one: Campaign, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    last(one, ledger=tmp_path / "l.sqlite")
    seen = analysed(monkeypatch)
    last(one, ledger=tmp_path / "l.sqlite", fresh=True)
    assert len(seen) == 36


def test_interrupted_run_resumes_where_it_was(one: Campaign, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "SECONDS_BETWEEN_RESULTS", 0.0)
    partial = engine.run(one, OPEN, chunk_events=100, workers=1, ledger=tmp_path / "l.sqlite")
    done = next(partial).coverage.events[0] // 100
    partial.close()
    seen = analysed(monkeypatch)
    resumed = last(one, ledger=tmp_path / "l.sqlite")
    assert 0 < len(seen) <= 36 - done < 36
    assert results.document(resumed) == results.document(last(one))


def _other_file(one: Campaign) -> Campaign:
    """The same campaign with other events in the first file, as many as before."""
    first = one.datasets[0]
    path = Path(first.files[0].url).with_name("other.root")
    write(path, events_of(random_leptons(3000, seed=22), 0, 900))
    files = (dataclasses.replace(first.files[0], url=str(path)), *first.files[1:])
    return dataclasses.replace(one, datasets=(dataclasses.replace(first, files=files), *one.datasets[1:]))


@pytest.mark.parametrize(
    ("what", "n_again"),
    [
        ("cut", 36),
        ("code", 36),
        ("library", 36),
        ("file", 9),
        ("primary_dataset", 18),
        ("golden json", 27),
        ("chunks", 72),
    ],
)
def test_nothing_stale_is_used(
    one: Campaign, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str, n_again: int
) -> None:
    last(one, ledger=tmp_path / "l.sqlite")
    chosen, changed, options = OPEN, one, {}
    if what == "cut":
        chosen = OPEN.replace(muon_pt_min=6)
    elif what == "code":
        monkeypatch.setattr(provenance, "sources_sha256", lambda *_: "another")
    elif what == "library":
        monkeypatch.setattr(provenance, "libraries", lambda: {"numpy": "0.1"})
    elif what == "file":
        changed = _other_file(one)
    elif what == "primary_dataset":
        first = dataclasses.replace(one.datasets[0], primary_dataset="DoubleElectron")
        changed = dataclasses.replace(one, datasets=(first, *one.datasets[1:]))
    elif what == "golden json":
        (tmp_path / "cert.json").write_text('{"1": [[1, 2]]}')
        changed = dataclasses.replace(one, golden_json=str(tmp_path / "cert.json"))
    else:
        options = {"chunk_events": 50}
    expected = results.document(last(changed, chosen, **options))
    seen = analysed(monkeypatch)
    found = last(changed, chosen, ledger=tmp_path / "l.sqlite", **options)
    assert len(seen) == n_again
    assert results.document(found) == expected


def test_damaged_row_is_not_believed(one: Campaign, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = results.document(last(one, ledger=tmp_path / "l.sqlite"))
    with sqlite3.connect(tmp_path / "l.sqlite") as database:
        (key, rows), *_ = database.execute("SELECT key, rows FROM units WHERE length(rows) > 0").fetchall()
        database.execute("UPDATE units SET rows = ? WHERE key = ?", (bytes([rows[0] ^ 1]) + rows[1:], key))
    database.close()
    seen = analysed(monkeypatch)
    assert results.document(last(one, ledger=tmp_path / "l.sqlite")) == expected
    assert len(seen) == 1


def test_same_chunk_with_another_result_is_an_alarm(one: Campaign, tmp_path: Path) -> None:
    record = pack(tallies(one)[0])
    with Ledger(tmp_path / "l.sqlite") as opened:
        opened.commit([(b"key", record)])
        opened.commit([(b"key", record)])
        with pytest.raises(NondeterminismError, match="gave two different results"):
            opened.commit([(b"other", record), (b"key", record._replace(rejected_by_golden_json=1))])
        assert finished(opened, [b"key", b"other"]) == {b"key"}


def test_second_client_is_refused_by_name(tmp_path: Path) -> None:
    with Ledger(tmp_path / "l.sqlite"), pytest.raises(LedgerError, match=f"in use by process {os.getpid()} on "):
        Ledger(tmp_path / "l.sqlite")
    Ledger(tmp_path / "l.sqlite").close()


def test_file_that_is_no_ledger_is_named(tmp_path: Path) -> None:
    (tmp_path / "l.sqlite").write_bytes(b"not a database, but long enough to look like one" * 30)
    with pytest.raises(LedgerError, match="not a usable ledger"):
        Ledger(tmp_path / "l.sqlite")


def of_version(version: int, path: Path) -> bytes:
    """Write a ledger of that version and return its bytes."""
    Ledger(path).close()
    with sqlite3.connect(path) as database:
        database.execute("UPDATE meta SET value = ?", (str(version),))
    database.close()
    return path.read_bytes()


def test_ledger_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    of_version(99, tmp_path / "l.sqlite")
    with pytest.raises(LedgerError, match="a ledger of version 99") as caught:
        Ledger(tmp_path / "l.sqlite")
    assert caught.value.hint == "Update higgsnb, or use another result directory (--out)."


def test_ledger_of_an_older_version_is_kept_aside_and_everything_is_counted_again(
    one: Campaign, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    last(one, ledger=tmp_path / "l.sqlite")
    old = [of_version(2, tmp_path / "l.sqlite")]
    seen = analysed(monkeypatch)
    found = last(one, ledger=tmp_path / "l.sqlite")
    assert len(seen) == 36
    assert results.document(found) == results.document(last(one))
    assert f"an older version of higgsnb (ledger version 2, now {ledger.SCHEMA_VERSION})" in caplog.text
    assert "kept as l.sqlite.old-v2, and everything is counted again" in caplog.text
    old.append(of_version(2, tmp_path / "l.sqlite"))  # a second one does not replace the first
    Ledger(tmp_path / "l.sqlite").close()
    assert [(tmp_path / f"l.sqlite.old-v2{n}").read_bytes() for n in ("", "-2")] == old


def test_layout_that_was_used_under_the_version_before_is_recognised(tmp_path: Path) -> None:
    """As version 2 wrote it: other columns, and a WAL that was not folded back because the process died."""
    write_old = """
import os, sqlite3, sys
database = sqlite3.connect(sys.argv[1])
database.execute("PRAGMA journal_mode = WAL")
with database:
    database.execute("CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL)")
    database.execute("INSERT INTO meta VALUES ('schema_version', '2')")
    database.execute("CREATE TABLE units (key BLOB PRIMARY KEY, sha256 BLOB NOT NULL, masked NOT NULL)")
    database.execute("INSERT INTO units VALUES (x'01', x'02', 3)")
os._exit(0)
"""
    subprocess.run([sys.executable, "-c", write_old, str(tmp_path / "l.sqlite")], check=True)
    with Ledger(tmp_path / "l.sqlite") as opened:
        assert len(opened) == 0
    old = sqlite3.connect(tmp_path / "l.sqlite.old-v2")
    assert old.execute("SELECT masked FROM units").fetchall() == [(3,)]
    old.close()


def test_ledger_of_an_older_version_is_not_taken_over(tmp_path: Path) -> None:
    old = of_version(2, tmp_path / "old.sqlite")
    with Ledger(tmp_path / "l.sqlite") as opened, pytest.raises(LedgerError, match="a ledger of version 2"):
        opened.absorb(tmp_path / "old.sqlite")
    with pytest.raises(LedgerError, match="a ledger of version 2"):
        ledger.export_ledger(tmp_path / "old.sqlite", tmp_path / "copy.sqlite")
    assert (tmp_path / "old.sqlite").read_bytes() == old


_UNTIL_FULL = """
import resource, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from higgsnb.engine import Ledger
from higgsnb.errors import LedgerError
from higgsnb.results import Record
with Ledger(Path(sys.argv[1])) as ledger:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
    done = 0
    try:
        while done < 1000:
            record = Record(0, 0, done, done + 1, b"", b"", b"", b"", 0, "", "baskets", "blocks", bytes(1000))
            ledger.commit([(done.to_bytes(4, "big"), record)])
            done += 1
    except LedgerError as error:
        print(done, str(error).splitlines()[1])
"""


def test_full_disk_loses_nothing_that_was_committed(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _UNTIL_FULL, str(tmp_path / "l.sqlite"), str(KIT)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    committed, _, message = done.stdout.strip().partition(" ")
    assert message.startswith("Nothing is lost that was finished before. Free some space")
    with Ledger(tmp_path / "l.sqlite") as opened:
        kept = finished(opened, [number.to_bytes(4, "big") for number in range(1000)])
        assert {int.from_bytes(key, "big") for key in kept} == set(range(int(committed)))
        assert 10 < len(kept) < 1000


_KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from higgsnb import datasets, engine, selection
from higgsnb.results import analyse as real
left = [int(sys.argv[4])]
def analyse(*arguments, **options):
    left[0] -= 1
    if left[0] < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*arguments, **options)
analyse.__module__, analyse.__qualname__ = real.__module__, real.__qualname__
engine.run.__kwdefaults__["analyse"] = analyse
for _ in engine.run(datasets.load(sys.argv[2]), selection.load("open2012"), chunk_events=100, ledger=Path(sys.argv[3])):
    pass
"""


def test_killed_at_any_moment_and_run_again_gives_the_same_bytes(one: Campaign, tmp_path: Path) -> None:
    killed = datasets.load(to_toml(one, tmp_path / "killed.toml"))
    codes = []
    for survived in (3, 11, 20, 1000):
        command = [sys.executable, "-c", _KILLED, str(KIT), str(tmp_path / "killed.toml")]
        codes.append(subprocess.run([*command, str(tmp_path / "l.sqlite"), str(survived)], check=False).returncode)
    assert codes == [-signal.SIGKILL, -signal.SIGKILL, -signal.SIGKILL, 0]
    resumed, whole = last(killed, ledger=tmp_path / "l.sqlite"), last(killed)
    assert results.document(resumed) == results.document(whole)
    for name, result in (("resumed", resumed), ("whole", whole)):
        results.write(result, tmp_path / name, run={})
        plots.save(plots.mass_4l(result), tmp_path / name)
    for path in (tmp_path / "whole").iterdir():
        assert path.read_bytes() == (tmp_path / "resumed" / path.name).read_bytes()


def test_many_chunks_are_resumed_exactly(tmp_path: Path) -> None:
    n, pairs = 5000, np.array([[7, 1], [20, 2]], NUMBER).tobytes()
    records = [
        (number.to_bytes(4, "big"), Record(0, 0, number, number + 1, pairs, pairs, b"", b"", 1, "", "r", "i", b""))
        for number in range(n)
    ]
    with Ledger(tmp_path / "l.sqlite") as opened:
        opened.commit(records)
        found = merge(record for some in opened.records(key for key, _ in records) for record in some.values())
    assert found.ranges == {(0, 0): ((0, n),)}
    assert found.counts[0].ravel()[[7, 20]].tolist() == [n, 2 * n]
    assert found.rejected_by_golden_json == {0: n}


def test_exported_ledger_is_whole_during_a_run_and_goes_on_elsewhere(
    one: Campaign, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    last(one, ledger=tmp_path / "here.sqlite", fraction=0.5)
    with Ledger(tmp_path / "here.sqlite"):  # in use
        exported = ledger.export_ledger(tmp_path / "here.sqlite", tmp_path / "download.sqlite")
    with Ledger(tmp_path / "there" / "l.sqlite") as there:
        assert there.absorb(tmp_path / "download.sqlite") == exported == 20
        assert there.absorb(tmp_path / "download.sqlite") == 0
    seen = analysed(monkeypatch)
    found = last(one, ledger=tmp_path / "there" / "l.sqlite")
    assert len(seen) == 36 - 16  # the last piece of each half is another one of the whole
    assert results.document(found) == results.document(last(one))


def test_ledger_with_other_results_is_not_taken_over(one: Campaign, tmp_path: Path) -> None:
    record = pack(tallies(one)[0])
    for name, content in (("a", record), ("b", record._replace(rejected_by_golden_json=1))):
        with Ledger(tmp_path / name) as opened:
            opened.commit([(b"key", content)])
    with Ledger(tmp_path / "a") as opened, pytest.raises(NondeterminismError, match="gave two different results"):
        opened.absorb(tmp_path / "b")


def test_damaged_rows_are_not_taken_over(one: Campaign, tmp_path: Path) -> None:
    with Ledger(tmp_path / "a") as opened:
        opened.commit([(bytes([i]), pack(tally)) for i, tally in enumerate(tallies(one)[:5])])
    with sqlite3.connect(tmp_path / "a") as database:
        database.execute("UPDATE units SET stop = stop + 1 WHERE key = ?", (bytes([3]),))
    database.close()
    with Ledger(tmp_path / "b") as opened:
        assert opened.absorb(tmp_path / "a") == 4
        (tmp_path / "no.sqlite").write_bytes(b"x" * 5000)
        with pytest.raises(LedgerError, match="not a usable ledger"):
            opened.absorb(tmp_path / "no.sqlite")


def test_attempts_are_counted_and_closed(tmp_path: Path) -> None:
    with Ledger(tmp_path / "l.sqlite") as opened:
        opened.begin([b"a", b"b"], alone=False)
        opened.begin([b"a"], alone=True)
        assert opened.attempts([b"a", b"b", b"c"]) == {b"a": (2, 2, 1), b"b": (1, 1, 0)}
        opened.end([b"a"])
        assert opened.attempts([b"a"]) == {b"a": (2, 0, 0)}
        assert opened.begun_again() == 1


def test_ledger_whose_folder_was_removed_is_named(one: Campaign, tmp_path: Path) -> None:
    record = pack(tallies(one)[0])
    with Ledger(tmp_path / "gone" / "l.sqlite") as opened:
        opened.commit([(b"a", record)])
        shutil.rmtree(tmp_path / "gone")
        with pytest.raises(LedgerError, match="was removed or replaced while it was in use"):
            opened.commit([(b"b", record)])


NO_LOCKS = """
import errno, os, sys
from pathlib import Path
from higgsnb.engine import Ledger
from higgsnb.errors import LedgerError

for kind in ("flock", "fcntl"):
    for error in ("ENOLCK", "EOPNOTSUPP", "ENOSYS"):
        if os.fork() == 0:
            without_locks(kind, getattr(errno, error))
            try:
                Ledger(Path("folder/ledger.sqlite"))
            except LedgerError as caught:
                print(error, caught, sep="|", flush=True)
            os._exit(0)
        os.wait()
"""


@pytest.mark.skipif(bool(why_no_filters()), reason=why_no_filters())
def test_file_system_without_locks_is_named_with_two_ways_out(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_LOCKS + NO_LOCKS], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    texts = {
        "ENOLCK": "No locks available",
        "EOPNOTSUPP": "Operation not supported",
        "ENOSYS": "Function not implemented",
    }
    hint = "Keep the ledger on a local disk: --ledger FILE (ledger=PATH); or run without: --ledger none."
    messages = [
        f"{error}|the file system of folder has no locks ({text}), which a ledger needs\n{hint}\n"
        for error, text in texts.items()
    ]
    assert done.stdout == "".join(2 * messages), done.stderr
    assert list((tmp_path / "folder").iterdir()) == []


@pytest.mark.parametrize("kind", ["symbolic", "hard"])
def test_link_at_the_name_of_the_lock_is_not_followed(kind: str, tmp_path: Path) -> None:
    victim, lock = tmp_path / "victim", tmp_path / ".ledger.sqlite.lock"
    victim.write_text("precious")
    lock.symlink_to(victim) if kind == "symbolic" else lock.hardlink_to(victim)
    with pytest.raises(LedgerError, match=r"\.lock is a (link|second name of another file)\nRemove it"):
        Ledger(tmp_path / "ledger.sqlite")
    assert victim.read_text() == "precious"
    lock.unlink()
    Ledger(tmp_path / "ledger.sqlite").close()
