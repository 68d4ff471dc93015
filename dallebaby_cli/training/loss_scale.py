"""fp16 without its holes: losses are made larger before the backward pass, so that small gradients
do not vanish, and gradients smaller again after it (Micikevicius et al. 2018, arXiv 1710.03740)."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

FIRST = 2.0**16
HALVINGS = 16  # from there down to 1, where fp16 is no longer what makes a step bad
GOOD_STEPS = 2000  # after which a higher scale is tried
RANGES = (("value", float, 1, FIRST), ("good", int, 0, GOOD_STEPS))
"""Of what a checkpoint holds: its type, and the least and most that it can be."""


class LossScale:
    """What losses are multiplied by: half as much after each step that was not finite, twice as
    much after many that were. torch's GradScaler does so, but holds back only the one optimizer
    whose gradients were not finite, and asks each rank alone."""

    def __init__(self, device: torch.device) -> None:
        self.value = torch.tensor(FIRST, device=device)
        self.good = torch.tensor(0, device=device)  # steps since it last changed

    def take_off(self, gradients: list[Tensor]) -> None:
        """Make gradients what they were of the loss itself, in place."""
        torch._foreach_mul_(gradients, 1 / self.value)

    def follow(self, bad: Tensor) -> None:
        """Learn whether a step was not finite: `bad`, a bool."""
        good = torch.where(bad, 0, self.good + 1)
        grows = good == GOOD_STEPS
        factor = torch.where(bad, 0.5, torch.where(grows, 2.0, 1.0))
        self.value.mul_(factor).clamp_(1, FIRST)
        self.good.copy_(good.masked_fill(grows, 0))

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` takes: two numbers."""
        return {"value": self.value.item(), "good": self.good.item()}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        self.value.fill_(saved["value"])
        self.good.fill_(saved["good"])
