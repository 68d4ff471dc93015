"""What doctor says of a machine's limits and of a planned run."""

import math
from dataclasses import dataclass
from typing import Literal

import torch

from dallebaby_cli import files
from dallebaby_cli.models import device as devices
from dallebaby_cli.training.forecast import Forecast
from dallebaby_cli.training.peak import Limits

TIGHT = 0.8  # of the room there is, above which disk and memory warn
LESS_MEMORY = "take a smaller --preset, or --set accumulate=4, which is slower but learns the same"
LONG_S = 24 * 3600.0

State = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Check:
    """One row of the table."""

    name: str
    state: State
    found: str
    advice: str = ""
    """what to do, where something is wrong"""


def limits(most: Limits, device: torch.device) -> Check:
    """What it can do at most, in words."""
    rates = []
    for precision, flops in most.matmul_flops.items():
        emulated = precision == "bf16" and not devices.native_bf16(device)
        rates.append(f"{flops / 1e12:,.3g} in {precision}{' (emulated)' * emulated}")
    read = f"memory {most.read_bytes_per_s / 1e9:,.3g} GB/s read"
    return Check("limits", "ok", f"matrix products, TFLOP/s: {', '.join(rates)}; {read}")


def judge(run: Forecast, device: torch.device) -> list[Check]:
    """A row for each part of it."""
    rows = [_learning(run), _loader(run), _memory(run, device), _time(run)]
    return [*rows, _pictures(run)] if run.memorises else rows


def _learning(run: Forecast) -> Check:
    first, last = (math.inf if x is None else x for x in (run.first_loss, run.last_loss))
    found = f"loss of one batch {first:.3g} → {last:.3g}"
    if last < first:
        return Check(f"{run.stage}: learning", "ok", found)
    advice = "it should fall; look at the picture of the batch, and take a lower optim.lr"
    return Check(f"{run.stage}: learning", "fail", found, advice)


def _loader(run: Forecast) -> Check:
    share = run.loading_s / run.working_s
    found = f"a batch in {1e3 * run.loading_s:,.0f} ms, {share:.0%} of a step without it"
    if share <= 1:
        return Check(f"{run.stage}: loader", "ok", found)
    advice = "training waits for pictures; put --home on a faster disk"
    return Check(f"{run.stage}: loader", "warn", found, advice)


def _memory(run: Forecast, device: torch.device) -> Check:
    total = devices.memory_bytes(device)
    found = f"{files.human_bytes(run.memory_bytes)} of {files.human_bytes(total)}"
    if run.memory_bytes <= TIGHT * total:
        return Check(f"{run.stage}: memory", "ok", found)
    return Check(f"{run.stage}: memory", "warn", found, LESS_MEMORY)


def _pictures(run: Forecast) -> Check:
    found = f"each is seen {run.epochs:.1f} times, so the run may memorise them"
    advice = "prepare more of them, or take less time; it ends early where hold-out pictures say so"
    return Check(f"{run.stage}: pictures", "warn", found, advice)


def _time(run: Forecast) -> Check:
    share = "" if run.mfu is None else f", {run.mfu:.0%} of peak"
    found = (
        f"{run.steps:,} steps of {1e3 * run.step_s:,.0f} ms "
        f"({run.units_per_s:,.0f} {run.unit}/s{share}), each picture {run.epochs:.1f} times: "
        f"{_spoken(run.seconds)}"
    )
    if run.seconds <= LONG_S:
        return Check(f"{run.stage}: time", "ok", found)
    advice = "take a smaller --preset or fewer minutes (--set minutes=60), or a GPU"
    return Check(f"{run.stage}: time", "warn", found, advice)


def _spoken(seconds: float) -> str:
    """A time as people say it."""
    if seconds < 90:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.1f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"
