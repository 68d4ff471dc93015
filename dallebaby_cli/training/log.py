"""What a run tells: log.jsonl and TensorBoard on disk, progress to whoever listens."""

import contextlib
import json
import os
import time
from collections.abc import Iterator, Mapping, Sized
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from dallebaby_cli import files
from dallebaby_cli.config import RunConfig
from dallebaby_cli.models import device as devices
from dallebaby_cli.progress import Note, Progress, Report
from dallebaby_cli.store.pictures import write_png
from dallebaby_cli.training import pictures_of_run
from dallebaby_cli.training.board import Board
from dallebaby_cli.training.peak import matmul_peak


class Told(Protocol):
    """What of a task its log has to know."""

    @property
    def name(self) -> str: ...
    @property
    def unit(self) -> str: ...
    @property
    def units_per_step(self) -> int: ...
    @property
    def train(self) -> Sized: ...
    @property
    def holdout(self) -> Sized: ...
    @property
    def model(self) -> nn.Module: ...


class Log:
    """The first rank's account of a run."""

    def __init__(
        self,
        folder: Path,
        task: Told,
        steps: int,
        flops_per_step: float,
        device: torch.device,
        config: RunConfig,
        report: Report,
    ) -> None:
        self.folder, self.task, self.steps, self.report = folder, task, steps, report
        self.flops_per_step = flops_per_step
        self.peak = matmul_peak(device, config.precision) if flops_per_step else 0.0
        self.epochs_per_step = config.batch_size / len(task.train)
        self.score = ""
        self.since, self.counted = time.perf_counter(), 0
        self.trained_s, self.trained = 0.0, 0  # of all steps that were told of
        folder.mkdir(parents=True, exist_ok=True)
        log = _whole_lines(files.own(folder / "log.jsonl"))
        self.file = log.open("a", encoding="utf-8", newline="\n")
        self.board = Board(folder / "tensorboard", report)
        self.event(
            "start",
            device=devices.describe(device),
            precision=devices.resolve_precision(device, config.precision),
            parameters=sum(weight.numel() for weight in task.model.parameters()),
            train=len(task.train),
            holdout=0 if task.holdout is task.train else len(task.holdout),
        )

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
        began = time.perf_counter()
        yield
        self.since += time.perf_counter() - began

    def step(self, step: int, loss: float, lr: float) -> None:
        """One step was taken; told after about each second of training."""
        self.counted += 1
        elapsed = time.perf_counter() - self.since
        if elapsed < 1 and step + 1 < self.steps:
            return
        rate = self.counted / max(elapsed, 1e-9)  # where the clock ticks slowly
        units = rate * self.task.units_per_step
        share = self._share(rate)
        self.trained_s, self.trained = self.trained_s + elapsed, self.trained + self.counted
        self.since, self.counted = time.perf_counter(), 0
        speed = {f"{self.task.unit}_per_s": round(units)}
        mfu = {} if share is None else {"mfu": round(share, 4)}
        epochs = round((step + 1) * self.epochs_per_step, 4)
        self.event("step", step=step, loss=loss, lr=lr, epochs=epochs, **speed, **mfu)
        for name, value in (("loss", loss), ("lr", lr), ("epochs", epochs)):
            self.board.scalar(f"train/{name}", value, step)
        detail = f"loss {loss:.3f}, lr {lr:.1e}, {epochs:.3g} epochs, "
        detail += f"{units:,.0f} {self.task.unit}/s"
        detail += f"{'' if share is None else f', {share:.0%} of peak'}{self.score}"
        self.report(Progress(self.task.name, step + 1, self.steps, "steps", detail))

    @property
    def mfu(self) -> float | None:
        """Model FLOPs utilisation of all steps so far: the share of the device's peak that they
        made use of (Chowdhery et al. 2022, arXiv 2204.02311); None if that is not known. Of one
        device: each rank does its share of a step."""
        return self._share(self.trained / self.trained_s) if self.trained_s > 0 else None

    def _share(self, steps_per_s: float) -> float | None:
        """How much of the device's peak that is. Over all of it shows that the peak was measured
        while others used the machine: then nothing more is said of it."""
        share = steps_per_s * self.flops_per_step / self.peak if self.peak else 0.0
        if share > 1:
            self.peak = 0.0
        return share if 0 < share <= 1 else None

    def evaluation(self, step: int, metrics: Mapping[str, float], warning: str | None) -> None:
        """The hold-out figures of a step, and what is wrong with them."""
        self.event("evaluation", step=step, **metrics)
        first, value = next(iter(metrics.items()))
        self.score = f", hold-out {first} {value:.3g}"
        for name, value in metrics.items():
            self.board.scalar(f"holdout/{name}", value, step)
        if warning:
            self.event("warning", step=step, text=warning)
            self.report(Note(f"step {step}: {warning}", "warning"))

    def turned(self, step: int, best: int, losses: Mapping[int, float], ends: bool = False) -> None:
        """The hold-out loss has risen since the step where it was `best`: said once, and to people
        only if nothing `ends` the run for it."""
        text = (
            f"the hold-out loss was lowest at step {best} ({losses[best]:.3g}) and is "
            f"{losses[step]:.3g} now: after {step * self.epochs_per_step:,.0f} epochs the model "
            "memorises its training pictures and gets worse at all others; prepare more pictures"
        )
        text += f", or train for as long as that (--steps {best})" if best else ""
        self.event("turned", step=step, best=best, text=text)
        if not ends:
            self.report(Note(f"step {step}: {text}", "warning"))

    def pictures(self, step: int, pictures: Mapping[str, np.ndarray]) -> None:
        """The pictures of a step, the first of them as a frame too. Where they cannot be kept, the
        run goes on: if that is for want of room, its next checkpoint will say so."""
        try:
            for name, picture in pictures.items():
                write_png(self.folder / f"{name}.png", picture)
                self.board.picture(name, picture, step)
            pictures_of_run.keep_frame(self.folder, step, next(iter(pictures.values())))
        except OSError as error:
            text = f"the pictures of step {step} cannot be kept ({error})"
            self.report(Note(text, "warning"))


def _whole_lines(path: Path) -> Path:
    """Cut off what a killed process or a power cut may have left at the end: half a line, zeros."""
    read = end = 0
    with contextlib.suppress(FileNotFoundError):
        for line in files.read_lines(path):
            read += len(line)
            end = read if line.endswith(b"\n") else end
        if end < read:
            os.truncate(path, end)
    return path
