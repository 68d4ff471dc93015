"""Training in fp16: losses are scaled, so that no gradient is too small or too large for it."""

import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import same
from torch import Tensor, nn
from training.test_ahead import DeepTask, saved
from training.test_loop import CONFIG, CPU, Line, LineTask

from dallebaby_cli import progress
from dallebaby_cli.config import OptimConfig
from dallebaby_cli.drawing.half_precision import halve
from dallebaby_cli.drawing.sampler import Sampler
from dallebaby_cli.errors import Interrupted
from dallebaby_cli.models import device as devices
from dallebaby_cli.models.device import native_fp16
from dallebaby_cli.training import loop, loss_scale
from dallebaby_cli.training.loss_scale import FIRST, LossScale
from dallebaby_cli.training.state import State

FP16 = replace(CONFIG, precision="fp16", optim=OptimConfig(lr=3e-2), ema_decay=0.9)
BAD, GOOD = torch.tensor(True), torch.tensor(False)


def fit(task: LineTask, folder: Path, steps: int = 40) -> State:
    return loop.fit(task, FP16, steps, folder, CPU, progress.ignore)


class Faint(Line):
    """A line whose gradients are too small for fp16 (below 6e-8) unless they are scaled."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).float()


class FaintTask(LineTask):
    def loss(self, model: nn.Module, batch: tuple[Tensor, ...], progress: float) -> Tensor:
        return 1e-8 * super().loss(model, batch, progress)


def test_it_learns_in_fp16(tmp_path: Path) -> None:
    state = fit(LineTask(model=Line(dropout=0)), tmp_path, 150)
    assert state.metrics["error"] < 0.5 and state.rollbacks == 0
    assert all(p.dtype == torch.float32 and p.isfinite().all() for p in state.model.parameters())


def test_small_gradients_do_not_vanish() -> None:
    lengths = []
    for scaled in (True, False):
        task = FaintTask(model=Faint(dropout=0))
        state = State.fresh(task.parts(), FP16, CPU)
        exact = State.fresh(FaintTask(model=Faint(dropout=0)).parts(), CONFIG, CPU)
        state.loss_scale = state.loss_scale if scaled else None
        for one in (state, exact):
            task.step(one, task.batch(0), 0.0)
        lengths.append([one.parts["model"].clip(one.loss_scale).item() for one in (state, exact)])
    assert lengths[0][0] == pytest.approx(lengths[0][1], rel=0.01)
    assert lengths[1][0] < 0.5 * lengths[1][1], "without a scale"


@pytest.mark.parametrize("ahead", [False, True])
def test_an_overflow_halves_the_scale_and_changes_nothing(
    ahead: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "runs_ahead", lambda device: ahead)
    task = DeepTask()
    state = State.fresh(task.parts(), FP16, CPU)
    assert state.loss_scale is not None
    state.loss_scale.value.fill_(2.0**10)
    assert loop.take_step(task, state, task.batch(0), 1e-2, 0.0).ok
    averages = {name: tensor.clone() for name, tensor in state.averaged().items()}
    before = {name: tensor.clone() for name, tensor in state.model.named_parameters()}
    too_large = torch.cat((task.batch(1)[0][:, :4] * 2.0**14, task.batch(1)[0][:, 4:]), dim=1)
    taken = loop.take_step(task, state, (too_large,), 1e-2, 0.0)
    assert not taken.ok and state.loss_scale.value == 2.0**9
    assert same(before, dict(state.model.named_parameters()))
    assert same(averages, state.averaged())
    assert loop.take_step(task, state, task.batch(2), 1e-2, 0.0).ok
    assert not same(before, dict(state.model.named_parameters()))


def test_many_good_steps_double_the_scale_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loss_scale, "GOOD_STEPS", 3)
    scale, values = LossScale(CPU), []
    for bad in (BAD, GOOD, BAD, GOOD, GOOD, GOOD, GOOD, GOOD, GOOD, GOOD, GOOD, GOOD):
        scale.follow(bad)
        values.append(scale.value.item() / FIRST)
    assert values == [0.5, 0.5, 0.25, 0.25, 0.25, 0.5, 0.5, 0.5, 1, 1, 1, 1], "and no higher"
    for _ in range(40):
        scale.follow(BAD)
    assert scale.value == 1


def test_looking_for_a_scale_is_no_reason_to_roll_back(tmp_path: Path) -> None:
    bad = frozenset(range(5, 5 + 2 * loop.MAX_BAD_STEPS))
    state = fit(LineTask(poison=bad), tmp_path)
    assert state.skipped >= len(bad) and state.rollbacks == 0
    bad = frozenset(range(5, 5 + 100))
    task = LineTask(poison=bad)
    whole = task.batch
    most = loop.MAX_BAD_STEPS + loss_scale.HALVINGS

    def batch(step: int) -> tuple[Tensor, ...]:
        if len(bad & {*task.seen}) >= most:
            task.poison = frozenset()
        return whole(step)

    task.batch = batch  # type: ignore[method-assign]
    assert fit(task, tmp_path / "worse").rollbacks == 1


def test_a_broken_off_run_in_fp16_resumes_bit_for_bit(tmp_path: Path) -> None:
    fit(LineTask(), tmp_path / "whole")
    terminate = {17: lambda: os.kill(os.getpid(), signal.SIGTERM)}
    with pytest.raises(Interrupted):
        fit(LineTask(at_step=terminate), tmp_path / "broken")
    kept = saved(tmp_path / "broken")["loss_scale"]
    assert kept["value"] < FIRST and kept["good"] > 0, "the first steps found one"
    fit(LineTask(), tmp_path / "broken")
    assert same(saved(tmp_path / "broken"), saved(tmp_path / "whole"))


def test_a_run_goes_on_in_fp16_and_back(tmp_path: Path) -> None:
    """As with precision=auto and another GPU; old states know of no scale."""
    loop.fit(LineTask(), CONFIG, 10, tmp_path, CPU, progress.ignore)
    assert "loss_scale" not in saved(tmp_path)
    state = fit(LineTask(), tmp_path, 20)
    assert state.step == 20 and "loss_scale" in saved(tmp_path)
    loop.fit(LineTask(), CONFIG, 25, tmp_path, CPU, progress.ignore)
    assert "loss_scale" not in saved(tmp_path)


@pytest.mark.parametrize(
    ("capability", "expected"), [((6, 1), "fp32"), ((7, 0), "fp16"), ((7, 5), "fp16")]
)
def test_auto_is_fp16_on_a_gpu_that_is_fast_in_that_alone(
    capability: tuple[int, int], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "native_fp16", native_fp16)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert devices.resolve_precision(torch.device("cuda"), "auto") == expected


def test_pictures_are_drawn_in_fp16(sampler: Sampler, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = sampler.generate(["a red car", "a blue house"])
    monkeypatch.setattr(devices, "native_fp16", lambda device: True)
    kinds: list[torch.dtype] = []
    block = sampler.model.blocks[0]
    hook = block.qkv.register_forward_hook(lambda _, __, made: kinds.append(made.dtype))
    drawn = sampler.generate(["a red car", "a blue house"])
    hook.remove()
    assert {*kinds} == {torch.float16} and drawn.shape == expected.shape
    layers = nn.ModuleList([nn.Linear(4, 4)])
    halve(layers, CPU)
    assert layers[0].weight.dtype == torch.float16
