"""Codes that a transformer reads wrongly while it learns, as it will read its own slips."""

import torch
from torch import Tensor

from dallebaby_cli.config import TransformerConfig

QUIET = 0.75  # of a run, after which a model reads all codes as they are


def slipped(codes: Tensor, config: TransformerConfig, progress: float) -> Tensor:
    """Codes (B, N), some of which are others, of each picture another share: the fewer, the more of
    a training (0 to 1) is over."""
    most = config.trials.noise * max(0.0, 1 - progress / QUIET)
    if not most:
        return codes
    lost = torch.rand(codes.shape, device=codes.device)
    lost = lost < most * torch.rand(len(codes), 1, device=codes.device)
    return torch.where(lost, torch.randint_like(codes, config.codes), codes)
