"""The progress of a run where somebody looks at it: a bar in a notebook, one line of text in a terminal."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from html import escape
from typing import TYPE_CHECKING, Any

from higgsnb.engine import arguments
from higgsnb.engine.loop import run
from higgsnb.provenance import notebook_kernel
from higgsnb.results import Failure, Result
from higgsnb.selection import Selection, is_compiled
from higgsnb.text import plain

if TYPE_CHECKING:
    from higgsnb.datasets import Campaign
    from higgsnb.selection import Analysis

Show = Callable[[str, Result], None]
"""Shows what is being done, and how far it has come."""

FIRST = "first run on this machine: simulating the toy if need be, compiling the selection (up to half a minute)"
ENDED = ("complete", "incomplete", "interrupted")
BAR = 'style="width: min(24em, 60%); vertical-align: middle" aria-label="events counted"'


def watch(campaign: Campaign | str, selection: Analysis | str, **options: Any) -> Result:
    """Run to the end, show the progress, and return the last result of `run`, whose options and errors these are.

    In a notebook a bar is shown, in whose place remain the events that were counted, the files that failed, and the
    remarks of the result; in a terminal the same as text, on stderr. Nothing is shown elsewhere, nor where the
    environment variable ``CI`` is set.
    """
    campaign, selection = arguments.loaded(campaign, selection)
    show = _display()
    result = Result(campaign, selection)
    compiles = isinstance(selection, Selection) and not is_compiled(selection.algorithm)
    doing = FIRST if compiles else "starting"
    show(doing, result)
    try:
        with closing(run(campaign, selection, **options)) as results:
            for result in results:
                show("running" if result.coverage.events[0] else doing, result)
    except BaseException:
        show("interrupted", result)
        raise
    show("complete" if result.complete else "incomplete", result)
    return result


def _display() -> Show:
    """Return what shows the progress here: a notebook, a terminal, or nothing."""
    if os.environ.get("CI"):
        return lambda _, __: None
    if notebook_kernel() is not None:
        from IPython import display

        show: Any = display.display
        handle = show({"text/plain": ""}, raw=True, display_id=True)
        return lambda doing, result: handle.update(_bundle(doing, result), raw=True)
    return _write if sys.stderr.isatty() else lambda _, __: None


def _bundle(doing: str, result: Result) -> dict[str, str]:
    """Return the progress by MIME type: a bar while the run goes on, then a line and the failures."""
    line, failures = _line(doing, result), list(_remarks(doing, result))
    done, total = result.coverage.events
    value = f'value="{done}" max="{total}"' if done else ""  # without a value the bar moves, to say that all is well
    bar = "" if doing in ENDED else f"<progress {value} {BAR}></progress> "
    rows = "".join(f"<li>{escape(text)}</li>" for text in failures)
    shown = f'<div role="status">{bar}{escape(line)}</div>{f"<ul>{rows}</ul>" if rows else ""}'
    return {"text/html": shown, "text/plain": "\n".join([line, *failures])}


def _write(doing: str, result: Result) -> None:
    """Write the progress over the line before, and the failures below when the run is over."""
    width = shutil.get_terminal_size().columns - 1
    sys.stderr.write(f"\r{plain(_line(doing, result))[:width]:<{width}}")
    if doing in ENDED:
        sys.stderr.write("".join(f"\n{plain(text)}" for text in _remarks(doing, result)) + "\n")
    sys.stderr.flush()


def _line(doing: str, result: Result) -> str:
    """Return the progress in one line."""
    failed = f", {len(result.failed)} failed" if result.failed else ""
    return f"{doing}: {result.coverage}{failed}"


def _remarks(doing: str, result: Result) -> Iterator[str]:
    """Yield a line for each kind of failure, with its first files and the hint; the doubts; at the end, the remarks."""
    for first, *others in Failure.described(result.failed, rest=", see result.failed"):
        yield ". ".join([first, *others])
    for doubt in result.doubts:
        yield f"doubtful {doubt.kind}: {doubt.message}. {doubt.hint}"
    if doing in ENDED:
        yield from result.remarks
