"""The optimizer and its schedule: AdamW, Muon for hidden matrices, warm-up and cosine."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from dallebaby_cli.config import OptimConfig
from dallebaby_cli.training.dtensors import like
from dallebaby_cli.training.muon import Muon

HIDDEN = ("blocks.", "digit_blocks.", "reading.")  # how the names of a transformer's begin


class Optimizers:
    """Several optimizers, each with parameters of its own, that step as one."""

    def __init__(self, parts: list[torch.optim.Optimizer]) -> None:
        self.parts = parts

    @property
    def can_hold_back(self) -> bool:
        """Whether all know `bad`, as Muon and torch's fused kernels do."""
        groups = [group for part in self.parts for group in part.param_groups]
        return all(group.get("fused", True) for group in groups)

    def step(self, lr: float, bad: Tensor | None = None) -> None:
        """Take one step of all at a learning rate; where the device finds that `bad`, a bool, is
        true, nothing is changed."""
        for part in self.parts:
            part.found_inf = None if bad is None else bad.float()  # type: ignore[attr-defined]
            for group in part.param_groups:
                group["lr"] = lr
            part.step()

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` takes."""
        return {str(index): part.state_dict() for index, part in enumerate(self.parts)}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave, on any number of ranks."""
        for index, part in enumerate(self.parts):
            weights = [weight for group in part.param_groups for weight in group["params"]]
            state = saved[str(index)]["state"]
            split = {n: _like_weight(kept, weights[int(n)]) for n, kept in state.items()}
            groups = [  # whether the fused kernel may be used, the weights here decide
                {**kept, **{key: ours[key] for key in ours.keys() & {"fused"}}}
                for kept, ours in zip(
                    saved[str(index)]["param_groups"], part.param_groups, strict=True
                )
            ]
            part.load_state_dict({"state": split, "param_groups": groups})


def _like_weight(kept: Mapping[str, Any], weight: Tensor) -> dict[str, Any]:
    """What an optimizer keeps of a weight, split among the ranks as the weight is; a copy, of which
    nothing lies in the file that `kept` came from."""
    return {
        name: like(value, weight) if value.shape == weight.shape else value.clone()
        for name, value in kept.items()
    }


def build(model: nn.Module, config: OptimConfig) -> Optimizers:
    """AdamW (Loshchilov & Hutter, arXiv 1711.05101) with decay on the weights of matrix products
    and convolutions; embeddings, norms and biases are left alone. With `muon`, the kernels of
    convolutions and the matrices inside a transformer's blocks (in those between a code's digits,
    too, and the one that reads codes by their numbers) get Muon instead. Weights that take no
    gradient are no part of it."""
    learned = [(name, weight) for name, weight in model.named_parameters() if weight.requires_grad]
    hidden = {
        id(weight): weight
        for name, weight in learned
        if config.muon and (weight.ndim == 4 or (weight.ndim == 2 and name.startswith(HIDDEN)))
    }
    layers = (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)
    decayed = {id(module.weight) for module in model.modules() if isinstance(module, layers)}
    rest = [weight for _, weight in learned if id(weight) not in hidden]
    groups = [
        {"params": [p for p in rest if id(p) in decayed], "weight_decay": config.weight_decay},
        {"params": [p for p in rest if id(p) not in decayed], "weight_decay": 0.0},
    ]
    betas = (config.betas[0], config.betas[1])
    mixed = len({isinstance(p, DTensor) for p in rest}) > 1  # which the fused kernel refuses
    parts: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(groups, lr=config.lr, betas=betas, fused=not mixed)
    ]
    if hidden:
        parts.append(Muon(hidden.values(), config.lr, config.weight_decay))
    return Optimizers(parts)


def learning_rate(step: int, steps: int, config: OptimConfig) -> float:
    """The rate of a step: linear warm-up, then half a cosine down to its final fraction."""
    warmup = config.warmup_fraction * steps
    if step < warmup:
        return config.lr * (step + 1) / (warmup + 1)
    progress = (step - warmup) / max(steps - warmup, 1e-9)
    cosine = 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
    return config.lr * (config.final_lr_fraction + (1 - config.final_lr_fraction) * cosine)
