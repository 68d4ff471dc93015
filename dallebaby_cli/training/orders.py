"""In which order of its codes each picture is learned.

A share of the pictures is learned in other orders than raster order, each in its own, that falls
while the run goes on, as in RAR (Yu et al. 2024, arXiv 2411.00776), which goes down to raster order
alone; here some are left, for what is drawn in other orders. Nor are they any orders, as there:
they are those along diagonals in which pictures are drawn by default, so that most of what lies
above and to the left of a place is known, as in raster order, and most that is learned serves both.
"""

import numpy as np
import torch
from torch import Tensor

from dallebaby_cli.config import TrainConfig
from dallebaby_cli.models.places import diagonals

FALLS, FALLEN = 0.5, 0.75  # of a run, between which the share falls
USUAL = 0.25  # share at first, where nobody says which
STREAM = 2  # of the run's random numbers
NONE, AROUND = 0.5, 0.75  # chance that nothing is kept, and that it is that or all around a hole
WHOLE_SIDE = 1 / 3  # chance that a side of the hole is the picture's, as where a picture goes on


def any_order(config: TrainConfig, digits: tuple[int, ...]) -> bool:
    """Whether a model is to know other orders than raster order. Where nobody says, those whose
    codes are several digits are, which photographs' codes are: in raster order it costs them next
    to nothing, and drawings some right pictures (docs/experiments.md 9)."""
    asked = config.random_order
    return len(digits) > 0 if asked is None else asked > 0


def share(config: TrainConfig, progress: float) -> float:
    """Of the pictures that are learned in other orders when `progress` (0 to 1) of a run is
    over."""
    usual = USUAL if config.model.any_order else 0.0
    most = usual if config.random_order is None else config.random_order
    least = min(config.random_floor, most)
    fallen = min(max((progress - FALLS) / (FALLEN - FALLS), 0.0), 1.0)
    return most + (least - most) * fallen


def draw(config: TrainConfig, step: int, mine: slice) -> tuple[Tensor, Tensor]:
    """For each picture (B,) of a rank's part of a step's batch an order of its places, int64
    (B, N), and a number from 0 to 1: the picture is learned in that order where the `share` is
    above it. In that order come the places that are `kept`, then the others; both along the
    diagonals of some number of passes, from as many as there are columns to raster order."""
    random = np.random.default_rng((config.seed, STREAM, step))
    size, grid = config.batch_size, config.model.grid
    passes = np.rint(grid ** random.uniform(1, 2, size)).astype(int)
    times = np.array([diagonals(grid, count) for count in passes.tolist()])
    times = times + random.random(times.shape)  # those of one pass in any order
    orders = (times - grid**2 * kept(random, size, grid)).argsort(axis=1)
    chances = random.random(size, np.float32)
    return torch.from_numpy(orders[mine]), torch.from_numpy(chances[mine])


def kept(random: np.random.Generator, size: int, grid: int) -> np.ndarray:
    """Which places (B, N), bool, of each picture are known before any is drawn: none of every other
    one; else all around a rectangle, whose sides are often the picture's, or some anywhere."""
    row, column = np.divmod(np.arange(grid**2), grid)
    hole = np.ones((size, grid**2), dtype=bool)
    for place in (row, column):
        length = random.integers(1, grid + 1, (size, 1))
        length = np.where(random.random((size, 1)) < WHOLE_SIDE, grid, length)
        first = random.integers(0, grid - length + 1)
        hole &= (place >= first) & (place < first + length)
    anywhere = random.random((size, grid**2)) < random.random((size, 1))
    what = random.random((size, 1))
    return np.where(what < NONE, False, np.where(what < AROUND, ~hole, anywhere))


def chosen(orders: Tensor, chances: Tensor, share: float) -> Tensor:
    """The orders (B, N) in which pictures are learned: raster order, or theirs."""
    raster = torch.arange(orders.shape[1], device=orders.device)
    return orders.where(chances[:, None] < share, raster)
