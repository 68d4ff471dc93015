"""How long a run takes: its parts are timed once, on a throw-away copy of the model, and add up.

`train-vae` and `train` plan their steps from minutes with it, `doctor` estimates both.
"""

import bisect
import math
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from dallebaby_cli.config import RunConfig
from dallebaby_cli.models import device as devices
from dallebaby_cli.training import engine, memory, optim, pace
from dallebaby_cli.training.batches import prefetch, staged
from dallebaby_cli.training.loop import Task, glance, judged, launch, pause, take_step
from dallebaby_cli.training.parts import Objective
from dallebaby_cli.training.state import State

WARM_STEPS, TIMED_S, MAX_TIMED = 2, 4.0, 20
TIMED_BATCHES = 8  # of an evaluation
MIDDLE = 0.5  # of a run: its first steps may have less to do
COMPILED_FROM_S = 300.0  # a shorter run would hardly win back the half minute that compiling takes


@dataclass(frozen=True)
class Costs:
    """What a run's parts take, in seconds."""

    step_s: float
    """with the wait for its batch, which threads prepare meanwhile"""
    flops_per_step: float
    """floating-point operations of the model, in one rank"""
    compiled: bool = False
    """whether steps are that fast with torch.compile"""
    threads: int = 0
    """of a CPU, with which steps are that fast; 0 elsewhere"""
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
    between = max(math.ceil(pause(config, costs.save_s) / costs.step_s), 1) * costs.step_s
    return costs.start_s + working + (2 + working / between) * costs.save_s


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
    threads: int | None = None,
    step_s: float | None = None,
) -> Costs:
    """Time a few real steps with their batches, and count a step's floating-point operations; with
    the `folder` where the run's checkpoints will lie, time the rest of it, too. If they
    `may_compile`, steps of a long run are tried with torch.compile. A CPU takes them with so many
    `threads`; None tries which number is fastest. With both `threads` and `step_s`, what a run was
    planned with, steps are not timed. Changes nothing that the run itself uses: the models are
    copies, and threads and random numbers are put back. Raises OutOfMemory that says which batch
    fits."""
    began, before = time.perf_counter(), torch.get_num_threads()
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        try:
            return _measure(task, config, device, folder, may_compile, threads, step_s, began)
        finally:
            pace.use(before)


def _measure(
    task: Task,
    config: RunConfig,
    device: torch.device,
    folder: Path | None,
    may_compile: bool,
    threads: int | None,
    step_s: float | None,
    began: float,
) -> Costs:
    state = State.fresh(copies(task.parts()), config, device)
    state.model.train()
    batch = task.batch(0)
    memory.require_step(state, lambda part: task.step(state, part, MIDDLE), batch)
    # of the model, and not of its optimizer
    flops = _flops(lambda: memory.explained(state, lambda: task.step(state, batch, MIDDLE)))
    flops -= len(batch[0]) * _again(task, state, tuple(tensor[:1] for tensor in batch))
    memory.explained(state, lambda: take_step(task, state, batch, 0.0, MIDDLE))
    if device.type != "cpu":
        threads = 0  # nothing to choose
    if threads is None or step_s is None:
        step_s, threads = _fastest(task, state, device, threads)
    compiled = False
    run_s = step_s * config.steps if config.steps else config.minutes * 60
    if may_compile and task.compile and run_s >= COMPILED_FROM_S and _compiles(task, state):
        compiled_s = _step_s(task, state)
        step_s, compiled = min(step_s, compiled_s), compiled_s < step_s
    if folder is None:
        return Costs(step_s, flops, compiled, threads)
    seen = glance(task.holdout, config)
    timed = min(seen, TIMED_BATCHES * config.batch_size)
    one_batch = min(timed, config.batch_size)
    _timed(lambda: judged(state, lambda model: task.evaluate(model, task.holdout, one_batch)))
    evaluated_s = _timed(
        lambda: judged(state, lambda model: task.evaluate(model, task.holdout, timed))
    )
    show_s = _timed(lambda: judged(state, lambda model: task.pictures(model, last=False)))
    path = folder / "plan.pt"
    save_s = _timed(lambda: state.save(path))
    if engine.first():
        path.unlink()
    one_s = evaluated_s / timed
    return Costs(
        step_s,
        flops,
        compiled,
        threads,
        start_s=_since(began),
        evaluation_s=one_s * seen,
        last_evaluation_s=one_s * len(task.holdout),
        show_s=show_s,
        save_s=save_s,
    )


def _flops(work: Callable[[], object]) -> float:
    with FlopCounterMode(display=False) as counter:
        work()
    return float(counter.get_total_flops())


def _again(task: Task, state: State, picture: tuple[Tensor, ...]) -> float:
    """Operations for a picture that are only done to save memory, and are no progress."""
    with memory.keeping_all(state.model) as blocks:
        if not blocks:
            return 0.0
        once = _flops(lambda: take_step(task, state, picture, 0.0, MIDDLE))
    return _flops(lambda: take_step(task, state, picture, 0.0, MIDDLE)) - once


def copies(objectives: Mapping[str, Objective]) -> dict[str, Objective]:
    """The same tasks for copies of their modules."""
    modules = deepcopy({name: objective.module for name, objective in objectives.items()})
    return {name: replace(o, module=modules[name]) for name, o in objectives.items()}


def _fastest(
    task: Task, state: State, device: torch.device, threads: int | None
) -> tuple[float, int]:
    """Mean seconds of a step with the number of threads that is fastest, which is left in use, and
    that number; 0 where there is nothing to choose."""
    most = engine.lowest(torch.get_num_threads())
    if threads == 0:
        return _step_s(task, state), 0
    tried = [threads] if threads else pace.counts(most)
    found: dict[int, float] = {}
    for number in tried:
        pace.use(number)
        found[number] = _step_s(task, state, TIMED_S / len(tried))
    chosen = min(found, key=lambda number: found[number])
    pace.use(chosen)
    return found[chosen], chosen


def _step_s(task: Task, state: State, timed_s: float = TIMED_S) -> float:
    """Mean seconds of a step and of the wait for its batch."""
    rate = optim.learning_rate(0, 1000, state.config.optim)
    read = staged(task.batch, state.device)
    with closing(prefetch(read, 0, WARM_STEPS + MAX_TIMED)) as batches:
        for _ in range(WARM_STEPS):
            before = launch(task, state, next(batches), rate, MIDDLE)
        times: list[float] = []
        while sum(times) < timed_s and len(times) < MAX_TIMED:
            began = time.perf_counter()
            now = launch(task, state, next(batches), rate, MIDDLE)
            before.read()  # a step late where that is what a run does
            before = now
            times.append(_since(began))
    return sum(times) / len(times)


def can_compile(task: Task, config: RunConfig, device: torch.device) -> bool:
    """Whether compiled steps can be taken here, tried with one on a copy of the models."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        return _compiles(task, State.fresh(copies(task.parts()), config, device))


def _compiles(task: Task, state: State) -> bool:
    """Compile the model; False where that fails in any rank, mostly for want of a compiler."""
    devices.compile(state.model)
    failed = False
    try:
        with ExitStack() as apart:
            for part in state.parts.values():
                apart.enter_context(part.syncing(last=False))
            task.step(state, task.batch(0), MIDDLE)
    except RuntimeError:
        failed = True
    for part in state.parts.values():
        part.module.zero_grad(set_to_none=True)
    return not engine.highest(failed)


def _timed(work: Callable[[], object]) -> float:
    """Seconds that the first rank takes for what it does, alone or with the others."""
    began = time.perf_counter()
    work()
    return _since(began)


def _since(began: float) -> float:
    """Seconds by the clock of the first rank, so that all plan the same."""
    elapsed = time.perf_counter() - began
    return engine.once(lambda: elapsed)
