"""``--json`` where there is a table: one document on stdout, with the structure that the README describes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from higgsnb import cluster
from higgsnb.__main__ import main
from higgsnb.cluster.machine import Check

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


def document(*arguments: str, code: int = 0) -> dict[str, Any]:
    done = CliRunner().invoke(main, [*arguments, "--json"])
    assert done.exit_code == code, done.output
    assert done.stdout.isascii()
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def described(command: str) -> set[str]:
    """The keys that the README names for a command, at any depth."""
    row = re.search(rf"^\| `{command}[^|]*\|(.*)\|$", README, re.MULTILINE)
    assert row
    return set(re.findall(r"`(\w+)`", row[1]))


def keys(content: object) -> set[str]:
    if isinstance(content, list):
        return set().union(*map(keys, content))
    if not isinstance(content, dict):
        return set()
    return set(content).union(*map(keys, content.values()))


def test_plan_of_the_toy_knows_files_that_are_not_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HIGGSNB_CACHE", str(tmp_path))
    found = document("plan", "toy", "--chunk-events", "20000")
    assert keys(found) == described("plan")
    assert found["datasets"][0] == {
        "name": "SMHiggsToZZTo4L", "process": "higgs", "files": 1, "chunks": 2, "events": 30_000, "bytes": 3_049_777,
    }  # fmt: skip
    assert found["total"] == {"files": 7, "chunks": 9, "events": 121_198, "bytes": 13_674_601}
    assert found["estimate"]["events"] == 121_198
    assert found["estimate"]["transfer_bytes"] == 0
    assert list(tmp_path.iterdir()) == []


def test_plan_says_null_where_the_campaign_does_not_state_it(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text(
        '[campaign]\nname = "a"\nschema = "csv"\nluminosity_fb = 1\nluminosity_uncertainty = 0\nenergy_tev = 8\n'
        '[[dataset]]\nname = "d"\nprocess = "data"\nfile = [{ url = "a.csv" }, { url = "b.csv", events = 3 }]\n'
    )
    found = document("plan", str(tmp_path / "c.toml"), "--price", "1")
    assert found["total"] == {"files": 2, "chunks": None, "events": None, "bytes": None}
    assert {found["estimate"][key] for key in ("events", "read_bytes", "seconds", "egress_cost")} == {None}


def test_plan_of_a_campaign_of_the_catalogue_has_its_cost() -> None:
    found = document("plan", "cms2012", "--price", "0.1", "--workers", "4")
    assert found["total"]["events"] == 120_347_816
    assert found["estimate"]["cores"] == 4
    assert found["estimate"]["egress_cost"] == pytest.approx(found["estimate"]["transfer_bytes"] * 1e-10)


@pytest.fixture(scope="module")
def checks(tmp_path_factory: pytest.TempPathFactory) -> list[Check]:
    """What `doctor` finds where the mirror is not there; other problems of this machine are left out."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HIGGSNB_MIRROR", str(tmp_path_factory.mktemp("mirror") / "absent"))
        return [check for check in cluster.doctor() if check.good or check.name == "mirror"]


@pytest.mark.parametrize(("bad", "strict", "code"), [(True, True, 3), (True, False, 0), (False, True, 0)])
def test_doctor_fails_only_if_it_is_strict_and_has_found_a_problem(
    bad: bool, strict: bool, code: int, checks: list[Check], monkeypatch: pytest.MonkeyPatch
) -> None:
    checks = [check for check in checks if check.good or bad]
    monkeypatch.setattr(cluster, "doctor", lambda: iter(checks))
    found = document("doctor", *(["--strict"] if strict else []), code=code)
    assert keys(found) == described("doctor")
    assert found["problems"] == int(bad)
    assert len(found["checks"]) == len(checks)
    assert [check["name"] for check in found["checks"] if not check["good"]] == ["mirror"] * bad


def test_run_prints_what_it_writes(tmp_path: Path) -> None:
    out = tmp_path / "out"
    found = document("run", "toy", "--out", str(out), "--quiet", "--fraction", "0.1", code=3)
    written = found.pop("written")
    assert found == json.loads((out / "result.json").read_text())
    assert {Path(path).name for path in written} >= {"result.json", "histograms.json", "mass_4l.png"}
    assert described("run") <= {*found, "written"}
    shown = document("ledger", "show", str(out))
    assert set(shown) == described("ledger show")
    assert shown == {"ledger": str(out / "ledger.sqlite"), "chunks_finished": 7, "chunks_started_again": 0}
