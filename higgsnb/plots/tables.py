"""Tables of a result: yields, windows, the cutflow, candidates."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from textwrap import shorten
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from higgsnb.errors import OptionError
from higgsnb.plots.labels import coverage_text
from higgsnb.selection import Selection, four_lepton_selection

if TYPE_CHECKING:
    from higgsnb.results import Result

Cell = str | int | float
Rows = list[tuple[Cell, ...]]

NOTE_WIDTH = 240
"""Most characters of a footnote; the selection itself has the rest."""
DATA, PREDICTED = "data", "all predicted"


@dataclass(frozen=True)
class Table:
    """A small table for a notebook; ``table["column"]`` gives the values of a column.

    ``note`` states what is missing from the numbers, and is printed below, as are ``footnotes`` on what they are.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""
    footnotes: tuple[str, ...] = ()

    def __getitem__(self, column: str) -> list[Cell]:
        """Return the values of a column; KeyError names the known columns."""
        if column not in self.columns:
            raise KeyError(f"no column {column!r}; the columns are {', '.join(self.columns)}")
        return [row[self.columns.index(column)] for row in self.rows]

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        lines = [self.columns, *(tuple(map(_shown, row)) for row in self.rows)]
        widths = [max(len(line[i]) for line in lines) for i in range(len(self.columns))]
        shown = ["  ".join(text.rjust(width) for text, width in zip(line, widths, strict=True)) for line in lines]
        return "\n".join([*shown, *self.footnotes, *([self.note] if self.note else [])])

    def _repr_html_(self) -> str:
        """Return the table for a notebook, with numbers aligned to the right."""

        def cell(tag: str, value: Cell, like: Cell) -> str:
            side = "left" if isinstance(like, str) else "right"
            return f'<{tag} style="text-align:{side}">{html.escape(_shown(value))}</{tag}>'

        first = self.rows[0] if self.rows else (0,) * len(self.columns)
        head = "".join(cell("th", name, like) for name, like in zip(self.columns, first, strict=True))
        body = "".join(f"<tr>{''.join(cell('td', value, value) for value in row)}</tr>" for row in self.rows)
        notes = "".join(f"<p><small>{html.escape(one)}</small></p>" for one in self.footnotes)
        note = f"<p><strong>{html.escape(self.note)}</strong></p>" if self.note else ""
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{notes}{note}"


def _shown(value: Cell) -> str:
    """Return a value as printed in a table: two decimals, thousands separated."""
    if isinstance(value, str):
        return value
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4f}" if 0 < abs(value) < 0.1 else f"{value:,.2f}"


def yields(result: Result, window: str = "") -> Table:
    """Return expected and observed events per process and channel or region.

    ``window`` is one of the four-lepton mass (default: 118 to 130 GeV where there are windows, else all events). Raise
    KeyError if there is no such window; names the known ones.
    """
    window = window or ("118-130" if result.windows else "")
    if window:
        _check_windows(result, window)
    found = result.windows[window] if window else result.yields
    numbers = {p: [per[region].expected for region in result.regions] for p, per in found.items()}
    adds_up = bool(result.layout.binning.windows)  # channels do, regions may overlap

    def row(values: list[float]) -> tuple[float, ...]:
        return (*values, math.fsum(values)) if adds_up else tuple(values)

    rows: Rows = [(p, *(round(n, 2) for n in row(some))) for p, some in numbers.items() if p != DATA]
    if rows:
        total = [math.fsum(some[i] for p, some in numbers.items() if p != DATA) for i in range(len(result.regions))]
        rows.append((PREDICTED, *(round(n, 2) for n in row(total))))
    if DATA in numbers:
        rows.append((DATA, *(round(n) for n in row(numbers[DATA]))))
    return Table(("process", *result.regions, *("all",) * adds_up), tuple(rows), coverage_text(result))


def windows(result: Result, *names: str) -> Table:
    """Return expected and observed events in some windows of the four-lepton mass; all windows if none is named.

    Raise KeyError if there is no such window, OptionError if the analysis has none.
    """
    _check_windows(result, *names)
    found = {name: yields(result, name) for name in names or tuple(result.windows)}
    shown = [p for p in (PREDICTED, DATA) if any(p in table["process"] for table in found.values())]
    rows = [(name, *(table["all"][table["process"].index(p)] for p in shown)) for name, table in found.items()]
    return Table(("window [GeV]", *(p.removeprefix("all ") for p in shown)), tuple(rows), coverage_text(result))


def _check_windows(result: Result, *names: str) -> None:
    """Raise OptionError if an analysis has no windows, KeyError if there is none of some name."""
    if not result.windows:
        hint = (
            "Give two edges of bins: result.spectrum(…).between(80, 100), statistics.counting_test(result, (80, 100))."
        )
        raise OptionError(f"analysis {result.selection.name!r} has no windows with a name", hint)
    for name in names:
        if name not in result.windows:
            raise KeyError(f"no window {name!r}; known: {', '.join(result.windows)}")


def cutflow(result: Result, channel: str = "") -> Table:
    """Return how many events of each process pass each cut: expected for simulation, counted for data.

    ``channel`` is a channel or region (default: the first). Of weighted simulation it is the exact sum of weights, see
    `Result.weighted_cutflow`. The footnotes say what is asked for in rows whose names do not. Raise KeyError if there
    is no such channel; names the known ones.
    """
    channel = channel or result.regions[0]
    if channel not in result.regions:
        raise KeyError(f"no channel {channel!r}; known: {', '.join(result.regions)}")
    names, index = result.selection.cut_names(channel), result.regions.index(channel)

    def placed(flow: Mapping[str, Sequence[tuple[str, float]]], kind: type) -> npt.NDArray[Any]:
        """Return the rows of the channel, (n_regions, n_cuts), 0 in the others."""
        found: npt.NDArray[Any] = np.zeros((len(result.regions), len(names)), kind)
        found[index] = [n for _, n in flow.get(channel, [(name, 0) for name in names])]
        return found

    counts = {d.name: placed(result.cutflow.get(d.name, {}), np.int64) for d in result.campaign.datasets}
    weighted = {name: placed(flow, np.float64) for name, flow in result.weighted_cutflow.items()}
    sums = {name: (array, np.zeros_like(array)) for name, array in weighted.items()}
    left = result.normalised(range(len(names) + 1), counts, sums).by_process()
    rows = [(name, *(round(events[index, i].item(), 2) for events in left.values())) for i, name in enumerate(names)]
    selection = result.selection
    notes = selection.of_tree(result.campaign.tree).cut_notes if isinstance(selection, Selection) else {}
    footnotes = (shorten(f"{cut}: {what}", NOTE_WIDTH, placeholder=" …") for cut, what in notes.items())
    return Table(("cut", *left), tuple(rows), coverage_text(result), tuple(footnotes))


def candidates_in(result: Result, low: float, high: float) -> Table:
    """Return the selected events of the data with low ≤ four-lepton mass < high (GeV), in order of mass.

    Raise OptionError if the result is not one of a four-lepton selection.
    """
    four_lepton_selection(result.selection, "Name the quantities in keep, and look at result.candidates.")
    datasets, rows = result.campaign.datasets, result.candidates
    is_data = np.array([dataset.is_data for dataset in datasets], bool)[rows.dataset]
    found = rows.rows(is_data & (low <= rows.mass_4l) & (rows.mass_4l < high))
    found = found.rows(np.argsort(found.mass_4l))
    listed = zip(
        [datasets[i].name for i in found.dataset],
        found.entry.tolist(),
        [result.regions[i] for i in found.region],
        *([round(one, 2) for one in mass.tolist()] for mass in (found.mass_4l, found.mass_z1, found.mass_z2)),
        strict=True,
    )
    columns = ("dataset", "entry", "channel", "mass_4l", "mass_z1", "mass_z2")
    return Table(columns, tuple(listed), coverage_text(result))


def summary(result: Result) -> Table:
    """Return what identifies a result: code, campaign, selection, and how many events were processed."""
    code, (done, total) = result.provenance["code"], result.coverage.events
    commit = str(code["git_commit"] or "not from a git checkout")[:12]
    rows = (
        ("package", f"{code['package']} {code['version']}"),
        ("commit", f"{commit}{' with changes' if code['git_dirty'] else ''}"),
        ("campaign", f"{result.campaign.name}{' (simulated)' if result.simulated else ''}"),
        ("selection", f"{result.selection.name} {result.selection.digest[:8]}"),
        ("events", f"{done:,} of {total:,}"),
        ("complete", "yes" if result.complete else "no"),
    )
    return Table(("what", "which"), rows)
