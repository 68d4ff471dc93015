"""What a planned run would be like, tried on a throw-away copy of its model."""

import math
import statistics
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dallebaby_cli.models import device as devices
from dallebaby_cli.training import best, loop, optim, pace, plan
from dallebaby_cli.training.batches import prefetch
from dallebaby_cli.training.state import State

MEMORISED_STEPS, MEMORISED_S = 30, 4.0  # most steps on one batch, and most seconds
LOADED_BATCHES = 12  # that are timed


@dataclass(frozen=True)
class Forecast:
    """What a run of one stage would be like."""

    stage: str
    parameters: int
    first_loss: float | None
    """of one batch, before it is memorised"""
    last_loss: float | None
    """after as many steps as that was given; None is not finite"""
    working_s: float
    """for a step whose batch is there"""
    loading_s: float
    """for a batch, when the loader has the machine for itself"""
    step_s: float
    mfu: float | None
    """share of the device's peak that such steps make use of; None if that cannot be right"""
    units_per_s: float
    unit: str
    memory_bytes: int
    """most that was in use; on a CPU by this whole process"""
    steps: int
    epochs: float
    """how often each picture is seen"""
    seconds: float
    """that the whole run takes: evaluations, pictures and checkpoints, too"""
    memorises: bool = False
    """whether it sees each picture so often that it may memorise them, and looks for that"""


def forecast(
    task: Any, pictures: int, device: torch.device, folder: Path, peak: float = 0.0
) -> Forecast:
    """Memorise one batch of the task, and time the parts of the run that its config plans
    for so many pictures, with checkpoints in `folder`, which is left as it was. The device's `peak`
    is that of `matmul_peak`, 0 where it is not known."""
    config = task.config
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    before = torch.get_num_threads()
    costs = plan.measure(task, config, device, folder, may_compile=True)
    try:
        pace.use(costs.threads)
        first, last, working_s = _memorise(task, device)
        loading_s = _loading(task)
    finally:
        pace.use(before)
    steps = plan.length(costs, config, task.frames)
    epochs = steps * config.batch_size / pictures
    share = costs.flops_per_step / costs.step_s / peak if peak else 0.0
    return Forecast(
        stage=task.name,
        parameters=sum(p.numel() for p in task.model.parameters()),
        first_loss=first,
        last_loss=last,
        working_s=working_s,
        loading_s=loading_s,
        step_s=costs.step_s,
        mfu=share if 0 < share <= 1 else None,  # above 1, others used the machine
        units_per_s=task.units_per_step / costs.step_s,
        unit=task.unit,
        memory_bytes=devices.peak_bytes(device),
        steps=steps,
        epochs=epochs,
        seconds=plan.duration(costs, steps, config, task.frames),
        memorises=task.early_stop and epochs > best.AGAIN,
    )


def _memorise(task: Any, device: torch.device) -> tuple[float | None, float | None, float]:
    """The loss of one batch, what is left of it after some steps on nothing else, and the seconds
    of such a step. A loss that is not finite is None."""
    config, batch = task.config, task.batch(0)
    losses: list[float] = []
    seconds: list[float] = []
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        state = State.fresh(plan.copies(task.parts()), config, device)
        state.model.train()
        end = time.monotonic() + MEMORISED_S
        while len(losses) < MEMORISED_STEPS and (len(losses) < 3 or time.monotonic() < end):
            rate = optim.learning_rate(state.step, MEMORISED_STEPS, config.optim)
            began = time.perf_counter()
            losses.append(loop.take_step(task, state, batch, rate, 0.0).loss)
            seconds.append(time.perf_counter() - began)
            state.step += 1
    first, last = (loss if math.isfinite(loss) else None for loss in (losses[0], losses[-1]))
    return first, last, statistics.median(seconds)


def _loading(task: loop.Task) -> float:
    """Seconds for a batch that nothing else is done beside."""
    with closing(prefetch(task.batch, 0, 1 + LOADED_BATCHES)) as batches:
        next(batches)
        began = time.perf_counter()
        count = sum(1 for _ in batches)
        return (time.perf_counter() - began) / count
