"""What photos_vae.py asks of every tokenizer that it did not train itself, and how they answer.

The pictures come as PICTURES.npz (uint8 B3PP, `train` and `holdout`); the rebuilt hold-out pictures
go as rebuilt.npy and slipped.npy into a folder, the figures as the last line of JSON on stdout.
"""

import argparse
import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

SLIPS = 0.1  # of the codes, replaced at random: as many as a transformer may get wrong
AT_A_TIME = 64


def slip(codes: np.ndarray, size: int) -> np.ndarray:
    """Codes, int64 of any shape, of which a share is replaced by any of `size` codes; always the
    same places."""
    random = np.random.default_rng(0)
    chosen, others = random.random(codes.shape) < SLIPS, random.random(codes.shape)
    return np.where(chosen, (others * size).astype(np.int64), codes)


def asked(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """The arguments that every program takes, beside its own."""
    parser.add_argument("pictures", type=Path)
    parser.add_argument("minutes", type=float)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--grid", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=10**9, help="at most so many")
    return parser.parse_args()


def psnr(rebuilt: np.ndarray, pictures: np.ndarray) -> float:
    """In dB, the mean over pictures (B, 3, P, P) of 0 to 255."""
    error = np.square(rebuilt.astype(np.float32) - pictures).mean((1, 2, 3))
    return float(10 * np.log10(255**2 / error.clip(min=1e-10 * 255**2)).mean())


def usage(codes: np.ndarray, size: int) -> dict[str, float]:
    """The share of the codes that occur, and their perplexity."""
    counts = np.bincount(codes.reshape(-1), minlength=size)
    shares = counts[counts > 0] / counts.sum()
    perplexity = math.exp(-(shares * np.log(shares)).sum())
    return {"codes_used": float((counts > 0).mean()), "perplexity": perplexity}


def rebuild(
    encode: Callable[[Tensor], Tensor], decode: Callable[[Tensor], Tensor], pictures: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Pictures again, uint8 (B, 3, P, P), and their codes; `encode` and `decode` take and give
    uint8 pictures and int64 codes."""
    with torch.no_grad():
        parts = torch.from_numpy(pictures).split(AT_A_TIME)
        codes = torch.cat([encode(part) for part in parts])
        return decoded(decode, codes.numpy()), codes.numpy()


def decoded(decode: Callable[[Tensor], Tensor], codes: np.ndarray) -> np.ndarray:
    """Pictures of codes, uint8 (B, 3, P, P)."""
    with torch.no_grad():
        parts = torch.from_numpy(codes).split(AT_A_TIME)
        return torch.cat([decode(part) for part in parts]).numpy()


def answer(
    encode: Callable[[Tensor], Tensor],
    decode: Callable[[Tensor], Tensor],
    size: int,
    pictures: np.ndarray,
    out: Path,
) -> dict[str, float]:
    """Write both kinds of rebuilt pictures; PSNR of both, and how the codebook is used."""
    rebuilt, codes = rebuild(encode, decode, pictures)
    slipped = decoded(decode, slip(codes, size))
    out.mkdir(parents=True, exist_ok=True)
    np.save(out / "rebuilt.npy", rebuilt)
    np.save(out / "slipped.npy", slipped)
    far = {"psnr": psnr(rebuilt, pictures), "slipped_psnr": psnr(slipped, pictures)}
    return {**far, **usage(codes, size)}


def say(**facts: float) -> None:
    """A line of JSON."""
    print(json.dumps(facts), flush=True)
