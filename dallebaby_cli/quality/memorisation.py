"""Whether a model draws something new, or its training pictures: the nearest of those to each drawn
picture, in codes and in the eyes of a network. How near is near, hold-out pictures show, which no
model drew.

All are compared as the image tokenizer paints them: a memorised picture then is the same, whatever
the tokenizer loses. Where training had several views of each picture, a copy of any of them is one,
and hold-out pictures are taken in such views, too.

A: drawn pictures, B: hold-out ones, N: codes of a picture, P: its side.
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
CHANCE = 0.01  # of new pictures that are said to be close to a training picture, at most
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
    view: np.ndarray
    """which of its views that is (A + B,); 0 is the picture as it is"""
    known: int
    """training pictures they were compared with"""

    def figures(self) -> dict[str, float]:
        """Medians, least ones and sizes, `copies` that differ in nothing; and `drawn_close`, the
        share of drawn pictures that are nearer than all but `CHANCE` of the hold-out ones, which
        of pictures that are new is `close_by_chance`, or less where many are equally near."""
        found: dict[str, float] = {}
        for name, part in (("drawn", self.drawn), ("holdout", self.held_out)):
            found[f"{name}_median"] = float(np.median(part))
            found[f"{name}_least"] = float(part.min())
            found[f"{name}_copies"] = int((part < SAME).sum())
            found[f"{name}_compared"] = len(part)
        # a new picture is as likely to be anywhere among the hold-out ones, in their order
        place = max(int(CHANCE * (len(self.held_out) + 1)), 1)
        line = np.sort(self.held_out)[place - 1]
        found["drawn_close"] = float((self.drawn < line).mean())
        found["close_by_chance"] = place / (len(self.held_out) + 1)
        return found | {"known": self.known}


def in_codes(codes: Tensor, held_out: Tensor, training: Captioned, progress: Progress) -> Near:
    """By the share of codes (A, N) and (B, N) that differ, among all views of all training
    pictures."""
    both, count = torch.cat((codes, held_out.to(codes.device))), len(codes)
    views = np.array([source.views_each for source in training.sources])[training.places[:, 0]]
    of_view = np.repeat(np.arange(len(training)), views)
    known = training.codes(every_view=True)
    differ, number = metrics.nearest(both, known, lambda done: progress(int(of_view[done - 1]) + 1))
    place = of_view[number]
    view = number - np.searchsorted(of_view, place)
    return Near(differ[:count], differ[count:], place, view, len(training))


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
    among the `known` (K, 2): indices of training pictures, and which of their views. Some at a time
    are in memory."""

    def see(codes: Tensor) -> Tensor:
        parts = torch.split(codes.long(), PART)
        return torch.cat([F.normalize(look(paint(tokenizer, part)).float()) for part in parts])

    seen = torch.cat((see(codes), see(held_out)))
    nearest, found = torch.full((len(seen),), -torch.inf), torch.zeros(len(seen), dtype=torch.long)
    for start in range(0, len(known), PART):
        rows, views = known[start : start + PART].T
        closest, column = (seen @ see(codes_of(training, rows, views)).T).max(1)
        found = torch.where(closest > nearest, column + start, found)
        nearest = torch.maximum(nearest, closest)
        progress(start + len(rows))
    far, count = (1 - nearest).clamp(min=0).numpy(), len(codes)
    place, view = known[found.numpy()].T
    return Near(far[:count], far[count:], place, view, len(np.unique(known[:, 0])))


def worth_a_look(near: Near, more: np.ndarray) -> np.ndarray:
    """What `in_features` looks at: what is nearest by codes, and more training pictures as they
    are, by their indices."""
    as_they_are = np.stack((more, np.zeros_like(more)), axis=1)
    both = np.concatenate((np.stack((near.place, near.view), axis=1), as_they_are))
    return np.unique(both, axis=0)


def codes_of(pictures: Captioned, rows: np.ndarray, views: np.ndarray) -> Tensor:
    """Codes int64 (M, N) of pictures by their indices, each in one of its views."""
    places = pictures.places[rows].tolist()
    both = zip(places, views.tolist(), strict=True)
    codes = np.stack([pictures.sources[source].views(row)[view] for (source, row), view in both])
    return torch.from_numpy(codes.astype(np.int64))


def as_trained(held_out: Captioned, count: int) -> Tensor:
    """Codes int64 (count, N) of hold-out pictures in one of their views each, which come as often
    as one another, as in training."""
    rows = held_out.sample(count)
    views = np.array([source.views_each for source in held_out.sources])[held_out.places[rows, 0]]
    return codes_of(held_out, rows, np.arange(len(rows)) % views)


def captions_of(training: Captioned, rows: np.ndarray) -> list[str]:
    """The first caption of each picture; empty of those that have none."""
    places = training.places[rows].tolist()
    return [next(iter(training.sources[source].captions(row)), "") for source, row in places]


@torch.no_grad()
def paint(tokenizer: ImageTokenizer, codes: Tensor) -> Tensor:
    """uint8 (M, 3, P, P) of codes (M, N)."""
    square = codes.long().view(-1, tokenizer.grid, tokenizer.grid)
    return tokenizer.decode(square.to(tokenizer.device)).cpu()
