"""Pictures as tensors, uint8 (B, 3, H, W), and as arrays, uint8 (B, H, W, 3)."""

import numpy as np
import torch
from torch import Tensor


def to_numpy(pictures: Tensor) -> np.ndarray:
    """uint8 (B, 3, H, W) on any device → uint8 (B, H, W, 3)."""
    return pictures.permute(0, 2, 3, 1).contiguous().cpu().numpy()


def stack_rows(*rows: Tensor) -> np.ndarray:
    """Pictures (B, 3, H, W) of each row, in the order that a grid of B columns wants them."""
    return to_numpy(torch.cat(rows))


def to_tensor(pictures: np.ndarray) -> Tensor:
    """uint8 (B, H, W, 3) → uint8 (B, 3, H, W), sharing memory"""
    return torch.from_numpy(pictures).permute(0, 3, 1, 2)
