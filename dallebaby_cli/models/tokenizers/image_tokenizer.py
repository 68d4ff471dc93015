"""What the rest of the package knows of an image tokenizer, whichever it is.

Shapes: B pictures, P pixels along a side, G codes along a side.
"""

from typing import Protocol

import torch
from torch import Tensor

GREY = 128  # of what is not drawn yet


class ImageTokenizer(Protocol):
    """Pictures to a grid of codes and back. It is finished: nothing here changes it."""

    @property
    def image_px(self) -> int:
        """P, the side of its pictures in pixels; a multiple of `grid`."""

    @property
    def grid(self) -> int:
        """G, codes along one side."""

    @property
    def codes(self) -> int:
        """Size of the codebook, at most 65,536: codes are stored in 16 bits."""

    @property
    def levels(self) -> tuple[int, ...]:
        """How many values each of the numbers has that a code is made of, as `models/digits.py`
        joins them; () if it is not made of several."""

    @property
    def device(self) -> torch.device:
        """Where pictures and codes must be and come out."""

    def encode(self, pictures: Tensor) -> Tensor:
        """Codes (B, G, G) int64 of pictures (B, 3, P, P) uint8."""

    def decode(self, codes: Tensor, known: Tensor | None = None) -> Tensor:
        """Pictures (B, 3, P, P) uint8 of codes (B, G, G). Of an unfinished picture, `known`, bool
        and of that shape, says which codes are decided: the patches of the others are GREY and
        change nothing else, whatever their codes."""


def grey_out(pictures: Tensor, known: Tensor) -> Tensor:
    """Pictures (B, 3, P, P), GREY in the patches that are not `known`, bool (B, G, G)."""
    side = pictures.shape[-1] // known.shape[-1]
    pixels = known.repeat_interleave(side, 1).repeat_interleave(side, 2)
    return pictures.where(pixels[:, None], GREY)
