"""What photos.py asks of a program that draws photographs itself, and how it answers.

The photographs come as PICTURES.npz: uint8 (B, 3, P, P), the class of each (B,) and its caption as
numbers of words (B, T), 0 behind the last, both int64, of the sides `train` and `holdout`. One
picture for each of the first hold-out captions goes as drawn.npy into a folder, beside the weights,
so that they can draw otherwise without being trained again; the figures go as lines of JSON to
stdout.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import rebuilding
import torch
from torch import Tensor, nn

BATCH = 32
AT_A_TIME = 25  # pictures that are drawn


def asked(parser: argparse.ArgumentParser, *, rate: float, guidance: float) -> argparse.Namespace:
    """The arguments that every program takes, beside its own, with what it takes by itself."""
    parser.add_argument("--share", type=float, default=0.2, help="of the minutes, for its dVAE")
    parser.add_argument("--drawn", type=int, default=1000, help="pictures")
    parser.add_argument("--guidance", type=float, default=guidance)
    parser.add_argument("--rate", type=float, default=rate)
    return rebuilding.asked(parser)


def load(path: Path) -> dict[str, Tensor]:
    """The arrays by name, as `train`, `train_classes`, `train_words`."""
    with np.load(path) as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays.files}


def precision() -> AbstractContextManager[object]:
    """bf16 where the machine computes in it, as ours."""
    native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.autocast("cpu", torch.bfloat16, enabled=native)


def learn(
    turn: Callable[[Tensor, float], Tensor], count: int, minutes: float, options: argparse.Namespace
) -> None:
    """Take steps (a `turn` for the rows of a batch, given how much of the run is over) until the
    minutes are over; say how many steps and seconds it took."""
    rows, step, spent, over = batches(count, options.seed), 0, 0.0, 0.0
    while over < 1:
        began = time.perf_counter()
        loss = turn(next(rows), over)
        step += 1
        spent += time.perf_counter() - began
        over = max(spent / (60 * minutes), step / options.steps)
        if step % 100 == 1:
            rebuilding.say(step=step, loss=loss.item(), spent=spent)
    rebuilding.say(train_steps=step, train_seconds=spent)


def batches(count: int, seed: int) -> Iterator[Tensor]:
    """Rows of BATCH pictures, epoch after epoch; the last ones of each, if they are fewer, are left
    out."""
    random = np.random.default_rng(seed)
    while True:
        order = torch.from_numpy(random.permutation(count))
        yield from (rows for rows in order.split(BATCH) if len(rows) == BATCH or count < BATCH)


def draw(picture: Callable[[Tensor], Tensor], asked: Tensor, options: argparse.Namespace) -> None:
    """Write what `picture` makes of each of those that are asked for, -1 to 1 (B, 3, P, P)."""
    torch.manual_seed(options.seed)
    with torch.inference_mode(), precision():
        parts = [picture(part) for part in asked[: options.drawn].split(AT_A_TIME)]
    shown = ((torch.cat(parts).float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    options.out.mkdir(parents=True, exist_ok=True)
    np.save(options.out / "drawn.npy", shown.numpy())


def trained(model: nn.Module, out: Path, train: Callable[[], None]) -> None:
    """The weights that are kept in the folder; where none are, those that training comes to."""
    path = out / f"{type(model).__name__}.pt"
    if path.exists():
        model.load_state_dict(torch.load(path, weights_only=True))
    else:
        train()
        out.mkdir(parents=True, exist_ok=True)
        torch.save(model.state_dict(), path)
    model.eval()
