"""Where the positions of a transformer stand in the picture, and which codes stand around each.

Shapes: N image codes, S positions, E numbers of a head.
"""

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
    the picture's rows and columns follow on."""
    text = torch.arange(config.text_tokens + 1).repeat(2, 1)  # start and caption
    rows = torch.arange(config.grid).repeat_interleave(config.grid)
    columns = torch.arange(config.grid).repeat(config.grid)
    image = torch.stack((rows, columns)) + config.text_tokens + 1
    places = torch.cat((text, image), dim=1)[:, : config.sequence_len]  # (2, S)
    planes = config.dim // config.heads // 4
    frequencies = 100.0 ** -(torch.arange(planes) / planes)
    angles = (places[:, :, None] * frequencies).movedim(0, 1).flatten(1)
    cos, sin = angles.cos(), angles.sin()
    return torch.stack((torch.cat((cos, cos), dim=1), torch.cat((-sin, sin), dim=1)))


def places_near(grid: int, count: int) -> Tensor:
    """The places (N, count) around each one of the picture: above to the left, straight and to the
    right, then those further away; N where that is outside."""
    padded = F.pad(torch.arange(grid**2).view(grid, grid), (2, 2, 2, 0), value=grid**2)
    shifted = [padded[2 + down :, 2 + right :][:grid, :grid] for down, right in NEAR[:count]]
    return torch.stack(shifted, dim=-1).flatten(0, 1)
