"""Pictures varied a little, so that a model sees more of them than there are."""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F


def vary(pictures: Tensor, seed: tuple[int, ...], crop: float, flip: bool) -> Tensor:
    """Random square crops of uint8 pictures (B, 3, P, P), resized back, and half of them mirrored.

    `crop` is the smallest share of the area that is kept. The same seed varies them in the same
    way; nothing else does.
    """
    random = np.random.default_rng(seed)
    side = pictures.shape[-1]
    if crop < 1:
        kept = np.sqrt(random.uniform(crop, 1, len(pictures))) * side
        sides = np.maximum(kept.round().astype(int), 1)
        corners = random.integers(0, side - sides + 1, (2, len(pictures)))
        parts = [
            picture[None, :, top : top + size, left : left + size].contiguous()
            for picture, size, top, left in zip(pictures, sides, *corners, strict=True)
        ]
        pictures = torch.cat([F.interpolate(p, (side, side), mode="bilinear") for p in parts])
    if flip:
        mirrored = torch.from_numpy(random.random(len(pictures)) < 0.5)
        pictures = torch.where(mirrored[:, None, None, None], pictures.flip(-1), pictures)
    return pictures
