"""How the best learning rate moves with a model's width and with the batch: a grid of short runs of
the same steps, for the dVAE and for the transformer, on any folder of pictures.

    python benchmarks/rate_transfer.py PICTURES [HOME] [--px 32] [--steps 400] [--only GROUP ...]

Groups: dvae, transformer (three widths, five rates, Muon for hidden matrices as by default),
dvae-adamw, transformer-adamw (AdamW for all), dvae-batch, transformer-batch (three batches of one
width). Runs take a core each, side by side; a run that is there already is read, not repeated. The
figure of each is that of the hold-out pictures at its end; the best rate of a row is the lowest
point of a parabola through the three figures around its best, in log(rate). Prints the tables and
the slopes of log(best rate) over log(width) or log(batch), and draws HOME/rate-transfer.png.
"""

import argparse
import itertools
import json
import math
import os
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import dvae_runs
import matplotlib
import numpy as np


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
    "dvae": Group("dvae", "width", WIDTHS["dvae"], doubled(1.25e-3)),
    "transformer-adamw": Group("transformer", "width", WIDTHS["transformer"], doubled(5e-4), ADAMW),
    "dvae-adamw": Group("dvae", "width", WIDTHS["dvae"], doubled(5e-4), ADAMW),
    "transformer-batch": Group("transformer", "batch", (8, 32, 128), doubled(2e-3)),
    "dvae-batch": Group("dvae", "batch", (8, 32, 128), doubled(1.25e-3)),
}
FIGURE = {"dvae": "psnr", "transformer": "bits_per_code"}
BATCH = 32


@dataclass(frozen=True)
class Run:
    """One run of a group."""

    group: str
    value: int
    rate: float

    @property
    def name(self) -> str:
        return f"rate-{self.group}-{self.value}-{self.rate:g}".replace(".", "_")

    def command(self, home: Path, steps: int) -> list[str]:
        group = GROUPS[self.group]
        stage = ["train-vae", "photos"] if group.model == "dvae" else ["train", "photos@codes"]
        words = ["--home", str(home), *stage]
        words += ["--run", self.name, "--preset", "scenes", "--steps", str(steps)]
        settings = [f"optim.lr={self.rate}", f"eval_every={steps}", *group.settings]
        settings.append(f"batch_size={self.value if group.varied == 'batch' else BATCH}")
        if group.varied == "batch":
            settings += MIDDLE[group.model]
        elif group.model == "dvae":
            settings.append(f"model.width={self.value}")
        else:
            settings += [f"model.dim={self.value}", f"model.heads={self.value // 32}"]
        if group.model == "transformer":
            settings.append("compile=false")
        return words + [word for setting in settings for word in ("--set", setting)]

    def figure(self, home: Path, steps: int) -> float:
        """The hold-out figure at its end; lower is better. Infinite where training failed."""
        model = GROUPS[self.group].model
        log = home / ("vae" if model == "dvae" else "dalle") / self.name / "log.jsonl"
        if not log.exists() or not (log.parent / "manifest.json").exists():
            command = [*dvae_runs.CHILD[:2], *self.command(home, steps)]
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}
            subprocess.run(command, env=environment, capture_output=True)
        found = math.inf
        for line in log.read_text(encoding="utf-8").splitlines() if log.exists() else ():
            event = json.loads(line)
            if event["event"] == "evaluation" and event["step"] == steps:
                found = event[FIGURE[model]]
        found = -found if FIGURE[model] == "psnr" and math.isfinite(found) else found
        print(json.dumps({"run": self.name, FIGURE[model]: abs(found)}), flush=True)
        return found


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
    for axis, (name, rows) in itertools.zip_longest(axes.flat, found.items(), fillvalue=("", {})):
        if not rows:
            axis.axis("off")
            continue
        group = GROUPS[name]
        for value, figures in rows.items():
            shown = [abs(f) if math.isfinite(f) else math.nan for f in figures]
            axis.plot(group.rates, shown, "o-", label=f"{group.varied} {value}")
        axis.set(xscale="log", title=name, xlabel="learning rate", ylabel=FIGURE[group.model])
        axis.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=90)


def prepare(home: Path, pictures: Path, px: int) -> None:
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
    options = parser.parse_args()
    prepare(options.home, options.pictures, options.px)
    found: dict[str, dict[int, list[float]]] = {}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for name in options.only:
            group = GROUPS[name]
            runs = [Run(name, v, rate) for v in group.values for rate in group.rates]
            figures = list(pool.map(lambda run: run.figure(options.home, options.steps), runs))
            width = len(group.rates)
            rows = (figures[start : start + width] for start in range(0, len(figures), width))
            found[name] = dict(zip(group.values, rows, strict=True))
            print("\n".join(tables({name: found[name]})), flush=True)
    draw(found, options.home / "rate-transfer.png")


if __name__ == "__main__":
    main()
