"""What a run leaves behind to look at: the pictures as they came, and the curves of its log."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from dallebaby_cli import files
from dallebaby_cli.progress import Note, Report
from dallebaby_cli.store.pictures import write_gif, write_png
from dallebaby_cli.training import log_reader

MOST_FRAMES = 100


def keep_frame(folder: Path, step: int, picture: np.ndarray) -> None:
    """Store one frame (H, W, 3) of training.gif: a file each, so that a killed run loses none."""
    (folder / "frames").mkdir(exist_ok=True)
    write_png(folder / "frames" / f"{step:08}.png", picture)


def bind(folder: Path, report: Report) -> None:
    """Make training.gif and curves.png from what the run has kept so far. What cannot be made is
    told of: no picture is a reason to lose a run."""
    for name, make in (("training.gif", _animate), ("curves.png", _draw_curves)):
        try:
            make(folder, folder / name)
        except Exception as error:  # whatever the libraries make of damaged files and full disks
            report(Note(f"{folder / name} cannot be made ({error})", "warning"))


def _animate(folder: Path, out: Path) -> None:
    paths = sorted((folder / "frames").glob("*.png"))
    chosen = np.linspace(0, len(paths) - 1, min(len(paths), MOST_FRAMES)).round().astype(int)
    if frames := [*_whole(paths[index] for index in chosen)]:
        write_gif(out, frames)


def _whole(paths: Iterator[Path]) -> Iterator[Image.Image]:
    """Those frames that a power cut left whole."""
    for path in paths:
        try:
            with Image.open(path, formats=("PNG",)) as frame:
                yield frame.convert("RGB")
        except (OSError, SyntaxError, ValueError):
            continue


def _draw_curves(folder: Path, out: Path) -> None:
    """The loss, the learning rate and every hold-out figure over the steps."""
    from matplotlib.figure import Figure  # here, because it takes half a second

    found = log_reader.read(folder / "log.jsonl").curves
    found.pop("epochs", None)  # a straight line
    columns = 2
    rows = -(-len(found) // columns)
    figure = Figure(figsize=(9, 2.4 * rows), layout="constrained")
    for place, (name, points) in enumerate(found.items(), start=1):
        axes = figure.add_subplot(rows, columns, place)
        axes.plot(sorted(points), [points[step] for step in sorted(points)], linewidth=1)
        axes.set_title(name.replace("_", " "), fontsize="medium")
        axes.set_xlabel("step", fontsize="small")
        axes.grid(alpha=0.3)
    with files.atomic_path(out) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
