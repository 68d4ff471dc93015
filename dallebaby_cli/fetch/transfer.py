"""What the transports share: the job they are given, and the clock that tells work from waiting.

Each transport has one function `download(job, …) -> Brought`: it brings the wanted files into
`job.folder`, goes on where a broken-off one stopped, and raises Stalled when nothing comes.
"""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from dallebaby_cli.config import FetchConfig
from dallebaby_cli.errors import FetchFailed
from dallebaby_cli.fetch.catalog import Dataset, File, named
from dallebaby_cli.progress import Report

RATE_OVER_S = 5.0
LEAST = 100.0  # bytes a second: less is a server that keeps us waiting


class Stalled(FetchFailed):
    """Nothing came for too long; another transport may do better."""


@dataclass(frozen=True, kw_only=True)
class Fetched:
    """One file that is here, whole and checked."""

    size_bytes: int
    sha256: str | None = None
    """known only where the transport had to compute it"""


@dataclass(frozen=True, kw_only=True)
class Brought:
    """What a transport has brought."""

    files: dict[str, Fetched]
    """by path below the job's folder"""
    info_hash: str | None = None
    """of the torrent that they came from"""
    edges: dict[int, str] = field(default_factory=dict)
    """what bittorrent.verify needs beside the torrent itself, see file_list.edges"""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One download, as the stage asks a transport for it."""

    dataset: Dataset
    folder: Path
    wanted: tuple[str, ...]
    """patterns of the files to bring, as catalog.named takes them"""
    patterns: tuple[str, ...] = ()
    """those of them that the person typed"""
    keep: tuple[str, ...] = ()
    """files that an earlier fetch brought; they stay wanted"""
    metadata: bytes | None = None
    """content of the .torrent file, where it is here already"""
    magnet: str = ""
    """where it is not"""
    peers: tuple[tuple[str, int], ...] = ()
    """addresses to connect to, whoever else is found"""
    config: FetchConfig
    timeout_s: float
    """raise Stalled after so long without progress"""
    report: Report
    signal: Callable[[], int] = lambda: 0
    """number of the signal that asked us to stop, or 0"""

    @property
    def files(self) -> list[File]:
        """The files of the catalogue that are to be brought."""
        asked = named((n for f in self.dataset.files for n in f.patterns), self.wanted)
        return [f for f in self.dataset.files if f.path in self.keep or asked & {*f.patterns}]

    def pulse(self) -> "Pulse":
        """A clock that tells progress from waiting, at the rate that is allowed here."""
        limit = self.config.max_down_mb_s * 1e6
        return Pulse(least=min(LEAST, limit / 2) if limit else LEAST)

    @property
    def how_to_continue(self) -> str:
        """The end of every sentence about a download that stopped."""
        return f"what came is kept in {self.folder}, and the same command continues from there"


class Pulse:
    """Rate over the last few seconds, and how long nothing has come."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, least: float = LEAST) -> None:
        self.clock, self.least = clock, least
        self.since = clock()
        self.mark: float | None = None  # what was done at that time
        self.history: deque[tuple[float, float]] = deque()

    def begin(self, done: float) -> None:
        """Take note of what is done before anything comes, if that is not known yet."""
        self.mark = done if self.mark is None else self.mark

    def beat(self, done: float) -> None:
        """Take note that so much is done by now: more than ever, and at some speed, is progress."""
        now = self.clock()
        self.begin(done)
        assert self.mark is not None
        if done > self.mark and done - self.mark >= self.least * (now - self.since):
            self.since, self.mark = now, done
        self.history.append((now, done))
        while self.history[0][0] < now - RATE_OVER_S and len(self.history) > 2:
            self.history.popleft()

    def restart(self) -> None:
        """Begin anew: something other than bytes has changed."""
        self.since, self.mark = self.clock(), None
        self.history.clear()

    @property
    def what_came(self) -> str:
        """Whether since the last progress nothing came at all."""
        came = self.history and self.mark is not None and self.history[-1][1] > self.mark
        return f"less than {self.least:.0f} bytes a second" if came else "nothing"

    @property
    def idle_s(self) -> float:
        """Seconds since the last progress."""
        return self.clock() - self.since

    @property
    def rate(self) -> float:
        """What was done a second, lately."""
        if len(self.history) < 2:
            return 0.0
        (began, start), (now, done) = self.history[0], self.history[-1]
        return max(0.0, done - start) / (now - began) if now > began else 0.0

    def eta_s(self, left: float) -> float | None:
        """Seconds until `left` more is done at this rate; None while nothing comes."""
        return left / self.rate if self.rate else None
