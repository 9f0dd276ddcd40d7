"""What ``higgsnb run`` prints at the end: yields, what is missing, and where it was written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from higgsnb.cli.failures import show_failures
from higgsnb.cli.terminal import fits, paragraph, show, table

if TYPE_CHECKING:
    from higgsnb.results import Result, Yield

FORMS = ("{0:.2f} ± {1:.2f}", "{0:.2f}±{1:.2f}", "{0:.1f}±{1:.1f}", "{0:.3g}")
"""Expected events and their statistical error, the widest form first; the last one fits anywhere."""
BAR = "| "
"""Before each line of the window of interest, so that it stands out without colour, too."""


def show_report(result: Result, written: list[Path], folder: Path, *, quiet: bool) -> None:
    """Print what failed or is doubtful on stderr, then, unless ``quiet``, what was found and where it was written."""
    rest = f', all of them under "failed" in {folder / "result.json"}'
    show_failures(result.failed, rest=rest)
    for doubt in result.doubts:
        show(f"higgsnb: doubtful {doubt.kind}: {doubt.message}", err=True, fg="yellow")
        show(f"    {doubt.hint}", err=True)
    if not result.complete:
        show(f"higgsnb: incomplete: {result.coverage}", err=True, fg="red")
    if quiet:
        return
    _show_yields(result)
    show("")
    for remark in result.remarks:
        for line in paragraph("note: ", remark):
            show(line)
    coverage = str(result.coverage).replace(" ", "\N{NO-BREAK SPACE}").replace(",\N{NO-BREAK SPACE}", ", ")
    for line in paragraph("", f"{'simulated collisions; ' if result.simulated else ''}{coverage}"):
        show(line)  # broken after commas only
    for line in paragraph(f"written to {folder}: ", ", ".join(path.name for path in written)):
        show(line)


def _show_yields(result: Result) -> None:
    """Print yields over all masses and in two windows, that around the Higgs boson highlighted."""
    sections = {"all masses": result.yields}
    if result.windows:
        sections["70 < m4l < 181 GeV"] = result.windows["70-181"]
        sections["118 < m4l < 130 GeV: around the Higgs boson"] = result.windows["118-130"]
    else:
        sections = {"selected events": result.yields}
    for form in FORMS:
        parts = [
            list(_rows(yields, form, result.regions, adds_up=bool(result.windows))) for yields in sections.values()
        ]
        cells = [row for part in parts for row in part]
        if fits(cells, margin=len(BAR)):
            break
    # Laid out together, so that the columns of all sections are below each other.
    lines = iter(table(cells, margin=len(BAR)))
    last = len(parts) - 1
    for number, (title, part) in enumerate(zip(sections, parts, strict=True)):
        around_higgs = number == last > 0
        bar, colour = (BAR, "magenta") if around_higgs else (" " * len(BAR), None)
        show("")
        show(f"{bar.lstrip()}{title}", bold=True, fg=colour)
        for _ in part:
            show(f"{bar}{next(lines)}", bold=around_higgs or None, fg=colour)


def _rows(
    yields: Mapping[str, Mapping[str, Yield]], form: str, regions: Sequence[str], *, adds_up: bool
) -> Iterator[list[str]]:
    """Yield the cells of one table: a header, expected events ± statistical error by process, and the data.

    The last column is the sum, if the regions have no event in common: ``adds_up``.
    """
    yield ["", *regions, *["all"] * adds_up]
    predicted = {process: per for process, per in yields.items() if process != "data"}
    rows = dict(predicted)
    if len(predicted) > 1:
        rows["prediction"] = {region: _sum([per[region] for per in predicted.values()]) for region in regions}
    for process, per in rows.items():
        values = [*(per[region] for region in regions), *[_sum(list(per.values()))] * adds_up]
        yield [process, *(form.format(value.expected, value.stat_error) for value in values)]
    if "data" in yields:
        counts = [yields["data"][region].events for region in regions]
        yield ["data", *map(str, counts + [sum(counts)] * adds_up)]


def _sum(yields: list[Yield]) -> Yield:
    """Add up independent yields."""
    from higgsnb.results import Yield

    variance = sum(y.stat_error**2 for y in yields)
    return Yield(sum(y.events for y in yields), sum(y.expected for y in yields), variance**0.5)
