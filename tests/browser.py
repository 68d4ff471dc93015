"""`dallebaby serve` in a process of its own and Debian's chromium without a window, for the tests
of the page and for the README's pictures of it. Nothing is loaded from elsewhere."""

import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
BABY = Path(__file__).parents[1] / "dallebaby_cli" / "baby"
START_S = 120  # of a machine that is busy with other tests


@contextmanager
def served(home: Path, *arguments: object) -> Iterator[str]:
    """The address of a server of the workspace `home`, which ends with the block."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "dallebaby_cli", "--home", str(home), "serve"]
    command += ["--port", str(port), *map(str, arguments)]
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(command, stdout=said, stderr=said)
        try:
            url = f"http://127.0.0.1:{port}"
            end = time.monotonic() + START_S
            while not _answers(f"{url}/health"):
                if process.poll() is not None or time.monotonic() > end:
                    said.seek(0)
                    raise RuntimeError(f"{command} does not answer: {said.read().decode()}")
                time.sleep(0.1)
            yield url
        finally:
            process.terminate()
            process.wait(20)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


@contextmanager
def chromium() -> Iterator[Browser]:
    """A browser without a window."""
    assert CHROMIUM, "install Debian's chromium"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM)
        try:
            yield browser
        finally:
            browser.close()
