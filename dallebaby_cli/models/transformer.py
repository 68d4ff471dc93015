"""A decoder-only transformer over one stream: start, caption tokens, image codes in some order.

After DALL-E (Ramesh et al. 2021, arXiv 2102.12092). What differs: RMSNorm before each branch
(Zhang & Sennrich 2019), normalised queries and keys (Dehghani et al. 2023, arXiv 2302.05442),
rotary positions (Su et al. 2021, arXiv 2104.09864) that are two-dimensional over the picture,
squared-ReLU MLPs (So et al. 2021, arXiv 2109.08668), no biases. And beside the code before it each
position is told those around the one that it is to predict: a PixelCNN's neighbours (van den Oord
et al. 2016, arXiv 1606.05328), which attention would first have to learn to find.

Codes that are written in numbers, as FSQ's are, are read and told apart by these: each number's
value has a vector, and a code's is the sum (after MaskBit, Weber et al. 2024, arXiv 2409.16211). So
what is learned of one code is known of all that are like it.

The order is raster order, or where a model is to know any (`any_order`, docs/orders.md) one of each
picture's own, as in RAR (Yu et al. 2024, arXiv 2411.00776). Then a position is told all around, as
far as they are known, and its query stands where it predicts, its key where the code is that it
reads. So several places can be asked for at once, after the same known codes.

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
from dallebaby_cli.models.digits import DigitBlock, Shared, join, look_up, marks, split
from dallebaby_cli.models.places import places_near, positions, rotary_table, told_of, unseen
from dallebaby_cli.models.rms_norm import RMSNorm

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
    marks: Tensor
    recompute = False
    """whether what blocks keep for the backward pass is made again then: less memory, more work"""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        text_ids = config.vocabulary + config.text_tokens + 1
        self.text_embedding = nn.Embedding(text_ids, config.dim)
        near = places_near(config.grid, config.near, config.any_order)
        self.register_buffer("near", near, persistent=False)
        self.reading: nn.Linear | None = None
        if config.numbers:
            with_none = F.pad(marks(config.codes, config.numbers), (0, 1, 0, 1))
            with_none[-1, -1] = 1
            self.register_buffer("marks", with_none, persistent=False)
            told = (1 + near.shape[1]) * with_none.shape[1]
            self.reading = nn.Linear(told, config.dim, bias=False)
        else:
            parts = sum(config.radices)
            self.image_embedding = nn.Embedding(parts, config.dim)
            self.above_embedding = nn.Embedding(near.shape[1] * (parts + 1), config.dim)
        unknown = nn.Linear(near.shape[1], config.dim, bias=False) if config.any_order else None
        self.unknown = unknown  # what is added for each of the places near that is not drawn yet
        self.place_embedding = nn.Embedding(config.image_tokens, config.dim)
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
        self.shared = nn.ModuleList(
            Shared(config.dim, numbers, last=number == len(others))
            for number, numbers in enumerate(config.parts)
        )
        self.register_buffer("turns", rotary_table(config), persistent=False)
        self.register_buffer("raster", torch.arange(config.image_tokens)[None], persistent=False)
        self.init_weights()

    def init_weights(self) -> None:
        """All initial values.

        | part                        | value                                           |
        | embeddings, reading         | N(0, 0.02²)                                     |
        | place embedding             | 0: added to what rotary positions already tell  |
        | qkv, mlp_in                 | N(0, 1 / fan-in)                                |
        | attention_out, mlp_out      | 0: each block starts as the identity            |
        | heads                       | 0: the first loss is exactly that of a guess    |
        | digits found at a position  | N(0, 1) in all: as large as what else is known  |
        | RMSNorm                     | 1                                               |
        """
        for name, module in self.named_children():
            if isinstance(module, nn.Embedding) and name != "place_embedding":
                nn.init.normal_(module.weight, std=0.02)
            elif isinstance(module, nn.Embedding | nn.Linear):
                nn.init.zeros_(module.weight)
        for layer in (self.unknown, self.reading):
            if layer is not None:
                nn.init.normal_(layer.weight, std=0.02)
        for weight in self.digit_heads.parameters():
            nn.init.zeros_(weight)
        for index, weight in enumerate(self.digit_embeddings.parameters()):
            parts = 1 + (len(self.config.parts[index]) if self.shared else 0)
            nn.init.normal_(weight, std=parts**-0.5)
        for part in (*self.blocks, *self.digit_blocks, *self.shared):
            assert isinstance(part, Block | DigitBlock | Shared)
            part.init_weights()

    def forward(
        self, text: Tensor, codes: Tensor, order: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Logits (B, T, V + 1) of the caption and (B, N, R) of the codes, those of each digit after
        those of the one before it, given captions (B, T) and codes (B, N), both int64. Each is
        predicted from what stands before it alone; codes, and so their logits, stand in an `order`
        of places, int64 (B, N), raster order if None. All codes are given in raster order."""
        before_words, before_codes = self._read(text, codes, order)
        codes = codes if order is None else codes.gather(1, order)
        taught = enumerate(self._teach(before_codes, codes))
        logits = [self._logits(index, rows) for index, (rows, _) in taught]
        of_codes = logits[0] if len(logits) == 1 else torch.cat(logits, dim=-1)
        return self.text_head(before_words), of_codes

    def losses(
        self, text: Tensor, codes: Tensor, order: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Mean cross-entropy in nats of the captions (words and one end each; the padding behind it
        is nothing to learn) and of the codes. Each picture counts the same, however long its
        caption, so that the loss of a batch is the mean of its parts' losses. `order` as in
        `forward`. Where guidance is trained in, codes are told by what the logits would be without
        it (guidance-free training: Chen et al. 2025, arXiv 2501.15420)."""
        before_words, before_codes = self._read(text, codes, order)
        ordered = codes if order is None else codes.gather(1, order)
        taught = [*self._teach(before_codes, ordered)]  # first: what is cast here has gradients
        alone = self._alone(text, codes, order) if self.config.guided != 1 else []
        target = text.clamp(max=self.config.vocabulary)  # a word or the end
        counted = (text >= self.config.vocabulary).cumsum(1) <= 1
        share = counted / counted.sum(1, keepdim=True)
        text_loss = cross_entropy(before_words, self.text_head.weight, target, share)
        every = torch.ones_like(codes, dtype=torch.float32)
        parts = [
            cross_entropy(self._unguided(rows, alone, index), self._classes(index), digit, every)
            for index, (rows, digit) in enumerate(taught)
        ]
        return text_loss / len(text), torch.stack(parts).sum() / codes.numel()

    @torch.no_grad()
    def _alone(self, text: Tensor, codes: Tensor, order: Tensor | None) -> list[Tensor]:
        """What each digit of codes (B, N) is predicted from (B, N, D) without a caption, in place
        of captions (B, T). Nothing is learned of it."""
        nothing = torch.arange(text.shape[1], device=text.device) + self.config.vocabulary
        rows = self._read(nothing.expand_as(text), codes, order)[1]
        codes = codes if order is None else codes.gather(1, order)
        return [rows for rows, _ in self._teach(rows, codes)]

    def _unguided(self, rows: Tensor, alone: list[Tensor], index: int) -> Tensor:
        """What the digit of that number is predicted from (B, N, D), were no guidance trained in:
        heads are linear, so logits stand between those `alone` and the guided ones as this does."""
        return torch.lerp(alone[index], rows, 1 / self.config.guided) if alone else rows

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
        return logits + self._shared(index).logits(rows) if self.shared else logits

    def _classes(self, index: int) -> Tensor:
        """The vectors (L, D) whose products with what a digit is predicted from are its logits."""
        classes: Tensor = self._head(index).weight
        return classes + self._shared(index).classes() if self.shared else classes

    def _head(self, index: int) -> nn.Linear:
        return cast(nn.Linear, self.digit_heads[index - 1]) if index else self.image_head

    def _shared(self, index: int) -> Shared:
        return cast(Shared, self.shared[index])

    def _told(self, index: int, rows: Tensor, digit: Tensor) -> Tensor:
        """What the digit of that number is predicted from (…, D), given what the one before it was
        predicted from, and that digit (…)."""
        found = self.digit_embeddings[index - 1](digit)
        if self.shared:
            found = found + self._shared(index - 1).told(digit)
        return self.digit_blocks[index - 1](rows, found)

    def _read(self, text: Tensor, codes: Tensor, order: Tensor | None) -> tuple[Tensor, Tensor]:
        """What the heads make predictions of, (B, T, D) and (B, N, D)."""
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
        x = self._run(*self._inputs(text, known, order[:, :-1], order[:, -1:], 0), None)
        x = self.norm(x)
        return x[:, : config.text_tokens], x[:, config.text_tokens :]

    @torch.no_grad()
    def fold(self) -> None:
        """Add what codes share to what each has of its own: fewer operations a code that is drawn,
        and nothing to be learned any more."""
        for index in range(len(self.shared)):
            part = self._shared(index)
            self._head(index).weight += part.classes()
            if part.embedding is not None:
                own = cast(nn.Embedding, self.digit_embeddings[index])
                own.weight += part.marks @ part.embedding.weight
        self.shared = nn.ModuleList()

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
        if self.reading is not None:
            read = self.marks[torch.cat((before[..., None], around), dim=-1)]
            x = self.reading(read.flatten(2)) + places
        else:
            tables = self.above_embedding.weight.view(around.shape[2], -1, places.shape[-1])
            pairs = zip(around.unbind(2), tables.unbind(), strict=True)
            found = [look_up(codes, table, self.config.radices) for codes, table in pairs]
            x = look_up(before, self.image_embedding.weight, self.config.radices)
            x = x + functools.reduce(torch.add, found) + places
        if self.unknown is None:
            return x
        to_come = (around == self.config.codes) & (near < self.config.image_tokens)
        return x + self.unknown(to_come.float())

    def _predict(
        self, x: Tensor, turns: Tensor, past: list[Past], asked: int, pick: Pick
    ) -> Tensor:
        """The codes (B, asked) after the last of the new positions x (B, s, D)."""
        rows = self.norm(self._run(x, turns, past)[:, -asked:])
        return self._spell(rows.flatten(0, 1), pick).view(len(x), asked)

    def _run(self, x: Tensor, turns: Tensor, past: list[Past] | None) -> Tensor:
        """All blocks over the positions x (B, s, D)."""
        again = self.recompute and torch.is_grad_enabled()
        for index, block in enumerate(self.blocks):
            if again:
                x = checkpoint(block, x, turns, None, use_reentrant=False)
            else:
                x = block(x, turns, past[index] if past else None)
        return x
