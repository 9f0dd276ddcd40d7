"""The command line: exit codes, errors of one to three lines, and the result directory of the contract."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import signal
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result
from generators import random_leptons
from http_server import Fault, FileServer
from matplotlib.image import imread
from outreach import events_of, write
from packaging.version import Version

from higgsnb.__main__ import main
from higgsnb.engine import Ledger

CAMPAIGN = """
[campaign]
name = "mine"
schema = "outreach"
luminosity_fb = 10.0
luminosity_uncertainty = 0.02
energy_tev = 8
primary_dataset_precedence = ["DoubleMu", "DoubleElectron"]
[[dataset]]
name = "mu"
process = "data"
primary_dataset = "DoubleMu"
file = [{{ url = "{mu}"{extra} }}]
[[dataset]]
name = "e"
process = "data"
primary_dataset = "DoubleElectron"
file = [{{ url = "{e}" }}]
[[dataset]]
name = "mc"
process = "higgs"
cross_section_pb = 0.1
file = [{{ url = "{mc}" }}]
"""
NANOAOD = """
[campaign]
name = "nano"
schema = "nanoaod"
luminosity_fb = 1.0
luminosity_uncertainty = 0.0
energy_tev = 13
[[dataset]]
name = "d"
process = "data"
file = [{{ url = "{url}" }}]
"""
README_PICTURE = Path(__file__).resolve().parents[1] / ".github" / "mass_4l_toy.png"
OUTPUTS = {"result.json", "histograms.json", "candidates.parquet", "mass_4l.png", "mass_4l.svg"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three outreach files in the folder ``data``."""
    folder = tmp_path_factory.mktemp("cli")
    leptons = random_leptons(2500, seed=3)
    (folder / "data").mkdir()
    for name, start, stop in (("mu", 0, 1500), ("e", 1000, 2500), ("mc", 0, 2500)):
        write(folder / "data" / f"{name}.root", events_of(leptons, start, stop))
    return folder


def toml(path: Path, base: str, *, extra: str = "", **urls: str) -> Path:
    """Write a campaign of the three files under an address or folder."""
    path.write_text(
        CAMPAIGN.format(extra=extra, **{name: urls.get(name, f"{base}/{name}.root") for name in ("mu", "e", "mc")})
    )
    return path


def invoke(*arguments: str | Path, code: int = 0) -> Result:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == code, f"{result.output}\n{result.stderr}\n{result.exception!r}"
    assert "Traceback" not in result.output
    return result


def document(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "result.json").read_text())
    return content


def test_result_directory_is_that_of_the_contract(folder: Path, tmp_path: Path) -> None:
    invoke("run", toml(folder / "a.toml", "data"), "--out", tmp_path / "out")
    visible = {path.name for path in (tmp_path / "out").iterdir() if not path.name.startswith(".")}
    assert visible == OUTPUTS | {"ledger.sqlite"}
    found = document(tmp_path / "out")
    assert found["schema_version"] == 1
    assert found["complete"] is True
    assert found["coverage"] == {"events": [5500, 5500], "files": [3, 3], "luminosity_fb": [10.0, 10.0]}
    assert set(found["yields"]) == {"data", "higgs"}
    assert set(found["yields"]["higgs"]["4mu"]) == {"events", "expected", "stat_error"}
    assert {"118-130", "121.5-130.5", "70-181"} <= set(found["windows"])
    assert found["cutflow"]["mu"]["4mu"][0] == ["all", 1500]
    assert found["provenance"]["selection"]["name"] == "open2012"
    assert (tmp_path / "out" / "result.json").read_text().index('"complete"') > 0


def test_ledger_can_be_on_another_disk_or_nowhere(folder: Path, tmp_path: Path) -> None:
    campaign, elsewhere = toml(folder / "ledger.toml", "data"), tmp_path / "local" / "mine.sqlite"
    for name, ledger in (("a", elsewhere), ("b", "none")):
        invoke("run", campaign, "--quiet", "--out", tmp_path / name, "--ledger", ledger)
        assert {path.name for path in (tmp_path / name).iterdir()} == OUTPUTS
    with Ledger(elsewhere) as opened:
        assert len(opened) == 3
    for name in OUTPUTS - {"result.json"}:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_cache_for_others_that_cannot_be_written_is_refused_before_the_work() -> None:
    result = invoke("warm", "--shared", "/dev/null/cache", code=2)
    assert "cannot write to /dev/null/cache" in result.stderr
    assert "owner" in result.stderr


@pytest.mark.skipif(Version(mpl.__version__) < Version("3.11"), reason="it sets text in another way")
def test_picture_in_the_readme_is_what_the_first_command_makes(tmp_path: Path) -> None:
    invoke("run", "--out", tmp_path, "--quiet")
    shown, made = (imread(path) for path in (README_PICTURE, tmp_path / "mass_4l.png"))
    assert shown.shape == made.shape
    # A later version of matplotlib may draw an edge differently; a cut that moved changes four times as much.
    assert np.abs(shown - made).mean() < 0.0005, "if it should look like this, copy it over the one in .github"


def test_parquet_rows_are_the_yields(folder: Path, tmp_path: Path) -> None:
    invoke("run", toml(folder / "a.toml", "data"), "--out", tmp_path, "--quiet")
    rows = pq.read_table(tmp_path / "candidates.parquet").to_pylist()
    for process, per in document(tmp_path)["yields"].items():
        for channel, one in per.items():
            assert one["events"] == sum(row["process"] == process and row["channel"] == channel for row in rows)
    assert all(abs(row["mass_z1"] - 91.1876) <= abs(row["mass_z2"] - 91.1876) for row in rows)
    assert all(row["lep1_pt"] >= row["lep2_pt"] and row["lep1_pdg_id"] == -row["lep2_pdg_id"] for row in rows)


def test_mirror_over_http_gives_the_same_bytes_as_a_local_one(
    folder: Path, tmp_path: Path, http_server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    campaign = toml(folder / "remote.toml", "https://data.example/open/higgs")
    for name in ("mu", "e", "mc"):
        http_server.add(f"/class/{name}.root", (folder / "data" / f"{name}.root").read_bytes())
    monkeypatch.setenv("HIGGSNB_MIRROR", str(folder / "data"))
    invoke("run", campaign, "--out", tmp_path / "local")
    monkeypatch.setenv("HIGGSNB_MIRROR", f"{http_server.base}/class")
    invoke("run", campaign, "--out", tmp_path / "http")
    local, remote = document(tmp_path / "local"), document(tmp_path / "http")
    del local["run"], remote["run"]
    assert json.dumps(local) == json.dumps(remote)
    for name in OUTPUTS - {"result.json"}:
        assert (tmp_path / "local" / name).read_bytes() == (tmp_path / "http" / name).read_bytes()
    assert any(seen.path == "/class/mu.root" for seen in http_server.seen)


def test_flipped_byte_is_caught_by_the_checksum(folder: Path, tmp_path: Path) -> None:
    content = bytearray((folder / "data" / "mu.root").read_bytes())
    extra = f', adler32 = "{zlib.adler32(content):08x}", bytes = {len(content)}'
    content[len(content) // 2] ^= 0x40
    (tmp_path / "mu.root").write_bytes(content)
    campaign = toml(folder / "flip.toml", "data", mu=str(tmp_path / "mu.root"), extra=extra)
    result = invoke("run", campaign, "--out", tmp_path / "out", code=3)
    assert "ChecksumError" in result.stderr
    assert document(tmp_path / "out")["failed"][0]["error"] == "ChecksumError"
    assert document(tmp_path / "out")["yields"]["higgs"]["4mu"]["events"] > 0


@pytest.mark.parametrize(
    ("content", "error"), [(b"<html>moved</html>", "HTML"), (None, "mu.root"), ("half", "truncated")]
)
def test_bad_file_gives_one_message_and_exit_code_3(folder: Path, tmp_path: Path, content: object, error: str) -> None:
    path = tmp_path / "mu.root"
    if content == "half":
        path.write_bytes((folder / "data" / "mu.root").read_bytes()[:20_000])
    elif isinstance(content, bytes):
        path.write_bytes(content)
    result = invoke(
        "run", toml(folder / "bad.toml", "data", mu=str(path)), "--out", tmp_path / "out", "--quiet", code=3
    )
    lines = result.stderr.strip().splitlines()
    assert error in lines[0]
    assert len([line for line in lines if line.startswith("higgsnb: mu: ")]) == 1
    assert len(lines) <= 4
    assert "incomplete: 2 of 3 files" in lines[-1]
    found = document(tmp_path / "out")
    assert found["failed"][0]["remedy"]
    assert [line.strip() for line in lines[1:-1]] == found["failed"][0]["remedy"].splitlines()
    assert found["complete"] is False
    assert set(found["failed"][0]) == {"dataset", "file", "error", "message", "remedy"}
    assert "PARTIAL" in (tmp_path / "out" / "mass_4l.svg").read_text()
    assert pq.read_schema(tmp_path / "out" / "candidates.parquet").metadata[b"complete"] == b"false"
    assert json.loads((tmp_path / "out" / "histograms.json").read_text())["complete"] is False


@pytest.mark.parametrize(("options", "shown"), [([], False), (["-v"], True), (["--log-level", "error"], False)])
def test_log_level_shows_the_messages_of_the_package(
    folder: Path, tmp_path: Path, options: list[str], shown: bool
) -> None:
    result = invoke(*options, "run", toml(folder / "a.toml", "data"), "--out", tmp_path, "--quiet")
    assert ("INFO higgsnb.engine.loop: 0 of 3 chunks are in the ledger" in result.stderr) == shown
    assert logging.getLogger("higgsnb").handlers == []


def test_file_without_luminosity_block_has_exit_code_3(shared_data: Path, tmp_path: Path) -> None:
    path = shared_data / "nanoaod" / "missing_luminosityBlock.root"
    (tmp_path / "a.toml").write_text(NANOAOD.format(url=path))
    result = invoke("run", tmp_path / "a.toml", "--out", tmp_path / "out", "--quiet", code=3)
    assert "lacks luminosityBlock" in result.stderr


def test_local_paths_give_the_same_bytes_as_a_mirror(
    folder: Path, tmp_path: Path, http_server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = {n: _known(folder / "data" / f"{n}.root") for n in ("mu", "e", "mc")}
    local = (folder / "data").as_uri()
    for name in known:
        http_server.add(f"/{name}.root", (folder / "data" / f"{name}.root").read_bytes())
    invoke("run", _toml_known(folder / "l.toml", local, known), "--out", tmp_path / "local")
    monkeypatch.setenv("HIGGSNB_MIRROR", http_server.base)
    invoke("run", _toml_known(folder / "h.toml", "https://data.example", known), "--out", tmp_path / "http")
    one, other = document(tmp_path / "local"), document(tmp_path / "http")
    for found in (one, other):
        del found["run"]
        for file in found["provenance"]["files"]:
            file["file"] = file["file"].rpartition("/")[2]
    assert one == other
    assert (tmp_path / "local" / "histograms.json").read_bytes() == (tmp_path / "http" / "histograms.json").read_bytes()


def test_large_remote_file_is_streamed_and_gives_the_same_numbers(
    folder: Path, tmp_path: Path, http_server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("mu", "e", "mc"):
        http_server.add(f"/{name}.root", (folder / "data" / f"{name}.root").read_bytes())
    monkeypatch.setenv("HIGGSNB_CACHE", str(tmp_path / "cache"))
    invoke("run", toml(folder / "a.toml", "data"), "--out", tmp_path / "local")
    monkeypatch.setenv("HIGGSNB_STREAM_ABOVE", "1000")
    http_server.fail("/mu.root", *[Fault(status=503)] * 3)
    invoke("run", toml(folder / "s.toml", http_server.base), "--out", tmp_path / "streamed")
    assert not list((tmp_path / "cache").rglob("*.root"))
    for name in ("histograms.json", "candidates.parquet"):
        assert (tmp_path / "local" / name).read_bytes() == (tmp_path / "streamed" / name).read_bytes()
    assert {file["integrity"][0] for file in document(tmp_path / "streamed")["provenance"]["files"]} == {"blocks"}


def _known(path: Path) -> str:
    content = path.read_bytes()
    return f', bytes = {len(content)}, adler32 = "{zlib.adler32(content):08x}"'


def _toml_known(path: Path, base: str, known: dict[str, str]) -> Path:
    text = CAMPAIGN.replace("{extra}", "")
    for name, about in known.items():
        text = text.replace(f'"{{{name}}}"', f'"{base}/{name}.root"{about}')
    path.write_text(text.replace("{{", "{").replace("}}", "}"))
    return path


def test_no_secret_of_an_address_is_written_or_printed(folder: Path, tmp_path: Path, http_server: FileServer) -> None:
    host = http_server.base.removeprefix("http://")
    url = f"http://someone:CANARY-password@{host}/absent.root?token=CANARY-token"
    result = invoke("run", toml(folder / "secret.toml", "data", mu=url), "--out", tmp_path / "out", code=3)
    assert "absent.root" in result.stderr
    written = b"".join(path.read_bytes() for path in (tmp_path / "out").iterdir())
    assert b"CANARY" not in written + result.output.encode() + result.stderr.encode()


@pytest.mark.parametrize("options", [[], ["--scheduler", "processes"]])
def test_run_that_may_not_compile_ends_at_once_with_the_reason(
    tmp_path: Path, folder: Path, options: list[str]
) -> None:
    command = [sys.executable, "-m", "higgsnb", "run", str(toml(folder / "a.toml", "data")), *options]
    environment = {**os.environ, "NUMBA_DISABLE_JIT": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "higgsnb: NUMBA_DISABLE_JIT is set" in done.stderr
    assert done.stderr.endswith("Remove NUMBA_DISABLE_JIT from the environment.\n")


_INTERRUPTIBLE = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
from higgsnb.__main__ import main
main()
"""


def test_interrupt_ends_a_run_that_waits_for_a_silent_server(tmp_path: Path, http_server: FileServer) -> None:
    http_server.fail("/mu.root", Fault(stall=True, times=None))
    (tmp_path / "a.toml").write_text(NANOAOD.format(url=f"{http_server.base}/mu.root"))
    command = [sys.executable, "-c", _INTERRUPTIBLE, "run", str(tmp_path / "a.toml"), "--out", str(tmp_path / "out")]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        while not http_server.seen:
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "interrupted" in errors


def test_reader_of_the_output_that_goes_away_does_not_change_the_exit_code(folder: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "higgsnb", "run", str(toml(folder / "a.toml", "data")), "--out", str(tmp_path)]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert document(tmp_path)["complete"] is True


@pytest.mark.parametrize(("charset", "sign"), [("iso8859-5", "+-"), ("cp1252", "±"), ("utf-8", "±")])
def test_terminal_that_lacks_letters_gets_others(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, charset: str, sign: str
) -> None:
    path = toml(folder / "l.toml", "data")
    path.write_text(path.read_text().replace('"mine"', '"mine"\ntitle = "10 fb⁻¹ → Ångström…"', 1), encoding="utf-8")
    runner = CliRunner(charset=charset)
    monkeypatch.chdir(tmp_path)
    shown = runner.invoke(main, ["run", str(path), "--out", "s3:a\udcff"])
    assert shown.exit_code == 0, shown.stderr
    expected = document(tmp_path / "s3:a\udcff")["yields"]["higgs"]["4mu"]
    assert f"{expected['expected']:.2f} {sign} {expected['stat_error']:.2f}" in shown.stdout
    assert ("10 fb-1 -> Angstrom..." if charset == "iso8859-5" else "10 fb") in shown.stderr
    assert runner.invoke(main, ["run", "--help"]).exit_code == 0


def test_range_of_two_thousand_million_sections_is_written_as_a_range(folder: Path, tmp_path: Path) -> None:
    (folder / "g.json").write_text('{"1": [[0, 2147483647]]}')
    path = toml(folder / "g.toml", "data")
    path.write_text(path.read_text().replace("energy_tev", 'golden_json = "g.json"\nenergy_tev', 1))
    invoke("run", path, "--out", tmp_path, "--quiet")
    found = document(tmp_path)["luminosity"]
    assert found["processed"]["mu"] == {"1": [[0, 2147483647]]}


ODD_NAMES = ("a::b.root", "trail.root ", "~backup.root", "user.me:data16.root", "a?b#c%20.root", "é µ.root")


@pytest.mark.parametrize("name", ODD_NAMES)
def test_file_of_any_name_is_read(folder: Path, tmp_path: Path, name: str) -> None:
    invoke("run", toml(folder / "a.toml", "data"), "--out", tmp_path / "1", "--quiet")
    (folder / name).write_bytes((folder / "data" / "mc.root").read_bytes())
    url = f"./{name}" if not name.startswith("~") else name
    invoke("run", toml(folder / "b.toml", "data", mc=url), "--out", tmp_path / "2", "--quiet")
    assert document(tmp_path / "2")["yields"] == document(tmp_path / "1")["yields"]


def test_file_of_the_user_in_the_result_directory_stays(folder: Path, tmp_path: Path) -> None:
    (tmp_path / ".higgsnb").write_text("mine")
    invoke("run", toml(folder / "a.toml", "data"), "--out", tmp_path, "--quiet")
    assert (tmp_path / ".higgsnb").read_text() == "mine"


def test_second_run_in_a_directory_that_is_in_use_is_refused(folder: Path, tmp_path: Path) -> None:
    with Ledger(tmp_path / "ledger.sqlite"):
        result = invoke("run", toml(folder / "a.toml", "data"), "--out", tmp_path, code=2)
    assert "is in use by process" in result.stderr
    assert "--out" in result.stderr


def test_strict_stops_with_exit_code_2(folder: Path, tmp_path: Path) -> None:
    campaign = toml(folder / "bad.toml", "data", mu=str(tmp_path / "absent.root"))
    result = invoke("run", campaign, "--out", tmp_path / "out", "--on-error", "strict", "--quiet", code=2)
    assert len(result.stderr.strip().splitlines()) <= 3


def test_fraction_is_flagged_everywhere(folder: Path, tmp_path: Path) -> None:
    result = invoke("run", toml(folder / "a.toml", "data"), "--out", tmp_path, "--fraction", "0.2", code=3)
    assert "incomplete: 0 of 3 files, 1,100 of 5,500 events, 2 of 10 /fb" in result.stderr
    assert document(tmp_path)["coverage"]["events"] == [1100, 5500]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "tooy"], "unknown campaign 'tooy'"),
        (["run", "toy", "--selection", "opne2012"], "Did you mean open2012?"),
        (["run", "nowhere/mine.toml"], "no campaign file at"),
        (["run", "--fraction", "2"], "--fraction"),
        (["fetch", "toy", "ZZTo4m"], "ZZTo4mu"),
        (["plan", "tooy"], "unknown campaign 'tooy'"),
    ],
)
def test_bad_usage_is_named_with_exit_code_2(arguments: list[str], message: str) -> None:
    result = invoke(*arguments, code=2)
    assert message in result.stderr


def test_unknown_key_names_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text('[campaign]\nname = "a"\nluminositty_fb = 3\n')
    result = invoke("run", tmp_path / "a.toml", code=2)
    assert len(result.stderr.strip().splitlines()) <= 3


def test_result_directory_that_cannot_be_written_is_found_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = invoke("run", "toy", "--out", tmp_path / "file" / "out", code=2)
    assert "Name another directory with --out" in result.stderr


def test_plan_reads_nothing() -> None:
    output = invoke("plan", "cms2012", "--price", "0.1").output
    assert "120,347,816" in output
    assert "12,790,089,202" in output
    assert "egress    at most 1.16 at 0.1 per GB" in output


@pytest.mark.parametrize("missing", ["numba", "numpy", "uproot", "pyarrow"])
def test_doctor_names_a_library_that_cannot_be_imported(missing: str) -> None:
    code = f"import sys; sys.modules[{missing!r}] = None\nfrom higgsnb.__main__ import main\nmain(['doctor'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search(f"^!! +libraries .*\\b{missing}\\b", done.stdout, re.MULTILINE)
    assert "Install the package again" in done.stdout


def test_doctor_gives_a_hint_for_every_problem(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HIGGSNB_MIRROR", str(tmp_path / "absent"))
    lines = invoke("doctor").output.splitlines()
    problem = next(i for i, line in enumerate(lines) if line.startswith("!!  mirror"))
    assert "HIGGSNB_MIRROR" in lines[problem + 1]
    assert lines[-1].endswith("with a hint above")


def test_fetch_verifies_and_brings_the_file(
    folder: Path, http_server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HIGGSNB_CACHE", str(tmp_path))
    content = (folder / "data" / "mu.root").read_bytes()
    url = http_server.add("/mu.root", content)
    campaign = toml(folder / "fetch.toml", "data", mu=url)
    path = Path(invoke("fetch", campaign, "mu").stdout.strip())
    assert hashlib.sha256(path.read_bytes()).digest() == hashlib.sha256(content).digest()


def test_unexpected_error_has_exit_code_1_and_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    from higgsnb import datasets

    def broken(name: str) -> None:
        raise KeyError(name)

    monkeypatch.setattr(datasets, "load", broken)
    result = invoke("plan", code=1)
    assert "unexpected KeyError" in result.stderr
    assert "--debug" in result.stderr


def test_toy_finds_the_higgs_from_the_shell(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "higgsnb", "run", "--out", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    assert "simulated collisions; 7 of 7 files" in done.stdout
    found = document(tmp_path)
    assert found["simulated"] is True
    window = found["windows"]["118-130"]
    signal = sum(one["expected"] for one in window["higgs"].values())
    background = sum(one["expected"] for process in ("zz", "zx") for one in window[process].values())
    assert signal > 2 * background**0.5
    assert "simulated" in (tmp_path / "mass_4l.svg").read_text()


def test_ledger_is_carried_from_one_directory_to_another(folder: Path, tmp_path: Path) -> None:
    campaign = str(toml(tmp_path / "c.toml", str(folder / "data")))
    invoke("run", campaign, "--out", str(tmp_path / "a"), "--chunk-events", "300", "--quiet")
    assert invoke("ledger", "show", str(tmp_path / "a")).output == "19 chunks finished, 0 started more than once\n"
    exported = invoke("ledger", "export", str(tmp_path / "a"), str(tmp_path / "download.sqlite"))
    assert exported.output.endswith("download.sqlite: 19 chunks\n")
    assert (
        "19 chunks added" in invoke("ledger", "import", str(tmp_path / "b"), str(tmp_path / "download.sqlite")).output
    )
    invoke("run", campaign, "--out", str(tmp_path / "b"), "--chunk-events", "300", "--quiet")
    assert (tmp_path / "a" / "histograms.json").read_bytes() == (tmp_path / "b" / "histograms.json").read_bytes()
    assert "has no ledger.sqlite" in invoke("ledger", "show", str(folder), code=2).output


def test_processes_do_the_same_and_a_missing_scheduler_is_named(folder: Path, tmp_path: Path) -> None:
    campaign = str(toml(tmp_path / "c.toml", str(folder / "data")))
    for name in ("threads", "processes"):
        invoke("run", campaign, "--out", tmp_path / name, "--scheduler", name, "--quiet")
    threads, processes = (tmp_path / name / "histograms.json" for name in ("threads", "processes"))
    assert threads.read_bytes() == processes.read_bytes()
    assert json.loads((tmp_path / "processes" / "result.json").read_text())["run"]["backend"] == "processes"
    missing = invoke("run", campaign, "--out", tmp_path / "no", "--scheduler", "127.0.0.1:9", code=2)
    assert "no Dask scheduler at 127.0.0.1:9" in missing.output


def test_clean_without_kubernetes_finds_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert invoke("clean").output == "no orphaned clusters\n"
