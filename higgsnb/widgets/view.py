"""What the live widgets share: a state that is sent to the browser as a whole, and the files it loads.

A widget keeps one dict, ``state``, and replaces it as a whole, so that everything on the page belongs together. The
browser never changes it but sends short messages (``{"do": "stop"}``). The state may be set from any thread: the work
is done in background threads, and nothing blocks the kernel.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import anywidget
import traitlets
from IPython.core.formatters import DisplayFormatter

from higgsnb import datasets, errors
from higgsnb.provenance import notebook_kernel

State = dict[str, Any]


def static(*names: str) -> str:
    """Return files of the folder ``static``, concatenated."""
    folder = Path(__file__).parent / "static"
    return "\n".join((folder / name).read_text(encoding="utf-8") for name in names)


def describe_error(error: BaseException) -> dict[str, str]:
    """Return what is wrong and what to do about it, for the browser."""
    if isinstance(error, errors.HiggsnbError):
        return {"what": datasets.redact(error.message), "hint": datasets.redact(error.hint)}
    what, _, hint = datasets.redact(str(error)).partition("\n")
    if not hint:
        what = f"{type(error).__name__}: {what}".removesuffix(": ")
        hint = "Try again. The exception is in the attribute `error` of the widget."
    return {"what": what, "hint": hint}


def error_of(action: Callable[[], object]) -> BaseException | None:
    """Run an action; return the exception that ended it, or None."""
    try:
        action()
    except BaseException as error:  # noqa: BLE001 - shown in the widget: a thread has nobody to raise it to
        return error
    return None


class Pictured(anywidget.AnyWidget):
    """A widget that leaves a static picture of itself in a saved notebook, for pages without a kernel.

    Where a program such as nbconvert runs the notebook, only the picture is left: a page made of it would fetch the
    widget's JavaScript from a public server.
    """

    def open(self) -> None:
        """Connect to the page, if there is one."""
        if _has_page():
            super().open()

    def _still(self) -> Any:
        """Return the static picture: a figure or a table."""
        raise NotImplementedError

    def _repr_mimebundle_(self, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the view, unless nothing can show it, and the picture, which Voilà has no use for."""
        shown = super()._repr_mimebundle_(**kwargs) if _has_page() else None
        data, metadata = shown or ({}, {})
        data = {**data, "text/plain": repr(self)}  # some versions of ipywidgets cut it off
        if VOILA in os.environ:
            return data, metadata
        formatter: Any = DisplayFormatter()
        still, _ = formatter.format(self._still(), include={"text/html", "image/png"})
        return {**still, **data}, metadata


VOILA = "VOILA_REQUEST_URL"
"""Set in the kernels of Voilà, which runs notebooks as nbconvert does, but then shows them as a page with a kernel."""


def _has_page() -> bool:
    """Whether somebody may look at widgets: not where those who run the notebook cannot answer questions either."""
    kernel = notebook_kernel()
    if kernel is None or VOILA in os.environ:
        return True
    return bool(kernel.get_parent("shell").get("content", {}).get("allow_stdin", True))


class View(Pictured):
    """A widget that shows ``state`` and runs the actions that the browser's messages name."""

    state = traitlets.Dict().tag(sync=True)
    heartbeat = traitlets.Int(0).tag(sync=True)

    def __init__(self, state: State, actions: Mapping[str, Callable[[State], None]]) -> None:
        super().__init__(state=state)
        self.error: BaseException | None = None
        self._changing = threading.RLock()
        self._idle = threading.Event()
        # Unknown messages are ignored.
        self.on_msg(lambda _, content, __: actions[content["do"]](content) if content.get("do") in actions else None)

    def __del__(self) -> None:
        """Close the connection to the page; a widget that is garbage-collected has nothing running."""
        anywidget.AnyWidget.close(self)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait at most ``timeout`` seconds for everything in progress to end; return whether it has ended."""
        return self._idle.wait(timeout)

    def _change(self, **changes: Any) -> None:
        """Replace some entries of the state and send all of it."""
        with self._changing:
            self.state = {**self.state, **changes}
