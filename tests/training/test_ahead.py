"""A GPU does not wait until the host has read what became of a step: here the CPU plays it."""

import os
import signal
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch
from conftest import same
from torch import Tensor, nn
from training.test_loop import CONFIG, CPU, LineTask, log
from training.test_parts import Adversarial

from dallebaby_cli import progress
from dallebaby_cli.errors import Interrupted
from dallebaby_cli.models import device as devices
from dallebaby_cli.training import checkpoint, loop
from dallebaby_cli.training.state import State

RARELY = replace(CONFIG, save_every_s=1000)


class Deep(nn.Module):
    """With matrices and a kernel for Muon, with weights for AdamW, and a buffer that counts."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.blocks = nn.ModuleList(nn.Linear(4, 4) for _ in range(2))
        self.kernel = nn.Conv2d(1, 2, 2)
        self.layer = nn.Linear(6, 1)
        self.register_buffer("passes", torch.tensor(0))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.passes += 1
        x = nn.functional.dropout(x, 0.1, self.training)
        seen = self.kernel(x.view(-1, 1, 2, 2)).flatten(1)
        for block in self.blocks:
            x = x + block(x).relu()
        return self.layer(torch.cat((x, seen), dim=1))


@dataclass
class DeepTask(LineTask):
    """A line fitted by more than it takes."""

    model: nn.Module = field(default_factory=Deep)


def adversarial(**more: object) -> Adversarial:
    torch.manual_seed(3)
    return Adversarial(**more)  # type: ignore[arg-type]


def fit(task: LineTask, folder: Path, ahead: bool, steps: int = 30) -> State:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(devices, "runs_ahead", lambda device: ahead)
        return loop.fit(task, RARELY, steps, folder, CPU, progress.ignore)


def saved(folder: Path) -> dict:
    found = checkpoint.load_state(folder / "state.pt")
    assert found is not None
    return dict(found)


def told(folder: Path) -> list[dict]:
    """What the log holds, but for its clock."""
    clocks = ("time", "images_per_s")
    return [{k: v for k, v in row.items() if k not in clocks} for row in log(folder)]


@pytest.mark.parametrize("make", [DeepTask, adversarial])
def test_steps_that_are_read_late_are_the_same(
    make: Callable[..., LineTask], tmp_path: Path
) -> None:
    """Bad ones among them: one in the middle, one before an evaluation, one near the end."""
    poison = frozenset({7, 9, 14, 28})
    for name, ahead in (("late", True), ("now", False)):
        state = fit(make(poison=poison), tmp_path / name, ahead)
        assert state.skipped == len(poison) and state.rollbacks == 0
    assert same(saved(tmp_path / "late"), saved(tmp_path / "now"))
    evaluations = [
        [row for row in told(tmp_path / name) if row["event"] == "evaluation"]
        for name in ("late", "now")
    ]
    assert evaluations[0] == evaluations[1]


def test_a_step_is_launched_before_the_last_one_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And all are read before anything looks at the state."""
    happened: list[tuple[str, int]] = []
    read, evaluate = loop.Launched.read, LineTask.evaluate

    def reading(launched: loop.Launched) -> loop.Taken:
        happened.append(("read", launched.step))
        return read(launched)

    def evaluating(task: LineTask, *more: object) -> dict[str, float]:
        happened.append(("evaluate", len(task.seen)))
        return evaluate(task, *more)

    monkeypatch.setattr(loop.Launched, "read", reading)
    monkeypatch.setattr(LineTask, "evaluate", evaluating)
    at_step = {n: lambda n=n: happened.append(("launch", n)) for n in range(12)}
    fit(LineTask(at_step=at_step, frames=0), tmp_path, True, 12)
    launched = [("launch", n) for n in range(10)]
    late = [("read", n) for n in range(9)]
    between = [pair for two in zip(launched[1:], late, strict=True) for pair in two]
    assert happened == [
        ("evaluate", 0),
        *(launched[0], *between, ("read", 9), ("evaluate", 10)),
        *(("launch", 10), ("launch", 11), ("read", 10), ("read", 11), ("evaluate", 12)),
    ]


def test_a_bad_step_changes_nothing_where_it_is_read_late(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "runs_ahead", lambda device: True)
    task = DeepTask(poison=frozenset({2}))
    state = State.fresh(task.parts(), CONFIG, CPU)
    for step in range(2):
        assert loop.take_step(task, state, task.batch(step), 1e-2, 0.0).ok
    before = deepcopy([part.state_dict() for part in state.parts.values()])
    averages = {name: tensor.clone() for name, tensor in state.averaged().items()}
    assert not loop.take_step(task, state, task.batch(2), 1e-2, 0.0).ok
    after = [part.state_dict() for part in state.parts.values()]
    passes = [found[0]["model"].pop("passes") for found in (before, after)]
    assert passes == [2, 3], "what the forward pass itself counts"
    assert same(before, after) and same(averages, state.averaged())


def test_too_many_bad_steps_roll_back_as_they_did(tmp_path: Path) -> None:
    """The one that was launched meanwhile leaves no trace."""
    for name, ahead in (("late", True), ("now", False)):
        task = DeepTask(poison=frozenset(range(12, 12 + loop.MAX_BAD_STEPS)))
        real_batch = task.batch

        def batch(step: int, task: DeepTask = task, read: Callable = real_batch) -> tuple:
            if 16 in task.seen and step < 12:
                task.poison = frozenset()
            return read(step)

        task.batch = batch  # type: ignore[method-assign]
        state = fit(task, tmp_path / name, ahead)
        assert (state.rollbacks, state.skipped, state.lr_scale) == (1, loop.MAX_BAD_STEPS, 0.5)
        assert (17 in task.seen[:18]) == ahead and task.seen.count(0) == 2
    assert same(saved(tmp_path / "late"), saved(tmp_path / "now"))
    events = [
        [row for row in told(tmp_path / name) if row["event"] != "step"] for name in ("late", "now")
    ]
    assert events[0] == events[1]


def test_a_run_that_is_stopped_between_reading_and_launching_goes_on(tmp_path: Path) -> None:
    poison = frozenset({17, 18})
    fit(DeepTask(poison=poison), tmp_path / "whole", False)
    terminate = {18: lambda: os.kill(os.getpid(), signal.SIGTERM)}
    with pytest.raises(Interrupted, match="stopped at step 19;"):
        fit(DeepTask(poison=poison, at_step=terminate), tmp_path / "broken", True)
    assert saved(tmp_path / "broken")["skipped"] == 2, "all steps it has taken were read"
    fit(DeepTask(poison=poison), tmp_path / "broken", True)
    assert same(saved(tmp_path / "broken"), saved(tmp_path / "whole"))


def test_a_state_that_cannot_be_held_back_is_read_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where FSDP2 splits some of the weights: the fused kernel does not take both kinds."""
    monkeypatch.setattr(devices, "runs_ahead", lambda device: True)
    task = DeepTask()
    state = State.fresh(task.parts(), CONFIG, CPU)
    assert state.ahead
    for group in state.parts["model"].optimizer.parts[0].param_groups:
        group["fused"] = False
    assert not state.ahead
    assert loop.take_step(task, state, task.batch(0), 1e-2, 0.0).ok
