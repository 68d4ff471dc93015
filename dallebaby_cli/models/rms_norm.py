"""The norm that every branch of a transformer begins with."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class RMSNorm(nn.Module):
    """x / rms(x) over the last dimension, scaled by a weight of that shape (Zhang & Sennrich 2019).
    On a CPU of few operations: there torch's own takes twice as long, most of all for one position.
    On a GPU it is one operation in place of five."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(shape))

    def forward(self, x: Tensor) -> Tensor:
        if x.is_cuda:
            return F.rms_norm(x.float(), x.shape[-1:], eps=1e-12) * self.weight
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
        return x * (x.shape[-1] ** 0.5 / length.clamp(min=1e-6)) * self.weight
