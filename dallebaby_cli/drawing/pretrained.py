"""Load finished models from their folders, and find the one that is to draw.

from dallebaby_cli import from_pretrained
pictures = from_pretrained("dallebaby/dalle/RUN").generate("a red car", n=8, seed=1)
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from dallebaby_cli.config import TransformerConfig
from dallebaby_cli.drawing.half_precision import halve
from dallebaby_cli.drawing.sampler import Sampler
from dallebaby_cli.errors import MissingInput
from dallebaby_cli.models import device as devices
from dallebaby_cli.models import tokenizers
from dallebaby_cli.models.tokenizers import ImageTokenizer
from dallebaby_cli.models.transformer import Transformer
from dallebaby_cli.progress import Note, Report
from dallebaby_cli.store import manifest, weights
from dallebaby_cli.store.text_tokenizer import TextTokenizer

BABY = Path(__file__).parents[1] / "baby"  # the model that comes with the package: `make baby`


def model_folder(home: Path, chosen: Path | None, report: Report) -> Path:
    """The model that is to draw: the chosen one, else the one that was trained last, else the baby
    inside the package. Raises MissingInput."""
    if chosen:
        return chosen
    try:
        return manifest.newest(home, "dalle")[0]
    except MissingInput:
        if not BABY.exists():
            raise
    text = (
        "no model trained here yet: the baby inside dallebaby draws; `dallebaby demo` trains yours"
    )
    report(Note(text))
    return BABY


def from_pretrained(path: str | Path, device: str = "auto") -> Sampler:
    """Load everything that drawing needs from one folder that `train` made.

    Raises MissingInput, BadInput or Mismatch that name the file at fault.
    """
    folder = Path(path).expanduser()
    described = weights.read_model(folder, "dalle")
    target = devices.resolve(device)
    shape = weights.shape_of(TransformerConfig, described["model"], folder / "config.json")
    model = weights.load(folder / "model.safetensors", lambda: Transformer(shape))
    halve(model.to(target).eval().requires_grad_(False), target)
    return Sampler(
        model,
        _image_tokenizer(described["vae"], folder / "vae.safetensors", target),
        TextTokenizer.load(folder / "tokenizer.json", shape.vocabulary),
        weights.model_id(folder),
    )


def load_image_tokenizer(folder: Path, device: torch.device) -> ImageTokenizer:
    """The image tokenizer that `train-vae` made, ready to encode and decode. Raises MissingInput,
    BadInput or Mismatch that name the file at fault."""
    described = weights.read_model(folder, "vae")["model"]
    return _image_tokenizer(described, folder / "model.safetensors", device)


def _image_tokenizer(
    described: Mapping[str, Any], path: Path, device: torch.device
) -> ImageTokenizer:
    """Of that description, with the weights in `path`."""
    config = path.with_name("config.json")
    model = weights.load(path, lambda: tokenizers.build(described, config))
    model.to(device).to(memory_format=torch.channels_last)
    return model.eval().requires_grad_(False)
