"""A headless Chromium, driven by its DevTools protocol over a pipe."""

import json
import os
import shutil
import subprocess
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
PATH = next(filter(None, map(shutil.which, NAMES)), None)  # None: there is no browser here
OPTIONS = "--headless --no-sandbox --disable-gpu --disable-dev-shm-usage --hide-scrollbars"
OPTIONS += " --no-first-run --disable-extensions --disable-background-networking"


class Browser:
    """One page of a browser; `events` are what it has told since it was opened.

    Args:
        network: whether names of other machines than this one are found.
    """

    def __init__(self, profile: Path, network: bool = True):
        self.events, self._count, self._session = [], 0, None
        read, self._write = os.pipe()
        self._read, write = os.pipe()

        def as_three_and_four():
            first, second = os.dup(read), os.dup(write)  # neither of them is 3 or 4 by chance
            os.dup2(first, 3)
            os.dup2(second, 4)

        command = [PATH, *OPTIONS.split(), "--remote-debugging-pipe", f"--user-data-dir={profile}"]
        command += [] if network else ["--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self._process = subprocess.Popen(
            command, preexec_fn=as_three_and_four, close_fds=False, **quiet
        )
        os.close(read)
        os.close(write)
        self._rest = b""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method, **parameters):
        """The answer to a command; an error of the browser is one of Python."""
        self._count += 1
        message = {"id": self._count, "method": method, "params": parameters}
        message |= {"sessionId": self._session} if self._session else {}
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            told = self._next()
            if told.get("id") == self._count:
                assert "error" not in told, told
                return told["result"]
            self.events.append(told)

    def _next(self):
        while b"\0" not in self._rest:
            piece = os.read(self._read, 1 << 20)
            assert piece, "the browser has ended"
            self._rest += piece
        message, self._rest = self._rest.split(b"\0", 1)
        return json.loads(message)

    def open(self, page: Path | str, width: int, scheme: str):
        """Open a file, or an address, as `look` says, until it is loaded."""
        self.events.clear()
        self.look(width, scheme)
        is_address = isinstance(page, str) and page.startswith("http")
        self.call("Page.navigate", url=page if is_address else Path(page).resolve().as_uri())
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self.events.append(self._next())

    def look(self, width: int, scheme: str):
        """Show the page in a window of so many pixels, to someone who prefers this scheme."""
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        prefers = {"name": "prefers-color-scheme", "value": scheme}
        self.call("Emulation.setEmulatedMedia", features=[prefers])

    def evaluate(self, expression: str):
        """The value of a JavaScript expression, or of its promise."""
        answer = self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def close(self):
        self._session = None
        self.call("Browser.close")
        self._process.wait(timeout=20)
        os.close(self._write)
        os.close(self._read)
