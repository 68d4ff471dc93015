"""Several codes of each picture at a time: a picture in a few passes, or around what is kept of it.

A pass asks for the codes of several places after the same known ones (`Transformer.ask`), as the
parallel decoders of He et al. (2024, arXiv 2412.04062: each row behind the one above), Besnier et
al. (2025, arXiv 2503.17076) and Chang et al. (2022, arXiv 2202.04200) do, and as those which keep
what is known in a cache (RandAR, 2024, arXiv 2412.01827).
What a pass decides, the next one reads, and in the same positions it asks for more: so each code is
computed with once, as in raster order. Random numbers are those of the place.

Shapes: B pictures, T caption tokens, G codes along a side, N = G * G codes, K codebook, L values of
a digit; M = B m rows of the m places that a pass asks for.
"""

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from dallebaby_cli.config import SampleConfig
from dallebaby_cli.drawing.next_code import asks_twice, choose, guidance_at, guide, keys, noise_at
from dallebaby_cli.models.block import Cache
from dallebaby_cli.models.places import diagonals
from dallebaby_cli.models.transformer import Transformer

CHOICE = 2  # places that are asked for where the surest of them are kept, for each that is
CHANCE = 4.5  # how much there is at first in what a picture is said to be surest of, as in MaskGIT


class Passes:
    """B pictures under way, drawn as `config` says."""

    def __init__(
        self,
        model: Transformer,
        config: SampleConfig,
        text: Tensor,
        seeds: Sequence[int],
        known: Tensor,
        like: Tensor,
    ) -> None:
        """Of captions (B, T), or where there is guidance (2 B, T), the second half empty, with the
        codes `known` (B, N), -1 where they are not, as many of each picture. `like` has the device
        and the type of keys and values."""
        self.model, self.config, self._text = model, config, text
        self.guided = asks_twice(config, model.config.guided)
        self.surest = config.steps is not None and config.order == "confidence"
        self.cache = Cache(model.config, len(text), like)
        self.cache.codes[:, :-1] = known.where(known >= 0, model.config.codes).repeat(self._rows, 1)
        self._keys = keys(seeds).to(like.device)
        self._order = reading_order(known, config)
        given = int((known[0] >= 0).sum())
        self.counts = counts(model.config.image_tokens, given, config)
        self._passed, self._filled, self._decided = 0, 0, 0

    @property
    def codes(self) -> Tensor:
        """(B, N) int64, K where none is decided yet."""
        return self.cache.codes[: len(self._keys), :-1]

    def next(self) -> None:
        """Decide the codes of the next places of each picture."""
        count, after = self.counts[self._passed : self._passed + 2]
        stop = count + (CHOICE if self.surest else 1) * (after - count)  # or the end
        asked = self._order[:, count:stop]
        self._prepare(asked, count)
        both = self._order.repeat(self._rows, 1)
        known, targets = both[:, :count], both[:, count : count + asked.shape[1]]
        asking = max(min(self._decided, asked.shape[1]), 1)
        codes = self.model.ask(
            self._text, known, targets, self._filled, self.cache, self._pick, asking
        )[: len(asked)]
        if self.surest:
            best = self._sure.view_as(asked).argsort(dim=1, descending=True)
            codes, asked = codes.gather(1, best), asked.gather(1, best)
            self._order[:, count:stop] = asked
        decided = slice(0, after - count)
        for half in self.cache.codes.chunk(self._rows):
            half.scatter_(1, asked[:, decided], codes[:, decided])
        self._filled = self.model.config.text_tokens + 1 + count
        self._passed, self._decided = self._passed + 1, after - count

    @property
    def _rows(self) -> int:
        """Of each picture: with its caption, and where there is guidance without."""
        return 1 + self.guided

    def _prepare(self, asked: Tensor, count: int) -> None:
        """Random numbers and guidance of the places `asked` (B, m), when so many codes are
        known."""
        shape, share = self.model.config, count / self.model.config.image_tokens
        random = noise_at(self._keys[:, None], asked, sum(shape.radices)).flatten(0, 1)
        self._noise = torch.split(random, [*shape.radices], dim=-1)
        self._pull = guidance_at(share, self.config, shape.guided)
        if self.surest:
            chance = noise_at(~self._keys[:, None], asked, 1).flatten()  # numbers of no code
            self._sure = CHANCE * (1 - share) * chance

    def _pick(self, digit: int, logits: Tensor) -> Tensor:
        """Choose the digit of that number (M,), or (2 M,), from logits (M, L), or (2 M, L)."""
        logits = guide(logits, self._pull) if self.guided else logits.float()
        chosen = choose(logits, self._noise[digit], self.config)
        if self.surest:
            self._sure -= F.cross_entropy(logits, chosen, reduction="none")
        return chosen.repeat(self._rows)


def way(config: SampleConfig, given: int, grid: int) -> str:
    """In which order pictures with so many known codes are drawn."""
    if config.steps is None:
        return "raster"
    if config.order != "auto":
        return config.order
    return "diagonal" if min(config.steps, grid**2 - given) >= grid else "halton"


def reading_order(known: Tensor, config: SampleConfig) -> Tensor:
    """The places (B, N) of pictures in the order in which their codes are read: of the `known`
    ones (B, N), -1 where they are not, then of those that are drawn."""
    grid = math.isqrt(known.shape[1])
    places: Sequence[int] = range(known.shape[1])
    unknown = int((known[0] < 0).sum())
    found = way(config, known.shape[1] - unknown, grid)
    if found == "diagonal" and unknown:
        passes = min(config.steps or unknown, unknown)
        if unknown < len(places):  # what is given lies around, not at two corners
            passes = max(passes, 2 * grid - 1)
        places = diagonals(grid, passes).argsort(kind="stable").tolist()
    elif found != "raster":
        places = halton(grid)
    order = torch.tensor(places).to(known.device).expand_as(known)
    to_draw = known.gather(1, order) < 0
    return order.gather(1, to_draw.int().argsort(dim=1, stable=True))


def counts(whole: int, given: int, config: SampleConfig) -> list[int]:
    """How many of the `whole` picture's codes are known before each pass and after the last one, if
    so many are given: along diagonals as many as lie on them, or around what is given as many in
    each pass; else few at first, along a cosine; at least one in each, and without `steps` one in
    each."""
    unknown, grid = whole - given, math.isqrt(whole)
    passes = min(config.steps or unknown, unknown)
    diagonal = passes and way(config, given, grid) == "diagonal"
    if diagonal and given:
        shares = [number / passes for number in range(1, passes + 1)]
    elif diagonal:
        shares = (np.bincount(diagonals(grid, passes)).cumsum() / whole).tolist()
    else:
        turns = (math.pi / 2 * number / passes for number in range(1, passes + 1))
        shares = [1 - math.cos(turn) for turn in turns]
    found = [given]
    for left, share in zip(reversed(range(passes)), shares, strict=True):
        wanted = given + math.floor(round(share * unknown, 6) + 0.5)  # rounded: on any machine
        found.append(min(max(wanted, found[-1] + 1), whole - left))
    return found


@lru_cache(maxsize=8)
def halton(grid: int) -> tuple[int, ...]:
    """All places of a picture in the order in which points of Halton's sequence fall on them, in
    bases 2 and 3: at any time they lie far apart."""
    places: dict[int, None] = {}
    number = 0
    while len(places) < grid**2:
        number += 1
        row, column = (int(grid * mirrored(number, base)) for base in (2, 3))
        places[row * grid + column] = None
    return tuple(places)


def mirrored(number: int, base: int) -> float:
    """A number from 0 to 1 whose digits behind the point are those of `number` from the last on
    (van der Corput)."""
    found, share = 0.0, 1 / base
    while number:
        number, digit = divmod(number, base)
        found, share = found + digit * share, share / base
    return found
