"""The training loop: one function for every model.

Each turn: evaluate? show? save? → stop? → step → log → count. There are N + 1 turns for N steps, so
the same code scores the model before the first step and after the last. A step's batch, learning
rate and dropout follow from its number and the saved state, so a run that was killed goes on
exactly as it would have: bit for bit on a CPU.

Several processes (engine.py) take these turns together: each works on its share of the batch,
the first alone scores, shows, saves and logs.
"""

import contextlib
import json
import math
import time
from collections.abc import Iterator, Mapping, Sized
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

from dallebaby_cli.config import RunConfig
from dallebaby_cli.errors import Diverged, Interrupted
from dallebaby_cli.interrupt import Interrupt
from dallebaby_cli.models import device as devices
from dallebaby_cli.progress import Note, Progress, Report
from dallebaby_cli.store.pictures import write_png
from dallebaby_cli.training import checkpoint, engine, optim, pictures_of_run
from dallebaby_cli.training.batches import prefetch

MAX_BAD_STEPS = 5  # in a row, before the run goes back to its last checkpoint
MAX_ROLLBACKS = 3


class Task(Protocol):
    """What the loop has to know about a model; everything else is the same for all."""

    @property
    def name(self) -> str:
        """The command's, as people see it."""

    @property
    def model(self) -> nn.Module: ...

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

    def loss(self, model: nn.Module, batch: tuple[Tensor, ...], progress: float) -> Tensor:
        """The mean loss of a batch, a scalar, when `progress` (0 to 1) of the run is over."""

    @property
    def train(self) -> Sized: ...

    @property
    def holdout(self) -> Sized: ...

    def evaluate(self, model: nn.Module, pictures: Any, count: int) -> dict[str, float]:
        """Figures on the first `count` of such pictures; the first is shown while training."""

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


@dataclass
class State:
    """All that changes while training; the same in every process."""

    model: nn.Module
    ema: nn.Module
    optimizer: optim.Optimizers
    step: int = 0
    lr_scale: float = 1.0
    """halved by each roll-back"""
    skipped: int = 0
    rollbacks: int = 0
    metrics: dict[str, float] = field(default_factory=dict)
    """of the last evaluation"""

    @classmethod
    def fresh(
        cls, model: nn.Module, config: RunConfig, device: torch.device, compiled: bool = False
    ) -> "State":
        model = model.to(device).to(memory_format=torch.channels_last)  # 2 x faster on a CPU
        ema = deepcopy(model).requires_grad_(False).eval()
        if compiled:
            devices.compile(model)
        return cls(model, ema, optim.build(model, config.optim))

    def save(self, path: Path) -> None:
        """Write everything: once, by the first process."""
        if not engine.first():
            return
        state = {
            "model": self.model.state_dict(),
            "ema": self.ema.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            **{name: getattr(self, name) for name in ("step", "lr_scale", "skipped", "rollbacks")},
        }
        checkpoint.save_state(path, state)

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Become what `save` wrote."""
        self.model.load_state_dict(saved["model"])
        self.ema.load_state_dict(saved["ema"])
        self.optimizer.load_state_dict(saved["optimizer"])
        for name in ("step", "lr_scale", "skipped", "rollbacks"):
            setattr(self, name, saved[name])

    @torch.no_grad()
    def average(self, decay: float) -> None:
        """Move the averaged weights towards the model's, quickly while they are young; what is
        no weight (how long a code has been idle) is copied."""
        weight = 1 - min(decay, (1 + self.step) / (10 + self.step))
        ours: list[Tensor] = list(self.ema.parameters())
        theirs: list[Tensor] = list(self.model.parameters())
        torch._foreach_lerp_(ours, theirs, weight)
        for copy, buffer in zip(self.ema.buffers(), self.model.buffers(), strict=True):
            copy.copy_(buffer)


def fit(
    task: Task,
    config: RunConfig,
    steps: int,
    folder: Path,
    device: torch.device,
    report: Report,
    flops_per_step: float = 0.0,
    compiled: bool = False,
) -> State:
    """Train `task.model` to `steps` steps, from `folder`/state.pt if there is one.

    Leaves state.pt, log.jsonl, TensorBoard files and the task's pictures in `folder`. Raises
    Interrupted after saving when asked to stop, Diverged when roll-backs do not help.
    """
    state = State.fresh(task.model, config, device, compiled)
    state_path = folder / "state.pt"
    saved = checkpoint.load_state(state_path)
    log = None
    if engine.first():
        log = Log(folder, task, steps, flops_per_step, config.precision, report)
    if saved:
        state.restore(saved)
        if log:
            log.event("resume", step=state.step)
        report(Note(f"{task.name}: going on from step {state.step} of {steps}"))
    batches = prefetch(task.batch, state.step, steps)
    frames = {round(steps * (i / task.frames) ** 2) for i in range(task.frames)}
    saved_at, bad = time.monotonic(), 0
    state.model.train()
    with Interrupt() as interrupt, log or contextlib.nullcontext():
        while True:
            last = state.step == steps
            scored = last or state.step % config.eval_every == 0
            if scored:
                _evaluate(task, state, device, config, log, last)
            if scored or state.step in frames:
                _show(task, state, device, config, log, last)
            due = time.monotonic() - saved_at >= config.save_every_s
            asked = engine.highest(interrupt.asked)  # in any process, at the same step
            if last or due or asked or state.step == 0:
                state.save(state_path)
                saved_at = time.monotonic()
            if last:
                return state
            if asked:
                raise Interrupted(f"stopped at step {state.step}; run it again to continue", asked)

            lr = state.lr_scale * optim.learning_rate(state.step, steps, config.optim)
            progress = state.step / steps
            loss, ok = take_step(task, state, next(batches), lr, progress, config, device)
            bad = 0 if ok else bad + 1
            state.skipped += not ok
            if bad == MAX_BAD_STEPS:
                _roll_back(state, state_path, report)
                batches.close()
                batches, bad = prefetch(task.batch, state.step, steps), 0
                continue
            if log:
                log.step(state.step, loss, lr)
            state.step += 1


def take_step(
    task: Task,
    state: State,
    batch: tuple[Tensor, ...],
    lr: float,
    progress: float,
    config: RunConfig,
    device: torch.device,
) -> tuple[float, bool]:
    """One optimizer step; its loss, and False if it was not finite and so was not taken."""
    words = (config.seed, state.step, engine.rank())
    torch.manual_seed(int(np.random.SeedSequence(words).generate_state(1)[0]))
    loss_sum = torch.zeros((), device=device)
    for parts in zip(*(tensor.chunk(config.accumulate) for tensor in batch), strict=True):
        moved = tuple(part.to(device, non_blocking=True) for part in parts)
        with devices.autocast(device, config.precision):
            part_loss = task.loss(state.model, moved, progress) / config.accumulate
        part_loss.backward()  # type: ignore[no-untyped-call]
        loss_sum += part_loss.detach()
    gradients = [p.grad for p in state.model.parameters() if p.grad is not None]
    engine.average([loss_sum, *gradients])
    norm = nn.utils.clip_grad_norm_(state.model.parameters(), config.optim.clip_norm)
    loss, length = torch.stack((loss_sum, norm)).tolist()  # the step's only wait for a GPU
    ok = math.isfinite(loss + length)
    if ok:
        state.optimizer.step(lr)
        state.average(config.ema_decay)
    state.model.zero_grad(set_to_none=True)
    return loss, ok


def glance(pictures: Sized, config: RunConfig) -> int:
    """How many of the pictures every evaluation but the last reads."""
    return min(config.eval_images, len(pictures))


@torch.no_grad()
def _evaluate(
    task: Task, state: State, device: torch.device, config: RunConfig, log: "Log | None", last: bool
) -> None:
    """Score the averaged weights: the first process does, all know the figures."""
    if log:
        count = len(task.holdout) if last else glance(task.holdout, config)
        with log.aside(), devices.autocast(device, config.precision):
            state.metrics = task.evaluate(state.ema, task.holdout, count)
            warning = task.warning(state.metrics) if state.step else None
            log.evaluation(state.step, state.metrics, warning)
    state.metrics = engine.once(lambda: state.metrics)


@torch.no_grad()
def _show(
    task: Task, state: State, device: torch.device, config: RunConfig, log: "Log | None", last: bool
) -> None:
    """Draw what the averaged weights make."""
    if log:
        with log.aside(), devices.autocast(device, config.precision):
            log.pictures(state.step, task.pictures(state.ema, last))


def _roll_back(state: State, path: Path, report: Report) -> None:
    """Return to the last checkpoint with half the learning rate."""
    rollbacks, skipped, lr_scale = state.rollbacks + 1, state.skipped, state.lr_scale / 2
    if rollbacks > MAX_ROLLBACKS:
        raise Diverged(
            f"the loss is not finite any more and {MAX_ROLLBACKS} roll-backs did not help; "
            f"remove {path.parent} and train with a lower rate, such as --set optim.lr=1e-4"
        )
    saved = checkpoint.load_state(path)
    assert saved is not None, "the first turn saves"
    state.restore(saved)
    state.rollbacks, state.skipped, state.lr_scale = rollbacks, skipped, lr_scale
    state.save(path)
    report(
        Note(
            f"{MAX_BAD_STEPS} steps in a row were not finite: back to step {state.step} with "
            f"{lr_scale:g} of the learning rate",
            "warning",
        )
    )


class Log:
    """What a run tells: log.jsonl and TensorBoard on disk, progress to whoever listens."""

    def __init__(
        self,
        folder: Path,
        task: Task,
        steps: int,
        flops_per_step: float,
        precision: devices.Precision,
        report: Report,
    ) -> None:
        self.folder, self.task, self.steps, self.report = folder, task, steps, report
        self.flops_per_step = flops_per_step
        device = next(task.model.parameters()).device
        self.peak = matmul_peak(device, precision) if flops_per_step else 0.0
        self.score = ""
        self.since, self.counted = time.monotonic(), 0
        folder.mkdir(parents=True, exist_ok=True)
        self.file = _whole_lines(folder / "log.jsonl").open("a")
        self.board = SummaryWriter(str(folder / "tensorboard"))

    def __enter__(self) -> "Log":
        return self

    def __exit__(self, *exception: object) -> None:
        self.file.close()
        self.board.close()

    def event(self, event: str, **facts: Any) -> None:
        """Append one line to log.jsonl."""
        self.file.write(json.dumps({"event": event, **facts, "time": round(time.time(), 3)}) + "\n")
        self.file.flush()

    @contextlib.contextmanager
    def aside(self) -> Iterator[None]:
        """Work that is not training: its time does not count."""
        began = time.monotonic()
        yield
        self.since += time.monotonic() - began

    def step(self, step: int, loss: float, lr: float) -> None:
        """One step was taken; told after about each second of training."""
        self.counted += 1
        elapsed = time.monotonic() - self.since
        if elapsed < 1 and step + 1 < self.steps:
            return
        rate = self.counted / elapsed
        units = rate * self.task.units_per_step
        peak = rate * self.flops_per_step / self.peak if self.peak else 0.0
        self.since, self.counted = time.monotonic(), 0
        self.event("step", step=step, loss=loss, lr=lr, **{f"{self.task.unit}_per_s": round(units)})
        self.board.add_scalar("train/loss", loss, step)
        self.board.add_scalar("train/lr", lr, step)
        share = f", {peak:.0%} of peak" if peak else ""
        detail = f"loss {loss:.3f}, lr {lr:.1e}, {units:,.0f} {self.task.unit}/s{share}{self.score}"
        self.report(Progress(self.task.name, step + 1, self.steps, "steps", detail))

    def evaluation(self, step: int, metrics: Mapping[str, float], warning: str | None) -> None:
        """The hold-out figures of a step, and what is wrong with them."""
        self.event("evaluation", step=step, **metrics)
        first, value = next(iter(metrics.items()))
        self.score = f", hold-out {first} {value:.3g}"
        for name, value in metrics.items():
            self.board.add_scalar(f"holdout/{name}", value, step)
        if warning:
            self.event("warning", step=step, text=warning)
            self.report(Note(f"step {step}: {warning}", "warning"))

    def pictures(self, step: int, pictures: Mapping[str, np.ndarray]) -> None:
        """The pictures of a step, the first of them as a frame too."""
        for name, picture in pictures.items():
            write_png(self.folder / f"{name}.png", picture)
            self.board.add_image(name, picture, step, dataformats="HWC")
        pictures_of_run.keep_frame(self.folder, step, next(iter(pictures.values())))


def _whole_lines(path: Path) -> Path:
    """Cut off the half line that a killed process may have left."""
    if path.exists():
        content = path.read_bytes()
        path.write_bytes(content[: content.rfind(b"\n") + 1])
    return path


def matmul_peak(
    device: torch.device, precision: devices.Precision, side: int = 1024, seconds: float = 0.2
) -> float:
    """Floating-point operations a second of large matrix products, in the precision of training:
    the yardstick for "share of peak"."""
    a = torch.randn(side, side, device=device)
    with devices.autocast(device, precision):
        (a @ a)[0, 0].item()
        best, end = math.inf, time.monotonic() + seconds
        while time.monotonic() < end:
            began = time.perf_counter()
            (a @ a)[0, 0].item()
            best = min(best, time.perf_counter() - began)
    return 2 * side**3 / best
