"""How the best learning rate moves with a model's width and with the batch: a grid of short runs of
the same steps, for the dVAE and for the transformer, on any folder of pictures.

    python benchmarks/rate_transfer.py PICTURES [HOME] [--px 32] [--steps 400] [--only GROUP ...]

Groups: dvae, transformer (three widths, five rates, Muon for hidden matrices as by default),
dvae-adamw, transformer-adamw (AdamW for all), dvae-batch, transformer-batch (three batches of one
width). Runs take a core each, side by side, and HOME/rate-transfer.jsonl keeps their figures, so
that none is repeated. The figure is that of 1,024 hold-out pictures at the end; the best rate of a
row is the lowest point of a parabola through the three figures around its best, in log(rate).
Prints the tables and the slopes of log(best rate) over log(width) or log(batch), and draws
HOME/rate-transfer.png.
"""

import argparse
import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import dvae_runs
import matplotlib
import numpy as np
import torch

from dallebaby_cli.config.settings import load
from dallebaby_cli.stages import train, train_vae
from dallebaby_cli.training import optim
from dallebaby_cli.training.batches import prefetch
from dallebaby_cli.training.loop import judged, take_step
from dallebaby_cli.training.state import State


@dataclass(frozen=True)
class Group:
    """Rows of runs that differ in one thing, each at several rates."""

    model: str
    varied: str
    values: tuple[int, ...]
    rates: tuple[float, ...]
    settings: tuple[str, ...] = ()


def doubled(lowest: float) -> tuple[float, ...]:
    return tuple(lowest * 2**n for n in range(5))


WIDTHS = {"dvae": (16, 32, 64), "transformer": (64, 128, 256)}
MIDDLE = {"dvae": ("model.width=32",), "transformer": ("model.dim=128", "model.heads=4")}
ADAMW = ("optim.muon=false",)
GROUPS = {
    "transformer": Group("transformer", "width", WIDTHS["transformer"], doubled(2e-3)),
    "dvae": Group("dvae", "width", WIDTHS["dvae"], doubled(2.5e-3)),
    "transformer-adamw": Group("transformer", "width", WIDTHS["transformer"], doubled(5e-4), ADAMW),
    "dvae-adamw": Group("dvae", "width", WIDTHS["dvae"], doubled(5e-4), ADAMW),
    "transformer-batch": Group("transformer", "batch", (8, 32, 64), doubled(2e-3)),
    "dvae-batch": Group("dvae", "batch", (8, 32, 64), doubled(2.5e-3)),
}
FIGURE = {"dvae": "psnr", "transformer": "bits_per_code"}
BATCH, SCORED = 32, 1024


@dataclass(frozen=True)
class Run:
    """One run of a group."""

    group: str
    value: int
    rate: float
    seed: int = 0

    @property
    def name(self) -> str:
        return f"{self.group}-{self.value}-{self.rate:g}-{self.seed}"

    def settings(self, steps: int) -> list[str]:
        group = GROUPS[self.group]
        batch = self.value if group.varied == "batch" else BATCH
        said = [f"optim.lr={self.rate}", f"steps={steps}", f"batch_size={batch}"]
        said += [f"seed={self.seed}", *group.settings]
        if group.varied == "batch":
            return [*said, *MIDDLE[group.model]]
        if group.model == "dvae":
            return [*said, f"model.width={self.value}"]
        return [*said, f"model.dim={self.value}", f"model.heads={self.value // 32}"]


def figure(run: Run, home: Path, steps: int) -> float:
    """The hold-out figure of the averaged weights at a run's end; lower is better."""
    torch.set_num_threads(1)
    model, cpu = GROUPS[run.group].model, torch.device("cpu")
    stage, data = ("train-vae", "photos") if model == "dvae" else ("train", "photos@codes")
    config = load(stage, preset="scenes", settings=run.settings(steps))
    prepare = train_vae.prepare if model == "dvae" else train.prepare
    torch.manual_seed(config.seed)
    task: Any
    task, *_ = prepare(home, config, [data], device=cpu, report=lambda event: None)
    state = State.fresh(task.parts(), config, cpu)
    state.model.train()
    for step, batch in enumerate(prefetch(task.batch, 0, steps)):
        rate = optim.learning_rate(step, steps, config.optim)
        take_step(task, state, batch, rate, step / steps)
        state.step += 1
    found = judged(state, lambda model: task.evaluate(model, task.holdout, SCORED))
    assert found is not None, "this is the first rank"
    value = found[FIGURE[model]]
    return (-value if FIGURE[model] == "psnr" else value) if math.isfinite(value) else math.inf


def figures(runs: list[Run], home: Path, steps: int, log: Path, cores: int) -> Iterator[float]:
    """Of all runs, a core each; what the log knows is not computed again."""
    known: dict[str, float] = {}
    if log.exists():
        rows = map(json.loads, log.read_text(encoding="utf-8").splitlines())
        known = {row["run"]: row["figure"] for row in rows if row["steps"] == steps}
    with ProcessPoolExecutor(cores, get_context("spawn")) as pool:
        coming = {
            run: pool.submit(figure, run, home, steps) for run in runs if run.name not in known
        }
        for run in runs:
            value = known[run.name] if run.name in known else coming[run].result()
            if run in coming:
                row = {"run": run.name, "steps": steps, "figure": value}
                with log.open("a", encoding="utf-8") as out:
                    out.write(json.dumps(row) + "\n")
            print(run.name, f"{abs(value):.3f}", file=sys.stderr, flush=True)
            yield value


def best(rates: tuple[float, ...], figures: list[float]) -> float:
    """The rate where a parabola in log(rate) through the best figure and its neighbours is lowest;
    the best one itself at an end, where nobody knows what comes after it."""
    n = int(np.argmin(figures))
    if n in (0, len(rates) - 1) or not np.isfinite(figures[n - 1 : n + 2]).all():
        return rates[n]
    left, middle, right = figures[n - 1 : n + 2]
    shift = (left - right) / (2 * (left - 2 * middle + right))
    return float(rates[n] * (rates[1] / rates[0]) ** shift)


def tables(found: dict[str, dict[int, list[float]]]) -> Iterator[str]:
    for name, rows in found.items():
        group = GROUPS[name]
        yield f"\n{name}: hold-out {FIGURE[group.model]} by rate\n"
        yield f"| {group.varied} | " + " | ".join(f"{r:g}" for r in group.rates) + " | best rate |"
        yield "|---" * (len(group.rates) + 2) + "|"
        bests = {value: best(group.rates, figures) for value, figures in rows.items()}
        for value, figures in rows.items():
            cells = (f"{abs(figure):.3f}" for figure in figures)
            yield f"| {value} | {' | '.join(cells)} | {bests[value]:.2g} |"
        slope = np.polyfit(np.log([*bests]), np.log([*bests.values()]), 1)[0]
        yield f"\nbest rate ~ {group.varied}^{slope:.2f}"


def draw(found: dict[str, dict[int, list[float]]], path: Path) -> None:
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(
        *(-(-len(found) // 2), 2), figsize=(10, 3.2 * -(-len(found) // 2)), squeeze=False
    )
    for axis in axes.flat[len(found) :]:
        axis.axis("off")
    for axis, (name, rows) in zip(axes.flat, found.items(), strict=False):
        group = GROUPS[name]
        for value, figures in rows.items():
            shown = [abs(f) if math.isfinite(f) else math.nan for f in figures]
            axis.plot(group.rates, shown, "o-", label=f"{group.varied} {value}")
        axis.set(xscale="log", title=name, xlabel="learning rate", ylabel=FIGURE[group.model])
        axis.minorticks_off()
        axis.set_xticks(group.rates, [f"{rate:g}" for rate in group.rates])
        axis.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=90)


def prepare_data(home: Path, pictures: Path, px: int) -> None:
    """Pictures and, for the transformer, their codes; what is there already stays."""
    dvae_runs.prepare(home, "photos", str(pictures), px)
    tool = [*dvae_runs.CHILD, str(home)]
    settings = ["--set", "batch_size=32", "--set", "eval_every=600"]
    one = ["train-vae", "photos", "--run", "codes", "--preset", "scenes", "--steps", "1200"]
    subprocess.run([*tool, *one, *settings], check=True)
    subprocess.run([*tool, "encode", "photos", "--vae", "codes"], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("pictures", type=Path)
    parser.add_argument("home", nargs="?", type=Path, default=Path("experiments"))
    parser.add_argument("--px", type=int, default=32)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--only", nargs="+", choices=GROUPS, default=list(GROUPS))
    parser.add_argument("--cores", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    prepare_data(options.home, options.pictures, options.px)
    found: dict[str, dict[int, list[float]]] = {}
    log = options.home / "rate-transfer.jsonl"
    for name in options.only:
        group = GROUPS[name]
        runs = [Run(name, value, rate) for value in group.values for rate in group.rates]
        all_of_it = [*figures(runs, options.home, options.steps, log, options.cores)]
        rows = zip(*[iter(all_of_it)] * len(group.rates), strict=True)
        found[name] = {value: [*row] for value, row in zip(group.values, rows, strict=True)}
        print("\n".join(tables({name: found[name]})), flush=True)
    draw(found, options.home / "rate-transfer.png")


if __name__ == "__main__":
    main()
