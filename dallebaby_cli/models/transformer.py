"""A decoder-only transformer over one stream: start, caption tokens, image codes in some order.

After DALL-E (Ramesh et al. 2021, arXiv 2102.12092). What differs: RMSNorm before each branch
(Zhang & Sennrich 2019), normalised queries and keys (Dehghani et al. 2023, arXiv 2302.05442),
rotary positions (Su et al. 2021, arXiv 2104.09864) that are two-dimensional over the picture,
squared-ReLU MLPs (So et al. 2021, arXiv 2109.08668), no biases. And beside the code before it each
position is told the three above the one that it is to predict: a PixelCNN's neighbours (van den
Oord et al. 2016, arXiv 1606.05328), which attention would first have to learn to find.

The order is raster order, or where a model is to know any (`any_order`, docs/orders.md) a random
one for each picture, as in RAR (Yu et al. 2024, arXiv 2411.00776). Then a position is told all
eight around, as far as they are known, and its query stands where it predicts, its key where the
code is that it reads. So several places can be asked for at once, after the same known codes.

Where the codebook is large, a code is several digits (`models/digits.py`), each predicted from the
same position and from the digits before it, and some hundred classes serve for 64,000 codes. By the
chain rule codes can have any probabilities still. A code that is predicted whole is one digit, and
what is said of digits holds for it.

Shapes: B sequences, T caption tokens, N image codes, S = T + N positions, V text vocabulary,
K image codebook, L values of a digit (of a code that is whole: K), R of all digits of a code
together, D width, H heads, E = D / H.

b is B, or 1 for the same in all sequences. The position of input i predicts input i + 1:

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
from dallebaby_cli.models.block import Block, Cache, Past
from dallebaby_cli.models.cross_entropy import cross_entropy
from dallebaby_cli.models.digits import DigitBlock, join, look_up, numbers_of_codes, split
from dallebaby_cli.models.places import places_near, positions, rotary_table, told_of, unseen
from dallebaby_cli.models.rms_norm import RMSNorm
from dallebaby_cli.models.slips import slipped

Pick = Callable[[int, Tensor], Tensor]
"""Decides the digit (M,) of that number, from 0 on, given its logits (M, L): of B pictures, of each
as many codes as are asked for, one after the other."""


class Transformer(nn.Module):
    """Caption tokens and image codes in, the logits of the next ones out.

    Text ids: [0, V) are the tokenizer's, V + i pads caption position i (so that the model knows
    an end from a word, at every length), V + T is the start. The text head has one class beside
    the V words: V, the end.
    """

    turns: Tensor
    near: Tensor
    raster: Tensor
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
        near = places_near(config.grid, trials.neighbours, config.any_order)
        self.register_buffer("near", near, persistent=False)
        self.above_embedding = nn.Embedding(near.shape[1] * parts, width)
        unknown = nn.Linear(near.shape[1], width, bias=False) if config.any_order else None
        self.unknown = unknown  # what is added for each of the places near that is not drawn yet
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
        self.register_buffer("raster", torch.arange(config.image_tokens)[None], persistent=False)
        self.init_weights()

    def init_weights(self) -> None:
        """All initial values.

        | part                        | value                                           |
        | embeddings, unknown         | N(0, 0.02²)                                     |
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
        if self.unknown is not None:
            nn.init.normal_(self.unknown.weight, std=0.02)
        for weight in self.digit_embeddings.parameters():
            nn.init.normal_(weight)
        for unused in (*self.digit_heads.parameters(), *self._of_trials()):
            nn.init.zeros_(unused)
        for block in (*self.blocks, *self.digit_blocks):
            assert isinstance(block, Block | DigitBlock)
            block.init_weights()

    def forward(
        self, text: Tensor, codes: Tensor, order: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Logits (B, T, V + 1) of the caption and (B, N, R) of the codes, those of each digit after
        those of the one before it, given captions (B, T) and codes (B, N), both int64. Each is
        predicted from what stands before it alone; codes, and so their logits, stand in an `order`
        of places, int64 (B, N), raster order if None. All codes are given in raster order."""
        before_words, before_codes, _ = self._read(text, codes, order)
        codes = codes if order is None else codes.gather(1, order)
        taught = enumerate(self._teach(before_codes, codes))
        logits = [self._logits(index, rows) for index, (rows, _) in taught]
        of_codes = logits[0] if len(logits) == 1 else torch.cat(logits, dim=-1)
        return self.text_head(before_words), of_codes

    def losses(
        self,
        text: Tensor,
        codes: Tensor,
        progress: float | None = None,
        order: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Mean cross-entropy in nats of the captions (words and one end each; the padding behind it
        is nothing to learn) and of the codes. Each picture counts the same, however long its
        caption, so that the loss of a batch is the mean of its parts' losses. When `progress` (0 to
        1) of a training is over, it is made harder as `config.trials` says. `order` as in
        `forward`."""
        read = slipped(codes, self.config, progress) if progress is not None else codes
        before_words, before_codes, inside = self._read(text, read, order)
        codes = codes if order is None else codes.gather(1, order)
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
        """The codes (M,) after what stands before them (M, D), `pick`ed digit by digit."""
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

    def _read(
        self, text: Tensor, codes: Tensor, order: Tensor | None
    ) -> tuple[Tensor, Tensor, dict[int, Tensor]]:
        """What the heads make predictions of, (B, T, D) and (B, N, D), and what `_run` kept."""
        config, order = self.config, self.raster if order is None else order
        for name, ids, length in (
            ("text", text, config.text_tokens),
            ("codes", codes, config.image_tokens),
            ("order", order, config.image_tokens),
        ):
            if ids.dtype != torch.int64 or ids.ndim != 2 or ids.shape[1] != length:
                kind = str(ids.dtype).removeprefix("torch.")
                raise ValueError(
                    f"{name} must be int64 (B, {length}), not {kind} {tuple(ids.shape)}"
                )
        known = F.pad(codes, (0, 1), value=config.codes)
        x, inside = self._run(*self._inputs(text, known, order[:, :-1], order[:, -1:], 0), None)
        x = self.norm(x)
        return x[:, : config.text_tokens], x[:, config.text_tokens :], inside

    def compile(self, *options: Any, **more: Any) -> None:
        """torch.compile the blocks, all from one translation. Not the embeddings: compiled code
        adds up their gradients in any order, so no two runs would be the same."""
        for block in self.blocks:
            block.compile(*options, **more)

    def ask(
        self,
        text: Tensor,
        order: Tensor,
        targets: Tensor,
        filled: int,
        cache: Cache,
        pick: Pick,
        asking: int = 1,
    ) -> Tensor:
        """`pick` the codes (B, m) of the places `targets` (b, m), each after the same codes: those
        of `cache.codes` whose places are `order` (b, a), read in that order after captions (B, T).

        The first `filled` positions of the cache are filled, of such a beginning. The last of the
        others, `asking` of them (1 to m, and to a if that is more), ask for the first targets, and
        copies of the last one for the rest. Afterwards T + a + 1 positions are filled.
        """
        last, asked = self.config.text_tokens + order.shape[1], targets.shape[1]
        x, turns = self._inputs(text, cache.codes, order, targets, filled, asking)
        seen = filled + x.shape[1]
        places = torch.arange(filled, seen, device=x.device)
        first = filled == 0 and asked == 1
        keys, hidden = torch.arange(seen, device=x.device), None
        if not first and len(places) > 1:
            hidden = unseen(places[:, None], keys, last, asking)
        return self._predict(x, turns, cache.past(places, seen, hidden, first), asked, pick)

    def decode_one(
        self, number: Tensor, cache: Cache, pick: Pick, seen: int, masked: bool
    ) -> Tensor:
        """In raster order, read the code of place `number` (1,) in `cache.codes`; `pick` the one
        after it (B,).

        Attention is over the first `seen` positions of the cache. So many are filled, the new one
        with them, or they are `masked` and some are not: then the same shapes serve several places,
        as recorded steps on a GPU need it.
        """
        place, near = self.config.text_tokens + 1 + number, self.near[number + 1]
        hidden = torch.arange(seen, device=place.device)[None] > place if masked else None
        around = cache.codes[:, near]  # those to come are not there yet
        x = self._embed(cache.codes[:, number], around, near, self.place_embedding(number + 1))
        turns = self._turns(place[None], place[None] + 1)
        past = cache.past(place, seen, hidden, False)
        return self._predict(x, turns, past, 1, pick)[:, 0]

    def _inputs(
        self,
        text: Tensor,
        known: Tensor,
        order: Tensor,
        targets: Tensor,
        filled: int,
        asking: int = 1,
    ) -> tuple[Tensor, Tensor]:
        """What positions read (B, s, D), and how they are turned: those from `filled` on of a
        sequence of captions (B, T) and of those of the known codes (B, N + 1) whose places are
        `order` (b, a), the last of which, `asking` of them, are told of all that is known and are
        to predict the first of the places `targets` (b, m); and for each further target one that
        differs from the last in nothing else."""
        image, drawn = self.config.text_tokens + 1, order.shape[1]  # pictures begin at image
        slots, reads, aims = positions(image, order, targets, filled, asking)
        count = max(image - filled, 0) if drawn else len(slots)  # that read no code
        parts = []
        if count:
            places = aims[:, max(image - 1 - filled, 0) : count] - image
            parts.append(self._embed_text(text, slots[:count], places))
        if count < len(slots):
            places, number = aims[:, count:] - image, slots[count:] - image
            times = torch.where(number >= drawn - asking, drawn, number + 1)
            near = self.near[places]
            around = told_of(known, order, near, times, self.config.codes)
            read = known.gather(1, order[:, number].expand(len(known), -1))
            parts.append(self._embed(read, around, near, self.place_embedding(places)))
        return torch.cat(parts, dim=1), self._turns(reads, aims)

    def _turns(self, reads: Tensor, aims: Tensor) -> Tensor:
        """How queries and keys are turned, given where positions read and what they are to predict
        (b, s), in the table of turns: (2, b, 1, s, E) for both, or in any order (2, 2, b, 1, s, E)
        for each."""
        turns = self.turns[:, reads]
        if self.config.any_order:
            turns = torch.stack((self.turns[:, aims], turns), dim=1)
        return turns.unsqueeze(-3)

    def _embed_text(self, text: Tensor, slots: Tensor, places: Tensor) -> Tensor:
        """Inputs (B, s, D) of the positions `slots` (s,), which read the start in front of captions
        (B, T) or one of their words; the last of them are to predict the codes of `places`."""
        start = text.new_full((len(text), 1), self.config.vocabulary + self.config.text_tokens)
        x = self.text_embedding(torch.cat((start, text), dim=1)[:, slots])
        words = len(slots) - places.shape[1]
        return torch.cat((x[:, :words], x[:, words:] + self.place_embedding(places)), dim=1)

    def _embed(self, before: Tensor, around: Tensor, near: Tensor, places: Tensor) -> Tensor:
        """Inputs (B, s, D) of the code before (B, s), those around (B, s, c), K where there is
        none, at the places `near` (…, c), and the place (…, s, D) of each code that is to be
        predicted."""
        tables = self.above_embedding.weight.view(around.shape[2], -1, places.shape[-1])
        ways = self.config.read
        pairs = zip(around.unbind(2), tables.unbind(), strict=True)
        found = (look_up(codes, table, ways) for codes, table in pairs)
        read = look_up(before, self.image_embedding.weight, ways)
        x = read + functools.reduce(torch.add, found) + places
        if self.unknown is None:
            return x
        to_come = (around == self.config.codes) & (near < self.config.image_tokens)
        return x + self.unknown(to_come.float())

    def _predict(
        self, x: Tensor, turns: Tensor, past: list[Past], asked: int, pick: Pick
    ) -> Tensor:
        """The codes (B, asked) after the last of the new positions x (B, s, D)."""
        rows = self.norm(self._run(x, turns, past)[0][:, -asked:])
        return self._spell(rows.flatten(0, 1), pick).view(len(x), asked)

    def _run(
        self, x: Tensor, turns: Tensor, past: list[Past] | None
    ) -> tuple[Tensor, dict[int, Tensor]]:
        """All blocks over the positions x (B, s, D); what entered some of them is kept, by their
        number."""
        config = self.config
        kept: dict[int, Tensor] = {}
        x, *told = torch.split(x, config.dim, dim=-1) if config.trials.values else (x,)
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
