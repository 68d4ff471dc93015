"""How good a model is on the hold-out pictures: what training tells as it goes, and `evaluate` says
of the finished one."""

import math

import numpy as np
import torch
from torch import Tensor

from dallebaby_cli.models.tokenizers import ImageTokenizer
from dallebaby_cli.models.transformer import Transformer
from dallebaby_cli.quality import metrics
from dallebaby_cli.training.batches import Captioned, Pictures

BITS = 1 / np.log(2)
REBUILT = 64  # pictures at a time


def transformer(
    model: Transformer, holdout: Captioned, count: int, batch_size: int
) -> dict[str, float]:
    """Bits per code and per caption token of a sample of `count` pictures, one caption each."""
    device = next(model.parameters()).device
    sample, sums = holdout.sample(count), np.zeros(2)
    for indices in _batches(sample, batch_size):
        text, codes = (t.to(device) for t in holdout.read_to_score(indices))
        parts = model.losses(text, codes)
        sums += np.array([part.item() for part in parts]) * len(indices)
    text_bits, code_bits = sums / len(sample) * BITS
    return {"bits_per_code": float(code_bits), "bits_per_caption_token": float(text_bits)}


def unigram(train: Captioned, holdout: Captioned, size: int) -> float:
    """Hold-out bits per code of knowing only how often each code occurs in training."""
    return metrics.unigram_bits(_counts(train, size), _counts(holdout, size))


def _counts(pictures: Captioned, size: int) -> np.ndarray:
    total = np.zeros(size, np.int64)
    for codes in pictures.codes():
        total += metrics.code_counts(codes, size)
    return total


def _batches(indices: np.ndarray, batch_size: int) -> list[np.ndarray]:
    return np.array_split(indices, -(-len(indices) // batch_size))


def reconstruction(
    model: ImageTokenizer, holdout: Pictures, count: int, batch_size: int
) -> dict[str, float]:
    """PSNR in dB of a sample of `count` pictures (beside it, that of one flat colour for each),
    SSIM, the share of their fine detail that is left, and how the codebook is used by all codes
    that were seen; bits are those of an ideal code for the codes' frequencies.
    """
    scores, counts = [], np.zeros(model.codes, np.int64)
    for indices in _batches(holdout.sample(count), batch_size):
        pictures = holdout.read(indices).to(model.device)
        codes = model.encode(pictures)
        rebuilt = model.decode(codes)
        flat = pictures.float().mean((2, 3), keepdim=True).expand(pictures.shape)
        judged = [metrics.psnr(rebuilt, pictures), metrics.ssim(rebuilt, pictures)]
        judged += [metrics.psnr(flat, pictures)]
        scores.append(torch.stack([*judged, metrics.detail(rebuilt), metrics.detail(pictures)]))
        counts += metrics.code_counts(codes.cpu(), len(counts))
    psnr, ssim, flat_psnr, left, there = torch.cat(scores, dim=1).mean(1).tolist()
    perplexity = metrics.perplexity(counts)
    return {
        "psnr": psnr,
        "flat_psnr": flat_psnr,
        "ssim": ssim,
        "detail": left / max(there, 1e-9),
        "codes_used": float((counts > 0).mean()),
        "dead_codes": int((counts == 0).sum()),
        "codes_seen": int(counts.sum()),
        "perplexity": perplexity,
        "bits_per_image": model.grid**2 * math.log2(perplexity),
    }


@torch.no_grad()
def rebuild(model: ImageTokenizer, pictures: Tensor) -> Tensor:
    """What the tokenizer makes of pictures, uint8 (B, 3, P, P) both."""
    parts = (part.to(model.device) for part in torch.split(pictures, REBUILT))
    return torch.cat([model.decode(model.encode(part)).cpu() for part in parts])
