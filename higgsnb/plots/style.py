"""Colours, names and fonts of all figures.

Every figure is made without pyplot and leaves matplotlib's global settings unchanged, so that it can be made in a
thread while a notebook draws something else.
"""

from __future__ import annotations

import base64
import html
import io
import re
import textwrap
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import mplhep
from matplotlib import style
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's palette, safe for colour-blind readers.
COLOURS = {"zx": "#009E73", "zz": "#56B4E9", "higgs": "#D55E00"}
OTHER_COLOURS = ("#F0E442", "#CC79A7", "#E69F00", "#0072B2")
LABELS = {
    "higgs": "H → ZZ* → 4ℓ", "zz": "ZZ*, Zγ* → 4ℓ", "zx": "Z + X",
    "zjets": "Z + jets", "wz": "WZ", "vvv": "VVV", "ttbar": "Top pairs", "ttz": "Top pairs + Z",
}  # fmt: skip
SYMBOLS = {"mass_4l": r"$m_{4\ell}$ [GeV]", "mass_z1": r"$m_{Z1}$ [GeV]", "mass_z2": r"$m_{Z2}$ [GeV]"}

# matplotlib's settings are global: only one thread at a time can style a figure.
_STYLE_LOCK = threading.RLock()


class ShownFigure(Figure):
    """A Figure that a notebook shows although pyplot does not manage it.

    ``alt`` is its text alternative, with the numbers that a reader takes from the picture.
    """

    alt: str = ""

    def _repr_png_(self) -> tuple[bytes, dict[str, Any]]:
        """Return a PNG with twice the resolution it is shown at, for high-density screens, and what goes with it."""
        data = io.BytesIO()
        with styled():
            self.savefig(data, format="png", dpi=2 * 80, metadata={"Software": None})
        width, height = (round(80 * inches) for inches in self.get_size_inches())
        return data.getvalue(), {"width": width, "height": height, "alt": self.alt}

    def _repr_mimebundle_(self, **_: Any) -> tuple[dict[str, str], dict[str, dict[str, Any]]]:
        """Return the picture as HTML with its text alternative, which notebooks do not give to a PNG, and as a PNG."""
        png, shown = self._repr_png_()
        data = base64.b64encode(png).decode()
        size = f'width="{shown["width"]}" height="{shown["height"]}" style="max-width: 100%; height: auto"'
        image = f'<img src="data:image/png;base64,{data}" alt="{html.escape(self.alt)}" {size}>'
        return {"image/png": data, "text/html": image}, {"image/png": shown}


@contextmanager
def styled() -> Iterator[None]:
    """Apply the package's style, and restore the user's on exit."""
    settings = {
        # Named font families and a complete set of math fonts: texts that are drawn later keep them.
        "font.family": ["TeX Gyre Heros", "DejaVu Sans"],
        "mathtext.fontset": "stixsans",
        "mathtext.default": "it",
        "axes.linewidth": 1.0,
        "axes.unicode_minus": True,
        "figure.facecolor": "white",
        "hatch.linewidth": 0.6,
        "savefig.bbox": None,
        "svg.fonttype": "none",
        "svg.hashsalt": "higgsnb",
    }
    with _STYLE_LOCK, style.context([mplhep.style.CMS, settings], after_reset=True):
        yield


def colour(process: str, others: list[str]) -> str:
    """Return the colour of a process; ``others`` are the processes without a fixed colour."""
    return COLOURS.get(process) or OTHER_COLOURS[others.index(process) % len(OTHER_COLOURS)]


def label(process: str) -> str:
    """Return the name of a process for a legend."""
    return LABELS.get(process) or literal(process)


def literal(text: str) -> str:
    """Return a text of somebody else, a title or a name, so that matplotlib draws it as it is.

    A dollar sign would begin a formula, and a leading underscore keep a process out of the legend.
    """
    return re.sub("^_", " _", text.replace("$", r"\$"))


def one_panel(figure: Figure, label: str, vertical: str, heading: str, note: str = "") -> Axes:
    """Return the axes of a figure with one panel, with a heading and a note above."""
    top = 0.87 if note else 0.92
    axes = figure.subplots(gridspec_kw={"left": 0.1, "right": 0.975, "bottom": 0.14, "top": top})
    axes.set_xlabel(label, fontsize=10)
    axes.set_ylabel(vertical, fontsize=10)
    axes.tick_params(labelsize=9)
    axes.text(0.0, 1.02, literal(heading), fontsize=10, fontweight="bold", transform=axes.transAxes)
    text = textwrap.fill(literal(note), 56)
    axes.text(1.0, 1.02, text, ha="right", va="bottom", fontsize=8, transform=axes.transAxes)
    return axes
