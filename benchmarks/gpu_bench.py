"""What every section of gpu.py needs: time, commands, and what the device can do at most."""

import contextlib
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from dallebaby_cli.drawing import speed
from dallebaby_cli.models import device as devices
from dallebaby_cli.training import peak

ROOT = Path(__file__).parent.parent
ALL_S = 480.0
CLOSING_S = 3.0  # of a section's time, in which to say what became of its command
TAIL = 3000  # characters of what a failed command said


class OutOfTimeError(Exception):
    """A section has had its time."""


class Bench:
    """What all sections need: where, how large, how long, and what the device can do at most."""

    def __init__(self, options: Any) -> None:
        """`options` are gpu.py's own."""
        self.options, self.cpu = options, options.cpu
        self.device = devices.resolve("cpu" if self.cpu else "cuda")
        self.presets = ["tiny"] if self.cpu else options.presets
        self.smaller = ["model.grid=4"] if self.cpu else []  # settings of every model
        self.batches = [1, 3] if self.cpu else [64, 1, 8, 256]
        self.seconds, self.least = (0.0, 1) if self.cpu else (1.0, 3)  # of a rate
        if self.cpu:
            speed.LONG_S, peak.PATIENCE_S = 0.0, 0.1
        self.end = time.monotonic() + ALL_S
        self.until = self.end  # of this section
        self.limits = peak.limits(self.device)
        precision = devices.resolve_precision(self.device, "auto")
        self.operations_s = self.limits.matmul_flops[precision]

    @contextlib.contextmanager
    def bounded(self, seconds: float) -> Iterator[None]:
        """Raise OutOfTimeError in what takes longer than that, or than is left of all time."""

        def over(*_: object) -> None:
            raise OutOfTimeError(f"it has had its {seconds:.0f} s")

        seconds = min(seconds, self.end - time.monotonic())
        if seconds < 1:
            raise OutOfTimeError(f"no time is left of {ALL_S:.0f} s")
        self.until = time.monotonic() + seconds
        before = signal.signal(signal.SIGALRM, over)
        signal.setitimer(signal.ITIMER_REAL, seconds)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)

    def run(self, *command: object) -> tuple[int | None, str, str]:
        """The exit code, output and errors of a Python command; no code if its time was over. It
        leaves no process behind."""
        left = max(self.until - time.monotonic() - CLOSING_S, 1.0)
        with subprocess.Popen(
            [sys.executable, *map(str, command)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        ) as process:
            code = None
            try:
                out, err = process.communicate(timeout=left)
                code = process.returncode
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                out, err = process.communicate()
                err = f"{err.rstrip()}\nkilled after {left:.0f} s, which is all the time it had"
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
        print(err[-TAIL:], file=sys.stderr, flush=True)
        return code, out, err

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def timed(self, work: Callable[[], object], warm: int = 2) -> float:
        """Median seconds."""
        for _ in range(min(warm, self.least)):
            work()
        self.wait()
        times: list[float] = []
        while len(times) < self.least or (sum(times) < self.seconds and len(times) < 200):
            began = time.perf_counter()
            work()
            self.wait()
            times.append(time.perf_counter() - began)
        return statistics.median(times)

    def peak_gb(self) -> float:
        return devices.peak_bytes(self.device) / 1e9


def failure(code: int | None, said: str) -> dict[str, Any]:
    """What a failed command said at last."""
    return {} if code == 0 else {"error": f"exit code {code}: {said.strip()[-TAIL:]}"}
