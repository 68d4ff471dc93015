"""One wish from its place in the line to its pictures, and what is told of it meanwhile."""

import asyncio
import secrets
from collections import deque
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from dallebaby_cli.serving.refused import Refused
from dallebaby_cli.serving.wish import Wish


@dataclass(frozen=True)
class Queued:
    """It waits; `position` drawings come before it."""

    position: int
    eta_s: float | None
    """estimate until its pictures are there"""


@dataclass(frozen=True)
class Started:
    """It is being drawn."""


@dataclass(frozen=True)
class Partial:
    """A picture, uint8 (P, P, 3), of which a share is drawn."""

    index: int
    done: float
    pixels: np.ndarray


@dataclass(frozen=True)
class Picture:
    """A finished picture, uint8 (P, P, 3), and the file that holds it."""

    index: int
    pixels: np.ndarray
    path: Path


@dataclass(frozen=True)
class Done:
    """All pictures are there."""

    pictures: int
    seconds: float
    """that drawing took"""


@dataclass(frozen=True)
class Stopped:
    """It was stopped."""


@dataclass(frozen=True)
class Failed:
    """There will be no more pictures."""

    why: Refused


Event = Queued | Started | Partial | Picture | Done | Stopped | Failed
MOST_UNREAD = 64  # events that wait to be sent
LAST = (Done, Stopped, Failed)


@dataclass(eq=False)
class Job:
    """A wish under way. All but `ended` and `partials` is for the thread of its event loop; others
    reach it through `tell`."""

    wish: Wish
    partials: bool
    """whether somebody looks at unfinished pictures"""
    id: str = field(default_factory=lambda: secrets.token_urlsafe(9))
    ended: bool = False
    """whether its last event is told: nobody waits for what is still drawn of it"""
    _loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)
    _news: deque[Event] = field(default_factory=deque)
    _wake: asyncio.Event = field(default_factory=asyncio.Event)

    def tell(self, event: Event) -> None:
        """Pass an event on, from any thread; after the last one, nothing more."""
        if not self.ended:
            self.ended = isinstance(event, LAST)
            with suppress(RuntimeError):  # the loop has ended: nobody listens
                self._loop.call_soon_threadsafe(self._put, event)

    def _put(self, event: Event) -> None:
        """Who reads slowly misses unfinished pictures: what waits to be sent is bounded."""
        if not isinstance(event, Partial) or len(self._news) < MOST_UNREAD:
            self._news.append(event)
            self._wake.set()

    async def events(self, every_s: float = 5.0) -> AsyncIterator[Event | None]:
        """All that is told of it, to the last event; None where nothing was for a while."""
        while True:
            try:
                async with asyncio.timeout(every_s):
                    await self._wake.wait()
            except TimeoutError:
                yield None
                continue
            self._wake.clear()
            while self._news:
                event = self._news.popleft()
                yield event
                if isinstance(event, LAST):
                    return
