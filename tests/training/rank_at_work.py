"""What test_engine.py lets two real ranks do, and one: `rank_at_work.py HOME OUT STOP CASE...`.

Each case trains in OUT/CASE, from where it was, until the step STOP (or to its end, if that is 0).
"""

import json
import os
import signal
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from dallebaby_cli.config import settings
from dallebaby_cli.errors import Interrupted
from dallebaby_cli.models import device as devices
from dallebaby_cli.progress import ignore
from dallebaby_cli.stages import train, train_vae
from dallebaby_cli.stages.sharpen import SharpenTask
from dallebaby_cli.training import best, engine, loop
from dallebaby_cli.training.state import State

CPU = torch.device("cpu")
STEPS = 18
ALWAYS = (f"steps={STEPS}", "eval_every=6", "precision=fp32", "accumulate=2")
CASES = {
    "fsq": ("vae",),
    "photographs": ("vae",),
    "vq": ("vae", "model.quantizer=vq"),
    "gumbel": ("vae", "model.quantizer=gumbel"),
    "sharpen": ("vae", "finish.width=8"),
    "dalle": ("dalle", "model.dropout=0"),
    "dropout": ("dalle", "model.dropout=0.1"),
    "orders": ("dalle", "model.dropout=0", "random_order=0.5"),
    "recompute": ("dalle", "model.dropout=0", "recompute=true"),
    "few": ("dalle", "model.dropout=0"),  # as if the pictures were so few that it could memorise
}


def task_of(home: Path, case: str) -> Any:
    """The task of a case; one that is -sharded splits the model, where there are ranks."""
    name, *how = case.split("-")
    kind, *more = CASES[name]
    chosen = (*ALWAYS, *more, f"shard={str('sharded' in how).lower()}")
    if kind == "vae":
        config = settings.load("train-vae", preset="tiny", settings=chosen)
        images = "photographs" if name == "photographs" else "shapes"
        task = train_vae.prepare(home, config, [images], device=CPU, report=ignore)[0]
        if name == "sharpen":
            return SharpenTask.of(task.model, task.train, task.holdout, task.config, CPU)
        return task
    config = settings.load("train", preset="tiny", settings=chosen)
    return train.prepare(home, config, [], device=CPU, report=ignore)[0]


class Stopping:
    """A task whose last rank is asked to stop while it takes a step."""

    def __init__(self, task: Any, stop: int) -> None:
        self._task, self._stop = task, stop

    def __getattr__(self, name: str) -> Any:
        return getattr(self._task, name)

    def step(self, state: Any, batch: tuple[Tensor, ...], progress: float) -> Tensor:
        if round(progress * STEPS) == self._stop - 1 and engine.rank() == engine.world() - 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return self._task.step(state, batch, progress)


def work(home: Path, out: Path, stop: int, cases: list[str]) -> None:
    """Train every case, those that are -ahead as a GPU does; saves.json says at which steps it was
    saved."""
    for case in cases:
        task = task_of(home, case)
        config = replace(task.config, steps=STEPS, save_every_s=0.0 if stop else 1000.0)
        ahead = case.endswith("-ahead")
        saves: list[int] = []

        def save(
            state: State, path: Path, saves: list[int] = saves, whole: Any = State.save
        ) -> None:
            saves.append(state.step)
            whole(state, path)

        try:
            with (
                patch.object(devices, "runs_ahead", lambda device, ahead=ahead: ahead),
                patch.object(State, "save", save),
                patch.object(best, "AGAIN", 0.0 if case.startswith("few") else best.AGAIN),
            ):
                loop.fit(Stopping(task, stop), config, STEPS, out / case, CPU, ignore)
        except Interrupted:
            assert stop, case
        if engine.first():
            (out / case / "saves.json").write_text(json.dumps(saves), encoding="utf-8")


if __name__ == "__main__":
    with engine.session() if engine.started() else nullcontext():
        work(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4:])
