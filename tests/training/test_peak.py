"""The share of the device's peak: said where it was measured, and never more than all of it."""

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import Ran
from training.test_loop import CONFIG, CPU, LineTask
from training.test_run import finish

from dallebaby_cli import progress
from dallebaby_cli.config import settings
from dallebaby_cli.models import collectives
from dallebaby_cli.stages import train_vae
from dallebaby_cli.store import manifest
from dallebaby_cli.training import log, loop, plan
from dallebaby_cli.training.peak import bandwidth, matmul_peak


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_cpu_has_a_peak(precision: str) -> None:
    assert matmul_peak(CPU, precision) > 1e8


def test_a_cpu_reads_its_memory() -> None:
    assert 1e8 < bandwidth(CPU) < 1e13  # a tape, all of a processor's caches


def told(folder: Path, flops_per_step: float) -> list[str]:
    events: list[progress.Event] = []
    loop.fit(LineTask(), CONFIG, 20, folder, CPU, events.append, flops_per_step)
    return [e.detail for e in events if isinstance(e, progress.Progress)]


def test_a_share_is_said_and_one_that_cannot_be_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log, "matmul_peak", lambda device, precision: 1e10)
    *_, some = told(tmp_path / "some", 1e6)
    assert 0 <= int(re.search(r"(\d+)% of peak", some)[1]) <= 100
    *_, step = logged(tmp_path / "some")
    assert 0 < step["mfu"] <= 1
    assert step["mfu"] == pytest.approx(step["images_per_s"] / 8 * 1e6 / 1e10, abs=1e-4)
    *_, over = told(tmp_path / "over", 1e15)
    assert "of peak" not in over, "its yardstick was measured while others used the machine"
    assert "mfu" not in logged(tmp_path / "over")[0]
    monkeypatch.setattr(log, "matmul_peak", lambda device, precision: 0.0)
    *_, unknown = told(tmp_path / "unknown", 1e6)
    assert "of peak" not in unknown


def logged(folder: Path) -> list[dict]:
    lines = (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()
    return [row for row in map(json.loads, lines) if row["event"] == "step"]


def test_a_run_ends_with_its_share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of all its steps; none where that cannot be known."""
    monkeypatch.setattr(log, "matmul_peak", lambda device, precision: 1e6)
    done, _ = finish(tmp_path / "known", 30)
    assert 0 < done.manifest.counts["mfu"] <= 1
    monkeypatch.setattr(log, "matmul_peak", lambda device, precision: 1.0)
    assert "mfu" not in finish(tmp_path / "shared", 30)[0].manifest.counts


def test_the_model_s_operations_are_counted_and_not_its_optimizer_s() -> None:
    costs = plan.measure(LineTask(), CONFIG, CPU)
    forward = 2 * 8 * 4  # of 8 pictures, a product with the 4 numbers of a layer
    assert costs.flops_per_step == 2 * forward, "and as much for the gradients of the weights"


def test_a_rank_counts_its_own_share_of_a_step(
    prepared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So the share of peak is of one device, however many work on the run."""
    config = settings.load("train-vae", preset="tiny", flags={"steps": 1})
    task, _ = train_vae.prepare(prepared, config, ["shapes"], device=CPU, report=progress.ignore)
    whole = plan.measure(task, config, CPU).flops_per_step
    monkeypatch.setattr(collectives, "share", lambda: slice(1, None, 2))  # the second of two
    assert whole > 0 and plan.measure(task, config, CPU).flops_per_step == whole / 2


def test_planning_asks_for_the_random_numbers_of_no_gpu_but_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On a machine with several, forking those of all takes time, and torch warns of it."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert plan.measure(LineTask(), CONFIG, CPU).step_s > 0


@pytest.mark.slow
def test_a_finished_run_tells_its_share(
    cli: Callable[..., Ran], trained: Path, tmp_path: Path
) -> None:
    home = shutil.copytree(trained, tmp_path / "home")
    folder, about = manifest.find(home, "dalle", "d")
    manifest.write(folder, replace(about, counts={**about.counts, "mfu": 0.4321}))
    again = ("--home", home, "train", "--preset", "tiny", "--steps", 4, "--run", "d")
    assert re.search(r"MFU +43\.2% of this device's measured peak", cli(*again).out)
    assert json.loads(cli(*again, "--json").out)["mfu"] == 0.4321
