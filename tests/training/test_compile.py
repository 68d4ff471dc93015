"""torch.compile: taken where it makes the steps of a long run faster, and changes nothing else."""

import dataclasses
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from conftest import same
from torch import Tensor, nn
from training.test_loop import CPU, Line, LineTask

from dallebaby_cli import progress
from dallebaby_cli.config import RunConfig, TransformerConfig
from dallebaby_cli.errors import Interrupted
from dallebaby_cli.models.transformer import Transformer
from dallebaby_cli.store import manifest
from dallebaby_cli.training import checkpoint, loop, plan

STEPS = 6
CONFIG = RunConfig(batch_size=4, eval_every=100, save_every_s=0)
SHAPE = TransformerConfig(
    text_tokens=4,
    vocabulary=300,
    dim=16,
    depth=2,
    heads=2,
    dropout=0,
    codes=20,
    numbers=(4, 5),
    grid=3,
)
with_compiler = pytest.mark.skipif(
    not (shutil.which("g++") or shutil.which("clang++")), reason="needs a C++ compiler"
)


@dataclass
class Drawing(LineTask):
    """A small transformer's task, whose process is asked to stop in the middle of a step."""

    model: nn.Module = field(default_factory=lambda: Transformer(SHAPE))
    stop: int = -1

    def batch(self, step: int) -> tuple[Tensor, ...]:
        random = torch.Generator().manual_seed(step)
        shape = CONFIG.batch_size, SHAPE.image_tokens
        text = torch.randint(300, (CONFIG.batch_size, SHAPE.text_tokens), generator=random)
        return text, torch.randint(20, shape, generator=random)

    def loss(self, model: nn.Module, batch: tuple[Tensor, ...], progress: float) -> Tensor:
        if round(progress * STEPS) == self.stop:
            os.kill(os.getpid(), signal.SIGTERM)
        text_loss, image_loss = model.losses(*batch)
        return text_loss + image_loss

    def evaluate(self, model: nn.Module, pictures: range, count: int) -> dict[str, float]:
        return {"error": 0.0}


def fit(folder: Path, compiled: bool, stop: int = -1) -> dict:
    torch.manual_seed(0)
    task = Drawing(stop=stop)
    loop.fit(task, CONFIG, STEPS, folder, CPU, progress.ignore, compiled=compiled)
    saved = checkpoint.load_state(folder / "state.pt")
    assert saved is not None
    return dict(saved)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute")  # torch's own, which it hides from users
@with_compiler
def test_compiled_steps_resume_bit_for_bit_and_are_those_that_are_not(tmp_path: Path) -> None:
    whole, eager = fit(tmp_path / "whole", True), fit(tmp_path / "eager", False)
    with pytest.raises(Interrupted):
        fit(tmp_path / "broken", True, stop=3)
    assert same(fit(tmp_path / "broken", True), whole)
    assert whole["model"].keys() == eager["model"].keys()
    for name, weight in whole["model"].items():
        torch.testing.assert_close(weight, eager["model"][name], atol=2e-3, rtol=0)


class Paced(Line):
    """A model that takes so long a step, and so long a compiled one."""

    def __init__(self, before: float, after: float | None) -> None:
        super().__init__()
        self.pace, self.after = before, after

    def compile(self, *options: object, **more: object) -> None:
        self.pace = self.after

    def forward(self, x: Tensor) -> Tensor:
        if self.pace is None:
            raise RuntimeError("no working C++ compiler found")
        time.sleep(self.pace)
        return super().forward(x)


@dataclass
class PacedTask(LineTask):
    compile: bool = True


@pytest.mark.parametrize(
    ("minutes", "wanted", "before", "after", "compiled"),
    [
        (60, True, 0.05, 0.0, True),
        (60, True, 0.0, 0.05, False),
        (60, True, 0.0, None, False),
        (4, True, 0.05, 0.0, False),
        (60, False, 0.05, 0.0, False),
    ],
)
def test_a_long_run_is_compiled_if_that_makes_it_faster(
    minutes: float, wanted: bool, before: float, after: float | None, compiled: bool
) -> None:
    task = PacedTask(model=Paced(before, after), compile=wanted)
    config = RunConfig(batch_size=8, minutes=minutes)
    costs = plan.measure(task, config, CPU, may_compile=True)
    assert costs.compiled == compiled
    assert task.model.pace == before, "the model itself was left alone"


WITHOUT = """
import sys
from dallebaby_cli.app import main
from dallebaby_cli.training import plan
plan.COMPILED_FROM_S = 0.0
main(sys.argv[1:])
"""


@pytest.mark.slow
def test_without_a_compiler_a_run_goes_on_as_ever(trained: Path, tmp_path: Path) -> None:
    home = shutil.copytree(trained, tmp_path / "home")
    tiny = ("--preset", "tiny", "--steps", "4")
    nothing = {"CXX": str(tmp_path / "none"), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}
    command = [sys.executable, "-c", WITHOUT, "--home", home, "train", *tiny]
    done = subprocess.run(command, env=os.environ | nothing, capture_output=True, text=True)
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    assert ": trained" in done.stdout and re.search(r"compiled +no", done.stdout)
    folder, told = manifest.newest(home, "dalle")
    manifest.write(folder, dataclasses.replace(told, counts={**told.counts, "compiled": True}))
    longer = [*command[:-1], "8"]  # as if it had begun where there is a compiler
    done = subprocess.run(longer, env=os.environ | nothing, capture_output=True, text=True)
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    assert "going on from step 4" in done.stderr and "does not work here" in done.stderr
    assert re.search(r"compiled +no", done.stdout)
