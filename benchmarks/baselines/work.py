"""What each program of transformer_speed.py is asked for, and how it answers: one piece of work a
process, so that its peak memory is its own.

    python PROGRAM.py train|sample --grid 8 --batch 64 --precision fp32 [--guidance 3] [--no-cache]
        [--compile]
"""

import argparse
import json
import resource
import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch

DIM, DEPTH, HEADS, WORDS, CODES, TEXT = 256, 6, 4, 1000, 1000, 16
LEAST, MOST, SECONDS = 3, 30, 8.0  # turns, and how long they may take together
SLOW = 20.0  # seconds of a first turn, after which it alone counts


def asked() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("work", choices=["train", "sample"])
    parser.add_argument("--grid", type=int, default=8)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--guidance", type=float, default=1.0)
    parser.add_argument("--no-cache", action="store_true")
    parser.add_argument("--compile", action="store_true")
    return parser.parse_args()


def precision(name: str) -> AbstractContextManager[object]:
    return torch.autocast("cpu", dtype=torch.bfloat16) if name == "bf16" else nullcontext()


def answer(turn: Callable[[], object], units: int, **facts: float) -> None:
    """Print units a second by the median turn, and the process's peak memory. The first turn does
    not count, if there are others."""

    def timed() -> float:
        began = time.perf_counter()
        turn()
        return time.perf_counter() - began

    first = timed()
    times: list[float] = []
    while first < SLOW and (len(times) < LEAST or (sum(times) < SECONDS and len(times) < MOST)):
        times.append(timed())
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    rate = units / statistics.median(times or [first])
    print(json.dumps({"rate": rate, "peak_mb": peak_mb, **facts}), flush=True)


def batch(options: argparse.Namespace) -> tuple[torch.Tensor, torch.Tensor]:
    """Captions without padding (B, T) and codes (B, G²)."""
    torch.manual_seed(0)
    text = torch.randint(1, WORDS, (options.batch, TEXT))
    return text, torch.randint(CODES, (options.batch, options.grid**2))
