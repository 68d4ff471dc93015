"""What this device can do at most, measured: how fast large matrix products are, the yardstick of
"share of peak" (MFU), and how fast memory is read, that of drawing (MBU)."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from dallebaby_cli.models import device as devices

SMALLEST, LARGEST = 1024, 8192  # sides of the matrices
READ = {"cuda": 2**30, "cpu": 2**28, "mps": 2**28}  # bytes: far more than caches hold
LONG_S = 0.05  # that one measurement takes at least: many times a launch and a clock's tick
REPEATS = 4  # of which the fastest counts: others may use the machine
GAIN = 1.05  # a larger side must be so much faster to be worth the next one
PATIENCE_S = 1.0


@dataclass(frozen=True)
class Limits:
    """What a device can do at most."""

    matmul_flops: dict[devices.Precision, float]
    """operations a second of matrix products, by precision"""
    read_bytes_per_s: float


def limits(device: torch.device) -> Limits:
    """All of them, measured: in fp32, in bf16 (which MPS has on some systems only), and in what
    `auto` is."""
    known: tuple[devices.Precision, ...] = ("fp32",) if device.type == "mps" else ("fp32", "bf16")
    precisions = dict.fromkeys((*known, devices.resolve_precision(device, "auto")))
    return Limits({p: matmul_peak(device, p) for p in precisions}, bandwidth(device))


def matmul_peak(device: torch.device, precision: devices.Precision) -> float:
    """Floating-point operations a second of matrix products in the precision of training, large
    enough that launching them takes no time that counts; 0 if the clock could not tell."""
    best, side, end = 0.0, SMALLEST, time.monotonic() + PATIENCE_S
    with devices.autocast(device, precision), torch.no_grad():
        while side <= LARGEST:
            a = torch.randn(side, side, device=device)
            found = _rate(partial(torch.matmul, a, a), 2 * side**3, end)
            best, before = max(best, found), best
            if found < GAIN * before or time.monotonic() > end:
                break
            side *= 2
    return best


def bandwidth(device: torch.device) -> float:
    """Bytes a second that the device reads from its memory, of a tensor that no cache holds; 0 if
    the clock could not tell."""
    size = min(READ[device.type], devices.memory_bytes(device) // 16)
    a = torch.ones(size // 4, device=device)
    return _rate(a.sum, a.nbytes, time.monotonic() + PATIENCE_S)


def _rate(work: Callable[[], Tensor], amount: float, end: float) -> float:
    """How much of it is done in a second, by several in a row without a wait."""
    seconds = _seconds(work, 1)  # warms up, too
    count = max(1, math.ceil(LONG_S / max(_seconds(work, 1), 1e-9)))
    seconds = _seconds(work, count)
    for _ in range(REPEATS - 1):
        if time.monotonic() > end:
            break
        seconds = min(seconds, _seconds(work, count))
    return amount * count / seconds if seconds > 0 else 0.0


def _seconds(work: Callable[[], Tensor], count: int) -> float:
    """From the first of so many launches to the last result."""
    began = time.perf_counter()
    for _ in range(count):
        result = work()
    result.flatten()[0].item()  # waits for the device
    return time.perf_counter() - began
