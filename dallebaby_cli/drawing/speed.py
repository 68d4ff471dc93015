"""How fast a model draws, and how near that is to what the device can do at most.

Each code needs all weights once, however many pictures are drawn side by side, and the keys and
values of what stands before it. So drawing waits for memory, and its yardstick is the model
bandwidth utilisation (MBU): bytes that must be read, over seconds and the measured bandwidth.
"""

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import nn

from dallebaby_cli.config import SampleConfig
from dallebaby_cli.drawing.half_precision import HalfLinear
from dallebaby_cli.drawing.next_code import guidance_at
from dallebaby_cli.drawing.sampler import Sampler
from dallebaby_cli.models import device as devices

LONG_S, MOST = 1.0, 20  # that one size of batch is drawn for, and how often at most
PROMPT = "a red car"  # nothing depends on it


@dataclass(frozen=True)
class Speed:
    """Of one size of batch."""

    pictures: int
    """drawn side by side"""
    guidance: float
    pictures_per_s: float
    """from prompts to pixels"""
    ms_a_picture: float
    """likewise"""
    ms_a_code: float
    """of all pictures of the batch together, as one is decided after the other"""
    mbu: float | None
    """None if the bandwidth is not known"""


def measure(sampler: Sampler, pictures: int, config: SampleConfig, bandwidth: float) -> Speed:
    """Draw so many pictures side by side, several times, on a device that reads memory at
    `bandwidth` bytes a second; medians, after a first time that does not count."""
    config = replace(config, batch_size=pictures)
    seconds: list[float] = []
    drawn_s: list[float] = []
    _draw(sampler, config)
    while not seconds or (sum(seconds) < LONG_S and len(seconds) < MOST):
        drawn, both = _draw(sampler, config)
        drawn_s.append(drawn)
        seconds.append(both)
    each_s = statistics.median(drawn_s)
    share = must_read(sampler, config) / each_s / bandwidth if bandwidth else 0.0
    return Speed(
        pictures=pictures,
        guidance=config.guidance,
        pictures_per_s=pictures / statistics.median(seconds),
        ms_a_picture=1e3 * statistics.median(seconds) / pictures,
        ms_a_code=1e3 * each_s / sampler.model.config.image_tokens,
        mbu=share or None,
    )


def must_read(sampler: Sampler, config: SampleConfig) -> int:
    """Bytes that one batch cannot do without: for each code, or each pass, the weights that decide
    it, as they are kept, and the keys and values of the positions before it, of captions, and where
    there is guidance of empty captions, too."""
    model, shape, pictures = sampler.model, sampler.model.config, config.batch_size
    assert pictures, "one batch has a size"
    decided = sampler.moments(config, 0)
    rows = sum(
        pictures
        * (1 + (guidance_at(number / shape.image_tokens, config, shape.guided) != 1))
        * (shape.text_tokens + 1 + number)
        for number in decided[1:-1]  # the first code finds no keys yet
    )
    device = next(model.parameters()).device
    with devices.autocast(device, "auto"):
        size = sampler._computed_like(device).element_size()
    deciding = (model.norm, model.image_head, model.digit_blocks, model.digit_heads, model.shared)
    reading = () if model.reading is None else (model.reading,)
    weights = _kept((*reading, *model.blocks, *deciding))
    return (len(decided) - 1) * weights + rows * 2 * shape.dim * shape.depth * size


def _draw(sampler: Sampler, config: SampleConfig) -> tuple[float, float]:
    """Seconds to the codes of one batch, and to its pictures."""
    count = config.batch_size or 1
    began = time.perf_counter()
    codes = sampler.draw([PROMPT] * count, range(count), config)
    codes[0, 0, 0].item()  # waits for the device
    drawn = time.perf_counter()
    sampler.paint(codes)
    return drawn - began, time.perf_counter() - began


def _kept(modules: Sequence[nn.Module]) -> int:
    """Bytes of their weights."""
    every = [module for one in modules for module in one.modules()]
    plain = sum(p.nbytes for module in every for p in module.parameters(recurse=False))
    return plain + sum(module.nbytes for module in every if isinstance(module, HalfLinear))
