"""How long a run will be: steps from minutes, measured once on a throw-away copy of the model."""

import time
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from dallebaby_cli.config import RunConfig
from dallebaby_cli.models import device as devices
from dallebaby_cli.training import distributed, optim
from dallebaby_cli.training.loop import State, Task, glance, take_step

WARM_STEPS, TIMED_S, MAX_TIMED = 2, 4.0, 20


@dataclass(frozen=True)
class Plan:
    """The length of a run and what a step costs."""

    steps: int
    step_s: float
    flops_per_step: float


def measure(task: Task, config: RunConfig, device: torch.device) -> Plan:
    """Time a few real steps and one evaluation, count a step's floating-point operations, and
    plan `config.steps` steps, or as many as fit `config.minutes`. Changes nothing that the run
    itself uses: the model is a copy and the random numbers are put back."""
    with torch.random.fork_rng():
        state = State.fresh(deepcopy(task.model), config, device)
        rate = optim.learning_rate(0, 1000, config.optim)
        state.model.train()
        batch = task.batch(0)
        with FlopCounterMode(display=False) as counter:
            take_step(task, state, batch, rate, 0.0, config, device)
        flops = float(counter.get_total_flops())
        for number in range(1, WARM_STEPS):
            take_step(task, state, task.batch(number), rate, 0.0, config, device)
        times: list[float] = []
        while sum(times) < TIMED_S and len(times) < MAX_TIMED:
            batch = task.batch(WARM_STEPS + len(times))
            began = time.perf_counter()
            take_step(task, state, batch, rate, 0.0, config, device)
            times.append(_since(began))
        step_s = sorted(times)[len(times) // 2]
        if config.steps is not None:
            return Plan(config.steps, step_s, flops)
        seen = glance(task.holdout, config)
        began = time.perf_counter()
        if distributed.first():
            with torch.no_grad(), devices.autocast(device, config.precision):
                task.evaluate(state.ema, task.holdout, seen)
                task.pictures(state.ema, last=False)
        evaluation_s = _since(began)
    ends_s = evaluation_s * (1 + len(task.holdout) / seen)  # the last one reads all
    available = max(config.minutes * 60 - ends_s, config.minutes * 60 / 2)  # or it takes longer
    steps = available / (step_s + evaluation_s / config.eval_every)
    return Plan(max(int(steps), 1), step_s, flops)


def _since(began: float) -> float:
    """Seconds by the clock of the first process, so that all plan the same."""
    elapsed = time.perf_counter() - began
    return distributed.once(lambda: elapsed)
