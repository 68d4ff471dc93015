"""Codes as numbers of several digits, each with a radix of its own; the first counts in ones."""

import functools
import math
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


def marks(codes: int, levels: Sequence[int]) -> Tensor:
    """Codes (K, sum of levels) as ones at the values of the numbers that they are written in, those
    of each number after those of the one before it; 0 else."""
    digits = split(torch.arange(codes), levels)
    ones = [F.one_hot(digit, values) for digit, values in zip(digits, levels, strict=True)]
    return torch.cat(ones, dim=1).float()


def look_up(codes: Tensor, table: Tensor, radices: Sequence[int]) -> Tensor:
    """What a table (R or R + 1, D), of the values of each digit after those of the one before it,
    has for codes (…): the sum over their digits (…, D)."""
    start = 0
    found: list[Tensor] = []
    for values, digit in zip(radices, split(codes, radices), strict=True):
        found.append(F.embedding(digit + start if start else digit, table))
        start += values
    return functools.reduce(torch.add, found)


class Shared(nn.Module):
    """What the values of a digit have in common that is made of several numbers (levels values
    each): beside what each value has of its own, each of its numbers' values has a vector with
    which its logit is made, and unless it is the last digit one that tells what was found."""

    marks: Tensor

    def __init__(self, dim: int, levels: Sequence[int], last: bool) -> None:
        super().__init__()
        self.register_buffer("marks", marks(math.prod(levels), levels), persistent=False)
        self.numbers = len(levels)
        self.head = nn.Linear(dim, sum(levels), bias=False)
        self.embedding = None if last else nn.Embedding(sum(levels), dim)

    def init_weights(self) -> None:
        """As what each value has of its own: no logits, and tidings that are N(0, 1) in all."""
        nn.init.zeros_(self.head.weight)
        if self.embedding is not None:
            nn.init.normal_(self.embedding.weight, std=(1 + self.numbers) ** -0.5)

    def logits(self, rows: Tensor) -> Tensor:
        """Of each value (…, L), given what the digit is predicted from (…, D)."""
        logits: Tensor = self.head(rows) @ self.marks.T
        return logits

    def classes(self) -> Tensor:
        """The vectors (L, D), in fp32, whose products with that they are: the gradient of one is a
        sum over many rows."""
        with torch.autocast(self.marks.device.type, enabled=False):
            return self.marks @ self.head.weight.float()

    def told(self, digit: Tensor) -> Tensor:
        """What it tells (…, D) that this digit (…) was found."""
        assert self.embedding is not None, "nobody asks after the last one"
        return self.marks[digit] @ self.embedding.weight


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
