"""SIGKILL in the middle of the work, then the same command again: nothing is lost or different."""

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
from conftest import make, run, start

from dallebaby_cli.store import manifest

pytestmark = pytest.mark.slow

STEPS = {"train-vae": 160, "train": 100}  # so that either takes seconds
SOAK_KILLS = 10  # with SOAK set (make soak)
FAST_SAVES = ("--set", "save_every_s=0", "--set", "precision=fp32")


@pytest.fixture
def home(prepared: Path, tmp_path: Path) -> Path:
    return shutil.copytree(prepared, tmp_path / "home")


def kill_when(process: subprocess.Popen[str], reached: Callable[[], bool]) -> None:
    """SIGKILL the process as soon as `reached` says so, which must be before it ends."""
    while not reached():
        assert process.poll() is None, f"it ended first: {process.communicate()}"
        time.sleep(0.002)
    process.kill()
    process.communicate()
    assert process.returncode == -9


def events(folder: Path) -> list[dict]:
    """log.jsonl, but for a half-written last line."""
    log = folder / "log.jsonl"
    lines = log.read_text().split("\n")[:-1] if log.exists() else []
    return [json.loads(line) for line in lines]


def last_step(folder: Path) -> int:
    return max((e["step"] for e in events(folder) if e["event"] == "step"), default=0)


def kill_and_resume(home: Path, command: str, kind: str, seed: int) -> None:
    """Train once in one go and once with kills; the weights must be equal bit for bit."""
    whole, broken = (home / kind / name for name in ("whole", "broken"))
    steps = STEPS[command]
    length = ("--steps", steps, "--set", f"eval_every={steps // 2}")
    arguments = (command, "--preset", "tiny", *FAST_SAVES, *length)
    make(home, *arguments, "--run", "whole")
    random = Random(seed)
    kills = SOAK_KILLS if os.environ.get("SOAK") else 1
    for _ in range(kills):
        moment = last_step(broken) + random.randrange(steps // (4 * kills), steps // (2 * kills))
        kill_when(
            start(home, *arguments, "--run", "broken"),
            lambda moment=moment: last_step(broken) >= moment,
        )
        assert 0 < last_step(broken) < steps - 1, "the kill must lie in the middle of the work"
        about = manifest.read(broken)
        assert about is not None and not about.complete
        assert not (broken / "model.safetensors").exists()
    run(home, *arguments, "--run", "broken")
    resumed = [e["step"] for e in events(broken) if e["event"] == "resume"]
    assert len(resumed) == kills and all(step > 0 for step in resumed), "it went on, not anew"
    for weights in ("model.safetensors", "config.json"):
        assert (broken / weights).read_bytes() == (whole / weights).read_bytes()


def test_a_killed_train_vae_goes_on_bit_for_bit(home: Path) -> None:
    kill_and_resume(home, "train-vae", "vae", seed=1)


def test_a_killed_train_goes_on_bit_for_bit(trained: Path, tmp_path: Path) -> None:
    kill_and_resume(shutil.copytree(trained, tmp_path / "home"), "train", "dalle", seed=2)


def test_a_killed_encode_keeps_its_finished_shards(trained: Path, tmp_path: Path) -> None:
    home = shutil.copytree(trained, tmp_path / "home")
    small = ("--set", "views=1", "--set", "shard_pictures=8", "--set", "batch_size=8")
    arguments = ("encode", *small)
    make(home, *arguments)
    folder = home / "tokens" / "shapes@v"
    whole = {p.name: p.read_bytes() for p in folder.glob("*.arrow")}
    identity = manifest.find(home, "tokens", "shapes@v")[1].id
    assert 40 < len(whole) <= 50
    shutil.rmtree(folder)

    moment = Random(3).randrange(5, 30)
    kill_when(start(home, *arguments), lambda: len([*folder.glob("*.arrow")]) >= moment)
    before = {p: p.stat().st_mtime_ns for p in folder.glob("*.arrow")}
    assert moment <= len(before) < len(whole), "the kill must lie in the middle of the work"
    about = manifest.read(folder)
    assert about is not None and not about.complete
    run(home, *arguments)
    assert {p: p.stat().st_mtime_ns for p in before} == before, "finished shards stay as they are"
    assert {p.name: p.read_bytes() for p in folder.glob("*.arrow")} == whole
    assert manifest.find(home, "tokens", "shapes@v")[1].id == identity
