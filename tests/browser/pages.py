"""What the browser tests are made of: a page that notes its requests, a widget without Jupyter, Jupyter servers."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import nbformat

if TYPE_CHECKING:
    from playwright.sync_api import BrowserContext, Page, Request

ROOT = Path(__file__).resolve().parents[2]
# Voilà's own template asks a web site for icons. This header forbids pages to ask anybody but their own server.
POLICY = {"Content-Security-Policy": "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob: ws:"}
LOCAL = {"127.0.0.1", "localhost"}
SECONDS_TO_START = 180

# A page that shows one widget as a notebook would, with the state of a real Python object, but without a kernel: what
# the widget sends is kept in `sent`, and `update` replaces its state.
ALONE = """
async ({esm, css, state, theme}) => {
  document.body.dataset.jpThemeLight = String(theme !== "dark");
  const style = document.createElement("style");
  style.textContent = css;
  document.head.append(style);
  const place = document.createElement("div");
  document.body.append(place);
  const listeners = new Map();
  window.sent = [];
  const model = {
    get: () => state,
    on: (name, listener) => listeners.set(name, listener),
    off: (name) => listeners.delete(name),
    send: (content) => window.sent.push(content),
  };
  window.update = (next) => { state = next; listeners.get("change:state")(); };
  const address = URL.createObjectURL(new Blob([esm], {type: "text/javascript"}));
  const module = await import(address);
  window.remove = module.default.render({model, el: place});
}
"""
# JupyterLab's own variables of its dark theme, those that the widgets use.
DARK = """:root { --jp-ui-font-color1: rgba(255,255,255,.87); --jp-ui-font-color2: rgba(255,255,255,.54);
--jp-layout-color0: #111; --jp-layout-color2: #424242; --jp-border-color1: #616161; } body { background: #111 }"""
ASK_KERNEL = """
async (code) => {
  const kernel = window.jupyterapp.shell.currentWidget.sessionContext.session.kernel;
  const future = kernel.requestExecute({ code });
  const answers = [];
  future.onIOPub = (message) => answers.push(message.content.text);
  await future.done;
  return answers.filter(Boolean).join("");
}
"""
# From the message of the kernel to the screen: two frames, so that the first has surely been painted.
PAINT = """
(state) => new Promise((done) => {
  const begun = performance.now();
  window.update(state);
  requestAnimationFrame(() => {
    document.querySelector(".hn svg").getBoundingClientRect();
    const channel = new MessageChannel();
    channel.port1.onmessage = () => done(performance.now() - begun);
    channel.port2.postMessage(0);
  });
})
"""

# Where the terms of a list of definitions and what they mean begin, and whether these stand beside each other.
ROWS = """
(list) => [...list.querySelectorAll("dt")].map((term) => {
  const [one, other] = [term, term.nextSibling].map((element) => element.getBoundingClientRect());
  return [Math.round(one.left), Math.round(other.left), one.top === other.top, one.right <= other.left];
})
"""

# Run every cell of the notebook that JupyterLab shows.
RUN_ALL = """
async () => {
  const { commands, shell } = window.jupyterapp;
  await shell.currentWidget.sessionContext.ready;
  await commands.execute("notebook:run-all-cells");
}
"""


@dataclass
class Visit:
    """A window of its own, and every address that was asked for in it."""

    context: BrowserContext
    addresses: list[str] = field(default_factory=list)
    refused: set[str] = field(default_factory=set)
    errors: list[str] = field(default_factory=list)
    page: Page = field(init=False)

    def __post_init__(self) -> None:
        self.context.on("request", lambda request: self.addresses.append(request.url))
        self.context.on("requestfailed", self._failed)
        self.page = self.context.new_page()
        self.page.on("websocket", lambda socket_: self.addresses.append(socket_.url))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))

    def _failed(self, request: Request) -> None:
        if request.failure == "csp":  # the policy of the page forbade it, so that nothing was sent
            self.refused.add(request.url)

    @property
    def foreign(self) -> list[str]:
        """The addresses on other machines that were asked."""
        return [address for address in self.addresses if not is_local(address) and address not in self.refused]

    def show(self, widget: Any, *, theme: str = "light", **changes: Any) -> Page:
        """Show a widget without Jupyter, its state changed here and there."""
        self.page.set_content(f"<!doctype html><html lang=en><style>{DARK if theme == 'dark' else ''}</style>")
        state = {**widget.state, **changes}
        self.page.evaluate(ALONE, {"esm": widget._esm, "css": widget._css, "state": plain(state), "theme": theme})
        self.page.wait_for_function("document.querySelector('.hn')")
        return self.page


def is_local(address: str) -> bool:
    """Whether an address is on this machine or on none at all."""
    parts = urlsplit(address)
    return parts.scheme in {"blob", "data", "about"} or parts.hostname in LOCAL


def plain(state: Any) -> Any:
    """A state as it arrives in the browser."""
    return json.loads(json.dumps(state))


def notebook(path: Path, *cells: str) -> Path:
    """Write a notebook of these cells of code."""
    document = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    document.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(document, path)
    return path


@dataclass(frozen=True)
class Server:
    """A Jupyter server: where it is, the folder it shows, and its process ID."""

    address: str
    folder: Path
    process: int


@contextmanager
def jupyterlab(folder: Path) -> Iterator[Server]:
    """Serve a folder with JupyterLab."""
    port = free_port()
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", f"--port={port}", "--expose-app-in-browser"]
    command += ["--ServerApp.ip=127.0.0.1", "--IdentityProvider.token=", f"--ServerApp.root_dir={folder}"]
    command += ["--ServerApp.port_retries=0", "--LabApp.news_url=", "--LabApp.extension_manager=readonly"]
    command += ["--ServerApp.allow_root=True"]
    settings = folder / ".jupyter" / "SETTINGS" / "@jupyterlab" / "apputils-extension"
    settings.mkdir(parents=True)
    (settings / "notification.jupyterlab-settings").write_text('{"fetchNews": "false"}')
    with serving(command, folder, f"http://127.0.0.1:{port}", "/api") as server:
        yield server


@contextmanager
def voila(folder: Path) -> Iterator[Callable[[Path], Server]]:
    """A function that serves a notebook with Voilà until the end of the context."""
    with ExitStack() as stack:

        def serve(path: Path) -> Server:
            port = free_port()
            command = [sys.executable, "-m", "voila", str(path), "--no-browser", f"--port={port}"]
            command += ["--Voila.ip=127.0.0.1", f"--Voila.tornado_settings={{'headers': {POLICY}}}"]
            address = f"http://127.0.0.1:{port}"
            return stack.enter_context(serving(command, folder, address, "/static/voila.js", any_answer=True))

        yield serve


@contextmanager
def serving(
    command: list[str], folder: Path, address: str, probe: str, *, any_answer: bool = False
) -> Iterator[Server]:
    """Run a server in folders of its own, from when it answers until the end of the context."""
    log = folder / "server.log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=environment(folder), cwd=folder, stdout=output, stderr=output)
    try:
        wait_for(lambda: answers(address + probe, any_answer) or process.poll() is not None, SECONDS_TO_START)
        if process.poll() is not None:
            raise RuntimeError(f"the server ended:\n{log.read_text(encoding='utf-8')[-3000:]}")
        yield Server(address, folder, process.pid)
    finally:
        process.terminate()
        process.wait(timeout=30)


def environment(folder: Path) -> dict[str, str]:
    """The environment of a server that knows nothing of this user's settings, and whose kernels find the package."""
    names = ("CONFIG_DIR", "DATA_DIR", "RUNTIME_DIR")
    private = {f"JUPYTER_{name}": str(folder / ".jupyter" / name) for name in names}
    private |= {f"JUPYTERLAB_{name}_DIR": str(folder / ".jupyter" / name) for name in ("SETTINGS", "WORKSPACES")}
    paths = [os.environ.get("PYTHONPATH", ""), str(ROOT)]
    return {
        **os.environ,
        **private,
        "IPYTHONDIR": str(folder / ".ipython"),
        "JUPYTER_PATH": str(ROOT / "higgsnb" / "widgets" / "static"),  # the template of these sources, not an older one
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
    }


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def answers(address: str, any_answer: bool) -> bool:
    """Whether a server answers at an address."""
    try:
        with urllib.request.urlopen(address, timeout=5):  # noqa: S310 - an address made here
            return True
    except urllib.error.HTTPError:
        return any_answer
    except OSError:
        return False


def wait_for(condition: Callable[[], bool], seconds: float) -> None:
    """Wait until a condition holds; TimeoutError if it does not within so many seconds."""
    never, deadline = threading.Event(), time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {seconds:g} s")
        never.wait(0.1)
