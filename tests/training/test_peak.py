"""The share of the device's peak: said where it was measured, and never more than all of it."""

import re
from pathlib import Path

import pytest
import torch
from training.test_loop import CONFIG, CPU, LineTask

from dallebaby_cli import progress
from dallebaby_cli.training import log, loop
from dallebaby_cli.training.peak import matmul_peak


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_cpu_has_a_peak(precision: str) -> None:
    assert matmul_peak(CPU, precision) > 1e8


def told(folder: Path, flops_per_step: float) -> list[str]:
    events: list[progress.Event] = []
    loop.fit(LineTask(), CONFIG, 20, folder, CPU, events.append, flops_per_step)
    return [e.detail for e in events if isinstance(e, progress.Progress)]


def test_a_share_is_said_and_one_that_cannot_be_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log, "matmul_peak", lambda device, precision: 1e12)
    *_, some = told(tmp_path / "some", 1e6)
    assert 0 <= int(re.search(r"(\d+)% of peak", some)[1]) <= 100
    *_, over = told(tmp_path / "over", 1e15)
    assert "of peak" not in over, "its yardstick was measured while others used the machine"
    monkeypatch.setattr(log, "matmul_peak", lambda device, precision: 0.0)
    *_, unknown = told(tmp_path / "unknown", 1e6)
    assert "of peak" not in unknown


def test_planning_asks_for_the_random_numbers_of_no_gpu_but_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On a machine with several, forking those of all takes time, and torch warns of it."""
    from dallebaby_cli.training import plan

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert plan.measure(LineTask(), CONFIG, CPU).step_s > 0
