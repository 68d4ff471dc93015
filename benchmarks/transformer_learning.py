"""Our transformer and DALLE-pytorch's learn the same cached codes for the same minutes, side by
side on a core each, three seeds: hold-out bits a code.

Both have the same shape. The baseline has the settings of its train_dalle.py (Adam at 3e-4, norms
clipped at 0.5) at our 32 pictures a step, which suit it better here than its 4; scoring does not
count as its time, but does as ours. Ours is preset `scenes` at that shape.

    python benchmarks/transformer_learning.py [HOME] [--minutes 8] [--seeds 3]
        [--baseline-rate 3e-4]
"""

import argparse
import json
import os
import statistics
import subprocess
from pathlib import Path
from typing import Any

import baseline_environment
import dvae_runs
import matplotlib
import numpy as np

from dallebaby_cli.config import TrainConfig
from dallebaby_cli.config.settings import load
from dallebaby_cli.store import manifest
from dallebaby_cli.store.text_tokenizer import TextTokenizer
from dallebaby_cli.store.tokens import Tokens
from dallebaby_cli.training.batches import Captioned

BASELINE = Path(__file__).parent / "baselines" / "dalle_pytorch_learning.py"
PICTURES, VAE, TOKENS = "scenes64-many", "learning", "scenes64-many@learning"
SHAPE = {"dim": 256, "depth": 6, "heads": 4}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("home", nargs="?", type=Path, default=Path("experiments"))
    parser.add_argument("--minutes", type=float, default=8)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--baseline-rate", type=float, default=3e-4)
    options = parser.parse_args()
    codes = prepare(options.home)
    python = baseline_environment.python(options.home)
    ours, baselines = [], []
    for seed in range(options.seeds):
        name = f"learning-{seed}"
        command: list[object] = [*dvae_runs.CHILD, options.home, "train", TOKENS, "--run", name]
        command += ["--preset", "scenes", "--minutes", options.minutes, "--set", f"seed={seed}"]
        command += ["--set", "eval_every=200"]
        for key, value in SHAPE.items():
            command += ["--set", f"model.{key}={value}"]
        theirs = [
            python,
            "-W",
            "ignore",
            BASELINE,
            codes,
            options.minutes,
            seed,
            options.baseline_rate,
        ]
        one_core = {**os.environ, "OMP_NUM_THREADS": "1"}
        baseline = subprocess.Popen(
            [str(word) for word in theirs], env=one_core, stdout=subprocess.PIPE, text=True
        )
        subprocess.run([str(word) for word in command], env=one_core, check=True)
        baselines.append([json.loads(line) for line in baseline.communicate()[0].splitlines()])
        ours.append(curve(options.home / "dalle" / name / "log.jsonl"))
        print(f"seed {seed}: {ours[-1][-1]}, baseline {baselines[-1][-1]}", flush=True)
    print("\n| | hold-out bits a code, each seed | median | steps |\n|---|---|---|---|")
    for who, curves in (("dallebaby", ours), ("DALLE-pytorch", baselines)):
        last = [points[-1]["bits_per_code"] for points in curves]
        steps = statistics.median(points[-1]["step"] for points in curves)
        each = " / ".join(f"{bits:.2f}" for bits in last)
        print(f"| {who} | {each} | {statistics.median(last):.2f} | {steps:,.0f} |")
    draw(options.home / "transformer-learning.png", ours, baselines)


def prepare(home: Path) -> Path:
    """Pictures, a dVAE and their codes, made if they are not there; the codes and captions as the
    baseline reads them: words counted from 1, 0 behind a caption's end."""
    images = ["prep", "scenes", "--name", PICTURES, "--px", "64", "--limit", "70000"]
    vae = ["train-vae", PICTURES, "--run", VAE, "--preset", "scenes"]
    for command in (images, vae, ["encode", PICTURES, "--vae", VAE]):
        subprocess.run([str(word) for word in (*dvae_runs.CHILD, home, *command)], check=True)
    source = [Tokens(home / "tokens" / TOKENS)]
    config: TrainConfig = load("train", preset="scenes")
    captions = [source[0].captions(int(row))[0] for row in source[0].rows("train")]
    tokenizer = TextTokenizer.train(captions, config.model.vocabulary)
    words = tokenizer.vocabulary
    arrays: dict[str, Any] = {}
    for split, prefix in (("train", ""), ("holdout", "held_")):
        part = Captioned(source, split, tokenizer, config.model.text_tokens)
        text, codes = (ids.numpy() for ids in part.read(np.arange(len(part)), (0,), 0.0))
        arrays |= {f"{prefix}text": np.where(text < words, text + 1, 0), f"{prefix}codes": codes}
    _, made = manifest.find(home, "vae", VAE)
    sizes = [words + 1, int(arrays["codes"].max()) + 1, *SHAPE.values()]
    path = home / f"codes-{made.id[:8]}.npz"
    np.savez(path, sizes=np.array(sizes), **arrays)
    return path


def curve(log: Path) -> list[dict[str, float]]:
    """Our points in time, from the run's first evaluation on."""
    events = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    scored = [event for event in events if event["event"] == "evaluation"]
    return [{**event, "seconds": event["time"] - scored[0]["time"]} for event in scored]


def draw(
    path: Path, ours: list[list[dict[str, float]]], baselines: list[list[dict[str, float]]]
) -> None:
    """Bits a code over time, a line a seed."""
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 3.4), layout="constrained")
    for who, curves, colour in (("dallebaby", ours, "C0"), ("DALLE-pytorch", baselines, "C1")):
        for number, points in enumerate(curves):
            minutes = [point["seconds"] / 60 for point in points]
            bits = [point["bits_per_code"] for point in points]
            label = who if number == 0 else None
            axes.plot(minutes, bits, color=colour, label=label, linewidth=1, marker=".")
    axes.set(xlabel="minutes", ylabel="hold-out bits a code")
    axes.legend()
    figure.savefig(path, dpi=100)


if __name__ == "__main__":
    main()
