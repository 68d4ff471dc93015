"""Figures that say how good a model is, each from its textbook definition, and in fp32 whatever
precision the model runs in: bf16 has three digits."""

import math
from collections.abc import Callable, Iterable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from dallebaby_cli.models import device as devices


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of uint8 pictures (B, 3, H, W), one value (B,) each.
    Equal pictures give 100 dB rather than infinity, so that means stay finite."""
    error = (a.float() - b.float()).square().flatten(1).mean(1)
    return (20 * math.log10(255) - 10 * error.clamp(min=255**2 * 1e-10).log10()).cpu()


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Structural similarity of uint8 pictures (B, 3, H, W), one value (B,) each: 1 if equal.

    Wang et al. 2004: Gaussian windows of 11 x 11 pixels (fewer if the picture is smaller) and
    sigma 1.5 wherever they fit, each channel by itself."""
    with devices.autocast(a.device, "fp32"):
        return _ssim(a.float(), b.float()).cpu()


def _ssim(x: Tensor, y: Tensor) -> Tensor:
    size = min(11, *(side - 1 + side % 2 for side in x.shape[2:]))
    bell = torch.exp(-0.5 * ((torch.arange(size, device=x.device) - size // 2) / 1.5).square())
    window = (bell / bell.sum()).outer(bell / bell.sum()).expand(3, 1, size, size)

    def mean(values: Tensor) -> Tensor:
        return F.conv2d(values, window, groups=3)

    mean_x, mean_y = mean(x), mean(y)
    variances = mean(x * x) - mean_x**2 + mean(y * y) - mean_y**2
    covariance = mean(x * y) - mean_x * mean_y
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    likeness = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    likeness = likeness / ((mean_x**2 + mean_y**2 + c1) * (variances + c2))
    return likeness.flatten(1).mean(1)


def detail(pictures: Tensor) -> Tensor:
    """Fine detail of uint8 pictures (B, 3, H, W): the mean square by which pixels differ from the
    mean of the 3 x 3 around them, one value (B,) each. Less of it than in the real picture is blur,
    more is noise."""
    x = pictures.float()
    fine = x - F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    return fine.square().flatten(1).mean(1).cpu()


def code_counts(codes: Tensor | np.ndarray, size: int) -> np.ndarray:
    """How often each of `size` codes occurs, int64 (size,)."""
    return np.bincount(np.asarray(codes).reshape(-1).astype(np.int64), minlength=size)


def perplexity(counts: np.ndarray) -> float:
    """2 to the entropy of the codes: how many are in use, weighing each by how much."""
    share = counts[counts > 0] / counts.sum()
    return float(2 ** -(share * np.log2(share)).sum())


def unigram_bits(train: np.ndarray, holdout: np.ndarray) -> float:
    """Bits per code that knowing only each code's frequency in training costs on hold-out, from
    counts (K,) each, add-one smoothed: a model that is not below this has learned nothing."""
    share = (train + 1) / (train.sum() + len(train))
    return float(-(holdout * np.log2(share)).sum() / holdout.sum())


def nearest(
    codes: Tensor,
    known: Iterable[np.ndarray],
    progress: Callable[[int], None] = lambda done: None,
) -> tuple[np.ndarray, np.ndarray]:
    """For each grid of codes (A, N), the smallest share of places in which it differs from any of
    the known ones (B, N), given some at a time: 0 is a copy. float32 (A,), and which of them that
    is, int64 (A,), the first of several; `progress` is told how many are compared."""
    least = torch.full((len(codes),), torch.inf, device=codes.device)
    place = torch.zeros(len(codes), dtype=torch.long, device=codes.device)
    done = 0
    with devices.autocast(codes.device, "fp32"):  # exact: there are at most 65,536 codes
        for part in known:
            others = torch.from_numpy(part.astype(np.float32)).to(codes.device)
            differ, column = torch.cdist(codes.float(), others, p=0).min(1)
            place = torch.where(differ < least, column + done, place)
            least = torch.minimum(least, differ)
            done += len(part)
            progress(done)
    return (least / codes.shape[1]).cpu().numpy(), place.cpu().numpy()
