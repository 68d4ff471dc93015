"""What is trained: modules with their losses, made ready for one rank or several, and with their
optimizers. Most tasks have one part; a model with a discriminator has two.
"""

import contextlib
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from dallebaby_cli.config import OptimConfig, RunConfig
from dallebaby_cli.models import collectives
from dallebaby_cli.training import engine, optim
from dallebaby_cli.training.dtensors import load_whole, local, whole
from dallebaby_cli.training.loss_scale import LossScale

Loss = Callable[..., Tensor]


@dataclass(frozen=True)
class Objective:
    """A module and what it is to make small: `loss(module, batch, ...)` is the batch's mean."""

    module: nn.Module
    loss: Loss
    optim: OptimConfig | None = None
    """its own optimizer; the run's if None"""


class _Measured(nn.Module):
    """An objective as one module, so that all of its forward pass runs inside torch's wrappers."""

    def __init__(self, objective: Objective) -> None:
        super().__init__()
        self.module, self._loss = objective.module, objective.loss

    def forward(self, *inputs: Any) -> Tensor:
        return self._loss(self.module, *inputs)


class Part:
    """An objective at work."""

    def __init__(self, objective: Objective, config: RunConfig) -> None:
        self.module = objective.module
        self.sharded = is_sharded(config)
        engine.synchronise(self.module)
        self._measured: nn.Module = _Measured(objective)
        if self.sharded:
            engine.shard(self.module)
        elif engine.world() > 1:
            self._measured = engine.data_parallel(self._measured)
        chosen = objective.optim or config.optim
        self.rate = chosen.lr / config.optim.lr
        self.clip_norm = chosen.clip_norm
        self.optimizer = optim.build(self.module, chosen)

    def loss(self, *inputs: Any) -> Tensor:
        """The mean loss of this rank's share, a scalar."""
        return cast(Tensor, self._measured(*inputs))

    def syncing(self, last: bool) -> AbstractContextManager[None]:
        """While the block runs one of several backward passes of a step: the ranks' gradients are
        averaged in the `last` one only."""
        if isinstance(self._measured, DistributedDataParallel) and not last:
            return self._measured.no_sync()
        if self.sharded:
            self.module.set_requires_gradient_sync(last)  # type: ignore[operator]
        return contextlib.nullcontext()

    def clip(self, scale: LossScale | None = None) -> Tensor:
        """Shorten the gradient, of a loss that was made larger by `scale`, to `clip_norm` over all
        ranks; its length before, a scalar."""
        weights = [p for p in self.module.parameters() if p.grad is not None]
        split = [w for w in weights if isinstance(w, DTensor)]
        whole = [w for w in weights if not isinstance(w, DTensor)]
        if self.sharded:  # FSDP2 leaves those alone that it does not split
            for weight in whole:
                assert weight.grad is not None
                collectives.reduce(weight.grad).div_(engine.world())
        if scale:
            scale.take_off([local(w.grad) for w in weights if w.grad is not None])
        norms = [
            local(nn.utils.get_total_norm([w.grad for w in group if w.grad is not None]), full=True)
            for group in (split, whole)
            if group
        ]
        norm = torch.linalg.vector_norm(torch.stack(norms)) if len(norms) > 1 else norms[0]
        for group in (split, whole):
            nn.utils.clip_grads_with_norm_(group, self.clip_norm, norm)
        return norm

    def state_dict(self) -> dict[str, Any]:
        """Weights and optimizer, whole, the same for any number of ranks. All ranks call it."""
        return {
            "model": whole(self.module.state_dict()),
            "optimizer": whole(self.optimizer.state_dict()),
        }

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Become what `state_dict` gave."""
        load_whole(self.module, saved["model"])
        self.optimizer.load_state_dict(saved["optimizer"])


def is_sharded(config: RunConfig) -> bool:
    """Whether the ranks split each model among them."""
    return config.shard and engine.world() > 1
