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
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from dallebaby_cli.config import TransformerConfig
from dallebaby_cli.models.cross_entropy import cross_entropy
from dallebaby_cli.models.digits import DigitBlock, join, split
from dallebaby_cli.models.rms_norm import RMSNorm

Pick = Callable[[int, Tensor], Tensor]
"""Decides the digit (B,) of that number, from 0 on, given its logits (B, L)."""


class Cache:
    """What is known so far, preallocated: keys and values of all positions, 2 tensors (B, H, S, E)
    a block, and the codes (B, N + 1), K where there is none."""

    def __init__(self, config: TransformerConfig, batch: int, like: Tensor) -> None:
        shape = (batch, config.heads, config.sequence_len, config.dim // config.heads)
        self.keys = [like.new_zeros(shape) for _ in range(config.depth)]
        self.values = [like.new_zeros(shape) for _ in range(config.depth)]
        size = (batch, config.image_tokens + 1)
        self.codes = torch.full(size, config.codes, device=like.device)


class Past(NamedTuple):
    """What a block knows of the sequence so far, and where the new positions go."""

    keys: Tensor
    """of all S positions (B, H, S, E)"""
    values: Tensor
    """likewise"""
    places: Tensor
    """of the s new positions (s,) int64"""
    seen: int
    """positions from the first one on that are attended to"""
    mask: Tensor | None
    """(1, seen): 0 for those that are filled, -inf for others; all are if None"""
    first: bool
    """whether the new positions are the first ones, each of which sees those before it"""


def rotary_table(config: TransformerConfig) -> Tensor:
    """Cosines and signed sines (2, S, E) of every position's angles, as `rotate` takes them: half
    of a head's planes turn with the row, half with the column. Caption position i counts as (i, i);
    the picture's rows and columns follow on."""
    text = torch.arange(config.text_tokens + 1).repeat(2, 1)  # start and caption
    rows = torch.arange(config.grid).repeat_interleave(config.grid)
    columns = torch.arange(config.grid).repeat(config.grid)
    image = torch.stack((rows, columns)) + config.text_tokens + 1
    places = torch.cat((text, image), dim=1)[:, : config.sequence_len]  # (2, S)
    planes = config.dim // config.heads // 4
    frequencies = 100.0 ** -(torch.arange(planes) / planes)
    angles = (places[:, :, None] * frequencies).movedim(0, 1).flatten(1)
    cos, sin = angles.cos(), angles.sin()
    return torch.stack((torch.cat((cos, cos), dim=1), torch.cat((-sin, sin), dim=1)))


def places_above(grid: int) -> Tensor:
    """The places (N, 3) above each one of the picture, to the left, straight and to the right; N
    where that is outside."""
    padded = F.pad(torch.arange(grid**2).view(grid, grid), (1, 1, 1, 0), value=grid**2)
    return padded[:-1].unfold(1, 3, 1).flatten(0, 1)


def rotate(x: Tensor, turns: Tensor) -> Tensor:
    """Turn the planes of x (…, S, E), each of one number in the first half and its like in the
    second, by angles whose cosines and signed sines are (2, S, E)."""
    cos, sin = turns
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, dims=-1), sin)


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
    """Attention (B, H, s, E) of queries over keys and values. Training in bf16 on a CPU takes three
    operations: the backward pass of torch's one takes four to eight times as long there."""
    bf16 = query.device.type == "cpu" and query.dtype == torch.bfloat16
    if not (bf16 and causal and query.requires_grad):
        return F.scaled_dot_product_attention(query, key, value, mask, is_causal=causal)
    batch, heads, new, width = query.shape
    later = query.new_full((new, new), -torch.inf).triu(1).expand(batch * heads, -1, -1)
    q, k = query.flatten(0, 1), key.flatten(0, 1)
    weights = torch.baddbmm(later, q, k.mT, alpha=width**-0.5).softmax(-1)
    return (weights @ value.flatten(0, 1)).view_as(value)


class Block(nn.Module):
    """Attention, then an MLP, each on a normalised input and added to the stream."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.dropout = config.dropout
        self.attention_norm = RMSNorm(config.dim)
        self.qkv = nn.Linear(config.dim, 3 * config.dim, bias=False)
        self.query_key_norm = RMSNorm(2, 1, config.dim // config.heads)
        self.attention_out = nn.Linear(config.dim, config.dim, bias=False)
        self.mlp_norm = RMSNorm(config.dim)
        self.mlp_in = nn.Linear(config.dim, 4 * config.dim, bias=False)
        self.mlp_out = nn.Linear(4 * config.dim, config.dim, bias=False)

    def forward(self, x: Tensor, turns: Tensor, past: Past | None) -> Tensor:
        """x (B, s, D) are the positions after those in `past`; without it, the whole sequence."""
        x = x + self._drop(self.attention_out(self._attend(self.attention_norm(x), turns, past)))
        return x + self._drop(self.mlp_out(F.relu(self.mlp_in(self.mlp_norm(x))).square()))

    def _attend(self, x: Tensor, turns: Tensor, past: Past | None) -> Tensor:
        batch, new, dim = x.shape
        qkv = self.qkv(x).view(batch, new, 3, self.heads, dim // self.heads)
        query_key, value = qkv.split((2, 1), dim=2)
        value = value.squeeze(2).transpose(1, 2)  # (B, H, s, E), as query and key
        query_key = self.query_key_norm(query_key).permute(2, 0, 3, 1, 4)
        query_key = rotate(query_key, turns)
        if past is None:
            query, key = query_key.type_as(value)
            y = attend(query, key, value, None, causal=True)
        else:
            query, key = query_key.type_as(past.keys)
            past.keys.index_copy_(2, past.places, key)
            past.values.index_copy_(2, past.places, value.type_as(past.values))
            key, value = past.keys[:, :, : past.seen], past.values[:, :, : past.seen]
            with torch.autocast(x.device.type, enabled=False):  # in the cache's own precision
                y = attend(query, key, value, past.mask, past.first)
        return y.transpose(1, 2).reshape(batch, new, dim)

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training)


class Transformer(nn.Module):
    """Caption tokens and image codes in, the logits of the next ones out.

    Text ids: [0, V) are the tokenizer's, V + i pads caption position i (so that the model knows
    an end from a word, at every length), V + T is the start. The text head has one class beside
    the V words: V, the end.
    """

    turns: Tensor
    above: Tensor
    recompute = False
    """whether what blocks keep for the backward pass is made again then: less memory, more work"""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        text_ids = config.vocabulary + config.text_tokens + 1
        self.text_embedding = nn.Embedding(text_ids, config.dim)
        self.image_embedding = nn.Embedding(sum(config.radices), config.dim)
        self.above_embedding = nn.Embedding(3 * (sum(config.radices) + 1), config.dim)
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
        self.register_buffer("turns", rotary_table(config), persistent=False)
        self.register_buffer("above", places_above(config.grid), persistent=False)
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
        | RMSNorm                     | 1                                               |
        """
        for embedding in (self.text_embedding, self.image_embedding, self.above_embedding):
            nn.init.normal_(embedding.weight, std=0.02)
        for module in (self.place_embedding, self.text_head, self.image_head):
            nn.init.zeros_(module.weight)
        for weight in self.digit_embeddings.parameters():
            nn.init.normal_(weight)
        for weight in self.digit_heads.parameters():
            nn.init.zeros_(weight)
        for block in self.blocks:
            assert isinstance(block, Block)
            for layer in (block.qkv, block.mlp_in):
                nn.init.normal_(layer.weight, std=layer.in_features**-0.5)
            for layer in (block.attention_out, block.mlp_out):
                nn.init.zeros_(layer.weight)
        for block in self.digit_blocks:
            assert isinstance(block, DigitBlock)
            block.init_weights()

    def forward(self, text: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, T, V + 1) of the caption and (B, N, R) of the codes, those of each digit after
        those of the one before it, given captions (B, T) and codes (B, N), both int64. Each is
        predicted from what stands before it alone."""
        before_words, before_codes = self._read(text, codes)
        logits = [head(rows) for rows, head, _ in self._teach(before_codes, codes)]
        of_codes = logits[0] if len(logits) == 1 else torch.cat(logits, dim=-1)
        return self.text_head(before_words), of_codes

    def losses(self, text: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
        """Mean cross-entropy in nats of the captions (words and one end each; the padding behind it
        is nothing to learn) and of the codes. Each picture counts the same, however long its
        caption, so that the loss of a batch is the mean of its parts' losses."""
        before_words, before_codes = self._read(text, codes)
        target = text.clamp(max=self.config.vocabulary)  # a word or the end
        counted = (text >= self.config.vocabulary).cumsum(1) <= 1
        share = counted / counted.sum(1, keepdim=True)
        text_loss = cross_entropy(before_words, self.text_head.weight, target, share)
        every = torch.ones_like(codes, dtype=torch.float32)
        parts = [
            cross_entropy(rows, head.weight, digit, every)
            for rows, head, digit in self._teach(before_codes, codes)
        ]
        image_loss = torch.stack(parts).sum()
        return text_loss / len(text), image_loss / codes.numel()

    def _teach(self, rows: Tensor, codes: Tensor) -> Iterator[tuple[Tensor, nn.Linear, Tensor]]:
        """What each digit of codes (B, N) is predicted from (B, N, D), those before it being given,
        by which head, and the digit (B, N)."""
        digits = split(codes, self.config.radices)
        heads = cast(tuple[nn.Linear, ...], (self.image_head, *self.digit_heads))
        for index, (head, digit) in enumerate(zip(heads, digits, strict=True)):
            rows = self._told(index, rows, digits[index - 1]) if index else rows
            yield rows, head, digit

    def _spell(self, rows: Tensor, pick: Pick) -> Tensor:
        """The codes (B,) after what stands before them (B, D), `pick`ed digit by digit."""
        digits = [pick(0, self.image_head(rows))]
        for index, head in enumerate(self.digit_heads, 1):
            rows = self._told(index, rows, digits[-1])
            digits.append(pick(index, head(rows)))
        return join(digits, self.config.radices)

    def _told(self, index: int, rows: Tensor, digit: Tensor) -> Tensor:
        """What the digit of that number is predicted from (…, D), given what the one before it was
        predicted from, and that digit (…)."""
        found = self.digit_embeddings[index - 1](digit)
        return self.digit_blocks[index - 1](rows, found)

    def _read(self, text: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
        """What the heads make predictions of: (B, T, D) and (B, N, D)."""
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
        x = self.norm(self._run(x, None))
        return x[:, : config.text_tokens], x[:, config.text_tokens :]

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
        tables = self.above_embedding.weight.view(3, -1, self.config.dim)
        left, straight, right = map(self._look_up, above.unbind(2), tables.unbind())
        before = self._look_up(before, self.image_embedding.weight)
        return before + (left + straight + right) + places

    def _look_up(self, codes: Tensor, table: Tensor) -> Tensor:
        """What a table (R or R + 1, D), of the values of each digit after those of the one before
        it, has for codes (…): the sum over their digits (…, D)."""
        radices, start = self.config.radices, 0
        found: list[Tensor] = []
        for values, digit in zip(radices, split(codes, radices), strict=True):
            found.append(F.embedding(digit + start if start else digit, table))
            start += values
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
        return self._spell(self.norm(self._run(x, past)[:, -1]), pick)

    def _run(self, x: Tensor, past: list[Past] | None) -> Tensor:
        """All blocks over the positions x (B, s, D)."""
        turns = self.turns if past is None else self.turns[:, past[0].places]
        again = self.recompute and torch.is_grad_enabled()
        for index, block in enumerate(self.blocks):
            if again:
                x = checkpoint(block, x, turns, None, use_reentrant=False)
            else:
                x = block(x, turns, past[index] if past else None)
        return x
