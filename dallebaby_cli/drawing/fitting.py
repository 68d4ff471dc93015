"""How many pictures are worked on at a time, and whether compiling pays for so many: what memory
holds decides, and where it holds less than was thought, half of it is tried. No picture depends
on it.
"""

import itertools
from collections.abc import Callable
from typing import TypeVar

import torch

from dallebaby_cli.config import SampleConfig, TransformerConfig
from dallebaby_cli.drawing.next_code import asks_twice
from dallebaby_cli.drawing.passes import CHOICE, counts
from dallebaby_cli.drawing.steps import AHEAD
from dallebaby_cli.errors import OutOfMemory, out_of_memory
from dallebaby_cli.models import device as devices
from dallebaby_cli.progress import Note, Report

ON_A_CPU = 32  # pictures at a time, from which on more of them are hardly quicker
ON_A_GPU = 256  # likewise; more were not measured
SPARED = 0.2  # of a GPU's free memory: for recorded steps, products at work and the decoder
COMPILED_FROM = 25_000  # pictures that win back the minute that compiling takes on a GPU
T = TypeVar("T")


def at_a_time(shape: TransformerConfig, config: SampleConfig, device: torch.device) -> int:
    """Pictures that are drawn at a time: as `config` says, or else as many as pay and as the
    device's free memory holds."""
    if config.batch_size is not None:
        return config.batch_size
    most = ON_A_GPU if device.type == "cuda" else ON_A_CPU
    return max(1, min(most, int(devices.free_bytes(device) * (1 - SPARED) / _each(shape, config))))


def _each(shape: TransformerConfig, config: SampleConfig) -> int:
    """Bytes that one picture takes while it is drawn: keys and values, the positions that are read
    first (some twelve numbers for each of the width's), logits and random numbers."""
    rows = 1 + asks_twice(config, shape.guided)
    cached = 2 * 4 * shape.depth * shape.sequence_len * shape.dim
    first = shape.sequence_len if shape.any_order else shape.text_tokens + 1  # or codes that stay
    told = 4 * (2 * shape.near + 3) * (sum(shape.numbers) + 1)
    read = first * max(12 * 4 * shape.dim, told)
    places = AHEAD  # whose random numbers are held at a time, and in passes logits, too
    if config.steps is not None:
        decided = counts(shape.image_tokens, 0, config)
        most = max(after - before for before, after in itertools.pairwise(decided))
        places = max(AHEAD, 4 * most * (CHOICE if config.order == "confidence" else 1))
    chosen = 8 * places * sum(shape.radices)
    return rows * (cached + read + chosen)


def pays_to_compile(pictures: int, device: torch.device) -> bool:
    """Whether compiled steps win back what compiling them takes, and can be compiled here. On CPUs
    they draw 1.1 x as fast and take a minute to compile."""
    enough = device.type == "cuda" and pictures >= COMPILED_FROM
    return enough and devices.has_compiler(device)


def halving(work: Callable[[int], T], most: int, doing: str, setting: str, report: Report) -> T:
    """Do work over so many pictures at a time, over half of them where memory does not hold them,
    and so on; it is begun anew. Raises OutOfMemory if memory does not even hold one."""
    while True:
        try:
            return work(most)
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
        if most == 1:
            raise OutOfMemory(
                f"memory does not hold what {doing} one picture takes; end other programs, or take "
                "another --device"
            )
        full, most = most, most // 2
        devices.free_cached()
        report(
            Note(
                f"memory does not hold {full} pictures at a time; trying {most}, which makes the "
                f"same (--set {setting}={most})",
                "warning",
            )
        )
