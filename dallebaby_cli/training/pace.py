"""How many threads a CPU computes with: as many as are fastest, looked at again where a run slows.

Where another program keeps one of two cores, two threads are many times slower than one: each
parallel piece of work waits for the thread that is not running.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch

SLOW = 2.0  # times as long as planned, from which on another number of threads is tried
WATCHED_S = 10.0  # of training that one judgement takes
TRIED_S = 1.5  # that one number is tried for
WARM = 2  # steps before that: the one already under way, and one that may compile
REST_S = 300.0  # of training until the next look, also where fewer threads than planned are used


def counts(most: int) -> list[int]:
    """Numbers of threads worth a try: all, all but one, half, one."""
    return sorted({most, most - 1, most // 2, 1} - {0}, reverse=True)


@dataclass
class Pace:
    """Watches the seconds of each step, and says with how many threads the next is taken."""

    planned_s: float
    """seconds of a step, as planned"""
    threads: int
    """that it was planned with"""
    most: int
    """threads there are"""
    chosen: int = 0
    news: str = ""
    """what to tell about the last look; the reader empties it"""
    _steps: int = 0
    _seconds: float = 0.0
    _rest_s: float = 0.0
    _reference_s: float = 0.0
    _before: int = 0
    _mean_s: float = 0.0
    _trial: Iterator[int] | None = None
    _tried: dict[int, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.chosen = self.chosen or self.threads
        self._reference_s = self.planned_s

    def step(self, seconds: float) -> None:
        """A step took so long, its batch included; `chosen` is then for the next one."""
        self._steps += 1
        self._rest_s -= seconds
        if self._trial is not None:
            if self._steps > WARM:
                self._seconds += seconds
            if self._seconds >= TRIED_S and self._steps > WARM + 1:
                self._tried[self.chosen] = self._seconds / (self._steps - WARM)
                self._next()
            return
        self._seconds += seconds
        if self._seconds >= WATCHED_S:
            mean_s = self._seconds / self._steps
            slow = mean_s > SLOW * self._reference_s
            if self.most > 1 and self._rest_s <= 0 and (slow or self.chosen != self.threads):
                self._before, self._mean_s = self.chosen, mean_s
                self._trial, self._tried = iter(counts(self.most)), {}
                self._next()
            self._steps, self._seconds = 0, 0.0

    def _next(self) -> None:
        """Try the next number, or settle on the fastest."""
        assert self._trial is not None
        self._steps, self._seconds = 0, 0.0
        following = next(self._trial, None)
        if following is not None:
            self.chosen = following
            return
        self._trial, self._rest_s = None, REST_S
        self.chosen = min(self._tried, key=lambda n: self._tried[n])
        self._reference_s = self._tried[self.chosen]
        if self.chosen != self._before or self._mean_s > SLOW * self.planned_s:
            slower = self._mean_s / self.planned_s
            self.news = (
                f"steps take {slower:.1f} times as long as planned (another program at work?); "
                f"tried {', '.join(map(str, self._tried))} threads: {self.chosen} is fastest now"
            )


def use(threads: int) -> None:
    """Compute with so many threads from now on; 0 changes nothing."""
    if threads and threads != torch.get_num_threads():
        torch.set_num_threads(threads)
