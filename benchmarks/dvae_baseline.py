"""Our dVAE beside DALLE-pytorch's: the same pictures, grid and number of codes, the same minutes on
the same cores, one after the other; then images a second at equal parameters.

The baseline has the settings of its own train_vae.py (8 pictures a step, Adam at 1e-3 decaying by
0.98 every 100 steps, hidden 256, 2 residual blocks, temperature from 1) in an environment of its
own (uv); scoring does not count as its time, but does as ours. Ours is preset `scenes` at its
minutes.

    python benchmarks/dvae_baseline.py [HOME] [--minutes 10]
"""

import argparse
import json
import os
import subprocess
from dataclasses import replace
from pathlib import Path

import baseline_environment
import dvae_runs
import matplotlib
import numpy as np
import torch

from dallebaby_cli.config import DVAEConfig
from dallebaby_cli.config.settings import load
from dallebaby_cli.models.tokenizers.dvae import DVAE
from dallebaby_cli.stages.train_vae import VaeTask
from dallebaby_cli.store.shards import Shards
from dallebaby_cli.training import plan
from dallebaby_cli.training.batches import Pictures

BASELINE = Path(__file__).parent / "baselines" / "dalle_pytorch_vae.py"
PICTURES = 70_000  # of which 5 % are held out: over 200,000 codes on an 8 x 8 grid


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("home", nargs="?", type=Path, default=Path("experiments"))
    parser.add_argument("--minutes", type=float, default=10)
    options = parser.parse_args()
    home, minutes = options.home, options.minutes
    images = home / "images" / "scenes64-many"
    if not images.exists():
        command = ["prep", "scenes", "--name", images.name, "--px", "64"]
        subprocess.run([*dvae_runs.CHILD, home, *command, "--limit", str(PICTURES)], check=True)
    baseline = run_baseline(home, images, minutes)
    ours = run_ours(home, images.name, minutes)
    print("\n| | parameters | pictures seen | PSNR dB | codes used | perplexity |")
    print("|---|---|---|---|---|---|")
    for name, curve in (("dallebaby", ours), ("DALLE-pytorch", baseline)):
        last = curve[-1]
        print(
            f"| {name} | {last['parameters'] / 1e6:.2f} M | {last['seen']:,} | {last['psnr']:.1f} "
            f"| {last['codes_used']:.0%} | {last['perplexity']:.0f} |"
        )
    draw(home / "dvae-baseline.png", ours, baseline)
    print("\n| parameters | batch | dallebaby images/s | DALLE-pytorch images/s | ratio |")
    print("|---|---|---|---|---|")
    for speed in (point for point in baseline if "speed" in point):
        for batch, theirs in speed["speed"].items():
            parameters, mine = our_speed(images, speed["parameters"], int(batch))
            print(
                f"| {parameters / 1e6:.2f} M, {speed['parameters'] / 1e6:.2f} M | {batch} "
                f"| {mine:.1f} | {theirs:.1f} | {mine / theirs:.1f} |"
            )


def run_baseline(home: Path, images: Path, minutes: float) -> list[dict]:
    """Train the baseline; its points in time."""
    source = [Shards(images)]
    data = home / "baseline-pictures.npz"
    if not data.exists():
        parts = {side: Pictures(source, side) for side in ("train", "holdout")}
        arrays = {side: part.read(np.arange(len(part))).numpy() for side, part in parts.items()}
        np.savez(data, train=arrays["train"], holdout=arrays["holdout"])
    python = baseline_environment.python(home)
    log = home / "baseline.jsonl"
    with log.open("w") as lines:
        subprocess.run(
            [python, "-W", "ignore", BASELINE, data, str(minutes)], stdout=lines, check=True
        )
    return [
        json.loads(line)
        for line in log.read_text(encoding="utf-8").splitlines()
        if line.startswith("{")
    ]


def run_ours(home: Path, name: str, minutes: float) -> list[dict]:
    """Train ours; its points in time, starting where the run's first line was written."""
    config = load("train-vae", preset="scenes", settings=["model.image_px=64", "model.grid=8"])
    settings = ("eval_every=1500", "eval_images=4000")
    run = dvae_runs.Run("ours-beside-baseline", name, minutes, settings)
    outcome = dvae_runs.train(home, run, threads=os.cpu_count() or 1)
    events = outcome.events
    scored = [event for event in events if event["event"] == "evaluation"]
    parameters = sum(p.numel() for p in DVAE(config.model).parameters())
    return [
        {
            **event,
            "parameters": parameters,
            "seconds": event["time"] - scored[0]["time"],
            "seen": event["step"] * config.batch_size,
        }
        for event in scored
    ]


def our_speed(images: Path, parameters: int, batch: int) -> tuple[int, float]:
    """Parameters nearest to the baseline's, and images a second of whole steps."""
    config = load("train-vae", preset="scenes", settings=["model.image_px=64", "model.grid=8"])
    widths = range(16, 512, 8)
    sizes = {width: size_of(replace(config.model, width=width)) for width in widths}
    width = min(sizes, key=lambda width: abs(sizes[width] - parameters))
    model = replace(config.model, width=width)
    config = replace(config, model=model, batch_size=batch, steps=1)
    source = [Shards(images)]
    task = VaeTask(DVAE(model), Pictures(source, "train"), Pictures(source, "holdout"), config)
    return sizes[width], batch / plan.measure(task, config, torch.device("cpu"), None).step_s


def size_of(config: DVAEConfig) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in DVAE(config).parameters())


def draw(path: Path, ours: list[dict], baseline: list[dict]) -> None:
    """PSNR and codes used over time."""
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    for name, curve in (("dallebaby", ours), ("DALLE-pytorch", baseline)):
        points = [point for point in curve if "psnr" in point]
        minutes = [point["seconds"] / 60 for point in points]
        axes[0].plot(minutes, [point["psnr"] for point in points], marker=".", label=name)
        axes[1].plot(minutes, [100 * point["codes_used"] for point in points], marker=".")
    axes[0].set(xlabel="minutes", ylabel="hold-out PSNR, dB")
    axes[1].set(xlabel="minutes", ylabel="codes used, %", ylim=(0, 100))
    axes[0].legend()
    figure.savefig(path, dpi=100)


if __name__ == "__main__":
    main()
