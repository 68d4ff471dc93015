"""Where the positions of a transformer stand in the picture, and which codes each of them is told.

Shapes: B pictures, N image codes, S positions, s of them new, E numbers of a head; b is B, or 1 for
the same in all pictures.
"""

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from dallebaby_cli.config import TransformerConfig

NEAR = (  # rows down and columns to the right, of codes that are known before one
    *((-1, -1), (-1, 0), (-1, 1), (0, -2), (-2, 0)),
    *((-1, -2), (-1, 2), (-2, -1), (-2, 1), (-2, -2), (-2, 2)),
)


def rotary_table(config: TransformerConfig) -> Tensor:
    """Cosines and signed sines (2, S, E) of every position's angles, as `rotate` takes them: half
    of a head's planes turn with the row, half with the column. Caption position i counts as (i, i);
    the picture's rows and columns follow on, but for its last code, which raster order never
    reads; in any order it has a row, too."""
    text = torch.arange(config.text_tokens + 1).repeat(2, 1)  # start and caption
    rows = torch.arange(config.grid).repeat_interleave(config.grid)
    columns = torch.arange(config.grid).repeat(config.grid)
    image = torch.stack((rows, columns)) + config.text_tokens + 1
    places = torch.cat((text, image), dim=1)[:, : config.sequence_len + config.any_order]
    planes = config.dim // config.heads // 4
    frequencies = 100.0 ** -(torch.arange(planes) / planes)
    angles = (places[:, :, None] * frequencies).movedim(0, 1).flatten(1)
    cos, sin = angles.cos(), angles.sin()
    return torch.stack((torch.cat((cos, cos), dim=1), torch.cat((-sin, sin), dim=1)))


def places_near(grid: int, count: int, any_order: bool) -> Tensor:
    """The places (N, c) around each one of the picture, N where that is outside: above to the left,
    straight and to the right, then those further away, `count` in all; in any order the one to the
    left, too, and the mirror image of each."""
    around = list(NEAR[:count])
    if any_order:
        around.append((0, -1))
        around += [(-down, -right) for down, right in around]
    padded = F.pad(torch.arange(grid**2).view(grid, grid), (2, 2, 2, 2), value=grid**2)
    shifted = [padded[2 + down :, 2 + right :][:grid, :grid] for down, right in around]
    return torch.stack(shifted, dim=-1).flatten(0, 1)


def told_of(known: Tensor, order: Tensor, near: Tensor, times: Tensor, none: int) -> Tensor:
    """What positions are told of the known codes (B, N + 1) by their places, which were drawn in
    that `order` (b, a), when the first `times` (s,) of them were: those at the places `near`
    (b, s, c), `none` where there was none yet; (B, s, c)."""
    rank = order.new_full((len(order), known.shape[1]), known.shape[1])  # when a place was drawn
    rank.scatter_(1, order, torch.arange(order.shape[1], device=order.device).expand_as(order))
    drawn = rank.gather(1, near.flatten(1)).view_as(near) < times[:, None]
    there = near.flatten(1).expand(len(known), -1)
    return known.gather(1, there).view(-1, *near.shape[1:]).where(drawn, none)


def positions(
    image: int, order: Tensor, targets: Tensor, filled: int, asking: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The positions from `filled` on of a sequence whose codes are read in that `order` (b, a) of
    places, the last of them, `asking`, to predict the first of the places `targets` (b, m), and a
    copy of the last one for each further target: their numbers in the sequence (s,), copies having
    that of the last, and where they read and what they are to predict (b, s), in the table of turns
    (`rotary_table`), in which pictures begin at `image`."""
    last, device = image - 1 + order.shape[1], order.device
    new = torch.arange(filled, last + 1 + targets.shape[1] - asking, device=device)
    slots = new.clamp(max=last)
    words = torch.arange(image, device=device).expand(len(order), -1)
    reads = torch.cat((words, order + image), dim=1)[:, slots]
    before = order[:, : order.shape[1] + 1 - asking] + image
    aims = torch.cat((words[:, :-1], before, targets + image), dim=1)[:, filled:]
    return slots, reads, aims


def unseen(queries: Tensor, keys: Tensor, last: int, asking: int) -> Tensor:
    """Which positions `keys` (S,) those of `queries` (s, 1) do not see, bool (s, S). The positions
    up to the `last` one read what is known: each sees those before it, and the last of them, as
    many as are `asking`, see one another, too. Those behind are copies of the last one, in whose
    place each sees itself."""
    asks = (queries > last - asking) & (queries <= last)
    later = torch.where(asks, keys > last, keys > queries)
    return later | ((queries > last) & (keys >= last) & (keys < queries))


@lru_cache(maxsize=1024)
def diagonals(grid: int, passes: int) -> np.ndarray:
    """The pass (N,), of so many, that each place of a picture is drawn in: every row goes from left
    to right, and begins as many passes after the one above as there are for it, so that most of
    what lies above is known. One place a pass is raster order. Where passes are fewer than the
    picture has diagonals, it is drawn from its first and from its last place at once, until both
    meet; where they are fewer than columns, some columns are drawn at once."""
    both = grid <= passes < 2 * grid - 1
    behind = max((2 * passes - 1 if both else passes) - grid, 0) / max(grid - 1, 1)
    at_once = max(grid / passes, 1)
    row, column = np.divmod(np.arange(grid**2), grid)
    times = row * behind + column / at_once
    if both:
        times = np.minimum(times, times[-1] - times)
        times *= passes / (int(times.max().round(6)) + 1)
    found = times.round(6).astype(np.int32)
    found.flags.writeable = False  # all share it
    return found
