"""Few pictures, seen again and again: a model learns from them, then it memorises them. A run looks
at its hold-out pictures often enough to see that, keeps the averaged weights that did best on them,
and ends where they lie clearly behind.
"""

import math
from collections.abc import Callable, Mapping, Sized
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor

from dallebaby_cli.config import RunConfig
from dallebaby_cli.training.turn import turned

AGAIN = 3.0  # times that each picture is seen, up to which a run only learns from it
FEWEST = 8  # hold-out pictures, below which chance decides what is best
FIRST = 1 / 3  # of a run, in which nothing ends it
ENOUGH = 0.8  # of a run, from which on what did best is its end, but for chance
LOOKS = 40  # moments at which a run looks, beside its usual evaluations
LOOKING = 0.03  # largest share of a run that they take
FORWARD = 1 / 3  # of a training step's time, which scoring as many pictures takes


@dataclass
class Best:
    """The averaged weights of the lowest hold-out loss so far."""

    step: int = 0
    weights: dict[str, Tensor] = field(default_factory=dict)
    """on the CPU; none yet where it is empty"""

    def add(
        self, losses: Mapping[int, float], step: int, averaged: Callable[[], dict[str, Tensor]]
    ) -> None:
        """Take those of a step, if its own of the `losses` (step → loss) is lower than theirs that
        are kept."""
        kept = losses.get(self.step, math.inf) if self.weights else math.inf
        if losses[step] < kept:
            weights = {name: weight.cpu().clone() for name, weight in averaged().items()}
            self.step, self.weights = step, weights

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` takes."""
        return {"step": self.step, "weights": self.weights}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        self.step = saved["step"]
        self.weights = {name: weight.clone() for name, weight in saved["weights"].items()}


def memorises_from(losses: Mapping[int, float], began: int, steps: int) -> int | None:
    """The step from which on a run with such hold-out losses (step → loss), whose schedule began at
    a step and goes to `steps`, memorises; None while it does not. Losses from before the rate had
    risen do not count: that of weights that were finished once, which a run can start from or be
    made longer from, rises with it."""
    risen = began + FIRST * (steps - began) / 2
    return turned({at: loss for at, loss in losses.items() if at >= risen})


def over(losses: Mapping[int, float], began: int, step: int, steps: int) -> str | None:
    """Why a run with such hold-out losses (step → loss), whose schedule began at a step, ends at
    this one of its steps, if it should."""
    lowest = memorises_from(losses, began, steps)
    if lowest is None or step < began + FIRST * (steps - began):
        return None
    return (
        f"it memorises its training pictures (hold-out loss {losses[lowest]:.3g} at step {lowest}, "
        f"{losses[step]:.3g} now)"
    )


class Watched(Protocol):
    """What of a task is asked here."""

    @property
    def early_stop(self) -> bool: ...
    @property
    def train(self) -> Sized: ...
    @property
    def holdout(self) -> Sized: ...


def watches(task: Watched, config: RunConfig, steps: int) -> bool:
    """Whether a run is to end early: it sees each picture often enough to memorise it, and there
    are hold-out pictures enough to tell."""
    apart = task.early_stop and task.holdout is not task.train and len(task.holdout) >= FEWEST
    return apart and epochs(task, config, steps) > AGAIN


def every(config: RunConfig, steps: int, looked_at: int) -> int:
    """Steps between two looks at so many hold-out pictures."""
    affordable = FORWARD * looked_at / (config.batch_size * LOOKING)
    return min(config.eval_every, max(math.ceil(affordable), steps // LOOKS, 1))


def epochs(task: Watched, config: RunConfig, steps: int) -> float:
    """How often so many steps see each picture."""
    return steps * config.batch_size / len(task.train)


def outlook(task: Watched, config: RunConfig, steps: int) -> str:
    """How often so many steps will see the pictures, and what follows."""
    seen = epochs(task, config, steps)
    text = f"it sees each of {len(task.train):,} pictures {seen:.1f} times"
    if seen <= AGAIN:
        return f"{text}, too seldom to memorise them"
    follows = f"nothing will tell when, which takes {FEWEST} hold-out ones"
    if watches(task, config, steps):
        follows = "it keeps what does best on the hold-out ones, and ends when it does worse"
    return f"{text}, so often that it may memorise them; {follows}"


def figures(
    task: Watched, config: RunConfig, steps: int, kept: int, planned: int
) -> dict[str, float]:
    """What a run's manifest says of how often it saw its pictures: it took `steps` of those that
    were planned (0: of as many), and kept the weights of step `kept`. Of `pictures_wanted` each
    would be seen, in all that was planned, as often as these were when it did best."""
    found: dict[str, float] = {"epochs": epochs(task, config, steps)}
    if not task.early_stop:
        return found
    planned = max(planned, steps)
    if kept < steps:
        found["kept"] = kept
    if 0 < kept < ENOUGH * planned:
        found["pictures_wanted"] = _two_digits(len(task.train) * planned / kept)
    return found


def _two_digits(number: float) -> int:
    """Rounded up to two digits: the rest would only look exact."""
    unit = 10 ** max(math.floor(math.log10(number)) - 1, 0)
    return math.ceil(number / unit) * unit


def conclusion(task: Watched, config: RunConfig, counts: Mapping[str, Any]) -> str:
    """What the figures of a run mean that has not kept its last weights."""
    if not counts["kept"]:
        return "nothing that was learned did better on hold-out pictures than what it began with"
    text = (
        f"the weights of step {counts['kept']} of {counts['steps']} are kept, which did best on "
        f"hold-out pictures: it had seen each of {len(task.train):,} pictures "
        f"{epochs(task, config, counts['kept']):.1f} times"
    )
    if "pictures_wanted" in counts:
        text += f"; about {counts['pictures_wanted']:,} would be worth so long a run"
    return text
