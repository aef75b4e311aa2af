"""A real browser, headless, driven over the pipe that Chromium offers for it."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

CHROMIUM = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)
SECONDS = 60.0  # for anything to happen, also on a busy machine

_KEYS = {
    "Tab": 9,
    "Enter": 13,
    "Escape": 27,
    "ArrowLeft": 37,
    "ArrowUp": 38,
    "ArrowRight": 39,
    "ArrowDown": 40,
}


class Page:
    """One tab. ``problems`` are exceptions, messages of the console and requests to elsewhere."""

    def __init__(self, send: int, receive: int) -> None:
        self._send, self._receive, self._number, self._rest = send, receive, 0, b""
        self._session: str | None = None
        self.problems: list[str] = []
        self.requested: list[str] = []
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        attached = self._call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._call(f"{domain}.enable")

    def _call(self, method: str, **parameters: Any) -> Any:
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._send, json.dumps(message).encode() + b"\0")
        until = time.monotonic() + SECONDS
        while True:
            while b"\0" not in self._rest:
                left = until - time.monotonic()
                if left <= 0 or not select.select([self._receive], [], [], left)[0]:
                    raise TimeoutError(f"the browser does not answer {method}")
                part = os.read(self._receive, 1 << 20)
                if not part:
                    raise ConnectionError("the browser has ended")
                self._rest += part
            text, _, self._rest = self._rest.partition(b"\0")
            said = json.loads(text)
            if said.get("id") == self._number:
                if "error" in said:
                    raise RuntimeError(f"{method}: {said['error']['message']}")
                return said["result"]
            self._note(said.get("method"), said.get("params", {}))

    def _note(self, event: str | None, told: Any) -> None:
        if event == "Network.requestWillBeSent":
            self.requested.append(told["request"]["url"])
        elif event == "Runtime.exceptionThrown":
            self.problems.append(json.dumps(told["exceptionDetails"]))
        elif event == "Log.entryAdded" and told["entry"]["level"] in ("error", "warning"):
            self.problems.append(told["entry"]["text"])
        elif event == "Runtime.consoleAPICalled":
            self.problems.append(json.dumps(told["args"]))
        elif event == "Page.javascriptDialogOpening":
            self.problems.append(told["message"])
            raise AssertionError(f"a dialog opened: {told['message']}")

    def open(self, url: str) -> None:
        """Another page, without what was noted of those before it."""
        self._call("Page.navigate", url="about:blank")
        self.problems.clear()
        self.requested.clear()
        self._call("Page.navigate", url=url)
        there = f"location.href === {json.dumps(url)}"
        self.until(f"{there} && document.readyState === 'complete'")

    def get(self, expression: str) -> Any:
        """The value of JavaScript."""
        found = self._call(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True
        )
        if "exceptionDetails" in found:
            raise RuntimeError(f"{expression}: {found['exceptionDetails']}")
        return found["result"].get("value")

    def until(self, expression: str) -> Any:
        """The value of JavaScript once it is true."""
        end = time.monotonic() + SECONDS
        while not (value := self.get(expression)):
            assert time.monotonic() < end, f"never true: {expression}; {self.problems}"
            time.sleep(0.02)
        return value

    def press(self, *keys: str) -> None:
        for key in keys:
            given = {"key": key, "code": key, "windowsVirtualKeyCode": _KEYS[key]}
            text = {"text": "\r"} if key == "Enter" else {}
            self._call("Input.dispatchKeyEvent", type="keyDown", **given, **text)
            self._call("Input.dispatchKeyEvent", type="keyUp", **given)

    def write(self, text: str) -> None:
        self._call("Input.insertText", text=text)

    def click(self, selector: str, x: float = 0.5, y: float = 0.5) -> None:
        """With the mouse, at a share of the element's width and height."""
        box = self.get(
            f"(() => {{ const it = document.querySelector({json.dumps(selector)});"
            "it.scrollIntoView({block: 'center', behavior: 'instant'});"
            "const b = it.getBoundingClientRect(); return [b.x, b.y, b.width, b.height]; })()"
        )
        place = {"x": box[0] + x * box[2], "y": box[1] + y * box[3]}
        self._call("Input.dispatchMouseEvent", type="mouseMoved", **place)
        for kind in ("mousePressed", "mouseReleased"):
            self._call("Input.dispatchMouseEvent", type=kind, button="left", clickCount=1, **place)

    def size(self, width: int, height: int, *, phone: bool = False) -> None:
        self._call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=phone,
        )

    def dark(self, yes: bool) -> None:
        value = "dark" if yes else "light"
        features = [{"name": "prefers-color-scheme", "value": value}]
        self._call("Emulation.setEmulatedMedia", features=features)

    def names(self) -> list[tuple[str, str]]:
        """Role and name of all that a screen reader finds."""
        nodes = self._call("Accessibility.getFullAXTree")["nodes"]
        return [
            (node["role"]["value"], node.get("name", {}).get("value", ""))
            for node in nodes
            if not node["ignored"]
        ]

    def picture(self, path: Path) -> None:
        shot = self._call("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))


@contextlib.contextmanager
def browser(folder: Path) -> Iterator[Page]:
    """A browser with its profile in a folder."""
    assert CHROMIUM is not None
    their_in, our_out = os.pipe()
    our_in, their_out = os.pipe()
    options = [
        *("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
        *("--remote-debugging-pipe", "--no-first-run", "--hide-scrollbars"),
        f"--user-data-dir={folder}",
    ]
    # the pipe is descriptors 3 and 4 of the browser
    line = f'exec "$0" "$@" 3<&{their_in} 4>&{their_out}'
    process = subprocess.Popen(
        ["bash", "-c", line, CHROMIUM, *options],
        pass_fds=(their_in, their_out),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(their_in)
    os.close(their_out)
    try:
        yield Page(our_out, our_in)
    finally:
        os.close(our_out)  # which ends it
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)
        process.kill()
        process.wait()
        os.close(our_in)
