"""What photos.py asks of a program that draws photographs itself, and how it answers.

The photographs come as PICTURES.npz: uint8 (B, 3, P, P), the class of each (B,) and its caption as
numbers of words (B, T), 0 behind the last, both int64, of the sides `train` and `holdout`. One
picture for each of the first hold-out captions goes as drawn.npy into a folder, the figures as
lines of JSON on stdout.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import rebuilding
import torch
from torch import Tensor

BATCH, GUIDANCE = 32, 3.0
AT_A_TIME = 50  # pictures that are drawn


def asked(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """The arguments that every program takes, beside its own."""
    parser.add_argument("--share", type=float, default=0.2, help="of the minutes, for its dVAE")
    parser.add_argument("--drawn", type=int, default=1000, help="pictures")
    parser.add_argument("--guidance", type=float, default=GUIDANCE)
    parser.add_argument("--rate", type=float, default=3e-4)
    return rebuilding.asked(parser)


def load(path: Path) -> dict[str, Tensor]:
    """The arrays by name, as `train`, `train_classes`, `train_words`."""
    with np.load(path) as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays.files}


def learn(
    turn: Callable[[Tensor, float], Tensor], count: int, minutes: float, options: argparse.Namespace
) -> tuple[int, float]:
    """Take steps (a `turn` for the rows of a batch, given how much of the run is over) until the
    minutes are over; how many steps and seconds it took. Each picture is seen as often."""
    rows, step, spent = batches(count, options.seed), 0, 0.0
    while spent < 60 * minutes and step < options.steps:
        began = time.perf_counter()
        loss = turn(next(rows), spent / (60 * minutes))
        step += 1
        spent += time.perf_counter() - began
        if step % 100 == 1:
            rebuilding.say(step=step, loss=loss.item(), spent=spent)
    return step, spent


def batches(count: int, seed: int) -> Iterator[Tensor]:
    """Rows of BATCH pictures, epoch after epoch."""
    random = np.random.default_rng(seed)
    while True:
        order = torch.from_numpy(random.permutation(count))
        yield from (rows for rows in order.split(BATCH) if len(rows) == BATCH or count < BATCH)


def draw(picture: Callable[[Tensor], Tensor], asked: Tensor, options: argparse.Namespace) -> None:
    """Write what `picture` makes of each of those that are asked for, -1 to 1 (B, 3, P, P)."""
    with torch.inference_mode():
        parts = [picture(part) for part in asked[: options.drawn].split(AT_A_TIME)]
    shown = ((torch.cat(parts).float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    options.out.mkdir(parents=True, exist_ok=True)
    np.save(options.out / "drawn.npy", shown.numpy())
