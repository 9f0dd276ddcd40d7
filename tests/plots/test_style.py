"""Figures neither change nor depend on the settings of the user, in threads and notebooks."""

from __future__ import annotations

import base64
import html
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import matplotlib as mpl
import pytest
from IPython.core.formatters import DisplayFormatter
from made_results import a_result, svg_of

from higgsnb import plots


def test_settings_of_the_user_neither_change_nor_matter(tmp_path: Path) -> None:
    plain = svg_of(a_result(), tmp_path)
    with mpl.rc_context({"font.size": 30, "svg.fonttype": "path", "axes.facecolor": "red", "savefig.bbox": "tight"}):
        before = dict(mpl.rcParams)
        assert svg_of(a_result(), tmp_path) == plain
        with pytest.raises(KeyError):
            plots.mass_4l(a_result(), histogram="none")
        assert dict(mpl.rcParams) == before


def test_figures_made_in_threads_are_the_same_and_leave_no_trace(tmp_path: Path) -> None:
    before = dict(mpl.rcParams)
    result = a_result(share=0.37)
    alone = svg_of(result, tmp_path)
    folders = [tmp_path / str(index) for index in range(6)]
    for folder in folders:
        folder.mkdir()
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda folder: svg_of(result, folder), folders))
    assert together == [alone] * 6
    assert dict(mpl.rcParams) == before


def test_figures_are_not_kept_by_pyplot() -> None:
    from matplotlib import pyplot as plt

    plots.mass_4l(a_result())
    assert plt.get_fignums() == []


def test_notebook_shows_the_figure_as_png_and_with_a_text_alternative() -> None:
    shown, metadata = DisplayFormatter().format(plots.mass_4l(a_result()))
    assert base64.b64decode(shown["image/png"]).startswith(b"\x89PNG")
    assert metadata["image/png"]["width"] == pytest.approx(560)
    alt = re.search('alt="([^"]+)"', shown["text/html"])
    assert alt is not None
    assert html.unescape(alt[1]) == metadata["image/png"]["alt"]
    assert shown["image/png"] in shown["text/html"]
