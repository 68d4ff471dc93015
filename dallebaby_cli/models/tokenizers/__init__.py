"""Pictures to codes and back: `ImageTokenizer`, and the architectures that are one."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dallebaby_cli.config import DVAEConfig, settings
from dallebaby_cli.errors import BadInput, UsageError
from dallebaby_cli.models.tokenizers.dvae import DVAE
from dallebaby_cli.models.tokenizers.image_tokenizer import ImageTokenizer as ImageTokenizer


def build(described: Mapping[str, Any], path: Path) -> DVAE:
    """The `ImageTokenizer` that the config.json at `path` describes, not trained yet. Raises
    BadInput that names the file."""
    return DVAE(config_of(described, path))


def config_of(described: Mapping[str, Any], path: Path) -> DVAEConfig:
    """The shape in such a description, which the `architecture` named there must have. Raises
    BadInput that names the file."""
    shape = dict(described)
    architecture = shape.pop("architecture", "dvae")  # dallebaby 0.1 had no other and named none
    if architecture != "dvae":
        raise BadInput(
            f"{path} names the image tokenizer {architecture!r} and this version knows only "
            "'dvae'; use the version of dallebaby that made it"
        )
    if shape.pop("logits", None) is None and shape.get("quantizer") == "gumbel":
        shape["quantizer"] = "gumbel-free"  # which had that name until there was the other
    try:
        return settings.build(DVAEConfig, shape)
    except UsageError as error:
        raise BadInput(f"{path} describes no dVAE of this version: {error}") from error
