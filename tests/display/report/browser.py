"""A headless Chromium that tests talk to through a pipe, in its own DevTools protocol: no driver, no port."""

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-pipe",
)

# Chromium reads commands from descriptor 3 and answers on 4.
LAUNCH = """import os, sys
os.dup2(int(sys.argv[1]), 3)
os.dup2(int(sys.argv[2]), 4)
os.execvp(sys.argv[3], sys.argv[3:])
"""


def installed() -> str | None:
    """Return the path of a Chromium, None where there is none."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Browser:
    """One browser with one page."""

    def __init__(self, program: str, profile: Path, patience: float = 120) -> None:
        self._patience = patience
        self._last = 0
        self._unread = b""
        self._session: str | None = None
        self.events: list[dict[str, Any]] = []
        commands, self._send = _pipe()
        self._receive, answers = _pipe()
        launch = [sys.executable, "-c", LAUNCH, str(commands), str(answers), program]
        self._process = subprocess.Popen(
            [*launch, *FLAGS, f"--user-data-dir={profile}"],
            pass_fds=(commands, answers),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(commands)
        os.close(answers)
        try:
            self._attach()
        except BaseException:
            self._end()
            raise

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send one command and return its answer; events that come before it are kept."""
        self._last += 1
        message: dict[str, Any] = {"id": self._last, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        text = json.dumps(message).encode() + b"\0"
        while text:
            text = text[os.write(self._send, text) :]
        while (answer := self._next()).get("id") != self._last:
            self.events.append(answer)
        if "error" in answer:
            raise AssertionError(f"{method}: {answer['error']}")
        return answer["result"]

    def open(self, path: Path, view: str = "") -> None:
        """Load a page from disk, as a link to a view of it would; wait until it and its scripts are done."""
        # From another page: otherwise an address that differs in its view alone loads nothing.
        for address in ("about:blank", f"{path.as_uri()}#{view}" if view else path.as_uri()):
            self.events.clear()
            self.call("Page.navigate", url=address)
            self.wait("Page.loadEventFired")

    def wait(self, method: str, **parameters: Any) -> None:
        """Wait for an event with these parameters, unless it came already."""
        while not any(
            event.get("method") == method and parameters.items() <= event["params"].items()
            for event in self.events
        ):
            self.events.append(self._next())

    def ask(self, script: str) -> Any:
        """Return the value of an expression, awaited where it is a promise."""
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise AssertionError(f"{script}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def press(self, key: str, code: int, text: str = "") -> None:
        """Press and release a key, as a keyboard would."""
        known = {"key": key, "code": key, "windowsVirtualKeyCode": code}
        self.call("Input.dispatchKeyEvent", type="keyDown", text=text, **known)
        self.call("Input.dispatchKeyEvent", type="keyUp", **known)

    def resize(self, width: int, height: int = 900) -> None:
        """Give the page another width; below 600 pixels it is a phone's."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1,
                  mobile=width < 600)  # fmt: skip

    def medium(self, name: str, scheme: str = "light") -> None:
        """Show the page as on ``screen`` or in ``print``, with the system set to ``light`` or ``dark``."""
        setting = {"name": "prefers-color-scheme", "value": scheme}
        self.call("Emulation.setEmulatedMedia", media=name, features=[setting])

    def picture(self, path: Path, *, whole: bool = True) -> None:
        """Write the page as PNG."""
        taken = self.call("Page.captureScreenshot", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(taken["data"]))

    def pdf(self) -> bytes:
        """Return the page as it would be printed."""
        return base64.b64decode(self.call("Page.printToPDF", printBackground=False)["data"])

    def requests(self) -> list[str]:
        """Return all addresses asked for since the page was opened."""
        sent = [event for event in self.events if event.get("method") == "Network.requestWillBeSent"]
        return [event["params"]["request"]["url"] for event in sent]

    def complaints(self) -> list[str]:
        """Return errors and warnings since the page was opened: of scripts, of the policy, on the console."""
        found: list[str] = []
        for event in self.events:
            match event.get("method"):
                case "Runtime.exceptionThrown":
                    found.append(json.dumps(event["params"]["exceptionDetails"]))
                case "Runtime.consoleAPICalled" if event["params"]["type"] in {
                    "error",
                    "warning",
                    "assert",
                    "trace",
                }:
                    found.append(json.dumps(event["params"]["args"]))
                case "Log.entryAdded" if event["params"]["entry"]["level"] in {"error", "warning"}:
                    found.append(json.dumps(event["params"]["entry"]))
                case _:
                    pass
        return found

    def close(self) -> None:
        """End the browser and wait for it."""
        self._session = None
        try:
            self.call("Browser.close")
            self._process.wait(self._patience)
        finally:
            self._end()

    def _attach(self) -> None:
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def _end(self) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._send)
        os.close(self._receive)

    def _next(self) -> dict[str, Any]:
        end = time.monotonic() + self._patience
        while b"\0" not in self._unread:
            ready, _, _ = select.select([self._receive], [], [], max(0.0, end - time.monotonic()))
            part = os.read(self._receive, 1 << 20) if ready else b""
            if not part:
                raise AssertionError(f"the browser ended or said nothing for {self._patience:g} s")
            self._unread += part
        text, _, self._unread = self._unread.partition(b"\0")
        return json.loads(text)


def _pipe() -> tuple[int, int]:
    """Return both ends, neither of them a descriptor that a browser gives a meaning to."""
    ends = os.pipe()
    high = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in ends]
    for end in ends:
        os.close(end)
    return high[0], high[1]
