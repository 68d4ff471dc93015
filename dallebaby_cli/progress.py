"""Events that stages report while they work; the skin draws them, tests collect them.

A stage takes `report: Report` and calls it; it never prints and does not know who listens.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from dallebaby_cli import files


@dataclass(frozen=True)
class Progress:
    """How far a named piece of long work has come; sent as often as there is news."""

    task: str
    done: float
    total: float | None = None
    """None while it is not known."""
    unit: str = ""
    """what `done` counts: "images", "steps", or "B" for bytes"""
    detail: str = ""
    """a few words beside the bar: "loss 2.31", "12 peers" """


@dataclass(frozen=True)
class Note:
    """One line for the person: what was chosen, what is odd, what to do next."""

    text: str
    level: Literal["info", "warning"] = "info"


@dataclass(frozen=True)
class Transfer:
    """A download at work; sent about twice a second."""

    task: str
    state: Literal["connecting", "checking", "downloading", "seeding"]
    done: int = 0
    """bytes of the wanted files that are here"""
    total: int | None = None
    """bytes of the wanted files; None while it is not known"""
    rate: float = 0
    """bytes a second, over the last few seconds"""
    eta_s: float | None = None
    """seconds left at this rate"""
    peers: int | None = None
    """connected peers, seeds among them; None where there are no such things"""
    seeds: int | None = None
    """connected peers that have everything"""
    web_seeds: int | None = None
    """HTTP servers that give parts of the torrent"""
    available: float | None = None
    """share of the wanted bytes that is here or with somebody connected"""
    waiting_for: str = ""
    """why nothing comes, and what may help; empty while something does"""
    files: tuple[tuple[str, int, int], ...] = ()
    """path, bytes here and size of a few files that are on their way"""


Event = Progress | Note | Transfer
Report = Callable[[Event], None]


def ignore(event: Event) -> None:
    """A listener that does not listen."""


def amount(value: float, unit: str) -> str:
    """A count with its unit, bytes scaled: "12.3 MB", "1,200 images"."""
    if unit == "B":
        return files.human_bytes(value)
    return f"{value:,.0f} {unit}".rstrip()
