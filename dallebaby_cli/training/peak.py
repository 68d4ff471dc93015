"""The yardstick of "share of peak": how fast large matrix products are on this device."""

import math
import time

import torch

from dallebaby_cli.models import device as devices

SMALLEST, LARGEST = 1024, 8192  # sides of the matrices
LONG_S = 0.05  # that one measurement takes at least: many times a launch and a clock's tick
REPEATS = 4  # of which the fastest counts: others may use the machine
GAIN = 1.05  # a larger side must be so much faster to be worth the next one
PATIENCE_S = 1.0


def matmul_peak(device: torch.device, precision: devices.Precision) -> float:
    """Floating-point operations a second of matrix products in the precision of training, large
    enough that launching them takes no time that counts; 0 if the clock could not tell."""
    best, side, end = 0.0, SMALLEST, time.monotonic() + PATIENCE_S
    with devices.autocast(device, precision), torch.no_grad():
        while side <= LARGEST:
            found = _rate(device, side, end)
            best, before = max(best, found), best
            if found < GAIN * before or time.monotonic() > end:
                break
            side *= 2
    return best


def _rate(device: torch.device, side: int, end: float) -> float:
    """Operations a second of products of that size, several of them in a row without a wait."""
    a = torch.randn(side, side, device=device)
    seconds = _seconds(a, 1)  # warms up, too
    count = max(1, math.ceil(LONG_S / max(_seconds(a, 1), 1e-9)))
    seconds = _seconds(a, count)
    for _ in range(REPEATS - 1):
        if time.monotonic() > end:
            break
        seconds = min(seconds, _seconds(a, count))
    return 2 * side**3 * count / seconds if seconds > 0 else 0.0


def _seconds(a: torch.Tensor, count: int) -> float:
    """Of so many products, from the first launch to the last result."""
    began = time.perf_counter()
    for _ in range(count):
        product = a @ a
    product[0, 0].item()  # waits for the device
    return time.perf_counter() - began
