"""A real browser for tests: headless Chromium, driven by the WebDriver protocol over HTTP.

Nothing but the two Debian packages is needed (``make chromium`` brings them where it may).
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

MISSING = (
    "THERE IS NO CHROMIUM: the report is not looked at in a browser (on Debian or Ubuntu: "
    "apt-get install chromium chromium-driver, or make chromium as root)"
)
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
)
_STARTS_WITHIN_S = 60.0
RIGHT, LEFT, HOME, END, TAB = "\ue014", "\ue012", "\ue011", "\ue010", "\ue004"


def binaries() -> tuple[str, str] | None:
    """Chromium and its driver; None where either is missing."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    driver = shutil.which("chromedriver")
    return None if browser is None or driver is None else (browser, driver)


class Browser:
    """One session. Only local files are opened; the network goes to a proxy that is not there."""

    def __init__(self, address: str, browser: str, profile: Path) -> None:
        self._address = address
        options = {
            "binary": browser,
            # Whatever a page asks for beyond this machine fails, and says so in its log.
            "args": [*FLAGS, f"--user-data-dir={profile}", "--proxy-server=127.0.0.1:9"],
        }
        always = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        made = self._ask("POST", "/session", {"capabilities": {"alwaysMatch": always}})
        self._session = f"/session/{made['sessionId']}"

    def _ask(self, method: str, path: str, body: object = None) -> Any:
        data = None if method == "GET" else json.dumps(body or {}).encode()
        request = urllib.request.Request(self._address + path, data, method=method)
        try:
            with urllib.request.urlopen(request) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            told = json.load(error)["value"]["message"]
            raise RuntimeError(f"the browser refused {path}: {told}") from None

    def do(self, path: str, body: object = None, method: str = "POST") -> Any:
        """A command of the session."""
        return self._ask(method, self._session + path, body)

    def open(self, page: str) -> None:
        self.do("/url", {"url": page})

    def run(self, script: str, *arguments: object) -> Any:
        """The value that a script returns."""
        return self.do("/execute/sync", {"script": script, "args": list(arguments)})

    def text(self, selector: str) -> str:
        return str(self.run("return document.querySelector(arguments[0]).textContent", selector))

    def press(self, keys: str) -> None:
        """Keys on whatever has the focus."""
        pressed = [{"type": kind, "value": key} for key in keys for kind in ("keyDown", "keyUp")]
        self.do("/actions", {"actions": [{"type": "key", "id": "keys", "actions": pressed}]})

    def chrome(self, command: str, **parameters: object) -> Any:
        """A command of the developer tools."""
        return self.do("/goog/cdp/execute", {"cmd": command, "params": parameters})

    def size(self, width: int, height: int, *, scale: float = 1.0) -> None:
        self.chrome(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=scale,
            mobile=False,
        )

    def media(self, *, dark: bool = False, kind: str = "") -> None:
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.chrome("Emulation.setEmulatedMedia", media=kind, features=[scheme])

    def picture(self, path: Path) -> None:
        """The whole page as PNG."""
        taken = self.chrome("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(taken["data"]))

    def pdf(self) -> bytes:
        return base64.b64decode(self.do("/print", {"background": True}))

    def messages(self) -> list[str]:
        """What the page complained of since it was asked last."""
        return [entry["message"] for entry in self.do("/se/log", {"type": "browser"})]


@contextmanager
def browser() -> Iterator[Browser]:
    """A browser with a profile of its own; it ends with the block."""
    found = binaries()
    assert found is not None, MISSING
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        home = {**os.environ, "HOME": folder, "XDG_CONFIG_HOME": folder, "XDG_CACHE_HOME": folder}
        process = subprocess.Popen(
            [found[1], "--port=0"],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=home,
            start_new_session=True,
        )
        try:
            session = Browser(_address(process), found[0], Path(folder) / "profile")
            try:
                yield session
            finally:
                session.do("", method="DELETE")
        finally:
            # The driver and the browser that it started are a group of their own.
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            assert process.stdout is not None
            process.stdout.close()


def _address(process: subprocess.Popen[str]) -> str:
    """Where the driver listens: it says so on its output."""
    assert process.stdout is not None
    started = time.monotonic()
    for said in process.stdout:
        if "started successfully on port" in said:
            port = said.rstrip(".\n").rpartition(" ")[2]
            return f"http://127.0.0.1:{port}"
        if time.monotonic() - started > _STARTS_WITHIN_S:
            break
    raise RuntimeError("chromedriver did not say where it listens")
