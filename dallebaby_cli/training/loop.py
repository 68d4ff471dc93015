"""The training loop: one function for every model.

Each turn: evaluate? show? save? → stop? → step → log → count. There are N + 1 turns for N steps, so
the same code scores the model before the first step and after the last. The last turn saves first
and then judges what is kept, which may be weights of an earlier step (best.py). A step's batch,
learning rate and dropout follow from its number and the saved state, so a run that was killed goes
on exactly as it would have: bit for bit on a CPU.

What a step consists of is the task's own affair: the loop gives it the batch and the parts that
are trained (parts.py), and takes their gradients. Several ranks (engine.py) take these turns
together: each works on its share of the batch, the first alone scores, shows, saves and logs.

A GPU never waits for the host: it holds back a step that is not finite by itself, and what became
of a step is read when the next one is launched. Whatever looks at the state reads all of it first.
"""

import contextlib
import math
import signal
import time
from collections.abc import Callable, Mapping, Sized
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from dallebaby_cli.config import RunConfig
from dallebaby_cli.errors import Diverged, Interrupted
from dallebaby_cli.interrupt import Interrupt
from dallebaby_cli.models import collectives
from dallebaby_cli.models import device as devices
from dallebaby_cli.progress import Note, Report
from dallebaby_cli.training import best, engine, optim, pace
from dallebaby_cli.training.account import MAX_BAD_STEPS, Account, Launched, Taken
from dallebaby_cli.training.batches import prefetch, staged
from dallebaby_cli.training.log import Log
from dallebaby_cli.training.pace import Pace
from dallebaby_cli.training.parts import Objective
from dallebaby_cli.training.state import State

T = TypeVar("T")

MAX_ROLLBACKS = 3
SAVING = 0.02  # largest share of a run that writing checkpoints takes


class Task(Protocol):
    """What the loop has to know about a model; everything else is the same for all."""

    @property
    def name(self) -> str:
        """The command's, as people see it."""

    @property
    def model(self) -> nn.Module:
        """What is kept: its averaged weights are scored, shown and saved."""

    def parts(self) -> Mapping[str, Objective]:
        """What is trained, by name: `model` first, then the networks that help to train it."""

    @property
    def unit(self) -> str:
        """What a batch counts: "images" or "tokens"."""

    @property
    def units_per_step(self) -> int: ...

    @property
    def compile(self) -> bool:
        """Whether to try torch.compile; only where compiled steps, too, come out the same."""

    def batch(self, step: int) -> tuple[Tensor, ...]:
        """This process's share of the step's batch, on the CPU, pictures first."""

    def step(self, state: State, batch: tuple[Tensor, ...], progress: float) -> Tensor:
        """Give the parts their gradients (`state.backward`) when `progress` (0 to 1) of the run is
        over; the mean loss that people see, a scalar."""

    @property
    def train(self) -> Sized: ...

    @property
    def holdout(self) -> Sized: ...

    def evaluate(self, model: nn.Module, pictures: Any, count: int) -> dict[str, float]:
        """Figures on the first `count` of such pictures; the first is shown while training."""

    @property
    def early_stop(self) -> bool:
        """Whether it may memorise its pictures, and is to end when its hold-out loss says so."""

    def over(self, figures: Mapping[str, float]) -> str | None:
        """Why the run ends before its last step, if such figures say so."""

    def holdout_loss(self, figures: Mapping[str, float]) -> float | None:
        """What of such figures rises where the run memorises (less is better), if anything."""

    def learned(self, figures: Mapping[str, float]) -> bool:
        """Whether such figures are better than those of knowing next to nothing."""

    def warning(self, figures: Mapping[str, float]) -> str | None:
        """What is wrong with such figures, if anything, and what to do."""

    @property
    def frames(self) -> int:
        """How often the pictures are to be drawn between evaluations, early on more densely."""

    def pictures(self, model: nn.Module, last: bool) -> dict[str, np.ndarray]:
        """Named pictures, uint8 (H, W, 3), that show how far the model is; the first becomes a
        frame of training.gif. Those that take longer are for the `last` time only."""


def fit(
    task: Task,
    config: RunConfig,
    steps: int,
    folder: Path,
    device: torch.device,
    report: Report,
    flops_per_step: float = 0.0,
    compiled: bool = False,
    watch: Pace | None = None,
) -> State:
    """Train `task.parts` to `steps` steps, from `folder`/state.pt if there is one.

    `watch` sees how long the steps take, and may change the number of threads. Leaves state.pt,
    log.jsonl, TensorBoard files and the task's pictures in `folder`. Raises Interrupted after
    saving when asked to stop, Diverged when roll-backs do not help.
    """
    state = State.fresh(task.parts(), config, device, compiled)
    state_path = folder / "state.pt"
    if watch:
        state.threads = watch.chosen
    state.best = best.Best() if task.early_stop else None
    resumed = state.resume(state_path)
    log = None
    if engine.first():
        log = Log(folder, task, steps, flops_per_step, device, config, report)
    if resumed:
        steps = max(steps, state.step)  # fewer than there are cannot be asked for
        if state.step == state.ends < steps:
            state.began = state.step
        if log:
            log.event("resume", step=state.step)
        report(Note(f"{task.name}: going on from step {state.step} of {steps}"))
    state.ends = steps
    seen, every = glance(task.holdout, config), config.eval_every
    if best.watches(task, config, steps):
        every = best.every(config, steps, seen)
    elif state.best and not state.best.weights:
        state.best = None
    pace.use(state.threads)
    if watch:
        watch.chosen = state.threads
    read_batch = staged(task.batch, device)
    batches = prefetch(read_batch, state.step, steps)
    frames = {round(steps * (i / task.frames) ** 2) for i in range(task.frames)}
    account, saved_at, pause_s = Account(state, log), time.monotonic(), config.save_every_s
    state.model.train()
    with Interrupt() as interrupt, log or contextlib.nullcontext():
        while True:
            if account.hopeless:
                _roll_back(state, state_path, report)
                account.forget()
                batches.close()
                batches = prefetch(read_batch, state.step, steps)
            last = state.step == steps
            shown = state.step % config.eval_every == 0 or state.step in frames
            scored = state.step % config.eval_every == 0 or state.step % every == 0
            if (last or scored or shown) and not account.read():
                continue
            if state.best if last else scored:
                told = not last and state.step % config.eval_every == 0
                _evaluate(task, state, log, seen, state.step, told)
                if not last and state.step and (why := _over(task, state, steps)):
                    report(Note(f"{task.name}: ends at step {state.step} of {steps}: {why}"))
                    state.planned, steps, last = steps, state.step, True
            if shown and not last:
                _show(task, state, log, last)
            alone = engine.world() == 1
            due = time.monotonic() - saved_at >= pause_s
            asked = interrupt.asked if alone else account.taken.asked
            if last or asked or state.step == 0 or (due if alone else account.taken.due):
                if not account.read():
                    continue
                began = time.monotonic()
                state.save(state_path)
                saved_at, due = time.monotonic(), False
                account.saved()
                pause_s = pause(config, saved_at - began)
            if last:
                _end(task, state, log)
                return state
            if asked:
                engine.wait()  # until the first rank has written it
                raise Interrupted(f"stopped at step {state.step}; run it again to continue", asked)

            lr = state.lr_scale * optim.learning_rate(state.step, steps, config.optim)
            began = time.perf_counter()
            wanted = watch.chosen if watch else 0
            launched = launch(
                *(task, state, next(batches), lr, state.step / steps),
                *(interrupt, wanted, due),
            )
            if watch:
                watch.step(time.perf_counter() - began)
            account.add(launched)
            _follow(state, account.taken.threads, watch, report)
            state.step += 1


def take_step(
    task: Task, state: State, batch: tuple[Tensor, ...], lr: float, progress: float
) -> Taken:
    """`launch` a step and wait for what becomes of it."""
    return launch(task, state, batch, lr, progress).read()


def launch(
    task: Task,
    state: State,
    batch: tuple[Tensor, ...],
    lr: float,
    progress: float,
    interrupt: Interrupt | None = None,
    threads: int = 0,
    due: bool = False,
) -> Launched:
    """One optimizer step, which a GPU may still be at work on. `interrupt` knows of a signal to
    this rank, `threads` and `due` (for a checkpoint) are what the first one wants after it; all
    ranks learn of them with the loss."""
    words = (state.config.seed, state.step, engine.rank())
    torch.manual_seed(int(np.random.SeedSequence(words).generate_state(1)[0]))
    with collectives.sentence_if_lost() if engine.world() > 1 else contextlib.nullcontext():
        loss = task.step(state, batch, progress)
        lengths = [part.clip(state.loss_scale) for part in state.parts.values()]
    asked = interrupt.asked if interrupt else 0
    if engine.world() > 1:  # the only message of a step beside the gradients
        signals = (asked == signal.SIGINT, asked == signal.SIGTERM)
        wishes = (threads, due) if engine.first() else (0, 0)
        told = torch.tensor((0.0, *signals, *wishes), pin_memory=loss.is_cuda)
        told = told.to(loss.device, non_blocking=True)
        told[0] = loss / engine.world()
        loss, *heard = collectives.reduce(told)
        lengths += heard
    numbers = torch.stack((loss, *lengths))
    figures = devices.fetch(numbers)
    if state.ahead:
        state.update(lr, _bad(numbers))
    elif math.isfinite(sum(figures())):
        state.update(lr)
    if state.loss_scale:
        state.loss_scale.follow(_bad(numbers))
    for part in state.parts.values():
        part.module.zero_grad(set_to_none=True)
    return Launched(state.step, lr, figures, (asked, threads, due))


def _bad(figures: Tensor) -> Tensor:
    """Whether any is not finite, a bool on their device."""
    return figures.isfinite().logical_not().any()


def pause(config: RunConfig, save_s: float) -> float:
    """Seconds of training before the next checkpoint, if one takes so long."""
    return max(config.save_every_s, save_s / SAVING) if config.save_every_s else 0.0


def _follow(state: State, threads: int, watch: Pace | None, report: Report) -> None:
    """Compute with the threads that the first rank wants, and say why."""
    if threads and threads != state.threads:
        state.threads = threads
        pace.use(threads)
    if watch and watch.news:
        report(Note(f"step {state.step}: {watch.news}"))
        watch.news = ""


def glance(pictures: Sized, config: RunConfig) -> int:
    """How many of the pictures every evaluation but the last reads."""
    return min(config.eval_images, len(pictures))


def judged(state: State, judge: Callable[[nn.Module], T]) -> T | None:
    """What `judge` makes of the averaged weights, in the first rank, and in those that it needs for
    computing them; None in others."""
    if not (engine.first() or state.sharded):
        return None
    with torch.no_grad(), devices.autocast(state.device, state.config.precision):
        return judge(state.ema)


def _over(task: Task, state: State, steps: int) -> str | None:
    """Why the run ends before its last step, if it is to."""
    why = task.over(state.metrics)
    return why if why or not state.best else best.over(state.losses, state.began, state.step, steps)


def _end(task: Task, state: State, log: Log | None) -> None:
    """Judge what is kept by all hold-out pictures, and show it."""
    state.kept = state.take_best()
    _evaluate(task, state, log, len(task.holdout), state.kept, told=True)
    _show(task, state, log, last=True)
    state.mfu = log.mfu if log else None


def _evaluate(task: Task, state: State, log: Log | None, count: int, step: int, told: bool) -> None:
    """Score the averaged weights, which are those of a step, by so many hold-out pictures; all
    ranks know the figures. People are `told` what is wrong with them, but not before a step."""
    with log.aside() if log else contextlib.nullcontext():
        figures = judged(state, lambda model: task.evaluate(model, task.holdout, count))
        if log and figures is not None:
            warning = task.warning(figures) if told and step else None
            log.evaluation(step, figures, warning)
        state.metrics = engine.once(lambda: figures or {}, together=True)
    loss, span = task.holdout_loss(state.metrics), (state.began, state.ends)
    before = best.memorises_from(state.losses, *span)
    of_same = task.holdout is not task.train and count == glance(task.holdout, state.config)
    if loss is None or not of_same or step != state.step:
        return
    state.losses = {**state.losses, step: float(loss)}
    if state.best:
        state.best.add(state.losses, step, state.averaged)
    lowest = best.memorises_from(state.losses, *span)
    if before is None and lowest is not None and log:
        log.turned(step, lowest, state.losses, ends=state.best is not None)


def _show(task: Task, state: State, log: Log | None, last: bool) -> None:
    """Draw what the averaged weights make."""
    with log.aside() if log else contextlib.nullcontext():
        drawn = judged(state, lambda model: task.pictures(model, last))
        if log and drawn is not None:
            log.pictures(state.step, drawn)


def _roll_back(state: State, path: Path, report: Report) -> None:
    """Return to the last checkpoint with half the learning rate."""
    rollbacks, skipped, lr_scale = state.rollbacks + 1, state.skipped, state.lr_scale / 2
    if rollbacks > MAX_ROLLBACKS:
        raise Diverged(
            f"the loss is not finite any more and {MAX_ROLLBACKS} roll-backs did not help; "
            f"remove {path.parent} and train with a lower rate, such as --set optim.lr=1e-4"
        )
    began, ends = state.began, state.ends
    resumed = state.resume(path)
    assert resumed, "the first turn saves"
    pace.use(state.threads)
    state.began, state.ends = began, ends  # a finished run's checkpoint knows those of before
    state.rollbacks, state.skipped, state.lr_scale = rollbacks, skipped, lr_scale
    state.save(path)
    report(
        Note(
            f"{MAX_BAD_STEPS} steps in a row were not finite: back to step {state.step} with "
            f"{lr_scale:g} of the learning rate",
            "warning",
        )
    )
