"""A decoder-only transformer over one stream: start, caption tokens, image codes in raster order.

After DALL-E (Ramesh et al. 2021, arXiv 2102.12092). What differs: RMSNorm before each branch
(Zhang & Sennrich 2019), normalised queries and keys (Dehghani et al. 2023, arXiv 2302.05442),
rotary positions (Su et al. 2021, arXiv 2104.09864) that are two-dimensional over the picture,
squared-ReLU MLPs (So et al. 2021, arXiv 2109.08668), no biases. And beside the code before it each
position is told the three above the one that it is to predict: a PixelCNN's neighbours (van den
Oord et al. 2016, arXiv 1606.05328), which attention would first have to learn to find.

Where the codebook is large, a code is several digits (`models/digits.py`), each predicted from the
same position and from the digits before it, and some hundred classes serve for 64,000 codes. By the
chain rule codes can have any probabilities still. A code that is predicted whole is one digit, and
what is said of digits holds for it.

Shapes: B sequences, T caption tokens, N image codes, S = T + N positions, V text vocabulary,
K image codebook, L values of a digit (of a code that is whole: K), R of all digits of a code
together, D width, H heads, E = D / H.

The position of input i predicts input i + 1:

    input    start  t1 … tT  c1 … cN-1
    output   t1 … tT  c1 c2 …  cN
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from dallebaby_cli.config import TransformerConfig
from dallebaby_cli.models.block import Block, Past
from dallebaby_cli.models.cross_entropy import cross_entropy
from dallebaby_cli.models.digits import DigitBlock, join, numbers_of_codes, split
from dallebaby_cli.models.places import places_near, rotary_table
from dallebaby_cli.models.rms_norm import RMSNorm

Pick = Callable[[int, Tensor], Tensor]
"""Decides the digit (B,) of that number, from 0 on, given its logits (B, L)."""

QUIET = 0.75  # of a run, after which a model reads all codes as they are


class Cache:
    """What is known so far, preallocated: keys and values of all positions, 2 tensors (B, H, S, E)
    a block, and the codes (B, N + 1), K where there is none."""

    def __init__(self, config: TransformerConfig, batch: int, like: Tensor) -> None:
        shape = (batch, config.heads, config.sequence_len, config.dim // config.heads)
        self.keys = [like.new_zeros(shape) for _ in range(config.depth)]
        self.values = [like.new_zeros(shape) for _ in range(config.depth)]
        size = (batch, config.image_tokens + 1)
        self.codes = torch.full(size, config.codes, device=like.device)


class Transformer(nn.Module):
    """Caption tokens and image codes in, the logits of the next ones out.

    Text ids: [0, V) are the tokenizer's, V + i pads caption position i (so that the model knows
    an end from a word, at every length), V + T is the start. The text head has one class beside
    the V words: V, the end.
    """

    turns: Tensor
    above: Tensor
    numbers: Tensor
    recompute = False
    """whether what blocks keep for the backward pass is made again then: less memory, more work"""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        trials = config.trials
        text_ids = config.vocabulary + config.text_tokens + 1
        parts = sum(sum(radices) + 1 for radices in config.read)
        width = config.dim * (1 + trials.values)
        self.text_embedding = nn.Embedding(text_ids, width)
        self.image_embedding = nn.Embedding(parts - 1, width)
        self.above_embedding = nn.Embedding(trials.neighbours * parts, width)
        self.place_embedding = nn.Embedding(config.image_tokens, width)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.norm = RMSNorm(config.dim)
        self.text_head = nn.Linear(config.dim, config.vocabulary + 1, bias=False)
        first, *others = config.radices
        self.image_head = nn.Linear(config.dim, first, bias=False)
        self.digit_embeddings = nn.ModuleList(
            nn.Embedding(values, config.dim) for values in config.radices[:-1]
        )
        self.digit_blocks = nn.ModuleList(DigitBlock(config.dim) for _ in others)
        self.digit_heads = nn.ModuleList(
            nn.Linear(config.dim, values, bias=False) for values in others
        )
        shared = trials.levels if trials.outputs == "both" and not config.digits else ()
        self.level_head = nn.Linear(config.dim, sum(shared), bias=False) if shared else None
        numbers = numbers_of_codes(config.codes, shared) if shared else None
        self.register_buffer("numbers", numbers, persistent=False)
        told = len(trials.levels) if trials.foresight else 0
        self.foresight = nn.Linear(config.dim, told, bias=False) if told else None
        self.ahead_of = config.depth - max(config.depth // 4, 1)  # the block with that foresight
        self.shortcut = nn.Parameter(torch.zeros(config.depth)) if trials.shortcut else None
        self.skips = nn.Parameter(torch.zeros(config.depth)) if trials.skips else None
        self.register_buffer("turns", rotary_table(config), persistent=False)
        near = places_near(config.grid, trials.neighbours)
        self.register_buffer("above", near, persistent=False)
        self.init_weights()

    def init_weights(self) -> None:
        """All initial values.

        | part                        | value                                           |
        | embeddings                  | N(0, 0.02²)                                     |
        | place embedding             | 0: added to what rotary positions already tell  |
        | qkv, mlp_in                 | N(0, 1 / fan-in)                                |
        | attention_out, mlp_out      | 0: each block starts as the identity            |
        | heads                       | 0: the first loss is exactly that of a guess    |
        | digits found at a position  | N(0, 1): as large as what else is known there   |
        | gates, skips, foresight     | 0: nothing is done to what others would make    |
        | RMSNorm                     | 1                                               |
        """
        for embedding in (self.text_embedding, self.image_embedding, self.above_embedding):
            nn.init.normal_(embedding.weight, std=0.02)
        for module in (self.place_embedding, self.text_head, self.image_head):
            nn.init.zeros_(module.weight)
        for weight in self.digit_embeddings.parameters():
            nn.init.normal_(weight)
        for unused in (*self.digit_heads.parameters(), *self._of_trials()):
            nn.init.zeros_(unused)
        for block in (*self.blocks, *self.digit_blocks):
            assert isinstance(block, Block | DigitBlock)
            block.init_weights()

    def forward(self, text: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, T, V + 1) of the caption and (B, N, R) of the codes, those of each digit after
        those of the one before it, given captions (B, T) and codes (B, N), both int64. Each is
        predicted from what stands before it alone."""
        before_words, before_codes, _ = self._read(text, codes)
        taught = enumerate(self._teach(before_codes, codes))
        logits = [self._logits(index, rows) for index, (rows, _) in taught]
        of_codes = logits[0] if len(logits) == 1 else torch.cat(logits, dim=-1)
        return self.text_head(before_words), of_codes

    def losses(
        self, text: Tensor, codes: Tensor, progress: float | None = None
    ) -> tuple[Tensor, Tensor]:
        """Mean cross-entropy in nats of the captions (words and one end each; the padding behind it
        is nothing to learn) and of the codes. Each picture counts the same, however long its
        caption, so that the loss of a batch is the mean of its parts' losses. When `progress` (0 to
        1) of a training is over, it is made harder as `config.trials` says."""
        read = self._slipped(codes, progress) if progress is not None else codes
        before_words, before_codes, inside = self._read(text, read)
        target = text.clamp(max=self.config.vocabulary)  # a word or the end
        counted = (text >= self.config.vocabulary).cumsum(1) <= 1
        share = counted / counted.sum(1, keepdim=True)
        text_loss = cross_entropy(before_words, self.text_head.weight, target, share)
        every = torch.ones_like(codes, dtype=torch.float32)
        parts = [
            cross_entropy(rows, self._classes(index), digit, every)
            for index, (rows, digit) in enumerate(self._teach(before_codes, codes))
        ]
        image_loss = torch.stack(parts).sum() / codes.numel()
        if progress is not None and self.foresight is not None:
            image_loss = image_loss + self._surprise(inside[self.ahead_of], codes)
        return text_loss / len(text), image_loss

    def _slipped(self, codes: Tensor, progress: float) -> Tensor:
        """Codes (B, N), some of which are others, of each picture another share."""
        most = self.config.trials.noise * max(0.0, 1 - progress / QUIET)
        if not most:
            return codes
        lost = torch.rand(codes.shape, device=codes.device)
        lost = lost < most * torch.rand(len(codes), 1, device=codes.device)
        return torch.where(lost, torch.randint_like(codes, self.config.codes), codes)

    def _surprise(self, x: Tensor, codes: Tensor) -> Tensor:
        """How wrong the stream (B, S, D) inside is on the numbers of the next codes (B, N): the
        weighted mean of squared errors, numbers being -1 to 1."""
        assert self.foresight is not None
        trials = self.config.trials
        digits = split(codes, trials.levels)
        pairs = zip(digits, trials.levels, strict=True)
        numbers = torch.stack([2 * digit / (values - 1) - 1 for digit, values in pairs], dim=-1)
        rows = x[:, self.config.text_tokens :]
        seen = self.foresight(F.rms_norm(rows, rows.shape[-1:], eps=1e-6)).float()
        return trials.foresight * (seen - numbers).square().mean()

    def _teach(self, rows: Tensor, codes: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """What each digit of codes (B, N) is predicted from (B, N, D), those before it being given,
        and the digit (B, N)."""
        digits = split(codes, self.config.radices)
        for index, digit in enumerate(digits):
            rows = self._told(index, rows, digits[index - 1]) if index else rows
            yield rows, digit

    def _spell(self, rows: Tensor, pick: Pick) -> Tensor:
        """The codes (B,) after what stands before them (B, D), `pick`ed digit by digit."""
        digits = [pick(0, self._logits(0, rows))]
        for index in range(1, len(self.config.radices)):
            rows = self._told(index, rows, digits[-1])
            digits.append(pick(index, self._logits(index, rows)))
        return join(digits, self.config.radices)

    def _logits(self, index: int, rows: Tensor) -> Tensor:
        """Of the digit of that number (…, L), given what it is predicted from (…, D)."""
        logits: Tensor = self._head(index)(rows)
        if index or self.level_head is None:
            return logits
        return logits + self.level_head(rows)[..., self.numbers].sum(-1)

    def _classes(self, index: int) -> Tensor:
        """The vectors (L, D) whose products with what a digit is predicted from are its logits."""
        classes: Tensor = self._head(index).weight
        if index or self.level_head is None:
            return classes
        return classes + F.embedding(self.numbers, self.level_head.weight).sum(1)

    def _head(self, index: int) -> nn.Linear:
        return cast(nn.Linear, self.digit_heads[index - 1]) if index else self.image_head

    def _told(self, index: int, rows: Tensor, digit: Tensor) -> Tensor:
        """What the digit of that number is predicted from (…, D), given what the one before it was
        predicted from, and that digit (…)."""
        found = self.digit_embeddings[index - 1](digit)
        return self.digit_blocks[index - 1](rows, found)

    def _read(self, text: Tensor, codes: Tensor) -> tuple[Tensor, Tensor, dict[int, Tensor]]:
        """What the heads make predictions of, (B, T, D) and (B, N, D), and what `_run` kept."""
        config = self.config
        for name, ids, length in (
            ("text", text, config.text_tokens),
            ("codes", codes, config.image_tokens),
        ):
            if ids.dtype != torch.int64 or ids.ndim != 2 or ids.shape[1] != length:
                kind = str(ids.dtype).removeprefix("torch.")
                raise ValueError(
                    f"{name} must be int64 (B, {length}), not {kind} {tuple(ids.shape)}"
                )
        known = F.pad(codes, (0, 1), value=config.codes)
        x = torch.cat(
            (self._embed_text(text), self._embed_codes(known, config.image_tokens)), dim=1
        )
        x, inside = self._run(x, None)
        x = self.norm(x)
        return x[:, : config.text_tokens], x[:, config.text_tokens :], inside

    def compile(self, *options: Any, **more: Any) -> None:
        """torch.compile the blocks, all from one translation. Not the embeddings: compiled code
        adds up their gradients in any order, so no two runs would be the same."""
        for block in self.blocks:
            block.compile(*options, **more)

    def prefill(self, text: Tensor, given: int, cache: Cache, pick: Pick) -> Tensor:
        """Read captions (B, T) and the first `given` codes of `cache.codes` into an empty cache;
        `pick` the code after them (B,)."""
        x = torch.cat((self._embed_text(text), self._embed_codes(cache.codes, given + 1)), dim=1)
        places = torch.arange(x.shape[1], device=x.device)
        return self._predict(x, cache, pick, places, len(places), None)

    def decode_one(
        self, number: Tensor, cache: Cache, pick: Pick, seen: int, masked: bool
    ) -> Tensor:
        """Read the code of place `number` (1,) in `cache.codes`; `pick` the one after it (B,).

        Attention is over the first `seen` positions of the cache. So many are filled, the new one
        with them, or they are `masked` and some are not: then the same shapes serve several places,
        as recorded steps on a GPU need it.
        """
        place = self.config.text_tokens + 1 + number
        mask = None
        if masked:
            to_come = torch.arange(seen, device=place.device)[None] > place
            mask = cache.keys[0].new_zeros(1, seen).masked_fill(to_come, -torch.inf)
        above = cache.codes[:, self.above[number + 1]]
        x = self._embed(cache.codes[:, number], above, self.place_embedding(number + 1))
        return self._predict(x, cache, pick, place, seen, mask, first=False)

    def _embed_text(self, text: Tensor) -> Tensor:
        """(B, T) → (B, 1 + T, D) with the start in front. The last position draws code 0."""
        start = text.new_full((len(text), 1), self.config.vocabulary + self.config.text_tokens)
        x = self.text_embedding(torch.cat((start, text), dim=1))
        first_place = self.place_embedding.weight[0].expand(len(text), 1, -1)
        return torch.cat((x[:, :-1], x[:, -1:] + first_place), dim=1)

    def _embed_codes(self, known: Tensor, stop: int) -> Tensor:
        """What is to predict the codes from place 1 to before `stop` (B, stop - 1, D), of the known
        ones (B, N + 1)."""
        return self._embed(
            known[:, : stop - 1],
            known[:, self.above[1:stop]],
            self.place_embedding.weight[1:stop],
        )

    def _embed(self, before: Tensor, above: Tensor, places: Tensor) -> Tensor:
        """Inputs (B, s, D) of the code before (B, s), those above (B, s, 3) and the place (s, D) of
        each code that is to be predicted."""
        tables = self.above_embedding.weight.view(above.shape[2], -1, places.shape[-1])
        around = map(self._look_up, above.unbind(2), tables.unbind())
        before = self._look_up(before, self.image_embedding.weight)
        return before + functools.reduce(torch.add, around) + places

    def _look_up(self, codes: Tensor, table: Tensor) -> Tensor:
        """What a table (R or R + 1, D), of the values of each digit after those of the one before
        it, has for codes (…): the sum over their digits (…, D)."""
        start = 0
        found: list[Tensor] = []
        for radices in self.config.read:
            for values, digit in zip(radices, split(codes, radices), strict=True):
                found.append(F.embedding(digit + start if start else digit, table))
                start += values
            start += 1  # the row of a code that is not there
        return functools.reduce(torch.add, found)

    def _predict(
        self,
        x: Tensor,
        cache: Cache,
        pick: Pick,
        places: Tensor,
        seen: int,
        mask: Tensor | None,
        first: bool = True,
    ) -> Tensor:
        """The code (B,) after new positions x (B, s, D); `Past` says what the others are."""
        past = [
            Past(keys, values, places, seen, mask, first)
            for keys, values in zip(cache.keys, cache.values, strict=True)
        ]
        return self._spell(self.norm(self._run(x, past)[0][:, -1]), pick)

    def _run(self, x: Tensor, past: list[Past] | None) -> tuple[Tensor, dict[int, Tensor]]:
        """All blocks over the positions x (B, s, D); what entered some of them is kept, by their
        number."""
        config = self.config
        kept: dict[int, Tensor] = {}
        x, *told = torch.split(x, config.dim, dim=-1) if config.trials.values else (x,)
        turns = self.turns if past is None else self.turns[:, past[0].places]
        again = self.recompute and torch.is_grad_enabled()
        for index, block in enumerate(self.blocks):
            mirror = config.depth - 1 - index
            if self.shortcut is not None and index:
                x = x + self.shortcut[index] * kept[0]
            if self.skips is not None and mirror < index:
                x = x + self.skips[index] * kept[mirror]
            if self._keeps(index):
                kept[index] = x
            if again:
                x = checkpoint(block, x, turns, None, *told, use_reentrant=False)
            else:
                x = block(x, turns, past[index] if past else None, *told)
        return x, kept

    def _keeps(self, index: int) -> bool:
        """Whether what enters that block is of use later."""
        skipped = self.skips is not None and 2 * index < self.config.depth - 1
        shortcut = self.shortcut is not None and index == 0
        return skipped or shortcut or (self.foresight is not None and index == self.ahead_of)

    def _of_trials(self) -> list[Tensor]:
        """Weights of ideas on trial that begin with 0."""
        heads = [head.weight for head in (self.level_head, self.foresight) if head is not None]
        return [*heads, *(mix for mix in (self.shortcut, self.skips) if mix is not None)]
