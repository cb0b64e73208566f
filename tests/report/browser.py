"""A real chromium that is told what to do over two pipes (its DevTools protocol): no driver and no socket are needed."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest

PATH = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = ["--headless", "--no-sandbox", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-sync"]
FLAGS += ["--disable-component-update", "--disable-dev-shm-usage"]
WEBGL = ["--use-angle=swiftshader", "--enable-unsafe-swiftshader"]  # on the processor
NO_WEBGL = ["--disable-gpu", "--disable-3d-apis"]


def browser() -> str:
    """The browser's path. Without one the test is skipped, or fails where BRAINLENS_BROWSER=required says that there is one."""
    if PATH is None:
        if os.environ.get("BRAINLENS_BROWSER") == "required":
            pytest.fail("BRAINLENS_BROWSER=required, and no chromium was found; install it, or leave the variable out")
        pytest.skip("no chromium")
    return PATH


class Tab:
    """One page in a browser of its own: evaluate, click, drag, take a picture; `said` are console lines and refused requests."""

    def __init__(self, page: Path, profile: Path, flags: Sequence[str] = WEBGL, *, size: tuple[int, int] = (1280, 900)) -> None:
        program = browser()
        asked, answered = os.pipe(), os.pipe()
        # chromium reads from its file 3 and writes to its file 4
        command = f'exec "$@" 3<&{asked[0]} 4>&{answered[1]}'
        words = ["bash", "-c", command, "tab", program, *FLAGS, *flags, "--remote-debugging-pipe", f"--user-data-dir={profile}",
                 f"--window-size={size[0]},{size[1]}", "about:blank"]  # fmt: skip
        self._process = subprocess.Popen(
            words, pass_fds=(asked[0], answered[1]), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        os.close(asked[0])
        os.close(answered[1])
        self._out, self._in = asked[1], os.fdopen(answered[0], "rb", buffering=0)
        self._rest, self._number, self.said, self._session = b"", 0, [], ""  # type: bytes, int, list[str], str
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.ask(f"{domain}.enable")
        self.ask("Page.navigate", url=page.as_uri())

    def ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Sends one command and waits for its answer; what the page says in the meantime is kept in `said`."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        message |= {"sessionId": self._session} if self._session else {}
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                result: dict[str, Any] = answer["result"]
                return result
            self._note(answer)

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            part = self._in.read(1 << 20)
            assert part, "the browser has gone"
            self._rest += part
        line, _, self._rest = self._rest.partition(b"\0")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _note(self, event: dict[str, Any]) -> None:
        name, told = event.get("method"), event.get("params", {})
        if name == "Log.entryAdded":
            self.said.append(told["entry"]["text"])
        elif name == "Runtime.consoleAPICalled":
            self.said.append(" ".join(str(a.get("value", "")) for a in told["args"]))
        elif name == "Runtime.exceptionThrown":
            self.said.append(str(told["exceptionDetails"].get("exception", {}).get("description", told)))
        elif name == "Network.requestWillBeSent" and not told["request"]["url"].startswith(("data:", "file:", "about:")):
            self.said.append(f"request: {told['request']['url'][:200]}")

    def value(self, script: str) -> Any:
        """The value of an expression in the page."""
        return self.ask("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)["result"].get("value")

    def wait(self, script: str, seconds: float = 60) -> Any:
        """The first value of the expression that is true; fails after so many seconds."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            found = self.value(script)
            if found:
                return found
            time.sleep(0.1)
        raise AssertionError(f"not within {seconds} s: {script}; the page said {self.said}")

    def mouse(self, *points: tuple[float, float]) -> None:
        """Presses at the first point (window pixels), moves over the others, lets go at the last."""
        for kind, (x, y) in (
            ("mousePressed", points[0]),
            *(("mouseMoved", p) for p in points[1:]),
            ("mouseReleased", points[-1]),
        ):
            self.ask("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", buttons=1, clickCount=1)

    def picture(self, path: Path) -> None:
        """The window as PNG."""
        path.write_bytes(base64.b64decode(self.ask("Page.captureScreenshot", format="png")["data"]))

    def __enter__(self) -> Tab:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._process.terminate()
        self._process.wait(timeout=30)
        os.close(self._out)
        self._in.close()
