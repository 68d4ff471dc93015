"""What the experiments on the dVAE share: datasets, and `train-vae` runs in processes of their own.

Runs of one core each go side by side, as many as there are cores; so all of them are slowed alike.
"""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CHILD = [sys.executable, str(Path(__file__)), "--home"]


@dataclass(frozen=True)
class Run:
    """One `train-vae`: its name, its dataset and its settings."""

    name: str
    data: str
    minutes: float
    settings: tuple[str, ...] = ()
    sgd: bool = False
    """plain SGD with momentum 0.9 in place of the tool's own optimizers"""


@dataclass(frozen=True)
class Outcome:
    """What a run came to: the figures of its last evaluation, and the warnings that it gave."""

    folder: Path
    figures: dict[str, Any]
    warnings: list[str]

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.folder / "log.jsonl").read_text().splitlines()]


def prepare(home: Path, name: str, source: str, px: int) -> None:
    """`dallebaby prep`, which does nothing where that is done already."""
    subprocess.run([*CHILD, home, "prep", source, "--name", name, "--px", str(px)], check=True)


def train(home: Path, run: Run, threads: int) -> Outcome:
    """One run, on so many cores."""
    command: list[object] = [*CHILD, home, "train-vae", run.data, "--run", run.name]
    command += ["--preset", "scenes", "--minutes", str(run.minutes)]
    for setting in run.settings:
        command += ["--set", setting]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "SGD": "1" if run.sgd else ""}
    done = subprocess.run(
        [str(word) for word in command],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    folder = home / "vae" / run.name
    log = folder / "log.jsonl"
    events = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    figures: dict[str, Any] = {}
    for event in events:
        if event["event"] == "evaluation":
            figures = event
    warnings = [event["text"] for event in events if event["event"] == "warning"]
    if done.returncode:
        warnings.append(done.stderr.strip().splitlines()[-1])
    print(f"{run.name}: {figures.get('psnr', float('nan')):.2f} dB", flush=True)
    return Outcome(folder, figures, warnings)


def train_side_by_side(home: Path, runs: Sequence[Run]) -> list[Outcome]:
    """All runs, one core each."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(lambda run: train(home, run, threads=1), runs))


def _use_sgd() -> None:
    """Let the loop step with SGD; what is not measured elsewhere is no option of the tool."""
    import torch

    from dallebaby_cli.config import OptimConfig
    from dallebaby_cli.training import optim

    def build(model: torch.nn.Module, config: OptimConfig) -> optim.Optimizers:
        return optim.Optimizers([torch.optim.SGD(model.parameters(), config.lr, momentum=0.9)])

    optim.build = build


if __name__ == "__main__":
    if os.environ.get("SGD"):
        _use_sgd()
    from dallebaby_cli.app import main

    main(sys.argv[1:])
