"""The how-to page about own histograms and tests: its programs run, and do what it says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import higgsnb as hn
from higgsnb.errors import OptionError
from higgsnb.selection.observables import QUANTITIES

pytestmark = pytest.mark.one_python

PAGE = Path(__file__).resolve().parents[1] / "docs" / "own_histograms_and_tests.md"
TEXT = PAGE.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the programs of the page define, run one after the other as in a notebook."""
    found: dict[str, Any] = {"__name__": "page"}
    script = tmp_path_factory.mktemp("page") / "page.py"
    script.write_text("\n".join(re.findall(r"^```python\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)))
    exec(compile(script.read_text(), str(script), "exec"), found)  # noqa: S102
    return found


def test_programs_of_the_page_do_what_it_says(names: dict[str, Any], tmp_path: Path) -> None:
    result, mine = names["result"], names["mine"]
    toml = tmp_path / "mine.toml"
    toml.write_text(re.findall(r"^```toml\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)[0])
    assert hn.selection.load(toml).digest == names["selection"].digest
    assert result.histograms["ratio"].sum() > 0
    assert np.array_equal(names["softer"].candidates.softest, names["softer"].candidates.pt.min(axis=1))
    assert {region for region, *_ in names["one_channel"].model.bins} == {"4mu"}
    assert names["window"].observed == len(hn.plots.candidates_in(result, 118, 130)) > 5
    with pytest.raises(OptionError, match="both in 'Z' and in 'heavy'"):
        hn.statistics.fit_signal_strength(mine, region=("Z", "heavy"), signal="zz")
    assert set(mine.overlaps) == {("Z", "heavy"), ("no Z", "heavy")}


def test_quantities_of_the_page_are_those_that_there_are() -> None:
    table = TEXT.partition("| quantities |")[2].partition("\n\n")[0]
    shown = set(re.findall(r"`(\w+)`", table.partition("| `lep1_pt`")[0])) - {"bins", "variable"}
    assert shown == {name for name in QUANTITIES if not name.startswith(("lep1", "lep2", "lep3", "lep4", "lepton_"))}


def test_names_on_the_page_exist() -> None:
    for name in set(re.findall(r"\bhn((?:\.\w+)+)", TEXT)):
        found = hn
        for part in name.split(".")[1:]:
            found = getattr(found, part)
