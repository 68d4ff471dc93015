"""Classifiers that judge pictures: what their trainings, through the one loop, have in common."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from dallebaby_cli.config import RunConfig
from dallebaby_cli.models.pictures import to_numpy
from dallebaby_cli.store import weights
from dallebaby_cli.store.pictures import grid
from dallebaby_cli.training.parts import Objective
from dallebaby_cli.training.state import State

SHOWN = 16  # pictures that a run keeps, to look at
C = TypeVar("C")
M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True)
class JudgeTask(ABC):
    """What the loop needs to train any judge; the rest is each one's own."""

    model: nn.Module
    config: RunConfig
    name: str = "judge"
    shows: str = "pictures"
    unit: str = "images"
    compile: bool = False
    frames: int = 0
    early_stop: bool = False

    def parts(self) -> dict[str, Objective]:
        """The classifier alone."""
        return {"model": Objective(self.model, self.loss)}

    def step(self, state: State, batch: tuple[Tensor, ...], progress: float) -> Tensor:
        """One backward pass."""
        return state.backward("model", batch, progress)

    @abstractmethod
    def loss(self, model: nn.Module, batch: tuple[Tensor, ...], progress: float) -> Tensor:
        """Of a batch, a scalar."""

    @abstractmethod
    def batch(self, step: int) -> tuple[Tensor, ...]:
        """Of a step, pictures first."""

    @property
    def units_per_step(self) -> int:
        """Pictures."""
        return self.config.batch_size

    def holdout_loss(self, figures: Mapping[str, float]) -> float | None:
        """None: its figures are shares, and its own `warning` says where they are low."""
        return None

    def over(self, figures: Mapping[str, float]) -> str | None:
        """Never: it takes all its steps."""
        return None

    def pictures(self, model: nn.Module, last: bool) -> dict[str, Any]:
        """What it is trained on."""
        return {self.shows: grid(to_numpy(self.batch(0)[0][:SHOWN]))}


def load(
    folder: Path,
    kind: str,
    shape: type[C],
    build: Callable[[C, dict[str, Any]], M],
    device: torch.device,
) -> tuple[M, dict[str, Any]]:
    """A finished classifier, which `build` makes of its shape and of all that its config.json says,
    and that. Raises MissingInput, BadInput or Mismatch."""
    described = weights.read_model(folder, kind)
    config = weights.shape_of(shape, described["model"], folder / "config.json")
    model = weights.load(folder / "model.safetensors", lambda: build(config, described))
    model.to(device).to(memory_format=torch.channels_last)
    return model.eval().requires_grad_(False), described
