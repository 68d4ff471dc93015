"""In which order of its codes each picture is learned.

A share of the pictures is learned in random orders, each in its own, that falls while the run goes
on, as in RAR (Yu et al. 2024, arXiv 2411.00776), which goes down to raster order alone; here some
are left, for what is drawn in other orders.
"""

import numpy as np
import torch
from torch import Tensor

from dallebaby_cli.config import TrainConfig

FALLS, FALLEN = 0.5, 0.75  # of a run, between which the share falls
STREAM = 2  # of the run's random numbers


def share(config: TrainConfig, progress: float) -> float:
    """Of the pictures that are learned in random orders when `progress` (0 to 1) of a run is
    over."""
    most, least = config.random_order, min(config.random_floor, config.random_order)
    fallen = min(max((progress - FALLS) / (FALLEN - FALLS), 0.0), 1.0)
    return most + (least - most) * fallen


def draw(config: TrainConfig, step: int, mine: slice) -> tuple[Tensor, Tensor]:
    """For each picture (B,) of a rank's part of a step's batch a random order of its places, int64
    (B, N), and a number from 0 to 1: the picture is learned in that order where the `share` is
    above it."""
    random = np.random.default_rng((config.seed, STREAM, step))
    raster = np.tile(np.arange(config.model.image_tokens), (config.batch_size, 1))
    orders, chances = random.permuted(raster, axis=1), random.random(config.batch_size, np.float32)
    return torch.from_numpy(orders[mine]), torch.from_numpy(chances[mine])


def chosen(orders: Tensor, chances: Tensor, share: float) -> Tensor:
    """The orders (B, N) in which pictures are learned: raster order, or theirs."""
    raster = torch.arange(orders.shape[1], device=orders.device)
    return orders.where(chances[:, None] < share, raster)
