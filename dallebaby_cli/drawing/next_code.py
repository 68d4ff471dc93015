"""The choice of the next code: guidance, temperature, top-k, top-p, and noise that makes it fair.

Guidance is that of Ho & Salimans (2022, arXiv 2207.12598): logits are pushed away from those that
the empty caption gives.

Shapes: B pictures, N codes of a picture, K codebook.
"""

import torch
from torch import Tensor

from dallebaby_cli.config import SampleConfig


def noise(seed: int, places: int, codes: int) -> Tensor:
    """Gumbel noise (N, K) of one picture: the likeliest code under logits + noise is a fair
    draw."""
    generator = torch.Generator().manual_seed(seed)
    uniform = torch.rand(places, codes, generator=generator)
    return -torch.log(-torch.log(uniform.clamp(1e-20, 1 - 1e-7)))


def guidance_at(share: float, config: SampleConfig) -> float:
    """How hard the caption pulls when so much of the picture is drawn."""
    risen = min(1.0, share / config.guidance_ramp) if config.guidance_ramp else 1.0
    return 1 + (config.guidance - 1) * risen


def guide(logits: Tensor, guidance: float) -> Tensor:
    """Logits (B, K) from those (2 B, K) of captions and empty captions; 1 is no guidance."""
    with_caption, without = logits.float().chunk(2)
    return without + guidance * (with_caption - without)


def choose(logits: Tensor, noise: Tensor, config: SampleConfig) -> Tensor:
    """One code (B,) for each row of logits (B, K), by its row of Gumbel noise (B, K)."""
    if config.temperature == 0:
        return logits.argmax(-1)
    logits = logits / config.temperature
    if 0 < config.top_k < logits.shape[-1]:
        smallest = logits.topk(config.top_k).values[:, -1:]
        logits = logits.masked_fill(logits < smallest, -torch.inf)
    if config.top_p < 1:
        ordered, order = logits.softmax(-1).sort(descending=True)
        outside = (ordered.cumsum(-1) - ordered) >= config.top_p  # the likeliest always stays
        logits = logits.masked_fill(outside.scatter(-1, order, outside), -torch.inf)
    return (logits + noise).argmax(-1)
