"""A model with a second network and optimizer is no special case in the loop."""

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from conftest import same
from torch import Tensor, nn
from torch.func import functional_call
from training.test_loop import CONFIG, CPU, LineTask

from dallebaby_cli import progress
from dallebaby_cli.config import OptimConfig
from dallebaby_cli.errors import Interrupted
from dallebaby_cli.training import checkpoint, loop, plan
from dallebaby_cli.training.parts import Objective
from dallebaby_cli.training.state import State


@dataclass
class Adversarial(LineTask):
    """A line that a second network tries to tell from the true values, in turns with it."""

    critic: nn.Module = field(default_factory=lambda: nn.Linear(5, 1))
    before_step: dict[int, Callable[[], None]] = field(default_factory=dict)

    def parts(self) -> dict[str, Objective]:
        return {
            "model": Objective(self.model, self.fool),
            "critic": Objective(self.critic, self.tell_apart, OptimConfig(lr=1e-2, muon=False)),
        }

    def step(self, state: State, batch: tuple[Tensor, ...], progress: float) -> Tensor:
        if (number := state.step) in self.before_step:
            self.before_step[number]()
        modules = {name: part.module for name, part in state.parts.items()}
        loss = state.backward("model", batch, modules["critic"])
        state.backward("critic", batch, modules["model"])
        return loss

    def fool(self, model: nn.Module, batch: tuple[Tensor, ...], critic: nn.Module) -> Tensor:
        x = batch[0][:, :4]
        still = {name: weight.detach() for name, weight in critic.named_parameters()}
        made = torch.cat((x, model(x)), dim=1)
        error = (model(x) - x.sum(1, keepdim=True)).square().mean()
        return error - 0.1 * functional_call(critic, still, (made,)).mean()

    def tell_apart(self, critic: nn.Module, batch: tuple[Tensor, ...], model: nn.Module) -> Tensor:
        x = batch[0][:, :4]
        true = torch.cat((x, x.sum(1, keepdim=True)), dim=1)
        with torch.no_grad():
            made = torch.cat((x, model(x)), dim=1)
        return (
            nn.functional.relu(1 - critic(true)).mean()
            + nn.functional.relu(1 + critic(made)).mean()
        )


def task(**more: object) -> Adversarial:
    torch.manual_seed(3)
    return Adversarial(**more)


def test_both_networks_learn_and_only_the_model_is_kept(tmp_path: Path) -> None:
    adversarial = task()
    first = {k: v.clone() for k, v in adversarial.critic.state_dict().items()}
    state = loop.fit(adversarial, CONFIG, 40, tmp_path, CPU, progress.ignore)
    assert not same(first, state.parts["critic"].module.state_dict())
    assert state.averaged().keys() == adversarial.model.state_dict().keys()
    saved = checkpoint.load_state(tmp_path / "state.pt")
    assert saved and saved["parts"].keys() == {"critic"}


def test_a_broken_off_run_with_two_optimizers_resumes_bit_for_bit(tmp_path: Path) -> None:
    loop.fit(task(), CONFIG, 40, tmp_path / "whole", CPU, progress.ignore)
    terminate = {17: lambda: os.kill(os.getpid(), signal.SIGTERM)}
    with pytest.raises(Interrupted):
        loop.fit(task(before_step=terminate), CONFIG, 40, tmp_path / "broken", CPU, progress.ignore)
    loop.fit(task(), CONFIG, 40, tmp_path / "broken", CPU, progress.ignore)
    whole, broken = (
        checkpoint.load_state(tmp_path / name / "state.pt") for name in ("whole", "broken")
    )
    assert same(whole, broken)


def test_planning_copies_every_network(tmp_path: Path) -> None:
    adversarial = task()
    before = {
        name: {k: v.clone() for k, v in objective.module.state_dict().items()}
        for name, objective in adversarial.parts().items()
    }
    plan.measure(adversarial, CONFIG, CPU, tmp_path)
    after = {name: o.module.state_dict() for name, o in adversarial.parts().items()}
    assert same(before, after)


def test_a_part_that_is_not_finite_holds_all_back(tmp_path: Path) -> None:
    adversarial = task(poison=frozenset({7}))
    state = loop.fit(adversarial, CONFIG, 20, tmp_path, CPU, progress.ignore)
    assert state.skipped == 1
    for part in state.parts.values():
        assert all(p.isfinite().all() for p in part.module.parameters())
