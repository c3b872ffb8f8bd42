"""A headless Chromium for tests, driven through ChromeDriver's own protocol; nothing of it talks to a network beyond loopback."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

QUIET = ("--headless", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync")
BROWSER, DRIVER = "chromium", "chromedriver"
STARTS_IN_S = 60.0


def missing() -> str:
    """Which of the two programs is not on this machine; empty when both are."""
    return ", ".join(name for name in (BROWSER, DRIVER) if shutil.which(name) is None)


@dataclass(frozen=True)
class Browser:
    """One window."""

    session: str

    def look(self, page: Path, *, width: int, dark: bool, media: str = "") -> None:
        """Open a page of this machine in a window of that width and the reader's colour scheme; ``media``: print."""
        self.cdp("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 600)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.cdp("Emulation.setEmulatedMedia", media=media, features=[scheme])
        self.said()  # what was said of the page before
        self.requests(page)
        self._call("POST", "/url", {"url": page.as_uri()})

    def run(self, script: str) -> Any:
        """The value of a script that is run by the driver, which the page's policy does not bind."""
        return self._call("POST", "/execute/sync", {"script": script, "args": []})

    def said(self) -> list[str]:
        """What the console was told since it was last asked, refusals of the page's policy among it."""
        return [entry["message"] for entry in self._call("POST", "/se/log", {"type": "browser"})]

    def requests(self, page: Path) -> list[str]:
        """Every address that a page asked for since this was last asked, its own first; the browser's own window asks for things too."""
        entries = [json.loads(entry["message"])["message"] for entry in self._call("POST", "/se/log", {"type": "performance"})]
        sent = [entry["params"] for entry in entries if entry["method"] == "Network.requestWillBeSent"]
        return [one["request"]["url"] for one in sent if one["documentURL"].partition("#")[0] == page.as_uri()]

    def picture(self, path: Path) -> Path:
        """The whole page as a PNG file."""
        shot = self.cdp("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))
        return path

    def cdp(self, command: str, **parameters: Any) -> Any:
        """A command of the DevTools protocol."""
        return self._call("POST", "/goog/cdp/execute", {"cmd": command, "params": parameters})

    def _call(self, method: str, path: str, body: dict[str, Any]) -> Any:
        return _ask(method, self.session + path, body)


@contextmanager
def browser() -> Iterator[Browser]:
    """A browser with an empty profile, ended with the block."""
    with tempfile.TemporaryDirectory(prefix="tunefleet-browser-", ignore_cleanup_errors=True) as folder:
        log = Path(folder, "driver.log")
        with log.open("wb") as out:
            driver = subprocess.Popen([DRIVER, "--port=0"], stdout=out, stderr=out, env={**os.environ, "TMPDIR": folder})
        try:
            session = f"http://127.0.0.1:{_port(driver, log)}/session"
            made = _ask("POST", session, {"capabilities": {"alwaysMatch": _wishes(Path(folder, "profile"))}})
            window = Browser(f"{session}/{made['sessionId']}")
            try:
                yield window
            finally:
                _ask("DELETE", window.session, None)
        finally:
            driver.terminate()
            driver.wait(30)


def _wishes(profile: Path) -> dict[str, Any]:
    root = ["--no-sandbox"] if os.geteuid() == 0 else []
    options = {"args": [*QUIET, *root, f"--user-data-dir={profile}"], "binary": shutil.which(BROWSER)}
    return {"browserName": "chrome", "goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"}}


def _port(driver: subprocess.Popen[bytes], log: Path) -> int:
    """The port that the driver chose, out of what it says when it is ready."""
    end = time.monotonic() + STARTS_IN_S
    while time.monotonic() < end and driver.poll() is None:
        words = log.read_text(errors="replace").partition("started successfully on port ")[2]
        if words.strip():
            return int(words.split(".")[0])
        time.sleep(0.05)
    raise RuntimeError(f"chromedriver did not start: {log.read_text(errors='replace')}")


def _ask(method: str, url: str, body: dict[str, Any] | None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"}, method=method)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=120) as answer:
        return json.loads(answer.read())["value"]
