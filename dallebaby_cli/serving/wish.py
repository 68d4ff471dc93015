"""A request's fields → what is to be drawn, each of them checked. Both APIs come through here."""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np

from dallebaby_cli.config import SampleConfig, settings
from dallebaby_cli.drawing import fitting
from dallebaby_cli.drawing.sampler import Sampler
from dallebaby_cli.errors import UsageError
from dallebaby_cli.serving import start
from dallebaby_cli.serving.models import Known, Models
from dallebaby_cli.serving.refused import Refused
from dallebaby_cli.serving.start import Start
from dallebaby_cli.text import one_line

MOST_N = 16  # pictures of one request
LONGEST = 4000  # letters of a prompt
SAMPLING = [field.name for field in fields(SampleConfig) if field.name != "batch_size"]
FIELDS = {"prompt", "n", "seed", "model", "keep", *SAMPLING}
"""What both APIs know, by the names that a picture's settings have."""


@dataclass(frozen=True, eq=False)
class Wish:
    """What is to be drawn, with what."""

    prompt: str
    n: int
    seed: int
    """of the first picture; each takes the next one"""
    model: Known
    sampler: Sampler
    config: SampleConfig
    start: Start | None = None

    @property
    def alike(self) -> object:
        """Equal for wishes that can be drawn together."""
        return self.model.id, self.config, self.start and self.start.id

    @cached_property
    def at_a_time(self) -> int:
        """Pictures that are drawn together at most."""
        return fitting.at_a_time(self.sampler.model.config, self.config, self.sampler.device)

    @cached_property
    def unknown(self) -> list[str]:
        """Words that the model has seldom or never met."""
        return self.sampler.text_tokenizer.rare_words(self.read or self.prompt)

    @cached_property
    def read(self) -> str | None:
        """What the model reads of a prompt that is too long for it; None if it is not."""
        return self.sampler.text_tokenizer.cut(self.prompt, self.sampler.model.config.text_tokens)


def wish(
    given: Mapping[str, Any],
    models: Models,
    usual: SampleConfig,
    *,
    most_n: int = MOST_N,
    image: bytes | None = None,
    mask: object = None,
) -> Wish:
    """What the fields ask for; `image` is a picture file to begin with, `mask` what is to be drawn
    anew of it: texts of digits, or a PNG. Loads the model. Raises Refused, or as loading does."""
    prompt, name = given.get("prompt"), given.get("model")
    if not isinstance(prompt, str) or not one_line(prompt):
        raise Refused(400, 'prompt: say what to draw, such as "a red car"', "prompt")
    if len(prompt) > LONGEST:
        raise Refused(400, f"prompt: has over {LONGEST:,} letters; say it shorter", "prompt")
    if not isinstance(name, str | None):
        raise Refused(400, "model: must be text", "model")
    n = _whole(given, "n", 1, most_n)
    seed = _whole(given, "seed", 0, 2**63 - most_n)
    keep = _whole(given, "keep", 1, 2**16)
    try:
        chosen = {key: given[key] for key in SAMPLING if given.get(key) is not None}
        config = settings.build(SampleConfig, {**settings.as_dict(usual), **chosen})
    except UsageError as error:
        text = str(error)
        raise Refused(400, text, text.partition("=")[0]) from None
    model = models.find(name)
    sampler = models.load(model)
    sampler.require(config)
    if image is None and (mask is not None or keep is not None):
        raise Refused(400, "keep and mask are for a picture to begin with; give one", "image")
    begun = None
    if image is not None:
        if mask is not None and keep is not None:
            raise Refused(400, "give keep or a mask, not both", "mask")
        begun = start.start(image, sampler, keep, _mask(mask, image, model.grid, keep))
    return Wish(
        one_line(prompt),
        1 if n is None else n,
        secrets.randbelow(2**31) if seed is None else seed,
        model,
        sampler,
        config,
        begun,
    )


def _mask(mask: object, image: bytes, grid: int, keep: int | None) -> np.ndarray | None:
    """The mask that was said, or the transparency of a picture of which nothing else is said."""
    if isinstance(mask, bytes):
        if (found := start.from_transparency(mask, grid, "mask")) is None:
            said = "the mask has no transparency; make it transparent where to draw anew"
            raise Refused(400, said, "mask")
        return found
    if mask is not None:
        return start.from_rows(mask if isinstance(mask, list) else [], grid)
    png = image.startswith(b"\x89PNG")
    return start.from_transparency(image, grid, "image") if keep is None and png else None


def _whole(given: Mapping[str, Any], name: str, least: int, most: int) -> int | None:
    """A whole number, typed or as text; None if it is not said. Raises Refused."""
    value = given.get(name)
    if value is None:
        return None
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 20:
        value = int(value)
    if type(value) is not int or not least <= value <= most:
        raise Refused(400, f"{name}: must be a whole number from {least:,} to {most:,}", name)
    return value
