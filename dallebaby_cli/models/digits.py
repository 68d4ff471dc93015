"""Codes as numbers of several digits, each with a radix of its own; the first counts in ones."""

import functools
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dallebaby_cli.models.block import relu2
from dallebaby_cli.models.rms_norm import RMSNorm


def split(codes: Tensor, radices: Sequence[int]) -> list[Tensor]:
    """The digits of codes, one tensor of their shape for each radix. The last digit takes all that
    is left: of the number after the last code, it is its radix, and all others are 0."""
    digits = []
    for radix in radices[:-1]:
        digits.append(codes % radix)
        codes = codes // radix
    return [*digits, codes]


def join(digits: Sequence[Tensor], radices: Sequence[int]) -> Tensor:
    """The codes that have these digits: what `split` split."""
    codes = digits[-1]
    for digit, radix in zip(digits[-2::-1], radices[-2::-1], strict=True):
        codes = codes * radix + digit
    return codes


def numbers_of_codes(codes: int, levels: tuple[int, ...]) -> Tensor:
    """Where the numbers of each code (K, numbers) stand in a table that has the values of each
    number after those of the one before it."""
    digits = split(torch.arange(codes), levels)
    starts = (sum(levels[:place]) for place in range(len(levels)))
    return torch.stack([d + start for d, start in zip(digits, starts, strict=True)], dim=1)


def look_up(codes: Tensor, table: Tensor, ways: Sequence[Sequence[int]]) -> Tensor:
    """What a table (R or R + 1, D), of the values of each digit after those of the one before it,
    has for codes (…): the sum over their digits (…, D), in each of the ways to take them apart."""
    start = 0
    found: list[Tensor] = []
    for radices in ways:
        for values, digit in zip(radices, split(codes, radices), strict=True):
            found.append(F.embedding(digit + start if start else digit, table))
            start += values
        start += 1  # the row of a code that is not there
    return functools.reduce(torch.add, found)


class DigitBlock(nn.Module):
    """What a position knows (…, D), and the digit that was found there, embedded (…, D) → what it
    knows then: an MLP of one hidden layer, since a digit means something else at each position."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = RMSNorm(dim)
        self.mlp_in = nn.Linear(dim, 2 * dim, bias=False)
        self.mlp_out = nn.Linear(2 * dim, dim, bias=False)

    def init_weights(self) -> None:
        """As those of a transformer's block: it starts as the sum of the two."""
        nn.init.normal_(self.mlp_in.weight, std=self.mlp_in.in_features**-0.5)
        nn.init.zeros_(self.mlp_out.weight)

    def forward(self, x: Tensor, digit: Tensor) -> Tensor:
        x = x + digit
        return x + self.mlp_out(relu2(self.mlp_in(self.norm(x))))
