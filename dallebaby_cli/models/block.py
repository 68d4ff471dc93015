"""A block of the transformer: attention, with or without a cache of what came before, and an MLP.

Shapes: B sequences, S positions, s of them new, N image codes, K codebook, D width, H heads,
E = D / H.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dallebaby_cli.config import TransformerConfig
from dallebaby_cli.models.rms_norm import RMSNorm


def relu2(x: Tensor) -> Tensor:
    """Squared ReLU (So et al. 2021, arXiv 2109.08668). Autocast on GPUs would square in fp32, which
    takes twice the memory; it leaves products in the precision that they come in."""
    y = F.relu(x)
    return y * y


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
    """(1 or s, seen): 0 for those that a new position sees, -inf for others; it sees all if None"""
    first: bool
    """whether the new positions are the first ones, each of which sees those before it"""


class Cache:
    """What is known so far, preallocated: keys and values of all positions, 2 tensors (B, H, S, E)
    a block, and the codes (B, N + 1) by their places, K where there is none."""

    def __init__(self, config: TransformerConfig, batch: int, like: Tensor) -> None:
        shape = (batch, config.heads, config.sequence_len, config.dim // config.heads)
        self.keys = [like.new_zeros(shape) for _ in range(config.depth)]
        self.values = [like.new_zeros(shape) for _ in range(config.depth)]
        size = (batch, config.image_tokens + 1)
        self.codes = torch.full(size, config.codes, device=like.device)

    def past(self, places: Tensor, seen: int, hidden: Tensor | None, first: bool) -> list[Past]:
        """For each block; `hidden`, bool (1 or s, seen), are those that a position does not see."""
        mask = None
        if hidden is not None:
            mask = self.keys[0].new_zeros(hidden.shape).masked_fill(hidden, -torch.inf)
        both = zip(self.keys, self.values, strict=True)
        return [Past(keys, values, places, seen, mask, first) for keys, values in both]


def rotate(x: Tensor, turns: Tensor) -> Tensor:
    """Turn the planes of x (…, S, E), each of one number in the first half and its like in the
    second, by angles whose cosines and signed sines are (2, …, S, E)."""
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

    def init_weights(self) -> None:
        """As in the table of `Transformer.init_weights`."""
        for layer in (self.qkv, self.mlp_in):
            nn.init.normal_(layer.weight, std=layer.in_features**-0.5)
        for layer in (self.attention_out, self.mlp_out):
            nn.init.zeros_(layer.weight)

    def forward(self, x: Tensor, turns: Tensor, past: Past | None) -> Tensor:
        """x (B, s, D) are the positions after those in `past`; without it, the whole sequence.
        Queries and keys (2, B, H, s, E) are turned by `turns` (2, …, s, E), which fits them."""
        x = x + self._drop(self.attention_out(self._attend(self.attention_norm(x), turns, past)))
        return x + self._drop(self.mlp_out(relu2(self.mlp_in(self.mlp_norm(x)))))

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
