"""How far a reconstruction is from its picture: pixel by pixel, and along edges.

Shapes: B pictures, P pixels along a side.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from dallebaby_cli.config import PixelLoss

MARGIN = 0.1  # of the logit-Laplace distribution on either side of the pixels' range
SHARPEST = -5.0  # log of its smallest scale: flat areas would make it 0 and the loss infinite
SCALES = 3  # of the edges, each twice as coarse as the one before


def reconstruction(
    output: Tensor, pictures: Tensor, kind: PixelLoss, edge_weight: float = 0.0
) -> Tensor:
    """Mean over pixels of the decoder's output (B, 3 or 6, P, P) against uint8 (B, 3, P, P)."""
    output, target = output.float(), pictures.float() / 127.5 - 1
    if kind == "laplace":
        loss = logit_laplace(output, pictures)
    else:
        error = output - target
        absolute = error.abs().mean() if "l1" in kind else 0
        squared = error.square().mean() if "l2" in kind else 0
        loss = torch.as_tensor(absolute + squared)
    if edge_weight:
        loss = loss + edge_weight * edges(in_range(output, kind), target)
    return loss


def in_range(output: Tensor, kind: PixelLoss) -> Tensor:
    """The decoder's output (B, 3 or 6, P, P) as pictures (B, 3, P, P) in about [-1, 1]."""
    if kind != "laplace":
        return output
    middle = (output[:, :3].sigmoid() - MARGIN) / (1 - 2 * MARGIN)
    return 2 * middle - 1


def logit_laplace(output: Tensor, pictures: Tensor) -> Tensor:
    """Negative log-likelihood in nats a value of the logit-Laplace distribution whose location
    and log scale the output's halves are (Ramesh et al. 2021, arXiv 2102.12092, appendix A.3)."""
    location, log_scale = output.chunk(2, dim=1)
    log_scale = log_scale.clamp(min=SHARPEST)
    x = (1 - 2 * MARGIN) * (pictures.float() / 255) + MARGIN
    distance = (x.logit() - location).abs()
    return (distance / log_scale.exp() + log_scale + (2 * x * (1 - x)).log()).mean()


def edges(a: Tensor, b: Tensor) -> Tensor:
    """Mean absolute error of the differences between neighbours, right and below, at a few scales:
    a blurred edge costs more than a slightly wrong colour."""
    total = a.new_zeros(())
    for scale in range(SCALES):
        if scale:
            a, b = F.avg_pool2d(a, 2), F.avg_pool2d(b, 2)
        total = total + sum((a.diff(dim=d) - b.diff(dim=d)).abs().mean() for d in (-1, -2))
    return total / SCALES
