"""The choice of the next code: guidance, temperature, top-k, top-p, and noise that makes it fair.

Guidance is that of Ho & Salimans (2022, arXiv 2207.12598): logits are pushed away from those that
the empty caption gives; in a part of the picture alone after Kynkäänniemi et al. (2024, arXiv
2404.07724), rising by a power and a cosine as in RAR (2024, arXiv 2411.00776). Noise comes from
SplitMix64 (Steele, Lea & Flood 2014) read at any place: each number is a hash of where it is, so it
is the same beside any other picture, on any device.

Where codes are predicted digit by digit, digits are chosen so, with numbers of their own: guidance,
temperature, top-k and top-p are of a digit, given those before it.

Shapes: B pictures, N codes of a picture, K codebook, or the values of a digit.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from dallebaby_cli.config import SampleConfig

GOLDEN, FIRST, SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
BITS = 23  # of each random number: as many as fp32 holds beside a half


def keys(seeds: Sequence[int]) -> Tensor:
    """What the noise of pictures from such seeds begins with (B,) int64."""
    return _mix(torch.tensor([_signed(seed + GOLDEN) for seed in seeds]))


def noise(keys: Tensor, start: int, stop: int, codes: int) -> Tensor:
    """Gumbel noise (N, B, K) of the codes of places `start` to before `stop`: the likeliest code
    under logits + noise is a fair draw."""
    return noise_at(keys, torch.arange(start, stop, device=keys.device)[:, None], codes)


def noise_at(keys: Tensor, places: Tensor, codes: int) -> Tensor:
    """The same (…, K) of any places (…), of pictures whose keys fit these."""
    counter = places[..., None] * codes + torch.arange(codes, device=places.device) + 1
    random = _mix(keys[..., None] + counter * _signed(GOLDEN))
    uniform = (_shifted(random, 64 - BITS).float() + 0.5) * 2**-BITS
    return -torch.log(-torch.log(uniform))


def _mix(z: Tensor) -> Tensor:
    """Hash 64 bits to 64 others; products wrap around."""
    z = (z ^ _shifted(z, 30)) * _signed(FIRST)
    z = (z ^ _shifted(z, 27)) * _signed(SECOND)
    return z ^ _shifted(z, 31)


def _shifted(z: Tensor, by: int) -> Tensor:
    """To the right, with zeros on the left: torch's own shift repeats the sign."""
    return (z >> by) & ((1 << (64 - by)) - 1)


def _signed(number: int) -> int:
    """The int64 of the same 64 lowest bits."""
    return (number + 2**63) % 2**64 - 2**63


def asks_twice(config: SampleConfig, learned: float) -> bool:
    """Whether the empty caption is asked, too: not where guidance is, everywhere, what the model
    has `learned` to draw with."""
    everywhere = (config.guidance_ramp, config.guidance_power, config.guidance_interval)
    varies = learned != 1 and everywhere != (0, 0, (0, 1))
    return config.guidance != learned or varies


def guidance_at(share: float, config: SampleConfig, learned: float = 1.0) -> float:
    """How hard the caption pulls when so much of the picture is drawn, for one time that the model
    has `learned` to let it pull (1: none)."""
    risen = min(1.0, share / config.guidance_ramp) if config.guidance_ramp else 1.0
    if config.guidance_power:
        risen = (1 - math.cos(math.pi * share**config.guidance_power)) / 2
    first, end = config.guidance_interval
    return (1 + (config.guidance - 1) * risen * (first <= share < end)) / learned


def guide(logits: Tensor, guidance: Tensor | float) -> Tensor:
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
