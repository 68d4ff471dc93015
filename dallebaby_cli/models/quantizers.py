"""Quantizers: continuous features to codes of a finite codebook, with gradients that pass through.

Finite Scalar Quantization (Mentzer et al. 2023, arXiv 2309.15505): each of a few channels is
bounded and rounded to one of its levels; the codebook is the grid of all combinations. There is
nothing to learn, so nothing that could collapse, and no auxiliary loss.

Every quantizer has `channels` (of the features and of the vectors), `codes` (size of the codebook),
`forward(features) → Quantized` and `lookup(codes) → vectors`.

Shapes: B pictures, D channels, G codes along one side.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn


class Quantized(NamedTuple):
    """What a quantizer makes of features."""

    vectors: Tensor
    """(B, D, G, G) fp32, what the decoder reads; gradients flow to the features"""
    codes: Tensor
    """(B, G, G) int64"""


class FSQ(nn.Module):
    """Finite Scalar Quantization: D = len(levels) channels of `levels[i]` steps each."""

    levels: Tensor
    place: Tensor

    def __init__(self, levels: tuple[int, ...]) -> None:
        super().__init__()
        self.channels = len(levels)
        self.codes = math.prod(levels)
        places = [math.prod(levels[:i]) for i in range(len(levels))]  # mixed-radix digits
        self.register_buffer("levels", torch.tensor(levels), persistent=False)
        self.register_buffer("place", torch.tensor(places), persistent=False)

    def forward(self, features: Tensor) -> Quantized:
        """Quantize features (B, D, G, G). Always in fp32: in bf16 neighbouring levels merge."""
        steps = self._bound(features.float().movedim(1, -1))  # (B, G, G, D)
        steps = steps + (steps.round() - steps).detach()  # straight-through
        digits = steps.detach().round() + self.levels // 2
        codes = (digits.long() * self.place).sum(-1)
        return Quantized((steps / (self.levels // 2)).movedim(-1, 1), codes)

    def lookup(self, codes: Tensor) -> Tensor:
        """The vectors (B, D, G, G) in [-1, 1] of codes (B, G, G)."""
        digits = codes.unsqueeze(-1) // self.place % self.levels  # (B, G, G, D)
        half = self.levels // 2
        return ((digits - half) / half).float().movedim(-1, 1)

    def _bound(self, features: Tensor) -> Tensor:
        """Squash each channel so that rounding gives exactly its number of levels (paper, §3)."""
        half = (self.levels - 1) * (1 + 1e-3) / 2
        offset = (self.levels % 2 == 0) * 0.5  # even levels sit off centre
        return torch.tanh(features + torch.atanh(offset / half)) * half - offset
