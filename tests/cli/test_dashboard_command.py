"""The command that serves the dashboard: what it hands to Voilà, and what it says without it."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import ModuleType

import pytest
from click.testing import CliRunner

from higgsnb.__main__ import main


@pytest.fixture
def options(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What Voilà is started with, instead of starting it; see tests/browser for a real one."""
    pytest.importorskip("jupyter_core", reason="no Jupyter; pip install -e '.[notebook]'")
    given: list[str] = []
    module = ModuleType("voila.app")
    module.Voila = type("Voila", (), {"launch_instance": given.extend})  # type: ignore[attr-defined]
    for name, value in {"voila": ModuleType("voila"), "voila.app": module}.items():
        monkeypatch.setitem(sys.modules, name, value)
    for name in ("HIGGSNB_CAMPAIGN", "JUPYTER_PATH"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    return given


def test_kernels_without_a_page_end_within_a_minute_and_others_never(options: list[str]) -> None:
    answer = CliRunner().invoke(main, ["dashboard", "--port", "8000"])
    assert (answer.exit_code, answer.output) == (0, "")
    culling = dict(one.split("=") for one in options if one.startswith("--MappingKernelManager."))
    idle, interval = (int(culling[f"--MappingKernelManager.cull_{name}"]) for name in ("idle_timeout", "interval"))
    assert idle + interval < 60
    assert culling["--MappingKernelManager.cull_connected"] == "False"
    assert Path(options[0]).name == "dashboard.ipynb"
    assert Path(options[0]).is_file()
    assert {"--port=8000", "--Voila.ip=127.0.0.1"} <= set(options)


def test_campaign_is_handed_to_the_kernels_a_file_with_its_whole_path(
    options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    source = Path(__file__).parents[2] / "higgsnb" / "datasets" / "campaigns" / "candidates.toml"
    (tmp_path / "mine.toml").write_text(source.read_text(encoding="utf-8"), encoding="utf-8")
    for name, expected in (("cms2012", "cms2012"), ("mine.toml", str(tmp_path / "mine.toml"))):
        assert CliRunner().invoke(main, ["dashboard", name]).exit_code == 0
        assert os.environ["HIGGSNB_CAMPAIGN"] == expected
    assert options


def test_wrong_campaign_or_no_voila_is_an_error_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = CliRunner().invoke(main, ["dashboard", "tooy"])
    assert wrong.exit_code == 2
    assert "unknown campaign 'tooy'" in wrong.output
    monkeypatch.setitem(sys.modules, "voila", None)
    without = CliRunner().invoke(main, ["dashboard"])
    assert without.exit_code == 2
    assert "pip install 'higgsnb[notebook]'" in without.output
