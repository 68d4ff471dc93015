"""Activation checkpointing: blocks that are computed twice need less memory and change nothing."""

import dataclasses
from pathlib import Path

import pytest
import torch
from conftest import same
from torch import Tensor, nn
from training.test_compile import CONFIG, SHAPE, STEPS, Drawing, with_compiler

from dallebaby_cli import progress
from dallebaby_cli.config import TrainConfig, TransformerConfig, settings
from dallebaby_cli.models.transformer import Transformer
from dallebaby_cli.progress import ignore
from dallebaby_cli.stages import train
from dallebaby_cli.training import checkpoint, identity, loop, memory, plan
from dallebaby_cli.training.state import State

CPU = torch.device("cpu")
DEEP = dataclasses.replace(SHAPE, depth=6, dropout=0.3)


def task(recompute: bool, shape: TransformerConfig = DEEP) -> Drawing:
    torch.manual_seed(0)
    model = Transformer(shape)
    for weight in model.parameters():  # at first each block is the identity
        nn.init.normal_(weight, std=0.1)
    model.recompute = recompute
    return Drawing(model=model)


def fit(folder: Path, recompute: bool, compiled: bool, shape: TransformerConfig) -> dict:
    made = task(recompute, shape)
    loop.fit(made, CONFIG, STEPS, folder, CPU, progress.ignore, compiled=compiled)
    found = checkpoint.load_state(folder / "state.pt")
    assert found is not None
    return dict(found)


def gradients(recompute: bool) -> tuple[list[Tensor], int, float]:
    """Of one step with dropout, how many times a block was computed, and the next random number."""
    made, calls = task(recompute), []
    for block in made.model.blocks:
        block.register_forward_pre_hook(lambda *_: calls.append(1))
    state = State.fresh(made.parts(), CONFIG, CPU)
    state.model.train()
    torch.manual_seed(5)
    made.step(state, made.batch(0), 0.0)
    found = [weight.grad for weight in state.model.parameters()]
    return [grad for grad in found if grad is not None], len(calls), float(torch.rand(()))


def test_gradients_are_the_same_with_dropout() -> None:
    (ours, twice, after), (theirs, once, expected) = gradients(True), gradients(False)
    assert (once, twice) == (6, 12) and after == expected
    assert len(ours) == len(theirs) > 6 * 7
    assert all(map(torch.equal, ours, theirs)) and all(grad.any() for grad in ours)


def test_a_run_is_the_same_bit_for_bit(tmp_path: Path) -> None:
    whole = fit(tmp_path / "twice", True, False, DEEP)
    assert same(whole, fit(tmp_path / "once", False, False, DEEP))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute")  # torch's own, which it hides from users
@with_compiler
def test_compiled_blocks_are_computed_twice_too(tmp_path: Path) -> None:
    compiled = fit(tmp_path / "compiled", True, True, SHAPE)
    eager = fit(tmp_path / "eager", False, False, SHAPE)
    for name, weight in compiled["model"].items():
        torch.testing.assert_close(weight, eager["model"][name], atol=2e-3, rtol=0)


def needed(recompute: bool, depth: int, pictures: int = 3) -> int:
    made = task(recompute, dataclasses.replace(DEEP, depth=depth))
    state = State.fresh(made.parts(), CONFIG, CPU)
    batch = tuple(tensor[:1].expand(pictures, -1) for tensor in made.batch(0))
    found = memory._needed_bytes(state, lambda part: made.step(state, part, 0.0), batch)
    assert state.model.recompute == recompute
    return found


def test_memory_grows_by_what_lies_between_blocks_alone() -> None:
    between = 4 * 3 * SHAPE.sequence_len * SHAPE.dim
    assert needed(True, 9) - needed(True, 4) == pytest.approx(5 * between, abs=9)
    a_block = (needed(False, 9) - needed(False, 4)) / 5
    assert a_block > 10 * between
    assert needed(True, 1) == pytest.approx(needed(False, 1), abs=9), "one block is kept whole"


def test_work_done_to_save_memory_is_no_progress() -> None:
    ours, theirs = (
        plan.measure(task(again), CONFIG, CPU, threads=1, step_s=1.0).flops_per_step
        for again in (True, False)
    )
    assert ours == theirs > 0


def test_it_is_a_setting_that_a_run_may_change(trained: Path) -> None:
    names = []
    for chosen in ("true", "false"):
        config = settings.load("train", preset="tiny", settings=(f"recompute={chosen}",))
        assert isinstance(config, TrainConfig)
        prepared, parents, _ = train.prepare(trained, config, [], device=CPU, report=ignore)
        assert prepared.model.recompute == (chosen == "true")
        names.append(identity.name(["shapes"], "tiny", prepared.config, parents))
    assert names[0] == names[1]
