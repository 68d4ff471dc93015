"""What becomes of steps: whether they were taken, and what the ranks tell each other with them. A
GPU is at work on a step while what became of the one before it is read."""

import math
import signal
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace

from dallebaby_cli.training import engine
from dallebaby_cli.training.log import Log
from dallebaby_cli.training.loss_scale import HALVINGS
from dallebaby_cli.training.state import State

MAX_BAD_STEPS = 5  # in a row, before the run goes back to its last checkpoint


@dataclass(frozen=True)
class Taken:
    """What became of a step."""

    loss: float
    ok: bool
    """False if the loss or a gradient was not finite, and so nothing was changed"""
    asked: int
    """the signal that asked some rank to stop; 0 if none did"""
    threads: int
    """that the first rank wants for the next one; 0 to change nothing"""
    due: bool
    """whether the first rank wants a checkpoint"""


@dataclass(frozen=True)
class Launched:
    """A step that was launched; a GPU may still be at work on it."""

    step: int
    lr: float
    figures: Callable[[], list[float]]
    """waits for the loss, the lengths of the gradients, and what the ranks told each other"""
    wishes: tuple[int, int, bool]
    """signal, threads and checkpoint that this rank asks for"""

    def read(self) -> Taken:
        """What became of it."""
        figures = self.figures()
        asked, threads, due = self.wishes
        if engine.world() > 1:
            interrupted, terminated, threads, wanted = map(int, figures[-4:])
            due = bool(wanted)
            asked = signal.SIGTERM if terminated else signal.SIGINT if interrupted else 0
        return Taken(figures[0], math.isfinite(sum(figures)), asked, threads, due)


class Account:
    """What became of the steps, read at once, or a step late where the state is `ahead`."""

    def __init__(self, state: State, log: Log | None) -> None:
        self.taken = Taken(0.0, True, 0, 0, False)
        self._state, self._log = state, log
        self._bad = 0  # in a row
        self._most = MAX_BAD_STEPS + (HALVINGS if state.loss_scale else 0)
        self._waiting: deque[Launched] = deque()

    def add(self, launched: Launched) -> None:
        """Read the step, or where the state is ahead the one before it."""
        self._waiting.append(launched)
        self.read(1 if self._state.ahead else 0)

    def read(self, later: int = 0) -> bool:
        """Read all steps but so many of the last; whether it is of use to go on from here."""
        while len(self._waiting) > later and not self.hopeless:
            launched = self._waiting.popleft()
            self.taken = launched.read()
            self._bad = 0 if self.taken.ok else self._bad + 1
            self._state.skipped += not self.taken.ok
            if self._log and not self.hopeless:
                self._log.step(launched.step, self.taken.loss, launched.lr)
        return not self.hopeless

    def saved(self) -> None:
        """A checkpoint was written, as the steps before it wished."""
        self.taken = replace(self.taken, due=False)

    @property
    def hopeless(self) -> bool:
        """Whether too many steps in a row were not finite."""
        return self._bad >= self._most

    def forget(self) -> None:
        """Begin anew after a roll-back, which undid steps that were not read yet."""
        self._waiting.clear()
        self._bad = 0
