"""All that changes while a model is trained, and how it is saved and restored."""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dallebaby_cli.config import RunConfig
from dallebaby_cli.models import device as devices
from dallebaby_cli.training import checkpoint, engine, state_check
from dallebaby_cli.training.best import Best
from dallebaby_cli.training.dtensors import load_whole, local, whole
from dallebaby_cli.training.loss_scale import LossScale
from dallebaby_cli.training.parts import Objective, Part, is_sharded
from dallebaby_cli.training.state_check import COUNTS


@dataclass
class State:
    """What a run has come to; the same in every rank."""

    parts: dict[str, Part]
    """the first is the model that is kept"""
    ema: nn.Module
    """its averaged weights"""
    config: RunConfig
    device: torch.device
    step: int = 0
    began: int = 0
    """step at which its schedule began: where a finished run was made longer, its former end"""
    ends: int = 0
    """step at which its schedule ends, were it not to end before (`Task.over`)"""
    lr_scale: float = 1.0
    """halved by each roll-back"""
    skipped: int = 0
    rollbacks: int = 0
    threads: int = 0
    """that a CPU computes with; results depend on it, by rounding. 0: as torch has it"""
    metrics: dict[str, float] = field(default_factory=dict)
    """of the last evaluation"""
    losses: dict[int, float] = field(default_factory=dict)
    """step → hold-out loss, of all evaluations of the same pictures"""
    loss_scale: LossScale | None = None
    """in fp16 alone"""
    best: Best | None = None
    """what did best on hold-out pictures, in runs that look for it"""
    planned: int = 0
    """steps that were planned, where the run ended before (`Task.over`); not saved"""
    kept: int = 0
    """step whose averaged weights the finished run keeps; not saved"""
    mfu: float | None = None
    """of the steps since this start (`Log.mfu`); the first rank's own, and not saved"""

    @classmethod
    def fresh(
        cls,
        objectives: Mapping[str, Objective],
        config: RunConfig,
        device: torch.device,
        compiled: bool = False,
    ) -> "State":
        """Before the first step, on the device, ready for the ranks there are."""
        sharded = is_sharded(config)
        for objective in objectives.values():
            objective.module.to(device)
            if not sharded:  # FSDP2 takes no others
                objective.module.to(memory_format=torch.channels_last)  # 2 x faster on a CPU
        model = next(iter(objectives.values())).module
        ema = deepcopy(model).requires_grad_(False).eval()
        if compiled:
            devices.compile(model)
        parts = {name: Part(objective, config) for name, objective in objectives.items()}
        engine.synchronise(ema)
        if sharded:
            engine.shard(ema)
        state = cls(parts, ema, config, device)
        if devices.resolve_precision(device, config.precision) == "fp16":
            state.loss_scale = LossScale(device)
        return state

    @property
    def model(self) -> nn.Module:
        """The model that is kept, as it is trained."""
        return next(iter(self.parts.values())).module

    @property
    def sharded(self) -> bool:
        """Whether the ranks can only compute it together."""
        return is_sharded(self.config)

    @property
    def ahead(self) -> bool:
        """Whether a step is launched before the host has read what became of the one before it.
        Then the device itself holds back a step that is not finite."""
        held = (part.optimizer.can_hold_back for part in self.parts.values())
        return devices.runs_ahead(self.device) and all(held)

    def backward(self, name: str, batch: tuple[Tensor, ...], *more: Any) -> Tensor:
        """Add the gradients of a part's loss over this rank's share of a batch, which its loss gets
        with what is `more`; the mean loss, a scalar that is not differentiable."""
        part, config = self.parts[name], self.config
        total = torch.zeros((), device=self.device)
        pieces = list(zip(*(tensor.chunk(config.accumulate) for tensor in batch), strict=True))
        for number, piece in enumerate(pieces, start=1):
            moved = tuple(tensor.to(self.device, non_blocking=True) for tensor in piece)
            with part.syncing(last=number == len(pieces)):
                with devices.autocast(self.device, config.precision):
                    loss = part.loss(moved, *more) / config.accumulate
                scaled = loss * self.loss_scale.value if self.loss_scale else loss
                scaled.backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        return total

    def update(self, lr: float, bad: Tensor | None = None) -> None:
        """Take a step along the gradients of all parts, and let the averaged weights follow; where
        the device finds that `bad`, a bool, is true, nothing is changed."""
        for part in self.parts.values():
            part.optimizer.step(lr * part.rate, bad)
        self.average(self.config.ema_decay, bad)

    @torch.no_grad()
    def average(self, decay: float, bad: Tensor | None = None) -> None:
        """Move the averaged weights towards the model's, quickly while they are young; what is
        no weight (how long a code has been idle) is copied."""
        weight = 1 - min(decay, (1 + self.step) / (10 + self.step))
        ours: list[Tensor] = [local(p) for p in self.ema.parameters()]
        theirs: list[Tensor] = [local(p) for p in self.model.parameters()]
        if bad is None:
            torch._foreach_lerp_(ours, theirs, weight)
        else:
            torch._foreach_lerp_(ours, theirs, [torch.where(bad, 0.0, weight)] * len(ours))
        for copy, buffer in zip(self.ema.buffers(), self.model.buffers(), strict=True):
            copy.copy_(buffer if bad is None else torch.where(bad, copy, buffer))

    def take_best(self) -> int:
        """Let the averaged weights be those that did best, if some did; the step of them."""
        if not (self.best and self.best.weights):
            return self.step
        load_whole(self.ema, self.best.weights)
        return self.best.step

    def averaged(self) -> dict[str, Tensor]:
        """The averaged weights, whole. All ranks call it."""
        return whole(self.ema.state_dict())

    def save(self, path: Path) -> None:
        """Write everything: once, by the first rank. All ranks call it."""
        if not (engine.first() or self.sharded):
            return
        (main, *_), others = self.parts.items(), [*self.parts.items()][1:]
        state = {
            **main[1].state_dict(),
            "ema": self.averaged(),
            **{name: getattr(self, name) for name in COUNTS},
            "losses": self.losses,
        }
        if others:
            state["parts"] = {name: part.state_dict() for name, part in others}
        if self.loss_scale:
            state["loss_scale"] = self.loss_scale.state_dict()
        if self.best:
            state["best"] = self.best.state_dict()
        if engine.first():
            checkpoint.save_state(path, state)

    def resume(self, path: Path) -> bool:
        """Become what `save` wrote there, on whichever number of ranks; False if there is nothing.
        Raises BadInput, before anything is changed, if it is not of this run. All ranks call it."""
        saved, wrong = checkpoint.load_state(path), ""
        if saved is None:
            return False
        try:
            state_check.check(saved, self.parts, self.ema)
        except state_check.Misfit as error:
            wrong = str(error)
        checkpoint.refuse(path, wrong)
        self._restore(saved)
        return True

    def _restore(self, saved: Mapping[str, Any]) -> None:
        (main, *_), others = self.parts.items(), [*self.parts.items()][1:]
        main[1].load_state_dict(saved)
        for name, part in others:
            part.load_state_dict(saved["parts"][name])
        load_whole(self.ema, saved["ema"])
        for name in COUNTS:  # those of an older version lack some
            setattr(self, name, saved.get(name, getattr(self, name)))
        self.losses = dict(saved.get("losses", {}))
        if self.loss_scale and "loss_scale" in saved:  # which older ones, and other devices', lack
            self.loss_scale.load_state_dict(saved["loss_scale"])
        if self.best and "best" in saved:
            self.best.load_state_dict(saved["best"])
