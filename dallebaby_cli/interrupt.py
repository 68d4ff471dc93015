"""Ctrl-C and SIGTERM as a wish to stop at the next safe moment, or at once where all are safe."""

import signal
import sys
import threading
from types import FrameType
from typing import Any

from dallebaby_cli.errors import Interrupted

STOP = [signal.SIGINT, signal.SIGTERM]
if sys.platform == "win32":
    STOP.append(signal.SIGBREAK)  # Ctrl-Break, which other programs can send


class Interrupt:
    """While the block runs, signals only set `asked`; a second Ctrl-C stops at once. With `at_once`
    they end the block with that sentence: for work that leaves nothing half done. Both by raising
    Interrupted."""

    def __init__(self, at_once: str = "") -> None:
        self.asked = 0
        self.at_once = at_once
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Interrupt":
        if threading.current_thread() is threading.main_thread():
            for number in STOP:
                self._before[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def raise_if_asked(self, message: str) -> None:
        """Raise Interrupted with `message` if a signal came."""
        if self.asked:
            raise Interrupted(message, self.asked)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.at_once:
            raise Interrupted(self.at_once, number)
        if self.asked and number == signal.SIGINT:
            raise Interrupted("stopped at once; run it again to go on from what was saved", number)
        self.asked = number
