"""A training step of the dVAE beside the sum of its own convolutions, forward and backward, timed
alone in the same process; and where the rest of the step goes.

    python benchmarks/dvae_step.py [--preset scenes] [--px 64] [--rounds 15]
"""

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from dallebaby_cli.config import usual_grid
from dallebaby_cli.config.settings import load
from dallebaby_cli.models.tokenizers import losses
from dallebaby_cli.models.tokenizers.dvae import DVAE
from dallebaby_cli.training.loop import take_step
from dallebaby_cli.training.parts import Objective
from dallebaby_cli.training.state import State

CPU = torch.device("cpu")


class Pixels:
    """The task that `take_step` asks for its gradients."""

    @staticmethod
    def loss(model: Any, batch: tuple[Tensor, ...], progress: float) -> Tensor:
        output, quantized = model(batch[0], progress)
        return losses.reconstruction(output, batch[0], model.config.loss) + quantized.loss

    def step(self, state: State, batch: tuple[Tensor, ...], progress: float) -> Tensor:
        return state.backward("model", batch, progress)


def median_s(work: Callable[[], object], rounds: int) -> float:
    for _ in range(2):
        work()
    times = []
    for _ in range(rounds):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def alone(module: nn.Module, shape: torch.Size, first: bool, rounds: int) -> float:
    """Seconds of one convolution's forward and backward."""
    x = torch.randn(shape).to(memory_format=torch.channels_last).requires_grad_(not first)
    gradient = torch.randn_like(module(x))
    return median_s(lambda: module(x).backward(gradient), rounds)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--preset", default="scenes")
    parser.add_argument("--px", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    config = load("train-vae", preset=options.preset)
    grid = config.model.grid or usual_grid(options.px, drawn=True)
    config = replace(config, model=replace(config.model, image_px=options.px, grid=grid))
    objectives = {"model": Objective(DVAE(config.model), Pixels.loss)}
    state = State.fresh(objectives, config, CPU)
    state.model.train()
    task: Any = Pixels()  # which has of a task what a step asks for
    batch = (torch.randint(256, (config.batch_size, 3, options.px, options.px)).to(torch.uint8),)

    def step() -> None:
        take_step(task, state, batch, 1e-4, 0.0)
        state.step += 1

    whole = median_s(step, options.rounds)
    shapes: list[tuple[nn.Module, torch.Size]] = []
    kinds = (nn.Conv2d, nn.ConvTranspose2d)
    convolutions = [module for module in state.model.modules() if isinstance(module, kinds)]
    hooks = [
        module.register_forward_hook(lambda module, x, _: shapes.append((module, x[0].shape)))
        for module in convolutions
    ]
    Pixels.loss(state.model, batch, 0.0)
    for hook in hooks:
        hook.remove()
    own = sum(
        alone(module, shape, index == 0, options.rounds)
        for index, (module, shape) in enumerate(shapes)
    )
    print(f"step {1e3 * whole:.1f} ms, its convolutions {1e3 * own:.1f} ms: {whole / own:.2f} ×")
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        for _ in range(4):
            step()
    events = sorted(profiled.key_averages(), key=lambda e: -e.self_cpu_time_total)
    total = sum(event.self_cpu_time_total for event in events)
    print("\n| operation | share of the step |\n|---|---|")
    for event in events[:12]:
        print(f"| {event.key} | {event.self_cpu_time_total / total:.1%} |")


if __name__ == "__main__":
    main()
