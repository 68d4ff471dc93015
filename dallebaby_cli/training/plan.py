"""How long a run takes: its parts are timed once, on a throw-away copy of the model, and add up.

`train-vae` and `train` plan their steps from minutes with it, `doctor` foretells both.
"""

import bisect
import time
from collections.abc import Callable
from contextlib import closing
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from dallebaby_cli.config import RunConfig
from dallebaby_cli.models import device as devices
from dallebaby_cli.training import engine, optim
from dallebaby_cli.training.batches import prefetch
from dallebaby_cli.training.loop import State, Task, glance, take_step

WARM_STEPS, TIMED_S, MAX_TIMED = 2, 4.0, 20
TIMED_BATCHES = 8  # of an evaluation
COMPILED_FROM_S = 300.0  # a shorter run would hardly win back the half minute that compiling takes


@dataclass(frozen=True)
class Costs:
    """What a run's parts take, in seconds."""

    step_s: float
    """with the wait for its batch, which threads prepare meanwhile"""
    flops_per_step: float
    compiled: bool = False
    """whether steps are that fast with torch.compile"""
    start_s: float = 0.0
    """to measure all this"""
    evaluation_s: float = 0.0
    last_evaluation_s: float = 0.0
    """of all hold-out pictures"""
    show_s: float = 0.0
    """to draw the pictures that a run shows"""
    save_s: float = 0.0
    """to write a checkpoint"""


def duration(costs: Costs, steps: int, config: RunConfig, frames: int) -> float:
    """Seconds that a run of so many steps takes, from its first evaluation to its last."""
    evaluations = -(-steps // config.eval_every)
    shown = evaluations + 1 + min(frames, steps)
    working = (
        steps * costs.step_s
        + evaluations * costs.evaluation_s
        + costs.last_evaluation_s
        + shown * costs.show_s
    )
    pause = max(config.save_every_s, costs.step_s)
    return costs.start_s + working + (2 + working / pause) * costs.save_s


def length(costs: Costs, config: RunConfig, frames: int) -> int:
    """`config.steps`, or as many as fit `config.minutes`: whole, but for a run so short that more
    than half of it would go into all that is not training."""
    if config.steps is not None:
        return config.steps
    limit = config.minutes * 60
    most = range(1, int(limit / costs.step_s) + 1)
    fit = bisect.bisect_right(most, limit, key=lambda n: duration(costs, n, config, frames))
    return max(fit, int(limit / 2 / costs.step_s), 1)


def measure(
    task: Task,
    config: RunConfig,
    device: torch.device,
    folder: Path | None = None,
    may_compile: bool = False,
) -> Costs:
    """Time a few real steps with their batches, and count a step's floating-point operations; with
    the `folder` where the run's checkpoints will lie, time the rest of it, too. If they
    `may_compile`, steps of a long run are tried with torch.compile. Changes nothing that the run
    itself uses: the model is a copy and the random numbers are put back."""
    began = time.perf_counter()
    with torch.random.fork_rng():
        state = State.fresh(deepcopy(task.model), config, device)
        state.model.train()
        with FlopCounterMode(display=False) as counter:
            take_step(task, state, task.batch(0), 0.0, 0.0, config, device)
        flops = float(counter.get_total_flops())
        step_s, compiled = _step_s(task, state, config, device), False
        run_s = step_s * config.steps if config.steps else config.minutes * 60
        if may_compile and task.compile and run_s >= COMPILED_FROM_S:
            if _compiles(task, state, config, device):
                compiled_s = _step_s(task, state, config, device)
                step_s, compiled = min(step_s, compiled_s), compiled_s < step_s
        if folder is None:
            return Costs(step_s, flops, compiled)
        seen = glance(task.holdout, config)
        timed = min(seen, TIMED_BATCHES * config.batch_size)
        with torch.no_grad(), devices.autocast(device, config.precision):
            _first(lambda: task.evaluate(state.ema, task.holdout, min(timed, config.batch_size)))
            evaluated_s = _first(lambda: task.evaluate(state.ema, task.holdout, timed))
            show_s = _first(lambda: task.pictures(state.ema, last=False))
        path = folder / "plan.pt"
        save_s = _first(lambda: state.save(path))
        if engine.first():
            path.unlink()
    one_s = evaluated_s / timed
    return Costs(
        step_s,
        flops,
        compiled,
        start_s=_since(began),
        evaluation_s=one_s * seen,
        last_evaluation_s=one_s * len(task.holdout),
        show_s=show_s,
        save_s=save_s,
    )


def _step_s(task: Task, state: State, config: RunConfig, device: torch.device) -> float:
    """Mean seconds of a step and of the wait for its batch."""
    rate = optim.learning_rate(0, 1000, config.optim)
    with closing(prefetch(task.batch, 0, WARM_STEPS + MAX_TIMED)) as batches:
        for _ in range(WARM_STEPS):
            take_step(task, state, next(batches), rate, 0.0, config, device)
        times: list[float] = []
        while sum(times) < TIMED_S and len(times) < MAX_TIMED:
            began = time.perf_counter()
            take_step(task, state, next(batches), rate, 0.0, config, device)
            times.append(_since(began))
    return sum(times) / len(times)


def _compiles(task: Task, state: State, config: RunConfig, device: torch.device) -> bool:
    """Compile the model; False where that fails in any process, mostly for want of a compiler."""
    devices.compile(state.model)
    batch = tuple(part.chunk(config.accumulate)[0].to(device) for part in task.batch(0))
    failed = False
    try:
        with devices.autocast(device, config.precision):
            task.loss(state.model, batch, 0.0).backward()  # type: ignore[no-untyped-call]
    except RuntimeError:
        failed = True
    state.model.zero_grad(set_to_none=True)
    return not engine.highest(failed)


def _first(work: Callable[[], object]) -> float:
    """Seconds that the first process takes for what it does alone."""
    began = time.perf_counter()
    if engine.first():
        work()
    return _since(began)


def _since(began: float) -> float:
    """Seconds by the clock of the first process, so that all plan the same."""
    elapsed = time.perf_counter() - began
    return engine.once(lambda: elapsed)
