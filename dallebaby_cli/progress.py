"""Events that stages report while they work; the skin draws them, tests collect them.

A stage takes `report: Report` and calls it; it never prints and does not know who listens.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal


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


Event = Progress | Note
Report = Callable[[Event], None]


def ignore(event: Event) -> None:
    """A listener that does not listen."""
