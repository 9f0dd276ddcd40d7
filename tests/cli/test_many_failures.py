"""Many files that fail: a few lines for each kind on the terminal, all of them in the result."""

from __future__ import annotations

import json
import shutil
import socket
from collections import Counter
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from generators import random_leptons
from outreach import events_of, write

from higgsnb.__main__ import main
from higgsnb.cli.failures import show_failures
from higgsnb.results import Failure

FORMS = Path(__file__).resolve().parents[1] / "data"
HEAD = """
[campaign]
name = "many"
schema = "outreach"
luminosity_fb = 10.0
luminosity_uncertainty = 0.02
energy_tev = 8
[[dataset]]
name = "mc"
process = "higgs"
cross_section_pb = 0.1
"""


def campaign(path: Path, urls: list[str]) -> Path:
    files = ", ".join(f"{{ url = {json.dumps(url)} }}" for url in urls)
    path.write_text(f"{HEAD}file = [{files}]\n", encoding="utf-8")
    return path


def run(path: Path, *options: str) -> Result:
    return CliRunner().invoke(main, ["run", str(path), "--out", str(path.parent / "out"), "--quiet", *options])


def shown(failures: list[Failure], capsys: pytest.CaptureFixture[str], rest: str = "") -> list[str]:
    show_failures(failures, rest=rest)
    return capsys.readouterr().err.splitlines()


def failure(file: str, message: str, *, dataset: str = "mc", error: str = "UnreadableError") -> Failure:
    return Failure(dataset, file, error, message, "Fetch it again.")


def test_nothing_readable_is_no_result_and_exit_code_2(tmp_path: Path) -> None:
    path = campaign(tmp_path / "c.toml", [f"absent{i:04d}.root" for i in range(1400)])
    done = run(path)
    assert done.exit_code == 2, done.output
    assert done.stderr.splitlines() == [
        "higgsnb: 1,400 files of mc: MissingFileError: not found; tried … (no such file)",
        f"    {', '.join(f'absent{i:04d}.root' for i in range(10))} and 1,390 more; --json lists all",
        "    Check the address, or list another address of the file under 'alternatives'.",
        "higgsnb: no result: none of the 1,400 files could be read",
    ]
    assert {file.name for file in (tmp_path / "out").iterdir()} <= {"ledger.sqlite", ".ledger.sqlite.lock"}
    found = json.loads(run(path, "--json").stdout)
    assert (found["complete"], len(found["failed"]), found["written"]) == (False, 1400, [])


def test_files_that_cannot_be_read_and_others_that_are_refused_are_no_result_either(tmp_path: Path) -> None:
    (tmp_path / "page.root").write_bytes(b"<html>login</html>")
    shutil.copy(FORMS / "form-float16.root", tmp_path / "other.root")
    done = run(campaign(tmp_path / "c.toml", ["page.root", "other.root", "gone.root"]))
    assert done.exit_code == 2, done.output
    assert done.stderr.splitlines()[-1] == "higgsnb: no result: none of the 3 files could be read"
    assert not (tmp_path / "out" / "result.json").exists()


def test_earlier_result_stays_where_nothing_can_be_read(tmp_path: Path) -> None:
    write(tmp_path / "a.root", events_of(random_leptons(300, seed=1), 0, 300))
    path = campaign(tmp_path / "c.toml", ["a.root"])
    assert run(path).exit_code == 0
    before = {file: file.read_bytes() for file in (tmp_path / "out").glob("*.json")}
    (tmp_path / "a.root").unlink()
    done = run(path)
    assert done.exit_code == 2
    assert "higgsnb: no result: the only file could not be read" in done.stderr
    assert "the result of an earlier run" in done.stderr
    assert {file: file.read_bytes() for file in (tmp_path / "out").glob("*.json")} == before


def test_one_readable_file_among_many_gives_a_partial_result_with_all_failures(tmp_path: Path) -> None:
    write(tmp_path / "good.root", events_of(random_leptons(300, seed=1), 0, 300))
    whole = (tmp_path / "good.root").read_bytes()
    bad = {f"half{i:02d}.root": whole[: 20_000 + i] for i in range(14)}
    bad |= {f"page {i}.root": b"<html>login</html>" for i in range(3)}
    for name, content in bad.items():
        (tmp_path / name).write_bytes(content)
    path = campaign(tmp_path / "c.toml", [*bad, "good.root", *(f"gone{i:02d}.root" for i in range(12))])
    done = run(path)
    assert done.exit_code == 3
    lines = done.stderr.splitlines()
    heads = [line for line in lines if line.startswith("higgsnb: ") and " files of mc: " in line]
    assert [line.split()[1] for line in heads] == ["14", "12", "3"]
    assert len(lines) <= 3 * len(heads) + 1
    assert "    page 0.root, page 1.root, page 2.root" in lines
    assert f'half09.root and 4 more, all of them under "failed" in {tmp_path / "out" / "result.json"}' in done.stderr
    failed = json.loads((tmp_path / "out" / "result.json").read_text())["failed"]
    assert {one["file"] for one in failed} == set(bad) | {f"gone{i:02d}.root" for i in range(12)}


def test_no_network_is_said_once_whatever_the_addresses(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    monkeypatch.setenv("HIGGSNB_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("HIGGSNB_MIRROR", raising=False)
    for arguments in (["run", "cms2012", "--out", str(tmp_path / "out"), "--quiet"], ["fetch", "cms2012", "--quiet"]):
        done = CliRunner().invoke(main, arguments)
        assert done.exit_code == {"run": 2, "fetch": 3}[arguments[0]]
        reasons = [line for line in done.stderr.splitlines() if "host opendata.cern.ch not known" in line]
        assert len(reasons) == 1
        assert reasons[0].startswith("higgsnb: 8 files: TransferError: cannot be fetched; tried … (host ")
        assert len(done.stderr.splitlines()) == 4


@pytest.mark.parametrize(
    ("one", "other", "alike"),
    [
        ("{}: holds 20000 of 41000 bytes", "{}: holds 9 of 1,234,567 bytes", True),
        ("{}: adler32 1dafc1d7 instead of ab1fc1d9", "{}: adler32 00000001 instead of ffffffff", True),
        ("tried /data/{} (no such file)", "tried /mnt/other/{} (no such file)", True),
        ("https://host/x/{}?a=1: 404", "https://host/y/{}: 404", True),
        ("{}: lacks Muon_pfRelIso03_all", "{}: lacks Muon_pfRelIso04_all", False),
        ("{}: host a.example not known", "{}: host b.example not known", False),
    ],
)
def test_kind_is_the_reason_without_name_and_numbers(
    one: str, other: str, alike: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    failures = [failure("/d/a b.root", one.format("a b.root")), failure("/d/c.root", other.format("c.root"))]
    heads = [line for line in shown(failures, capsys) if line.startswith("higgsnb")]
    assert len(heads) == (1 if alike else 2)


def test_single_failure_is_shown_with_its_whole_message(capsys: pytest.CaptureFixture[str]) -> None:
    assert shown([failure("/d/a.root", "a.root: not found; tried /d/a.root")], capsys) == [
        "higgsnb: mc: UnreadableError: a.root: not found; tried /d/a.root",
        "    Fetch it again.",
    ]


def test_a_thousand_different_reasons_stay_bounded_and_counted(capsys: pytest.CaptureFixture[str]) -> None:
    words = [f"{a}{b}{c}" for a in "ghijklmnop" for b in "ghijklmnop" for c in "ghijklmnop"]
    failures = [failure(f"{word}.root", f"it begins with {word}", dataset=word[0]) for word in words]
    failures += [failure("x.root", "it begins with zzz"), failure("y.root", "it begins with zzz", dataset="other")]
    lines = shown(failures, capsys, rest=", see there")
    assert lines[0] == "higgsnb: 2 files: UnreadableError: it begins with zzz"
    assert lines[-1] == "higgsnb: 991 more files failed for 991 other reasons, see there"
    assert len(lines) == 3 + 9 * 2 + 1
    assert Counter(line.startswith("higgsnb: ") for line in lines)[True] == 11
