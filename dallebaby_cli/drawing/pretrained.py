"""Load finished models from their folders."""

from pathlib import Path

import torch

from dallebaby_cli.config import DVAEConfig, settings
from dallebaby_cli.models.tokenizers.dvae import DVAE
from dallebaby_cli.store import weights


def load_dvae(folder: Path, device: torch.device) -> DVAE:
    """A finished dVAE, ready to encode and decode. Raises as `read_model` and `load_weights`."""
    model = DVAE(settings.build(DVAEConfig, weights.read_model(folder, "vae")["model"]))
    weights.load_weights(folder / "model.safetensors", model)
    model.to(device).to(memory_format=torch.channels_last)
    return model.eval().requires_grad_(False)
