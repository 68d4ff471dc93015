"""Pictures varied a little, so that a model sees more of them than there are."""

import re
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

MOST_VIEWS, ALL_VIEWS = 8, 24_000  # of each picture, and of all: they take time to encode
MIRRORED_WRONGLY = re.compile(
    r"\b(left|right)(hand|most|wards?)?\b|clock|\d|"
    r"\b(letter|number|numeral|digit|word|text|sign|logo|writing|alphabet)s?\b|"
    r"\b(written|zero|one|two|three|four|five|six|seven|eight|nine)$",
    re.IGNORECASE,
)
"""What in a caption tells that a mirrored picture would be another one."""
DRAWS, MIRROR = 4, 3  # random numbers that one picture needs; which of them mirrors it
SOFTENING = 12  # standard deviation of the strongest noise, of 255


def usual_views(pictures: int) -> int:
    """How many views of each of so many training pictures are worth their while."""
    return max(min(ALL_VIEWS // max(pictures, 1), MOST_VIEWS), 1)


def may_be_mirrored(captions: Iterable[str]) -> bool:
    """Whether such captions are as true of the mirrored picture."""
    return not any(map(MIRRORED_WRONGLY.search, captions))


def vary(pictures: Tensor, draws: np.ndarray, crop: float, flip: bool | np.ndarray) -> Tensor:
    """Square crops of uint8 pictures (B, 3, P, P), resized back, and half of them (or of those that
    a bool of each picture allows) mirrored.

    `crop` is the smallest share of the area that is kept. What is done follows from `draws`
    (B, DRAWS), uniform in [0, 1), and from nothing else.
    """
    side = pictures.shape[-1]
    area, top, left, mirror = draws.T  # MIRROR is the last
    if crop < 1:
        sizes = (np.sqrt(crop + (1 - crop) * area) * side).round().astype(int)
        tops, lefts = ((place * (side - sizes + 1)).astype(int) for place in (top, left))
        parts = [
            picture[None, :, top : top + size, left : left + size].contiguous()
            for picture, size, top, left in zip(pictures, sizes, tops, lefts, strict=True)
        ]
        pictures = torch.cat([F.interpolate(p, (side, side), mode="bilinear") for p in parts])
    if np.any(flip):
        mirrored = torch.from_numpy((mirror < 0.5) & flip)[:, None, None, None]
        pictures = torch.where(mirrored, pictures.flip(-1), pictures)
    return pictures


def soften(pictures: Tensor, seed: tuple[int, ...]) -> Tensor:
    """uint8 (B, 3, P, P), each blurred and made noisy by a random amount, fine and coarse, as
    pictures are that a dVAE rebuilt; what is done follows from the seed."""
    from torchvision.transforms.v2.functional import resize  # here, because it takes a second

    random = np.random.default_rng(seed)
    count, _, side, _ = pictures.shape

    def uniform() -> Tensor:
        return torch.from_numpy(random.random((count, 1, 1, 1), np.float32))

    def noise(size: int) -> Tensor:
        return torch.from_numpy(random.standard_normal((count, 3, size, size), np.float32))

    x = pictures.float()
    for smaller in (side // 2, side // 3):
        x = torch.lerp(x, resize(resize(x, [smaller]), [side]), uniform())
    coarse = resize(noise(side // 4), [side])
    x = x + SOFTENING * (uniform() * noise(side) + uniform() * coarse)
    return x.round().clamp(0, 255).to(torch.uint8)
