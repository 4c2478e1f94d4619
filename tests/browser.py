"""A headless Chromium for tests, driven by its DevTools protocol.

It remembers what a page did that it should not: errors in the console, exceptions, and requests to anywhere but where
the page is from.

*Source*: chromedevtools.github.io/devtools-protocol
"""

from __future__ import annotations

import base64
import itertools
import json
import shutil
import subprocess
import time
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self, cast
from urllib.parse import urlsplit

from websockets.sync.client import connect

from tests.mounts import PATIENCE

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-extensions",
    "--disable-dev-shm-usage", "--no-proxy-server", "--remote-debugging-port=0",
)  # fmt: skip


class Browser:
    """A browser with one page; use it as a context."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._numbers = itertools.count(1)
        self.problems: list[str] = []
        self.requests: list[str] = []

    def __enter__(self) -> Self:
        program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
        assert program is not None, "there is no chromium"
        words = [program, *FLAGS, f"--user-data-dir={self._directory}", "about:blank"]
        with ExitStack() as undo:
            null = subprocess.DEVNULL
            self._process = subprocess.Popen(words, stdin=null, stdout=null, stderr=null)
            undo.callback(self._process.wait, PATIENCE)
            undo.callback(self._process.terminate)
            with urllib.request.urlopen(f"http://127.0.0.1:{self._port()}/json/list", timeout=PATIENCE) as answer:
                (page,) = [target for target in json.load(answer) if target["type"] == "page"]
            socket = connect(
                page["webSocketDebuggerUrl"], max_size=1 << 26, max_queue=None, proxy=None, close_timeout=1
            )
            self._page = undo.enter_context(socket)
            for domain in ("Page", "Runtime", "Network", "Log"):
                self.call(f"{domain}.enable")
            self._undo = undo.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._undo.close()

    def _port(self) -> str:
        """Wait for the file that says where it listens, and return the port."""
        place, deadline = self._directory / "DevToolsActivePort", time.monotonic() + PATIENCE
        while not (place.exists() and (lines := place.read_text().splitlines())[1:]):
            assert time.monotonic() < deadline, "chromium does not start"
            assert self._process.poll() is None, "chromium has ended"
            time.sleep(0.02)
        return lines[0]

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Have the browser do something and return what it says."""
        number = next(self._numbers)
        self._page.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._page.recv(PATIENCE))
            if message.get("id") == number:
                assert "error" not in message, f"{method}: {message['error']}"
                return cast("dict[str, Any]", message["result"])
            self._note(message)

    def _note(self, message: dict[str, Any]) -> None:
        said = message.get("params", {})
        match message.get("method"):
            case "Runtime.exceptionThrown":
                self.problems.append(str(said["exceptionDetails"].get("exception", said)))
            case "Runtime.consoleAPICalled" if said["type"] in ("error", "warning", "assert"):
                self.problems.append(str(said["args"]))
            case "Log.entryAdded" if said["entry"]["level"] in ("error", "warning"):
                self.problems.append(f"{said['entry']['text']} {said['entry'].get('url', '')}")
            case "Network.requestWillBeSent":
                self.requests.append(said["request"]["url"])

    def open(self, url: str) -> None:
        """Go to a page, and forget what was before, once the page that was there asks for nothing more."""
        self.call("Page.navigate", url="about:blank")
        self.until("location.href === 'about:blank'")
        self.problems.clear()
        self.requests.clear()
        self.call("Page.navigate", url=url)

    def evaluate(self, script: str) -> Any:
        """Return what an expression comes to, once its promise is kept."""
        answer = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def until(self, script: str, patience: float = PATIENCE) -> Any:
        """Wait until an expression is true, and return it."""
        deadline = time.monotonic() + patience
        while not (value := self.evaluate(script)):
            shown = self.evaluate("document.body.innerText")
            assert time.monotonic() < deadline, f"not within {patience} s: {script}\n{shown}\n{self.problems}"
            time.sleep(0.05)
        return value

    def text(self, identifier: str) -> str:
        """Return the text of the element with an id."""
        return str(self.evaluate(f"document.getElementById({identifier!r}).innerText"))

    def look(self, width: int, height: int, *, dark: bool = False) -> None:
        """Give the page a size in pixels and a colour scheme."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def type(self, identifier: str, text: str) -> None:
        """Put a text into a field as a person would."""
        self.evaluate(f"document.getElementById({identifier!r}).select()")
        self.call("Input.insertText", text=text)

    def press(self, key: str) -> None:
        """Press a key and let it go."""
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key)

    def screenshot(self, place: Path) -> None:
        """Write down what the whole page looks like, as a PNG."""
        answer = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        place.write_bytes(base64.b64decode(answer["data"]))

    def strangers(self) -> list[str]:
        """Return the requests that went anywhere but to where the page is from."""
        home = urlsplit(self.evaluate("location.href")).netloc
        return [url for url in self.requests if not url.startswith("data:") and urlsplit(url).netloc != home]
