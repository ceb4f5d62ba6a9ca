"""Chromium without a window, driven by its own driver: what a page looks like, says and asks for."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

BINARY = shutil.which("chromium") or shutil.which("chromium-browser")
DRIVER = shutil.which("chromedriver")
MISSING = None if BINARY and DRIVER else "needs chromium and chromedriver: apt-get install chromium chromium-driver"
ARGS = [
    "--headless=new",
    "--hide-scrollbars",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
]
WAIT_S = 60
STARTS = 20


class Browser:
    """One session."""

    def __init__(self, url: str) -> None:
        self.url = url

    def call(self, path: str, body: Any) -> Any:
        """A command of WebDriver."""
        request = urllib.request.Request(self.url + path, json.dumps(body).encode(), {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=WAIT_S) as answer:
            return json.load(answer)["value"]

    def devtools(self, command: str, **parameters: Any) -> Any:
        """A command of the DevTools protocol."""
        return self.call("/goog/cdp/execute", {"cmd": command, "params": parameters})

    def open(self, page: Path, width: int, theme: str) -> None:
        """Load a page as a screen of this width and a user of this theme would."""
        self.devtools("Emulation.setDeviceMetricsOverride", width=width, height=844, deviceScaleFactor=1, mobile=False)
        self.devtools("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": theme}])
        self.call("/url", {"url": page.as_uri()})

    def evaluate(self, script: str) -> Any:
        """What the body of a function returns."""
        return self.call("/execute/sync", {"script": script, "args": []})

    def log(self, kind: str) -> list[dict[str, Any]]:
        """What was logged since last asked: browser (the console) or performance (the network among it)."""
        return self.call("/se/log", {"type": kind})

    def requested(self) -> set[str]:
        """The addresses that were asked for since last asked."""
        events = [json.loads(entry["message"])["message"] for entry in self.log("performance")]
        return {event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"}


def _driver() -> tuple[subprocess.Popen[str], str]:
    """The driver, and the port that it listens on.

    The driver takes a free port of IPv6 and ends if IPv4 uses the same number, which happens beside other tests. So it starts again.
    """
    assert DRIVER
    for _ in range(STARTS):
        process = subprocess.Popen([DRIVER, "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert process.stdout
        said = []
        for line in process.stdout:
            if found := re.search(r"started successfully on port (\d+)", line):
                return process, found.group(1)
            said.append(line)
        process.wait()
    raise RuntimeError(f"{DRIVER} did not start in {STARTS} attempts. The last one said: {''.join(said)}")


@contextlib.contextmanager
def browser(folder: Path) -> Iterator[Browser]:
    """A browser with a profile below ``folder``; it ends with the block."""
    assert BINARY
    process, port = _driver()
    try:
        options = {"binary": BINARY, "args": [*ARGS, f"--user-data-dir={folder / 'profile'}"]}
        wanted = {"browserName": "chrome", "goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"}}
        one = Browser(f"http://127.0.0.1:{port}")
        session = one.call("/session", {"capabilities": {"alwaysMatch": wanted}})["sessionId"]
        one.url += f"/session/{session}"
        yield one
        urllib.request.urlopen(urllib.request.Request(one.url, method="DELETE"), timeout=WAIT_S).close()
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
