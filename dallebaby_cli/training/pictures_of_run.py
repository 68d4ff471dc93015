"""What a run leaves behind to look at: the pictures as they came, and the curves of its log."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dallebaby_cli import files
from dallebaby_cli.progress import Note, Report
from dallebaby_cli.store.pictures import write_gif, write_png

MOST_FRAMES = 100
MOST_CURVES = 40
MOST = 10**15  # that a step or a figure can be


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
    """The loss and every hold-out figure over the steps. A step that a killed run took twice
    counts once."""
    from matplotlib.figure import Figure  # here, because it takes half a second

    found = curves(folder / "log.jsonl")
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


def curves(log: Path) -> dict[str, dict[int, float]]:
    """Figure → step → value of what log.jsonl tells, the loss first. Raises FileNotFoundError, or
    BadInput if it is no file."""
    found: dict[str, dict[int, float]] = {"loss": {}}
    for event in _events(log):
        told, step = event.get("event"), event.get("step")
        if told not in ("step", "evaluation") or type(step) is not int or not 0 <= step < MOST:
            continue
        names = ["loss"] if told == "step" else [n for n in event if n not in ("step", "time")]
        for name in names:
            value: Any = event.get(name)
            known = name in found or len(found) < MOST_CURVES
            if known and type(value) in (int, float) and not abs(value) >= MOST:  # NaN is drawn
                found.setdefault(name, {})[step] = value
    return found


def _events(log: Path) -> Iterator[dict[str, Any]]:
    """The lines of a log, but for those that a power cut filled with zeros or cut in two."""
    for line in files.read_lines(log):
        with suppress(ValueError):
            event = files.parse_json(line.lstrip(b"\0"))
            if isinstance(event, dict):
                yield event
