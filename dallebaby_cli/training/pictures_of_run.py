"""What a run leaves behind to look at: the pictures as they came, and the curves of its log."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from dallebaby_cli import files
from dallebaby_cli.store.pictures import write_gif, write_png

MOST_FRAMES = 100


def keep_frame(folder: Path, step: int, picture: np.ndarray) -> None:
    """Store one frame (H, W, 3) of training.gif: a file each, so that a killed run loses none."""
    (folder / "frames").mkdir(exist_ok=True)
    write_png(folder / "frames" / f"{step:08}.png", picture)


def bind(folder: Path) -> None:
    """Make training.gif and curves.png from what the run has kept so far."""
    _animate(sorted((folder / "frames").glob("*.png")), folder / "training.gif")
    _draw_curves(folder / "log.jsonl", folder / "curves.png")


def _animate(paths: list[Path], out: Path) -> None:
    chosen = np.linspace(0, len(paths) - 1, min(len(paths), MOST_FRAMES)).round().astype(int)
    frames = []
    for index in chosen:
        with Image.open(paths[index], formats=("PNG",)) as frame:
            frames.append(frame.convert("RGB"))
    write_gif(out, frames)


def _draw_curves(log: Path, out: Path) -> None:
    """The loss and every hold-out figure over the steps. A step that a killed run took twice
    counts once."""
    from matplotlib.figure import Figure  # here, because it takes half a second

    curves: dict[str, dict[int, float]] = {"loss": {}}
    for event in map(json.loads, log.read_text(encoding="utf-8").splitlines()):
        if event["event"] == "step":
            curves["loss"][event["step"]] = event["loss"]
        elif event["event"] == "evaluation":
            for name in [n for n in event if n not in ("event", "step", "time")]:
                curves.setdefault(name, {})[event["step"]] = event[name]
    columns = 2
    rows = -(-len(curves) // columns)
    figure = Figure(figsize=(9, 2.4 * rows), layout="constrained")
    for place, (name, points) in enumerate(curves.items(), start=1):
        axes = figure.add_subplot(rows, columns, place)
        axes.plot(*zip(*sorted(points.items()), strict=True), linewidth=1)
        axes.set_title(name.replace("_", " "), fontsize="medium")
        axes.set_xlabel("step", fontsize="small")
        axes.grid(alpha=0.3)
    with files.atomic_path(out) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
