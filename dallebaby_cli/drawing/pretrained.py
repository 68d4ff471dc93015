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
from dallebaby_cli.errors import Mismatch, MissingInput
from dallebaby_cli.models import device as devices
from dallebaby_cli.models import tokenizers
from dallebaby_cli.models.tokenizers import ImageTokenizer
from dallebaby_cli.models.transformer import Transformer
from dallebaby_cli.progress import Note, Report
from dallebaby_cli.store import manifest, weights
from dallebaby_cli.store.codes_id import codes_id
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


def vae_folder(home: Path, run: str | None) -> Path | None:
    """That of the finished dVAE whose decoder is to paint, if one is named. Raises MissingInput."""
    return manifest.find(home, "vae", run)[0] if run else None


def from_pretrained(
    path: str | Path, device: str = "auto", vae: str | Path | None = None
) -> Sampler:
    """Load everything that drawing needs from one folder that `train` made; what is drawn is
    painted by the decoder of the dVAE in the folder `vae`, if one is given, which must make the
    same codes as the one inside.

    Raises MissingInput, BadInput or Mismatch that name the file at fault.
    """
    folder = Path(path).expanduser()
    described = weights.read_model(folder, "dalle")
    target = devices.resolve(device)
    shape = weights.shape_of(TransformerConfig, described["model"], folder / "config.json")
    model = weights.load(folder / "model.safetensors", lambda: Transformer(shape))
    model.fold()
    halve(model.to(target).eval().requires_grad_(False), target)
    painter = None if vae is None else Path(vae).expanduser()
    if painter is None:
        image_tokenizer = _image_tokenizer(described["vae"], folder / "vae.safetensors", target)
    else:
        image_tokenizer = load_image_tokenizer(painter, target)
        _require_codes(painter, folder)
    return Sampler(
        model,
        image_tokenizer,
        TextTokenizer.load(folder / "tokenizer.json", shape.vocabulary),
        weights.model_id(folder),
        weights.model_id(painter) if painter else "",
    )


def load_image_tokenizer(folder: Path, device: torch.device) -> ImageTokenizer:
    """The image tokenizer that `train-vae` made, ready to encode and decode. Raises MissingInput,
    BadInput or Mismatch that name the file at fault."""
    described = weights.read_model(folder, "vae")["model"]
    return _image_tokenizer(described, folder / "model.safetensors", device)


def _require_codes(vae: Path, model: Path) -> None:
    """Raise Mismatch if the codes of a dVAE mean something else than a transformer's."""
    if codes_id(vae) != codes_id(model):
        raise Mismatch(
            f"{vae} makes other codes than the dVAE inside {model}, so its decoder would paint "
            "something else than is drawn; take the dVAE that made the codes which that model "
            "learned, or one that has its encoder"
        )


def _image_tokenizer(
    described: Mapping[str, Any], path: Path, device: torch.device
) -> ImageTokenizer:
    """Of that description, with the weights in `path`."""
    config = path.with_name("config.json")
    model = weights.load(path, lambda: tokenizers.build(described, config))
    model.to(device).to(memory_format=torch.channels_last)
    return model.eval().requires_grad_(False)
