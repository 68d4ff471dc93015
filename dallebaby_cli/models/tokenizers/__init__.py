"""Pictures to codes and back: `ImageTokenizer`, and the architectures that are one."""

from collections.abc import Mapping
from typing import Any

from dallebaby_cli.config import DVAEConfig, settings
from dallebaby_cli.errors import BadInput
from dallebaby_cli.models.tokenizers.dvae import DVAE
from dallebaby_cli.models.tokenizers.image_tokenizer import ImageTokenizer as ImageTokenizer


def build(described: Mapping[str, Any]) -> DVAE:
    """The `ImageTokenizer` that config.json describes, not trained yet: of the `architecture`
    named there, and of the shape that the other entries are. Raises BadInput or UsageError."""
    shape = dict(described)
    architecture = shape.pop("architecture", "dvae")  # dallebaby 0.1 had no other and named none
    if architecture == "dvae":
        return DVAE(settings.build(DVAEConfig, shape))
    raise BadInput(
        f"this dallebaby knows no image tokenizer {architecture!r}, only 'dvae'; use the version "
        "that made the model"
    )
