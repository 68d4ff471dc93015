"""Whether a model draws something new, or its training pictures: the nearest of those to each drawn
picture, in codes and in the eyes of a network. How near is near, hold-out pictures show, which no
model drew.

All are compared as the image tokenizer paints them: a memorised picture then is the same, whatever
the tokenizer loses. A: drawn pictures, B: hold-out ones, N: codes of a picture, P: its side.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from dallebaby_cli.models.tokenizers import ImageTokenizer
from dallebaby_cli.quality import metrics
from dallebaby_cli.training.batches import Captioned

SAME = 1e-5  # less is rounding
CHANCE = 0.01  # of hold-out pictures that are as near to a training picture as a copy
PART = 256  # training pictures at a time
Progress = Callable[[int], None]


@dataclass(frozen=True)
class Drawn:
    """What a model drew of hold-out captions, and its data."""

    codes: Tensor
    """(A, G, G)"""
    prompts: list[str]
    """of each of them"""
    training: Captioned
    held_out: Captioned


@dataclass(frozen=True)
class Near:
    """How far pictures are from the nearest training picture, one value each."""

    drawn: np.ndarray
    """(A,)"""
    held_out: np.ndarray
    """(B,)"""
    place: np.ndarray
    """index (A + B,) of the training picture nearest to each, the drawn ones first"""
    known: int
    """training pictures they were compared with"""

    def figures(self) -> dict[str, float]:
        """Medians, least ones and sizes, `copies` that differ in nothing; and `drawn_close`, the
        share of drawn pictures that are nearer than all but `CHANCE` of the hold-out ones, which
        of pictures that are new is `close_by_chance`."""
        found: dict[str, float] = {}
        for name, part in (("drawn", self.drawn), ("holdout", self.held_out)):
            found[f"{name}_median"] = float(np.median(part))
            found[f"{name}_least"] = float(part.min())
            found[f"{name}_copies"] = int((part < SAME).sum())
            found[f"{name}_compared"] = len(part)
        line = np.quantile(self.held_out, CHANCE, method="lower")
        found["drawn_close"] = float((self.drawn < line).mean())
        found["close_by_chance"] = max(CHANCE, 1 / (len(self.held_out) + 1))
        return found | {"known": self.known}


def in_codes(codes: Tensor, held_out: Tensor, training: Captioned, progress: Progress) -> Near:
    """By the share of codes (A, N) and (B, N) that differ, among all training pictures."""
    both = torch.cat((codes, held_out.to(codes.device)))
    differ, place = metrics.nearest(both, training.codes(), progress)
    count = len(codes)
    return Near(differ[:count], differ[count:], place, len(training))


def in_features(
    codes: Tensor,
    held_out: Tensor,
    training: Captioned,
    tokenizer: ImageTokenizer,
    look: Callable[[Tensor], Tensor],
    known: np.ndarray,
    progress: Progress,
) -> Near:
    """By 1 - cosine of the vectors that a network gives (`look`: uint8 (M, 3, P, P) → (M, C)),
    among the `known` training pictures, by their indices. Some at a time are in memory."""

    def see(codes: Tensor) -> Tensor:
        parts = torch.split(codes.long(), PART)
        return torch.cat([F.normalize(look(paint(tokenizer, part)).float()) for part in parts])

    seen = torch.cat((see(codes), see(held_out)))
    nearest, place = torch.full((len(seen),), -torch.inf), torch.zeros(len(seen), dtype=torch.long)
    for start in range(0, len(known), PART):
        rows = known[start : start + PART]
        closest, column = (seen @ see(codes_of(training, rows)).T).max(1)
        place = torch.where(closest > nearest, torch.from_numpy(rows)[column], place)
        nearest = torch.maximum(nearest, closest)
        progress(start + len(rows))
    far, count = (1 - nearest).clamp(min=0).numpy(), len(codes)
    return Near(far[:count], far[count:], place.numpy(), len(known))


def codes_of(training: Captioned, rows: np.ndarray) -> Tensor:
    """Codes int64 (M, N) of pictures as they are, without their other views."""
    places = training.places[rows].tolist()
    codes = np.stack([training.sources[source].views(row)[0] for source, row in places])
    return torch.from_numpy(codes.astype(np.int64))


def captions_of(training: Captioned, rows: np.ndarray) -> list[str]:
    """The first caption of each picture; empty of those that have none."""
    places = training.places[rows].tolist()
    return [next(iter(training.sources[source].captions(row)), "") for source, row in places]


@torch.no_grad()
def paint(tokenizer: ImageTokenizer, codes: Tensor) -> Tensor:
    """uint8 (M, 3, P, P) of codes (M, N)."""
    square = codes.long().view(-1, tokenizer.grid, tokenizer.grid)
    return tokenizer.decode(square.to(tokenizer.device)).cpu()
