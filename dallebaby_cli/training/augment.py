"""Pictures varied a little, so that a model sees more of them than there are."""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

DRAWS = 4  # random numbers that one picture needs


def vary(pictures: Tensor, draws: np.ndarray, crop: float, flip: bool) -> Tensor:
    """Square crops of uint8 pictures (B, 3, P, P), resized back, and half of them mirrored.

    `crop` is the smallest share of the area that is kept. What is done follows from `draws`
    (B, DRAWS), uniform in [0, 1), and from nothing else.
    """
    side = pictures.shape[-1]
    area, top, left, mirror = draws.T
    if crop < 1:
        sizes = (np.sqrt(crop + (1 - crop) * area) * side).round().astype(int)
        tops, lefts = ((place * (side - sizes + 1)).astype(int) for place in (top, left))
        parts = [
            picture[None, :, top : top + size, left : left + size].contiguous()
            for picture, size, top, left in zip(pictures, sizes, tops, lefts, strict=True)
        ]
        pictures = torch.cat([F.interpolate(p, (side, side), mode="bilinear") for p in parts])
    if flip:
        mirrored = torch.from_numpy(mirror < 0.5)[:, None, None, None]
        pictures = torch.where(mirrored, pictures.flip(-1), pictures)
    return pictures
