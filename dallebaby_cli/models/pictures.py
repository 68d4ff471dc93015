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


def to_float(pictures: Tensor, side: int) -> Tensor:
    """uint8 (B, 3, P, P) of that side → float, 0 to 255, with the channels last in memory. Raises
    ValueError for all else."""
    if pictures.dtype != torch.uint8 or pictures.shape[1:] != (3, side, side):
        raise ValueError(
            f"pictures must be uint8 (B, 3, {side}, {side}), "
            f"not {str(pictures.dtype).removeprefix('torch.')} {tuple(pictures.shape)}"
        )
    return pictures.to(memory_format=torch.channels_last).float()
